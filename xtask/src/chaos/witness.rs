//! The well-behaved clients beside a fault: what they notice of it.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, anyhow};

use crate::chaos::client::{Client, hang_up};
use crate::chaos::wire::{self, Event};

/// What a witness does from one end of its connection to the other, again and again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Errand {
    /// A text there and back, on a connection that stays.
    Echo,
    /// A ping and its pong, on a connection that stays.
    Ping,
    /// A new connection, a text there and back, and the end. The time is that until the 101.
    Arrive,
}

/// Clients that go on with their errand until told to stop.
#[derive(Debug)]
pub(crate) struct Witnesses {
    stop: Arc<AtomicBool>,
    samples: Arc<Mutex<Vec<(Instant, Duration)>>>,
    threads: Vec<JoinHandle<Result<()>>>,
}

impl Witnesses {
    /// Starts `count` of them, each of which rests `pause` after each errand.
    pub(crate) fn start(
        address: SocketAddr,
        count: usize,
        errand: Errand,
        pause: Duration,
    ) -> Result<Self> {
        let stop = Arc::new(AtomicBool::new(false));
        let samples = Arc::new(Mutex::new(Vec::new()));
        let mut threads = Vec::new();
        for index in 0..count {
            let (stop, samples) = (Arc::clone(&stop), Arc::clone(&samples));
            let client = match errand {
                Errand::Echo | Errand::Ping => Some(Client::connect(address)?),
                Errand::Arrive => None,
            };
            threads.push(thread::spawn(move || {
                let record = |start, took| {
                    let mut samples = samples.lock().expect("no thread panics with it");
                    samples.push((start, took));
                };
                match client {
                    Some(client) if errand == Errand::Ping => ping(client, &stop, pause, record),
                    Some(client) => echo(client, index, &stop, pause, record),
                    None => arrive(address, &stop, pause, record),
                }
            }));
        }
        Ok(Self {
            stop,
            samples,
            threads,
        })
    }

    /// What the errands took that were begun within `act`.
    pub(crate) fn during<T>(&self, act: impl FnOnce() -> Result<T>) -> Result<(T, Vec<Duration>)> {
        let start = Instant::now();
        let done = act()?;
        let end = Instant::now();
        let samples = self.samples.lock().expect("no thread panics with it");
        let within = samples.iter().filter(|it| it.0 >= start && it.0 < end);
        Ok((done, within.map(|it| it.1).collect()))
    }

    /// What the errands take over `span`.
    pub(crate) fn over(&self, span: Duration) -> Result<Vec<Duration>> {
        let ((), samples) = self.during(|| {
            thread::sleep(span);
            Ok(())
        })?;
        Ok(samples)
    }

    /// Ends them.
    ///
    /// # Errors
    ///
    /// What went wrong for one of them, at any time.
    pub(crate) fn stop(self) -> Result<()> {
        self.stop.store(true, Ordering::Relaxed);
        for thread in self.threads {
            let outcome = thread.join().map_err(|_| anyhow!("a witness panicked"))?;
            outcome.context("a well-behaved client")?;
        }
        Ok(())
    }
}

fn echo(
    mut client: Client,
    index: usize,
    stop: &AtomicBool,
    pause: Duration,
    record: impl Fn(Instant, Duration),
) -> Result<()> {
    let mut turn = 0_u64;
    while !stop.load(Ordering::Relaxed) {
        let text = format!("witness {index}, turn {turn:>40}");
        let start = Instant::now();
        client.send(wire::TEXT, text.as_bytes())?;
        // What is pushed to everybody comes to it too.
        loop {
            match client.receive()? {
                Some(Event::Message(payload)) if payload == text.as_bytes() => break,
                Some(Event::Message(payload)) if payload.starts_with(b"witness") => {
                    return Err(anyhow!("the reply to another message"));
                }
                Some(Event::Message(_) | Event::Pong(_)) => {}
                other => return Err(anyhow!("{other:?} instead of an echo")),
            }
        }
        record(start, start.elapsed());
        turn += 1;
        thread::sleep(pause);
    }
    // Pushes may still be on their way, so no closing handshake is looked at to the byte.
    hang_up(&client.into_parts().0)?;
    Ok(())
}

fn ping(
    mut client: Client,
    stop: &AtomicBool,
    pause: Duration,
    record: impl Fn(Instant, Duration),
) -> Result<()> {
    for turn in 0_u64.. {
        if stop.load(Ordering::Relaxed) {
            break;
        }
        let start = Instant::now();
        client.send(wire::PING, &turn.to_be_bytes())?;
        match client.receive()? {
            Some(Event::Pong(payload)) if payload == turn.to_be_bytes() => {}
            other => return Err(anyhow!("{other:?} instead of a pong")),
        }
        record(start, start.elapsed());
        thread::sleep(pause);
    }
    client.close()
}

fn arrive(
    address: SocketAddr,
    stop: &AtomicBool,
    pause: Duration,
    record: impl Fn(Instant, Duration),
) -> Result<()> {
    while !stop.load(Ordering::Relaxed) {
        let start = Instant::now();
        let mut client = Client::connect(address)?;
        record(start, start.elapsed());
        client.echo("here")?;
        client.close()?;
        thread::sleep(pause);
    }
    Ok(())
}

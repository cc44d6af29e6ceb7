//! System calls that fail.

use std::io::ErrorKind;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Result, anyhow, ensure};

use super::PAUSE;
use crate::NotHere;
use crate::chaos::Context;
use crate::chaos::client::{Client, Outcome, PATIENCE};
use crate::chaos::crowd::text_of;
use crate::chaos::figures::{Percentiles, Report, millis};
use crate::chaos::net::{self, Network};
use crate::chaos::status;
use crate::chaos::strace::Strace;
use crate::chaos::subject::Subject;
use crate::chaos::wire::{self, Dice, Event};
use crate::chaos::witness::{Errand, Witnesses};
use crate::server::Launch;

/// After so long without an answer a client sends a ping. An injected EAGAIN is a lie: the socket
/// was writable and so no event says that it is again; a packet from the client is one.
const NUDGE: Duration = Duration::from_millis(100);
/// So many nudges without any progress, and the connection is stuck.
const MAX_NUDGES: u32 = 50;

/// Connections that wait to be accepted while it fails.
const WAITING: usize = 16;

pub(super) fn accept_errors(context: &Context, report: &mut Report) -> Result<()> {
    let subject = Subject::echo(&context.ws)?;
    let span = context.size(Duration::from_secs(1), Duration::from_secs(5));
    let witnesses = Witnesses::start(subject.address(), 4, Errand::Echo, PAUSE)?;
    let strace = Strace::attach(subject.id(), "accept4", None)?;
    let before = witnesses.over(span)?;
    strace.detach()?;
    // An error that says nothing of the connection comes each time, one that ends a connection or
    // an attempt every second time: no kernel reports it of the same connection for ever.
    for (error, when) in [
        ("EMFILE", "1+"),
        ("ENFILE", "1+"),
        ("ECONNABORTED", "1+2"),
        ("EINTR", "1+2"),
    ] {
        let inject = format!("inject=accept4:error={error}:when={when}");
        let strace = Strace::attach(subject.id(), "accept4", Some(&inject))?;
        let arrivals: Vec<_> = (0..WAITING).map(|_| arrive(&subject)).collect();
        let (during, cpu) = subject.cpu_while(|| witnesses.over(span))?;
        let start = Instant::now();
        let injected = strace.detach()?;
        let resumed = last_of(arrivals, start)?;
        report.at_least(format!("{error}: injected"), injected as f64, "", 1.0);
        if when == "1+" {
            // The well-behaved clients are part of it.
            report.at_most(format!("{error}: CPU"), cpu, "%", 50.0);
            let attempts = injected as f64 / span.as_secs_f64();
            report.at_most(format!("{error}: attempts"), attempts, "/s", 100.0);
        }
        let name = format!("{error}: all accepted after");
        report.at_most(name, millis(resumed), "ms", 200.0);
        report.unaffected(&format!("{error}: echo"), &before, &during);
    }
    witnesses.stop()?;
    subject.finish(report)
}

/// A client that wants to be accepted; gives the time at which it was.
fn arrive(subject: &Subject) -> thread::JoinHandle<Result<Instant>> {
    let address = subject.address();
    thread::spawn(move || {
        let client = Client::connect(address)?;
        let at = Instant::now();
        client.close()?;
        Ok(at)
    })
}

/// How long after `start` the last of them was accepted.
fn last_of(arrivals: Vec<thread::JoinHandle<Result<Instant>>>, start: Instant) -> Result<Duration> {
    let mut last = Duration::ZERO;
    for arrival in arrivals {
        let at = arrival.join().map_err(|_| anyhow!("a client panicked"))??;
        last = last.max(at.saturating_duration_since(start));
    }
    Ok(last)
}

pub(super) fn write_errors(context: &Context, report: &mut Report) -> Result<()> {
    let span = context.size(Duration::from_secs(2), Duration::from_secs(15));
    let variables = [("WS__COMPRESSION__ENABLED", "true")];
    let launch = Launch {
        arguments: &["--echo"],
        variables: &variables,
        ..Launch::default()
    };
    let subject = Subject::launch(&context.ws, &launch)?;
    for (error, every) in [("EAGAIN", 3), ("ECONNRESET", 50), ("EPIPE", 50)] {
        let calls = "sendto,sendmsg,writev";
        // Status and pushes use the same calls, and whoever asks for them tries again.
        let inject = format!("inject={calls}:error={error}:when=1+{every}");
        let fault = || Strace::attach(subject.id(), calls, Some(&inject)).map(Some);
        let (found, injected) = strain(&subject, span, context.size(2, 8), fault)?;
        report.at_least(format!("{error}: injected"), injected as f64, "", 1.0);
        found.show(error, error != "EAGAIN", report);
    }
    subject.finish(report)?;

    // Buffers of some pages: the kernel takes a part of nearly every write, and then nothing.
    let network = match Network::new() {
        Ok(network) => network,
        Err(error) if error.is::<NotHere>() => {
            report.leave_out(format!("short writes: {error}"));
            return Ok(());
        }
        Err(error) => return Err(error),
    };
    network.within(|| {
        net::shrink_send_buffers()?;
        let subject = Subject::launch(&context.ws, &launch)?;
        let (found, _) = strain(&subject, span, context.size(2, 8), || Ok(None))?;
        found.show("short", false, report);
        report.at_least(
            "short: compressed connections",
            subject.status()?.get_u64("compression.connections")? as f64,
            "",
            1.0,
        );
        subject.finish(report)
    })
}

pub(super) fn read_errors(context: &Context, report: &mut Report) -> Result<()> {
    let span = context.size(Duration::from_secs(2), Duration::from_secs(15));
    let subject = Subject::echo(&context.ws)?;
    for (what, calls, error, every) in [
        ("read EINTR", "read,recvfrom,recvmsg,readv", "EINTR", 3),
        ("read EIO", "read,recvfrom,recvmsg,readv", "EIO", 50),
        ("epoll EINTR", "epoll_wait,epoll_pwait", "EINTR", 2),
    ] {
        let inject = format!("inject={calls}:error={error}:when=1+{every}");
        let fault = || Strace::attach(subject.id(), calls, Some(&inject)).map(Some);
        let (found, injected) = strain(&subject, span, context.size(2, 8), fault)?;
        report.at_least(format!("{what}: injected"), injected as f64, "", 1.0);
        found.show(what, error == "EIO", report);
    }
    subject.finish(report)
}

/// What clients found under strain.
#[derive(Debug, Default)]
struct Found {
    echoes: usize,
    pushes: usize,
    /// Connections that ended without a closing handshake.
    ended: usize,
    /// Connections that did not take the pushes as fast as they came, and were told so.
    slow: usize,
    nudges: u32,
    torn: Vec<String>,
    delays: Vec<Duration>,
}

impl Found {
    fn show(&self, what: &str, may_end: bool, report: &mut Report) {
        report.at_least(format!("{what}: echoes"), self.echoes as f64, "", 10.0);
        report.at_least(format!("{what}: pushes"), self.pushes as f64, "", 1.0);
        report.exactly(format!("{what}: torn"), self.torn.len() as f64, "", 0.0);
        for torn in self.torn.iter().take(3) {
            println!("  {what}: {torn}");
        }
        match may_end {
            true => report.note(format!("{what}: connections ended"), self.ended as f64, ""),
            false => report.exactly(
                format!("{what}: connections ended"),
                self.ended as f64,
                "",
                0.0,
            ),
        }
        // Not a fault: on a busy machine the clients themselves fall behind.
        report.note(format!("{what}: closed with 1013"), self.slow as f64, "");
        report.note(format!("{what}: nudges"), f64::from(self.nudges), "");
        let delays = Percentiles::of(&self.delays);
        report.note(format!("{what}: echo p99"), millis(delays.p99), "ms");
    }

    fn add(&mut self, other: Self) {
        self.echoes += other.echoes;
        self.pushes += other.pushes;
        self.ended += other.ended;
        self.slow += other.slow;
        self.nudges += other.nudges;
        self.torn.extend(other.torn);
        self.delays.extend(other.delays);
    }
}

/// Echoes of all sizes, plain and compressed, and broadcasts between them, for `span`. Connections
/// that end are made anew. The fault begins when the first ones are open. Gives also how many calls
/// failed because of it.
fn strain(
    subject: &Subject,
    span: Duration,
    clients: usize,
    fault: impl FnOnce() -> Result<Option<Strace>>,
) -> Result<(Found, usize)> {
    let address = subject.address();
    let control = subject.control();
    let first: Vec<_> = (0..2 * clients)
        .map(|index| Client::request(address, index % 2 == 1))
        .collect::<Result<_>>()?;
    let strace = fault()?;
    let end = Instant::now() + span;
    let mut found = Found::default();
    thread::scope(|scope| {
        let publisher = scope.spawn(move || {
            let mut number = 0;
            while Instant::now() < end {
                let size = 10 + usize::try_from(number % 40).unwrap_or_default() * 997;
                // The fault may hit the control socket.
                if status::broadcast(&control, &text_of(number, size), NUDGE).is_ok() {
                    number += 1;
                }
                thread::sleep(PAUSE);
            }
        });
        let clients: Vec<_> = (0_u64..)
            .zip(first)
            .map(|(index, first)| {
                scope.spawn(move || {
                    let mut found = Found::default();
                    let mut dice = Dice::new(index);
                    let mut first = Some(first);
                    while Instant::now() < end {
                        let next = first
                            .take()
                            .map_or_else(|| Client::request(address, index % 2 == 1), Ok);
                        let outcome = match next {
                            Ok(Outcome::Open(client)) => {
                                echo_until(*client, end, &mut dice, &mut found)
                            }
                            Ok(Outcome::Refused(status)) => Err(anyhow!("refused with {status}")),
                            // The fault may hit the handshake.
                            Err(_) => Ok(End::Lost),
                        };
                        match outcome {
                            Ok(End::Time) => {}
                            Ok(End::Lost) => found.ended += 1,
                            Ok(End::Slow) => found.slow += 1,
                            Err(error) => found.torn.push(format!("{error:#}")),
                        }
                    }
                    found
                })
            })
            .collect();
        for client in clients {
            found.add(client.join().map_err(|_| anyhow!("a client panicked"))?);
        }
        publisher
            .join()
            .map_err(|_| anyhow!("the publisher panicked"))
    })?;
    let injected = strace.map_or(Ok(0), Strace::detach)?;
    Ok((found, injected))
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum End {
    /// The time was up, and the connection in order.
    Time,
    /// The stream ended.
    Lost,
    /// More pushes waited for it than `limits.send_queue_size`.
    Slow,
}

/// Echoes one text after the other.
///
/// # Errors
///
/// What the server should never have sent, or that it sends nothing any more.
fn echo_until(mut client: Client, end: Instant, dice: &mut Dice, found: &mut Found) -> Result<End> {
    client.set_patience(NUDGE)?;
    while Instant::now() < end {
        let size = match dice.below(8) {
            0 => 70_000 + dice.below(60_000),
            1..=2 => dice.below(20_000),
            _ => dice.below(200),
        };
        // Letters that compress, but not to nothing, and never look like a push.
        let text: String = (0..size)
            .map(|_| char::from(b'A' + (dice.below(26) & dice.next()) as u8))
            .collect();
        let start = Instant::now();
        if client.send(wire::TEXT, text.as_bytes()).is_err() {
            return Ok(End::Lost);
        }
        let mut nudges = 0;
        loop {
            match client.receive() {
                Ok(Some(Event::Message(payload))) if payload == text.as_bytes() => break,
                Ok(Some(Event::Message(payload))) => {
                    let is_push =
                        payload.len() >= 10 && payload[..10].iter().all(u8::is_ascii_digit);
                    ensure!(is_push, "neither the echo nor a push");
                    let number = std::str::from_utf8(&payload[..10])?.parse()?;
                    ensure!(
                        payload == text_of(number, payload.len()).as_bytes(),
                        "a garbled push"
                    );
                    found.pushes += 1;
                    nudges = 0;
                }
                Ok(Some(Event::Pong(_))) => {}
                Ok(Some(Event::Close(Some(1013)))) => return Ok(End::Slow),
                Ok(Some(other)) => return Err(anyhow!("{other:?} instead of an echo")),
                Ok(None) => return Ok(End::Lost),
                Err(error) => match error.downcast_ref::<std::io::Error>().map(|it| it.kind()) {
                    Some(ErrorKind::WouldBlock) => {
                        ensure!(
                            nudges < MAX_NUDGES,
                            "it is stuck, with nothing sent for long"
                        );
                        nudges += 1;
                        found.nudges += 1;
                        if client.send(wire::PING, b"").is_err() {
                            return Ok(End::Lost);
                        }
                    }
                    Some(_) => return Ok(End::Lost),
                    None => return Err(error),
                },
            }
        }
        found.echoes += 1;
        found.delays.push(start.elapsed());
    }
    // Pushes may still come, so the end of the stream is what is waited for.
    client.set_patience(PATIENCE)?;
    match client.hang_up() {
        Ok(()) => Ok(End::Time),
        Err(_) => Ok(End::Lost),
    }
}

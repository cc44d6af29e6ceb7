//! A TCP link that treats bytes badly: it delays them, cuts them up, gathers them, or ends.

use std::io::{Read as _, Write as _};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, mpsc};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use anyhow::{Result, anyhow};

use crate::chaos::client::reset;
use crate::chaos::wire::Dice;

/// What a link does to the bytes of each direction. No byte overtakes another.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Plan {
    /// Each piece is on its way for this long,
    pub(crate) delay: Duration,
    /// and up to so much longer or shorter.
    pub(crate) jitter: Duration,
    /// The size of a segment; 0 leaves them as they come.
    pub(crate) segment: usize,
    /// After each of them nothing is sent for so long.
    pub(crate) rest: Duration,
    /// What comes within this time leaves in one write.
    pub(crate) gather: Duration,
    /// The end, once so many bytes have come from the client.
    pub(crate) cut: Option<Cut>,
}

/// How a link ends.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Cut {
    pub(crate) after: usize,
    /// By RST instead of FIN.
    pub(crate) is_reset: bool,
}

impl Plan {
    /// When bytes that come `at` leave, if those before them leave at `last`.
    fn due(&self, at: Duration, last: Duration, dice: &mut Dice) -> Duration {
        let span = u64::try_from(2 * self.jitter.as_micros()).unwrap_or(u64::MAX);
        let luck = Duration::from_micros(dice.below(span + 1));
        let due = (at + self.delay + luck).saturating_sub(self.jitter);
        let due = match self.gather.as_micros() {
            0 => due,
            gather => {
                let rounds = due.as_micros().div_ceil(gather);
                Duration::from_micros(u64::try_from(rounds * gather).unwrap_or(u64::MAX))
            }
        };
        due.max(last).max(at)
    }

    /// In how many bytes to write, at most.
    fn segment_size(&self) -> usize {
        match self.segment {
            0 => usize::MAX,
            size => size,
        }
    }
}

/// A listener whose connections go on to another address, over a bad link.
#[derive(Debug)]
pub(crate) struct Link {
    address: SocketAddr,
    stop: Arc<AtomicBool>,
    carried: Arc<AtomicUsize>,
    thread: JoinHandle<()>,
}

impl Link {
    pub(crate) fn open(to: SocketAddr, plan: Plan) -> Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0")?;
        let address = listener.local_addr()?;
        let stop = Arc::new(AtomicBool::new(false));
        let carried = Arc::new(AtomicUsize::new(0));
        let (stopping, carrying) = (Arc::clone(&stop), Arc::clone(&carried));
        let thread = thread::spawn(move || {
            let mut seed = 0;
            while let Ok((client, _)) = listener.accept() {
                if stopping.load(Ordering::Relaxed) {
                    return;
                }
                seed += 2;
                // A connection that cannot go on ends; its client sees that.
                let _ = join(client, to, plan, seed, &carrying);
            }
        });
        Ok(Self {
            address,
            stop,
            carried,
            thread,
        })
    }

    /// Bytes that have come from clients.
    pub(crate) fn carried(&self) -> usize {
        self.carried.load(Ordering::Relaxed)
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    /// Accepts no more; the connections that there are go on to their own ends.
    pub(crate) fn close(self) -> Result<()> {
        self.stop.store(true, Ordering::Relaxed);
        drop(TcpStream::connect(self.address)?);
        self.thread.join().map_err(|_| anyhow!("the link panicked"))
    }
}

fn join(
    client: TcpStream,
    to: SocketAddr,
    plan: Plan,
    seed: u64,
    carried: &Arc<AtomicUsize>,
) -> Result<()> {
    let server = TcpStream::connect(to)?;
    client.set_nodelay(true)?;
    server.set_nodelay(true)?;
    let back = Plan { cut: None, ..plan };
    let (up, down) = (Arc::clone(carried), Arc::default());
    carry(client.try_clone()?, server.try_clone()?, plan, seed, up);
    carry(server, client, back, seed + 1, down);
    Ok(())
}

/// Bytes and when they are to leave.
type Freight = (Instant, Vec<u8>);

/// Starts the two threads of one direction.
fn carry(mut from: TcpStream, to: TcpStream, plan: Plan, seed: u64, carried: Arc<AtomicUsize>) {
    let (sender, receiver) = mpsc::channel();
    thread::spawn(move || {
        let start = Instant::now();
        let mut last = Duration::ZERO;
        let mut dice = Dice::new(seed);
        let mut buffer = vec![0; 64 << 10];
        let mut left = plan.cut.map_or(usize::MAX, |cut| cut.after);
        while left > 0 {
            let count = match from.read(&mut buffer) {
                Ok(0) | Err(_) => break,
                Ok(count) => count.min(left),
            };
            left -= count;
            carried.fetch_add(count, Ordering::Relaxed);
            last = plan.due(start.elapsed(), last, &mut dice);
            let freight: Freight = (start + last, buffer[..count].to_vec());
            if sender.send(freight).is_err() {
                return;
            }
        }
    });
    thread::spawn(move || deliver(&receiver, to, plan));
}

fn deliver(freights: &mpsc::Receiver<Freight>, mut to: TcpStream, plan: Plan) {
    let mut next = freights.recv().ok();
    while let Some((due, mut bytes)) = next.take() {
        thread::sleep(due.saturating_duration_since(Instant::now()));
        loop {
            match freights.try_recv() {
                Ok((again, more)) if again == due => bytes.extend(more),
                Ok(later) => {
                    next = Some(later);
                    break;
                }
                Err(_) => break,
            }
        }
        for piece in bytes.chunks(plan.segment_size()) {
            if to.write_all(piece).is_err() {
                return;
            }
            thread::sleep(plan.rest);
        }
        next = next.or_else(|| freights.recv().ok());
    }
    // The other side may have gone first.
    let _ = match plan.cut {
        Some(cut) if cut.is_reset => abandon(to),
        _ => to.shutdown(Shutdown::Write).map_err(Into::into),
    };
}

/// Lets RST be sent once the thread that reads from the same socket has let go of it as well. It
/// sees an end at once, of which nothing is sent.
fn abandon(stream: TcpStream) -> Result<()> {
    stream.shutdown(Shutdown::Read)?;
    reset(stream)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn millis(count: u64) -> Duration {
        Duration::from_millis(count)
    }

    #[test]
    fn gathered_bytes_leave_at_the_same_moment() {
        let plan = Plan {
            gather: millis(50),
            ..Plan::default()
        };
        let mut dice = Dice::new(1);
        let due = |at, last, dice: &mut Dice| plan.due(millis(at), millis(last), dice);
        assert_eq!(due(1, 0, &mut dice), millis(50));
        assert_eq!(due(49, 50, &mut dice), millis(50));
        assert_eq!(due(51, 50, &mut dice), millis(100));
    }

    #[test]
    fn bytes_come_through_as_they_were() {
        let plan = Plan {
            segment: 1,
            delay: millis(3),
            jitter: millis(2),
            ..Plan::default()
        };
        let server = TcpListener::bind("127.0.0.1:0").unwrap();
        let link = Link::open(server.local_addr().unwrap(), plan).unwrap();
        let mut client = TcpStream::connect(link.address()).unwrap();
        let (mut accepted, _) = server.accept().unwrap();
        client.write_all(b"one byte after the other").unwrap();
        client.shutdown(Shutdown::Write).unwrap();
        let mut text = String::new();
        accepted.read_to_string(&mut text).unwrap();
        assert_eq!(text, "one byte after the other");
        drop(accepted);
        link.close().unwrap();
    }

    #[test]
    fn link_is_cut_after_so_many_bytes() {
        for is_reset in [false, true] {
            let plan = Plan {
                cut: Some(Cut { after: 5, is_reset }),
                ..Plan::default()
            };
            let server = TcpListener::bind("127.0.0.1:0").unwrap();
            let link = Link::open(server.local_addr().unwrap(), plan).unwrap();
            let mut client = TcpStream::connect(link.address()).unwrap();
            let (mut accepted, _) = server.accept().unwrap();
            client.write_all(b"0123456789").unwrap();
            let mut bytes = Vec::new();
            let end = accepted.read_to_end(&mut bytes);
            assert_eq!(end.is_err(), is_reset);
            // A reset may overtake what was sent before it.
            assert!(is_reset || bytes == b"01234");
            drop(accepted);
            link.close().unwrap();
        }
    }

    proptest! {
        #[test]
        fn prop_no_byte_leaves_before_it_came_or_before_the_last(
            arrivals in prop::collection::vec(0u64..100, 1..50),
            delay in 0u64..300,
            jitter in 0u64..300,
            gather in 0u64..60,
        ) {
            let plan = Plan {
                delay: millis(delay),
                jitter: millis(jitter),
                gather: millis(gather),
                ..Plan::default()
            };
            let mut dice = Dice::new(7);
            let (mut at, mut last) = (Duration::ZERO, Duration::ZERO);
            for pause in arrivals {
                at += millis(pause);
                let due = plan.due(at, last, &mut dice);
                prop_assert!(due >= at && due >= last);
                prop_assert!(due <= last.max(at + millis(delay + jitter + gather)));
                last = due;
            }
        }
    }
}

//! Many clients that listen to pushes, on one thread.

use std::collections::BTreeMap;
use std::io::{self, Read as _, Write as _};
use std::net::TcpStream;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, anyhow, bail, ensure};
use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};

use crate::chaos::client::Client;
use crate::chaos::subject::poll_until;
use crate::chaos::wire::{self, Dice, Event, Parser};

const HEAD_LEN: usize = 10;
/// How long the thread may not notice that it shall end.
const GLANCE_MILLIS: u16 = 20;
/// Between two sips of those who read slowly.
const SIP: Duration = Duration::from_millis(100);

/// The text of the push with this number: the number, then one letter, whatever else is pushed.
pub(crate) fn text_of(number: u64, size: usize) -> String {
    let mut text = format!("{number:0HEAD_LEN$}");
    let letter = char::from(letter_of(number));
    text.extend(std::iter::repeat_n(letter, size.saturating_sub(HEAD_LEN)));
    text
}

fn letter_of(number: u64) -> u8 {
    b'a' + (number % 26) as u8
}

/// The number of a push, if each of its bytes is as it was sent.
fn number_of(payload: &[u8]) -> Result<u64> {
    let (head, rest) = payload
        .split_at_checked(HEAD_LEN)
        .context("a push that is too short")?;
    let number = std::str::from_utf8(head)?.parse()?;
    let letter = letter_of(number);
    ensure!(rest.iter().all(|it| *it == letter), "a garbled push");
    Ok(number)
}

/// How fast listeners read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Appetite {
    /// Whatever comes.
    All,
    /// So many bytes a second.
    PerSecond(usize),
}

/// What listeners have got so far.
#[derive(Clone, Debug, Default)]
pub(crate) struct Tally {
    /// Pushes that each open listener has got.
    pub(crate) least: u64,
    pub(crate) open: usize,
    /// Time from a push to its arrival, of all of them.
    pub(crate) delays: Vec<Duration>,
    /// Close codes, `None` for an end of the stream without a close frame.
    pub(crate) closes: BTreeMap<Option<u16>, usize>,
    /// What the server must never send.
    pub(crate) faults: Vec<String>,
}

#[derive(Debug, Default)]
struct Shared {
    stop: AtomicBool,
    tally: Mutex<Tally>,
}

/// When each push was sent, by its number.
pub(crate) type Sent = Arc<Mutex<Vec<Instant>>>;

/// Open connections that read pushes, and check that each comes, once, in order and to the byte.
#[derive(Debug)]
pub(crate) struct Crowd {
    shared: Arc<Shared>,
    thread: JoinHandle<Result<()>>,
}

struct Member {
    stream: TcpStream,
    parser: Parser,
    dice: Dice,
    next: u64,
    /// Its close frame; the end of the stream follows.
    code: Option<u16>,
    is_open: bool,
}

impl Crowd {
    /// Lets `clients` listen to the pushes that come after those in `sent`.
    pub(crate) fn listen(clients: Vec<Client>, appetite: Appetite, sent: &Sent) -> Result<Self> {
        let first = sent.lock().expect("no thread panics with it").len() as u64;
        let shared = Arc::new(Shared::default());
        let mut members = Vec::new();
        for (index, client) in clients.into_iter().enumerate() {
            let (stream, parser) = client.into_parts();
            stream.set_nonblocking(true)?;
            members.push(Member {
                stream,
                parser,
                dice: Dice::new(index as u64),
                next: first,
                code: None,
                is_open: true,
            });
        }
        {
            let mut tally = shared.tally.lock().expect("no thread panics with it");
            tally.open = members.len();
            tally.least = first;
        }
        let (owner, sent) = (Arc::clone(&shared), Arc::clone(sent));
        let thread = thread::spawn(move || match appetite {
            Appetite::All => read_all(members, &owner, &sent),
            Appetite::PerSecond(size) => sip(members, size, &owner, &sent),
        });
        Ok(Self { shared, thread })
    }

    pub(crate) fn tally(&self) -> Tally {
        self.shared
            .tally
            .lock()
            .expect("no thread panics with it")
            .clone()
    }

    /// Pushes that each open listener has got, and how many listeners that are.
    pub(crate) fn progress(&self) -> (u64, usize) {
        let tally = self.shared.tally.lock().expect("no thread panics with it");
        (tally.least, tally.open)
    }

    /// Waits until every listener that is still there has got `count` pushes.
    pub(crate) fn wait_for(&self, count: u64, limit: Duration) -> Result<()> {
        poll_until("every listener has got every push", limit, || {
            ensure!(!self.thread.is_finished(), "the listeners have ended");
            let (least, open) = self.progress();
            Ok(least >= count || open == 0)
        })
    }

    /// Ends all of them.
    pub(crate) fn stop(self) -> Result<Tally> {
        self.shared.stop.store(true, Ordering::Relaxed);
        let outcome = self.thread.join();
        outcome.map_err(|_| anyhow!("the listeners panicked"))??;
        let tally = self.shared.tally.lock().expect("no thread panics with it");
        Ok(tally.clone())
    }
}

fn read_all(mut members: Vec<Member>, shared: &Shared, sent: &Sent) -> Result<()> {
    let epoll = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC)?;
    for (index, member) in members.iter().enumerate() {
        let event = EpollEvent::new(EpollFlags::EPOLLIN, index as u64);
        epoll.add(&member.stream, event)?;
    }
    let mut buffer = vec![0; 256 << 10];
    let mut events = vec![EpollEvent::empty(); 256];
    // What came with the answer to the upgrade.
    for member in &mut members {
        member.read(&mut [], shared, sent);
    }
    while !shared.stop.load(Ordering::Relaxed) {
        let count = epoll.wait(&mut events, EpollTimeout::from(GLANCE_MILLIS))?;
        for event in &events[..count] {
            let member = &mut members[usize::try_from(event.data())?];
            member.read(&mut buffer, shared, sent);
            if !member.is_open {
                epoll.delete(&member.stream)?;
            }
        }
        publish(&members, shared);
    }
    Ok(())
}

fn sip(mut members: Vec<Member>, size: usize, shared: &Shared, sent: &Sent) -> Result<()> {
    let sips_per_second = Duration::from_secs(1).as_millis() / SIP.as_millis();
    let mut buffer = vec![0; size / usize::try_from(sips_per_second)?];
    while !shared.stop.load(Ordering::Relaxed) {
        for member in members.iter_mut().filter(|it| it.is_open) {
            member.read(&mut buffer, shared, sent);
        }
        publish(&members, shared);
        thread::sleep(SIP);
    }
    Ok(())
}

fn publish(members: &[Member], shared: &Shared) {
    let open = members.iter().filter(|it| it.is_open);
    let mut tally = shared.tally.lock().expect("no thread panics with it");
    tally.open = open.clone().count();
    if let Some(least) = open.map(|it| it.next).min() {
        tally.least = least;
    }
}

impl Member {
    /// Reads once, as much as the buffer has room for, and looks at everything.
    fn read(&mut self, buffer: &mut [u8], shared: &Shared, sent: &Sent) {
        let mut delays = Vec::new();
        let outcome = self.take(buffer, sent, &mut delays);
        let mut tally = shared.tally.lock().expect("no thread panics with it");
        tally.delays.append(&mut delays);
        if let Err(fault) = outcome {
            tally.faults.push(format!("{fault:#}"));
            self.is_open = false;
        } else if !self.is_open {
            *tally.closes.entry(self.code).or_default() += 1;
        }
    }

    fn take(&mut self, buffer: &mut [u8], sent: &Sent, delays: &mut Vec<Duration>) -> Result<()> {
        if !buffer.is_empty() {
            match self.stream.read(buffer) {
                Ok(0) => self.is_open = false,
                Ok(count) => self.parser.feed(&buffer[..count]),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(()),
                // An end is no fault of the bytes before it.
                Err(_) => self.is_open = false,
            }
        }
        while let Some(event) = self.parser.next()? {
            match event {
                Event::Message(payload) => {
                    let number = number_of(&payload)?;
                    if number != self.next {
                        bail!("push {number} where {} should be", self.next);
                    }
                    self.next += 1;
                    let sent = sent.lock().expect("no thread panics with it");
                    let at = sent.get(usize::try_from(number)?);
                    delays.push(at.context("a push from the future")?.elapsed());
                }
                Event::Ping(payload) => {
                    let pong = wire::frame(wire::PONG, true, &payload, self.dice.mask());
                    // It fits into an empty send buffer; and who has gone is noticed by reading.
                    let _ = self.stream.write(&pong);
                }
                Event::Pong(_) => {}
                Event::Close(code) => self.code = code,
            }
        }
        Ok(())
    }
}

/// Connects `count` clients.
pub(crate) fn connect_many(address: std::net::SocketAddr, count: usize) -> Result<Vec<Client>> {
    (0..count).map(|_| Client::connect(address)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn push_is_known_by_each_of_its_bytes() {
        let text = text_of(42, 100);
        assert_eq!(text.len(), 100);
        assert_eq!(number_of(text.as_bytes()).unwrap(), 42);
        for index in 0..text.len() {
            let mut garbled = text.clone().into_bytes();
            garbled[index] ^= 1;
            assert!(!matches!(number_of(&garbled), Ok(42)), "byte {index}");
        }
        assert!(number_of(b"1").is_err());
    }
}

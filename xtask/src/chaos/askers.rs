//! Clients that ask a callback one question after the other, and keep the books of the answers.
//!
//! Each question has the asker and a number in it, so that every reply is known for what it is: the
//! right one, that of another question, that of somebody else, or none that was ever given.

use std::io;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, anyhow, ensure};

use crate::chaos::client::{Client, hang_up};
use crate::chaos::figures::Report;
use crate::chaos::wire::{self, Event};

/// What the server replies when a callback has failed: `app.error_reply`.
pub(crate) const FAILED: &str = "failed";

/// The text of a question, which a callback gives back.
fn question(asker: usize, number: u64) -> String {
    format!("question {asker} {number}")
}

/// What a reply is to the one who has just asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Verdict {
    Right,
    Failed,
    /// It was given before.
    Duplicate,
    /// It is somebody else's.
    Foreign,
    /// No callback gives it.
    Garbled,
}

fn judge(reply: &[u8], asker: usize, number: u64) -> Verdict {
    if reply == FAILED.as_bytes() {
        return Verdict::Failed;
    }
    let Some((who, which)) = read(reply) else {
        return Verdict::Garbled;
    };
    match which.cmp(&number) {
        _ if who != asker => Verdict::Foreign,
        std::cmp::Ordering::Equal => Verdict::Right,
        std::cmp::Ordering::Less => Verdict::Duplicate,
        std::cmp::Ordering::Greater => Verdict::Garbled,
    }
}

/// Asker and number of a reply, if every byte of it is as it was asked.
fn read(reply: &[u8]) -> Option<(usize, u64)> {
    let text = std::str::from_utf8(reply).ok()?;
    let (asker, number) = text.strip_prefix("question ")?.split_once(' ')?;
    let (asker, number) = (asker.parse().ok()?, number.parse().ok()?);
    (question(asker, number) == text).then_some((asker, number))
}

/// What became of all questions.
#[derive(Clone, Debug, Default)]
pub(crate) struct Books {
    pub(crate) asked: u64,
    pub(crate) right: u64,
    pub(crate) failed: u64,
    duplicate: u64,
    foreign: u64,
    garbled: u64,
    /// When each question was asked that was answered rightly, and how long that took.
    samples: Vec<(Instant, Duration)>,
}

impl Books {
    fn enter(&mut self, verdict: Verdict) {
        match verdict {
            Verdict::Right => self.right += 1,
            Verdict::Failed => self.failed += 1,
            Verdict::Duplicate => self.duplicate += 1,
            Verdict::Foreign => self.foreign += 1,
            Verdict::Garbled => self.garbled += 1,
        }
    }

    /// Questions that got neither an answer nor a failure.
    fn lost(&self) -> u64 {
        self.asked.saturating_sub(self.right + self.failed)
    }

    /// What must be true of every set of books, however many callbacks have failed.
    pub(crate) fn show(&self, what: &str, report: &mut Report) {
        report.at_least(format!("{what}: answered"), self.right as f64, "", 10.0);
        for (name, count) in [
            ("lost", self.lost()),
            ("duplicate", self.duplicate),
            ("foreign", self.foreign),
            ("torn", self.garbled),
        ] {
            report.exactly(format!("{what}: {name}"), count as f64, "", 0.0);
        }
    }
}

/// Clients that ask until told to stop.
#[derive(Debug)]
pub(crate) struct Askers {
    stop: Arc<AtomicBool>,
    rest: Arc<AtomicBool>,
    books: Arc<Mutex<Books>>,
    threads: Vec<JoinHandle<Result<()>>>,
}

impl Askers {
    /// Starts `count` of them, each of which rests `pause` after each answer.
    pub(crate) fn start(address: SocketAddr, count: usize, pause: Duration) -> Result<Self> {
        let stop = Arc::new(AtomicBool::new(false));
        let rest = Arc::new(AtomicBool::new(false));
        let books = Arc::new(Mutex::new(Books::default()));
        let mut threads = Vec::new();
        for asker in 0..count {
            let client = Client::connect(address)?;
            let (stop, rest) = (Arc::clone(&stop), Arc::clone(&rest));
            let books = Arc::clone(&books);
            threads.push(thread::spawn(move || {
                ask(client, asker, (&stop, &rest), pause, &books)
            }));
        }
        Ok(Self {
            stop,
            rest,
            books,
            threads,
        })
    }

    /// What the right answers took to the questions that were asked within `act`.
    pub(crate) fn during<T>(&self, act: impl FnOnce() -> Result<T>) -> Result<(T, Vec<Duration>)> {
        let start = Instant::now();
        let done = act()?;
        let end = Instant::now();
        let books = lock(&self.books);
        let within = books
            .samples
            .iter()
            .filter(|it| it.0 >= start && it.0 < end);
        Ok((done, within.map(|it| it.1).collect()))
    }

    /// What the right answers take over `span`.
    pub(crate) fn over(&self, span: Duration) -> Result<Vec<Duration>> {
        let ((), samples) = self.during(|| {
            thread::sleep(span);
            Ok(())
        })?;
        Ok(samples)
    }

    /// Has them ask nothing while something else is measured.
    pub(crate) fn resting<T>(&self, act: impl FnOnce() -> Result<T>) -> Result<T> {
        self.rest.store(true, Ordering::Relaxed);
        let done = act();
        self.rest.store(false, Ordering::Relaxed);
        done
    }

    /// Ends them once each has its last answer.
    ///
    /// # Errors
    ///
    /// A connection that ended, or bytes that no server may send.
    pub(crate) fn stop(self) -> Result<Books> {
        self.stop.store(true, Ordering::Relaxed);
        for thread in self.threads {
            let outcome = thread.join().map_err(|_| anyhow!("an asker panicked"))?;
            outcome.context("who asks")?;
        }
        let books = lock(&self.books).clone();
        Ok(books)
    }
}

fn ask(
    mut client: Client,
    asker: usize,
    (stop, rest): (&AtomicBool, &AtomicBool),
    pause: Duration,
    books: &Mutex<Books>,
) -> Result<()> {
    for number in 0.. {
        while rest.load(Ordering::Relaxed) && !stop.load(Ordering::Relaxed) {
            thread::sleep(pause);
        }
        if stop.load(Ordering::Relaxed) {
            break;
        }
        let start = Instant::now();
        lock(books).asked += 1;
        client.send(wire::TEXT, question(asker, number).as_bytes())?;
        loop {
            let reply = match client.receive() {
                Ok(Some(Event::Message(reply))) => reply,
                Ok(other) => return Err(anyhow!("{other:?} instead of an answer")),
                // What was lost is in the books as such; the connection has nothing more to tell.
                Err(error) if is_silence(&error) => return Ok(()),
                Err(error) => return Err(error),
            };
            let verdict = judge(&reply, asker, number);
            let mut books = lock(books);
            books.enter(verdict);
            match verdict {
                Verdict::Right => books.samples.push((start, start.elapsed())),
                Verdict::Failed => {}
                _ => continue,
            }
            break;
        }
        thread::sleep(pause);
    }
    // A reply that is one too many comes before this pong.
    client.send(wire::PING, b"the end")?;
    loop {
        match client.receive()? {
            Some(Event::Pong(_)) => break,
            Some(Event::Message(reply)) => {
                let verdict = judge(&reply, asker, u64::MAX);
                ensure!(verdict != Verdict::Failed, "a failure of nothing");
                lock(books).enter(verdict);
            }
            other => return Err(anyhow!("{other:?} instead of a pong")),
        }
    }
    hang_up(&client.into_parts().0)?;
    Ok(())
}

fn is_silence(error: &anyhow::Error) -> bool {
    let kind = error.downcast_ref::<io::Error>().map(io::Error::kind);
    kind == Some(io::ErrorKind::WouldBlock)
}

fn lock(books: &Mutex<Books>) -> MutexGuard<'_, Books> {
    books.lock().expect("no thread panics with it")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reply_is_judged_by_who_asked_and_what() {
        let judge = |reply: &str| judge(reply.as_bytes(), 3, 7);
        assert_eq!(judge(&question(3, 7)), Verdict::Right);
        assert_eq!(judge(FAILED), Verdict::Failed);
        assert_eq!(judge(&question(3, 6)), Verdict::Duplicate);
        assert_eq!(judge(&question(4, 7)), Verdict::Foreign);
        assert_eq!(judge(&question(4, 6)), Verdict::Foreign);
        assert_eq!(judge(&question(3, 8)), Verdict::Garbled);
        for torn in ["", "question 3", "question 3 7 ", "question 3 07", "fail"] {
            assert_eq!(judge(torn), Verdict::Garbled, "{torn:?}");
        }
    }

    #[test]
    fn question_without_an_end_is_lost() {
        let mut books = Books {
            asked: 3,
            ..Books::default()
        };
        books.enter(Verdict::Right);
        books.enter(Verdict::Failed);
        books.enter(Verdict::Foreign);
        assert_eq!(books.lost(), 1);
        let mut report = Report::default();
        books.show("all", &mut report);
        // Too few were answered, one is lost, one came from elsewhere.
        assert_eq!(report.broken_count(), 3);
    }
}

//! One thread of the load generator: a loop over readiness, and the connections that it owns.
//!
//! The loop is mio's and not a runtime's: the generator must cost much less for a message than the
//! servers that it measures, and here is no task, no waker and no timer for a connection.

use std::collections::VecDeque;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, AtomicU64, Ordering};
use std::sync::mpsc::Sender;
use std::time::{Duration, Instant};

use mio::{Events, Poll, Token, Waker};

use super::connection::{Common, Connection, Fault, State};
use super::stats::{Figures, Tally};
use super::stream::Stream;
use super::target::Target;
use super::traffic::Traffic;

const BUFFER_SIZE: usize = 256 * 1024;
const EVENTS_AT_ONCE: usize = 1024;
const WAKER: Token = Token(usize::MAX);

/// How far the run is. Threads follow it in this order.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Phase {
    Opening,
    Running,
    Measuring,
    /// Nothing new is begun.
    Settling,
    Closing,
}

const PHASES: [Phase; 5] = [
    Phase::Opening,
    Phase::Running,
    Phase::Measuring,
    Phase::Settling,
    Phase::Closing,
];

/// What a thread tells the one that conducts the run.
#[derive(Debug)]
pub(super) enum Event {
    /// All its connections are open, or failed.
    Opened,
    /// As many replies have come as messages were sent at first.
    Warm,
    /// All its messages have been answered.
    Done,
    /// Nothing is awaited any more.
    Settled,
    /// Everything is closed.
    Finished(Box<Outcome>),
    /// The thread cannot go on.
    Broken(io::Error),
    /// Somebody wants the run to end.
    Interrupted,
    /// stdin has ended.
    InputEnded,
    /// The publisher has published all it should.
    Published,
}

/// What a thread has to report.
#[derive(Debug, Default)]
pub(super) struct Outcome {
    pub(super) tally: Tally,
    pub(super) figures: Figures,
}

/// What all threads see.
#[derive(Debug)]
pub(super) struct Shared {
    phase: AtomicU8,
    base: Instant,
    /// Connections that are open now.
    pub(super) open: AtomicU64,
    /// Connections that were opened or failed.
    pub(super) attempted: AtomicU64,
    /// Messages since measuring began, for whoever watches.
    pub(super) messages: AtomicU64,
}

impl Shared {
    pub(super) fn new() -> Self {
        Self {
            phase: AtomicU8::new(0),
            base: Instant::now(),
            open: AtomicU64::new(0),
            attempted: AtomicU64::new(0),
            messages: AtomicU64::new(0),
        }
    }

    pub(super) fn phase(&self) -> Phase {
        PHASES[usize::from(self.phase.load(Ordering::Acquire))]
    }

    pub(super) fn set_phase(&self, phase: Phase) {
        self.phase.store(phase as u8, Ordering::Release);
    }

    /// The run's clock, in nanoseconds.
    pub(super) fn now(&self) -> u64 {
        u64::try_from(self.base.elapsed().as_nanos()).unwrap_or(u64::MAX)
    }
}

/// What a worker is to do.
#[derive(Debug, Clone)]
pub(super) struct Job {
    pub(super) target: Arc<Target>,
    /// The numbers of its connections: every `step`-th from `first` on, `count` of them.
    pub(super) first: u32,
    pub(super) step: u32,
    pub(super) count: u32,
    /// Handshakes under way at once.
    pub(super) opening: u32,
    /// Connections begun per second; `None`: as fast as it goes.
    pub(super) rate: Option<f64>,
    /// Whether a connection is closed as soon as it is open.
    pub(super) closes_at_once: bool,
    pub(super) is_raw: bool,
    pub(super) timeout: Duration,
}

/// A thread's loop.
pub(super) struct Worker<T: Traffic> {
    job: Job,
    shared: Arc<Shared>,
    events: Sender<Event>,
    poll: Poll,
    traffic: T,
    tally: Tally,
    slots: Vec<Option<Connection<T::Peer>>>,
    /// The place of the connection whose turn is next.
    turn: usize,
    /// Connections that are being opened, with their deadlines, the earliest first.
    deadlines: VecDeque<(u64, usize)>,
    opening: u32,
    started: u32,
    alive: u32,
    began_at: u64,
    phase: Phase,
    /// When what is still awaited in the last phases is given up.
    give_up_at: Option<u64>,
    has_reported_opened: bool,
    has_reported_warm: bool,
    has_reported_done: bool,
    has_reported_settled: bool,
    key: [u8; 4],
    buffer: Box<[u8]>,
    shown_messages: u64,
}

impl<T: Traffic> Worker<T> {
    pub(super) fn new(
        job: Job,
        shared: Arc<Shared>,
        events: Sender<Event>,
        traffic: T,
    ) -> io::Result<(Self, Waker)> {
        let poll = Poll::new()?;
        let waker = Waker::new(poll.registry(), WAKER)?;
        let worker = Self {
            slots: Vec::with_capacity(job.count as usize),
            turn: 0,
            began_at: shared.now(),
            job,
            shared,
            events,
            poll,
            traffic,
            tally: Tally::default(),
            deadlines: VecDeque::new(),
            opening: 0,
            started: 0,
            alive: 0,
            phase: Phase::Opening,
            give_up_at: None,
            has_reported_opened: false,
            has_reported_warm: false,
            has_reported_done: false,
            has_reported_settled: false,
            key: random()?,
            buffer: vec![0; BUFFER_SIZE].into(),
            shown_messages: 0,
        };
        Ok((worker, waker))
    }

    /// Runs to the end and reports it.
    pub(super) fn run(mut self) {
        let event = match self.work() {
            Ok(()) => Event::Finished(Box::new(Outcome {
                figures: std::mem::take(self.traffic.figures()),
                tally: self.tally,
            })),
            Err(error) => Event::Broken(error),
        };
        // Whoever conducts the run and is gone has no use for it.
        let _ = self.events.send(event);
    }

    fn work(&mut self) -> io::Result<()> {
        let mut events = Events::with_capacity(EVENTS_AT_ONCE);
        loop {
            self.open_more()?;
            self.expire();
            self.follow_phase();
            self.report();
            if self.phase == Phase::Closing && self.alive == 0 {
                return Ok(());
            }
            match self.poll.poll(&mut events, self.patience()) {
                Err(error) if error.kind() != io::ErrorKind::Interrupted => return Err(error),
                Ok(()) | Err(_) => {}
            }
            // What comes after the phase was set belongs to it.
            self.follow_phase();
            for event in &events {
                if event.token() != WAKER {
                    self.ready(event.token().0, event.is_read_closed());
                }
            }
            self.pass_on();
            self.traffic.turn_ended();
            let messages = self.traffic.figures().messages;
            if messages != self.shown_messages {
                let more = messages.wrapping_sub(self.shown_messages);
                self.shared.messages.fetch_add(more, Ordering::Relaxed);
                self.shown_messages = messages;
            }
        }
    }

    /// Begins as many connections as may be under way.
    fn open_more(&mut self) -> io::Result<()> {
        if self.phase > Phase::Opening {
            return Ok(());
        }
        let now = self.shared.now();
        while self.started < self.job.count
            && self.opening < self.job.opening
            && self.next_start().is_none_or(|at| at <= now)
        {
            let number = self.job.first + self.started * self.job.step;
            let place = self.slots.len();
            self.started += 1;
            let started_at = self.shared.now();
            match self.begin(number, place, started_at) {
                Ok(connection) => {
                    self.slots.push(Some(connection));
                    self.alive += 1;
                    self.opening += 1;
                    let deadline = started_at + nanos(self.job.timeout);
                    self.deadlines.push_back((deadline, place));
                }
                Err(error) => {
                    self.slots.push(None);
                    Fault::Connect(error).tell(&mut self.tally);
                    self.shared.attempted.fetch_add(1, Ordering::Relaxed);
                }
            }
        }
        Ok(())
    }

    fn begin(&self, number: u32, place: usize, started_at: u64) -> io::Result<Connection<T::Peer>> {
        let target = &self.job.target;
        let mut stream = Stream::connect(target, target.local_addr(number))?;
        stream.register(self.poll.registry(), Token(place))?;
        let key = if self.job.is_raw {
            None
        } else {
            Some(random()?)
        };
        let peer = self.traffic.peer(number);
        Ok(Connection::new(stream, target, key, peer, started_at))
    }

    /// When the rate lets the next connection begin.
    fn next_start(&self) -> Option<u64> {
        let rate = self.job.rate?;
        Some(self.began_at + (f64::from(self.started) / rate * 1e9) as u64)
    }

    /// How long the loop may sleep; `None` if only readiness and the conductor matter.
    fn patience(&self) -> Option<Duration> {
        let may_open = self.phase == Phase::Opening
            && self.started < self.job.count
            && self.opening < self.job.opening;
        let start = may_open.then(|| self.next_start()).flatten();
        let deadline = self.deadlines.front().map(|(at, _)| *at);
        let earliest = [start, deadline, self.give_up_at]
            .into_iter()
            .flatten()
            .min();
        let now = self.shared.now();
        earliest.map(|at| Duration::from_nanos(at.saturating_sub(now)))
    }

    fn ready(&mut self, place: usize, has_ended: bool) {
        let Self {
            slots,
            traffic,
            tally,
            buffer,
            key,
            shared,
            job,
            ..
        } = self;
        let Some(connection) = &mut slots[place] else {
            return;
        };
        let was_opening = connection.state == State::Opening;
        let mut common = Common {
            traffic,
            tally,
            buffer,
            key: *key,
        };
        let mut outcome = connection.ready(&mut common, has_ended, || shared.now());
        let is_open = connection.state == State::Open;
        // What opened counts as open even if the same read brought its end.
        if was_opening && is_open {
            self.opening -= 1;
            shared.open.fetch_add(1, Ordering::Relaxed);
            shared.attempted.fetch_add(1, Ordering::Relaxed);
            if job.closes_at_once && outcome.is_ok() {
                connection.close(*key);
                outcome = connection.flush(traffic);
            }
        }
        let is_gone = connection.state == State::Gone;
        match outcome {
            Err(fault) if !is_gone => self.end(place, Some(&fault)),
            Ok(()) | Err(_) if is_gone => self.end(place, None),
            Ok(()) | Err(_) => {}
        }
    }

    /// Drops a connection.
    fn end(&mut self, place: usize, fault: Option<&Fault>) {
        let Some(connection) = self.slots[place].take() else {
            return;
        };
        self.alive -= 1;
        if connection.state == State::Opening {
            self.opening -= 1;
            self.shared.attempted.fetch_add(1, Ordering::Relaxed);
        } else {
            self.shared.open.fetch_sub(1, Ordering::Relaxed);
        }
        if let Some(fault) = fault {
            fault.tell(&mut self.tally);
            self.traffic.lost(&connection.peer);
        }
    }

    /// Gives up what is late.
    fn expire(&mut self) {
        let now = self.shared.now();
        while let Some(&(at, place)) = self.deadlines.front() {
            let is_opening = self.slots[place]
                .as_ref()
                .is_some_and(|connection| connection.state == State::Opening);
            if is_opening && at > now {
                break;
            }
            self.deadlines.pop_front();
            if is_opening {
                self.end(place, Some(&Fault::Late("opening handshake")));
            }
        }
        if self.give_up_at.is_some_and(|at| at <= now) {
            self.give_up_at = None;
            let what = if self.phase == Phase::Settling {
                "reply"
            } else {
                "closing handshake"
            };
            let late: Vec<usize> = (0..self.slots.len())
                .filter(|&place| {
                    self.slots[place]
                        .as_ref()
                        .is_some_and(|it| self.is_late(it))
                })
                .collect();
            late.into_iter()
                .for_each(|place| self.end(place, Some(&Fault::Late(what))));
        }
    }

    fn is_late(&self, connection: &Connection<T::Peer>) -> bool {
        self.phase == Phase::Closing || !self.is_settled(connection)
    }

    fn is_settled(&self, connection: &Connection<T::Peer>) -> bool {
        connection.state != State::Open || self.traffic.is_settled(&connection.peer)
    }

    /// Goes where the conductor is.
    fn follow_phase(&mut self) {
        while self.phase < self.shared.phase() {
            self.phase = PHASES[self.phase as usize + 1];
            match self.phase {
                Phase::Opening => {}
                Phase::Running => self.begin_all(),
                Phase::Measuring => {
                    self.traffic.begin_measuring();
                    self.shown_messages = 0;
                }
                Phase::Settling => {
                    self.traffic.stop();
                    self.give_up_at = Some(self.shared.now() + nanos(self.job.timeout));
                }
                Phase::Closing => {
                    self.close_all();
                    self.give_up_at = Some(self.shared.now() + nanos(self.job.timeout));
                }
            }
        }
    }

    fn begin_all(&mut self) {
        for place in 0..self.slots.len() {
            let now = self.shared.now();
            let Some(connection) = &mut self.slots[place] else {
                continue;
            };
            if connection.state != State::Open {
                continue;
            }
            self.traffic.begin(&mut connection.peer, now);
            if let Err(fault) = connection.flush(&mut self.traffic) {
                self.end(place, Some(&fault));
            }
        }
    }

    /// Gives the messages that wait to the connections whose turn it is.
    fn pass_on(&mut self) {
        for _ in 0..self.traffic.take_waiting() {
            let Some(place) = self.next_in_turn() else {
                return;
            };
            let now = self.shared.now();
            let Some(connection) = &mut self.slots[place] else {
                continue;
            };
            self.traffic.take_turn(&mut connection.peer, now);
            if let Err(fault) = connection.flush(&mut self.traffic) {
                self.end(place, Some(&fault));
            }
        }
    }

    /// The next open connection of which nothing is awaited.
    fn next_in_turn(&mut self) -> Option<usize> {
        for _ in 0..self.slots.len() {
            self.turn = (self.turn + 1) % self.slots.len();
            let is_free = self.slots[self.turn]
                .as_ref()
                .is_some_and(|it| it.state == State::Open && self.traffic.is_settled(&it.peer));
            if is_free {
                return Some(self.turn);
            }
        }
        None
    }

    fn close_all(&mut self) {
        for place in 0..self.slots.len() {
            let Some(connection) = &mut self.slots[place] else {
                continue;
            };
            match connection.state {
                State::Open if !self.job.is_raw => {
                    connection.close(self.key);
                    if let Err(fault) = connection.flush(&mut self.traffic) {
                        self.end(place, Some(&fault));
                    }
                }
                // An interrupted run leaves handshakes behind; that is no fault of the server.
                State::Open | State::Opening => self.end(place, None),
                State::Closing | State::Closed | State::Gone => {}
            }
        }
    }

    /// Tells the conductor what has come to its end.
    fn report(&mut self) {
        if !self.has_reported_opened && self.started == self.job.count && self.opening == 0 {
            self.has_reported_opened = true;
            self.tell(Event::Opened);
        }
        if self.phase == Phase::Running && !self.has_reported_warm && self.traffic.is_warm() {
            self.has_reported_warm = true;
            self.tell(Event::Warm);
        }
        let is_running = matches!(self.phase, Phase::Running | Phase::Measuring);
        if is_running && !self.has_reported_done && self.is_done() {
            self.has_reported_done = true;
            self.tell(Event::Done);
        }
        if self.phase >= Phase::Settling && !self.has_reported_settled {
            let mut living = self.slots.iter().flatten();
            if living.all(|connection| self.is_settled(connection)) {
                self.has_reported_settled = true;
                self.tell(Event::Settled);
            }
        }
    }

    fn is_done(&self) -> bool {
        let mut living = self.slots.iter().flatten();
        living.all(|connection| {
            connection.state != State::Open || self.traffic.is_done(&connection.peer)
        })
    }

    fn tell(&self, event: Event) {
        // Whoever conducts the run and is gone has no use for it.
        let _ = self.events.send(event);
    }
}

fn nanos(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX / 2)
}

/// Bytes that nobody can predict.
pub(super) fn random<const N: usize>() -> io::Result<[u8; N]> {
    let mut bytes = [0; N];
    getrandom::fill(&mut bytes).map_err(io::Error::other)?;
    Ok(bytes)
}

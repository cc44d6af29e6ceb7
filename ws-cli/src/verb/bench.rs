//! `ws bench`: a load generator.
//!
//! [`args`] says what is asked for, [`target`] where. Each thread is a [`worker`], a loop over
//! readiness that owns its share of the [`connection`]s; what these say and expect is a
//! [`traffic`]: [`echo`], [`listen`], or silence. The main thread conducts: it moves all workers
//! from phase to phase and makes the [`report`] of what they have counted ([`stats`]). A broadcast
//! has one more thread, the [`publisher`].

mod args;
mod connection;
mod echo;
mod frames;
mod listen;
mod progress;
mod publisher;
mod report;
mod stats;
mod stream;
mod target;
mod traffic;
mod usage;
mod worker;

use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::sync::mpsc::{self, Receiver, RecvTimeoutError, Sender};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use anyhow::Context as _;
use mio::Waker;
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use nix::sys::signal::{SigSet, Signal as OsSignal};
use ws_proto::Opcode;

pub(crate) use self::args::BenchArgs;
use self::args::{Mode, Until, usage};
use self::echo::{Echo, Quota};
use self::listen::{Listen, Round};
use self::progress::Progress;
use self::publisher::{Door, Publish, Published, Signal};
use self::report::{Course, Report};
use self::target::Target;
use self::traffic::{Silence, Traffic};
use self::usage::CpuTime;
use self::worker::{Event, Job, Outcome, Phase, Shared, Worker, random};
use crate::failure::{Code, Failure};
use crate::output;

pub(crate) fn run(args: BenchArgs) -> Result<(), Failure> {
    let until = args.until()?;
    let target = Arc::new(Target::new(&args)?);
    raise_descriptor_limit();
    let (sender, events) = mpsc::channel();
    interrupts(sender.clone())?;
    let run = Run {
        shared: Arc::new(Shared::new()),
        sender,
        events,
        progress: Progress::new(),
        is_interrupted: false,
        until,
        args,
    };
    run.conduct(&target)
}

/// A run, and where it hears of its end.
struct Run {
    args: BenchArgs,
    until: Until,
    shared: Arc<Shared>,
    sender: Sender<Event>,
    events: Receiver<Event>,
    progress: Progress,
    is_interrupted: bool,
}

/// The threads at work.
struct Crew {
    wakers: Vec<Waker>,
    threads: Vec<JoinHandle<()>>,
    outcome: Outcome,
}

/// The publisher's thread and how it is stopped.
struct Publisher {
    thread: JoinHandle<io::Result<Published>>,
    signals: Sender<Signal>,
}

impl Run {
    fn conduct(mut self, target: &Arc<Target>) -> Result<(), Failure> {
        let (signals, heard) = mpsc::channel();
        let round = Arc::new(Round::default());
        let door = self.open_door()?;
        let begun = Instant::now();
        let before = self.sample()?;
        let mut crew = self.start(target, &round, &signals)?;

        self.await_all(&mut crew, Phase::Opening)?;
        let opening = begun.elapsed();
        let mut usage = self.usage_since(before)?;
        let mut measured = opening;
        let mut published = None;
        if self.until != Until::Opened && !self.is_interrupted {
            let publish = || door.map(|door| self.publish(door, &round, heard, signals));
            // Without a warm-up nothing may happen that is not measured.
            let (publisher, before, start) = if let Some(warm_up) = self.args.warm_up {
                self.enter(&crew, Phase::Running)?;
                let publisher = publish();
                self.warm_up(&mut crew, warm_up)?;
                let (before, start) = (self.sample()?, Instant::now());
                self.enter(&crew, Phase::Measuring)?;
                self.shared.messages.store(0, Ordering::Relaxed);
                (publisher, before, start)
            } else {
                let (before, start) = (self.sample()?, Instant::now());
                self.enter(&crew, Phase::Measuring)?;
                (publish(), before, start)
            };
            self.measure(&mut crew, start)?;
            usage = self.usage_since(before)?;
            measured = start.elapsed();
            published = publisher.map(Publisher::stop).transpose()?;
        }
        self.enter(&crew, Phase::Settling)?;
        self.await_all(&mut crew, Phase::Settling)?;
        self.enter(&crew, Phase::Closing)?;
        self.await_all(&mut crew, Phase::Closing)?;
        self.progress.end();
        crew.join();
        self.report(&crew.outcome, opening, measured, usage, published)
    }

    /// Opens what the publisher writes to.
    fn open_door(&self) -> Result<Option<Door>, Failure> {
        let Some(publish) = &self.args.publish else {
            return Ok(None);
        };
        let timeout = self.args.timeout;
        let (opened, what) = match publish {
            Publish::Fifo(path) => (Door::fifo(path), path.display().to_string()),
            Publish::Control(path) => (Door::control(path, timeout), path.display().to_string()),
            Publish::Socket(url) => {
                let target = Target::at(url, &self.args)?;
                (Door::socket(&target, timeout), url.clone())
            }
        };
        let unreachable = |error| {
            Failure::new(
                Code::Unreachable,
                format!("cannot publish to {what}: {error}"),
            )
        };
        opened.map(Some).map_err(unreachable)
    }

    /// Starts the workers, each with its share.
    fn start(
        &self,
        target: &Arc<Target>,
        round: &Arc<Round>,
        signals: &Sender<Signal>,
    ) -> Result<Crew, Failure> {
        let args = &self.args;
        let count = args.thread_count();
        let mut crew = Crew {
            wakers: Vec::new(),
            threads: Vec::new(),
            outcome: Outcome::default(),
        };
        for first in 0..count {
            let connections = share(args.connections.get(), count, first);
            let job = Job {
                target: Arc::clone(target),
                first,
                step: count,
                count: connections,
                opening: (args.opening.get() / count).max(1),
                rate: self.opening_rate().map(|rate| rate / f64::from(count)),
                closes_at_once: args.mode == Mode::Handshakes && !args.keep,
                is_raw: args.raw,
                timeout: args.timeout,
            };
            match args.mode {
                Mode::Idle | Mode::Handshakes => crew.add(self, job, Silence::default())?,
                Mode::Broadcast => {
                    let (round, signals) = (Arc::clone(round), signals.clone());
                    crew.add(self, job, Listen::new(args.payload_size(), round, signals))?;
                }
                Mode::Echo => {
                    let mut echo = self.echo()?;
                    if let Some(all) = args.in_turn {
                        echo = echo.in_turn(share(all.get(), count, first));
                    }
                    if let Some(count) = args.active {
                        echo = echo.active(count.get());
                    }
                    crew.add(self, job, echo)?;
                }
            }
        }
        Ok(crew)
    }

    fn echo(&self) -> Result<Echo, Failure> {
        let args = &self.args;
        let quota = match self.until {
            Until::Messages(all) => {
                let connections = u64::from(args.connections.get());
                let each = u32::try_from(all / connections);
                let each = each.ok().filter(|&each| each < u32::MAX);
                let too_many = || usage("--messages: too many for each connection".to_owned());
                // Less than the number of connections, so it fits.
                let extra = (all % connections) as u32;
                Some(Quota {
                    each: each.ok_or_else(too_many)?,
                    extra,
                })
            }
            Until::Time(_) | Until::Input | Until::Opened => None,
        };
        let (size, in_flight) = (args.payload_size(), args.in_flight());
        let key = random().context("no random bytes")?;
        Ok(Echo::new(
            size,
            in_flight,
            self.opcode(),
            args.raw,
            key,
            quota,
        ))
    }

    fn opcode(&self) -> Opcode {
        if self.args.binary {
            Opcode::Binary
        } else {
            Opcode::Text
        }
    }

    fn opening_rate(&self) -> Option<f64> {
        let is_for_opening = self.args.mode == Mode::Handshakes;
        self.args
            .rate
            .filter(|_| is_for_opening)
            .map(|rate| rate.get().into())
    }

    fn publish(
        &self,
        mut door: Door,
        round: &Arc<Round>,
        heard: Receiver<Signal>,
        signals: Sender<Signal>,
    ) -> Publisher {
        let plan = publisher::Plan {
            size: self.args.payload_size(),
            burst: self.args.burst(),
            opcode: self.opcode(),
            rate: self.args.rate.map(Into::into),
            messages: match self.until {
                Until::Messages(all) => Some(all),
                Until::Time(_) | Until::Input | Until::Opened => None,
            },
            timeout: self.args.timeout,
        };
        let (shared, round) = (Arc::clone(&self.shared), Arc::clone(round));
        let events = self.sender.clone();
        let thread = thread::spawn(move || {
            let published = publisher::run(&mut door, &plan, &shared, &round, &heard, &events);
            if published.is_err() {
                // Nothing more will come; the error itself is what the thread returns.
                let _ = events.send(Event::Published);
            }
            published
        });
        Publisher { thread, signals }
    }

    /// Waits for what ends the measurement.
    fn measure(&mut self, crew: &mut Crew, start: Instant) -> Result<(), Failure> {
        match self.until {
            Until::Time(duration) => self.pass(crew, start + duration, Some(duration)),
            Until::Input => {
                let sender = self.sender.clone();
                // It is left behind at the end: it may wait for a key that nobody presses.
                thread::spawn(move || {
                    let ended = io::copy(&mut io::stdin().lock(), &mut io::sink());
                    // However it ended, nobody will write there.
                    drop((ended, sender.send(Event::InputEnded)));
                });
                self.pass(crew, far(start), None)
            }
            Until::Messages(_) | Until::Opened => self.pass(crew, far(start), None),
        }
    }

    /// Lets at least this time go by, and as much more as the load needs to flow evenly; no more
    /// than a reply may take, for it may never come.
    fn warm_up(&mut self, crew: &mut Crew, least: Duration) -> Result<(), Failure> {
        let start = Instant::now();
        let mut warm = 0;
        while !self.is_interrupted {
            let is_warm = warm == crew.threads.len();
            let whole = if is_warm {
                least
            } else {
                least.max(self.args.timeout)
            };
            let left = whole.saturating_sub(start.elapsed());
            if left.is_zero() {
                break;
            }
            self.progress.running(&self.shared, start.elapsed(), None);
            if let Some(Event::Warm) = self.hear(left, crew)? {
                warm += 1;
            }
        }
        Ok(())
    }

    /// Lets time go by, until `deadline` or until the work is done.
    fn pass(
        &mut self,
        crew: &mut Crew,
        deadline: Instant,
        whole: Option<Duration>,
    ) -> Result<(), Failure> {
        let start = Instant::now();
        let mut done = 0;
        while !self.is_interrupted {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Ok(());
            }
            self.progress.running(&self.shared, start.elapsed(), whole);
            match self.hear(left, crew)? {
                Some(Event::Done) => done += 1,
                Some(Event::InputEnded | Event::Published) => return Ok(()),
                _ => {}
            }
            if done == crew.threads.len() {
                return Ok(());
            }
        }
        Ok(())
    }

    /// Waits until all workers have done what belongs to a phase.
    fn await_all(&mut self, crew: &mut Crew, phase: Phase) -> Result<(), Failure> {
        let mut left = crew.threads.len();
        while left > 0 && !(self.is_interrupted && phase == Phase::Opening) {
            if phase == Phase::Opening {
                self.progress
                    .opening(&self.shared, self.args.connections.get());
            }
            match self.hear(Duration::from_secs(3600), crew)? {
                Some(Event::Opened) if phase == Phase::Opening => left -= 1,
                Some(Event::Settled) if phase == Phase::Settling => left -= 1,
                Some(Event::Finished(_)) if phase == Phase::Closing => left -= 1,
                _ => {}
            }
        }
        Ok(())
    }

    /// The next event, if one comes within `patience`, or in the time of a progress bar's step.
    fn hear(&mut self, patience: Duration, crew: &mut Crew) -> Result<Option<Event>, Failure> {
        let patience = if self.progress.is_shown() {
            patience.min(progress::INTERVAL)
        } else {
            patience
        };
        match self.events.recv_timeout(patience) {
            Ok(Event::Finished(outcome)) => {
                crew.outcome.tally.add(&outcome.tally);
                crew.outcome.figures.add(&outcome.figures);
                Ok(Some(Event::Finished(Box::default())))
            }
            Ok(Event::Broken(error)) => Err(error.into()),
            Ok(Event::Interrupted) => {
                self.is_interrupted = true;
                Ok(None)
            }
            Ok(event) => Ok(Some(event)),
            Err(RecvTimeoutError::Timeout | RecvTimeoutError::Disconnected) => Ok(None),
        }
    }

    fn enter(&self, crew: &Crew, phase: Phase) -> Result<(), Failure> {
        self.shared.set_phase(phase);
        Ok(crew.wakers.iter().try_for_each(Waker::wake)?)
    }

    fn sample(&self) -> Result<Option<CpuTime>, Failure> {
        let Some(pid) = self.args.pid else {
            return Ok(None);
        };
        let time = CpuTime::of(pid);
        Ok(Some(
            time.with_context(|| format!("cannot watch process {pid}"))?,
        ))
    }

    fn usage_since(&self, before: Option<CpuTime>) -> Result<Option<usage::ServerUsage>, Failure> {
        let (Some(pid), Some(before), Some(now)) = (self.args.pid, before, self.sample()?) else {
            return Ok(None);
        };
        let usage = now.since(before, pid);
        Ok(Some(
            usage.with_context(|| format!("cannot watch process {pid}"))?,
        ))
    }

    fn report(
        &self,
        outcome: &Outcome,
        opening: Duration,
        measured: Duration,
        server: Option<usage::ServerUsage>,
        published: Option<Published>,
    ) -> Result<(), Failure> {
        let course = Course {
            seconds: measured.as_secs_f64(),
            opening_seconds: opening.as_secs_f64(),
            server,
            published,
            is_interrupted: self.is_interrupted,
        };
        let report = Report::new(&self.args, outcome, course);
        if self.args.json {
            output::json(&report)?;
        } else {
            report.lines().into_iter().try_for_each(output::line)?;
        }
        if let Some(cause) = report::unreachable(&outcome.tally) {
            return Err(Failure::new(
                Code::Unreachable,
                format!("{}: {cause}", self.args.url),
            ));
        }
        if report.has_faults() {
            return Err(Failure::new(
                Code::Failed,
                "not everything went as it should, see above",
            ));
        }
        Ok(())
    }
}

impl Crew {
    fn add<T: Traffic + 'static>(
        &mut self,
        run: &Run,
        job: Job,
        traffic: T,
    ) -> Result<(), Failure> {
        let (shared, events) = (Arc::clone(&run.shared), run.sender.clone());
        let (worker, waker) = Worker::new(job, shared, events, traffic)?;
        self.wakers.push(waker);
        let builder = thread::Builder::new().name("load".to_owned());
        self.threads.push(builder.spawn(move || worker.run())?);
        Ok(())
    }

    fn join(&mut self) {
        for thread in self.threads.drain(..) {
            // It has reported; a panic would have been printed.
            let _ = thread.join();
        }
    }
}

impl Publisher {
    fn stop(self) -> Result<Published, Failure> {
        // One that has published everything is not there any more.
        let _ = self.signals.send(Signal::Stop);
        let published = self.thread.join().expect("the publisher does not panic");
        let published = published.context("cannot publish");
        published.map_err(|error| Failure::with_code(Code::Failed, error))
    }
}

/// A moment that does not come during a run.
fn far(start: Instant) -> Instant {
    start + Duration::from_secs(365 * 86_400)
}

/// The part of `all` that falls to one of `count`, the first ones getting the remainder.
fn share(all: u32, count: u32, index: u32) -> u32 {
    all / count + u32::from(index < all % count)
}

/// Every connection needs a descriptor; what the hard limit forbids shows when it is met.
fn raise_descriptor_limit() {
    if let Ok((soft, hard)) = getrlimit(Resource::RLIMIT_NOFILE)
        && soft < hard
    {
        let _ = setrlimit(Resource::RLIMIT_NOFILE, hard, hard);
    }
}

/// Turns the first Ctrl-C, or SIGTERM, into an event; the second ends the process.
fn interrupts(events: Sender<Event>) -> Result<(), Failure> {
    let mut signals = SigSet::empty();
    signals.add(OsSignal::SIGINT);
    signals.add(OsSignal::SIGTERM);
    // Threads inherit it: only the one that waits gets these signals.
    signals.thread_block().context("cannot block signals")?;
    thread::spawn(move || {
        for count in 0.. {
            match signals.wait() {
                Ok(_) if count == 0 => drop(events.send(Event::Interrupted)),
                Ok(signal) => std::process::exit(128 + signal as i32),
                Err(_) => return,
            }
        }
    });
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares_add_up() {
        for all in [1, 2, 3, 100, 9_999] {
            for count in 1..8 {
                let shares = (0..count).map(|index| share(all, count, index));
                assert_eq!(shares.sum::<u32>(), all, "{all} among {count}");
            }
        }
    }
}

//! One conversation, one process: what comes goes to a program's standard input, what it writes to
//! its standard output comes back, as long as both last.

use std::cell::RefCell;
use std::ffi::OsString;
use std::future::poll_fn;
use std::io::IoSlice;
use std::path::PathBuf;
use std::pin::Pin;
use std::process::ExitStatus;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::time::{Instant, Sleep, sleep_until};

use crate::channel::Channel;
use crate::exec::AnswerChannel;
use crate::stderr::Errors;
use crate::{Child, Confinement, Failure, Identity, Job, LineTooLong, Signal, Spawners};

/// A program to converse with.
#[derive(Clone, Debug)]
pub struct StreamCommand {
    /// The program and its arguments.
    pub argv: Vec<OsString>,
    /// The whole environment.
    pub env: Vec<(OsString, OsString)>,
    /// The working directory; without one, the server's.
    pub dir: Option<PathBuf>,
    /// The user to run as; without one, the server's.
    pub identity: Option<Identity>,
    /// What it may not do, and how much of the host it may use.
    pub confinement: Confinement,
    /// How long it may go on after it was asked to end, before `SIGTERM`, and after that, before
    /// `SIGKILL`.
    pub grace: Duration,
}

/// Whom a program converses with.
pub trait Host {
    /// Ready if something has changed since: there is input, room for output, or the end is near.
    fn poll_changed(&mut self, cx: &mut Context<'_>) -> Poll<()>;

    /// Fills `slices` with what is to be written next, and returns how many that are.
    fn input<'a>(&'a mut self, slices: &mut [IoSlice<'a>]) -> usize;

    /// Notes that the first bytes of the input are written.
    fn advance(&mut self, written: usize);

    /// Whether the program is to end. Input that is left is still written.
    fn is_ending(&self) -> bool;

    /// Whether more output is taken. Until then the program is not read, and waits in its write.
    fn takes_output(&self) -> bool;

    /// Takes output, at most [`CHUNK_SIZE`] bytes.
    ///
    /// # Errors
    ///
    /// [`LineTooLong`]: the program is killed.
    fn take(&mut self, output: &[u8]) -> Result<(), LineTooLong>;

    /// Takes a line of the program's standard error: at most 4 KiB, and 64 KiB a minute.
    fn log(&mut self, line: &str);
}

/// Bytes of output that are taken at a time: what a pipe holds (pipe(7)).
pub const CHUNK_SIZE: usize = 64 * 1024;

/// Pieces of input that are written at a time.
const MAX_PIECES: usize = 64;

/// How long descendants may hold the output open after the program has ended.
const LINGER: Duration = Duration::from_millis(100);

/// How long the limit of standard error counts.
const LOG_INTERVAL: Duration = Duration::from_secs(60);

/// Runs a program until it has ended and everything that it wrote was taken.
///
/// It is asked to end when its [`Host`] says so: its standard input is closed behind what is left
/// to be written. If it lives on for `grace`, its process group gets `SIGTERM`, after another
/// `grace` `SIGKILL`. If descendants hold the output open 100 ms longer than the program lives, they
/// are killed. A program that closes its standard input is no failure: what comes is dropped.
///
/// # Errors
///
/// - [`Failure::CannotStart`] and [`Failure::Lost`] as from [`Spawners::spawn`].
/// - [`Failure::Exited`] and [`Failure::Signaled`] by how the program ended, unless with 0 or after
///   it was asked to.
/// - [`Failure::TimedOut`] if it had to be killed.
/// - [`Failure::OutputTooLong`] if the host refuses a line; the group is killed at once.
///
/// # Cancel safety
///
/// Dropping the future kills the program with all its descendants.
pub async fn run(
    spawners: &Spawners,
    command: StreamCommand,
    host: &mut dyn Host,
) -> Result<(), Failure> {
    let open = |error| Failure::cannot_start("pipes", &error);
    let (mut channel, stdin, stdout) = Channel::new(AnswerChannel::Pipe).map_err(open)?;
    channel.register().map_err(open)?;
    let (errors, stderr) = Errors::new().map_err(open)?;
    let job = Job {
        argv: command.argv,
        env: command.env,
        dir: command.dir,
        identity: command.identity,
        confinement: command.confinement,
        stdin,
        stdout,
        stderr,
    };
    let mut conversation = Conversation {
        child: Some(spawners.spawn(job).await?),
        channel,
        errors,
        errors_since: Instant::now(),
        status: None,
        course: Course::new(command.grace),
        timer: None,
    };
    let ended = conversation.drive(host).await;
    // Kills what is left of the group before anybody hears of the end.
    drop(conversation.child.take());
    conversation.errors.finish(&mut |line| host.log(line));
    ended?;
    conversation.end()
}

/// A program under way.
struct Conversation {
    /// `None` once it is released.
    child: Option<Child>,
    channel: Channel,
    errors: Errors,
    /// When the limit of standard error began to count.
    errors_since: Instant,
    status: Option<ExitStatus>,
    course: Course,
    /// Rings when the course says so.
    timer: Option<Pin<Box<Sleep>>>,
}

impl Conversation {
    async fn drive(&mut self, host: &mut dyn Host) -> Result<(), Failure> {
        while !self.is_over() {
            if host.is_ending() {
                self.course.ask(Instant::now());
            }
            self.set_timer();
            poll_fn(|cx| self.poll_progress(cx, host)).await?;
            // A program that writes without a pause does not hold up the others.
            tokio::task::coop::consume_budget().await;
        }
        Ok(())
    }

    fn is_over(&self) -> bool {
        let has_ended = self.status.is_some() || self.child.is_none();
        has_ended && !self.channel.is_reading() && !self.errors.is_open()
    }

    fn end(&self) -> Result<(), Failure> {
        match self.status {
            None => Err(Failure::TimedOut),
            // However it ends then, it does as it was told.
            Some(_) if self.course.was_asked => Ok(()),
            Some(status) => Failure::of_status(status),
        }
    }

    /// Carries what can be carried. Ready if what to wait for may have changed.
    fn poll_progress(
        &mut self,
        cx: &mut Context<'_>,
        host: &mut dyn Host,
    ) -> Poll<Result<(), Failure>> {
        if let Some(child) = &mut self.child
            && self.status.is_none()
            && let Poll::Ready(ended) = child.poll_wait(cx)
        {
            self.status = Some(ended?);
            self.channel.close_input();
            self.course.note_end(Instant::now());
            return Poll::Ready(Ok(()));
        }
        // Before the output: a program that floods us does not put off its own end.
        if let Some(timer) = &mut self.timer
            && timer.as_mut().poll(cx).is_ready()
        {
            self.handle_timeout(host.takes_output());
            return Poll::Ready(Ok(()));
        }
        self.poll_write(cx, host);
        let mut has_changed = host.poll_changed(cx).is_ready();
        if host.takes_output()
            && self.channel.is_reading()
            && let Poll::Ready(read) = self.poll_read(cx, host)
        {
            read?;
            has_changed = true;
        }
        if self.errors.is_open() {
            has_changed |= self.poll_errors(cx, host).is_ready();
        }
        match has_changed {
            true => Poll::Ready(Ok(())),
            false => Poll::Pending,
        }
    }

    /// Writes as much of the input as the program takes.
    fn poll_write(&mut self, cx: &mut Context<'_>, host: &mut dyn Host) {
        loop {
            let mut slices = [IoSlice::new(&[]); MAX_PIECES];
            let count = host.input(&mut slices);
            let slices = &slices[..count];
            if slices.is_empty() {
                break;
            }
            let written = match self.channel.is_writing() {
                true => self.channel.poll_write(cx, slices),
                // It does not want to know the rest, which is its right.
                false => Poll::Ready(Ok(slices.iter().map(|slice| slice.len()).sum())),
            };
            match written {
                Poll::Ready(Ok(written)) => host.advance(written),
                Poll::Ready(Err(_)) => self.channel.close_input(),
                Poll::Pending => return,
            }
        }
        if host.is_ending() {
            self.channel.close_input();
        }
    }

    fn poll_read(
        &mut self,
        cx: &mut Context<'_>,
        host: &mut dyn Host,
    ) -> Poll<Result<(), Failure>> {
        thread_local! {
            /// For one program after another: most of them are silent most of the time.
            static BUFFER: RefCell<Box<[u8]>> =
                RefCell::new(vec![0; CHUNK_SIZE].into_boxed_slice());
        }
        BUFFER.with_borrow_mut(|buffer| {
            self.channel.poll_read(cx, buffer).map(|read| match read {
                Ok(len @ 1..) => Ok(host.take(&buffer[..len])?),
                Ok(_) | Err(_) => {
                    self.channel.close_output();
                    Ok(())
                }
            })
        })
    }

    fn poll_errors(&mut self, cx: &mut Context<'_>, host: &mut dyn Host) -> Poll<()> {
        let mut log = |line: &str| host.log(line);
        let read = self.errors.poll_read(cx, &mut log);
        if read.is_ready() && self.errors_since.elapsed() >= LOG_INTERVAL {
            self.errors_since = Instant::now();
            self.errors.renew(&mut log);
        }
        read
    }

    fn set_timer(&mut self) {
        let Some(at) = self.course.poll_timeout() else {
            return;
        };
        match &mut self.timer {
            Some(timer) if timer.deadline() == at => {}
            Some(timer) => timer.as_mut().reset(at),
            None => self.timer = Some(Box::pin(sleep_until(at))),
        }
    }

    fn handle_timeout(&mut self, is_read: bool) {
        match self.course.handle_timeout(Instant::now(), is_read) {
            Some(Step::Terminate) => {
                if let Some(child) = &self.child {
                    child.signal_group(Signal::Terminate);
                }
            }
            Some(Step::Kill) => {
                self.channel.close_input();
                self.child = None;
            }
            Some(Step::GiveUp) => {
                self.channel.close_output();
                self.errors.close();
            }
            None => {}
        }
    }
}

/// How far the end of a program has come: what to do about it, and when.
#[derive(Debug)]
struct Course {
    grace: Duration,
    was_asked: bool,
    stage: Stage,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    Running,
    /// It was asked to end, by the end of its input.
    Asked(Instant),
    /// It was told to, by a signal.
    Told(Instant),
    /// It has ended, its descendants hold the output.
    Ended(Instant),
    /// They were killed, and it too if it had not ended, and the output is open still: nothing can
    /// be done about a descriptor that was passed on.
    Killed(Instant),
    Over,
}

/// What is to be done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Step {
    Terminate,
    /// The program if it lives, and all its descendants.
    Kill,
    /// Waits for the output no longer.
    GiveUp,
}

impl Course {
    fn new(grace: Duration) -> Self {
        Self {
            grace,
            was_asked: false,
            stage: Stage::Running,
        }
    }

    /// Notes that the program is asked to end. To ask again changes nothing.
    fn ask(&mut self, now: Instant) {
        if self.stage == Stage::Running {
            self.was_asked = true;
            self.stage = Stage::Asked(now + self.grace);
        }
    }

    /// Notes that the program has ended.
    fn note_end(&mut self, now: Instant) {
        if let Stage::Running | Stage::Asked(_) | Stage::Told(_) = self.stage {
            self.stage = Stage::Ended(now + LINGER);
        }
    }

    fn poll_timeout(&self) -> Option<Instant> {
        match self.stage {
            Stage::Asked(at) | Stage::Told(at) | Stage::Ended(at) | Stage::Killed(at) => Some(at),
            Stage::Running | Stage::Over => None,
        }
    }

    /// What is due. While nobody reads the output it is not the descendants who hold it open.
    fn handle_timeout(&mut self, now: Instant, is_read: bool) -> Option<Step> {
        if self.poll_timeout().is_none_or(|at| at > now) {
            return None;
        }
        let (stage, step) = match self.stage {
            Stage::Asked(_) => (Stage::Told(now + self.grace), Some(Step::Terminate)),
            Stage::Told(_) | Stage::Ended(_) => (Stage::Killed(now + LINGER), Some(Step::Kill)),
            Stage::Killed(_) if is_read => (Stage::Over, Some(Step::GiveUp)),
            Stage::Killed(_) => (Stage::Killed(now + LINGER), None),
            Stage::Running | Stage::Over => (self.stage, None),
        };
        self.stage = stage;
        step
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const GRACE: Duration = Duration::from_millis(250);

    #[derive(Clone, Debug)]
    enum Op {
        Ask,
        End,
        Wait(u64),
    }

    fn op() -> impl Strategy<Value = Op> {
        prop_oneof![
            1 => Just(Op::Ask),
            1 => Just(Op::End),
            4 => (0..400_u64).prop_map(Op::Wait),
        ]
    }

    proptest! {
        /// T57, T61: whatever happens in whatever order, the steps come in their order, once each,
        /// not before their time, and all of them within two graces and two lingers of the asking.
        #[test]
        fn prop_steps_come_in_order_and_in_time(ops in prop::collection::vec(op(), 0..40)) {
            let start = Instant::now();
            let mut now = start;
            let mut course = Course::new(GRACE);
            let mut asked = None;
            let mut ended = false;
            let mut steps: Vec<(Step, Instant)> = Vec::new();
            for op in ops {
                match op {
                    Op::Ask => {
                        course.ask(now);
                        asked = asked.or_else(|| (!ended).then_some(now));
                    }
                    Op::End => {
                        ended = true;
                        course.note_end(now);
                    }
                    Op::Wait(millis) => {
                        let until = now + Duration::from_millis(millis);
                        while let Some(at) = course.poll_timeout().filter(|at| *at <= until) {
                            now = at;
                            let step = course.handle_timeout(now, true);
                            steps.push((step.unwrap(), now));
                        }
                        now = until;
                    }
                }
            }
            if asked.is_none() && !ended {
                prop_assert!(steps.is_empty(), "nobody is ended unasked: {steps:?}");
            }
            let kinds: Vec<Step> = steps.iter().map(|(step, _)| *step).collect();
            let whole = [Step::Terminate, Step::Kill, Step::GiveUp];
            prop_assert!(whole.starts_with(&kinds) || whole[1..].starts_with(&kinds), "{kinds:?}");
            if let Some(asked) = asked {
                prop_assert_eq!(course.was_asked, true);
                prop_assert!(steps.iter().all(|(_, at)| *at <= asked + 2 * GRACE + 2 * LINGER));
                if let Some((Step::Terminate, at)) = steps.first() {
                    prop_assert_eq!(*at, asked + GRACE);
                }
                if now > asked + 2 * GRACE + 2 * LINGER {
                    prop_assert_eq!(kinds.last(), Some(&Step::GiveUp));
                }
            }
        }
    }

    #[test]
    fn output_that_nobody_takes_yet_is_not_given_up() {
        let now = Instant::now();
        let mut course = Course::new(GRACE);
        course.note_end(now);
        assert_eq!(course.handle_timeout(now + LINGER, false), Some(Step::Kill));
        for wait in 2..100 {
            assert_eq!(course.handle_timeout(now + LINGER * wait, false), None);
        }
        assert_eq!(
            course.handle_timeout(now + LINGER * 101, true),
            Some(Step::GiveUp)
        );
    }
}

//! One message, one process: a program gets the payload and the variables, its output is the
//! answer.

use std::ffi::OsString;
use std::future::{pending, poll_fn};
use std::io;
use std::path::PathBuf;
use std::process::ExitStatus;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::{Buf, BufMut, Bytes};
use tokio::time::{Instant, sleep_until, timeout_at};

use crate::channel::Channel;
use crate::stderr::Errors;
use crate::{Child, Confinement, Failure, Identity, Job, LineTooLong, Signal, Spawners};

/// One run of a program.
#[derive(Clone, Debug)]
pub struct Exec {
    /// The program and its arguments.
    pub argv: Vec<OsString>,
    /// The whole environment.
    pub env: Vec<(OsString, OsString)>,
    /// The working directory; without one, the server's.
    pub dir: Option<PathBuf>,
    /// The user to run as; without one, the server's.
    pub identity: Option<Identity>,
    /// What it may not do and how much it may use.
    pub confinement: Confinement,
    /// What the program reads from its standard input, byte for byte.
    pub payload: Bytes,
    /// How the payload and the answer travel.
    pub answer: AnswerChannel,
    /// How long the run may take, its start included.
    pub timeout: Duration,
    /// How many bytes the answer may have.
    pub max_output: usize,
}

/// How the payload and the answer travel.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum AnswerChannel {
    /// Two pipes, as programs are used to.
    #[default]
    Pipe,
    /// One socketpair that is both standard input and standard output.
    Socketpair,
}

/// How long a program may go on after `SIGTERM`, before `SIGKILL`.
const TERM_GRACE: Duration = Duration::from_secs(2);

/// How long descendants may hold the output open after the program has ended.
const LINGER: Duration = Duration::from_millis(100);

/// Bytes that a [`Sink`] is handed at a time.
const CHUNK_SIZE: usize = 16 * 1024;

/// Whoever takes a program's output while it runs.
pub trait Sink {
    /// Ready when it takes more. Until then the program is not read, and waits in its write.
    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<()>;

    /// Takes what the program has written.
    ///
    /// # Errors
    ///
    /// [`LineTooLong`]: the program is killed.
    fn take(&mut self, output: &[u8]) -> Result<(), LineTooLong>;
}

/// The sink of a run whose answer is wanted whole.
enum Nobody {}

impl Sink for Nobody {
    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<()> {
        match *self {}
    }

    fn take(&mut self, _: &[u8]) -> Result<(), LineTooLong> {
        match *self {}
    }
}

/// Runs a program once and returns all that it wrote to its standard output.
///
/// The answer counts when the output has ended and the program has ended with 0. If descendants
/// hold the output open 100 ms longer than the program lives, they are killed and what was written
/// so far is the answer. A program that does not take its payload is no failure.
///
/// Standard error goes to `stderr` line by line: at most 64 KiB, lines of at most 4 KiB.
///
/// # Errors
///
/// - [`Failure::CannotStart`] and [`Failure::Lost`] as from [`Spawners::spawn`].
/// - [`Failure::Exited`] and [`Failure::Signaled`] by how the program ended, unless with 0.
/// - [`Failure::TimedOut`] after `timeout`: the process group gets `SIGTERM` and, if the program
///   lives 2 s later, `SIGKILL`. The future ends when the program has.
/// - [`Failure::OutputTooLong`] as soon as the answer exceeds `max_output`; the group is killed at
///   once.
///
/// # Cancel safety
///
/// Dropping the future kills the program with all its descendants.
pub async fn run(
    spawners: &Spawners,
    exec: Exec,
    stderr: &mut (dyn FnMut(&str) + Send),
) -> Result<Vec<u8>, Failure> {
    start_and_drive(spawners, exec, None::<&mut Nobody>, stderr).await
}

/// The same, but what the program writes to its standard output goes to `sink` while it runs.
///
/// What the sink has taken by then it keeps, however the program ends. `max_output` is passed over:
/// the sink says what is too much.
///
/// # Errors
///
/// As [`run`]; [`Failure::OutputTooLong`] if the sink refuses a line.
///
/// # Cancel safety
///
/// Dropping the future kills the program with all its descendants.
pub async fn run_into(
    spawners: &Spawners,
    exec: Exec,
    sink: &mut dyn Sink,
    stderr: &mut (dyn FnMut(&str) + Send),
) -> Result<(), Failure> {
    let whole = start_and_drive(spawners, exec, Some(sink), stderr).await;
    whole.map(drop)
}

async fn start_and_drive<S: Sink + ?Sized>(
    spawners: &Spawners,
    exec: Exec,
    sink: Option<&mut S>,
    stderr: &mut (dyn FnMut(&str) + Send),
) -> Result<Vec<u8>, Failure> {
    let deadline = Instant::now() + exec.timeout;
    let (mut channel, stdin, stdout) = Channel::new(exec.answer).map_err(no_pipes)?;
    let written = channel.fill(&exec.payload).map_err(no_pipes)?;
    let (errors, stderr_end) = Errors::new().map_err(no_pipes)?;
    let Exec {
        argv,
        env,
        dir,
        identity,
        confinement,
        mut payload,
        max_output,
        ..
    } = exec;
    payload.advance(written);
    let job = Job {
        argv,
        env,
        dir,
        identity,
        confinement,
        stdin,
        stdout,
        stderr: stderr_end,
    };
    let child = match timeout_at(deadline, spawners.spawn(job)).await {
        Ok(child) => child?,
        Err(_) => return Err(Failure::TimedOut),
    };
    let mut run = Run {
        child: Some(child),
        channel,
        payload,
        answer: Vec::new(),
        max_output,
        sink,
        errors,
    };
    let ended = run.drive(deadline, stderr).await;
    // Kills what is left of the group before anybody hears of the end.
    drop(run.child.take());
    run.errors.finish(stderr);
    let status = ended?;
    Failure::of_status(status)?;
    Ok(run.answer)
}

/// A run under way.
struct Run<'a, S: ?Sized> {
    /// `None` once it is released.
    child: Option<Child>,
    channel: Channel,
    /// What is not written yet.
    payload: Bytes,
    answer: Vec<u8>,
    max_output: usize,
    /// Takes the answer as it is written.
    sink: Option<&'a mut S>,
    errors: Errors,
}

/// What the run's clock says next.
#[derive(Clone, Copy)]
enum Timer {
    /// The program's time is over: terminate it.
    Terminate(Instant),
    /// It did not end on being told to: kill it.
    Kill(Instant),
    /// It has ended, its descendants hold the output: kill them.
    Clear(Instant),
    /// They hold it still (nothing can be done about a descriptor that was passed on): let it be.
    GiveUp(Instant),
}

impl<S: Sink + ?Sized> Run<'_, S> {
    /// Carries bytes until the program and its output have ended.
    async fn drive(
        &mut self,
        deadline: Instant,
        stderr: &mut (dyn FnMut(&str) + Send),
    ) -> Result<ExitStatus, Failure> {
        let mut timer = Timer::Terminate(deadline);
        let mut status: Option<ExitStatus> = None;
        self.close_input_if_written();
        loop {
            if let Some(status) = status
                && !self.channel.is_reading()
                && !self.errors.is_open()
            {
                return Ok(status);
            }
            let (Timer::Terminate(at) | Timer::Kill(at) | Timer::Clear(at) | Timer::GiveUp(at)) =
                timer;
            tokio::select! {
                () = self.channel.writable() => self.write(),
                () = readable(&self.channel, &mut self.sink) => self.read()?,
                () = self.errors.readable() => self.errors.read(stderr).map_err(no_pipes)?,
                ended = ends(self.child.as_mut()), if status.is_none() => {
                    status = Some(ended?);
                    if matches!(timer, Timer::Kill(_)) {
                        return Err(Failure::TimedOut);
                    }
                    self.channel.close_input();
                    timer = Timer::Clear(Instant::now() + LINGER);
                }
                () = sleep_until(at) => match timer {
                    Timer::Terminate(_) => {
                        if let Some(child) = &self.child {
                            child.signal_group(Signal::Terminate);
                        }
                        timer = Timer::Kill(Instant::now() + TERM_GRACE);
                    }
                    Timer::Kill(_) => return Err(Failure::TimedOut),
                    Timer::Clear(_) => {
                        self.child = None;
                        timer = Timer::GiveUp(Instant::now() + LINGER);
                    }
                    Timer::GiveUp(_) => {
                        self.channel.close_output();
                        self.errors.close();
                    }
                },
            }
        }
    }

    fn write(&mut self) {
        match self.channel.try_write(&self.payload) {
            Ok(written) => {
                self.payload.advance(written);
                self.close_input_if_written();
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            // EPIPE: it does not want to know the rest, which is its right.
            Err(_) => self.channel.close_input(),
        }
    }

    fn close_input_if_written(&mut self) {
        if self.payload.is_empty() {
            self.channel.close_input();
        }
    }

    fn read(&mut self) -> Result<(), Failure> {
        if self.sink.is_some() {
            return self.read_into_sink();
        }
        if self.answer.len() == self.answer.capacity() {
            self.answer
                .reserve(self.answer.len().clamp(4 * 1024, 256 * 1024));
        }
        // One byte more than allowed tells a full answer from one that is too long.
        let room = self.max_output.saturating_add(1) - self.answer.len();
        match self
            .channel
            .try_read_buf(&mut (&mut self.answer).limit(room))
        {
            // ECONNRESET: it ended without reading all of its input.
            Ok(0) => self.channel.close_output(),
            Ok(_) if self.answer.len() > self.max_output => {
                return Err(Failure::OutputTooLong {
                    max: self.max_output,
                });
            }
            Ok(_) => {}
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                self.channel.register_output().map_err(no_pipes)?;
            }
            Err(_) => self.channel.close_output(),
        }
        Ok(())
    }

    fn read_into_sink(&mut self) -> Result<(), Failure> {
        let mut buffer = [0; CHUNK_SIZE];
        match self.channel.try_read_buf(&mut &mut buffer[..]) {
            Ok(0) => self.channel.close_output(),
            Ok(len) => {
                if let Some(sink) = &mut self.sink {
                    sink.take(&buffer[..len])?;
                }
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                self.channel.register_output().map_err(no_pipes)?;
            }
            Err(_) => self.channel.close_output(),
        }
        Ok(())
    }
}

/// No descriptor or no memory is to be had for the program's output.
fn no_pipes(error: io::Error) -> Failure {
    Failure::cannot_start("pipes", &error)
}

/// Waits until something may be read and there is somebody to take it.
async fn readable<S: Sink + ?Sized>(channel: &Channel, sink: &mut Option<&mut S>) {
    if let Some(sink) = sink {
        poll_fn(|cx| sink.poll_ready(cx)).await;
    }
    channel.readable().await;
}

async fn ends(child: Option<&mut Child>) -> Result<ExitStatus, Failure> {
    match child {
        Some(child) => child.wait().await,
        None => pending().await,
    }
}

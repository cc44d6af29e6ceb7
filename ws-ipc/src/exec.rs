//! One message, one process: a program gets the payload and the variables, its output is the
//! answer.

use std::ffi::OsString;
use std::future::pending;
use std::io;
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::process::ExitStatus;
use std::time::Duration;

use bytes::{Buf, BufMut, Bytes};
use tokio::net::UnixStream;
use tokio::net::unix::pipe;
use tokio::time::{Instant, sleep_until, timeout_at};

use crate::stderr::Lines;
use crate::{Child, Confinement, Failure, Identity, Job, Signal, Spawners, socketpair};

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

/// What a pipe holds unless it is told otherwise (pipe(7)).
const DEFAULT_PIPE_SIZE: usize = 64 * 1024;

/// How many bytes of standard error are handed out per run.
const MAX_STDERR_SIZE: usize = 64 * 1024;

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
    let deadline = Instant::now() + exec.timeout;
    let open = |error| Failure::cannot_start("pipes", &error);
    let (channel, stdin, stdout) = Channel::new(exec.answer).map_err(open)?;
    let written = channel.fill(&exec.payload);
    let (errors, stderr_end) = socketpair::pipe().map_err(open)?;
    let errors = pipe::Receiver::from_owned_fd(errors).map_err(open)?;
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
        errors: Some(errors),
        lines: Lines::new(MAX_STDERR_SIZE),
    };
    let ended = run.drive(deadline, stderr).await;
    // Kills what is left of the group before anybody hears of the end.
    drop(run.child.take());
    run.lines.finish(stderr);
    let status = ended?;
    match (
        status.code(),
        std::os::unix::process::ExitStatusExt::signal(&status),
    ) {
        (Some(0), _) => Ok(run.answer),
        (Some(code), _) => Err(Failure::Exited(code)),
        (None, signal) => Err(Failure::Signaled(signal.unwrap_or(0))),
    }
}

/// A run under way.
struct Run {
    /// `None` once it is released.
    child: Option<Child>,
    channel: Channel,
    /// What is not written yet.
    payload: Bytes,
    answer: Vec<u8>,
    max_output: usize,
    errors: Option<pipe::Receiver>,
    lines: Lines,
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

impl Run {
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
                && self.errors.is_none()
            {
                return Ok(status);
            }
            let (Timer::Terminate(at) | Timer::Kill(at) | Timer::Clear(at) | Timer::GiveUp(at)) =
                timer;
            tokio::select! {
                () = self.channel.writable() => self.write(),
                () = self.channel.readable() => self.read()?,
                () = readable(self.errors.as_ref()) => self.read_errors(stderr),
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
                        self.errors = None;
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
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            Err(_) => self.channel.close_output(),
        }
        Ok(())
    }

    fn read_errors(&mut self, stderr: &mut (dyn FnMut(&str) + Send)) {
        let mut buffer = [0; 4 * 1024];
        match self
            .errors
            .as_ref()
            .map(|errors| errors.try_read(&mut buffer))
        {
            Some(Ok(len @ 1..)) => self.lines.feed(&buffer[..len], stderr),
            Some(Err(error)) if error.kind() == io::ErrorKind::WouldBlock => {}
            _ => self.errors = None,
        }
    }
}

/// Our ends of what the program has as standard input and output.
enum Channel {
    Pipes {
        input: Option<pipe::Sender>,
        output: Option<pipe::Receiver>,
    },
    Socketpair {
        stream: UnixStream,
        is_writing: bool,
        is_reading: bool,
    },
}

impl Channel {
    /// Our ends, the program's standard input and its standard output.
    fn new(kind: AnswerChannel) -> io::Result<(Self, OwnedFd, OwnedFd)> {
        match kind {
            AnswerChannel::Pipe => {
                let (stdin, input) = socketpair::pipe()?;
                let (output, stdout) = socketpair::pipe()?;
                let channel = Self::Pipes {
                    input: Some(pipe::Sender::from_owned_fd(input)?),
                    output: Some(pipe::Receiver::from_owned_fd(output)?),
                };
                Ok((channel, stdin, stdout))
            }
            AnswerChannel::Socketpair => {
                let (ours, stdin) = socketpair::stream()?;
                let stream = std::os::unix::net::UnixStream::from(ours);
                stream.set_nonblocking(true)?;
                let stream = UnixStream::from_std(stream)?;
                let stdout = stdin.try_clone()?;
                Ok((
                    Self::Socketpair {
                        stream,
                        is_writing: true,
                        is_reading: true,
                    },
                    stdin,
                    stdout,
                ))
            }
        }
    }

    /// Writes what fits at once, before the program is started, and says how much that was.
    ///
    /// A program whose run is given up while it starts then finds its whole payload nevertheless;
    /// it must not take the beginning, or nothing, for the message.
    fn fill(&self, payload: &[u8]) -> usize {
        let Self::Pipes {
            input: Some(input), ..
        } = self
        else {
            return 0;
        };
        if payload.len() > DEFAULT_PIPE_SIZE {
            // Beyond what the system allows, the rest is written while the program reads.
            let _ = rustix::pipe::fcntl_setpipe_size(input, payload.len());
        }
        // The runtime has not seen yet that the pipe is writable; the kernel knows.
        rustix::io::write(input, payload).unwrap_or(0)
    }

    fn is_reading(&self) -> bool {
        match self {
            Self::Pipes { output, .. } => output.is_some(),
            Self::Socketpair { is_reading, .. } => *is_reading,
        }
    }

    /// Waits until something may be written; for ever once the input is closed.
    async fn writable(&self) {
        // An error shows again, and is handled, in the attempt that follows.
        let _ = match self {
            Self::Pipes {
                input: Some(input), ..
            } => input.writable().await,
            Self::Socketpair {
                stream,
                is_writing: true,
                ..
            } => stream.writable().await,
            _ => pending().await,
        };
    }

    /// Waits until something may be read; for ever once the output is closed.
    async fn readable(&self) {
        let _ = match self {
            Self::Pipes {
                output: Some(output),
                ..
            } => output.readable().await,
            Self::Socketpair {
                stream,
                is_reading: true,
                ..
            } => stream.readable().await,
            _ => pending().await,
        };
    }

    fn try_write(&self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            Self::Pipes {
                input: Some(input), ..
            } => input.try_write(bytes),
            Self::Socketpair {
                stream,
                is_writing: true,
                ..
            } => stream.try_write(bytes),
            _ => Err(io::ErrorKind::BrokenPipe.into()),
        }
    }

    fn try_read_buf(&self, buffer: &mut impl BufMut) -> io::Result<usize> {
        match self {
            Self::Pipes {
                output: Some(output),
                ..
            } => output.try_read_buf(buffer),
            Self::Socketpair {
                stream,
                is_reading: true,
                ..
            } => stream.try_read_buf(buffer),
            _ => Ok(0),
        }
    }

    fn close_input(&mut self) {
        match self {
            Self::Pipes { input, .. } => *input = None,
            Self::Socketpair {
                stream, is_writing, ..
            } => {
                if std::mem::take(is_writing) {
                    // It fails only if the program has closed its side before.
                    let _ = rustix::net::shutdown(&*stream, rustix::net::Shutdown::Write);
                }
            }
        }
    }

    fn close_output(&mut self) {
        match self {
            Self::Pipes { output, .. } => *output = None,
            Self::Socketpair { is_reading, .. } => *is_reading = false,
        }
    }
}

async fn readable(errors: Option<&pipe::Receiver>) {
    match errors {
        Some(errors) => drop(errors.readable().await),
        None => pending().await,
    }
}

async fn ends(child: Option<&mut Child>) -> Result<ExitStatus, Failure> {
    match child {
        Some(child) => child.wait().await,
        None => pending().await,
    }
}

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

/// How much is read at a time before the runtime has to do with it.
const FIRST_READ_SIZE: usize = 4 * 1024;

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
    let (mut channel, stdin, stdout) = Channel::new(exec.answer).map_err(no_pipes)?;
    let written = channel.fill(&exec.payload).map_err(no_pipes)?;
    let (errors, stderr_end) = socketpair::pipe().map_err(no_pipes)?;
    let errors = Output::new(errors).map_err(no_pipes)?;
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
        errors,
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
    errors: Output,
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
                && self.errors.is_closed()
            {
                return Ok(status);
            }
            let (Timer::Terminate(at) | Timer::Kill(at) | Timer::Clear(at) | Timer::GiveUp(at)) =
                timer;
            tokio::select! {
                () = self.channel.writable() => self.write(),
                () = self.channel.readable() => self.read()?,
                () = self.errors.readable() => self.read_errors(stderr)?,
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
                        self.errors = Output::Closed;
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
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                self.channel.register_output().map_err(no_pipes)?;
            }
            Err(_) => self.channel.close_output(),
        }
        Ok(())
    }

    fn read_errors(&mut self, stderr: &mut (dyn FnMut(&str) + Send)) -> Result<(), Failure> {
        let mut buffer = [0; 4 * 1024];
        match self.errors.try_read_buf(&mut buffer.as_mut_slice()) {
            Ok(len @ 1..) => self.lines.feed(&buffer[..len], stderr),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                self.errors.register().map_err(no_pipes)?;
            }
            _ => self.errors = Output::Closed,
        }
        Ok(())
    }
}

/// No descriptor or no memory is to be had for the program's output.
fn no_pipes(error: io::Error) -> Failure {
    Failure::cannot_start("pipes", &error)
}

/// Our ends of what the program has as standard input and output.
enum Channel {
    Pipes {
        input: Input,
        output: Output,
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
                    input: Input::Filling(input),
                    output: Output::new(output)?,
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
    fn fill(&mut self, payload: &[u8]) -> io::Result<usize> {
        let Self::Pipes { input, .. } = self else {
            return Ok(0);
        };
        let Input::Filling(pipe) = std::mem::replace(input, Input::Closed) else {
            return Ok(0);
        };
        rustix::io::ioctl_fionbio(&pipe, true)?;
        if payload.len() > DEFAULT_PIPE_SIZE {
            // Beyond what the system allows, the rest is written while the program reads.
            let _ = rustix::pipe::fcntl_setpipe_size(&pipe, payload.len());
        }
        let written = rustix::io::write(&pipe, payload).unwrap_or(0);
        if written < payload.len() {
            *input = Input::Open(pipe::Sender::from_owned_fd(pipe)?);
        }
        Ok(written)
    }

    fn is_reading(&self) -> bool {
        match self {
            Self::Pipes { output, .. } => !output.is_closed(),
            Self::Socketpair { is_reading, .. } => *is_reading,
        }
    }

    /// Waits until something may be written; for ever once the input is closed.
    async fn writable(&self) {
        // An error shows again, and is handled, in the attempt that follows.
        let _ = match self {
            Self::Pipes {
                input: Input::Open(input),
                ..
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
        match self {
            Self::Pipes { output, .. } => output.readable().await,
            Self::Socketpair {
                stream,
                is_reading: true,
                ..
            } => drop(stream.readable().await),
            Self::Socketpair { .. } => pending().await,
        }
    }

    fn try_write(&self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            Self::Pipes {
                input: Input::Open(input),
                ..
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
            Self::Pipes { output, .. } => output.try_read_buf(buffer),
            Self::Socketpair {
                stream,
                is_reading: true,
                ..
            } => stream.try_read_buf(buffer),
            _ => Ok(0),
        }
    }

    /// Waits for more output from here on, which was not there at the first attempt.
    fn register_output(&mut self) -> io::Result<()> {
        match self {
            Self::Pipes { output, .. } => output.register(),
            Self::Socketpair { .. } => Ok(()),
        }
    }

    fn close_input(&mut self) {
        match self {
            Self::Pipes { input, .. } => *input = Input::Closed,
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
            Self::Pipes { output, .. } => *output = Output::Closed,
            Self::Socketpair { is_reading, .. } => *is_reading = false,
        }
    }
}

/// The pipe from which the program reads.
enum Input {
    /// The program is not there yet.
    Filling(OwnedFd),
    Open(pipe::Sender),
    Closed,
}

/// A pipe to which the program writes.
///
/// The runtime is told of it when a first attempt has found it empty: what a quick program has
/// written is there by then, and so is the end, which saves the better part of the cost here.
enum Output {
    Untried(OwnedFd),
    Open(pipe::Receiver),
    Closed,
}

impl Output {
    fn new(pipe: OwnedFd) -> io::Result<Self> {
        rustix::io::ioctl_fionbio(&pipe, true)?;
        Ok(Self::Untried(pipe))
    }

    fn is_closed(&self) -> bool {
        matches!(self, Self::Closed)
    }

    /// Waits until a read may succeed; for ever once it is closed.
    async fn readable(&self) {
        match self {
            Self::Untried(_) => {}
            Self::Open(pipe) => drop(pipe.readable().await),
            Self::Closed => pending().await,
        }
    }

    fn try_read_buf(&self, buffer: &mut impl BufMut) -> io::Result<usize> {
        match self {
            Self::Untried(pipe) => {
                let mut chunk = [0; FIRST_READ_SIZE];
                let room = chunk.len().min(buffer.remaining_mut());
                let len = rustix::io::read(pipe, &mut chunk[..room])?;
                buffer.put_slice(&chunk[..len]);
                Ok(len)
            }
            Self::Open(pipe) => pipe.try_read_buf(buffer),
            Self::Closed => Ok(0),
        }
    }

    /// Leaves it to the runtime from here on, if it is not yet.
    fn register(&mut self) -> io::Result<()> {
        *self = match std::mem::replace(self, Self::Closed) {
            Self::Untried(pipe) => Self::Open(pipe::Receiver::from_owned_fd(pipe)?),
            other => other,
        };
        Ok(())
    }
}

async fn ends(child: Option<&mut Child>) -> Result<ExitStatus, Failure> {
    match child {
        Some(child) => child.wait().await,
        None => pending().await,
    }
}

//! Our ends of a program's standard input and output.

use std::future::pending;
use std::io::{self, IoSlice};
use std::os::fd::OwnedFd;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::BufMut;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::UnixStream;
use tokio::net::unix::pipe;

use crate::exec::AnswerChannel;
use crate::socketpair;

/// What a pipe holds unless it is told otherwise (pipe(7)).
const DEFAULT_PIPE_SIZE: usize = 64 * 1024;

/// How much is read at a time before the runtime has to do with it.
const FIRST_READ_SIZE: usize = 4 * 1024;

/// Our ends of what the program has as standard input and output.
#[derive(Debug)]
pub(crate) enum Channel {
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
    pub(crate) fn new(kind: AnswerChannel) -> io::Result<(Self, OwnedFd, OwnedFd)> {
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
    pub(crate) fn fill(&mut self, payload: &[u8]) -> io::Result<usize> {
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

    /// Leaves both directions to the runtime, for a conversation.
    pub(crate) fn register(&mut self) -> io::Result<()> {
        if let Self::Pipes { input, output } = self {
            input.register()?;
            output.register()?;
        }
        Ok(())
    }

    /// Waits for more output from here on, which was not there at the first attempt.
    pub(crate) fn register_output(&mut self) -> io::Result<()> {
        match self {
            Self::Pipes { output, .. } => output.register(),
            Self::Socketpair { .. } => Ok(()),
        }
    }

    pub(crate) fn is_writing(&self) -> bool {
        match self {
            Self::Pipes { input, .. } => !matches!(input, Input::Closed),
            Self::Socketpair { is_writing, .. } => *is_writing,
        }
    }

    pub(crate) fn is_reading(&self) -> bool {
        match self {
            Self::Pipes { output, .. } => !output.is_closed(),
            Self::Socketpair { is_reading, .. } => *is_reading,
        }
    }

    /// Waits until something may be written; for ever once the input is closed.
    pub(crate) async fn writable(&self) {
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
    pub(crate) async fn readable(&self) {
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

    pub(crate) fn try_write(&self, bytes: &[u8]) -> io::Result<usize> {
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

    pub(crate) fn try_read_buf(&self, buffer: &mut impl BufMut) -> io::Result<usize> {
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

    /// Writes as much as there is room for, or has the task woken when there is some.
    pub(crate) fn poll_write(
        &mut self,
        cx: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        match self {
            Self::Pipes {
                input: Input::Open(input),
                ..
            } => Pin::new(input).poll_write_vectored(cx, slices),
            Self::Socketpair {
                stream,
                is_writing: true,
                ..
            } => Pin::new(stream).poll_write_vectored(cx, slices),
            _ => Poll::Ready(Err(io::ErrorKind::BrokenPipe.into())),
        }
    }

    /// Reads what is there, or has the task woken when there is something; 0 is the end.
    pub(crate) fn poll_read(
        &mut self,
        cx: &mut Context<'_>,
        buffer: &mut [u8],
    ) -> Poll<io::Result<usize>> {
        let mut buffer = ReadBuf::new(buffer);
        let read = match self {
            Self::Pipes { output, .. } => output.poll_read(cx, &mut buffer),
            Self::Socketpair {
                stream,
                is_reading: true,
                ..
            } => Pin::new(stream).poll_read(cx, &mut buffer),
            Self::Socketpair { .. } => Poll::Ready(Ok(())),
        };
        ready!(read)?;
        Poll::Ready(Ok(buffer.filled().len()))
    }

    pub(crate) fn close_input(&mut self) {
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

    pub(crate) fn close_output(&mut self) {
        match self {
            Self::Pipes { output, .. } => *output = Output::Closed,
            Self::Socketpair { is_reading, .. } => *is_reading = false,
        }
    }
}

/// The pipe from which the program reads.
#[derive(Debug)]
pub(crate) enum Input {
    /// The program is not there yet.
    Filling(OwnedFd),
    Open(pipe::Sender),
    Closed,
}

impl Input {
    fn register(&mut self) -> io::Result<()> {
        *self = match std::mem::replace(self, Self::Closed) {
            Self::Filling(pipe) => Self::Open(pipe::Sender::from_owned_fd(pipe)?),
            other => other,
        };
        Ok(())
    }
}

/// A pipe to which the program writes.
///
/// The runtime is told of it when a first attempt has found it empty: what a quick program has
/// written is there by then, and so is the end, which saves the better part of the cost here.
#[derive(Debug)]
pub(crate) enum Output {
    Untried(OwnedFd),
    Open(pipe::Receiver),
    Closed,
}

impl Output {
    pub(crate) fn new(pipe: OwnedFd) -> io::Result<Self> {
        rustix::io::ioctl_fionbio(&pipe, true)?;
        Ok(Self::Untried(pipe))
    }

    pub(crate) fn is_closed(&self) -> bool {
        matches!(self, Self::Closed)
    }

    /// Waits until a read may succeed; for ever once it is closed.
    pub(crate) async fn readable(&self) {
        match self {
            Self::Untried(_) => {}
            Self::Open(pipe) => drop(pipe.readable().await),
            Self::Closed => pending().await,
        }
    }

    pub(crate) fn try_read_buf(&self, buffer: &mut impl BufMut) -> io::Result<usize> {
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

    /// Reads what is there, or has the task woken when there is something; nothing is the end.
    pub(crate) fn poll_read(
        &mut self,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        self.register()?;
        match self {
            Self::Open(pipe) => Pin::new(pipe).poll_read(cx, buffer),
            Self::Untried(_) | Self::Closed => Poll::Ready(Ok(())),
        }
    }

    /// Leaves it to the runtime from here on, if it is not yet.
    pub(crate) fn register(&mut self) -> io::Result<()> {
        *self = match std::mem::replace(self, Self::Closed) {
            Self::Untried(pipe) => Self::Open(pipe::Receiver::from_owned_fd(pipe)?),
            other => other,
        };
        Ok(())
    }
}

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

/// Our ends of what the program has as standard input and output.
#[derive(Debug)]
pub(crate) enum Channel {
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
    pub(crate) fn new(kind: AnswerChannel) -> io::Result<(Self, OwnedFd, OwnedFd)> {
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
    pub(crate) fn fill(&self, payload: &[u8]) -> usize {
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

    pub(crate) fn is_writing(&self) -> bool {
        match self {
            Self::Pipes { input, .. } => input.is_some(),
            Self::Socketpair { is_writing, .. } => *is_writing,
        }
    }

    pub(crate) fn is_reading(&self) -> bool {
        match self {
            Self::Pipes { output, .. } => output.is_some(),
            Self::Socketpair { is_reading, .. } => *is_reading,
        }
    }

    /// Waits until something may be written; for ever once the input is closed.
    pub(crate) async fn writable(&self) {
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
    pub(crate) async fn readable(&self) {
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

    pub(crate) fn try_write(&self, bytes: &[u8]) -> io::Result<usize> {
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

    pub(crate) fn try_read_buf(&self, buffer: &mut impl BufMut) -> io::Result<usize> {
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

    /// Writes as much as there is room for, or has the task woken when there is some.
    pub(crate) fn poll_write(
        &mut self,
        cx: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        match self {
            Self::Pipes {
                input: Some(input), ..
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
            Self::Pipes {
                output: Some(output),
                ..
            } => Pin::new(output).poll_read(cx, &mut buffer),
            Self::Socketpair {
                stream,
                is_reading: true,
                ..
            } => Pin::new(stream).poll_read(cx, &mut buffer),
            _ => Poll::Ready(Ok(())),
        };
        ready!(read)?;
        Poll::Ready(Ok(buffer.filled().len()))
    }

    pub(crate) fn close_input(&mut self) {
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

    pub(crate) fn close_output(&mut self) {
        match self {
            Self::Pipes { output, .. } => *output = None,
            Self::Socketpair { is_reading, .. } => *is_reading = false,
        }
    }
}

//! One connection to a FastCGI server: one request, its response, and then perhaps another.

use std::future::poll_fn;
use std::io;
use std::os::fd::AsFd;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use rustix::net::RecvFlags;
use tokio::io::{AsyncRead, AsyncWrite, Interest, ReadBuf};
use tokio::net::UnixStream;
use tokio::time::{Instant, timeout};

use super::codec::{BEGIN_SIZE, Event, FastCgiError, ProtocolStatus, ResponseDecoder};
use super::encode_request;
use super::pool::Queued;
use crate::cgi::{self, AnswerDecoder, CgiError};
use crate::connector::Stream;
use crate::{Environment, Failure, sys};

/// How long a server may take, after a response, to come back for the next request.
const READY_WAIT: Duration = Duration::from_millis(10);

/// How much is read at once. php-fpm writes at most 64 KiB at once, mostly 8.
const INPUT_SIZE: usize = 32 * 1024;

/// Larger requests give their memory back.
const MAX_KEPT_OUTPUT_SIZE: usize = 64 * 1024;

/// A connection, and the buffers that its requests share.
#[derive(Debug)]
pub(super) struct Connection {
    stream: Stream,
    input: Vec<u8>,
    output: Vec<u8>,
    /// How much of `output` the kernel has taken.
    written: usize,
    /// The id of the request under way. Neighbours have different ones, so that the rest of one
    /// response is never taken for the next.
    id: u16,
    opened: Instant,
    /// While the server has not begun to read the first request.
    queued: Option<Queued>,
    /// What the kernel holds for the server then.
    unread_size: usize,
}

impl Connection {
    /// The ticket is for a connection that may be kept.
    pub(super) fn new(stream: Stream, queued: Option<Queued>) -> Self {
        Self {
            stream,
            input: vec![0; INPUT_SIZE],
            output: Vec::new(),
            written: 0,
            id: 2,
            opened: Instant::now(),
            queued,
            unread_size: 0,
        }
    }

    /// How long ago it was opened.
    pub(super) fn age(&self) -> Duration {
        self.opened.elapsed()
    }

    /// Sends the request, as far as the kernel takes it at once.
    ///
    /// # Errors
    ///
    /// Nothing of it has been sent then.
    pub(super) fn start(
        &mut self,
        environment: &Environment,
        payload: &[u8],
        keep: bool,
    ) -> io::Result<()> {
        self.id = 3 - self.id;
        self.output.clear();
        self.output.shrink_to(MAX_KEPT_OUTPUT_SIZE);
        encode_request(&mut self.output, self.id, keep, environment, payload);
        self.written = 0;
        if self.queued.is_some() {
            // A piece by itself, so that it is seen when the server reads it.
            self.written = self.stream.write_now(&self.output[..BEGIN_SIZE])?;
        }
        self.written += self.stream.write_now(&self.output[self.written..])?;
        if self.queued.is_some() {
            self.unread_size = self.unix().map_or(0, unread_size);
        }
        Ok(())
    }

    /// Sends the rest of the request and reads the answer; the server's standard error goes to
    /// `stderr`. Returns whether another request may follow, too.
    pub(super) async fn finish(
        &mut self,
        max_output: usize,
        stderr: &mut (dyn FnMut(&[u8]) + Send),
    ) -> Result<(Vec<u8>, bool), Failure> {
        let too_long = || Failure::OutputTooLong { max: max_output };
        let mut decoder = ResponseDecoder::new(self.id);
        let mut answer = AnswerDecoder::new(max_output.saturating_add(cgi::MAX_HEAD_SIZE));
        let rest = loop {
            // The end before the response's is the end of the process that served it.
            let Ok(len @ 1..) = self.exchange().await else {
                return Err(Failure::Lost);
            };
            let mut chunk = &self.input[..len];
            let mut end = None;
            while let Some(event) = decoder.decode(&mut chunk).map_err(Failure::BadRecord)? {
                match event {
                    Event::Stdout(bytes) => match answer.feed(bytes) {
                        Ok(_) => {}
                        Err(CgiError::TooLarge { .. }) => return Err(too_long()),
                        Err(error) => return Err(Failure::BadAnswer(error)),
                    },
                    Event::Stderr(bytes) => stderr(bytes),
                    Event::End {
                        app_status,
                        protocol_status,
                    } => end = Some((app_status, protocol_status)),
                }
            }
            if let Some((app_status, protocol_status)) = end {
                check_end(app_status, protocol_status)?;
                break chunk.len();
            }
        };
        let whole = answer.finish().map_err(Failure::BadAnswer)?;
        if whole.body().len() > max_output {
            return Err(too_long());
        }
        let is_clean = rest == 0 && self.written == self.output.len();
        Ok((answer.into_bytes(), is_clean))
    }

    /// Whether a request may follow on this connection, if the server lets it.
    pub(super) fn may_be_kept(&self) -> bool {
        self.unix().is_some()
    }

    /// Whether the server has read all of the last request.
    pub(super) fn has_been_read(&self) -> bool {
        self.unix().is_some_and(has_been_read)
    }

    /// Waits until the server has read all of the last request; returns whether it does soon.
    pub(super) async fn is_read_soon(&self) -> bool {
        let Some(stream) = self.unix() else {
            return false;
        };
        // The socket becomes writable anew when its peer has read something.
        let wait = stream.async_io(Interest::WRITABLE, || match has_been_read(stream) {
            true => Ok(()),
            false => Err(io::ErrorKind::WouldBlock.into()),
        });
        matches!(timeout(READY_WAIT, wait).await, Ok(Ok(())))
    }

    /// Whether the server has not closed the connection, nor sent what nobody asked for.
    pub(super) fn is_open(&self) -> bool {
        let flags = RecvFlags::PEEK | RecvFlags::DONTWAIT;
        let peek = |stream: &UnixStream| rustix::net::recv(stream, &mut [0_u8; 1][..], flags);
        self.unix()
            .is_some_and(|stream| matches!(peek(stream), Err(rustix::io::Errno::AGAIN)))
    }

    fn unix(&self) -> Option<&UnixStream> {
        match &self.stream {
            Stream::Unix(stream) => Some(stream),
            Stream::Tcp(_) => None,
        }
    }

    /// Waits for input and reads it; meanwhile sends what is left of the request.
    async fn exchange(&mut self) -> io::Result<usize> {
        let Self {
            stream,
            input,
            output,
            written,
            queued,
            unread_size,
            ..
        } = self;
        let unread_size = *unread_size;
        let mut stream = Pin::new(stream);
        let mut is_writing = true;
        poll_fn(|cx| {
            while is_writing && *written < output.len() {
                match stream.as_mut().poll_write(cx, &output[*written..]) {
                    Poll::Ready(Ok(len)) => {
                        *written += len;
                        // There is room because the server reads.
                        *queued = None;
                    }
                    // Who does not read to the end may have answered all the same.
                    Poll::Ready(Err(_)) => is_writing = false,
                    Poll::Pending => break,
                }
            }
            if queued.is_some() && poll_reads(&stream, unread_size, cx).is_ready() {
                *queued = None;
            }
            let mut buffer = ReadBuf::new(input);
            ready!(stream.as_mut().poll_read(cx, &mut buffer))?;
            *queued = None;
            Poll::Ready(Ok(buffer.filled().len()))
        })
        .await
    }
}

/// Whether the peer has read all that was sent. The kernel says so a moment before it has counted
/// the last byte.
fn has_been_read(stream: &UnixStream) -> bool {
    unread_size(stream) <= 1
}

fn unread_size(stream: &UnixStream) -> usize {
    // An open socket has no error to tell.
    sys::unread_by_peer(stream.as_fd()).unwrap_or(0)
}

/// Whether the peer has read some of what was sent; if not, the task is woken when it does.
fn poll_reads(stream: &Stream, unread_before: usize, cx: &mut Context<'_>) -> Poll<()> {
    let Stream::Unix(stream) = stream else {
        return Poll::Ready(());
    };
    // The socket becomes writable anew when its peer has read something, so there must be
    // something. A closed one stays writable for ever, which is no reason to ask for ever.
    let check = || match has_been_read(stream) || unread_size(stream) < unread_before {
        true => Ok(()),
        false => Err(io::ErrorKind::WouldBlock.into()),
    };
    let is_over = ready!(stream.poll_write_ready(cx)).is_err()
        || stream.try_io(Interest::WRITABLE, check).is_ok()
        || stream.poll_write_ready(cx).is_ready();
    match is_over {
        true => Poll::Ready(()),
        false => Poll::Pending,
    }
}

fn check_end(app_status: u32, protocol_status: ProtocolStatus) -> Result<(), Failure> {
    match protocol_status {
        ProtocolStatus::RequestComplete if app_status == 0 => Ok(()),
        // It is an exit code (§5.5); a larger one is negative.
        ProtocolStatus::RequestComplete => Err(Failure::Exited(app_status.cast_signed())),
        ProtocolStatus::Overloaded => Err(Failure::Overloaded),
        status @ (ProtocolStatus::CannotMultiplex | ProtocolStatus::UnknownRole) => {
            Err(Failure::BadRecord(FastCgiError::Refused(status)))
        }
    }
}

//! Asking over SCGI: a service of ours, or a server that others run.

use std::io;
use std::os::fd::AsFd;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use rustix::io::Errno;
use rustix::net::{RecvFlags, SendFlags};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, Interest};
use tokio::net::UnixStream;
use tokio::time::{Instant, timeout_at};

use crate::cgi::{self, AnswerDecoder, CgiError};
use crate::connector::Connector;
use crate::{Address, Environment, Failure, scgi, sys};

/// An SCGI server that others run, asked at its address.
///
/// Each request has a connection of its own, as SCGI wants it. How many there are at once is the
/// caller's to bound. A handle; clones ask the same server.
#[derive(Clone, Debug)]
pub struct ScgiServer {
    connector: Arc<Connector>,
}

impl ScgiServer {
    /// Makes a client; connects to nothing yet.
    pub fn new(address: Address) -> Self {
        Self {
            connector: Arc::new(Connector::new(address)),
        }
    }

    /// Returns where it is asked.
    pub fn address(&self) -> &Address {
        self.connector.address()
    }

    /// Looks whether the server is there: connects to it, and asks it nothing.
    ///
    /// # Errors
    ///
    /// [`Failure::Unreachable`] if nobody listens at the address, or cannot be reached within
    /// `timeout`; [`Failure::Overloaded`] if the queue of its listening socket is full.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future closes the connection.
    pub async fn reach(&self, timeout: Duration) -> Result<(), Failure> {
        self.connector.reach(Instant::now() + timeout).await
    }

    /// Asks one request and returns its answer, CGI headers included.
    ///
    /// The answer is whole with what its `Content-Length` announces, or, without one, when the
    /// server closes the connection: an answer that a crash cut off then passes for a whole one.
    ///
    /// # Errors
    ///
    /// - [`Failure::Unreachable`] if nobody listens at the address. A server that was there a
    ///   moment ago is waited for, up to 2 s and within `timeout`.
    /// - [`Failure::Overloaded`] if the queue of its listening socket is full until `timeout`.
    /// - [`Failure::TimedOut`] after `timeout`.
    /// - [`Failure::OutputTooLong`] if the body exceeds `max_output`.
    /// - [`Failure::BadAnswer`] if the answer is cut off or malformed.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future closes the connection.
    pub async fn call(
        &self,
        env: &Environment,
        payload: &Bytes,
        timeout: Duration,
        max_output: usize,
    ) -> Result<Vec<u8>, Failure> {
        let deadline = Instant::now() + timeout;
        let mut stream = self.connector.connect(deadline).await?;
        let exchange = exchange(&mut stream, env, payload, max_output, Length::Optional);
        let answered = timeout_at(deadline, exchange).await;
        answered.unwrap_or(Err(Failure::TimedOut))
    }
}

/// Whether an answer must announce its length.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Length {
    Required,
    Optional,
}

/// Bytes of a payload that costs less to copy than to write by itself.
const SMALL: usize = 16 * 1024;

/// Sends one request and reads its answer.
pub(crate) async fn exchange(
    stream: &mut (impl AsyncRead + AsyncWrite + Unpin),
    env: &Environment,
    payload: &Bytes,
    max_output: usize,
    length: Length,
) -> Result<Vec<u8>, Failure> {
    let (head, payload) = encode(env, payload);
    exchange_encoded(
        stream,
        &head,
        payload,
        AnswerReader::new(max_output, length),
    )
    .await
}

/// As [`exchange`], over a connection that does not block and that no runtime knows yet.
///
/// Most requests are written by one call, and then only the answer is to be waited for. A stream of
/// the runtime would also hear that it may be written to, each time, which is a wake-up for nothing.
pub(crate) async fn exchange_at_once(
    stream: &std::os::unix::net::UnixStream,
    env: &Environment,
    payload: &Bytes,
    max_output: usize,
    length: Length,
) -> Result<Vec<u8>, Failure> {
    let refused = |error: io::Error| Failure::cannot_start("connection", &error);
    let (head, payload) = encode(env, payload);
    let mut answer = AnswerReader::new(max_output, length);
    // An error comes again, and is told, when the rest is written.
    let sent = rustix::net::send(stream, &head, SendFlags::NOSIGNAL).unwrap_or(0);
    if sent < head.len() || !payload.is_empty() {
        let stream = stream.try_clone().and_then(UnixStream::from_std);
        let mut stream = stream.map_err(refused)?;
        return exchange_encoded(&mut stream, &head[sent..], payload, answer).await;
    }
    let stream = sys::register(stream.as_fd(), Interest::READABLE).map_err(refused)?;
    loop {
        let mut ready = stream.readable().await.map_err(refused)?;
        let fed = ready.try_io(|stream| {
            let mut buffer = [0; BUFFER_SIZE];
            match rustix::net::recv(stream, &mut buffer, RecvFlags::empty()) {
                Err(Errno::AGAIN) => Err(io::ErrorKind::WouldBlock.into()),
                Err(Errno::INTR) => Ok(Ok(false)),
                received => Ok(answer.feed(&buffer[..received.map_or(0, |(len, _)| len)])),
            }
        });
        // Otherwise it was not ready after all.
        if let Ok(Ok(is_whole)) = fed
            && is_whole?
        {
            return answer.finish();
        }
    }
}

/// The request, and what of the payload is written by itself.
fn encode<'a>(env: &Environment, payload: &'a Bytes) -> (Vec<u8>, &'a [u8]) {
    let mut head = scgi::encode_request(env, payload.len());
    // What is small leaves in one write, and wakes the other side once.
    if payload.len() <= SMALL {
        head.extend_from_slice(payload);
        return (head, &[]);
    }
    (head, payload)
}

async fn exchange_encoded(
    stream: &mut (impl AsyncRead + AsyncWrite + Unpin),
    head: &[u8],
    payload: &[u8],
    mut answer: AnswerReader,
) -> Result<Vec<u8>, Failure> {
    let (mut input, mut output) = tokio::io::split(stream);
    let write = async {
        // Who does not read to the end may answer all the same. Our direction is not shut down: to
        // a peer that could mean that nobody waits.
        if output.write_all(head).await.is_ok() {
            let _ = output.write_all(payload).await;
        }
        std::future::pending().await
    };
    let read = async {
        let mut buffer = vec![0; BUFFER_SIZE];
        loop {
            // An error is an end: the peer closed with some of the request unread.
            let len = input.read(&mut buffer).await.unwrap_or(0);
            if answer.feed(&buffer[..len])? {
                return answer.finish();
            }
        }
    };
    tokio::select! {
        answer = read => answer,
        never = write => never,
    }
}

const BUFFER_SIZE: usize = 8 * 1024;

/// Takes an answer as it comes.
struct AnswerReader {
    decoder: AnswerDecoder,
    max_output: usize,
    length: Length,
}

impl AnswerReader {
    fn new(max_output: usize, length: Length) -> Self {
        Self {
            decoder: AnswerDecoder::new(max_output.saturating_add(cgi::MAX_HEAD_SIZE)),
            max_output,
            length,
        }
    }

    /// Takes what was read, nothing at the end of the stream; tells whether the answer is there.
    fn feed(&mut self, bytes: &[u8]) -> Result<bool, Failure> {
        match self.decoder.feed(bytes) {
            Ok(is_whole) => Ok(is_whole || bytes.is_empty()),
            Err(CgiError::TooLarge { .. }) => Err(self.too_long()),
            Err(error) => Err(Failure::BadAnswer(error)),
        }
    }

    fn finish(self) -> Result<Vec<u8>, Failure> {
        let answer = self.decoder.finish().map_err(Failure::BadAnswer)?;
        if self.length == Length::Required && answer.content_length().is_none() {
            return Err(Failure::BadAnswer(CgiError::InvalidContentLength));
        }
        if answer.body().len() > self.max_output {
            return Err(self.too_long());
        }
        Ok(self.decoder.into_bytes())
    }

    const fn too_long(&self) -> Failure {
        Failure::OutputTooLong {
            max: self.max_output,
        }
    }
}

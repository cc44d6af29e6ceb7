//! Asking over SCGI: a service of ours, or a server that others run.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::time::{Instant, timeout_at};

use crate::cgi::{self, AnswerDecoder, CgiError};
use crate::connector::Connector;
use crate::{Address, Environment, Failure, scgi};

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
    let mut head = scgi::encode_request(env, payload.len());
    // What is small leaves in one write, and wakes the other side once.
    let payload: &[u8] = if payload.len() <= SMALL {
        head.extend_from_slice(payload);
        &[]
    } else {
        payload
    };
    let (mut input, mut output) = tokio::io::split(stream);
    let write = async {
        // Who does not read to the end may answer all the same. Our direction is not shut down: to
        // a peer that could mean that nobody waits.
        if output.write_all(&head).await.is_ok() {
            let _ = output.write_all(payload).await;
        }
        std::future::pending().await
    };
    tokio::select! {
        answer = read_answer(&mut input, max_output, length) => answer,
        never = write => never,
    }
}

async fn read_answer(
    input: &mut (impl AsyncRead + Unpin),
    max_output: usize,
    length: Length,
) -> Result<Vec<u8>, Failure> {
    let too_long = || Failure::OutputTooLong { max: max_output };
    let mut decoder = AnswerDecoder::new(max_output.saturating_add(cgi::MAX_HEAD_SIZE));
    let mut buffer = vec![0; 8 * 1024];
    loop {
        // An error is an end: the peer closed with some of the request unread.
        let len = input.read(&mut buffer).await.unwrap_or(0);
        match decoder.feed(&buffer[..len]) {
            Ok(false) if len > 0 => {}
            Ok(_) => break,
            Err(CgiError::TooLarge { .. }) => return Err(too_long()),
            Err(error) => return Err(Failure::BadAnswer(error)),
        }
    }
    let answer = decoder.finish().map_err(Failure::BadAnswer)?;
    if length == Length::Required && answer.content_length().is_none() {
        return Err(Failure::BadAnswer(CgiError::InvalidContentLength));
    }
    if answer.body().len() > max_output {
        return Err(too_long());
    }
    Ok(decoder.into_bytes())
}

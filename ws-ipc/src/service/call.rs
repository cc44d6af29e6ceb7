//! One request to a service, and its answer.

use std::time::Duration;

use bytes::Bytes;
use rustix::io::Errno;
use rustix::net::RecvFlags;

use super::Service;
use crate::cgi::CgiError;
use crate::scgi::{self, Length};
use crate::{Environment, Failure};

/// Asks a service one request and returns its answer, CGI headers included.
///
/// The answer must have a `Content-Length`: without one, an answer that was cut off when its
/// process crashed could not be told from a whole one.
///
/// # Errors
///
/// - [`Failure::TimedOut`] after `timeout`. The connection is closed then, on which a fork server
///   kills the child.
/// - [`Failure::OutputTooLong`] if the body exceeds `max_output`.
/// - [`Failure::BadAnswer`] if the answer is cut off or malformed.
/// - [`Failure::Lost`] if the program ended with the request in its hands.
/// - [`Failure::CannotStart`] and [`Failure::Cancelled`] as from [`Service::connect`].
///
/// # Cancel safety
///
/// Dropping the future closes the connection.
pub async fn scgi_call(
    service: &Service,
    env: &Environment,
    payload: &Bytes,
    timeout: Duration,
    max_output: usize,
) -> Result<Vec<u8>, Failure> {
    let call = call_over(service, None, env, payload, max_output);
    let answered = tokio::time::timeout(timeout, call).await;
    answered.unwrap_or(Err(Failure::TimedOut))
}

/// A connection that was made before there was a request. It belongs to no runtime yet.
#[derive(Debug)]
pub(crate) struct Ahead {
    pub(super) stream: std::os::unix::net::UnixStream,
    /// Of the program that ran then; `None` if the next one accepts it.
    pub(super) life: Option<u64>,
}

impl Ahead {
    pub(super) fn is_open(&self) -> bool {
        let flags = RecvFlags::PEEK | RecvFlags::DONTWAIT;
        let peeked = rustix::net::recv(&self.stream, &mut [0; 1][..], flags);
        peeked.is_err_and(|error| error == Errno::AGAIN)
    }
}

/// Asks as [`scgi_call`] does, but for as long as it takes, and over a connection that is there
/// already if there is one.
pub(crate) async fn call_over(
    service: &Service,
    ahead: Option<&Ahead>,
    env: &Environment,
    payload: &Bytes,
    max_output: usize,
) -> Result<Vec<u8>, Failure> {
    let life = service.front.shared.state.borrow().life;
    match call(service, ahead, env, payload, max_output).await {
        Err(Failure::BadAnswer(cut_off)) if is_cut_off(&cut_off) => {
            if service.ends_too(life).await {
                Err(Failure::Lost)
            } else {
                Err(Failure::BadAnswer(cut_off))
            }
        }
        answer => answer,
    }
}

async fn call(
    service: &Service,
    ahead: Option<&Ahead>,
    env: &Environment,
    payload: &Bytes,
    max_output: usize,
) -> Result<Vec<u8>, Failure> {
    service.check()?;
    if let Some(Ahead { stream, .. }) = ahead {
        let length = Length::Required;
        return scgi::exchange_at_once(stream, env, payload, max_output, length).await;
    }
    let mut stream = service.connect().await?;
    scgi::exchange(&mut stream, env, payload, max_output, Length::Required).await
}

/// Whether the connection ended too early, rather than that something wrong was written.
fn is_cut_off(error: &CgiError) -> bool {
    matches!(
        error,
        CgiError::Empty | CgiError::HeadUnfinished | CgiError::BodyTooShort { .. }
    )
}

//! Asking a FastCGI server.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tokio::time::{Instant, timeout_at};

use super::connection::Connection;
use super::pool::Pool;
use crate::connector::Connector;
use crate::stderr::Lines;
use crate::{Address, Environment, Failure};

/// How a [`FastCgi`] keeps connections.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FastCgiConfig {
    /// How many connections may wait for their next request. 0 closes each after its response.
    ///
    /// The caller's concurrency is the sensible number. The default is 64.
    pub max_idle: usize,
    /// How long a connection is used, from when it is opened to its last request.
    ///
    /// A process of php-fpm serves nobody else as long, whether it is idle or not. The default is
    /// 100 ms: what a kept connection saves, some 10 µs, matters only to requests that follow one
    /// another closely, and there are enough of them in that time.
    pub max_age: Duration,
}

impl Default for FastCgiConfig {
    fn default() -> Self {
        Self {
            max_idle: 64,
            max_age: Duration::from_millis(100),
        }
    }
}

/// A FastCGI server that others run, php-fpm for example, asked at its address.
///
/// How many requests there are at once is the caller's to bound. A handle; clones share their
/// connections, and all that ask one server should be clones: a connection that waits holds a
/// process of php-fpm, which somebody else may be waiting for.
///
/// # Kept connections
///
/// Connections are kept where the server allows. A server may give up a kept one at any moment:
/// php-fpm ends a process after `pm.max_requests`, and all of them on a reload. The client must not
/// find that out by sending a request into the void: whether it was run cannot be known then, so
/// it cannot be repeated, and would be lost.
///
/// So a connection is used again only if its server has read all of the last request, which the
/// kernel tells about a Unix socket, and has not closed it after that. A process of php-fpm reads
/// the record that ends the payload when it comes back for the next request, and not before; one
/// that is about to end, or is still busy behind `fastcgi_finish_request()`, does not. It gets
/// 10 ms, then the connection is closed and the request goes over a new one. Servers that read
/// ahead give no such sign, and may lose a request when they end. About a TCP connection the
/// kernel does not tell, so these are not kept.
///
/// Nor does a kept connection stand in the way of others. When requests wait on new connections
/// that the server has not accepted yet, since all its processes are busy, a connection is closed
/// behind its response, so that they are served in their order; and none is used for longer than
/// [`max_age`](FastCgiConfig::max_age), so that other clients of the server have their turn.
///
/// A request of which anything was sent is never sent again.
#[derive(Clone, Debug)]
pub struct FastCgi {
    connector: Arc<Connector>,
    pool: Arc<Pool>,
}

/// How many bytes of standard error are handed out per request.
const MAX_STDERR_SIZE: usize = 64 * 1024;

impl FastCgi {
    /// Makes a client; connects to nothing yet.
    pub fn new(address: Address, config: FastCgiConfig) -> Self {
        let max_idle = match address.unix_path() {
            Some(_) => config.max_idle,
            None => 0,
        };
        Self {
            connector: Arc::new(Connector::new(address)),
            pool: Arc::new(Pool::new(max_idle, config.max_age)),
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
    /// The answer is whole when the server says that the request is over; a `Content-Length` is not
    /// needed. What the server sends as standard error goes to `stderr` line by line: at most
    /// 64 KiB, lines of at most 4 KiB. php-fpm wants `SCRIPT_FILENAME` among the variables.
    ///
    /// # Errors
    ///
    /// - [`Failure::Unreachable`] if nobody listens at the address. A server that was there a
    ///   moment ago is waited for, up to 2 s and within `timeout`.
    /// - [`Failure::Overloaded`] if the server says so, or if the queue of its listening socket is
    ///   full until `timeout`.
    /// - [`Failure::TimedOut`] after `timeout`. The connection is closed then; php-fpm ends a
    ///   script that goes on after that by its own `request_terminate_timeout`.
    /// - [`Failure::Exited`] if the application ended with another status than 0.
    /// - [`Failure::Lost`] if the connection ended before the answer: the process died.
    /// - [`Failure::OutputTooLong`] if the body exceeds `max_output`.
    /// - [`Failure::BadAnswer`] and [`Failure::BadRecord`] if the answer is malformed.
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
        stderr: &mut (dyn FnMut(&str) + Send),
    ) -> Result<Vec<u8>, Failure> {
        let deadline = Instant::now() + timeout;
        let mut connection = self.start(env, payload, deadline).await?;
        let mut lines = Lines::new(MAX_STDERR_SIZE);
        let mut feed = |bytes: &[u8]| lines.feed(bytes, stderr);
        let finish = connection.finish(max_output, &mut feed);
        let finished = timeout_at(deadline, finish).await;
        lines.finish(stderr);
        let (answer, is_clean) = finished.unwrap_or(Err(Failure::TimedOut))?;
        if is_clean && self.pool.keeps() && connection.may_be_kept() {
            self.pool.put(connection);
        }
        Ok(answer)
    }

    /// Sends a request over a connection that waits for one, or over a new one.
    async fn start(
        &self,
        env: &Environment,
        payload: &Bytes,
        deadline: Instant,
    ) -> Result<Connection, Failure> {
        let keep = self.pool.keeps();
        if let Some(mut kept) = self.pool.take().await
            && kept.start(env, payload, keep).is_ok()
        {
            return Ok(kept);
        }
        let mut new = self.connect(deadline).await?;
        if new.start(env, payload, keep).is_err() {
            // Its server has ended before it accepted the connection; the next one may be there.
            new = self.connect(deadline).await?;
            new.start(env, payload, keep)
                .map_err(|error| self.connector.failure(&error))?;
        }
        Ok(new)
    }

    async fn connect(&self, deadline: Instant) -> Result<Connection, Failure> {
        let stream = self.connector.connect(deadline).await?;
        let queued = self.pool.keeps().then(|| self.pool.queue());
        Ok(Connection::new(stream, queued))
    }
}

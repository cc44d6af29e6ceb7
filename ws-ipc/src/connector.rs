//! Connections to servers that others start, stop and restart.

use std::io;
use std::os::fd::AsFd;
use std::pin::Pin;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use rustix::net::SendFlags;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpStream, UnixStream};
use tokio::time::{Instant, sleep_until, timeout_at};

use crate::address::Socket;
use crate::{Address, Failure, unix_path};

/// How long after it was first found missing a server is taken to be restarting.
///
/// Within it a connection is tried again and again; later one attempt is enough, so that messages
/// do not queue up behind a server that is gone for good. When nobody has tried for as long, it
/// begins anew.
const RESTART_GRACE: Duration = Duration::from_secs(2);

/// The delays between attempts double from the first to the second.
const DELAYS: (Duration, Duration) = (Duration::from_millis(2), Duration::from_millis(50));

/// Connects to one address.
#[derive(Debug)]
pub(crate) struct Connector {
    address: Address,
    absence: Mutex<Option<Absence>>,
}

/// When a server was found missing, the first time and the last time.
#[derive(Clone, Copy, Debug)]
struct Absence {
    first: Instant,
    last: Instant,
}

impl Connector {
    pub(crate) fn new(address: Address) -> Self {
        Self {
            address,
            absence: Mutex::new(None),
        }
    }

    pub(crate) fn address(&self) -> &Address {
        &self.address
    }

    /// Connects. Waits while the server restarts, and while as many connections wait already as
    /// the kernel lets wait.
    ///
    /// # Errors
    ///
    /// [`Failure::Unreachable`] if it stays away, [`Failure::Overloaded`] if the queue stays full.
    pub(crate) async fn connect(&self, deadline: Instant) -> Result<Stream, Failure> {
        let (mut delay, longest) = DELAYS;
        let mut last = None;
        loop {
            let attempt = timeout_at(deadline, Stream::connect(&self.address));
            let error = match attempt.await {
                Ok(Ok(stream)) => {
                    *self.absence() = None;
                    return Ok(stream);
                }
                Ok(Err(error)) => error,
                // What was wrong before says more than that there was no time for another attempt.
                Err(_) => last.unwrap_or_else(|| io::ErrorKind::TimedOut.into()),
            };
            let limit = match error.kind() {
                io::ErrorKind::WouldBlock => deadline,
                // Between the end of the old server and the listening of the new one. A Unix
                // connection is reset if the old one ends before it has accepted it.
                io::ErrorKind::NotFound
                | io::ErrorKind::ConnectionRefused
                | io::ErrorKind::ConnectionReset => {
                    deadline.min(self.missing_since() + RESTART_GRACE)
                }
                _ => return Err(self.failure(&error)),
            };
            if Instant::now() >= limit {
                return Err(self.failure(&error));
            }
            last = Some(error);
            sleep_until(limit.min(Instant::now() + delay)).await;
            delay = longest.min(delay * 2);
        }
    }

    /// Looks whether the server is there, by one attempt to connect to it.
    ///
    /// # Errors
    ///
    /// As [`connect`](Self::connect), at once.
    pub(crate) async fn reach(&self, deadline: Instant) -> Result<(), Failure> {
        let attempt = timeout_at(deadline, Stream::connect(&self.address)).await;
        let attempt = attempt.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()));
        attempt.map(drop).map_err(|error| self.failure(&error))
    }

    /// Takes note that the server is missing; returns since when.
    fn missing_since(&self) -> Instant {
        let now = Instant::now();
        let mut absence = self.absence();
        let is_same = |absence: &Absence| now - absence.last < RESTART_GRACE;
        let first = absence.filter(is_same).map_or(now, |absence| absence.first);
        *absence = Some(Absence { first, last: now });
        first
    }

    fn absence(&self) -> MutexGuard<'_, Option<Absence>> {
        self.absence.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What it means that a connection fails before anything was asked on it.
    pub(crate) fn failure(&self, error: &io::Error) -> Failure {
        if error.kind() == io::ErrorKind::WouldBlock {
            return Failure::Overloaded;
        }
        Failure::Unreachable {
            address: self.address.to_string(),
            reason: error.to_string(),
        }
    }
}

/// A connection of either kind.
#[derive(Debug)]
pub(crate) enum Stream {
    Unix(UnixStream),
    Tcp(TcpStream),
}

impl Stream {
    async fn connect(address: &Address) -> io::Result<Self> {
        match address.socket() {
            Socket::Unix(path) => Ok(Self::Unix(unix_path::connect(path).await?)),
            Socket::Tcp { host, port } => {
                let stream = TcpStream::connect((host.as_str(), *port)).await?;
                stream.set_nodelay(true)?;
                Ok(Self::Tcp(stream))
            }
        }
    }

    /// Writes what the kernel takes at once. The kernel itself is asked: the runtime may not have
    /// heard yet that there is room.
    pub(crate) fn write_now(&self, bytes: &[u8]) -> io::Result<usize> {
        let socket = match self {
            Self::Unix(stream) => stream.as_fd(),
            Self::Tcp(stream) => stream.as_fd(),
        };
        match rustix::net::send(socket, bytes, SendFlags::NOSIGNAL | SendFlags::DONTWAIT) {
            Err(rustix::io::Errno::AGAIN) => Ok(0),
            written => Ok(written?),
        }
    }
}

impl AsyncRead for Stream {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Unix(stream) => Pin::new(stream).poll_read(cx, buffer),
            Self::Tcp(stream) => Pin::new(stream).poll_read(cx, buffer),
        }
    }
}

impl AsyncWrite for Stream {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Unix(stream) => Pin::new(stream).poll_write(cx, bytes),
            Self::Tcp(stream) => Pin::new(stream).poll_write(cx, bytes),
        }
    }

    /// Sockets have no buffer of ours.
    fn poll_flush(self: Pin<&mut Self>, _cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Unix(stream) => Pin::new(stream).poll_shutdown(cx),
            Self::Tcp(stream) => Pin::new(stream).poll_shutdown(cx),
        }
    }
}

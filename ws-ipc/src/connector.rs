//! Connections to servers that others start, stop and restart.

use std::io;
use std::pin::Pin;
use std::sync::Mutex;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpStream, UnixStream};
use tokio::time::{Instant, sleep_until, timeout_at};

use crate::address::Socket;
use crate::{Address, Failure, unix_path};

/// How long after it was first found missing a server is taken to be restarting.
///
/// Within it a connection is tried again and again; later one attempt is enough, so that messages
/// do not queue up behind a server that is gone for good.
const RESTART_GRACE: Duration = Duration::from_secs(2);

/// The delays between attempts double from the first to the second.
const DELAYS: (Duration, Duration) = (Duration::from_millis(2), Duration::from_millis(50));

/// Connects to one address.
#[derive(Debug)]
pub(crate) struct Connector {
    address: Address,
    /// When the server was first found missing; `None` while it is there.
    missing_since: Mutex<Option<Instant>>,
}

impl Connector {
    pub(crate) fn new(address: Address) -> Self {
        Self {
            address,
            missing_since: Mutex::new(None),
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
        loop {
            let failed = match timeout_at(deadline, Stream::connect(&self.address)).await {
                Ok(Ok(stream)) => {
                    *self.missing_since() = None;
                    return Ok(stream);
                }
                Ok(Err(error)) => error,
                Err(_) => return Err(self.unreachable(&io::ErrorKind::TimedOut.into())),
            };
            let is_queue_full = failed.kind() == io::ErrorKind::WouldBlock;
            let limit = match failed.kind() {
                io::ErrorKind::WouldBlock => deadline,
                // Between the end of the old server and the listening of the new one.
                io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused => {
                    let since = *self.missing_since().get_or_insert_with(Instant::now);
                    deadline.min(since + RESTART_GRACE)
                }
                _ => return Err(self.unreachable(&failed)),
            };
            if Instant::now() >= limit {
                return Err(if is_queue_full {
                    Failure::Overloaded
                } else {
                    self.unreachable(&failed)
                });
            }
            sleep_until(limit.min(Instant::now() + delay)).await;
            delay = longest.min(delay * 2);
        }
    }

    fn missing_since(&self) -> std::sync::MutexGuard<'_, Option<Instant>> {
        self.missing_since
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    fn unreachable(&self, error: &io::Error) -> Failure {
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

    /// Writes what the kernel takes at once.
    pub(crate) fn try_write(&self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            Self::Unix(stream) => stream.try_write(bytes),
            Self::Tcp(stream) => stream.try_write(bytes),
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

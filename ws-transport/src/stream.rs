//! One byte stream over both kinds of socket.

use std::io::{self, IoSlice};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use rustix::net::{SendAncillaryBuffer, SendFlags, Shutdown, send, sendmsg, shutdown};
use tokio::io::unix::{AsyncFd, AsyncFdReadyGuard};
use tokio::io::{AsyncRead, AsyncWrite, Interest, ReadBuf};
use tokio::task::coop::consume_budget;

use crate::PeerAddr;
use crate::watch::watch;

/// A connected byte stream, registered with the runtime it was made on.
///
/// Its methods take `&self`, so that one task can wait for reading and writing at once. Await
/// [`readable`](Self::readable), then call [`try_read`](Self::try_read) until it returns fewer
/// bytes than asked for, or [`WouldBlock`](io::ErrorKind::WouldBlock); the same for writing. A
/// short read or write is remembered as the end of readiness, so that no second system call is
/// needed to learn it.
///
/// The `AsyncRead` and `AsyncWrite` implementations are for libraries that want them. Reads through
/// both at the same time steal each other's wake-ups.
#[derive(Debug)]
pub struct Stream {
    socket: AsyncFd<OwnedFd>,
    peer: PeerAddr,
}

impl Stream {
    pub(crate) fn new(socket: OwnedFd, peer: PeerAddr) -> io::Result<Self> {
        Ok(Self {
            socket: watch(socket, Interest::READABLE | Interest::WRITABLE)?,
            peer,
        })
    }

    /// Returns the address of the other end.
    pub fn peer_addr(&self) -> PeerAddr {
        self.peer
    }

    /// Waits until there is something to read: bytes, the end, or an error.
    ///
    /// It yields to other tasks now and then even if the stream is always readable, so a loop
    /// around it cannot starve them.
    ///
    /// # Errors
    ///
    /// If the runtime is shutting down.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future loses nothing.
    pub async fn readable(&self) -> io::Result<()> {
        consume_budget().await;
        self.socket.ready(Interest::READABLE).await.map(drop)
    }

    /// Waits until the kernel takes bytes again, or reports an error.
    ///
    /// # Errors
    ///
    /// If the runtime is shutting down.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future loses nothing.
    pub async fn writable(&self) -> io::Result<()> {
        consume_budget().await;
        self.socket.ready(Interest::WRITABLE).await.map(drop)
    }

    /// Reads what is there; 0 is the end of the stream, unless `buffer` is empty.
    ///
    /// # Errors
    ///
    /// [`WouldBlock`](io::ErrorKind::WouldBlock) if there is nothing, or the system's error of a lost
    /// connection.
    pub fn try_read(&self, buffer: &mut [u8]) -> io::Result<usize> {
        let size = buffer.len();
        self.attempt(Interest::READABLE, size, |socket| {
            Ok(rustix::io::read(socket, buffer)?)
        })
    }

    /// Writes as much as the kernel takes.
    ///
    /// # Errors
    ///
    /// [`WouldBlock`](io::ErrorKind::WouldBlock) if that is nothing, or the system's error of a lost
    /// connection.
    pub fn try_write(&self, bytes: &[u8]) -> io::Result<usize> {
        self.attempt(Interest::WRITABLE, bytes.len(), |socket| {
            write(socket, bytes)
        })
    }

    /// Writes as much of several pieces as the kernel takes, in one system call. Pieces beyond the
    /// system's limit of 1024 are left for the next call.
    ///
    /// # Errors
    ///
    /// [`WouldBlock`](io::ErrorKind::WouldBlock) if that is nothing, or the system's error of a lost
    /// connection.
    pub fn try_write_vectored(&self, pieces: &[IoSlice<'_>]) -> io::Result<usize> {
        let pieces = within_limit(pieces);
        let size = pieces.iter().map(|piece| piece.len()).sum();
        self.attempt(Interest::WRITABLE, size, |socket| {
            write_vectored(socket, pieces)
        })
    }

    /// Closes our direction: the peer reads the end after what was written before.
    ///
    /// # Errors
    ///
    /// [`NotConnected`](io::ErrorKind::NotConnected) if the connection is gone already.
    pub fn shutdown_write(&self) -> io::Result<()> {
        Ok(shutdown(self.socket.get_ref(), Shutdown::Write)?)
    }

    /// Runs one non-blocking operation over `size` bytes if the socket is known to be ready.
    fn attempt(
        &self,
        interest: Interest,
        size: usize,
        operation: impl FnOnce(&OwnedFd) -> io::Result<usize>,
    ) -> io::Result<usize> {
        let mut short = None;
        let result = self
            .socket
            .try_io(interest, |socket| match operation(socket)? {
                count if is_short(count, size) => {
                    short = Some(count);
                    // Has the runtime forget the readiness.
                    Err(io::ErrorKind::WouldBlock.into())
                }
                count => Ok(count),
            });
        short.map_or(result, Ok)
    }
}

impl AsFd for Stream {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

impl AsyncRead for Stream {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        loop {
            let mut guard = ready!(self.socket.poll_read_ready(cx))?;
            let unfilled = buffer.initialize_unfilled();
            let size = unfilled.len();
            let read = |socket: &OwnedFd| Ok(rustix::io::read(socket, unfilled)?);
            match guarded(&mut guard, size, read) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                result => return Poll::Ready(result.map(|count| buffer.advance(count))),
            }
        }
    }
}

impl AsyncWrite for Stream {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.poll_attempt(cx, bytes.len(), |socket| write(socket, bytes))
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        pieces: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let pieces = within_limit(pieces);
        let size = pieces.iter().map(|piece| piece.len()).sum();
        self.poll_attempt(cx, size, |socket| write_vectored(socket, pieces))
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, _cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        // As tokio's own streams do it: a connection that is gone is shut down enough.
        Poll::Ready(match self.shutdown_write() {
            Err(error) if error.kind() == io::ErrorKind::NotConnected => Ok(()),
            result => result,
        })
    }
}

impl Stream {
    fn poll_attempt(
        &self,
        cx: &mut Context<'_>,
        size: usize,
        write: impl Fn(&OwnedFd) -> io::Result<usize>,
    ) -> Poll<io::Result<usize>> {
        loop {
            let mut guard = ready!(self.socket.poll_write_ready(cx))?;
            match guarded(&mut guard, size, &write) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                result => return Poll::Ready(result),
            }
        }
    }
}

/// Runs `operation` and clears the readiness that it used up.
fn guarded(
    guard: &mut AsyncFdReadyGuard<'_, OwnedFd>,
    size: usize,
    operation: impl FnOnce(&OwnedFd) -> io::Result<usize>,
) -> io::Result<usize> {
    let result = operation(guard.get_inner());
    match &result {
        Ok(count) if is_short(*count, size) => guard.clear_ready(),
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => guard.clear_ready(),
        Ok(_) | Err(_) => {}
    }
    result
}

/// Tells whether moving `count` of `size` bytes used up the readiness.
///
/// The poll set is edge-triggered. After fewer bytes than asked for the kernel has no more to give,
/// or no more room, and reports the next change (epoll(7), question 9). A change that comes in
/// between is not lost: the runtime clears only what it knew before the call. The end of the stream
/// is known separately and never cleared. (A peer that uses urgent data or sends descriptors cuts
/// reads short itself. It then waits for its own next byte.)
fn is_short(count: usize, size: usize) -> bool {
    0 < count && count < size
}

fn write(socket: &OwnedFd, bytes: &[u8]) -> io::Result<usize> {
    Ok(send(socket, bytes, SendFlags::NOSIGNAL)?)
}

fn write_vectored(socket: &OwnedFd, pieces: &[IoSlice<'_>]) -> io::Result<usize> {
    let mut control = SendAncillaryBuffer::default();
    Ok(sendmsg(socket, pieces, &mut control, SendFlags::NOSIGNAL)?)
}

/// sendmsg(2) refuses more than `UIO_MAXIOV` pieces.
fn within_limit<'a, 'b>(pieces: &'a [IoSlice<'b>]) -> &'a [IoSlice<'b>] {
    const MAX_PIECES: usize = 1024;
    &pieces[..pieces.len().min(MAX_PIECES)]
}

//! One byte stream over both kinds of socket, with TLS or without.

use std::io::{self, IoSlice};
use std::os::fd::{AsFd, BorrowedFd};
use std::pin::Pin;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncWrite, Interest, ReadBuf};

use crate::socket::Socket;
use crate::tls::Session;

/// A connected byte stream, registered with the runtime it was made on.
///
/// Its methods take `&self`, so that one task can wait for reading and writing at once. Await
/// [`readable`](Self::readable), then call [`try_read`](Self::try_read) until it returns fewer
/// bytes than asked for, or [`WouldBlock`](io::ErrorKind::WouldBlock); the same for writing. A
/// short read or write is remembered as the end of readiness, so that no second system call is
/// needed to learn it.
///
/// Over TLS the bytes are the plain ones, and two rules are added:
///
/// - Bytes that were accepted for writing are encrypted, and the kernel may refuse some of that.
///   The stream keeps these, at most 64 KiB with what TLS adds, and accepts nothing more before
///   they are gone. Every write tries that first. If there is nothing to write,
///   [`is_flushed`](Self::is_flushed) tells whether [`writable`](Self::writable) and
///   [`try_flush`](Self::try_flush) are still needed; whoever awaits `readable` does it by that.
/// - A readable socket may hold less than one TLS record; reading is then `WouldBlock`. The stream
///   keeps such a part, and plain bytes for which the caller's buffer had no room, and nothing
///   else.
///
/// The `AsyncRead` and `AsyncWrite` implementations are for libraries that want them. Reads through
/// both at the same time steal each other's wake-ups.
#[derive(Debug)]
pub struct Stream {
    socket: Socket,
    tls: Option<Box<Mutex<Session>>>,
}

impl Stream {
    pub(crate) fn new(socket: Socket, tls: Option<Session>) -> Self {
        Self {
            socket,
            tls: tls.map(|session| Box::new(Mutex::new(session))),
        }
    }

    /// Tells whether the stream is encrypted.
    pub fn is_tls(&self) -> bool {
        self.tls.is_some()
    }

    /// Tells whether the connection is lost (it was reset, or closed in both directions), for one who
    /// does not read it at the moment and would not see. Bytes that came before may be there still.
    pub fn is_lost(&self) -> bool {
        self.socket.is_lost()
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
        // Yields now and then, even if there always is something.
        tokio::task::coop::consume_budget().await;
        if self.tls.is_none() {
            return self.socket.ready(Interest::READABLE).await.map(drop);
        }
        std::future::poll_fn(|cx| self.poll_readable(cx)).await
    }

    /// As [`readable`](Self::readable), for one who waits for several things at once and keeps no
    /// future of each. Only the latest caller of it, over TLS of any that waits for reading, is
    /// woken. It does not yield by itself.
    ///
    /// # Errors
    ///
    /// If the runtime is shutting down.
    pub fn poll_readable(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let Some(tls) = &self.tls else {
            return self.socket.poll_read_ready(cx);
        };
        loop {
            let (has_input, is_flushed) = {
                let session = lock(tls);
                (session.has_input(), session.is_flushed())
            };
            if has_input {
                return Poll::Ready(Ok(()));
            }
            let readable = self.socket.poll_read_ready(cx);
            if is_flushed || readable.is_ready() {
                return readable;
            }
            ready!(self.socket.poll_write_ready(cx))?;
            if is_lasting(&lock(tls).flush(&self.socket)) {
                // The reader learns it from its own call.
                return Poll::Ready(Ok(()));
            }
        }
    }

    /// As [`writable`](Self::writable), in the manner of [`poll_readable`](Self::poll_readable).
    ///
    /// # Errors
    ///
    /// If the runtime is shutting down.
    pub fn poll_writable(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.socket.poll_write_ready(cx)
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
        self.socket.ready(Interest::WRITABLE).await.map(drop)
    }

    /// Reads what is there; 0 is the end of the stream, unless `buffer` is empty.
    ///
    /// Over TLS the peer's close alert is the end. So is a connection that was closed without one:
    /// who cares must know from the bytes whether they are complete.
    ///
    /// # Errors
    ///
    /// [`WouldBlock`](io::ErrorKind::WouldBlock) if there is nothing, or the system's error of a lost
    /// connection. [`InvalidData`](io::ErrorKind::InvalidData) if the peer breaks the TLS protocol.
    pub fn try_read(&self, buffer: &mut [u8]) -> io::Result<usize> {
        match self.session() {
            Some(mut session) => session.read(&self.socket, buffer),
            None => self.socket.read(buffer),
        }
    }

    /// Writes as much as the kernel takes.
    ///
    /// # Errors
    ///
    /// [`WouldBlock`](io::ErrorKind::WouldBlock) if that is nothing, or the system's error of a lost
    /// connection.
    pub fn try_write(&self, bytes: &[u8]) -> io::Result<usize> {
        match self.session() {
            Some(mut session) => session.write(&self.socket, &[IoSlice::new(bytes)]),
            None => self.socket.write(bytes),
        }
    }

    /// Writes as much of several pieces as the kernel takes, in one system call. Pieces beyond the
    /// system's limit of 1024 are left for the next call.
    ///
    /// # Errors
    ///
    /// [`WouldBlock`](io::ErrorKind::WouldBlock) if that is nothing, or the system's error of a lost
    /// connection.
    pub fn try_write_vectored(&self, pieces: &[IoSlice<'_>]) -> io::Result<usize> {
        match self.session() {
            Some(mut session) => session.write(&self.socket, pieces),
            None => self.socket.write_vectored(pieces),
        }
    }

    /// Writes as [`try_write_vectored`](Self::try_write_vectored) does, even if the kernel has not
    /// said that it takes bytes again: it does so only when a good part of its buffer is free, which
    /// may take a slow peer long. Over TLS it is only what was [kept](Self::unflushed) that is
    /// written, and none of the pieces.
    ///
    /// # Errors
    ///
    /// As for [`try_write_vectored`](Self::try_write_vectored).
    pub fn try_write_unasked(&self, pieces: &[IoSlice<'_>]) -> io::Result<usize> {
        match self.session() {
            Some(mut session) => session.flush_unasked(&self.socket).map(|()| 0),
            None => self.socket.write_unasked(pieces),
        }
    }

    /// Returns how many bytes were written and are kept, because the kernel has refused them. Always
    /// 0 without TLS.
    pub fn unflushed(&self) -> usize {
        self.session().map_or(0, |session| session.unflushed())
    }

    /// Tells whether the kernel has everything that was written. Always so without TLS.
    pub fn is_flushed(&self) -> bool {
        self.session().is_none_or(|session| session.is_flushed())
    }

    /// Hands the kernel what it refused before.
    ///
    /// # Errors
    ///
    /// [`WouldBlock`](io::ErrorKind::WouldBlock) if it does not take all of it, or the system's error
    /// of a lost connection.
    pub fn try_flush(&self) -> io::Result<()> {
        match self.session() {
            Some(mut session) => session.flush(&self.socket),
            None => Ok(()),
        }
    }

    /// Closes our direction: the peer reads the end after what was written before.
    ///
    /// Over TLS a close alert is sent. If the kernel does not take everything at once, the end
    /// follows when the stream is flushed.
    ///
    /// # Errors
    ///
    /// [`NotConnected`](io::ErrorKind::NotConnected) if the connection is gone already; over TLS
    /// also what a write may fail with, but not `WouldBlock`.
    pub fn shutdown_write(&self) -> io::Result<()> {
        match self.session() {
            Some(mut session) => session.close(&self.socket),
            None => self.socket.shutdown_write(),
        }
    }

    fn session(&self) -> Option<MutexGuard<'_, Session>> {
        self.tls.as_deref().map(lock)
    }
}

/// The lock makes the stream `Sync`, so that futures may hold it by reference; nobody waits for it.
fn lock(session: &Mutex<Session>) -> MutexGuard<'_, Session> {
    session.lock().unwrap_or_else(PoisonError::into_inner)
}

fn is_lasting<T>(result: &io::Result<T>) -> bool {
    matches!(result, Err(error) if error.kind() != io::ErrorKind::WouldBlock)
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
        let unfilled = buffer.initialize_unfilled();
        let count = if self.tls.is_none() {
            ready!(self.socket.poll_read(cx, unfilled))?
        } else {
            loop {
                match self.try_read(unfilled) {
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                        ready!(self.socket.poll_read_ready(cx))?;
                    }
                    result => break result?,
                }
            }
        };
        buffer.advance(count);
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Stream {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.poll_write_vectored(cx, &[IoSlice::new(bytes)])
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        pieces: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        match self.tls {
            Some(_) => self.poll_retry(cx, || self.try_write_vectored(pieces)),
            None => self.socket.poll_write_vectored(cx, pieces),
        }
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.poll_retry(cx, || self.try_flush())
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        // As tokio's own streams do it: a connection that is gone is shut down enough.
        match self.shutdown_write() {
            Err(error) if error.kind() == io::ErrorKind::NotConnected => Poll::Ready(Ok(())),
            Err(error) => Poll::Ready(Err(error)),
            Ok(()) => self.poll_flush(cx),
        }
    }
}

impl Stream {
    fn poll_retry<T>(
        &self,
        cx: &mut Context<'_>,
        mut write: impl FnMut() -> io::Result<T>,
    ) -> Poll<io::Result<T>> {
        loop {
            match write() {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    ready!(self.socket.poll_write_ready(cx))?;
                }
                result => return Poll::Ready(result),
            }
        }
    }
}

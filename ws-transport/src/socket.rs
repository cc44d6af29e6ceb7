//! One connected socket: non-blocking calls, and what is known of its readiness.

use std::io::{self, IoSlice};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::task::{Context, Poll, ready};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::retry_on_intr;
use rustix::net::{
    RecvFlags, SendAncillaryBuffer, SendFlags, Shutdown, recv, send, sendmsg, shutdown,
};
use tokio::io::unix::{AsyncFd, AsyncFdReadyGuard};
use tokio::io::{Interest, Ready};
use tokio::task::coop::consume_budget;

use crate::watch::watch;

/// A connected socket, registered with the runtime it was made on.
#[derive(Debug)]
pub(crate) struct Socket(AsyncFd<OwnedFd>);

impl Socket {
    pub(crate) fn new(socket: OwnedFd) -> io::Result<Self> {
        watch(socket, Interest::READABLE | Interest::WRITABLE).map(Self)
    }

    /// Waits until one of the two may be tried again. It yields to other tasks now and then even
    /// if that is always so.
    pub(crate) async fn ready(&self, interest: Interest) -> io::Result<Ready> {
        consume_budget().await;
        Ok(self.0.ready(interest).await?.ready())
    }

    /// Tells whether a write may be tried, as far as is known without a system call.
    pub(crate) fn may_write(&self) -> bool {
        self.0.try_io(Interest::WRITABLE, |_| Ok(())).is_ok()
    }

    pub(crate) fn read(&self, buffer: &mut [u8]) -> io::Result<usize> {
        let size = buffer.len();
        self.attempt(Interest::READABLE, size, |socket| read(socket, buffer))
    }

    /// Looks at what is there to be read and leaves it there.
    pub(crate) fn peek(&self, buffer: &mut [u8]) -> io::Result<usize> {
        // A short look uses up no readiness.
        self.attempt(Interest::READABLE, 0, |socket| {
            Ok(retry_on_intr(|| recv(socket, &mut *buffer, RecvFlags::PEEK))?.0)
        })
    }

    pub(crate) fn write(&self, bytes: &[u8]) -> io::Result<usize> {
        self.attempt(Interest::WRITABLE, bytes.len(), |socket| {
            write(socket, bytes)
        })
    }

    pub(crate) fn write_vectored(&self, pieces: &[IoSlice<'_>]) -> io::Result<usize> {
        let pieces = within_limit(pieces);
        self.attempt(Interest::WRITABLE, total(pieces), |socket| {
            write_vectored(socket, pieces)
        })
    }

    /// Writes even if the kernel has not said that it takes bytes again.
    pub(crate) fn write_unasked(&self, pieces: &[IoSlice<'_>]) -> io::Result<usize> {
        write_vectored(self.0.get_ref(), within_limit(pieces))
    }

    /// Tells whether the connection is lost, whatever there is still to read: it was reset, or both
    /// directions are closed.
    pub(crate) fn is_lost(&self) -> bool {
        let mut socket = [PollFd::new(self.0.get_ref(), PollFlags::empty())];
        let now = Timespec::default();
        let asked = retry_on_intr(|| poll(&mut socket, Some(&now)));
        let lost = PollFlags::ERR | PollFlags::HUP;
        asked.is_ok() && socket[0].revents().intersects(lost)
    }

    pub(crate) fn shutdown_write(&self) -> io::Result<()> {
        Ok(shutdown(self.0.get_ref(), Shutdown::Write)?)
    }

    pub(crate) fn poll_read_ready(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.0.poll_read_ready(cx).map_ok(drop)
    }

    pub(crate) fn poll_write_ready(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.0.poll_write_ready(cx).map_ok(drop)
    }

    pub(crate) fn poll_read(
        &self,
        cx: &mut Context<'_>,
        buffer: &mut [u8],
    ) -> Poll<io::Result<usize>> {
        loop {
            let mut guard = ready!(self.0.poll_read_ready(cx))?;
            let size = buffer.len();
            match guarded(&mut guard, size, |socket| read(socket, &mut *buffer)) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                result => return Poll::Ready(result),
            }
        }
    }

    pub(crate) fn poll_write_vectored(
        &self,
        cx: &mut Context<'_>,
        pieces: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let pieces = within_limit(pieces);
        loop {
            let mut guard = ready!(self.0.poll_write_ready(cx))?;
            match guarded(&mut guard, total(pieces), |socket| {
                write_vectored(socket, pieces)
            }) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                result => return Poll::Ready(result),
            }
        }
    }

    /// Runs one non-blocking operation over `size` bytes if the socket is known to be ready.
    fn attempt(
        &self,
        interest: Interest,
        size: usize,
        operation: impl FnOnce(&OwnedFd) -> io::Result<usize>,
    ) -> io::Result<usize> {
        let mut short = None;
        let result = self.0.try_io(interest, |socket| match operation(socket)? {
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

impl AsFd for Socket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
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

/// A shorter way through the kernel than read(2).
fn read(socket: &OwnedFd, buffer: &mut [u8]) -> io::Result<usize> {
    Ok(retry_on_intr(|| recv(socket, &mut *buffer, RecvFlags::empty()))?.0)
}

fn write(socket: &OwnedFd, bytes: &[u8]) -> io::Result<usize> {
    Ok(retry_on_intr(|| send(socket, bytes, SendFlags::NOSIGNAL))?)
}

fn write_vectored(socket: &OwnedFd, pieces: &[IoSlice<'_>]) -> io::Result<usize> {
    let mut control = SendAncillaryBuffer::default();
    let sent = retry_on_intr(|| sendmsg(socket, pieces, &mut control, SendFlags::NOSIGNAL));
    Ok(sent?)
}

fn total(pieces: &[IoSlice<'_>]) -> usize {
    pieces.iter().map(|piece| piece.len()).sum()
}

/// sendmsg(2) refuses more than `UIO_MAXIOV` pieces.
fn within_limit<'a, 'b>(pieces: &'a [IoSlice<'b>]) -> &'a [IoSlice<'b>] {
    const MAX_PIECES: usize = 1024;
    &pieces[..pieces.len().min(MAX_PIECES)]
}

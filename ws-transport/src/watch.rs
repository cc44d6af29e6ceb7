//! Registration of sockets with the runtime.

use std::io;
use std::os::fd::OwnedFd;

use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

/// Registers a non-blocking socket with the current runtime.
///
/// tokio's own `TcpListener` registers what it accepts at once, with the runtime that accepts; our
/// connections are registered elsewhere. So sockets are bare descriptors to us.
///
/// # Panics
///
/// If called outside a tokio runtime with I/O enabled.
#[expect(
    deprecated,
    reason = "tokio replaced it by an unsafe function because some other type might change its \
              descriptor while it is registered; an OwnedFd cannot"
)]
pub(crate) fn watch(socket: OwnedFd, interest: Interest) -> io::Result<AsyncFd<OwnedFd>> {
    AsyncFd::with_interest(socket, interest)
}

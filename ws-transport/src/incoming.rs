//! An accepted socket on its way to the thread that will own it.

use std::io;
use std::os::fd::OwnedFd;

use crate::{LocalAddr, PeerAddr, Stream};

/// What [`Listener::accept`](crate::Listener::accept) yields.
#[derive(Debug)]
#[non_exhaustive]
pub struct Accepted {
    /// The connected socket.
    pub socket: Incoming,
    /// The other end.
    pub peer: PeerAddr,
    /// Our end: the address the peer connected to.
    pub local: LocalAddr,
}

/// A connected socket that no runtime knows yet.
///
/// It may be sent to another thread. Dropping it closes the connection.
#[derive(Debug)]
pub struct Incoming {
    socket: OwnedFd,
    peer: PeerAddr,
}

impl Incoming {
    /// Takes a connected, non-blocking socket.
    pub(crate) fn new(socket: OwnedFd, peer: PeerAddr) -> Self {
        Self { socket, peer }
    }

    /// Returns the address of the other end.
    pub fn peer_addr(&self) -> PeerAddr {
        self.peer
    }

    /// Registers the socket with the current runtime, which then owns its readiness.
    ///
    /// # Errors
    ///
    /// The system's, if the socket cannot be added to the runtime's poll set (memory, or the limit
    /// of watches). The connection is then closed.
    ///
    /// # Panics
    ///
    /// If called outside a tokio runtime with I/O enabled.
    pub fn register(self) -> io::Result<Stream> {
        Stream::new(self.socket, self.peer)
    }
}

/// Hands the socket over as it is, connected and non-blocking, to whoever reads it otherwise.
impl From<Incoming> for OwnedFd {
    fn from(incoming: Incoming) -> Self {
        incoming.socket
    }
}

//! An accepted socket on its way to the thread that will own it.

use std::io;
use std::os::fd::OwnedFd;

use tokio::io::Interest;

use crate::error::OpenError;
use crate::proxy::{ProxyHeader, ProxyHeaderReader};
use crate::socket::Socket;
use crate::tls::{Session, TlsPeer};
use crate::{LocalAddr, PeerAddr, Stream, TlsAcceptor};

/// What [`Listener::accept`](crate::Listener::accept) yields.
#[derive(Debug)]
#[non_exhaustive]
pub struct Accepted {
    /// The connected socket.
    pub socket: Incoming,
    /// The other end; behind a proxy, the proxy.
    pub peer: PeerAddr,
    /// Our end: the address the peer connected to.
    pub local: LocalAddr,
}

impl Accepted {
    /// Registers the socket with the current runtime, reads the header of the PROXY protocol and
    /// carries out the TLS handshake, if the listener's address asks for them.
    ///
    /// There is no deadline in here; the caller has one. Whether the peer may speak for others is
    /// for the caller to decide as well, before it calls this, by [`peer`](Self::peer) and
    /// [`Incoming::is_proxied`].
    ///
    /// # Errors
    ///
    /// [`OpenError`]. The connection is then closed; a peer that does not speak TLS is told so by
    /// an alert.
    ///
    /// # Panics
    ///
    /// If called outside a tokio runtime with I/O enabled.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future closes the connection.
    pub async fn open(self) -> Result<Opened, OpenError> {
        self.open_by_turns(async || {}).await
    }

    /// Does what [`open`](Self::open) does, and awaits a `turn` before each piece of the TLS
    /// handshake that may occupy the thread: whoever gives the turns keeps a crowd of handshakes
    /// from holding up everything else.
    ///
    /// # Errors
    ///
    /// As for [`open`](Self::open).
    ///
    /// # Panics
    ///
    /// As for [`open`](Self::open).
    ///
    /// # Cancel safety
    ///
    /// As for [`open`](Self::open).
    pub async fn open_by_turns(self, turn: impl AsyncFn()) -> Result<Opened, OpenError> {
        let Incoming {
            socket,
            proxied,
            tls,
            ..
        } = self.socket;
        let socket = Socket::new(socket)?;
        let header = match proxied {
            true => read_proxy_header(&socket).await?,
            false => ProxyHeader::Local,
        };
        let (peer, local) = match header {
            ProxyHeader::Proxied {
                source,
                destination,
            } => (PeerAddr::tcp(source), LocalAddr::tcp(destination)),
            ProxyHeader::Local => (self.peer, self.local),
        };
        let (session, tls) = match tls {
            Some(acceptor) => {
                let accepting = Session::accept(&socket, acceptor.server_config(), turn);
                let (session, tls) = accepting.await?;
                (Some(session), Some(tls))
            }
            None => (None, None),
        };
        Ok(Opened {
            stream: Stream::new(socket, session),
            peer,
            local,
            tls,
        })
    }
}

/// What [`Accepted::open`] yields.
#[derive(Debug)]
#[non_exhaustive]
pub struct Opened {
    /// The stream, ready for the first byte of what it carries.
    pub stream: Stream,
    /// The other end; behind a proxy, the proxy's client.
    pub peer: PeerAddr,
    /// What it connected to.
    pub local: LocalAddr,
    /// What the TLS handshake told, if there was one.
    pub tls: Option<TlsPeer>,
}

async fn read_proxy_header(socket: &Socket) -> Result<ProxyHeader, OpenError> {
    let mut reader = ProxyHeaderReader::new();
    let mut buffer = [0; 512];
    loop {
        socket.ready(Interest::READABLE).await?;
        // What follows the header is another's, so it is left in the socket.
        let seen = match socket.peek(&mut buffer) {
            Ok(0) => return Err(OpenError::Closed),
            Ok(seen) => seen,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => continue,
            Err(error) => return Err(error.into()),
        };
        let (mut consumed, header) = reader.read(&buffer[..seen])?;
        while consumed > 0 {
            match socket.read(&mut buffer[..consumed]) {
                Ok(0) => return Err(OpenError::Closed),
                Ok(count) => consumed -= count,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    socket.ready(Interest::READABLE).await?;
                }
                Err(error) => return Err(error.into()),
            }
        }
        if let Some(header) = header {
            return Ok(header);
        }
    }
}

/// A connected socket that no runtime knows yet.
///
/// It may be sent to another thread. Dropping it closes the connection.
#[derive(Debug)]
pub struct Incoming {
    socket: OwnedFd,
    peer: PeerAddr,
    proxied: bool,
    tls: Option<TlsAcceptor>,
}

impl Incoming {
    /// Takes a connected, non-blocking socket.
    pub(crate) fn new(
        socket: OwnedFd,
        peer: PeerAddr,
        proxied: bool,
        tls: Option<TlsAcceptor>,
    ) -> Self {
        Self {
            socket,
            peer,
            proxied,
            tls,
        }
    }

    /// Returns the address of the other end.
    pub fn peer_addr(&self) -> PeerAddr {
        self.peer
    }

    /// Tells whether the peer has to say for whom it connects, by the PROXY protocol.
    pub fn is_proxied(&self) -> bool {
        self.proxied
    }

    /// Tells whether the peer has to speak TLS.
    pub fn is_tls(&self) -> bool {
        self.tls.is_some()
    }

    /// Registers the socket with the current runtime, which then owns its readiness. This is
    /// [`Accepted::open`] for whoever knows that there is nothing to wait for.
    ///
    /// # Errors
    ///
    /// [`InvalidInput`](io::ErrorKind::InvalidInput) if the listener's address asks for the PROXY
    /// protocol or for TLS. The system's, if the socket cannot be added to the runtime's poll set (memory, or the limit
    /// of watches). The connection is then closed.
    ///
    /// # Panics
    ///
    /// If called outside a tokio runtime with I/O enabled.
    pub fn register(self) -> io::Result<Stream> {
        if self.proxied || self.tls.is_some() {
            return Err(io::ErrorKind::InvalidInput.into());
        }
        Ok(Stream::new(Socket::new(self.socket)?, None))
    }
}

/// Hands the socket over as it is, connected and non-blocking, to whoever reads it otherwise.
impl From<Incoming> for OwnedFd {
    fn from(incoming: Incoming) -> Self {
        incoming.socket
    }
}

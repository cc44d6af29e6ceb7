//! The two ends of an accepted stream.

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::path::Path;
use std::sync::Arc;

/// The address of the other end.
///
/// An IPv4 peer of an IPv6 listener appears with its IPv4 address, so that one host has one
/// address however it came.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum PeerAddr {
    /// A TCP peer.
    Tcp(SocketAddr),
    /// A process on this host, over a Unix socket. It has no address.
    Unix,
}

impl PeerAddr {
    /// Returns the IP address of a TCP peer.
    pub fn ip(&self) -> Option<IpAddr> {
        match self {
            Self::Tcp(addr) => Some(addr.ip()),
            Self::Unix => None,
        }
    }

    /// Returns the port of a TCP peer.
    pub fn port(&self) -> Option<u16> {
        match self {
            Self::Tcp(addr) => Some(addr.port()),
            Self::Unix => None,
        }
    }

    pub(crate) fn tcp(addr: SocketAddr) -> Self {
        Self::Tcp(canonical(addr))
    }
}

/// Writes `IP:PORT`, or `unix`.
impl fmt::Display for PeerAddr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp(addr) => addr.fmt(f),
            Self::Unix => f.write_str("unix"),
        }
    }
}

/// The address of our own end.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum LocalAddr {
    /// A TCP address. A listener on every address has an unspecified IP; its streams have not.
    Tcp(SocketAddr),
    /// The absolute path of a Unix socket.
    Unix(Arc<Path>),
}

impl LocalAddr {
    /// Returns the IP address of a TCP socket.
    pub fn ip(&self) -> Option<IpAddr> {
        match self {
            Self::Tcp(addr) => Some(addr.ip()),
            Self::Unix(_) => None,
        }
    }

    /// Returns the port of a TCP socket.
    pub fn port(&self) -> Option<u16> {
        match self {
            Self::Tcp(addr) => Some(addr.port()),
            Self::Unix(_) => None,
        }
    }

    /// Returns the path of a Unix socket.
    pub fn path(&self) -> Option<&Path> {
        match self {
            Self::Tcp(_) => None,
            Self::Unix(path) => Some(path),
        }
    }

    pub(crate) fn tcp(addr: SocketAddr) -> Self {
        Self::Tcp(canonical(addr))
    }
}

/// Writes `IP:PORT`, or `unix:PATH`.
impl fmt::Display for LocalAddr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp(addr) => addr.fmt(f),
            Self::Unix(path) => write!(f, "unix:{}", path.display()),
        }
    }
}

fn canonical(addr: SocketAddr) -> SocketAddr {
    match addr.ip().to_canonical() {
        // Kept whole for the scope id of a link-local address.
        IpAddr::V6(_) => addr,
        ip @ IpAddr::V4(_) => SocketAddr::new(ip, addr.port()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mapped_ipv4_peer_has_its_ipv4_address() {
        let peer = PeerAddr::tcp("[::ffff:192.0.2.1]:5".parse().unwrap());
        assert_eq!(peer.to_string(), "192.0.2.1:5");
        assert_eq!(peer.ip(), Some("192.0.2.1".parse().unwrap()));
        assert_eq!(peer.port(), Some(5));
    }

    #[test]
    fn a_link_local_peer_keeps_its_scope() {
        let peer = PeerAddr::tcp("[fe80::1%3]:5".parse().unwrap());
        assert_eq!(peer.to_string(), "[fe80::1%3]:5");
    }

    #[test]
    fn a_unix_peer_has_neither_address_nor_port() {
        assert_eq!((PeerAddr::Unix.ip(), PeerAddr::Unix.port()), (None, None));
        assert_eq!(PeerAddr::Unix.to_string(), "unix");
    }
}

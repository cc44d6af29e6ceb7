//! What can go wrong, and who is at fault.

use std::io;

use rustix::io::Errno;

use crate::tls::HandshakeFailure;
use crate::{ListenAddr, ProxyHeaderError};

/// Why a listener could not be bound. The text names the address.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum BindError {
    /// The host name has no address.
    #[error("cannot resolve {host}: {}", reason(.error))]
    Resolve {
        /// The name as it was given.
        host: String,
        /// What the resolver said.
        error: io::Error,
    },
    /// The system refused.
    #[error("cannot listen on {addr}: {}", reason(.error))]
    Listen {
        /// The address as it was given; with `auto_port` the one that failed.
        addr: ListenAddr,
        /// What the system said.
        error: io::Error,
    },
    /// The Unix socket cannot be given its owner, group or mode.
    #[error("cannot set owner, group and mode of {addr}: {}", reason(.error))]
    Access {
        /// The address as it was given.
        addr: ListenAddr,
        /// What the system said.
        error: io::Error,
    },
    /// Every port that `auto_port` may try is taken.
    #[error("cannot listen on {addr}: this port and those up to {last} are in use")]
    NoFreePort {
        /// The address as it was given.
        addr: ListenAddr,
        /// The last port that was tried.
        last: u16,
    },
    /// The service manager has not passed on a socket of this name, or no more of them.
    #[error("cannot listen on {addr}: no socket of this name was passed on by the service manager")]
    NotInherited {
        /// The address as it was given.
        addr: ListenAddr,
    },
    /// The address asks for TLS, and there is no certificate.
    #[error("cannot listen on {addr}: TLS needs a certificate and its private key")]
    NoCertificate {
        /// The address as it was given.
        addr: ListenAddr,
    },
    /// Another process answers on the Unix socket.
    #[error("cannot listen on {addr}: {} is listening there", process(*pid))]
    SocketInUse {
        /// The address as it was given.
        addr: ListenAddr,
        /// Its process id, if that can be seen from here.
        pid: Option<i32>,
    },
    /// A socket of another user is in the place, whether anybody answers on it or not.
    #[error("cannot listen on {addr}: the socket there belongs to user id {owner}")]
    ForeignSocket {
        /// The address as it was given.
        addr: ListenAddr,
        /// The user id of its owner.
        owner: u32,
    },
    /// Something other than a socket is in the place.
    #[error("cannot listen on {addr}: a file that is not a socket is in its place")]
    NotASocket {
        /// The address as it was given.
        addr: ListenAddr,
    },
}

impl BindError {
    /// Tells whether the socket could not be created, as against an address that means nothing.
    ///
    /// True for everything but a host name that does not resolve. A program that follows
    /// `sysexits` ends with 73 (`EX_CANTCREAT`).
    pub fn is_cannot_create(&self) -> bool {
        match self {
            Self::Listen { .. }
            | Self::Access { .. }
            | Self::NoFreePort { .. }
            | Self::SocketInUse { .. }
            | Self::ForeignSocket { .. }
            | Self::NotASocket { .. } => true,
            Self::Resolve { .. } | Self::NotInherited { .. } | Self::NoCertificate { .. } => false,
        }
    }

    /// Tells whether the address is taken by another process, so that another may be tried.
    pub fn is_in_use(&self) -> bool {
        match self {
            Self::Listen { error, .. } => error.kind() == io::ErrorKind::AddrInUse,
            Self::NoFreePort { .. } | Self::SocketInUse { .. } => true,
            Self::Resolve { .. }
            | Self::Access { .. }
            | Self::NotInherited { .. }
            | Self::NoCertificate { .. }
            | Self::ForeignSocket { .. }
            | Self::NotASocket { .. } => false,
        }
    }
}

/// Why an accepted connection did not become a stream.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum OpenError {
    /// The peer did not begin with a header of the PROXY protocol, or not with a valid one.
    #[error(transparent)]
    Proxy(#[from] ProxyHeaderError),
    /// The TLS handshake failed; the text says why.
    #[error("the TLS handshake failed: {0}")]
    Tls(String),
    /// The peer hung up before it was done.
    #[error("the peer closed the connection before the stream was open")]
    Closed,
    /// The system's error of a lost connection, or of one that cannot be registered.
    #[error("the connection cannot be used: {}", reason(.0))]
    System(#[from] io::Error),
}

impl From<HandshakeFailure> for OpenError {
    fn from(failure: HandshakeFailure) -> Self {
        match failure {
            HandshakeFailure::Tls(error) => Self::Tls(error.to_string()),
            HandshakeFailure::Closed => Self::Closed,
            HandshakeFailure::System(error) => Self::System(error),
        }
    }
}

/// What an error of [`Listener::accept`](crate::Listener::accept) asks of the caller.
///
/// # Examples
///
/// ```
/// use std::io;
/// use ws_transport::AcceptFailure;
///
/// const EMFILE: i32 = 24;
/// let error = io::Error::from_raw_os_error(EMFILE);
/// assert_eq!(AcceptFailure::of(&error), AcceptFailure::Exhausted);
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum AcceptFailure {
    /// That one connection failed before it was accepted. Accept the next one at once.
    Passing,
    /// Descriptors or memory have run out. The connection is still waiting, so that accepting
    /// again at once fails again at once: wait first, or close something. So it is with a call that
    /// was not made, because a tracer let go of it.
    Exhausted,
    /// The listener itself is of no use any more.
    Broken,
}

impl AcceptFailure {
    /// Classifies an error of [`Listener::accept`](crate::Listener::accept).
    pub fn of(error: &io::Error) -> Self {
        let Some(errno) = Errno::from_io_error(error) else {
            return Self::Broken;
        };
        match errno {
            Errno::MFILE | Errno::NFILE | Errno::NOBUFS | Errno::NOMEM => Self::Exhausted,
            // Not of a listener that has accepted before, but of a tracer that lets go in the middle
            // of the call. Later there is none.
            Errno::NOSYS => Self::Exhausted,
            // accept(2), "Error handling": pending network errors of the new socket are passed on
            // by accept and are to be treated like EAGAIN. EPERM is a firewall's refusal.
            Errno::CONNABORTED
            | Errno::CONNRESET
            | Errno::INTR
            | Errno::AGAIN
            | Errno::PERM
            | Errno::PROTO
            | Errno::NOPROTOOPT
            | Errno::OPNOTSUPP
            | Errno::NETDOWN
            | Errno::NETUNREACH
            | Errno::HOSTDOWN
            | Errno::HOSTUNREACH
            | Errno::NONET
            | Errno::TIMEDOUT => Self::Passing,
            _ => Self::Broken,
        }
    }
}

fn process(pid: Option<i32>) -> String {
    pid.map_or_else(
        || "another process".to_owned(),
        |pid| format!("process {pid}"),
    )
}

/// The text of a system error as part of a longer sentence: `address already in use`.
pub(crate) fn reason(error: &io::Error) -> String {
    let text = error.to_string();
    let text = text.split(" (os error ").next().unwrap_or(&text);
    let mut letters = text.chars();
    match letters.next() {
        Some(first) => first.to_lowercase().chain(letters).collect(),
        None => String::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn listen(errno: Errno) -> BindError {
        let addr = ListenAddr::tcp("127.0.0.1", 8888);
        BindError::Listen {
            addr,
            error: errno.into(),
        }
    }

    #[test]
    fn the_text_names_address_and_reason() {
        assert_eq!(
            listen(Errno::ADDRINUSE).to_string(),
            "cannot listen on 127.0.0.1:8888: address already in use"
        );
    }

    #[test]
    fn a_taken_port_cannot_be_created_and_is_in_use() {
        assert!(listen(Errno::ADDRINUSE).is_cannot_create());
        assert!(listen(Errno::ADDRINUSE).is_in_use());
        assert!(listen(Errno::ACCESS).is_cannot_create());
        assert!(!listen(Errno::ACCESS).is_in_use());
    }

    #[test]
    fn t32_exhaustion_is_told_from_a_passing_error() {
        for errno in [
            Errno::MFILE,
            Errno::NFILE,
            Errno::NOBUFS,
            Errno::NOMEM,
            Errno::NOSYS,
        ] {
            assert_eq!(
                AcceptFailure::of(&errno.into()),
                AcceptFailure::Exhausted,
                "{errno:?}"
            );
        }
        for errno in [
            Errno::CONNABORTED,
            Errno::INTR,
            Errno::PROTO,
            Errno::HOSTUNREACH,
        ] {
            assert_eq!(
                AcceptFailure::of(&errno.into()),
                AcceptFailure::Passing,
                "{errno:?}"
            );
        }
        for errno in [Errno::BADF, Errno::INVAL, Errno::NOTSOCK] {
            assert_eq!(
                AcceptFailure::of(&errno.into()),
                AcceptFailure::Broken,
                "{errno:?}"
            );
        }
        assert_eq!(
            AcceptFailure::of(&io::Error::other("no errno")),
            AcceptFailure::Broken
        );
    }
}

//! The listener over both kinds of socket.

use std::io;
use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::time::Duration;

use rustix::net::{SocketAddrAny, SocketFlags, acceptfrom_with, getsockname};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

use crate::unix::SocketFile;
use crate::watch::watch;
use crate::{
    Accepted, BindError, Incoming, Inherited, ListenAddr, ListenSocket, LocalAddr, PeerAddr,
    TlsAcceptor, tcp, unix,
};

/// How to bind a [`Listener`]. The default changes nothing that the address does not ask for.
#[derive(Clone, Debug, Default)]
pub struct BindOptions {
    /// If the TCP port is taken, seek the next free one, at most 1000 further up.
    pub auto_port: bool,
    /// Let other sockets of the same user listen on the same TCP port (`SO_REUSEPORT`); the kernel
    /// deals connections out among them. A port that another such process has is then not seen to
    /// be taken.
    pub reuse_port: bool,
    /// How long bytes that were sent over TCP may stay unacknowledged before the connection counts
    /// as lost (`TCP_USER_TIMEOUT`, to the millisecond). `None` leaves it to the system, which
    /// tries for a quarter of an hour.
    pub user_timeout: Option<Duration>,
    /// The mode of the Unix socket, such as `0o660`, whatever the umask. The socket never exists
    /// with a wider one. `None` leaves it to the umask.
    pub unix_mode: Option<u32>,
    /// The user id that the Unix socket is given to, which only root may do. `None` keeps our own.
    pub unix_owner: Option<u32>,
    /// The group id of the Unix socket. `None` leaves it to the system.
    pub unix_group: Option<u32>,
    /// The certificates of addresses that ask for TLS, and of no use to others.
    pub tls: Option<TlsAcceptor>,
    /// The sockets that addresses of the form `systemd:NAME` stand for.
    pub inherited: Inherited,
}

/// A bound socket that accepts connections, registered with the runtime it was made on.
///
/// The path of a Unix socket is removed when its listener is dropped, if it still is that socket.
#[derive(Debug)]
pub struct Listener {
    /// Dropped before the socket: as long as the socket is open, no other file can have its inode
    /// number, so the comparison that guards the removal is sound.
    _file: Option<SocketFile>,
    socket: AsyncFd<OwnedFd>,
    local: LocalAddr,
    /// The address as it was given, with what was really bound.
    addr: ListenAddr,
    tls: Option<TlsAcceptor>,
}

impl Listener {
    /// Binds to `addr` and listens, with a backlog of 4096.
    ///
    /// A host name is resolved, which may block for as long as the resolver takes; of several
    /// addresses the first that works is bound, IPv4 before IPv6. `[::]` accepts IPv4 as well
    /// unless the system is configured otherwise.
    ///
    /// A stale Unix socket of our own user, one on which nobody answers, is replaced. An inherited
    /// socket is taken as it is, the first one of the name; its path is not removed at the end.
    ///
    /// # Errors
    ///
    /// [`BindError`], naming the address: it is taken or not permitted, the name does not resolve,
    /// or something that is not ours to remove is at the path.
    ///
    /// # Panics
    ///
    /// If called outside a tokio runtime with I/O enabled.
    pub fn bind(addr: &ListenAddr, options: &BindOptions) -> Result<Self, BindError> {
        let listen_error = |error| BindError::Listen {
            addr: addr.clone(),
            error,
        };
        let tls = match (addr.is_tls(), &options.tls) {
            (true, None) => return Err(BindError::NoCertificate { addr: addr.clone() }),
            (true, tls) => tls.clone(),
            (false, _) => None,
        };
        let (socket, file, local) = match addr.socket() {
            ListenSocket::Tcp { host, port } => {
                let (socket, local) = tcp::bind(addr, host, *port, options)?;
                (socket, None, LocalAddr::tcp(local))
            }
            ListenSocket::Systemd(name) => {
                let taken = options.inherited.take(name);
                let taken = taken.ok_or_else(|| BindError::NotInherited { addr: addr.clone() })?;
                let (socket, local) = taken.map_err(listen_error)?;
                if let (LocalAddr::Tcp(_), Some(timeout)) = (&local, options.user_timeout) {
                    tcp::set_user_timeout(&socket, timeout).map_err(listen_error)?;
                }
                (socket, None, local)
            }
            ListenSocket::Unix(path) => {
                let path = std::path::absolute(path).map_err(listen_error)?;
                let (socket, file) = unix::bind(&path, options)
                    .map_err(|error| error.into_bind_error(addr.clone()))?;
                (socket, Some(file), LocalAddr::Unix(path.into()))
            }
        };
        let socket = watch(socket, Interest::READABLE).map_err(listen_error)?;
        Ok(Self {
            _file: file,
            socket,
            addr: addr.clone().with_socket(bound_socket(&local)),
            local,
            tls,
        })
    }

    /// Binds to everything that `addr` stands for: a socket unit may have passed on several sockets
    /// under one name.
    ///
    /// # Errors
    ///
    /// As for [`bind`](Self::bind).
    ///
    /// # Panics
    ///
    /// If called outside a tokio runtime with I/O enabled.
    pub fn bind_all(addr: &ListenAddr, options: &BindOptions) -> Result<Vec<Self>, BindError> {
        let mut listeners = vec![Self::bind(addr, options)?];
        if let ListenSocket::Systemd(name) = addr.socket() {
            while options.inherited.names().contains(name) {
                listeners.push(Self::bind(addr, options)?);
            }
        }
        Ok(listeners)
    }

    /// Takes the listener from its runtime, so that another thread can accept.
    #[must_use]
    pub fn detach(self) -> DetachedListener {
        DetachedListener {
            _file: self._file,
            socket: self.socket.into_inner(),
            local: self.local,
            addr: self.addr,
            tls: self.tls,
        }
    }

    /// Returns the URL that clients connect to, with the real port: `ws://127.0.0.1:8888/`,
    /// `wss://127.0.0.1:8888/` or `ws+unix:/path`; with `+proxy` if that client is a proxy which
    /// speaks the PROXY protocol.
    pub fn url(&self) -> String {
        self.addr.url()
    }

    /// Returns the address that was bound, with the real port.
    pub fn local_addr(&self) -> LocalAddr {
        self.local.clone()
    }

    /// Accepts the next connection.
    ///
    /// The socket is non-blocking, closed on exec, and, over TCP, without Nagle's delay.
    ///
    /// # Errors
    ///
    /// The system's. None of them ends the listener by itself; see
    /// [`AcceptFailure::of`](crate::AcceptFailure::of) for what to do next.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future loses no connection.
    pub async fn accept(&self) -> io::Result<Accepted> {
        let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
        let accept = |listener: &OwnedFd| Ok(acceptfrom_with(listener, flags)?);
        let (socket, from) = self.socket.async_io(Interest::READABLE, accept).await?;
        let (peer, local) = match &self.local {
            LocalAddr::Unix(_) => (PeerAddr::Unix, self.local.clone()),
            LocalAddr::Tcp(bound) => (
                PeerAddr::tcp(tcp_addr(from)?),
                own_address(*bound, &socket)?,
            ),
        };
        Ok(Accepted {
            socket: Incoming::new(socket, peer, self.addr.is_proxied(), self.tls.clone()),
            peer,
            local,
        })
    }
}

/// A [`Listener`] on its way to the thread that will accept. Connections wait in its backlog.
#[derive(Debug)]
pub struct DetachedListener {
    /// As in [`Listener`].
    _file: Option<SocketFile>,
    socket: OwnedFd,
    local: LocalAddr,
    addr: ListenAddr,
    tls: Option<TlsAcceptor>,
}

impl DetachedListener {
    /// Registers the listener with the current runtime.
    ///
    /// # Errors
    ///
    /// The system's, if the socket cannot be added to the runtime's poll set. The listener is then
    /// closed.
    ///
    /// # Panics
    ///
    /// If called outside a tokio runtime with I/O enabled.
    pub fn attach(self) -> io::Result<Listener> {
        Ok(Listener {
            _file: self._file,
            socket: watch(self.socket, Interest::READABLE)?,
            local: self.local,
            addr: self.addr,
            tls: self.tls,
        })
    }
}

fn bound_socket(local: &LocalAddr) -> ListenSocket {
    match local {
        LocalAddr::Tcp(addr) => ListenSocket::Tcp {
            host: addr.ip().to_string(),
            port: addr.port(),
        },
        LocalAddr::Unix(path) => ListenSocket::Unix(path.to_path_buf()),
    }
}

fn tcp_addr(addr: Option<SocketAddrAny>) -> io::Result<SocketAddr> {
    addr.and_then(|addr| SocketAddr::try_from(addr).ok())
        // The address is gone only if the connection is.
        .ok_or_else(|| io::Error::from(rustix::io::Errno::CONNABORTED))
}

/// The address a connection was made to. The kernel is asked only if the listener accepts on more
/// than one.
fn own_address(bound: SocketAddr, socket: &OwnedFd) -> io::Result<LocalAddr> {
    if bound.ip().is_unspecified() {
        Ok(LocalAddr::tcp(tcp_addr(Some(getsockname(socket)?))?))
    } else {
        Ok(LocalAddr::Tcp(bound))
    }
}

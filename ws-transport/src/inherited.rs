//! Listening sockets that the service manager has opened.

use std::env;
use std::io;
use std::os::fd::OwnedFd;
use std::sync::{Arc, Mutex, PoisonError};

use listenfd::ListenFd;
use rustix::io::ioctl_fionbio;
use rustix::net::sockopt::{set_tcp_nodelay, socket_acceptconn};
use rustix::net::{SocketAddrAny, getsockname};

use crate::LocalAddr;

/// Listening sockets from the environment, as systemd passes them on
/// ([sd_listen_fds(3)](https://www.freedesktop.org/software/systemd/man/latest/sd_listen_fds.html)),
/// each under the name that its socket unit gives it.
///
/// Clones share them; each socket is given out once, to the
/// [`Listener`](crate::Listener) that asks for it by its name.
#[derive(Clone, Debug, Default)]
pub struct Inherited {
    sockets: Arc<Mutex<Vec<(String, OwnedFd)>>>,
}

/// Why inherited sockets cannot be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum InheritError {
    /// There are more names than sockets, or fewer.
    #[error("LISTEN_FDS passes {sockets} sockets, but LISTEN_FDNAMES has {names} names")]
    Names {
        /// As many as `LISTEN_FDS` says.
        sockets: usize,
        /// As many as there are in `LISTEN_FDNAMES`.
        names: usize,
    },
    /// The descriptor is not a stream socket, or nobody can connect to it.
    #[error("the inherited descriptor {name:?} is not a listening stream socket")]
    NotListening {
        /// Its name.
        name: String,
    },
}

impl Inherited {
    /// Takes the sockets over. Without `LISTEN_FDS`, or with another process's `LISTEN_PID`, there
    /// are none. Both variables are removed, so that no child takes the sockets for its own.
    ///
    /// To be called once, first of all: before other threads run, which might read the environment,
    /// and before anything else is opened.
    ///
    /// # Errors
    ///
    /// [`InheritError`] if what was passed is not what listeners need.
    pub fn from_env() -> Result<Self, InheritError> {
        let names = env::var("LISTEN_FDNAMES").ok();
        let mut passed = ListenFd::from_env();
        let names: Vec<String> = match names {
            Some(names) if passed.len() > 0 => names.split(':').map(str::to_owned).collect(),
            // What sd_listen_fds_with_names(3) calls them.
            _ => vec!["unknown".to_owned(); passed.len()],
        };
        if names.len() != passed.len() {
            return Err(InheritError::Names {
                sockets: passed.len(),
                names: names.len(),
            });
        }
        let mut sockets = Vec::new();
        for (index, name) in names.into_iter().enumerate() {
            let socket = take(&mut passed, index);
            match socket.filter(|socket| socket_acceptconn(socket).unwrap_or(false)) {
                Some(socket) => sockets.push((name, socket)),
                None => return Err(InheritError::NotListening { name }),
            }
        }
        Ok(Self {
            sockets: Arc::new(Mutex::new(sockets)),
        })
    }

    /// Returns the names of the sockets that nobody has taken yet.
    pub fn names(&self) -> Vec<String> {
        let sockets = self.sockets.lock().unwrap_or_else(PoisonError::into_inner);
        sockets.iter().map(|(name, _)| name.clone()).collect()
    }

    /// Gives out the first socket of this name, ready to accept.
    pub(crate) fn take(&self, name: &str) -> Option<io::Result<(OwnedFd, LocalAddr)>> {
        let mut sockets = self.sockets.lock().unwrap_or_else(PoisonError::into_inner);
        let index = sockets.iter().position(|(of, _)| of == name)?;
        let (_, socket) = sockets.remove(index);
        Some(prepare(socket))
    }
}

/// Takes a descriptor over, if it is a stream socket. It is then closed on exec.
fn take(passed: &mut ListenFd, index: usize) -> Option<OwnedFd> {
    if let Ok(Some(socket)) = passed.take_tcp_listener(index) {
        return Some(socket.into());
    }
    let socket = passed.take_unix_listener(index).ok()??;
    Some(socket.into())
}

fn prepare(socket: OwnedFd) -> io::Result<(OwnedFd, LocalAddr)> {
    ioctl_fionbio(&socket, true)?;
    let local = local_addr(getsockname(&socket)?)?;
    if let LocalAddr::Tcp(_) = local {
        // As with sockets of our own: the accepted ones inherit it.
        set_tcp_nodelay(&socket, true)?;
    }
    Ok((socket, local))
}

fn local_addr(addr: SocketAddrAny) -> io::Result<LocalAddr> {
    use std::ffi::OsStr;
    use std::os::unix::ffi::OsStrExt as _;
    use std::path::Path;

    if let Ok(addr) = std::net::SocketAddr::try_from(addr.clone()) {
        return Ok(LocalAddr::tcp(addr));
    }
    let addr = rustix::net::SocketAddrUnix::try_from(addr)?;
    // An abstract address has no path.
    let path = addr.path_bytes().unwrap_or_default();
    Ok(LocalAddr::Unix(Path::new(OsStr::from_bytes(path)).into()))
}

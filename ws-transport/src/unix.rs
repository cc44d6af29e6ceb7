//! Binding Unix sockets: long paths, modes, stale sockets, and their removal.

use std::ffi::{OsStr, OsString};
use std::io;
use std::os::fd::{AsRawFd as _, OwnedFd};
use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;
use std::time::Duration;

use nix::sys::socket::getsockopt;
use nix::sys::socket::sockopt::PeerCredentials;
use rustix::fs::{
    AtFlags, CWD, FileType, FlockOperation, Mode, OFlags, Stat, chmodat, chownat, fchmod, flock,
    fstat, openat, statat, unlinkat,
};
use rustix::io::Errno;
use rustix::net::{
    AddressFamily, SocketAddrUnix, SocketFlags, SocketType, bind as bind_socket, connect, listen,
    socket_with,
};
use rustix::process::{Gid, Uid, geteuid};

use crate::tcp::BACKLOG;
use crate::{BindError, BindOptions, ListenAddr};

/// The longest path that fits into a `sockaddr_un` with its NUL.
const MAX_PATH_LEN: usize = 107;

/// How often a bind that lost a race is repeated.
const MAX_ATTEMPTS: usize = 8;

/// Listens at an absolute path.
pub(crate) fn bind(
    path: &Path,
    options: &BindOptions,
) -> Result<(OwnedFd, SocketFile), UnixBindError> {
    let place = Place::open(path)?;
    // From here to `listen` a second server could take our socket, bound but not yet listening,
    // for a stale one.
    let _lock = place.lock();
    let socket = bind_at(&place, options)?;
    let file = SocketFile::new(place)?;
    file.set_access(options)
        .map_err(|errno| UnixBindError::Access(errno.into()))?;
    listen(&socket, BACKLOG)?;
    Ok((socket, file))
}

/// Why a path could not be bound; the address is added by the caller.
#[derive(Debug)]
pub(crate) enum UnixBindError {
    System(io::Error),
    Access(io::Error),
    InUse { pid: Option<i32> },
    Foreign { owner: u32 },
    NotASocket,
}

impl UnixBindError {
    pub(crate) fn into_bind_error(self, addr: ListenAddr) -> BindError {
        match self {
            Self::System(error) => BindError::Listen { addr, error },
            Self::Access(error) => BindError::Access { addr, error },
            Self::InUse { pid } => BindError::SocketInUse { addr, pid },
            Self::Foreign { owner } => BindError::ForeignSocket { addr, owner },
            Self::NotASocket => BindError::NotASocket { addr },
        }
    }
}

impl From<Errno> for UnixBindError {
    fn from(errno: Errno) -> Self {
        Self::System(errno.into())
    }
}

/// A bound socket's name in the file system; dropping it removes the name if it is still ours.
#[derive(Debug)]
pub(crate) struct SocketFile {
    place: Place,
    /// The socket's inode, opened only as a reference.
    inode: OwnedFd,
    status: Stat,
}

impl SocketFile {
    /// Takes hold of the socket that was just bound.
    fn new(place: Place) -> Result<Self, UnixBindError> {
        let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let inode = openat(&place.dir, &place.name, flags, Mode::empty())?;
        let status = fstat(&inode)?;
        if !is_socket(&status) || status.st_uid != geteuid().as_raw() {
            return Err(UnixBindError::InUse { pid: None });
        }
        Ok(Self {
            place,
            inode,
            status,
        })
    }

    /// Gives the socket its owner, group and mode, by descriptor, so that whatever may have taken its
    /// name since is not touched.
    fn set_access(&self, options: &BindOptions) -> Result<(), Errno> {
        if options.unix_owner.is_some() || options.unix_group.is_some() {
            let owner = options.unix_owner.map(Uid::from_raw);
            let group = options.unix_group.map(Gid::from_raw);
            chownat(&self.inode, "", owner, group, AtFlags::EMPTY_PATH)?;
        }
        if let Some(mode) = options.unix_mode {
            // fchmod refuses such descriptors; their names under /proc are followed.
            let name = format!("/proc/self/fd/{}", self.inode.as_raw_fd());
            chmodat(CWD, name, Mode::from_raw_mode(mode), AtFlags::empty())?;
        }
        Ok(())
    }
}

impl Drop for SocketFile {
    fn drop(&mut self) {
        let current = statat(&self.place.dir, &self.place.name, AtFlags::SYMLINK_NOFOLLOW);
        let is_ours = |current: Stat| {
            (current.st_dev, current.st_ino) == (self.status.st_dev, self.status.st_ino)
        };
        if current.is_ok_and(is_ours) {
            // If it fails the socket stays behind, stale, and the next start replaces it.
            let _ = unlinkat(&self.place.dir, &self.place.name, AtFlags::empty());
        }
    }
}

/// A name in an open directory. The directory is held, so that the name means the same file at the
/// end, whatever became of the path.
#[derive(Debug)]
struct Place {
    dir: OwnedFd,
    name: OsString,
    address: SocketAddrUnix,
}

impl Place {
    fn open(path: &Path) -> Result<Self, UnixBindError> {
        let (Some(parent), Some(name)) = (path.parent(), path.file_name()) else {
            return Err(Errno::ISDIR.into());
        };
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let dir = openat(CWD, parent, flags, Mode::empty())?;
        let address = socket_address(path, &dir, name)?;
        Ok(Self {
            dir,
            name: name.to_owned(),
            address,
        })
    }

    /// Keeps other servers from replacing sockets in this directory until it is dropped.
    ///
    /// It is advice among servers that start at the same moment. Whoever may read the directory
    /// can hold the lock for ever, so we wait 200 ms for it and then go on without.
    fn lock(&self) -> Option<OwnedFd> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let dir = openat(&self.dir, ".", flags, Mode::empty()).ok()?;
        for _ in 0..100 {
            match flock(&dir, FlockOperation::NonBlockingLockExclusive) {
                Ok(()) => return Some(dir),
                Err(Errno::WOULDBLOCK) => std::thread::sleep(Duration::from_millis(2)),
                Err(_) => return None,
            }
        }
        None
    }
}

/// The address of `path`, through the open directory if the path itself is too long.
fn socket_address(path: &Path, dir: &OwnedFd, name: &OsStr) -> Result<SocketAddrUnix, Errno> {
    if path.as_os_str().len() <= MAX_PATH_LEN {
        return SocketAddrUnix::new(path);
    }
    let mut short = format!("/proc/self/fd/{}/", dir.as_raw_fd()).into_bytes();
    short.extend_from_slice(name.as_bytes());
    SocketAddrUnix::new(short)
}

/// Binds a new socket, replacing a stale one.
fn bind_at(place: &Place, options: &BindOptions) -> Result<OwnedFd, UnixBindError> {
    for _ in 0..MAX_ATTEMPTS {
        let socket = unix_socket()?;
        if options.unix_mode.is_some()
            || options.unix_owner.is_some()
            || options.unix_group.is_some()
        {
            // On Linux the name gets the mode of the unbound socket, less the umask. So nobody
            // but its owner can connect until group and mode are as they should be.
            fchmod(&socket, Mode::RWXU)?;
        }
        match bind_socket(&socket, &place.address) {
            Ok(()) => return Ok(socket),
            Err(Errno::ADDRINUSE) => remove_stale(place, options.unix_owner)?,
            Err(errno) => return Err(errno.into()),
        }
    }
    Err(UnixBindError::InUse { pid: None })
}

/// Removes what is in the place, if it is a socket of ours, or one that we gave to `owner`, on which
/// nobody answers.
fn remove_stale(place: &Place, owner: Option<u32>) -> Result<(), UnixBindError> {
    let status = match statat(&place.dir, &place.name, AtFlags::SYMLINK_NOFOLLOW) {
        Ok(status) => status,
        Err(Errno::NOENT) => return Ok(()),
        Err(errno) => return Err(errno.into()),
    };
    if !is_socket(&status) {
        return Err(UnixBindError::NotASocket);
    }
    if status.st_uid != geteuid().as_raw() && Some(status.st_uid) != owner {
        return Err(UnixBindError::Foreign {
            owner: status.st_uid,
        });
    }
    let socket = unix_socket()?;
    match connect(&socket, &place.address) {
        Err(Errno::CONNREFUSED) => {}
        Err(Errno::NOENT) => return Ok(()),
        // EAGAIN: its backlog is full. EPROTOTYPE: it is a datagram socket.
        Ok(()) => {
            let pid = listening_process(&socket);
            return Err(UnixBindError::InUse { pid });
        }
        Err(Errno::AGAIN | Errno::PROTOTYPE) => return Err(UnixBindError::InUse { pid: None }),
        Err(errno) => return Err(errno.into()),
    }
    match unlinkat(&place.dir, &place.name, AtFlags::empty()) {
        Ok(()) | Err(Errno::NOENT) => Ok(()),
        Err(errno) => Err(errno.into()),
    }
}

/// Returns who listens where a socket is connected to, unless it is in another PID namespace.
fn listening_process(socket: &OwnedFd) -> Option<i32> {
    // unix(7): they are those at the call of listen(2). Not rustix: a process that cannot be seen has
    // the number 0, which its type does not allow.
    let listener = getsockopt(socket, PeerCredentials).ok()?;
    Some(listener.pid()).filter(|pid| *pid != 0)
}

fn unix_socket() -> Result<OwnedFd, Errno> {
    let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
    socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None)
}

fn is_socket(status: &Stat) -> bool {
    FileType::from_raw_mode(status.st_mode) == FileType::Socket
}

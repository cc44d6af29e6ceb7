//! Unix sockets by path: bound with their final permissions, and of any length.

use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};

use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType};
use tokio::net::UnixStream;

/// The longest path that fits into a socket address, its final NUL apart.
const MAX_PATH_LEN: usize = 107;

/// How many connections may wait to be accepted; the kernel cuts it to `somaxconn`.
const BACKLOG: i32 = 4096;

/// A listening socket, whose path lives as long.
#[derive(Debug)]
pub(crate) struct BoundListener {
    socket: OwnedFd,
    path: PathBuf,
    /// Device and inode of the path, to unlink no other's.
    file: (u64, u64),
}

impl BoundListener {
    /// Binds and listens; only the own user may connect. A socket of the own user that is in the
    /// place is taken for a remainder and replaced, anything else is an error.
    pub(crate) fn bind(path: &Path) -> io::Result<Self> {
        remove_stale(path)?;
        let socket = rustix::net::socket_with(
            AddressFamily::UNIX,
            SocketType::STREAM,
            SocketFlags::CLOEXEC,
            None,
        )?;
        // The path takes its mode from the socket, so it is never there with another one.
        rustix::fs::fchmod(&socket, Mode::RUSR | Mode::WUSR)?;
        let (_dir, short) = shorten(path)?;
        rustix::net::bind(&socket, &SocketAddrUnix::new(&short)?)?;
        rustix::net::listen(&socket, BACKLOG)?;
        let metadata = std::fs::symlink_metadata(path)?;
        let file = (metadata.dev(), metadata.ino());
        Ok(Self {
            socket,
            path: path.to_owned(),
            file,
        })
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Whether somebody has connected and is not accepted yet.
    pub(crate) fn has_waiting(&self) -> bool {
        let mut looked_at = [PollFd::new(&self.socket, PollFlags::IN)];
        let at_once = Timespec::default();
        matches!(rustix::event::poll(&mut looked_at, Some(&at_once)), Ok(1..))
    }

    /// Accepts whoever has connected, and hangs up. Nobody else may accept meanwhile: what was
    /// started with the socket shares its flags.
    pub(crate) fn turn_away(&self) -> io::Result<()> {
        rustix::io::ioctl_fionbio(&self.socket, true)?;
        let end = loop {
            match rustix::net::accept_with(&self.socket, SocketFlags::CLOEXEC) {
                Ok(_) | Err(Errno::INTR | Errno::CONNABORTED) => {}
                Err(Errno::AGAIN) => break Ok(()),
                Err(error) => break Err(error.into()),
            }
        };
        rustix::io::ioctl_fionbio(&self.socket, false)?;
        end
    }

    /// Another descriptor of the socket.
    pub(crate) fn try_clone(&self) -> io::Result<OwnedFd> {
        self.socket.try_clone()
    }
}

impl Drop for BoundListener {
    fn drop(&mut self) {
        let found = std::fs::symlink_metadata(&self.path);
        if found.is_ok_and(|metadata| (metadata.dev(), metadata.ino()) == self.file) {
            let _ = std::fs::remove_file(&self.path);
        }
    }
}

/// Connects to a listening socket.
pub(crate) async fn connect(path: &Path) -> io::Result<UnixStream> {
    let (_dir, short) = shorten(path)?;
    UnixStream::connect(short).await
}

/// Connects to a listening socket without waiting, also for a place in its queue.
pub(crate) fn connect_at_once(path: &Path) -> io::Result<std::os::unix::net::UnixStream> {
    let socket = rustix::net::socket_with(
        AddressFamily::UNIX,
        SocketType::STREAM,
        SocketFlags::CLOEXEC | SocketFlags::NONBLOCK,
        None,
    )?;
    let (_dir, short) = shorten(path)?;
    rustix::net::connect(&socket, &SocketAddrUnix::new(&short)?)?;
    Ok(socket.into())
}

fn remove_stale(path: &Path) -> io::Result<()> {
    match std::fs::symlink_metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(error),
        Ok(found) => {
            let is_ours = found.uid() == rustix::process::geteuid().as_raw();
            if found.file_type().is_socket() && is_ours {
                std::fs::remove_file(path)
            } else {
                Err(io::Error::from_raw_os_error(nix::libc::EEXIST))
            }
        }
    }
}

/// A path of the same file that fits into an address, and the directory that must be kept open for
/// as long as it is used.
fn shorten(path: &Path) -> io::Result<(Option<OwnedFd>, PathBuf)> {
    if path.as_os_str().len() <= MAX_PATH_LEN {
        return Ok((None, path.to_owned()));
    }
    let (Some(parent), Some(name)) = (path.parent(), path.file_name()) else {
        return Err(io::ErrorKind::InvalidInput.into());
    };
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let dir = rustix::fs::open(parent, flags, Mode::empty())?;
    let short = Path::new("/proc/self/fd")
        .join(dir.as_raw_fd().to_string())
        .join(name);
    Ok((Some(dir), short))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn path_too_long_for_an_address_is_bound_and_connected() {
        let dir = tempfile::tempdir().unwrap();
        let long = dir.path().join("d".repeat(120));
        std::fs::create_dir(&long).unwrap();
        let path = long.join("worker.sock");
        let listener = BoundListener::bind(&path).unwrap();
        assert_eq!(std::fs::metadata(&path).unwrap().mode() & 0o7777, 0o600);
        assert!(!listener.has_waiting());
        connect(&path).await.unwrap();
        connect_at_once(&path).unwrap();
        assert!(listener.has_waiting());
        let mut waiting = connect_at_once(&path).unwrap();
        listener.turn_away().unwrap();
        assert!(!listener.has_waiting());
        assert_eq!(io::Read::read(&mut waiting, &mut [0]).unwrap(), 0);
        drop(listener);
        assert!(!path.exists());
    }

    #[test]
    fn stale_socket_is_replaced_and_a_foreign_file_is_not() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("worker.sock");
        drop(std::os::unix::net::UnixListener::bind(&path).unwrap());
        drop(BoundListener::bind(&path).unwrap());
        std::fs::write(&path, "precious").unwrap();
        assert_eq!(
            BoundListener::bind(&path).unwrap_err().kind(),
            io::ErrorKind::AlreadyExists
        );
        assert_eq!(std::fs::read(&path).unwrap(), b"precious");
    }

    #[test]
    fn path_that_has_become_another_s_is_not_unlinked() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("worker.sock");
        let first = BoundListener::bind(&path).unwrap();
        let _second = BoundListener::bind(&path).unwrap();
        drop(first);
        assert!(path.exists());
    }
}

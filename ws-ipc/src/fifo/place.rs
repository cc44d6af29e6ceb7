//! The directory itself: made, checked, locked, and cleared of a former run's FIFOs.

use std::fs::DirBuilder;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, CWD, Dir, FlockOperation, Gid, Mode, OFlags, Stat};
use rustix::io::Errno;

use super::FifoOptions;
use super::error::{FifoError, Found};
use super::name::SUFFIX;

/// An opened directory under its lock.
#[derive(Debug)]
pub(super) struct Place {
    path: PathBuf,
    dir: OwnedFd,
    inode: Inode,
    /// Held also by a [`Fifo`](super::Fifo) that outlives its directory.
    _lock: Lock,
}

/// The lock of flock(2) on a file, given back when this is dropped.
///
/// Closing the descriptor would not do: the lock stays until the last copy is closed, and a process
/// that another thread is forking just then has one until it executes its program.
#[derive(Debug)]
struct Lock(OwnedFd);

impl Drop for Lock {
    fn drop(&mut self) {
        // It cannot fail on a descriptor that holds the lock; closing it is next anyway.
        let _ = rustix::fs::flock(&self.0, FlockOperation::Unlock);
    }
}

/// What tells one file from another, whatever its name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Inode {
    dev: u64,
    ino: u64,
}

impl Inode {
    #[allow(
        clippy::useless_conversion,
        reason = "the fields are u32 on some architectures"
    )]
    pub(super) fn new(stat: &Stat) -> Self {
        Self {
            dev: stat.st_dev.into(),
            ino: stat.st_ino.into(),
        }
    }
}

impl Place {
    /// Opens the directory at an absolute path, making it if it is not there.
    pub(super) fn open(path: &Path, options: &FifoOptions) -> Result<Self, FifoError> {
        let dir = open_or_make(path, options)?;
        if !options.insecure_dir {
            check_ancestors(path)?;
        }
        let lock = lock(&dir, path)?;
        let stat = rustix::fs::fstat(&dir)
            .map_err(|source| FifoError::io("inspect directory", path, source))?;
        let place = Self {
            path: path.to_owned(),
            dir,
            inode: Inode::new(&stat),
            _lock: lock,
        };
        place.remove_stale()?;
        Ok(place)
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// Returns whether the path still leads to this directory.
    pub(super) fn is_in_place(&self) -> bool {
        let stat = rustix::fs::statat(CWD, &self.path, AtFlags::SYMLINK_NOFOLLOW);
        stat.is_ok_and(|stat| Inode::new(&stat) == self.inode)
    }

    /// Returns what stands under a name, a symbolic link itself included.
    pub(super) fn stat(&self, name: impl rustix::path::Arg) -> rustix::io::Result<Stat> {
        rustix::fs::statat(&self.dir, name, AtFlags::SYMLINK_NOFOLLOW)
    }

    /// Returns whether the name stands for this inode.
    pub(super) fn holds(&self, name: &str, inode: Inode) -> bool {
        self.stat(name).is_ok_and(|stat| Inode::new(&stat) == inode)
    }

    /// Removes a name if it still stands for this inode.
    pub(super) fn unlink_if(&self, name: &str, inode: Inode) {
        if self.holds(name, inode)
            && let Err(error) = rustix::fs::unlinkat(&self.dir, name, AtFlags::empty())
        {
            let path = self.path.join(name);
            tracing::warn!(path = %path.display(), %error, "cannot remove FIFO");
        }
    }

    /// Removes a FIFO that nobody reads.
    pub(super) fn discard(&self, name: impl rustix::path::Arg + Copy) -> rustix::io::Result<()> {
        // A writer that waits in open(2) would wait for ever once the name is gone. A reader that
        // comes and goes lets it on, to learn from EPIPE that nobody listens.
        let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let reader = rustix::fs::openat(&self.dir, name, flags, Mode::empty());
        let removed = rustix::fs::unlinkat(&self.dir, name, AtFlags::empty());
        drop(reader);
        removed
    }

    /// Removes the FIFOs that a former run left, and nothing else.
    fn remove_stale(&self) -> Result<(), FifoError> {
        let list = |source| FifoError::io("list directory", &self.path, source);
        for entry in Dir::read_from(&self.dir).map_err(list)? {
            let entry = entry.map_err(list)?;
            let name = entry.file_name();
            if !name.to_bytes().ends_with(SUFFIX.as_bytes()) {
                continue;
            }
            if let Ok(stat) = self.stat(name)
                && Found::new(&stat) == Found::Fifo
            {
                let path = || self.path.join(&*name.to_string_lossy());
                self.discard(name)
                    .map_err(|source| FifoError::io("remove stale FIFO", path(), source))?;
                tracing::debug!(path = %path().display(), "stale FIFO removed");
            }
        }
        Ok(())
    }
}

impl AsFd for Place {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.dir.as_fd()
    }
}

fn open_or_make(path: &Path, options: &FifoOptions) -> Result<OwnedFd, FifoError> {
    let create = |source: io::Error| FifoError::io("create directory", path, source);
    if let Some(parent) = path.parent() {
        DirBuilder::new()
            .recursive(true)
            .mode(0o755)
            .create(parent)
            .map_err(create)?;
    }
    let made = match rustix::fs::mkdir(path, Mode::RWXU) {
        Ok(()) => true,
        Err(Errno::EXIST) => false,
        Err(error) => return Err(create(error.into())),
    };
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let dir = rustix::fs::open(path, flags, Mode::empty())
        .map_err(|error| foreign_or_io(CWD, path, path, USE_DIRECTORY, Found::Directory, error))?;
    let stat = rustix::fs::fstat(&dir)
        .map_err(|source| FifoError::io("inspect directory", path, source))?;
    match Found::new(&stat) {
        Found::Directory => {}
        found => {
            return Err(FifoError::Foreign {
                act: USE_DIRECTORY,
                path: path.into(),
                found,
            });
        }
    }
    let mode = set_permissions(&dir, path, &stat, made, options)?;
    if mode & OTHERS_WRITE != 0 && !options.insecure_dir {
        return Err(FifoError::Writable {
            path: path.into(),
            mode,
        });
    }
    Ok(dir)
}

/// Gives a directory of ours its group and mode; returns the mode.
///
/// One that was there keeps its mode: whoever made it 0700 or 0755 had a reason.
fn set_permissions(
    dir: &OwnedFd,
    path: &Path,
    stat: &Stat,
    made: bool,
    options: &FifoOptions,
) -> Result<u32, FifoError> {
    if let Some(group) = options.group.filter(|&group| group != stat.st_gid) {
        rustix::fs::fchown(dir, None, Some(Gid::from_raw(group)))
            .map_err(|source| FifoError::io("change group of directory", path, source))?;
    }
    let mode = stat.st_mode & 0o7777;
    let wanted = match options.dir_mode & 0o7777 {
        wanted if made => wanted,
        wanted if options.tighten_dir => mode & wanted,
        _ => mode,
    };
    if wanted != mode {
        rustix::fs::fchmod(dir, Mode::from_raw_mode(wanted))
            .map_err(|source| FifoError::io("change mode of directory", path, source))?;
    }
    Ok(wanted)
}

/// Refuses a directory that anybody could move away and replace.
///
/// Directories above it that a group may write to pass: under the umask 002 everybody's working
/// directory is one.
fn check_ancestors(path: &Path) -> Result<(), FifoError> {
    let real = std::fs::canonicalize(path)
        .map_err(|source| FifoError::io("inspect directory", path, source))?;
    for ancestor in real.ancestors().skip(1) {
        let mode = match std::fs::metadata(ancestor) {
            Ok(metadata) => metadata.mode() & 0o7777,
            Err(source) => return Err(FifoError::io("inspect directory", ancestor, source)),
        };
        if mode & 0o002 != 0 && mode & STICKY == 0 {
            return Err(FifoError::Writable {
                path: ancestor.into(),
                mode,
            });
        }
    }
    Ok(())
}

fn lock(dir: &OwnedFd, dir_path: &Path) -> Result<Lock, FifoError> {
    let path = dir_path.join(LOCK);
    let flags =
        OFlags::RDWR | OFlags::CREATE | OFlags::NONBLOCK | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let file = rustix::fs::openat(dir, LOCK, flags, Mode::RUSR | Mode::WUSR).map_err(|error| {
        foreign_or_io(
            dir.as_fd(),
            LOCK,
            &path,
            USE_LOCK,
            Found::RegularFile,
            error,
        )
    })?;
    let stat = rustix::fs::fstat(&file)
        .map_err(|source| FifoError::io("inspect lock file", &path, source))?;
    match Found::new(&stat) {
        Found::RegularFile => {}
        found => {
            return Err(FifoError::Foreign {
                act: USE_LOCK,
                path,
                found,
            });
        }
    }
    match rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => Ok(Lock(file)),
        Err(Errno::WOULDBLOCK) => Err(FifoError::Locked { path }),
        Err(source) => Err(FifoError::io("lock", path, source)),
    }
}

/// Names what was met instead of `expected`, or the system's reason if that is not why.
pub(super) fn foreign_or_io(
    dir: BorrowedFd<'_>,
    name: impl rustix::path::Arg,
    path: &Path,
    act: &'static str,
    expected: Found,
    source: Errno,
) -> FifoError {
    match rustix::fs::statat(dir, name, AtFlags::SYMLINK_NOFOLLOW).map(|stat| Found::new(&stat)) {
        Ok(found) if found != expected => FifoError::Foreign {
            act,
            path: path.into(),
            found,
        },
        Ok(_) | Err(_) => FifoError::io(act, path, source),
    }
}

const LOCK: &str = ".lock";
const USE_DIRECTORY: &str = "keep FIFOs in";
const USE_LOCK: &str = "use lock file";
const OTHERS_WRITE: u32 = 0o022;
const STICKY: u32 = 0o1000;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dropped_lock_is_free_although_a_copy_of_the_descriptor_is_open() {
        let temp = tempfile::tempdir().unwrap();
        let place = || Place::open(temp.path(), &FifoOptions::default());
        let first = place().unwrap();
        let copy_of_a_fork = first._lock.0.try_clone().unwrap();
        assert!(matches!(place(), Err(FifoError::Locked { .. })));
        drop(first);
        place().unwrap();
        drop(copy_of_a_fork);
    }
}

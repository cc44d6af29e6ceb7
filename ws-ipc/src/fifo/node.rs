//! One FIFO in the directory: what stands in its place, making it, checking that it is ours.

use std::os::fd::{AsFd, OwnedFd};
use std::path::PathBuf;
use std::time::{SystemTime, UNIX_EPOCH};

use rustix::fs::{AtFlags, Gid, Mode, OFlags, RenameFlags};
use rustix::io::Errno;

use super::FifoOptions;
use super::error::{FifoError, Found};
use super::place::{Inode, Place, foreign_or_io};

impl Place {
    /// Makes a FIFO and opens it; `is_live` tells whether an inode is in use under another name.
    pub(super) fn make(
        &self,
        name: &str,
        options: &FifoOptions,
        is_live: impl Fn(Inode) -> bool,
    ) -> Result<(OwnedFd, Inode), FifoError> {
        for _ in 0..MAX_ATTEMPTS {
            // Nobody else may open it before it has its group: the mode comes last.
            match rustix::fs::mkfifoat(self, name, Mode::RUSR | Mode::WUSR) {
                Ok(()) => return self.open_made(name, options, is_live),
                Err(Errno::EXIST) => self.clear(name)?,
                Err(source) => return Err(FifoError::io(CREATE, self.path().join(name), source)),
            }
        }
        Err(FifoError::Replaced {
            path: self.path().join(name),
        })
    }

    fn open_made(
        &self,
        name: &str,
        options: &FifoOptions,
        is_live: impl Fn(Inode) -> bool,
    ) -> Result<(OwnedFd, Inode), FifoError> {
        let path = || self.path().join(name);
        // For reading and writing: with only readers' ends open, poll(2) reports a hang-up for
        // ever once the last writer has left.
        let flags = OFlags::RDWR | OFlags::NONBLOCK | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let file = rustix::fs::openat(self, name, flags, Mode::empty()).map_err(|error| {
            // Without a descriptor for it, it is of no use, and nobody would remove it later.
            let stat = self.stat(name);
            if stat.is_ok_and(|stat| Found::new(&stat) == Found::Fifo) {
                let _ = self.discard(name);
            }
            foreign_or_io(self.as_fd(), name, &path(), CREATE, Found::Fifo, error)
        })?;
        let stat = rustix::fs::fstat(&file)
            .map_err(|source| FifoError::io("inspect FIFO", path(), source))?;
        match Found::new(&stat) {
            Found::Fifo => {}
            found => {
                return Err(FifoError::Foreign {
                    act: CREATE,
                    path: path(),
                    found,
                });
            }
        }
        let inode = Inode::new(&stat);
        if !self.holds(name, inode) || is_live(inode) {
            return Err(FifoError::Replaced { path: path() });
        }
        if let Err(error) = set_permissions(&file, options, path) {
            self.unlink_if(name, inode);
            return Err(error);
        }
        Ok((file, inode))
    }

    /// Clears a name for a FIFO; what is not ours to remove is an error.
    fn clear(&self, name: &str) -> Result<(), FifoError> {
        let path = || self.path().join(name);
        let stat = match self.stat(name) {
            Ok(stat) => stat,
            Err(Errno::NOENT) => return Ok(()),
            Err(source) => return Err(FifoError::io("inspect", path(), source)),
        };
        match Found::new(&stat) {
            Found::Fifo => match self.discard(name) {
                Ok(()) | Err(Errno::NOENT) => Ok(()),
                Err(source) => Err(FifoError::io("remove stale FIFO", path(), source)),
            },
            Found::RegularFile => self.set_aside(name),
            found => Err(FifoError::Foreign {
                act: CREATE,
                path: path(),
                found,
            }),
        }
    }

    /// Renames a file that somebody wrote while no FIFO was there.
    fn set_aside(&self, name: &str) -> Result<(), FifoError> {
        let now = SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .unwrap_or_default()
            .as_secs();
        for number in 0..MAX_ATTEMPTS {
            let lost = match number {
                0 => format!("{name}.lost-{now}"),
                _ => format!("{name}.lost-{now}-{number}"),
            };
            match self.rename_unique(name, &lost) {
                Ok(()) => {
                    let path = self.path().join(name);
                    tracing::warn!(path = %path.display(), lost, "file in the place of a FIFO renamed");
                    return Ok(());
                }
                Err(Errno::NOENT) => return Ok(()),
                Err(Errno::EXIST) => {}
                Err(source) => {
                    return Err(FifoError::io("set aside", self.path().join(name), source));
                }
            }
        }
        Err(FifoError::io(
            "set aside",
            self.path().join(name),
            Errno::EXIST,
        ))
    }

    fn rename_unique(&self, from: &str, to: &str) -> rustix::io::Result<()> {
        match rustix::fs::renameat_with(self, from, self, to, RenameFlags::NOREPLACE) {
            // A file system without RENAME_NOREPLACE: a second name is as good, and as exclusive.
            Err(Errno::INVAL | Errno::NOSYS) => {
                rustix::fs::linkat(self, from, self, to, AtFlags::empty())?;
                rustix::fs::unlinkat(self, from, AtFlags::empty())
            }
            result => result,
        }
    }
}

fn set_permissions(
    file: &OwnedFd,
    options: &FifoOptions,
    path: impl Fn() -> PathBuf,
) -> Result<(), FifoError> {
    if let Some(group) = options.group {
        rustix::fs::fchown(file, None, Some(Gid::from_raw(group)))
            .map_err(|source| FifoError::io("change group of FIFO", path(), source))?;
    }
    // mkfifo(2) subtracts the umask, fchmod(2) does not.
    rustix::fs::fchmod(file, Mode::from_raw_mode(options.fifo_mode & 0o777))
        .map_err(|source| FifoError::io("change mode of FIFO", path(), source))
}

const CREATE: &str = "create FIFO";
const MAX_ATTEMPTS: u32 = 16;

#[cfg(test)]
mod tests {
    use std::fs::{self, OpenOptions};
    use std::io::Write;
    use std::os::unix::fs::{chown, symlink};
    use std::path::Path;

    use rustix::fs::{CWD, mkfifoat};

    use super::*;

    /// What somebody may have put under the name after `mkfifoat` and before `openat`.
    #[test]
    fn t41_name_swapped_at_the_worst_moment_is_not_opened() {
        let temp = tempfile::tempdir().unwrap();
        let options = FifoOptions::default();
        let place = Place::open(&temp.path().join("fifo"), &options).unwrap();
        let name = "a.fifo";
        let path = place.path().join(name);
        let outside = temp.path().join("outside.fifo");
        let refused = |expected: Found| {
            let error = place.open_made(name, &options, |_| false).unwrap_err();
            let FifoError::Foreign { found, .. } = error else {
                panic!("{error}")
            };
            assert_eq!(found, expected);
            fs::remove_file(&path).unwrap();
        };
        let make_fifo = |path: &Path| mkfifoat(CWD, path, Mode::RUSR | Mode::WUSR).unwrap();
        make_fifo(&outside);

        symlink(&outside, &path).unwrap();
        refused(Found::SymbolicLink);
        symlink("/dev/null", &path).unwrap();
        refused(Found::SymbolicLink);
        fs::hard_link(&outside, &path).unwrap();
        refused(Found::HardLink { links: 2 });
        fs::write(&path, "file").unwrap();
        refused(Found::RegularFile);
        if rustix::process::geteuid().is_root() {
            make_fifo(&path);
            chown(&path, Some(65534), None).unwrap();
            let mut held = OpenOptions::new()
                .read(true)
                .write(true)
                .open(&path)
                .unwrap();
            held.write_all(b"evil").unwrap();
            refused(Found::OfOtherUser { uid: 65534 });
        }

        let error = place.open_made(name, &options, |_| false).unwrap_err();
        assert!(matches!(error, FifoError::Io { .. }), "{error}");
        make_fifo(&path);
        let error = place.open_made(name, &options, |_| true).unwrap_err();
        assert!(matches!(error, FifoError::Replaced { .. }), "{error}");
        assert!(place.open_made(name, &options, |_| false).is_ok());
    }

    #[test]
    fn fifo_that_cannot_get_its_group_leaves_nothing_behind() {
        if rustix::process::geteuid().is_root() {
            return;
        }
        let temp = tempfile::tempdir().unwrap();
        let place = Place::open(&temp.path().join("fifo"), &FifoOptions::default()).unwrap();
        let options = FifoOptions {
            group: Some(0),
            ..FifoOptions::default()
        };
        let error = place.make("a.fifo", &options, |_| false).unwrap_err();
        assert!(
            matches!(
                error,
                FifoError::Io {
                    act: "change group of FIFO",
                    ..
                }
            ),
            "{error}"
        );
        assert!(!place.path().join("a.fifo").exists());
    }
}

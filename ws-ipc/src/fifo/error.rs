//! What can be wrong with a FIFO or its directory.

use std::fmt;
use std::io;
use std::path::PathBuf;

use rustix::fs::{FileType, Stat};
use rustix::process::geteuid;

/// Why a FIFO or its directory could not be had.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum FifoError {
    /// The system refused.
    #[error("cannot {act} {}", path.display())]
    Io {
        /// What was tried.
        act: &'static str,
        /// On what.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// Another server uses the directory.
    #[error("cannot lock {}: another server holds it", path.display())]
    Locked {
        /// The lock file.
        path: PathBuf,
    },
    /// Something stands where the FIFO, the directory or its lock file should be; it was not
    /// touched.
    #[error("cannot {act} {}: it is {found}", path.display())]
    Foreign {
        /// What was tried.
        act: &'static str,
        /// Where it stands.
        path: PathBuf,
        /// What it is.
        found: Found,
    },
    /// The directory, or one above it, may be written by others, who then could put their FIFOs in
    /// the place of ours.
    #[error("cannot keep FIFOs below {}: others may write to it (mode {mode:04o})", path.display())]
    Writable {
        /// The directory.
        path: PathBuf,
        /// Its permissions.
        mode: u32,
    },
    /// The name is in use by another [`Fifo`](super::Fifo) of this directory.
    #[error("cannot create FIFO {}: it is in use", path.display())]
    Exists {
        /// The FIFO.
        path: PathBuf,
    },
    /// Somebody keeps putting other things where the FIFO is being made.
    #[error("cannot create FIFO {}: it was replaced while it was made", path.display())]
    Replaced {
        /// The FIFO.
        path: PathBuf,
    },
    /// The name could leave the directory, hide in it, or outlive a crash: it must end in `.fifo`,
    /// not begin with a dot, hold no slash and no NUL, and be of at most 230 bytes.
    #[error("cannot create FIFO {name:?}: invalid name")]
    InvalidName {
        /// The name as it was given.
        name: String,
    },
}

impl FifoError {
    pub(super) fn io(
        act: &'static str,
        path: impl Into<PathBuf>,
        source: impl Into<io::Error>,
    ) -> Self {
        Self::Io {
            act,
            path: path.into(),
            source: source.into(),
        }
    }
}

/// What stands where a FIFO of ours should be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Found {
    /// A symbolic link; it was not followed.
    SymbolicLink,
    /// A regular file.
    RegularFile,
    /// A directory.
    Directory,
    /// A character or block device.
    Device,
    /// A socket.
    Socket,
    /// A FIFO.
    Fifo,
    /// Something that belongs to somebody else, whatever it is.
    OfOtherUser {
        /// The owner.
        uid: u32,
    },
    /// Something that has further names.
    HardLink {
        /// How many names in all.
        links: u64,
    },
    /// Something else.
    Unknown,
}

impl Found {
    /// Names what is there, the owner and the number of names before the kind.
    pub(super) fn new(stat: &Stat) -> Self {
        let kind = Self::kind(stat);
        match kind {
            Self::SymbolicLink | Self::Device => kind,
            _ if stat.st_uid != geteuid().as_raw() => Self::OfOtherUser { uid: stat.st_uid },
            Self::Directory => kind,
            _ if links(stat) > 1 => Self::HardLink { links: links(stat) },
            _ => kind,
        }
    }

    fn kind(stat: &Stat) -> Self {
        match FileType::from_raw_mode(stat.st_mode) {
            FileType::Symlink => Self::SymbolicLink,
            FileType::RegularFile => Self::RegularFile,
            FileType::Directory => Self::Directory,
            FileType::CharacterDevice | FileType::BlockDevice => Self::Device,
            FileType::Socket => Self::Socket,
            FileType::Fifo => Self::Fifo,
            FileType::Unknown => Self::Unknown,
        }
    }
}

impl fmt::Display for Found {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::SymbolicLink => f.write_str("a symbolic link"),
            Self::RegularFile => f.write_str("a regular file"),
            Self::Directory => f.write_str("a directory"),
            Self::Device => f.write_str("a device"),
            Self::Socket => f.write_str("a socket"),
            Self::Fifo => f.write_str("a FIFO"),
            Self::OfOtherUser { uid } => write!(f, "owned by the user {uid}"),
            Self::HardLink { links } => write!(f, "a file with {links} names (hard links)"),
            Self::Unknown => f.write_str("of an unknown kind"),
        }
    }
}

/// The field's type differs between architectures.
#[allow(
    clippy::useless_conversion,
    reason = "st_nlink is u32 on some architectures"
)]
fn links(stat: &Stat) -> u64 {
    stat.st_nlink.into()
}

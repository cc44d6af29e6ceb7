//! The spawner: a small process that starts all others, so that the server never has to.
//!
//! Starting a process copies tables that grow with the server's connections and memory; a helper
//! with few descriptors and a single thread does not pay for them. The server keeps at least two
//! ([`Spawners`]) and hands them jobs over a socketpair, descriptors included. A spawner applies
//! directory, user, confinement, process group and signal dispositions, starts the program, watches it, and
//! reports how it ended. The program remains a zombie until the server releases it; then its group
//! and what it left behind are killed, and only after that its number may be given to others.
//!
//! The program that embeds the server must call [`main`] when it is started with the arguments of
//! its [`HelperCommand`]. `examples/spawner.rs` is the smallest such program.

mod codec;
mod confinement;
mod driver;
mod handle;
mod helper;
mod landlock;
mod launch;
mod process;
mod suspicion;

use std::ffi::OsString;
use std::os::fd::OwnedFd;
use std::path::PathBuf;

pub(crate) use codec::Kind;
pub use confinement::{Cgroup, Confinement, Landlock, Limits};
pub use handle::{Child, Spawners, SpawnersConfig, SpawnersStats};
pub use process::main;

/// A request of up to this size travels in a datagram, a larger one in a memory file.
const MAX_DATAGRAM_SIZE: usize = 32 * 1024;

/// No job is larger. The kernel's own limit for arguments and environment is a quarter of the stack
/// limit, 2 MiB by default.
const MAX_ORDER_SIZE: usize = 8 * 1024 * 1024;

/// How often control groups are looked at whose processes have been killed and are still dying.
const EMPTYING_INTERVAL: std::time::Duration = std::time::Duration::from_millis(50);

/// How the server starts its helpers: normally the own program with an argument that says so.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HelperCommand {
    /// The program, best as an absolute path: `/proc/self/exe` survives its replacement on disk.
    pub program: PathBuf,
    /// Its arguments, without the program's name.
    pub args: Vec<OsString>,
}

/// A program to run, with everything it gets.
#[derive(Debug)]
pub struct Job {
    /// The program and its arguments. A program without a slash is looked for in the `PATH` of
    /// [`env`](Self::env).
    pub argv: Vec<OsString>,
    /// The whole environment. Only `WS_JOB` is added, by which the job's descendants are found.
    pub env: Vec<(OsString, OsString)>,
    /// The working directory; without one, the server's.
    pub dir: Option<PathBuf>,
    /// The user to run as; without one, the server's.
    pub identity: Option<Identity>,
    /// What it may not do and how much it may use.
    pub confinement: Confinement,
    /// Descriptor 0.
    pub stdin: OwnedFd,
    /// Descriptor 1.
    pub stdout: OwnedFd,
    /// Descriptor 2.
    pub stderr: OwnedFd,
}

/// A user and group to run as. Supplementary groups are given up, and capabilities unless the user
/// is root.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Identity {
    /// The user id.
    pub uid: u32,
    /// The group id.
    pub gid: u32,
}

/// The signals that are sent to a job's process group.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Signal {
    /// `SIGHUP`: read the configuration again.
    Hangup,
    /// `SIGINT`.
    Interrupt,
    /// `SIGTERM`: end in good order. `SIGCONT` follows, so that a stopped program can.
    Terminate,
    /// `SIGKILL`.
    Kill,
    /// `SIGUSR1`.
    User1,
}

impl Signal {
    pub(crate) const ALL: [Self; 5] = [
        Self::Hangup,
        Self::Interrupt,
        Self::Terminate,
        Self::Kill,
        Self::User1,
    ];

    fn code(self) -> u8 {
        match self {
            Self::Hangup => 0,
            Self::Interrupt => 1,
            Self::Terminate => 2,
            Self::Kill => 3,
            Self::User1 => 4,
        }
    }

    fn from_code(code: u8) -> Option<Self> {
        Self::ALL.into_iter().find(|signal| signal.code() == code)
    }

    fn number(self) -> rustix::process::Signal {
        match self {
            Self::Hangup => rustix::process::Signal::HUP,
            Self::Interrupt => rustix::process::Signal::INT,
            Self::Terminate => rustix::process::Signal::TERM,
            Self::Kill => rustix::process::Signal::KILL,
            Self::User1 => rustix::process::Signal::USR1,
        }
    }
}

//! What a program is not to do, and how much of the host it may use.

use std::path::PathBuf;

use rustix::process::Resource;

/// What a program and its descendants may not do, and how much of the host they may use.
///
/// All of it holds before the program's first instruction. Whatever the system refuses is a failure
/// to start, never a start without it.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Confinement {
    /// Whether set-user-ID bits and file capabilities have no effect from here on
    /// (`PR_SET_NO_NEW_PRIVS`). A program that is no longer root cannot become it again.
    pub no_new_privs: bool,
    /// Limits of the process itself.
    pub limits: Limits,
    /// How much it yields to others, 0 to 19, but never less than the server does; `None` is as much
    /// as the server.
    pub nice: Option<u8>,
    /// Permissions that files do not get which it makes; `None` is what the server's umask says.
    pub umask: Option<u32>,
    /// What it may reach of the file system; `None` is what its user may.
    pub landlock: Option<Landlock>,
    /// Where it has a control group of its own; `None` is that it has none.
    pub cgroup: Option<Cgroup>,
}

impl Confinement {
    /// No confinement at all, for helpers of our own.
    pub(crate) const NONE: Self = Self {
        no_new_privs: false,
        limits: Limits {
            core_size: None,
            ..Limits::NONE
        },
        nice: None,
        umask: None,
        landlock: None,
        cgroup: None,
    };
}

/// Without new privileges and without core dumps; otherwise as the server.
impl Default for Confinement {
    fn default() -> Self {
        Self {
            no_new_privs: true,
            limits: Limits::default(),
            ..Self::NONE
        }
    }
}

/// Limits of each process (`setrlimit(2)`), soft and hard. `None` is the limit that the server has.
///
/// A limit above the hard one that the server has itself is that one: none is ever raised.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Limits {
    /// Processes and threads that its *user* may have in the whole host for it to start another
    /// one. The system exempts root.
    pub processes: Option<u64>,
    /// Bytes of its address space, libraries and reserved memory included.
    pub memory: Option<u64>,
    /// Bytes of a file that it writes; beyond, it gets `SIGXFSZ`.
    pub file_size: Option<u64>,
    /// Open descriptors.
    pub open_files: Option<u64>,
    /// Seconds of CPU time; then it gets `SIGXCPU`, and a second later `SIGKILL`.
    pub cpu_time: Option<u64>,
    /// Bytes of a core dump.
    pub core_size: Option<u64>,
}

impl Limits {
    const NONE: Self = Self {
        processes: None,
        memory: None,
        file_size: None,
        open_files: None,
        cpu_time: None,
        core_size: None,
    };

    /// All of them, in an order for [`of`](Self::of).
    pub(super) fn all(&self) -> [Option<u64>; 6] {
        [
            self.processes,
            self.memory,
            self.file_size,
            self.open_files,
            self.cpu_time,
            self.core_size,
        ]
    }

    /// The limits that [`all`](Self::all) returned.
    pub(super) fn of(
        [
            processes,
            memory,
            file_size,
            open_files,
            cpu_time,
            core_size,
        ]: [Option<u64>; 6],
    ) -> Self {
        Self {
            processes,
            memory,
            file_size,
            open_files,
            cpu_time,
            core_size,
        }
    }

    /// The limits that are set: resource, soft limit, hard limit.
    pub(super) fn resources(&self) -> impl Iterator<Item = (Resource, u64, u64)> {
        let grace = |seconds: u64| seconds.saturating_add(1);
        let limits = [
            (Resource::Nproc, self.processes, self.processes),
            (Resource::As, self.memory, self.memory),
            (Resource::Fsize, self.file_size, self.file_size),
            (Resource::Nofile, self.open_files, self.open_files),
            (Resource::Cpu, self.cpu_time, self.cpu_time.map(grace)),
            (Resource::Core, self.core_size, self.core_size),
        ];
        limits
            .into_iter()
            .filter_map(|(resource, soft, hard)| Some((resource, soft?, hard?)))
    }
}

/// No core dumps: they would be written where the program runs, with all that it had in memory.
impl Default for Limits {
    fn default() -> Self {
        Self {
            core_size: Some(0),
            ..Self::NONE
        }
    }
}

/// The only parts of the file system that a program may reach (`landlock(7)`), each a file or a
/// directory with all that is beneath it. Needs Linux 5.13.
///
/// They are looked up at each start, as the server's user. A dynamically linked program needs its
/// loader and libraries among them.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Landlock {
    /// What it may read.
    pub read: Vec<PathBuf>,
    /// What it may read and execute.
    pub execute: Vec<PathBuf>,
    /// What it may read, write, make and remove.
    pub write: Vec<PathBuf>,
}

/// A control group for each job (`cgroup v2`), which its processes cannot leave.
///
/// It is made at the start and killed as a whole and removed when the job is released.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Cgroup {
    /// The delegated directory that it is made in. Controllers for the limits below are enabled
    /// there (`cgroup.subtree_control`).
    pub dir: PathBuf,
    /// Bytes of memory of all its processes together; beyond, the system kills all of them.
    pub memory: Option<u64>,
    /// Its processes and threads at once.
    pub processes: Option<u64>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn default_keeps_core_dumps_and_new_privileges_from_a_program() {
        let confinement = Confinement::default();
        assert!(confinement.no_new_privs);
        let limits: Vec<_> = confinement.limits.resources().collect();
        assert_eq!(limits, [(Resource::Core, 0, 0)]);
        assert_eq!(Confinement::NONE.limits.resources().count(), 0);
    }

    #[test]
    fn out_of_cpu_time_a_program_has_a_second_to_end() {
        let limits = Limits {
            cpu_time: Some(3),
            ..Limits::NONE
        };
        let limits: Vec<_> = limits.resources().collect();
        assert_eq!(limits, [(Resource::Cpu, 3, 4)]);
    }
}

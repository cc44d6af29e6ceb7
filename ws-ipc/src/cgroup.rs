//! Control groups (`cgroup v2`): one for each job, beneath a directory that is delegated to us.
//!
//! What is in one cannot leave it, whatever it does with sessions and process groups, and is killed
//! by a single write. With controllers it has limits as a whole, too.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::fd::{AsFd, BorrowedFd};
use std::path::{Path, PathBuf};

use crate::spawner::Cgroup;

/// The leaf to which this process goes: where groups beneath have controllers, the group itself may
/// have no processes.
const OWN_LEAF: &str = "server";

/// More generations than processes have.
const MAX_DEPTH: usize = 10_000;

/// Finds this process's own control group, such as a service manager delegates (`Delegate=`), and
/// clears it for groups of jobs beneath: its processes, this one among them, move to a leaf.
///
/// Call it before other processes are started, so that they begin in the leaf too.
///
/// A group that no service manager has marked as delegated is taken only if nobody is in it but
/// this process and its descendants: else it is somebody's session, or another service's.
///
/// # Errors
///
/// The system's error, with the file that it is about. `NotFound` if there is no `cgroup v2`, or if
/// the group is the root of all, which nobody delegates; `PermissionDenied` if others are in it.
pub fn own() -> io::Result<PathBuf> {
    let groups = read(Path::new("/proc/self/cgroup"))?;
    let mounts = read(Path::new("/proc/self/mountinfo"))?;
    let dir = own_dir(&groups, &mounts).ok_or_else(|| {
        io::Error::new(
            io::ErrorKind::NotFound,
            "there is no control group (v2) of our own",
        )
    })?;
    if !is_delegated(&dir) {
        let processes = read(&dir.join("cgroup.procs"))?;
        let own = i32::try_from(std::process::id()).unwrap_or_default();
        if let Some(pid) = stranger(&processes, own, parent) {
            let problem = format!(
                "{}: process {pid}, not one of ours, is in this control group, and the group is \
                 not delegated: run as a service with Delegate=yes (systemd), or in a group of its \
                 own",
                dir.display()
            );
            return Err(io::Error::new(io::ErrorKind::PermissionDenied, problem));
        }
    }
    clear(&dir)?;
    Ok(dir)
}

/// Whether a service manager says that the group is for us to divide. systemd marks it so, for
/// users other than root since 251; see `Delegate=` in `systemd.resource-control(5)`.
fn is_delegated(dir: &Path) -> bool {
    ["user.delegate", "trusted.delegate"].iter().any(|name| {
        let mut value = [0; 1];
        let length = rustix::fs::getxattr(dir, *name, &mut value);
        length == Ok(1) && value == *b"1"
    })
}

/// The first process of a group that is neither this one nor descends from it. One that has ended
/// meanwhile has no parent any more, and is nobody's.
fn stranger(processes: &str, own: i32, parent: impl Fn(i32) -> Option<i32>) -> Option<i32> {
    let is_ours = |pid: i32| {
        // A process that is outside of our namespace is listed as 0.
        let mut ancestor = pid;
        // Who has exchanged their parents while this looks cannot keep it going round.
        for _ in 0..MAX_DEPTH {
            if ancestor == own {
                return true;
            }
            match ancestor {
                ..=1 => return false,
                _ => match parent(ancestor) {
                    Some(next) => ancestor = next,
                    None => return ancestor == pid,
                },
            }
        }
        false
    };
    let pids = processes.lines().map(|pid| pid.parse().unwrap_or(0));
    pids.into_iter().find(|pid| !is_ours(*pid))
}

/// The parent of a process; `None` if there is no such process.
fn parent(pid: i32) -> Option<i32> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // proc_pid_stat(5): the name, in parentheses, may have anything in it; state and parent follow.
    let (_, fields) = stat.rsplit_once(") ")?;
    fields.split(' ').nth(1)?.parse().ok()
}

/// Enables the controllers that limits need in a delegated directory.
///
/// # Errors
///
/// The system's error with the file that it is about; `Unsupported` if a controller is not to be
/// had there.
pub fn enable(dir: &Path, memory: bool, processes: bool) -> io::Result<()> {
    let available = read(&dir.join("cgroup.controllers"))?;
    let control = dir.join("cgroup.subtree_control");
    for (controller, is_needed) in [("memory", memory), ("pids", processes)] {
        if !is_needed {
            continue;
        }
        if !available.split_whitespace().any(|it| it == controller) {
            let problem = format!("{}: no {controller} controller", dir.display());
            return Err(io::Error::new(io::ErrorKind::Unsupported, problem));
        }
        let enabled = write(&control, &format!("+{controller}"));
        enabled.map_err(|error| about(&control, &error))?;
    }
    Ok(())
}

/// The directory of the group that `/proc/self/cgroup` and `/proc/self/mountinfo` speak of.
fn own_dir(groups: &str, mounts: &str) -> Option<PathBuf> {
    let path = groups.lines().find_map(|line| line.strip_prefix("0::/"))?;
    if path.is_empty() {
        return None;
    }
    // proc(5): the root within the file system is the fourth field, the mount point the fifth; the
    // type follows the hyphen.
    let mount = mounts.lines().find_map(|line| {
        let (fields, rest) = line.split_once(" - ")?;
        let mut fields = fields.split(' ').skip(3);
        let (root, point) = (fields.next()?, fields.next()?);
        (root == "/" && rest.starts_with("cgroup2 ")).then_some(point)
    })?;
    Some(Path::new(mount).join(path))
}

/// Moves all processes of a group to a leaf beneath it.
fn clear(dir: &Path) -> io::Result<()> {
    let leaf = dir.join(OWN_LEAF);
    match fs::create_dir(&leaf) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => {
            return Err(about(&leaf, &error));
        }
        _ => {}
    }
    let target = leaf.join("cgroup.procs");
    for pid in read(&dir.join("cgroup.procs"))?.lines() {
        match write(&target, pid) {
            // It has ended meanwhile.
            Err(error) if error.raw_os_error() == Some(nix::libc::ESRCH) => {}
            done => done.map_err(|error| about(&target, &error))?,
        }
    }
    Ok(())
}

/// What ends when a job uses more memory than it may.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Excess {
    /// All of it: whatever were left of a run could not answer.
    EndsAll,
    /// The process that uses most: those of a fork server answer one message each.
    EndsLargest,
}

/// The control group of one job.
#[derive(Debug)]
pub(crate) struct JobCgroup {
    dir: PathBuf,
    processes: File,
}

impl JobCgroup {
    /// Makes the group, with its limits and without processes.
    pub(crate) fn make(cgroup: &Cgroup, name: &str, excess: Excess) -> io::Result<Self> {
        let dir = cgroup.dir.join(name);
        fs::create_dir(&dir)?;
        let made = limit(&dir, cgroup, excess).and_then(|()| open(&dir.join("cgroup.procs")));
        match made {
            Ok(processes) => Ok(Self { dir, processes }),
            Err(error) => {
                let _ = fs::remove_dir(&dir);
                Err(error)
            }
        }
    }

    /// The file to which a process writes itself in order to be in the group.
    pub(crate) fn processes(&self) -> BorrowedFd<'_> {
        self.processes.as_fd()
    }

    /// Kills everybody in it.
    pub(crate) fn kill(&self) {
        // Before Linux 5.14 there is no such file; the process group and the orphans are left then.
        let _ = write(&self.dir.join("cgroup.kill"), "1");
    }

    /// Removes the group, which must be empty; tells whether it is gone.
    pub(crate) fn remove(&self) -> bool {
        is_removed(&self.dir)
    }
}

/// Kills and removes the groups whose names begin with `prefix`; tells whether all are gone.
pub(crate) fn end_all(dir: &Path, prefix: &str) -> bool {
    let entries = fs::read_dir(dir).into_iter().flatten().flatten();
    let groups = entries.filter(|entry| {
        let name = entry.file_name();
        name.to_str().is_some_and(|name| name.starts_with(prefix))
    });
    let mut all_gone = true;
    for group in groups {
        let group = group.path();
        let _ = write(&group.join("cgroup.kill"), "1");
        all_gone &= is_removed(&group);
    }
    all_gone
}

fn is_removed(dir: &Path) -> bool {
    match fs::remove_dir(dir) {
        Ok(()) => true,
        Err(error) => error.kind() == io::ErrorKind::NotFound,
    }
}

fn limit(dir: &Path, cgroup: &Cgroup, excess: Excess) -> io::Result<()> {
    if let Some(bytes) = cgroup.memory {
        write(&dir.join("memory.max"), &bytes.to_string())?;
        // What is too much would go to the host's swap first, where there is one.
        match write(&dir.join("memory.swap.max"), "0") {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            done => done?,
        }
        if excess == Excess::EndsAll {
            write(&dir.join("memory.oom.group"), "1")?;
        }
    }
    if let Some(count) = cgroup.processes {
        write(&dir.join("pids.max"), &count.to_string())?;
    }
    Ok(())
}

fn read(path: &Path) -> io::Result<String> {
    fs::read_to_string(path).map_err(|error| about(path, &error))
}

fn write(path: &Path, text: &str) -> io::Result<()> {
    open(path)?.write_all(text.as_bytes())
}

/// Opens a file of the kernel's; one that is not there is not made.
fn open(path: &Path) -> io::Result<File> {
    OpenOptions::new().write(true).open(path)
}

fn about(path: &Path, error: &io::Error) -> io::Error {
    io::Error::new(error.kind(), format!("{}: {error}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    const MOUNTS: &str = "\
        24 1 0:22 / /proc rw,nosuid - proc proc rw\n\
        30 25 0:26 / /sys/fs/cgroup ro,nosuid - tmpfs tmpfs ro,mode=755\n\
        31 30 0:27 / /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory\n\
        32 30 0:28 / /sys/fs/cgroup/unified rw shared:9 - cgroup2 cgroup2 rw\n";

    /// A directory with the files that the kernel puts into a control group.
    fn fake(dir: &Path, controllers: &str) {
        fs::create_dir_all(dir).unwrap();
        fs::write(dir.join("cgroup.controllers"), controllers).unwrap();
        for name in ["cgroup.procs", "cgroup.subtree_control", "cgroup.kill"] {
            fs::write(dir.join(name), "").unwrap();
        }
    }

    fn text(dir: &Path, name: &str) -> String {
        fs::read_to_string(dir.join(name)).unwrap()
    }

    #[test]
    fn own_group_is_found_where_the_unified_hierarchy_is_mounted() {
        let service = "2:memory:/x\n0::/system.slice/ws.service\n";
        assert_eq!(
            own_dir(service, MOUNTS).as_deref(),
            Some(Path::new("/sys/fs/cgroup/unified/system.slice/ws.service"))
        );
        // The root of all groups is nobody's own; and the old hierarchies have other files.
        assert_eq!(own_dir("0::/\n", MOUNTS), None);
        assert_eq!(own_dir("2:memory:/x\n", MOUNTS), None);
        assert_eq!(
            own_dir(service, "31 30 0:27 / /a rw - cgroup cgroup rw"),
            None
        );
    }

    #[test]
    fn group_with_others_in_it_is_not_ours() {
        // 1 starts a shell, 20, and that us, 30; ours are 31 and its child 32. 40 is another.
        let parent = |pid| match pid {
            20 | 40 => Some(1),
            30 => Some(20),
            31 => Some(30),
            32 => Some(31),
            _ => None,
        };
        let stranger = |processes| stranger(processes, 30, parent);
        assert_eq!(stranger("30\n"), None);
        assert_eq!(stranger("30\n31\n32\n"), None);
        // 33 has ended.
        assert_eq!(stranger("33\n30\n"), None);
        assert_eq!(stranger("20\n30\n31\n"), Some(20));
        assert_eq!(stranger("30\n32\n40\n"), Some(40));
        assert_eq!(stranger("1\n30\n"), Some(1));
        // One that is in none of our namespaces.
        assert_eq!(stranger("0\n30\n"), Some(0));
    }

    #[test]
    fn parent_is_the_kernels() {
        let own = i32::try_from(std::process::id()).unwrap();
        let starter = i32::try_from(std::os::unix::process::parent_id()).unwrap();
        assert_eq!(parent(own), Some(starter));
    }

    #[test]
    fn directory_without_a_mark_is_not_delegated() {
        assert!(!is_delegated(tempfile::tempdir().unwrap().path()));
    }

    #[test]
    fn own_group_is_cleared_for_others_beneath() {
        let dir = tempfile::tempdir().unwrap();
        fake(dir.path(), "");
        fs::write(dir.path().join("cgroup.procs"), "17\n").unwrap();
        fake(&dir.path().join(OWN_LEAF), "");
        clear(dir.path()).unwrap();
        assert_eq!(text(&dir.path().join(OWN_LEAF), "cgroup.procs"), "17");
    }

    #[test]
    fn t59_controllers_are_enabled_or_the_missing_one_is_named() {
        let dir = tempfile::tempdir().unwrap();
        fake(dir.path(), "cpu memory pids\n");
        enable(dir.path(), true, false).unwrap();
        assert_eq!(text(dir.path(), "cgroup.subtree_control"), "+memory");
        fake(dir.path(), "cpu pids\n");
        let error = enable(dir.path(), true, true).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::Unsupported);
        assert!(
            error.to_string().ends_with(": no memory controller"),
            "{error}"
        );
        enable(dir.path(), false, true).unwrap();
    }

    #[test]
    fn t59_limits_are_written_before_anybody_is_in() {
        let dir = tempfile::tempdir().unwrap();
        let group = dir.path().join("group");
        fake(&group, "");
        let with_swap = [
            "memory.max",
            "memory.swap.max",
            "memory.oom.group",
            "pids.max",
        ];
        for name in with_swap {
            fs::write(group.join(name), "").unwrap();
        }
        let cgroup = Cgroup {
            dir: dir.path().to_owned(),
            memory: Some(1 << 20),
            processes: Some(64),
        };
        limit(&group, &cgroup, Excess::EndsLargest).unwrap();
        assert_eq!(text(&group, "memory.oom.group"), "");
        limit(&group, &cgroup, Excess::EndsAll).unwrap();
        let written = with_swap.map(|name| text(&group, name));
        assert_eq!(written, ["1048576", "0", "1", "64"]);
        // Where swap is not accounted for there is no such file, and none is made.
        fs::remove_file(group.join("memory.swap.max")).unwrap();
        limit(&group, &cgroup, Excess::EndsAll).unwrap();
        assert!(!group.join("memory.swap.max").exists());
    }

    #[test]
    fn group_that_cannot_have_its_limits_is_not_made() {
        // No kernel puts any files into it.
        let dir = tempfile::tempdir().unwrap();
        let cgroup = Cgroup {
            dir: dir.path().to_owned(),
            memory: None,
            processes: Some(64),
        };
        let error = JobCgroup::make(&cgroup, "1-0.1", Excess::EndsAll).unwrap_err();
        assert_eq!(error.raw_os_error(), Some(nix::libc::ENOENT));
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
    }

    #[test]
    fn groups_of_a_dead_spawner_are_killed_and_others_are_not() {
        let dir = tempfile::tempdir().unwrap();
        fake(&dir.path().join("1-0.7"), "");
        fake(&dir.path().join("1-1.7"), "");
        // The files of a real group go with it; these do not.
        assert!(!end_all(dir.path(), "1-0."));
        assert_eq!(text(&dir.path().join("1-0.7"), "cgroup.kill"), "1");
        assert_eq!(text(&dir.path().join("1-1.7"), "cgroup.kill"), "");
        fs::remove_dir_all(dir.path().join("1-0.7")).unwrap();
        assert!(end_all(dir.path(), "1-0."));
    }
}

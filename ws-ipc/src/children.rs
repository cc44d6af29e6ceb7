//! Children that nobody asked for: what a job's program left behind when it ended.
//!
//! A program may start others, put them into sessions of their own and end. They become children
//! of the nearest subreaper, which is one of our processes. Here is how such a process finds them,
//! tells whose they were, and ends them without ever waiting for "any child", which would steal
//! the exit status of another.

use std::collections::BTreeSet;
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::fs::FileExt;

use rustix::process::{Pid, PidfdFlags, Signal, WaitId, WaitIdOptions, WaitIdStatus};

/// The variable that every job and its descendants have in their environment, with a value of
/// their own.
pub(crate) const MARK: &str = "WS_JOB";

/// The mark of a spawner that another spawner started: nobody's orphan.
pub(crate) const SPAWNER_MARK: &str = "spawner";

/// The children of this process, those of all its threads.
pub(crate) fn children() -> io::Result<Vec<i32>> {
    let mut pids = Vec::new();
    for task in std::fs::read_dir("/proc/self/task")? {
        match std::fs::read_to_string(task?.path().join("children")) {
            Ok(list) => pids.extend(list.split_ascii_whitespace().flat_map(str::parse::<i32>)),
            // The thread ended in between; its children moved on to another one.
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(error),
        }
    }
    Ok(pids)
}

/// The list of the children of a process with a single thread, this one.
#[derive(Debug)]
pub(crate) struct OwnChildren(File);

impl OwnChildren {
    pub(crate) fn open() -> io::Result<Self> {
        Ok(Self(File::open("/proc/thread-self/children")?))
    }

    /// The children as they are now.
    pub(crate) fn read(&self) -> io::Result<Vec<i32>> {
        let mut list = Vec::new();
        let mut buffer = [0; 4096];
        loop {
            match self.0.read_at(&mut buffer, list.len() as u64)? {
                0 => break,
                len => list.extend_from_slice(&buffer[..len]),
            }
        }
        let list = String::from_utf8_lossy(&list);
        Ok(list.split_ascii_whitespace().flat_map(str::parse).collect())
    }
}

/// The mark in a process's environment; `None` if it has none or hides it.
pub(crate) fn mark_of(pid: i32) -> Option<String> {
    Environ::of(pid)?.mark()
}

/// The environment that a process's program was started with. Whoever was only forked shows that of
/// the process it comes from.
#[derive(Debug)]
pub(crate) struct Environ(Vec<u8>);

impl Environ {
    /// Reads it; `None` if it is hidden. In the middle of an exec it is empty.
    pub(crate) fn of(pid: i32) -> Option<Self> {
        Some(Self(std::fs::read(format!("/proc/{pid}/environ")).ok()?))
    }

    /// The mark of a job.
    pub(crate) fn mark(&self) -> Option<String> {
        String::from_utf8(self.value(MARK)?.to_vec()).ok()
    }

    /// The value of a variable.
    pub(crate) fn value(&self, name: &str) -> Option<&[u8]> {
        let mut pairs = self.0.split(|&byte| byte == 0);
        pairs.find_map(|pair| pair.strip_prefix(name.as_bytes())?.strip_prefix(b"="))
    }
}

/// Whether a process runs the very file that this one runs.
pub(crate) fn runs_this_program(pid: i32) -> bool {
    use std::os::unix::fs::MetadataExt;
    let file = |path: &str| {
        let metadata = std::fs::metadata(path).ok()?;
        Some((metadata.dev(), metadata.ino()))
    };
    let own = file("/proc/self/exe");
    own.is_some() && file(&format!("/proc/{pid}/exe")) == own
}

/// The process group of a process; `None` also if the group is of a process namespace around ours.
pub(crate) fn group_of(pid: i32) -> Option<i32> {
    let group = nix::unistd::getpgid(Some(nix::unistd::Pid::from_raw(pid))).ok()?;
    seen_from_here(group)
}

/// The session of a process, a zombie's too; `None` also if the session is of a process namespace
/// around ours.
pub(crate) fn session_of(pid: i32) -> Option<i32> {
    let session = nix::unistd::getsid(Some(nix::unistd::Pid::from_raw(pid))).ok()?;
    seen_from_here(session)
}

/// What leads a group or a session from outside of our process namespace is called 0 in it
/// (`pid_namespaces(7)`): the usual thing in a container.
fn seen_from_here(leader: nix::unistd::Pid) -> Option<i32> {
    (leader.as_raw() > 0).then_some(leader.as_raw())
}

/// Whether a process has been reaped, whoever did it.
pub(crate) fn is_reaped(pidfd: impl AsFd) -> bool {
    let number = pidfd.as_fd().as_raw_fd();
    // proc(5): the process id of such a descriptor is -1 from then on.
    std::fs::read_to_string(format!("/proc/self/fdinfo/{number}"))
        .is_ok_and(|info| info.lines().any(|line| line == "Pid:\t-1"))
}

/// A descriptor of a child. It stays the same process's for as long as the child is not reaped.
pub(crate) fn pidfd(pid: i32) -> io::Result<OwnedFd> {
    let pid = Pid::from_raw(pid).ok_or(io::ErrorKind::InvalidInput)?;
    Ok(rustix::process::pidfd_open(pid, PidfdFlags::empty())?)
}

/// Kills one process.
pub(crate) fn kill(pidfd: impl AsFd) {
    // The only error possible is that it is gone, which is what was wanted.
    let _ = rustix::process::pidfd_send_signal(pidfd, Signal::KILL);
}

/// Kills a process group. Its leader must be a child that is not reaped yet, which keeps the
/// number from being given to others.
pub(crate) fn kill_group(leader: i32) {
    signal_group(leader, Signal::KILL);
}

/// Sends a signal to a process group; the same condition as for [`kill_group`].
pub(crate) fn signal_group(leader: i32, signal: Signal) {
    if let Some(group) = Pid::from_raw(leader) {
        let _ = rustix::process::kill_process_group(group, signal);
    }
}

/// How a child ended, while it remains a zombie. `None`: it has not ended.
pub(crate) fn peek(pid: i32) -> io::Result<Option<WaitIdStatus>> {
    let pid = Pid::from_raw(pid).ok_or(io::ErrorKind::InvalidInput)?;
    let options = WaitIdOptions::EXITED | WaitIdOptions::NOHANG | WaitIdOptions::NOWAIT;
    Ok(rustix::process::waitid(WaitId::Pid(pid), options)?)
}

/// Reaps one child if it has ended; tells whether it did. The number may be another's from then on.
pub(crate) fn reap(pidfd: impl AsFd) -> io::Result<bool> {
    let options = WaitIdOptions::EXITED | WaitIdOptions::NOHANG;
    Ok(rustix::process::waitid(WaitId::PidFd(pidfd.as_fd()), options)?.is_some())
}

/// Whether the system had no descriptor or no memory left for what was asked, which says nothing
/// about whom it was asked about.
pub(crate) fn is_exhaustion(error: &io::Error) -> bool {
    use nix::libc::{EMFILE, ENFILE, ENOBUFS, ENOMEM};
    matches!(
        error.raw_os_error(),
        Some(EMFILE | ENFILE | ENOBUFS | ENOMEM)
    )
}

/// Whom an orphan may belong to, jobs or processes; when all of them are gone, it is killed.
///
/// One that carries a mark belongs to the job of that mark. One that removed it belongs to one of
/// those that were there when it was first seen, so it cannot outlive them all.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Suspects<T>(Vec<T>);

impl<T: Copy> Suspects<T> {
    /// Any of these.
    pub(crate) fn new(suspects: impl IntoIterator<Item = T>) -> Self {
        Self(suspects.into_iter().collect())
    }

    /// Leaves out those that it cannot be.
    pub(crate) fn narrow(&mut self, may_be: impl Fn(T) -> bool) {
        self.0.retain(|&suspect| may_be(suspect));
    }

    /// Whether none of them is there any more; who is gone does not come back.
    ///
    /// It asks no further than to the first that is there: one is enough, and there may be
    /// thousands of orphans with thousands of suspects each.
    pub(crate) fn are_gone(&mut self, mut is_there: impl FnMut(T) -> bool) -> bool {
        while let Some(&suspect) = self.0.last() {
            if is_there(suspect) {
                return false;
            }
            self.0.pop();
        }
        true
    }
}

/// A process as nobody else ever is it: numbers are given again, but not in the same moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Instance {
    pub(crate) pid: i32,
    /// When it started, in ticks since the system did.
    pub(crate) since: u64,
}

impl Instance {
    /// The process that has this number; `None` if there is none or it has ended.
    ///
    /// # Errors
    ///
    /// The system's error if that cannot be told, for want of a descriptor for one.
    pub(crate) fn of(pid: i32) -> io::Result<Option<Self>> {
        let Some(stat) = unless_gone(std::fs::read(format!("/proc/{pid}/stat")))? else {
            return Ok(None);
        };
        let (state, since) = state_and_start_in(&stat).ok_or(io::ErrorKind::InvalidData)?;
        let has_ended = match state {
            "X" => true,
            // Its first thread has ended; it has not, if there are others.
            "Z" => match unless_gone(std::fs::read_dir(format!("/proc/{pid}/task")))? {
                Some(tasks) => tasks.count() <= 1,
                None => true,
            },
            _ => false,
        };
        Ok((!has_ended).then_some(Self { pid, since }))
    }

    /// Whether it has not ended, as far as that can be told.
    pub(crate) fn is_alive(self) -> bool {
        Self::of(self.pid).map_or(true, |now| now == Some(self))
    }
}

/// Tells the end of a process from a failure to look at it.
fn unless_gone<T>(looked: io::Result<T>) -> io::Result<Option<T>> {
    match looked {
        Ok(seen) => Ok(Some(seen)),
        // It was gone before its file was opened, or before that was read.
        Err(error)
            if error.kind() == io::ErrorKind::NotFound
                || error.raw_os_error() == Some(nix::libc::ESRCH) =>
        {
            Ok(None)
        }
        Err(error) => Err(error),
    }
}

/// The state and the start time in a line of `/proc/PID/stat`.
fn state_and_start_in(stat: &[u8]) -> Option<(&str, u64)> {
    // The name, in parentheses, may hold anything.
    let name_end = memchr::memrchr(b')', stat)?;
    let mut fields = str::from_utf8(&stat[name_end + 1..])
        .ok()?
        .split_ascii_whitespace();
    // proc_pid_stat(5): the state is field 3, the start time field 22.
    let state = fields.next()?;
    Some((state, fields.nth(18)?.parse().ok()?))
}

/// The living children of another process; none if it is gone.
///
/// # Errors
///
/// The system's error if they cannot be read.
pub(crate) fn children_of(pid: i32) -> io::Result<Vec<Instance>> {
    let mut pids = BTreeSet::new();
    // The list has gaps when others in it are reaped meanwhile; hardly the same ones twice.
    for _ in 0..2 {
        let tasks = unless_gone(std::fs::read_dir(format!("/proc/{pid}/task")))?;
        for task in tasks.into_iter().flatten() {
            let list = std::fs::read_to_string(task?.path().join("children"));
            // A thread that ends in between leaves its children to another.
            let list = unless_gone(list)?.unwrap_or_default();
            pids.extend(list.split_ascii_whitespace().flat_map(str::parse::<i32>));
        }
    }
    let instances = pids.into_iter().map(Instance::of);
    instances.filter_map(io::Result::transpose).collect()
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::os::unix::process::CommandExt;
    use std::process::{Command, Stdio};

    use super::*;

    #[test]
    fn t57_child_is_found_with_its_mark_and_group() {
        let mut child = Command::new("/bin/cat")
            .env_clear()
            .env(MARK, "here.7")
            .process_group(0)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        // A spawn may return in the middle of the exec, before the environment is in its place.
        child.stdin.as_mut().unwrap().write_all(b"x").unwrap();
        child.stdout.as_mut().unwrap().read_exact(&mut [0]).unwrap();
        let pid = i32::try_from(child.id()).unwrap();
        assert!(children().unwrap().contains(&pid));
        let own = OwnChildren::open().unwrap();
        assert!(own.read().unwrap().contains(&pid));
        assert_eq!(mark_of(pid).as_deref(), Some("here.7"));
        assert_eq!(group_of(pid), Some(pid));
        child.kill().unwrap();
        child.wait().unwrap();
        assert!(!children().unwrap().contains(&pid));
        assert!(!own.read().unwrap().contains(&pid));
    }

    /// Runs this very test once more, as the first process of a namespace that it did not start.
    #[test]
    fn leaders_outside_of_the_process_namespace_are_nobody() {
        const INSIDE: &str = "WS_TEST_INSIDE";
        let own = i32::try_from(std::process::id()).unwrap();
        if std::env::var_os(INSIDE).is_some() {
            assert_eq!((group_of(own), session_of(own)), (None, None));
            return;
        }
        let unshare = || {
            let mut command = Command::new("unshare");
            command.args(["--user", "--map-root-user", "--pid", "--fork"]);
            command
        };
        let permitted = unshare().arg("true").output();
        if !permitted.is_ok_and(|output| output.status.success()) {
            eprintln!("skipped: this system lets us make no process namespace");
            return;
        }
        let name = "leaders_outside_of_the_process_namespace_are_nobody";
        passes_again(unshare().env(INSIDE, "1"), name);
    }

    /// Runs one of these tests by way of a command that changes what is around it.
    fn passes_again(command: &mut Command, name: &str) {
        let name = format!("children::tests::{name}");
        let output = command
            .arg(std::env::current_exe().unwrap())
            .args(["--exact", &name])
            .output()
            .unwrap();
        let report = String::from_utf8_lossy(&output.stdout);
        assert!(report.contains("1 passed"), "{report}");
    }

    #[test]
    #[expect(clippy::zombie_processes, reason = "it is reaped by its descriptor")]
    fn t58_reaping_by_descriptor_leaves_no_zombie_and_no_second_status() {
        let child = Command::new("/bin/true").spawn().unwrap();
        let pid = i32::try_from(child.id()).unwrap();
        let descriptor = pidfd(pid).unwrap();
        let mut ready = [rustix::event::PollFd::new(
            &descriptor,
            rustix::event::PollFlags::IN,
        )];
        rustix::event::poll(&mut ready, None).unwrap();
        assert!(peek(pid).unwrap().is_some_and(|status| status.exited()));
        assert!(reap(&descriptor).unwrap());
        assert!(reap(&descriptor).is_err());
    }

    #[test]
    fn t58_instance_is_gone_when_its_process_is_a_zombie() {
        let mut child = Command::new("/bin/cat")
            .stdin(Stdio::piped())
            .spawn()
            .unwrap();
        let pid = i32::try_from(child.id()).unwrap();
        let instance = Instance::of(pid).unwrap().unwrap();
        let own = i32::try_from(std::process::id()).unwrap();
        assert!(instance.is_alive());
        assert!(children_of(own).unwrap().contains(&instance));
        let another = Instance {
            since: instance.since + 1,
            ..instance
        };
        assert!(!another.is_alive());
        drop(child.stdin.take());
        while peek(pid).unwrap().is_none() {
            std::thread::yield_now();
        }
        assert!(!instance.is_alive());
        child.wait().unwrap();
        assert!(!instance.is_alive());
    }

    #[test]
    fn start_is_found_behind_any_name() {
        let stat = |name: &str, state: &str| {
            // Fields 4 to 23.
            let rest = "4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 19 20 21 2222 23";
            format!("12 ({name}) {state} {rest}\n").into_bytes()
        };
        for (name, state) in [("x", "S"), (") Z 1 (", "R"), ("x", "Z")] {
            assert_eq!(state_and_start_in(&stat(name, state)), Some((state, 2222)));
        }
        assert_eq!(state_and_start_in(b"12 (x"), None);
    }

    /// As a program's whose first thread ends by itself.
    #[test]
    fn t57_instance_is_there_for_as_long_as_any_thread_is() {
        let program = "import ctypes, sys, threading\n\
            threading.Thread(target=sys.stdin.read).start()\n\
            ctypes.CDLL(None).syscall(int(sys.argv[1]), 0)";
        let mut child = Command::new("python3")
            .args(["-c", program, &nix::libc::SYS_exit.to_string()])
            .stdin(Stdio::piped())
            .spawn()
            .unwrap();
        let pid = i32::try_from(child.id()).unwrap();
        let instance = Instance::of(pid).unwrap().unwrap();
        let is_zombie = || {
            let stat = std::fs::read(format!("/proc/{pid}/stat")).unwrap();
            state_and_start_in(&stat).unwrap().0 == "Z"
        };
        while !is_zombie() {
            std::thread::yield_now();
        }
        assert!(peek(pid).unwrap().is_none());
        assert!(instance.is_alive());
        child.kill().unwrap();
        child.wait().unwrap();
        assert!(!instance.is_alive());
    }

    /// Runs this very test once more, where there are few descriptors.
    #[test]
    fn t57_instance_is_not_gone_because_there_is_no_descriptor_to_look_at_it() {
        const INSIDE: &str = "WS_TEST_INSIDE_LIMIT";
        if std::env::var_os(INSIDE).is_some() {
            let own = i32::try_from(std::process::id()).unwrap();
            let instance = Instance::of(own).unwrap().unwrap();
            let open = || File::open("/dev/null").ok();
            let all: Vec<_> = std::iter::from_fn(open).collect();
            let (looked, is_alive) = (Instance::of(own), instance.is_alive());
            drop(all);
            assert!(is_exhaustion(&looked.unwrap_err()));
            assert!(is_alive);
            return;
        }
        let name = "t57_instance_is_not_gone_because_there_is_no_descriptor_to_look_at_it";
        let mut limited = Command::new("prlimit");
        passes_again(limited.arg("--nofile=64").env(INSIDE, "1"), name);
    }

    #[test]
    fn t57_unmarked_orphan_outlives_no_job_it_may_belong_to() {
        let mut suspects = Suspects::new([1, 2]);
        assert!(!suspects.are_gone(|job| job != 1));
        assert!(suspects.are_gone(|_| false));
        let mut suspects = Suspects::new([1, 2]);
        assert!(!suspects.are_gone(|job| job != 2));
        assert!(suspects.are_gone(|job| job != 1));
        let mut suspects = Suspects::new([1, 2]);
        suspects.narrow(|job| job == 1);
        assert!(suspects.are_gone(|job| job != 1));
    }
}

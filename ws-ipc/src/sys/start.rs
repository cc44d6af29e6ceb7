//! A start of a program with all that is to hold before its first instruction.
//!
//! std starts programs by `posix_spawn` unless one asks for a user, a limit or anything else that
//! has to be done between the fork and the exec; then it copies the whole process. Here the child
//! borrows our memory and our turn until it has become the program, which is how `posix_spawn`
//! does it inside, so confinement costs the system calls that it consists of and no more.

use std::ffi::{CStr, c_char, c_int, c_long, c_void};
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::ptr;

use nix::libc;
use rustix::process::{Resource, Rlimit};

/// What to start, and how. All of it is ready before the clone: the child only makes system calls.
#[derive(Debug)]
pub(crate) struct Start<'a> {
    pub(crate) program: &'a CStr,
    pub(crate) argv: &'a Strings,
    pub(crate) env: &'a Strings,
    /// Descriptors 0, 1 and 2. They have other numbers here.
    pub(crate) stdio: [BorrowedFd<'a>; 3],
    /// Whether it leads a process group of its own.
    pub(crate) leads_group: bool,
    /// The `cgroup.procs` of the group it goes to.
    pub(crate) cgroup: Option<BorrowedFd<'a>>,
    pub(crate) limits: &'a [(Resource, Rlimit)],
    pub(crate) nice: Option<i32>,
    pub(crate) umask: Option<u32>,
    /// User and group. Supplementary groups are given up, and capabilities unless the user is root.
    pub(crate) identity: Option<(u32, u32)>,
    pub(crate) dir: Option<&'a CStr>,
    pub(crate) no_new_privs: bool,
    pub(crate) landlock: Option<BorrowedFd<'a>>,
}

/// What a child does before it becomes the program; named when it fails.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Step {
    /// To be there, with its descriptors.
    Clone,
    Cgroup,
    Limits,
    Identity,
    Directory,
    Privileges,
    Landlock,
    Exec,
}

/// Strings as `execve` takes them.
#[derive(Debug, Default)]
pub(crate) struct Strings {
    bytes: Vec<u8>,
    ends: Vec<usize>,
}

impl Strings {
    /// Appends the string that these parts make up.
    ///
    /// # Errors
    ///
    /// `EINVAL` for a NUL byte, which would cut it.
    pub(crate) fn push(&mut self, parts: &[&[u8]]) -> io::Result<()> {
        for part in parts {
            if part.contains(&0) {
                return Err(io::Error::from_raw_os_error(libc::EINVAL));
            }
            self.bytes.extend_from_slice(part);
        }
        self.bytes.push(0);
        self.ends.push(self.bytes.len());
        Ok(())
    }

    /// A pointer to each, and a null pointer.
    fn pointers(&self) -> Vec<*const c_char> {
        let starts = std::iter::once(0).chain(self.ends.iter().copied());
        let strings = starts.zip(&self.ends);
        let pointers = strings.map(|(start, &end)| self.bytes[start..end].as_ptr().cast());
        pointers.chain([ptr::null()]).collect()
    }
}

/// The stack of children until they exec.
#[derive(Debug)]
pub(crate) struct Stack(Box<[u128]>);

impl Default for Stack {
    fn default() -> Self {
        Self(vec![0; STACK_SIZE / size_of::<u128>()].into_boxed_slice())
    }
}

/// Some hundred bytes are used; a signal's frame, with all of a large processor's registers, may
/// come on top.
const STACK_SIZE: usize = 128 * 1024;

/// Starts a program; returns its process id and its descriptor.
///
/// The program begins with the signal mask of this process, which is expected to be empty, and
/// default dispositions for whatever this process catches.
///
/// # Errors
///
/// What failed, and the system's error. Nothing is left of the child then.
pub(crate) fn start(
    start: &Start<'_>,
    stack: &mut Stack,
) -> Result<(i32, OwnedFd), (Step, io::Error)> {
    if start.stdio.iter().any(|fd| fd.as_raw_fd() <= 2) {
        // `dup2` would find one where another belongs, or leave it close-on-exec.
        return Err((Step::Clone, io::Error::from_raw_os_error(libc::EBADF)));
    }
    let (argv, env) = (start.argv.pointers(), start.env.pointers());
    let mut plan = Plan {
        start,
        argv: argv.as_ptr(),
        env: env.as_ptr(),
        failure: None,
    };
    let top = stack.0.as_mut_ptr_range().end;
    let mut pidfd: c_int = -1;
    // SAFETY: `CLONE_VFORK` suspends this thread until the child has called `execve` or ended, so
    // all that `plan` borrows outlives its use there, and nobody touches the stack meanwhile. The
    // child shares the memory (`CLONE_VM`), like the child of `vfork`: it runs `child` on the given
    // stack, which grows down from `top` and is of 16-byte units; that function only makes system
    // calls, allocates nothing, takes no lock, does not unwind, and writes nothing but
    // `plan.failure` and this thread's `errno`. Signal handlers of this process may run in it as
    // well; these have empty bodies (`catch_signals`). The kernel writes the descriptor to `pidfd`.
    let pid = unsafe {
        libc::clone(
            child,
            top.cast(),
            libc::CLONE_VM | libc::CLONE_VFORK | libc::CLONE_PIDFD | libc::SIGCHLD,
            ptr::from_mut(&mut plan).cast(),
            ptr::from_mut(&mut pidfd),
        )
    };
    if pid < 0 {
        return Err((Step::Clone, io::Error::last_os_error()));
    }
    // SAFETY: the kernel has just made it for us.
    let pidfd = unsafe { OwnedFd::from_raw_fd(pidfd) };
    if start.identity.is_some() {
        // The change of user made the memory that it shared with us unreadable to others, as it
        // must be until the exec; from here on it is ours alone again.
        let _ = nix::sys::prctl::set_dumpable(true);
    }
    // SAFETY: the child, which wrote it, has ended or has its own memory by now. A volatile read,
    // as the compiler need not know that it was written.
    match unsafe { ptr::read_volatile(&raw const plan.failure) } {
        None => Ok((pid, pidfd)),
        Some((step, errno)) => {
            let options = rustix::process::WaitIdOptions::EXITED;
            let id = rustix::process::WaitId::PidFd(std::os::fd::AsFd::as_fd(&pidfd));
            let _ = rustix::io::retry_on_intr(|| rustix::process::waitid(id.clone(), options));
            Err((step, io::Error::from_raw_os_error(errno)))
        }
    }
}

/// What the child is given.
struct Plan<'a> {
    start: &'a Start<'a>,
    argv: *const *const c_char,
    env: *const *const c_char,
    failure: Option<(Step, c_int)>,
}

/// The child, until it is the program. Returns, which ends it, if that fails.
extern "C" fn child(plan: *mut c_void) -> c_int {
    // SAFETY: it is the plan of `start`, which waits for us.
    let plan = unsafe { &mut *plan.cast::<Plan<'_>>() };
    let step = match become_program(plan) {
        Ok(never) => match never {},
        Err(step) => step,
    };
    // SAFETY: the address of this thread's `errno` is always good.
    plan.failure = Some((step, unsafe { *libc::__errno_location() }));
    127
}

/// There is no value of it.
enum Never {}

fn become_program(plan: &Plan<'_>) -> Result<Never, Step> {
    let start = plan.start;
    if start.leads_group {
        call(Step::Clone, libc::SYS_setpgid, [0; 5])?;
    }
    for (number, descriptor) in (0..).zip(&start.stdio) {
        call(
            Step::Clone,
            libc::SYS_dup3,
            [word(descriptor.as_raw_fd()), number, 0, 0, 0],
        )?;
    }
    if let Some(cgroup) = start.cgroup {
        // "0" is whoever writes it.
        let zero = c"0".as_ptr() as c_long;
        call(
            Step::Cgroup,
            libc::SYS_write,
            [word(cgroup.as_raw_fd()), zero, 1, 0, 0],
        )?;
    }
    for &(resource, Rlimit { current, maximum }) in start.limits {
        // The kernel's `struct rlimit64`, in which all bits mean no limit.
        let limit = [current, maximum].map(|limit| limit.unwrap_or(u64::MAX));
        let limit = limit.as_ptr() as c_long;
        call(
            Step::Limits,
            libc::SYS_prlimit64,
            [0, resource as c_long, limit, 0, 0],
        )?;
    }
    if let Some(nice) = start.nice {
        let own = c_long::from(libc::PRIO_PROCESS);
        call(
            Step::Limits,
            libc::SYS_setpriority,
            [own, 0, word(nice), 0, 0],
        )?;
    }
    if let Some(umask) = start.umask {
        call(
            Step::Limits,
            libc::SYS_umask,
            [c_long::from(umask), 0, 0, 0, 0],
        )?;
    }
    // Directly, as glibc's functions would have all threads of a process do the same.
    if let Some((uid, gid)) = start.identity {
        let (uid, gid) = (c_long::from(uid), c_long::from(gid));
        call(Step::Identity, libc::SYS_setgroups, [0; 5])?;
        call(Step::Identity, libc::SYS_setresgid, [gid, gid, gid, 0, 0])?;
        call(Step::Identity, libc::SYS_setresuid, [uid, uid, uid, 0, 0])?;
        if uid != 0 {
            give_up_capabilities()?;
        }
    }
    if let Some(dir) = start.dir {
        call(
            Step::Directory,
            libc::SYS_chdir,
            [dir.as_ptr() as c_long, 0, 0, 0, 0],
        )?;
    }
    if start.no_new_privs {
        let option = c_long::from(libc::PR_SET_NO_NEW_PRIVS);
        call(Step::Privileges, libc::SYS_prctl, [option, 1, 0, 0, 0])?;
    }
    if let Some(ruleset) = start.landlock {
        let ruleset = word(ruleset.as_raw_fd());
        call(
            Step::Landlock,
            libc::SYS_landlock_restrict_self,
            [ruleset, 0, 0, 0, 0],
        )?;
    }
    let program = start.program.as_ptr() as c_long;
    call(
        Step::Exec,
        libc::SYS_execve,
        [program, plan.argv as c_long, plan.env as c_long, 0, 0],
    )?;
    Err(Step::Exec)
}

/// Empties all sets. Becoming somebody else does so too, but only for who was root.
fn give_up_capabilities() -> Result<(), Step> {
    /// `_LINUX_CAPABILITY_VERSION_3`: sets of 64 bits, in two halves.
    const VERSION: u32 = 0x2008_0522;
    let header = [VERSION, 0];
    let none = [0_u32; 6];
    let (header, none) = (header.as_ptr() as c_long, none.as_ptr() as c_long);
    // With an empty inheritable set goes the ambient one.
    call(Step::Identity, libc::SYS_capset, [header, none, 0, 0, 0])
}

fn word(number: i32) -> c_long {
    c_long::from(number)
}

fn call(step: Step, number: c_long, [a, b, c, d, e]: [c_long; 5]) -> Result<(), Step> {
    // SAFETY: only `become_program` and what it calls get here, with arguments that are numbers,
    // or pointers to what the kernel reads there and that lives in the caller or in the plan.
    match unsafe { libc::syscall(number, a, b, c, d, e) } {
        -1 => Err(step),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use std::io::Read;
    use std::os::fd::AsFd;

    use super::*;
    use crate::{children, socketpair};

    fn strings(strings: &[&str]) -> Strings {
        let mut all = Strings::default();
        for string in strings {
            all.push(&[string.as_bytes()]).unwrap();
        }
        all
    }

    const fn limit(current: u64, maximum: u64) -> Rlimit {
        Rlimit {
            current: Some(current),
            maximum: Some(maximum),
        }
    }

    /// Runs a shell script, with changes to how it is started; returns what it wrote.
    fn output(
        script: &str,
        change: impl for<'a> FnOnce(&mut Start<'a>),
    ) -> Result<String, (Step, io::Error)> {
        let (read, write) = socketpair::pipe().unwrap();
        let null = socketpair::null().unwrap();
        let (argv, env) = (
            strings(&["sh", "-c", script]),
            strings(&["PATH=/usr/bin:/bin"]),
        );
        let mut how = Start {
            program: c"/bin/sh",
            argv: &argv,
            env: &env,
            stdio: [null.as_fd(), write.as_fd(), null.as_fd()],
            leads_group: true,
            cgroup: None,
            limits: &[],
            nice: None,
            umask: None,
            identity: None,
            dir: None,
            no_new_privs: false,
            landlock: None,
        };
        change(&mut how);
        let (_, pidfd) = start(&how, &mut Stack::default())?;
        drop(write);
        let mut text = String::new();
        std::fs::File::from(read).read_to_string(&mut text).unwrap();
        let options = rustix::process::WaitIdOptions::EXITED;
        rustix::process::waitid(rustix::process::WaitId::PidFd(pidfd.as_fd()), options).unwrap();
        Ok(text)
    }

    #[test]
    fn program_gets_its_arguments_environment_and_directory() {
        let script = "echo $0 $1; env | grep -v -e '^_' -e PWD; pwd";
        let argv = strings(&["sh", "-c", script, "zero", "one"]);
        let env = strings(&["PATH=/usr/bin:/bin", "A=b c"]);
        let (read, write) = socketpair::pipe().unwrap();
        let how = Start {
            program: c"/bin/sh",
            argv: &argv,
            env: &env,
            stdio: [write.as_fd(), write.as_fd(), write.as_fd()],
            leads_group: false,
            cgroup: None,
            limits: &[],
            nice: None,
            umask: None,
            identity: None,
            dir: Some(c"/"),
            no_new_privs: false,
            landlock: None,
        };
        let (_, pidfd) = start(&how, &mut Stack::default()).unwrap();
        drop(write);
        let mut text = String::new();
        std::fs::File::from(read).read_to_string(&mut text).unwrap();
        let mut lines: Vec<_> = text.lines().collect();
        lines[1..3].sort_unstable();
        assert_eq!(lines, ["zero one", "A=b c", "PATH=/usr/bin:/bin", "/"]);
        while !children::reap(&pidfd).unwrap() {
            std::thread::yield_now();
        }
    }

    const LIMITS: &[(Resource, Rlimit)] = &[
        (Resource::Nofile, limit(77, 77)),
        (Resource::Core, limit(0, 0)),
    ];

    const ABSURD: &[(Resource, Rlimit)] = &[(Resource::Core, limit(1, 0))];

    #[test]
    fn limits_priority_umask_and_privileges_hold_from_the_start() {
        let script = "ulimit -n; ulimit -c; nice; umask; grep NoNewPrivs /proc/self/status";
        let text = output(script, |how| {
            how.limits = LIMITS;
            how.nice = Some(19);
            how.umask = Some(0o027);
            how.no_new_privs = true;
        });
        assert_eq!(text.unwrap(), "77\n0\n19\n0027\nNoNewPrivs:\t1\n");
    }

    #[test]
    fn t63_failure_names_the_step_and_leaves_no_child() {
        let before = children::children().unwrap().len();
        let nowhere = output("true", |how| how.program = c"/no/such/program");
        let no_directory = output("true", |how| how.dir = Some(c"/dev/null"));
        let absurd = output("true", |how| how.limits = ABSURD);
        for (outcome, step, errno) in [
            (nowhere, Step::Exec, libc::ENOENT),
            (no_directory, Step::Directory, libc::ENOTDIR),
            (absurd, Step::Limits, libc::EINVAL),
        ] {
            let (failed, error) = outcome.unwrap_err();
            assert_eq!((failed, error.raw_os_error()), (step, Some(errno)));
        }
        // Other tests have children at the same time, but none of these stays.
        assert!(children::children().unwrap().len() <= before + 8);
    }

    #[test]
    fn t51_nul_bytes_are_refused() {
        let error = Strings::default().push(&[b"A=", b"b\0c"]).unwrap_err();
        assert_eq!(error.raw_os_error(), Some(libc::EINVAL));
    }
}

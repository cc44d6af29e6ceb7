//! What std, tokio and the safe system call crates do not offer without `unsafe`.
//!
//! Everything else in this crate is safe code.

#![expect(
    unsafe_code,
    reason = "clone, fork, _exit, sigaction, close_range, SIOCOUTQ and AsyncFd::register have no safe binding"
)]

mod start;

use std::io::{self, Write};
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd, RawFd};

use nix::errno::Errno;
use nix::libc;
use nix::sched::CloneFlags;
use nix::sys::signal::{SaFlags, SigAction, SigHandler, SigSet, SigmaskHow, Signal, sigprocmask};
use nix::unistd::ForkResult;
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

pub(crate) use start::{Stack, Start, Step, Strings, start};

/// Which side of a fork the caller is on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Forked {
    /// In the child.
    Child,
    /// In the parent, with the child's process id.
    Parent(i32),
}

/// Forks the process.
///
/// # Errors
///
/// `EAGAIN` and `ENOMEM` of the system; `EDEADLK` if the process has more than one thread, because
/// the child of such a fork may find any lock held for ever.
#[inline(always)]
pub(crate) fn fork() -> io::Result<Forked> {
    if has_threads()? {
        return Err(io::Error::from_raw_os_error(libc::EDEADLK));
    }
    // SAFETY: the process has one thread, this one, so the child's copy of the memory is
    // consistent: no lock is held and no allocation is half done by somebody else.
    match unsafe { nix::unistd::fork() }? {
        ForkResult::Child => Ok(Forked::Child),
        ForkResult::Parent { child } => Ok(Forked::Parent(child.as_raw())),
    }
}

/// Whether the process has more than one thread.
#[inline(always)]
fn has_threads() -> io::Result<bool> {
    // unshare(2): leaving the thread group changes nothing for whoever is alone in it, and is
    // refused to others. That costs less than to count.
    match nix::sched::unshare(CloneFlags::CLONE_THREAD) {
        Ok(()) => Ok(false),
        Err(Errno::EINVAL) => Ok(true),
        // Containers may forbid the call.
        Err(_) => Ok(std::fs::read_dir("/proc/self/task")?.count() != 1),
    }
}

/// How many bytes of what was sent on a socket its peer has not read yet. On a Unix socket it is the
/// memory that they take, which is more.
pub(crate) fn unread_by_peer(socket: BorrowedFd<'_>) -> io::Result<usize> {
    let mut size: libc::c_int = 0;
    // SAFETY: the descriptor is open as long as it is borrowed, and the kernel writes one `int`
    // (unix(7), tcp(7): SIOCOUTQ, which has the number of TIOCOUTQ), for which there is room.
    let done = unsafe { libc::ioctl(socket.as_raw_fd(), libc::TIOCOUTQ, &raw mut size) };
    if done < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(usize::try_from(size).unwrap_or(0))
}

/// What this process has changed about signals, and was started with.
#[derive(Debug)]
pub(crate) struct SignalState {
    /// Those that have another disposition than the default one. To ask about all of them in each
    /// child would be a quarter of its system calls.
    altered: Vec<libc::c_int>,
    has_mask: bool,
}

impl SignalState {
    /// As it is now. Signals that glibc handles itself need their handlers, and do not count.
    pub(crate) fn now() -> io::Result<Self> {
        let mut altered = Vec::new();
        for signal in 1..=LAST_SIGNAL {
            let mut now = [0; KERNEL_ACTION_WORDS];
            rt_sigaction(signal, None, Some(&mut now))?;
            let is_glibc_s_own = matches!(signal, 32 | 33);
            if now[0] != libc::SIG_DFL && (!is_glibc_s_own || now[0] == libc::SIG_IGN) {
                altered.push(signal);
            }
        }
        let mut mask = SigSet::empty();
        sigprocmask(SigmaskHow::SIG_SETMASK, None, Some(&mut mask))?;
        let has_mask = mask != SigSet::empty();
        Ok(Self { altered, has_mask })
    }

    /// Gives every signal its default disposition and empties the signal mask, if they still are as
    /// they were then.
    ///
    /// Whoever started us may ignore any of them, the realtime ones included, which glibc's own
    /// function leaves out in part: so the system call is made directly.
    #[inline(always)]
    pub(crate) fn restore_defaults(&self) -> io::Result<()> {
        for &signal in &self.altered {
            rt_sigaction(signal, Some(&default_action()), None)?;
        }
        if self.has_mask {
            clear_signal_mask()?;
        }
        Ok(())
    }
}

/// Gives the signals of faults their default dispositions: std catches them to say that a stack
/// overflow was one, and ends the process then as they do.
pub(crate) fn reset_fault_handlers() -> io::Result<()> {
    for signal in [libc::SIGSEGV, libc::SIGBUS] {
        rt_sigaction(signal, Some(&default_action()), None)?;
    }
    Ok(())
}

fn clear_signal_mask() -> io::Result<()> {
    let none = 0_u64;
    let nowhere = std::ptr::null_mut::<u64>();
    // SAFETY: the kernel reads a mask of 8 bytes from `none` and writes none to `nowhere`.
    let done = unsafe {
        libc::syscall(
            libc::SYS_rt_sigprocmask,
            libc::SIG_SETMASK,
            &raw const none,
            nowhere,
            size_of::<u64>(),
        )
    };
    if done == 0 {
        Ok(())
    } else {
        Err(io::Error::last_os_error())
    }
}

/// The default disposition, on the stack: where constants are, a child has no page yet.
fn default_action() -> [usize; KERNEL_ACTION_WORDS] {
    std::hint::black_box([libc::SIG_DFL; KERNEL_ACTION_WORDS])
}

/// The last realtime signal.
const LAST_SIGNAL: libc::c_int = 64;

/// The kernel's `struct sigaction` in words: the handler first, then flags, restorer (on some
/// architectures) and a mask of 64 bits.
const KERNEL_ACTION_WORDS: usize = 5;

#[inline(always)]
fn rt_sigaction(
    signal: libc::c_int,
    new: Option<&[usize; KERNEL_ACTION_WORDS]>,
    old: Option<&mut [usize; KERNEL_ACTION_WORDS]>,
) -> io::Result<()> {
    let new = new.map_or(std::ptr::null(), |new| new.as_ptr());
    let old = old.map_or(std::ptr::null_mut(), |old| old.as_mut_ptr());
    // SAFETY: both pointers are null or to at least as many words as the kernel's structure has;
    // the only new action ever given is the default one, which runs no code of ours.
    let done = unsafe { libc::syscall(libc::SYS_rt_sigaction, signal, new, old, 8_usize) };
    if done == 0 {
        Ok(())
    } else {
        Err(io::Error::last_os_error())
    }
}

/// Lets the given signals pass without effect, yet not as ignored ones.
///
/// `exec` turns a caught signal back to its default, an ignored one it hands on; so the children
/// of a process that catches them start clean.
pub(crate) fn catch_signals(signals: &[Signal]) -> io::Result<()> {
    let nothing = SigAction::new(
        SigHandler::Handler(do_nothing),
        SaFlags::SA_RESTART,
        SigSet::empty(),
    );
    for &signal in signals {
        // SAFETY: the handler has an empty body, which is async-signal-safe.
        unsafe { nix::sys::signal::sigaction(signal, &nothing) }?;
    }
    Ok(())
}

/// Marks every descriptor from 3 on close-on-exec, whoever opened it.
pub(crate) fn close_on_exec() -> io::Result<()> {
    // SAFETY: setting close-on-exec neither closes nor opens a descriptor of this process.
    let done = unsafe {
        libc::syscall(
            libc::SYS_close_range,
            3_u32,
            u32::MAX,
            libc::CLOSE_RANGE_CLOEXEC,
        )
    };
    if done == 0 {
        Ok(())
    } else {
        Err(io::Error::last_os_error())
    }
}

/// The descriptors that are open, from 3 on, in ascending order.
pub(crate) fn open_descriptors() -> io::Result<Vec<RawFd>> {
    let mut descriptors: Vec<RawFd> = std::fs::read_dir("/proc/self/fd")?
        .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok())
        .collect();
    // The directory itself was among them.
    // SAFETY: to ask for the flags of whatever has that number, if anything, changes nothing.
    let is_open = |number: RawFd| unsafe { libc::fcntl(number, libc::F_GETFD) } >= 0;
    descriptors.retain(|&number| number > 2 && is_open(number));
    descriptors.sort_unstable();
    Ok(descriptors)
}

/// Goes on as a forked child that has its standard streams, one descriptor and `others`, which are
/// in ascending order; ends with the code that `main` returns. Nothing is flushed then, and no
/// `atexit` function runs.
///
/// Closes by numbers, whoever owns the descriptors: mostly two system calls, however many there are.
/// None of their owners is ever reached again, because this neither returns nor unwinds; `main` must
/// not have one at hand.
#[inline(always)]
pub(crate) fn go_on_alone(
    kept: OwnedFd,
    others: &[RawFd],
    main: impl FnOnce(OwnedFd) -> io::Result<i32>,
) -> ! {
    let _leave = LeaveOnUnwind;
    let code = close_all_but(kept.as_raw_fd(), others)
        .and_then(|()| main(kept))
        .unwrap_or_else(|error| {
            let _ = writeln!(io::stderr(), "fork server's child: {error}");
            1
        });
    exit_now(code)
}

/// Ends the process if the stack is unwound.
struct LeaveOnUnwind;

impl Drop for LeaveOnUnwind {
    fn drop(&mut self) {
        exit_now(101)
    }
}

/// Ends the process at once.
#[inline(always)]
fn exit_now(code: i32) -> ! {
    // SAFETY: `_exit` takes any number and never returns; no destructor is relied on for safety.
    unsafe { libc::_exit(code) }
}

#[inline(always)]
fn close_all_but(kept: RawFd, others: &[RawFd]) -> io::Result<()> {
    let (below, above) = others.split_at(others.partition_point(|&other| other < kept));
    let mut first = 3;
    for &open in below.iter().chain([&kept]).chain(above) {
        close_range(first, open - 1)?;
        first = open + 1;
    }
    close_range(first, RawFd::MAX)
}

#[inline(always)]
fn close_range(first: RawFd, last: RawFd) -> io::Result<()> {
    if first > last {
        return Ok(());
    }
    // SAFETY: the owners of these descriptors are not reached any more, see `go_on_alone`.
    match unsafe { libc::syscall(libc::SYS_close_range, first, last, 0) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

/// Registers a descriptor with the current tokio runtime, for as long as it is borrowed.
pub(crate) fn register(
    descriptor: BorrowedFd<'_>,
    interest: Interest,
) -> io::Result<AsyncFd<BorrowedFd<'_>>> {
    // SAFETY: a borrowed descriptor is always the same one, and it remains open during its
    // lifetime, which the result carries.
    Ok(unsafe { AsyncFd::register_with_interest(descriptor, interest) }?)
}

extern "C" fn do_nothing(_signal: libc::c_int) {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn t54_forked_child_has_only_what_it_is_to_have() {
        let open = || std::fs::File::open("/dev/null").unwrap();
        let (_first, own, _second, kept, _third) = (open(), open(), open(), open(), open());
        let numbers = [own.as_raw_fd(), kept.as_raw_fd()];
        let is_open = |number: &RawFd| std::fs::exists(format!("/proc/self/fd/{number}"));
        // A process of its own, as it closes what belongs to other tests.
        // SAFETY: the child makes system calls and allocates, which the C library allows after a
        // fork of threads; it does not return.
        match unsafe { nix::unistd::fork() }.unwrap() {
            ForkResult::Child => go_on_alone(kept.into(), &numbers[..1], |_kept| {
                let still = open_descriptors()?
                    .iter()
                    .all(|open| numbers.contains(open));
                let both = numbers
                    .iter()
                    .all(|number| is_open(number).unwrap_or(false));
                Ok(i32::from(!(still && both)))
            }),
            ForkResult::Parent { child } => {
                let ended = nix::sys::wait::waitpid(child, None).unwrap();
                assert_eq!(ended, nix::sys::wait::WaitStatus::Exited(child, 0));
            }
        }
    }

    #[test]
    fn fork_is_refused_in_a_process_with_several_threads() {
        let refused = std::thread::spawn(|| fork().unwrap_err()).join().unwrap();
        assert_eq!(refused.raw_os_error(), Some(libc::EDEADLK));
    }
}

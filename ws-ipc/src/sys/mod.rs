//! What std, tokio and the safe system call crates do not offer without `unsafe`.
//!
//! Everything else in this crate is safe code.

#![expect(
    unsafe_code,
    reason = "clone, fork, _exit, sigaction, close_range, SIOCOUTQ and AsyncFd::register have no safe binding"
)]

mod start;

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};

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

/// Ends the process at once: nothing is flushed, no `atexit` function runs.
pub(crate) fn exit_now(code: i32) -> ! {
    // SAFETY: `_exit` takes any number and never returns; no destructor is relied on for safety.
    unsafe { libc::_exit(code) }
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

/// Gives every signal its default disposition and empties the signal mask.
///
/// Whoever started us may ignore any of them, the realtime ones included, which glibc's own
/// function leaves out in part: so the system call is made directly.
pub(crate) fn default_signals(altered: &[libc::c_int]) -> io::Result<()> {
    for &signal in altered {
        rt_sigaction(signal, Some(&[libc::SIG_DFL; KERNEL_ACTION_WORDS]), None)?;
    }
    sigprocmask(SigmaskHow::SIG_SETMASK, Some(&SigSet::empty()), None)?;
    Ok(())
}

/// The signals that have another disposition than the default one. Without those that glibc handles
/// itself, which need their handlers.
pub(crate) fn altered_signals() -> io::Result<Vec<libc::c_int>> {
    let mut altered = Vec::new();
    for signal in 1..=LAST_SIGNAL {
        let mut now = [0; KERNEL_ACTION_WORDS];
        rt_sigaction(signal, None, Some(&mut now))?;
        let is_glibc_s_own = matches!(signal, 32 | 33);
        if now[0] != libc::SIG_DFL && (!is_glibc_s_own || now[0] == libc::SIG_IGN) {
            altered.push(signal);
        }
    }
    Ok(altered)
}

/// The last realtime signal.
const LAST_SIGNAL: libc::c_int = 64;

/// The kernel's `struct sigaction` in words: the handler first, then flags, restorer (on some
/// architectures) and a mask of 64 bits.
const KERNEL_ACTION_WORDS: usize = 5;

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
    fn fork_is_refused_in_a_process_with_several_threads() {
        let refused = std::thread::spawn(|| fork().unwrap_err()).join().unwrap();
        assert_eq!(refused.raw_os_error(), Some(libc::EDEADLK));
    }
}

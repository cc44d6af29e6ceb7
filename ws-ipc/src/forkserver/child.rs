//! A child of the fork server: answers its connection once and ends.
//!
//! What runs in it is put into one place, `inline(always)`: a page of the program that a child meets
//! for the first time costs it as much as a dozen system calls, and here they would be one for each
//! function.

use std::io::{self, Write};
use std::mem::ManuallyDrop;
use std::os::fd::{OwnedFd, RawFd};
use std::os::unix::net::UnixStream;

use rustix::io::Errno;
use rustix::process::{Pid, Signal};

use super::{Answer, Options, Request, Scratch, Source};
use crate::sys;
use crate::sys::SignalState;

/// What a child has to know about the process that it is a copy of.
#[derive(Debug)]
pub(super) struct Inheritance {
    pub(super) parent: Pid,
    pub(super) signals: SignalState,
    /// The descriptors that the application had opened before the loop began.
    pub(super) descriptors: Vec<RawFd>,
    /// Memory to use, which a child then need not allocate.
    pub(super) scratch: Scratch,
    /// A request that is nobody's, see [`serve`].
    pub(super) rehearsal: Vec<u8>,
}

/// Runs the child.
///
/// It leaves by `_exit` whatever happens, also if the closure panics: nothing of the parent's, such
/// as its `main` behind the loop, is ever run in it.
#[inline(always)]
pub(super) fn main(
    connection: OwnedFd,
    inherited: &mut Inheritance,
    options: &Options,
    handler: &impl Fn(&Request) -> Answer,
) -> ! {
    let max_body_size = options.max_body_size;
    let Inheritance {
        parent,
        signals,
        descriptors,
        scratch,
        rehearsal,
    } = inherited;
    sys::go_on_alone(connection, descriptors, |connection| {
        signals.restore_defaults()?;
        rustix::process::set_parent_process_death_signal(Some(Signal::KILL))?;
        if rustix::process::getppid() == Some(*parent) {
            // It is closed with the process, which is about to end.
            let stream = ManuallyDrop::new(UnixStream::from(connection));
            serve(&stream, scratch, rehearsal, max_body_size, handler)?;
            // The end of a process takes longer than an answer, which whoever waits for it on the
            // same processor would see only afterwards.
            rustix::thread::sched_yield();
        }
        // Otherwise it died before the kernel was told that we want to know.
        Ok(0)
    })
}

/// Answers the request of the peer, and before it, while there is time, one that is nobody's.
///
/// This rehearsal goes the very same way through program and memory, so that they are the process's
/// own then: a page that it meets for the first time costs a microsecond or two of the answer's time.
#[inline(always)]
fn serve(
    stream: &UnixStream,
    scratch: &mut Scratch,
    rehearsal: &[u8],
    max_body_size: usize,
    handler: &impl Fn(&Request) -> Answer,
) -> io::Result<()> {
    for source in [Source::Rehearsal(rehearsal), Source::Peer(stream)] {
        let Some(request) = scratch.take_request(&source, max_body_size)? else {
            break;
        };
        let answer = match source {
            Source::Peer(_) => {
                // A group of its own says also that it has begun: until then nothing can be left
                // behind by it.
                rustix::process::setpgid(None, None)?;
                handler(&request)
            }
            Source::Rehearsal(_) => Answer::binary(request.body()),
        };
        let answer = scratch.encode(&answer)?;
        // Before the answer: whoever has that hangs up, for which this process is killed.
        io::stdout().flush()?;
        if let Source::Peer(stream) = source {
            write_all(stream, answer)?;
        }
        scratch.recycle(request);
    }
    Ok(())
}

/// Leaves free memory of the sizes that a child needs, for it to find them at once.
pub(super) fn prepare(scratch: &mut Scratch, rehearsal: &[u8]) -> io::Result<()> {
    let source = Source::Rehearsal(rehearsal);
    if let Some(request) = scratch.take_request(&source, rehearsal.len())? {
        scratch.encode(&Answer::binary(request.body()))?;
        scratch.recycle(request);
    }
    Ok(())
}

/// Writes by the system call itself: std's way there is a page or two of the program more.
#[inline(always)]
fn write_all(stream: &UnixStream, mut bytes: &[u8]) -> io::Result<()> {
    while !bytes.is_empty() {
        match rustix::io::write(stream, bytes) {
            Ok(len) => bytes = &bytes[len..],
            Err(Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok(())
}

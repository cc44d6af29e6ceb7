//! A child of the fork server: answers its connection once and ends.

use std::hint::black_box;
use std::io::{self, Write};
use std::mem::ManuallyDrop;
use std::os::fd::{OwnedFd, RawFd};
use std::os::unix::net::UnixStream;

use rustix::io::Errno;
use rustix::process::{Pid, Signal};

use super::{Answer, FIRST_READ_SIZE, Options, Request, read_request};
use crate::scgi::{RequestDecoder, encode_request};
use crate::sys::SignalState;
use crate::{Environment, sys};

/// What a child has to know about the process that it is a copy of.
#[derive(Debug)]
pub(super) struct Inheritance {
    pub(super) parent: Pid,
    pub(super) signals: SignalState,
    /// The descriptors that the application had opened before the loop began.
    pub(super) descriptors: Vec<RawFd>,
    /// A request that is nobody's, see [`rehearsal`].
    pub(super) rehearsal: Vec<u8>,
}

/// Runs the child.
///
/// It leaves by `_exit` whatever happens, also if the closure panics: nothing of the parent's, such
/// as its `main` behind the loop, is ever run in it.
pub(super) fn main(
    connection: OwnedFd,
    inherited: &Inheritance,
    options: &Options,
    handler: &impl Fn(&Request) -> Answer,
) -> ! {
    let max_body_size = options.max_body_size;
    sys::go_on_alone(connection, &inherited.descriptors, |connection| {
        inherited.signals.restore_defaults()?;
        rustix::process::set_parent_process_death_signal(Some(Signal::KILL))?;
        if rustix::process::getppid() == Some(inherited.parent) {
            serve(connection, &inherited.rehearsal, max_body_size, handler)?;
            io::stdout().flush()?;
        }
        // Otherwise it died before the kernel was told that we want to know.
        Ok(0)
    })
}

fn serve(
    connection: OwnedFd,
    rehearsal: &[u8],
    max_body_size: usize,
    handler: &impl Fn(&Request) -> Answer,
) -> io::Result<()> {
    // It is closed with the process, which is about to end.
    let stream = ManuallyDrop::new(UnixStream::from(connection));
    let mut buffer = Vec::with_capacity(FIRST_READ_SIZE);
    rehearse(&mut buffer, rehearsal);
    let Some(request) = read_request(&stream, &mut buffer, max_body_size)? else {
        return Ok(());
    };
    // A group of its own says also that it has begun: until then nothing can be left behind by it.
    rustix::process::setpgid(None, None)?;
    let answer = handler(&request);
    let answer = answer.encode().map_err(io::Error::other)?;
    write_all(&stream, &answer)?;
    // The end of a process takes longer than an answer, which whoever waits for it on the same
    // processor would see only afterwards.
    rustix::thread::sched_yield();
    Ok(())
}

/// Writes by the system call itself: std's way there is a page or two of the program more.
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

/// Reads a request and makes an answer that are nobody's, while there is time for it: the memory
/// that this takes is the child's own then, and a page that it would meet for the first time costs
/// a microsecond or two of the answer's time.
fn rehearse(buffer: &mut Vec<u8>, request: &[u8]) {
    buffer.extend_from_slice(request);
    if let Ok(Some(request)) = RequestDecoder::new(0).feed(black_box(buffer)) {
        let answer = Answer::binary(Request(request).body());
        let _ = black_box(answer.encode());
    }
    buffer.clear();
}

/// A request for [`rehearse`], of the size that they have.
pub(super) fn rehearsal() -> io::Result<Vec<u8>> {
    let mut environment = Environment::new();
    environment
        .set("REHEARSAL", [b'.'; 1000])
        .map_err(io::Error::other)?;
    Ok(encode_request(&environment, 0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_rehearsed_is_a_request() {
        let request = RequestDecoder::new(0).feed(&rehearsal().unwrap());
        assert_eq!(request.unwrap().unwrap().body(), b"");
    }
}

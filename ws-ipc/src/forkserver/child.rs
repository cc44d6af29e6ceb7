//! A child of the fork server: answers its connection once and ends.

use std::hint::black_box;
use std::io::{self, Write};
use std::mem::ManuallyDrop;
use std::os::fd::{OwnedFd, RawFd};
use std::os::unix::net::UnixStream;

use rustix::process::{Pid, Signal};

use super::{Answer, Options, Request, read_request};
use crate::scgi::RequestDecoder;
use crate::sys::{self, SignalState};

/// What a child has to know about the process that it is a copy of.
#[derive(Debug)]
pub(super) struct Inheritance {
    pub(super) parent: Pid,
    pub(super) signals: SignalState,
    /// The descriptors that the application had opened before the loop began.
    pub(super) descriptors: Vec<RawFd>,
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
        rustix::process::setpgid(None, None)?;
        rustix::process::set_parent_process_death_signal(Some(Signal::KILL))?;
        if rustix::process::getppid() == Some(inherited.parent) {
            serve(connection, max_body_size, handler)?;
            io::stdout().flush()?;
        }
        // Otherwise it died before the kernel was told that we want to know.
        Ok(0)
    })
}

fn serve(
    connection: OwnedFd,
    max_body_size: usize,
    handler: &impl Fn(&Request) -> Answer,
) -> io::Result<()> {
    // It is closed with the process, which is about to end.
    let mut stream = ManuallyDrop::new(UnixStream::from(connection));
    rehearse();
    let Some(request) = read_request(&stream, max_body_size)? else {
        return Ok(());
    };
    let answer = handler(&request);
    let answer = answer.encode().map_err(io::Error::other)?;
    stream.write_all(&answer)?;
    // The end of a process takes longer than an answer, which whoever waits for it on the same
    // processor would see only afterwards.
    rustix::thread::sched_yield();
    Ok(())
}

/// Reads a request and makes an answer that are nobody's, while there is time for it: the memory
/// that this takes is the child's own then, and a page that it would meet for the first time costs
/// a microsecond or two of the answer's time.
fn rehearse() {
    let request = RequestDecoder::new(0).feed(black_box(EMPTY_REQUEST));
    if let Ok(Some(request)) = request {
        let answer = Answer::binary(Request(request).body());
        let _ = black_box(answer.encode());
    }
}

const EMPTY_REQUEST: &[u8] = b"24:CONTENT_LENGTH\x000\x00SCGI\x001\x00,";

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Environment;
    use crate::scgi::encode_request;

    #[test]
    fn what_is_rehearsed_is_a_request() {
        assert_eq!(EMPTY_REQUEST, encode_request(&Environment::new(), 0));
    }
}

//! A child of the fork server: waits for its connection, answers once, ends.

use std::hint::black_box;
use std::io::{self, Write};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;

use rustix::process::{Pid, Signal};

use super::{Answer, READ_SIZE, Request, read_request};
use crate::scgi::{RequestDecoder, encode_request};
use crate::{Environment, socketpair, sys};

/// Runs the child; the descriptors of the loop must be closed already.
///
/// The child leaves by `_exit` whatever happens, also if the closure panics: nothing of the
/// parent's, such as its `main` behind the loop, is ever run in it.
pub(super) fn main(
    control: OwnedFd,
    parent: Option<Pid>,
    altered_signals: &[i32],
    max_body_size: usize,
    handler: &impl Fn(&Request) -> Answer,
) -> ! {
    let _leave = LeaveOnUnwind;
    let code = match serve(control, parent, altered_signals, max_body_size, handler) {
        Ok(()) => 0,
        Err(error) => {
            let _ = writeln!(io::stderr(), "fork server's child: {error}");
            1
        }
    };
    let _ = io::stdout().flush();
    sys::exit_now(code)
}

/// Ends the process if the stack is unwound.
struct LeaveOnUnwind;

impl Drop for LeaveOnUnwind {
    fn drop(&mut self) {
        sys::exit_now(101)
    }
}

fn serve(
    control: OwnedFd,
    parent: Option<Pid>,
    altered_signals: &[i32],
    max_body_size: usize,
    handler: &impl Fn(&Request) -> Answer,
) -> io::Result<()> {
    sys::default_signals(altered_signals)?;
    rustix::process::setpgid(None, None)?;
    rustix::process::set_parent_process_death_signal(Some(Signal::KILL))?;
    if rustix::process::getppid() != parent {
        // It died before the kernel was told that we want to know.
        return Ok(());
    }
    let mut buffer = [0; READ_SIZE];
    rehearse();
    let Some(connection) = socketpair::receive(&control, &mut [0; 8], true)?.1.pop() else {
        return Ok(());
    };
    drop(control);
    let mut stream = UnixStream::from(connection);
    let Some(request) = read_request(&mut stream, &mut buffer, max_body_size)? else {
        return Ok(());
    };
    let answer = handler(&request);
    let answer = answer.encode().map_err(io::Error::other)?;
    stream.write_all(&answer)?;
    // The end of a process takes longer than an answer, which whoever waits for it on the same
    // processor would see only afterwards.
    std::thread::yield_now();
    Ok(())
}

/// Reads a request and makes an answer that are nobody's, while there is time for it: the memory
/// that this takes is the child's own then, and a page that it would meet for the first time costs
/// a microsecond or two of the answer's time.
fn rehearse() {
    let bytes = encode_request(&Environment::new(), 0);
    let request = RequestDecoder::new(0).feed(black_box(&bytes));
    if let Ok(Some(request)) = request {
        let answer = Answer::binary(Request(request).body());
        let _ = black_box(answer.encode());
    }
}

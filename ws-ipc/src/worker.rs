//! The worker: a closure answers one request after another in one process.
//!
//! [`run`] turns a program into one: its descriptor 0 is a listening Unix socket, on which it is
//! asked in SCGI, one request per connection and one connection at a time. What the closure leaves
//! in memory is there for the next request, which is what makes a worker quick, and is all the
//! isolation there is: a closure that panics ends the process, and whoever started it starts
//! another. Where each request is to have a process of its own, take
//! [`forkserver`](crate::forkserver).
//!
//! `examples/worker.rs` is a whole program.

use std::io::{self, Write};
use std::os::fd::AsFd;
use std::os::unix::net::{UnixListener, UnixStream};

use crate::forkserver::{Answer, Options, Request, Scratch, Source};
use crate::socketpair;

/// Serves requests with `handler`, one after another.
///
/// Does not return while it can serve. `SIGTERM` ends the process as it ends any other; it is sent
/// between two requests.
///
/// # Errors
///
/// The system's error if descriptor 0 is no listening socket, or if nothing can be accepted. A
/// request that is malformed or given up is no error.
pub fn run(mut handler: impl FnMut(&Request) -> Answer) -> io::Result<()> {
    let listener = UnixListener::from(io::stdin().as_fd().try_clone_to_owned()?);
    listener.set_nonblocking(false)?;
    // What the closure starts must not be able to take our connections.
    rustix::stdio::dup2_stdin(socketpair::null()?)?;
    loop {
        let stream = match listener.accept() {
            Ok((stream, _)) => stream,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) => return Err(error),
        };
        if let Err(error) = serve(stream, &mut handler) {
            let _ = writeln!(io::stderr(), "worker: {error}");
        }
    }
}

fn serve(mut stream: UnixStream, handler: &mut impl FnMut(&Request) -> Answer) -> io::Result<()> {
    let max_body_size = Options::default().max_body_size;
    let Some(request) = Scratch::new().take_request(&Source::Peer(&stream), max_body_size)? else {
        return Ok(());
    };
    let answer = handler(&request).encode().map_err(io::Error::other)?;
    stream.write_all(&answer)
}

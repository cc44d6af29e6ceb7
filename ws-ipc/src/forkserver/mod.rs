//! The fork server: a closure answers each message in a process of its own.
//!
//! [`run`] turns a small process into one: its descriptor 0 is a listening Unix socket, on which it
//! is asked in SCGI, one request per connection. It has a single thread and no runtime, because it
//! forks: a child for each connection, as soon as somebody connects. Who connects before he has a
//! request, as the server's pool does, has a child ready for it. A child closes what belongs to
//! the loop, restores signals, answers in CGI and leaves by `_exit`. A closure that panics, hangs
//! or crashes costs this one answer.
//!
//! If the asking side hangs up, the child's process group is killed; a child dies too when the
//! fork server does.
//!
//! `examples/forkserver.rs` is a whole program.

mod child;
mod parent;

use std::io;
use std::os::unix::net::UnixStream;

use rustix::buffer::spare_capacity;
use rustix::io::Errno;

use crate::Environment;
use crate::cgi::{CgiError, encode_answer};
use crate::scgi;

/// How much there may be of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Options {
    /// How many children there are at most, those that wait for their request included; further
    /// connections wait to be accepted. 256 by default, which fits the usual limit of 1024
    /// descriptors.
    pub max_children: usize,
    /// How large a payload may be, in bytes. 64 MiB by default: the server has its own, lower
    /// limit, this one is against a peer gone mad.
    pub max_body_size: usize,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            max_children: 256,
            max_body_size: 64 << 20,
        }
    }
}

/// What the closure is asked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Request(scgi::Request);

impl Request {
    /// The value of a CGI variable, if it is there and is UTF-8.
    #[must_use]
    pub fn variable(&self, name: &str) -> Option<&str> {
        self.0
            .environment()
            .get(name)
            .and_then(|value| str::from_utf8(value).ok())
    }

    /// All variables.
    #[must_use]
    pub fn environment(&self) -> &Environment {
        self.0.environment()
    }

    /// The payload, byte for byte.
    #[must_use]
    pub fn body(&self) -> &[u8] {
        self.0.body()
    }
}

/// What the closure answers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answer {
    status: u16,
    /// `None`: the receiver judges by the bytes.
    kind: Option<&'static str>,
    headers: Vec<(String, String)>,
    body: Vec<u8>,
}

impl Answer {
    /// A text message. An empty one is no message.
    #[must_use]
    pub fn text(body: impl Into<String>) -> Self {
        Self {
            status: 200,
            kind: Some("text"),
            headers: Vec::new(),
            body: body.into().into(),
        }
    }

    /// A binary message.
    #[must_use]
    pub fn binary(body: impl Into<Vec<u8>>) -> Self {
        Self {
            status: 200,
            kind: Some("binary"),
            headers: Vec::new(),
            body: body.into(),
        }
    }

    /// A failure: a status of 400 and above.
    #[must_use]
    pub fn failure(status: u16) -> Self {
        Self {
            status,
            kind: None,
            headers: Vec::new(),
            body: Vec::new(),
        }
    }

    /// Adds a header, such as `X-WS-Close`. One that cannot be a header makes the answer a failure.
    #[must_use]
    pub fn with_header(mut self, name: impl Into<String>, value: impl Into<String>) -> Self {
        self.headers.push((name.into(), value.into()));
        self
    }

    pub(crate) fn encode(&self) -> Result<Vec<u8>, CgiError> {
        let kind = self.kind.map(|kind| ("X-WS-Type", kind));
        let headers = self
            .headers
            .iter()
            .map(|(name, value)| (name.as_str(), value.as_str()));
        let headers: Vec<_> = kind.into_iter().chain(headers).collect();
        encode_answer(self.status, &headers, &self.body)
    }
}

/// Serves requests with `handler`, each in a process of its own, with default [`Options`].
///
/// Call it early in `main`: the process must have one thread, and its memory is what each child
/// begins with. Does not return while it can serve.
///
/// # Errors
///
/// The system's error if descriptor 0 is no listening socket, or if the loop itself fails; `EDEADLK`
/// if the process has several threads. That a child cannot be forked is no error: connections wait.
pub fn run(handler: impl Fn(&Request) -> Answer) -> io::Result<()> {
    run_with(Options::default(), handler)
}

/// Serves as [`run`] does, with options.
///
/// # Errors
///
/// As [`run`].
pub fn run_with(options: Options, handler: impl Fn(&Request) -> Answer) -> io::Result<()> {
    let mut parent = parent::Parent::new(options)?;
    loop {
        parent.serve(&handler)?;
        parent.step()?;
    }
}

/// Bytes that are read at first: most requests are shorter, and each page of a buffer is one more
/// that a child gets of its own.
pub(crate) const FIRST_READ_SIZE: usize = 4 * 1024;

/// Bytes of a longer request that are read at a time.
const READ_SIZE: usize = 64 * 1024;

/// Reads a whole request by way of an empty buffer; `None` if the peer hung up before that.
pub(crate) fn read_request(
    stream: &UnixStream,
    buffer: &mut Vec<u8>,
    max_body_size: usize,
) -> io::Result<Option<Request>> {
    let mut decoder = scgi::RequestDecoder::new(max_body_size);
    loop {
        match rustix::io::read(stream, spare_capacity(buffer)) {
            Ok(0) => return Ok(None),
            Ok(_) => {}
            Err(Errno::INTR) => continue,
            Err(error) => return Err(error.into()),
        }
        if let Some(request) = decoder.feed(buffer).map_err(io::Error::other)? {
            return Ok(Some(Request(request)));
        }
        buffer.clear();
        buffer.reserve(READ_SIZE);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cgi::parse_answer;

    #[test]
    fn answer_has_its_length_and_kind() {
        let bytes = Answer::text("hi")
            .with_header("X-WS-Close", "1000 bye")
            .encode()
            .unwrap();
        let answer = parse_answer(&bytes).unwrap();
        assert_eq!((answer.status(), answer.body()), (200, &b"hi"[..]));
        assert_eq!(answer.content_length(), Some(2));
        assert_eq!(answer.header("X-WS-Type"), Some("text"));
        assert_eq!(answer.header("X-WS-Close"), Some("1000 bye"));
    }

    #[test]
    fn header_that_would_add_another_is_refused() {
        assert!(
            Answer::text("")
                .with_header("X-A", "b\nX-C: d")
                .encode()
                .is_err()
        );
    }
}

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
use crate::cgi::{CgiError, encode_answer_to};
use crate::scgi::{self, RequestDecoder, encode_request};

/// Variables of the environment that a fork server had best be started with: with one thread the
/// restartable sequences (rseq(2)) of the C library are of no use, and a page of memory more that
/// each child gets a copy of.
pub const ENVIRONMENT: &[(&str, &str)] = &[("GLIBC_TUNABLES", "glibc.pthread.rseq=0")];

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
    #[inline]
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
    #[inline]
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
        let mut bytes = Vec::new();
        self.encode_to(&mut bytes)?;
        Ok(bytes)
    }

    /// Encodes it to the end of what is empty.
    #[inline(always)]
    pub(crate) fn encode_to(&self, bytes: &mut Vec<u8>) -> Result<(), CgiError> {
        let kind = self.kind.map(|kind| ("X-WS-Type", kind));
        let headers = self
            .headers
            .iter()
            .map(|(name, value)| (name.as_str(), value.as_str()));
        let headers = kind.into_iter().chain(headers);
        encode_answer_to(bytes, self.status, headers, &self.body)
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
const FIRST_READ_SIZE: usize = 4 * 1024;

/// Bytes of most answers, which are short, with their heads.
const ANSWER_SIZE: usize = 512;

/// Bytes that the variables of most requests take.
const VARIABLES_SIZE: usize = 2 * 1024;

/// Bytes of a longer request that are read at a time.
const READ_SIZE: usize = 64 * 1024;

/// Where a request comes from.
#[derive(Debug)]
pub(crate) enum Source<'a> {
    Peer(&'a UnixStream),
    /// Nobody: it is [`rehearsed`](rehearsal).
    Rehearsal(&'a [u8]),
}

impl Source<'_> {
    /// Appends what is there, and waits until something is; returns how much, 0 at the end.
    #[inline(always)]
    fn read(&self, buffer: &mut Vec<u8>) -> io::Result<usize> {
        match self {
            Self::Peer(stream) => loop {
                match rustix::io::read(stream, spare_capacity(buffer)) {
                    Err(Errno::INTR) => {}
                    read => return Ok(read?),
                }
            },
            Self::Rehearsal(request) => {
                buffer.extend_from_slice(request);
                Ok(request.len())
            }
        }
    }
}

/// Memory for a request and its answer: what is read, the variables, what is written.
#[derive(Debug)]
pub(crate) struct Scratch {
    environment: Environment,
    buffer: Vec<u8>,
    answer: Vec<u8>,
}

impl Scratch {
    pub(crate) fn new() -> Self {
        let mut environment = Environment::new();
        environment.reserve(VARIABLES_SIZE);
        Self {
            environment,
            buffer: Vec::with_capacity(FIRST_READ_SIZE),
            answer: Vec::with_capacity(ANSWER_SIZE),
        }
    }

    /// Takes a whole request from there; `None` if it ends before that.
    #[inline(always)]
    pub(crate) fn take_request(
        &mut self,
        source: &Source<'_>,
        max_body_size: usize,
    ) -> io::Result<Option<Request>> {
        let mut decoder = RequestDecoder::new(max_body_size).with_spare(self.take_environment());
        self.buffer.clear();
        while source.read(&mut self.buffer)? > 0 {
            if let Some(request) = decoder.feed(&self.buffer).map_err(io::Error::other)? {
                // Nothing is left in it that would have to be taken apart.
                std::mem::forget(decoder);
                return Ok(Some(Request(request)));
            }
            self.buffer.clear();
            self.buffer.reserve(READ_SIZE);
        }
        Ok(None)
    }

    /// What an answer is on its way.
    ///
    /// # Errors
    ///
    /// If it has a header that is none.
    #[inline(always)]
    pub(crate) fn encode(&mut self, answer: &Answer) -> io::Result<&[u8]> {
        self.answer.clear();
        answer
            .encode_to(&mut self.answer)
            .map_err(io::Error::other)?;
        Ok(&self.answer)
    }

    /// Takes back what a request was made of.
    pub(crate) fn recycle(&mut self, request: Request) {
        (self.environment, _) = request.0.into_parts();
    }

    fn take_environment(&mut self) -> Environment {
        let mut environment = std::mem::take(&mut self.environment);
        environment.clear();
        environment
    }
}

/// A request that is nobody's, of the size that they have.
fn rehearsal() -> io::Result<Vec<u8>> {
    let mut environment = Environment::new();
    environment
        .set("REHEARSAL", [b'.'; 1000])
        .map_err(io::Error::other)?;
    let mut request = encode_request(&environment, REHEARSED.len());
    request.extend_from_slice(REHEARSED);
    Ok(request)
}

/// What is said in it: short, as most messages are.
const REHEARSED: &[u8] = b"rehearsal";

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;
    use crate::cgi::parse_answer;

    #[test]
    fn what_is_rehearsed_is_a_request() {
        let request = RequestDecoder::new(REHEARSED.len()).feed(&rehearsal().unwrap());
        assert_eq!(request.unwrap().unwrap().body(), REHEARSED);
    }

    #[test]
    fn nothing_of_what_was_read_before_is_in_a_request() {
        let mut scratch = Scratch::new();
        let rehearsal = rehearsal().unwrap();
        for _ in 0..2 {
            let request = scratch.take_request(&Source::Rehearsal(&rehearsal), 100);
            scratch.recycle(request.unwrap().unwrap());
        }
        let mut environment = Environment::new();
        environment.set("A", "b").unwrap();
        let request = [&encode_request(&environment, 2)[..], b"hi"].concat();
        let (mut writer, reader) = UnixStream::pair().unwrap();
        writer.write_all(&request).unwrap();
        let read = scratch
            .take_request(&Source::Peer(&reader), 10)
            .unwrap()
            .unwrap();
        assert_eq!(read.variable("A"), Some("b"));
        assert_eq!(read.variable("REHEARSAL"), None);
        assert_eq!(read.body(), b"hi");
    }

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

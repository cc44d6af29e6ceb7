//! SCGI: how a request reaches a fork server, a worker or any SCGI application.
//!
//! A request is a [netstring](https://cr.yp.to/proto/netstrings.txt) of variables, then the body;
//! the answer is CGI's ([`cgi`](crate::cgi)) until the end of the stream. One connection carries
//! one request. The protocol: <https://python.ca/scgi/protocol.txt>.
//!
//! ```
//! use ws_ipc::Environment;
//! use ws_ipc::scgi::{self, RequestDecoder};
//!
//! let mut environment = Environment::new();
//! environment.set("REQUEST_URI", "/time")?;
//! let mut bytes = scgi::encode_request(&environment, 2);
//! bytes.extend_from_slice(b"hi");
//!
//! let mut decoder = RequestDecoder::new(1024);
//! let (head, rest) = bytes.split_at(7);
//! assert_eq!(decoder.feed(head)?, None);
//! let request = decoder.feed(rest)?.expect("the request is whole");
//! assert_eq!(request.environment().get("REQUEST_URI"), Some(&b"/time"[..]));
//! assert_eq!(request.body(), b"hi");
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

mod client;

pub use client::ScgiServer;
pub(crate) use client::{Length, exchange, exchange_at_once};

use crate::environment::{Environment, EnvironmentError};

/// Encodes the head of a request; `body_len` bytes of body must follow it.
///
/// `CONTENT_LENGTH` comes first and holds `body_len`, `SCGI` is `1`, whatever `environment` says.
pub fn encode_request(environment: &Environment, body_len: usize) -> Vec<u8> {
    let body_len = body_len.to_string();
    let own = [(CONTENT_LENGTH, body_len.as_bytes()), (SCGI, b"1")];
    let others = || {
        environment
            .iter()
            .filter(|(name, _)| ![CONTENT_LENGTH, SCGI].contains(name))
    };

    let size = |(name, value): (&str, &[u8])| name.len() + value.len() + 2;
    let head_size: usize = own.into_iter().chain(others()).map(size).sum();
    let mut request = Vec::with_capacity(head_size + 8);
    request.extend_from_slice(head_size.to_string().as_bytes());
    request.push(b':');
    for (name, value) in own.into_iter().chain(others()) {
        request.extend_from_slice(name.as_bytes());
        request.push(0);
        request.extend_from_slice(value);
        request.push(0);
    }
    request.push(b',');
    request
}

/// A request as a fork server or worker received it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Request {
    environment: Environment,
    body: Vec<u8>,
}

impl Request {
    /// Returns the variables, `CONTENT_LENGTH` among them.
    pub const fn environment(&self) -> &Environment {
        &self.environment
    }

    /// Returns the body, byte for byte the message.
    pub fn body(&self) -> &[u8] {
        &self.body
    }

    /// Takes the request apart.
    pub fn into_parts(self) -> (Environment, Vec<u8>) {
        (self.environment, self.body)
    }
}

/// Takes a request from the bytes of a connection, however they are cut.
///
/// Call [`feed`](Self::feed) with what arrived until it returns the request. The variables are
/// bounded by [`Environment`]'s limits, the body by `max_body_size`; nothing is reserved on the
/// word of a length alone.
#[derive(Debug)]
pub struct RequestDecoder {
    max_body_size: usize,
    state: State,
    /// Memory for the variables.
    spare: Environment,
}

#[derive(Debug)]
enum State {
    /// Reading the digits of the netstring's length.
    Length {
        digits: u32,
        value: usize,
    },
    /// Reading the variables; `size` bytes and the comma.
    Head {
        size: usize,
        bytes: Vec<u8>,
    },
    Body {
        environment: Environment,
        size: usize,
        body: Vec<u8>,
    },
    Done,
    Failed(ScgiError),
}

impl RequestDecoder {
    /// Makes a decoder for one connection that takes bodies of up to `max_body_size` bytes.
    pub const fn new(max_body_size: usize) -> Self {
        Self {
            max_body_size,
            state: State::Length {
                digits: 0,
                value: 0,
            },
            spare: Environment::new(),
        }
    }

    /// Decodes the variables into an environment that is empty, and has room.
    pub(crate) fn with_spare(self, spare: Environment) -> Self {
        Self { spare, ..self }
    }

    /// Returns whether part of a request has arrived.
    ///
    /// A connection that ends before that asked for nothing; one that ends later was cut off.
    pub const fn has_partial(&self) -> bool {
        match self.state {
            State::Length { digits, .. } => digits > 0,
            State::Head { .. } | State::Body { .. } => true,
            State::Done | State::Failed(_) => false,
        }
    }

    /// Takes the next bytes; returns the request once its last byte is among them.
    ///
    /// A connection carries one request: bytes behind it are ignored.
    ///
    /// # Errors
    ///
    /// [`ScgiError`] if the bytes are no SCGI request or a limit is passed; the same error on every
    /// later call.
    pub fn feed(&mut self, mut chunk: &[u8]) -> Result<Option<Request>, ScgiError> {
        loop {
            match self.step(&mut chunk) {
                Ok(Step::Next(state)) => self.state = state,
                Ok(Step::NeedMore) => return Ok(None),
                Ok(Step::Whole(request)) => {
                    self.state = State::Done;
                    return Ok(Some(request));
                }
                Err(error) => {
                    self.state = State::Failed(error.clone());
                    return Err(error);
                }
            }
        }
    }

    fn step(&mut self, chunk: &mut &[u8]) -> Result<Step, ScgiError> {
        match &mut self.state {
            State::Length { digits, value } => read_length(digits, value, chunk),
            State::Head { size, bytes } => {
                // the comma is read with the variables
                let size = *size + 1;
                // Nothing is copied of what is there as a whole.
                let head = match chunk.split_at_checked(size) {
                    Some((head, rest)) if bytes.is_empty() => {
                        *chunk = rest;
                        head
                    }
                    _ if fill(bytes, size, chunk) => bytes,
                    _ => return Ok(Step::NeedMore),
                };
                let environment = std::mem::take(&mut self.spare);
                let (environment, size) = parse_head(head, self.max_body_size, environment)?;
                Ok(Step::Next(State::Body {
                    environment,
                    size,
                    body: Vec::new(),
                }))
            }
            State::Body {
                environment,
                size,
                body,
            } => {
                if !fill(body, *size, chunk) {
                    return Ok(Step::NeedMore);
                }
                let (environment, body) = (std::mem::take(environment), std::mem::take(body));
                Ok(Step::Whole(Request { environment, body }))
            }
            State::Done => Ok(Step::NeedMore),
            State::Failed(error) => Err(error.clone()),
        }
    }
}

enum Step {
    Next(State),
    NeedMore,
    Whole(Request),
}

/// Why bytes are no SCGI request that is served here.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ScgiError {
    /// The netstring does not begin with a decimal length and a colon.
    #[error("request does not begin with a length")]
    InvalidLength,
    /// The variables are not name, NUL, value, NUL each, or the closing comma is missing.
    #[error("malformed variables")]
    InvalidHead,
    /// `CONTENT_LENGTH` is not the first variable or not a number.
    #[error("request does not begin with its CONTENT_LENGTH")]
    InvalidContentLength,
    /// The variable `SCGI` is not `1`.
    #[error("SCGI is not 1")]
    WrongVersion,
    /// A variable is there twice.
    #[error("variable {name} is there twice")]
    Duplicate {
        /// The variable.
        name: String,
    },
    /// The variables take more than an [`Environment`] may.
    #[error("variables take {size} bytes, the most is {max}")]
    HeadTooLarge {
        /// The announced size.
        size: usize,
        /// The limit.
        max: usize,
    },
    /// The body is longer than the decoder takes.
    #[error("body of {size} bytes, the most is {max}")]
    BodyTooLarge {
        /// The announced size.
        size: usize,
        /// The limit.
        max: usize,
    },
    /// A variable is not one that a callback may be given.
    #[error("variable refused")]
    Variable(#[from] EnvironmentError),
}

fn read_length(digits: &mut u32, value: &mut usize, chunk: &mut &[u8]) -> Result<Step, ScgiError> {
    while let Some((&byte, rest)) = chunk.split_first() {
        *chunk = rest;
        match byte {
            // A leading zero would let one length be written in several ways.
            b'0'..=b'9' if *digits == 0 || *value > 0 => {
                *digits += 1;
                *value = *value * 10 + usize::from(byte - b'0');
                if *value > MAX_HEAD_SIZE {
                    return Err(ScgiError::HeadTooLarge {
                        size: *value,
                        max: MAX_HEAD_SIZE,
                    });
                }
            }
            b':' if *value > 0 => {
                return Ok(Step::Next(State::Head {
                    size: *value,
                    bytes: Vec::new(),
                }));
            }
            _ => return Err(ScgiError::InvalidLength),
        }
    }
    Ok(Step::NeedMore)
}

/// Moves bytes from `chunk` to `bytes` until there are `size`; returns whether there are.
fn fill(bytes: &mut Vec<u8>, size: usize, chunk: &mut &[u8]) -> bool {
    let (taken, rest) = chunk.split_at(chunk.len().min(size - bytes.len()));
    if bytes.capacity() == 0 {
        *bytes = taken.to_vec();
    } else {
        bytes.extend_from_slice(taken);
    }
    *chunk = rest;
    bytes.len() == size
}

/// Adds the variables to an empty environment; returns it, and the size of the body.
fn parse_head(
    bytes: &[u8],
    max_body_size: usize,
    mut environment: Environment,
) -> Result<(Environment, usize), ScgiError> {
    let variables = bytes.strip_suffix(b"\0,").ok_or(ScgiError::InvalidHead)?;
    let mut parts = variables.split(|&byte| byte == 0);
    environment.reserve(variables.len());
    let mut body_size = None;
    let mut version = None;
    while let Some(name) = parts.next() {
        let value = parts.next().ok_or(ScgiError::InvalidHead)?;
        if body_size.is_none() {
            body_size = Some(content_length(name, value)?);
        }
        if name == SCGI.as_bytes() && version.is_none() {
            version = Some(value);
            continue;
        }
        if name == SCGI.as_bytes() || !environment.add_received(name, value)? {
            return Err(ScgiError::Duplicate {
                name: String::from_utf8_lossy(name).into_owned(),
            });
        }
    }
    if version != Some(b"1") {
        return Err(ScgiError::WrongVersion);
    }
    match body_size {
        Some(size) if size <= max_body_size => Ok((environment, size)),
        Some(size) => Err(ScgiError::BodyTooLarge {
            size,
            max: max_body_size,
        }),
        None => Err(ScgiError::InvalidContentLength),
    }
}

fn content_length(name: &[u8], value: &[u8]) -> Result<usize, ScgiError> {
    let add = |number: usize, &digit: &u8| {
        let digit = digit.is_ascii_digit().then(|| usize::from(digit - b'0'))?;
        number.checked_mul(10)?.checked_add(digit)
    };
    let is_there = name == CONTENT_LENGTH.as_bytes() && !value.is_empty();
    let number = value.iter().try_fold(0, add).filter(|_| is_there);
    number.ok_or(ScgiError::InvalidContentLength)
}

const CONTENT_LENGTH: &str = "CONTENT_LENGTH";
pub(crate) const SCGI: &str = "SCGI";

/// An environment of the largest size, and `CONTENT_LENGTH` and `SCGI`.
const MAX_HEAD_SIZE: usize = Environment::MAX_SIZE + 64;

#[cfg(test)]
mod tests {
    use super::*;

    /// The example of the protocol's specification.
    const EXAMPLE: &[u8] = b"70:CONTENT_LENGTH\x0027\x00SCGI\x001\x00REQUEST_METHOD\x00POST\x00\
        REQUEST_URI\x00/deepthought\x00,What is the answer to life?";

    fn decode(bytes: &[u8]) -> Result<Option<Request>, ScgiError> {
        RequestDecoder::new(100).feed(bytes)
    }

    #[test]
    fn example_of_the_specification_is_decoded_and_encoded() {
        let request = decode(EXAMPLE).unwrap().unwrap();
        assert_eq!(
            request.environment().get("REQUEST_URI"),
            Some(&b"/deepthought"[..])
        );
        assert_eq!(request.body(), b"What is the answer to life?");
        assert_eq!(request.environment().get("SCGI"), None);
        let mut encoded = encode_request(request.environment(), request.body().len());
        encoded.extend_from_slice(request.body());
        assert_eq!(encoded, EXAMPLE);
    }

    #[test]
    fn environment_of_the_largest_size_is_taken() {
        let mut environment = Environment::new();
        environment
            .set("A", vec![b'x'; Environment::MAX_SIZE - 3])
            .unwrap();
        let bytes = encode_request(&environment, 1);
        let mut decoder = RequestDecoder::new(1);
        assert_eq!(decoder.feed(&bytes), Ok(None));
        let request = decoder.feed(b"x").unwrap().unwrap();
        assert_eq!(request.environment().size(), Environment::MAX_SIZE + 17);
    }

    #[test]
    fn malformed_heads_are_refused() {
        use ScgiError::*;
        let large = |size| HeadTooLarge {
            size,
            max: MAX_HEAD_SIZE,
        };
        let cases: &[(&[u8], ScgiError)] = &[
            (b":", InvalidLength),
            (b"0:,", InvalidLength),
            (b"007:", InvalidLength),
            (b"-1:", InvalidLength),
            (b" 1:", InvalidLength),
            (b"12x", InvalidLength),
            (b"999999999999999999999999", large(99_999)),
            (b"3:abc,", InvalidHead),
            (b"19:CONTENT_LENGTH\x000\x00AB\x00,", InvalidHead),
            (b"24:CONTENT_LENGTH\x000\x00SCGI\x001\x00;", InvalidHead),
            (
                b"24:SCGI\x001\x00CONTENT_LENGTH\x000\x00,",
                InvalidContentLength,
            ),
            (
                b"24:CONTENT_LENGTH\x00x\x00SCGI\x001\x00,",
                InvalidContentLength,
            ),
            (
                b"23:CONTENT_LENGTH\x00\x00SCGI\x001\x00,",
                InvalidContentLength,
            ),
            (
                b"25:CONTENT_LENGTH\x00+1\x00SCGI\x001\x00,",
                InvalidContentLength,
            ),
            (
                b"44:CONTENT_LENGTH\x00999999999999999999999\x00SCGI\x001\x00,",
                InvalidContentLength,
            ),
            (b"24:CONTENT_LENGTH\x000\x00SCGI\x002\x00,", WrongVersion),
            (b"17:CONTENT_LENGTH\x000\x00,", WrongVersion),
            (
                b"31:CONTENT_LENGTH\x000\x00SCGI\x001\x00SCGI\x001\x00,",
                Duplicate {
                    name: "SCGI".into(),
                },
            ),
            (
                b"32:CONTENT_LENGTH\x000\x00SCGI\x001\x00A\x001\x00A\x001\x00,",
                Duplicate { name: "A".into() },
            ),
            (
                b"26:CONTENT_LENGTH\x00101\x00SCGI\x001\x00,",
                BodyTooLarge {
                    size: 101,
                    max: 100,
                },
            ),
            (
                b"30:CONTENT_LENGTH\x000\x00SCGI\x001\x00A=B\x001\x00,",
                Variable(EnvironmentError::InvalidName { name: "A=B".into() }),
            ),
        ];
        for (bytes, error) in cases {
            assert_eq!(
                decode(bytes),
                Err(error.clone()),
                "{}",
                bytes.escape_ascii()
            );
        }
    }

    #[test]
    fn error_is_repeated_and_bytes_behind_a_request_are_ignored() {
        let mut decoder = RequestDecoder::new(100);
        assert_eq!(decoder.feed(b"x"), Err(ScgiError::InvalidLength));
        assert_eq!(decoder.feed(EXAMPLE), Err(ScgiError::InvalidLength));

        let mut decoder = RequestDecoder::new(100);
        assert!(!decoder.has_partial());
        assert_eq!(decoder.feed(&EXAMPLE[..1]), Ok(None));
        assert!(decoder.has_partial());
        assert!(decoder.feed(&EXAMPLE[1..]).unwrap().is_some());
        assert_eq!(decoder.feed(EXAMPLE), Ok(None));
        assert!(!decoder.has_partial());
    }
}

//! CGI answers: header lines, an empty line, a body
//! ([RFC 3875 §6](https://www.rfc-editor.org/rfc/rfc3875#section-6)).
//!
//! Scripts write them, so reading is strict where a mistake could do harm: values end up in the
//! response to a handshake, and a body shorter than its `Content-Length` was cut off.
//!
//! ```
//! use ws_ipc::cgi;
//!
//! let answer = cgi::parse_answer(b"Status: 403 Forbidden\nX-WS-User: 42\n\nno entry")?;
//! assert_eq!(answer.status(), 403);
//! assert_eq!(answer.header("x-ws-user"), Some("42"));
//! assert_eq!(answer.body(), b"no entry");
//! # Ok::<(), cgi::CgiError>(())
//! ```

/// The longest head of an answer in bytes, its empty line included.
pub const MAX_HEAD_SIZE: usize = 16 * 1024;

/// Reads a whole answer: what the process wrote until its output ended.
///
/// # Errors
///
/// [`CgiError`] if it is no CGI answer, its head is over [`MAX_HEAD_SIZE`], or the body is shorter
/// than its `Content-Length`.
pub fn parse_answer(bytes: &[u8]) -> Result<CgiAnswer<'_>, CgiError> {
    let head_end = find_head_end(bytes, 0)?.ok_or(match bytes {
        [] => CgiError::Empty,
        _ => CgiError::HeadUnfinished,
    })?;
    let (head, body) = bytes.split_at(head_end);
    let mut answer = parse_head(head)?;
    answer.body = match answer.content_length {
        // RFC 3875 §4.2: what follows the announced length is not part of the body.
        Some(announced) => body.get(..announced).ok_or(CgiError::BodyTooShort {
            announced,
            received: body.len(),
        })?,
        None => body,
    };
    Ok(answer)
}

/// Encodes an answer; `Status` and `Content-Length` are written first.
///
/// # Errors
///
/// [`CgiError`] if `status` is no HTTP status, a header could not be read back as it is or is one
/// of the two, or the head gets over [`MAX_HEAD_SIZE`].
pub fn encode_answer(
    status: u16,
    headers: &[(&str, &str)],
    body: &[u8],
) -> Result<Vec<u8>, CgiError> {
    let mut answer = Vec::with_capacity(HEAD_SIZE + body.len());
    encode_answer_to(&mut answer, status, headers.iter().copied(), body)?;
    Ok(answer)
}

/// As [`encode_answer`], to the end of what is empty.
#[inline(always)]
pub(crate) fn encode_answer_to<'a>(
    answer: &mut Vec<u8>,
    status: u16,
    headers: impl Iterator<Item = (&'a str, &'a str)>,
    body: &[u8],
) -> Result<(), CgiError> {
    if !(100..=599).contains(&status) {
        return Err(CgiError::InvalidStatus);
    }
    answer.extend_from_slice(b"Status: ");
    push_number(answer, status.into());
    answer.extend_from_slice(b"\r\nContent-Length: ");
    push_number(answer, body.len());
    answer.extend_from_slice(b"\r\n");
    for (name, value) in headers {
        let reserved = [STATUS, CONTENT_LENGTH]
            .iter()
            .any(|own| name.eq_ignore_ascii_case(own));
        let ends = [value.as_bytes().first(), value.as_bytes().last()];
        let is_padded = ends
            .into_iter()
            .flatten()
            .any(|&end| end == b' ' || end == b'\t');
        if reserved || !is_token(name) || !is_field_value(value) || is_padded {
            return Err(CgiError::InvalidHeader {
                line: escape(&format!("{name}: {value}")),
            });
        }
        for part in [name, ": ", value, "\r\n"] {
            answer.extend_from_slice(part.as_bytes());
        }
    }
    answer.extend_from_slice(b"\r\n");
    if answer.len() > MAX_HEAD_SIZE {
        return Err(CgiError::HeadTooLarge { max: MAX_HEAD_SIZE });
    }
    answer.extend_from_slice(body);
    Ok(())
}

/// Room for the usual head of an answer.
const HEAD_SIZE: usize = 128;

/// Appends a number in decimal. A child of the fork server that formats it meets a good deal of the
/// program for the first time.
fn push_number(bytes: &mut Vec<u8>, mut number: usize) {
    let start = bytes.len();
    loop {
        bytes.push(b'0' + (number % 10) as u8);
        number /= 10;
        if number == 0 {
            break;
        }
    }
    bytes[start..].reverse();
}

/// An answer, borrowed from the bytes it was read from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CgiAnswer<'a> {
    status: u16,
    content_length: Option<usize>,
    headers: Vec<(&'a str, &'a str)>,
    body: &'a [u8],
}

impl<'a> CgiAnswer<'a> {
    /// Returns the status: 100 to 599, and 200 where the answer names none.
    pub const fn status(&self) -> u16 {
        self.status
    }

    /// Returns the announced length of the body, which [`body`](Self::body) then has.
    pub const fn content_length(&self) -> Option<usize> {
        self.content_length
    }

    /// Returns the first value of a header; the case of names does not matter.
    pub fn header(&self, name: &str) -> Option<&'a str> {
        self.headers()
            .find(|(known, _)| known.eq_ignore_ascii_case(name))
            .map(|(_, value)| value)
    }

    /// Iterates over all headers as they were written, `Status` and `Content-Length` among them.
    ///
    /// Values hold no control character but tabs.
    pub fn headers(&self) -> impl ExactSizeIterator<Item = (&'a str, &'a str)> + '_ {
        self.headers.iter().copied()
    }

    /// Returns the body, cut to its `Content-Length` if there is one.
    pub const fn body(&self) -> &'a [u8] {
        self.body
    }
}

/// Collects an answer piece by piece and knows when it is whole.
///
/// [`feed`](Self::feed) what arrives; when it returns `true`, or the stream ends,
/// [`finish`](Self::finish) reads the answer. Without a `Content-Length` only the end of the stream
/// tells that the answer is whole.
#[derive(Debug)]
pub struct AnswerDecoder {
    max_size: usize,
    bytes: Vec<u8>,
    /// How much of `bytes` is known not to end the head.
    scanned: usize,
    extent: Extent,
}

#[derive(Clone, Copy, Debug)]
enum Extent {
    Unknown,
    /// The head is whole and names no length.
    ToEnd,
    /// The size of head and body.
    Announced(usize),
}

impl AnswerDecoder {
    /// Makes a decoder for one answer of at most `max_size` bytes, head included.
    pub const fn new(max_size: usize) -> Self {
        Self {
            max_size,
            bytes: Vec::new(),
            scanned: 0,
            extent: Extent::Unknown,
        }
    }

    /// Takes the next bytes; returns whether all that `Content-Length` announced has arrived.
    ///
    /// Bytes behind that are ignored.
    ///
    /// # Errors
    ///
    /// [`CgiError`] as soon as the head is wrong or a limit is passed or bound to be passed. The
    /// answer is lost then.
    pub fn feed(&mut self, chunk: &[u8]) -> Result<bool, CgiError> {
        let room = match self.extent {
            Extent::Announced(size) => size - self.bytes.len(),
            Extent::Unknown | Extent::ToEnd => (self.max_size + 1).saturating_sub(self.bytes.len()),
        };
        self.bytes
            .extend_from_slice(&chunk[..chunk.len().min(room)]);
        if let Extent::Unknown = self.extent {
            self.find_extent()?;
        }
        match self.extent {
            Extent::Announced(size) => Ok(self.bytes.len() == size),
            Extent::Unknown | Extent::ToEnd if self.bytes.len() > self.max_size => {
                Err(CgiError::TooLarge { max: self.max_size })
            }
            Extent::Unknown | Extent::ToEnd => Ok(false),
        }
    }

    /// Reads the answer that has arrived.
    ///
    /// # Errors
    ///
    /// [`CgiError`] as [`parse_answer`].
    pub fn finish(&self) -> Result<CgiAnswer<'_>, CgiError> {
        parse_answer(&self.bytes)
    }

    /// Returns the bytes that have arrived.
    pub fn into_bytes(self) -> Vec<u8> {
        self.bytes
    }

    fn find_extent(&mut self) -> Result<(), CgiError> {
        let Some(head_end) = find_head_end(&self.bytes, self.scanned)? else {
            // The head may end with the line feed that comes next.
            self.scanned = self.bytes.len().saturating_sub(2);
            return Ok(());
        };
        let body_size = parse_head(&self.bytes[..head_end])?.content_length;
        self.extent = match body_size.map(|size| size.checked_add(head_end)) {
            None => Extent::ToEnd,
            Some(Some(size)) if size <= self.max_size => Extent::Announced(size),
            Some(_) => return Err(CgiError::TooLarge { max: self.max_size }),
        };
        if let Extent::Announced(size) = self.extent {
            self.bytes.truncate(size);
        }
        Ok(())
    }
}

/// Why bytes are no answer.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum CgiError {
    /// Nothing was written.
    #[error("answer is empty")]
    Empty,
    /// The output ended before the empty line behind the headers.
    #[error("answer ends within its head")]
    HeadUnfinished,
    /// The head is too large.
    #[error("head of the answer is over {max} bytes")]
    HeadTooLarge {
        /// The limit, [`MAX_HEAD_SIZE`].
        max: usize,
    },
    /// A line is no header.
    #[error("answer has no header but {line:?}")]
    InvalidHeader {
        /// The beginning of the line, escaped.
        line: String,
    },
    /// `Status` does not begin with a number from 100 to 599, or is there twice.
    #[error("answer has an invalid status")]
    InvalidStatus,
    /// `Content-Length` is no number, or there are several that differ.
    #[error("answer has an invalid content length")]
    InvalidContentLength,
    /// The output ended before the announced length: the answer was cut off.
    #[error("body of {received} bytes is shorter than the announced {announced}")]
    BodyTooShort {
        /// What `Content-Length` says.
        announced: usize,
        /// What there is.
        received: usize,
    },
    /// The answer is larger than the decoder takes.
    #[error("answer is over {max} bytes")]
    TooLarge {
        /// The limit.
        max: usize,
    },
}

/// Finds where the body begins; the first `scanned` bytes hold no end of the head.
fn find_head_end(bytes: &[u8], scanned: usize) -> Result<Option<usize>, CgiError> {
    let scope = &bytes[..bytes.len().min(MAX_HEAD_SIZE)];
    let mut at = scanned;
    while let Some(found) = scope[at..].iter().position(|&byte| byte == b'\n') {
        at += found + 1;
        let line_is_empty = match &scope[..at - 1] {
            [] | [b'\r'] | [.., b'\n'] | [.., b'\n', b'\r'] => true,
            [..] => false,
        };
        if line_is_empty {
            return Ok(Some(at));
        }
    }
    if bytes.len() > MAX_HEAD_SIZE {
        return Err(CgiError::HeadTooLarge { max: MAX_HEAD_SIZE });
    }
    Ok(None)
}

/// Reads a head with its empty line; the body is left empty.
fn parse_head(head: &[u8]) -> Result<CgiAnswer<'_>, CgiError> {
    let mut headers = Vec::new();
    for line in head.split(|&byte| byte == b'\n') {
        let line = line.strip_suffix(b"\r").unwrap_or(line);
        if !line.is_empty() {
            headers.push(parse_header(line)?);
        }
    }
    let values = |name: &str| {
        let own = headers
            .iter()
            .filter(|(known, _)| known.eq_ignore_ascii_case(name));
        own.map(|(_, value)| *value).collect::<Vec<_>>()
    };
    let status = match values(STATUS)[..] {
        [] => 200,
        [value] => parse_status(value)?,
        [..] => return Err(CgiError::InvalidStatus),
    };
    let content_length = match values(CONTENT_LENGTH)[..] {
        [] => None,
        [first, ref others @ ..] => {
            let length = parse_length(first)?;
            // RFC 9110 §8.6: the same length several times is one; differing ones are an attack.
            if others.iter().any(|other| parse_length(other) != Ok(length)) {
                return Err(CgiError::InvalidContentLength);
            }
            Some(length)
        }
    };
    Ok(CgiAnswer {
        status,
        content_length,
        headers,
        body: &[],
    })
}

fn parse_header(line: &[u8]) -> Result<(&str, &str), CgiError> {
    let text = str::from_utf8(line).ok();
    let header = text
        .and_then(|text| text.split_once(':'))
        .filter(|(name, _)| is_token(name));
    let header = header.map(|(name, value)| (name, value.trim_matches(WS)));
    header
        .filter(|(_, value)| is_field_value(value))
        .ok_or_else(|| {
            let line = &line[..line.len().min(80)];
            CgiError::InvalidHeader {
                line: escape(&String::from_utf8_lossy(line)),
            }
        })
}

fn parse_status(value: &str) -> Result<u16, CgiError> {
    let code = value.split([' ', '\t']).next().unwrap_or_default();
    if code.len() != 3 || !code.bytes().all(|byte| byte.is_ascii_digit()) {
        return Err(CgiError::InvalidStatus);
    }
    code.parse()
        .ok()
        .filter(|code| (100..=599).contains(code))
        .ok_or(CgiError::InvalidStatus)
}

fn parse_length(value: &str) -> Result<usize, CgiError> {
    if !value.bytes().all(|byte| byte.is_ascii_digit()) {
        return Err(CgiError::InvalidContentLength);
    }
    value.parse().map_err(|_| CgiError::InvalidContentLength)
}

/// RFC 9110 §5.6.2.
fn is_token(name: &str) -> bool {
    let is_tchar = |byte: u8| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte);
    !name.is_empty() && name.bytes().all(is_tchar)
}

/// A bare carriage return would split the handshake's response in the eyes of some readers.
fn is_field_value(value: &str) -> bool {
    !value
        .bytes()
        .any(|byte| byte.is_ascii_control() && byte != b'\t')
}

fn escape(line: &str) -> String {
    line.escape_debug().to_string()
}

const STATUS: &str = "Status";
const CONTENT_LENGTH: &str = "Content-Length";
const WS: [char; 2] = [' ', '\t'];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answer_without_status_is_200_and_line_ends_may_be_bare() {
        let answer = parse_answer(b"Content-Type:text/plain\nA:  b \t\r\n\r\n\nbody\n").unwrap();
        assert_eq!(answer.status(), 200);
        let headers: Vec<_> = answer.headers().collect();
        assert_eq!(headers, [("Content-Type", "text/plain"), ("A", "b")]);
        assert_eq!(answer.body(), b"\nbody\n");
        assert_eq!(answer.content_length(), None);
    }

    #[test]
    fn answer_without_headers_is_an_empty_line_and_a_body() {
        assert_eq!(parse_answer(b"\nx").unwrap().body(), b"x");
        assert_eq!(parse_answer(b"\r\nx").unwrap().body(), b"x");
    }

    #[test]
    fn body_is_as_long_as_announced() {
        let shorter = parse_answer(b"Content-Length: 5\n\nabcd");
        assert_eq!(
            shorter,
            Err(CgiError::BodyTooShort {
                announced: 5,
                received: 4
            })
        );
        assert_eq!(
            parse_answer(b"Content-Length: 4\n\nabcd").unwrap().body(),
            b"abcd"
        );
        assert_eq!(
            parse_answer(b"content-length: 4\n\nabcde").unwrap().body(),
            b"abcd"
        );
    }

    #[test]
    fn malformed_answers_are_refused() {
        let invalid = |line: &str| CgiError::InvalidHeader { line: line.into() };
        let cases: &[(&[u8], CgiError)] = &[
            (b"", CgiError::Empty),
            (b"hello", CgiError::HeadUnfinished),
            (b"A: b\n", CgiError::HeadUnfinished),
            (b"A: b\r\n\r", CgiError::HeadUnfinished),
            (b"hello\n\n", invalid("hello")),
            (b"HTTP/1.1 200 OK\n\n", invalid("HTTP/1.1 200 OK")),
            (b"A : b\n\n", invalid("A : b")),
            (b": b\n\n", invalid(": b")),
            (b"A: b\n c\n\n", invalid(" c")),
            (b"Set-Cookie: a\rX: b\n\n", invalid("Set-Cookie: a\\rX: b")),
            (b"A: \0\n\n", invalid("A: \\0")),
            (b"A: \xff\n\n", invalid("A: \u{fffd}")),
            (b"Status: 99\n\n", CgiError::InvalidStatus),
            (b"Status: 600\n\n", CgiError::InvalidStatus),
            (b"Status: 2000\n\n", CgiError::InvalidStatus),
            (b"Status: +20\n\n", CgiError::InvalidStatus),
            (b"Status:\n\n", CgiError::InvalidStatus),
            (b"Status: 200\nstatus: 200\n\n", CgiError::InvalidStatus),
            (b"Content-Length: x\n\n", CgiError::InvalidContentLength),
            (b"Content-Length:\n\n", CgiError::InvalidContentLength),
            (b"Content-Length: -1\n\n", CgiError::InvalidContentLength),
            (
                b"Content-Length: 99999999999999999999999\n\n",
                CgiError::InvalidContentLength,
            ),
            (
                b"Content-Length: 0\nContent-Length: 1\n\nx",
                CgiError::InvalidContentLength,
            ),
        ];
        for (bytes, error) in cases {
            assert_eq!(
                parse_answer(bytes),
                Err(error.clone()),
                "{}",
                bytes.escape_ascii()
            );
        }
    }

    #[test]
    fn head_over_16_kib_is_refused_and_one_of_16_kib_taken() {
        let answer = |value_len: usize| format!("A: {}\n\nbody", "x".repeat(value_len));
        let fits = answer(MAX_HEAD_SIZE - 5);
        assert_eq!(parse_answer(fits.as_bytes()).unwrap().body(), b"body");
        let large = answer(MAX_HEAD_SIZE - 4);
        let refused = Err(CgiError::HeadTooLarge { max: MAX_HEAD_SIZE });
        assert_eq!(parse_answer(large.as_bytes()), refused);
        let mut decoder = AnswerDecoder::new(1 << 20);
        let fed = large
            .as_bytes()
            .chunks(1)
            .try_fold(false, |_, chunk| decoder.feed(chunk));
        assert_eq!(fed, Err(CgiError::HeadTooLarge { max: MAX_HEAD_SIZE }));
    }

    #[test]
    fn decoder_ends_with_the_announced_body() {
        let mut decoder = AnswerDecoder::new(100);
        assert_eq!(decoder.feed(b"Content-Length: 2\n\na"), Ok(false));
        assert_eq!(
            decoder.finish(),
            Err(CgiError::BodyTooShort {
                announced: 2,
                received: 1
            })
        );
        assert_eq!(decoder.feed(b"bc"), Ok(true));
        assert_eq!(decoder.feed(b"d"), Ok(true));
        assert_eq!(decoder.finish().unwrap().body(), b"ab");
        assert_eq!(decoder.into_bytes(), b"Content-Length: 2\n\nab");
    }

    #[test]
    fn decoder_refuses_what_is_too_large_at_once() {
        let refused = Err(CgiError::TooLarge { max: 20 });
        assert_eq!(
            AnswerDecoder::new(20).feed(b"Content-Length: 2\n\n"),
            refused
        );
        let max = usize::MAX;
        assert_eq!(
            AnswerDecoder::new(20).feed(format!("Content-Length: {max}\n\n").as_bytes()),
            refused
        );
        let mut decoder = AnswerDecoder::new(20);
        assert_eq!(decoder.feed(&[b"\n", &[b'x'; 19][..]].concat()), Ok(false));
        assert_eq!(decoder.feed(b"x"), refused);
    }

    #[test]
    fn encoded_answer_is_read_back() {
        let headers = [
            ("X-WS-User", "ä"),
            ("Set-Cookie", "a=1"),
            ("Set-Cookie", "b=2"),
        ];
        let bytes = encode_answer(201, &headers, b"\nbody").unwrap();
        let answer = parse_answer(&bytes).unwrap();
        assert_eq!((answer.status(), answer.body()), (201, &b"\nbody"[..]));
        assert_eq!(answer.headers().skip(2).collect::<Vec<_>>(), headers);
    }

    #[test]
    fn answer_that_could_not_be_read_back_is_not_encoded() {
        assert_eq!(encode_answer(99, &[], b""), Err(CgiError::InvalidStatus));
        let headers = [
            ("", "x"),
            ("A b", "x"),
            ("A", "x\ny"),
            ("A", " x"),
            ("status", "200"),
            ("A", "\0"),
        ];
        for header in headers {
            let refused = encode_answer(200, &[header], b"");
            assert!(
                matches!(refused, Err(CgiError::InvalidHeader { .. })),
                "{header:?}"
            );
        }
        let refused = encode_answer(200, &[("A", &"x".repeat(MAX_HEAD_SIZE))], b"");
        assert_eq!(refused, Err(CgiError::HeadTooLarge { max: MAX_HEAD_SIZE }));
    }
}

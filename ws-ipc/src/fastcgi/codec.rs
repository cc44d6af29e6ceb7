//! Records: requests encoded, responses decoded.

use crate::Environment;

/// The size of a request's beginning, which holds nothing of the request yet.
pub(super) const BEGIN_SIZE: usize = 2 * HEADER_SIZE;

/// Appends a request for a responder: its beginning (`FCGI_BEGIN_REQUEST`, §5.1), the variables
/// (`FCGI_PARAMS`, §5.2) and the payload (`FCGI_STDIN`, §5.3), with the empty records that end the
/// two streams. With `keep` the server may leave the connection open after the response
/// (`FCGI_KEEP_CONN`).
///
/// `CONTENT_LENGTH` comes first and holds the payload's length, whatever `environment` says. No
/// variable is divided between two records if it fits into one: php-fpm does not put it together.
pub fn encode_request(
    output: &mut Vec<u8>,
    id: u16,
    keep: bool,
    environment: &Environment,
    payload: &[u8],
) {
    // Each variable takes at most 8 bytes beside what the environment counts.
    let streams = environment.size() + 8 * environment.iter().len() + payload.len();
    output.reserve(streams + 64 + 16 * (streams / MAX_CONTENT_SIZE + 2));

    output.extend_from_slice(&header(BEGIN_REQUEST, id, 8, 0));
    let [role1, role0] = RESPONDER.to_be_bytes();
    output.extend_from_slice(&[role1, role0, u8::from(keep), 0, 0, 0, 0, 0]);

    let length = payload.len().to_string();
    let own = (CONTENT_LENGTH, length.as_bytes());
    let others = environment.iter().filter(|(name, _)| *name != own.0);
    let mut record = RecordWriter::begin(output, PARAMS, id);
    for (name, value) in std::iter::once(own).chain(others) {
        record.put_pair(name.as_bytes(), value);
    }
    record.end();
    output.extend_from_slice(&header(PARAMS, id, 0, 0));

    for chunk in payload.chunks(MAX_CONTENT_SIZE) {
        let mut record = RecordWriter::begin(output, STDIN, id);
        record.put(chunk);
        record.end();
    }
    output.extend_from_slice(&header(STDIN, id, 0, 0));
}

/// Writes content in as many records of one type as it needs.
struct RecordWriter<'a> {
    output: &'a mut Vec<u8>,
    kind: u8,
    id: u16,
    /// Where the record under way begins.
    start: usize,
}

impl<'a> RecordWriter<'a> {
    fn begin(output: &'a mut Vec<u8>, kind: u8, id: u16) -> Self {
        let start = output.len();
        output.extend_from_slice(&[0; HEADER_SIZE]);
        Self {
            output,
            kind,
            id,
            start,
        }
    }

    /// §3.4: the lengths of name and value, then the two.
    fn put_pair(&mut self, name: &[u8], value: &[u8]) {
        let (mut lengths, mut size) = ([0; 8], 0);
        for len in [name.len(), value.len()] {
            // An environment is smaller than what four bytes can say.
            let len = u32::try_from(len).unwrap_or(MAX_LONG_LEN);
            match u8::try_from(len) {
                Ok(len @ 0..=MAX_SHORT_LEN) => {
                    lengths[size] = len;
                    size += 1;
                }
                _ => {
                    let long = (len | LONG_LEN).to_be_bytes();
                    lengths[size..size + 4].copy_from_slice(&long);
                    size += 4;
                }
            }
        }
        let pair_size = size + name.len() + value.len();
        if self.content_size() > 0 && pair_size > MAX_CONTENT_SIZE - self.content_size() {
            self.next();
        }
        self.put(&lengths[..size]);
        self.put(name);
        self.put(value);
    }

    fn put(&mut self, mut bytes: &[u8]) {
        loop {
            let room = MAX_CONTENT_SIZE - self.content_size();
            let (taken, rest) = bytes.split_at(bytes.len().min(room));
            self.output.extend_from_slice(taken);
            if rest.is_empty() {
                return;
            }
            bytes = rest;
            self.next();
        }
    }

    fn content_size(&self) -> usize {
        self.output.len() - self.start - HEADER_SIZE
    }

    fn next(&mut self) {
        self.finish();
        self.start = self.output.len();
        self.output.extend_from_slice(&[0; HEADER_SIZE]);
    }

    fn end(mut self) {
        self.finish();
    }

    /// Writes the header, now that the size is known, and pads the record to a multiple of eight
    /// bytes, as §3.3 recommends.
    fn finish(&mut self) {
        let size = self.content_size();
        let padding = size.next_multiple_of(8) - size;
        self.output.resize(self.output.len() + padding, 0);
        let header = header(self.kind, self.id, size, padding);
        self.output[self.start..self.start + HEADER_SIZE].copy_from_slice(&header);
    }
}

/// §3.3. The sizes are below [`MAX_CONTENT_SIZE`] and 8.
fn header(kind: u8, id: u16, content: usize, padding: usize) -> [u8; HEADER_SIZE] {
    let [id1, id0] = id.to_be_bytes();
    let [content1, content0] = u16::try_from(content).unwrap_or(u16::MAX).to_be_bytes();
    let padding = u8::try_from(padding).unwrap_or(u8::MAX);
    [VERSION, kind, id1, id0, content1, content0, padding, 0]
}

/// Takes the response to one request from the bytes of a connection, however they are cut.
///
/// It holds at most 16 bytes: what the streams carry is handed out as it arrives. How much of that
/// is kept is the caller's to bound.
#[derive(Clone, Debug)]
pub struct ResponseDecoder {
    id: u16,
    state: State,
    content_left: usize,
    padding_left: usize,
}

#[derive(Clone, Copy, Debug)]
enum State {
    /// Reading a header, of which so many bytes have arrived.
    Header([u8; HEADER_SIZE], usize),
    Stdout,
    Stderr,
    /// Reading the body of `FCGI_END_REQUEST`, of which so many bytes have arrived.
    End([u8; END_SIZE], usize),
    Done,
    Failed(FastCgiError),
}

/// What a response consists of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Event<'a> {
    /// Part of the answer, never empty.
    Stdout(&'a [u8]),
    /// Part of what goes to the log, never empty.
    Stderr(&'a [u8]),
    /// The response is over (§5.5).
    End {
        /// What the application would have ended with as a CGI program.
        app_status: u32,
        /// Whether the server served the request at all.
        protocol_status: ProtocolStatus,
    },
}

/// Whether a server served a request (§5.5).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ProtocolStatus {
    /// It did.
    RequestComplete,
    /// It was asked for two at once on a connection, which it does not do.
    CannotMultiplex,
    /// It has too much to do.
    Overloaded,
    /// It is no responder.
    UnknownRole,
}

/// Why bytes are no FastCGI response.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum FastCgiError {
    /// The record is of another version than 1; most likely the server does not speak FastCGI.
    #[error("version {0} of FastCGI")]
    WrongVersion(u8),
    /// A record belongs to another request.
    #[error("record of request {received}, not of {asked}")]
    WrongId {
        /// The request that was asked.
        asked: u16,
        /// The id in the record.
        received: u16,
    },
    /// A record of a type that has no place in a response.
    #[error("record of type {0} in a response")]
    UnexpectedRecord(u8),
    /// The record that ends the response does not have 8 bytes.
    #[error("FCGI_END_REQUEST of {0} bytes")]
    InvalidEnd(usize),
    /// The response ends with a status that the specification does not know.
    #[error("unknown protocol status {0}")]
    UnknownStatus(u8),
    /// The server did not serve the request.
    #[error("server refused the request: {0:?}")]
    Refused(ProtocolStatus),
}

impl ResponseDecoder {
    /// Makes a decoder for the response to the request with this id.
    pub const fn new(id: u16) -> Self {
        Self {
            id,
            state: State::Header([0; HEADER_SIZE], 0),
            content_left: 0,
            padding_left: 0,
        }
    }

    /// Takes bytes from the front of `chunk`, up to the next event, which it returns. `None` means
    /// that more is needed; `chunk` then is empty. After [`Event::End`] nothing more is taken.
    ///
    /// # Errors
    ///
    /// [`FastCgiError`] if the bytes are no response; the same error on every later call.
    pub fn decode<'a>(&mut self, chunk: &mut &'a [u8]) -> Result<Option<Event<'a>>, FastCgiError> {
        loop {
            match &mut self.state {
                State::Header(bytes, len) => {
                    if self.padding_left > 0 {
                        self.padding_left -= take(chunk, self.padding_left).len();
                    }
                    fill(bytes, len, chunk);
                    if *len < HEADER_SIZE {
                        return Ok(None);
                    }
                    let header = *bytes;
                    self.state = self.begin_record(header).unwrap_or_else(State::Failed);
                }
                State::Stdout | State::Stderr if self.content_left == 0 => {
                    self.state = State::Header([0; HEADER_SIZE], 0);
                }
                State::Stdout | State::Stderr => {
                    let content = take(chunk, self.content_left);
                    if content.is_empty() {
                        return Ok(None);
                    }
                    self.content_left -= content.len();
                    return Ok(Some(if let State::Stdout = self.state {
                        Event::Stdout(content)
                    } else {
                        Event::Stderr(content)
                    }));
                }
                State::End(body, len) => {
                    fill(body, len, chunk);
                    self.padding_left -= take(chunk, self.padding_left).len();
                    if *len < END_SIZE || self.padding_left > 0 {
                        return Ok(None);
                    }
                    let body = *body;
                    match protocol_status(body[4]) {
                        Ok(protocol_status) => {
                            self.state = State::Done;
                            let app_status = [body[0], body[1], body[2], body[3]];
                            return Ok(Some(Event::End {
                                app_status: u32::from_be_bytes(app_status),
                                protocol_status,
                            }));
                        }
                        Err(error) => self.state = State::Failed(error),
                    }
                }
                State::Done => return Ok(None),
                State::Failed(error) => return Err(*error),
            }
        }
    }

    fn begin_record(&mut self, header: [u8; HEADER_SIZE]) -> Result<State, FastCgiError> {
        let [
            version,
            kind,
            id1,
            id0,
            content1,
            content0,
            padding,
            _reserved,
        ] = header;
        if version != VERSION {
            return Err(FastCgiError::WrongVersion(version));
        }
        let received = u16::from_be_bytes([id1, id0]);
        if received != self.id {
            return Err(FastCgiError::WrongId {
                asked: self.id,
                received,
            });
        }
        self.content_left = usize::from(u16::from_be_bytes([content1, content0]));
        self.padding_left = usize::from(padding);
        match kind {
            // The empty records that end the streams need no note: the end of the request follows,
            // and §5.5 lets a server leave them out.
            STDOUT => Ok(State::Stdout),
            STDERR => Ok(State::Stderr),
            END_REQUEST if self.content_left == END_SIZE => Ok(State::End([0; END_SIZE], 0)),
            END_REQUEST => Err(FastCgiError::InvalidEnd(self.content_left)),
            other => Err(FastCgiError::UnexpectedRecord(other)),
        }
    }
}

fn take<'a>(chunk: &mut &'a [u8], max: usize) -> &'a [u8] {
    let (taken, rest) = chunk.split_at(chunk.len().min(max));
    *chunk = rest;
    taken
}

fn fill(bytes: &mut [u8], len: &mut usize, chunk: &mut &[u8]) {
    let taken = take(chunk, bytes.len() - *len);
    bytes[*len..*len + taken.len()].copy_from_slice(taken);
    *len += taken.len();
}

fn protocol_status(byte: u8) -> Result<ProtocolStatus, FastCgiError> {
    match byte {
        0 => Ok(ProtocolStatus::RequestComplete),
        1 => Ok(ProtocolStatus::CannotMultiplex),
        2 => Ok(ProtocolStatus::Overloaded),
        3 => Ok(ProtocolStatus::UnknownRole),
        other => Err(FastCgiError::UnknownStatus(other)),
    }
}

const VERSION: u8 = 1;
const HEADER_SIZE: usize = 8;
const END_SIZE: usize = 8;

/// The most that a record's 16 bits can say, as a multiple of eight. php-fpm counts the padding in.
const MAX_CONTENT_SIZE: usize = 0xfff8;

const BEGIN_REQUEST: u8 = 1;
const END_REQUEST: u8 = 3;
const PARAMS: u8 = 4;
const STDIN: u8 = 5;
const STDOUT: u8 = 6;
const STDERR: u8 = 7;

const RESPONDER: u16 = 1;
const CONTENT_LENGTH: &str = "CONTENT_LENGTH";

/// §3.4: lengths of up to 127 take one byte, others four, of which the highest bit is set.
const MAX_SHORT_LEN: u8 = 127;
const MAX_LONG_LEN: u32 = LONG_LEN - 1;
const LONG_LEN: u32 = 1 << 31;

#[cfg(test)]
mod tests {
    use super::*;

    fn end(id: u16, body: [u8; 8]) -> Vec<u8> {
        [header(END_REQUEST, id, 8, 0), body].concat()
    }

    fn decode(mut bytes: &[u8]) -> Result<Option<Event<'_>>, FastCgiError> {
        ResponseDecoder::new(1).decode(&mut bytes)
    }

    #[test]
    fn pairs_are_encoded_as_in_the_specification() {
        let mut environment = Environment::new();
        environment.set("A", "b").unwrap();
        environment.set("LONG", "v".repeat(128)).unwrap();
        let mut bytes = Vec::new();
        encode_request(&mut bytes, 0x102, true, &environment, b"hi");
        let content = [
            &b"\x0e\x01CONTENT_LENGTH2\x01\x01Ab\x04\x80\0\0\x80LONG"[..],
            &[b'v'; 128],
        ]
        .concat();
        let len = u8::try_from(content.len()).unwrap();
        let expected = [
            &b"\x01\x01\x01\x02\0\x08\0\0\0\x01\x01\0\0\0\0\0"[..],
            &[1, PARAMS, 1, 2, 0, len, 8 - len % 8, 0],
            &content[..],
            &vec![0; usize::from(8 - len % 8)],
            &[1, PARAMS, 1, 2, 0, 0, 0, 0],
            &[1, STDIN, 1, 2, 0, 2, 6, 0],
            b"hi\0\0\0\0\0\0",
            &[1, STDIN, 1, 2, 0, 0, 0, 0],
        ]
        .concat();
        assert_eq!(bytes, expected);
    }

    #[test]
    fn end_tells_both_statuses() {
        for (byte, protocol_status) in [
            (0, ProtocolStatus::RequestComplete),
            (1, ProtocolStatus::CannotMultiplex),
            (2, ProtocolStatus::Overloaded),
            (3, ProtocolStatus::UnknownRole),
        ] {
            let bytes = end(1, [1, 2, 3, 4, byte, 9, 9, 9]);
            let event = Event::End {
                app_status: 0x0102_0304,
                protocol_status,
            };
            assert_eq!(decode(&bytes), Ok(Some(event)));
        }
    }

    #[test]
    fn malformed_records_are_refused() {
        use FastCgiError::*;
        let cases = [
            (
                header(STDOUT, 2, 1, 0),
                WrongId {
                    asked: 1,
                    received: 2,
                },
            ),
            // A management record, which nobody asked for.
            (
                header(10, 0, 8, 0),
                WrongId {
                    asked: 1,
                    received: 0,
                },
            ),
            (header(STDIN, 1, 1, 0), UnexpectedRecord(STDIN)),
            (header(99, 1, 1, 0), UnexpectedRecord(99)),
            (header(END_REQUEST, 1, 7, 0), InvalidEnd(7)),
            (header(END_REQUEST, 1, 9, 0), InvalidEnd(9)),
            (*b"HTTP/1.1", WrongVersion(b'H')),
        ];
        for (bytes, error) in cases {
            assert_eq!(decode(&bytes), Err(error), "{}", bytes.escape_ascii());
        }
        assert_eq!(
            decode(&end(1, [0, 0, 0, 0, 4, 0, 0, 0])),
            Err(UnknownStatus(4))
        );
    }

    #[test]
    fn error_is_repeated_and_bytes_behind_the_end_are_left() {
        let mut decoder = ResponseDecoder::new(1);
        let error = decoder.decode(&mut &b"HTTP/1.1 400"[..]);
        assert_eq!(error, Err(FastCgiError::WrongVersion(b'H')));
        assert_eq!(decoder.decode(&mut &end(1, [0; 8])[..]), error);

        let mut bytes = end(1, [0; 8]);
        bytes.extend_from_slice(b"more");
        let (mut decoder, mut rest) = (ResponseDecoder::new(1), &bytes[..]);
        assert!(decoder.decode(&mut rest).unwrap().is_some());
        assert_eq!(decoder.decode(&mut rest), Ok(None));
        assert_eq!(rest, b"more");
    }
}

//! The client's side of RFC 6455, as strict as it can be about what a server sends.

use std::mem;

use anyhow::{Context as _, Result, bail, ensure};
use flate2::{Decompress, FlushDecompress, Status};

const KEY: &str = "dGhlIHNhbXBsZSBub25jZQ==";
/// What RFC 6455 §1.3 derives from [`KEY`].
const ACCEPT: &str = "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=";
/// Nothing here sends or expects more in one message.
const MAX_MESSAGE_SIZE: usize = 16 << 20;

pub(crate) const TEXT: u8 = 1;
pub(crate) const BINARY: u8 = 2;
pub(crate) const CLOSE: u8 = 8;
pub(crate) const PING: u8 = 9;
pub(crate) const PONG: u8 = 10;

/// A request to upgrade.
pub(crate) fn request_head(host: &str, is_compressed: bool) -> String {
    let extensions = match is_compressed {
        true => "Sec-WebSocket-Extensions: permessage-deflate; server_no_context_takeover\r\n",
        false => "",
    };
    format!(
        "GET / HTTP/1.1\r\nHost: {host}\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
         Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: {KEY}\r\n{extensions}\r\n"
    )
}

/// What a server said to a request to upgrade.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) is_compressed: bool,
    /// Of the answer, so many bytes; frames follow.
    pub(crate) len: usize,
}

/// Reads the head of an answer; `None` if it is not complete.
pub(crate) fn read_answer(bytes: &[u8]) -> Result<Option<Answer>> {
    let Some(end) = bytes.windows(4).position(|it| it == b"\r\n\r\n") else {
        ensure!(bytes.len() < 16 << 10, "a head without an end");
        return Ok(None);
    };
    let head = std::str::from_utf8(&bytes[..end]).context("a head that is not UTF-8")?;
    let status = head
        .strip_prefix("HTTP/1.1 ")
        .and_then(|rest| rest.get(..3)?.parse().ok())
        .with_context(|| format!("not an answer: {head:?}"))?;
    let header = |name: &str| {
        head.lines()
            .filter_map(|line| line.split_once(": "))
            .find(|(it, _)| it.eq_ignore_ascii_case(name))
            .map(|(_, value)| value)
    };
    if status == 101 {
        let accept = header("Sec-WebSocket-Accept");
        ensure!(accept == Some(ACCEPT), "a wrong accept value: {accept:?}");
    }
    let is_compressed = header("Sec-WebSocket-Extensions").is_some();
    Ok(Some(Answer {
        status,
        is_compressed,
        len: end + 4,
    }))
}

/// A frame of a client, masked.
pub(crate) fn frame(opcode: u8, is_final: bool, payload: &[u8], mask: [u8; 4]) -> Vec<u8> {
    let mut frame = vec![u8::from(is_final) << 7 | opcode];
    match payload.len() {
        len @ 0..=125 => frame.push(0x80 | len as u8),
        len @ 126..=0xffff => {
            frame.push(0x80 | 126);
            frame.extend((len as u16).to_be_bytes());
        }
        len => {
            frame.push(0x80 | 127);
            frame.extend((len as u64).to_be_bytes());
        }
    }
    frame.extend(mask);
    frame.extend(payload.iter().zip(mask.iter().cycle()).map(|(a, b)| a ^ b));
    frame
}

/// What came from the server.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Event {
    Message(Vec<u8>),
    Ping(Vec<u8>),
    Pong(Vec<u8>),
    Close(Option<u16>),
}

/// Reads a server's frames and fails on the first byte that no server may send.
#[derive(Debug, Default)]
pub(crate) struct Parser {
    buffer: Vec<u8>,
    /// Of the buffer, so many bytes are read.
    start: usize,
    is_compressed: bool,
    message: Option<Message>,
    is_closed: bool,
}

#[derive(Debug)]
struct Message {
    opcode: u8,
    is_compressed: bool,
    payload: Vec<u8>,
}

impl Parser {
    pub(crate) fn new(is_compressed: bool) -> Self {
        Self {
            is_compressed,
            ..Self::default()
        }
    }

    pub(crate) fn feed(&mut self, bytes: &[u8]) {
        if self.start > 0 && self.start == self.buffer.len() {
            self.buffer.clear();
            self.start = 0;
        }
        self.buffer.extend_from_slice(bytes);
    }

    /// The next event, `None` if more bytes are needed.
    pub(crate) fn next(&mut self) -> Result<Option<Event>> {
        while let Some((first, payload)) = self.frame()? {
            if let Some(event) = self.take(first, payload)? {
                return Ok(Some(event));
            }
        }
        Ok(None)
    }

    /// The first byte and the payload of a frame.
    fn frame(&mut self) -> Result<Option<(u8, Vec<u8>)>> {
        let bytes = &self.buffer[self.start..];
        let [first, second, rest @ ..] = bytes else {
            return Ok(None);
        };
        ensure!(!self.is_closed, "a frame behind the close frame");
        ensure!(second & 0x80 == 0, "a masked frame of a server");
        let (size_len, len) = match second & 0x7f {
            126 => {
                let Some(size) = rest.first_chunk() else {
                    return Ok(None);
                };
                let len = usize::from(u16::from_be_bytes(*size));
                ensure!(len > 125, "a length in more bytes than it needs");
                (2, len)
            }
            127 => {
                let Some(size) = rest.first_chunk() else {
                    return Ok(None);
                };
                let len = u64::from_be_bytes(*size);
                ensure!(len > 0xffff, "a length in more bytes than it needs");
                (8, usize::try_from(len)?)
            }
            len => (0, usize::from(len)),
        };
        ensure!(len <= MAX_MESSAGE_SIZE, "a frame of {len} bytes");
        let head_len = 2 + size_len;
        let Some(payload) = bytes.get(head_len..head_len + len) else {
            return Ok(None);
        };
        let frame = (*first, payload.to_vec());
        self.start += head_len + len;
        if self.start > 1 << 20 {
            self.buffer.drain(..self.start);
            self.start = 0;
        }
        Ok(Some(frame))
    }

    fn take(&mut self, first: u8, payload: Vec<u8>) -> Result<Option<Event>> {
        let (is_final, is_compressed) = (first & 0x80 != 0, first & 0x40 != 0);
        let opcode = first & 0x0f;
        ensure!(first & 0x30 == 0, "a reserved bit");
        ensure!(
            !is_compressed || self.is_compressed && matches!(opcode, TEXT | BINARY),
            "compressed where it may not be"
        );
        if opcode >= CLOSE {
            ensure!(is_final, "a control frame in parts");
            ensure!(payload.len() <= 125, "a control frame that is too long");
        }
        match opcode {
            TEXT | BINARY => {
                ensure!(self.message.is_none(), "a message within a message");
                self.message = Some(Message {
                    opcode,
                    is_compressed,
                    payload,
                });
            }
            0 => {
                let message = self.message.as_mut();
                let message = message.context("a continuation of nothing")?;
                message.payload.extend(payload);
                ensure!(
                    message.payload.len() <= MAX_MESSAGE_SIZE,
                    "an endless message"
                );
            }
            CLOSE => {
                self.is_closed = true;
                let code = payload.first_chunk().copied().map(u16::from_be_bytes);
                ensure!(code.is_some() || payload.is_empty(), "half a close code");
                return Ok(Some(Event::Close(code)));
            }
            PING => return Ok(Some(Event::Ping(payload))),
            PONG => return Ok(Some(Event::Pong(payload))),
            opcode => bail!("a reserved opcode: {opcode}"),
        }
        match self.message.take() {
            Some(message) if is_final => Ok(Some(Event::Message(message.finish()?))),
            message => {
                self.message = message;
                Ok(None)
            }
        }
    }
}

impl Message {
    fn finish(mut self) -> Result<Vec<u8>> {
        if self.is_compressed {
            self.payload = inflate(mem::take(&mut self.payload))?;
        }
        if self.opcode == TEXT {
            ensure!(
                std::str::from_utf8(&self.payload).is_ok(),
                "a text that is not UTF-8"
            );
        }
        Ok(self.payload)
    }
}

/// RFC 7692 §7.2.2, without anything kept from the message before.
fn inflate(mut deflated: Vec<u8>) -> Result<Vec<u8>> {
    deflated.extend([0, 0, 0xff, 0xff]);
    let mut machine = Decompress::new(false);
    let mut inflated = Vec::new();
    loop {
        let done = usize::try_from(machine.total_in())?;
        if done == deflated.len() && inflated.len() < inflated.capacity() {
            return Ok(inflated);
        }
        ensure!(
            inflated.len() <= MAX_MESSAGE_SIZE,
            "it inflates without end"
        );
        inflated.reserve(32 << 10);
        let status =
            machine.decompress_vec(&deflated[done..], &mut inflated, FlushDecompress::Sync)?;
        if status == Status::StreamEnd {
            return Ok(inflated);
        }
    }
}

/// Numbers that look random and are the same each time (splitmix64).
#[derive(Clone, Debug)]
pub(crate) struct Dice(u64);

impl Dice {
    pub(crate) fn new(seed: u64) -> Self {
        Self(seed)
    }

    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ mixed >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ mixed >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ mixed >> 31
    }

    /// From 0 to below `end`.
    pub(crate) fn below(&mut self, end: u64) -> u64 {
        self.next() % end.max(1)
    }

    /// One of the items, of which there must be some.
    pub(crate) fn pick<T: Copy>(&mut self, items: &[T]) -> T {
        items[self.below(items.len() as u64) as usize]
    }

    pub(crate) fn mask(&mut self) -> [u8; 4] {
        let [a, b, c, d, ..] = self.next().to_ne_bytes();
        [a, b, c, d]
    }
}

/// A whole ClientHello of TLS 1.3 (RFC 8446 §4.1.2), as short as a server takes it: it has to make
/// a key and a signature for the answer.
pub(crate) fn client_hello() -> Vec<u8> {
    const KEY: [u8; 32] = [9; 32];
    let extension = |kind: u16, content: &[u8]| [&kind.to_be_bytes(), &*sized(content)].concat();
    let extensions = [
        // supported_versions: TLS 1.3.
        extension(43, &[2, 3, 4]),
        // supported_groups: x25519.
        extension(10, &[0, 2, 0, 29]),
        // signature_algorithms: ECDSA with P-256, RSA-PSS, Ed25519.
        extension(13, &[0, 6, 4, 3, 8, 4, 8, 7]),
        // key_share.
        extension(51, &sized(&[&[0, 29], &*sized(&KEY)].concat())),
    ];
    let body = [
        &[3, 3][..],
        // The random bytes, no session, TLS_AES_128_GCM_SHA256, no compression.
        &[7; 32],
        &[0, 0, 2, 0x13, 1, 1, 0],
        &sized(&extensions.concat()),
    ];
    let message = [&[1, 0], &*sized(&body.concat())].concat();
    [&[22, 3, 1], &*sized(&message)].concat()
}

/// Bytes behind their number, which takes two more.
fn sized(bytes: &[u8]) -> Vec<u8> {
    let size = u16::try_from(bytes.len()).expect("nothing here is long");
    [&size.to_be_bytes(), bytes].concat()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// A frame as servers send them.
    fn unmasked(first: u8, payload: &[u8]) -> Vec<u8> {
        let mut bytes = frame(0, true, payload, [0; 4]);
        let mask_at = bytes.len() - payload.len() - 4;
        bytes.drain(mask_at..mask_at + 4);
        bytes[0] = first;
        bytes[1] &= 0x7f;
        bytes
    }

    fn events(bytes: &[u8]) -> Result<Vec<Event>> {
        let mut parser = Parser::new(true);
        parser.feed(bytes);
        let mut events = Vec::new();
        while let Some(event) = parser.next()? {
            events.push(event);
        }
        Ok(events)
    }

    #[test]
    fn answer_is_read_once_it_is_complete() {
        let bytes = format!("HTTP/1.1 101 Yes\r\nsec-websocket-accept: {ACCEPT}\r\n\r\nrest");
        let end = bytes.len() - 4;
        for cut in 0..end {
            assert_eq!(read_answer(&bytes.as_bytes()[..cut]).unwrap(), None);
        }
        let answer = read_answer(bytes.as_bytes()).unwrap().unwrap();
        assert_eq!((answer.status, answer.len), (101, end));
        assert!(read_answer(b"HTTP/1.1 101 Yes\r\n\r\n").is_err());
        let refusal = read_answer(b"HTTP/1.1 503 No\r\n\r\n").unwrap().unwrap();
        assert_eq!(refusal.status, 503);
    }

    #[test]
    fn what_no_server_may_send_is_an_error() {
        let mut masked = unmasked(0x81, b"a");
        masked[1] |= 0x80;
        let faults = [
            masked,
            unmasked(0x91, b"a"),
            unmasked(0x83, b"a"),
            unmasked(0x80, b"a"),
            unmasked(0x09, b"a"),
            unmasked(0x89, &[0; 126]),
            unmasked(0xc9, b"a"),
            unmasked(0x81, b"\xff"),
            unmasked(0x88, b"a"),
            vec![0x81, 126, 0, 1, b'a'],
            vec![0x81, 127, 0, 0, 0, 0, 0, 0, 0, 1, b'a'],
            [unmasked(0x01, b"a"), unmasked(0x81, b"b")].concat(),
            [unmasked(0x88, b""), unmasked(0x81, b"b")].concat(),
        ];
        for fault in faults {
            assert!(events(&fault).is_err(), "{fault:?}");
        }
    }

    #[test]
    fn compressed_message_is_inflated() {
        // RFC 7692 §7.2.3.1.
        let hello = [0xf2, 0x48, 0xcd, 0xc9, 0xc9, 0x07, 0x00];
        let found = events(&unmasked(0xc1, &hello)).unwrap();
        assert_eq!(found, [Event::Message(b"Hello".to_vec())]);
    }

    proptest! {
        #[test]
        fn prop_cuts_change_nothing(
            sizes in prop::collection::vec(0usize..70_000, 1..5),
            cut in 1usize..5000,
        ) {
            let expected: Vec<Vec<u8>> = sizes.iter().map(|size| vec![b'x'; *size]).collect();
            let bytes: Vec<u8> = expected.iter().flat_map(|it| unmasked(0x81, it)).collect();
            let mut parser = Parser::default();
            let mut found = Vec::new();
            for part in bytes.chunks(cut) {
                parser.feed(part);
                while let Some(event) = parser.next().unwrap() {
                    found.push(event);
                }
            }
            let expected: Vec<Event> = expected.into_iter().map(Event::Message).collect();
            prop_assert_eq!(found, expected);
        }
    }
}

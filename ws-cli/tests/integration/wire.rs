//! The wire by hand: heads and frames as no client library sends them, and a strict reader.

use std::io::{BufReader, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::path::{Path, PathBuf};
use std::thread::JoinHandle;

use crate::support::*;

/// The key of RFC 6455 §1.3, and what a server must make of it.
pub(crate) const KEY: &str = "dGhlIHNhbXBsZSBub25jZQ==";
const ACCEPT: &str = "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=";

/// What a request carries that no answer may repeat.
pub(crate) const MARK: &str = "xMARKx";

/// The head of a valid opening handshake, with further header lines.
pub(crate) fn head(target: &str, lines: &[&str]) -> String {
    request(
        &format!("GET {target} HTTP/1.1"),
        &[
            &[
                "Host: localhost",
                "Upgrade: websocket",
                "Connection: Upgrade",
                &format!("Sec-WebSocket-Key: {KEY}"),
                "Sec-WebSocket-Version: 13",
            ],
            lines,
        ]
        .concat(),
    )
}

/// A valid opening handshake but for one header: without it, or with other lines in its place.
pub(crate) fn head_but(name: &str, lines: &[&str]) -> String {
    let valid = head("/", &[]);
    let mut kept: Vec<&str> = valid.trim_end().split("\r\n").collect();
    kept.retain(|line| !line.starts_with(&format!("{name}: ")));
    request(kept[0], &[&kept[1..], lines].concat())
}

/// A request head of these lines.
pub(crate) fn request(first_line: &str, lines: &[&str]) -> String {
    let lines: String = lines.iter().map(|line| format!("{line}\r\n")).collect();
    format!("{first_line}\r\n{lines}\r\n")
}

/// One whole HTTP response.
#[derive(Debug)]
pub(crate) struct Response {
    pub(crate) status: u16,
    headers: Vec<(String, String)>,
    pub(crate) body: String,
}

impl Response {
    /// Parses all that a server said before it closed.
    pub(crate) fn parse(bytes: &[u8]) -> Self {
        let text = std::str::from_utf8(bytes).unwrap();
        let (head, body) = text
            .split_once("\r\n\r\n")
            .unwrap_or_else(|| panic!("no response: {text:?}"));
        let mut lines = head.split("\r\n");
        let status = lines.next().unwrap();
        assert!(status.starts_with("HTTP/1.1 "), "{text}");
        let headers = lines
            .map(|line| line.split_once(": ").unwrap())
            .map(|(name, value)| (name.to_owned(), value.to_owned()))
            .collect();
        Self {
            status: status[9..12].parse().unwrap(),
            headers,
            body: body.to_owned(),
        }
    }

    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        let mut found = self
            .headers
            .iter()
            .filter(|(other, _)| other.eq_ignore_ascii_case(name));
        let value = found.next().map(|(_, value)| value.as_str());
        assert!(found.next().is_none(), "{name} twice: {self:?}");
        value
    }
}

/// A server whose validation takes a minute, and the file that is there once it runs.
pub(crate) fn slow_validation() -> (Server, PathBuf) {
    let setup = Setup::new();
    let started = setup.dir().join("started");
    let server = setup
        .arg("--echo")
        .validate("echo > started; sleep 60")
        .start();
    (server, started)
}

/// A visitor who is being validated.
pub(crate) fn validated(server: &Server, started: &Path) -> TcpStream {
    let mut stream = server.raw_stream();
    stream.write_all(head("/", &[]).as_bytes()).unwrap();
    eventually("the validation runs", || started.exists());
    stream
}

/// Sends bytes and reads all that comes until the server closes in good order.
pub(crate) fn exchange(server: &Server, bytes: impl AsRef<[u8]>) -> Vec<u8> {
    let mut stream = server.raw_stream();
    stream.write_all(bytes.as_ref()).unwrap();
    let mut answer = Vec::new();
    stream
        .read_to_end(&mut answer)
        .expect("the server ends with FIN");
    answer
}

/// Sends a request that is refused, and checks what must hold for every refusal: one response,
/// short, that closes the connection and repeats nothing of the request.
pub(crate) fn refusal(server: &Server, bytes: impl AsRef<[u8]>) -> Response {
    check_refusal(&exchange(server, bytes))
}

/// Checks what must hold for every refusal.
pub(crate) fn check_refusal(answer: &[u8]) -> Response {
    let text = String::from_utf8_lossy(answer);
    let responses = text.lines().filter(|line| line.starts_with("HTTP/"));
    assert_eq!(responses.count(), 1, "one response: {text}");
    assert!(!text.contains(MARK), "reflected: {text}");
    let response = Response::parse(answer);
    assert!(response.status >= 400, "{text}");
    let connection = response.header("Connection").unwrap_or_default();
    assert!(
        connection.split(", ").any(|option| option == "close"),
        "{text}"
    );
    let length = response.body.len();
    assert_eq!(
        response.header("Content-Length"),
        Some(&*length.to_string()),
        "{text}"
    );
    assert!(length <= 512, "{text}");
    response
}

/// A frame from the server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Frame {
    pub(crate) opcode: u8,
    pub(crate) payload: Vec<u8>,
}

impl Frame {
    pub(crate) fn text(text: &str) -> Self {
        Self {
            opcode: 1,
            payload: text.into(),
        }
    }

    pub(crate) fn pong(payload: &str) -> Self {
        Self {
            opcode: 0xA,
            payload: payload.into(),
        }
    }
}

/// A frame from the client: the first byte as it is (FIN, reserved bits, opcode), then a length in
/// its shortest form, a mask and the masked payload.
pub(crate) fn frame(first: u8, payload: impl AsRef<[u8]>) -> Vec<u8> {
    let payload = payload.as_ref();
    let mut bytes = frame_header(first, payload.len() as u64);
    let masked = payload
        .iter()
        .zip(MASK.iter().cycle())
        .map(|(byte, key)| byte ^ key);
    bytes.extend(masked);
    bytes
}

/// Header and mask of a frame from the client, its length in the shortest form.
pub(crate) fn frame_header(first: u8, length: u64) -> Vec<u8> {
    let mut bytes = vec![first];
    match length {
        0..126 => bytes.push(0x80 | length as u8),
        126..0x1_0000 => {
            bytes.push(0xFE);
            bytes.extend((length as u16).to_be_bytes());
        }
        _ => {
            bytes.push(0xFF);
            bytes.extend(length.to_be_bytes());
        }
    }
    bytes.extend(MASK);
    bytes
}

const MASK: [u8; 4] = [0x37, 0xFA, 0x21, 0x3D];

/// A close frame from the client.
pub(crate) fn close_frame(code: u16, reason: &str) -> Vec<u8> {
    frame(0x88, [&code.to_be_bytes()[..], reason.as_bytes()].concat())
}

/// A WebSocket of which the test writes every byte.
#[derive(Debug)]
pub(crate) struct Wire {
    stream: TcpStream,
    reader: BufReader<TcpStream>,
    is_closed: bool,
}

impl Wire {
    pub(crate) fn open(server: &Server) -> Self {
        Self::over(server.raw_stream(), &[]).0
    }

    /// Makes the opening handshake on a stream.
    pub(crate) fn over(mut stream: TcpStream, lines: &[&str]) -> (Self, Response) {
        stream.set_nodelay(true).unwrap();
        stream.write_all(head("/", lines).as_bytes()).unwrap();
        let reader = BufReader::with_capacity(64 * 1024, stream.try_clone().unwrap());
        let mut wire = Self {
            stream,
            reader,
            is_closed: false,
        };
        let response = wire.response();
        assert_eq!(response.status, 101, "{response:?}");
        assert_eq!(response.header("Sec-WebSocket-Accept"), Some(ACCEPT));
        (wire, response)
    }

    fn response(&mut self) -> Response {
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            let mut byte = [0];
            self.reader.read_exact(&mut byte).unwrap_or_else(|error| {
                panic!("{error} after {:?}", String::from_utf8_lossy(&head))
            });
            head.push(byte[0]);
        }
        Response::parse(&head)
    }

    pub(crate) fn stream(&self) -> &TcpStream {
        &self.stream
    }

    pub(crate) fn send(&mut self, bytes: impl AsRef<[u8]>) {
        self.stream.write_all(bytes.as_ref()).unwrap();
    }

    /// Sends a text message.
    pub(crate) fn say(&mut self, text: &str) {
        self.send(frame(0x81, text));
    }

    /// Ends our direction.
    pub(crate) fn shut_down(&self) {
        self.stream.shutdown(Shutdown::Write).unwrap();
    }

    /// The next frame, checked against all that a server must keep to (INV-06); `None` at the end
    /// of the stream, which falls between frames.
    pub(crate) fn frame(&mut self) -> Option<Frame> {
        let mut header = [0; 2];
        let read = self.reader.read(&mut header[..1]).expect("no reset");
        if read == 0 {
            return None;
        }
        assert!(
            !self.is_closed,
            "RFC 6455 §5.5.1: bytes behind a close frame"
        );
        self.read_exact(&mut header[1..]);
        let opcode = header[0] & 0x0F;
        assert_eq!(header[0] & 0xF0, 0x80, "one frame a message: {header:x?}");
        assert!(
            [1, 2, 8, 9, 10].contains(&opcode),
            "opcode {opcode} from a server"
        );
        assert_eq!(header[1] & 0x80, 0, "RFC 6455 §5.1: a server masks nothing");
        let length = match header[1] {
            126 => {
                let mut length = [0; 2];
                self.read_exact(&mut length);
                u64::from(u16::from_be_bytes(length))
            }
            127 => {
                let mut length = [0; 8];
                self.read_exact(&mut length);
                u64::from_be_bytes(length)
            }
            length => u64::from(length),
        };
        let shortest = match length {
            0..126 => length < 126 && header[1] < 126,
            126..0x1_0000 => header[1] == 126,
            _ => header[1] == 127,
        };
        assert!(shortest, "length {length} as {}", header[1]);
        assert!(opcode < 8 || length <= 125, "control frame of {length}");
        let mut payload = vec![0; usize::try_from(length).unwrap()];
        self.read_exact(&mut payload);
        if opcode == 1 {
            assert!(std::str::from_utf8(&payload).is_ok(), "text is UTF-8");
        }
        self.is_closed = opcode == 8;
        Some(Frame { opcode, payload })
    }

    fn read_exact(&mut self, buffer: &mut [u8]) {
        self.reader
            .read_exact(buffer)
            .expect("INV-06: a frame is whole");
    }

    /// The next frame, which is text.
    pub(crate) fn hear(&mut self) -> String {
        let frame = self.frame().expect("the stream ended");
        assert_eq!(frame.opcode, 1, "{frame:?}");
        String::from_utf8(frame.payload).unwrap()
    }

    /// Pings and waits for the pong: what was sent before has been processed.
    pub(crate) fn ping(&mut self) {
        self.send(frame(0x89, "?"));
        assert_eq!(self.frame(), Some(Frame::pong("?")));
    }

    /// The next frame, which is the server's close; returns its code (1005 if it has none).
    pub(crate) fn close_code(&mut self) -> u16 {
        let frame = self
            .frame()
            .expect("the stream ended without a close frame");
        assert_eq!(frame.opcode, 8, "{frame:?}");
        match frame.payload.split_first_chunk() {
            Some((code, reason)) => {
                assert!(std::str::from_utf8(reason).is_ok());
                u16::from_be_bytes(*code)
            }
            None => 1005,
        }
    }

    /// Expects the server's close frame with this code, and then the end of its stream.
    pub(crate) fn ends_with(mut self, code: u16) {
        assert_eq!(self.close_code(), code);
        // RFC 6455 §7.1.1: the server closes first.
        assert_eq!(self.frame(), None);
    }

    /// Closes in good order.
    pub(crate) fn bye(mut self) {
        self.send(close_frame(1000, ""));
        self.ends_with(1000);
    }
}

/// Sends messages without a pause, and reads whatever comes, until the connection is lost.
pub(crate) fn flood(wire: Wire) -> JoinHandle<()> {
    let mut reading = wire.stream().try_clone().unwrap();
    std::thread::spawn(move || {
        let reader = std::thread::spawn(move || {
            let _ = std::io::copy(&mut reading, &mut std::io::sink());
        });
        let mut stream = wire.stream();
        let messages = frame(0x81, "flood").repeat(1000);
        while stream.write_all(&messages).is_ok() {}
        reader.join().unwrap();
    })
}

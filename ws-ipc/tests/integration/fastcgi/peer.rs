//! The application's half of FastCGI, written for these tests alone: whole requests read, records
//! made byte by byte.

use std::path::PathBuf;

use tempfile::TempDir;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{UnixListener, UnixStream};
use ws_ipc::Address;

pub(super) const STDOUT: u8 = 6;
pub(super) const STDERR: u8 = 7;

/// A request as a server reads it.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Received {
    pub(super) id: u16,
    pub(super) keep: bool,
    pub(super) params: Vec<(Vec<u8>, Vec<u8>)>,
    pub(super) stdin: Vec<u8>,
}

impl Received {
    pub(super) fn param(&self, name: &str) -> Option<&[u8]> {
        let mut pairs = self.params.iter();
        let pair = pairs.find(|(known, _)| known == name.as_bytes())?;
        Some(&pair.1)
    }
}

/// What a record is: its type, the id of its request, its content.
pub(super) type Record = (u8, u16, Vec<u8>);

pub(super) async fn read_record(stream: &mut (impl AsyncRead + Unpin)) -> Record {
    let mut header = [0; 8];
    stream.read_exact(&mut header).await.unwrap();
    let [version, kind, id1, id0, len1, len0, padding, _] = header;
    assert_eq!(version, 1);
    let len = usize::from(u16::from_be_bytes([len1, len0]));
    let mut content = vec![0; len + usize::from(padding)];
    stream.read_exact(&mut content).await.unwrap();
    content.truncate(len);
    (kind, u16::from_be_bytes([id1, id0]), content)
}

/// Reads a request up to its last record, or, as php-fpm does, up to the end of the payload; the
/// record that ends the stream is then left for later.
pub(super) async fn read_request(
    stream: &mut (impl AsyncRead + Unpin),
    like_php: bool,
) -> Received {
    let (mut kind, mut id, mut content) = read_record(stream).await;
    // What is left of the request before.
    if (kind, content.len()) == (5, 0) {
        (kind, id, content) = read_record(stream).await;
    }
    assert_eq!(
        (kind, &content[..2]),
        (1, &[0, 1][..]),
        "a responder is asked"
    );
    let keep = content[2] & 1 == 1;
    let mut params = Vec::new();
    loop {
        let (kind, of, content) = read_record(stream).await;
        assert_eq!((kind, of), (4, id));
        if content.is_empty() {
            break;
        }
        // Each record by itself, which php-fpm relies on.
        params.extend(pairs(&content));
    }
    let mut received = Received {
        id,
        keep,
        params,
        stdin: Vec::new(),
    };
    let length = received.param("CONTENT_LENGTH").unwrap();
    let length: usize = str::from_utf8(length).unwrap().parse().unwrap();
    while !like_php || received.stdin.len() < length {
        let (kind, of, content) = read_record(stream).await;
        assert_eq!((kind, of), (5, id));
        if content.is_empty() {
            break;
        }
        received.stdin.extend(content);
    }
    received
}

fn pairs(mut content: &[u8]) -> Vec<(Vec<u8>, Vec<u8>)> {
    let mut pairs = Vec::new();
    while !content.is_empty() {
        let name = length(&mut content);
        let value = length(&mut content);
        let (pair, rest) = content.split_at(name + value);
        pairs.push((pair[..name].to_vec(), pair[name..].to_vec()));
        content = rest;
    }
    pairs
}

fn length(content: &mut &[u8]) -> usize {
    let (len, size) = match content[0] {
        short @ 0..128 => (usize::from(short), 1),
        _ => {
            let long = u32::from_be_bytes(content[..4].try_into().unwrap());
            (usize::try_from(long & 0x7fff_ffff).unwrap(), 4)
        }
    };
    *content = &content[size..];
    len
}

pub(super) fn record(kind: u8, id: u16, content: &[u8], padding: u8) -> Vec<u8> {
    let [id1, id0] = id.to_be_bytes();
    let [len1, len0] = u16::try_from(content.len()).unwrap().to_be_bytes();
    let mut bytes = vec![1, kind, id1, id0, len1, len0, padding, 0];
    bytes.extend_from_slice(content);
    bytes.resize(bytes.len() + usize::from(padding), b'#');
    bytes
}

pub(super) fn end(id: u16, app_status: u32, protocol_status: u8) -> Vec<u8> {
    let mut body = app_status.to_be_bytes().to_vec();
    body.extend([protocol_status, 0, 0, 0]);
    record(3, id, &body, 0)
}

/// An answer as php-fpm writes it: the body is `text`.
pub(super) fn answer(id: u16, text: &str) -> Vec<u8> {
    let answer = format!("Content-type: text/plain\r\n\r\n{text}");
    [record(STDOUT, id, answer.as_bytes(), 3), end(id, 0, 0)].concat()
}

/// A server that does what the test says.
pub(super) struct Peer {
    listener: UnixListener,
    dir: TempDir,
}

impl Peer {
    pub(super) fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let listener = UnixListener::bind(dir.path().join("peer.sock")).unwrap();
        Self { listener, dir }
    }

    pub(super) fn address(&self) -> Address {
        Address::unix(self.path())
    }

    pub(super) fn path(&self) -> PathBuf {
        self.dir.path().join("peer.sock")
    }

    pub(super) async fn accept(&self) -> Conversation<UnixStream> {
        Conversation::new(self.listener.accept().await.unwrap().0)
    }

    /// Whether somebody has connected who is not accepted yet.
    pub(super) async fn has_waiting(&self) -> bool {
        let limit = std::time::Duration::from_millis(20);
        tokio::time::timeout(limit, self.listener.accept())
            .await
            .is_ok()
    }
}

/// A server's side of one connection.
pub(super) struct Conversation<S> {
    pub(super) stream: S,
}

impl<S: AsyncRead + AsyncWrite + Unpin> Conversation<S> {
    pub(super) fn new(stream: S) -> Self {
        Self { stream }
    }

    pub(super) async fn request(&mut self) -> Received {
        read_request(&mut self.stream, true).await
    }

    pub(super) async fn send(&mut self, bytes: &[u8]) {
        self.stream.write_all(bytes).await.unwrap();
    }

    /// Reads a request and answers it; returns it.
    pub(super) async fn serve(&mut self, text: &str) -> Received {
        let request = self.request().await;
        self.send(&answer(request.id, text)).await;
        request
    }

    /// Waits until the client has closed the connection.
    pub(super) async fn closed(&mut self) {
        let mut rest = Vec::new();
        // An error if it left something unread.
        let _ = self.stream.read_to_end(&mut rest).await;
    }
}

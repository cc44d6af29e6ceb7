//! A connection with its output, in simulated time.

use std::sync::Arc;
use std::time::{Duration, Instant};

use ws_proto::frame::Header;
use ws_proto::testing::{OwnedEvent, TestFrame, receive_all};
use ws_proto::{
    CloseCode, CloseFrame, Config, Connection, DeflateParams, Opcode, ProtocolError, Role, State,
    mask,
};

pub(crate) const SEED: [u8; 32] = [7; 32];

/// An origin for simulated time: everything after it is arithmetic.
#[expect(
    clippy::disallowed_methods,
    reason = "std has no other way to make an Instant"
)]
pub(crate) fn origin() -> Instant {
    Instant::now()
}

pub(crate) fn seconds(count: u64) -> Duration {
    Duration::from_secs(count)
}

/// One end of a connection under test.
pub(crate) struct End {
    pub(crate) connection: Connection,
    pub(crate) now: Instant,
    pub(crate) out: Vec<u8>,
}

impl End {
    pub(crate) fn server() -> Self {
        Self::server_with(Config::default())
    }

    pub(crate) fn server_with(config: Config) -> Self {
        let now = origin();
        Self {
            connection: Connection::server(Arc::new(config), now),
            now,
            out: Vec::new(),
        }
    }

    pub(crate) fn client() -> Self {
        Self::client_with(Config::default())
    }

    /// Lets the connection compress as was agreed upon.
    pub(crate) fn with_deflate(mut self, params: DeflateParams) -> Self {
        self.connection = self.connection.with_deflate(params);
        self
    }

    pub(crate) fn client_with(config: Config) -> Self {
        let now = origin();
        Self {
            connection: Connection::client(Arc::new(config), SEED, now),
            now,
            out: Vec::new(),
        }
    }

    /// One of each role, for rules that bind both.
    pub(crate) fn both() -> [Self; 2] {
        [Self::server(), Self::client()]
    }

    /// A frame as the other role sends it.
    pub(crate) fn peer_frame(&self, opcode: Opcode, payload: impl Into<Vec<u8>>) -> TestFrame {
        match self.connection.role() {
            Role::Server => TestFrame::client(opcode, payload),
            Role::Client => TestFrame::server(opcode, payload),
        }
    }

    pub(crate) fn receive(&mut self, bytes: &[u8]) -> Vec<OwnedEvent> {
        receive_all(&mut self.connection, bytes, self.now, &mut self.out)
    }

    pub(crate) fn receive_frame(&mut self, frame: TestFrame) -> Vec<OwnedEvent> {
        self.receive(&frame.to_bytes())
    }

    /// Lets time pass, doing what is due on the way.
    pub(crate) fn pass(&mut self, time: Duration) -> Vec<OwnedEvent> {
        let end = self.now + time;
        let mut events = Vec::new();
        while let Some(at) = self.connection.poll_timeout().filter(|&at| at <= end) {
            self.now = self.now.max(at);
            events.extend(
                self.connection
                    .handle_timeout(self.now)
                    .map(OwnedEvent::from),
            );
            self.connection.poll_transmit(&mut self.out);
        }
        self.now = end;
        events
    }

    pub(crate) fn close(&mut self, code: CloseCode) {
        self.connection
            .close(Some(CloseFrame::new(code, "")), self.now);
        self.connection.poll_transmit(&mut self.out);
    }

    /// Returns what was sent since the last call.
    pub(crate) fn sent(&mut self) -> Vec<u8> {
        std::mem::take(&mut self.out)
    }
}

/// A fresh server must fail upon `bytes` with `error`, say so with `code`, and be closed.
#[track_caller]
pub(crate) fn server_fails(bytes: &[u8], error: &ProtocolError, code: u16) {
    fails(End::server(), bytes, error, code);
}

/// The same of a fresh client.
#[track_caller]
pub(crate) fn client_fails(bytes: &[u8], error: &ProtocolError, code: u16) {
    fails(End::client(), bytes, error, code);
}

#[track_caller]
pub(crate) fn fails(mut end: End, bytes: &[u8], error: &ProtocolError, code: u16) {
    let events = end.receive(bytes);
    assert_eq!(events.last(), Some(&OwnedEvent::Failed(error.clone())));
    assert_eq!(sent_close_code(&end.sent()), Some(code));
    assert_eq!(end.connection.state(), State::Closed);
    let ping = end.peer_frame(Opcode::Ping, "");
    assert_eq!(end.receive_frame(ping), []);
    assert_eq!(end.sent(), b"");
}

/// The code of a close frame of either role, if `sent` is exactly that.
pub(crate) fn sent_close_code(sent: &[u8]) -> Option<u16> {
    match &sent_frames(sent)[..] {
        [(header, payload)] if header.opcode == Opcode::Close => {
            Some(u16::from_be_bytes(*payload.first_chunk()?))
        }
        _ => None,
    }
}

/// Takes what an endpoint of either role sent to pieces: headers, and payloads without their masks.
pub(crate) fn sent_frames(mut sent: &[u8]) -> Vec<(Header, Vec<u8>)> {
    let mut frames = Vec::new();
    while let [_, second, ..] = sent {
        let sender = if second & 0x80 == 0 {
            Role::Server
        } else {
            Role::Client
        };
        let (header, size) = Header::decode(sent, sender, 0x40)
            .expect("what is sent keeps the rules")
            .expect("what is sent is whole");
        let len = usize::try_from(header.payload_len).expect("it is in memory");
        let mut payload = sent[size..][..len].to_vec();
        if let Some(key) = header.mask {
            mask(&mut payload, key);
        }
        frames.push((header, payload));
        sent = &sent[size + len..];
    }
    assert_eq!(sent, b"", "nothing but whole frames is sent");
    frames
}

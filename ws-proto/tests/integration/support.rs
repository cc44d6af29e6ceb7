//! A connection with its output, in simulated time.

use std::sync::Arc;
use std::time::{Duration, Instant};

use ws_proto::testing::{OwnedEvent, TestFrame, receive_all};
use ws_proto::{CloseCode, CloseFrame, Config, Connection, DeflateParams, ProtocolError, State};

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

#[track_caller]
pub(crate) fn fails(mut end: End, bytes: &[u8], error: &ProtocolError, code: u16) {
    let events = end.receive(bytes);
    assert_eq!(events.last(), Some(&OwnedEvent::Failed(error.clone())));
    assert_eq!(sent_close_code(&end.sent()), Some(code));
    assert_eq!(end.connection.state(), State::Closed);
    assert_eq!(
        end.receive(&TestFrame::client(ws_proto::Opcode::Ping, "").to_bytes()),
        []
    );
    assert_eq!(end.sent(), b"");
}

/// The code of a server's close frame, if `sent` is exactly that.
pub(crate) fn sent_close_code(sent: &[u8]) -> Option<u16> {
    match sent {
        [0x88, len, high, low, ..] if usize::from(*len) + 2 == sent.len() => {
            Some(u16::from_be_bytes([*high, *low]))
        }
        _ => None,
    }
}

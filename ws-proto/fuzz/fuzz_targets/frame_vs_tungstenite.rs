//! tungstenite as an independent witness: the same messages, accepted or refused alike.
//!
//! Known differences are not compared: what follows a close frame, non-minimal lengths (tungstenite
//! takes them) and errors that ours finds in a frame still arriving.

#![no_main]

use std::io::{Cursor, Read, Write};
use std::sync::Arc;
use std::time::Instant;

use libfuzzer_sys::fuzz_target;
use tungstenite::protocol::{Role, WebSocketConfig};
use tungstenite::{Message, WebSocket};
use ws_proto::testing::{OwnedEvent, receive_all};
use ws_proto::{Config, Connection, MessageKind, ProtocolError};

struct Wire(Cursor<Vec<u8>>);

impl Read for Wire {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        self.0.read(buffer)
    }
}

impl Write for Wire {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

/// What tungstenite reads before an error, a close frame or the end; and whether it was an error.
fn witness(wire: &[u8]) -> (Vec<OwnedEvent>, bool) {
    let config = WebSocketConfig::default()
        .max_message_size(Some(1 << 20))
        .max_frame_size(Some(1 << 20));
    let wire = Wire(Cursor::new(wire.to_vec()));
    let mut socket = WebSocket::from_raw_socket(wire, Role::Server, Some(config));
    let mut events = Vec::new();
    loop {
        events.push(match socket.read() {
            Ok(Message::Text(text)) => {
                OwnedEvent::Message(MessageKind::Text, text.as_bytes().to_vec())
            }
            Ok(Message::Binary(payload)) => {
                OwnedEvent::Message(MessageKind::Binary, payload.to_vec())
            }
            Ok(Message::Ping(payload)) => OwnedEvent::Ping(payload.to_vec()),
            Ok(Message::Pong(payload)) => OwnedEvent::Pong(payload.to_vec()),
            Ok(Message::Close(_) | Message::Frame(_)) => return (events, false),
            Err(tungstenite::Error::Protocol(
                tungstenite::error::ProtocolError::ResetWithoutClosingHandshake,
            )) => return (events, false),
            Err(_) => return (events, true),
        });
    }
}

fuzz_target!(|wire: &[u8]| {
    let config = Config::default()
        .with_control_burst(u32::MAX)
        .with_control_rate(1_000_000);
    let now = Instant::now();
    let mut server = Connection::server(Arc::new(config), now);
    let mut ours = receive_all(&mut server, wire, now, &mut Vec::new());
    let (theirs, they_failed) = witness(wire);
    let last = ours.pop_if(|event| matches!(event, OwnedEvent::Failed(_) | OwnedEvent::Close(_)));
    // Whatever we accept, they accept: each of our events is theirs as well.
    assert_eq!(ours[..], theirs[..ours.len().min(theirs.len())]);
    match last {
        // Of a control frame, the long form of a length alone is too long for ours.
        Some(OwnedEvent::Failed(
            ProtocolError::NonMinimalLength | ProtocolError::ControlFrameTooLong,
        )) => {}
        Some(OwnedEvent::Failed(_) | OwnedEvent::Close(_)) => {
            assert_eq!(ours.len(), theirs.len());
        }
        _ => {
            assert_eq!(ours.len(), theirs.len());
            assert!(!they_failed, "they refuse what we accept");
        }
    }
});

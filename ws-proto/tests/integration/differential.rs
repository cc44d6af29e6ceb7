//! tungstenite as an independent witness.

use std::io::{Cursor, Read, Write};

use proptest::prelude::*;
use tungstenite::protocol::WebSocketConfig;
use tungstenite::{Message, WebSocket, protocol};
use ws_proto::testing::{OwnedEvent, TestFrame, encode_all, fragmented, message, wild_frame};
use ws_proto::{MessageKind, Opcode};

use crate::support::End;

/// A stream that has all its input and forgets its output.
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

/// What tungstenite makes of `wire`: events until the end or an error, and whether there was one.
fn witness(wire: Vec<u8>, role: protocol::Role) -> (Vec<OwnedEvent>, bool) {
    let config = WebSocketConfig::default().max_message_size(Some(1 << 20));
    let mut socket = WebSocket::from_raw_socket(Wire(Cursor::new(wire)), role, Some(config));
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
            Ok(Message::Close(_)) => return (events, false),
            Ok(Message::Frame(_)) => unreachable!("reading yields no raw frames"),
            Err(tungstenite::Error::Protocol(
                tungstenite::error::ProtocolError::ResetWithoutClosingHandshake,
            )) => return (events, false),
            Err(_) => return (events, true),
        });
    }
}

/// The same of ours; a close frame ends it, as there.
fn ours(wire: &[u8], mut end: End) -> (Vec<OwnedEvent>, bool) {
    let mut events = end.receive(wire);
    match events.last() {
        Some(OwnedEvent::Failed(_)) => {
            events.pop();
            (events, true)
        }
        Some(OwnedEvent::Close(_)) => {
            events.pop();
            (events, false)
        }
        _ => (events, false),
    }
}

/// Where the two differ on purpose: tungstenite answers a forbidden close code instead of failing.
fn is_close(frame: &TestFrame) -> bool {
    frame.opcode == Opcode::Close
}

proptest! {
    #[test]
    fn prop_fragmented_messages_agree_with_tungstenite(frames in fragmented()) {
        let wire = encode_all(&frames);
        prop_assert_eq!(ours(&wire, End::server()), witness(wire, protocol::Role::Server));
    }

    #[test]
    fn prop_wild_frames_agree_with_tungstenite(
        frames in prop::collection::vec(wild_frame(), 1..10),
    ) {
        let frames: Vec<_> = frames.into_iter().filter(|frame| !is_close(frame)).collect();
        // A text that is broken in a frame still to come is seen by ours at once.
        let mut wire = encode_all(&frames);
        wire.extend(TestFrame::client(Opcode::Close, "").to_bytes());
        prop_assert_eq!(ours(&wire, End::server()), witness(wire, protocol::Role::Server));
    }

    #[test]
    fn prop_tungstenite_reads_what_we_send(
        messages in prop::collection::vec(message(), 1..5), as_client: bool,
    ) {
        let (mut end, role) = if as_client {
            (End::client(), protocol::Role::Server)
        } else {
            (End::server(), protocol::Role::Client)
        };
        let mut wire = Vec::new();
        for (kind, payload) in &messages {
            end.connection.send(*kind, payload, &mut wire).unwrap();
        }
        let expected: Vec<_> = messages
            .into_iter()
            .map(|(kind, payload)| OwnedEvent::Message(kind, payload))
            .collect();
        prop_assert_eq!(witness(wire, role), (expected, false));
    }
}

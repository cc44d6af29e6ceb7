//! tungstenite as an independent witness: what it makes of a wire, and where ours may differ.
//!
//! The fuzz target `frame_vs_tungstenite` includes this file too.

use std::io::{Cursor, Read, Write};

use tungstenite::protocol::WebSocketConfig;
use tungstenite::{Error, Message, WebSocket, protocol};
use ws_proto::testing::OwnedEvent;
use ws_proto::{MessageKind, ProtocolError};

/// How a wire ended: after these events.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Ending {
    /// There may be more to come.
    Open,
    /// With the peer's close frame and its code.
    Close(Option<u16>),
    /// Refused with this close code.
    Failed(u16),
}

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

/// What tungstenite makes of `wire`, with messages of up to 1 MiB.
pub(crate) fn witness(wire: Vec<u8>, role: protocol::Role) -> (Vec<OwnedEvent>, Ending) {
    let config = WebSocketConfig::default()
        .max_message_size(Some(1 << 20))
        .max_frame_size(Some(1 << 20));
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
            Ok(Message::Close(frame)) => {
                let code = frame.map(|frame| frame.code.into());
                return (events, Ending::Close(code));
            }
            Ok(Message::Frame(_)) => unreachable!("reading yields no raw frames"),
            Err(Error::Protocol(
                tungstenite::error::ProtocolError::ResetWithoutClosingHandshake,
            )) => return (events, Ending::Open),
            Err(error) => return (events, Ending::Failed(code_of(&error))),
        });
    }
}

/// The close code of RFC 6455 §7.4.1 for what tungstenite reports.
fn code_of(error: &Error) -> u16 {
    match error {
        Error::Protocol(_) => 1002,
        Error::Utf8(_) => 1007,
        Error::Capacity(_) => 1009,
        other => panic!("no error of a wire: {other}"),
    }
}

/// Checks that our events and our ending are those of the witness, but for what is known to differ.
#[track_caller]
pub(crate) fn assert_agrees(
    mut ours: Vec<OwnedEvent>,
    (events, ending): (Vec<OwnedEvent>, Ending),
) {
    let last = ours.pop_if(|event| matches!(event, OwnedEvent::Failed(_) | OwnedEvent::Close(_)));
    // Whatever we accept, the witness accepts.
    assert_eq!(ours[..], events[..ours.len().min(events.len())]);
    let our_ending = match &last {
        Some(OwnedEvent::Failed(error)) => Ending::Failed(error.close_code().as_u16()),
        Some(OwnedEvent::Close(frame)) => Ending::Close(frame.as_ref().map(|it| it.code.as_u16())),
        _ => Ending::Open,
    };
    let is_known = match (&last, &ending) {
        // A length that is not in its shortest form passes there; of a control frame, its first
        // byte alone is too long for ours.
        (
            Some(OwnedEvent::Failed(
                ProtocolError::NonMinimalLength | ProtocolError::ControlFrameTooLong,
            )),
            _,
        ) => return,
        // Of a header that breaks a rule and declares too much, the size is looked at first there.
        (Some(OwnedEvent::Failed(_)), Ending::Failed(1009)) => {
            matches!(our_ending, Ending::Failed(1002 | 1009))
        }
        // Ours refuses at the very byte, in a header or a text of which more has to come.
        (Some(OwnedEvent::Failed(_)), Ending::Open) => true,
        // The code registered last is not known there.
        (Some(OwnedEvent::Close(Some(frame))), Ending::Close(_)) if frame.code.as_u16() == 1014 => {
            true
        }
        // A close code that must not be sent is answered there like any other.
        (
            Some(OwnedEvent::Failed(ProtocolError::InvalidReceivedCloseCode { .. })),
            Ending::Close(_),
        ) => true,
        // A reason that is not UTF-8 is a broken close frame to ours (1002), a broken text there.
        (Some(OwnedEvent::Failed(ProtocolError::CloseReasonNotUtf8)), Ending::Failed(1007)) => true,
        // A code that must not be sent, with such a reason.
        (
            Some(OwnedEvent::Failed(ProtocolError::InvalidReceivedCloseCode { .. })),
            Ending::Failed(1007),
        ) => true,
        // There is no limit on fragments there.
        (
            Some(OwnedEvent::Failed(
                ProtocolError::TooManyFragments { .. }
                | ProtocolError::TooManyEmptyFragments { .. },
            )),
            _,
        ) => return,
        _ => our_ending == ending,
    };
    assert!(is_known, "ours ends {last:?}, the witness {ending:?}");
    assert_eq!(ours.len(), events.len(), "{events:?}");
}

//! Messages: what the application sees, whole.

use bytes::Bytes;

use crate::frame;

/// The two kinds of message ([RFC 6455 §5.6](https://www.rfc-editor.org/rfc/rfc6455#section-5.6)).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum MessageKind {
    /// UTF-8 text.
    Text,
    /// Bytes.
    Binary,
}

/// A whole message from the peer, borrowed from the input or from the connection's buffer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Message<'a> {
    /// Text or binary.
    pub kind: MessageKind,
    /// The payload, unmasked and in one piece. That of a text message from a
    /// [`Connection`](crate::Connection) is valid UTF-8.
    pub payload: &'a [u8],
}

impl<'a> Message<'a> {
    /// Returns the payload as a string, or `None` if the message is binary.
    ///
    /// The text was checked while it arrived; this looks at it once more, at some 10 GB/s, because
    /// that is cheaper than a second kind of payload.
    #[must_use]
    pub fn as_text(&self) -> Option<&'a str> {
        match self.kind {
            MessageKind::Text => simdutf8::basic::from_utf8(self.payload).ok(),
            MessageKind::Binary => None,
        }
    }
}

/// A message encoded once as a server's frame, to be shared by many connections.
///
/// Cloning shares the bytes. A server's frames are not masked, so the same bytes fit every
/// connection; a client must encode each frame anew with
/// [`Connection::send`](crate::Connection::send).
///
/// ```
/// use ws_proto::{EncodedMessage, MessageKind};
///
/// let hello = EncodedMessage::new(MessageKind::Text, b"Hello");
/// assert_eq!(&hello.as_bytes()[..], b"\x81\x05Hello");
/// assert_eq!(hello.payload_len(), 5);
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EncodedMessage(Bytes);

impl EncodedMessage {
    /// Encodes `payload` as one unfragmented frame.
    ///
    /// A text must be valid UTF-8; debug builds assert it.
    #[must_use]
    pub fn new(kind: MessageKind, payload: &[u8]) -> Self {
        let mut frame = Vec::with_capacity(payload.len() + frame::Header::MAX_SIZE);
        frame::encode_server(kind, payload, &mut frame);
        Self(Bytes::from(frame))
    }

    /// Returns the frame: header and payload.
    #[must_use]
    pub fn as_bytes(&self) -> &Bytes {
        &self.0
    }

    /// Returns the size of the payload in bytes.
    #[must_use]
    pub fn payload_len(&self) -> usize {
        // An unmasked header is 2, 4 or 10 bytes long, as the second byte says.
        let header = match self.0[1] {
            126 => 4,
            127 => 10,
            _ => 2,
        };
        self.0.len() - header
    }
}

impl From<EncodedMessage> for Bytes {
    fn from(message: EncodedMessage) -> Self {
        message.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn payload_len_is_right_at_every_header_size() {
        for len in [0, 1, 125, 126, 127, 65_535, 65_536, 70_000] {
            let message = EncodedMessage::new(MessageKind::Binary, &vec![7; len]);
            assert_eq!(message.payload_len(), len);
        }
    }

    #[test]
    fn only_text_reads_as_text() {
        let text = Message {
            kind: MessageKind::Text,
            payload: "κ".as_bytes(),
        };
        let binary = Message {
            kind: MessageKind::Binary,
            payload: b"k",
        };
        assert_eq!(text.as_text(), Some("κ"));
        assert_eq!(binary.as_text(), None);
    }
}

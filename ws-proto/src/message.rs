//! Messages: what the application sees, whole.

use std::fmt;
use std::sync::{Arc, OnceLock};

use bytes::Bytes;

use crate::deflate::deflated_frame;
use crate::{DeflateLevel, WindowBits, frame};

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

/// A message encoded as a server's frame, to be shared by many connections.
///
/// Cloning shares the bytes. A server's frames are not masked, so the same bytes fit every
/// connection; those that agreed upon compression share a compressed frame, which is made when the
/// first of them asks for it with [`Connection::frame_of`](crate::Connection::frame_of).
///
/// ```
/// use ws_proto::{EncodedMessage, MessageKind};
///
/// let hello = EncodedMessage::new(MessageKind::Text, b"Hello");
/// assert_eq!(&hello.as_bytes()[..], b"\x81\x05Hello");
/// assert_eq!(hello.payload(), b"Hello");
/// ```
#[derive(Clone)]
pub struct EncodedMessage(Arc<Shared>);

struct Shared {
    kind: MessageKind,
    /// The uncompressed frame.
    plain: Bytes,
    payload_len: usize,
    may_be_compressed: bool,
    store: Option<Arc<dyn FrameStore>>,
    /// The frame compressed for a window, from the smallest on.
    deflated: [OnceLock<Bytes>; WINDOW_COUNT],
}

const WINDOW_COUNT: usize = (WindowBits::MAX.get() - WindowBits::MIN.get() + 1) as usize;

/// Where the frames of an [`EncodedMessage`] are kept: whoever wants to know for how long each is
/// in memory hands out `Bytes` of its own.
pub trait FrameStore: fmt::Debug + Send + Sync {
    /// Takes a frame in. What is returned has the same bytes.
    fn store(&self, frame: Vec<u8>) -> Bytes;
}

impl EncodedMessage {
    /// Encodes `payload` as one unfragmented frame.
    ///
    /// A text must be valid UTF-8; debug builds assert it.
    #[must_use]
    pub fn new(kind: MessageKind, payload: &[u8]) -> Self {
        Self::encode(kind, payload, true, None)
    }

    /// Encodes a message that is never compressed, as
    /// [`Connection::send_uncompressed`](crate::Connection::send_uncompressed) does.
    ///
    /// A text must be valid UTF-8; debug builds assert it.
    #[must_use]
    pub fn new_uncompressed(kind: MessageKind, payload: &[u8]) -> Self {
        Self::encode(kind, payload, false, None)
    }

    /// Encodes `payload` as [`new`](Self::new) does, and keeps each frame that is made of it in
    /// `store`.
    ///
    /// A text must be valid UTF-8; debug builds assert it.
    #[must_use]
    pub fn new_stored(kind: MessageKind, payload: &[u8], store: Arc<dyn FrameStore>) -> Self {
        Self::encode(kind, payload, true, Some(store))
    }

    fn encode(
        kind: MessageKind,
        payload: &[u8],
        may_be_compressed: bool,
        store: Option<Arc<dyn FrameStore>>,
    ) -> Self {
        let mut frame = Vec::with_capacity(payload.len() + frame::Header::MAX_SIZE);
        frame::encode_server(kind, payload, &mut frame);
        Self(Arc::new(Shared {
            kind,
            plain: stored(store.as_deref(), frame),
            store,
            payload_len: payload.len(),
            may_be_compressed,
            deflated: Default::default(),
        }))
    }

    /// Returns whether it is text or binary.
    #[must_use]
    pub fn kind(&self) -> MessageKind {
        self.0.kind
    }

    /// Returns the uncompressed frame: header and payload.
    #[must_use]
    pub fn as_bytes(&self) -> &Bytes {
        &self.0.plain
    }

    /// Returns the payload.
    #[must_use]
    pub fn payload(&self) -> &[u8] {
        let header = self.0.plain.len() - self.0.payload_len;
        &self.0.plain[header..]
    }

    pub(crate) fn may_be_compressed(&self) -> bool {
        self.0.may_be_compressed
    }

    /// Returns the frame compressed by itself.
    pub(crate) fn deflated(&self, bits: WindowBits, level: DeflateLevel) -> &Bytes {
        let place = usize::from(bits.get() - WindowBits::MIN.get());
        self.0.deflated[place].get_or_init(|| {
            let frame = deflated_frame(self.0.kind.into(), bits, level, self.payload());
            stored(self.0.store.as_deref(), frame)
        })
    }
}

fn stored(store: Option<&dyn FrameStore>, frame: Vec<u8>) -> Bytes {
    match store {
        Some(store) => store.store(frame),
        None => Bytes::from(frame),
    }
}

impl fmt::Debug for EncodedMessage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("EncodedMessage")
            .field("kind", &self.0.kind)
            .field("payload_len", &self.0.payload_len)
            .finish_non_exhaustive()
    }
}

impl PartialEq for EncodedMessage {
    fn eq(&self, other: &Self) -> bool {
        self.0.plain == other.0.plain
    }
}

impl Eq for EncodedMessage {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn payload_is_found_behind_every_header_size() {
        for len in [0, 1, 125, 126, 127, 65_535, 65_536, 70_000] {
            let message = EncodedMessage::new(MessageKind::Binary, &vec![7; len]);
            assert_eq!(message.payload(), vec![7; len]);
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

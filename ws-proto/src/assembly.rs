//! The message that is arriving: its rules and its one buffer.

use crate::frame::Header;
use crate::utf8::Utf8Validator;
use crate::{Config, MessageKind, Opcode, ProtocolError};

/// Puts fragments, and frames that arrive in pieces, together.
///
/// There is one flat buffer and no object per fragment, so what a peer can pin is what it has
/// sent. A frame that is whole in the input never touches the buffer.
#[derive(Debug, Default)]
pub(crate) struct Assembly {
    /// The kind of the message begun and not yet complete.
    kind: Option<MessageKind>,
    buffer: Vec<u8>,
    /// The most that the buffer may have to hold: the whole message if its last frame has begun,
    /// else the limit.
    ceiling: usize,
    utf8: Utf8Validator,
    fragment_count: u32,
    empty_fragment_count: u32,
    /// The buffer holds a message that has been handed out.
    is_delivered: bool,
    /// The connection is closing: rules are applied, payloads are not kept.
    is_discarding: bool,
}

impl Assembly {
    /// Tells whether a message has begun and not ended.
    pub(crate) fn is_in_progress(&self) -> bool {
        self.kind.is_some()
    }

    /// Applies the header of a data frame.
    pub(crate) fn begin(&mut self, header: &Header, config: &Config) -> Result<(), ProtocolError> {
        let kind = match (header.opcode, self.kind) {
            (Opcode::Text, None) => MessageKind::Text,
            (Opcode::Binary, None) => MessageKind::Binary,
            (Opcode::Continuation, Some(kind)) => kind,
            // RFC 6455 §5.4: a continuation continues something, and fragments of one message
            // must not be interleaved with those of another.
            (Opcode::Continuation, None) => return Err(ProtocolError::UnexpectedContinuation),
            _ => return Err(ProtocolError::ExpectedContinuation),
        };
        self.kind = Some(kind);
        if self.is_discarding {
            return Ok(());
        }
        // Before anything is allocated, and without wrapping: both lengths are below 2^63.
        let size = (self.buffer.len() as u64).saturating_add(header.payload_len);
        if size > config.max_message_size() as u64 {
            return Err(ProtocolError::MessageTooBig {
                size,
                max: config.max_message_size(),
            });
        }
        // The size fits: it is at most the limit, which is a usize.
        self.ceiling = if header.fin {
            size as usize
        } else {
            config.max_message_size()
        };
        self.fragment_count += 1;
        if self.fragment_count > config.max_fragment_count() {
            return Err(ProtocolError::TooManyFragments {
                max: config.max_fragment_count(),
            });
        }
        if header.payload_len == 0 {
            self.empty_fragment_count += 1;
            // An unfragmented empty message is no empty fragment.
            let is_whole = header.fin && self.fragment_count == 1;
            if self.empty_fragment_count > config.max_empty_fragment_count() && !is_whole {
                let max = config.max_empty_fragment_count();
                return Err(ProtocolError::TooManyEmptyFragments { max });
            }
        }
        Ok(())
    }

    /// Accepts a message that is whole in the input; the caller hands out the payload it has.
    pub(crate) fn whole(&mut self, payload: &[u8]) -> Result<Option<MessageKind>, ProtocolError> {
        let kind = self.finish();
        // RFC 6455 §8.1: text that is not UTF-8 fails the connection.
        if kind == Some(MessageKind::Text) && simdutf8::basic::from_utf8(payload).is_err() {
            return Err(ProtocolError::TextNotUtf8);
        }
        Ok(kind)
    }

    /// Appends a piece of the message.
    pub(crate) fn append(&mut self, piece: &[u8]) -> Result<(), ProtocolError> {
        if self.is_discarding {
            return Ok(());
        }
        if self.kind == Some(MessageKind::Text) {
            self.utf8
                .feed(piece)
                .map_err(|_| ProtocolError::TextNotUtf8)?;
        }
        let needed = self.buffer.len() + piece.len();
        if needed > self.buffer.capacity() {
            // At most twice of what has been received: a declared length is a ceiling here, never
            // a reason to allocate.
            let doubled = needed.max(self.buffer.capacity().saturating_mul(2)).max(64);
            let capacity = doubled.min(self.ceiling).max(needed);
            self.buffer.reserve_exact(capacity - self.buffer.len());
        }
        self.buffer.extend_from_slice(piece);
        Ok(())
    }

    /// Ends the message in the buffer; `None` if it was not kept.
    pub(crate) fn complete(&mut self) -> Result<Option<MessageKind>, ProtocolError> {
        let is_text = self.kind == Some(MessageKind::Text) && !self.is_discarding;
        if is_text && !self.utf8.is_complete() {
            return Err(ProtocolError::TextNotUtf8);
        }
        self.is_delivered = true;
        Ok(self.finish())
    }

    /// The message handed out by [`complete`](Self::complete).
    pub(crate) fn payload(&self) -> &[u8] {
        &self.buffer
    }

    /// Frees the buffer if the message in it has been handed out: nobody borrows it any more.
    pub(crate) fn release(&mut self) {
        if self.is_delivered {
            self.buffer = Vec::new();
            self.is_delivered = false;
        }
    }

    /// Frees everything; from now on frames are followed but not kept.
    pub(crate) fn discard(&mut self) {
        *self = Self {
            kind: self.kind,
            is_discarding: true,
            ..Self::default()
        };
    }

    fn finish(&mut self) -> Option<MessageKind> {
        self.utf8 = Utf8Validator::new();
        self.fragment_count = 0;
        self.empty_fragment_count = 0;
        self.kind.take().filter(|_| !self.is_discarding)
    }
}

//! The message that is arriving: its rules and its one buffer.

use crate::deflate::{Inflater, RSV1};
use crate::frame::Header;
use crate::utf8::{Utf8Validator, is_utf8};
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
    is_compressed: bool,
    /// What the frames so far declared: of a compressed message, that is not the buffer's size.
    declared: u64,
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
    #[inline]
    pub(crate) fn is_in_progress(&self) -> bool {
        self.kind.is_some()
    }

    /// Tells whether there is nothing to be remembered.
    pub(crate) fn is_idle(&self) -> bool {
        self.kind.is_none() && self.buffer.capacity() == 0 && !self.is_discarding
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
        // RFC 7692 §6.1: the bit stands on the first frame of a message only.
        let is_compressed = header.rsv & RSV1 != 0;
        match self.kind.replace(kind) {
            None => self.is_compressed = is_compressed,
            Some(_) if is_compressed => return Err(ProtocolError::ReservedBits),
            Some(_) => {}
        }
        if self.is_discarding {
            return Ok(());
        }
        // Before anything is allocated, and without wrapping: a length is below 2^63.
        let max = config.max_message_size();
        let size = self.declared.saturating_add(header.payload_len);
        self.declared = size;
        let max_declared = match self.is_compressed {
            true => max_compressed_size(max),
            false => max as u64,
        };
        if size > max_declared {
            return Err(ProtocolError::MessageTooBig { size, max });
        }
        self.ceiling = match header.fin && !self.is_compressed {
            // The size fits: it is at most the limit, which is a usize.
            true => size as usize,
            false => max,
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

    /// Tells whether what arrives must be inflated.
    pub(crate) fn is_compressed(&self) -> bool {
        self.is_compressed && !self.is_discarding
    }

    /// Tells whether no frame of the message carried anything.
    pub(crate) fn is_blank(&self) -> bool {
        self.declared == 0
    }

    /// Accepts a message that is whole in the input; the caller hands out the payload it has.
    pub(crate) fn whole(&mut self, payload: &[u8]) -> Result<Option<MessageKind>, ProtocolError> {
        let kind = self.finish();
        // RFC 6455 §8.1: text that is not UTF-8 fails the connection.
        if kind == Some(MessageKind::Text) && !is_utf8(payload) {
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
        self.make_room(piece.len(), self.ceiling);
        self.buffer.extend_from_slice(piece);
        Ok(())
    }

    /// Inflates a piece of the message, and stops as soon as that passes the limit or turns out
    /// not to be UTF-8.
    pub(crate) fn inflate(
        &mut self,
        mut piece: &[u8],
        inflater: &mut Inflater,
    ) -> Result<(), ProtocolError> {
        let max = self.ceiling;
        loop {
            // One byte more than allowed, to see that there is one.
            let likely = piece.len().saturating_mul(4).clamp(64, INFLATE_STEP);
            let left = max.saturating_add(1) - self.buffer.len();
            self.make_room(likely.min(left), max.saturating_add(1));
            let start = self.buffer.len();
            let inflated = inflater.inflate(&mut piece, &mut self.buffer);
            // What came out before bad data is judged first, as it is where the cut lies in between.
            let size = self.buffer.len();
            if size > max {
                let size = size as u64;
                return Err(ProtocolError::MessageTooBig { size, max });
            }
            if self.kind == Some(MessageKind::Text) {
                self.utf8
                    .feed(&self.buffer[start..])
                    .map_err(|_| ProtocolError::TextNotUtf8)?;
            }
            if !inflated? {
                return Ok(());
            }
        }
    }

    /// Makes room for `more` bytes; the buffer becomes at most twice as big as what was received,
    /// and no bigger than `ceiling`. A declared length is a ceiling here, never a reason to
    /// allocate.
    fn make_room(&mut self, more: usize, ceiling: usize) {
        let needed = self.buffer.len() + more;
        if needed > self.buffer.capacity() {
            let doubled = needed.max(self.buffer.capacity().saturating_mul(2)).max(64);
            let capacity = doubled.min(ceiling).max(needed);
            self.buffer.reserve_exact(capacity - self.buffer.len());
        }
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
    #[inline]
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
        self.declared = 0;
        self.fragment_count = 0;
        self.empty_fragment_count = 0;
        self.kind.take().filter(|_| !self.is_discarding)
    }
}

/// The most room that is made for what a piece may inflate to before it is known.
const INFLATE_STEP: usize = 16 * 1024;

/// How much may be received of a message that must not be bigger than `max` once inflated: a
/// compressor that finds nothing to compress makes a message a little bigger.
fn max_compressed_size(max: usize) -> u64 {
    let max = max as u64;
    max.saturating_add(max / 8).saturating_add(1024)
}

//! Inflating what a peer compressed, in steps and within a limit.

use flate2::{Decompress, FlushDecompress, Status};

use super::{TAIL, WindowBits};

/// What a peer sent is not a DEFLATE stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct InvalidData;

/// One DEFLATE stream, from which one message after another is inflated.
///
/// Its window is the largest there is, whatever was agreed upon: the library allocates that much
/// anyway, and forgets the quicker.
#[derive(Debug)]
pub(crate) struct Inflater {
    stream: Decompress,
    /// The peer has ended its stream with a final block; what follows begins a new one.
    has_ended: bool,
}

impl Inflater {
    pub(super) fn new() -> Self {
        Self {
            stream: Decompress::new_with_window_bits(false, WindowBits::MAX.get()),
            has_ended: false,
        }
    }

    /// Forgets everything.
    pub(super) fn reset(&mut self) {
        self.stream.reset(false);
        self.has_ended = false;
    }

    /// Inflates from the front of `input` into the free capacity of `out`, and takes what it used
    /// off `input`. `true` if there is more to come: call again with more capacity.
    pub(crate) fn inflate(
        &mut self,
        input: &mut &[u8],
        out: &mut Vec<u8>,
    ) -> Result<bool, InvalidData> {
        if self.has_ended {
            if input.is_empty() {
                return Ok(false);
            }
            self.reset();
        }
        let (before_in, before_out) = (self.stream.total_in(), out.len());
        let status = self
            .stream
            .decompress_vec(input, out, FlushDecompress::None)
            .map_err(|_| InvalidData)?;
        let consumed = (self.stream.total_in() - before_in) as usize;
        *input = &input[consumed..];
        if status == Status::StreamEnd {
            // RFC 7692 §7.2.3.4: a final block is legal and does not end the message.
            self.has_ended = true;
            return Ok(!input.is_empty());
        }
        let is_full = out.len() == out.capacity();
        // With room for output, all of the input is taken.
        if !input.is_empty() && !is_full && consumed == 0 && out.len() == before_out {
            return Err(InvalidData);
        }
        Ok(!input.is_empty() || is_full)
    }

    /// Ends a message, all of which has been passed to [`inflate`](Self::inflate). `is_last` says
    /// that the stream is reset before it is used again.
    pub(crate) fn finish(&mut self, is_last: bool) -> Result<(), InvalidData> {
        if self.has_ended {
            return Ok(());
        }
        // RFC 7692 §7.2.2: the peer left out the end of an empty block. To a message that was cut
        // inside a block it is something else, and so is what we put behind it: a block that ends
        // the stream, or one more empty block if the stream goes on. Only a header of dynamic codes
        // swallows the latter unseen, and spoils what the same peer sends after it.
        let end: &[u8] = match is_last {
            true => &[0x00, 0x00, 0xFF, 0xFF, 0x03, 0x00],
            false => &[0x00, 0x00, 0xFF, 0xFF, 0x00, 0x00, 0x00, 0xFF, 0xFF],
        };
        debug_assert!(end.starts_with(&TAIL), "what was left out comes first");
        let (mut rest, mut probe) = (end, Vec::with_capacity(64));
        self.inflate(&mut rest, &mut probe)?;
        // The empty block may be the final one, as may any other.
        let is_whole = match (self.has_ended, rest.len()) {
            (true, len) if len == end.len() - TAIL.len() => true,
            (has_ended, 0) => has_ended == is_last,
            _ => false,
        };
        match is_whole && probe.is_empty() {
            true => Ok(()),
            false => Err(InvalidData),
        }
    }
}

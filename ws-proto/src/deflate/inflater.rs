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

    /// Ends a message, all of which has been passed to [`inflate`](Self::inflate).
    pub(crate) fn finish(&mut self) -> Result<(), InvalidData> {
        if self.has_ended {
            return Ok(());
        }
        // RFC 7692 §7.2.2: the peer left out the end of an empty block. It inflates to nothing: if
        // it does not, the message was cut inside a block.
        let mut probe = Vec::with_capacity(64);
        let mut tail = &TAIL[..];
        self.inflate(&mut tail, &mut probe)?;
        match probe.is_empty() && tail.is_empty() {
            true => Ok(()),
            false => Err(InvalidData),
        }
    }
}

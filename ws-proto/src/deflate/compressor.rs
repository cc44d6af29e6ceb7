//! Compressing what we send.

use flate2::{Compress, Compression, FlushCompress, Status};

use super::{DeflateLevel, RSV1, TAIL, WindowBits, pool};
use crate::frame::Header;
use crate::{Opcode, mask};

/// Room that the output has at least when the compressor is called: enough for the end of any
/// block.
const LEAST_ROOM: usize = 64;

/// One DEFLATE stream, to which one message after another is compressed.
#[derive(Debug)]
pub(crate) struct Compressor {
    stream: Compress,
    bits: WindowBits,
    level: DeflateLevel,
}

impl Compressor {
    pub(super) fn new(bits: WindowBits, level: DeflateLevel) -> Self {
        let effort = Compression::new(level.get().into());
        Self {
            stream: Compress::new_with_window_bits(effort, false, bits.for_zlib()),
            bits,
            level,
        }
    }

    pub(super) fn is_like(&self, bits: WindowBits, level: DeflateLevel) -> bool {
        self.bits == bits && self.level == level
    }

    /// Forgets everything.
    pub(super) fn reset(&mut self) {
        self.stream.reset();
    }

    /// Appends the compressed `payload`, which must not be empty, to `out`.
    pub(super) fn compress(&mut self, payload: &[u8], out: &mut Vec<u8>) {
        let mut rest = payload;
        // Most of what is worth compressing halves.
        out.reserve(payload.len() / 2 + LEAST_ROOM);
        loop {
            let before = self.stream.total_in();
            let status = self
                .stream
                .compress_vec(rest, out, FlushCompress::Sync)
                .expect("the stream was set up by us and takes any bytes");
            rest = &rest[(self.stream.total_in() - before) as usize..];
            // Room that is left over says that nothing waits inside.
            if rest.is_empty() && (out.len() < out.capacity() || status == Status::BufError) {
                break;
            }
            out.reserve(rest.len() + LEAST_ROOM);
        }
        // RFC 7692 §7.2.1: the end of the empty block that a flush makes is left out.
        debug_assert!(out.ends_with(&TAIL), "a flush ends with an empty block");
        out.truncate(out.len() - TAIL.len());
    }
}

/// Appends a compressed message as one frame to `out`, with what `compress` appends as its payload.
pub(crate) fn encode(
    opcode: Opcode,
    key: Option<[u8; 4]>,
    out: &mut Vec<u8>,
    compress: impl FnOnce(&mut Vec<u8>),
) {
    let start = out.len();
    // The header is as long as the payload's length wants, which is known when it is there.
    let gap = start + Header::MAX_SIZE;
    out.resize(gap, 0);
    compress(out);
    if let Some(key) = key {
        mask(&mut out[gap..], key);
    }
    let end = out.len();
    Header {
        fin: true,
        rsv: RSV1,
        opcode,
        mask: key,
        payload_len: (end - gap) as u64,
    }
    .encode(out);
    let mut header = [0; Header::MAX_SIZE];
    let size = out.len() - end;
    header[..size].copy_from_slice(&out[end..]);
    out.copy_within(gap..end, start + size);
    out[start..start + size].copy_from_slice(&header[..size]);
    out.truncate(start + size + end - gap);
}

/// Returns a message compressed by itself as a server's frame.
pub(crate) fn deflated_frame(
    opcode: Opcode,
    bits: WindowBits,
    level: DeflateLevel,
    payload: &[u8],
) -> Vec<u8> {
    let mut compressor = pool::compressor(bits, level);
    let mut frame = Vec::new();
    encode(opcode, None, &mut frame, |out| {
        compressor.compress(payload, out);
    });
    pool::give_back_compressor(compressor);
    frame.shrink_to_fit();
    frame
}

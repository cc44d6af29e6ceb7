//! Frames that leave in one write.

use std::io::IoSlice;
use std::ops::Range;

/// Payloads from this size on are written from where they were read. To copy a smaller one costs
/// less than the two pieces that it and its header would be for the kernel.
pub(super) const LEND_LEN: usize = 4 * 1024;

/// Encoded frames in their order. The payload of a large one stays where it lies, in a buffer that
/// is given with every call.
#[derive(Debug, Default)]
pub(crate) struct Frames {
    bytes: Vec<u8>,
    frames: Vec<Frame>,
    lent_len: usize,
}

#[derive(Debug)]
struct Frame {
    /// Where it ends in `bytes`: all of it, or its header.
    end: usize,
    /// Where the payload lies in the lender; empty if it is in `bytes`.
    lent: Range<usize>,
    /// Whether it is a message rather than a control frame.
    is_message: bool,
}

impl Frames {
    pub(super) fn is_empty(&self) -> bool {
        self.frames.is_empty()
    }

    /// The number of bytes of all frames.
    pub(super) fn len_bytes(&self) -> usize {
        self.bytes.len() + self.lent_len
    }

    pub(super) fn len_messages(&self) -> usize {
        self.frames.iter().filter(|frame| frame.is_message).count()
    }

    /// Appends a frame that `encode` appends to the bytes.
    pub(super) fn push(&mut self, is_message: bool, encode: impl FnOnce(&mut Vec<u8>)) {
        self.push_lent(is_message, 0..0, encode);
    }

    /// Appends a frame of which `encode` appends the header; the payload is at `lent`.
    pub(super) fn push_lent(
        &mut self,
        is_message: bool,
        lent: Range<usize>,
        encode: impl FnOnce(&mut Vec<u8>),
    ) {
        encode(&mut self.bytes);
        self.lent_len += lent.len();
        self.frames.push(Frame {
            end: self.bytes.len(),
            lent,
            is_message,
        });
    }

    pub(crate) fn clear(&mut self) {
        self.bytes.clear();
        self.frames.clear();
        self.lent_len = 0;
    }

    /// All frames, if they lie in one piece.
    pub(super) fn as_one_piece(&self) -> Option<&[u8]> {
        (self.lent_len == 0).then_some(&self.bytes)
    }

    /// Fills `slices` with what is to be written first after `written` bytes, and returns their
    /// number.
    pub(super) fn slices<'a>(
        &'a self,
        lender: &'a [u8],
        written: usize,
        slices: &mut [IoSlice<'a>],
    ) -> usize {
        let mut skip = written;
        let mut count = 0;
        for piece in self.pieces(lender) {
            if skip >= piece.len() {
                skip -= piece.len();
                continue;
            }
            let Some(slice) = slices.get_mut(count) else {
                break;
            };
            *slice = IoSlice::new(&piece[skip..]);
            skip = 0;
            count += 1;
        }
        count
    }

    /// What lies in one piece, in its order: frames without a lent payload run together.
    fn pieces<'a>(&'a self, lender: &'a [u8]) -> impl Iterator<Item = &'a [u8]> {
        let mut start = 0;
        let lending = self.frames.iter().filter(|frame| !frame.lent.is_empty());
        let pairs = lending.flat_map(move |frame| {
            let own = &self.bytes[start..frame.end];
            start = frame.end;
            [own, &lender[frame.lent.clone()]]
        });
        let last_lent = self
            .frames
            .iter()
            .rev()
            .find(|frame| !frame.lent.is_empty());
        let rest = last_lent.map_or(0, |frame| frame.end);
        pairs.chain(std::iter::once(&self.bytes[rest..]))
    }

    /// Each frame as one piece of memory, with the number of its bytes that are among the first
    /// `written` of all.
    pub(super) fn copies<'a>(
        &'a self,
        lender: &'a [u8],
        written: usize,
    ) -> impl Iterator<Item = FrameCopy<'a>> {
        let mut start = 0;
        let mut passed = 0;
        self.frames.iter().map(move |frame| {
            let own = &self.bytes[start..frame.end];
            let lent = &lender[frame.lent.clone()];
            start = frame.end;
            let len = own.len() + lent.len();
            let done = written.saturating_sub(passed).min(len);
            passed += len;
            FrameCopy {
                parts: [own, lent],
                done,
                is_message: frame.is_message,
            }
        })
    }
}

/// One frame, to be copied if it must wait.
#[derive(Debug)]
pub(super) struct FrameCopy<'a> {
    parts: [&'a [u8]; 2],
    /// How many of its bytes are written.
    pub(super) done: usize,
    pub(super) is_message: bool,
}

impl FrameCopy<'_> {
    pub(super) fn is_done(&self) -> bool {
        self.done == self.parts[0].len() + self.parts[1].len()
    }

    pub(super) fn to_vec(&self) -> Vec<u8> {
        self.parts.concat()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        // However the frames lie and however much is written at a time, the bytes are theirs.
        #[test]
        fn prop_the_pieces_are_the_frames(
            specs in prop::collection::vec((0usize..6, prop::option::of(1usize..9)), 1..12),
            steps in prop::collection::vec(1usize..7, 1..200),
            width in 1usize..5,
        ) {
            let lender: Vec<u8> = (0..=255).collect();
            let mut frames = Frames::default();
            let mut expected = Vec::new();
            let mut whole: Vec<Vec<u8>> = Vec::new();
            let mut at = 0;
            for (index, (own, lent)) in specs.iter().enumerate() {
                let lent = lent.map_or(0..0, |len| at..at + len);
                at = at.max(lent.end);
                let header = vec![b'A' + index as u8; own + 1];
                frames.push_lent(true, lent.clone(), |out| out.extend_from_slice(&header));
                whole.push([&header[..], &lender[lent]].concat());
                expected.extend_from_slice(whole.last().unwrap());
            }
            prop_assert_eq!(frames.len_bytes(), expected.len());
            let mut written = Vec::new();
            for step in steps.into_iter().chain(std::iter::repeat(7)) {
                let mut slices = vec![IoSlice::new(&[]); width];
                let count = frames.slices(&lender, written.len(), &mut slices);
                if count == 0 {
                    break;
                }
                let offered = slices[..count].iter().flat_map(|slice| slice.to_vec()).collect::<Vec<u8>>();
                written.extend_from_slice(&offered[..step.min(offered.len())]);
                // What is left is what would be queued.
                let copies: Vec<_> = frames.copies(&lender, written.len()).collect();
                let rest = copies.iter().flat_map(|copy| copy.to_vec().split_off(copy.done));
                prop_assert!(rest.eq(expected[written.len()..].iter().copied()));
                prop_assert!(copies.iter().zip(&whole).all(|(copy, whole)| copy.to_vec() == *whole));
            }
            prop_assert_eq!(written, expected);
        }
    }
}

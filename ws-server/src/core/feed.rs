//! What waits to be written to a program's standard input.

use std::collections::VecDeque;
use std::io::IoSlice;

use bytes::Bytes;

use super::turns::MessageId;

/// Messages on their way to a program, in the order of their acceptance.
///
/// How many there are is bounded by whoever accepts them. A program may take a message in parts;
/// it is done with when its last byte is written.
#[derive(Debug, Default)]
pub(crate) struct Feed {
    messages: VecDeque<Fed>,
    /// How many bytes of the first are written.
    written: usize,
}

#[derive(Debug)]
struct Fed {
    id: MessageId,
    payload: Bytes,
    /// What ends it: a newline, or nothing.
    end: &'static [u8],
}

impl Fed {
    fn len(&self) -> usize {
        self.payload.len() + self.end.len()
    }
}

impl Feed {
    /// Appends a message that has at least one byte, with a newline behind it if it is a line.
    pub(crate) fn push(&mut self, id: MessageId, payload: Bytes, is_line: bool) {
        let end: &[u8] = if is_line { b"\n" } else { b"" };
        let message = Fed { id, payload, end };
        debug_assert!(message.len() > 0, "nothing would ever finish it");
        self.messages.push_back(message);
    }

    /// Fills `slices` with what is to be written next, and returns how many those are.
    pub(crate) fn slices<'a>(&'a self, slices: &mut [IoSlice<'a>]) -> usize {
        let mut skip = self.written;
        let mut count = 0;
        for piece in self
            .messages
            .iter()
            .flat_map(|fed| [&*fed.payload, fed.end])
        {
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

    /// Notes that so many more bytes are written, and hands out the messages that are done with.
    pub(crate) fn advance(&mut self, written: usize, mut each: impl FnMut(MessageId)) {
        self.written += written;
        while let Some(first) = self.messages.front()
            && self.written >= first.len()
        {
            self.written -= first.len();
            each(first.id);
            self.messages.pop_front();
        }
    }

    /// Gives up what is left, whole or in part, and hands it out.
    pub(crate) fn give_up(&mut self) -> impl Iterator<Item = MessageId> {
        self.written = 0;
        std::mem::take(&mut self.messages)
            .into_iter()
            .map(|fed| fed.id)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        /// However the program takes it, it gets the bytes of the messages in their order, and a
        /// message is done with exactly when its last byte is written.
        #[test]
        fn prop_every_cut_gives_the_same_bytes_and_ends(
            messages in prop::collection::vec(
                (prop::collection::vec(any::<u8>(), 0..20), any::<bool>()),
                0..20,
            ),
            takes in prop::collection::vec(0..40_usize, 0..100),
            pieces in 1..6_usize,
        ) {
            let mut feed = Feed::default();
            let mut expected = Vec::new();
            let mut ends = Vec::new();
            for (id, (payload, is_line)) in (1..).zip(messages) {
                if payload.is_empty() && !is_line {
                    continue;
                }
                expected.extend_from_slice(&payload);
                expected.extend_from_slice(if is_line { b"\n" } else { b"" });
                ends.push((id, expected.len()));
                feed.push(id, payload.into(), is_line);
            }
            let mut got = Vec::new();
            let mut done = Vec::new();
            for take in takes.into_iter().chain(std::iter::repeat_n(7, expected.len())) {
                let mut slices = vec![IoSlice::new(&[]); pieces];
                let count = feed.slices(&mut slices);
                let offered: Vec<u8> =
                    slices[..count].iter().flat_map(|slice| slice.to_vec()).collect();
                prop_assert_eq!(offered.is_empty(), feed.messages.is_empty());
                let taken = take.min(offered.len());
                got.extend_from_slice(&offered[..taken]);
                feed.advance(taken, |id| done.push(id));
                let due = ends.iter().filter(|(_, end)| *end <= got.len()).count();
                prop_assert_eq!(done.len(), due);
            }
            prop_assert_eq!(got, expected);
            prop_assert_eq!(done, ends.iter().map(|(id, _)| *id).collect::<Vec<_>>());
            prop_assert!(feed.messages.is_empty());
        }
    }
}

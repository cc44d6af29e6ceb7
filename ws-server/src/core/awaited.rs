//! Messages in the queue of a connection whose end somebody waits for.

use std::collections::VecDeque;

/// Finds out what became of certain messages of a queue that they leave in their order.
///
/// Messages are known by how many had left, or waited, up to and with them: the tenth message of a
/// connection has left as soon as ten have. So a message that nobody waits for costs nothing, and
/// one that somebody does is found at the front.
#[derive(Debug)]
pub(crate) struct Awaited<T> {
    /// In the order of their numbers, which may be repeated by none.
    marks: VecDeque<(u64, T)>,
}

impl<T> Default for Awaited<T> {
    fn default() -> Self {
        Self {
            marks: VecDeque::new(),
        }
    }
}

impl<T> Awaited<T> {
    pub(crate) fn is_empty(&self) -> bool {
        self.marks.is_empty()
    }

    /// Waits for a message that is behind all that were waited for so far.
    pub(crate) fn wait_for(&mut self, number: u64, mark: T) {
        debug_assert!(self.marks.back().is_none_or(|(last, _)| *last < number));
        self.marks.push_back((number, mark));
    }

    /// The next one that has left, when so many have.
    pub(crate) fn next_sent(&mut self, sent: u64) -> Option<T> {
        let has_left = |(number, _): &mut (u64, T)| *number <= sent;
        self.marks.pop_front_if(has_left).map(|(_, mark)| mark)
    }

    /// The next one that never will, when everything behind a number was dropped.
    pub(crate) fn next_dropped(&mut self, last: u64) -> Option<T> {
        let is_lost = |(number, _): &mut (u64, T)| *number > last;
        self.marks.pop_back_if(is_lost).map(|(_, mark)| mark)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use ws_session::Outbound;

    use super::*;

    #[derive(Clone, Copy, Debug)]
    enum Op {
        /// Of so many bytes; waited for or not.
        Push(usize, bool),
        Write(usize),
        DropUntouched,
        Clear,
    }

    fn op() -> impl Strategy<Value = Op> {
        prop_oneof![
            6 => (1_usize..9, any::<bool>()).prop_map(|(size, waits)| Op::Push(size, waits)),
            4 => (1_usize..20).prop_map(Op::Write),
            1 => Just(Op::DropUntouched),
            1 => Just(Op::Clear),
        ]
    }

    proptest! {
        /// Beside a queue that is a list of bytes with the number of their message each.
        #[test]
        fn prop_each_awaited_message_has_exactly_the_end_that_it_had(ops in prop::collection::vec(op(), 0..80)) {
            let mut outbound = Outbound::new(usize::MAX);
            let mut awaited = Awaited::default();
            let mut sent = 0;
            let mut next = 0_u64;
            // Messages, and how many of their bytes are left of how many.
            let mut queue: Vec<(u64, usize, usize)> = Vec::new();
            for op in ops {
                let (mut gone, mut lost) = (Vec::new(), Vec::new());
                match op {
                    Op::Push(size, waits) => {
                        outbound.push_unbounded(vec![0; size].into()).unwrap();
                        next += 1;
                        queue.push((next, size, size));
                        if waits {
                            awaited.wait_for(sent + outbound.len_messages() as u64, next);
                        } else {
                            // Nobody asks what becomes of it.
                            queue.last_mut().unwrap().0 = 0;
                        }
                    }
                    Op::Write(count) => {
                        let mut count = count.min(outbound.len_bytes());
                        sent += outbound.advance(count) as u64;
                        while count > 0 {
                            let (message, left, _) = &mut queue[0];
                            let taken = count.min(*left);
                            (*left, count) = (*left - taken, count - taken);
                            if *left == 0 {
                                gone.push(*message);
                                queue.remove(0);
                            }
                        }
                    }
                    Op::DropUntouched => {
                        outbound.drop_untouched();
                        let (stays, goes) = queue.iter().partition(|(_, left, size)| left < size);
                        queue = stays;
                        let goes: Vec<_> = goes;
                        lost.extend(goes.iter().map(|(message, ..)| *message));
                    }
                    Op::Clear => {
                        outbound.clear();
                        lost.extend(queue.drain(..).map(|(message, ..)| message));
                    }
                }
                let last = sent + outbound.len_messages() as u64;
                let was_sent: Vec<u64> = std::iter::from_fn(|| awaited.next_sent(sent)).collect();
                let mut was_lost: Vec<u64> = std::iter::from_fn(|| awaited.next_dropped(last)).collect();
                was_lost.reverse();
                gone.retain(|message| *message > 0);
                lost.retain(|message| *message > 0);
                prop_assert_eq!((was_sent, was_lost), (gone, lost));
                prop_assert_eq!(awaited.is_empty(), queue.iter().all(|(message, ..)| *message == 0));
            }
        }
    }
}

//! How many bytes wait for clients in the whole server.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use bytes::Bytes;
use ws_proto::{EncodedMessage, FrameStore, MessageKind};

/// Counts the frames that are in memory, each once, in however many queues it is.
///
/// To add up the queues' lengths would be simpler, and wrong: a message to ten thousand clients is
/// in memory once. So a frame counts from when it is made until nobody has it any more. Those of a
/// message that is being handed out do not count yet: nobody is slow because of them.
#[derive(Debug)]
pub(crate) struct Ledger {
    limit: AtomicUsize,
    held: AtomicUsize,
    /// Those being handed out.
    passing: AtomicUsize,
}

impl Default for Ledger {
    /// Without a limit.
    fn default() -> Self {
        Self::new(usize::MAX)
    }
}

impl Ledger {
    pub(crate) fn new(limit: usize) -> Self {
        Self {
            limit: AtomicUsize::new(limit),
            held: AtomicUsize::new(0),
            passing: AtomicUsize::new(0),
        }
    }

    /// Bytes that wait.
    pub(crate) fn waiting(&self) -> usize {
        let held = self.held.load(Ordering::Relaxed);
        held.saturating_sub(self.passing.load(Ordering::Relaxed))
    }

    /// By how many bytes too much waits.
    pub(crate) fn excess(&self) -> usize {
        self.waiting()
            .saturating_sub(self.limit.load(Ordering::Relaxed))
    }

    /// Has another limit from now on.
    pub(crate) fn set_limit(&self, limit: usize) {
        self.limit.store(limit, Ordering::Relaxed);
    }

    /// A message to many, whose frames count.
    pub(crate) fn message(self: &Arc<Self>, kind: MessageKind, payload: &[u8]) -> EncodedMessage {
        let store = LedgerStore(Arc::clone(self));
        EncodedMessage::new_stored(kind, payload, Arc::new(store))
    }

    /// Counts bytes until the last copy of what is returned is dropped.
    pub(crate) fn hold(self: &Arc<Self>, bytes: impl AsRef<[u8]> + Send + 'static) -> Bytes {
        self.held.fetch_add(bytes.as_ref().len(), Ordering::Relaxed);
        Bytes::from_owner(Held {
            bytes,
            ledger: Arc::clone(self),
        })
    }

    /// Does not count these bytes, which are being handed out, until the guard is dropped.
    pub(crate) fn pass(self: &Arc<Self>, len: usize) -> Passing {
        self.passing.fetch_add(len, Ordering::Relaxed);
        Passing {
            len,
            ledger: Arc::clone(self),
        }
    }
}

/// The frames of one message to many.
#[derive(Debug)]
struct LedgerStore(Arc<Ledger>);

impl FrameStore for LedgerStore {
    fn store(&self, frame: Vec<u8>) -> Bytes {
        self.0.hold(frame)
    }
}

struct Held<T: AsRef<[u8]>> {
    bytes: T,
    ledger: Arc<Ledger>,
}

impl<T: AsRef<[u8]>> fmt::Debug for Held<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Held")
            .field("len", &self.bytes.as_ref().len())
            .finish_non_exhaustive()
    }
}

impl<T: AsRef<[u8]>> AsRef<[u8]> for Held<T> {
    fn as_ref(&self) -> &[u8] {
        self.bytes.as_ref()
    }
}

impl<T: AsRef<[u8]>> Drop for Held<T> {
    fn drop(&mut self) {
        let len = self.bytes.as_ref().len();
        self.ledger.held.fetch_sub(len, Ordering::Relaxed);
    }
}

/// Bytes that are being handed out.
#[derive(Debug)]
pub(crate) struct Passing {
    len: usize,
    ledger: Arc<Ledger>,
}

impl Drop for Passing {
    fn drop(&mut self) {
        self.ledger.passing.fetch_sub(self.len, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn t30_a_frame_counts_once_however_many_have_it() {
        let ledger = Arc::new(Ledger::new(9));
        let frame = ledger.hold(vec![0; 10]);
        let others: Vec<Bytes> = (0..1000).map(|_| frame.clone()).collect();
        assert_eq!((ledger.waiting(), ledger.excess()), (10, 1));
        drop(frame);
        assert_eq!(ledger.waiting(), 10);
        drop(others);
        assert_eq!((ledger.waiting(), ledger.excess()), (0, 0));
    }

    #[test]
    fn t30_too_much_is_more_than_the_limit() {
        let ledger = Arc::new(Ledger::new(10));
        for (len, excess) in [(9, 0), (10, 0), (11, 1)] {
            let _frame = ledger.hold(vec![0; len]);
            assert_eq!(ledger.excess(), excess);
        }
    }

    #[test]
    fn t30_what_is_being_handed_out_does_not_count_yet() {
        let ledger = Arc::new(Ledger::new(10));
        let passing = ledger.pass(20);
        let frame = ledger.hold(vec![0; 20]);
        assert_eq!(ledger.excess(), 0);
        drop(passing);
        assert_eq!(ledger.excess(), 10);
        drop(frame);
        assert_eq!(ledger.waiting(), 0);
    }

    proptest! {
        /// Against the sum over what is there.
        #[test]
        fn prop_t30_the_sum_is_that_of_what_is_held(ops in prop::collection::vec((0_usize..3, 0_usize..100), 0..100)) {
            let ledger = Arc::new(Ledger::new(100));
            let mut frames: Vec<Vec<Bytes>> = Vec::new();
            for (op, number) in ops {
                match op {
                    0 => frames.push(vec![ledger.hold(vec![0; number])]),
                    1 if !frames.is_empty() => {
                        let at = number % frames.len();
                        let copy = frames[at][0].clone();
                        frames[at].push(copy);
                    }
                    _ if !frames.is_empty() => {
                        let at = number % frames.len();
                        frames[at].pop();
                        if frames[at].is_empty() {
                            frames.remove(at);
                        }
                    }
                    _ => {}
                }
                let sum: usize = frames.iter().map(|copies| copies[0].len()).sum();
                prop_assert_eq!(ledger.waiting(), sum);
                prop_assert_eq!(ledger.excess(), sum.saturating_sub(100));
            }
        }
    }
}

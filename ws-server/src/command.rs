//! What worker threads are told, and what they answer.

use std::sync::Arc;
use std::time::Instant;

use bytes::Bytes;
use serde::{Serialize, Serializer};
use tokio::sync::{mpsc, oneshot};
use ws_proto::{CloseFrame, EncodedMessage};
use ws_session::{ConnectionId, Target};
use ws_transport::{Accepted, DetachedListener};

use crate::core::question::Source;
use crate::counters::DropReason;
use crate::sockets::SocketTicket;

/// What a worker is told.
#[derive(Debug)]
pub(crate) enum Command {
    /// Accept on this listener, for all workers. `ended` is dropped when that has ended.
    Listen {
        listener: Box<DetachedListener>,
        ended: mpsc::Sender<()>,
    },
    /// Serve this socket.
    Adopt(Adoption),
    /// Write messages to some of your connections, each to all, in their order.
    Push {
        recipients: Recipients,
        messages: Arc<[EncodedMessage]>,
        receipt: oneshot::Sender<Receipt>,
        /// Who waits for what is queued, if anybody does.
        notices: Option<Notices>,
    },
    /// Run the application for some of your connections.
    Run {
        recipients: Recipients,
        uri: Bytes,
        source: Source,
        receipt: oneshot::Sender<Receipt>,
    },
    /// Close some of your connections.
    Close {
        recipients: Recipients,
        frame: CloseFrame,
        receipt: oneshot::Sender<Receipt>,
    },
    /// Tell what went over some of your connections; those that have ended are left out.
    Look {
        recipients: Vec<Recipient>,
        answer: oneshot::Sender<Vec<(ConnectionId, Traffic)>>,
    },
    /// Answer, to show that you still serve.
    Answer(oneshot::Sender<()>),
    /// Accept nothing more, close each connection when its work is done, then end.
    Drain,
    /// End at once.
    Stop,
}

/// A socket that was accepted.
#[derive(Debug)]
pub(crate) struct Adoption {
    pub(crate) socket: Accepted,
    pub(crate) ticket: SocketTicket,
    pub(crate) accepted_at: Instant,
}

/// Which of a worker's connections a command is for.
#[derive(Clone, Debug)]
pub(crate) enum Recipients {
    All,
    /// All that this does not reach.
    AllBut(Arc<Target>),
    Some(Vec<Recipient>),
}

/// One connection, and where its worker keeps it as long as it is open.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Recipient {
    pub(crate) id: ConnectionId,
    pub(crate) slot: u32,
}

/// What went over a connection since it was opened, as its line in the log at its end tells.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub(crate) struct Traffic {
    /// Messages of the client.
    pub(crate) received: u64,
    /// Bytes of their payloads.
    pub(crate) received_bytes: u64,
    /// Messages that the kernel took whole.
    pub(crate) sent: u64,
    /// Bytes of all frames that it took.
    pub(crate) sent_bytes: u64,
    /// Bytes that wait for the client to read.
    pub(crate) waiting_bytes: usize,
}

/// How far a push got with the connections it was meant for; of several messages, each counts.
///
/// `connections` is the sum of the others, and `dropped` that of its reasons.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub(crate) struct Receipt {
    pub(crate) connections: u64,
    /// Taken whole by the kernel.
    pub(crate) written: u64,
    /// Waits behind what the peer has not read yet.
    pub(crate) queued: u64,
    /// Not accepted; or, of a push that was waited for, lost while it waited.
    pub(crate) dropped: u64,
    #[serde(skip_serializing_if = "DroppedBy::is_empty")]
    pub(crate) dropped_by: DroppedBy,
}

/// How many messages were dropped for each reason.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct DroppedBy([u64; DropReason::NAMES.len()]);

impl DroppedBy {
    fn is_empty(&self) -> bool {
        self.0.iter().all(|count| *count == 0)
    }

    /// In the order of the reasons.
    pub(crate) fn counts(self) -> [u64; DropReason::NAMES.len()] {
        self.0
    }
}

/// As an object with the reasons that there are.
impl Serialize for DroppedBy {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let reasons = DropReason::NAMES.into_iter().zip(self.0);
        serializer.collect_map(reasons.filter(|(_, count)| *count > 0))
    }
}

impl Receipt {
    /// What becomes of messages for a connection that takes none.
    pub(crate) fn all_dropped(messages: u64, reason: DropReason) -> Self {
        let mut receipt = Self {
            connections: messages,
            ..Self::default()
        };
        receipt.note_dropped(messages, reason);
        receipt
    }

    pub(crate) fn note_dropped(&mut self, count: u64, reason: DropReason) {
        self.dropped += count;
        self.dropped_by.0[reason as usize] += count;
    }

    pub(crate) fn add(&mut self, other: Self) {
        self.connections += other.connections;
        self.written += other.written;
        self.queued += other.queued;
        self.dropped += other.dropped;
        if other.dropped > 0 {
            for (own, other) in self.dropped_by.0.iter_mut().zip(other.dropped_by.0) {
                *own += other;
            }
        }
    }

    /// Takes note of what became of one message that was queued.
    pub(crate) fn settle(&mut self, fate: Fate) {
        self.queued -= 1;
        match fate {
            Fate::Written => self.written += 1,
            Fate::Dropped(reason) => self.note_dropped(1, reason),
        }
    }
}

/// What became of a message that was queued.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fate {
    Written,
    Dropped(DropReason),
}

/// Where the fates of the queued messages of one push are told, one for each.
pub(crate) type Notices = mpsc::UnboundedSender<Fate>;

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const REASONS: [DropReason; 5] = [
        DropReason::Overflow,
        DropReason::OverflowTotal,
        DropReason::Slow,
        DropReason::Closing,
        DropReason::Ended,
    ];

    #[test]
    fn only_reasons_that_there_are_are_told() {
        let json = |receipt: Receipt| serde_json::to_value(receipt).unwrap();
        let none = serde_json::json!({ "connections": 0, "written": 0, "queued": 0, "dropped": 0 });
        assert_eq!(json(Receipt::default()), none);
        let dropped = json(Receipt::all_dropped(2, DropReason::Closing));
        assert_eq!(dropped["dropped_by"], serde_json::json!({ "closing": 2 }));
    }

    proptest! {
        #[test]
        fn prop_inv03_the_sum_law_holds_whatever_is_added_and_settled(
            parts in prop::collection::vec((0_u64..9, 0_u64..9, 0_u64..9, 0_usize..5), 0..20),
            fates in prop::collection::vec(prop::option::of(0_usize..5), 0..100),
        ) {
            let mut whole = Receipt::default();
            for (written, queued, dropped, reason) in parts {
                let mut part = Receipt::all_dropped(dropped, REASONS[reason]);
                part.add(Receipt {
                    connections: written + queued,
                    written,
                    queued,
                    ..Receipt::default()
                });
                whole.add(part);
            }
            for fate in fates {
                if whole.queued == 0 {
                    break;
                }
                whole.settle(match fate {
                    None => Fate::Written,
                    Some(reason) => Fate::Dropped(REASONS[reason]),
                });
                prop_assert_eq!(whole.connections, whole.written + whole.queued + whole.dropped);
                prop_assert_eq!(whole.dropped, whole.dropped_by.counts().iter().sum::<u64>());
            }
        }
    }
}

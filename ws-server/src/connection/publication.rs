//! Messages on their way to many connections.

use bytes::Bytes;
use ws_proto::EncodedMessage;

use super::Connection;
use crate::command::{Notices, Receipt};
use crate::counters::{CloseCause, Counters, DropReason};

/// Messages that are written together, prepared once for all connections of a worker.
#[derive(Debug)]
pub(crate) struct Publication<'a> {
    messages: &'a [EncodedMessage],
    /// Where it is told what becomes of those that are queued, if anybody waits for it.
    notices: Option<&'a Notices>,
    /// The frames of connections without compression.
    frames: Vec<Bytes>,
    /// The same one after another, unless there is only one.
    joined: Vec<u8>,
}

impl<'a> Publication<'a> {
    pub(crate) fn new(messages: &'a [EncodedMessage], notices: Option<&'a Notices>) -> Self {
        let frames: Vec<Bytes> = messages.iter().map(|one| one.as_bytes().clone()).collect();
        let joined = match &frames[..] {
            [_] => Vec::new(),
            frames => frames.concat(),
        };
        Self {
            messages,
            notices,
            frames,
            joined,
        }
    }

    fn frames(&self) -> &[Bytes] {
        &self.frames
    }

    fn joined(&self) -> &[u8] {
        match &self.frames[..] {
            [one] => one,
            _ => &self.joined,
        }
    }
}

impl Connection {
    /// Writes pushed messages, or puts them behind what the peer has not read yet, and adds to the
    /// receipt how far they got.
    pub(crate) fn push(
        &self,
        counters: &Counters,
        publication: &Publication<'_>,
        receipt: &mut Receipt,
    ) {
        let mut state = self.state.borrow_mut();
        let count = publication.messages.len() as u64;
        counters.deliveries.owed.add(count);
        receipt.connections += count;
        if !state.is_open() {
            counters.deliveries.dropped(DropReason::Closing, count);
            return receipt.note_dropped(count, DropReason::Closing);
        }
        counters.messages_queued.add(count);
        let own = state.is_compressed.then(|| {
            let frames = publication.messages.iter();
            let frames: Vec<Bytes> = frames.map(|one| state.frame_of(one, counters)).collect();
            (frames.concat(), frames)
        });
        let (joined, frames) = match &own {
            Some((joined, frames)) => (&joined[..], &frames[..]),
            None => (publication.joined(), publication.frames()),
        };
        let pushed = state.output.push(joined, frames, counters);
        let mut dropped = count - pushed.accepted;
        if dropped > 0 {
            counters.messages_dropped.add(dropped);
            counters.deliveries.dropped(DropReason::Overflow, dropped);
            let reason = "pushed messages exceed limits.send_queue_size";
            let given_up = state.give_up(CloseCause::Overflow, reason, counters);
            // What waited a moment only was never accepted either.
            dropped += given_up.min(pushed.accepted - pushed.sent);
            receipt.note_dropped(dropped, DropReason::Overflow);
        }
        if !state.output.is_flushed() {
            self.seat.ask();
        }
        let queued = count - pushed.sent - dropped;
        if let Some(notices) = publication.notices {
            state.output.wait_for_last(queued, notices);
        }
        receipt.written += pushed.sent;
        receipt.queued += queued;
    }

    /// How many bytes wait, if the connection can be closed for them.
    pub(crate) fn waiting(&self) -> usize {
        let state = self.state.borrow();
        match state.is_open() {
            true => state.output.queue.len_bytes(),
            false => 0,
        }
    }

    /// Closes the connection because too much waits in the whole server, and much of it here.
    pub(crate) fn relieve(&self, counters: &Counters) {
        let reason = "too much waits: limits.send_queue_total";
        let mut state = self.state.borrow_mut();
        state.give_up(CloseCause::OverflowTotal, reason, counters);
        self.seat.ask();
    }
}

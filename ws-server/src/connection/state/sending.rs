//! What goes to the peer: replies, pushed messages and control frames.

use bytes::Bytes;
use ws_proto::{EncodedMessage, MessageKind, State};

use super::{Inner, Phase};
use crate::connection::output::Broken;
use crate::core::answer::Reply;
use crate::counters::{CloseCause, Counters};

impl Inner {
    pub(in crate::connection) fn reply(&mut self, reply: &Reply, counters: &Counters) {
        if !self.is_open() {
            counters.replies_dropped.increment();
            return;
        }
        let mut frame = Vec::new();
        self.encode(reply.kind, &reply.payload, &mut frame, counters);
        // It may wait, and the queue counts what it has, not the room that it was given.
        frame.shrink_to_fit();
        counters.messages_queued.increment();
        let queued = self
            .output
            .queue
            .push_unbounded(counters.ledger.hold(frame));
        debug_assert!(
            queued.is_ok(),
            "an open connection has no close frame queued"
        );
    }

    /// Appends the frame of a message for an open connection. It must be sent before any other, or
    /// none after it: with context takeover later ones refer to it.
    pub(in crate::connection) fn encode(
        &mut self,
        kind: MessageKind,
        payload: &[u8],
        out: &mut Vec<u8>,
        counters: &Counters,
    ) {
        let start = out.len();
        let encoded = self.protocol.send(kind, payload, out);
        debug_assert!(encoded.is_ok(), "it is open, and texts are UTF-8");
        self.count_compression(payload.len(), out.len() - start, counters);
    }

    /// The frame of a message that others may share, for an open connection; else as
    /// [`encode`](Self::encode).
    pub(in crate::connection) fn frame_of(
        &mut self,
        message: &EncodedMessage,
        counters: &Counters,
    ) -> Bytes {
        let frame = self.protocol.frame_of(message);
        debug_assert!(frame.is_ok(), "it is open");
        let frame = frame.unwrap_or_default();
        self.count_compression(message.payload().len(), frame.len(), counters);
        // One that nobody else has was made for this connection, after what it was sent before.
        match frame.is_unique() {
            true => counters.ledger.hold(frame),
            false => frame,
        }
    }

    fn count_compression(&self, payload_len: usize, frame_len: usize, counters: &Counters) {
        if self.is_compressed {
            counters.compressible_bytes.add(payload_len as u64);
            counters.compressed_bytes.add(frame_len as u64);
        }
    }

    /// Queues the control frames that are due. Behind bytes that the kernel refused they wait in
    /// the machine, where a later pong replaces an earlier one; the close frame, behind which
    /// nothing comes, does not.
    pub(in crate::connection) fn transmit(&mut self) {
        if !self.output.queue.is_empty() && self.protocol.state() == State::Open {
            return;
        }
        let mut frames = Vec::new();
        if self.protocol.poll_transmit(&mut frames) {
            let queued = self.output.queue.push_control(Bytes::from(frames));
            debug_assert!(
                queued.is_ok(),
                "the machine hands out one close frame, and last"
            );
        }
    }

    pub(in crate::connection) fn flush(&mut self, counters: &Counters) {
        if self.output.flush(counters) == Err(Broken) {
            self.note_close(CloseCause::Vanished, None);
            self.phase = Phase::Ended;
        }
    }
}

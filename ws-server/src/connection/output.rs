//! The way out: what is written at once, and what waits for the kernel.

use std::io::{self, IoSlice};
use std::time::{Duration, Instant};

use bytes::Bytes;
use ws_session::Outbound;
use ws_transport::Stream;

use super::frames::Frames;
use crate::command::{Fate, Notices};
use crate::core::awaited::Awaited;
use crate::core::stall::Stall;
use crate::counters::{Counters, DropReason};

/// Pieces that leave in one system call.
const MAX_PIECES: usize = 64;

/// The stream is of no more use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Broken;

/// How far pushed messages got: the first of them.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Pushed {
    /// They have left whole.
    pub(super) sent: u64,
    /// They have left or wait.
    pub(super) accepted: u64,
}

/// The stream of a connection, and what it has not taken yet.
#[derive(Debug)]
pub(super) struct Output {
    /// Taken when the connection ends: what is left of it then holds no descriptor.
    pub(super) stream: Option<Stream>,
    pub(super) queue: Outbound,
    /// Messages that the kernel has taken.
    pub(super) sent: u64,
    /// Bytes of frames that it has taken.
    pub(super) sent_bytes: u64,
    /// The kernel has taken bytes since `stall` was noted.
    has_moved: bool,
    /// `None` while nothing waits.
    stall: Option<Box<Stall>>,
    /// `None` while nobody waits for any of the messages in the queue.
    awaited: Option<Box<Awaited<Notices>>>,
}

impl Output {
    pub(super) fn new(stream: Option<Stream>, queue: Outbound) -> Self {
        Self {
            stream,
            queue,
            sent: 0,
            sent_bytes: 0,
            has_moved: false,
            stall: None,
            awaited: None,
        }
    }

    /// Whether everything has left.
    pub(super) fn is_flushed(&self) -> bool {
        self.queue.is_empty() && self.stream.as_ref().is_none_or(Stream::is_flushed)
    }

    /// Whether everything has left and no clock runs because something waited.
    pub(super) fn is_idle(&self) -> bool {
        self.is_flushed() && self.stall.is_none()
    }

    /// Writes the 101, before anything else, and queues what the kernel does not take.
    pub(super) fn write_head(&mut self, head: Vec<u8>) {
        let written = self.write_one(&head);
        if written < head.len() {
            let queued = self.queue.push_control(Bytes::from(head));
            debug_assert!(queued.is_ok(), "a new queue is not finished");
            self.queue.advance(written);
        }
    }

    /// Writes frames at once if nothing waits before them, and queues what the kernel does not
    /// take. Errors come again with the next read.
    pub(super) fn write_through(
        &mut self,
        frames: &mut Frames,
        lender: &[u8],
        counters: &Counters,
    ) {
        if frames.is_empty() {
            return;
        }
        counters.messages_queued.add(frames.len_messages() as u64);
        let written = match self.queue.is_empty() {
            true => match frames.as_one_piece() {
                Some(bytes) => self.write_one(bytes),
                None => self.write(|slices, written| frames.slices(lender, written, slices)),
            },
            false => 0,
        };
        self.note_written(written);
        let mut sent = 0;
        if written == frames.len_bytes() {
            sent = frames.len_messages() as u64;
        } else {
            for frame in frames.copies(lender, written) {
                if frame.is_done() {
                    sent += u64::from(frame.is_message);
                    continue;
                }
                let bytes = counters.ledger.hold(frame.to_vec());
                let queued = match (frame.done, frame.is_message) {
                    (0, true) => self.queue.push_unbounded(bytes),
                    (0, false) => self.queue.push_control(bytes),
                    (done, true) => self.queue.push_rest(bytes, done),
                    (done, false) => self.queue.push_rest_of_control(bytes, done),
                };
                debug_assert!(
                    queued.is_ok(),
                    "frames are made before the close frame only"
                );
            }
        }
        self.note_sent(sent, counters);
        frames.clear();
    }

    /// Writes pushed messages at once if nothing waits before them: `joined` is all `frames`, one
    /// after another. Those that the kernel does not take wait; from the first that has no room on
    /// they are not accepted.
    pub(super) fn push(&mut self, joined: &[u8], frames: &[Bytes], counters: &Counters) -> Pushed {
        let mut written = match self.queue.is_empty() {
            true => self.write_one(joined),
            false => 0,
        };
        self.note_written(written);
        let mut pushed = Pushed::default();
        for frame in frames {
            if written >= frame.len() {
                written -= frame.len();
                pushed.sent += 1;
                pushed.accepted += 1;
                continue;
            }
            let queued = match std::mem::take(&mut written) {
                0 => self.queue.push(frame.clone()),
                done => self.queue.push_rest_of_pushed(frame.clone(), done),
            };
            if queued.is_err() {
                break;
            }
            pushed.accepted += 1;
        }
        self.note_sent(pushed.sent, counters);
        counters.deliveries.made.add(pushed.sent);
        pushed
    }

    /// Writes what waits, as far as the kernel takes it.
    ///
    /// # Errors
    ///
    /// [`Broken`].
    pub(super) fn flush(&mut self, counters: &Counters) -> Result<(), Broken> {
        while !self.queue.is_empty() {
            let Some(stream) = &self.stream else {
                return Ok(());
            };
            let taken = match self.queue.as_one_piece() {
                Some(bytes) => stream.try_write(bytes),
                None => {
                    let mut slices = [IoSlice::new(&[]); MAX_PIECES];
                    let count = self.queue.slices(&mut slices);
                    stream.try_write_vectored(&slices[..count])
                }
            };
            match taken {
                Ok(written) => {
                    self.note_written(written);
                    self.advance(written, counters);
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(()),
                Err(_) => return Err(Broken),
            }
        }
        if let Some(stream) = &self.stream {
            // What TLS still keeps of what it has taken. An error comes again with the next read.
            let _ = stream.try_flush();
        }
        Ok(())
    }

    /// Takes note of bytes of the queue that the kernel has taken.
    fn advance(&mut self, written: usize, counters: &Counters) {
        let pushed = self.queue.len_pushed();
        let sent = self.queue.advance(written) as u64;
        self.note_sent(sent, counters);
        let delivered = (pushed - self.queue.len_pushed()) as u64;
        counters.deliveries.made.add(delivered);
    }

    /// Drops everything of which nothing was written, and returns how many messages that were.
    pub(super) fn drop_untouched(&mut self, reason: DropReason, counters: &Counters) -> u64 {
        let pushed = self.queue.len_pushed();
        let dropped = self.queue.drop_untouched() as u64;
        let undelivered = (pushed - self.queue.len_pushed()) as u64;
        counters.deliveries.dropped(reason, undelivered);
        counters.messages_dropped.add(dropped);
        self.note_dropped(reason);
        dropped
    }

    /// Drops everything, for the connection has ended, and returns how many messages that were.
    pub(super) fn clear(&mut self, counters: &Counters) -> u64 {
        let undelivered = self.queue.len_pushed() as u64;
        let dropped = self.queue.clear() as u64;
        counters.deliveries.dropped(DropReason::Ended, undelivered);
        counters.messages_dropped.add(dropped);
        self.note_dropped(DropReason::Ended);
        dropped
    }

    /// When it will have been too long that nothing moved.
    pub(super) fn stalled_at(&self, timeout: Duration) -> Option<Instant> {
        let stall = self.stall.as_deref()?;
        Some(stall.deadline(timeout))
    }

    /// Takes note of what waits, after everything was written that could be.
    pub(super) fn note_stall(&mut self, now: Instant) {
        let unflushed = self.stream.as_ref().map_or(0, Stream::unflushed);
        let waiting = self.queue.len_bytes() + unflushed;
        let has_moved = std::mem::take(&mut self.has_moved);
        let stall = Stall::note(self.stall.as_deref().copied(), waiting, has_moved, now);
        match (&mut self.stall, stall) {
            (Some(former), Some(stall)) => **former = stall,
            (former, stall) => *former = stall.map(Box::new),
        }
    }

    /// Tries whether the kernel would take bytes, though it has not said so: it waits until a good
    /// part of its buffer is free. That part is filled, or each further attempt would find some
    /// room in it, and take that for a peer who reads.
    pub(super) fn write_unasked(&mut self, counters: &Counters) {
        while !self.queue.is_empty() {
            let Some(stream) = &self.stream else {
                return;
            };
            let mut slices = [IoSlice::new(&[]); MAX_PIECES];
            let count = self.queue.slices(&mut slices);
            match stream.try_write_unasked(&slices[..count]) {
                Ok(written) if written > 0 => {
                    self.note_written(written);
                    self.advance(written, counters);
                }
                // An error comes again with the next write.
                Ok(_) | Err(_) => return,
            }
        }
    }

    /// Writes one piece, and returns how many bytes the kernel has taken.
    fn write_one(&self, bytes: &[u8]) -> usize {
        let Some(stream) = &self.stream else {
            return 0;
        };
        let mut written = 0;
        while written < bytes.len() {
            match stream.try_write(&bytes[written..]) {
                Ok(taken) if taken > 0 => written += taken,
                Ok(_) | Err(_) => break,
            }
        }
        written
    }

    /// Writes what `fill` hands out, beginning after the bytes that are written, and returns how
    /// many the kernel has taken.
    fn write<'a>(&self, fill: impl Fn(&mut [IoSlice<'a>], usize) -> usize) -> usize {
        let Some(stream) = &self.stream else {
            return 0;
        };
        let mut written = 0;
        loop {
            let mut slices = [IoSlice::new(&[]); MAX_PIECES];
            let count = fill(&mut slices, written);
            if count == 0 {
                return written;
            }
            match stream.try_write_vectored(&slices[..count]) {
                Ok(taken) if taken > 0 => written += taken,
                Ok(_) | Err(_) => return written,
            }
        }
    }

    fn note_written(&mut self, bytes: usize) {
        self.has_moved |= bytes > 0;
        self.sent_bytes += bytes as u64;
    }

    fn note_sent(&mut self, messages: u64, counters: &Counters) {
        self.sent += messages;
        counters.messages_sent.add(messages);
        if self.awaited.is_some() {
            self.tell_sent();
        }
    }

    #[cold]
    fn tell_sent(&mut self) {
        if let Some(awaited) = &mut self.awaited {
            while let Some(notices) = awaited.next_sent(self.sent) {
                // Whoever waited may have given up.
                let _ = notices.send(Fate::Written);
            }
            self.release_awaited();
        }
    }

    /// Tells what becomes of the last `count` messages that wait.
    #[cold]
    pub(super) fn wait_for_last(&mut self, count: u64, notices: &Notices) {
        if count == 0 {
            return;
        }
        let last = self.last_number();
        let awaited = self.awaited.get_or_insert_default();
        for number in last - count + 1..=last {
            awaited.wait_for(number, notices.clone());
        }
    }

    fn note_dropped(&mut self, reason: DropReason) {
        let last = self.last_number();
        if let Some(awaited) = &mut self.awaited {
            while let Some(notices) = awaited.next_dropped(last) {
                let _ = notices.send(Fate::Dropped(reason));
            }
            self.release_awaited();
        }
    }

    /// That of the last message in the queue: how many will have left when it has.
    fn last_number(&self) -> u64 {
        self.sent + self.queue.len_messages() as u64
    }

    fn release_awaited(&mut self) {
        if self
            .awaited
            .as_ref()
            .is_some_and(|awaited| awaited.is_empty())
        {
            self.awaited = None;
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[derive(Clone, Debug)]
    enum Op {
        /// So many messages of such a size are pushed.
        Push(usize, usize),
        Reply(usize),
        /// The kernel takes this share of what waits, in hundredths.
        Take(usize),
        DropUntouched,
        Clear,
    }

    fn op() -> impl Strategy<Value = Op> {
        prop_oneof![
            4 => (1_usize..4, 1_usize..40).prop_map(|(count, size)| Op::Push(count, size)),
            2 => (1_usize..40).prop_map(Op::Reply),
            4 => (0_usize..=100).prop_map(Op::Take),
            1 => Just(Op::DropUntouched),
            1 => Just(Op::Clear),
        ]
    }

    proptest! {
        /// Whatever happens to it, each pushed message is delivered, dropped or waits, and each
        /// message is sent, dropped or waits.
        #[test]
        fn prop_inv03_every_message_has_one_end(
            limit in 1_usize..100,
            ops in prop::collection::vec(op(), 0..60),
        ) {
            let counters = Counters::default();
            let mut output = Output::new(None, Outbound::new(limit));
            let (mut owed, mut queued) = (0, 0);
            for op in ops {
                match op {
                    Op::Push(count, size) => {
                        let frames = vec![Bytes::from(vec![0; size]); count];
                        owed += count as u64;
                        queued += count as u64;
                        let pushed = output.push(&frames.concat(), &frames, &counters);
                        let refused = count as u64 - pushed.accepted;
                        counters.deliveries.dropped(DropReason::Overflow, refused);
                        counters.messages_dropped.add(refused);
                    }
                    Op::Reply(size) => {
                        queued += 1;
                        output.queue.push_unbounded(vec![0; size].into()).unwrap();
                    }
                    Op::Take(share) => {
                        let taken = output.queue.len_bytes() * share / 100;
                        output.advance(taken, &counters);
                    }
                    Op::DropUntouched => {
                        output.drop_untouched(DropReason::Slow, &counters);
                    }
                    Op::Clear => {
                        output.clear(&counters);
                        prop_assert!(output.queue.is_empty());
                    }
                }
                let json = counters.to_json();
                let figure = |group: &str, name: &str| json[group][name].as_u64().unwrap();
                let waiting = output.queue.len_pushed() as u64;
                let ended = figure("deliveries", "made") + figure("deliveries", "dropped");
                prop_assert_eq!(owed, ended + waiting);
                let waiting = output.queue.len_messages() as u64;
                let ended = figure("messages", "sent") + figure("messages", "dropped");
                prop_assert_eq!(queued, ended + waiting);
            }
        }
    }
}

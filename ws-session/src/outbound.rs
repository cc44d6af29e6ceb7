//! What the kernel has not yet taken of one connection's messages.

use std::collections::VecDeque;
use std::io::IoSlice;

use bytes::Bytes;

/// The bounded outbound queue of one connection.
///
/// The server writes straight to the socket and queues what the kernel refuses. Bytes leave in the
/// order in which they came, and a frame that has begun to leave is never dropped while others
/// stay, so the peer only ever sees whole frames.
///
/// What is put in at once is one *message*: one encoded frame, normally. Control frames are
/// not counted as messages. To send:
///
/// 1. Put it in with [`push`](Self::push), [`push_unbounded`](Self::push_unbounded) or
///    [`push_control`](Self::push_control); or, if it was written in part already, with
///    [`push_rest`](Self::push_rest).
/// 2. When the socket is writable, write what [`slices`](Self::slices) returns and call
///    [`advance`](Self::advance) with the count, until [`is_empty`](Self::is_empty).
/// 3. At the end [`finish`](Self::finish) puts the close frame behind everything.
///
/// The bytes are shared, not copied: a broadcast is in memory once, in however many queues. Each
/// queue counts its whole length all the same. An empty queue holds no memory.
///
/// # Examples
///
/// ```
/// use std::io::IoSlice;
/// use ws_session::Outbound;
///
/// let mut outbound = Outbound::new(8);
/// outbound.push("hello".into())?;
/// assert!(outbound.push("world".into()).is_err(), "ten bytes are more than eight");
/// outbound.finish("X".into());
///
/// let mut slices = [IoSlice::new(&[]); 4];
/// assert_eq!(outbound.slices(&mut slices), 2);
/// assert_eq!(outbound.advance(6), 1, "one message is through");
/// assert!(outbound.is_empty());
/// # Ok::<(), ws_session::PushError>(())
/// ```
#[derive(Clone, Debug)]
pub struct Outbound {
    /// `None` if nothing waits: most connections are idle, and never queue anything again soon.
    queue: Option<Box<Queue>>,
    limit: usize,
    is_finished: bool,
}

/// What waits. It is never empty.
#[derive(Clone, Debug, Default)]
struct Queue {
    entries: VecDeque<Entry>,
    /// How many bytes of the first entry have been written. Always fewer than it has.
    written: usize,
    /// How many bytes are left to write.
    len_bytes: usize,
    len_messages: usize,
    /// How many of these came by [`Outbound::push`].
    len_pushed: usize,
}

#[derive(Clone, Debug)]
struct Entry {
    bytes: Bytes,
    kind: Kind,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Message,
    /// A message from elsewhere.
    Pushed,
    Control,
    Close,
}

impl Kind {
    fn is_message(self) -> bool {
        matches!(self, Self::Message | Self::Pushed)
    }
}

/// Why a message was not queued.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum PushError {
    /// The message does not fit behind those that wait.
    #[error("{size} bytes do not fit: {waiting} bytes wait already and the limit is {limit}")]
    Overflow {
        /// The size of the message in bytes.
        size: usize,
        /// How many bytes wait before it.
        waiting: usize,
        /// The limit of the queue in bytes.
        limit: usize,
    },
    /// The close frame is in the queue, and nothing may follow it.
    #[error("the close frame has been queued")]
    Finished,
}

impl Outbound {
    /// Makes an empty queue that admits messages up to `limit` bytes in all.
    pub fn new(limit: usize) -> Self {
        Self {
            queue: None,
            limit,
            is_finished: false,
        }
    }

    /// Returns the number of bytes that are left to write.
    pub fn len_bytes(&self) -> usize {
        self.queue.as_ref().map_or(0, |queue| queue.len_bytes)
    }

    /// Returns the number of messages that have not been written to their end.
    ///
    /// Those of which nothing has been written are [`len_untouched`](Self::len_untouched).
    pub fn len_messages(&self) -> usize {
        self.queue.as_ref().map_or(0, |queue| queue.len_messages)
    }

    /// Returns the number of messages from elsewhere that have not been written to their end: those
    /// of [`push`](Self::push) and [`push_rest_of_pushed`](Self::push_rest_of_pushed).
    pub fn len_pushed(&self) -> usize {
        self.queue.as_ref().map_or(0, |queue| queue.len_pushed)
    }

    /// Returns the number of messages of which not one byte has been written.
    pub fn len_untouched(&self) -> usize {
        self.queue.as_ref().map_or(0, |queue| queue.len_untouched())
    }

    /// Tells whether nothing is left to write.
    pub fn is_empty(&self) -> bool {
        self.queue.is_none()
    }

    /// Tells whether the first frame has been written in part.
    pub fn is_torn(&self) -> bool {
        self.queue.as_ref().is_some_and(|queue| queue.written > 0)
    }

    /// Tells whether more bytes wait than the limit allows: time to stop reading from the peer.
    pub fn is_over_limit(&self) -> bool {
        self.len_bytes() > self.limit
    }

    /// Tells whether the close frame has been put in, and possibly written since.
    pub fn is_finished(&self) -> bool {
        self.is_finished
    }

    /// Queues a message from elsewhere, which nobody can be asked to hold back.
    ///
    /// Into an empty queue a message of any size is admitted; otherwise the limit would also be one
    /// on the size of messages.
    ///
    /// # Errors
    ///
    /// [`PushError::Overflow`] if it does not fit, [`PushError::Finished`] behind the close frame.
    /// The queue is as before.
    pub fn push(&mut self, message: Bytes) -> Result<(), PushError> {
        if self.is_finished {
            return Err(PushError::Finished);
        }
        let (size, waiting, limit) = (message.len(), self.len_bytes(), self.limit);
        // Saturating: what is over the largest number is over the limit, too.
        if waiting > 0 && waiting.saturating_add(size) > limit {
            return Err(PushError::Overflow {
                size,
                waiting,
                limit,
            });
        }
        self.append_unless_finished(message, Kind::Pushed)
    }

    /// Queues a reply, past the limit if need be.
    ///
    /// Replies are held back at their source: while the queue
    /// [`is_over_limit`](Self::is_over_limit), do not read from the peer.
    ///
    /// # Errors
    ///
    /// [`PushError::Finished`] behind the close frame.
    pub fn push_unbounded(&mut self, message: Bytes) -> Result<(), PushError> {
        self.append_unless_finished(message, Kind::Message)
    }

    /// Queues a control frame other than the close frame, past the limit if need be.
    ///
    /// # Errors
    ///
    /// [`PushError::Finished`] behind the close frame.
    pub fn push_control(&mut self, frame: Bytes) -> Result<(), PushError> {
        self.append_unless_finished(frame, Kind::Control)
    }

    /// Queues a message of which the first `written` bytes have been written directly.
    ///
    /// Unlike a push of the rest alone, this lets the queue know that the frame is torn.
    ///
    /// # Errors
    ///
    /// [`PushError::Finished`] behind the close frame.
    ///
    /// # Panics
    ///
    /// If something waits already, as then nothing may have been written past it, or if `written`
    /// is more than the message has.
    pub fn push_rest(&mut self, message: Bytes, written: usize) -> Result<(), PushError> {
        self.append_rest(message, written, Kind::Message)
    }

    /// The same for a message from elsewhere.
    ///
    /// # Errors
    ///
    /// [`PushError::Finished`] behind the close frame.
    ///
    /// # Panics
    ///
    /// As [`push_rest`](Self::push_rest).
    pub fn push_rest_of_pushed(&mut self, message: Bytes, written: usize) -> Result<(), PushError> {
        self.append_rest(message, written, Kind::Pushed)
    }

    /// The same for a control frame.
    ///
    /// # Errors
    ///
    /// [`PushError::Finished`] behind the close frame.
    ///
    /// # Panics
    ///
    /// As [`push_rest`](Self::push_rest).
    pub fn push_rest_of_control(&mut self, frame: Bytes, written: usize) -> Result<(), PushError> {
        self.append_rest(frame, written, Kind::Control)
    }

    fn append_rest(&mut self, message: Bytes, written: usize, kind: Kind) -> Result<(), PushError> {
        assert!(self.is_empty(), "bytes were written past those that wait");
        assert!(
            written <= message.len(),
            "more bytes were written than there are"
        );
        if self.is_finished {
            return Err(PushError::Finished);
        }
        if written < message.len() {
            let queue = self.append(message, kind);
            queue.written = written;
            queue.len_bytes -= written;
        }
        Ok(())
    }

    /// Puts the close frame behind everything; nothing can be queued after it.
    ///
    /// A second one is ignored: a connection has one close frame.
    pub fn finish(&mut self, close_frame: Bytes) {
        if !self.is_finished {
            if !close_frame.is_empty() {
                self.append(close_frame, Kind::Close);
            }
            self.is_finished = true;
        }
    }

    /// Fills `slices` with the first pieces to be written and returns their number.
    ///
    /// It is smaller than the length of `slices` if there are fewer pieces.
    pub fn slices<'a>(&'a self, slices: &mut [IoSlice<'a>]) -> usize {
        let mut count = 0;
        for (slice, piece) in slices.iter_mut().zip(self.pieces()) {
            *slice = IoSlice::new(piece);
            count += 1;
        }
        count
    }

    /// Returns what is to be written if it lies in one piece.
    pub fn as_one_piece(&self) -> Option<&[u8]> {
        let mut pieces = self.pieces();
        let first = pieces.next()?;
        pieces.next().is_none().then_some(first)
    }

    /// Returns the first piece to be written.
    pub fn front(&self) -> Option<&[u8]> {
        self.pieces().next()
    }

    fn pieces(&self) -> impl Iterator<Item = &[u8]> {
        self.queue.iter().flat_map(|queue| queue.pieces())
    }

    /// Takes note that `count` more bytes have been written, and returns how many messages that
    /// brought to their end.
    ///
    /// # Panics
    ///
    /// If `count` is more than [`len_bytes`](Self::len_bytes).
    pub fn advance(&mut self, count: usize) -> usize {
        assert!(
            count <= self.len_bytes(),
            "more bytes were written than there are"
        );
        let ended = self.queue.as_mut().map_or(0, |queue| queue.advance(count));
        self.release_memory();
        ended
    }

    /// Drops everything of which no byte has been written, and returns the number of messages
    /// among it.
    ///
    /// For a slow subscriber that is to be closed now: the rest of a torn frame stays, and
    /// [`finish`](Self::finish) puts the close frame right behind it. A close frame that is in the
    /// queue already stays too.
    pub fn drop_untouched(&mut self) -> usize {
        let dropped = self
            .queue
            .as_mut()
            .map_or(0, |queue| queue.drop_untouched());
        self.release_memory();
        dropped
    }

    /// Drops everything, torn frames too, and returns the number of messages among it that had not
    /// been written to their end.
    ///
    /// For a connection that is gone. Whatever is written to it afterwards would tear a frame.
    pub fn clear(&mut self) -> usize {
        self.queue.take().map_or(0, |queue| queue.len_messages)
    }

    fn append_unless_finished(&mut self, bytes: Bytes, kind: Kind) -> Result<(), PushError> {
        if self.is_finished {
            return Err(PushError::Finished);
        }
        // No frame is empty. If a caller has nothing to send it is sent at once.
        if !bytes.is_empty() {
            self.append(bytes, kind);
        }
        Ok(())
    }

    fn append(&mut self, bytes: Bytes, kind: Kind) -> &mut Queue {
        let queue = self.queue.get_or_insert_default();
        queue.len_bytes += bytes.len();
        queue.len_messages += usize::from(kind.is_message());
        queue.len_pushed += usize::from(kind == Kind::Pushed);
        queue.entries.push_back(Entry { bytes, kind });
        queue
    }

    fn release_memory(&mut self) {
        if self
            .queue
            .as_ref()
            .is_some_and(|queue| queue.entries.is_empty())
        {
            self.queue = None;
        }
    }
}

impl Queue {
    fn pieces(&self) -> impl Iterator<Item = &[u8]> {
        let skips = std::iter::once(self.written).chain(std::iter::repeat(0));
        self.entries
            .iter()
            .zip(skips)
            .map(|(entry, skip)| &entry.bytes[skip..])
    }

    fn len_untouched(&self) -> usize {
        let torn = self
            .entries
            .front()
            .is_some_and(|entry| entry.kind.is_message() && self.written > 0);
        self.len_messages - usize::from(torn)
    }

    fn advance(&mut self, count: usize) -> usize {
        self.len_bytes -= count;
        self.written += count;
        let before = self.len_messages;
        while let Some(entry) = self.entries.front()
            && self.written >= entry.bytes.len()
        {
            self.written -= entry.bytes.len();
            self.len_messages -= usize::from(entry.kind.is_message());
            self.len_pushed -= usize::from(entry.kind == Kind::Pushed);
            self.entries.pop_front();
        }
        before - self.len_messages
    }

    fn drop_untouched(&mut self) -> usize {
        let dropped = self.len_untouched();
        let mut keeps_first = self.written > 0;
        self.entries
            .retain(|entry| std::mem::take(&mut keeps_first) || entry.kind == Kind::Close);
        self.len_messages -= dropped;
        let pushed = self
            .entries
            .iter()
            .filter(|entry| entry.kind == Kind::Pushed);
        self.len_pushed = pushed.count();
        self.len_bytes = self.pieces().map(<[u8]>::len).sum();
        dropped
    }
}

#[cfg(test)]
mod tests;

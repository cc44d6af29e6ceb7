//! What a connection is made of, and how bytes move through it.

use std::time::{Duration, Instant};

use bytes::Bytes;
use ws_proto::{CloseCode, CloseFrame, EncodedMessage, Event, Input, MessageKind, State, frame};

use crate::core::answer::{Answer, Reply};
use crate::core::question::{Occasion, Question, Source};
use crate::core::rate::Throttle;
use crate::core::turns::Turns;
use crate::counters::{CloseCause, Counters, DropReason};
use crate::places::Place;
use crate::shared::Shared;

use super::frames::{Frames, LEND_LEN};
use super::output::{Broken, Output};
use super::work::Work;

/// Bytes that a connection may have processed before the worker's others get their turn: a peer
/// that sends without a pause would hold them up otherwise.
const FAIR_SHARE: usize = 256 * 1024;
/// What a message that may be compressed counts for besides its bytes: to begin anew with each
/// costs the streams more than a small one's bytes.
const INFLATED_COST: usize = 1024;

#[derive(Debug)]
pub(super) struct Inner {
    pub(super) output: Output,
    pub(super) protocol: ws_proto::Connection,
    /// Whether the handshake agreed to compression.
    pub(super) is_compressed: bool,
    pub(super) turns: Turns<Question, Answer, Reply>,
    pub(super) work: Work,
    /// Read, but not processed for want of room, or because it is the others' turn.
    pub(super) unread: Vec<u8>,
    /// Bytes processed since the worker's others had their turn.
    pub(super) spent: usize,
    pub(super) phase: Phase,
    /// `None` once nothing is left to do.
    pub(super) place: Option<Place>,
    /// Whether the run accepted last came through a door rather than from the client.
    pub(super) was_door: bool,
    /// The next free turn is for a run that waits at a door.
    pub(super) is_doors_turn: bool,
    pub(super) is_paused: bool,
    /// Too much waits in the whole server, and some of it here.
    pub(super) is_squeezed: bool,
    /// `None` if its messages are not limited.
    pub(super) throttle: Option<Box<Throttle>>,
    pub(super) is_draining: bool,
    /// When this connection may close for the drain.
    pub(super) drain_turn: Option<Instant>,
    pub(super) cause: Option<CloseCause>,
    pub(super) close_code: Option<CloseCode>,
    /// What either side gave as the reason, for the record; `None` is nothing.
    pub(super) close_reason: Option<Box<str>>,
    pub(super) received: u64,
    /// Bytes of the payloads of these.
    pub(super) received_bytes: u64,
    /// When a connection that is not read is looked at: its end would not be seen otherwise.
    pub(super) look_at: Option<Instant>,
    /// What the application is to hear of when all else is done with.
    pub(super) farewell: Option<Box<Occasion>>,
    /// A task that ends with the connection.
    pub(super) attendant: Option<tokio::task::AbortHandle>,
}

/// How often a connection that is not read is looked at.
const LOOK_INTERVAL: Duration = Duration::from_secs(5);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Phase {
    Open,
    /// The closing handshake is complete. What is queued still leaves, then our direction is shut
    /// down; what comes is discarded until the peer closes too, so that no reset overtakes our last
    /// bytes. A peer that does not take them, or does not close, is not waited for beyond `until`.
    Lingering {
        until: Instant,
        is_shut_down: bool,
    },
    Ended,
}

/// How far bytes from the peer were processed.
struct Processed {
    /// How many are left.
    unprocessed: usize,
    /// The answers are to be written before more.
    is_out_full: bool,
}

/// What the connection waits for.
#[derive(Debug)]
pub(super) struct Wait {
    /// Nothing but that the others have had their turn; there may be work left.
    pub(super) is_others_turn: bool,
    pub(super) read: bool,
    pub(super) write: bool,
    pub(super) deadline: Option<Instant>,
}

impl Inner {
    pub(super) fn is_open(&self) -> bool {
        self.phase == Phase::Open && self.protocol.state() == State::Open
    }

    /// Whether bytes from the peer may be processed now.
    pub(super) fn may_take(&self) -> bool {
        match self.protocol.state() {
            State::Open => {
                !self.is_draining
                    && !self.is_doors_turn
                    && self.turns.has_room()
                    && !self.is_held_back()
                    && self.throttled_until().is_none()
            }
            // Only the peer's close frame, or the end of the stream, is looked for.
            State::Closing | State::Closed => true,
        }
    }

    /// Whether so much waits for the peer that nothing more may come of it.
    pub(super) fn is_held_back(&self) -> bool {
        self.output.queue.is_over_limit() || self.is_squeezed
    }

    /// Whether there is nothing to be done but to wait: as after most messages that were answered
    /// as soon as they were read.
    pub(super) fn is_quiet(&self) -> bool {
        self.is_open()
            && self.turns.is_idle()
            && self.unread.is_empty()
            && self.output.is_idle()
            && !self.protocol.wants_transmit()
            && self.throttle.is_none()
            && !(self.is_draining || self.is_doors_turn || self.is_squeezed)
    }

    /// Until when its messages are held back because they came too fast.
    pub(super) fn throttled_until(&self) -> Option<Instant> {
        self.throttle.as_ref()?.held_until()
    }

    /// Goes on with messages that were held back long enough, or closes the connection.
    pub(super) fn settle_throttle(&mut self, now: Instant) {
        let Some(throttle) = &mut self.throttle else {
            return;
        };
        if !throttle.handle_timeout(now) && self.is_open() {
            let reason = "messages exceed limits.message_rate";
            self.close(
                CloseCause::MessageRate,
                CloseFrame::new(CloseCode::POLICY, reason),
            );
        }
    }

    /// Looks at what waits in the whole server. Whoever waits for less of it is woken by the kernel
    /// when it takes what waits here.
    pub(super) fn look_around(&mut self, counters: &Counters) {
        self.is_squeezed = !self.output.queue.is_empty() && counters.ledger.excess() > 0;
    }

    /// Whether the connection has had its share of the worker's time.
    pub(super) fn is_others_turn(&self) -> bool {
        self.spent >= FAIR_SHARE
    }

    /// Processes bytes from the peer as far as there is room and it is its turn, and keeps the rest.
    pub(super) fn take_in(
        &mut self,
        bytes: &mut [u8],
        server: &Shared,
        out: &mut Frames,
        now: Instant,
    ) {
        if self.phase != Phase::Open {
            return;
        }
        let counters = &server.hub.counters;
        let mut start = 0;
        loop {
            let mut input = Input::new(&mut bytes[start..]);
            let end = self.process(&mut input, start, server, out, now);
            start = bytes.len() - end.unprocessed;
            self.output.write_through(out, &bytes[..start], counters);
            if !end.is_out_full {
                break;
            }
        }
        self.unread.extend_from_slice(&bytes[start..]);
    }

    /// Processes input that begins at `start` of the lender of `out`, until it ends or `out` is to
    /// be written.
    fn process(
        &mut self,
        input: &mut Input<'_>,
        start: usize,
        server: &Shared,
        out: &mut Frames,
        now: Instant,
    ) -> Processed {
        let counters = &server.hub.counters;
        let (answers_ping, limit, echoes) = {
            let current = server.current();
            let ping = current.config.app().ping;
            let limit = current.config.limits().send_queue_size;
            (ping, limit, current.application.is_none())
        };
        let home = input.rest().as_ptr_range();
        let mut is_out_full = false;
        self.look_around(counters);
        while self.may_take() && !self.is_others_turn() {
            // Echoes and pongs that wait in `out` count as queued: a flood of them is not read on.
            is_out_full =
                !out.is_empty() && self.output.queue.len_bytes() + out.len_bytes() > limit;
            if is_out_full {
                break;
            }
            if let Some(throttle) = &mut self.throttle
                && !input.rest().is_empty()
                && self.protocol.state() == State::Open
                && !throttle.admits(now)
            {
                counters.messages_held_back.increment();
                break;
            }
            match self.protocol.receive(input, now) {
                None => break,
                Some(Event::Message(message)) => {
                    if let Some(throttle) = &mut self.throttle {
                        throttle.take(now);
                    }
                    self.received += 1;
                    self.received_bytes += message.payload.len() as u64;
                    counters.messages_received.increment();
                    counters.bytes_received.add(message.payload.len() as u64);
                    if self.is_compressed {
                        // A buffer of the wire's bytes may become many megabytes.
                        self.spent += INFLATED_COST + message.payload.len();
                    }
                    if echoes && self.is_compressed {
                        let (kind, payload) = (message.kind, message.payload.to_vec());
                        out.push(true, |out| self.encode(kind, &payload, out, counters));
                    } else if echoes {
                        // Valid as it came: what need not be compressed is not looked at again.
                        let (kind, payload) = (message.kind, message.payload);
                        let is_in_place = home.contains(&payload.as_ptr());
                        if payload.len() < LEND_LEN {
                            out.push(true, |out| frame::encode_server(kind, payload, out));
                        } else if is_in_place {
                            let at = start + payload.as_ptr().addr() - home.start.addr();
                            out.push_lent(true, at..at + payload.len(), |out| {
                                frame::encode_server_header(kind, payload.len(), out);
                            });
                        } else if out.is_empty() {
                            // It came in several reads, and lies in the machine until the next.
                            out.push_lent(true, 0..payload.len(), |out| {
                                frame::encode_server_header(kind, payload.len(), out);
                            });
                            self.output.write_through(out, payload, counters);
                        } else {
                            out.push(true, |out| frame::encode_server(kind, payload, out));
                        }
                    } else if answers_ping
                        && message.kind == MessageKind::Text
                        && message.payload == b"ping"
                    {
                        out.push(true, |out| {
                            frame::encode_server(MessageKind::Text, b"pong", out);
                        });
                    } else {
                        counters.callbacks_accepted.increment();
                        self.was_door = false;
                        self.turns.accept(Question {
                            event: Occasion::Message,
                            source: Source::Client,
                            kind: message.kind,
                            payload: Bytes::copy_from_slice(message.payload),
                        });
                    }
                }
                Some(Event::Ping(_)) => {
                    // Each ping gets its pong while the kernel takes everything; behind bytes that
                    // it refused, the machine keeps the latest only.
                    if self.output.queue.is_empty() {
                        out.push(false, |out| {
                            self.protocol.poll_transmit(out);
                        });
                    }
                }
                Some(Event::Pong(_)) => {}
                Some(Event::Close(frame)) => {
                    self.note_close(CloseCause::Peer, frame.as_ref().map(|frame| frame.code));
                    self.note_reason(CloseCause::Peer, frame.as_ref());
                }
                Some(Event::Failed(error)) => {
                    self.note_close(CloseCause::Protocol, Some(error.close_code()))
                }
            }
        }
        Processed {
            unprocessed: input.remaining(),
            is_out_full,
        }
    }

    pub(super) fn reply(&mut self, reply: &Reply, counters: &Counters) {
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
    pub(super) fn encode(
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
    pub(super) fn frame_of(&mut self, message: &EncodedMessage, counters: &Counters) -> Bytes {
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

    /// Begins the closing handshake behind everything that is queued.
    pub(super) fn close(&mut self, cause: CloseCause, frame: CloseFrame) {
        self.note_close(cause, Some(frame.code));
        self.note_reason(cause, Some(&frame));
        self.protocol.close(Some(frame), Instant::now());
    }

    /// The first cause is the cause.
    pub(super) fn note_close(&mut self, cause: CloseCause, code: Option<CloseCode>) {
        if self.cause.is_none() {
            self.cause = Some(cause);
            self.close_code = code;
        }
    }

    fn note_reason(&mut self, cause: CloseCause, frame: Option<&CloseFrame>) {
        let reason = frame.map_or("", |frame| &frame.reason);
        if self.cause == Some(cause) && !reason.is_empty() {
            self.close_reason = Some(reason.into());
        }
    }

    /// Queues the control frames that are due. Behind bytes that the kernel refused they wait in
    /// the machine, where a later pong replaces an earlier one; the close frame, behind which
    /// nothing comes, does not.
    pub(super) fn transmit(&mut self) {
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

    pub(super) fn flush(&mut self, counters: &Counters) {
        if self.output.flush(counters) == Err(Broken) {
            self.note_close(CloseCause::Vanished, None);
            self.phase = Phase::Ended;
        }
    }

    /// Gives everything up of which nothing was written, and begins the closing handshake: the peer
    /// learns the sooner why, and only whole frames. With context takeover those behind a dropped
    /// one could not be inflated: none comes, because from the close on the machine makes no frame
    /// but its own. Returns how many messages that were.
    pub(super) fn give_up(
        &mut self,
        cause: CloseCause,
        reason: &'static str,
        counters: &Counters,
    ) -> u64 {
        let reason_counted = match cause {
            CloseCause::OverflowTotal => DropReason::OverflowTotal,
            CloseCause::Slow => DropReason::Slow,
            _ => DropReason::Overflow,
        };
        let dropped = self.output.drop_untouched(reason_counted, counters);
        self.close(cause, CloseFrame::new(CloseCode::TRY_LATER, reason));
        dropped
    }

    /// Closes the connection if its peer has taken nothing for `timeout`.
    pub(super) fn settle_stall(&mut self, timeout: Duration, counters: &Counters, now: Instant) {
        self.output.note_stall(now);
        let is_due = |output: &Output| output.stalled_at(timeout).is_some_and(|at| at <= now);
        if !self.is_open() || !is_due(&self.output) {
            return;
        }
        self.output.write_unasked(counters);
        self.output.note_stall(now);
        if is_due(&self.output) {
            let reason = "nothing was read for limits.write_timeout";
            self.give_up(CloseCause::Slow, reason, counters);
            self.transmit();
        }
    }

    /// RFC 6455 §7.1.1: the server closes the TCP connection first, once both close frames are out.
    pub(super) fn linger_once_closed(&mut self, now: Instant) {
        let until = now + self.protocol.config().close_timeout();
        if self.phase == Phase::Open && self.protocol.state() == State::Closed {
            // Whoever answers no ping answers no close frame, and what waits for it waits in vain.
            if self.cause == Some(CloseCause::PongTimeout) {
                self.phase = Phase::Ended;
                return;
            }
            self.unread = Vec::new();
            self.phase = Phase::Lingering {
                until,
                is_shut_down: false,
            };
        }
        let waits_for_our_end = matches!(
            self.phase,
            Phase::Lingering {
                is_shut_down: false,
                ..
            }
        );
        if !waits_for_our_end || !self.output.queue.is_empty() {
            return;
        }
        let stream = self.output.stream.as_ref();
        let shut_down = stream.is_some_and(|stream| stream.shutdown_write().is_ok());
        self.phase = match shut_down {
            true => Phase::Lingering {
                until,
                is_shut_down: true,
            },
            false => Phase::Ended,
        };
    }

    /// Wakes what works for the connection, if there is something new for it.
    pub(super) fn wake_work(&mut self) {
        let is_open = self.is_open();
        let has_room = !self.is_held_back();
        let has_waiting = self.turns.has_waiting();
        match self.work.program() {
            None => self.work.wake(),
            Some(program) => {
                let is_freed = program.is_held_back && has_room;
                if is_freed || has_waiting || program.is_dismissed || !is_open {
                    program.bell.ring();
                }
            }
        }
    }

    pub(super) fn dismiss_attendant(&mut self) {
        if let Some(task) = self.attendant.take() {
            task.abort();
        }
    }

    pub(super) fn wait(&mut self, write_timeout: Duration, now: Instant) -> Option<Wait> {
        if self.phase == Phase::Ended {
            return None;
        }
        let read = self.unread.is_empty() && self.may_take();
        if read == self.is_paused {
            self.is_paused = !read;
            match read {
                true => self.protocol.resume(now),
                false => self.protocol.pause(now),
            }
        }
        self.look_at = match read || !self.is_open() {
            true => None,
            false => Some(self.look_at.unwrap_or(now + LOOK_INTERVAL)),
        };
        let lingering = match self.phase {
            Phase::Lingering { until, .. } => Some(until),
            Phase::Open | Phase::Ended => None,
        };
        // One that has passed has nothing to wait for but the end of what was accepted since.
        let drain_turn = self.drain_turn.filter(|turn| *turn > now && self.is_open());
        let stalled = self
            .output
            .stalled_at(write_timeout)
            .filter(|_| self.is_open());
        let throttled = self.throttled_until().filter(|_| self.is_open());
        let deadlines = [
            lingering,
            drain_turn,
            stalled,
            throttled,
            self.look_at,
            self.protocol.poll_timeout(),
        ];
        let deadline = deadlines.into_iter().flatten().min();
        let write = !self.output.is_flushed();
        Some(Wait {
            is_others_turn: self.is_others_turn(),
            read,
            write,
            deadline,
        })
    }
}

#[cfg(test)]
mod tests;

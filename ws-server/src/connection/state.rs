//! What a connection is made of, and what it waits for.

mod closing;
mod intake;
mod sending;

use std::rc::Rc;
use std::time::{Duration, Instant};

use ws_proto::{CloseCode, CloseFrame, State};

use super::output::Output;
use super::work::Work;
use crate::core::answer::{Answer, Reply};
use crate::core::question::{Occasion, Question};
use crate::core::rate::Throttle;
use crate::core::turns::Turns;
use crate::counters::{CloseCause, Counters};
use crate::places::Place;

/// Bytes that a connection may have processed before the worker's others get their turn: a peer
/// that sends without a pause would hold them up otherwise.
const FAIR_SHARE: usize = 256 * 1024;
/// How often a connection that is not read is looked at.
const LOOK_INTERVAL: Duration = Duration::from_secs(5);

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
    pub(super) cause: Option<CloseCause>,
    /// `None` until something of it is known.
    pub(super) parting: Option<Box<Parting>>,
    pub(super) received: u64,
    /// Bytes of the payloads of these.
    pub(super) received_bytes: u64,
    /// When a connection that is not read is looked at: its end would not be seen otherwise. Boxed, as
    /// all but a few are read.
    pub(super) look_at: Option<Box<Instant>>,
    /// A task that ends with the connection.
    pub(super) attendant: Option<tokio::task::AbortHandle>,
    /// Shared by the replies that are followed; `None` until one is.
    pub(super) followed: Option<Rc<()>>,
}

/// What is known only of a connection that is about to end.
#[derive(Debug, Default)]
pub(super) struct Parting {
    /// When it may close for the drain.
    pub(super) drain_turn: Option<Instant>,
    pub(super) close_code: Option<CloseCode>,
    /// What either side gave as the reason, for the record; `None` is nothing.
    pub(super) close_reason: Option<Box<str>>,
    /// How long a peer is waited for that does not close.
    pub(super) lingers_until: Option<Instant>,
    /// What the application is to hear of when all else is done with.
    pub(super) farewell: Option<Occasion>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Phase {
    Open,
    /// The closing handshake is complete. What is queued still leaves, then our direction is shut
    /// down; what comes is discarded until the peer closes too, so that no reset overtakes our last
    /// bytes. A peer that does not take them, or does not close, is not waited for beyond
    /// [`Parting::lingers_until`].
    Lingering {
        is_shut_down: bool,
    },
    Ended,
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
    /// An open connection over a stream, of which nothing is known yet but the protocol.
    pub(super) fn new(
        output: Output,
        protocol: ws_proto::Connection,
        is_compressed: bool,
        turns: Turns<Question, Answer, Reply>,
    ) -> Self {
        Self {
            output,
            protocol,
            is_compressed,
            turns,
            work: Work::default(),
            unread: Vec::new(),
            spent: 0,
            phase: Phase::Open,
            place: None,
            was_door: false,
            is_doors_turn: false,
            is_paused: false,
            is_squeezed: false,
            throttle: None,
            is_draining: false,
            cause: None,
            parting: None,
            received: 0,
            received_bytes: 0,
            look_at: None,
            attendant: None,
            followed: None,
        }
    }

    pub(super) fn parting(&mut self) -> &mut Parting {
        self.parting.get_or_insert_default()
    }

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
        if throttle.handle_timeout(now) {
            return;
        }
        let (cause, reason) = match throttle.is_own_over() {
            true => (
                CloseCause::MessageRate,
                "messages exceed limits.message_rate",
            ),
            false => (
                CloseCause::MessageRatePerUser,
                "messages exceed limits.message_rate_per_user",
            ),
        };
        if self.is_open() {
            self.close(cause, CloseFrame::new(CloseCode::POLICY, reason));
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
            false => {
                let look_at = self.look_at.take();
                Some(look_at.unwrap_or_else(|| Box::new(now + LOOK_INTERVAL)))
            }
        };
        let parting = self.parting.as_ref();
        let lingering = parting.and_then(|parting| parting.lingers_until);
        // One that has passed has nothing to wait for but the end of what was accepted since.
        let drain_turn = parting
            .and_then(|parting| parting.drain_turn)
            .filter(|turn| *turn > now && self.is_open());
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
            self.look_at.as_deref().copied(),
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

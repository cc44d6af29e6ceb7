//! How a connection closes: why, and what is still waited for.

use std::time::{Duration, Instant};

use ws_proto::{CloseCode, CloseFrame, ProtocolError, State};

use super::{Inner, Phase};
use crate::connection::output::Output;
use crate::counters::{CloseCause, Counters, DropReason};

impl Inner {
    /// Begins the closing handshake behind everything that is queued.
    pub(in crate::connection) fn close(&mut self, cause: CloseCause, frame: CloseFrame) {
        self.note_close(cause, Some(frame.code));
        self.note_reason(cause, Some(&frame));
        self.protocol.close(Some(frame), Instant::now());
    }

    /// Notes that the machine has failed the connection, and why.
    pub(in crate::connection) fn note_failure(&mut self, error: &ProtocolError) {
        let cause = match error {
            ProtocolError::MessageTooBig { .. } => CloseCause::MaxMessageSize,
            ProtocolError::MessageTimeout => CloseCause::MessageTimeout,
            ProtocolError::TooManyFragments { .. } => CloseCause::MaxFragmentCount,
            ProtocolError::TooManyEmptyFragments { .. } => CloseCause::MaxEmptyFragmentCount,
            ProtocolError::TooManyControlFrames => CloseCause::ControlRate,
            ProtocolError::PongTimeout => CloseCause::PongTimeout,
            ProtocolError::CloseTimeout => CloseCause::Vanished,
            _ => CloseCause::Protocol,
        };
        self.note_close(cause, Some(error.close_code()));
        let frame = CloseFrame::new(error.close_code(), error.to_string());
        self.note_reason(cause, Some(&frame));
    }

    /// The first cause is the cause.
    pub(in crate::connection) fn note_close(&mut self, cause: CloseCause, code: Option<CloseCode>) {
        if self.cause.is_none() {
            self.cause = Some(cause);
            if code.is_some() {
                self.parting().close_code = code;
            }
        }
    }

    pub(super) fn note_reason(&mut self, cause: CloseCause, frame: Option<&CloseFrame>) {
        let reason = frame.map_or("", |frame| &frame.reason);
        if self.cause == Some(cause) && !reason.is_empty() {
            self.parting().close_reason = Some(reason.into());
        }
    }

    /// Gives everything up of which nothing was written, and begins the closing handshake: the peer
    /// learns the sooner why, and only whole frames. With context takeover those behind a dropped
    /// one could not be inflated: none comes, because from the close on the machine makes no frame
    /// but its own. Returns how many messages that were.
    pub(in crate::connection) fn give_up(
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
    pub(in crate::connection) fn settle_stall(
        &mut self,
        timeout: Duration,
        counters: &Counters,
        now: Instant,
    ) {
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
    pub(in crate::connection) fn linger_once_closed(&mut self, now: Instant) {
        if self.phase == Phase::Open && self.protocol.state() == State::Closed {
            // Whoever answers no ping answers no close frame, and what waits for it waits in vain.
            if self.cause == Some(CloseCause::PongTimeout) {
                self.phase = Phase::Ended;
                return;
            }
            self.unread = Vec::new();
            self.linger(false, now);
        }
        let waits_for_our_end = Phase::Lingering {
            is_shut_down: false,
        };
        if self.phase != waits_for_our_end || !self.output.queue.is_empty() {
            return;
        }
        let stream = self.output.stream.as_ref();
        let shut_down = stream.is_some_and(|stream| stream.shutdown_write().is_ok());
        match shut_down {
            true => self.linger(true, now),
            false => self.phase = Phase::Ended,
        }
    }

    fn linger(&mut self, is_shut_down: bool, now: Instant) {
        self.phase = Phase::Lingering { is_shut_down };
        let until = now + self.protocol.config().close_timeout();
        self.parting().lingers_until = Some(until);
    }
}

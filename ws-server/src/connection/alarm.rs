//! The deadlines of a connection, and the alarm by which its worker wakes it for the next.

use std::time::{Duration, Instant};

use ws_proto::{CloseCode, CloseFrame, Event, ProtocolError};
use ws_transport::Stream;

use super::Connection;
use super::state::Phase;
use crate::counters::{CloseCause, Counters};
use crate::shard::Shard;

impl Connection {
    /// Closes the connection if it is over; else says when it will be.
    pub(super) fn expire(&self, shard: &Shard, now: Instant) -> Option<Instant> {
        let tenths = u64::from(self.expires?.get());
        let over = self.opened + Duration::from_millis(100 * tenths);
        let mut state = self.state.borrow_mut();
        if !state.is_open() {
            return None;
        }
        if now < over {
            return Some(over);
        }
        let current = shard.server.current();
        let token = current.config.identity().token.as_ref();
        let frame = token.map(|token| token.expired.clone());
        let frame = frame.unwrap_or_else(|| CloseFrame::new(CloseCode::POLICY, ""));
        state.close(CloseCause::Expired, frame);
        None
    }

    /// Has the connection woken at `deadline`. An alarm that rings early costs one more turn; one
    /// that is moved with every message would cost more.
    pub(super) fn set_alarm(&self, shard: &Shard, deadline: Instant) {
        let ring = shard.set_alarm(self.slot(), self.alarm.get(), deadline);
        if ring.is_some() {
            self.alarm.set(ring);
        }
    }

    /// Does what is due: the worker's answer to [`set_alarm`](Self::set_alarm).
    pub(crate) fn handle_alarm(&self, counters: &Counters) {
        self.alarm.set(None);
        self.handle_timeout(counters);
        self.seat.ask();
    }

    fn handle_timeout(&self, counters: &Counters) {
        let now = Instant::now();
        let mut state = self.state.borrow_mut();
        let parting = state.parting.as_ref();
        let lingers_until = parting.and_then(|parting| parting.lingers_until);
        if lingers_until.is_some_and(|until| until <= now) {
            state.phase = Phase::Ended;
            counters.close_timeouts.increment();
        }
        if state.look_at.as_ref().is_some_and(|at| **at <= now) {
            state.look_at = None;
            if state.output.stream.as_ref().is_some_and(Stream::is_lost) {
                state.note_close(CloseCause::Vanished, None);
                state.phase = Phase::Ended;
            }
        }
        while state.protocol.poll_timeout().is_some_and(|at| at <= now) {
            if let Some(Event::Failed(error)) = state.protocol.handle_timeout(now) {
                if error == ProtocolError::CloseTimeout {
                    state.phase = Phase::Ended;
                    counters.close_timeouts.increment();
                }
                state.note_failure(&error);
            }
        }
    }
}

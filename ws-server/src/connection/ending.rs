//! The end of a connection: what is taken down with it, and what of it still runs.

use std::rc::Rc;

use tracing::info;
use ws_proto::CloseCode;

use super::runs::CLOSE_ID;
use super::state::{Inner, Phase};
use super::turn::{Stage, Turn};
use super::{Connection, traced};
use crate::config::OnDisconnect;
use crate::core::changes::End;
use crate::core::question::{Occasion, Question};
use crate::counters::CloseCause;
use crate::shard::Shard;

impl Connection {
    /// Whether it is known to nobody any more, and is kept for its callbacks only.
    pub(crate) fn has_left(&self) -> bool {
        self.stage.get() == Stage::Left
    }

    /// The stream is of no more use.
    pub(super) fn end(&self, cause: CloseCause) {
        let mut state = self.state.borrow_mut();
        state.note_close(cause, None);
        state.phase = Phase::Ended;
    }

    /// Takes the connection out of everything and writes its one record. Returns what the
    /// application is to hear of it.
    pub(super) fn leave(&self, shard: &Shard) -> Option<Occasion> {
        let server = &shard.server;
        let mut state = self.state.borrow_mut();
        if state.turns.is_idle() && !state.work.has_program() {
            state.place = None;
        }
        shard.remove_alarm(self.slot(), self.alarm.take());
        let counters = &server.hub.counters;
        state.phase = Phase::Ended;
        state.output.stream = None;
        state.unread = Vec::new();
        state.dismiss_attendant();
        let unsent = state.output.clear(counters);
        let cause = state.cause.unwrap_or(CloseCause::Vanished);
        // RFC 6455 §7.4.1: 1005 is a close frame without a code, 1006 no close frame at all.
        let no_code = if cause == CloseCause::Peer {
            1005
        } else {
            1006
        };
        let parting = state.parting.as_deref();
        let code = parting.and_then(|parting| parting.close_code);
        let code = code.map_or(no_code, CloseCode::as_u16);
        counters.closed(cause);
        // Whoever sees that it is gone sees it counted.
        let end = End {
            code,
            cause: cause.as_str(),
        };
        let standing = server.hub.remove(self.id(), end);
        if server.current().config.app().on_disconnect == OnDisconnect::Cancel {
            state.work.abort_runs();
        }
        state.wake_work();
        info!(
            parent: &self.visitor.span(),
            path = self.visitor.path(),
            cause = cause.as_str(),
            close.code = code,
            close.reason = state.parting.as_ref().and_then(|it| it.close_reason.as_deref()),
            elapsed = ?self.opened.elapsed(),
            received = state.received,
            received_bytes = state.received_bytes,
            sent = state.output.sent,
            sent_bytes = state.output.sent_bytes,
            unsent,
            "connection closed"
        );
        drop(state);
        self.tell_ended();
        let is_asked = server.current().config.app().events.close && cause != CloseCause::Stopped;
        standing
            .filter(|_| is_asked)
            .map(|standing| Occasion::Close {
                standing,
                code,
                cause: cause.as_str(),
            })
    }

    /// Runs what was accepted before the end; there is nobody left to answer.
    pub(super) fn finish_turns(self: &Rc<Self>, shard: &Rc<Shard>) -> Turn {
        let counters = &shard.server.hub.counters;
        let cancels = shard.server.current().config.app().on_disconnect == OnDisconnect::Cancel;
        let mut state = self.state.borrow_mut();
        // A program takes what was accepted, and ends behind that.
        if state.work.has_program() {
            return Turn::Over;
        }
        if cancels || state.cause == Some(CloseCause::Stopped) {
            let waiting = state.turns.cancel_waiting() as u64;
            counters.callbacks_cancelled.add(waiting);
            self.end_turns(shard, &mut state);
            return Turn::Ended;
        }
        loop {
            if state.turns.next_part().is_some() {
                counters.replies_dropped.increment();
                continue;
            }
            let Some((id, answer)) = state.turns.next_answer() else {
                break;
            };
            counters.replies_dropped.add(answer.reply.is_some().into());
            let span = state.work.forget(id);
            traced::reply_to_nobody(answer.reply.as_ref(), span);
        }
        while let Some((id, question)) = state.turns.start() {
            let started = self.start_run(shard, id, question);
            state.work.begin(id, started);
        }
        if !state.turns.is_idle() {
            return Turn::Over;
        }
        self.end_turns(shard, &mut state);
        Turn::Ended
    }

    /// Nothing is left to do but to have the application hear of the end, if it wants to. Its
    /// answer goes nowhere.
    fn end_turns(self: &Rc<Self>, shard: &Rc<Shard>, state: &mut Inner) {
        state.place = None;
        let farewell = state.parting.as_mut().and_then(|it| it.farewell.take());
        if let Some(event) = farewell {
            shard.server.hub.counters.callbacks_accepted.increment();
            self.start_run(shard, CLOSE_ID, Question::of_event(event));
        }
    }

    /// Ends a connection that a fault of ours has left as it is.
    pub(crate) fn abandon(&self, shard: &Shard) {
        let end = End {
            code: 1006,
            cause: CloseCause::Vanished.as_str(),
        };
        shard.server.hub.remove(self.id(), end);
        shard.remove_alarm(self.slot(), self.alarm.take());
        self.end(CloseCause::Vanished);
        let mut state = self.state.borrow_mut();
        state.output.clear(&shard.server.hub.counters);
        state.dismiss_attendant();
        drop(state);
        self.tell_ended();
    }
}

//! The turns of a connection: what is done when its worker comes to it, and what it waits for then.

use std::io;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::Instant;

use ws_proto::{CloseCode, CloseFrame};

use super::state::{Inner, Wait};
use super::{Connection, traced};
use crate::counters::CloseCause;
use crate::shard::Shard;

/// Bytes taken from a socket at a time while too much waits in the whole server: nobody's answers
/// are held back before there are any, so a crowd of such reads must not add up to much.
const SQUEEZED_READ_SIZE: usize = 16 * 1024;
/// What a turn counts for besides its bytes.
const TURN_COST: usize = 4 * 1024;

/// What the next turn begins with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Stage {
    /// To do what is due.
    Due,
    /// The same, after the others have had their turns.
    Yielded,
    /// To see what has happened of this.
    Waiting { read: bool, write: bool },
    /// It has ended, and callbacks of what it had accepted still run.
    Left,
}

/// How a turn ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Turn {
    /// There is nothing to do but to wait.
    Over,
    /// The connection has had its share of the worker's time, and goes on after the others.
    Cut,
    /// The connection has ended and every accepted message is done with.
    Ended,
}

/// Why a turn goes on.
#[derive(Debug)]
enum Wake {
    Readable,
    /// The kernel takes bytes again, or something happened that is not on the stream.
    Changed,
    /// The stream is of no more use.
    Broken,
}

impl Connection {
    /// Does what there is to do.
    pub(crate) fn take_turn(self: &Rc<Self>, shard: &Rc<Shard>) -> Turn {
        self.seat.begin_turn();
        let waker = Waker::from(Arc::clone(&self.seat));
        let cx = &mut Context::from_waker(&waker);
        let mut wake = match self.stage.get() {
            Stage::Due => Wake::Changed,
            Stage::Yielded => {
                self.state.borrow_mut().spent = 0;
                Wake::Changed
            }
            // What woke us is most often that there is something to read, and to try costs less
            // than to ask.
            Stage::Waiting { read: true, .. } => Wake::Readable,
            Stage::Waiting { read, write } => match self.poll_stream(cx, read, write) {
                Poll::Ready(wake) => wake,
                // Somebody has asked for the turn.
                Poll::Pending => Wake::Changed,
            },
            Stage::Left => return self.finish_turns(shard),
        };
        loop {
            let now = Instant::now();
            match wake {
                Wake::Readable => self.read(shard, now),
                Wake::Changed => {}
                Wake::Broken => self.end(CloseCause::Vanished),
            }
            let expiry = self.expire(shard, now);
            let Some(wait) = self.settle(shard, now) else {
                let closed = self.leave(shard);
                if closed.is_some() {
                    self.state.borrow_mut().parting().farewell = closed;
                }
                self.stage.set(Stage::Left);
                return self.finish_turns(shard);
            };
            // Also of one who is never without something to do.
            if let Some(deadline) = wait.deadline.into_iter().chain(expiry).min() {
                self.set_alarm(shard, deadline);
            }
            if wait.is_others_turn {
                self.stage.set(Stage::Yielded);
                self.seat.ask();
                return Turn::Cut;
            }
            let Wait { read, write, .. } = wait;
            self.stage.set(Stage::Waiting { read, write });
            wake = match self.poll_stream(cx, read, write) {
                Poll::Ready(wake) => wake,
                Poll::Pending => return Turn::Over,
            };
        }
    }

    fn poll_stream(&self, cx: &mut Context<'_>, read: bool, write: bool) -> Poll<Wake> {
        let state = self.state.borrow();
        let Some(stream) = &state.output.stream else {
            return Poll::Ready(Wake::Broken);
        };
        if read && let Poll::Ready(ready) = stream.poll_readable(cx) {
            return Poll::Ready(ready.map_or(Wake::Broken, |()| Wake::Readable));
        }
        if write && let Poll::Ready(ready) = stream.poll_writable(cx) {
            return Poll::Ready(ready.map_or(Wake::Broken, |()| Wake::Changed));
        }
        Poll::Pending
    }

    /// Processes what has arrived, one buffer at most.
    fn read(&self, shard: &Rc<Shard>, now: Instant) {
        let mut scratch = shard.scratch.borrow_mut();
        let scratch = &mut *scratch;
        let mut state = self.state.borrow_mut();
        let is_squeezed = shard.server.hub.counters.ledger.excess() > 0;
        let room = match is_squeezed {
            true => &mut scratch.read[..SQUEEZED_READ_SIZE],
            false => &mut scratch.read[..],
        };
        let stream = state.output.stream.as_ref();
        let read = stream.map_or(Ok(0), |stream| stream.try_read(room));
        let read = match read {
            Ok(read) if read > 0 => read,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return,
            Ok(_) | Err(_) => {
                drop(state);
                return self.end(CloseCause::Vanished);
            }
        };
        state.take_in(
            &mut scratch.read[..read],
            &shard.server,
            &mut scratch.write,
            now,
        );
        state.spent += TURN_COST + read;
    }

    /// Does everything that can be done without waiting, and says what to wait for. `None`: the
    /// connection has ended.
    fn settle(self: &Rc<Self>, shard: &Rc<Shard>, now: Instant) -> Option<Wait> {
        let counters = &shard.server.hub.counters;
        let mut state = self.state.borrow_mut();
        let state = &mut *state;
        let write_timeout = shard.server.current().config.limits().write_timeout;
        if state.is_quiet() && self.waiting_runs() == 0 {
            state.wake_work();
            return state.wait(write_timeout, now);
        }
        state.settle_throttle(now);
        loop {
            self.take_turns(state, shard, now);
            let was_held_back = state.is_held_back();
            self.settle_drain(state, shard, now);
            state.flush(counters);
            state.transmit();
            state.flush(counters);
            // What was held back for a full queue goes on as soon as the kernel takes it: nothing
            // else would wake us.
            state.look_around(counters);
            let has_room_again = was_held_back && !state.is_held_back();
            // A connection that closes for the drain looks for the peer's close frame.
            let has_unread =
                !state.unread.is_empty() && state.may_take() && !state.is_others_turn();
            if !has_room_again && !has_unread {
                break;
            }
        }
        state.settle_stall(write_timeout, counters, now);
        state.linger_once_closed(now);
        if self.waiting_runs() > 0 && state.turns.has_room() {
            self.tell_room();
        }
        if !state.is_open() {
            self.tell_ended();
        }
        state.wake_work();
        state.wait(write_timeout, now)
    }

    /// Queues the answers that are due, starts the callbacks that may run, and takes in what was
    /// read before there was room for it.
    fn take_turns(self: &Rc<Self>, state: &mut Inner, shard: &Rc<Shard>, now: Instant) {
        let counters = &shard.server.hub.counters;
        loop {
            loop {
                if let Some(part) = state.turns.next_part() {
                    state.reply(&part, counters);
                    continue;
                }
                let Some((id, answer)) = state.turns.next_answer() else {
                    break;
                };
                let span = state.work.forget(id);
                traced::reply(shard, state, answer.reply.as_ref(), span);
                if let Some(frame) = answer.close {
                    state.close(CloseCause::Application, frame);
                }
            }
            // The task of a program fetches them itself.
            while !state.is_held_back() && state.work.program().is_none() {
                let Some((id, question)) = state.turns.start() else {
                    break;
                };
                let started = self.start_run(shard, id, question);
                state.work.begin(id, started);
            }
            // When both wait for room, the client and the doors take turns.
            let door_waits = state.turns.has_room() && self.waiting_runs() > 0;
            state.is_doors_turn = door_waits && !state.was_door;
            if state.unread.is_empty() || !state.may_take() || state.is_others_turn() {
                return;
            }
            let mut bytes = std::mem::take(&mut state.unread);
            let mut write = shard.scratch.borrow_mut();
            state.take_in(&mut bytes, &shard.server, &mut write.write, now);
        }
    }

    fn settle_drain(&self, state: &mut Inner, shard: &Shard, now: Instant) {
        let has_work = !state.turns.is_idle() || self.waiting_runs() > 0;
        if !state.is_draining || !state.is_open() || has_work {
            return;
        }
        let turn = *state
            .parting()
            .drain_turn
            .get_or_insert_with(|| shard.server.hub.drain_turn(now));
        if turn > now {
            return;
        }
        match state.work.program() {
            // The connection is closed when that has ended.
            Some(program) if !program.has_ended => program.is_dismissed = true,
            _ => state.close(
                CloseCause::Drain,
                CloseFrame::new(CloseCode::AWAY, "server is going down"),
            ),
        }
    }
}

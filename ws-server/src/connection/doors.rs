//! What the FIFOs and the control API wait for at a connection: room for a run, and its end.

use std::cell::Cell;
use std::task::{Context, Poll, ready};

use tokio::sync::Notify;

use super::Connection;
use crate::bell::Bell;
use crate::core::question::Question;
use crate::counters::Counters;

/// The connection has ended or accepts nothing more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Ended;

/// Who waits for a connection, besides its worker.
#[derive(Debug, Default)]
pub(super) struct Doors {
    /// Wakes whoever waits for room among the turns.
    room: Notify,
    /// Wakes the reader of the connection's FIFO.
    ended: Bell,
    /// Runs that wait for room: accepted by a door, so the connection does not drain before them.
    waiting_runs: Cell<usize>,
}

impl Connection {
    /// Accepts a run from a FIFO or the control socket; waits while the queue is full.
    ///
    /// # Errors
    ///
    /// [`Ended`] if the connection ends before there is room.
    pub(crate) async fn admit(&self, counters: &Counters, question: Question) -> Result<(), Ended> {
        let _waiting = WaitingRun::new(self);
        loop {
            {
                let mut state = self.state.borrow_mut();
                if !state.is_open() {
                    return Err(Ended);
                }
                if state.turns.has_room() {
                    counters.callbacks_accepted.increment();
                    state.turns.accept(question);
                    state.was_door = true;
                    state.is_doors_turn = false;
                    self.seat.ask();
                    return Ok(());
                }
            }
            self.doors().room.notified().await;
        }
    }

    /// Ready when the connection accepts nothing more because it ends. One task may wait for it:
    /// the latest caller is woken.
    pub(crate) fn poll_ended(&self, cx: &mut Context<'_>) -> Poll<()> {
        // It may have rung when the connection was drained or the like.
        while self.state.borrow().is_open() {
            ready!(self.doors().ended.poll_rung(cx));
        }
        Poll::Ready(())
    }

    pub(super) fn waiting_runs(&self) -> usize {
        self.doors.get().map_or(0, |doors| doors.waiting_runs.get())
    }

    /// Lets one of those who wait for room see that there is some.
    pub(super) fn tell_room(&self) {
        self.doors().room.notify_one();
    }

    /// Lets those who wait for room, or for the end, see that this is it.
    pub(super) fn tell_ended(&self) {
        if let Some(doors) = self.doors.get() {
            doors.room.notify_waiters();
            doors.ended.ring();
        }
    }

    fn doors(&self) -> &Doors {
        self.doors.get_or_init(Box::default)
    }
}

/// Counts a run that waits for room.
struct WaitingRun<'a>(&'a Connection);

impl<'a> WaitingRun<'a> {
    fn new(connection: &'a Connection) -> Self {
        let count = &connection.doors().waiting_runs;
        count.set(count.get() + 1);
        Self(connection)
    }
}

impl Drop for WaitingRun<'_> {
    fn drop(&mut self) {
        let count = &self.0.doors().waiting_runs;
        count.set(count.get() - 1);
        // The client may have been waiting for it.
        self.0.seat.ask();
    }
}

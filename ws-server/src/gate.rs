//! What keeps the handshakes of many from the time of others.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::time::Instant;

use tokio::sync::Semaphore;
use tokio::task::yield_now;

use crate::bell::Bell;
use crate::core::handshakes::Handshakes;
use crate::shard::Shard;

/// Why a handshake has to go before it has said what it wants.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Dismissal {
    /// Too many newer ones came.
    Crowd,
    /// Its time is over.
    Late,
    /// The server is going down.
    Draining,
}

/// The opening handshakes of one worker.
///
/// One clock and one list are for all of them: a timer of the runtime and two queues to listen to
/// cost a handshake more than to read its head.
#[derive(Debug)]
pub(crate) struct Gate {
    handshakes: RefCell<Handshakes<Rc<Waiting>>>,
    /// Whose turn it is to work on TLS.
    turn: Semaphore,
}

#[derive(Debug)]
struct Waiting {
    deadline: Instant,
    dismissal: Cell<Option<Dismissal>>,
    dismissed: Bell,
}

impl Waiting {
    /// The first reason is the reason.
    fn dismiss(&self, dismissal: Dismissal) {
        if self.dismissal.get().is_none() {
            self.dismissal.set(Some(dismissal));
            self.dismissed.ring();
        }
    }
}

impl Gate {
    pub(crate) fn new(limit: usize) -> Self {
        Self {
            handshakes: RefCell::new(Handshakes::new(limit)),
            turn: Semaphore::new(1),
        }
    }

    /// Waits until a handshake may work on TLS. To sign takes the thread a millisecond or so: each
    /// such piece of one handshake is followed by whatever the worker's connections have to do.
    pub(crate) async fn turn(&self) {
        // The semaphore is never closed.
        let _turn = self.turn.acquire().await;
        yield_now().await;
    }

    /// When the time of the oldest is over. Those that another worker has accepted may be behind
    /// younger ones, by as much as they waited to be handed over.
    pub(crate) fn next_deadline(&self) -> Option<Instant> {
        let handshakes = self.handshakes.borrow();
        handshakes.oldest().map(|oldest| oldest.deadline)
    }

    /// Sends those away whose time is over by `now`.
    pub(crate) fn dismiss_late(&self, now: Instant) {
        while self.next_deadline().is_some_and(|at| at <= now) {
            self.dismiss_oldest(Dismissal::Late);
        }
    }

    /// Sends all away.
    pub(crate) fn drain(&self) {
        while self.dismiss_oldest(Dismissal::Draining) {}
    }

    /// `false` if there is none.
    fn dismiss_oldest(&self, dismissal: Dismissal) -> bool {
        let oldest = self.handshakes.borrow_mut().take_oldest();
        oldest.inspect(|oldest| oldest.dismiss(dismissal)).is_some()
    }
}

/// One handshake that may have to go.
#[derive(Debug)]
pub(crate) struct Newcomer {
    shard: Rc<Shard>,
    number: u64,
    waiting: Rc<Waiting>,
}

impl Newcomer {
    pub(crate) fn enter(shard: &Rc<Shard>, deadline: Instant) -> Self {
        let waiting = Rc::new(Waiting {
            deadline,
            dismissal: Cell::new(None),
            dismissed: Bell::default(),
        });
        let entered = Rc::clone(&waiting);
        let (number, oldest) = shard.gate.handshakes.borrow_mut().enter(entered);
        if let Some(oldest) = oldest {
            // It may just have finished.
            oldest.dismiss(Dismissal::Crowd);
        }
        match shard.is_draining() {
            true => waiting.dismiss(Dismissal::Draining),
            false => shard.wake_at(deadline),
        }
        Self {
            shard: Rc::clone(shard),
            number,
            waiting,
        }
    }

    /// Resolves when this one has to go.
    pub(crate) async fn dismissed(&self) -> Dismissal {
        loop {
            if let Some(dismissal) = self.waiting.dismissal.get() {
                // What it has sent already may not have been looked at.
                yield_now().await;
                yield_now().await;
                return dismissal;
            }
            self.waiting.dismissed.rung().await;
        }
    }

    /// Says what it wants, and cannot be sent away for a newer one any more.
    pub(crate) fn leave(&self) {
        self.shard.gate.handshakes.borrow_mut().leave(self.number);
    }
}

impl Drop for Newcomer {
    fn drop(&mut self) {
        self.leave();
    }
}

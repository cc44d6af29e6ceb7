//! What keeps the handshakes of many from the time of others.

use std::cell::RefCell;
use std::rc::Rc;

use tokio::sync::{Semaphore, oneshot};
use tokio::task::yield_now;

use crate::core::handshakes::Handshakes;
use crate::shard::Shard;

/// The opening handshakes of one worker.
#[derive(Debug)]
pub(crate) struct Gate {
    handshakes: RefCell<Handshakes<oneshot::Sender<()>>>,
    /// Whose turn it is to work on TLS.
    turn: Semaphore,
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
}

/// One handshake that may have to go for a newer one.
#[derive(Debug)]
pub(crate) struct Newcomer {
    shard: Rc<Shard>,
    number: u64,
    dismissal: oneshot::Receiver<()>,
}

impl Newcomer {
    pub(crate) fn enter(shard: &Rc<Shard>) -> Self {
        let (sender, dismissal) = oneshot::channel();
        let (number, oldest) = shard.gate.handshakes.borrow_mut().enter(sender);
        if let Some(oldest) = oldest {
            // It may just have finished.
            let _ = oldest.send(());
        }
        Self {
            shard: Rc::clone(shard),
            number,
            dismissal,
        }
    }

    /// Resolves when this one has to go.
    pub(crate) async fn dismissed(&mut self) {
        if (&mut self.dismissal).await.is_err() {
            // Done with, and not for others to send away any more.
            return std::future::pending().await;
        }
        // What it has sent already may not have been looked at.
        yield_now().await;
        yield_now().await;
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

//! Connections that wait for their next request.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use tokio::time::sleep;

use super::connection::Connection;

/// How often the connections that wait are looked after.
const SWEEP_INTERVAL: Duration = Duration::from_millis(50);

/// Connections whose last response is whole.
#[derive(Debug)]
pub(super) struct Pool {
    max_idle: usize,
    max_age: Duration,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    /// The one that waits longest comes first.
    idle: Vec<Connection>,
    /// How many requests wait on new connections that the server has not begun to read.
    queued: usize,
    /// For how many of them a connection has been closed.
    provided_for: usize,
    /// Whether the task that closes what nobody needs is there.
    is_swept: bool,
}

/// A request on a new connection that the server has not begun to read.
#[derive(Debug)]
pub(super) struct Queued {
    pool: Arc<Pool>,
}

impl Drop for Queued {
    fn drop(&mut self) {
        let mut state = self.pool.state();
        state.queued -= 1;
        state.provided_for = state.provided_for.min(state.queued);
    }
}

impl Pool {
    pub(super) fn new(max_idle: usize, max_age: Duration) -> Self {
        Self {
            max_idle,
            max_age,
            state: Mutex::default(),
        }
    }

    pub(super) const fn keeps(&self) -> bool {
        self.max_idle > 0
    }

    /// Takes note of a request that waits for the server, as long as the result lives.
    pub(super) fn queue(self: &Arc<Self>) -> Queued {
        self.state().queued += 1;
        Queued {
            pool: Arc::clone(self),
        }
    }

    /// Keeps a connection, or closes it: if it is too old, if there are enough, and one for each
    /// request that waits on another, which comes before those that would use it.
    pub(super) fn put(self: &Arc<Self>, connection: Connection) {
        let mut state = self.state();
        if state.provided_for < state.queued {
            state.provided_for += 1;
            return;
        }
        if state.idle.len() >= self.max_idle || connection.age() >= self.max_age {
            return;
        }
        state.idle.push(connection);
        if !std::mem::replace(&mut state.is_swept, true) {
            tokio::spawn(sweep(Arc::downgrade(self)));
        }
    }

    /// Takes a connection whose server waits for a request: the one that was used last, so that the
    /// others become too old.
    pub(super) async fn take(&self) -> Option<Connection> {
        let (connection, has_been_read) = {
            let mut state = self.state();
            let ready = state.idle.iter().rposition(Connection::has_been_read);
            let newest = state.idle.len().checked_sub(1);
            (state.idle.remove(ready.or(newest)?), ready.is_some())
        };
        let is_back = has_been_read || connection.is_read_soon().await;
        // Asked last: php-fpm reads and discards, too, what is left on a connection that it closes.
        (is_back && connection.is_open()).then_some(connection)
    }

    /// Closes connections that are too old, or that their servers have closed; returns whether any
    /// is left.
    fn sweep(&self) -> bool {
        let mut state = self.state();
        state
            .idle
            .retain(|connection| connection.age() < self.max_age && connection.is_open());
        state.is_swept = !state.idle.is_empty();
        state.is_swept
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Runs while connections wait. A server that has closed one may wait until we do (php-fpm's
/// processes do before they end), and one that serves a connection at a time serves nobody else
/// while we keep it.
async fn sweep(pool: Weak<Pool>) {
    loop {
        sleep(SWEEP_INTERVAL).await;
        if !pool.upgrade().is_some_and(|pool| pool.sweep()) {
            return;
        }
    }
}

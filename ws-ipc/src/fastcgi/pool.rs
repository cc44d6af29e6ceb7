//! Connections that wait for their next request.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use tokio::time::{Instant, sleep};

use super::connection::Connection;

/// How often the connections that wait are looked after.
const SWEEP_INTERVAL: Duration = Duration::from_millis(100);

/// Connections whose last response is whole.
#[derive(Debug)]
pub(super) struct Pool {
    max_idle: usize,
    idle_timeout: Duration,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    /// The one that waits longest comes first.
    idle: Vec<Idle>,
    /// Whether the task that closes what nobody needs is there.
    is_swept: bool,
}

#[derive(Debug)]
struct Idle {
    connection: Connection,
    since: Instant,
}

impl Pool {
    pub(super) fn new(max_idle: usize, idle_timeout: Duration) -> Self {
        Self {
            max_idle,
            idle_timeout,
            state: Mutex::default(),
        }
    }

    pub(super) const fn keeps(&self) -> bool {
        self.max_idle > 0
    }

    /// Keeps a connection, or closes it if there are enough.
    pub(super) fn put(self: &Arc<Self>, connection: Connection) {
        let mut state = self.state();
        if state.idle.len() >= self.max_idle {
            return;
        }
        state.idle.push(Idle {
            connection,
            since: Instant::now(),
        });
        if !std::mem::replace(&mut state.is_swept, true) {
            tokio::spawn(sweep(Arc::downgrade(self)));
        }
    }

    /// Takes a connection whose server waits for a request: the one that was used last, so that the
    /// others become too old.
    pub(super) async fn take(&self) -> Option<Connection> {
        let connection = {
            let mut state = self.state();
            let ready = state
                .idle
                .iter()
                .rposition(|idle| idle.connection.has_been_read());
            match ready {
                Some(at) => Some(state.idle.remove(at).connection),
                None => state.idle.pop().map(|idle| idle.connection),
            }
        }?;
        connection.becomes_ready().await.then_some(connection)
    }

    /// Closes connections that are too old, or that their servers have closed; returns whether any
    /// is left.
    fn sweep(&self) -> bool {
        let mut state = self.state();
        let idle_timeout = self.idle_timeout;
        state
            .idle
            .retain(|idle| idle.since.elapsed() < idle_timeout && idle.connection.is_open());
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

//! How many sockets are open, connected or about to be.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use nix::sys::resource::{Resource, getrlimit};
use tokio::sync::Notify;
use tracing::info;

use crate::config::{AppBackend, CallbackBackend, Config, ValidateBackend};
use crate::core::descriptors::{DescriptorDemand, DescriptorShares};
use crate::doors::METRICS_CONNECTIONS;

/// Pipes to and from one callback, with the ends that it gets.
const PER_CALLBACK: usize = 6;
/// Our ends of the pipes of a program that runs as long as a connection.
const PER_PROGRAM: usize = 3;
/// What the runtime of one worker opens.
const PER_WORKER: usize = 4;

/// Divides the descriptors that the system allows at this moment, before anybody is connected.
pub(crate) fn shares(config: &Config, workers: usize) -> DescriptorShares {
    let allowed = getrlimit(Resource::RLIMIT_NOFILE).map_or(u64::MAX, |(soft, _)| soft);
    let open = std::fs::read_dir("/proc/self/fd").map_or(0, Iterator::count);
    let limits = config.limits();
    let application = match config.app().backend {
        AppBackend::Echo | AppBackend::Callback(CallbackBackend::Stream(_)) => 0,
        AppBackend::Demo | AppBackend::Callback(_) => config.app().concurrency.get(),
    };
    let program = match config.app().backend {
        AppBackend::Callback(CallbackBackend::Stream(_)) => PER_PROGRAM,
        _ => 0,
    };
    let validations = match config.validate().backend {
        ValidateBackend::None => 0,
        ValidateBackend::Application | ValidateBackend::Callback(_) => {
            config.validate().concurrency.get()
        }
    };
    let control = config.control().tcp.as_ref();
    let control = control.map_or(0, |tcp| tcp.max_connections.get());
    let metrics = config.metrics().listen.as_ref();
    let metrics = metrics.map_or(0, |_| METRICS_CONNECTIONS);
    let fifo = config.fifo();
    // A user may have no more than one connection.
    let fifos = match fifo.enabled {
        true => usize::from(fifo.has_connections()) + usize::from(fifo.has_users()),
        false => 0,
    };
    let shares = DescriptorShares::of(DescriptorDemand {
        allowed: usize::try_from(allowed).unwrap_or(usize::MAX),
        open: open + workers * PER_WORKER + control + metrics,
        reserved: limits.reserved_descriptors,
        callbacks: (application + validations) * PER_CALLBACK,
        per_connection: 1 + fifos + program,
    });
    if shares.connections < limits.max_connections.get() {
        info!(
            descriptors = allowed,
            connections = shares.connections,
            "the limit of open files leaves room for fewer connections than limits.max_connections"
        );
    }
    shares
}

/// Counts accepted sockets, so that accepting can stop before descriptors run out.
#[derive(Debug)]
pub(crate) struct Sockets {
    most: usize,
    open: AtomicUsize,
    /// Wakes those who accept.
    room: Notify,
}

impl Sockets {
    pub(crate) fn new(most: usize) -> Arc<Self> {
        Arc::new(Self {
            most,
            open: AtomicUsize::new(0),
            room: Notify::new(),
        })
    }

    /// Those open now.
    pub(crate) fn open(&self) -> usize {
        self.open.load(Ordering::Relaxed)
    }

    pub(crate) fn has_room(&self) -> bool {
        self.open() < self.most
    }

    /// Resolves when there is room for another one.
    pub(crate) async fn room(&self) {
        loop {
            let mut left = std::pin::pin!(self.room.notified());
            // From here on no call is missed.
            left.as_mut().enable();
            if self.has_room() {
                return;
            }
            left.await;
        }
    }

    /// Counts one that was accepted until the ticket is dropped.
    pub(crate) fn enter(self: &Arc<Self>) -> SocketTicket {
        self.open.fetch_add(1, Ordering::Relaxed);
        SocketTicket(Arc::clone(self))
    }
}

/// One accepted socket.
#[derive(Debug)]
pub(crate) struct SocketTicket(Arc<Sockets>);

impl Drop for SocketTicket {
    fn drop(&mut self) {
        let before = self.0.open.fetch_sub(1, Ordering::Relaxed);
        if before == self.0.most {
            // Every listener may have stopped.
            self.0.room.notify_waiters();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn t32_accepting_stops_at_the_limit_and_goes_on_when_one_leaves() {
        let sockets = Sockets::new(2);
        let first = sockets.enter();
        tokio::time::timeout(std::time::Duration::from_secs(60), sockets.room())
            .await
            .expect("there is room for a second one");
        let _second = sockets.enter();
        assert!(!sockets.has_room());
        let waiting = tokio::spawn({
            let sockets = Arc::clone(&sockets);
            async move { sockets.room().await }
        });
        tokio::task::yield_now().await;
        assert!(!waiting.is_finished());
        drop(first);
        waiting.await.unwrap();
        assert_eq!(sockets.open(), 1);
    }

    #[tokio::test]
    async fn t32_listeners_that_accept_at_once_may_pass_the_limit_and_still_see_room() {
        let sockets = Sockets::new(1);
        let (first, second) = (sockets.enter(), sockets.enter());
        let waiting = tokio::spawn({
            let sockets = Arc::clone(&sockets);
            async move { sockets.room().await }
        });
        tokio::task::yield_now().await;
        drop(first);
        tokio::task::yield_now().await;
        assert!(!waiting.is_finished(), "one is open still");
        drop(second);
        waiting.await.unwrap();
    }
}

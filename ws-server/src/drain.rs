//! The end of the server: it waits for what was accepted, for each kind only so long.

use std::time::Duration;

use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio::time::timeout;
use tracing::{debug, warn};

use crate::command::Command;
use crate::shared::Shared;
use crate::signals::Signals;
use crate::workers::Workers;

/// How long those who listen to events may take to hear of the last ones.
const LISTENERS_TIMEOUT: Duration = Duration::from_secs(1);
/// How long workers may take to end when told to end at once.
const STOP_TIMEOUT: Duration = Duration::from_secs(3);

/// Waits until nobody accepts, and everything that the global FIFO said is on its way. Both were
/// told before.
pub(crate) async fn await_intake(
    mut acceptors: mpsc::Receiver<()>,
    global_fifo: Option<JoinHandle<()>>,
) {
    let listeners_closed = async { while acceptors.recv().await.is_some() {} };
    if timeout(STOP_TIMEOUT, listeners_closed).await.is_err() {
        warn!("a worker is late to stop accepting");
    }
    if let Some(global_fifo) = global_fifo {
        let _ = global_fifo.await;
    }
}

/// Has the connections closed behind what they have accepted: at once, if that takes too long or
/// there is another signal.
pub(crate) async fn await_connections(
    server: &Shared,
    workers: &mut Workers,
    signals: &mut Signals,
) {
    let drain_timeout = server.current().config.limits().drain_timeout;
    let drained = async {
        // Records of users' FIFOs that were read find their connections still there. But one user's
        // do not hold up everybody for long.
        let removed = server.hub.user_fifos.removed();
        if timeout(drain_timeout / 4, removed).await.is_err() {
            warn!("a user's FIFO has more records than there is time for");
        }
        server.hub.command_all(|| Command::Drain);
        workers.ended().await;
    };
    let is_drained = tokio::select! {
        drained = timeout(drain_timeout, drained) => drained.is_ok(),
        () = signals.stop_again() => false,
    };
    if !is_drained {
        warn!(
            connections = server.hub.registry().count(),
            "drain cut short"
        );
        server.hub.command_all(|| Command::Stop);
        let _ = timeout(STOP_TIMEOUT, workers.ended()).await;
    }
}

/// Waits until whoever listens has heard of the last ones, too.
pub(crate) async fn await_listeners(server: &Shared) {
    let told = timeout(LISTENERS_TIMEOUT, server.hub.presence().end()).await;
    if told.is_err() {
        debug!("a listener to events does not read");
    }
}

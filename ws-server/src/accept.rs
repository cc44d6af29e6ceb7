//! From listeners to workers.

use std::rc::Rc;
use std::time::{Duration, Instant};

use tracing::{error, warn};
use ws_transport::{AcceptFailure, DetachedListener, Listener};

use crate::command::{Adoption, Command};
use crate::shard::Shard;

/// Between two attempts to accept when descriptors have run out.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
/// Between two warnings that nobody is accepted.
const WARNING_INTERVAL: Duration = Duration::from_secs(10);

/// Accepts sockets on one of the workers and deals them out to all of them, until the server goes
/// down.
///
/// Sockets of its own (`SO_REUSEPORT`) for each worker would save the way to the others, which
/// costs nothing that can be measured: CPU time for an upgrade was between 0.99 and 1.04 of what it
/// is (BENCHMARKS.md). They would also leave it to chance who gets how many connections, which stay
/// for hours, and turn away those in the backlog of a socket that is closed.
pub(crate) async fn accept(shard: Rc<Shard>, listener: DetachedListener) {
    let listener = match listener.attach() {
        Ok(listener) => listener,
        Err(error) => return error!(%error, "a listener cannot be watched"),
    };
    let mut draining = shard.server.draining.clone();
    tokio::select! {
        biased;
        _ = draining.wait_for(|draining| *draining) => {}
        () = deal_out(&shard, &listener) => {}
    }
}

async fn deal_out(shard: &Rc<Shard>, listener: &Listener) {
    let server = &shard.server;
    let counters = &server.hub.counters;
    let mut turn = shard.index;
    let mut is_exhausted = false;
    let mut warned_at = None;
    loop {
        if !server.sockets.has_room() {
            counters.accept_paused.increment();
            // It may go on and off with each socket.
            if warned_at.is_none_or(|at: Instant| at.elapsed() > WARNING_INTERVAL) {
                warned_at = Some(Instant::now());
                warn!(
                    listen.addr = listener.url(),
                    sockets = server.sockets.open(),
                    "only limits.reserved_descriptors are left; newcomers wait"
                );
            }
            server.sockets.room().await;
        }
        match listener.accept().await {
            Ok(socket) => {
                is_exhausted = false;
                counters.sockets_accepted.increment();
                let adoption = Adoption {
                    socket,
                    ticket: server.sockets.enter(),
                    accepted_at: Instant::now(),
                };
                let owner = turn % server.hub.shard_count();
                if owner == shard.index {
                    shard.adopt(adoption);
                } else if server.hub.command(owner, Command::Adopt(adoption)).is_err() {
                    return;
                }
                turn += 1;
            }
            Err(failure) => match AcceptFailure::of(&failure) {
                AcceptFailure::Passing => {}
                AcceptFailure::Exhausted => {
                    counters.accept_failed.increment();
                    // Ten times a second would bury what else there is to say.
                    if !std::mem::replace(&mut is_exhausted, true) {
                        warn!(
                            listen.addr = listener.url(), error = %failure,
                            "cannot accept; it is tried again until it works"
                        );
                    }
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
                AcceptFailure::Broken => {
                    error!(listen.addr = listener.url(), error = %failure, "the listener is broken");
                    return;
                }
            },
        }
    }
}

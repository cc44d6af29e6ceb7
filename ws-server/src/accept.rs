//! From listeners to workers.

use std::sync::Arc;
use std::time::{Duration, Instant};

use tracing::{error, warn};
use ws_transport::{AcceptFailure, Listener};

use crate::command::Command;
use crate::shared::Shared;

/// Between two attempts to accept when descriptors have run out.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
/// Between two warnings that nobody is accepted.
const WARNING_INTERVAL: Duration = Duration::from_secs(10);

/// Accepts sockets and deals them out to the workers.
pub(crate) async fn accept(server: Arc<Shared>, listener: Listener) {
    let counters = &server.hub.counters;
    let mut turn = 0;
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
                let command = Command::Adopt {
                    socket,
                    ticket: server.sockets.enter(),
                    accepted_at: Instant::now(),
                };
                if server
                    .hub
                    .command(turn % server.hub.shard_count(), command)
                    .is_err()
                {
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

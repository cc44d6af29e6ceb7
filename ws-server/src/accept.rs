//! From listeners to workers.

use std::sync::Arc;
use std::time::{Duration, Instant};

use tracing::{error, warn};
use ws_transport::{AcceptFailure, Listener};

use crate::command::Command;
use crate::shared::Shared;

/// Between two attempts to accept when descriptors have run out.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Accepts sockets and deals them out to the workers.
pub(crate) async fn accept(server: Arc<Shared>, listener: Listener) {
    let mut turn = 0;
    loop {
        match listener.accept().await {
            Ok(socket) => {
                server.hub.counters.sockets_accepted.increment();
                let command = Command::Adopt {
                    socket,
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
                    warn!(listen.addr = listener.url(), error = %failure, "cannot accept");
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

//! What the server does for its sessions beside serving them: it writes them down, ends those that
//! have lived long enough, and looks whether somebody has removed any.

use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::time::{interval, interval_at, sleep};
use tracing::{info, warn};

use crate::shared::Shared;

/// How often sessions are looked at that have not been used for too long, here and in the store.
const EXPIRY_INTERVAL: Duration = Duration::from_secs(60);
/// How often sessions are looked at that have lived long enough.
const END_INTERVAL: Duration = Duration::from_millis(250);
/// Those connected are noted to use their sessions this often in the time after which an unused one
/// is forgotten, and at least this often.
const REFRESHES_PER_TTL: u32 = 4;
const MAX_REFRESH_INTERVAL: Duration = Duration::from_secs(5 * 60);

/// Tends the sessions until the task is dropped.
pub(crate) async fn run(server: Arc<Shared>) {
    let (keeper, counters) = (&server.hub.keeper, &server.hub.counters);
    tokio::join!(
        keeper.answer_questions(counters),
        keeper.write_changes(counters),
        expire(&server),
        refresh(&server),
        end(&server),
        check(&server),
    );
}

async fn expire(server: &Shared) {
    let mut ticks = interval(EXPIRY_INTERVAL);
    loop {
        ticks.tick().await;
        server.hub.sessions().expire(Instant::now());
        server.hub.keeper.purge(&server.hub.counters).await;
    }
}

async fn refresh(server: &Shared) {
    let ttl = server.current().config.identity().ttl;
    let period = (ttl / REFRESHES_PER_TTL).min(MAX_REFRESH_INTERVAL);
    let mut ticks = interval_at(tokio::time::Instant::now() + period, period);
    loop {
        ticks.tick().await;
        server.hub.keeper.refresh();
    }
}

/// Ends the sessions that have lived as long as `identity.max_age`.
async fn end(server: &Shared) {
    loop {
        let next = server.hub.sessions().next_end();
        if next.is_none() && server.current().config.identity().max_age.is_none() {
            // Sessions that have an end may come from the store all the same.
            sleep(EXPIRY_INTERVAL).await;
            continue;
        }
        sleep(END_INTERVAL).await;
        let ended = server.hub.sessions().end(Instant::now());
        if ended.is_empty() {
            continue;
        }
        server.hub.counters.sessions_ended.add(ended.len() as u64);
        let frame = server.current().config.identity().close.clone();
        let closed = server.hub.close_sessions(&ended, &frame).await;
        info!(
            sessions = ended.len(),
            connections = closed,
            "sessions have lived as long as they may"
        );
        // Whoever does not answer has said so, and keeps what nobody is let in with.
        let _ = server.hub.keeper.revoke(&ended, &server.hub.counters).await;
        // Whoever was let in meanwhile had been found in the store before.
        server.hub.close_sessions(&ended, &frame).await;
    }
}

/// Closes whoever's session somebody has removed from the store.
async fn check(server: &Shared) {
    let Some(period) = server.current().config.identity().check_interval else {
        return;
    };
    let mut ticks = interval_at(tokio::time::Instant::now() + period, period);
    loop {
        ticks.tick().await;
        let (keeper, counters) = (&server.hub.keeper, &server.hub.counters);
        let missing = match keeper.missing(counters).await {
            Ok(missing) if !missing.is_empty() => missing,
            _ => continue,
        };
        counters.sessions_revoked.add(missing.len() as u64);
        keeper.disown(&missing);
        let frame = server.current().config.identity().close.clone();
        let closed = server.hub.close_sessions(&missing, &frame).await;
        let _ = keeper.revoke(&missing, counters).await;
        warn!(
            sessions = missing.len(),
            connections = closed,
            "sessions were removed from the store"
        );
    }
}

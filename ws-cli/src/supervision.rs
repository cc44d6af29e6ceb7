//! Who has started the server, and is told how it does: whoever reads stdout, and the service
//! manager (sd_notify(3)) if it asks to be.

use std::env;
use std::io::{self, Write};
use std::time::Duration;

use sd_notify::NotifyState;
use tracing::warn;
use ws_server::Observer;

/// How often the service manager shows anew what the server does, unless it watches it closer.
const STATUS_INTERVAL: Duration = Duration::from_secs(10);
/// How many times the server shows that it lives in the time after which it would be taken for dead.
const BEATS_PER_WATCHDOG: u32 = 3;

/// Prints URLs on stdout, and notifies the service manager.
pub(crate) struct Supervision {
    /// `None`: nobody has asked to be notified.
    heartbeat: Option<Duration>,
}

impl Supervision {
    /// By what the environment says (`NOTIFY_SOCKET`, `WATCHDOG_USEC`, `WATCHDOG_PID`).
    pub(crate) fn of_process() -> Self {
        let is_notified = env::var_os("NOTIFY_SOCKET").is_some();
        Self {
            heartbeat: is_notified.then(|| heartbeat(sd_notify::watchdog_enabled())),
        }
    }

    fn notify(&self, states: &[NotifyState<'_>]) {
        if self.heartbeat.is_none() {
            return;
        }
        if let Err(error) = sd_notify::notify(states) {
            warn!(%error, "the service manager cannot be notified");
        }
    }
}

fn heartbeat(watchdog: Option<Duration>) -> Duration {
    let beat = watchdog.map(|limit| limit / BEATS_PER_WATCHDOG);
    // A limit of nothing is none.
    let beat = beat.filter(|beat| !beat.is_zero());
    beat.map_or(STATUS_INTERVAL, |beat| beat.min(STATUS_INTERVAL))
}

impl Observer for Supervision {
    fn listening(&self, url: &str) {
        // Who started the server may have closed the pipe; that must not end the server.
        let mut stdout = io::stdout().lock();
        let _ = writeln!(stdout, "{url}").and_then(|()| stdout.flush());
    }

    fn ready(&self) {
        self.notify(&[NotifyState::Ready]);
    }

    fn reloading(&self) {
        match NotifyState::monotonic_usec_now() {
            Ok(now) => self.notify(&[NotifyState::Reloading, now]),
            Err(error) => warn!(%error, "cannot read the clock"),
        }
    }

    fn stopping(&self) {
        self.notify(&[NotifyState::Stopping]);
    }

    fn heartbeat(&self) -> Option<Duration> {
        self.heartbeat
    }

    fn alive(&self, status: &str) {
        self.notify(&[NotifyState::Watchdog, NotifyState::Status(status)]);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_watchdog_hears_three_times_in_its_time() {
        let seconds = Duration::from_secs;
        assert_eq!(heartbeat(Some(seconds(6))), seconds(2));
        assert_eq!(heartbeat(Some(seconds(300))), STATUS_INTERVAL);
        assert_eq!(heartbeat(Some(Duration::ZERO)), STATUS_INTERVAL);
        assert_eq!(heartbeat(None), STATUS_INTERVAL);
    }
}

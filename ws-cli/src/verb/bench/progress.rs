//! What a terminal shows while a run goes on.

use std::io::{IsTerminal as _, stderr};
use std::sync::atomic::Ordering;
use std::time::Duration;

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

use super::report::grouped;
use super::worker::Shared;

/// How often it is drawn anew.
pub(super) const INTERVAL: Duration = Duration::from_millis(100);

/// A bar on stderr, or nothing if that is not a terminal.
#[derive(Debug)]
pub(super) struct Progress(Option<ProgressBar>);

impl Progress {
    /// `is_wanted` is false where stdout is for a program to read.
    pub(super) fn new() -> Self {
        if !stderr().is_terminal() {
            return Self(None);
        }
        let bar = ProgressBar::with_draw_target(Some(0), ProgressDrawTarget::stderr());
        let style = ProgressStyle::with_template("{prefix} [{bar:30}] {msg}");
        bar.set_style(
            style
                .expect("the template is well formed")
                .progress_chars("=> "),
        );
        Self(Some(bar))
    }

    pub(super) fn is_shown(&self) -> bool {
        self.0.is_some()
    }

    pub(super) fn opening(&self, shared: &Shared, connections: u32) {
        if let Some(bar) = &self.0 {
            let attempted = shared.attempted.load(Ordering::Relaxed);
            bar.set_prefix("opening");
            bar.set_length(connections.into());
            bar.set_position(attempted);
            let open = shared.open.load(Ordering::Relaxed);
            bar.set_message(format!("{} open", grouped(open)));
        }
    }

    /// `whole` is the time that it shall take, if that is known.
    pub(super) fn running(&self, shared: &Shared, elapsed: Duration, whole: Option<Duration>) {
        if let Some(bar) = &self.0 {
            let millis = |time: Duration| u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
            bar.set_prefix("running");
            bar.set_length(millis(whole.unwrap_or(elapsed)).max(1));
            bar.set_position(millis(elapsed));
            let messages = shared.messages.load(Ordering::Relaxed);
            let rate = messages as f64 / elapsed.as_secs_f64().max(0.001);
            let open = shared.open.load(Ordering::Relaxed);
            let rate = grouped(rate.round() as u64);
            bar.set_message(format!("{rate} messages/s, {} open", grouped(open)));
        }
    }

    pub(super) fn end(&self) {
        if let Some(bar) = &self.0 {
            bar.finish_and_clear();
        }
    }
}

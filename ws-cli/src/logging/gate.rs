//! The level of the log, which a reload may change.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use tracing::level_filters::LevelFilter;
use tracing::subscriber::Interest;
use tracing::{Metadata, Subscriber, callsite};
use tracing_subscriber::Layer;
use tracing_subscriber::layer::Context;
use ws_server::config::LogLevel;

/// Lets through what is important enough.
///
/// An `EnvFilter` that can be exchanged takes a lock whenever a span is entered, in every thread;
/// the level alone is in what `tracing` remembers of each place that logs.
#[derive(Clone)]
pub(crate) struct Gate {
    /// The index of the level among [`LEVELS`].
    level: Arc<AtomicUsize>,
}

const LEVELS: [LevelFilter; 6] = [
    LevelFilter::OFF,
    LevelFilter::ERROR,
    LevelFilter::WARN,
    LevelFilter::INFO,
    LevelFilter::DEBUG,
    LevelFilter::TRACE,
];

impl Gate {
    pub(super) fn new(level: LogLevel) -> Self {
        Self {
            level: Arc::new(AtomicUsize::new(index_of(level))),
        }
    }

    /// Sets the level from now on.
    pub(crate) fn set(&self, level: LogLevel) {
        let index = index_of(level);
        if self.level.swap(index, Ordering::Relaxed) != index {
            callsite::rebuild_interest_cache();
        }
    }

    fn level(&self) -> LevelFilter {
        LEVELS[self.level.load(Ordering::Relaxed)]
    }
}

impl fmt::Debug for Gate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Gate({})", self.level())
    }
}

impl<S: Subscriber> Layer<S> for Gate {
    fn register_callsite(&self, metadata: &'static Metadata<'static>) -> Interest {
        match *metadata.level() <= self.level() {
            true => Interest::always(),
            false => Interest::never(),
        }
    }

    fn enabled(&self, metadata: &Metadata<'_>, _: Context<'_, S>) -> bool {
        *metadata.level() <= self.level()
    }

    fn max_level_hint(&self) -> Option<LevelFilter> {
        Some(self.level())
    }
}

fn index_of(level: LogLevel) -> usize {
    match level {
        LogLevel::Off => 0,
        LogLevel::Error => 1,
        LogLevel::Warn => 2,
        LogLevel::Info => 3,
        LogLevel::Debug => 4,
        LogLevel::Trace => 5,
    }
}

#[cfg(test)]
mod tests {
    use tracing::{debug, enabled};
    use tracing_subscriber::layer::SubscriberExt;

    use super::*;

    #[test]
    fn the_level_changes_for_places_that_have_logged_before() {
        let gate = Gate::new(LogLevel::Info);
        let subscriber = tracing_subscriber::registry().with(gate.clone());
        tracing::subscriber::with_default(subscriber, || {
            let is_debug = || {
                debug!("from here");
                enabled!(tracing::Level::DEBUG)
            };
            assert!(!is_debug());
            gate.set(LogLevel::Debug);
            assert!(is_debug());
            gate.set(LogLevel::Off);
            assert!(!is_debug() && !enabled!(tracing::Level::ERROR));
        });
    }
}

//! Whether a store answers.

use std::time::{Duration, Instant};

/// Notes when a store stops answering and when it answers again, so that each is said once.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Outage {
    since: Option<Instant>,
}

impl Outage {
    /// Notes that it did not answer. Returns whether that is news.
    pub(crate) fn failed(&mut self, now: Instant) -> bool {
        let is_news = self.since.is_none();
        self.since.get_or_insert(now);
        is_news
    }

    /// Notes that it answered. Returns for how long it had not, if that is news.
    pub(crate) fn answered(&mut self, now: Instant) -> Option<Duration> {
        let since = self.since.take()?;
        Some(now.saturating_duration_since(since))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_outage_begins_once_and_ends_once() {
        let start = Instant::now();
        let mut outage = Outage::default();
        assert_eq!(outage.answered(start), None);
        assert!(outage.failed(start));
        assert!(!outage.failed(start + Duration::from_secs(1)));
        let end = start + Duration::from_secs(3);
        assert_eq!(outage.answered(end), Some(Duration::from_secs(3)));
        assert_eq!(outage.answered(end), None);
    }
}

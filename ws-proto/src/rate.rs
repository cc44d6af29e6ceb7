//! How many control frames a peer may send.

use std::time::{Duration, Instant};

/// A token bucket, kept as the one instant at which it would be full again.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Bucket {
    full_at: Instant,
}

impl Bucket {
    /// A full bucket.
    pub(crate) fn new(now: Instant) -> Self {
        Self { full_at: now }
    }

    /// Takes a token out of a bucket of `burst` that regains `rate` tokens a second; `false` if it
    /// is empty.
    pub(crate) fn take(&mut self, rate: u32, burst: u32, now: Instant) -> bool {
        let interval = Duration::from_secs(1) / rate.max(1);
        let missing = self.full_at.saturating_duration_since(now);
        let room = interval.saturating_mul(burst.max(1) - 1);
        if missing > room {
            return false;
        }
        match now.checked_add(missing + interval) {
            Some(full_at) => self.full_at = full_at,
            None => return false,
        }
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[expect(clippy::disallowed_methods, reason = "an origin for simulated time")]
    fn origin() -> Instant {
        Instant::now()
    }

    #[test]
    fn burst_then_rate() {
        let start = origin();
        let mut bucket = Bucket::new(start);
        for _ in 0..64 {
            assert!(bucket.take(32, 64, start));
        }
        assert!(!bucket.take(32, 64, start));
        let later = start + Duration::from_secs(1);
        let regained = (0..100).filter(|_| bucket.take(32, 64, later)).count();
        assert_eq!(regained, 32);
    }

    #[test]
    fn bucket_never_holds_more_than_its_burst() {
        let start = origin();
        let mut bucket = Bucket::new(start);
        let later = start + Duration::from_secs(3600);
        let taken = (0..100).filter(|_| bucket.take(32, 64, later)).count();
        assert_eq!(taken, 64);
    }
}

//! A peer that takes nothing.

use std::time::{Duration, Instant};

/// For how long a queue has not moved by a byte.
///
/// The kernel's own clock (`TCP_USER_TIMEOUT`) does not tell: it runs only while the peer does not
/// acknowledge, and one that does not read acknowledges for ever that it has no room. A Unix socket
/// has no such clock at all.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Stall {
    since: Instant,
    waiting: usize,
}

impl Stall {
    /// Takes note of how many bytes wait after everything was written that could be; `has_moved`
    /// if the kernel took any since the last time. Nothing is to be noted while nothing waits.
    pub(crate) fn note(
        former: Option<Self>,
        waiting: usize,
        has_moved: bool,
        now: Instant,
    ) -> Option<Self> {
        if waiting == 0 {
            return None;
        }
        let since = match former {
            Some(former) if !has_moved && waiting >= former.waiting => former.since,
            _ => now,
        };
        Some(Self { since, waiting })
    }

    /// When it is too long.
    pub(crate) fn deadline(self, timeout: Duration) -> Instant {
        self.since + timeout
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const TIMEOUT: Duration = Duration::from_secs(20);

    #[test]
    fn t30_the_clock_runs_from_the_last_byte_that_left() {
        let start = Instant::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        let stall = Stall::note(None, 10, false, at(0)).unwrap();
        assert_eq!(stall.deadline(TIMEOUT), at(20));
        // More that waits is no progress, and a byte that leaves is.
        let stall = Stall::note(Some(stall), 30, false, at(5)).unwrap();
        assert_eq!(stall.deadline(TIMEOUT), at(20));
        let stall = Stall::note(Some(stall), 30, true, at(19)).unwrap();
        assert_eq!(stall.deadline(TIMEOUT), at(39));
        // So is what left by another way, TLS's own.
        let stall = Stall::note(Some(stall), 29, false, at(38)).unwrap();
        assert_eq!(stall.deadline(TIMEOUT), at(58));
        assert!(Stall::note(Some(stall), 0, true, at(40)).is_none());
    }

    proptest! {
        /// A queue that moves within the time is never given up; one that does not, at the time.
        #[test]
        fn prop_t30_given_up_exactly_when_nothing_moved_in_time(
            steps in prop::collection::vec((0_u64..15_000, any::<bool>(), 0_usize..50), 1..60),
        ) {
            let start = Instant::now();
            let (mut now, mut last_moved, mut waiting) = (start, start, 10);
            let mut stall = Stall::note(None, waiting, false, now);
            for (pause, has_moved, more) in steps {
                now += Duration::from_millis(pause);
                waiting += more;
                let is_due = stall.unwrap().deadline(TIMEOUT) <= now;
                prop_assert_eq!(is_due, now - last_moved >= TIMEOUT);
                if has_moved {
                    last_moved = now;
                }
                stall = Stall::note(stall, waiting, has_moved, now);
                prop_assert_eq!(stall.unwrap().deadline(TIMEOUT), last_moved + TIMEOUT);
            }
        }
    }
}

//! What is said of mistakes of others that may come by the thousand.

use std::time::{Duration, Instant};

/// Mistakes that are told in each interval.
const MAX_TOLD: u32 = 20;
const INTERVAL: Duration = Duration::from_secs(1);

/// Lets some mistakes be told and counts the others: whoever makes them shall not fill the log.
#[derive(Debug, Default)]
pub(crate) struct Complaints {
    /// When the interval began, and how many were told in it.
    interval: Option<(Instant, u32)>,
    untold: u64,
}

impl Complaints {
    /// Takes note of a mistake. If it is to be told, returns how many since the last were not.
    pub(crate) fn note(&mut self, now: Instant) -> Option<u64> {
        let interval = self
            .interval
            .filter(|(begun, _)| now.saturating_duration_since(*begun) < INTERVAL);
        let (begun, told) = interval.unwrap_or((now, 0));
        if told == MAX_TOLD {
            self.untold += 1;
            return None;
        }
        self.interval = Some((begun, told + 1));
        Some(std::mem::take(&mut self.untold))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn t48_of_a_million_mistakes_twenty_a_second_are_told_and_none_is_lost() {
        let begun = Instant::now();
        let mut complaints = Complaints::default();
        let (mut told, mut untold) = (0, 0);
        for number in 0..1_000_000_u64 {
            // Ten seconds in all.
            let now = begun + Duration::from_micros(10 * number);
            if let Some(before) = complaints.note(now) {
                told += 1;
                untold += before;
            }
        }
        assert_eq!(told, 200);
        assert_eq!(told + untold + complaints.untold, 1_000_000);
    }

    #[test]
    fn a_mistake_now_and_then_is_always_told() {
        let begun = Instant::now();
        let mut complaints = Complaints::default();
        let told = (0..1000).map(|number| complaints.note(begun + number * INTERVAL / 10));
        assert!(told.flatten().eq(std::iter::repeat_n(0, 1000)));
    }
}

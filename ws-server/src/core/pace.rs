//! Spreading an act of many over time.

use std::time::{Duration, Instant};

/// Hands out moments that are at least an interval apart.
#[derive(Debug)]
pub(crate) struct Pace {
    interval: Duration,
    next: Option<Instant>,
}

impl Pace {
    /// At most `per_second` moments in each second.
    pub(crate) fn per_second(per_second: u32) -> Self {
        Self {
            interval: Duration::from_secs(1) / per_second.max(1),
            next: None,
        }
    }

    /// The moment of the caller's turn, never before `now`.
    pub(crate) fn turn(&mut self, now: Instant) -> Instant {
        let turn = self.next.map_or(now, |next| next.max(now));
        self.next = Some(turn + self.interval);
        turn
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn five_thousand_turns_take_five_seconds() {
        let now = Instant::now();
        let mut pace = Pace::per_second(1000);
        let turns: Vec<Instant> = (0..5000).map(|_| pace.turn(now)).collect();
        assert_eq!(turns[0], now);
        assert_eq!(turns[4999], now + Duration::from_millis(4999));
        assert!(turns.is_sorted());
    }

    #[test]
    fn an_idle_pace_does_not_save_up() {
        let now = Instant::now();
        let mut pace = Pace::per_second(10);
        pace.turn(now);
        let later = now + Duration::from_secs(60);
        assert_eq!(pace.turn(later), later);
        assert_eq!(pace.turn(later), later + Duration::from_millis(100));
    }
}

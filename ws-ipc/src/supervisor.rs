//! When something that ended is started again: a pure policy, the time is an argument.

use std::time::{Duration, Instant};

/// How long to wait before a restart.
///
/// The first restart after a stable life is immediate. Each further one that follows a short life
/// waits twice as long as the one before.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BackoffConfig {
    /// The first delay that is not zero. 50 ms by default: soon enough that no caller's deadline
    /// passes, late enough that a program that dies at once does not take a core.
    pub initial: Duration,
    /// The longest delay. 10 s by default: an operator who repaired the cause need not wait long.
    pub max: Duration,
    /// A life of this length counts as stable and forgets what was before. 10 s by default.
    pub stable_after: Duration,
}

impl Default for BackoffConfig {
    fn default() -> Self {
        Self {
            initial: Duration::from_millis(50),
            max: Duration::from_secs(10),
            stable_after: Duration::from_secs(10),
        }
    }
}

/// The restart policy of one process.
///
/// Call [`started`](Self::started) when it runs and [`ended`](Self::ended) when it ended or could
/// not be started; the latter tells how long to wait before the next attempt.
#[derive(Clone, Debug)]
pub struct Backoff {
    config: BackoffConfig,
    running_since: Option<Instant>,
    short_lives: u32,
}

impl Backoff {
    /// A policy for something that has not been started yet.
    #[must_use]
    pub fn new(config: BackoffConfig) -> Self {
        Self {
            config,
            running_since: None,
            short_lives: 0,
        }
    }

    /// How many lives in a row were too short to count as stable.
    #[must_use]
    pub fn short_lives(&self) -> u32 {
        self.short_lives
    }

    /// Takes note that it runs.
    pub fn started(&mut self, now: Instant) {
        self.running_since = Some(now);
    }

    /// Takes note that it ended of its own accord and without a fault, as a worker does that has
    /// served its number of requests; returns the delay before the next start.
    ///
    /// There is none, unless it ended so soon that restarting it at once would be a loop.
    pub fn retired(&mut self, now: Instant) -> Duration {
        let lived = self
            .running_since
            .map(|since| now.saturating_duration_since(since));
        if lived.is_none_or(|lived| lived < self.config.initial) {
            return self.ended(now);
        }
        self.running_since = None;
        self.short_lives = 0;
        Duration::ZERO
    }

    /// Takes note that it ended or could not be started; returns the delay before the next start.
    pub fn ended(&mut self, now: Instant) -> Duration {
        let lived = self
            .running_since
            .take()
            .map(|since| now.saturating_duration_since(since));
        if lived.is_some_and(|lived| lived >= self.config.stable_after) {
            self.short_lives = 0;
        }
        self.short_lives = self.short_lives.saturating_add(1);
        match self.short_lives {
            // What never ran is not worth an immediate second attempt.
            1 if lived.is_some() => Duration::ZERO,
            n => {
                let doublings = n.saturating_sub(2).min(20);
                self.config
                    .initial
                    .saturating_mul(1 << doublings)
                    .min(self.config.max)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn first_restart_is_immediate_and_the_next_ones_double() {
        let start = Instant::now();
        let mut backoff = Backoff::new(BackoffConfig::default());
        let delays: Vec<u128> = (0..5)
            .map(|_| {
                backoff.started(start);
                backoff.ended(start).as_millis()
            })
            .collect();
        assert_eq!(delays, [0, 50, 100, 200, 400]);
    }

    #[test]
    fn what_cannot_start_waits_from_the_first_time() {
        let mut backoff = Backoff::new(BackoffConfig::default());
        assert_eq!(backoff.ended(Instant::now()), Duration::from_millis(50));
    }

    #[test]
    fn a_stable_life_forgets_the_short_ones() {
        let config = BackoffConfig::default();
        let start = Instant::now();
        let mut backoff = Backoff::new(config);
        for _ in 0..6 {
            backoff.started(start);
            backoff.ended(start);
        }
        backoff.started(start);
        assert_eq!(backoff.ended(start + config.stable_after), Duration::ZERO);
        assert_eq!(backoff.short_lives(), 1);
    }

    #[test]
    fn retirement_is_no_fault_unless_it_comes_at_once() {
        let config = BackoffConfig::default();
        let start = Instant::now();
        let mut backoff = Backoff::new(config);
        for _ in 0..10 {
            backoff.started(start);
            assert_eq!(backoff.retired(start + config.initial), Duration::ZERO);
        }
        for expected in [Duration::ZERO, config.initial, 2 * config.initial] {
            backoff.started(start);
            assert_eq!(backoff.retired(start), expected);
        }
    }

    proptest! {
        #[test]
        fn prop_delay_is_bounded_and_grows_while_lives_are_short(
            initial in 1_u64..1_000,
            max in 1_000_u64..100_000,
            lives in prop::collection::vec((0_u64..20_000, any::<bool>()), 1..100),
        ) {
            let config = BackoffConfig {
                initial: Duration::from_millis(initial),
                max: Duration::from_millis(max),
                stable_after: Duration::from_millis(10_000),
            };
            let mut now = Instant::now();
            let mut backoff = Backoff::new(config);
            let mut last = Duration::ZERO;
            for (life, starts) in lives {
                if starts {
                    backoff.started(now);
                    now += Duration::from_millis(life);
                }
                let delay = backoff.ended(now);
                prop_assert!(delay <= config.max);
                if backoff.short_lives() > 1 {
                    prop_assert!(delay >= last, "{delay:?} after {last:?}");
                    prop_assert!(delay >= config.initial);
                } else {
                    prop_assert!(!starts || life >= 10_000 || last.is_zero());
                }
                last = delay;
                now += delay;
            }
        }
    }
}

//! How many messages may come in a second.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// For how long the messages of a connection may come faster than they are read.
pub(crate) const PATIENCE: Duration = Duration::from_secs(10);

/// A token bucket's size and what flows into it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Rate {
    origin: Instant,
    /// In nanoseconds, between two tokens.
    interval: u64,
    burst: u32,
}

/// A token bucket, kept as the moment at which it would be full again, in nanoseconds after the
/// origin of its rate: several connections share that of their user without a lock.
#[derive(Debug, Default)]
pub(crate) struct Bucket(AtomicU64);

impl Rate {
    /// So many a second, and `burst` of them at once.
    pub(crate) fn new(per_second: u32, burst: u32, origin: Instant) -> Self {
        Self {
            origin,
            interval: 1_000_000_000 / u64::from(per_second.max(1)),
            burst: burst.max(1),
        }
    }

    fn nanos(&self, now: Instant) -> u64 {
        let elapsed = now.saturating_duration_since(self.origin);
        u64::try_from(elapsed.as_nanos()).unwrap_or(u64::MAX)
    }

    /// What it takes to fill this many tokens.
    fn span(&self, tokens: u32) -> u64 {
        self.interval.saturating_mul(tokens.into())
    }

    /// When there is a token; `None` if there is one now.
    pub(crate) fn ready_at(&self, bucket: &Bucket, now: Instant) -> Option<Instant> {
        let full_at = bucket.0.load(Ordering::Relaxed);
        let ready_at = full_at.saturating_sub(self.span(self.burst - 1));
        let wait = ready_at.saturating_sub(self.nanos(now));
        (wait > 0).then(|| now + Duration::from_nanos(wait))
    }

    /// Takes a token, which was there or not.
    pub(crate) fn take(&self, bucket: &Bucket, now: Instant) {
        let now = self.nanos(now);
        let take = |full_at: u64| Some(full_at.max(now).saturating_add(self.interval));
        // It always succeeds: there is always a next value.
        let _ = bucket
            .0
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, take);
    }

    /// Whether half of the tokens are there, of one token that one.
    pub(crate) fn is_half_full(&self, bucket: &Bucket, now: Instant) -> bool {
        let full_at = bucket.0.load(Ordering::Relaxed);
        full_at.saturating_sub(self.nanos(now)) <= self.span(self.burst / 2)
    }

    /// Whether it is as if nobody had ever taken anything.
    pub(crate) fn is_full(&self, bucket: &Bucket, now: Instant) -> bool {
        bucket.0.load(Ordering::Relaxed) <= self.nanos(now)
    }
}

/// What a connection's messages are taken from: its own bucket, that of its user, or both.
#[derive(Debug)]
pub(crate) struct Throttle {
    own: Option<(Rate, Bucket)>,
    user: Option<(Rate, Arc<Bucket>)>,
    held_until: Option<Instant>,
    /// The message that comes next has waited for its token.
    is_late: bool,
    /// It has waited, or the last that did, for one of the connection's own.
    is_own_over: bool,
    over_since: Option<Instant>,
}

impl Throttle {
    pub(crate) fn new(own: Option<Rate>, user: Option<(Rate, Arc<Bucket>)>) -> Self {
        Self {
            own: own.map(|rate| (rate, Bucket::default())),
            user,
            held_until: None,
            is_late: false,
            is_own_over: false,
            over_since: None,
        }
    }

    fn buckets(&self) -> impl Iterator<Item = (&Rate, &Bucket)> {
        let own = self.own.as_ref().map(|(rate, bucket)| (rate, bucket));
        let user = self.user.as_ref().map(|(rate, bucket)| (rate, &**bucket));
        own.into_iter().chain(user)
    }

    /// Until when nothing is taken from the peer; `None` if it may be.
    pub(crate) fn held_until(&self) -> Option<Instant> {
        self.held_until
    }

    /// Asks whether what is there may be taken now. If not, it is held back.
    pub(crate) fn admits(&mut self, now: Instant) -> bool {
        let buckets = self.buckets();
        self.held_until = buckets
            .filter_map(|(rate, bucket)| rate.ready_at(bucket, now))
            .max();
        if self.held_until.is_some() {
            self.is_late = true;
            let own = self.own.as_ref();
            self.is_own_over =
                own.is_some_and(|(rate, bucket)| rate.ready_at(bucket, now).is_some());
            self.over_since.get_or_insert(now);
        }
        self.held_until.is_none()
    }

    /// Counts a message that was taken.
    pub(crate) fn take(&mut self, now: Instant) {
        // Of a small burst half is one token or none, which is there when a message has waited for it.
        if !std::mem::take(&mut self.is_late) {
            self.recover(now);
        }
        for (rate, bucket) in self.buckets() {
            rate.take(bucket, now);
        }
    }

    /// Whoever lets the buckets fill to the half is not over the rate any more.
    fn recover(&mut self, now: Instant) {
        let is_half_full = |(rate, bucket): (&Rate, &Bucket)| rate.is_half_full(bucket, now);
        if self.buckets().all(is_half_full) {
            self.over_since = None;
        }
    }

    /// Whether it is the connection's own rate that its messages exceed, not only its user's.
    pub(crate) fn is_own_over(&self) -> bool {
        self.is_own_over
    }

    /// Lets go on what was held back long enough. `false` if that has gone on for too long.
    pub(crate) fn handle_timeout(&mut self, now: Instant) -> bool {
        if self.held_until.is_none_or(|until| until > now) {
            return true;
        }
        self.held_until = None;
        self.over_since.is_none_or(|since| now < since + PATIENCE)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn at(start: Instant, millis: u64) -> Instant {
        start + Duration::from_millis(millis)
    }

    /// Takes what may be taken between two times in steps of a millisecond, as a flood does; says
    /// when the connection is to be closed, if it is.
    fn flood(
        throttle: &mut Throttle,
        start: Instant,
        millis: std::ops::Range<u64>,
    ) -> (u64, Option<u64>) {
        let mut taken = 0;
        for millisecond in millis {
            let now = at(start, millisecond);
            if !throttle.handle_timeout(now) {
                return (taken, Some(millisecond));
            }
            while throttle.held_until().is_none() && throttle.admits(now) {
                throttle.take(now);
                taken += 1;
            }
        }
        (taken, None)
    }

    #[test]
    fn t34_a_burst_and_then_the_rate() {
        let start = Instant::now();
        let rate = Rate::new(50, 4, start);
        let mut throttle = Throttle::new(Some(rate), None);
        for _ in 0..4 {
            assert!(throttle.admits(start));
            throttle.take(start);
        }
        assert!(!throttle.admits(start), "one more than the burst");
        assert_eq!(throttle.held_until(), Some(at(start, 20)));
        assert!(throttle.handle_timeout(at(start, 19)));
        assert!(throttle.held_until().is_some(), "not yet");
        assert!(throttle.handle_timeout(at(start, 20)));
        assert!(throttle.admits(at(start, 20)));
        throttle.take(at(start, 20));
        assert!(!throttle.admits(at(start, 20)));
        assert_eq!(flood(&mut throttle, start, 21..1021).0, 50);
    }

    #[test]
    fn t34_ten_seconds_over_the_rate_are_too_long() {
        let start = Instant::now();
        let mut throttle = Throttle::new(Some(Rate::new(50, 10, start)), None);
        assert_eq!(flood(&mut throttle, start, 0..9999).1, None);
        let (_, closed) = flood(&mut throttle, start, 9999..11_000);
        assert_eq!(closed, Some(10_000));
    }

    #[test]
    fn t34_ten_seconds_are_too_long_whatever_the_burst() {
        let start = Instant::now();
        for burst in 1..5 {
            let mut throttle = Throttle::new(Some(Rate::new(50, burst, start)), None);
            let (_, closed) = flood(&mut throttle, start, 0..11_000);
            // Its first message over the rate came at once.
            assert_eq!(closed, Some(10_000), "{burst}");
        }
    }

    #[test]
    fn t34_whose_rate_it_is_is_known() {
        let start = Instant::now();
        let rate = |per_second| Rate::new(per_second, 4, start);
        for (own, user, is_own) in [
            (Some(50), None, true),
            (Some(50), Some(100), true),
            (Some(100), Some(50), false),
            (None, Some(50), false),
        ] {
            let user = user.map(|user| (rate(user), Arc::default()));
            let mut throttle = Throttle::new(own.map(rate), user);
            flood(&mut throttle, start, 0..1000);
            assert_eq!(throttle.is_own_over(), is_own, "{own:?}");
        }
    }

    #[test]
    fn t34_whoever_pauses_until_the_bucket_is_half_full_begins_anew() {
        let start = Instant::now();
        let mut throttle = Throttle::new(Some(Rate::new(50, 10, start)), None);
        let mut now = 0;
        // Ten times nine seconds of flood, and the time of five tokens without a message.
        for _ in 0..10 {
            assert_eq!(flood(&mut throttle, start, now..now + 9000).1, None);
            now += 9000 + 120;
        }
    }

    #[test]
    fn t34_a_message_now_and_then_is_nothing_to_hold_back() {
        let start = Instant::now();
        let mut throttle = Throttle::new(Some(Rate::new(50, 1, start)), None);
        for number in 0..2000 {
            let now = at(start, number * 20);
            assert!(throttle.handle_timeout(now));
            assert!(throttle.admits(now), "{number}");
            throttle.take(now);
        }
    }

    #[test]
    fn t34_the_connections_of_a_user_share_one_bucket() {
        let start = Instant::now();
        let rate = Rate::new(10, 5, start);
        let bucket = Arc::new(Bucket::default());
        let mut throttles =
            [(); 3].map(|()| Throttle::new(None, Some((rate, Arc::clone(&bucket)))));
        let mut taken = 0;
        for millisecond in 0..2000 {
            let now = at(start, millisecond);
            for throttle in &mut throttles {
                assert!(throttle.handle_timeout(now));
                while throttle.held_until().is_none() && throttle.admits(now) {
                    throttle.take(now);
                    taken += 1;
                }
            }
        }
        assert!((24..=25).contains(&taken), "{taken}");
        assert!(!rate.is_full(&bucket, at(start, 2000)));
        assert!(rate.is_full(&bucket, at(start, 3000)));
    }

    proptest! {
        /// In no span of time more than the burst and what has flown in.
        #[test]
        fn prop_t34_never_more_than_the_burst_and_the_rate(
            per_second in 1_u32..1000,
            burst in 1_u32..50,
            pauses in prop::collection::vec(0_u64..50, 1..60),
        ) {
            let start = Instant::now();
            let mut throttle = Throttle::new(Some(Rate::new(per_second, burst, start)), None);
            let mut taken: Vec<u64> = Vec::new();
            let mut now = 0;
            for pause in pauses {
                now += pause;
                throttle.handle_timeout(at(start, now));
                while throttle.held_until().is_none() && throttle.admits(at(start, now)) {
                    throttle.take(at(start, now));
                    taken.push(now);
                }
            }
            for (first, from) in taken.iter().enumerate().step_by(7) {
                for (last, to) in taken.iter().enumerate().skip(first) {
                    let count = (last - first + 1) as f64;
                    let flown_in = (to - from) as f64 * f64::from(per_second) / 1000.0;
                    let bound = f64::from(burst) + flown_in + 1.0;
                    prop_assert!(count <= bound, "{count} in {} ms", to - from);
                }
            }
        }
    }
}

//! How many messages connections and users may send.

use std::collections::HashMap;
use std::num::NonZeroU32;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use ws_session::UserId;

use crate::core::rate::{Bucket, Rate, Throttle};

/// `limits.message_rate` and its like.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct RateLimits {
    pub(crate) per_connection: Option<NonZeroU32>,
    pub(crate) per_user: Option<NonZeroU32>,
    pub(crate) burst: NonZeroU32,
}

/// The users' buckets, and what a new connection gets.
#[derive(Debug)]
pub(crate) struct Rates {
    per_connection: Option<Rate>,
    per_user: Option<Rate>,
    users: Mutex<Users>,
}

#[derive(Debug, Default)]
struct Users {
    buckets: HashMap<UserId, Arc<Bucket>>,
    /// How many there may be before those of no more use are forgotten.
    sweep_at: usize,
}

impl Rates {
    const SMALLEST_SWEEP: usize = 64;

    pub(crate) fn new(limits: RateLimits, now: Instant) -> Self {
        let rate = |per_second: NonZeroU32| Rate::new(per_second.get(), limits.burst.get(), now);
        Self {
            per_connection: limits.per_connection.map(rate),
            per_user: limits.per_user.map(rate),
            users: Mutex::default(),
        }
    }

    /// What the messages of a new connection are taken from; `None` if they are not limited. This is
    /// the only time that a lock is taken.
    pub(crate) fn throttle(&self, user: Option<&UserId>, now: Instant) -> Option<Box<Throttle>> {
        let shared = self
            .per_user
            .zip(user)
            .map(|(rate, user)| (rate, self.bucket(rate, user, now)));
        if self.per_connection.is_none() && shared.is_none() {
            return None;
        }
        Some(Box::new(Throttle::new(self.per_connection, shared)))
    }

    /// A user's bucket outlives his connections until it is full: who comes back at once does not
    /// find a full one.
    fn bucket(&self, rate: Rate, user: &UserId, now: Instant) -> Arc<Bucket> {
        let mut users = self.users.lock().unwrap_or_else(PoisonError::into_inner);
        if users.buckets.len() >= users.sweep_at.max(Self::SMALLEST_SWEEP) {
            users
                .buckets
                .retain(|_, bucket| Arc::strong_count(bucket) > 1 || !rate.is_full(bucket, now));
            users.sweep_at = users.buckets.len() * 2;
        }
        Arc::clone(users.buckets.entry(user.clone()).or_default())
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn user(number: usize) -> UserId {
        UserId::new(&format!("user{number}")).unwrap()
    }

    fn rates(per_connection: u32, per_user: u32, now: Instant) -> Rates {
        let limits = RateLimits {
            per_connection: NonZeroU32::new(per_connection),
            per_user: NonZeroU32::new(per_user),
            burst: NonZeroU32::new(2).unwrap(),
        };
        Rates::new(limits, now)
    }

    #[test]
    fn t34_without_a_limit_there_is_nothing_to_count() {
        let now = Instant::now();
        assert!(rates(0, 0, now).throttle(Some(&user(1)), now).is_none());
        assert!(rates(1, 0, now).throttle(Some(&user(1)), now).is_some());
    }

    #[test]
    fn t34_who_comes_back_at_once_finds_his_bucket_as_it_was() {
        let now = Instant::now();
        let rates = rates(0, 1, now);
        let mut first = rates.throttle(Some(&user(1)), now).unwrap();
        assert!(first.admits(now));
        first.take(now);
        first.take(now);
        drop(first);
        assert!(!rates.throttle(Some(&user(1)), now).unwrap().admits(now));
        assert!(rates.throttle(Some(&user(2)), now).unwrap().admits(now));
    }

    #[test]
    fn t36_users_who_have_gone_are_forgotten() {
        let now = Instant::now();
        let rates = rates(0, 1000, now);
        let stays = rates.throttle(Some(&user(0)), now);
        for number in 0..10_000 {
            let now = now + Duration::from_millis(number as u64 * 10);
            rates.throttle(Some(&user(number)), now).unwrap().take(now);
        }
        assert!(rates.users.lock().unwrap().buckets.len() <= 2 * Rates::SMALLEST_SWEEP);
        assert!(stays.is_some());
    }
}

//! When each of many connections is to be woken.

use std::collections::BTreeSet;
use std::num::NonZeroU64;
use std::time::{Duration, Instant};

/// The alarms of a worker's connections, one each at most. They are known by where the worker keeps
/// them.
///
/// A connection's own timer of the runtime would take several times the memory, for something that
/// rings once in half a minute.
#[derive(Debug)]
pub(crate) struct Alarms {
    alarms: BTreeSet<Alarm>,
    /// What their times are counted from.
    began: Instant,
}

/// A time in nanoseconds, its upper half first, and whom it is for: 12 bytes, where an `Instant`
/// makes it 24.
type Alarm = (u32, u32, u32);

/// When an alarm rings, in half of what an `Instant` takes: nanoseconds, none of which is 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Ring(NonZeroU64);

impl Alarms {
    /// None. Times before `now` count as that.
    pub(crate) fn new(now: Instant) -> Self {
        Self {
            alarms: BTreeSet::new(),
            began: now,
        }
    }

    /// Sets the alarm of a connection, unless its `former` one rings sooner. Returns when it rings, if
    /// it was set.
    pub(crate) fn set(&mut self, slot: u32, former: Option<Ring>, at: Instant) -> Option<Ring> {
        let ring = self.ring(at);
        if former.is_some_and(|former| former <= ring) {
            return None;
        }
        self.remove(slot, former);
        self.alarms.insert(alarm(ring, slot));
        Some(ring)
    }

    /// Takes the alarm of a connection back.
    pub(crate) fn remove(&mut self, slot: u32, former: Option<Ring>) {
        if let Some(former) = former {
            self.alarms.remove(&alarm(former, slot));
        }
    }

    /// When the next one rings.
    pub(crate) fn next(&self) -> Option<Instant> {
        self.alarms.first().map(|alarm| self.time(*alarm))
    }

    /// Takes out one that has rung by `now`.
    pub(crate) fn take_due(&mut self, now: Instant) -> Option<u32> {
        if self.next()? > now {
            return None;
        }
        self.alarms.pop_first().map(|(_, _, slot)| slot)
    }

    fn ring(&self, at: Instant) -> Ring {
        let nanos = at.saturating_duration_since(self.began).as_nanos();
        // Five hundred years from now it does not ring any more.
        let nanos = u64::try_from(nanos).unwrap_or(u64::MAX);
        Ring(NonZeroU64::MIN.saturating_add(nanos))
    }

    fn time(&self, (upper, lower, _): Alarm) -> Instant {
        let nanos = u64::from(upper) << 32 | u64::from(lower);
        self.began + Duration::from_nanos(nanos - 1)
    }
}

fn alarm(Ring(nanos): Ring, slot: u32) -> Alarm {
    ((nanos.get() >> 32) as u32, nanos.get() as u32, slot)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn they_ring_in_their_order_and_not_before() {
        let now = Instant::now();
        let at = |seconds| now + Duration::from_secs(seconds);
        let mut alarms = Alarms::new(now);
        alarms.set(1, None, at(2));
        let late = alarms.set(2, None, at(3));
        alarms.set(3, None, at(1));
        let early = alarms.set(2, late, at(0));
        assert_eq!(alarms.next(), Some(at(0)));
        assert_eq!(
            alarms.set(2, early, at(3)),
            None,
            "it rings sooner as it is"
        );
        alarms.remove(2, early);
        assert_eq!(alarms.take_due(at(0)), None);
        assert_eq!(alarms.take_due(at(2)), Some(3));
        assert_eq!(alarms.take_due(at(2)), Some(1));
        assert_eq!(alarms.take_due(at(9)), None);
        assert_eq!(alarms.next(), None);
    }
}

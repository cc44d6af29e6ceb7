//! When each of many connections is to be woken.

use std::collections::BTreeSet;
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

impl Alarms {
    /// None. Times before `now` count as that.
    pub(crate) fn new(now: Instant) -> Self {
        Self {
            alarms: BTreeSet::new(),
            began: now,
        }
    }

    /// Sets the alarm of a connection instead of its `former` one.
    pub(crate) fn set(&mut self, slot: u32, former: Option<Instant>, at: Instant) {
        self.remove(slot, former);
        self.alarms.insert(self.alarm(at, slot));
    }

    /// Takes the alarm of a connection back.
    pub(crate) fn remove(&mut self, slot: u32, former: Option<Instant>) {
        if let Some(former) = former {
            self.alarms.remove(&self.alarm(former, slot));
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

    fn alarm(&self, at: Instant, slot: u32) -> Alarm {
        let nanos = at.saturating_duration_since(self.began).as_nanos();
        // Five hundred years from now it does not ring any more.
        let nanos = u64::try_from(nanos).unwrap_or(u64::MAX);
        ((nanos >> 32) as u32, nanos as u32, slot)
    }

    fn time(&self, (upper, lower, _): Alarm) -> Instant {
        self.began + Duration::from_nanos(u64::from(upper) << 32 | u64::from(lower))
    }
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
        alarms.set(2, None, at(3));
        alarms.set(3, None, at(1));
        alarms.set(2, Some(at(3)), at(0));
        assert_eq!(alarms.next(), Some(at(0)));
        alarms.remove(2, Some(at(0)));
        assert_eq!(alarms.take_due(at(0)), None);
        assert_eq!(alarms.take_due(at(2)), Some(3));
        assert_eq!(alarms.take_due(at(2)), Some(1));
        assert_eq!(alarms.take_due(at(9)), None);
        assert_eq!(alarms.next(), None);
    }
}

//! When each of many connections is to be woken.

use std::collections::BTreeSet;
use std::time::Instant;

use ws_session::ConnectionId;

/// The alarms of a worker's connections, one each at most.
///
/// A connection's own timer of the runtime would take several times the memory, for something that
/// rings once in half a minute.
#[derive(Debug, Default)]
pub(crate) struct Alarms(BTreeSet<(Instant, ConnectionId)>);

impl Alarms {
    /// Sets the alarm of a connection instead of its `former` one.
    pub(crate) fn set(&mut self, id: ConnectionId, former: Option<Instant>, at: Instant) {
        self.remove(id, former);
        self.0.insert((at, id));
    }

    /// Takes the alarm of a connection back.
    pub(crate) fn remove(&mut self, id: ConnectionId, former: Option<Instant>) {
        if let Some(former) = former {
            self.0.remove(&(former, id));
        }
    }

    /// When the next one rings.
    pub(crate) fn next(&self) -> Option<Instant> {
        self.0.first().map(|(at, _)| *at)
    }

    /// Takes out one that has rung by `now`.
    pub(crate) fn take_due(&mut self, now: Instant) -> Option<ConnectionId> {
        if self.next()? > now {
            return None;
        }
        self.0.pop_first().map(|(_, id)| id)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn they_ring_in_their_order_and_not_before() {
        let now = Instant::now();
        let at = |seconds| now + Duration::from_secs(seconds);
        let id = ConnectionId::from;
        let mut alarms = Alarms::default();
        alarms.set(id(1), None, at(2));
        alarms.set(id(2), None, at(3));
        alarms.set(id(3), None, at(1));
        alarms.set(id(2), Some(at(3)), at(0));
        assert_eq!(alarms.next(), Some(at(0)));
        alarms.remove(id(2), Some(at(0)));
        assert_eq!(alarms.take_due(at(0)), None);
        assert_eq!(alarms.take_due(at(2)), Some(id(3)));
        assert_eq!(alarms.take_due(at(2)), Some(id(1)));
        assert_eq!(alarms.take_due(at(9)), None);
        assert_eq!(alarms.next(), None);
    }
}

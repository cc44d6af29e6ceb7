//! What has changed in who is connected, as far as it is remembered.

use std::collections::VecDeque;
use std::sync::Arc;

use ws_session::{ConnectionId, SessionId, UserId};

/// A connection opened or closed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Change {
    /// One more than that of the change before.
    pub(crate) generation: u64,
    pub(crate) user: UserId,
    pub(crate) session: SessionId,
    pub(crate) connection: ConnectionId,
    /// How many connections the user has now.
    pub(crate) connections: usize,
    /// How it ended; `None` if it opened.
    pub(crate) end: Option<End>,
}

/// How a connection ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct End {
    pub(crate) code: u16,
    pub(crate) cause: &'static str,
}

/// What is told of a change, each under its name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Open,
    Close,
    /// The user's first connection opened.
    Online,
    /// The user's last one closed.
    Offline,
}

impl Kind {
    const ALL: [Self; 4] = [Self::Open, Self::Close, Self::Online, Self::Offline];

    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Open => "open",
            Self::Close => "close",
            Self::Online => "online",
            Self::Offline => "offline",
        }
    }

    pub(crate) fn parse(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.as_str() == name)
    }
}

impl Change {
    /// What is told of it, in this order.
    pub(crate) fn kinds(&self) -> impl Iterator<Item = Kind> {
        let (first, second) = match (self.end, self.connections) {
            (None, 1) => (Kind::Open, Some(Kind::Online)),
            (None, _) => (Kind::Open, None),
            (Some(_), 0) => (Kind::Close, Some(Kind::Offline)),
            (Some(_), _) => (Kind::Close, None),
        };
        std::iter::once(first).chain(second)
    }
}

/// So many changes are forgotten already.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Missed(pub(crate) u64);

/// The last changes, at most a certain number. It is the one queue of all who listen: each of them
/// is somewhere in it, and whoever is too slow loses the oldest.
#[derive(Debug)]
pub(crate) struct Changes {
    capacity: usize,
    /// Their generations follow each other.
    changes: VecDeque<Arc<Change>>,
    /// The generation of the next change.
    next: u64,
}

impl Changes {
    /// Remembers what changes from generation `next` on.
    pub(crate) fn new(capacity: usize, next: u64) -> Self {
        Self {
            capacity,
            changes: VecDeque::new(),
            next,
        }
    }

    /// The first generation that is remembered, or is next.
    fn first(&self) -> u64 {
        self.next - self.changes.len() as u64
    }

    pub(crate) fn push(&mut self, change: Change) {
        debug_assert_eq!(change.generation, self.next, "no change is left out");
        self.next = change.generation + 1;
        if self.changes.len() == self.capacity {
            self.changes.pop_front();
        }
        self.changes.push_back(Arc::new(change));
    }

    /// The changes from a generation on, at most `max`.
    ///
    /// # Errors
    ///
    /// [`Missed`] if the first of them are forgotten: go on with [`oldest`](Self::oldest).
    pub(crate) fn from(&self, generation: u64, max: usize) -> Result<Vec<Arc<Change>>, Missed> {
        let first = self.first();
        if generation < first {
            return Err(Missed(first - generation));
        }
        let skipped = usize::try_from(generation - first).unwrap_or(usize::MAX);
        Ok(self
            .changes
            .iter()
            .skip(skipped)
            .take(max)
            .cloned()
            .collect())
    }

    /// The first generation that can still be had.
    pub(crate) fn oldest(&self) -> u64 {
        self.first()
    }
}

/// A change of that generation, for tests.
#[cfg(test)]
pub(crate) fn change(generation: u64) -> Change {
    Change {
        generation,
        user: UserId::new("alice").unwrap(),
        session: SessionId::of_name("s"),
        connection: ConnectionId::from(generation),
        connections: 1,
        end: None,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn the_first_connection_makes_a_user_online_and_the_last_one_offline() {
        let end = Some(End {
            code: 1000,
            cause: "peer",
        });
        for (end, connections, names) in [
            (None, 1, &["open", "online"][..]),
            (None, 2, &["open"]),
            (end, 1, &["close"]),
            (end, 0, &["close", "offline"]),
        ] {
            let change = Change {
                end,
                connections,
                ..change(1)
            };
            let told: Vec<_> = change.kinds().map(Kind::as_str).collect();
            assert_eq!(told, names);
        }
    }

    proptest! {
        /// However listeners and changes interleave, each gets what it was not told it missed, once
        /// and in order.
        #[test]
        fn prop_a_listener_hears_or_misses_each_change_once(
            capacity in 1_usize..6,
            steps in prop::collection::vec((0_usize..8, 0_usize..8), 0..40),
        ) {
            let mut changes = Changes::new(capacity, 100);
            let mut next = 100;
            for (pushed, max) in steps {
                for _ in 0..pushed {
                    changes.push(change(changes.next));
                }
                match changes.from(next, max) {
                    Err(Missed(count)) => {
                        prop_assert_eq!(next + count, changes.oldest());
                        next = changes.oldest();
                    }
                    Ok(heard) => {
                        let left = changes.next - next;
                        prop_assert_eq!(heard.len() as u64, left.min(max as u64));
                        for change in heard {
                            prop_assert_eq!(change.generation, next);
                            next += 1;
                        }
                    }
                }
                prop_assert!(changes.changes.len() <= capacity);
            }
        }
    }
}

//! The connections that share a user or a session, each in a ring of its own.

use std::hash::Hash;
use std::time::{Duration, SystemTime};

use hashbrown::HashTable;

use super::{Entry, Presence, Registry};
use crate::{SessionId, UserId};

/// The next and the last one in a ring of those with one key. Who is alone is its own neighbour.
#[derive(Clone, Copy, Debug)]
pub(super) struct Neighbours {
    pub(super) next: u32,
    pub(super) previous: u32,
}

/// The connections that share a key.
#[derive(Clone, Copy, Debug)]
pub(super) struct Group<E> {
    /// One of them.
    pub(super) first: u32,
    pub(super) count: u32,
    /// Whatever else is kept of such a group.
    pub(super) extra: E,
}

/// Microseconds since the epoch: half of what a [`SystemTime`] takes.
#[derive(Clone, Copy, Debug)]
pub(super) struct Since(u64);

impl From<SystemTime> for Since {
    fn from(time: SystemTime) -> Self {
        let since = time.duration_since(SystemTime::UNIX_EPOCH);
        let micros = since.map_or(0, |since| since.as_micros());
        Self(u64::try_from(micros).unwrap_or(u64::MAX))
    }
}

impl From<Since> for SystemTime {
    fn from(since: Since) -> Self {
        let since = Self::UNIX_EPOCH.checked_add(Duration::from_micros(since.0));
        since.unwrap_or(Self::UNIX_EPOCH)
    }
}

impl Group<Since> {
    pub(super) fn presence(&self) -> Presence {
        Presence {
            connections: self.count as usize,
            since: self.extra.into(),
        }
    }
}

/// What of a connection others may have too.
pub(super) trait Shared: Hash + Eq + Sized {
    /// What is kept of those that share it.
    type Extra: Copy;

    fn extra(now: SystemTime) -> Self::Extra;
    fn table<T>(registry: &mut Registry<T>) -> &mut HashTable<Group<Self::Extra>>;
    fn of<T>(entry: &Entry<T>) -> &Self;
    fn ring<T>(entry: &Entry<T>) -> Neighbours;
    fn ring_mut<T>(entry: &mut Entry<T>) -> &mut Neighbours;
}

impl Shared for UserId {
    type Extra = Since;

    fn extra(now: SystemTime) -> Since {
        now.into()
    }

    fn table<T>(registry: &mut Registry<T>) -> &mut HashTable<Group<Since>> {
        &mut registry.by_user
    }

    fn of<T>(entry: &Entry<T>) -> &Self {
        &entry.binding.user
    }

    fn ring<T>(entry: &Entry<T>) -> Neighbours {
        entry.user_ring
    }

    fn ring_mut<T>(entry: &mut Entry<T>) -> &mut Neighbours {
        &mut entry.user_ring
    }
}

impl Shared for SessionId {
    type Extra = ();

    fn extra(_: SystemTime) {}

    fn table<T>(registry: &mut Registry<T>) -> &mut HashTable<Group<()>> {
        &mut registry.by_session
    }

    fn of<T>(entry: &Entry<T>) -> &Self {
        &entry.binding.session
    }

    fn ring<T>(entry: &Entry<T>) -> Neighbours {
        entry.session_ring
    }

    fn ring_mut<T>(entry: &mut Entry<T>) -> &mut Neighbours {
        &mut entry.session_ring
    }
}

//! The open connections, found by connection, user or session.

mod connections;
mod ring;

use std::collections::BTreeSet;
use std::hash::{BuildHasher as _, RandomState};
use std::ops::{Bound, Range};
use std::time::SystemTime;

use hashbrown::HashTable;

pub use self::connections::Connections;
use self::connections::Inner;
use self::ring::{Group, Neighbours, Shared, Since};
use crate::packed::{Keyed, Packed};
use crate::{ConnectionId, SessionId, Target, UserId};

/// Whom a connection acts for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Binding {
    /// The user that the application named.
    pub user: UserId,
    /// The session that the cookie named.
    pub session: SessionId,
}

/// How a user is there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Presence {
    /// How many connections there are: at least one.
    pub connections: usize,
    /// Since when there has always been one, to the microsecond.
    pub since: SystemTime,
}

/// The connection id is taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("connection {0} is registered already")]
pub struct DuplicateConnection(pub ConnectionId);

/// The open connections with their bindings, and whatever else (`T`) the server keeps of each.
///
/// Inserting, removing, finding and counting take constant time, however many connections a user or
/// session has; the first and the last connection of a user take logarithmic time. The keys come
/// from outside, so the tables hash with a random key and cannot be flooded.
#[derive(Clone, Debug)]
pub struct Registry<T> {
    entries: Packed<Entry<T>>,
    by_user: HashTable<Group<Since>>,
    by_session: HashTable<Group<()>>,
    /// The users that are there, for whoever goes through them in parts.
    users: BTreeSet<UserId>,
    hash_key: RandomState,
}

#[derive(Clone, Debug)]
struct Entry<T> {
    id: ConnectionId,
    binding: Binding,
    value: T,
    /// Among the connections of its user.
    user_ring: Neighbours,
    /// Among the connections of its session.
    session_ring: Neighbours,
}

impl<T> Keyed for Entry<T> {
    type Key = ConnectionId;

    fn key(&self) -> ConnectionId {
        self.id
    }
}

impl<T> Registry<T> {
    /// Makes an empty registry.
    pub fn new() -> Self {
        Self {
            entries: Packed::new(),
            by_user: HashTable::new(),
            by_session: HashTable::new(),
            users: BTreeSet::new(),
            hash_key: RandomState::new(),
        }
    }

    /// Returns the number of connections.
    pub fn count(&self) -> usize {
        self.entries.len()
    }

    /// Tells whether there is no connection.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// Returns the number of users with at least one connection.
    pub fn user_count(&self) -> usize {
        self.by_user.len()
    }

    /// Returns the number of sessions with at least one connection.
    pub fn session_count(&self) -> usize {
        self.by_session.len()
    }

    /// Returns what was registered with a connection.
    pub fn get(&self, id: ConnectionId) -> Option<&T> {
        self.entries.get(id).map(|entry| &entry.value)
    }

    /// Returns what was registered with a connection, to be changed.
    pub fn get_mut(&mut self, id: ConnectionId) -> Option<&mut T> {
        self.entries.get_mut(id).map(|entry| &mut entry.value)
    }

    /// Returns the user and the session of a connection.
    pub fn binding(&self, id: ConnectionId) -> Option<&Binding> {
        self.entries.get(id).map(|entry| &entry.binding)
    }

    /// Returns the connections that a message to `target` reaches, each once, in no given order.
    ///
    /// It takes as long as there are connections that are reached, or spared by
    /// [`Target::Except`], however many others there are.
    pub fn select(&self, target: &Target) -> Connections<'_, T> {
        match target {
            Target::All => self.iter(),
            Target::User(user) => self.user(user),
            Target::Session(session) => self.session(*session),
            Target::Connection(id) => Connections(Inner::One(self.entries.get(*id))),
            Target::Except(whom, spared) if **whom == Target::All => {
                self.all_but(self.places(spared))
            }
            Target::AnyOf(_) | Target::Except(..) => Connections(Inner::Places {
                entries: &self.entries,
                places: self.places(target).into_iter(),
            }),
        }
    }

    /// The places of what a target reaches, in ascending order, each once.
    fn places(&self, target: &Target) -> Vec<u32> {
        match target {
            Target::AnyOf(targets) => {
                let mut places: Vec<u32> = targets
                    .iter()
                    .flat_map(|target| self.places(target))
                    .collect();
                places.sort_unstable();
                places.dedup();
                places
            }
            Target::Except(whom, spared) => {
                let mut places = self.places(whom);
                places.retain(|place| {
                    let Entry { id, binding, .. } = self.entries.at(*place);
                    !spared.contains(*id, Some(&binding.user), binding.session)
                });
                places
            }
            Target::All | Target::User(_) | Target::Session(_) | Target::Connection(_) => {
                let ids = self.select(target).map(|(id, _)| *id);
                let place = |id| self.entries.place(id).expect("what is selected is there");
                let mut places: Vec<u32> = ids.map(place).collect();
                places.sort_unstable();
                places
            }
        }
    }

    /// Returns the connections of one user.
    pub fn user(&self, user: &UserId) -> Connections<'_, T> {
        self.ring_of(&self.by_user, user)
    }

    /// Returns the connections of one session.
    pub fn session(&self, session: SessionId) -> Connections<'_, T> {
        self.ring_of(&self.by_session, &session)
    }

    /// Returns all connections.
    pub fn iter(&self) -> Connections<'_, T> {
        self.all_but(Vec::new())
    }

    /// Returns those at other places than these, which are in ascending order.
    fn all_but(&self, spared: Vec<u32>) -> Connections<'_, T> {
        Connections(Inner::AllBut {
            left: self.count() - spared.len(),
            iter: self.entries.iter(),
            spared: spared.into_iter().peekable(),
        })
    }

    /// Returns how a user is there, in constant time; `None` if there is no connection.
    pub fn presence(&self, user: &UserId) -> Option<Presence> {
        self.group(&self.by_user, user).map(Group::presence)
    }

    /// Returns the users that are there from a bound on, in the order of their ids; the first of them
    /// in logarithmic time.
    ///
    /// Whoever goes through them in parts, and lets others change the registry between one part and
    /// the next, meets each user that was there all the time exactly once.
    pub fn users_from(&self, bound: Bound<&str>) -> impl Iterator<Item = (&UserId, Presence)> {
        let users = self.users.range::<str, _>((bound, Bound::Unbounded));
        users.filter_map(|user| Some((user, self.presence(user)?)))
    }

    /// Returns the connections at some of the places from 0 to [`place_count`](Self::place_count).
    ///
    /// A connection keeps its place, so whoever goes through all places, and lets others change the
    /// registry between one part and the next, meets each connection that was there all the time
    /// exactly once.
    pub fn part_of(
        &self,
        places: Range<usize>,
    ) -> impl Iterator<Item = (ConnectionId, &Binding, &T)> {
        let entries = places.filter_map(|place| self.entries.at_any(place));
        entries.map(|entry| (entry.id, &entry.binding, &entry.value))
    }

    /// Returns a bound of the places of connections.
    pub fn place_count(&self) -> usize {
        self.entries.place_count()
    }

    fn group<'t, K: Shared>(
        &self,
        table: &'t HashTable<Group<K::Extra>>,
        key: &K,
    ) -> Option<&'t Group<K::Extra>> {
        let hash = self.hash_key.hash_one(key);
        table.find(hash, |group| K::of(self.entries.at(group.first)) == key)
    }

    fn ring_of<K: Shared>(
        &self,
        table: &HashTable<Group<K::Extra>>,
        key: &K,
    ) -> Connections<'_, T> {
        Connections(match self.group(table, key) {
            None => Inner::One(None),
            Some(group) => Inner::Ring {
                entries: &self.entries,
                next: group.first,
                left: group.count as usize,
                ring: K::ring,
            },
        })
    }

    /// Registers a connection that is there from `now` on.
    ///
    /// # Errors
    ///
    /// [`DuplicateConnection`] if the id is taken. Then nothing is changed and `value` is dropped.
    pub fn insert_unique(
        &mut self,
        id: ConnectionId,
        binding: Binding,
        value: T,
        now: SystemTime,
    ) -> Result<(), DuplicateConnection> {
        if self.entries.get(id).is_some() {
            return Err(DuplicateConnection(id));
        }
        let place = self.entries.vacant_place();
        let alone = Neighbours {
            next: place,
            previous: place,
        };
        self.entries.insert_unique(Entry {
            id,
            binding,
            value,
            user_ring: alone,
            session_ring: alone,
        });
        if self.join::<UserId>(place, now) {
            let user = self.entries.at(place).binding.user.clone();
            self.users.insert(user);
        }
        self.join::<SessionId>(place, now);
        Ok(())
    }

    /// Puts a connection among those that share a key with it; tells whether it is the first.
    fn join<K: Shared>(&mut self, place: u32, now: SystemTime) -> bool {
        let mut table = std::mem::take(K::table(self));
        let key = |place: u32| K::of(self.entries.at(place));
        let hash = self.hash_key.hash_one(key(place));
        let is_first = match table.find_mut(hash, |group| key(group.first) == key(place)) {
            Some(group) => {
                group.count += 1;
                let first = group.first;
                let previous = K::ring(self.entries.at(first)).previous;
                let own = Neighbours {
                    next: first,
                    previous,
                };
                *K::ring_mut(self.entries.at_mut(place)) = own;
                self.link::<K>(previous, place);
                self.link::<K>(place, first);
                false
            }
            None => {
                let group = Group {
                    first: place,
                    count: 1,
                    extra: K::extra(now),
                };
                table.insert_unique(hash, group, |group| {
                    self.hash_key.hash_one(key(group.first))
                });
                true
            }
        };
        *K::table(self) = table;
        is_first
    }

    fn link<K: Shared>(&mut self, previous: u32, next: u32) {
        K::ring_mut(self.entries.at_mut(previous)).next = next;
        K::ring_mut(self.entries.at_mut(next)).previous = previous;
    }

    /// Forgets a connection and returns what was registered with it.
    pub fn remove(&mut self, id: ConnectionId) -> Option<(Binding, T)> {
        let place = self.entries.place(id)?;
        let is_last = self.part::<UserId>(place);
        self.part::<SessionId>(place);
        let entry = self.entries.remove(id)?;
        if is_last {
            self.users.remove(&entry.binding.user);
        }
        Some((entry.binding, entry.value))
    }

    /// Takes a connection from among those that share a key with it; tells whether it was the last.
    fn part<K: Shared>(&mut self, place: u32) -> bool {
        let mut table = std::mem::take(K::table(self));
        let key = |place: u32| K::of(self.entries.at(place));
        let hash = self.hash_key.hash_one(key(place));
        let Neighbours { next, previous } = K::ring(self.entries.at(place));
        let mut is_last = false;
        if let Ok(mut entry) = table.find_entry(hash, |group| key(group.first) == key(place)) {
            let group = entry.get_mut();
            group.count -= 1;
            if group.count == 0 {
                is_last = true;
                entry.remove();
            } else if group.first == place {
                group.first = next;
            }
        }
        self.link::<K>(previous, next);
        *K::table(self) = table;
        is_last
    }
}

impl<T> Default for Registry<T> {
    fn default() -> Self {
        Self::new()
    }
}

impl<'a, T> IntoIterator for &'a Registry<T> {
    type Item = (&'a ConnectionId, &'a T);
    type IntoIter = Connections<'a, T>;

    fn into_iter(self) -> Self::IntoIter {
        self.iter()
    }
}

#[cfg(test)]
mod tests;

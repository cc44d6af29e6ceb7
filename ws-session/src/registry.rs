//! The open connections, found by connection, user or session.

use std::collections::BTreeSet;
use std::hash::{BuildHasher as _, Hash, RandomState};
use std::iter::Peekable;
use std::ops::{Bound, Range};
use std::time::{Duration, SystemTime};
use std::vec;

use hashbrown::HashTable;

use crate::packed::{Keyed, Packed};
use crate::{ConnectionId, SessionId, UserId};

/// Whom a connection acts for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Binding {
    /// The user that the application named.
    pub user: UserId,
    /// The session that the cookie named.
    pub session: SessionId,
}

/// To whom a message goes.
///
/// A target may be made of others: [`AnyOf`](Self::AnyOf) and [`Except`](Self::Except) nest as deep
/// as whoever makes them lets them.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Target {
    /// Every connection.
    All,
    /// Every connection of one user.
    User(UserId),
    /// Every connection of one session.
    Session(SessionId),
    /// One connection.
    Connection(ConnectionId),
    /// Every connection that any of these reaches, each once.
    AnyOf(Vec<Self>),
    /// Every connection that the first reaches and the second does not.
    Except(Box<Self>, Box<Self>),
}

impl Target {
    /// Leaves out what `spared` reaches.
    ///
    /// # Examples
    ///
    /// ```
    /// use ws_session::{Target, UserId};
    ///
    /// let alice = UserId::new("alice")?;
    /// let all_but_alice = Target::All.except(Target::User(alice));
    /// # Ok::<(), ws_session::InvalidUserId>(())
    /// ```
    #[must_use]
    pub fn except(self, spared: Self) -> Self {
        Self::Except(Box::new(self), Box::new(spared))
    }

    /// Tells whether it reaches a connection that acts for this user in this session. Without a
    /// user, it is reached by its session and its id only.
    pub fn contains(
        &self,
        connection: ConnectionId,
        user: Option<&UserId>,
        session: SessionId,
    ) -> bool {
        match self {
            Self::All => true,
            Self::User(own) => user == Some(own),
            Self::Session(own) => *own == session,
            Self::Connection(own) => *own == connection,
            Self::AnyOf(targets) => targets
                .iter()
                .any(|target| target.contains(connection, user, session)),
            Self::Except(whom, spared) => {
                whom.contains(connection, user, session)
                    && !spared.contains(connection, user, session)
            }
        }
    }
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
/// session has; the first and the last connection of a user take logarithmic time. The keys come from outside, so the tables hash with a random key and cannot be flooded.
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

/// The next and the last one in a ring of those with one key. Who is alone is its own neighbour.
#[derive(Clone, Copy, Debug)]
struct Neighbours {
    next: u32,
    previous: u32,
}

/// The connections that share a key.
#[derive(Clone, Copy, Debug)]
struct Group<E> {
    /// One of them.
    first: u32,
    count: u32,
    /// Whatever else is kept of such a group.
    extra: E,
}

/// Microseconds since the epoch: half of what a [`SystemTime`] takes.
#[derive(Clone, Copy, Debug)]
struct Since(u64);

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
    fn presence(&self) -> Presence {
        Presence {
            connections: self.count as usize,
            since: self.extra.into(),
        }
    }
}

/// What of a connection others may have too.
trait Shared: Hash + Eq + Sized {
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
                let spared = self.places(spared);
                Connections(Inner::AllBut {
                    left: self.count() - spared.len(),
                    iter: self.entries.iter(),
                    spared: spared.into_iter().peekable(),
                })
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
        Connections(Inner::All(self.entries.iter()))
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

/// Some of the connections of a [`Registry`]; its length is known.
#[derive(Debug)]
pub struct Connections<'a, T>(Inner<'a, T>);

#[derive(Debug)]
enum Inner<'a, T> {
    All(slab::Iter<'a, Box<Entry<T>>>),
    Ring {
        entries: &'a Packed<Entry<T>>,
        next: u32,
        left: usize,
        ring: fn(&Entry<T>) -> Neighbours,
    },
    One(Option<&'a Entry<T>>),
    /// Both in the order of the places.
    AllBut {
        iter: slab::Iter<'a, Box<Entry<T>>>,
        spared: Peekable<vec::IntoIter<u32>>,
        left: usize,
    },
    Places {
        entries: &'a Packed<Entry<T>>,
        places: vec::IntoIter<u32>,
    },
}

// By hand: the derive would ask for `T: Clone`, though only references are copied.
impl<T> Clone for Connections<'_, T> {
    fn clone(&self) -> Self {
        Self(match &self.0 {
            Inner::All(iter) => Inner::All(iter.clone()),
            Inner::Ring {
                entries,
                next,
                left,
                ring,
            } => Inner::Ring {
                entries,
                next: *next,
                left: *left,
                ring: *ring,
            },
            Inner::One(one) => Inner::One(*one),
            Inner::AllBut { iter, spared, left } => Inner::AllBut {
                iter: iter.clone(),
                spared: spared.clone(),
                left: *left,
            },
            Inner::Places { entries, places } => Inner::Places {
                entries,
                places: places.clone(),
            },
        })
    }
}

impl<'a, T> Iterator for Connections<'a, T> {
    type Item = (&'a ConnectionId, &'a T);

    fn next(&mut self) -> Option<Self::Item> {
        let entry = match &mut self.0 {
            Inner::All(iter) => iter.next()?.1,
            Inner::Ring {
                entries,
                next,
                left,
                ring,
            } => {
                *left = left.checked_sub(1)?;
                let entry = entries.at(*next);
                *next = ring(entry).next;
                entry
            }
            Inner::One(one) => one.take()?,
            Inner::AllBut { iter, spared, left } => {
                let mut is_spared = |at: usize| {
                    let spared = spared.next_if(|spared| *spared as usize == at);
                    spared.is_some()
                };
                let (_, entry) = iter.find(|(at, _)| !is_spared(*at))?;
                *left -= 1;
                entry
            }
            Inner::Places { entries, places } => entries.at(places.next()?),
        };
        Some((&entry.id, &entry.value))
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        let len = match &self.0 {
            Inner::All(iter) => iter.len(),
            Inner::Ring { left, .. } => *left,
            Inner::One(one) => usize::from(one.is_some()),
            Inner::AllBut { left, .. } => *left,
            Inner::Places { places, .. } => places.len(),
        };
        (len, Some(len))
    }
}

impl<T> ExactSizeIterator for Connections<'_, T> {}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use proptest::prelude::*;

    use super::*;
    use crate::testing::{self, NaiveRegistry};

    #[derive(Clone, Debug)]
    enum Op {
        Insert(ConnectionId, Binding, u32),
        Remove(ConnectionId),
        Change(ConnectionId, u32),
        Select(Target),
        /// Time passes, so many seconds.
        Wait(u32),
    }

    // Few names, so that they meet.
    fn op() -> impl Strategy<Value = Op> {
        let id = || (0u64..12).prop_map(ConnectionId::from);
        let binding = || testing::few_bindings(4, 4);
        prop_oneof![
            4 => (id(), binding(), any::<u32>()).prop_map(|(id, b, v)| Op::Insert(id, b, v)),
            3 => id().prop_map(Op::Remove),
            1 => (id(), any::<u32>()).prop_map(|(id, value)| Op::Change(id, value)),
            3 => testing::few_targets(4, 4, 12).prop_map(Op::Select),
            1 => (0_u32..1000).prop_map(Op::Wait),
        ]
    }

    /// What must hold after every operation.
    fn validate<T>(registry: &Registry<T>) {
        for (place, entry) in registry.entries.iter() {
            assert_eq!(registry.entries.place(entry.id), Some(place as u32));
            for ring in [UserId::ring, SessionId::ring] {
                let Neighbours { next, previous } = ring(entry);
                assert_eq!(ring(registry.entries.at(next)).previous, place as u32);
                assert_eq!(ring(registry.entries.at(previous)).next, place as u32);
            }
        }
        let of_users = registry.by_user.iter().map(|group| {
            let user = &registry.entries.at(group.first).binding.user;
            let connections = registry.user(user);
            assert!(
                connections
                    .clone()
                    .all(|(id, _)| registry.binding(*id).unwrap().user == *user)
            );
            connections.count()
        });
        let of_sessions = registry.by_session.iter().map(|group| {
            let session = registry.entries.at(group.first).binding.session;
            let connections = registry.session(session);
            assert!(
                connections
                    .clone()
                    .all(|(id, _)| registry.binding(*id).unwrap().session == session)
            );
            connections.count()
        });
        let sums: (usize, usize) = (of_users.sum(), of_sessions.sum());
        assert_eq!(sums, (registry.count(), registry.count()));
        let counted: u32 = registry.by_user.iter().map(|group| group.count).sum();
        assert_eq!(counted as usize, registry.count());
    }

    /// All users with their presence, in order, gone through in parts of this length.
    fn users<T>(registry: &Registry<T>, part: usize) -> Vec<(UserId, Presence)> {
        let mut users: Vec<(UserId, Presence)> = Vec::new();
        loop {
            let bound = match users.last() {
                Some((last, _)) => Bound::Excluded(last.as_str()),
                None => Bound::Unbounded,
            };
            let some: Vec<_> = registry
                .users_from(bound)
                .take(part)
                .map(|(user, presence)| (user.clone(), presence))
                .collect();
            users.extend(some.iter().cloned());
            if some.len() < part {
                return users;
            }
        }
    }

    fn at(seconds: u32) -> SystemTime {
        SystemTime::UNIX_EPOCH + Duration::from_secs(seconds.into())
    }

    fn selected(registry: &Registry<u32>, target: &Target) -> Vec<(ConnectionId, u32)> {
        let connections = registry.select(target);
        let len = connections.len();
        let mut selected: Vec<_> = connections.map(|(id, value)| (*id, *value)).collect();
        assert_eq!(selected.len(), len);
        selected.sort_unstable();
        selected
    }

    proptest! {
        #[test]
        fn prop_the_registry_is_the_naive_one(ops in prop::collection::vec(op(), 0..120)) {
            let mut registry = Registry::new();
            let mut naive = NaiveRegistry::default();
            let mut now = 1;
            for op in ops {
                match op {
                    Op::Wait(seconds) => now += seconds,
                    Op::Insert(id, binding, value) => prop_assert_eq!(
                        registry.insert_unique(id, binding.clone(), value, at(now)),
                        naive.insert_unique(id, binding, value, at(now))
                    ),
                    Op::Remove(id) => prop_assert_eq!(registry.remove(id), naive.remove(id)),
                    Op::Change(id, value) => prop_assert_eq!(
                        registry.get_mut(id).map(|old| std::mem::replace(old, value)),
                        naive.change(id, value)
                    ),
                    Op::Select(target) => {
                        let expected = naive.select(&target);
                        prop_assert_eq!(selected(&registry, &target), expected.clone());
                        for (id, value) in &registry {
                            let binding = registry.binding(*id).unwrap();
                            prop_assert_eq!(
                                target.contains(*id, Some(&binding.user), binding.session),
                                expected.contains(&(*id, *value))
                            );
                        }
                    }
                }
                validate(&registry);
                prop_assert_eq!(registry.count(), naive.count());
                prop_assert_eq!(registry.user_count(), naive.user_count());
                prop_assert_eq!(registry.session_count(), naive.session_count());
                prop_assert_eq!(selected(&registry, &Target::All), naive.select(&Target::All));
                prop_assert_eq!(users(&registry, 2), naive.users());
                prop_assert_eq!(registry.users.len(), registry.user_count());
            }
            let ids: Vec<_> = registry.iter().map(|(id, _)| *id).collect();
            for id in ids {
                prop_assert_eq!(registry.binding(id), naive.binding(id));
                registry.remove(id);
                validate(&registry);
            }
            prop_assert_eq!(
                (registry.count(), registry.user_count(), registry.session_count()),
                (0, 0, 0)
            );
        }

        /// Between the parts of one listing anything may happen to the registry.
        #[test]
        fn prop_a_listing_in_parts_has_who_stays_once_and_nobody_twice(
            before in prop::collection::vec(testing::few_bindings(4, 4), 0..40),
            steps in prop::collection::vec((0_usize..8, 0_u64..60, any::<bool>()), 0..60),
        ) {
            let mut registry = Registry::new();
            for (id, binding) in (0_u64..).zip(before) {
                registry.insert_unique(id.into(), binding, (), at(1)).unwrap();
            }
            let mut stayed: HashSet<_> = registry.iter().map(|(id, ())| *id).collect();
            let (mut met, mut place) = (Vec::new(), 0);
            for (size, id, inserts) in steps {
                met.extend(registry.part_of(place..place + size).map(|(id, _, ())| id));
                place += size;
                let id = ConnectionId::from(id);
                let binding = Binding {
                    user: UserId::new("user").unwrap(),
                    session: SessionId::from_bytes([0; 16]),
                };
                match inserts {
                    // One that comes back is not one who stayed.
                    true => drop(registry.insert_unique(id, binding, (), at(2))),
                    false => drop(registry.remove(id).map(|_| stayed.remove(&id))),
                }
            }
            met.extend(registry.part_of(place..registry.place_count()).map(|(id, _, ())| id));
            for id in &stayed {
                prop_assert_eq!(met.iter().filter(|other| *other == id).count(), 1);
            }
        }
    }

    #[test]
    fn a_user_is_there_since_the_first_connection_of_those_that_overlap() {
        let mut registry = Registry::new();
        let user = UserId::new("alice").unwrap();
        let insert = |registry: &mut Registry<()>, id: u64, now| {
            let session = SessionId::from_bytes([u8::try_from(id).unwrap(); 16]);
            let user = user.clone();
            let inserted =
                registry.insert_unique(id.into(), Binding { user, session }, (), at(now));
            inserted.unwrap();
        };
        insert(&mut registry, 1, 10);
        insert(&mut registry, 2, 20);
        registry.remove(1.into());
        insert(&mut registry, 3, 30);
        registry.remove(2.into());
        let there = |connections, since| {
            Some(Presence {
                connections,
                since: at(since),
            })
        };
        assert_eq!(registry.presence(&user), there(1, 10));
        registry.remove(3.into());
        assert_eq!(registry.presence(&user), None);
        insert(&mut registry, 4, 40);
        assert_eq!(registry.presence(&user), there(1, 40));
    }
}

//! The open connections, found by connection, user or session.

use std::collections::{HashMap, hash_map};
use std::hash::Hash;
use std::slice;

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
}

/// The connection id is taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("connection {0} is registered already")]
pub struct DuplicateConnection(pub ConnectionId);

/// The open connections with their bindings, and whatever else (`T`) the server keeps of each.
///
/// Inserting, removing and finding take constant time, however many connections a user or session
/// has. The keys come from outside, so the maps hash with a random key and cannot be flooded.
#[derive(Clone, Debug)]
pub struct Registry<T> {
    /// Boxed, for a map has much empty room.
    connections: HashMap<ConnectionId, Box<Entry<T>>>,
    users: Index<UserId>,
    sessions: Index<SessionId>,
}

#[derive(Clone, Debug)]
struct Entry<T> {
    binding: Binding,
    value: T,
    /// Where the connection stands in the list of its user.
    user_at: usize,
    /// Where the connection stands in the list of its session.
    session_at: usize,
}

impl<T> Registry<T> {
    /// Makes an empty registry.
    pub fn new() -> Self {
        Self {
            connections: HashMap::new(),
            users: Index::new(),
            sessions: Index::new(),
        }
    }

    /// Returns the number of connections.
    pub fn count(&self) -> usize {
        self.connections.len()
    }

    /// Tells whether there is no connection.
    pub fn is_empty(&self) -> bool {
        self.connections.is_empty()
    }

    /// Returns the number of users with at least one connection.
    pub fn user_count(&self) -> usize {
        self.users.lists.len()
    }

    /// Returns the number of sessions with at least one connection.
    pub fn session_count(&self) -> usize {
        self.sessions.lists.len()
    }

    /// Returns what was registered with a connection.
    pub fn get(&self, id: ConnectionId) -> Option<&T> {
        self.connections.get(&id).map(|entry| &entry.value)
    }

    /// Returns what was registered with a connection, to be changed.
    pub fn get_mut(&mut self, id: ConnectionId) -> Option<&mut T> {
        self.connections.get_mut(&id).map(|entry| &mut entry.value)
    }

    /// Returns the user and the session of a connection.
    pub fn binding(&self, id: ConnectionId) -> Option<&Binding> {
        self.connections.get(&id).map(|entry| &entry.binding)
    }

    /// Returns the connections that a message to `target` reaches, each once, in no given order.
    pub fn select(&self, target: &Target) -> Connections<'_, T> {
        match target {
            Target::All => self.iter(),
            Target::User(user) => self.user(user),
            Target::Session(session) => self.session(*session),
            Target::Connection(id) => {
                let one = self.connections.get_key_value(id);
                Connections(Inner::One(one.map(|(id, entry)| (id, &**entry))))
            }
        }
    }

    /// Returns the connections of one user.
    pub fn user(&self, user: &UserId) -> Connections<'_, T> {
        self.listed(self.users.list(user))
    }

    /// Returns the connections of one session.
    pub fn session(&self, session: SessionId) -> Connections<'_, T> {
        self.listed(self.sessions.list(&session))
    }

    /// Returns all connections.
    pub fn iter(&self) -> Connections<'_, T> {
        Connections(Inner::All(self.connections.iter()))
    }

    fn listed<'a>(&'a self, ids: &'a [ConnectionId]) -> Connections<'a, T> {
        Connections(Inner::Listed {
            ids: ids.iter(),
            connections: &self.connections,
        })
    }

    /// Registers a connection.
    ///
    /// # Errors
    ///
    /// [`DuplicateConnection`] if the id is taken. Then nothing is changed and `value` is dropped.
    pub fn insert_unique(
        &mut self,
        id: ConnectionId,
        binding: Binding,
        value: T,
    ) -> Result<(), DuplicateConnection> {
        let hash_map::Entry::Vacant(vacant) = self.connections.entry(id) else {
            return Err(DuplicateConnection(id));
        };
        let user_at = self.users.add(binding.user.clone(), id);
        let session_at = self.sessions.add(binding.session, id);
        vacant.insert(Box::new(Entry {
            binding,
            value,
            user_at,
            session_at,
        }));
        Ok(())
    }

    /// Forgets a connection and returns what was registered with it.
    pub fn remove(&mut self, id: ConnectionId) -> Option<(Binding, T)> {
        let Entry {
            binding,
            value,
            user_at,
            session_at,
        } = *self.connections.remove(&id)?;
        if let Some(moved) = self.users.remove(&binding.user, user_at) {
            self.listed_entry(moved).user_at = user_at;
        }
        if let Some(moved) = self.sessions.remove(&binding.session, session_at) {
            self.listed_entry(moved).session_at = session_at;
        }
        Some((binding, value))
    }

    fn listed_entry(&mut self, id: ConnectionId) -> &mut Entry<T> {
        self.connections
            .get_mut(&id)
            .expect("a listed connection is registered")
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
#[derive(Clone, Debug)]
pub struct Connections<'a, T>(Inner<'a, T>);

#[derive(Debug)]
enum Inner<'a, T> {
    All(hash_map::Iter<'a, ConnectionId, Box<Entry<T>>>),
    Listed {
        ids: slice::Iter<'a, ConnectionId>,
        connections: &'a HashMap<ConnectionId, Box<Entry<T>>>,
    },
    One(Option<(&'a ConnectionId, &'a Entry<T>)>),
}

// By hand: the derive would ask for `T: Clone`, though only references are copied.
impl<T> Clone for Inner<'_, T> {
    fn clone(&self) -> Self {
        match self {
            Self::All(iter) => Self::All(iter.clone()),
            Self::Listed { ids, connections } => Self::Listed {
                ids: ids.clone(),
                connections,
            },
            Self::One(one) => Self::One(*one),
        }
    }
}

impl<'a, T> Iterator for Connections<'a, T> {
    type Item = (&'a ConnectionId, &'a T);

    fn next(&mut self) -> Option<Self::Item> {
        let (id, entry) = match &mut self.0 {
            Inner::All(iter) => {
                let (id, entry) = iter.next()?;
                (id, &**entry)
            }
            Inner::Listed { ids, connections } => {
                let id = ids.next()?;
                (
                    id,
                    &**connections
                        .get(id)
                        .expect("a listed connection is registered"),
                )
            }
            Inner::One(one) => one.take()?,
        };
        Some((id, &entry.value))
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        let len = match &self.0 {
            Inner::All(iter) => iter.len(),
            Inner::Listed { ids, .. } => ids.len(),
            Inner::One(one) => usize::from(one.is_some()),
        };
        (len, Some(len))
    }
}

impl<T> ExactSizeIterator for Connections<'_, T> {}

/// For each key the connections that have it. No list is empty.
#[derive(Clone, Debug)]
struct Index<K> {
    lists: HashMap<K, List>,
}

/// The connections of one key. Most users have one.
#[derive(Clone, Debug)]
enum List {
    One(ConnectionId),
    /// Boxed, so that the ordinary case is small.
    #[expect(
        clippy::box_collection,
        reason = "the map is as large as its largest case"
    )]
    Many(Box<Vec<ConnectionId>>),
}

impl List {
    fn as_slice(&self) -> &[ConnectionId] {
        match self {
            Self::One(id) => slice::from_ref(id),
            Self::Many(ids) => ids,
        }
    }

    fn push(&mut self, id: ConnectionId) {
        match self {
            Self::One(first) => *self = Self::Many(Box::new(vec![*first, id])),
            Self::Many(ids) => ids.push(id),
        }
    }

    /// Removes the one at a place, which then another may have taken. `false` if none is left.
    fn swap_remove(&mut self, at: usize) -> bool {
        match self {
            Self::One(_) => false,
            Self::Many(ids) => {
                ids.swap_remove(at);
                if let [last] = ***ids {
                    *self = Self::One(last);
                }
                true
            }
        }
    }
}

impl<K: Eq + Hash> Index<K> {
    fn new() -> Self {
        Self {
            lists: HashMap::new(),
        }
    }

    fn list(&self, key: &K) -> &[ConnectionId] {
        self.lists.get(key).map_or(&[], List::as_slice)
    }

    /// Adds a connection and returns its place.
    fn add(&mut self, key: K, id: ConnectionId) -> usize {
        match self.lists.entry(key) {
            hash_map::Entry::Occupied(mut list) => {
                list.get_mut().push(id);
                list.get().as_slice().len() - 1
            }
            hash_map::Entry::Vacant(list) => {
                list.insert(List::One(id));
                0
            }
        }
    }

    /// Removes the connection at a place, and returns the one that now stands there instead.
    fn remove(&mut self, key: &K, at: usize) -> Option<ConnectionId> {
        let list = self
            .lists
            .get_mut(key)
            .expect("a registered connection is listed");
        if list.swap_remove(at) {
            return list.as_slice().get(at).copied();
        }
        self.lists.remove(key);
        None
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::testing::{self, NaiveRegistry};

    #[derive(Clone, Debug)]
    enum Op {
        Insert(ConnectionId, Binding, u32),
        Remove(ConnectionId),
        Change(ConnectionId, u32),
        Select(Target),
    }

    // Few names, so that they meet.
    fn op() -> impl Strategy<Value = Op> {
        let id = || (0u64..12).prop_map(ConnectionId::from);
        let binding = || testing::few_bindings(4, 4);
        prop_oneof![
            4 => (id(), binding(), any::<u32>()).prop_map(|(id, b, v)| Op::Insert(id, b, v)),
            3 => id().prop_map(Op::Remove),
            1 => (id(), any::<u32>()).prop_map(|(id, value)| Op::Change(id, value)),
            2 => prop_oneof![
                Just(Target::All),
                binding().prop_map(|binding| Target::User(binding.user)),
                binding().prop_map(|binding| Target::Session(binding.session)),
                id().prop_map(Target::Connection),
            ].prop_map(Op::Select),
        ]
    }

    /// What must hold after every operation.
    fn validate<T>(registry: &Registry<T>) {
        for (id, entry) in &registry.connections {
            assert_eq!(registry.users.list(&entry.binding.user)[entry.user_at], *id);
            assert_eq!(
                registry.sessions.list(&entry.binding.session)[entry.session_at],
                *id
            );
        }
        for lists in [
            registry.users.lists.values().collect::<Vec<_>>(),
            registry.sessions.lists.values().collect::<Vec<_>>(),
        ] {
            assert!(lists.iter().all(|list| !list.as_slice().is_empty()));
            let listed: usize = lists.iter().map(|list| list.as_slice().len()).sum();
            assert_eq!(listed, registry.count());
        }
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
            for op in ops {
                match op {
                    Op::Insert(id, binding, value) => prop_assert_eq!(
                        registry.insert_unique(id, binding.clone(), value),
                        naive.insert_unique(id, binding, value)
                    ),
                    Op::Remove(id) => prop_assert_eq!(registry.remove(id), naive.remove(id)),
                    Op::Change(id, value) => prop_assert_eq!(
                        registry.get_mut(id).map(|old| std::mem::replace(old, value)),
                        naive.change(id, value)
                    ),
                    Op::Select(target) => prop_assert_eq!(
                        selected(&registry, &target),
                        naive.select(&target)
                    ),
                }
                validate(&registry);
                prop_assert_eq!(registry.count(), naive.count());
                prop_assert_eq!(registry.user_count(), naive.user_count());
                prop_assert_eq!(registry.session_count(), naive.session_count());
                prop_assert_eq!(selected(&registry, &Target::All), naive.select(&Target::All));
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
    }
}

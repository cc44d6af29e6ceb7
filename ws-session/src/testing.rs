//! Strategies and models for property tests, here and in the crates above.

use std::collections::BTreeMap;
use std::time::SystemTime;

use proptest::prelude::*;

use crate::{
    Binding, ConnectionId, DuplicateConnection, Presence, SessionId, SessionToken, Target, UserId,
};

/// Generates any connection id.
pub fn connection_id() -> impl Strategy<Value = ConnectionId> {
    any::<u64>().prop_map(ConnectionId::from)
}

/// Generates any valid user id, from one letter to the longest, in any script.
pub fn user_id() -> impl Strategy<Value = UserId> {
    let text = prop_oneof!["[a-z0-9._/:@-]{1,20}", "[^\\s\\p{Cc}]{1,63}", "[!-~]{255}"];
    text.prop_map(|text| UserId::new(&text).expect("the patterns match valid user ids only"))
}

/// Generates any session id.
pub fn session_id() -> impl Strategy<Value = SessionId> {
    any::<[u8; 32]>().prop_map(|bytes| SessionToken::from_random(bytes).id())
}

/// Generates bindings among few users and sessions, so that they meet.
///
/// # Panics
///
/// If there is to be no user or no session.
pub fn few_bindings(users: u8, sessions: u8) -> impl Strategy<Value = Binding> {
    (0..users, 0..sessions).prop_map(|(user, session)| Binding {
        user: UserId::new(&format!("user{user}")).expect("one word is a valid user id"),
        session: SessionToken::from_random([session; 32]).id(),
    })
}

/// A [`Registry`](crate::Registry) that is obviously right: a list that is searched.
#[derive(Clone, Debug)]
pub struct NaiveRegistry<T> {
    entries: Vec<(ConnectionId, Binding, T)>,
    since: BTreeMap<UserId, SystemTime>,
}

impl<T> Default for NaiveRegistry<T> {
    fn default() -> Self {
        Self {
            entries: Vec::new(),
            since: BTreeMap::new(),
        }
    }
}

impl<T: Clone + Ord> NaiveRegistry<T> {
    /// Registers a connection.
    ///
    /// # Errors
    ///
    /// [`DuplicateConnection`] if the id is taken.
    pub fn insert_unique(
        &mut self,
        id: ConnectionId,
        binding: Binding,
        value: T,
        now: SystemTime,
    ) -> Result<(), DuplicateConnection> {
        if self.position(id).is_some() {
            return Err(DuplicateConnection(id));
        }
        self.since.entry(binding.user.clone()).or_insert(now);
        self.entries.push((id, binding, value));
        Ok(())
    }

    /// Forgets a connection.
    pub fn remove(&mut self, id: ConnectionId) -> Option<(Binding, T)> {
        let (_, binding, value) = self.entries.remove(self.position(id)?);
        if self.connections_of(&binding.user) == 0 {
            self.since.remove(&binding.user);
        }
        Some((binding, value))
    }

    /// Replaces what was registered with a connection.
    pub fn change(&mut self, id: ConnectionId, value: T) -> Option<T> {
        let at = self.position(id)?;
        Some(std::mem::replace(&mut self.entries[at].2, value))
    }

    /// Returns the user and the session of a connection.
    pub fn binding(&self, id: ConnectionId) -> Option<&Binding> {
        self.position(id).map(|at| &self.entries[at].1)
    }

    /// Returns the connections that a message to `target` reaches, in order.
    pub fn select(&self, target: &Target) -> Vec<(ConnectionId, T)> {
        let is_target = |(id, binding, _): &&(ConnectionId, Binding, T)| match target {
            Target::All => true,
            Target::User(user) => binding.user == *user,
            Target::Session(session) => binding.session == *session,
            Target::Connection(connection) => id == connection,
        };
        let mut selected: Vec<_> = self
            .entries
            .iter()
            .filter(is_target)
            .map(|(id, _, value)| (*id, value.clone()))
            .collect();
        selected.sort_unstable();
        selected
    }

    /// Returns the users and how they are there, in order.
    pub fn users(&self) -> Vec<(UserId, Presence)> {
        let users = self.since.iter().map(|(user, since)| {
            let presence = Presence {
                connections: self.connections_of(user),
                since: *since,
            };
            (user.clone(), presence)
        });
        users.collect()
    }

    fn connections_of(&self, user: &UserId) -> usize {
        let of_user = |entry: &&(ConnectionId, Binding, T)| entry.1.user == *user;
        self.entries.iter().filter(of_user).count()
    }

    /// Returns the number of connections.
    pub fn count(&self) -> usize {
        self.entries.len()
    }

    /// Returns the number of different users.
    pub fn user_count(&self) -> usize {
        distinct(
            self.entries
                .iter()
                .map(|(_, binding, _)| binding.user.clone()),
        )
    }

    /// Returns the number of different sessions.
    pub fn session_count(&self) -> usize {
        distinct(self.entries.iter().map(|(_, binding, _)| binding.session))
    }

    fn position(&self, id: ConnectionId) -> Option<usize> {
        self.entries.iter().position(|entry| entry.0 == id)
    }
}

fn distinct<K: Ord>(keys: impl Iterator<Item = K>) -> usize {
    let mut keys: Vec<K> = keys.collect();
    keys.sort_unstable();
    keys.dedup();
    keys.len()
}

//! Strategies and models for property tests, here and in the crates above.

use proptest::prelude::*;

use std::future::Future;
use std::pin::pin;
use std::task::{Context, Poll, Waker};
use std::time::{Duration, SystemTime};

use crate::{
    Binding, Changes, ConnectionId, DuplicateConnection, MemoryStore, Purge, SessionData,
    SessionId, SessionQuery, SessionRecord, SessionStore, SessionToken, Target, UserId,
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

/// Generates one of few session ids, so that they meet.
pub fn few_session_ids(count: u8) -> impl Strategy<Value = SessionId> + Clone {
    (0..count).prop_map(|byte| SessionToken::from_random([byte; 32]).id())
}

/// Generates any valid session data, up to the largest.
pub fn session_data() -> impl Strategy<Value = SessionData> + Clone {
    let text = prop_oneof!["[!-~]{0,20}", "[^\\p{Cc}]{0,60}", "[ -~]{4096}"];
    text.prop_map(|text| SessionData::new(&text).expect("the patterns match valid data only"))
}

/// Generates records of few sessions, used and over within a day of 2100, so that no store
/// forgets them by itself.
pub fn session_record(sessions: u8) -> impl Strategy<Value = SessionRecord> + Clone {
    let user = prop::option::of(prop_oneof![
        (0..3_u8).prop_map(|user| format!("user{user}")),
        Just("USER0".to_owned()),
        "[^\\s\\p{Cc}]{1,40}",
    ]);
    let addr = prop::option::of(any::<std::net::IpAddr>());
    let end = prop::option::of(moment());
    let data = prop::option::of(session_data());
    (
        few_session_ids(sessions),
        user,
        addr,
        moment(),
        moment(),
        end,
        data,
    )
        .prop_map(
            |(id, user, addr, created_at, used_at, expires_at, data)| SessionRecord {
                id,
                user: user
                    .map(|user| UserId::new(&user).expect("the patterns match valid ids only")),
                addr,
                created_at,
                used_at,
                expires_at,
                data,
            },
        )
}

fn moment() -> impl Strategy<Value = SystemTime> + Clone {
    let millis = 4_102_444_800_000..4_102_544_800_000_u64;
    millis.prop_map(|millis| SystemTime::UNIX_EPOCH + Duration::from_millis(millis))
}

/// What may be done to a [`SessionStore`].
#[derive(Clone, Debug)]
pub enum StoreOp {
    /// Finds sessions.
    Find(Vec<SessionId>),
    /// Writes changes.
    Write(Changes),
    /// Lists sessions.
    List(SessionQuery),
    /// Removes sessions.
    Remove(Vec<SessionId>),
    /// Removes what is old.
    Purge(Purge),
}

/// Generates operations on the sessions of [`session_record`].
pub fn store_op(sessions: u8) -> impl Strategy<Value = StoreOp> {
    let id = move || few_session_ids(sessions);
    let ids = move || prop::collection::vec(id(), 0..6);
    let user = prop::option::of(prop_oneof![Just("user0"), Just("USER0"), Just("user1")]);
    let user = user.prop_map(|user| user.and_then(|user| UserId::new(user).ok()));
    let changes = (
        prop::collection::vec(session_record(sessions), 0..6),
        prop::collection::vec((id(), user.clone()), 0..3),
        prop::collection::vec((id(), prop::option::of(session_data())), 0..3),
        ids(),
        moment(),
    );
    let changes = changes.prop_map(|(created, users, data, used, used_at)| Changes {
        // A session is changed once at a time.
        created: unique(created, |record| record.id),
        users: unique(users, |change| change.0),
        data: unique(data, |change| change.0),
        used_at: (!used.is_empty()).then_some(used_at),
        used: unique(used, |id| *id),
    });
    let query = (user, prop::option::of(id()), 0..8_usize);
    let query = query.prop_map(|(user, after, limit)| SessionQuery { user, after, limit });
    let purge = (moment(), moment()).prop_map(|(used_before, now)| Purge {
        used_before,
        now,
        keep: usize::MAX,
    });
    prop_oneof![
        2 => ids().prop_map(StoreOp::Find),
        5 => changes.prop_map(StoreOp::Write),
        2 => query.prop_map(StoreOp::List),
        1 => ids().prop_map(StoreOp::Remove),
        1 => purge.prop_map(StoreOp::Purge),
    ]
}

fn unique<T, K: Ord>(mut items: Vec<T>, key: impl Fn(&T) -> K) -> Vec<T> {
    let mut seen = std::collections::BTreeSet::new();
    items.retain(|item| seen.insert(key(item)));
    items
}

/// Does the same to a store, which must be empty, and to the one in memory.
///
/// # Errors
///
/// What the store answered otherwise.
pub async fn compare_stores(store: &dyn SessionStore, ops: &[StoreOp]) -> Result<(), String> {
    let model = MemoryStore::default();
    let by_id = |mut records: Vec<SessionRecord>| {
        records.sort_unstable_by_key(|record| record.id);
        records.dedup();
        records
    };
    let check = |is_same: bool, op: &StoreOp, given: String| match is_same {
        true => Ok(()),
        false => Err(format!("after {op:?} the store says {given}")),
    };
    for op in ops {
        match op {
            StoreOp::Find(ids) => {
                let given = store.find(ids).await.map_err(|error| error.to_string())?;
                let expected = model.find(ids).await.map_err(|error| error.to_string())?;
                let given = by_id(given);
                check(given == by_id(expected), op, format!("{given:?}"))?;
            }
            StoreOp::Write(changes) => {
                for store in [store, &model] {
                    // Twice is as good as once.
                    store
                        .write(changes)
                        .await
                        .map_err(|error| error.to_string())?;
                    store
                        .write(changes)
                        .await
                        .map_err(|error| error.to_string())?;
                }
            }
            StoreOp::List(query) => {
                let given = store.list(query).await.map_err(|error| error.to_string())?;
                let expected = model.list(query).await.map_err(|error| error.to_string())?;
                check(given == expected, op, format!("{given:?}"))?;
            }
            StoreOp::Remove(ids) => {
                let given = store.remove(ids).await.map_err(|error| error.to_string())?;
                let expected = model.remove(ids).await.map_err(|error| error.to_string())?;
                check(given == expected, op, given.to_string())?;
            }
            StoreOp::Purge(purge) => {
                let given = store
                    .purge(purge)
                    .await
                    .map_err(|error| error.to_string())?;
                let expected = model
                    .purge(purge)
                    .await
                    .map_err(|error| error.to_string())?;
                check(given == expected, op, given.to_string())?;
            }
        }
    }
    Ok(())
}

/// Returns what a future has at once.
///
/// # Panics
///
/// If it has to wait.
pub fn now_or_never<T>(future: impl Future<Output = T>) -> T {
    match pin!(future).poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(value) => value,
        Poll::Pending => panic!("the future waits"),
    }
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
}

impl<T> Default for NaiveRegistry<T> {
    fn default() -> Self {
        Self {
            entries: Vec::new(),
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
    ) -> Result<(), DuplicateConnection> {
        if self.position(id).is_some() {
            return Err(DuplicateConnection(id));
        }
        self.entries.push((id, binding, value));
        Ok(())
    }

    /// Forgets a connection.
    pub fn remove(&mut self, id: ConnectionId) -> Option<(Binding, T)> {
        let (_, binding, value) = self.entries.remove(self.position(id)?);
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

//! Changes that wait to be written.

use std::collections::{HashMap, HashSet};
use std::time::SystemTime;

use super::kept::Kept;
use super::{Changes, SessionData, SessionRecord};
use crate::{SessionId, UserId};

/// Gathers changes, so that many leave together, and each session once.
///
/// The owner calls the commands as things happen, takes the changes with [`take`](Self::take) when
/// the store may be asked, and [gives them back](Self::give_back) if it did not do it.
///
/// # Examples
///
/// ```
/// use std::time::SystemTime;
/// use ws_session::{PendingChanges, SessionToken};
///
/// let mut pending = PendingChanges::new(1000);
/// let session = SessionToken::from_random([1; 32]).id();
/// pending.touch(session);
/// pending.touch(session);
///
/// let changes = pending.take(SystemTime::UNIX_EPOCH);
/// assert_eq!(changes.used, [session]);
/// assert!(pending.is_empty());
/// ```
#[derive(Clone, Debug)]
pub struct PendingChanges {
    created: HashMap<SessionId, Kept>,
    users: HashMap<SessionId, Option<UserId>>,
    data: HashMap<SessionId, Option<SessionData>>,
    used: HashSet<SessionId>,
    max: usize,
    dropped: u64,
}

impl PendingChanges {
    /// Begins with none. Of uses at most `max` wait, and as many of the others together: what
    /// comes then is dropped, and counted.
    pub fn new(max: usize) -> Self {
        Self {
            created: HashMap::new(),
            users: HashMap::new(),
            data: HashMap::new(),
            used: HashSet::new(),
            max,
            dropped: 0,
        }
    }

    /// Tells whether nothing waits.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Returns how many changes wait.
    pub fn len(&self) -> usize {
        self.created.len() + self.users.len() + self.data.len() + self.used.len()
    }

    /// Returns how many changes found no room.
    pub fn dropped(&self) -> u64 {
        self.dropped
    }

    /// Returns a session that waits to be made.
    pub fn created(&self, id: SessionId) -> Option<SessionRecord> {
        self.created.get(&id).map(|kept| kept.record(id))
    }

    /// Makes a session.
    pub fn create(&mut self, record: &SessionRecord) {
        if self.has_room() || self.created.contains_key(&record.id) {
            self.forget(record.id);
            self.created.insert(record.id, Kept::new(record));
        } else {
            self.dropped += 1;
        }
    }

    /// Notes that a session was used.
    pub fn touch(&mut self, id: SessionId) {
        if self.used.len() < self.max || self.used.contains(&id) {
            self.used.insert(id);
        } else {
            self.dropped += 1;
        }
    }

    /// Gives a session another user.
    pub fn set_user(&mut self, id: SessionId, user: Option<UserId>) {
        if let Some(kept) = self.created.get_mut(&id) {
            kept.set_user(user);
        } else if self.has_room() || self.users.contains_key(&id) {
            self.users.insert(id, user);
        } else {
            self.dropped += 1;
        }
    }

    /// Gives a session other data.
    pub fn set_data(&mut self, id: SessionId, data: Option<SessionData>) {
        if let Some(kept) = self.created.get_mut(&id) {
            kept.set_data(data);
        } else if self.has_room() || self.data.contains_key(&id) {
            self.data.insert(id, data);
        } else {
            self.dropped += 1;
        }
    }

    /// Drops all that waits of one session, because it is removed.
    pub fn forget(&mut self, id: SessionId) {
        self.created.remove(&id);
        self.users.remove(&id);
        self.data.remove(&id);
        self.used.remove(&id);
    }

    /// Takes what waits; what was used was used now.
    pub fn take(&mut self, now: SystemTime) -> Changes {
        let created = std::mem::take(&mut self.created).into_iter();
        let used: Vec<_> = std::mem::take(&mut self.used).into_iter().collect();
        Changes {
            created: created.map(|(id, kept)| kept.record(id)).collect(),
            users: std::mem::take(&mut self.users).into_iter().collect(),
            data: std::mem::take(&mut self.data).into_iter().collect(),
            used_at: (!used.is_empty()).then_some(now),
            used,
        }
    }

    /// Takes back what was not written. What changed meanwhile is newer and stays.
    pub fn give_back(&mut self, changes: Changes) {
        for mut record in changes.created {
            if let Some(user) = self.users.remove(&record.id) {
                record.user = user;
            }
            if let Some(data) = self.data.remove(&record.id) {
                record.data = data;
            }
            let kept = self.created.entry(record.id);
            kept.or_insert_with(|| Kept::new(&record));
        }
        for (id, user) in changes.users {
            if !self.created.contains_key(&id) {
                self.users.entry(id).or_insert(user);
            }
        }
        for (id, data) in changes.data {
            if !self.created.contains_key(&id) {
                self.data.entry(id).or_insert(data);
            }
        }
        self.used.extend(changes.used);
    }

    fn has_room(&self) -> bool {
        self.created.len() + self.users.len() + self.data.len() < self.max
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;
    use crate::testing;
    use crate::{MemoryStore, SessionQuery, SessionStore as _};

    #[derive(Clone, Debug)]
    enum Op {
        Create(SessionRecord),
        Touch(SessionId),
        User(SessionId, Option<UserId>),
        Data(SessionId, Option<SessionData>),
        /// Written, or tried in vain.
        Write(bool),
        /// What is taken is given back after the next one.
        TryAround(Box<Self>),
    }

    fn op() -> impl Strategy<Value = Op> {
        let id = || testing::few_session_ids(4);
        let one = prop_oneof![
            testing::session_record(4).prop_map(Op::Create),
            id().prop_map(Op::Touch),
            (id(), prop::option::of(testing::user_id())).prop_map(|(id, user)| Op::User(id, user)),
            (id(), prop::option::of(testing::session_data()))
                .prop_map(|(id, data)| Op::Data(id, data)),
            any::<bool>().prop_map(Op::Write),
        ];
        let around = one.clone().prop_map(|one| Op::TryAround(Box::new(one)));
        prop_oneof![4 => one, 1 => around]
    }

    fn apply(op: &Op, pending: &mut PendingChanges, store: &MemoryStore) {
        match op {
            Op::Create(record) => pending.create(record),
            Op::Touch(id) => pending.touch(*id),
            Op::User(id, user) => pending.set_user(*id, user.clone()),
            Op::Data(id, data) => pending.set_data(*id, data.clone()),
            Op::Write(true) => {
                let changes = pending.take(SystemTime::UNIX_EPOCH);
                testing::now_or_never(store.write(&changes)).unwrap();
            }
            Op::Write(false) => {
                let changes = pending.take(SystemTime::UNIX_EPOCH);
                pending.give_back(changes);
            }
            Op::TryAround(op) => {
                let changes = pending.take(SystemTime::UNIX_EPOCH);
                apply(op, pending, store);
                pending.give_back(changes);
            }
        }
    }

    proptest! {
        /// Whatever is gathered, tried in vain and written, the store ends as if each change had
        /// been written at once.
        #[test]
        fn prop_nothing_is_lost_by_waiting(ops in prop::collection::vec(op(), 0..40)) {
            let (late, at_once) = (MemoryStore::default(), MemoryStore::default());
            let mut pending = PendingChanges::new(1000);
            for op in &ops {
                // A trial around a write would have the older overtake the newer, as no writer does.
                if matches!(op, Op::TryAround(inner) if matches!(**inner, Op::Write(_))) {
                    continue;
                }
                apply(op, &mut pending, &late);
                let mut single = PendingChanges::new(1000);
                let plain = match op {
                    Op::TryAround(inner) => inner,
                    op => op,
                };
                apply(plain, &mut single, &at_once);
                apply(&Op::Write(true), &mut single, &at_once);
            }
            apply(&Op::Write(true), &mut pending, &late);
            let all = SessionQuery { user: None, after: None, limit: 100 };
            let sorted = |store: &MemoryStore| -> BTreeMap<SessionId, SessionRecord> {
                let records = testing::now_or_never(store.list(&all)).unwrap();
                records.into_iter().map(|record| (record.id, record)).collect()
            };
            // A session that was made anew after it was used counts as used all the same.
            let strip = |records: BTreeMap<SessionId, SessionRecord>| -> Vec<_> {
                records.into_values().map(|record| (record.id, record.user, record.data)).collect()
            };
            prop_assert_eq!(strip(sorted(&late)), strip(sorted(&at_once)));
        }
    }

    #[test]
    fn what_finds_no_room_is_counted() {
        let mut pending = PendingChanges::new(1);
        let id = |byte| crate::SessionToken::from_random([byte; 32]).id();
        pending.set_data(id(1), None);
        pending.set_data(id(2), None);
        pending.touch(id(1));
        pending.touch(id(2));
        assert_eq!((pending.len(), pending.dropped()), (2, 2));
        pending.set_data(id(1), SessionData::new("x").ok());
        assert_eq!(pending.dropped(), 2);
    }
}

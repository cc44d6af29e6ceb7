//! The store that a restart empties.

use std::collections::BTreeMap;
use std::future::ready;
use std::net::IpAddr;
use std::ops::Bound;
#[expect(
    clippy::disallowed_types,
    reason = "a store is shared by reference; this one is never held across a wait"
)]
use std::sync::Mutex;
use std::sync::{MutexGuard, PoisonError};
use std::time::SystemTime;

use super::{
    Changes, Purge, SessionData, SessionQuery, SessionRecord, SessionStore, StoreError,
    StoreFuture, from_millis, to_millis,
};
use crate::{SessionId, UserId};

/// Keeps sessions in memory: as long as the server runs, and not longer.
///
/// # Examples
///
/// ```
/// use ws_session::{MemoryStore, SessionStore as _};
///
/// let store = MemoryStore::default();
/// let finding = store.find(&[]);
/// # drop(finding);
/// ```
#[derive(Debug, Default)]
pub struct MemoryStore {
    #[expect(
        clippy::disallowed_types,
        reason = "a store is shared by reference; this one is never held across a wait"
    )]
    records: Mutex<BTreeMap<SessionId, Kept>>,
}

/// A [`SessionRecord`] in less than half of its room: there is one for each visitor, and most have
/// nothing but times and an address.
#[derive(Debug)]
struct Kept {
    addr: Option<IpAddr>,
    /// In milliseconds, like [`used_at`](Self::used_at).
    created_at: i64,
    used_at: i64,
    extra: Option<Box<Extra>>,
}

#[derive(Debug, Default)]
struct Extra {
    user: Option<UserId>,
    data: Option<SessionData>,
    expires_at: Option<SystemTime>,
}

impl Kept {
    fn new(record: &SessionRecord) -> Self {
        let extra = Extra {
            user: record.user.clone(),
            data: record.data.clone(),
            expires_at: record.expires_at,
        };
        let is_plain = extra.user.is_none() && extra.data.is_none() && extra.expires_at.is_none();
        Self {
            addr: record.addr,
            created_at: to_millis(record.created_at),
            used_at: to_millis(record.used_at),
            extra: (!is_plain).then(|| Box::new(extra)),
        }
    }

    fn user(&self) -> Option<&UserId> {
        self.extra.as_ref()?.user.as_ref()
    }

    fn record(&self, id: SessionId) -> SessionRecord {
        let time = |millis| from_millis(millis).unwrap_or(SystemTime::UNIX_EPOCH);
        let extra = self.extra.as_ref();
        SessionRecord {
            id,
            user: self.user().cloned(),
            addr: self.addr,
            created_at: time(self.created_at),
            used_at: time(self.used_at),
            expires_at: extra.and_then(|extra| extra.expires_at),
            data: extra.and_then(|extra| extra.data.clone()),
        }
    }
}

impl MemoryStore {
    fn records(&self) -> MutexGuard<'_, BTreeMap<SessionId, Kept>> {
        // Each call leaves whole records, so a panic elsewhere does not spoil them.
        self.records.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn done<'a, T: Send + 'a>(value: T) -> StoreFuture<'a, T> {
    Box::pin(ready(Ok::<_, StoreError>(value)))
}

impl SessionStore for MemoryStore {
    fn find<'a>(&'a self, ids: &'a [SessionId]) -> StoreFuture<'a, Vec<SessionRecord>> {
        let records = self.records();
        let found = ids
            .iter()
            .filter_map(|id| Some(records.get(id)?.record(*id)));
        done(found.collect())
    }

    fn write<'a>(&'a self, changes: &'a Changes) -> StoreFuture<'a, ()> {
        let mut records = self.records();
        for record in &changes.created {
            records.insert(record.id, Kept::new(record));
        }
        for (id, user) in &changes.users {
            if let Some(kept) = records.get_mut(id) {
                kept.extra.get_or_insert_default().user.clone_from(user);
            }
        }
        for (id, data) in &changes.data {
            if let Some(kept) = records.get_mut(id) {
                kept.extra.get_or_insert_default().data.clone_from(data);
            }
        }
        for id in &changes.used {
            if let (Some(kept), Some(used_at)) = (records.get_mut(id), changes.used_at) {
                kept.used_at = to_millis(used_at);
            }
        }
        done(())
    }

    fn list<'a>(&'a self, query: &'a SessionQuery) -> StoreFuture<'a, Vec<SessionRecord>> {
        let records = self.records();
        let begin = query.after.map_or(Bound::Unbounded, Bound::Excluded);
        let listed = records
            .range((begin, Bound::Unbounded))
            .filter(|(_, kept)| query.user.is_none() || kept.user() == query.user.as_ref())
            .map(|(id, kept)| kept.record(*id));
        done(listed.take(query.limit).collect())
    }

    fn remove<'a>(&'a self, ids: &'a [SessionId]) -> StoreFuture<'a, u64> {
        let mut records = self.records();
        let removed = ids.iter().filter(|id| records.remove(id).is_some()).count();
        done(removed as u64)
    }

    fn purge<'a>(&'a self, purge: &'a Purge) -> StoreFuture<'a, u64> {
        let mut records = self.records();
        let before = records.len();
        records.retain(|id, kept| !purge.is_due(&kept.record(*id)));
        if records.len() > purge.keep {
            let by_use = records.iter().map(|(id, kept)| (kept.used_at, *id));
            let mut by_use: Vec<_> = by_use.collect();
            by_use.sort_unstable();
            for (_, id) in &by_use[..records.len() - purge.keep] {
                records.remove(id);
            }
        }
        done((before - records.len()) as u64)
    }
}

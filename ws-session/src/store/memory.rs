//! The store that a restart empties.

use std::collections::BTreeMap;
use std::future::ready;
use std::ops::Bound;
#[expect(
    clippy::disallowed_types,
    reason = "a store is shared by reference; this one is never held across a wait"
)]
use std::sync::Mutex;
use std::sync::{MutexGuard, PoisonError};

use super::kept::Kept;
use super::{
    Changes, Purge, SessionQuery, SessionRecord, SessionStore, StoreError, StoreFuture, to_millis,
};
use crate::SessionId;

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
                kept.set_user(user.clone());
            }
        }
        for (id, data) in &changes.data {
            if let Some(kept) = records.get_mut(id) {
                kept.set_data(data.clone());
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

//! The store that a restart empties.

use std::collections::BTreeMap;
use std::future::ready;
#[expect(
    clippy::disallowed_types,
    reason = "a store is shared by reference; this one is never held across a wait"
)]
use std::sync::Mutex;
use std::sync::{MutexGuard, PoisonError};

use super::{Changes, Purge, SessionQuery, SessionRecord, SessionStore, StoreError, StoreFuture};
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
    records: Mutex<BTreeMap<SessionId, SessionRecord>>,
}

impl MemoryStore {
    fn records(&self) -> MutexGuard<'_, BTreeMap<SessionId, SessionRecord>> {
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
        done(
            ids.iter()
                .filter_map(|id| records.get(id).cloned())
                .collect(),
        )
    }

    fn write<'a>(&'a self, changes: &'a Changes) -> StoreFuture<'a, ()> {
        let mut records = self.records();
        for record in &changes.created {
            records.insert(record.id, record.clone());
        }
        for (id, user) in &changes.users {
            if let Some(record) = records.get_mut(id) {
                record.user.clone_from(user);
            }
        }
        for (id, data) in &changes.data {
            if let Some(record) = records.get_mut(id) {
                record.data.clone_from(data);
            }
        }
        for id in &changes.used {
            if let (Some(record), Some(used_at)) = (records.get_mut(id), changes.used_at) {
                record.used_at = used_at;
            }
        }
        done(())
    }

    fn list<'a>(&'a self, query: &'a SessionQuery) -> StoreFuture<'a, Vec<SessionRecord>> {
        let records = self.records();
        let listed = records
            .values()
            .filter(|record| query.after.is_none_or(|after| record.id > after))
            .filter(|record| query.user.is_none() || record.user == query.user);
        done(listed.take(query.limit).cloned().collect())
    }

    fn remove<'a>(&'a self, ids: &'a [SessionId]) -> StoreFuture<'a, u64> {
        let mut records = self.records();
        let removed = ids.iter().filter(|id| records.remove(id).is_some()).count();
        done(removed as u64)
    }

    fn purge<'a>(&'a self, purge: &'a Purge) -> StoreFuture<'a, u64> {
        let mut records = self.records();
        let before = records.len();
        records.retain(|_, record| !purge.is_due(record));
        if records.len() > purge.keep {
            let mut by_use: Vec<_> = records.values().map(|one| (one.used_at, one.id)).collect();
            by_use.sort_unstable();
            for (_, id) in &by_use[..records.len() - purge.keep] {
                records.remove(id);
            }
        }
        done((before - records.len()) as u64)
    }
}

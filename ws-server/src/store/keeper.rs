//! The sessions of the server: a table in memory, and behind it a store.
//!
//! Whoever is in the table needs nothing of the store. The store is asked for tokens that the
//! table does not know, many in one question; what changes is written behind the scenes, many
//! changes in one transaction. Worker threads never wait for it: the tasks here run in the runtime
//! of the doors.

use std::collections::{HashMap, HashSet};
use std::net::IpAddr;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use tokio::sync::{Notify, mpsc, oneshot};
use tokio::time::{sleep, timeout};
use tracing::{debug, error, warn};
use ws_session::{
    Changes, PendingChanges, Purge, Remembered, SessionData, SessionId, SessionQuery,
    SessionRecord, SessionStore, Sessions, StoreError, UserId,
};

use super::outage::Outage;
use crate::config::IdentityConfig;
use crate::counters::Counters;

/// How long changes gather before they are written.
const WRITE_DELAY: Duration = Duration::from_millis(100);
/// How long one writing may take.
const WRITE_TIMEOUT: Duration = Duration::from_secs(10);
/// How long what goes through the whole store may take; that it takes longer is no outage.
const LONG_TIMEOUT: Duration = Duration::from_secs(60);
/// How often a store that does not answer is asked again.
const RETRY_INTERVAL: Duration = Duration::from_millis(500);
/// How long the last writing may take when the server ends.
const LAST_WRITE_TIMEOUT: Duration = Duration::from_secs(5);
/// Visitors who wait for the store at once.
const MAX_FINDS: usize = 1024;
/// How long questions gather before the store is asked.
const GATHER_DELAY: Duration = Duration::from_millis(1);
/// Sessions that are asked for in one question.
const FINDS_AT_ONCE: usize = 256;
/// Sessions that are read at once when all of a user are looked for.
const PAGE_SIZE: usize = 1000;

/// The store does not answer, or others wait for it already.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct NoAnswer;

/// A question for one session.
#[derive(Debug)]
pub(crate) struct Question {
    id: SessionId,
    answer: oneshot::Sender<Result<Option<SessionRecord>, NoAnswer>>,
}

/// The sessions of the server.
#[derive(Debug)]
pub(crate) struct Keeper {
    table: Mutex<Sessions>,
    store: Arc<dyn SessionStore>,
    questions: mpsc::Sender<Question>,
    /// Until the task that answers them takes it.
    asked: Mutex<Option<mpsc::Receiver<Question>>>,
    pending: Mutex<PendingChanges>,
    has_pending: Notify,
    /// Sessions that were revoked while the store did not remove them.
    unremoved: Mutex<HashSet<SessionId>>,
    /// Held while the store is written, so that nothing overtakes anything.
    writing: tokio::sync::Mutex<()>,
    /// Changes that are being written.
    in_flight: AtomicUsize,
    outage: Mutex<Outage>,
    /// What the outage says, for those who only look.
    is_down: AtomicBool,
    /// Whether any session has data, for those who only look.
    has_data: AtomicBool,
    ttl: Duration,
    max_age: Option<Duration>,
    find_timeout: Duration,
    max_sessions: usize,
}

impl Keeper {
    pub(crate) fn new(
        table: Sessions,
        store: Arc<dyn SessionStore>,
        identity: &IdentityConfig,
    ) -> Self {
        let (questions, asked) = mpsc::channel(MAX_FINDS);
        let max_sessions = identity.max_sessions.get();
        Self {
            table: Mutex::new(table),
            store,
            questions,
            asked: Mutex::new(Some(asked)),
            pending: Mutex::new(PendingChanges::new(max_sessions)),
            has_pending: Notify::new(),
            unremoved: Mutex::default(),
            writing: tokio::sync::Mutex::new(()),
            in_flight: AtomicUsize::new(0),
            outage: Mutex::default(),
            is_down: AtomicBool::new(false),
            has_data: AtomicBool::new(false),
            ttl: identity.ttl,
            max_age: identity.max_age,
            find_timeout: identity.store_timeout,
            max_sessions,
        }
    }

    /// The sessions in memory.
    pub(crate) fn table(&self) -> MutexGuard<'_, Sessions> {
        // It is consistent between its calls, so a panic elsewhere does not spoil it.
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn pending(&self) -> MutexGuard<'_, PendingChanges> {
        self.pending.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn unremoved(&self) -> MutexGuard<'_, HashSet<SessionId>> {
        let unremoved = self.unremoved.lock();
        unremoved.unwrap_or_else(PoisonError::into_inner)
    }

    /// Does something to the changes that wait, and has them written.
    fn change(&self, change: impl FnOnce(&mut PendingChanges)) {
        let mut pending = self.pending();
        let was_empty = pending.is_empty();
        change(&mut pending);
        if was_empty {
            self.has_pending.notify_one();
        }
    }

    /// Whether the store does not answer, as far as is known.
    pub(crate) fn is_down(&self) -> bool {
        self.is_down.load(Ordering::Relaxed)
    }

    /// How many changes wait to be written, and how many found no room.
    pub(crate) fn waiting(&self) -> (usize, u64) {
        let pending = self.pending();
        let in_flight = self.in_flight.load(Ordering::Relaxed);
        let waiting = pending.len() + in_flight + self.unremoved().len();
        (waiting, pending.dropped())
    }

    /// Remembers a session that the table does not know, if the store has it and it is good.
    ///
    /// # Errors
    ///
    /// [`NoAnswer`] if the store cannot be asked.
    pub(crate) async fn look_up(&self, id: SessionId) -> Result<(), NoAnswer> {
        if self.is_down() {
            return Err(NoAnswer);
        }
        let asked_at = Instant::now();
        let (answer, answered) = oneshot::channel();
        let question = Question { id, answer };
        self.questions.try_send(question).map_err(|_| NoAnswer)?;
        // It comes in time: each question has its own.
        let found = answered.await.map_err(|_| NoAnswer)??;
        if let Some(record) = found {
            let remembered = self.remembered(record, SystemTime::now());
            let mut table = self.table();
            table.restore(remembered, asked_at, Instant::now());
            self.note_data(&table);
        }
        Ok(())
    }

    /// A record in terms of time that passes.
    fn remembered(&self, record: SessionRecord, now: SystemTime) -> Remembered {
        // A clock that was put back makes nobody older.
        let age = |at: SystemTime| now.duration_since(at).unwrap_or_default();
        let end_of_age = self
            .max_age
            .and_then(|max| record.created_at.checked_add(max));
        // The configuration may be stricter than when the session was made.
        let end = record.expires_at.into_iter().chain(end_of_age).min();
        Remembered {
            id: record.id,
            user: record.user,
            data: record.data,
            addr: record.addr,
            unused_for: age(record.used_at),
            // Nor does it make anybody live longer.
            left: end.map(|end| {
                let left = end.duration_since(now).unwrap_or_default();
                self.max_age.map_or(left, |max| left.min(max))
            }),
        }
    }

    /// Writes down a session that a visitor was given.
    pub(crate) fn keep(&self, id: SessionId, user: Option<&UserId>, addr: Option<IpAddr>) {
        let now = SystemTime::now();
        let record = SessionRecord {
            id,
            user: user.cloned(),
            addr,
            created_at: now,
            used_at: now,
            expires_at: self.max_age.and_then(|age| now.checked_add(age)),
            data: None,
        };
        if let Some(user) = user {
            self.table().set_user(id, user);
        }
        // What is stored of one that had this name is overwritten.
        self.unremoved().remove(&id);
        self.change(|pending| pending.create(&record));
    }

    /// Names the user of a session.
    pub(crate) fn set_user(&self, id: SessionId, user: &UserId) {
        // Held over the change, so that the store hears of two in the order of the table.
        let mut table = self.table();
        if table.set_user(id, user) {
            self.change(|pending| pending.set_user(id, Some(user.clone())));
        }
    }

    /// What the application keeps in a session.
    pub(crate) fn data(&self, id: SessionId) -> Option<SessionData> {
        // Most applications keep nothing, and their messages take no lock for it.
        if !self.has_data.load(Ordering::Relaxed) {
            return None;
        }
        self.table().data(id).cloned()
    }

    /// Sets what the application keeps in a session: what is empty is nothing.
    pub(crate) fn set_data(&self, id: SessionId, data: SessionData) {
        let data = Some(data).filter(|data| !data.as_str().is_empty());
        // As above.
        let mut table = self.table();
        if table.set_data(id, data.clone()) {
            self.note_data(&table);
            self.change(|pending| pending.set_data(id, data));
        }
    }

    fn note_data(&self, table: &Sessions) {
        self.has_data
            .store(table.with_data() > 0, Ordering::Relaxed);
    }

    /// Keeps a session for one more connection.
    pub(crate) fn hold(&self, id: SessionId) {
        self.table().hold(id);
    }

    /// Notes that a connection of a session has ended.
    pub(crate) fn release(&self, id: SessionId) {
        if self.table().release(id, Instant::now()) {
            self.change(|pending| pending.touch(id));
        }
    }

    /// Notes that those who are connected use their sessions.
    pub(crate) fn refresh(&self) {
        let held: Vec<_> = self.table().held().collect();
        self.change(|pending| held.iter().for_each(|id| pending.touch(*id)));
    }

    /// Lets nobody in with these sessions any more, whatever the store says later.
    pub(crate) fn disown(&self, ids: &[SessionId]) {
        let now = Instant::now();
        let mut table = self.table();
        for id in ids {
            table.revoke(*id, now);
        }
        self.note_data(&table);
    }

    /// Lets nobody in as this user any more who is being asked about.
    pub(crate) fn disown_user(&self, user: &UserId) {
        self.table().revoke_user(user, Instant::now());
    }

    /// Removes sessions for good; their connections are the caller's to close.
    ///
    /// # Errors
    ///
    /// If the store did not do it: this server does not know them any more, and tries again until
    /// the store has done it, but until then another one, or this one after a restart, may.
    pub(crate) async fn revoke(
        &self,
        ids: &[SessionId],
        counters: &Counters,
    ) -> Result<u64, StoreError> {
        let removed = {
            let _writing = self.writing.lock().await;
            let waiting = {
                let mut pending = self.pending();
                let waiting = ids
                    .iter()
                    .filter(|id| pending.created(**id).is_some())
                    .count();
                ids.iter().for_each(|id| pending.forget(*id));
                waiting as u64
            };
            let removing = self.within(WRITE_TIMEOUT, self.store.remove(ids), counters);
            let removed = removing.await.map(|removed| removed + waiting);
            if removed.is_err() {
                let mut unremoved = self.unremoved();
                let room = self.max_sessions.saturating_sub(unremoved.len());
                unremoved.extend(ids.iter().take(room));
                self.has_pending.notify_one();
            }
            removed
        };
        // Only now: whoever asked the store before may have been told of the session still.
        self.disown(ids);
        removed
    }

    /// Lists what is stored and has not expired; also returns the last session that was looked at
    /// if there may be more behind it.
    ///
    /// # Errors
    ///
    /// If the store does not answer.
    pub(crate) async fn list(
        &self,
        query: &SessionQuery,
        counters: &Counters,
    ) -> Result<(Vec<SessionRecord>, Option<SessionId>), StoreError> {
        self.write(counters).await?;
        let mut records = in_time(LONG_TIMEOUT, self.store.list(query)).await?;
        let is_full = records.len() >= query.limit;
        let last = records.last().filter(|_| is_full).map(|record| record.id);
        let now = SystemTime::now();
        records.retain(|record| {
            let one = self.remembered(record.clone(), now);
            one.unused_for < self.ttl && one.left.is_none_or(|left| !left.is_zero())
        });
        Ok((records, last))
    }

    /// Finds the ids of all sessions of a user that are stored.
    ///
    /// # Errors
    ///
    /// If the store does not answer.
    pub(crate) async fn sessions_of(
        &self,
        user: &UserId,
        counters: &Counters,
    ) -> Result<Vec<SessionId>, StoreError> {
        self.write(counters).await?;
        let mut ids = Vec::new();
        loop {
            let query = SessionQuery {
                user: Some(user.clone()),
                after: ids.last().copied(),
                limit: PAGE_SIZE,
            };
            let page = in_time(LONG_TIMEOUT, self.store.list(&query)).await?;
            ids.extend(page.iter().map(|record| record.id));
            if page.len() < PAGE_SIZE {
                return Ok(ids);
            }
        }
    }

    /// Finds those sessions with connections that are not in the store any more.
    ///
    /// # Errors
    ///
    /// If the store does not answer.
    pub(crate) async fn missing(&self, counters: &Counters) -> Result<Vec<SessionId>, StoreError> {
        let mut held: Vec<_> = self.table().held().collect();
        // Those of them that are new are written now.
        self.write(counters).await?;
        for some in held.clone().chunks(FINDS_AT_ONCE) {
            let finding = self.store.find(some);
            let found = self.within(WRITE_TIMEOUT, finding, counters).await?;
            let found: HashSet<_> = found.iter().map(|one| one.id).collect();
            held.retain(|id| !some.contains(id) || !found.contains(id));
        }
        Ok(held)
    }

    /// Removes from the store what nobody will come back to. What the store does not know yet comes
    /// first: those who are connected use their sessions.
    pub(crate) async fn purge(&self, counters: &Counters) {
        self.refresh();
        if self.write(counters).await.is_err() {
            return;
        }
        let now = SystemTime::now();
        let purge = Purge {
            used_before: now.checked_sub(self.ttl).unwrap_or(SystemTime::UNIX_EPOCH),
            now,
            keep: self.max_sessions,
        };
        if let Err(error) = in_time(LONG_TIMEOUT, self.store.purge(&purge)).await {
            debug!(%error, "expired sessions stay in the store until the next time");
        }
    }

    /// Answers those who wait for the store, for ever.
    pub(crate) async fn answer_questions(&self, counters: &Counters) {
        let asked = {
            let mut asked = self.asked.lock().unwrap_or_else(PoisonError::into_inner);
            asked.take()
        };
        let Some(mut asked) = asked else {
            return;
        };
        let mut questions = Vec::new();
        while asked.recv_many(&mut questions, FINDS_AT_ONCE).await > 0 {
            // After a restart everybody comes at once. One question for many costs little more
            // than one for one, and nobody sees a millisecond.
            sleep(GATHER_DELAY).await;
            while questions.len() < FINDS_AT_ONCE
                && let Ok(question) = asked.try_recv()
            {
                questions.push(question);
            }
            // Who gave up needs no answer.
            questions.retain(|question| !question.answer.is_closed());
            let mut ids: Vec<_> = questions.iter().map(|question| question.id).collect();
            ids.sort_unstable();
            ids.dedup();
            // Looked at before the store is asked: it removes them when it likes.
            let revoked: HashSet<_> = {
                let unremoved = self.unremoved();
                let revoked = ids.iter().filter(|id| unremoved.contains(*id));
                revoked.copied().collect()
            };
            let unwritten = self.unwritten(&ids).await;
            let found = match self.is_down() {
                true => Err(NoAnswer),
                false => {
                    let finding = self.store.find(&ids);
                    let found = self.within(self.find_timeout, finding, counters).await;
                    found.map_err(|_| NoAnswer)
                }
            };
            let found = found.map(|records| -> HashMap<_, _> {
                let stored = records.into_iter().filter(|it| !revoked.contains(&it.id));
                let records = stored.chain(unwritten);
                records.map(|record| (record.id, record)).collect()
            });
            for Question { id, answer } in questions.drain(..) {
                let one = match &found {
                    Ok(records) => Ok(records.get(&id).cloned()),
                    Err(_) => Err(NoAnswer),
                };
                if let Ok(one) = &one {
                    let counter = match one {
                        Some(_) => &counters.sessions_found,
                        None => &counters.sessions_not_found,
                    };
                    counter.increment();
                }
                // Who gave up meanwhile does not hear it.
                let _ = answer.send(one);
            }
        }
    }

    /// Those of these sessions that wait to be made: others have crowded them out of the table, and
    /// the store does not know them yet.
    async fn unwritten(&self, ids: &[SessionId]) -> Vec<SessionRecord> {
        if self.in_flight.load(Ordering::Relaxed) > 0 {
            // What is being written is in the store afterwards, or waits again.
            let _ = timeout(self.find_timeout, self.writing.lock()).await;
        }
        let pending = self.pending();
        let waiting = ids.iter().filter_map(|id| pending.created(*id));
        waiting.collect()
    }

    /// Writes what changes, for ever, and asks a store that does not answer whether it does again.
    pub(crate) async fn write_changes(&self, counters: &Counters) {
        loop {
            if self.is_down() {
                sleep(RETRY_INTERVAL).await;
                let nobody = [SessionId::of_name("")];
                let probing = self.store.find(&nobody);
                if self
                    .within(self.find_timeout, probing, counters)
                    .await
                    .is_err()
                {
                    continue;
                }
            } else if self.pending().is_empty() {
                self.has_pending.notified().await;
                sleep(WRITE_DELAY).await;
            }
            // What went wrong is noted, and tried again.
            let _ = self.write(counters).await;
        }
    }

    /// Writes the last changes, when there are no connections any more.
    pub(crate) async fn finish(&self, counters: &Counters) {
        let written = timeout(LAST_WRITE_TIMEOUT, self.write(counters)).await;
        if !matches!(written, Ok(Ok(()))) {
            let (changes, _) = self.waiting();
            error!(changes, "the last changes of sessions were not written");
        }
    }

    async fn write(&self, counters: &Counters) -> Result<(), StoreError> {
        let _writing = self.writing.lock().await;
        let unremoved: Vec<_> = self.unremoved().iter().copied().collect();
        if !unremoved.is_empty() {
            let removing = self.store.remove(&unremoved);
            self.within(WRITE_TIMEOUT, removing, counters).await?;
            let mut left = self.unremoved();
            for id in &unremoved {
                left.remove(id);
            }
        }
        let mut in_flight = InFlight::take(self);
        if in_flight.changes.is_empty() {
            return Ok(());
        }
        let writing = self.store.write(&in_flight.changes);
        self.within(WRITE_TIMEOUT, writing, counters).await?;
        in_flight.changes = Changes::default();
        Ok(())
    }

    /// Waits for the store, but not for ever, and notes whether it answers.
    async fn within<T>(
        &self,
        limit: Duration,
        asking: impl Future<Output = Result<T, StoreError>>,
        counters: &Counters,
    ) -> Result<T, StoreError> {
        let answer = in_time(limit, asking).await;
        let now = Instant::now();
        let mut outage = self.outage.lock().unwrap_or_else(PoisonError::into_inner);
        match &answer {
            Ok(_) => {
                if let Some(elapsed) = outage.answered(now) {
                    warn!(?elapsed, "the session store answers again");
                }
            }
            Err(error) => {
                if outage.failed(now) {
                    counters.store_outages.increment();
                    error!(%error, "new visitors are turned away until it does");
                }
            }
        }
        self.is_down.store(answer.is_err(), Ordering::Relaxed);
        answer
    }
}

/// Waits, but not for ever.
async fn in_time<T>(
    limit: Duration,
    asking: impl Future<Output = Result<T, StoreError>>,
) -> Result<T, StoreError> {
    timeout(limit, asking).await.unwrap_or_else(|_| {
        Err(StoreError::Unavailable(format!(
            "no answer within {limit:?}"
        )))
    })
}

/// Changes that are being written. They wait again if that fails, or if whoever asked for it goes
/// away.
struct InFlight<'a> {
    keeper: &'a Keeper,
    changes: Changes,
}

impl<'a> InFlight<'a> {
    fn take(keeper: &'a Keeper) -> Self {
        let mut pending = keeper.pending();
        let changes = pending.take(SystemTime::now());
        keeper.in_flight.store(changes.len(), Ordering::Relaxed);
        Self { keeper, changes }
    }
}

impl Drop for InFlight<'_> {
    fn drop(&mut self) {
        let mut pending = self.keeper.pending();
        self.keeper.in_flight.store(0, Ordering::Relaxed);
        if !self.changes.is_empty() {
            pending.give_back(std::mem::take(&mut self.changes));
            self.keeper.has_pending.notify_one();
        }
    }
}

#[cfg(test)]
mod tests {
    use ws_session::{MemoryStore, SessionConfig, StoreFuture};

    use super::*;
    use crate::config::{Config, RawConfig};

    fn keeper(max_age: &str) -> Keeper {
        let mut raw = RawConfig::default();
        raw.set("identity.max_age", max_age);
        let config = Config::from_raw(&raw, "/".as_ref()).unwrap();
        let sessions = Sessions::new(SessionConfig::default());
        Keeper::new(
            sessions,
            Arc::new(MemoryStore::default()),
            config.identity(),
        )
    }

    #[tokio::test]
    async fn a_session_is_found_before_its_time_to_be_written_has_come() {
        let (keeper, counters) = (keeper("off"), Counters::default());
        let id = SessionId::of_name("a");
        // It is not in the table: others have crowded it out.
        keeper.keep(id, None, None);
        tokio::select! {
            () = keeper.answer_questions(&counters) => unreachable!("it goes on for ever"),
            found = keeper.look_up(id) => assert_eq!(found, Ok(())),
        }
        assert!(keeper.table().contains(id));
    }

    /// A store that refuses to remove anything for a while.
    #[derive(Debug, Default)]
    struct Stubborn {
        store: MemoryStore,
        refuses: AtomicBool,
    }

    impl SessionStore for Stubborn {
        fn find<'a>(&'a self, ids: &'a [SessionId]) -> StoreFuture<'a, Vec<SessionRecord>> {
            self.store.find(ids)
        }

        fn write<'a>(&'a self, changes: &'a Changes) -> StoreFuture<'a, ()> {
            self.store.write(changes)
        }

        fn remove<'a>(&'a self, ids: &'a [SessionId]) -> StoreFuture<'a, u64> {
            match self.refuses.load(Ordering::Relaxed) {
                true => Box::pin(async { Err(StoreError::Unavailable("not now".to_owned())) }),
                false => self.store.remove(ids),
            }
        }

        fn list<'a>(&'a self, query: &'a SessionQuery) -> StoreFuture<'a, Vec<SessionRecord>> {
            self.store.list(query)
        }

        fn purge<'a>(&'a self, purge: &'a Purge) -> StoreFuture<'a, u64> {
            self.store.purge(purge)
        }
    }

    #[tokio::test]
    async fn t02_a_revocation_that_the_store_refuses_is_made_up_for() {
        let stubborn = Arc::new(Stubborn::default());
        let keeper = Keeper {
            store: Arc::clone(&stubborn) as Arc<dyn SessionStore>,
            ..keeper("off")
        };
        let counters = Counters::default();
        let ids = ["a", "b"].map(SessionId::of_name);
        ids.iter().for_each(|id| keeper.keep(*id, None, None));
        keeper.write(&counters).await.unwrap();
        stubborn.refuses.store(true, Ordering::Relaxed);
        keeper.revoke(&ids, &counters).await.unwrap_err();
        assert_eq!(keeper.waiting().0, 2);
        // It answers questions again, and would still name them.
        keeper.is_down.store(false, Ordering::Relaxed);
        tokio::select! {
            () = keeper.answer_questions(&counters) => unreachable!("it goes on for ever"),
            found = keeper.look_up(ids[0]) => assert_eq!(found, Ok(())),
        }
        assert!(!keeper.table().contains(ids[0]));
        // One is named anew: that is another session.
        keeper.keep(ids[1], None, None);
        keeper.write(&counters).await.unwrap_err();
        stubborn.refuses.store(false, Ordering::Relaxed);
        keeper.write(&counters).await.unwrap();
        assert_eq!(keeper.waiting().0, 0);
        let stored = stubborn.store.find(&ids).await.unwrap();
        let stored: Vec<_> = stored.iter().map(|record| record.id).collect();
        assert_eq!(stored, [ids[1]]);
    }

    /// Between two runs of the server the wall clock is all that there is; within one it is asked
    /// for nothing that a session's life depends on.
    #[test]
    fn a_clock_that_jumps_makes_no_session_younger_than_none_or_longer_lived_than_allowed() {
        const HOUR: Duration = Duration::from_secs(3600);
        let then = SystemTime::UNIX_EPOCH + HOUR * 24 * 365 * 50;
        let record = |expires_at| SessionRecord {
            id: SessionId::of_name("a"),
            user: None,
            addr: None,
            created_at: then,
            used_at: then + HOUR,
            expires_at,
            data: None,
        };
        let bounded = keeper("8h");
        let seen = |now| {
            let one = bounded.remembered(record(Some(then + HOUR * 8)), now);
            (one.unused_for, one.left.unwrap())
        };
        assert_eq!(seen(then + HOUR * 3), (HOUR * 2, HOUR * 5));
        // Put back by years: as if just used and just made.
        assert_eq!(seen(then - HOUR * 24 * 3000), (Duration::ZERO, HOUR * 8));
        assert_eq!(seen(SystemTime::UNIX_EPOCH), (Duration::ZERO, HOUR * 8));
        // Put forward: over, and no overflow.
        let far = then + HOUR * 24 * 36_500;
        assert_eq!(
            seen(far),
            (far.duration_since(then + HOUR).unwrap(), Duration::ZERO)
        );
        let endless = keeper("off").remembered(record(None), SystemTime::UNIX_EPOCH);
        assert_eq!((endless.unused_for, endless.left), (Duration::ZERO, None));
    }
}

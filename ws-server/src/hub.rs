//! Who is connected, and the way of a push to them.
//!
//! The hub knows users, sessions and connections and which worker thread owns each connection. A
//! push takes its targets and its place in every worker's queue under one lock, so that all
//! receivers see two pushes in the same order; the workers write it to their own connections.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Instant, SystemTime};

use bytes::Bytes;
use tokio::sync::{Semaphore, SemaphorePermit, mpsc, oneshot};
use ws_proto::{CloseFrame, EncodedMessage};
use ws_session::{Binding, ConnectionId, ConnectionIds, Registry, SessionId, Sessions, Target};

use crate::command::{Command, Fate, Notices, Receipt, Recipient, Recipients, Traffic};
use crate::core::changes::{Change, End};
use crate::core::ledger::Passing;
use crate::core::pace::Pace;
use crate::core::question::{Source, Standing};
use crate::counters::Counters;
use crate::places::{PlaceLimits, Places};
use crate::presence::{Listener, Presence, TooMany};
use crate::store::Keeper;
use crate::user_fifos::UserFifos;

/// Pushes, and apart from them runs, that may be under way at once; publishers beyond it wait.
const MAX_UNDER_WAY: usize = 1024;
/// Connections closed in a second while draining.
const DRAIN_RATE: u32 = 1000;

/// What the hub keeps of each connection, for those who ask.
#[derive(Clone, Debug)]
pub(crate) struct Entry {
    /// The worker thread that owns it.
    pub(crate) shard: u32,
    /// Where that keeps it.
    pub(crate) slot: u32,
    /// The visitor's address, which is not the peer's behind a trusted proxy.
    pub(crate) addr: Option<std::net::IpAddr>,
    pub(crate) port: Option<u16>,
    pub(crate) uri: Arc<str>,
    pub(crate) fifo: Option<Arc<std::path::Path>>,
    pub(crate) opened_at: SystemTime,
}

/// The server is going down; nothing is accepted any more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Stopped;

#[derive(Debug)]
pub(crate) struct Hub {
    registry: Mutex<Registry<Entry>>,
    pub(crate) keeper: Keeper,
    ids: Mutex<ConnectionIds>,
    shards: Box<[mpsc::UnboundedSender<Command>]>,
    /// Bounds the workers' queues: a publisher holds a permit until every worker has answered.
    pushes: Semaphore,
    /// The same for runs, apart from pushes because a run waits for a full queue.
    runs: Semaphore,
    places: Arc<Places>,
    drain_pace: Mutex<Pace>,
    /// That of the next change in who is connected.
    generation: AtomicU64,
    /// Who listens to these changes.
    presence: Arc<Presence>,
    /// The FIFOs of users, each for as long as the user has a connection.
    pub(crate) user_fifos: UserFifos,
    pub(crate) counters: Counters,
}

impl Hub {
    pub(crate) fn new(
        shards: Box<[mpsc::UnboundedSender<Command>]>,
        keeper: Keeper,
        limits: PlaceLimits,
        counters: Counters,
        seed: u64,
    ) -> Self {
        Self {
            registry: Mutex::new(Registry::new()),
            keeper,
            ids: Mutex::new(ConnectionIds::new(seed)),
            shards,
            pushes: Semaphore::new(MAX_UNDER_WAY),
            runs: Semaphore::new(MAX_UNDER_WAY),
            places: Places::new(limits),
            drain_pace: Mutex::new(Pace::per_second(DRAIN_RATE)),
            generation: AtomicU64::new(first_generation(SystemTime::now())),
            presence: Arc::default(),
            user_fifos: UserFifos::default(),
            counters,
        }
    }

    /// A hub without anybody, whose workers are whoever reads these.
    #[cfg(test)]
    pub(crate) fn for_tests(shards: Box<[mpsc::UnboundedSender<Command>]>) -> Self {
        use std::num::NonZeroUsize;
        let sessions = Sessions::new(ws_session::SessionConfig::default());
        let config = crate::config::Config::from_raw(&Default::default(), "/".as_ref());
        let config = config.expect("the defaults are valid");
        let store = Arc::new(ws_session::MemoryStore::default());
        let limits = PlaceLimits {
            total: NonZeroUsize::MAX,
            by_descriptors: usize::MAX,
            per_addr: NonZeroUsize::MAX,
            counts_loopback: false,
            per_user: None,
        };
        let keeper = Keeper::new(sessions, store, config.identity());
        Self::new(shards, keeper, limits, Counters::default(), 0)
    }

    pub(crate) fn next_id(&self) -> ConnectionId {
        self.ids
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .next_id()
    }

    pub(crate) fn registry(&self) -> MutexGuard<'_, Registry<Entry>> {
        // The registry is consistent between its calls, so a panic elsewhere does not spoil it.
        self.registry.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn sessions(&self) -> MutexGuard<'_, Sessions> {
        self.keeper.table()
    }

    /// How many worker threads there are.
    pub(crate) fn worker_count(&self) -> usize {
        self.shards.len()
    }

    /// The places for connections, and who has taken them.
    pub(crate) fn places(&self) -> &Arc<Places> {
        &self.places
    }

    /// Makes a connection known: from here on it is reached by pushes.
    pub(crate) fn insert(&self, id: ConnectionId, binding: Binding, entry: Entry) -> Standing {
        self.keeper.hold(binding.session);
        let now = entry.opened_at;
        let bound = binding.clone();
        let mut registry = self.registry();
        let inserted = registry.insert_unique(id, binding, entry, now);
        debug_assert!(inserted.is_ok(), "connection ids are never repeated");
        self.counters.connections_opened.increment();
        self.note_change(&registry, id, &bound, None)
    }

    /// Forgets a connection.
    pub(crate) fn remove(&self, id: ConnectionId, end: End) -> Option<Standing> {
        let mut registry = self.registry();
        let (binding, _) = registry.remove(id)?;
        let standing = self.note_change(&registry, id, &binding, Some(end));
        drop(registry);
        self.user_fifos.release(&binding.user);
        self.keeper.release(binding.session);
        Some(standing)
    }

    /// Tells whoever listens how a user stands now; under the registry's lock, so that generations
    /// are in its order.
    fn note_change(
        &self,
        registry: &Registry<Entry>,
        connection: ConnectionId,
        binding: &Binding,
        end: Option<End>,
    ) -> Standing {
        let generation = self.generation.fetch_add(1, Ordering::Relaxed);
        let presence = registry.presence(&binding.user);
        let connections = presence.map_or(0, |presence| presence.connections);
        if self.presence.is_noted() {
            self.presence.note(Change {
                generation,
                user: binding.user.clone(),
                session: binding.session,
                connection,
                connections,
                end,
            });
        }
        Standing {
            generation,
            connections,
        }
    }

    /// Hears of every change from now on, or from behind the one of generation `last`.
    ///
    /// # Errors
    ///
    /// [`TooMany`] if `max` do already.
    pub(crate) fn listen(&self, last: Option<u64>, max: usize) -> Result<Listener, TooMany> {
        // Nothing changes in the meantime.
        let _registry = self.registry();
        let next = self.generation.load(Ordering::Relaxed);
        self.presence.listen(next, last, max)
    }

    /// Who listens.
    pub(crate) fn presence(&self) -> &Presence {
        &self.presence
    }

    /// When the caller, a connection with nothing left to do, may close while draining.
    pub(crate) fn drain_turn(&self, now: Instant) -> Instant {
        let mut pace = self
            .drain_pace
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        pace.turn(now)
    }

    /// Hands a socket to the worker with the given index.
    pub(crate) fn command(&self, shard: usize, command: Command) -> Result<(), Stopped> {
        self.shards[shard].send(command).map_err(|_| Stopped)
    }

    /// Tells every worker the same.
    pub(crate) fn command_all(&self, command: impl Fn() -> Command) {
        for shard in &self.shards {
            // A worker that is gone has nothing left to be told.
            let _ = shard.send(command());
        }
    }

    pub(crate) fn shard_count(&self) -> usize {
        self.shards.len()
    }

    /// Sends messages to every connection of a target, in their order: each is encoded once, and
    /// together they leave in one write.
    pub(crate) async fn push(
        &self,
        target: &Target,
        messages: impl Into<Arc<[EncodedMessage]>>,
    ) -> Result<Receipt, Stopped> {
        let permit = self.pushes.acquire().await.map_err(|_| Stopped)?;
        self.begin_push(permit, target, messages.into(), None)?
            .receipt()
            .await
    }

    /// Sends a message as [`push`](Self::push) does, as one of several that are under way at once:
    /// they are received in the order of these calls. `None` if others have to end before it.
    ///
    /// With `wait`, it is told later what becomes of what is queued.
    pub(crate) fn try_begin_push(
        &self,
        target: &Target,
        message: &EncodedMessage,
        wait: bool,
    ) -> Result<Option<Pushing<'_>>, Stopped> {
        let Ok(permit) = self.pushes.try_acquire() else {
            return Ok(None);
        };
        let (notices, fates) = match wait {
            true => Some(mpsc::unbounded_channel()).unzip(),
            false => (None, None),
        };
        let messages = Arc::new([message.clone()]);
        let mut pushing = self.begin_push(permit, target, messages, notices)?;
        pushing.fates = fates;
        Ok(Some(pushing))
    }

    /// Resolves when a push may be begun, most likely.
    pub(crate) async fn may_push(&self) -> Result<(), Stopped> {
        let permit = self.pushes.acquire().await;
        permit.map(drop).map_err(|_| Stopped)
    }

    fn begin_push<'a>(
        &'a self,
        permit: SemaphorePermit<'a>,
        target: &Target,
        messages: Arc<[EncodedMessage]>,
        notices: Option<Notices>,
    ) -> Result<Pushing<'a>, Stopped> {
        self.counters.pushes.add(messages.len() as u64);
        let len = messages
            .iter()
            .map(|message| message.as_bytes().len())
            .sum();
        let passing = self.counters.ledger.pass(len);
        let answers = self.hand_out(target, |recipients, receipt| Command::Push {
            recipients,
            messages: Arc::clone(&messages),
            receipt,
            notices: notices.clone(),
        })?;
        Ok(Pushing {
            counters: &self.counters,
            answers,
            fates: None,
            _permit: permit,
            _passing: passing,
        })
    }

    /// Runs the application once for every connection of a target.
    ///
    /// It waits where a connection's queue is full. `queued` counts the runs that were accepted.
    pub(crate) async fn run(
        &self,
        target: &Target,
        uri: Bytes,
        source: Source,
    ) -> Result<Receipt, Stopped> {
        let _permit = self.runs.acquire().await.map_err(|_| Stopped)?;
        self.run_unbounded(target, uri, source).await
    }

    /// The same for one who has no more than one under way, and whom the others must not hold up.
    pub(crate) async fn run_unbounded(
        &self,
        target: &Target,
        uri: Bytes,
        source: Source,
    ) -> Result<Receipt, Stopped> {
        let answers = self.hand_out(target, |recipients, receipt| Command::Run {
            recipients,
            uri: uri.clone(),
            source,
            receipt,
        })?;
        sum(answers).await
    }

    /// Closes every connection of sessions that have ended. Those that are being opened see it
    /// for themselves.
    pub(crate) async fn close_sessions(&self, ids: &[SessionId], frame: &CloseFrame) -> u64 {
        let mut closed = 0;
        for id in ids {
            let target = Target::Session(*id);
            let closing = self.close(&target, frame.clone());
            // A server that is going down closes them all.
            closed += closing.await.map_or(0, |receipt| receipt.written);
        }
        closed
    }

    /// Closes every connection of a target.
    pub(crate) async fn close(
        &self,
        target: &Target,
        frame: CloseFrame,
    ) -> Result<Receipt, Stopped> {
        self.dispatch(&self.pushes, target, |recipients, receipt| Command::Close {
            recipients,
            frame: frame.clone(),
            receipt,
        })
        .await
    }

    /// What went over connections, one question to each of their workers. Those that have ended
    /// are left out.
    pub(crate) async fn traffic(
        &self,
        connections: impl IntoIterator<Item = (ConnectionId, &Entry)>,
    ) -> HashMap<ConnectionId, Traffic> {
        let mut by_shard = vec![Vec::new(); self.shards.len()];
        for (id, entry) in connections {
            let slot = entry.slot;
            by_shard[entry.shard as usize].push(Recipient { id, slot });
        }
        let mut answers = Vec::with_capacity(self.shards.len());
        for (shard, recipients) in by_shard.into_iter().enumerate() {
            let (answer, answered) = oneshot::channel();
            // A worker that is gone had no connections any more.
            if !recipients.is_empty()
                && self.command(shard, Command::Look { recipients, answer }) == Ok(())
            {
                answers.push(answered);
            }
        }
        let mut traffic = HashMap::new();
        for answer in answers {
            traffic.extend(answer.await.unwrap_or_default());
        }
        traffic
    }

    async fn dispatch(
        &self,
        under_way: &Semaphore,
        target: &Target,
        command: impl Fn(Recipients, oneshot::Sender<Receipt>) -> Command,
    ) -> Result<Receipt, Stopped> {
        let _permit = under_way.acquire().await.map_err(|_| Stopped)?;
        let answers = self.hand_out(target, command)?;
        sum(answers).await
    }

    /// Tells the workers of a target's connections.
    fn hand_out(
        &self,
        target: &Target,
        command: impl Fn(Recipients, oneshot::Sender<Receipt>) -> Command,
    ) -> Result<Vec<oneshot::Receiver<Receipt>>, Stopped> {
        let mut answers = Vec::with_capacity(self.shards.len());
        let mut is_anybody_left = true;
        // Held over the sends: two pushes take the same order in every worker's queue.
        let registry = self.registry();
        for (shard, recipients) in recipients_by_shard(&registry, target, self.shards.len()) {
            let (sender, answer) = oneshot::channel();
            // A worker that is gone had no connections any more.
            match self.command(shard, command(recipients, sender)) {
                Ok(()) => answers.push(answer),
                Err(Stopped) => is_anybody_left = false,
            }
        }
        match answers.is_empty() && !is_anybody_left {
            true => Err(Stopped),
            false => Ok(answers),
        }
    }
}

async fn sum(answers: Vec<oneshot::Receiver<Receipt>>) -> Result<Receipt, Stopped> {
    let mut receipt = Receipt::default();
    let mut is_stopped = false;
    for answer in answers {
        match answer.await {
            Ok(one) => receipt.add(one),
            Err(_) => is_stopped = true,
        }
    }
    // What reached some is told, though the others went down before they answered.
    match is_stopped && receipt.connections == 0 {
        true => Err(Stopped),
        false => Ok(receipt),
    }
}

/// A push that has its place in every worker's queue.
#[derive(Debug)]
pub(crate) struct Pushing<'a> {
    counters: &'a Counters,
    answers: Vec<oneshot::Receiver<Receipt>>,
    fates: Option<Fates>,
    _permit: SemaphorePermit<'a>,
    _passing: Passing,
}

impl Pushing<'_> {
    /// How far it got when every worker has written it.
    ///
    /// # Errors
    ///
    /// [`Stopped`].
    pub(crate) async fn receipt(self) -> Result<Receipt, Stopped> {
        Ok(self.handed_over().await?.0)
    }

    /// The same, and where it is told what becomes of what is queued.
    ///
    /// # Errors
    ///
    /// [`Stopped`].
    pub(crate) async fn handed_over(self) -> Result<(Receipt, Option<Fates>), Stopped> {
        let receipt = sum(self.answers).await?;
        self.counters.pushed(&receipt);
        Ok((receipt, self.fates))
    }
}

/// Tells what becomes of the messages of a push that were queued.
pub(crate) type Fates = mpsc::UnboundedReceiver<Fate>;

/// Above every generation of a server that ended before: there is less than one change in a
/// microsecond.
fn first_generation(now: SystemTime) -> u64 {
    let since = now.duration_since(SystemTime::UNIX_EPOCH);
    since.map_or(1, |since| u64::try_from(since.as_micros()).unwrap_or(1))
}

fn recipients_by_shard(
    registry: &Registry<Entry>,
    target: &Target,
    shard_count: usize,
) -> Vec<(usize, Recipients)> {
    if matches!(target, Target::All) {
        return (0..shard_count)
            .map(|shard| (shard, Recipients::All))
            .collect();
    }
    // Each worker looks at its own, so that there is no list of everybody.
    if let Target::Except(whom, spared) = target
        && matches!(**whom, Target::All)
    {
        let spared = Arc::new(Target::clone(spared));
        return (0..shard_count)
            .map(|shard| (shard, Recipients::AllBut(Arc::clone(&spared))))
            .collect();
    }
    let mut by_shard = vec![Vec::new(); shard_count];
    for (id, entry) in registry.select(target) {
        let slot = entry.slot;
        by_shard[entry.shard as usize].push(Recipient { id: *id, slot });
    }
    let occupied = by_shard
        .into_iter()
        .enumerate()
        .filter(|(_, ids)| !ids.is_empty());
    occupied
        .map(|(shard, ids)| (shard, Recipients::Some(ids)))
        .collect()
}

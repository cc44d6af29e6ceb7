//! Who is connected, and the way of a push to them.
//!
//! The hub knows users, sessions and connections and which worker thread owns each connection. A
//! push takes its targets and its place in every worker's queue under one lock, so that all
//! receivers see two pushes in the same order; the workers write it to their own connections.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Instant, SystemTime};

use bytes::Bytes;
use tokio::sync::{Semaphore, mpsc, oneshot};
use ws_proto::{CloseFrame, EncodedMessage};
use ws_session::{
    Binding, ConnectionId, ConnectionIds, Registry, SessionId, Sessions, Target, UserId,
};

use crate::command::{Command, Receipt, Recipient, Recipients};
use crate::core::pace::Pace;
use crate::core::question::{Source, Standing};
use crate::counters::Counters;
use crate::places::{PlaceLimits, Places};
use crate::store::Keeper;

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
            counters,
        }
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

    /// The places for connections, and who has taken them.
    pub(crate) fn places(&self) -> &Arc<Places> {
        &self.places
    }

    /// Makes a connection known: from here on it is reached by pushes.
    pub(crate) fn insert(&self, id: ConnectionId, binding: Binding, entry: Entry) -> Standing {
        self.keeper.hold(binding.session);
        let user = binding.user.clone();
        let mut registry = self.registry();
        let inserted = registry.insert_unique(id, binding, entry);
        debug_assert!(inserted.is_ok(), "connection ids are never repeated");
        self.counters.connections_opened.increment();
        self.standing(&registry, &user)
    }

    /// Forgets a connection.
    pub(crate) fn remove(&self, id: ConnectionId) -> Option<Standing> {
        let mut registry = self.registry();
        let (binding, _) = registry.remove(id)?;
        let standing = self.standing(&registry, &binding.user);
        drop(registry);
        self.keeper.release(binding.session);
        Some(standing)
    }

    /// How a user stands now; under the registry's lock, so that generations are in its order.
    fn standing(&self, registry: &Registry<Entry>, user: &UserId) -> Standing {
        Standing {
            generation: self.generation.fetch_add(1, Ordering::Relaxed),
            connections: registry.user(user).len(),
        }
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
        let messages = messages.into();
        self.counters.pushes.add(messages.len() as u64);
        let len = messages
            .iter()
            .map(|message| message.as_bytes().len())
            .sum();
        let _passing = self.counters.ledger.pass(len);
        let receipt = self
            .dispatch(&self.pushes, target, |recipients, receipt| Command::Push {
                recipients,
                messages: Arc::clone(&messages),
                receipt,
            })
            .await?;
        let counters = &self.counters;
        counters.push_targets.add(receipt.connections);
        counters.push_written.add(receipt.written);
        counters.push_queued.add(receipt.queued);
        counters.push_dropped.add(receipt.dropped);
        Ok(receipt)
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
        self.dispatch(&self.runs, target, |recipients, receipt| Command::Run {
            recipients,
            uri: uri.clone(),
            source,
            receipt,
        })
        .await
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

    async fn dispatch(
        &self,
        under_way: &Semaphore,
        target: &Target,
        command: impl Fn(Recipients, oneshot::Sender<Receipt>) -> Command,
    ) -> Result<Receipt, Stopped> {
        let _permit = under_way.acquire().await.map_err(|_| Stopped)?;
        let mut answers = Vec::with_capacity(self.shards.len());
        {
            // Held over the sends: two pushes take the same order in every worker's queue.
            let registry = self.registry();
            for (shard, recipients) in recipients_by_shard(&registry, target, self.shards.len()) {
                let (sender, answer) = oneshot::channel();
                self.command(shard, command(recipients, sender))?;
                answers.push(answer);
            }
        }
        let mut receipt = Receipt::default();
        for answer in answers {
            receipt.add(answer.await.map_err(|_| Stopped)?);
        }
        Ok(receipt)
    }
}

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

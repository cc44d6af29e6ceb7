//! Several services of one command: who is asked next, and when one is replaced.

mod life;
mod renewal;
mod trial;

use std::num::{NonZeroU64, NonZeroUsize};
use std::path::PathBuf;
use std::pin::pin;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use bytes::Bytes;
use tokio::sync::{Semaphore, mpsc, watch};
use tokio::task::JoinSet;
use tokio::time::timeout;

use self::life::{Life, Record};
use crate::{Environment, Failure, Service, ServiceCommand, Spawners};

/// How many processes there are, and what they are.
#[derive(Clone, Debug)]
pub struct PoolConfig {
    /// The command of each process; it has a listening socket as descriptor 0.
    pub command: ServiceCommand,
    /// How many processes there are.
    pub processes: NonZeroUsize,
    /// What the processes do with a request.
    pub kind: PoolKind,
    /// How many connections to each process are made before there are requests for them; the
    /// request then need not wait for the connection, nor for the fork of the child that is to
    /// answer it. A worker takes one at a time, so for it more than 1 count as 1.
    pub ahead: usize,
    /// When a process is replaced by a fresh one.
    pub recycling: Recycling,
    /// How long a fresh process may take until it accepts a connection. After that it is ended, and
    /// the one that it was to replace goes on.
    pub load_timeout: Duration,
    /// How long the former processes are kept after a reload, so that they can come back; with zero
    /// they are not.
    pub probation: Duration,
    /// The directory of their sockets, which are called `NAME.NUMBER.sock`.
    pub dir: PathBuf,
    /// What the sockets' names begin with.
    pub name: String,
}

/// What the processes of a pool, or a service, do with a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum PoolKind {
    /// They fork for it, and take the next one meanwhile.
    ForkServers,
    /// They answer it, and take no other before that.
    Workers,
}

/// When a process is replaced by a fresh one, between two requests. Without a limit, never.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Recycling {
    /// After so many requests.
    pub max_requests: Option<NonZeroU64>,
    /// When it holds more resident memory than this after a request, in bytes. Of a fork server
    /// that is its own, not that of its children.
    pub max_memory: Option<u64>,
    /// At the first request after this time.
    pub max_age: Option<Duration>,
}

/// What a pool has done so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PoolStats {
    /// Processes that run now.
    pub running: usize,
    /// Processes that ended by themselves or were killed with a request, and were started again.
    pub restarts: u64,
    /// Processes that were replaced in good order: recycled or reloaded.
    pub replaced: u64,
    /// Times that fresh processes could not take over, or had to give back what they had taken.
    pub failed_replacements: u64,
}

/// Several processes of one command, which are asked over sockets of their own.
///
/// Since each has its own socket, it is known who was asked: a worker gets one request at a time,
/// and one that does not answer in time is killed with that request and with no other.
///
/// A handle; clones are the same pool. It ends with the last one or with
/// [`shutdown`](Self::shutdown).
#[derive(Clone, Debug)]
pub struct Pool {
    front: Arc<Front>,
}

impl Pool {
    /// Starts all processes, inside a tokio runtime that lives as long as they are needed.
    ///
    /// # Errors
    ///
    /// [`Failure::CannotStart`] if a socket cannot be bound or the program cannot be started.
    pub async fn start(spawners: &Spawners, config: PoolConfig) -> Result<Self, Failure> {
        let (repairs, needed) = mpsc::unbounded_channel();
        let count = config.processes.get();
        let mut shared = Shared {
            config,
            spawners: spawners.clone(),
            slots: Box::default(),
            idle: Mutex::new(Vec::new()),
            turns: Semaphore::new(0),
            sockets: AtomicU64::new(0),
            reloads: watch::Sender::new(0),
            reserve: Mutex::default(),
            restarts_of_replaced: AtomicU64::new(0),
            replaced: AtomicU64::new(0),
            failed_replacements: AtomicU64::new(0),
            repairs,
            closing: watch::Sender::new(false),
        };
        let mut slots = Vec::with_capacity(count);
        for _ in 0..count {
            let life = shared.begin_life(Arc::default()).await?;
            life.connect_ahead();
            slots.push(Slot {
                life: Mutex::new(Arc::new(life)),
                asked: AtomicUsize::new(0),
            });
        }
        shared.slots = slots.into_boxed_slice();
        let shared = Arc::new(shared);
        (0..count).for_each(|index| shared.put_back(index));
        tokio::spawn(repair(Arc::clone(&shared), needed));
        let reloads = shared.reloads.subscribe();
        tokio::spawn(renewal::serve(Arc::clone(&shared), reloads));
        Ok(Self {
            front: Arc::new(Front { shared }),
        })
    }

    /// Asks one of the processes one request and returns its answer, CGI headers included.
    ///
    /// A fork server is chosen that has the fewest requests in hand; for a worker the call waits
    /// until one is free. That wait counts towards `timeout`.
    ///
    /// # Errors
    ///
    /// As from [`scgi_call`](crate::scgi_call). A worker that has not answered in time, or too much,
    /// is killed; one whose answer is malformed has answered, and goes on.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future gives the request up: a worker that has it is killed, of a fork server
    /// the child.
    pub async fn call(
        &self,
        env: &Environment,
        payload: &Bytes,
        timeout: Duration,
        max_output: usize,
    ) -> Result<Vec<u8>, Failure> {
        let shared = &self.front.shared;
        match shared.config.kind {
            PoolKind::ForkServers => {
                let request = ForkRequest::new(shared);
                request.ask(env, payload, timeout, max_output).await
            }
            PoolKind::Workers => {
                let until = Instant::now() + timeout;
                let turn = tokio::time::timeout_at(until.into(), shared.turn()).await;
                let turn = turn.unwrap_or(Err(Failure::TimedOut))?;
                turn.ask(env, payload, until, timeout, max_output).await
            }
        }
    }

    /// Replaces every process by a fresh one, which loads the application anew. Returns at once.
    /// While fresh ones load that an earlier call asked for, it is done once more after that,
    /// however often it is asked for.
    ///
    /// The old ones serve until all fresh ones have accepted a connection, and finish what they
    /// have in hand then. If a fresh one ends before, or takes longer than
    /// [`load_timeout`](PoolConfig::load_timeout), nothing is replaced. For the time of
    /// [`probation`](PoolConfig::probation) after that, and longer if nothing that was asked has
    /// been answered yet, the old ones are kept, and are back at once if
    ///
    /// - a fresh one ends that has answered nothing,
    /// - fresh ones end more often than there are processes, or
    /// - the first three requests fail, by a status of 500 or above among others, or by taking too
    ///   long.
    ///
    /// A request that nobody waits for any more is no failure, and a process that is killed for
    /// one, or for one that took too long or answered too much, has not ended by itself.
    pub fn reload(&self) {
        let reloads = &self.front.shared.reloads;
        reloads.send_modify(|count| *count += 1);
    }

    /// How many requests it can have in hand at once; `None` is any number.
    #[must_use]
    pub fn capacity(&self) -> Option<usize> {
        match self.front.shared.config.kind {
            PoolKind::ForkServers => None,
            PoolKind::Workers => Some(self.front.shared.slots.len()),
        }
    }

    /// The counters as they stand.
    #[must_use]
    pub fn stats(&self) -> PoolStats {
        let shared = &self.front.shared;
        let kept = lock(&shared.reserve).clone();
        let restarts = shared.lives().chain(kept);
        PoolStats {
            running: shared.pids().count(),
            restarts: restarts.map(|life| life.service.restarts()).sum::<u64>()
                + shared.restarts_of_replaced.load(Ordering::Relaxed),
            replaced: shared.replaced.load(Ordering::Relaxed),
            failed_replacements: shared.failed_replacements.load(Ordering::Relaxed),
        }
    }

    /// The process ids of the processes that run and serve.
    #[must_use]
    pub fn pids(&self) -> Vec<i32> {
        self.front.shared.pids().collect()
    }

    /// Ends all processes, with `SIGTERM` first, and waits until they have ended.
    ///
    /// # Cancel safety
    ///
    /// The end is under way once the future has been polled; dropping it only stops the waiting.
    pub async fn shutdown(&self) {
        let shared = &self.front.shared;
        shared.closing.send_replace(true);
        let kept = std::mem::take(&mut *lock(&shared.reserve));
        let lives: Vec<_> = shared.lives().chain(kept).collect();
        // Whoever waits for a request is to see that there will be none.
        for life in &lives {
            lock(&life.ahead).clear();
        }
        let mut ends: JoinSet<()> = lives
            .into_iter()
            .map(|life| async move { life.service.shutdown().await })
            .collect();
        while ends.join_next().await.is_some() {}
    }
}

/// Ends the pool with the last handle.
#[derive(Debug)]
struct Front {
    shared: Arc<Shared>,
}

impl Drop for Front {
    fn drop(&mut self) {
        self.shared.closing.send_replace(true);
    }
}

/// What the handles and the task that repairs have in common.
#[derive(Debug)]
struct Shared {
    config: PoolConfig,
    spawners: Spawners,
    slots: Box<[Slot]>,
    /// Workers that have nothing to do, the one that had something last on top: its memory is warm.
    idle: Mutex<Vec<usize>>,
    /// As many as there are idle workers.
    turns: Semaphore,
    /// How many sockets there have been, for their names.
    sockets: AtomicU64,
    /// How often a reload was asked for.
    reloads: watch::Sender<u64>,
    /// While those that serve are on trial, those before them, in the order of their places.
    reserve: Mutex<Vec<Arc<Life>>>,
    restarts_of_replaced: AtomicU64,
    replaced: AtomicU64,
    failed_replacements: AtomicU64,
    repairs: mpsc::UnboundedSender<Repair>,
    closing: watch::Sender<bool>,
}

/// What the task that repairs is to do with a slot.
#[derive(Debug)]
enum Repair {
    /// Offer it again when this process, whose program was condemned in that life, runs anew.
    Renew(usize, Arc<Life>, u64),
    /// Put a fresh process in the place of this one.
    Replace(usize, Arc<Life>),
}

/// The place of one process.
#[derive(Debug)]
struct Slot {
    life: Mutex<Arc<Life>>,
    /// Requests in hand.
    asked: AtomicUsize,
}

impl Slot {
    fn life(&self) -> Arc<Life> {
        Arc::clone(&lock(&self.life))
    }

    fn holds(&self, life: &Arc<Life>) -> bool {
        Arc::ptr_eq(&lock(&self.life), life)
    }

    /// Returns what was here before.
    fn exchange(&self, life: Arc<Life>) -> Arc<Life> {
        std::mem::replace(&mut *lock(&self.life), life)
    }

    /// Puts one in the place of another, if that still is here.
    fn succeed(&self, former: &Arc<Life>, life: Life) -> bool {
        let mut current = lock(&self.life);
        let is_here = Arc::ptr_eq(&current, former);
        if is_here {
            *current = Arc::new(life);
        }
        is_here
    }
}

impl Shared {
    /// The processes that serve.
    fn lives(&self) -> impl Iterator<Item = Arc<Life>> {
        self.slots.iter().map(Slot::life)
    }

    /// The process ids of those that run.
    fn pids(&self) -> impl Iterator<Item = i32> {
        self.lives().filter_map(|life| life.service.pid())
    }

    /// Begins a life and waits until its program accepts.
    async fn load(&self, record: Arc<Record>) -> Result<Life, String> {
        let life = self
            .begin_life(record)
            .await
            .map_err(|failure| failure.to_string())?;
        let limit = self.config.load_timeout;
        match timeout(limit, life.is_loaded()).await {
            Ok(Ok(())) => Ok(life),
            Ok(Err(cause)) => Err(cause.to_owned()),
            Err(_) => Err(format!("its successor accepted no connection in {limit:?}")),
        }
    }

    async fn begin_life(&self, record: Arc<Record>) -> Result<Life, Failure> {
        let number = self.sockets.fetch_add(1, Ordering::Relaxed);
        let path = self
            .config
            .dir
            .join(format!("{}.{number}.sock", self.config.name));
        let PoolConfig { command, kind, .. } = &self.config;
        let service = Service::start(&self.spawners, command.clone(), *kind, &path).await?;
        Ok(Life::new(service, &self.config, record))
    }

    /// Waits for a worker that is idle.
    async fn turn(self: &Arc<Self>) -> Result<Turn, Failure> {
        let permit = self.turns.acquire().await;
        // The semaphore is never closed.
        permit.map_err(|_| Failure::Cancelled)?.forget();
        let index = self.idle().pop();
        // There are as many permits as idle workers.
        let index = index.ok_or(Failure::Cancelled)?;
        Ok(Turn {
            life: self.slots[index].life(),
            shared: Arc::clone(self),
            index,
            is_over: false,
        })
    }

    /// Offers a worker for the next request; one that is being restarted, only if there is no other.
    fn put_back(&self, index: usize) {
        let runs = self.slots[index].life().service.pid().is_some();
        let mut idle = self.idle();
        let place = if runs { idle.len() } else { 0 };
        idle.insert(place, index);
        drop(idle);
        self.turns.add_permits(1);
    }

    fn needs(&self, repair: Repair) {
        // When nobody listens any more, the pool ends.
        let _ = self.repairs.send(repair);
    }

    /// Has the process replaced, unless that is under way.
    fn retire(&self, index: usize, life: &Arc<Life>) {
        if !life.is_retired.swap(true, Ordering::Relaxed) {
            self.needs(Repair::Replace(index, Arc::clone(life)));
        }
    }

    /// Whether a process is to be replaced now that a request more has been served. One that serves
    /// no more is, or will be.
    fn is_due(&self, index: usize, life: &Arc<Life>) -> bool {
        life.is_due(&self.config.recycling) && self.slots[index].holds(life)
    }

    /// Has a worker killed and started anew that has a request which nobody waits for; then it is
    /// offered again. One that serves no more ends by itself.
    fn condemn(&self, index: usize, life: &Arc<Life>) {
        let pid = life.service.pid();
        tracing::warn!(worker.pid = pid, "worker killed with its request");
        let is_kept = || {
            let reserve = lock(&self.reserve);
            reserve.iter().any(|kept| Arc::ptr_eq(kept, life))
        };
        if self.slots[index].holds(life) || is_kept() {
            // It has one request at a time, so nobody else's is turned away.
            let condemned = life.service.condemn_with_waiting();
            self.needs(Repair::Renew(index, Arc::clone(life), condemned));
        } else {
            self.put_back(index);
        }
    }

    /// Puts a fresh process in the place of one; if that fails, the old one goes on.
    async fn replace(&self, index: usize, old: &Arc<Life>) {
        let pid = old.service.pid();
        let loaded = self.load(Arc::clone(&old.record)).await;
        let is_renewed = loaded.is_ok();
        let life = loaded.unwrap_or_else(|cause| {
            self.failed_replacements.fetch_add(1, Ordering::Relaxed);
            tracing::error!(worker.pid = pid, %cause, "process cannot be replaced and goes on");
            Life::new(old.service.clone(), &self.config, Arc::clone(&old.record))
        });
        life.connect_ahead();
        let successor = life.service.pid();
        if !self.slots[index].succeed(old, life) {
            // A reload has come in between. If the old one comes back, it may be replaced then.
            old.is_retired.store(false, Ordering::Relaxed);
        } else if is_renewed {
            let restarts = old.service.restarts();
            self.restarts_of_replaced
                .fetch_add(restarts, Ordering::Relaxed);
            self.replaced.fetch_add(1, Ordering::Relaxed);
            tracing::info!(
                worker.pid = pid,
                successor.pid = successor,
                served = old.served.load(Ordering::Relaxed),
                "process replaced"
            );
        }
    }

    fn idle(&self) -> MutexGuard<'_, Vec<usize>> {
        lock(&self.idle)
    }
}

/// A request in the hands of a fork server.
struct ForkRequest<'a> {
    shared: &'a Shared,
    index: usize,
    life: Arc<Life>,
}

impl<'a> ForkRequest<'a> {
    /// Chooses who has the fewest in hand.
    fn new(shared: &'a Shared) -> Self {
        let asked = |index: &usize| shared.slots[*index].asked.load(Ordering::Relaxed);
        let index = (0..shared.slots.len()).min_by_key(asked).unwrap_or(0);
        shared.slots[index].asked.fetch_add(1, Ordering::Relaxed);
        Self {
            shared,
            index,
            life: shared.slots[index].life(),
        }
    }

    async fn ask(
        self,
        env: &Environment,
        payload: &Bytes,
        timeout: Duration,
        max_output: usize,
    ) -> Result<Vec<u8>, Failure> {
        let asked = self.life.ask(env, payload, max_output);
        let answer = tokio::time::timeout(timeout, asked).await;
        let answer = answer.unwrap_or(Err(Failure::TimedOut));
        self.life.note(&answer);
        answer
    }
}

impl Drop for ForkRequest<'_> {
    fn drop(&mut self) {
        self.shared.slots[self.index]
            .asked
            .fetch_sub(1, Ordering::Relaxed);
        if self.shared.is_due(self.index, &self.life) {
            self.shared.retire(self.index, &self.life);
        }
    }
}

/// A request in the hands of a worker.
struct Turn {
    shared: Arc<Shared>,
    index: usize,
    life: Arc<Life>,
    /// Whether the worker has nothing to do with it any more.
    is_over: bool,
}

impl Turn {
    /// Asks until the end of `timeout`, of which the turn was waited for.
    async fn ask(
        self,
        env: &Environment,
        payload: &Bytes,
        until: Instant,
        timeout: Duration,
        max_output: usize,
    ) -> Result<Vec<u8>, Failure> {
        let begun = Instant::now();
        let life = Arc::clone(&self.life);
        let mut asked = pin!(life.ask(env, payload, max_output));
        // Dropped before the connection is: a worker whose turn is not over is killed, and is not
        // to find out before that, and end by it, that nobody waits any more.
        let mut turn = self;
        match tokio::time::timeout_at(until.into(), asked.as_mut()).await {
            Ok(answer) => {
                life.note(&answer);
                turn.is_over = !matches!(answer, Err(Failure::OutputTooLong { .. }));
                answer
            }
            Err(_) => {
                let answer = Err(Failure::TimedOut);
                // What has waited for its turn most of the time, behind another that hung perhaps,
                // tells nothing of who had it last.
                if begun.elapsed() >= timeout / 2 {
                    life.note(&answer);
                }
                answer
            }
        }
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        let Self { index, life, .. } = self;
        if !self.is_over {
            self.shared.condemn(*index, life);
        } else if self.shared.is_due(*index, life) {
            self.shared.retire(*index, life);
        } else {
            self.shared.put_back(*index);
        }
    }
}

/// Kills and replaces processes until the pool is closed.
async fn repair(shared: Arc<Shared>, mut needed: mpsc::UnboundedReceiver<Repair>) {
    let mut closing = shared.closing.subscribe();
    let mut repairs = JoinSet::new();
    loop {
        let repair = tokio::select! {
            repair = needed.recv() => repair,
            _ = closing.wait_for(|&closing| closing) => break,
        };
        let Some(repair) = repair else {
            break;
        };
        let shared = Arc::clone(&shared);
        repairs.spawn(async move {
            let index = match repair {
                Repair::Renew(index, life, ended) => {
                    if let Err(failure) = life.service.runs_after(ended).await {
                        tracing::warn!(cause = %failure, "worker cannot be started");
                    }
                    index
                }
                Repair::Replace(index, life) => {
                    shared.replace(index, &life).await;
                    index
                }
            };
            if shared.config.kind == PoolKind::Workers {
                shared.put_back(index);
            }
        });
        while repairs.try_join_next().is_some() {}
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // Nothing is left half done under these locks.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

//! Several services of one command: who is asked next, and when one is replaced.

use std::collections::VecDeque;
use std::future::poll_fn;
use std::num::{NonZeroU64, NonZeroUsize};
use std::path::PathBuf;
use std::pin::pin;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::Poll;
use std::time::{Duration, Instant};

use bytes::Bytes;
use tokio::sync::{Semaphore, mpsc, watch};
use tokio::task::JoinSet;

use crate::service::{Ahead, call_over};
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
            generation: AtomicU64::new(0),
            restarts_of_replaced: AtomicU64::new(0),
            replaced: AtomicU64::new(0),
            repairs,
            closing: watch::Sender::new(false),
        };
        let mut slots = Vec::with_capacity(count);
        for _ in 0..count {
            let life = shared.begin_life().await?;
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
        let asked = async {
            match shared.config.kind {
                PoolKind::ForkServers => {
                    let request = ForkRequest::new(shared);
                    let asked = request.life.ask(env, payload, max_output);
                    asked.await
                }
                PoolKind::Workers => {
                    let mut turn = shared.turn().await?;
                    let answer = turn.life.ask(env, payload, max_output).await;
                    turn.is_over = !matches!(answer, Err(Failure::OutputTooLong { .. }));
                    answer
                }
            }
        };
        // A worker that has the request then is killed, as its turn is not over.
        tokio::time::timeout(timeout, asked)
            .await
            .unwrap_or(Err(Failure::TimedOut))
    }

    /// Replaces every process by a fresh one, which loads the application anew. Requests that are
    /// in hand are finished by the old ones. A process whose successor cannot be started, or ends
    /// within a quarter of a second, goes on.
    pub fn reload(&self) {
        let shared = &self.front.shared;
        shared.generation.fetch_add(1, Ordering::Relaxed);
        match shared.config.kind {
            PoolKind::ForkServers => {
                (0..shared.slots.len()).for_each(|index| shared.retire(index));
            }
            // Those that are busy are seen when their turn is over.
            PoolKind::Workers => {
                while let Ok(permit) = shared.turns.try_acquire() {
                    permit.forget();
                    let index = shared.idle().pop();
                    index.into_iter().for_each(|index| shared.retire(index));
                }
            }
        }
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
        let lives = || shared.slots.iter().map(Slot::life);
        PoolStats {
            running: lives().filter(|life| life.service.pid().is_some()).count(),
            restarts: lives().map(|life| life.service.restarts()).sum::<u64>()
                + shared.restarts_of_replaced.load(Ordering::Relaxed),
            replaced: shared.replaced.load(Ordering::Relaxed),
        }
    }

    /// The process ids of the processes that run.
    #[must_use]
    pub fn pids(&self) -> Vec<i32> {
        let lives = self.front.shared.slots.iter().map(Slot::life);
        lives.filter_map(|life| life.service.pid()).collect()
    }

    /// Ends all processes, with `SIGTERM` first, and waits until they have ended.
    ///
    /// # Cancel safety
    ///
    /// The end is under way once the future has been polled; dropping it only stops the waiting.
    pub async fn shutdown(&self) {
        let shared = &self.front.shared;
        shared.closing.send_replace(true);
        // Whoever waits for a request is to see that there will be none.
        for slot in &shared.slots {
            lock(&slot.life().ahead).clear();
        }
        let mut ends: JoinSet<()> = shared
            .slots
            .iter()
            .map(Slot::life)
            .map(|life| async move { life.service.shutdown().await })
            .collect();
        while ends.join_next().await.is_some() {}
    }
}

/// How long a fork server is left alone when a child has got a request. It forks when somebody
/// connects, and the child that answers would have to share the processor with that; a request that
/// takes longer does not keep the next one waiting for it.
const AHEAD_DELAY: Duration = Duration::from_millis(1);

/// How long the successor of a process has to live before it takes over after
/// [`Pool::reload`]: an application that does not load ends sooner.
const PROBATION: Duration = Duration::from_millis(250);

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
    generation: AtomicU64,
    restarts_of_replaced: AtomicU64,
    replaced: AtomicU64,
    repairs: mpsc::UnboundedSender<Repair>,
    closing: watch::Sender<bool>,
}

/// What the task that repairs is to do with a slot.
#[derive(Clone, Copy, Debug)]
enum Repair {
    /// Kill the process, which has a request that nobody waits for.
    Renew(usize),
    /// Put a fresh process in its place.
    Replace(usize),
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
}

/// One process, or its restarts, until it is replaced.
#[derive(Debug)]
struct Life {
    /// Connections without a request, the oldest first. Closed before the service ends, as fields
    /// are dropped in this order.
    ahead: Mutex<VecDeque<Ahead>>,
    /// How many of these there are to be.
    ahead_count: usize,
    kind: PoolKind,
    service: Service,
    /// The reloads that were asked for when it began.
    generation: u64,
    since: Instant,
    served: AtomicU64,
    /// Whether a successor is being made.
    is_retired: AtomicBool,
}

impl Life {
    fn new(service: Service, config: &PoolConfig, generation: u64) -> Self {
        let ahead_count = match config.kind {
            PoolKind::ForkServers => config.ahead,
            PoolKind::Workers => config.ahead.min(1),
        };
        Self {
            ahead: Mutex::new(VecDeque::with_capacity(ahead_count)),
            ahead_count,
            kind: config.kind,
            service,
            generation,
            since: Instant::now(),
            served: AtomicU64::new(0),
            is_retired: AtomicBool::new(false),
        }
    }

    async fn ask(
        self: &Arc<Self>,
        env: &Environment,
        payload: &Bytes,
        max_output: usize,
    ) -> Result<Vec<u8>, Failure> {
        let ahead = self.take_ahead();
        let answer = {
            let service = &self.service;
            let mut call = pin!(call_over(service, ahead.as_ref(), env, payload, max_output));
            // The request is on its way before the next connection is made.
            let mut answer = poll_fn(|cx| Poll::Ready(call.as_mut().poll(cx))).await;
            if answer.is_pending() && self.kind == PoolKind::ForkServers {
                let soon = tokio::time::timeout(AHEAD_DELAY, call.as_mut()).await;
                answer = soon.map_or(Poll::Pending, Poll::Ready);
            }
            match answer {
                Poll::Ready(answer) => answer,
                Poll::Pending => {
                    self.connect_ahead();
                    return call.await;
                }
            }
        };
        // Who waits for the answer has it first. The connection is closed behind the next one, so
        // that the process on the other side need not wake up for each.
        let life = Arc::clone(self);
        tokio::spawn(async move {
            life.connect_ahead();
            drop(ahead);
        });
        answer
    }

    /// The connection that waits longest and is still of use.
    fn take_ahead(&self) -> Option<Ahead> {
        let mut ahead = lock(&self.ahead);
        std::iter::from_fn(|| ahead.pop_front()).find(|ahead| self.service.has_open(ahead))
    }

    /// Makes the connections that are missing, as far as that is possible at once.
    fn connect_ahead(&self) {
        let mut ahead = lock(&self.ahead);
        while ahead.len() < self.ahead_count
            && let Some(connection) = self.service.connect_ahead()
        {
            ahead.push_back(connection);
        }
    }

    /// Whether a fresh process is to take over, now that a request more has been served.
    fn is_due(&self, recycling: &Recycling) -> bool {
        let served = self.served.fetch_add(1, Ordering::Relaxed) + 1;
        let has_served = |max: NonZeroU64| served >= max.get();
        let has_grown = |max: u64| {
            let pid = self.service.pid();
            pid.and_then(resident_memory)
                .is_some_and(|bytes| bytes > max)
        };
        recycling.max_requests.is_some_and(has_served)
            || (recycling.max_age).is_some_and(|max| self.since.elapsed() >= max)
            || recycling.max_memory.is_some_and(has_grown)
    }
}

impl Shared {
    async fn begin_life(&self) -> Result<Life, Failure> {
        let generation = self.generation.load(Ordering::Relaxed);
        let number = self.sockets.fetch_add(1, Ordering::Relaxed);
        let path = self
            .config
            .dir
            .join(format!("{}.{number}.sock", self.config.name));
        let PoolConfig { command, kind, .. } = &self.config;
        let service = Service::start(&self.spawners, command.clone(), *kind, &path).await?;
        Ok(Life::new(service, &self.config, generation))
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
    fn retire(&self, index: usize) {
        if !self.slots[index]
            .life()
            .is_retired
            .swap(true, Ordering::Relaxed)
        {
            self.needs(Repair::Replace(index));
        }
    }

    fn is_due(&self, life: &Life) -> bool {
        life.is_due(&self.config.recycling)
            || life.generation < self.generation.load(Ordering::Relaxed)
    }

    /// Puts a fresh process in the place of one; if that fails, the old one goes on.
    async fn replace(&self, index: usize) {
        let old = self.slots[index].life();
        let is_reload = old.generation < self.generation.load(Ordering::Relaxed);
        let begun = self.begin_life().await;
        let successor = match begun {
            Ok(life) if is_reload && life.service.ends_within(PROBATION).await => {
                Err("its successor ended at once".to_owned())
            }
            Ok(life) => Ok(life),
            Err(failure) => Err(failure.to_string()),
        };
        let pid = old.service.pid();
        let life = match successor {
            Ok(life) => {
                let restarts = old.service.restarts();
                self.restarts_of_replaced
                    .fetch_add(restarts, Ordering::Relaxed);
                self.replaced.fetch_add(1, Ordering::Relaxed);
                tracing::info!(
                    worker.pid = pid,
                    successor.pid = life.service.pid(),
                    served = old.served.load(Ordering::Relaxed),
                    "process replaced"
                );
                life
            }
            Err(cause) => {
                tracing::error!(worker.pid = pid, %cause, "process cannot be replaced and goes on");
                Life::new(
                    old.service.clone(),
                    &self.config,
                    self.generation.load(Ordering::Relaxed),
                )
            }
        };
        life.connect_ahead();
        *lock(&self.slots[index].life) = Arc::new(life);
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
}

impl Drop for ForkRequest<'_> {
    fn drop(&mut self) {
        self.shared.slots[self.index]
            .asked
            .fetch_sub(1, Ordering::Relaxed);
        if self.shared.is_due(&self.life) {
            self.shared.retire(self.index);
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

impl Drop for Turn {
    fn drop(&mut self) {
        if !self.is_over {
            self.shared.needs(Repair::Renew(self.index));
        } else if self.shared.is_due(&self.life) {
            self.shared.retire(self.index);
        } else {
            self.shared.put_back(self.index);
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
                Repair::Renew(index) => {
                    let life = shared.slots[index].life();
                    let pid = life.service.pid();
                    tracing::warn!(worker.pid = pid, "worker killed with its request");
                    if let Err(failure) = life.service.renew().await {
                        tracing::warn!(cause = %failure, "worker cannot be started");
                    }
                    index
                }
                Repair::Replace(index) => {
                    shared.replace(index).await;
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

/// The resident memory of a process, in bytes; see `proc_pid_statm(5)`.
fn resident_memory(pid: i32) -> Option<u64> {
    let statm = std::fs::read_to_string(format!("/proc/{pid}/statm")).ok()?;
    let pages: u64 = statm.split(' ').nth(1)?.parse().ok()?;
    Some(pages * rustix::param::page_size() as u64)
}

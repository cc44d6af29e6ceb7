//! The server's side: a handle to the spawners, and one to each child.

use std::ffi::OsStr;
use std::future::poll_fn;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::process::ExitStatusExt;
use std::pin::Pin;
use std::process::ExitStatus;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::sync::{mpsc, oneshot, watch};

use super::codec::{End, Kind, Order};
use super::driver::{self, Command, Refusal};
use super::helper::{Helper, Legacy, end_orphans};
use super::{HelperCommand, Job, MAX_ORDER_SIZE, Signal};
use crate::supervisor::BackoffConfig;
use crate::{Failure, children};

/// How many spawners there are and how they are restarted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SpawnersConfig {
    /// The number of spawners; fewer than 2 count as 2, since a living one starts the replacement
    /// of a dead one.
    pub count: usize,
    /// The restart policy of each.
    pub backoff: BackoffConfig,
    /// How long a spawner that has jobs to start may be silent; then it is killed and replaced.
    ///
    /// Until a program is there, its spawner stands still with it: on a file system that does not
    /// answer, or because another process of the program's user stops all that this user has.
    pub answer_timeout: Duration,
}

impl Default for SpawnersConfig {
    fn default() -> Self {
        Self {
            count: 2,
            backoff: BackoffConfig::default(),
            // Many times what a start takes on a host that is loaded, and less than a message has.
            answer_timeout: Duration::from_secs(10),
        }
    }
}

/// What the spawners have done so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SpawnersStats {
    /// Jobs that were started and have neither ended nor been released.
    pub running: usize,
    /// Jobs that were started since the beginning.
    pub started: u64,
    /// Spawners that died and were to be replaced.
    pub restarts: u64,
    /// Spawners that live now.
    pub alive: usize,
}

/// The spawners: starts programs without a fork of this process.
///
/// A handle; clones are the same spawners. When the last one is dropped, or with
/// [`shutdown`](Self::shutdown), the spawners end and kill everything that runs.
#[derive(Clone, Debug)]
pub struct Spawners {
    front: Arc<Front>,
}

impl Spawners {
    /// Starts the spawners, inside a tokio runtime that lives as long as they are needed.
    ///
    /// The process becomes a subreaper: what a spawner that is killed leaves behind becomes its
    /// child, so that it can be ended. Call it early: the first spawners are started by this
    /// process itself, which is cheap while it is small.
    ///
    /// # Errors
    ///
    /// The system's error if the helper cannot be started.
    ///
    /// # Panics
    ///
    /// Outside of a tokio runtime with I/O and time enabled.
    #[expect(
        clippy::needless_pass_by_value,
        reason = "a handle keeps what it is made from"
    )]
    pub fn start(helper: HelperCommand, config: SpawnersConfig) -> io::Result<Self> {
        nix::sys::prctl::set_child_subreaper(true)?;
        let count = config.count.max(2);
        let shared = Arc::new(Shared {
            helper: helper.clone(),
            backoff: config.backoff,
            answer_timeout: config.answer_timeout,
            slots: (0..count).map(|_| Slot::default()).collect(),
            closing: watch::Sender::new(false),
            alive: watch::Sender::new(0),
            tasks: watch::Sender::new(count),
            counters: Counters::default(),
            dead: tokio::sync::Mutex::default(),
        });
        // All are started before the first is driven: if one fails, the others are dropped, which
        // ends them.
        let helpers = (0..count)
            .map(|_| Helper::start_here(&shared.helper))
            .collect::<io::Result<Vec<_>>>()?;
        for (index, helper) in helpers.into_iter().enumerate() {
            driver::drive_slot(Arc::clone(&shared), index, helper);
        }
        Ok(Self {
            front: Arc::new(Front { shared }),
        })
    }

    /// Starts a program. Waits while no spawner lives.
    ///
    /// The job's descriptors are closed here once they have been handed over.
    ///
    /// # Errors
    ///
    /// - [`Failure::CannotStart`] with the system's error, if the program could not be started.
    /// - [`Failure::Lost`] if the spawner died with the job in its hands: it may have started.
    /// - [`Failure::Cancelled`] after [`shutdown`](Self::shutdown).
    ///
    /// # Cancel safety
    ///
    /// If the future is dropped the job does not start, or what was started is killed.
    pub async fn spawn(&self, job: Job) -> Result<Child, Failure> {
        self.spawn_as(Kind::Run, job).await
    }

    pub(crate) async fn spawn_as(&self, kind: Kind, job: Job) -> Result<Child, Failure> {
        self.front.shared.spawn(job, kind).await
    }

    /// The counters as they stand.
    #[must_use]
    pub fn stats(&self) -> SpawnersStats {
        let shared = &self.front.shared;
        SpawnersStats {
            running: shared.counters.running.load(Ordering::Relaxed),
            started: shared.counters.started.load(Ordering::Relaxed),
            restarts: shared.counters.restarts.load(Ordering::Relaxed),
            alive: *shared.alive.borrow(),
        }
    }

    /// The process ids of the living spawners.
    #[must_use]
    pub fn pids(&self) -> Vec<i32> {
        let slots = self.front.shared.slots.iter();
        slots
            .filter_map(|slot| slot.link().as_ref().map(|link| link.pid))
            .collect()
    }

    /// Ends the spawners and everything they run, and waits until they have ended.
    ///
    /// # Cancel safety
    ///
    /// The end is under way once the future has been polled; dropping it only stops the waiting.
    pub async fn shutdown(&self) {
        let shared = &self.front.shared;
        shared.closing.send_replace(true);
        let mut tasks = shared.tasks.subscribe();
        // The sender is in `shared`, so this cannot fail before the count is reached.
        let _ = tasks.wait_for(|&left| left == 0).await;
    }
}

/// Ends the spawners with the last handle.
#[derive(Debug)]
struct Front {
    shared: Arc<Shared>,
}

impl Drop for Front {
    fn drop(&mut self) {
        self.shared.closing.send_replace(true);
    }
}

/// What the handles and the tasks that drive the spawners have in common.
#[derive(Debug)]
pub(super) struct Shared {
    pub(super) helper: HelperCommand,
    pub(super) backoff: BackoffConfig,
    pub(super) answer_timeout: Duration,
    pub(super) slots: Vec<Slot>,
    pub(super) closing: watch::Sender<bool>,
    /// How many slots have a living spawner.
    pub(super) alive: watch::Sender<usize>,
    /// How many slots' tasks have not ended.
    pub(super) tasks: watch::Sender<usize>,
    pub(super) counters: Counters,
    /// The spawners that died last, the latest at the end. Held while what they left is cleared
    /// away: the kernel's list of children has gaps for those who read it while others reap.
    dead: tokio::sync::Mutex<Vec<Legacy>>,
}

/// How many dead spawners are remembered: many more than can have left something that another one,
/// which lived on, had still to clear away.
const MAX_DEAD: usize = 64;

#[derive(Debug, Default)]
pub(super) struct Counters {
    pub(super) running: AtomicUsize,
    pub(super) started: AtomicU64,
    pub(super) restarts: AtomicU64,
}

/// The place of one spawner, whether it lives or is being replaced.
#[derive(Debug, Default)]
pub(super) struct Slot {
    link: Mutex<Option<Link>>,
    load: Arc<AtomicUsize>,
}

/// One job's share in the load of a spawner: from the choice of the spawner until nobody holds on to
/// the job.
///
/// That it ends there, and not when the spawner has been told, sends the next job the same way with
/// the release of the last: one wake-up for both.
#[derive(Debug)]
pub(super) struct Load(Arc<AtomicUsize>);

impl Load {
    fn new(load: &Arc<AtomicUsize>) -> Self {
        load.fetch_add(1, Ordering::Relaxed);
        Self(Arc::clone(load))
    }
}

impl Drop for Load {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// The way to a living spawner.
///
/// The queue has no bound of its own: it holds at most one job and one release for each caller that
/// waits, and a release comes from a drop, which cannot wait for room.
#[derive(Clone, Debug)]
pub(super) struct Link {
    pub(super) pid: i32,
    pub(super) commands: mpsc::UnboundedSender<Command>,
}

impl Slot {
    pub(super) fn link(&self) -> std::sync::MutexGuard<'_, Option<Link>> {
        // Nothing panics while it is held, and a link is whole at any time.
        self.link
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner)
    }
}

impl Shared {
    /// The way to the living spawner with the fewest jobs, now one more.
    fn least_loaded(&self) -> Option<(Link, Load)> {
        self.slots
            .iter()
            .filter_map(|slot| Some((&slot.load, slot.link().clone()?)))
            .min_by_key(|(load, _)| load.load(Ordering::Relaxed))
            .map(|(load, link)| (link, Load::new(load)))
    }

    /// Clears away what a dead spawner left, except the spawners that it started.
    pub(super) async fn bury(&self, legacy: Legacy, leaders: &[i32], spawners: &[i32]) {
        let mut dead = self.dead.lock().await;
        if dead.len() == MAX_DEAD {
            dead.remove(0);
        }
        dead.push(legacy);
        end_orphans(leaders, spawners, &dead).await;
    }

    pub(super) fn has_living(&self) -> bool {
        self.slots.iter().any(|slot| slot.link().is_some())
    }

    pub(super) async fn spawn(&self, job: Job, kind: Kind) -> Result<Child, Failure> {
        let (order, stdio) = order_of(job, kind);
        if order_size(&order) > MAX_ORDER_SIZE {
            let error = io::Error::from_raw_os_error(nix::libc::E2BIG);
            let what = order.argv.first().map(|name| name.to_string_lossy());
            return Err(Failure::cannot_start(what.unwrap_or_default(), &error));
        }
        let mut command = Box::new(driver::Spawn {
            order,
            stdio,
            reply: None,
            load: None,
        });
        let mut alive = self.alive.subscribe();
        let mut closing = self.closing.subscribe();
        loop {
            if *closing.borrow_and_update() {
                return Err(Failure::Cancelled);
            }
            alive.mark_unchanged();
            let Some((link, load)) = self.least_loaded() else {
                tokio::select! {
                    _ = alive.changed() => continue,
                    _ = closing.changed() => continue,
                }
            };
            let (reply, answer) = oneshot::channel();
            command.reply = Some(reply);
            command.load = Some(load);
            command = match link.commands.send(Command::Spawn(command)) {
                Ok(()) => match answer.await {
                    Ok(Ok(child)) => return Ok(child),
                    Ok(Err(Refusal::Unsent(command))) => command,
                    Ok(Err(Refusal::Failed(failure))) => return Err(failure),
                    Err(_) => return Err(Failure::Lost),
                },
                Err(mpsc::error::SendError(Command::Spawn(command))) => command,
                Err(_) => return Err(Failure::Lost),
            };
            // That spawner is dead or dying; its slot says so in a moment.
            tokio::task::yield_now().await;
        }
    }
}

/// A started program.
///
/// Dropping it releases it: its process group is killed, with all that it left behind, before the
/// process id of its leader may be given to others.
#[derive(Debug)]
pub struct Child {
    pid: i32,
    job: u64,
    commands: mpsc::UnboundedSender<Command>,
    exit: oneshot::Receiver<End>,
    ended: Option<Result<End, Failure>>,
    _load: Option<Load>,
}

impl Child {
    pub(super) fn new(
        pid: i32,
        job: u64,
        commands: mpsc::UnboundedSender<Command>,
        exit: oneshot::Receiver<End>,
        load: Option<Load>,
    ) -> Self {
        Self {
            pid,
            job,
            commands,
            exit,
            ended: None,
            _load: load,
        }
    }

    /// The process id, which is the number of its process group too. It is nobody else's until the
    /// child is released.
    #[must_use]
    pub fn pid(&self) -> i32 {
        self.pid
    }

    /// Waits until the program has ended. Its group and its output may live on.
    ///
    /// # Errors
    ///
    /// [`Failure::Lost`] if its spawner died, which ended it too.
    ///
    /// # Cancel safety
    ///
    /// May be dropped and called again, also after it has returned.
    pub async fn wait(&mut self) -> Result<ExitStatus, Failure> {
        poll_fn(|cx| self.poll_wait(cx)).await
    }

    pub(crate) fn poll_wait(&mut self, cx: &mut Context<'_>) -> Poll<Result<ExitStatus, Failure>> {
        let end = match &self.ended {
            Some(end) => end.clone(),
            None => {
                let end = ready!(Pin::new(&mut self.exit).poll(cx));
                self.ended.insert(end.map_err(|_| Failure::Lost)).clone()
            }
        };
        Poll::Ready(end.map(|end| match end {
            // The layout of a wait status: the exit code in the second byte, the signal in the first.
            End::Code(code) => ExitStatus::from_raw((code & 0xff) << 8),
            End::Signal(signal) => ExitStatus::from_raw(signal & 0x7f),
        }))
    }

    /// Sends a signal to the program's process group.
    pub fn signal_group(&self, signal: Signal) {
        // If the spawner is gone, so is the group.
        let _ = self.commands.send(Command::Signal {
            job: self.job,
            signal,
        });
    }

    /// Kills what is left of it and lets go, as dropping does.
    pub fn release(self) {
        drop(self);
    }
}

impl Drop for Child {
    fn drop(&mut self) {
        let _ = self.commands.send(Command::Release { job: self.job });
    }
}

/// What a job is in words, and its descriptors.
fn order_of(job: Job, kind: Kind) -> (Order, [OwnedFd; 3]) {
    let Job {
        argv,
        env,
        dir,
        identity,
        confinement,
        stdin,
        stdout,
        stderr,
    } = job;
    let order = Order {
        // The driver of the spawner that takes it gives number and mark.
        job: 0,
        kind,
        mark: match kind {
            Kind::Run | Kind::ForkServer => String::new(),
            Kind::Spawner => children::SPAWNER_MARK.to_owned(),
        },
        argv,
        env,
        dir,
        identity,
        confinement,
    };
    (order, [stdin, stdout, stderr])
}

fn order_size(order: &Order) -> usize {
    let strings = order
        .argv
        .iter()
        .chain(order.env.iter().flat_map(|(name, value)| [name, value]));
    let landlock = order.confinement.landlock.iter();
    let paths = landlock
        .flat_map(|it| [&it.read, &it.execute, &it.write])
        .flatten()
        .map(|path| path.as_os_str());
    let lengths = strings.map(|string| string.len());
    let lengths = lengths.chain(paths.map(OsStr::len));
    lengths.map(|len| len + 4).sum::<usize>() + 256
}

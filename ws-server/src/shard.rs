//! A worker thread and the connections it owns.
//!
//! Each worker has a runtime of its own and shares nothing but the hub with the others: what
//! belongs to a connection is touched by one thread only, so there are no locks around it, and a
//! push to many is written by each thread straight to the sockets of its own.

use std::cell::{Cell, RefCell};
use std::future::poll_fn;
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use bytes::Bytes;
use pin_project_lite::pin_project;
use slab::Slab;
use tokio::runtime::{Builder, LocalOptions};
use tokio::sync::{Notify, mpsc, oneshot};
use tokio::task::coop::unconstrained;
use tokio::task::{JoinSet, yield_now};
use tokio::time::{sleep_until, timeout};
use tracing::error;
use ws_proto::{CloseFrame, EncodedMessage};
use ws_session::{ConnectionId, Target};

use crate::accept::accept;
use crate::bell::Bell;
use crate::command::{Adoption, Command, Notices, Receipt, Recipient, Recipients, Traffic};
use crate::connection::{Connection, Frames, Publication, Turn};
use crate::core::alarms::{Alarms, Ring};
use crate::core::answer::kind_of;
use crate::core::question::{Occasion, Question, Source};
use crate::counters::{CloseCause, DropReason};
use crate::gate::Gate;
use crate::opening;
use crate::randomness::Randomness;
use crate::rota::{Rota, Seat};
use crate::shared::Shared;

/// Bytes taken from a socket at a time: one buffer of this size for each worker, none for an idle
/// connection. A large message that comes whole is answered from where it lies.
const READ_BUFFER_SIZE: usize = 512 * 1024;
/// Turns of connections that are taken before the worker's other tasks, and its poll set, are looked
/// at: as often as the runtime does it between tasks.
const TURNS_AT_ONCE: usize = 61;
/// How long a worker that must stop at once waits for its tasks to notice.
const STOP_TIMEOUT: Duration = Duration::from_secs(1);

/// Buffers that a worker uses for one connection after another.
#[derive(Debug)]
pub(crate) struct Scratch {
    pub(crate) read: Box<[u8]>,
    pub(crate) write: Frames,
}

/// The state of one worker thread.
#[derive(Debug)]
pub(crate) struct Shard {
    pub(crate) index: usize,
    pub(crate) server: Arc<Shared>,
    pub(crate) scratch: RefCell<Scratch>,
    /// Those that are open, and those that have left and whose callbacks still run.
    connections: RefCell<Slab<Rc<Connection>>>,
    rota: Arc<Rota>,
    alarms: RefCell<Alarms>,
    /// When the worker's one timer rings.
    timer_at: Cell<Option<Instant>>,
    /// Rings when that is too late.
    timer_is_late: Bell,
    pub(crate) gate: Gate,
    pub(crate) randomness: RefCell<Randomness>,
    /// What the last visitor asked for.
    last_target: RefCell<Arc<str>>,
    draining: Cell<bool>,
    /// Tasks and connections that must end before the worker may.
    tasks: Cell<usize>,
    all_ended: Notify,
}

/// Starts a worker thread. It drops `alive` when it has ended.
///
/// # Errors
///
/// If the system gives no thread or no event queue.
pub(crate) fn start(
    index: usize,
    server: Arc<Shared>,
    commands: mpsc::UnboundedReceiver<Command>,
    alive: mpsc::Sender<()>,
) -> io::Result<JoinHandle<()>> {
    let (built, is_built) = std::sync::mpsc::sync_channel(1);
    let thread = std::thread::Builder::new()
        .name(format!("ws-worker-{index}"))
        .spawn(move || {
            // A local runtime stays on the thread that builds it.
            let runtime = Builder::new_current_thread()
                .enable_all()
                .build_local(LocalOptions::default());
            let runtime = match runtime {
                Ok(runtime) => runtime,
                Err(error) => return drop(built.send(Err(error))),
            };
            drop(built.send(Ok(())));
            let shard = Rc::new(Shard::new(index, server));
            runtime.block_on(shard.serve(commands));
            drop(runtime);
            drop(alive);
        })?;
    // A thread that ends without a word has panicked, and joining it tells.
    is_built.recv().unwrap_or(Ok(()))?;
    Ok(thread)
}

impl Shard {
    fn new(index: usize, server: Arc<Shared>) -> Self {
        let gate = Gate::new(server.handshakes.div_ceil(server.hub.shard_count()));
        Self {
            index,
            server,
            scratch: RefCell::new(Scratch {
                read: vec![0; READ_BUFFER_SIZE].into_boxed_slice(),
                write: Frames::default(),
            }),
            connections: RefCell::default(),
            rota: Arc::default(),
            alarms: RefCell::new(Alarms::new(Instant::now())),
            timer_at: Cell::new(None),
            timer_is_late: Bell::default(),
            gate,
            randomness: RefCell::default(),
            last_target: RefCell::default(),
            draining: Cell::new(false),
            tasks: Cell::new(0),
            all_ended: Notify::new(),
        }
    }

    /// Whether nothing new is accepted any more.
    pub(crate) fn is_draining(&self) -> bool {
        self.draining.get()
    }

    /// A request target to be kept. Most visitors ask for the same as the one before, and keep one
    /// text with it.
    pub(crate) fn keep_target(&self, target: &str) -> Arc<str> {
        let mut last = self.last_target.borrow_mut();
        if **last != *target {
            *last = target.into();
        }
        Arc::clone(&last)
    }

    /// Takes a connection in. The worker does not end before it does.
    pub(crate) fn insert(&self, make: impl FnOnce(Arc<Seat>) -> Connection) -> Rc<Connection> {
        let mut connections = self.connections.borrow_mut();
        let vacant = connections.vacant_entry();
        let slot = u32::try_from(vacant.key()).expect("there are fewer descriptors");
        let connection = Rc::new(make(Seat::new(slot, &self.rota)));
        vacant.insert(Rc::clone(&connection));
        self.tasks.set(self.tasks.get() + 1);
        connection
    }

    /// Gives the connections their turns, for ever.
    async fn give_turns(self: Rc<Self>) {
        let mut taken = 0;
        loop {
            let next = poll_fn(|cx| match self.rota.next(cx.waker()) {
                Some(slot) => Poll::Ready(slot),
                None => Poll::Pending,
            });
            let slot = next.await;
            taken += 1;
            // Unlike a task that wakes itself, one that yields has the poll set looked at.
            if self.give_turn(slot) == Turn::Cut || taken == TURNS_AT_ONCE {
                taken = 0;
                yield_now().await;
            }
        }
    }

    fn give_turn(self: &Rc<Self>, slot: u32) -> Turn {
        // Whoever has asked may have ended since.
        let connection = self.connections.borrow().get(slot as usize).cloned();
        let Some(connection) = connection else {
            return Turn::Over;
        };
        // A fault of ours is that of one connection, as if it had a task of its own.
        let turn = catch_unwind(AssertUnwindSafe(|| connection.take_turn(self)));
        match turn {
            Ok(Turn::Ended) => {}
            Ok(turn) => return turn,
            Err(_) => {
                error!(conn.id = %connection.id(), "a connection is given up for a fault in the server");
                // Whatever was to be written is nobody else's.
                self.scratch.borrow_mut().write.clear();
                connection.abandon(self);
            }
        }
        self.connections.borrow_mut().remove(slot as usize);
        self.end_task();
        Turn::Ended
    }

    pub(crate) fn remove_alarm(&self, slot: u32, alarm: Option<Ring>) {
        self.alarms.borrow_mut().remove(slot, alarm);
    }

    /// Has a connection woken at a time, unless it is sooner by its `former` alarm. Returns its new
    /// one, if it has one.
    pub(crate) fn set_alarm(&self, slot: u32, former: Option<Ring>, at: Instant) -> Option<Ring> {
        let ring = self.alarms.borrow_mut().set(slot, former, at)?;
        self.wake_at(at);
        Some(ring)
    }

    /// Has the timer ring at a time, if it does not sooner.
    pub(crate) fn wake_at(&self, at: Instant) {
        if self.timer_at.get().is_none_or(|timer_at| at < timer_at) {
            self.timer_at.set(Some(at));
            self.timer_is_late.ring();
        }
    }

    /// Wakes connections when their time has come, and sends handshakes away.
    async fn ring_alarms(self: Rc<Self>) {
        let mut timer = pin!(sleep_until(Instant::now().into()));
        loop {
            while let Some(connection) = self.take_due_alarm() {
                connection.handle_alarm(&self.server.hub.counters);
            }
            self.gate.dismiss_late(Instant::now());
            let nexts = [self.alarms.borrow().next(), self.gate.next_deadline()];
            let next = nexts.into_iter().flatten().min();
            self.timer_at.set(next);
            if let Some(next) = next {
                timer.as_mut().reset(next.into());
            }
            tokio::select! {
                () = self.timer_is_late.rung() => {}
                () = &mut timer, if next.is_some() => {}
            }
        }
    }

    fn take_due_alarm(&self) -> Option<Rc<Connection>> {
        let now = Instant::now();
        let slot = self.alarms.borrow_mut().take_due(now)?;
        let connection = self.connections.borrow().get(slot as usize).cloned();
        debug_assert!(connection.is_some(), "a connection takes its alarm along");
        connection
    }

    /// Runs a task that the worker waits for before it ends.
    pub(crate) fn spawn(
        self: &Rc<Self>,
        task: impl Future<Output = ()> + 'static,
    ) -> tokio::task::AbortHandle {
        self.tasks.set(self.tasks.get() + 1);
        let guard = TaskGuard(Rc::clone(self));
        tokio::task::spawn_local(Guarded { task, guard }).abort_handle()
    }

    /// Serves a socket from here on.
    pub(crate) fn adopt(self: &Rc<Self>, adoption: Adoption) {
        self.spawn(opening::serve(Rc::clone(self), adoption));
    }

    async fn serve(self: Rc<Self>, mut commands: mpsc::UnboundedReceiver<Command>) {
        // They end with the runtime.
        tokio::task::spawn_local(Rc::clone(&self).ring_alarms());
        tokio::task::spawn_local(unconstrained(Rc::clone(&self).give_turns()));
        loop {
            if self.draining.get() && self.tasks.get() == 0 {
                return;
            }
            let command = tokio::select! {
                command = commands.recv() => command,
                () = self.all_ended.notified() => continue,
            };
            match command {
                Some(Command::Listen { listener, ended }) => {
                    let shard = Rc::clone(&self);
                    // Ends before the worker does, as the server waits for it.
                    tokio::task::spawn_local(async move {
                        accept(shard, *listener).await;
                        drop(ended);
                    });
                }
                Some(Command::Adopt(adoption)) => self.adopt(adoption),
                Some(Command::Push {
                    recipients,
                    messages,
                    receipt,
                    notices,
                }) => {
                    // The publisher may have given up; the message is delivered all the same.
                    let _ = receipt.send(self.push(&recipients, &messages, notices.as_ref()));
                }
                Some(Command::Run {
                    recipients,
                    uri,
                    source,
                    receipt,
                }) => {
                    self.run(&recipients, &uri, source, receipt);
                }
                Some(Command::Close {
                    recipients,
                    frame,
                    receipt,
                }) => {
                    let _ = receipt.send(self.close(&recipients, &frame));
                }
                Some(Command::Look { recipients, answer }) => {
                    // Who asked may have hung up.
                    let _ = answer.send(self.look(&recipients));
                }
                Some(Command::Answer(answer)) => {
                    // Who asked may not have waited.
                    let _ = answer.send(());
                }
                Some(Command::Drain) => {
                    self.draining.set(true);
                    self.gate.drain();
                    for connection in self.select(&Recipients::All) {
                        connection.drain();
                    }
                }
                Some(Command::Stop) | None => break,
            }
        }
        self.stop().await;
    }

    async fn stop(&self) {
        self.draining.set(true);
        self.gate.drain();
        for connection in self.select(&Recipients::All) {
            connection.stop();
        }
        let all_ended = async {
            while self.tasks.get() > 0 {
                self.all_ended.notified().await;
            }
        };
        // What has not ended by then is dropped with the runtime, which cancels it.
        let _ = timeout(STOP_TIMEOUT, all_ended).await;
    }

    fn push(
        &self,
        recipients: &Recipients,
        messages: &[EncodedMessage],
        notices: Option<&Notices>,
    ) -> Receipt {
        let publication = Publication::new(messages, notices);
        let counters = &self.server.hub.counters;
        let connections = self.connections.borrow();
        let mut receipt = Receipt::default();
        match recipients {
            Recipients::All => {
                for connection in present(&connections) {
                    connection.push(counters, &publication, &mut receipt);
                }
            }
            Recipients::AllBut(spared) => {
                for connection in all_but(&connections, spared) {
                    connection.push(counters, &publication, &mut receipt);
                }
            }
            Recipients::Some(some) => {
                for recipient in some {
                    match find(&connections, recipient) {
                        Some(connection) => connection.push(counters, &publication, &mut receipt),
                        // It was live when the push was accepted, and has ended since.
                        None => {
                            let count = messages.len() as u64;
                            counters.deliveries.owed.add(count);
                            counters.deliveries.dropped(DropReason::Ended, count);
                            receipt.add(Receipt::all_dropped(count, DropReason::Ended));
                        }
                    }
                }
            }
        }
        self.relieve(recipients);
        receipt
    }

    /// Closes the connections with the longest queues if too much waits in the whole server. Where
    /// all workers see that at the same moment, each sees to its share.
    fn relieve(&self, recipients: &Recipients) {
        let counters = &self.server.hub.counters;
        let mut excess = counters.ledger.excess();
        if !matches!(recipients, Recipients::Some(_)) {
            excess = excess.div_ceil(self.server.hub.worker_count());
        }
        if excess == 0 {
            return;
        }
        let mut longest = self.select(&Recipients::All);
        longest.retain(|connection| connection.waiting() > 0);
        longest.sort_by_key(|connection| std::cmp::Reverse(connection.waiting()));
        for connection in longest {
            // What others wait for as well is not gone yet.
            excess = excess.saturating_sub(connection.waiting());
            connection.relieve(counters);
            if excess == 0 || counters.ledger.excess() == 0 {
                return;
            }
        }
    }

    fn run(
        self: &Rc<Self>,
        recipients: &Recipients,
        uri: &Bytes,
        source: Source,
        mut answer: oneshot::Sender<Receipt>,
    ) {
        let mut receipt = match recipients {
            Recipients::All | Recipients::AllBut(_) => Receipt::default(),
            Recipients::Some(some) => self.missing(some),
        };
        let question = Question {
            event: Occasion::Message,
            source,
            kind: kind_of(uri),
            payload: uri.clone(),
        };
        let connections = self.select(recipients);
        let server = Arc::clone(&self.server);
        self.spawn(async move {
            // One full queue does not hold up the other connections.
            let mut admissions = JoinSet::new();
            for connection in connections {
                let (server, question) = (Arc::clone(&server), question.clone());
                admissions.spawn_local(async move {
                    let admitted = connection.admit(&server.hub.counters, question).await;
                    admitted.is_ok()
                });
            }
            loop {
                let admitted = tokio::select! {
                    biased;
                    admission = admissions.join_next() => match admission {
                        Some(admitted) => admitted.unwrap_or(false),
                        None => break,
                    },
                    // Whoever asked has given up. What still waits would pile up behind a queue
                    // that stays full, and is withdrawn.
                    () = answer.closed() => return,
                };
                receipt.add(match admitted {
                    true => Receipt {
                        connections: 1,
                        queued: 1,
                        ..Receipt::default()
                    },
                    false => Receipt::all_dropped(1, DropReason::Ended),
                });
            }
            // The caller may have given up this very moment.
            let _ = answer.send(receipt);
        });
    }

    /// Closes connections for an operator; those that have ended since need it no more.
    fn close(&self, recipients: &Recipients, frame: &CloseFrame) -> Receipt {
        let mut receipt = Receipt::default();
        for connection in self.select(recipients) {
            if connection.close(CloseCause::Revoked, frame.clone()) {
                receipt.connections += 1;
                receipt.written += 1;
            }
        }
        receipt
    }

    fn look(&self, recipients: &[Recipient]) -> Vec<(ConnectionId, Traffic)> {
        let connections = self.connections.borrow();
        let found = recipients
            .iter()
            .filter_map(|recipient| find(&connections, recipient));
        found
            .map(|connection| (connection.id(), connection.traffic()))
            .collect()
    }

    fn select(&self, recipients: &Recipients) -> Vec<Rc<Connection>> {
        let connections = self.connections.borrow();
        match recipients {
            Recipients::All => present(&connections).cloned().collect(),
            Recipients::AllBut(spared) => all_but(&connections, spared).cloned().collect(),
            Recipients::Some(some) => some
                .iter()
                .filter_map(|recipient| find(&connections, recipient).cloned())
                .collect(),
        }
    }

    /// Connections that were live when the push was accepted and have ended since.
    fn missing(&self, recipients: &[Recipient]) -> Receipt {
        let connections = self.connections.borrow();
        let missing = recipients
            .iter()
            .filter(|recipient| find(&connections, recipient).is_none())
            .count() as u64;
        Receipt::all_dropped(missing, DropReason::Ended)
    }

    fn end_task(&self) {
        self.tasks.set(self.tasks.get() - 1);
        if self.tasks.get() == 0 {
            self.all_ended.notify_one();
        }
    }
}

/// Those that have not left.
fn present(connections: &Slab<Rc<Connection>>) -> impl Iterator<Item = &Rc<Connection>> {
    let connections = connections.iter().map(|(_, connection)| connection);
    connections.filter(|connection| !connection.has_left())
}

/// Those that have not left and that `spared` does not reach.
fn all_but<'a>(
    connections: &'a Slab<Rc<Connection>>,
    spared: &Target,
) -> impl Iterator<Item = &'a Rc<Connection>> {
    present(connections).filter(move |connection| {
        let visitor = connection.visitor();
        !spared.contains(visitor.connection, visitor.user.as_ref(), visitor.session)
    })
}

/// `None` if it has left; its place may be another's by now.
fn find<'a>(
    connections: &'a Slab<Rc<Connection>>,
    recipient: &Recipient,
) -> Option<&'a Rc<Connection>> {
    let connection = connections.get(recipient.slot as usize)?;
    (connection.id() == recipient.id && !connection.has_left()).then_some(connection)
}

pin_project! {
    /// A task that is counted. An async block around the task would hold it twice.
    struct Guarded<F> {
        #[pin]
        task: F,
        guard: TaskGuard,
    }
}

impl<F: Future<Output = ()>> Future for Guarded<F> {
    type Output = ();

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        self.project().task.poll(cx)
    }
}

/// Counts a task until it has ended, however it ends.
struct TaskGuard(Rc<Shard>);

impl Drop for TaskGuard {
    fn drop(&mut self) {
        self.0.end_task();
    }
}

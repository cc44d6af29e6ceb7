//! One task per spawner: carries commands to it and notices back, and replaces it when it dies.

use std::collections::{BTreeSet, HashMap, VecDeque};
use std::io::{self, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::path::PathBuf;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use tokio::io::{Interest, Ready};
use tokio::sync::{mpsc, oneshot, watch};

use super::codec::{End, IN_MEMORY, Kind, Notice, Obstacle, Order, Request};
use super::handle::{Child, Link, Load, Shared};
use super::helper::{END_TIMEOUT, Helper, Legacy, ends, see_off};
use super::{EMPTYING_INTERVAL, MAX_DATAGRAM_SIZE, Signal};
use crate::supervisor::Backoff;
use crate::{Failure, cgroup, children, socketpair, sys};

/// From the handles to the task.
#[derive(Debug)]
pub(super) enum Command {
    Spawn(Box<Spawn>),
    Signal { job: u64, signal: Signal },
    Release { job: u64 },
}

/// A job on its way to a spawner.
#[derive(Debug)]
pub(super) struct Spawn {
    pub(super) order: Order,
    pub(super) stdio: [OwnedFd; 3],
    pub(super) reply: Option<oneshot::Sender<Result<Child, Refusal>>>,
    /// Its share in the load of the spawner that it is on its way to.
    pub(super) load: Option<Load>,
}

/// Why a spawner did not start a job.
#[derive(Debug)]
pub(super) enum Refusal {
    /// It died before the job was given to it: another one may take it.
    Unsent(Box<Spawn>),
    Failed(Failure),
}

/// Starts the task that drives a slot's spawners, one after the other.
pub(super) fn drive_slot(shared: Arc<Shared>, index: usize, mut helper: Helper) {
    let mut closing = shared.closing.subscribe();
    let link = connect(&shared, index, helper.pid);
    tokio::spawn(async move {
        let mut backoff = Backoff::new(shared.backoff);
        let mut commands = link;
        loop {
            backoff.started(Instant::now());
            if drive(&shared, index, helper, commands, &mut closing).await == Outcome::Closed {
                break;
            }
            shared.counters.restarts.fetch_add(1, Ordering::Relaxed);
            let Some(next) = restart(&shared, &mut backoff, &mut closing).await else {
                break;
            };
            helper = next;
            commands = connect(&shared, index, helper.pid);
        }
        shared.tasks.send_modify(|left| *left -= 1);
    });
}

/// Makes a spawner known to the handles; returns where their commands arrive.
fn connect(shared: &Shared, index: usize, pid: i32) -> Inbox {
    let (sender, receiver) = mpsc::unbounded_channel();
    *shared.slots[index].link() = Some(Link {
        pid,
        commands: sender.clone(),
    });
    shared.alive.send_modify(|alive| *alive += 1);
    Inbox {
        sender: sender.downgrade(),
        receiver,
    }
}

/// Where commands arrive.
struct Inbox {
    sender: mpsc::WeakUnboundedSender<Command>,
    receiver: mpsc::UnboundedReceiver<Command>,
}

async fn restart(
    shared: &Shared,
    backoff: &mut Backoff,
    closing: &mut watch::Receiver<bool>,
) -> Option<Helper> {
    loop {
        let delay = backoff.ended(Instant::now());
        tokio::select! {
            () = tokio::time::sleep(delay) => {}
            _ = closing.wait_for(|&closing| closing) => return None,
        }
        match Helper::start(shared).await {
            Ok(helper) => return Some(helper),
            Err(error) => tracing::error!(%error, "spawner not started"),
        }
    }
}

/// How the driving of a spawner ended.
#[derive(Debug, PartialEq, Eq)]
enum Outcome {
    /// It was told to end.
    Closed,
    /// It died.
    Lost,
}

/// Drives a spawner to its end, and cleans up behind it.
async fn drive(
    shared: &Arc<Shared>,
    index: usize,
    helper: Helper,
    commands: Inbox,
    closing: &mut watch::Receiver<bool>,
) -> Outcome {
    static INSTANCES: AtomicU64 = AtomicU64::new(0);
    let Helper {
        pid,
        pidfd,
        control,
        child,
    } = helper;
    let instance = INSTANCES.fetch_add(1, Ordering::Relaxed);
    let mut driver = Driver {
        shared: Arc::clone(shared),
        commands,
        marks: format!("{}-{instance}.", std::process::id()),
        jobs: HashMap::new(),
        next_job: 1,
        unanswered: 0,
        waiting_since: None,
        cgroups: BTreeSet::new(),
        outbox: VecDeque::new(),
    };
    let outcome = driver.run(&control, closing).await;
    // The spawner sees the end, if it did not cause it.
    drop(control);
    *shared.slots[index].link() = None;
    shared.alive.send_modify(|alive| *alive -= 1);
    let closed = match outcome {
        Ok(Outcome::Closed) => true,
        Ok(Outcome::Lost) => {
            tracing::warn!(spawner.pid = pid, jobs = driver.jobs.len(), "spawner died");
            false
        }
        Err(error) => {
            tracing::warn!(spawner.pid = pid, jobs = driver.jobs.len(), %error, "spawner failed");
            false
        }
    };
    driver.hand_back();
    if !closed || !ends(&pidfd, END_TIMEOUT).await {
        children::kill(&pidfd);
        ends(&pidfd, END_TIMEOUT).await;
    }
    if children::reap(&pidfd).is_err() {
        // It is another spawner's child, which reaps it when told to.
        drop(child);
        tokio::spawn(see_off(pidfd));
    }
    let pids = |are_spawners: bool| -> Vec<i32> {
        let entries = driver.jobs.values();
        let entries = entries.filter(|entry| (entry.kind == Kind::Spawner) == are_spawners);
        entries.filter_map(|entry| entry.pid).collect()
    };
    let (leaders, spawners) = (pids(false), pids(true));
    let cgroups = std::mem::take(&mut driver.cgroups);
    end_cgroups(cgroups, &driver.marks).await;
    let marks = driver.marks.clone();
    let legacy = Legacy {
        session: pid,
        marks,
    };
    shared.bury(legacy, &leaders, &spawners).await;
    driver.forget_all();
    if closed {
        Outcome::Closed
    } else {
        Outcome::Lost
    }
}

/// Kills and removes the control groups that a dead spawner left.
async fn end_cgroups(mut dirs: BTreeSet<PathBuf>, prefix: &str) {
    let deadline = Instant::now() + END_TIMEOUT;
    loop {
        dirs.retain(|dir| !cgroup::end_all(dir, prefix));
        if dirs.is_empty() {
            return;
        }
        if Instant::now() > deadline {
            tracing::error!(?dirs, prefix, "control groups do not end");
            return;
        }
        tokio::time::sleep(EMPTYING_INTERVAL).await;
    }
}

/// The state of one spawner's task.
struct Driver {
    shared: Arc<Shared>,
    commands: Inbox,
    /// What the marks of its jobs begin with.
    marks: String,
    jobs: HashMap<u64, Entry>,
    next_job: u64,
    /// Jobs that were sent and neither started nor refused.
    unanswered: usize,
    /// Since when there are any, or since the last of them was answered.
    waiting_since: Option<Instant>,
    /// Where its jobs have had control groups.
    cgroups: BTreeSet<PathBuf>,
    /// Commands that the socket has not taken yet.
    outbox: VecDeque<Command>,
}

/// A job that was sent and is not released.
struct Entry {
    kind: Kind,
    /// What it is called in an error.
    program: String,
    dir: String,
    /// `None` until it is started.
    pid: Option<i32>,
    reply: Option<oneshot::Sender<Result<Child, Refusal>>>,
    /// The child's, once it is started.
    load: Option<Load>,
    /// `None` before it is started and after its end was told.
    exit: Option<oneshot::Sender<End>>,
}

impl Driver {
    async fn run(
        &mut self,
        control: &OwnedFd,
        closing: &mut watch::Receiver<bool>,
    ) -> io::Result<Outcome> {
        let readiness = sys::register(control.as_fd(), Interest::READABLE | Interest::WRITABLE)?;
        let mut buffer = [0; 64];
        let patience = self.shared.answer_timeout;
        let mut look = pin!(tokio::time::sleep(patience));
        loop {
            self.flush(control)?;
            let interest = match self.outbox.is_empty() {
                true => Interest::READABLE,
                false => Interest::READABLE | Interest::WRITABLE,
            };
            tokio::select! {
                guard = readiness.ready(interest) => {
                    let mut guard = guard?;
                    let ready = guard.ready();
                    let mut used_up = Ready::EMPTY;
                    if ready.is_readable() {
                        loop {
                            match socketpair::receive(control, &mut buffer, false) {
                                Ok((0, _)) => return Ok(Outcome::Lost),
                                Ok((len, _)) => self.handle_notice(&buffer[..len])?,
                                Err(error) if is_would_block(&error) => break,
                                Err(error) => return Err(error),
                            }
                        }
                        used_up |= Ready::READABLE;
                    }
                    if ready.is_writable() && !self.flush(control)? {
                        used_up |= Ready::WRITABLE;
                    }
                    guard.clear_ready_matching(used_up);
                }
                command = self.commands.receiver.recv() => match command {
                    Some(command) => self.outbox.push_back(command),
                    // The link in the slot is a sender, so there is always one.
                    None => return Ok(Outcome::Closed),
                },
                () = &mut look => {
                    if self.waiting_since.is_some_and(|since| since.elapsed() >= patience) {
                        // If it was us who were late, there is something to be read.
                        match socketpair::receive(control, &mut buffer, false) {
                            Ok((0, _)) => return Ok(Outcome::Lost),
                            Ok((len, _)) => self.handle_notice(&buffer[..len])?,
                            Err(error) if is_would_block(&error) => return Err(silence()),
                            Err(error) => return Err(error),
                        }
                    }
                    look.as_mut().reset(tokio::time::Instant::now() + patience);
                }
                _ = closing.wait_for(|&closing| closing) => return Ok(Outcome::Closed),
            }
        }
    }

    /// Sends what the socket takes; tells whether it took everything.
    fn flush(&mut self, control: &OwnedFd) -> io::Result<bool> {
        while let Some(command) = self.outbox.pop_front() {
            let (command, sent) = self.send(control, command);
            match sent {
                Ok(()) => {}
                Err(error) => {
                    if let Some(command) = command {
                        self.outbox.push_front(command);
                    }
                    return if is_would_block(&error) {
                        Ok(false)
                    } else {
                        Err(error)
                    };
                }
            }
        }
        Ok(true)
    }

    /// Sends one command; returns it if it was not sent.
    fn send(&mut self, control: &OwnedFd, command: Command) -> (Option<Command>, io::Result<()>) {
        match command {
            Command::Spawn(spawn) => {
                if spawn.reply.as_ref().is_none_or(oneshot::Sender::is_closed) {
                    // Nobody waits for it any more, so it does not start.
                    return (None, Ok(()));
                }
                self.send_spawn(control, spawn)
            }
            Command::Signal { job, signal } => {
                let sent =
                    socketpair::send(control, &Request::Signal { job, signal }.encode(), &[]);
                (sent.is_err().then_some(command), sent)
            }
            Command::Release { job } => {
                let sent = socketpair::send(control, &Request::Release { job }.encode(), &[]);
                if sent.is_err() {
                    return (Some(command), sent);
                }
                self.forget(job);
                (None, sent)
            }
        }
    }

    fn send_spawn(
        &mut self,
        control: &OwnedFd,
        mut spawn: Box<Spawn>,
    ) -> (Option<Command>, io::Result<()>) {
        let job = self.next_job;
        spawn.order.job = job;
        if spawn.order.kind != Kind::Spawner {
            spawn.order.mark = format!("{}{job}", self.marks);
        }
        let packed = match pack(spawn.order.encode_request()) {
            Ok(packed) => packed,
            // No descriptor or no memory for it here: the spawner has no part in that.
            Err(error) => {
                if let Some(reply) = spawn.reply {
                    let failure = Failure::cannot_start("job", &error);
                    let _ = reply.send(Err(Refusal::Failed(failure)));
                }
                return (None, Ok(()));
            }
        };
        if let Err(error) = packed.send(control, &spawn.stdio) {
            return (Some(Command::Spawn(spawn)), Err(error));
        }
        self.next_job += 1;
        self.unanswered += 1;
        self.waiting_since.get_or_insert_with(Instant::now);
        let Order {
            kind,
            argv,
            dir,
            confinement,
            ..
        } = spawn.order;
        if let Some(cgroup) = confinement.cgroup {
            self.cgroups.insert(cgroup.dir);
        }
        self.jobs.insert(
            job,
            Entry {
                kind,
                program: argv
                    .first()
                    .map_or_else(String::new, |name| name.to_string_lossy().into()),
                dir: dir.map_or_else(String::new, |dir| dir.display().to_string()),
                pid: None,
                reply: spawn.reply,
                load: spawn.load,
                exit: None,
            },
        );
        (None, Ok(()))
    }

    fn handle_notice(&mut self, datagram: &[u8]) -> io::Result<()> {
        let notice = Notice::decode(datagram)
            .ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, "malformed notice"))?;
        if !matches!(notice, Notice::Exited { .. }) {
            self.unanswered -= 1;
            self.waiting_since = (self.unanswered > 0).then(Instant::now);
        }
        match notice {
            Notice::Started { job, pid } => self.handle_started(job, pid),
            Notice::Refused {
                job,
                errno,
                obstacle,
            } => {
                if let Some(mut entry) = self.remove(job) {
                    let what = match obstacle {
                        Obstacle::Program => std::mem::take(&mut entry.program),
                        Obstacle::Directory => std::mem::take(&mut entry.dir),
                        Obstacle::Identity => format!("{} as its user", entry.program),
                        Obstacle::Limits => format!("{} with its limits", entry.program),
                        Obstacle::Landlock => format!("{} with its Landlock rules", entry.program),
                        Obstacle::Cgroup => format!("{} in a control group", entry.program),
                    };
                    let failure = Failure::CannotStart { what, errno };
                    if let Some(reply) = entry.reply {
                        let _ = reply.send(Err(Refusal::Failed(failure)));
                    }
                }
            }
            Notice::Exited { job, end } => {
                let exit = self.jobs.get_mut(&job).and_then(|entry| entry.exit.take());
                if let Some(exit) = exit {
                    self.shared.counters.running.fetch_sub(1, Ordering::Relaxed);
                    let _ = exit.send(end);
                }
            }
        }
        Ok(())
    }

    fn handle_started(&mut self, job: u64, pid: i32) {
        let Some(entry) = self.jobs.get_mut(&job) else {
            return;
        };
        let counters = &self.shared.counters;
        counters.started.fetch_add(1, Ordering::Relaxed);
        counters.running.fetch_add(1, Ordering::Relaxed);
        let (exit, exited) = oneshot::channel();
        entry.pid = Some(pid);
        entry.exit = Some(exit);
        // The slot holds a sender for as long as the spawner is driven.
        if let (Some(reply), Some(commands)) = (entry.reply.take(), self.commands.sender.upgrade())
        {
            // If nobody waits any more, the child comes back and is released by being dropped.
            let child = Child::new(pid, job, commands, exited, entry.load.take());
            let _ = reply.send(Ok(child));
        }
    }

    /// Takes a job off the books.
    fn remove(&mut self, job: u64) -> Option<Entry> {
        let entry = self.jobs.remove(&job)?;
        if entry.exit.is_some() {
            self.shared.counters.running.fetch_sub(1, Ordering::Relaxed);
        }
        Some(entry)
    }

    fn forget(&mut self, job: u64) {
        drop(self.remove(job));
    }

    /// Gives back the jobs that were not sent; takes no more.
    fn hand_back(&mut self) {
        self.commands.receiver.close();
        while let Ok(command) = self.commands.receiver.try_recv() {
            self.outbox.push_back(command);
        }
        for command in self.outbox.drain(..) {
            if let Command::Spawn(mut spawn) = command
                && let Some(reply) = spawn.reply.take()
            {
                spawn.load = None;
                let _ = reply.send(Err(Refusal::Unsent(spawn)));
            }
        }
    }

    /// Takes all jobs off the books: whoever waits for one learns that it is lost.
    fn forget_all(&mut self) {
        let jobs: Vec<u64> = self.jobs.keys().copied().collect();
        for job in jobs {
            self.forget(job);
        }
    }
}

/// A request in the form in which it travels.
enum Packed {
    Datagram(Vec<u8>),
    Memory(OwnedFd),
}

fn pack(request: Vec<u8>) -> io::Result<Packed> {
    if request.len() <= MAX_DATAGRAM_SIZE {
        return Ok(Packed::Datagram(request));
    }
    let memory = rustix::fs::memfd_create("ws-job", rustix::fs::MemfdFlags::CLOEXEC)?;
    let mut memory = std::fs::File::from(memory);
    memory.write_all(&request)?;
    Ok(Packed::Memory(memory.into()))
}

impl Packed {
    fn send(&self, control: &OwnedFd, stdio: &[OwnedFd; 3]) -> io::Result<()> {
        let [stdin, stdout, stderr] = stdio.each_ref().map(AsFd::as_fd);
        match self {
            Self::Datagram(datagram) => {
                socketpair::send(control, datagram, &[stdin, stdout, stderr])
            }
            Self::Memory(memory) => {
                socketpair::send(control, IN_MEMORY, &[stdin, stdout, stderr, memory.as_fd()])
            }
        }
    }
}

fn silence() -> io::Error {
    io::Error::new(io::ErrorKind::TimedOut, "it does not answer")
}

fn is_would_block(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::WouldBlock
}

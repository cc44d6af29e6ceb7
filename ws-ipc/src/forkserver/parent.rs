//! The fork server's loop.

use std::collections::HashMap;
use std::io::{self, Write};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::net::UnixListener;
use std::time::{Duration, Instant};

use mio::unix::SourceFd;
use mio::{Events, Interest, Poll, Token};
use rustix::io::Errno;
use rustix::net::SocketFlags;
use rustix::process::{Pid, Signal};

use super::child::{self, Inheritance};
use super::{Answer, Options, Request, Scratch};
use crate::children::{self, OwnChildren, Suspects, is_exhaustion};
use crate::supervisor::{Backoff, BackoffConfig};
use crate::sys::{Forked, SignalState};
use crate::{socketpair, sys};

const LISTENER: Token = Token(0);

/// The number of the first child. A child's number is the token of its end, and with this bit added
/// that of its connection's. Numbers are not used twice, as process ids are: a child that has not
/// closed its copy of a descriptor yet may keep a registration alive, and a late event must not meet
/// somebody else.
const FIRST_NUMBER: usize = 2;
const HANG_UP: usize = 1;

/// How many events are taken at once, and for how many children there is room from the beginning:
/// what changes with each child is to be in few pages, as they are copied for each.
const EVENTS: usize = 32;
const CHILDREN: usize = 14;

/// How often orphans are looked for while children serve.
const SWEEP_INTERVAL: Duration = Duration::from_secs(1);

/// How soon after something ended orphans are looked for, so that many ends cost one look.
const SWEEP_DELAY: Duration = Duration::from_millis(50);

/// The state of the loop. A child has a copy of it, which it never looks at: it closes the
/// descriptors by their numbers and leaves by `_exit`. To take it apart there would be a page of
/// memory copied for each thing in it.
pub(super) struct Parent {
    options: Options,
    inheritance: Inheritance,
    listener: UnixListener,
    poll: Poll,
    events: Events,
    /// Children that have a connection, by their numbers.
    busy: HashMap<usize, Busy>,
    /// Processes that children have left behind, by numbers too.
    orphans: HashMap<usize, Orphan>,
    next_number: usize,
    own_children: OwnChildren,
    /// Something ended since orphans were looked for: when they are next.
    sweep_at: Option<Instant>,
    /// Readiness is told once (edge-triggered), so it is remembered until it is used up.
    may_accept: bool,
    /// A connection that is accepted, while there can be no child for it.
    waiting: Option<OwnedFd>,
    /// A descriptor to give up for one that a child cannot be without.
    reserve: Option<OwnedFd>,
    backoff: Backoff,
    /// After a failed fork: when to fork again.
    retry_at: Option<Instant>,
}

struct Busy {
    pid: i32,
    pidfd: OwnedFd,
    /// Watched for its peer to hang up, and closed when all is over.
    _connection: OwnedFd,
}

struct Orphan {
    pid: i32,
    pidfd: OwnedFd,
    /// `None`: the application started it before it served, so it ends with this process.
    suspects: Option<Suspects<usize>>,
}

impl Parent {
    pub(super) fn new(options: Options) -> io::Result<Self> {
        sys::close_on_exec()?;
        let descriptors = sys::open_descriptors()?;
        let listener = UnixListener::from(io::stdin().as_fd().try_clone_to_owned()?);
        listener.set_nonblocking(true)?;
        rustix::stdio::dup2_stdin(socketpair::null()?)?;
        nix::sys::prctl::set_child_subreaper(true)?;
        // What is buffered now would be written by every child.
        io::stdout().flush()?;
        // std's handlers say why a stack overflow ends the process. Without them it ends as well,
        // and no child has to take them away first.
        sys::reset_fault_handlers()?;
        let rehearsal = super::rehearsal()?;
        let poll = Poll::new()?;
        let source = listener.as_raw_fd();
        poll.registry()
            .register(&mut SourceFd(&source), LISTENER, Interest::READABLE)?;
        let events = Events::with_capacity(EVENTS);
        let busy = HashMap::with_capacity(CHILDREN);
        let mut parent = Self {
            options,
            inheritance: Inheritance {
                parent: rustix::process::getpid(),
                signals: SignalState::now()?,
                descriptors,
                scratch: Scratch::new(),
                rehearsal,
            },
            listener,
            poll,
            events,
            busy,
            orphans: HashMap::new(),
            next_number: FIRST_NUMBER,
            own_children: OwnChildren::open()?,
            sweep_at: None,
            may_accept: true,
            waiting: None,
            reserve: None,
            backoff: Backoff::new(BackoffConfig::default()),
            retry_at: None,
        };
        for pid in parent.own_children.read()? {
            parent.adopt(pid, None)?;
        }
        // Last, so that nothing of this process's own takes what a child is to find.
        let Inheritance {
            scratch, rehearsal, ..
        } = &mut parent.inheritance;
        child::prepare(scratch, rehearsal)?;
        Ok(parent)
    }

    /// Forks a child for each connection that waits, as long as there may be more of both.
    pub(super) fn serve(&mut self, handler: &impl Fn(&Request) -> Answer) -> io::Result<()> {
        if self.retry_at.is_some_and(|at| Instant::now() < at) {
            return Ok(());
        }
        self.retry_at = None;
        while self.has_room() && self.has_reserve()? {
            let Some(connection) = self.next_connection()? else {
                break;
            };
            match sys::fork() {
                Ok(Forked::Child) => {
                    child::main(connection, &mut self.inheritance, &self.options, handler)
                }
                Ok(Forked::Parent(pid)) => self.keep(pid, connection)?,
                Err(error) if error.raw_os_error() == Some(nix::libc::EDEADLK) => {
                    return Err(error);
                }
                Err(error) => {
                    self.waiting = Some(connection);
                    let _ = writeln!(io::stderr(), "fork server: cannot fork: {error}");
                    let now = Instant::now();
                    self.retry_at = Some(now + self.backoff.ended(now));
                    break;
                }
            }
        }
        Ok(())
    }

    fn has_room(&self) -> bool {
        self.busy.len() < self.options.max_children.max(1)
    }

    /// Whether there is a descriptor to give up; without one nobody is accepted.
    fn has_reserve(&mut self) -> io::Result<bool> {
        if self.reserve.is_none() {
            match socketpair::null() {
                Err(error) if is_exhaustion(&error) => return Ok(false),
                null => self.reserve = Some(null?),
            }
        }
        Ok(true)
    }

    /// The connection that has waited longest.
    ///
    /// By the system call itself: std's way stores the error that nobody waits any more, and takes
    /// a copy of the page for that, as long as children share it.
    fn next_connection(&mut self) -> io::Result<Option<OwnedFd>> {
        if let Some(connection) = self.waiting.take() {
            return Ok(Some(connection));
        }
        while self.may_accept {
            match rustix::net::accept_with(&self.listener, SocketFlags::CLOEXEC) {
                Ok(connection) => return Ok(Some(connection)),
                Err(Errno::AGAIN) => self.may_accept = false,
                // That one was gone before it was accepted; there may be others.
                Err(Errno::CONNABORTED | Errno::INTR) => {}
                // Out of descriptors or memory: ends of children make room.
                Err(error) if is_exhaustion(&error.into()) => break,
                Err(error) => return Err(error.into()),
            }
        }
        Ok(None)
    }

    /// Watches a child and its connection from here on.
    fn keep(&mut self, pid: i32, connection: OwnedFd) -> io::Result<()> {
        let number = self.take_number();
        let watched = self.pidfd(pid).and_then(|pidfd| {
            self.register(&pidfd, number, Interest::READABLE)?;
            // No interest in data: what is always told is a peer that has closed altogether, and
            // one that has only finished writing still waits for its answer.
            self.register(&connection, number + HANG_UP, Interest::PRIORITY)?;
            Ok(pidfd)
        });
        match watched {
            Ok(pidfd) => {
                let busy = Busy {
                    pid,
                    pidfd,
                    _connection: connection,
                };
                self.busy.insert(number, busy);
                self.backoff.started(Instant::now());
                Ok(())
            }
            Err(error) => {
                // Nobody would hear of its end, or that it is to end. Its peer loses the request.
                // The child first: once it is killed, it adds nobody to its group.
                let leader = Pid::from_raw(pid);
                let _ = leader.map(|pid| rustix::process::kill_process(pid, Signal::KILL));
                children::kill_group(pid);
                rustix::process::waitpid(leader, rustix::process::WaitOptions::empty())?;
                if is_exhaustion(&error) {
                    return Ok(());
                }
                Err(error)
            }
        }
    }

    fn take_number(&mut self) -> usize {
        let number = self.next_number;
        self.next_number += 2;
        number
    }

    /// A descriptor of a child, for which there is always room.
    fn pidfd(&mut self, pid: i32) -> io::Result<OwnedFd> {
        match children::pidfd(pid) {
            Err(error) if is_exhaustion(&error) && self.reserve.take().is_some() => {
                children::pidfd(pid)
            }
            opened => opened,
        }
    }

    /// Waits for something to happen and handles it.
    pub(super) fn step(&mut self) -> io::Result<()> {
        let mut events = std::mem::replace(&mut self.events, Events::with_capacity(0));
        let timeout = self.timeout();
        match self.poll.poll(&mut events, timeout) {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => events.clear(),
            done => done?,
        }
        for event in &events {
            match event.token() {
                LISTENER => self.may_accept = true,
                Token(token) if token & HANG_UP == 0 => self.handle_end(token)?,
                Token(_) => {}
            }
        }
        // Most peers hang up because they have their answer: their children have ended by then.
        for Token(token) in events.iter().map(mio::event::Event::token) {
            if token & HANG_UP != 0 {
                self.handle_hang_up(token - HANG_UP);
            }
        }
        let has_waited = events.is_empty() && timeout == Some(SWEEP_INTERVAL);
        if has_waited || self.sweep_at.is_some_and(|at| at <= Instant::now()) {
            self.sweep_at = None;
            match self.sweep() {
                // The next time there may be descriptors.
                Err(error) if is_exhaustion(&error) => self.ask_sweep(),
                swept => swept?,
            }
        }
        self.events = events;
        Ok(())
    }

    fn timeout(&self) -> Option<Duration> {
        let now = Instant::now();
        let until = |at: Instant| at.saturating_duration_since(now);
        // What may still be accepted could not be, for want of descriptors.
        let looks = !(self.busy.is_empty() && self.orphans.is_empty()) || self.may_accept;
        let fork = self.retry_at.map(until);
        let sweep = self.sweep_at.map(until);
        let waits = [fork, sweep, looks.then_some(SWEEP_INTERVAL)];
        waits.into_iter().flatten().min()
    }

    /// Kills the child whose peer does not wait any more; its group, of which it may not be the
    /// leader yet, when it has ended.
    fn handle_hang_up(&self, number: usize) {
        if let Some(busy) = self.busy.get(&number) {
            children::kill(&busy.pidfd);
        }
    }

    /// Handles a pidfd that has become readable.
    fn handle_end(&mut self, number: usize) -> io::Result<()> {
        if let Some(busy) = self.busy.remove(&number) {
            // What is left of its group, while nobody else can have its process id.
            children::kill_group(busy.pid);
            children::reap(&busy.pidfd)?;
            // The peer sees the end of its connection only now, after that of the group.
            drop(busy);
            self.ask_sweep();
        } else if let Some(orphan) = self.orphans.remove(&number) {
            children::reap(&orphan.pidfd)?;
            self.ask_sweep();
        }
        Ok(())
    }

    fn ask_sweep(&mut self) {
        self.sweep_at
            .get_or_insert_with(|| Instant::now() + SWEEP_DELAY);
    }

    /// Looks for processes that children have left behind in sessions of their own, and kills them
    /// when no child is left that may be theirs.
    fn sweep(&mut self) -> io::Result<()> {
        for pid in self.own_children.read()? {
            if self.busy.values().any(|busy| busy.pid == pid) {
                continue;
            }
            let known = self.orphans.iter().find(|(_, orphan)| orphan.pid == pid);
            let number = match known {
                Some((&number, _)) => number,
                None => self.adopt(pid, Some(self.suspects()))?,
            };
            let Some(orphan) = self.orphans.get_mut(&number) else {
                continue;
            };
            let Some(suspects) = &mut orphan.suspects else {
                continue;
            };
            if let Some(group) = children::group_of(pid)
                && let Some((&leader, _)) = self.busy.iter().find(|(_, busy)| busy.pid == group)
            {
                *suspects = Suspects::new([leader]);
            }
            let busy = &self.busy;
            let is_there = |number| busy.contains_key(&number);
            if suspects.are_gone(is_there) {
                children::kill(&orphan.pidfd);
            }
        }
        Ok(())
    }

    /// Whose an orphan may be that is seen for the first time: any child's that has begun to answer,
    /// which is when it leaves our group.
    fn suspects(&self) -> Suspects<usize> {
        let own_group = Some(rustix::process::getpgrp().as_raw_pid());
        let has_begun = |busy: &Busy| children::group_of(busy.pid) != own_group;
        let begun = self.busy.iter().filter(|(_, busy)| has_begun(busy));
        Suspects::new(begun.map(|(&number, _)| number))
    }

    /// Watches a process that is no child of ours by birth, or none that serves.
    fn adopt(&mut self, pid: i32, suspects: Option<Suspects<usize>>) -> io::Result<usize> {
        let pidfd = children::pidfd(pid)?;
        let number = self.take_number();
        self.register(&pidfd, number, Interest::READABLE)?;
        let orphan = Orphan {
            pid,
            pidfd,
            suspects,
        };
        self.orphans.insert(number, orphan);
        Ok(number)
    }

    fn register(&self, source: &OwnedFd, token: usize, interest: Interest) -> io::Result<()> {
        self.poll
            .registry()
            .register(&mut SourceFd(&source.as_raw_fd()), Token(token), interest)
    }
}

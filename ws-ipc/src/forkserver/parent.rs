//! The fork server's loop.

use std::collections::HashMap;
use std::io::{self, Write};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::net::UnixListener;
use std::time::{Duration, Instant};

use mio::unix::SourceFd;
use mio::{Events, Interest, Poll, Token};

use super::{Answer, Options, Request, child};
use crate::children::{self, Suspects};
use crate::supervisor::{Backoff, BackoffConfig};
use crate::sys::Forked;
use crate::{socketpair, sys};

const LISTENER: Token = Token(0);

/// Added to a child's process id, this is the token of its connection; the process id alone is
/// that of its pidfd.
const HANG_UP: usize = 1 << 32;

/// How often orphans are looked for while children serve.
const SWEEP_INTERVAL: Duration = Duration::from_secs(1);

/// How soon after something ended orphans are looked for, so that many ends cost one look.
const SWEEP_DELAY: Duration = Duration::from_millis(50);

/// How long a child that has a request is left the processors before another one is forked, while
/// one waits still.
const REFILL_DELAY: Duration = Duration::from_millis(1);

/// The state of the loop. All of it is dropped in a child.
pub(super) struct Parent {
    options: Options,
    /// The signals that a child has to give their default dispositions: to ask about all of them
    /// would be a quarter of its system calls.
    altered_signals: Vec<i32>,
    listener: UnixListener,
    poll: Poll,
    events: Events,
    /// Waiting children.
    spares: Vec<Spare>,
    /// Children that serve, by process id.
    busy: HashMap<i32, Busy>,
    orphans: HashMap<i32, Orphan>,
    /// Something ended since orphans were looked for: when they are next.
    sweep_at: Option<Instant>,
    /// Readiness is told once (edge-triggered), so it is remembered until it is used up.
    may_accept: bool,
    backoff: Backoff,
    /// When to fork again, although a child waits still.
    refill_at: Option<Instant>,
    /// After a failed fork, or a waiting child that died: when to fork again.
    retry_at: Option<Instant>,
}

struct Spare {
    pid: i32,
    pidfd: OwnedFd,
    control: OwnedFd,
}

struct Busy {
    pidfd: OwnedFd,
    connection: OwnedFd,
}

struct Orphan {
    pidfd: OwnedFd,
    suspects: Suspects,
}

impl Parent {
    pub(super) fn new(options: Options) -> io::Result<Self> {
        sys::close_on_exec()?;
        let listener = UnixListener::from(io::stdin().as_fd().try_clone_to_owned()?);
        listener.set_nonblocking(true)?;
        rustix::stdio::dup2_stdin(socketpair::null()?)?;
        nix::sys::prctl::set_child_subreaper(true)?;
        // What is buffered now would be written by every child.
        io::stdout().flush()?;
        let poll = Poll::new()?;
        let source = listener.as_raw_fd();
        poll.registry()
            .register(&mut SourceFd(&source), LISTENER, Interest::READABLE)?;
        Ok(Self {
            options,
            altered_signals: sys::altered_signals()?,
            listener,
            poll,
            events: Events::with_capacity(256),
            spares: Vec::new(),
            busy: HashMap::new(),
            orphans: HashMap::new(),
            sweep_at: None,
            may_accept: true,
            backoff: Backoff::new(BackoffConfig::default()),
            refill_at: None,
            retry_at: None,
        })
    }

    /// Forks waiting children until there are enough. Takes the state by value, because the child
    /// drops it.
    pub(super) fn refill(mut self, handler: &impl Fn(&Request) -> Answer) -> io::Result<Self> {
        if self.fork_at().is_some_and(|at| Instant::now() < at) {
            return Ok(self);
        }
        (self.refill_at, self.retry_at) = (None, None);
        while self.spares.len() < self.options.spare.max(1)
            && self.spares.len() + self.busy.len() < self.options.max_children.max(1)
        {
            let parent = rustix::process::getpid();
            let (control, theirs) = match socketpair::datagram() {
                Err(error) if is_exhaustion(&error) => {
                    self.note_failed_fork(&error);
                    return Ok(self);
                }
                pair => pair?,
            };
            match sys::fork() {
                Ok(Forked::Child) => {
                    let max_body_size = self.options.max_body_size;
                    let altered_signals = std::mem::take(&mut self.altered_signals);
                    drop(control);
                    drop(self);
                    child::main(
                        theirs,
                        Some(parent),
                        &altered_signals,
                        max_body_size,
                        handler,
                    )
                }
                Ok(Forked::Parent(pid)) => match self.keep_spare(pid, control) {
                    Err(error) if is_exhaustion(&error) => {
                        self.note_failed_fork(&error);
                        return Ok(self);
                    }
                    kept => kept?,
                },
                Err(error) if error.raw_os_error() == Some(nix::libc::EDEADLK) => {
                    return Err(error);
                }
                Err(error) => {
                    self.note_failed_fork(&error);
                    return Ok(self);
                }
            }
        }
        Ok(self)
    }

    /// When to fork the next child, if not at once.
    fn fork_at(&self) -> Option<Instant> {
        let refill_at = self.refill_at.filter(|_| !self.spares.is_empty());
        self.retry_at.max(refill_at)
    }

    fn keep_spare(&mut self, pid: i32, control: OwnedFd) -> io::Result<()> {
        // The child does the same: whoever comes first, its group is there before it is needed.
        let group = rustix::process::Pid::from_raw(pid);
        let _ = rustix::process::setpgid(group, group);
        let watched = children::pidfd(pid).and_then(|pidfd| {
            self.register(&pidfd, token_of(pid), Interest::READABLE)?;
            Ok(pidfd)
        });
        let pidfd = match watched {
            Ok(pidfd) => pidfd,
            Err(error) => {
                // Nobody would hear of its end.
                children::kill_group(pid);
                rustix::process::waitpid(group, rustix::process::WaitOptions::empty())?;
                return Err(error);
            }
        };
        self.spares.push(Spare {
            pid,
            pidfd,
            control,
        });
        self.backoff.started(Instant::now());
        Ok(())
    }

    fn note_failed_fork(&mut self, error: &io::Error) {
        let _ = writeln!(io::stderr(), "fork server: cannot fork: {error}");
        self.delay_next_fork();
    }

    fn delay_next_fork(&mut self) {
        let now = Instant::now();
        self.retry_at = Some(now + self.backoff.ended(now));
    }

    /// Waits for something to happen and handles it.
    pub(super) fn step(&mut self) -> io::Result<()> {
        self.accept()?;
        let mut events = std::mem::replace(&mut self.events, Events::with_capacity(0));
        let timeout = self.timeout();
        match self.poll.poll(&mut events, timeout) {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => events.clear(),
            done => done?,
        }
        for event in &events {
            match event.token() {
                LISTENER => self.may_accept = true,
                Token(token @ HANG_UP..) => self.handle_hang_up(token - HANG_UP),
                Token(token) => self.handle_end(token)?,
            }
        }
        // A child that is missing is forked first.
        let now = Instant::now();
        let has_waited = events.is_empty() && timeout == Some(SWEEP_INTERVAL);
        if has_waited || self.sweep_at.is_some_and(|at| at <= now) {
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
        let has_room = self.spares.len() + self.busy.len() < self.options.max_children.max(1);
        let is_short = self.spares.len() < self.options.spare.max(1) && has_room;
        let fork = match self.fork_at() {
            None => is_short.then_some(Duration::ZERO),
            Some(at) => Some(until(at)),
        };
        // What may still be accepted could not be, for want of descriptors.
        let looks = !(self.busy.is_empty() && self.orphans.is_empty()) || self.may_accept;
        let sweep = self.sweep_at.map(until);
        let waits = [fork, sweep, looks.then_some(SWEEP_INTERVAL)];
        waits.into_iter().flatten().min()
    }

    /// Hands connections to waiting children, as long as there are both.
    fn accept(&mut self) -> io::Result<()> {
        while self.may_accept && !self.spares.is_empty() {
            match self.listener.accept() {
                Ok((connection, _)) => self.hand_over(connection.into())?,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => self.may_accept = false,
                // That one was gone before it was accepted; there may be others.
                Err(error)
                    if matches!(
                        error.kind(),
                        io::ErrorKind::ConnectionAborted | io::ErrorKind::Interrupted
                    ) => {}
                // Out of descriptors or memory: ends of children make room.
                Err(error) if is_exhaustion(&error) => return Ok(()),
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    fn hand_over(&mut self, connection: OwnedFd) -> io::Result<()> {
        while let Some(spare) = self.spares.pop() {
            let Spare {
                pid,
                pidfd,
                control,
            } = spare;
            let sent = socketpair::send(&control, b"c", &[connection.as_fd()]);
            if sent.is_ok() {
                // No interest in data: what is always told is a peer that has closed altogether,
                // and one that has only finished writing still waits for its answer.
                self.register(&connection, HANG_UP + token_of(pid), Interest::PRIORITY)?;
                self.busy.insert(pid, Busy { pidfd, connection });
                self.refill_at = Some(Instant::now() + REFILL_DELAY);
                return Ok(());
            }
            // It died waiting: its end is handled as that of any other child.
            let connection = socketpair::null()?;
            self.busy.insert(pid, Busy { pidfd, connection });
        }
        // None is left: the connection is closed, which its peer sees as a lost request.
        Ok(())
    }

    /// Kills the child, with its group, whose peer does not wait any more.
    fn handle_hang_up(&self, token: usize) {
        if let Some(pid) = pid_of(token)
            && self.busy.contains_key(&pid)
        {
            children::kill_group(pid);
        }
    }

    /// Handles a pidfd that has become readable.
    fn handle_end(&mut self, token: usize) -> io::Result<()> {
        let Some(pid) = pid_of(token) else {
            return Ok(());
        };
        if let Some(at) = self.spares.iter().position(|spare| spare.pid == pid) {
            let spare = self.spares.swap_remove(at);
            self.end(pid, &spare.pidfd)?;
            self.delay_next_fork();
        } else if let Some(busy) = self.busy.remove(&pid) {
            let _ = self.deregister(&busy.connection);
            self.end(pid, &busy.pidfd)?;
            // The peer sees the end of its connection only now, after that of the group.
            drop(busy);
            self.refill_at = None;
            self.ask_sweep();
        } else if let Some(orphan) = self.orphans.remove(&pid) {
            self.deregister(&orphan.pidfd)?;
            children::reap(&orphan.pidfd)?;
            self.ask_sweep();
        }
        Ok(())
    }

    fn ask_sweep(&mut self) {
        self.sweep_at
            .get_or_insert_with(|| Instant::now() + SWEEP_DELAY);
    }

    /// Kills what is left of a dead child's group, then reaps it.
    fn end(&self, pid: i32, pidfd: &OwnedFd) -> io::Result<()> {
        children::kill_group(pid);
        self.deregister(pidfd)?;
        children::reap(pidfd)?;
        Ok(())
    }

    /// Looks for processes that children have left behind in sessions of their own, and kills them
    /// when no child is left that may be theirs.
    fn sweep(&mut self) -> io::Result<()> {
        for pid in children::children()? {
            if self.busy.contains_key(&pid) || self.spares.iter().any(|spare| spare.pid == pid) {
                continue;
            }
            if !self.orphans.contains_key(&pid) {
                let pidfd = children::pidfd(pid)?;
                self.register(&pidfd, token_of(pid), Interest::READABLE)?;
                let suspects = Suspects::new(self.busy.keys().map(|&pid| job_of(pid)));
                self.orphans.insert(pid, Orphan { pidfd, suspects });
            }
            let busy = &self.busy;
            let Some(orphan) = self.orphans.get_mut(&pid) else {
                continue;
            };
            if let Some(group) = children::group_of(pid)
                && busy.contains_key(&group)
            {
                orphan.suspects = Suspects::new([job_of(group)]);
            }
            if orphan
                .suspects
                .retain(|job| busy.keys().any(|&pid| job_of(pid) == job))
            {
                children::kill(&orphan.pidfd);
            }
        }
        Ok(())
    }

    fn register(&self, source: &OwnedFd, token: usize, interest: Interest) -> io::Result<()> {
        self.poll
            .registry()
            .register(&mut SourceFd(&source.as_raw_fd()), Token(token), interest)
    }

    /// Closing alone does not end a registration: a child may hold a copy of the descriptor for a
    /// moment longer, and a late event would meet the next owner of the process id.
    fn deregister(&self, source: &OwnedFd) -> io::Result<()> {
        self.poll
            .registry()
            .deregister(&mut SourceFd(&source.as_raw_fd()))
    }
}

fn token_of(pid: i32) -> usize {
    usize::try_from(pid).expect("process ids are positive")
}

fn pid_of(token: usize) -> Option<i32> {
    i32::try_from(token).ok()
}

fn job_of(pid: i32) -> u64 {
    u64::from(pid.unsigned_abs())
}

fn is_exhaustion(error: &io::Error) -> bool {
    use nix::libc::{EMFILE, ENFILE, ENOBUFS, ENOMEM};
    matches!(
        error.raw_os_error(),
        Some(EMFILE | ENFILE | ENOBUFS | ENOMEM)
    )
}

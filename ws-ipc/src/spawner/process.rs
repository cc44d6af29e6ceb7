//! The spawner's own process: a single thread around one poll.

use std::collections::{BTreeMap, HashMap};
use std::fs::File;
use std::io::{self, Write};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::fs::FileExt;
use std::time::{Duration, Instant};

use mio::unix::SourceFd;
use mio::{Events, Interest, Poll, Token};
use nix::sys::signal::Signal as NixSignal;
use rustix::process::{Resource, Rlimit, WaitIdStatus};

use super::codec::{End, IN_MEMORY, Kind, Notice, Order, Request};
use super::launch::{Launched, Launcher};
use super::suspicion::{Candidate, Messages, Suspect, narrow, suspects};
use super::{EMPTYING_INTERVAL, MAX_DATAGRAM_SIZE, MAX_ORDER_SIZE, Signal};
use crate::cgroup::JobCgroup;
use crate::children::{
    self, Environ, Instance, OwnChildren, SPAWNER_MARK, Suspects, is_exhaustion,
};
use crate::scgi::SCGI;
use crate::{socketpair, sys};

/// Runs this process as a spawner, with the control socket as descriptor 0. Never returns.
///
/// Call it before anything else: while the process has a single thread and no descriptors of its
/// own. It ends, with all it has started, when the control socket does.
pub fn main() -> ! {
    let code = match run() {
        Ok(()) => 0,
        Err(error) => {
            // The server's log is gone from here; descriptor 2 is what remains.
            let _ = writeln!(io::stderr(), "spawner: {error}");
            1
        }
    };
    std::process::exit(code)
}

fn run() -> io::Result<()> {
    // What it starts is known by this session, also when it is dead itself. It fails only for the
    // leader of a process group, which nobody makes of it.
    rustix::process::setsid()?;
    sys::SignalState::now()?.restore_defaults()?;
    // A terminal's or a service manager's signal to everybody must not end us before the server
    // has finished: its closing of the control socket does.
    sys::catch_signals(&[
        NixSignal::SIGHUP,
        NixSignal::SIGINT,
        NixSignal::SIGQUIT,
        NixSignal::SIGTERM,
        NixSignal::SIGUSR1,
        NixSignal::SIGUSR2,
        NixSignal::SIGPIPE,
    ])?;
    sys::close_on_exec()?;
    let control = io::stdin().as_fd().try_clone_to_owned()?;
    rustix::stdio::dup2_stdin(socketpair::null()?)?;
    nix::sys::prctl::set_child_subreaper(true)?;
    let mut spawner = Spawner::new(control)?;
    let served = spawner.serve();
    spawner.end_all()?;
    served
}

/// How often orphans are looked for while jobs run: those of a long-lived job would otherwise
/// remain zombies until it ends.
const SWEEP_INTERVAL: Duration = Duration::from_secs(1);

/// How soon after something ended orphans are looked for, so that many ends cost one look.
const SWEEP_DELAY: Duration = Duration::from_millis(50);

/// How much longer than a look at many orphans took there is none: programs are started meanwhile.
const SWEEP_REST: u32 = 9;

/// How long the end of everything that was killed is awaited when the server is gone.
const END_TIMEOUT: Duration = Duration::from_secs(5);

/// How many requests are served before the ends of children are looked at again.
const REQUESTS_AT_ONCE: usize = 16;

const CONTROL: Token = Token(0);

/// The server counts jobs from 1.
const NO_JOB: u64 = 0;

struct Spawner {
    control: OwnedFd,
    poll: Poll,
    children: OwnChildren,
    jobs: BTreeMap<u64, Running>,
    job_of_pid: HashMap<i32, u64>,
    orphans: HashMap<i32, Orphan>,
    /// Something ended since orphans were looked for: when they are next.
    sweep_at: Option<Instant>,
    /// When orphans may be looked for again.
    rested_at: Instant,
    buffer: Box<[u8]>,
    launcher: Launcher,
    /// Control groups of jobs that are gone, in which somebody is still dying.
    emptying: Vec<JobCgroup>,
}

/// A started job, until it is reaped.
struct Running {
    pid: i32,
    pidfd: OwnedFd,
    kind: Kind,
    mark: String,
    cgroup: Option<JobCgroup>,
    /// Those of a fork server.
    messages: Messages,
    /// Whether only what a message has started has the variable that each message has.
    tells_messages: bool,
    /// The server does not want it any more: it dies or is dead.
    released: bool,
}

/// A child that is no job.
struct Orphan {
    pidfd: OwnedFd,
    fate: Fate,
}

/// What becomes of an orphan.
enum Fate {
    /// It dies with the last of these, of which one is its own.
    Suspected(Suspects<Suspect>),
    /// As before, and nothing more is to be found out about it.
    Left(Suspects<Suspect>),
    /// It dies with this job.
    Owned(u64),
    /// It has been killed.
    Killed,
    /// It is another spawner and ends by itself.
    Spared,
}

impl Spawner {
    fn new(control: OwnedFd) -> io::Result<Self> {
        // Each running job takes a descriptor here. Where the limit cannot be raised, it remains.
        let descriptor_limit = rustix::process::getrlimit(Resource::Nofile);
        let raised = Rlimit {
            current: descriptor_limit.maximum,
            ..descriptor_limit
        };
        let _ = rustix::process::setrlimit(Resource::Nofile, raised);
        let poll = Poll::new()?;
        poll.registry().register(
            &mut SourceFd(&control.as_raw_fd()),
            CONTROL,
            Interest::READABLE,
        )?;
        Ok(Self {
            control,
            poll,
            children: OwnChildren::open()?,
            jobs: BTreeMap::new(),
            job_of_pid: HashMap::new(),
            orphans: HashMap::new(),
            sweep_at: None,
            rested_at: Instant::now(),
            buffer: vec![0; MAX_DATAGRAM_SIZE].into_boxed_slice(),
            launcher: Launcher::new(descriptor_limit),
            emptying: Vec::new(),
        })
    }

    /// Serves until the control socket is closed.
    fn serve(&mut self) -> io::Result<()> {
        let mut events = Events::with_capacity(256);
        // Readiness is told once (edge-triggered), so it is remembered until it is used up.
        let mut control_is_readable = true;
        loop {
            let timeout = if control_is_readable {
                Some(Duration::ZERO)
            } else {
                self.timeout()
            };
            self.wait(&mut events, timeout)?;
            if events.is_empty() && !control_is_readable {
                self.sweep_at.get_or_insert_with(Instant::now);
            }
            for event in &events {
                match event.token() {
                    CONTROL => control_is_readable = true,
                    Token(pid) => self.handle_end(pid)?,
                }
            }
            if control_is_readable {
                match self.handle_requests()? {
                    Input::More => {}
                    Input::UsedUp => control_is_readable = false,
                    Input::End => return Ok(()),
                }
            }
            // Once for everything that came together: a sweep takes time with each orphan.
            if self.sweep_at.is_some_and(|at| at <= Instant::now()) {
                self.sweep()?;
            }
        }
    }

    /// How long to wait if nothing happens.
    fn timeout(&self) -> Option<Duration> {
        let now = Instant::now();
        let asked = self.sweep_at.map(|at| at.saturating_duration_since(now));
        let waits = [asked, self.until_sweep()];
        waits.into_iter().flatten().min()
    }

    /// Has orphans looked for soon.
    fn ask_sweep(&mut self) {
        let earliest = self.rested_at;
        self.sweep_at
            .get_or_insert_with(|| earliest.max(Instant::now() + SWEEP_DELAY));
    }

    /// How long nothing may happen until something has to be looked at that gives no sign.
    fn until_sweep(&self) -> Option<Duration> {
        if !self.emptying.is_empty() {
            return Some(EMPTYING_INTERVAL);
        }
        (!self.jobs.is_empty() || !self.orphans.is_empty()).then_some(SWEEP_INTERVAL)
    }

    fn wait(&mut self, events: &mut Events, timeout: Option<Duration>) -> io::Result<()> {
        match self.poll.poll(events, timeout) {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {
                events.clear();
                Ok(())
            }
            done => done,
        }
    }

    fn handle_requests(&mut self) -> io::Result<Input> {
        for _ in 0..REQUESTS_AT_ONCE {
            let mut buffer = std::mem::take(&mut self.buffer);
            let received = socketpair::receive(&self.control, &mut buffer, false);
            let datagram = match received {
                Ok((0, _)) => return Ok(Input::End),
                Ok((len, descriptors)) => decode(&buffer[..len], descriptors),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    self.buffer = buffer;
                    return Ok(Input::UsedUp);
                }
                // The server died with something unread in the socket.
                Err(error) if error.kind() == io::ErrorKind::ConnectionReset => {
                    return Ok(Input::End);
                }
                Err(error) => return Err(error),
            };
            self.buffer = buffer;
            match datagram? {
                (Request::Spawn(order), descriptors) => self.spawn(order, descriptors)?,
                (Request::Signal { job, signal }, _) => self.signal(job, signal),
                (Request::Release { job }, _) => self.release(job)?,
            }
        }
        Ok(Input::More)
    }

    fn spawn(&mut self, order: Order, descriptors: Vec<OwnedFd>) -> io::Result<()> {
        let job = order.job;
        let stdio: [OwnedFd; 3] = descriptors.try_into().map_err(|_| malformed())?;
        let launched = self.launcher.launch(&order, &stdio);
        // Its own copies are open: whoever reads its output sees the end with it.
        drop(stdio);
        match launched {
            Ok(Launched { pid, pidfd, cgroup }) => {
                self.watch(&pidfd, pid)?;
                let tells_messages = order.env.iter().all(|(name, _)| name != SCGI);
                let Order { kind, mark, .. } = order;
                self.jobs.insert(
                    job,
                    Running {
                        pid,
                        pidfd,
                        kind,
                        mark,
                        cgroup,
                        messages: Messages::default(),
                        tells_messages,
                        released: false,
                    },
                );
                self.job_of_pid.insert(pid, job);
                self.tell(Notice::Started { job, pid })
            }
            Err((error, obstacle)) => {
                // An error without a number is one of std's own: a NUL byte in an argument.
                let errno = error.raw_os_error().unwrap_or(nix::libc::EINVAL);
                self.tell(Notice::Refused {
                    job,
                    errno,
                    obstacle,
                })
            }
        }
    }

    fn signal(&self, job: u64, signal: Signal) {
        if let Some(running) = self.jobs.get(&job) {
            children::signal_group(running.pid, signal.number());
            if signal == Signal::Terminate {
                // What is stopped hears of nothing but this and SIGKILL.
                children::signal_group(running.pid, rustix::process::Signal::CONT);
            }
        }
    }

    /// Kills the job's group, then reaps its leader: at once, or when it has died.
    fn release(&mut self, job: u64) -> io::Result<()> {
        let Some(running) = self.jobs.get_mut(&job) else {
            return Ok(());
        };
        running.released = true;
        if running.kind != Kind::Spawner {
            children::kill_group(running.pid);
        }
        if let Some(cgroup) = &running.cgroup {
            cgroup.kill();
        }
        if children::reap(&running.pidfd)? {
            self.forget(job);
        }
        self.ask_sweep();
        Ok(())
    }

    fn forget(&mut self, job: u64) {
        if let Some(running) = self.jobs.remove(&job) {
            self.job_of_pid.remove(&running.pid);
            self.emptying.extend(running.cgroup);
        }
    }

    /// Handles a pidfd that has become readable.
    fn handle_end(&mut self, token: usize) -> io::Result<()> {
        let pid = i32::try_from(token).expect("tokens are made of process ids");
        if let Some(&job) = self.job_of_pid.get(&pid) {
            return self.handle_job_end(job);
        }
        if let Some(orphan) = self.orphans.get(&pid)
            && children::reap(&orphan.pidfd)?
        {
            self.orphans.remove(&pid);
            // Its children are ours now.
            self.ask_sweep();
        }
        Ok(())
    }

    fn handle_job_end(&mut self, job: u64) -> io::Result<()> {
        let running = &self.jobs[&job];
        let Some(status) = children::peek(running.pid)? else {
            return Ok(());
        };
        if running.released {
            children::reap(&running.pidfd)?;
            self.forget(job);
            self.ask_sweep();
            return Ok(());
        }
        if running.kind == Kind::Spawner {
            // What it ran is ours now; the server counts it as lost.
            self.sweep()?;
        }
        self.tell(Notice::Exited {
            job,
            end: end_of(&status),
        })
    }

    /// Looks for orphans and kills those that belong to nobody any more.
    fn sweep(&mut self) -> io::Result<()> {
        let begun = Instant::now();
        self.sweep_at = None;
        let swept = self.look_for_orphans();
        self.rested_at = Instant::now() + begun.elapsed() * SWEEP_REST;
        match swept {
            // The next time there may be descriptors.
            Err(error) if is_exhaustion(&error) => self.ask_sweep(),
            swept => swept?,
        }
        self.emptying.retain(|cgroup| !cgroup.remove());
        Ok(())
    }

    fn look_for_orphans(&mut self) -> io::Result<()> {
        let mut candidates = None;
        // Each is looked at once, however many orphans may be its.
        let mut known = HashMap::new();
        for pid in self.children.read()? {
            if self.job_of_pid.contains_key(&pid) {
                continue;
            }
            if !self.orphans.contains_key(&pid) {
                let candidates = match &candidates {
                    Some(candidates) => candidates,
                    None => candidates.insert(self.candidates()?),
                };
                let orphan = self.adopt(pid, candidates)?;
                self.orphans.insert(pid, orphan);
            }
            self.judge(pid, &mut known);
        }
        if candidates.is_none() {
            self.look_for_messages();
        }
        Ok(())
    }

    /// Watches an orphan that is seen for the first time.
    fn adopt(&self, pid: i32, candidates: &[Candidate]) -> io::Result<Orphan> {
        let since = match Instance::of(pid) {
            Err(error) if is_exhaustion(&error) => return Err(error),
            looked => looked.ok().flatten().map(|orphan| orphan.since),
        };
        let pidfd = children::pidfd(pid)?;
        self.watch(&pidfd, pid)?;
        Ok(Orphan {
            pidfd,
            fate: Fate::Suspected(suspects(candidates, since)),
        })
    }

    /// Kills an orphan that belongs to nobody any more. `known` is which processes are alive.
    fn judge(&mut self, pid: i32, known: &mut HashMap<Instance, bool>) {
        let Some(mut orphan) = self.orphans.remove(&pid) else {
            return;
        };
        if let Fate::Suspected(suspects) = &mut orphan.fate
            && let Some(fate) = self.fate_of(pid, suspects)
        {
            orphan.fate = fate;
        }
        let runs = |job| self.jobs.get(&job).is_some_and(|running| !running.released);
        let is_there = |suspect| match suspect {
            Suspect::Job(job) => runs(job),
            Suspect::Child(job, child) => {
                runs(job) && *known.entry(child).or_insert_with(|| child.is_alive())
            }
        };
        let is_due = match &mut orphan.fate {
            Fate::Suspected(suspects) | Fate::Left(suspects) => suspects.are_gone(is_there),
            Fate::Owned(job) => !runs(*job),
            Fate::Killed | Fate::Spared => false,
        };
        if is_due {
            children::kill(&orphan.pidfd);
            orphan.fate = Fate::Killed;
        }
        self.orphans.insert(pid, orphan);
    }

    /// Whose an orphan is; `None` if that cannot be told. In the middle of an exec, for one, there
    /// is no environment to read.
    fn fate_of(&self, pid: i32, suspects: &mut Suspects<Suspect>) -> Option<Fate> {
        let environ = Environ::of(pid);
        if let Some(environ) = &environ
            && let Some(mark) = environ.mark()
        {
            // Anybody may write that mark; what is no spawner has no part in it.
            if mark == SPAWNER_MARK && children::runs_this_program(pid) {
                return Some(Fate::Spared);
            }
            let owner = self.jobs.iter().find(|(_, running)| running.mark == mark);
            // The job of a mark that is not known here has ended, maybe with another spawner.
            let Some((&job, running)) = owner else {
                return Some(Fate::Owned(NO_JOB));
            };
            // What a fork server itself has started is of its own group, or was once.
            if running.kind == Kind::ForkServer && children::group_of(pid) != Some(running.pid) {
                let is_of_message = running.tells_messages && environ.value(SCGI) == Some(b"1");
                narrow(suspects, job, is_of_message);
                return Some(Fate::Left(suspects.clone()));
            }
            return Some(Fate::Owned(job));
        }
        let job = self.job_of_pid.get(&children::group_of(pid)?)?;
        Some(Fate::Owned(*job))
    }

    /// Whoever may have left behind an orphan that is seen now for the first time.
    fn candidates(&mut self) -> io::Result<Vec<Candidate>> {
        let mut candidates = Vec::new();
        let running = self
            .jobs
            .iter_mut()
            .filter(|(_, running)| !running.released);
        for (&job, running) in running {
            match running.kind {
                Kind::Spawner => {}
                Kind::Run => candidates.push(Candidate::Run(job)),
                Kind::ForkServer => match running.messages.look(running.pid) {
                    Ok(children) => candidates.push(Candidate::ForkServer {
                        job,
                        messages: running.messages,
                        children,
                    }),
                    Err(error) if is_exhaustion(&error) => return Err(error),
                    // Nothing more is known than that it runs.
                    Err(_) => candidates.push(Candidate::Run(job)),
                },
            }
        }
        Ok(candidates)
    }

    /// Looks whether fork servers run messages of which none has been seen to.
    fn look_for_messages(&mut self) {
        for running in self.jobs.values_mut() {
            if running.kind == Kind::ForkServer && running.messages.are_unknown() {
                // They remain unknown if they cannot be looked at.
                let _ = running.messages.look(running.pid);
            }
        }
    }

    /// Kills and reaps everything. Other spawners end by themselves, as their sockets are closed
    /// with ours; they are waited for.
    fn end_all(&mut self) -> io::Result<()> {
        let deadline = Instant::now() + END_TIMEOUT;
        let mut events = Events::with_capacity(256);
        let jobs: Vec<u64> = self.jobs.keys().copied().collect();
        for job in jobs {
            self.release(job)?;
        }
        self.sweep()?;
        while let Some(interval) = self.until_sweep() {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Err(io::Error::new(
                    io::ErrorKind::TimedOut,
                    "children do not end",
                ));
            }
            self.wait(&mut events, Some(left.min(interval)))?;
            for event in &events {
                if let Token(pid @ 1..) = event.token() {
                    self.handle_end(pid)?;
                }
            }
            self.sweep()?;
        }
        Ok(())
    }

    fn watch(&self, pidfd: &OwnedFd, pid: i32) -> io::Result<()> {
        let token = Token(usize::try_from(pid).expect("process ids are positive"));
        self.poll
            .registry()
            .register(&mut SourceFd(&pidfd.as_raw_fd()), token, Interest::READABLE)
    }

    /// Sends a notice, waiting for room: the server always reads.
    fn tell(&self, notice: Notice) -> io::Result<()> {
        let datagram = notice.encode();
        loop {
            match socketpair::send(&self.control, &datagram, &[]) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    let flags = rustix::event::PollFlags::OUT;
                    let mut ready = [rustix::event::PollFd::new(&self.control, flags)];
                    match rustix::event::poll(&mut ready, None) {
                        Ok(_) | Err(rustix::io::Errno::INTR) => {}
                        Err(error) => return Err(error.into()),
                    }
                }
                // The server is gone: the next read says so too, in good order.
                Err(error) if error.kind() == io::ErrorKind::BrokenPipe => return Ok(()),
                done => return done,
            }
        }
    }
}

/// What is left in the control socket.
enum Input {
    More,
    UsedUp,
    End,
}

/// Decodes a request, from the memory file if it came in one.
fn decode(datagram: &[u8], mut descriptors: Vec<OwnedFd>) -> io::Result<(Request, Vec<OwnedFd>)> {
    let request = if datagram == IN_MEMORY {
        let memory = File::from(descriptors.pop().ok_or_else(malformed)?);
        let len = usize::try_from(memory.metadata()?.len()).map_err(|_| malformed())?;
        if len > MAX_ORDER_SIZE {
            return Err(malformed());
        }
        let mut whole = vec![0; len];
        memory.read_exact_at(&mut whole, 0)?;
        Request::decode(&whole)
    } else {
        Request::decode(datagram)
    };
    Ok((request.ok_or_else(malformed)?, descriptors))
}

fn malformed() -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, "malformed request")
}

fn end_of(status: &WaitIdStatus) -> End {
    match status.exit_status() {
        Some(code) => End::Code(code),
        None => End::Signal(status.terminating_signal().unwrap_or(0)),
    }
}

//! Long-running programs that are asked over a Unix socket: fork servers and workers.

use std::ffi::OsString;
use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use rustix::io::Errno;
use rustix::net::RecvFlags;
use tokio::io::AsyncReadExt;
use tokio::net::UnixStream;
use tokio::net::unix::pipe;
use tokio::sync::watch;

use crate::cgi::CgiError;
use crate::scgi::{self, Length};
use crate::spawner::Kind;
use crate::stderr::Lines;
use crate::supervisor::{Backoff, BackoffConfig};
use crate::unix_path::{self, BoundListener};
use crate::{
    Child, Confinement, Environment, Failure, Identity, Job, PoolKind, Signal, Spawners, socketpair,
};

/// A long-running program.
#[derive(Clone, Debug)]
pub struct ServiceCommand {
    /// The program and its arguments.
    pub argv: Vec<OsString>,
    /// The whole environment.
    pub env: Vec<(OsString, OsString)>,
    /// The working directory; without one, the server's.
    pub dir: Option<PathBuf>,
    /// The user to run as; without one, the server's.
    pub identity: Option<Identity>,
    /// What it may not do and how much it may use.
    pub confinement: Confinement,
}

/// A program that is kept running and has a listening Unix socket as descriptor 0.
///
/// The socket belongs to the server and stays when the program ends: who connects meanwhile waits
/// for the next one. A program that ends is restarted, with growing delays if it does not live
/// long. What it writes to standard output and standard error goes to the log, line by line.
///
/// A handle; clones are the same service. It ends with the last one or with
/// [`shutdown`](Self::shutdown).
#[derive(Clone, Debug)]
pub struct Service {
    front: Arc<Front>,
}

impl Service {
    /// Binds the socket, with mode 0600, and starts the program.
    ///
    /// A socket of the own user that is left at the path is replaced. What a request of a fork
    /// server leaves behind ends with its child, what one of a worker leaves behind with the worker.
    ///
    /// # Errors
    ///
    /// [`Failure::CannotStart`] if the socket cannot be bound or the program cannot be started the
    /// first time; later it is tried again and again.
    pub async fn start(
        spawners: &Spawners,
        command: ServiceCommand,
        kind: PoolKind,
        socket_path: &Path,
    ) -> Result<Self, Failure> {
        let listener = BoundListener::bind(socket_path)
            .map_err(|error| Failure::cannot_start(socket_path.display().to_string(), &error))?;
        let shared = Arc::new(Shared {
            listener,
            closing: watch::Sender::new(false),
            condemned: watch::Sender::new(0),
            is_abandoned: AtomicBool::new(false),
            state: watch::Sender::new(State::default()),
        });
        let service = Self {
            front: Arc::new(Front {
                shared: Arc::clone(&shared),
            }),
        };
        let mut state = shared.state.subscribe();
        tokio::spawn(supervise(shared, spawners.clone(), command, kind));
        let started = state.wait_for(|state| state.phase != Phase::Starting).await;
        match started.map(|state| state.phase.clone()) {
            Ok(Phase::Running { .. }) => Ok(service),
            Ok(Phase::Down(failure)) => Err(failure),
            Ok(Phase::Starting | Phase::Ended) | Err(_) => Err(Failure::Cancelled),
        }
    }

    /// The process id of the program; `None` while it does not run.
    #[must_use]
    pub fn pid(&self) -> Option<i32> {
        match self.front.shared.state.borrow().phase {
            Phase::Running { pid } => Some(pid),
            _ => None,
        }
    }

    /// How often it was restarted.
    #[must_use]
    pub fn restarts(&self) -> u64 {
        self.front.shared.state.borrow().restarts
    }

    /// How often the program has ended by itself so far, rather than because it was
    /// [condemned](Self::condemn).
    pub(crate) fn ends(&self) -> u64 {
        self.front.shared.state.borrow().ends
    }

    /// Whether the program has accepted whoever has connected.
    pub(crate) fn has_accepted_all(&self) -> bool {
        !self.front.shared.listener.has_waiting()
    }

    /// Where it is asked.
    #[must_use]
    pub fn socket_path(&self) -> &Path {
        self.front.shared.listener.path()
    }

    /// Connects to the program. If it does not run at the moment, the connection waits to be
    /// accepted by the next one.
    ///
    /// # Errors
    ///
    /// [`Failure::CannotStart`] if the last attempt to start it failed, or if the system refuses
    /// the connection; [`Failure::Cancelled`] after [`shutdown`](Self::shutdown).
    ///
    /// # Cancel safety
    ///
    /// May be dropped at any time.
    pub async fn connect(&self) -> Result<UnixStream, Failure> {
        self.check()?;
        let path = self.socket_path();
        loop {
            match unix_path::connect(path).await {
                Ok(stream) => return Ok(stream),
                // As many wait already as the kernel lets wait.
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    tokio::time::sleep(FULL_BACKLOG_DELAY).await;
                }
                Err(error) => {
                    return Err(Failure::cannot_start(path.display().to_string(), &error));
                }
            }
        }
    }

    /// Connects without waiting, so that the program has accepted before there is a request; `None`
    /// if that is not possible now.
    pub(crate) fn connect_ahead(&self) -> Option<Ahead> {
        self.check().ok()?;
        let life = self.running_life();
        let stream = unix_path::connect_at_once(self.socket_path()).ok()?;
        Some(Ahead { stream, life })
    }

    /// Whether a connection is still of use: the program that has accepted it, or will, is there,
    /// and has sent nothing and not hung up.
    pub(crate) fn has_open(&self, ahead: &Ahead) -> bool {
        // A child of a program that has ended may hold it open for a moment.
        let is_of_now = ahead.life.is_none() || ahead.life == self.running_life();
        is_of_now && ahead.is_open()
    }

    fn running_life(&self) -> Option<u64> {
        let state = self.front.shared.state.borrow();
        matches!(state.phase, Phase::Running { .. }).then_some(state.life)
    }

    /// Says so if nobody can be asked, nor will be soon.
    fn check(&self) -> Result<(), Failure> {
        match &self.front.shared.state.borrow().phase {
            Phase::Down(failure @ Failure::CannotStart { .. }) => Err(failure.clone()),
            Phase::Ended => Err(Failure::Cancelled),
            Phase::Starting | Phase::Running { .. } | Phase::Down(_) => Ok(()),
        }
    }

    /// Ends the program, with `SIGTERM` first, and waits until it has ended.
    ///
    /// # Cancel safety
    ///
    /// The end is under way once the future has been polled; dropping it only stops the waiting.
    pub async fn shutdown(&self) {
        let shared = &self.front.shared;
        shared.closing.send_replace(true);
        let _ = shared
            .state
            .subscribe()
            .wait_for(|state| state.phase == Phase::Ended)
            .await;
    }

    /// Kills the program at once, with whatever it is doing, and waits until it runs again.
    ///
    /// # Errors
    ///
    /// [`Failure::CannotStart`] if it cannot be started again; that is tried further.
    /// [`Failure::Cancelled`] after [`shutdown`](Self::shutdown).
    ///
    /// # Cancel safety
    ///
    /// The kill is under way once the future has been polled.
    pub async fn renew(&self) -> Result<(), Failure> {
        self.runs_after(self.condemn()).await
    }

    /// Has the program killed at once, with whatever it is doing, and started again; tells which
    /// life of it that is.
    pub(crate) fn condemn(&self) -> u64 {
        self.condemn_life(|state| state.life)
    }

    /// The same, and whoever has connected by the next start is turned away: a program that had not
    /// accepted the request which nobody waits for would leave it to its successor.
    pub(crate) fn condemn_with_waiting(&self) -> u64 {
        let is_abandoned = &self.front.shared.is_abandoned;
        is_abandoned.store(true, Ordering::Release);
        // What is about to begin may have the socket already, so it ends as well.
        self.condemn_life(|state| match state.phase {
            Phase::Running { .. } => state.life,
            _ => state.life + 1,
        })
    }

    fn condemn_life(&self, which: impl FnOnce(&State) -> u64) -> u64 {
        let shared = &self.front.shared;
        let life = which(&shared.state.borrow());
        shared.condemned.send_if_modified(|condemned| {
            let is_news = *condemned < life;
            *condemned = life.max(*condemned);
            is_news
        });
        life
    }

    /// Waits until the program runs again after that life of it.
    ///
    /// # Errors
    ///
    /// As from [`renew`](Self::renew).
    pub(crate) async fn runs_after(&self, life: u64) -> Result<(), Failure> {
        let mut state = self.front.shared.state.subscribe();
        let renewed = state.wait_for(|state| match &state.phase {
            Phase::Running { .. } => state.life > life,
            Phase::Down(failure) => matches!(failure, Failure::CannotStart { .. }),
            Phase::Ended => true,
            Phase::Starting => false,
        });
        match renewed.await.map(|state| state.phase.clone()) {
            Ok(Phase::Running { .. }) => Ok(()),
            Ok(Phase::Down(failure)) => Err(failure),
            Ok(Phase::Starting | Phase::Ended) | Err(_) => Err(Failure::Cancelled),
        }
    }

    /// Waits whether this life of the program ends, too; tells whether it does.
    async fn ends_too(&self, life: u64) -> bool {
        let mut state = self.front.shared.state.subscribe();
        let is_over =
            |state: &State| state.life != life || !matches!(state.phase, Phase::Running { .. });
        tokio::time::timeout(LINGER, state.wait_for(is_over))
            .await
            .is_ok()
    }
}

/// Asks a service one request and returns its answer, CGI headers included.
///
/// The answer must have a `Content-Length`: without one, an answer that was cut off when its
/// process crashed could not be told from a whole one.
///
/// # Errors
///
/// - [`Failure::TimedOut`] after `timeout`. The connection is closed then, on which a fork server
///   kills the child.
/// - [`Failure::OutputTooLong`] if the body exceeds `max_output`.
/// - [`Failure::BadAnswer`] if the answer is cut off or malformed.
/// - [`Failure::Lost`] if the program ended with the request in its hands.
/// - [`Failure::CannotStart`] and [`Failure::Cancelled`] as from [`Service::connect`].
///
/// # Cancel safety
///
/// Dropping the future closes the connection.
pub async fn scgi_call(
    service: &Service,
    env: &Environment,
    payload: &Bytes,
    timeout: Duration,
    max_output: usize,
) -> Result<Vec<u8>, Failure> {
    let call = call_over(service, None, env, payload, max_output);
    let answered = tokio::time::timeout(timeout, call).await;
    answered.unwrap_or(Err(Failure::TimedOut))
}

/// A connection that was made before there was a request. It belongs to no runtime yet.
#[derive(Debug)]
pub(crate) struct Ahead {
    stream: std::os::unix::net::UnixStream,
    /// Of the program that ran then; `None` if the next one accepts it.
    life: Option<u64>,
}

impl Ahead {
    fn is_open(&self) -> bool {
        let flags = RecvFlags::PEEK | RecvFlags::DONTWAIT;
        let peeked = rustix::net::recv(&self.stream, &mut [0; 1][..], flags);
        peeked.is_err_and(|error| error == Errno::AGAIN)
    }
}

/// Asks as [`scgi_call`] does, but for as long as it takes, and over a connection that is there
/// already if there is one.
pub(crate) async fn call_over(
    service: &Service,
    ahead: Option<&Ahead>,
    env: &Environment,
    payload: &Bytes,
    max_output: usize,
) -> Result<Vec<u8>, Failure> {
    let life = service.front.shared.state.borrow().life;
    match call(service, ahead, env, payload, max_output).await {
        Err(Failure::BadAnswer(cut_off)) if is_cut_off(&cut_off) => {
            if service.ends_too(life).await {
                Err(Failure::Lost)
            } else {
                Err(Failure::BadAnswer(cut_off))
            }
        }
        answer => answer,
    }
}

/// How long after a connection the program itself may be seen to end.
const LINGER: Duration = Duration::from_millis(100);

/// How long the program may go on after `SIGTERM`.
const TERM_GRACE: Duration = Duration::from_secs(2);

/// When to try again if too many connections wait.
const FULL_BACKLOG_DELAY: Duration = Duration::from_millis(5);

async fn call(
    service: &Service,
    ahead: Option<&Ahead>,
    env: &Environment,
    payload: &Bytes,
    max_output: usize,
) -> Result<Vec<u8>, Failure> {
    service.check()?;
    if let Some(Ahead { stream, .. }) = ahead {
        let length = Length::Required;
        return scgi::exchange_at_once(stream, env, payload, max_output, length).await;
    }
    let mut stream = service.connect().await?;
    scgi::exchange(&mut stream, env, payload, max_output, Length::Required).await
}

/// Whether the connection ended too early, rather than that something wrong was written.
fn is_cut_off(error: &CgiError) -> bool {
    matches!(
        error,
        CgiError::Empty | CgiError::HeadUnfinished | CgiError::BodyTooShort { .. }
    )
}

/// Ends the service with the last handle.
#[derive(Debug)]
struct Front {
    shared: Arc<Shared>,
}

impl Drop for Front {
    fn drop(&mut self) {
        self.shared.closing.send_replace(true);
    }
}

/// What the handles and the supervising task have in common.
#[derive(Debug)]
struct Shared {
    listener: BoundListener,
    closing: watch::Sender<bool>,
    /// The life that is to end at once, and all before it.
    condemned: watch::Sender<u64>,
    /// Whether nobody waits any more behind the connections that the next life would accept.
    is_abandoned: AtomicBool,
    state: watch::Sender<State>,
}

#[derive(Clone, Debug, Default)]
struct State {
    phase: Phase,
    /// Grows by one with each start.
    life: u64,
    /// Of these, how many have ended by themselves.
    ends: u64,
    restarts: u64,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
enum Phase {
    #[default]
    Starting,
    Running {
        pid: i32,
    },
    /// It ended or could not be started, and will be.
    Down(Failure),
    /// It will not be started again.
    Ended,
}

/// Keeps the program running until the service is closed.
async fn supervise(
    shared: Arc<Shared>,
    spawners: Spawners,
    command: ServiceCommand,
    kind: PoolKind,
) {
    let mut closing = shared.closing.subscribe();
    let mut backoff = Backoff::new(BackoffConfig::default());
    loop {
        let program = command.argv.first();
        let (failure, delay) = match live(&shared, &spawners, &command, kind, &mut backoff).await {
            End::Closed => break,
            // Whoever asked for it has said why.
            End::Condemned => {
                let delay = backoff.retired(Instant::now());
                (Failure::Signaled(nix::libc::SIGKILL), delay)
            }
            End::Failed(failure @ Failure::Exited(0)) => {
                let delay = backoff.retired(Instant::now());
                tracing::info!(?delay, ?program, "service ended");
                (failure, delay)
            }
            End::Failed(failure) => {
                let delay = backoff.ended(Instant::now());
                tracing::warn!(cause = %failure, ?delay, ?program, "service failed");
                (failure, delay)
            }
        };
        shared
            .state
            .send_modify(|state| state.phase = Phase::Down(failure));
        tokio::select! {
            () = tokio::time::sleep(delay) => {}
            () = closed(&mut closing) => break,
        }
        shared.state.send_modify(|state| state.restarts += 1);
    }
    shared.state.send_modify(|state| state.phase = Phase::Ended);
}

/// How a life of the program ended.
enum End {
    /// With the service.
    Closed,
    /// By [`Service::renew`].
    Condemned,
    /// By itself, or it could not begin.
    Failed(Failure),
}

/// One life of the program.
async fn live(
    shared: &Shared,
    spawners: &Spawners,
    command: &ServiceCommand,
    kind: PoolKind,
    backoff: &mut Backoff,
) -> End {
    let mut closing = shared.closing.subscribe();
    if shared.is_abandoned.swap(false, Ordering::Acquire)
        && let Err(error) = shared.listener.turn_away()
    {
        return End::Failed(Failure::cannot_start("service", &error));
    }
    let job = match job(shared, command) {
        Ok(job) => job,
        Err(error) => return End::Failed(Failure::cannot_start("service", &error)),
    };
    let (job, log) = job;
    let kind = match kind {
        PoolKind::ForkServers => Kind::ForkServer,
        PoolKind::Workers => Kind::Run,
    };
    let mut child = tokio::select! {
        child = spawners.spawn_as(kind, job) => match child {
            Ok(child) => child,
            Err(failure) => return End::Failed(failure),
        },
        () = closed(&mut closing) => return End::Closed,
    };
    let pid = child.pid();
    // Ends by itself when the last process that can write to it has.
    tokio::spawn(log_lines(log, pid));
    backoff.started(Instant::now());
    let mut condemned = shared.condemned.subscribe();
    let mut life = 0;
    shared.state.send_modify(|state| {
        state.phase = Phase::Running { pid };
        state.life += 1;
        life = state.life;
    });
    tokio::select! {
        ended = child.wait() => {
            // Whoever hangs up on it may be the end of it before it is killed for that.
            if *shared.condemned.borrow() >= life {
                return End::Condemned;
            }
            shared.state.send_modify(|state| state.ends += 1);
            End::Failed(match ended {
                Ok(status) => failure_of(status),
                Err(failure) => failure,
            })
        }
        () = closed(&mut closing) => {
            terminate(child).await;
            End::Closed
        }
        () = reached(&mut condemned, life) => {
            // Both would accept on one socket if the next one began before this one has ended.
            child.signal_group(Signal::Kill);
            let _ = child.wait().await;
            End::Condemned
        }
    }
}

async fn closed(closing: &mut watch::Receiver<bool>) {
    // The sender outlives the task that waits.
    let _ = closing.wait_for(|&closing| closing).await;
}

async fn reached(condemned: &mut watch::Receiver<u64>, life: u64) {
    // The sender outlives the task that waits.
    let _ = condemned.wait_for(|condemned| *condemned >= life).await;
}

async fn terminate(mut child: Child) {
    child.signal_group(Signal::Terminate);
    // If it does not end, the drop kills it.
    let _ = tokio::time::timeout(TERM_GRACE, child.wait()).await;
}

fn job(shared: &Shared, command: &ServiceCommand) -> io::Result<(Job, pipe::Receiver)> {
    let (log, stderr): (OwnedFd, OwnedFd) = socketpair::pipe()?;
    let ServiceCommand {
        argv,
        env,
        dir,
        identity,
        confinement,
    } = command.clone();
    let job = Job {
        argv,
        env,
        dir,
        identity,
        confinement,
        stdin: shared.listener.try_clone()?,
        stdout: stderr.try_clone()?,
        stderr,
    };
    Ok((job, pipe::Receiver::from_owned_fd(log)?))
}

fn failure_of(status: std::process::ExitStatus) -> Failure {
    match status.code() {
        Some(code) => Failure::Exited(code),
        None => {
            let signal = std::os::unix::process::ExitStatusExt::signal(&status);
            Failure::Signaled(signal.unwrap_or(0))
        }
    }
}

async fn log_lines(mut log: pipe::Receiver, pid: i32) {
    let mut lines = Lines::new(usize::MAX);
    let mut each = |line: &str| tracing::warn!(worker.pid = pid, line, "service output");
    let mut buffer = [0; 4 * 1024];
    while let Ok(len @ 1..) = log.read(&mut buffer).await {
        lines.feed(&buffer[..len], &mut each);
    }
    lines.finish(&mut each);
}

//! Long-running programs that are asked over a Unix socket: fork servers and workers.

mod call;
mod life;

use std::ffi::OsString;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use tokio::net::UnixStream;
use tokio::sync::watch;

pub use call::scgi_call;
pub(crate) use call::{Ahead, call_over};

use crate::unix_path::{self, BoundListener};
use crate::{Confinement, Failure, Identity, PoolKind, Spawners};

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
        tokio::spawn(life::supervise(shared, spawners.clone(), command, kind));
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

/// How long after a connection the program itself may be seen to end.
const LINGER: Duration = Duration::from_millis(100);

/// When to try again if too many connections wait.
const FULL_BACKLOG_DELAY: Duration = Duration::from_millis(5);

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

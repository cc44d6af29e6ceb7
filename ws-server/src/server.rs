//! From a configuration to a running server, and to its end.

use std::ffi::OsString;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use nix::sys::resource::{Resource, getrlimit, setrlimit};
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::{Semaphore, mpsc, watch};
use tokio::time::{interval_at, timeout};
use tracing::{error, info, warn};
use ws_ipc::{
    FifoDirectory, FifoOptions, HelperCommand, Identity as ProcessIdentity, Service,
    ServiceCommand, Spawners, SpawnersConfig,
};
use ws_session::{SessionConfig, Sessions};
use ws_transport::{AcceptFailure, BindOptions, ListenAddr, Listener};

use crate::application::{Application, Backend, Callback, Command, Output, Validation};
use crate::config::{
    AppBackend, Config, ExecConfig, Output as OutputConfig, Trim, ValidateBackend,
};
use crate::core::answer::Trimming;
use crate::doors::{self, FifoWatch, GLOBAL_FIFO};
use crate::error::ServeError;
use crate::hub::Hub;
use crate::page::Page;
use crate::shared::Shared;
use crate::{demo, shard, status};

/// First arguments by which this program is started again as a helper; see [`helper_main`].
pub const HELPERS: [&str; 2] = [SPAWNER, FORK_SERVER];

const SPAWNER: &str = "__spawner";
const FORK_SERVER: &str = "__forkserver";

const STATE_DIR_MODE: u32 = 0o750;
/// Between two attempts to accept when descriptors have run out.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
/// How long workers and helpers may take to end when told to end at once.
const STOP_TIMEOUT: Duration = Duration::from_secs(3);

/// The program that is started again as a helper: normally this very one.
#[derive(Clone, Debug)]
pub struct HelperProgram(PathBuf);

impl HelperProgram {
    /// The program at `path`; it calls [`helper_main`].
    pub fn new(path: impl Into<PathBuf>) -> Self {
        Self(path.into())
    }

    /// The running program, also after its file was replaced by an upgrade.
    pub fn current() -> Self {
        Self(PathBuf::from("/proc/self/exe"))
    }
}

/// Runs a helper, to be called with the first argument of the program if it is one of [`HELPERS`],
/// before a thread or a runtime exists.
///
/// # Errors
///
/// If descriptor 0 is not what a helper gets, or the system refuses.
pub fn helper_main(name: &str) -> io::Result<()> {
    match name {
        SPAWNER => ws_ipc::spawner::main(),
        FORK_SERVER => ws_ipc::forkserver::run(demo::answer),
        _ => Err(io::Error::new(
            io::ErrorKind::InvalidInput,
            format!("{name} is no helper"),
        )),
    }
}

/// Serves until SIGTERM or SIGINT; a second one ends at once.
///
/// When everything is bound and the backends are up, `announce` is called with the URL of each
/// listener. The call blocks and builds its own threads and runtimes.
///
/// # Errors
///
/// [`ServeError`] if the server cannot start.
pub fn run(
    config: Config,
    helper: HelperProgram,
    announce: impl FnMut(&str),
) -> Result<(), ServeError> {
    check_user(&config)?;
    make_state_dir(&config.server().state_dir)?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build();
    runtime
        .map_err(ServeError::System)?
        .block_on(serve(config, helper, announce))
}

fn check_user(config: &Config) -> Result<(), ServeError> {
    let runs_commands = match &config.app().backend {
        AppBackend::Exec(exec) => exec.account.is_none(),
        AppBackend::Demo | AppBackend::Echo => false,
    };
    if !runs_commands || !nix::unistd::geteuid().is_root() {
        return Ok(());
    }
    if config.app().require_user {
        return Err(ServeError::RequireUser);
    }
    warn!("the application runs as root; name a user with app.user");
    Ok(())
}

fn make_state_dir(path: &Path) -> Result<(), ServeError> {
    use std::os::unix::fs::DirBuilderExt;
    std::fs::DirBuilder::new()
        .recursive(true)
        .mode(STATE_DIR_MODE)
        .create(path)
        .map_err(|source| ServeError::StateDir {
            path: path.to_owned(),
            source,
        })
}

async fn serve(
    config: Config,
    helper: HelperProgram,
    mut announce: impl FnMut(&str),
) -> Result<(), ServeError> {
    let mut signals = Signals::new().map_err(ServeError::System)?;
    let listeners = bind(&config)?;
    let fifos = open_fifos(&config)?;
    let control = bind_control(&config)?;
    let helpers = Helpers::start(&config, &helper).await?;
    raise_descriptor_limit();

    let (senders, receivers): (Vec<_>, Vec<_>) = (0..worker_count(&config))
        .map(|_| mpsc::unbounded_channel())
        .unzip();
    let ready = Arc::new(AtomicBool::new(false));
    let (draining, is_draining) = watch::channel(false);
    let server = Arc::new(share(
        config,
        senders.into_boxed_slice(),
        fifos,
        &helpers,
        is_draining,
    )?);
    let mut workers = Workers::start(&server, receivers)?;

    let global_fifo = match &server.fifos {
        Some(fifos) => Some(fifos.create(GLOBAL_FIFO)?),
        None => None,
    };
    let global_fifo =
        global_fifo.map(|fifo| tokio::spawn(doors::serve_global(Arc::clone(&server), fifo)));
    let watcher = Arc::clone(&server);
    let watcher = tokio::spawn(async move {
        if let Some(fifos) = &watcher.fifos {
            watcher.fifo_watch.run(fifos).await;
        }
    });
    let control = tokio::spawn(doors::serve_control(
        control,
        Arc::clone(&server),
        Arc::clone(&ready),
    ));
    let urls: Vec<String> = listeners.iter().map(Listener::url).collect();
    let acceptors: Vec<_> = listeners
        .into_iter()
        .map(|listener| tokio::spawn(accept(Arc::clone(&server), listener)))
        .collect();
    ready.store(true, Ordering::Relaxed);
    for url in &urls {
        info!(listen.addr = url, "listening");
        announce(url);
    }

    signals.until_stop(&server).await;
    ready.store(false, Ordering::Relaxed);
    info!(connections = server.hub.registry().count(), "drain begun");
    for acceptor in acceptors {
        acceptor.abort();
        // Its listener is closed when the task is gone.
        let _ = acceptor.await;
    }
    // Whoever reads a FIFO ends when the records already read are on their way.
    let _ = draining.send(true);
    if let Some(global_fifo) = global_fifo {
        let _ = global_fifo.await;
    }
    server.hub.command_all(|| shard::Command::Drain);
    let is_drained = tokio::select! {
        drained = timeout(server.config.limits().drain_timeout, workers.ended()) => drained.is_ok(),
        () = signals.stop_again() => false,
    };
    if !is_drained {
        warn!(
            connections = server.hub.registry().count(),
            "drain cut short"
        );
        server.hub.command_all(|| shard::Command::Stop);
        let _ = timeout(STOP_TIMEOUT, workers.ended()).await;
    }
    for task in [control, watcher] {
        task.abort();
        let _ = task.await;
    }
    log_counters(&server);
    drop(server);
    helpers.shutdown().await;
    info!("drain ended");
    Ok(())
}

fn bind(config: &Config) -> Result<Vec<Listener>, ServeError> {
    let options = BindOptions {
        auto_port: config.server().auto_port,
        ..BindOptions::default()
    };
    let listeners = config
        .server()
        .listen
        .iter()
        .map(|addr| Listener::bind(addr, &options));
    Ok(listeners.collect::<Result<_, _>>()?)
}

fn open_fifos(config: &Config) -> Result<Option<FifoDirectory>, ServeError> {
    let fifo = config.fifo();
    if !fifo.enabled {
        return Ok(None);
    }
    let options = FifoOptions {
        fifo_mode: fifo.mode,
        group: fifo.group,
        ..FifoOptions::default()
    };
    Ok(Some(FifoDirectory::open(&fifo.dir, options)?))
}

fn bind_control(config: &Config) -> Result<Listener, ServeError> {
    let control = config.control();
    let options = BindOptions {
        unix_mode: Some(control.mode),
        unix_group: control.group,
        ..BindOptions::default()
    };
    Ok(Listener::bind(
        &ListenAddr::Unix(config.control_socket()),
        &options,
    )?)
}

/// The processes beside the server.
#[derive(Debug)]
struct Helpers {
    /// `None` if nothing is ever started: the echo without validation.
    spawners: Option<Spawners>,
    fork_server: Option<Service>,
}

impl Helpers {
    async fn start(config: &Config, helper: &HelperProgram) -> Result<Self, ServeError> {
        let is_echo = matches!(config.app().backend, AppBackend::Echo);
        if is_echo && matches!(config.validate().backend, ValidateBackend::None) {
            return Ok(Self {
                spawners: None,
                fork_server: None,
            });
        }
        let command = HelperCommand {
            program: helper.0.clone(),
            args: vec![SPAWNER.into()],
        };
        let spawners =
            Spawners::start(command, SpawnersConfig::default()).map_err(ServeError::Helpers)?;
        let fork_server = match config.app().backend {
            AppBackend::Demo => {
                let command = ServiceCommand {
                    argv: vec![helper.0.clone().into(), FORK_SERVER.into()],
                    env: Vec::new(),
                    dir: None,
                    identity: None,
                };
                let path = config.server().state_dir.join("demo.sock");
                let service = Service::start(&spawners, command, &path);
                Some(
                    service
                        .await
                        .map_err(|failure| ServeError::Helpers(io::Error::other(failure)))?,
                )
            }
            AppBackend::Exec(_) | AppBackend::Echo => None,
        };
        Ok(Self {
            spawners: Some(spawners),
            fork_server,
        })
    }

    async fn shutdown(self) {
        let ended = async {
            if let Some(service) = self.fork_server {
                service.shutdown().await;
            }
            if let Some(spawners) = self.spawners {
                spawners.shutdown().await;
            }
        };
        if timeout(STOP_TIMEOUT, ended).await.is_err() {
            error!("the helper processes did not end");
        }
    }
}

fn share(
    config: Config,
    shards: Box<[mpsc::UnboundedSender<shard::Command>]>,
    fifos: Option<FifoDirectory>,
    helpers: &Helpers,
    draining: watch::Receiver<bool>,
) -> Result<Shared, ServeError> {
    let limits = config.limits();
    let protocol = ws_proto::Config::default()
        .with_max_message_size(limits.max_message_size)
        .with_message_timeout(limits.message_timeout)
        .with_ping_interval(limits.ping_interval)
        .with_pong_timeout(limits.pong_timeout)
        .with_close_timeout(limits.close_timeout);
    let identity = config.identity();
    let sessions = Sessions::new(SessionConfig {
        ttl: identity.ttl,
        verify_ip: identity.verify_ip,
        max_sessions: identity.max_sessions.get(),
    });
    let mut seed = [0; 8];
    getrandom::fill(&mut seed).map_err(|error| ServeError::System(io::Error::other(error)))?;
    let page = config
        .serves_console()
        .then(|| Page::new(backend_name(&config)));
    Ok(Shared {
        protocol: Arc::new(protocol),
        hub: Hub::new(shards, sessions, u64::from_ne_bytes(seed)),
        application: application(&config, helpers),
        validation: validation(&config, helpers),
        fifos,
        fifo_watch: Arc::new(FifoWatch::default()),
        control_socket: config.control_socket(),
        page,
        draining,
        config,
    })
}

fn backend_name(config: &Config) -> &'static str {
    match config.app().backend {
        AppBackend::Demo => "demo",
        AppBackend::Echo => "echo",
        AppBackend::Exec(_) => "exec",
    }
}

fn application(config: &Config, helpers: &Helpers) -> Option<Application> {
    let app = config.app();
    let (backend, output, env) = match &app.backend {
        AppBackend::Echo => return None,
        AppBackend::Demo => (
            Backend::ForkServer(helpers.fork_server.clone()?),
            Output::Cgi,
            Vec::new(),
        ),
        AppBackend::Exec(exec) => exec_backend(exec),
    };
    Some(Application {
        callback: Callback {
            backend,
            output,
            timeout: app.timeout,
            max_output: app.max_output,
            concurrency: Semaphore::new(app.concurrency.get()),
            env,
            spawners: helpers.spawners.clone()?,
        },
        trimming: match app.trim {
            Trim::Newlines => Trimming::Newlines,
            Trim::All => Trimming::WhiteSpace,
            Trim::None => Trimming::None,
        },
        empty_reply: app.empty_reply.clone().map(Into::into),
        error_reply: app.error_reply.clone().map(Into::into),
    })
}

fn validation(config: &Config, helpers: &Helpers) -> Option<Validation> {
    /// Room for the longest user id, or for the headers of an answer of CGI.
    const MAX_OUTPUT: usize = 16 * 1024;
    let validate = config.validate();
    let ValidateBackend::Exec(exec) = &validate.backend else {
        return None;
    };
    let (backend, output, env) = exec_backend(exec);
    Some(Validation {
        callback: Callback {
            backend,
            output,
            timeout: validate.timeout,
            max_output: MAX_OUTPUT,
            concurrency: Semaphore::new(validate.concurrency.get()),
            env,
            spawners: helpers.spawners.clone()?,
        },
    })
}

fn exec_backend(exec: &ExecConfig) -> (Backend, Output, Vec<(String, String)>) {
    let command = Command {
        argv: exec.command.iter().map(OsString::from).collect(),
        identity: exec.account.map(|account| ProcessIdentity {
            uid: account.uid(),
            gid: account.gid(),
        }),
    };
    let output = match exec.output {
        OutputConfig::Plain => Output::Plain,
        OutputConfig::Cgi => Output::Cgi,
    };
    let env = exec
        .env
        .iter()
        .map(|(name, value)| (name.clone(), value.clone()))
        .collect();
    (Backend::Exec(command), output, env)
}

/// One thread for each core, unless the configuration says otherwise.
fn worker_count(config: &Config) -> usize {
    let cores = || std::thread::available_parallelism().map_or(1, usize::from);
    config.server().threads.map_or_else(cores, usize::from)
}

/// As many descriptors as the system allows: each connection takes one, with a FIFO two. Children
/// keep the former limit, which the spawners were started with.
fn raise_descriptor_limit() {
    let raised = getrlimit(Resource::RLIMIT_NOFILE)
        .and_then(|(_, hard)| setrlimit(Resource::RLIMIT_NOFILE, hard, hard));
    if let Err(error) = raised {
        warn!(%error, "cannot raise the limit of open files");
    }
}

/// Accepts sockets and deals them out to the workers.
async fn accept(server: Arc<Shared>, listener: Listener) {
    let mut turn = 0;
    loop {
        match listener.accept().await {
            Ok(socket) => {
                server.hub.counters.sockets_accepted.increment();
                let command = shard::Command::Adopt {
                    socket,
                    accepted_at: Instant::now(),
                };
                if server
                    .hub
                    .command(turn % server.hub.shard_count(), command)
                    .is_err()
                {
                    return;
                }
                turn += 1;
            }
            Err(failure) => match AcceptFailure::of(&failure) {
                AcceptFailure::Passing => {}
                AcceptFailure::Exhausted => {
                    warn!(listen.addr = listener.url(), error = %failure, "cannot accept");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
                AcceptFailure::Broken => {
                    error!(listen.addr = listener.url(), error = %failure, "the listener is broken");
                    return;
                }
            },
        }
    }
}

/// The worker threads.
#[derive(Debug)]
struct Workers {
    threads: Vec<JoinHandle<()>>,
    /// Closed when the last thread has ended.
    alive: mpsc::Receiver<()>,
}

impl Workers {
    fn start(
        server: &Arc<Shared>,
        receivers: Vec<mpsc::UnboundedReceiver<shard::Command>>,
    ) -> Result<Self, ServeError> {
        let (guard, alive) = mpsc::channel(1);
        let threads = receivers.into_iter().enumerate().map(|(index, commands)| {
            shard::start(index, Arc::clone(server), commands, guard.clone())
        });
        let threads = threads
            .collect::<io::Result<_>>()
            .map_err(ServeError::System)?;
        Ok(Self { threads, alive })
    }

    /// Resolves when every worker has ended.
    async fn ended(&mut self) {
        while self.alive.recv().await.is_some() {}
        for thread in self.threads.drain(..) {
            if thread.join().is_err() {
                error!("a worker thread panicked");
            }
        }
    }
}

/// The signals that the server knows.
#[derive(Debug)]
struct Signals {
    terminate: Signal,
    interrupt: Signal,
    hangup: Signal,
    user1: Signal,
}

impl Signals {
    fn new() -> io::Result<Self> {
        Ok(Self {
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
            hangup: signal(SignalKind::hangup())?,
            user1: signal(SignalKind::user_defined1())?,
        })
    }

    /// Serves the other signals, and logs the counters, until the server is to stop.
    async fn until_stop(&mut self, server: &Shared) {
        let period = server.config.log().stats_interval;
        let mut ticks =
            period.map(|period| interval_at(tokio::time::Instant::now() + period, period));
        loop {
            let tick = async {
                match &mut ticks {
                    Some(ticks) => ticks.tick().await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                _ = self.terminate.recv() => return info!(signal = "TERM", "stopping"),
                _ = self.interrupt.recv() => return info!(signal = "INT", "stopping"),
                _ = self.hangup.recv() => {
                    info!(signal = "HUP", "the configuration is read at the start only; restart to apply changes");
                }
                _ = self.user1.recv() => {
                    let status = serde_json::Value::Object(status::status(server));
                    info!(signal = "USR1", %status, "state");
                }
                _ = tick => {
                    log_counters(server);
                    server.hub.sessions().expire(Instant::now());
                }
            }
        }
    }

    async fn stop_again(&mut self) {
        tokio::select! {
            _ = self.terminate.recv() => {}
            _ = self.interrupt.recv() => {}
        }
    }
}

/// The periodic line.
fn log_counters(server: &Shared) {
    let counters = &server.hub.counters;
    let (connections, users) = {
        let registry = server.hub.registry();
        (registry.count(), registry.user_count())
    };
    info!(
        connections,
        users,
        opened = counters.connections_opened.get(),
        closed = counters.connections_closed(),
        messages = counters.messages_received.get(),
        callbacks.started = counters.callbacks_started.get(),
        callbacks.finished = counters.callbacks_finished.get(),
        callbacks.failed = counters.callbacks_failed(),
        pushes = counters.pushes.get(),
        records.refused = counters.records_refused(),
        memory = status::resident_memory(),
        "counters"
    );
}

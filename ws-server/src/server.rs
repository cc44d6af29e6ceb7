//! From a configuration to a running server, and to its end.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use nix::sys::resource::{Resource, getrlimit, setrlimit};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;
use tracing::{info, warn};
use ws_ipc::{FifoDirectory, FifoOptions};
use ws_transport::{BindOptions, Inherited, ListenAddr, ListenSocket, Listener, TlsAcceptor};

use crate::assembly::share;
use crate::bridge;
use crate::certificates;
use crate::command::Command;
use crate::config::{AppBackend, Config, FifoNaming};
use crate::doors::{self, ControlDoors, GLOBAL_FIFO};
use crate::error::ServeError;
use crate::helpers::{HelperProgram, Helpers};
use crate::identify::{self, Identifier};
use crate::log_tail::LogTail;
use crate::observer::Observer;
use crate::reconfigure::ConfigSource;
use crate::reload::Watch;
use crate::shared::Shared;
use crate::signals::{Signals, log_counters};
use crate::workers::{Workers, worker_count};
use crate::{drain, heartbeat, store, tending};

const STATE_DIR_MODE: u32 = 0o750;
/// How long a client may leave what was sent to it unacknowledged.
const USER_TIMEOUT: Duration = Duration::from_secs(20);
/// How long the last spans may take to be sent.
const SPANS_TIMEOUT: Duration = Duration::from_millis(1500);

/// The program that runs the server, as the server sees it.
#[expect(missing_debug_implementations, reason = "nothing of it can be shown")]
pub struct Host {
    /// Is told how the server does.
    pub observer: Arc<dyn Observer>,
    /// Where the configuration is read again on SIGHUP; without it only the files that the
    /// configuration names are.
    pub source: Option<Arc<dyn ConfigSource>>,
    /// What the log says, for those who ask the control API; nothing need be in it.
    pub log: LogTail,
}

/// Serves until SIGTERM or SIGINT; a second one ends at once.
///
/// The call blocks and builds its own threads and runtimes.
///
/// # Errors
///
/// [`ServeError`] if the server cannot start.
pub fn run(config: Config, helper: HelperProgram, host: Host) -> Result<(), ServeError> {
    check_user(&config)?;
    make_state_dir(&config.server().state_dir)?;
    bridge::place(&config)?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build();
    let runtime = runtime.map_err(ServeError::System)?;
    let served = runtime.block_on(serve(config, helper, host));
    // Nobody waits for a file that is still being read, from a disk that does not answer.
    runtime.shutdown_background();
    served
}

fn check_user(config: &Config) -> Result<(), ServeError> {
    let runs_commands = match &config.app().backend {
        AppBackend::Callback(backend) => backend.exec().is_some_and(|exec| exec.account.is_none()),
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

async fn serve(config: Config, helper: HelperProgram, host: Host) -> Result<(), ServeError> {
    let Host {
        observer,
        source,
        log,
    } = host;
    let mut signals = Signals::new().map_err(ServeError::System)?;
    let tls = certificates::load(&config)?;
    let listeners = bind(&config, tls.clone())?;
    // First of what is in the state directory: it tells which process has it already.
    let control = ControlDoors::bind(&config)?;
    let fifos = open_fifos(&config)?;
    let store = store::open(config.identity()).await?;
    let identifier = Identifier::open(config.identity()).await?;
    let watch = Watch::new(&config)?;
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
        store,
        identifier,
        &helpers,
        is_draining,
    )?);
    let mut workers = Workers::start(&server, receivers)?;
    let global_fifo = serve_global_fifo(&server)?;
    let mut tasks = start_tasks(&server, tls.clone(), watch);
    let control = doors::serve_control(control, Arc::clone(&server), Arc::clone(&ready), log);
    tasks.push(tokio::spawn(control));
    let urls: Vec<String> = listeners.iter().map(Listener::url).collect();
    let acceptors = deal_out(&server, listeners);
    ready.store(true, Ordering::Relaxed);
    for url in &urls {
        info!(listen.addr = url, "listening");
        observer.listening(url);
    }
    observer.ready();
    let heartbeat = heartbeat::run(Arc::clone(&server), Arc::clone(&observer));
    tasks.push(tokio::spawn(heartbeat));

    signals
        .until_stop(&server, tls.as_ref(), source.as_ref(), &*observer)
        .await;
    observer.stopping();
    ready.store(false, Ordering::Relaxed);
    info!(connections = server.hub.registry().count(), "drain begun");
    // Whoever accepts ends, and whoever reads a FIFO when the records already read are on their
    // way.
    let _ = draining.send(true);
    server.fifo_watch.tell_all();
    drain::await_intake(acceptors, global_fifo).await;
    drain::await_connections(&server, &mut workers, &mut signals).await;
    drain::await_listeners(&server).await;
    for task in tasks {
        task.abort();
        let _ = task.await;
    }
    server.hub.keeper.finish(&server.hub.counters).await;
    server.spans.finish(SPANS_TIMEOUT).await;
    log_counters(&server);
    drop(server);
    helpers.shutdown().await;
    info!("drain ended");
    Ok(())
}

fn serve_global_fifo(server: &Arc<Shared>) -> Result<Option<JoinHandle<()>>, ServeError> {
    let Some(fifos) = &server.fifos else {
        return Ok(None);
    };
    let fifo = fifos.create(GLOBAL_FIFO)?;
    let serving = doors::serve_global(Arc::clone(server), fifo);
    Ok(Some(tokio::spawn(serving)))
}

/// Starts what goes on beside the workers, until the end.
fn start_tasks(
    server: &Arc<Shared>,
    tls: Option<TlsAcceptor>,
    watch: Option<Watch>,
) -> Vec<JoinHandle<()>> {
    let watcher = Arc::clone(server);
    let mut tasks = vec![
        tokio::spawn(async move {
            if let Some(fifos) = &watcher.fifos {
                watcher.fifo_watch.run(fifos).await;
            }
        }),
        tokio::spawn(identify::watch(Arc::clone(server))),
        tokio::spawn(tending::run(Arc::clone(server))),
    ];
    let certificates = tls.map(|tls| tokio::spawn(certificates::watch(Arc::clone(server), tls)));
    let reloads = watch.map(|watch| tokio::spawn(watch.run(Arc::clone(server))));
    tasks.extend(certificates.into_iter().chain(reloads));
    tasks
}

fn bind(config: &Config, tls: Option<TlsAcceptor>) -> Result<Vec<Listener>, ServeError> {
    let addrs = &config.server().listen;
    let is_inherited = |addr: &ListenAddr| matches!(addr.socket(), ListenSocket::Systemd(_));
    let inherited = match addrs.iter().any(is_inherited) {
        true => Inherited::from_env()?,
        false => Inherited::default(),
    };
    let server = config.server();
    let options = BindOptions {
        auto_port: server.auto_port,
        unix_mode: server.unix_mode,
        unix_owner: server.unix_owner,
        unix_group: server.unix_group,
        user_timeout: Some(USER_TIMEOUT),
        tls,
        inherited,
        ..BindOptions::default()
    };
    let mut listeners = Vec::new();
    for addr in addrs {
        listeners.extend(Listener::bind_all(addr, &options)?);
    }
    Ok(listeners)
}

/// Gives each listener to one of the workers. The channel closes when none accepts any more.
fn deal_out(server: &Shared, listeners: Vec<Listener>) -> mpsc::Receiver<()> {
    let (guard, acceptors) = mpsc::channel(1);
    for (index, listener) in listeners.into_iter().enumerate() {
        let command = Command::Listen {
            listener: Box::new(listener.detach()),
            ended: guard.clone(),
        };
        let given = server
            .hub
            .command(index % server.hub.shard_count(), command);
        debug_assert!(given.is_ok(), "the workers have just been started");
    }
    acceptors
}

fn open_fifos(config: &Config) -> Result<Option<FifoDirectory>, ServeError> {
    let fifo = config.fifo();
    if !fifo.enabled {
        return Ok(None);
    }
    let options = FifoOptions {
        fifo_mode: fifo.mode,
        group: fifo.group,
        // CarbonPHP makes it 0775, so that its group could put FIFOs of its own in the place of ours.
        tighten_dir: fifo.naming == FifoNaming::CarbonPhp,
        ..FifoOptions::default()
    };
    Ok(Some(FifoDirectory::open(&fifo.dir, options)?))
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

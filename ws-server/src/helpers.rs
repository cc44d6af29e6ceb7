//! The processes beside the server, which are this same program started again.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};
use std::time::Duration;

use tokio::time::timeout;
use tracing::error;
use ws_ipc::{
    Confinement, HelperCommand, Pool, PoolConfig, PoolKind, Recycling, ServiceCommand, Spawners,
    SpawnersConfig, forkserver, shims,
};

use crate::application::process_identity;
use crate::config::{AppBackend, CallbackBackend, Config, ForkExit, PoolConfig as PoolSettings};
use crate::confinement::Confinements;
use crate::demo;
use crate::error::ServeError;
use crate::visitor::DEFAULT_PATH;
use crate::workers::worker_count;

/// First arguments by which this program is started again as a helper; see [`helper_main`].
pub const HELPERS: [&str; 2] = [SPAWNER, FORK_SERVER];

const SPAWNER: &str = "__spawner";
const FORK_SERVER: &str = "__forkserver";

/// How long the helpers may take to end when told to: longer than a spawner that hangs is waited for
/// before it is killed.
const STOP_TIMEOUT: Duration = Duration::from_secs(10);

/// How long the demo may take until it accepts.
const DEMO_LOAD_TIMEOUT: Duration = Duration::from_secs(60);

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
    // It was started as /proc/self/exe, so `ps`, `top` and the kernel's log call it "exe".
    let _ = fs::write("/proc/self/comm", name.replace("__", "ws-"));
    match name {
        SPAWNER => ws_ipc::spawner::main(),
        FORK_SERVER => forkserver::run(demo::answer),
        _ => Err(io::Error::new(
            io::ErrorKind::InvalidInput,
            format!("{name} is no helper"),
        )),
    }
}

/// How many spawners there are: one starts some 3000 programs a second, which is more than two
/// cores run of any but the smallest.
fn spawner_count(threads: usize) -> usize {
    threads.div_ceil(2).clamp(2, 8)
}

/// The processes beside the server.
#[derive(Debug, Default)]
pub(crate) struct Helpers {
    pub(crate) confinements: Confinements,
    /// `None` if nothing is ever started: the echo without validation, servers of others.
    pub(crate) spawners: Option<Spawners>,
    /// What the application and the validation keep running, each unless it is run otherwise.
    pub(crate) app: Option<Pool>,
    pub(crate) validation: Option<Pool>,
}

impl Helpers {
    pub(crate) async fn start(config: &Config, helper: &HelperProgram) -> Result<Self, ServeError> {
        let app = &config.app().backend;
        let callbacks = [app.callback(), config.validate().backend.callback()];
        let is_demo = matches!(app, AppBackend::Demo);
        let has_command = |backend: &CallbackBackend| backend.exec().is_some();
        if !is_demo && !callbacks.into_iter().flatten().any(has_command) {
            return Ok(Self::default());
        }
        let confinements = Confinements::prepare(config)?;
        let command = HelperCommand {
            program: helper.0.clone(),
            args: vec![SPAWNER.into()],
        };
        let spawners = SpawnersConfig {
            count: spawner_count(worker_count(config)),
            ..SpawnersConfig::default()
        };
        let spawners = Spawners::start(command, spawners).map_err(ServeError::Helpers)?;
        let [app, validation] = callbacks;
        Ok(Self {
            app: match is_demo {
                true => Some(start_demo(&spawners, config, helper).await?),
                false => {
                    let confinement = &confinements.app;
                    start_pool(&spawners, config, app, confinement, "app").await?
                }
            },
            validation: {
                let confinement = &confinements.validate;
                start_pool(&spawners, config, validation, confinement, "validate").await?
            },
            confinements,
            spawners: Some(spawners),
        })
    }

    pub(crate) async fn shutdown(self) {
        let ended = async {
            for pool in [self.app, self.validation].into_iter().flatten() {
                pool.shutdown().await;
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

async fn start_demo(
    spawners: &Spawners,
    config: &Config,
    helper: &HelperProgram,
) -> Result<Pool, ServeError> {
    let command = ServiceCommand {
        argv: vec![helper.0.clone().into(), FORK_SERVER.into()],
        env: forkserver::ENVIRONMENT
            .iter()
            .map(|(name, value)| (name.into(), value.into()))
            .collect(),
        dir: None,
        identity: None,
        confinement: Confinement::default(),
    };
    let pool = PoolConfig {
        command,
        processes: NonZeroUsize::MIN,
        kind: PoolKind::ForkServers,
        ahead: config.app().spare,
        recycling: Recycling::default(),
        load_timeout: DEMO_LOAD_TIMEOUT,
        // It is this very program, which serves already.
        probation: Duration::ZERO,
        dir: config.server().state_dir.clone(),
        name: "demo".to_owned(),
    };
    let started = Pool::start(spawners, pool).await;
    started.map_err(|failure| ServeError::Backend {
        section: "app",
        failure,
    })
}

/// Starts what a callback keeps running; the section's name begins those of its sockets.
async fn start_pool(
    spawners: &Spawners,
    config: &Config,
    backend: Option<&CallbackBackend>,
    confinement: &Confinement,
    section: &'static str,
) -> Result<Option<Pool>, ServeError> {
    let (kind, settings) = match backend {
        Some(CallbackBackend::Fork(settings)) => (PoolKind::ForkServers, settings),
        Some(CallbackBackend::Worker(settings)) => (PoolKind::Workers, settings),
        _ => return Ok(None),
    };
    let pool = Pool::start(
        spawners,
        PoolConfig {
            command: pool_command(settings, kind, confinement),
            processes: process_count(settings, kind),
            kind,
            ahead: match kind {
                PoolKind::ForkServers => config.app().spare,
                PoolKind::Workers => 1,
            },
            recycling: settings.recycling,
            load_timeout: settings.load_timeout,
            probation: settings.probation,
            dir: config.server().state_dir.clone(),
            name: section.to_owned(),
        },
    );
    match pool.await {
        Ok(pool) => Ok(Some(pool)),
        Err(failure) => Err(ServeError::Backend { section, failure }),
    }
}

fn pool_command(
    settings: &PoolSettings,
    kind: PoolKind,
    confinement: &Confinement,
) -> ServiceCommand {
    let exec = &settings.exec;
    let fork_exit = match settings.fork_exit {
        ForkExit::Normal => "normal",
        ForkExit::Kill => "kill",
    };
    let mut env = BTreeMap::from([("PATH", DEFAULT_PATH), ("WS_FORK_EXIT", fork_exit)]);
    if kind == PoolKind::ForkServers {
        let names = exec
            .command
            .iter()
            .filter_map(|word| Path::new(word).file_name());
        let shim = names
            .filter_map(|name| shims::by_name(name.to_str()?))
            .next();
        let variables = shim.map_or(forkserver::ENVIRONMENT, |shim| shim.fork_environment());
        env.extend(variables.iter().copied());
    }
    env.extend(exec.env.iter().map(|(name, value)| (&**name, &**value)));
    ServiceCommand {
        argv: exec.command.iter().map(Into::into).collect(),
        env: env
            .into_iter()
            .map(|(name, value)| (name.into(), value.into()))
            .collect(),
        dir: exec.sandbox.dir.clone(),
        identity: exec.account.map(process_identity),
        confinement: confinement.clone(),
    }
}

/// How many processes a pool has.
fn process_count(settings: &PoolSettings, kind: PoolKind) -> NonZeroUsize {
    const TWO: NonZeroUsize = NonZeroUsize::MIN.saturating_add(1);
    let cores = || std::thread::available_parallelism().unwrap_or(TWO);
    settings.processes.unwrap_or_else(|| match kind {
        PoolKind::ForkServers => NonZeroUsize::MIN,
        PoolKind::Workers => cores().max(TWO),
    })
}

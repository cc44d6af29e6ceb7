//! The processes beside the server, which are this same program started again.

use std::io;
use std::path::PathBuf;
use std::time::Duration;

use tokio::time::timeout;
use tracing::error;
use ws_ipc::{Confinement, HelperCommand, Service, ServiceCommand, Spawners, SpawnersConfig};

use crate::config::{AppBackend, Config, ValidateBackend};
use crate::confinement::Confinements;
use crate::demo;
use crate::error::ServeError;
use crate::server::worker_count;

/// First arguments by which this program is started again as a helper; see [`helper_main`].
pub const HELPERS: [&str; 2] = [SPAWNER, FORK_SERVER];

const SPAWNER: &str = "__spawner";
const FORK_SERVER: &str = "__forkserver";

/// How long the helpers may take to end when told to: longer than a spawner that hangs is waited for
/// before it is killed.
const STOP_TIMEOUT: Duration = Duration::from_secs(10);

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

/// How many spawners there are: one starts some 3000 programs a second, which is more than two
/// cores run of any but the smallest.
fn spawner_count(threads: usize) -> usize {
    threads.div_ceil(2).clamp(2, 8)
}

/// The processes beside the server.
#[derive(Debug)]
pub(crate) struct Helpers {
    pub(crate) confinements: Confinements,
    /// `None` if nothing is ever started: the echo without validation.
    pub(crate) spawners: Option<Spawners>,
    /// `None` unless the demo answers.
    pub(crate) fork_server: Option<Service>,
}

impl Helpers {
    pub(crate) async fn start(config: &Config, helper: &HelperProgram) -> Result<Self, ServeError> {
        let is_echo = matches!(config.app().backend, AppBackend::Echo);
        if is_echo && matches!(config.validate().backend, ValidateBackend::None) {
            return Ok(Self {
                confinements: Confinements::prepare(config)?,
                spawners: None,
                fork_server: None,
            });
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
        let fork_server = match config.app().backend {
            AppBackend::Demo => {
                let command = ServiceCommand {
                    argv: vec![helper.0.clone().into(), FORK_SERVER.into()],
                    env: Vec::new(),
                    dir: None,
                    identity: None,
                    confinement: Confinement::default(),
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
            confinements,
            spawners: Some(spawners),
            fork_server,
        })
    }

    pub(crate) async fn shutdown(self) {
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

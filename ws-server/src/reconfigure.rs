//! SIGHUP: reads the configuration, the certificates and the keys of tokens again, and takes all of
//! them or nothing.

use std::pin::pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::time::timeout;
use tracing::{error, info, warn};
use ws_transport::{TlsAcceptor, TlsError};

use crate::assembly::renew;
use crate::certificates;
use crate::config::{Applies, Config, Reloaded, Tls};
use crate::counters::Counters;
use crate::error::ServeError;
use crate::identify::{self, PreparedKeys};
use crate::shared::Shared;

/// Where the configuration of a running server is read again.
pub trait ConfigSource: Send + Sync {
    /// Reads and checks it, all of it, as at the start.
    ///
    /// # Errors
    ///
    /// Everything that is wrong with it, each with its place. Secrets are not repeated.
    fn read(&self) -> Result<Config, Vec<String>>;

    /// Hears what holds from now on.
    fn applied(&self, config: &Config);
}

/// Does what an operator asks for with SIGHUP. If anything is wrong, nothing happens but that the
/// log says so.
///
/// # Cancel safety
///
/// May be dropped while files are read; then nothing has happened.
pub(crate) async fn reload(
    server: Arc<Shared>,
    tls: Option<TlsAcceptor>,
    source: Option<Arc<dyn ConfigSource>>,
) {
    let counters = &server.hub.counters;
    let (shared, acceptor, from) = (Arc::clone(&server), tls.clone(), source.clone());
    let progress = Arc::new(Mutex::new(READING_CONFIGURATION));
    let told = Arc::clone(&progress);
    // Files and accounts of the host are looked up, which may take a while.
    let reading = tokio::task::spawn_blocking(move || {
        let reads = |what| *told.lock().unwrap_or_else(PoisonError::into_inner) = what;
        Prepared::read(&shared, acceptor.as_ref(), from.as_deref(), reads)
    });
    let reading = unless_in_time(reading, || {
        let what = *progress.lock().unwrap_or_else(PoisonError::into_inner);
        warn!(
            signal = "HUP",
            what, "still reading after {SLOW:?}; another HUP waits for it"
        );
    });
    let panicked = |error: tokio::task::JoinError| Err(vec![Unusable::Other(error.to_string())]);
    let prepared = match reading.await.unwrap_or_else(panicked) {
        Ok(prepared) => prepared,
        Err(faults) => {
            faults.iter().for_each(|fault| fault.tell(counters));
            counters.configuration_reloads_failed.increment();
            error!(signal = "HUP", "everything stays as it was");
            return;
        }
    };
    if let (Some(tls), Some(certificates)) = (&tls, prepared.certificates) {
        tls.adopt(certificates);
        certificates::reloaded(tls, counters, "SIGHUP");
    }
    identify::adopt(&server, prepared.keys);
    if let Some(reloaded) = prepared.config {
        tell(&reloaded);
        apply(&server, reloaded.into_config());
        counters.configuration_reloads.increment();
        if let Some(source) = source {
            source.applied(&server.current().config);
        }
    }
    server.reload_application();
    info!(
        signal = "HUP",
        "configuration, certificates and keys are renewed, and the application's processes will be"
    );
}

/// How long files may be read before the log says so: a file system that hangs would hold up every
/// further reload in silence.
const SLOW: Duration = Duration::from_secs(10);

const READING_CONFIGURATION: &str = "the configuration";

/// Says so, once, if something takes longer than it should, and waits on.
async fn unless_in_time<T>(work: impl Future<Output = T>, is_slow: impl FnOnce()) -> T {
    let mut work = pin!(work);
    match timeout(SLOW, work.as_mut()).await {
        Ok(done) => done,
        Err(_) => {
            is_slow();
            work.await
        }
    }
}

/// Everything that is read anew, checked and not in use yet.
struct Prepared {
    config: Option<Reloaded>,
    certificates: Option<ws_transport::Prepared>,
    keys: PreparedKeys,
}

/// What cannot be used.
enum Unusable {
    Setting(String),
    Certificates(TlsError),
    Keys(ServeError),
    Other(String),
}

impl Prepared {
    /// Reads it, and tells what comes next; blocks as long as the disk takes.
    ///
    /// # Errors
    ///
    /// Everything that is wrong.
    fn read(
        server: &Shared,
        tls: Option<&TlsAcceptor>,
        source: Option<&dyn ConfigSource>,
        reads: impl Fn(&'static str),
    ) -> Result<Self, Vec<Unusable>> {
        let config = source
            .map(|source| configuration(server, source))
            .transpose();
        // Without a configuration it is not known which files are meant.
        let config = config.map_err(|faults| {
            let faults = faults.into_iter().map(Unusable::Setting);
            faults.collect::<Vec<_>>()
        })?;
        let others = config.as_ref().and_then(|it| files(it.config()));
        reads("the certificates (server.tls)");
        let certificates = tls.map(|tls| tls.prepare(others)).transpose();
        reads("the keys of tokens (identity.token)");
        match (certificates, identify::prepare(server)) {
            (Ok(certificates), Ok(keys)) => Ok(Self {
                config,
                certificates,
                keys,
            }),
            (certificates, keys) => {
                let certificates = certificates.err().map(Unusable::Certificates);
                let keys = keys.err().map(Unusable::Keys);
                Err(certificates.into_iter().chain(keys).collect())
            }
        }
    }
}

impl Unusable {
    fn tell(&self, counters: &Counters) {
        match self {
            Self::Certificates(error) => certificates::refused(error, counters, "SIGHUP"),
            Self::Keys(error) => identify::refused(error, counters, "SIGHUP"),
            Self::Setting(fault) | Self::Other(fault) => {
                error!(signal = "HUP", fault, "the configuration cannot be used");
            }
        }
    }
}

fn configuration(server: &Shared, source: &dyn ConfigSource) -> Result<Reloaded, Vec<String>> {
    let new = source.read()?;
    let reloaded = server.current().config.reloaded(&new);
    reloaded.map_err(|invalid| {
        let faults = invalid.faults().iter();
        let faults = faults
            .map(|fault| format!("with the settings that need a restart as they are: {fault}"));
        faults.collect()
    })
}

fn files(config: &Config) -> Option<ws_transport::TlsConfig> {
    match &config.server().tls {
        Tls::Files(files) => Some(files.clone()),
        Tls::Off | Tls::SelfSigned => None,
    }
}

fn tell(reloaded: &Reloaded) {
    for change in reloaded.changes() {
        let (key, old, new) = (change.path(), change.old(), change.new_value());
        match change.applies() {
            Applies::Live => info!(key, %old, %new, "setting changed"),
            Applies::Restart => {
                warn!(key, %old, %new, "setting changed: restart to apply it, the old value stays");
            }
        }
    }
}

/// Puts a configuration in the place of the one in use.
fn apply(server: &Shared, config: Config) {
    let limits = config.limits();
    server.hub.places().set_limits(|places| {
        places.total = limits.max_connections;
        places.per_addr = limits.max_connections_per_ip;
        places.counts_loopback = limits.counts_loopback;
        places.per_user = limits.max_connections_per_user;
    });
    server
        .hub
        .counters
        .ledger
        .set_limit(limits.send_queue_total);
    let renewed = renew(&server.current(), config);
    server.current.store(Arc::new(renewed));
}

#[cfg(test)]
mod tests {
    use tokio::time::sleep;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn files_that_are_read_for_long_are_told_of_once_and_waited_for() {
        for (takes, times) in [(SLOW / 2, 0), (SLOW * 5, 1)] {
            let mut told = 0;
            let work = async {
                sleep(takes).await;
                "read"
            };
            assert_eq!(unless_in_time(work, || told += 1).await, "read");
            assert_eq!(told, times);
        }
    }
}

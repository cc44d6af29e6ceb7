//! SIGHUP: reads the configuration and the certificates again, and takes both or neither.

use std::sync::Arc;

use tracing::{error, info, warn};
use ws_transport::TlsAcceptor;

use crate::assembly::renew;
use crate::certificates;
use crate::config::{Applies, Config, Reloaded, Tls};
use crate::identify;
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
pub(crate) async fn reload(
    server: &Arc<Shared>,
    tls: Option<&TlsAcceptor>,
    source: Option<&Arc<dyn ConfigSource>>,
) {
    let counters = &server.hub.counters;
    let reloaded = match source {
        None => None,
        Some(source) => match read(server, source).await {
            Ok(reloaded) => Some(reloaded),
            Err(faults) => {
                counters.configuration_reloads_failed.increment();
                for fault in faults {
                    error!(signal = "HUP", fault, "the configuration cannot be used");
                }
                error!(signal = "HUP", "everything stays as it was");
                return;
            }
        },
    };
    if let Some(tls) = tls {
        let files = reloaded.as_ref().and_then(|it| files(it.config()));
        if !certificates::reload(tls, files, counters) {
            counters.configuration_reloads_failed.increment();
            error!(signal = "HUP", "everything stays as it was");
            return;
        }
    }
    if let Some(reloaded) = reloaded {
        tell(&reloaded);
        let config = reloaded.into_config();
        apply(server, config);
        counters.configuration_reloads.increment();
        if let Some(source) = source {
            source.applied(&server.current().config);
        }
    }
    identify::reload(server);
    server.reload_application();
    info!(
        signal = "HUP",
        "configuration, certificates and the application's processes are renewed"
    );
}

async fn read(
    server: &Arc<Shared>,
    source: &Arc<dyn ConfigSource>,
) -> Result<Reloaded, Vec<String>> {
    let (server, source) = (Arc::clone(server), Arc::clone(source));
    // Files and accounts of the host are looked up, which may take a while.
    let reading = tokio::task::spawn_blocking(move || {
        let new = source.read()?;
        let reloaded = server.current().config.reloaded(&new);
        reloaded.map_err(|invalid| {
            let faults = invalid.faults().iter();
            let faults = faults
                .map(|fault| format!("with the settings that need a restart as they are: {fault}"));
            faults.collect()
        })
    });
    let panicked = |error: tokio::task::JoinError| Err(vec![error.to_string()]);
    reading.await.unwrap_or_else(panicked)
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

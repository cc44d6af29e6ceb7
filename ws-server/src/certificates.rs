//! The certificates of listeners with TLS: read at the start, on SIGHUP and when the files change.
//! Whatever is wrong with new files, the server goes on with what it has, and no connection is
//! touched.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use tracing::{error, info, warn};
use ws_transport::{Reload, SelfSigned, TlsAcceptor, TlsError};

use crate::config::{ALPN, Config, Tls};
use crate::counters::Counters;
use crate::error::ServeError;
use crate::shared::Shared;

/// Whom a certificate for development is for.
const OWN_NAMES: [&str; 3] = ["localhost", "127.0.0.1", "::1"];
/// How long it is good for: until the next start, so to say.
const OWN_LIFETIME: Duration = Duration::from_secs(365 * 86_400);

/// Reads the certificates, and says what is wrong with them.
pub(crate) fn load(config: &Config) -> Result<Option<TlsAcceptor>, ServeError> {
    let acceptor = match &config.server().tls {
        Tls::Off => return Ok(None),
        Tls::SelfSigned => {
            let made = SelfSigned::new(&OWN_NAMES.map(str::to_owned), OWN_LIFETIME)?;
            TlsAcceptor::self_signed(&made, [ALPN])?
        }
        Tls::Files(files) => TlsAcceptor::load(files.clone())?,
    };
    warn_of_certificates(&acceptor);
    Ok(Some(acceptor))
}

/// Looks at the files every `server.tls.reload_interval`, for ever.
pub(crate) async fn watch(server: Arc<Shared>, tls: TlsAcceptor) {
    let Some(period) = server.current().config.server().tls_reload_interval else {
        return;
    };
    loop {
        tokio::time::sleep(period).await;
        let acceptor = tls.clone();
        // The disk may take its time.
        let looked = tokio::task::spawn_blocking(move || acceptor.reload_if_changed());
        match looked.await {
            Ok(Ok(Reload::NotNeeded)) => {}
            Ok(Ok(Reload::Done)) => reloaded(&tls, &server.hub.counters, "the files have changed"),
            Ok(Err(error)) => refused(&error, &server.hub.counters, "the files have changed"),
            Err(error) => error!(%error, "the files of certificates cannot be looked at"),
        }
    }
}

/// Says that certificates are in use that were read again.
pub(crate) fn reloaded(tls: &TlsAcceptor, counters: &Counters, cause: &'static str) {
    counters.certificate_reloads.increment();
    info!(cause, "certificates are read again");
    warn_of_certificates(tls);
}

/// Says that certificates cannot be used.
pub(crate) fn refused(error: &TlsError, counters: &Counters, cause: &'static str) {
    counters.certificate_reloads_failed.increment();
    error!(cause, %error, "the former certificates stay in use");
}

fn warn_of_certificates(tls: &TlsAcceptor) {
    for warning in tls.warnings(SystemTime::now()) {
        warn!(%warning, "clients will refuse a certificate");
    }
}

//! Who a visitor is, told without a process: by a signed token, or by the session of another
//! application.
//!
//! The sources are asked in an order that the configuration cannot change, the cheapest first. The
//! first that knows the visitor decides. Credentials that prove nothing because they were forged or
//! are over refuse the visitor, whatever another source would say; a source that cannot say refuses,
//! too. Only if a visitor brings nothing is the next one asked.

mod tokens;

use std::io::Read;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;
use std::{fs::File, io};

use tokio::time::sleep;
use tracing::{error, info};
use ws_proto::handshake::{RequestHead, Upgrade};

use crate::config::{CredentialPlace, IdentityConfig};
use crate::core::answer::Identity;
use crate::counters::{Counters, IdentifiedBy, IdentityRefusal};
use crate::error::ServeError;
use crate::shared::Shared;

use self::tokens::Tokens;

/// No file of keys is that large.
const MAX_KEY_FILE_SIZE: u64 = 1 << 20;

/// The sources that know visitors.
#[derive(Debug)]
pub(crate) struct Identifier {
    tokens: Option<Tokens>,
}

/// Credentials that prove no identity.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Unproved {
    pub(crate) refusal: IdentityRefusal,
    /// For the log: without the credential.
    pub(crate) cause: String,
}

impl Identifier {
    /// Gets the sources ready; `None` if there are none.
    ///
    /// # Errors
    ///
    /// [`ServeError::Identity`] if what one of them needs is not there.
    pub(crate) fn new(config: &IdentityConfig) -> Result<Option<Self>, ServeError> {
        let tokens = config.token.as_deref().map(Tokens::load).transpose()?;
        Ok(tokens.map(|tokens| Self {
            tokens: Some(tokens),
        }))
    }

    /// Asks the sources that answer without waiting.
    ///
    /// # Errors
    ///
    /// [`Unproved`] for credentials that are not good.
    pub(crate) fn recognise(
        &self,
        head: &RequestHead,
        upgrade: &Upgrade,
        counters: &Counters,
    ) -> Result<Option<Identity>, Unproved> {
        let Some(tokens) = &self.tokens else {
            return Ok(None);
        };
        let identity = tokens.identify(head, upgrade)?;
        if identity.is_some() {
            counters.identified(IdentifiedBy::Token);
        }
        Ok(identity)
    }

    /// The subprotocol behind which a client offers a token: the one that is spoken then.
    pub(crate) fn protocol(&self, upgrade: &Upgrade) -> Option<&str> {
        let places = self.tokens.iter().flat_map(Tokens::places);
        places
            .filter_map(|place| match place {
                CredentialPlace::Subprotocol(name) => Some(name.as_str()),
                _ => None,
            })
            .find(|name| upgrade.protocols().any(|offered| offered == *name))
    }
}

/// Reads the files of keys because the operator asks for it.
pub(crate) fn reload(server: &Shared) {
    if let Some(tokens) = tokens(server) {
        told(tokens.reload(), &server.hub.counters, "SIGHUP");
    }
}

/// Looks at the files of keys every `identity.token.reload_interval`, for ever.
pub(crate) async fn watch(server: Arc<Shared>) {
    let Some(tokens) = tokens(&server) else {
        return;
    };
    let Some(period) = tokens.reload_interval() else {
        return;
    };
    loop {
        sleep(period).await;
        if tokens.have_changed() {
            let counters = &server.hub.counters;
            told(tokens.reload(), counters, "the files have changed");
        }
    }
}

fn tokens(server: &Shared) -> Option<&Tokens> {
    server.identifier.as_ref()?.tokens.as_ref()
}

fn told(reload: Result<(), ServeError>, counters: &Counters, cause: &'static str) {
    match reload {
        Ok(()) => {
            counters.key_reloads.increment();
            info!(cause, "keys of tokens are read again");
        }
        Err(error) => {
            counters.key_reloads_failed.increment();
            error!(cause, %error, "the former keys of tokens stay in use");
        }
    }
}

/// Reads a small file that a setting names.
fn read_small(setting: &'static str, path: &Path) -> Result<Vec<u8>, ServeError> {
    let read = || {
        let mut content = Vec::new();
        let file = File::open(path)?;
        file.take(MAX_KEY_FILE_SIZE + 1).read_to_end(&mut content)?;
        match content.len() as u64 > MAX_KEY_FILE_SIZE {
            true => Err(io::Error::other("the file is larger than 1 MiB")),
            false => Ok(content),
        }
    };
    read().map_err(|source| ServeError::Identity {
        setting,
        path: path.to_owned(),
        source,
    })
}

/// Time since 1970, which is what tokens and sessions speak of.
fn since_epoch() -> Duration {
    let now = std::time::SystemTime::now();
    now.duration_since(std::time::UNIX_EPOCH)
        .unwrap_or_default()
}

//! Who a visitor is, told without a process: by a signed token, or by the session of another
//! application.
//!
//! The sources are asked in an order that the configuration cannot change, the cheapest first. The
//! first that knows the visitor decides. Credentials that prove nothing because they were forged or
//! are over refuse the visitor, whatever another source would say; a source that cannot say refuses,
//! too. Only if a visitor brings nothing is the next one asked.

mod lookup;
mod php;
mod tokens;

use std::io::{self, Read};
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::time::sleep;
use tracing::{error, info};
use ws_proto::handshake::{RequestHead, Upgrade};
use ws_session::{SessionId, UserId};

use crate::config::{CredentialPlace, IdentityConfig};
use crate::core::answer::{Identity, Source, Witness};
use crate::core::credential::{self, Found};
use crate::counters::{Counters, IdentifiedBy, IdentityRefusal};
use crate::error::{Chain, ServeError};
use crate::files::open_regular;
use crate::shared::Shared;

use self::lookup::Lookup;
use self::php::PhpSessions;
use self::tokens::Tokens;

/// No file of keys is that large.
const MAX_KEY_FILE_SIZE: u64 = 1 << 20;

/// The sources that know visitors.
#[derive(Debug)]
pub(crate) struct Identifier {
    tokens: Option<Tokens>,
    php: Option<PhpSessions>,
    lookup: Option<Lookup>,
    /// How many questions these have answered, so that whoever has no answer knows whether others
    /// have.
    php_answers: AtomicU64,
    lookup_answers: AtomicU64,
}

/// Credentials that prove no identity.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Unproved {
    pub(crate) refusal: IdentityRefusal,
    /// For the log: without the credential.
    pub(crate) cause: String,
}

/// Reads the files of the sources, and says which cannot be used.
pub(crate) fn check_files(config: &IdentityConfig) -> Vec<ServeError> {
    let tokens = config.token.as_deref().map(Tokens::load);
    let php = config.php.as_deref().map(PhpSessions::open);
    let errors = [tokens.and_then(Result::err), php.and_then(Result::err)];
    errors.into_iter().flatten().collect()
}

impl Identifier {
    /// Gets the sources ready; `None` if there are none.
    ///
    /// # Errors
    ///
    /// [`ServeError`] if what one of them needs is not there.
    pub(crate) async fn open(config: &IdentityConfig) -> Result<Option<Self>, ServeError> {
        if config.token.is_none() && config.php.is_none() && config.lookup.is_none() {
            return Ok(None);
        }
        let lookup = match &config.lookup {
            Some(lookup) => Some(Lookup::open(lookup).await?),
            None => None,
        };
        Ok(Some(Self {
            tokens: config.token.as_deref().map(Tokens::load).transpose()?,
            php: config.php.as_deref().map(PhpSessions::open).transpose()?,
            lookup,
            php_answers: AtomicU64::new(0),
            lookup_answers: AtomicU64::new(0),
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

    /// Whether there are sources that one has to wait for.
    pub(crate) fn has_sessions(&self) -> bool {
        self.php.is_some() || self.lookup.is_some()
    }

    /// Asks these about the cookies of a visitor.
    ///
    /// # Errors
    ///
    /// [`Unproved`] for credentials that are not good, and if a source cannot say.
    pub(crate) async fn look_up(
        &self,
        head: &RequestHead,
        counters: &Counters,
    ) -> Result<Option<Identity>, Unproved> {
        let php = self.php.as_ref().map(|php| {
            let config = php.config();
            (
                Source::Php,
                IdentifiedBy::Php,
                &config.cookie,
                config.recheck,
            )
        });
        let lookup = self.lookup.as_ref().map(|lookup| {
            let config = lookup.config();
            (
                Source::Lookup,
                IdentifiedBy::Lookup,
                &config.cookie,
                config.recheck,
            )
        });
        for (source, by, cookie, recheck) in php.into_iter().chain(lookup) {
            let credential = match credential::cookie(head, cookie) {
                Found::Nothing => continue,
                Found::Credential(credential) => credential,
                Found::Malformed(cause) => return Err(Unproved::malformed(cause)),
            };
            if let Some(user) = self.ask(source, credential).await? {
                counters.identified(by);
                let witness = recheck.map(|_| {
                    Box::new(Witness {
                        source,
                        credential: credential.into(),
                    })
                });
                return Ok(Some(Identity {
                    session: Some(SessionId::of_name(credential)),
                    ttl: recheck,
                    witness,
                    ..Identity::of(user)
                }));
            }
        }
        Ok(None)
    }

    /// Asks a source whose session that is.
    ///
    /// # Errors
    ///
    /// [`Unproved`] if it cannot say.
    pub(crate) async fn ask(
        &self,
        source: Source,
        credential: &str,
    ) -> Result<Option<UserId>, Unproved> {
        let answer = match (source, &self.php, &self.lookup) {
            (Source::Php, Some(php), _) => php.ask(credential).await?,
            (Source::Lookup, _, Some(lookup)) => lookup.ask(credential).await?,
            _ => None,
        };
        self.counted(source).fetch_add(1, Ordering::Relaxed);
        Ok(answer)
    }

    /// How many questions a source has answered.
    pub(crate) fn answers(&self, source: Source) -> u64 {
        self.counted(source).load(Ordering::Relaxed)
    }

    fn counted(&self, source: Source) -> &AtomicU64 {
        match source {
            Source::Php => &self.php_answers,
            Source::Lookup => &self.lookup_answers,
        }
    }

    /// The subprotocols behind which clients offer tokens.
    pub(crate) fn protocols(&self) -> impl Iterator<Item = &str> {
        let places = self.tokens.iter().flat_map(Tokens::places);
        places.filter_map(|place| match place {
            CredentialPlace::Subprotocol(name) => Some(name.as_str()),
            _ => None,
        })
    }
}

impl Unproved {
    fn malformed(cause: &str) -> Self {
        Self {
            refusal: IdentityRefusal::Malformed,
            cause: cause.to_owned(),
        }
    }

    /// Whether the session may be what cannot be read, and not its source: it is too large or
    /// damaged, or PHP keeps it locked.
    pub(crate) fn is_of_session(&self, source: Source) -> bool {
        match self.refusal {
            IdentityRefusal::Unreadable => true,
            IdentityRefusal::Timeout => source == Source::Php,
            _ => false,
        }
    }

    /// Whether it is not the visitor's fault.
    pub(crate) fn is_failure(&self) -> bool {
        matches!(
            self.refusal,
            IdentityRefusal::Unreadable | IdentityRefusal::Unreachable | IdentityRefusal::Timeout
        )
    }
}

/// Keys that were read because the operator asks for it, and are not in use yet.
pub(crate) struct PreparedKeys(Option<tokens::Prepared>);

/// Reads the files of keys, if there are any.
///
/// # Errors
///
/// [`ServeError::Identity`] for a file that cannot be read, or that holds no keys.
pub(crate) fn prepare(server: &Shared) -> Result<PreparedKeys, ServeError> {
    let keys = tokens(server).map(Tokens::prepare);
    Ok(PreparedKeys(keys.transpose()?))
}

/// Uses what was prepared.
pub(crate) fn adopt(server: &Shared, prepared: PreparedKeys) {
    if let (Some(tokens), PreparedKeys(Some(keys))) = (tokens(server), prepared) {
        tokens.adopt(keys);
        reloaded(&server.hub.counters, "SIGHUP");
    }
}

/// Looks at the files of keys every `identity.token.reload_interval`, for ever.
pub(crate) async fn watch(server: Arc<Shared>) {
    let Some(period) = tokens(&server).and_then(Tokens::reload_interval) else {
        return;
    };
    loop {
        sleep(period).await;
        let shared = Arc::clone(&server);
        // The disk may take its time.
        let looked = tokio::task::spawn_blocking(move || {
            let tokens = tokens(&shared)?;
            let keys = tokens.have_changed().then(|| tokens.prepare())?;
            Some(keys.map(|keys| tokens.adopt(keys)))
        });
        let counters = &server.hub.counters;
        match looked.await {
            Ok(None) => {}
            Ok(Some(Ok(()))) => reloaded(counters, "the files have changed"),
            Ok(Some(Err(error))) => refused(&error, counters, "the files have changed"),
            Err(error) => error!(%error, "the files of keys cannot be looked at"),
        }
    }
}

fn tokens(server: &Shared) -> Option<&Tokens> {
    server.identifier.as_ref()?.tokens.as_ref()
}

fn reloaded(counters: &Counters, cause: &'static str) {
    counters.key_reloads.increment();
    info!(cause, "keys of tokens are read again");
}

/// Says that keys cannot be used.
pub(crate) fn refused(error: &ServeError, counters: &Counters, cause: &'static str) {
    counters.key_reloads_failed.increment();
    error!(cause, error = %Chain(error), "the former keys of tokens stay in use");
}

/// What a file of keys holds, and who may open it.
struct KeyFile {
    content: Vec<u8>,
    mode: u32,
}

/// Reads a file of keys that a setting names.
fn read_keys(setting: &'static str, path: &Path) -> Result<KeyFile, ServeError> {
    let read = || {
        let mut content = Vec::new();
        let file = open_regular(path)?;
        let mode = file.metadata()?.mode() & 0o7777;
        // Whoever writes a key can be anybody.
        if mode & 0o022 != 0 {
            let text = format!("others than its owner may write to it (mode {mode:04o})");
            return Err(io::Error::other(text));
        }
        file.take(MAX_KEY_FILE_SIZE + 1).read_to_end(&mut content)?;
        match content.len() as u64 > MAX_KEY_FILE_SIZE {
            true => Err(io::Error::other("the file is larger than 1 MiB")),
            false => Ok(KeyFile { content, mode }),
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

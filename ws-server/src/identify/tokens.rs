//! Signed tokens, and the files with the keys to them.

use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::time::Duration;

use tracing::warn;
use ws_proto::handshake::{RequestHead, Upgrade};

use super::{Unproved, read_keys, since_epoch};
use crate::config::{CredentialPlace, TokenConfig};
use crate::core::answer::Identity;
use crate::core::credential::{self, Found};
use crate::core::token::{self, InvalidKeys, KeySet, Rules, TokenFault};
use crate::counters::IdentityRefusal;
use crate::error::ServeError;

/// What checks tokens.
#[derive(Debug)]
pub(super) struct Tokens {
    config: TokenConfig,
    rules: Rules,
    keys: RwLock<Arc<KeySet>>,
    /// What the files were when they were looked at last, or when what is in use was read.
    seen: Mutex<Stamps>,
}

/// Keys that were read and are not in use yet.
pub(super) struct Prepared {
    keys: KeySet,
    /// What the files were before they were read: what changes in between will be seen.
    stamps: Stamps,
}

type Stamps = Vec<Option<Stamp>>;

/// What changes with a file's content: device, inode, size and the time of its last change.
type Stamp = (u64, u64, u64, i64, i64);

impl Tokens {
    /// Reads the keys.
    ///
    /// # Errors
    ///
    /// [`ServeError::Identity`] for a file that cannot be read, or that holds no keys.
    pub(super) fn load(config: &TokenConfig) -> Result<Self, ServeError> {
        let Prepared { keys, stamps } = read(config)?;
        Ok(Self {
            rules: Rules::new(config),
            keys: RwLock::new(Arc::new(keys)),
            seen: Mutex::new(stamps),
            config: config.clone(),
        })
    }

    pub(super) fn places(&self) -> &[CredentialPlace] {
        &self.config.from
    }

    pub(super) fn reload_interval(&self) -> Option<Duration> {
        self.config.reload_interval
    }

    /// Says who the bearer of the first token is that the opening handshake brings.
    ///
    /// # Errors
    ///
    /// [`Unproved`] if it is not good.
    pub(super) fn identify(
        &self,
        head: &RequestHead,
        upgrade: &Upgrade,
    ) -> Result<Option<Identity>, Unproved> {
        let places = self.config.from.iter();
        let found = places
            .map(|place| credential::find(place, head, upgrade))
            .find(|found| *found != Found::Nothing);
        let token = match found {
            None | Some(Found::Nothing) => return Ok(None),
            Some(Found::Credential(token)) => token,
            Some(Found::Malformed(cause)) => {
                return Err(Unproved::malformed(cause));
            }
        };
        let keys = Arc::clone(&self.keys.read().unwrap_or_else(PoisonError::into_inner));
        let now = since_epoch().as_secs_f64();
        let claims = token::judge(token, &keys, &self.rules, now).map_err(unproved)?;
        Ok(Some(Identity {
            session: claims.session,
            expires_in: claims.expires_in,
            ..Identity::of(claims.user)
        }))
    }

    /// Whether a file is not what it was when this was asked last.
    pub(super) fn have_changed(&self) -> bool {
        let stamps = stamps(&self.config);
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        let have_changed = *seen != stamps;
        *seen = stamps;
        have_changed
    }

    /// Reads the keys again, without using them yet.
    ///
    /// # Errors
    ///
    /// [`ServeError::Identity`] for a file that cannot be read, or that holds no keys.
    pub(super) fn prepare(&self) -> Result<Prepared, ServeError> {
        read(&self.config)
    }

    /// Uses these keys from now on. If newer ones have been in use already, the next look finds
    /// that the files are not what these were read from.
    pub(super) fn adopt(&self, prepared: Prepared) {
        let Prepared { keys, stamps } = prepared;
        // Together, or the stamps of one would stand beside the keys of another.
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        *self.keys.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(keys);
        *seen = stamps;
    }
}

fn read(config: &TokenConfig) -> Result<Prepared, ServeError> {
    let stamps = stamps(config);
    let keys = read_all(config)?;
    Ok(Prepared { keys, stamps })
}

fn read_all(config: &TokenConfig) -> Result<KeySet, ServeError> {
    type Add = fn(&mut KeySet, &[u8]) -> Result<(), InvalidKeys>;
    let files: [(_, _, Add); 3] = [
        (
            "identity.token.secret_file",
            &config.secret_file,
            KeySet::add_secret,
        ),
        (
            "identity.token.public_key_file",
            &config.public_key_file,
            KeySet::add_pem,
        ),
        (
            "identity.token.jwks_file",
            &config.jwks_file,
            KeySet::add_jwk_set,
        ),
    ];
    let mut keys = KeySet::default();
    let mut last = ("identity.token", Path::new(""));
    for (setting, path, add) in files {
        let Some(path) = path else {
            continue;
        };
        let file = read_keys(setting, path)?;
        if config.secret_file.as_deref() == Some(path) && file.mode & 0o004 != 0 {
            warn!(path = %path.display(), "every user of this host can read the secret of tokens");
        }
        add(&mut keys, &file.content).map_err(|fault| invalid(setting, path, fault))?;
        last = (setting, path);
    }
    let (setting, path) = last;
    keys.restrict(config.algorithms.as_deref())
        .map_err(|fault| invalid(setting, path, fault))?;
    Ok(keys)
}

fn invalid(setting: &'static str, path: &Path, fault: InvalidKeys) -> ServeError {
    ServeError::Identity {
        setting,
        path: path.to_owned(),
        source: io::Error::new(io::ErrorKind::InvalidData, fault),
    }
}

fn stamps(config: &TokenConfig) -> Stamps {
    let stamp = |path: &PathBuf| {
        let metadata = std::fs::metadata(path).ok()?;
        Some((
            metadata.dev(),
            metadata.ino(),
            metadata.size(),
            metadata.ctime(),
            metadata.ctime_nsec(),
        ))
    };
    [
        &config.secret_file,
        &config.public_key_file,
        &config.jwks_file,
    ]
    .into_iter()
    .flatten()
    .map(stamp)
    .collect()
}

fn unproved(fault: TokenFault) -> Unproved {
    let refusal = match fault {
        TokenFault::TooLong | TokenFault::Malformed | TokenFault::Critical => {
            IdentityRefusal::Malformed
        }
        TokenFault::Algorithm => IdentityRefusal::Algorithm,
        TokenFault::UnknownKey => IdentityRefusal::UnknownKey,
        TokenFault::Signature => IdentityRefusal::Signature,
        TokenFault::Expired => IdentityRefusal::Expired,
        TokenFault::NotYet => IdentityRefusal::NotYet,
        TokenFault::Issuer => IdentityRefusal::Issuer,
        TokenFault::Audience => IdentityRefusal::Audience,
        TokenFault::ClaimType(_) | TokenFault::NoEnd | TokenFault::NoUser | TokenFault::User(_) => {
            IdentityRefusal::Claim
        }
    };
    Unproved {
        refusal,
        cause: format!("the token: {fault}"),
    }
}

//! The session files of PHP.

use std::fs::{File, OpenOptions, TryLockError};
use std::io::{self, Read as _};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt as _};
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use nix::fcntl::OFlag;
use tokio::sync::Semaphore;
use tokio::time::{Instant, sleep, timeout_at};
use ws_session::UserId;

use super::Unproved;
use crate::config::PhpConfig;
use crate::core::foreign;
use crate::counters::IdentityRefusal;
use crate::error::ServeError;

/// How long is waited before a session is tried again that PHP keeps to itself; twice as long each
/// time, up to the second.
const RETRY: (Duration, Duration) = (Duration::from_millis(2), Duration::from_millis(50));

/// What reads sessions.
#[derive(Debug)]
pub(super) struct PhpSessions {
    config: Arc<PhpConfig>,
    turns: Arc<Semaphore>,
}

/// What became of an attempt to read a file.
#[derive(Debug)]
enum Attempt {
    /// There is no such session, or it is over.
    Gone,
    /// PHP has it open, and may be writing.
    Locked,
    Read(Vec<u8>),
}

impl PhpSessions {
    /// Gets ready to read.
    ///
    /// # Errors
    ///
    /// [`ServeError::Identity`] if there is no such directory.
    pub(super) fn open(config: &PhpConfig) -> Result<Self, ServeError> {
        let path = &config.save_path;
        let is_dir = std::fs::metadata(path).and_then(|metadata| match metadata.is_dir() {
            true => Ok(()),
            false => Err(io::ErrorKind::NotADirectory.into()),
        });
        is_dir.map_err(|source| ServeError::Identity {
            setting: "identity.php.save_path",
            path: path.clone(),
            source,
        })?;
        Ok(Self {
            turns: Arc::new(Semaphore::new(config.concurrency.get())),
            config: Arc::new(config.clone()),
        })
    }

    pub(super) fn config(&self) -> &PhpConfig {
        &self.config
    }

    /// Says who is logged in in a session; nobody if there is no such session.
    ///
    /// # Errors
    ///
    /// [`Unproved`] for an id that PHP does not give, and for a session that cannot be read.
    pub(super) async fn ask(&self, id: &str) -> Result<Option<UserId>, Unproved> {
        if !is_session_id(id) {
            return Err(Unproved::malformed("the cookie is no session id of PHP"));
        }
        let Some(content) = self.read(id).await? else {
            return Ok(None);
        };
        let (handler, keys) = (self.config.handler, &self.config.user_keys);
        let user = foreign::user_of_session(&content, handler, keys);
        user.map_err(|fault| unreadable(&fault))
    }

    /// Reads a file that PHP is not writing.
    ///
    /// PHP holds a lock from the start of a session to its end and writes in place, so that only
    /// whoever shares the lock reads what was written as a whole.
    async fn read(&self, id: &str) -> Result<Option<Vec<u8>>, Unproved> {
        let deadline = Instant::now() + self.config.timeout;
        let late = || Unproved {
            refusal: IdentityRefusal::Timeout,
            cause: "the session of PHP could not be read in time: a page may keep it locked"
                .to_owned(),
        };
        let (mut pause, longest) = RETRY;
        let path = Arc::new(self.config.save_path.join(format!("sess_{id}")));
        loop {
            let turn = timeout_at(deadline, Arc::clone(&self.turns).acquire_owned()).await;
            let turn = turn.map_err(|_| late())?;
            let (path, config) = (Arc::clone(&path), Arc::clone(&self.config));
            // A disk may be slow.
            let attempt = tokio::task::spawn_blocking(move || {
                let attempt = attempt(&path, &config);
                drop(turn);
                attempt
            });
            let attempt = timeout_at(deadline, attempt).await.map_err(|_| late())?;
            match attempt.unwrap_or_else(|error| Err(io::Error::other(error))) {
                Ok(Attempt::Gone) => return Ok(None),
                Ok(Attempt::Read(content)) => return Ok(Some(content)),
                Ok(Attempt::Locked) if Instant::now() + pause > deadline => return Err(late()),
                Ok(Attempt::Locked) => sleep(pause).await,
                // The name of the file is not said: it is the session's.
                Err(error) => return Err(unreadable(&error)),
            }
            pause = longest.min(2 * pause);
        }
    }
}

/// The alphabet of PHP's session ids (`session.sid_bits_per_character`), none of which leads out of
/// a directory.
fn is_session_id(id: &str) -> bool {
    let is_letter = |byte: u8| byte.is_ascii_alphanumeric() || byte == b',' || byte == b'-';
    (22..=256).contains(&id.len()) && id.bytes().all(is_letter)
}

fn attempt(path: &Path, config: &PhpConfig) -> io::Result<Attempt> {
    let flags = OFlag::O_NOFOLLOW | OFlag::O_NONBLOCK | OFlag::O_NOCTTY;
    let opened = OpenOptions::new()
        .read(true)
        .custom_flags(flags.bits())
        .open(path);
    let file = match opened {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            // Without their directory all sessions seem to be over, and none need be.
            return match config.save_path.is_dir() {
                true => Ok(Attempt::Gone),
                false => Err(io::Error::other("identity.php.save_path is no directory")),
            };
        }
        Err(error) => return Err(error),
    };
    match file.try_lock_shared() {
        Ok(()) => {}
        Err(TryLockError::WouldBlock) => return Ok(Attempt::Locked),
        Err(TryLockError::Error(error)) => return Err(error),
    }
    read_locked(&file, config)
}

fn read_locked(file: &File, config: &PhpConfig) -> io::Result<Attempt> {
    let metadata = file.metadata()?;
    // It was destroyed after it was opened.
    if metadata.nlink() == 0 {
        return Ok(Attempt::Gone);
    }
    if !metadata.is_file() {
        return Err(io::Error::other("it is no regular file"));
    }
    let owner = metadata.uid();
    let is_trusted =
        owner == 0 || owner == nix::unistd::geteuid().as_raw() || config.owner == Some(owner);
    if !is_trusted {
        return Err(io::Error::other(
            "its owner is neither root nor the user of the server nor identity.php.owner",
        ));
    }
    if metadata.mode() & 0o022 != 0 {
        return Err(io::Error::other("others than its owner may write it"));
    }
    if config.max_idle.is_some_and(|idle| is_over(&metadata, idle)) {
        return Ok(Attempt::Gone);
    }
    let mut content = Vec::new();
    let limit = config.max_size as u64;
    file.take(limit + 1).read_to_end(&mut content)?;
    match content.len() as u64 > limit {
        true => Err(io::Error::other("it is larger than identity.php.max_size")),
        false => Ok(Attempt::Read(content)),
    }
}

fn is_over(metadata: &std::fs::Metadata, idle: Duration) -> bool {
    let age = metadata
        .modified()
        .ok()
        .and_then(|written| SystemTime::now().duration_since(written).ok());
    age.is_some_and(|age| age > idle)
}

fn unreadable(cause: &dyn std::fmt::Display) -> Unproved {
    Unproved {
        refusal: IdentityRefusal::Unreadable,
        cause: format!("the session of PHP cannot be read: {cause}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn session_ids_stay_in_their_directory() {
        for id in [
            "abcdefghijklmnopqrstuv",
            "0123456789abcdefABCDEF-,",
            &"a".repeat(256),
        ] {
            assert!(is_session_id(id), "{id}");
        }
        for id in [
            "",
            "abcdefghijklmnopqrstu",
            "../../../../../../etc/passwd",
            "abcdefghijklmnopqrst/v",
            "abcdefghijklmnopqrstu\0",
            "abcdefghijklmnopqrstu.",
            "abcdefghijklmnopqrstuä",
            &"a".repeat(257),
        ] {
            assert!(!is_session_id(id), "{id}");
        }
    }
}

//! `[identity.php]`: the session files of PHP.

use std::num::NonZeroUsize;
use std::path::PathBuf;
use std::time::Duration;

use super::{cookie_name, note_without_effect};
use crate::config::account;
use crate::config::reader::Reader;
use crate::config::units::{DAY, HOUR, SECOND, SHORTEST};

/// How PHP writes the variables of a session down (`session.serialize_handler`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PhpHandler {
    /// `name|value` for each; PHP's default.
    Php,
    /// The length of the name in a byte, the name, the value.
    PhpBinary,
    /// One array.
    PhpSerialize,
}

/// `[identity.php]`: the session files of PHP.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct PhpConfig {
    /// Directory of the files.
    pub save_path: PathBuf,
    /// Name of PHP's cookie.
    pub cookie: String,
    /// Where the user id is in a session: the first that is there.
    pub user_keys: Vec<String>,
    /// How the variables are written.
    pub handler: PhpHandler,
    /// Whose files they may be, besides those of root and of the server's user.
    pub owner: Option<u32>,
    /// How long a session is good that PHP does not use; `None` is as long as its file is there.
    pub max_idle: Option<Duration>,
    /// Bytes of the largest session.
    pub max_size: usize,
    /// How long PHP may keep a session to itself.
    pub timeout: Duration,
    /// Sessions read at once.
    pub concurrency: NonZeroUsize,
    /// When a session is read again while its visitor is connected; `None` is never.
    pub recheck: Option<Duration>,
}

pub(super) fn read(reader: &mut Reader<'_>) -> Option<Box<PhpConfig>> {
    let Some(save_path) = reader.optional_path("identity.php.save_path") else {
        let problem = "has no effect without save_path";
        note_without_effect(reader, "identity.php", problem);
        return None;
    };
    let handlers = &[
        ("php", PhpHandler::Php),
        ("php_binary", PhpHandler::PhpBinary),
        ("php_serialize", PhpHandler::PhpSerialize),
    ];
    let user_keys = reader.list("identity.php.user_key", |key, _| Ok(key.to_owned()));
    if user_keys.is_empty() {
        reader.conflict("identity.php.user_key", "names no variable");
    }
    Some(Box::new(PhpConfig {
        save_path,
        cookie: reader.read("identity.php.cookie", cookie_name),
        user_keys,
        handler: reader.choice("identity.php.serialize_handler", handlers),
        owner: reader.read_optional("identity.php.owner", |value| {
            account::user(value).map(|(uid, _)| uid)
        }),
        max_idle: reader.interval("identity.php.max_idle", SECOND, 365 * DAY),
        max_size: reader.size("identity.php.max_size", 1, 16 << 20),
        timeout: reader.duration("identity.php.timeout", SHORTEST, HOUR),
        concurrency: reader.count("identity.php.concurrency", 1000),
        recheck: reader.interval("identity.php.recheck", SECOND, DAY),
    }))
}

//! `[identity.lookup]`: the sessions of another application, in a database.

use std::num::NonZeroUsize;
use std::time::Duration;

use super::{cookie_name, note_without_effect};
use crate::config::fault::Problem;
use crate::config::parse;
use crate::config::reader::Reader;
use crate::config::units::{DAY, HOUR, SECOND, SHORTEST};
use crate::store::{DatabaseKind, StoreAddress};

/// `[identity.lookup]`: the sessions of another application, in a database.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct LookupConfig {
    /// The database.
    pub source: StoreAddress,
    /// Name of the application's cookie.
    pub cookie: String,
    /// What is asked for with the cookie's value.
    pub question: LookupQuestion,
    /// What stands there.
    pub format: LookupFormat,
    /// Where the user id is in what stands there, unless that is it.
    pub user_keys: Vec<String>,
    /// What is made of the cookie's value before it is looked up.
    pub cookie_hash: CookieHash,
    /// How long an answer may take.
    pub timeout: Duration,
    /// Questions at once.
    pub concurrency: NonZeroUsize,
    /// When it is asked again while its visitor is connected; `None` is never.
    pub recheck: Option<Duration>,
}

/// What a database is asked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LookupQuestion {
    /// A statement with one parameter.
    Sql(String),
    /// A key of Redis, with `{cookie}` in it; and a field, if a hash is there.
    Redis {
        /// The key.
        key: String,
        /// The field.
        field: Option<String>,
    },
}

/// How an application writes down what is looked up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LookupFormat {
    /// It is the user id.
    Plain,
    /// JSON.
    Json,
    /// What `serialize` of PHP makes of it; also if that is once more serialized.
    Php,
    /// The same, in base64.
    PhpBase64,
}

/// What is made of a cookie's value before it is looked up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CookieHash {
    /// Nothing.
    None,
    /// SHA-256, in lower-case hexadecimal digits.
    Sha256,
}

pub(super) fn read(reader: &mut Reader<'_>) -> Option<Box<LookupConfig>> {
    let Some(source) = reader.database("identity.lookup.source") else {
        let problem = "has no effect without source";
        note_without_effect(reader, "identity.lookup", problem);
        return None;
    };
    let formats = &[
        ("plain", LookupFormat::Plain),
        ("json", LookupFormat::Json),
        ("php", LookupFormat::Php),
        ("php+base64", LookupFormat::PhpBase64),
    ];
    let hashes = &[("none", CookieHash::None), ("sha256", CookieHash::Sha256)];
    let format = reader.choice("identity.lookup.format", formats);
    let user_keys = reader.list("identity.lookup.user_key", |key, _| Ok(key.to_owned()));
    if format == LookupFormat::Plain && !user_keys.is_empty() {
        let problem = "has no effect with format = \"plain\"";
        reader.conflict("identity.lookup.user_key", problem);
    }
    Some(Box::new(LookupConfig {
        question: question(reader, &source),
        source,
        cookie: reader
            .read_optional("identity.lookup.cookie", cookie_name)
            .unwrap_or_else(|| {
                reader.conflict(
                    "identity.lookup.cookie",
                    "is needed: the application's cookie",
                );
                String::new()
            }),
        format,
        user_keys,
        cookie_hash: reader.choice("identity.lookup.cookie_hash", hashes),
        timeout: reader.duration("identity.lookup.timeout", SHORTEST, HOUR),
        concurrency: reader.count("identity.lookup.concurrency", 1000),
        recheck: reader.interval("identity.lookup.recheck", SECOND, DAY),
    }))
}

fn question(reader: &mut Reader<'_>, source: &StoreAddress) -> LookupQuestion {
    let is_redis = matches!(source, StoreAddress::Server(url) if url.kind() == DatabaseKind::Redis);
    let query = reader.read_optional("identity.lookup.query", parse::text);
    let key = reader.read_optional("identity.lookup.key", |value| {
        let key = parse::text(value)?;
        match key.matches("{cookie}").count() {
            1 => Ok(key),
            _ => Err(Problem::malformed(key, "a key with {cookie} in it, once")),
        }
    });
    let field = reader.read_optional("identity.lookup.field", parse::text);
    let (wrong, needed) = match is_redis {
        true => (["identity.lookup.query"; 2], "identity.lookup.key"),
        false => (
            ["identity.lookup.key", "identity.lookup.field"],
            "identity.lookup.query",
        ),
    };
    for path in wrong {
        if reader.is_given(path) {
            reader.conflict(path, "has no effect with this source");
        }
    }
    if !reader.is_given(needed) {
        reader.conflict(needed, "is needed by this source");
    }
    match is_redis {
        true => LookupQuestion::Redis {
            key: key.unwrap_or_default(),
            field,
        },
        false => LookupQuestion::Sql(query.unwrap_or_default()),
    }
}

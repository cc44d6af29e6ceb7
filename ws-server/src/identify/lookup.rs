//! The sessions of another application in a database.

use std::fmt;
use std::ops::RangeInclusive;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use futures_util::TryStreamExt as _;
use redis::aio::ConnectionManager;
use ring::digest;
use sqlx::mysql::MySql;
use sqlx::postgres::Postgres;
use sqlx::sqlite::Sqlite;
use sqlx::{
    AssertSqlSafe, ColumnIndex, Database, Decode, Encode, Executor, IntoArguments, Pool, Row, Type,
    ValueRef as _,
};
use tokio::runtime::Handle;
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio::time::timeout;
use tracing::{info, warn};
use ws_session::UserId;

use super::Unproved;
use crate::config::{CookieHash, LookupConfig, LookupFormat, LookupQuestion, StoreAddress};
use crate::core::foreign::{self, Unreadable};
use crate::counters::IdentityRefusal;
use crate::error::ServeError;
use crate::store::{Client, ConnectError, ConnectSettings, Outage, open_sqlite_to_read};

/// The longest value of a cookie that is asked about. A browser sends no longer one.
const MAX_COOKIE_SIZE: usize = 4096;
/// How long a name may be that becomes a part of a key. A shorter one could be guessed, and is more
/// likely the name of something else.
const KEY_NAME_SIZES: RangeInclusive<usize> = 16..=256;

/// What asks the database.
#[derive(Debug)]
pub(super) struct Lookup {
    inner: Arc<Inner>,
    /// Where the connections are at home. Threads that serve visitors never wait for them.
    runtime: Handle,
}

struct Inner {
    config: LookupConfig,
    client: Client,
    turns: Semaphore,
    outage: Mutex<Outage>,
}

/// Without what it takes to get in.
impl fmt::Debug for Inner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Inner")
            .field("source", &self.config.source)
            .finish_non_exhaustive()
    }
}

/// Why a question has no answer.
#[derive(Debug, thiserror::Error)]
enum Unanswered {
    #[error("{0}")]
    Database(#[from] ConnectError),
    #[error("no answer within identity.lookup.timeout")]
    Late,
    /// The database answers that it does not do that. Its text may repeat the cookie.
    #[error("cannot be used: {text}")]
    Statement { code: String, text: String },
    #[error("the answer has several rows")]
    ManyRows,
    #[error("the answer has {0} columns, not one")]
    Columns(usize),
    #[error("the answer is neither text nor an integer")]
    Type,
    #[error("{0}")]
    Unreadable(#[from] Unreadable),
}

impl Unanswered {
    /// An error of the database, and its code if it is one that the database answered.
    fn of(error: ConnectError, code: Option<&str>) -> Self {
        match (error, code) {
            (ConnectError::Other(text), Some(code)) => Self::Statement {
                code: code.to_owned(),
                text,
            },
            (error, _) => Self::Database(error),
        }
    }

    /// Whether it is the database that does not answer, whatever it is asked. Else it may be the
    /// cookie that makes a question fail.
    fn is_outage(&self) -> bool {
        match self {
            Self::Database(error) => !matches!(error, ConnectError::Other(_)),
            error => matches!(error, Self::Late),
        }
    }

    /// Whether a question that was asked for nobody shows that none will be answered.
    fn is_hopeless(&self) -> bool {
        match self {
            // SQLSTATE, class 22: nobody's name is not of the type of the others. The codes of
            // SQLite are shorter.
            Self::Statement { code, .. } => code.len() != 5 || !code.starts_with("22"),
            error => matches!(error, Self::Database(_) | Self::Late | Self::Columns(_)),
        }
    }

    /// What may be logged of it: nothing of the credential.
    fn cause(&self) -> String {
        match self {
            Self::Statement { code, .. } => format!("the statement fails with {code}"),
            error => error.to_string(),
        }
    }
}

impl From<sqlx::Error> for Unanswered {
    fn from(error: sqlx::Error) -> Self {
        let code = error.as_database_error().and_then(|told| told.code());
        Self::of(ConnectError::of_sql(&error), code.as_deref())
    }
}

impl From<redis::RedisError> for Unanswered {
    fn from(error: redis::RedisError) -> Self {
        Self::of(ConnectError::of_redis(&error), error.code())
    }
}

impl Lookup {
    /// Connects, and tries the question.
    ///
    /// # Errors
    ///
    /// [`ServeError::Lookup`] if the database cannot be reached or does not understand it.
    pub(super) async fn open(config: &LookupConfig) -> Result<Self, ServeError> {
        let opened = Inner::open(config).await;
        let inner = opened.map_err(|error| ServeError::Lookup {
            source_name: config.source.to_string(),
            is_down: matches!(
                error,
                Unanswered::Late | Unanswered::Database(ConnectError::Unreachable(_))
            ),
            reason: error.to_string(),
        })?;
        Ok(Self {
            inner: Arc::new(inner),
            runtime: Handle::current(),
        })
    }

    pub(super) fn config(&self) -> &LookupConfig {
        &self.inner.config
    }

    /// Says whose session it is that goes by this name; nobody's if there is none.
    ///
    /// # Errors
    ///
    /// [`Unproved`] if the database cannot say.
    pub(super) async fn ask(&self, cookie: &str) -> Result<Option<UserId>, Unproved> {
        if cookie.len() > MAX_COOKIE_SIZE {
            return Err(Unproved::malformed(
                "the cookie is too long to name a session",
            ));
        }
        let config = &self.inner.config;
        let name = match (config.cookie_hash, &config.question) {
            (CookieHash::Sha256, _) => sha256(cookie),
            (CookieHash::None, LookupQuestion::Redis { .. }) if !is_key_name(cookie) => {
                return Err(Unproved::malformed("the cookie is no session id"));
            }
            (CookieHash::None, _) => cookie.to_owned(),
        };
        let inner = Arc::clone(&self.inner);
        // Dropped, it ends what it began.
        let mut task = JoinSet::new();
        task.spawn_on(async move { inner.answer(&name).await }, &self.runtime);
        match task.join_next().await {
            Some(Ok(answer)) => answer,
            _ => Err(Unproved {
                refusal: IdentityRefusal::Unreachable,
                cause: "the question was given up".to_owned(),
            }),
        }
    }
}

impl Inner {
    async fn open(config: &LookupConfig) -> Result<Self, Unanswered> {
        let settings = ConnectSettings {
            connections: u32::try_from(config.concurrency.get()).unwrap_or(u32::MAX),
            timeout: config.timeout,
        };
        let client = match &config.source {
            StoreAddress::Server(url) => url.connect(settings).await?,
            StoreAddress::Sqlite(path) => {
                Client::Sqlite(open_sqlite_to_read(path, settings).await?)
            }
            StoreAddress::Memory => {
                let reason = "nothing can be looked up in memory".to_owned();
                return Err(ConnectError::Other(reason).into());
            }
        };
        let inner = Self {
            turns: Semaphore::new(config.concurrency.get()),
            outage: Mutex::default(),
            client,
            config: config.clone(),
        };
        // Whoever has misspelled a column hears it now.
        match inner.stored("").await {
            Err(error) if error.is_hopeless() => Err(error),
            _ => Ok(inner),
        }
    }

    async fn answer(&self, name: &str) -> Result<Option<UserId>, Unproved> {
        let asking = async {
            // It is never closed.
            let _turn = self.turns.acquire().await;
            self.stored(name).await
        };
        let stored = timeout(self.config.timeout, asking).await;
        let stored = stored.unwrap_or(Err(Unanswered::Late));
        self.note(stored.as_ref().err());
        let user = stored.and_then(|stored| match stored {
            None => Ok(None),
            Some(stored) => {
                let (format, keys) = (self.config.format, &self.config.user_keys);
                Ok(foreign::user_of_stored(&stored, format, keys)?)
            }
        });
        user.map_err(|error| Unproved {
            refusal: match &error {
                Unanswered::Late => IdentityRefusal::Timeout,
                error if error.is_outage() => IdentityRefusal::Unreachable,
                _ => IdentityRefusal::Unreadable,
            },
            cause: format!("the session cannot be looked up: {}", error.cause()),
        })
    }

    /// Says once that the database does not answer, and once that it does again.
    fn note(&self, error: Option<&Unanswered>) {
        let mut outage = self.outage.lock().unwrap_or_else(PoisonError::into_inner);
        let source = &self.config.source;
        match error.filter(|error| error.is_outage()) {
            Some(error) => {
                if outage.failed(Instant::now()) {
                    warn!(%source, %error, "sessions of the application cannot be looked up");
                }
            }
            None => {
                if let Some(elapsed) = outage.answered(Instant::now()) {
                    info!(%source, ?elapsed, "sessions of the application are looked up again");
                }
            }
        }
    }

    /// What the database has under that name.
    async fn stored(&self, name: &str) -> Result<Option<Vec<u8>>, Unanswered> {
        let takes_bytes = self.config.format != LookupFormat::Plain;
        match (&self.client, &self.config.question) {
            (Client::Sqlite(pool), LookupQuestion::Sql(query)) => {
                row(pool, query, name, takes_bytes).await
            }
            (Client::MySql(pool), LookupQuestion::Sql(query)) => {
                row(pool, query, name, takes_bytes).await
            }
            (Client::Postgres(pool), LookupQuestion::Sql(query)) => {
                row(pool, query, name, takes_bytes).await
            }
            (Client::Redis(connection), LookupQuestion::Redis { key, field }) => {
                let key = key.replacen("{cookie}", name, 1);
                value(connection.clone(), &key, field.as_deref()).await
            }
            _ => {
                Err(ConnectError::Other("the question is not for this database".to_owned()).into())
            }
        }
    }
}

/// What differs between SQL databases: what they call text and integers.
trait Cells: Database {
    /// The only column of a row as text, if it is text or an integer.
    fn cell(row: &Self::Row) -> Option<String>;
}

impl Cells for Sqlite {
    fn cell(row: &Self::Row) -> Option<String> {
        integer::<Self, i64>(row).or_else(|| row.try_get::<String, _>(0).ok())
    }
}

impl Cells for MySql {
    fn cell(row: &Self::Row) -> Option<String> {
        integer::<Self, i64>(row)
            .or_else(|| integer::<Self, u64>(row))
            .or_else(|| row.try_get::<String, _>(0).ok())
    }
}

impl Cells for Postgres {
    fn cell(row: &Self::Row) -> Option<String> {
        integer::<Self, i64>(row)
            .or_else(|| integer::<Self, i32>(row))
            .or_else(|| integer::<Self, i16>(row))
            .or_else(|| row.try_get::<String, _>(0).ok())
    }
}

fn integer<'r, DB: Database, T>(row: &'r DB::Row) -> Option<String>
where
    T: Decode<'r, DB> + Type<DB> + ToString,
    usize: ColumnIndex<DB::Row>,
{
    row.try_get::<T, _>(0).ok().map(|number| number.to_string())
}

/// The only column of the only row, if it is not NULL.
async fn row<DB: Cells>(
    pool: &Pool<DB>,
    query: &str,
    name: &str,
    takes_bytes: bool,
) -> Result<Option<Vec<u8>>, Unanswered>
where
    for<'c> &'c mut DB::Connection: Executor<'c, Database = DB>,
    DB::Arguments: IntoArguments<DB>,
    for<'e> String: Encode<'e, DB> + Type<DB>,
    for<'d> Vec<u8>: Decode<'d, DB> + Type<DB>,
    usize: ColumnIndex<DB::Row>,
{
    // The statement is the operator's own; what a visitor brings is its parameter.
    let query = sqlx::query(AssertSqlSafe(query)).bind(name.to_owned());
    let mut rows = query.fetch(pool);
    let Some(row) = rows.try_next().await? else {
        return Ok(None);
    };
    if row.len() != 1 {
        return Err(Unanswered::Columns(row.len()));
    }
    if rows.try_next().await?.is_some() {
        return Err(Unanswered::ManyRows);
    }
    if row.try_get_raw(0)?.is_null() {
        return Ok(None);
    }
    let bytes = || {
        let bytes = row.try_get::<Vec<u8>, _>(0).ok();
        bytes.filter(|_| takes_bytes)
    };
    let cell = DB::cell(&row).map(String::into_bytes).or_else(bytes);
    cell.map(Some).ok_or(Unanswered::Type)
}

async fn value(
    mut connection: ConnectionManager,
    key: &str,
    field: Option<&str>,
) -> Result<Option<Vec<u8>>, Unanswered> {
    let question = match field {
        Some(field) => redis::cmd("HGET").arg(key).arg(field).to_owned(),
        None => redis::cmd("GET").arg(key).to_owned(),
    };
    match question.query_async(&mut connection).await? {
        redis::Value::Nil => Ok(None),
        redis::Value::BulkString(bytes) => Ok(Some(bytes)),
        redis::Value::SimpleString(text) => Ok(Some(text.into_bytes())),
        redis::Value::Int(number) => Ok(Some(number.to_string().into_bytes())),
        _ => Err(Unanswered::Type),
    }
}

/// Whether this may stand in a key: nothing that makes up the names of keys (`:`, `.`, `/`), so that
/// whoever brings it chooses among sessions, and not among all that is stored.
fn is_key_name(name: &str) -> bool {
    let is_letter = |byte: u8| byte.is_ascii_alphanumeric() || b"_-,".contains(&byte);
    KEY_NAME_SIZES.contains(&name.len()) && name.bytes().all(is_letter)
}

fn sha256(text: &str) -> String {
    let hash = digest::digest(&digest::SHA256, text.as_bytes());
    hash.as_ref()
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_in_a_key_is_a_session_id_and_nothing_else() {
        for name in ["a0-_,Z6789abcdef", "1234567890123456", &"a".repeat(256)] {
            assert!(is_key_name(name), "{name}");
        }
        for name in [
            "",
            "user_7",
            "123456789012345",
            "profile:1234567890",
            "../../../../etc/passwd",
            "1234567890123456*",
            "1234567890123456 ",
            "1234567890123456.x",
            "1234567890123456{x}",
            "123456789012345ä",
            &"a".repeat(257),
        ] {
            assert!(!is_key_name(name), "{name}");
        }
    }
}

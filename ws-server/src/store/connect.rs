//! Connections to databases: what everybody shares who asks one.

use std::fs::OpenOptions;
use std::io;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;
use std::str::FromStr as _;
use std::time::Duration;

use redis::aio::{ConnectionManager, ConnectionManagerConfig};
use sqlx::mysql::{MySqlConnectOptions, MySqlDatabaseError, MySqlPool};
use sqlx::pool::PoolOptions;
use sqlx::postgres::{PgConnectOptions, PgPool};
use sqlx::sqlite::{SqliteConnectOptions, SqliteJournalMode, SqlitePool, SqliteSynchronous};
use sqlx::{ConnectOptions, Connection as _, Database};
use tokio::time::timeout;

use super::address::{DatabaseKind, DatabaseUrl};
use crate::files::open_regular;

/// How long another process may hold an SQLite file before a statement of ours gives up.
const BUSY_TIMEOUT: Duration = Duration::from_secs(2);
/// What of an SQLite file is kept in memory, in KiB; the rest is in the system's cache.
const CACHE_SIZE: &str = "-512";
/// Who is who is nobody's business but the server's.
const FILE_MODE: u32 = 0o600;

/// How a server is spoken to.
#[derive(Clone, Copy, Debug)]
pub(crate) struct ConnectSettings {
    /// Connections at once; Redis has one for all.
    pub(crate) connections: u32,
    /// How long connecting, or waiting for a connection that is free, may take.
    pub(crate) timeout: Duration,
}

/// Connections to one server. They are made anew when they break, and each clone shares them.
#[derive(Clone)]
pub(crate) enum Client {
    Sqlite(SqlitePool),
    MySql(MySqlPool),
    Postgres(PgPool),
    Redis(ConnectionManager),
}

impl DatabaseUrl {
    /// Connects, so that whatever is wrong with the address or the credentials is known at once.
    ///
    /// # Errors
    ///
    /// [`ConnectError`], saying what is wrong.
    pub(crate) async fn connect(&self, settings: ConnectSettings) -> Result<Client, ConnectError> {
        let connecting = async {
            match self.kind() {
                DatabaseKind::MySql => {
                    let options = MySqlConnectOptions::from_str(self.secret())
                        .map_err(|error| ConnectError::of_sql(&error))?
                        .disable_statement_logging();
                    Ok(Client::MySql(open(options, settings).await?))
                }
                DatabaseKind::Postgres => {
                    let options = PgConnectOptions::from_str(self.secret())
                        .map_err(|error| ConnectError::of_sql(&error))?
                        .disable_statement_logging();
                    Ok(Client::Postgres(open(options, settings).await?))
                }
                DatabaseKind::Redis => self.open_redis(settings).await.map(Client::Redis),
            }
        };
        let connected = timeout(settings.timeout, connecting).await;
        connected.unwrap_or_else(|_| {
            let within = settings.timeout;
            Err(ConnectError::Unreachable(format!(
                "no answer within {within:?}"
            )))
        })
    }

    async fn open_redis(
        &self,
        settings: ConnectSettings,
    ) -> Result<ConnectionManager, ConnectError> {
        let of_redis = |error: redis::RedisError| ConnectError::of_redis(&error);
        let client = redis::Client::open(self.secret()).map_err(of_redis)?;
        let config = ConnectionManagerConfig::new()
            .set_number_of_retries(0)
            .set_connection_timeout(Some(settings.timeout))
            .set_response_timeout(Some(settings.timeout));
        let manager = ConnectionManager::new_with_config(client, config).await;
        let mut manager = manager.map_err(of_redis)?;
        // A server that wants a password lets everybody connect, and says so to the first request.
        let pong = redis::cmd("PING").exec_async(&mut manager).await;
        pong.map_err(of_redis)?;
        Ok(manager)
    }
}

/// Makes one connection, whose failure says why, and a pool that makes the others when needed.
async fn open<DB: Database>(
    options: <DB::Connection as sqlx::Connection>::Options,
    settings: ConnectSettings,
) -> Result<sqlx::Pool<DB>, ConnectError> {
    let connection = options.connect().await;
    let connection: DB::Connection = connection.map_err(|error| ConnectError::of_sql(&error))?;
    // It has proved what it was made for.
    let _ = connection.close().await;
    Ok(pool(settings).connect_lazy_with(options))
}

/// A broken connection is found when it is given back, so that a statement costs one round trip.
fn pool<DB: Database>(settings: ConnectSettings) -> PoolOptions<DB> {
    PoolOptions::new()
        .max_connections(settings.connections)
        .acquire_timeout(settings.timeout)
        .test_before_acquire(false)
}

/// Opens an SQLite file that is the server's own, or makes it.
///
/// It is written ahead (WAL) and not synchronised with each commit: a process that is killed loses
/// nothing that was committed, a machine that loses power perhaps the last moments.
///
/// # Errors
///
/// [`ConnectError`] if it cannot be opened, or is no database.
pub(crate) async fn open_sqlite(path: &Path) -> Result<SqlitePool, ConnectError> {
    // SQLite does not say why it cannot open a file, the system does.
    OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .mode(FILE_MODE)
        .open(path)
        .map_err(ConnectError::File)?;
    let options = sqlite_options(path)
        .journal_mode(SqliteJournalMode::Wal)
        .synchronous(SqliteSynchronous::Normal);
    let pool = pool(ConnectSettings {
        connections: 1,
        timeout: 2 * BUSY_TIMEOUT,
    });
    let pool = pool.idle_timeout(None).max_lifetime(None);
    let opened = pool.connect_with(options).await;
    opened.map_err(|error| ConnectError::of_sql(&error))
}

/// Opens an SQLite file of somebody else's, to read it and nothing else.
///
/// # Errors
///
/// [`ConnectError`] if it cannot be opened, or is no database.
pub(crate) async fn open_sqlite_to_read(
    path: &Path,
    settings: ConnectSettings,
) -> Result<SqlitePool, ConnectError> {
    open_regular(path).map_err(ConnectError::File)?;
    let options = sqlite_options(path).read_only(true);
    let opened = pool(settings).connect_with(options).await;
    opened.map_err(|error| ConnectError::of_sql(&error))
}

fn sqlite_options(path: &Path) -> SqliteConnectOptions {
    SqliteConnectOptions::new()
        .filename(path)
        .busy_timeout(BUSY_TIMEOUT)
        .pragma("cache_size", CACHE_SIZE)
        .disable_statement_logging()
}

/// Why a database cannot be used. The texts are the database's own; none has a password in it.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ConnectError {
    /// Nobody answers, or too late.
    #[error("cannot be reached: {0}")]
    Unreachable(String),
    /// The user or the password is wrong, or the user has no right to the database.
    #[error("lets nobody in with these credentials: {0}")]
    Credentials(String),
    /// There is no such database.
    #[error("has no such database: {0}")]
    NoDatabase(String),
    /// The file cannot be opened or made.
    #[error("cannot be opened: {0}")]
    File(#[source] io::Error),
    /// The file is something else, or damaged.
    #[error("is no SQLite database: {0}")]
    NotSqlite(String),
    /// Anything else.
    #[error("cannot be used: {0}")]
    Other(String),
}

impl ConnectError {
    pub(crate) fn of_sql(error: &sqlx::Error) -> Self {
        let text = error.to_string();
        match error {
            sqlx::Error::Io(_) | sqlx::Error::PoolTimedOut | sqlx::Error::PoolClosed => {
                Self::Unreachable(text)
            }
            sqlx::Error::Database(database) => {
                let text = database.message().to_owned();
                let number = database
                    .try_downcast_ref::<MySqlDatabaseError>()
                    .map(MySqlDatabaseError::number);
                match (number, database.code().as_deref()) {
                    // MySQL: ER_DBACCESS_DENIED, ER_ACCESS_DENIED, its kin without a password.
                    (Some(1044 | 1045 | 1698), _) => Self::Credentials(text),
                    // ER_BAD_DB.
                    (Some(1049), _) => Self::NoDatabase(text),
                    // Too many connections, going down, too many of this user.
                    (Some(1040 | 1053 | 1203 | 1226), _) => Self::Unreachable(text),
                    (Some(_), _) => Self::Other(text),
                    // PostgreSQL: class 28, invalid authorization; a privilege that is missing.
                    (None, Some("28000" | "28P01" | "42501")) => Self::Credentials(text),
                    (None, Some("3D000")) => Self::NoDatabase(text),
                    // Going down, starting up, too many connections.
                    (None, Some("57P01" | "57P02" | "57P03" | "53300")) => Self::Unreachable(text),
                    // SQLite: SQLITE_CORRUPT and SQLITE_NOTADB.
                    (None, Some("11" | "26" | "267" | "523" | "779")) => Self::NotSqlite(text),
                    _ => Self::Other(text),
                }
            }
            _ => Self::Other(text),
        }
    }

    pub(crate) fn of_redis(error: &redis::RedisError) -> Self {
        let text = error.to_string();
        let is_refused = matches!(error.code(), Some("NOAUTH" | "WRONGPASS" | "NOPERM"))
            || error.kind() == redis::ErrorKind::AuthenticationFailed;
        // It is there, and will say more another time.
        let is_busy = matches!(
            error.code(),
            Some("LOADING" | "MASTERDOWN" | "CLUSTERDOWN" | "TRYAGAIN")
        );
        let is_away = error.is_io_error() || error.is_timeout() || error.is_connection_refusal();
        if is_refused {
            Self::Credentials(text)
        } else if is_busy || is_away {
            Self::Unreachable(text)
        } else {
            Self::Other(text)
        }
    }
}

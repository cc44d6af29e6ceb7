//! From the address of a store to the store.

use std::sync::Arc;
use std::time::Duration;

use ws_session::{MemoryStore, SessionStore};

use super::address::StoreAddress;
use super::connect::{Client, ConnectError, ConnectSettings, open_sqlite};
use super::redis::RedisStore;
use super::sql::{SchemaError, SqlStore};
use crate::config::IdentityConfig;

/// Connections to a server: one to find sessions, one to write, and two for those who list them.
const CONNECTIONS: u32 = 4;
/// How long a server may take to answer when ours starts.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// Opens the store that sessions are kept in.
///
/// # Errors
///
/// [`StoreOpenError`], naming the store without its password.
pub(crate) async fn open(
    identity: &IdentityConfig,
) -> Result<Arc<dyn SessionStore>, StoreOpenError> {
    let opened = open_at(&identity.store, identity.ttl).await;
    opened.map_err(|fault| StoreOpenError {
        store: identity.store.to_string(),
        fault,
    })
}

pub(super) async fn open_at(
    address: &StoreAddress,
    ttl: Duration,
) -> Result<Arc<dyn SessionStore>, SchemaError> {
    let settings = ConnectSettings {
        connections: CONNECTIONS,
        timeout: CONNECT_TIMEOUT,
    };
    Ok(match address {
        StoreAddress::Memory => Arc::new(MemoryStore::default()),
        StoreAddress::Sqlite(path) => Arc::new(SqlStore::open(open_sqlite(path).await?).await?),
        StoreAddress::Server(url) => match url.connect(settings).await? {
            Client::Sqlite(pool) => Arc::new(SqlStore::open(pool).await?),
            Client::MySql(pool) => Arc::new(SqlStore::open(pool).await?),
            Client::Postgres(pool) => Arc::new(SqlStore::open(pool).await?),
            Client::Redis(connection) => Arc::new(RedisStore::open(connection, ttl).await?),
        },
    })
}

/// Why the store of the sessions cannot be used.
#[derive(Debug, thiserror::Error)]
#[error("identity.store: {store} {fault}")]
pub struct StoreOpenError {
    store: String,
    fault: SchemaError,
}

impl StoreOpenError {
    /// Returns why it cannot be reached, if that is what is wrong, and not what is in it.
    pub fn connect_error(&self) -> Option<&ConnectError> {
        match &self.fault {
            SchemaError::Connect(error) => Some(error),
            _ => None,
        }
    }
}

//! Sessions in a SQL database.

use std::fmt;

use sqlx::database::HasStatementCache;
use sqlx::mysql::MySql;
use sqlx::postgres::Postgres;
use sqlx::sqlite::Sqlite;
use sqlx::{
    AssertSqlSafe, Column as _, ColumnIndex, Database, Decode, Encode, Executor, IntoArguments,
    Pool, QueryBuilder, Row as _, SqlSafeStr as _, Statement as _, Type,
};
use ws_session::{
    Changes, Purge, SessionData, SessionId, SessionQuery, SessionRecord, SessionStore, StoreError,
    StoreFuture, UserId, from_millis, to_millis,
};

use super::connect::ConnectError;

const COLUMNS: &str = "id, user_id, address, created_at, used_at, expires_at, data";
/// Which of these hold text; the others are whole numbers.
const TEXTS: [&str; 4] = ["id", "user_id", "address", "data"];
/// How many ids stand in one statement. Few different numbers, so that few statements are prepared.
const ID_COUNTS: [usize; 4] = [1, 8, 64, 256];
/// How many sessions one statement makes: of seven parameters each, of which SQLite has had room
/// for 999 at all times.
const ROWS_AT_ONCE: usize = 64;

/// Sessions in the table `ws_sessions` of a database.
pub(crate) struct SqlStore<DB: Database> {
    pool: Pool<DB>,
}

impl<DB: Database> fmt::Debug for SqlStore<DB> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SqlStore({})", DB::NAME)
    }
}

/// What differs between databases.
pub(crate) trait Dialect: Database + HasStatementCache {
    /// The statements that make the table.
    const CREATE: &'static [&'static str];
    /// What follows an `INSERT` of new sessions, to overwrite one of the same id.
    const OVERWRITE: &'static str;
    /// What tells the encoding of the database, and the one that has room for every text; `None`
    /// where the table has its own.
    const ENCODING: Option<(&'static str, &'static str)>;
    /// Whether the table is nobody else's, so that the number of sessions in it is ours to bound.
    const IS_OWN: bool;

    fn rows_affected(result: &Self::QueryResult) -> u64;
}

impl Dialect for Sqlite {
    const CREATE: &'static [&'static str] = &[
        "CREATE TABLE IF NOT EXISTS ws_sessions (\
             id TEXT NOT NULL PRIMARY KEY, \
             user_id TEXT, \
             address TEXT, \
             created_at INTEGER NOT NULL, \
             used_at INTEGER NOT NULL, \
             expires_at INTEGER, \
             data TEXT) WITHOUT ROWID",
        // Sessions of nobody cost nothing in it.
        "CREATE INDEX IF NOT EXISTS ws_sessions_user ON ws_sessions (user_id) \
             WHERE user_id IS NOT NULL",
    ];
    const OVERWRITE: &'static str = ON_CONFLICT;
    const ENCODING: Option<(&'static str, &'static str)> = None;
    const IS_OWN: bool = true;

    fn rows_affected(result: &Self::QueryResult) -> u64 {
        result.rows_affected()
    }
}

impl Dialect for Postgres {
    const CREATE: &'static [&'static str] = &[
        "CREATE TABLE IF NOT EXISTS ws_sessions (\
             id TEXT COLLATE \"C\" NOT NULL PRIMARY KEY, \
             user_id TEXT, \
             address TEXT, \
             created_at BIGINT NOT NULL, \
             used_at BIGINT NOT NULL, \
             expires_at BIGINT, \
             data TEXT)",
        "CREATE INDEX IF NOT EXISTS ws_sessions_user ON ws_sessions (user_id)",
        "CREATE INDEX IF NOT EXISTS ws_sessions_used ON ws_sessions (used_at)",
    ];
    const OVERWRITE: &'static str = ON_CONFLICT;
    const ENCODING: Option<(&'static str, &'static str)> = Some(("SHOW server_encoding", "UTF8"));
    const IS_OWN: bool = false;

    fn rows_affected(result: &Self::QueryResult) -> u64 {
        result.rows_affected()
    }
}

impl Dialect for MySql {
    const CREATE: &'static [&'static str] = &["CREATE TABLE IF NOT EXISTS ws_sessions (\
             id CHAR(32) CHARACTER SET ascii COLLATE ascii_bin NOT NULL PRIMARY KEY, \
             user_id VARCHAR(255) CHARACTER SET utf8mb4 COLLATE utf8mb4_bin, \
             address VARCHAR(45) CHARACTER SET ascii COLLATE ascii_bin, \
             created_at BIGINT NOT NULL, \
             used_at BIGINT NOT NULL, \
             expires_at BIGINT, \
             data TEXT CHARACTER SET utf8mb4 COLLATE utf8mb4_bin, \
             KEY ws_sessions_user (user_id), \
             KEY ws_sessions_used (used_at))"];
    const OVERWRITE: &'static str = " ON DUPLICATE KEY UPDATE \
         user_id = VALUES(user_id), address = VALUES(address), \
         created_at = VALUES(created_at), used_at = VALUES(used_at), \
         expires_at = VALUES(expires_at), data = VALUES(data)";
    const ENCODING: Option<(&'static str, &'static str)> = None;
    const IS_OWN: bool = false;

    fn rows_affected(result: &Self::QueryResult) -> u64 {
        result.rows_affected()
    }
}

const ON_CONFLICT: &str = " ON CONFLICT (id) DO UPDATE SET \
     user_id = excluded.user_id, address = excluded.address, \
     created_at = excluded.created_at, used_at = excluded.used_at, \
     expires_at = excluded.expires_at, data = excluded.data";

/// Why a table cannot be used.
#[derive(Debug, thiserror::Error)]
pub(crate) enum SchemaError {
    /// The database could not be asked.
    #[error(transparent)]
    Connect(#[from] ConnectError),
    /// There is none, and none can be made.
    #[error(
        "has no table ws_sessions, and making it failed: {reason}; have it made with: {statements};"
    )]
    Missing { reason: String, statements: String },
    /// There is one of other columns.
    #[error(
        "has a table ws_sessions that is not for sessions: {reason}; it should be that of: {statements};"
    )]
    Foreign { reason: String, statements: String },
    /// A user or data of another script could not be stored, and would hold up all the others.
    #[error("is encoded in {found}, and must be in {wanted}")]
    Encoding { found: String, wanted: &'static str },
    /// It may not be read or written.
    #[error("does not let the table ws_sessions be used: {0}")]
    Forbidden(String),
}

impl<DB: Dialect> SqlStore<DB>
where
    for<'c> &'c mut DB::Connection: Executor<'c, Database = DB>,
    DB::Arguments: IntoArguments<DB>,
    for<'v> String: Decode<'v, DB> + Type<DB>,
    i64: Type<DB>,
    usize: ColumnIndex<DB::Row>,
{
    /// Makes the table if there is none, and checks that it can be used.
    ///
    /// # Errors
    ///
    /// [`SchemaError`] if it cannot.
    pub(crate) async fn open(pool: Pool<DB>) -> Result<Self, SchemaError> {
        let statements = || DB::CREATE.join("; ");
        let foreign = |reason| SchemaError::Foreign {
            reason,
            statements: statements(),
        };
        let mut connection = pool.acquire().await.map_err(of_connection)?;
        if let Some((question, wanted)) = DB::ENCODING {
            let row = connection
                .fetch_one(question)
                .await
                .map_err(of_connection)?;
            let found: String = row.try_get(0).map_err(of_connection)?;
            if found != wanted {
                return Err(SchemaError::Encoding { found, wanted });
            }
        }
        if let Err(error) = probe(&mut connection).await {
            of_database(error)?;
            for (at, statement) in DB::CREATE.iter().enumerate() {
                let Err(error) = connection.execute(*statement).await else {
                    continue;
                };
                let reason = of_database(error)?;
                return Err(match at {
                    0 => SchemaError::Missing {
                        reason,
                        statements: statements(),
                    },
                    // There was a table, and it has not the columns for an index.
                    _ => foreign(reason),
                });
            }
        }
        let columns = match probe(&mut connection).await {
            Ok(columns) => columns,
            Err(error) => return Err(foreign(of_database(error)?)),
        };
        for (name, found) in &columns {
            let is_right = match TEXTS.contains(&name.as_str()) {
                true => <String as Type<DB>>::compatible(found),
                false => <i64 as Type<DB>>::compatible(found),
            };
            if !is_right {
                return Err(foreign(format!("its column {name} is of type {found}")));
            }
        }
        // Privileges are looked at before rows.
        for statement in [
            "INSERT INTO ws_sessions (id, created_at, used_at) \
                 SELECT id, created_at, used_at FROM ws_sessions WHERE 1 = 0",
            "UPDATE ws_sessions SET used_at = 0 WHERE 1 = 0",
            "DELETE FROM ws_sessions WHERE 1 = 0",
        ] {
            if let Err(error) = connection.execute(statement).await {
                return Err(SchemaError::Forbidden(of_database(error)?));
            }
        }
        drop(connection);
        Ok(Self { pool })
    }
}

/// Looks what columns the table has.
async fn probe<DB: Dialect>(
    connection: &mut DB::Connection,
) -> Result<Vec<(String, DB::TypeInfo)>, sqlx::Error>
where
    for<'c> &'c mut DB::Connection: Executor<'c, Database = DB>,
{
    let sql = format!("SELECT {COLUMNS} FROM ws_sessions");
    let statement = connection
        .prepare(AssertSqlSafe(sql).into_sql_str())
        .await?;
    let columns = statement.columns().iter();
    Ok(columns
        .map(|one| (one.name().to_owned(), one.type_info().clone()))
        .collect())
}

/// The words of a database that answers; that it does not is another matter.
fn of_database(error: sqlx::Error) -> Result<String, ConnectError> {
    match (ConnectError::of_sql(&error), error) {
        (ConnectError::Unreachable(text), _) => Err(ConnectError::Unreachable(text)),
        (ConnectError::NotSqlite(text), _) => Err(ConnectError::NotSqlite(text)),
        (_, sqlx::Error::Database(error)) => Ok(error.message().to_owned()),
        (_, error) => Ok(error.to_string()),
    }
}

fn of_connection(error: sqlx::Error) -> ConnectError {
    ConnectError::of_sql(&error)
}

impl<DB: Dialect> SessionStore for SqlStore<DB>
where
    for<'c> &'c mut DB::Connection: Executor<'c, Database = DB>,
    DB::Arguments: IntoArguments<DB>,
    for<'v> String: Encode<'v, DB> + Decode<'v, DB> + Type<DB>,
    for<'v> Option<String>: Encode<'v, DB> + Decode<'v, DB> + Type<DB>,
    for<'v> i64: Encode<'v, DB> + Decode<'v, DB> + Type<DB>,
    for<'v> Option<i64>: Encode<'v, DB> + Decode<'v, DB> + Type<DB>,
    usize: ColumnIndex<DB::Row>,
{
    fn find<'a>(&'a self, ids: &'a [SessionId]) -> StoreFuture<'a, Vec<SessionRecord>> {
        Box::pin(async move {
            let mut records = Vec::new();
            for some in ids.chunks(ID_COUNTS[ID_COUNTS.len() - 1]) {
                let mut select = QueryBuilder::<DB>::new("SELECT ");
                select.push(COLUMNS).push(" FROM ws_sessions WHERE ");
                push_ids(&mut select, some);
                let rows = select.build().fetch_all(&self.pool).await;
                records.extend(rows.map_err(failed)?.iter().filter_map(record));
            }
            Ok(records)
        })
    }

    fn write<'a>(&'a self, changes: &'a Changes) -> StoreFuture<'a, ()> {
        Box::pin(async move {
            let mut transaction = self.pool.begin().await.map_err(failed)?;
            for some in changes.created.chunks(ROWS_AT_ONCE) {
                let mut insert = insertion::<DB>(some);
                // As many different statements are not worth to be kept.
                let is_whole = some.len() == ROWS_AT_ONCE || some.len() == 1;
                let insert = insert.build().persistent(is_whole);
                insert.execute(&mut *transaction).await.map_err(failed)?;
            }
            for (id, user) in &changes.users {
                let user = user.as_ref().map(|user| user.as_str().to_owned());
                let mut update = setting::<DB, _>("user_id", user, &[*id]);
                let update = update.build().execute(&mut *transaction).await;
                update.map_err(failed)?;
            }
            for (id, data) in &changes.data {
                let data = data.as_ref().map(|data| data.as_str().to_owned());
                let mut update = setting::<DB, _>("data", data, &[*id]);
                let update = update.build().execute(&mut *transaction).await;
                update.map_err(failed)?;
            }
            let used_at = changes.used_at.map(to_millis);
            for some in changes.used.chunks(ID_COUNTS[ID_COUNTS.len() - 1]) {
                let mut update = setting::<DB, _>("used_at", used_at.unwrap_or_default(), some);
                let update = update.build().execute(&mut *transaction).await;
                update.map_err(failed)?;
            }
            transaction.commit().await.map_err(failed)
        })
    }

    fn list<'a>(&'a self, query: &'a SessionQuery) -> StoreFuture<'a, Vec<SessionRecord>> {
        Box::pin(async move {
            let mut after = query.after.map_or_else(String::new, |id| id.to_string());
            let mut records = Vec::new();
            // Rows that count as absent leave room for others.
            while records.len() < query.limit {
                let wanted = query.limit - records.len();
                let mut select = QueryBuilder::<DB>::new("SELECT ");
                select.push(COLUMNS).push(" FROM ws_sessions WHERE id > ");
                select.push_bind(after);
                if let Some(user) = &query.user {
                    select
                        .push(" AND user_id = ")
                        .push_bind(user.as_str().to_owned());
                }
                let limit = i64::try_from(wanted).unwrap_or(i64::MAX);
                select.push(" ORDER BY id LIMIT ").push_bind(limit);
                let rows = select.build().fetch_all(&self.pool).await.map_err(failed)?;
                records.extend(rows.iter().filter_map(record));
                let last = rows.last().filter(|_| rows.len() == wanted);
                // What is no text is behind all that is.
                let Some(last) = last.and_then(|row| row.try_get::<String, _>(0).ok()) else {
                    break;
                };
                after = last;
            }
            Ok(records)
        })
    }

    fn remove<'a>(&'a self, ids: &'a [SessionId]) -> StoreFuture<'a, u64> {
        Box::pin(async move {
            let mut count = 0;
            for some in ids.chunks(ID_COUNTS[ID_COUNTS.len() - 1]) {
                let mut delete = QueryBuilder::<DB>::new("DELETE FROM ws_sessions WHERE ");
                push_ids(&mut delete, some);
                let deleted = delete.build().execute(&self.pool).await;
                count += DB::rows_affected(&deleted.map_err(failed)?);
            }
            Ok(count)
        })
    }

    fn purge<'a>(&'a self, purge: &'a Purge) -> StoreFuture<'a, u64> {
        Box::pin(async move {
            let mut delete = QueryBuilder::<DB>::new("DELETE FROM ws_sessions WHERE used_at < ");
            delete.push_bind(to_millis(purge.used_before));
            delete
                .push(" OR expires_at <= ")
                .push_bind(to_millis(purge.now));
            let deleted = delete.build().execute(&self.pool).await;
            let mut count = DB::rows_affected(&deleted.map_err(failed)?);
            if DB::IS_OWN {
                // A limit that is negative is none.
                let mut delete = QueryBuilder::<DB>::new(
                    "DELETE FROM ws_sessions WHERE id IN (SELECT id FROM ws_sessions \
                     ORDER BY used_at LIMIT max(0, (SELECT count(*) FROM ws_sessions) - ",
                );
                let keep = i64::try_from(purge.keep).unwrap_or(i64::MAX);
                delete.push_bind(keep).push("))");
                let deleted = delete.build().execute(&self.pool).await;
                count += DB::rows_affected(&deleted.map_err(failed)?);
            }
            Ok(count)
        })
    }
}

/// `id IN (...)`, filled up with the last one.
fn push_ids<DB: Database>(query: &mut QueryBuilder<DB>, ids: &[SessionId])
where
    for<'v> String: Encode<'v, DB> + Type<DB>,
{
    let Some(last) = ids.last() else {
        query.push("1 = 0");
        return;
    };
    let count = ID_COUNTS.into_iter().find(|count| *count >= ids.len());
    query.push("id IN (");
    let mut places = query.separated(", ");
    for at in 0..count.unwrap_or(ids.len()) {
        places.push_bind(ids.get(at).unwrap_or(last).to_string());
    }
    query.push(")");
}

fn setting<DB: Database, V>(column: &'static str, value: V, ids: &[SessionId]) -> QueryBuilder<DB>
where
    for<'v> V: Encode<'v, DB> + Type<DB>,
    for<'v> String: Encode<'v, DB> + Type<DB>,
{
    let mut update = QueryBuilder::new("UPDATE ws_sessions SET ");
    update.push(column).push(" = ").push_bind(value);
    update.push(" WHERE ");
    push_ids(&mut update, ids);
    update
}

fn insertion<DB: Dialect>(records: &[SessionRecord]) -> QueryBuilder<DB>
where
    for<'v> String: Encode<'v, DB> + Type<DB>,
    for<'v> Option<String>: Encode<'v, DB> + Type<DB>,
    for<'v> i64: Encode<'v, DB> + Type<DB>,
    for<'v> Option<i64>: Encode<'v, DB> + Type<DB>,
{
    let mut insert = QueryBuilder::new("INSERT INTO ws_sessions (");
    insert.push(COLUMNS).push(") ");
    insert.push_values(records, |mut row, record| {
        let user = record.user.as_ref().map(|user| user.as_str().to_owned());
        let data = record.data.as_ref().map(|data| data.as_str().to_owned());
        row.push_bind(record.id.to_string());
        row.push_bind(user);
        row.push_bind(record.addr.map(|addr| addr.to_string()));
        row.push_bind(to_millis(record.created_at));
        row.push_bind(to_millis(record.used_at));
        row.push_bind(record.expires_at.map(to_millis));
        row.push_bind(data);
    });
    insert.push(DB::OVERWRITE);
    insert
}

/// Reads a row; `None` if it is not one that we wrote.
fn record<DB: Database>(row: &DB::Row) -> Option<SessionRecord>
where
    for<'v> String: Decode<'v, DB> + Type<DB>,
    for<'v> Option<String>: Decode<'v, DB> + Type<DB>,
    for<'v> i64: Decode<'v, DB> + Type<DB>,
    for<'v> Option<i64>: Decode<'v, DB> + Type<DB>,
    usize: ColumnIndex<DB::Row>,
{
    let text = |at: usize| row.try_get::<Option<String>, _>(at).ok();
    let time = |at: usize| from_millis(row.try_get::<i64, _>(at).ok()?);
    let expires_at = row.try_get::<Option<i64>, _>(5).ok()?;
    Some(SessionRecord {
        id: text(0)??.parse().ok()?,
        user: read(text(1)?, |user| UserId::new(user).ok())?,
        addr: read(text(2)?, |addr| addr.parse().ok())?,
        created_at: time(3)?,
        used_at: time(4)?,
        expires_at: match expires_at {
            Some(millis) => Some(from_millis(millis)?),
            None => None,
        },
        data: read(text(6)?, |data| SessionData::new(data).ok())?,
    })
}

/// Reads what may be absent, but not wrong.
fn read<T>(text: Option<String>, parse: impl Fn(&str) -> Option<T>) -> Option<Option<T>> {
    match text {
        Some(text) => parse(&text).map(Some),
        None => Some(None),
    }
}

fn failed(error: sqlx::Error) -> StoreError {
    match ConnectError::of_sql(&error) {
        error @ (ConnectError::Unreachable(_) | ConnectError::File(_)) => {
            StoreError::Unavailable(error.to_string())
        }
        error => StoreError::Refused(error.to_string()),
    }
}

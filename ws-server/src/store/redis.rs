//! Sessions in Redis.

use std::collections::BTreeSet;
use std::collections::HashMap;
use std::fmt;
use std::time::{Duration, SystemTime};

use redis::aio::ConnectionManager;
use redis::{FromRedisValue as _, Pipeline, RedisError, Value, cmd};
use ws_session::{
    Changes, Purge, SessionData, SessionId, SessionQuery, SessionRecord, SessionStore, StoreError,
    StoreFuture, UserId, from_millis, to_millis,
};

use super::connect::ConnectError;

/// What the key of a session begins with; a hash is there.
const PREFIX: &str = "ws:session:";
/// How many sessions one request is about, so that none holds up the others of that server.
const AT_ONCE: usize = 256;
/// How many keys are looked at in one step of a listing.
const SCAN_COUNT: usize = 1000;

/// Sets fields of sessions that are there, and when they expire. `ARGV[1]` is how long an unused
/// one is kept; for each key follow the name of a field and its value, empty for none.
const UPDATE: &str = "\
    for at, key in ipairs(KEYS) do \
        if redis.call('TYPE', key)['ok'] == 'hash' then \
            local field, value = ARGV[2 * at], ARGV[2 * at + 1] \
            if value == '' then redis.call('HDEL', key, field) \
            else redis.call('HSET', key, field, value) end \
            local used = tonumber(redis.call('HGET', key, 'used_at') or '0') \
            local at = used + tonumber(ARGV[1]) \
            local ends = tonumber(redis.call('HGET', key, 'expires_at') or '') \
            if ends and ends < at then at = ends end \
            redis.call('PEXPIREAT', key, string.format('%.0f', at)) \
        end \
    end \
    return 0";

/// Sessions as hashes `ws:session:ID`, each of which Redis forgets when it has expired.
pub(crate) struct RedisStore {
    connection: ConnectionManager,
    /// How long an unused session is kept.
    ttl: Duration,
}

impl fmt::Debug for RedisStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("RedisStore")
    }
}

impl RedisStore {
    /// Takes a connection, and tries whether sessions may be written.
    ///
    /// # Errors
    ///
    /// [`ConnectError`] if they may not.
    pub(crate) async fn open(
        connection: ConnectionManager,
        ttl: Duration,
    ) -> Result<Self, ConnectError> {
        let store = Self { connection, ttl };
        let nobody = SessionId::of_name("");
        let trial = store.update(&[(nobody, "used_at", String::new())]).await;
        trial.map_err(|error| ConnectError::of_redis(&error))?;
        Ok(store)
    }

    async fn update(&self, changes: &[(SessionId, &str, String)]) -> Result<(), RedisError> {
        for some in changes.chunks(AT_ONCE) {
            let mut eval = cmd("EVAL");
            eval.arg(UPDATE).arg(some.len());
            for (id, _, _) in some {
                eval.arg(key(*id));
            }
            eval.arg(millis(self.ttl));
            for (_, field, value) in some {
                eval.arg(*field).arg(value);
            }
            eval.exec_async(&mut self.connection.clone()).await?;
        }
        Ok(())
    }

    async fn create(&self, records: &[SessionRecord]) -> Result<(), RedisError> {
        for some in records.chunks(AT_ONCE) {
            let mut pipeline = Pipeline::new();
            pipeline.atomic();
            for record in some {
                pipeline.cmd("DEL").arg(key(record.id)).ignore();
                let set = pipeline.cmd("HSET").arg(key(record.id));
                for (field, value) in fields(record) {
                    set.arg(field).arg(value);
                }
                set.ignore();
                let idle_end = to_millis(record.used_at).saturating_add(millis(self.ttl));
                let end = record.expires_at.map_or(i64::MAX, to_millis);
                let expiry = pipeline.cmd("PEXPIREAT").arg(key(record.id));
                expiry.arg(idle_end.min(end)).ignore();
            }
            pipeline.exec_async(&mut self.connection.clone()).await?;
        }
        Ok(())
    }

    async fn read(&self, ids: &[SessionId]) -> Result<Vec<SessionRecord>, RedisError> {
        let mut records = Vec::new();
        for some in ids.chunks(AT_ONCE) {
            let mut pipeline = Pipeline::new();
            for id in some {
                pipeline.cmd("HGETALL").arg(key(*id));
            }
            // Each answer is looked at on its own.
            pipeline.ignore_errors();
            let answers: Vec<Value> = pipeline.query_async(&mut self.connection.clone()).await?;
            for (id, answer) in some.iter().zip(answers) {
                match answer {
                    // Somebody else's key of that name is not a hash. Any other error says nothing
                    // of the session: to take it for absent would end it.
                    Value::ServerError(error) if error.code() == "WRONGTYPE" => {}
                    Value::ServerError(error) => return Err(error.into()),
                    answer => records.extend(record(*id, answer)),
                }
            }
        }
        Ok(records)
    }

    /// Finds the ids of all sessions.
    async fn scan(&self) -> Result<BTreeSet<SessionId>, RedisError> {
        let mut ids = BTreeSet::new();
        let mut cursor = 0_u64;
        loop {
            let mut scan = cmd("SCAN");
            scan.arg(cursor).arg("MATCH").arg(format!("{PREFIX}*"));
            scan.arg("COUNT").arg(SCAN_COUNT);
            let (next, keys): (u64, Vec<Vec<u8>>) =
                scan.query_async(&mut self.connection.clone()).await?;
            let id = |key: &Vec<u8>| {
                std::str::from_utf8(key)
                    .ok()?
                    .strip_prefix(PREFIX)?
                    .parse::<SessionId>()
                    .ok()
            };
            ids.extend(keys.iter().filter_map(id));
            if next == 0 {
                return Ok(ids);
            }
            cursor = next;
        }
    }

    async fn select(&self, query: &SessionQuery) -> Result<Vec<SessionRecord>, RedisError> {
        let ids = self.scan().await?;
        let ids: Vec<_> = ids
            .into_iter()
            .filter(|id| query.after.is_none_or(|after| *id > after))
            .collect();
        let mut records = Vec::new();
        for some in ids.chunks(AT_ONCE) {
            let found = self.read(some).await?.into_iter();
            records.extend(found.filter(|one| query.user.is_none() || one.user == query.user));
            if records.len() >= query.limit {
                break;
            }
        }
        records.truncate(query.limit);
        Ok(records)
    }
}

impl SessionStore for RedisStore {
    fn find<'a>(&'a self, ids: &'a [SessionId]) -> StoreFuture<'a, Vec<SessionRecord>> {
        Box::pin(async move { self.read(ids).await.map_err(failed) })
    }

    fn write<'a>(&'a self, changes: &'a Changes) -> StoreFuture<'a, ()> {
        Box::pin(async move {
            self.create(&changes.created).await.map_err(failed)?;
            let mut updates = Vec::new();
            for (id, user) in &changes.users {
                let user = user.as_ref().map(|user| user.as_str().to_owned());
                updates.push((*id, "user", user.unwrap_or_default()));
            }
            for (id, data) in &changes.data {
                // A letter before it tells nothing from none.
                let data = data.as_ref().map(|data| format!("={}", data.as_str()));
                updates.push((*id, "data", data.unwrap_or_default()));
            }
            let used_at = changes.used_at.map_or(0, to_millis).to_string();
            for id in &changes.used {
                updates.push((*id, "used_at", used_at.clone()));
            }
            self.update(&updates).await.map_err(failed)
        })
    }

    fn list<'a>(&'a self, query: &'a SessionQuery) -> StoreFuture<'a, Vec<SessionRecord>> {
        Box::pin(async move { self.select(query).await.map_err(failed) })
    }

    fn remove<'a>(&'a self, ids: &'a [SessionId]) -> StoreFuture<'a, u64> {
        Box::pin(async move {
            let mut count = 0;
            for some in ids.chunks(AT_ONCE) {
                let mut delete = cmd("DEL");
                for id in some {
                    delete.arg(key(*id));
                }
                let deleted: Result<u64, _> =
                    delete.query_async(&mut self.connection.clone()).await;
                count += deleted.map_err(failed)?;
            }
            Ok(count)
        })
    }

    fn purge<'a>(&'a self, _purge: &'a Purge) -> StoreFuture<'a, u64> {
        // Each key has a time at which Redis removes it.
        Box::pin(std::future::ready(Ok(0)))
    }
}

fn key(id: SessionId) -> String {
    format!("{PREFIX}{id}")
}

fn millis(duration: Duration) -> i64 {
    i64::try_from(duration.as_millis()).unwrap_or(i64::MAX / 2)
}

fn fields(record: &SessionRecord) -> Vec<(&'static str, String)> {
    let mut fields = vec![
        ("created_at", to_millis(record.created_at).to_string()),
        ("used_at", to_millis(record.used_at).to_string()),
    ];
    let optional = [
        ("user", record.user.as_ref().map(ToString::to_string)),
        ("address", record.addr.map(|addr| addr.to_string())),
        (
            "expires_at",
            record.expires_at.map(|at| to_millis(at).to_string()),
        ),
        (
            "data",
            record
                .data
                .as_ref()
                .map(|data| format!("={}", data.as_str())),
        ),
    ];
    let present = optional.into_iter();
    fields.extend(present.filter_map(|(field, value)| Some((field, value?))));
    fields
}

/// Reads a hash; `None` if there is none, or none that we wrote.
fn record(id: SessionId, answer: Value) -> Option<SessionRecord> {
    let fields = HashMap::<String, String>::from_redis_value(answer).ok()?;
    let time =
        |field: &str| -> Option<SystemTime> { from_millis(fields.get(field)?.parse().ok()?) };
    Some(SessionRecord {
        id,
        user: read(fields.get("user"), |user| UserId::new(user).ok())?,
        addr: read(fields.get("address"), |addr| addr.parse().ok())?,
        created_at: time("created_at")?,
        used_at: time("used_at")?,
        expires_at: read(fields.get("expires_at"), |end| {
            from_millis(end.parse().ok()?)
        })?,
        data: read(fields.get("data"), |data| {
            SessionData::new(data.strip_prefix('=')?).ok()
        })?,
    })
}

/// Reads what may be absent, but not wrong.
fn read<T>(text: Option<&String>, parse: impl Fn(&str) -> Option<T>) -> Option<Option<T>> {
    match text {
        Some(text) => parse(text).map(Some),
        None => Some(None),
    }
}

fn failed(error: RedisError) -> StoreError {
    match ConnectError::of_redis(&error) {
        error @ ConnectError::Unreachable(_) => StoreError::Unavailable(error.to_string()),
        error => StoreError::Refused(error.to_string()),
    }
}

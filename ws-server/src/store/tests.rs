//! The same suite for every store.

use std::io::{BufRead as _, BufReader, Write as _};
use std::net::TcpListener;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use proptest::strategy::{Strategy as _, ValueTree as _};
use proptest::test_runner::{Config, TestRunner};
use ws_session::testing::{StoreOp, compare_stores, store_op};
use ws_session::{MemoryStore, SessionQuery, SessionStore, StoreError};

use super::connect::{ConnectError, open_sqlite};
use super::open::open_at;
use super::sql::{SchemaError, SqlStore};
use super::{DatabaseUrl, StoreAddress};
use crate::testing::{DatabaseServer, PASSWORD, TestDatabase};

const TTL: Duration = Duration::from_secs(24 * 60 * 60);
/// How many sequences of operations are tried on a store that does I/O.
const CASES: usize = 40;

fn runtime() -> tokio::runtime::Runtime {
    let mut builder = tokio::runtime::Builder::new_current_thread();
    builder.enable_all().build().unwrap()
}

fn server(url: &str) -> StoreAddress {
    StoreAddress::Server(DatabaseUrl::parse(url).unwrap())
}

async fn clear(store: &dyn SessionStore) {
    let all = SessionQuery {
        user: None,
        after: None,
        limit: 1000,
    };
    let records = store.list(&all).await.unwrap();
    let ids: Vec<_> = records.iter().map(|record| record.id).collect();
    store.remove(&ids).await.unwrap();
}

/// Does the same to the store and to the one in memory, again and again.
async fn check(store: &dyn SessionStore, purges: bool) {
    let mut runner = TestRunner::new(Config::default());
    let ops = proptest::collection::vec(store_op(8), 1..20);
    for _ in 0..CASES {
        clear(store).await;
        let mut ops = ops.new_tree(&mut runner).unwrap().current();
        ops.retain(|op| purges || !matches!(op, StoreOp::Purge(_)));
        if let Err(difference) = compare_stores(store, &ops).await {
            panic!("{difference}\n{ops:#?}");
        }
    }
    // More than one statement takes.
    clear(store).await;
    let mut many = Vec::new();
    let record = ws_session::testing::session_record(1);
    let record = record.new_tree(&mut runner).unwrap().current();
    for number in 0..700 {
        let mut record = record.clone();
        record.id = ws_session::SessionId::of_name(&number.to_string());
        many.push(record);
    }
    let ids: Vec<_> = many.iter().map(|record| record.id).collect();
    let changes = ws_session::Changes {
        created: many,
        used: ids.clone(),
        used_at: Some(record.used_at),
        ..ws_session::Changes::default()
    };
    let all = SessionQuery {
        user: None,
        after: None,
        limit: 650,
    };
    let ops = [
        StoreOp::Write(changes),
        StoreOp::Find(ids.clone()),
        StoreOp::List(all),
        StoreOp::Remove(ids),
    ];
    compare_stores(store, &ops).await.unwrap();
}

#[test]
fn prop_the_memory_store_keeps_the_contract() {
    runtime().block_on(check(&MemoryStore::default(), true));
}

#[test]
fn prop_the_sqlite_store_keeps_the_contract() {
    let dir = tempfile::tempdir().unwrap();
    let address = StoreAddress::Sqlite(dir.path().join("s.db"));
    runtime().block_on(async {
        let store = open_at(&address, TTL).await.unwrap();
        check(&*store, true).await;
    });
}

fn check_server(database: TestDatabase) {
    let Some(server_process) = DatabaseServer::start(database) else {
        return;
    };
    runtime().block_on(async {
        let address = server(&server_process.url());
        let store = open_at(&address, TTL).await.unwrap();
        check(&*store, database != TestDatabase::Redis).await;
        // Whoever opens it a second time finds what is there.
        let again: Arc<dyn SessionStore> = open_at(&address, TTL).await.unwrap();
        check(&*again, false).await;
    });
    wrong_servers_are_told_apart(&server_process, database);
}

/// What is wrong is said at the start, without the password.
fn wrong_servers_are_told_apart(process: &DatabaseServer, database: TestDatabase) {
    let fail = |url: &str| {
        let opened = runtime().block_on(open_at(&server(url), TTL));
        let error = opened.expect_err("this does not open");
        assert!(!error.to_string().contains(PASSWORD), "{error}");
        error
    };
    let wrong = format!("{PASSWORD}-of-another");
    let error = fail(&process.url_as("ws", &wrong, "ws"));
    assert!(
        matches!(error, SchemaError::Connect(ConnectError::Credentials(_))),
        "{error:?}"
    );
    match database {
        TestDatabase::Redis => return,
        TestDatabase::MariaDb => {
            process.execute("GRANT ALL ON none.* TO ws@localhost; FLUSH PRIVILEGES");
        }
        TestDatabase::Postgres => {}
    }
    let error = fail(&process.url_as("ws", PASSWORD, "none"));
    assert!(
        matches!(error, SchemaError::Connect(ConnectError::NoDatabase(_))),
        "{error:?}"
    );
    match database {
        TestDatabase::MariaDb => process.execute(&format!(
            "CREATE USER reader@localhost IDENTIFIED BY '{PASSWORD}'; \
             GRANT SELECT ON ws.* TO reader@localhost; CREATE DATABASE empty; \
             GRANT SELECT ON empty.* TO reader@localhost"
        )),
        _ => process.execute(&format!(
            "CREATE USER reader PASSWORD '{PASSWORD}'; GRANT SELECT ON ws_sessions TO reader;"
        )),
    };
    let error = fail(&process.url_as("reader", PASSWORD, "ws"));
    assert!(matches!(error, SchemaError::Forbidden(_)), "{error:?}");
    let other = match database {
        TestDatabase::MariaDb => "empty",
        _ => "postgres",
    };
    let error = fail(&process.url_as("reader", PASSWORD, other));
    assert!(matches!(error, SchemaError::Missing { .. }), "{error:?}");
    assert!(error.to_string().contains("CREATE TABLE"), "{error}");
    if database == TestDatabase::Postgres {
        process.execute("CREATE DATABASE latin ENCODING 'LATIN1' LOCALE 'C' TEMPLATE template0");
        let error = fail(&process.url_as("ws", PASSWORD, "latin"));
        assert!(matches!(error, SchemaError::Encoding { .. }), "{error:?}");
    }
    let in_db = match database {
        TestDatabase::MariaDb => "ws.ws_sessions",
        _ => "ws_sessions",
    };
    process.execute(&format!("DROP TABLE {in_db}"));
    process.execute(&format!("CREATE TABLE {in_db} (id INTEGER, name TEXT)"));
    let error = fail(&process.url());
    assert!(matches!(error, SchemaError::Foreign { .. }), "{error:?}");
    process.execute(&format!("DROP TABLE {in_db}"));
    process.execute(&format!(
        "CREATE TABLE {in_db} (id VARCHAR(32) PRIMARY KEY, user_id TEXT, address TEXT, \
         created_at TEXT, used_at BIGINT, expires_at BIGINT, data TEXT)"
    ));
    let error = fail(&process.url());
    assert!(error.to_string().contains("created_at"), "{error}");
}

#[test]
fn prop_mariadb_keeps_the_contract() {
    check_server(TestDatabase::MariaDb);
}

#[test]
fn prop_postgresql_keeps_the_contract() {
    check_server(TestDatabase::Postgres);
}

#[test]
fn prop_redis_keeps_the_contract() {
    check_server(TestDatabase::Redis);
}

#[test]
fn redis_forgets_a_session_when_it_expires() {
    let Some(process) = DatabaseServer::start(TestDatabase::Redis) else {
        return;
    };
    runtime().block_on(async {
        let store = open_at(&server(&process.url()), TTL).await.unwrap();
        let now = std::time::SystemTime::now();
        let mut record = ws_session::SessionRecord {
            id: ws_session::SessionId::of_name("a"),
            user: None,
            addr: None,
            created_at: now,
            used_at: now,
            expires_at: None,
            data: None,
        };
        let write = async |record: &ws_session::SessionRecord| {
            let changes = ws_session::Changes {
                created: vec![record.clone()],
                ..ws_session::Changes::default()
            };
            store.write(&changes).await.unwrap();
            let key = format!("PTTL ws:session:{}", record.id);
            process.execute(&key).parse::<i64>().unwrap()
        };
        let left = write(&record).await;
        assert!((80_000_000..=86_400_000).contains(&left), "{left}");
        record.expires_at = Some(now + Duration::from_secs(100));
        let left = write(&record).await;
        assert!((50_000..=100_000).contains(&left), "{left}");
        record.used_at = now - 2 * TTL;
        assert_eq!(write(&record).await, -2);
        assert!(store.find(&[record.id]).await.unwrap().is_empty());
        // Somebody else's key does not spoil the others.
        let other = ws_session::SessionId::of_name("b");
        process.execute(&format!("SET ws:session:{other} x"));
        record.used_at = now;
        write(&record).await;
        let found = store.find(&[other, record.id]).await.unwrap();
        assert_eq!(found.len(), 1);
        let changes = ws_session::Changes {
            used: vec![other, record.id],
            used_at: Some(now),
            ..ws_session::Changes::default()
        };
        store.write(&changes).await.unwrap();
    });
}

/// Gives these answers to `HGETALL`, and good ones to all else, to whoever comes first. The thread
/// ends when that one leaves.
fn redis_that_says(answers: Vec<&'static str>) -> (StoreAddress, std::thread::JoinHandle<()>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("redis://{}", listener.local_addr().unwrap());
    let serve = move || {
        let mut stream = listener.accept().unwrap().0;
        let mut reader = BufReader::new(stream.try_clone().unwrap());
        let mut answers = answers.into_iter();
        let mut line = String::new();
        let mut next_line = move || {
            line.clear();
            let size = reader.read_line(&mut line).unwrap_or(0);
            (size > 0).then(|| line.trim_end().to_owned())
        };
        while let Some(count) = next_line() {
            let count: usize = count.strip_prefix('*').unwrap().parse().unwrap();
            // Each word has a line that tells its size. None that we send has line breaks.
            let words: Vec<_> = (0..2 * count).map(|_| next_line().unwrap()).collect();
            let answer = match words[1].as_str() {
                "HGETALL" => answers.next().unwrap(),
                "EVAL" => ":0",
                "PING" => "+PONG",
                _ => "+OK",
            };
            stream
                .write_all(format!("{answer}\r\n").as_bytes())
                .unwrap();
        }
    };
    (server(&url), std::thread::spawn(serve))
}

#[test]
fn a_redis_that_answers_with_errors_has_not_said_that_a_session_is_gone() {
    let errors = [
        ("-LOADING Redis is loading the dataset in memory", true),
        ("-MASTERDOWN Link with MASTER is down", true),
        ("-CLUSTERDOWN The cluster is down", true),
        ("-NOAUTH Authentication required.", false),
        (
            "-NOPERM this user has no permissions to run 'hgetall'",
            false,
        ),
        ("-MOVED 3999 127.0.0.1:6381", false),
        ("-ERR something else", false),
    ];
    let mut answers: Vec<_> = errors.iter().map(|(error, _)| *error).collect();
    answers.extend(["-WRONGTYPE a key of another kind", "*0"]);
    // One that is there does not make up for one that nothing is known of.
    answers.extend(["*0", "-LOADING Redis is loading the dataset in memory"]);
    let (address, thread) = redis_that_says(answers);
    runtime().block_on(async {
        let store = open_at(&address, TTL).await.unwrap();
        let id = |name| ws_session::SessionId::of_name(name);
        for (said, is_outage) in errors {
            let error = store.find(&[id("a")]).await.expect_err(said);
            let is_unavailable = matches!(error, StoreError::Unavailable(_));
            assert_eq!(is_unavailable, is_outage, "{said}: {error:?}");
        }
        assert_eq!(store.find(&[id("a"), id("b")]).await, Ok(vec![]));
        store.find(&[id("a"), id("b")]).await.unwrap_err();
    });
    thread.join().unwrap();
}

fn open_file(path: &Path) -> Result<(), SchemaError> {
    let address = StoreAddress::Sqlite(path.to_owned());
    runtime().block_on(open_at(&address, TTL)).map(|_| ())
}

#[test]
fn a_file_that_is_no_database_is_told() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("s.db");
    std::fs::write(
        &path,
        "not a database, but long enough to be looked at".repeat(100),
    )
    .unwrap();
    let error = open_file(&path).unwrap_err();
    assert!(
        matches!(error, SchemaError::Connect(ConnectError::NotSqlite(_))),
        "{error:?}"
    );
    let error = open_file(&dir.path().join("none/s.db")).unwrap_err();
    assert!(
        matches!(error, SchemaError::Connect(ConnectError::File(_))),
        "{error:?}"
    );
    let error = open_file(dir.path()).unwrap_err();
    assert!(
        matches!(error, SchemaError::Connect(ConnectError::File(_))),
        "{error:?}"
    );
}

#[test]
fn a_table_of_somebody_else_is_told() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("s.db");
    let execute = |statement: &'static str| {
        runtime().block_on(async {
            let pool = open_sqlite(&path).await.unwrap();
            sqlx::query(statement).execute(&pool).await.unwrap();
            pool.close().await;
        });
    };
    execute("CREATE TABLE ws_sessions (id INTEGER)");
    let error = open_file(&path).unwrap_err();
    assert!(matches!(error, SchemaError::Foreign { .. }), "{error:?}");
    execute("DROP TABLE ws_sessions");
    execute(
        "CREATE TABLE ws_sessions (id TEXT, user_id TEXT, address TEXT, created_at TEXT, \
         used_at INTEGER, expires_at INTEGER, data TEXT)",
    );
    let error = open_file(&path).unwrap_err();
    assert!(error.to_string().contains("created_at"), "{error}");
}

/// In SQLite a column holds whatever is put into it.
#[test]
fn rows_that_are_not_ours_count_as_absent() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("s.db");
    runtime().block_on(async {
        let pool = open_sqlite(&path).await.unwrap();
        let store = SqlStore::open(pool.clone()).await.unwrap();
        let good = ws_session::SessionId::of_name("good").to_string();
        for (id, user, created, data) in [
            ("'x'".to_owned(), "NULL", "1", "NULL"),
            (format!("'{}'", "A".repeat(32)), "NULL", "1", "NULL"),
            (format!("'{}'", "a".repeat(32)), "'two words'", "1", "NULL"),
            (format!("'{}'", "b".repeat(32)), "x'ff00'", "1", "NULL"),
            (format!("'{}'", "c".repeat(32)), "NULL", "'text'", "NULL"),
            (format!("'{}'", "d".repeat(32)), "NULL", "-1", "NULL"),
            (format!("'{}'", "e".repeat(32)), "NULL", "1e300", "NULL"),
            (format!("'{}'", "f".repeat(32)), "NULL", "1", "char(10)"),
            (format!("'{good}'"), "'u'", "1", "'d'"),
        ] {
            let insert = format!(
                "INSERT INTO ws_sessions VALUES ({id}, {user}, NULL, {created}, 1, NULL, {data})"
            );
            let insert = sqlx::query(sqlx::AssertSqlSafe(insert))
                .execute(&pool)
                .await;
            insert.unwrap();
        }
        let all = SessionQuery {
            user: None,
            after: None,
            limit: 100,
        };
        let listed = store.list(&all).await.unwrap();
        assert_eq!(listed.len(), 1, "{listed:?}");
        assert_eq!(listed[0].id.to_string(), good);
        // Nor do they end a list before its end, where somebody would be missed.
        for limit in 1..10 {
            let page = SessionQuery {
                limit,
                ..all.clone()
            };
            assert_eq!(store.list(&page).await.unwrap(), listed, "{limit}");
        }
    });
}

//! Sessions of other applications in databases.

use std::process::Stdio;

use nix::sys::signal::Signal;
use ws_server::testing::{DatabaseServer, PASSWORD, TestDatabase};

use super::*;

const QUERY: &str = "SELECT user_id FROM app_sessions WHERE session_id = ?";
const POSTGRES_QUERY: &str = "SELECT user_id FROM app_sessions WHERE session_id = $1";

/// A server that looks up the cookie `app` there.
fn asker(source: &str) -> Setup {
    Setup::new()
        .app(WHO)
        .set("identity.lookup.source", source)
        .set("identity.lookup.cookie", "app")
        // As many descriptors at the end as at the beginning.
        .set("identity.lookup.concurrency", "1")
}

fn fill(database: &DatabaseServer, place: &str) {
    database.execute(&format!(
        "{place}CREATE TABLE app_sessions (session_id VARCHAR(64), user_id VARCHAR(300), number BIGINT); \
         INSERT INTO app_sessions VALUES ('alices', 'alice', 7), ('nobodys', NULL, NULL), \
         ('twice', 'alice', 7), ('twice', 'bob', 8), ('spaced', 'a b', 9), ('empty', '', 10);",
    ));
}

async fn who_in(server: &Server, session: &str) -> Result<String, u16> {
    who_with_cookie(server, &format!("app={session}")).await
}

/// What holds in every SQL database.
async fn check_sql(server: Server) {
    assert_eq!(who_in(&server, "alices").await.as_deref(), Ok("alice"));
    for nobody in [
        "nobodys",
        "none",
        "empty",
        "' OR '1'='1",
        "alices' --",
        "%",
        "\\",
    ] {
        assert_eq!(who_in(&server, nobody).await, Err(401), "{nobody}");
    }
    for wrong in ["twice", "spaced"] {
        assert_eq!(who_in(&server, wrong).await, Err(503), "{wrong}");
    }
    assert_eq!(who(&server, &[]).await, Err(401));
    assert_eq!(server.figure("identities.identified_by.lookup"), 1);
    assert_eq!(server.figure("identities.refused_by.unreadable"), 2);
    assert_eq!(server.figure("identities.refused_by.missing"), 8);
    let log = server.finish();
    assert!(!log.contains(PASSWORD), "the log has the password:\n{log}");
    assert!(!log.contains("alices"), "the log names a session:\n{log}");
}

#[tokio::test]
async fn sqlite_says_whose_session_it_is() {
    let setup = asker("sqlite:app.db");
    let made = std::process::Command::new("sqlite3")
        .arg(setup.dir().join("app.db"))
        .arg(
            "CREATE TABLE app_sessions (session_id TEXT, user_id TEXT, number INTEGER); \
             INSERT INTO app_sessions VALUES ('alices', 'alice', 7), ('nobodys', NULL, NULL), \
             ('twice', 'alice', 7), ('twice', 'bob', 8), ('spaced', 'a b', 9), ('empty', '', 10);",
        )
        .stdin(Stdio::null())
        .status();
    if !made.is_ok_and(|status| status.success()) {
        return;
    }
    let server = setup
        .set("identity.lookup.query", QUERY)
        .set("identity.required", "true")
        .start();
    check_sql(server).await;
}

#[tokio::test]
async fn mariadb_says_whose_session_it_is() {
    let Some(database) = DatabaseServer::start(TestDatabase::MariaDb) else {
        return;
    };
    fill(&database, "USE ws; ");
    let server = asker(&database.url())
        .set("identity.lookup.query", QUERY)
        .set("identity.required", "true")
        .start();
    check_sql(server).await;

    // Numbers are their decimal text; what is neither is refused. CarbonPHP's ids are bytes.
    database.execute(
        "USE ws; CREATE TABLE carbon_user_sessions (user_id BINARY(16) NOT NULL, user_ip VARCHAR(20), \
         session_id VARCHAR(255) NOT NULL PRIMARY KEY, session_expires DATETIME NOT NULL, \
         session_data TEXT, user_online_status TINYINT(1) DEFAULT 1); \
         INSERT INTO carbon_user_sessions VALUES \
         (UNHEX('11ED8B7EC1A5D5A3A1B20242AC120002'), NULL, 'carbons', NOW() + INTERVAL 1 DAY, NULL, 1), \
         (UNHEX('11ED8B7EC1A5D5A3A1B20242AC120002'), NULL, 'old', NOW() - INTERVAL 1 DAY, NULL, 1), \
         (UNHEX('00'), NULL, 'guests', NOW() + INTERVAL 1 DAY, NULL, 1);",
    );
    for (query, session, expected) in [
        (
            "SELECT number FROM app_sessions WHERE session_id = ?",
            "alices",
            Ok("7"),
        ),
        (
            "SELECT 1.5 FROM app_sessions WHERE session_id = ?",
            "alices",
            Err(503),
        ),
        (
            "SELECT NOW() FROM app_sessions WHERE session_id = ?",
            "alices",
            Err(503),
        ),
        (
            "SELECT user_id FROM carbon_user_sessions WHERE session_id = ?",
            "carbons",
            Err(503),
        ),
        (CARBON, "carbons", Ok("11ED8B7EC1A5D5A3A1B20242AC120002")),
        (CARBON, "old", Err(401)),
        (CARBON, "guests", Err(401)),
    ] {
        let server = asker(&database.url())
            .set("identity.lookup.query", query)
            .set("identity.required", "true")
            .start();
        let end = who_in(&server, session).await;
        assert_eq!(end.as_deref(), expected.as_ref().copied(), "{query}");
        server.finish();
    }
}

/// The recipe of the documentation.
const CARBON: &str = "SELECT NULLIF(HEX(user_id), REPEAT('0', 32)) FROM carbon_user_sessions \
     WHERE session_id = ? AND session_expires > NOW()";

#[tokio::test]
async fn postgresql_says_whose_session_it_is() {
    let Some(database) = DatabaseServer::start(TestDatabase::Postgres) else {
        return;
    };
    fill(&database, "");
    let server = asker(&database.url())
        .set("identity.lookup.query", POSTGRES_QUERY)
        .set("identity.required", "true")
        .start();
    check_sql(server).await;
    for (column, expected) in [
        ("number", Ok("7")),
        ("number::int", Ok("7")),
        ("number::smallint", Ok("7")),
        ("number::float8", Err(503)),
        ("number = 7", Err(503)),
    ] {
        let query = format!("SELECT {column} FROM app_sessions WHERE session_id = $1");
        let server = asker(&database.url())
            .set("identity.lookup.query", &*query)
            .start();
        let end = who_in(&server, "alices").await;
        assert_eq!(end.as_deref(), expected.as_ref().copied(), "{column}");
        server.finish();
    }
    // A cookie that is of another type than the others is no outage, and not in the log.
    let query = "SELECT user_id FROM app_sessions WHERE md5(session_id)::uuid = $1::uuid";
    let server = asker(&database.url())
        .set("identity.lookup.query", query)
        .set("log.level", "debug")
        .start();
    let alice = who_in(&server, "12a2fa0fa6ac7aec200d88dec1612d05").await;
    assert_eq!(alice.as_deref(), Ok("alice"));
    assert_eq!(who_in(&server, "canary").await, Err(503));
    assert_eq!(server.figure("identities.refused_by.unreadable"), 1);
    let log = server.finish();
    assert!(log.contains("22P02"), "the log does not say why:\n{log}");
    assert!(!log.contains("canary"), "the log has the cookie:\n{log}");
    assert!(!log.contains("sessions of the application"), "{log}");
}

#[tokio::test]
async fn redis_says_whose_session_it_is() {
    let Some(database) = DatabaseServer::start(TestDatabase::Redis) else {
        return;
    };
    database.execute("SET s:alices-0123456789abcdef alice");
    database.execute("SET s:empty-0123456789abcdef ");
    database.execute("HSET s:hash-0123456789abcdef user bob n 7");
    let laravel = r#"a:2:{s:6:"_token";s:1:"x";s:9:"login_web";i:7;}"#;
    let laravel = format!("s:{}:\"{laravel}\";", laravel.len());
    database.execute(&format!("SET s:laravel-0123456789abcdef {laravel}"));
    database.execute(r#"SET s:json-0123456789abcdef {"user":{"id":8}}"#);
    let asker = |settings: &[(&str, &str)]| {
        let setup = asker(&database.url())
            .set("identity.lookup.key", "s:{cookie}")
            .set("identity.required", "true");
        let set = |setup: Setup, (key, value): &(&str, &str)| {
            setup.set(&format!("identity.lookup.{key}"), *value)
        };
        settings.iter().fold(setup, set).start()
    };
    let server = asker(&[]);
    assert_eq!(
        who_in(&server, "alices-0123456789abcdef").await.as_deref(),
        Ok("alice")
    );
    assert_eq!(who_in(&server, "none-0123456789abcdef").await, Err(401));
    assert_eq!(who_in(&server, "empty-0123456789abcdef").await, Err(401));
    assert_eq!(who_in(&server, "hash-0123456789abcdef").await, Err(503));
    // Whoever could name any key could be any user.
    database.execute("SET s:stats:visitors-of-today 7");
    database.execute("SET s:short 7");
    for other in ["stats:visitors-of-today", "short", "s:%20", "*"] {
        assert_eq!(who_in(&server, other).await, Err(401), "{other}");
    }
    assert_eq!(server.figure("identities.refused_by.malformed"), 4);
    server.finish();
    for (settings, session, expected) in [
        (&[("field", "user")][..], "hash-0123456789abcdef", Ok("bob")),
        (&[("field", "n")], "hash-0123456789abcdef", Ok("7")),
        (&[("field", "x")], "hash-0123456789abcdef", Err(401)),
        (
            &[("format", "php"), ("user_key", "login_web")],
            "laravel-0123456789abcdef",
            Ok("7"),
        ),
        (
            &[("format", "php"), ("user_key", "login_api")],
            "laravel-0123456789abcdef",
            Err(401),
        ),
        (
            &[("format", "php"), ("user_key", "id")],
            "alices-0123456789abcdef",
            Err(503),
        ),
        (
            &[("format", "json"), ("user_key", "user.id")],
            "json-0123456789abcdef",
            Ok("8"),
        ),
        (
            &[("format", "json"), ("user_key", "user")],
            "json-0123456789abcdef",
            Err(503),
        ),
    ] {
        let server = asker(settings);
        let end = who_in(&server, session).await;
        assert_eq!(end.as_deref(), expected.as_ref().copied(), "{settings:?}");
        server.finish();
    }
    // An application that keeps no name that a browser could bring.
    let hash = "2bd806c97f0e00af1a1fc3328fa763a9269723c8db8fac4f93af71db186d6e90";
    database.execute(&format!("SET s:{hash} carol"));
    let server = asker(&[("cookie_hash", "sha256")]);
    assert_eq!(who_in(&server, "alice").await.as_deref(), Ok("carol"));
    server.finish();
}

#[tokio::test]
async fn a_database_that_is_down_lets_nobody_in_and_closes_nobody() {
    let Some(mut database) = DatabaseServer::start(TestDatabase::Redis) else {
        return;
    };
    database.execute("SET s:alices-0123456789abcdef alice");
    database.execute("SAVE");
    let server = asker(&database.url())
        .set("identity.lookup.key", "s:{cookie}")
        .set("identity.lookup.recheck", "1s")
        .set("identity.lookup.timeout", "500ms")
        .validate("echo everybody")
        .start();
    let headers = [("Cookie", "app=alices-0123456789abcdef")];
    let mut client = server.connect_with("/", &headers).await.unwrap();
    database.signal(Signal::SIGSTOP);
    assert_eq!(who_in(&server, "alices-0123456789abcdef").await, Err(503));
    assert_eq!(server.figure("sockets.refused_by.identity_failed"), 1);
    database.signal(Signal::SIGCONT);
    database.stop();
    assert_eq!(who_in(&server, "alices-0123456789abcdef").await, Err(503));
    server.until("identities.rechecks_failed", 1);
    assert_eq!(ask(&mut client, "who?").await, "alice");
    // Those who bring nothing have nothing to do with it.
    assert_eq!(who(&server, &[]).await.as_deref(), Ok("everybody"));

    database.restart();
    let mut last = Err(0);
    let deadline = std::time::Instant::now() + PATIENCE;
    while last.as_deref() != Ok("alice") && std::time::Instant::now() < deadline {
        last = who_in(&server, "alices-0123456789abcdef").await;
    }
    assert_eq!(last.as_deref(), Ok("alice"));
    database.execute("DEL s:alices-0123456789abcdef");
    assert_eq!(close_code(&mut client).await, 1008);
    bye(client).await;
    server.finish();
}

#[tokio::test]
async fn a_lookup_that_cannot_work_is_told_at_the_start() {
    let Some(database) = DatabaseServer::start(TestDatabase::MariaDb) else {
        return;
    };
    fill(&database, "USE ws; ");
    let wrong = "SELECT nothing FROM app_sessions WHERE session_id = ?";
    for (source, query, expected) in [
        (database.url(), wrong, "nothing"),
        (database.url_as("ws", "no", "ws"), QUERY, "credentials"),
        (database.url_as("ws", PASSWORD, "no"), QUERY, "credentials"),
        ("sqlite:none.db".to_owned(), QUERY, "cannot be opened"),
    ] {
        let output = asker(&source).set("identity.lookup.query", query).fail();
        let told = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(78), "{told}");
        assert!(
            told.contains("identity.lookup") && told.contains(expected),
            "{told}"
        );
        assert!(!told.contains(PASSWORD), "{told}");
    }
}

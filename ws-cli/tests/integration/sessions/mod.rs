//! Sessions that last: what a restart, an outage of the store, an operator and time do to them.

mod encrypted;
mod outages;
mod starts;

use std::path::Path;
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tempfile::TempDir;
use tokio_tungstenite::tungstenite::Message;

use crate::support::*;
use crate::wire::*;

/// A server whose sessions are in that directory, with whatever happens to its own.
fn keeping_in(dir: &Path) -> Setup {
    Setup::new().set("identity.store", format!("sqlite:{}/s.db", dir.display()))
}

/// The session of a visitor with this cookie, whose application says `WS_SESSION_ID`, or of a new
/// one; and whether it got another cookie.
async fn session_of(server: &Server, cookie: &str) -> String {
    let headers = [("Cookie", cookie)];
    let mut client = server.connect_with("/", &headers).await.unwrap();
    let session = ask(&mut client, "who?").await;
    bye(client).await;
    session
}

/// An application that says which session it is in.
const WHO: &str = r#"echo "$WS_SESSION_ID""#;

fn sessions(server: &Server, query: &str) -> Vec<Value> {
    let (status, answer) = server.control("GET", &format!("/v1/sessions{query}"), "");
    assert_eq!(status, 200, "{answer}");
    let answer: Value = serde_json::from_str(&answer).unwrap();
    answer["sessions"].as_array().unwrap().clone()
}

#[tokio::test]
async fn a_restart_keeps_a_cookie_good() {
    let dir = TempDir::new().unwrap();
    let server = keeping_in(dir.path()).app(WHO).start();
    let (mut client, cookie) = server.connect_for_cookie().await;
    let session = ask(&mut client, "who?").await;
    bye(client).await;
    let log = server.finish();
    let token = cookie.split_once('=').unwrap().1;
    assert!(!log.contains(token));
    // What SQLite has not moved yet is in the file beside it.
    let mut stored = std::fs::read(dir.path().join("s.db")).unwrap();
    stored.extend(std::fs::read(dir.path().join("s.db-wal")).unwrap_or_default());
    let is_in_file = |text: &str| {
        let text = text.as_bytes();
        stored.windows(text.len()).any(|part| part == text)
    };
    assert!(is_in_file(&session) && !is_in_file(token));

    let server = keeping_in(dir.path()).app(WHO).start();
    assert_eq!(session_of(&server, &cookie).await, session);
    assert_eq!(server.figure("identity.found"), 1);
    // From now on it is in memory.
    assert_eq!(session_of(&server, &cookie).await, session);
    assert_eq!(server.figure("identity.found"), 1);
    // A token of somebody's own making costs a question, and is replaced.
    let forged = format!("ws_session={}", "A".repeat(43));
    assert_ne!(session_of(&server, &forged).await, session);
    assert_eq!(server.figure("identity.not_found"), 1);
    server.finish();
}

/// What was written is there though nobody could say goodbye.
#[tokio::test]
async fn a_server_that_is_killed_loses_the_last_moments_at_most() {
    let server = Setup::new().app(WHO).start();
    let (mut client, cookie) = server.connect_for_cookie().await;
    let session = ask(&mut client, "who?").await;
    server.until("identity.changes_waiting", 0);
    let server = server.kill().app(WHO).start();
    assert_eq!(session_of(&server, &cookie).await, session);
    server.finish();
}

#[tokio::test]
async fn in_memory_a_restart_forgets() {
    let setup = || Setup::new().set("identity.store", "memory").app(WHO);
    let server = setup().start();
    let (mut client, cookie) = server.connect_for_cookie().await;
    let session = ask(&mut client, "who?").await;
    bye(client).await;
    assert_eq!(session_of(&server, &cookie).await, session);
    server.finish();
    let server = setup().start();
    assert_ne!(session_of(&server, &cookie).await, session);
    server.finish();
}

/// The application keeps what it likes in a session, and a restart of the server keeps it.
#[tokio::test]
async fn data_of_the_application_lasts() {
    const VALIDATION: &str = r#"printf 'X-WS-User: ann\n'
        [ -n "$WS_SESSION_DATA" ] || printf 'X-WS-Data: of the validation\n'
        echo"#;
    const APP: &str = r#"message=$(cat)
        case "$message" in
            set:*) printf 'X-WS-Data: %s\n' "${message#set:}" ;;
            large) printf 'X-WS-Data: %05000d\n' 1 ;;
        esac
        printf '\n%s' "$WS_SESSION_DATA""#;
    let dir = TempDir::new().unwrap();
    let setup = || {
        keeping_in(dir.path())
            .validate(VALIDATION)
            .set("validate.output", "cgi")
            .set("app.output", "cgi")
            .set("app.empty_reply", "(nothing)")
            .set("app.error_reply", "(failed)")
            .app(APP)
    };
    let server = setup().start();
    let (mut client, cookie) = server.connect_for_cookie().await;
    assert_eq!(ask(&mut client, "get").await, "of the validation");
    assert_eq!(
        ask(&mut client, "set:a 'b' \"ü\" %").await,
        "of the validation"
    );
    assert_eq!(ask(&mut client, "get").await, "a 'b' \"ü\" %");
    assert_eq!(ask(&mut client, "large").await, "(failed)");
    assert_eq!(ask(&mut client, "get").await, "a 'b' \"ü\" %");
    bye(client).await;
    let log = server.finish();
    assert!(!log.contains("a 'b'"), "it is the application's secret");

    let server = setup().start();
    let headers = [("Cookie", &*cookie)];
    let mut client = server.connect_with("/", &headers).await.unwrap();
    assert_eq!(ask(&mut client, "get").await, "a 'b' \"ü\" %");
    assert_eq!(ask(&mut client, "set:").await, "a 'b' \"ü\" %");
    assert_eq!(ask(&mut client, "get").await, "(nothing)");
    let listed = &sessions(&server, "?user=ann")[0];
    assert_eq!(
        (&listed["data_bytes"], &listed["connections"]),
        (&json!(0), &json!(1))
    );
    bye(client).await;
    server.finish();
}

/// A session that the application has a name for lasts with what is in it, wherever it comes from.
#[tokio::test]
async fn a_named_session_keeps_its_data() {
    const VALIDATION: &str = r#"printf 'X-WS-User: ann\nX-WS-Session: basket\n\n'"#;
    const APP: &str = r#"printf 'X-WS-Data: %s\n\n%s' "$(cat)" "$WS_SESSION_DATA""#;
    let dir = TempDir::new().unwrap();
    let setup = || {
        keeping_in(dir.path())
            .validate(VALIDATION)
            .set("validate.output", "cgi")
            .set("app.output", "cgi")
            .set("app.empty_reply", "(nothing)")
            .app(APP)
    };
    let server = setup().start();
    let mut client = server.connect().await;
    assert_eq!(ask(&mut client, "one").await, "(nothing)");
    assert_eq!(ask(&mut client, "two").await, "one");
    bye(client).await;
    server.finish();
    let server = setup().start();
    let mut client = server.connect().await;
    assert_eq!(ask(&mut client, "three").await, "two");
    bye(client).await;
    server.finish();
}

#[tokio::test]
async fn sessions_are_listed_and_revoked() {
    const NAMED: &str = r#"echo "$HTTP_X_USER""#;
    let dir = TempDir::new().unwrap();
    let setup = || {
        keeping_in(dir.path())
            .validate(NAMED)
            .set("identity.close_code", "4003")
            .set("identity.close_reason", "logged out")
            .app(WHO)
    };
    let server = setup().start();
    let mut cookies = Vec::new();
    let mut ids = Vec::new();
    for user in ["ann", "ann", "ben"] {
        let (wire, response) = Wire::over(server.raw_stream(), &[&format!("X-User: {user}")]);
        let cookie = response.header("Set-Cookie").unwrap();
        cookies.push(cookie.split(';').next().unwrap().to_owned());
        let all = server.connections();
        ids.push(all[0]["session"].as_str().unwrap().to_owned());
        wire.bye();
        server.until("connections.open", 0);
    }
    assert_eq!(sessions(&server, "").len(), 3);
    assert_eq!(sessions(&server, "?user=ann").len(), 2);
    assert_eq!(sessions(&server, "?user=nobody").len(), 0);
    // Page by page.
    let first = &sessions(&server, "?limit=1")[0];
    let after = format!("?limit=2&after={}", first["id"].as_str().unwrap());
    assert_eq!(sessions(&server, &after).len(), 2);
    let listed = String::from_utf8(server.ws(&["sessions", "ls", "--user", "ben"]).stdout).unwrap();
    assert!(
        listed.contains(&ids[2]) && !listed.contains(&ids[0]),
        "{listed}"
    );

    // With a connection, and without.
    let headers = [("Cookie", &*cookies[0]), ("X-User", "ann")];
    let mut ann = server.connect_with("/", &headers).await.unwrap();
    assert_eq!(ask(&mut ann, "who?").await, ids[0]);
    let revoked = server.ws(&["sessions", "revoke", "--user", "ann"]);
    assert_eq!(
        (revoked.status.code(), &*revoked.stdout),
        (Some(0), &b"2\n"[..])
    );
    let Message::Close(Some(frame)) = next(&mut ann).await else {
        panic!("it is not closed");
    };
    assert_eq!(
        (u16::from(frame.code), &*frame.reason),
        (4003, "logged out")
    );
    drop(ann);
    let revoked = server.ws(&["sessions", "revoke", &ids[2], &ids[1]]);
    assert_eq!(
        (revoked.status.code(), &*revoked.stdout),
        (Some(0), &b"1\n"[..])
    );
    assert_eq!(
        server.ws(&["sessions", "revoke", &ids[2]]).status.code(),
        Some(75)
    );
    assert_eq!(sessions(&server, "").len(), 0);
    assert_eq!(server.figure("identity.revoked"), 3);
    server.finish();

    let server = setup().start();
    for (cookie, id) in cookies.iter().zip(&ids) {
        let headers = [("Cookie", &**cookie), ("X-User", "ann")];
        let mut client = server.connect_with("/", &headers).await.unwrap();
        assert_ne!(ask(&mut client, "who?").await, *id);
        bye(client).await;
    }
    server.finish();
}

#[test]
fn a_wrong_question_about_sessions_names_its_field() {
    let server = Setup::new().arg("--echo").start();
    for (method, path, named) in [
        ("GET", "/v1/sessions?limit=0", "limit"),
        ("GET", "/v1/sessions?limit=1001", "limit"),
        ("GET", "/v1/sessions?limit=x", "limit"),
        ("GET", "/v1/sessions?after=xyz", "after"),
        ("GET", "/v1/sessions?user=a%20b", "user"),
        ("GET", "/v1/sessions?user=%00", "user"),
        ("GET", "/v1/sessions?other=1", "other"),
        ("DELETE", "/v1/sessions", "user"),
        ("DELETE", "/v1/sessions?user=%0a", "user"),
        ("DELETE", "/v1/sessions?user=a&code=1005", "code"),
        ("DELETE", "/v1/sessions/..%2f..", "session"),
        ("DELETE", "/v1/sessions/%ff", ""),
        ("DELETE", "/v1/sessions/abc", "session"),
    ] {
        let (status, answer) = server.control(method, path, "");
        assert_eq!(status, 400, "{path}: {answer}");
        assert!(answer.contains(named), "{path}: {answer}");
    }
    let long = format!("/v1/sessions?user={}", "a".repeat(256));
    assert_eq!(server.control("GET", &long, "").0, 400);
    server.finish();
}

/// However busy it is, a session ends; its connections are closed, and the cookie is worth nothing.
#[tokio::test]
async fn a_session_ends_at_its_age() {
    let dir = TempDir::new().unwrap();
    let setup = || {
        keeping_in(dir.path())
            .set("identity.max_age", "2s")
            .set("identity.close_code", "4100")
            .app(WHO)
    };
    let server = setup().start();
    let begun = Instant::now();
    let (mut first, cookie) = server.connect_for_cookie().await;
    let session = ask(&mut first, "who?").await;
    let headers = [("Cookie", &*cookie)];
    let mut second = server.connect_with("/", &headers).await.unwrap();
    for client in [&mut first, &mut second] {
        assert_eq!(close_code(client).await, 4100);
    }
    let lasted = begun.elapsed();
    assert!(
        (Duration::from_secs(2)..Duration::from_secs(4)).contains(&lasted),
        "{lasted:?}"
    );
    assert_ne!(session_of(&server, &cookie).await, session);
    server.until("identity.ended", 1);
    drop((first, second));
    server.finish();
    // Nor after a restart, nor if the age is another one now.
    let server = setup().set("identity.max_age", "1h").start();
    assert_ne!(session_of(&server, &cookie).await, session);
    server.finish();
}

#[test]
fn a_change_of_the_network_is_logged_and_counted() {
    let dir = TempDir::new().unwrap();
    let connect = |server: &Server, from: [u8; 4], cookie: Option<&str>| {
        let line = cookie.map(|cookie| format!("Cookie: {cookie}"));
        let lines: Vec<&str> = line.iter().map(|line| &**line).collect();
        let (wire, response) = Wire::over(server.raw_stream_from(from), &lines);
        let issued = response.header("Set-Cookie").map(str::to_owned);
        wire.bye();
        server.until("connections.open", 0);
        issued.map(|cookie| cookie.split(';').next().unwrap().to_owned())
    };
    let setup = || {
        keeping_in(dir.path())
            .arg("--echo")
            .set("identity.ip_prefix_v4", "24")
    };
    let server = setup().start();
    let cookie = connect(&server, [127, 1, 1, 1], None).unwrap();
    assert_eq!(connect(&server, [127, 1, 1, 9], Some(&cookie)), None);
    assert_eq!(server.figure("identity.address_changed"), 0);
    assert!(connect(&server, [127, 1, 2, 1], Some(&cookie)).is_some());
    assert_eq!(server.figure("identity.address_changed"), 1);
    server.finish();
    // It is the same for a session out of the store.
    let server = setup().start();
    assert!(connect(&server, [127, 1, 2, 1], Some(&cookie)).is_some());
    assert_eq!(connect(&server, [127, 1, 1, 1], Some(&cookie)), None);
    assert_eq!(server.figure("identity.address_changed"), 1);
    let log = server.finish();
    let line = log.lines().find(|line| line.contains("another network"));
    let line: Value = serde_json::from_str(line.expect("it is logged")).unwrap();
    assert_eq!(
        (&line["made_for"], &line["comes_from"]),
        (&json!("127.1.1.0"), &json!("127.1.2.0"))
    );
    let token = cookie.split_once('=').unwrap().1;
    assert!(!log.contains(token));
}

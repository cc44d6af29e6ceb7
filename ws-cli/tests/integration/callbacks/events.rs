//! What the application hears of besides messages, and the trace that it all belongs to.

use std::path::Path;
use std::time::Duration;

use nix::sys::signal::Signal;

use crate::support::*;

/// Notes each run in a file, one line each, then answers messages.
const NOTE: &str = r#"
line="$WS_EVENT $WS_USER_ID $WS_USER_CONNECTIONS $WS_GENERATION id=$WS_MESSAGE_ID $REQUEST_METHOD $WS_CLOSE_CODE $WS_CLOSE_CAUSE"
echo "$line" >> notes
[ "$WS_EVENT" != message ] || cat"#;

/// The user is the one that the header names.
const NAMED: &str = r#"echo "$HTTP_X_USER""#;

fn setup() -> Setup {
    Setup::new()
        .set("app.events", "open,close")
        .validate(NAMED)
        .app(NOTE)
}

/// The words of each line noted so far.
fn notes(dir: &Path) -> Vec<Vec<String>> {
    let text = std::fs::read_to_string(dir.join("notes")).unwrap_or_default();
    let words = |line: &str| line.split_whitespace().map(str::to_owned).collect();
    text.lines().map(words).collect()
}

#[tokio::test]
async fn open_comes_before_the_first_message_and_close_after_the_last() {
    let server = setup().start();
    let mut client = server
        .connect_with("/", &[("X-User", "ann")])
        .await
        .unwrap();
    for _ in 0..3 {
        say(&mut client, "x").await;
    }
    for _ in 0..3 {
        assert_eq!(hear(&mut client).await, "x");
    }
    bye(client).await;
    eventually("the end is heard of", || notes(server.dir()).len() == 5);
    let notes = notes(server.dir());
    let events: Vec<&str> = notes.iter().map(|note| &*note[0]).collect();
    assert_eq!(events, ["open", "message", "message", "message", "close"]);
    let [open, first, .., close] = &notes[..] else {
        panic!()
    };
    assert_eq!((&*open[1], &*open[2], &*open[4]), ("ann", "1", "id="));
    assert_eq!(
        first[2..],
        ["id=1", "POST"],
        "events are not counted among messages"
    );
    assert_eq!((&*close[2], &*close[5]), ("0", "GET"));
    assert_eq!(close[6..], ["1005", "peer"]);
    let generation = |note: &[String]| note[3].parse::<u64>().unwrap();
    assert!(generation(open) < generation(close));
    server.finish();
}

#[tokio::test]
async fn message_waits_for_the_end_of_open_also_if_several_may_run_at_once() {
    let server = Setup::new()
        .set("app.events", "open")
        .set("app.per_connection", "4")
        .app(
            r#"
if [ "$WS_EVENT" = open ]; then until [ -e go ]; do sleep 0.01; done; echo hello; exit; fi
cat"#,
        )
        .start();
    let mut client = server.connect().await;
    for text in ["a", "b"] {
        say(&mut client, text).await;
    }
    server.until("callbacks.accepted", 3);
    assert_eq!(server.figure("callbacks.started"), 1);
    std::fs::write(server.dir().join("go"), "").unwrap();
    for expected in ["hello", "a", "b"] {
        assert_eq!(hear(&mut client).await, expected);
    }
    bye(client).await;
    server.finish();
}

#[tokio::test]
async fn generations_tell_which_of_two_events_is_the_later_one() {
    let server = setup().start();
    for round in 0..5 {
        let ann = server
            .connect_with("/", &[("X-User", "ann")])
            .await
            .unwrap();
        let again = server
            .connect_with("/", &[("X-User", "ann")])
            .await
            .unwrap();
        bye(ann).await;
        bye(again).await;
        eventually("all is heard of", || {
            notes(server.dir()).len() == 4 * (round + 1)
        });
    }
    let mut notes = notes(server.dir());
    notes.sort_by_key(|note| note[3].parse::<u64>().unwrap());
    let counts: Vec<&str> = notes.iter().map(|note| &*note[2]).collect();
    assert_eq!(counts, ["1", "2", "1", "0"].repeat(5));
    server.finish();
}

#[tokio::test]
async fn close_is_heard_of_however_the_connection_ends() {
    let mut server = setup().set("app.on_disconnect", "cancel").start();
    let client = server
        .connect_with("/", &[("X-User", "ann")])
        .await
        .unwrap();
    eventually("it is open", || notes(server.dir()).len() == 1);
    drop(client);
    eventually("it is closed", || notes(server.dir()).len() == 2);
    let gone = notes(server.dir()).pop().unwrap();
    assert_eq!(gone[6..], ["1006", "vanished"]);

    let mut client = server
        .connect_with("/", &[("X-User", "ben")])
        .await
        .unwrap();
    eventually("it is open", || notes(server.dir()).len() == 3);
    server.signal(Signal::SIGTERM);
    assert_eq!(close_code(&mut client).await, 1001);
    drop(client);
    let (status, _) = server.wait();
    assert!(status.success());
    let drained = notes(server.dir()).pop().unwrap();
    assert_eq!(drained[6..], ["1001", "drain"], "the drain waits for it");
}

#[tokio::test]
async fn failed_event_is_counted_and_answers_nothing() {
    let server = Setup::new()
        .set("app.events", "open")
        .set("app.error_reply", "sorry")
        .set("app.empty_reply", "nothing")
        .app(r#"[ "$WS_EVENT" = message ] || exit 3"#)
        .start();
    let mut client = server.connect().await;
    assert_eq!(ask(&mut client, "x").await, "nothing");
    assert_eq!(server.figure("callbacks.failed_by.exit"), 1);
    bye(client).await;
    server.finish();
}

#[tokio::test]
async fn trace_of_the_handshake_goes_on_in_callbacks_and_in_the_log() {
    const TRACE: &str = "4bf92f3577b34da6a3ce929d0e0e4736";
    let server = Setup::new()
        .app(r#"echo heard >&2; [ "$(cat)" != fail ] || exit 3; echo "$TRACEPARENT""#)
        .start();
    let header = format!("00-{TRACE}-00f067aa0ba902b7-01");
    let mut client = server
        .connect_with("/", &[("traceparent", &header)])
        .await
        .unwrap();
    let first = ask(&mut client, "x").await;
    let second = ask(&mut client, "x").await;
    assert!(
        first.starts_with(&format!("00-{TRACE}-")) && first.ends_with("-01"),
        "{first}"
    );
    assert_ne!(first, second, "each run is a span of its own");
    say(&mut client, "fail").await;
    server.until("callbacks.failed", 1);
    bye(client).await;

    let mut other = server.connect().await;
    let own = ask(&mut other, "x").await;
    assert!(!own.contains(TRACE), "{own}");
    bye(other).await;
    let log = server.finish();
    let line = |message: &str| {
        let line = log.lines().find(|line| line.contains(message)).unwrap();
        serde_json::from_str::<serde_json::Value>(line).unwrap()
    };
    assert_eq!(line("\"callback failed\"")["trace.id"], TRACE);
    assert_eq!(line("heard")["trace.id"], TRACE);
}

#[tokio::test]
async fn t02_validation_that_has_run_out_is_asked_again_and_may_end_the_connection() {
    for (later, code) in [
        ("echo Status: 401; echo", 1008),
        ("echo Status: 403; echo", 1008),
        ("printf 'X-WS-User: ben\\n\\n'", 1008),
        ("exit 3", 1013),
        ("echo nonsense", 1013),
    ] {
        let server = Setup::new()
            .set("validate.output", "cgi")
            .validate(&format!(
                r#"if [ -e over ]; then {later}; else printf 'X-WS-User: ann\nX-WS-TTL: 1\n\n'; fi"#
            ))
            .app("cat")
            .start();
        let mut client = server.connect().await;
        server.until("callbacks.validations", 2);
        assert_eq!(ask(&mut client, "x").await, "x", "it holds");
        std::fs::write(server.dir().join("over"), "").unwrap();
        assert_eq!(close_code(&mut client).await, code, "{later}");
        bye(client).await;
        server.until("connections.closed_by.validation", 1);
        server.finish();
    }
}

#[tokio::test]
async fn validation_without_an_end_is_not_asked_again() {
    let server = Setup::new()
        .set("validate.output", "cgi")
        .validate(r#"
if [ -e again ]; then printf 'X-WS-User: ann\n\n'; else touch again; printf 'X-WS-User: ann\nX-WS-TTL: 1\n\n'; fi"#)
        .arg("--echo")
        .start();
    let mut client = server.connect().await;
    server.until("callbacks.validations", 2);
    std::thread::park_timeout(Duration::from_millis(1500));
    assert_eq!(server.figure("callbacks.validations"), 2);
    assert_eq!(ask(&mut client, "x").await, "x");
    bye(client).await;
    server.finish();
}

#[tokio::test]
async fn session_that_the_validation_names_binds_connections_and_is_not_shown() {
    const NAME: &str = "s3cret-of-the-application";
    let server = Setup::new()
        .set("validate.output", "cgi")
        .validate(&format!(
            r#"printf 'X-WS-User: ann\nX-WS-Session: {NAME}\n\n'"#
        ))
        .app(r#"echo "$WS_SESSION_ID""#)
        .start();
    let mut clients = [server.connect().await, server.connect().await];
    let session = ask(&mut clients[0], "x").await;
    assert_eq!(ask(&mut clients[1], "x").await, session);
    assert!(!session.contains(NAME));
    let receipt = server.send(serde_json::json!({ "session": session }), "hello");
    assert_eq!(receipt["connections"], 2);
    for mut client in clients {
        assert_eq!(hear(&mut client).await, "hello");
        bye(client).await;
    }
    let log = server.finish();
    assert!(!log.contains(NAME), "{log}");
}

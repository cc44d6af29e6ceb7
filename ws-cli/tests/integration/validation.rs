//! The validation callback: who a visitor is, decided before the connection is open.

use std::io::{Read, Write};
use std::net::TcpStream;

use futures_util::future::join_all;
use serde_json::json;
use tokio_tungstenite::tungstenite::Error;

use crate::support::*;
use crate::wire::{head, refusal};

/// Does what the header says, in a shell.
const EVAL: &str = r#"eval "$HTTP_X_DO""#;

/// An application that says for whom it runs.
const WHO: &str = r#"echo "$WS_USER_ID $REMOTE_USER""#;

/// A server that asks the script, with this time for it.
fn judged_by(script: &str, timeout: &str) -> Setup {
    Setup::new()
        .set("validate.timeout", timeout)
        .validate(script)
        .app(WHO)
}

/// Opens a connection, or returns the status of the refusal.
async fn status(server: &Server, headers: &[(&str, &str)]) -> Result<Client, u16> {
    match server.connect_with("/", headers).await {
        Ok(client) => Ok(client),
        Err(Error::Http(response)) => Err(response.status().as_u16()),
        Err(error) => panic!("no answer of HTTP: {error}"),
    }
}

fn upgrade(headers: &str) -> String {
    format!(
        "GET /chat?room=1 HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
         Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n{headers}\r\n"
    )
}

/// The head of an answer, to its empty line.
pub(crate) fn read_head(stream: &mut TcpStream) -> String {
    let mut head = Vec::new();
    let mut byte = [0];
    while !head.ends_with(b"\r\n\r\n") && stream.read(&mut byte).unwrap() == 1 {
        head.push(byte[0]);
    }
    String::from_utf8(head).unwrap()
}

/// Callbacks of validation that run, besides the helpers.
fn running(server: &Server) -> usize {
    let is_helper = |command: &str| command.contains("__spawner");
    server
        .processes()
        .iter()
        .filter(|(_, command)| !is_helper(command))
        .count()
}

#[tokio::test]
async fn t49_only_a_whole_valid_answer_is_an_identity() {
    let server = judged_by(EVAL, "30s").start();
    let long = format!("echo {}", "u".repeat(255));
    let too_long = format!("echo {}", "u".repeat(256));
    let flood = "yes".to_owned();
    let table: &[(&str, Result<&str, u16>)] = &[
        ("echo 42", Ok("42")),
        ("printf 42", Ok("42")),
        ("printf '42\\r\\n'", Ok("42")),
        ("printf 'b\\303\\266b'", Ok("böb")),
        ("echo ../../etc/passwd", Ok("../../etc/passwd")),
        ("echo alice; sleep 600 &", Ok("alice")),
        ("echo alice; setsid sleep 600 &", Ok("alice")),
        (&long, Ok(&long[5..])),
        // Refused: it says no.
        ("exit 1", Err(401)),
        ("echo alice; exit 1", Err(401)),
        ("false", Err(401)),
        ("true", Err(401)),
        ("exec >&-", Err(401)),
        // Refused: it could not say.
        (&too_long, Err(503)),
        ("echo two tokens", Err(503)),
        ("printf 'alice\\nbob\\n'", Err(503)),
        ("printf '\\nalice\\n'", Err(503)),
        ("echo ' alice'", Err(503)),
        ("printf 'alice\\t'", Err(503)),
        ("printf 'alice\\000'", Err(503)),
        ("printf '\\377\\n'", Err(503)),
        ("echo", Err(503)),
        ("printf 'a\\033b'", Err(503)),
        ("echo alice; exit 3", Err(503)),
        ("exit 255", Err(503)),
        ("echo alice; kill -9 $$", Err(503)),
        ("echo alice; kill -TERM $$", Err(503)),
        ("no-such-program", Err(503)),
        (&flood, Err(503)),
    ];
    for (act, expected) in table {
        let end = status(&server, &[("X-Do", act)]).await;
        match (end, expected) {
            (Ok(mut client), Ok(user)) => {
                assert_eq!(ask(&mut client, "who?").await, format!("{user} {user}"));
                assert_eq!(server.connections()[0]["user"], *user);
                bye(client).await;
                server.until("connections.open", 0);
            }
            (Ok(_), Err(expected)) => panic!("{act}: let in, not {expected}"),
            (Err(status), Ok(_)) => panic!("{act}: {status}"),
            (Err(status), Err(expected)) => assert_eq!(status, *expected, "{act}"),
        }
    }
    let refused = |status| table.iter().filter(|(_, end)| *end == Err(status)).count() as u64;
    assert_eq!(server.figure("sockets.refused_by.validation"), refused(401));
    assert_eq!(
        server.figure("sockets.refused_by.validation_failed"),
        refused(503)
    );
    assert_eq!(server.figure("callbacks.validations"), table.len() as u64);
    eventually("callbacks have ended", || running(&server) == 0);
    server.finish();
}

#[tokio::test]
async fn t49_no_answer_in_time_is_no_identity() {
    let server = judged_by(EVAL, "500ms").start();
    let acts = [
        "sleep 600",
        "printf ali; exec sleep 600",
        "echo alice; exec sleep 600",
        "echo alice; exec >&- <&- 2>&-; exec sleep 600",
        "while :; do printf a; sleep 0.1; done",
        "trap 'echo alice; exit 0' TERM; while :; do sleep 0.05; done",
    ];
    let visits = acts.map(|act| {
        let server = &server;
        async move { status(server, &[("X-Do", act)]).await.unwrap_err() }
    });
    assert_eq!(join_all(visits).await, [503; 6]);
    server.until("sockets.refused_by.validation_failed", 6);
    eventually("callbacks have ended", || running(&server) == 0);
    server.finish();
}

#[tokio::test]
async fn t49_what_cannot_start_refuses() {
    for program in ["/no/such/program", "no-such-program", "/dev/null", "/"] {
        let server = Setup::new().arg("--validate").arg(program).app(WHO).start();
        assert_eq!(status(&server, &[]).await.unwrap_err(), 503, "{program}");
        server.finish();
    }
}

#[tokio::test]
async fn t49_an_answer_of_cgi() {
    let server = judged_by(r#"printf "$HTTP_X_SAY""#, "10s")
        .set("validate.output", "cgi")
        .start();
    for (say, expected) in [
        ("X-WS-User: 7\\n\\n", Ok("7")),
        (
            "Status: 200 OK\\r\\nX-WS-User: 7\\r\\n\\r\\nignored",
            Ok("7"),
        ),
        ("Status: 204\\nx-ws-user: alice\\n\\n", Ok("alice")),
        ("Status: 399\\nX-WS-User: 7\\n\\n", Ok("7")),
        ("", Err(401)),
        ("Status: 401 who are you\\n\\n", Err(401)),
        ("Status: 401\\nX-WS-User: 7\\n\\n", Err(401)),
        ("Status: 403 go away\\nX-WS-User: 7\\n\\n", Err(403)),
        ("Status: 400\\nX-WS-User: 7\\n\\n", Err(503)),
        ("Status: 500\\nX-WS-User: 7\\n\\n", Err(503)),
        ("Status: 99\\nX-WS-User: 7\\n\\n", Err(503)),
        ("X-WS-User: two tokens\\n\\n", Err(503)),
        ("X-WS-User: \\n\\n", Err(503)),
        ("Content-Type: text/plain\\n\\n7\\n", Err(503)),
        ("X-WS-User: 7\\n", Err(503)),
        ("Content-Length: 9\\nX-WS-User: 7\\n\\nshort", Err(503)),
        ("7\\n", Err(503)),
    ] {
        match status(&server, &[("X-Say", say)]).await {
            Ok(mut client) => {
                let user = expected.unwrap_or_else(|status| panic!("{say}: let in, not {status}"));
                assert_eq!(ask(&mut client, "who?").await, format!("{user} {user}"));
                bye(client).await;
            }
            Err(status) => assert_eq!(Err(status), expected, "{say}"),
        }
    }
    server.finish();
}

#[tokio::test]
async fn cookies_of_the_validation_travel_with_the_101_and_with_nothing_else() {
    let script = r#"test "$HTTP_X_KNOWN" || printf 'Status: 401\n'
printf 'X-WS-User: 7\nSet-Cookie: a=1; HttpOnly\nSet-Cookie: b=2\nX-Other: no\n\n'"#;
    let server = judged_by(script, "10s")
        .set("validate.output", "cgi")
        .start();
    let mut stream = server.raw_stream();
    stream
        .write_all(upgrade("X-Known: yes\r\n").as_bytes())
        .unwrap();
    let head = read_head(&mut stream);
    assert!(head.starts_with("HTTP/1.1 101 "), "{head}");
    let cookies: Vec<&str> = head
        .lines()
        .filter_map(|line| line.strip_prefix("Set-Cookie: "))
        .collect();
    assert!(cookies[0].starts_with("ws_session="), "{cookies:?}");
    assert_eq!(cookies[1..], ["a=1; HttpOnly", "b=2"]);
    assert!(!head.contains("X-Other"), "{head}");
    drop(stream);
    let answer = String::from_utf8(server.raw(upgrade("").as_bytes())).unwrap();
    assert!(answer.starts_with("HTTP/1.1 401 "), "{answer}");
    assert!(!answer.to_lowercase().contains("set-cookie"), "{answer}");
    server.finish();
}

#[tokio::test]
async fn validation_sees_the_handshake_and_nobody_yet() {
    let script = r#"cat /proc/$$/environ > environment; ls /proc/self/fd > descriptors; echo 7"#;
    let server = judged_by(script, "10s")
        .env("SECRET_OF_THE_SERVER", "1")
        .start();
    let headers = [
        ("Cookie", "session=abc"),
        ("Proxy", "http://evil/"),
        ("X-Token", "t"),
    ];
    let client = server.connect_with("/room?key=1", &headers).await.unwrap();
    let environment = std::fs::read_to_string(server.dir().join("environment")).unwrap();
    let variables: Vec<&str> = environment.split('\0').collect();
    for expected in [
        "WS_EVENT=validate",
        "REQUEST_METHOD=GET",
        "REQUEST_URI=/room?key=1",
        "PATH_INFO=/room",
        "QUERY_STRING=key=1",
        "CONTENT_LENGTH=0",
        "REMOTE_ADDR=127.0.0.1",
        "HTTP_COOKIE=session=abc",
        "HTTP_X_TOKEN=t",
        "GATEWAY_INTERFACE=CGI/1.1",
        "PATH=/usr/local/bin:/usr/bin:/bin",
    ] {
        assert!(variables.contains(&expected), "{expected} in {variables:?}");
    }
    for name in [
        "WS_USER_ID",
        "REMOTE_USER",
        "WS_MESSAGE_ID",
        "WS_FIFO",
        "HTTP_PROXY",
        "SECRET",
    ] {
        assert!(
            !variables.iter().any(|pair| pair.starts_with(name)),
            "{name}"
        );
    }
    // T54: its three and the one by which `ls` reads the directory.
    let descriptors = std::fs::read_to_string(server.dir().join("descriptors")).unwrap();
    assert_eq!(descriptors, "0\n1\n2\n3\n");
    bye(client).await;
    server.finish();
}

/// B7: the original takes a failed validation for user 0, and ends on an empty answer.
#[tokio::test]
async fn b7_a_failed_validation_is_nobody_and_the_server_lives() {
    let server = judged_by(EVAL, "10s").start();
    for (act, expected) in [("", 401), ("kill -9 $$", 503), ("echo not a number", 503)] {
        assert_eq!(
            status(&server, &[("X-Do", act)]).await.unwrap_err(),
            expected
        );
        assert_eq!(server.connections(), Vec::<serde_json::Value>::new());
    }
    // 0 is a user like any other, if the callback says so.
    let mut client = status(&server, &[("X-Do", "echo 0")]).await.unwrap();
    assert_eq!(ask(&mut client, "who?").await, "0 0");
    bye(client).await;
    let log = server.finish();
    assert_eq!(log.matches("\"validation failed\"").count(), 2);
}

#[tokio::test]
async fn stderr_of_validation_goes_to_the_log_also_when_it_refuses() {
    let server = judged_by("echo bad password >&2; exit 1", "10s").start();
    assert_eq!(status(&server, &[]).await.unwrap_err(), 401);
    let log = server.finish();
    let is_it =
        |line: &&str| line.contains("stderr of validation") && line.contains("bad password");
    assert_eq!(log.lines().filter(is_it).count(), 1);
}

#[tokio::test]
async fn nobody_waits_for_anothers_validation() {
    let setup = judged_by(
        r#"test "$HTTP_X_WHO" = slow && read _ < gate; echo "$HTTP_X_WHO""#,
        "30s",
    );
    let mut gate = Gate::new(setup.dir(), "gate");
    let server = setup.start();
    let slow = || server.connect_with("/", &[("X-Who", "slow")]);
    let quick = async {
        // All of the slow ones hang by now, in processes of their own.
        eventually_async("30 validations hang", || running(&server) >= 30).await;
        for n in 0..10 {
            let who = format!("quick{n}");
            let mut client = server.connect_with("/", &[("X-Who", &who)]).await.unwrap();
            assert_eq!(ask(&mut client, "who?").await, format!("{who} {who}"));
            bye(client).await;
        }
        assert_eq!(server.figure("connections.opened"), 10);
        gate.open(30);
    };
    let (slow, ()) = tokio::join!(join_all((0..30).map(|_| slow())), quick);
    assert_eq!(server.figure("users"), 1);
    for client in slow {
        bye(client.unwrap()).await;
    }
    server.finish();
}

/// As `eventually`, while other parts of the test go on.
async fn eventually_async(what: &str, mut check: impl FnMut() -> bool) {
    let checks = async {
        while !check() {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(PATIENCE, checks).await.expect(what);
}

/// Waiting for one's turn is part of the time that a visitor is kept waiting.
#[tokio::test]
async fn t49_a_visitor_behind_a_slow_validation_is_refused_in_time() {
    let setup = judged_by("trap '' TERM; read _ < gate; echo 7", "200ms");
    let _gate = Gate::new(setup.dir(), "gate");
    let server = setup.set("validate.concurrency", "1").start();
    // It ignores the signal at its deadline, so its turn lasts 2 s more.
    let mut first = server.raw_stream();
    first.write_all(upgrade("").as_bytes()).unwrap();
    eventually("the first one runs", || running(&server) == 1);
    let second = server.raw(upgrade("").as_bytes());
    assert!(second.starts_with(b"HTTP/1.1 503 "));
    first.set_nonblocking(true).unwrap();
    let answer = first.read(&mut [0]).unwrap_err();
    assert_eq!(
        answer.kind(),
        std::io::ErrorKind::WouldBlock,
        "it has no answer yet"
    );
    first.set_nonblocking(false).unwrap();
    assert!(read_head(&mut first).starts_with("HTTP/1.1 503 "));
    drop(first);
    server.finish();
}

/// What a visitor brings may be a secret: the log has lengths and paths, no values.
#[tokio::test]
async fn t70_secrets_of_the_handshake_and_of_messages_are_not_logged() {
    let server = Setup::new()
        .set("log.level", "trace")
        .validate("echo 7")
        .app("cat; exit 3")
        .start();
    let headers = [("Cookie", "a=canary-c"), ("Authorization", "canary-a")];
    let mut client = server
        .connect_with("/path?token=canary-q", &headers)
        .await
        .unwrap();
    say(&mut client, "canary-m").await;
    server.until("callbacks.failed_by.exit", 1);
    let fifo = server.connections()[0]["fifo"].as_str().unwrap().to_owned();
    std::fs::write(&fifo, "canary-r\n").unwrap();
    server.until("fifo.refused_by.not_uri", 1);
    server.send(json!({ "all": true }), "canary-p");
    assert_eq!(hear(&mut client).await, "canary-p");
    bye(client).await;
    let log = server.finish();
    assert!(log.contains("/path"), "{log}");
    assert!(!log.contains("canary"), "{log}");
}

#[tokio::test]
async fn a_visitor_who_leaves_takes_the_validation_along() {
    let setup = judged_by("setsid sleep 600 & read _ < gate; echo 7", "30s");
    let _gate = Gate::new(setup.dir(), "gate");
    let server = setup.start();
    let mut streams = Vec::new();
    for n in 1..=5 {
        let mut stream = server.raw_stream();
        stream.write_all(upgrade("").as_bytes()).unwrap();
        server.until("callbacks.validations", n);
        streams.push(stream);
    }
    eventually("they run", || running(&server) >= 10);
    drop(streams);
    eventually("none of them is left", || running(&server) == 0);
    server.until("sockets.refused_by.gone", 5);
    assert_eq!(server.figure("connections.opened"), 0);
    server.finish();
}

#[tokio::test]
async fn a_visitor_who_speaks_before_it_is_let_in_is_refused() {
    let setup = judged_by("read _ < gate; echo 7", "30s");
    let _gate = Gate::new(setup.dir(), "gate");
    let server = setup.start();
    let mut stream = server.raw_stream();
    stream.write_all(upgrade("").as_bytes()).unwrap();
    eventually("it is asked", || running(&server) >= 1);
    stream.write_all(b"\x81\x80\0\0\0\0").unwrap();
    let head = read_head(&mut stream);
    assert!(head.starts_with("HTTP/1.1 400 "), "{head}");
    eventually("nobody is asked any more", || running(&server) == 0);
    drop(stream);
    assert_eq!(server.figure("connections.opened"), 0);
    server.finish();
}

#[tokio::test]
async fn concurrency_of_validation_is_bounded_and_all_come_in() {
    let server = judged_by(
        "echo begin >> log; sleep 0.05; echo end >> log; echo 7",
        "30s",
    )
    .set("validate.concurrency", "3")
    .start();
    let clients = join_all((0..12).map(|_| server.connect())).await;
    let log = std::fs::read_to_string(server.dir().join("log")).unwrap();
    let mut at_once = 0;
    for line in log.lines() {
        at_once += if line == "begin" { 1 } else { -1 };
        assert!(at_once <= 3, "{log}");
    }
    for client in clients {
        bye(client).await;
    }
    server.finish();
}

/// INV-09: an answer is for the connection that asked, whoever else asks at the same time.
#[tokio::test]
async fn inv09_each_gets_its_own_identity() {
    let script =
        r#"sleep "0.0$HTTP_X_LATENCY"; echo "$HTTP_COOKIE" | sed -n 's/.*who=\([^;]*\).*/\1/p'"#;
    let server = judged_by(script, "30s").start();
    let visits = (0..40).map(|n| {
        let server = &server;
        async move {
            let (cookie, latency) = (format!("x=y; who=u{n}"), (n * 7 % 10).to_string());
            let headers = [("Cookie", &*cookie), ("X-Latency", &*latency)];
            let mut client = server.connect_with("/", &headers).await.unwrap();
            assert_eq!(ask(&mut client, "who?").await, format!("u{n} u{n}"));
            bye(client).await;
        }
    });
    join_all(visits).await;
    server.finish();
}

#[tokio::test]
async fn a_user_has_several_connections() {
    let server = judged_by(r#"echo "$HTTP_X_WHO""#, "10s").start();
    let mut clients = Vec::new();
    for who in ["1", "1", "10", "1"] {
        clients.push(server.connect_with("/", &[("X-Who", who)]).await.unwrap());
    }
    for (client, who) in clients.iter_mut().zip(["1 1", "1 1", "10 10", "1 1"]) {
        assert_eq!(ask(client, "who?").await, who);
    }
    assert_eq!(server.figure("users"), 2);
    let receipt = server.send(json!({ "user": "1" }), "to all of 1");
    assert_eq!(receipt["connections"], 3);
    for (n, client) in clients.iter_mut().enumerate() {
        if n != 2 {
            assert_eq!(hear(client).await, "to all of 1");
        }
    }
    // Nothing of it has come to user 10.
    assert_eq!(ask(&mut clients[2], "who?").await, "10 10");
    for client in clients {
        bye(client).await;
    }
    server.until("users", 0);
    server.finish();
}

#[tokio::test]
async fn the_answer_to_a_refused_visitor_says_nothing_of_it() {
    let server = judged_by("echo secret-of-the-script; exit 3", "10s").start();
    let answer = server.raw(upgrade("Cookie: their=cookie\r\n").as_bytes());
    let answer = String::from_utf8(answer).unwrap();
    assert!(answer.starts_with("HTTP/1.1 503 "), "{answer}");
    assert!(answer.contains("Connection: close"), "{answer}");
    for hidden in ["secret", "their", "chat", "exit", "validate.sh"] {
        assert!(!answer.contains(hidden), "{answer}");
    }
    assert!(answer.split("\r\n\r\n").nth(1).unwrap().len() <= 512);
    server.finish();
}

#[test]
fn t02_secrets_of_a_visitor_are_in_no_log() {
    let server = Setup::new()
        .set("log.level", "trace")
        .validate("echo alice")
        .app("cat")
        .start();
    let lines = [
        "Cookie: token=5ecret-cookie; ws_session=5ecret-session",
        "Authorization: Bearer 5ecret-bearer",
    ];
    let mut stream = server.raw_stream();
    stream
        .write_all(head("/?token=5ecret-query", &lines).as_bytes())
        .unwrap();
    let mut answer = [0; 12];
    stream.read_exact(&mut answer).unwrap();
    assert_eq!(answer, *b"HTTP/1.1 101");
    drop(stream);
    // Those of a refused one neither.
    let foreign = [&lines[..], &["Origin: https://evil.example"]].concat();
    assert_eq!(
        refusal(&server, head("/?token=5ecret-query", &foreign)).status,
        403
    );
    let log = server.finish();
    assert!(log.contains("connection opened"), "{log}");
    assert!(log.contains("origin"), "{log}");
    assert!(!log.contains("5ecret"), "{log}");
}

//! SIGHUP: what is in force at once, what is named, and what stays when anything is wrong.

use std::path::Path;

use nix::sys::signal::Signal;
use nix::sys::stat::Mode;
use serde_json::Value;

use crate::secure::{Authority, leave, shown};
use crate::support::{Injection, Server, Setup, eventually};
use crate::wire::{Response, Wire, exchange, head};

/// A server with this configuration file.
fn server(file: &str) -> Server {
    let setup = Setup::new();
    std::fs::write(setup.dir().join("ws.toml"), file).unwrap();
    setup.start()
}

/// Replaces the file, and has the server take it or refuse it.
fn reload(server: &Server, file: &str, figure: &str) {
    std::fs::write(server.dir().join("ws.toml"), file).unwrap();
    let figure = format!("configuration.{figure}");
    let before = server.figure(&figure);
    server.signal(Signal::SIGHUP);
    server.until(&figure, before + 1);
}

fn asked(server: &Server, lines: &[&str]) -> Response {
    Response::parse(&exchange(server, head("/", lines)))
}

/// Whether the client gets an answer to this message, rather than a close.
fn is_answered(wire: &mut Wire, message: &str) -> bool {
    wire.say(message);
    wire.frame().is_some_and(|frame| frame.opcode == 1)
}

fn records(log: &str) -> Vec<Value> {
    log.lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect()
}

#[test]
fn limits_hold_for_connections_that_come_then() {
    let server = server("app.backend = 'echo'\n[limits]\nmax_message_size = '1KiB'\n");
    let (small, large) = ("x".repeat(100), "x".repeat(500));
    let mut before = Wire::open(&server);
    let file = "app.backend = 'echo'\n[limits]\nmax_message_size = '200B'\n";
    reload(&server, file, "reloads");
    let mut after = Wire::open(&server);
    assert!(is_answered(&mut before, &large));
    assert!(is_answered(&mut after, &small));
    after.say(&large);
    after.ends_with(1009);
    before.bye();
    server.finish();
}

#[test]
fn places_and_origins_are_those_of_the_new_file() {
    let server = server("app.backend = 'echo'\n");
    let mut first = Wire::open(&server);
    let file = "app.backend = 'echo'\nlimits.max_connections = 1\n\
                server.allowed_hosts = ['localhost', '127.0.0.1']\n";
    reload(&server, file, "reloads");
    assert_eq!(asked(&server, &["Origin: http://127.0.0.1"]).status, 503);
    let elsewhere = exchange(&server, "GET / HTTP/1.1\r\nHost: other\r\n\r\n");
    assert_eq!(Response::parse(&elsewhere).status, 421);
    // Who is there stays.
    assert!(is_answered(&mut first, "still here"));
    let file = "app.backend = 'echo'\nlimits.max_connections = 2\nidentity.cookie = 'other'\n\
                origin.allow_missing = false\norigin.allow = ['https://a.example']\n";
    reload(&server, file, "reloads");
    assert_eq!(asked(&server, &[]).status, 403);
    assert_eq!(asked(&server, &["Origin: http://127.0.0.1"]).status, 403);
    let (second, answer) = Wire::over(server.raw_stream(), &["Origin: https://a.example"]);
    assert!(answer.header("Set-Cookie").unwrap().starts_with("other="));
    first.bye();
    second.bye();
    server.finish();
}

#[test]
fn callbacks_answer_as_the_new_file_says() {
    let file = |extra: &str| format!("[app]\ncommand = ['sh', '-c', 'echo $P']\n{extra}\n");
    let server = server(&file("params = { P = 'one' }"));
    let mut wire = Wire::open(&server);
    wire.say("a");
    assert_eq!(wire.hear(), "one");
    reload(
        &server,
        &file("params = { P = 'two' }\nempty_reply = 'empty'"),
        "reloads",
    );
    wire.say("b");
    assert_eq!(wire.hear(), "two");
    reload(
        &server,
        &file("empty_reply = 'empty'\nping = false"),
        "reloads",
    );
    wire.say("ping");
    assert_eq!(wire.hear(), "empty");
    reload(
        &server,
        &file("error_reply = 'late'\nmax_output = 1\nparams = { P = 'three' }"),
        "reloads",
    );
    wire.say("c");
    assert_eq!(wire.hear(), "late");
    wire.bye();
    server.finish();
}

#[test]
fn the_console_knows_whether_ping_is_answered_now() {
    let server = server("app.backend = 'demo'\n");
    let page = || {
        let answer = exchange(&server, "GET / HTTP/1.1\r\nHost: localhost\r\n\r\n");
        String::from_utf8(answer).unwrap()
    };
    assert!(page().contains("name=\"ws-ping\" content=\"true\""));
    reload(
        &server,
        "app.backend = 'demo'\napp.ping = false\n",
        "reloads",
    );
    assert!(page().contains("name=\"ws-ping\" content=\"false\""));
    server.finish();
}

#[test]
fn what_changes_is_logged_key_by_key_and_without_secrets() {
    let file = "identity.store = 'memory'\napp.backend = 'echo'\n";
    let server = server(file);
    let file = "identity.store = 'redis://:canary@localhost'\napp.backend = 'echo'\n\
                log.level = 'debug'\nserver.threads = 1\nlimits.write_timeout = '7s'\n";
    reload(&server, file, "reloads");
    // This is said at the level that now holds.
    assert_eq!(asked(&server, &["Origin: http://evil.example"]).status, 403);
    let log = server.finish();
    assert!(!log.contains("canary"), "{log}");
    let records = records(&log);
    let told: Vec<_> = records
        .iter()
        .filter(|record| record["key"].is_string())
        .map(|record| ["level", "key", "old", "new"].map(|name| record[name].as_str().unwrap()))
        .collect();
    let expected = [
        ["WARN", "server.threads", "0", "1"],
        ["INFO", "limits.write_timeout", "\"20s\"", "\"7s\""],
        [
            "WARN",
            "identity.store",
            "\"memory\"",
            "\"redis://:***@localhost\"",
        ],
        ["INFO", "log.level", "\"info\"", "\"debug\""],
    ];
    assert_eq!(told, expected);
    assert!(records.iter().any(|record| record["level"] == "DEBUG"));
}

#[test]
fn t75_a_file_that_cannot_be_used_leaves_everything_as_it_was() {
    let right = "app.backend = 'echo'\nlimits.max_message_size = '200B'\n";
    let server = server(right);
    let large = "x".repeat(500);
    let unusable = [
        "limits.max_message_size = '1KiB'\n[server".to_owned(),
        "limits.max_message_size = '1KiB'\nlog.levl = 'x'\nlog.level = 'y'\n".to_owned(),
        "#".repeat(10 << 20),
        "a = ".to_owned() + &"[".repeat(100_000),
        "control.idempotency_receipts = 90000\ncontrol.max_batch = 50000\n".to_owned(),
    ];
    for (nth, file) in unusable.iter().enumerate() {
        reload(&server, file, "reloads_failed");
        assert_eq!(
            server.figure("configuration.reloads_failed"),
            nth as u64 + 1
        );
        assert_eq!(server.figure("configuration.reloads"), 0);
        let mut wire = Wire::open(&server);
        wire.say(&large);
        wire.ends_with(1009);
    }
    std::fs::remove_file(server.dir().join("ws.toml")).unwrap();
    std::fs::create_dir(server.dir().join("ws.toml")).unwrap();
    server.signal(Signal::SIGHUP);
    server.until("configuration.reloads_failed", unusable.len() as u64 + 1);
    std::fs::remove_dir(server.dir().join("ws.toml")).unwrap();
    reload(&server, right, "reloads");
    let log = server.finish();
    let faults: Vec<_> = records(&log)
        .iter()
        .filter_map(|record| Some(record["fault"].as_str()?.to_owned()))
        .collect();
    for told in [
        "ws.toml:2:",
        "ws.toml:2:5: log.levl: unknown key, did you mean log.level?",
        "ws.toml:3:13: log.level: \"y\" is not one of",
        "larger than 1048576 bytes",
        "with the settings that need a restart as they are: control.idempotency_receipts: must be",
        "it is a directory",
    ] {
        assert!(
            faults.iter().any(|fault| fault.contains(told)),
            "{told}: {faults:#?}"
        );
    }
}

#[test]
fn t75_a_file_of_keys_that_cannot_be_used_leaves_everything_as_it_was() {
    let file = |extra: &str| {
        format!("app.backend = 'echo'\nidentity.token.secret_file = 'secret'\n{extra}\n")
    };
    let setup = Setup::new();
    let secret = setup.dir().join("secret");
    std::fs::write(&secret, "a secret of thirty-two bytes, or more").unwrap();
    std::fs::write(setup.dir().join("ws.toml"), file("")).unwrap();
    let server = setup.start();
    std::fs::write(&secret, "short").unwrap();
    let stricter = file("origin.allow_missing = false");
    reload(&server, &stricter, "reloads_failed");
    let figure = |name: &str| server.figure(name);
    assert_eq!(figure("configuration.reloads"), 0);
    assert_eq!(figure("identities.key_reloads_failed"), 1);
    Wire::open(&server).bye();
    std::fs::write(&secret, "another secret of thirty-two or more").unwrap();
    reload(&server, &stricter, "reloads");
    assert_eq!(figure("identities.key_reloads"), 1);
    assert_eq!(asked(&server, &[]).status, 403);
    let log = server.finish();
    assert!(log.contains("identity.token.secret_file"), "{log}");
}

#[test]
fn t75_a_stop_does_not_wait_for_a_file_that_is_never_opened() {
    let authority = Authority::new();
    let setup = authority.server().set("server.tls.reload_interval", "off");
    let server = setup.arg("--echo").start();
    let path = server.dir().join("cert.pem");
    // As on a file system that hangs. Not for longer, since the end itself may be held up by strace.
    let slow = "openat:delay_enter=20s";
    let Some(injection) = Injection::start_for_file(server.pid(), slow, &path) else {
        eprintln!("skipped: no system call can be held up here");
        server.finish();
        return;
    };
    server.signal(Signal::SIGHUP);
    // What else it is asked for it does meanwhile.
    server.signal(Signal::SIGUSR1);
    for figure in ["reloads", "reloads_failed"] {
        assert_eq!(server.figure(&format!("configuration.{figure}")), 0);
    }
    server.signal(Signal::SIGTERM);
    let log = server.check_end();
    // It lets go of nobody before the time is over.
    drop(injection);
    assert!(log.contains("USR1"), "{log}");
    for end in ["are renewed", "everything stays as it was"] {
        assert!(!log.contains(end), "{log}");
    }
}

#[test]
fn t75_a_certificate_that_would_be_waited_for_is_refused_at_start_and_on_hup() {
    let authority = Authority::new();
    let place = |server_dir: &Path, name: &str| {
        let path = server_dir.join(name);
        let _ = std::fs::remove_file(&path);
        nix::unistd::mkfifo(&path, Mode::S_IRWXU).unwrap();
    };
    for (name, setting) in [
        ("cert.pem", "server.tls.cert"),
        ("key.pem", "server.tls.key"),
        ("ca.pem", "server.tls.client_ca"),
    ] {
        let setup = authority.server().set("server.tls.client_ca", "ca.pem");
        std::fs::write(setup.dir().join("ca.pem"), authority.pem()).unwrap();
        place(setup.dir(), name);
        let output = setup.arg("--echo").fail();
        let said = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(78), "{said}");
        assert!(said.contains(name), "{setting}: {said}");
        assert!(said.contains("it is not a regular file"), "{said}");
    }
    let setup = authority.server().set("server.tls.reload_interval", "off");
    let server = setup.arg("--echo").start();
    place(server.dir(), "cert.pem");
    server.signal(Signal::SIGHUP);
    server.until("configuration.reloads_failed", 1);
    let log = server.finish();
    assert!(log.contains("it is not a regular file"), "{log}");
}

#[tokio::test]
async fn certificates_and_settings_are_taken_together_or_not_at_all() {
    let authority = Authority::new();
    let setup = Setup::new().listen("wss://127.0.0.1:0");
    authority.issue("localhost").write(setup.dir(), "");
    let file = |prefix: &str, extra: &str| {
        format!(
            "app.backend = 'echo'\n{extra}\n[server.tls]\nreload_interval = 'off'\n\
             cert = '{prefix}cert.pem'\nkey = '{prefix}key.pem'\n"
        )
    };
    std::fs::write(setup.dir().join("ws.toml"), file("", "")).unwrap();
    let server = setup.start();
    let new = authority.issue("localhost");
    new.write(server.dir(), "new-");
    std::fs::write(server.dir().join("bad-cert.pem"), "garbage").unwrap();
    let cookie = "identity.cookie = 'other'";
    std::fs::write(server.dir().join("ws.toml"), file("bad-", cookie)).unwrap();
    server.signal(Signal::SIGHUP);
    server.until("certificates.reloads_failed", 1);
    eventually("the signal is dealt with", || {
        server.figure("configuration.reloads_failed") == 1
    });
    assert_eq!(server.figure("configuration.reloads"), 0);
    reload(&server, &file("new-", cookie), "reloads");
    let (client, _) = authority.caller().connect(&server).await;
    assert_eq!(shown(&client), new.certificate);
    leave(client).await;
    server.finish();
}

//! The control socket: the door that answers, and slow readers (T30).

use std::io::{Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream;

use nix::sys::signal::Signal;
use serde_json::{Value, json};
use tokio_tungstenite::tungstenite::Message;

use crate::support::*;

/// The entry of a connection in the list, by the target of its handshake.
fn entry(server: &Server, uri: &str) -> Value {
    let connections = server.connections();
    let found = connections.iter().find(|entry| entry["uri"] == uri);
    found
        .unwrap_or_else(|| panic!("{uri}: {connections:?}"))
        .clone()
}

/// The error of a request that is refused with this status.
fn refusal(server: &Server, path: &str, body: &str, status: u16) -> String {
    let (answered, answer) = server.control("POST", path, body);
    assert_eq!(answered, status, "{body}: {answer}");
    let answer: Value = serde_json::from_str(&answer).unwrap_or_else(|_| panic!("{answer}"));
    answer["error"].as_str().unwrap().to_owned()
}

/// The receipt of a push that was taken whole by so many idle connections.
fn all_written(count: u64) -> Value {
    json!({ "connections": count, "written": count, "queued": 0, "dropped": 0 })
}

/// The user is the first part of the path of the handshake.
const USER_BY_PATH: &str = r#"user=${PATH_INFO#/}; printf %s "${user%%/*}""#;

#[tokio::test]
async fn b04_a_push_reaches_exactly_those_it_names() {
    let setup = Setup::new().arg("--echo").validate(USER_BY_PATH);
    let server = setup.start();
    // User 4 twice, in two sessions; 42 is another user, whatever its name begins with.
    let mut clients = Vec::new();
    for uri in ["/4/a", "/4/b", "/42/c", "/*/d"] {
        clients.push(server.connect_with(uri, &[]).await.unwrap());
    }
    let a = entry(&server, "/4/a");
    let c = entry(&server, "/42/c");
    assert_eq!(a["user"], "4");
    let pushes = [
        (json!({ "all": true }), "0123"),
        (json!({ "user": "4" }), "01"),
        (json!({ "user": "42" }), "2"),
        (json!({ "user": "*" }), "3"),
        (json!({ "session": a["session"] }), "0"),
        (json!({ "connection": c["id"] }), "2"),
        (json!({ "user": "420" }), ""),
        (json!({ "user": "4*" }), ""),
        (json!({ "session": "0".repeat(32) }), ""),
        (json!({ "connection": "0000000000000000" }), ""),
    ];
    for (number, (to, reached)) in pushes.iter().enumerate() {
        let text = format!("push {number}");
        let receipt = server.send(to.clone(), &text);
        assert_eq!(receipt, all_written(reached.len() as u64), "{to}");
        for at in reached.chars() {
            let at = at.to_digit(10).unwrap() as usize;
            assert_eq!(hear(&mut clients[at]).await, text, "{to}");
        }
    }
    for client in &mut clients {
        assert_eq!(ask(client, "nothing else").await, "nothing else");
    }
    for client in clients {
        bye(client).await;
    }
    server.finish();
}

#[tokio::test]
async fn text_and_binary_arrive_byte_for_byte() {
    let server = Setup::new().arg("--echo").start();
    let mut client = server.connect().await;
    for text in ["", "\n", "ünï \u{0}\u{7f}", "{\"a\":[1]}", "/echo/x"] {
        server.send(json!({ "all": true }), text);
        assert_eq!(hear(&mut client).await, text);
    }
    let body = json!({ "to": { "all": true }, "base64": "AP8B" });
    assert_eq!(server.post("/v1/send", body), all_written(1));
    assert_eq!(next(&mut client).await, Message::binary(vec![0, 255, 1]));
    // Whatever is in it, a message of the largest size fits: here each byte takes six in JSON.
    let largest = "\u{1}".repeat(1 << 20);
    server.send(json!({ "all": true }), &largest);
    assert_eq!(hear(&mut client).await, largest);
    bye(client).await;
    server.finish();
}

#[tokio::test]
async fn requests_of_the_wrong_shape_are_refused_by_the_name_of_what_is_wrong() {
    let server = Setup::new().app("echo \"$REQUEST_URI\"").start();
    let client = server.connect().await;
    let all = json!({ "all": true });
    let sends = [
        (json!({ "text": "x" }), "to"),
        (json!({ "to": {}, "text": "x" }), "to"),
        (json!({ "to": "all", "text": "x" }), "to"),
        (json!({ "to": { "all": false }, "text": "x" }), "to"),
        (
            json!({ "to": { "all": true, "user": "u" }, "text": "x" }),
            "to",
        ),
        (json!({ "to": { "al": true }, "text": "x" }), "`al`"),
        (json!({ "to": { "user": 4 }, "text": "x" }), "to.user"),
        (json!({ "to": { "user": "a b" }, "text": "x" }), "to.user"),
        (json!({ "to": { "user": "" }, "text": "x" }), "to.user"),
        (
            json!({ "to": { "session": "x" }, "text": "x" }),
            "to.session",
        ),
        (
            json!({ "to": { "connection": "x" }, "text": "x" }),
            "to.connection",
        ),
        (json!({ "to": all }), "text and base64"),
        (
            json!({ "to": all, "text": "x", "base64": "eA==" }),
            "text and base64",
        ),
        (json!({ "to": all, "text": 1 }), "text"),
        (json!({ "to": all, "base64": "?" }), "base64"),
        (json!({ "to": all, "text": "x", "when": "now" }), "`when`"),
        (json!([4]), "[0]"),
    ];
    for (body, named) in sends {
        let error = refusal(&server, "/v1/send", &body.to_string(), 400);
        assert!(error.contains(named), "{body}: {error}");
    }
    for body in [
        "",
        "{",
        "{\"to\":{\"all\":true},\"text\":\"\\ud800\"}",
        "\u{0}",
    ] {
        refusal(&server, "/v1/send", body, 400);
    }
    let runs = [
        (json!({ "to": all }), "uri"),
        (json!({ "to": all, "uri": "rm -rf" }), "uri"),
        (json!({ "to": all, "uri": "//h/a" }), "uri"),
        (json!({ "to": all, "uri": "/a\nb" }), "uri"),
        (
            json!({ "to": all, "uri": format!("/{}", "a".repeat(8192)) }),
            "uri",
        ),
        (
            json!({ "to": all, "uri": "/a", "source": "fifo" }),
            "source",
        ),
        (json!({ "uri": "/a" }), "to"),
    ];
    for (body, named) in runs {
        let error = refusal(&server, "/v1/run", &body.to_string(), 400);
        assert!(error.contains(named), "{body}: {error}");
    }
    assert_eq!(server.control("GET", "/v1/nothing", "").0, 404);
    assert_eq!(server.control("GET", "/v1/send", "").0, 405);
    assert_eq!(server.control("DELETE", "/live", "").0, 405);
    let status = server.status();
    assert_eq!(figure(&status, "pushes.accepted"), 0);
    assert_eq!(figure(&status, "callbacks.accepted"), 0);
    bye(client).await;
    server.finish();
}

#[tokio::test]
async fn messages_that_are_too_large_are_refused_by_the_name_of_the_limit() {
    let setup = Setup::new().arg("--echo");
    let server = setup.set("limits.max_message_size", "1000").start();
    let mut client = server.connect().await;
    let to = json!({ "all": true });
    server.send(to.clone(), &"x".repeat(1000));
    assert_eq!(hear(&mut client).await.len(), 1000);
    // A little and far too large: the one is read, the other is not.
    for size in [1001, 500_000] {
        let body = json!({ "to": to, "text": "x".repeat(size) }).to_string();
        let error = refusal(&server, "/v1/send", &body, 413);
        assert!(error.contains("limits.max_message_size"), "{error}");
    }
    assert_eq!(ask(&mut client, "fine").await, "fine");
    bye(client).await;
    server.finish();
}

#[tokio::test]
async fn t11_a_page_in_a_browser_is_refused() {
    let server = Setup::new().arg("--echo").start();
    let mut client = server.connect().await;
    let requests = [
        "POST /v1/send HTTP/1.1\r\nHost: localhost\r\nOrigin: null\r\n",
        "POST /v1/send HTTP/1.1\r\nHost: localhost\r\nOrigin: http://localhost\r\n",
        "GET /v1/connections HTTP/1.1\r\nHost: localhost\r\nOrigin: http://evil\r\n",
    ];
    let body = json!({ "to": { "all": true }, "text": "evil" }).to_string();
    for head in requests {
        let mut stream = UnixStream::connect(server.state("control.sock")).unwrap();
        // In one piece: it is answered before its body is asked for.
        let length = body.len();
        let request = format!("{head}Connection: close\r\nContent-Length: {length}\r\n\r\n{body}");
        stream.write_all(request.as_bytes()).unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        assert!(answer.starts_with("HTTP/1.1 403 "), "{answer}");
    }
    assert_eq!(ask(&mut client, "nothing came").await, "nothing came");
    bye(client).await;
    server.finish();
}

#[tokio::test]
async fn the_list_and_the_figures_tell_what_is() {
    let setup = Setup::new().app("echo hi").validate(USER_BY_PATH);
    let server = setup.start();
    assert_eq!(server.connections(), Vec::<Value>::new());
    assert_eq!(server.control("GET", "/live", "").0, 200);
    assert_eq!(server.control("GET", "/ready", "").0, 200);
    let mut alice = server.connect_with("/alice/x?y=1", &[]).await.unwrap();
    let bob = server.connect_with("/bob", &[]).await.unwrap();
    let entry = entry(&server, "/alice/x?y=1");
    assert_eq!(entry["user"], "alice");
    assert_eq!(entry["ip"], "127.0.0.1");
    assert_eq!(entry["id"].as_str().unwrap().len(), 16);
    assert_eq!(entry["session"].as_str().unwrap().len(), 32);
    let now = std::time::SystemTime::now()
        .duration_since(std::time::UNIX_EPOCH)
        .unwrap();
    let age = now.as_secs_f64() - entry["opened_at"].as_f64().unwrap();
    assert!((-1.0..60.0).contains(&age), "{age}");
    assert_eq!(ask(&mut alice, "/").await, "hi");
    let status = server.status();
    for (path, value) in [
        ("connections.open", 2),
        ("connections.opened", 2),
        ("users", 2),
        ("sessions", 2),
        ("messages.received", 1),
        ("callbacks.finished", 1),
        ("callbacks.validations", 2),
        ("pid", u64::try_from(server.pid()).unwrap()),
    ] {
        assert_eq!(figure(&status, path), value, "{path}");
    }
    assert!(figure(&status, "memory_bytes") > 1_000_000);
    let mode = |name| {
        let metadata = std::fs::metadata(server.state(name)).unwrap();
        metadata.permissions().mode() & 0o7777
    };
    assert_eq!(mode("control.sock"), 0o600);
    assert_eq!(mode(""), 0o750);
    bye(alice).await;
    bye(bob).await;
    server.finish();
}

#[tokio::test]
async fn a_server_that_drains_is_live_but_not_ready() {
    let setup = Setup::new().app("read _ < gate; echo done");
    let mut gate = Gate::new(setup.dir(), "gate");
    let server = setup.start();
    let mut client = server.connect().await;
    say(&mut client, "/slow").await;
    server.until("callbacks.started", 1);
    server.signal(Signal::SIGTERM);
    eventually("it says that it is not ready", || {
        server.control("GET", "/ready", "").0 == 503
    });
    assert_eq!(server.control("GET", "/live", "").0, 200);
    let run = json!({ "to": { "all": true }, "uri": "/more" }).to_string();
    assert_eq!(server.control("POST", "/v1/run", &run).0, 503);
    gate.open(1);
    assert_eq!(hear(&mut client).await, "done");
    assert_eq!(close_code(&mut client).await, 1001);
    drop(client);
    server.check_end();
}

#[tokio::test]
async fn a_run_is_made_once_for_each_connection_and_waits_for_a_full_queue() {
    let setup = Setup::new()
        .app(r#"[ "$REQUEST_URI" = /free ] || read _ < gate; echo "$WS_SOURCE $REQUEST_URI""#)
        .validate(USER_BY_PATH)
        .set("app.queue", "1");
    let mut gate = Gate::new(setup.dir(), "gate");
    let server = setup.start();
    let mut busy = server.connect_with("/alice/busy", &[]).await.unwrap();
    let mut free = server.connect_with("/alice/free", &[]).await.unwrap();
    let mut other = server.connect_with("/bob", &[]).await.unwrap();
    say(&mut busy, "/1").await;
    say(&mut busy, "/2").await;
    server.until("callbacks.accepted", 2);
    let socket = server.state("control.sock");
    let run = std::thread::spawn(move || {
        let body = json!({ "to": { "user": "alice" }, "uri": "/free" }).to_string();
        control(&socket, "POST", "/v1/run", &body).unwrap()
    });
    // The free one does not wait for the busy one.
    assert_eq!(hear(&mut free).await, "api /free");
    assert_eq!(server.figure("callbacks.accepted"), 3);
    gate.open(2);
    for answer in ["client /1", "client /2", "api /free"] {
        assert_eq!(hear(&mut busy).await, answer);
    }
    let (status, receipt) = run.join().unwrap();
    let receipt: Value = serde_json::from_str(&receipt).unwrap();
    let expected = json!({ "connections": 2, "written": 0, "queued": 2, "dropped": 0 });
    assert_eq!((status, receipt), (200, expected));
    let nobody = server.post(
        "/v1/run",
        json!({ "to": { "user": "carol" }, "uri": "/free" }),
    );
    assert_eq!(nobody, all_written(0));
    assert_eq!(ask(&mut other, "/free").await, "client /free");
    for client in [busy, free, other] {
        bye(client).await;
    }
    server.finish();
}

#[tokio::test]
async fn a_run_that_waits_is_dropped_with_its_connection_and_says_so() {
    let setup = Setup::new()
        .app("read _ < gate")
        .set("app.queue", "1")
        .set("app.on_disconnect", "cancel")
        .set("limits.send_queue_size", "1KiB");
    let _gate = Gate::new(setup.dir(), "gate");
    let server = setup.start();
    let mut client = server.connect().await;
    say(&mut client, "/1").await;
    say(&mut client, "/2").await;
    server.until("callbacks.accepted", 2);
    let socket = server.state("control.sock");
    let run = std::thread::spawn(move || {
        let body = json!({ "to": { "all": true }, "uri": "/3" }).to_string();
        control(&socket, "POST", "/v1/run", &body).unwrap()
    });
    // That the run waits cannot be seen from outside; either way it has one end. The client does
    // not read, and is closed for it.
    let push = "x".repeat(1 << 20);
    eventually("the queue overflows", || {
        figure(&server.send(json!({ "all": true }), &push), "dropped") == 1
    });
    drop(client);
    let (_, receipt) = run.join().unwrap();
    let receipt: Value = serde_json::from_str(&receipt).unwrap();
    assert_eq!(receipt["queued"], 0, "{receipt}");
    assert_eq!(receipt["connections"], receipt["dropped"], "{receipt}");
    assert_eq!(server.figure("callbacks.accepted"), 2);
    server.finish();
}

#[tokio::test]
async fn t30_who_does_not_read_is_closed_with_1013_and_the_others_get_everything() {
    let server = Setup::new()
        .arg("--echo")
        .validate(USER_BY_PATH)
        .set("limits.send_queue_size", "256KiB")
        .set("limits.close_timeout", "60s")
        .start();
    let mut slow = server.connect_with("/slow", &[]).await.unwrap();
    let mut good = server.connect_with("/good", &[]).await.unwrap();
    let text = |number: usize| format!("{number} {}", "x".repeat(100_000));
    let (mut pushed, mut dropped) = (0, 0);
    // More than the kernel's buffers hold, and then some.
    while dropped == 0 || pushed % 10 > 0 {
        assert!(pushed < 1000, "nothing bounds the queue");
        let receipt = server.send(json!({ "all": true }), &text(pushed));
        let get = |name| figure(&receipt, name);
        assert_eq!(
            get("connections"),
            get("written") + get("queued") + get("dropped"),
            "{receipt}"
        );
        dropped += get("dropped");
        assert_eq!(hear(&mut good).await, text(pushed));
        pushed += 1;
    }
    // What it does read are whole messages from the first on, then the reason.
    let mut received = 0;
    let code = loop {
        match next(&mut slow).await {
            Message::Text(message) => assert_eq!(message.as_str(), text(received)),
            Message::Close(frame) => break u16::from(frame.unwrap().code),
            other => panic!("{other:?}"),
        }
        received += 1;
    };
    assert_eq!(code, 1013);
    bye(slow).await;
    server.until("connections.open", 1);
    let status = server.status();
    assert_eq!(figure(&status, "connections.closed_by.overflow"), 1);
    assert_eq!(figure(&status, "pushes.dropped"), dropped);
    let sent = figure(&status, "messages.sent");
    assert_eq!(sent, (pushed + received) as u64);
    assert_eq!(ask(&mut good, "fine").await, "fine");
    bye(good).await;
    server.finish();
}

#[tokio::test]
async fn t30_an_empty_queue_takes_one_message_of_any_size() {
    let setup = Setup::new().arg("--echo");
    let server = setup.set("limits.send_queue_size", "1KiB").start();
    let mut client = server.connect().await;
    let large = "x".repeat(1 << 20);
    for _ in 0..3 {
        let receipt = server.send(json!({ "all": true }), &large);
        assert_eq!(figure(&receipt, "dropped"), 0, "{receipt}");
        assert_eq!(hear(&mut client).await, large);
        // The client may have it before the server knows.
        eventually("the queue is empty", || {
            let status = server.status();
            figure(&status, "messages.queued") == figure(&status, "messages.sent")
        });
    }
    bye(client).await;
    server.finish();
}

#[tokio::test]
async fn a_run_that_waits_is_withdrawn_when_whoever_asked_gives_up() {
    let setup = Setup::new()
        .app(r#"[ "$REQUEST_URI" = /free ] || read _ < gate; echo "$REQUEST_URI""#)
        .set("server.threads", "1")
        .set("app.queue", "1");
    let mut gate = Gate::new(setup.dir(), "gate");
    let server = setup.start();
    let mut busy = server.connect().await;
    let mut free = server.connect().await;
    say(&mut busy, "/1").await;
    say(&mut busy, "/2").await;
    server.until("callbacks.accepted", 2);
    let descriptors = || {
        let all = std::fs::read_dir(format!("/proc/{}/fd", server.pid()));
        all.unwrap().count()
    };
    let before = descriptors();
    let mut asking = UnixStream::connect(server.state("control.sock")).unwrap();
    let body = json!({ "to": { "all": true }, "uri": "/free" }).to_string();
    let length = body.len();
    write!(
        asking,
        "POST /v1/run HTTP/1.1\r\nHost: localhost\r\nContent-Length: {length}\r\n\r\n{body}"
    )
    .unwrap();
    // The one is asked, so the other waits.
    assert_eq!(hear(&mut free).await, "/free");
    drop(asking);
    eventually("the server sees it go", || descriptors() <= before);
    // The worker does one thing after another: what comes now comes behind the withdrawal.
    server.send(json!({ "all": true }), "after");
    assert_eq!(hear(&mut free).await, "after");
    assert_eq!(hear(&mut busy).await, "after");
    gate.open(2);
    assert_eq!(hear(&mut busy).await, "/1");
    assert_eq!(hear(&mut busy).await, "/2");
    assert_eq!(ask(&mut busy, "/free").await, "/free");
    bye(free).await;
    bye(busy).await;
    assert_eq!(server.figure("callbacks.accepted"), 4);
    server.finish();
}

#[tokio::test]
async fn inv11_a_run_that_waits_when_the_drain_begins_is_made_and_answered() {
    let setup = Setup::new()
        .app(r#"[ "$REQUEST_URI" = /free ] || read _ < gate; echo "$REQUEST_URI""#)
        .set("app.queue", "1");
    let mut gate = Gate::new(setup.dir(), "gate");
    let server = setup.start();
    let mut busy = server.connect_with("/busy", &[]).await.unwrap();
    let mut free = server.connect_with("/free", &[]).await.unwrap();
    say(&mut busy, "/1").await;
    say(&mut busy, "/2").await;
    server.until("callbacks.accepted", 2);
    let socket = server.state("control.sock");
    // Somebody who only holds a connection to the control socket holds nothing up.
    let _idle = UnixStream::connect(&socket).unwrap();
    let run = std::thread::spawn(move || {
        let body = json!({ "to": { "all": true }, "uri": "/free" }).to_string();
        control(&socket, "POST", "/v1/run", &body).unwrap()
    });
    assert_eq!(hear(&mut free).await, "/free");
    server.signal(Signal::SIGTERM);
    eventually("it drains", || server.control("GET", "/ready", "").0 == 503);
    gate.open(2);
    for answer in ["/1", "/2", "/free"] {
        assert_eq!(hear(&mut busy).await, answer);
    }
    assert_eq!(close_code(&mut busy).await, 1001);
    assert_eq!(close_code(&mut free).await, 1001);
    bye(busy).await;
    bye(free).await;
    let (status, receipt) = run.join().unwrap();
    let receipt: Value = serde_json::from_str(&receipt).unwrap();
    let expected = json!({ "connections": 2, "written": 0, "queued": 2, "dropped": 0 });
    assert_eq!((status, receipt), (200, expected));
    server.check_end();
}

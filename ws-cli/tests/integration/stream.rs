//! A program for each connection: lines in, lines out.

use std::path::Path;
use std::time::Duration;

use futures_util::{SinkExt, StreamExt};
use nix::sys::signal::Signal;
use serde_json::{Value, json};
use tokio_tungstenite::tungstenite::Message;

use crate::support::*;

/// A server that starts this shell script for each connection.
/// Programs that end when their input does have time for it, however busy the machine is.
fn stream(script: &str) -> Setup {
    Setup::new()
        .arg("--stream")
        .set("app.stream_grace", "20s")
        .app(script)
}

/// Programs that do not.
fn stream_with_short_grace(script: &str) -> Setup {
    stream(script).set("app.stream_grace", "250ms")
}

fn lines_of(dir: &Path, name: &str) -> Vec<String> {
    let text = std::fs::read_to_string(dir.join(name)).unwrap_or_default();
    text.lines().map(str::to_owned).collect()
}

/// The close frame's code and reason.
async fn closed(client: &mut Client) -> (u16, String) {
    match next(client).await {
        Message::Close(Some(frame)) => (frame.code.into(), frame.reason.to_string()),
        other => panic!("not closed: {other:?}"),
    }
}

fn causes(log: &str) -> Vec<Value> {
    let records = log.lines().map(|line| serde_json::from_str(line).unwrap());
    let failures = records.filter(|record: &Value| record["message"] == "program failed");
    failures.map(|record| record["cause"].clone()).collect()
}

/// Asks a server for an end, and checks how many programs ended well and how many failed.
fn finish(server: Server, ended: u64, failed: u64) -> String {
    server.until("programs.ended", ended);
    server.until("programs.failed", failed);
    assert_eq!(server.figure("programs.started"), ended + failed);
    server.finish()
}

#[tokio::test]
async fn a_program_asks_hears_and_ends() {
    let server =
        stream("echo 'What is your name?'; read name; printf 'Hello %s!' \"$name\"").start();
    let mut client = server.connect().await;
    assert_eq!(hear(&mut client).await, "What is your name?");
    assert_eq!(ask(&mut client, "Ann").await, "Hello Ann!");
    assert_eq!(closed(&mut client).await, (1000, String::new()));
    server.until("connections.closed_by.program_ended", 1);
    finish(server, 1, 0);
}

#[tokio::test]
async fn each_line_is_a_message_with_an_empty_one_too() {
    let server = stream(r"printf 'one\r\n\ntwo\n\377\nthree'").start();
    let mut client = server.connect().await;
    for line in ["one", "", "two"] {
        assert_eq!(hear(&mut client).await, line);
    }
    assert_eq!(next(&mut client).await, Message::binary(vec![0xff]));
    assert_eq!(hear(&mut client).await, "three");
    assert_eq!(close_code(&mut client).await, 1000);
    finish(server, 1, 0);
}

#[tokio::test]
async fn a_text_message_is_a_line_and_a_binary_one_is_as_it_is() {
    let server = stream("cat").start();
    let mut client = server.connect().await;
    assert_eq!(ask(&mut client, "ping").await, "ping");
    assert_eq!(ask(&mut client, "two\nlines").await, "two");
    assert_eq!(hear(&mut client).await, "lines");
    assert_eq!(ask(&mut client, "").await, "");
    for part in ["a", "", "b\nc"] {
        client
            .send(Message::binary(part.as_bytes().to_vec()))
            .await
            .unwrap();
    }
    assert_eq!(hear(&mut client).await, "ab");
    assert_eq!(ask(&mut client, "d").await, "cd");
    bye(client).await;
    finish(server, 1, 0);
}

#[tokio::test]
async fn bytes_are_binary_messages() {
    let server = stream("cat").set("app.stream", "binary").start();
    let mut client = server.connect().await;
    let said: Vec<u8> = (0..300_000_u32).map(|n| (n % 251) as u8).collect();
    client.send(Message::binary(said.clone())).await.unwrap();
    let mut heard = Vec::new();
    while heard.len() < said.len() {
        match next(&mut client).await {
            Message::Binary(bytes) => heard.extend_from_slice(&bytes),
            other => panic!("not binary: {other:?}"),
        }
    }
    assert!(heard == said);
    bye(client).await;
    finish(server, 1, 0);
}

#[tokio::test]
async fn variables_are_those_of_websocketd_and_ours() {
    let server = stream("env; echo end; cat").validate("echo alice").start();
    let headers = [("X-Test", "x"), ("Proxy", "http://evil")];
    let mut client = server.connect_with("/a%20b?c=d", &headers).await.unwrap();
    let mut env = std::collections::HashMap::new();
    loop {
        let line = hear(&mut client).await;
        let Some((name, value)) = line.split_once('=') else {
            break;
        };
        env.insert(name.to_owned(), value.to_owned());
    }
    let port = server.addr.port().to_string();
    let expected = [
        ("GATEWAY_INTERFACE", "CGI/1.1"),
        ("SERVER_PROTOCOL", "HTTP/1.1"),
        ("SERVER_NAME", "127.0.0.1"),
        ("SERVER_PORT", &port),
        ("REQUEST_METHOD", "GET"),
        ("REQUEST_URI", "/a%20b?c=d"),
        ("PATH_INFO", "/a b"),
        ("PATH_TRANSLATED", "/a b"),
        ("QUERY_STRING", "c=d"),
        ("REMOTE_ADDR", "127.0.0.1"),
        ("REMOTE_HOST", "127.0.0.1"),
        ("HTTP_X_TEST", "x"),
        ("WS_EVENT", "stream"),
        ("WS_USER_ID", "alice"),
        ("REMOTE_USER", "alice"),
    ];
    for (name, value) in expected {
        assert_eq!(env.get(name).map(String::as_str), Some(value), "{name}");
    }
    assert_eq!(env["UNIQUE_ID"], env["WS_CONNECTION_ID"]);
    for name in [
        "REMOTE_PORT",
        "SERVER_SOFTWARE",
        "SCRIPT_NAME",
        "TRACEPARENT",
        "WS_FIFO",
    ] {
        assert!(env.contains_key(name), "{name}");
    }
    assert!(!env.contains_key("HTTP_PROXY"), "T50");
    bye(client).await;
    finish(server, 1, 0);
}

#[tokio::test]
async fn a_program_that_fails_closes_without_details() {
    let server = stream(r#"while read -r line; do eval "$line"; done"#)
        .set("app.max_output", "1000")
        .start();
    let failures = [
        ("echo last; echo secret >&2; exit 3", "exit"),
        ("echo last; kill -9 $$", "signal"),
        ("echo last; head -c 1001 /dev/zero; sleep 600", "output"),
        ("echo last; yes | tr -d '\\n'", "output"),
    ];
    let mut other = server.connect().await;
    for (message, _) in failures {
        let mut client = server.connect().await;
        assert_eq!(
            ask(&mut client, message).await,
            "last",
            "T60, T61: {message}"
        );
        assert_eq!(closed(&mut client).await, (1011, String::new()));
        assert_eq!(ask(&mut other, "echo unharmed").await, "unharmed");
    }
    server.until("connections.closed_by.program_failed", 4);
    server.until("programs.failed_by.output", 2);
    bye(other).await;
    let log = finish(server, 1, 4);
    assert_eq!(causes(&log), failures.map(|(_, cause)| cause));
    assert!(log.contains("secret"), "stderr goes to the log");
}

#[tokio::test]
async fn a_program_that_cannot_start_closes_without_details() {
    let server = Setup::new()
        .arg("--stream")
        .command(&["/no/such/program"])
        .start();
    let mut client = server.connect().await;
    assert_eq!(closed(&mut client).await, (1011, String::new()));
    server.until("programs.failed_by.cannot_start", 1);
    finish(server, 0, 1);
}

#[tokio::test]
async fn t54_a_program_has_three_descriptors() {
    // The fourth is the one by which `ls` reads the directory.
    let server = stream("ls /proc/self/fd; cat").start();
    let mut clients = Vec::new();
    for _ in 0..20 {
        clients.push(server.connect().await);
    }
    for mut client in clients {
        for descriptor in ["0", "1", "2", "3"] {
            assert_eq!(hear(&mut client).await, descriptor);
        }
        assert_eq!(ask(&mut client, "end").await, "end");
        bye(client).await;
    }
    finish(server, 20, 0);
}

#[tokio::test]
async fn t56_t57_no_program_outlives_its_connection() {
    let scripts = [
        "cat",
        "exec sleep 600",
        "trap '' TERM INT HUP; while :; do sleep 1; done",
        "exec <&- >&- 2>&-; exec sleep 600",
        "setsid sleep 600 & (setsid sh -c '(sleep 600 &) ; exec sleep 600' &) ; cat",
        "(cd / && env -i setsid sh -c 'trap \"\" TERM; sleep 600' >&- 2>&- <&- &) ; cat",
        "yes",
        "trap '' PIPE; while :; do echo again; done",
    ];
    let server = stream_with_short_grace(r#"eval "$(cat "script-$QUERY_STRING")""#).start();
    for (index, script) in scripts.iter().enumerate() {
        std::fs::write(server.dir().join(format!("script-{index}")), script).unwrap();
    }
    for abruptly in [false, true] {
        for index in 0..scripts.len() {
            let client = server
                .connect_with(&format!("/?{index}"), &[])
                .await
                .unwrap();
            match abruptly {
                true => drop(client),
                false => bye(client).await,
            }
            server.until("connections.open", 0);
        }
    }
    let total = 2 * scripts.len() as u64;
    server.until("programs.started", total);
    let ended = || server.figure("programs.ended") + server.figure("programs.failed_by.timeout");
    eventually("every program has ended", || ended() == total);
    eventually("no process is left", || {
        server
            .processes()
            .iter()
            .all(|(_, command)| command.contains("__spawner"))
    });
    eventually("no child is left to be reaped", || {
        server.zombies().is_empty()
    });
    server.finish();
}

#[tokio::test]
async fn what_was_accepted_reaches_the_program_before_its_input_ends() {
    let server = stream("cat > heard; echo end >> heard").start();
    let mut client = server.connect().await;
    for number in 0..500 {
        client
            .feed(Message::text(format!("message {number}")))
            .await
            .unwrap();
    }
    client.flush().await.unwrap();
    bye(client).await;
    server.until("programs.ended", 1);
    let heard = lines_of(server.dir(), "heard");
    assert_eq!(heard.len(), 501);
    assert_eq!(
        (&*heard[0], &*heard[499], &*heard[500]),
        ("message 0", "message 499", "end")
    );
    assert_eq!(server.figure("callbacks.finished"), 500);
    finish(server, 1, 0);
}

#[tokio::test]
async fn t60_a_client_is_not_read_while_its_program_does_not_read() {
    const SIZE: usize = 256 * 1024;
    const COUNT: usize = 200;
    let total = (SIZE + 1) * COUNT;
    let setup = stream(&format!("echo up; read _ < gate; head -c {total} | wc -c"));
    let mut gate = Gate::new(setup.dir(), "gate");
    let server = setup.start();
    let mut client = server.connect().await;
    assert_eq!(hear(&mut client).await, "up");
    let before = server.figure("memory_bytes");
    let (mut sink, mut source) = client.split();
    let sending = tokio::spawn(async move {
        for _ in 0..COUNT {
            sink.send(Message::text("x".repeat(SIZE))).await.unwrap();
        }
        sink
    });
    // The queue is full: what is accepted now is bounded.
    let is_full = async {
        while server.figure("messages.received") < 16 {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(PATIENCE, is_full).await.unwrap();
    let mut other = server.connect().await;
    assert_eq!(hear(&mut other).await, "up", "nobody else is held up");
    assert_eq!(server.figure("messages.received"), 16);
    let growth = server.figure("memory_bytes").saturating_sub(before);
    assert!(growth < 32 << 20, "{growth}");
    gate.open(2);
    let sink = sending.await.unwrap();
    let heard = tokio::time::timeout(PATIENCE, source.next()).await.unwrap();
    let heard = heard.unwrap().unwrap().into_text().unwrap();
    assert_eq!(heard.trim(), total.to_string());
    drop((sink, source));
    bye(other).await;
    server.until("connections.open", 0);
    server.until("programs.started", 2);
    finish(server, 2, 0);
}

#[tokio::test]
async fn t30_t60_a_program_is_not_read_while_its_client_does_not_read() {
    const LAST: u64 = 30_000;
    let server = stream(&format!("seq -f %01000.0f 1 {LAST}; touch written; cat")).start();
    let before = server.figure("memory_bytes");
    let mut client = server.connect().await;
    // As much as the queue and the kernel's buffers take.
    let (mut queued, mut looks) = (0, 0);
    eventually("the program is held up", || {
        let now = server.figure("messages.queued");
        let is_unchanged = std::mem::replace(&mut queued, now) == now && now > 0;
        looks = if is_unchanged { looks + 1 } else { 0 };
        looks == 100
    });
    assert!(queued < LAST, "{queued}");
    assert!(!server.dir().join("written").exists());
    let growth = server.figure("memory_bytes").saturating_sub(before);
    assert!(growth < 16 << 20, "{growth}");
    // A push finds the queue full and closes the connection: see the limits of pushes. What a slow
    // client reads is whole, in order, and nothing is missing.
    for number in 1..=LAST {
        assert_eq!(hear(&mut client).await, format!("{number:01000}"));
    }
    assert_eq!(ask(&mut client, "end").await, "end");
    bye(client).await;
    finish(server, 1, 0);
}

#[tokio::test]
async fn pushes_come_between_lines() {
    let server = stream("while :; do echo 0123456789abcdef; done").start();
    let mut client = server.connect().await;
    let mut pushed = 0;
    let mut lines = 0;
    while pushed < 20 {
        match &*hear(&mut client).await {
            "0123456789abcdef" => lines += 1,
            "pushed" => pushed += 1,
            other => panic!("torn: {other}"),
        }
        if lines % 500 == 1 {
            server.send(json!({ "all": true }), "pushed");
            lines += 1;
        }
    }
    bye(client).await;
    server.until("programs.started", 1);
    eventually("the program has ended", || {
        server.figure("programs.ended") + server.figure("programs.failed") == 1
    });
    server.finish();
}

#[tokio::test]
async fn records_and_runs_are_lines_of_input() {
    let server = stream("cat").validate("echo alice").start();
    let mut client = server.connect().await;
    assert_eq!(ask(&mut client, "ready").await, "ready");
    let run = server.ws(&["run", "--user", "alice", "/by/cli?x"]);
    assert!(run.status.success());
    assert_eq!(hear(&mut client).await, "/by/cli?x");
    let fifos = std::fs::read_dir(server.state("fifo")).unwrap();
    let fifo = fifos
        .map(|entry| entry.unwrap().path())
        .find(|path| path.to_str().unwrap().contains("alice"));
    std::fs::write(fifo.unwrap(), "any line\n/and/a/path\n").unwrap();
    assert_eq!(hear(&mut client).await, "any line");
    assert_eq!(hear(&mut client).await, "/and/a/path");
    assert_eq!(server.figure("fifo.refused"), 0);
    bye(client).await;
    finish(server, 1, 0);
}

#[tokio::test]
async fn a_drain_lets_programs_say_their_last_words() {
    let server = stream("cat; echo bye; exit 3").start();
    let mut client = server.connect().await;
    let mut silent = server.connect().await;
    assert_eq!(ask(&mut client, "hello").await, "hello");
    assert_eq!(ask(&mut silent, "hello").await, "hello");
    server.signal(Signal::SIGTERM);
    for client in [&mut client, &mut silent] {
        assert_eq!(hear(client).await, "bye");
        assert_eq!(closed(client).await.0, 1001);
    }
    server.check_end();
}

#[tokio::test]
async fn t61_a_drain_does_not_wait_for_programs_that_go_on() {
    let server =
        stream_with_short_grace("trap '' TERM; echo up; while :; do sleep 1; done").start();
    let mut client = server.connect().await;
    assert_eq!(hear(&mut client).await, "up");
    let begun = std::time::Instant::now();
    server.signal(Signal::SIGTERM);
    assert_eq!(closed(&mut client).await.0, 1001);
    assert!(begun.elapsed() >= Duration::from_millis(500), "two graces");
    server.check_end();
}

#[tokio::test]
async fn a_second_signal_ends_programs_at_once() {
    let server = stream("trap '' TERM; echo up; while :; do sleep 1; done")
        .set("app.stream_grace", "1h")
        .start();
    let mut client = server.connect().await;
    assert_eq!(hear(&mut client).await, "up");
    server.signal(Signal::SIGTERM);
    eventually("the drain has begun", || {
        std::net::TcpStream::connect(server.addr).is_err()
    });
    server.signal(Signal::SIGTERM);
    let mut server = server;
    server.wait();
    drop(client);
}

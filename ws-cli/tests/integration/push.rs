//! Pushes: whom they reach, what became of them, and how often.

use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::process::{Command, Stdio};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::{Value, json};

use crate::support::*;

/// The user is the first part of the path of the handshake.
const USER_BY_PATH: &str = r#"user=${PATH_INFO#/}; printf %s "${user%%/*}""#;

/// An id of the connection that was opened at this path.
fn id_of(server: &Server, uri: &str, key: &str) -> String {
    let connections = server.connections();
    let entry = connections.iter().find(|entry| entry["uri"] == uri);
    entry.unwrap()[key].as_str().unwrap().to_owned()
}

fn sum(receipt: &Value) -> u64 {
    let get = |name| figure(receipt, name);
    get("written") + get("queued") + get("dropped")
}

/// A request with further header lines; returns status and body.
fn request(server: &Server, head: &str, body: &str) -> (u16, String) {
    let mut stream = UnixStream::connect(server.state("control.sock")).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    let length = body.len();
    // A request that is refused by its head need not be read to its end.
    let _ = write!(
        stream,
        "POST /v1/send HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n{head}Content-Length: {length}\r\n\r\n{body}"
    );
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    (head[9..12].parse().unwrap(), body.to_owned())
}

#[tokio::test]
async fn a_push_reaches_several_and_all_but_one_each_once() {
    let setup = Setup::new().arg("--echo").validate(USER_BY_PATH);
    let server = setup.start();
    let uris = ["/a/0", "/a/1", "/b/2", "/c/3"];
    let mut clients = Vec::new();
    for uri in uris {
        clients.push(server.connect_with(uri, &[]).await.unwrap());
    }
    let id = |at: usize| id_of(&server, uris[at], "id");
    let session = |at: usize| id_of(&server, uris[at], "session");
    let pushes = [
        (json!({ "users": ["a", "c"] }), "013"),
        (json!({ "users": ["b", "b", "nobody"] }), "2"),
        (json!({ "users": [] }), ""),
        (json!({ "connections": [id(0), id(3), id(0)] }), "03"),
        (json!({ "sessions": [session(1), session(2)] }), "12"),
        // In several at once.
        (
            json!({ "users": ["a"], "sessions": [session(0)], "connections": [id(0), id(3)] }),
            "013",
        ),
        (json!({ "all": true, "except": { "user": "a" } }), "23"),
        (
            json!({ "all": true, "except": { "user": "nobody" } }),
            "0123",
        ),
        (
            json!({ "all": true, "except": { "session": session(3) } }),
            "012",
        ),
        (
            json!({ "all": true, "except": { "connection": id(1) } }),
            "023",
        ),
        (
            json!({ "user": "a", "except": { "connection": id(1) } }),
            "0",
        ),
        (
            json!({ "users": ["a", "b"], "except": { "user": "b" } }),
            "01",
        ),
        (json!({ "user": "a", "except": { "user": "a" } }), ""),
    ];
    for (number, (to, reached)) in pushes.iter().enumerate() {
        let text = format!("push {number}");
        let receipt = server.send(to.clone(), &text);
        let count = reached.len();
        let expected = json!({ "connections": count, "written": count, "queued": 0, "dropped": 0 });
        assert_eq!(receipt, expected, "{to}");
        for at in reached.chars() {
            let at = at.to_digit(10).unwrap() as usize;
            assert_eq!(hear(&mut clients[at]).await, text, "{to}");
        }
    }
    for client in &mut clients {
        assert_eq!(ask(client, "nothing else").await, "nothing else");
    }
    let output = server.ws(&["send", "--user", "b", "--user", "c", "from the shell"]);
    assert_eq!(output.stdout, b"2\n", "{output:?}");
    let output = server.ws(&["send", "--all", "--except-user", "a", "not to a"]);
    assert_eq!(output.stdout, b"2\n", "{output:?}");
    for at in [2, 3] {
        assert_eq!(hear(&mut clients[at]).await, "from the shell");
        assert_eq!(hear(&mut clients[at]).await, "not to a");
    }
    for client in clients {
        bye(client).await;
    }
    server.finish();
}

#[tokio::test]
async fn whatever_pushes_aim_at_all_receivers_see_them_in_one_order() {
    let setup = Setup::new().arg("--echo").validate(USER_BY_PATH);
    let server = setup.set("server.threads", "4").start();
    let mut clients = Vec::new();
    for number in 0..8 {
        let uri = format!("/u{}/{number}", number % 2);
        clients.push(server.connect_with(&uri, &[]).await.unwrap());
    }
    // Five ways to say the same.
    let ids: Vec<Value> = server
        .connections()
        .iter()
        .map(|one| one["id"].clone())
        .collect();
    let targets = [
        json!({ "all": true }),
        json!({ "users": ["u0", "u1"] }),
        json!({ "connections": ids }),
        json!({ "all": true, "except": { "user": "nobody" } }),
        json!({ "users": ["u1"], "connections": ids, "except": { "user": "nobody" } }),
    ];
    let count = 60;
    let publishers: Vec<_> = targets
        .into_iter()
        .enumerate()
        .map(|(publisher, to)| {
            let socket = server.state("control.sock");
            std::thread::spawn(move || {
                // Some in batches, some one by one.
                let messages: Vec<Value> = (0..count)
                    .map(|number| json!({ "to": to, "text": format!("{publisher} {number}") }))
                    .collect();
                for some in messages.chunks(1 + publisher * 7) {
                    let body = json!(some).to_string();
                    let (status, answer) = control(&socket, "POST", "/v1/send", &body).unwrap();
                    assert_eq!(status, 200, "{answer}");
                    let receipts: Vec<Value> = serde_json::from_str(&answer).unwrap();
                    assert!(
                        receipts.iter().all(|one| one["connections"] == 8),
                        "{answer}"
                    );
                }
            })
        })
        .collect();
    let mut orders = Vec::new();
    for client in &mut clients {
        let mut order = Vec::new();
        for _ in 0..5 * count {
            order.push(hear(client).await);
        }
        orders.push(order);
    }
    publishers.into_iter().for_each(|one| one.join().unwrap());
    assert!(orders.iter().all(|order| *order == orders[0]));
    for publisher in 0..5 {
        let own = orders[0]
            .iter()
            .filter_map(|text| text.strip_prefix(&format!("{publisher} ")));
        assert!(
            own.eq((0..count).map(|number| number.to_string())),
            "{publisher}"
        );
    }
    for client in clients {
        bye(client).await;
    }
    server.finish();
}

#[tokio::test]
async fn a_run_has_the_targets_of_a_push() {
    let setup = Setup::new().app(r#"echo "$WS_USER_ID $REQUEST_URI""#);
    let server = setup.validate(USER_BY_PATH).start();
    let mut a = server.connect_with("/a", &[]).await.unwrap();
    let mut b = server.connect_with("/b", &[]).await.unwrap();
    let run = |to: Value, uri: &str| {
        let receipt = server.post("/v1/run", json!({ "to": to, "uri": uri }));
        figure(&receipt, "queued")
    };
    assert_eq!(run(json!({ "users": ["a", "b", "c"] }), "/1"), 2);
    assert_eq!(
        run(json!({ "all": true, "except": { "user": "a" } }), "/2"),
        1
    );
    assert_eq!(hear(&mut a).await, "a /1");
    assert_eq!(hear(&mut b).await, "b /1");
    assert_eq!(hear(&mut b).await, "b /2");
    let output = server.ws(&[
        "run",
        "--user",
        "a",
        "--user",
        "b",
        "--except-user",
        "b",
        "/3",
    ]);
    assert_eq!(output.stdout, b"1\n", "{output:?}");
    assert_eq!(hear(&mut a).await, "a /3");
    bye(a).await;
    bye(b).await;
    server.finish();
}

#[tokio::test]
async fn inv03_who_waits_learns_what_became_of_what_was_queued() {
    let setup = Setup::new().arg("--echo").validate(USER_BY_PATH);
    let server = setup.set("limits.send_queue_size", "64MiB").start();
    let mut slow = server.connect_with("/slow", &[]).await.unwrap();
    let to = json!({ "user": "slow" });
    let text = "x".repeat(1 << 20);
    let mut sent = 0;
    // More than the kernel's buffers hold.
    loop {
        let receipt = server.send(to.clone(), &text);
        sent += 1;
        if figure(&receipt, "queued") == 1 {
            break;
        }
    }
    let send = |wait: Value| {
        let receipt = server.post("/v1/send", json!({ "to": to, "text": text, "wait": wait }));
        assert_eq!(sum(&receipt), 1, "{receipt}");
        receipt
    };
    // Nobody reads, and the time is over; or nobody waits.
    assert_eq!(figure(&send(json!("10ms")), "queued"), 1);
    assert_eq!(figure(&send(json!(false)), "queued"), 1);
    sent += 2;
    let socket = server.state("control.sock");
    let waiting = |socket: std::path::PathBuf, text: String| {
        std::thread::spawn(move || {
            let body = json!({ "to": { "all": true }, "text": text, "wait": true }).to_string();
            let (_, receipt) = control(&socket, "POST", "/v1/send", &body).unwrap();
            serde_json::from_str::<Value>(&receipt).unwrap()
        })
    };
    let written = waiting(socket.clone(), "the last".to_owned());
    for _ in 0..sent {
        assert_eq!(hear(&mut slow).await.len(), text.len());
    }
    assert_eq!(hear(&mut slow).await, "the last");
    let receipt = written.join().unwrap();
    let expected = json!({ "connections": 1, "written": 1, "queued": 0, "dropped": 0 });
    assert_eq!(receipt, expected);
    // Now it goes before it has read all.
    while figure(&server.send(to.clone(), &text), "queued") == 0 {}
    let before = server.figure("pushes.queued");
    let lost = waiting(socket, text.clone());
    server.until("pushes.queued", before + 1);
    drop(slow);
    let receipt = lost.join().unwrap();
    let expected = json!({
        "connections": 1, "written": 0, "queued": 0, "dropped": 1, "dropped_by": { "ended": 1 }
    });
    assert_eq!(receipt, expected);
    server.finish();
}

#[tokio::test]
async fn what_is_dropped_says_why() {
    let setup = Setup::new().arg("--echo").validate(USER_BY_PATH);
    let server = setup
        .set("limits.send_queue_size", "256KiB")
        .set("limits.close_timeout", "60s")
        .start();
    let slow = server.connect_with("/slow", &[]).await.unwrap();
    let to = json!({ "all": true });
    let text = "x".repeat(100_000);
    let mut receipt = json!({ "dropped": 0 });
    while receipt["dropped"] == 0 {
        receipt = server.post("/v1/send", json!({ "to": to, "text": text, "wait": "1ms" }));
        assert_eq!(sum(&receipt), 1, "{receipt}");
    }
    assert_eq!(receipt["dropped_by"], json!({ "overflow": 1 }));
    // It does not read the close frame either.
    let receipt = server.send(to, &text);
    assert_eq!(receipt["dropped_by"], json!({ "closing": 1 }));
    assert_eq!(server.figure("pushes.dropped_by.closing"), 1);
    assert_eq!(server.figure("pushes.dropped_by.overflow"), 1);
    drop(slow);
    server.finish();
}

#[tokio::test]
async fn who_waits_for_one_who_takes_nothing_learns_that_it_was_given_up() {
    let setup = Setup::new()
        .arg("--echo")
        .set("limits.send_queue_size", "64MiB");
    let server = setup.set("limits.write_timeout", "3s").start();
    let slow = server.connect().await;
    let to = json!({ "all": true });
    let text = "x".repeat(1 << 20);
    // Several, as the kernel takes a little more now and then.
    let mut queued = 0;
    while queued < 4 {
        let receipt = server.send(to.clone(), &text);
        assert_eq!(figure(&receipt, "dropped"), 0, "{receipt}");
        queued += figure(&receipt, "queued");
    }
    let receipt = server.post("/v1/send", json!({ "to": to, "text": text, "wait": true }));
    let expected = json!({
        "connections": 1, "written": 0, "queued": 0, "dropped": 1, "dropped_by": { "slow": 1 }
    });
    assert_eq!(receipt, expected);
    drop(slow);
    server.finish();
}

#[tokio::test]
async fn a_batch_is_checked_whole_and_sent_in_order() {
    let setup = Setup::new().arg("--echo").validate(USER_BY_PATH);
    let server = setup.set("control.max_batch", "500").start();
    let mut a = server.connect_with("/a", &[]).await.unwrap();
    let mut b = server.connect_with("/b", &[]).await.unwrap();
    let all = json!({ "all": true });
    let receipts = server.post(
        "/v1/send",
        json!([
            { "to": all, "text": "one" },
            { "to": { "user": "a" }, "base64": "AA==" },
            { "to": { "user": "c" }, "text": "none" },
            { "to": all, "text": "two" },
        ]),
    );
    let reached = |receipt: &Value| figure(receipt, "written");
    let counts: Vec<u64> = receipts.as_array().unwrap().iter().map(reached).collect();
    assert_eq!(counts, [2, 1, 0, 2]);
    assert_eq!(hear(&mut a).await, "one");
    assert_eq!(next(&mut a).await.into_data().as_ref(), [0]);
    assert_eq!(hear(&mut b).await, "one");
    for client in [&mut a, &mut b] {
        assert_eq!(hear(client).await, "two");
    }
    // More than are under way at once.
    let many: Vec<Value> = (0..500)
        .map(|number| json!({ "to": all, "text": number.to_string() }))
        .collect();
    let receipts = server.post("/v1/send", json!(many));
    assert_eq!(receipts.as_array().unwrap().len(), 500);
    for client in [&mut a, &mut b] {
        for number in 0..500 {
            assert_eq!(hear(client).await, number.to_string());
        }
    }
    assert_eq!(server.post("/v1/send", json!([])), json!([]));
    // What is wrong with one of them, nothing is sent.
    let before = server.figure("pushes.accepted");
    let good = json!({ "to": all, "text": "x" });
    for (bad, status, path) in [
        (
            json!({ "to": { "usr": 1 }, "text": "x" }),
            400,
            "[1].to.usr",
        ),
        (
            json!({ "to": { "user": "a b" }, "text": "x" }),
            400,
            "[1].to.user",
        ),
        (json!({ "to": all, "base64": "?" }), 400, "[1].base64"),
        (json!({ "to": all, "text": 1 }), 400, "[1].text"),
        (
            json!({ "to": { "users": ["a", ""] }, "text": "x" }),
            400,
            "[1].to.users[1]",
        ),
        (
            json!({ "to": { "all": true, "except": {} }, "text": "x" }),
            400,
            "[1].to.except",
        ),
        (
            json!({ "to": { "all": true, "except": { "connection": "x" } }, "text": "x" }),
            400,
            "[1].to.except.connection",
        ),
        (
            json!({ "to": all, "text": "x", "wait": "long" }),
            400,
            "[1].wait",
        ),
        (
            json!({ "to": all, "text": "x", "wait": "11m" }),
            400,
            "[1].wait",
        ),
        (json!({ "to": all, "text": "x", "key": "" }), 400, "[1].key"),
        (
            json!({ "to": all, "text": "x".repeat((1 << 20) + 1) }),
            413,
            "[1]",
        ),
        (
            json!({ "to": { "users": vec!["u"; 10_001] }, "text": "x" }),
            413,
            "[1].to",
        ),
    ] {
        let (answered, answer) = request(&server, "", &json!([good, bad]).to_string());
        assert_eq!(answered, status, "{path}: {answer}");
        let answer: Value = serde_json::from_str(&answer).unwrap();
        let error = answer["error"].as_str().unwrap();
        assert!(error.starts_with(path), "{path}: {error}");
    }
    let (status, answer) = request(&server, "", &json!(vec![good; 501]).to_string());
    assert_eq!(status, 413);
    assert!(answer.contains("control.max_batch"), "{answer}");
    assert_eq!(server.figure("pushes.accepted"), before);
    bye(a).await;
    bye(b).await;
    server.finish();
}

#[tokio::test]
async fn a_request_that_comes_again_is_answered_and_not_sent_again() {
    let server = Setup::new().arg("--echo").start();
    let mut client = server.connect().await;
    let send = |key: &str, body: &Value| request(&server, key, &body.to_string());
    let header = "Idempotency-Key: \"k 1\"\r\n";
    let one = json!({ "to": { "all": true }, "text": "once" });
    let other = json!({ "to": { "all": true }, "text": "other" });
    let first = send(header, &one);
    assert_eq!(first.0, 200);
    assert_eq!(send(header, &one), first);
    // However it is written, and in whatever way the key comes.
    let spaced = "{ \"text\": \"once\",\n \"to\": { \"all\": true } }";
    assert_eq!(request(&server, header, spaced), first);
    let with_key = json!({ "to": { "all": true }, "text": "once", "key": "k 1" });
    assert_eq!(send("", &with_key), first);
    let (status, answer) = send(header, &other);
    assert_eq!(status, 422, "{answer}");
    assert!(answer.contains("key"), "{answer}");
    assert_eq!(send("Idempotency-Key: k2\r\n", &other).0, 200);
    // One of a batch was sent, one was not.
    let batch = json!([
        with_key,
        { "to": { "all": true }, "text": "new", "key": "k3" },
    ]);
    let receipts = send("", &batch);
    assert_eq!(receipts.0, 200, "{receipts:?}");
    assert_eq!(send("", &batch), receipts);
    for (headers, body, status) in [
        ("Idempotency-Key: \r\n", &one, 400),
        ("Idempotency-Key: \"a\r\n", &one, 400),
        ("Idempotency-Key: a\r\nIdempotency-Key: b\r\n", &one, 400),
        (header, &with_key, 400),
        ("", &json!([with_key, with_key]), 400),
        (
            "",
            &json!([{ "to": { "all": true }, "text": "x", "key": "k2" }]),
            422,
        ),
    ] {
        let (answered, answer) = send(headers, body);
        assert_eq!(answered, status, "{headers}{body}: {answer}");
    }
    for text in ["once", "other", "new"] {
        assert_eq!(hear(&mut client).await, text);
    }
    for _ in 0..2 {
        let output = server.ws(&["send", "--all", "--key", "shell", "by the shell"]);
        assert_eq!(output.stdout, b"1\n", "{output:?}");
    }
    assert_eq!(hear(&mut client).await, "by the shell");
    assert_eq!(ask(&mut client, "nothing else").await, "nothing else");
    assert_eq!(server.figure("pushes.accepted"), 4);
    bye(client).await;
    server.finish();
}

#[tokio::test]
async fn a_request_that_is_being_carried_out_goes_on_when_whoever_asked_is_gone() {
    let setup = Setup::new().arg("--echo");
    let server = setup.set("limits.send_queue_size", "64MiB").start();
    let mut client = server.connect().await;
    let text = "x".repeat(1 << 20);
    let mut sent = 0;
    while figure(&server.send(json!({ "all": true }), &text), "queued") == 0 {
        sent += 1;
    }
    let body =
        json!({ "to": { "all": true }, "text": "once", "wait": "5m", "key": "k" }).to_string();
    let length = body.len();
    let mut asking = UnixStream::connect(server.state("control.sock")).unwrap();
    write!(
        asking,
        "POST /v1/send HTTP/1.1\r\nHost: localhost\r\nContent-Length: {length}\r\n\r\n{body}"
    )
    .unwrap();
    eventually("it is sent, and waits", || {
        server.figure("pushes.accepted") == sent + 2
    });
    drop(asking);
    let (status, answer) = request(&server, "", &body);
    assert_eq!(status, 409, "{answer}");
    for _ in 0..=sent {
        hear(&mut client).await;
    }
    assert_eq!(hear(&mut client).await, "once");
    eventually("it is done", || request(&server, "", &body).0 == 200);
    let (_, receipt) = request(&server, "", &body);
    let receipt: Value = serde_json::from_str(&receipt).unwrap();
    assert_eq!(figure(&receipt, "written"), 1, "{receipt}");
    assert_eq!(ask(&mut client, "nothing else").await, "nothing else");
    bye(client).await;
    server.finish();
}

#[tokio::test]
async fn so_many_requests_with_a_key_are_carried_out_at_once() {
    let server = Setup::new()
        .arg("--echo")
        .set("limits.send_queue_size", "64MiB")
        .set("control.max_batch", "2")
        .set("control.idempotency_receipts", "2")
        .start();
    let mut client = server.connect().await;
    let text = "x".repeat(1 << 20);
    let mut sent = 0;
    while figure(&server.send(json!({ "all": true }), &text), "queued") == 0 {
        sent += 1;
    }
    let body = |key: &str, wait: &str| {
        let all = json!({ "all": true });
        json!({ "to": all, "text": "once", "wait": wait, "key": key }).to_string()
    };
    for key in ["a", "b"] {
        let body = body(key, "5m");
        let length = body.len();
        let mut asking = UnixStream::connect(server.state("control.sock")).unwrap();
        let head = "POST /v1/send HTTP/1.1\r\nHost: localhost\r\nContent-Length:";
        write!(asking, "{head} {length}\r\n\r\n{body}").unwrap();
        // It goes on without whoever asked.
        let accepted = sent + 2 + u64::from(key == "b");
        eventually("it waits", || server.figure("pushes.accepted") == accepted);
    }
    let (status, answer) = request(&server, "", &body("c", "1ms"));
    assert_eq!(status, 503, "{answer}");
    assert!(answer.contains("control.idempotency_receipts"), "{answer}");
    for _ in 0..=sent {
        hear(&mut client).await;
    }
    for _ in ["a", "b"] {
        assert_eq!(hear(&mut client).await, "once");
    }
    eventually("there is room again", || {
        request(&server, "", &body("c", "1ms")).0 == 200
    });
    assert_eq!(hear(&mut client).await, "once");
    bye(client).await;
    server.finish();
}

#[tokio::test]
async fn a_stream_of_lines_is_answered_line_by_line() {
    let server = Setup::new().arg("--echo").start();
    let mut client = server.connect().await;
    let mut stream = UnixStream::connect(server.state("control.sock")).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    let head = "POST /v1/send HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\
                Content-Type: application/x-ndjson; charset=utf-8\r\nTransfer-Encoding: chunked\r\n\r\n";
    stream.write_all(head.as_bytes()).unwrap();
    let mut answers = BufReader::new(stream.try_clone().unwrap());
    let mut say = |text: &str| {
        write!(stream, "{:x}\r\n{text}\r\n", text.len()).unwrap();
    };
    // Answers come before the request has ended; sizes of chunks and heads are passed over.
    let mut answer = || loop {
        let mut line = String::new();
        assert!(answers.read_line(&mut line).unwrap() > 0, "it has ended");
        if line.starts_with('{') {
            return serde_json::from_str::<Value>(&line).unwrap();
        }
    };
    say("{\"to\":{\"all\":true},\"te");
    say("xt\":\"1\"}\n");
    assert_eq!(figure(&answer(), "written"), 1);
    assert_eq!(hear(&mut client).await, "1");
    say(
        "\n{\"to\":{\"all\":true},\"text\":\"2\"}\n{\"to\":{}}\n{\n{\"to\":{\"user\":\"u\"},\"text\":\"3\"}\n{\"to\":{\"all\":true},\"text\":\"4\"}",
    );
    assert_eq!(figure(&answer(), "written"), 1);
    for _ in 0..2 {
        let answer = answer();
        assert_eq!(answer["status"], 400, "{answer}");
    }
    assert_eq!(figure(&answer(), "connections"), 0);
    assert_eq!(hear(&mut client).await, "2");
    // The last line needs no newline.
    stream.write_all(b"0\r\n\r\n").unwrap();
    assert_eq!(figure(&answer(), "written"), 1);
    assert_eq!(hear(&mut client).await, "4");
    let (status, answer) = request(
        &server,
        "Content-Type: application/x-ndjson\r\nIdempotency-Key: k\r\n",
        "",
    );
    assert_eq!(status, 400, "{answer}");
    assert_eq!(ask(&mut client, "nothing else").await, "nothing else");
    bye(client).await;
    server.finish();
}

/// A `ws send --lines` with what is written to its stdin.
fn send_lines(server: &Server, args: &[&str]) -> std::process::Child {
    Command::new(env!("CARGO_BIN_EXE_ws"))
        .args(["send", "--lines"])
        .args(args)
        .current_dir(server.dir())
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap()
}

#[tokio::test]
async fn send_lines_sends_each_line_as_it_comes_and_in_order() {
    // A batch of the command is more than the server takes at once.
    let setup = Setup::new().arg("--echo").set("control.max_batch", "100");
    let server = setup.start();
    let mut client = server.connect().await;
    let mut sending = send_lines(&server, &["--all", "--json"]);
    let mut stdin = sending.stdin.take().unwrap();
    stdin.write_all(b"first\n").unwrap();
    assert_eq!(hear(&mut client).await, "first");
    stdin.write_all(b"\nthird\n").unwrap();
    assert_eq!(hear(&mut client).await, "");
    assert_eq!(hear(&mut client).await, "third");
    let writing = std::thread::spawn(move || {
        for number in 0..2000 {
            writeln!(stdin, "{number}").unwrap();
        }
        stdin.write_all("zuletzt: ünï".as_bytes()).unwrap();
    });
    for number in 0..2000 {
        assert_eq!(hear(&mut client).await, number.to_string());
    }
    assert_eq!(hear(&mut client).await, "zuletzt: ünï");
    writing.join().unwrap();
    let output = sending.wait_with_output().unwrap();
    assert!(output.status.success(), "{output:?}");
    let totals: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(totals["messages"], 2004, "{totals}");
    assert_eq!(sum(&totals), 2004, "{totals}");

    // What is wrong is said with its line; what was before it was sent.
    let mut sending = send_lines(&server, &["--all"]);
    let mut stdin = sending.stdin.take().unwrap();
    stdin.write_all(b"good\n").unwrap();
    assert_eq!(hear(&mut client).await, "good");
    stdin.write_all(b"\xff\n").unwrap();
    drop(stdin);
    let output = sending.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(2), "{output:?}");
    assert_eq!(output.stdout, b"1\n");
    let stderr = String::from_utf8(output.stderr).unwrap();
    assert!(stderr.contains("line 2"), "{stderr}");

    // Interrupted, it says what it did.
    let mut sending = send_lines(&server, &["--all"]);
    let mut stdin = sending.stdin.take().unwrap();
    stdin.write_all(b"before\n").unwrap();
    assert_eq!(hear(&mut client).await, "before");
    let pid = Pid::from_raw(i32::try_from(sending.id()).unwrap());
    kill(pid, Signal::SIGINT).unwrap();
    let output = sending.wait_with_output().unwrap();
    assert_eq!(
        (output.status.code(), &*output.stdout),
        (Some(0), &b"1\n"[..])
    );
    drop(stdin);

    let mut sending = send_lines(&server, &["--user", "nobody"]);
    sending.stdin.take().unwrap().write_all(b"x\ny\n").unwrap();
    let output = sending.wait_with_output().unwrap();
    assert_eq!(
        (output.status.code(), &*output.stdout),
        (Some(75), &b"0\n"[..])
    );
    assert_eq!(ask(&mut client, "nothing else").await, "nothing else");
    bye(client).await;
    server.finish();
}

/// Passes the first connection's request on and the answer not; of the next ones both.
fn relay_that_loses_an_answer(listener: UnixListener, server: std::path::PathBuf) {
    let mut is_first = true;
    for asking in listener.incoming() {
        let mut asking = asking.unwrap();
        let mut asked = UnixStream::connect(&server).unwrap();
        let (mut request, mut ahead) = (asking.try_clone().unwrap(), asked.try_clone().unwrap());
        std::thread::spawn(move || {
            let _ = std::io::copy(&mut request, &mut ahead);
            let _ = ahead.shutdown(std::net::Shutdown::Both);
        });
        if is_first {
            // The first byte of the answer: it was carried out.
            asked.read_exact(&mut [0]).unwrap();
            asking.shutdown(std::net::Shutdown::Both).unwrap();
            is_first = false;
        } else {
            let _ = std::io::copy(&mut asked, &mut asking);
        }
    }
}

#[tokio::test]
async fn send_lines_sends_nothing_twice_when_an_answer_is_lost() {
    let server = Setup::new().arg("--echo").start();
    let mut client = server.connect().await;
    let listener = UnixListener::bind(server.dir().join("relay")).unwrap();
    let socket = server.state("control.sock");
    // It waits for a next one until the tests end.
    std::thread::spawn(move || relay_that_loses_an_answer(listener, socket));
    let mut sending = send_lines(&server, &["--all", "--control", "relay"]);
    let mut stdin = sending.stdin.take().unwrap();
    stdin.write_all(b"one\n").unwrap();
    assert_eq!(hear(&mut client).await, "one");
    stdin.write_all(b"two\nthree\n").unwrap();
    drop(stdin);
    let output = sending.wait_with_output().unwrap();
    assert_eq!(
        (output.status.code(), &*output.stdout),
        (Some(0), &b"3\n"[..])
    );
    for text in ["two", "three"] {
        assert_eq!(hear(&mut client).await, text);
    }
    assert_eq!(ask(&mut client, "nothing else").await, "nothing else");
    bye(client).await;
    server.finish();
}

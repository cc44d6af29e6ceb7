//! `ws bench`, the load generator: each mode against the server, and what it says of bad ones.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::process::{Child, Command, Output, Stdio};
use std::sync::mpsc;

use futures_util::{SinkExt as _, StreamExt as _};
use nix::sys::signal::Signal;
use serde_json::Value;
use tokio::sync::broadcast;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;
use tokio_tungstenite::tungstenite::handshake::server::{Request, Response};

use crate::support::*;

/// Runs `ws bench`, with JSON.
fn bench(args: &[&str]) -> (Option<i32>, Value) {
    let output = command(args).stdin(Stdio::null()).output().unwrap();
    (output.status.code(), json_of(&output))
}

fn command(args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_ws"));
    command.arg("bench").args(args).arg("--json");
    command.stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

fn json_of(output: &Output) -> Value {
    let stdout = std::str::from_utf8(&output.stdout).unwrap();
    serde_json::from_str(stdout)
        .unwrap_or_else(|_| panic!("{stdout}{}", String::from_utf8_lossy(&output.stderr)))
}

/// As [`bench`], but nothing may have gone wrong.
fn good(args: &[&str]) -> Value {
    let (code, report) = bench(args);
    assert_eq!(code, Some(0), "{report:#}");
    assert_eq!(report["failures"], serde_json::json!({}), "{report:#}");
    report
}

#[test]
fn echo_counts_exactly_what_was_asked_for() {
    let server = Setup::new().arg("--echo").start();
    let pid = server.pid().to_string();
    for (connections, size, in_flight, messages) in [
        ("1", "0B", "1", "1"),
        ("3", "15B", "1", "7"),
        ("7", "20B", "4", "1003"),
        ("2", "1KiB", "16", "500"),
        ("5", "64KiB", "16", "203"),
        ("2", "300KiB", "3", "21"),
    ] {
        let report = good(&[
            &server.url,
            "-c",
            connections,
            "-s",
            size,
            "-k",
            in_flight,
            "-n",
            messages,
            "--pid",
            &pid,
        ]);
        assert_eq!(report["messages"].to_string(), messages);
        assert_eq!(report["connections"]["opened"].to_string(), connections);
        assert_eq!(report["close_codes"]["1000"].to_string(), connections);
        assert_eq!(
            report["latency_microseconds"]["count"].to_string(),
            messages
        );
        assert!(
            report["server"]["anonymous_bytes"].as_u64() > Some(0),
            "{report:#}"
        );
    }
    server.finish();
}

#[test]
fn echo_by_time_measures_binary_messages_too() {
    let server = Setup::new().arg("--echo").start();
    let report = good(&[&server.url, "-d", "200ms", "--warm-up", "100ms", "--binary"]);
    assert!(report["messages"].as_u64() > Some(0), "{report:#}");
    let seconds = report["seconds"].as_f64().unwrap();
    assert!((0.2..60.0).contains(&seconds), "{seconds}");
    let latency = &report["latency_microseconds"];
    let points =
        ["min", "p50", "p90", "p99", "p999", "max"].map(|it| latency[it].as_f64().unwrap());
    assert!(points.is_sorted() && points[0] > 0.0, "{latency:#}");
    server.finish();
}

#[test]
fn messages_go_in_turn_or_on_some_connections_only() {
    let server = Setup::new().arg("--echo").start();
    for (flag, threads) in [("in-turn", "1"), ("in-turn", "2"), ("active", "2")] {
        let words = format!("-c 60 --{flag} 5 -d 200ms --warm-up 50ms --threads {threads}");
        let words = words.split(' ');
        let args: Vec<&str> = std::iter::once(&*server.url).chain(words).collect();
        let report = good(&args);
        assert_eq!(report[flag.replace('-', "_")], 5);
        assert_eq!(report["connections"]["opened"], 60);
        assert!(report["messages"].as_u64() > Some(0), "{report:#}");
    }
    server.finish();
}

#[test]
fn a_reply_that_differs_is_a_failure() {
    let server = Setup::new().command(&["tr", "a-z", "A-Z"]).start();
    let (code, report) = bench(&[&server.url, "-c", "2", "-n", "2"]);
    assert_eq!(code, Some(1));
    assert_eq!(
        report["failures"]["a reply differs from its message"], 2,
        "{report:#}"
    );
    assert_eq!(report["messages"], 0);
    assert_eq!(report["missing_messages"], 2);
    server.finish();
}

#[test]
fn idle_connections_are_held_until_stdin_ends() {
    let server = Setup::new().arg("--echo").start();
    let mut child = command(&[&server.url, "idle", "-c", "20"])
        .stdin(Stdio::piped())
        .spawn()
        .unwrap();
    server.until("connections.open", 20);
    drop(child.stdin.take());
    let report = finished(child, Some(0));
    assert_eq!(report["connections"]["opened"], 20);
    assert_eq!(report["close_codes"]["1000"], 20, "{report:#}");
    server.finish();
}

#[test]
fn pings_are_answered() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("ws://{}/", listener.local_addr().unwrap());
    let mut child = command(&[&url, "idle", "-c", "1"])
        .stdin(Stdio::piped())
        .spawn()
        .unwrap();
    let (stream, _) = listener.accept().unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    let mut socket = tokio_tungstenite::tungstenite::accept(stream).unwrap();
    for payload in ["", "?"] {
        socket.send(Message::Ping(payload.into())).unwrap();
        assert_eq!(socket.read().unwrap(), Message::Pong(payload.into()));
    }
    drop(child.stdin.take());
    assert!(socket.read().unwrap().is_close());
    while socket.read().is_ok() {}
    drop(socket);
    finished(child, Some(0));
}

fn finished(child: Child, code: Option<i32>) -> Value {
    let pid = nix::unistd::Pid::from_raw(i32::try_from(child.id()).unwrap());
    let (sender, receiver) = mpsc::channel();
    std::thread::spawn(move || sender.send(child.wait_with_output()));
    let Ok(output) = receiver.recv_timeout(PATIENCE) else {
        nix::sys::signal::kill(pid, Signal::SIGKILL).unwrap();
        panic!("the run does not end");
    };
    let output = output.unwrap();
    let report = json_of(&output);
    assert_eq!(output.status.code(), code, "{report:#}");
    report
}

#[test]
fn connections_that_the_server_closes_are_told_by_their_code() {
    let server = Setup::new().arg("--echo").start();
    let mut child = command(&[&server.url, "idle", "-c", "5"])
        .stdin(Stdio::piped())
        .spawn()
        .unwrap();
    server.until("connections.open", 5);
    server.signal(Signal::SIGTERM);
    server.check_end();
    drop(child.stdin.take());
    let report = finished(child, Some(1));
    assert_eq!(report["close_codes"]["1001"], 5, "{report:#}");
    assert_eq!(report["failures"]["closed by the server with 1001"], 5);
}

/// The run did not end: what opened and ended by one read was awaited for ever.
#[test]
fn a_connection_that_ends_with_its_handshake_is_not_awaited() {
    let close = [0x88, 2, 0x03, 0xe9];
    for (end, fault) in [
        (&close[..], "closed by the server with 1001"),
        (&[][..], "the stream ended without a close"),
    ] {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("ws://{}/", listener.local_addr().unwrap());
        let child = command(&[&url, "idle", "-c", "2"])
            .stdin(Stdio::null())
            .spawn()
            .unwrap();
        for _ in 0..2 {
            let (mut stream, _) = listener.accept().unwrap();
            stream.set_read_timeout(Some(PATIENCE)).unwrap();
            let response = accepting_response(&mut stream);
            stream
                .write_all(&[response.as_bytes(), end].concat())
                .unwrap();
        }
        let report = finished(child, Some(1));
        assert_eq!(report["connections"]["opened"], 2, "{report:#}");
        assert_eq!(report["failures"][fault], 2, "{report:#}");
    }
}

/// Reads a request and makes the response that opens its WebSocket.
fn accepting_response(stream: &mut TcpStream) -> String {
    let mut lines = BufReader::new(stream).lines().map(Result::unwrap);
    let name = "sec-websocket-key: ";
    let key = lines.by_ref().find_map(|line| {
        let (start, key) = line.split_at_checked(name.len())?;
        start.eq_ignore_ascii_case(name).then(|| key.to_owned())
    });
    let accept = derive_accept_key(key.unwrap().as_bytes());
    assert!(lines.any(|line| line.is_empty()), "the request ends");
    format!(
        "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
         Sec-WebSocket-Accept: {accept}\r\n\r\n"
    )
}

#[test]
fn an_interrupt_ends_a_run_with_its_report() {
    let server = Setup::new().arg("--echo").start();
    let child = command(&[&server.url, "-c", "3", "-d", "10m"])
        .spawn()
        .unwrap();
    eventually("messages flow", || server.figure("messages.received") > 10);
    let pid = nix::unistd::Pid::from_raw(i32::try_from(child.id()).unwrap());
    nix::sys::signal::kill(pid, Signal::SIGINT).unwrap();
    let report = finished(child, Some(0));
    assert_eq!(report["is_interrupted"], true);
    assert!(report["messages"].as_u64() > Some(0), "{report:#}");
    server.finish();
}

#[test]
fn handshakes_are_counted_kept_or_not() {
    let server = Setup::new().arg("--echo").start();
    for more in [&[][..], &["--keep"], &["--rate", "1000/s", "--keep"]] {
        let report = good(&[&[&*server.url, "handshakes", "-c", "60"], more].concat());
        assert_eq!(report["connections"]["opened"], 60);
        assert_eq!(report["handshake_microseconds"]["count"], 60);
        assert_eq!(report["close_codes"]["1000"], 60);
        let rate = report["handshakes_per_second"].as_f64().unwrap();
        assert!(more.len() < 2 || rate < 1_100.0, "{rate}");
    }
    server.finish();
}

#[test]
fn refusals_are_told_by_their_status() {
    let server = Setup::new().arg("--echo").start();
    let origin = "Origin: https://evil.example";
    let (code, report) = bench(&[&server.url, "idle", "-c", "4", "--header", origin]);
    assert_eq!(code, Some(1));
    assert_eq!(report["refused_statuses"]["403"], 4, "{report:#}");
    assert_eq!(report["connections"]["opened"], 0);
    server.finish();
}

#[test]
fn broadcasts_by_fifo_and_control_socket_reach_everybody() {
    let server = Setup::new().arg("--echo").start();
    let fifo = format!("fifo:{}", server.state("fifo/global_pipe.fifo").display());
    let control = format!("control:{}", server.state("control.sock").display());
    for (door, burst) in [
        (&fifo, "1"),
        (&fifo, "16"),
        (&control, "1"),
        (&control, "4"),
    ] {
        let report = good(&[
            &server.url,
            "broadcast",
            "-c",
            "30",
            "-n",
            "50",
            "--publish",
            door,
            "--burst",
            burst,
        ]);
        assert_eq!(report["broadcast"]["publications"], 50, "{report:#}");
        assert_eq!(report["broadcast"]["deliveries"], 1500, "{report:#}");
        assert_eq!(report["messages"], 1500, "{report:#}");
        assert_eq!(report["missing_messages"], 0);
    }
    let report = good(&[
        &server.url,
        "broadcast",
        "-c",
        "10",
        "-n",
        "20",
        "--publish",
        &fifo,
        "--rate",
        "200",
    ]);
    assert_eq!(report["broadcast"]["deliveries"], 200, "{report:#}");
    server.finish();
}

#[test]
fn broadcasts_by_websocket_are_checked_for_losses_and_order() {
    let args = ["-c", "4", "-n", "6", "--timeout", "500ms", "--binary"];
    let run = |fate: Fate| {
        let addr = broker(fate);
        let (listen, publish) = (format!("ws://{addr}/"), format!("ws:ws://{addr}/publish"));
        let more = [&*listen, "broadcast", "--publish", &publish, "--burst", "3"];
        bench(&[&more, &args[..]].concat())
    };
    let (code, report) = run(Fate::Delivered);
    assert_eq!(
        (code, &report["messages"]),
        (Some(0), &24.into()),
        "{report:#}"
    );
    let (code, report) = run(Fate::Swapped);
    assert_eq!(code, Some(1));
    assert_eq!(report["broadcast"]["out_of_order"], 16, "{report:#}");
    let (code, report) = run(Fate::SecondLost);
    assert_eq!(code, Some(1));
    assert_eq!(report["missing_messages"], 8, "{report:#}");
    assert_eq!(report["broadcast"]["late_bursts"], 2, "{report:#}");
}

/// What becomes of the messages of a burst of three.
#[derive(Clone, Copy, PartialEq)]
enum Fate {
    Delivered,
    /// The last one comes first.
    Swapped,
    SecondLost,
}

/// A server that publishes what comes on `/publish`, until the test ends.
fn broker(fate: Fate) -> SocketAddr {
    let (sender, receiver) = mpsc::channel();
    std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build();
        runtime.unwrap().block_on(async {
            let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
            sender.send(listener.local_addr().unwrap()).unwrap();
            let (topic, _) = broadcast::channel(64);
            while let Ok((stream, _)) = listener.accept().await {
                tokio::spawn(serve(stream, topic.clone(), fate));
            }
        });
    });
    receiver.recv().unwrap()
}

async fn serve(stream: tokio::net::TcpStream, topic: broadcast::Sender<Message>, fate: Fate) {
    let mut heard = topic.subscribe();
    let mut is_publisher = false;
    #[expect(clippy::result_large_err, reason = "the library's type")]
    let look = |request: &Request, response: Response| {
        is_publisher = request.uri().path() == "/publish";
        Ok(response)
    };
    let mut socket = tokio_tungstenite::accept_hdr_async(stream, look)
        .await
        .unwrap();
    let mut burst = Vec::new();
    loop {
        tokio::select! {
            message = socket.next() => match message {
                Some(Ok(message)) if message.is_binary() && is_publisher => {
                    burst.push(message);
                    if burst.len() < 3 {
                        continue;
                    }
                    match fate {
                        Fate::Delivered => {}
                        Fate::Swapped => burst.swap(0, 2),
                        Fate::SecondLost => drop(burst.remove(1)),
                    }
                    for message in burst.drain(..) {
                        // Nobody listens any more at the end of a run.
                        let _ = topic.send(message);
                    }
                }
                Some(Ok(_)) => {}
                Some(Err(_)) | None => return,
            },
            Ok(message) = heard.recv(), if !is_publisher => {
                if socket.send(message).await.is_err() {
                    return;
                }
            }
        }
    }
}

#[test]
fn tls_is_checked_unless_told_otherwise() {
    let setup = Setup::new()
        .listen("wss://127.0.0.1:0")
        .set("server.tls.cert", "cert.pem")
        .set("server.tls.key", "key.pem");
    let made = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
    let certificate = setup.dir().join("cert.pem");
    std::fs::write(&certificate, made.cert.pem()).unwrap();
    std::fs::write(
        setup.dir().join("key.pem"),
        made.signing_key.serialize_pem(),
    )
    .unwrap();
    let server = setup.arg("--echo").start();
    let url = format!("wss://localhost:{}/", server.addr.port());
    let echo = ["-c", "5", "-n", "200", "-s", "40KiB", "-k", "4"];
    let certificate = certificate.to_str().unwrap();
    for trust in [&["--insecure"][..], &["--ca", certificate]] {
        let report = good(&[&[&*url], &echo[..], trust].concat());
        assert_eq!(report["messages"], 200);
        assert_eq!(report["close_codes"]["1000"], 5, "{report:#}");
    }
    let stranger = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
    let other = server.dir().join("other.pem");
    std::fs::write(&other, stranger.cert.pem()).unwrap();
    let (code, report) = bench(&[&url, "-c", "1", "--ca", other.to_str().unwrap()]);
    assert_eq!(code, Some(1));
    assert!(
        report["failures"].to_string().contains("certificate"),
        "{report:#}"
    );
    server.finish();
}

#[test]
fn unix_sockets_are_served_too() {
    let setup = Setup::new().arg("--listen").arg("unix:ws.sock");
    let server = setup.arg("--echo").start();
    let url = format!("ws+unix:{}", server.dir().join("ws.sock").display());
    let report = good(&[&url, "-c", "5", "-n", "100"]);
    assert_eq!(report["messages"], 100);
    server.finish();
}

#[test]
fn bytes_without_frames_are_echoed_with_raw() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let addr = listener.local_addr().unwrap();
    let echo = std::thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        stream.set_nodelay(true).unwrap();
        let mut buffer = [0; 1000];
        while let Ok(count @ 1..) = stream.read(&mut buffer) {
            stream.write_all(&buffer[..count]).unwrap();
        }
    });
    let url = format!("ws://{addr}/");
    let report = good(&[
        &url, "--raw", "-c", "1", "-n", "300", "-k", "3", "-s", "5KiB",
    ]);
    assert_eq!(report["messages"], 300);
    echo.join().unwrap();
}

#[test]
fn a_server_that_is_not_there_or_says_nothing_is_reported() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("ws://{}/", listener.local_addr().unwrap());
    let (code, report) = bench(&[&url, "-c", "3", "--timeout", "100ms"]);
    assert_eq!(code, Some(1));
    assert_eq!(
        report["failures"]["timeout: opening handshake"], 3,
        "{report:#}"
    );
    drop(listener);
    let (code, report) = bench(&[&url, "-c", "3"]);
    assert_eq!(code, Some(69));
    assert_eq!(report["connections"]["unreachable"], 3);
    let fifo = ["broadcast", "--publish", "fifo:/nonexistent"];
    let output = command(&[&[&*url], &fifo[..]].concat()).output().unwrap();
    assert_eq!(output.status.code(), Some(69));
    assert!(output.stdout.is_empty());
}

#[test]
fn flags_that_would_be_ignored_are_refused() {
    let output = command(&["ws://127.0.0.1:1/", "idle", "-k", "5"])
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(2));
    let message = String::from_utf8(output.stderr).unwrap();
    assert!(
        message.contains("--in-flight belongs to echo, not to idle"),
        "{message}"
    );
}

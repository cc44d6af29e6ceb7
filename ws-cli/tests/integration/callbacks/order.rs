//! The order of replies, and how many messages are held.

use std::collections::BTreeSet;
use std::io::Write;

use futures_util::{SinkExt, StreamExt};
use tokio_tungstenite::tungstenite::Message;

use super::lines_of;
use crate::support::*;
use crate::wire::{Wire, frame};

/// Sleeps for the last word of the message, and answers the first.
const LATE: &str = r#"read -r n latency; echo "$n" >> started; sleep "$latency"; echo "$n""#;

/// Latencies without a pattern, the same in every run.
fn latency(n: usize) -> String {
    format!("0.0{}", [9, 1, 5, 0, 7, 2, 8, 3, 0, 6, 4][n * n % 11])
}

#[tokio::test]
async fn inv01_replies_are_in_the_order_of_the_messages() {
    let server = Setup::new().app(LATE).start();
    let mut client = server.connect().await;
    for n in 1..=50 {
        say(&mut client, &format!("{n} {}", latency(n))).await;
    }
    let numbers: Vec<String> = (1..=50).map(|n| n.to_string()).collect();
    for n in &numbers {
        assert_eq!(&hear(&mut client).await, n);
    }
    // INV-18, B1: each has run once, and they began in this order too.
    assert_eq!(lines_of(server.dir(), "started"), numbers);
    bye(client).await;
    server.finish();
}

#[tokio::test]
async fn inv01_several_at_once_still_reply_in_order() {
    let setup = Setup::new();
    let mut gate = Gate::new(setup.dir(), "gate");
    let script = r#"read -r n latency; echo "$n" >> started
if test "$n" = 1; then read _ < gate; else sleep "$latency"; fi; echo "$n""#;
    let server = setup.set("app.per_connection", "4").app(script).start();
    let mut client = server.connect().await;
    for n in 1..=18 {
        say(&mut client, &format!("{n} {}", latency(n))).await;
    }
    // All but the first have finished, and not one of them was sent.
    server.until("callbacks.finished", 17);
    assert_eq!(server.figure("messages.queued"), 0);
    assert_eq!(ask(&mut client, "ping").await, "pong");
    gate.open(1);
    for n in 1..=18 {
        assert_eq!(hear(&mut client).await, n.to_string());
    }
    let started = lines_of(server.dir(), "started");
    assert_eq!(started.len(), 18);
    assert_eq!(started.iter().collect::<BTreeSet<_>>().len(), 18);
    bye(client).await;
    server.finish();
}

#[tokio::test]
async fn unordered_replies_are_sent_as_they_come() {
    let setup = Setup::new();
    let mut gate = Gate::new(setup.dir(), "gate");
    let server = setup
        .set("app.per_connection", "4")
        .set("app.unordered", "true")
        .app(r#"n=$(cat); test "$n" = 1 && read _ < gate; echo "$n""#)
        .start();
    let mut client = server.connect().await;
    for n in 1..=10 {
        say(&mut client, &n.to_string()).await;
    }
    let mut heard = BTreeSet::new();
    for _ in 2..=10 {
        heard.insert(hear(&mut client).await);
    }
    assert_eq!(heard, (2..=10).map(|n| n.to_string()).collect());
    gate.open(1);
    assert_eq!(hear(&mut client).await, "1");
    bye(client).await;
    server.finish();
}

#[tokio::test]
async fn one_runs_sixteen_wait_and_the_rest_is_not_read() {
    let setup = Setup::new();
    let mut gate = Gate::new(setup.dir(), "gate");
    let server = setup.app("read _ < gate; cat").start();
    let mut client = server.connect().await;
    for n in 1..=40 {
        say(&mut client, &n.to_string()).await;
    }
    server.until("callbacks.accepted", 17);
    for n in 1..=40_u64 {
        // Each end makes room for one, and for one only.
        assert_eq!(server.figure("callbacks.started"), n);
        assert_eq!(server.figure("callbacks.accepted"), (16 + n).min(40));
        gate.open(1);
        assert_eq!(hear(&mut client).await, n.to_string());
        server.until("callbacks.accepted", (17 + n).min(40));
        server.until("callbacks.started", (n + 1).min(40));
    }
    bye(client).await;
    server.finish();
}

#[test]
fn t34_of_a_hundred_thousand_uris_in_one_piece_seventeen_are_held() {
    const COUNT: usize = 100_000;
    const ANSWERED: u64 = 50;
    let setup = Setup::new();
    let mut gate = Gate::new(setup.dir(), "gate");
    let server = setup
        .app("read _ < gate; echo \"$REQUEST_URI\"")
        .set("limits.ping_interval", "off")
        .start();
    let mut wire = Wire::open(&server);
    let before = server.figure("memory_bytes");
    let mut stream = wire.stream().try_clone().unwrap();
    let flood = std::thread::spawn(move || {
        let uris = (0..COUNT).map(|number| frame(0x81, format!("/{number}")));
        // It ends with the connection: nobody reads the rest.
        let _ = stream.write_all(&uris.collect::<Vec<_>>().concat());
    });
    for number in 0..ANSWERED {
        server.until("callbacks.accepted", 17 + number);
        gate.open(1);
        assert_eq!(wire.hear(), format!("/{number}"));
    }
    server.until("callbacks.accepted", 17 + ANSWERED);
    // What came meanwhile is in the sockets of both ends.
    let growth = server.figure("memory_bytes").saturating_sub(before);
    assert!(growth < 1 << 20, "{growth} bytes");
    assert_eq!(server.figure("callbacks.accepted"), 17 + ANSWERED);
    // In good order, all the others would have to be run now.
    let _dir = server.kill();
    flood.join().unwrap();
}

/// The most memory that the server has had, in KiB.
fn peak_memory(server: &Server) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{}/status", server.pid())).unwrap();
    let line = status
        .lines()
        .find(|line| line.starts_with("VmHWM:"))
        .unwrap();
    line.split_whitespace().nth(1).unwrap().parse().unwrap()
}

#[tokio::test]
async fn messages_without_room_stay_in_the_socket() {
    let setup = Setup::new();
    let mut gate = Gate::new(setup.dir(), "gate");
    let server = setup
        .set("app.queue", "2")
        .app("read _ < gate; wc -c")
        .start();
    // The program itself, and the libraries in it, are not what is looked at.
    let before = peak_memory(&server);
    let (mut sink, mut stream) = server.connect().await.split();
    let sender = tokio::spawn(async move {
        for _ in 0..60 {
            sink.send(Message::binary(vec![b'x'; 1024 * 1024]))
                .await
                .unwrap();
        }
        sink
    });
    for n in 1..=60_u64 {
        gate.open(1);
        let reply = tokio::time::timeout(PATIENCE, stream.next()).await.unwrap();
        assert_eq!(reply.unwrap().unwrap(), Message::text("1048576"));
        assert!(server.figure("callbacks.accepted") <= n + 3);
    }
    let client = sender.await.unwrap().reunite(stream).unwrap();
    let taken = peak_memory(&server) - before;
    assert!(
        taken < 16 * 1024,
        "60 MiB came, 3 MiB are held: {taken} KiB"
    );
    bye(client).await;
    server.finish();
}

/// What waits for one connection holds up no other, and what is full closes nothing.
#[tokio::test]
async fn a_full_queue_is_its_own_connections_affair() {
    let setup = Setup::new();
    let mut gate = Gate::new(setup.dir(), "gate");
    let server = setup
        .set("limits.ping_interval", "100ms")
        .set("limits.pong_timeout", "100ms")
        .app(r#"n=$(cat); test "$n" = quick || read _ < gate; echo "$n""#)
        .start();
    let mut full = server.connect().await;
    for n in 1..=40 {
        say(&mut full, &n.to_string()).await;
    }
    server.until("callbacks.accepted", 17);
    let mut other = server.connect().await;
    for _ in 0..30 {
        assert_eq!(ask(&mut other, "quick").await, "quick");
    }
    // The pongs of the full one are not read meanwhile, and not missed either.
    let mut pings = 0;
    while pings < 4 {
        let message = tokio::time::timeout(PATIENCE, other.next()).await.unwrap();
        pings += u32::from(matches!(message, Some(Ok(Message::Ping(_)))));
    }
    gate.open(40);
    for n in 1..=40 {
        assert_eq!(hear(&mut full).await, n.to_string());
    }
    bye(full).await;
    bye(other).await;
    server.finish();
}

#[tokio::test]
async fn concurrency_bounds_the_whole_server() {
    let setup = Setup::new();
    let mut gate = Gate::new(setup.dir(), "gate");
    let server = setup
        .set("app.concurrency", "2")
        .app("echo run >> begun; read _ < gate; echo end >> ended; cat")
        .start();
    let mut clients = Vec::new();
    for n in 0..8 {
        let mut client = server.connect().await;
        say(&mut client, &n.to_string()).await;
        clients.push(client);
    }
    server.until("callbacks.accepted", 8);
    for n in 1..=8 {
        let begun = || lines_of(server.dir(), "begun").len();
        eventually("as many run as may", || begun() == (n + 1).min(8));
        assert_eq!(begun(), (n + 1).min(8));
        gate.open(1);
        eventually("one has ended", || {
            lines_of(server.dir(), "ended").len() == n
        });
    }
    for (n, mut client) in clients.into_iter().enumerate() {
        assert_eq!(hear(&mut client).await, n.to_string());
        bye(client).await;
    }
    server.finish();
}

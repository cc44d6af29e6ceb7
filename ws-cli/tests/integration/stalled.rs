//! Clients that stop reading: they are let go in time, and nobody else notices.

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::support::{Server, Setup, eventually};
use crate::wire;

/// The frames of a client, masked with zeros.
const CLOSE: &[u8] = b"\x88\x82\0\0\0\0\x03\xe8";
const HELLO: &[u8] = b"\x81\x85\0\0\0\0Hello";
/// The same from the server.
const HELLO_BACK: &[u8] = b"\x81\x05Hello";

/// A WebSocket that reads only when told to.
fn open(server: &Server) -> TcpStream {
    let mut stream = server.raw_stream();
    stream.write_all(wire::head("/", &[]).as_bytes()).unwrap();
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        let mut byte = [0];
        stream.read_exact(&mut byte).unwrap();
        head.extend(byte);
    }
    assert!(head.starts_with(b"HTTP/1.1 101 "));
    stream
}

/// Pushes to the one client until the kernel takes no more and the receipt has this key, or the
/// client is gone.
fn push_until(server: &Server, key: &str) {
    let text = "x".repeat(500_000);
    loop {
        let receipt = server.send(json!({"all": true}), &text);
        if receipt[key] != 0 || receipt["connections"] == 0 {
            return;
        }
    }
}

#[test]
fn inv08_bytes_from_a_client_that_is_closed_for_not_reading_do_not_occupy_the_thread() {
    let server = Setup::new()
        .arg("--echo")
        .set("server.threads", "1")
        .set("limits.send_queue_size", "1KiB")
        .start();
    let mut stalled = open(&server);
    // A message that is over the limit alone has begun to leave; the close frame is behind it.
    push_until(&server, "dropped");
    stalled.write_all(HELLO).unwrap();
    let mut other = open(&server);
    other.write_all(HELLO).unwrap();
    let mut answer = [0; 7];
    other.read_exact(&mut answer).unwrap();
    assert_eq!(answer, HELLO_BACK);
    drop((stalled, other));
    server.finish();
}

#[test]
fn inv10_a_client_that_closes_and_does_not_read_is_let_go() {
    let server = Setup::new()
        .arg("--echo")
        .set("limits.close_timeout", "50ms")
        .start();
    let mut stalled = open(&server);
    push_until(&server, "queued");
    stalled.write_all(CLOSE).unwrap();
    server.until("connections.closed_by.peer", 1);
    server.until("connections.open", 0);
    server.finish();
}

#[test]
fn t33_client_that_answers_no_ping_is_not_waited_for_again() {
    for pushes in [false, true] {
        let server = Setup::new()
            .arg("--echo")
            .set("limits.ping_interval", "500ms")
            .set("limits.pong_timeout", "50ms")
            .set("limits.close_timeout", "10m")
            .start();
        let stalled = open(&server);
        if pushes {
            push_until(&server, "queued");
        }
        server.until("connections.closed_by.pong_timeout", 1);
        server.until("connections.open", 0);
        drop(stalled);
        server.finish();
    }
}

/// Of a client's socket, less than usual: what it does not read fills it soon.
fn with_room(stream: &TcpStream, size: usize) {
    nix::sys::socket::setsockopt(stream, nix::sys::socket::sockopt::RcvBuf, &size).unwrap();
}

fn memory(server: &Server) -> u64 {
    server.figure("memory_bytes")
}

#[test]
fn t30_who_takes_nothing_for_the_write_timeout_is_closed_though_it_is_not_pinged() {
    for listen in ["127.0.0.1:0", "unix:ws.sock"] {
        let server = Setup::new()
            .listen("127.0.0.1:0")
            .arg("--listen")
            .arg(listen)
            .arg("--echo")
            .set("limits.ping_interval", "off")
            .set("limits.write_timeout", "500ms")
            .set("limits.close_timeout", "100ms")
            .set("limits.send_queue_size", "64MiB")
            .start();
        let mut unix = None;
        let mut tcp = None;
        if listen.starts_with("unix") {
            let path = server.dir().join("ws.sock");
            let mut stream = std::os::unix::net::UnixStream::connect(path).unwrap();
            stream.write_all(wire::head("/", &[]).as_bytes()).unwrap();
            unix = Some(stream);
        } else {
            let stream = open(&server);
            with_room(&stream, 4096);
            tcp = Some(stream);
        }
        server.until("connections.open", 1);
        // More than the server's socket can grow to, so that some of it waits with the server
        // whatever the kernel takes, and less than any limit of bytes.
        for _ in 0..40 {
            server.send(json!({"all": true}), &"x".repeat(500_000));
        }
        server.until("connections.closed_by.slow", 1);
        assert_eq!(server.figure("messages.waiting_bytes"), 0);
        drop((unix, tcp));
        server.finish();
    }
}

#[test]
fn t30_who_reads_slowly_but_reads_is_not_closed() {
    let server = Setup::new()
        .arg("--echo")
        .set("limits.ping_interval", "off")
        .set("limits.write_timeout", "2s")
        .set("limits.send_queue_size", "64MiB")
        .start();
    let mut slow = open(&server);
    with_room(&slow, 128 * 1024);
    std::thread::scope(|scope| {
        let pushing = scope.spawn(|| {
            push_until(&server, "queued");
            for _ in 0..20 {
                server.send(json!({"all": true}), &"x".repeat(500_000));
            }
        });
        // A little at a time, far less than lets the kernel say that it takes more: for several
        // times the timeout, and the pauses are the subject.
        let begun = Instant::now();
        let mut buffer = vec![0; 40_000];
        while begun.elapsed() < Duration::from_secs(5) || !pushing.is_finished() {
            slow.read_exact(&mut buffer).unwrap();
            std::thread::park_timeout(Duration::from_millis(50));
        }
    });
    assert_eq!(server.figure("connections.closed"), 0);
    assert!(server.figure("messages.waiting_bytes") > 0);
    drop(slow);
    server.finish();
}

#[test]
fn t30_who_floods_and_does_not_read_is_not_there_for_ever() {
    let server = Setup::new()
        .arg("--echo")
        .set("limits.write_timeout", "500ms")
        .set("limits.close_timeout", "100ms")
        .start();
    let flooder = open(&server);
    let mut writing = flooder.try_clone().unwrap();
    // It is not read while it does not read, so it would not even be pinged.
    let flood = std::thread::spawn(
        move || {
            while writing.write_all(&HELLO.repeat(10_000)).is_ok() {}
        },
    );
    server.until("connections.closed_by.slow", 1);
    server.until("connections.open", 0);
    flood.join().unwrap();
    drop(flooder);
    server.finish();
}

#[test]
fn t30_two_hundred_who_stop_reading_cost_little_and_the_others_nothing() {
    const STALLED: usize = 200;
    const GOOD: usize = 20;
    const PUSHES: usize = 20;
    let server = Setup::new().arg("--echo").start();
    let stalled: Vec<TcpStream> = (0..STALLED)
        .map(|_| {
            let stream = open(&server);
            with_room(&stream, 4096);
            stream
        })
        .collect();
    let readers: Vec<_> = (0..GOOD)
        .map(|_| {
            let mut stream = open(&server);
            std::thread::spawn(move || {
                for number in 0..PUSHES {
                    let mut head = [0; 10];
                    stream.read_exact(&mut head).unwrap();
                    assert_eq!(head[..2], [0x81, 127], "a whole frame, and no other");
                    let len = u64::from_be_bytes(head[2..].try_into().unwrap());
                    let mut payload = vec![0; len as usize];
                    stream.read_exact(&mut payload).unwrap();
                    assert!(payload.iter().all(|byte| *byte == b'a' + number as u8));
                }
                stream
            })
        })
        .collect();
    let before = memory(&server);
    let mut most = 0;
    for number in 0..PUSHES {
        let text = char::from(b'a' + number as u8).to_string().repeat(1 << 20);
        let begun = Instant::now();
        server.send(json!({"all": true}), &text);
        let sent = (number as u64 + 1) * GOOD as u64;
        eventually("the good ones have it", || {
            server.figure("messages.sent") >= sent
        });
        most = most.max(memory(&server));
        assert!(begun.elapsed() < Duration::from_secs(10));
    }
    let good: Vec<TcpStream> = readers
        .into_iter()
        .map(|reader| reader.join().unwrap())
        .collect();
    server.until("connections.closed_by.overflow", STALLED as u64);
    server.until("connections.open", GOOD as u64);
    let growth = most.saturating_sub(before);
    assert!(growth <= 64 << 20, "{growth} bytes");
    drop((good, stalled));
    server.finish();
}

/// Writes so many frames at most, as far as the kernel takes them, from where the last call stopped.
fn write_on(stream: &mut TcpStream, frame: &[u8], count: usize, written: &mut usize) {
    let end = (*written / frame.len() + count) * frame.len();
    while *written < end {
        match stream.write(&frame[*written % frame.len()..]) {
            Ok(count) => *written += count,
            Err(error) => {
                assert_eq!(error.kind(), std::io::ErrorKind::WouldBlock);
                return;
            }
        }
    }
}

/// With one worker, which sees everything in its order, and with several, of which each may pass the
/// total at the same moment.
#[test]
fn t30_together_slow_ones_may_not_have_more_than_the_total() {
    for workers in [1, 4] {
        together_they_have_no_more_than_the_total(workers);
    }
}

/// How many bytes wait for each client, by its port.
fn queues(server: &Server) -> BTreeMap<u16, u64> {
    let (_, answer) = server.control("GET", "/v1/connections?traffic=true", "");
    let answer: Value = serde_json::from_str(&answer).unwrap();
    let number = |one: &Value, key| one[key].as_u64().unwrap();
    let connections = answer["connections"].as_array().unwrap().iter();
    connections
        .map(|one| (number(one, "port") as u16, number(one, "waiting_bytes")))
        .collect()
}

fn together_they_have_no_more_than_the_total(workers: u64) {
    const CROWD: u64 = 40;
    const TOTAL: u64 = 8 << 20;
    const PAYLOAD: usize = 60_000;
    const FRAME: u64 = PAYLOAD as u64 + 4;
    const LARGE_READ: u64 = 512 * 1024;
    // The read with which each worker passes the total, and the message that it completes; then a
    // message more of each connection, of which it may have the last part.
    let most_allowed = TOTAL + workers * (LARGE_READ + FRAME) + CROWD * FRAME;
    let server = Setup::new()
        .arg("--echo")
        .set("limits.ping_interval", "off")
        .set("limits.write_timeout", "5m")
        .set("limits.close_timeout", "100ms")
        .set("limits.send_queue_size", "4MiB")
        .set("limits.send_queue_total", "8MiB")
        .set("server.threads", workers.to_string())
        .start();
    let mut good = open(&server);
    let mut crowd: Vec<(TcpStream, usize)> = (0..CROWD)
        .map(|_| {
            let stream = open(&server);
            with_room(&stream, 4096);
            stream.set_nonblocking(true).unwrap();
            (stream, 0)
        })
        .collect();
    // Each would have 4 MiB of answers to wait for, all of them its own.
    let frame = wire::frame(0x82, vec![0; PAYLOAD]);
    let mut flood = |count: usize| {
        for (stream, written) in &mut crowd {
            write_on(stream, &frame, count, written);
        }
        server.figure("messages.waiting_bytes")
    };
    // One after another, so that no few of them have all that waits.
    eventually("the total is reached", || flood(1) > TOTAL);
    let most = (0..20).map(|_| flood(1000)).max().unwrap();
    assert!(most <= most_allowed, "{most} bytes wait");
    assert_eq!(server.figure("connections.closed"), 0, "they are held back");
    // Whoever reads what he gets is none of them.
    good.write_all(HELLO).unwrap();
    let mut answer = [0; 7];
    good.read_exact(&mut answer).unwrap();
    assert_eq!(answer, HELLO_BACK);
    // A push cannot be held back, so those with the longest queues make room.
    let mut before = queues(&server);
    eventually("nothing moves any more", || {
        let earlier = std::mem::replace(&mut before, queues(&server));
        earlier == before
    });
    let excess = server.figure("messages.waiting_bytes") - TOTAL;
    server.send(json!({"all": true}), "Hello");
    good.read_exact(&mut answer).unwrap();
    assert_eq!(answer, HELLO_BACK);
    let left = server.figure("messages.waiting_bytes");
    assert!(left <= most_allowed, "{left} bytes wait");
    // Of who has to go, the frame that has left in part stays, and the close frame comes.
    let after = queues(&server);
    let waits = |port| after.get(port).copied().unwrap_or(0);
    let mut gone: Vec<u64> = before
        .iter()
        .filter(|(port, waited)| **waited > 2 * FRAME && waits(port) <= FRAME + 127)
        .map(|(_, waited)| *waited)
        .collect();
    eventually("they are closed for it", || {
        server.figure("connections.closed_by.overflow_total") >= gone.len() as u64
    });
    // No one more than has to: each worker frees its share of the excess, rounded up, and without the
    // last that it closed it would not have. Who was the last of which one is not known from here, so
    // the longest count as that.
    gone.sort_unstable();
    let (others, lasts) = gone.split_at(gone.len().saturating_sub(workers as usize));
    let share = (excess + HELLO_BACK.len() as u64).div_ceil(workers);
    assert!(!lasts.is_empty(), "somebody has to go");
    let freed: u64 = others.iter().sum();
    assert!(freed < workers * share, "{gone:?} have gone for {excess}");
    // What several of them leave to each other goes with the next pushes.
    eventually("no more than the total waits", || {
        server.send(json!({"all": true}), "Hello");
        server.figure("messages.waiting_bytes") <= TOTAL
    });
    drop((crowd, good));
    server.until("connections.open", 0);
    assert_eq!(server.figure("messages.waiting_bytes"), 0);
    server.finish();
}

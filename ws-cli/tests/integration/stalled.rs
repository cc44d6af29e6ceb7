//! Clients that stop reading: they are let go in time, and nobody else notices.

use std::io::{Read, Write};
use std::net::TcpStream;

use serde_json::json;

use crate::support::{Server, Setup};
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
fn inv10_a_client_that_answers_no_ping_and_does_not_read_is_let_go() {
    let server = Setup::new()
        .arg("--echo")
        .set("limits.ping_interval", "500ms")
        .set("limits.pong_timeout", "50ms")
        .set("limits.close_timeout", "50ms")
        .start();
    let stalled = open(&server);
    push_until(&server, "queued");
    server.until("connections.closed_by.pong_timeout", 1);
    server.until("connections.open", 0);
    drop(stalled);
    server.finish();
}

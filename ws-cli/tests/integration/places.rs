//! Who may come in, and whose turn it is, when there is not room for all.

use std::io::{Read, Write};
use std::net::{Shutdown, TcpStream};

use crate::support::{Gate, Server, Setup, eventually};
use crate::wire;

/// The message `Hello` of a client, masked with zeros.
const HELLO: &[u8] = b"\x81\x85\0\0\0\0Hello";

/// Asks for a WebSocket.
fn ask(server: &Server) -> TcpStream {
    let mut stream = server.raw_stream();
    stream.write_all(wire::head("/", &[]).as_bytes()).unwrap();
    stream
}

/// Reads the head of the answer and returns its status.
fn status(stream: &mut TcpStream) -> u16 {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        let mut byte = [0];
        stream.read_exact(&mut byte).unwrap();
        head.extend(byte);
    }
    let head = String::from_utf8(head).unwrap();
    head.split(' ').nth(1).unwrap().parse().unwrap()
}

#[test]
fn inv20_visitors_who_are_validated_at_once_do_not_exceed_max_connections() {
    let setup = Setup::new();
    let mut gate = Gate::new(setup.dir(), "gate");
    let server = setup
        .arg("--echo")
        .validate("read _ < gate; echo user")
        .set("limits.max_connections", "2")
        .start();
    let mut visitors: Vec<TcpStream> = (0..5).map(|_| ask(&server)).collect();
    server.until("callbacks.validations", 5);
    gate.open(5);
    let mut answers: Vec<u16> = visitors.iter_mut().map(status).collect();
    answers.sort_unstable();
    assert_eq!(answers, [101, 101, 503, 503, 503]);
    assert_eq!(server.figure("sockets.refused_by.max_connections"), 3);
    drop(visitors);
    server.finish();
}

#[test]
fn inv07_who_sends_and_leaves_keeps_its_place_until_its_messages_are_done() {
    let setup = Setup::new();
    let mut gate = Gate::new(setup.dir(), "gate");
    let server = setup
        .app("read _ < gate; cat")
        .set("limits.max_connections", "1")
        .start();
    let mut first = ask(&server);
    assert_eq!(status(&mut first), 101);
    first.write_all(&HELLO.repeat(3)).unwrap();
    server.until("callbacks.accepted", 3);
    drop(first);
    server.until("connections.open", 0);
    assert_eq!(status(&mut ask(&server)), 503);
    gate.open(3);
    let mut second = ask(&server);
    eventually("there is room again", || {
        status(&mut second) == 101 || {
            second = ask(&server);
            false
        }
    });
    assert_eq!(server.figure("callbacks.finished"), 3);
    drop(second);
    server.finish();
}

#[test]
fn inv01_a_run_from_a_fifo_has_its_turn_while_the_client_never_pauses() {
    let server = Setup::new().app("echo $WS_SOURCE").start();
    let mut client = ask(&server);
    assert_eq!(status(&mut client), 101);
    let mut flooder = client.try_clone().unwrap();
    let flood = std::thread::spawn(move || while flooder.write_all(&HELLO.repeat(1000)).is_ok() {});
    let mut reply = || {
        let mut head = [0; 2];
        client.read_exact(&mut head).unwrap();
        let mut payload = vec![0; usize::from(head[1])];
        client.read_exact(&mut payload).unwrap();
        payload
    };
    assert_eq!(reply(), b"client");
    let fifo = server.connections()[0]["fifo"].as_str().unwrap().to_owned();
    std::fs::write(fifo, "/run\n").unwrap();
    // What waits before it is one queue, and what the client has in its socket is not.
    assert!((0..200).any(|_| reply() == b"fifo"));
    client.shutdown(Shutdown::Both).unwrap();
    flood.join().unwrap();
    server.finish();
}

//! Limits of `[limits]`: each is a setting, a figure, and an error that names it. What they cost, and
//! whom they spare, is tested beside what they protect.

use std::io::{Read as _, Write as _};

use crate::support::*;
use crate::wire::*;

fn echo() -> Setup {
    Setup::new().arg("--echo")
}

#[test]
fn t07_each_limit_of_a_head_is_set_counted_and_named() {
    let headers: Vec<String> = (0..3).map(|index| format!("X{index}: a")).collect();
    let headers: Vec<&str> = headers.iter().map(String::as_str).collect();
    // One more than there may be, and as many: the head itself has five headers.
    for (name, value, refused, accepted, status) in [
        (
            "max_head_size",
            "1KiB",
            head(&format!("/{}", "a".repeat(1024)), &[]),
            head("/", &[]),
            431,
        ),
        (
            "max_target_size",
            "64B",
            head(&format!("/{}", "a".repeat(64)), &[]),
            head(&format!("/{}", "a".repeat(63)), &[]),
            414,
        ),
        (
            "max_header_count",
            "8",
            head("/", &[&headers[..], &["Y: a"]].concat()),
            head("/", &headers),
            431,
        ),
    ] {
        let server = echo().set(&format!("limits.{name}"), value).start();
        let response = refusal(&server, refused);
        assert_eq!(response.status, status, "{name}");
        assert!(response.body.contains(name), "{name}: {}", response.body);
        server.until(&format!("sockets.refused_by.{name}"), 1);
        let answer = begin(&server, &accepted);
        assert_eq!(answer, 101, "{name}");
        server.until("connections.open", 0);
        server.finish();
    }

    let server = echo().set("limits.handshake_timeout", "200ms").start();
    let response = refusal(&server, "GET / HTTP/1.1\r\n");
    let is_named = response.body.contains("limits.handshake_timeout");
    assert!(is_named && response.status == 408, "{response:?}");
    server.until("sockets.refused_by.timeout", 1);
    server.finish();
}

/// The status of an upgrade whose connection ends with it.
fn begin(server: &Server, head: &str) -> u16 {
    let mut stream = server.raw_stream();
    stream.write_all(head.as_bytes()).unwrap();
    let mut line = [0; 12];
    stream.read_exact(&mut line).unwrap();
    std::str::from_utf8(&line[9..]).unwrap().parse().unwrap()
}

#[test]
fn t22_t23_t33_t34_each_limit_of_a_connection_is_set_counted_and_named() {
    let fragments = |count: usize, payload: &str| {
        let continuations = frame(0x00, payload).repeat(count - 1);
        [frame(0x01, payload), continuations].concat()
    };
    for (name, value, sent, code) in [
        (
            "max_message_size",
            "100B",
            frame(0x81, "a".repeat(101)),
            1009,
        ),
        ("message_timeout", "100ms", frame(0x01, "begun"), 1008),
        ("max_fragment_count", "3", fragments(4, "a"), 1008),
        ("max_empty_fragment_count", "3", fragments(4, ""), 1008),
        ("control_rate", "1", frame(0x8A, "").repeat(200), 1008),
        ("pong_timeout", "100ms", Vec::new(), 1011),
    ] {
        let setting = format!("limits.{name}");
        let setup = echo().set(&setting, value);
        let server = setup.set("limits.ping_interval", "500ms").start();
        let mut wire = Wire::open(&server);
        wire.send(sent);
        let (closed_with, reason) = ending(&mut wire);
        assert_eq!(closed_with, code, "{name}");
        assert!(reason.contains(name), "{name}: {reason}");
        server.until(&format!("connections.closed_by.{name}"), 1);
        drop(wire);
        server.finish();
    }

    let server = echo().set("limits.close_timeout", "200ms").start();
    let mut wire = Wire::open(&server);
    wire.send([0xFF, 0xFF]);
    assert_eq!(ending(&mut wire).0, 1002);
    server.until("connections.close_timeouts", 1);
    drop(wire);
    // Who ends it in time is not counted.
    Wire::open(&server).bye();
    server.until("connections.open", 0);
    assert_eq!(server.figure("connections.close_timeouts"), 1);
    server.finish();
}

#[test]
fn t23_the_burst_of_control_frames_is_what_is_set() {
    let server = echo()
        .set("limits.control_rate", "1")
        .set("limits.control_burst", "200")
        .start();
    let mut wire = Wire::open(&server);
    wire.send(frame(0x8A, "").repeat(150));
    wire.ping();
    wire.bye();
    server.finish();
}

#[test]
fn t34_which_rate_was_exceeded_is_counted_and_named() {
    for name in ["message_rate", "message_rate_per_user"] {
        let server = echo()
            .set(&format!("limits.{name}"), "20")
            .set("limits.message_burst", "1")
            .start();
        let mut wire = Wire::open(&server);
        wire.send(frame(0x81, "a").repeat(1000));
        let (code, reason) = ending(&mut wire);
        assert_eq!(code, 1008, "{name}");
        assert_eq!(reason, format!("messages exceed limits.{name}"));
        server.until(&format!("connections.closed_by.{name}"), 1);
        drop(wire);
        server.finish();
    }
}

/// Code and reason of the server's close frame, behind whatever else it sends.
fn ending(wire: &mut Wire) -> (u16, String) {
    loop {
        let frame = wire.frame().expect("a close frame");
        if frame.opcode == 8 {
            let (code, reason) = frame.payload.split_first_chunk().expect("a code");
            let reason = String::from_utf8(reason.to_vec()).unwrap();
            return (u16::from_be_bytes(*code), reason);
        }
    }
}

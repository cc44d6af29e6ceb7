//! Frames: what is echoed, what closes the connection and with which code, and what it costs.

use std::io::{ErrorKind, Write};
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use serde_json::json;

use crate::support::*;
use crate::wire::*;

fn echo() -> Setup {
    Setup::new().arg("--echo")
}

/// Each of these, sent on a connection of its own, closes it with this code.
fn all_close(server: &Server, code: u16, cases: &[Vec<u8>]) {
    for case in cases {
        let mut wire = Wire::open(server);
        wire.send(case);
        let shown = &case[..case.len().min(40)];
        assert_eq!(wire.close_code(), code, "{}", shown.escape_ascii());
        assert_eq!(wire.frame(), None, "{}", shown.escape_ascii());
    }
}

/// Memory of the server in bytes: resident now, and the most address space it ever had.
fn memory(server: &Server) -> (u64, u64) {
    let status = std::fs::read_to_string(format!("/proc/{}/status", server.pid())).unwrap();
    let kibibytes = |name: &str| -> u64 {
        let line = status.lines().find(|line| line.starts_with(name)).unwrap();
        line.split_whitespace().nth(1).unwrap().parse().unwrap()
    };
    (kibibytes("VmRSS:") * 1024, kibibytes("VmPeak:") * 1024)
}

const KIB: u64 = 1024;
const MIB: u64 = 1024 * KIB;

#[test]
fn rfc6455_5_7_samples_are_answered_as_the_rfc_shows() {
    let server = echo().start();
    let mut wire = Wire::open(&server);
    wire.send(b"\x81\x85\x37\xfa\x21\x3d\x7f\x9f\x4d\x51\x58");
    assert_eq!(wire.frame(), Some(Frame::text("Hello")));
    wire.send(b"\x89\x85\x37\xfa\x21\x3d\x7f\x9f\x4d\x51\x58");
    assert_eq!(wire.frame(), Some(Frame::pong("Hello")));
    wire.send(b"\x01\x83\x37\xfa\x21\x3d\x7f\x9f\x4d");
    wire.send(b"\x80\x82\x3d\x37\xfa\x21\x51\x58");
    assert_eq!(wire.frame(), Some(Frame::text("Hello")));
    for length in [0, 125, 126, 256, 65_535, 65_536] {
        let payload: Vec<u8> = (0..length).map(|index| index as u8).collect();
        wire.send(frame(0x82, &payload));
        assert_eq!(wire.frame(), Some(Frame { opcode: 2, payload }));
    }
    // An unsolicited pong is no fault, and is not answered.
    wire.send(frame(0x8A, "unasked"));
    wire.ping();
    wire.bye();
    server.finish();
}

#[test]
fn frames_may_be_cut_anywhere_and_come_together() {
    let server = echo().start();
    let mut wire = Wire::open(&server);
    let several = [
        frame(0x81, "one"),
        frame(0x01, "tw"),
        frame(0x89, "ping between fragments"),
        frame(0x80, "o"),
        frame(0x82, vec![7; 300]),
        frame(0x81, ""),
    ]
    .concat();
    let expected = [
        Frame::text("one"),
        Frame::pong("ping between fragments"),
        Frame::text("two"),
        Frame {
            opcode: 2,
            payload: vec![7; 300],
        },
        Frame::text(""),
    ];
    wire.send(&several);
    for frame in &expected {
        assert_eq!(wire.frame().as_ref(), Some(frame));
    }
    for byte in &several {
        wire.send([*byte]);
    }
    for frame in &expected {
        assert_eq!(wire.frame().as_ref(), Some(frame));
    }
    wire.bye();
    server.finish();
}

#[test]
fn messages_before_a_fault_are_answered_before_the_close() {
    let server = echo().start();
    let faults = [
        (vec![0xF1, 0x80], 1002),
        (frame(0x81, b"\xff"), 1007),
        (close_frame(1000, ""), 1000),
    ];
    for (fault, code) in faults {
        let mut wire = Wire::open(&server);
        let all = [frame(0x81, "a"), frame(0x81, "b"), fault, frame(0x81, "c")].concat();
        wire.send(all);
        assert_eq!((wire.hear(), wire.hear()), ("a".into(), "b".into()));
        wire.ends_with(code);
    }
    server.finish();
}

#[test]
fn t20_unmasked_frame_closes_1002_at_its_second_byte() {
    let server = Setup::new().app("echo run").start();
    // Only the two bytes of the header: the payload is not waited for.
    all_close(
        &server,
        1002,
        &[vec![0x81, 0x05], b"\x81\x05Hello".to_vec()],
    );
    all_close(
        &server,
        1002,
        &[vec![0x89, 0x00], vec![0x88, 0x02, 0x03, 0xE8]],
    );
    assert_eq!(server.figure("callbacks.accepted"), 0);
    server.finish();
}

/// A header with the length in its 64-bit form, whatever it is.
fn long_header(first: u8, length: u64) -> Vec<u8> {
    let mut bytes = vec![first, 0xFF];
    bytes.extend(length.to_be_bytes());
    bytes.extend([0; 4]);
    bytes
}

#[test]
fn t21_declared_lengths_cost_nothing() {
    let server = echo().set("limits.max_message_size", "64KiB").start();
    let too_big = [
        0x1_0001,
        1 << 31,
        0x1_0000_0005,
        (1 << 32) + 5,
        (1 << 63) - 1,
    ];
    let too_big = too_big.map(|length| long_header(0x82, length));
    let invalid = [
        long_header(0x82, 1 << 63),
        long_header(0x82, 0xFFFF_FFFF_FFFF_FFFC),
        // Not the shortest form.
        long_header(0x82, 0xFFFF),
        long_header(0x82, 5),
        b"\x82\xFE\x00\x7D\0\0\0\0".to_vec(),
    ];
    // Whatever a first connection costs is no growth.
    all_close(&server, 1009, &too_big);
    all_close(&server, 1002, &invalid);
    let before = memory(&server);
    for _ in 0..10 {
        all_close(&server, 1009, &too_big);
        all_close(&server, 1002, &invalid);
    }
    let after = memory(&server);
    assert!(after.0 < before.0 + 512 * KIB, "{before:?} {after:?}");
    assert!(after.1 < before.1 + 128 * MIB, "{before:?} {after:?}");
    assert_eq!(server.figure("messages.received"), 0);
    server.finish();
}

#[test]
fn t21_limit_holds_to_the_byte_and_over_fragments() {
    let server = echo().set("limits.max_message_size", "1000B").start();
    let mut wire = Wire::open(&server);
    wire.say(&"x".repeat(1000));
    assert_eq!(wire.hear().len(), 1000);
    wire.send(frame(0x01, vec![b'x'; 999]));
    wire.send(frame(0x80, "y"));
    assert_eq!(wire.hear().len(), 1000);
    wire.bye();
    // A ping between fragments does not begin the count anew.
    let fragments = [
        frame(0x02, vec![0; 600]),
        frame(0x89, "p"),
        frame_header(0x00, 401),
    ]
    .concat();
    let mut wire = Wire::open(&server);
    wire.send(fragments);
    assert_eq!(wire.frame(), Some(Frame::pong("p")));
    wire.ends_with(1009);
    all_close(
        &server,
        1009,
        &[frame_header(0x81, 1001), frame_header(0x01, 1001)],
    );
    server.finish();
}

#[test]
fn t22_number_of_fragments_is_limited() {
    let server = echo().start();
    let empty = |count: usize| [frame(0x01, ""), frame(0x00, "").repeat(count - 1)].concat();
    let mut wire = Wire::open(&server);
    wire.send(empty(1024));
    wire.send(frame(0x80, "x"));
    assert_eq!(wire.hear(), "x");
    wire.bye();
    all_close(&server, 1008, &[empty(1025)]);

    let small = |count: usize| [frame(0x01, "x"), frame(0x00, "x").repeat(count - 1)].concat();
    let mut wire = Wire::open(&server);
    wire.send(small(131_071));
    wire.send(frame(0x80, "x"));
    assert_eq!(wire.hear().len(), 131_072);
    wire.bye();
    all_close(&server, 1008, &[small(131_073)]);
    server.finish();
}

#[test]
fn t22_fragments_pin_what_they_carry() {
    let server = echo().start();
    let mut wires: Vec<Wire> = (0..400).map(|_| Wire::open(&server)).collect();
    wires.iter_mut().for_each(Wire::ping);
    let before = memory(&server).0;
    let fragments = [frame(0x01, "x"), frame(0x00, "x").repeat(1023)].concat();
    for wire in &mut wires {
        wire.send(&fragments);
    }
    wires.iter_mut().for_each(Wire::ping);
    let after = memory(&server).0;
    // 400 of the 2000 connections that may take 16 MiB.
    assert!(after < before + 16 * MIB / 5, "{before} {after}");
    drop(wires);
    server.finish();
}

#[test]
fn t22_message_that_does_not_end_closes_1008() {
    let server = echo().set("limits.message_timeout", "300ms").start();
    for start in [frame(0x01, "begun"), frame_header(0x81, 100)] {
        let mut wire = Wire::open(&server);
        wire.send(start);
        wire.ends_with(1008);
    }
    // Progress does not buy time.
    let mut wire = Wire::open(&server);
    wire.send(frame_header(0x82, 1_000_000));
    let mut peek = [0; 1];
    let pace = Some(Duration::from_millis(10));
    wire.stream().set_read_timeout(pace).unwrap();
    while let Err(error) = wire.stream().peek(&mut peek) {
        assert_eq!(error.kind(), ErrorKind::WouldBlock);
        wire.send([0]);
    }
    wire.stream().set_read_timeout(Some(PATIENCE)).unwrap();
    wire.ends_with(1008);
    // A message that is complete is not timed any more.
    let mut wire = Wire::open(&server);
    wire.send(frame(0x01, "a"));
    wire.send(frame(0x80, "b"));
    assert_eq!(wire.hear(), "ab");
    server.until("connections.closed_by.message_timeout", 3);
    wire.bye();
    server.finish();
}

#[test]
fn t23_ping_flood_closes_1008() {
    let server = echo().start();
    for flood in [frame(0x89, vec![0; 125]), frame(0x8A, vec![0; 125])] {
        let mut wire = Wire::open(&server);
        wire.send(flood.repeat(500));
        let mut pongs = 0;
        let end = loop {
            match wire.frame() {
                Some(Frame { opcode: 0xA, .. }) => pongs += 1,
                frame => break frame.expect("a close frame"),
            }
        };
        assert_eq!(end.payload[..2], 1008_u16.to_be_bytes());
        assert_eq!(wire.frame(), None);
        // The burst, and what a slow machine's clock adds to it.
        assert!(pongs < 128, "{pongs}");
    }
    server.finish();
}

#[test]
fn t23_flood_from_a_client_that_never_reads_costs_little() {
    let server = echo().start();
    let mut good = Wire::open(&server);
    good.say("warm");
    good.hear();
    let before = memory(&server).0;
    // Not even the refusals are read. Some of these floods end in a reset: they are cut short.
    let flood = frame(0x89, vec![0; 125]).repeat(10_000);
    let floods: Vec<Wire> = (0..20)
        .map(|_| {
            let wire = Wire::open(&server);
            let mut stream = wire.stream();
            stream.set_write_timeout(Some(PATIENCE)).unwrap();
            let _ = stream.write_all(&flood);
            wire
        })
        .collect();
    good.say("still here");
    assert_eq!(good.hear(), "still here");
    server.until("connections.closed_by.control_rate", 20);
    let after = memory(&server).0;
    assert!(after < before + 4 * MIB, "{before} {after}");
    drop(floods);
    good.bye();
    server.finish();
}

#[test]
fn t23_flood_of_messages_holds_up_nobody() {
    // One thread serves them all.
    let server = echo().set("server.threads", "1").start();
    let flooders = [flood(Wire::open(&server)), flood(Wire::open(&server))];
    eventually("the flood runs", || {
        server.figure("messages.received") > 10_000
    });
    let mut good = Wire::open(&server);
    let slowest = (0..20).map(|index| {
        let begun = Instant::now();
        good.say(&index.to_string());
        assert_eq!(good.hear(), index.to_string());
        begun.elapsed()
    });
    let slowest = slowest.max().unwrap();
    // Tens of milliseconds in an unoptimised server; seconds if a flooder had the thread.
    assert!(slowest < Duration::from_secs(2), "{slowest:?}");
    good.bye();
    server.signal(Signal::SIGTERM);
    server.check_end();
    for flooder in flooders {
        flooder.join().unwrap();
    }
}

#[test]
fn t23_behind_unread_bytes_only_the_latest_ping_is_answered() {
    let server = echo()
        .set("limits.max_message_size", "32MiB")
        .set("limits.send_queue_size", "64MiB")
        .start();
    let mut wire = Wire::open(&server);
    let large = vec![0x5A; 24 << 20];
    wire.send(frame(0x82, &large));
    server.until("messages.received", 1);
    for index in 0..50 {
        wire.send(frame(0x89, format!("ping {index}")));
    }
    wire.say("behind");
    server.until("messages.received", 2);
    assert!(wire.frame().unwrap().payload == large);
    assert_eq!(wire.frame(), Some(Frame::text("behind")));
    assert_eq!(wire.frame(), Some(Frame::pong("ping 49")));
    wire.bye();
    server.finish();
}

#[test]
fn t30_client_that_never_reads_is_not_read_either() {
    let server = echo().start();
    let mut wire = Wire::open(&server);
    let before = memory(&server).0;
    let message = frame(0x82, vec![0xA5; 16 * 1024]);
    // Sends until the server takes no more; a message may be cut.
    let mut stream = wire.stream();
    let pause = Some(Duration::from_millis(500));
    stream.set_write_timeout(pause).unwrap();
    let mut sent = 0;
    loop {
        match stream.write(&message[sent % message.len()..]) {
            Ok(written) => sent += written,
            Err(error) if error.kind() == ErrorKind::WouldBlock => break,
            Err(error) => panic!("{error}"),
        }
        assert!(sent < 256 << 20, "the server takes whatever comes");
    }
    let after = memory(&server).0;
    // The queue of 1 MiB, what it grew through, and what was read but not processed.
    assert!(after < before + 8 * MIB, "{before} {after}");
    let whole = sent / message.len();
    let mut good = Wire::open(&server);
    good.say("others go on");
    assert_eq!(good.hear(), "others go on");
    good.bye();
    // Whoever reads again gets every echo, whole (INV-06).
    for _ in 0..whole {
        let frame = wire.frame().unwrap();
        assert!(frame.opcode == 2 && frame.payload == [0xA5; 16 * 1024]);
    }
    drop(wire);
    server.finish();
}

#[test]
fn t30_overflow_of_pushes_closes_1013_and_costs_nobody_else() {
    let server = echo()
        .set("limits.send_queue_size", "256KiB")
        .set("limits.close_timeout", "1s")
        .start();
    let slow = Wire::open(&server);
    let mut good = Wire::open(&server);
    let text = "p".repeat(128 * 1024);
    let mut pushed = 0;
    while server.figure("connections.closed_by.overflow") == 0 {
        let receipt = server.send(json!({ "all": true }), &text);
        let sum = figure(&receipt, "written") + figure(&receipt, "queued");
        assert_eq!(
            figure(&receipt, "connections"),
            sum + figure(&receipt, "dropped")
        );
        assert_eq!(good.hear(), text);
        pushed += 1;
        assert!(pushed < 1000, "no overflow");
    }
    good.bye();
    drop(slow);
    server.finish();
}

#[test]
fn b13_large_message_arrives_whole_at_a_slow_reader() {
    let server = echo()
        .set("limits.max_message_size", "16MiB")
        .set("limits.send_queue_size", "1KiB")
        .start();
    let mut wire = Wire::open(&server);
    let large: Vec<u8> = (0..12 << 20)
        .map(|index: u32| (index % 251) as u8)
        .collect();
    wire.send([frame(0x82, &large), frame(0x81, "after")].concat());
    server.until("messages.received", 1);
    assert!(wire.frame().unwrap().payload == large);
    assert_eq!(wire.hear(), "after");
    wire.bye();
    server.finish();
}

#[test]
fn b13_replies_and_pushes_never_interleave() {
    const REPLIES: usize = 60;
    let server = echo().set("limits.send_queue_size", "64MiB").start();
    let mut wire = Wire::open(&server);
    let (reply, push) = ("r".repeat(100_000), "p".repeat(70_000));
    let mut pushed = 0;
    for _ in 0..REPLIES {
        wire.say(&reply);
        pushed += figure(&server.send(json!({ "all": true }), &push), "connections");
    }
    // The reader checks that every frame is whole.
    let (mut replies, mut pushes) = (0, 0);
    while replies < REPLIES || pushes < pushed {
        let text = wire.hear();
        match text {
            _ if text == reply => replies += 1,
            _ if text == push => pushes += 1,
            _ => panic!("torn: {}...", &text[..20]),
        }
    }
    wire.bye();
    server.finish();
}

#[test]
fn t25_text_that_is_not_utf8_closes_1007() {
    let server = echo().start();
    let bad: [&[u8]; 12] = [
        b"\xff",
        b"\x80",
        b"\xc0\xaf",         // overlong
        b"\xe0\x80\xaf",     // overlong
        b"\xf0\x80\x80\xaf", // overlong
        b"\xed\xa0\x80",     // a surrogate
        b"\xed\xbf\xbf",     // a surrogate
        b"\xf4\x90\x80\x80", // above U+10FFFF
        b"\xf5\x80\x80\x80",
        b"\xfc\x84\x80\x80\x80\x80",
        b"cut short \xe2\x82",
        b"\xce\xba\xe1\xbd\xb9\xcf\x83\xce\xbc\xce\xb5\xed\xa0\x80edited",
    ];
    let whole: Vec<_> = bad.iter().map(|text| frame(0x81, text)).collect();
    all_close(&server, 1007, &whole);
    // Binary messages may be anything.
    let mut wire = Wire::open(&server);
    for payload in bad {
        wire.send(frame(0x82, payload));
        assert_eq!(wire.frame().unwrap().payload, payload);
    }
    wire.bye();
    server.finish();
}

#[test]
fn t25_bad_text_fails_at_its_first_impossible_byte() {
    let server = echo().start();
    let cut = |bytes: Vec<u8>, missing: usize| bytes[..bytes.len() - missing].to_vec();
    all_close(
        &server,
        1007,
        &[
            // The rest of the frame never comes.
            cut(
                frame(0x81, [b"ok \xff".as_slice(), &[b'x'; 500]].concat()),
                500,
            ),
            // Nor do the rest of the code point and the last fragment.
            frame(0x01, b"\xf4\x90"),
            [frame(0x01, b"\xe2"), frame(0x00, b"\x28")].concat(),
            // Cut short by the end of the message.
            [frame(0x01, b"\xe2\x82"), frame(0x80, "")].concat(),
        ],
    );
    // A code point may be cut by fragments, and a ping may stand in between.
    let mut wire = Wire::open(&server);
    let euro = "€".as_bytes();
    wire.send(frame(0x01, &euro[..1]));
    wire.send(frame(0x89, "p"));
    assert_eq!(wire.frame(), Some(Frame::pong("p")));
    wire.send(frame(0x00, &euro[1..2]));
    wire.send(frame(0x80, &euro[2..]));
    assert_eq!(wire.hear(), "€");
    wire.bye();
    server.finish();
}

#[test]
fn t26_frames_against_the_rules_close_1002() {
    let server = echo().start();
    let mut cases = vec![
        // Control frames: over 125 bytes, fragmented.
        frame(0x89, vec![0; 126]),
        frame(0x88, vec![0; 126]),
        frame(0x8A, vec![0; 126]),
        frame(0x09, "ping"),
        frame(0x08, ""),
        frame(0x0A, ""),
        // A continuation of nothing, also after a message that is complete.
        frame(0x80, "continuation"),
        frame(0x00, "continuation"),
        // A new message inside a fragmented one.
        [frame(0x01, "begun"), frame(0x81, "new")].concat(),
        [frame(0x01, "begun"), frame(0x02, "new")].concat(),
    ];
    // Reserved opcodes and bits.
    cases.extend([3, 4, 5, 6, 7, 11, 12, 13, 14, 15].map(|opcode| frame(0x80 | opcode, "")));
    cases.extend([0xC1, 0xA1, 0x91, 0xF1, 0xC2, 0xC9, 0x98].map(|first| frame(first, "")));
    all_close(&server, 1002, &cases);
    let mut wire = Wire::open(&server);
    wire.send([frame(0x01, "a"), frame(0x80, "b"), frame(0x80, "c")].concat());
    assert_eq!(wire.hear(), "ab");
    wire.ends_with(1002);
    let count = cases.len() as u64 + 1;
    server.until("connections.closed_by.protocol", count);
    server.finish();
}

#[test]
fn t27_valid_close_codes_are_echoed_and_others_close_1002() {
    let server = echo().start();
    for code in [
        1000, 1001, 1002, 1003, 1007, 1008, 1009, 1010, 1011, 1012, 1013, 1014, 3000, 3999, 4000,
        4999,
    ] {
        let mut wire = Wire::open(&server);
        wire.send(close_frame(code, "reason"));
        wire.ends_with(code);
    }
    let mut wire = Wire::open(&server);
    wire.send(frame(0x88, ""));
    wire.ends_with(1005);
    server.until("connections.closed_by.peer", 17);
    let codes = [
        0, 1, 999, 1004, 1005, 1006, 1015, 1016, 1100, 2000, 2999, 5000, 65_535,
    ];
    let mut invalid: Vec<_> = codes.map(|code| close_frame(code, "")).into();
    invalid.push(frame(0x88, [3]));
    invalid.push(frame(0x88, b"\x03\xe8\xff"));
    invalid.push(frame(0x88, b"\x03\xe8cut \xe2\x82"));
    all_close(&server, 1002, &invalid);
    server.finish();
}

#[test]
fn t27_what_follows_a_close_frame_is_not_processed() {
    let server = Setup::new().app("cat").start();
    let mut wire = Wire::open(&server);
    wire.send(close_frame(1000, ""));
    // As much as the server still takes; it may have gone before all of it is written.
    let mut stream = wire.stream();
    let more = [
        frame(0x81, "more").repeat(1000),
        frame(0x82, vec![0; 1 << 20]),
    ]
    .concat();
    let _ = stream.write_all(&more);
    let _ = stream.write_all(&close_frame(1001, ""));
    wire.ends_with(1000);
    server.until("connections.open", 0);
    assert_eq!(server.figure("messages.received"), 0);
    assert_eq!(server.figure("callbacks.accepted"), 0);
    server.finish();
}

#[test]
fn t27_unanswered_close_frees_the_descriptor_in_time() {
    let server = Setup::new()
        .app("printf 'X-WS-Close: 4001 enough\\n\\n'")
        .set("app.output", "cgi")
        .set("limits.close_timeout", "300ms")
        .start();
    let mut by_us = Wire::open(&server);
    by_us.say("close me");
    assert_eq!(by_us.close_code(), 4001);
    let mut by_fault = Wire::open(&server);
    by_fault.send([0xFF, 0xFF]);
    assert_eq!(by_fault.close_code(), 1002);
    // A peer that ended the handshake but keeps its side open.
    let mut by_peer = Wire::open(&server);
    by_peer.send(close_frame(1000, ""));
    assert_eq!(by_peer.close_code(), 1000);
    server.until("connections.open", 0);
    for cause in ["application", "protocol", "peer"] {
        server.until(&format!("connections.closed_by.{cause}"), 1);
    }
    // The clients' ends are still open here, the server's are not (INV-19).
    server.finish();
    drop((by_us, by_fault, by_peer));
}

#[test]
fn t27_end_without_close_is_1006_in_the_log() {
    let server = echo().start();
    let mut wire = Wire::open(&server);
    wire.say("last");
    wire.shut_down();
    assert_eq!(wire.hear(), "last");
    assert_eq!(wire.frame(), None);
    // In the middle of a frame, and by a reset.
    let mut wire = Wire::open(&server);
    wire.send(frame_header(0x81, 100));
    drop(wire);
    server.until("connections.closed_by.vanished", 2);
    let log = server.finish();
    let closed = log
        .lines()
        .filter(|line| line.contains("connection closed"));
    let codes: Vec<u64> = closed
        .map(|line| serde_json::from_str::<serde_json::Value>(line).unwrap())
        .map(|record| record["close.code"].as_u64().unwrap())
        .collect();
    assert_eq!(codes, [1006, 1006]);
}

#[test]
fn b10_first_fragment_alone_is_no_message() {
    let server = Setup::new().app("cat").start();
    let mut wire = Wire::open(&server);
    wire.send(frame(0x01, "half "));
    wire.ping();
    assert_eq!(server.figure("messages.received"), 0);
    wire.send(frame(0x80, "and half"));
    assert_eq!(wire.hear(), "half and half");
    wire.bye();
    server.finish();
}

#[test]
fn b11_json_is_a_message_like_any_other() {
    let server = Setup::new().app("cat").start();
    let mut wire = Wire::open(&server);
    for text in ["123", "{\"a\": [1]}", "null", "\"text\"", "0", "true", "[]"] {
        wire.say(text);
        assert_eq!(wire.hear(), text);
    }
    wire.say("ping");
    assert_eq!(wire.hear(), "pong");
    assert_eq!(server.figure("callbacks.started"), 7);
    wire.bye();
    server.finish();
}

/// Time that the server's threads have been running, in clock ticks.
fn ticks(server: &Server) -> u64 {
    let stat = std::fs::read_to_string(format!("/proc/{}/stat", server.pid())).unwrap();
    let fields: Vec<&str> = stat
        .rsplit_once(')')
        .unwrap()
        .1
        .split_whitespace()
        .collect();
    fields[11].parse::<u64>().unwrap() + fields[12].parse::<u64>().unwrap()
}

#[test]
fn b12_dead_sockets_keep_nothing_busy() {
    let server = echo().set("limits.close_timeout", "1s").start();
    let wires: Vec<Wire> = (0..20).map(|_| Wire::open(&server)).collect();
    // Ends of streams in each phase: open, closed by us, closed by the peer.
    for (index, mut wire) in wires.into_iter().enumerate() {
        match index % 3 {
            0 => {}
            1 => wire.send([0xFF, 0xFF]),
            _ => wire.send(close_frame(1000, "")),
        }
        wire.shut_down();
        while wire.frame().is_some() {}
    }
    let before = ticks(&server);
    let mut idle = Wire::open(&server);
    let pause = Some(Duration::from_millis(500));
    idle.stream().set_read_timeout(pause).unwrap();
    assert!(idle.stream().peek(&mut [0]).is_err());
    let spent = ticks(&server) - before;
    assert!(spent < 10, "{spent} ticks in half a second of nothing");
    idle.stream().set_read_timeout(Some(PATIENCE)).unwrap();
    idle.ping();
    idle.bye();
    server.finish();
}

#[test]
fn client_that_answers_no_ping_is_let_go_and_one_that_does_stays() {
    let server = echo()
        .set("limits.ping_interval", "100ms")
        .set("limits.pong_timeout", "300ms")
        .start();
    let mut silent = Wire::open(&server);
    let mut alive = Wire::open(&server);
    let mut pings = 0;
    while pings < 10 {
        let ping = alive.frame().unwrap();
        assert_eq!(ping.opcode, 9);
        alive.send(frame(0x8A, ping.payload));
        pings += 1;
    }
    let end = loop {
        match silent.frame().unwrap() {
            Frame { opcode: 9, .. } => {}
            end => break end,
        }
    };
    assert_eq!(end.payload[..2], 1011_u16.to_be_bytes());
    server.until("connections.closed_by.pong_timeout", 1);
    assert_eq!(server.figure("connections.open"), 1);
    drop((silent, alive));
    server.finish();
}

#[test]
fn client_that_is_not_read_is_not_blamed_for_its_silence() {
    let setup = Setup::new();
    let mut gate = Gate::new(setup.dir(), "gate");
    let server = setup
        .app("read _ < gate; cat")
        .set("app.queue", "1")
        .set("limits.ping_interval", "100ms")
        .set("limits.pong_timeout", "200ms")
        .start();
    let mut wire = Wire::open(&server);
    for index in 0..20 {
        wire.say(&index.to_string());
    }
    server.until("callbacks.accepted", 2);
    // Several times as long as a pong may take.
    wire.stream()
        .set_read_timeout(Some(Duration::from_millis(1000)))
        .unwrap();
    while let Ok(read) = wire.stream().peek(&mut [0]) {
        assert!(read > 0, "the connection was ended");
        assert_eq!(wire.frame().unwrap().opcode, 9);
    }
    wire.stream().set_read_timeout(Some(PATIENCE)).unwrap();
    gate.open(20);
    let mut answered = 0;
    while answered < 20 {
        match wire.frame().unwrap() {
            Frame { opcode: 9, payload } => wire.send(frame(0x8A, payload)),
            reply => {
                assert_eq!(reply, Frame::text(&answered.to_string()));
                answered += 1;
            }
        }
    }
    drop(wire);
    server.finish();
}

//! Clients that send more than they may.

use std::time::{Duration, Instant};

use crate::support::{Setup, figure};
use crate::wire::{Frame, Wire, frame};

/// Many messages in one piece, numbered from 0.
fn numbered(count: usize) -> Vec<u8> {
    let messages = (0..count).map(|number| frame(0x81, format!("/{number}")));
    messages.collect::<Vec<_>>().concat()
}

#[test]
fn t34_a_flood_is_held_back_in_order_and_closed_after_ten_seconds() {
    const COUNT: usize = 100_000;
    const RATE: f64 = 50.0;
    const BURST: f64 = 16.0;
    let server = Setup::new()
        .arg("--echo")
        .set("limits.ping_interval", "off")
        .set("limits.message_rate", "50")
        .set("limits.message_burst", "16")
        .start();
    let mut other = Wire::open(&server);
    let mut wire = Wire::open(&server);
    let before = server.figure("memory_bytes");
    let stream = wire.stream().try_clone().unwrap();
    let flood = std::thread::spawn(move || {
        use std::io::Write;
        let _ = (&stream).write_all(&numbered(COUNT));
    });
    let begun = Instant::now();
    let (mut heard, mut most) = (0, 0);
    let close = loop {
        match wire.frame().expect("it ends with a close frame") {
            Frame { opcode: 1, payload } => {
                assert_eq!(payload, format!("/{heard}").into_bytes());
                heard += 1;
                let bound = BURST + RATE * begun.elapsed().as_secs_f64() + 1.0;
                assert!(
                    f64::from(heard) <= bound,
                    "{heard} in {:?}",
                    begun.elapsed()
                );
                if heard % 100 == 0 {
                    most = most.max(server.figure("memory_bytes"));
                    other.say("fine");
                    assert_eq!(other.hear(), "fine");
                }
            }
            frame => break frame,
        }
    };
    let elapsed = begun.elapsed();
    assert!(
        (Duration::from_secs(9)..Duration::from_secs(20)).contains(&elapsed),
        "{elapsed:?}"
    );
    assert_eq!(close.opcode, 8);
    assert_eq!(close.payload[..2], 1008_u16.to_be_bytes());
    assert!(String::from_utf8_lossy(&close.payload).contains("limits.message_rate"));
    // Whatever was accepted was answered; the rest was never read.
    let status = server.status();
    assert!(figure(&status, "messages.received") <= heard as u64 + 20);
    assert!(figure(&status, "messages.held_back") > 100);
    let growth = most.saturating_sub(before);
    assert!(growth < 1 << 20, "{growth} bytes");
    drop(wire);
    flood.join().unwrap();
    server.until("connections.closed_by.message_rate", 1);
    other.bye();
    server.finish();
}

#[test]
fn t34_a_burst_is_free_and_one_more_waits() {
    let server = Setup::new()
        .arg("--echo")
        .set("limits.message_rate", "1")
        .set("limits.message_burst", "5")
        .start();
    let mut wire = Wire::open(&server);
    let begun = Instant::now();
    wire.send(numbered(6));
    for number in 0..5 {
        assert_eq!(wire.hear(), format!("/{number}"));
    }
    assert_eq!(server.figure("messages.received"), 5);
    assert_eq!(wire.hear(), "/5");
    assert!(begun.elapsed() >= Duration::from_secs(1));
    assert_eq!(server.figure("messages.held_back"), 1);
    // Pings are no messages, and wait only behind one.
    wire.ping();
    wire.bye();
    server.finish();
}

#[test]
fn t34_the_connections_of_a_user_share_a_rate_and_another_user_has_his_own() {
    let server = Setup::new()
        .arg("--echo")
        .validate("echo \"${REQUEST_URI#/}${HTTP_X_WHO}\"")
        .set("limits.message_rate_per_user", "1")
        .set("limits.message_burst", "4")
        .start();
    let open = |who: &str| {
        let line = format!("X-Who: {who}");
        Wire::over(server.raw_stream(), &[&line]).0
    };
    let (mut first, mut second, mut other) = (open("alice"), open("alice"), open("bob"));
    let begun = Instant::now();
    for number in 0..2 {
        for wire in [&mut first, &mut second] {
            wire.say(&number.to_string());
            assert_eq!(wire.hear(), number.to_string());
        }
    }
    first.say("over");
    other.send(numbered(4));
    for number in 0..4 {
        assert_eq!(other.hear(), format!("/{number}"));
    }
    assert_eq!(first.hear(), "over");
    assert!(begun.elapsed() >= Duration::from_secs(1));
    for wire in [first, second, other] {
        wire.bye();
    }
    server.finish();
}

//! Crowds that do not finish their opening handshakes.

use std::io::{ErrorKind, Read, Write};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use crate::support::{PATIENCE, Setup, eventually};
use crate::wire::{self, Response, Wire, check_refusal};

/// What a peer has said so far without waiting for it; `None` if it goes on.
fn heard(stream: &mut TcpStream, answer: &mut Vec<u8>) -> Option<()> {
    let mut buffer = [0; 1024];
    loop {
        match stream.read(&mut buffer) {
            Ok(0) => return Some(()),
            Ok(read) => answer.extend(&buffer[..read]),
            Err(error) if error.kind() == ErrorKind::WouldBlock => return None,
            Err(error) => panic!("{error} after {answer:?}"),
        }
    }
}

fn memory(pid: i32) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find(|line| line.starts_with("VmRSS:"));
    let figure = line.unwrap().split_whitespace().nth(1).unwrap();
    figure.parse::<u64>().unwrap() * 1024
}

#[test]
fn t06_two_thousand_slow_heads_end_in_time_and_cost_little() {
    const CROWD: usize = 2000;
    const TIMEOUT: Duration = Duration::from_secs(2);
    let server = Setup::new()
        .arg("--echo")
        .set("limits.handshake_timeout", "2s")
        .start();
    let before = memory(server.pid());
    // Each sends its head byte by byte, one round of all after the other, and never completes it.
    let head = wire::head("/", &[&format!("X: {}", "x".repeat(16_000))]);
    let begun = Instant::now();
    let mut crowd: Vec<(TcpStream, Vec<u8>)> = (0..CROWD)
        .map(|_| {
            let stream = server.raw_stream();
            stream.set_nonblocking(true).unwrap();
            (stream, Vec::new())
        })
        .collect();
    let all_there = begun.elapsed();
    let (mut earliest, mut latest) = (Duration::MAX, Duration::ZERO);
    let mut most = 0;
    let mut connected = Duration::ZERO;
    for byte in head.as_bytes() {
        crowd.retain_mut(|(stream, answer)| {
            let is_over = heard(stream, answer).is_some();
            if is_over {
                assert_eq!(check_refusal(answer).status, 408);
                earliest = earliest.min(begun.elapsed());
                latest = latest.max(begun.elapsed());
            } else {
                // It may have been refused this moment.
                let _ = stream.write(&[*byte]);
            }
            !is_over
        });
        most = most.max(memory(server.pid()));
        if crowd.is_empty() {
            break;
        }
        if crowd.len() == CROWD && connected.is_zero() {
            let begun = Instant::now();
            Wire::open(&server).bye();
            connected = begun.elapsed();
        }
    }
    assert!(crowd.is_empty(), "{} are left", crowd.len());
    assert!(earliest >= TIMEOUT, "{earliest:?}");
    let slack = Duration::from_secs(1) + all_there;
    assert!(latest <= TIMEOUT + slack, "{latest:?}");
    let growth = most.saturating_sub(before);
    assert!(growth <= CROWD as u64 * 8 * 1024, "{growth} bytes");
    assert!(
        (Duration::from_nanos(1)..Duration::from_secs(1)).contains(&connected),
        "{connected:?}"
    );
    server.until("sockets.refused_by.timeout", CROWD as u64);
    server.finish();
}

#[test]
fn t10_the_oldest_newcomer_makes_room() {
    let server = Setup::new()
        .arg("--echo")
        .set("server.threads", "1")
        .set("limits.max_handshakes", "3")
        .set("limits.handshake_timeout", "1m")
        .start();
    let mut patient = Wire::open(&server);
    let mut spoken = server.raw_stream();
    spoken.write_all(b"GET / HTTP/1.1\r\n").unwrap();
    let mut silent = server.raw_stream();
    let third = server.raw_stream();
    server.until("sockets.open", 4);
    assert_eq!(server.figure("sockets.refused"), 0, "three are no crowd");
    // Whoever asks at once needs no place for long, but the oldest has to make one.
    Wire::open(&server).bye();
    server.until("sockets.refused_by.max_handshakes", 1);
    Wire::open(&server).bye();
    assert_eq!(server.figure("sockets.refused"), 1, "there is room now");
    // The first had spoken, and hears why; who has not, hears nothing.
    let mut answer = Vec::new();
    spoken.read_to_end(&mut answer).unwrap();
    let response = check_refusal(&answer);
    assert_eq!(response.status, 503);
    assert_eq!(response.header("Retry-After"), Some("1"));
    let more: Vec<TcpStream> = (0..2).map(|_| server.raw_stream()).collect();
    server.until("sockets.refused_by.max_handshakes", 2);
    let mut answer = Vec::new();
    silent.read_to_end(&mut answer).unwrap();
    assert_eq!(answer, b"");
    patient.say("still here");
    assert_eq!(patient.hear(), "still here");
    drop((third, more));
    patient.bye();
    server.finish();
}

#[test]
fn t10_those_who_ask_at_once_are_no_crowd() {
    const VISITORS: usize = 300;
    let server = Setup::new()
        .arg("--echo")
        .set("limits.max_handshakes", "4")
        .start();
    let mut visitors: Vec<TcpStream> = (0..VISITORS)
        .map(|_| {
            let mut stream = server.raw_stream();
            stream.write_all(wire::head("/", &[]).as_bytes()).unwrap();
            stream
        })
        .collect();
    for visitor in &mut visitors {
        let mut head = Vec::new();
        visitor.set_read_timeout(Some(PATIENCE)).unwrap();
        while !head.ends_with(b"\r\n\r\n") {
            let mut byte = [0];
            visitor.read_exact(&mut byte).unwrap();
            head.push(byte[0]);
        }
        assert_eq!(Response::parse(&head).status, 101);
    }
    drop(visitors);
    eventually("all have left", || server.figure("connections.open") == 0);
    server.finish();
}

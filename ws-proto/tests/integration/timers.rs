//! Pings, pongs, slow messages, pauses: all in simulated time.

use std::time::Duration;

use ws_proto::testing::{OwnedEvent, TestFrame};
use ws_proto::{Config, Opcode, ProtocolError, State};

use crate::support::{End, seconds, sent_close_code};

fn pong() -> TestFrame {
    TestFrame::client(Opcode::Pong, "")
}

#[test]
fn ping_goes_out_every_25_seconds_while_pongs_come() {
    let mut server = End::server();
    assert_eq!(server.pass(seconds(24)), []);
    assert_eq!(server.sent(), b"");
    for _ in 0..10 {
        assert_eq!(server.pass(seconds(1)), []);
        assert_eq!(server.sent(), b"\x89\x00");
        server.receive_frame(pong());
        assert_eq!(server.pass(seconds(24)), []);
        assert_eq!(server.sent(), b"");
    }
}

#[test]
fn pong_late_by_8_seconds_closes_1011() {
    let mut server = End::server();
    server.pass(seconds(25));
    server.sent();
    assert_eq!(server.pass(Duration::from_millis(7999)), []);
    let events = server.pass(Duration::from_millis(1));
    assert_eq!(events, [OwnedEvent::Failed(ProtocolError::PongTimeout)]);
    assert_eq!(sent_close_code(&server.sent()), Some(1011));
    assert_eq!(server.connection.state(), State::Closed);
}

#[test]
fn messages_do_not_stand_for_a_pong() {
    let mut server = End::server();
    server.pass(seconds(25));
    server.pass(seconds(7));
    server.receive_frame(TestFrame::client(Opcode::Text, "alive"));
    let events = server.pass(seconds(1));
    assert_eq!(events, [OwnedEvent::Failed(ProtocolError::PongTimeout)]);
}

#[test]
fn pong_cannot_overtake_a_frame_that_makes_progress() {
    let mut server = End::server();
    server.pass(seconds(25));
    let wire = TestFrame::client(Opcode::Binary, vec![1; 100]).to_bytes();
    for byte in 0..3 {
        assert_eq!(server.pass(seconds(7)), []);
        assert_eq!(server.receive(&wire[byte * 10..byte * 10 + 10]), []);
    }
    assert_eq!(server.receive(&wire[30..]).len(), 1);
    assert_eq!(server.pass(seconds(7)), []);
    server.receive_frame(pong());
    assert_eq!(server.pass(seconds(10)), []);
}

#[test]
fn no_ping_interval_means_no_pings() {
    let mut server = End::server_with(Config::default().with_ping_interval(None));
    assert_eq!(server.connection.poll_timeout(), None);
    assert_eq!(server.pass(seconds(3600)), []);
    assert_eq!(server.sent(), b"");
}

#[test]
fn durations_beyond_the_clock_mean_never() {
    let config = Config::default()
        .with_ping_interval(Some(Duration::MAX))
        .with_message_timeout(Duration::MAX)
        .with_close_timeout(Duration::MAX);
    let mut server = End::server_with(config);
    server.receive_frame(TestFrame::client(Opcode::Text, "half").unfinished());
    assert_eq!(server.connection.poll_timeout(), None);
    server.close(ws_proto::CloseCode::AWAY);
    assert_eq!(server.connection.poll_timeout(), None);
}

fn without_pings() -> End {
    End::server_with(Config::default().with_ping_interval(None))
}

#[test]
fn t22_message_not_complete_after_30_seconds_closes_1008() {
    let mut server = without_pings();
    server.receive_frame(TestFrame::client(Opcode::Text, "a").unfinished());
    for _ in 0..29 {
        assert_eq!(server.pass(seconds(1)), []);
        server.receive_frame(TestFrame::client(Opcode::Continuation, "b").unfinished());
    }
    let events = server.pass(seconds(1));
    assert_eq!(events, [OwnedEvent::Failed(ProtocolError::MessageTimeout)]);
    assert_eq!(sent_close_code(&server.sent()), Some(1008));
}

#[test]
fn t22_single_frame_not_complete_after_30_seconds_closes_1008() {
    let mut server = without_pings();
    server.receive(&TestFrame::client(Opcode::Binary, "abc").to_bytes()[..7]);
    assert_eq!(server.pass(seconds(29)), []);
    let events = server.pass(seconds(1));
    assert_eq!(events, [OwnedEvent::Failed(ProtocolError::MessageTimeout)]);
}

#[test]
fn t22_clock_begins_with_the_first_byte_of_a_header() {
    for opcode in [Opcode::Binary, Opcode::Ping] {
        let wire = TestFrame::client(opcode, vec![1; 100]).to_bytes();
        let mut server = without_pings();
        for byte in &wire[..30] {
            assert_eq!(server.receive(&[*byte]), []);
            assert_eq!(server.pass(Duration::from_millis(999)), []);
        }
        let events = server.pass(Duration::from_millis(30));
        assert_eq!(events, [OwnedEvent::Failed(ProtocolError::MessageTimeout)]);
        assert_eq!(sent_close_code(&server.sent()), Some(1008));
    }
}

#[test]
fn clock_ends_with_a_control_frame_that_came_in_parts() {
    let wire = TestFrame::client(Opcode::Pong, "late").to_bytes();
    for cut in 1..wire.len() {
        let mut server = without_pings();
        assert_eq!(server.receive(&wire[..cut]), []);
        assert_eq!(server.pass(seconds(29)), []);
        assert_eq!(server.receive(&wire[cut..]).len(), 1);
        assert_eq!(server.connection.poll_timeout(), None);
    }
}

#[test]
fn t22_clock_begins_anew_with_each_message() {
    let mut server = without_pings();
    for _ in 0..3 {
        server.receive_frame(TestFrame::client(Opcode::Text, "a").unfinished());
        assert_eq!(server.pass(seconds(29)), []);
        let events = server.receive_frame(TestFrame::client(Opcode::Continuation, "b"));
        assert_eq!(events.len(), 1);
        assert_eq!(server.connection.poll_timeout(), None);
    }
}

#[test]
fn pause_suspends_the_pong_and_message_deadlines() {
    let mut server = End::server();
    server.pass(seconds(25));
    server.sent();
    server.receive_frame(TestFrame::client(Opcode::Text, "a").unfinished());
    server.pass(seconds(3));
    server.connection.pause(server.now);
    assert_eq!(server.connection.poll_timeout(), None);
    assert_eq!(server.pass(seconds(100)), []);
    assert_eq!(server.sent(), b"");
    server.connection.resume(server.now);
    // Five of the eight seconds are left.
    assert_eq!(server.pass(Duration::from_millis(4999)), []);
    let events = server.pass(Duration::from_millis(1));
    assert_eq!(events, [OwnedEvent::Failed(ProtocolError::PongTimeout)]);
}

#[test]
fn pause_does_not_suspend_the_close_deadline() {
    let mut server = End::server();
    server.connection.pause(server.now);
    server.close(ws_proto::CloseCode::AWAY);
    let events = server.pass(seconds(5));
    assert_eq!(events, [OwnedEvent::Failed(ProtocolError::CloseTimeout)]);
}

#[test]
fn timeout_called_early_does_nothing() {
    let mut server = End::server();
    assert_eq!(
        server.connection.handle_timeout(server.now + seconds(24)),
        None
    );
    assert!(!server.connection.poll_transmit(&mut Vec::new()));
}

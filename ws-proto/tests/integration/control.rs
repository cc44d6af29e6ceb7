//! Pings and pongs.

use ws_proto::testing::{OwnedEvent, TestFrame, encode_all, receive_all};
use ws_proto::{Config, Event, Input, Opcode, ProtocolError};

use crate::support::{End, fails, seconds, sent_frames};

fn ping(payload: &str) -> TestFrame {
    TestFrame::client(Opcode::Ping, payload)
}

#[test]
fn each_ping_is_answered_while_the_output_flows() {
    let mut server = End::server();
    let wire = [ping("a").to_bytes(), ping("b").to_bytes()].concat();
    server.receive(&wire);
    assert_eq!(server.sent(), b"\x8A\x01a\x8A\x01b");
}

#[test]
fn t23_behind_refused_bytes_the_latest_ping_is_answered() {
    let mut server = End::server();
    let mut wire = [
        ping("a").to_bytes(),
        ping("b").to_bytes(),
        ping("c").to_bytes(),
    ]
    .concat();
    let mut input = Input::new(&mut wire);
    // The caller does not ask for output: the kernel takes none.
    while server.connection.receive(&mut input, server.now).is_some() {}
    assert!(server.connection.poll_transmit(&mut server.out));
    assert_eq!(server.sent(), b"\x8A\x01c");
    assert!(!server.connection.poll_transmit(&mut server.out));
}

#[test]
fn t23_bucket_of_64_and_32_a_second() {
    let mut server = End::server();
    let flood = ping("").to_bytes();
    assert_eq!(server.receive(&flood.repeat(64)).len(), 64);
    server.now += seconds(1);
    assert_eq!(server.receive(&flood.repeat(32)).len(), 32);
    assert_eq!(server.sent().len(), 96 * 2);
    fails(server, &flood, &ProtocolError::TooManyControlFrames, 1008);
}

#[test]
fn t23_pongs_count_and_close_frames_do_not() {
    let mut server = End::server();
    let pong = TestFrame::client(Opcode::Pong, "").to_bytes();
    assert_eq!(server.receive(&pong.repeat(64)).len(), 64);
    let events = server.receive_frame(TestFrame::client(Opcode::Close, ""));
    assert_eq!(events, [OwnedEvent::Close(None)]);
}

#[test]
fn t23_rate_and_burst_are_settings() {
    let config = Config::default().with_control_rate(1).with_control_burst(2);
    let mut server = End::server_with(config);
    assert_eq!(server.receive(&ping("").to_bytes().repeat(2)).len(), 2);
    let failed = OwnedEvent::Failed(ProtocolError::TooManyControlFrames);
    assert_eq!(server.receive_frame(ping("")), [failed]);
}

#[test]
fn t23_a_hundred_thousand_pings_unanswered_leave_one_pong() {
    // The peer keeps within the rate, but never reads.
    let config = Config::default()
        .with_control_burst(100_000)
        .with_control_rate(1000);
    let mut server = End::server_with(config);
    let mut bytes = TestFrame::client(Opcode::Ping, [1; 125])
        .to_bytes()
        .repeat(100_000);
    let mut input = Input::new(&mut bytes);
    while let Some(event) = server.connection.receive(&mut input, server.now) {
        assert!(matches!(event, Event::Ping(_)));
    }
    server.connection.poll_transmit(&mut server.out);
    assert_eq!(server.sent().len(), 127);
}

#[test]
fn unsolicited_pong_is_an_event_and_unanswered() {
    let mut server = End::server();
    let events = server.receive_frame(TestFrame::client(Opcode::Pong, "x"));
    assert_eq!(events, [OwnedEvent::Pong(b"x".to_vec())]);
    assert_eq!(server.sent(), b"");
}

#[test]
fn pong_due_leaves_before_our_answer_to_close() {
    let mut server = End::server();
    let mut wire = [
        ping("p").to_bytes(),
        TestFrame::client(Opcode::Close, "").to_bytes(),
    ]
    .concat();
    let mut input = Input::new(&mut wire);
    while server.connection.receive(&mut input, server.now).is_some() {}
    server.connection.poll_transmit(&mut server.out);
    assert_eq!(server.sent(), b"\x8A\x01p\x88\x00");
}

#[test]
fn after_our_close_frame_pings_are_not_answered() {
    let mut server = End::server();
    server.close(ws_proto::CloseCode::AWAY);
    server.sent();
    let now = server.now;
    let wire = ping("late").to_bytes();
    assert_eq!(
        receive_all(&mut server.connection, &wire, now, &mut server.out),
        []
    );
    assert_eq!(server.sent(), b"");
}

#[test]
fn ping_is_answered_with_its_own_payload() {
    for mut end in End::both() {
        for payload in [vec![], b"Hello".to_vec(), vec![0xFF; 125]] {
            let frame = end.peer_frame(Opcode::Ping, payload.clone());
            assert_eq!(
                end.receive_frame(frame),
                [OwnedEvent::Ping(payload.clone())]
            );
            let sent = sent_frames(&end.sent());
            assert_eq!(sent.len(), 1);
            assert_eq!((sent[0].0.opcode, &sent[0].1), (Opcode::Pong, &payload));
        }
    }
}

#[test]
fn ping_between_fragments_is_answered_before_the_message_ends() {
    for mut end in End::both() {
        end.receive_frame(end.peer_frame(Opcode::Text, "a").unfinished());
        end.receive_frame(end.peer_frame(Opcode::Ping, "p"));
        assert_eq!(sent_frames(&end.sent())[0].1, b"p");
    }
}

#[test]
fn ping_behind_a_close_frame_is_not_answered() {
    for mut end in End::both() {
        let frames = [
            end.peer_frame(Opcode::Close, ""),
            end.peer_frame(Opcode::Ping, "late"),
        ];
        assert_eq!(end.receive(&encode_all(&frames)), [OwnedEvent::Close(None)]);
        let sent = sent_frames(&end.sent());
        assert_eq!(sent.len(), 1);
        assert_eq!(sent[0].0.opcode, Opcode::Close);
    }
}

#[test]
fn client_leaves_an_unsolicited_pong_unanswered() {
    let mut client = End::client();
    let events = client.receive(b"\x8A\x01x");
    assert_eq!(events, [OwnedEvent::Pong(b"x".to_vec())]);
    assert_eq!(client.sent(), b"");
}

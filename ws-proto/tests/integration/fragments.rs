//! Messages of several frames.

use ws_proto::testing::{OwnedEvent, TestFrame, encode_all};
use ws_proto::{Config, MessageKind, Opcode, ProtocolError};

use crate::support::{End, client_fails, fails, server_fails};

fn first(payload: &str) -> TestFrame {
    TestFrame::client(Opcode::Binary, payload).unfinished()
}

fn next(payload: &str) -> TestFrame {
    TestFrame::client(Opcode::Continuation, payload).unfinished()
}

fn last(payload: &str) -> TestFrame {
    TestFrame::client(Opcode::Continuation, payload)
}

#[test]
fn t26_continuation_without_a_message_fails_with_1002() {
    server_fails(
        &last("x").to_bytes(),
        &ProtocolError::UnexpectedContinuation,
        1002,
    );
    // Nor is there a message once the one before has ended.
    let wire = encode_all(&[first("a"), last("b"), next("c")]);
    server_fails(&wire, &ProtocolError::UnexpectedContinuation, 1002);
}

#[test]
fn t26_new_message_inside_a_fragmented_one_fails_with_1002() {
    for opcode in [Opcode::Text, Opcode::Binary] {
        let wire = encode_all(&[first("a"), TestFrame::client(opcode, "b")]);
        server_fails(&wire, &ProtocolError::ExpectedContinuation, 1002);
    }
}

#[test]
fn control_frames_between_fragments_do_not_change_the_message() {
    let wire = encode_all(&[
        first("a"),
        TestFrame::client(Opcode::Ping, "p"),
        next("b"),
        TestFrame::client(Opcode::Pong, "q"),
        next(""),
        last("c"),
    ]);
    let expected = [
        OwnedEvent::Ping(b"p".to_vec()),
        OwnedEvent::Pong(b"q".to_vec()),
        OwnedEvent::Message(MessageKind::Binary, b"abc".to_vec()),
    ];
    assert_eq!(End::server().receive(&wire), expected);
    // A control frame cut in two does not touch the message's buffer either.
    let mut server = End::server();
    let events: Vec<_> = wire
        .iter()
        .flat_map(|byte| server.receive(&[*byte]))
        .collect();
    assert_eq!(events, expected);
}

#[test]
fn t22_fragment_131073_closes_1008() {
    let mut server = End::server();
    let fragment = next("x").to_bytes();
    assert_eq!(server.receive(&first("x").to_bytes()), []);
    assert_eq!(server.receive(&fragment.repeat(131_071)), []);
    fails(
        server,
        &fragment,
        &ProtocolError::TooManyFragments { max: 131_072 },
        1008,
    );
}

#[test]
fn t22_message_of_131072_fragments_is_accepted() {
    let mut server = End::server();
    assert_eq!(server.receive(&first("x").to_bytes()), []);
    assert_eq!(server.receive(&next("x").to_bytes().repeat(131_070)), []);
    let events = server.receive(&last("x").to_bytes());
    assert_eq!(
        events,
        [OwnedEvent::Message(
            MessageKind::Binary,
            vec![b'x'; 131_072]
        )]
    );
}

#[test]
fn t22_empty_fragment_1025_closes_1008() {
    let mut server = End::server();
    assert_eq!(server.receive(&first("x").to_bytes()), []);
    assert_eq!(server.receive(&next("").to_bytes().repeat(1024)), []);
    let error = ProtocolError::TooManyEmptyFragments { max: 1024 };
    fails(server, &next("").to_bytes(), &error, 1008);
}

#[test]
fn t22_empty_messages_are_no_empty_fragments() {
    let mut server = End::server_with(Config::default().with_max_empty_fragment_count(0));
    let empty = TestFrame::client(Opcode::Text, "").to_bytes();
    let events = server.receive(&empty.repeat(5));
    assert_eq!(
        events,
        vec![OwnedEvent::Message(MessageKind::Text, vec![]); 5]
    );
}

#[test]
fn counts_begin_anew_with_each_message() {
    let config = Config::default()
        .with_max_fragment_count(3)
        .with_max_empty_fragment_count(1);
    let mut server = End::server_with(config);
    let wire = encode_all(&[first("a"), next(""), last("b")]);
    let message = OwnedEvent::Message(MessageKind::Binary, b"ab".to_vec());
    assert_eq!(server.receive(&wire.repeat(4)), vec![message; 4]);
}

#[test]
fn fragments_out_of_order_fail_the_client_with_1002() {
    let (hel, lo) = (b"\x01\x03Hel", b"\x80\x02lo");
    client_fails(lo, &ProtocolError::UnexpectedContinuation, 1002);
    for second in [&b"\x81\x02lo"[..], b"\x02\x02lo"] {
        let wire = [&hel[..], second].concat();
        client_fails(&wire, &ProtocolError::ExpectedContinuation, 1002);
    }
}

#[test]
fn client_handles_control_frames_between_fragments() {
    let mut client = End::client();
    let events = client.receive(b"\x01\x03Hel\x89\x01p\x8A\x01q\x00\x00\x80\x02lo");
    let expected = [
        OwnedEvent::Ping(b"p".to_vec()),
        OwnedEvent::Pong(b"q".to_vec()),
        OwnedEvent::Message(MessageKind::Text, b"Hello".to_vec()),
    ];
    assert_eq!(events, expected);
    // The close frame does not wait for the message either.
    let mut client = End::client();
    let events = client.receive(b"\x01\x03Hel\x88\x00");
    assert_eq!(events, [OwnedEvent::Close(None)]);
}

#[test]
fn message_has_the_kind_of_its_first_fragment() {
    for mut end in End::both() {
        for kind in [MessageKind::Text, MessageKind::Binary] {
            let frames = [
                end.peer_frame(kind.into(), "a").unfinished(),
                end.peer_frame(Opcode::Continuation, "b").unfinished(),
                end.peer_frame(Opcode::Continuation, "c"),
            ];
            let events = end.receive(&encode_all(&frames));
            assert_eq!(events, [OwnedEvent::Message(kind, b"abc".to_vec())]);
        }
    }
}

//! The closing handshake.

use ws_proto::testing::{OwnedEvent, TestFrame, encode_all};
use ws_proto::{CloseCode, CloseFrame, MessageKind, Opcode, ProtocolError, SendError, State};

use crate::support::{End, client_fails, seconds, sent_close_code, sent_frames, server_fails};

fn close(payload: &[u8]) -> TestFrame {
    TestFrame::client(Opcode::Close, payload)
}

fn received(code: CloseCode, reason: &str) -> OwnedEvent {
    OwnedEvent::Close(Some(CloseFrame::new(code, reason)))
}

#[test]
fn t27_peer_close_is_echoed_and_ends_the_connection() {
    let mut server = End::server();
    let events = server.receive_frame(close(b"\x03\xE8bye"));
    assert_eq!(events, [received(CloseCode::NORMAL, "bye")]);
    assert_eq!(server.sent(), b"\x88\x02\x03\xE8");
    assert_eq!(server.connection.state(), State::Closed);
    assert_eq!(server.connection.poll_timeout(), None);
}

#[test]
fn t27_empty_close_is_answered_empty() {
    let mut server = End::server();
    assert_eq!(server.receive_frame(close(b"")), [OwnedEvent::Close(None)]);
    assert_eq!(server.sent(), b"\x88\x00");
}

#[test]
fn t27_close_of_one_byte_fails_with_1002() {
    server_fails(
        &close(b"\x03").to_bytes(),
        &ProtocolError::TruncatedClosePayload,
        1002,
    );
}

#[test]
fn t27_codes_that_must_not_travel_fail_with_1002() {
    for code in [0, 999, 1004, 1005, 1006, 1015, 1016, 2999, 5000, u16::MAX] {
        let error = ProtocolError::InvalidReceivedCloseCode { code };
        server_fails(&close(&code.to_be_bytes()).to_bytes(), &error, 1002);
    }
}

#[test]
fn t27_codes_that_may_travel_are_echoed() {
    for code in [
        1000, 1003, 1007, 1010, 1011, 1012, 1013, 1014, 3000, 3999, 4000, 4999,
    ] {
        let mut server = End::server();
        let frame = close(&u16::to_be_bytes(code));
        assert_eq!(
            server.receive_frame(frame),
            [received(CloseCode::new(code).unwrap(), "")]
        );
        assert_eq!(sent_close_code(&server.sent()), Some(code));
    }
}

#[test]
fn t27_close_reason_that_is_not_utf8_fails_with_1002() {
    let frame = close(b"\x03\xE8\xED\xA0\x80");
    server_fails(&frame.to_bytes(), &ProtocolError::CloseReasonNotUtf8, 1002);
}

#[test]
fn t27_data_after_close_is_ignored() {
    let mut server = End::server();
    let mut wire = close(b"").to_bytes();
    wire.extend(TestFrame::client(Opcode::Text, "late").to_bytes());
    wire.extend(vec![0xFF; 10 << 20]);
    assert_eq!(server.receive(&wire), [OwnedEvent::Close(None)]);
    assert_eq!(server.receive(&wire), []);
    assert_eq!(server.sent(), b"\x88\x00");
}

#[test]
fn t27_close_cut_into_bytes_is_the_same() {
    let mut server = End::server();
    let wire = close(b"\x03\xE8bye").to_bytes();
    let events: Vec<_> = wire
        .iter()
        .flat_map(|byte| server.receive(&[*byte]))
        .collect();
    assert_eq!(events, [received(CloseCode::NORMAL, "bye")]);
}

#[test]
fn t27_our_close_waits_for_the_peers() {
    let mut server = End::server();
    server.close(CloseCode::AWAY);
    assert_eq!(sent_close_code(&server.sent()), Some(1001));
    assert_eq!(server.connection.state(), State::Closing);
    let events = server.receive_frame(close(b"\x03\xE9"));
    assert_eq!(events, [received(CloseCode::AWAY, "")]);
    assert_eq!(server.connection.state(), State::Closed);
    assert_eq!(server.sent(), b"");
}

#[test]
fn t27_only_one_close_is_ever_sent() {
    let mut server = End::server();
    server.close(CloseCode::AWAY);
    server.sent();
    server.close(CloseCode::NORMAL);
    // Nor does a failure add another.
    let events = server.receive(&[0xFF]);
    assert_eq!(events, [OwnedEvent::Failed(ProtocolError::ReservedBits)]);
    server.close(CloseCode::NORMAL);
    assert_eq!(server.sent(), b"");
    assert_eq!(server.connection.state(), State::Closed);
}

#[test]
fn t27_peer_that_never_answers_times_out() {
    let mut server = End::server();
    server.close(CloseCode::AWAY);
    server.sent();
    assert_eq!(server.pass(seconds(4)), []);
    assert_eq!(
        server.pass(seconds(1)),
        [OwnedEvent::Failed(ProtocolError::CloseTimeout)]
    );
    assert_eq!(server.connection.state(), State::Closed);
    assert_eq!(server.sent(), b"");
    assert_eq!(server.connection.poll_timeout(), None);
}

#[test]
fn t27_close_frame_that_cannot_leave_times_out() {
    let mut server = End::server();
    let mut wire = close(b"").to_bytes();
    let mut input = ws_proto::Input::new(&mut wire);
    // The caller's output is stuck, so it never asks for the answer.
    while server.connection.receive(&mut input, server.now).is_some() {}
    assert_eq!(server.connection.state(), State::Closing);
    let later = server.now + seconds(5);
    assert!(server.connection.handle_timeout(later).is_some());
    assert_eq!(server.connection.state(), State::Closed);
    assert!(!server.connection.poll_transmit(&mut server.out));
}

#[test]
fn messages_are_neither_sent_nor_delivered_once_we_close() {
    let mut server = End::server();
    server.receive_frame(TestFrame::client(Opcode::Text, "half").unfinished());
    server.close(CloseCode::AWAY);
    server.sent();
    let sent = server
        .connection
        .send(MessageKind::Text, b"late", &mut Vec::new());
    assert_eq!(sent, Err(SendError::Closing));
    let wire = encode_all(&[
        TestFrame::client(Opcode::Continuation, b"\xFF other half"),
        TestFrame::client(Opcode::Text, "late").unfinished(),
        TestFrame::client(Opcode::Continuation, "later"),
        close(b"\x03\xE9"),
    ]);
    // Cut into bytes as well: what is skipped is still followed.
    let events: Vec<_> = wire
        .iter()
        .flat_map(|byte| server.receive(&[*byte]))
        .collect();
    assert_eq!(events, [received(CloseCode::AWAY, "")]);
    assert_eq!(server.connection.state(), State::Closed);
}

#[test]
fn rules_hold_while_closing() {
    let mut server = End::server();
    server.close(CloseCode::AWAY);
    let events = server.receive_frame(TestFrame::client(Opcode::Continuation, "x"));
    assert_eq!(
        events,
        [OwnedEvent::Failed(ProtocolError::UnexpectedContinuation)]
    );
    assert_eq!(server.connection.state(), State::Closed);
}

#[test]
fn replies_leave_before_the_close_frame() {
    let mut server = End::server();
    let (now, mut out) = (server.now, Vec::new());
    server.connection.close(None, now);
    // The reply was encoded before poll_transmit is asked, so the close frame is behind it.
    ws_proto::frame::encode_server(MessageKind::Text, b"reply", &mut out);
    server.connection.poll_transmit(&mut out);
    assert_eq!(out, b"\x81\x05reply\x88\x00");
}

#[test]
fn client_answers_a_close_masked() {
    let mut client = End::client();
    assert_eq!(
        client.receive(b"\x88\x02\x03\xE9"),
        [received(CloseCode::AWAY, "")]
    );
    let answer = client.sent();
    assert_eq!(answer[..2], [0x88, 0x82]);
    assert_eq!(
        End::server().receive(&answer),
        [received(CloseCode::AWAY, "")]
    );
}

#[test]
fn close_frame_carries_its_code_and_reason() {
    for (mut end, mut peer) in [
        (End::server(), End::client()),
        (End::client(), End::server()),
    ] {
        let frame = CloseFrame::new(CloseCode::AWAY, "tschüß");
        end.connection.close(Some(frame), end.now);
        end.connection.poll_transmit(&mut end.out);
        let sent = end.sent();
        let payload = [&[0x03, 0xE9], "tschüß".as_bytes()].concat();
        assert_eq!(sent_frames(&sent)[0].1, payload);
        assert_eq!(peer.receive(&sent), [received(CloseCode::AWAY, "tschüß")]);
    }
}

#[test]
fn close_frames_that_break_a_rule_fail_the_client_with_1002() {
    client_fails(b"\x88\x01\x03", &ProtocolError::TruncatedClosePayload, 1002);
    for code in [0, 999, 1004, 1005, 1006, 1015, 1016, 2999, 5000, u16::MAX] {
        let wire = [&b"\x88\x02"[..], &code.to_be_bytes()].concat();
        let error = ProtocolError::InvalidReceivedCloseCode { code };
        client_fails(&wire, &error, 1002);
    }
    let wire = b"\x88\x05\x03\xE8\xED\xA0\x80";
    client_fails(wire, &ProtocolError::CloseReasonNotUtf8, 1002);
}

#[test]
fn client_echoes_codes_that_may_travel_and_an_empty_close_empty() {
    for code in [1000_u16, 1001, 1011, 1014, 3000, 3999, 4000, 4999] {
        let mut client = End::client();
        client.receive(&[&b"\x88\x02"[..], &code.to_be_bytes()].concat());
        assert_eq!(sent_close_code(&client.sent()), Some(code));
        assert_eq!(client.connection.state(), State::Closed);
    }
    let mut client = End::client();
    assert_eq!(client.receive(b"\x88\x00"), [OwnedEvent::Close(None)]);
    assert_eq!(sent_frames(&client.sent())[0].1, b"");
}

#[test]
fn client_ignores_data_after_close() {
    let mut client = End::client();
    let events = client.receive(b"\x88\x00\x81\x04late\xFF\xFF");
    assert_eq!(events, [OwnedEvent::Close(None)]);
    assert_eq!(client.receive(b"\x81\x05later"), []);
}

#[test]
fn client_waits_for_the_answer_to_its_one_close() {
    let mut client = End::client();
    client.close(CloseCode::AWAY);
    assert_eq!(sent_close_code(&client.sent()), Some(1001));
    assert_eq!(client.connection.state(), State::Closing);
    client.close(CloseCode::NORMAL);
    let sent = client
        .connection
        .send(MessageKind::Text, b"late", &mut Vec::new());
    assert_eq!(sent, Err(SendError::Closing));
    let events = client.receive(b"\x81\x04late\x88\x02\x03\xE9");
    assert_eq!(events, [received(CloseCode::AWAY, "")]);
    assert_eq!(client.connection.state(), State::Closed);
    assert_eq!(client.sent(), b"");
}

#[test]
fn no_data_follows_our_answer_to_a_close() {
    for mut end in End::both() {
        end.receive_frame(end.peer_frame(Opcode::Close, ""));
        end.sent();
        let sent = end.connection.send(MessageKind::Binary, b"x", &mut end.out);
        assert_eq!(sent, Err(SendError::Closing));
        assert_eq!(end.sent(), b"");
    }
}

#[test]
fn nothing_is_processed_after_a_failure() {
    for mut end in End::both() {
        let mut wire = vec![0xF1];
        wire.extend(end.peer_frame(Opcode::Text, "late").to_bytes());
        let close = end.peer_frame(Opcode::Close, b"\x03\xE8");
        wire.extend(close.to_bytes());
        let failed = OwnedEvent::Failed(ProtocolError::ReservedBits);
        assert_eq!(end.receive(&wire), [failed]);
        assert_eq!(sent_close_code(&end.sent()), Some(1002));
        assert_eq!(end.receive_frame(close), []);
        let sent = end.connection.send(MessageKind::Text, b"x", &mut end.out);
        assert_eq!(sent, Err(SendError::Closing));
        assert_eq!(end.sent(), b"");
        assert_eq!(end.connection.poll_timeout(), None);
    }
}

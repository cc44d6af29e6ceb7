//! UTF-8 in text messages: refused at the first impossible byte.

use ws_proto::testing::{OwnedEvent, TestFrame, encode_all};
use ws_proto::{MessageKind, Opcode, ProtocolError};

use crate::support::{End, client_fails, server_fails};

fn failed() -> [OwnedEvent; 1] {
    [OwnedEvent::Failed(ProtocolError::TextNotUtf8)]
}

#[test]
fn t25_invalid_text_closes_1007() {
    for bad in [
        &b"\xED\xA0\x80"[..],
        b"\xC0\x80",
        b"\xF4\x90\x80\x80",
        b"\xFF",
        b"ok \x80",
        b"cut \xE2\x82",
        b"a long text, so that it is checked with vector instructions \xFF and goes on",
    ] {
        let frame = TestFrame::client(Opcode::Text, bad);
        server_fails(&frame.to_bytes(), &ProtocolError::TextNotUtf8, 1007);
    }
}

#[test]
fn t25_bad_byte_in_a_fragment_fails_before_the_next_is_sent() {
    let mut server = End::server();
    let frame = TestFrame::client(Opcode::Text, b"\xCE\xBA\xF4\x90").unfinished();
    assert_eq!(server.receive_frame(frame), failed());
}

/// Autobahn 6.4.3 and 6.4.4: one frame, which arrives in pieces.
#[test]
fn t25_bad_byte_fails_inside_a_frame_that_is_arriving() {
    let payload = b"\xCE\xBA\xE1\xBD\xB9\xCF\x83\xCE\xBC\xCE\xB5\xF4\x90\x80\x80edited";
    let wire = TestFrame::client(Opcode::Text, payload).to_bytes();
    // Header of six bytes, eleven good ones and F4; then 90 is too much.
    let mut server = End::server();
    assert_eq!(server.receive(&wire[..18]), []);
    assert_eq!(server.receive(&wire[18..19]), failed());
    // However it is cut.
    let mut server = End::server();
    assert_eq!(server.receive(&wire[..19]), failed());
}

#[test]
fn t25_character_split_over_fragments_is_accepted() {
    let text = "κόσμε €𝄞";
    for cut in 0..=text.len() {
        let (head, tail) = text.as_bytes().split_at(cut);
        let wire = encode_all(&[
            TestFrame::client(Opcode::Text, head).unfinished(),
            TestFrame::client(Opcode::Ping, b"\xFF"),
            TestFrame::client(Opcode::Continuation, tail),
        ]);
        let expected = [
            OwnedEvent::Ping(b"\xFF".to_vec()),
            OwnedEvent::Message(MessageKind::Text, text.as_bytes().to_vec()),
        ];
        assert_eq!(End::server().receive(&wire), expected);
    }
}

#[test]
fn t25_text_truncated_at_fin_fails() {
    let wire = encode_all(&[
        TestFrame::client(Opcode::Text, b"\xE2").unfinished(),
        TestFrame::client(Opcode::Continuation, b"\x82"),
    ]);
    assert_eq!(End::server().receive(&wire), failed());
    let wire = encode_all(&[
        TestFrame::client(Opcode::Text, b"\xE2").unfinished(),
        TestFrame::client(Opcode::Continuation, b""),
    ]);
    assert_eq!(End::server().receive(&wire), failed());
}

#[test]
fn binary_is_not_checked() {
    let frame = TestFrame::client(Opcode::Binary, b"\xFF\x80");
    let expected = OwnedEvent::Message(MessageKind::Binary, b"\xFF\x80".to_vec());
    assert_eq!(End::server().receive_frame(frame), [expected]);
}

#[test]
fn invalid_text_fails_the_client_with_1007() {
    let error = &ProtocolError::TextNotUtf8;
    client_fails(b"\x81\x03\xED\xA0\x80", error, 1007);
    client_fails(b"\x81\x02\xE2\x82", error, 1007);
    // In a fragment at once; at the end for want of a byte.
    client_fails(b"\x01\x02\xF4\x90", error, 1007);
    client_fails(b"\x01\x01\xE2\x80\x01\x82", error, 1007);
}

#[test]
fn client_accepts_a_character_split_over_fragments() {
    let events = End::client().receive(b"\x01\x01\xC3\x80\x01\xA4");
    let expected = OwnedEvent::Message(MessageKind::Text, "ä".as_bytes().to_vec());
    assert_eq!(events, [expected]);
}

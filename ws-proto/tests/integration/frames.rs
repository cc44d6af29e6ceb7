//! Single frames: the RFC's vectors, masks, reserved bits and opcodes, lengths.

use ws_proto::frame::Header;
use ws_proto::testing::{OwnedEvent, TestFrame, encode_all};
use ws_proto::{Config, MessageKind, Opcode, ProtocolError, Role};

use crate::support::{End, client_fails, fails, server_fails};

fn text(payload: &str) -> OwnedEvent {
    OwnedEvent::Message(MessageKind::Text, payload.as_bytes().to_vec())
}

// RFC 6455 §5.7, in its order.

#[test]
fn rfc_unmasked_text_reaches_the_client() {
    assert_eq!(End::client().receive(b"\x81\x05Hello"), [text("Hello")]);
}

#[test]
fn rfc_masked_text_reaches_the_server() {
    let wire = [
        0x81, 0x85, 0x37, 0xfa, 0x21, 0x3d, 0x7f, 0x9f, 0x4d, 0x51, 0x58,
    ];
    assert_eq!(End::server().receive(&wire), [text("Hello")]);
}

#[test]
fn rfc_fragmented_text_is_put_together() {
    let mut client = End::client();
    assert_eq!(client.receive(b"\x01\x03Hel"), []);
    assert_eq!(client.receive(b"\x80\x02lo"), [text("Hello")]);
}

#[test]
fn rfc_ping_is_answered_with_its_payload() {
    let mut client = End::client();
    assert_eq!(
        client.receive(b"\x89\x05Hello"),
        [OwnedEvent::Ping(b"Hello".to_vec())]
    );
    let mut server = End::server();
    let answer = client.sent();
    assert_eq!(answer[..2], [0x8a, 0x85]);
    assert_eq!(
        server.receive(&answer),
        [OwnedEvent::Pong(b"Hello".to_vec())]
    );
}

#[test]
fn rfc_masked_pong_reaches_the_server() {
    let wire = [
        0x8a, 0x85, 0x37, 0xfa, 0x21, 0x3d, 0x7f, 0x9f, 0x4d, 0x51, 0x58,
    ];
    let expected = [OwnedEvent::Pong(b"Hello".to_vec())];
    assert_eq!(End::server().receive(&wire), expected);
}

#[test]
fn rfc_binary_of_256_bytes_has_a_16_bit_length() {
    let mut wire = vec![0x82, 0x7E, 0x01, 0x00];
    wire.extend([9; 256]);
    let events = End::client().receive(&wire);
    assert_eq!(
        events,
        [OwnedEvent::Message(MessageKind::Binary, vec![9; 256])]
    );
}

#[test]
fn rfc_binary_of_64_kib_has_a_64_bit_length() {
    let mut wire = vec![0x82, 0x7F, 0, 0, 0, 0, 0, 1, 0, 0];
    wire.extend(vec![9; 65_536]);
    let events = End::client().receive(&wire);
    assert_eq!(
        events,
        [OwnedEvent::Message(MessageKind::Binary, vec![9; 65_536])]
    );
}

#[test]
fn t20_unmasked_client_frame_fails_at_its_second_byte() {
    server_fails(&[0x81, 0x05], &ProtocolError::UnmaskedFrame, 1002);
    server_fails(b"\x81\x05Hello", &ProtocolError::UnmaskedFrame, 1002);
    // The two bytes may come apart.
    let mut server = End::server();
    assert_eq!(server.receive(&[0x81]), []);
    assert_eq!(
        server.receive(&[0x05]),
        [OwnedEvent::Failed(ProtocolError::UnmaskedFrame)]
    );
}

#[test]
fn masked_server_frame_fails_the_client_with_1002() {
    client_fails(&[0x81, 0x85], &ProtocolError::MaskedFrame, 1002);
    let frame = TestFrame::client(Opcode::Text, "Hello").to_bytes();
    client_fails(&frame, &ProtocolError::MaskedFrame, 1002);
}

#[test]
fn t26_reserved_bits_fail_with_1002() {
    for bit in [0x10, 0x20, 0x40] {
        server_fails(&[0x81 | bit], &ProtocolError::ReservedBits, 1002);
        server_fails(&[0x89 | bit], &ProtocolError::ReservedBits, 1002);
    }
}

#[test]
fn negotiated_bit_is_allowed_on_data_and_never_on_control() {
    let allowed = Header::decode(&[0xC1, 0x00], Role::Server, 0x40)
        .unwrap()
        .unwrap();
    assert_eq!(allowed.0.rsv, 0x40);
    let refused = Header::decode(&[0xC9, 0x00], Role::Server, 0x40);
    assert_eq!(refused, Err(ProtocolError::ReservedBits));
    let other = Header::decode(&[0xA1, 0x00], Role::Server, 0x40);
    assert_eq!(other, Err(ProtocolError::ReservedBits));
}

#[test]
fn t26_reserved_opcodes_fail_with_1002() {
    for opcode in [3, 4, 5, 6, 7, 0xB, 0xC, 0xD, 0xE, 0xF] {
        server_fails(
            &[0x80 | opcode],
            &ProtocolError::ReservedOpcode { opcode },
            1002,
        );
    }
}

#[test]
fn t26_fragmented_control_frame_fails_with_1002() {
    for opcode in [0x8, 0x9, 0xA] {
        server_fails(&[opcode], &ProtocolError::FragmentedControlFrame, 1002);
    }
}

#[test]
fn t26_control_frame_over_125_bytes_fails_with_1002() {
    for opcode in [0x88, 0x89, 0x8A] {
        for len in [0xFE, 0xFF] {
            server_fails(&[opcode, len], &ProtocolError::ControlFrameTooLong, 1002);
        }
    }
    let ping = TestFrame::client(Opcode::Ping, [1; 125]);
    assert_eq!(
        End::server().receive_frame(ping),
        [OwnedEvent::Ping(vec![1; 125])]
    );
}

fn with_64_bit_length(len: u64) -> Vec<u8> {
    let mut wire = vec![0x82, 0xFF];
    wire.extend(len.to_be_bytes());
    wire.extend([0; 4]);
    wire
}

#[test]
fn t21_length_over_the_limit_closes_1009_before_the_payload() {
    for size in [(1 << 20) + 1, 1 << 31, (1 << 32) + 5, (1 << 63) - 1] {
        let error = ProtocolError::MessageTooBig { size, max: 1 << 20 };
        server_fails(&with_64_bit_length(size), &error, 1009);
    }
}

#[test]
fn t21_length_2_pow_63_closes_1002() {
    for size in [1 << 63, u64::MAX - 3, u64::MAX] {
        server_fails(
            &with_64_bit_length(size),
            &ProtocolError::LengthOverflow,
            1002,
        );
    }
}

#[test]
fn t21_non_minimal_length_closes_1002() {
    server_fails(
        &[0x82, 0xFE, 0, 125],
        &ProtocolError::NonMinimalLength,
        1002,
    );
    server_fails(&[0x82, 0xFE, 0, 0], &ProtocolError::NonMinimalLength, 1002);
    server_fails(
        &with_64_bit_length(0xFFFF),
        &ProtocolError::NonMinimalLength,
        1002,
    );
    server_fails(
        &with_64_bit_length(5),
        &ProtocolError::NonMinimalLength,
        1002,
    );
}

#[test]
fn inv20_message_size_is_limited_exactly() {
    let config = || Config::default().with_max_message_size(1000);
    for size in [999, 1000] {
        let frame = TestFrame::client(Opcode::Binary, vec![1; size]);
        let events = End::server_with(config()).receive_frame(frame);
        assert_eq!(
            events,
            [OwnedEvent::Message(MessageKind::Binary, vec![1; size])]
        );
    }
    let error = ProtocolError::MessageTooBig {
        size: 1001,
        max: 1000,
    };
    let frame = TestFrame::client(Opcode::Binary, vec![1; 1001]);
    fails(End::server_with(config()), &frame.to_bytes(), &error, 1009);
}

#[test]
fn t21_pong_between_fragments_does_not_reset_the_size() {
    let server = End::server_with(Config::default().with_max_message_size(1000));
    let wire = encode_all(&[
        TestFrame::client(Opcode::Binary, vec![1; 600]).unfinished(),
        TestFrame::client(Opcode::Pong, ""),
        TestFrame::client(Opcode::Continuation, vec![1; 401]),
    ]);
    fails(
        server,
        &wire,
        &ProtocolError::MessageTooBig {
            size: 1001,
            max: 1000,
        },
        1009,
    );
}

#[test]
fn valid_messages_ahead_of_a_fault_are_delivered_first() {
    let mut wire = TestFrame::client(Opcode::Text, "one").to_bytes();
    wire.extend(TestFrame::client(Opcode::Text, "two").to_bytes());
    wire.extend([0xF1, 0x80]);
    let events = End::server().receive(&wire);
    let failed = OwnedEvent::Failed(ProtocolError::ReservedBits);
    assert_eq!(events, [text("one"), text("two"), failed]);
}

#[test]
fn text_sent_must_be_utf8() {
    let mut server = End::server();
    let mut out = Vec::new();
    let sent = server.connection.send(MessageKind::Text, b"\xFF", &mut out);
    assert_eq!(sent, Err(ws_proto::SendError::NotUtf8));
    assert!(out.is_empty());
}

#[test]
fn client_masks_each_frame_with_another_key() {
    let mut client = End::client();
    let mut out = Vec::new();
    for _ in 0..2 {
        client
            .connection
            .send(MessageKind::Text, b"Hello", &mut out)
            .unwrap();
    }
    assert_eq!(out.len(), 22);
    assert_ne!(out[2..6], out[13..17]);
    assert_eq!(End::server().receive(&out), [text("Hello"), text("Hello")]);
}

#[test]
fn reserved_bits_fail_the_client_with_1002() {
    for bit in [0x10, 0x20, 0x40] {
        client_fails(&[0x81 | bit], &ProtocolError::ReservedBits, 1002);
        client_fails(&[0x89 | bit], &ProtocolError::ReservedBits, 1002);
    }
}

#[test]
fn reserved_opcodes_fail_the_client_with_1002() {
    for opcode in [3, 4, 5, 6, 7, 0xB, 0xC, 0xD, 0xE, 0xF] {
        let error = ProtocolError::ReservedOpcode { opcode };
        client_fails(&[0x80 | opcode], &error, 1002);
    }
}

#[test]
fn fragmented_control_frame_fails_the_client_with_1002() {
    for opcode in [0x8, 0x9, 0xA] {
        client_fails(&[opcode], &ProtocolError::FragmentedControlFrame, 1002);
    }
}

#[test]
fn control_frame_over_125_bytes_fails_the_client_with_1002() {
    for opcode in [0x88, 0x89, 0x8A] {
        for len in [0x7E, 0x7F] {
            client_fails(&[opcode, len], &ProtocolError::ControlFrameTooLong, 1002);
        }
    }
    let ping = TestFrame::server(Opcode::Ping, [1; 125]);
    assert_eq!(
        End::client().receive_frame(ping),
        [OwnedEvent::Ping(vec![1; 125])]
    );
}

#[test]
fn lengths_that_break_a_rule_fail_the_client_with_1002() {
    for wire in [&b"\x82\x7E\x00\x7D"[..], b"\x82\x7F\0\0\0\0\0\0\xFF\xFF"] {
        client_fails(wire, &ProtocolError::NonMinimalLength, 1002);
    }
    let wire = b"\x82\x7F\x80\0\0\0\0\0\0\0";
    client_fails(wire, &ProtocolError::LengthOverflow, 1002);
}

#[test]
fn length_over_the_limit_fails_the_client_with_1009_before_the_payload() {
    let wire = b"\x82\x7F\0\0\0\0\0\x10\0\x01";
    let (size, max) = ((1 << 20) + 1, 1 << 20);
    client_fails(wire, &ProtocolError::MessageTooBig { size, max }, 1009);
}

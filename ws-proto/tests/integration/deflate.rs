//! Compressed messages (RFC 7692).

use std::io::Write as _;

use flate2::Compression;
use flate2::write::DeflateEncoder;
use proptest::prelude::*;
use ws_proto::testing::{
    OwnedEvent, TestFrame, agree, cut, deflate_config, encode_all, message, sizes,
};
use ws_proto::{
    CloseCode, CloseFrame, Config, DeflateConfig, DeflateParams, EncodedMessage, MessageKind,
    Opcode, ProtocolError, Role, WindowBits,
};

use crate::deflate_reference::{Decoded, decode_message};
use crate::support::{End, fails, seconds, sent_frames};

/// "Hello", compressed (RFC 7692 §7.2.3.1).
const HELLO: [u8; 7] = [0xF2, 0x48, 0xCD, 0xC9, 0xC9, 0x07, 0x00];

fn with_takeover() -> DeflateConfig {
    DeflateConfig::default()
        .with_min_size(1)
        .with_server_context_takeover(true)
        .with_client_context_takeover(true)
}

/// A client and a server with the same settings.
fn pair(config: DeflateConfig, max_message_size: usize) -> (End, End) {
    let (clients, servers) = agree(&config, &config);
    let config = Config::default()
        .with_deflate(Some(config))
        .with_max_message_size(max_message_size);
    let client = End::client_with(config.clone()).with_deflate(clients);
    (client, End::server_with(config).with_deflate(servers))
}

fn server(max_message_size: usize) -> End {
    pair(with_takeover(), max_message_size).1
}

/// A message of that many zeros, as a peer that does its best to harm compresses it.
fn zeros(len: usize) -> Vec<u8> {
    let mut stream = DeflateEncoder::new(Vec::new(), Compression::best());
    stream
        .write_all(&vec![0; len])
        .and_then(|()| stream.flush())
        .expect("a vector takes everything");
    let mut bytes = stream.get_ref().clone();
    bytes.truncate(bytes.len() - 4);
    bytes
}

fn compressed(payload: impl Into<Vec<u8>>) -> TestFrame {
    TestFrame::client(Opcode::Binary, payload).compressed()
}

fn continuation(payload: impl Into<Vec<u8>>) -> TestFrame {
    TestFrame::client(Opcode::Continuation, payload)
}

fn text(text: &str) -> OwnedEvent {
    OwnedEvent::Message(MessageKind::Text, text.into())
}

fn binary(bytes: &[u8]) -> OwnedEvent {
    OwnedEvent::Message(MessageKind::Binary, bytes.into())
}

proptest! {
    /// Whatever was agreed upon, and however the wire cuts it, what is sent arrives.
    #[test]
    fn prop_compressed_messages_arrive_as_they_were_sent(
        configs in (deflate_config(), deflate_config()),
        messages in prop::collection::vec((any::<bool>(), message()), 1..12),
        sizes in sizes(),
    ) {
        let (clients, servers) = agree(&configs.0, &configs.1);
        let config = |deflate| Config::default().with_deflate(Some(deflate));
        let mut client = End::client_with(config(configs.0)).with_deflate(clients);
        let mut server = End::server_with(config(configs.1)).with_deflate(servers);
        for (by_client, (kind, payload)) in messages {
            let (from, to) = match by_client {
                true => (&mut client, &mut server),
                false => (&mut server, &mut client),
            };
            from.connection.send(kind, &payload, &mut from.out).unwrap();
            let sent = from.sent();
            let mut events = Vec::new();
            for range in cut(sent.len(), &sizes) {
                events.extend(to.receive(&sent[range]));
            }
            prop_assert_eq!(events, [OwnedEvent::Message(kind, payload)]);
        }
    }

    /// Any bytes with the bit set: an event or a failure, never a panic, never over the limit.
    #[test]
    fn prop_t24_arbitrary_compressed_bytes_never_panic(
        payloads in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..60), 1..5),
        sizes in sizes(),
    ) {
        let mut server = server(100);
        let frames: Vec<_> = payloads.into_iter().map(compressed).collect();
        let wire = encode_all(&frames);
        for range in cut(wire.len(), &sizes) {
            for event in server.receive(&wire[range]) {
                if let OwnedEvent::Message(_, payload) = event {
                    prop_assert!(payload.len() <= 100);
                }
            }
        }
    }

    /// What we send never refers back further than the window agreed upon, that of 8 bits included,
    /// and an independent decoder reads it.
    #[test]
    fn prop_compressor_stays_inside_its_window(
        bits in 8_u8..=15, level in 1_u8..=9, takeover: bool,
        period in 100_usize..400, seed: u64, count in 1_usize..4,
    ) {
        let config = with_takeover()
            .with_level(ws_proto::DeflateLevel::new(level).unwrap())
            .with_server_context_takeover(takeover)
            .with_server_max_window_bits(WindowBits::new(bits).unwrap());
        let (_, mut server) = pair(config, 1 << 20);
        // Noise that repeats itself at a distance around that of the smallest window.
        let noise: Vec<u8> = (0..period as u64)
            .map(|index| (seed ^ index).wrapping_mul(0x9E37_79B9_7F4A_7C15).to_le_bytes()[7])
            .collect();
        let payload = noise.repeat(4);
        let mut decoded = Decoded::default();
        for _ in 0..count {
            server.connection.send(MessageKind::Binary, &payload, &mut server.out).unwrap();
            let sent = server.sent();
            let header = if sent[1] == 126 { 4 } else { 2 };
            match sent[0] {
                0xC2 if takeover => decode_message(&sent[header..], &mut decoded),
                0xC2 => {
                    let before = decoded.bytes.len();
                    let mut alone = Decoded::default();
                    decode_message(&sent[header..], &mut alone);
                    decoded.bytes.extend(alone.bytes);
                    decoded.max_distance = decoded.max_distance.max(alone.max_distance);
                    prop_assert_eq!(&decoded.bytes[before..], &payload);
                }
                _ => decoded.bytes.extend(&sent[header..]),
            }
        }
        prop_assert_eq!(decoded.bytes, payload.repeat(count));
        prop_assert!(decoded.max_distance <= 1 << bits, "{} back", decoded.max_distance);
    }
}

#[test]
fn compressed_message_without_a_byte_is_empty() {
    let mut server = server(1 << 20);
    let fragments = [compressed([]).unfinished(), continuation([])];
    for wire in [compressed([]).to_bytes(), encode_all(&fragments)] {
        assert_eq!(server.receive(&wire), [binary(b"")]);
        assert_eq!(server.receive_frame(compressed(HELLO)), [binary(b"Hello")]);
    }
}

#[test]
fn message_in_one_frame_and_in_fragments_inflates() {
    let mut server = server(1 << 20);
    let whole = TestFrame::client(Opcode::Text, HELLO).compressed();
    assert_eq!(server.receive_frame(whole), [text("Hello")]);
    // RFC 7692 §7.2.3.1: the bit is on the first fragment only.
    let first = TestFrame::client(Opcode::Text, &HELLO[..3])
        .compressed()
        .unfinished();
    assert_eq!(server.receive_frame(first), []);
    let ping = TestFrame::client(Opcode::Ping, "between");
    assert_eq!(
        server.receive_frame(ping),
        [OwnedEvent::Ping("between".into())]
    );
    assert_eq!(
        server.receive_frame(continuation(&HELLO[3..])),
        [text("Hello")]
    );
}

#[test]
fn later_message_may_refer_to_an_earlier_one() {
    // RFC 7692 §7.2.3.2: the second "Hello" refers to the first.
    let mut server = server(1 << 20);
    let hello = TestFrame::client(Opcode::Text, HELLO).compressed();
    let again = TestFrame::client(Opcode::Text, [0xF2, 0x00, 0x11, 0x00, 0x00]).compressed();
    assert_eq!(server.receive_frame(hello.clone()), [text("Hello")]);
    assert_eq!(server.receive_frame(again.clone()), [text("Hello")]);
    // Without context takeover there is nothing to refer to.
    let (_, mut forgetful) = pair(DeflateConfig::default(), 1 << 20);
    assert_eq!(forgetful.receive_frame(hello), [text("Hello")]);
    let events = forgetful.receive_frame(again);
    assert_eq!(
        events,
        [OwnedEvent::Failed(ProtocolError::InvalidDeflateData)]
    );
}

#[test]
fn stored_block_final_block_and_two_blocks_inflate() {
    for payload in [
        // RFC 7692 §7.2.3.3: a block without compression.
        &[
            0x00, 0x05, 0x00, 0xFA, 0xFF, 0x48, 0x65, 0x6C, 0x6C, 0x6F, 0x00,
        ][..],
        // RFC 7692 §7.2.3.4: a final block, and the beginning of the empty one behind it.
        &[0xF3, 0x48, 0xCD, 0xC9, 0xC9, 0x07, 0x00, 0x00],
        // The same from a peer that ends its stream and adds nothing.
        &[0xF3, 0x48, 0xCD, 0xC9, 0xC9, 0x07, 0x00],
        // RFC 7692 §7.2.3.5: two blocks in a message.
        &[
            0xF2, 0x48, 0x05, 0x00, 0x00, 0x00, 0xFF, 0xFF, 0xCA, 0xC9, 0xC9, 0x07, 0x00,
        ],
    ] {
        let mut server = server(1 << 20);
        for _ in 0..3 {
            let frame = TestFrame::client(Opcode::Text, payload).compressed();
            assert_eq!(
                server.receive_frame(frame),
                [text("Hello")],
                "{payload:02x?}"
            );
        }
        let frame = TestFrame::client(Opcode::Text, HELLO).compressed();
        assert_eq!(
            server.receive_frame(frame),
            [text("Hello")],
            "{payload:02x?}"
        );
    }
}

#[test]
fn empty_message_is_a_single_zero_byte() {
    // RFC 7692 §7.2.3.6.
    let mut server = server(1 << 20);
    for _ in 0..3 {
        assert_eq!(server.receive_frame(compressed([0])), [binary(b"")]);
    }
    // Uncompressed ones need no special byte, and are what we send.
    server
        .connection
        .send(MessageKind::Text, b"", &mut server.out)
        .unwrap();
    assert_eq!(server.sent(), [0x81, 0]);
}

#[test]
fn t24_bomb_fails_with_1009_as_soon_as_it_passes_the_limit() {
    let bomb = zeros(10 << 20);
    assert!(bomb.len() < 12 << 10, "{} bytes of wire", bomb.len());
    let too_big = ProtocolError::MessageTooBig {
        size: 65_537,
        max: 65_536,
    };
    fails(
        server(65_536),
        &compressed(&bomb[..]).to_bytes(),
        &too_big,
        1009,
    );
    // The same in a hundred fragments, long before the last of them.
    let mut server = server(65_536);
    let mut pieces = bomb.chunks(bomb.len().div_ceil(100));
    let first = compressed(pieces.next().unwrap()).unfinished();
    let mut events = server.receive_frame(first);
    for piece in pieces {
        if events.is_empty() {
            events = server.receive_frame(continuation(piece).unfinished());
        }
    }
    assert_eq!(events, [OwnedEvent::Failed(too_big)]);
}

#[test]
fn t24_message_of_exactly_the_limit_is_accepted_and_one_more_is_not() {
    for (len, fits) in [(65_536, true), (65_537, false)] {
        let frame = compressed(zeros(len));
        let events = server(65_536).receive_frame(frame);
        if fits {
            assert_eq!(events, [binary(&vec![0; len])]);
        } else {
            let error = ProtocolError::MessageTooBig {
                size: 65_537,
                max: 65_536,
            };
            assert_eq!(events, [OwnedEvent::Failed(error)]);
        }
    }
}

#[test]
fn t24_declared_size_of_a_compressed_message_has_its_limit_too() {
    let declared = 65_536 + 8192 + 1024;
    let header = |len: u32| {
        let mut wire = vec![0xC2, 0xFF, 0, 0, 0, 0];
        wire.extend(len.to_be_bytes());
        wire.extend([0; 4]);
        wire
    };
    assert_eq!(server(65_536).receive(&header(declared)), []);
    let error = ProtocolError::MessageTooBig {
        size: u64::from(declared) + 1,
        max: 65_536,
    };
    fails(server(65_536), &header(declared + 1), &error, 1009);
}

#[test]
fn noise_of_the_limit_s_size_arrives_compressed() {
    // A compressor that finds nothing makes it bigger: the limit is on what comes out.
    let noise: Vec<u8> = (0_u64..65_536)
        .map(|index| index.wrapping_mul(0x9E37_79B9_7F4A_7C15).to_le_bytes()[7])
        .map(|byte| byte ^ byte.wrapping_mul(151).rotate_left(3))
        .collect();
    let (mut client, mut server) = pair(with_takeover(), noise.len());
    client
        .connection
        .send(MessageKind::Binary, &noise, &mut client.out)
        .unwrap();
    assert_eq!(server.receive(&client.sent()), [binary(&noise)]);
}

#[test]
fn t24_reserved_bit_without_agreement_or_out_of_place_fails_with_1002() {
    let error = ProtocolError::ReservedBits;
    fails(End::server(), &compressed(HELLO).to_bytes(), &error, 1002);
    let events = End::client().receive(&[0xC1, 0x07]);
    assert_eq!(events, [OwnedEvent::Failed(error.clone())]);
    let fragments = [
        compressed(&HELLO[..2]).unfinished(),
        continuation(&HELLO[2..]).compressed(),
    ];
    fails(server(100), &encode_all(&fragments), &error, 1002);
    for opcode in [Opcode::Ping, Opcode::Pong, Opcode::Close] {
        let frame = TestFrame::client(opcode, "").compressed();
        fails(server(100), &frame.to_bytes(), &error, 1002);
    }
    // The other two bits mean nothing to this extension either.
    for rsv in [0x20, 0x10, 0x60] {
        let frame = TestFrame {
            rsv,
            ..compressed(HELLO)
        };
        fails(server(100), &frame.to_bytes(), &error, 1002);
    }
}

#[test]
fn t24_bad_and_truncated_streams_fail_with_1007() {
    let error = ProtocolError::InvalidDeflateData;
    // A block type that does not exist; a stored block whose length is wrong; cut inside a block.
    for payload in [&[0x06][..], &[0x00, 0x05, 0x00, 0x00, 0x00], &HELLO[..4]] {
        fails(server(100), &compressed(payload).to_bytes(), &error, 1007);
    }
}

#[test]
fn t25_compressed_text_fails_at_the_first_bad_byte() {
    let mut server = server(1 << 20);
    // A stored block of three bytes, the second of which is impossible, and no end of the message.
    let block = [0x00, 0x03, 0x00, 0xFC, 0xFF, 0xCE, 0x20];
    let frame = TestFrame::client(Opcode::Text, block)
        .compressed()
        .unfinished();
    let events = server.receive_frame(frame);
    assert_eq!(events, [OwnedEvent::Failed(ProtocolError::TextNotUtf8)]);
}

// The error depended on whether the bad block came along with the bytes before it.
#[test]
fn fault_before_bad_data_is_told_wherever_the_wire_is_cut() {
    // A stored block, and the beginning of a block of a kind that does not exist.
    let followed_by_bad_data = |bytes: &[u8]| {
        let mut payload = vec![0, bytes.len() as u8, 0, !(bytes.len() as u8), 0xFF];
        payload.extend(bytes);
        payload.push(0x07);
        payload
    };
    let max = 4;
    let cases: [(&[u8], ProtocolError); 3] = [
        (b"abcd", ProtocolError::InvalidDeflateData),
        (b"abc\xFF", ProtocolError::TextNotUtf8),
        (b"abcde", ProtocolError::MessageTooBig { size: 5, max }),
    ];
    for (bytes, error) in cases {
        let frame = TestFrame::client(Opcode::Text, followed_by_bad_data(bytes)).compressed();
        let wire = frame.to_bytes();
        for sizes in [[1], [wire.len()], [wire.len() - 1]] {
            let mut server = server(max);
            let mut events = Vec::new();
            for range in cut(wire.len(), &sizes) {
                events.extend(server.receive(&wire[range]));
            }
            assert_eq!(events, [OwnedEvent::Failed(error.clone())], "{sizes:?}");
        }
    }
}

#[test]
fn uncompressed_and_compressed_messages_alternate() {
    let (mut client, mut server) = pair(with_takeover(), 1 << 20);
    let send = |end: &mut End, text: &[u8], plain: bool| {
        let (connection, out) = (&mut end.connection, &mut end.out);
        match plain {
            true => connection
                .send_uncompressed(MessageKind::Text, text, out)
                .unwrap(),
            false => connection.send(MessageKind::Text, text, out).unwrap(),
        }
        end.sent()
    };
    for round in 0..6 {
        let wire = send(&mut client, b"a word or two", round % 2 == 0);
        assert_eq!(wire[0], if round % 2 == 0 { 0x81 } else { 0xC1 });
        assert_eq!(server.receive(&wire), [text("a word or two")]);
        let wire = send(&mut server, b"and an answer", round % 3 == 0);
        assert_eq!(client.receive(&wire), [text("and an answer")]);
    }
}

#[test]
fn only_what_is_long_enough_is_compressed() {
    let config = DeflateConfig::default().with_min_size(20);
    let (_, mut server) = pair(config, 1 << 20);
    let mut first_byte = |payload: &[u8]| {
        server
            .connection
            .send(MessageKind::Binary, payload, &mut server.out)
            .unwrap();
        server.sent()[0]
    };
    assert_eq!(first_byte(&[7; 19]), 0x82);
    assert_eq!(first_byte(&[7; 20]), 0xC2);
    // Each byte once: nothing to find, which is no reason.
    let noise: Vec<u8> = (0..=255).collect();
    assert_eq!(first_byte(&noise), 0xC2);
}

#[test]
fn repeated_messages_shrink_with_context_takeover() {
    let message: Vec<u8> = (0..=255).collect();
    let mut sizes = Vec::new();
    let (mut client, mut server) = pair(with_takeover(), 1 << 20);
    for _ in 0..2 {
        server
            .connection
            .send(MessageKind::Binary, &message, &mut server.out)
            .unwrap();
        let sent = server.sent();
        assert_eq!(client.receive(&sent), [binary(&message)]);
        sizes.push(sent.len());
    }
    assert!(sizes[1] < 32 && sizes[0] > 256, "{sizes:?}");
}

#[test]
fn shared_message_is_compressed_once_where_parameters_allow() {
    let message = EncodedMessage::new(MessageKind::Text, &[b'a'; 1000]);
    let frame_of = |end: &mut End| end.connection.frame_of(&message).unwrap();

    let (mut client, mut one) = pair(DeflateConfig::default(), 1 << 20);
    let (_, mut two) = pair(DeflateConfig::default(), 1 << 20);
    let (first, second) = (frame_of(&mut one), frame_of(&mut two));
    assert_eq!(first[0], 0xC1);
    assert_eq!(first.as_ptr(), second.as_ptr());
    assert_eq!(client.receive(&first), [text(&"a".repeat(1000))]);

    // Another window has a frame of its own, and so has each connection with context takeover.
    let smaller = DeflateConfig::default().with_server_max_window_bits(WindowBits::MIN);
    let (mut client, mut three) = pair(smaller, 1 << 20);
    let third = frame_of(&mut three);
    assert_ne!(third.as_ptr(), first.as_ptr());
    assert_eq!(client.receive(&third), [text(&"a".repeat(1000))]);
    let (mut client, mut four) = pair(with_takeover(), 1 << 20);
    for _ in 0..2 {
        let own = frame_of(&mut four);
        assert_eq!(client.receive(&own), [text(&"a".repeat(1000))]);
    }

    // Who agreed upon nothing gets the plain frame; so does everybody if it is a secret or empty.
    assert_eq!(
        frame_of(&mut End::server()).as_ptr(),
        message.as_bytes().as_ptr()
    );
    for plain in [
        EncodedMessage::new_uncompressed(MessageKind::Text, &[b'a'; 1000]),
        EncodedMessage::new(MessageKind::Text, b""),
    ] {
        let frame = one.connection.frame_of(&plain).unwrap();
        assert_eq!(frame.as_ptr(), plain.as_bytes().as_ptr());
    }
    // A client masks, so it shares nothing.
    let frame = frame_of(&mut client);
    assert_eq!(one.receive(&frame), [text(&"a".repeat(1000))]);
}

#[test]
fn frame_holds_no_more_memory_than_it_is_long() {
    let (_, mut server) = pair(with_takeover(), 1 << 20);
    let message = EncodedMessage::new(MessageKind::Text, &vec![b'x'; 1 << 20]);
    let frame = server.connection.frame_of(&message).unwrap();
    let len = frame.len();
    let room = frame.try_into_mut().unwrap().capacity();
    assert!(room <= len + 64, "{len} bytes hold {room}");
}

#[test]
fn closing_connection_neither_inflates_nor_compresses() {
    let (mut client, mut server) = pair(with_takeover(), 1 << 20);
    let message = EncodedMessage::new(MessageKind::Text, &[b'a'; 1000]);
    let frame = client.connection.frame_of(&message).unwrap();
    server.close(CloseCode::NORMAL);
    assert_eq!(server.receive(&frame), []);
    assert_eq!(
        server.connection.frame_of(&message),
        Err(ws_proto::SendError::Closing)
    );
    // Nor is rubbish looked at; the close frame behind it is.
    assert_eq!(server.receive_frame(compressed([0x06])), []);
    let close = TestFrame::client(Opcode::Close, "");
    assert_eq!(server.receive_frame(close), [OwnedEvent::Close(None)]);
}

#[test]
fn parameters_say_what_was_agreed_upon() {
    let config = DeflateConfig::default()
        .with_client_context_takeover(true)
        .with_client_max_window_bits(WindowBits::new(10).unwrap());
    let (_, params): (_, DeflateParams) = agree(&config, &config);
    assert!(params.context_takeover(Role::Client) && !params.context_takeover(Role::Server));
    assert_eq!(params.max_window_bits(Role::Client).get(), 10);
    assert_eq!(params.max_window_bits(Role::Server), WindowBits::MAX);
}

/// The payloads of RFC 7692 §7.2.3 that stand for "Hello", each by itself.
const HELLOS: [&[u8]; 4] = [
    &HELLO,
    &[
        0x00, 0x05, 0x00, 0xFA, 0xFF, 0x48, 0x65, 0x6C, 0x6C, 0x6F, 0x00,
    ],
    &[0xF3, 0x48, 0xCD, 0xC9, 0xC9, 0x07, 0x00, 0x00],
    &[
        0xF2, 0x48, 0x05, 0x00, 0x00, 0x00, 0xFF, 0xFF, 0xCA, 0xC9, 0xC9, 0x07, 0x00,
    ],
];

fn client(max_message_size: usize) -> End {
    pair(with_takeover(), max_message_size).0
}

/// The frames of RFC 7692 §7.2.3, byte for byte.
#[test]
fn rfc_compressed_frames_reach_the_client() {
    for payload in HELLOS {
        let header = [0xC1, u8::try_from(payload.len()).expect("it is short")];
        let wire = [&header[..], payload].concat();
        assert_eq!(client(100).receive(&wire), [text("Hello")], "{wire:02x?}");
    }
    let mut client = client(100);
    assert_eq!(client.receive(b"\x41\x03\xF2\x48\xCD"), []);
    assert_eq!(client.receive(b"\x80\x04\xC9\xC9\x07\x00"), [text("Hello")]);
    // It refers to the message before.
    assert_eq!(
        client.receive(b"\xC1\x05\xF2\x00\x11\x00\x00"),
        [text("Hello")]
    );
    assert_eq!(client.receive(b"\xC1\x01\x00"), [text("")]);
}

#[test]
fn rfc_compressed_payloads_reach_the_server_in_any_fragments() {
    for payload in HELLOS {
        for cut in 0..=payload.len() {
            let frames = [
                TestFrame::client(Opcode::Text, &payload[..cut])
                    .compressed()
                    .unfinished(),
                continuation(&payload[cut..]),
            ];
            let events = server(100).receive(&encode_all(&frames));
            assert_eq!(events, [text("Hello")], "{payload:02x?} cut at {cut}");
        }
    }
}

#[test]
fn message_of_several_fragments_ends_with_an_empty_one() {
    // RFC 7692 §7.2.3.6: who does not know the end in advance sends an empty block at last.
    for mut end in [client(100), server(100)] {
        let frames = [
            end.peer_frame(Opcode::Text, &HELLO[..6])
                .compressed()
                .unfinished(),
            end.peer_frame(Opcode::Continuation, &HELLO[6..])
                .unfinished(),
            end.peer_frame(Opcode::Continuation, ""),
        ];
        assert_eq!(end.receive(&encode_all(&frames)), [text("Hello")]);
    }
}

#[test]
fn reserved_bit_out_of_place_fails_the_client_with_1002() {
    let error = ProtocolError::ReservedBits;
    fails(End::client(), &[0xC1], &error, 1002);
    let wire = b"\x41\x03\xF2\x48\xCD\xC0\x04\xC9\xC9\x07\x00";
    fails(client(100), wire, &error, 1002);
    // Neither does the bit begin in the middle of a message.
    fails(client(100), b"\x01\x01H\xC0\x01\x00", &error, 1002);
    for first in [0xC8, 0xC9, 0xCA, 0xA1, 0x91, 0xE1, 0xF1] {
        fails(client(100), &[first], &error, 1002);
    }
}

#[test]
fn compressed_data_that_breaks_a_rule_fails_the_client() {
    let error = ProtocolError::InvalidDeflateData;
    fails(client(100), b"\xC2\x01\x06", &error, 1007);
    let wire = b"\xC2\x05\x00\x05\x00\x00\x00";
    fails(client(100), wire, &error, 1007);
    // A text that is not UTF-8 once it is inflated: the same rules as ever.
    let wire = b"\xC1\x07\x00\x01\x00\xFE\xFF\xFF\x00";
    fails(client(100), wire, &ProtocolError::TextNotUtf8, 1007);
    let frame = TestFrame::server(Opcode::Binary, zeros(10_000)).compressed();
    let (size, max) = (101, 100);
    let error = ProtocolError::MessageTooBig { size, max };
    fails(client(100), &frame.to_bytes(), &error, 1009);
}

#[test]
fn control_frames_are_not_compressed() {
    for mut end in <[End; 2]>::from(pair(with_takeover(), 1 << 20)) {
        end.receive_frame(end.peer_frame(Opcode::Ping, [b'a'; 125]));
        end.pass(seconds(25));
        let frame = CloseFrame::new(CloseCode::NORMAL, "a".repeat(123));
        end.connection.close(Some(frame), end.now);
        end.connection.poll_transmit(&mut end.out);
        let frames = sent_frames(&end.sent());
        assert_eq!(frames.len(), 3);
        for (header, payload) in frames {
            assert_eq!(header.rsv, 0, "{header:?}");
            assert!([0, 125].contains(&payload.len()));
        }
    }
}

#[test]
fn compressed_message_is_one_frame_with_the_bit_and_its_own_opcode() {
    for mut end in <[End; 2]>::from(pair(with_takeover(), 1 << 20)) {
        for kind in [MessageKind::Text, MessageKind::Binary] {
            let payload = [b'a'; 300];
            end.connection.send(kind, &payload, &mut end.out).unwrap();
            let frames = sent_frames(&end.sent());
            assert_eq!(frames.len(), 1);
            let header = frames[0].0;
            assert_eq!((header.fin, header.rsv), (true, 0x40));
            assert_eq!(header.opcode, kind.into());
            assert!(!frames[0].1.ends_with(&[0x00, 0x00, 0xFF, 0xFF]));
        }
    }
}

#[test]
fn without_context_takeover_each_message_is_compressed_with_an_empty_window() {
    let payload: Vec<u8> = (0..=255).chain(0..=255).collect();
    for mut end in <[End; 2]>::from(pair(DeflateConfig::default(), 1 << 20)) {
        for _ in 0..3 {
            end.connection
                .send(MessageKind::Binary, &payload, &mut end.out)
                .unwrap();
            let sent = sent_frames(&end.sent());
            assert_eq!(sent[0].0.rsv, 0x40);
            let mut alone = Decoded::default();
            decode_message(&sent[0].1, &mut alone);
            assert_eq!(alone.bytes, payload);
        }
    }
}

#[test]
fn client_compressor_stays_inside_its_window() {
    let noise: Vec<u8> = (0..300_u64)
        .map(|index| {
            (index + 1)
                .wrapping_mul(0x9E37_79B9_7F4A_7C15)
                .to_le_bytes()[7]
        })
        .collect();
    let payload = noise.repeat(200);
    for bits in 8..=15 {
        let config = with_takeover().with_client_max_window_bits(WindowBits::new(bits).unwrap());
        let (mut client, mut server) = pair(config, 1 << 20);
        let mut decoded = Decoded::default();
        for _ in 0..2 {
            let (connection, out) = (&mut client.connection, &mut client.out);
            connection.send(MessageKind::Binary, &payload, out).unwrap();
            let sent = client.sent();
            let frames = sent_frames(&sent);
            assert_eq!(frames[0].0.rsv, 0x40);
            decode_message(&frames[0].1, &mut decoded);
            assert_eq!(server.receive(&sent), [binary(&payload)]);
        }
        assert_eq!(decoded.bytes, payload.repeat(2));
        assert!(decoded.max_distance <= 1 << bits, "{bits} bits");
    }
}

#[test]
fn window_of_32_kib_is_inflated() {
    // A stored block of 32,768 bytes, and a copy of the first three of them.
    let far = |end: &End| {
        let mut block = vec![0x00, 0x00, 0x80, 0xFF, 0x7F];
        block.extend(b"abc");
        block.extend(vec![b'x'; 32_765]);
        block.extend(fixed_reference_to_the_far_end());
        end.peer_frame(Opcode::Binary, block).compressed()
    };
    for mut end in <[End; 2]>::from(pair(with_takeover(), 1 << 20)) {
        let events = end.receive_frame(far(&end));
        let expected = [b"abc".to_vec(), vec![b'x'; 32_765], b"abc".to_vec()].concat();
        assert_eq!(events, [binary(&expected)]);
    }
}

/// A block of fixed codes that copies 3 bytes from 32,768 bytes back, and the empty stored block's
/// beginning (RFC 1951 §3.2.5, §3.2.6).
fn fixed_reference_to_the_far_end() -> Vec<u8> {
    let mut bits = Vec::new();
    // Numbers go in from their least bit, codes from their first.
    let mut number = |value: u32, count: u32| bits.extend((0..count).map(|at| value >> at & 1));
    number(0, 1);
    number(1, 2);
    // Length 3 is code 257, which is 0000001; distances from 24,577 on are code 29, with 13 bits.
    number(0b100_0000, 7);
    number(0b10111, 5);
    number(32_768 - 24_577, 13);
    // The end of the block is code 256, seven zeros; then a stored block.
    number(0, 7);
    number(0, 3);
    bits.resize(bits.len().next_multiple_of(8), 0);
    let byte = |bits: &[u32]| {
        bits.iter()
            .rev()
            .fold(0, |byte, &bit| byte << 1 | bit as u8)
    };
    bits.chunks(8).map(byte).collect()
}

#[test]
fn compressed_message_that_is_cut_short_fails_with_1007() {
    let words: Vec<u8> = (1..2000_u64)
        .map(|index| index.wrapping_mul(0x9E37_79B9_7F4A_7C15).to_le_bytes()[7])
        .map(|byte| b"ten letters"[usize::from(byte) % 11])
        .collect();
    let (mut sender, _) = pair(DeflateConfig::default(), 1 << 20);
    sender
        .connection
        .send(MessageKind::Binary, &words, &mut sender.out)
        .unwrap();
    let payload = sent_frames(&sender.sent()).remove(0).1;
    assert_eq!(payload[0] & 0b110, 0b100, "a block with codes of its own");
    let (_, mut receiver) = pair(DeflateConfig::default(), 1 << 20);
    let events = receiver.receive_frame(compressed(&payload[..]));
    assert_eq!(events, [binary(&words)]);
    for len in 1..payload.len() {
        let (_, mut receiver) = pair(DeflateConfig::default(), 1 << 20);
        let events = receiver.receive_frame(compressed(&payload[..len]));
        let failed = OwnedEvent::Failed(ProtocolError::InvalidDeflateData);
        assert_eq!(events, [failed], "{len} of {} bytes", payload.len());
    }
    // With context takeover as well, unless it is the header of such a block that is cut.
    for payload in [&HELLO[..3], &HELLO[..4], &[0x0A, 0x00]] {
        let error = ProtocolError::InvalidDeflateData;
        fails(server(100), &compressed(payload).to_bytes(), &error, 1007);
    }
}

#[test]
fn final_blocks_end_a_message_wherever_they_stand() {
    let empty_final = &[0x01][..];
    let hello_and_empty_final = &[0xF2, 0x48, 0xCD, 0xC9, 0xC9, 0x07, 0x04][..];
    for config in [with_takeover(), DeflateConfig::default()] {
        for (payload, expected) in [
            (empty_final, ""),
            (&[0x03, 0x00], ""),
            (hello_and_empty_final, "Hello"),
            (HELLOS[2], "Hello"),
        ] {
            let (mut client, mut server) = pair(config, 100);
            for end in [&mut client, &mut server] {
                let frame = end.peer_frame(Opcode::Text, payload).compressed();
                for _ in 0..2 {
                    let events = end.receive_frame(frame.clone());
                    assert_eq!(events, [text(expected)], "{payload:02x?}");
                }
                let hello = end.peer_frame(Opcode::Text, HELLO).compressed();
                assert_eq!(end.receive_frame(hello), [text("Hello")]);
            }
        }
    }
}

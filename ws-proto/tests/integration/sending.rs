//! What an endpoint puts on the wire.

use std::collections::HashSet;
use std::sync::Arc;

use ws_proto::frame::Header;
use ws_proto::{
    CloseCode, CloseFrame, Config, Connection, EncodedMessage, MessageKind, Opcode, SendError,
};

use crate::support::{End, origin, seconds, sent_frames};

/// Sizes at the edges of the three encodings of a length.
const SIZES: [usize; 6] = [0, 1, 125, 126, 65_535, 65_536];

/// Everything an endpoint can send: messages of every size, a pong, a ping and a close frame with a
/// reason that is too long.
fn everything(mut end: End) -> Vec<(Header, Vec<u8>)> {
    for kind in [MessageKind::Text, MessageKind::Binary] {
        for size in SIZES {
            end.connection
                .send(kind, &vec![b'x'; size], &mut end.out)
                .expect("it is open");
        }
    }
    end.receive_frame(end.peer_frame(Opcode::Ping, [1; 125]));
    end.pass(seconds(25));
    let frame = CloseFrame {
        code: CloseCode::NORMAL,
        reason: "x".repeat(500),
    };
    end.connection.close(Some(frame), end.now);
    end.connection.poll_transmit(&mut end.out);
    let frames = sent_frames(&end.sent());
    let controls: Vec<_> = frames[2 * SIZES.len()..]
        .iter()
        .map(|(header, _)| header.opcode)
        .collect();
    assert_eq!(controls, [Opcode::Pong, Opcode::Ping, Opcode::Close]);
    frames
}

#[test]
fn server_masks_no_frame() {
    for (header, _) in everything(End::server()) {
        assert_eq!(header.mask, None, "{header:?}");
    }
    for size in SIZES {
        let message = EncodedMessage::new(MessageKind::Binary, &vec![1; size]);
        assert_eq!(sent_frames(message.as_bytes())[0].0.mask, None);
    }
}

#[test]
fn client_masks_every_frame_with_a_fresh_key() {
    let keys: Vec<_> = everything(End::client())
        .into_iter()
        .map(|(header, _)| header.mask.expect("a mask"))
        .collect();
    for (index, key) in keys.iter().enumerate() {
        assert!(!keys[..index].contains(key), "{key:?} came before");
    }
}

#[test]
fn masking_keys_follow_the_seed_and_not_the_payload() {
    let keys = |seed: [u8; 32], payload: &[u8]| {
        let mut client = Connection::client(Arc::new(Config::default()), seed, origin());
        let mut out = Vec::new();
        for _ in 0..20 {
            client.send(MessageKind::Binary, payload, &mut out).unwrap();
        }
        let frames = sent_frames(&out);
        frames
            .iter()
            .map(|(header, _)| header.mask)
            .collect::<HashSet<_>>()
    };
    let known = keys([7; 32], b"one");
    assert_eq!(known, keys([7; 32], b"another"));
    assert!(known.is_disjoint(&keys([8; 32], b"one")));
}

#[test]
fn reserved_bits_are_zero_without_an_extension() {
    for end in End::both() {
        for (header, _) in everything(end) {
            assert_eq!(header.rsv, 0, "{header:?}");
        }
    }
}

#[test]
fn messages_are_final_frames_of_their_kind_and_whole() {
    for end in End::both() {
        let frames = everything(end);
        for (index, (header, payload)) in frames[..2 * SIZES.len()].iter().enumerate() {
            let opcode = [Opcode::Text, Opcode::Binary][index / SIZES.len()];
            assert_eq!((header.fin, header.opcode), (true, opcode));
            assert_eq!(payload, &vec![b'x'; SIZES[index % SIZES.len()]]);
        }
    }
}

#[test]
fn control_frames_are_final_and_at_most_125_bytes() {
    for end in End::both() {
        for (header, _) in &everything(end)[2 * SIZES.len()..] {
            assert!(header.fin && header.payload_len <= 125, "{header:?}");
        }
    }
}

#[test]
fn lengths_have_their_shortest_form() {
    for (size, server_header) in [(0, 2), (125, 2), (126, 4), (65_535, 4), (65_536, 10)] {
        for (mut end, header) in [
            (End::server(), server_header),
            (End::client(), server_header + 4),
        ] {
            let payload = vec![0; size];
            end.connection
                .send(MessageKind::Binary, &payload, &mut end.out)
                .unwrap();
            assert_eq!(end.sent().len(), header + size);
        }
    }
}

/// RFC 6455 §5.7, as a server makes them.
#[test]
fn rfc_frames_are_what_a_server_sends() {
    let mut server = End::server();
    let mut sent = |kind, payload: &[u8]| {
        server
            .connection
            .send(kind, payload, &mut server.out)
            .unwrap();
        server.sent()
    };
    assert_eq!(sent(MessageKind::Text, b"Hello"), b"\x81\x05Hello");
    let frame = sent(MessageKind::Binary, &[9; 256]);
    assert_eq!(frame[..5], [0x82, 0x7E, 0x01, 0x00, 9]);
    let frame = sent(MessageKind::Binary, &[9; 65_536]);
    assert_eq!(frame[..11], [0x82, 0x7F, 0, 0, 0, 0, 0, 1, 0, 0, 9]);
}

#[test]
fn client_sends_only_text_that_is_utf8() {
    let mut client = End::client();
    let sent = client
        .connection
        .send(MessageKind::Text, b"\xFF", &mut client.out);
    assert_eq!(sent, Err(SendError::NotUtf8));
    assert_eq!(client.sent(), b"");
}

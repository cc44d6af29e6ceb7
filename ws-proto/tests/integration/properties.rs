//! What holds for any input.

use proptest::prelude::*;
use ws_proto::frame::Header;
use ws_proto::handshake::{HeadLimits, HeadReader, Rejection, RequestHead, Upgrade};
use ws_proto::testing::{
    OwnedEvent, cut, encode_all, fragmented, message, receive_all, sizes, wild_frame,
};
use ws_proto::{CloseCode, Config, Opcode, Role, State};

use crate::support::End;

/// Everything a server makes of `wire`, cut as told, and what it sends.
fn observe(wire: &[u8], sizes: &[usize]) -> (Vec<OwnedEvent>, Vec<u8>, State) {
    let mut server = End::server_with(Config::default().with_max_message_size(100_000));
    let mut events = Vec::new();
    for range in cut(wire.len(), sizes) {
        events.extend(server.receive(&wire[range]));
    }
    let state = server.connection.state();
    (events, server.sent(), state)
}

fn read_head(bytes: &[u8], sizes: &[usize]) -> Result<Option<RequestHead>, Rejection> {
    let mut reader = HeadReader::new(HeadLimits::default());
    let mut head = None;
    for range in cut(bytes.len(), sizes) {
        head = head.or(reader.read(&bytes[range])?);
    }
    Ok(head)
}

/// Bytes that look like a head more often than not.
fn head_like() -> impl Strategy<Value = Vec<u8>> {
    let line = prop_oneof![
        Just("GET / HTTP/1.1\r\n".to_owned()),
        Just("Host: h\r\n".to_owned()),
        Just("Upgrade: websocket\r\n".to_owned()),
        Just("Connection: Upgrade\r\n".to_owned()),
        Just("Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n".to_owned()),
        Just("Sec-WebSocket-Version: 13\r\n".to_owned()),
        Just("\r\n".to_owned()),
        "[A-Za-z-]{1,8}: ?[ -~]{0,12}\r\n",
        "[ -~\r\n\t\0é]{0,6}",
    ];
    let rest = prop::collection::vec(line, 0..12);
    (prop::bool::weighted(0.8), rest).prop_map(|(begins, rest)| {
        let start = if begins {
            "GET / HTTP/1.1\r\nHost: h\r\n"
        } else {
            ""
        };
        format!("{start}{}", rest.concat()).into_bytes()
    })
}

proptest! {
    #[test]
    fn prop_header_decodes_to_what_was_encoded(
        fin: bool,
        opcode in prop::sample::select(vec![Opcode::Text, Opcode::Binary, Opcode::Continuation]),
        rsv in prop::sample::select(vec![0_u8, 0x40]),
        mask: Option<[u8; 4]>,
        len in prop_oneof![0_u64..200, 65_000_u64..66_000, any::<u64>().prop_map(|len| len >> 1)],
    ) {
        let header = Header { fin, rsv, opcode, mask, payload_len: len };
        let mut bytes = Vec::new();
        header.encode(&mut bytes);
        let sender = if mask.is_some() { Role::Client } else { Role::Server };
        prop_assert_eq!(Header::decode(&bytes, sender, 0x40), Ok(Some((header, bytes.len()))));
        for end in 0..bytes.len() {
            prop_assert_eq!(Header::decode(&bytes[..end], sender, 0x40), Ok(None));
        }
    }

    #[test]
    fn prop_messages_arrive_as_they_were_sent(
        messages in prop::collection::vec(message(), 1..5), sizes in sizes(), from_client: bool,
    ) {
        let (mut sender, mut receiver) = if from_client {
            (End::client(), End::server())
        } else {
            (End::server(), End::client())
        };
        let mut wire = Vec::new();
        for (kind, payload) in &messages {
            sender.connection.send(*kind, payload, &mut wire).unwrap();
        }
        let mut events = Vec::new();
        for range in cut(wire.len(), &sizes) {
            events.extend(receiver.receive(&wire[range]));
        }
        let expected: Vec<_> = messages
            .into_iter()
            .map(|(kind, payload)| OwnedEvent::Message(kind, payload))
            .collect();
        prop_assert_eq!(events, expected);
    }

    #[test]
    fn prop_cutting_anywhere_changes_nothing(frames in fragmented(), sizes in sizes()) {
        let wire = encode_all(&frames);
        let whole = observe(&wire, &[usize::MAX]);
        prop_assert_eq!(whole.0.len(), frames.iter().filter(|f| f.opcode.is_control()).count() + 1);
        prop_assert_eq!(observe(&wire, &sizes), whole);
    }

    #[test]
    fn prop_cutting_anywhere_changes_nothing_for_wild_frames(
        frames in prop::collection::vec(wild_frame(), 1..12), sizes in sizes(),
    ) {
        let wire = encode_all(&frames);
        prop_assert_eq!(observe(&wire, &sizes), observe(&wire, &[usize::MAX]));
    }

    #[test]
    fn prop_arbitrary_bytes_never_panic_and_end_with_a_legal_code(
        wire in prop::collection::vec(any::<u8>(), 0..400), sizes in sizes(),
    ) {
        let (events, _, state) = observe(&wire, &sizes);
        let failures = events.iter().filter_map(|event| match event {
            OwnedEvent::Failed(error) => Some(error),
            _ => None,
        });
        for error in failures {
            prop_assert!(CloseCode::new(error.close_code().as_u16()).is_ok());
            prop_assert_eq!(state, State::Closed);
        }
        prop_assert_eq!(observe(&wire, &[usize::MAX]).0, events);
        // The other role as well.
        let mut client = End::client();
        let now = client.now;
        receive_all(&mut client.connection, &wire, now, &mut client.out);
    }

    #[test]
    fn prop_head_cut_anywhere_is_read_the_same(
        bytes in prop_oneof![head_like(), prop::collection::vec(any::<u8>(), 0..60)],
        sizes in sizes(),
    ) {
        let whole = read_head(&bytes, &[usize::MAX]);
        let parts = read_head(&bytes, &sizes);
        // Bytes behind a head are refused either way, but another method's are a body when they
        // come with the head and early data when they come after it was handed out.
        if whole != Err(Rejection::MethodNotAllowed) {
            prop_assert_eq!(&parts, &whole);
        }
        if let Ok(Some(head)) = whole {
            let _ = Upgrade::new(&head).map(|upgrade| upgrade.accept(None, None, &[]));
        }
    }
}

//! Ours and tungstenite over the same wires.

use proptest::prelude::*;
use tungstenite::protocol::Role;
use ws_proto::testing::{OwnedEvent, TestFrame, encode_all, fragmented, message, wild_frame};

use crate::support::End;
use crate::witness::{Ending, assert_agrees, witness};

/// The same frames as a server sends them: who masks and who does not is turned around.
fn as_server(frames: Vec<TestFrame>) -> Vec<TestFrame> {
    let turned = frames.into_iter().map(|frame| TestFrame {
        key: match frame.key {
            Some(_) => None,
            None => Some([1, 2, 3, 4]),
        },
        ..frame
    });
    turned.collect()
}

proptest! {
    #[test]
    fn prop_fragmented_messages_agree_with_tungstenite(frames in fragmented()) {
        let wire = encode_all(&frames);
        assert_agrees(End::server().receive(&wire), witness(wire, Role::Server));
        let wire = encode_all(&as_server(frames));
        assert_agrees(End::client().receive(&wire), witness(wire, Role::Client));
    }

    #[test]
    fn prop_wild_frames_agree_with_tungstenite(
        frames in prop::collection::vec(wild_frame(), 1..10), cut in 0_usize..400,
    ) {
        let mut wire = encode_all(&frames);
        wire.truncate(wire.len().max(cut) - cut);
        assert_agrees(End::server().receive(&wire), witness(wire, Role::Server));
        let mut wire = encode_all(&as_server(frames));
        wire.truncate(wire.len().max(cut) - cut);
        assert_agrees(End::client().receive(&wire), witness(wire, Role::Client));
    }

    #[test]
    fn prop_tungstenite_reads_what_we_send(
        messages in prop::collection::vec(message(), 1..5), as_client: bool,
    ) {
        let (mut end, role) = if as_client {
            (End::client(), Role::Server)
        } else {
            (End::server(), Role::Client)
        };
        let mut wire = Vec::new();
        for (kind, payload) in &messages {
            end.connection.send(*kind, payload, &mut wire).unwrap();
        }
        let expected: Vec<_> = messages
            .into_iter()
            .map(|(kind, payload)| OwnedEvent::Message(kind, payload))
            .collect();
        prop_assert_eq!(witness(wire, role), (expected, Ending::Open));
    }
}

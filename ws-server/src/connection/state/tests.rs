use std::sync::Arc;

use tokio::sync::watch;
use ws_proto::handshake::ExtensionOffer;
use ws_proto::{DeflateConfig, DeflateParams, Event, Input, MessageKind};
use ws_session::Outbound;

use super::intake::INFLATED_COST;
use super::*;
use crate::assembly;
use crate::config::{Config, RawConfig};
use crate::connection::frames::Frames;
use crate::core::turns::TurnLimits;
use crate::helpers::Helpers;
use crate::shared::Shared;

const MESSAGE_SIZE: usize = 60_000;
const MESSAGE_COUNT: u64 = 100;

fn echo_server() -> Shared {
    let mut raw = RawConfig::default();
    raw.set("app.backend", "echo");
    raw.set("compression.enabled", true);
    let config = Config::from_raw(&raw, "/".as_ref()).unwrap();
    let helpers = Helpers::default();
    let (_, draining) = watch::channel(false);
    let store = Arc::new(ws_session::MemoryStore::default());
    assembly::share(
        config,
        Box::default(),
        None,
        store,
        None,
        &helpers,
        draining,
    )
    .unwrap()
}

fn agreed() -> DeflateParams {
    let offers = ExtensionOffer::parse("permessage-deflate").unwrap();
    DeflateConfig::default().accept(&offers).unwrap()
}

/// An open connection whose socket takes nothing.
fn connection(server: &Shared, deflate: Option<DeflateParams>, now: Instant) -> Inner {
    let protocol = ws_proto::Connection::server(Arc::clone(&server.current().protocol), now);
    let protocol = protocol.with_deflate(deflate);
    let turns = Turns::new(TurnLimits {
        running: 1,
        waiting: 1,
        unordered: false,
    });
    let output = Output::new(None, Outbound::new(usize::MAX));
    Inner::new(output, protocol, deflate.is_some(), turns)
}

/// The n-th message: all alike but for its number.
fn text(number: u64) -> String {
    format!("{number:0>width$}", width = MESSAGE_SIZE)
}

/// All messages, as they come in one piece.
fn messages(client: &mut ws_proto::Connection) -> Vec<u8> {
    let mut bytes = Vec::new();
    for number in 0..MESSAGE_COUNT {
        let text = text(number);
        client
            .send(MessageKind::Text, text.as_bytes(), &mut bytes)
            .unwrap();
    }
    bytes
}

#[test]
fn inv05_what_a_few_bytes_inflate_to_is_taken_in_shares() {
    let (server, now) = (echo_server(), Instant::now());
    let mut client =
        ws_proto::Connection::client(Arc::clone(&server.current().protocol), [7; 32], now)
            .with_deflate(agreed());
    let mut bytes = messages(&mut client);
    assert!(bytes.len() < FAIR_SHARE / 8, "{} on the wire", bytes.len());

    let mut state = connection(&server, Some(agreed()), now);
    let mut frames = Frames::default();
    let share = FAIR_SHARE.div_ceil(MESSAGE_SIZE + INFLATED_COST) as u64;
    let mut rounds = 0;
    while !bytes.is_empty() {
        state.take_in(&mut bytes, &server, &mut frames, now);
        rounds += 1;
        assert_eq!(state.received, MESSAGE_COUNT.min(rounds * share));
        bytes = std::mem::take(&mut state.unread);
        if bytes.is_empty() {
            break;
        }
        // Nothing moves until the others have had their turn.
        assert!(state.is_others_turn());
        let waiting = bytes.len();
        state.take_in(&mut bytes, &server, &mut frames, now);
        bytes = std::mem::take(&mut state.unread);
        assert_eq!(bytes.len(), waiting);
        state.spent = 0;
    }
    assert_eq!(rounds, MESSAGE_COUNT.div_ceil(share));

    // And not one of them is lost or changed on the way.
    let mut echoed = Vec::new();
    while let Some(piece) = state.output.queue.front() {
        let size = piece.len();
        echoed.extend_from_slice(piece);
        state.output.queue.advance(size);
    }
    let mut input = Input::new(&mut echoed);
    for number in 0..MESSAGE_COUNT {
        match client.receive(&mut input, now) {
            Some(Event::Message(message)) => assert_eq!(message.payload, text(number).as_bytes()),
            other => panic!("{other:?}"),
        }
    }
    assert_eq!(client.receive(&mut input, now), None);
}

#[test]
fn what_came_as_it_is_counts_by_what_was_read() {
    let (server, now) = (echo_server(), Instant::now());
    let mut client =
        ws_proto::Connection::client(Arc::clone(&server.current().protocol), [7; 32], now);
    let mut bytes = messages(&mut client);
    let mut state = connection(&server, None, now);
    state.take_in(&mut bytes, &server, &mut Frames::default(), now);
    assert_eq!((state.received, state.spent), (MESSAGE_COUNT, 0));
    assert_eq!(server.hub.counters.compressible_bytes.get(), 0);
}

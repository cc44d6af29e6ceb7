//! Messages through a client and a server with whatever they agree upon: what comes out went in.
//!
//! Four bytes for each end's settings and three for the cuts; then messages: a byte that says who
//! sends what and how, one with the size of a piece, one that says how often the piece comes, and
//! the piece.

#![no_main]

use std::sync::Arc;
use std::time::Instant;

use libfuzzer_sys::fuzz_target;
use ws_proto::testing::{OwnedEvent, agree, cut, receive_all};
use ws_proto::{
    Config, Connection, DeflateConfig, DeflateLevel, EncodedMessage, MessageKind, WindowBits,
};

/// What is sent for one input, in bytes: more than the smaller windows, for all would take long.
/// Only an input that asks for it fills the largest.
const MAX_SIZES: [usize; 2] = [3_000, 40_000];

/// How many messages are sent for one input: to reset a compressor takes longer than to use it.
const MAX_COUNT: usize = 8;

fn settings([flags, level, bits, min_size]: [u8; 4]) -> DeflateConfig {
    let window = |bits| WindowBits::new(8 + bits % 8).expect("8 to 15 exist");
    DeflateConfig::default()
        .with_level(DeflateLevel::new(1 + level % 9).expect("1 to 9 exist"))
        .with_min_size(min_size.into())
        .with_server_context_takeover(flags & 1 != 0)
        .with_client_context_takeover(flags & 2 != 0)
        .with_server_max_window_bits(window(bits))
        .with_client_max_window_bits(window(bits >> 4))
}

fuzz_target!(|data: &[u8]| {
    let Some((&settings_of_client, data)) = data.split_first_chunk::<4>() else {
        return;
    };
    let Some((&settings_of_server, data)) = data.split_first_chunk::<4>() else {
        return;
    };
    let Some((&cuts, mut data)) = data.split_first_chunk::<3>() else {
        return;
    };
    let (clients, servers) = (settings(settings_of_client), settings(settings_of_server));
    let (clients_params, servers_params) = agree(&clients, &servers);
    let [a, b, c] = cuts.map(usize::from);
    // All the rest at once: byte by byte it would take long and is what `inflate` is for.
    let sizes = [a, b, c, usize::MAX];
    let now = Instant::now();
    let config = |deflate| Arc::new(Config::default().with_deflate(Some(deflate)));
    let mut client = Connection::client(config(clients), [7; 32], now).with_deflate(clients_params);
    let mut server = Connection::server(config(servers), now).with_deflate(servers_params);

    let is_long = settings_of_client[0] & 0xFC == 0xFC;
    let mut left = MAX_SIZES[usize::from(is_long)];
    for _ in 0..MAX_COUNT {
        let Some((&[how, size, count], rest)) = data.split_first_chunk::<3>() else {
            return;
        };
        let (piece, rest) = rest.split_at(usize::from(size).min(rest.len()));
        data = rest;
        // Bounded in sum, for nothing is learned from much of it but much time is taken.
        let count = usize::from(count).min(left / piece.len().max(1));
        let payload = piece.repeat(count);
        left -= payload.len();
        let kind = match how & 1 {
            1 if std::str::from_utf8(&payload).is_ok() => MessageKind::Text,
            _ => MessageKind::Binary,
        };
        let (sender, receiver) = match how & 2 {
            0 => (&mut client, &mut server),
            _ => (&mut server, &mut client),
        };
        let mut wire = Vec::new();
        match how >> 2 & 3 {
            0 => sender
                .send_uncompressed(kind, &payload, &mut wire)
                .expect("it is open"),
            1 => {
                let message = EncodedMessage::new(kind, &payload);
                wire.extend_from_slice(&sender.frame_of(&message).expect("it is open"));
            }
            _ => sender.send(kind, &payload, &mut wire).expect("it is open"),
        }
        let mut events = Vec::new();
        for range in cut(wire.len(), &sizes) {
            events.extend(receive_all(receiver, &wire[range], now, &mut Vec::new()));
        }
        assert_eq!(events, [OwnedEvent::Message(kind, payload)]);
    }
});

//! Arbitrary bytes as compressed messages, cut anywhere: the same events, no message over the
//! limit, and no more memory than the limit and one stream.
//!
//! The first byte has the window (3 bits), context takeover, the role and the kind of message; the
//! next three say where the wire is cut. Then come fragments: a byte with the size in its lower
//! seven bits and FIN in the highest, and as many bytes.

#![no_main]

use std::alloc::System;
use std::sync::Arc;
use std::time::Instant;

use libfuzzer_sys::fuzz_target;
use stats_alloc::{INSTRUMENTED_SYSTEM, Region, StatsAlloc};
use ws_proto::testing::{OwnedEvent, TestFrame, agree, cut};
use ws_proto::{
    CloseCode, Config, Connection, DeflateConfig, DeflateParams, Input, Opcode, Role, State,
    WindowBits,
};

#[global_allocator]
static ALLOCATOR: &StatsAlloc<System> = &INSTRUMENTED_SYSTEM;

const MAX_MESSAGE_SIZE: usize = 20_000;

/// A message buffer, of which one more byte than allowed is asked for, and an inflater with the
/// largest window, which the thread's pool may hold twice more.
const MAX_HELD: isize = MAX_MESSAGE_SIZE as isize + 3 * 64 * 1024;

fn params(window: u8, takeover: bool) -> DeflateParams {
    let bits = WindowBits::new(8 + window).expect("three bits are below 8");
    let config = DeflateConfig::default()
        .with_server_context_takeover(takeover)
        .with_client_context_takeover(takeover)
        .with_server_max_window_bits(bits)
        .with_client_max_window_bits(bits);
    agree(&config, &config).1
}

/// The fragments as one peer sends them.
fn wire(mut fragments: &[u8], first: Opcode, sender: Role) -> Vec<u8> {
    let mut wire = Vec::new();
    let mut begins = true;
    while let Some((&byte, rest)) = fragments.split_first() {
        let (payload, rest) = rest.split_at(usize::from(byte & 0x7F).min(rest.len()));
        fragments = rest;
        let opcode = if begins { first } else { Opcode::Continuation };
        let mut frame = match sender {
            Role::Client => TestFrame::client(opcode, payload),
            Role::Server => TestFrame::server(opcode, payload),
        };
        if begins {
            frame = frame.compressed();
        }
        begins = byte & 0x80 != 0;
        if !begins {
            frame = frame.unfinished();
        }
        frame.encode(&mut wire);
    }
    wire
}

/// Passes the wire on in pieces, and looks at what is held while each event is.
fn observe(
    mut connection: Connection,
    wire: &[u8],
    sizes: &[usize],
    now: Instant,
) -> (Vec<OwnedEvent>, State) {
    let mut events = Vec::new();
    let mut out = Vec::with_capacity(256);
    for range in cut(wire.len(), sizes) {
        let mut piece = wire[range].to_vec();
        let mut input = Input::new(&mut piece);
        loop {
            let region = Region::new(ALLOCATOR);
            let Some(event) = connection.receive(&mut input, now) else {
                assert!(held(&region) <= MAX_HELD);
                break;
            };
            assert!(held(&region) <= MAX_HELD);
            events.push(event.into());
            connection.poll_transmit(&mut out);
        }
    }
    (events, connection.state())
}

/// What was allocated and not freed since the region began.
fn held(region: &Region<'_, System>) -> isize {
    let change = region.change();
    change.bytes_allocated as isize - change.bytes_deallocated as isize + change.bytes_reallocated
}

fuzz_target!(|data: &[u8]| {
    let Some((&[settings, a, b, c], fragments)) = data.split_first_chunk::<4>() else {
        return;
    };
    let params = params(settings & 7, settings & 8 != 0);
    let sender = match settings & 16 {
        0 => Role::Client,
        _ => Role::Server,
    };
    let first = match settings & 32 {
        0 => Opcode::Binary,
        _ => Opcode::Text,
    };
    let config = Config::default()
        .with_max_message_size(MAX_MESSAGE_SIZE)
        .with_deflate(Some(DeflateConfig::default()));
    let (config, now) = (Arc::new(config), Instant::now());
    let receiver = || {
        let connection = match sender {
            Role::Client => Connection::server(Arc::clone(&config), now),
            Role::Server => Connection::client(Arc::clone(&config), [7; 32], now),
        };
        connection.with_deflate(params)
    };
    let wire = wire(fragments, first, sender);
    let whole = observe(receiver(), &wire, &[usize::MAX], now);
    let parts = observe(receiver(), &wire, &[a, b, c].map(usize::from), now);
    assert_eq!(whole, parts);
    for event in &whole.0 {
        match event {
            OwnedEvent::Message(_, payload) => assert!(payload.len() <= MAX_MESSAGE_SIZE),
            OwnedEvent::Failed(error) => {
                assert!(CloseCode::new(error.close_code().as_u16()).is_ok());
                assert_eq!(whole.1, State::Closed);
            }
            event => panic!("nobody sent {event:?}"),
        }
    }
});

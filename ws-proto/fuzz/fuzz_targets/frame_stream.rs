//! Frames cut anywhere: the same events, the same output, the same state.

#![no_main]

use std::sync::Arc;
use std::time::Instant;

use libfuzzer_sys::fuzz_target;
use ws_proto::testing::{OwnedEvent, cut, receive_all};
use ws_proto::{CloseCode, Config, Connection, State};

fn observe(
    mut connection: Connection,
    wire: &[u8],
    sizes: &[usize],
    now: Instant,
) -> (Vec<OwnedEvent>, Vec<u8>, State) {
    let (mut events, mut out) = (Vec::new(), Vec::new());
    for range in cut(wire.len(), sizes) {
        events.extend(receive_all(&mut connection, &wire[range], now, &mut out));
    }
    (events, out, connection.state())
}

fuzz_target!(|data: &[u8]| {
    let Some((&[role, a, b, c], wire)) = data.split_first_chunk::<4>() else {
        return;
    };
    let config = Config::default()
        .with_max_message_size(300)
        .with_max_fragment_count(6)
        .with_max_empty_fragment_count(2)
        .with_control_burst(5);
    let (config, now) = (Arc::new(config), Instant::now());
    let connection = || match role % 2 {
        0 => Connection::server(Arc::clone(&config), now),
        _ => Connection::client(Arc::clone(&config), [7; 32], now),
    };
    let whole = observe(connection(), wire, &[usize::MAX], now);
    let parts = observe(connection(), wire, &[a, b, c].map(usize::from), now);
    assert_eq!(whole, parts);
    for event in &whole.0 {
        match event {
            OwnedEvent::Message(_, payload) => assert!(payload.len() <= 300),
            OwnedEvent::Failed(error) => {
                assert!(CloseCode::new(error.close_code().as_u16()).is_ok());
                assert_eq!(whole.2, State::Closed);
            }
            OwnedEvent::Close(_) => assert_eq!(whole.2, State::Closed),
            OwnedEvent::Ping(payload) | OwnedEvent::Pong(payload) => assert!(payload.len() <= 125),
        }
    }
});

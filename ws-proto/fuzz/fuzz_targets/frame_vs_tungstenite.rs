//! tungstenite as an independent witness: the same messages, accepted or refused alike, with the
//! same close codes. What is known to differ is listed in the file that is included here.

#![no_main]

use std::sync::Arc;
use std::time::Instant;

use libfuzzer_sys::fuzz_target;
use tungstenite::protocol::Role;
use witness::{assert_agrees, witness};
use ws_proto::testing::receive_all;
use ws_proto::{Config, Connection};

#[path = "../../tests/integration/witness.rs"]
mod witness;

fuzz_target!(|wire: &[u8]| {
    let config = Config::default()
        .with_control_burst(u32::MAX)
        .with_control_rate(1_000_000);
    let now = Instant::now();
    let mut server = Connection::server(Arc::new(config), now);
    let ours = receive_all(&mut server, wire, now, &mut Vec::new());
    assert_agrees(ours, witness(wire.to_vec(), Role::Server));
});

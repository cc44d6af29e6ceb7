//! What connections cost in heap memory, counted by the allocator.
//!
//! A binary of its own without a test harness: the counters are the process's, and the harness
//! has a thread that allocates too.

use std::alloc::System;
use std::io::Write as _;
use std::sync::Arc;
use std::time::Instant;

use flate2::Compression;
use flate2::write::DeflateEncoder;
use stats_alloc::{INSTRUMENTED_SYSTEM, Region, StatsAlloc};
use ws_proto::testing::{TestFrame, agree};
use ws_proto::{
    Config, Connection, DeflateConfig, Event, Input, MessageKind, Opcode, ProtocolError,
    WindowBits, frame,
};

#[global_allocator]
static ALLOCATOR: &StatsAlloc<System> = &INSTRUMENTED_SYSTEM;
/// What the machine notes of a message that is arriving, besides its bytes: how far it is, and when
/// it is late.
const NOTES_LEN: usize = 176;

/// Bytes allocated and not freed since `region` began.
fn held(region: &Region<'_, System>) -> usize {
    let change = region.change();
    // Growing a block in place is counted apart.
    let grown = change.bytes_allocated as isize - change.bytes_deallocated as isize;
    usize::try_from(grown).expect("more is freed than was allocated")
}

fn main() {
    #[expect(clippy::disallowed_methods, reason = "an origin for simulated time")]
    let now = Instant::now();
    let config = Arc::new(Config::default().with_control_burst(1_000_000));
    complete_messages_allocate_nothing(&config, now);
    t21_declared_lengths_allocate_nothing(&config, now);
    t22_fragments_pin_what_they_carry(&config, now);
    t22_connections_with_fragments_stay_small(&config, now);
    buffer_is_bounded_and_freed(&config, now);
    idle_connection_holds_nothing(&config, now);
    // First, while the thread's pool has nothing to lend.
    connections_with_context_takeover_keep_what_the_documentation_says(now);
    t24_bomb_pins_no_more_than_the_limit(now);
    connections_without_context_takeover_share_their_streams(now);
}

/// Reads, echoes and answers pings without touching the heap.
fn complete_messages_allocate_nothing(config: &Arc<Config>, now: Instant) {
    let mut server = Connection::server(Arc::clone(config), now);
    let mut wire = Vec::new();
    for payload in [&[b'a'; 20][..], &[b'b'; 1024], &[b'c'; 40_000]] {
        TestFrame::client(Opcode::Text, payload).encode(&mut wire);
        TestFrame::client(Opcode::Binary, payload).encode(&mut wire);
    }
    TestFrame::client(Opcode::Ping, "").encode(&mut wire);
    TestFrame::client(Opcode::Pong, "abc").encode(&mut wire);
    let mut buffer = wire.clone();
    let mut out = Vec::with_capacity(wire.len() + 1024);

    let region = Region::new(ALLOCATOR);
    let mut count = 0;
    for _ in 0..100 {
        buffer.copy_from_slice(&wire);
        let mut input = Input::new(&mut buffer);
        while let Some(event) = server.receive(&mut input, now) {
            if let Event::Message(message) = event {
                frame::encode_server(message.kind, message.payload, &mut out);
                count += 1;
            }
            server.poll_transmit(&mut out);
            out.clear();
        }
    }
    assert_eq!(count, 600);
    let change = region.change();
    assert_eq!((change.allocations, change.reallocations), (0, 0));
}

/// A header that declares much, valid or not, costs nothing but the close frame.
fn t21_declared_lengths_allocate_nothing(config: &Arc<Config>, now: Instant) {
    for len in [
        0x10_0001_u64,
        1 << 31,
        (1 << 32) + 5,
        (1 << 63) - 1,
        1 << 63,
        u64::MAX - 3,
    ] {
        let mut server = Connection::server(Arc::clone(config), now);
        let mut wire = vec![0x82, 0xFF];
        wire.extend(len.to_be_bytes());
        wire.extend([0; 4]);
        let region = Region::new(ALLOCATOR);
        let mut input = Input::new(&mut wire);
        assert!(
            matches!(server.receive(&mut input, now), Some(Event::Failed(_))),
            "{len}"
        );
        assert!(region.change().bytes_allocated < 512, "{len}");
    }
    // The largest allowed: memory follows the payload's bytes, not the header's number.
    let mut server = Connection::server(Arc::clone(config), now);
    let wire = TestFrame::client(Opcode::Binary, vec![1; 1 << 20]).to_bytes();
    let mut piece = wire[..100].to_vec();
    let region = Region::new(ALLOCATOR);
    assert!(server.receive(&mut Input::new(&mut piece), now).is_none());
    assert!(held(&region) <= 100 + NOTES_LEN);
}

/// One text fragment and 1023 continuations of a byte each, never the last: at most 4 KiB.
fn t22_fragments_pin_what_they_carry(config: &Arc<Config>, now: Instant) {
    let mut server = Connection::server(Arc::clone(config), now);
    let region = Region::new(ALLOCATOR);
    for index in 0..1024 {
        let opcode = if index == 0 {
            Opcode::Text
        } else {
            Opcode::Continuation
        };
        let mut wire = TestFrame::client(opcode, "x").unfinished().to_bytes();
        assert!(server.receive(&mut Input::new(&mut wire), now).is_none());
    }
    assert!(held(&region) <= 4096, "{}", held(&region));
    drop(server);
    assert_eq!(held(&region), 0);
}

/// 2000 connections with 1024 fragments of a byte each: below 16 MiB.
fn t22_connections_with_fragments_stay_small(config: &Arc<Config>, now: Instant) {
    let mut wire = TestFrame::client(Opcode::Text, "x").unfinished().to_bytes();
    let next = TestFrame::client(Opcode::Continuation, "x").unfinished();
    wire.extend(next.to_bytes().repeat(1023));
    let mut buffer = wire.clone();
    let mut servers = Vec::with_capacity(2000);
    let region = Region::new(ALLOCATOR);
    for _ in 0..2000 {
        buffer.copy_from_slice(&wire);
        let mut server = Connection::server(Arc::clone(config), now);
        assert!(server.receive(&mut Input::new(&mut buffer), now).is_none());
        servers.push(server);
    }
    let pinned = held(&region) + servers.len() * size_of::<Connection>();
    assert!(pinned < 16 << 20, "{pinned}");
}

/// A message in pieces pins at most twice its size so far and never more than the limit.
fn buffer_is_bounded_and_freed(config: &Arc<Config>, now: Instant) {
    let payload = vec![1; 1 << 20];
    for unfinished in [false, true] {
        let mut server = Connection::server(Arc::clone(config), now);
        let mut frame = TestFrame::client(Opcode::Binary, payload.clone());
        frame.fin = !unfinished;
        let mut wire = frame.to_bytes();
        let region = Region::new(ALLOCATOR);
        let mut received = 0;
        for piece in wire.chunks_mut(1000) {
            received += piece.len();
            let mut input = Input::new(piece);
            let is_message = server.receive(&mut input, now).is_some();
            assert!(held(&region) <= (2 * received).clamp(64, 1 << 20) + NOTES_LEN);
            if is_message {
                assert_eq!(server.receive(&mut input, now), None);
                assert_eq!(held(&region), 0);
            }
        }
        if unfinished {
            // Failing frees what was pinned; what is left says why.
            let mut more = TestFrame::client(Opcode::Continuation, "x").to_bytes();
            let mut input = Input::new(&mut more);
            let failed = server.receive(&mut input, now);
            let error = ProtocolError::MessageTooBig {
                size: (1 << 20) + 1,
                max: 1 << 20,
            };
            assert_eq!(failed, Some(Event::Failed(error)));
            assert!(held(&region) < 512);
        }
    }
}

/// After messages, pings and a cut frame an open connection holds no heap memory.
fn idle_connection_holds_nothing(config: &Arc<Config>, now: Instant) {
    // The threshold is a budget: the machine itself, without its buffers.
    assert!(
        size_of::<Connection>() <= 160,
        "{}",
        size_of::<Connection>()
    );
    let region = Region::new(ALLOCATOR);
    let mut server = Connection::server(Arc::clone(config), now);
    let mut out = Vec::new();
    for frame in [
        TestFrame::client(Opcode::Text, "text"),
        TestFrame::client(Opcode::Ping, "ping"),
        TestFrame::client(Opcode::Pong, "pong"),
    ] {
        for byte in frame.to_bytes() {
            let mut bytes = [byte];
            let mut input = Input::new(&mut bytes);
            while server.receive(&mut input, now).is_some() {
                server.poll_transmit(&mut out);
            }
        }
    }
    server
        .send(MessageKind::Text, b"text", &mut out)
        .expect("the connection is open");
    drop(out);
    assert_eq!(held(&region), 0);
}

/// Ten MiB of zeros in ten KiB, against a limit of 64 KiB: at most 256 KiB on the way.
fn t24_bomb_pins_no_more_than_the_limit(now: Instant) {
    let deflate = DeflateConfig::default();
    let config = Config::default().with_deflate(Some(deflate));
    let config = Arc::new(config.with_max_message_size(64 * 1024));
    let bomb = TestFrame::client(Opcode::Binary, compressed(&vec![0; 10 << 20])).compressed();
    let mut wire = bomb.to_bytes();
    let (_, params) = agree(&deflate, &deflate);
    let mut server = Connection::server(config, now).with_deflate(params);
    let region = Region::new(ALLOCATOR);
    let mut input = Input::new(&mut wire);
    let failed = matches!(server.receive(&mut input, now), Some(Event::Failed(_)));
    assert!(failed);
    // Everything that was ever allocated: more than what there was at any moment.
    let allocated = region.change().bytes_allocated;
    assert!(allocated < 256 << 10, "{allocated}");
    drop(server);
}

/// Between messages such connections hold nothing, and a stream of the thread's serves them all.
fn connections_without_context_takeover_share_their_streams(now: Instant) {
    let deflate = DeflateConfig::default().with_min_size(1);
    let config = Arc::new(Config::default().with_deflate(Some(deflate)));
    let (_, params) = agree(&deflate, &deflate);
    let text = b"the same text again and again and again";
    let frame = TestFrame::client(Opcode::Text, compressed(text)).compressed();
    let mut exchange = |server: &mut Connection| {
        let (mut wire, mut out) = (frame.to_bytes(), Vec::new());
        let mut input = Input::new(&mut wire);
        let received = server.receive(&mut input, now);
        assert!(matches!(received, Some(Event::Message(message)) if message.payload == text));
        assert_eq!(server.receive(&mut input, now), None);
        server
            .send(MessageKind::Text, text, &mut out)
            .expect("the connection is open");
        assert_eq!(out[0], 0xC1);
    };
    let mut servers: Vec<_> = (0..100)
        .map(|_| Connection::server(Arc::clone(&config), now).with_deflate(params))
        .collect();
    // The first one fills the thread's pool.
    exchange(&mut servers[0]);
    let region = Region::new(ALLOCATOR);
    servers.iter_mut().for_each(&mut exchange);
    assert_eq!(held(&region), 0);
    // A stream would be the largest thing by far.
    let allocated = region.change().bytes_allocated;
    assert!(allocated < servers.len() * 1024, "{allocated}");
}

/// The figures of [`DeflateConfig`]'s documentation.
fn connections_with_context_takeover_keep_what_the_documentation_says(now: Instant) {
    for (bits, sending, receiving) in [(15, 372, 47), (12, 260, 47), (9, 246, 47)] {
        let bits = WindowBits::new(bits).expect("8 to 15 exist");
        let deflate = DeflateConfig::default()
            .with_server_context_takeover(true)
            .with_client_context_takeover(true)
            .with_server_max_window_bits(bits)
            .with_client_max_window_bits(bits);
        let config = Arc::new(Config::default().with_deflate(Some(deflate)));
        let (_, params) = agree(&deflate, &deflate);
        let mut server = Connection::server(config, now).with_deflate(params);
        let payload = vec![7; 100_000];

        let region = Region::new(ALLOCATOR);
        let mut out = Vec::new();
        server
            .send(MessageKind::Binary, &payload, &mut out)
            .expect("the connection is open");
        drop(out);
        let for_sending = held(&region);
        let mut wire = TestFrame::client(Opcode::Binary, compressed(&payload))
            .compressed()
            .to_bytes();
        let region = Region::new(ALLOCATOR);
        let mut input = Input::new(&mut wire);
        assert!(server.receive(&mut input, now).is_some());
        assert_eq!(server.receive(&mut input, now), None);
        let for_receiving = held(&region);
        assert!(for_sending <= sending << 10, "{bits} bits: {for_sending}");
        assert!(
            for_receiving <= receiving << 10,
            "{bits} bits: {for_receiving}"
        );
    }
}

/// What a peer sends for a compressed message.
fn compressed(payload: &[u8]) -> Vec<u8> {
    let mut stream = DeflateEncoder::new(Vec::new(), Compression::best());
    stream
        .write_all(payload)
        .and_then(|()| stream.flush())
        .expect("a vector takes everything");
    let mut bytes = stream.get_ref().clone();
    // RFC 7692 §7.2.1: the end of the empty block is left out.
    bytes.truncate(bytes.len() - 4);
    bytes
}

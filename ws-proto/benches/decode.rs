//! A server reads a stream of masked messages, text and binary in turns, to its end.
//!
//! Each of the three gets the same bytes from the same stream in memory, which copies them into the
//! buffer it is given as `read(2)` would; that copy is part of all three figures. Ours reads into a
//! buffer of its caller's, of the size that tungstenite has by default; fastwebsockets sizes its own
//! buffer. The connections live on from one iteration to the next, so nobody pays for a first
//! buffer. Payloads are looked at as bytes; each implementation has checked the texts to be UTF-8.

#[path = "support/peers.rs"]
mod peers;
mod support;

use std::hint::black_box;
use std::io::Read as _;
use std::sync::Arc;
use std::time::Instant;

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use fastwebsockets::FragmentCollector;
use tungstenite::protocol::WebSocket;
use ws_proto::frame::Header;
use ws_proto::{Config, Connection, Event, Input, Opcode, mask};

use self::peers::{Wire, run};
use self::support::{SIZES, text};

/// How much is read in one iteration, unless one message of each kind is more.
const STREAM_SIZE: usize = 64 * 1024;

/// As tungstenite's `read_buffer_size`.
const READ_SIZE: usize = 128 * 1024;

const MAX_SIZE: usize = 2 * 1024 * 1024;

/// The stream as a client sends it, and the number of messages.
fn stream(size: usize) -> (Vec<u8>, usize) {
    let count = (STREAM_SIZE / (size + 6)).max(2);
    let mut wire = Vec::new();
    for index in 0..count {
        let opcode = [Opcode::Text, Opcode::Binary][index % 2];
        let key = (index as u32).wrapping_mul(0x9E37_79B9).to_be_bytes();
        let header = Header {
            fin: true,
            rsv: 0,
            opcode,
            mask: Some(key),
            payload_len: size as u64,
        };
        header.encode(&mut wire);
        let start = wire.len();
        wire.extend_from_slice(&text(size));
        mask(&mut wire[start..], key);
    }
    (wire, count)
}

fn decode(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("decode");
    for size in SIZES {
        let (bytes, count) = stream(size);
        group.throughput(Throughput::Elements(count as u64));

        #[expect(clippy::disallowed_methods, reason = "an origin for the clock")]
        let now = Instant::now();
        let config = Arc::new(Config::default().with_max_message_size(MAX_SIZE));
        let mut connection = Connection::server(config, now);
        let mut wire = Wire::new(bytes.clone());
        let mut buffer = vec![0; READ_SIZE];
        group.bench_function(BenchmarkId::new("ours", size), |bencher| {
            bencher.iter(|| {
                let mut left = count;
                while left > 0 {
                    let len = wire.read(&mut buffer).expect("a wire never fails");
                    let mut input = Input::new(&mut buffer[..len]);
                    while let Some(event) = connection.receive(&mut input, now) {
                        match event {
                            Event::Message(message) => black_box(message.payload),
                            other => unreachable!("{other:?}"),
                        };
                        left -= 1;
                    }
                }
            });
        });

        let mut tungstenite = WebSocket::from_raw_socket(
            Wire::new(bytes.clone()),
            tungstenite::protocol::Role::Server,
            None,
        );
        group.bench_function(BenchmarkId::new("tungstenite", size), |bencher| {
            bencher.iter(|| {
                for _ in 0..count {
                    match tungstenite.read().expect("the stream is valid") {
                        tungstenite::Message::Text(text) => {
                            black_box(text.as_str().as_bytes());
                        }
                        tungstenite::Message::Binary(bytes) => {
                            black_box(&bytes[..]);
                        }
                        other => unreachable!("{other:?}"),
                    }
                }
            });
        });

        // Its collector is what yields messages rather than frames.
        let mut collector = FragmentCollector::new(fastwebsockets::WebSocket::after_handshake(
            Wire::new(bytes),
            fastwebsockets::Role::Server,
        ));
        group.bench_function(BenchmarkId::new("fastwebsockets", size), |bencher| {
            bencher.iter(|| {
                run(async {
                    for _ in 0..count {
                        let frame = collector.read_frame().await.expect("the stream is valid");
                        black_box(&frame.payload[..]);
                    }
                });
            });
        });
    }
    group.finish();
}

criterion_group!(benches, decode);
criterion_main!(benches);

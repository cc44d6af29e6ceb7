//! Messages, text and binary in turns, are made into frames that lie in one buffer, ready for one
//! `write(2)`.
//!
//! As a server (`encode/server`) and, masked, as a client (`encode/client`). Ours appends to the
//! buffer; tungstenite has it inside, and what it flushes to takes it without a copy;
//! fastwebsockets has none and writes frame by frame, so its stream is the buffer. What a system
//! call costs is in no figure.
//!
//! Nobody has to copy a payload to own it: tungstenite's messages are shared (a clone counts
//! references), fastwebsockets borrows, and masks in place. Ours checks that text is UTF-8;
//! tungstenite's type has it checked before, fastwebsockets does not.

#[path = "support/peers.rs"]
mod peers;
mod support;

use std::hint::black_box;
use std::io::{self, Read, Write};
use std::sync::Arc;
use std::time::Instant;

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use fastwebsockets::{Frame, OpCode, Payload};
use tungstenite::Message;
use tungstenite::protocol::WebSocket;
use ws_proto::{Config, Connection, MessageKind, Role};

use self::peers::{Wire, run};
use self::support::{SIZES, text};

/// How much is written in one iteration, unless one message of each kind is more.
const STREAM_SIZE: usize = 64 * 1024;

fn server(criterion: &mut Criterion) {
    encode(criterion, Role::Server);
}

fn client(criterion: &mut Criterion) {
    encode(criterion, Role::Client);
}

fn encode(criterion: &mut Criterion, role: Role) {
    let mut group = criterion.benchmark_group(match role {
        Role::Server => "encode/server",
        Role::Client => "encode/client",
    });
    for size in SIZES {
        let count = (STREAM_SIZE / (size + 6)).max(2);
        group.throughput(Throughput::Elements(count as u64));
        let mut payload = text(size);

        #[expect(clippy::disallowed_methods, reason = "an origin for the clock")]
        let now = Instant::now();
        let config = Arc::new(Config::default());
        let mut connection = match role {
            Role::Server => Connection::server(config, now),
            Role::Client => Connection::client(config, [7; 32], now),
        };
        let kinds = [MessageKind::Text, MessageKind::Binary];
        let mut out = Vec::new();
        group.bench_function(BenchmarkId::new("ours", size), |bencher| {
            bencher.iter(|| {
                for index in 0..count {
                    connection
                        .send(kinds[index % 2], &payload, &mut out)
                        .expect("the connection is open");
                }
                black_box(&out);
                out.clear();
            });
        });

        let string = String::from_utf8(payload.clone()).expect("the text is UTF-8");
        let messages = [Message::text(string), Message::binary(payload.clone())];
        let mut tungstenite = WebSocket::from_raw_socket(
            Sink,
            match role {
                Role::Server => tungstenite::protocol::Role::Server,
                Role::Client => tungstenite::protocol::Role::Client,
            },
            None,
        );
        group.bench_function(BenchmarkId::new("tungstenite", size), |bencher| {
            bencher.iter(|| {
                for index in 0..count {
                    tungstenite
                        .write(messages[index % 2].clone())
                        .expect("a wire never fails");
                }
                tungstenite.flush().expect("a wire never fails");
            });
        });

        let mut fastwebsockets = fastwebsockets::WebSocket::after_handshake(
            Wire::new(Vec::new()),
            match role {
                Role::Server => fastwebsockets::Role::Server,
                Role::Client => fastwebsockets::Role::Client,
            },
        );
        let opcodes = [OpCode::Text, OpCode::Binary];
        group.bench_function(BenchmarkId::new("fastwebsockets", size), |bencher| {
            bencher.iter(|| {
                run(async {
                    for index in 0..count {
                        let payload = Payload::BorrowedMut(&mut payload);
                        let frame = Frame::new(true, opcodes[index % 2], None, payload);
                        fastwebsockets
                            .write_frame(frame)
                            .await
                            .expect("a wire never fails");
                    }
                });
            });
        });
    }
    group.finish();
}

/// Where tungstenite's buffer goes: it takes everything, as a kernel does, and drops it.
struct Sink;

impl Read for Sink {
    fn read(&mut self, _: &mut [u8]) -> io::Result<usize> {
        Err(io::ErrorKind::WouldBlock.into())
    }
}

impl Write for Sink {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        Ok(black_box(bytes).len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

criterion_group!(benches, server, client);
criterion_main!(benches);

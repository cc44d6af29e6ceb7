//! What permessage-deflate costs and saves, and what fan-out costs with it.
//!
//! The messages resemble one another as an application's do: JSON records with other numbers and
//! words. How small each level makes them is printed before its figures.

use std::hint::black_box;
use std::sync::Arc;
use std::time::Instant;

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use ws_proto::testing::agree;
use ws_proto::{
    Config, Connection, DeflateConfig, DeflateLevel, EncodedMessage, Event, Input, MessageKind,
};

const SIZES: [usize; 4] = [125, 1024, 16 * 1024, 64 * 1024];
const LEVELS: [u8; 4] = [1, 3, 6, 9];

/// Messages that are different from one another, sent in turns.
const MESSAGE_COUNT: usize = 64;

/// The connections that one message goes to.
const FAN_OUT: usize = 1000;

fn deflate(criterion: &mut Criterion) {
    for (name, takeover) in [("no takeover", false), ("takeover", true)] {
        for size in SIZES {
            let messages = messages(size);
            let mut group = criterion.benchmark_group(format!("deflate/{name}/{size}"));
            group.throughput(Throughput::Elements(1));
            for level in LEVELS {
                let (_, mut server) = endpoints(settings(level, takeover));
                let mut out = Vec::new();
                for message in &messages {
                    send(&mut server, message, &mut out);
                }
                report(name, size, level, out.len());
                let mut index = 0;
                group.bench_function(BenchmarkId::new("level", level), |bencher| {
                    bencher.iter(|| {
                        out.clear();
                        index = (index + 1) % MESSAGE_COUNT;
                        send(&mut server, &messages[index], &mut out);
                    });
                });
            }
            group.finish();
        }
    }
}

fn inflate(criterion: &mut Criterion) {
    for (name, takeover) in [("no takeover", false), ("takeover", true)] {
        let mut group = criterion.benchmark_group(format!("inflate/{name}"));
        group.throughput(Throughput::Elements(MESSAGE_COUNT as u64));
        for size in SIZES {
            let (mut client, mut server) = endpoints(settings(3, takeover));
            let mut bytes = Vec::new();
            for message in messages(size) {
                send(&mut client, &message, &mut bytes);
            }
            let mut buffer = bytes.clone();
            let now = now();
            group.bench_function(BenchmarkId::from_parameter(size), |bencher| {
                bencher.iter(|| {
                    // With takeover a round refers to nothing before itself, so it may come again.
                    buffer.copy_from_slice(&bytes);
                    let mut input = Input::new(&mut buffer);
                    while let Some(event) = server.receive(&mut input, now) {
                        match event {
                            Event::Message(message) => black_box(message.payload),
                            other => unreachable!("{other:?}"),
                        };
                    }
                });
            });
        }
        group.finish();
    }
}

/// One message to many connections: encoded once, or by each connection for itself.
fn fan_out(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("deflate/fan-out");
    group.throughput(Throughput::Elements(FAN_OUT as u64));
    for size in SIZES {
        let message = messages(size).swap_remove(0);
        let mut servers: Vec<_> = (0..FAN_OUT)
            .map(|_| endpoints(settings(3, false)).1)
            .collect();
        group.bench_function(BenchmarkId::new("shared", size), |bencher| {
            bencher.iter(|| {
                let message = EncodedMessage::new(MessageKind::Text, black_box(&message));
                for server in &mut servers {
                    black_box(server.frame_of(&message).expect("the connection is open"));
                }
            });
        });
        let mut out = Vec::new();
        group.bench_function(BenchmarkId::new("each by itself", size), |bencher| {
            bencher.iter(|| {
                for server in &mut servers {
                    out.clear();
                    send(server, black_box(&message), &mut out);
                }
            });
        });
    }
    group.finish();
}

fn send(connection: &mut Connection, message: &[u8], out: &mut Vec<u8>) {
    connection
        .send(MessageKind::Text, message, out)
        .expect("the connection is open");
}

fn settings(level: u8, takeover: bool) -> DeflateConfig {
    DeflateConfig::default()
        .with_level(DeflateLevel::new(level).expect("there is such a level"))
        .with_min_size(1)
        .with_server_context_takeover(takeover)
        .with_client_context_takeover(takeover)
}

fn endpoints(settings: DeflateConfig) -> (Connection, Connection) {
    let config = Arc::new(Config::default().with_deflate(Some(settings)));
    let (client, server) = agree(&settings, &settings);
    (
        Connection::client(Arc::clone(&config), [7; 32], now()).with_deflate(client),
        Connection::server(config, now()).with_deflate(server),
    )
}

#[expect(clippy::disallowed_methods, reason = "an origin for the clock")]
fn now() -> Instant {
    Instant::now()
}

#[expect(clippy::print_stderr, reason = "what is saved is half of the result")]
fn report(name: &str, size: usize, level: u8, sent: usize) {
    let percent = sent as f64 * 100.0 / (size * MESSAGE_COUNT) as f64;
    eprintln!("{name}, {size} bytes, level {level}: frames of {percent:.1} % of the messages");
}

fn messages(size: usize) -> Vec<Vec<u8>> {
    let words = [
        "alice", "bob", "carol", "dave", "morning", "offer", "price", "Grüße", "meeting", "later",
        "ticket", "sold", "tomorrow", "please", "answer", "online",
    ];
    let mut state = 0x9E37_79B9_7F4A_7C15_u64;
    let mut random = || {
        // xorshift64: the same messages in every run.
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state
    };
    let mut word = || words[(random() % 16) as usize];
    (0..MESSAGE_COUNT)
        .map(|index| {
            let mut records = String::new();
            while records.len() < size {
                let (from, one, two, three) = (word(), word(), word(), word());
                let id = records.len() * 7919 + index * 104_729;
                records.push_str(&format!(
                    "{{\"id\":{id},\"from\":\"{from}\",\"text\":\"{one} {two} {three}\"}},"
                ));
            }
            let end = records.floor_char_boundary(size);
            let mut message = records.into_bytes();
            message.truncate(end);
            message.resize(size, b' ');
            message
        })
        .collect()
}

criterion_group!(benches, deflate, inflate, fan_out);
criterion_main!(benches);

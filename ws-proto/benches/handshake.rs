//! A server reads a browser's request and makes the 101.
//!
//! Beside tungstenite's functions for the same, called without its stream and its `WebSocket`.
//! fastwebsockets leaves the request to hyper, so it has no bench of its own here. Cut into single
//! bytes the head is only given to ours: tungstenite parses it anew with each read, and gives up
//! such a stream as an attack.

use std::hint::black_box;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use tungstenite::handshake::machine::TryParse as _;
use tungstenite::handshake::server::{Request, create_response, write_response};
use ws_proto::handshake::{HeadLimits, HeadReader, RequestHead, Upgrade};

/// What a browser sends, with a cookie.
const REQUEST: &[u8] = b"GET /chat?room=42 HTTP/1.1\r\n\
    Host: app.example.com\r\n\
    Connection: Upgrade\r\n\
    Pragma: no-cache\r\n\
    Cache-Control: no-cache\r\n\
    User-Agent: Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 (KHTML, like Gecko) \
    Chrome/138.0.0.0 Safari/537.36\r\n\
    Upgrade: websocket\r\n\
    Origin: https://app.example.com\r\n\
    Sec-WebSocket-Version: 13\r\n\
    Accept-Encoding: gzip, deflate, br, zstd\r\n\
    Accept-Language: en-GB,en;q=0.9,de;q=0.8\r\n\
    Cookie: session=0123456789abcdef0123456789abcdef; theme=dark\r\n\
    Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\
    Sec-WebSocket-Extensions: permessage-deflate; client_max_window_bits\r\n\r\n";

fn handshake(criterion: &mut Criterion) {
    assert!(ours(REQUEST.len()).starts_with(b"HTTP/1.1 101 "));
    assert!(tungstenite(REQUEST).starts_with(b"HTTP/1.1 101 "));

    let mut group = criterion.benchmark_group("handshake");
    group.throughput(Throughput::Elements(1));
    group.bench_function("ours", |bencher| {
        bencher.iter(|| ours(black_box(REQUEST.len())));
    });
    group.bench_function("tungstenite", |bencher| {
        bencher.iter(|| tungstenite(black_box(REQUEST)));
    });
    group.bench_function("ours in single bytes", |bencher| {
        bencher.iter(|| ours(black_box(1)));
    });
    group.finish();
}

fn ours(piece_size: usize) -> Vec<u8> {
    let head = head(piece_size);
    let upgrade = Upgrade::new(&head).expect("the request is valid");
    upgrade.accept(None, None, &[]).expect("nothing is added")
}

fn head(piece_size: usize) -> RequestHead {
    let mut reader = HeadReader::new(HeadLimits::default());
    REQUEST
        .chunks(piece_size)
        .find_map(|piece| reader.read(piece).expect("the head is valid"))
        .expect("the head is complete")
}

fn tungstenite(request: &[u8]) -> Vec<u8> {
    let parsed = Request::try_parse(request).expect("the head is valid");
    let (_, request) = parsed.expect("the head is complete");
    let response = create_response(&request).expect("the request is valid");
    let mut out = Vec::new();
    write_response(&mut out, &response).expect("a vector takes everything");
    out
}

criterion_group!(benches, handshake);
criterion_main!(benches);

//! Checking text, whole and in pieces, beside `core::str` and simdutf8, which see it whole.
//!
//! `ascii` is JSON; `mixed` has characters of one to four bytes.

mod support;

use std::hint::black_box;

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use ws_proto::Utf8Validator;

use self::support::{SIZES, repeated, text};

/// A segment of a TCP stream over Ethernet.
const PIECE_SIZE: usize = 1448;

fn ascii(criterion: &mut Criterion) {
    utf8(criterion, "utf8/ascii", text);
}

fn mixed(criterion: &mut Criterion) {
    let unit = "κόσμε, 世界, 😀 and Grüße; ".as_bytes();
    utf8(criterion, "utf8/mixed", |size| repeated(unit, size));
}

fn utf8(criterion: &mut Criterion, name: &str, text: impl Fn(usize) -> Vec<u8>) {
    let mut group = criterion.benchmark_group(name);
    for size in SIZES {
        group.throughput(Throughput::Bytes(size as u64));
        let text = text(size);
        let text = &text[..];
        group.bench_function(BenchmarkId::new("ours whole", size), |bencher| {
            bencher.iter(|| is_valid(black_box(text), size));
        });
        group.bench_function(BenchmarkId::new("ours in pieces", size), |bencher| {
            bencher.iter(|| is_valid(black_box(text), PIECE_SIZE));
        });
        group.bench_function(BenchmarkId::new("core::str", size), |bencher| {
            bencher.iter(|| std::str::from_utf8(black_box(text)).is_ok());
        });
        group.bench_function(BenchmarkId::new("simdutf8 basic", size), |bencher| {
            bencher.iter(|| simdutf8::basic::from_utf8(black_box(text)).is_ok());
        });
        group.bench_function(BenchmarkId::new("simdutf8 compat", size), |bencher| {
            bencher.iter(|| simdutf8::compat::from_utf8(black_box(text)).is_ok());
        });
    }
    group.finish();
}

fn is_valid(text: &[u8], piece_size: usize) -> bool {
    let mut validator = Utf8Validator::new();
    text.chunks(piece_size)
        .all(|piece| validator.feed(piece).is_ok())
        && validator.is_complete()
}

criterion_group!(benches, ascii, mixed);
criterion_main!(benches);

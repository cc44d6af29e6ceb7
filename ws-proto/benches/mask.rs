//! Unmasking in place, beside a loop over bytes, fastwebsockets' own function, and what the memory
//! allows: the same words read, inverted and written back (`memory`), and a plain copy (`copy`).

mod support;

use std::hint::black_box;

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};

use self::support::{SIZES, text};

const KEY: [u8; 4] = [0x37, 0xFA, 0x21, 0x3D];

fn mask(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("mask");
    for size in SIZES {
        group.throughput(Throughput::Bytes(size as u64));
        // A payload lies anywhere behind its header: here at an odd address.
        let mut bytes = text(size + 7);
        let payload = &mut bytes[7..];

        group.bench_function(BenchmarkId::new("ours", size), |bencher| {
            bencher.iter(|| ws_proto::mask(black_box(&mut *payload), black_box(KEY)));
        });
        group.bench_function(BenchmarkId::new("naive", size), |bencher| {
            bencher.iter(|| naive(black_box(&mut *payload), black_box(KEY)));
        });
        group.bench_function(BenchmarkId::new("fastwebsockets", size), |bencher| {
            bencher.iter(|| fastwebsockets::unmask(black_box(&mut *payload), black_box(KEY)));
        });

        let mut words = vec![0_u64; size / 8];
        group.bench_function(BenchmarkId::new("memory", size), |bencher| {
            bencher.iter(|| {
                for word in black_box(&mut words[..]) {
                    *word = !*word;
                }
            });
        });
        let mut copy = vec![0_u64; size / 8];
        group.bench_function(BenchmarkId::new("copy", size), |bencher| {
            bencher.iter(|| black_box(&mut copy[..]).copy_from_slice(black_box(&words)));
        });
    }
    group.finish();
}

fn naive(payload: &mut [u8], key: [u8; 4]) {
    for (index, byte) in payload.iter_mut().enumerate() {
        *byte ^= key[index % 4];
    }
}

criterion_group!(benches, mask);
criterion_main!(benches);

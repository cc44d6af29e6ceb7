//! Binding, finding and removing connections, at the size of a busy server: 9,000 connections of
//! 3,000 users in as many sessions; beside it at 90 and 90,000, which must make no difference but
//! that of the processor's caches.

use std::hint::black_box;
use std::time::SystemTime;

use criterion::{BatchSize, BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use ws_session::{Binding, ConnectionId, ConnectionIds, Registry, SessionToken, Target, UserId};

const SIZES: [usize; 3] = [90, 9_000, 90_000];
const CONNECTIONS_PER_USER: usize = 3;
/// As much as the server keeps of each connection.
type Value = [u64; 12];

/// The connections in an order in which nobody lies beside his own.
fn crowd(size: usize) -> Vec<(ConnectionId, Binding)> {
    let mut ids = ConnectionIds::new(1);
    let users = size / CONNECTIONS_PER_USER;
    let binding = |number: usize| {
        let number = number % users;
        let mut token = [0; 32];
        token[..8].copy_from_slice(&number.to_le_bytes());
        Binding {
            user: UserId::new(&format!("user-{number}")).expect("one word is a valid user id"),
            session: SessionToken::from_random(token).id(),
        }
    };
    (0..size)
        .map(|number| (ids.next_id(), binding(number)))
        .collect()
}

fn registry_of(crowd: &[(ConnectionId, Binding)]) -> Registry<Value> {
    let mut registry = Registry::new();
    for (id, binding) in crowd {
        bind(&mut registry, *id, binding.clone());
    }
    registry
}

fn bind(registry: &mut Registry<Value>, id: ConnectionId, binding: Binding) {
    let bound = registry.insert_unique(id, binding, Value::default(), SystemTime::UNIX_EPOCH);
    bound.expect("ids do not repeat");
}

/// The time for each is what stands there: a run goes through so many of them.
fn registry(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("registry");
    for size in SIZES {
        let crowd = crowd(size);
        let full = registry_of(&crowd);
        let some: Vec<_> = crowd.iter().step_by(size / 90).cloned().collect();
        group.throughput(Throughput::Elements(some.len() as u64));

        // With the others there already.
        let mut others = full.clone();
        group.bench_function(BenchmarkId::new("remove and bind", size), |bencher| {
            bencher.iter(|| {
                for (id, binding) in &some {
                    black_box(others.remove(*id));
                    bind(&mut others, *id, black_box(binding.clone()));
                }
            });
        });
        group.bench_function(BenchmarkId::new("find connection", size), |bencher| {
            bencher.iter(|| {
                for (id, _) in &some {
                    black_box(full.select(&Target::Connection(*id)).next());
                }
            });
        });
        group.bench_function(BenchmarkId::new("find user", size), |bencher| {
            bencher.iter(|| {
                for (_, binding) in &some {
                    black_box(full.user(&binding.user).last());
                }
            });
        });
        group.bench_function(BenchmarkId::new("find session", size), |bencher| {
            bencher.iter(|| {
                for (_, binding) in &some {
                    black_box(full.session(binding.session).last());
                }
            });
        });
        group.bench_function(BenchmarkId::new("presence", size), |bencher| {
            bencher.iter(|| {
                for (_, binding) in &some {
                    black_box(full.presence(&binding.user));
                }
            });
        });

        // From nobody to all, and back: tables grow on the way.
        group.throughput(Throughput::Elements(size as u64));
        group.bench_function(BenchmarkId::new("bind all", size), |bencher| {
            bencher.iter_batched_ref(
                || (Registry::new(), crowd.clone()),
                |(registry, crowd)| {
                    for (id, binding) in crowd.drain(..) {
                        bind(registry, id, binding);
                    }
                },
                BatchSize::LargeInput,
            );
        });
        group.bench_function(BenchmarkId::new("remove all", size), |bencher| {
            bencher.iter_batched_ref(
                || full.clone(),
                |registry| {
                    for (id, _) in &crowd {
                        black_box(registry.remove(*id));
                    }
                },
                BatchSize::LargeInput,
            );
        });
    }
    group.finish();
}

criterion_group!(benches, registry);
criterion_main!(benches);

//! Pools of fork servers and workers.

use std::num::{NonZeroU64, NonZeroUsize};
use std::time::Duration;

use bytes::Bytes;
use tempfile::TempDir;
use tokio::task::JoinSet;
use ws_ipc::cgi::parse_answer;
use ws_ipc::{
    Confinement, Environment, Failure, Pool, PoolConfig, PoolKind, Recycling, ServiceCommand,
    Spawners,
};

use crate::support::{eventually, example, exists, kill, spawners};

const LONG: Duration = Duration::from_secs(20);
const SHORT: Duration = Duration::from_millis(200);

struct Setup {
    spawners: Spawners,
    pool: Pool,
    dir: TempDir,
}

impl Setup {
    async fn workers(count: usize, recycling: Recycling) -> Self {
        Self::new("worker", PoolKind::Workers, count, recycling).await
    }

    async fn new(program: &str, kind: PoolKind, count: usize, recycling: Recycling) -> Self {
        let spawners = spawners();
        let dir = tempfile::tempdir().unwrap();
        let config = PoolConfig {
            command: ServiceCommand {
                argv: vec![example(program).into()],
                env: Vec::new(),
                dir: None,
                identity: None,
                confinement: Confinement::default(),
            },
            processes: NonZeroUsize::new(count).unwrap(),
            kind,
            ahead: 2,
            recycling,
            dir: dir.path().to_owned(),
            name: "app".into(),
        };
        let pool = Pool::start(&spawners, config).await.unwrap();
        Self {
            spawners,
            pool,
            dir,
        }
    }

    async fn ask(&self, uri: &str) -> Result<String, Failure> {
        ask(&self.pool, uri, LONG).await
    }

    async fn end(self) {
        let pids = self.pool.pids();
        self.pool.shutdown().await;
        drop(self.pool);
        self.spawners.shutdown().await;
        let dir = self.dir.path();
        eventually("neither a process nor a socket is left", || {
            let sockets = std::fs::read_dir(dir).unwrap().count();
            sockets == 0 && pids.iter().all(|&pid| !exists(pid))
        })
        .await;
    }
}

async fn ask(pool: &Pool, uri: &str, timeout: Duration) -> Result<String, Failure> {
    let mut env = Environment::new();
    env.set("REQUEST_URI", uri).unwrap();
    let payload = Bytes::from_static(b"payload");
    let answer = pool.call(&env, &payload, timeout, 1 << 20).await?;
    let answer = parse_answer(&answer).unwrap();
    Ok(String::from_utf8(answer.body().to_vec()).unwrap())
}

#[tokio::test]
async fn worker_serves_one_request_after_another_and_there_are_as_many_as_asked_for() {
    let setup = Setup::workers(3, Recycling::default()).await;
    let mut calls = JoinSet::new();
    for _ in 0..90 {
        let pool = setup.pool.clone();
        calls.spawn(async move { ask(&pool, "/pid", LONG).await.unwrap() });
    }
    let mut pids = calls.join_all().await;
    pids.sort();
    pids.dedup();
    assert!(pids.len() <= 3, "{pids:?}");
    assert_eq!(setup.ask("/body").await.unwrap(), "payload");
    assert_eq!(setup.pool.stats().restarts, 0);
    setup.end().await;
}

#[tokio::test]
async fn worker_that_crashes_costs_one_answer() {
    let setup = Setup::workers(1, Recycling::default()).await;
    let first = setup.ask("/pid").await.unwrap();
    assert_eq!(setup.ask("/panic").await, Err(Failure::Lost));
    // Waits for the next one.
    let second = setup.ask("/pid").await.unwrap();
    assert_ne!(first, second);
    assert_eq!(setup.pool.stats().restarts, 1);
    setup.end().await;
}

#[tokio::test]
async fn t61_worker_that_hangs_is_killed_and_its_slot_is_free_again() {
    let setup = Setup::workers(1, Recycling::default()).await;
    for _ in 0..5 {
        let pid: i32 = setup.ask("/pid").await.unwrap().parse().unwrap();
        let hung = ask(&setup.pool, "/hang", SHORT).await;
        assert_eq!(hung, Err(Failure::TimedOut));
        eventually("it is gone", || !exists(pid)).await;
    }
    assert_eq!(setup.ask("/served").await.unwrap(), "1");
    setup.end().await;
}

#[tokio::test]
async fn request_that_nobody_waits_for_any_more_is_not_answered_to_another() {
    let setup = Setup::workers(1, Recycling::default()).await;
    for _ in 0..5 {
        let dropped = tokio::time::timeout(SHORT / 10, setup.ask("/hang")).await;
        assert!(dropped.is_err());
        assert_eq!(setup.ask("/body").await.unwrap(), "payload");
    }
    setup.end().await;
}

#[tokio::test]
async fn t60_worker_that_answers_too_much_is_killed_with_that_answer() {
    let setup = Setup::workers(1, Recycling::default()).await;
    let flood = setup.ask("/flood").await;
    assert_eq!(flood, Err(Failure::OutputTooLong { max: 1 << 20 }));
    assert_eq!(setup.ask("/served").await.unwrap(), "1");
    setup.end().await;
}

#[tokio::test]
async fn worker_is_replaced_after_its_requests_and_none_is_lost() {
    let recycling = Recycling {
        max_requests: NonZeroU64::new(5),
        ..Recycling::default()
    };
    let setup = Setup::workers(2, recycling).await;
    for _ in 0..40 {
        let served: u64 = setup.ask("/served").await.unwrap().parse().unwrap();
        assert!(served <= 5, "{served}");
    }
    let stats = setup.pool.stats();
    assert!(stats.replaced >= 6, "{stats:?}");
    assert_eq!(stats.restarts, 0, "nothing was killed");
    setup.end().await;
}

#[tokio::test]
async fn worker_that_holds_too_much_memory_or_is_old_is_replaced() {
    let by_memory = Recycling {
        max_memory: Some(64 << 20),
        ..Recycling::default()
    };
    let setup = Setup::workers(1, by_memory).await;
    let mut most = 0;
    for _ in 0..200 {
        let kept: u64 = setup.ask("/keep").await.unwrap().parse().unwrap();
        most = most.max(kept);
    }
    assert!((30..64).contains(&most), "{most} MiB");
    setup.end().await;

    let by_age = Recycling {
        max_age: Some(Duration::from_millis(1)),
        ..Recycling::default()
    };
    let setup = Setup::workers(1, by_age).await;
    let first = setup.ask("/pid").await.unwrap();
    while setup.ask("/pid").await.unwrap() == first {}
    assert_eq!(setup.pool.stats().restarts, 0, "nothing was killed");
    setup.end().await;
}

#[tokio::test]
async fn worker_that_is_killed_while_idle_is_not_missed() {
    let setup = Setup::workers(2, Recycling::default()).await;
    for pid in setup.pool.pids() {
        kill(pid);
    }
    eventually("both are noticed", || setup.pool.stats().restarts == 2).await;
    for _ in 0..10 {
        assert_eq!(setup.ask("/body").await.unwrap(), "payload");
    }
    setup.end().await;
}

#[tokio::test]
async fn reload_replaces_all_and_what_is_in_hand_is_finished() {
    for (program, kind) in [
        ("worker", PoolKind::Workers),
        ("forkserver", PoolKind::ForkServers),
    ] {
        let setup = Setup::new(program, kind, 2, Recycling::default()).await;
        let before = setup.pool.pids();
        let mut calls = JoinSet::new();
        for round in 0..60 {
            let pool = setup.pool.clone();
            calls.spawn(async move { ask(&pool, "/body", LONG).await });
            if round % 20 == 0 {
                setup.pool.reload();
            }
        }
        for answer in calls.join_all().await {
            assert_eq!(answer.unwrap(), "payload");
        }
        eventually("all are replaced", || {
            let pids = setup.pool.pids();
            pids.len() == 2 && pids.iter().all(|pid| !before.contains(pid))
        })
        .await;
        eventually("the old ones have ended", || {
            before.iter().all(|&pid| !exists(pid))
        })
        .await;
        assert_eq!(setup.pool.stats().restarts, 0);
        setup.end().await;
    }
}

#[tokio::test]
async fn fork_servers_share_the_requests() {
    let setup = Setup::new("forkserver", PoolKind::ForkServers, 2, Recycling::default()).await;
    let mut calls = JoinSet::new();
    for _ in 0..40 {
        let pool = setup.pool.clone();
        calls.spawn(async move { ask(&pool, "/parent", LONG).await.unwrap() });
    }
    let mut parents = calls.join_all().await;
    parents.sort();
    parents.dedup();
    let mut pids: Vec<String> = setup.pool.pids().iter().map(i32::to_string).collect();
    pids.sort();
    assert_eq!(parents, pids);
    setup.end().await;
}

#[tokio::test]
async fn program_that_is_not_there_is_said_at_the_start() {
    let spawners = spawners();
    let dir = tempfile::tempdir().unwrap();
    let config = PoolConfig {
        command: ServiceCommand {
            argv: vec!["/no/such/program".into()],
            env: Vec::new(),
            dir: None,
            identity: None,
            confinement: Confinement::default(),
        },
        processes: NonZeroUsize::MIN,
        kind: PoolKind::Workers,
        ahead: 1,
        recycling: Recycling::default(),
        dir: dir.path().to_owned(),
        name: "app".into(),
    };
    let failure = Pool::start(&spawners, config).await.unwrap_err();
    assert_eq!(failure.cause(), "cannot_start");
    spawners.shutdown().await;
}

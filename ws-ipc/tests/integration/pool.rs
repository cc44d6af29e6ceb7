//! Pools of fork servers and workers.

use std::num::{NonZeroU64, NonZeroUsize};
use std::path::Path;
use std::time::Duration;

use bytes::Bytes;
use tempfile::TempDir;
use tokio::task::JoinSet;
use ws_ipc::cgi::parse_answer;
use ws_ipc::{
    Confinement, Environment, Failure, Pool, PoolConfig, PoolKind, Recycling, ServiceCommand,
    Spawners,
};

use crate::support::{children_of, eventually, example, exists, kill, processes_with, spawners};

const LONG: Duration = Duration::from_secs(20);
const SHORT: Duration = Duration::from_millis(200);

struct Setup {
    spawners: Spawners,
    pool: Pool,
    dir: TempDir,
    before: TempDir,
}

/// A program behind a shell.
fn config(program: &str, kind: PoolKind, count: usize, before: &Path, dir: &Path) -> PoolConfig {
    std::fs::write(before.join("script"), "").unwrap();
    let script = r#". "$0/script" && exec "$1""#;
    let argv = ["/bin/sh", "-c", script].map(Into::into);
    let files = [before.into(), example(program).into()];
    PoolConfig {
        command: ServiceCommand {
            argv: argv.into_iter().chain(files).collect(),
            env: Vec::new(),
            dir: None,
            identity: None,
            confinement: Confinement::default(),
        },
        processes: NonZeroUsize::new(count).unwrap(),
        kind,
        ahead: 2,
        recycling: Recycling::default(),
        load_timeout: LONG,
        probation: SHORT,
        dir: dir.to_owned(),
        name: "app".into(),
    }
}

impl Setup {
    async fn workers(count: usize, recycling: Recycling) -> Self {
        Self::new("worker", PoolKind::Workers, count, recycling).await
    }

    async fn new(program: &str, kind: PoolKind, count: usize, recycling: Recycling) -> Self {
        Self::of(program, kind, count, recycling, SHORT).await
    }

    /// Workers that are on trial for this long after a reload.
    async fn on_trial(count: usize, probation: Duration) -> Self {
        let recycling = Recycling::default();
        Self::of("worker", PoolKind::Workers, count, recycling, probation).await
    }

    async fn of(
        program: &str,
        kind: PoolKind,
        count: usize,
        recycling: Recycling,
        probation: Duration,
    ) -> Self {
        let spawners = spawners();
        let dir = tempfile::tempdir().unwrap();
        let before = tempfile::tempdir().unwrap();
        let config = PoolConfig {
            probation,
            recycling,
            ..config(program, kind, count, before.path(), dir.path())
        };
        let pool = Pool::start(&spawners, config).await.unwrap();
        // Or what is to precede the next ones would precede these.
        let exe = example(program).canonicalize().unwrap();
        eventually("the shells have become the program", || {
            let exes = pool.pids().into_iter();
            exes.map(|pid| std::fs::read_link(format!("/proc/{pid}/exe")))
                .all(|link| link.is_ok_and(|link| link == exe))
        })
        .await;
        Self {
            spawners,
            pool,
            dir,
            before,
        }
    }

    /// What a shell does from now on before it becomes the program.
    fn before(&self, script: &str) {
        std::fs::write(self.before.path().join("script"), script).unwrap();
    }

    /// Reloads and waits until other processes serve.
    async fn renew(&self) -> Vec<i32> {
        let former = self.pool.pids();
        self.pool.reload();
        eventually("others serve", || {
            let pids = self.pool.pids();
            pids.len() == former.len() && pids.iter().all(|pid| !former.contains(pid))
        })
        .await;
        self.pool.pids()
    }

    async fn until_failed(&self, times: u64) {
        let failed = || self.pool.stats().failed_replacements == times;
        eventually("a replacement has failed", failed).await;
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
async fn successor_that_ends_late_while_it_loads_replaces_nobody() {
    for (program, kind) in [
        ("worker", PoolKind::Workers),
        ("forkserver", PoolKind::ForkServers),
    ] {
        let setup = Setup::new(program, kind, 2, Recycling::default()).await;
        let before = setup.pool.pids();
        setup.before("/bin/sleep 0.5; exit 1");
        setup.pool.reload();
        // They serve meanwhile.
        while setup.pool.stats().failed_replacements == 0 {
            assert_eq!(setup.ask("/body").await.unwrap(), "payload");
        }
        assert_eq!(setup.pool.pids(), before);
        let stats = setup.pool.stats();
        assert_eq!((stats.replaced, stats.restarts), (0, 0));
        // What is repaired is taken.
        setup.before("");
        setup.renew().await;
        setup.end().await;
    }
}

#[tokio::test]
async fn successor_that_does_not_accept_in_time_replaces_nobody() {
    let (dir, before) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let spawners = spawners();
    let config = PoolConfig {
        load_timeout: SHORT,
        ..config("worker", PoolKind::Workers, 1, before.path(), dir.path())
    };
    let pool = Pool::start(&spawners, config).await.unwrap();
    let setup = Setup {
        spawners,
        pool,
        dir,
        before,
    };
    let pids = setup.pool.pids();
    setup.before("exec /bin/sleep 600");
    setup.pool.reload();
    setup.until_failed(1).await;
    assert_eq!(setup.pool.pids(), pids);
    setup.end().await;
}

#[tokio::test]
async fn those_before_are_back_if_a_process_on_trial_ends_without_an_answer() {
    let setup = Setup::on_trial(2, LONG).await;
    let first = setup.pool.pids();
    kill(setup.renew().await[1]);
    setup.until_failed(1).await;
    assert_eq!(setup.pool.pids(), first);
    // The first request is the end of it.
    setup.renew().await;
    assert_eq!(setup.ask("/panic").await, Err(Failure::Lost));
    setup.until_failed(2).await;
    assert_eq!(setup.pool.pids(), first);
    assert_eq!(setup.ask("/body").await.unwrap(), "payload");
    setup.end().await;
}

#[tokio::test]
async fn those_before_are_back_if_the_first_requests_fail() {
    let setup = Setup::on_trial(2, LONG).await;
    let first = setup.pool.pids();
    setup.renew().await;
    for _ in 0..3 {
        setup.ask("/failure").await.unwrap();
    }
    setup.until_failed(1).await;
    assert_eq!(setup.pool.pids(), first);
    // One that is none of its own is no answer less.
    setup.renew().await;
    setup.ask("/nothing").await.unwrap();
    for _ in 0..5 {
        setup.ask("/failure").await.unwrap();
    }
    assert_eq!(setup.pool.stats().failed_replacements, 1);
    setup.end().await;
}

/// Its connection waits in the socket, which the next process gets as well.
#[tokio::test]
async fn t61_request_that_is_given_up_before_it_is_accepted_is_not_left_to_the_next_process() {
    let setup = Setup::workers(1, Recycling::default()).await;
    let go = setup.before.path().join("go");
    setup.before(&format!(
        "while [ ! -e {} ]; do sleep 0.01; done",
        go.display()
    ));
    let first = setup.pool.pids();
    kill(first[0]);
    for former in [first[0], 0] {
        eventually("one is about to accept", || {
            let pids = setup.pool.pids();
            pids.first().is_some_and(|&pid| pid != former)
        })
        .await;
        let given_up = tokio::time::timeout(SHORT / 10, setup.ask("/hang")).await;
        assert!(given_up.is_err());
    }
    std::fs::write(go, "").unwrap();
    assert_eq!(setup.ask("/body").await.unwrap(), "payload");
    setup.end().await;
}

#[tokio::test]
async fn t61_who_hangs_up_does_not_bring_those_before_back() {
    let setup = Setup::on_trial(2, LONG).await;
    let second = setup.renew().await;
    // More than there are processes, and more than the first three.
    for _ in 0..6 {
        let dropped = tokio::time::timeout(SHORT / 10, setup.ask("/hang")).await;
        assert!(dropped.is_err());
    }
    let flood = setup.ask("/flood").await;
    assert_eq!(flood, Err(Failure::OutputTooLong { max: 1 << 20 }));
    // The trial goes on: what ends by itself fails it still.
    eventually("they run again", || {
        let pids = setup.pool.pids();
        pids.len() == 2 && pids.iter().all(|pid| !second.contains(pid))
    })
    .await;
    assert_eq!(setup.pool.stats().failed_replacements, 0);
    kill(setup.pool.pids()[0]);
    setup.until_failed(1).await;
    setup.end().await;
}

#[tokio::test]
async fn t61_request_that_hangs_is_one_of_the_first_three() {
    let setup = Setup::on_trial(1, LONG).await;
    let first = setup.pool.pids();
    setup.renew().await;
    // Those behind the one that hangs wait for their turn, and are no more failures.
    let hang = || ask(&setup.pool, "/hang", SHORT);
    let (a, b, c, d) = tokio::join!(hang(), hang(), hang(), hang());
    for answer in [a, b, c, d] {
        assert_eq!(answer, Err(Failure::TimedOut));
    }
    assert_eq!(setup.ask("/body").await.unwrap(), "payload");
    assert_eq!(setup.pool.stats().failed_replacements, 0);
    setup.renew().await;
    for _ in 0..3 {
        let hung = ask(&setup.pool, "/hang", SHORT).await;
        assert_eq!(hung, Err(Failure::TimedOut));
        eventually("it runs again", || setup.pool.pids().len() == 1).await;
    }
    setup.until_failed(1).await;
    assert_eq!(setup.pool.pids(), first);
    setup.end().await;
}

#[tokio::test]
async fn process_that_has_answered_may_end_and_after_the_trial_nobody_is_kept() {
    let setup = Setup::on_trial(1, Duration::from_secs(1)).await;
    let first = setup.pool.pids();
    let second = setup.renew().await;
    assert_eq!(setup.ask("/body").await.unwrap(), "payload");
    assert!(exists(first[0]), "it is kept");
    assert_eq!(setup.ask("/panic").await, Err(Failure::Lost));
    assert_eq!(setup.ask("/body").await.unwrap(), "payload");
    eventually("the former one has ended", || !exists(first[0])).await;
    let pids = setup.pool.pids();
    assert!(pids != first && pids != second, "{pids:?}");
    let stats = setup.pool.stats();
    assert_eq!((stats.failed_replacements, stats.restarts), (0, 1));
    setup.end().await;
}

#[tokio::test]
async fn of_several_reloads_in_a_row_those_before_all_of_them_are_back() {
    let setup = Setup::on_trial(2, LONG).await;
    let first = setup.pool.pids();
    setup.renew().await;
    let third = setup.renew().await;
    // One that does not load ends no trial.
    setup.before("exit 1");
    setup.pool.reload();
    setup.until_failed(1).await;
    assert_eq!(setup.pool.pids(), third);
    kill(third[0]);
    setup.until_failed(2).await;
    assert_eq!(setup.pool.pids(), first);
    setup.end().await;
}

#[tokio::test]
async fn reloads_that_come_faster_than_a_load_take_effect() {
    let setup = Setup::on_trial(1, Duration::ZERO).await;
    let first = setup.pool.pids();
    setup.before("/bin/sleep 0.2");
    eventually("others serve though more is asked for", || {
        setup.pool.reload();
        setup.pool.pids() != first
    })
    .await;
    // What was asked for last is done after that, once.
    let replaced = setup.pool.stats().replaced;
    let again = || setup.pool.stats().replaced == replaced + 1;
    eventually("it is done again", again).await;
    let third = setup.renew().await;
    assert_eq!(setup.pool.pids(), third);
    assert_eq!(setup.pool.stats().replaced, replaced + 2);
    setup.end().await;
}

#[tokio::test]
async fn process_that_cannot_be_recycled_goes_on() {
    let recycling = Recycling {
        max_requests: NonZeroU64::new(2),
        ..Recycling::default()
    };
    let setup = Setup::workers(1, recycling).await;
    let pids = setup.pool.pids();
    setup.before("exit 1");
    for _ in 0..5 {
        assert_eq!(setup.ask("/body").await.unwrap(), "payload");
    }
    assert_eq!(setup.pool.pids(), pids);
    assert_eq!(setup.pool.stats().failed_replacements, 2);
    setup.end().await;
}

#[tokio::test]
async fn recycling_on_trial_forgets_no_answer_and_no_failure() {
    let recycling = Recycling {
        max_requests: NonZeroU64::new(1),
        ..Recycling::default()
    };
    let kind = PoolKind::Workers;
    let setup = Setup::of("worker", kind, 1, recycling, LONG).await;
    setup.renew().await;
    assert_eq!(setup.ask("/body").await.unwrap(), "payload");
    for _ in 0..4 {
        setup.ask("/failure").await.unwrap();
    }
    let are_replaced = |count| setup.pool.stats().replaced == count;
    eventually("each was recycled", || are_replaced(6)).await;
    // One that could not be recycled has answered, too, and may end.
    setup.before("exit 1");
    assert_eq!(setup.ask("/body").await.unwrap(), "payload");
    setup.until_failed(1).await;
    setup.before("");
    assert_eq!(setup.ask("/panic").await, Err(Failure::Lost));
    assert_eq!(setup.ask("/body").await.unwrap(), "payload");
    assert_eq!(setup.pool.stats().failed_replacements, 1);
    // Or the one that is recycled would pass for the one that is reloaded.
    eventually("each was recycled", || are_replaced(8)).await;
    setup.renew().await;
    for _ in 0..3 {
        setup.ask("/failure").await.unwrap();
    }
    setup.until_failed(2).await;
    setup.end().await;
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

/// They are there for messages that may never come.
#[tokio::test]
async fn t57_daemon_of_a_message_does_not_live_with_the_children_that_wait_for_one() {
    let setup = Setup::new("forkserver", PoolKind::ForkServers, 1, Recycling::default()).await;
    let mark = format!("POOL_DAEMON={}", std::process::id());
    let daemon = format!("exec env -i {mark} sleep 600");
    let server = setup.pool.pids()[0];
    eventually("as many as are wanted", || children_of(server).len() == 2).await;
    let mut env = Environment::new();
    env.set("REQUEST_METHOD", "GET").unwrap();
    env.set("REQUEST_URI", "/leave-behind").unwrap();
    env.set("COMMAND", &daemon).unwrap();
    let answer = setup.pool.call(&env, &Bytes::new(), LONG, 1 << 20).await;
    assert!(answer.is_ok(), "{answer:?}");
    let is_there = || !processes_with(&mark).is_empty() || children_of(server).len() > 2;
    eventually("only those that wait", || !is_there()).await;
    setup.end().await;
}

#[tokio::test]
async fn program_that_is_not_there_is_said_at_the_start() {
    let spawners = spawners();
    let dir = tempfile::tempdir().unwrap();
    let mut config = config("none", PoolKind::Workers, 1, dir.path(), dir.path());
    config.command.argv = vec!["/no/such/program".into()];
    let failure = Pool::start(&spawners, config).await.unwrap_err();
    assert_eq!(failure.cause(), "cannot_start");
    spawners.shutdown().await;
}

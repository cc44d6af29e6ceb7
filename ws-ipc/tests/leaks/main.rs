//! What remains when everything has ended: nothing.
//!
//! A process of its own, because descriptors and children are counted for the whole of it, and its
//! tests run one after the other.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

#[path = "../integration/support.rs"]
#[expect(dead_code, reason = "shared with the other tests")]
mod support;

use std::collections::BTreeSet;
use std::sync::Mutex;
use std::time::Duration;

use tokio::task::JoinSet;
use ws_ipc::{Confinement, Environment, Failure, PoolKind, Service, ServiceCommand, scgi_call};

use support::{children_of, eventually, example, exists, kill, run, script, spawners};

static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());

/// The descriptors and children of this process.
#[derive(Debug, PartialEq, Eq)]
struct Holdings {
    descriptors: BTreeSet<String>,
    children: Vec<i32>,
}

impl Holdings {
    fn now() -> Self {
        let entries = std::fs::read_dir("/proc/self/fd").unwrap();
        let links = entries.filter_map(|entry| {
            let path = entry.unwrap().path();
            Some(format!(
                "{} {}",
                path.display(),
                std::fs::read_link(&path).ok()?.display()
            ))
        });
        Self {
            descriptors: links.collect(),
            children: all_children(),
        }
    }
}

fn all_children() -> Vec<i32> {
    let tasks = std::fs::read_dir("/proc/self/task").unwrap();
    let lists = tasks
        .filter_map(|task| std::fs::read_to_string(task.unwrap().path().join("children")).ok());
    lists
        .flat_map(|list| {
            list.split_ascii_whitespace()
                .map(|pid| pid.parse().unwrap())
                .collect::<Vec<i32>>()
        })
        .collect()
}

/// Runs a test alone in this process, and compares what it holds before and after.
fn leaves_nothing<T: AsyncFnOnce()>(test: T) {
    let _guard = ONE_AT_A_TIME
        .lock()
        .unwrap_or_else(std::sync::PoisonError::into_inner);
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    runtime.block_on(async {
        let before = Holdings::now();
        test().await;
        // A task may still be about to be dropped, with what it holds.
        let after = async {
            while Holdings::now() != before {
                tokio::task::yield_now().await;
            }
        };
        let _ = tokio::time::timeout(Duration::from_secs(5), after).await;
        assert_eq!(Holdings::now(), before);
    });
}

#[test]
fn inv_19_t56_nothing_remains_of_two_hundred_runs_at_once() {
    leaves_nothing(async || {
        let spawners = spawners();
        let mut runs = JoinSet::new();
        for n in 0..200 {
            let spawners = spawners.clone();
            // A third ends well, a third crashes, a third leaves children behind.
            let text = match n % 3 {
                0 => "echo well",
                1 => "kill -SEGV $$",
                _ => "sleep 600 & setsid sleep 600 & echo well",
            };
            runs.spawn(async move { (n, run(&spawners, script(text)).await) });
        }
        while let Some(done) = runs.join_next().await {
            match done.unwrap() {
                (n, Err(Failure::Signaled(11))) if n % 3 == 1 => {}
                (n, Ok(output)) if n % 3 != 1 => assert_eq!(output, "well\n"),
                other => panic!("{other:?}"),
            }
        }
        let stats = spawners.stats();
        assert_eq!((stats.running, stats.started, stats.alive), (0, 200, 2));
        for pid in spawners.pids() {
            eventually("no child of a spawner", || children_of(pid).is_empty()).await;
        }
        spawners.shutdown().await;
    });
}

#[test]
fn inv_19_t57_who_bears_the_mark_of_a_spawner_and_is_none_does_not_remain() {
    leaves_nothing(async || {
        let spawners = spawners();
        let text = "WS_JOB=spawner setsid sleep 600 & echo well";
        assert_eq!(run(&spawners, script(text)).await.unwrap(), "well\n");
        for pid in spawners.pids() {
            eventually("no child of a spawner", || children_of(pid).is_empty()).await;
        }
        spawners.shutdown().await;
    });
}

#[test]
fn inv_19_nothing_remains_of_runs_that_are_cancelled() {
    leaves_nothing(async || {
        let spawners = spawners();
        for delay in 0..40 {
            let run = run(&spawners, script("sleep 600 & sleep 600"));
            let waited = tokio::time::timeout(Duration::from_micros(delay * 200), run).await;
            assert!(waited.is_err());
        }
        for pid in spawners.pids() {
            eventually("no child of a spawner", || children_of(pid).is_empty()).await;
        }
        assert_eq!(spawners.stats().running, 0);
        spawners.shutdown().await;
    });
}

#[test]
fn inv_19_nothing_remains_of_killed_spawners() {
    leaves_nothing(async || {
        let spawners = spawners();
        let mut runs = JoinSet::new();
        for _ in 0..10 {
            let spawners = spawners.clone();
            let text = "sleep 600 & setsid sleep 600 & sleep 600";
            runs.spawn(async move { run(&spawners, script(text)).await });
        }
        let pids = spawners.pids();
        eventually("all running", || spawners.stats().running == 10).await;
        eventually("all complete", || {
            pids.iter()
                .flat_map(|&pid| children_of(pid))
                .flat_map(children_of)
                .count()
                == 30
        })
        .await;
        let jobs: Vec<i32> = pids.iter().flat_map(|&pid| children_of(pid)).collect();
        let descendants: Vec<i32> = jobs.iter().flat_map(|&pid| children_of(pid)).collect();
        pids.iter().for_each(|&pid| kill(pid));
        while let Some(lost) = runs.join_next().await {
            assert_eq!(lost.unwrap(), Err(Failure::Lost));
        }
        // Whoever hears that a run is lost may rely on its being over.
        assert!(!jobs.iter().chain(&descendants).any(|&pid| exists(pid)));
        eventually("two new ones", || spawners.stats().alive == 2).await;
        assert_eq!(
            run(&spawners, script("echo again")).await.unwrap(),
            "again\n"
        );
        spawners.shutdown().await;
    });
}

#[test]
fn inv_19_nothing_remains_of_spawners_that_die_again_and_again_under_load() {
    leaves_nothing(async || {
        let spawners = spawners();
        let mut runs = JoinSet::new();
        for _ in 0..5 {
            for _ in 0..20 {
                let spawners = spawners.clone();
                let text = "sleep 600 & setsid sleep 600 & echo well";
                runs.spawn(async move { run(&spawners, script(text)).await });
            }
            eventually("some are running", || spawners.stats().running > 0).await;
            let pids = spawners.pids();
            // In the middle of starting, of releasing, and of reaping what the other one left.
            pids.iter().for_each(|&pid| kill(pid));
            eventually("two new ones", || {
                let now = spawners.pids();
                now.len() == 2 && !now.iter().any(|pid| pids.contains(pid))
            })
            .await;
        }
        while let Some(done) = runs.join_next().await {
            assert!(matches!(
                done.unwrap().as_deref(),
                Ok("well\n") | Err(Failure::Lost)
            ));
        }
        spawners.shutdown().await;
    });
}

#[test]
fn inv_19_nothing_remains_after_replacement_by_a_sibling() {
    leaves_nothing(async || {
        let spawners = spawners();
        for _ in 0..2 {
            let [first, second] = spawners.pids()[..] else {
                panic!("two are expected")
            };
            kill(first);
            eventually("a replacement", || {
                let pids = spawners.pids();
                pids.len() == 2 && !pids.contains(&first)
            })
            .await;
            let replacement = spawners
                .pids()
                .into_iter()
                .find(|&pid| pid != second)
                .unwrap();
            assert!(
                children_of(second).contains(&replacement),
                "not started by its sibling"
            );
            // Now the one whose sibling's child the replacement is.
            kill(second);
            eventually("a second replacement", || {
                let pids = spawners.pids();
                pids.len() == 2 && !pids.contains(&second)
            })
            .await;
            assert!(exists(replacement), "killed with its parent");
        }
        assert_eq!(
            run(&spawners, script("echo still")).await.unwrap(),
            "still\n"
        );
        spawners.shutdown().await;
    });
}

#[test]
fn inv_19_dropping_the_last_handle_ends_everything() {
    leaves_nothing(async || {
        let spawners = spawners();
        let pids = spawners.pids();
        let running = tokio::spawn({
            let spawners = spawners.clone();
            async move { run(&spawners, script("sleep 600")).await }
        });
        eventually("it runs", || spawners.stats().running == 1).await;
        drop(spawners);
        // The run holds a handle itself.
        running.abort();
        assert!(running.await.unwrap_err().is_cancelled());
        eventually("all gone", || !pids.iter().any(|&pid| exists(pid))).await;
    });
}

#[test]
fn inv_19_nothing_remains_of_a_service() {
    leaves_nothing(async || {
        let spawners = spawners();
        let dir = tempfile::tempdir().unwrap();
        let command = ServiceCommand {
            argv: vec![example("forkserver").into()],
            env: Vec::new(),
            dir: None,
            identity: None,
            confinement: Confinement::default(),
        };
        let path = dir.path().join("service.sock");
        let service = Service::start(&spawners, command, PoolKind::ForkServers, &path)
            .await
            .unwrap();
        let server = service.pid().unwrap();
        for uri in ["/pid", "/panic", "/hang"] {
            let mut env = Environment::new();
            env.set("REQUEST_URI", uri).unwrap();
            let timeout = Duration::from_secs(if uri == "/hang" { 0 } else { 20 });
            let answer = scgi_call(&service, &env, &"".into(), timeout, 1 << 20).await;
            assert_eq!(answer.is_ok(), uri == "/pid", "{answer:?}");
        }
        service.shutdown().await;
        drop(service);
        spawners.shutdown().await;
        assert!(!exists(server));
        eventually("no path left", || !path.exists()).await;
    });
}

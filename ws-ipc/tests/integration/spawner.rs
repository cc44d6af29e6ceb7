//! Spawners: what their children see, and how they end.

use std::os::fd::OwnedFd;
use std::time::Duration;

use ws_ipc::{
    Confinement, Failure, HelperCommand, Identity, Job, Signal, Spawners, SpawnersConfig,
};

use crate::support::{
    children_of, command, eventually, exists, kill, processes_with, run, script, spawners, strings,
};

fn null() -> OwnedFd {
    std::fs::File::options()
        .read(true)
        .write(true)
        .open("/dev/null")
        .unwrap()
        .into()
}

fn job(args: &[&str]) -> Job {
    Job {
        argv: strings(args),
        env: vec![("PATH".into(), "/usr/bin:/bin".into())],
        dir: None,
        identity: None,
        confinement: Confinement::default(),
        stdin: null(),
        stdout: null(),
        stderr: null(),
    }
}

#[tokio::test]
async fn t54_child_sees_descriptors_0_1_and_2_alone() {
    let spawners = spawners();
    // One that is not close-on-exec, as a careless library or our own parent may leave it.
    let leaky = null();
    keep_on_exec(&leaky);
    let listing = run(&spawners, script("exec ls -l /proc/self/fd"))
        .await
        .unwrap();
    let names: Vec<_> = listing
        .lines()
        .filter_map(|line| line.split_once(" -> "))
        .map(|(left, target)| (left.rsplit(' ').next().unwrap(), target))
        .collect();
    // The last is the directory that ls itself reads.
    assert_eq!(names.len(), 4, "{listing}");
    assert_eq!(names[3].0, "3");
    assert!(names[3].1.starts_with("/proc/"), "{listing}");
    assert!(
        names[..3]
            .iter()
            .all(|(_, target)| target.starts_with("pipe:")),
        "{listing}"
    );
    spawners.shutdown().await;
}

fn keep_on_exec(descriptor: &OwnedFd) {
    use nix::fcntl::{FcntlArg, FdFlag, fcntl};
    fcntl(descriptor, FcntlArg::F_SETFD(FdFlag::empty())).unwrap();
}

#[tokio::test]
async fn t55_child_starts_with_default_signals_and_a_group_of_its_own() {
    let spawners = spawners();
    for identity in [None, Some(Identity { uid: 0, gid: 0 })] {
        if identity.is_some() && !nix::unistd::geteuid().is_root() {
            continue;
        }
        let mut exec = command(&["cat", "/proc/self/status", "/proc/self/stat"]);
        exec.identity = identity;
        let status = run(&spawners, exec).await.unwrap();
        for field in ["SigBlk", "SigIgn", "SigCgt"] {
            assert_eq!(signals(&status, field), 0, "{field}");
        }
        let stat: Vec<_> = status.lines().last().unwrap().split(' ').collect();
        assert_eq!(stat[0], stat[4], "leader of its process group");
    }
    spawners.shutdown().await;
}

/// A set of signals in `/proc/self/status`.
///
/// Without 32 and 33: glibc keeps them for itself, and its `posix_spawn` leaves them ignored.
fn signals(status: &str, field: &str) -> u64 {
    let line = status.lines().find(|line| line.starts_with(field)).unwrap();
    u64::from_str_radix(line.rsplit('\t').next().unwrap(), 16).unwrap() & !(0b11 << 31)
}

#[tokio::test]
async fn t55_spawner_outlives_the_signals_of_a_terminal() {
    use nix::sys::signal::Signal::{SIGHUP, SIGINT, SIGTERM, SIGUSR1};
    let spawners = spawners();
    let pids = spawners.pids();
    // One job each: then both are past their own start.
    let first = spawners.spawn(job(&["sleep", "600"])).await.unwrap();
    let _second = spawners.spawn(job(&["sleep", "600"])).await.unwrap();
    drop(first);
    for n in 0..200 {
        for &pid in &pids {
            let signal = [SIGHUP, SIGINT, SIGTERM, SIGUSR1][n % 4];
            nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid), signal).unwrap();
        }
        if n % 20 == 0 {
            let status = run(&spawners, command(&["cat", "/proc/self/status"]))
                .await
                .unwrap();
            assert_eq!(
                (signals(&status, "SigBlk"), signals(&status, "SigIgn")),
                (0, 0)
            );
        }
    }
    assert_eq!(spawners.pids(), pids);
    spawners.shutdown().await;
}

#[tokio::test]
async fn environment_is_what_was_given_and_a_mark() {
    let spawners = spawners();
    let mut exec = command(&["env"]);
    exec.env.push(("WS_CONNECTION_ID".into(), "17".into()));
    let answer = run(&spawners, exec).await.unwrap();
    let mut names: Vec<_> = answer
        .lines()
        .map(|line| line.split('=').next().unwrap())
        .collect();
    names.sort_unstable();
    assert_eq!(names, ["PATH", "WS_CONNECTION_ID", "WS_JOB"]);
    spawners.shutdown().await;
}

#[tokio::test]
async fn directory_and_user_are_applied() {
    let spawners = spawners();
    let dir = tempfile::tempdir().unwrap();
    let mut exec = script("pwd; id -u; id -g; id -G");
    exec.dir = Some(dir.path().to_owned());
    let answer = run(&spawners, exec.clone()).await.unwrap();
    let real = std::fs::canonicalize(dir.path()).unwrap();
    assert_eq!(answer.lines().next(), real.to_str());
    if nix::unistd::geteuid().is_root() {
        exec.dir = None;
        exec.identity = Some(Identity {
            uid: 65534,
            gid: 65533,
        });
        let answer = run(&spawners, exec).await.unwrap();
        let ids: Vec<_> = answer.lines().skip(1).collect();
        assert_eq!(
            ids,
            ["65534", "65533", "65533"],
            "no supplementary group is kept"
        );
    }
    spawners.shutdown().await;
}

#[tokio::test]
async fn t63_refusal_names_its_object_and_the_system_error() {
    let spawners = spawners();
    let dir = tempfile::tempdir().unwrap();
    let plain = dir.path().join("plain");
    std::fs::write(&plain, "#!/bin/sh\n").unwrap();
    let plain = plain.to_str().unwrap();
    let huge = "x".repeat(200 * 1024);
    let mut nowhere = command(&["/bin/true"]);
    nowhere.dir = Some("/no/such/directory".into());
    let cases = [
        (
            command(&["/no/such/program"]),
            "/no/such/program",
            nix::libc::ENOENT,
        ),
        (
            command(&["no-such-program"]),
            "no-such-program",
            nix::libc::ENOENT,
        ),
        (command(&[plain]), plain, nix::libc::EACCES),
        // The kernel takes strings of up to 128 KiB.
        (
            command(&["/bin/echo", &huge]),
            "/bin/echo",
            nix::libc::E2BIG,
        ),
        (
            command(&["/bin/echo", "a\0b"]),
            "/bin/echo",
            nix::libc::EINVAL,
        ),
        (nowhere, "/no/such/directory", nix::libc::ENOENT),
        (command(&[]), "", nix::libc::EINVAL),
    ];
    for (exec, what, errno) in cases {
        let failure = run(&spawners, exec).await.unwrap_err();
        assert_eq!(
            failure,
            Failure::CannotStart {
                what: what.into(),
                errno
            }
        );
    }
    // More than ever travels to a spawner.
    let exec = command(&vec![huge.as_str(); 50]);
    assert!(matches!(
        run(&spawners, exec).await,
        Err(Failure::CannotStart {
            errno: nix::libc::E2BIG,
            ..
        })
    ));
    assert_eq!(spawners.stats().running, 0);
    assert_eq!(spawners.stats().restarts, 0);
    spawners.shutdown().await;
}

#[tokio::test]
async fn t52_large_and_odd_arguments_arrive_byte_for_byte() {
    let spawners = spawners();
    let large = "a".repeat(100 * 1024);
    for odd in [
        "--help",
        "-rf",
        "$(id)",
        ";id",
        "%00",
        "a\nb",
        "'\"\\",
        large.as_str(),
    ] {
        let mut exec = command(&["printenv", "VALUE"]);
        exec.env.push(("VALUE".into(), odd.into()));
        assert_eq!(run(&spawners, exec).await.unwrap(), format!("{odd}\n"));
        let exec = command(&["printf", "%s", odd]);
        assert_eq!(run(&spawners, exec).await.unwrap(), odd);
    }
    spawners.shutdown().await;
}

#[tokio::test]
async fn released_child_dies_with_its_group_and_its_daemons() {
    let spawners = spawners();
    let mark = format!("SPAWNER_DAEMON={}", std::process::id());
    // One in the group, one in a session of its own, one that hides where it comes from.
    let text = format!(
        "export {mark}; sleep 600 & setsid sh -c 'sleep 600 & exec sleep 600' & \
         setsid env -i {mark} sleep 600 & exec sleep 600"
    );
    let child = spawners
        .spawn(job(&["/bin/sh", "-c", &text]))
        .await
        .unwrap();
    // A shell each may still be in between; all of them carry the mark.
    eventually("five sleepers", || {
        let sleepers = processes_with(&mark).into_iter().filter(|pid| {
            std::fs::read_to_string(format!("/proc/{pid}/comm")).is_ok_and(|it| it == "sleep\n")
        });
        // The leader's environment is that of its start, without the mark.
        sleepers.count() >= 4
    })
    .await;
    let pid = child.pid();
    child.release();
    eventually("nobody left", || {
        processes_with(&mark).is_empty() && !exists(pid)
    })
    .await;
    spawners.shutdown().await;
}

#[tokio::test]
async fn t57_daemon_that_hides_is_killed_when_nothing_else_runs() {
    let spawners = spawners();
    let mark = format!("HIDDEN_DAEMON={}", std::process::id());
    let text = format!("setsid env -i {mark} setsid sleep 600 </dev/null >/dev/null 2>&1 &");
    run(&spawners, script(&text)).await.unwrap();
    eventually("it is gone", || processes_with(&mark).is_empty()).await;
    for pid in spawners.pids() {
        eventually("no child left", || children_of(pid).is_empty()).await;
    }
    spawners.shutdown().await;
}

#[tokio::test]
async fn leader_stays_a_zombie_until_it_is_released() {
    let spawners = spawners();
    let mut child = spawners
        .spawn(job(&["/bin/sh", "-c", "exit 7"]))
        .await
        .unwrap();
    assert_eq!(child.wait().await.unwrap().code(), Some(7));
    assert_eq!(child.wait().await.unwrap().code(), Some(7));
    assert!(exists(child.pid()), "its number may be another's already");
    assert_eq!(spawners.stats().running, 0);
    let pid = child.pid();
    drop(child);
    eventually("reaped", || !exists(pid)).await;
    spawners.shutdown().await;
}

#[tokio::test]
async fn t58_number_goes_to_somebody_else_only_when_nothing_more_is_sent_to_it() {
    let spawners = spawners();
    let mut child = spawners
        .spawn(job(&["/bin/sh", "-c", "exit 7"]))
        .await
        .unwrap();
    child.wait().await.unwrap();
    let pid = child.pid();
    match victim_with(pid, 20) {
        Ok(victim) => assert!(victim.is_none(), "its number is another's"),
        Err(error) => {
            eprintln!("skipped: {LAST_PID}: {error}");
            spawners.shutdown().await;
            return;
        }
    }
    child.signal_group(Signal::Terminate);
    child.release();
    eventually("its number is free", || !exists(pid)).await;
    // Others start processes too, so it takes some attempts.
    let Some(mut victim) = victim_with(pid, 5000).unwrap() else {
        eprintln!("skipped: the number went to somebody else");
        spawners.shutdown().await;
        return;
    };
    run(&spawners, script("true")).await.unwrap();
    spawners.shutdown().await;
    assert!(
        victim.try_wait().unwrap().is_none(),
        "the victim was killed"
    );
    victim.kill().unwrap();
    victim.wait().unwrap();
}

/// What the kernel gave last in this namespace; the next process gets the number after it.
const LAST_PID: &str = "/proc/sys/kernel/ns_last_pid";

/// Starts a process that has this number, if that succeeds with so many attempts.
fn victim_with(pid: i32, attempts: usize) -> std::io::Result<Option<std::process::Child>> {
    for _ in 0..attempts {
        std::fs::write(LAST_PID, (pid - 1).to_string())?;
        let mut victim = std::process::Command::new("sleep").arg("600").spawn()?;
        if i32::try_from(victim.id()) == Ok(pid) {
            return Ok(Some(victim));
        }
        victim.kill()?;
        victim.wait()?;
    }
    Ok(None)
}

#[tokio::test]
async fn t55_children_are_clean_and_spawners_live_in_a_storm_of_signals() {
    let spawners = spawners();
    // Past their own start, in which a signal still ends them.
    for _ in 0..4 {
        run(&spawners, script("true")).await.unwrap();
    }
    let pids = spawners.pids();
    let is_over = std::sync::atomic::AtomicBool::new(false);
    let is_over = std::sync::Arc::new(is_over);
    let storm = {
        let (is_over, pids) = (std::sync::Arc::clone(&is_over), pids.clone());
        std::thread::spawn(move || {
            while !is_over.load(std::sync::atomic::Ordering::Relaxed) {
                for &pid in &pids {
                    let pid = nix::unistd::Pid::from_raw(pid);
                    let _ = nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGUSR1);
                }
            }
        })
    };
    let mut lanes = tokio::task::JoinSet::new();
    for _ in 0..4 {
        let spawners = spawners.clone();
        lanes.spawn(async move {
            for _ in 0..100 {
                let status = run(&spawners, command(&["cat", "/proc/self/status"]));
                let status = status.await.unwrap();
                for field in ["SigBlk", "SigIgn", "SigCgt"] {
                    assert_eq!(signals(&status, field), 0, "{field}");
                }
            }
        });
    }
    let ended = lanes.join_all();
    ended.await;
    is_over.store(true, std::sync::atomic::Ordering::Relaxed);
    storm.join().unwrap();
    assert_eq!(spawners.pids(), pids);
    spawners.shutdown().await;
}

#[tokio::test]
async fn signal_reaches_the_group() {
    let spawners = spawners();
    let mut child = spawners.spawn(job(&["sleep", "600"])).await.unwrap();
    child.signal_group(Signal::Interrupt);
    let status = child.wait().await.unwrap();
    assert_eq!(
        std::os::unix::process::ExitStatusExt::signal(&status),
        Some(2)
    );
    spawners.shutdown().await;
}

#[tokio::test]
async fn killed_spawner_loses_its_jobs_and_is_replaced() {
    let spawners = spawners();
    let mut first = spawners.spawn(job(&["sleep", "600"])).await.unwrap();
    let mut second = spawners.spawn(job(&["sleep", "600"])).await.unwrap();
    // The load is spread: one each.
    let owner = |pid| {
        spawners
            .pids()
            .into_iter()
            .find(|&it| children_of(it).contains(&pid))
    };
    let (dead, alive) = (owner(first.pid()).unwrap(), owner(second.pid()).unwrap());
    assert_ne!(dead, alive);
    kill(dead);
    assert_eq!(first.wait().await.unwrap_err(), Failure::Lost);
    assert!(!exists(first.pid()));
    assert!(exists(second.pid()));
    eventually("a replacement", || spawners.stats().alive == 2).await;
    assert_eq!(spawners.stats().restarts, 1);
    drop(second.wait());
    spawners.shutdown().await;
}

#[tokio::test]
async fn t61_spawner_that_is_stopped_is_replaced_and_its_jobs_are_lost() {
    let config = SpawnersConfig {
        answer_timeout: Duration::from_millis(500),
        ..SpawnersConfig::default()
    };
    let spawners = Spawners::start(crate::support::helper(), config).unwrap();
    let before = spawners.pids();
    let running = spawners.spawn(job(&["sleep", "600"])).await.unwrap();
    for &pid in &before {
        let pid = nix::unistd::Pid::from_raw(pid);
        nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGSTOP).unwrap();
    }
    // One for each of them: without jobs nobody would miss it.
    let (one, other) = tokio::join!(
        run(&spawners, script("echo one")),
        run(&spawners, script("echo other")),
    );
    assert_eq!((one, other), (Err(Failure::Lost), Err(Failure::Lost)));
    eventually("two new ones", || spawners.stats().alive == 2).await;
    assert_eq!(spawners.stats().restarts, 2);
    assert!(!before.into_iter().any(exists));
    assert!(!exists(running.pid()));
    let answer = run(&spawners, script("echo again")).await.unwrap();
    assert_eq!(answer, "again\n");
    drop(running);
    spawners.shutdown().await;
}

#[tokio::test]
async fn jobs_wait_while_no_spawner_lives() {
    let spawners = spawners();
    for round in 0..3 {
        spawners.pids().into_iter().for_each(kill);
        // Given to a spawner before its death is noticed, it is lost; given to none, it waits.
        match run(&spawners, script("echo there")).await {
            Ok(answer) => assert_eq!(answer, "there\n"),
            Err(failure) => assert_eq!(failure, Failure::Lost),
        }
        let restarts = 2 * (round + 1);
        eventually("two new ones", || {
            let stats = spawners.stats();
            stats.alive == 2 && stats.restarts == restarts
        })
        .await;
        assert_eq!(
            run(&spawners, script("echo again")).await.unwrap(),
            "again\n"
        );
    }
    spawners.shutdown().await;
}

#[tokio::test]
async fn nothing_is_spawned_after_the_shutdown() {
    let spawners = spawners();
    let mut child = spawners.spawn(job(&["sleep", "600"])).await.unwrap();
    let pids = spawners.pids();
    spawners.shutdown().await;
    assert_eq!(child.wait().await.unwrap_err(), Failure::Lost);
    assert!(!exists(child.pid()));
    assert!(!pids.into_iter().any(exists));
    assert_eq!(
        run(&spawners, script("echo")).await,
        Err(Failure::Cancelled)
    );
    spawners.shutdown().await;
}

#[tokio::test]
async fn helper_that_cannot_be_started_is_an_error() {
    let helper = HelperCommand {
        program: "/no/such/helper".into(),
        args: Vec::new(),
    };
    let error = Spawners::start(helper, SpawnersConfig::default()).unwrap_err();
    assert!(
        error
            .to_string()
            .starts_with("cannot start spawner /no/such/helper: "),
        "{error}"
    );
}

//! What programs may not do, and how much of the host they may use.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use ws_ipc::exec::Exec;
use ws_ipc::{
    Cgroup, Failure, HelperCommand, Identity, Landlock, Limits, Spawners, SpawnersConfig,
};

use crate::support::{
    command, eventually, example, helper, kill, processes_with, run, script, spawners, strings,
};

/// A user that nobody else is, as the system counts processes by user; `None`, aloud, without the
/// right to become one.
fn stranger() -> Option<Identity> {
    static COUNT: AtomicU32 = AtomicU32::new(0);
    if !nix::unistd::geteuid().is_root() {
        eprintln!("skipped: only root may start programs as somebody else");
        return None;
    }
    let own = std::process::id() % 30_000;
    let uid = 100_000 + own * 16 + COUNT.fetch_add(1, Ordering::Relaxed);
    Some(Identity { uid, gid: 65534 })
}

fn limited(text: &str, limits: Limits) -> Exec {
    let mut exec = script(text);
    exec.confinement.limits = limits;
    exec
}

/// The value of a line of `/proc/self/status`.
fn field<'a>(status: &'a str, name: &str) -> &'a str {
    let line = status.lines().find(|line| line.starts_with(name)).unwrap();
    line.rsplit('\t').next().unwrap()
}

#[tokio::test]
async fn t64_program_has_no_privileges_and_cannot_gain_any() {
    let spawners = spawners();
    let status = command(&["cat", "/proc/self/status"]);
    let plain = run(&spawners, status.clone()).await.unwrap();
    assert_eq!(field(&plain, "NoNewPrivs"), "1");
    let mut free = status.clone();
    free.confinement.no_new_privs = false;
    let free = run(&spawners, free).await.unwrap();
    assert_eq!(field(&free, "NoNewPrivs"), "0", "it is not the spawner's");
    if let Some(identity) = stranger() {
        let mut exec = status;
        exec.identity = Some(identity);
        let status = run(&spawners, exec).await.unwrap();
        assert_eq!(field(&status, "NoNewPrivs"), "1");
        for set in ["CapInh", "CapPrm", "CapEff", "CapAmb"] {
            assert_eq!(field(&status, set), "0000000000000000", "{set}");
        }
        let (uid, gid) = (identity.uid.to_string(), identity.gid.to_string());
        let ids = |name| -> Vec<&str> {
            let line = status.lines().find(|line| line.starts_with(name)).unwrap();
            line.split('\t').skip(1).collect()
        };
        // Real, effective, saved and that of the file system.
        assert_eq!(ids("Uid"), [uid.as_str(); 4]);
        assert_eq!(ids("Gid"), [gid.as_str(); 4]);
    }
    spawners.shutdown().await;
}

#[tokio::test]
async fn t59_program_yields_as_asked_but_never_less_than_the_server() {
    // Whoever is not root may not give a program less, so it must not be tried.
    let niced = HelperCommand {
        args: strings(&["-n", "12", example("spawner").to_str().unwrap()]),
        program: "/usr/bin/nice".into(),
    };
    for (helper, asked, given) in [
        (helper(), 10, "10\n"),
        (niced.clone(), 10, "12\n"),
        (niced, 15, "15\n"),
    ] {
        let spawners = Spawners::start(helper, SpawnersConfig::default()).unwrap();
        let mut exec = script("nice");
        exec.confinement.nice = Some(asked);
        assert_eq!(run(&spawners, exec).await.unwrap(), given);
        spawners.shutdown().await;
    }
}

#[tokio::test]
async fn t59_limits_hold_and_are_none_of_the_others() {
    let spawners = spawners();
    let text = "ulimit -n; ulimit -v; ulimit -f; ulimit -t; ulimit -c; umask; nice";
    let limits = Limits {
        open_files: Some(50),
        memory: Some(512 << 20),
        file_size: Some(1 << 20),
        cpu_time: Some(7),
        ..Limits::default()
    };
    let mut exec = limited(text, limits);
    exec.confinement.umask = Some(0o027);
    exec.confinement.nice = Some(5);
    let confined = run(&spawners, exec).await.unwrap();
    // sh speaks of KiB, and of files in blocks of 512 bytes.
    assert_eq!(confined, "50\n524288\n2048\n7\n0\n0027\n5\n");
    let other = run(&spawners, script(text)).await.unwrap();
    let own = Command::new("/bin/sh").args(["-c", text]).output().unwrap();
    let own = String::from_utf8(own.stdout).unwrap();
    let but_core = |text: &str| -> Vec<String> {
        let lines = text.lines().enumerate().filter(|(index, _)| *index != 4);
        lines.map(|(_, line)| line.to_owned()).collect()
    };
    assert_eq!(but_core(&other), but_core(&own), "as the server itself");
    spawners.shutdown().await;
}

#[tokio::test]
async fn t59_hogs_are_stopped_and_others_are_not() {
    let spawners = spawners();
    let dir = tempfile::tempdir().unwrap();
    let memory = limited(
        "exec dd if=/dev/zero of=/dev/null bs=300M count=1",
        Limits {
            memory: Some(100 << 20),
            ..Limits::default()
        },
    );
    let cpu = limited(
        "while :; do :; done",
        Limits {
            cpu_time: Some(1),
            ..Limits::default()
        },
    );
    let mut file = limited(
        "exec dd if=/dev/zero of=file bs=4k count=1000",
        Limits {
            file_size: Some(100_000),
            ..Limits::default()
        },
    );
    file.dir = Some(dir.path().to_owned());
    let (memory, cpu, file, other) = tokio::join!(
        run(&spawners, memory),
        run(&spawners, cpu),
        run(&spawners, file),
        run(&spawners, script("sleep 1; echo unharmed")),
    );
    assert_eq!(memory, Err(Failure::Exited(1)));
    assert_eq!(cpu, Err(Failure::Signaled(nix::libc::SIGXCPU)));
    assert_eq!(file, Err(Failure::Signaled(nix::libc::SIGXFSZ)));
    assert_eq!(other.unwrap(), "unharmed\n");
    let size = std::fs::metadata(dir.path().join("file")).unwrap().len();
    assert!(size <= 100_000, "{size}");
    spawners.shutdown().await;
}

#[tokio::test]
async fn t59_fork_bomb_ends_at_its_limit() {
    let spawners = spawners();
    let (Some(bomber), Some(other)) = (stranger(), stranger()) else {
        spawners.shutdown().await;
        return;
    };
    let mark = format!("FORK_BOMB={}", std::process::id());
    let mut bomb = limited(
        &format!("export {mark}; bomb() {{ bomb | bomb & sleep 0.01; }}; bomb & exec sleep 600"),
        Limits {
            processes: Some(30),
            ..Limits::default()
        },
    );
    bomb.identity = Some(bomber);
    bomb.timeout = Duration::from_secs(2);
    let most = AtomicU32::new(0);
    let mut clean = script("echo unharmed");
    clean.identity = Some(other);
    let watch = async {
        for _ in 0..40 {
            assert_eq!(run(&spawners, clean.clone()).await.unwrap(), "unharmed\n");
            most.fetch_max(processes_of(bomber.uid), Ordering::Relaxed);
        }
    };
    let (bomb, ()) = tokio::join!(run(&spawners, bomb), watch);
    assert!(bomb.is_err(), "{bomb:?}");
    let most = most.into_inner();
    assert!((1..=30).contains(&most), "{most} processes at once");
    eventually("nobody is left", || processes_of(bomber.uid) == 0).await;
    spawners.shutdown().await;
}

/// How many processes a user has, zombies not counted.
fn processes_of(uid: u32) -> u32 {
    let entries = std::fs::read_dir("/proc").unwrap().flatten();
    let statuses =
        entries.filter_map(|entry| std::fs::read_to_string(entry.path().join("status")).ok());
    let is_of = |status: &String| {
        let line = status.lines().find(|line| line.starts_with("Uid:"));
        let is_alive = !status.contains("State:\tZ") && !status.contains("State:\tX");
        is_alive && line.is_some_and(|line| line.split('\t').nth(1) == Some(&uid.to_string()))
    };
    statuses.filter(is_of).count().try_into().unwrap()
}

#[tokio::test]
async fn t63_user_without_processes_to_be_had_is_refused_and_others_are_not() {
    let spawners = spawners();
    let Some(identity) = stranger() else {
        spawners.shutdown().await;
        return;
    };
    let one = |text| {
        let mut exec = limited(
            text,
            Limits {
                processes: Some(1),
                ..Limits::default()
            },
        );
        exec.identity = Some(identity);
        exec
    };
    // The kernel counts before it adds: one more than the limit may start.
    let (first, second) = (one("exec sleep 2"), one("exec sleep 2"));
    let (first, second, ()) = tokio::join!(run(&spawners, first), run(&spawners, second), async {
        eventually("both run", || processes_of(identity.uid) == 2).await;
        let refused = run(&spawners, one("echo never")).await.unwrap_err();
        let what = "/bin/sh".to_owned();
        let errno = nix::libc::EAGAIN;
        assert_eq!(refused, Failure::CannotStart { what, errno });
        let other = run(&spawners, script("echo unharmed")).await.unwrap();
        assert_eq!(other, "unharmed\n");
    });
    first.unwrap();
    second.unwrap();
    assert_eq!(run(&spawners, one("echo again")).await.unwrap(), "again\n");
    spawners.shutdown().await;
}

#[tokio::test]
async fn t63_what_stands_in_the_way_of_a_confined_start_is_named() {
    let spawners = spawners();
    let mut nowhere = command(&["/bin/true"]);
    nowhere.confinement.cgroup = Some(Cgroup {
        dir: "/no/such/group".into(),
        memory: None,
        processes: None,
    });
    assert_eq!(
        run(&spawners, nowhere).await.unwrap_err(),
        Failure::CannotStart {
            what: "/bin/true in a control group".into(),
            errno: nix::libc::ENOENT
        }
    );
    if !nix::unistd::geteuid().is_root() {
        let mut other = command(&["/bin/true"]);
        other.identity = Some(Identity { uid: 1, gid: 1 });
        assert_eq!(
            run(&spawners, other).await.unwrap_err(),
            Failure::CannotStart {
                what: "/bin/true as its user".into(),
                errno: nix::libc::EPERM
            }
        );
    }
    assert_eq!(run(&spawners, script("echo on")).await.unwrap(), "on\n");
    spawners.shutdown().await;
}

#[tokio::test]
async fn t64_landlock_leaves_what_was_listed_and_nothing_else() {
    let spawners = spawners();
    let dir = tempfile::tempdir().unwrap();
    let path = |name: &str| dir.path().join(name);
    for name in ["readable", "writable", "hidden"] {
        std::fs::create_dir(path(name)).unwrap();
        std::fs::write(path(name).join("file"), name).unwrap();
    }
    let system = ["/bin", "/lib", "/lib64", "/usr"].map(PathBuf::from);
    let landlock = Landlock {
        execute: system.into_iter().filter(|path| path.exists()).collect(),
        read: vec![path("readable"), "/dev/null".into()],
        write: vec![path("writable")],
    };
    let mut exec = script(
        "cat readable/file; echo new > writable/file && cat writable/file; \
         cat hidden/file; echo new > readable/file; ls hidden; (echo new > outside); true",
    );
    exec.dir = Some(dir.path().to_owned());
    exec.confinement.landlock = Some(landlock.clone());
    match run(&spawners, exec).await {
        Err(Failure::CannotStart { what, errno }) => {
            assert_eq!(what, "/bin/sh with its Landlock rules");
            assert!(
                [nix::libc::ENOSYS, nix::libc::EOPNOTSUPP].contains(&errno),
                "{errno}"
            );
            eprintln!("skipped: this system has no Landlock");
        }
        answer => {
            assert_eq!(answer.unwrap(), "readablenew\n");
            let kept = std::fs::read_to_string(path("readable").join("file")).unwrap();
            assert_eq!(kept, "readable");
            assert!(!path("outside").exists());
            // What may not be executed does not start.
            let mut exec = command(&["/bin/true"]);
            exec.confinement.landlock = Some(Landlock {
                read: vec!["/".into()],
                ..Landlock::default()
            });
            let refused = run(&spawners, exec).await.unwrap_err();
            let (what, errno) = ("/bin/true".to_owned(), nix::libc::EACCES);
            assert_eq!(refused, Failure::CannotStart { what, errno });
        }
    }
    spawners.shutdown().await;
}

/// A directory for control groups beneath the root of all; removed at the end.
struct Groups(PathBuf);

impl Groups {
    /// `None`, aloud, where none can be made.
    fn make(name: &str) -> Option<Self> {
        let mounts = std::fs::read_to_string("/proc/self/mountinfo").unwrap();
        let mount = mounts.lines().find(|line| line.contains(" - cgroup2 "));
        let root = mount.and_then(|line| line.split(' ').nth(4));
        let made = root.map(|root| {
            let dir = Path::new(root).join(format!("ws-test-{}-{name}", std::process::id()));
            std::fs::create_dir(&dir).map(|()| Self(dir))
        });
        let groups = made.and_then(Result::ok);
        if groups.is_none() {
            eprintln!("skipped: no control group (v2) can be made here");
        }
        groups
    }

    /// The names of the groups that are there.
    fn names(&self) -> Vec<String> {
        let entries = std::fs::read_dir(&self.0).unwrap().flatten();
        let dirs = entries.filter(|entry| entry.file_type().is_ok_and(|it| it.is_dir()));
        dirs.map(|entry| entry.file_name().into_string().unwrap())
            .collect()
    }

    fn exec(&self, text: &str) -> Exec {
        let mut exec = script(text);
        exec.confinement.cgroup = Some(Cgroup {
            dir: self.0.clone(),
            memory: None,
            processes: None,
        });
        exec
    }
}

impl Drop for Groups {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir(&self.0);
    }
}

#[tokio::test]
async fn t57_control_group_is_killed_with_the_job_and_removed() {
    let Some(groups) = Groups::make("kill") else {
        return;
    };
    let spawners = spawners();
    let mark = format!("CGROUP_DAEMON={}", std::process::id());
    let text = format!(
        "(setsid env -i {mark} sleep 600 >/dev/null 2>&1 &); \
         (setsid env -i {mark} setsid sleep 600 >/dev/null 2>&1 &); grep ^0:: /proc/self/cgroup"
    );
    // One of root's and one of somebody else's, who could not place himself there.
    for identity in [None, stranger()] {
        let mut exec = groups.exec(&text);
        exec.identity = identity;
        let answer = run(&spawners, exec).await.unwrap();
        let parent = groups.0.file_name().unwrap().to_str().unwrap();
        assert!(answer.starts_with(&format!("0::/{parent}/")), "{answer}");
        eventually("nobody is left, and no group", || {
            processes_with(&mark).is_empty() && groups.names().is_empty()
        })
        .await;
    }
    spawners.shutdown().await;
    assert!(groups.names().is_empty());
}

#[tokio::test]
async fn t57_control_groups_of_a_killed_spawner_are_cleared_away() {
    let Some(groups) = Groups::make("bury") else {
        return;
    };
    let spawners = spawners();
    let mark = format!("CGROUP_BURIED={}", std::process::id());
    let text = format!("setsid env -i {mark} setsid sleep 600 >/dev/null 2>&1 & exec sleep 600");
    let (lost, ()) = tokio::join!(run(&spawners, groups.exec(&text)), async {
        eventually("it runs", || processes_with(&mark).len() == 1).await;
        spawners.pids().into_iter().for_each(kill);
    });
    assert_eq!(lost, Err(Failure::Lost));
    eventually("nobody is left, and no group", || {
        processes_with(&mark).is_empty() && groups.names().is_empty()
    })
    .await;
    spawners.shutdown().await;
}

/// A control group that is frozen stops whoever enters it: here the child, before it has become the
/// program, as a signal from another process of its user might, or a file system that hangs.
#[tokio::test]
async fn t61_start_that_never_ends_costs_its_spawner_and_nobody_else() {
    let Some(groups) = Groups::make("frozen") else {
        return;
    };
    if std::fs::write(groups.0.join("cgroup.freeze"), "1").is_err() {
        eprintln!("skipped: control groups cannot be frozen here");
        return;
    }
    let config = SpawnersConfig {
        answer_timeout: Duration::from_millis(500),
        ..SpawnersConfig::default()
    };
    let spawners = Spawners::start(helper(), config).unwrap();
    let other = async {
        eventually("it is stuck", || !groups.names().is_empty()).await;
        run(&spawners, script("echo unharmed")).await
    };
    let (stuck, other) = tokio::join!(run(&spawners, groups.exec("echo never")), other);
    assert_eq!(stuck, Err(Failure::Lost));
    assert_eq!(other.unwrap(), "unharmed\n");
    eventually("a replacement, and no group", || {
        spawners.stats().alive == 2 && groups.names().is_empty()
    })
    .await;
    assert_eq!(spawners.stats().restarts, 1);
    spawners.shutdown().await;
}

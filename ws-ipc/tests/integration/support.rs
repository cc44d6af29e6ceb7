//! What the tests share: the helper programs, spawners of their own, and a look at `/proc`.

use std::ffi::OsString;
use std::path::PathBuf;
use std::time::Duration;

use bytes::Bytes;
use tokio::time::Instant;
use ws_ipc::exec::{AnswerChannel, Exec};
use ws_ipc::{Confinement, Failure, HelperCommand, Spawners, SpawnersConfig};

/// The path of one of this crate's examples, which cargo builds with the tests.
pub(crate) fn example(name: &str) -> PathBuf {
    let test = std::env::current_exe().unwrap();
    let target = test.parent().and_then(|deps| deps.parent()).unwrap();
    target.join("examples").join(name)
}

pub(crate) fn helper() -> HelperCommand {
    HelperCommand {
        program: example("spawner"),
        args: Vec::new(),
    }
}

pub(crate) fn spawners() -> Spawners {
    Spawners::start(helper(), SpawnersConfig::default()).unwrap()
}

pub(crate) fn strings(args: &[&str]) -> Vec<OsString> {
    args.iter().map(OsString::from).collect()
}

/// A run of a shell script, with limits that no test should meet by accident.
pub(crate) fn script(text: &str) -> Exec {
    command(&["/bin/sh", "-c", text])
}

pub(crate) fn command(args: &[&str]) -> Exec {
    Exec {
        argv: strings(args),
        env: vec![("PATH".into(), "/usr/local/bin:/usr/bin:/bin".into())],
        dir: None,
        identity: None,
        confinement: Confinement::default(),
        payload: Bytes::new(),
        answer: AnswerChannel::Pipe,
        timeout: Duration::from_secs(20),
        max_output: 1 << 20,
    }
}

pub(crate) async fn run(spawners: &Spawners, exec: Exec) -> Result<String, Failure> {
    let answer = ws_ipc::exec::run(spawners, exec, &mut |_| {}).await?;
    Ok(String::from_utf8(answer).unwrap())
}

/// The processes, zombies included, that have this pair in the environment they started with.
pub(crate) fn processes_with(pair: &str) -> Vec<i32> {
    let has_pair = |pid: &i32| {
        std::fs::read(format!("/proc/{pid}/environ")).is_ok_and(|environ| {
            environ
                .split(|&byte| byte == 0)
                .any(|it| it == pair.as_bytes())
        })
    };
    let entries = std::fs::read_dir("/proc").unwrap();
    let pids = entries.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok());
    pids.filter(has_pair).collect()
}

/// The children of a process, zombies included.
pub(crate) fn children_of(pid: i32) -> Vec<i32> {
    let list = std::fs::read_to_string(format!("/proc/{pid}/task/{pid}/children"));
    list.unwrap_or_default()
        .split_ascii_whitespace()
        .flat_map(str::parse)
        .collect()
}

pub(crate) fn exists(pid: i32) -> bool {
    std::fs::exists(format!("/proc/{pid}")).unwrap()
}

/// Waits until something holds that has no event to wait for, and fails if it does not in time.
pub(crate) async fn eventually(what: &str, mut holds: impl FnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(60);
    while !holds() {
        assert!(Instant::now() < deadline, "never: {what}");
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
}

/// Waits until each spawner has looked for orphans, twice in case that it was about to: it kills
/// what a job has left behind when it does.
pub(crate) async fn looked_for_orphans(spawners: &Spawners) {
    for round in 0..2 {
        let mark = format!("LOOKED_FOR={}-{round}", std::process::id());
        let daemon = format!("setsid sh -c 'env {mark} sleep 600 >/dev/null 2>&1 &'");
        let end = || run(spawners, script(&daemon));
        let ends = tokio::try_join!(end(), end(), end(), end());
        assert!(ends.is_ok(), "{ends:?}");
        eventually("none left", || processes_with(&mark).is_empty()).await;
    }
}

pub(crate) fn kill(pid: i32) {
    let pid = nix::unistd::Pid::from_raw(pid);
    nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGKILL).unwrap();
}

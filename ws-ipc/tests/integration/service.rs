//! Fork servers and workers: programs that are asked over a socket.

use std::path::Path;
use std::time::{Duration, Instant};

use bytes::Bytes;
use tempfile::TempDir;
use ws_ipc::cgi::{CgiError, parse_answer};
use ws_ipc::{
    Confinement, Environment, Failure, PoolKind, Service, ServiceCommand, Spawners, scgi_call,
};

use crate::support::{
    children_of, eventually, example, exists, kill, looked_for_orphans, processes_with, spawners,
};

const LONG: Duration = Duration::from_secs(20);

struct Setup {
    spawners: Spawners,
    service: Service,
    _dir: TempDir,
}

impl Setup {
    async fn new() -> Self {
        Self::with(example("forkserver").to_str().unwrap(), &[]).await
    }

    async fn with(program: &str, args: &[&str]) -> Self {
        Self::with_command(command(program, args)).await
    }

    async fn with_command(command: ServiceCommand) -> Self {
        let spawners = spawners();
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("service.sock");
        let service = start(&spawners, command, &path).await.unwrap();
        Self {
            spawners,
            service,
            _dir: dir,
        }
    }

    async fn ask(&self, uri: &str) -> Result<String, Failure> {
        let answer = ask(&self.service, uri, "", LONG).await?;
        Ok(String::from_utf8(parse_answer(&answer).unwrap().body().to_vec()).unwrap())
    }

    async fn end(self) {
        self.service.shutdown().await;
        self.spawners.shutdown().await;
    }
}

async fn start(
    spawners: &Spawners,
    command: ServiceCommand,
    path: &Path,
) -> Result<Service, Failure> {
    Service::start(spawners, command, PoolKind::ForkServers, path).await
}

fn command(program: &str, args: &[&str]) -> ServiceCommand {
    let argv = std::iter::once(program).chain(args.iter().copied());
    ServiceCommand {
        argv: argv.map(Into::into).collect(),
        env: vec![("PATH".into(), "/usr/bin:/bin".into())],
        dir: None,
        identity: None,
        confinement: Confinement::default(),
    }
}

async fn ask(
    service: &Service,
    uri: &str,
    command: &str,
    timeout: Duration,
) -> Result<Vec<u8>, Failure> {
    let mut env = Environment::new();
    env.set("REQUEST_METHOD", "GET").unwrap();
    env.set("REQUEST_URI", uri).unwrap();
    env.set("COMMAND", command).unwrap();
    scgi_call(
        service,
        &env,
        &Bytes::from_static(b"payload"),
        timeout,
        1 << 20,
    )
    .await
}

#[tokio::test]
async fn fork_server_answers_each_request_in_a_process_of_its_own() {
    let setup = Setup::new().await;
    let first = setup.ask("/pid").await.unwrap();
    let second = setup.ask("/pid").await.unwrap();
    assert_ne!(first, second);
    let parent = setup.service.pid().unwrap().to_string();
    assert_eq!(setup.ask("/parent").await.unwrap(), parent);
    assert_eq!(setup.ask("/body").await.unwrap(), "payload");
    setup.end().await;
}

#[tokio::test]
async fn many_requests_at_once_are_all_answered() {
    let setup = Setup::new().await;
    let mut calls = tokio::task::JoinSet::new();
    for _ in 0..100 {
        let service = setup.service.clone();
        calls.spawn(async move { ask(&service, "/pid", "", LONG).await.unwrap() });
    }
    let mut answers = calls.join_all().await;
    answers.sort();
    answers.dedup();
    assert_eq!(answers.len(), 100);
    setup.end().await;
}

#[tokio::test]
async fn t54_child_has_only_its_streams_and_its_connection() {
    let setup = Setup::new().await;
    let descriptors = setup.ask("/descriptors").await.unwrap();
    let mut targets: Vec<_> = descriptors
        .lines()
        .filter_map(|line| line.split_once(' '))
        .collect();
    targets.sort_unstable();
    // 0, 1, 2 and the connection; the directory that was listed is gone when its link is read.
    assert_eq!(targets.len(), 4, "{descriptors}");
    assert_eq!(targets[0], ("0", "/dev/null"));
    assert!(targets[1].1.starts_with("pipe:") && targets[2].1.starts_with("pipe:"));
    assert!(targets[3].1.starts_with("socket:"));
    setup.end().await;
}

#[tokio::test]
async fn t55_child_has_default_signals() {
    let setup = Setup::new().await;
    let status = setup.ask("/status").await.unwrap();
    for field in ["SigBlk", "SigIgn", "SigCgt"] {
        let line = status.lines().find(|line| line.starts_with(field)).unwrap();
        assert!(line.ends_with("0000000000000000"), "{line}");
    }
    setup.end().await;
}

#[tokio::test]
async fn panicking_closure_costs_one_answer() {
    let setup = Setup::new().await;
    let before = setup.service.pid();
    for uri in ["/panic", "/exit"] {
        let failure = setup.ask(uri).await.unwrap_err();
        assert_eq!(failure, Failure::BadAnswer(CgiError::Empty), "{uri}");
    }
    setup.ask("/pid").await.unwrap();
    assert_eq!((setup.service.pid(), setup.service.restarts()), (before, 0));
    setup.end().await;
}

#[tokio::test]
async fn t61_hanging_closure_is_killed_at_the_deadline() {
    let setup = Setup::new().await;
    let server = setup.service.pid().unwrap();
    setup.ask("/pid").await.unwrap();
    let begun = Instant::now();
    let hanging = ask(&setup.service, "/hang", "", Duration::from_millis(200)).await;
    assert_eq!(hanging, Err(Failure::TimedOut));
    assert!(begun.elapsed() < Duration::from_millis(700));
    eventually("no child left", || children_of(server).is_empty()).await;
    setup.end().await;
}

#[tokio::test]
async fn t32_fork_server_without_descriptors_goes_on_when_there_are_some() {
    let program = example("forkserver");
    let limited = ["--nofile=24", "--", program.to_str().unwrap()];
    let setup = Setup::with("prlimit", &limited).await;
    let pid = setup.service.pid();
    let mut hanging = tokio::task::JoinSet::new();
    for _ in 0..20 {
        let service = setup.service.clone();
        hanging.spawn(async move { ask(&service, "/hang", "", LONG).await });
    }
    let pid_of_it = pid.unwrap();
    eventually("as many as there is room for", || {
        children_of(pid_of_it).len() >= 4
    })
    .await;
    hanging.shutdown().await;
    assert!(setup.ask("/pid").await.is_ok());
    assert_eq!(setup.service.pid(), pid, "it did not have to be restarted");
    setup.end().await;
}

#[tokio::test]
async fn t57_daemon_of_a_closure_does_not_outlive_it() {
    let setup = Setup::new().await;
    let mark = format!("FORKED_DAEMON={}", std::process::id());
    let daemon = format!("exec env -i {mark} sleep 600");
    ask(&setup.service, "/leave-behind", &daemon, LONG)
        .await
        .unwrap();
    let server = setup.service.pid().unwrap();
    eventually("no child left", || {
        processes_with(&mark).is_empty() && children_of(server).is_empty()
    })
    .await;
    setup.end().await;
}

/// The command is no subreaper, as no shim can make itself one: what leaves it is the spawner's.
#[tokio::test]
async fn t57_daemons_of_a_command_do_not_outlive_it() {
    let mark = format!("COMMAND_DAEMON={}", std::process::id());
    let daemon = |clean: &str| format!("setsid sh -c 'exec env {clean} {mark} sleep 600' &");
    let forkserver = example("forkserver");
    // One daemon knows whose it is by its environment, one does not.
    let script = format!(
        "{} {} exec {}",
        daemon(""),
        daemon("-i"),
        forkserver.display()
    );
    let setup = Setup::with("/bin/sh", &["-c", &script]).await;
    setup.ask("/pid").await.unwrap();
    eventually("both daemons", || processes_with(&mark).len() == 2).await;
    setup.service.shutdown().await;
    eventually("no daemon left", || processes_with(&mark).is_empty()).await;
    setup.end().await;
}

/// As an application does while it is loaded, in the group of the command and out of it.
#[tokio::test]
async fn t57_what_a_fork_server_starts_while_it_is_loaded_lives_with_it() {
    let mark = |name| format!("COMMAND_{name}={}", std::process::id());
    let (kept, left, child) = (mark("KEPT"), mark("LEFT"), mark("CHILD"));
    // In its session first, and an orphan afterwards; the last one remains a child of the command.
    let script = format!(
        "(env {kept} sleep 600 &); setsid sh -c 'env {left} sleep 600 &'; \
         setsid env {child} sleep 600 & exec {}",
        example("forkserver").display()
    );
    let setup = Setup::with("/bin/sh", &["-c", &script]).await;
    let count = |mark: &str| processes_with(mark).len();
    // The fork server has looked for orphans when this one is gone.
    let gone = mark("GONE");
    let daemon = format!("exec env {gone} sleep 600");
    for _ in 0..2 {
        ask(&setup.service, "/leave-behind", &daemon, LONG)
            .await
            .unwrap();
        eventually("the message's is gone", || count(&gone) == 0).await;
        looked_for_orphans(&setup.spawners).await;
    }
    assert_eq!((count(&kept), count(&left), count(&child)), (1, 1, 1));
    setup.service.shutdown().await;
    eventually("none", || count(&kept) + count(&left) + count(&child) == 0).await;
    setup.end().await;
}

/// As the shims do: a child for each message, with its variables in its environment.
const FORKING: &str = r#"
import os, socket, sys
if len(sys.argv) > 1:
    os.system(sys.argv[1])
listener = socket.socket(fileno=0)
while True:
    peer = listener.accept()[0]
    child = os.fork()
    if child == 0:
        os.setpgid(0, 0)
        fields = peer.recv(65536).partition(b":")[2].split(b"\0")
        os.environb.update(zip(fields[0:-1:2], fields[1::2]))
        os.system(os.environ["COMMAND"])
        peer.sendall(b"Content-Length: 5\r\n\r\nwhole")
        os._exit(0)
    peer.close()
    os.waitpid(child, 0)
"#;

/// The spawner takes a second to look: by then there is nobody who was seen to run a message.
#[tokio::test]
async fn t57_daemon_of_the_very_first_message_does_not_outlive_it() {
    let setup = Setup::with("/usr/bin/env", &["python3", "-c", FORKING]).await;
    let mark = format!("FIRST_DAEMON={}", std::process::id());
    let dir = tempfile::tempdir().unwrap();
    let begun = dir.path().join("begun");
    let begun = begun.display();
    let daemon = format!(
        "env {mark} setsid sh -c '> {begun}; sleep 600 & exec sleep 600' >&2 & \
         while [ ! -e {begun} ]; do sleep 0.01; done"
    );
    ask(&setup.service, "/", &daemon, LONG).await.unwrap();
    eventually("no daemon left", || processes_with(&mark).is_empty()).await;
    setup.end().await;
}

#[tokio::test]
async fn t57_what_a_fork_server_starts_while_it_is_loaded_may_have_any_environment() {
    let mark = |name| format!("{name}_DAEMON={}", std::process::id());
    let (kept, gone) = (mark("LOADED"), mark("OTHER"));
    let daemon = |mark: &str| format!("env {mark} setsid sh -c 'sleep 600 & exec sleep 600' >&2 &");
    let mut command = command("/usr/bin/env", &["python3", "-c", FORKING, &daemon(&kept)]);
    command.env.push(("SCGI".into(), "1".into()));
    let setup = Setup::with_command(command).await;
    ask(&setup.service, "/", &daemon(&gone), LONG)
        .await
        .unwrap();
    looked_for_orphans(&setup.spawners).await;
    assert_ne!(processes_with(&kept), []);
    setup.service.shutdown().await;
    eventually("none", || {
        processes_with(&kept).is_empty() && processes_with(&gone).is_empty()
    })
    .await;
    setup.end().await;
}

/// A fork server that forks twice for each message, so as to have no zombies.
const TWICE: &str = r#"
import os, socket, time
listener = socket.socket(fileno=0)
while True:
    peer = listener.accept()[0]
    child = os.fork()
    if child == 0:
        if os.fork() == 0:
            os.setpgid(0, 0)
            fields = peer.recv(65536).partition(b":")[2].split(b"\0")
            env = dict(zip(fields[0::2], fields[1::2]))
            open(env[b"BEGUN"], "w").close()
            while not os.path.exists(env[b"GO"]):
                time.sleep(0.01)
            peer.sendall(b"Content-Length: 5\r\n\r\nwhole")
        os._exit(0)
    peer.close()
    os.waitpid(child, 0)
"#;

#[tokio::test]
async fn process_that_answers_is_not_taken_for_a_daemon_if_its_parent_has_ended() {
    let setup = Setup::with("/usr/bin/env", &["python3", "-c", TWICE]).await;
    let dir = tempfile::tempdir().unwrap();
    let (begun, go) = (dir.path().join("begun"), dir.path().join("go"));
    let mut env = Environment::new();
    env.set("BEGUN", begun.to_str().unwrap()).unwrap();
    env.set("GO", go.to_str().unwrap()).unwrap();
    let service = setup.service.clone();
    let call = tokio::spawn(async move {
        let payload = Bytes::new();
        scgi_call(&service, &env, &payload, LONG, 1 << 20).await
    });
    eventually("it answers", || begun.exists()).await;
    looked_for_orphans(&setup.spawners).await;
    std::fs::write(&go, "").unwrap();
    let answer = call.await.unwrap().unwrap();
    assert_eq!(parse_answer(&answer).unwrap().body(), b"whole");
    setup.end().await;
}

#[tokio::test]
async fn killed_fork_server_loses_what_it_had_and_is_restarted() {
    let setup = Setup::new().await;
    let first = setup.service.pid().unwrap();
    let service = setup.service.clone();
    let in_flight = tokio::spawn(async move { ask(&service, "/hang", "", LONG).await });
    eventually("a serving child", || children_of(first).len() == 1).await;
    let children = children_of(first);
    kill(first);
    assert_eq!(in_flight.await.unwrap(), Err(Failure::Lost));
    setup.ask("/pid").await.unwrap();
    assert_ne!(setup.service.pid(), Some(first));
    assert_eq!(setup.service.restarts(), 1);
    eventually("its children gone", || {
        !children.iter().any(|&pid| exists(pid))
    })
    .await;
    setup.end().await;
}

#[tokio::test]
async fn service_survives_the_death_of_its_spawner() {
    let setup = Setup::new().await;
    let first = setup.service.pid().unwrap();
    let owner = setup
        .spawners
        .pids()
        .into_iter()
        .find(|&pid| children_of(pid).contains(&first));
    kill(owner.unwrap());
    eventually("another one", || {
        setup.service.pid().is_some_and(|pid| pid != first)
    })
    .await;
    assert!(!exists(first));
    setup.ask("/pid").await.unwrap();
    setup.end().await;
}

#[tokio::test]
async fn t63_service_that_cannot_start_says_why() {
    let spawners = spawners();
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("service.sock");
    let failure = start(&spawners, command("/no/such/program", &[]), &path).await;
    assert_eq!(
        failure.unwrap_err(),
        Failure::CannotStart {
            what: "/no/such/program".into(),
            errno: nix::libc::ENOENT,
        }
    );
    eventually("no socket left", || !path.exists()).await;
    spawners.shutdown().await;
}

/// A worker in Python: any program can be one.
const WORKER: &str = r#"
import socket, sys
listener = socket.socket(fileno=0)
while True:
    peer = listener.accept()[0]
    size = b""
    while not size.endswith(b":"):
        size += peer.recv(1)
    head = b""
    while len(head) <= int(size[:-1]):
        head += peer.recv(int(size[:-1]) + 1 - len(head))
    fields = head[:-2].split(b"\0")
    uri = dict(zip(fields[0::2], fields[1::2]))[b"REQUEST_URI"].decode()
    answers = {
        "/whole": b"Content-Length: 5\r\n\r\nwhole",
        "/cut": b"Content-Length: 50\r\n\r\nshort",
        "/no-length": b"Content-Type: text/plain\r\n\r\nwho knows",
        "/long": b"Content-Length: 2000000\r\n\r\n" + b"x" * 2000000,
        "/nonsense": b"hello\r\n\r\n",
    }
    try:
        peer.sendall(answers[uri])
    except OSError:
        pass
    peer.close()
"#;

#[tokio::test]
async fn t60_worker_s_answers_are_checked() {
    let setup = Setup::with("/usr/bin/env", &["python3", "-c", WORKER]).await;
    assert_eq!(setup.ask("/whole").await.unwrap(), "whole");
    assert_eq!(
        setup.ask("/cut").await,
        Err(Failure::BadAnswer(CgiError::BodyTooShort {
            announced: 50,
            received: 5
        }))
    );
    assert_eq!(
        setup.ask("/no-length").await,
        Err(Failure::BadAnswer(CgiError::InvalidContentLength))
    );
    assert_eq!(
        setup.ask("/long").await,
        Err(Failure::OutputTooLong { max: 1 << 20 })
    );
    assert!(matches!(
        setup.ask("/nonsense").await,
        Err(Failure::BadAnswer(_))
    ));
    assert_eq!(setup.ask("/whole").await.unwrap(), "whole");
    setup.end().await;
}

#[tokio::test]
async fn nothing_is_asked_after_the_shutdown() {
    let setup = Setup::new().await;
    setup.service.shutdown().await;
    assert_eq!(setup.ask("/pid").await, Err(Failure::Cancelled));
    assert_eq!(setup.service.pid(), None);
    setup.end().await;
}

#[tokio::test]
async fn worker_that_ends_is_started_again_at_once() {
    // It serves a single connection, so each call meets another life.
    let once = WORKER.replace("while True:", "for _ in range(1):");
    let setup = Setup::with("/usr/bin/env", &["python3", "-c", &once]).await;
    for _ in 0..5 {
        assert_eq!(setup.ask("/whole").await.unwrap(), "whole");
    }
    assert!(setup.service.restarts() >= 4);
    setup.end().await;
}

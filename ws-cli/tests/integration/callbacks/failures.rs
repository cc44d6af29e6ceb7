//! Callbacks that crash, hang, flood or never start: each costs its own message and nothing else.

use std::time::{Duration, Instant};

use serde_json::Value;

use super::{records, until_failed};
use crate::support::*;

/// One line of shell for each message.
const EVAL: &str = r#"eval "$(cat)""#;

/// A server whose callbacks do what the message says, and fail with "failed".
fn obedient() -> Setup {
    Setup::new().set("app.error_reply", "failed").app(EVAL)
}

fn causes(log: &str) -> Vec<Value> {
    let failures = records(log, "callback failed");
    failures
        .into_iter()
        .map(|record| record["cause"].clone())
        .collect()
}

/// Sends a message that fails, and sees that its connection and another go on.
async fn fails(server: &Server, cause: &str, messages: &[&str]) {
    let mut client = server.connect().await;
    let mut other = server.connect().await;
    for (count, message) in (1..).zip(messages) {
        say(&mut client, message).await;
        assert_eq!(ask(&mut other, "echo unharmed").await, "unharmed");
        assert_eq!(hear(&mut client).await, "failed", "{message}");
        assert_eq!(ask(&mut client, "echo next").await, "next");
        until_failed(server, cause, count);
    }
    bye(client).await;
    bye(other).await;
}

#[tokio::test]
async fn b15_exit_status_decides_whether_the_output_counts() {
    let server = obedient().start();
    fails(
        &server,
        "exit",
        &["echo partial; exit 3", "exit 1", "false", "no-such-program"],
    )
    .await;
    let log = server.finish();
    assert_eq!(causes(&log), ["exit"; 4]);
    let failure = &records(&log, "callback failed")[0];
    assert!(
        failure["error"].as_str().unwrap().contains('3'),
        "{failure}"
    );
}

#[test]
fn a_program_that_could_not_run_is_told_at_the_start() {
    let server = Setup::new().command(&["./none.sh"]).start();
    let log = server.finish();
    let told = &records(&log, "a callback could not be run now")[0];
    assert_eq!(told["setting"], "app.command");
    let why = told["why"].as_str().unwrap();
    assert!(why.ends_with("none.sh: No such file or directory"), "{why}");
}

#[tokio::test]
async fn a_signal_is_a_failure() {
    let server = obedient().start();
    fails(
        &server,
        "signal",
        &["echo partial; kill -9 $$", "kill -SEGV $$", "kill -TERM $$"],
    )
    .await;
    assert_eq!(causes(&server.finish()), ["signal"; 3]);
}

#[tokio::test]
async fn what_cannot_start_is_a_failure() {
    let setup = Setup::new();
    let no_interpreter = setup.script("no_interpreter", "#!/no/such/interpreter\n");
    let not_executable = setup.dir().join("not_executable");
    std::fs::write(&not_executable, "#!/bin/sh\n").unwrap();
    let programs = [
        no_interpreter,
        not_executable,
        "/no/such/program".into(),
        "no-such-program".into(),
    ];
    for program in programs {
        let server = Setup::new()
            .set("app.error_reply", "failed")
            .command(&[program.to_str().unwrap()])
            .start();
        let mut client = server.connect().await;
        assert_eq!(ask(&mut client, "a").await, "failed");
        assert_eq!(ask(&mut client, "b").await, "failed");
        until_failed(&server, "cannot_start", 2);
        bye(client).await;
        assert_eq!(causes(&server.finish()), ["cannot_start"; 2]);
    }
}

#[tokio::test]
async fn t61_a_callback_that_hangs_is_ended_at_its_deadline() {
    let server = obedient().set("app.timeout", "2s").start();
    let messages = [
        "sleep 600",
        "echo partial; exec sleep 600",
        "echo partial; exec >&- 2>&-; exec sleep 600",
        "exec >&- 2>&-; exec sleep 600",
        "while :; do :; done",
        "sleep 600 & sleep 600 & wait",
        "cat gate",
    ];
    let _gate = Gate::new(server.dir(), "gate");
    let mut clients = Vec::new();
    let begun = Instant::now();
    for message in messages {
        let mut client = server.connect().await;
        say(&mut client, message).await;
        clients.push(client);
    }
    let mut other = server.connect().await;
    assert_eq!(ask(&mut other, "echo unharmed").await, "unharmed");
    for client in &mut clients {
        assert_eq!(hear(client).await, "failed");
    }
    assert!(begun.elapsed() >= Duration::from_secs(2));
    until_failed(&server, "timeout", messages.len() as u64);
    for client in &mut clients {
        assert_eq!(ask(client, "echo next").await, "next");
    }
    for client in clients {
        bye(client).await;
    }
    bye(other).await;
    assert_eq!(causes(&server.finish()), ["timeout"; 7]);
}

#[tokio::test]
async fn t61_a_callback_that_ignores_sigterm_is_killed() {
    let server = obedient().set("app.timeout", "1s").start();
    let mut client = server.connect().await;
    let begun = Instant::now();
    let message = "trap '' TERM; echo partial; while :; do sleep 1; done";
    assert_eq!(ask(&mut client, message).await, "failed");
    assert!(
        begun.elapsed() >= Duration::from_secs(3),
        "it has 2 s after SIGTERM"
    );
    until_failed(&server, "timeout", 1);
    assert_eq!(ask(&mut client, "echo next").await, "next");
    bye(client).await;
    server.finish();
}

#[tokio::test]
async fn t61_without_an_error_reply_a_failure_is_silent() {
    let server = Setup::new().app(EVAL).start();
    let mut client = server.connect().await;
    say(&mut client, "echo partial; exit 3").await;
    assert_eq!(ask(&mut client, "echo next").await, "next");
    until_failed(&server, "exit", 1);
    assert_eq!(server.figure("messages.queued"), 1);
    bye(client).await;
    server.finish();
}

#[tokio::test]
async fn t60_an_output_flood_is_cut_and_nothing_of_it_sent() {
    let server = Setup::new()
        .set("app.error_reply", "failed")
        .app(EVAL)
        .start();
    let mut client = server.connect().await;
    let before = figure(&server.status(), "memory_bytes");
    for (message, count) in [
        ("yes", 1),
        ("yes | cat; sleep 600", 2),
        ("cat /dev/zero", 3),
    ] {
        assert_eq!(ask(&mut client, message).await, "failed");
        until_failed(&server, "output", count);
    }
    let growth = figure(&server.status(), "memory_bytes").saturating_sub(before);
    assert!(growth < 16 * 1024 * 1024, "{growth}");
    assert_eq!(ask(&mut client, "echo next").await, "next");
    bye(client).await;
    assert_eq!(causes(&server.finish()), ["output"; 3]);
}

#[tokio::test]
async fn t60_an_answer_may_be_as_long_as_configured() {
    let server = Setup::new()
        .set("app.error_reply", "failed")
        .set("app.max_output", "1000")
        .app(EVAL)
        .start();
    let mut client = server.connect().await;
    assert_eq!(ask(&mut client, "printf %1000s x").await.len(), 1000);
    assert_eq!(ask(&mut client, "printf %1001s x").await, "failed");
    until_failed(&server, "output", 1);
    bye(client).await;
    server.finish();
}

#[tokio::test]
async fn t60_stderr_goes_to_the_log_line_by_line_and_is_bounded() {
    let server = Setup::new().app(EVAL).start();
    let mut client = server.connect().await;
    let message =
        r#"echo "one two" >&2; printf 'three\nfour' >&2; echo reply; printf '\033[31m"\n' >&2"#;
    assert_eq!(ask(&mut client, message).await, "reply");
    let flood = "yes quite-a-line | head -c 3000000 >&2; echo reply";
    assert_eq!(ask(&mut client, flood).await, "reply");
    let failing = "echo last words >&2; exit 3";
    say(&mut client, failing).await;
    assert_eq!(ask(&mut client, "echo next").await, "next");
    let id = server.connections()[0]["id"].clone();
    bye(client).await;
    let log = server.finish();
    let records = records(&log, "stderr");
    assert!(records.iter().all(|record| record["conn.id"] == id));
    let lines_of = |message: u64| -> Vec<&str> {
        let records = records
            .iter()
            .filter(|record| record["message.id"] == message);
        records
            .map(|record| record["line"].as_str().unwrap())
            .collect()
    };
    let lines = lines_of(1);
    assert_eq!(lines[..2], ["one two", "three"]);
    assert!(
        lines[2].starts_with("four") && lines.len() == 3,
        "{lines:?}"
    );
    let flood: usize = lines_of(2).iter().map(|line| line.len()).sum();
    assert!(flood > 50_000 && flood < 66_000, "{flood}");
    assert_eq!(lines_of(3), ["last words"]);
}

#[tokio::test]
async fn t57_a_descendant_that_holds_the_output_does_not_hold_the_reply() {
    let server = Setup::new().app(EVAL).start();
    let mut client = server.connect().await;
    for message in [
        "sleep 600 & echo reply",
        "setsid sleep 600 & echo reply",
        "(setsid sh -c 'sleep 600 & exec sleep 600' &) ; echo reply",
        "sleep 600 >&- & echo reply",
    ] {
        let begun = Instant::now();
        assert_eq!(ask(&mut client, message).await, "reply", "{message}");
        assert!(begun.elapsed() >= Duration::from_millis(100), "{message}");
        assert!(begun.elapsed() < Duration::from_secs(20), "{message}");
    }
    eventually("what held it is gone", || {
        server
            .processes()
            .iter()
            .all(|(_, command)| command.contains("__spawner"))
    });
    bye(client).await;
    server.finish();
}

/// INV-05: half of the load is hostile; the other half does not notice.
#[tokio::test]
async fn inv05_hostile_callbacks_are_their_own_connections_affair() {
    let server = obedient()
        .set("app.timeout", "500ms")
        .set("app.max_output", "64KiB")
        .set("app.concurrency", "32")
        .app(r#"case "$(cat)" in crash) kill -9 $$;; flood) yes;; hang) exec sleep 600;; exit) echo x; exit 9;; spin) while :; do :; done;; leave) setsid sleep 600 & ;; *) echo "$PATH_INFO";; esac"#)
        .start();
    let acts = ["crash", "flood", "hang", "exit", "spin", "leave"];
    let mut hostile = Vec::new();
    for act in acts {
        let mut client = server.connect().await;
        for _ in 0..4 {
            say(&mut client, act).await;
        }
        hostile.push(client);
    }
    let mut clean = server.connect().await;
    // Under such a load a clean one may take its time, but it has no fault of its own.
    for n in 0..10 {
        let path = format!("/clean/{n}");
        let answer = ask(&mut clean, &path).await;
        assert!(answer == path || answer == "failed", "{answer}");
    }
    // The one that leaves somebody behind has no reply, the others fail four times each.
    for client in &mut hostile[..5] {
        for _ in 0..4 {
            assert_eq!(hear(client).await, "failed");
        }
    }
    for client in hostile {
        bye(client).await;
    }
    assert_eq!(ask(&mut clean, "/last").await, "/last");
    bye(clean).await;
    server.finish();
}

/// T63: without a descriptor to be had no callback starts, and no connection is lost.
#[tokio::test]
async fn t63_without_descriptors_to_be_had_messages_fail_and_the_connection_stays() {
    let server = obedient().start();
    let mut client = server.connect().await;
    assert_eq!(ask(&mut client, "echo before").await, "before");
    server.until("connections.open", 1);
    let pid = server.pid().to_string();
    let limit = |soft: &str| {
        let limit = format!("--nofile={soft}:");
        let prlimit = std::process::Command::new("prlimit")
            .args(["--pid", &pid, &limit])
            .status();
        prlimit.is_ok_and(|status| status.success())
    };
    let limits = std::fs::read_to_string(format!("/proc/{pid}/limits")).unwrap();
    let line = limits
        .lines()
        .find(|line| line.starts_with("Max open files"))
        .unwrap();
    let before = line.split_whitespace().nth(3).unwrap();
    if !limit("3") {
        eprintln!("skipped: there is no prlimit");
        drop(client);
        server.finish();
        return;
    }
    for _ in 0..3 {
        assert_eq!(ask(&mut client, "echo during").await, "failed");
    }
    assert!(limit(before));
    until_failed(&server, "cannot_start", 3);
    assert_eq!(ask(&mut client, "echo after").await, "after");
    let mut other = server.connect().await;
    assert_eq!(ask(&mut other, "echo other").await, "other");
    bye(client).await;
    bye(other).await;
    assert_eq!(causes(&server.finish()), ["cannot_start"; 3]);
}

/// T63: without resources for one more process, exactly those messages fail.
#[tokio::test]
async fn t63_without_processes_to_be_had_messages_fail_and_the_connection_stays() {
    let server = obedient().start();
    let mut client = server.connect().await;
    assert_eq!(ask(&mut client, "echo before").await, "before");
    let spawners = server.helpers("__spawner");
    let Some(refusal) = Injection::start(&spawners, "clone,clone3,fork,vfork:error=EAGAIN") else {
        eprintln!("skipped: strace cannot be used here");
        drop(client);
        server.finish();
        return;
    };
    for _ in 0..4 {
        assert_eq!(ask(&mut client, "echo during").await, "failed");
    }
    until_failed(&server, "cannot_start", 4);
    refusal.end();
    assert_eq!(ask(&mut client, "echo after").await, "after");
    bye(client).await;
    assert_eq!(causes(&server.finish()), ["cannot_start"; 4]);
}

//! What a callback cannot reach, and what it cannot leave behind.

use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;

use super::{installed, until_failed};
use crate::support::*;

#[tokio::test]
async fn t51_headers_are_never_code() {
    for shell in ["bash", "sh"] {
        let Some(shell) = installed(shell) else {
            continue;
        };
        let script = format!("#!{}\nprintf '%s' \"$HTTP_USER_AGENT\"\n", shell.display());
        let server = Setup::new().app_file("app", &script).start();
        let attack = "() { :;}; touch pwned";
        let headers = [
            ("User-Agent", attack),
            ("Cookie", attack),
            ("X-Attack", attack),
            ("Referer", "$(touch pwned)"),
            ("Accept", "`touch pwned`"),
            ("BASH-FUNC-ls", attack),
        ];
        let target = "/?$(touch%20pwned);touch%20pwned";
        let mut client = server.connect_with(target, &headers).await.unwrap();
        for message in ["hello", "/$(touch pwned)", "`touch pwned`", attack] {
            assert_eq!(ask(&mut client, message).await, attack);
        }
        assert!(!server.dir().join("pwned").exists());
        bye(client).await;
        server.finish();
    }
}

#[tokio::test]
async fn t51_header_values_with_control_characters_are_refused() {
    let server = Setup::new().app("cat").start();
    for value in ["a\0b", "a\u{1}b", "a\u{7f}b", "a\rb"] {
        let request = format!(
            "GET / HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
             Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nX-A: {value}\r\n\r\n"
        );
        let answer = String::from_utf8(server.raw(request.as_bytes())).unwrap();
        assert!(answer.starts_with("HTTP/1.1 400 "), "{value:?}: {answer}");
    }
    server.finish();
}

/// The variables of a message have a limit of their own; passing it costs the message.
#[tokio::test]
async fn t51_no_request_makes_an_environment_that_cannot_be_started() {
    let server = Setup::new().app("echo $PATH_INFO | wc -c").start();
    let large = "x".repeat(15 * 1024);
    let mut client = server
        .connect_with("/", &[("X-Large", &large)])
        .await
        .unwrap();
    assert_eq!(
        ask(&mut client, &format!("/{}", "a".repeat(8 * 1024 - 1))).await,
        "8193"
    );
    bye(client).await;
    server.finish();
}

#[tokio::test]
async fn t54_b14_a_callback_has_three_descriptors() {
    // The fourth is the one by which `ls` reads the directory.
    let server = Setup::new().command(&["ls", "/proc/self/fd"]).start();
    let mut clients: Vec<Client> = FuturesUnordered::from_iter((0..60).map(|_| server.connect()))
        .collect()
        .await;
    for client in &mut clients {
        for _ in 0..2 {
            say(client, "which?").await;
        }
    }
    // Connections are accepted while callbacks are started.
    let more: Vec<Client> = FuturesUnordered::from_iter((0..1000).map(|_| server.connect()))
        .collect()
        .await;
    for client in &mut clients {
        for _ in 0..2 {
            assert_eq!(hear(client).await, "0\n1\n2\n3");
        }
    }
    for client in clients.into_iter().chain(more) {
        bye(client).await;
    }
    server.finish();
}

#[tokio::test]
async fn t55_signals_are_as_a_program_expects_them() {
    let server = Setup::new()
        .command(&["grep", "^Sig", "/proc/self/status"])
        .start();
    let mut client = server.connect().await;
    for _ in 0..3 {
        server.signal(nix::sys::signal::Signal::SIGUSR1);
        let status = ask(&mut client, "which?").await;
        for name in ["SigPnd", "SigBlk", "SigIgn"] {
            let line = status.lines().find(|line| line.starts_with(name)).unwrap();
            let set = u64::from_str_radix(line.rsplit('\t').next().unwrap(), 16).unwrap();
            // 32 and 33 are glibc's own: its posix_spawn leaves them ignored.
            assert_eq!(set & !(0b11 << 31), 0, "{line}");
        }
    }
    bye(client).await;
    server.finish();
}

#[tokio::test]
async fn a_callback_leads_a_process_group_without_a_terminal() {
    let server = Setup::new()
        .app("echo $$; cut -d' ' -f5 /proc/$$/stat")
        .start();
    let mut client = server.connect().await;
    let answer = ask(&mut client, "which?").await;
    let (pid, group) = answer.split_once('\n').unwrap();
    assert_eq!(pid, group);
    bye(client).await;
    server.finish();
}

#[tokio::test]
async fn t56_no_zombie_is_left() {
    let server = Setup::new()
        .set("app.error_reply", "failed")
        .app(r#"eval "$(cat)""#)
        .start();
    let mut clients = Vec::new();
    for _ in 0..8 {
        clients.push(server.connect().await);
    }
    let messages = [
        "echo a",
        "exit 3",
        "kill -9 $$",
        "true & true & echo b",
        "(true &) ; echo c",
        "setsid true & echo d",
    ];
    for message in messages.iter().cycle().take(16) {
        for client in &mut clients {
            say(client, message).await;
        }
    }
    for _ in 0..16 {
        for client in &mut clients {
            hear(client).await;
        }
    }
    server.until("callbacks.started", 128);
    eventually("no child is left to be reaped", || {
        server.zombies().is_empty()
    });
    for client in clients {
        bye(client).await;
    }
    server.finish();
}

/// T57: a program that takes every way out of its group: a session of its own, another directory,
/// an empty environment, a parent that ends.
const ESCAPES: [&str; 4] = [
    "setsid sleep 600 &",
    "(setsid sh -c '(sleep 600 &) ; exec sleep 600' &)",
    "(cd / && env -i setsid sh -c '(sleep 600 &) ; exec sleep 600' >&- 2>&- &)",
    "setsid sh -c 'trap \"\" TERM HUP INT; sleep 600 & wait' &",
];

async fn leaves_nothing(timeout: &str, rest: &str, reply: &str) {
    let marker = format!("600.{}", std::process::id());
    let server = Setup::new()
        .set("app.timeout", timeout)
        .set("app.error_reply", "failed")
        .app(r#"eval "$(cat)""#)
        .start();
    let mut client = server.connect().await;
    for escape in ESCAPES {
        // By this number they are known, wherever they are.
        let marker = format!("{marker}{}", server.addr.port());
        let escape = escape.replace("600", &marker);
        assert_eq!(
            ask(&mut client, &format!("{escape}\n{rest}")).await,
            reply,
            "{escape}"
        );
        eventually("no process is left", || processes_named(&marker).is_empty());
    }
    let failed = if reply == "failed" {
        ESCAPES.len() as u64
    } else {
        0
    };
    until_failed(&server, "timeout", failed);
    bye(client).await;
    server.finish();
}

fn processes_named(marker: &str) -> Vec<i32> {
    let entries = std::fs::read_dir("/proc").unwrap().flatten();
    let pids = entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    pids.filter(|pid| {
        let command = std::fs::read_to_string(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        command.contains(marker)
    })
    .collect()
}

#[tokio::test]
async fn t57_nothing_is_left_of_a_callback_that_ended_well() {
    leaves_nothing("30s", "echo done", "done").await;
}

#[tokio::test]
async fn t57_nothing_is_left_of_a_callback_that_timed_out() {
    leaves_nothing("500ms", "exec sleep 600", "failed").await;
}

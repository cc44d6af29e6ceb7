//! The processes beside the server: what dies with one of them, and what does not.

use std::collections::BTreeSet;
use std::io::Read;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};

use futures_util::future::join_all;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::support::*;

fn kill_all(pids: &[i32]) {
    for pid in pids {
        kill(Pid::from_raw(*pid), Signal::SIGKILL).unwrap();
    }
}

/// Callbacks that run, by the processes that started them.
fn callbacks_of(server: &Server, spawner: i32) -> usize {
    let callbacks = server.processes().into_iter();
    callbacks
        .filter(|(pid, command)| {
            command.contains("app.sh")
                && state_of(*pid).is_some_and(|(_, parent)| parent == spawner)
        })
        .count()
}

/// A server whose callbacks wait at the gate, and so many of them that do.
async fn with_callbacks_at_the_gate(count: usize) -> (Server, Gate, Vec<Client>) {
    let setup = Setup::new();
    let gate = Gate::new(setup.dir(), "gate");
    let server = setup
        .set("server.threads", "2")
        .set("app.error_reply", "failed")
        .app(r#"message=$(cat); echo "$message" >> began; read _ < gate; echo "$message""#)
        .start();
    let mut clients = Vec::new();
    for n in 0..count {
        let mut client = server.connect().await;
        say(&mut client, &n.to_string()).await;
        clients.push(client);
    }
    eventually("all of them wait", || {
        let began = std::fs::read_to_string(server.dir().join("began")).unwrap_or_default();
        began.lines().count() == count
    });
    (server, gate, clients)
}

#[test]
fn helpers_are_called_what_they_are() {
    let server = Setup::new().start();
    for (argument, name) in [
        ("__spawner", "ws-spawner\n"),
        ("__forkserver", "ws-forkserver\n"),
    ] {
        let pid = server.helpers(argument)[0];
        eventually("it has its name", || {
            std::fs::read_to_string(format!("/proc/{pid}/comm")).is_ok_and(|comm| comm == name)
        });
    }
    server.finish();
}

/// With two threads there are two.
fn until_two_spawners(server: &Server) -> Vec<i32> {
    eventually("there are two spawners again", || {
        server.helpers("__spawner").len() == 2
    });
    server.helpers("__spawner")
}

#[tokio::test]
async fn callbacks_are_children_of_the_spawners() {
    let (server, mut gate, mut clients) = with_callbacks_at_the_gate(6).await;
    let spawners = server.helpers("__spawner");
    assert_eq!(spawners.len(), 2);
    let by_spawner: Vec<usize> = spawners
        .iter()
        .map(|pid| callbacks_of(&server, *pid))
        .collect();
    assert_eq!(by_spawner.iter().sum::<usize>(), 6, "{by_spawner:?}");
    assert_eq!(callbacks_of(&server, server.pid()), 0);
    for spawner in &spawners {
        assert_eq!(state_of(*spawner).unwrap().1, server.pid());
        // One thread each, and no descriptor of any connection.
        let count = |what| {
            std::fs::read_dir(format!("/proc/{spawner}/{what}"))
                .unwrap()
                .count()
        };
        assert_eq!(count("task"), 1);
    }
    gate.open(6);
    for (n, client) in clients.iter_mut().enumerate() {
        assert_eq!(hear(client).await, n.to_string());
    }
    for client in clients {
        bye(client).await;
    }
    server.finish();
}

/// The server itself never spawns and never forks.
#[tokio::test]
async fn the_server_never_forks() {
    let server = Setup::new().validate("echo 7").app("cat").start();
    let calls = server.dir().join("calls");
    let strace = Command::new("strace")
        .args([
            "-qq",
            "-f",
            "-e",
            "trace=clone,clone3,fork,vfork,execve",
            "-o",
        ])
        .arg(&calls)
        .args(["-p", &server.pid().to_string()])
        .stdin(Stdio::null())
        .stderr(Stdio::null())
        .spawn();
    let Ok(mut strace) = strace else {
        eprintln!("skipped: there is no strace");
        server.finish();
        return;
    };
    let tracer = || {
        let tasks = std::fs::read_dir(format!("/proc/{}/task", server.pid())).unwrap();
        tasks.flatten().all(|task| {
            let status = std::fs::read_to_string(task.path().join("status")).unwrap_or_default();
            !status.contains("TracerPid:\t0\n")
        })
    };
    let mut has_given_up = false;
    eventually("strace is attached, or has given up", || {
        has_given_up = strace.try_wait().unwrap().is_some();
        has_given_up || tracer()
    });
    if has_given_up {
        eprintln!("skipped: strace may not trace here");
        server.finish();
        return;
    }
    for _ in 0..5 {
        let mut client = server.connect().await;
        for n in 0..4 {
            assert_eq!(ask(&mut client, &n.to_string()).await, n.to_string());
        }
        bye(client).await;
    }
    kill(
        Pid::from_raw(i32::try_from(strace.id()).unwrap()),
        Signal::SIGTERM,
    )
    .unwrap();
    strace.wait().unwrap();
    assert_eq!(std::fs::read_to_string(&calls).unwrap(), "");
    server.finish();
}

#[tokio::test]
async fn a_killed_spawner_costs_what_it_had_in_hand() {
    let (server, mut gate, mut clients) = with_callbacks_at_the_gate(8).await;
    let spawners = server.helpers("__spawner");
    let lost = callbacks_of(&server, spawners[0]);
    assert!(lost > 0 && lost < 8, "both have some: {lost}");
    kill_all(&spawners[..1]);
    server.until("callbacks.failed_by.lost", lost as u64);
    // Its callbacks are gone without having been let through, the others wait on.
    let now = until_two_spawners(&server);
    assert!(now.contains(&spawners[1]) && !now.contains(&spawners[0]));
    eventually("the others wait on", || {
        now.iter()
            .map(|pid| callbacks_of(&server, *pid))
            .sum::<usize>()
            == 8 - lost
    });
    gate.open(8 - lost);
    let mut failed = 0;
    for (n, client) in clients.iter_mut().enumerate() {
        let reply = hear(client).await;
        failed += usize::from(reply == "failed");
        assert!(reply == "failed" || reply == n.to_string(), "{reply}");
    }
    assert_eq!(failed, lost);
    // Every connection is still good.
    gate.open(8);
    for (n, client) in clients.iter_mut().enumerate() {
        assert_eq!(
            ask(client, &format!("again {n}")).await,
            format!("again {n}")
        );
    }
    for client in clients {
        bye(client).await;
    }
    let log = server.finish();
    assert_eq!(log.matches("\"callback failed\"").count(), lost);
}

#[tokio::test]
async fn without_any_spawner_the_server_finds_a_new_one() {
    let (server, mut gate, mut clients) = with_callbacks_at_the_gate(6).await;
    let spawners = server.helpers("__spawner");
    kill_all(&spawners);
    server.until("callbacks.failed_by.lost", 6);
    for client in &mut clients {
        assert_eq!(hear(client).await, "failed");
    }
    let callbacks = || {
        let processes = server.processes();
        processes
            .iter()
            .filter(|(_, command)| command.contains("app.sh"))
            .count()
    };
    eventually("no callback is left", || callbacks() == 0);
    gate.open(6);
    for (n, client) in clients.iter_mut().enumerate() {
        assert_eq!(
            ask(client, &format!("again {n}")).await,
            format!("again {n}")
        );
    }
    let now = until_two_spawners(&server);
    assert!(now.iter().all(|pid| !spawners.contains(pid)));
    eventually("no zombie is left", || server.zombies().is_empty());
    for client in clients {
        bye(client).await;
    }
    server.finish();
}

#[tokio::test]
async fn spawners_that_die_again_and_again_are_replaced() {
    let server = Setup::new()
        .set("server.threads", "2")
        .set("app.error_reply", "failed")
        .app("cat")
        .start();
    let mut client = server.connect().await;
    for round in 0..4 {
        let spawners = until_two_spawners(&server);
        kill_all(&spawners[..1 + round % 2]);
        // A message may be lost with its spawner, never more than that one.
        let answer = ask(&mut client, "hello").await;
        assert!(answer == "hello" || answer == "failed", "{answer}");
        eventually("they are gone", || {
            let now = server.helpers("__spawner");
            !spawners[..1 + round % 2]
                .iter()
                .any(|pid| now.contains(pid))
        });
        // The server learns it a moment later, and may give one of them another message by then.
        until_two_spawners(&server);
        assert_eq!(ask(&mut client, "next").await, "next");
    }
    bye(client).await;
    server.finish();
}

/// INV-18: whatever dies under them, messages run at most once and each has its one end, in order.
#[tokio::test]
async fn inv18_messages_run_at_most_once_while_spawners_die() {
    const CLIENTS: usize = 12;
    const MESSAGES: usize = 12;
    let server = Setup::new()
        .set("app.error_reply", "failed")
        .app(r#"read -r id latency; echo "$id" >> ran; sleep "$latency"; echo "$id""#)
        .start();
    let deaths = AtomicUsize::new(0);
    let visits = (0..CLIENTS).map(|client| {
        let (server, deaths) = (&server, &deaths);
        async move {
            let mut connection = server.connect().await;
            for n in 0..MESSAGES {
                let latency = (client * 7 + n * 3) % 10;
                say(&mut connection, &format!("{client}.{n} 0.0{latency}")).await;
            }
            let mut answered = Vec::new();
            for n in 0..MESSAGES {
                let id = format!("{client}.{n}");
                let reply = hear(&mut connection).await;
                assert!(reply == id || reply == "failed", "{reply} to {id}");
                if reply == id {
                    answered.push(id);
                }
                // Now and then one dies, sometimes all.
                if n % 4 == client % 4 {
                    let spawners = server.helpers("__spawner");
                    let count = deaths.fetch_add(1, Ordering::Relaxed) % 3;
                    for pid in spawners.iter().take(count) {
                        let _ = kill(Pid::from_raw(*pid), Signal::SIGKILL);
                    }
                }
            }
            bye(connection).await;
            answered
        }
    });
    let answered = join_all(visits).await.concat();
    let ran = std::fs::read_to_string(server.dir().join("ran")).unwrap();
    let once: BTreeSet<&str> = ran.lines().collect();
    assert_eq!(once.len(), ran.lines().count(), "none ran twice");
    assert!(
        answered.iter().all(|id| once.contains(&**id)),
        "none was made up"
    );
    let status = server.status();
    let failed = figure(&status, "callbacks.failed");
    assert_eq!(
        figure(&status, "callbacks.failed_by.lost"),
        failed,
        "{status:#}"
    );
    assert_eq!(answered.len() as u64 + failed, (CLIENTS * MESSAGES) as u64);
    server.finish();
}

/// A job that was given up before its spawner came to it does not run afterwards.
#[tokio::test]
async fn a_spawner_that_hangs_costs_the_time_of_the_message_only() {
    let setup = Setup::new();
    let _gate = Gate::new(setup.dir(), "gate");
    let server = setup
        .set("app.timeout", "2s")
        .set("app.error_reply", "failed")
        .app(
            r#"message=$(cat); test "$message" = "given up" && read _ < gate
echo "$message" >> ran; echo "$message""#,
        )
        .start();
    let mut client = server.connect().await;
    assert_eq!(ask(&mut client, "before").await, "before");
    let spawners = server.helpers("__spawner");
    let signal = |signal| {
        for pid in &spawners {
            kill(Pid::from_raw(*pid), signal).unwrap();
        }
    };
    signal(Signal::SIGSTOP);
    assert_eq!(ask(&mut client, "given up").await, "failed");
    server.until("callbacks.failed_by.timeout", 1);
    signal(Signal::SIGCONT);
    assert_eq!(ask(&mut client, "after").await, "after");
    assert_eq!(server.helpers("__spawner"), spawners);
    let is_helper = |command: &str| command.contains("__spawner");
    eventually("it is not there any more", || {
        server
            .processes()
            .iter()
            .all(|(_, command)| is_helper(command))
    });
    let ran = std::fs::read_to_string(server.dir().join("ran")).unwrap();
    assert_eq!(ran, "before\nafter\n", "nor ran it without its message");
    bye(client).await;
    server.finish();
}

#[tokio::test]
async fn a_validation_under_way_is_refused_with_its_spawner() {
    let setup = Setup::new()
        .validate(r#"test "$HTTP_X_WAIT" && read _ < gate; echo 7"#)
        .app(r#"echo "$WS_USER_ID""#);
    let _gate = Gate::new(setup.dir(), "gate");
    let server = setup.start();
    let spawners = server.helpers("__spawner");
    let headers = [("X-Wait", "yes")];
    let waiting = server.connect_with("/", &headers);
    let killer = async {
        let is_running = || {
            server
                .processes()
                .iter()
                .any(|(_, command)| command.contains("validate.sh"))
        };
        let runs = async {
            while !is_running() {
                tokio::task::yield_now().await;
            }
        };
        tokio::time::timeout(PATIENCE, runs)
            .await
            .expect("it is asked");
        kill_all(&spawners);
    };
    let (refused, ()) = tokio::join!(waiting, killer);
    match refused.unwrap_err() {
        tokio_tungstenite::tungstenite::Error::Http(response) => assert_eq!(response.status(), 503),
        error => panic!("{error}"),
    }
    eventually("it is not asked any more", || {
        !server
            .processes()
            .iter()
            .any(|(_, command)| command.contains("validate.sh"))
    });
    // Until the death of each is noticed, the next visitor may be given to a dead one.
    eventually("they are replaced", || {
        let now = server.helpers("__spawner");
        now.len() == spawners.len() && now.iter().all(|pid| !spawners.contains(pid))
    });
    let mut client = server.connect().await;
    assert_eq!(ask(&mut client, "who?").await, "7");
    bye(client).await;
    assert_eq!(server.figure("sockets.refused_by.validation_failed"), 1);
    server.finish();
}

#[tokio::test]
async fn a_killed_fork_server_costs_what_it_had_in_hand() {
    let server = Setup::new().set("app.error_reply", "failed").start();
    let mut clients = Vec::new();
    for n in 0..6 {
        let mut client = server.connect().await;
        assert_eq!(ask(&mut client, &format!("/echo/{n}")).await, n.to_string());
        clients.push(client);
    }
    for round in 0..3 {
        // Stopped, they hold what they were given.
        let family = server.helpers("__forkserver");
        for pid in &family {
            let _ = kill(Pid::from_raw(*pid), Signal::SIGSTOP);
        }
        let started = server.figure("callbacks.started");
        for (n, client) in clients.iter_mut().enumerate() {
            say(client, &format!("/echo/{round}.{n}")).await;
        }
        server.until("callbacks.started", started + 6);
        for pid in &family {
            let _ = kill(Pid::from_raw(*pid), Signal::SIGKILL);
        }
        // What was not in its hands yet is answered by the next one.
        for (n, client) in clients.iter_mut().enumerate() {
            let reply = hear(client).await;
            assert!(
                reply == "failed" || reply == format!("{round}.{n}"),
                "{reply}"
            );
        }
        for (n, client) in clients.iter_mut().enumerate() {
            assert_eq!(
                ask(client, &format!("/echo/next {n}")).await,
                format!("next {n}")
            );
        }
    }
    let status = server.status();
    assert_eq!(
        figure(&status, "callbacks.failed"),
        figure(&status, "callbacks.failed_by.lost")
    );
    for client in clients {
        bye(client).await;
    }
    server.finish();
}

#[tokio::test]
async fn a_fork_server_that_hangs_costs_the_time_of_the_message_only() {
    let server = Setup::new()
        .set("app.timeout", "2s")
        .set("app.error_reply", "failed")
        .start();
    let mut client = server.connect().await;
    assert_eq!(ask(&mut client, "/echo/before").await, "before");
    let family = server.helpers("__forkserver");
    for pid in &family {
        let _ = kill(Pid::from_raw(*pid), Signal::SIGSTOP);
    }
    assert_eq!(ask(&mut client, "/echo/given up").await, "failed");
    server.until("callbacks.failed_by.timeout", 1);
    for pid in &family {
        let _ = kill(Pid::from_raw(*pid), Signal::SIGCONT);
    }
    assert_eq!(ask(&mut client, "/echo/after").await, "after");
    bye(client).await;
    server.finish();
}

#[tokio::test]
async fn the_demo_takes_the_largest_message() {
    let server = Setup::new().start();
    let mut client = server.connect().await;
    let text = "é".repeat((1024 * 1024 - "/echo/".len()) / 2);
    assert!(ask(&mut client, &format!("/echo/{text}")).await == text);
    bye(client).await;
    server.finish();
}

/// The fork server is a child of a spawner: it is started again with another one.
#[tokio::test]
async fn the_demo_outlives_its_spawners() {
    let server = Setup::new().set("app.error_reply", "failed").start();
    let mut client = server.connect().await;
    assert_eq!(ask(&mut client, "/echo/before").await, "before");
    let before = server.helpers("__forkserver");
    kill_all(&server.helpers("__spawner"));
    eventually("the fork server is another one", || {
        let now = server.helpers("__forkserver");
        !now.is_empty() && now.iter().all(|pid| !before.contains(pid))
    });
    assert_eq!(ask(&mut client, "/echo/after").await, "after");
    bye(client).await;
    server.finish();
}

#[tokio::test]
async fn a_drain_waits_for_callbacks_and_delivers_their_replies() {
    let (server, mut gate, mut clients) = with_callbacks_at_the_gate(4).await;
    let mut idle = server.connect().await;
    server.signal(Signal::SIGTERM);
    // Nobody waits for an idle connection.
    assert_eq!(close_code(&mut idle).await, 1001);
    gate.open(4);
    for (n, client) in clients.iter_mut().enumerate() {
        assert_eq!(hear(client).await, n.to_string());
        assert_eq!(close_code(client).await, 1001);
    }
    drop((clients, idle));
    let log = server.check_end();
    assert!(!log.contains("drain cut short"), "{log}");
}

#[tokio::test]
async fn a_drain_finishes_what_was_accepted_from_those_who_left() {
    let (server, mut gate, mut clients) = with_callbacks_at_the_gate(2).await;
    for client in &mut clients {
        say(client, "and one more").await;
    }
    server.until("callbacks.accepted", 4);
    drop(clients);
    server.until("connections.open", 0);
    server.signal(Signal::SIGTERM);
    eventually("the drain has begun", || {
        std::net::TcpStream::connect(server.addr).is_err()
    });
    let began = server.dir().join("began");
    gate.open(4);
    // The directory goes with the server, so its file is kept open.
    let mut began = std::fs::File::open(began).unwrap();
    let log = server.check_end();
    assert!(!log.contains("drain cut short"), "{log}");
    let mut text = String::new();
    began.read_to_string(&mut text).unwrap();
    assert_eq!(text.lines().count(), 4, "{text}");
}

#[tokio::test]
async fn a_second_signal_ends_callbacks_at_once() {
    let (mut server, _gate, mut clients) = with_callbacks_at_the_gate(4).await;
    server.signal(Signal::SIGTERM);
    eventually("the drain has begun", || {
        std::net::TcpStream::connect(server.addr).is_err()
    });
    server.signal(Signal::SIGINT);
    // `wait` sees that no process is left: the gate was never opened.
    let (status, log) = server.wait();
    assert!(status.success(), "{status}");
    assert!(log.contains("drain cut short"), "{log}");
    for client in &mut clients {
        assert_ne!(close_code(client).await, 1000);
    }
}

#[tokio::test]
async fn a_drain_that_takes_too_long_ends_callbacks() {
    let setup = Setup::new();
    let _gate = Gate::new(setup.dir(), "gate");
    let server = setup
        .set("limits.drain_timeout", "200ms")
        .app("trap '' TERM; setsid sleep 600 & read _ < gate")
        .start();
    let mut client = server.connect().await;
    say(&mut client, "hold").await;
    server.until("callbacks.started", 1);
    server.signal(Signal::SIGTERM);
    let log = server.check_end();
    assert!(log.contains("drain cut short"), "{log}");
    drop(client);
}

/// INV-19: the server killed outright takes its helpers and their callbacks along.
#[tokio::test]
async fn nothing_outlives_a_killed_server() {
    let (server, _gate, clients) = with_callbacks_at_the_gate(4).await;
    assert!(server.processes().len() >= 6);
    server.signal(Signal::SIGKILL);
    eventually("no process is left", || server.processes().is_empty());
    drop(clients);
}

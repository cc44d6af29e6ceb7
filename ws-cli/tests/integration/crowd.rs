//! Many connections at once, and hostile ones beside clean ones (INV-01 to INV-06, INV-18, INV-19).

use std::collections::HashSet;
use std::fs::File;
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::sync::Arc;
use std::time::Duration;

use nix::fcntl::OFlag;
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use serde_json::json;
use tokio::sync::Barrier;
use tokio_tungstenite::tungstenite::Message;

use crate::support::*;

/// Numbers that look random and are the same in every run (SplitMix64).
struct Random(u64);

impl Random {
    fn below(&mut self, bound: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (mixed ^ (mixed >> 31)) % bound
    }
}

/// Each client takes a descriptor here, and two in the server, which raises its limit itself.
fn raise_descriptor_limit() {
    let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE).unwrap();
    setrlimit(Resource::RLIMIT_NOFILE, hard, hard).unwrap();
}

/// What becomes of one client.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Fate {
    Stays,
    /// Leaves without a word when it has asked so many times.
    VanishesAfter(usize),
    /// Closes properly when it has asked so many times, without waiting for the answers.
    ClosesAfter(usize),
}

const MESSAGES: usize = 3;
const BROADCASTS: usize = 20;
/// To every so many, somebody writes through its FIFO.
const FIFO_EVERY: usize = 10;

/// Asks its questions, and hears its own answers and every push, in order.
async fn one_of_the_crowd(
    mut client: Client,
    number: usize,
    fate: Fate,
    connected: Arc<Barrier>,
    done: Arc<Barrier>,
) {
    let mut random = Random(number as u64);
    connected.wait().await;
    let mut questions = Vec::new();
    for message in 0..MESSAGES {
        if fate == Fate::VanishesAfter(message) {
            drop(client);
            done.wait().await;
            return;
        }
        if fate == Fate::ClosesAfter(message) {
            bye(client).await;
            done.wait().await;
            return;
        }
        let nonce = format!("{number}.{message}");
        let crashes = random.below(10) == 0;
        let latency = match random.below(8) {
            0 => format!("0.0{}", random.below(10)),
            _ => "0".to_owned(),
        };
        let code = if crashes { 3 } else { 0 };
        say(&mut client, &format!("{nonce} {latency} {code}")).await;
        questions.push((nonce, crashes));
    }
    let (mut answers, mut broadcasts, mut own_pushes, mut own_runs) = (0, 0, 0, 0);
    let runs = usize::from(number.is_multiple_of(FIFO_EVERY));
    while answers < MESSAGES || broadcasts < BROADCASTS || own_pushes < 1 || own_runs < runs {
        let heard = hear(&mut client).await;
        if let Some(broadcast) = heard.strip_prefix("to all ") {
            assert_eq!(broadcast.parse(), Ok(broadcasts), "INV-03: {number}");
            broadcasts += 1;
        } else if let Some(user) = heard.strip_prefix("to user ") {
            assert_eq!(user.parse(), Ok(number), "INV-04: {number}");
            own_pushes += 1;
        } else if let Some(run) = heard.strip_prefix("/run/") {
            assert_eq!(run.parse(), Ok(number), "INV-04: {number}");
            own_runs += 1;
        } else {
            let (nonce, crashes) = &questions[answers];
            let expected = if *crashes { "crashed" } else { nonce };
            assert_eq!(&heard, expected, "INV-01, INV-04: {number}");
            answers += 1;
        }
    }
    done.wait().await;
    // Nothing comes twice: the next that is heard is the end.
    client.close(None).await.unwrap();
    match next(&mut client).await {
        Message::Close(_) => {}
        other => panic!("INV-03: {number}: {other:?}"),
    }
}

#[tokio::test]
async fn inv01_inv04_a_thousand_connections_get_their_own_answers_in_order() {
    const CLIENTS: usize = 1000;
    raise_descriptor_limit();
    let setup = Setup::new()
        .app(
            r#"read -r nonce latency code
               [ "${latency:-0}" = 0 ] || sleep "$latency"
               echo "$nonce"
               exit "${code:-0}""#,
        )
        .set("app.concurrency", "32")
        .set("app.error_reply", "crashed")
        .set("log.level", "error");
    let server = setup.start();
    let connected = Arc::new(Barrier::new(CLIENTS + 1));
    let done = Arc::new(Barrier::new(CLIENTS + 1));
    let mut random = Random(2026);
    let mut clients = Vec::new();
    for number in 0..CLIENTS {
        let client = server
            .connect_with(&format!("/{number}"), &[])
            .await
            .unwrap();
        let fate = match random.below(10) {
            0 => Fate::VanishesAfter(1 + random.below(2) as usize),
            1 => Fate::ClosesAfter(1 + random.below(2) as usize),
            _ => Fate::Stays,
        };
        clients.push(tokio::spawn(one_of_the_crowd(
            client,
            number,
            fate,
            Arc::clone(&connected),
            Arc::clone(&done),
        )));
    }
    assert_eq!(server.figure("connections.open"), CLIENTS as u64);
    let users: Vec<(String, String, String)> = server
        .connections()
        .iter()
        .map(|entry| {
            let text = |key: &str| entry[key].as_str().unwrap().to_owned();
            (text("user"), text("uri"), text("fifo"))
        })
        .collect();
    let distinct: HashSet<_> = users.iter().map(|(user, ..)| user).collect();
    assert_eq!(distinct.len(), CLIENTS);
    connected.wait().await;
    // Meanwhile others push: to all through the FIFO, to each by the control socket, and some
    // are run for through their own FIFOs.
    let (global, socket) = (
        server.state("fifo/global_pipe.fifo"),
        server.state("control.sock"),
    );
    let broadcaster = std::thread::spawn(move || {
        let mut fifo = File::options().write(true).open(global).unwrap();
        for number in 0..BROADCASTS {
            writeln!(fifo, "to all {number}").unwrap();
        }
    });
    let pusher = std::thread::spawn(move || {
        for (user, uri, fifo) in users {
            let number = uri.trim_start_matches('/');
            if number.parse::<usize>().unwrap().is_multiple_of(FIFO_EVERY) {
                // Unless its client has gone, and the FIFO with it.
                let opened = File::options()
                    .write(true)
                    .custom_flags(OFlag::O_NONBLOCK.bits())
                    .open(fifo);
                if let Ok(mut fifo) = opened {
                    let _ = writeln!(fifo, "/run/{number}");
                }
            }
            let text = format!("to user {number}");
            let body = json!({ "to": { "user": user }, "text": text }).to_string();
            let (status, answer) = control(&socket, "POST", "/v1/send", &body).unwrap();
            assert_eq!(status, 200, "{answer}");
        }
    });
    done.wait().await;
    for client in clients {
        client.await.unwrap();
    }
    broadcaster.join().unwrap();
    pusher.join().unwrap();
    server.until("connections.open", 0);
    let status = server.status();
    assert!(figure(&status, "fifo.records") > (BROADCASTS + CLIENTS / FIFO_EVERY / 2) as u64);
    assert_eq!(
        figure(&status, "pushes.accepted"),
        (BROADCASTS + CLIENTS) as u64
    );
    assert_eq!(figure(&status, "connections.opened"), CLIENTS as u64);
    for cause in ["signal", "timeout", "output", "cannot_start", "lost"] {
        let path = format!("callbacks.failed_by.{cause}");
        assert_eq!(figure(&status, &path), 0, "{status:#}");
    }
    server.finish();
}

#[tokio::test]
async fn inv02_all_connections_see_two_publishers_in_the_same_order() {
    const MESSAGES: usize = 300;
    const CLIENTS: usize = 12;
    // On several threads, each of which writes to connections of its own.
    let setup = Setup::new().arg("--echo").set("server.threads", "4");
    let server = setup.start();
    let mut clients = Vec::new();
    for _ in 0..CLIENTS {
        clients.push(server.connect().await);
    }
    let api = |name: &'static str| {
        let socket = server.state("control.sock");
        std::thread::spawn(move || {
            for number in 0..MESSAGES {
                let text = format!("{name} {number}");
                let body = json!({ "to": { "all": true }, "text": text }).to_string();
                let (status, _) = control(&socket, "POST", "/v1/send", &body).unwrap();
                assert_eq!(status, 200);
            }
        })
    };
    let global = server.state("fifo/global_pipe.fifo");
    let fifo = std::thread::spawn(move || {
        let mut fifo = File::options().write(true).open(global).unwrap();
        for number in 0..MESSAGES {
            writeln!(fifo, "fifo {number}").unwrap();
        }
    });
    let publishers = [api("one"), api("two"), fifo];
    let mut orders = Vec::new();
    for client in &mut clients {
        let mut order = Vec::new();
        for _ in 0..3 * MESSAGES {
            order.push(hear(client).await);
        }
        orders.push(order);
    }
    for publisher in publishers {
        publisher.join().unwrap();
    }
    for name in ["one", "two", "fifo"] {
        let own = orders[0].iter().filter(|text| text.starts_with(name));
        let expected = (0..MESSAGES).map(|number| format!("{name} {number}"));
        assert!(own.cloned().eq(expected), "{name}: {:?}", orders[0]);
    }
    for order in &orders[1..] {
        assert_eq!(order, &orders[0]);
    }
    for client in clients {
        bye(client).await;
    }
    server.finish();
}

#[tokio::test]
async fn inv05_hostile_callbacks_cost_the_clean_ones_nothing_but_time() {
    const CLIENTS: usize = 12;
    const QUESTIONS: usize = 6;
    let setup = Setup::new()
        .app(
            r#"read -r nonce what
               case $what in
                   clean) echo "$nonce" ;;
                   flood) exec yes "$nonce" ;;
                   hang) exec sleep 600 ;;
                   deaf) trap '' TERM; sleep 600; sleep 600 ;;
                   orphan) echo "$nonce"; setsid sleep 600 & exit 0 ;;
                   noise) yes noise >&2 ;;
                   segv) kill -SEGV $$ ;;
               esac"#,
        )
        .set("app.timeout", "2s")
        .set("app.max_output", "64KiB")
        .set("app.concurrency", "16")
        .set("app.error_reply", "failed")
        .set("log.level", "error");
    let server = Arc::new(setup.start());
    let hostile = ["flood", "hang", "deaf", "orphan", "noise", "segv"];
    let clients: Vec<_> = (0..CLIENTS)
        .map(|number| {
            let server = Arc::clone(&server);
            tokio::spawn(async move {
                let mut client = server.connect().await;
                let is_clean = number % 2 == 0;
                let mut expected = Vec::new();
                for question in 0..QUESTIONS {
                    let nonce = format!("{number}.{question}");
                    let what = match is_clean {
                        true => "clean",
                        false => hostile[(number / 2 + question) % hostile.len()],
                    };
                    say(&mut client, &format!("{nonce} {what}")).await;
                    let is_answered = ["clean", "orphan"].contains(&what);
                    expected.push(if is_answered { nonce } else { "failed".into() });
                }
                for expected in expected {
                    assert_eq!(hear(&mut client).await, expected, "{number}");
                }
                bye(client).await;
            })
        })
        .collect();
    for client in clients {
        let limit = Duration::from_secs(120);
        tokio::time::timeout(limit, client).await.unwrap().unwrap();
    }
    let status = server.status();
    let failed = CLIENTS / 2 * (QUESTIONS - 1);
    assert_eq!(figure(&status, "callbacks.failed"), failed as u64);
    for (cause, count) in [("output", 6), ("timeout", 18), ("signal", 6)] {
        let path = format!("callbacks.failed_by.{cause}");
        assert_eq!(figure(&status, &path), count, "{path}: {status:#}");
    }
    Arc::into_inner(server).unwrap().finish();
}

//! What CarbonPHP's server does wrong and this one does not.
//!
//! | # | there | here |
//! |---|---|---|
//! | B1 | the callback runs twice, and the server ends after the first message | [`b01_a_message_runs_once_and_the_server_goes_on`] |
//! | B2 | a user's FIFO is another door with the same key | `fifo::b02_*`, [`b02_what_is_written_for_all_is_run_for_nobody`] |
//! | B3 | FIFOs that the whole host may write | `fifo::t40_*`, `fifo::t41_*` |
//! | B4 | user 4 is reached as 42, `*` is everybody | `control::b04_*`, `fifo::t42_*`, [`b04_no_verb_takes_a_pattern`] |
//! | B5 | a delimiter that can be guessed and that moves | `fifo::t47_*`, [`b05_the_delimiter_of_others_is_no_delimiter`] |
//! | B6 | a torn record is run | `fifo::t46_*`, [`b06_a_record_in_two_writes_runs_once_and_whole`] |
//! | B7 | a failed validation is user 0, or the end of the server | `validation::b7_*`, `validation::t49_*` |
//! | B8 | one silent client stalls all; no checks of the handshake | `handshake::b08_*`, `handshake::t05_*` to `t08_*` |
//! | B9 | 101 first, then a close without a code | `handshake::b09_*` |
//! | B10 | frames out of step | `frames::b10_*`, `frames::t20_*` to `t27_*` |
//! | B11 | JSON closes the connection | `frames::b11_*`, `callbacks::answers::b11_*` |
//! | B12 | dead sockets keep the loop busy | `frames::b12_*`; dead writers: `fifo::t44_*` |
//! | B13 | short writes tear frames | `frames::b13_*`, `callbacks::answers::b13_*` |
//! | B14 | a callback holds everybody's descriptors | `callbacks::isolation::t54_b14_*` |
//! | B15 | signals do nothing, exit statuses are lost | `life::b15_*`, `callbacks::failures::b15_*` |
//! | B16 | the session's name is the user's | [`b16_a_session_is_not_its_user`] |

use std::collections::HashSet;
use std::io::Write;

use crate::fifo::{fifo_of, open, write};
use crate::support::*;

#[tokio::test]
async fn b01_a_message_runs_once_and_the_server_goes_on() {
    let setup = Setup::new().app(r#"echo "$WS_MESSAGE_ID $$" >> runs; echo "$WS_MESSAGE_ID""#);
    let server = setup.start();
    let mut client = server.connect().await;
    for number in 1..=5 {
        assert_eq!(ask(&mut client, "/x").await, number.to_string());
    }
    let runs = std::fs::read_to_string(server.dir().join("runs")).unwrap();
    let ids: Vec<&str> = runs
        .lines()
        .map(|line| line.split_once(' ').unwrap().0)
        .collect();
    assert_eq!(ids, ["1", "2", "3", "4", "5"]);
    // Each in a process of its own, none of them the server's.
    let pids: HashSet<&str> = runs
        .lines()
        .map(|line| line.split_once(' ').unwrap().1)
        .collect();
    assert_eq!(pids.len(), 5);
    assert!(!pids.contains(&*server.pid().to_string()));
    bye(client).await;
    server.finish();
}

#[tokio::test]
async fn b02_what_is_written_for_all_is_run_for_nobody() {
    let server = Setup::new().app("echo run >> runs").start();
    let mut client = server.connect().await;
    write(&server.state("fifo/global_pipe.fifo"), "/drop/tables\n");
    assert_eq!(hear(&mut client).await, "/drop/tables");
    assert!(!server.dir().join("runs").exists());
    bye(client).await;
    server.finish();
}

#[tokio::test]
async fn b04_no_verb_takes_a_pattern() {
    let setup = Setup::new().app("echo hi").validate("echo 42");
    let server = setup.start();
    let mut client = server.connect().await;
    for pattern in ["4", "420", "*", "4*", "4?", "[4]2", "42:127.0.0.1", "%"] {
        for args in [
            ["send", "--user", pattern, "x"],
            ["run", "--user", pattern, "/"],
        ] {
            assert_eq!(server.ws(&args).status.code(), Some(75), "{args:?}");
        }
    }
    assert!(server.ws(&["send", "--user", "42", "x"]).status.success());
    assert_eq!(hear(&mut client).await, "x");
    bye(client).await;
    server.finish();
}

#[tokio::test]
async fn b05_the_delimiter_of_others_is_no_delimiter() {
    let setup = Setup::new().app(r#"echo "$REQUEST_URI""#);
    let server = setup.start();
    let mut client = server.connect().await;
    // Whoever may put a text into a record cannot begin another with what CarbonPHP ends its own.
    let injected = "/say?text=CarbonPHP\\Abstracts\\Pipe:29 /admin";
    write(&fifo_of(&server, &client), format!("{injected}\n"));
    assert_eq!(hear(&mut client).await, injected);
    bye(client).await;
    server.finish();
}

#[tokio::test]
async fn b06_a_record_in_two_writes_runs_once_and_whole() {
    let setup = Setup::new().app(r#"echo "$REQUEST_URI""#);
    let server = setup.start();
    let mut client = server.connect().await;
    let mut fifo = open(&fifo_of(&server, &client));
    fifo.write_all(b"/first\n/pay?amount=1").unwrap();
    // The server has read the half when it has run what stands before.
    assert_eq!(hear(&mut client).await, "/first");
    fifo.write_all(b"000\n/next\n").unwrap();
    assert_eq!(hear(&mut client).await, "/pay?amount=1000");
    assert_eq!(hear(&mut client).await, "/next");
    assert_eq!(server.figure("callbacks.accepted"), 3);
    bye(client).await;
    server.finish();
}

#[tokio::test]
async fn b16_a_session_is_not_its_user() {
    let setup = Setup::new().app(r#"echo "$WS_SESSION_ID""#);
    let server = setup.validate("echo 7").start();
    let mut sessions = HashSet::new();
    let mut clients = Vec::new();
    for _ in 0..3 {
        let mut client = server.connect().await;
        let session = ask(&mut client, "/").await;
        assert!(session.len() == 32 && session != "7", "{session}");
        sessions.insert(session);
        clients.push(client);
    }
    assert_eq!(sessions.len(), 3, "a user may have several");
    // To know a session's name is not to be in it.
    let name = sessions.iter().next().unwrap();
    let cookie = format!("ws_session={name}");
    let mut thief = server
        .connect_with("/", &[("Cookie", &cookie)])
        .await
        .unwrap();
    assert!(!sessions.contains(&ask(&mut thief, "/").await));
    bye(thief).await;
    for client in clients {
        bye(client).await;
    }
    server.finish();
}

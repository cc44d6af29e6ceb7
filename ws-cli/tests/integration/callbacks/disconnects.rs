//! Connections that come and go while their callbacks run.

use std::sync::Arc;

use super::lines_of;
use crate::support::*;

#[tokio::test]
async fn accepted_messages_run_after_a_disconnect_and_their_replies_are_dropped() {
    let setup = Setup::new();
    let mut gate = Gate::new(setup.dir(), "gate");
    let server = setup
        .app("echo $WS_MESSAGE_ID >> begun; read _ < gate; echo $WS_MESSAGE_ID >> ended; echo late")
        .start();
    let mut client = server.connect().await;
    for n in 1..=3 {
        say(&mut client, &n.to_string()).await;
    }
    server.until("callbacks.accepted", 3);
    drop(client);
    server.until("connections.open", 0);
    gate.open(3);
    server.until("callbacks.finished", 3);
    server.until("callbacks.replies_dropped", 3);
    assert_eq!(lines_of(server.dir(), "begun"), ["1", "2", "3"]);
    assert_eq!(lines_of(server.dir(), "ended"), ["1", "2", "3"]);
    server.finish();
}

#[tokio::test]
async fn accepted_messages_are_cancelled_by_a_disconnect_if_so_configured() {
    let setup = Setup::new();
    let _gate = Gate::new(setup.dir(), "gate");
    let server = setup
        .set("app.on_disconnect", "cancel")
        .app("setsid sh -c 'exec sleep 600' & echo run >> begun; read _ < gate; echo run >> ended")
        .start();
    let mut client = server.connect().await;
    for n in 1..=3 {
        say(&mut client, &n.to_string()).await;
    }
    server.until("callbacks.accepted", 3);
    eventually("the first one runs", || {
        lines_of(server.dir(), "begun").len() == 1
    });
    drop(client);
    // The one that runs is killed with its descendants, the others never begin.
    server.until("callbacks.failed_by.cancelled", 1);
    server.until("callbacks.cancelled", 2);
    eventually("no callback is left", || {
        server
            .processes()
            .iter()
            .all(|(_, command)| command.contains("__spawner"))
    });
    assert_eq!(lines_of(server.dir(), "begun"), ["run"]);
    assert_eq!(lines_of(server.dir(), "ended"), Vec::<String>::new());
    server.finish();
}

/// Behind a full queue nothing is read, so the end is seen when there is room again.
#[tokio::test]
async fn a_disconnect_behind_a_full_queue_is_noticed_when_there_is_room() {
    let setup = Setup::new();
    let mut gate = Gate::new(setup.dir(), "gate");
    let server = setup
        .app("read _ < gate; cat >> ran; echo >> ran; echo late")
        .start();
    let mut client = server.connect().await;
    for n in 1..=30 {
        say(&mut client, &n.to_string()).await;
    }
    server.until("callbacks.accepted", 17);
    drop(client);
    gate.open(30);
    server.until("connections.open", 0);
    server.until("callbacks.failed", 0);
    let accepted = server.figure("callbacks.accepted");
    server.until("callbacks.finished", accepted);
    let ran = lines_of(server.dir(), "ran");
    let expected: Vec<String> = (1..=accepted).map(|n| n.to_string()).collect();
    assert_eq!(ran, expected);
    server.finish();
}

/// T62, INV-04: replies find their own connection or none, however connections come and go.
#[tokio::test]
async fn t62_no_reply_reaches_a_connection_that_did_not_ask() {
    const CLIENTS: usize = 40;
    const ROUNDS: usize = 6;
    let server = Setup::new()
        .set("app.concurrency", "16")
        .app(r#"read -r nonce latency; sleep "$latency"; echo "$nonce""#)
        .start();
    let server = Arc::new(server);
    let clients = (0..CLIENTS).map(|client| {
        let server = Arc::clone(&server);
        tokio::spawn(async move {
            for round in 0..ROUNDS {
                let mut connection = server.connect().await;
                let nonce = |n: usize| format!("{client}.{round}.{n}");
                for n in 0..2 {
                    let latency = (client * 7 + round * 5 + n * 3) % 10;
                    say(&mut connection, &format!("{} 0.0{latency}", nonce(n))).await;
                }
                // A third leaves at once, without a word.
                if (client + round) % 3 == 0 {
                    continue;
                }
                for n in 0..2 {
                    assert_eq!(hear(&mut connection).await, nonce(n));
                }
                bye(connection).await;
            }
        })
    });
    for client in clients.collect::<Vec<_>>() {
        client.await.unwrap();
    }
    let server = Arc::into_inner(server).unwrap();
    server.until("connections.open", 0);
    let status = server.status();
    assert_eq!(
        figure(&status, "connections.opened"),
        (CLIENTS * ROUNDS) as u64
    );
    assert_eq!(figure(&status, "callbacks.failed"), 0, "{status:#}");
    server.finish();
}

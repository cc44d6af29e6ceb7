//! Stores that other processes are: they go, they hang, they come back, and others write there.

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;

use nix::sys::signal::Signal;
use ws_server::testing::{DatabaseServer, PASSWORD, TestDatabase};

use super::*;

/// Asks to be connected; returns the refusal, if it is one.
fn knock(server: &Server, cookie: Option<&str>) -> Option<Response> {
    let line = cookie.map(|cookie| format!("Cookie: {cookie}"));
    let lines: Vec<&str> = line.iter().map(|line| &**line).collect();
    let mut stream = server.raw_stream();
    stream.write_all(head("/", &lines).as_bytes()).unwrap();
    let mut answer = vec![0; 12];
    stream.read_exact(&mut answer).unwrap();
    if answer == b"HTTP/1.1 101" {
        return None;
    }
    stream.read_to_end(&mut answer).unwrap();
    Some(check_refusal(&answer))
}

/// Whoever is connected does not notice; whoever is known comes in; others are told to come again.
async fn check_outage(database: TestDatabase) {
    let Some(mut process) = DatabaseServer::start(database) else {
        return;
    };
    let setup = Setup::new()
        .set("identity.store", process.url())
        .set("identity.store_timeout", "500ms")
        .app(WHO);
    let server = setup.start();
    let (mut client, cookie) = server.connect_for_cookie().await;
    let session = ask(&mut client, "who?").await;
    let unknown = format!("ws_session={}", "A".repeat(43));
    // The processes of PostgreSQL that answer are not the one that is told to stop.
    let hangs: &[bool] = match database {
        TestDatabase::Postgres => &[false],
        _ => &[false, true],
    };
    for hangs in hangs {
        server.until("identity.changes_waiting", 0);
        match hangs {
            true => process.signal(Signal::SIGSTOP),
            false => process.stop(),
        }
        let refused = knock(&server, Some(&unknown)).expect("it cannot be known");
        assert_eq!(refused.status, 503, "{database:?}");
        assert!(refused.header("Retry-After").is_some());
        // A new one could not be written down.
        let refused = knock(&server, None).expect("it cannot be kept");
        assert_eq!(refused.status, 503, "{database:?}");
        assert_eq!(ask(&mut client, "who?").await, session, "{database:?}");
        assert_eq!(session_of(&server, &cookie).await, session, "{database:?}");
        assert_eq!(server.status()["identity"]["store_answers"], false);
        match hangs {
            true => process.signal(Signal::SIGCONT),
            false => process.restart(),
        }
        eventually("it answers again", || {
            server.status()["identity"]["store_answers"] == true
        });
        assert_ne!(session_of(&server, &unknown).await, session);
    }
    let outages = hangs.len();
    assert_eq!(server.figure("identity.store_outages"), outages as u64);
    let refused = server.figure("sockets.refused_by.store");
    assert_eq!(refused, 2 * outages as u64);
    bye(client).await;
    server.until("identity.changes_waiting", 0);
    server.signal(Signal::SIGTERM);
    let log = server.check_end();
    assert!(!log.contains(PASSWORD), "{log}");
    let times = |text: &str| log.matches(text).count();
    assert_eq!(times("the session store answers again"), outages, "{log}");
    assert_eq!(times("new visitors are turned away"), outages, "{log}");

    let setup = Setup::new().set("identity.store", process.url());
    let server = setup.app(WHO).start();
    assert_eq!(session_of(&server, &cookie).await, session);
    server.signal(Signal::SIGTERM);
    server.check_end();
}

#[tokio::test]
async fn an_outage_of_mariadb_touches_nobody_who_is_connected() {
    check_outage(TestDatabase::MariaDb).await;
}

#[tokio::test]
async fn an_outage_of_postgresql_touches_nobody_who_is_connected() {
    check_outage(TestDatabase::Postgres).await;
}

#[tokio::test]
async fn an_outage_of_redis_touches_nobody_who_is_connected() {
    check_outage(TestDatabase::Redis).await;
}

/// What is changed during an outage is written when it is over.
#[tokio::test]
async fn what_happens_during_an_outage_is_written_afterwards() {
    let Some(mut process) = DatabaseServer::start(TestDatabase::Redis) else {
        return;
    };
    let setup = || {
        Setup::new()
            .set("identity.store", process.url())
            .set("app.output", "cgi")
            .set("app.empty_reply", "(nothing)")
            .app(r#"printf 'X-WS-Data: %s\n\n%s' "$(cat)" "$WS_SESSION_DATA""#)
    };
    let server = setup().start();
    let (mut client, cookie) = server.connect_for_cookie().await;
    assert_eq!(ask(&mut client, "before").await, "(nothing)");
    server.until("identity.changes_waiting", 0);
    process.stop();
    assert_eq!(ask(&mut client, "during").await, "before");
    eventually("it is noticed", || {
        server.status()["identity"]["store_answers"] == false
    });
    process.restart();
    server.until("identity.changes_waiting", 0);
    bye(client).await;
    server.signal(Signal::SIGTERM);
    server.check_end();
    let setup = Setup::new()
        .set("identity.store", process.url())
        .set("app.output", "cgi")
        .app(r#"printf '\n%s' "$WS_SESSION_DATA""#);
    let server = setup.start();
    let headers = [("Cookie", &*cookie)];
    let mut client = server.connect_with("/", &headers).await.unwrap();
    assert_eq!(ask(&mut client, "get").await, "during");
    bye(client).await;
    server.signal(Signal::SIGTERM);
    server.check_end();
}

/// A session that somebody removes from the store by hand is closed if the server is to look.
#[tokio::test]
async fn whose_session_is_removed_from_the_store_is_closed() {
    for database in TestDatabase::ALL {
        let Some(process) = DatabaseServer::start(database) else {
            continue;
        };
        let setup = Setup::new()
            .set("identity.store", process.url())
            .set("identity.check_interval", "1s")
            .app(WHO);
        let server = setup.start();
        let (mut client, cookie) = server.connect_for_cookie().await;
        let session = ask(&mut client, "who?").await;
        let (mut other, _) = server.connect_for_cookie().await;
        server.until("identity.changes_waiting", 0);
        process.execute(&match database {
            TestDatabase::Redis => format!("DEL ws:session:{session}"),
            TestDatabase::Postgres => format!("DELETE FROM ws_sessions WHERE id = '{session}'"),
            TestDatabase::MariaDb => format!("DELETE FROM ws.ws_sessions WHERE id = '{session}'"),
        });
        assert_eq!(close_code(&mut client).await, 1008, "{database:?}");
        assert_ne!(session_of(&server, &cookie).await, session);
        assert_ne!(ask(&mut other, "who?").await, session);
        bye(other).await;
        drop(client);
        server.signal(Signal::SIGTERM);
        server.check_end();
    }
}

/// Its connections are closed before the store is asked; that is not all there is to it.
#[tokio::test]
async fn t02_a_revocation_is_done_to_its_end_though_who_asked_for_it_hangs_up() {
    let Some(process) = DatabaseServer::start(TestDatabase::Redis) else {
        return;
    };
    let server = Setup::new()
        .set("identity.store", process.url())
        .set("identity.store_timeout", "20s")
        .app(WHO)
        .start();
    // Where nobody names users, the user is the session.
    for (revoked, selection) in (1..).zip(["sessions/", "sessions?user="]) {
        let (mut client, cookie) = server.connect_for_cookie().await;
        let session = ask(&mut client, "who?").await;
        server.until("identity.changes_waiting", 0);
        process.signal(Signal::SIGSTOP);
        let mut asking = UnixStream::connect(server.state("control.sock")).unwrap();
        let request =
            format!("DELETE /v1/{selection}{session} HTTP/1.1\r\nHost: localhost\r\n\r\n");
        asking.write_all(request.as_bytes()).unwrap();
        assert_eq!(close_code(&mut client).await, 1008);
        drop(asking);
        // The server has heard of it when it has answered others.
        for _ in 0..20 {
            assert_eq!(server.figure("identity.revoked"), revoked - 1);
        }
        process.signal(Signal::SIGCONT);
        server.until("identity.revoked", revoked);
        assert_ne!(session_of(&server, &cookie).await, session);
    }
    server.finish();
}

//! One FIFO for all connections of a user, and the names of CarbonPHP.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;

use super::*;
use crate::wire::{Wire, close_frame};

/// The program that runs applications in Perl, and the application.
const SHIM: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../ws-ipc/shims/fork.pl");
const PERL: &str = concat!(
    env!("CARGO_MANIFEST_DIR"),
    "/tests/integration/callbacks/backends/application.pl"
);

fn per(per: &str) -> Setup {
    Setup::new()
        .app(WHO)
        .validate(USER_BY_PATH)
        .set("fifo.per", per)
}

fn fifos(server: &Server) -> Vec<String> {
    let mut names = names_in(&server.state("fifo"));
    names.retain(|name| name.ends_with(".fifo") && name != "global_pipe.fifo");
    names.sort();
    names
}

#[tokio::test]
async fn a_user_s_fifo_lasts_from_the_first_connection_to_the_last() {
    let server = per("user").start();
    let mut first = server.connect_with("/alice", &[]).await.unwrap();
    let mut second = server.connect_with("/alice", &[]).await.unwrap();
    let mut other = server.connect_with("/bob", &[]).await.unwrap();
    assert_eq!(fifos(&server), ["alice.fifo", "bob.fifo"]);
    let alice = server.state("fifo/alice.fifo");
    assert!(is_ready(&alice));
    let (status, user) = server.control("GET", "/v1/users/alice", "");
    assert_eq!(status, 200, "{user}");
    let user: serde_json::Value = serde_json::from_str(&user).unwrap();
    assert_eq!(user["fifo"].as_str(), alice.to_str());
    assert!(user["connections"][0]["fifo"].is_null());

    write(&alice, "/a?b=c\nnot a path\n/d\n");
    for client in [&mut first, &mut second] {
        assert_eq!(hear(client).await, "alice fifo GET /a?b=c");
        assert_eq!(hear(client).await, "alice fifo GET /d");
    }
    assert_eq!(ask(&mut other, "/own").await, "bob client GET /own");
    assert_eq!(server.figure("fifo.refused_by.not_uri"), 1);
    assert_eq!(server.figure("fifo.records"), 3);

    bye(first).await;
    server.until("connections.open", 2);
    write(&alice, "/e\n");
    assert_eq!(hear(&mut second).await, "alice fifo GET /e");
    bye(second).await;
    eventually("it goes with the last one", || !alice.exists());
    assert_eq!(fifos(&server), ["bob.fifo"]);
    bye(other).await;
    server.finish();
}

#[tokio::test]
async fn a_connection_s_and_a_user_s_fifo_stand_side_by_side() {
    let setup = Setup::new()
        .app(r#"echo "$(basename "$WS_FIFO") $(basename "$WS_USER_FIFO") $REQUEST_URI""#)
        .validate(USER_BY_PATH)
        .set("fifo.per", "both");
    let server = setup.start();
    let mut first = server.connect_with("/alice", &[]).await.unwrap();
    let mut second = server.connect_with("/alice", &[]).await.unwrap();
    let name = |client: &Client| format!("alice:127.0.0.1:{}.fifo", port(client));
    let (one, two) = (name(&first), name(&second));
    write(&server.state(&format!("fifo/{one}")), "/one\n");
    assert_eq!(hear(&mut first).await, format!("{one} alice.fifo /one"));
    write(&server.state("fifo/alice.fifo"), "/both\n");
    assert_eq!(hear(&mut first).await, format!("{one} alice.fifo /both"));
    assert_eq!(hear(&mut second).await, format!("{two} alice.fifo /both"));
    bye(first).await;
    bye(second).await;
    server.finish();
}

#[tokio::test]
async fn who_comes_while_the_last_one_goes_has_a_fifo() {
    let server = per("user").start();
    let alice = server.state("fifo/alice.fifo");
    for round in 0..50 {
        let mut client = server.connect_with("/alice", &[]).await.unwrap();
        write(&alice, format!("/{round}\n"));
        let answer = hear(&mut client).await;
        assert_eq!(answer, format!("alice fifo GET /{round}"));
        // At once, or after the closing handshake: the next one comes before or after the end.
        match round % 2 {
            0 => drop(client),
            _ => bye(client).await,
        }
    }
    server.finish();
}

#[tokio::test]
async fn t42_no_user_has_the_global_fifo() {
    let server = per("user").start();
    let mut client = server.connect_with("/global_pipe", &[]).await.unwrap();
    assert_eq!(fifos(&server), ["%67lobal_pipe.fifo"]);
    write(&server.state("fifo/%67lobal_pipe.fifo"), "/a\n");
    assert_eq!(hear(&mut client).await, "global_pipe fifo GET /a");
    write(&server.state(GLOBAL), "/a\n");
    assert_eq!(hear(&mut client).await, "/a");
    bye(client).await;
    server.finish();
}

#[tokio::test]
async fn t46_a_user_s_fifo_that_vanishes_is_made_anew() {
    let server = per("user").start();
    let mut client = server.connect_with("/alice", &[]).await.unwrap();
    let alice = server.state("fifo/alice.fifo");
    for round in 0..5 {
        match round % 2 {
            0 => fs::remove_file(&alice).unwrap(),
            // Replaced by somebody's own: it is not read, and stays what it is.
            _ => fs::rename(&alice, server.state("fifo/moved")).unwrap(),
        }
        eventually("it is there again", || is_ready(&alice));
        write(&alice, format!("/{round}\n"));
        let answer = hear(&mut client).await;
        assert_eq!(answer, format!("alice fifo GET /{round}"));
    }
    bye(client).await;
    server.finish();
}

#[tokio::test]
async fn t42_carbonphp_s_names_are_inside_and_run_as_their_own_users() {
    let setup = Setup::new()
        .app(WHO)
        .validate(USER_BY_PATH)
        .set("fifo.naming", "carbonphp")
        .set("fifo.framing", "delimiter")
        .set("fifo.delimiter", "\nCarbonPHP\\Abstracts\\Pipe:29\n");
    let server = setup.start();
    let mut clients = Vec::new();
    for (id, encoded) in [
        ("7", "7"),
        ("../x", "__:x"),
        ("a.b", "a_b"),
        ("a_b", "a_b"),
        ("a:b", "a:b"),
        ("m.b@c.org", "m_b@c_org"),
        ("*", "%2A"),
    ] {
        let target: String = id.bytes().map(|byte| format!("%{byte:02X}")).collect();
        let client = server.connect_with(&format!("/{target}"), &[]).await;
        let client = client.unwrap();
        let name = format!("fifo/{encoded}:127_0_0_1:{}.fifo", port(&client));
        assert_eq!(fifo_of(&server, &client), server.state(&name), "{id}");
        clients.push((id, client));
    }
    for (id, client) in &mut clients {
        let fifo = fifo_of(&server, client);
        write(&fifo, "/a\nCarbonPHP\\Abstracts\\Pipe:29\n");
        assert_eq!(hear(client).await, format!("{id} fifo GET /a"));
    }
    for (_, client) in clients {
        bye(client).await;
    }
    server.finish();
}

/// Writes to a FIFO as fast as it takes bytes, until it is told to end.
fn flood(path: &Path, bytes: Vec<u8>, is_over: &Arc<AtomicBool>) -> JoinHandle<()> {
    let mut fifo = open(path);
    let is_over = Arc::clone(is_over);
    std::thread::spawn(move || {
        while !is_over.load(Ordering::Relaxed) {
            match fifo.write(&bytes) {
                Ok(_) => {}
                Err(error) if error.kind() == ErrorKind::WouldBlock => std::thread::yield_now(),
                Err(error) => panic!("{error}"),
            }
        }
    })
}

#[tokio::test]
async fn t45_who_floods_a_fifo_starves_nobody() {
    let server = per("both").start();
    let mut flooded = server.connect_with("/alice", &[]).await.unwrap();
    let mut other = server.connect_with("/bob", &[]).await.unwrap();
    let is_over = Arc::new(AtomicBool::new(false));
    // Nothing of it becomes a record, so nothing holds it back but the reading.
    let empty = vec![b'\n'; 4096];
    let floods = [
        server.state(GLOBAL),
        server.state("fifo/alice.fifo"),
        fifo_of(&server, &flooded),
    ];
    let floods = floods.map(|path| flood(&path, empty.clone(), &is_over));
    let fifo = fifo_of(&server, &other);
    for round in 0..20 {
        write(&fifo, format!("/own{round}\n"));
        assert_eq!(hear(&mut other).await, format!("bob fifo GET /own{round}"));
        write(&server.state("fifo/bob.fifo"), format!("/user{round}\n"));
        assert_eq!(hear(&mut other).await, format!("bob fifo GET /user{round}"));
        let answer = ask(&mut other, &format!("/{round}")).await;
        assert_eq!(answer, format!("bob client GET /{round}"));
        assert_eq!(server.send(json!({ "user": "bob" }), "x")["written"], 1);
        assert_eq!(hear(&mut other).await, "x");
    }
    // Nor does it starve itself.
    assert_eq!(ask(&mut flooded, "/a").await, "alice client GET /a");
    is_over.store(true, Ordering::Relaxed);
    for flood in floods {
        flood.join().unwrap();
    }
    bye(flooded).await;
    bye(other).await;
    server.finish();
}

#[tokio::test]
async fn t48_who_writes_nonsense_does_not_fill_the_log() {
    let server = per("both").start();
    let mut client = server.connect_with("/alice", &[]).await.unwrap();
    let nonsense = "x\n".repeat(5000);
    write(&fifo_of(&server, &client), &nonsense);
    write(&server.state("fifo/alice.fifo"), &nonsense);
    write(&server.state(GLOBAL), b"\xff\n".repeat(5000));
    server.until("fifo.refused", 15_000);
    assert_eq!(ask(&mut client, "/a").await, "alice client GET /a");
    bye(client).await;
    let log = server.finish();
    let lines = log.matches("a FIFO's record was not carried out").count();
    assert!((1..2000).contains(&lines), "{lines}");
}

#[tokio::test]
async fn t45_what_a_user_s_fifo_took_is_run_once_each_however_fast_it_was_written() {
    const RECORDS: usize = 5000;
    if Command::new("perl").arg("-v").output().is_err() {
        return;
    }
    let setup = Setup::new()
        .keeps(SHIM)
        .validate(USER_BY_PATH)
        .set("fifo.per", "user")
        .set("app.backend", "worker")
        .set("app.command", format!("perl {SHIM} --worker {PERL}"));
    let server = setup.start();
    let mut client = server.connect_with("/alice", &[]).await.unwrap();
    let mut fifo = open(&server.state("fifo/alice.fifo"));
    let writer = std::thread::spawn(move || {
        let mut refused = 0_u64;
        for number in 0..RECORDS {
            // Of a size that does not divide the pipe.
            let record = format!("/uri/{number:070}\n");
            loop {
                match fifo.write(record.as_bytes()) {
                    Ok(written) => break assert_eq!(written, record.len()),
                    Err(error) if error.kind() == ErrorKind::WouldBlock => refused += 1,
                    Err(error) => panic!("{error}"),
                }
                std::thread::yield_now();
            }
        }
        refused
    });
    for number in 0..RECORDS {
        assert_eq!(hear(&mut client).await, format!("/uri/{number:070} "));
    }
    let refused = writer.join().unwrap();
    assert!(
        refused > 0,
        "the writer never felt that the workers are slower"
    );
    assert_eq!(server.figure("fifo.records"), RECORDS as u64);
    assert_eq!(server.figure("callbacks.finished"), RECORDS as u64);
    assert_eq!(server.figure("fifo.refused"), 0);
    bye(client).await;
    server.finish();
}

#[tokio::test]
async fn inv11_records_of_a_user_s_fifo_that_were_read_are_run_before_the_drain_ends() {
    let setup = Setup::new()
        .app("read _ < gate; echo \"$REQUEST_URI\"")
        .validate(USER_BY_PATH)
        .set("fifo.per", "user")
        .set("app.queue", "1");
    let mut gate = Gate::new(setup.dir(), "gate");
    let server = setup.start();
    let mut client = server.connect_with("/alice", &[]).await.unwrap();
    write(&server.state("fifo/alice.fifo"), "/1\n/2\n/3\n/4\n/5\n");
    server.until("callbacks.accepted", 2);
    server.signal(Signal::SIGTERM);
    eventually("it drains", || server.control("GET", "/ready", "").0 == 503);
    gate.open(5);
    for uri in ["/1", "/2", "/3", "/4", "/5"] {
        assert_eq!(hear(&mut client).await, uri);
    }
    assert_eq!(close_code(&mut client).await, 1001);
    bye(client).await;
    server.check_end();
}

#[tokio::test]
async fn inv03_records_of_a_user_who_is_gone_are_counted() {
    let setup = Setup::new()
        .app("read _ < gate; echo \"$REQUEST_URI\"")
        .validate(USER_BY_PATH)
        .set("fifo.per", "user")
        .set("app.queue", "1");
    let mut gate = Gate::new(setup.dir(), "gate");
    let server = setup.start();
    let client = server.connect_with("/alice", &[]).await.unwrap();
    write(&server.state("fifo/alice.fifo"), "/1\n/2\n/3\n/4\n/5\n");
    // One runs, one waits in the queue, the others before it.
    server.until("callbacks.accepted", 2);
    let closed = server.control("DELETE", "/v1/users/alice", "");
    assert_eq!(closed, (200, r#"{"connections":1}"#.to_owned()));
    bye(client).await;
    server.until("fifo.refused_by.ended", 3);
    assert_eq!(server.figure("fifo.records"), 5);
    gate.open(2);
    server.until("callbacks.finished", 2);
    server.finish();
}

#[tokio::test]
async fn t45_hundreds_of_fifos_take_a_descriptor_each_and_go_with_their_connections() {
    const USERS: usize = 250;
    const CONNECTIONS: usize = 3 * USERS;
    let setup = Setup::new().arg("--echo").set("fifo.per", "both");
    let server = setup.start();
    let descriptors = || {
        let open = fs::read_dir(format!("/proc/{}/fd", server.pid()));
        open.unwrap().count()
    };
    let before = descriptors();
    let mut clients = Vec::new();
    for _ in 0..USERS {
        // Without validation, a session is a user.
        let (client, cookie) = server.connect_for_cookie().await;
        clients.push(client);
        for _ in 0..2 {
            let client = server.connect_with("/", &[("Cookie", &cookie)]).await;
            clients.push(client.unwrap());
        }
    }
    assert_eq!(fifos(&server).len(), CONNECTIONS + USERS);
    // A socket and a FIFO for each connection, and one for each user.
    eventually("every descriptor is accounted for", || {
        descriptors() == before + 2 * CONNECTIONS + USERS
    });
    assert_eq!(server.figure("users"), USERS as u64);
    // One of each is still there.
    for client in clients.split_off(USERS) {
        bye(client).await;
    }
    server.until("connections.open", USERS as u64);
    let users = server.figure("users");
    eventually("those of users without a connection are gone", || {
        fifos(&server).len() == USERS + usize::try_from(users).unwrap()
    });
    drop(clients);
    server.finish();
}

/// Counts the messages before the close frame, and answers that.
fn count_messages(mut wire: Wire) -> u64 {
    let mut count = 0;
    loop {
        let frame = wire.frame().expect("a close frame comes first");
        match frame.opcode {
            1 => count += 1,
            8 => {
                // Whoever was too slow may be gone by then.
                let _ = wire.stream().write_all(&close_frame(1000, ""));
                return count;
            }
            _ => {}
        }
    }
}

#[test]
fn inv03_what_clients_received_is_what_was_delivered() {
    const PUSHES: u64 = 600;
    let setup = Setup::new()
        .arg("--echo")
        .set("limits.close_timeout", "60s")
        .set("limits.send_queue_size", "64KiB");
    let server = setup.start();
    let slow: Vec<_> = (0..3).map(|_| Wire::open(&server)).collect();
    let readers: Vec<_> = (0..3)
        .map(|_| {
            let wire = Wire::open(&server);
            std::thread::spawn(move || count_messages(wire))
        })
        .collect();
    let text = "x".repeat(32 * 1024);
    let mut fifo = File::options()
        .write(true)
        .open(server.state(GLOBAL))
        .unwrap();
    for number in 0..PUSHES {
        match number % 2 {
            0 => drop(server.send(json!({ "all": true }), &text)),
            _ => fifo.write_all(b"short\n").unwrap(),
        }
    }
    server.until("fifo.records", PUSHES / 2);
    server.until("pushes.accepted", PUSHES);
    let mut received: u64 = slow.into_iter().map(count_messages).sum();
    for connection in server.connections() {
        let id = connection["id"].as_str().unwrap();
        server.control("DELETE", &format!("/v1/connections/{id}"), "");
    }
    for reader in readers {
        received += reader.join().unwrap();
    }
    server.until("connections.open", 0);
    let status = server.status();
    assert_eq!(figure(&status, "deliveries.made"), received, "{status:#}");
    let lost = figure(&status, "deliveries.owed") - received;
    assert_eq!(figure(&status, "deliveries.dropped"), lost, "{status:#}");
    assert!(
        figure(&status, "deliveries.dropped_by.overflow") > 0,
        "{status:#}"
    );
    server.finish();
}

#[test]
fn inv03_what_waited_for_one_who_hangs_up_is_counted_as_dropped() {
    let setup = Setup::new().arg("--echo");
    let server = setup.set("limits.send_queue_size", "64MiB").start();
    let wire = Wire::open(&server);
    let text = "x".repeat(1 << 20);
    let mut queued = 0;
    while queued < 3 {
        queued += figure(&server.send(json!({ "all": true }), &text), "queued");
    }
    let owed = server.figure("deliveries.owed");
    assert!(server.figure("deliveries.made") < owed);
    // With bytes unread it ends by a reset.
    drop(wire);
    server.until("connections.open", 0);
    let status = server.status();
    let dropped = figure(&status, "deliveries.dropped_by.ended");
    assert!(dropped > 0, "{status:#}");
    assert_eq!(
        figure(&status, "deliveries.made") + dropped,
        owed,
        "{status:#}"
    );
    assert_eq!(figure(&status, "messages.dropped"), dropped, "{status:#}");
    server.finish();
}

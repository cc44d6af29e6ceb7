//! From the start of a server to its end, wished for or not.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::unix::fs::FileTypeExt;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::Output;
use std::time::{Duration, Instant};

use nix::sys::resource::{Resource, getrlimit, setrlimit};
use nix::sys::signal::Signal;
use serde_json::Value;

use crate::support::*;
use crate::wire::*;

fn echo() -> Setup {
    Setup::new().arg("--echo")
}

/// An idle server ends within two seconds, says the contract; a loaded machine takes longer.
const PROMPT: Duration = Duration::from_secs(4);

/// Sends TERM, and waits until an idle connection is told: from then on the thread that serves it
/// accepts nothing more.
fn begin_drain(server: &Server, mut idle: Wire) {
    server.signal(Signal::SIGTERM);
    assert_eq!(idle.close_code(), 1001);
    idle.send(close_frame(1001, ""));
    assert_eq!(idle.frame(), None);
}

/// Values of a field in the log's records with a message.
fn logged(log: &str, message: &str, field: &str) -> Vec<String> {
    log.lines()
        .map(|line| serde_json::from_str::<Value>(line).unwrap())
        .filter(|record| record["message"] == message)
        .map(|record| match &record[field] {
            Value::String(text) => text.clone(),
            other => other.to_string(),
        })
        .collect()
}

fn code_of(output: &Output) -> i32 {
    output.status.code().unwrap()
}

#[test]
fn b15_term_and_int_end_an_idle_server() {
    for signal in [Signal::SIGTERM, Signal::SIGINT] {
        let server = echo().start();
        let wires = [Wire::open(&server), Wire::open(&server)];
        let begun = Instant::now();
        server.signal(signal);
        for mut wire in wires {
            assert_eq!(wire.close_code(), 1001);
            wire.send(close_frame(1001, ""));
            assert_eq!(wire.frame(), None);
        }
        let log = server.check_end();
        assert!(begun.elapsed() < PROMPT, "{:?}", begun.elapsed());
        assert_eq!(logged(&log, "connection closed", "cause"), ["drain"; 2]);
    }
}

#[test]
fn inv11_accepted_messages_are_finished_and_their_replies_delivered() {
    let setup = Setup::new();
    let mut gate = Gate::new(setup.dir(), "gate");
    let server = setup
        .app("read _ < gate; cat")
        .set("server.threads", "1")
        .start();
    let mut wires = [Wire::open(&server), Wire::open(&server)];
    // Of each connection one message runs and two wait.
    for wire in &mut wires {
        for text in ["one", "two", "three"] {
            wire.say(text);
        }
    }
    server.until("callbacks.accepted", 6);
    begin_drain(&server, Wire::open(&server));
    // Nobody new comes in, and what is said now is not accepted.
    let refused = TcpStream::connect(server.addr);
    assert!(refused.is_err(), "{refused:?}");
    for wire in &mut wires {
        wire.say("too late");
    }
    gate.open(6);
    for mut wire in wires {
        assert_eq!(wire.hear(), "one");
        assert_eq!(wire.hear(), "two");
        assert_eq!(wire.hear(), "three");
        assert_eq!(wire.close_code(), 1001);
        wire.send(close_frame(1001, ""));
        assert_eq!(wire.frame(), None);
    }
    let log = server.check_end();
    let counters = |field| logged(&log, "counters", field).pop().unwrap();
    assert_eq!(counters("callbacks.started"), "6");
    assert_eq!(counters("callbacks.finished"), "6");
}

#[test]
fn inv11_drain_ends_though_more_was_sent_than_accepted() {
    let setup = Setup::new();
    let mut gate = Gate::new(setup.dir(), "gate");
    let server = setup
        .app("read _ < gate; cat")
        .set("app.queue", "1")
        .set("server.threads", "1")
        .set("limits.close_timeout", "30s")
        .start();
    let mut wire = Wire::open(&server);
    for index in 0..50 {
        wire.say(&index.to_string());
    }
    server.until("callbacks.accepted", 2);
    begin_drain(&server, Wire::open(&server));
    gate.open(2);
    assert_eq!((wire.hear(), wire.hear()), ("0".into(), "1".into()));
    assert_eq!(wire.close_code(), 1001);
    let begun = Instant::now();
    wire.send(close_frame(1001, ""));
    assert_eq!(wire.frame(), None);
    drop(wire);
    server.check_end();
    assert!(begun.elapsed() < PROMPT, "{:?}", begun.elapsed());
}

#[test]
fn inv11_handshakes_under_way_do_not_hold_up_the_drain() {
    let (server, started) = slow_validation();
    // A browser's spare connection, one in the middle of its head, one that is being validated.
    let silent = server.raw_stream();
    let mut slow = server.raw_stream();
    slow.write_all(&head("/", &[]).as_bytes()[..20]).unwrap();
    let validated = validated(&server, &started);
    server.until("sockets.accepted", 3);
    let begun = Instant::now();
    server.signal(Signal::SIGTERM);
    for mut stream in [slow, validated] {
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).unwrap();
        let response = check_refusal(&answer);
        assert_eq!(response.status, 503);
        assert!(response.header("Retry-After").is_some());
    }
    server.check_end();
    assert!(begun.elapsed() < PROMPT, "{:?}", begun.elapsed());
    drop(silent);
}

#[test]
fn second_signal_ends_at_once() {
    for second in [Signal::SIGTERM, Signal::SIGINT] {
        let setup = Setup::new().app("sleep 600");
        let mut server = setup.set("server.threads", "1").start();
        let mut wire = Wire::open(&server);
        wire.say("one");
        wire.say("two");
        server.until("callbacks.accepted", 2);
        eventually("the callback runs", || {
            let processes = server.processes();
            processes
                .iter()
                .any(|(_, command)| command.contains("sleep 600"))
        });
        begin_drain(&server, Wire::open(&server));
        let begun = Instant::now();
        server.signal(second);
        // No process, FIFO or socket is left.
        let (status, log) = server.wait();
        assert!(begun.elapsed() < PROMPT, "{:?}", begun.elapsed());
        assert!(status.success(), "{status}");
        let causes = logged(&log, "connection closed", "cause");
        assert_eq!(causes, ["drain", "stopped"]);
        assert_eq!(logged(&log, "counters", "callbacks.failed"), ["1"]);
        // It does not look like a good end to the client.
        assert_eq!(wire.frame(), None);
    }
}

#[test]
fn drain_timeout_bounds_the_drain() {
    let server = Setup::new()
        .app("trap '' TERM; sleep 600")
        .set("limits.drain_timeout", "300ms")
        .start();
    let mut wire = Wire::open(&server);
    wire.say("never answered");
    server.until("callbacks.started", 1);
    let begun = Instant::now();
    server.signal(Signal::SIGTERM);
    let log = server.check_end();
    assert!(begun.elapsed() >= Duration::from_millis(300));
    assert!(begun.elapsed() < PROMPT, "{:?}", begun.elapsed());
    assert_eq!(logged(&log, "drain cut short", "connections"), ["1"]);
}

#[test]
fn drain_does_not_wait_for_clients_that_answer_nothing() {
    let server = echo().set("limits.close_timeout", "300ms").start();
    let mut wire = Wire::open(&server);
    server.signal(Signal::SIGTERM);
    assert_eq!(wire.close_code(), 1001);
    let log = server.check_end();
    assert_eq!(logged(&log, "connection closed", "cause"), ["drain"]);
}

#[test]
fn inv11_large_reply_reaches_a_slow_reader_before_the_close() {
    let server = echo().set("limits.max_message_size", "32MiB").start();
    let mut wire = Wire::open(&server);
    let large = vec![0x5A; 24 << 20];
    wire.send(frame(0x82, &large));
    server.until("messages.received", 1);
    server.signal(Signal::SIGTERM);
    assert!(wire.frame().unwrap().payload == large);
    assert_eq!(wire.close_code(), 1001);
    wire.send(close_frame(1001, ""));
    assert_eq!(wire.frame(), None);
    server.check_end();
}

#[test]
fn drain_does_not_wait_for_clients_that_never_read() {
    let server = echo()
        .set("limits.max_message_size", "32MiB")
        .set("limits.close_timeout", "300ms")
        .start();
    let mut wire = Wire::open(&server);
    wire.send(frame(0x82, vec![0x5A; 24 << 20]));
    server.until("messages.received", 1);
    let begun = Instant::now();
    server.signal(Signal::SIGTERM);
    server.check_end();
    assert!(begun.elapsed() < PROMPT, "{:?}", begun.elapsed());
    drop(wire);
}

#[test]
fn drain_ends_under_a_flood() {
    let server = echo()
        .set("server.threads", "1")
        .set("limits.close_timeout", "300ms")
        .start();
    let flooders: Vec<_> = (0..3).map(|_| flood(Wire::open(&server))).collect();
    eventually("the flood runs", || {
        server.figure("messages.received") > 10_000
    });
    let begun = Instant::now();
    server.signal(Signal::SIGTERM);
    // A flooder never answers the close frame, so it is let go when that is due.
    let log = server.check_end();
    assert!(begun.elapsed() < PROMPT, "{:?}", begun.elapsed());
    assert_eq!(logged(&log, "connection closed", "cause"), ["drain"; 3]);
    for flooder in flooders {
        flooder.join().unwrap();
    }
}

#[test]
fn thousand_idle_connections_are_drained() {
    let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE).unwrap();
    setrlimit(Resource::RLIMIT_NOFILE, hard, hard).unwrap();
    let server = echo().start();
    let wires: Vec<Wire> = (0..1000).map(|_| Wire::open(&server)).collect();
    server.until("connections.open", 1000);
    assert_eq!(server.connections().len(), 1000);
    let begun = Instant::now();
    server.signal(Signal::SIGTERM);
    for mut wire in wires {
        assert_eq!(wire.close_code(), 1001);
        wire.send(close_frame(1001, ""));
        assert_eq!(wire.frame(), None);
    }
    let log = server.check_end();
    // A thousand a second.
    assert!(begun.elapsed() < PROMPT * 2, "{:?}", begun.elapsed());
    assert_eq!(logged(&log, "connection closed", "cause").len(), 1000);
}

#[test]
fn hup_and_usr1_are_logged_and_change_nothing() {
    let server = echo().start();
    let mut wire = Wire::open(&server);
    for signal in [Signal::SIGHUP, Signal::SIGUSR1] {
        server.signal(signal);
        let path = format!("/proc/{}/status", server.pid());
        eventually("the signal is taken", || {
            let status = std::fs::read_to_string(&path).unwrap();
            status.contains("ShdPnd:\t0000000000000000")
        });
        // The thread that sees the signals answers the control socket too.
        for _ in 0..10 {
            server.status();
        }
        server.until("configuration.reloads", 1);
    }
    wire.say("still here");
    assert_eq!(wire.hear(), "still here");
    wire.bye();
    let log = server.finish();
    let signals: Vec<String> = log
        .lines()
        .map(|line| serde_json::from_str::<Value>(line).unwrap())
        .filter_map(|record| Some(record["signal"].as_str()?.to_owned()))
        .collect();
    assert_eq!(signals, ["HUP", "USR1", "TERM"]);
    let state: Value = serde_json::from_str(&logged(&log, "state", "status")[0]).unwrap();
    assert_eq!(figure(&state, "connections.open"), 1);
}

#[test]
fn pipe_and_child_signals_are_nothing() {
    let server = echo().start();
    server.signal(Signal::SIGPIPE);
    server.signal(Signal::SIGCHLD);
    Wire::open(&server).bye();
    server.finish();
}

#[test]
fn taken_port_is_exit_73_and_named() {
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let addr = taken.local_addr().unwrap().to_string();
    let output = echo().arg("--listen").arg(&addr).fail();
    assert_eq!(code_of(&output), 73, "{output:?}");
    let said = String::from_utf8(output.stderr).unwrap();
    assert!(said.contains(&addr) && said.contains("in use"), "{said}");
    assert!(output.stdout.is_empty(), "no ready line");

    let server = echo()
        .arg("--listen")
        .arg(&addr)
        .set("server.auto_port", "true")
        .start();
    let log = server.finish();
    let urls = logged(&log, "listening", "listen.addr");
    let port = |url: &str| -> u16 {
        let port = url.trim_end_matches('/').rsplit(':').next();
        port.unwrap().parse().unwrap()
    };
    let (wanted, found) = (taken.local_addr().unwrap().port(), port(&urls[1]));
    assert!(
        found > wanted && found <= wanted.saturating_add(1000),
        "{urls:?}"
    );
}

#[test]
fn second_server_in_one_state_directory_is_exit_73() {
    for fifos in ["true", "false"] {
        let first = echo().set("fifo.enabled", fifos).start();
        let state = first.state("").to_str().unwrap().to_owned();
        let second = echo()
            .set("fifo.enabled", fifos)
            .arg("--state-dir")
            .arg(&state)
            .fail();
        assert_eq!(code_of(&second), 73, "{second:?}");
        let said = String::from_utf8(second.stderr).unwrap();
        assert!(said.contains(state.trim_end_matches('/')), "{said}");
        let who = format!("process {} is listening there", first.pid());
        assert!(said.contains(&who), "{said}");
        // The first one goes on as before.
        assert_eq!(first.control("GET", "/ready", "").0, 200);
        if fifos == "true" {
            let fifo = std::fs::metadata(first.state("fifo/global_pipe.fifo")).unwrap();
            assert!(fifo.file_type().is_fifo());
        }
        Wire::open(&first).bye();
        first.finish();
    }
}

#[test]
fn impossible_state_directory_is_exit_73_and_named() {
    let setup = echo();
    let file = setup.dir().join("file");
    std::fs::write(&file, "").unwrap();
    let output = setup.arg("--state-dir").arg("file/state").fail();
    assert_eq!(code_of(&output), 73, "{output:?}");
    let said = String::from_utf8(output.stderr).unwrap();
    assert!(said.contains("file/state"), "{said}");
}

/// Makes an opening handshake on a Unix socket.
fn greet(path: &Path) {
    let mut stream = UnixStream::connect(path).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream.write_all(head("/", &[]).as_bytes()).unwrap();
    let mut answer = [0; 12];
    stream.read_exact(&mut answer).unwrap();
    assert_eq!(answer, *b"HTTP/1.1 101");
}

#[test]
fn unix_socket_is_replaced_when_stale_and_removed_at_the_end() {
    let server = echo().arg("--listen").arg("unix:ws.sock").start();
    let path = server.dir().join("ws.sock");
    greet(&path);
    let setup = server.kill();
    assert!(path.exists());
    let server = setup
        .arg("--echo")
        .arg("--listen")
        .arg("unix:ws.sock")
        .start();
    greet(&path);
    server.until("connections.open", 0);
    server.signal(Signal::SIGTERM);
    let mut server = server;
    let (status, log) = server.wait();
    assert!(status.success());
    assert!(!path.exists());
    let urls = logged(&log, "listening", "listen.addr");
    assert_eq!(urls[1], format!("ws+unix:{}", path.display()));
}

#[test]
fn unknown_keys_are_exit_78_with_path_and_nearest_name() {
    let setup = echo().set("limits.max_conections", "5");
    let file = "[server]\nlissten = [\"127.0.0.1:0\"]\n[nonsense]\na = 1\n";
    std::fs::write(setup.dir().join("ws.toml"), file).unwrap();
    let output = setup.fail();
    assert_eq!(code_of(&output), 78, "{output:?}");
    let said = String::from_utf8(output.stderr).unwrap();
    // All faults at once.
    for name in [
        "limits.max_conections",
        "max_connections",
        "server.lissten",
        "server.listen",
        "nonsense",
        "ws.toml",
    ] {
        assert!(said.contains(name), "{name}: {said}");
    }
    let output = echo().set("limits.close_timeout", "5 parsecs").fail();
    assert_eq!(code_of(&output), 78, "{output:?}");
}

#[test]
fn wrong_command_lines_are_exit_2() {
    assert_eq!(code_of(&echo().arg("--no-such-flag").fail()), 2);
    assert_eq!(code_of(&echo().arg("--listen").fail()), 2);
}

#[test]
fn killed_server_leaves_no_process_and_can_be_started_again() {
    let server = Setup::new()
        .app("sleep 600 & sleep 600")
        .validate("echo somebody")
        .start();
    let mut wire = Wire::open(&server);
    wire.say("hang");
    eventually("the callback and its child run", || {
        let processes = server.processes();
        let sleeping = |(_, command): &&(i32, String)| command.contains("sleep 600");
        processes.iter().filter(sleeping).count() >= 2
    });
    let fifos = |server: &Server| std::fs::read_dir(server.state("fifo")).unwrap().count();
    assert!(fifos(&server) >= 2);
    let socket = server.state("control.sock");
    // Spawners and callbacks end with the server; its files stay.
    let setup = server.kill();
    assert_eq!(wire.frame(), None);
    assert!(socket.exists());

    let server = setup.app("cat").validate("echo somebody").start();
    let mut wire = Wire::open(&server);
    wire.say("again");
    assert_eq!(wire.hear(), "again");
    let connection = server.connections().remove(0);
    let fifo = connection["fifo"].as_str().unwrap().to_owned();
    std::fs::write(server.state("fifo/global_pipe.fifo"), "pushed\n").unwrap();
    assert_eq!(wire.hear(), "pushed");
    std::fs::write(fifo, "/run\n").unwrap();
    assert_eq!(wire.hear(), "/run");
    wire.bye();
    server.finish();
}

#[test]
fn killed_demo_leaves_no_process_and_can_be_started_again() {
    let server = Setup::new().start();
    let mut wire = Wire::open(&server);
    wire.say("/echo/hello");
    assert_eq!(wire.hear(), "hello");
    let setup = server.kill();
    let server = setup.start();
    let mut wire = Wire::open(&server);
    wire.say("/echo/again");
    assert_eq!(wire.hear(), "again");
    wire.bye();
    server.finish();
}

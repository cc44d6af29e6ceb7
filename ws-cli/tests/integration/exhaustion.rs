//! Descriptors that run out: whoever is connected goes on, and the operator is heard.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use nix::sys::resource::{Resource, getrlimit, setrlimit};
use serde_json::json;

use crate::support::{Injection, PATIENCE, Server, Setup, eventually};
use crate::wire::{self, Response, Wire};

/// As many for the test itself as the system allows.
fn raise_descriptor_limit() {
    let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE).unwrap();
    setrlimit(Resource::RLIMIT_NOFILE, hard, hard).unwrap();
}

/// A server that may open 256 descriptors.
fn narrow() -> Setup {
    Setup::new()
        .arg("--echo")
        .prelude("ulimit -n 256")
        .set("server.threads", "2")
}

/// Asks for a WebSocket without waiting for the answer.
fn asks(server: &Server) -> TcpStream {
    let mut stream = server.raw_stream();
    stream.write_all(wire::head("/", &[]).as_bytes()).unwrap();
    stream
}

/// The head of an answer; `None` if there is none yet.
fn answer(stream: &mut TcpStream) -> Option<Response> {
    stream
        .set_read_timeout(Some(Duration::from_millis(1)))
        .unwrap();
    let mut byte = [0];
    if stream.peek(&mut byte).is_err() {
        return None;
    }
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        stream.read_exact(&mut byte).unwrap();
        head.push(byte[0]);
    }
    Some(Response::parse(&head))
}

fn echo(wire: &mut Wire) {
    wire.say("still here");
    assert_eq!(wire.hear(), "still here");
}

#[test]
fn t32_the_reserve_of_descriptors_is_kept_for_the_operator() {
    const WANTED: usize = 300;
    raise_descriptor_limit();
    let server = narrow().start();
    let mut first = Wire::open(&server);
    let mut waiting: Vec<TcpStream> = (1..WANTED).map(|_| asks(&server)).collect();
    // All are answered, also those who waited in the backlog while nothing was accepted.
    let (mut open, mut refused) = (Vec::new(), 0);
    eventually("everybody is answered", || {
        let before = std::mem::take(&mut waiting);
        for mut stream in before {
            match answer(&mut stream) {
                None => waiting.push(stream),
                Some(response) if response.status == 101 => open.push(stream),
                Some(response) => {
                    assert_eq!(response.status, 503, "{response:?}");
                    assert_eq!(response.header("Retry-After"), Some("1"));
                    refused += 1;
                }
            }
        }
        waiting.is_empty()
    });
    assert_eq!(open.len() + refused + 1, WANTED);
    // Two descriptors each: the socket and the FIFO.
    assert!((50..96).contains(&open.len()), "{} are open", open.len());
    server.until("sockets.refused_by.descriptors", refused as u64);
    let descriptors = std::fs::read_dir(format!("/proc/{}/fd", server.pid())).unwrap();
    assert!(descriptors.count() <= 256 - 64 + 2, "the reserve is taken");

    // Those who are connected, and the operator, notice nothing.
    echo(&mut first);
    assert!(server.ws(&["status"]).status.success());
    let receipt = server.send(json!({"all": true}), "hello");
    assert_eq!(receipt["written"], open.len() as u64 + 1);
    assert_eq!(first.hear(), "hello");

    // Room that is given back is there at once.
    drop(open.drain(..10).collect::<Vec<_>>());
    let freed = Instant::now();
    eventually("others come in", || {
        let mut newcomer = asks(&server);
        loop {
            match answer(&mut newcomer) {
                None => {}
                Some(response) => break response.status == 101,
            }
        }
    });
    assert!(
        freed.elapsed() < Duration::from_millis(200),
        "{:?}",
        freed.elapsed()
    );
    drop(open);
    first.bye();
    server.finish();
}

#[test]
fn t32_silent_sockets_stop_the_accepting_and_nobody_who_is_connected() {
    raise_descriptor_limit();
    let server = narrow().start();
    let mut first = Wire::open(&server);
    let silent: Vec<TcpStream> = (0..300).map(|_| server.raw_stream()).collect();
    // Unless the older ones go as fast as the newer ones come.
    eventually("nothing is accepted for a moment", || {
        server.figure("sockets.accept_paused") > 0
            || server.figure("sockets.refused_by.max_handshakes") > 250
    });
    echo(&mut first);
    assert!(server.ws(&["status"]).status.success());
    // The older ones make room for the newer.
    echo(&mut Wire::open(&server));
    eventually("half of the room is theirs at most", || {
        server.figure("sockets.open") < 50
    });
    assert!(server.figure("sockets.refused_by.max_handshakes") > 250);
    assert_eq!(server.figure("sockets.accept_failed"), 0);
    let has_paused = server.figure("sockets.accept_paused") > 0;
    drop(silent);
    first.bye();
    let log = server.finish();
    assert_eq!(
        log.contains("limits.reserved_descriptors"),
        has_paused,
        "{log}"
    );
}

#[test]
fn t32_helpers_are_replaced_and_callbacks_run_while_only_the_reserve_is_left() {
    raise_descriptor_limit();
    let server = Setup::new()
        .app("cat")
        .prelude("ulimit -n 256")
        .set("server.threads", "2")
        .set("app.concurrency", "4")
        .start();
    let mut first = Wire::open(&server);
    let others: Vec<TcpStream> = (0..200).map(|_| asks(&server)).collect();
    eventually("there is no room", || {
        server.figure("sockets.refused_by.descriptors") > 0
    });
    let spawner = server.helpers("__spawner")[0];
    nix::sys::signal::kill(
        nix::unistd::Pid::from_raw(spawner),
        nix::sys::signal::Signal::SIGKILL,
    )
    .unwrap();
    eventually("there is another one", || {
        let spawners = server.helpers("__spawner");
        spawners.len() == 2 && !spawners.contains(&spawner)
    });
    for _ in 0..10 {
        echo(&mut first);
    }
    drop(others);
    server.until("sockets.accepted", 201);
    server.until("sockets.open", 1);
    first.bye();
    server.finish();
}

/// Processor time of a process in clock ticks (proc(5), stat).
fn ticks(pid: i32) -> u64 {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
    let (_, fields) = stat.rsplit_once(')').unwrap();
    let fields: Vec<&str> = fields.split_whitespace().collect();
    fields[11].parse::<u64>().unwrap() + fields[12].parse::<u64>().unwrap()
}

/// All threads of a process: one of the workers accepts.
fn threads(pid: i32) -> Vec<i32> {
    let tasks = std::fs::read_dir(format!("/proc/{pid}/task")).unwrap();
    let ids = tasks.map(|task| task.unwrap().file_name().into_string().unwrap());
    ids.map(|id| id.parse().unwrap()).collect()
}

#[test]
fn t32_a_system_without_descriptors_costs_no_processor_time() {
    let server = Setup::new().arg("--echo").start();
    let mut first = Wire::open(&server);
    let Some(injection) = Injection::start(&threads(server.pid()), "accept4:error=EMFILE") else {
        return;
    };
    let mut waiting = asks(&server);
    let began = Instant::now();
    let before = ticks(server.pid());
    // Ten attempts a second, and the wait of two seconds is the subject of this test.
    eventually("it has been tried for two seconds", || {
        std::thread::park_timeout(Duration::from_millis(50));
        echo(&mut first);
        began.elapsed() > Duration::from_secs(2)
    });
    let spent = ticks(server.pid()) - before;
    let ticks_a_second = nix::unistd::sysconf(nix::unistd::SysconfVar::CLK_TCK)
        .unwrap()
        .unwrap() as u64;
    let share = spent * 100 / (2 * ticks_a_second);
    assert!(share < 10, "{share} % of a processor");
    injection.end();
    let let_go = Instant::now();
    eventually("it accepts again", || answer(&mut waiting).is_some());
    assert!(let_go.elapsed() < Duration::from_millis(200));
    let failed = server.figure("sockets.accept_failed");
    assert!((10..=30).contains(&failed), "{failed} attempts");
    echo(&mut first);
    drop(waiting);
    first.bye();
    let log = server.finish();
    assert_eq!(log.matches("cannot accept").count(), 1, "{log}");
}

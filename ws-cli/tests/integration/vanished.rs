//! Peers that are gone without a word, and what strangers leave behind in the figures.

use std::collections::BTreeSet;
use std::io::Write;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::support::{Gate, Server, Setup, eventually};
use crate::wire::{self, Wire, frame};

/// A network of its own with a wire to this one, which can be cut.
struct Elsewhere {
    name: String,
    link: String,
    subnet: u8,
}

impl Elsewhere {
    /// `None` if the tests may not make one.
    fn new() -> Option<Self> {
        let id = std::process::id() % 50_000;
        let elsewhere = Self {
            name: format!("wst{id}"),
            link: format!("wst{id}"),
            subnet: u8::try_from(id % 250).unwrap(),
        };
        let (name, link) = (&elsewhere.name, &elsewhere.link);
        let (here, there) = (elsewhere.addr(1), elsewhere.addr(2));
        let steps = [
            format!("ip netns add {name}"),
            format!("ip link add {link} type veth peer name far netns {name}"),
            format!("ip addr add {here}/30 dev {link}"),
            format!("ip link set {link} up"),
            format!("ip -n {name} addr add {there}/30 dev far"),
            format!("ip -n {name} link set far up"),
        ];
        steps.iter().all(|step| run(step)).then_some(elsewhere)
    }

    /// Of a network for such purposes (RFC 2544).
    fn addr(&self, host: u8) -> String {
        format!("198.18.{}.{host}", self.subnet)
    }

    /// From here on nothing gets through, and nobody is told.
    fn cut(&self) {
        assert!(run(&format!("ip -n {} link set far down", self.name)));
    }
}

impl Drop for Elsewhere {
    fn drop(&mut self) {
        run(&format!("ip link del {}", self.link));
        run(&format!("ip netns del {}", self.name));
    }
}

fn run(command: &str) -> bool {
    let mut words = command.split(' ');
    let mut command = Command::new(words.next().unwrap());
    let status = command.args(words).stderr(Stdio::null()).status();
    status.is_ok_and(|status| status.success())
}

/// A server that pings after half a second and waits for as long.
fn soon(setup: Setup) -> Setup {
    setup
        .app("read _ < gate; echo late")
        .set("limits.ping_interval", "500ms")
        .set("limits.pong_timeout", "500ms")
        .set("limits.close_timeout", "200ms")
}

/// Waits until the vanished client is found out, and its answer comes to nothing.
fn found_out(server: &Server, gate: &mut Gate, begun: Instant) {
    server.until("connections.closed_by.pong_timeout", 1);
    server.until("connections.open", 0);
    let elapsed = begun.elapsed();
    assert!(elapsed < Duration::from_secs(3), "{elapsed:?}");
    gate.open(1);
    server.until("callbacks.replies_dropped", 1);
    assert_eq!(server.figure("callbacks.finished"), 1);
}

#[test]
fn t33_a_client_that_is_reset_while_it_is_not_read_is_found_out() {
    let setup = Setup::new()
        .app("read _ < gate; echo late")
        .set("app.queue", "1")
        .set("limits.ping_interval", "off");
    let mut gate = Gate::new(setup.dir(), "gate");
    let server = setup.start();
    let mut client = server.raw_stream();
    client.write_all(wire::head("/", &[]).as_bytes()).unwrap();
    server.until("connections.open", 1);
    // One runs, one waits, and for the others the connection is not read.
    client.write_all(&frame(0x81, "x").repeat(5)).unwrap();
    server.until("callbacks.accepted", 2);
    let at_once = nix::libc::linger {
        l_onoff: 1,
        l_linger: 0,
    };
    nix::sys::socket::setsockopt(&client, nix::sys::socket::sockopt::Linger, &at_once).unwrap();
    drop(client);
    server.until("connections.closed_by.vanished", 1);
    server.until("connections.open", 0);
    gate.open(2);
    server.until("callbacks.finished", 2);
    server.finish();
}

#[test]
fn t33_a_client_whose_network_is_gone_is_found_out() {
    let Some(elsewhere) = Elsewhere::new() else {
        return;
    };
    let setup = Setup::new().listen(&format!("{}:0", elsewhere.addr(1)));
    let mut gate = Gate::new(setup.dir(), "gate");
    let server = soon(setup).set("origin.allow_missing", "true").start();
    let url = format!("ws://{}/", server.addr);
    let mut command = Command::new("ip");
    command.args(["netns", "exec", &elsewhere.name]);
    command.args([env!("CARGO_BIN_EXE_ws"), "connect", &url]);
    command
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::null());
    let mut client = command.spawn().unwrap();
    server.until("connections.open", 1);
    {
        use std::io::Write;
        let input = client.stdin.as_mut().unwrap();
        input.write_all(b"hello\n").unwrap();
    }
    server.until("callbacks.started", 1);
    // As long as it is there, it answers.
    let begun = Instant::now();
    while begun.elapsed() < Duration::from_millis(1500) {
        assert_eq!(server.figure("connections.open"), 1);
    }
    elsewhere.cut();
    found_out(&server, &mut gate, Instant::now());
    client.kill().unwrap();
    client.wait().unwrap();
    server.finish();
}

#[test]
fn t33_a_client_that_answers_nothing_is_found_out() {
    let setup = Setup::new();
    let mut gate = Gate::new(setup.dir(), "gate");
    let server = soon(setup).start();
    let mut wire = Wire::open(&server);
    wire.say("hello");
    server.until("callbacks.started", 1);
    found_out(&server, &mut gate, Instant::now());
    drop(wire);
    server.finish();
}

/// All paths of a status.
fn paths(value: &Value, path: &str, found: &mut BTreeSet<String>) {
    match value {
        Value::Object(keys) => {
            for (key, value) in keys {
                paths(value, &format!("{path}.{key}"), found);
            }
        }
        _ => {
            found.insert(path.to_owned());
        }
    }
}

#[test]
fn t36_whatever_strangers_call_themselves_the_figures_are_the_same() {
    let server = Setup::new()
        .arg("--echo")
        .set("limits.message_rate_per_user", "1000000")
        .start();
    let names = || {
        let mut found = BTreeSet::new();
        paths(&server.status(), "", &mut found);
        found
    };
    let before = names();
    for number in 0..2000 {
        let line = match number % 4 {
            0 => format!("Origin: http://stranger{number}.example"),
            1 => format!("Cookie: ws_session=stranger{number}"),
            2 => format!("X-Forwarded-For: 192.0.2.{}", number % 250),
            _ => format!("X-Stranger-{number}: {number}"),
        };
        let mut stream = server.raw_stream();
        use std::io::{Read, Write};
        let target = format!("/stranger{number}?{number}");
        stream
            .write_all(wire::head(&target, &[&line]).as_bytes())
            .unwrap();
        stream
            .write_all(&frame(0x81, format!("/{number}")))
            .unwrap();
        let mut byte = [0];
        stream.read_exact(&mut byte).unwrap();
    }
    eventually("all have gone", || {
        server.figure("connections.open") == 0 && server.figure("sockets.accepted") == 2000
    });
    assert_eq!(names(), before);
    server.finish();
}

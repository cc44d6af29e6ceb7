//! What people see: programs on a terminal, which is a pseudo-terminal here.

use std::fs::{self, File};
use std::io::{Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, Mutex};

use nix::pty::{Winsize, openpty};
use nix::sys::signal::{Signal, kill};
use nix::sys::termios::{Termios, tcgetattr};
use nix::unistd::Pid;
use serde_json::json;
use tempfile::TempDir;

use crate::support::*;

/// A verb of `ws` on a terminal of its own.
pub(crate) struct Terminal {
    child: Child,
    master: File,
    /// Kept open: the terminal must outlive the program to be looked at.
    slave: OwnedFd,
    before: Termios,
    shown: Arc<Mutex<Vec<u8>>>,
}

impl Terminal {
    pub(crate) fn start(dir: &Path, args: &[&str], env: &[(&str, &str)]) -> Self {
        let size = Winsize {
            ws_row: 24,
            ws_col: 100,
            ws_xpixel: 0,
            ws_ypixel: 0,
        };
        let pty = openpty(&size, None).unwrap();
        let before = tcgetattr(&pty.slave).unwrap();
        let end = || Stdio::from(pty.slave.try_clone().unwrap());
        let child = Command::new(env!("CARGO_BIN_EXE_ws"))
            .args(args)
            .current_dir(dir)
            .env("TERM", "xterm")
            .env("XDG_STATE_HOME", dir)
            .env_remove("NO_COLOR")
            .envs(env.iter().copied())
            .stdin(end())
            .stdout(end())
            .stderr(end())
            .spawn()
            .unwrap();
        let master = File::from(pty.master);
        let shown = Arc::new(Mutex::new(Vec::new()));
        let (mut reader, sink) = (master.try_clone().unwrap(), Arc::clone(&shown));
        std::thread::spawn(move || {
            let mut buffer = [0; 4096];
            // An error is the end: nobody has the terminal open any more.
            while let Ok(count @ 1..) = reader.read(&mut buffer) {
                sink.lock().unwrap().extend_from_slice(&buffer[..count]);
            }
        });
        Self {
            child,
            master,
            slave: pty.slave,
            before,
            shown,
        }
    }

    pub(crate) fn press(&mut self, keys: &str) {
        self.master.write_all(keys.as_bytes()).unwrap();
    }

    fn text(&self) -> String {
        String::from_utf8_lossy(&self.shown.lock().unwrap()).into_owned()
    }

    /// Waits until the terminal has been sent this, and forgets everything up to its end.
    #[track_caller]
    pub(crate) fn until(&self, text: &str) {
        let is_there = || {
            let mut shown = self.shown.lock().unwrap();
            let at = shown
                .windows(text.len())
                .position(|window| window == text.as_bytes());
            at.inspect(|at| drop(shown.drain(..at + text.len())))
                .is_some()
        };
        let deadline = std::time::Instant::now() + PATIENCE;
        while !is_there() {
            let is_late = std::time::Instant::now() > deadline;
            assert!(!is_late, "never: {text:?}\n{:?}", self.text());
            std::thread::yield_now();
        }
    }

    /// Waits for the program's end, which leaves the terminal as it was.
    pub(crate) fn end(mut self) -> (ExitStatus, String) {
        let mut status = None;
        eventually("the program ends", || {
            status = self.child.try_wait().unwrap();
            status.is_some()
        });
        assert_eq!(tcgetattr(&self.slave).unwrap(), self.before);
        // Behind this there is nothing more to read.
        let mark = "\0the end\0";
        let mut slave = File::from(self.slave.try_clone().unwrap());
        slave.write_all(mark.as_bytes()).unwrap();
        eventually("all is read", || self.text().ends_with(mark));
        (status.unwrap(), self.text().replace(mark, ""))
    }
}

const UP: &str = "\x1b[A";

#[test]
fn connect_is_a_conversation_on_a_terminal() {
    let server = Setup::new().arg("--echo").start();
    let dir = TempDir::new().unwrap();
    let mut terminal = Terminal::start(dir.path(), &["connect", &server.url], &[]);
    terminal.until("* connected to ws://127.0.0.1:");
    terminal.until("> ");
    terminal.press("hello\r");
    terminal.until("\x1b[36m<\x1b[0m hello\r\n");
    terminal.press(r#"{"b":[1.50],"a":null}"#);
    terminal.press("\r");
    terminal.until("{\r\n    \"b\": [\r\n      1.50\r\n    ],\r\n    \"a\": null\r\n  }\r\n");
    // What comes does not break the line that is typed.
    terminal.press("half");
    terminal.until("half");
    server.send(json!({ "all": true }), "t71 \u{1b}[2J");
    terminal.until("t71 \\u{1b}[2J\r\n");
    terminal.until("> half");
    terminal.press(" and half\r");
    terminal.until("\x1b[0m half and half\r\n");
    let bytes = json!({ "to": { "all": true }, "base64": "AAECaGVsbG8=" });
    server.post("/v1/send", bytes);
    terminal.until("00000000  00 01 02 68 65 6c 6c 6f ");
    terminal.until("|...hello|\r\n");
    terminal.press("/ping\r");
    terminal.until("* pong after ");
    terminal.press("/close 1005\r");
    terminal.until("* /close [CODE [REASON]]");
    terminal.press(" secret\r");
    terminal.until("\x1b[0m  secret\r\n");
    terminal.press("//ping\r");
    terminal.until("\x1b[0m /ping\r\n");
    terminal.press("\x04");
    terminal.until("* closed with ");
    let (status, _) = terminal.end();
    assert_eq!(status.code(), Some(0));

    let history = dir.path().join("ws/history");
    let mode = fs::metadata(&history).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    let kept = fs::read_to_string(&history).unwrap();
    assert!(
        kept.contains("half and half") && !kept.contains("secret"),
        "{kept}"
    );
    // The next conversation knows what was said; without colours it looks the same.
    let env = [("NO_COLOR", "1")];
    let mut terminal = Terminal::start(dir.path(), &["connect", "--raw", &server.url], &env);
    terminal.until("> ");
    terminal.press(&format!("{UP}\r"));
    terminal.until("< //ping\r\n");
    assert_eq!(server.figure("connections.open"), 1);
    let id = server.connections()[0]["id"].as_str().unwrap().to_owned();
    let path = format!("/v1/connections/{id}?code=4001&reason=so%1b");
    assert_eq!(server.control("DELETE", &path, "").0, 200);
    let (status, said) = terminal.end();
    assert_eq!(status.code(), Some(1), "{said}");
    let words = "ws: closed by the server with 4001 (the application's own code): so\\u{1b}";
    assert!(said.contains(words), "{said:?}");
    server.finish();
}

#[test]
fn what_came_last_is_shown_before_the_end() {
    let server = Setup::new().arg("--echo").start();
    let dir = TempDir::new().unwrap();
    let terminal = Terminal::start(dir.path(), &["connect", &server.url], &[]);
    terminal.until("> ");
    server.until("connections.open", 1);
    for number in 0..50 {
        server.send(json!({ "all": true }), &format!("message {number}"));
    }
    server.signal(Signal::SIGTERM);
    terminal.until(" message 49\r\n");
    let (status, said) = terminal.end();
    assert_eq!(status.code(), Some(1), "{said}");
    assert!(
        said.contains("ws: closed by the server with 1001 (going away"),
        "{said:?}"
    );
    server.check_end();
}

#[test]
fn a_terminated_client_gives_its_terminal_back() {
    let server = Setup::new().arg("--echo").start();
    let dir = TempDir::new().unwrap();
    let terminal = Terminal::start(dir.path(), &["connect", &server.url], &[]);
    terminal.until("> ");
    let pid = Pid::from_raw(i32::try_from(terminal.child.id()).unwrap());
    kill(pid, Signal::SIGTERM).unwrap();
    let (status, said) = terminal.end();
    assert_eq!(status.code(), Some(0), "{said}");
    server.finish();
}

#[tokio::test]
async fn top_shows_who_talks_and_closes_whom_it_is_told_to() {
    let server = Setup::new().arg("--echo").start();
    let mut client = server.connect().await;
    let args = ["top", "--interval", "100ms"];
    let mut terminal = Terminal::start(server.dir(), &args, &[]);
    let id = server.connections()[0]["id"].as_str().unwrap().to_owned();
    terminal.until("CONNECTION");
    terminal.until(&id);
    assert_eq!(ask(&mut client, "hello").await, "hello");
    // Nothing is closed without a yes.
    terminal.press("jx");
    terminal.until(&format!("close connection {id}? y/n"));
    terminal.press("n");
    terminal.until("q quit");
    assert_eq!(ask(&mut client, "still here").await, "still here");
    terminal.press("x");
    terminal.until("y/n");
    terminal.press("y");
    assert_eq!(close_code(&mut client).await, 1008);
    terminal.until("closed 1 of ");
    terminal.press("q");
    let (status, _) = terminal.end();
    assert_eq!(status.code(), Some(0));
    drop(client);
    server.finish();
}

#[tokio::test]
async fn top_gives_its_terminal_back_when_it_is_terminated_or_the_server_is_gone() {
    let server = Setup::new().arg("--echo").start();
    let terminal = Terminal::start(server.dir(), &["top", "--interval", "100ms"], &[]);
    terminal.until("CONNECTION");
    let pid = Pid::from_raw(i32::try_from(terminal.child.id()).unwrap());
    kill(pid, Signal::SIGTERM).unwrap();
    let (status, shown) = terminal.end();
    assert_eq!(status.code(), Some(0));
    // The alternate screen is left.
    assert!(shown.contains("\x1b[?1049l"), "{shown:?}");
    let dir = TempDir::new().unwrap();
    let socket = server.state("control.sock");
    let args = [
        "top",
        "--interval",
        "100ms",
        "--control",
        socket.to_str().unwrap(),
    ];
    let mut terminal = Terminal::start(dir.path(), &args, &[]);
    terminal.until("CONNECTION");
    // The one that looks has a descriptor of the server, which is counted otherwise.
    server.signal(Signal::SIGTERM);
    server.check_end();
    terminal.until("! no server is reached");
    terminal.press("\x03");
    assert_eq!(terminal.end().0.code(), Some(0));
    let (status, shown) = Terminal::start(dir.path(), &args, &[]).end();
    assert_eq!(status.code(), Some(69));
    assert!(
        shown.contains("no server is reached") && !shown.contains("\x1b[?1049h"),
        "{shown:?}"
    );
}

#[tokio::test]
async fn top_serves_scripts() {
    let server = Setup::new().app("cat").start();
    let mut client = server.connect().await;
    assert_eq!(ask(&mut client, "hello").await, "hello");
    let page = server.ws(&["top", "--once", "--interval", "50ms"]);
    let page = String::from_utf8(page.stdout).unwrap();
    let id = server.connections()[0]["id"].as_str().unwrap().to_owned();
    assert!(page.starts_with("ws ") && page.contains(&id), "{page}");
    let line = server.ws(&[
        "top",
        "--once",
        "--json",
        "--interval",
        "50ms",
        "--sort",
        "total",
    ]);
    let line: serde_json::Value = serde_json::from_slice(&line.stdout).unwrap();
    assert_eq!(line["connections"], 1);
    assert_eq!(line["callbacks_running"], 0.0);
    assert_eq!(line["talkers"][0]["id"], *id);
    assert_eq!(line["talkers"][0]["messages"], 2);
    let none = server.ws(&["top"]);
    assert_eq!(none.status.code(), Some(2));
    bye(client).await;
    server.finish();
}

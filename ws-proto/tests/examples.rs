//! The examples as programs: the client talks to each of the servers.

use std::io::{BufRead as _, BufReader};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};

/// Where cargo has put an example: beside the folder of this very test.
fn example(name: &str) -> PathBuf {
    let test = std::env::current_exe().expect("a test is a file");
    let profile = test
        .parent()
        .and_then(|deps| deps.parent())
        .expect("cargo has folders");
    let path = profile.join("examples").join(name);
    // A run of all tests builds the examples; one with `--test` does not.
    assert!(
        path.is_file(),
        "no {}: cargo build -p ws-proto --examples makes it",
        path.display()
    );
    path
}

/// A running server, killed when dropped.
struct Server {
    child: Child,
    url: String,
}

impl Server {
    /// Starts an example on a free port and waits until it says which.
    fn start(name: &str) -> Self {
        let mut child = Command::new(example(name))
            .arg("127.0.0.1:0")
            .stdout(Stdio::piped())
            .spawn()
            .expect("the server starts");
        let mut line = String::new();
        let stdout = child.stdout.take().expect("stdout is piped");
        BufReader::new(stdout)
            .read_line(&mut line)
            .expect("the server says where it listens");
        Self {
            child,
            url: line.trim_end().to_owned(),
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.child.kill().expect("the server still runs");
        self.child.wait().expect("it was killed");
    }
}

#[track_caller]
fn text_comes_back(server: &Server, text: &str) {
    let output = Command::new(example("client"))
        .args([&server.url, text])
        .output()
        .expect("the client starts");
    let complaint = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{}: {complaint}", output.status);
    assert_eq!(output.stdout, format!("{text}\n").into_bytes());
}

#[test]
fn client_is_answered_by_the_blocking_server() {
    let server = Server::start("echo");
    text_comes_back(&server, "Grüße");
    text_comes_back(&server, &"long ".repeat(20_000));
}

#[test]
fn client_is_answered_by_the_tokio_server() {
    let server = Server::start("echo_tokio");
    text_comes_back(&server, "Grüße");
    text_comes_back(&server, &"long ".repeat(20_000));
}

#[test]
fn client_says_why_it_was_refused() {
    let server = Server::start("echo");
    let url = format!("{}{}", server.url, "x".repeat(20_000));
    let output = Command::new(example("client"))
        .args([&url, "hello"])
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(1));
    assert_eq!(output.stdout, b"");
    let complaint = String::from_utf8_lossy(&output.stderr);
    assert!(complaint.contains("414"), "{complaint}");
}

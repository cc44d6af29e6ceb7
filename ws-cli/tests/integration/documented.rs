//! The documentation, carried out: commands in it do what it says.
//!
//! What a fenced block is for, its info string says behind the language:
//!
//! | mark | meaning |
//! |---|---|
//! | `file=NAME` | the content of a file, as an editor saves it: it stays executable if it was |
//! | `run` | commands that succeed |
//! | `fails` | commands that do not |
//! | `serve` | the server from here on; the one before is stopped with Ctrl-C, and ends with 0 |
//! | `connect=NAME` | a client of the server in a terminal of its own |
//! | `typed=NAME` | what is typed there |
//! | `shown=NAME` | what is shown there next; `shown` alone is what the last `run` printed |
//!
//! In what is shown, `...` stands for anything. All of a page happens in one directory. Its server
//! listens on a free port, which stands for the 8888 of the page.

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpListener;
use std::path::Path;
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::mpsc;
use std::thread::JoinHandle;

use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;
use tempfile::TempDir;

use crate::support::PATIENCE;

/// Where the pages say that the server listens.
const USUAL_ADDR: &str = "127.0.0.1:8888";
/// And the control API, of which no page that is carried out asks anything there.
const CONTROL_ADDR: &str = "127.0.0.1:8889";
/// And a collector of traces.
const COLLECTOR_ADDR: &str = "127.0.0.1:4318";

#[test]
fn the_tutorial_works_as_it_is_printed() {
    Story::tell("tutorial.md");
}

#[test]
fn commands_to_push_work_as_they_are_printed() {
    Story::tell("push.md");
}

#[test]
fn commands_to_see_who_is_there_work_as_they_are_printed() {
    Story::tell("presence.md");
}

#[test]
fn commands_for_the_operators_page_work_as_they_are_printed() {
    Story::tell("operator.md");
}

#[cfg(feature = "otel")]
#[test]
fn commands_to_trace_work_as_they_are_printed() {
    Story::tell("traces.md");
}

#[test]
fn blocks_are_found_with_their_marks() {
    let page =
        "a\n```sh run\nb\n\nc\n```\n~~~\n- d\n\n  ```text shown=x\n  e\n  ```\n```\nf\n```\n";
    let found: Vec<_> = blocks(page).collect();
    let expected = [
        ("run", 2, "b\n\nc\n"),
        ("shown=x", 10, "e\n"),
        ("", 13, "f\n"),
    ];
    assert_eq!(found.len(), expected.len());
    for (block, (mark, line, text)) in found.iter().zip(expected) {
        assert_eq!((block.mark, block.line, &*block.text), (mark, line, text));
    }
}

/// A fenced block of a page.
struct Block<'a> {
    mark: &'a str,
    line: usize,
    text: String,
}

fn blocks(page: &str) -> impl Iterator<Item = Block<'_>> {
    let mut lines = page.lines().enumerate();
    std::iter::from_fn(move || {
        let (number, fence) = lines.find(|(_, line)| line.trim_start().starts_with("```"))?;
        let indent = fence.len() - fence.trim_start().len();
        let info = fence.trim_start().trim_start_matches('`');
        let (_, mark) = info.split_once(' ').unwrap_or_default();
        let mut text = String::new();
        for (_, line) in lines.by_ref() {
            if line.trim_start().starts_with("```") {
                break;
            }
            text.push_str(line.get(indent..).unwrap_or_default());
            text.push('\n');
        }
        Some(Block {
            mark,
            line: number + 1,
            text,
        })
    })
}

/// A page that is being carried out.
struct Story {
    page: &'static str,
    dir: TempDir,
    server: Option<Terminal>,
    /// Where the server listens.
    addr: String,
    /// Where a collector may listen.
    collector: String,
    clients: Vec<(String, Terminal)>,
    /// What the last commands printed, as far as nothing was said of it yet.
    printed: String,
}

impl Story {
    fn tell(page: &'static str) {
        let path = Path::new(env!("CARGO_MANIFEST_DIR"))
            .join("../docs")
            .join(page);
        let text = fs::read_to_string(&path).unwrap();
        let mut story = Self {
            page,
            dir: TempDir::new().unwrap(),
            server: None,
            addr: USUAL_ADDR.to_owned(),
            collector: free_addr(),
            clients: Vec::new(),
            printed: String::new(),
        };
        let mut count = 0;
        for block in blocks(&text).filter(|block| !block.mark.is_empty()) {
            story.carry_out(&block);
            count += 1;
        }
        assert!(count > 0, "nothing of {page} is carried out");
        story.stop();
    }

    fn carry_out(&mut self, block: &Block<'_>) {
        let place = format!("docs/{}:{}", self.page, block.line);
        let (verb, name) = block.mark.split_once('=').unwrap_or((block.mark, ""));
        let text = block.text.replace(USUAL_ADDR, &self.addr);
        let text = text.replace(CONTROL_ADDR, "127.0.0.1:0");
        let text = text.replace(COLLECTOR_ADDR, &self.collector);
        match verb {
            "file" => self.write(name, &text),
            "run" | "fails" => {
                let output = self.shell(&text).output().unwrap();
                let stderr = String::from_utf8_lossy(&output.stderr);
                assert_eq!(output.status.success(), verb == "run", "{place}: {stderr}");
                self.printed = String::from_utf8(output.stdout).unwrap();
            }
            "serve" => self.serve(&text, &place),
            "connect" => {
                let client = Terminal::open(self.shell(&text));
                self.clients.push((name.to_owned(), client));
            }
            "typed" => {
                let stdin = &mut self.client(name, &place).stdin;
                stdin.as_mut().unwrap().write_all(text.as_bytes()).unwrap();
            }
            "shown" if name.is_empty() => {
                let printed = std::mem::take(&mut self.printed);
                let (printed, expected) = (printed.trim_end(), text.trim_end());
                assert!(is_like(printed, expected), "{place}: {printed}");
            }
            "shown" => {
                for expected in text.lines() {
                    let shown = self.client(name, &place).line(&place);
                    assert!(is_like(&shown, expected), "{place}: {shown}");
                }
            }
            _ => panic!("{place}: what is {}?", block.mark),
        }
    }

    fn write(&self, name: &str, text: &str) {
        let path = self.dir.path().join(name);
        // A script that is running stays what it is.
        let draft = self.dir.path().join(".draft");
        fs::write(&draft, text).unwrap();
        if let Ok(metadata) = fs::metadata(&path) {
            fs::set_permissions(&draft, metadata.permissions()).unwrap();
        }
        fs::rename(&draft, &path).unwrap();
    }

    /// A shell in the directory of the page, which finds `ws` and no settings of ours.
    fn shell(&self, commands: &str) -> Command {
        let bin = Path::new(env!("CARGO_BIN_EXE_ws")).parent().unwrap();
        let path = std::env::var("PATH").unwrap();
        let mut shell = Command::new("sh");
        shell
            .args(["-e", "-c", commands.trim_end()])
            .current_dir(self.dir.path())
            .env("PATH", format!("{}:{path}", bin.display()))
            .env("XDG_CONFIG_HOME", self.dir.path())
            .env("WS__SERVER__LISTEN", "127.0.0.1:0")
            .env_remove("RUST_LOG")
            .env_remove("WS_CONFIG")
            .env_remove("WS_CONTROL_SOCKET");
        shell
    }

    fn serve(&mut self, commands: &str, place: &str) {
        self.stop();
        // The shell itself outlives Ctrl-C, as one that a person types into.
        let commands = format!("trap : INT\n{commands}");
        let server = Terminal::open(self.shell(&commands));
        let url = server.line(place);
        let addr = url.strip_prefix("ws://").unwrap().trim_end_matches('/');
        self.addr = addr.to_owned();
        self.server = Some(server);
    }

    /// Ctrl-C in the terminal of the server; clients end with their connections.
    fn stop(&mut self) {
        let Some(mut server) = self.server.take() else {
            return;
        };
        let (code, log) = server.interrupt();
        assert_eq!(code, Some(0), "{}: {log}", self.page);
        self.clients.clear();
    }

    fn client(&mut self, name: &str, place: &str) -> &mut Terminal {
        let found = self.clients.iter_mut().find(|(other, _)| other == name);
        &mut found
            .unwrap_or_else(|| panic!("{place}: no client {name}"))
            .1
    }
}

/// An address where nobody listens.
fn free_addr() -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    listener.local_addr().unwrap().to_string()
}

/// A program that runs in a terminal of its own; it ends with this.
struct Terminal {
    child: Child,
    stdin: Option<ChildStdin>,
    lines: mpsc::Receiver<String>,
    /// What is written to stderr, when it has ended.
    stderr: Option<JoinHandle<String>>,
}

impl Terminal {
    fn open(mut command: Command) -> Self {
        use std::os::unix::process::CommandExt;
        let mut child = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .process_group(0)
            .spawn()
            .unwrap();
        let (sender, lines) = mpsc::channel();
        let stdout = BufReader::new(child.stdout.take().unwrap());
        std::thread::spawn(move || {
            for line in stdout.lines().map_while(Result::ok) {
                if sender.send(line).is_err() {
                    return;
                }
            }
        });
        let mut stderr = child.stderr.take().unwrap();
        let stderr = std::thread::spawn(move || {
            let mut bytes = Vec::new();
            stderr.read_to_end(&mut bytes).unwrap();
            String::from_utf8_lossy(&bytes).into_owned()
        });
        Self {
            stdin: child.stdin.take(),
            child,
            lines,
            stderr: Some(stderr),
        }
    }

    fn line(&self, place: &str) -> String {
        let line = self.lines.recv_timeout(PATIENCE);
        line.unwrap_or_else(|_| panic!("{place}: nothing is shown"))
    }

    /// Presses Ctrl-C, and returns the exit code and what was written to stderr.
    fn interrupt(&mut self) -> (Option<i32>, String) {
        self.signal(Signal::SIGINT);
        let stderr = std::mem::take(&mut self.stderr);
        let log = stderr.map(|stderr| stderr.join().unwrap());
        (self.child.wait().unwrap().code(), log.unwrap_or_default())
    }

    fn signal(&self, signal: Signal) {
        let group = Pid::from_raw(self.child.id().cast_signed());
        // It may have ended.
        let _ = killpg(group, signal);
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        self.signal(Signal::SIGKILL);
        let _ = self.child.wait();
    }
}

/// Whether a text is what is expected, in which `...` stands for anything.
fn is_like(text: &str, expected: &str) -> bool {
    let mut parts = expected.split("...");
    let Some(mut rest) = text.strip_prefix(parts.next().unwrap_or_default()) else {
        return false;
    };
    let mut ends_open = false;
    for part in parts {
        let Some((_, behind)) = rest.split_once(part) else {
            return false;
        };
        ends_open = part.is_empty();
        rest = behind;
    }
    ends_open || rest.is_empty()
}

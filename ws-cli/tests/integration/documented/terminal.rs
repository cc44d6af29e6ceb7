//! Programs that run in a terminal of their own, as far as nobody looks at it.

use std::io::{BufRead, BufReader, Read, Write};
use std::process::{Child, ChildStdin, Command, ExitStatus, Stdio};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::thread::JoinHandle;
use std::time::Duration;

use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;

use crate::support::{PATIENCE, eventually};

/// A program that runs in a terminal of its own; it ends with this.
pub(super) struct Terminal {
    child: Child,
    stdin: Option<ChildStdin>,
    lines: mpsc::Receiver<String>,
    /// What is written to stderr, when it has ended.
    stderr: Option<JoinHandle<String>>,
}

impl Terminal {
    pub(super) fn open(mut command: Command) -> Self {
        use std::os::unix::process::CommandExt;
        let mut child = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .process_group(0)
            .spawn()
            .unwrap_or_else(|error| panic!("{command:?}: {error}"));
        let (sender, lines) = mpsc::channel();
        let mut stdout = BufReader::new(child.stdout.take().unwrap());
        std::thread::spawn(move || {
            let mut line = Vec::new();
            while stdout
                .read_until(b'\n', &mut line)
                .is_ok_and(|read| read > 0)
            {
                let text = String::from_utf8_lossy(&line);
                if sender.send(text.trim_end_matches('\n').to_owned()).is_err() {
                    return;
                }
                line.clear();
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

    pub(super) fn types(&mut self, text: &str) {
        let stdin = self.stdin.as_mut().unwrap();
        stdin.write_all(text.as_bytes()).unwrap();
    }

    /// The next line that is shown.
    pub(super) fn line(&mut self, place: &str) -> String {
        let Ok(line) = self.lines.recv_timeout(PATIENCE) else {
            self.signal(Signal::SIGKILL);
            panic!("{place}: nothing is shown: {}", self.said());
        };
        line
    }

    /// Waits until it listens there.
    pub(super) fn until_it_listens(&mut self, addr: &str, place: &str) {
        let mut has_ended = false;
        eventually(&format!("{place}: {addr} is listened at"), || {
            has_ended = self.has_ended();
            has_ended || std::net::TcpStream::connect(addr).is_ok()
        });
        assert!(!has_ended, "{place}: it has ended: {}", self.said());
    }

    pub(super) fn has_ended(&mut self) -> bool {
        self.child.try_wait().unwrap().is_some()
    }

    /// Waits for the end, types nothing, and returns what was printed and what was said on stderr.
    pub(super) fn end(mut self, place: &str) -> (ExitStatus, String, String) {
        drop(self.stdin.take());
        let Some(printed) = self.rest(PATIENCE) else {
            self.signal(Signal::SIGKILL);
            panic!("{place}: it does not end: {}", self.said());
        };
        let status = self.child.wait().unwrap();
        (status, printed.join("\n"), self.said())
    }

    /// What it prints to its end; `None` if that does not come in time.
    fn rest(&self, patience: Duration) -> Option<Vec<String>> {
        let mut lines = Vec::new();
        loop {
            match self.lines.recv_timeout(patience) {
                Ok(line) => lines.push(line),
                Err(RecvTimeoutError::Disconnected) => return Some(lines),
                Err(RecvTimeoutError::Timeout) => return None,
            }
        }
    }

    /// Presses Ctrl-C, and returns the exit code and what was written to stderr.
    pub(super) fn interrupt(&mut self) -> (Option<i32>, String) {
        self.signal(Signal::SIGINT);
        let log = self.said();
        (self.child.wait().unwrap().code(), log)
    }

    fn said(&mut self) -> String {
        let stderr = self.stderr.take();
        stderr.map_or_else(String::new, |stderr| stderr.join().unwrap())
    }

    fn signal(&self, signal: Signal) {
        let group = Pid::from_raw(self.child.id().cast_signed());
        // It may have ended.
        let _ = killpg(group, signal);
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        // What ends in good order takes its own processes along.
        self.signal(Signal::SIGTERM);
        self.rest(Duration::from_secs(5));
        self.signal(Signal::SIGKILL);
        let _ = self.child.wait();
    }
}

//! FIFOs: what a shell on the same host does to the browsers (T40 to T48).

use std::ffi::OsStr;
use std::fs::{self, File, Permissions};
use std::io::{ErrorKind, Write};
use std::os::unix::fs::{FileTypeExt, MetadataExt, OpenOptionsExt, PermissionsExt, symlink};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use futures_util::StreamExt;
use nix::fcntl::OFlag;
use nix::sys::signal::Signal;
use nix::sys::stat::Mode;
use nix::unistd::mkfifo;
use serde_json::json;
use tempfile::TempDir;
use tokio_tungstenite::MaybeTlsStream;

use crate::support::*;

mod files;
mod records;
mod users;

const GLOBAL: &str = "fifo/global_pipe.fifo";

/// Says who is asked for what, and how.
const WHO: &str = r#"echo "$WS_USER_ID $WS_SOURCE $REQUEST_METHOD $REQUEST_URI""#;

/// The user is the path of the handshake, without its slash and percent-decoded.
const USER_BY_PATH: &str = r#"printf %s "${PATH_INFO#/}""#;

/// Opens for writing; fails where nobody reads, and never waits.
pub(crate) fn open(path: &Path) -> File {
    let mut options = File::options();
    options.write(true).custom_flags(OFlag::O_NONBLOCK.bits());
    let opened = options.open(path);
    opened.unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// What `printf %s "$bytes" > path` does.
pub(crate) fn write(path: &Path, bytes: impl AsRef<[u8]>) {
    open(path).write_all(bytes.as_ref()).unwrap();
}

fn port(client: &Client) -> u16 {
    match client.get_ref() {
        MaybeTlsStream::Plain(stream) => stream.local_addr().unwrap().port(),
        _ => panic!("not plain TCP"),
    }
}

/// The path of a connection's FIFO, as the control socket names it.
pub(crate) fn fifo_of(server: &Server, client: &Client) -> PathBuf {
    let port = port(client);
    let connections = server.connections();
    let ours = connections.iter().find(|entry| entry["port"] == port);
    ours.unwrap()["fifo"].as_str().unwrap().into()
}

fn mode(path: &Path) -> u32 {
    fs::symlink_metadata(path).map_or(0, |found| found.mode() & 0o7777)
}

fn is_fifo(path: &Path) -> bool {
    fs::symlink_metadata(path).is_ok_and(|found| found.file_type().is_fifo())
}

/// It is open for reading: it gets its permissions then, so that nobody comes too early.
fn is_ready(path: &Path) -> bool {
    is_fifo(path) && mode(path) == 0o620
}

fn names_in(dir: &Path) -> Vec<String> {
    let entries = fs::read_dir(dir).unwrap();
    entries
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect()
}

/// Clock ticks of a process in user and system mode: fields 14 and 15 of proc(5), stat.
fn cpu_ticks(pid: i32) -> u64 {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
    let (_, fields) = stat.rsplit_once(')').unwrap();
    let fields: Vec<&str> = fields.split_whitespace().collect();
    fields[11].parse::<u64>().unwrap() + fields[12].parse::<u64>().unwrap()
}

/// Stops the server and waits until it stands still.
fn stop(server: &Server) {
    server.signal(Signal::SIGSTOP);
    eventually("every thread has stopped", || {
        let tasks = fs::read_dir(format!("/proc/{}/task", server.pid())).unwrap();
        tasks.flatten().all(|task| {
            let stat = fs::read_to_string(task.path().join("stat")).unwrap_or_default();
            stat.rsplit_once(')')
                .is_some_and(|(_, rest)| rest.trim_start().starts_with('T'))
        })
    });
}

/// Exit code 73, a named cause, and nothing left behind.
fn refuses_to_start(state: &Path, cause: &str, what: &str) {
    // With an application, so that helpers would be there to be left behind.
    let setup = Setup::new().arg("--state-dir").arg(state.to_str().unwrap());
    let output = setup.app("true").fail();
    let error = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(73), "{what}: {error}");
    assert!(error.contains(cause), "{what}: {error}");
    assert!(output.stdout.is_empty(), "{what}");
    assert!(!state.join("control.sock").exists(), "{what}");
}

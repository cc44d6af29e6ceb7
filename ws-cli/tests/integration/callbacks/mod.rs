//! The application callback: what it is given, what becomes of what it writes, and what it can
//! never do to anybody else.

mod answers;
mod backends;
mod confinement;
mod contract;
mod control_groups;
mod disconnects;
mod events;
mod failures;
mod isolation;
mod lines;
mod order;

use std::path::{Path, PathBuf};

use serde_json::Value;

pub(crate) use self::backends::Outside;
use crate::support::*;

/// The lines that callbacks have written to a file of the server's directory.
fn lines_of(dir: &Path, name: &str) -> Vec<String> {
    let text = std::fs::read_to_string(dir.join(name)).unwrap_or_default();
    text.lines().map(str::to_owned).collect()
}

/// Where a program is among those that callbacks find. Says so if it is nowhere; in CI that fails.
#[expect(clippy::print_stderr, reason = "a test that is skipped says so")]
pub(crate) fn installed(program: &str) -> Option<PathBuf> {
    let dirs = ["/usr/local/bin", "/usr/bin", "/bin"].map(Path::new);
    let found = dirs
        .map(|dir| dir.join(program))
        .into_iter()
        .find(|path| path.exists());
    if found.is_none() {
        let is_ci = std::env::var("CI").as_deref() == Ok("true");
        assert!(!is_ci, "{program} is not installed");
        eprintln!("skipped: there is no {program}");
    }
    found
}

/// The records of a log with this message.
pub(crate) fn records(log: &str, message: &str) -> Vec<Value> {
    let records = log
        .lines()
        .map(|line| serde_json::from_str::<Value>(line).unwrap());
    records
        .filter(|record| record["message"] == message)
        .collect()
}

/// Waits until a callback has failed for this cause so many times, and nothing else has.
fn until_failed(server: &Server, cause: &str, count: u64) {
    server.until(&format!("callbacks.failed_by.{cause}"), count);
    assert_eq!(server.figure("callbacks.failed"), count, "{cause}");
}

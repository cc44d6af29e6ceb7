//! Load on a server, and connections that do nothing.

use std::fs;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};

use crate::process;
use crate::server::Server;

const OPENING_LIMIT: Duration = Duration::from_secs(60);

/// A load on a server, of one thread.
pub(super) fn load(ws: &Path, url: &str, mode: &str, connections: u32) -> Command {
    let mut command = process::tied(ws);
    command
        .args(["bench", "--json", "--threads", "1", url, mode])
        .args(["--connections", &connections.to_string()])
        .stdin(Stdio::null());
    command
}

/// Connections that are open and idle as long as this lives.
pub(super) struct Crowd(Child);

impl Crowd {
    pub(super) fn gather(ws: &Path, server: &Server, connections: u32) -> Result<Self> {
        let child = load(ws, &server.url(), "idle", connections)
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .context("cannot start ws bench")?;
        let mut crowd = Self(child);
        let begun = Instant::now();
        while descriptors_of(server.id())? < connections as usize {
            if let Some(status) = crowd.0.try_wait()? {
                bail!("ws bench idle ended with {status}");
            }
            ensure!(
                begun.elapsed() < OPENING_LIMIT,
                "{connections} connections were not open after {} s",
                OPENING_LIMIT.as_secs()
            );
            thread::sleep(Duration::from_millis(20));
        }
        Ok(crowd)
    }
}

impl Drop for Crowd {
    fn drop(&mut self) {
        // There is no one left to tell.
        let _ = process::kill_tree(&mut self.0);
    }
}

fn descriptors_of(id: u32) -> Result<usize> {
    Ok(fs::read_dir(format!("/proc/{id}/fd"))?.count())
}

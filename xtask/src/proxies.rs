//! Real reverse proxies in front of the server, with the configurations that `docs/proxies` ships:
//! nginx, HAProxy and Apache as Debian packages them.

use std::process::Command;
use std::time::Duration;

use anyhow::{Result, bail};

use crate::server::Binary;
use crate::{Skipped, clients, process, workspace};

const SCRIPT: &str = "ws-cli/tests/proxies/run.py";

/// The programs that the script starts.
const PROXIES: &[&str] = &["nginx", "haproxy", "apache2"];

const LIMIT: Duration = Duration::from_secs(180);

#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    #[command(flatten)]
    binary: Binary,
}

pub(crate) fn run(arguments: &Arguments) -> Result<()> {
    let python = clients::python_with_websockets()?;
    let ws = arguments.binary.get()?;
    let mut command = Command::new(python);
    command
        .arg("-B")
        .arg(workspace::root().join(SCRIPT))
        .env("WS_BIN", ws);
    let status = process::run(&mut command, LIMIT)?;
    if !status.success() {
        bail!("{SCRIPT}: {status}");
    }
    let missing: Vec<&str> = PROXIES
        .iter()
        .copied()
        .filter(|program| workspace::find(program).is_none())
        .collect();
    if !missing.is_empty() {
        return Err(Skipped(format!("not installed: {}", missing.join(", "))).into());
    }
    println!("{} proxies carry what they should", PROXIES.len());
    Ok(())
}

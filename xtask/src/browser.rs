//! The pages and the browser library in a real browser, and in node. The tests themselves are
//! scripts beside the pages; they get the server's binary as `WS_BIN`, the browser as
//! `WS_CHROMIUM`, and packages through `NODE_PATH`.

use std::ffi::OsString;
use std::fs;
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};

use crate::server::Binary;
use crate::{Skipped, process, workspace};

/// Every `*.mjs` here is one run of node.
const TESTS: &str = "ws-server/web/tests";

/// The pictures of the documentation.
const PICTURES: &str = "docs/images";

const LIMIT: Duration = Duration::from_secs(180);

#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    #[command(flatten)]
    binary: Binary,
    /// Takes the pictures of the pages that are in docs/images anew
    #[arg(long)]
    pictures: bool,
}

pub(crate) fn run(arguments: &Arguments) -> Result<()> {
    let node = node_with("playwright-core")?;
    let chromium = ["chromium", "chromium-browser", "google-chrome"]
        .into_iter()
        .find_map(workspace::find)
        .ok_or_else(|| Skipped("chromium is not installed".into()))?;
    let tests = tests()?;
    let ws = arguments.binary.get()?;
    let folder = tempfile::Builder::new().prefix("ws-browser-").tempdir()?;
    let mut failed = 0;
    for test in &tests {
        let mut command = node_command(&node);
        command
            .arg(test)
            .env("WS_BIN", &ws)
            .env("WS_CHROMIUM", &chromium)
            .env("TMPDIR", folder.path())
            .current_dir(folder.path());
        if arguments.pictures {
            command.env("WS_PICTURES", workspace::root().join(PICTURES));
        }
        let status = process::run(&mut command, LIMIT);
        if !status.as_ref().is_ok_and(|it| it.success()) {
            println!("FAILED {}: {status:?}", test.display());
            failed += 1;
        }
    }
    if failed > 0 {
        bail!("{failed} of {} browser tests failed", tests.len());
    }
    println!("{} browser tests passed", tests.len());
    Ok(())
}

/// The scripts to run, in order of their names. What they share may lie in a folder below.
fn tests() -> Result<Vec<PathBuf>> {
    let folder = workspace::root().join(TESTS);
    let mut tests = Vec::new();
    for entry in fs::read_dir(&folder).with_context(|| TESTS)? {
        let path = entry?.path();
        if path.extension().is_some_and(|it| it == "mjs") {
            tests.push(path);
        }
    }
    tests.sort_unstable();
    ensure!(!tests.is_empty(), "no *.mjs in {TESTS}");
    Ok(tests)
}

/// Finds a node that has `package`.
pub(crate) fn node_with(package: &str) -> Result<PathBuf> {
    let node = workspace::find("node").ok_or_else(|| Skipped("node is not installed".into()))?;
    let has_package = node_command(&node)
        .args(["-e", &format!("require.resolve('{package}')")])
        .current_dir(workspace::root())
        .output()?
        .status
        .success();
    if !has_package {
        return Err(Skipped(format!("node has no package {package}")).into());
    }
    Ok(node)
}

/// A node command that finds the installed packages by `require`, after those of its own choice.
pub(crate) fn node_command(node: &PathBuf) -> Command {
    let mut command = Command::new(node);
    if let Ok(path) = node_path() {
        command.env("NODE_PATH", path);
    }
    command
}

/// Where node looks for packages: among those that were installed here first.
pub(crate) fn node_path() -> Result<OsString> {
    let path = std::env::var_os("NODE_PATH").unwrap_or_default();
    let paths = std::iter::once(workspace::node_modules()).chain(std::env::split_paths(&path));
    Ok(std::env::join_paths(paths)?)
}

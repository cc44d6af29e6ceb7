//! cargo-deny: what the dependencies bring in.

use std::time::Duration;

use anyhow::{Result, ensure};

use crate::{Skipped, process, workspace};

/// Fetching the advisories is a git clone; without a network it fails at once or hangs.
const FETCH_LIMIT: Duration = Duration::from_secs(90);
const CHECK_LIMIT: Duration = Duration::from_secs(300);

pub(crate) fn run() -> Result<()> {
    let mut version = workspace::cargo();
    version.args(["deny", "--version"]);
    if !version.output()?.status.success() {
        return Err(Skipped("cargo-deny is not installed".into()).into());
    }

    let mut check = workspace::cargo();
    check.args(["deny", "--locked", "check", "bans", "licenses", "sources"]);
    let status = process::run(&mut check, CHECK_LIMIT)?;
    ensure!(
        status.success(),
        "cargo deny check bans licenses sources: {status}"
    );

    let mut fetch = workspace::cargo();
    fetch.args(["deny", "fetch", "db"]);
    let log = workspace::scratch().join("advisories.log");
    let has_database =
        process::run_logged(&mut fetch, &log, FETCH_LIMIT).is_ok_and(|it| it.success());
    if !has_database {
        println!("bans, licences and sources are fine; advisories skipped: no database to be had");
        return Ok(());
    }
    let mut check = workspace::cargo();
    check.args(["deny", "--locked", "check", "advisories"]);
    let status = process::run(&mut check, CHECK_LIMIT)?;
    ensure!(status.success(), "cargo deny check advisories: {status}");
    println!("bans, licences, sources and advisories are fine");
    Ok(())
}

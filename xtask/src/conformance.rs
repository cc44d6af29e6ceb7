//! Autobahn's cases, run by kosoku against `ws serve --echo`, compared with the verdicts on file.

use std::fs;
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};

use crate::server::{Binary, Server};
use crate::verdict::{self, Verdict, Verdicts};
use crate::{Skipped, process, workspace};

/// The expected verdicts, beside the crate that earns them.
const EXPECTED: &str = "ws-proto/conformance.json";

/// Without compression, as they come.
const GROUPS: &[u32] = &[1, 2, 3, 4, 5, 6, 7, 9, 10];

/// Compression, which takes minutes.
const MORE_GROUPS: &[u32] = &[12, 13];

/// Cases 9.1.6 and 9.2.6 send 16 MiB in one message, and debug builds take their time.
const VARIABLES: &[(&str, &str)] = &[("WS__LIMITS__MAX_MESSAGE_SIZE", "16MiB")];

const GROUP_LIMIT: Duration = Duration::from_secs(300);
const SLOW_GROUP_LIMIT: Duration = Duration::from_secs(1200);

#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    /// Compression too (groups 12 and 13)
    #[arg(long)]
    all: bool,
    /// Only these groups
    #[arg(long, value_delimiter = ',', conflicts_with = "all")]
    groups: Vec<u32>,
    /// Writes the verdicts on file instead of comparing with them
    #[arg(long)]
    bless: bool,
    /// A server that already runs and echoes, instead of ours
    #[arg(long, value_name = "HOST:PORT")]
    address: Option<String>,
    #[command(flatten)]
    binary: Binary,
}

pub(crate) fn run(arguments: &Arguments) -> Result<()> {
    if workspace::find("kosoku").is_none() {
        return Err(Skipped("kosoku is not installed".into()).into());
    }
    let mut groups = arguments.groups.clone();
    if groups.is_empty() {
        groups.extend(GROUPS);
    }
    if arguments.all {
        groups.extend(MORE_GROUPS);
    }
    let path = workspace::root().join(EXPECTED);
    let on_file = match fs::read_to_string(&path) {
        Ok(text) => verdict::read_expected(&text).with_context(|| EXPECTED)?,
        Err(_) if arguments.bless => Verdicts::new(),
        Err(error) => return Err(error).context(EXPECTED),
    };
    let actual = match &arguments.address {
        Some(address) => run_groups(&groups, address)?,
        None => {
            let server = Server::start(&arguments.binary.get()?, &["--echo"], VARIABLES)?;
            let actual = run_groups(&groups, server.address())
                .map_err(|error| error.context(format!("the server's log:\n{}", server.log())))?;
            server.stop()?;
            actual
        }
    };

    let is_selected = |group| groups.contains(&group);
    if arguments.bless {
        let mut blessed = on_file;
        blessed.retain(|case, _| !is_selected(case.group()));
        blessed.extend(actual);
        fs::write(&path, verdict::write_expected(&blessed))?;
        println!("wrote {EXPECTED}");
        return Ok(());
    }
    let mut expected = on_file;
    expected.retain(|case, _| is_selected(case.group()));
    judge(&expected, &actual)
}

fn judge(expected: &Verdicts, actual: &Verdicts) -> Result<()> {
    let differences = verdict::compare(expected, actual);
    for it in &differences {
        let word = if it.is_worse() { "worse" } else { "better" };
        println!(
            "{word}: {} is {}, expected {}",
            it.case, it.actual, it.expected
        );
    }
    let worse = differences.iter().filter(|it| it.is_worse()).count();
    if worse > 0 {
        bail!("{worse} cases are worse than {EXPECTED} says");
    }
    if !differences.is_empty() {
        println!("some are better: cargo xtask conformance --bless, and commit the file");
    }
    println!("{} cases, none worse than expected", actual.len());
    Ok(())
}

/// Runs one group after another, since a report is written only when a whole run has ended.
fn run_groups(groups: &[u32], address: &str) -> Result<Verdicts> {
    let reports = workspace::scratch().join("conformance");
    if reports.exists() {
        fs::remove_dir_all(&reports)?;
    }
    let mut all = Verdicts::new();
    print!("{:>5} {:>7} {:>6}", "group", "seconds", "cases");
    for verdict in &Verdict::ALL[..5] {
        print!(" {verdict:>13}");
    }
    println!();
    for &group in groups {
        let started = Instant::now();
        let verdicts = run_group(group, address, &reports)?;
        let seconds = started.elapsed().as_secs_f64();
        print!("{group:>5} {seconds:>7.1} {:>6}", verdicts.len());
        for verdict in &Verdict::ALL[..5] {
            print!(
                " {:>13}",
                verdicts.values().filter(|it| *it == verdict).count()
            );
        }
        println!();
        all.extend(verdicts);
    }
    Ok(all)
}

fn run_group(group: u32, address: &str, reports: &std::path::Path) -> Result<Verdicts> {
    let kosoku = workspace::find("kosoku").context("kosoku is not installed")?;
    let report = reports.join(group.to_string());
    fs::create_dir_all(&report)?;
    let log = reports.join(format!("{group}.log"));
    let mut command = Command::new(kosoku);
    command
        .arg("-o")
        .arg(&report)
        .args(["-i", &format!("{group}.*"), address]);
    let limit = if MORE_GROUPS.contains(&group) {
        SLOW_GROUP_LIMIT
    } else {
        GROUP_LIMIT
    };
    // Its exit code mixes up what we tell apart; the report says it.
    process::run_logged(&mut command, &log, limit)?;
    let index = report.join("index.json");
    let Ok(text) = fs::read_to_string(index) else {
        bail!(
            "group {group} has no report; {}",
            fs::read_to_string(&log).unwrap_or_default()
        );
    };
    let verdicts = verdict::read_report(&text).with_context(|| format!("group {group}"))?;
    ensure!(!verdicts.is_empty(), "group {group} has no cases");
    Ok(verdicts)
}

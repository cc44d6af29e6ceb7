//! Autobahn's cases, run by kosoku against `ws serve --echo` or our client, compared with the
//! verdicts on file.

use std::fmt::Display;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};

use crate::server::{Binary, Server};
use crate::verdict::{self, Case, Verdict, Verdicts};
use crate::{Skipped, process, server, workspace};

/// With `--short`: everything, but of compression, which takes minutes, one group for each half of it.
const GROUPS: &[&str] = &["1", "2", "3", "4", "5", "6", "7", "9", "10", "12.1", "13.1"];

/// The groups of compression, and how many groups each of them has.
const COMPRESSION: &[(&str, u32)] = &[("12", 5), ("13", 7)];

/// Cases 9.1.6 and 9.2.6 send 16 MiB in one message; groups 12 and 13 are about compression. A case
/// that takes long and gets a ping takes itself for finished.
const VARIABLES: &[(&str, &str)] = &[
    ("WS__LIMITS__MAX_MESSAGE_SIZE", "16MiB"),
    ("WS__COMPRESSION__ENABLED", "true"),
    ("WS__LIMITS__PING_INTERVAL", "off"),
];

/// The example that is the client under test.
const CLIENT: &str = "autobahn_client";

/// Where the suite's server demands of a client not to take over its context, and does so only if
/// the client has offered it.
const WITHOUT_TAKEOVER: &[&str] = &["13.2", "13.5", "13.6"];

const GROUP_LIMIT: Duration = Duration::from_secs(300);
const SLOW_GROUP_LIMIT: Duration = Duration::from_secs(1200);
const BUILD_LIMIT: Duration = Duration::from_secs(900);

#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    /// Of compression, which takes minutes, only one group for each half of it
    #[arg(long)]
    short: bool,
    /// Only these groups, such as 7 or 12.1
    #[arg(long, value_delimiter = ',', conflicts_with = "short")]
    groups: Vec<Case>,
    /// Writes the verdicts on file instead of comparing with them
    #[arg(long)]
    bless: bool,
    /// Tests this role only
    #[arg(long)]
    role: Option<Role>,
    /// A server that already runs and echoes, instead of ours
    #[arg(long, value_name = "HOST:PORT", conflicts_with = "role")]
    address: Option<String>,
    #[command(flatten)]
    binary: Binary,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
enum Role {
    Server,
    Client,
}

impl Role {
    fn name(self) -> &'static str {
        match self {
            Self::Server => "server",
            Self::Client => "client",
        }
    }
}

/// The end of the connection that is ours.
#[derive(Debug)]
enum Subject {
    /// A server at `HOST:PORT`.
    Server(String),
    /// A program that is told `HOST:PORT`, does what it is asked there, and ends.
    Client(PathBuf),
}

pub(crate) fn run(arguments: &Arguments) -> Result<()> {
    if workspace::find("kosoku").is_none() {
        return Err(Skipped("kosoku is not installed".into()).into());
    }
    let roles = match (arguments.role, &arguments.address) {
        (Some(role), _) => vec![role],
        (None, Some(_)) => vec![Role::Server],
        (None, None) => vec![Role::Server, Role::Client],
    };
    // The second is run even if the first fails.
    let results = roles.into_iter().map(|role| run_role(role, arguments));
    results.collect::<Vec<_>>().into_iter().collect()
}

fn run_role(role: Role, arguments: &Arguments) -> Result<()> {
    let groups = selected(&arguments.groups, arguments.short)?;
    let role_name = role.name();
    // Beside the crate that earns them.
    let file = format!("ws-proto/conformance/{role_name}.json");
    let path = workspace::root().join(&file);
    let on_file = match fs::read_to_string(&path) {
        Ok(text) => verdict::read_expected(&text).with_context(|| file.clone())?,
        Err(_) if arguments.bless => Verdicts::new(),
        Err(error) => return Err(error).context(file),
    };
    let actual = if role == Role::Client {
        run_groups(&groups, &Subject::Client(build_client()?))?
    } else if let Some(address) = &arguments.address {
        run_groups(&groups, &Subject::Server(address.clone()))?
    } else {
        let server = Server::start(&arguments.binary.get()?, &["--echo"], VARIABLES)?;
        let actual = run_groups(&groups, &Subject::Server(server.address().to_owned()))
            .map_err(|error| error.context(format!("the server's log:\n{}", server.log())))?;
        server.stop()?;
        actual
    };

    let is_selected = |case: &Case| groups.iter().any(|group| case.is_in(group));
    if arguments.bless {
        let mut blessed = on_file;
        blessed.retain(|case, _| !is_selected(case));
        blessed.extend(actual);
        fs::write(&path, verdict::write_expected(&blessed))?;
        println!("wrote {file}");
        return Ok(());
    }
    let mut expected = on_file;
    expected.retain(|case, _| is_selected(case));
    judge(&expected, &actual, &file)?;
    println!(
        "{role_name}: {} cases, none worse than expected",
        actual.len()
    );
    Ok(())
}

/// The groups to run, each by itself: those of compression by the groups below them, since a report
/// is written only when a whole run has ended.
fn selected(asked: &[Case], short: bool) -> Result<Vec<Case>> {
    let mut groups = asked.to_vec();
    if groups.is_empty() {
        let names = GROUPS.iter().copied();
        let names = names.filter(|name| short || !is_compression(name));
        let compression = COMPRESSION.iter().map(|(name, _)| *name);
        groups = names
            .chain(compression.filter(|_| !short))
            .map(str::parse)
            .collect::<Result<_>>()?;
    }
    let mut selected = Vec::new();
    for group in groups {
        let name = group.to_string();
        match COMPRESSION.iter().find(|(whole, _)| *whole == name) {
            Some((_, count)) => selected.extend((1..=*count).map(|number| group.below(number))),
            None => selected.push(group),
        }
    }
    Ok(selected)
}

fn is_compression(group: &str) -> bool {
    COMPRESSION
        .iter()
        .any(|(whole, _)| group.split('.').next() == Some(whole))
}

fn judge(expected: &Verdicts, actual: &Verdicts, file: &str) -> Result<()> {
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
        bail!("{worse} cases are worse than {file} says");
    }
    if !differences.is_empty() {
        println!("some are better: cargo xtask conformance --bless, and commit the file");
    }
    Ok(())
}

/// Builds the client under test and returns where it is.
fn build_client() -> Result<PathBuf> {
    let mut build = workspace::cargo();
    build
        .args(["build", "--quiet", "--locked", "--package", "ws-proto"])
        .args(["--example", CLIENT]);
    let status = process::run(&mut build, BUILD_LIMIT)?;
    ensure!(status.success(), "cargo build --example {CLIENT}: {status}");
    Ok(workspace::target().join("debug/examples").join(CLIENT))
}

/// Runs one group after another and prints a line for each.
fn run_groups(groups: &[Case], subject: &Subject) -> Result<Verdicts> {
    let role = match subject {
        Subject::Server(_) => Role::Server,
        Subject::Client(_) => Role::Client,
    };
    let reports = workspace::scratch().join("conformance").join(role.name());
    if reports.exists() {
        fs::remove_dir_all(&reports)?;
    }
    let mut all = Verdicts::new();
    print_line(&"group", &"seconds", &"cases", &Verdict::ALL[..5]);
    for group in groups {
        let started = Instant::now();
        let verdicts = run_group(group, subject, &reports)?;
        let counts = Verdict::ALL[..5]
            .iter()
            .map(|it| verdicts.values().filter(|verdict| *verdict == it).count());
        let seconds = format!("{:.1}", started.elapsed().as_secs_f64());
        print_line(group, &seconds, &verdicts.len(), &Vec::from_iter(counts));
        all.extend(verdicts);
    }
    Ok(all)
}

fn print_line(
    group: &dyn Display,
    seconds: &dyn Display,
    cases: &dyn Display,
    columns: &[impl Display],
) {
    print!("{group:>5} {seconds:>7} {cases:>6}");
    for column in columns {
        print!(" {column:>13}");
    }
    println!();
}

fn run_group(group: &Case, subject: &Subject, reports: &Path) -> Result<Verdicts> {
    let kosoku = workspace::find("kosoku").context("kosoku is not installed")?;
    let report = reports.join(group.to_string());
    fs::create_dir_all(&report)?;
    let log = reports.join(format!("{group}.log"));
    let mut command = Command::new(kosoku);
    command
        .arg("-o")
        .arg(&report)
        .args(["-i", &format!("{group}.*")]);
    let limit = if is_compression(&group.to_string()) {
        SLOW_GROUP_LIMIT
    } else {
        GROUP_LIMIT
    };
    match subject {
        Subject::Server(address) => {
            command.arg(address);
            // Its exit code mixes up what we tell apart; the report says it.
            process::run_logged(&mut command, &log, limit)?;
        }
        Subject::Client(client) => {
            let mut client = Command::new(client);
            let is_without = WITHOUT_TAKEOVER.contains(&group.to_string().as_str());
            let option = is_without.then_some("--no-context-takeover");
            run_client(&mut command, &mut client, option, &log, limit)
                .with_context(|| format!("group {group}"))?;
        }
    }
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

/// Starts kosoku as a server, and our client against it. When the client has asked for the reports,
/// kosoku writes them and ends.
fn run_client(
    kosoku: &mut Command,
    client: &mut Command,
    option: Option<&str>,
    log: &Path,
    limit: Duration,
) -> Result<()> {
    let mut cases = kosoku
        .args(["-m", "fuzzingserver", "127.0.0.1:0"])
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .context("cannot start kosoku")?;
    let stderr = cases.stderr.take().expect("stderr is piped");
    let result = server::first_line(stderr).and_then(|line| {
        let (_, address) = line.split_once("ws://").context(line.clone())?;
        let status = process::run_logged(client.arg(address).args(option), log, limit)?;
        ensure!(status.success(), "the client ended with {status}");
        let ended = process::wait(&mut cases, Duration::from_secs(30))?;
        ended.context("kosoku did not end after its last case")
    });
    if matches!(cases.try_wait(), Ok(None)) {
        process::kill_tree(&mut cases)?;
    }
    result.map(|_| ())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(asked: &[&str], short: bool) -> Vec<String> {
        let asked: Vec<Case> = asked.iter().map(|it| it.parse().unwrap()).collect();
        let groups = selected(&asked, short).unwrap();
        groups.iter().map(Case::to_string).collect()
    }

    #[test]
    fn compression_is_run_in_parts() {
        assert_eq!(
            names(&["12.1", "2", "13"], false)[..4],
            ["12.1", "2", "13.1", "13.2"]
        );
        assert_eq!(names(&[], true), GROUPS);
        assert_eq!(names(&[], false).len(), 9 + 5 + 7);
    }
}

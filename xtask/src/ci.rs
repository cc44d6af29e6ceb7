//! Everything that a submission must pass, in one command.
//!
//! Steps are commands of their own with their output in `target/ci/STEP.log`; a step that fails
//! shows the end of it and does not keep the others from running. All debug builds have the same
//! features and flags, so that tests, `ws` and the checks against it are compiled once.

use std::env;
use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Result, bail};
use clap::ValueEnum;

use crate::server::{self, Binary};
use crate::{SKIPPED, install, process, workspace};

/// The crates that others build on, which must be sound without the features that the rest of the
/// workspace asks of them or of their dependencies.
const LIBRARIES: &[&str] = &[
    "ws-proto",
    "ws-transport",
    "ws-ipc",
    "ws-session",
    "ws-server",
];

#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    /// Installs what is missing first; also when the environment says CI=true
    #[arg(long)]
    install: bool,
    /// Only these steps
    #[arg(long, value_enum, num_args = 1.., value_delimiter = ',')]
    only: Vec<Step>,
    /// Not these steps
    #[arg(long, value_enum, num_args = 1.., value_delimiter = ',')]
    skip: Vec<Step>,
}

/// In the order in which they run: quick answers first, then what the builds give for free.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, ValueEnum)]
enum Step {
    /// Code is formatted
    Fmt,
    /// Crates keep their layers
    Layers,
    /// White space and line ends
    Tidy,
    /// Links of the documentation, and the book that mdbook makes of it
    Book,
    /// Lints, warnings denied
    Clippy,
    /// Lints of each library crate alone
    Crates,
    /// Documentation, warnings denied
    Doc,
    /// Everything that the next steps run
    Build,
    /// Unit, integration, property and documentation tests
    Test,
    /// Licences, sources, duplicates, advisories
    Deny,
    /// Tests of ws-proto in Miri
    Miri,
    /// Each fuzz target for a short while
    Fuzz,
    /// Autobahn's cases, against the server and against our client
    Conformance,
    /// Python websockets, Node ws, curl
    Clients,
    /// nginx, HAProxy and Apache in front
    Proxies,
    /// The program without dynamic libraries, built as for development, answers
    Musl,
    /// The Debian package, installed for a moment, and what is in it
    Dist,
    /// The pages and the browser library in Chromium and node
    Browser,
    /// Lints and tests of traces, which are a feature; last, as this builds another `ws`
    Traces,
}

#[derive(Debug)]
enum Outcome {
    Passed(String),
    Skipped(String),
    Failed(String),
}

/// A finished step for the closing table.
struct Row {
    name: String,
    outcome: Outcome,
    seconds: f64,
}

pub(crate) fn run(arguments: &Arguments) -> Result<()> {
    // Before anything is built: a build may replace this very program.
    let xtask = env::current_exe()?;
    let logs = workspace::scratch();
    fs::create_dir_all(&logs)?;

    let mut rows = Vec::new();
    if arguments.install || env::var_os("CI").is_some_and(|value| value == "true") {
        let started = Instant::now();
        let outcome = match install::run() {
            Ok(()) => Outcome::Passed(String::new()),
            Err(error) => Outcome::Failed(format!("{error:#}")),
        };
        report(&mut rows, "install".into(), outcome, started);
    }
    let mut ws = None;
    let mut is_broken = false;
    for step in selected(&arguments.only, &arguments.skip) {
        let name = name(step);
        let log = logs.join(format!("{name}.log"));
        if log.exists() {
            fs::remove_file(&log)?;
        }
        let started = Instant::now();
        let outcome = if is_broken && (step == Step::Test || uses_server(step)) {
            Outcome::Skipped("the build failed".into())
        } else {
            run_step(step, &xtask, ws.as_deref(), &log)
        };
        if step == Step::Build {
            match outcome {
                Outcome::Passed(_) => ws = Some(Binary::built()),
                Outcome::Skipped(_) | Outcome::Failed(_) => is_broken = true,
            }
        }
        if matches!(step, Step::Test | Step::Traces) {
            print!("{}", test_results(&read(&log)));
        }
        if matches!(outcome, Outcome::Failed(_)) {
            println!("---- {name}, from {}:", log.display());
            println!("{}\n----", server::tail(&excerpt(&read(&log)), 200));
        }
        report(&mut rows, name, outcome, started);
    }
    close(&rows)
}

fn selected(only: &[Step], skip: &[Step]) -> Vec<Step> {
    let is_selected =
        |step: &Step| (only.is_empty() || only.contains(step)) && !skip.contains(step);
    Step::value_variants()
        .iter()
        .copied()
        .filter(is_selected)
        .collect()
}

/// Whether a step is a verb that tests a running `ws`.
fn uses_server(step: Step) -> bool {
    matches!(
        step,
        Step::Conformance | Step::Clients | Step::Proxies | Step::Dist | Step::Browser
    )
}

fn name(step: Step) -> String {
    step.to_possible_value()
        .expect("no step is hidden")
        .get_name()
        .to_owned()
}

/// Runs all commands of a step, whether or not one of them fails.
fn run_step(step: Step, xtask: &Path, ws: Option<&Path>, log: &Path) -> Outcome {
    let mut notes = Vec::new();
    let mut failure = None;
    for mut command in commands(step, xtask, ws) {
        command.env("CARGO_TERM_COLOR", "never");
        match process::run_logged(&mut command, log, limit(step)) {
            Ok(status) if status.success() => {
                if command.get_program() == xtask {
                    notes.push(last_line(&read(log)));
                }
            }
            Ok(status) if status.code() == Some(i32::from(SKIPPED)) => {
                let line = last_line(&read(log));
                return Outcome::Skipped(line.trim_start_matches("skipped: ").to_owned());
            }
            Ok(status) => failure = Some(status.to_string()),
            Err(error) => failure = Some(format!("{error:#}")),
        }
    }
    if matches!(step, Step::Test | Step::Traces) {
        notes.push(count_tests(&read(log)));
    }
    if matches!(step, Step::Traces) && failure.is_none() && !has_tested_traces(&read(log)) {
        failure = Some("no test of the whole server with traces was run".to_owned());
    }
    failure.map_or_else(|| Outcome::Passed(notes.join("; ")), Outcome::Failed)
}

fn commands(step: Step, xtask: &Path, ws: Option<&Path>) -> Vec<Command> {
    let cargo = |line: &str| {
        let mut command = workspace::cargo();
        command.args(line.split(' '));
        command
    };
    let verb = |name: &str| {
        let mut command = Command::new(xtask);
        command.arg(name).current_dir(workspace::root());
        if let Some(ws) = ws.filter(|_| uses_server(step)) {
            command.arg("--ws").arg(ws);
        }
        command
    };
    match step {
        Step::Fmt => vec![
            cargo("fmt --all --check"),
            cargo("fmt --manifest-path ws-proto/fuzz/Cargo.toml --check"),
        ],
        Step::Clippy => {
            vec![cargo(
                "clippy --quiet --workspace --all-targets --locked -- -D warnings",
            )]
        }
        Step::Crates => LIBRARIES
            .iter()
            .map(|it| {
                cargo(&format!(
                    "clippy --quiet --locked --package {it} -- -D warnings"
                ))
            })
            .collect(),
        Step::Doc => {
            let mut doc = cargo("doc --quiet --workspace --no-deps --locked");
            doc.env("RUSTDOCFLAGS", "-D warnings");
            vec![doc]
        }
        Step::Build => vec![cargo(
            "build --quiet --workspace --locked --bins --tests --examples",
        )],
        Step::Test => vec![cargo("test --workspace --locked --no-fail-fast")],
        // As a part of the workspace, so that only what the feature changes is built anew.
        Step::Traces => vec![
            cargo(
                "clippy --quiet --workspace --all-targets --locked --features ws-cli/otel \
                 -- -D warnings",
            ),
            cargo("clippy --quiet --locked --package ws-server --features otel -- -D warnings"),
            cargo(
                "test --workspace --locked --no-fail-fast --features ws-cli/otel \
                 --lib --bins --test integration -- trace span",
            ),
        ],
        Step::Conformance => {
            let mut conformance = verb("conformance");
            conformance.arg("--short");
            vec![conformance]
        }
        Step::Musl => {
            let mut musl = verb("dist");
            musl.args(["--musl", "--check"]);
            vec![musl]
        }
        Step::Dist => {
            // What is looked at is the package; a debug build does for that.
            let mut dist = verb("dist");
            dist.arg("--check");
            vec![dist]
        }
        Step::Layers
        | Step::Tidy
        | Step::Book
        | Step::Deny
        | Step::Miri
        | Step::Fuzz
        | Step::Clients
        | Step::Proxies
        | Step::Browser => vec![verb(&name(step))],
    }
}

/// Generous: these only keep a hanging step from hiding what the others have to say.
fn limit(step: Step) -> Duration {
    Duration::from_secs(match step {
        Step::Musl => 1800,
        Step::Fmt | Step::Layers | Step::Tidy | Step::Book => 120,
        Step::Deny | Step::Clients | Step::Proxies | Step::Dist | Step::Browser => 600,
        Step::Clippy | Step::Crates | Step::Doc | Step::Build => 1200,
        Step::Test | Step::Traces | Step::Fuzz | Step::Conformance => 1500,
        Step::Miri => 3600,
    })
}

fn report(rows: &mut Vec<Row>, name: String, outcome: Outcome, started: Instant) {
    let row = Row {
        name,
        outcome,
        seconds: started.elapsed().as_secs_f64(),
    };
    println!("{}", line(&row));
    rows.push(row);
}

fn line(row: &Row) -> String {
    let (word, note) = match &row.outcome {
        Outcome::Passed(note) => ("passed", note),
        Outcome::Skipped(note) => ("skipped", note),
        Outcome::Failed(note) => ("FAILED", note),
    };
    let line = format!("{:<12} {word:<8} {:>6.1} s  {note}", row.name, row.seconds);
    line.trim_end().to_owned()
}

/// Prints the table and the counts.
fn close(rows: &[Row]) -> Result<()> {
    println!("\n{:<12} {:<8} {:>8}", "step", "result", "time");
    for row in rows {
        println!("{}", line(row));
    }
    let count = |is: fn(&Outcome) -> bool| rows.iter().filter(|row| is(&row.outcome)).count();
    let failed = count(|it| matches!(it, Outcome::Failed(_)));
    println!(
        "\nsteps: {} passed, {failed} failed, {} skipped",
        count(|it| matches!(it, Outcome::Passed(_))),
        count(|it| matches!(it, Outcome::Skipped(_))),
    );
    if failed > 0 {
        bail!("the logs are in {}", workspace::scratch().display());
    }
    Ok(())
}

fn read(log: &Path) -> String {
    fs::read(log).map_or_else(
        |_| String::new(),
        |it| String::from_utf8_lossy(&it).into_owned(),
    )
}

/// The part of a log that says what is wrong: the reports of failed tests, which may lie far above
/// the end, and then the end.
fn excerpt(log: &str) -> String {
    let mut lines = Vec::new();
    let mut is_report = false;
    for line in log.lines() {
        // The second heading of a binary lists names that its reports have already.
        if line == "failures:" {
            is_report = !is_report;
        }
        if line.starts_with("test result: ") {
            is_report = false;
        }
        if is_report {
            lines.push(line);
        }
    }
    let end = server::tail(log, if lines.is_empty() { 80 } else { 20 });
    lines.push(&end);
    lines.join("\n")
}

fn last_line(text: &str) -> String {
    text.lines()
        .rev()
        .find(|line| !line.trim().is_empty())
        .unwrap_or_default()
        .to_owned()
}

/// What cargo test says of each binary that has tests.
fn test_results(log: &str) -> String {
    let mut results = String::new();
    let mut subject = "";
    for line in log.lines() {
        let start = line.trim_start();
        if start.starts_with("Running ") || start.starts_with("Doc-tests ") {
            subject = line;
        } else if start.starts_with("test result: ")
            && !start.starts_with("test result: ok. 0 passed")
        {
            results.extend([subject, "\n", line, "\n"]);
        }
    }
    results
}

/// How many tests passed, in all binaries together.
fn count_tests(log: &str) -> String {
    let passed: u64 = log
        .lines()
        .filter_map(|line| line.trim_start().strip_prefix("test result: "))
        .filter_map(|rest| {
            let words: Vec<&str> = rest.split_ascii_whitespace().collect();
            let index = words.iter().position(|word| word.starts_with("passed"))?;
            words.get(index.checked_sub(1)?)?.parse::<u64>().ok()
        })
        .sum();
    format!("{passed} tests")
}

/// Whether the tests of traces were run against the whole server. A filter that fits none of them,
/// or a feature that does not get there, makes `cargo test` pass.
fn has_tested_traces(log: &str) -> bool {
    let mut is_integration = false;
    log.lines().map(str::trim_start).any(|line| {
        if let Some(subject) = line.strip_prefix("Running ") {
            is_integration = subject.contains("/integration-");
        }
        is_integration && line.starts_with("test traces::")
    })
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    const LOG: &str = "\
     Running unittests src/lib.rs (target/debug/deps/ws_proto-1)

running 2 tests
test result: ok. 2 passed; 0 failed; 0 ignored; 0 measured; 0 filtered out; finished in 0.01s

     Running unittests src/main.rs (target/debug/deps/ws-2)
test result: ok. 0 passed; 0 failed; 0 ignored; 0 measured; 0 filtered out; finished in 0.00s
   Doc-tests ws_proto
test result: FAILED. 3 passed; 1 failed; 0 ignored; 0 measured; 0 filtered out; finished in 0.01s
";

    #[test]
    fn tests_are_counted_over_all_binaries() {
        assert_eq!(count_tests(LOG), "5 tests");
    }

    #[test]
    fn traces_are_not_tested_by_tests_of_something_else() {
        let unit = "     Running unittests src/lib.rs (target/debug/deps/ws_server-1)\n";
        let whole = "     Running tests/integration/main.rs (target/debug/deps/integration-2)\n";
        let test = "test traces::lines_have_spans ... ok\n";
        assert!(has_tested_traces(&format!("{unit}{whole}{test}")));
        assert!(!has_tested_traces(&format!("{whole}{unit}{test}")));
        assert!(!has_tested_traces(&format!(
            "{unit}{whole}running 0 tests\n"
        )));
        assert!(!has_tested_traces(LOG));
    }

    #[test]
    fn results_of_binaries_with_tests_are_shown() {
        let results = test_results(LOG);
        assert_eq!(results.matches("test result: ").count(), 2);
        assert!(results.contains("Doc-tests ws_proto\ntest result: FAILED. 3 passed"));
        assert!(!results.contains("main.rs"));
    }

    #[test]
    fn reports_of_failed_tests_are_shown_wherever_they_are() {
        let log = format!(
            "test a ... FAILED\n\nfailures:\n\n---- a stdout ----\nwhy\n\nfailures:\n    a\n\n\
             test result: FAILED. 0 passed; 1 failed\n{}",
            "test b ... ok\n".repeat(100)
        );
        let excerpt = excerpt(&log);
        assert!(excerpt.contains("---- a stdout ----\nwhy"));
        assert_eq!(excerpt.matches("test b ... ok").count(), 20);
    }

    #[test]
    fn steps_keep_their_order_whatever_is_asked_for() {
        assert_eq!(
            selected(&[Step::Test, Step::Fmt], &[]),
            [Step::Fmt, Step::Test]
        );
        assert_eq!(
            selected(&[Step::Test, Step::Fmt], &[Step::Fmt]),
            [Step::Test]
        );
        assert_eq!(selected(&[], &[]), Step::value_variants());
    }

    #[test]
    fn only_checks_against_the_server_are_told_its_binary() {
        let told = |step| {
            let commands = commands(step, Path::new("xtask"), Some(Path::new("ws")));
            commands[0].get_args().any(|it| it == "--ws")
        };
        let steps: BTreeSet<Step> = Step::value_variants()
            .iter()
            .copied()
            .filter(|step| told(*step))
            .collect();
        assert_eq!(
            steps,
            BTreeSet::from([
                Step::Conformance,
                Step::Clients,
                Step::Proxies,
                Step::Dist,
                Step::Browser
            ])
        );
    }
}

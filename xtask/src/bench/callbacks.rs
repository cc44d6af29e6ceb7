//! The price of a callback, each way to run one beside the least that does the same.
//!
//! Most rows are those of the example `callback_cost` of ws-ipc, which says what each is; the others
//! are seen at the whole server.

mod crowd;
mod stream;

use std::fs;
use std::io::{BufRead as _, BufReader};
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use serde_json::Value;

use super::cell::Scale;
use super::result::markdown;
use crate::{process, workspace};

const TITLE: &str = "Callbacks: what one costs, beside the least that does the same";

/// Measures everything and returns the group's section.
pub(super) fn measure(scale: Scale, rounds: Option<u32>) -> String {
    let mut rows = Vec::new();
    let mut failures = Vec::new();
    if let Err(error) = ask_example(scale, rounds, &mut rows) {
        failures.push(("callback_cost", error));
    }
    let rounds = rounds.unwrap_or_else(|| scale.rounds());
    match crowd::measure(scale, rounds) {
        Ok(row) => add(&mut rows, row),
        Err(error) => failures.push(("exec in a server", error)),
    }
    if let Err(error) = stream::measure(scale, rounds, &mut |row| add(&mut rows, row)) {
        failures.push(("stream", error));
    }
    section(&rows, &failures)
}

fn add(rows: &mut Vec<Row>, row: Row) {
    println!("{}", row.told());
    rows.push(row);
}

fn section(rows: &[Row], failures: &[(&str, anyhow::Error)]) -> String {
    let head = [
        "what", "unit", "ours", "floor", "ratio", "wanted", "floor is",
    ];
    let mut cells = vec![head.map(str::to_owned).to_vec()];
    cells.extend(rows.iter().map(Row::cells));
    let mut section = format!("### {TITLE}\n\n{}\n", markdown(&cells));
    for row in rows {
        if let Figures::Skipped(why) = &row.figures {
            section += &format!("\nSkipped: {} ({}): {why}.\n", row.what, row.unit);
        }
    }
    for (what, error) in failures {
        println!("failed: {what}: {error:#}");
        let cause = format!("{error:#}");
        let cause = cause.lines().next().unwrap_or("no cause");
        section += &format!("\nFailed: {what}: {}.\n", cause.trim_end_matches('.'));
    }
    section
}

/// A line of the table.
#[derive(Debug, Clone, PartialEq)]
struct Row {
    what: String,
    unit: String,
    /// What it is held beside, and what the issue wants of it; empty for nothing.
    beside: String,
    wanted: String,
    figures: Figures,
}

#[derive(Debug, Clone, PartialEq)]
enum Figures {
    Alone(f64),
    Beside { ours: f64, floor: f64, ratio: f64 },
    Skipped(String),
}

impl Row {
    /// Reads a line of the example.
    fn parse(line: &str) -> Result<Self> {
        let object: Value =
            serde_json::from_str(line).with_context(|| format!("no row: {line}"))?;
        let text = |name: &str| {
            let text = object[name].as_str().map(str::to_owned);
            text.with_context(|| format!("a row without {name:?}: {line}"))
        };
        let number = |name: &str| object[name].as_f64();
        let figures = match (object["skipped"].as_str(), number("ours")) {
            (Some(why), _) => Figures::Skipped(why.to_owned()),
            (None, Some(ours)) => match (number("floor"), number("ratio")) {
                (Some(floor), Some(ratio)) => Figures::Beside { ours, floor, ratio },
                _ => Figures::Alone(ours),
            },
            (None, None) => bail!("a row without figures: {line}"),
        };
        Ok(Self {
            what: text("what")?,
            unit: text("unit")?,
            beside: text("beside")?,
            wanted: text("wanted")?,
            figures,
        })
    }

    fn cells(&self) -> Vec<String> {
        let none = || "-".to_owned();
        let [ours, floor, ratio] = match self.figures {
            Figures::Alone(ours) => [rounded(ours), none(), none()],
            Figures::Beside { ours, floor, ratio } => {
                [rounded(ours), rounded(floor), format!("{ratio:.2}")]
            }
            Figures::Skipped(_) => [none(), none(), none()],
        };
        let or_none = |text: &String| {
            if text.is_empty() {
                none()
            } else {
                text.clone()
            }
        };
        vec![
            self.what.clone(),
            self.unit.clone(),
            ours,
            floor,
            ratio,
            or_none(&self.wanted),
            or_none(&self.beside),
        ]
    }

    fn told(&self) -> String {
        if let Figures::Skipped(why) = &self.figures {
            return format!("callbacks  {}: skipped: {why}", self.what);
        }
        let cells = self.cells();
        format!(
            "callbacks  {}: {} {}, floor {}, ratio {}",
            cells[0], cells[2], cells[1], cells[3], cells[4]
        )
    }
}

/// Three digits at least: nobody reads more of a figure that varies by a tenth.
fn rounded(figure: f64) -> String {
    let digits = usize::from(figure < 100.0);
    format!("{figure:.digits$}")
}

fn example() -> PathBuf {
    workspace::target().join("release/examples/callback_cost")
}

/// The build directory of the example that is linked statically.
const STATIC: &str = "static";

/// Builds that; what the machine cannot link is left out of the table.
pub(super) fn build_static() -> Result<()> {
    let mut build = workspace::build_with("-C target-feature=+crt-static", STATIC)?;
    build.args([
        "--locked",
        "--package",
        "ws-ipc",
        "--example",
        "callback_cost",
    ]);
    let status = process::run(&mut build, super::BUILD_LIMIT)?;
    if !status.success() {
        println!("cannot link statically: {status}");
    }
    Ok(())
}

/// Runs the example and takes its rows as they come.
fn ask_example(scale: Scale, rounds: Option<u32>, rows: &mut Vec<Row>) -> Result<()> {
    let mut command = process::tied(example());
    command.arg("--json");
    if scale == Scale::Quick {
        command.arg("--quick");
    }
    if let Some(rounds) = rounds {
        command.args(["--rounds", &rounds.to_string()]);
    }
    let linked_statically = workspace::built_with(STATIC)?.join("examples/callback_cost");
    command.arg("--static").arg(linked_statically);
    let mut child = command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()
        .context("cannot start callback_cost")?;
    let stdout = child.stdout.take().expect("stdout is piped");
    for line in BufReader::new(stdout).lines() {
        add(rows, Row::parse(&line?)?);
    }
    let status = child.wait()?;
    ensure!(status.success(), "it ended with {status}");
    Ok(())
}

/// Runs a load to its end and returns its report, in which something was answered.
fn report(load: &mut Command) -> Result<Value> {
    let output = load.output().context("cannot start ws bench")?;
    let report: Value = serde_json::from_slice(&output.stdout).with_context(|| {
        let stderr = String::from_utf8_lossy(&output.stderr);
        format!("ws bench: {}", stderr.trim())
    })?;
    ensure!(output.status.success(), "ws bench: {}", report["failures"]);
    ensure!(messages(&report) > 0.0, "nothing was answered in the time");
    Ok(report)
}

fn messages(report: &Value) -> f64 {
    report["messages"].as_f64().unwrap_or(0.0)
}

/// The CPU time of a process and of those below it, and of what these have waited for.
fn cpu_of_tree(id: u32) -> Result<Duration> {
    let ids = std::iter::once(id).chain(process::descendants(id));
    // One that has ended meanwhile is with its parent's.
    let stats = ids.filter_map(|id| fs::read_to_string(format!("/proc/{id}/stat")).ok());
    stats.map(|stat| cpu_in(&stat)).sum()
}

/// The CPU time in a line of `/proc/PID/stat`.
fn cpu_in(stat: &str) -> Result<Duration> {
    // The name, in parentheses, may hold anything.
    let (_, fields) = stat.rsplit_once(')').context("no name in stat")?;
    // proc_pid_stat(5): utime, stime, cutime and cstime are the fields 14 to 17, the name is the 2nd.
    let fields = fields.split_ascii_whitespace().skip(11).take(4);
    let ticks: std::result::Result<Vec<u32>, _> = fields.map(str::parse).collect();
    let ticks: u32 = ticks?.iter().sum();
    Ok(TICK * ticks)
}

/// The kernel counts CPU time for `/proc` in hundredths of a second, whatever its own tick.
const TICK: Duration = Duration::from_millis(10);

#[cfg(test)]
mod tests {
    use anyhow::anyhow;

    use super::*;

    const EXEC: &str = r#"{"what":"exec","beside":"posix_spawn","unit":"us of CPU","wanted":"at most 1.25","ours":312.24,"floor":260.2,"ratio":1.2049}"#;
    const NODE: &str =
        r#"{"what":"worker.js","beside":"","unit":"messages/s","wanted":"","ours":18.66}"#;
    const PHP: &str = r#"{"what":"fork.php","beside":"","unit":"messages/s","wanted":"at least 4","skipped":"php does not run it"}"#;

    #[test]
    fn rows_are_read_with_a_floor_without_one_and_skipped() {
        let figures = |line| Row::parse(line).unwrap().figures;
        let beside = Figures::Beside {
            ours: 312.24,
            floor: 260.2,
            ratio: 1.2049,
        };
        assert_eq!(figures(EXEC), beside);
        assert_eq!(figures(NODE), Figures::Alone(18.66));
        assert_eq!(
            figures(PHP),
            Figures::Skipped("php does not run it".to_owned())
        );
    }

    #[test]
    fn line_that_is_no_row_is_an_error() {
        for wrong in [
            "",
            "bare 3.1 us",
            "{}",
            &EXEC.replace("\"what\"", "\"that\""),
        ] {
            assert!(Row::parse(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn table_has_a_dash_where_there_is_no_figure_and_says_why() {
        let rows = [EXEC, NODE, PHP].map(|line| Row::parse(line).unwrap());
        let section = section(&rows, &[("the rest", anyhow!("gone.\nmore"))]);
        for line in [
            "| what      |       unit | ours | floor | ratio |       wanted |    floor is |",
            "| exec      |  us of CPU |  312 |   260 |  1.20 | at most 1.25 | posix_spawn |",
            "| worker.js | messages/s | 18.7 |     - |     - |            - |           - |",
            "| fork.php  | messages/s |    - |     - |     - |   at least 4 |           - |",
            "\nSkipped: fork.php (messages/s): php does not run it.\n",
            "\nFailed: the rest: gone.\n",
        ] {
            assert!(section.contains(line), "{section}");
        }
    }

    #[test]
    fn cpu_time_is_that_of_a_process_and_of_its_dead_children() {
        let stat = "7 (a) b) S 1 7 7 0 -1 0 0 0 0 0 10 20 30 40 20 0 1 0";
        assert_eq!(cpu_in(stat).unwrap(), Duration::from_secs(1));
        assert!(cpu_in("7 a S").is_err());
    }
}

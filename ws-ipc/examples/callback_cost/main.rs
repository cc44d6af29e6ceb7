//! What a callback costs, each way to run one beside the least that does the same.
//!
//! ```sh
//! cargo run --release -p ws-ipc --example callback_cost -- [OPTION]... [SUBJECT]...
//! cargo run --release -p ws-ipc --example callback_cost -- exec --at-once 4 --by user --by limits
//! cargo run --release -p ws-ipc --example callback_cost -- shims --shim fork.php
//! ```
//!
//! Subjects are `exec`, `fork`, `worker`, `fastcgi` and `shims`; without one, all. Each is measured
//! in rounds, in which ours and what it is held beside take turns, so that a noisy machine is noisy
//! to both; a figure is the median over the rounds, and a ratio that of the ratios within each.
//! What is not installed is left out, and that is said.
//!
//! - `--json` prints an object a line instead of a table, `--quick` measures less;
//! - `--rounds N`, and `--calls N` in each;
//! - `--at-once N` (exec, fastcgi, shims; may be repeated), `--spawners N` (exec);
//! - `--by WHAT` (exec; may be repeated): what the program is confined by, beside the defaults:
//!   `user` (65534), `limits`, `landlock`, `cgroup=DIR`;
//! - `--shim NAME`: this shim only;
//! - `--static FILE` (fork): this program once more, linked statically, whose fork server is measured,
//!   too.
//!
//! `callback_cost program FILE` makes the program that answers with what it is sent, for the cost of
//! a whole server that runs it.

mod exec;
mod fastcgi;
mod measure;
mod program;
mod service;
mod shims;

use std::path::PathBuf;

use crate::measure::Outcome;

/// First arguments by which this program is started again.
const SPAWNER: &str = "__spawner";
const BARE_EXEC: &str = "__bare-exec";
const FORK_SERVER: &str = "__fork-server";
const WORKER: &str = "__worker";
const ECHO: &str = "__echo";

fn main() -> Outcome<()> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let rest = args.get(1..).unwrap_or_default();
    match args.first().map(String::as_str) {
        Some(SPAWNER) => ws_ipc::spawner::main(),
        Some(BARE_EXEC) => exec::bare(rest),
        Some(FORK_SERVER) => service::fork_server(),
        Some(WORKER) => service::worker(),
        Some(ECHO) => service::echo(),
        Some("program") => program::make_echo(rest),
        _ => compare(&args),
    }
}

fn compare(args: &[String]) -> Outcome<()> {
    let plan = Plan::read(args)?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    if !plan.has_json {
        measure::print_head()?;
    }
    for subject in &plan.subjects {
        match subject {
            Subject::Exec => runtime.block_on(exec::compare(&plan))?,
            Subject::Fork => runtime.block_on(service::compare_fork(&plan))?,
            Subject::Worker => runtime.block_on(service::compare_worker(&plan))?,
            Subject::FastCgi => runtime.block_on(fastcgi::compare(&plan))?,
            Subject::Shims => runtime.block_on(shims::compare(&plan))?,
        }
    }
    Ok(())
}

#[derive(Clone, Copy)]
enum Subject {
    Exec,
    Fork,
    Worker,
    FastCgi,
    Shims,
}

impl Subject {
    const ALL: [(&str, Self); 5] = [
        ("exec", Self::Exec),
        ("fork", Self::Fork),
        ("worker", Self::Worker),
        ("fastcgi", Self::FastCgi),
        ("shims", Self::Shims),
    ];
}

/// What the command line asks for.
struct Plan {
    subjects: Vec<Subject>,
    has_json: bool,
    is_quick: bool,
    rounds: Option<usize>,
    calls: Option<usize>,
    at_once: Vec<usize>,
    spawners: Option<usize>,
    confined_by: Vec<String>,
    shim: Option<String>,
    linked_statically: Option<PathBuf>,
}

impl Plan {
    fn read(args: &[String]) -> Outcome<Self> {
        let mut plan = Self {
            subjects: Vec::new(),
            has_json: false,
            is_quick: false,
            rounds: None,
            calls: None,
            at_once: Vec::new(),
            spawners: None,
            confined_by: Vec::new(),
            shim: None,
            linked_statically: None,
        };
        let mut args = args.iter();
        while let Some(arg) = args.next() {
            let mut value = || args.next().ok_or_else(|| format!("{arg} needs a value"));
            match arg.as_str() {
                "--json" => plan.has_json = true,
                "--quick" => plan.is_quick = true,
                "--rounds" => plan.rounds = Some(value()?.parse()?),
                "--calls" => plan.calls = Some(value()?.parse()?),
                "--at-once" => plan.at_once.push(value()?.parse()?),
                "--spawners" => plan.spawners = Some(value()?.parse()?),
                "--by" => plan.confined_by.push(value()?.clone()),
                "--shim" => plan.shim = Some(value()?.clone()),
                "--static" => plan.linked_statically = Some(value()?.into()),
                name => {
                    let subject = Subject::ALL.iter().find(|(known, _)| *known == name);
                    let (_, subject) = subject.ok_or_else(|| format!("{name} is no subject"))?;
                    plan.subjects.push(*subject);
                }
            }
        }
        if plan.subjects.is_empty() {
            plan.subjects = Subject::ALL.map(|(_, subject)| subject).to_vec();
        }
        Ok(plan)
    }

    /// How many rounds there are, and how many calls in each.
    fn size(&self, quick: (usize, usize), whole: (usize, usize)) -> (usize, usize) {
        let (rounds, calls) = if self.is_quick { quick } else { whole };
        (
            self.rounds.unwrap_or(rounds).max(1),
            self.calls.unwrap_or(calls).max(1),
        )
    }

    fn at_once(&self, unless_asked: &[usize]) -> Vec<usize> {
        if self.at_once.is_empty() {
            return unless_asked.to_vec();
        }
        self.at_once.clone()
    }
}

//! Faults against the server as users run it: system calls that fail, links that are cut or slow,
//! clients that are hostile or gone.
//!
//! Each campaign starts a server, measures well-behaved clients without the fault and beside it,
//! and then looks at whether the server is as it was. Its figures have bounds; one that is broken
//! fails the campaign. A campaign runs in a process of its own, which is ended at its deadline with
//! all that it has started.

mod askers;
mod campaigns;
mod client;
mod crowd;
mod family;
mod figures;
mod link;
mod net;
mod scheduling;
mod status;
mod strace;
mod subject;
pub(crate) mod wire;
mod witness;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use serde_json::{Value, json};

use crate::chaos::figures::Report;
use crate::server::Binary;
use crate::{NotHere, SKIPPED, Skipped, process};

#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    /// The campaigns to run, or "all"; without any, they are listed
    #[arg(value_name = "NAME")]
    names: Vec<String>,

    /// Smaller figures: all of them end in about 3 minutes
    #[arg(long)]
    short: bool,

    /// Prints one JSON object, with the figures of all campaigns
    #[arg(long)]
    json: bool,

    /// Runs the one campaign in this process, and writes its figures to the file
    #[arg(long, hide = true, value_name = "FILE")]
    report: Option<PathBuf>,

    #[command(flatten)]
    binary: Binary,
}

/// A fault, and what must be true beside it and after it.
struct Campaign {
    name: &'static str,
    about: &'static str,
    /// After which it has failed: of the short form, and of the whole.
    limits: [Duration; 2],
    run: fn(&Context, &mut Report) -> Result<()>,
}

/// What a campaign is run with.
#[derive(Debug)]
struct Context {
    ws: PathBuf,
    is_short: bool,
}

impl Context {
    /// One of two sizes.
    fn size<T>(&self, short: T, whole: T) -> T {
        if self.is_short { short } else { whole }
    }
}

const fn minutes(count: u64) -> Duration {
    Duration::from_secs(60 * count)
}

pub(crate) fn run(arguments: &Arguments) -> Result<()> {
    let campaigns = select(&arguments.names)?;
    if let (Some(file), [campaign]) = (&arguments.report, &*campaigns) {
        return run_here(arguments, campaign, file);
    }
    if campaigns.is_empty() {
        for campaign in campaigns::ALL {
            println!("{:<16} {}", campaign.name, campaign.about);
        }
        return Ok(());
    }
    let ws = arguments.binary.get_release()?;
    let mut results = Vec::new();
    let (mut failed, mut skipped) = (Vec::new(), Vec::new());
    for campaign in campaigns {
        if !arguments.json {
            println!("{}: {}", campaign.name, campaign.about);
        }
        let start = Instant::now();
        let (outcome, figures) = run_apart(arguments, campaign, &ws)?;
        let seconds = start.elapsed().as_secs_f64();
        match &outcome {
            Outcome::Held => {}
            Outcome::Failed => failed.push(campaign.name),
            Outcome::Skipped => skipped.push(campaign.name),
        }
        if !arguments.json {
            println!("  {outcome:?} after {seconds:.1} s");
        }
        results.push(json!({
            "name": campaign.name,
            "outcome": format!("{outcome:?}").to_lowercase(),
            "seconds": seconds,
            "result": figures,
        }));
    }
    if arguments.json {
        println!(
            "{}",
            json!({ "short": arguments.short, "campaigns": results })
        );
    }
    if !failed.is_empty() {
        bail!("bounds are broken: {}", failed.join(", "));
    }
    if !skipped.is_empty() {
        return Err(NotHere(format!("not possible here: {}", skipped.join(", "))).into());
    }
    Ok(())
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Outcome {
    Held,
    Failed,
    Skipped,
}

fn select(names: &[String]) -> Result<Vec<&'static Campaign>> {
    let mut chosen: Vec<&Campaign> = Vec::new();
    for name in names {
        let found: Vec<&Campaign> = campaigns::ALL
            .iter()
            .filter(|it| name == "all" || it.name == name)
            .collect();
        ensure!(
            !found.is_empty(),
            "no campaign {name:?}; cargo xtask chaos lists them"
        );
        chosen.extend(found);
    }
    Ok(chosen)
}

/// Runs a campaign in a process of its own.
fn run_apart(arguments: &Arguments, campaign: &Campaign, ws: &Path) -> Result<(Outcome, Value)> {
    let folder = tempfile::Builder::new().prefix("ws-chaos-").tempdir()?;
    let report = folder.path().join("report.json");
    let mut command = process::tied(std::env::current_exe()?);
    command
        .args(["chaos", campaign.name, "--report"])
        .arg(&report)
        .arg("--ws")
        .arg(ws)
        .args(arguments.short.then_some("--short"))
        // Whatever it leaves there when it is killed goes with the folder.
        .env("TMPDIR", folder.path());
    if arguments.json {
        command.stdout(Stdio::null());
    }
    let limit = campaign.limits[usize::from(!arguments.short)];
    let status = match process::run(&mut command, limit) {
        Ok(status) => status,
        Err(error) => {
            eprintln!("error: {error:#}");
            return Ok((Outcome::Failed, json!({ "error": format!("{error:#}") })));
        }
    };
    let outcome = match status.code() {
        Some(0) => Outcome::Held,
        Some(code) if code == i32::from(SKIPPED) => Outcome::Skipped,
        _ => Outcome::Failed,
    };
    let figures = fs::read(&report)
        .ok()
        .and_then(|bytes| serde_json::from_slice(&bytes).ok());
    Ok((outcome, figures.unwrap_or_default()))
}

fn run_here(arguments: &Arguments, campaign: &Campaign, file: &Path) -> Result<()> {
    let context = Context {
        ws: arguments.binary.get_release()?,
        is_short: arguments.short,
    };
    raise_descriptor_limit()?;
    let mut report = Report::default();
    let outcome = (campaign.run)(&context, &mut report);
    print!("{}", report.table());
    let mut json = report.to_json();
    if let Err(error) = &outcome {
        json["error"] = json!(format!("{error:#}"));
    }
    fs::write(file, json.to_string()).context("cannot write the report")?;
    outcome.map_err(|error| {
        let is_skipped = error.is::<Skipped>() || error.is::<NotHere>();
        if is_skipped {
            error
        } else {
            error.context(campaign.name)
        }
    })?;
    match report.broken_count() {
        0 => Ok(()),
        count => bail!("{count} bounds are broken"),
    }
}

/// Thousands of clients need a descriptor each.
fn raise_descriptor_limit() -> Result<()> {
    let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE)?;
    setrlimit(Resource::RLIMIT_NOFILE, hard, hard)?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn campaigns_are_chosen_by_name_or_all() {
        let names = |names: &[&str]| {
            let names: Vec<String> = names.iter().map(|it| (*it).to_owned()).collect();
            select(&names).map(|found| found.iter().map(|it| it.name).collect::<Vec<_>>())
        };
        assert_eq!(names(&[]).unwrap(), [""; 0]);
        assert_eq!(names(&["segments"]).unwrap(), ["segments"]);
        assert_eq!(names(&["all"]).unwrap().len(), campaigns::ALL.len());
        assert!(names(&["nonsense"]).is_err());
    }

    #[test]
    fn names_are_unique() {
        let names: BTreeSet<&str> = campaigns::ALL.iter().map(|it| it.name).collect();
        assert_eq!(names.len(), campaigns::ALL.len());
    }
}

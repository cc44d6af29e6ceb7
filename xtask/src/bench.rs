//! Measures the server beside its peers: CPU time for a unit of work, side by side in one run.
//!
//! [`cell`] says what is measured, [`contestant`] who is, [`measure`] how one figure is had,
//! [`result`] what becomes of the figures, [`record`] how they get into BENCHMARKS.md.

mod cell;
mod contestant;
mod measure;
mod record;
mod result;

use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use clap::ValueEnum;
use nix::sys::resource::{Resource, getrlimit, setrlimit};

use self::cell::Scale;
use self::contestant::{Contestant, Programs};
use self::result::{Results, Sample};
use crate::{process, workspace};

const BUILD_LIMIT: Duration = Duration::from_secs(3600);

#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    /// Measure this group only; may be repeated
    #[arg(long, value_enum, value_name = "GROUP")]
    group: Vec<Group>,

    /// Rounds: in each, every contestant runs once, in another order than before; memory, and echoes
    /// with more than a GiB in flight, have one [default: 3, with --quick 1]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=99))]
    rounds: Option<u32>,

    /// Short runs and fewer connections: some 4 minutes instead of 25, and less to be trusted
    #[arg(long)]
    quick: bool,

    /// A uWebSockets server that keeps the contract of ws-cli/examples/peers, without TLS
    #[arg(long, value_name = "FILE")]
    uws: Option<PathBuf>,

    /// The same with TLS
    #[arg(long, value_name = "FILE")]
    uws_tls: Option<PathBuf>,

    /// Measure what was built before
    #[arg(long)]
    no_build: bool,

    /// Write the result into BENCHMARKS.md
    #[arg(long)]
    write: bool,
}

/// What belongs together in one table.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Group {
    Echo,
    Tls,
    Idle,
    Handshakes,
    Broadcast,
    /// The cost of a message where ever more connections are open.
    Flat,
}

impl Group {
    const ALL: [Self; 6] = [
        Self::Echo,
        Self::Tls,
        Self::Idle,
        Self::Handshakes,
        Self::Broadcast,
        Self::Flat,
    ];
}

pub(crate) fn run(arguments: &Arguments) -> Result<()> {
    let scale = if arguments.quick {
        Scale::Quick
    } else {
        Scale::Whole
    };
    let rounds = arguments.rounds.unwrap_or_else(|| scale.rounds());
    let groups = if arguments.group.is_empty() {
        Group::ALL.to_vec()
    } else {
        arguments.group.clone()
    };
    if !arguments.no_build {
        build()?;
    }
    let programs = Programs::find(arguments.uws.as_deref(), arguments.uws_tls.as_deref())?;
    raise_descriptor_limit();
    let start = Instant::now();
    let mut tables = Vec::new();
    for group in groups {
        for note in programs.notes(group) {
            println!("{note}");
        }
        let results = measure_group(group, scale, rounds, &programs);
        let table = results.table();
        println!("\n{table}");
        tables.push(table);
    }
    println!("{:.0} s", start.elapsed().as_secs_f64());
    if arguments.write {
        let facts = record::facts(rounds, arguments.quick, &programs)?;
        record::write(&facts, &tables)?;
    }
    Ok(())
}

fn measure_group(group: Group, scale: Scale, rounds: u32, programs: &Programs) -> Results {
    let mut results = Results::new(group);
    let cells = cell::of(group, scale);
    // What is compared with each other is measured in one round.
    let compared = cell::compared(group);
    for (at, cells_at_once) in cells.chunks(compared).enumerate() {
        let contestants = programs.contestants(&cells_at_once[0]);
        let rounds = cells_at_once[0].rounds(rounds);
        for round in 0..rounds {
            for contestant in order(&contestants, round) {
                for cell in cells_at_once {
                    let sample = measure::measure(cell, *contestant, programs, scale);
                    println!(
                        "{} {}/{} round {}/{rounds}  {cell}  {contestant}: {}",
                        group
                            .to_possible_value()
                            .map_or_else(String::new, |it| it.get_name().into()),
                        at + 1,
                        cells.len() / compared,
                        round + 1,
                        told(&sample),
                    );
                    results.add(*cell, *contestant, round, sample);
                }
            }
        }
    }
    results
}

fn told(sample: &Result<Sample>) -> String {
    match sample {
        Ok(sample) => sample.to_string(),
        Err(error) => format!("failed: {error:#}"),
    }
}

/// The contestants of a round: each round begins with another, so that none always follows the same.
fn order(contestants: &[Contestant], round: u32) -> impl Iterator<Item = &Contestant> {
    let count = contestants.len();
    let first = if count == 0 {
        0
    } else {
        round as usize % count
    };
    contestants.iter().cycle().skip(first).take(count)
}

/// Builds what is measured. The peers are built apart: what only they and tests ask of a dependency
/// must not get into the server.
fn build() -> Result<()> {
    println!("building ws and its peers, with optimizations");
    let examples = Contestant::EXAMPLES
        .iter()
        .flat_map(|name| ["--example", name]);
    for targets in [vec!["--bin", "ws"], examples.collect()] {
        let mut command = workspace::cargo();
        command.args([
            "build",
            "--quiet",
            "--release",
            "--locked",
            "--package",
            "ws-cli",
        ]);
        let status = process::run(command.args(targets), BUILD_LIMIT)?;
        ensure!(status.success(), "cargo build --release: {status}");
    }
    Ok(())
}

/// The servers inherit it; each connection needs a descriptor.
fn raise_descriptor_limit() {
    if let Ok((soft, hard)) = getrlimit(Resource::RLIMIT_NOFILE)
        && soft < hard
    {
        // Where it cannot be had, the figure that needs it fails and says so.
        let _ = setrlimit(Resource::RLIMIT_NOFILE, hard, hard);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_round_has_everybody_once_and_begins_with_another() {
        let all = [Contestant::Ours, Contestant::Tcp, Contestant::Tungstenite];
        let orders: Vec<Vec<Contestant>> = (0..4)
            .map(|round| order(&all, round).copied().collect())
            .collect();
        assert_eq!(orders[0], all);
        assert_eq!(orders[1], [all[1], all[2], all[0]]);
        assert_eq!(orders[2], [all[2], all[0], all[1]]);
        assert_eq!(orders[3], orders[0]);
        assert_eq!(order(&[], 5).count(), 0);
    }
}

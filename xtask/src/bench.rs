//! Measures the server beside its peers, and callbacks beside the least that does the same: CPU time
//! for a unit of work, side by side in one run.
//!
//! [`cell`] says what is measured of the server, [`contestant`] who is, [`measure`] how one figure is
//! had, [`result`] what becomes of the figures; [`callbacks`], [`push`], [`sessions`] and [`carbonphp`] do
//! all that for theirs.
//! [`record`] says how they get into BENCHMARKS.md.

mod callbacks;
mod carbonphp;
mod cell;
mod contestant;
mod crowd;
mod measure;
mod push;
mod record;
mod result;
mod sessions;

use std::net::{Ipv4Addr, TcpListener};
use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use clap::ValueEnum;
use clap::builder::PossibleValue;
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
    group: Vec<Part>,

    /// Rounds: in each, every contestant runs once, in another order than before; memory, and echoes
    /// with more than a GiB in flight, have one [default: 3, with --quick 1; callbacks: 3 to 15; push, sessions, carbonphp: 3]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=99))]
    rounds: Option<u32>,

    /// Short runs and fewer connections: some 5 minutes instead of 30, and less to be trusted
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

    /// Write the result into BENCHMARKS.md; with --group, the tables of other groups stay
    #[arg(long)]
    write: bool,
}

/// What is measured by itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Part {
    /// The server, beside its peers.
    Server(Group),
    /// The price of a callback, beside the least that does the same.
    Callbacks,
    /// The price of a push to one among many.
    Push,
    /// The price of sessions that last.
    Sessions,
    /// What is better than with CarbonPHP's own server.
    CarbonPhp,
}

impl Part {
    const ALL: [Self; 10] = [
        Self::Server(Group::Echo),
        Self::Server(Group::Tls),
        Self::Server(Group::Idle),
        Self::Server(Group::Handshakes),
        Self::Server(Group::Broadcast),
        Self::Server(Group::Flat),
        Self::Callbacks,
        Self::Push,
        Self::Sessions,
        Self::CarbonPhp,
    ];

    /// The others measure more processes than there are cores.
    fn is_of_server(&self) -> bool {
        matches!(self, Self::Server(_))
    }
}

impl ValueEnum for Part {
    fn value_variants<'a>() -> &'a [Self] {
        &Self::ALL
    }

    fn to_possible_value(&self) -> Option<PossibleValue> {
        match self {
            Self::Server(group) => group.to_possible_value(),
            Self::Callbacks => Some(
                PossibleValue::new("callbacks")
                    .help("The price of a callback, beside the least that does the same"),
            ),
            Self::Push => {
                Some(PossibleValue::new("push").help("The price of a push to one user among many"))
            }
            Self::Sessions => Some(
                PossibleValue::new("sessions")
                    .help("The price of sessions that last, beside those in memory"),
            ),
            Self::CarbonPhp => Some(PossibleValue::new("carbonphp").help(
                "Messages and browsers beside CarbonPHP's own server; WS_CARBONPHP_ROOT names a CarbonPHP",
            )),
        }
    }
}

/// What belongs together in one table of the server.
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

pub(crate) fn run(arguments: &Arguments) -> Result<()> {
    let scale = if arguments.quick {
        Scale::Quick
    } else {
        Scale::Whole
    };
    let rounds = arguments.rounds.unwrap_or_else(|| scale.rounds());
    let parts = if arguments.group.is_empty() {
        &Part::ALL
    } else {
        &arguments.group[..]
    };
    if !arguments.no_build {
        build(parts)?;
    }
    let programs = Programs::find(arguments.uws.as_deref(), arguments.uws_tls.as_deref())?;
    raise_descriptor_limit();
    let load = record::load();
    let start = Instant::now();
    let mut tables = Vec::new();
    for part in parts {
        let table = match part {
            Part::Callbacks => callbacks::measure(scale, arguments.rounds),
            Part::Push => push::measure(scale, arguments.rounds),
            Part::Sessions => sessions::measure(scale, arguments.rounds),
            Part::CarbonPhp => carbonphp::measure(scale, arguments.rounds),
            Part::Server(group) => {
                for note in programs.notes(*group) {
                    println!("{note}");
                }
                measure_group(*group, scale, rounds, &programs).table()
            }
        };
        println!("\n{table}");
        tables.push(table);
    }
    println!("{:.0} s", start.elapsed().as_secs_f64());
    if arguments.write {
        let run = record::Run {
            is_quick: arguments.quick,
            rounds: arguments.rounds,
            is_pinned: programs.is_pinned() && parts.iter().any(Part::is_of_server),
            load,
        };
        let facts = record::facts(&run)?;
        if arguments.group.is_empty() {
            record::write(&facts, &tables)?;
        } else {
            record::write_some(&facts, &tables)?;
        }
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
fn order<T>(contestants: &[T], round: u32) -> impl Iterator<Item = &T> {
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
fn build(parts: &[Part]) -> Result<()> {
    println!("building what is measured, with optimizations");
    let mut targets = vec![vec!["--package", "ws-cli", "--bin", "ws"]];
    if parts.iter().any(|part| matches!(part, Part::Server(_))) {
        let examples = Contestant::EXAMPLES.map(|name| ["--example", name]);
        targets.push([&["--package", "ws-cli"], examples.as_flattened()].concat());
    }
    if parts.contains(&Part::Callbacks) {
        targets.push(vec!["--package", "ws-ipc", "--example", "callback_cost"]);
    }
    for targets in targets {
        let mut command = workspace::cargo();
        command.args(["build", "--quiet", "--release", "--locked"]);
        let status = process::run(command.args(targets), BUILD_LIMIT)?;
        ensure!(status.success(), "cargo build --release: {status}");
    }
    if parts.contains(&Part::Callbacks) {
        callbacks::build_static()?;
    }
    Ok(())
}

/// A port that was free a moment ago, for servers that do not tell which one they were given.
fn free_port() -> Result<u16> {
    Ok(TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?
        .local_addr()?
        .port())
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
    fn every_group_can_be_asked_for_by_its_name() {
        let names = Part::ALL.map(|part| part.to_possible_value().unwrap());
        let names = names.map(|value| value.get_name().to_owned());
        assert_eq!(names[6..], ["callbacks", "push", "sessions", "carbonphp"]);
        for (name, part) in names.iter().zip(Part::ALL) {
            assert_eq!(Part::from_str(name, false), Ok(part));
        }
        let groups = Group::value_variants().iter().copied();
        assert!(groups.map(Part::Server).eq(Part::ALL[..6].iter().copied()));
    }

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
        assert_eq!(order::<Contestant>(&[], 5).count(), 0);
    }
}

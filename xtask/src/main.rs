//! The repository's own tasks, run as `cargo xtask VERB`.
//!
//! `ci` is what a submission must pass; the other verbs are its parts that are more than one
//! command. Every verb runs alone. A verb whose tools are missing says which and ends with 77.

#![expect(
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "these verbs talk to a person"
)]

mod bench;
mod book;
mod browser;
mod chaos;
mod ci;
mod clients;
mod conformance;
mod deny;
mod dist;
mod fuzz;
mod install;
mod layers;
mod miri;
mod process;
mod proxies;
mod server;
mod tidy;
mod verdict;
mod workspace;

use std::fmt;
use std::process::ExitCode;

use clap::{Parser, Subcommand};

/// The exit code of a verb that could not run for want of a tool (as automake's tests use it).
const SKIPPED: u8 = 77;

#[derive(Debug, Parser)]
#[command(name = "cargo xtask", about = "The repository's own tasks")]
struct Arguments {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// Runs everything that a submission must pass
    Ci(ci::Arguments),
    /// Checks which crate depends on which
    Layers,
    /// Checks white space, line ends and the length of files
    Tidy,
    /// Checks the links of the documentation, and builds the book where mdbook is
    Book(book::Arguments),
    /// Checks licences, sources, duplicates and advisories of the dependencies with cargo-deny
    Deny,
    /// Runs the fuzz targets of ws-proto, each for a while
    Fuzz(fuzz::Arguments),
    /// Runs tests of ws-proto in Miri, where a nightly toolchain has it
    Miri,
    /// Runs Autobahn's cases against the server or our client, compares with the verdicts on file
    Conformance(conformance::Arguments),
    /// Lets real clients talk to the server: Python websockets, Node ws, curl
    Clients(clients::Arguments),
    /// Puts nginx, HAProxy and Apache in front of the server
    Proxies(proxies::Arguments),
    /// Measures the server beside its peers: CPU time for a unit of work, memory, latency
    Bench(bench::Arguments),
    /// Builds the Debian package, and looks whether it is one
    Dist(dist::Arguments),
    /// Drives the console and the operator's page in Chromium, and the browser library there and in node
    Browser(browser::Arguments),
    /// Makes system calls, networks and clients fail, and measures what others notice of it
    Chaos(chaos::Arguments),
}

/// The reason why a verb did not run: something that is not part of this repository is missing.
#[derive(Debug)]
struct Skipped(String);

impl fmt::Display for Skipped {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} (cargo xtask ci --install gets it)", self.0)
    }
}

impl std::error::Error for Skipped {}

/// As [`Skipped`], for want of what `--install` does not get either.
#[derive(Debug)]
struct NotHere(String);

impl fmt::Display for NotHere {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for NotHere {}

fn main() -> ExitCode {
    let result = match Arguments::parse().verb {
        Verb::Ci(arguments) => ci::run(&arguments),
        Verb::Layers => layers::run(),
        Verb::Tidy => tidy::run(),
        Verb::Book(arguments) => book::run(&arguments),
        Verb::Deny => deny::run(),
        Verb::Fuzz(arguments) => fuzz::run(&arguments),
        Verb::Miri => miri::run(),
        Verb::Conformance(arguments) => conformance::run(&arguments),
        Verb::Clients(arguments) => clients::run(&arguments),
        Verb::Proxies(arguments) => proxies::run(&arguments),
        Verb::Bench(arguments) => bench::run(&arguments),
        Verb::Dist(arguments) => dist::run(&arguments),
        Verb::Browser(arguments) => browser::run(&arguments),
        Verb::Chaos(arguments) => chaos::run(&arguments),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) if error.is::<Skipped>() || error.is::<NotHere>() => {
            println!("skipped: {error}");
            ExitCode::from(SKIPPED)
        }
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

//! The `ws` command: serves, pushes, lists, connects, measures.
//!
//! `main` decides what is run, [`args`] what can be said on the command line, [`config`] where
//! settings come from; each verb is a module of [`verb`]. Exit codes are those of [`failure`].

mod args;
mod carbonphp;
mod config;
mod control;
mod failure;
mod figures;
mod human;
mod logging;
mod output;
mod paint;
mod supervision;
mod verb;

use std::env;
use std::io::{self, Write};
use std::process::ExitCode;

use clap::Parser;
use clap::error::ErrorKind;

use crate::args::{Args, Verb};
use crate::failure::Failure;

fn main() -> ExitCode {
    // The server starts its helper processes as this program. They fork, or must be cheap to spawn
    // from: nothing may run before them that starts a thread, a runtime or the argument parser.
    if let Some(name) = helper_name() {
        return match ws_server::helper_main(&name) {
            Ok(()) => ExitCode::SUCCESS,
            Err(error) => Failure::from(anyhow::Error::new(error).context(name)).report(),
        };
    }
    let given = || env::args_os();
    let args = match Args::try_parse_from(args::with_long_flags(given())) {
        Ok(args) => args,
        Err(error) => {
            // Nobody is left to tell if the message cannot be written.
            let _ = error.print();
            if error.kind() == ErrorKind::DisplayHelp && given().any(|arg| arg == "-help") {
                let note = "ws: -help is a flag of CarbonPHP's server: write --help instead";
                let _ = writeln!(io::stderr(), "{note}");
            }
            return u8::try_from(error.exit_code()).map_or(ExitCode::FAILURE, ExitCode::from);
        }
    };
    match run(args).and_then(|()| io::stdout().flush().map_err(Failure::from)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => failure.report(),
    }
}

fn run(args: Args) -> Result<(), Failure> {
    match args.verb.unwrap_or_default() {
        Verb::Serve(args) => verb::serve::run(&args),
        Verb::Send(args) => verb::send::run(&args),
        Verb::Run(args) => verb::run::run(&args),
        Verb::Kick(args) => verb::kick::run(&args),
        Verb::Sessions(args) => verb::sessions::run(&args.verb),
        Verb::Ls(args) => verb::ls::run(&args),
        Verb::Events(args) => verb::events::run(&args),
        Verb::Top(args) => verb::top::run(&args),
        Verb::Status(args) => verb::status::run(&args),
        Verb::Connect(args) => verb::connect::run(&args),
        Verb::Doctor(args) => verb::doctor::run(&args),
        Verb::Cert(args) => verb::cert::run(&args),
        Verb::CarbonPhp(args) => verb::carbonphp::run(&args),
        Verb::Shim(args) => verb::shim::run(&args),
        Verb::Bench(args) => verb::bench::run(*args),
        Verb::Config(args) => verb::config::run(&args),
        Verb::Completions(args) => verb::completions::run(&args),
        Verb::Man(args) => verb::man::run(&args),
    }
}

/// Returns the first argument if it names a helper process.
fn helper_name() -> Option<String> {
    let name = env::args_os().nth(1)?.into_string().ok()?;
    ws_server::HELPERS.contains(&name.as_str()).then_some(name)
}

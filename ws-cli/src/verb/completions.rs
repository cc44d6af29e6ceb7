//! `ws completions`: prints what a shell completes command lines with.

use clap::CommandFactory;
use serde_json::json;

use crate::args::{Args, CompletionsArgs};
use crate::failure::Failure;
use crate::output;

pub(crate) fn run(args: &CompletionsArgs) -> Result<(), Failure> {
    let mut script = Vec::new();
    clap_complete::generate(args.shell, &mut Args::command(), "ws", &mut script);
    let script = String::from_utf8(script).map_err(anyhow::Error::from)?;
    match args.json {
        true => output::json(&json!({ "shell": args.shell.to_string(), "script": script })),
        false => output::text(&script),
    }
}

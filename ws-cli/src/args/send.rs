//! The arguments of `ws send`.

use std::ffi::OsString;
use std::time::Duration;

use clap::ArgGroup;

use super::client::Client;
use super::duration::wait;
use super::target::Targets;

/// Pushes a message to connections
///
/// Prints how many connections it reached. Exits with 75 if there were none. With --lines it sends
/// each line of stdin as it comes, and prints at the end how many deliveries that were.
#[derive(Debug, clap::Args)]
#[command(
    before_help = "Example: ws send --all 'hello, everybody'",
    group = ArgGroup::new("to").required(true),
    group = ArgGroup::new("except")
)]
pub(crate) struct SendArgs {
    /// To every connection
    #[arg(long, group = "to")]
    pub(crate) all: bool,

    #[command(flatten)]
    pub(crate) to: Targets,

    /// Send the bytes as a binary message
    #[arg(long)]
    pub(crate) binary: bool,

    /// Send each line of stdin as a message, as it comes
    #[arg(long, conflicts_with_all = ["text", "key"])]
    pub(crate) lines: bool,

    /// Wait until all of it has left or is lost, at most so long
    #[arg(long, value_name = "DURATION", num_args = 0..=1, require_equals = true,
          default_missing_value = "30s", value_parser = wait)]
    pub(crate) wait: Option<Duration>,

    /// Send it once, however often this command is run with the same key within 5 minutes
    #[arg(long, value_name = "KEY")]
    pub(crate) key: Option<String>,

    #[command(flatten)]
    pub(crate) client: Client,

    /// The message; "-", or nothing, reads it from stdin, whole
    #[arg(value_name = "TEXT", allow_hyphen_values = false)]
    pub(crate) text: Option<OsString>,
}

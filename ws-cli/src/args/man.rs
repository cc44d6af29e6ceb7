//! The arguments of `ws man`.

use std::path::PathBuf;

/// Prints a manual page, or writes all of them
///
/// Without a verb it is that of ws itself. To read one: ws man send | man -l -
#[derive(Debug, clap::Args)]
#[command(before_help = "Example: ws man --out man1")]
pub(crate) struct ManArgs {
    /// Write all pages into this directory, made if it is not there
    #[arg(long, value_name = "DIR", conflicts_with_all = ["verb", "json"])]
    pub(crate) out: Option<PathBuf>,

    /// Print one JSON object
    #[arg(long)]
    pub(crate) json: bool,

    /// The verb: send, or sessions revoke
    #[arg(value_name = "VERB")]
    pub(crate) verb: Vec<String>,
}

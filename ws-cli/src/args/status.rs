//! The arguments of `ws status`.

use super::client::Client;

/// Shows how the server does, and what is not well
///
/// Counts are those since its start. What never happened is left out. What is wrong stands at the top,
/// in words.
#[derive(Debug, clap::Args)]
#[command(before_help = "Example: ws status")]
pub(crate) struct StatusArgs {
    /// Print every counter under its name, one a line
    #[arg(long)]
    pub(crate) all: bool,

    #[command(flatten)]
    pub(crate) client: Client,
}

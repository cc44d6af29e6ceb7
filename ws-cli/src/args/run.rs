//! The arguments of `ws run`.

use clap::ArgGroup;

use super::client::Client;
use super::target::Targets;

/// Runs the application as a user; the output goes to the connection
///
/// Once for each connection of the target. Prints how many there are. Exits with 75 if there are none.
#[derive(Debug, clap::Args)]
#[command(
    before_help = "Example: ws run --user alice /time",
    group = ArgGroup::new("to").required(true),
    group = ArgGroup::new("except")
)]
pub(crate) struct RunArgs {
    #[command(flatten)]
    pub(crate) to: Targets,

    #[command(flatten)]
    pub(crate) client: Client,

    /// The path that the application is asked for, with its query
    #[arg(value_name = "URI")]
    pub(crate) uri: String,
}

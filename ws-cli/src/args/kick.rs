//! The arguments of `ws kick`.

use clap::ArgGroup;

use super::client::Client;
use super::target::Target;

/// Closes connections, and ends a session
///
/// Prints how many connections there were. Exits with 75 if there were none.
#[derive(Debug, clap::Args)]
#[command(
    before_help = "Example: ws kick --user alice",
    group = ArgGroup::new("to").required(true)
)]
pub(crate) struct KickArgs {
    #[command(flatten)]
    pub(crate) to: Target,

    /// The close code: 1000 to 1003, 1007 to 1014 or 3000 to 4999
    #[arg(long, default_value_t = 1008)]
    pub(crate) code: u16,

    /// The reason that the client is told, at most 123 bytes
    #[arg(long, value_name = "TEXT", default_value = "")]
    pub(crate) reason: String,

    #[command(flatten)]
    pub(crate) client: Client,
}

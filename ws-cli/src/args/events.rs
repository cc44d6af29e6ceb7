//! The arguments of `ws events`.

use super::client::Client;

/// Tells who comes and goes, as it happens
///
/// One line for each event: open and close of a connection, online and offline of a user, who is that
/// from the first connection to the end of the last; with user, connections, connection, and at a
/// close code and cause. lagged says how many changes were missed because nobody read. Ends when the
/// server does.
#[derive(Debug, clap::Args)]
#[command(before_help = "Example: ws events --only online,offline")]
pub(crate) struct EventsArgs {
    /// Only those of this user
    #[arg(long, value_name = "ID")]
    pub(crate) user: Option<String>,

    /// Only these: open, close, online, offline, with commas between
    #[arg(long, value_name = "NAMES", value_delimiter = ',')]
    pub(crate) only: Vec<String>,

    #[command(flatten)]
    pub(crate) client: Client,
}

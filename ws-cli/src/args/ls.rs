//! The arguments of `ws ls`.

use super::client::Client;

/// Lists the connections, or the users
#[derive(Debug, clap::Args)]
#[command(before_help = "Example: ws ls --users")]
pub(crate) struct ListArgs {
    /// List users: how many connections and sessions each has, and since when
    #[arg(long, conflicts_with_all = ["user", "session"])]
    pub(crate) users: bool,

    /// Only the connections of this user
    #[arg(long, value_name = "ID")]
    pub(crate) user: Option<String>,

    /// Only the connections of this session
    #[arg(long, value_name = "ID")]
    pub(crate) session: Option<String>,

    #[command(flatten)]
    pub(crate) client: Client,
}

//! The arguments of `ws sessions`.

use clap::{ArgGroup, Subcommand};

use super::client::Client;

/// Lists and revokes the sessions that are known
#[derive(Debug, clap::Args)]
#[command(before_help = "Example: ws sessions ls")]
pub(crate) struct SessionsArgs {
    #[command(subcommand)]
    pub(crate) verb: SessionsVerb,
}

#[derive(Debug, Subcommand)]
pub(crate) enum SessionsVerb {
    Ls(SessionsListArgs),
    Revoke(RevokeArgs),
}

/// Lists sessions, connected or not
#[derive(Debug, clap::Args)]
#[command(before_help = "Example: ws sessions ls --user alice")]
pub(crate) struct SessionsListArgs {
    /// Only those of this user
    #[arg(long, value_name = "ID")]
    pub(crate) user: Option<String>,

    #[command(flatten)]
    pub(crate) client: Client,
}

/// Ends sessions for good: their connections are closed, their cookies are worth nothing
///
/// Prints how many sessions there were. Exits with 75 if there were none.
#[derive(Debug, clap::Args)]
#[command(
    before_help = "Example: ws sessions revoke --user alice",
    group = ArgGroup::new("whose").required(true)
)]
pub(crate) struct RevokeArgs {
    /// The sessions
    #[arg(value_name = "SESSION", group = "whose")]
    pub(crate) sessions: Vec<String>,

    /// All sessions of this user
    #[arg(long, value_name = "ID", group = "whose")]
    pub(crate) user: Option<String>,

    /// The close code: 1000 to 1003, 1007 to 1014 or 3000 to 4999; without it identity.close_code
    #[arg(long)]
    pub(crate) code: Option<u16>,

    /// The reason that the client is told, at most 123 bytes; without it identity.close_reason
    #[arg(long, value_name = "TEXT")]
    pub(crate) reason: Option<String>,

    #[command(flatten)]
    pub(crate) client: Client,
}

//! The arguments of `ws top`.

use std::time::Duration;

use super::client::Client;
use super::duration::interval;

/// Shows live what goes on, and who talks most
///
/// Keys: arrows select, x closes the connection that is selected (after a question), / filters, u shows
/// users instead of connections, i o b t w a sort by messages in, out, bytes per second, total, what
/// waits and age, r reverses, q quits. At most 10,000 connections are looked at; where that takes long,
/// less often, so that the server is busy with it for at most a fifth of the time.
#[derive(Debug, clap::Args)]
#[command(before_help = "Example: ws top --once")]
pub(crate) struct TopArgs {
    /// Look so often
    #[arg(long, value_name = "DURATION", default_value = "1s", value_parser = interval)]
    pub(crate) interval: Duration,

    /// Sort by this
    #[arg(long, value_name = "KEY", value_enum, default_value_t)]
    pub(crate) sort: SortKey,

    /// Show only those whose user, id, address or URI contains this
    #[arg(long, value_name = "TEXT", default_value = "")]
    pub(crate) filter: String,

    /// Print one page, of one interval, and end; with --json one line. --json alone prints a line each
    /// interval
    #[arg(long)]
    pub(crate) once: bool,

    #[command(flatten)]
    pub(crate) client: Client,
}

/// What `ws top` sorts by.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum SortKey {
    /// Messages per second from the client
    In,
    /// Messages per second to the client
    Out,
    /// Bytes per second, both ways
    #[default]
    Bytes,
    /// Messages since the connection was opened
    Total,
    /// Bytes that wait for the client to read
    Waiting,
    /// The oldest first
    Age,
}

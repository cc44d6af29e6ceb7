//! The arguments of `ws connect`.

use std::path::PathBuf;
use std::time::Duration;

use super::duration::{interval, wait};

/// Connects as a client: a line is a message
///
/// On a terminal: lines are edited, with history; what comes is shown above the line that is typed,
/// JSON laid out and binary messages as a hex dump. /ping, /close and /help are commands, //ping
/// sends /ping, everything else is sent as it is. Ctrl-D closes.
///
/// In a script: each line of stdin is a message, each message a line of stdout, binary ones in
/// hexadecimal. At the end of stdin it waits until as many messages have come as were sent, at most
/// --wait seconds, and closes.
///
/// Exit codes: 0 if all went well, 1 if the connection was refused or did not end well, 69 if nobody
/// answers, 75 if the server is busy (429, 503) or with --once nothing came, 77 if it lets nobody like
/// this in (401, 403).
#[derive(Debug, clap::Args)]
#[command(before_help = "Example: ws connect ws://127.0.0.1:8888/")]
pub(crate) struct ConnectArgs {
    /// Send this header with the opening handshake; may be repeated
    #[arg(long, short = 'H', value_name = "NAME: VALUE")]
    pub(crate) header: Vec<String>,

    /// Send this cookie; may be repeated
    #[arg(long, value_name = "NAME=VALUE")]
    pub(crate) cookie: Vec<String>,

    /// Come from this page, as a browser would: `https://example.org`
    #[arg(long, value_name = "ORIGIN")]
    pub(crate) origin: Option<String>,

    /// Offer this subprotocol; may be repeated, the first is preferred
    #[arg(long, short = 's', value_name = "NAME")]
    pub(crate) subprotocol: Vec<String>,

    /// Wait so long for answers when stdin has ended, in seconds
    #[arg(long, value_name = "SECONDS", default_value_t = 5)]
    pub(crate) wait: u64,

    /// Give up if the connection is not open after so long
    #[arg(long, value_name = "DURATION", default_value = "10s", value_parser = wait)]
    pub(crate) timeout: Duration,

    /// End after the first message that comes
    #[arg(long)]
    pub(crate) once: bool,

    /// Send a ping this often, and tell how long its pong took
    #[arg(long, value_name = "DURATION", value_parser = interval)]
    pub(crate) ping_interval: Option<Duration>,

    /// Accept any certificate (wss://): for development
    #[arg(long, conflicts_with = "ca")]
    pub(crate) insecure: bool,

    /// Trust the certificates in this PEM file instead of the system's
    #[arg(long, value_name = "FILE")]
    pub(crate) ca: Option<PathBuf>,

    /// Show the handshake on stderr: address, TLS, status and headers
    #[arg(long, short)]
    pub(crate) verbose: bool,

    /// On a terminal, show messages as they are: JSON in one line, no hex dump, no commands
    #[arg(long)]
    pub(crate) raw: bool,

    /// Print one JSON object per message
    #[arg(long)]
    pub(crate) json: bool,

    /// Where to connect: ws://HOST:PORT/PATH, wss://HOST/PATH or ws+unix:/path
    #[arg(value_name = "URL")]
    pub(crate) url: String,
}

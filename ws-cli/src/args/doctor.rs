//! The arguments of `ws doctor`.

use std::path::PathBuf;
use std::time::Duration;

use super::duration::silence;
use super::serve::ServeArgs;
use crate::verb::doctor::Proxy;

/// Finds out why clients do not connect
///
/// Looks at the configuration, the host and the running server, and makes real handshakes: at each
/// listener, and with a URL the public way, through the proxies. Says what is wrong, which hop did
/// it, and the lines of the proxy's configuration that put it right. The application is not asked,
/// unless it validates visitors or hears of connections (app.events).
///
/// Exits with 1 if anything is wrong, 69 if no server is reached, 78 if the configuration is bad.
#[derive(Debug, clap::Args)]
#[command(before_help = "Example: ws doctor ws://127.0.0.1:8888/")]
pub(crate) struct DoctorArgs {
    // Before the command of the flags of `ws serve`, which ends the line.
    /// Where the public connects: wss://HOST/PATH or ws://HOST:PORT/PATH
    #[arg(value_name = "URL")]
    pub(crate) url: Option<String>,

    #[command(flatten)]
    pub(crate) serve: ServeArgs,

    /// Say nothing for so long on the connection through the URL, and tell who cuts it when
    #[arg(long, value_name = "DURATION", value_parser = silence)]
    pub(crate) silence: Option<Duration>,

    /// Send this Origin, as a page of it would [default: the URL's own]
    #[arg(long, value_name = "ORIGIN")]
    pub(crate) origin: Option<String>,

    /// Send this header with each opening handshake, a cookie say; may be repeated
    #[arg(long, value_name = "NAME: VALUE")]
    pub(crate) header: Vec<String>,

    /// Show the lines for this proxy [default: the one whose name is in its answers]
    #[arg(long, value_name = "NAME")]
    pub(crate) proxy: Option<Proxy>,

    /// Take a certificate that cannot be trusted for a warning
    #[arg(long, conflicts_with = "ca")]
    pub(crate) insecure: bool,

    /// Trust the certificates in this PEM file instead of the system's
    #[arg(long, value_name = "FILE")]
    pub(crate) ca: Option<PathBuf>,

    /// Print one JSON object
    #[arg(long)]
    pub(crate) json: bool,
}

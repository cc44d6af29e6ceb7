//! Arguments of most verbs: where the server and its configuration are.

use std::path::PathBuf;

/// How the running server is found, and how its answer is printed.
#[derive(Debug, clap::Args)]
pub(crate) struct Client {
    /// Control socket of the server, or http://HOST:PORT [default: $WS_CONTROL_SOCKET, then
    /// control.sock in the configured state directory, in ./tmp and in /run/ws]
    #[arg(long, value_name = "ADDR")]
    pub(crate) control: Option<PathBuf>,

    /// Show the first token in this file to a server at http:// [default: $WS_CONTROL_TOKEN]
    #[arg(long, value_name = "FILE")]
    pub(crate) token_file: Option<PathBuf>,

    #[command(flatten)]
    pub(crate) config: ConfigFile,

    /// Print JSON
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Clone, Debug, Default, clap::Args)]
pub(crate) struct ConfigFile {
    /// Read this configuration file
    #[arg(long, value_name = "FILE")]
    pub(crate) config: Option<PathBuf>,
}

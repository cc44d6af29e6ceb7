//! The arguments of `ws serve`.

use super::client::ConfigFile;
use super::legacy::LegacyFlags;

/// Runs the server
///
/// Prints one URL per listener on stdout when all is ready; everything else goes to stderr. With
/// neither configuration nor command it runs the built-in demo application.
///
/// The configuration file is the first of --config, $WS_CONFIG, ./ws.toml,
/// $XDG_CONFIG_HOME/ws/ws.toml and /etc/ws/ws.toml. Above it stand environment variables
/// (WS__SERVER__LISTEN for server.listen), above these the flags.
#[derive(Clone, Debug, Default, clap::Args)]
#[command(before_help = "Example: ws serve --listen 127.0.0.1:0 -- tr a-z A-Z")]
pub(crate) struct ServeArgs {
    #[command(flatten)]
    pub(crate) config: ConfigFile,

    /// Listen here: HOST:PORT (port 0: any free one), wss://HOST:PORT or unix:/path; may be repeated
    #[arg(long, value_name = "ADDR")]
    pub(crate) listen: Vec<String>,

    /// Make a certificate for localhost, for listeners with TLS (wss://): for development
    #[arg(long)]
    pub(crate) tls_self_signed: bool,

    /// Keep run-time state (control.sock, fifo/) in this directory
    #[arg(long, value_name = "DIR")]
    pub(crate) state_dir: Option<String>,

    /// Serve the CarbonPHP application whose index.php this is, as php index.php websocket did
    #[arg(long, value_name = "INDEX", conflicts_with_all = ["command", "echo", "fork", "worker", "stream"])]
    pub(crate) carbonphp: Option<String>,

    /// Let this command decide who a client is; split like shell words, no shell runs
    #[arg(long, value_name = "CMD")]
    pub(crate) validate: Option<String>,

    /// Develop: the page at / is on, logs are detailed, only this host is served
    #[arg(long)]
    pub(crate) dev: bool,

    /// Answer each message with itself
    #[arg(long, conflicts_with = "command")]
    pub(crate) echo: bool,

    /// The command is a fork server: it loads the application once, then forks for each message
    #[arg(long, requires = "command")]
    pub(crate) fork: bool,

    /// The command is a worker: several of them run, each answers one message after another
    #[arg(long, requires = "command", conflicts_with = "fork")]
    pub(crate) worker: bool,

    /// The command runs once for each connection: lines in, lines out, as under websocketd
    #[arg(long, requires = "command", conflicts_with_all = ["fork", "worker"])]
    pub(crate) stream: bool,

    /// With --fork, --worker or --carbonphp: load the application anew when a file beside it changes
    #[arg(long)]
    pub(crate) watch: bool,

    #[command(flatten)]
    pub(crate) legacy: LegacyFlags,

    /// Answer each message with the output of this command; a single string is split like shell
    /// words, no shell runs
    #[arg(last = true, value_name = "CMD")]
    pub(crate) command: Vec<String>,
}

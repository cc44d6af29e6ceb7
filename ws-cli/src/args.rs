//! The command line. Every help text begins with an example that works as printed.

use std::ffi::OsString;
use std::path::PathBuf;
use std::time::Duration;

use clap::{ArgGroup, Parser, Subcommand};

use crate::verb::bench::BenchArgs;
use crate::verb::doctor::Proxy;

/// A WebSocket application server: any program answers the messages, any program on the host may push.
#[derive(Debug, Parser)]
#[command(
    name = "ws",
    version,
    before_help = "Example: ws serve -- tr a-z A-Z",
    after_help = "Without a command, ws serves the demo application: open the URL that it prints.\n\n\
                  Exit codes: 0 ok, 1 failure at run time, 2 wrong command line, 69 server not reachable,\n\
                  73 cannot create a socket or FIFO (also: port taken), 75 try later (nobody was reached),\n\
                  77 not permitted, 78 bad configuration.",
    disable_help_subcommand = true
)]
pub(crate) struct Args {
    #[command(subcommand)]
    pub(crate) verb: Option<Verb>,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Verb {
    Serve(ServeArgs),
    Send(SendArgs),
    Run(RunArgs),
    Ls(ListArgs),
    Events(EventsArgs),
    Kick(KickArgs),
    Sessions(SessionsArgs),
    Top(TopArgs),
    Status(StatusArgs),
    Connect(ConnectArgs),
    Doctor(Box<DoctorArgs>),
    Cert(CertArgs),
    Shim(ShimArgs),
    #[command(name = "carbonphp")]
    CarbonPhp(CarbonPhpArgs),
    Bench(Box<BenchArgs>),
    Config(ConfigArgs),
    Completions(CompletionsArgs),
    Man(ManArgs),
}

impl Default for Verb {
    fn default() -> Self {
        Self::Serve(ServeArgs::default())
    }
}

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

/// Flags of CarbonPHP's server, which stand in unit files. They work, and the log says what to write.
#[derive(Clone, Debug, Default, clap::Args)]
pub(crate) struct LegacyFlags {
    #[arg(long = "autoAssignAnyOpenPort", hide = true)]
    pub(crate) any_open_port: bool,

    #[arg(long = "autoAssignOpenPorts", hide = true, num_args = 0..=1,
          default_missing_value = "true", value_name = "true|false")]
    pub(crate) open_ports: Option<bool>,

    #[arg(long = "dontVerifyIP", hide = true)]
    pub(crate) dont_verify_ip: bool,
}

/// Gives flags of CarbonPHP's server that have one dash the two of all others. What stands behind
/// two dashes is a command's own.
pub(crate) fn with_long_flags(args: impl IntoIterator<Item = OsString>) -> Vec<OsString> {
    let mut is_ours = true;
    let args = args.into_iter().map(|arg| {
        is_ours &= arg != "--";
        match arg.to_str() {
            Some("-dontVerifyIP") if is_ours => "--dontVerifyIP".into(),
            Some("-help") if is_ours => "--help".into(),
            _ => arg,
        }
    });
    args.collect()
}

/// Pushes a message to connections
///
/// Prints how many connections it reached. Exits with 75 if there were none. With --lines it sends
/// each line of stdin as it comes, and prints at the end how many deliveries that were.
#[derive(Debug, clap::Args)]
#[command(
    before_help = "Example: ws send --all 'hello, everybody'",
    group = ArgGroup::new("to").required(true),
    group = ArgGroup::new("except")
)]
pub(crate) struct SendArgs {
    /// To every connection
    #[arg(long, group = "to")]
    pub(crate) all: bool,

    #[command(flatten)]
    pub(crate) to: Targets,

    /// Send the bytes as a binary message
    #[arg(long)]
    pub(crate) binary: bool,

    /// Send each line of stdin as a message, as it comes
    #[arg(long, conflicts_with_all = ["text", "key"])]
    pub(crate) lines: bool,

    /// Wait until all of it has left or is lost, at most so long
    #[arg(long, value_name = "DURATION", num_args = 0..=1, require_equals = true,
          default_missing_value = "30s", value_parser = wait)]
    pub(crate) wait: Option<Duration>,

    /// Send it once, however often this command is run with the same key within 5 minutes
    #[arg(long, value_name = "KEY")]
    pub(crate) key: Option<String>,

    #[command(flatten)]
    pub(crate) client: Client,

    /// The message; "-", or nothing, reads it from stdin, whole
    #[arg(value_name = "TEXT", allow_hyphen_values = false)]
    pub(crate) text: Option<OsString>,
}

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

/// Shows how the server does, and what is not well
///
/// Counts are those since its start. What never happened is left out. What is wrong stands at the top,
/// in words.
#[derive(Debug, clap::Args)]
#[command(before_help = "Example: ws status")]
pub(crate) struct StatusArgs {
    /// Print every counter under its name, one a line
    #[arg(long)]
    pub(crate) all: bool,

    #[command(flatten)]
    pub(crate) client: Client,
}

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

    /// Where to connect: ws://HOST:PORT/PATH or wss://HOST/PATH
    #[arg(value_name = "URL")]
    pub(crate) url: String,
}

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

/// Prints a program that makes a script a fork server or a worker
///
/// Without a name it lists them: one for each language, a single file to keep beside the application.
/// Then: ws serve --fork -- php fork.php app.php
#[derive(Debug, clap::Args)]
#[command(before_help = "Example: ws shim fork.py")]
pub(crate) struct ShimArgs {
    /// Print one JSON object
    #[arg(long)]
    pub(crate) json: bool,

    /// The name of its file
    #[arg(value_name = "NAME")]
    pub(crate) name: Option<String>,
}

/// Shows what belongs to an application of CarbonPHP's
///
/// It is served by ws serve --carbonphp index.php, or by carbonphp.index in the configuration.
#[derive(Debug, clap::Args)]
#[command(before_help = "Example: ws carbonphp check index.php")]
pub(crate) struct CarbonPhpArgs {
    #[command(subcommand)]
    pub(crate) verb: CarbonPhpVerb,
}

#[derive(Debug, Subcommand)]
pub(crate) enum CarbonPhpVerb {
    Check(CarbonPhpCheckArgs),
    /// Prints the bridge: the file of PHP that stands in for CarbonPHP's server
    #[command(before_help = "Example: ws carbonphp bridge")]
    Bridge,
}

/// Asks an application what it configures, and prints the settings that become of it
///
/// It is run once, up to its command websocket. What is printed is a configuration file; what is in
/// yours, or in the environment, stands above it and is left out.
#[derive(Debug, clap::Args)]
#[command(before_help = "Example: ws carbonphp check index.php")]
pub(crate) struct CarbonPhpCheckArgs {
    /// Its index.php; without it that of carbonphp.index
    #[arg(value_name = "INDEX")]
    pub(crate) index: Option<String>,

    #[command(flatten)]
    pub(crate) config: ConfigFile,

    /// Print one JSON object: its report, and the settings
    #[arg(long)]
    pub(crate) json: bool,
}

/// Makes a certificate for development
///
/// Writes cert.pem and key.pem, and prints what to put into ws.toml. No client trusts the certificate
/// unless told to. For a public name use one that browsers know, from Let's Encrypt say.
#[derive(Debug, clap::Args)]
#[command(before_help = "Example: ws cert --out tls --name localhost --name 127.0.0.1")]
pub(crate) struct CertArgs {
    /// A name or an address that clients will ask for; may be repeated [default: localhost,
    /// 127.0.0.1 and ::1]
    #[arg(long, value_name = "NAME")]
    pub(crate) name: Vec<String>,

    /// How long it is valid, 1 to 3650
    #[arg(long, value_name = "DAYS", default_value_t = 90, value_parser = clap::value_parser!(u32).range(1..=3650))]
    pub(crate) days: u32,

    /// The directory of the two files, made if it is not there
    #[arg(long, value_name = "DIR", default_value = ".")]
    pub(crate) out: PathBuf,

    /// Replace files that are there already
    #[arg(long)]
    pub(crate) force: bool,

    /// Print JSON
    #[arg(long)]
    pub(crate) json: bool,
}

/// Checks or prints the configuration
#[derive(Debug, clap::Args)]
#[command(before_help = "Example: ws config print --default")]
pub(crate) struct ConfigArgs {
    #[command(subcommand)]
    pub(crate) verb: ConfigVerb,
}

#[derive(Debug, Subcommand)]
pub(crate) enum ConfigVerb {
    Check(CheckArgs),
    Print(PrintArgs),
}

#[derive(Debug, clap::Args)]
#[command(
    about = "Says what is wrong with the configuration; nothing if it is right",
    long_about = "Says what is wrong with the configuration; nothing if it is right\n\n\
                  File, credentials, environment and flags are read as `ws serve` reads them, an application of\n\
                  CarbonPHP's is asked what it configures, and the certificates, keys and tokens that are named\n\
                  are read. Exits with 78 if anything is wrong.",
    before_help = "Example: ws config check"
)]
pub(crate) struct CheckArgs {
    #[command(flatten)]
    pub(crate) serve: ServeArgs,

    /// Print the result as JSON
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Debug, clap::Args)]
#[command(
    about = "Prints the configuration as it holds, and where each setting is from",
    long_about = "Prints the configuration as it holds, and where each setting is from\n\n\
                  With the flags of `ws serve`, what a server that is started with them has. Passwords are\n\
                  left out. With --default, prints a file that explains every setting and states its default.",
    before_help = "Example: ws config print --default"
)]
pub(crate) struct PrintArgs {
    #[command(flatten)]
    pub(crate) serve: ServeArgs,

    /// Print the defaults, with comments, whatever the configuration says
    #[arg(long, conflicts_with_all = ["ServeArgs", "ConfigFile"])]
    pub(crate) default: bool,

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

/// Prints what a shell completes command lines with
///
/// For bash, say: ws completions bash > ~/.local/share/bash-completion/completions/ws
#[derive(Debug, clap::Args)]
#[command(before_help = "Example: ws completions bash")]
pub(crate) struct CompletionsArgs {
    /// The shell
    #[arg(value_name = "SHELL")]
    pub(crate) shell: clap_complete::Shell,

    /// Print one JSON object
    #[arg(long)]
    pub(crate) json: bool,
}

/// Prints a manual page, or writes all of them
///
/// Without a verb it is that of ws itself. To read one: ws man send | man -l -
#[derive(Debug, clap::Args)]
#[command(before_help = "Example: ws man --out man1")]
pub(crate) struct ManArgs {
    /// Write all pages into this directory, made if it is not there
    #[arg(long, value_name = "DIR", conflicts_with_all = ["verb", "json"])]
    pub(crate) out: Option<PathBuf>,

    /// Print one JSON object
    #[arg(long)]
    pub(crate) json: bool,

    /// The verb: send, or sessions revoke
    #[arg(value_name = "VERB")]
    pub(crate) verb: Vec<String>,
}

/// Whom a message is for.
#[derive(Debug, clap::Args)]
pub(crate) struct Target {
    /// To the connections of this user
    #[arg(long, value_name = "ID", group = "to")]
    pub(crate) user: Option<String>,

    /// To the connections of this session
    #[arg(long, value_name = "ID", group = "to")]
    pub(crate) session: Option<String>,

    /// To this connection
    #[arg(long, value_name = "ID", group = "to")]
    pub(crate) connection: Option<String>,
}

/// Whom a message is for: several of one kind, or without any of them everybody.
#[derive(Debug, Default, clap::Args)]
pub(crate) struct Targets {
    /// To the connections of this user; may be repeated
    #[arg(long, value_name = "ID", group = "to")]
    pub(crate) user: Vec<String>,

    /// To the connections of this session; may be repeated
    #[arg(long, value_name = "ID", group = "to")]
    pub(crate) session: Vec<String>,

    /// To this connection; may be repeated
    #[arg(long, value_name = "ID", group = "to")]
    pub(crate) connection: Vec<String>,

    /// But not to the connections of this user
    #[arg(long, value_name = "ID", group = "except")]
    pub(crate) except_user: Option<String>,

    /// But not to the connections of this session
    #[arg(long, value_name = "ID", group = "except")]
    pub(crate) except_session: Option<String>,

    /// But not to this connection
    #[arg(long, value_name = "ID", group = "except")]
    pub(crate) except_connection: Option<String>,
}

impl Targets {
    /// The kind of those that are named, and their ids, at least one.
    pub(crate) fn named(&self) -> Option<(&'static str, &[String])> {
        let kinds = [
            ("user", &self.user[..]),
            ("session", &self.session),
            ("connection", &self.connection),
        ];
        kinds.into_iter().find(|(_, ids)| !ids.is_empty())
    }
}

fn wait(text: &str) -> Result<Duration, String> {
    let wait = ws_server::config::parse_duration(text);
    let wait = wait.filter(|wait| *wait <= Duration::from_secs(600));
    wait.ok_or_else(|| "a duration of at most 10m like 5s or 500ms".to_owned())
}

fn interval(text: &str) -> Result<Duration, String> {
    wait(text).and_then(|interval| match interval.is_zero() {
        true => Err("more than 0s".to_owned()),
        false => Ok(interval),
    })
}

fn silence(text: &str) -> Result<Duration, String> {
    let silence = ws_server::config::parse_duration(text);
    let silence = silence.filter(|silence| *silence <= Duration::from_secs(3600));
    silence.ok_or_else(|| "a duration of at most 1h like 65s or 2m".to_owned())
}

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

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    fn parse(line: &str) -> Result<Args, clap::Error> {
        Args::try_parse_from(shell_words::split(line).unwrap())
    }

    #[test]
    fn definitions_are_consistent() {
        Args::command().debug_assert();
    }

    #[test]
    fn every_help_begins_with_an_example_that_parses() {
        fn visit(command: &mut clap::Command) {
            for help in [command.render_help(), command.render_long_help()] {
                let help = help.to_string();
                let example = help
                    .lines()
                    .next()
                    .and_then(|line| line.strip_prefix("Example: "));
                parse(example.unwrap_or_else(|| panic!("{help}"))).unwrap();
            }
            command.get_subcommands_mut().for_each(visit);
        }
        visit(&mut Args::command());
    }

    #[test]
    fn ws_alone_is_ws_serve() {
        let Verb::Serve(args) = parse("ws").unwrap().verb.unwrap_or_default() else {
            panic!()
        };
        assert!(args.listen.is_empty() && args.command.is_empty() && !args.echo);
    }

    #[test]
    fn what_follows_two_dashes_is_the_command() {
        let line = "ws serve --listen a:1 --listen b:2 -- cmd --echo -x";
        let Some(Verb::Serve(args)) = parse(line).unwrap().verb else {
            panic!()
        };
        assert_eq!(args.listen, ["a:1", "b:2"]);
        assert_eq!(args.command, ["cmd", "--echo", "-x"]);
        assert!(!args.echo);
    }

    #[test]
    fn several_of_one_kind_may_be_named_and_waited_for() {
        let line = "ws send --user a --user b --except-connection c --wait --key k hello";
        let Some(Verb::Send(args)) = parse(line).unwrap().verb else {
            panic!()
        };
        let users = ["a".to_owned(), "b".to_owned()];
        assert_eq!(args.to.named(), Some(("user", &users[..])));
        assert_eq!(args.wait, Some(Duration::from_secs(30)));
        assert_eq!(args.text.as_deref(), Some("hello".as_ref()));
        let line = "ws send --all --wait=500ms --lines";
        let Some(Verb::Send(args)) = parse(line).unwrap().verb else {
            panic!()
        };
        assert_eq!(args.wait, Some(Duration::from_millis(500)));
        assert!(args.lines && args.to.named().is_none());
    }

    #[test]
    fn flags_of_carbonphp_s_server_are_understood() {
        let parsed = |line: &str| {
            let words = shell_words::split(line).unwrap().into_iter();
            let words = with_long_flags(words.map(OsString::from));
            match Args::try_parse_from(words).unwrap().verb {
                Some(Verb::Serve(args)) => args,
                other => panic!("{other:?}"),
            }
        };
        for (line, port, keeps_ip) in [
            ("", None, true),
            ("--autoAssignOpenPorts", Some(true), true),
            ("--autoAssignOpenPorts true", Some(true), true),
            (
                "--autoAssignOpenPorts=false -dontVerifyIP",
                Some(false),
                false,
            ),
            ("--dontVerifyIP", None, false),
        ] {
            let args = parsed(&format!("ws serve --carbonphp index.php {line}"));
            assert_eq!(args.legacy.open_ports, port, "{line}");
            assert_eq!(args.legacy.dont_verify_ip, !keeps_ip, "{line}");
        }
        let args = parsed("ws serve --autoAssignAnyOpenPort -- cmd -dontVerifyIP -help");
        assert!(args.legacy.any_open_port && !args.legacy.dont_verify_ip);
        assert_eq!(args.command, ["cmd", "-dontVerifyIP", "-help"]);
        let help = with_long_flags(["ws", "serve", "-help"].map(OsString::from));
        assert_eq!(Args::try_parse_from(help).unwrap_err().exit_code(), 0);
    }

    #[test]
    fn wrong_lines_exit_with_2() {
        for line in [
            "ws serve cmd",
            "ws serve --echo -- cmd",
            "ws serve --carbonphp index.php -- cmd",
            "ws serve --carbonphp index.php --echo",
            "ws serve --carbonphp index.php --fork",
            "ws carbonphp",
            "ws send hello",
            "ws send --all --user u hello",
            "ws send --user u --session s hello",
            "ws send --all --except-user u --except-session s hello",
            "ws send --except-user u hello",
            "ws send --all --lines hello",
            "ws send --all --lines --key k",
            "ws send --all --wait=1d hello",
            "ws run /time",
            "ws run --all /time",
            "ws run --user u",
            "ws config",
            "ws config print --default --config ws.toml",
            "ws ls --users --user u",
            "ws nonsense",
        ] {
            assert_eq!(parse(line).unwrap_err().exit_code(), 2, "{line}");
        }
    }
}

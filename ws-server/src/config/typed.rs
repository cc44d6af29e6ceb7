//! The checked sections.
//!
//! Their fields are public to be read; only `Config` makes them and it hands out references, so a
//! configuration that exists is a valid one.

use std::collections::BTreeMap;
use std::num::{NonZeroU32, NonZeroUsize};
use std::path::PathBuf;
use std::time::Duration;

use ws_ipc::{Address, Recycling};
use ws_proto::{CloseFrame, DeflateConfig, DeflateLevel, WindowBits};
use ws_transport::{ListenAddr, TlsConfig};

use crate::rates::RateLimits;
use crate::store::StoreAddress;

use super::account::Account;
use super::host::HostRule;
use super::identity::{LookupConfig, PhpConfig, TokenConfig};
use super::origin::OriginRule;
use super::sandbox::Sandbox;
use super::trusted::TrustedPeers;

/// `[server]`: where to listen and where state lives.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct ServerConfig {
    /// Addresses to listen on, at least one.
    pub listen: Vec<ListenAddr>,
    /// Whether to try the next ports if one is taken.
    pub auto_port: bool,
    /// Permissions of the Unix sockets; `None` is what the umask leaves.
    pub unix_mode: Option<u32>,
    /// Owner of the Unix sockets; `None` is the user of the server.
    pub unix_owner: Option<u32>,
    /// Group of the Unix sockets; `None` is that of the server.
    pub unix_group: Option<u32>,
    /// Threads that serve connections; `None` is one per core.
    pub threads: Option<NonZeroUsize>,
    /// Directory of run-time state.
    pub state_dir: PathBuf,
    /// Whether there is a page at `/`; see [`Config::serves_console`](super::Config::serves_console).
    pub console: Console,
    /// What the `Host` header may say; none is anything.
    pub allowed_hosts: Vec<HostRule>,
    /// Proxies whose word about a visitor is believed.
    pub trusted: TrustedPeers,
    /// What listeners with TLS show.
    pub tls: Tls,
    /// How often the files of certificates are looked at; `None` is never.
    pub tls_reload_interval: Option<Duration>,
}

/// `[server.tls]`: what listeners with TLS show.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Tls {
    /// Nothing: there are no such listeners.
    Off,
    /// A certificate that is made at the start.
    SelfSigned,
    /// A certificate and its key in files.
    Files(TlsConfig),
}

/// Whether there is a page at `/`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Console {
    /// With the demo application and in development only.
    Auto,
    /// Always.
    On,
    /// Never.
    Off,
}

/// `[origin]`: which pages may connect.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct OriginConfig {
    /// Rules; one of them must allow the origin.
    pub allow: Vec<OriginRule>,
    /// Whether a request without an `Origin` header is accepted.
    pub allow_missing: bool,
}

/// `[limits]`: how much of everything.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct LimitsConfig {
    /// Bytes of a message from a client.
    pub max_message_size: usize,
    /// Open connections.
    pub max_connections: NonZeroUsize,
    /// Open connections of one address; an IPv6 network of 64 bits is one.
    pub max_connections_per_ip: NonZeroUsize,
    /// Whether loopback addresses have that limit too: if it was written.
    pub counts_loopback: bool,
    /// Open connections of one user; `None` is any number.
    pub max_connections_per_user: Option<NonZeroUsize>,
    /// Opening handshakes at once that have not said yet what they want.
    pub max_handshakes: NonZeroUsize,
    /// Descriptors that connections do not get.
    pub reserved_descriptors: usize,
    /// From accept until the request head is complete.
    pub handshake_timeout: Duration,
    /// From the first byte of a message to its last.
    pub message_timeout: Duration,
    /// Silence after which a client is pinged; `None` is never.
    pub ping_interval: Option<Duration>,
    /// Time to answer a ping.
    pub pong_timeout: Duration,
    /// Time to answer a close.
    pub close_timeout: Duration,
    /// Bytes that wait for a slow client.
    pub send_queue_size: usize,
    /// Messages that clients may send.
    pub(crate) rates: RateLimits,
    /// Bytes that wait for all clients.
    pub send_queue_total: usize,
    /// Time in which a client that is sent something has to take some of it.
    pub write_timeout: Duration,
    /// Upper bound of the shutdown.
    pub drain_timeout: Duration,
}

/// `[compression]`: permessage-deflate, if a client offers it.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct CompressionConfig {
    /// Whether offers are accepted.
    pub enabled: bool,
    /// How hard to try.
    pub level: DeflateLevel,
    /// Bytes of the smallest message that is compressed.
    pub min_size: usize,
    /// Whether what the server sends refers back to earlier messages.
    pub server_context_takeover: bool,
    /// Whether what a client sends may refer back to earlier messages.
    pub client_context_takeover: bool,
    /// How far back the server refers.
    pub server_max_window_bits: WindowBits,
    /// How far back a client may refer.
    pub client_max_window_bits: WindowBits,
}

impl CompressionConfig {
    /// Returns the settings as the protocol takes them, `None` if it is disabled.
    pub(crate) fn deflate(&self) -> Option<DeflateConfig> {
        let deflate = DeflateConfig::default()
            .with_level(self.level)
            .with_min_size(self.min_size)
            .with_server_context_takeover(self.server_context_takeover)
            .with_client_context_takeover(self.client_context_takeover)
            .with_server_max_window_bits(self.server_max_window_bits)
            .with_client_max_window_bits(self.client_max_window_bits);
        self.enabled.then_some(deflate)
    }
}

/// `[identity]`: the session cookie, where sessions are kept, and whose word about a visitor is taken.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct IdentityConfig {
    /// Name of the cookie.
    pub cookie: String,
    /// Whether clients without any cookie are refused.
    pub require_cookie: bool,
    /// Whether a session is tied to the address it was made for.
    pub verify_ip: bool,
    /// How many bits of an IPv4 address count for that.
    pub ip_prefix_v4: u8,
    /// How many bits of an IPv6 address count for that.
    pub ip_prefix_v6: u8,
    /// Time that an unused session is known.
    pub ttl: Duration,
    /// How long a session lives however much it is used; `None` as long as it is.
    pub max_age: Option<Duration>,
    /// Known sessions.
    pub max_sessions: NonZeroUsize,
    /// Whether whom nobody can name is refused.
    pub required: bool,
    /// Signed tokens.
    pub token: Option<Box<TokenConfig>>,
    /// Session files of PHP.
    pub php: Option<Box<PhpConfig>>,
    /// Sessions of another application in a database.
    pub lookup: Option<Box<LookupConfig>>,
    /// Where sessions are kept.
    pub store: StoreAddress,
    /// How long the store may take to find a session.
    pub store_timeout: Duration,
    /// How often the store is asked whether the sessions of those connected are still there; `None`
    /// is never.
    pub check_interval: Option<Duration>,
    /// What the connections of a session are closed with when it ends.
    pub close: CloseFrame,
}

/// How a callback is run.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum CallbackBackend {
    /// A command, once for each.
    Exec(ExecConfig),
    /// A command that forks for each.
    Fork(PoolConfig),
    /// A command that answers one after another.
    Worker(PoolConfig),
    /// A server that speaks SCGI.
    Scgi(Address),
    /// A server that speaks FastCGI.
    FastCgi(Address),
    /// A command, once for each connection; the application only.
    Stream(ExecConfig),
}

impl CallbackBackend {
    /// Returns the name as written in the configuration.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Exec(_) => "exec",
            Self::Fork(_) => "fork",
            Self::Worker(_) => "worker",
            Self::Scgi(_) => "scgi",
            Self::FastCgi(_) => "fastcgi",
            Self::Stream(_) => "stream",
        }
    }

    /// Returns the command that is started, unless somebody else has started it.
    pub fn exec(&self) -> Option<&ExecConfig> {
        match self {
            Self::Exec(exec) | Self::Stream(exec) => Some(exec),
            Self::Fork(pool) | Self::Worker(pool) => Some(&pool.exec),
            Self::Scgi(_) | Self::FastCgi(_) => None,
        }
    }
}

/// A command and how it is started.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct ExecConfig {
    /// Program and arguments, at least the program.
    pub command: Vec<String>,
    /// Further environment variables.
    pub env: BTreeMap<String, String>,
    /// What it runs as; `None` is the user of the server.
    pub account: Option<Account>,
    /// What it writes.
    pub output: Output,
    /// What it may not do and how much it may use.
    pub sandbox: Box<Sandbox>,
}

/// A command that is kept running.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct PoolConfig {
    /// The command. What it writes are answers of CGI.
    pub exec: ExecConfig,
    /// How many processes of it; `None` is one per core for workers, one for fork servers.
    pub processes: Option<NonZeroUsize>,
    /// When a process is replaced.
    pub recycling: Recycling,
    /// How long a fresh process may take until it accepts a connection.
    pub load_timeout: Duration,
    /// How long the former processes are kept after a reload.
    pub probation: Duration,
    /// How the children of a fork server end.
    pub fork_exit: ForkExit,
}

/// How the children of a fork server end once they have answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ForkExit {
    /// As programs of their language do.
    Normal,
    /// At once.
    Kill,
}

/// What a callback writes to its stdout.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Output {
    /// The answer.
    Plain,
    /// Header lines, an empty line, the answer.
    Cgi,
    /// Messages, one in each line.
    Lines,
}

/// What a program that runs as long as a connection writes to its stdout.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StreamOutput {
    /// Messages, one in each line.
    Text,
    /// Bytes: each piece that is read is a binary message.
    Binary,
}

/// `[validate]`: who a client is.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct ValidateConfig {
    /// What decides.
    pub backend: ValidateBackend,
    /// Further CGI variables.
    pub params: BTreeMap<String, String>,
    /// Time that one decision may take.
    pub timeout: Duration,
    /// Decisions at once.
    pub concurrency: NonZeroUsize,
}

/// What decides who a client is.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum ValidateBackend {
    /// Nobody: the user id is the session id.
    None,
    /// The application, as it is asked for messages.
    Application,
    /// A callback of its own.
    Callback(CallbackBackend),
}

impl ValidateBackend {
    /// Returns the callback of its own that decides.
    pub fn callback(&self) -> Option<&CallbackBackend> {
        match self {
            Self::Callback(backend) => Some(backend),
            Self::None | Self::Application => None,
        }
    }
}

/// `[app]`: what answers messages.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct AppConfig {
    /// What answers.
    pub backend: AppBackend,
    /// Further CGI variables.
    pub params: BTreeMap<String, String>,
    /// Time that one message may take.
    pub timeout: Duration,
    /// Messages answered at once in the whole server.
    pub concurrency: NonZeroUsize,
    /// Messages answered at once for one connection.
    pub per_connection: NonZeroUsize,
    /// Messages of one connection that wait.
    pub queue: NonZeroUsize,
    /// Whether replies are sent as they come.
    pub unordered: bool,
    /// Bytes of one answer.
    pub max_output: usize,
    /// What is cut off a plain answer.
    pub trim: Trim,
    /// Reply in place of an empty answer; `None` is no reply.
    pub empty_reply: Option<String>,
    /// Reply in place of a failed answer; `None` is no reply.
    pub error_reply: Option<String>,
    /// What happens to the messages of a client that is gone.
    pub on_disconnect: OnDisconnect,
    /// Whether the text message `ping` is answered here.
    pub ping: bool,
    /// Which events the application hears of besides messages.
    pub events: Events,
    /// Whether the server refuses to start as root without an account to run the command as.
    pub require_user: bool,
    /// What has the kept processes replaced when it changes.
    pub watch: Vec<PathBuf>,
    /// Children that fork servers keep ready.
    pub spare: usize,
    /// What the program of a connection writes.
    pub stream: StreamOutput,
    /// How long it may go on after its input has ended, and again after `SIGTERM`.
    pub stream_grace: Duration,
}

/// What answers messages.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum AppBackend {
    /// The built-in demo, in the fork server.
    Demo,
    /// The message itself, in the server.
    Echo,
    /// A callback, for each message.
    Callback(CallbackBackend),
}

impl AppBackend {
    /// Returns the callback that answers, unless the server does.
    pub fn callback(&self) -> Option<&CallbackBackend> {
        match self {
            Self::Callback(backend) => Some(backend),
            Self::Demo | Self::Echo => None,
        }
    }

    /// Returns the name as written in the configuration.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Demo => "demo",
            Self::Echo => "echo",
            Self::Callback(backend) => backend.name(),
        }
    }
}

/// Which events the application hears of besides messages.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Events {
    /// That a connection opened.
    pub open: bool,
    /// That one closed.
    pub close: bool,
}

/// What is cut off a plain answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Trim {
    /// Newlines at its end.
    Newlines,
    /// Nothing.
    None,
    /// White space at both ends.
    All,
}

/// What happens to the accepted messages of a client that is gone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OnDisconnect {
    /// They are run; their replies are dropped.
    Finish,
    /// They are dropped, running ones killed.
    Cancel,
}

/// `[fifo]`: named pipes.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct FifoConfig {
    /// Whether there are any.
    pub enabled: bool,
    /// Their directory.
    pub dir: PathBuf,
    /// Whether there are any beside the global one.
    pub user_fifos: bool,
    /// Whose these are.
    pub per: FifoPer,
    /// How they are named.
    pub naming: FifoNaming,
    /// Which records are run.
    pub records: FifoRecords,
    /// What ends a record.
    pub framing: FifoFraming,
    /// Bytes of a record with its end.
    pub max_record: usize,
    /// Records that are taken from each in a second; `None` is any number.
    pub rate: Option<NonZeroU32>,
    /// Permissions of a FIFO.
    pub mode: u32,
    /// Group of the FIFOs; `None` is that of the server.
    pub group: Option<u32>,
}

impl FifoConfig {
    /// Whether each connection has one.
    pub fn has_connections(&self) -> bool {
        self.user_fifos && self.per != FifoPer::User
    }

    /// Whether each user with a connection has one.
    pub fn has_users(&self) -> bool {
        self.user_fifos && self.per != FifoPer::Connection
    }
}

/// Whose FIFOs there are beside the global one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FifoPer {
    /// One for each connection.
    Connection,
    /// One for each user who has a connection.
    User,
    /// Both.
    Both,
}

/// How FIFOs are named.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FifoNaming {
    /// So that different ids have different names.
    Default,
    /// As CarbonPHP names them.
    CarbonPhp,
}

/// Which records of users' and connections' FIFOs are run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FifoRecords {
    /// Those that are URIs.
    Uri,
    /// All: what is not a URI is a message as the client may send one.
    Any,
}

/// What ends a record.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum FifoFraming {
    /// A newline.
    Lines,
    /// These bytes, at least one.
    Delimiter(Vec<u8>),
}

/// `[control]`: the control socket.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct ControlConfig {
    /// Permissions of the socket.
    pub mode: u32,
    /// Group of the socket; `None` is that of the server.
    pub group: Option<u32>,
    /// Clients that may listen to events at once.
    pub max_listeners: usize,
    /// The door for other hosts and users; `None` is no such door.
    pub tcp: Option<ControlTcpConfig>,
    /// Requests a second at each door; `None` is any number.
    pub rate: Option<NonZeroU32>,
    /// Bytes of the body of a request; `None` is what the largest message may need.
    pub max_body_size: Option<usize>,
    /// Messages in one request.
    pub max_batch: NonZeroUsize,
    /// Ids in one target.
    pub max_targets: NonZeroUsize,
    /// How long the receipt of a request with a key is kept.
    pub idempotency_ttl: Duration,
    /// Receipts that are kept.
    pub idempotency_receipts: NonZeroUsize,
}

/// The control API on TCP.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct ControlTcpConfig {
    /// Where to listen.
    pub listen: ListenAddr,
    /// The tokens that are accepted, one a line.
    pub token_file: PathBuf,
    /// What the `Host` header may say; none is a loopback name or address, or that of `listen`.
    pub allowed_hosts: Vec<HostRule>,
    /// Open connections.
    pub max_connections: NonZeroUsize,
    /// How long a request may take to come.
    pub timeout: Duration,
}

/// `[metrics]`: figures for Prometheus.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct MetricsConfig {
    /// Where they are besides the control API; `None` is nowhere.
    pub listen: Option<ListenAddr>,
}

/// `[log]`: what is told, and how.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct LogConfig {
    /// Form of a line.
    pub format: LogFormat,
    /// Least severity.
    pub level: LogLevel,
    /// Interval of the line with counters; `None` is never.
    pub stats_interval: Option<Duration>,
}

/// Form of a log line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogFormat {
    /// Text on a terminal, the journal's form if it reads, else JSON.
    Auto,
    /// For people.
    Text,
    /// One JSON object per line.
    Json,
    /// For the journal of systemd: text with the severity before it, and without the time.
    Journald,
}

/// Least severity that is logged.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogLevel {
    /// Nothing.
    Off,
    /// An operator must act.
    Error,
    /// The server coped.
    Warn,
    /// Connections, starts, ends.
    Info,
    /// Decisions.
    Debug,
    /// Frames.
    Trace,
}

impl LogLevel {
    /// Returns the name as written in the configuration.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Off => "off",
            Self::Error => "error",
            Self::Warn => "warn",
            Self::Info => "info",
            Self::Debug => "debug",
            Self::Trace => "trace",
        }
    }
}

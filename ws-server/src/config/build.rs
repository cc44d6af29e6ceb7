//! From raw settings to checked sections.

use std::num::{NonZeroU32, NonZeroUsize};
use std::path::{Path, PathBuf};
use std::time::Duration;

use ws_proto::{CloseCode, CloseFrame, DeflateLevel, WindowBits};
use ws_transport::{ListenAddr, ListenSocket};

use crate::rates::RateLimits;

use super::account;
use super::callback::{self, CallbackKind};
use super::fault::Problem;
use super::host::HostRule;
use super::identity;
use super::is_local;
use super::raw::RawValue;
use super::reader::{self, Reader};
use super::tls::tls;
use super::trusted::TrustedPeers;
use super::typed::{
    AppBackend, AppConfig, CompressionConfig, Console, ControlConfig, ControlTcpConfig, Events,
    FifoConfig, FifoFraming, FifoNaming, FifoPer, FifoRecords, IdentityConfig, LimitsConfig,
    LogConfig, LogFormat, LogLevel, MetricsConfig, OnDisconnect, OriginConfig, ServerConfig,
    StreamOutput, Tls, Trim, ValidateBackend, ValidateConfig,
};

/// Smallest allowed timeout. Below it everything fails.
pub(super) const SHORTEST: Duration = Duration::from_millis(10);
const MINUTE: Duration = Duration::from_secs(60);
pub(super) const HOUR: Duration = Duration::from_secs(3600);
pub(super) const DAY: Duration = Duration::from_secs(86_400);
const GIB: usize = 1 << 30;
/// Where sessions are, unless it is said where.
const SESSIONS_FILE: &str = "sessions.db";
/// What a pipe takes whole; longer writes of several writers interleave.
const PIPE_BUF: usize = 4096;

pub(super) fn server(reader: &mut Reader<'_>) -> ServerConfig {
    let listen = reader.list("server.listen", listen_addr);
    if listen.is_empty() {
        reader.conflict("server.listen", "at least one address is needed");
    }
    let trusted = TrustedPeers::new(reader.list("server.proxy.trusted", |text, _| {
        text.parse().map_err(|_| Problem::Malformed {
            given: text.to_owned(),
            expected: "an address, a network like \"10.0.0.0/8\", or \"unix\"".to_owned(),
        })
    }));
    if listen.iter().any(ListenAddr::is_proxied) && trusted == TrustedPeers::default() {
        reader.conflict(
            "server.listen",
            "with +proxy nobody can connect unless server.proxy.trusted names the proxies",
        );
    }
    let tls = tls(reader);
    if listen.iter().any(ListenAddr::is_tls) && tls == Tls::Off {
        reader.conflict(
            "server.listen",
            "wss needs server.tls.cert and server.tls.key, or server.tls.self_signed",
        );
    }
    ServerConfig {
        listen,
        auto_port: reader.flag("server.auto_port"),
        unix_mode: reader.read_optional("server.unix_mode", reader::mode),
        unix_owner: reader
            .read_optional("server.unix_owner", account::user)
            .map(|(user, _)| user),
        unix_group: reader.read_optional("server.unix_group", account::group),
        threads: NonZeroUsize::new(
            reader.read("server.threads", |value| reader::number(value, 0, 1024)),
        ),
        state_dir: reader.path("server.state_dir"),
        console: reader.choice(
            "server.console",
            &[
                ("auto", Console::Auto),
                ("on", Console::On),
                ("off", Console::Off),
            ],
        ),
        allowed_hosts: hosts(reader, "server.allowed_hosts"),
        trusted,
        tls,
        tls_reload_interval: reader.interval("server.tls.reload_interval", SHORTEST, DAY),
    }
}

pub(super) fn origin(reader: &mut Reader<'_>) -> OriginConfig {
    OriginConfig {
        allow: reader.list("origin.allow", |text, _| {
            text.parse().map_err(|_| Problem::Malformed {
                given: text.to_owned(),
                expected: "\"same-origin\", an origin like \"https://example.org\", or one with a \
                           wildcard label like \"https://*.example.org\""
                    .to_owned(),
            })
        }),
        allow_missing: reader.flag("origin.allow_missing"),
    }
}

pub(super) fn limits(reader: &mut Reader<'_>) -> LimitsConfig {
    LimitsConfig {
        max_message_size: reader.size("limits.max_message_size", 1, GIB),
        max_connections: reader.count("limits.max_connections", 1_000_000),
        max_connections_per_ip: reader.count("limits.max_connections_per_ip", 1_000_000),
        counts_loopback: reader.is_given("limits.max_connections_per_ip"),
        max_connections_per_user: reader.read("limits.max_connections_per_user", |value| {
            Ok(NonZeroUsize::new(reader::number(value, 0, 1_000_000)?))
        }),
        max_handshakes: reader.count("limits.max_handshakes", 1_000_000),
        reserved_descriptors: reader.read("limits.reserved_descriptors", |value| {
            reader::number(value, 8, 10_000)
        }),
        handshake_timeout: reader.duration("limits.handshake_timeout", SHORTEST, 10 * MINUTE),
        message_timeout: reader.duration("limits.message_timeout", SHORTEST, HOUR),
        ping_interval: reader.interval("limits.ping_interval", SHORTEST, HOUR),
        pong_timeout: reader.duration("limits.pong_timeout", SHORTEST, 10 * MINUTE),
        close_timeout: reader.duration("limits.close_timeout", SHORTEST, 10 * MINUTE),
        send_queue_size: reader.size("limits.send_queue_size", 1, GIB),
        rates: RateLimits {
            per_connection: rate(reader, "limits.message_rate"),
            per_user: rate(reader, "limits.message_rate_per_user"),
            burst: reader.read("limits.message_burst", |value| {
                let burst = reader::number(value, 1, 100_000)?;
                Ok(whole(burst).expect("the range begins at 1"))
            }),
        },
        send_queue_total: reader.size("limits.send_queue_total", 1, 1 << 40),
        write_timeout: reader.duration("limits.write_timeout", SHORTEST, HOUR),
        drain_timeout: reader.duration("limits.drain_timeout", Duration::ZERO, DAY),
    }
}

/// A number a second; 0 is any.
fn rate(reader: &mut Reader<'_>, path: &'static str) -> Option<NonZeroU32> {
    reader.read(path, |value| {
        Ok(whole(reader::number(value, 0, 1_000_000)?))
    })
}

/// A number of the range of a rate or a burst.
fn whole(number: usize) -> Option<NonZeroU32> {
    NonZeroU32::new(u32::try_from(number).expect("it is at most a million"))
}

pub(super) fn compression(reader: &mut Reader<'_>) -> CompressionConfig {
    CompressionConfig {
        enabled: reader.flag("compression.enabled"),
        level: reader.read("compression.level", |value| {
            let level = byte(value, 1, 9)?;
            Ok(DeflateLevel::new(level).expect("the range is that of the levels"))
        }),
        min_size: reader.size("compression.min_size", 0, GIB),
        server_context_takeover: reader.flag("compression.server_context_takeover"),
        client_context_takeover: reader.flag("compression.client_context_takeover"),
        server_max_window_bits: reader.read("compression.server_max_window_bits", window_bits),
        client_max_window_bits: reader.read("compression.client_max_window_bits", window_bits),
    }
}

pub(super) fn identity(reader: &mut Reader<'_>, state_dir: &Path) -> IdentityConfig {
    let close_code = reader.read("identity.close_code", |value| {
        let number = reader::number(value, 1000, 4999)?;
        let code = u16::try_from(number).expect("it is at most 4999");
        CloseCode::new(code).map_err(|_| Problem::Malformed {
            given: number.to_string(),
            expected: "a close code that may be sent: 1000-1003, 1007-1014, 3000-4999".to_owned(),
        })
    });
    let close_reason = reader.read("identity.close_reason", |value| {
        let reason = reader::text(value)?;
        match reason.len() <= CloseFrame::MAX_REASON_SIZE {
            true => Ok(reason),
            false => Err(Problem::Malformed {
                given: reason,
                expected: "a reason of at most 123 bytes".to_owned(),
            }),
        }
    });
    IdentityConfig {
        cookie: reader.read("identity.cookie", |value| {
            let name = reader::text(value)?;
            if is_token(&name) {
                return Ok(name);
            }
            Err(Problem::Malformed {
                given: name,
                expected: "the name of a cookie".to_owned(),
            })
        }),
        require_cookie: reader.flag("identity.require_cookie"),
        verify_ip: reader.flag("identity.verify_ip"),
        ip_prefix_v4: prefix(reader, "identity.ip_prefix_v4", 32),
        ip_prefix_v6: prefix(reader, "identity.ip_prefix_v6", 128),
        ttl: reader.duration("identity.ttl", Duration::from_secs(1), 365 * DAY),
        max_age: reader.interval("identity.max_age", Duration::from_secs(1), 3650 * DAY),
        max_sessions: reader.count("identity.max_sessions", 100_000_000),
        required: reader.flag("identity.required"),
        token: identity::token(reader),
        php: identity::php(reader),
        lookup: identity::lookup(reader),
        store: reader.store("identity.store", &state_dir.join(SESSIONS_FILE)),
        store_timeout: reader.duration("identity.store_timeout", SHORTEST, MINUTE),
        check_interval: reader.interval("identity.check_interval", Duration::from_secs(1), DAY),
        close: CloseFrame::new(close_code, close_reason),
    }
}

/// How many bits of an address count.
fn prefix(reader: &mut Reader<'_>, path: &'static str, bits: u8) -> u8 {
    reader.read(path, |value| {
        let prefix = reader::number(value, 1, bits.into())?;
        Ok(u8::try_from(prefix).expect("no address has more bits"))
    })
}

pub(super) fn validate(reader: &mut Reader<'_>, app: &AppBackend) -> ValidateConfig {
    let keys = &callback::VALIDATE;
    let chosen = callback::choose(
        reader,
        keys,
        &[("none", Chosen::None), ("app", Chosen::App)],
    );
    let backend = chosen.unwrap_or_else(|| match reader.is_given(keys.command) {
        true => Chosen::Callback(CallbackKind::Exec),
        false => Chosen::None,
    });
    let callback = callback::read(reader, backend.callback(), keys);
    let has_callback = matches!(app, AppBackend::Callback(_)) || reader.is_faulty("app");
    if backend == Chosen::App && !has_callback {
        reader.conflict(
            keys.backend,
            "asks the application, which no callback answers for",
        );
    }
    ValidateConfig {
        backend: match (backend, callback) {
            (Chosen::App, _) => ValidateBackend::Application,
            (_, Some(callback)) => ValidateBackend::Callback(callback),
            (_, None) => ValidateBackend::None,
        },
        params: reader.environment(keys.params),
        timeout: reader.duration("validate.timeout", SHORTEST, HOUR),
        concurrency: reader.count("validate.concurrency", 10_000),
    }
}

/// What the key `backend` names.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Chosen {
    None,
    App,
    Demo,
    Echo,
    Callback(CallbackKind),
}

impl Chosen {
    fn callback(self) -> Option<CallbackKind> {
        match self {
            Self::Callback(kind) => Some(kind),
            _ => None,
        }
    }
}

impl From<CallbackKind> for Chosen {
    fn from(kind: CallbackKind) -> Self {
        Self::Callback(kind)
    }
}

pub(super) fn app(reader: &mut Reader<'_>) -> AppConfig {
    let keys = &callback::APP;
    let chosen = callback::choose(
        reader,
        keys,
        &[
            ("demo", Chosen::Demo),
            ("echo", Chosen::Echo),
            ("stream", Chosen::Callback(CallbackKind::Stream)),
        ],
    );
    let backend = chosen.unwrap_or_else(|| match reader.is_given(keys.command) {
        true => Chosen::Callback(CallbackKind::Exec),
        false => Chosen::Demo,
    });
    let callback = callback::read(reader, backend.callback(), keys);
    let is_stream = backend == Chosen::Callback(CallbackKind::Stream);
    for path in ["app.stream", "app.stream_grace"] {
        if reader.is_changed(path) && !is_stream {
            reader.conflict(path, "has no effect with this backend");
        }
    }
    AppConfig {
        timeout: reader.duration("app.timeout", SHORTEST, DAY),
        concurrency: reader.count("app.concurrency", 10_000),
        per_connection: reader.count("app.per_connection", 1000),
        queue: reader.count("app.queue", 100_000),
        unordered: reader.flag("app.unordered"),
        max_output: reader.size("app.max_output", 1, GIB),
        trim: reader.choice(
            "app.trim",
            &[
                ("newlines", Trim::Newlines),
                ("all", Trim::All),
                ("none", Trim::None),
            ],
        ),
        empty_reply: reader.read_optional("app.empty_reply", reader::text),
        error_reply: reader.read_optional("app.error_reply", reader::text),
        on_disconnect: reader.choice(
            "app.on_disconnect",
            &[
                ("finish", OnDisconnect::Finish),
                ("cancel", OnDisconnect::Cancel),
            ],
        ),
        ping: reader
            .read_optional("app.ping", reader::flag)
            .unwrap_or(backend != Chosen::Echo && !is_stream),
        events: events(reader, backend == Chosen::Echo || is_stream),
        require_user: reader.flag("app.require_user"),
        watch: watch(reader, backend),
        spare: reader.read("app.spare", |value| reader::number(value, 0, 64)),
        stream: reader.choice(
            "app.stream",
            &[
                ("text", StreamOutput::Text),
                ("binary", StreamOutput::Binary),
            ],
        ),
        stream_grace: reader.duration("app.stream_grace", SHORTEST, HOUR),
        params: reader.environment(keys.params),
        backend: match (backend, callback) {
            (Chosen::Echo, _) => AppBackend::Echo,
            (_, Some(callback)) => AppBackend::Callback(callback),
            (_, None) => AppBackend::Demo,
        },
    }
}

fn watch(reader: &mut Reader<'_>, backend: Chosen) -> Vec<PathBuf> {
    let paths = reader.list("app.watch", |path, base| Ok(base.join(path)));
    if !paths.is_empty() && !backend.callback().is_some_and(CallbackKind::is_kept) {
        reader.conflict("app.watch", "has no effect with this backend");
    }
    paths
}

fn events(reader: &mut Reader<'_>, hears_none: bool) -> Events {
    let names = reader.list("app.events", |name, _| match name {
        "open" | "close" => Ok(name.to_owned()),
        _ => Err(Problem::Malformed {
            given: name.to_owned(),
            expected: "\"open\" or \"close\"".to_owned(),
        }),
    });
    if hears_none && !names.is_empty() {
        reader.conflict("app.events", "has no effect with this backend");
    }
    let has = |name: &str| names.iter().any(|other| other == name);
    Events {
        open: has("open"),
        close: has("close"),
    }
}

pub(super) fn fifo(reader: &mut Reader<'_>, state_dir: &Path) -> FifoConfig {
    let by_delimiter = reader.choice("fifo.framing", &[("lines", false), ("delimiter", true)]);
    let delimiter = reader.read_optional("fifo.delimiter", |value| {
        let text = reader::text(value)?;
        if (1..=256).contains(&text.len()) {
            return Ok(text.into_bytes());
        }
        let expected = "a delimiter of 1 to 256 bytes".to_owned();
        Err(Problem::Malformed {
            given: text,
            expected,
        })
    });
    match (by_delimiter, reader.is_given("fifo.delimiter")) {
        (true, false) => {
            reader.conflict("fifo.delimiter", "is needed by framing = \"delimiter\"");
        }
        (false, true) => {
            reader.conflict(
                "fifo.delimiter",
                "has no effect without framing = \"delimiter\"",
            );
        }
        _ => {}
    }
    let longest = if by_delimiter { 16 << 20 } else { PIPE_BUF };
    let mode = reader.read("fifo.mode", reader::mode);
    if !reader.flag("fifo.insecure_world_writable") && mode & 0o002 != 0 {
        reader.conflict(
            "fifo.mode",
            "lets every user of the host push; if that is meant, set insecure_world_writable = true",
        );
    }
    if mode & 0o600 != 0o600 {
        reader.conflict(
            "fifo.mode",
            "the owner, who is the server, needs to read and write",
        );
    }
    FifoConfig {
        enabled: reader.flag("fifo.enabled"),
        dir: reader
            .optional_path("fifo.dir")
            .unwrap_or_else(|| state_dir.join("fifo")),
        user_fifos: reader.flag("fifo.user_fifos"),
        per: reader.choice(
            "fifo.per",
            &[
                ("connection", FifoPer::Connection),
                ("user", FifoPer::User),
                ("both", FifoPer::Both),
            ],
        ),
        naming: reader.choice(
            "fifo.naming",
            &[
                ("default", FifoNaming::Default),
                ("carbonphp", FifoNaming::CarbonPhp),
            ],
        ),
        records: reader.choice(
            "fifo.records",
            &[("uri", FifoRecords::Uri), ("any", FifoRecords::Any)],
        ),
        framing: match (by_delimiter, delimiter) {
            (true, Some(delimiter)) => FifoFraming::Delimiter(delimiter),
            _ => FifoFraming::Lines,
        },
        max_record: reader.size("fifo.max_record", 2, longest),
        rate: rate(reader, "fifo.rate"),
        mode,
        group: reader.read_optional("fifo.group", account::group),
    }
}

pub(super) fn control(reader: &mut Reader<'_>) -> ControlConfig {
    let mode = reader.read("control.mode", reader::mode);
    if mode & 0o007 != 0 {
        reader.conflict(
            "control.mode",
            "gives every user of the host control of the server",
        );
    }
    let max_batch = reader.count("control.max_batch", 100_000);
    let idempotency_receipts = reader.count("control.idempotency_receipts", 10_000_000);
    if idempotency_receipts < max_batch {
        reader.conflict(
            "control.idempotency_receipts",
            "must be at least control.max_batch, or a whole batch could not be repeated safely",
        );
    }
    ControlConfig {
        mode,
        group: reader.read_optional("control.group", account::group),
        tcp: control_tcp(reader),
        rate: rate(reader, "control.rate"),
        max_body_size: reader.read_optional("control.max_body_size", |value| {
            reader::size(value, 1024, 8 * GIB)
        }),
        max_batch,
        max_targets: reader.count("control.max_targets", 1_000_000),
        idempotency_ttl: reader.duration("control.idempotency_ttl", Duration::from_secs(1), DAY),
        idempotency_receipts,
        max_listeners: reader.read("control.max_listeners", |value| {
            reader::number(value, 0, 10_000)
        }),
    }
}

fn control_tcp(reader: &mut Reader<'_>) -> Option<ControlTcpConfig> {
    let listen = reader.read_optional("control.listen", plain_tcp);
    let token_file = reader.optional_path("control.token_file");
    let allowed_hosts = hosts(reader, "control.allowed_hosts");
    let is_exposed = reader.flag("control.insecure_listen");
    let max_connections = reader.count("control.max_connections", 100_000);
    let timeout = reader.duration("control.timeout", SHORTEST, HOUR);
    if !reader.is_given("control.listen") {
        for path in [
            "control.token_file",
            "control.allowed_hosts",
            "control.max_connections",
            "control.timeout",
        ] {
            if reader.is_changed(path) {
                reader.conflict(path, "has no effect without control.listen");
            }
        }
    } else if !reader.is_given("control.token_file") {
        reader.conflict(
            "control.listen",
            "needs control.token_file: without a token whoever reaches it controls the server",
        );
    }
    let listen = listen?;
    if !is_local(&listen) && !is_exposed {
        reader.conflict(
            "control.listen",
            "sends the token in clear text over a network; put TLS in front of a loopback address, \
             or, if that is meant, set insecure_listen = true",
        );
    }
    Some(ControlTcpConfig {
        listen,
        token_file: token_file?,
        allowed_hosts,
        max_connections,
        timeout,
    })
}

/// An address for HTTP in clear text.
fn plain_tcp(value: &RawValue) -> Result<ListenAddr, Problem> {
    let text = reader::text(value)?;
    let addr = listen_addr(&text, Path::new(""))?;
    let is_tcp = matches!(addr.socket(), ListenSocket::Tcp { .. });
    if is_tcp && !addr.is_tls() && !addr.is_proxied() {
        return Ok(addr);
    }
    Err(Problem::Malformed {
        given: text,
        expected: "\"HOST:PORT\"".to_owned(),
    })
}

fn hosts(reader: &mut Reader<'_>, path: &'static str) -> Vec<HostRule> {
    reader.list(path, |text, _| {
        text.parse().map_err(|_| Problem::Malformed {
            given: text.to_owned(),
            expected: "a name or an address without a port, or a name with a wildcard label like \
                       \"*.example.org\""
                .to_owned(),
        })
    })
}

pub(super) fn metrics(reader: &mut Reader<'_>) -> MetricsConfig {
    MetricsConfig {
        listen: reader.read_optional("metrics.listen", plain_tcp),
    }
}

pub(super) fn log(reader: &mut Reader<'_>) -> LogConfig {
    LogConfig {
        format: reader.choice(
            "log.format",
            &[
                ("auto", LogFormat::Auto),
                ("text", LogFormat::Text),
                ("json", LogFormat::Json),
                ("journald", LogFormat::Journald),
            ],
        ),
        level: reader.choice(
            "log.level",
            &[
                ("error", LogLevel::Error),
                ("warn", LogLevel::Warn),
                ("info", LogLevel::Info),
                ("debug", LogLevel::Debug),
                ("trace", LogLevel::Trace),
                ("off", LogLevel::Off),
            ],
        ),
        stats_interval: reader.interval("log.stats_interval", Duration::from_millis(100), DAY),
    }
}

fn window_bits(value: &RawValue) -> Result<WindowBits, Problem> {
    let bits = byte(value, WindowBits::MIN.get(), WindowBits::MAX.get())?;
    Ok(WindowBits::new(bits).expect("the range is that of the windows"))
}

fn byte(value: &RawValue, min: u8, max: u8) -> Result<u8, Problem> {
    let number = reader::number(value, min.into(), max.into())?;
    Ok(u8::try_from(number).expect("it is at most a byte"))
}

/// RFC 6265 §4.1.1: the name of a cookie is a token.
pub(super) fn is_token(name: &str) -> bool {
    let token = |byte: u8| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte);
    !name.is_empty() && name.len() <= 64 && name.bytes().all(token)
}

fn listen_addr(text: &str, base: &Path) -> Result<ListenAddr, Problem> {
    let addr: ListenAddr = text.parse().map_err(|fault| Problem::Address {
        given: text.to_owned(),
        fault,
    })?;
    Ok(match addr.socket() {
        ListenSocket::Unix(path) => {
            let socket = ListenSocket::Unix(base.join(path));
            addr.with_socket(socket)
        }
        _ => addr,
    })
}

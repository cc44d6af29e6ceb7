//! `[server]`: where to listen and where state lives.

use std::num::NonZeroUsize;
use std::path::PathBuf;
use std::time::Duration;

use ws_transport::ListenAddr;

use super::account;
use super::fault::Problem;
use super::host::{self, HostRule};
use super::listen::listen_addr;
use super::parse;
use super::reader::Reader;
use super::tls::{Tls, tls};
use super::trusted::TrustedPeers;
use super::units::{DAY, SHORTEST};

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

pub(super) fn read(reader: &mut Reader<'_>) -> ServerConfig {
    let listen = reader.list("server.listen", listen_addr);
    if listen.is_empty() {
        reader.conflict("server.listen", "at least one address is needed");
    }
    let trusted = TrustedPeers::new(reader.list("server.proxy.trusted", |text, _| {
        text.parse().map_err(|_| {
            Problem::malformed(
                text,
                "an address, a network like \"10.0.0.0/8\", or \"unix\"",
            )
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
        unix_mode: reader.read_optional("server.unix_mode", parse::mode),
        unix_owner: reader
            .read_optional("server.unix_owner", account::user)
            .map(|(user, _)| user),
        unix_group: reader.read_optional("server.unix_group", account::group),
        threads: NonZeroUsize::new(
            reader.read("server.threads", |value| parse::number(value, 0, 1024)),
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
        allowed_hosts: host::rules(reader, "server.allowed_hosts"),
        trusted,
        tls,
        tls_reload_interval: reader.interval("server.tls.reload_interval", SHORTEST, DAY),
    }
}

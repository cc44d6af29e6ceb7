//! Configuration: raw as it was written, checked as [`Config`].
//!
//! This module knows nothing of files, the environment or the command line. Whoever reads those
//! builds a [`RawConfig`], each value with its [`Source`]; [`Config::from_raw`] checks all of it and
//! reports every fault at once. Names, meanings and defaults of the settings stand in one table, from
//! which [`defaults`] renders a file with comments.

mod account;
mod build;
mod callback;
mod carbonphp;
mod effective;
mod fault;
mod host;
mod identity;
mod origin;
mod raw;
mod reader;
mod reload;
mod sandbox;
mod settings;
#[cfg(test)]
mod tests;
mod tls;
mod trace;
mod trusted;
mod typed;
mod units;

use std::path::{Path, PathBuf};

pub use account::Account;
pub use carbonphp::{CarbonPhpConfig, CarbonPhpConnections};
pub use fault::{Fault, InvalidConfig, Problem};
pub use host::{HostRule, InvalidHost};
pub use identity::{
    CookieHash, CredentialPlace, LookupConfig, LookupFormat, LookupQuestion, PhpConfig, PhpHandler,
    TokenAlgorithm, TokenConfig,
};
pub(crate) use origin::split_authority;
pub use origin::{InvalidOrigin, OriginRule, WebOrigin};
pub use raw::{Position, RawConfig, RawKind, RawValue, Source, SourceKind};
pub use reload::{Change, Reloaded, Shown};
pub use sandbox::{CgroupPlace, Sandbox};
pub use settings::{Applies, defaults, is_secret, is_setting, reference};
pub(crate) use tls::ALPN;
pub use trace::{TraceConfig, TraceHeaders, TraceMessages};
pub use trusted::{InvalidTrustedPeer, TrustedPeer, TrustedPeers};
pub use typed::{
    AppBackend, AppConfig, CallbackBackend, CompressionConfig, Console, ControlConfig,
    ControlTcpConfig, Events, ExecConfig, FifoConfig, FifoFraming, FifoNaming, FifoPer,
    FifoRecords, ForkExit, IdentityConfig, LimitsConfig, LogConfig, LogFormat, LogLevel,
    MetricsConfig, OnDisconnect, OriginConfig, Output, PoolConfig, ServerConfig, StreamOutput, Tls,
    Trim, ValidateBackend, ValidateConfig,
};
pub use units::{parse_duration, parse_size};

/// Where a listener is.
pub use ws_transport::{ListenAddr, ListenSocket};

pub use crate::store::{DatabaseKind, DatabaseUrl, StoreAddress, without_secrets};

use effective::Written;
use reader::Reader;

/// A checked configuration of the whole server.
#[derive(Clone, Debug)]
pub struct Config {
    server: ServerConfig,
    origin: OriginConfig,
    limits: LimitsConfig,
    compression: CompressionConfig,
    identity: IdentityConfig,
    validate: ValidateConfig,
    app: AppConfig,
    carbonphp: Option<CarbonPhpConfig>,
    fifo: FifoConfig,
    control: ControlConfig,
    metrics: MetricsConfig,
    log: LogConfig,
    trace: Option<Box<TraceConfig>>,
    development: bool,
    written: Written,
}

impl Config {
    /// Checks a raw configuration. Relative paths are relative to the [`Source`] of their value, or
    /// to `base_dir` (the working directory) if they have none.
    ///
    /// # Errors
    ///
    /// [`InvalidConfig`] with every fault: unknown keys, wrong types, values out of range, settings
    /// that do not go together.
    pub fn from_raw(raw: &RawConfig, base_dir: &Path) -> Result<Self, InvalidConfig> {
        let mut reader = Reader::new(raw, base_dir);
        let server = build::server(&mut reader);
        let fifo = build::fifo(&mut reader, &server.state_dir);
        let (origin, limits) = (build::origin(&mut reader), build::limits(&mut reader));
        let compression = build::compression(&mut reader);
        let identity = build::identity(&mut reader, &server.state_dir);
        let app = build::app(&mut reader);
        let config = Self {
            origin,
            limits,
            compression,
            identity,
            validate: build::validate(&mut reader, &app.backend),
            app,
            carbonphp: carbonphp::read(&mut reader),
            control: build::control(&mut reader),
            metrics: build::metrics(&mut reader),
            log: build::log(&mut reader),
            trace: trace::read(&mut reader),
            server,
            fifo,
            development: false,
            written: Written::new(raw, base_dir),
        };
        reader.finish(config)
    }

    /// Returns the configuration for development: the console is on unless it is switched off, and
    /// only loopback hosts are served.
    ///
    /// # Errors
    ///
    /// [`InvalidConfig`] if the server would listen beyond this host.
    pub fn for_development(mut self) -> Result<Self, InvalidConfig> {
        self.development = true;
        match self.server.listen.iter().find(|addr| !is_local(addr)) {
            None => Ok(self),
            Some(addr) => {
                let given = addr.to_string();
                let expected = "a loopback address, as development needs".to_owned();
                let problem = Problem::Malformed { given, expected };
                Err(InvalidConfig::new(vec![Fault::new(
                    "server.listen",
                    None,
                    problem,
                )]))
            }
        }
    }

    /// Returns `[server]`.
    pub fn server(&self) -> &ServerConfig {
        &self.server
    }

    /// Returns `[origin]`.
    pub fn origin(&self) -> &OriginConfig {
        &self.origin
    }

    /// Returns `[limits]`.
    pub fn limits(&self) -> &LimitsConfig {
        &self.limits
    }

    /// Returns `[compression]`.
    pub fn compression(&self) -> &CompressionConfig {
        &self.compression
    }

    /// Returns `[identity]`.
    pub fn identity(&self) -> &IdentityConfig {
        &self.identity
    }

    /// Returns `[validate]`.
    pub fn validate(&self) -> &ValidateConfig {
        &self.validate
    }

    /// Returns `[app]`.
    pub fn app(&self) -> &AppConfig {
        &self.app
    }

    /// Returns `[carbonphp]`, if there is an application of CarbonPHP's.
    pub fn carbonphp(&self) -> Option<&CarbonPhpConfig> {
        self.carbonphp.as_ref()
    }

    /// Returns `[fifo]`.
    pub fn fifo(&self) -> &FifoConfig {
        &self.fifo
    }

    /// Returns `[control]`.
    pub fn control(&self) -> &ControlConfig {
        &self.control
    }

    /// Returns `[metrics]`.
    pub fn metrics(&self) -> &MetricsConfig {
        &self.metrics
    }

    /// Returns `[log]`.
    pub fn log(&self) -> &LogConfig {
        &self.log
    }

    /// Returns `[trace]`, if traces go anywhere.
    pub fn trace(&self) -> Option<&TraceConfig> {
        self.trace.as_deref()
    }

    /// Returns the name of what runs the validation callback, as written in the configuration: the
    /// application's backend if that is asked.
    pub(crate) fn validation_backend(&self) -> &'static str {
        match &self.validate.backend {
            ValidateBackend::None => "none",
            ValidateBackend::Application => self.app.backend.name(),
            ValidateBackend::Callback(backend) => backend.name(),
        }
    }

    /// Returns the path of the control socket.
    pub fn control_socket(&self) -> PathBuf {
        self.server.state_dir.join("control.sock")
    }

    /// Says whether there is a page at `/`.
    pub fn serves_console(&self) -> bool {
        match self.server.console {
            Console::On => true,
            Console::Off => false,
            Console::Auto => self.is_local_only(),
        }
    }

    /// Says whether only requests to `localhost` and loopback addresses are served. The demo and
    /// development have no secrets to check a page against, so a page that rebinds its name to this
    /// host must not reach them.
    pub fn is_local_only(&self) -> bool {
        self.development || matches!(self.app.backend, AppBackend::Demo)
    }
}

pub(super) fn is_local(addr: &ListenAddr) -> bool {
    match addr.socket() {
        ListenSocket::Tcp { host, .. } => {
            let address = host.parse::<std::net::IpAddr>();
            host.eq_ignore_ascii_case("localhost") || address.is_ok_and(|ip| ip.is_loopback())
        }
        ListenSocket::Unix(_) => true,
        // What an inherited socket is bound to is not known here.
        _ => false,
    }
}

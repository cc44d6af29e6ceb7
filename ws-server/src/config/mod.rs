//! Configuration: raw as it was written, checked as [`Config`].
//!
//! This module knows nothing of files, the environment or the command line. Whoever reads those
//! builds a [`RawConfig`], each value with its [`Source`]; [`Config::from_raw`] checks all of it and
//! reports every fault at once. Names, meanings and defaults of the settings stand in one table, from
//! which [`defaults`] renders a file with comments.
//!
//! Each section has a module with its checked form and with what reads it. The fields of these are
//! public to be read; only [`Config`] makes them and it hands out references, so a configuration that
//! exists is a valid one.

mod account;
mod app;
mod callback;
mod carbonphp;
mod compression;
mod control;
mod effective;
mod fault;
mod fifo;
mod host;
mod identity;
mod limits;
mod listen;
mod log;
mod metrics;
mod origin;
mod parse;
mod raw;
mod reader;
mod reload;
mod sandbox;
mod server;
mod settings;
#[cfg(test)]
mod tests;
mod tls;
mod trace;
mod trusted;
mod units;
mod unknown;
mod validate;

use std::path::{Path, PathBuf};

pub use account::Account;
pub use app::{AppBackend, AppConfig, Events, OnDisconnect, StreamOutput, Trim};
pub use callback::{CallbackBackend, ExecConfig, ForkExit, Output, PoolConfig};
pub use carbonphp::{CarbonPhpConfig, CarbonPhpConnections};
pub use compression::CompressionConfig;
pub use control::{ControlConfig, ControlTcpConfig};
pub use fault::{Fault, InvalidConfig, Problem};
pub use fifo::{FifoConfig, FifoFraming, FifoNaming, FifoPer, FifoRecords};
pub use host::{HostRule, InvalidHost};
pub use identity::{
    CookieHash, CredentialPlace, IdentityConfig, LookupConfig, LookupFormat, LookupQuestion,
    PhpConfig, PhpHandler, TokenAlgorithm, TokenConfig,
};
pub use limits::LimitsConfig;
pub use log::{LogConfig, LogFormat, LogLevel};
pub use metrics::MetricsConfig;
pub(crate) use origin::split_authority;
pub use origin::{InvalidOrigin, OriginConfig, OriginRule, WebOrigin};
pub use raw::{Position, RawConfig, RawKind, RawValue, Source, SourceKind};
pub use reload::{Change, Reloaded, Shown};
pub use sandbox::{CgroupPlace, Sandbox};
pub use server::{Console, ServerConfig};
pub use settings::{Applies, defaults, is_secret, is_setting, reference};
pub(crate) use tls::ALPN;
pub use tls::Tls;
pub use trace::{TraceConfig, TraceHeaders, TraceMessages};
pub use trusted::{InvalidTrustedPeer, TrustedPeer, TrustedPeers};
pub use units::{parse_duration, parse_size};
pub use validate::{ValidateBackend, ValidateConfig};

/// Where a listener is.
pub use ws_transport::{ListenAddr, ListenSocket};

pub use crate::store::{DatabaseKind, DatabaseUrl, StoreAddress, without_secrets};

use effective::Written;
use listen::is_local;
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
        let server = server::read(&mut reader);
        let fifo = fifo::read(&mut reader, &server.state_dir);
        let (origin, limits) = (origin::read(&mut reader), limits::read(&mut reader));
        let compression = compression::read(&mut reader);
        let identity = identity::read(&mut reader, &server.state_dir);
        let app = app::read(&mut reader);
        let config = Self {
            origin,
            limits,
            compression,
            identity,
            validate: validate::read(&mut reader, &app.backend),
            app,
            carbonphp: carbonphp::read(&mut reader),
            control: control::read(&mut reader),
            metrics: metrics::read(&mut reader),
            log: log::read(&mut reader),
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

//! From a configuration to what the workers share.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::io;
use std::num::NonZeroUsize;
use std::sync::Arc;
use std::time::Instant;

use arc_swap::ArcSwap;
use tokio::sync::{Semaphore, mpsc, watch};
use ws_ipc::fastcgi::{FastCgi, FastCgiConfig};
use ws_ipc::scgi::ScgiServer;
use ws_ipc::{Confinement, Environment, FifoDirectory, Pool};
use ws_session::{SessionConfig, SessionStore, Sessions};

use crate::application::{
    Application, Backend, Callback, Program, StreamSettings, Validation, process_identity,
};
use crate::command::Command;
use crate::config::{AppBackend, CallbackBackend, Config, ExecConfig, Output, ValidateBackend};
use crate::counters::Counters;
use crate::doors::{FifoWatch, GLOBAL_FIFO};
use crate::error::ServeError;
use crate::helpers::Helpers;
use crate::hub::Hub;
use crate::identify::Identifier;
use crate::metrics;
use crate::page::Page;
use crate::places::PlaceLimits;
use crate::rates::Rates;
use crate::shared::{Current, Shared};
use crate::sockets::{self, Sockets};
use crate::spans::Spans;
use crate::store::Keeper;
use crate::visitor::common_environment;

pub(crate) fn share(
    config: Config,
    shards: Box<[mpsc::UnboundedSender<Command>]>,
    fifos: Option<FifoDirectory>,
    store: Arc<dyn SessionStore>,
    identifier: Option<Identifier>,
    helpers: &Helpers,
    draining: watch::Receiver<bool>,
) -> Result<Shared, ServeError> {
    let limits = config.limits();
    let descriptors = sockets::shares(&config, shards.len());
    let identity = config.identity();
    let sessions = Sessions::new(SessionConfig {
        ttl: identity.ttl,
        verify_ip: identity.verify_ip,
        ip_prefix_v4: identity.ip_prefix_v4,
        ip_prefix_v6: identity.ip_prefix_v6,
        max_age: identity.max_age,
        max_sessions: identity.max_sessions.get(),
    });
    let keeper = Keeper::new(sessions, store, identity);
    let mut seed = [0; 8];
    getrandom::fill(&mut seed).map_err(|error| ServeError::System(io::Error::other(error)))?;
    let page = config
        .serves_console()
        .then(|| Page::new(config.app().backend.name()));
    let control_socket = config.control_socket();
    let global_fifo = fifos.as_ref().map(|fifos| fifos.path().join(GLOBAL_FIFO));
    let global_fifo = global_fifo.as_ref().map(|path| path.to_string_lossy());
    let common = common_environment(&control_socket.to_string_lossy(), global_fifo.as_deref());
    let common = common
        .map_err(|error| ServeError::System(io::Error::new(io::ErrorKind::InvalidInput, error)))?;
    let application = application(&config, helpers, &common)?;
    let validation = validation(&config, helpers, application.as_ref(), &common)?;
    let counters = Counters::new(limits.send_queue_total);
    let spans = Spans::start(config.trace(), &counters.spans)?;
    Ok(Shared {
        hub: Hub::new(
            shards,
            keeper,
            PlaceLimits {
                total: limits.max_connections,
                by_descriptors: descriptors.connections,
                per_addr: limits.max_connections_per_ip,
                counts_loopback: limits.counts_loopback,
                per_user: limits.max_connections_per_user,
            },
            counters,
            u64::from_ne_bytes(seed),
        ),
        sockets: Sockets::new(descriptors.sockets),
        // Those who have not even asked do not take the room of those who do.
        handshakes: limits.max_handshakes.get().min(descriptors.connections / 2),
        identifier,
        fifos,
        fifo_watch: FifoWatch::default(),
        page,
        spans,
        draining,
        current: ArcSwap::from_pointee(Current {
            protocol: Arc::new(protocol(&config)),
            rates: Arc::new(Rates::new(limits.rates, Instant::now())),
            application,
            validation,
            config,
        }),
    })
}

/// Makes what takes the place of `former` under another configuration. What runs goes on.
pub(crate) fn renew(former: &Current, config: Config) -> Current {
    let (app, validate) = (config.app(), config.validate());
    let application = former.application.as_ref().map(|application| Application {
        callback: Callback {
            timeout: app.timeout,
            max_output: app.max_output,
            added: app_variables(&config),
            ..application.callback.clone()
        },
        ..application_settings(&config, application.callback.clone())
    });
    let validation = former.validation.as_ref().map(|validation| Validation {
        callback: Callback {
            timeout: validate.timeout,
            queue_timeout: Some(validate.timeout),
            added: validate_variables(&config),
            ..validation.callback.clone()
        },
    });
    Current {
        protocol: Arc::new(protocol(&config)),
        // What users have used up they have used up, unless another amount is theirs now.
        rates: match config.limits().rates == former.config.limits().rates {
            true => Arc::clone(&former.rates),
            false => Arc::new(Rates::new(config.limits().rates, Instant::now())),
        },
        application,
        validation,
        config,
    }
}

fn protocol(config: &Config) -> ws_proto::Config {
    let limits = config.limits();
    ws_proto::Config::default()
        .with_max_message_size(limits.max_message_size)
        .with_message_timeout(limits.message_timeout)
        .with_max_fragment_count(limits.max_fragment_count)
        .with_max_empty_fragment_count(limits.max_empty_fragment_count)
        .with_control_rate(limits.control_rate)
        .with_control_burst(limits.control_burst)
        .with_ping_interval(limits.ping_interval)
        .with_pong_timeout(limits.pong_timeout)
        .with_close_timeout(limits.close_timeout)
        .with_deflate(config.compression().deflate())
}

fn application(
    config: &Config,
    helpers: &Helpers,
    common: &Environment,
) -> Result<Option<Application>, ServeError> {
    let app = config.app();
    let (backend, output) = match &app.backend {
        AppBackend::Echo => return Ok(None),
        AppBackend::Demo => {
            let demo = helpers.app.clone().ok_or_else(not_started)?;
            (Backend::Pool(demo), Output::Cgi)
        }
        AppBackend::Callback(backend) => {
            let confinement = &helpers.confinements.app;
            callback(backend, helpers, confinement, helpers.app.as_ref())?
        }
    };
    let callback = Callback {
        at_once: at_once(&backend, app.concurrency),
        turns: turns(&backend, app.concurrency),
        backend: Arc::new(backend),
        output,
        timeout: app.timeout,
        max_output: app.max_output,
        queue_timeout: None,
        common: common.clone(),
        added: app_variables(config),
        durations: metrics::durations(),
    };
    Ok(Some(application_settings(config, callback)))
}

fn application_settings(config: &Config, callback: Callback) -> Application {
    let app = config.app();
    Application {
        callback,
        stream: StreamSettings {
            output: app.stream,
            grace: app.stream_grace,
        },
        trimming: app.trim,
        empty_reply: app.empty_reply.clone().map(Into::into),
        error_reply: app.error_reply.clone().map(Into::into),
    }
}

/// The variables that the configuration adds for the application.
fn app_variables(config: &Config) -> BTreeMap<String, String> {
    variables(config.app().backend.callback(), &config.app().params)
}

/// Those that it adds for the validation.
fn validate_variables(config: &Config) -> BTreeMap<String, String> {
    let validate = config.validate();
    let mut added = match validate.backend {
        ValidateBackend::Application => app_variables(config),
        _ => BTreeMap::new(),
    };
    added.extend(variables(validate.backend.callback(), &validate.params));
    added
}

/// What is kept running has its environment from its start.
fn variables(
    backend: Option<&CallbackBackend>,
    params: &BTreeMap<String, String>,
) -> BTreeMap<String, String> {
    let mut added = match backend {
        Some(CallbackBackend::Exec(exec) | CallbackBackend::Stream(exec)) => exec.env.clone(),
        _ => BTreeMap::new(),
    };
    added.extend(params.clone());
    added
}

fn validation(
    config: &Config,
    helpers: &Helpers,
    application: Option<&Application>,
    common: &Environment,
) -> Result<Option<Validation>, ServeError> {
    /// Room for the longest user id, or for the headers of an answer of CGI.
    const MAX_OUTPUT: usize = 16 * 1024;
    let validate = config.validate();
    let (backend, output) = match &validate.backend {
        ValidateBackend::None => return Ok(None),
        ValidateBackend::Application => {
            let Some(Application { callback, .. }) = application else {
                return Ok(None);
            };
            (Arc::clone(&callback.backend), callback.output)
        }
        // Both then share what connections there are, as is fair to whoever waits for one.
        ValidateBackend::Callback(CallbackBackend::FastCgi(address))
            if let Some(Backend::FastCgi(server)) =
                application.map(|application| &*application.callback.backend)
                && server.address() == address =>
        {
            let backend = Arc::new(Backend::FastCgi(server.clone()));
            (backend, Output::Cgi)
        }
        ValidateBackend::Callback(backend) => {
            let confinement = &helpers.confinements.validate;
            let pool = helpers.validation.as_ref();
            let (backend, output) = callback(backend, helpers, confinement, pool)?;
            (Arc::new(backend), output)
        }
    };
    Ok(Some(Validation {
        callback: Callback {
            at_once: at_once(&backend, validate.concurrency),
            turns: turns(&backend, validate.concurrency),
            backend,
            output,
            timeout: validate.timeout,
            max_output: MAX_OUTPUT,
            queue_timeout: Some(validate.timeout),
            common: common.clone(),
            added: validate_variables(config),
            durations: metrics::durations(),
        },
    }))
}

/// What runs a callback, and what it writes.
fn callback(
    backend: &CallbackBackend,
    helpers: &Helpers,
    confinement: &Confinement,
    pool: Option<&Pool>,
) -> Result<(Backend, Output), ServeError> {
    Ok(match backend {
        CallbackBackend::Exec(exec) => {
            let program = Backend::Exec(program(exec, helpers, confinement)?);
            (program, exec.output)
        }
        CallbackBackend::Stream(exec) => {
            let program = Backend::Stream(program(exec, helpers, confinement)?);
            (program, Output::Plain)
        }
        CallbackBackend::Fork(_) | CallbackBackend::Worker(_) => {
            let pool = pool.cloned().ok_or_else(not_started)?;
            (Backend::Pool(pool), Output::Cgi)
        }
        CallbackBackend::Scgi(address) => {
            let server = ScgiServer::new(address.clone());
            (Backend::Scgi(server), Output::Cgi)
        }
        CallbackBackend::FastCgi(address) => {
            let server = FastCgi::new(address.clone(), FastCgiConfig::default());
            (Backend::FastCgi(server), Output::Cgi)
        }
    })
}

fn program(
    exec: &ExecConfig,
    helpers: &Helpers,
    confinement: &Confinement,
) -> Result<Program, ServeError> {
    Ok(Program {
        argv: exec.command.iter().map(OsString::from).collect(),
        identity: exec.account.map(process_identity),
        dir: exec.sandbox.dir.clone(),
        confinement: Box::new(confinement.clone()),
        spawners: helpers.spawners.clone().ok_or_else(not_started)?,
    })
}

/// How many runs there are at once: no more than there are workers.
fn at_once(backend: &Backend, concurrency: NonZeroUsize) -> usize {
    let capacity = match backend {
        Backend::Pool(pool) => pool.capacity().unwrap_or(usize::MAX),
        _ => usize::MAX,
    };
    concurrency.get().min(capacity)
}

fn turns(backend: &Backend, concurrency: NonZeroUsize) -> Arc<Semaphore> {
    Arc::new(Semaphore::new(at_once(backend, concurrency)))
}

fn not_started() -> ServeError {
    ServeError::Helpers(io::Error::other(
        "a helper is asked for that was not started",
    ))
}

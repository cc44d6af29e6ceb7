//! From a configuration to what the workers share.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::io;
use std::num::NonZeroUsize;
use std::sync::Arc;
use std::time::Instant;

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
use crate::shared::Shared;
use crate::sockets::{self, Sockets};
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
    let protocol = ws_proto::Config::default()
        .with_max_message_size(limits.max_message_size)
        .with_message_timeout(limits.message_timeout)
        .with_ping_interval(limits.ping_interval)
        .with_pong_timeout(limits.pong_timeout)
        .with_close_timeout(limits.close_timeout)
        .with_deflate(config.compression().deflate());
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
        .then(|| Page::new(config.app().backend.name(), config.app().ping));
    let control_socket = config.control_socket();
    let global_fifo = fifos.as_ref().map(|fifos| fifos.path().join(GLOBAL_FIFO));
    let global_fifo = global_fifo.as_ref().map(|path| path.to_string_lossy());
    let common = common_environment(&control_socket.to_string_lossy(), global_fifo.as_deref());
    let common = common
        .map_err(|error| ServeError::System(io::Error::new(io::ErrorKind::InvalidInput, error)))?;
    let application = application(&config, helpers, &common)?;
    let validation = validation(&config, helpers, application.as_ref(), &common)?;
    Ok(Shared {
        protocol: Arc::new(protocol),
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
            Counters::new(limits.send_queue_total),
            u64::from_ne_bytes(seed),
        ),
        rates: Rates::new(limits.rates, Instant::now()),
        sockets: Sockets::new(descriptors.sockets),
        // Those who have not even asked do not take the room of those who do.
        handshakes: limits.max_handshakes.get().min(descriptors.connections / 2),
        application,
        identifier,
        validation,
        fifos,
        fifo_watch: FifoWatch::default(),
        page,
        draining,
        config,
    })
}

fn application(
    config: &Config,
    helpers: &Helpers,
    common: &Environment,
) -> Result<Option<Application>, ServeError> {
    let app = config.app();
    let (backend, output, env) = match &app.backend {
        AppBackend::Echo => return Ok(None),
        AppBackend::Demo => {
            let demo = helpers.app.clone().ok_or_else(not_started)?;
            (Backend::Pool(demo), Output::Cgi, BTreeMap::new())
        }
        AppBackend::Callback(backend) => {
            let confinement = &helpers.confinements.app;
            callback(backend, helpers, confinement, helpers.app.as_ref())?
        }
    };
    Ok(Some(Application {
        callback: Callback {
            at_once: at_once(&backend, app.concurrency),
            turns: Semaphore::new(at_once(&backend, app.concurrency)),
            backend: Arc::new(backend),
            output,
            timeout: app.timeout,
            max_output: app.max_output,
            queue_timeout: None,
            common: common.clone(),
            added: added(env, &app.params),
            durations: metrics::durations(),
        },
        stream: StreamSettings {
            output: app.stream,
            grace: app.stream_grace,
        },
        trimming: app.trim,
        empty_reply: app.empty_reply.clone().map(Into::into),
        error_reply: app.error_reply.clone().map(Into::into),
    }))
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
    let (backend, output, added) = match &validate.backend {
        ValidateBackend::None => return Ok(None),
        ValidateBackend::Application => {
            let Some(Application { callback, .. }) = application else {
                return Ok(None);
            };
            let mut added = callback.added.clone();
            added.extend(validate.params.clone());
            (Arc::clone(&callback.backend), callback.output, added)
        }
        // Both then share what connections there are, as is fair to whoever waits for one.
        ValidateBackend::Callback(CallbackBackend::FastCgi(address))
            if let Some(Backend::FastCgi(server)) =
                application.map(|application| &*application.callback.backend)
                && server.address() == address =>
        {
            let backend = Arc::new(Backend::FastCgi(server.clone()));
            (backend, Output::Cgi, validate.params.clone())
        }
        ValidateBackend::Callback(backend) => {
            let confinement = &helpers.confinements.validate;
            let pool = helpers.validation.as_ref();
            let (backend, output, env) = callback(backend, helpers, confinement, pool)?;
            (Arc::new(backend), output, added(env, &validate.params))
        }
    };
    Ok(Some(Validation {
        callback: Callback {
            at_once: at_once(&backend, validate.concurrency),
            turns: Semaphore::new(at_once(&backend, validate.concurrency)),
            backend,
            output,
            timeout: validate.timeout,
            max_output: MAX_OUTPUT,
            queue_timeout: Some(validate.timeout),
            common: common.clone(),
            added,
            durations: metrics::durations(),
        },
    }))
}

/// What runs a callback, what it writes, and the variables that each run of it gets.
fn callback(
    backend: &CallbackBackend,
    helpers: &Helpers,
    confinement: &Confinement,
    pool: Option<&Pool>,
) -> Result<(Backend, Output, BTreeMap<String, String>), ServeError> {
    let none = BTreeMap::new();
    Ok(match backend {
        CallbackBackend::Exec(exec) => {
            let program = Backend::Exec(program(exec, helpers, confinement)?);
            (program, exec.output, exec.env.clone())
        }
        CallbackBackend::Stream(exec) => {
            let program = Backend::Stream(program(exec, helpers, confinement)?);
            (program, Output::Plain, exec.env.clone())
        }
        CallbackBackend::Fork(_) | CallbackBackend::Worker(_) => {
            let pool = pool.cloned().ok_or_else(not_started)?;
            (Backend::Pool(pool), Output::Cgi, none)
        }
        CallbackBackend::Scgi(address) => {
            let server = ScgiServer::new(address.clone());
            (Backend::Scgi(server), Output::Cgi, none)
        }
        CallbackBackend::FastCgi(address) => {
            let server = FastCgi::new(address.clone(), FastCgiConfig::default());
            (Backend::FastCgi(server), Output::Cgi, none)
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

fn added(
    mut env: BTreeMap<String, String>,
    params: &BTreeMap<String, String>,
) -> BTreeMap<String, String> {
    env.extend(params.clone());
    env
}

fn not_started() -> ServeError {
    ServeError::Helpers(io::Error::other(
        "a helper is asked for that was not started",
    ))
}

//! From a configuration to what the workers share.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::io;
use std::sync::Arc;
use std::time::Instant;

use tokio::sync::{Semaphore, mpsc, watch};
use ws_ipc::{Confinement, Environment, FifoDirectory, Identity as ProcessIdentity};
use ws_session::{SessionConfig, Sessions};

use crate::application::{Application, Backend, Callback, Program, Validation};
use crate::command::Command;
use crate::config::{AppBackend, Config, ExecConfig, Output, ValidateBackend};
use crate::counters::Counters;
use crate::doors::{FifoWatch, GLOBAL_FIFO};
use crate::error::ServeError;
use crate::helpers::Helpers;
use crate::hub::Hub;
use crate::page::Page;
use crate::places::PlaceLimits;
use crate::rates::Rates;
use crate::shared::Shared;
use crate::sockets::{self, Sockets};
use crate::visitor::common_environment;

pub(crate) fn share(
    config: Config,
    shards: Box<[mpsc::UnboundedSender<Command>]>,
    fifos: Option<FifoDirectory>,
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
        max_sessions: identity.max_sessions.get(),
    });
    let mut seed = [0; 8];
    getrandom::fill(&mut seed).map_err(|error| ServeError::System(io::Error::other(error)))?;
    let page = config
        .serves_console()
        .then(|| Page::new(backend_name(&config)));
    let control_socket = config.control_socket();
    let global_fifo = fifos.as_ref().map(|fifos| fifos.path().join(GLOBAL_FIFO));
    let global_fifo = global_fifo.as_ref().map(|path| path.to_string_lossy());
    let common = common_environment(&control_socket.to_string_lossy(), global_fifo.as_deref());
    let common = common
        .map_err(|error| ServeError::System(io::Error::new(io::ErrorKind::InvalidInput, error)))?;
    Ok(Shared {
        protocol: Arc::new(protocol),
        hub: Hub::new(
            shards,
            sessions,
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
        application: application(&config, helpers, &common),
        validation: validation(&config, helpers, &common),
        fifos,
        fifo_watch: FifoWatch::default(),
        page,
        draining,
        config,
    })
}

fn backend_name(config: &Config) -> &'static str {
    match config.app().backend {
        AppBackend::Demo => "demo",
        AppBackend::Echo => "echo",
        AppBackend::Exec(_) => "exec",
    }
}

fn application(config: &Config, helpers: &Helpers, common: &Environment) -> Option<Application> {
    let app = config.app();
    let (backend, output, env) = match &app.backend {
        AppBackend::Echo => return None,
        AppBackend::Demo => (
            Backend::ForkServer(helpers.fork_server.clone()?),
            Output::Cgi,
            BTreeMap::new(),
        ),
        AppBackend::Exec(exec) => exec_backend(exec, &helpers.confinements.app),
    };
    Some(Application {
        callback: Callback {
            backend,
            output,
            timeout: app.timeout,
            max_output: app.max_output,
            concurrency: Semaphore::new(app.concurrency.get()),
            queue_timeout: None,
            common: common.clone(),
            env,
            spawners: helpers.spawners.clone()?,
        },
        trimming: app.trim,
        empty_reply: app.empty_reply.clone().map(Into::into),
        error_reply: app.error_reply.clone().map(Into::into),
    })
}

fn validation(config: &Config, helpers: &Helpers, common: &Environment) -> Option<Validation> {
    /// Room for the longest user id, or for the headers of an answer of CGI.
    const MAX_OUTPUT: usize = 16 * 1024;
    let validate = config.validate();
    let ValidateBackend::Exec(exec) = &validate.backend else {
        return None;
    };
    let (backend, output, env) = exec_backend(exec, &helpers.confinements.validate);
    Some(Validation {
        callback: Callback {
            backend,
            output,
            timeout: validate.timeout,
            max_output: MAX_OUTPUT,
            concurrency: Semaphore::new(validate.concurrency.get()),
            queue_timeout: Some(validate.timeout),
            common: common.clone(),
            env,
            spawners: helpers.spawners.clone()?,
        },
    })
}

fn exec_backend(
    exec: &ExecConfig,
    confinement: &Confinement,
) -> (Backend, Output, BTreeMap<String, String>) {
    let program = Program {
        argv: exec.command.iter().map(OsString::from).collect(),
        identity: exec.account.map(|account| ProcessIdentity {
            uid: account.uid(),
            gid: account.gid(),
        }),
        dir: exec.sandbox.dir.clone(),
        confinement: Box::new(confinement.clone()),
    };
    (Backend::Exec(program), exec.output, exec.env.clone())
}

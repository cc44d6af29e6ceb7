//! The control API: HTTP/1.1, the door that answers, on a Unix socket and, with a token, on TCP.

mod body;
mod close;
mod deliver;
mod door;
mod error;
mod events;
mod keys;
mod lines;
mod log;
mod look;
mod message;
mod page;
mod send;
mod serve;
mod sessions;
mod stall;
mod to;
mod token;
mod users;

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use axum::Router;
use axum::http::StatusCode;
use axum::middleware;
use axum::routing::{delete, get, post};
use tracing::info;
use ws_transport::{BindOptions, ListenAddr, Listener};

use self::door::{Door, guard};
use self::error::ApiError;
use self::keys::Keys;
use self::token::Tokens;
use crate::config::Config;
use crate::error::ServeError;
use crate::log_tail::LogTail;
use crate::readiness::Readiness;
use crate::shared::Shared;

/// The sockets of the control API, and what is needed to get in.
#[derive(Debug)]
pub(crate) struct ControlDoors {
    unix: Listener,
    tcp: Option<(Listener, Tokens)>,
    metrics: Option<Listener>,
}

/// Connections at once to `metrics.listen`; further ones wait.
pub(crate) const METRICS_CONNECTIONS: usize = 16;
/// How long the head of a request to it may take, and how long its client may take nothing.
const METRICS_TIMEOUT: Duration = Duration::from_secs(10);

/// Says why a file of tokens cannot be used.
pub(crate) fn check_tokens(path: &Path) -> Result<(), String> {
    let tokens = Tokens::load(path);
    tokens.map(drop).map_err(|error| error.to_string())
}

impl ControlDoors {
    /// Binds them.
    ///
    /// # Errors
    ///
    /// [`ServeError`] if one of them cannot be bound, or the tokens cannot be used.
    pub(crate) fn bind(config: &Config) -> Result<Self, ServeError> {
        let control = config.control();
        let options = BindOptions {
            unix_mode: Some(control.mode),
            unix_group: control.group,
            ..BindOptions::default()
        };
        let unix = Listener::bind(&ListenAddr::unix(config.control_socket()), &options)?;
        let tcp = match &control.tcp {
            None => None,
            Some(tcp) => {
                let tokens = Tokens::load(&tcp.token_file);
                let tokens = tokens.map_err(|error| ServeError::ControlTokens {
                    path: tcp.token_file.clone(),
                    reason: error.to_string(),
                })?;
                let listener = Listener::bind(&tcp.listen, &BindOptions::default())?;
                Some((listener, tokens))
            }
        };
        let metrics = config.metrics().listen.as_ref();
        let metrics = metrics.map(|addr| Listener::bind(addr, &BindOptions::default()));
        Ok(Self {
            unix,
            tcp,
            metrics: metrics.transpose()?,
        })
    }
}

/// Answers requests until the task is dropped.
pub(crate) async fn serve_control(
    doors: ControlDoors,
    server: Arc<Shared>,
    ready: Arc<AtomicBool>,
    log: LogTail,
) {
    let url = |listener: &Listener| listener.url().replacen("ws:", "http:", 1);
    let tcp_url = doors.tcp.as_ref().map(|(listener, _)| url(listener));
    let metrics_url = doors.metrics.as_ref().map(url);
    let api = Api {
        keys: Keys::new(server.current().config.control()),
        door: Arc::new(Door::unix(&server.current().config)),
        tcp_url: tcp_url.map(Into::into),
        metrics_url: metrics_url.map(Into::into),
        log_readers: Arc::default(),
        server: Arc::clone(&server),
        ready,
        readiness: Arc::default(),
        log,
    };
    let unix = serve::serve_unix(doors.unix, guarded(router(), &api));
    let metrics = async {
        if let Some(listener) = doors.metrics {
            info!(
                listen.addr = api.metrics_url.as_deref(),
                "metrics listening"
            );
            let router = metrics_router(api.clone());
            serve::serve_tcp(listener, router, METRICS_TIMEOUT, METRICS_CONNECTIONS).await;
        }
    };
    let current = Arc::clone(&server.current());
    let tcp = async {
        if let (Some((listener, tokens)), Some(tcp)) = (doors.tcp, &current.config.control().tcp) {
            info!(
                listen.addr = api.tcp_url.as_deref(),
                "control API listening"
            );
            let door = Door::tcp(&current.config, tcp, tokens);
            let api = Api {
                door: Arc::new(door),
                ..api.clone()
            };
            let router =
                page::paths().fold(router(), |router, path| router.route(path, get(page::page)));
            let router = guarded(router, &api);
            let most = tcp.max_connections.get();
            serve::serve_tcp(listener, router, tcp.timeout, most).await;
        }
    };
    tokio::join!(unix, tcp, metrics);
}

fn router() -> Router<Api> {
    Router::new()
        .route("/v1/send", post(send::send))
        .route("/v1/run", post(send::run))
        .route("/v1/connections", get(users::connections))
        .route("/v1/events", get(events::events))
        .route("/v1/users", get(users::users))
        .route("/v1/connections/{id}", delete(close::close_connection))
        .route("/v1/users/{id}", get(users::user).delete(close::close_user))
        .route(
            "/v1/sessions",
            get(sessions::list).delete(sessions::revoke_of_user),
        )
        .route("/v1/sessions/{id}", delete(sessions::revoke))
        .route("/v1/status", get(look::status))
        .route("/v1/log", get(log::log))
        .route("/ready", get(look::is_ready))
        .merge(figures())
}

/// A router behind a door.
fn guarded(router: Router<Api>, api: &Api) -> Router {
    router
        .fallback(no_such_resource)
        .method_not_allowed_fallback(not_with_this_method)
        .layer(middleware::from_fn_with_state(api.clone(), guard))
        .with_state(api.clone())
}

/// What is at `metrics.listen`, for everybody who reaches it.
fn metrics_router(api: Api) -> Router {
    figures()
        .route("/ready", get(look::is_ready_in_public))
        .fallback(no_such_resource)
        .method_not_allowed_fallback(not_with_this_method)
        .with_state(api)
}

fn figures() -> Router<Api> {
    Router::new()
        .route("/metrics", get(look::metrics))
        .route("/live", get(|| async { "live\n" }))
}

async fn no_such_resource() -> ApiError {
    ApiError::new(StatusCode::NOT_FOUND, "no such resource")
}

async fn not_with_this_method() -> ApiError {
    ApiError::new(StatusCode::METHOD_NOT_ALLOWED, "not with this method")
}

/// What a request finds behind its door.
#[derive(Clone)]
struct Api {
    server: Arc<Shared>,
    ready: Arc<AtomicBool>,
    readiness: Arc<Readiness>,
    door: Arc<Door>,
    log: LogTail,
    /// How many more may follow the log.
    log_readers: Arc<log::Readers>,
    keys: Keys,
    /// Where the API listens on TCP.
    tcp_url: Option<Arc<str>>,
    /// Where the figures are besides.
    metrics_url: Option<Arc<str>>,
}

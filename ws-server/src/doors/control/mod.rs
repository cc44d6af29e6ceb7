//! The control API: HTTP/1.1, the door that answers, on a Unix socket and, with a token, on TCP.

mod body;
mod close;
mod deliver;
mod door;
mod error;
mod events;
mod keys;
mod lines;
mod look;
mod message;
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
use crate::shared::Shared;

/// The sockets of the control API, and what is needed to get in.
#[derive(Debug)]
pub(crate) struct ControlDoors {
    unix: Listener,
    tcp: Option<(Listener, Tokens)>,
}

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
        Ok(Self { unix, tcp })
    }
}

/// Answers requests until the task is dropped.
pub(crate) async fn serve_control(
    doors: ControlDoors,
    server: Arc<Shared>,
    ready: Arc<AtomicBool>,
) {
    let url = |(listener, _): &(Listener, _)| listener.url().replacen("ws:", "http:", 1);
    let api = Api {
        keys: Keys::new(server.current().config.control()),
        door: Arc::new(Door::unix(&server.current().config)),
        tcp_url: doors.tcp.as_ref().map(url).map(Into::into),
        server: Arc::clone(&server),
        ready,
    };
    let unix = serve::serve_unix(doors.unix, router(api.clone()));
    let current = Arc::clone(&server.current());
    match (doors.tcp, &current.config.control().tcp) {
        (Some((listener, tokens)), Some(tcp)) => {
            info!(
                listen.addr = api.tcp_url.as_deref(),
                "control API listening"
            );
            let door = Door::tcp(&server.current().config, tcp, tokens);
            let router = router(Api {
                door: Arc::new(door),
                ..api
            });
            let most = tcp.max_connections.get();
            tokio::join!(unix, serve::serve_tcp(listener, router, tcp.timeout, most));
        }
        _ => unix.await,
    }
}

fn router(api: Api) -> Router {
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
        .route("/live", get(|| async { "live\n" }))
        .route("/ready", get(look::is_ready))
        .fallback(|| async { ApiError::new(StatusCode::NOT_FOUND, "no such resource") })
        .method_not_allowed_fallback(|| async {
            ApiError::new(StatusCode::METHOD_NOT_ALLOWED, "not with this method")
        })
        .layer(middleware::from_fn_with_state(api.clone(), guard))
        .with_state(api)
}

/// What a request finds behind its door.
#[derive(Clone)]
struct Api {
    server: Arc<Shared>,
    ready: Arc<AtomicBool>,
    door: Arc<Door>,
    keys: Keys,
    /// Where the API listens on TCP.
    tcp_url: Option<Arc<str>>,
}

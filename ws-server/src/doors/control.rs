//! The control socket: HTTP/1.1 over a Unix socket, the door that answers.

use std::fmt::Display;
use std::future::poll_fn;
use std::io;
use std::os::fd::OwnedFd;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, UNIX_EPOCH};

use axum::Router;
use axum::body::HttpBody;
use axum::extract::rejection::QueryRejection;
use axum::extract::{FromRequest, Path, Query, Request, State};
use axum::http::{StatusCode, header};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Json, Response};
use axum::routing::{delete, get, post};
use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use bytes::Bytes;
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use tokio::net::UnixStream;
use tracing::warn;
use ws_proto::{CloseCode, CloseFrame, MessageKind};
use ws_session::{ConnectionId, SessionId, Target, UserId};
use ws_transport::{AcceptFailure, Listener};

use crate::core::question::Source;
use crate::core::uri::Uri;
use crate::shared::Shared;

/// Room for the JSON around a message.
const ENVELOPE_SIZE: usize = 64 * 1024;
/// What the shortest character may become in JSON: `\u0001`. Base64 takes less.
const MAX_ESCAPE: usize = 6;
/// Between two attempts to accept when descriptors have run out.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Answers requests until the task is dropped.
pub(crate) async fn serve_control(listener: Listener, server: Arc<Shared>, ready: Arc<AtomicBool>) {
    let router = Router::new()
        .route("/v1/send", post(send))
        .route("/v1/run", post(run))
        .route("/v1/connections", get(connections))
        .route("/v1/connections/{id}", delete(close_connection))
        .route("/v1/users/{id}", delete(close_user))
        .route("/v1/sessions/{id}", delete(close_session))
        .route("/v1/status", get(status))
        .route("/live", get(|| async { "live\n" }))
        .route("/ready", get(is_ready))
        .fallback(|| async { ApiError::new(StatusCode::NOT_FOUND, "no such resource") })
        .method_not_allowed_fallback(|| async {
            ApiError::new(StatusCode::METHOD_NOT_ALLOWED, "not with this method")
        })
        .layer(middleware::from_fn(refuse_browsers))
        .with_state(Api { server, ready });
    // It accepts for ever, so there is no end to look at.
    let _ = axum::serve(Accepts(listener), router).await;
}

/// The listener in the form that axum takes.
struct Accepts(Listener);

impl axum::serve::Listener for Accepts {
    type Io = UnixStream;
    type Addr = ();

    async fn accept(&mut self) -> (UnixStream, ()) {
        loop {
            let stream = self.0.accept().await.and_then(|accepted| {
                let socket: OwnedFd = accepted.socket.into();
                UnixStream::from_std(socket.into())
            });
            match stream {
                Ok(stream) => return (stream, ()),
                Err(error) => {
                    if AcceptFailure::of(&error) != AcceptFailure::Passing {
                        warn!(%error, "the control socket cannot accept");
                        tokio::time::sleep(ACCEPT_PAUSE).await;
                    }
                }
            }
        }
    }

    fn local_addr(&self) -> io::Result<()> {
        Ok(())
    }
}

#[derive(Clone)]
struct Api {
    server: Arc<Shared>,
    ready: Arc<AtomicBool>,
}

/// An answer of 4xx or 5xx: `{"error": "..."}`.
struct ApiError {
    status: StatusCode,
    text: String,
}

impl ApiError {
    fn new(status: StatusCode, text: impl Into<String>) -> Self {
        Self {
            status,
            text: text.into(),
        }
    }

    fn bad(text: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, text)
    }

    fn too_large(what: impl Display, max: usize) -> Self {
        let text = format!("the message has {what} bytes, limits.max_message_size is {max}");
        Self::new(StatusCode::PAYLOAD_TOO_LARGE, text)
    }

    fn stopped() -> Self {
        Self::new(StatusCode::SERVICE_UNAVAILABLE, "the server is going down")
    }
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        (self.status, Json(json!({ "error": self.text }))).into_response()
    }
}

/// Whom a request is for: exactly one of its keys.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct To {
    all: Option<bool>,
    user: Option<String>,
    session: Option<String>,
    connection: Option<String>,
}

impl To {
    fn target(self) -> Result<Target, ApiError> {
        match self {
            Self {
                all: Some(true),
                user: None,
                session: None,
                connection: None,
            } => Ok(Target::All),
            Self {
                all: None,
                user: Some(user),
                session: None,
                connection: None,
            } => UserId::new(&user)
                .map(Target::User)
                .map_err(|error| ApiError::bad(format!("to.user: {error}"))),
            Self {
                all: None,
                user: None,
                session: Some(session),
                connection: None,
            } => session
                .parse::<SessionId>()
                .map(Target::Session)
                .map_err(|error| ApiError::bad(format!("to.session: {error}"))),
            Self {
                all: None,
                user: None,
                session: None,
                connection: Some(connection),
            } => connection
                .parse::<ConnectionId>()
                .map(Target::Connection)
                .map_err(|error| ApiError::bad(format!("to.connection: {error}"))),
            _ => Err(ApiError::bad(
                "to: exactly one of {\"all\": true}, {\"user\": U}, {\"session\": S}, {\"connection\": C}",
            )),
        }
    }
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct SendRequest {
    to: To,
    text: Option<String>,
    base64: Option<String>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct RunRequest {
    to: To,
    uri: String,
    /// What the callback sees as `WS_SOURCE`: `api`, or `cli` from the command line.
    #[serde(default)]
    source: RunSource,
}

#[derive(Clone, Copy, Debug, Default, Deserialize)]
#[serde(rename_all = "lowercase")]
enum RunSource {
    #[default]
    Api,
    Cli,
}

async fn send(
    State(api): State<Api>,
    Body(request): Body<SendRequest>,
) -> Result<Json<Value>, ApiError> {
    let target = request.to.target()?;
    let ledger = &api.server.hub.counters.ledger;
    let message = match (request.text, request.base64) {
        (Some(text), None) => ledger.message(MessageKind::Text, text.as_bytes()),
        (None, Some(base64)) => {
            let payload = BASE64_STANDARD.decode(base64);
            let payload = payload.map_err(|error| ApiError::bad(format!("base64: {error}")))?;
            ledger.message(MessageKind::Binary, &payload)
        }
        _ => return Err(ApiError::bad("exactly one of text and base64")),
    };
    let max = api.server.config.limits().max_message_size;
    if message.payload().len() > max {
        return Err(ApiError::too_large(message.payload().len(), max));
    }
    let receipt = api
        .server
        .hub
        .push(&target, [message])
        .await
        .map_err(|_| ApiError::stopped())?;
    Ok(Json(json!(receipt)))
}

async fn run(
    State(api): State<Api>,
    Body(request): Body<RunRequest>,
) -> Result<Json<Value>, ApiError> {
    let target = request.to.target()?;
    if Uri::parse(request.uri.as_bytes()).is_none() {
        return Err(ApiError::bad(
            "uri: an absolute path of at most 8 KiB without control characters",
        ));
    }
    if *api.server.draining.borrow() {
        return Err(ApiError::stopped());
    }
    let source = match request.source {
        RunSource::Api => Source::Api,
        RunSource::Cli => Source::Cli,
    };
    let uri = Bytes::from(request.uri);
    let receipt = api
        .server
        .hub
        .run(&target, uri, source)
        .await
        .map_err(|_| ApiError::stopped())?;
    Ok(Json(json!(receipt)))
}

/// With which words connections are closed.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct CloseWords {
    code: Option<u16>,
    reason: Option<String>,
}

/// What a query may say of that.
type Words = Result<Query<CloseWords>, QueryRejection>;

async fn close_connection(
    State(api): State<Api>,
    Path(id): Path<String>,
    words: Words,
) -> Result<Json<Value>, ApiError> {
    let to = To {
        connection: Some(id),
        ..To::default()
    };
    close(&api, to.target()?, words).await
}

async fn close_user(
    State(api): State<Api>,
    Path(id): Path<String>,
    words: Words,
) -> Result<Json<Value>, ApiError> {
    let to = To {
        user: Some(id),
        ..To::default()
    };
    close(&api, to.target()?, words).await
}

/// Ends a session: its connections are closed, and its cookie is good for nothing any more.
async fn close_session(
    State(api): State<Api>,
    Path(id): Path<String>,
    words: Words,
) -> Result<Json<Value>, ApiError> {
    let to = To {
        session: Some(id),
        ..To::default()
    };
    let target = to.target()?;
    if let Target::Session(session) = target {
        api.server.hub.sessions().remove(session);
    }
    close(&api, target, words).await
}

async fn close(api: &Api, target: Target, words: Words) -> Result<Json<Value>, ApiError> {
    let Query(words) = words.map_err(|error| ApiError::bad(error.body_text()))?;
    let code = match words.code {
        Some(code) => {
            CloseCode::new(code).map_err(|error| ApiError::bad(format!("code: {error}")))?
        }
        None => CloseCode::POLICY,
    };
    let reason = words.reason.unwrap_or_default();
    if reason.len() > CloseFrame::MAX_REASON_SIZE {
        let max = CloseFrame::MAX_REASON_SIZE;
        return Err(ApiError::bad(format!("reason: more than {max} bytes")));
    }
    let receipt = api
        .server
        .hub
        .close(&target, CloseFrame::new(code, reason))
        .await;
    let receipt = receipt.map_err(|_| ApiError::stopped())?;
    Ok(Json(json!({ "connections": receipt.written })))
}

async fn connections(State(api): State<Api>) -> Json<Value> {
    let registry = api.server.hub.registry();
    let connections: Vec<Value> = registry
        .iter()
        .filter_map(|(id, entry)| Some((id, registry.binding(*id)?, entry)))
        .map(|(id, binding, entry)| {
            let opened_at = entry
                .opened_at
                .duration_since(UNIX_EPOCH)
                .unwrap_or_default();
            json!({
                "id": id.to_string(),
                "user": binding.user.as_str(),
                "session": binding.session.to_string(),
                "ip": entry.addr.map(|addr| addr.to_string()),
                "port": entry.port,
                "uri": &*entry.uri,
                "fifo": entry.fifo.as_ref().map(|path| path.to_string_lossy()),
                "opened_at": opened_at.as_secs_f64(),
            })
        })
        .collect();
    Json(json!({ "connections": connections }))
}

async fn status(State(api): State<Api>) -> Json<Value> {
    Json(Value::Object(crate::status::status(&api.server)))
}

async fn is_ready(State(api): State<Api>) -> Result<&'static str, ApiError> {
    if api.ready.load(Ordering::Relaxed) {
        Ok("ready\n")
    } else {
        Err(ApiError::new(StatusCode::SERVICE_UNAVAILABLE, "not ready"))
    }
}

/// A page that a browser shows has no business here, whatever let it reach this socket.
async fn refuse_browsers(request: Request, next: Next) -> Response {
    if request.headers().contains_key(header::ORIGIN) {
        return ApiError::new(StatusCode::FORBIDDEN, "not from a browser").into_response();
    }
    next.run(request).await
}

/// The body of a request, which is JSON whatever its content type says.
struct Body<T>(T);

impl<T: DeserializeOwned> FromRequest<Api> for Body<T> {
    type Rejection = ApiError;

    async fn from_request(request: Request, api: &Api) -> Result<Self, ApiError> {
        let max = api.server.config.limits().max_message_size;
        let max_size = max.saturating_mul(MAX_ESCAPE) + ENVELOPE_SIZE;
        let mut body = request.into_body();
        let (mut bytes, mut size) = (Vec::new(), 0);
        while let Some(frame) = poll_fn(|context| Pin::new(&mut body).poll_frame(context)).await {
            let frame = frame.map_err(|error| ApiError::bad(error.to_string()))?;
            let data = frame.into_data().unwrap_or_default();
            size += data.len();
            // What is too much is read all the same, and forgotten: whoever is cut off while it
            // writes does not hear why.
            if size <= max_size {
                bytes.extend_from_slice(&data);
            } else {
                bytes = Vec::new();
            }
        }
        if size > max_size {
            return Err(ApiError::too_large(format_args!("over {max}"), max));
        }
        let mut json = serde_json::Deserializer::from_slice(&bytes);
        let value = serde_path_to_error::deserialize(&mut json)
            .map_err(|error| ApiError::bad(error.to_string()))?;
        json.end()
            .map_err(|error| ApiError::bad(error.to_string()))?;
        Ok(Self(value))
    }
}

//! The control socket: HTTP/1.1 over a Unix socket, the door that answers.

mod body;
mod close;
mod error;
mod look;
mod send;
mod sessions;

use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use axum::Router;
use axum::extract::Request;
use axum::http::{StatusCode, header};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Response};
use axum::routing::{delete, get, post};
use tokio::net::UnixStream;
use tracing::warn;
use ws_transport::{AcceptFailure, Listener};

use self::error::ApiError;
use crate::shared::Shared;

/// Between two attempts to accept when descriptors have run out.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Answers requests until the task is dropped.
pub(crate) async fn serve_control(listener: Listener, server: Arc<Shared>, ready: Arc<AtomicBool>) {
    let router = Router::new()
        .route("/v1/send", post(send::send))
        .route("/v1/run", post(send::run))
        .route("/v1/connections", get(look::connections))
        .route("/v1/connections/{id}", delete(close::close_connection))
        .route("/v1/users/{id}", delete(close::close_user))
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

/// A page that a browser shows has no business here, whatever let it reach this socket.
async fn refuse_browsers(request: Request, next: Next) -> Response {
    if request.headers().contains_key(header::ORIGIN) {
        return ApiError::new(StatusCode::FORBIDDEN, "not from a browser").into_response();
    }
    next.run(request).await
}

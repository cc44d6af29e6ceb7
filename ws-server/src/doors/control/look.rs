//! How the server does.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use axum::extract::State;
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Json};
use serde_json::{Value, json};

use super::Api;
use super::error::ApiError;
use crate::metrics;

pub(super) async fn status(State(api): State<Api>) -> Json<Value> {
    let mut status = crate::status::status(&api.server);
    status.insert(
        "metrics".to_owned(),
        json!({ "listen": api.metrics_url.as_deref() }),
    );
    if let Some(Value::Object(control)) = status.get_mut("control") {
        control.insert("listen".to_owned(), json!(api.tcp_url.as_deref()));
        control.insert("keys".to_owned(), json!(api.keys.len()));
    }
    Json(Value::Object(status))
}

pub(super) async fn metrics(State(api): State<Api>) -> impl IntoResponse {
    let text = metrics::text(&api.server);
    ([(header::CONTENT_TYPE, metrics::CONTENT_TYPE)], text)
}

/// Whoever may ask for everything else hears what stands in the way.
pub(super) async fn is_ready(
    State(api): State<Api>,
    headers: HeaderMap,
) -> Result<&'static str, ApiError> {
    match obstacle(&api).await {
        Some(reason) if api.door.opens_for(&headers) => {
            Err(not_ready(format!("not ready: {reason}")))
        }
        obstacle => readiness_of(obstacle.is_none()),
    }
}

/// Where anybody may ask, nobody hears more than that: the reason has names and addresses in it.
pub(super) async fn is_ready_in_public(State(api): State<Api>) -> Result<&'static str, ApiError> {
    readiness_of(obstacle(&api).await.is_none())
}

fn readiness_of(is_ready: bool) -> Result<&'static str, ApiError> {
    match is_ready {
        true => Ok("ready\n"),
        false => Err(not_ready("not ready".to_owned())),
    }
}

fn not_ready(text: String) -> ApiError {
    ApiError::new(StatusCode::SERVICE_UNAVAILABLE, text)
}

async fn obstacle(api: &Api) -> Option<Arc<str>> {
    match api.ready.load(Ordering::Relaxed) {
        true => api.readiness.obstacle(&api.server).await,
        false if *api.server.draining.borrow() => Some("draining".into()),
        false => Some("starting, or ending".into()),
    }
}

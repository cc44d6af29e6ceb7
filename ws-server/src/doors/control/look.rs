//! How the server does.

use std::sync::atomic::Ordering;

use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Json};
use serde_json::{Value, json};

use super::Api;
use super::error::ApiError;
use crate::{metrics, readiness};

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

pub(super) async fn is_ready(State(api): State<Api>) -> Result<&'static str, ApiError> {
    let reason = match api.ready.load(Ordering::Relaxed) {
        true => readiness::obstacle(&api.server).await,
        false if *api.server.draining.borrow() => Some("draining".to_owned()),
        false => Some("starting, or ending".to_owned()),
    };
    match reason {
        None => Ok("ready\n"),
        Some(reason) => {
            let text = format!("not ready: {reason}");
            Err(ApiError::new(StatusCode::SERVICE_UNAVAILABLE, text))
        }
    }
}

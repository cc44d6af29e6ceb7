//! How the server does.

use std::sync::atomic::Ordering;

use axum::extract::State;
use axum::http::StatusCode;
use axum::response::Json;
use serde_json::{Value, json};

use super::Api;
use super::error::ApiError;

pub(super) async fn status(State(api): State<Api>) -> Json<Value> {
    let mut status = crate::status::status(&api.server);
    if let Some(Value::Object(control)) = status.get_mut("control") {
        control.insert("listen".to_owned(), json!(api.tcp_url.as_deref()));
        control.insert("keys".to_owned(), json!(api.keys.len()));
    }
    Json(Value::Object(status))
}

pub(super) async fn is_ready(State(api): State<Api>) -> Result<&'static str, ApiError> {
    if api.ready.load(Ordering::Relaxed) {
        Ok("ready\n")
    } else {
        Err(ApiError::new(StatusCode::SERVICE_UNAVAILABLE, "not ready"))
    }
}

//! How the server does.

use std::sync::atomic::Ordering;

use axum::extract::State;
use axum::http::StatusCode;
use axum::response::Json;
use serde_json::Value;

use super::Api;
use super::error::ApiError;

pub(super) async fn status(State(api): State<Api>) -> Json<Value> {
    Json(Value::Object(crate::status::status(&api.server)))
}

pub(super) async fn is_ready(State(api): State<Api>) -> Result<&'static str, ApiError> {
    if api.ready.load(Ordering::Relaxed) {
        Ok("ready\n")
    } else {
        Err(ApiError::new(StatusCode::SERVICE_UNAVAILABLE, "not ready"))
    }
}

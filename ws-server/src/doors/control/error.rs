//! What is answered to a request that cannot be served.

use std::fmt::Display;

use axum::http::StatusCode;
use axum::response::{IntoResponse, Json, Response};
use serde_json::json;
use ws_session::StoreError;

/// An answer of 4xx or 5xx: `{"error": "..."}`.
pub(super) struct ApiError {
    status: StatusCode,
    text: String,
}

impl ApiError {
    pub(super) fn new(status: StatusCode, text: impl Into<String>) -> Self {
        Self {
            status,
            text: text.into(),
        }
    }

    pub(super) fn bad(text: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, text)
    }

    pub(super) fn too_large(what: impl Display, max: usize) -> Self {
        let text = format!("the message has {what} bytes, limits.max_message_size is {max}");
        Self::new(StatusCode::PAYLOAD_TOO_LARGE, text)
    }

    pub(super) fn stopped() -> Self {
        Self::new(StatusCode::SERVICE_UNAVAILABLE, "the server is going down")
    }
}

/// Whoever asks may ask again; what went wrong is the server's to tell.
impl From<StoreError> for ApiError {
    fn from(error: StoreError) -> Self {
        Self::new(StatusCode::SERVICE_UNAVAILABLE, error.to_string())
    }
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        (self.status, Json(json!({ "error": self.text }))).into_response()
    }
}

//! What is answered to a request that cannot be served.

use std::fmt::Display;

use axum::http::{HeaderName, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Json, Response};
use serde_json::{Value, json};
use ws_session::StoreError;

/// An answer of 4xx or 5xx: `{"error": "..."}`.
#[derive(Debug)]
pub(super) struct ApiError {
    status: StatusCode,
    text: String,
    /// What the status asks for to be said in a header.
    header: Option<(HeaderName, HeaderValue)>,
}

impl ApiError {
    pub(super) fn new(status: StatusCode, text: impl Into<String>) -> Self {
        Self {
            status,
            text: text.into(),
            header: None,
        }
    }

    pub(super) fn bad(text: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, text)
    }

    /// More of something than a setting allows.
    pub(super) fn too_large(what: impl Display, setting: &str, max: usize) -> Self {
        let text = format!("{what}; {setting} is {max}");
        Self::new(StatusCode::PAYLOAD_TOO_LARGE, text)
    }

    pub(super) fn timeout(text: &str) -> Self {
        Self::new(StatusCode::REQUEST_TIMEOUT, text)
    }

    pub(super) fn stopped() -> Self {
        Self::new(StatusCode::SERVICE_UNAVAILABLE, "the server is going down")
    }

    /// RFC 6750 §3: without a token nothing is said about it, with a wrong one that it is.
    pub(super) fn unauthorized(has_token: bool) -> Self {
        let (text, challenge) = match has_token {
            false => (
                "a token is needed: Authorization: Bearer TOKEN",
                "Bearer realm=\"ws\"",
            ),
            true => (
                "the token is not one of control.token_file",
                "Bearer realm=\"ws\", error=\"invalid_token\"",
            ),
        };
        let challenge = HeaderValue::from_static(challenge);
        Self {
            header: Some((header::WWW_AUTHENTICATE, challenge)),
            ..Self::new(StatusCode::UNAUTHORIZED, text)
        }
    }

    /// More requests than `control.rate`; in so many seconds there is room for one again.
    pub(super) fn too_many(retry_after: u64) -> Self {
        let text = "more requests than control.rate in a second";
        Self {
            header: Some((header::RETRY_AFTER, retry_after.into())),
            ..Self::new(StatusCode::TOO_MANY_REQUESTS, text)
        }
    }

    /// The same error, of one of several.
    pub(super) fn at(mut self, place: impl Display) -> Self {
        self.text = format!("{place}.{}", self.text);
        self
    }

    /// The error as one line of a stream that has begun, and so has no status any more.
    pub(super) fn to_json(&self) -> Value {
        json!({ "error": self.text, "status": self.status.as_u16() })
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
        let mut response = (self.status, Json(json!({ "error": self.text }))).into_response();
        if let Some((name, value)) = self.header {
            response.headers_mut().insert(name, value);
        }
        response
    }
}

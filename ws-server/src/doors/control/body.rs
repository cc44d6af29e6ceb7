//! What a request says in its body.

use std::future::poll_fn;
use std::pin::Pin;

use axum::body::HttpBody;
use axum::extract::{FromRequest, Request};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use ws_session::{ConnectionId, SessionId, Target, UserId};

use super::Api;
use super::error::ApiError;

/// Room for the JSON around a message.
const ENVELOPE_SIZE: usize = 64 * 1024;
/// What the shortest character may become in JSON: `\u0001`. Base64 takes less.
const MAX_ESCAPE: usize = 6;

/// Whom a request is for: exactly one of its keys.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct To {
    pub(super) all: Option<bool>,
    pub(super) user: Option<String>,
    pub(super) session: Option<String>,
    pub(super) connection: Option<String>,
}

impl To {
    pub(super) fn target(self) -> Result<Target, ApiError> {
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

/// The body of a request, which is JSON whatever its content type says.
pub(super) struct Body<T>(pub(super) T);

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

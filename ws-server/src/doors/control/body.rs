//! What a request says in its body.

use std::future::poll_fn;
use std::pin::Pin;
use std::time::Duration;

use axum::body::{Body as RequestBody, HttpBody};
use axum::extract::{FromRequest, Request};
use axum::http::{HeaderMap, StatusCode, header};
use bytes::Bytes;
use serde::de::DeserializeOwned;
use tokio::time::timeout;

use super::Api;
use super::error::ApiError;
pub(super) use super::to::To;
use crate::config::Config;

/// Room for the JSON around a message.
const ENVELOPE_SIZE: usize = 64 * 1024;
/// What the shortest character may become in JSON: `\u0001`. Base64 takes less.
const MAX_ESCAPE: usize = 6;

/// The body of a request, which is JSON whatever its content type says.
pub(super) struct Body<T>(pub(super) T);

impl<T: DeserializeOwned> FromRequest<Api> for Body<T> {
    type Rejection = ApiError;

    async fn from_request(request: Request, api: &Api) -> Result<Self, ApiError> {
        if is_lines(request.headers())? {
            let text = "a stream of lines is taken by /v1/send only";
            return Err(ApiError::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, text));
        }
        let bytes = read(request.into_body(), api).await?;
        parse(&bytes).map(Self)
    }
}

/// Whether the body is a stream of requests, one a line.
///
/// # Errors
///
/// 415 if the body is encoded: what is small on the wire would not be small here.
pub(super) fn is_lines(headers: &HeaderMap) -> Result<bool, ApiError> {
    let encoding = headers.get(header::CONTENT_ENCODING);
    if encoding.is_some_and(|encoding| !encoding.as_bytes().eq_ignore_ascii_case(b"identity")) {
        let text = "no Content-Encoding is understood";
        return Err(ApiError::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, text));
    }
    let kind = headers.get(header::CONTENT_TYPE);
    let kind = kind.and_then(|kind| kind.to_str().ok()).unwrap_or_default();
    let kind = kind.split(';').next().unwrap_or_default().trim();
    Ok(kind.eq_ignore_ascii_case("application/x-ndjson"))
}

/// Reads a whole body.
pub(super) async fn read(body: RequestBody, api: &Api) -> Result<Vec<u8>, ApiError> {
    let max = BodyLimit::of(&api.server.current().config);
    let reading = read_at_most(body, max);
    match api.door.timeout {
        Some(patience) => within(patience, reading).await?,
        None => reading.await,
    }
}

async fn within<T>(patience: Duration, reading: impl Future<Output = T>) -> Result<T, ApiError> {
    let read = timeout(patience, reading).await;
    read.map_err(|_| ApiError::timeout("the body was not complete in control.timeout"))
}

/// How large a body may be, or a line of a stream.
#[derive(Clone, Copy, Debug)]
pub(super) struct BodyLimit {
    pub(super) bytes: usize,
    /// If that follows from the size of a message.
    max_message_size: Option<usize>,
}

impl BodyLimit {
    pub(super) fn of(config: &Config) -> Self {
        let max_message_size = config.limits().max_message_size;
        match config.control().max_body_size {
            Some(bytes) => Self {
                bytes,
                max_message_size: None,
            },
            None => Self {
                bytes: max_message_size.saturating_mul(MAX_ESCAPE) + ENVELOPE_SIZE,
                max_message_size: Some(max_message_size),
            },
        }
    }

    /// That something is larger.
    pub(super) fn exceeded(self, what: &str) -> ApiError {
        match self.max_message_size {
            None => ApiError::too_large(what, "control.max_body_size", self.bytes),
            Some(max) => {
                let what = format!("{what}, more than control.max_body_size allows by default");
                ApiError::too_large(what, "limits.max_message_size", max)
            }
        }
    }
}

async fn read_at_most(mut body: RequestBody, max: BodyLimit) -> Result<Vec<u8>, ApiError> {
    let (mut bytes, mut size) = (Vec::new(), 0);
    while let Some(data) = next_chunk(&mut body).await? {
        size += data.len();
        // What is too much is read all the same, and forgotten: whoever is cut off while it
        // writes does not hear why.
        if size <= max.bytes {
            bytes.extend_from_slice(&data);
        } else {
            bytes = Vec::new();
        }
    }
    if size > max.bytes {
        return Err(max.exceeded(&format!("the body has {size} bytes")));
    }
    Ok(bytes)
}

/// The next bytes of a body; `None` at its end.
pub(super) async fn next_chunk(body: &mut RequestBody) -> Result<Option<Bytes>, ApiError> {
    let Some(frame) = poll_fn(|context| Pin::new(&mut *body).poll_frame(context)).await else {
        return Ok(None);
    };
    let frame = frame.map_err(|error| ApiError::bad(error.to_string()))?;
    // Trailers are of no use.
    Ok(Some(frame.into_data().unwrap_or_default()))
}

/// Reads JSON; what is wrong is named by its path.
pub(super) fn parse<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, ApiError> {
    let mut json = serde_json::Deserializer::from_slice(bytes);
    let value = serde_path_to_error::deserialize(&mut json)
        .map_err(|error| ApiError::bad(error.to_string()))?;
    json.end()
        .map_err(|error| ApiError::bad(error.to_string()))?;
    Ok(value)
}

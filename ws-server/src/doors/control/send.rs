//! Pushes and runs.

use axum::extract::State;
use axum::response::Json;
use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use bytes::Bytes;
use serde::Deserialize;
use serde_json::{Value, json};
use ws_proto::MessageKind;

use super::Api;
use super::body::{Body, To};
use super::error::ApiError;
use crate::core::question::Source;
use crate::core::uri::Uri;

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct SendRequest {
    to: To,
    text: Option<String>,
    base64: Option<String>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RunRequest {
    to: To,
    uri: String,
    /// What the callback sees as `WS_SOURCE`: `api`, or `cli` from the command line.
    #[serde(default)]
    source: RunSource,
}

#[derive(Clone, Copy, Debug, Default, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum RunSource {
    #[default]
    Api,
    Cli,
}

pub(super) async fn send(
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

pub(super) async fn run(
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

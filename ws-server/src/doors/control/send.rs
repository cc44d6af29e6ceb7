//! Pushes and runs.

use axum::extract::{Request, State};
use axum::response::{IntoResponse, Json, Response};
use bytes::Bytes;
use serde::Deserialize;
use serde_json::{Value, json};

use super::Api;
use super::body::{self, Body, To};
use super::deliver::deliver;
use super::error::ApiError;
use super::message::{Push, SendRequest};
use super::{keys, lines};
use crate::core::question::Source;

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

/// One message, a list of them, or a stream of lines with one each.
pub(super) async fn send(State(api): State<Api>, request: Request) -> Result<Response, ApiError> {
    let key = keys::of_headers(request.headers())?;
    if body::is_lines(request.headers())? {
        return lines::send(api, request, key);
    }
    let body = body::read(request.into_body(), &api).await?;
    let is_batch = body.trim_ascii_start().first() == Some(&b'[');
    let pushes = match is_batch {
        true => check_batch(&api, &body)?,
        false => {
            let request: SendRequest = body::parse(&body)?;
            vec![request.check(&api.server.current().config)?]
        }
    };
    drop(body);
    let receipts = deliver(&api, pushes, key).await?;
    Ok(match is_batch {
        true => Json(json!(*receipts)),
        false => Json(json!(receipts.first())),
    }
    .into_response())
}

/// Checks all of a batch before anything of it is sent.
fn check_batch(api: &Api, body: &[u8]) -> Result<Vec<Push>, ApiError> {
    let requests: Vec<SendRequest> = body::parse(body)?;
    let max = api.server.current().config.control().max_batch.get();
    if requests.len() > max {
        let what = format!("the batch has {} messages", requests.len());
        return Err(ApiError::too_large(what, "control.max_batch", max));
    }
    let requests = requests.into_iter().enumerate();
    let pushes = requests.map(|(index, request)| {
        let checked = request.check(&api.server.current().config);
        checked.map_err(|error| error.at(format_args!("[{index}]")))
    });
    pushes.collect()
}

pub(super) async fn run(
    State(api): State<Api>,
    Body(request): Body<RunRequest>,
) -> Result<Json<Value>, ApiError> {
    let max = api.server.current().config.control().max_targets.get();
    let target = request.to.target_of_at_most(max)?;
    if !api.server.runs(request.uri.as_bytes()) {
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

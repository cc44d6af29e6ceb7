//! Ends connections, by themselves or with their user.

use axum::extract::rejection::QueryRejection;
use axum::extract::{Path, Query, State};
use axum::response::Json;
use serde::Deserialize;
use serde_json::{Value, json};
use ws_proto::{CloseCode, CloseFrame};
use ws_session::Target;

use super::Api;
use super::body::To;
use super::error::ApiError;

/// With which words connections are closed.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct CloseWords {
    pub(super) code: Option<u16>,
    pub(super) reason: Option<String>,
}

/// What a query may say of that.
pub(super) type Words = Result<Query<CloseWords>, QueryRejection>;

pub(super) async fn close_connection(
    State(api): State<Api>,
    Path(id): Path<String>,
    words: Words,
) -> Result<Json<Value>, ApiError> {
    let to = To {
        connection: Some(id),
        ..To::default()
    };
    close(&api, to.target()?, words).await
}

pub(super) async fn close_user(
    State(api): State<Api>,
    Path(id): Path<String>,
    words: Words,
) -> Result<Json<Value>, ApiError> {
    let to = To {
        user: Some(id),
        ..To::default()
    };
    close(&api, to.target()?, words).await
}

impl CloseWords {
    /// What they say, and where they say nothing, what `otherwise` does.
    pub(super) fn frame(self, otherwise: CloseFrame) -> Result<CloseFrame, ApiError> {
        let code = match self.code {
            Some(code) => {
                CloseCode::new(code).map_err(|error| ApiError::bad(format!("code: {error}")))?
            }
            None => otherwise.code,
        };
        let reason = self.reason.unwrap_or(otherwise.reason);
        if reason.len() > CloseFrame::MAX_REASON_SIZE {
            let max = CloseFrame::MAX_REASON_SIZE;
            return Err(ApiError::bad(format!("reason: more than {max} bytes")));
        }
        Ok(CloseFrame::new(code, reason))
    }
}

async fn close(api: &Api, target: Target, words: Words) -> Result<Json<Value>, ApiError> {
    let Query(words) = words.map_err(|error| ApiError::bad(error.body_text()))?;
    let frame = words.frame(CloseFrame::new(CloseCode::POLICY, ""))?;
    let receipt = api.server.hub.close(&target, frame).await;
    let receipt = receipt.map_err(|_| ApiError::stopped())?;
    Ok(Json(json!({ "connections": receipt.written })))
}

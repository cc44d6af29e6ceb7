//! Who is connected, and how the server does.

use std::sync::atomic::Ordering;
use std::time::UNIX_EPOCH;

use axum::extract::State;
use axum::http::StatusCode;
use axum::response::Json;
use serde_json::{Value, json};

use super::Api;
use super::error::ApiError;

pub(super) async fn connections(State(api): State<Api>) -> Json<Value> {
    let registry = api.server.hub.registry();
    let connections: Vec<Value> = registry
        .iter()
        .filter_map(|(id, entry)| Some((id, registry.binding(*id)?, entry)))
        .map(|(id, binding, entry)| {
            let opened_at = entry
                .opened_at
                .duration_since(UNIX_EPOCH)
                .unwrap_or_default();
            json!({
                "id": id.to_string(),
                "user": binding.user.as_str(),
                "session": binding.session.to_string(),
                "ip": entry.addr.map(|addr| addr.to_string()),
                "port": entry.port,
                "uri": &*entry.uri,
                "fifo": entry.fifo.as_ref().map(|path| path.to_string_lossy()),
                "opened_at": opened_at.as_secs_f64(),
            })
        })
        .collect();
    Json(json!({ "connections": connections }))
}

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

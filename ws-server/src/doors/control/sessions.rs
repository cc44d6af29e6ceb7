//! The sessions that are known, and their end.

use axum::extract::rejection::QueryRejection;
use axum::extract::{Path, Query, State};
use axum::response::Json;
use serde::Deserialize;
use serde_json::{Value, json};
use ws_proto::CloseFrame;
use ws_session::{SessionId, SessionQuery, SessionRecord, Target, UserId, to_millis};

use super::Api;
use super::close::{CloseWords, Words};
use super::error::ApiError;

/// Sessions in one answer, unless fewer are asked for.
const MAX_LISTED: usize = 1000;

/// Which sessions are asked for.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct Selection {
    user: Option<String>,
    limit: Option<usize>,
    after: Option<String>,
}

/// Whose sessions end, and with which words.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct UserWords {
    user: String,
    #[serde(default)]
    code: Option<u16>,
    #[serde(default)]
    reason: Option<String>,
}

/// Lists sessions in the order of their ids. Whoever wants more than `limit` asks again for those
/// after the last.
pub(super) async fn list(
    State(api): State<Api>,
    selection: Result<Query<Selection>, QueryRejection>,
) -> Result<Json<Value>, ApiError> {
    let Query(selection) = selection.map_err(|error| ApiError::bad(error.body_text()))?;
    let limit = selection.limit.unwrap_or(MAX_LISTED);
    if !(1..=MAX_LISTED).contains(&limit) {
        return Err(ApiError::bad(format!("limit: 1 to {MAX_LISTED}")));
    }
    let user = selection.user.as_deref().map(user_id).transpose()?;
    let after = selection.after.as_deref().map(session_id("after"));
    let query = SessionQuery {
        user,
        after: after.transpose()?,
        limit,
    };
    let hub = &api.server.hub;
    let (records, last) = hub.keeper.list(&query, &hub.counters).await?;
    let registry = hub.registry();
    let sessions: Vec<Value> = records
        .iter()
        .map(|record| {
            let connections = registry.select(&Target::Session(record.id)).count();
            shown(record, connections)
        })
        .collect();
    let next = last.map(|id| id.to_string());
    Ok(Json(json!({ "sessions": sessions, "next": next })))
}

/// What is told of a session; of its data the size, for it is the application's secret.
fn shown(record: &SessionRecord, connections: usize) -> Value {
    let seconds = |at| to_millis(at) as f64 / 1000.0;
    let user = record.user.as_ref();
    json!({
        "id": record.id.to_string(),
        "user": user.map_or_else(|| record.id.to_string(), ToString::to_string),
        "ip": record.addr.map(|addr| addr.to_string()),
        "created_at": seconds(record.created_at),
        "used_at": seconds(record.used_at),
        "expires_at": record.expires_at.map(seconds),
        "data_bytes": record.data.as_ref().map_or(0, |data| data.as_str().len()),
        "connections": connections,
    })
}

/// Ends a session: its connections are closed, and its cookie is good for nothing any more.
pub(super) async fn revoke(
    State(api): State<Api>,
    Path(id): Path<String>,
    words: Words,
) -> Result<Json<Value>, ApiError> {
    let id = session_id("to.session")(&id)?;
    let Query(words) = words.map_err(|error| ApiError::bad(error.body_text()))?;
    let frame = words.frame(api.server.current().config.identity().close.clone())?;
    to_the_end(async move {
        let (sessions, connections) = revoke_all(&api, &[id], &frame).await?;
        Ok(Json(
            json!({ "sessions": sessions, "connections": connections }),
        ))
    })
    .await
}

/// Ends all sessions of a user.
pub(super) async fn revoke_of_user(
    State(api): State<Api>,
    words: Result<Query<UserWords>, QueryRejection>,
) -> Result<Json<Value>, ApiError> {
    let Query(words) = words.map_err(|error| ApiError::bad(error.body_text()))?;
    let user = user_id(&words.user)?;
    let UserWords { code, reason, .. } = words;
    let words = CloseWords { code, reason };
    let frame = words.frame(api.server.current().config.identity().close.clone())?;
    to_the_end(end_all_of(api, user, frame)).await
}

async fn end_all_of(api: Api, user: UserId, frame: CloseFrame) -> Result<Json<Value>, ApiError> {
    let hub = &api.server.hub;
    let connected = || -> Vec<SessionId> {
        let registry = hub.registry();
        let connections = registry.user(&user);
        let sessions = connections.filter_map(|(id, _)| Some(registry.binding(*id)?.session));
        sessions.collect()
    };
    // Of whom it is being asked who they are, it is not known yet whether they are this user.
    hub.keeper.disown_user(&user);
    // Those who are connected are known without the store, and do not wait for it.
    let mut ids = connected();
    hub.keeper.disown(&ids);
    let closed = hub.close_sessions(&ids, &frame).await;
    let stored = hub.keeper.sessions_of(&user, &hub.counters).await;
    ids.extend(connected());
    // Where nobody names users, the user is the session.
    if api.server.current().validation.is_none() && api.server.identifier.is_none() {
        ids.extend(user.as_str().parse::<SessionId>().ok());
    }
    ids.extend(stored.iter().flatten());
    ids.sort_unstable();
    ids.dedup();
    let (sessions, connections) = revoke_all(&api, &ids, &frame).await?;
    stored?;
    Ok(Json(
        json!({ "sessions": sessions, "connections": closed + connections }),
    ))
}

/// Closes the connections in any case, and before the store is asked, which may take its time. That
/// it did not answer is said afterwards.
async fn revoke_all(
    api: &Api,
    ids: &[SessionId],
    frame: &CloseFrame,
) -> Result<(u64, u64), ApiError> {
    let hub = &api.server.hub;
    hub.keeper.disown(ids);
    let mut connections = hub.close_sessions(ids, frame).await;
    let revoked = hub.keeper.revoke(ids, &hub.counters).await;
    // Whoever was let in meanwhile had been found in the store before.
    connections += hub.close_sessions(ids, frame).await;
    let sessions = revoked?;
    hub.counters.sessions_revoked.add(sessions);
    Ok((sessions, connections))
}

/// Does it to the end though whoever asked for it may go away.
async fn to_the_end<T: Send + 'static>(
    work: impl Future<Output = Result<T, ApiError>> + Send + 'static,
) -> Result<T, ApiError> {
    let done = tokio::spawn(work).await;
    done.map_err(|_| ApiError::stopped())?
}

fn user_id(text: &str) -> Result<UserId, ApiError> {
    UserId::new(text).map_err(|error| ApiError::bad(format!("user: {error}")))
}

fn session_id(field: &'static str) -> impl Fn(&str) -> Result<SessionId, ApiError> {
    move |text| {
        let id = text.parse();
        id.map_err(|error| ApiError::bad(format!("{field}: {error}")))
    }
}

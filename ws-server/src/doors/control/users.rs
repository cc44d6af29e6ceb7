//! Who is connected.
//!
//! A list may be long. What is in it is found out in parts, between which pushes and connections go
//! on, and each part is written down after the registry is free again. A list is a moment's picture
//! only of each part: who was there all the time is in it, exactly once.

use std::collections::HashMap;
use std::ops::Bound;
use std::path::Path as FilePath;
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use axum::extract::rejection::QueryRejection;
use axum::extract::{Path, Query, State};
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde::{Deserialize, Serialize};
use tokio::task::yield_now;
use ws_session::{Binding, ConnectionId, Presence, Registry, SessionId, UserId};

use super::Api;
use super::error::ApiError;
use crate::command::Traffic;
use crate::hub::{Entry, Hub};

/// Places of the registry that are looked at while it is held.
const PLACES_AT_ONCE: usize = 1024;
/// Entries of a list that are looked up while the registry is held, and written at once.
const ENTRIES_AT_ONCE: usize = 256;

/// Which part of a list is wanted.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct UsersQuery {
    limit: Option<usize>,
    /// The id that the last part ended with.
    after: Option<String>,
    /// What ids begin with.
    prefix: Option<String>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct ConnectionsQuery {
    limit: Option<usize>,
    /// The id that the last part ended with.
    after: Option<String>,
    user: Option<String>,
    session: Option<String>,
    /// Whether the workers are asked what went over each.
    traffic: bool,
}

type Asked<Q> = Result<Query<Q>, QueryRejection>;

/// A user in the list.
#[derive(Debug, Serialize)]
struct UserLine<'a> {
    id: &'a str,
    connections: usize,
    sessions: usize,
    since: f64,
}

/// A user alone.
#[derive(Debug, Serialize)]
struct UserPage<'a> {
    id: &'a str,
    since: f64,
    fifo: Option<String>,
    sessions: Vec<String>,
    connections: Vec<ConnectionLine>,
}

#[derive(Debug, Serialize)]
struct ConnectionLine {
    id: String,
    user: String,
    session: String,
    ip: Option<String>,
    port: Option<u16>,
    uri: String,
    fifo: Option<String>,
    opened_at: f64,
    #[serde(flatten, skip_serializing_if = "Option::is_none")]
    traffic: Option<Traffic>,
}

/// `GET /v1/users`.
pub(super) async fn users(
    State(api): State<Api>,
    asked: Asked<UsersQuery>,
) -> Result<Response, ApiError> {
    let Query(asked) = asked.map_err(|error| ApiError::bad(error.body_text()))?;
    let prefix = asked.prefix.unwrap_or_default();
    let after = asked.after.unwrap_or_default();
    if asked.limit == Some(0) {
        return Err(ApiError::bad("limit: at least 1"));
    }
    let mut left = asked.limit.unwrap_or(usize::MAX);
    let mut list = List::new("users");
    let mut last: Option<UserId> = None;
    loop {
        let after = last.as_ref().map_or(after.as_str(), UserId::as_str);
        let some = users_after(&api.server.hub, after, &prefix);
        let are_all = some.len() < ENTRIES_AT_ONCE;
        for (user, presence, sessions) in some {
            if left == 0 {
                return list.finish(last.as_ref().map(UserId::as_str));
            }
            left -= 1;
            list.push(&UserLine {
                id: user.as_str(),
                connections: presence.connections,
                sessions,
                since: unix_time(presence.since),
            })?;
            last = Some(user);
        }
        if are_all {
            return list.finish(None);
        }
        yield_now().await;
    }
}

/// The next users in the order of their ids, and how many sessions each has.
fn users_after(hub: &Hub, after: &str, prefix: &str) -> Vec<(UserId, Presence, usize)> {
    let bound = match after < prefix {
        true => Bound::Included(prefix),
        false => Bound::Excluded(after),
    };
    let registry = hub.registry();
    let users = registry.users_from(bound);
    users
        .take_while(|(user, _)| user.as_str().starts_with(prefix))
        .take(ENTRIES_AT_ONCE)
        .map(|(user, presence)| (user.clone(), presence, sessions_of(&registry, user).len()))
        .collect()
}

/// `GET /v1/users/{id}`.
pub(super) async fn user(
    State(api): State<Api>,
    Path(id): Path<String>,
) -> Result<Response, ApiError> {
    let user = UserId::new(&id).map_err(|error| ApiError::bad(format!("user: {error}")))?;
    let hub = &api.server.hub;
    let (presence, sessions, ids) = {
        let registry = hub.registry();
        let ids: Vec<ConnectionId> = registry.user(&user).map(|(id, _)| *id).collect();
        (registry.presence(&user), sessions_of(&registry, &user), ids)
    };
    let Some(Presence { since, .. }) = presence else {
        let error = format!("{user} has no connection");
        return Err(ApiError::new(StatusCode::NOT_FOUND, error));
    };
    let mut connections = Vec::with_capacity(ids.len());
    let page = Page::of(ids, None)?;
    for some in page.ids.chunks(ENTRIES_AT_ONCE) {
        connections.extend(snapshots(hub, some).into_iter().map(Snapshot::line));
        yield_now().await;
    }
    let answer = UserPage {
        id: user.as_str(),
        since: unix_time(since),
        fifo: hub.user_fifos.path(&user).as_ref().map(shown),
        sessions: sessions.iter().map(SessionId::to_string).collect(),
        connections,
    };
    Ok(json(serde_json::to_vec(&answer).map_err(internal)?))
}

/// `GET /v1/connections`.
pub(super) async fn connections(
    State(api): State<Api>,
    asked: Asked<ConnectionsQuery>,
) -> Result<Response, ApiError> {
    let Query(asked) = asked.map_err(|error| ApiError::bad(error.body_text()))?;
    let parse = |name, error: &dyn std::fmt::Display| ApiError::bad(format!("{name}: {error}"));
    let user = asked.user.map(|user| UserId::new(&user)).transpose();
    let user = user.map_err(|error| parse("user", &error))?;
    let session = asked.session.map(|session| session.parse()).transpose();
    let session: Option<SessionId> = session.map_err(|error| parse("session", &error))?;
    let after = asked.after.map(|after| after.parse()).transpose();
    let after: Option<ConnectionId> = after.map_err(|error| parse("after", &error))?;
    let hub = &api.server.hub;
    let mut ids = ids_of(hub, user.as_ref(), session).await;
    ids.retain(|id| after.is_none_or(|after| *id > after));
    let page = Page::of(ids, asked.limit)?;
    let mut list = List::new("connections");
    for some in page.ids.chunks(ENTRIES_AT_ONCE) {
        let snapshots = snapshots(hub, some);
        let mut traffic = match asked.traffic {
            // One question to each worker, whose connections go on between the parts.
            true => {
                let connections = snapshots.iter().map(|it| (it.id, &it.entry));
                hub.traffic(connections).await
            }
            false => HashMap::new(),
        };
        for snapshot in snapshots {
            let traffic = traffic.remove(&snapshot.id);
            let line = ConnectionLine {
                traffic,
                ..snapshot.line()
            };
            list.push(&line)?;
        }
        yield_now().await;
    }
    list.finish(page.next.map(|id| id.to_string()).as_deref())
}

/// The connections of a user, a session, both, or all.
async fn ids_of(hub: &Hub, user: Option<&UserId>, session: Option<SessionId>) -> Vec<ConnectionId> {
    let mut ids = Vec::new();
    match (user, session) {
        (None, None) => {
            let mut place = 0;
            while let Some(end) = part_of(hub, place, &mut ids) {
                place = end;
                yield_now().await;
            }
        }
        (user, Some(session)) => {
            let registry = hub.registry();
            let of_session = registry.session(session).map(|(id, _)| *id);
            let is_wanted = |id: &ConnectionId| {
                let binding = registry.binding(*id);
                user.is_none_or(|user| binding.is_some_and(|binding| binding.user == *user))
            };
            ids.extend(of_session.filter(is_wanted));
        }
        (Some(user), None) => ids.extend(hub.registry().user(user).map(|(id, _)| *id)),
    }
    ids
}

/// The connections at the next places; returns where the places begin that are left.
fn part_of(hub: &Hub, place: usize, ids: &mut Vec<ConnectionId>) -> Option<usize> {
    let registry = hub.registry();
    let end = place + PLACES_AT_ONCE;
    ids.extend(registry.part_of(place..end).map(|(id, _, _)| id));
    (end < registry.place_count()).then_some(end)
}

/// The sessions of a user, each once.
fn sessions_of(registry: &Registry<Entry>, user: &UserId) -> Vec<SessionId> {
    let connections = registry.user(user);
    let bindings = connections.filter_map(|(id, _)| registry.binding(*id));
    let mut sessions: Vec<SessionId> = bindings.map(|binding| binding.session).collect();
    sessions.sort_unstable();
    sessions.dedup();
    sessions
}

/// What the registry keeps of a connection.
struct Snapshot {
    id: ConnectionId,
    binding: Binding,
    entry: Entry,
}

/// Looks connections up; those that are gone are left out.
fn snapshots(hub: &Hub, ids: &[ConnectionId]) -> Vec<Snapshot> {
    let registry = hub.registry();
    let snapshot = |id: &ConnectionId| {
        Some(Snapshot {
            id: *id,
            binding: registry.binding(*id)?.clone(),
            entry: registry.get(*id)?.clone(),
        })
    };
    ids.iter().filter_map(snapshot).collect()
}

impl Snapshot {
    fn line(self) -> ConnectionLine {
        let Self { id, binding, entry } = self;
        ConnectionLine {
            id: id.to_string(),
            user: binding.user.as_str().to_owned(),
            session: binding.session.to_string(),
            ip: entry.addr.map(|addr| addr.to_string()),
            port: entry.port,
            uri: entry.uri.to_string(),
            fifo: entry.fifo.as_ref().map(shown),
            opened_at: unix_time(entry.opened_at),
            traffic: None,
        }
    }
}

/// A part of a list, in the order of the ids.
struct Page<I> {
    ids: Vec<I>,
    /// The last one of it, if there are more.
    next: Option<I>,
}

impl<I: Ord + Clone> Page<I> {
    fn of(mut ids: Vec<I>, limit: Option<usize>) -> Result<Self, ApiError> {
        if limit == Some(0) {
            return Err(ApiError::bad("limit: at least 1"));
        }
        let limit = limit.filter(|limit| *limit < ids.len());
        if let Some(limit) = limit {
            ids.select_nth_unstable(limit);
            ids.truncate(limit);
        }
        ids.sort_unstable();
        let next = limit.and_then(|_| ids.last().cloned());
        Ok(Self { ids, next })
    }
}

/// A list on its way to be an answer.
struct List {
    bytes: Vec<u8>,
    is_empty: bool,
}

impl List {
    fn new(name: &str) -> Self {
        Self {
            bytes: format!("{{\"{name}\":[").into_bytes(),
            is_empty: true,
        }
    }

    fn push(&mut self, line: &impl Serialize) -> Result<(), ApiError> {
        if !std::mem::take(&mut self.is_empty) {
            self.bytes.push(b',');
        }
        serde_json::to_writer(&mut self.bytes, line).map_err(internal)
    }

    fn finish(mut self, next: Option<&str>) -> Result<Response, ApiError> {
        self.bytes.push(b']');
        if let Some(next) = next {
            self.bytes.extend_from_slice(b",\"next\":");
            serde_json::to_writer(&mut self.bytes, next).map_err(internal)?;
        }
        self.bytes.push(b'}');
        Ok(json(self.bytes))
    }
}

fn json(bytes: Vec<u8>) -> Response {
    ([(header::CONTENT_TYPE, "application/json")], bytes).into_response()
}

fn internal(error: serde_json::Error) -> ApiError {
    ApiError::new(StatusCode::INTERNAL_SERVER_ERROR, error.to_string())
}

fn shown(path: &Arc<FilePath>) -> String {
    path.to_string_lossy().into_owned()
}

fn unix_time(time: SystemTime) -> f64 {
    let since = time.duration_since(UNIX_EPOCH).unwrap_or_default();
    since.as_secs_f64()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn prop_pages_make_up_the_list(ids in prop::collection::btree_set(any::<u16>(), 0..50), limit in 1_usize..20) {
            let sorted: Vec<u16> = ids.iter().copied().collect();
            let mut pages = Vec::new();
            let mut after = None;
            loop {
                // In some other order.
                let rest = sorted.iter().rev().copied().filter(|id| after.is_none_or(|after| *id > after));
                let page = Page::of(rest.collect(), Some(limit)).unwrap_or_else(|_| unreachable!());
                prop_assert!(page.ids.len() <= limit);
                pages.extend(page.ids);
                after = page.next;
                if after.is_none() {
                    break;
                }
            }
            prop_assert_eq!(pages, sorted);
        }
    }
}

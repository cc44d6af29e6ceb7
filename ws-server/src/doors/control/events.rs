//! Who comes and goes, as server-sent events
//! ([HTML §9.2](https://html.spec.whatwg.org/multipage/server-sent-events.html)).

use std::convert::Infallible;
use std::fmt::Write as _;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use axum::body::{Body, Bytes, HttpBody};
use axum::extract::rejection::QueryRejection;
use axum::extract::{Query, State};
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use hyper::body::Frame;
use serde::{Deserialize, Serialize};
use tokio::time::{Instant, Interval, MissedTickBehavior, interval_at};
use ws_session::UserId;

use super::Api;
use super::error::ApiError;
use crate::core::changes::{Change, Kind};
use crate::presence::{Heard, Listener};

/// How long nothing may be heard of us: proxies and clients take a silent stream for a dead one.
const HEARTBEAT: Duration = Duration::from_secs(15);
/// How soon a client that lost us is to come back, in milliseconds.
const RETRY: u32 = 1000;

/// What one wants to hear.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct EventsQuery {
    user: Option<String>,
    /// Names of events, separated by commas.
    events: Option<String>,
}

/// `GET /v1/events`.
pub(super) async fn events(
    State(api): State<Api>,
    headers: HeaderMap,
    asked: Result<Query<EventsQuery>, QueryRejection>,
) -> Result<Response, ApiError> {
    let Query(asked) = asked.map_err(|error| ApiError::bad(error.body_text()))?;
    let filter = Filter::parse(asked)?;
    // What is no id of ours is one of which everything since is forgotten.
    let id_of = |last: &HeaderValue| last.to_str().ok()?.parse().ok();
    let last = headers
        .get("Last-Event-ID")
        .map(|last| id_of(last).unwrap_or(0));
    let max = api.server.current().config.control().max_listeners;
    let listener = api.server.hub.listen(last, max).map_err(|_| {
        let text = format!("control.max_listeners is {max}, and so many listen");
        ApiError::new(StatusCode::SERVICE_UNAVAILABLE, text)
    })?;
    let stream = EventStream::new(listener, filter);
    let headers = [
        (header::CONTENT_TYPE, "text/event-stream"),
        (header::CACHE_CONTROL, "no-store"),
    ];
    Ok((headers, Body::new(stream)).into_response())
}

/// Which events one wants to hear.
struct Filter {
    user: Option<UserId>,
    /// All, if there is none.
    kinds: Vec<Kind>,
}

impl Filter {
    fn parse(asked: EventsQuery) -> Result<Self, ApiError> {
        let user = asked.user.map(|user| UserId::new(&user)).transpose();
        let user = user.map_err(|error| ApiError::bad(format!("user: {error}")))?;
        let names = asked.events.as_deref().unwrap_or_default();
        let names = names.split(',').filter(|name| !name.is_empty());
        let kinds = names.map(|name| {
            Kind::parse(name).ok_or_else(|| {
                ApiError::bad("events: some of open, close, online, offline, with commas between")
            })
        });
        Ok(Self {
            user,
            kinds: kinds.collect::<Result<_, _>>()?,
        })
    }

    fn kinds<'a>(&'a self, change: &'a Change) -> impl Iterator<Item = Kind> + 'a {
        let is_wanted = self.user.as_ref().is_none_or(|user| change.user == *user);
        change
            .kinds()
            .filter(move |kind| is_wanted && (self.kinds.is_empty() || self.kinds.contains(kind)))
    }
}

/// The data of an event.
#[derive(Debug, Serialize)]
struct Data<'a> {
    user: &'a str,
    session: String,
    connection: String,
    connections: usize,
    generation: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    code: Option<u16>,
    #[serde(skip_serializing_if = "Option::is_none")]
    cause: Option<&'a str>,
}

impl<'a> Data<'a> {
    fn of(change: &'a Change) -> Self {
        Self {
            user: change.user.as_str(),
            session: change.session.to_string(),
            connection: change.connection.to_string(),
            connections: change.connections,
            generation: change.generation,
            code: change.end.map(|end| end.code),
            cause: change.end.map(|end| end.cause),
        }
    }
}

/// The body of the answer. It takes no more from its listener than the client reads.
struct EventStream {
    listener: Listener,
    filter: Filter,
    heartbeat: Interval,
    has_begun: bool,
}

impl EventStream {
    fn new(listener: Listener, filter: Filter) -> Self {
        let mut heartbeat = interval_at(Instant::now() + HEARTBEAT, HEARTBEAT);
        heartbeat.set_missed_tick_behavior(MissedTickBehavior::Delay);
        Self {
            listener,
            filter,
            heartbeat,
            has_begun: false,
        }
    }

    fn poll_text(&mut self, cx: &mut Context<'_>) -> Poll<Option<String>> {
        let mut text = String::new();
        if !std::mem::replace(&mut self.has_begun, true) {
            let _never_fails = writeln!(text, "retry: {RETRY}");
            if self.listener.has_lost() {
                text.push_str("event: reset\ndata: {\"snapshot\":\"/v1/users\"}\n");
            }
            self.end_with_id(&mut text);
            return Poll::Ready(Some(text));
        }
        while text.is_empty() {
            match self.listener.poll_next(cx) {
                Poll::Ready(Some(Heard::Changes(changes))) => {
                    changes
                        .iter()
                        .for_each(|change| self.tell(change, &mut text));
                }
                Poll::Ready(Some(Heard::Missed(missed))) => {
                    let _never_fails =
                        writeln!(text, "event: lagged\ndata: {{\"missed\":{missed}}}");
                    self.end_with_id(&mut text);
                }
                Poll::Ready(None) => return Poll::Ready(None),
                Poll::Pending => {
                    if self.heartbeat.poll_tick(cx).is_pending() {
                        return Poll::Pending;
                    }
                    text.push_str(":\n");
                    // Also of what it did not want to hear: that need not be remembered for it.
                    self.end_with_id(&mut text);
                }
            }
        }
        self.heartbeat.reset();
        Poll::Ready(Some(text))
    }

    /// Tells of a change. Its id stands at the last event of it only: whoever is cut off before
    /// that hears of the whole change again.
    fn tell(&self, change: &Change, text: &mut String) {
        let mut kinds = self.filter.kinds(change).peekable();
        while let Some(kind) = kinds.next() {
            let data = serde_json::to_string(&Data::of(change)).unwrap_or_default();
            let _never_fails = writeln!(text, "event: {}\ndata: {data}", kind.as_str());
            if kinds.peek().is_none() {
                let _never_fails = writeln!(text, "id: {}", change.generation);
            }
            text.push('\n');
        }
    }

    /// Ends what is told with the id of the last change that was heard of.
    fn end_with_id(&self, text: &mut String) {
        let last = self.listener.next_generation().saturating_sub(1);
        let _never_fails = write!(text, "id: {last}\n\n");
    }
}

impl HttpBody for EventStream {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        let text = self.get_mut().poll_text(cx);
        text.map(|text| text.map(|text| Ok(Frame::data(text.into()))))
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::task::Waker;

    use ws_session::{ConnectionId, SessionId};

    use super::*;
    use crate::core::changes::End;
    use crate::presence::Presence;

    fn change(generation: u64, user: &str, connections: usize, end: Option<End>) -> Change {
        Change {
            generation,
            user: UserId::new(user).unwrap(),
            session: SessionId::of_name("s"),
            connection: ConnectionId::from(7),
            connections,
            end,
        }
    }

    fn stream(
        presence: &Arc<Presence>,
        next: u64,
        last: Option<u64>,
        query: EventsQuery,
    ) -> EventStream {
        let listener = presence.listen(next, last, 9).unwrap();
        EventStream::new(listener, Filter::parse(query).ok().unwrap())
    }

    fn text(stream: &mut EventStream) -> String {
        let mut cx = Context::from_waker(Waker::noop());
        match stream.poll_text(&mut cx) {
            Poll::Ready(text) => text.unwrap(),
            Poll::Pending => "(nothing)".to_owned(),
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_change_is_told_under_its_names_with_its_id_last() {
        let presence = Arc::new(Presence::default());
        let mut all = stream(&presence, 5, None, EventsQuery::default());
        assert_eq!(text(&mut all), "retry: 1000\nid: 4\n\n");
        assert_eq!(text(&mut all), "(nothing)");
        presence.note(change(5, "al\"ice", 1, None));
        let session = SessionId::of_name("s");
        let data = format!(
            "data: {{\"user\":\"al\\\"ice\",\"session\":\"{session}\",\
             \"connection\":\"0000000000000007\",\"connections\":1,\"generation\":5}}\n"
        );
        assert_eq!(
            text(&mut all),
            format!("event: open\n{data}\nevent: online\n{data}id: 5\n\n")
        );
    }

    #[tokio::test(start_paused = true)]
    async fn only_what_is_wanted_is_told() {
        let presence = Arc::new(Presence::default());
        let query = EventsQuery {
            user: Some("bob".to_owned()),
            events: Some("offline".to_owned()),
        };
        let mut some = stream(&presence, 1, None, query);
        text(&mut some);
        let end = Some(End {
            code: 1001,
            cause: "drain",
        });
        presence.note(change(1, "alice", 0, end));
        presence.note(change(2, "bob", 1, end));
        presence.note(change(3, "bob", 0, end));
        let told = text(&mut some);
        assert!(
            told.starts_with("event: offline\ndata: {\"user\":\"bob\""),
            "{told}"
        );
        assert!(told.contains("\"code\":1001,\"cause\":\"drain\""), "{told}");
        assert!(told.ends_with("id: 3\n\n"), "{told}");
        assert_eq!(told.matches("event:").count(), 1);
    }

    #[tokio::test(start_paused = true)]
    async fn a_heartbeat_says_how_far_one_has_heard() {
        let presence = Arc::new(Presence::default());
        let query = EventsQuery {
            events: Some("offline".to_owned()),
            ..EventsQuery::default()
        };
        let mut some = stream(&presence, 1, None, query);
        text(&mut some);
        presence.note(change(1, "alice", 1, None));
        assert_eq!(text(&mut some), "(nothing)");
        tokio::time::advance(HEARTBEAT).await;
        assert_eq!(text(&mut some), ":\nid: 1\n\n");
        // Whoever comes back with that has missed nothing.
        presence.note(change(
            2,
            "alice",
            0,
            Some(End {
                code: 1000,
                cause: "peer",
            }),
        ));
        let mut back = stream(&presence, 3, Some(1), EventsQuery::default());
        assert_eq!(text(&mut back), "retry: 1000\nid: 1\n\n");
        assert!(text(&mut back).contains("event: offline\n"));
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_forgotten_is_said_to_be() {
        let presence = Arc::new(Presence::default());
        let mut back = stream(&presence, 9, Some(3), EventsQuery::default());
        assert_eq!(
            text(&mut back),
            "retry: 1000\nevent: reset\ndata: {\"snapshot\":\"/v1/users\"}\nid: 8\n\n"
        );
    }
}

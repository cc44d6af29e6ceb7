//! The log, as server-sent events: its last lines, and those that come.

use std::fmt::Write as _;
use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use axum::extract::rejection::QueryRejection;
use axum::extract::{Query, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use serde::Deserialize;
use tokio::sync::mpsc;
use tokio::time::sleep;

use super::Api;
use super::error::ApiError;
use super::lines::Answers;
use crate::log_tail::{LogTail, Part};

/// How long nothing may be heard of us: proxies and clients take a silent stream for a dead one.
const HEARTBEAT: Duration = Duration::from_secs(15);
/// Between two parts. Sending one may itself be worth a line of the log, and must not beget a flood.
const PAUSE: Duration = Duration::from_millis(200);
/// Lines in a part.
const LINES_AT_ONCE: usize = 200;
/// Lines that one sees who does not say how many.
const USUAL_LINES: usize = 100;

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct LogQuery {
    /// How many lines that are there already are wanted.
    lines: usize,
    /// Whether those that come are wanted, too.
    follow: bool,
}

impl Default for LogQuery {
    fn default() -> Self {
        Self {
            lines: USUAL_LINES,
            follow: true,
        }
    }
}

/// Those who follow the log.
#[derive(Debug, Default)]
pub(super) struct Readers(Arc<()>);

impl Readers {
    /// Counts another one until what is returned is dropped; `None` if there are as many as may be.
    fn enter(&self, max: usize) -> Option<Arc<()>> {
        // One of them is this.
        (Arc::strong_count(&self.0) <= max).then(|| Arc::clone(&self.0))
    }
}

/// `GET /v1/log`.
pub(super) async fn log(
    State(api): State<Api>,
    headers: HeaderMap,
    asked: Result<Query<LogQuery>, QueryRejection>,
) -> Result<Response, ApiError> {
    let Query(asked) = asked.map_err(|error| ApiError::bad(error.body_text()))?;
    let max = api.server.current().config.control().max_listeners;
    let place = api.log_readers.enter(max).ok_or_else(|| {
        let text = format!("control.max_listeners is {max}, and so many follow the log");
        ApiError::new(StatusCode::SERVICE_UNAVAILABLE, text)
    })?;
    let next = match headers.get("Last-Event-ID") {
        Some(last) => api.log.behind(last.to_str().unwrap_or_default()),
        None => api.log.before_end(asked.lines),
    };
    // What is written because of this answer is not a part of it.
    let end = (!asked.follow).then(|| api.log.before_end(0));
    let (parts, stream) = mpsc::channel(1);
    tokio::spawn(async move {
        follow(&api.log, next, end, &parts).await;
        drop(place);
    });
    let headers = [
        (header::CONTENT_TYPE, "text/event-stream"),
        (header::CACHE_CONTROL, "no-store"),
    ];
    Ok((headers, Body::new(Answers::new(stream))).into_response())
}

/// Sends what there is and what comes, up to this line or until nobody takes it any more.
async fn follow(log: &LogTail, mut next: u64, end: Option<u64>, parts: &mpsc::Sender<Bytes>) {
    let mut news = log.news();
    let mut text = String::from("retry: 1000\n\n");
    loop {
        news.mark_unchanged();
        let part = log.from(next, LINES_AT_ONCE);
        next = part.first + part.lines.len() as u64;
        write(log, &part, &mut text);
        if text.is_empty() {
            tokio::select! {
                changed = news.changed() => if changed.is_err() { return },
                () = sleep(HEARTBEAT) => text.push_str(":\n\n"),
                () = parts.closed() => return,
            }
        }
        if !text.is_empty() {
            if parts.send(std::mem::take(&mut text).into()).await.is_err() {
                return;
            }
            if end.is_some_and(|end| next >= end) {
                return;
            }
            tokio::select! {
                () = sleep(PAUSE), if end.is_none() => {}
                () = std::future::ready(()), if end.is_some() => {}
                () = parts.closed() => return,
            }
        }
    }
}

fn write(log: &LogTail, part: &Part, text: &mut String) {
    if part.missed > 0 {
        let missed = part.missed;
        let _never_fails = write!(text, "event: lagged\ndata: {{\"missed\":{missed}}}\n\n");
    }
    for (number, line) in (part.first..).zip(&part.lines) {
        // A line has no line ends in it: control characters are left out.
        let id = log.id(number);
        let _never_fails = write!(text, "id: {id}\ndata: {line}\n\n");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(bytes: Option<Bytes>) -> String {
        String::from_utf8(bytes.unwrap().to_vec()).unwrap()
    }

    #[tokio::test(start_paused = true)]
    async fn lines_come_with_their_numbers_and_silence_is_filled() {
        let log = LogTail::default();
        log.write(b"one\n{\"two\": 2}\n");
        let (parts, mut stream) = mpsc::channel(1);
        let follower = log.clone();
        let following = tokio::spawn(async move { follow(&follower, 1, None, &parts).await });
        assert_eq!(
            text(stream.recv().await),
            format!("retry: 1000\n\nid: {}\ndata: {{\"two\": 2}}\n\n", log.id(1))
        );
        log.write(b"three\n");
        let three = format!("id: {}\ndata: three\n\n", log.id(2));
        assert_eq!(text(stream.recv().await), three);
        assert_eq!(text(stream.recv().await), ":\n\n");
        for number in 3..1503 {
            log.write(format!("{number}\n").as_bytes());
        }
        let part = text(stream.recv().await);
        let begin = format!(
            "event: lagged\ndata: {{\"missed\":500}}\n\nid: {}\ndata: 503\n\n",
            log.id(503)
        );
        assert!(part.starts_with(&begin), "{part}");
        assert_eq!(part.matches("data: ").count(), 1 + LINES_AT_ONCE);
        drop(stream);
        following.await.unwrap();
    }

    #[tokio::test(start_paused = true)]
    async fn who_does_not_follow_gets_what_there_is_and_nothing_that_comes_of_it() {
        let log = LogTail::default();
        for number in 0..2 * LINES_AT_ONCE {
            log.write(format!("{number}\n").as_bytes());
        }
        for (next, expected) in [(0, 2 * LINES_AT_ONCE), (log.before_end(0), 0)] {
            let (parts, mut stream) = mpsc::channel(1);
            let follower = log.clone();
            let end = Some(log.before_end(0));
            let following = tokio::spawn(async move { follow(&follower, next, end, &parts).await });
            let mut told = 0;
            while let Some(part) = stream.recv().await {
                told += text(Some(part)).matches("data: ").count();
                log.write(b"sent\n");
            }
            following.await.unwrap();
            // The end of the last part may be behind that of the answer.
            assert!((expected..=expected + 2).contains(&told), "{told}");
        }
    }

    #[test]
    fn there_are_as_many_readers_as_there_may_be_now() {
        let readers = Readers::default();
        let first = readers.enter(1);
        assert!(first.is_some() && readers.enter(1).is_none());
        let second = readers.enter(2);
        assert!(second.is_some());
        drop(first);
        assert!(readers.enter(1).is_none(), "fewer are allowed now");
        assert!(readers.enter(0).is_none());
        drop(second);
        assert!(readers.enter(1).is_some());
    }
}

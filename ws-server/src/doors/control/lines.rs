//! A stream of lines, each a message to send; the answer is one of lines, each a receipt.

use std::convert::Infallible;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use axum::body::{Body, HttpBody};
use axum::extract::Request;
use axum::http::header;
use axum::response::{IntoResponse, Response};
use bytes::{Bytes, BytesMut};
use hyper::body::Frame;
use serde_json::{Value, json};
use tokio::sync::mpsc;
use tokio::time::{Instant, timeout_at};

use super::Api;
use super::body::{self, BodyLimit, next_chunk};
use super::deliver::deliver;
use super::error::ApiError;
use super::message::{Push, SendRequest};

/// Answers that wait for the client to read them; what is behind them is not read until it does.
const ANSWERS_AHEAD: usize = 4;

/// Sends each line as it comes. A line that is wrong is answered in its place, and the next ones
/// are sent all the same. Over TCP each has `control.timeout` to come.
pub(super) fn send(api: Api, request: Request, key: Option<String>) -> Result<Response, ApiError> {
    if key.is_some() {
        let text = "Idempotency-Key: each line of a stream has a key of its own";
        return Err(ApiError::bad(text));
    }
    let (answers, stream) = mpsc::channel(ANSWERS_AHEAD);
    // It ends with the request's body, or when nobody takes the answers any more.
    tokio::spawn(serve(api, request.into_body(), answers));
    let kind = [(header::CONTENT_TYPE, "application/x-ndjson")];
    Ok((kind, Body::new(Answers::new(stream))).into_response())
}

async fn serve(api: Api, mut body: Body, answers: mpsc::Sender<Bytes>) {
    let max = BodyLimit::of(&api.server.current().config);
    let mut lines = Lines::new(max.bytes);
    let deadline = || api.door.timeout.map(|patience| Instant::now() + patience);
    let mut next_by = deadline();
    loop {
        let Some((mut found, end)) = next_lines(&mut body, &mut lines, max, next_by).await else {
            return;
        };
        // Also an empty one: with these a client can keep the stream.
        let has_come = !found.is_empty();
        found.retain(|line| !line.trim_ascii().is_empty());
        let mut answer = Vec::new();
        // As many as a batch may have, in one go.
        for lines in found.chunks(api.server.current().config.control().max_batch.get()) {
            for one in answer_lines(&api, lines).await {
                answer.extend_from_slice(one.to_string().as_bytes());
                answer.push(b'\n');
            }
        }
        if let Some(End::Error(error)) = &end {
            answer.extend_from_slice(error.to_json().to_string().as_bytes());
            answer.push(b'\n');
        }
        if !answer.is_empty() && answers.send(answer.into()).await.is_err() {
            return;
        }
        if end.is_some() {
            return;
        }
        if has_come {
            next_by = deadline();
        }
    }
}

/// Why no more lines are taken.
enum End {
    /// There are no more.
    Whole,
    Error(ApiError),
}

/// The lines that the next bytes end, if any, and whether they are the last; `None` if the body has
/// broken off.
async fn next_lines(
    body: &mut Body,
    lines: &mut Lines,
    max: BodyLimit,
    deadline: Option<Instant>,
) -> Option<(Vec<Bytes>, Option<End>)> {
    let chunk = match deadline {
        Some(deadline) => timeout_at(deadline, next_chunk(body)).await,
        None => Ok(next_chunk(body).await),
    };
    Some(match chunk {
        Ok(Ok(Some(chunk))) => match lines.take(&chunk) {
            Ok(found) => (found, None),
            Err(TooLong(found)) => {
                let error = max.exceeded("the line is longer");
                (found, Some(End::Error(error)))
            }
        },
        Ok(Ok(None)) => (lines.finish(), Some(End::Whole)),
        // A line that is not whole is not sent.
        Ok(Err(_)) => return None,
        Err(_) => {
            let error = ApiError::timeout("no line came in control.timeout");
            (Vec::new(), Some(End::Error(error)))
        }
    })
}

/// One answer for each line, in their order.
async fn answer_lines(api: &Api, lines: &[Bytes]) -> Vec<Value> {
    let mut answers = Vec::with_capacity(lines.len());
    let mut good: Vec<Push> = Vec::new();
    for line in lines {
        let request = body::parse::<SendRequest>(line);
        match request.and_then(|request| request.check(&api.server.current().config)) {
            // What is wrong with one key must not hold up the other lines.
            Ok(push) if push.key.is_some() => {
                answer_good(api, &mut good, &mut answers).await;
                good.push(push);
                answer_good(api, &mut good, &mut answers).await;
            }
            Ok(push) => good.push(push),
            Err(error) => {
                answer_good(api, &mut good, &mut answers).await;
                answers.push(error.to_json());
            }
        }
    }
    answer_good(api, &mut good, &mut answers).await;
    answers
}

async fn answer_good(api: &Api, good: &mut Vec<Push>, answers: &mut Vec<Value>) {
    let pushes = std::mem::take(good);
    let count = pushes.len();
    match deliver(api, pushes, None).await {
        Ok(receipts) => answers.extend(receipts.iter().map(|receipt| json!(receipt))),
        Err(error) => answers.extend(std::iter::repeat_n(error.to_json(), count)),
    }
}

/// Cuts bytes into lines.
struct Lines {
    max: usize,
    rest: BytesMut,
}

/// A line that is longer than may be, and those before it.
#[derive(Debug)]
struct TooLong(Vec<Bytes>);

impl Lines {
    fn new(max: usize) -> Self {
        Self {
            max,
            rest: BytesMut::new(),
        }
    }

    /// Takes bytes in, and returns the lines that they end.
    fn take(&mut self, bytes: &[u8]) -> Result<Vec<Bytes>, TooLong> {
        let mut lines = Vec::new();
        for piece in bytes.split_inclusive(|byte| *byte == b'\n') {
            let (line, is_whole) = match piece.strip_suffix(b"\n") {
                Some(line) => (line, true),
                None => (piece, false),
            };
            if self.rest.len() + line.len() > self.max {
                return Err(TooLong(lines));
            }
            self.rest.extend_from_slice(line);
            if is_whole {
                lines.push(self.rest.split().freeze());
            }
        }
        Ok(lines)
    }

    /// The last line need not end with a newline.
    fn finish(&mut self) -> Vec<Bytes> {
        vec![self.rest.split().freeze()]
    }
}

/// The answers as the body of a response.
pub(super) struct Answers(mpsc::Receiver<Bytes>);

impl Answers {
    pub(super) fn new(answers: mpsc::Receiver<Bytes>) -> Self {
        Self(answers)
    }
}

impl HttpBody for Answers {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        let next = ready!(self.0.poll_recv(cx));
        Poll::Ready(next.map(|bytes| Ok(Frame::data(bytes))))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_line_that_is_too_long_ends_the_stream_after_those_before_it() {
        let mut lines = Lines::new(3);
        assert_eq!(lines.take(b"abc\nab").unwrap(), ["abc"]);
        let TooLong(before) = lines.take(b"c\nd\nabcd").unwrap_err();
        assert_eq!(before, ["abc", "d"]);
    }

    proptest! {
        /// However the bytes are cut, the lines are the same.
        #[test]
        fn prop_lines_survive_any_cut(text in "[a-c\n]{0,60}", cuts in prop::collection::vec(1_usize..9, 1..60)) {
            let mut lines = Lines::new(100);
            let mut found = Vec::new();
            let mut rest = text.as_bytes();
            for cut in cuts.into_iter().chain(std::iter::repeat(9)) {
                let (piece, other) = rest.split_at(cut.min(rest.len()));
                found.extend(lines.take(piece).unwrap());
                rest = other;
                if rest.is_empty() {
                    break;
                }
            }
            found.extend(lines.finish());
            let expected: Vec<&str> = text.split('\n').collect();
            prop_assert_eq!(found, expected);
        }
    }
}

//! Traces: what the server records of a handshake, of callbacks and of replies.
//!
//! The spans have the ids that callbacks get in `TRACEPARENT`, which are there with or without
//! anybody to record them. So they are made here, from these ids, and not of the log's spans: those
//! are made anew for each line, and know neither where they end nor what they are a part of. What is
//! not recorded costs the look at a flag, and without the feature `otel` not even that: there is no
//! exporter, which the compiler knows.

#[cfg(not(feature = "otel"))]
mod none;
#[cfg(feature = "otel")]
mod otel;

use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use ws_proto::MessageKind;
use ws_proto::handshake::RequestHead;

#[cfg(not(feature = "otel"))]
use self::none::Exporter;
#[cfg(feature = "otel")]
use self::otel::Exporter;
use crate::command::Fate;
use crate::config::{TraceConfig, TraceMessages};
use crate::core::answer::{Reply, Verdict};
use crate::core::question::Question;
use crate::core::span::{Origin, Span, SpanKind, Spot, Value};
use crate::core::trace::Trace;
use crate::core::turns::MessageId;
use crate::counters::{CallbackFailure, DropReason, Refusal, SpanCounters};
use crate::error::ServeError;
use crate::shared::Shared;
use crate::visitor::Visitor;

/// The event that a validation is run for.
pub(crate) const VALIDATE: &str = "validate";
/// How much of a path is recorded.
const MAX_PATH_LEN: usize = 1024;
/// The header that names the trace of a handshake.
const TRACEPARENT: &str = "traceparent";

/// Where finished spans go.
#[derive(Debug)]
pub(crate) struct Spans {
    exporter: Option<Exporter>,
}

impl Spans {
    /// Starts what the configuration asks for.
    ///
    /// # Errors
    ///
    /// If the collector cannot be spoken to.
    pub(crate) fn start(
        config: Option<&TraceConfig>,
        counters: &Arc<SpanCounters>,
    ) -> Result<Self, ServeError> {
        let exporter = match config {
            Some(config) => Exporter::start(config, counters)?,
            None => None,
        };
        Ok(Self { exporter })
    }

    /// Whether any are recorded.
    pub(crate) fn is_on(&self) -> bool {
        self.exporter.is_some()
    }

    /// Sends what waits, for so long at most.
    pub(crate) async fn finish(&self, limit: Duration) {
        if let Some(exporter) = &self.exporter {
            exporter.finish(limit).await;
        }
    }

    fn take(&self, span: Span) {
        if let Some(exporter) = &self.exporter {
            exporter.take(span);
        }
    }
}

/// A span under way. One that is dropped was cancelled.
#[derive(Debug)]
pub(crate) struct OpenSpan {
    server: Arc<Shared>,
    /// `None` when it is over.
    span: Option<Span>,
}

impl OpenSpan {
    fn begin(server: &Arc<Shared>, name: &'static str, kind: SpanKind, at: Spot) -> Box<Self> {
        Self::since(server, name, kind, at, SystemTime::now())
    }

    fn since(
        server: &Arc<Shared>,
        name: &'static str,
        kind: SpanKind,
        at: Spot,
        began: SystemTime,
    ) -> Box<Self> {
        Box::new(Self {
            server: Arc::clone(server),
            span: Some(Span::new(name, kind, at, began)),
        })
    }

    fn set(&mut self, name: &'static str, value: impl Into<Value>) {
        if let Some(span) = &mut self.span {
            span.set(name, value);
        }
    }

    /// Says what it failed of, whenever it ends.
    fn fail(&mut self, error: &'static str) {
        if let Some(span) = &mut self.span {
            span.error = Some(error);
        }
        self.set("error.type", error);
    }

    fn end(mut self) {
        self.record();
    }

    fn record(&mut self) {
        if let Some(span) = self.span.take() {
            self.server.spans.take(span);
        }
    }

    /// Says who it was, if that is wanted.
    fn set_visitor(&mut self, visitor: &Visitor) {
        self.set("ws.connection.id", visitor.connection.to_string());
        if !wants_personal(&self.server) {
            return;
        }
        self.set("session.id", visitor.session.to_string());
        if let Some(user) = &visitor.user {
            self.set("user.id", user.as_str().to_owned());
        }
    }
}

impl Drop for OpenSpan {
    fn drop(&mut self) {
        if self.span.as_ref().is_some_and(|span| span.error.is_none()) {
            self.fail(CallbackFailure::Cancelled.as_str());
        }
        self.record();
    }
}

fn wants_personal(server: &Shared) -> bool {
    let current = server.current();
    current.config.trace().is_some_and(|trace| trace.personal)
}

/// An opening handshake, as traces see it.
#[derive(Debug)]
pub(crate) struct HandshakeSpan {
    pub(crate) origin: Origin,
    open: Option<Box<OpenSpan>>,
}

impl HandshakeSpan {
    /// Begins one, in the trace that its head names if `peer` is trusted; `None` if nothing is
    /// recorded of anybody.
    pub(crate) fn begin(
        server: &Arc<Shared>,
        head: &RequestHead,
        peer: Option<IpAddr>,
        accepted_at: Instant,
    ) -> Option<Self> {
        if !server.spans.is_on() {
            return None;
        }
        let current = server.current();
        let sampling = current.config.trace()?.sampling;
        let is_trusted = current.config.server().trusted.contain(peer);
        let mut random = [0; 24];
        getrandom::fill(&mut random).ok()?;
        // §3.2: of several none is meant.
        let header = head
            .header(TRACEPARENT)
            .filter(|_| head.header_count(TRACEPARENT) == 1);
        let named = header.and_then(|header| Trace::parse(header.as_bytes()));
        let (origin, at) = Origin::begin(named, is_trusted, sampling, random);
        let open = origin.trace.is_sampled().then(|| {
            let now = SystemTime::now();
            let began = now.checked_sub(accepted_at.elapsed()).unwrap_or(now);
            let mut open = OpenSpan::since(server, "GET", SpanKind::Server, at, began);
            open.set("http.request.method", "GET");
            open.set("url.path", path_of(head.path_and_query()));
            open.set("network.protocol.name", "http");
            open.set("network.protocol.version", "1.1");
            open
        });
        Some(Self { origin, open })
    }

    /// Adds who was let in.
    pub(crate) fn admit(&mut self, visitor: &Visitor, client: Option<IpAddr>, port: Option<u16>) {
        let Some(open) = &mut self.open else {
            return;
        };
        open.set_visitor(visitor);
        if wants_personal(&open.server) {
            if let Some(client) = client {
                open.set("client.address", client.to_string());
            }
            if let Some(port) = port {
                open.set("client.port", u64::from(port));
            }
        }
        open.set("http.response.status_code", 101);
    }

    /// Says how it came.
    pub(crate) fn set_transport(&mut self, is_tls: bool, is_tcp: bool) {
        if let Some(open) = &mut self.open {
            open.set("url.scheme", if is_tls { "https" } else { "http" });
            open.set("network.transport", if is_tcp { "tcp" } else { "unix" });
        }
    }

    /// Ends it.
    pub(crate) fn end(self) {
        if let Some(open) = self.open {
            open.end();
        }
    }

    /// Ends it with a refusal; without a status nobody was there any more to be told.
    pub(crate) fn refuse(self, reason: &'static str, status: Option<u16>) {
        let Some(mut open) = self.open else {
            return;
        };
        if let Some(status) = status {
            open.set("http.response.status_code", u64::from(status));
        }
        match status {
            Some(500..) => open.fail(reason),
            // By the conventions, what the client did wrong is no error of the server's, nor is it
            // if the client hangs up.
            _ => open.set("error.type", reason),
        }
        open.end();
    }
}

/// A path without its query, and not all of a very long one.
fn path_of(target: &str) -> String {
    let path = target.split('?').next().unwrap_or_default();
    path[..path.floor_char_boundary(MAX_PATH_LEN)].to_owned()
}

/// A run of a callback, as it and traces see it. One that is dropped was cancelled.
#[derive(Debug)]
pub(crate) struct RunSpan {
    trace: Option<Trace>,
    open: Option<Box<OpenSpan>>,
}

impl RunSpan {
    /// Begins the one run of its kind that a connection has, a part of its handshake.
    pub(crate) fn of_handshake(
        server: &Arc<Shared>,
        visitor: &Visitor,
        event: &'static str,
        backend: &'static str,
    ) -> Self {
        Self::place(server, visitor, |origin, random| Some(origin.part(random)))
            .open(server, visitor, event, backend)
    }

    /// Begins one of those that come again and again.
    pub(crate) fn again(
        server: &Arc<Shared>,
        visitor: &Visitor,
        event: &'static str,
        backend: &'static str,
    ) -> Self {
        Self::place(server, visitor, |origin, random| {
            next(server, origin, random)
        })
        .open(server, visitor, event, backend)
    }

    fn place(
        server: &Arc<Shared>,
        visitor: &Visitor,
        find: impl FnOnce(Origin, [u8; 24]) -> Option<Spot>,
    ) -> Place {
        let origin = visitor.origin().filter(|_| server.spans.is_on());
        let Some(origin) = origin else {
            return Place::Unrecorded(visitor.begin_trace());
        };
        let mut random = [0; 24];
        // Without randomness there is no trace, and the run goes on without it.
        let spot = getrandom::fill(&mut random)
            .ok()
            .and_then(|()| find(origin, random));
        match spot {
            Some(spot) if spot.trace.is_sampled() => Place::Recorded(spot),
            spot => Place::Unrecorded(spot.map(|spot| spot.trace)),
        }
    }

    /// Where the run is in a trace: its `TRACEPARENT`.
    pub(crate) fn trace(&self) -> Option<Trace> {
        self.trace
    }

    /// Says how many lines it wrote, which left while it ran.
    pub(crate) fn set_lines(&mut self, count: u64, size: u64) {
        if let Some(open) = &mut self.open {
            open.set("ws.reply.count", count);
            open.set("ws.reply.size", size);
        }
    }

    /// Ends that of a validation.
    pub(crate) fn judged(mut self, verdict: &Verdict) {
        let (outcome, error) = match verdict {
            Verdict::Accepted(_) => ("accepted", None),
            Verdict::Refused {
                status: 401 | 403, ..
            } => ("refused", None),
            Verdict::Refused { .. } => ("failed", Some(Refusal::ValidationFailed.as_str())),
        };
        if let Some(open) = &mut self.open {
            open.set("ws.outcome", outcome);
        }
        self.end(error);
    }

    /// Ends it; `error` is what it failed of.
    pub(crate) fn end(self, error: Option<&'static str>) {
        let Some(mut open) = self.open else {
            return;
        };
        if let Some(error) = error {
            open.fail(error);
        }
        open.end();
    }
}

/// Where a run is to be.
enum Place {
    Recorded(Spot),
    Unrecorded(Option<Trace>),
}

impl Place {
    fn open(
        self,
        server: &Arc<Shared>,
        visitor: &Visitor,
        event: &'static str,
        backend: &'static str,
    ) -> RunSpan {
        match self {
            Self::Unrecorded(trace) => RunSpan { trace, open: None },
            Self::Recorded(spot) => {
                let mut open = OpenSpan::begin(server, "callback", SpanKind::Client, spot);
                open.set("ws.event", event);
                open.set("ws.backend", backend);
                open.set_visitor(visitor);
                RunSpan {
                    trace: Some(spot.trace),
                    open: Some(open),
                }
            }
        }
    }
}

fn next(server: &Shared, origin: Origin, random: [u8; 24]) -> Option<Spot> {
    let current = server.current();
    let trace = current.config.trace()?;
    let joins = match trace.messages {
        TraceMessages::Auto => origin.is_callers,
        TraceMessages::Linked => false,
        TraceMessages::Joined => true,
    };
    Some(origin.next(joins, trace.sampling, random))
}

/// A message of a client, or what takes its place, from the start of its run to the end of its
/// reply.
#[derive(Debug)]
pub(crate) struct MessageSpan {
    open: Box<OpenSpan>,
    trace: Trace,
}

impl MessageSpan {
    /// Begins the run for a message or another event, and the message if that is recorded.
    pub(crate) fn begin(
        server: &Arc<Shared>,
        visitor: &Visitor,
        id: MessageId,
        question: &Question,
    ) -> (RunSpan, Option<Box<Self>>) {
        let event = question.event.as_str();
        let backend = || server.current().config.app().backend.name();
        if !question.event.is_message() {
            let run = RunSpan::of_handshake(server, visitor, event, backend());
            return (run, None);
        }
        let place = RunSpan::place(server, visitor, |origin, random| {
            next(server, origin, random)
        });
        let Place::Recorded(spot) = place else {
            return (place.open(server, visitor, event, ""), None);
        };
        let mut random = [0; 8];
        if getrandom::fill(&mut random).is_err() {
            let trace = Some(spot.trace.sampled(false));
            return (RunSpan { trace, open: None }, None);
        }
        let mut open = OpenSpan::begin(server, "message", SpanKind::Server, spot);
        open.set("ws.message.id", id);
        open.set("ws.message.type", name_of(question.kind));
        open.set("ws.message.size", question.payload.len() as u64);
        open.set("ws.source", question.source.as_str());
        open.set_visitor(visitor);
        let trace = spot.trace;
        let run = Place::Recorded(Spot::inside(trace, random));
        let run = run.open(server, visitor, event, backend());
        (run, Some(Box::new(Self { open, trace })))
    }

    /// Says what its run failed of.
    pub(crate) fn fail(&mut self, error: &'static str) {
        self.open.fail(error);
    }

    /// Ends it, if it has no reply.
    pub(crate) fn end(self) {
        self.open.end();
    }

    /// Begins its reply, the last part of it.
    pub(crate) fn begin_reply(self, reply: &Reply) -> ReplySpan {
        let mut random = [0; 8];
        let is_random = getrandom::fill(&mut random).is_ok();
        let open = is_random.then(|| {
            let spot = Spot::inside(self.trace, random);
            let server = &self.open.server;
            let mut open = OpenSpan::begin(server, "reply", SpanKind::Internal, spot);
            open.set("ws.message.type", name_of(reply.kind));
            open.set("ws.message.size", reply.payload.len() as u64);
            open
        });
        ReplySpan {
            open,
            message: self.open,
        }
    }
}

/// The reply to a message, until the kernel has taken it.
#[derive(Debug)]
pub(crate) struct ReplySpan {
    open: Option<Box<OpenSpan>>,
    message: Box<OpenSpan>,
}

impl ReplySpan {
    /// Ends it and the message; `None`: there was nobody left to hear it.
    pub(crate) fn end(self, fate: Option<Fate>) {
        match fate {
            Some(Fate::Written) => self.end_as("delivered", None),
            Some(Fate::Dropped(reason)) => self.end_as("dropped", Some(reason.as_str())),
            None => self.end_as("dropped", Some(DropReason::Ended.as_str())),
        }
    }

    /// Ends it and the message before its fate is known.
    pub(crate) fn end_queued(self) {
        self.end_as("queued", None);
    }

    fn end_as(self, outcome: &'static str, reason: Option<&'static str>) {
        if let Some(mut open) = self.open {
            open.set("ws.outcome", outcome);
            if let Some(reason) = reason {
                open.set("ws.drop_reason", reason);
            }
            open.end();
        }
        let mut message = self.message;
        message.set("ws.outcome", outcome);
        message.end();
    }
}

fn name_of(kind: MessageKind) -> &'static str {
    match kind {
        MessageKind::Text => "text",
        MessageKind::Binary => "binary",
    }
}

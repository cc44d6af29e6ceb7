//! The server's figures as Prometheus reads them.
//!
//! They are those of [`Counters`] and of `GET /v1/status`, written down anew for each scrape, so
//! that counting costs nothing more. Every label is of a closed set: no client can make a series.

mod figures;
mod process;

use std::fmt;
use std::sync::Arc;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, prometheus_text};
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::registry::Registry;

use self::figures::Figures;
use crate::counters::{
    CallbackFailure, CloseCause, ControlRefusal, Counters, DropReason, IdentifiedBy,
    IdentityRefusal, RecordRefusal, Refusal,
};
use crate::shared::Shared;

/// The media type of [`text`].
pub(crate) const CONTENT_TYPE: &str = prometheus_text::CONTENT_TYPE;

/// Durations from 250 us to 32 s, each bucket twice the one before.
pub(crate) fn durations() -> Histogram {
    Histogram::new(exponential_buckets(0.000_25, 2.0, 18))
}

/// All figures at this moment, in Prometheus' text format.
pub(crate) fn text(server: &Arc<Shared>) -> String {
    let mut registry = Registry::default();
    registry.register_collector(Box::new(Scrape(Arc::clone(server))));
    let mut text = String::new();
    let written = prometheus_text::encode(&mut text, &registry);
    debug_assert!(written.is_ok(), "writing to a string does not fail");
    text
}

#[derive(Debug)]
struct Scrape(Arc<Shared>);

impl Collector for Scrape {
    fn encode(&self, encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let server = &*self.0;
        let counters = &server.hub.counters;
        let mut figures = Figures::new(encoder);
        figures.info(
            "ws_build",
            "Which program this is",
            [("version", env!("CARGO_PKG_VERSION"))],
        )?;
        now(server, &mut figures)?;
        visitors(counters, &mut figures)?;
        sessions(server, &mut figures)?;
        messages(counters, &mut figures)?;
        callbacks(server, &mut figures)?;
        pushes(server, &mut figures)?;
        traces(counters, &mut figures)?;
        process::figures(&mut figures)
    }
}

/// What there is at this moment.
fn now(server: &Shared, figures: &mut Figures<'_>) -> fmt::Result {
    let hub = &server.hub;
    let (connections, users, sessions) = {
        let registry = hub.registry();
        (
            registry.count(),
            registry.user_count(),
            registry.session_count(),
        )
    };
    figures.gauges([
        ("ws_connections", "Open connections", connections),
        (
            "ws_connections_max",
            "Connections that there may be, by limits.max_connections and by descriptors",
            hub.places().most(),
        ),
        ("ws_users", "Users with an open connection", users),
        ("ws_sessions", "Sessions with an open connection", sessions),
        (
            "ws_sockets",
            "Accepted sockets, those of unfinished handshakes among them",
            server.sockets.open(),
        ),
        (
            "ws_send_queue_bytes",
            "Bytes that wait for clients to read them",
            hub.counters.ledger.waiting(),
        ),
        (
            "ws_draining",
            "1 while the server finishes what it has accepted, and accepts nothing",
            usize::from(*server.draining.borrow()),
        ),
    ])
}

/// Who came, who was refused, and who left.
fn visitors(counters: &Counters, figures: &mut Figures<'_>) -> fmt::Result {
    figures.counters([
        (
            "ws_sockets_accepted",
            "Accepted sockets",
            &counters.sockets_accepted,
        ),
        (
            "ws_accept_failures",
            "Attempts to accept for which there was no descriptor or no memory",
            &counters.accept_failed,
        ),
        (
            "ws_accept_pauses",
            "Times that accepting stopped because only reserved descriptors were left",
            &counters.accept_paused,
        ),
        (
            "ws_pages_served",
            "Requests for the console page",
            &counters.pages_served,
        ),
        (
            "ws_forwarded_garbled",
            "Handshakes of trusted proxies that say something of the visitor that cannot be understood",
            &counters.forwarded_garbled,
        ),
        (
            "ws_connections_opened",
            "Opening handshakes that were accepted",
            &counters.connections_opened,
        ),
        (
            "ws_connections_compressed",
            "Opened connections that agreed to compression",
            &counters.connections_compressed,
        ),
        (
            "ws_close_timeouts",
            "Clients that did not end their connection within limits.close_timeout of our close",
            &counters.close_timeouts,
        ),
    ])?;
    figures.tally(
        "ws_handshakes_rejected",
        "Opening handshakes that were refused, by reason",
        "reason",
        counters.refusals.figures(Refusal::NAMES),
    )?;
    figures.tally(
        "ws_connections_closed",
        "Connections that ended, by cause",
        "cause",
        counters.closes.figures(CloseCause::NAMES),
    )
}

/// Who the visitors are.
fn sessions(server: &Shared, figures: &mut Figures<'_>) -> fmt::Result {
    let counters = &server.hub.counters;
    let keeper = &server.hub.keeper;
    let known = keeper.table().len();
    let (waiting, dropped) = keeper.waiting();
    figures.gauges([
        ("ws_sessions_known", "Sessions in memory", known),
        (
            "ws_session_store_up",
            "1 while the store of sessions answers",
            usize::from(!keeper.is_down()),
        ),
        (
            "ws_session_changes_waiting",
            "Changes of sessions that are not in the store yet",
            waiting,
        ),
    ])?;
    figures.counter(
        "ws_session_changes_dropped",
        "Changes of sessions that never got into the store",
        dropped,
    )?;
    figures.counters([
        (
            "ws_session_store_outages",
            "Times that the store of sessions stopped answering",
            &counters.store_outages,
        ),
        (
            "ws_sessions_found",
            "Sessions that were found in the store",
            &counters.sessions_found,
        ),
        (
            "ws_sessions_not_found",
            "Sessions that were not found in the store",
            &counters.sessions_not_found,
        ),
        (
            "ws_sessions_revoked",
            "Sessions that were revoked",
            &counters.sessions_revoked,
        ),
        (
            "ws_sessions_ended",
            "Sessions that reached identity.max_age",
            &counters.sessions_ended,
        ),
        (
            "ws_sessions_address_changed",
            "Sessions that came from another network than they were made for",
            &counters.address_changed,
        ),
        (
            "ws_identity_rechecks_failed",
            "Times that the logins of those connected could not be looked up again",
            &counters.rechecks_failed,
        ),
        (
            "ws_identity_key_reloads",
            "Times that the keys for tokens were read again",
            &counters.key_reloads,
        ),
        (
            "ws_identity_key_reload_failures",
            "Times that the keys for tokens could not be used",
            &counters.key_reloads_failed,
        ),
        (
            "ws_configuration_reloads",
            "Times that the configuration was read again",
            &counters.configuration_reloads,
        ),
        (
            "ws_configuration_reload_failures",
            "Times that it could not be used, and nothing was changed",
            &counters.configuration_reloads_failed,
        ),
        (
            "ws_certificate_reloads",
            "Times that certificates were read again",
            &counters.certificate_reloads,
        ),
        (
            "ws_certificate_reload_failures",
            "Times that certificates could not be used",
            &counters.certificate_reloads_failed,
        ),
    ])?;
    figures.tally(
        "ws_identities",
        "Visitors whose user a token or a login named, by which of them",
        "by",
        counters.identified.figures(IdentifiedBy::NAMES),
    )?;
    figures.tally(
        "ws_identities_rejected",
        "Tokens and logins that prove nothing, by reason",
        "reason",
        counters.identities_refused.figures(IdentityRefusal::NAMES),
    )
}

fn messages(counters: &Counters, figures: &mut Figures<'_>) -> fmt::Result {
    figures.counters([
        (
            "ws_messages_received",
            "Messages from clients",
            &counters.messages_received,
        ),
        (
            "ws_messages_received_bytes",
            "Payloads of messages from clients",
            &counters.bytes_received,
        ),
        (
            "ws_messages_held_back",
            "Times that a connection was not read because its messages came too fast",
            &counters.messages_held_back,
        ),
        (
            "ws_messages_queued",
            "Messages for clients, handed to a connection",
            &counters.messages_queued,
        ),
        (
            "ws_messages_sent",
            "Messages for clients, taken whole by the kernel",
            &counters.messages_sent,
        ),
        (
            "ws_messages_dropped",
            "Messages for clients that were not sent whole before the connection ended",
            &counters.messages_dropped,
        ),
        (
            "ws_compression_payload_bytes",
            "Payloads of messages for connections that agreed to compression",
            &counters.compressible_bytes,
        ),
        (
            "ws_compression_frame_bytes",
            "The frames that became of them",
            &counters.compressed_bytes,
        ),
    ])
}

fn callbacks(server: &Shared, figures: &mut Figures<'_>) -> fmt::Result {
    let counters = &server.hub.counters;
    figures.counters([
        (
            "ws_callbacks_accepted",
            "Runs of the application that were asked for",
            &counters.callbacks_accepted,
        ),
        (
            "ws_callbacks_started",
            "Runs of the application that began",
            &counters.callbacks_started,
        ),
        (
            "ws_callbacks_finished",
            "Runs of the application that answered",
            &counters.callbacks_finished,
        ),
        (
            "ws_callbacks_cancelled",
            "Runs of the application that were given up before they began",
            &counters.callbacks_cancelled,
        ),
        (
            "ws_callback_replies_dropped",
            "Answers whose connection had ended",
            &counters.replies_dropped,
        ),
        (
            "ws_validations_started",
            "Visitors that the validation was asked about",
            &counters.validations_started,
        ),
        (
            "ws_validations_accepted",
            "Visitors that it named the user of",
            &counters.validations_accepted,
        ),
        (
            "ws_programs_started",
            "Programs for one connection each that were started",
            &counters.programs_started,
        ),
        (
            "ws_programs_ended",
            "Of these, those that ended well",
            &counters.programs_ended,
        ),
    ])?;
    figures.tally(
        "ws_callbacks_failed",
        "Runs of the application that failed, by cause",
        "cause",
        counters.failures.figures(CallbackFailure::NAMES),
    )?;
    figures.tally(
        "ws_programs_failed",
        "Programs for one connection each that failed, by cause",
        "cause",
        counters.program_failures.figures(CallbackFailure::NAMES),
    )?;
    let current = server.current();
    let app = current.config.app();
    if let Some(application) = &current.application {
        let callback = &application.callback;
        figures.gauges([
            (
                "ws_callbacks_running",
                "Runs of the application at this moment",
                callback.running(),
            ),
            (
                "ws_callbacks_running_max",
                "How many there may be at once: app.concurrency, or the number of workers",
                callback.at_once,
            ),
        ])?;
        figures.histogram(
            "ws_callback_duration_seconds",
            "How long runs of the application took, without waiting for their turn",
            ("backend", app.backend.name()),
            &callback.durations,
        )?;
    }
    if let Some(validation) = &current.validation {
        figures.histogram(
            "ws_validation_duration_seconds",
            "How long the validation took, without waiting for its turn",
            ("backend", current.config.validation_backend()),
            &validation.callback.durations,
        )?;
    }
    let processes = server.pool_stats();
    figures.gauges([(
        "ws_processes",
        "Fork servers and workers that run",
        processes.running,
    )])?;
    figures.counter(
        "ws_process_restarts",
        "Fork servers and workers that ended by themselves and were started again",
        processes.restarts,
    )?;
    figures.counter(
        "ws_process_replacements",
        "Fork servers and workers that were replaced in good order",
        processes.replaced,
    )?;
    figures.counter(
        "ws_process_replacement_failures",
        "Times that fresh ones could not take over, or failed on trial, and the former ones went on",
        processes.failed_replacements,
    )
}

/// What other programs ask for.
fn pushes(server: &Shared, figures: &mut Figures<'_>) -> fmt::Result {
    let counters = &server.hub.counters;
    let presence = server.hub.presence();
    figures.gauges([(
        "ws_event_listeners",
        "Clients of GET /v1/events",
        presence.listeners(),
    )])?;
    figures.counters([
        (
            "ws_events_lagged",
            "Times that a client of GET /v1/events missed events, since it did not read",
            &presence.lagged,
        ),
        (
            "ws_pushes",
            "Messages that other programs sent",
            &counters.pushes,
        ),
        (
            "ws_push_targets",
            "Connections that these were for",
            &counters.push_targets,
        ),
        (
            "ws_deliveries_owed",
            "Messages pushed to a connection; without what waits, the sum of those made and dropped",
            &counters.deliveries.owed,
        ),
        (
            "ws_deliveries_made",
            "Of these, those that the kernel took whole",
            &counters.deliveries.made,
        ),
        (
            "ws_control_requests",
            "Requests to the control API",
            &counters.control_requests,
        ),
        (
            "ws_fifo_records",
            "Records that were read from FIFOs and carried out",
            &counters.fifo_records,
        ),
    ])?;
    figures.tally(
        "ws_deliveries_dropped",
        "Messages pushed to a connection that did not leave, by reason",
        "reason",
        counters.deliveries.drops.figures(DropReason::NAMES),
    )?;
    figures.tally(
        "ws_control_requests_rejected",
        "Requests to the control API that were turned away, by reason",
        "reason",
        counters.control_refusals.figures(ControlRefusal::NAMES),
    )?;
    figures.tally(
        "ws_fifo_records_rejected",
        "Records of FIFOs that were not carried out, by reason",
        "reason",
        counters.record_refusals.figures(RecordRefusal::NAMES),
    )
}

/// What became of the spans of traces.
fn traces(counters: &Counters, figures: &mut Figures<'_>) -> fmt::Result {
    let spans = &counters.spans;
    figures.counters([
        (
            "ws_trace_spans_exported",
            "Spans of traces that the collector took",
            &spans.exported,
        ),
        (
            "ws_trace_spans_failed",
            "Spans of traces that it did not take",
            &spans.failed,
        ),
        (
            "ws_trace_spans_dropped",
            "Spans of traces for which there was no room in trace.queue",
            &spans.dropped,
        ),
    ])
}

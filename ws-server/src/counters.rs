//! What the server counts. Every reason is of a closed set: no client can make a new one.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use serde_json::{Map, Value, json};

use crate::command::Receipt;
use crate::core::ledger::Ledger;

/// A figure that only grows.
#[derive(Debug, Default)]
pub(crate) struct Counter(AtomicU64);

impl Counter {
    pub(crate) fn increment(&self) {
        self.add(1);
    }

    pub(crate) fn add(&self, count: u64) {
        self.0.fetch_add(count, Ordering::Relaxed);
    }

    pub(crate) fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// One counter for each reason of a closed set.
#[derive(Debug)]
pub(crate) struct Tally<const N: usize>([Counter; N]);

impl<const N: usize> Default for Tally<N> {
    fn default() -> Self {
        Self(std::array::from_fn(|_| Counter::default()))
    }
}

impl<const N: usize> Tally<N> {
    fn total(&self) -> u64 {
        self.0.iter().map(Counter::get).sum()
    }

    /// The figure of each reason.
    pub(crate) fn figures(
        &self,
        names: [&'static str; N],
    ) -> impl Iterator<Item = (&'static str, u64)> {
        names.into_iter().zip(self.0.iter().map(Counter::get))
    }

    fn to_json(&self, names: [&'static str; N]) -> Value {
        let figures = self.figures(names);
        Value::Object(
            figures
                .map(|(name, figure)| (name.to_owned(), json!(figure)))
                .collect(),
        )
    }
}

macro_rules! reasons {
    ($(#[$doc:meta])* $name:ident { $($(#[$variant_doc:meta])* $variant:ident = $text:literal,)+ }) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub(crate) enum $name {
            $($(#[$variant_doc])* $variant,)+
        }

        impl $name {
            pub(crate) const NAMES: [&'static str; [$($text),+].len()] = [$($text),+];

            /// The name in logs and figures.
            #[allow(dead_code, reason = "some reasons are counted, and not logged")]
            pub(crate) fn as_str(self) -> &'static str {
                Self::NAMES[self as usize]
            }
        }
    };
}

reasons! {
    /// Why an opening handshake was refused.
    Refusal {
        /// Not a valid HTTP request, or not a valid upgrade.
        Malformed = "malformed",
        MaxHeadSize = "max_head_size",
        MaxHeaderCount = "max_header_count",
        MaxTargetSize = "max_target_size",
        /// Not trusted to speak for others, or not a PROXY header.
        Proxy = "proxy",
        /// The TLS handshake failed.
        Tls = "tls",
        /// The head was not complete in time.
        Timeout = "timeout",
        /// The peer left before it was answered.
        Gone = "gone",
        Host = "host",
        Origin = "origin",
        /// `identity.require_cookie` and there was none.
        Cookie = "cookie",
        /// What the visitor brought to prove its identity does not, or it brought nothing.
        Identity = "identity",
        /// What the visitor brought could not be looked up.
        IdentityFailed = "identity_failed",
        /// The validation callback said no.
        Validation = "validation",
        /// The validation callback could not say.
        ValidationFailed = "validation_failed",
        /// It had not said what it wants when too many newer ones came.
        MaxHandshakes = "max_handshakes",
        MaxConnections = "max_connections",
        /// Only the descriptors of `limits.reserved_descriptors` are left.
        Descriptors = "descriptors",
        MaxConnectionsPerIp = "max_connections_per_ip",
        MaxConnectionsPerUser = "max_connections_per_user",
        /// Its session is to be looked up, and the store does not answer.
        Store = "store",
        Draining = "draining",
        /// The connection's FIFO could not be made, or the like.
        Internal = "internal",
    }
}

reasons! {
    /// Why a connection ended. Each ends with exactly one of these.
    CloseCause {
        /// The peer closed it.
        Peer = "peer",
        /// The peer broke the protocol.
        Protocol = "protocol",
        MaxMessageSize = "max_message_size",
        MessageTimeout = "message_timeout",
        MaxFragmentCount = "max_fragment_count",
        MaxEmptyFragmentCount = "max_empty_fragment_count",
        /// More pings and pongs came than `limits.control_rate`.
        ControlRate = "control_rate",
        /// The peer did not answer our ping.
        PongTimeout = "pong_timeout",
        /// The stream ended without a closing handshake.
        Vanished = "vanished",
        /// Pushes came faster than the peer read them.
        Overflow = "overflow",
        /// Its queue was one of the longest when too much waited in the whole server.
        OverflowTotal = "overflow_total",
        /// It took nothing for too long.
        Slow = "slow",
        /// Its messages came faster than they may for too long.
        MessageRate = "message_rate",
        /// Those of its user did, on all of his connections.
        MessageRatePerUser = "message_rate_per_user",
        /// Its user is not known any more to the validation callback, or to whoever named it.
        Validation = "validation",
        /// Its token has reached its end.
        Expired = "expired",
        /// An operator asked for it, or its session has ended.
        Revoked = "revoked",
        /// The application asked for it.
        Application = "application",
        /// Its program has ended, and well.
        ProgramEnded = "program_ended",
        /// Its program has failed.
        ProgramFailed = "program_failed",
        /// The server is going down.
        Drain = "drain",
        /// The server went down before the closing handshake was complete.
        Stopped = "stopped",
    }
}

reasons! {
    /// Why a pushed message did not leave.
    DropReason {
        /// There was no room behind what the peer had not read. The connection is closed.
        Overflow = "overflow",
        /// Given up while it waited, because too much did in the whole server.
        OverflowTotal = "overflow_total",
        /// Given up while it waited, because the peer took nothing for too long.
        Slow = "slow",
        /// The connection was closing.
        Closing = "closing",
        /// The connection had ended, or ended while it waited.
        Ended = "ended",
    }
}

reasons! {
    /// Why a request to the control API was turned away before it was looked at.
    ControlRefusal {
        /// The `Host` header names none of `control.allowed_hosts`.
        Host = "host",
        /// It comes from a page in a browser.
        Browser = "browser",
        /// There is no token, or a wrong one.
        Token = "token",
        /// There are more than `control.rate` a second.
        Rate = "rate",
    }
}

reasons! {
    /// Who named a visitor's user, where it was not the validation callback.
    IdentifiedBy {
        Token = "token",
        /// A session in a file of PHP.
        Php = "php",
        /// A session in a database.
        Lookup = "lookup",
    }
}

reasons! {
    /// Why what a visitor brought to prove its identity does not prove it.
    IdentityRefusal {
        /// It is not of the form that it should have.
        Malformed = "malformed",
        /// No key is for the algorithm of the token.
        Algorithm = "algorithm",
        /// No key has the name that the token gives it.
        UnknownKey = "unknown_key",
        Signature = "signature",
        Expired = "expired",
        NotYet = "not_yet",
        Issuer = "issuer",
        Audience = "audience",
        /// A claim is missing, of the wrong type, or no user id.
        Claim = "claim",
        /// The visitor brought nothing, and `identity.required` asks for something.
        Missing = "missing",
        /// What is found is not what it should be, or may not be read; or the question fails by
        /// its content.
        Unreadable = "unreadable",
        /// The database does not answer, or lets nobody in.
        Unreachable = "unreachable",
        Timeout = "timeout",
    }
}

reasons! {
    /// Why a FIFO's record was not carried out.
    RecordRefusal {
        TooLong = "too_long",
        /// A part of a record that never became whole.
        Partial = "partial",
        /// Not a URI, in a connection's FIFO.
        NotUri = "not_uri",
        /// Not UTF-8, in the global FIFO.
        NotUtf8 = "not_utf8",
        /// Its connection ended before there was room for it.
        Ended = "ended",
    }
}

/// What became of pushed messages, one for each connection that was there: what was owed is what
/// was made and what was dropped, to the unit, when nothing waits. Each is counted by the worker
/// that sees it happen, whether or not the publisher waits to be told.
#[derive(Debug, Default)]
pub(crate) struct Deliveries {
    pub(crate) owed: Counter,
    /// Taken whole by the kernel.
    pub(crate) made: Counter,
    pub(crate) drops: Tally<{ DropReason::NAMES.len() }>,
}

impl Deliveries {
    pub(crate) fn dropped(&self, reason: DropReason, count: u64) {
        self.drops.0[reason as usize].add(count);
    }

    fn to_json(&self) -> Value {
        json!({
            "owed": self.owed.get(),
            "made": self.made.get(),
            "dropped": self.drops.total(),
            "dropped_by": self.drops.to_json(DropReason::NAMES),
        })
    }
}

reasons! {
    /// How a callback failed.
    CallbackFailure {
        CannotStart = "cannot_start",
        Exit = "exit",
        Signal = "signal",
        Timeout = "timeout",
        Output = "output",
        BadAnswer = "bad_answer",
        Unreachable = "unreachable",
        Overloaded = "overloaded",
        Lost = "lost",
        Cancelled = "cancelled",
    }
}

/// What became of spans: each that was recorded is in one of these, or waits.
#[derive(Debug, Default)]
pub(crate) struct SpanCounters {
    /// A collector has taken them.
    pub(crate) exported: Counter,
    /// It has not, or has refused them.
    pub(crate) failed: Counter,
    /// There was no room for them.
    pub(crate) dropped: Counter,
}

/// All figures of one server.
///
/// Laws that hold whenever nothing is under way, and that the tests check:
/// `accepted = opened + refused + pages`, `opened = closed + connections`,
/// `callbacks.accepted = finished + failed + cancelled before the start`,
/// `programs.started = ended + failed`,
/// `messages.queued = sent + dropped`, `pushes.targets = written + queued + dropped`,
/// `deliveries.owed = made + dropped`.
#[derive(Debug, Default)]
pub(crate) struct Counters {
    pub(crate) sockets_accepted: Counter,
    /// Attempts to accept for which the system had no descriptor or no memory.
    pub(crate) accept_failed: Counter,
    /// How often accepting stopped because only reserved descriptors were left.
    pub(crate) accept_paused: Counter,
    pub(crate) pages_served: Counter,
    /// Opening handshakes of trusted proxies whose word about the visitor cannot be understood.
    pub(crate) forwarded_garbled: Counter,
    pub(crate) connections_opened: Counter,
    /// Of these, those that agreed to compression.
    pub(crate) connections_compressed: Counter,
    pub(crate) refusals: Tally<{ Refusal::NAMES.len() }>,
    pub(crate) closes: Tally<{ CloseCause::NAMES.len() }>,
    /// Connections whose peer did not end them within `limits.close_timeout` of our close frame.
    pub(crate) close_timeouts: Counter,

    pub(crate) messages_received: Counter,
    pub(crate) bytes_received: Counter,
    /// How often a connection was not read because its messages came too fast.
    pub(crate) messages_held_back: Counter,
    /// Messages handed to a connection for sending.
    pub(crate) messages_queued: Counter,
    /// Of these, taken whole by the kernel.
    pub(crate) messages_sent: Counter,
    /// Of these, not taken whole before the connection ended.
    pub(crate) messages_dropped: Counter,
    /// Payloads of messages for connections that agreed to compression.
    pub(crate) compressible_bytes: Counter,
    /// The frames that were made of them.
    pub(crate) compressed_bytes: Counter,

    /// Sessions that came from another network than they were made for.
    pub(crate) address_changed: Counter,
    /// Sessions that were found in the store, and not found there.
    pub(crate) sessions_found: Counter,
    pub(crate) sessions_not_found: Counter,
    /// Sessions that were revoked, by whomever.
    pub(crate) sessions_revoked: Counter,
    /// Sessions that lived as long as they may.
    pub(crate) sessions_ended: Counter,
    /// Times that the store did not answer any more.
    pub(crate) store_outages: Counter,

    pub(crate) callbacks_accepted: Counter,
    pub(crate) callbacks_started: Counter,
    pub(crate) callbacks_finished: Counter,
    pub(crate) callbacks_cancelled: Counter,
    pub(crate) replies_dropped: Counter,
    pub(crate) failures: Tally<{ CallbackFailure::NAMES.len() }>,
    /// Programs that run as long as a connection.
    pub(crate) programs_started: Counter,
    /// Of these, those that ended with 0, or because their connection did.
    pub(crate) programs_ended: Counter,
    pub(crate) program_failures: Tally<{ CallbackFailure::NAMES.len() }>,
    pub(crate) identified: Tally<{ IdentifiedBy::NAMES.len() }>,
    pub(crate) identities_refused: Tally<{ IdentityRefusal::NAMES.len() }>,
    /// Times that the sessions of those connected could not be looked up again.
    pub(crate) rechecks_failed: Counter,
    /// Times that the files of keys for tokens were read again.
    pub(crate) key_reloads: Counter,
    /// Times that they could not be used.
    pub(crate) key_reloads_failed: Counter,
    pub(crate) validations_started: Counter,
    /// Of these, those that named a user.
    pub(crate) validations_accepted: Counter,

    pub(crate) pushes: Counter,
    pub(crate) push_targets: Counter,
    pub(crate) push_written: Counter,
    pub(crate) push_queued: Counter,
    pub(crate) push_drops: Tally<{ DropReason::NAMES.len() }>,

    /// Of the control API, on both of its doors.
    pub(crate) control_requests: Counter,
    pub(crate) control_refusals: Tally<{ ControlRefusal::NAMES.len() }>,
    pub(crate) deliveries: Deliveries,

    /// Times that the files of certificates were read again.
    pub(crate) configuration_reloads: Counter,
    /// Reloads that were refused because something was wrong with it.
    pub(crate) configuration_reloads_failed: Counter,
    pub(crate) certificate_reloads: Counter,
    /// Times that they could not be used.
    pub(crate) certificate_reloads_failed: Counter,

    /// Bytes that wait for clients now.
    pub(crate) ledger: Arc<Ledger>,

    pub(crate) spans: Arc<SpanCounters>,

    pub(crate) fifo_records: Counter,
    pub(crate) record_refusals: Tally<{ RecordRefusal::NAMES.len() }>,
}

impl Counters {
    /// All figures are 0. At most so many bytes should wait for clients.
    pub(crate) fn new(send_queue_total: usize) -> Self {
        Self {
            ledger: Arc::new(Ledger::new(send_queue_total)),
            ..Self::default()
        }
    }

    pub(crate) fn refused(&self, refusal: Refusal) {
        self.refusals.0[refusal as usize].increment();
    }

    pub(crate) fn identified(&self, by: IdentifiedBy) {
        self.identified.0[by as usize].increment();
    }

    pub(crate) fn identity_refused(&self, refusal: IdentityRefusal) {
        self.identities_refused.0[refusal as usize].increment();
    }

    pub(crate) fn closed(&self, cause: CloseCause) {
        self.closes.0[cause as usize].increment();
    }

    pub(crate) fn control_refused(&self, refusal: ControlRefusal) {
        self.control_refusals.0[refusal as usize].increment();
    }

    pub(crate) fn callback_failed(&self, failure: CallbackFailure) {
        self.failures.0[failure as usize].increment();
    }

    pub(crate) fn program_failed(&self, failure: CallbackFailure) {
        self.program_failures.0[failure as usize].increment();
    }

    pub(crate) fn record_refused(&self, refusal: RecordRefusal) {
        self.record_refusals.0[refusal as usize].increment();
    }

    /// Counts what became of a push when it was handed to its connections.
    pub(crate) fn pushed(&self, receipt: &Receipt) {
        self.push_targets.add(receipt.connections);
        self.push_written.add(receipt.written);
        self.push_queued.add(receipt.queued);
        for (counter, count) in self.push_drops.0.iter().zip(receipt.dropped_by.counts()) {
            counter.add(count);
        }
    }

    /// Connections that ended.
    pub(crate) fn connections_closed(&self) -> u64 {
        self.closes.total()
    }

    pub(crate) fn callbacks_failed(&self) -> u64 {
        self.failures.total()
    }

    pub(crate) fn records_refused(&self) -> u64 {
        self.record_refusals.total()
    }

    /// The figures as they are shown by `GET /v1/status`.
    pub(crate) fn to_json(&self) -> Map<String, Value> {
        let value = json!({
            "sockets": {
                "accepted": self.sockets_accepted.get(),
                "accept_failed": self.accept_failed.get(),
                "accept_paused": self.accept_paused.get(),
                "pages": self.pages_served.get(),
                "forwarded_garbled": self.forwarded_garbled.get(),
                "refused": self.refusals.total(),
                "refused_by": self.refusals.to_json(Refusal::NAMES),
            },
            "connections": {
                "opened": self.connections_opened.get(),
                "closed": self.connections_closed(),
                "closed_by": self.closes.to_json(CloseCause::NAMES),
                "close_timeouts": self.close_timeouts.get(),
            },
            "identity": {
                "address_changed": self.address_changed.get(),
                "found": self.sessions_found.get(),
                "not_found": self.sessions_not_found.get(),
                "revoked": self.sessions_revoked.get(),
                "ended": self.sessions_ended.get(),
                "store_outages": self.store_outages.get(),
            },
            "messages": {
                "received": self.messages_received.get(),
                "received_bytes": self.bytes_received.get(),
                "held_back": self.messages_held_back.get(),
                "queued": self.messages_queued.get(),
                "sent": self.messages_sent.get(),
                "dropped": self.messages_dropped.get(),
                "waiting_bytes": self.ledger.waiting(),
            },
            "compression": {
                "connections": self.connections_compressed.get(),
                "payload_bytes": self.compressible_bytes.get(),
                "frame_bytes": self.compressed_bytes.get(),
            },
            "callbacks": {
                "accepted": self.callbacks_accepted.get(),
                "started": self.callbacks_started.get(),
                "finished": self.callbacks_finished.get(),
                "failed": self.callbacks_failed(),
                "failed_by": self.failures.to_json(CallbackFailure::NAMES),
                "cancelled": self.callbacks_cancelled.get(),
                "replies_dropped": self.replies_dropped.get(),
                "validations": self.validations_started.get(),
                "validations_accepted": self.validations_accepted.get(),
            },
            "identities": {
                "identified": self.identified.total(),
                "identified_by": self.identified.to_json(IdentifiedBy::NAMES),
                "refused": self.identities_refused.total(),
                "refused_by": self.identities_refused.to_json(IdentityRefusal::NAMES),
                "rechecks_failed": self.rechecks_failed.get(),
                "key_reloads": self.key_reloads.get(),
                "key_reloads_failed": self.key_reloads_failed.get(),
            },
            "programs": {
                "started": self.programs_started.get(),
                "ended": self.programs_ended.get(),
                "failed": self.program_failures.total(),
                "failed_by": self.program_failures.to_json(CallbackFailure::NAMES),
            },
            "pushes": {
                "accepted": self.pushes.get(),
                "targets": self.push_targets.get(),
                "written": self.push_written.get(),
                "queued": self.push_queued.get(),
                "dropped": self.push_drops.total(),
                "dropped_by": self.push_drops.to_json(DropReason::NAMES),
            },
            "control": {
                "requests": self.control_requests.get(),
                "refused": self.control_refusals.total(),
                "refused_by": self.control_refusals.to_json(ControlRefusal::NAMES),
            },
            "deliveries": self.deliveries.to_json(),
            "configuration": {
                "reloads": self.configuration_reloads.get(),
                "reloads_failed": self.configuration_reloads_failed.get(),
            },
            "certificates": {
                "reloads": self.certificate_reloads.get(),
                "reloads_failed": self.certificate_reloads_failed.get(),
            },
            "traces": {
                "exported": self.spans.exported.get(),
                "failed": self.spans.failed.get(),
                "dropped": self.spans.dropped.get(),
            },
            "fifo": {
                "records": self.fifo_records.get(),
                "refused": self.records_refused(),
                "refused_by": self.record_refusals.to_json(RecordRefusal::NAMES),
            },
        });
        match value {
            Value::Object(map) => map,
            _ => Map::new(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn totals_are_sums_of_reasons() {
        let counters = Counters::default();
        counters.closed(CloseCause::Peer);
        counters.closed(CloseCause::Drain);
        counters.closed(CloseCause::Drain);
        let json = counters.to_json();
        assert_eq!(json["connections"]["closed"], 3);
        assert_eq!(json["connections"]["closed_by"]["drain"], 2);
    }
}

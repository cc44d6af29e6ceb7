//! What a collector of traces gets, for tests.

use std::collections::BTreeMap;

use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use opentelemetry_proto::tonic::common::v1::{KeyValue, any_value};
use opentelemetry_proto::tonic::trace::v1::span::SpanKind;
use opentelemetry_proto::tonic::trace::v1::status::StatusCode;
use prost::Message;

/// A span as a collector gets it; ids are hexadecimal.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ReceivedSpan {
    /// What is said of the server.
    pub resource: BTreeMap<String, String>,
    /// Its name.
    pub name: String,
    /// `server`, `client` or `internal`.
    pub kind: String,
    /// The trace that it is in.
    pub trace: String,
    /// Its id.
    pub id: String,
    /// The span that it is a part of; empty if it is none's.
    pub parent: String,
    /// Trace and span of what led to it.
    pub links: Vec<(String, String)>,
    /// All of them, as text.
    pub attributes: BTreeMap<String, String>,
    /// What it failed of.
    pub error: Option<String>,
    /// When it began and ended, in nanoseconds since 1970.
    pub times: (u64, u64),
}

impl ReceivedSpan {
    /// Returns an attribute; an empty text if there is none.
    pub fn get(&self, name: &str) -> &str {
        self.attributes.get(name).map_or("", String::as_str)
    }
}

/// Reads the body of a request to a collector.
///
/// # Panics
///
/// If it is none.
pub fn received_spans(body: &[u8]) -> Vec<ReceivedSpan> {
    let request = ExportTraceServiceRequest::decode(body).expect("a request of OTLP");
    let mut received = Vec::new();
    for of_resource in request.resource_spans {
        let resource = of_resource.resource.unwrap_or_default();
        let resource = texts(resource.attributes);
        let scopes = of_resource.scope_spans.into_iter();
        received.extend(scopes.flat_map(|it| it.spans).map(|span| {
            let kind = span.kind();
            let status = span.status.unwrap_or_default();
            let is_error = status.code() == StatusCode::Error;
            ReceivedSpan {
                resource: resource.clone(),
                name: span.name,
                kind: match kind {
                    SpanKind::Server => "server",
                    SpanKind::Client => "client",
                    _ => "internal",
                }
                .to_owned(),
                trace: hex(&span.trace_id),
                id: hex(&span.span_id),
                parent: hex(&span.parent_span_id),
                links: span
                    .links
                    .iter()
                    .map(|link| (hex(&link.trace_id), hex(&link.span_id)))
                    .collect(),
                attributes: texts(span.attributes),
                error: is_error.then_some(status.message),
                times: (span.start_time_unix_nano, span.end_time_unix_nano),
            }
        }));
    }
    received
}

fn texts(attributes: Vec<KeyValue>) -> BTreeMap<String, String> {
    let texts = attributes.into_iter().map(|it| {
        let value = it.value.and_then(|it| it.value);
        let text = match value {
            Some(any_value::Value::StringValue(text)) => text,
            Some(any_value::Value::IntValue(number)) => number.to_string(),
            other => format!("{other:?}"),
        };
        (it.key, text)
    });
    texts.collect()
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

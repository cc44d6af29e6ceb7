//! `[trace]`: spans for a collector.

use std::fmt;
use std::num::NonZeroUsize;
use std::time::Duration;

use hyper::Uri;
use hyper::header::{HeaderName, HeaderValue};
use percent_encoding::percent_decode_str;

use super::fault::Problem;
use super::parse;
use super::raw::{RawKind, RawValue};
use super::reader::Reader;
use super::units::{HOUR, MINUTE, SHORTEST};
use crate::core::trace::Sampling;

/// Where a collector takes traces, unless the URL says so.
const PATH: &str = "/v1/traces";
const ENDPOINT: &str = "trace.endpoint";
/// The others, which mean nothing without that.
const OTHERS: [&str; 10] = [
    "trace.headers",
    "trace.sample_ratio",
    "trace.parent_based",
    "trace.messages",
    "trace.personal",
    "trace.service_name",
    "trace.resource",
    "trace.interval",
    "trace.timeout",
    "trace.queue",
];

/// `[trace]`: where traces go, and what is in them.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct TraceConfig {
    /// The URL that batches of spans are posted to.
    pub endpoint: Uri,
    /// Headers of these requests.
    pub headers: TraceHeaders,
    /// Which traces are recorded.
    pub(crate) sampling: Sampling,
    /// Which trace messages are in.
    pub messages: TraceMessages,
    /// Whether spans say who it was.
    pub personal: bool,
    /// What the server is called.
    pub service_name: String,
    /// What else is said of it.
    pub resource: Vec<(String, String)>,
    /// How long spans wait to be sent together.
    pub interval: Duration,
    /// How long the collector may take to take them.
    pub timeout: Duration,
    /// Spans that wait to be sent.
    pub queue: NonZeroUsize,
}

/// Which trace the messages of a connection are in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum TraceMessages {
    /// In that of the handshake if it is a caller's who is followed, else each in one of its own.
    Auto,
    /// Each in one of its own.
    Linked,
    /// In that of the handshake.
    Joined,
}

/// Headers for a collector, a key among them.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct TraceHeaders(Vec<(HeaderName, HeaderValue)>);

impl TraceHeaders {
    /// Returns names and values.
    pub fn iter(&self) -> impl Iterator<Item = (&HeaderName, &HeaderValue)> {
        self.0.iter().map(|(name, value)| (name, value))
    }
}

/// The values are secrets.
impl fmt::Debug for TraceHeaders {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names = self.0.iter().map(|(name, _)| name.as_str());
        f.debug_set().entries(names).finish()
    }
}

pub(super) fn read(reader: &mut Reader<'_>) -> Option<Box<TraceConfig>> {
    let endpoint = reader.read_optional(ENDPOINT, endpoint);
    if !reader.is_given(ENDPOINT) {
        for path in OTHERS {
            if reader.is_changed(path) {
                reader.conflict(path, "has no effect without trace.endpoint");
            }
        }
    } else if cfg!(not(feature = "otel")) {
        reader.conflict(
            ENDPOINT,
            "this ws was built without traces: remove the setting, or build it with them: \
             cargo build --release -p ws-cli --features otel",
        );
    }
    let config = TraceConfig {
        endpoint: endpoint.clone().unwrap_or_default(),
        headers: reader
            .read_optional("trace.headers", headers)
            .unwrap_or_default(),
        sampling: Sampling::new(
            reader.read("trace.sample_ratio", ratio),
            reader.flag("trace.parent_based"),
        ),
        messages: reader.choice(
            "trace.messages",
            &[
                ("auto", TraceMessages::Auto),
                ("linked", TraceMessages::Linked),
                ("joined", TraceMessages::Joined),
            ],
        ),
        personal: reader.flag("trace.personal"),
        service_name: reader.read("trace.service_name", service_name),
        resource: reader.list("trace.resource", |text, _| {
            pair(text).ok_or_else(|| Problem::Malformed {
                given: text.to_owned(),
                expected: "NAME=VALUE".to_owned(),
            })
        }),
        interval: reader.duration("trace.interval", SHORTEST, HOUR),
        timeout: reader.duration("trace.timeout", SHORTEST, 10 * MINUTE),
        queue: reader.count("trace.queue", 100_000),
    };
    endpoint.map(|_| Box::new(config))
}

/// Reads the URL of a collector. What may be a password in it is not repeated, and not taken.
fn endpoint(value: &RawValue) -> Result<Uri, Problem> {
    let text = parse::text(value)?;
    if text.contains(['@', '?', '#']) {
        return Err(Problem::Secret {
            expected: "a URL without user, password and query: what the collector wants to know goes \
                       into trace.headers",
        });
    }
    let malformed = || Problem::Malformed {
        given: text.clone(),
        expected: "a URL like \"http://127.0.0.1:4318\" or \"https://collector.example/v1/traces\""
            .to_owned(),
    };
    let uri: Uri = text.parse().map_err(|_| malformed())?;
    let is_http = matches!(uri.scheme_str(), Some("http" | "https"));
    if !is_http || uri.host().is_none_or(str::is_empty) {
        return Err(malformed());
    }
    if uri.path() != "/" {
        return Ok(uri);
    }
    let whole = format!("{}{PATH}", text.trim_end_matches('/'));
    whole.parse().map_err(|_| malformed())
}

fn headers(value: &RawValue) -> Result<TraceHeaders, Problem> {
    let wrong = || Problem::Secret {
        expected: "headers as NAME=VALUE, separated by commas",
    };
    let text = parse::text(value)?;
    let parts = text.split(',').map(str::trim).filter(|it| !it.is_empty());
    let headers = parts.map(|part| {
        let (name, value) = pair(part)?;
        let mut value = HeaderValue::from_str(&value).ok()?;
        value.set_sensitive(true);
        Some((name.parse().ok()?, value))
    });
    let headers: Option<Vec<_>> = headers.collect();
    Ok(TraceHeaders(headers.ok_or_else(wrong)?))
}

/// Reads `NAME=VALUE`, the value percent-encoded as far as it has to be.
fn pair(text: &str) -> Option<(String, String)> {
    let (name, value) = text.split_once('=')?;
    let (name, value) = (name.trim(), value.trim());
    let value = percent_decode_str(value).decode_utf8().ok()?;
    (!name.is_empty()).then(|| (name.to_owned(), value.into_owned()))
}

fn ratio(value: &RawValue) -> Result<f64, Problem> {
    let (given, ratio) = match value.kind() {
        RawKind::Integer(ratio) => (ratio.to_string(), i32::try_from(*ratio).ok().map(f64::from)),
        RawKind::Float(ratio) => (ratio.to_string(), Some(*ratio)),
        RawKind::Text(text) => (text.clone(), text.parse().ok()),
        _ => {
            return Err(Problem::WrongType {
                expected: "a number from 0 to 1",
                found: value.kind().name(),
            });
        }
    };
    ratio
        .filter(|ratio| (0.0..=1.0).contains(ratio))
        .ok_or_else(|| Problem::OutOfRange {
            given,
            min: "0".to_owned(),
            max: "1".to_owned(),
        })
}

fn service_name(value: &RawValue) -> Result<String, Problem> {
    let name = parse::text(value)?;
    match (1..=255).contains(&name.len()) {
        true => Ok(name),
        false => Err(Problem::Malformed {
            given: name,
            expected: "a name of 1 to 255 bytes".to_owned(),
        }),
    }
}

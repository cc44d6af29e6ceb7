//! Hands spans to a collector: OTLP over HTTP, as protobuf.
//!
//! Queue and batches are those of OpenTelemetry's SDK, which has a thread of its own for them: no
//! loop of the server ever waits for it. What is sent is written by `opentelemetry-proto`, and sent
//! from here rather than by `opentelemetry-otlp`: that reads the environment by itself, and says
//! neither why a collector could not be reached nor how many spans it refused.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use bytes::Bytes;
use http_body_util::{BodyExt, Full, Limited};
use hyper::header::{CONTENT_TYPE, RETRY_AFTER, USER_AGENT};
use hyper::{Method, Request, Response, StatusCode, Uri};
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use opentelemetry::trace::{Link, SpanContext, SpanId, Status, TraceFlags, TraceId, TraceState};
use opentelemetry::{InstrumentationScope, KeyValue};
use opentelemetry_proto::tonic::collector::trace::v1::{
    ExportTraceServiceRequest, ExportTraceServiceResponse,
};
use opentelemetry_proto::transform::common::tonic::ResourceAttributesWithSchema;
use opentelemetry_proto::transform::trace::tonic::group_spans_by_resource_and_scope;
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::error::{OTelSdkError, OTelSdkResult};
use opentelemetry_sdk::trace::{
    BatchConfigBuilder, BatchSpanProcessor, SpanData, SpanEvents, SpanExporter, SpanLinks,
    SpanProcessor,
};
use prost::Message;
use rustls::{ClientConfig, RootCertStore};
use tokio::runtime::Handle;
use tokio::time::{sleep, timeout};
use tracing::{debug, info, warn};

use crate::config::{TraceConfig, TraceHeaders};
use crate::core::span::{Span, SpanKind, Value};
use crate::core::trace::Trace;
use crate::counters::SpanCounters;
use crate::error::{Chain, ServeError};
use crate::store::Outage;
use crate::visitor::SERVER_SOFTWARE;

/// Spans that are sent together at most.
const BATCH: usize = 512;
/// Further attempts at sending them, and the pause before the first, which doubles.
const RETRIES: u32 = 3;
const PAUSE: Duration = Duration::from_millis(200);
/// What of a collector's answer is read.
const MAX_ANSWER_SIZE: usize = 64 * 1024;

/// The queue of spans, and the thread that empties it.
#[derive(Debug)]
pub(super) struct Exporter {
    processor: Arc<BatchSpanProcessor>,
    queue: Arc<Queue>,
    scope: InstrumentationScope,
}

/// What waits to be sent. The SDK's own queue is as long, so it never has to drop anything, which
/// it would not count.
#[derive(Debug)]
struct Queue {
    waiting: AtomicUsize,
    limit: usize,
    /// The server is going down: no attempt is made twice.
    is_ending: AtomicBool,
    counters: Arc<SpanCounters>,
}

impl Exporter {
    /// Starts one on the runtime of the caller, whose tasks the requests are.
    ///
    /// # Errors
    ///
    /// If the certificates of this host cannot be had, and are needed.
    pub(super) fn start(
        config: &TraceConfig,
        counters: &Arc<SpanCounters>,
    ) -> Result<Option<Self>, ServeError> {
        let queue = Arc::new(Queue {
            waiting: AtomicUsize::new(0),
            limit: config.queue.get(),
            is_ending: AtomicBool::new(false),
            counters: Arc::clone(counters),
        });
        let collector = Collector {
            runtime: Handle::current(),
            door: Arc::new(Door::new(config)?),
            timeout: config.timeout,
            resource: ResourceAttributesWithSchema::from(&resource(config)),
            queue: Arc::clone(&queue),
            outage: Mutex::default(),
        };
        let batches = BatchConfigBuilder::default()
            .with_max_queue_size(queue.limit)
            .with_max_export_batch_size(BATCH.min(queue.limit))
            .with_scheduled_delay(config.interval)
            .build();
        let processor = BatchSpanProcessor::builder(collector)
            .with_batch_config(batches)
            .build();
        Ok(Some(Self {
            processor: Arc::new(processor),
            queue,
            scope: InstrumentationScope::builder("ws")
                .with_version(env!("CARGO_PKG_VERSION"))
                .build(),
        }))
    }

    /// Takes a span that ends at this moment; drops it if too many wait.
    pub(super) fn take(&self, span: Span) {
        let waiting = self.queue.waiting.fetch_add(1, Ordering::Relaxed);
        if waiting >= self.queue.limit {
            self.queue.waiting.fetch_sub(1, Ordering::Relaxed);
            self.queue.counters.dropped.increment();
            return;
        }
        self.processor.on_end(self.data(span));
    }

    /// Sends what waits, for so long at most.
    pub(super) async fn finish(&self, limit: Duration) {
        self.queue.is_ending.store(true, Ordering::Relaxed);
        let processor = Arc::clone(&self.processor);
        // The runtime must go on meanwhile: it carries the requests.
        let ending = tokio::task::spawn_blocking(move || processor.shutdown_with_timeout(limit));
        let ended = timeout(limit, ending).await;
        if !matches!(ended, Ok(Ok(Ok(())))) {
            debug!("the collector does not take the last spans in time");
        }
        let counters = &self.queue.counters;
        info!(
            exported = counters.exported.get(),
            failed = counters.failed.get(),
            dropped = counters.dropped.get(),
            waiting = self.queue.waiting.load(Ordering::Relaxed),
            "traces ended"
        );
    }

    fn data(&self, span: Span) -> SpanData {
        let Span {
            name,
            kind,
            trace,
            parent,
            link,
            began,
            attributes,
            error,
        } = span;
        let mut links = SpanLinks::default();
        links
            .links
            .extend(link.map(|link| Link::with_context(context(link))));
        let attributes = attributes.into_iter().map(|(name, value)| match value {
            Value::Name(value) => KeyValue::new(name, value),
            Value::Text(value) => KeyValue::new(name, value),
            Value::Number(value) => KeyValue::new(name, i64::try_from(value).unwrap_or(i64::MAX)),
        });
        SpanData {
            span_context: context(trace),
            parent_span_id: parent.map_or(SpanId::INVALID, |it| SpanId::from_bytes(it.span)),
            parent_span_is_remote: parent.is_some_and(|parent| parent.is_remote),
            span_kind: match kind {
                SpanKind::Server => opentelemetry::trace::SpanKind::Server,
                SpanKind::Client => opentelemetry::trace::SpanKind::Client,
                SpanKind::Internal => opentelemetry::trace::SpanKind::Internal,
            },
            name: name.into(),
            start_time: began,
            // The clock of the host may have been set back.
            end_time: SystemTime::now().max(began),
            attributes: attributes.collect(),
            dropped_attributes_count: 0,
            events: SpanEvents::default(),
            links,
            status: error.map_or(Status::Unset, Status::error),
            instrumentation_scope: self.scope.clone(),
        }
    }
}

fn context(trace: Trace) -> SpanContext {
    let flags = TraceFlags::default().with_sampled(trace.is_sampled());
    SpanContext::new(
        TraceId::from_bytes(trace.id_bytes()),
        SpanId::from_bytes(trace.span()),
        flags,
        false,
        TraceState::NONE,
    )
}

/// What is said of this server. A name that is configured counts for more than one of the list.
fn resource(config: &TraceConfig) -> Resource {
    let attributes = config.resource.iter();
    let attributes = attributes.map(|(name, value)| KeyValue::new(name.clone(), value.clone()));
    Resource::builder_empty()
        .with_attribute(KeyValue::new("service.version", env!("CARGO_PKG_VERSION")))
        .with_attribute(KeyValue::new("telemetry.sdk.language", "rust"))
        .with_attribute(KeyValue::new("telemetry.sdk.name", "opentelemetry"))
        .with_attributes(attributes)
        .with_service_name(config.service_name.clone())
        .build()
}

/// Sends batches, one after another, for the thread of the queue.
#[derive(Debug)]
struct Collector {
    runtime: Handle,
    door: Arc<Door>,
    /// For all attempts at one batch.
    timeout: Duration,
    resource: ResourceAttributesWithSchema,
    queue: Arc<Queue>,
    outage: Mutex<Outage>,
}

impl SpanExporter for Collector {
    async fn export(&self, batch: Vec<SpanData>) -> OTelSdkResult {
        let count = batch.len();
        self.queue.waiting.fetch_sub(count, Ordering::Relaxed);
        let resource_spans = group_spans_by_resource_and_scope(batch, &self.resource);
        let body = ExportTraceServiceRequest { resource_spans }.encode_to_vec();
        let (door, queue, limit) = (
            Arc::clone(&self.door),
            Arc::clone(&self.queue),
            self.timeout,
        );
        let sending = self.runtime.spawn(async move {
            let deadline = Instant::now() + limit;
            let sending = door.post(body.into(), deadline, &queue.is_ending);
            let sent = timeout(limit, sending).await;
            sent.unwrap_or_else(|_| Err(format!("no answer within {limit:?}")))
        });
        let sent = sending.await.unwrap_or_else(|error| Err(error.to_string()));
        self.note(count as u64, sent)
    }
}

impl Collector {
    /// Counts what became of a batch. That the collector takes none is said once, and once that it
    /// does again.
    fn note(&self, count: u64, sent: Result<u64, String>) -> OTelSdkResult {
        let counters = &self.queue.counters;
        let mut outage = self.outage.lock().unwrap_or_else(PoisonError::into_inner);
        match sent {
            Ok(refused) => {
                let refused = refused.min(count);
                counters.exported.add(count - refused);
                counters.failed.add(refused);
                if let Some(outage) = outage.answered(Instant::now()) {
                    info!(?outage, "the collector takes traces again");
                }
                Ok(())
            }
            Err(error) => {
                counters.failed.add(count);
                if outage.failed(Instant::now()) {
                    let endpoint = self.door.endpoint.to_string();
                    warn!(
                        endpoint,
                        error, "the collector takes no traces; they are lost"
                    );
                }
                Err(OTelSdkError::InternalFailure(error))
            }
        }
    }
}

/// The way to a collector.
#[derive(Debug)]
struct Door {
    client: Client<HttpsConnector<HttpConnector>, Full<Bytes>>,
    endpoint: Uri,
    headers: TraceHeaders,
}

impl Door {
    fn new(config: &TraceConfig) -> Result<Self, ServeError> {
        let mut roots = RootCertStore::empty();
        if config.endpoint.scheme_str() == Some("https") {
            let found = rustls_native_certs::load_native_certs();
            roots.add_parsable_certificates(found.certs);
            if roots.is_empty() {
                let errors = found.errors.iter().map(ToString::to_string);
                return Err(ServeError::TraceRoots {
                    reasons: errors.collect::<Vec<_>>().join("; "),
                });
            }
        }
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let tls = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .expect("the provider speaks the versions of TLS that it was built with")
            .with_root_certificates(roots)
            .with_no_client_auth();
        let connector = HttpsConnectorBuilder::new()
            .with_tls_config(tls)
            .https_or_http()
            .enable_http1()
            .build();
        Ok(Self {
            // None is kept open: what closes it in the meantime would cost the next batch.
            client: Client::builder(TokioExecutor::new())
                .pool_max_idle_per_host(0)
                .build(connector),
            endpoint: config.endpoint.clone(),
            headers: config.headers.clone(),
        })
    }

    /// Sends a batch, again if need be, and returns how many spans of it were refused. A pause that
    /// would end behind the deadline is not made: the next batch need not wait for it.
    async fn post(
        &self,
        body: Bytes,
        deadline: Instant,
        is_ending: &AtomicBool,
    ) -> Result<u64, String> {
        let mut pause = PAUSE;
        for _ in 0..RETRIES {
            match self.try_post(body.clone()).await {
                Err(Trouble::Passing { reason, wait }) if !is_ending.load(Ordering::Relaxed) => {
                    let wait = wait.unwrap_or(pause);
                    if wait >= deadline.saturating_duration_since(Instant::now()) {
                        return Err(reason);
                    }
                    sleep(wait).await;
                    pause *= 2;
                }
                end => return end.map_err(Trouble::into_reason),
            }
        }
        self.try_post(body).await.map_err(Trouble::into_reason)
    }

    async fn try_post(&self, body: Bytes) -> Result<u64, Trouble> {
        let passing = |reason| Trouble::Passing { reason, wait: None };
        let mut request = Request::new(Full::new(body));
        *request.method_mut() = Method::POST;
        *request.uri_mut() = self.endpoint.clone();
        let headers = request.headers_mut();
        headers.insert(
            USER_AGENT,
            SERVER_SOFTWARE.parse().expect("it is plain text"),
        );
        for (name, value) in self.headers.iter() {
            headers.insert(name.clone(), value.clone());
        }
        headers.insert(
            CONTENT_TYPE,
            "application/x-protobuf".parse().expect("it is plain text"),
        );
        let response = self.client.request(request).await;
        let response = response.map_err(|error| passing(Chain(&error).to_string()))?;
        let (head, body) = response.into_parts();
        let body = Limited::new(body, MAX_ANSWER_SIZE).collect().await;
        if head.status.is_success() {
            // An answer that cannot be read was none to a refusal.
            let body = body.map(|body| body.to_bytes()).unwrap_or_default();
            return Ok(refused(&body));
        }
        Err(Trouble::of(&Response::from_parts(head, ())))
    }
}

/// How many spans a collector has refused of those that it has taken.
fn refused(answer: &[u8]) -> u64 {
    let answer = ExportTraceServiceResponse::decode(answer).unwrap_or_default();
    let refused = answer.partial_success.map_or(0, |it| it.rejected_spans);
    u64::try_from(refused).unwrap_or(0)
}

/// Why a batch did not get there.
enum Trouble {
    /// It may the next time, perhaps after such a pause.
    Passing {
        reason: String,
        wait: Option<Duration>,
    },
    Lasting(String),
}

impl Trouble {
    /// What a refusal means. [OTLP](https://opentelemetry.io/docs/specs/otlp/#otlphttp-response)
    /// says which ones pass.
    fn of(response: &Response<()>) -> Self {
        let status = response.status();
        let reason = format!("it answers {status}");
        match status {
            StatusCode::TOO_MANY_REQUESTS
            | StatusCode::BAD_GATEWAY
            | StatusCode::SERVICE_UNAVAILABLE
            | StatusCode::GATEWAY_TIMEOUT => {
                let wait = response.headers().get(RETRY_AFTER);
                let wait = wait.and_then(|wait| wait.to_str().ok()?.parse().ok());
                Self::Passing {
                    reason,
                    wait: wait.map(Duration::from_secs),
                }
            }
            _ => Self::Lasting(reason),
        }
    }

    fn into_reason(self) -> String {
        match self {
            Self::Passing { reason, .. } | Self::Lasting(reason) => reason,
        }
    }
}

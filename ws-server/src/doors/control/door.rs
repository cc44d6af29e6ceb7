//! Who gets in: what is asked of a request before anybody looks at what it wants.

use std::time::{Duration, Instant};

use axum::extract::{Request, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use ws_transport::ListenSocket;

use super::Api;
use super::error::ApiError;
use super::token::Tokens;
use crate::config::{Config, ControlTcpConfig, HostRule};
use crate::core::origin::is_loopback_host;
use crate::core::rate::{Bucket, Rate};
use crate::counters::ControlRefusal;

/// One of the doors to the control API.
#[derive(Debug)]
pub(super) struct Door {
    /// `None`: whoever may open the socket may do everything.
    lock: Option<Lock>,
    rate: Option<(Rate, Bucket)>,
    /// How long a request may take to come; `None` is any time.
    pub(super) timeout: Option<Duration>,
}

/// What is asked of those who come over TCP.
#[derive(Debug)]
struct Lock {
    tokens: Tokens,
    allowed_hosts: Vec<HostRule>,
    /// The host that the door listens on.
    own_host: String,
}

impl Door {
    pub(super) fn unix(config: &Config) -> Self {
        Self {
            lock: None,
            rate: rate(config),
            timeout: None,
        }
    }

    pub(super) fn tcp(config: &Config, tcp: &ControlTcpConfig, tokens: Tokens) -> Self {
        let own_host = match tcp.listen.socket() {
            ListenSocket::Tcp { host, .. } => host.clone(),
            _ => String::new(),
        };
        Self {
            lock: Some(Lock {
                tokens,
                allowed_hosts: tcp.allowed_hosts.clone(),
                own_host,
            }),
            rate: rate(config),
            timeout: Some(tcp.timeout),
        }
    }

    fn admit(&self, request: &Request, now: Instant) -> Result<(), (ControlRefusal, ApiError)> {
        let headers = request.headers();
        if let Some(lock) = &self.lock
            && !lock.serves_host(headers)
        {
            let text = "this host is not one of control.allowed_hosts";
            let error = ApiError::new(StatusCode::MISDIRECTED_REQUEST, text);
            return Err((ControlRefusal::Host, error));
        }
        // A page that a browser shows has no business here, whatever let it reach this door.
        if headers.contains_key(header::ORIGIN) || headers.contains_key("sec-fetch-site") {
            let error = ApiError::new(StatusCode::FORBIDDEN, "not from a browser");
            return Err((ControlRefusal::Browser, error));
        }
        // Whoever looks whether the server lives is no caller, and is told nothing else.
        if is_probe(request) {
            return Ok(());
        }
        if let Some(lock) = &self.lock {
            let token = bearer(headers);
            if !token.is_some_and(|token| lock.tokens.contain(token)) {
                let error = ApiError::unauthorized(token.is_some());
                return Err((ControlRefusal::Token, error));
            }
        }
        if let Some((rate, bucket)) = &self.rate {
            if let Some(ready_at) = rate.ready_at(bucket, now) {
                let wait = ready_at.saturating_duration_since(now);
                let error = ApiError::too_many(wait.as_secs() + 1);
                return Err((ControlRefusal::Rate, error));
            }
            rate.take(bucket, now);
        }
        Ok(())
    }
}

fn rate(config: &Config) -> Option<(Rate, Bucket)> {
    let per_second = config.control().rate?.get();
    let rate = Rate::new(per_second, per_second, Instant::now());
    Some((rate, Bucket::default()))
}

impl Lock {
    fn serves_host(&self, headers: &HeaderMap) -> bool {
        let mut hosts = headers.get_all(header::HOST).iter();
        let (Some(host), None) = (hosts.next(), hosts.next()) else {
            return false;
        };
        let Ok(host) = host.to_str() else {
            return false;
        };
        if !self.allowed_hosts.is_empty() {
            return self.allowed_hosts.iter().any(|rule| rule.allows(host));
        }
        let own = self.own_host.parse::<HostRule>();
        is_loopback_host(host) || own.is_ok_and(|own| own.allows(host))
    }
}

/// RFC 6750 §2.1; the scheme's case is of no matter (RFC 9110 §11.1).
fn bearer(headers: &HeaderMap) -> Option<&[u8]> {
    let value = headers.get(header::AUTHORIZATION)?.as_bytes();
    let (scheme, token) = value.split_at_checked("Bearer ".len())?;
    scheme
        .eq_ignore_ascii_case(b"Bearer ")
        .then(|| token.trim_ascii())
}

/// Lets a request in, or not.
pub(super) async fn guard(State(api): State<Api>, request: Request, next: Next) -> Response {
    let counters = &api.server.hub.counters;
    counters.control_requests.increment();
    let (response, has_token) = match api.door.admit(&request, Instant::now()) {
        Ok(()) => {
            let has_token = !is_probe(&request);
            (next.run(request).await, has_token)
        }
        Err((refusal, error)) => {
            counters.control_refused(refusal);
            (error.into_response(), refusal == ControlRefusal::Rate)
        }
    };
    if has_token || api.door.lock.is_none() {
        return response;
    }
    // Whoever shows no token gets one answer, and does not keep a place that others wait for.
    ([(header::CONNECTION, "close")], response).into_response()
}

/// Whether a request only looks whether the server lives, which needs no token.
fn is_probe(request: &Request) -> bool {
    matches!(request.uri().path(), "/live" | "/ready")
}

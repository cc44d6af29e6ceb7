//! Who gets in: what is asked of a request before anybody looks at what it wants.

use std::time::{Duration, Instant};

use axum::extract::{Request, State};
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use ws_transport::ListenSocket;

use super::Api;
use super::error::ApiError;
use super::page;
use super::token::Tokens;
use crate::config::{Config, ControlTcpConfig, HostRule};
use crate::core::origin::is_loopback_host;
use crate::core::rate::{Bucket, Rate};
use crate::counters::ControlRefusal;

const SEC_FETCH_SITE: &str = "sec-fetch-site";

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

    /// Whether these headers show what is needed to get in.
    pub(super) fn opens_for(&self, headers: &HeaderMap) -> bool {
        let knows = |lock: &Lock| bearer(headers).is_some_and(|token| lock.tokens.contain(token));
        self.lock.as_ref().is_none_or(knows)
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
        // The operator's page holds nothing that is not public, and is where its token is given.
        if self.lock.is_some() && page::is_page(request) {
            return Ok(());
        }
        // A page that a browser shows has no business here, whatever let it reach this door; but
        // for the operator's, which like anybody shows a token.
        if is_from_browser(headers) && !(self.lock.is_some() && is_from_own_page(headers)) {
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

fn is_from_browser(headers: &HeaderMap) -> bool {
    headers.contains_key(header::ORIGIN) || headers.contains_key(SEC_FETCH_SITE)
}

/// Whether the browser says that the page came through this door. No page can set these headers.
fn is_from_own_page(headers: &HeaderMap) -> bool {
    let mut sites = headers.get_all(SEC_FETCH_SITE).iter();
    let mut origins = headers.get_all(header::ORIGIN).iter();
    let host = headers
        .get(header::HOST)
        .and_then(|host| host.to_str().ok());
    let is_own = |origin: &HeaderValue| {
        let origin = origin.to_str().unwrap_or_default();
        let (scheme, origin_host) = origin.split_once("://").unwrap_or_default();
        let is_web = matches!(scheme, "http" | "https");
        is_web && host.is_some_and(|host| host.eq_ignore_ascii_case(origin_host))
    };
    sites.all(|site| site == "same-origin") && origins.all(is_own)
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
            let has_token = !is_probe(&request) && !page::is_page(&request);
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

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(lines: &[(&'static str, &str)]) -> HeaderMap {
        let pairs = lines.iter().map(|(name, value)| {
            let name = name.parse::<axum::http::HeaderName>().unwrap();
            (name, HeaderValue::from_str(value).unwrap())
        });
        let mut headers = HeaderMap::new();
        pairs.for_each(|(name, value)| {
            headers.append(name, value);
        });
        headers
    }

    #[test]
    fn t72_only_a_page_of_this_door_is_the_operators() {
        let host = ("host", "ops.example.org:8889");
        let own = [
            &[host, ("sec-fetch-site", "same-origin")][..],
            &[host, ("origin", "http://ops.example.org:8889")],
            &[host, ("origin", "https://OPS.example.org:8889")],
            &[
                host,
                ("origin", "http://ops.example.org:8889"),
                ("sec-fetch-site", "same-origin"),
            ],
        ];
        for lines in own {
            let headers = headers(lines);
            assert!(
                is_from_browser(&headers) && is_from_own_page(&headers),
                "{lines:?}"
            );
        }
        let foreign = [
            &[host, ("sec-fetch-site", "same-site")][..],
            &[host, ("sec-fetch-site", "cross-site")],
            &[host, ("sec-fetch-site", "none")],
            &[host, ("sec-fetch-site", "")],
            &[
                host,
                ("sec-fetch-site", "same-origin"),
                ("sec-fetch-site", "cross-site"),
            ],
            &[host, ("origin", "null")],
            &[host, ("origin", "")],
            &[host, ("origin", "http://ops.example.org")],
            &[host, ("origin", "http://ops.example.org:8889.evil")],
            &[host, ("origin", "http://evil@ops.example.org:8889")],
            &[host, ("origin", "file://ops.example.org:8889")],
            &[("origin", "http://ops.example.org:8889")],
            &[
                host,
                ("origin", "http://evil"),
                ("sec-fetch-site", "same-origin"),
            ],
        ];
        for lines in foreign {
            let headers = headers(lines);
            assert!(
                is_from_browser(&headers) && !is_from_own_page(&headers),
                "{lines:?}"
            );
        }
    }
}

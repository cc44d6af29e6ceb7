//! What the answers on the way to the server mean: facts in, findings out.

use std::fmt::Write as _;
use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, SystemTime};

use ws_proto::handshake::Rejection;
use ws_server::config::TrustedPeers;

use super::finding::Finding;
use super::probe::{Answer, Head, Silence, Trouble, seconds};
use super::remedy::{Proxy, Remedy};
use super::tls::{self, Shown};

/// Where a client connects.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Place {
    pub(super) is_secure: bool,
    /// Without brackets.
    pub(super) host: String,
    pub(super) port: u16,
    /// Path and query.
    pub(super) target: String,
}

impl Place {
    /// Reads a URL; `https` and `http` mean `wss` and `ws`.
    pub(super) fn parse(url: &str) -> Result<Self, String> {
        let (scheme, rest) = url.split_once("://").ok_or("not a ws:// or wss:// URL")?;
        let is_secure = match scheme.to_ascii_lowercase().as_str() {
            "ws" | "http" => false,
            "wss" | "https" => true,
            _ => return Err("not a ws:// or wss:// URL".to_owned()),
        };
        let rest = rest.split('#').next().unwrap_or_default();
        let at = rest.find(['/', '?']).unwrap_or(rest.len());
        let (authority, target) = rest.split_at(at);
        let is_printable = |c: char| c.is_ascii_graphic();
        if authority.contains('@') || !rest.chars().all(is_printable) {
            return Err("has a user or characters that no URL has".to_owned());
        }
        let uri: hyper::Uri = format!("http://{authority}/")
            .parse()
            .map_err(|error| format!("{error}"))?;
        let host = uri
            .host()
            .filter(|host| !host.is_empty())
            .ok_or("no host")?;
        let target = match target {
            "" => "/".to_owned(),
            query if query.starts_with('?') => format!("/{query}"),
            target => target.to_owned(),
        };
        Ok(Self {
            is_secure,
            host: host.trim_matches(['[', ']']).to_ascii_lowercase(),
            port: uri.port_u16().unwrap_or(if is_secure { 443 } else { 80 }),
            target,
        })
    }

    fn bracketed(&self) -> String {
        match self.host.contains(':') {
            true => format!("[{}]", self.host),
            false => self.host.clone(),
        }
    }

    /// What a browser says in `Host`: without the port that the scheme has anyway.
    pub(super) fn authority(&self) -> String {
        let usual = if self.is_secure { 443 } else { 80 };
        match self.port == usual {
            true => self.bracketed(),
            false => format!("{}:{}", self.bracketed(), self.port),
        }
    }

    /// What a page of the same place says in `Origin`.
    pub(super) fn origin(&self) -> String {
        let scheme = if self.is_secure { "https" } else { "http" };
        format!("{scheme}://{}", self.authority())
    }

    /// The path and the query, with one more parameter, which tells a connection from others.
    pub(super) fn marked(&self, mark: &str) -> String {
        let sign = if self.target.contains('?') { '&' } else { '?' };
        format!("{}{sign}{mark}", self.target)
    }

    /// Other origins that the server takes for its own if a proxy changed what was asked for, with
    /// what that means.
    pub(super) fn origins_of_rewriting_proxies(
        &self,
        backends: &[String],
    ) -> Vec<(String, Rewritten)> {
        let other_scheme = if self.is_secure { "http" } else { "https" };
        let mut origins = vec![(
            format!("{other_scheme}://{}", self.authority()),
            Rewritten::Scheme,
        )];
        // A host without its port is the same place with the usual port.
        let (scheme, usual) = if self.is_secure {
            ("https", 443)
        } else {
            ("http", 80)
        };
        if self.port != usual {
            origins.push((format!("{scheme}://{}", self.bracketed()), Rewritten::Port));
        }
        for backend in backends {
            for scheme in ["http", "https"] {
                let origin = format!("{scheme}://{backend}");
                if origin != self.origin() {
                    origins.push((origin, Rewritten::Host(backend.clone())));
                }
            }
        }
        origins
    }
}

/// What a proxy has changed, so that a page is taken for one of another site.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Rewritten {
    /// `X-Forwarded-Proto` says the other one.
    Scheme,
    /// The `Host` has lost its port.
    Port,
    /// The `Host` is this one.
    Host(String),
}

/// Why an opening handshake failed, or that it did not.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Cause {
    Upgraded,
    /// A 101, but its `Sec-WebSocket-Accept` is not the answer to our key.
    WrongAccept,
    /// A 101 without `Upgrade` or `Connection`.
    Incomplete(&'static str),
    /// The server was asked for no upgrade, or in HTTP/1.0.
    UpgradeDropped {
        status: u16,
    },
    /// The server takes the page for another site's.
    Origin,
    /// The server does not go by that name.
    Host(String),
    /// The server wants to know who asks.
    Unrecognised(String),
    /// The server has no room, or goes down.
    Busy(String),
    /// The server refuses for another reason.
    Refused {
        status: u16,
        text: String,
    },
    Redirected {
        status: u16,
        to: String,
    },
    /// A web server has answered with a page.
    Page,
    NotFound,
    /// The proxy does not reach the server.
    BackendDown {
        status: u16,
    },
    /// A hop refuses on its own account.
    RefusedByHop {
        status: u16,
    },
    /// The port speaks TLS, and was not asked in it.
    IsTls,
    NotHttp(String),
    Closed,
    Broken(String),
    Silent(Duration),
}

/// Reads what an answer means.
pub(super) fn cause(answer: &Answer) -> Cause {
    let (head, accepts) = match answer {
        Answer::Http { head, accepts } => (head, *accepts),
        // RFC 8446 §5.1: an alert.
        Answer::NotHttp(bytes) if matches!(bytes.as_slice(), [21, 3, ..]) => return Cause::IsTls,
        Answer::NotHttp(bytes) => {
            let begin = &bytes[..bytes.len().min(40)];
            return Cause::NotHttp(String::from_utf8_lossy(begin).into_owned());
        }
        Answer::Closed => return Cause::Closed,
        Answer::Broken(error) => return Cause::Broken(error.clone()),
        Answer::Silent(span) => return Cause::Silent(*span),
    };
    if head.status == 101 {
        return match () {
            () if !head.has("Upgrade", "websocket") => Cause::Incomplete("Upgrade: websocket"),
            () if !head.has("Connection", "Upgrade") => Cause::Incomplete("Connection: Upgrade"),
            () if !accepts => Cause::WrongAccept,
            () => Cause::Upgraded,
        };
    }
    let text = head.body.trim();
    if is_of_server(head) {
        return refusal_of_server(head.status, text);
    }
    let status = head.status;
    match status {
        // Whatever is in the body, nobody else asks for an upgrade to this.
        426 => Cause::UpgradeDropped { status },
        300..=399 => Cause::Redirected {
            status,
            to: head.header("Location").unwrap_or("nowhere").to_owned(),
        },
        400 if text.contains("plain HTTP request") => Cause::IsTls,
        200..=299 => Cause::Page,
        404 | 410 => Cause::NotFound,
        502..=504 => Cause::BackendDown { status },
        status => Cause::RefusedByHop { status },
    }
}

fn refusal_of_server(status: u16, text: &str) -> Cause {
    let text = text.to_owned();
    match status {
        426 | 505 => Cause::UpgradeDropped { status },
        403 if text == FOREIGN_PAGE => Cause::Origin,
        421 => Cause::Host(text),
        401 => Cause::Unrecognised(text),
        429 | 503 => Cause::Busy(text),
        status => Cause::Refused { status, text },
    }
}

/// What the server says to a page of another site.
const FOREIGN_PAGE: &str = "this origin may not connect";

/// Whether the server itself has written an answer: by its words, since proxies change headers.
fn is_of_server(head: &Head) -> bool {
    let text = head.body.trim();
    let is_plain = head
        .header("Content-Type")
        .is_some_and(|kind| kind.starts_with("text/plain"));
    let rejections = [
        Rejection::EarlyData,
        Rejection::MethodNotAllowed,
        Rejection::VersionNotSupported,
        Rejection::UpgradeRequired,
        Rejection::WrongWebSocketVersion,
    ];
    let own = [
        FOREIGN_PAGE,
        "only localhost is served here",
        "not recognised",
        "a cookie is required",
        "not possible now",
        "sessions cannot be looked up now",
        "the request headers cannot be passed on",
    ];
    let begins = ["bad request: ", "limits.", "no room: ", "request head over"];
    is_plain
        && (rejections.iter().any(|it| it.to_string() == text)
            || own.contains(&text)
            || begins.iter().any(|begin| text.starts_with(begin))
            || head.status == 421 && !text.is_empty() && !text.contains('\n'))
}

/// What is known besides the answer.
#[derive(Clone, Debug, Default)]
pub(super) struct Around {
    /// The name of the way: `ws://127.0.0.1:8888/`.
    pub(super) url: String,
    /// Whose lines are shown.
    pub(super) proxy: Option<Proxy>,
    /// What a hop calls itself.
    pub(super) software: Option<String>,
    /// The origin that was sent.
    pub(super) origin: String,
    /// Origins that the server does accept on this way.
    pub(super) rewritten: Option<Rewritten>,
    /// Whether it accepts a request without any.
    pub(super) accepts_without_origin: bool,
    /// What was found out about the server here: whether a listener answers.
    pub(super) listens_here: Option<bool>,
}

impl Around {
    /// Whom a sentence is about.
    fn hop(&self) -> String {
        match (&self.software, self.proxy) {
            (Some(software), _) => software.clone(),
            (None, Some(proxy)) => proxy.title().to_owned(),
            (None, None) => "a proxy".to_owned(),
        }
    }
}

/// Says what a handshake on the public way tells.
pub(super) fn judge(cause: &Cause, around: &Around) -> Finding {
    let hop = around.hop();
    let fault = |says: String| Finding::fault("upgrade", says);
    match cause {
        Cause::Upgraded => Finding::ok("upgrade", "101, with the right Sec-WebSocket-Accept"),
        Cause::WrongAccept => fault(format!(
            "101, but Sec-WebSocket-Accept does not answer the key that was sent: {hop} answers \
             from a cache, or by a program that does not speak WebSocket"
        ))
        .advise("Take the path out of the cache; let the request reach ws."),
        Cause::Incomplete(header) => fault(format!(
            "101, but without {header:?}: {hop} has taken it out of the answer"
        ))
        .advise("Browsers refuse such an answer; pass the headers of a 101 on as they are.")
        .remedy(Remedy::Upgrade),
        Cause::UpgradeDropped { status } => {
            let version = match status {
                505 => ", and asked in HTTP/1.0",
                _ => "",
            };
            fault(format!(
                "{status}: the request reached ws, but without Upgrade and Connection{version}: \
                 {hop} has dropped them"
            ))
            .advise(match around.proxy {
                Some(Proxy::Haproxy) => {
                    "HAProxy passes them on by itself in mode http: take out what deletes headers \
                     (http-request del-header), and option httpclose."
                }
                _ => "Both are of one hop only: the proxy has to be told to pass them on.",
            })
            .remedy(Remedy::Upgrade)
        }
        Cause::Origin => origin(around, &hop),
        Cause::Host(text) => fault(format!(
            "421: ws does not serve this host: {text}"
        ))
        .advise(
            "Name the public host in server.allowed_hosts and have the proxy pass it on; the demo \
             and --dev serve localhost only.",
        )
        .remedy(Remedy::Host),
        Cause::Unrecognised(text) => Finding::warning(
            "upgrade",
            format!("401: the request reached ws, which does not know who asks: {text}"),
        )
        .advise("With --header 'Cookie: NAME=VALUE' of a visitor the rest of the way is tried."),
        Cause::Busy(text) => fault(format!("ws turns visitors away: {text}"))
            .advise("See `ws status`; the limits are in the section limits of the configuration."),
        Cause::Refused { status, text } => fault(format!(
            "{status}: the request reached ws, which refuses it: {text}"
        ))
        .advise(format!("Something between changes the request; first of all {hop}.")),
        Cause::Redirected { status, to } => fault(format!(
            "{status}: {hop} redirects to {to}; browsers do not follow that with a WebSocket"
        ))
        .advise(if to.starts_with("https://") && around.url.starts_with("ws://") {
            "Connect to wss:// instead."
        } else {
            "Connect to that place, or leave the path out of the redirection."
        }),
        Cause::Page => fault(format!(
            "a page instead of an upgrade: {hop} serves this path itself, the request does not \
             reach ws"
        ))
        .advise("Pass the path on to ws, before the rules for files.")
        .remedy(Remedy::Backend),
        Cause::NotFound => fault(format!(
            "404: {hop} does not know this path, the request does not reach ws"
        ))
        .advise(match around.proxy {
            Some(Proxy::Apache) => {
                "Pass the path on to ws; is mod_proxy loaded, and has the path a %2F \
                 (AllowEncodedSlashes NoDecode)?"
            }
            _ => "Pass the path on to ws.",
        })
        .remedy(Remedy::Backend),
        Cause::BackendDown { status } => {
            let mut says = format!("{status}: {hop} does not reach ws");
            if around.listens_here == Some(false) {
                says += "; nor does anything listen here";
            }
            let advice = match (around.listens_here, status) {
                (Some(false), _) => "Start the server.",
                (Some(true), 504) => {
                    "ws answers here, but not to the proxy in time: look at its validation callback."
                }
                (Some(true), _) => {
                    "ws answers here: compare the address in the proxy's configuration with \
                     server.listen; a Unix socket must be writable for the proxy (server.unix_mode, \
                     unix_group); with SELinux, setsebool httpd_can_network_connect on."
                }
                (None, _) => "Is the server running, and is its address that of the proxy's \
                              configuration?",
            };
            fault(says).advise(advice).remedy(Remedy::Backend)
        }
        Cause::RefusedByHop { status } => {
            fault(format!("{status}: {hop} refuses, the request does not reach ws")).advise(
                match status {
                    401 | 407 => "It asks for a password: WebSockets cannot give one; use a cookie.",
                    403 => "Look at its access rules and at its firewall for applications.",
                    400 if around.proxy == Some(Proxy::Apache) => {
                        "Without mod_proxy_http's upgrade=websocket or mod_proxy_wstunnel Apache \
                         refuses upgrades."
                    }
                    _ => "Its log says why.",
                },
            )
            .remedy(Remedy::Upgrade)
        }
        Cause::IsTls => fault("the port speaks TLS".to_owned())
            .advise("Connect to wss:// instead of ws://."),
        Cause::NotHttp(begin) => fault(format!("what answers does not speak HTTP: {begin:?}"))
            .advise("Is this the port of the web server?"),
        Cause::Closed => fault(format!("the connection is closed without an answer by {hop}"))
            .advise(
                "A listener ws+proxy:// wants the PROXY protocol of the proxy; else the proxy's log \
                 says why.",
            ),
        Cause::Broken(error) => fault(format!("no answer: {error}"))
            .advise("The proxy's log says why."),
        Cause::Silent(span) => fault(format!(
            "no answer in {}: {hop} holds the request or the answer back",
            seconds(*span)
        ))
        .advise("Is the validation callback slow, or the backend's address one where nobody answers?"),
    }
}

/// Says what a handshake with a listener itself tells, if it failed.
pub(super) fn judge_listener(url: &str, cause: &Cause, around: &Around) -> Finding {
    const CHECK: &str = "listener";
    // It is there and decides: that is all that is asked here.
    match cause {
        Cause::Host(text) => {
            Finding::ok(CHECK, format!("{url}: answers; not for localhost: {text}"))
        }
        Cause::Origin => Finding::ok(
            CHECK,
            format!("{url}: answers; a request without Origin is refused"),
        ),
        Cause::Unrecognised(text) => Finding::ok(
            CHECK,
            format!("{url}: answers; it wants to know who asks: {text}"),
        )
        .advise("With --header 'Cookie: NAME=VALUE' of a visitor more is tried."),
        cause => {
            let mut finding = judge(cause, around);
            finding.name_as(CHECK, url);
            finding
        }
    }
}

fn origin(around: &Around, hop: &str) -> Finding {
    let Around { origin, .. } = around;
    let refused = format!("403: ws takes the page {origin} for one of another site");
    match &around.rewritten {
        Some(Rewritten::Host(host)) => Finding::fault(
            "upgrade",
            format!("{refused}: {hop} says {host:?} instead of the host that was asked for"),
        )
        .advise("Have the host that the browser asked for passed on.")
        .remedy(Remedy::Host),
        Some(Rewritten::Port) => Finding::fault(
            "upgrade",
            format!("{refused}: {hop} passes the host on without its port"),
        )
        .advise("Have the host passed on with its port.")
        .remedy(Remedy::Host),
        Some(Rewritten::Scheme) => Finding::fault(
            "upgrade",
            format!("{refused}: X-Forwarded-Proto says the other scheme"),
        )
        .advise(
            "Where another proxy in front ends TLS, pass its X-Forwarded-Proto on instead of \
             setting one.",
        )
        .remedy(Remedy::Scheme),
        None => {
            let mut advice = format!(
                "Either {hop} does not pass on the host that the browser asked for, or \
                 origin.allow lacks {origin:?}."
            );
            if around.accepts_without_origin {
                advice += " Without an Origin the same request is accepted.";
            }
            Finding::fault("upgrade", refused)
                .advise(advice)
                .remedy(Remedy::Host)
        }
    }
}

/// Says whether frames travel.
pub(super) fn judge_frames(
    check: &'static str,
    what: &str,
    answered: &Result<Duration, Trouble>,
    around: &Around,
) -> Finding {
    let hop = around.hop();
    match answered {
        Ok(span) => Finding::ok(
            check,
            format!("{what} after {:.1} ms", span.as_secs_f64() * 1000.0),
        ),
        Err(trouble @ Trouble::Silent(_)) => Finding::fault(
            check,
            format!(
                "101, but no {what}: {trouble}; {hop} buffers, or swallows what follows the 101"
            ),
        )
        .advise(
            "The proxy must switch to a tunnel after the 101: no buffering, no inspection of the \
             content.",
        )
        .remedy(Remedy::Upgrade),
        Err(
            trouble @ Trouble::Closed {
                code: 1013 | 1001, ..
            },
        ) => Finding::warning(check, format!("no {what}: {trouble}"))
            .advise("The server goes down or is full; try again."),
        Err(trouble) => Finding::fault(check, format!("101, but no {what}: {trouble}"))
            .advise(format!("The logs of {hop} and of ws say who ended it.")),
    }
}

/// Says what silence did to a connection.
pub(super) fn judge_silence(
    silence: &Silence,
    ping_interval: Option<Duration>,
    around: &Around,
) -> Finding {
    const CHECK: &str = "silence";
    let Silence {
        lasted,
        quiet,
        pings,
        ..
    } = silence;
    let pinged = match pings {
        0 => String::new(),
        1 => ", with one ping of ws".to_owned(),
        pings => format!(", with {pings} pings of ws"),
    };
    let Some(end) = &silence.end else {
        return Finding::ok(
            CHECK,
            format!(
                "open after {} without a message{pinged}",
                seconds(silence.asked)
            ),
        );
    };
    match end {
        Trouble::Closed { code, reason } => Finding::fault(
            CHECK,
            format!(
                "closed with {code} {reason:?} after {}{pinged}",
                seconds(*lasted)
            ),
        )
        .advise("That was ws itself, or its application; its log says why."),
        end => {
            let mut advice = match around.proxy {
                Some(proxy) => format!("In {} that is {}.", proxy.title(), proxy.idle_setting()),
                None => {
                    "Known times: nginx proxy_read_timeout 60 s; HAProxy timeout tunnel; Apache \
                         Timeout or ProxyTimeout 60 s, in Debian 300; a load balancer of AWS 60 s."
                        .to_owned()
                }
            };
            match ping_interval {
                Some(interval) => {
                    let _ = write!(
                        advice,
                        " Make it longer than the pings of ws are apart (limits.ping_interval, here \
                         {}), or have these come more often.",
                        seconds(interval)
                    );
                }
                None => advice += " The pings of ws would keep it: set limits.ping_interval.",
            }
            let hop = around.hop();
            Finding::fault(
                CHECK,
                format!(
                    "{end}, {} after it began and {} after the last byte{pinged}: {hop} does not \
                     bear silence",
                    seconds(*lasted),
                    seconds(*quiet)
                ),
            )
            .advise(advice)
            .remedy(Remedy::Idle)
        }
    }
}

/// How the server sees the connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Seen {
    /// `None` on a Unix socket.
    pub(super) ip: Option<IpAddr>,
    pub(super) port: Option<u16>,
}

/// Compares who the server takes us for with who we are.
pub(super) fn judge_visitor(
    seen: Option<Seen>,
    ours: SocketAddr,
    peer: SocketAddr,
    trusted: &TrustedPeers,
) -> Finding {
    const CHECK: &str = "visitor";
    let Some(seen) = seen else {
        return Finding::warning(
            CHECK,
            "the server that runs here does not know of the connection: the URL leads to another",
        )
        .advise("Right if the proxy has several servers behind it; else look where it leads.");
    };
    let untrusted = |said: String, who: &str| {
        Finding::warning(
            CHECK,
            format!(
                "server.proxy.trusted does not name the proxy: ws takes every visitor for {said}"
            ),
        )
        .advise(format!(
            "Set server.proxy.trusted = [\"{who}\"], and have the proxy say who the visitor is."
        ))
        .remedy(Remedy::Visitor)
    };
    let mute = |said: String| {
        Finding::warning(
            CHECK,
            format!("the proxy is trusted but does not say who the visitor is: ws takes every one for {said}"),
        )
        .advise("Have it set X-Forwarded-For.")
        .remedy(Remedy::Visitor)
    };
    let our_ip = ours.ip().to_canonical();
    let Some(ip) = seen.ip.map(|ip| ip.to_canonical()) else {
        return match trusted.contain(None) {
            true => mute("its Unix socket".to_owned()),
            false => untrusted("its Unix socket".to_owned(), "unix"),
        };
    };
    let is_proxys = ip.is_loopback() || ip == peer.ip().to_canonical();
    match seen.port {
        Some(port) if ip == our_ip && port == ours.port() => Finding::ok(
            CHECK,
            format!("ws knows the visitor as {ip}, which is right; no proxy is between"),
        ),
        None if ip == our_ip => Finding::ok(
            CHECK,
            format!("ws knows the visitor as {ip}, which is right"),
        ),
        // Without a word about it, the port is that of the proxy's own connection.
        Some(_) if is_proxys || ip == our_ip => match trusted.contain(Some(ip)) {
            true => mute(ip.to_string()),
            false => untrusted(ip.to_string(), &ip.to_string()),
        },
        _ if trusted.contain(Some(ip)) => mute(ip.to_string()),
        _ => Finding::ok(
            CHECK,
            format!("ws knows the visitor as {ip}: right if that is the public address from here"),
        ),
    }
}

/// Whether the server knows that the browser used TLS: it says so by the cookie.
pub(super) fn judge_scheme(head: &Head, place: &Place, cookie: &str) -> Option<Finding> {
    let begin = format!("{cookie}=");
    let mut headers = head.headers.iter();
    let (_, value) = headers.find(|(name, value)| {
        name.eq_ignore_ascii_case("Set-Cookie") && value.starts_with(&begin)
    })?;
    let is_secure = value
        .split(';')
        .any(|part| part.trim().eq_ignore_ascii_case("Secure"));
    if !place.is_secure {
        return None;
    }
    Some(match is_secure {
        true => Finding::ok("scheme", "ws knows that the visitor uses TLS"),
        false => Finding::warning(
            "scheme",
            "ws does not know that the visitor uses TLS: the session cookie is not Secure",
        )
        .advise("Have the proxy set X-Forwarded-Proto, and name it in server.proxy.trusted.")
        .remedy(Remedy::Scheme),
    })
}

/// Whether compression survives the way.
pub(super) fn judge_compression(head: &Head, is_enabled: bool, around: &Around) -> Option<Finding> {
    let has = head
        .header("Sec-WebSocket-Extensions")
        .is_some_and(|value| value.contains("permessage-deflate"));
    match (is_enabled, has) {
        (true, true) => Some(Finding::ok(
            "compression",
            "permessage-deflate is agreed upon",
        )),
        (true, false) => {
            let hop = around.hop();
            Some(
                Finding::warning(
                    "compression",
                    format!(
                        "ws offers permessage-deflate, but it is not agreed upon: {hop} takes \
                         Sec-WebSocket-Extensions out"
                    ),
                )
                .advise("Messages travel uncompressed; pass the header on."),
            )
        }
        (false, _) => None,
    }
}

/// Says what the addresses of a name are worth. `tried` has what became of each.
pub(super) fn judge_addresses(
    host: &str,
    tried: &[(SocketAddr, Result<Duration, String>)],
) -> Vec<Finding> {
    let mut findings = Vec::new();
    if host.parse::<IpAddr>().is_err() {
        let count = |is_v6: bool| tried.iter().filter(|(it, _)| it.is_ipv6() == is_v6).count();
        let addresses: Vec<String> = tried.iter().map(|(it, _)| it.ip().to_string()).collect();
        let says = format!("{host} is {}", addresses.join(", "));
        findings.push(match (count(false), count(true)) {
            (0, _) => Finding::warning("dns", format!("{says}: IPv6 only"))
                .advise("Visitors without IPv6 do not find it: add an A record."),
            _ => Finding::ok("dns", says),
        });
    }
    let failed: Vec<String> = tried
        .iter()
        .filter_map(|(addr, done)| Some(format!("{addr}: {}", done.as_ref().err()?)))
        .collect();
    let reached = tried.iter().find(|(_, done)| done.is_ok());
    findings.push(match (reached, failed.is_empty()) {
        (Some((addr, Ok(span))), true) => Finding::ok(
            "tcp",
            format!("{addr} accepts after {:.1} ms", span.as_secs_f64() * 1000.0),
        ),
        (Some((addr, _)), _) => Finding::warning(
            "tcp",
            format!("{addr} accepts, but not {}", failed.join(", ")),
        )
        .advise("Browsers lose time on it, or fail: let it listen there, or take the record out."),
        (None, _) => Finding::fault("tcp", format!("nobody accepts: {}", failed.join(", ")))
            .advise(
                "Is the proxy running, is this its port, and does the firewall let it through?",
            ),
    });
    findings
}

/// Fewer days are a warning.
const FEW_DAYS: i64 = 14;

/// Says what a certificate is worth to browsers.
pub(super) fn judge_certificate(
    shown: &Shown,
    host: &str,
    is_insecure: bool,
    now: SystemTime,
) -> Finding {
    const CHECK: &str = "tls";
    let names = match shown.names.as_slice() {
        [] => "nobody".to_owned(),
        names => names.join(", "),
    };
    let days = shown.not_after.map(|then| tls::days_until(then, now));
    let Some(trouble) = &shown.trouble else {
        let days = days.unwrap_or(i64::MAX);
        let says = format!("the certificate for {names} is good for {days} days more");
        return match days < FEW_DAYS {
            true => Finding::warning(CHECK, says).advise("Is its renewal set up?"),
            false => Finding::ok(CHECK, says),
        };
    };
    let (says, advice) = match trouble {
        tls::Trouble::Expired => {
            let since = days.map_or_else(String::new, |days| format!(" {} days ago", -days));
            (
                format!("the certificate has expired{since}"),
                "Renew it, and reload the server.",
            )
        }
        tls::Trouble::NotYetValid => (
            "the certificate is not valid yet".to_owned(),
            "Is the clock right?",
        ),
        tls::Trouble::WrongName => (
            format!("the certificate is for {names}, not for {host}"),
            "Get one for this name, or connect to that one; does the proxy show the right site's?",
        ),
        tls::Trouble::SelfSigned => (
            "the certificate has signed itself".to_owned(),
            "Browsers refuse it: get one from an authority, or say --ca FILE if yours is to be \
             trusted.",
        ),
        tls::Trouble::NoIntermediate => (
            "who issued the certificate is unknown, and no intermediate certificate is sent"
                .to_owned(),
            "Let the server show the whole chain (fullchain.pem, not cert.pem); --ca FILE trusts an \
             authority of yours.",
        ),
        tls::Trouble::WrongOrder => (
            "the certificates of the chain are in the wrong order".to_owned(),
            "The server's comes first, behind it the one that issued it, and so on.",
        ),
        tls::Trouble::UnknownIssuer => (
            "who issued the certificate is unknown".to_owned(),
            "Browsers refuse it; --ca FILE trusts an authority of yours.",
        ),
        tls::Trouble::Other(error) => (
            format!("the certificate is not good: {error}"),
            "Get a new one.",
        ),
    };
    match is_insecure {
        true => Finding::warning(CHECK, says).advise(advice),
        false => Finding::fault(CHECK, says).advise(advice),
    }
}

#[cfg(test)]
mod tests;

//! What happens behind the handshake: frames, silence, and whom the server takes the visitor for.

use std::fmt::Write as _;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use ws_server::config::TrustedPeers;

use super::{Around, Place};
use crate::verb::doctor::finding::Finding;
use crate::verb::doctor::probe::{Head, Silence, Trouble, seconds};
use crate::verb::doctor::remedy::Remedy;

/// Says whether frames travel.
pub(crate) fn judge_frames(
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
pub(crate) fn judge_silence(
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
pub(crate) struct Seen {
    /// `None` on a Unix socket.
    pub(crate) ip: Option<IpAddr>,
    pub(crate) port: Option<u16>,
}

/// Compares who the server takes us for with who we are.
pub(crate) fn judge_visitor(
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
pub(crate) fn judge_scheme(head: &Head, place: &Place, cookie: &str) -> Option<Finding> {
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
pub(crate) fn judge_compression(head: &Head, is_enabled: bool, around: &Around) -> Option<Finding> {
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

//! What is met on the way to the server, and what it means: facts in, findings out.

mod behind;
mod cause;
mod place;
mod reach;

use super::finding::Finding;
use super::probe::seconds;
use super::remedy::{Proxy, Remedy};

pub(super) use self::behind::{
    Seen, judge_compression, judge_frames, judge_scheme, judge_silence, judge_visitor,
};
pub(super) use self::cause::{Cause, cause};
pub(super) use self::place::{Place, Rewritten};
pub(super) use self::reach::{judge_addresses, judge_certificate};

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

#[cfg(test)]
mod tests;

//! What comes before the handshake: addresses and certificates.

use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, SystemTime};

use crate::verb::doctor::finding::Finding;
use crate::verb::doctor::tls::{self, Shown};

/// Says what the addresses of a name are worth. `tried` has what became of each.
pub(crate) fn judge_addresses(
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
pub(crate) fn judge_certificate(
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

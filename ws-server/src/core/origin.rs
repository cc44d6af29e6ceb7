//! Who may open a connection from a web page: the `Origin` and `Host` headers.
//!
//! A browser sends `Origin` with every opening handshake and a page cannot change it, so this is
//! what keeps one site's page from speaking with another site's cookies (cross-site WebSocket
//! hijacking). It is judged before any process is started.

use crate::config::{OriginConfig, WebOrigin, split_authority};

/// What an opening handshake says about the page it comes from.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Provenance<'a> {
    /// The `Origin` header.
    pub(crate) origin: Option<&'a str>,
    /// What the browser called this server: the `Host` header, or what a proxy on this host says
    /// it was (`X-Forwarded-Host`).
    pub(crate) host: &'a str,
    /// `http` or `https`, if it is known which one the browser used.
    pub(crate) scheme: Option<&'a str>,
}

/// Judges the page that an opening handshake comes from.
pub(crate) fn is_allowed(config: &OriginConfig, provenance: Provenance<'_>) -> bool {
    let Some(origin) = provenance.origin else {
        return config.allow_missing;
    };
    let Ok(origin) = origin.parse::<WebOrigin>() else {
        return false;
    };
    let Provenance { host, scheme, .. } = provenance;
    config
        .allow
        .iter()
        .any(|rule| rule.allows(&origin, host, scheme))
}

/// Whether a `Host` header names this very machine: what the demo accepts, so that a page whose
/// name was rebound to a loopback address (DNS rebinding) does not get in.
pub(crate) fn is_loopback_host(host: &str) -> bool {
    let Some((host, _)) = split_authority(host) else {
        return false;
    };
    let host = host
        .trim_start_matches('[')
        .trim_end_matches(']')
        .to_ascii_lowercase();
    host == "localhost"
        || host.ends_with(".localhost")
        || host
            .parse::<std::net::IpAddr>()
            .is_ok_and(|addr| addr.is_loopback())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{Config, RawConfig};

    #[test]
    fn t01_by_default_only_the_servers_own_pages_and_programs_connect() {
        let config = Config::from_raw(&RawConfig::default(), std::path::Path::new("/")).unwrap();
        let allowed = |origin, host| {
            let provenance = Provenance {
                origin,
                host,
                scheme: None,
            };
            is_allowed(config.origin(), provenance)
        };
        assert!(allowed(None, "good.example"));
        assert!(allowed(Some("https://good.example"), "good.example"));
        assert!(!allowed(Some("https://evil.example"), "good.example"));
        assert!(!allowed(Some("null"), "good.example"));
        assert!(!allowed(Some(""), "good.example"));
    }

    #[test]
    fn t11_only_loopback_hosts_are_this_machine() {
        for (host, is_loopback) in [
            ("localhost:8888", true),
            ("LocalHost", true),
            ("127.0.0.1", true),
            ("127.9.9.9:1", true),
            ("[::1]:8888", true),
            ("app.localhost", true),
            ("attacker.example", false),
            ("127.0.0.1.nip.io", false),
            ("localhost.evil", false),
            ("10.0.0.1", false),
            ("", false),
        ] {
            assert_eq!(is_loopback_host(host), is_loopback, "{host}");
        }
    }
}

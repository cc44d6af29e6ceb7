//! `[origin]`: web origins, and the rules that say which of them may connect.

use std::fmt;
use std::str::FromStr;

use super::fault::Problem;
use super::reader::Reader;

/// `[origin]`: which pages may connect.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct OriginConfig {
    /// Rules; one of them must allow the origin.
    pub allow: Vec<OriginRule>,
    /// Whether a request without an `Origin` header is accepted.
    pub allow_missing: bool,
}

pub(super) fn read(reader: &mut Reader<'_>) -> OriginConfig {
    OriginConfig {
        allow: reader.list("origin.allow", |text, _| {
            text.parse().map_err(|_| {
                Problem::malformed(
                    text,
                    "\"same-origin\", an origin like \"https://example.org\", or one with a \
                           wildcard label like \"https://*.example.org\"",
                )
            })
        }),
        allow_missing: reader.flag("origin.allow_missing"),
    }
}

/// A web origin: scheme, host and port ([RFC 6454](https://www.rfc-editor.org/rfc/rfc6454)).
///
/// Two origins are compared as what they mean, not as text: the default port of `http` and `https`
/// equals no port.
///
/// # Examples
///
/// ```
/// use ws_server::config::WebOrigin;
///
/// let origin: WebOrigin = "https://example.org:443".parse()?;
/// assert_eq!(origin, "https://example.org".parse()?);
/// assert!("null".parse::<WebOrigin>().is_err());
/// # Ok::<(), ws_server::config::InvalidOrigin>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct WebOrigin {
    scheme: String,
    host: String,
    /// Absent if it is the default of the scheme.
    port: Option<u16>,
}

/// Text that is not an origin, or not a rule.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not an origin")]
pub struct InvalidOrigin;

impl WebOrigin {
    /// Returns the scheme, in lower case.
    pub fn scheme(&self) -> &str {
        &self.scheme
    }

    /// Returns the host, in lower case; an IPv6 address keeps its brackets.
    pub fn host(&self) -> &str {
        &self.host
    }

    /// Says whether a page of this origin and the server that the browser called `authority` (the
    /// `Host` header: `HOST[:PORT]`) are of the same origin.
    ///
    /// With `scheme`, the one that the browser used (`http` or `https`), scheme and port are
    /// compared. Without it, behind a proxy that does not tell, only host and port are, and all
    /// default ports are equal.
    pub fn is_same(&self, authority: &str, scheme: Option<&str>) -> bool {
        let Some((host, port)) = split_authority(authority) else {
            return false;
        };
        if !host.eq_ignore_ascii_case(&self.host) {
            return false;
        }
        match scheme {
            Some(scheme) => {
                scheme == self.scheme && port.filter(|&port| !is_default(scheme, port)) == self.port
            }
            None => {
                let special = |port: &u16| !matches!(port, 80 | 443);
                port.filter(special) == self.port.filter(special)
            }
        }
    }
}

/// Reads the value of an `Origin` header as browsers write it: upper case, user information, paths,
/// `null` and anything beyond ASCII are refused.
impl FromStr for WebOrigin {
    type Err = InvalidOrigin;

    fn from_str(text: &str) -> Result<Self, InvalidOrigin> {
        let (scheme, authority) = text.split_once("://").ok_or(InvalidOrigin)?;
        let lower = |byte: u8| byte.is_ascii_lowercase();
        let scheme_byte = |byte: u8| lower(byte) || byte.is_ascii_digit() || b"+-.".contains(&byte);
        if !scheme.starts_with(|first: char| first.is_ascii_lowercase())
            || !scheme.bytes().all(scheme_byte)
            || authority.bytes().any(|byte| byte.is_ascii_uppercase())
        {
            return Err(InvalidOrigin);
        }
        let (host, port) = split_authority(authority).ok_or(InvalidOrigin)?;
        Ok(Self {
            scheme: scheme.to_owned(),
            host: host.to_owned(),
            port: port.filter(|&port| !is_default(scheme, port)),
        })
    }
}

impl fmt::Display for WebOrigin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}://{}", self.scheme, self.host)?;
        self.port.map_or(Ok(()), |port| write!(f, ":{port}"))
    }
}

/// A rule of `origin.allow`.
///
/// Read from `same-origin`, an exact origin (`https://example.org:8443`), or an origin whose first
/// label is a wildcard for exactly one (`https://*.example.org`).
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum OriginRule {
    /// The origin of the server itself, as the browser called it: [`WebOrigin::is_same`].
    SameOrigin,
    /// This origin.
    Exact(WebOrigin),
    /// Every origin that is this one with one more label before its host.
    Subdomain(WebOrigin),
}

impl OriginRule {
    /// Says whether the rule allows a page of `origin` to connect to the server that the browser
    /// called `authority` by `scheme` (see [`WebOrigin::is_same`]).
    pub fn allows(&self, origin: &WebOrigin, authority: &str, scheme: Option<&str>) -> bool {
        match self {
            Self::SameOrigin => origin.is_same(authority, scheme),
            Self::Exact(exact) => exact == origin,
            Self::Subdomain(parent) => {
                let label = origin
                    .host
                    .split_once('.')
                    .filter(|(_, rest)| *rest == parent.host);
                label.is_some_and(|(label, _)| !label.is_empty())
                    && origin.scheme == parent.scheme
                    && origin.port == parent.port
            }
        }
    }
}

impl FromStr for OriginRule {
    type Err = InvalidOrigin;

    fn from_str(text: &str) -> Result<Self, InvalidOrigin> {
        if text == "same-origin" {
            return Ok(Self::SameOrigin);
        }
        let text = text.to_ascii_lowercase();
        match text.split_once("://*.") {
            Some((scheme, parent)) => Ok(Self::Subdomain(format!("{scheme}://{parent}").parse()?)),
            None => text.parse().map(Self::Exact),
        }
    }
}

impl fmt::Display for OriginRule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::SameOrigin => f.write_str("same-origin"),
            Self::Exact(origin) => origin.fmt(f),
            Self::Subdomain(parent) => {
                write!(f, "{}://*.{}", parent.scheme, parent.host)?;
                parent.port.map_or(Ok(()), |port| write!(f, ":{port}"))
            }
        }
    }
}

/// Splits `HOST[:PORT]`, where HOST is a name, an IPv4 address or an IPv6 address in brackets.
pub(crate) fn split_authority(authority: &str) -> Option<(&str, Option<u16>)> {
    let end = match authority.strip_prefix('[') {
        Some(rest) => rest.find(']')? + 2,
        None => authority.find(':').unwrap_or(authority.len()),
    };
    let (host, port) = authority.split_at(end);
    let valid = match host.strip_prefix('[') {
        Some(rest) => rest
            .trim_end_matches(']')
            .parse::<std::net::Ipv6Addr>()
            .is_ok(),
        None => {
            !host.is_empty()
                && host
                    .bytes()
                    .all(|byte| byte.is_ascii_alphanumeric() || b"-._".contains(&byte))
        }
    };
    if !valid {
        return None;
    }
    let Some(port) = port.strip_prefix(':') else {
        return port.is_empty().then_some((host, None));
    };
    if port.is_empty() || !port.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    port.parse().ok().map(|port| (host, Some(port)))
}

fn is_default(scheme: &str, port: u16) -> bool {
    matches!((scheme, port), ("http", 80) | ("https", 443))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn allowed(rule: &str, origin: &str) -> bool {
        let rule: OriginRule = rule.parse().unwrap();
        origin
            .parse()
            .is_ok_and(|origin| rule.allows(&origin, "ws.example.net", Some("https")))
    }

    #[test]
    fn t01_only_the_exact_origin_passes_an_exact_rule() {
        assert!(allowed("https://good.example", "https://good.example"));
        assert!(allowed("https://GOOD.example:443", "https://good.example"));
        for wrong in [
            "https://evil.example",
            "https://good.example.evil",
            "https://evilgood.example",
            "https://goodXexample",
            "https://good-example",
            "http://good.example",
            "https://good.example:444",
            "https://good.example:0443x",
            "https://GOOD.example",
            "HTTPS://good.example",
            "https://good.example.",
            "https://göod.example",
            "https://xn--god-sna.example",
            "https://good.example@evil",
            "https://user@good.example",
            "https://good.example/",
            "https://good.example/path",
            "https://good.example?q",
            "https://good.example#f",
            "https://good.example https://evil.example",
            " https://good.example",
            "https://[::1]",
            "https:good.example",
            "//good.example",
            "https://",
            "https://:443",
            "file://",
            "null",
            "",
        ] {
            assert!(!allowed("https://good.example", wrong), "{wrong}");
        }
    }

    #[test]
    fn t01_a_wildcard_stands_for_exactly_one_label() {
        let rule = "https://*.example.org:8443";
        assert!(allowed(rule, "https://a.example.org:8443"));
        for wrong in [
            "https://example.org:8443",
            "https://a.b.example.org:8443",
            "https://.example.org:8443",
            "https://a.example.org",
            "http://a.example.org:8443",
            "https://aexample.org:8443",
            "https://a.example.org.evil:8443",
        ] {
            assert!(!allowed(rule, wrong), "{wrong}");
        }
    }

    #[test]
    fn rules_that_mean_anything_or_nothing_are_refused() {
        for wrong in [
            "*",
            "null",
            "",
            "https://*",
            "https://*.",
            "*.example.org",
            "https://a.*.example.org",
            "https://*example.org",
            "https://user@example.org",
            "https://example.org/",
            "example.org",
            "https://exämple.org",
            "same_origin",
        ] {
            assert!(wrong.parse::<OriginRule>().is_err(), "{wrong}");
        }
    }

    #[test]
    fn same_origin_compares_scheme_host_and_port() {
        let same =
            |origin: &str, host, scheme| origin.parse::<WebOrigin>().unwrap().is_same(host, scheme);
        assert!(same("https://a.example", "a.example", Some("https")));
        assert!(same("https://a.example", "A.example:443", Some("https")));
        assert!(same("http://[::1]:8888", "[::1]:8888", Some("http")));
        assert!(!same("http://a.example", "a.example", Some("https")));
        assert!(!same("https://a.example:8443", "a.example", Some("https")));
        assert!(!same("https://a.example", "a.example:80", Some("https")));
        // Without a scheme, default ports are equal; others are not.
        assert!(same("https://a.example", "a.example:80", None));
        assert!(same("https://a.example", "a.example", None));
        assert!(same("https://a.example:8443", "a.example:8443", None));
        assert!(!same("https://a.example:8443", "a.example", None));
        assert!(!same("https://a.example", "b.example", None));
        assert!(!same("https://a.example", "user@a.example", None));
    }

    proptest! {
        #[test]
        fn prop_origins_round_trip(text in "(http|https|app)://[a-z0-9][a-z0-9.-]{0,20}(:[0-9]{1,4})?") {
            let origin: WebOrigin = text.parse().unwrap();
            prop_assert_eq!(origin.to_string().parse(), Ok(origin));
        }

        #[test]
        fn prop_any_text_is_read_without_panic(text in any::<String>()) {
            let _ = (text.parse::<WebOrigin>(), text.parse::<OriginRule>(), split_authority(&text));
        }
    }
}

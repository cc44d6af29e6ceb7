//! Names that a server is asked for by, and the rules that say which of them it answers to.

use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;

use super::fault::Problem;
use super::origin::split_authority;
use super::reader::Reader;

/// A rule of `server.allowed_hosts` or `control.allowed_hosts`: what the `Host` header may say.
///
/// Read from a name or an address (`ws.example.org`, `127.0.0.1`, `[::1]`), or a name whose first
/// label is a wildcard for exactly one (`*.example.org`). Ports are not compared.
///
/// # Examples
///
/// ```
/// use ws_server::config::HostRule;
///
/// let rule: HostRule = "*.example.org".parse()?;
/// assert!(rule.allows("Shop.example.org:8443"));
/// assert!(!rule.allows("example.org") && !rule.allows("a.b.example.org"));
/// # Ok::<(), ws_server::config::InvalidHost>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum HostRule {
    /// This name, in lower case.
    Name(String),
    /// This address, however it is written.
    Addr(IpAddr),
    /// Every name that is this one with one more label before it.
    Subdomain(String),
}

/// Text that is not a rule.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not a host")]
pub struct InvalidHost;

impl HostRule {
    /// Says whether a request with this `Host` header (`HOST[:PORT]`) is answered.
    pub fn allows(&self, authority: &str) -> bool {
        let Some((host, _)) = split_authority(authority) else {
            return false;
        };
        match (self, address(host)) {
            (Self::Addr(own), Some(addr)) => *own == addr,
            (Self::Addr(_), None) | (_, Some(_)) => false,
            (Self::Name(own), None) => own.eq_ignore_ascii_case(host),
            (Self::Subdomain(parent), None) => host.split_once('.').is_some_and(|(label, rest)| {
                !label.is_empty() && rest.eq_ignore_ascii_case(parent)
            }),
        }
    }
}

fn address(host: &str) -> Option<IpAddr> {
    let bare = host
        .strip_prefix('[')
        .and_then(|host| host.strip_suffix(']'));
    bare.unwrap_or(host).parse().ok()
}

impl FromStr for HostRule {
    type Err = InvalidHost;

    fn from_str(text: &str) -> Result<Self, InvalidHost> {
        if let Some(addr) = address(text) {
            return Ok(Self::Addr(addr));
        }
        let name = text.strip_prefix("*.").unwrap_or(text);
        // A port here would look as if it were compared.
        let is_name = matches!(split_authority(name), Some((_, None))) && !name.starts_with('[');
        if !is_name || name.starts_with('.') || name.ends_with('.') || name.contains("..") {
            return Err(InvalidHost);
        }
        let lower = name.to_ascii_lowercase();
        Ok(match name.len() == text.len() {
            true => Self::Name(lower),
            false => Self::Subdomain(lower),
        })
    }
}

impl fmt::Display for HostRule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Name(name) => f.write_str(name),
            Self::Addr(addr) => addr.fmt(f),
            Self::Subdomain(parent) => write!(f, "*.{parent}"),
        }
    }
}

pub(super) fn rules(reader: &mut Reader<'_>, path: &'static str) -> Vec<HostRule> {
    reader.list(path, |text, _| {
        text.parse().map_err(|_| {
            Problem::malformed(
                text,
                "a name or an address without a port, or a name with a wildcard label like \
                       \"*.example.org\"",
            )
        })
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn t11_a_host_is_the_name_or_one_label_before_it_and_nothing_else() {
        for (rule, right, wrong) in [
            (
                "ws.example.org",
                &["ws.example.org", "WS.EXAMPLE.ORG:8888", "ws.example.org:1"][..],
                &[
                    "example.org",
                    "a.ws.example.org",
                    "ws.example.org.evil",
                    "ws.example.org.",
                    "wsXexample.org",
                    "user@ws.example.org",
                    "ws.example.org:x",
                    "ws.example.org, evil",
                    "",
                ][..],
            ),
            (
                "*.example.org",
                &["a.example.org", "A.example.org:80"],
                &[
                    "example.org",
                    "a.b.example.org",
                    ".example.org",
                    "aexample.org",
                    "*",
                ],
            ),
            (
                "127.0.0.1",
                &["127.0.0.1", "127.0.0.1:8889"],
                &["127.0.0.2", "127.0.0.1.nip.io"],
            ),
            (
                "::1",
                &["[::1]", "[::1]:8889", "[0:0::1]"],
                &["[::2]", "::1", "localhost"],
            ),
            ("[::1]", &["[::1]"], &["1"]),
        ] {
            let parsed: HostRule = rule.parse().unwrap();
            for host in right {
                assert!(parsed.allows(host), "{rule}: {host}");
            }
            for host in wrong {
                assert!(!parsed.allows(host), "{rule}: {host}");
            }
        }
    }

    #[test]
    fn rules_that_mean_anything_or_nothing_are_refused() {
        for wrong in [
            "",
            "*",
            "*.",
            "**.a",
            "a.*.b",
            "*a.b",
            "a:80",
            "http://a",
            "a/b",
            "a b",
            ".a",
            "a.",
            "a..b",
            "[::1",
            "[::1]:80",
            "ä.example",
            "*.[::1]",
        ] {
            assert!(wrong.parse::<HostRule>().is_err(), "{wrong}");
        }
    }

    proptest! {
        #[test]
        fn prop_rules_round_trip(text in r"(\*\.)?[a-z][a-z0-9-]{0,9}(\.[a-z][a-z0-9-]{0,9}){0,3}") {
            let rule: HostRule = text.parse().unwrap();
            prop_assert_eq!(rule.to_string().parse(), Ok(rule));
        }

        #[test]
        fn prop_any_text_is_read_without_panic(rule in any::<String>(), host in any::<String>()) {
            if let Ok(rule) = rule.parse::<HostRule>() {
                rule.allows(&host);
            }
        }
    }
}

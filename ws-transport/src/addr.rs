//! Where to listen, as people write it.

use std::fmt;
use std::net::{IpAddr, Ipv6Addr};
use std::path::PathBuf;
use std::str::FromStr;

/// An address to listen on, as configuration and command line name it.
///
/// The text is `HOST:PORT`, with an IPv6 address in brackets, or `unix:PATH`. What
/// [`Listener::url`](crate::Listener::url) prints is understood as well: `ws://HOST:PORT/` and
/// `ws+unix:PATH`. [`Display`](fmt::Display) writes the shorter form, which parses to the same
/// address.
///
/// # Examples
///
/// ```
/// use ws_transport::ListenAddr;
///
/// let addr: ListenAddr = "ws://[::1]:8888/".parse()?;
/// assert_eq!(addr, ListenAddr::Tcp { host: "::1".to_owned(), port: 8888 });
/// assert_eq!(addr.to_string(), "[::1]:8888");
///
/// let addr: ListenAddr = "unix:/run/ws/ws.sock".parse()?;
/// assert_eq!(addr, ListenAddr::Unix("/run/ws/ws.sock".into()));
/// # Ok::<(), ws_transport::InvalidListenAddr>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ListenAddr {
    /// A TCP port.
    Tcp {
        /// An IPv4 address, an IPv6 address without brackets, or a name that resolves to one.
        host: String,
        /// The port; 0 lets the kernel choose a free one.
        port: u16,
    },
    /// A Unix stream socket at a path. A relative one is taken from the working directory.
    Unix(PathBuf),
}

/// A text that is no [`ListenAddr`].
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum InvalidListenAddr {
    /// A scheme other than `ws:` and `unix:`.
    #[error("cannot listen for {0}: (write HOST:PORT or unix:PATH)")]
    Scheme(String),
    /// No host before the port.
    #[error("the host is missing (0.0.0.0 listens on every IPv4 address)")]
    MissingHost,
    /// A host that is neither an IP address nor a host name.
    #[error("{0:?} is neither an IP address nor a host name")]
    Host(String),
    /// An IPv6 address that is not in brackets, so that its end cannot be told from the port.
    #[error("an IPv6 address stands in brackets, as in [::1]:8888")]
    Brackets,
    /// No port behind the host.
    #[error("the port is missing (0 lets the system choose one)")]
    MissingPort,
    /// A port that is not a number from 0 to 65535.
    #[error("{0:?} is not a port (a number from 0 to 65535)")]
    Port(String),
    /// `unix:` without a path, or with one that contains a NUL byte.
    #[error("the path of the Unix socket is missing or contains a NUL byte")]
    Path,
    /// Something behind the port of a `ws://` URL: a listener has no path.
    #[error("nothing may follow the port, but {0:?} does")]
    Trailing(String),
}

impl FromStr for ListenAddr {
    type Err = InvalidListenAddr;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        if let Some(path) = text
            .strip_prefix("unix:")
            .or_else(|| text.strip_prefix("ws+unix:"))
        {
            if path.is_empty() || path.contains('\0') {
                return Err(InvalidListenAddr::Path);
            }
            return Ok(Self::Unix(PathBuf::from(path)));
        }
        if let Some(authority) = text.strip_prefix("ws://") {
            return match authority.find(['/', '?', '#']) {
                Some(end) if &authority[end..] != "/" => {
                    Err(InvalidListenAddr::Trailing(authority[end..].to_owned()))
                }
                end => host_and_port(&authority[..end.unwrap_or(authority.len())]),
            };
        }
        if let Some((scheme, _)) = text.split_once("://") {
            return Err(InvalidListenAddr::Scheme(scheme.to_owned()));
        }
        host_and_port(text)
    }
}

impl fmt::Display for ListenAddr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp { host, port } if host.contains(':') => write!(f, "[{host}]:{port}"),
            Self::Tcp { host, port } => write!(f, "{host}:{port}"),
            Self::Unix(path) => write!(f, "unix:{}", path.display()),
        }
    }
}

fn host_and_port(text: &str) -> Result<ListenAddr, InvalidListenAddr> {
    let (host, port) = match text.strip_prefix('[') {
        Some(rest) => {
            let (host, port) = rest.split_once(']').ok_or(InvalidListenAddr::Brackets)?;
            let address: Ipv6Addr = host
                .parse()
                .map_err(|_| InvalidListenAddr::Host(host.to_owned()))?;
            let port = port
                .strip_prefix(':')
                .ok_or(InvalidListenAddr::MissingPort)?;
            (address.to_string(), port)
        }
        None => {
            let (host, port) = text
                .rsplit_once(':')
                .ok_or(InvalidListenAddr::MissingPort)?;
            (checked_host(host)?, port)
        }
    };
    Ok(ListenAddr::Tcp {
        host,
        port: checked_port(port)?,
    })
}

fn checked_host(host: &str) -> Result<String, InvalidListenAddr> {
    if host.is_empty() {
        return Err(InvalidListenAddr::MissingHost);
    }
    if host.contains(':') {
        return Err(InvalidListenAddr::Brackets);
    }
    let is_name = |host: &str| {
        host.bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'-' | b'_'))
    };
    // A name never ends in a number (RFC 3696 §2), so `127.0.0.256` is a mistaken address and
    // must not be handed to the resolver.
    let last_label = host.rsplit('.').next().unwrap_or(host);
    let is_numeric = last_label.bytes().all(|byte| byte.is_ascii_digit());
    if host.parse::<IpAddr>().is_ok() || (is_name(host) && !is_numeric) {
        Ok(host.to_owned())
    } else {
        Err(InvalidListenAddr::Host(host.to_owned()))
    }
}

fn checked_port(port: &str) -> Result<u16, InvalidListenAddr> {
    match port {
        "" => Err(InvalidListenAddr::MissingPort),
        // `u16::from_str` would also take a plus sign.
        _ if port.bytes().all(|byte| byte.is_ascii_digit()) => port
            .parse()
            .map_err(|_| InvalidListenAddr::Port(port.to_owned())),
        _ => Err(InvalidListenAddr::Port(port.to_owned())),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn tcp(host: &str, port: u16) -> ListenAddr {
        ListenAddr::Tcp {
            host: host.to_owned(),
            port,
        }
    }

    #[test]
    fn every_spelling_is_understood() {
        for (text, addr) in [
            ("127.0.0.1:8888", tcp("127.0.0.1", 8888)),
            ("ws://127.0.0.1:8888", tcp("127.0.0.1", 8888)),
            ("ws://127.0.0.1:8888/", tcp("127.0.0.1", 8888)),
            ("localhost:0", tcp("localhost", 0)),
            ("my_host-1.example:65535", tcp("my_host-1.example", 65535)),
            ("[::1]:0", tcp("::1", 0)),
            ("[0:0:0:0:0:0:0:1]:1", tcp("::1", 1)),
            ("ws://[::]:80/", tcp("::", 80)),
            ("unix:/run/ws.sock", ListenAddr::Unix("/run/ws.sock".into())),
            (
                "ws+unix:/run/ws.sock",
                ListenAddr::Unix("/run/ws.sock".into()),
            ),
            ("unix:ws.sock", ListenAddr::Unix("ws.sock".into())),
        ] {
            assert_eq!(text.parse(), Ok(addr), "{text}");
        }
    }

    #[test]
    fn every_mistake_has_a_name() {
        use InvalidListenAddr as Invalid;
        for (text, error) in [
            ("", Invalid::MissingPort),
            ("localhost", Invalid::MissingPort),
            ("localhost:", Invalid::MissingPort),
            ("[::1]", Invalid::MissingPort),
            ("[::1]8888", Invalid::MissingPort),
            (":8888", Invalid::MissingHost),
            ("::1:8888", Invalid::Brackets),
            ("[::1:8888", Invalid::Brackets),
            ("[127.0.0.1]:1", Invalid::Host("127.0.0.1".into())),
            ("127.0.0.256:1", Invalid::Host("127.0.0.256".into())),
            ("a b:1", Invalid::Host("a b".into())),
            ("user@host:1", Invalid::Host("user@host".into())),
            ("host:+1", Invalid::Port("+1".into())),
            ("host:65536", Invalid::Port("65536".into())),
            ("host:-1", Invalid::Port("-1".into())),
            ("ws://host:1/chat", Invalid::Trailing("/chat".into())),
            ("ws://host:1?a", Invalid::Trailing("?a".into())),
            ("http://host:1", Invalid::Scheme("http".into())),
            ("unix:", Invalid::Path),
            ("unix:/a\0b", Invalid::Path),
        ] {
            assert_eq!(text.parse::<ListenAddr>(), Err(error), "{text}");
        }
    }

    fn any_addr() -> impl Strategy<Value = ListenAddr> {
        let host = prop_oneof![
            any::<std::net::Ipv4Addr>().prop_map(|ip| ip.to_string()),
            any::<Ipv6Addr>().prop_map(|ip| ip.to_string()),
            "[a-z][a-z0-9-]{0,20}(\\.[a-z]{1,10}){0,3}",
        ];
        prop_oneof![
            (host, any::<u16>()).prop_map(|(host, port)| ListenAddr::Tcp { host, port }),
            "[^\0]{1,40}".prop_map(|path| ListenAddr::Unix(path.into())),
        ]
    }

    proptest! {
        #[test]
        fn prop_text_round_trips(addr in any_addr()) {
            prop_assert_eq!(addr.to_string().parse(), Ok(addr));
        }

        #[test]
        fn prop_what_is_understood_round_trips(text in "(ws://|unix:)?[\\[\\]a-f0-9:./]{0,30}") {
            if let Ok(addr) = text.parse::<ListenAddr>() {
                prop_assert_eq!(addr.to_string().parse(), Ok(addr));
            }
        }
    }
}

//! Where to listen, as people write it.

use std::fmt;
use std::net::{IpAddr, Ipv6Addr};
use std::path::PathBuf;
use std::str::FromStr;

/// An address to listen on, as configuration and command line name it.
///
/// It says three things apart: which socket, whether TLS is spoken on it, and whether each
/// connection begins with a header of the PROXY protocol.
///
/// | text | socket |
/// |---|---|
/// | `HOST:PORT`, `ws://HOST:PORT`, `wss://HOST:PORT` | a TCP port; an IPv6 address in brackets |
/// | `unix:PATH`, `ws+unix:PATH`, `wss+unix:PATH` | a Unix socket |
/// | `systemd:NAME`, `ws+systemd:NAME`, `wss+systemd:NAME` | one that the service manager passed on |
///
/// `wss` is TLS. `+proxy` behind any scheme requires the PROXY protocol: `ws+proxy://HOST:PORT`,
/// `wss+proxy://HOST:PORT`, `unix+proxy:PATH`, `wss+unix+proxy:PATH`. A `/` may follow a port.
/// [`Display`](fmt::Display) writes the shortest form, which parses to the same address.
///
/// # Examples
///
/// ```
/// use ws_transport::{ListenAddr, ListenSocket};
///
/// let addr: ListenAddr = "ws://[::1]:8888/".parse()?;
/// assert_eq!(addr, ListenAddr::tcp("::1", 8888));
/// assert_eq!(addr.to_string(), "[::1]:8888");
///
/// let addr: ListenAddr = "wss+proxy://0.0.0.0:443".parse()?;
/// assert!(addr.is_tls() && addr.is_proxied());
///
/// let addr: ListenAddr = "unix:/run/ws/ws.sock".parse()?;
/// assert_eq!(*addr.socket(), ListenSocket::Unix("/run/ws/ws.sock".into()));
/// # Ok::<(), ws_transport::InvalidListenAddr>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct ListenAddr {
    socket: ListenSocket,
    tls: bool,
    proxied: bool,
}

/// The socket of a [`ListenAddr`].
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ListenSocket {
    /// A TCP port.
    Tcp {
        /// An IPv4 address, an IPv6 address without brackets, or a name that resolves to one.
        host: String,
        /// The port; 0 lets the kernel choose a free one.
        port: u16,
    },
    /// A Unix stream socket at a path. A relative one is taken from the working directory.
    Unix(PathBuf),
    /// A listening socket inherited from the service manager, by the name that its socket unit
    /// gives it (`FileDescriptorName=`).
    Systemd(String),
}

impl ListenAddr {
    /// Returns the address of a TCP port. The host is not checked before it is bound.
    pub fn tcp(host: impl Into<String>, port: u16) -> Self {
        Self::of(ListenSocket::Tcp {
            host: host.into(),
            port,
        })
    }

    /// Returns the address of a Unix socket.
    pub fn unix(path: impl Into<PathBuf>) -> Self {
        Self::of(ListenSocket::Unix(path.into()))
    }

    /// Returns the address of an inherited socket.
    pub fn systemd(name: impl Into<String>) -> Self {
        Self::of(ListenSocket::Systemd(name.into()))
    }

    fn of(socket: ListenSocket) -> Self {
        Self {
            socket,
            tls: false,
            proxied: false,
        }
    }

    /// Sets whether TLS is spoken there.
    #[must_use]
    pub fn with_tls(mut self, tls: bool) -> Self {
        self.tls = tls;
        self
    }

    /// Sets whether each connection there begins with a header of the PROXY protocol.
    #[must_use]
    pub fn with_proxied(mut self, proxied: bool) -> Self {
        self.proxied = proxied;
        self
    }

    /// Replaces the socket and keeps what is spoken on it.
    #[must_use]
    pub fn with_socket(mut self, socket: ListenSocket) -> Self {
        self.socket = socket;
        self
    }

    /// Returns the socket.
    pub fn socket(&self) -> &ListenSocket {
        &self.socket
    }

    /// Tells whether TLS is spoken there.
    pub fn is_tls(&self) -> bool {
        self.tls
    }

    /// Tells whether each connection there begins with a header of the PROXY protocol, which is
    /// then required.
    pub fn is_proxied(&self) -> bool {
        self.proxied
    }

    /// The address as a URL, with the scheme written out: what a client connects to, once the port
    /// is the real one.
    pub(crate) fn url(&self) -> String {
        let scheme = if self.tls { "wss" } else { "ws" };
        let proxy = if self.proxied { "+proxy" } else { "" };
        match &self.socket {
            ListenSocket::Tcp { host, port } => {
                format!("{scheme}{proxy}://{}/", HostAndPort(host, *port))
            }
            ListenSocket::Unix(path) => format!("{scheme}+unix{proxy}:{}", path.display()),
            ListenSocket::Systemd(name) => format!("{scheme}+systemd{proxy}:{name}"),
        }
    }
}

/// A text that is no [`ListenAddr`].
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum InvalidListenAddr {
    /// A scheme that is none of the table at [`ListenAddr`].
    #[error("cannot listen for {0}: (write HOST:PORT, wss://HOST:PORT, unix:PATH or systemd:NAME)")]
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
    /// `systemd:` without a name, or with one that no socket unit can give.
    #[error("{0:?} is not a name that FileDescriptorName= can give")]
    Name(String),
    /// Something behind the port of a URL: a listener has no path.
    #[error("nothing may follow the port, but {0:?} does")]
    Trailing(String),
}

impl FromStr for ListenAddr {
    type Err = InvalidListenAddr;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        if let Some((scheme, rest)) = text.split_once("://")
            && let Some(scheme) = Scheme::parse(scheme)
            && scheme.kind == Kind::Tcp
        {
            let (authority, tail) = rest.split_at(rest.find(['/', '?', '#']).unwrap_or(rest.len()));
            if !matches!(tail, "" | "/") {
                return Err(InvalidListenAddr::Trailing(tail.to_owned()));
            }
            return Ok(scheme.of(host_and_port(authority)?));
        }
        // Two slashes behind `unix:` are the beginning of a path.
        if let Some((scheme, rest)) = text.split_once(':')
            && let Some(scheme) = Scheme::parse(scheme)
        {
            match scheme.kind {
                // A host may be called `ws`.
                Kind::Tcp => {}
                Kind::Unix => return Ok(scheme.of(ListenSocket::Unix(checked_path(rest)?))),
                Kind::Systemd => return Ok(scheme.of(ListenSocket::Systemd(checked_name(rest)?))),
            }
        }
        if let Some((scheme, _)) = text.split_once("://") {
            return Err(InvalidListenAddr::Scheme(scheme.to_owned()));
        }
        host_and_port(text).map(Self::of)
    }
}

impl fmt::Display for ListenAddr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let proxy = if self.proxied { "+proxy" } else { "" };
        let (secure, secure_prefix) = if self.tls {
            ("wss", "wss+")
        } else {
            ("ws", "")
        };
        match &self.socket {
            ListenSocket::Tcp { host, port } if !self.tls && !self.proxied && !is_scheme(host) => {
                HostAndPort(host, *port).fmt(f)
            }
            ListenSocket::Tcp { host, port } => {
                write!(f, "{secure}{proxy}://{}", HostAndPort(host, *port))
            }
            ListenSocket::Unix(path) => {
                write!(f, "{secure_prefix}unix{proxy}:{}", path.display())
            }
            ListenSocket::Systemd(name) => write!(f, "{secure_prefix}systemd{proxy}:{name}"),
        }
    }
}

/// A host and its port, an IPv6 address in brackets.
struct HostAndPort<'a>(&'a str, u16);

impl fmt::Display for HostAndPort<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self(host, port) = self;
        if host.contains(':') {
            write!(f, "[{host}]:{port}")
        } else {
            write!(f, "{host}:{port}")
        }
    }
}

/// What stands before the first colon.
struct Scheme {
    kind: Kind,
    tls: bool,
    proxied: bool,
}

#[derive(PartialEq, Eq)]
enum Kind {
    Tcp,
    Unix,
    Systemd,
}

impl Scheme {
    fn parse(text: &str) -> Option<Self> {
        let (text, proxied) = match text.strip_suffix("+proxy") {
            Some(text) => (text, true),
            None => (text, false),
        };
        let (kind, tls) = match text {
            "ws" => (Kind::Tcp, false),
            "wss" => (Kind::Tcp, true),
            "unix" | "ws+unix" => (Kind::Unix, false),
            "wss+unix" => (Kind::Unix, true),
            "systemd" | "ws+systemd" => (Kind::Systemd, false),
            "wss+systemd" => (Kind::Systemd, true),
            _ => return None,
        };
        Some(Self { kind, tls, proxied })
    }

    fn of(&self, socket: ListenSocket) -> ListenAddr {
        ListenAddr {
            socket,
            tls: self.tls,
            proxied: self.proxied,
        }
    }
}

/// Tells whether `HOST:PORT` would be taken for another kind of socket.
fn is_scheme(host: &str) -> bool {
    Scheme::parse(host).is_some_and(|scheme| scheme.kind != Kind::Tcp)
}

fn checked_path(path: &str) -> Result<PathBuf, InvalidListenAddr> {
    if path.is_empty() || path.contains('\0') {
        return Err(InvalidListenAddr::Path);
    }
    Ok(PathBuf::from(path))
}

/// systemd.socket(5), `FileDescriptorName=`: at most 255 characters of printable ASCII, no colon.
fn checked_name(name: &str) -> Result<String, InvalidListenAddr> {
    let is_allowed = |byte: u8| matches!(byte, b' '..=b'~') && byte != b':';
    if (1..=255).contains(&name.len()) && name.bytes().all(is_allowed) {
        Ok(name.to_owned())
    } else {
        Err(InvalidListenAddr::Name(name.to_owned()))
    }
}

fn host_and_port(text: &str) -> Result<ListenSocket, InvalidListenAddr> {
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
    Ok(ListenSocket::Tcp {
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
        ListenAddr::tcp(host, port)
    }

    fn unix(path: &str) -> ListenAddr {
        ListenAddr::unix(path)
    }

    fn systemd(name: &str) -> ListenAddr {
        ListenAddr::systemd(name)
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
            ("ws:80", tcp("ws", 80)),
            ("wss:80", tcp("wss", 80)),
            ("wss://[::]:443/", tcp("::", 443).with_tls(true)),
            ("ws+proxy://h:1", tcp("h", 1).with_proxied(true)),
            (
                "wss+proxy://h:1/",
                tcp("h", 1).with_tls(true).with_proxied(true),
            ),
            ("unix:/run/ws.sock", unix("/run/ws.sock")),
            ("ws+unix:/run/ws.sock", unix("/run/ws.sock")),
            ("wss+unix:/run/ws.sock", unix("/run/ws.sock").with_tls(true)),
            ("unix:ws.sock", unix("ws.sock")),
            ("unix://a://b", unix("//a://b")),
            ("unix+proxy:ws.sock", unix("ws.sock").with_proxied(true)),
            ("ws+unix+proxy:ws.sock", unix("ws.sock").with_proxied(true)),
            ("systemd:http", systemd("http")),
            ("systemd:80", systemd("80")),
            ("wss+systemd:ws.socket", systemd("ws.socket").with_tls(true)),
            (
                "wss+systemd+proxy:a b",
                systemd("a b").with_tls(true).with_proxied(true),
            ),
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
            ("https+proxy://h:1", Invalid::Scheme("https+proxy".into())),
            (
                "ws+proxy+proxy://h:1",
                Invalid::Scheme("ws+proxy+proxy".into()),
            ),
            ("unix:", Invalid::Path),
            ("wss+unix+proxy:", Invalid::Path),
            ("systemd:", Invalid::Name(String::new())),
            ("systemd:a:b", Invalid::Name("a:b".into())),
            ("systemd:\u{e9}", Invalid::Name("\u{e9}".into())),
            ("unix:/a\0b", Invalid::Path),
        ] {
            assert_eq!(text.parse::<ListenAddr>(), Err(error), "{text}");
        }
    }

    #[test]
    fn a_host_that_is_called_as_a_scheme_round_trips() {
        for host in ["unix", "systemd", "ws", "wss"] {
            let addr = tcp(host, 80);
            assert_eq!(addr.to_string().parse(), Ok(addr));
        }
    }

    fn any_addr() -> impl Strategy<Value = ListenAddr> {
        let host = prop_oneof![
            any::<std::net::Ipv4Addr>().prop_map(|ip| ip.to_string()),
            any::<Ipv6Addr>().prop_map(|ip| ip.to_string()),
            "[a-z][a-z0-9-]{0,20}(\\.[a-z]{1,10}){0,3}",
        ];
        let socket = prop_oneof![
            (host, any::<u16>()).prop_map(|(host, port)| ListenAddr::tcp(host, port)),
            "[^\0]{1,40}".prop_map(ListenAddr::unix),
            "[ -9;-~]{1,40}".prop_map(ListenAddr::systemd),
        ];
        (socket, any::<bool>(), any::<bool>())
            .prop_map(|(addr, tls, proxied)| addr.with_tls(tls).with_proxied(proxied))
    }

    proptest! {
        #[test]
        fn prop_text_round_trips(addr in any_addr()) {
            prop_assert_eq!(addr.to_string().parse(), Ok(addr.clone()));
            prop_assert_eq!(addr.url().parse(), Ok(addr));
        }

        #[test]
        fn prop_what_is_understood_round_trips(text in "(wss?(\\+proxy)?://|unix:|systemd:)?[\\[\\]a-f0-9:./]{0,30}") {
            if let Ok(addr) = text.parse::<ListenAddr>() {
                prop_assert_eq!(addr.to_string().parse(), Ok(addr));
            }
        }
    }
}

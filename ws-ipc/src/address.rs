//! Where a server of somebody else's is asked, as people write it.

use std::fmt;
use std::net::Ipv6Addr;
use std::path::{Path, PathBuf};
use std::str::FromStr;

/// The address of a server that runs the application: php-fpm, an SCGI server.
///
/// | text | socket |
/// |---|---|
/// | `unix:PATH`, or a path that begins with `/` | a Unix socket |
/// | `HOST:PORT` | a TCP port; an IPv6 address in brackets |
///
/// [`Display`](fmt::Display) writes a form that parses to the same address.
///
/// # Examples
///
/// ```
/// use ws_ipc::Address;
///
/// let address: Address = "/run/php/php-fpm.sock".parse()?;
/// assert_eq!(address, Address::unix("/run/php/php-fpm.sock"));
/// assert_eq!(address.to_string(), "unix:/run/php/php-fpm.sock");
///
/// let address: Address = "[::1]:9000".parse()?;
/// assert_eq!(address.to_string(), "[::1]:9000");
/// assert_eq!(address.unix_path(), None);
/// # Ok::<(), ws_ipc::InvalidAddress>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Address {
    socket: Socket,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Socket {
    Unix(PathBuf),
    /// The host is a name or an IP address, without brackets.
    Tcp {
        host: String,
        port: u16,
    },
}

impl Address {
    /// Returns the address of a Unix socket. A relative path is taken from the working directory.
    pub fn unix(path: impl Into<PathBuf>) -> Self {
        Self {
            socket: Socket::Unix(path.into()),
        }
    }

    /// Returns the path of a Unix socket; `None` for a TCP port.
    pub fn unix_path(&self) -> Option<&Path> {
        match &self.socket {
            Socket::Unix(path) => Some(path),
            Socket::Tcp { .. } => None,
        }
    }

    pub(crate) fn socket(&self) -> &Socket {
        &self.socket
    }
}

/// A text that is no [`Address`].
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum InvalidAddress {
    /// A URL, or a scheme that is not known.
    #[error("{0:?} is no address (write unix:PATH or HOST:PORT)")]
    Scheme(String),
    /// `unix:` without a path, or with one that contains a NUL byte.
    #[error("the path of the Unix socket is missing or contains a NUL byte")]
    Path,
    /// A host that is neither an IP address nor a host name.
    #[error("{0:?} is neither an IP address nor a host name")]
    Host(String),
    /// An IPv6 address that is not in brackets, so that its end cannot be told from the port.
    #[error("an IPv6 address stands in brackets, as in [::1]:9000")]
    Brackets,
    /// No port behind the host.
    #[error("the port is missing (write HOST:PORT, or unix:PATH for a Unix socket)")]
    MissingPort,
    /// A port that is not a number from 1 to 65535.
    #[error("{0:?} is not a port (a number from 1 to 65535)")]
    Port(String),
}

impl FromStr for Address {
    type Err = InvalidAddress;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        if text.starts_with('/') {
            return checked_path(text);
        }
        if let Some(path) = text.strip_prefix("unix:") {
            return checked_path(path);
        }
        if text.contains("://") {
            return Err(InvalidAddress::Scheme(text.to_owned()));
        }
        let (host, port) = match text.strip_prefix('[') {
            Some(rest) => {
                let (host, rest) = rest.split_once(']').ok_or(InvalidAddress::Brackets)?;
                let host: Ipv6Addr = host
                    .parse()
                    .map_err(|_| InvalidAddress::Host(host.to_owned()))?;
                let port = rest.strip_prefix(':').ok_or(InvalidAddress::MissingPort)?;
                (host.to_string(), port)
            }
            None => {
                let (host, port) = text.rsplit_once(':').ok_or(InvalidAddress::MissingPort)?;
                (checked_host(host)?, port)
            }
        };
        let port = checked_port(port)?;
        Ok(Self {
            socket: Socket::Tcp { host, port },
        })
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.socket {
            Socket::Unix(path) => write!(f, "unix:{}", path.display()),
            Socket::Tcp { host, port } if host.contains(':') => write!(f, "[{host}]:{port}"),
            Socket::Tcp { host, port } => write!(f, "{host}:{port}"),
        }
    }
}

fn checked_path(path: &str) -> Result<Address, InvalidAddress> {
    if path.is_empty() || path.contains('\0') {
        return Err(InvalidAddress::Path);
    }
    Ok(Address::unix(path))
}

/// An IPv4 address or a name; whether it resolves is seen when it is connected to.
fn checked_host(host: &str) -> Result<String, InvalidAddress> {
    if host.contains(':') {
        return Err(InvalidAddress::Brackets);
    }
    let is_allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"-._".contains(&byte);
    // `unix` is the beginning of the other form, not a host.
    if host.is_empty() || host == "unix" || !host.bytes().all(is_allowed) {
        return Err(InvalidAddress::Host(host.to_owned()));
    }
    Ok(host.to_owned())
}

fn checked_port(port: &str) -> Result<u16, InvalidAddress> {
    let digits = port.bytes().all(|byte| byte.is_ascii_digit());
    let number = port.parse().ok().filter(|&number| digits && number > 0);
    number.ok_or_else(|| InvalidAddress::Port(port.to_owned()))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn both_forms_of_a_path_are_one_address() {
        let short: Address = "/run/a.sock".parse().unwrap();
        assert_eq!("unix:/run/a.sock".parse(), Ok(short));
        let relative: Address = "unix:run/a.sock".parse().unwrap();
        assert_eq!(relative.unix_path(), Some(Path::new("run/a.sock")));
    }

    #[test]
    fn what_is_no_address_is_refused() {
        use InvalidAddress::*;
        let cases = [
            ("", MissingPort),
            ("php-fpm", MissingPort),
            ("unix:", Path),
            ("/a\0b", Path),
            (
                "tcp://127.0.0.1:9000",
                Scheme("tcp://127.0.0.1:9000".into()),
            ),
            (":9000", Host(String::new())),
            ("a b:9000", Host("a b".into())),
            ("unix/x:9000", Host("unix/x".into())),
            ("::1:9000", Brackets),
            ("[::1:9000", Brackets),
            ("[::x]:9000", Host("::x".into())),
            ("[::1]", MissingPort),
            ("localhost:", Port(String::new())),
            ("localhost:0", Port("0".into())),
            ("localhost:+1", Port("+1".into())),
            ("localhost:65536", Port("65536".into())),
        ];
        for (text, error) in cases {
            assert_eq!(text.parse::<Address>(), Err(error), "{text:?}");
        }
    }

    proptest! {
        #[test]
        fn prop_text_of_an_address_is_read_as_the_same(text in prop_oneof![
            "unix:[ -~é]{1,20}",
            "/[ -~é]{0,20}",
            "[a-z0-9.-]{1,12}:[1-9][0-9]{0,3}",
            any::<std::net::SocketAddr>().prop_map(|address| address.to_string()),
            any::<String>(),
        ]) {
            if let Ok(address) = text.parse::<Address>() {
                prop_assert_eq!(address.to_string().parse(), Ok(address));
            }
        }
    }
}

//! The header of the PROXY protocol, in both versions, as
//! [HAProxy's specification](https://www.haproxy.org/download/3.2/doc/proxy-protocol.txt) has it.
//!
//! Without I/O: bytes go in, cut anywhere, and the header comes out. The parsers to be had on
//! crates.io want the whole header in one buffer, and accept lines that the specification forbids
//! (`proxy-header`: any byte behind `PROXY`, ports as `+80` or `080`, `UNKNOWNxyz`) or take a
//! mistake for an incomplete line (`ppp`). In the tests, `proxy-header` is the encoder.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

/// Specification §2.1: the longest line, with its end.
const MAX_LINE_LEN: usize = 107;
const LINE_START: &[u8] = b"PROXY ";
/// Specification §2.2.
const SIGNATURE: &[u8] = b"\r\n\r\n\0\r\nQUIT\n";
/// The signature, version and command, family, length.
const BINARY_LEN: usize = 16;
/// Two addresses of 108 bytes, as in `sockaddr_un`.
const UNIX_LEN: usize = 216;

/// What a proxy says about a connection that it passes on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ProxyHeader {
    /// The connection is the proxy's own (`LOCAL`, as for a health check), or it comes from where
    /// there are no IP addresses (`UNKNOWN`). The ends of the connection itself are meant.
    Local,
    /// The connection was made to the proxy.
    Proxied {
        /// Who connected.
        source: SocketAddr,
        /// What was connected to.
        destination: SocketAddr,
    },
}

/// Why bytes are not a header of the PROXY protocol.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, thiserror::Error)]
#[non_exhaustive]
pub enum ProxyHeaderError {
    /// They begin like neither version: somebody connects without a proxy.
    #[error("the connection does not begin with a PROXY protocol header")]
    Missing,
    /// The line of version 1 does not end within 107 bytes.
    #[error("the PROXY protocol line is longer than 107 bytes")]
    LineTooLong,
    /// The line of version 1 ends with something other than CR LF.
    #[error("the PROXY protocol line does not end with CR LF")]
    LineEnd,
    /// The line of version 1 names another protocol than `TCP4`, `TCP6` or `UNKNOWN`.
    #[error("the PROXY protocol line names an unknown protocol")]
    Protocol,
    /// An address or a port in the line of version 1 is missing, malformed or one too many.
    #[error("the PROXY protocol line does not hold two addresses and two ports")]
    Addresses,
    /// The version in the binary header is not 2.
    #[error("the PROXY protocol header has version {0}")]
    Version(u8),
    /// The command in the binary header is neither `LOCAL` nor `PROXY`.
    #[error("the PROXY protocol header has the unknown command {0}")]
    Command(u8),
    /// The specification does not assign the family and transport in the binary header.
    #[error("the PROXY protocol header has the unknown family {0:#04x}")]
    Family(u8),
    /// The binary header is too short for the addresses of its family.
    #[error("the PROXY protocol header of {0} bytes is too short for its addresses")]
    Length(u16),
}

/// Reads the header of the PROXY protocol, as far as it has come.
///
/// It keeps at most 107 bytes, whatever length the peer announces.
///
/// # Examples
///
/// ```
/// use ws_transport::{ProxyHeader, ProxyHeaderReader};
///
/// let mut reader = ProxyHeaderReader::new();
/// assert_eq!(reader.read(b"PROXY TCP4 192.0.2.1 198.51.1"), Ok((29, None)));
/// let (consumed, header) = reader.read(b"00.1 4711 443\r\nGET / HTTP/1.1\r\n")?;
/// assert_eq!(consumed, 15);
/// assert_eq!(
///     header,
///     Some(ProxyHeader::Proxied {
///         source: "192.0.2.1:4711".parse()?,
///         destination: "198.51.100.1:443".parse()?,
///     })
/// );
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug)]
pub struct ProxyHeaderReader {
    state: State,
}

#[derive(Debug)]
enum State {
    /// The line, or the beginning and the addresses of the binary header.
    Collecting(Vec<u8>),
    /// What follows the addresses: of no interest.
    Skipping { header: ProxyHeader, rest: usize },
}

impl ProxyHeaderReader {
    /// Starts at the first byte of a connection.
    pub fn new() -> Self {
        Self {
            state: State::Collecting(Vec::new()),
        }
    }

    /// Takes the next bytes. Returns how many of them belong to the header, and the header once it
    /// is complete; until then all of them do. Nothing more is to be read after that.
    ///
    /// # Errors
    ///
    /// [`ProxyHeaderError`] as soon as the bytes cannot become a header. The connection must then
    /// be closed, without an answer.
    pub fn read(&mut self, bytes: &[u8]) -> Result<(usize, Option<ProxyHeader>), ProxyHeaderError> {
        let mut consumed = 0;
        while consumed < bytes.len() {
            match &mut self.state {
                State::Collecting(start) => {
                    start.push(bytes[consumed]);
                    consumed += 1;
                    if let Some((header, rest)) = judge(start)? {
                        self.state = State::Skipping { header, rest };
                    }
                }
                State::Skipping { rest, .. } => {
                    let skipped = (*rest).min(bytes.len() - consumed);
                    *rest -= skipped;
                    consumed += skipped;
                }
            }
            if let State::Skipping { header, rest: 0 } = self.state {
                return Ok((consumed, Some(header)));
            }
        }
        Ok((consumed, None))
    }
}

impl Default for ProxyHeaderReader {
    fn default() -> Self {
        Self::new()
    }
}

/// Looks at the bytes so far, of which the last one is new. Returns the header, as soon as all of
/// it is there that counts, and how many bytes of it are still to be skipped.
fn judge(start: &[u8]) -> Result<Option<(ProxyHeader, usize)>, ProxyHeaderError> {
    let begins = |with: &[u8]| {
        let shorter = start.len().min(with.len());
        start[..shorter] == with[..shorter]
    };
    if begins(SIGNATURE) {
        judge_binary(start)
    } else if begins(LINE_START) {
        judge_line(start)
    } else {
        Err(ProxyHeaderError::Missing)
    }
}

fn judge_line(start: &[u8]) -> Result<Option<(ProxyHeader, usize)>, ProxyHeaderError> {
    match start {
        [line @ .., b'\r', b'\n'] => Ok(Some((parse_line(&line[LINE_START.len()..])?, 0))),
        [.., b'\n'] | [.., b'\r', _] => Err(ProxyHeaderError::LineEnd),
        _ if start.len() >= MAX_LINE_LEN => Err(ProxyHeaderError::LineTooLong),
        _ => Ok(None),
    }
}

/// Parses what stands between `PROXY ` and the end of the line.
fn parse_line(line: &[u8]) -> Result<ProxyHeader, ProxyHeaderError> {
    let mut words = line.split(|&byte| byte == b' ');
    let protocol = words.next().unwrap_or_default();
    // Specification §2.1: what follows UNKNOWN is to be ignored.
    if protocol == b"UNKNOWN" {
        return Ok(ProxyHeader::Local);
    }
    let ip: fn(&str) -> Option<IpAddr> = match protocol {
        b"TCP4" => |text| Some(IpAddr::V4(text.parse().ok()?)),
        b"TCP6" => |text| Some(IpAddr::V6(text.parse().ok()?)),
        _ => return Err(ProxyHeaderError::Protocol),
    };
    let mut next = || std::str::from_utf8(words.next()?).ok();
    let mut addresses = || {
        let (from, to) = (ip(next()?)?, ip(next()?)?);
        let (from_port, to_port) = (port(next()?)?, port(next()?)?);
        let header = ProxyHeader::Proxied {
            source: SocketAddr::new(from, from_port),
            destination: SocketAddr::new(to, to_port),
        };
        next().is_none().then_some(header)
    };
    addresses().ok_or(ProxyHeaderError::Addresses)
}

/// A decimal number without sign or leading zeros.
fn port(text: &str) -> Option<u16> {
    let is_plain = text.bytes().all(|byte| byte.is_ascii_digit());
    let is_padded = text.len() > 1 && text.starts_with('0');
    (is_plain && !is_padded).then(|| text.parse().ok())?
}

fn judge_binary(start: &[u8]) -> Result<Option<(ProxyHeader, usize)>, ProxyHeaderError> {
    let Some((head, addresses)) = start.split_first_chunk::<BINARY_LEN>() else {
        return match start.get(SIGNATURE.len()..) {
            Some([version_and_command, ..]) => {
                check_version_and_command(*version_and_command).map(|_| None)
            }
            _ => Ok(None),
        };
    };
    let [.., version_and_command, family, high, low] = *head;
    let announced = u16::from_be_bytes([high, low]);
    let length = usize::from(announced);
    // Specification §2.2: with LOCAL, the family is to be ignored.
    if check_version_and_command(version_and_command)? == Command::Local {
        return Ok(Some((ProxyHeader::Local, length)));
    }
    let (needed, wanted) = match family {
        0x00 => (0, 0),
        0x11 => (12, 12),
        0x21 => (36, 36),
        // Datagrams: what carries our bytes is not what is described.
        0x12 => (12, 0),
        0x22 => (36, 0),
        0x31 | 0x32 => (UNIX_LEN, 0),
        _ => return Err(ProxyHeaderError::Family(family)),
    };
    if length < needed {
        return Err(ProxyHeaderError::Length(announced));
    }
    if addresses.len() < wanted {
        return Ok(None);
    }
    Ok(Some((parse_addresses(addresses), length - wanted)))
}

#[derive(PartialEq, Eq)]
enum Command {
    Local,
    Proxy,
}

fn check_version_and_command(byte: u8) -> Result<Command, ProxyHeaderError> {
    match (byte >> 4, byte & 0xf) {
        (2, 0) => Ok(Command::Local),
        (2, 1) => Ok(Command::Proxy),
        (2, command) => Err(ProxyHeaderError::Command(command)),
        (version, _) => Err(ProxyHeaderError::Version(version)),
    }
}

/// Source and destination address, then both ports, in network order.
fn parse_addresses(bytes: &[u8]) -> ProxyHeader {
    fn halves<const N: usize>(bytes: &[u8]) -> Option<([u8; N], [u8; N], [u16; 2])> {
        let (from, rest) = bytes.split_first_chunk::<N>()?;
        let (to, ports) = rest.split_first_chunk::<N>()?;
        let &[a, b, c, d] = ports else { return None };
        let ports = [u16::from_be_bytes([a, b]), u16::from_be_bytes([c, d])];
        Some((*from, *to, ports))
    }
    let v4 = || {
        let (from, to, ports) = halves::<4>(bytes)?;
        Some((
            [Ipv4Addr::from(from), Ipv4Addr::from(to)].map(IpAddr::V4),
            ports,
        ))
    };
    let v6 = || {
        let (from, to, ports) = halves::<16>(bytes)?;
        Some((
            [Ipv6Addr::from(from), Ipv6Addr::from(to)].map(IpAddr::V6),
            ports,
        ))
    };
    match v4().or_else(v6) {
        Some(([from, to], [from_port, to_port])) => ProxyHeader::Proxied {
            source: SocketAddr::new(from, from_port),
            destination: SocketAddr::new(to, to_port),
        },
        None => ProxyHeader::Local,
    }
}

#[cfg(test)]
mod tests;

//! Where connections go: the URL, the addresses, the request, and how TLS is checked.

use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, ToSocketAddrs};
use std::path::PathBuf;
use std::sync::Arc;

use rustls::ClientConfig;
use rustls::client::Resumption;
use rustls::pki_types::ServerName;
use tokio_tungstenite::tungstenite::http::Uri;
use ws_proto::handshake::ClientHandshake;

use super::args::{BenchArgs, usage};
use crate::failure::{Code, Failure};
use crate::verb::tls;

/// An address has some 28,000 ports to connect from; this many are surely free.
const CONNECTIONS_PER_ADDR: u32 = 20_000;

/// A server, and what it is asked.
#[derive(Debug, Clone)]
pub(super) struct Target {
    pub(super) place: Place,
    pub(super) tls: Option<(Arc<ClientConfig>, ServerName<'static>)>,
    host: String,
    path: String,
    headers: Vec<(String, String)>,
    subprotocols: Vec<String>,
    local: Vec<IpAddr>,
}

#[derive(Debug, Clone)]
pub(super) enum Place {
    Tcp(SocketAddr),
    Unix(PathBuf),
}

impl Target {
    pub(super) fn new(args: &BenchArgs) -> Result<Self, Failure> {
        let mut target = Self::at(&args.url, args)?;
        for header in &args.header {
            let (name, value) = header
                .split_once(':')
                .ok_or_else(|| usage(format!("--header {header:?}: write NAME: VALUE")))?;
            target
                .headers
                .push((name.trim().into(), value.trim().into()));
        }
        target.subprotocols = args.subprotocol.clone();
        target.local = args.local_addr.clone();
        // Whatever cannot be sent is found here, and not by each connection.
        target
            .handshake([0; 16])
            .map_err(|error| usage(format!("{}: {error}", args.url)))?;
        Ok(target)
    }

    /// The server of a URL, asked without the headers of `args`.
    pub(super) fn at(url: &str, args: &BenchArgs) -> Result<Self, Failure> {
        let target = |place, tls, host: &str, path: &str| Self {
            place,
            tls,
            host: host.to_owned(),
            path: path.to_owned(),
            headers: Vec::new(),
            subprotocols: Vec::new(),
            local: Vec::new(),
        };
        if let Some(path) = url.strip_prefix("ws+unix:") {
            if path.is_empty() {
                return Err(usage(format!("{url}: no path")));
            }
            return Ok(target(Place::Unix(path.into()), None, "localhost", "/"));
        }
        let uri: Uri = url
            .parse()
            .map_err(|error| usage(format!("{url}: {error}")))?;
        let is_secure = match uri.scheme_str() {
            Some("ws") => false,
            Some("wss") => true,
            _ => return Err(usage(format!("{url}: not a ws://, wss:// or ws+unix: URL"))),
        };
        let authority = uri.authority().filter(|it| !it.host().is_empty());
        let authority = authority.ok_or_else(|| usage(format!("{url}: no host")))?;
        let name = authority.host().trim_matches(['[', ']']);
        let port = authority
            .port_u16()
            .unwrap_or(if is_secure { 443 } else { 80 });
        let addr = resolve(name, port).map_err(|error| {
            Failure::new(Code::Unreachable, format!("cannot find {name}: {error}"))
        })?;
        let tls = if is_secure {
            let server = ServerName::try_from(name.to_owned());
            let server = server.map_err(|error| usage(format!("{url}: {error}")))?;
            Some((tls_config(args)?, server))
        } else {
            None
        };
        let path = uri.path_and_query().map_or("/", |path| path.as_str());
        Ok(target(Place::Tcp(addr), tls, authority.as_str(), path))
    }

    /// The opening handshake of one connection.
    pub(super) fn handshake(
        &self,
        key: [u8; 16],
    ) -> Result<ClientHandshake, ws_proto::handshake::InvalidRequest> {
        let mut handshake = ClientHandshake::new(&self.host, &self.path, key)?;
        for (name, value) in &self.headers {
            handshake = handshake.with_header(name, value)?;
        }
        for protocol in &self.subprotocols {
            handshake = handshake.with_protocol(protocol)?;
        }
        Ok(handshake)
    }

    /// The address that a connection is to come from, if not from the system's choice.
    pub(super) fn local_addr(&self, connection: u32) -> Option<IpAddr> {
        if !self.local.is_empty() {
            return Some(self.local[connection as usize % self.local.len()]);
        }
        let Place::Tcp(SocketAddr::V4(server)) = &self.place else {
            return None;
        };
        let turn = connection / CONNECTIONS_PER_ADDR;
        // All of 127.0.0.0/8 is this machine.
        (server.ip().is_loopback() && turn > 0)
            .then(|| Ipv4Addr::from_bits(Ipv4Addr::LOCALHOST.to_bits() + turn).into())
    }
}

fn resolve(name: &str, port: u16) -> io::Result<SocketAddr> {
    let mut addresses: Vec<SocketAddr> = (name, port).to_socket_addrs()?.collect();
    // Servers for development listen on 127.0.0.1 alone, and `localhost` has ::1 first.
    addresses.sort_by_key(SocketAddr::is_ipv6);
    let first = addresses.into_iter().next();
    first.ok_or_else(|| io::Error::new(io::ErrorKind::NotFound, "it has no address"))
}

fn tls_config(args: &BenchArgs) -> Result<Arc<ClientConfig>, Failure> {
    let mut config = tls::client_config(args.ca.as_deref(), args.insecure)?;
    // Each connection is a stranger's: it pays for the whole handshake.
    config.resumption = Resumption::disabled();
    Ok(Arc::new(config))
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use clap::Parser as _;

    use super::*;
    use crate::args::{Args, Verb};

    fn target(line: &str) -> Result<Target, Failure> {
        let words = shell_words::split(&format!("ws bench {line}")).unwrap();
        match Args::try_parse_from(words).unwrap().verb {
            Some(Verb::Bench(args)) => Target::new(&args),
            other => panic!("{other:?}"),
        }
    }

    fn request(target: &Target) -> String {
        String::from_utf8(target.handshake([1; 16]).unwrap().request()).unwrap()
    }

    #[test]
    fn url_says_where_and_what() {
        let plain = target("ws://127.0.0.1:81/a?b --header 'Cookie: c=d' --subprotocol e").unwrap();
        assert!(matches!(plain.place, Place::Tcp(addr) if addr.to_string() == "127.0.0.1:81"));
        let request = request(&plain);
        assert!(
            request.starts_with("GET /a?b HTTP/1.1\r\nHost: 127.0.0.1:81\r\n"),
            "{request}"
        );
        assert!(request.contains("\r\nCookie: c=d\r\n"), "{request}");
        assert!(
            request.contains("\r\nSec-WebSocket-Protocol: e\r\n"),
            "{request}"
        );

        let secure = target("wss://[::1] --insecure").unwrap();
        assert!(matches!(secure.place, Place::Tcp(addr) if addr.to_string() == "[::1]:443"));
        assert!(secure.tls.is_some());

        let unix = target("ws+unix:/run/x.sock").unwrap();
        assert!(matches!(unix.place, Place::Unix(path) if path == Path::new("/run/x.sock")));
    }

    #[test]
    fn wrong_urls_and_headers_are_usage_errors() {
        for line in [
            "http://127.0.0.1/",
            "127.0.0.1:80",
            "ws:///",
            "ws+unix:",
            "ws://127.0.0.1/ --header x",
            "ws://127.0.0.1/ --header 'Host: x'",
            "ws://127.0.0.1/ --subprotocol 'a b'",
        ] {
            assert_eq!(target(line).unwrap_err().code(), Code::Usage, "{line}");
        }
    }

    #[test]
    fn a_file_without_certificates_is_an_error() {
        let failure = target("wss://127.0.0.1/ --ca /dev/null").unwrap_err();
        assert!(
            failure.to_string().contains("no certificate in it"),
            "{failure}"
        );
    }

    #[test]
    fn ports_of_one_address_do_not_run_out() {
        let to = |line: &str, connection| target(line).unwrap().local_addr(connection);
        let loopback = "ws://127.0.0.1/";
        assert_eq!(to(loopback, 19_999), None);
        assert_eq!(to(loopback, 20_000), Some("127.0.0.2".parse().unwrap()));
        assert_eq!(to(loopback, 40_000), Some("127.0.0.3".parse().unwrap()));
        assert_eq!(to("ws://192.0.2.1/", 40_000), None);
        let given = "ws://192.0.2.1/ --local-addr 10.0.0.1 --local-addr 10.0.0.2";
        assert_eq!(to(given, 3), Some("10.0.0.2".parse().unwrap()));
    }
}

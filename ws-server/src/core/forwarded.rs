//! Who the visitor behind a proxy is: `X-Forwarded-For`, `Forwarded` (RFC 7239) and
//! `X-Forwarded-Proto`.
//!
//! Anybody can send these headers, so they count only if the peer itself is trusted, and of the
//! addresses in them only those that trusted proxies have written: from the right to the first one
//! that is not a trusted proxy's. That one is the visitor's.

use std::net::{IpAddr, SocketAddr};

use ws_proto::handshake::RequestHead;

use crate::config::TrustedPeers;

/// Proxies in a row, beyond which a list is nonsense.
const MAX_HOPS: usize = 32;

/// What is believed about a visitor.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Forwarded {
    /// The visitor's address; `None` for one on a Unix socket.
    pub(crate) addr: Option<IpAddr>,
    /// The visitor's port. That of a proxy's connection is not, even if the visitor's address is the
    /// proxy's own.
    pub(crate) port: Option<u16>,
    /// `http` or `https`, if a trusted peer says which one the visitor's page uses.
    pub(crate) scheme: Option<&'static str>,
    /// A trusted peer said something that cannot be understood: the address is the peer's own.
    pub(crate) is_garbled: bool,
}

/// Finds out who the visitor is; `peer` is who connected, `None` on a Unix socket.
pub(crate) fn visitor(
    trusted: &TrustedPeers,
    peer: Option<SocketAddr>,
    head: &RequestHead,
) -> Forwarded {
    let itself = Forwarded {
        addr: peer.map(|peer| peer.ip()),
        port: peer.map(|peer| peer.port()),
        scheme: None,
        is_garbled: false,
    };
    if !trusted.contain(itself.addr) {
        return itself;
    }
    let scheme = scheme(head);
    let listed = x_forwarded_for(trusted, head);
    let found = match (listed, forwarded(trusted, head)) {
        (Ok(None), found) | (found, Ok(None)) => found,
        // A proxy that writes one of them may pass the other on as the visitor wrote it, so two
        // that differ are believed neither. A port stands in the second at most.
        (Ok(Some(one)), Ok(Some(other))) if one.addr == other.addr => Ok(Some(other)),
        _ => Err(Garbled),
    };
    match found {
        Ok(Some(node)) => Forwarded {
            addr: Some(node.addr),
            port: node.port,
            scheme,
            is_garbled: false,
        },
        Ok(None) => Forwarded { scheme, ..itself },
        Err(Garbled) => Forwarded {
            scheme,
            is_garbled: true,
            ..itself
        },
    }
}

/// A list of addresses is not one.
struct Garbled;

/// One entry of a list.
#[derive(Clone, Copy)]
struct Node {
    addr: IpAddr,
    port: Option<u16>,
}

fn x_forwarded_for(trusted: &TrustedPeers, head: &RequestHead) -> Result<Option<Node>, Garbled> {
    let nodes = elements(head, "X-Forwarded-For").map(|element| {
        let text = std::str::from_utf8(element).map_err(|_| Garbled)?;
        let addr = text
            .trim_matches([' ', '\t'])
            .parse()
            .map_err(|_| Garbled)?;
        Ok(Node { addr, port: None })
    });
    first_untrusted(trusted, nodes.collect())
}

fn forwarded(trusted: &TrustedPeers, head: &RequestHead) -> Result<Option<Node>, Garbled> {
    let nodes = elements(head, "Forwarded").map(|element| {
        let node = parameter(element, "for").ok_or(Garbled)?;
        node_in(node).ok_or(Garbled)
    });
    first_untrusted(trusted, nodes.collect())
}

/// What an element of `Forwarded` says of this (RFC 7239 §4), as it is written there.
fn parameter<'a>(element: &'a [u8], name: &str) -> Option<&'a str> {
    std::str::from_utf8(element)
        .ok()?
        .split(';')
        .filter_map(|pair| pair.trim_matches([' ', '\t']).split_once('='))
        .find(|(other, _)| other.eq_ignore_ascii_case(name))
        .map(|(_, value)| value)
}

/// A node of RFC 7239 §6: an address, in brackets if it is one of IPv6, and perhaps a port.
fn node_in(text: &str) -> Option<Node> {
    let unquoted = text
        .strip_prefix('"')
        .and_then(|text| text.strip_suffix('"'));
    let node = unquoted.unwrap_or(text);
    let (addr, port) = match node.strip_prefix('[') {
        Some(node) => {
            let (addr, port) = node.split_once(']')?;
            (IpAddr::V6(addr.parse().ok()?), port)
        }
        None => {
            let (addr, port) = node.split_at(node.find(':').unwrap_or(node.len()));
            (IpAddr::V4(addr.parse().ok()?), port)
        }
    };
    let port = match port.strip_prefix(':') {
        // A colon cannot stand in a token, so it needs the quotes.
        Some(port) if unquoted.is_some() => port_in(port)?,
        None if port.is_empty() => None,
        _ => return None,
    };
    Some(Node { addr, port })
}

/// A port, or none if the proxy keeps it to itself: `_` and a name of its own making.
#[expect(
    clippy::option_option,
    reason = "an unknown port is not a malformed one"
)]
fn port_in(text: &str) -> Option<Option<u16>> {
    let is_name = |byte: u8| byte.is_ascii_alphanumeric() || b"._-".contains(&byte);
    match text.strip_prefix('_') {
        Some(name) if !name.is_empty() && name.bytes().all(is_name) => Some(None),
        Some(_) => None,
        // What `parse` takes beyond it, a sign, is no port.
        None if text.bytes().all(|byte| byte.is_ascii_digit()) => text.parse().ok().map(Some),
        None => None,
    }
}

/// The elements of a header's list, over all its lines.
fn elements<'a>(head: &'a RequestHead, name: &str) -> impl Iterator<Item = &'a [u8]> {
    let lines = head
        .iter()
        .filter(move |(other, _)| other.eq_ignore_ascii_case(name));
    lines.flat_map(|(_, value)| value.split(|&byte| byte == b','))
}

/// Walks from the right, from proxy to proxy; if all are trusted, the first of them is the visitor.
fn first_untrusted(
    trusted: &TrustedPeers,
    nodes: Vec<Result<Node, Garbled>>,
) -> Result<Option<Node>, Garbled> {
    let mut visitor = None;
    for (hop, node) in nodes.into_iter().rev().enumerate() {
        if hop == MAX_HOPS {
            return Err(Garbled);
        }
        let Node { addr, port } = node?;
        let addr = addr.to_canonical();
        visitor = Some(Node { addr, port });
        if !trusted.contain(Some(addr)) {
            break;
        }
    }
    Ok(visitor)
}

/// The scheme that the nearest proxy names, in whichever of the two headers; in both if both are
/// there, or they are believed neither.
pub(crate) fn scheme(head: &RequestHead) -> Option<&'static str> {
    let alone = elements(head, "X-Forwarded-Proto").last();
    let alone = alone.map(|element| std::str::from_utf8(element).unwrap_or_default());
    let element = elements(head, "Forwarded").last();
    let listed = element.and_then(|element| parameter(element, "proto"));
    match (alone, listed) {
        (Some(one), Some(other)) => scheme_in(one).filter(|one| scheme_in(other) == Some(*one)),
        (one, other) => one.or(other).and_then(scheme_in),
    }
}

/// That of the page, `http` or `https`, whether a proxy names it or that of the WebSocket.
fn scheme_in(text: &str) -> Option<&'static str> {
    let text = text.trim_matches([' ', '\t']);
    let unquoted = text
        .strip_prefix('"')
        .and_then(|text| text.strip_suffix('"'));
    let is_one_of = |names: [&str; 2]| {
        let name = unquoted.unwrap_or(text);
        names.iter().any(|other| other.eq_ignore_ascii_case(name))
    };
    if is_one_of(["https", "wss"]) {
        Some("https")
    } else if is_one_of(["http", "ws"]) {
        Some("http")
    } else {
        None
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use ws_proto::handshake::{HeadLimits, HeadReader};

    use super::*;

    fn head(headers: &[(&str, &str)]) -> RequestHead {
        let mut bytes = b"GET / HTTP/1.1\r\nHost: h\r\n".to_vec();
        for (name, value) in headers {
            bytes.extend(format!("{name}: {value}\r\n").bytes());
        }
        bytes.extend(b"\r\n");
        let head = HeadReader::new(HeadLimits::default()).read(&bytes);
        head.unwrap().expect("the head is complete")
    }

    fn trusted(peers: &[&str]) -> TrustedPeers {
        TrustedPeers::new(peers.iter().map(|peer| peer.parse().unwrap()).collect())
    }

    const PEER: &str = "127.0.0.1:4711";

    /// Who a visitor of 127.0.0.1, which is trusted beside 10.0.0.0/8, is: address and port;
    /// `None` if garbled.
    #[track_caller]
    fn seen_with_port(headers: &[(&str, &str)]) -> Option<(String, Option<u16>)> {
        let head = head(headers);
        let peer: SocketAddr = PEER.parse().unwrap();
        let seen = visitor(&trusted(&["127.0.0.1", "10.0.0.0/8"]), Some(peer), &head);
        if seen.is_garbled {
            let itself = (Some(peer.ip()), Some(peer.port()));
            assert_eq!((seen.addr, seen.port), itself, "the peer is the fallback");
        }
        (!seen.is_garbled).then(|| (seen.addr.unwrap().to_string(), seen.port))
    }

    #[track_caller]
    fn seen(headers: &[(&str, &str)]) -> Option<String> {
        seen_with_port(headers).map(|(addr, _)| addr)
    }

    fn listed(value: &str) -> Option<String> {
        seen(&[("X-Forwarded-For", value)])
    }

    #[test]
    fn t03_untrusted_peer_is_who_it_is() {
        let head = head(&[
            ("X-Forwarded-For", "1.2.3.4"),
            ("Forwarded", "for=1.2.3.4"),
            ("X-Forwarded-Proto", "https"),
        ]);
        let peer = Some("127.0.0.2:4711".parse().unwrap());
        let itself = Forwarded {
            addr: Some("127.0.0.2".parse().unwrap()),
            port: Some(4711),
            scheme: None,
            is_garbled: false,
        };
        assert_eq!(visitor(&trusted(&["127.0.0.1"]), peer, &head), itself);
        assert_eq!(visitor(&trusted(&[]), peer, &head), itself);
        let on_unix = visitor(&trusted(&["127.0.0.1"]), None, &head);
        assert_eq!(on_unix.addr, None);
        let on_unix = visitor(&trusted(&["unix"]), None, &head);
        assert_eq!(on_unix.addr, Some("1.2.3.4".parse().unwrap()));
    }

    #[test]
    fn t03_last_untrusted_address_is_the_visitor() {
        for (value, addr) in [
            ("1.2.3.4", "1.2.3.4"),
            ("6.6.6.6, 1.2.3.4", "1.2.3.4"),
            ("6.6.6.6,1.2.3.4 ,\t10.0.0.1, 10.9.9.9", "1.2.3.4"),
            ("unknown, 1.2.3.4", "1.2.3.4"),
            ("10.0.0.7, 10.0.0.1", "10.0.0.7"),
            ("2001:db8::1, 10.0.0.1", "2001:db8::1"),
            ("::ffff:1.2.3.4", "1.2.3.4"),
        ] {
            assert_eq!(listed(value).as_deref(), Some(addr), "{value}");
        }
        let lines = [
            ("X-Forwarded-For", "6.6.6.6"),
            ("X-Forwarded-For", "1.2.3.4"),
        ];
        assert_eq!(seen(&lines).as_deref(), Some("1.2.3.4"));
        assert_eq!(seen(&[]).as_deref(), Some("127.0.0.1"));
    }

    #[test]
    fn t03_what_is_no_address_leaves_the_peer() {
        let many = vec!["10.0.0.1"; 200].join(",");
        for value in [
            "",
            ",",
            "unknown",
            "1.2.3.4:5678",
            "[::1]",
            "[::1]:80",
            "fe80::1%eth0",
            "1.2.3",
            "_hidden",
            "1.2.3.4, garbage, 10.0.0.1",
            "1.2.3.4,",
            "\"1.2.3.4\"",
            "1.2.3.4 5.6.7.8",
            &many,
        ] {
            assert_eq!(listed(value), None, "{value}");
        }
    }

    #[test]
    fn forwarded_is_read_as_its_rfc_writes_it() {
        for (value, addr) in [
            ("for=192.0.2.43", Some("192.0.2.43")),
            ("For=192.0.2.43;proto=https;by=10.0.0.1", Some("192.0.2.43")),
            (
                "proto=http; for=\"[2001:db8:cafe::17]\"",
                Some("2001:db8:cafe::17"),
            ),
            (
                "for=6.6.6.6, for=192.0.2.43, for=10.0.0.1",
                Some("192.0.2.43"),
            ),
            ("for=\"192.0.2.43\"", Some("192.0.2.43")),
            ("for=unknown", None),
            ("for=_gazonk", None),
            ("for=192.0.2.43:47011", None),
            ("for=2001:db8::1", None),
            ("for=\"[2001:db8::1\"", None),
            ("for=\"2001:db8::1\"", None),
            ("proto=https", None),
            ("for", None),
        ] {
            let seen = seen(&[("Forwarded", value)]);
            assert_eq!(seen.as_deref(), addr, "{value}");
        }
    }

    #[test]
    fn t03_port_is_the_peer_s_or_the_header_s_and_never_the_proxy_s() {
        let of = |name: &str, value: &str| seen_with_port(&[(name, value)]).unwrap();
        let itself = seen_with_port(&[]).unwrap();
        assert_eq!(itself, ("127.0.0.1".to_owned(), Some(4711)));
        // A visitor on the proxy's own host.
        for (name, value) in [
            ("X-Forwarded-For", "127.0.0.1"),
            ("Forwarded", "for=127.0.0.1"),
            ("Forwarded", "for=\"127.0.0.1:_hidden\""),
        ] {
            let expected = ("127.0.0.1".to_owned(), None);
            assert_eq!(of(name, value), expected, "{value}");
        }
        for (value, addr, port) in [
            ("for=\"192.0.2.43:47011\"", "192.0.2.43", Some(47011)),
            ("for=\"[2001:db8::1]:80\"", "2001:db8::1", Some(80)),
            ("for=\"127.0.0.1:80\"", "127.0.0.1", Some(80)),
            ("for=\"1.2.3.4:5\", for=\"10.0.0.1:6\"", "1.2.3.4", Some(5)),
        ] {
            assert_eq!(of("Forwarded", value), (addr.to_owned(), port), "{value}");
        }
        for garbled in ["65536", "+80", "-1", "", "_", "_a/b", "80:81", "8 0"] {
            let value = format!("for=\"192.0.2.43:{garbled}\"");
            assert_eq!(seen_with_port(&[("Forwarded", &value)]), None, "{value}");
        }
    }

    #[test]
    fn t03_two_headers_that_differ_are_believed_neither() {
        let both = |one, other| seen(&[("X-Forwarded-For", one), ("Forwarded", other)]);
        assert_eq!(both("1.2.3.4", "for=1.2.3.4").as_deref(), Some("1.2.3.4"));
        assert_eq!(
            both("1.2.3.4", "for=\"1.2.3.4:5\"").as_deref(),
            Some("1.2.3.4")
        );
        assert_eq!(both("1.2.3.4", "for=6.6.6.6"), None);
        assert_eq!(both("1.2.3.4", "for=nobody"), None);
    }

    /// The scheme that is believed of a trusted peer.
    fn said(headers: &[(&str, &str)]) -> Option<&'static str> {
        visitor(&trusted(&["unix"]), None, &head(headers)).scheme
    }

    #[test]
    fn scheme_is_that_of_the_nearest_proxy() {
        for (value, scheme) in [
            ("https", Some("https")),
            ("HTTP", Some("http")),
            ("wss", Some("https")),
            ("http, https", Some("https")),
            ("https,http", Some("http")),
            ("gopher", None),
            ("", None),
        ] {
            assert_eq!(said(&[("X-Forwarded-Proto", value)]), scheme, "{value}");
        }
        for (value, scheme) in [
            ("for=192.0.2.43;proto=https", Some("https")),
            ("for=192.0.2.43; Proto=\"HTTP\"", Some("http")),
            (
                "for=192.0.2.43;proto=http, for=10.0.0.1;proto=https",
                Some("https"),
            ),
            ("for=192.0.2.43;proto=https, for=10.0.0.1", None),
            ("for=192.0.2.43;proto=gopher", None),
            ("proto=https", Some("https")),
        ] {
            assert_eq!(said(&[("Forwarded", value)]), scheme, "{value}");
        }
    }

    #[test]
    fn t03_two_headers_that_differ_about_the_scheme_are_believed_neither() {
        for (alone, listed, scheme) in [
            ("https", "for=192.0.2.43;proto=https", Some("https")),
            ("https", "for=192.0.2.43;proto=http", None),
            ("gopher", "for=192.0.2.43;proto=https", None),
            ("https", "for=192.0.2.43", Some("https")),
        ] {
            let headers = [("X-Forwarded-Proto", alone), ("Forwarded", listed)];
            assert_eq!(said(&headers), scheme, "{alone}, {listed}");
        }
    }

    proptest! {
        #[test]
        fn prop_t03_any_list_is_judged_without_panic(value in "[0-9a-f.:,\\[\\] \"=;forunkw%]{0,80}") {
            let _ = (listed(&value), seen(&[("Forwarded", &value)]));
        }
    }
}

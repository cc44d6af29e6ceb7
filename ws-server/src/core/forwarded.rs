//! Who the visitor behind a proxy is: `X-Forwarded-For`, `Forwarded` (RFC 7239) and
//! `X-Forwarded-Proto`.
//!
//! Anybody can send these headers, so they count only if the peer itself is trusted, and of the
//! addresses in them only those that trusted proxies have written: from the right to the first one
//! that is not a trusted proxy's. That one is the visitor's.

use std::net::IpAddr;

use ws_proto::handshake::RequestHead;

use crate::config::TrustedPeers;

/// Proxies in a row, beyond which a list is nonsense.
const MAX_HOPS: usize = 32;

/// What is believed about a visitor.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Forwarded<'a> {
    /// The visitor's address; `None` for one on a Unix socket.
    pub(crate) addr: Option<IpAddr>,
    /// `http` or `https`, if a trusted peer says which one the visitor uses.
    pub(crate) scheme: Option<&'a str>,
    /// A trusted peer said something that cannot be understood: the address is the peer's own.
    pub(crate) is_garbled: bool,
}

/// Finds out who the visitor is; `peer` is who connected, `None` on a Unix socket.
pub(crate) fn visitor<'a>(
    trusted: &TrustedPeers,
    peer: Option<IpAddr>,
    head: &'a RequestHead,
) -> Forwarded<'a> {
    let itself = Forwarded {
        addr: peer,
        scheme: None,
        is_garbled: false,
    };
    if !trusted.contain(peer) {
        return itself;
    }
    let scheme = scheme(head);
    let listed = x_forwarded_for(trusted, head);
    let found = match (listed, forwarded(trusted, head)) {
        (Ok(None), found) | (found, Ok(None)) => found,
        // A proxy that writes one of them may pass the other on as the visitor wrote it, so two
        // that differ are believed neither.
        (Ok(one), Ok(other)) if one == other => Ok(one),
        _ => Err(Garbled),
    };
    match found {
        Ok(addr) => Forwarded {
            addr: addr.or(peer),
            scheme,
            is_garbled: false,
        },
        Err(Garbled) => Forwarded {
            scheme,
            is_garbled: true,
            ..itself
        },
    }
}

/// A list of addresses is not one.
struct Garbled;

fn x_forwarded_for(trusted: &TrustedPeers, head: &RequestHead) -> Result<Option<IpAddr>, Garbled> {
    let addresses = elements(head, "X-Forwarded-For").map(|element| {
        let text = std::str::from_utf8(element).map_err(|_| Garbled)?;
        text.trim_matches([' ', '\t']).parse().map_err(|_| Garbled)
    });
    first_untrusted(trusted, addresses.collect())
}

fn forwarded(trusted: &TrustedPeers, head: &RequestHead) -> Result<Option<IpAddr>, Garbled> {
    let addresses = elements(head, "Forwarded").map(|element| {
        let text = std::str::from_utf8(element).map_err(|_| Garbled)?;
        let node = text
            .split(';')
            .filter_map(|pair| pair.trim_matches([' ', '\t']).split_once('='))
            .find(|(name, _)| name.eq_ignore_ascii_case("for"))
            .map(|(_, node)| node)
            .ok_or(Garbled)?;
        // RFC 7239 §6: an IPv6 address stands in brackets, and then in quotes.
        let node = node
            .strip_prefix('"')
            .and_then(|node| node.strip_suffix('"'))
            .unwrap_or(node);
        let bracketed = node
            .strip_prefix('[')
            .and_then(|node| node.strip_suffix(']'));
        match bracketed {
            Some(node) => node.parse().map(IpAddr::V6).map_err(|_| Garbled),
            None => node.parse().map(IpAddr::V4).map_err(|_| Garbled),
        }
    });
    first_untrusted(trusted, addresses.collect())
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
    addresses: Vec<Result<IpAddr, Garbled>>,
) -> Result<Option<IpAddr>, Garbled> {
    let mut visitor = None;
    for (hop, addr) in addresses.into_iter().rev().enumerate() {
        if hop == MAX_HOPS {
            return Err(Garbled);
        }
        let addr = addr?.to_canonical();
        visitor = Some(addr);
        if !trusted.contain(visitor) {
            break;
        }
    }
    Ok(visitor)
}

/// The scheme that the nearest proxy names.
fn scheme(head: &RequestHead) -> Option<&str> {
    let value = head.header("X-Forwarded-Proto")?;
    let nearest = value.rsplit(',').next()?.trim_matches([' ', '\t']);
    ["http", "https", "ws", "wss"]
        .into_iter()
        .find(|scheme| scheme.eq_ignore_ascii_case(nearest))
        .map(|scheme| match scheme {
            "https" | "wss" => "https",
            _ => "http",
        })
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

    /// Who a visitor of 127.0.0.1, which is trusted beside 10.0.0.0/8, is; `None` if garbled.
    #[track_caller]
    fn seen(headers: &[(&str, &str)]) -> Option<String> {
        let head = head(headers);
        let peer = "127.0.0.1".parse().unwrap();
        let seen = visitor(&trusted(&["127.0.0.1", "10.0.0.0/8"]), Some(peer), &head);
        if seen.is_garbled {
            assert_eq!(
                seen.addr,
                Some(peer),
                "the peer's own address is the fallback"
            );
        }
        (!seen.is_garbled).then(|| seen.addr.unwrap().to_string())
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
        let peer = Some("127.0.0.2".parse().unwrap());
        let itself = Forwarded {
            addr: peer,
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
            ("for=\"192.0.2.43:47011\"", None),
            ("for=2001:db8::1", None),
            ("proto=https", None),
            ("for", None),
        ] {
            let seen = seen(&[("Forwarded", value)]);
            assert_eq!(seen.as_deref(), addr, "{value}");
        }
    }

    #[test]
    fn t03_two_headers_that_differ_are_believed_neither() {
        let both = |one, other| seen(&[("X-Forwarded-For", one), ("Forwarded", other)]);
        assert_eq!(both("1.2.3.4", "for=1.2.3.4").as_deref(), Some("1.2.3.4"));
        assert_eq!(both("1.2.3.4", "for=6.6.6.6"), None);
        assert_eq!(both("1.2.3.4", "for=nobody"), None);
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
            let head = head(&[("X-Forwarded-Proto", value)]);
            let seen = visitor(&trusted(&["unix"]), None, &head);
            assert_eq!(seen.scheme, scheme, "{value}");
        }
    }

    proptest! {
        #[test]
        fn prop_t03_any_list_is_judged_without_panic(value in "[0-9a-f.:,\\[\\] \"=;forunkw%]{0,80}") {
            let _ = (listed(&value), seen(&[("Forwarded", &value)]));
        }
    }
}

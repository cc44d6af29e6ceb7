//! Where in an opening handshake something stands that proves an identity.

use ws_proto::handshake::{RequestHead, Upgrade};

use crate::config::CredentialPlace;

/// What stands at a place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Found<'h> {
    Nothing,
    Credential(&'h str),
    /// Something that is no credential, whatever it was meant to be.
    Malformed(&'static str),
}

/// Looks at one place.
pub(crate) fn find<'h>(
    place: &CredentialPlace,
    head: &'h RequestHead,
    upgrade: &'h Upgrade,
) -> Found<'h> {
    match place {
        CredentialPlace::Cookie(name) => cookie(head, name),
        CredentialPlace::Header(name) => header(head, name),
        CredentialPlace::Subprotocol(name) => subprotocol(upgrade, name),
    }
}

/// The first cookie of that name; of several (for other paths or domains) a browser sends the one
/// for the longest path first (RFC 6265 §5.4). An empty one is what a logout leaves.
pub(crate) fn cookie<'h>(head: &'h RequestHead, name: &str) -> Found<'h> {
    let headers = head.iter();
    let headers = headers.filter(|(header, _)| header.eq_ignore_ascii_case("Cookie"));
    let mut values = headers
        .flat_map(|(_, value)| value.split(|byte| *byte == b';'))
        .filter_map(|pair| {
            let at = pair.iter().position(|byte| *byte == b'=')?;
            let (key, value) = (pair[..at].trim_ascii(), pair[at + 1..].trim_ascii());
            (key == name.as_bytes()).then_some(value)
        });
    let Some(value) = values.next() else {
        return Found::Nothing;
    };
    match std::str::from_utf8(value) {
        Ok(value) => match value.trim_matches('"') {
            "" => Found::Nothing,
            value => Found::Credential(value),
        },
        Err(_) => Found::Malformed("the cookie is not UTF-8"),
    }
}

fn header<'h>(head: &'h RequestHead, name: &str) -> Found<'h> {
    match head.header_count(name) {
        0 => return Found::Nothing,
        1 => {}
        _ => return Found::Malformed("the header is there twice"),
    }
    let Some(value) = head.header(name) else {
        return Found::Malformed("the header is not UTF-8");
    };
    if !name.eq_ignore_ascii_case("Authorization") {
        return match value {
            "" => Found::Nothing,
            value => Found::Credential(value),
        };
    }
    // RFC 6750 §2.1. Another scheme is for somebody else.
    let (scheme, token) = value.split_once(' ').unwrap_or((value, ""));
    if !scheme.eq_ignore_ascii_case("Bearer") {
        return Found::Nothing;
    }
    match token.trim_start_matches(' ') {
        "" => Found::Malformed("there is nothing behind Bearer"),
        token => Found::Credential(token),
    }
}

fn subprotocol<'h>(upgrade: &'h Upgrade, name: &str) -> Found<'h> {
    let mut offered = upgrade.protocols().skip_while(|offered| *offered != name);
    match (offered.next(), offered.next()) {
        (None, _) => Found::Nothing,
        (Some(_), Some(token)) => Found::Credential(token),
        (Some(_), None) => Found::Malformed("nothing is offered behind the subprotocol"),
    }
}

/// The subprotocols that a client offers, without those behind one of `names`, which are credentials.
pub(crate) fn without_credentials(upgrade: &Upgrade, names: &[&str]) -> String {
    let mut offered = upgrade.protocols();
    let mut kept: Vec<&str> = Vec::new();
    while let Some(protocol) = offered.next() {
        kept.push(protocol);
        if names.contains(&protocol) {
            offered.next();
        }
    }
    kept.join(", ")
}

#[cfg(test)]
mod tests {
    use ws_proto::handshake::{HeadLimits, HeadReader};

    use super::*;

    fn arrive(headers: &[u8]) -> (RequestHead, Upgrade) {
        let head = [
            b"GET / HTTP/1.1\r\nHost: a\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
              Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n",
            headers,
            b"\r\n",
        ]
        .concat();
        let mut reader = HeadReader::new(HeadLimits::default());
        let head = reader.read(&head).unwrap().unwrap();
        let upgrade = Upgrade::new(&head).unwrap();
        (head, upgrade)
    }

    fn found(place: CredentialPlace, headers: &[u8]) -> Result<Option<String>, ()> {
        let (head, upgrade) = arrive(headers);
        match find(&place, &head, &upgrade) {
            Found::Nothing => Ok(None),
            Found::Credential(text) => Ok(Some(text.to_owned())),
            Found::Malformed(_) => Err(()),
        }
    }

    #[test]
    fn a_cookie_is_the_first_of_its_name_and_not_empty() {
        for (headers, expected) in [
            (&b"Cookie: a=1; t=x.y.z; t=2\r\n"[..], Ok(Some("x.y.z"))),
            (b"Cookie: a=1\r\nCookie: t=\"x\"\r\n", Ok(Some("x"))),
            (b"Cookie: at=1; ta=2; T=3\r\n", Ok(None)),
            (b"Cookie: t=; t=2\r\n", Ok(None)),
            (b"Cookie: t\r\n", Ok(None)),
            (b"Cookie: t=a=b\r\n", Ok(Some("a=b"))),
            (b"Cookie: x=\xff; t=1\r\n", Ok(Some("1"))),
            (b"Cookie: t=\xff\r\n", Err(())),
        ] {
            let place = CredentialPlace::Cookie("t".to_owned());
            let expected = expected.map(|text| text.map(str::to_owned));
            assert_eq!(found(place, headers), expected, "{headers:?}");
        }
    }

    #[test]
    fn authorization_is_ours_behind_bearer_only() {
        for (headers, expected) in [
            (&b"Authorization: Bearer x.y.z\r\n"[..], Ok(Some("x.y.z"))),
            (b"authorization: bearer  x\r\n", Ok(Some("x"))),
            (b"Authorization: Basic eDp5\r\n", Ok(None)),
            (b"X: y\r\n", Ok(None)),
            (b"Authorization: Bearer\r\n", Err(())),
            (
                b"Authorization: Bearer a\r\nAuthorization: Bearer b\r\n",
                Err(()),
            ),
            (b"Authorization: Bearer \xff\r\n", Err(())),
        ] {
            let place = CredentialPlace::Header("Authorization".to_owned());
            let expected = expected.map(|text| text.map(str::to_owned));
            assert_eq!(found(place, headers), expected, "{headers:?}");
        }
        let place = CredentialPlace::Header("X-Token".to_owned());
        assert_eq!(
            found(place, b"x-token: a b\r\n"),
            Ok(Some("a b".to_owned()))
        );
    }

    #[test]
    fn a_subprotocol_is_the_one_behind_its_name() {
        for (headers, expected) in [
            (
                &b"Sec-WebSocket-Protocol: ws.token, x.y.z\r\n"[..],
                Ok(Some("x.y.z")),
            ),
            (
                b"Sec-WebSocket-Protocol: chat, ws.token\r\nSec-WebSocket-Protocol: x, b\r\n",
                Ok(Some("x")),
            ),
            (b"Sec-WebSocket-Protocol: chat\r\n", Ok(None)),
            (b"", Ok(None)),
            (b"Sec-WebSocket-Protocol: chat, ws.token\r\n", Err(())),
        ] {
            let place = CredentialPlace::Subprotocol("ws.token".to_owned());
            let expected = expected.map(|text| text.map(str::to_owned));
            assert_eq!(found(place, headers), expected, "{headers:?}");
        }
    }

    #[test]
    fn what_callbacks_see_of_the_subprotocols_is_not_the_token() {
        let (_, upgrade) = arrive(b"Sec-WebSocket-Protocol: a, ws.token, x.y.z, b\r\n");
        assert_eq!(
            without_credentials(&upgrade, &["ws.token"]),
            "a, ws.token, b"
        );
        let (_, upgrade) = arrive(b"Sec-WebSocket-Protocol: A, x, c, B, y\r\n");
        assert_eq!(without_credentials(&upgrade, &["A", "B"]), "A, c, B");
    }
}

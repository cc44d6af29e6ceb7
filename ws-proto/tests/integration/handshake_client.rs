//! The client's side of the opening handshake.

use ws_proto::handshake::{
    Accepted, ClientHandshake, HandshakeError, HeadLimits, HeadReader, InvalidRequest, Upgrade,
};
use ws_proto::{DeflateConfig, Role};

const KEY: [u8; 16] = *b"the sample nonce";

fn handshake() -> ClientHandshake {
    ClientHandshake::new("example.com:81", "/chat?a=b", KEY).expect("a valid request")
}

fn read(response: &[u8]) -> Result<Option<Accepted>, HandshakeError> {
    handshake()
        .with_protocol("p")
        .expect("a token")
        .response_reader(HeadLimits::default())
        .read(response)
}

fn response(status: &str, upgrade: &str, connection: &str, accept: &str, more: &str) -> Vec<u8> {
    format!(
        "HTTP/1.1 {status}\r\nUpgrade: {upgrade}\r\nConnection: {connection}\r\n\
         Sec-WebSocket-Accept: {accept}\r\n{more}\r\n"
    )
    .into_bytes()
}

const ACCEPT: &str = "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=";
const OK: &str = "101 Switching Protocols";

#[test]
fn server_accepts_what_the_client_asks() {
    let client = handshake()
        .with_protocol("a")
        .unwrap()
        .with_protocol("b")
        .unwrap();
    let client = client.with_header("Cookie", "x=y").unwrap();
    let head = HeadReader::new(HeadLimits::default())
        .read(&client.request())
        .unwrap()
        .unwrap();
    assert_eq!(head.target(), "/chat?a=b");
    assert_eq!(head.header("Host"), Some("example.com:81"));
    assert_eq!(head.header("Cookie"), Some("x=y"));
    let mut answer = Upgrade::new(&head)
        .unwrap()
        .accept(Some("b"), None, &[])
        .unwrap();
    answer.extend(b"\x89\x00");

    // Cut into bytes, the head ends where it ends.
    let mut reader = client.response_reader(HeadLimits::default());
    let accepted = answer
        .iter()
        .find_map(|byte| reader.read(&[*byte]).unwrap());
    assert_eq!(accepted.unwrap().protocol.as_deref(), Some("b"));
    // At once, what follows it is kept.
    let accepted = client
        .response_reader(HeadLimits::default())
        .read(&answer)
        .unwrap()
        .unwrap();
    assert_eq!(accepted.rest, b"\x89\x00");
}

#[test]
fn response_is_accepted_whatever_the_case_of_its_tokens() {
    let accepted = read(&response(OK, "WebSocket", "foo, upgrade", ACCEPT, ""))
        .unwrap()
        .unwrap();
    assert_eq!(
        accepted,
        Accepted {
            protocol: None,
            deflate: None,
            rest: vec![]
        }
    );
}

#[test]
fn response_that_breaks_a_rule_is_refused() {
    let two_accepts = format!("Sec-WebSocket-Accept: {ACCEPT}\r\n");
    for (bytes, error) in [
        (
            response("403 Forbidden", "x", "close", "", ""),
            HandshakeError::Refused { status: 403 },
        ),
        (
            response("302 Found", "x", "close", "", ""),
            HandshakeError::Refused { status: 302 },
        ),
        (
            response(OK, "h2c", "Upgrade", ACCEPT, ""),
            HandshakeError::NotUpgraded,
        ),
        (
            response(OK, "websocket", "close", ACCEPT, ""),
            HandshakeError::NotUpgraded,
        ),
        (
            response(OK, "websocket", "Upgrade", "wrong", ""),
            HandshakeError::WrongAcceptKey,
        ),
        (
            response(OK, "websocket", "Upgrade", ACCEPT, &two_accepts),
            HandshakeError::WrongAcceptKey,
        ),
        (
            response(
                OK,
                "websocket",
                "Upgrade",
                ACCEPT,
                "Sec-WebSocket-Protocol: q\r\n",
            ),
            HandshakeError::ProtocolNotOffered,
        ),
        (
            response(
                OK,
                "websocket",
                "Upgrade",
                ACCEPT,
                "Sec-WebSocket-Extensions: x\r\n",
            ),
            HandshakeError::ExtensionNotOffered,
        ),
        (
            b"HTTP/1.0 101 x\r\n\r\n".to_vec(),
            HandshakeError::Malformed,
        ),
        (b"nonsense\r\n\r\n".to_vec(), HandshakeError::Malformed),
    ] {
        assert_eq!(
            read(&bytes),
            Err(error),
            "{}",
            String::from_utf8_lossy(&bytes)
        );
    }
}

#[test]
fn request_cannot_be_split_by_its_parts() {
    for host in ["", "a b", "a\r\nX: y"] {
        let refused = ClientHandshake::new(host, "/", KEY).unwrap_err();
        assert_eq!(refused, InvalidRequest::Host);
    }
    for target in ["", "x", "/a b", "/\r\n", "/é", "/#f"] {
        let refused = ClientHandshake::new("h", target, KEY).unwrap_err();
        assert_eq!(refused, InvalidRequest::Target);
    }
    assert_eq!(
        handshake().with_protocol("a b").unwrap_err(),
        InvalidRequest::Protocol
    );
    let twice = handshake().with_protocol("a").unwrap().with_protocol("a");
    assert_eq!(twice.unwrap_err(), InvalidRequest::Protocol);
    assert_eq!(
        handshake().with_header("X", "a\nb").unwrap_err(),
        InvalidRequest::Header
    );
}

/// RFC 6455 §4.1, the client's requirements from 1 to 10.
#[test]
fn request_has_what_the_rfc_asks() {
    let client = ClientHandshake::new("server.example.com", "/chat", KEY).unwrap();
    let request = client
        .with_protocol("chat")
        .and_then(|client| client.with_protocol("superchat"))
        .and_then(|client| client.with_header("Origin", "http://example.com"))
        .unwrap()
        .request();
    let expected = "GET /chat HTTP/1.1\r\nHost: server.example.com\r\nUpgrade: websocket\r\n\
                    Connection: Upgrade\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\
                    Sec-WebSocket-Version: 13\r\nSec-WebSocket-Protocol: chat, superchat\r\n\
                    Origin: http://example.com\r\n\r\n";
    assert_eq!(String::from_utf8(request).unwrap(), expected);
}

#[test]
fn headers_of_the_handshake_cannot_be_added_twice() {
    for name in [
        "Host",
        "Upgrade",
        "connection",
        "Content-Length",
        "Transfer-Encoding",
        "Sec-WebSocket-Key",
        "sec-websocket-version",
        "Sec-WebSocket-Protocol",
        "Sec-WebSocket-Extensions",
    ] {
        let refused = handshake().with_header(name, "x").unwrap_err();
        assert_eq!(refused, InvalidRequest::Header, "{name}");
    }
}

#[test]
fn extensions_are_only_offered_when_asked_for() {
    let request = String::from_utf8(handshake().request()).unwrap();
    assert!(!request.contains("Extensions"), "{request}");
}

/// RFC 6455 §1.2.
#[test]
fn rfc_response_is_accepted() {
    let answer = b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\n\
                   Connection: Upgrade\r\nSec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\
                   Sec-WebSocket-Protocol: chat\r\n\r\n";
    let client = handshake().with_protocol("chat").unwrap();
    let mut reader = client.response_reader(HeadLimits::default());
    let accepted = reader.read(answer).unwrap().unwrap();
    assert_eq!(accepted.protocol.as_deref(), Some("chat"));
}

#[test]
fn response_that_lacks_a_header_is_refused() {
    let without = |name: &str| {
        let whole = String::from_utf8(response(OK, "websocket", "Upgrade", ACCEPT, "")).unwrap();
        let lines: Vec<_> = whole
            .split_inclusive("\r\n")
            .filter(|line| !line.starts_with(name))
            .collect();
        read(lines.concat().as_bytes())
    };
    assert_eq!(without("Upgrade:"), Err(HandshakeError::NotUpgraded));
    assert_eq!(without("Connection:"), Err(HandshakeError::NotUpgraded));
    let refused = without("Sec-WebSocket-Accept:");
    assert_eq!(refused, Err(HandshakeError::WrongAcceptKey));
    assert!(without("X:").unwrap().is_some());
}

#[test]
fn accept_key_is_compared_exactly_but_for_white_space() {
    for accept in [
        " \t s3pPLMBiTxaQ9kYGzzhZRbK+xOo=",
        "s3pPLMBiTxaQ9kYGzzhZRbK+xOo= \t ",
    ] {
        assert!(read(&response(OK, "websocket", "Upgrade", accept, "")).is_ok());
    }
    for accept in [
        "S3PPLMBITXAQ9KYGZZHZRBK+XOO=",
        "s3pPLMBiTxaQ9kYGzzhZRbK+xOo",
        "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=, x",
        "",
    ] {
        let refused = read(&response(OK, "websocket", "Upgrade", accept, ""));
        assert_eq!(refused, Err(HandshakeError::WrongAcceptKey), "{accept}");
    }
}

#[test]
fn upgrade_must_be_websocket_and_nothing_else() {
    for upgrade in ["h2c", "websocket, h2c", "web socket", ""] {
        let refused = read(&response(OK, upgrade, "Upgrade", ACCEPT, ""));
        assert_eq!(refused, Err(HandshakeError::NotUpgraded), "{upgrade}");
    }
    let twice = response(OK, "websocket", "Upgrade", ACCEPT, "Upgrade: h2c\r\n");
    assert_eq!(read(&twice), Err(HandshakeError::NotUpgraded));
}

#[test]
fn subprotocol_of_the_response_is_one_that_was_offered() {
    for (lines, chosen) in [
        ("", Ok(None)),
        ("Sec-WebSocket-Protocol: p\r\n", Ok(Some("p"))),
        ("Sec-WebSocket-Protocol: P\r\n", Err(())),
        ("Sec-WebSocket-Protocol: \r\n", Err(())),
        ("Sec-WebSocket-Protocol: p, q\r\n", Err(())),
        ("Sec-WebSocket-Protocol: p, p\r\n", Err(())),
        // RFC 6455 §11.3.4: not more than once in a response.
        (
            "Sec-WebSocket-Protocol: p\r\nSec-WebSocket-Protocol: p\r\n",
            Err(()),
        ),
    ] {
        let read = read(&response(OK, "websocket", "Upgrade", ACCEPT, lines));
        let expected = match chosen {
            Ok(chosen) => Ok(chosen),
            Err(()) => Err(HandshakeError::ProtocolNotOffered),
        };
        let read = read.map(|accepted| accepted.unwrap().protocol);
        assert_eq!(
            read.as_ref().map(|protocol| protocol.as_deref()),
            expected.as_ref().map(|chosen| *chosen),
            "{lines}"
        );
    }
}

#[test]
fn extension_that_was_not_asked_for_is_refused() {
    for list in ["x", "permessage-deflate", "permessage-deflate; x=1, y"] {
        let line = format!("Sec-WebSocket-Extensions: {list}\r\n");
        let refused = read(&response(OK, "websocket", "Upgrade", ACCEPT, &line));
        assert_eq!(refused, Err(HandshakeError::ExtensionNotOffered), "{list}");
    }
}

/// Reads a 101 with such extension headers, after having offered compression.
fn read_extensions(lines: &str) -> Result<Accepted, HandshakeError> {
    let client = handshake().with_deflate(DeflateConfig::default());
    let answer = response(OK, "websocket", "Upgrade", ACCEPT, lines);
    let mut reader = client.response_reader(HeadLimits::default());
    reader
        .read(&answer)
        .map(|accepted| accepted.expect("the head is complete"))
}

#[test]
fn compression_is_offered_and_its_answer_judged() {
    let client = handshake().with_deflate(DeflateConfig::default());
    let request = String::from_utf8(client.request()).unwrap();
    let offer = "\r\nSec-WebSocket-Extensions: permessage-deflate; server_no_context_takeover; \
                 client_no_context_takeover; client_max_window_bits\r\n";
    assert!(request.contains(offer), "{request}");

    assert_eq!(read_extensions("").unwrap().deflate, None);
    let line = "Sec-WebSocket-Extensions: permessage-deflate; server_no_context_takeover\r\n";
    let params = read_extensions(line).unwrap().deflate.unwrap();
    assert!(!params.context_takeover(Role::Server));
    let line = "Sec-WebSocket-Extensions: permessage-deflate\r\n";
    let refused = read_extensions(line).unwrap_err();
    assert_eq!(refused, HandshakeError::ExtensionNotOffered);
}

#[test]
fn extension_header_that_is_malformed_empty_or_doubled_is_refused() {
    let line = "Sec-WebSocket-Extensions: permessage-deflate; server_no_context_takeover\r\n";
    assert!(read_extensions(line).is_ok());
    let empty = "Sec-WebSocket-Extensions: \r\n";
    for lines in [
        empty,
        "Sec-WebSocket-Extensions: ,\r\n",
        "Sec-WebSocket-Extensions: permessage-deflate;\r\n",
        "Sec-WebSocket-Extensions: permessage-deflate; server_max_window_bits=\r\n",
        "Sec-WebSocket-Extensions: permessage-deflate server_no_context_takeover\r\n",
        &[line, line].concat(),
        &[line, empty].concat(),
        &[empty, line].concat(),
    ] {
        let refused = read_extensions(lines).unwrap_err();
        assert_eq!(refused, HandshakeError::Malformed, "{lines}");
    }
}

// A reader that had refused a line went on with what followed it, and could have accepted that.
#[test]
fn response_reader_says_nothing_but_malformed_after_its_result() {
    let accepted = response(OK, "websocket", "Upgrade", ACCEPT, "");
    let refused: [&[u8]; 4] = [
        b"HTTP/1.1 101\nX: \r\n",
        b"\x01\n",
        &[b'x'; 100_000],
        b"HTTP/1.1 403 Forbidden\r\n\r\n",
    ];
    for first in refused.into_iter().chain([&accepted[..]]) {
        let mut reader = handshake().response_reader(HeadLimits::default());
        let result = reader.read(first);
        assert_ne!(result, Ok(None), "{}", first.escape_ascii());
        for more in [&b"x"[..], &accepted] {
            let again = reader.read(more);
            assert_eq!(
                again,
                Err(HandshakeError::Malformed),
                "{}",
                first.escape_ascii()
            );
        }
    }
}

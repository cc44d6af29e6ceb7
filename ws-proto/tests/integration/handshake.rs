//! Requests for a WebSocket, and the answers.

use ws_proto::DeflateConfig;
use ws_proto::handshake::{
    AcceptError, BadRequest, HeadLimits, HeadReader, Rejection, Upgrade, response,
};

const UPGRADE: [(&str, &str); 5] = [
    ("Host", "server.example.com"),
    ("Upgrade", "websocket"),
    ("Connection", "Upgrade"),
    ("Sec-WebSocket-Key", "dGhlIHNhbXBsZSBub25jZQ=="),
    ("Sec-WebSocket-Version", "13"),
];

fn request_line(line: &str, headers: &[(&str, &str)]) -> Result<Upgrade, Rejection> {
    let mut bytes = format!("{line}\r\n");
    for (name, value) in headers {
        bytes.push_str(&format!("{name}: {value}\r\n"));
    }
    bytes.push_str("\r\n");
    let head = HeadReader::new(HeadLimits::default()).read(bytes.as_bytes())?;
    Upgrade::new(&head.expect("the head is complete"))
}

fn request(headers: &[(&str, &str)]) -> Result<Upgrade, Rejection> {
    request_line("GET /chat HTTP/1.1", headers)
}

fn without(name: &str) -> Vec<(&'static str, &'static str)> {
    UPGRADE
        .into_iter()
        .filter(|(other, _)| *other != name)
        .collect()
}

fn with<'a>(name: &'a str, value: &'a str) -> Vec<(&'a str, &'a str)> {
    let mut headers = without(name);
    headers.push((name, value));
    headers
}

fn plus<'a>(name: &'a str, value: &'a str) -> Vec<(&'a str, &'a str)> {
    let mut headers = UPGRADE.to_vec();
    headers.push((name, value));
    headers
}

fn bad(reason: BadRequest) -> Rejection {
    Rejection::BadRequest(reason)
}

/// The answer as text, after checking what every refusal must have.
#[track_caller]
fn refusal(refused: Result<Upgrade, Rejection>, expected: &Rejection, status: u16) -> String {
    assert_eq!(refused.as_ref(), Err(expected));
    let answer = String::from_utf8(expected.response()).expect("an answer is text");
    assert!(
        answer.starts_with(&format!("HTTP/1.1 {status} ")),
        "{answer}"
    );
    assert!(answer.contains("\r\nConnection: close"), "{answer}");
    let (head, body) = answer
        .split_once("\r\n\r\n")
        .expect("an empty line ends the head");
    assert!(body.len() <= 512);
    assert!(
        head.contains(&format!("\r\nContent-Length: {}", body.len())),
        "{answer}"
    );
    answer
}

#[test]
fn rfc_handshake_is_accepted() {
    let answer = request(&UPGRADE).unwrap().accept(None, None, &[]).unwrap();
    let expected = "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\n\
                    Connection: Upgrade\r\nSec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\n";
    assert_eq!(String::from_utf8(answer).unwrap(), expected);
}

#[test]
fn names_and_tokens_have_any_case_and_company() {
    for (name, value) in [
        ("Upgrade", "WebSocket"),
        ("Upgrade", "h2c, websocket"),
        ("Connection", "keep-alive, Upgrade"),
        ("Connection", "UPGRADE"),
        ("Content-Length", "0"),
    ] {
        assert!(request(&with(name, value)).is_ok(), "{name}: {value}");
    }
    let two_lines = [
        &with("Connection", "keep-alive")[..],
        &[("connection", "upgrade")],
    ]
    .concat();
    assert!(request(&two_lines).is_ok());
}

#[test]
fn t08_other_methods_are_405_with_allow() {
    for method in ["POST", "HEAD", "OPTIONS", "CONNECT", "get"] {
        let refused = request_line(&format!("{method} / HTTP/1.1"), &UPGRADE);
        let answer = refusal(refused, &Rejection::MethodNotAllowed, 405);
        assert!(answer.contains("\r\nAllow: GET\r\n"));
    }
}

#[test]
fn t08_http_1_0_is_505() {
    let refused = request_line("GET / HTTP/1.0", &UPGRADE);
    refusal(refused, &Rejection::VersionNotSupported, 505);
}

#[test]
fn t08_no_upgrade_is_426_with_upgrade() {
    for headers in [
        without("Upgrade"),
        with("Upgrade", "h2c"),
        with("Upgrade", "websockets"),
        without("Connection"),
        with("Connection", "close"),
    ] {
        let answer = refusal(request(&headers), &Rejection::UpgradeRequired, 426);
        assert!(answer.contains("\r\nUpgrade: websocket\r\n"));
        assert!(answer.contains("\r\nConnection: close, Upgrade\r\n"));
    }
}

#[test]
fn t05_t08_wrong_version_is_426_with_13() {
    for headers in [
        without("Sec-WebSocket-Version"),
        with("Sec-WebSocket-Version", "777"),
        with("Sec-WebSocket-Version", "8"),
        with("Sec-WebSocket-Version", "013"),
        with("Sec-WebSocket-Version", ""),
    ] {
        let answer = refusal(request(&headers), &Rejection::WrongWebSocketVersion, 426);
        assert!(answer.contains("\r\nSec-WebSocket-Version: 13\r\n"));
    }
    let twice = request(&plus("Sec-WebSocket-Version", "13"));
    refusal(twice, &bad(BadRequest::DuplicateVersion), 400);
}

#[test]
fn t08_key_missing_short_long_or_duplicated_is_400() {
    let missing = request(&without("Sec-WebSocket-Key"));
    refusal(missing, &bad(BadRequest::MissingKey), 400);
    for key in [
        "",
        "dGhlIHNhbXBsZSBub25j",
        "dGhlIHNhbXBsZSBub25jZQ",
        "dGhlIHNhbXBsZSBub25jZWE=",
        "dGhlIHNhbXBsZSBub25jZWFh",
        "dGhlIHNhbXBsZSBub25jZWFhYWFhYWFhYWFhYWFhYWE=",
        "dGhlIHNhbXBsZSBub25j!!==",
    ] {
        let refused = request(&with("Sec-WebSocket-Key", key));
        refusal(refused, &bad(BadRequest::InvalidKey), 400);
    }
    let twice = request(&plus("Sec-WebSocket-Key", "dGhlIHNhbXBsZSBub25jZQ=="));
    refusal(twice, &bad(BadRequest::DuplicateKey), 400);
}

#[test]
fn t05_body_on_the_upgrade_is_400() {
    for (name, value) in [
        ("Content-Length", "5"),
        ("Content-Length", "00"),
        ("Content-Length", "-1"),
        ("Transfer-Encoding", "chunked"),
        ("Transfer-Encoding", "identity"),
    ] {
        refusal(request(&plus(name, value)), &bad(BadRequest::Body), 400);
    }
    let both = [
        &plus("Content-Length", "0")[..],
        &[("Transfer-Encoding", "chunked")],
    ]
    .concat();
    refusal(request(&both), &bad(BadRequest::Body), 400);
}

#[test]
fn t09_subprotocols_are_tokens_and_unique() {
    for list in ["a b", "a, a", "a;b", "é", "\"a\"", "a, b, a"] {
        let refused = request(&plus("Sec-WebSocket-Protocol", list));
        refusal(refused, &bad(BadRequest::InvalidProtocol), 400);
    }
    let split = [
        &plus("Sec-WebSocket-Protocol", "a")[..],
        &[("Sec-WebSocket-Protocol", "a")],
    ];
    refusal(
        request(&split.concat()),
        &bad(BadRequest::InvalidProtocol),
        400,
    );
    // What would split the response is refused with the head.
    let refused = request(&plus("Sec-WebSocket-Protocol", "a\rX: 1"));
    refusal(refused, &bad(BadRequest::BareLineEnd), 400);
}

#[test]
fn t09_only_a_subprotocol_that_was_offered_is_echoed() {
    let headers = [
        &plus("Sec-WebSocket-Protocol", "b, ,a")[..],
        &[("sec-websocket-protocol", "c")],
    ]
    .concat();
    let upgrade = request(&headers).unwrap();
    assert_eq!(upgrade.protocols().collect::<Vec<_>>(), ["b", "a", "c"]);
    let answer = String::from_utf8(upgrade.accept(Some("a"), None, &[]).unwrap()).unwrap();
    assert!(answer.contains("\r\nSec-WebSocket-Protocol: a\r\n"));
    assert_eq!(
        upgrade.accept(Some("d"), None, &[]),
        Err(AcceptError::ProtocolNotOffered)
    );
    let silent = String::from_utf8(upgrade.accept(None, None, &[]).unwrap()).unwrap();
    assert!(!silent.contains("Protocol:"));
}

#[test]
fn extensions_are_declined_by_silence() {
    let offer = "permessage-deflate; client_max_window_bits";
    let upgrade = request(&plus("Sec-WebSocket-Extensions", offer)).unwrap();
    assert_eq!(upgrade.extensions()[0].name(), "permessage-deflate");
    let answer = String::from_utf8(upgrade.accept(None, None, &[]).unwrap()).unwrap();
    assert!(!answer.contains("Extensions"));
    let refused = request(&plus("Sec-WebSocket-Extensions", "a;;"));
    refusal(refused, &bad(BadRequest::InvalidExtensions), 400);
}

#[test]
fn t09_headers_of_the_application_cannot_split_the_101() {
    let upgrade = request(&UPGRADE).unwrap();
    let answer = upgrade
        .accept(None, None, &[("Set-Cookie", "a=b; Path=/"), ("X", "1")])
        .unwrap();
    let answer = String::from_utf8(answer).unwrap();
    assert!(answer.ends_with("\r\nSet-Cookie: a=b; Path=/\r\nX: 1\r\n\r\n"));
    for (name, value) in [
        ("X", "a\r\nY: b"),
        ("X", "a\nb"),
        ("X", "a\0"),
        ("X\r\nY", "a"),
        ("", "a"),
        ("Upgrade", "h2c"),
        ("connection", "close"),
        ("Content-Length", "5"),
        ("transfer-encoding", "chunked"),
        ("Sec-WebSocket-Extensions", "permessage-deflate"),
        ("sec-websocket-accept", "x"),
    ] {
        let refused = upgrade.accept(None, None, &[(name, value)]);
        assert_eq!(refused, Err(AcceptError::InvalidHeader), "{name}: {value}");
    }
}

#[test]
fn t08_answers_of_the_server_have_the_same_shape() {
    for status in [200, 401, 403, 404, 408, 429, 500, 503] {
        let answer = String::from_utf8(response(status, &[("Retry-After", "5")], "x\n")).unwrap();
        assert!(answer.starts_with(&format!("HTTP/1.1 {status} ")));
        assert!(
            !answer.starts_with(&format!("HTTP/1.1 {status} \r\n")),
            "a phrase for {status}"
        );
        assert!(answer.contains("\r\nConnection: close\r\nContent-Length: 2\r\n"));
        assert!(answer.contains("\r\nRetry-After: 5\r\n"));
        assert!(answer.ends_with("\r\n\r\nx\n"));
    }
    let page = response(200, &[("content-type", "text/html")], "<p>");
    assert!(!String::from_utf8(page).unwrap().contains("text/plain"));
    let split = response(403, &[("X", "a\r\nY: b"), ("Connection", "keep-alive")], "");
    let split = String::from_utf8(split).unwrap();
    assert!(!split.contains("Y: b") && !split.contains("keep-alive"));
}

#[test]
fn t08_nothing_of_the_request_is_reflected() {
    let refused = request_line(
        "GET /<script> HTTP/1.1",
        &with("Sec-WebSocket-Key", "<script>"),
    );
    let answer = refusal(refused, &bad(BadRequest::InvalidKey), 400);
    assert!(!answer.contains("script"));
}

/// RFC 6455 §1.2.
#[test]
fn rfc_request_is_answered_as_in_the_rfc() {
    let upgrade = request(&[
        ("Host", "server.example.com"),
        ("Upgrade", "websocket"),
        ("Connection", "Upgrade"),
        ("Sec-WebSocket-Key", "dGhlIHNhbXBsZSBub25jZQ=="),
        ("Origin", "http://example.com"),
        ("Sec-WebSocket-Protocol", "chat, superchat"),
        ("Sec-WebSocket-Version", "13"),
    ]);
    let answer = upgrade.unwrap().accept(Some("chat"), None, &[]).unwrap();
    let expected = "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\n\
                    Connection: Upgrade\r\nSec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\
                    Sec-WebSocket-Protocol: chat\r\n\r\n";
    assert_eq!(String::from_utf8(answer).unwrap(), expected);
}

#[test]
fn order_of_headers_does_not_matter() {
    let mut headers = UPGRADE;
    for _ in 0..headers.len() {
        headers.rotate_left(1);
        assert!(request(&headers).is_ok(), "{headers:?}");
    }
    headers.reverse();
    assert!(request(&headers).is_ok());
}

#[test]
fn accept_key_is_derived_from_the_key_as_it_was_sent() {
    // Both decode to the same bytes; the spare bits at the end differ.
    let accept = |key| {
        let answer = request(&with("Sec-WebSocket-Key", key)).unwrap();
        let answer = String::from_utf8(answer.accept(None, None, &[]).unwrap()).unwrap();
        let (_, rest) = answer.split_once("\r\nSec-WebSocket-Accept: ").unwrap();
        rest.split_once("\r\n").unwrap().0.to_owned()
    };
    let (one, other) = (
        accept("dGhlIHNhbXBsZSBub25jZQ=="),
        accept("dGhlIHNhbXBsZSBub25jZR=="),
    );
    assert_eq!(one, "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=");
    assert_ne!(one, other);
}

#[test]
fn extension_list_that_breaks_the_grammar_is_400() {
    for list in [
        "",
        ",",
        ", ,",
        "a;",
        "a;b=",
        "a b",
        ";a",
        "a;b=\"",
        "a;b=\"\"",
        "a;b=\"x y\"",
        "a=b",
        "a;b=c=d",
        "a,;",
        "a;b c",
        "(a)",
        "é",
    ] {
        let refused = request(&plus("Sec-WebSocket-Extensions", list));
        refusal(refused, &bad(BadRequest::InvalidExtensions), 400);
    }
    // Empty elements are no more than untidy.
    for list in ["a", ",a,,b,", "a ; b = \"c\" , d", "a;b;b"] {
        assert!(request(&plus("Sec-WebSocket-Extensions", list)).is_ok());
    }
    let split = [
        &plus("Sec-WebSocket-Extensions", "")[..],
        &[("sec-websocket-extensions", "a")],
    ];
    assert_eq!(request(&split.concat()).unwrap().extensions().len(), 1);
}

#[test]
fn subprotocol_list_without_an_element_is_400() {
    for list in ["", ",", " , ,"] {
        let refused = request(&plus("Sec-WebSocket-Protocol", list));
        refusal(refused, &bad(BadRequest::InvalidProtocol), 400);
    }
}

#[test]
fn accepted_response_has_each_of_its_headers_once() {
    let upgrade = request(&plus("Sec-WebSocket-Protocol", "a, b")).unwrap();
    let answer = upgrade.accept(Some("b"), None, &[("X-Sec", "1")]).unwrap();
    let answer = String::from_utf8(answer).unwrap();
    assert!(answer.starts_with("HTTP/1.1 101 "));
    for name in [
        "Upgrade",
        "Connection",
        "Sec-WebSocket-Accept",
        "Sec-WebSocket-Protocol",
    ] {
        let line = format!("\r\n{name}: ");
        assert_eq!(answer.matches(&line).count(), 1, "{name}");
    }
}

#[test]
fn only_compression_that_was_offered_is_accepted() {
    let offer = "x-other, permessage-deflate; server_max_window_bits=10";
    let asking = request(&plus("Sec-WebSocket-Extensions", offer)).unwrap();
    let params = DeflateConfig::default()
        .accept(asking.extensions())
        .unwrap();
    let answer = asking.accept(None, Some(&params), &[]).unwrap();
    let answer = String::from_utf8(answer).unwrap();
    let lines: Vec<_> = answer
        .split("\r\n")
        .filter(|line| line.starts_with("Sec-WebSocket-Extensions: "))
        .collect();
    assert_eq!(lines, [format!("Sec-WebSocket-Extensions: {params}")]);
    for silent in [
        request(&UPGRADE).unwrap(),
        request(&plus("Sec-WebSocket-Extensions", "x-other")).unwrap(),
    ] {
        let refused = silent.accept(None, Some(&params), &[]);
        assert_eq!(refused, Err(AcceptError::ExtensionNotOffered));
    }
}

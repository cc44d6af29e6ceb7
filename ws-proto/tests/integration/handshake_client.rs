//! The client's side of the opening handshake.

use ws_proto::handshake::{
    Accepted, ClientHandshake, HandshakeError, HeadLimits, HeadReader, InvalidRequest, Upgrade,
};

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

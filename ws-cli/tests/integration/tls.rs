//! Listeners with TLS, and listeners behind proxies that speak the PROXY protocol.

use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::path::Path;
use std::sync::Arc;

use futures_util::{SinkExt as _, StreamExt as _};
use nix::sys::signal::Signal;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::handshake::client::Response;

use crate::support::{PATIENCE, Server, Setup, eventually};

type Client = WebSocketStream<TlsStream<tokio::net::TcpStream>>;

/// Writes `cert.pem` and `key.pem`.
fn issue(dir: &Path) -> CertificateDer<'static> {
    let made = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
    std::fs::write(dir.join("cert.pem"), made.cert.pem()).unwrap();
    std::fs::write(dir.join("key.pem"), made.signing_key.serialize_pem()).unwrap();
    made.cert.der().clone()
}

/// A server with TLS, and the certificate to trust.
fn secure() -> (Setup, CertificateDer<'static>) {
    let setup = Setup::new()
        .listen("wss://127.0.0.1:0")
        .set("server.tls.cert", "cert.pem")
        .set("server.tls.key", "key.pem");
    let certificate = issue(setup.dir());
    (setup, certificate)
}

async fn connect(server: &Server, trusted: &CertificateDer<'static>) -> (Client, Response) {
    let mut roots = RootCertStore::empty();
    roots.add(trusted.clone()).unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    let socket = tokio::net::TcpStream::connect(server.addr).await.unwrap();
    let name = ServerName::try_from("localhost").unwrap();
    let stream = TlsConnector::from(Arc::new(config)).connect(name, socket);
    let url = format!("wss://localhost:{}/", server.addr.port());
    let client = tokio_tungstenite::client_async(url, stream.await.unwrap());
    tokio::time::timeout(PATIENCE, client)
        .await
        .unwrap()
        .unwrap()
}

async fn hear(client: &mut Client) -> Message {
    let heard = tokio::time::timeout(PATIENCE, client.next()).await;
    heard.expect("an answer comes").unwrap().unwrap()
}

async fn say(client: &mut Client, text: &str) -> String {
    client.send(Message::text(text)).await.unwrap();
    hear(client).await.into_text().unwrap().to_string()
}

#[tokio::test]
async fn callbacks_and_cookies_know_of_tls() {
    let (setup, trusted) = secure();
    let server = setup.app("echo \"$HTTPS\"").start();
    assert!(server.url.starts_with("wss://127.0.0.1:"), "{}", server.url);
    let (mut client, response) = connect(&server, &trusted).await;
    let cookie = response.headers()["set-cookie"].to_str().unwrap();
    assert!(cookie.contains("; Secure"), "{cookie}");
    assert_eq!(say(&mut client, "secure?").await, "on");
    client.close(None).await.unwrap();
    // The close frame, then the end with TLS's own alert: without one it would be an error.
    assert!(matches!(hear(&mut client).await, Message::Close(_)));
    assert!(client.next().await.is_none());
    server.finish();
}

#[tokio::test]
async fn much_that_is_read_late_arrives_whole() {
    let (setup, trusted) = secure();
    let server = setup.arg("--echo").start();
    let (client, _) = connect(&server, &trusted).await;
    let message = vec![b'x'; 900_000];
    let (mut sink, mut source) = client.split();
    let count = 20;
    let send = async {
        for _ in 0..count {
            sink.send(Message::binary(message.clone())).await.unwrap();
        }
        sink
    };
    let receive = async {
        for _ in 0..count {
            let heard = source.next().await.unwrap().unwrap();
            assert_eq!(heard.len(), message.len());
            tokio::task::yield_now().await;
        }
    };
    let (mut sink, ()) = tokio::time::timeout(PATIENCE, async { tokio::join!(send, receive) })
        .await
        .unwrap();
    sink.close().await.unwrap();
    drop((sink, source));
    server.finish();
}

#[tokio::test]
async fn hup_reads_certificates_again_and_touches_no_connection() {
    let (setup, old) = secure();
    let server = setup.arg("--echo").start();
    let (mut before, _) = connect(&server, &old).await;
    let new = issue(server.dir());
    server.signal(Signal::SIGHUP);
    // Whoever still gets the old certificate does not trust it.
    let (mut after, _) = loop {
        let probe = tokio::time::timeout(PATIENCE, try_connect(&server, &new)).await;
        if let Some(connected) = probe.expect("the certificate is read") {
            break connected;
        }
    };
    assert_eq!(say(&mut before, "still here").await, "still here");
    assert_eq!(say(&mut after, "new").await, "new");

    std::fs::write(server.dir().join("key.pem"), "garbage").unwrap();
    server.signal(Signal::SIGHUP);
    assert_eq!(say(&mut before, "still here").await, "still here");
    connect(&server, &new).await.0.close(None).await.unwrap();
    for client in [&mut before, &mut after] {
        client.close(None).await.unwrap();
    }
    server.finish();
}

async fn try_connect(
    server: &Server,
    trusted: &CertificateDer<'static>,
) -> Option<(Client, Response)> {
    let socket = TcpStream::connect(server.addr).unwrap();
    socket.set_read_timeout(Some(PATIENCE)).unwrap();
    let mut roots = RootCertStore::empty();
    roots.add(trusted.clone()).unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    let name = ServerName::try_from("localhost").unwrap();
    let mut connection = rustls::ClientConnection::new(Arc::new(config), name).unwrap();
    let mut socket = socket;
    while connection.is_handshaking() {
        connection.complete_io(&mut socket).ok()?;
    }
    Some(connect(server, trusted).await)
}

/// Waits until the one refusal is counted, and for this reason.
fn refused(server: &Server, reason: &str) {
    eventually(reason, || {
        server.status()["sockets"]["refused_by"][reason] == 1
    });
}

#[test]
fn what_is_wrong_with_certificates_is_said_with_78() {
    let output = Setup::new()
        .listen("wss://127.0.0.1:0")
        .arg("--echo")
        .fail();
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(78), "{text}");
    assert!(
        text.contains("server.listen: wss needs server.tls.cert"),
        "{text}"
    );

    let (setup, _) = secure();
    std::fs::write(setup.dir().join("key.pem"), "").unwrap();
    let output = setup.arg("--echo").fail();
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(78), "{text}");
    assert!(text.contains("there is no private key in"), "{text}");
    assert!(text.contains("key.pem"), "{text}");
}

#[test]
fn t10_the_handshake_deadline_includes_tls_and_the_proxy_header() {
    for listen in ["wss://127.0.0.1:0", "ws+proxy://127.0.0.1:0"] {
        let server = Setup::new()
            .listen(listen)
            .arg("--tls-self-signed")
            .set("server.proxy.trusted", "127.0.0.1")
            .set("limits.handshake_timeout", "300ms")
            .arg("--echo")
            .start();
        assert_eq!(server.raw(b""), b"");
        refused(&server, "timeout");
        server.finish();
    }
}

#[test]
fn t10_plain_http_is_told_by_an_alert() {
    let server = Setup::new()
        .listen("wss://127.0.0.1:0")
        .arg("--tls-self-signed")
        .arg("--echo")
        .start();
    let answer = server.raw(b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n");
    assert_eq!(answer[0], 21);
    refused(&server, "tls");
    server.finish();
}

const HEADER: &str = "PROXY TCP4 192.0.2.1 198.51.100.1 4711 443\r\n";
const REQUEST: &str = "GET / HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\n\
                       Connection: Upgrade\r\nSec-WebSocket-Version: 13\r\n\
                       Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n";

#[test]
fn t04_without_proxy_in_the_address_its_header_is_a_bad_request() {
    let server = Setup::new().arg("--echo").start();
    let answer = server.raw(format!("{HEADER}{REQUEST}").as_bytes());
    assert!(answer.starts_with(b"HTTP/1.1 400 "), "{answer:?}");
    server.finish();
}

#[test]
fn t04_a_required_header_tells_the_visitor() {
    let server = Setup::new()
        .listen("ws+proxy://127.0.0.1:0")
        .set("server.proxy.trusted", "127.0.0.1")
        .app("cat >/dev/null; echo \"$REMOTE_ADDR $REMOTE_PORT\"")
        .start();
    let mut stream = TcpStream::connect(server.addr).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    let hello = [0x81, 0x80 | 2, 0, 0, 0, 0, b'h', b'i'];
    stream
        .write_all(format!("{HEADER}{REQUEST}").as_bytes())
        .unwrap();
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        let mut byte = [0];
        stream.read_exact(&mut byte).unwrap();
        head.push(byte[0]);
    }
    assert!(head.starts_with(b"HTTP/1.1 101 "), "{head:?}");
    stream.write_all(&hello).unwrap();
    let mut frame = [0; 2 + "192.0.2.1 4711".len()];
    stream.read_exact(&mut frame).unwrap();
    assert_eq!(&frame[2..], b"192.0.2.1 4711");
    drop(stream);

    // Nothing is answered to whoever comes without one.
    assert_eq!(server.raw(REQUEST.as_bytes()), b"");
    refused(&server, "proxy");
    server.finish();
}

#[test]
fn t04_only_trusted_peers_may_send_one() {
    let server = Setup::new()
        .listen("ws+proxy://127.0.0.1:0")
        .set("server.proxy.trusted", "192.0.2.7")
        .arg("--echo")
        .start();
    let answer = server.raw(format!("{HEADER}{REQUEST}").as_bytes());
    assert_eq!(answer, b"");
    refused(&server, "proxy");
    server.finish();

    let output = Setup::new()
        .listen("ws+proxy://127.0.0.1:0")
        .arg("--echo")
        .fail();
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(78), "{text}");
    assert!(
        text.contains("server.proxy.trusted names the proxies"),
        "{text}"
    );
}

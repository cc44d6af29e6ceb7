//! Listeners with TLS, and listeners behind proxies that speak the PROXY protocol.

use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use futures_util::{SinkExt as _, StreamExt as _};
use serde_json::json;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio_tungstenite::tungstenite::Message;

use crate::secure::{Authority, Client, hear, say};
use crate::support::{PATIENCE, Server, Setup, eventually};
use crate::wire::{check_refusal, refusal};

#[tokio::test]
async fn callbacks_and_cookies_know_of_tls() {
    let authority = Authority::new();
    let server = authority.server().app("echo \"$HTTPS\"").start();
    assert!(server.url.starts_with("wss://127.0.0.1:"), "{}", server.url);
    let (mut client, response) = authority.caller().connect(&server).await;
    let cookie = response.headers()["set-cookie"].to_str().unwrap();
    assert!(cookie.contains("; Secure"), "{cookie}");
    assert_eq!(say(&mut client, "secure?").await, "on");
    client.close(None).await.unwrap();
    // The close frame, then the end with TLS's own alert: without one it would be an error.
    assert!(matches!(hear(&mut client).await, Message::Close(_)));
    assert!(client.next().await.is_none());
    drop(client);
    server.finish();
}

#[tokio::test]
async fn much_that_is_read_late_arrives_whole() {
    let authority = Authority::new();
    let server = authority.server().arg("--echo").start();
    let (client, _) = authority.caller().connect(&server).await;
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

/// Waits until the one refusal is counted, and for this reason.
fn refused(server: &Server, reason: &str) {
    eventually(reason, || {
        server.status()["sockets"]["refused_by"][reason] == 1
    });
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

/// The preface of HTTP/2 (RFC 9113 §3.4), and an empty SETTINGS frame.
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0";

#[tokio::test]
async fn t12_http_2_is_neither_agreed_upon_nor_spoken() {
    let plain = Setup::new().arg("--echo").start();
    assert_eq!(refusal(&plain, PREFACE).status, 505);
    plain.finish();

    let authority = Authority::new();
    let server = authority.server().arg("--echo").start();
    let caller = authority.caller();
    let both = caller.offering(&["h2", "http/1.1"]);
    let stream = both.shake_hands(&server).await.unwrap();
    assert_eq!(stream.get_ref().1.alpn_protocol(), Some(&b"http/1.1"[..]));
    drop(stream);
    let error = caller.offering(&["h2"]).shake_hands(&server).await;
    let error = error.unwrap_err().to_string();
    assert!(error.contains("NoApplicationProtocol"), "{error}");
    server.until("sockets.refused_by.tls", 1);

    // Whoever offers nothing may still try.
    let mut stream = caller.shake_hands(&server).await.unwrap();
    stream.write_all(PREFACE).await.unwrap();
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).await.unwrap();
    drop(stream);
    assert_eq!(check_refusal(&answer).status, 505);
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

#[tokio::test]
async fn t10_five_hundred_half_open_handshakes_hold_up_nobody() {
    const CROWD: usize = 500;
    let authority = Authority::new();
    let setup = authority.server().set("server.threads", "1");
    let server = setup.arg("--echo").start();
    let caller = authority.caller();
    let (mut before, _) = caller.connect(&server).await;
    // All at once: the worker has their signatures to make, and echoes in between.
    let crowd: Vec<TcpStream> = (0..CROWD).map(|_| caller.half_open(&server)).collect();
    let mut longest = Duration::ZERO;
    for number in 0..50 {
        let text = number.to_string();
        let begun = Instant::now();
        assert_eq!(say(&mut before, &text).await, text);
        longest = longest.max(begun.elapsed());
    }
    // One signature takes a millisecond or so, five hundred of them a good part of a second.
    assert!(longest < Duration::from_millis(250), "{longest:?}");
    let begun = Instant::now();
    let (mut newcomer, _) = caller.connect(&server).await;
    assert!(begun.elapsed() < Duration::from_secs(5));
    assert_eq!(say(&mut newcomer, "hello").await, "hello");
    assert_eq!(server.figure("sockets.open"), CROWD as u64 + 2);
    drop(crowd);
    server.until("sockets.open", 2);
    for mut client in [before, newcomer] {
        client.close(None).await.unwrap();
        assert!(matches!(hear(&mut client).await, Message::Close(_)));
    }
    server.finish();
}

/// A client that reads only when it is told to, and for which the kernel keeps this much.
async fn reluctant(authority: &Authority, server: &Server, room: usize) -> Client {
    let (client, _) = authority.caller().connect(server).await;
    let (socket, _) = client.get_ref().get_ref();
    nix::sys::socket::setsockopt(socket, nix::sys::socket::sockopt::RcvBuf, &room).unwrap();
    client
}

#[tokio::test]
async fn t30_who_takes_nothing_over_tls_is_closed_after_the_write_timeout() {
    let authority = Authority::new();
    let setup = authority.server().arg("--echo");
    let server = setup
        .set("limits.ping_interval", "off")
        .set("limits.write_timeout", "500ms")
        .set("limits.close_timeout", "100ms")
        .set("limits.send_queue_size", "64MiB")
        .start();
    let stalled = reluctant(&authority, &server, 4096).await;
    // More than the server's socket can grow to, and less than any limit of bytes.
    for _ in 0..40 {
        server.send(json!({"all": true}), &"x".repeat(500_000));
    }
    server.until("connections.closed_by.slow", 1);
    server.until("connections.open", 0);
    assert_eq!(server.figure("messages.waiting_bytes"), 0);
    drop(stalled);
    server.finish();
}

#[test]
fn t30_who_reads_slowly_over_tls_but_reads_is_not_closed() {
    let authority = Authority::new();
    let setup = authority.server().arg("--echo");
    let server = setup
        .set("limits.ping_interval", "off")
        .set("limits.write_timeout", "2s")
        .set("limits.send_queue_size", "64MiB")
        .start();
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    let mut slow = runtime.block_on(reluctant(&authority, &server, 128 * 1024));
    std::thread::scope(|scope| {
        let pushing = scope.spawn(|| {
            for _ in 0..40 {
                server.send(json!({"all": true}), &"x".repeat(500_000));
            }
        });
        // For several times the timeout, a message now and then; the pauses are the subject.
        let begun = Instant::now();
        while begun.elapsed() < Duration::from_secs(5) || !pushing.is_finished() {
            assert_eq!(runtime.block_on(hear(&mut slow)).len(), 500_000);
            std::thread::park_timeout(Duration::from_millis(250));
        }
    });
    assert_eq!(server.figure("connections.closed"), 0);
    assert!(server.figure("messages.waiting_bytes") > 0);
    drop(slow);
    server.finish();
}

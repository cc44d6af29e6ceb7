//! Listeners behind proxies.

#![expect(clippy::unwrap_used, reason = "the helpers panic as the tests do")]

use std::io::{Read as _, Write as _};
use std::net::{Shutdown, TcpStream};
use std::os::unix::net::UnixStream;
use std::time::Duration;

use ws_transport::{
    BindOptions, ListenAddr, Listener, LocalAddr, OpenError, Opened, PeerAddr, ProxyHeaderError,
    SelfSigned, TlsAcceptor,
};

use crate::{bind, bind_with, port};

const HEADER: &[u8] = b"PROXY TCP4 192.0.2.1 198.51.100.1 4711 443\r\n";

async fn open(listener: &Listener) -> Result<Opened, OpenError> {
    let accepted = listener.accept().await.unwrap();
    assert!(accepted.socket.is_proxied());
    tokio::time::timeout(Duration::from_secs(10), accepted.open())
        .await
        .expect("it ends")
}

fn connect(listener: &Listener) -> TcpStream {
    TcpStream::connect(("127.0.0.1", port(listener))).unwrap()
}

#[tokio::test]
async fn the_header_tells_the_ends_and_nothing_behind_it_is_taken() {
    let listener = bind("ws+proxy://127.0.0.1:0").unwrap();
    assert_eq!(
        listener.url(),
        format!("ws+proxy://127.0.0.1:{}/", port(&listener))
    );
    let mut client = connect(&listener);
    client
        .write_all(&[HEADER, b"PROXY is a word"].concat())
        .unwrap();
    let opened = open(&listener).await.unwrap();
    let source = PeerAddr::Tcp("192.0.2.1:4711".parse().unwrap());
    assert_eq!(opened.peer, source);
    assert_eq!(opened.peer, source);
    assert_eq!(
        opened.local,
        LocalAddr::Tcp("198.51.100.1:443".parse().unwrap())
    );
    let mut buffer = [0; 64];
    opened.stream.readable().await.unwrap();
    let count = opened.stream.try_read(&mut buffer).unwrap();
    assert_eq!(&buffer[..count], b"PROXY is a word");
}

#[tokio::test]
async fn t04_the_header_may_come_byte_by_byte() {
    let listener = bind("ws+proxy://127.0.0.1:0").unwrap();
    let mut client = connect(&listener);
    client.set_nodelay(true).unwrap();
    let writer = std::thread::spawn(move || {
        for byte in HEADER {
            client.write_all(&[*byte]).unwrap();
        }
        client
    });
    let opened = open(&listener).await.unwrap();
    assert_eq!(opened.peer.to_string(), "192.0.2.1:4711");
    writer.join().unwrap();
}

#[tokio::test]
async fn t04_the_longest_header_is_read_to_its_end() {
    let listener = bind("ws+proxy://127.0.0.1:0").unwrap();
    let mut client = connect(&listener);
    let writer = std::thread::spawn(move || {
        client
            .write_all(b"\r\n\r\n\0\r\nQUIT\n\x20\0\xff\xff")
            .unwrap();
        client.write_all(&[0; 65535]).unwrap();
        client.write_all(b"GET").unwrap();
        client
    });
    let opened = open(&listener).await.unwrap();
    let client = writer.join().unwrap();
    // LOCAL: the proxy itself is meant.
    assert_eq!(opened.peer, PeerAddr::Tcp(client.local_addr().unwrap()));
    opened.stream.readable().await.unwrap();
    assert_eq!(opened.stream.try_read(&mut [0; 64]).unwrap(), 3);
}

#[tokio::test]
async fn t04_without_a_header_nothing_is_answered() {
    let listener = bind("ws+proxy://127.0.0.1:0").unwrap();
    let mut client = connect(&listener);
    client.write_all(b"G").unwrap();
    let error = open(&listener).await.unwrap_err();
    assert!(
        matches!(error, OpenError::Proxy(ProxyHeaderError::Missing)),
        "{error}"
    );
    let answer = client.read(&mut [0; 64]);
    // Closed, with a reset since what was sent is not read.
    assert!(matches!(answer, Ok(0) | Err(_)), "{answer:?}");

    for start in [&b""[..], b"PROXY TCP4 1.2"] {
        let mut client = connect(&listener);
        client.write_all(start).unwrap();
        client.shutdown(Shutdown::Write).unwrap();
        let error = open(&listener).await.unwrap_err();
        assert!(matches!(error, OpenError::Closed), "{error}");
    }
}

#[tokio::test]
async fn a_proxy_may_come_over_a_unix_socket() {
    let dir = tempfile::tempdir().unwrap();
    let addr = ListenAddr::unix(dir.path().join("ws.sock")).with_proxied(true);
    let listener = Listener::bind(&addr, &BindOptions::default()).unwrap();
    let mut client = UnixStream::connect(dir.path().join("ws.sock")).unwrap();
    client.write_all(HEADER).unwrap();
    assert_eq!(
        open(&listener).await.unwrap().peer.to_string(),
        "192.0.2.1:4711"
    );
    let mut client = UnixStream::connect(dir.path().join("ws.sock")).unwrap();
    client.write_all(b"PROXY UNKNOWN\r\n").unwrap();
    assert_eq!(open(&listener).await.unwrap().peer, PeerAddr::Unix);
}

#[tokio::test]
async fn the_header_stands_before_tls() {
    let names = ["localhost".to_owned()];
    let made = SelfSigned::new(&names, Duration::from_secs(3600)).unwrap();
    let acceptor = TlsAcceptor::self_signed(&made, [b"http/1.1"]).unwrap();
    let options = BindOptions {
        tls: Some(acceptor),
        ..BindOptions::default()
    };
    let listener = bind_with("wss+proxy://127.0.0.1:0", &options).unwrap();
    let mut client = connect(&listener);
    // In one write with the first bytes of the handshake, which is no handshake.
    client
        .write_all(&[HEADER, b"GET / HTTP/1.1\r\n\r\n"].concat())
        .unwrap();
    let error = open(&listener).await.unwrap_err();
    assert!(matches!(error, OpenError::Tls(_)), "{error}");
    let mut answer = Vec::new();
    client.read_to_end(&mut answer).unwrap();
    assert_eq!(answer[0], 21, "an alert");
}

//! TLS, spoken with clients that are not ours.

#![expect(clippy::unwrap_used, reason = "the helpers panic as the tests do")]

use std::io::{ErrorKind, Read as _, Write as _};
use std::net::TcpStream;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use proptest::prelude::*;
use rustls::HandshakeKind;
use rustls::pki_types::ServerName;
use rustls::version::TLS13;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use ws_transport::{BindError, OpenError, Stream, TlsAcceptor};

use crate::secure::{Authority, BOTH, connect, listen, open, tls_pair};
use crate::{bind, port};

async fn read_to_end(stream: &Stream) -> Vec<u8> {
    let mut read = Vec::new();
    let mut buffer = [0; 1000];
    loop {
        stream.readable().await.unwrap();
        match stream.try_read(&mut buffer) {
            Ok(0) => return read,
            Ok(count) => read.extend_from_slice(&buffer[..count]),
            Err(error) => assert_eq!(error.kind(), ErrorKind::WouldBlock),
        }
    }
}

#[tokio::test]
async fn the_url_says_wss() {
    let authority = Authority::new();
    let listener = listen(&TlsAcceptor::load(authority.localhost()).unwrap());
    assert_eq!(
        listener.url(),
        format!("wss://127.0.0.1:{}/", port(&listener))
    );
    let error = bind("wss://127.0.0.1:0").unwrap_err();
    assert!(matches!(error, BindError::NoCertificate { .. }), "{error}");
}

#[tokio::test]
async fn nobody_gets_the_encrypted_bytes_by_mistake() {
    let authority = Authority::new();
    let listener = listen(&TlsAcceptor::load(authority.localhost()).unwrap());
    let _client = TcpStream::connect(("127.0.0.1", port(&listener))).unwrap();
    let accepted = listener.accept().await.unwrap();
    assert!(accepted.socket.is_tls() && !accepted.socket.is_proxied());
    let error = accepted.socket.register().unwrap_err();
    assert_eq!(error.kind(), ErrorKind::InvalidInput);
}

#[tokio::test]
async fn both_versions_are_spoken_and_end_with_a_close_alert() {
    for version in BOTH {
        let (mut client, stream) = tls_pair(version).await;
        assert!(stream.is_tls());
        assert_eq!(client.conn.protocol_version(), Some(version.version));
        let peer = std::thread::spawn(move || {
            client.write_all(b"ping").unwrap();
            client.conn.send_close_notify();
            client.flush().unwrap();
            let mut text = String::new();
            // Without the alert this would be an error.
            client.read_to_string(&mut text).unwrap();
            text
        });
        assert_eq!(read_to_end(&stream).await, b"ping");
        assert_eq!(stream.try_read(&mut [0; 8]).unwrap(), 0);
        stream.writable().await.unwrap();
        assert_eq!(stream.try_write(b"pong").unwrap(), 4);
        stream.shutdown_write().unwrap();
        assert!(stream.is_flushed());
        assert_eq!(
            stream.try_write(b"more").unwrap_err().kind(),
            ErrorKind::BrokenPipe
        );
        assert_eq!(peer.join().unwrap(), "pong");
    }
}

#[tokio::test]
async fn the_end_without_an_alert_is_an_end() {
    let (client, stream) = tls_pair(&TLS13).await;
    drop(client.sock);
    assert_eq!(read_to_end(&stream).await, b"");
}

#[tokio::test]
async fn part_of_a_record_would_block() {
    let (mut client, stream) = tls_pair(&TLS13).await;
    client.conn.writer().write_all(b"whole").unwrap();
    let mut record = Vec::new();
    client.conn.write_tls(&mut record).unwrap();
    let mut buffer = [0; 64];
    for byte in &record[..record.len() - 1] {
        client.sock.write_all(&[*byte]).unwrap();
        stream.readable().await.unwrap();
        let error = stream.try_read(&mut buffer).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::WouldBlock);
    }
    client.sock.write_all(&record[record.len() - 1..]).unwrap();
    stream.readable().await.unwrap();
    assert_eq!(stream.try_read(&mut buffer).unwrap(), 5);
    assert_eq!(&buffer[..5], b"whole");
}

#[tokio::test]
async fn what_a_small_buffer_leaves_is_readable_without_the_socket() {
    let (mut client, stream) = tls_pair(&TLS13).await;
    client.write_all(b"abc").unwrap();
    let mut buffer = [0; 1];
    for expected in b"abc" {
        stream.readable().await.unwrap();
        assert_eq!(stream.try_read(&mut buffer).unwrap(), 1);
        assert_eq!(buffer, [*expected]);
    }
    let error = stream.try_read(&mut buffer).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::WouldBlock);
}

#[tokio::test]
async fn a_damaged_record_is_an_error_for_ever() {
    let (mut client, stream) = tls_pair(&TLS13).await;
    client
        .sock
        .write_all(&[&[23, 3, 3, 0, 20][..], &[0; 20]].concat())
        .unwrap();
    for _ in 0..2 {
        stream.readable().await.unwrap();
        let error = stream.try_read(&mut [0; 8]).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidData, "{error}");
    }
    let error = client.read(&mut [0; 8]).unwrap_err();
    assert!(error.to_string().contains("BadRecordMac"), "{error}");
}

#[tokio::test]
async fn what_the_kernel_refused_is_kept_and_flushed_before_more_is_accepted() {
    let (mut client, stream) = tls_pair(&TLS13).await;
    stream.writable().await.unwrap();
    let chunk = vec![b'x'; 1 << 20];
    let mut sent = 0;
    while stream.is_flushed() {
        sent += stream.try_write(&chunk).unwrap();
    }
    for _ in 0..2 {
        let error = stream.try_write(&chunk).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::WouldBlock);
    }
    // The close alert stands behind what is kept, and the socket stays open until that is gone.
    stream.shutdown_write().unwrap();
    assert!(!stream.is_flushed());
    let reader = std::thread::spawn(move || {
        let mut read = Vec::new();
        client.read_to_end(&mut read).unwrap();
        read.len()
    });
    while !stream.is_flushed() {
        stream.writable().await.unwrap();
        match stream.try_flush() {
            Err(error) if error.kind() == ErrorKind::WouldBlock => {}
            result => result.unwrap(),
        }
    }
    assert_eq!(reader.join().unwrap(), sent);
}

#[tokio::test]
async fn whoever_waits_for_reading_flushes() {
    let (mut client, stream) = tls_pair(&TLS13).await;
    stream.writable().await.unwrap();
    let chunk = vec![b'x'; 1 << 20];
    let mut sent = 0;
    while stream.is_flushed() {
        sent += stream.try_write(&chunk).unwrap();
    }
    let reader = std::thread::spawn(move || {
        let mut read = vec![0; sent];
        client.read_exact(&mut read).unwrap();
        client.write_all(b"got it").unwrap();
        client
    });
    loop {
        stream.readable().await.unwrap();
        match stream.try_read(&mut [0; 64]) {
            Ok(count) => break assert_eq!(count, 6),
            Err(error) => assert_eq!(error.kind(), ErrorKind::WouldBlock),
        }
    }
    reader.join().unwrap();
}

#[tokio::test]
async fn libraries_read_and_write_it_as_any_other_stream() {
    let authority = Authority::new();
    let listener = listen(&TlsAcceptor::load(authority.localhost()).unwrap());
    let connector = tokio_rustls::TlsConnector::from(Arc::new(authority.client(&BOTH, None)));
    let port = port(&listener);
    let message = vec![b'x'; 3_000_000];
    let sent = message.len();
    let client = async {
        let socket = tokio::net::TcpStream::connect(("127.0.0.1", port))
            .await
            .unwrap();
        let name = ServerName::try_from("localhost").unwrap();
        let mut client = connector.connect(name, socket).await.unwrap();
        client.write_all(&message).await.unwrap();
        client.flush().await.unwrap();
        let mut echoed = Vec::new();
        client.read_to_end(&mut echoed).await.unwrap();
        echoed.len()
    };
    let server = async {
        let mut stream = open(&listener).await.unwrap().stream;
        let mut read = vec![0; sent];
        stream.read_exact(&mut read).await.unwrap();
        stream.write_all(&read).await.unwrap();
        stream.shutdown().await.unwrap();
    };
    assert_eq!(tokio::join!(client, server).0, sent);
}

#[tokio::test]
async fn t10_a_client_hello_may_come_byte_by_byte() {
    let authority = Authority::new();
    let listener = listen(&TlsAcceptor::load(authority.localhost()).unwrap());
    let (mut connection, hello) = authority.hello();
    let port = port(&listener);
    let client = std::thread::spawn(move || {
        let mut socket = TcpStream::connect(("127.0.0.1", port)).unwrap();
        socket.set_nodelay(true).unwrap();
        // One byte per record: a header in front of each.
        for byte in &hello[5..] {
            socket.write_all(&[22, 3, 1, 0, 1, *byte]).unwrap();
        }
        while connection.is_handshaking() {
            if connection.complete_io(&mut socket).is_err() {
                break;
            }
        }
        !connection.is_handshaking()
    });
    // rustls takes it or not; either way it ends.
    let opened = open(&listener).await;
    assert_eq!(client.join().unwrap(), opened.is_ok());

    let (mut connection, hello) = authority.hello();
    let client = std::thread::spawn(move || {
        let mut socket = TcpStream::connect(("127.0.0.1", port)).unwrap();
        socket.set_nodelay(true).unwrap();
        for byte in hello {
            socket.write_all(&[byte]).unwrap();
        }
        while connection.is_handshaking() {
            connection.complete_io(&mut socket).unwrap();
        }
    });
    open(&listener).await.unwrap();
    client.join().unwrap();
}

#[tokio::test]
async fn t10_plain_http_ends_with_an_alert() {
    let authority = Authority::new();
    let listener = listen(&TlsAcceptor::load(authority.localhost()).unwrap());
    let mut client = TcpStream::connect(("127.0.0.1", port(&listener))).unwrap();
    client
        .write_all(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
        .unwrap();
    let error = open(&listener).await.unwrap_err();
    assert!(matches!(error, OpenError::Tls(_)), "{error}");
    let mut answer = Vec::new();
    client.read_to_end(&mut answer).unwrap();
    // RFC 8446 §5.1 and §6: an alert of two bytes, and it is fatal.
    assert_eq!(answer[0], 21);
    assert_eq!(&answer[3..6], [0, 2, 2]);
}

#[tokio::test]
async fn t10_the_end_in_mid_handshake_is_an_end() {
    let authority = Authority::new();
    let listener = listen(&TlsAcceptor::load(authority.localhost()).unwrap());
    let hello = || authority.hello().1;
    let close_notify = [21, 3, 3, 0, 2, 1, 0].to_vec();
    let starts = [
        vec![],
        close_notify.clone(),
        hello()[..50].to_vec(),
        hello(),
        [hello(), close_notify].concat(),
    ];
    for (case, start) in starts.into_iter().enumerate() {
        let mut client = TcpStream::connect(("127.0.0.1", port(&listener))).unwrap();
        client.write_all(&start).unwrap();
        client.shutdown(std::net::Shutdown::Write).unwrap();
        let opened = tokio::time::timeout(Duration::from_secs(10), open(&listener)).await;
        opened
            .unwrap_or_else(|_| panic!("case {case} ends"))
            .unwrap_err();
    }
}

#[tokio::test(start_paused = true)]
async fn t10_a_close_alert_in_mid_handshake_leaves_the_thread_idle() {
    let authority = Authority::new();
    let listener = listen(&TlsAcceptor::load(authority.localhost()).unwrap());
    let mut client = TcpStream::connect(("127.0.0.1", port(&listener))).unwrap();
    // Anybody on the way could have sent it, so rustls does not take it for the end.
    client.write_all(&[21, 3, 3, 0, 2, 1, 0]).unwrap();
    let accepted = listener.accept().await.unwrap();
    // Paused time passes only while nothing is to be done.
    let opened = tokio::time::timeout(Duration::from_secs(10), accepted.open());
    opened.await.expect_err("the handshake goes on");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// Whatever a peer sends, the handshake ends with it, and without a panic.
    #[test]
    fn prop_t10_no_bytes_break_a_handshake(
        is_hello in any::<bool>(),
        flipped in any::<prop::sample::Index>(),
        bits in any::<u8>(),
        tail in prop::collection::vec(prop_oneof![any::<u8>(), 20u8..24, 0u8..4], 0..200),
        cuts in prop::collection::vec(1usize..400, 1..4),
    ) {
        let authority = Authority::new();
        let mut bytes = Vec::new();
        if is_hello {
            bytes = authority.hello().1;
            let index = flipped.index(bytes.len());
            bytes[index] ^= bits;
        }
        bytes.extend(tail);
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let listener = listen(&TlsAcceptor::load(authority.localhost()).unwrap());
            let mut client = TcpStream::connect(("127.0.0.1", port(&listener))).unwrap();
            client.set_nodelay(true).unwrap();
            let writer = std::thread::spawn(move || {
                let mut rest = &bytes[..];
                for cut in cuts.iter().cycle() {
                    let (piece, tail) = rest.split_at((*cut).min(rest.len()));
                    rest = tail;
                    // The server may have had enough.
                    if client.write_all(piece).is_err() || rest.is_empty() {
                        break;
                    }
                }
                let _ = client.shutdown(std::net::Shutdown::Write);
                let _ = client.read_to_end(&mut Vec::new());
            });
            let opened = tokio::time::timeout(Duration::from_secs(20), open(&listener)).await;
            prop_assert!(opened.is_ok_and(|opened| opened.is_err()));
            writer.join().unwrap();
            Ok(())
        })?;
    }

    /// Nor does it break a connection, but for its end.
    #[test]
    fn prop_t10_no_bytes_break_a_connection(
        version in prop::sample::select(BOTH.to_vec()),
        tail in prop::collection::vec(prop_oneof![any::<u8>(), 20u8..24, 0u8..4], 1..200),
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let (mut client, stream) = tls_pair(version).await;
            client.write_all(b"before").unwrap();
            client.sock.write_all(&tail).unwrap();
            client.sock.shutdown(std::net::Shutdown::Write).unwrap();
            let mut read = Vec::new();
            let mut buffer = [0; 64];
            loop {
                stream.readable().await.unwrap();
                match stream.try_read(&mut buffer) {
                    Ok(0) => break,
                    Ok(count) => read.extend_from_slice(&buffer[..count]),
                    Err(error) if error.kind() == ErrorKind::WouldBlock => {}
                    Err(_) => break,
                }
            }
            prop_assert_eq!(read, b"before");
            // Neither does writing after that.
            let _ = stream.try_write(b"after");
            let _ = stream.shutdown_write();
            Ok(())
        })?;
    }
}

#[tokio::test]
async fn alpn_refuses_those_who_ask_for_others_only() {
    let authority = Authority::new();
    let config = authority.localhost().with_alpn([b"http/1.1"]);
    let listener = listen(&TlsAcceptor::load(config).unwrap());
    for (offer, agreed) in [
        (vec![&b"h2"[..], b"http/1.1"], Some(Some(&b"http/1.1"[..]))),
        (vec![], Some(None)),
        (vec![b"h2"], None),
    ] {
        let mut client_config = authority.client(&BOTH, None);
        client_config.alpn_protocols = offer.iter().map(|name| name.to_vec()).collect();
        let client = connect(&listener, &Arc::new(client_config), "localhost");
        let opened = open(&listener).await;
        let client = client.join().unwrap();
        assert_eq!(opened.is_ok(), agreed.is_some());
        assert_eq!(
            client
                .as_ref()
                .ok()
                .map(|client| client.conn.alpn_protocol()),
            agreed
        );
    }
}

#[tokio::test]
async fn tickets_resume_a_session() {
    for version in BOTH {
        let authority = Authority::new();
        let acceptor = TlsAcceptor::load(authority.localhost()).unwrap();
        let listener = listen(&acceptor);
        let config = Arc::new(authority.client(&[version], None));
        let visit = async || {
            let client = connect(&listener, &config, "localhost");
            let opened = open(&listener).await.unwrap();
            let server_name = opened.tls.unwrap().server_name;
            assert_eq!(server_name.as_deref(), Some("localhost"));
            let stream = opened.stream;
            let mut client = client.join().unwrap().unwrap();
            // Behind the ticket.
            stream.writable().await.unwrap();
            stream.try_write(b"!").unwrap();
            client.read_exact(&mut [0]).unwrap();
            client.conn.handshake_kind()
        };
        assert_eq!(visit().await, Some(HandshakeKind::Full));
        assert_eq!(visit().await, Some(HandshakeKind::Resumed));
        acceptor.reload().unwrap();
        assert_eq!(visit().await, Some(HandshakeKind::Full));
    }
}

fn has(program: &str) -> bool {
    let found = Command::new(program).arg("--version").output();
    found.is_ok_and(|output| output.status.success())
}

#[tokio::test]
async fn openssl_connects() {
    if Command::new("openssl").arg("version").output().is_err() {
        return;
    }
    let authority = Authority::new();
    let listener = listen(&TlsAcceptor::load(authority.localhost()).unwrap());
    for version in ["-tls1_2", "-tls1_3"] {
        let mut client = Command::new("openssl")
            .args(["s_client", "-quiet", "-verify_return_error", version])
            .args(["-servername", "localhost", "-CAfile"])
            .arg(authority.path("ca.pem"))
            .args(["-connect", &format!("127.0.0.1:{}", port(&listener))])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let stream = open(&listener).await.unwrap().stream;
        client.stdin.as_mut().unwrap().write_all(b"hello").unwrap();
        let mut buffer = [0; 64];
        let count = loop {
            stream.readable().await.unwrap();
            match stream.try_read(&mut buffer) {
                Err(error) if error.kind() == ErrorKind::WouldBlock => {}
                result => break result.unwrap(),
            }
        };
        assert_eq!(&buffer[..count], b"hello");
        stream.try_write(b"bye").unwrap();
        stream.shutdown_write().unwrap();
        let output = tokio::task::spawn_blocking(move || client.wait_with_output());
        assert_eq!(output.await.unwrap().unwrap().stdout, b"bye");
    }
}

#[tokio::test]
async fn t10_renegotiation_is_refused() {
    if Command::new("openssl").arg("version").output().is_err() {
        return;
    }
    let authority = Authority::new();
    let listener = listen(&TlsAcceptor::load(authority.localhost()).unwrap());
    let mut client = Command::new("openssl")
        .args(["s_client", "-tls1_2", "-CAfile"])
        .arg(authority.path("ca.pem"))
        .args(["-connect", &format!("127.0.0.1:{}", port(&listener))])
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let stream = open(&listener).await.unwrap().stream;
    client.stdin.as_mut().unwrap().write_all(b"R\n").unwrap();
    let end = tokio::time::timeout(Duration::from_secs(10), async {
        loop {
            stream.readable().await.unwrap();
            match stream.try_read(&mut [0; 64]) {
                Err(error) if error.kind() == ErrorKind::WouldBlock => {}
                result => break result,
            }
        }
    });
    let end = end.await.expect("the connection ends");
    assert!(matches!(end, Ok(0) | Err(_)), "{end:?}");
    drop(client.stdin.take());
    client.wait().unwrap();
}

#[tokio::test]
async fn curl_connects() {
    if !has("curl") {
        return;
    }
    let authority = Authority::new();
    let config = authority.localhost().with_alpn([b"http/1.1"]);
    let listener = listen(&TlsAcceptor::load(config).unwrap());
    let port = port(&listener);
    let client = Command::new("curl")
        .args(["--silent", "--noproxy", "*", "--cacert"])
        .arg(authority.path("ca.pem"))
        .args(["--resolve", &format!("localhost:{port}:127.0.0.1")])
        .arg(format!("https://localhost:{port}/"))
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let stream = open(&listener).await.unwrap().stream;
    stream.readable().await.unwrap();
    let mut head = [0; 4096];
    let count = loop {
        match stream.try_read(&mut head) {
            Err(error) if error.kind() == ErrorKind::WouldBlock => {
                stream.readable().await.unwrap();
            }
            result => break result.unwrap(),
        }
    };
    assert!(head[..count].starts_with(b"GET / HTTP/1.1\r\n"));
    stream
        .try_write(b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\nhello")
        .unwrap();
    stream.shutdown_write().unwrap();
    let output = tokio::task::spawn_blocking(move || client.wait_with_output());
    assert_eq!(output.await.unwrap().unwrap().stdout, b"hello");
}

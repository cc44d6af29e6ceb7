//! Peers that do one thing wrong, by a script.

use std::io::{Read as _, Write as _};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use rcgen::CertificateParams;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::{ServerConfig, ServerConnection};
use tempfile::TempDir;
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;

use super::{Found, run};
use crate::secure::{Authority, Issued};
use crate::support::{PATIENCE, Setup};

/// A peer that does the same with everybody.
struct Peer {
    addr: SocketAddr,
    is_over: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Peer {
    fn new(mut script: impl FnMut(TcpStream) + Send + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let addr = listener.local_addr().unwrap();
        let is_over = Arc::new(AtomicBool::new(false));
        let flag = Arc::clone(&is_over);
        let thread = std::thread::spawn(move || {
            for stream in listener.incoming().map_while(Result::ok) {
                if flag.load(Ordering::SeqCst) {
                    return;
                }
                stream.set_read_timeout(Some(PATIENCE)).unwrap();
                script(stream);
            }
        });
        Self {
            addr,
            is_over,
            thread: Some(thread),
        }
    }

    /// Answers each request with the same bytes.
    fn answering(answer: &'static str) -> Self {
        Self::upgrading(move |_, stream| {
            let _ = stream.write_all(answer.as_bytes());
        })
    }

    /// Hands on the value that the key of a request is answered with.
    fn upgrading(mut script: impl FnMut(&str, &mut TcpStream) + Send + 'static) -> Self {
        Self::new(move |mut stream| {
            let mut head = Vec::new();
            let mut byte = [0];
            while !head.ends_with(b"\r\n\r\n") {
                match stream.read(&mut byte) {
                    Ok(1) => head.push(byte[0]),
                    // Whoever only looked whether somebody accepts.
                    _ => return,
                }
            }
            let head = String::from_utf8(head).unwrap();
            let key = head
                .lines()
                .find_map(|line| line.strip_prefix("Sec-WebSocket-Key: "));
            script(&derive_accept_key(key.unwrap().as_bytes()), &mut stream);
        })
    }

    fn examine(&self) -> Found {
        self.examine_with(&[])
    }

    fn examine_with(&self, args: &[&str]) -> Found {
        let dir = TempDir::new().unwrap();
        let url = format!("ws://{}/chat", self.addr);
        let args = [&[url.as_str(), "--listen", "127.0.0.1:1"], args].concat();
        run(dir.path(), &args)
    }
}

impl Drop for Peer {
    fn drop(&mut self) {
        self.is_over.store(true, Ordering::SeqCst);
        let _ = TcpStream::connect(self.addr);
        let thread = self.thread.take().unwrap();
        let ended = thread.join();
        assert!(ended.is_ok() || std::thread::panicking());
    }
}

fn upgrade(stream: &mut TcpStream, accept: &str) {
    let head = format!(
        "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
         Sec-WebSocket-Accept: {accept}\r\n\r\n"
    );
    let _ = stream.write_all(head.as_bytes());
}

/// Reads until the other side ends.
fn swallow(stream: &mut TcpStream) {
    let mut buffer = [0; 1024];
    while stream.read(&mut buffer).is_ok_and(|len| len > 0) {}
}

#[test]
fn a_redirection_is_no_upgrade() {
    let peer = Peer::answering(
        "HTTP/1.1 301 Moved Permanently\r\nLocation: https://chat.example/\r\n\
         Content-Length: 0\r\n\r\n",
    );
    let found = peer.examine();
    found.check("upgrade", "fault", "redirects to https://chat.example/");
    found.check("upgrade", "fault", "Connect to wss://");
    // The server may be elsewhere.
    found.check("listener", "not_checked", "nothing answers");
    assert_eq!(found.code, Some(1));
}

#[test]
fn what_is_not_of_the_server_is_told_from_what_is() {
    for (answer, part) in [
        ("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi", "a page"),
        (
            "HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n",
            "does not know this path",
        ),
        (
            "HTTP/1.1 403 Forbidden\r\nContent-Length: 0\r\n\r\n",
            "firewall",
        ),
        (
            "HTTP/1.1 504 Gateway Timeout\r\nContent-Length: 0\r\n\r\n",
            "nor does anything listen",
        ),
        ("SSH-2.0-OpenSSH_9.2\r\n", "does not speak HTTP"),
        ("\u{15}\u{3}\u{3}\0\u{2}\u{2}\n", "wss://"),
        ("", "closed without an answer"),
    ] {
        let found = Peer::answering(answer).examine();
        found.check("upgrade", "fault", part);
        assert_eq!(found.code, Some(1), "{answer}");
    }
}

#[test]
fn a_wrong_accept_value_is_noticed() {
    let peer = Peer::upgrading(|_, stream| upgrade(stream, "AAAAAAAAAAAAAAAAAAAAAAAAAAA="));
    peer.examine().check("upgrade", "fault", "cache");
}

#[test]
fn frames_that_are_swallowed_are_noticed() {
    let peer = Peer::upgrading(|accept, stream| {
        upgrade(stream, accept);
        swallow(stream);
    });
    let found = peer.examine();
    assert_eq!(found.about("upgrade")["verdict"], "ok");
    found.check("frames", "fault", "buffers");
    found.check("frames", "fault", "nothing comes for 5.0 s");
}

#[test]
fn a_cut_behind_the_handshake_is_noticed() {
    let peer = Peer::upgrading(|accept, stream| {
        upgrade(stream, accept);
        let mut byte = [0];
        let _ = stream.read(&mut byte);
        let _ = stream.shutdown(Shutdown::Both);
    });
    peer.examine()
        .check("frames", "fault", "cut without a close frame");
}

#[test]
fn a_cut_in_silence_is_timed() {
    let peer = Peer::upgrading(|accept, stream| {
        upgrade(stream, accept);
        // A masked ping of nine bytes, and its pong.
        let mut frame = [0; 15];
        if stream.read_exact(&mut frame).is_err() {
            return;
        }
        let mask = [frame[2], frame[3], frame[4], frame[5]];
        let mut pong = vec![0x8a, 9];
        let payload = frame[6..].iter().zip(mask.iter().cycle());
        pong.extend(payload.map(|(byte, mask)| byte ^ mask));
        stream.write_all(&pong).unwrap();
        // What a proxy does after its time.
        stream
            .set_read_timeout(Some(Duration::from_millis(300)))
            .unwrap();
        let _ = stream.read(&mut frame);
    });
    let found = peer.examine_with(&["--silence", "20s"]);
    found.check("frames", "ok", "pong");
    found.check("silence", "fault", "0.3 s after the last byte");
    assert_eq!(found.code, Some(1));
}

#[test]
fn nobody_at_the_address_is_unreachable() {
    let dir = TempDir::new().unwrap();
    let found = run(
        dir.path(),
        &["ws://127.0.0.1:1/", "--listen", "127.0.0.1:1"],
    );
    assert_eq!(found.code, Some(69));
    found.check("tcp", "fault", "nobody accepts");
    let found = run(
        dir.path(),
        &["ws://nowhere.invalid/", "--listen", "127.0.0.1:1"],
    );
    assert_eq!(found.code, Some(69));
    found.check("dns", "fault", "nowhere.invalid has no address");
}

/// Examines a server with TLS that shows this certificate.
fn examine_tls(authority: &Authority, issued: &Issued, host: &str, args: &[&str]) -> Found {
    let server = Setup::new().listen("wss://127.0.0.1:0").arg("--echo");
    let text = "[server.tls]\ncert = 'cert.pem'\nkey = 'key.pem'\n";
    std::fs::write(server.dir().join("ws.toml"), text).unwrap();
    issued.write(server.dir(), "");
    std::fs::write(server.dir().join("ca.pem"), authority.pem()).unwrap();
    let server = server.start();
    let url = format!("wss://{host}:{}/", server.addr.port());
    let listen = format!("wss://{}", server.addr);
    let args = [&[url.as_str(), "--echo", "--listen", &listen], args].concat();
    let found = run(server.dir(), &args);
    server.finish();
    found
}

#[test]
fn certificates_are_judged_and_the_rest_of_the_way_is_tried_all_the_same() {
    let authority = Authority::new();
    let ca = ["--ca", "ca.pem"];
    let good = authority.issue("localhost");
    let found = examine_tls(&authority, &good, "localhost", &ca);
    found.check("tls", "ok", "localhost is good for");
    found.check("upgrade", "ok", "101");
    found.check("scheme", "ok", "uses TLS");
    assert_eq!(found.code, Some(0), "{:#}", found.report);

    let found = examine_tls(&authority, &good, "127.0.0.1", &ca);
    found.check("tls", "fault", "for localhost, not for 127.0.0.1");
    found.check("upgrade", "ok", "101");
    assert_eq!(found.code, Some(1));

    let mut params = CertificateParams::new(["localhost".to_owned()]).unwrap();
    params.not_after = rcgen::date_time_ymd(2020, 1, 1);
    let expired = authority.sign(&params);
    let found = examine_tls(&authority, &expired, "localhost", &ca);
    found.check("tls", "fault", "has expired");
    let other = Authority::new();
    let strange = other.issue("localhost");
    let found = examine_tls(&authority, &strange, "localhost", &ca);
    found.check("tls", "fault", "who issued the certificate is unknown");
}

/// A configuration of a server that shows what is in a directory.
fn server_config(dir: &Path, alpn: &str) -> ServerConfig {
    let certificate = CertificateDer::from_pem_file(dir.join("cert.pem")).unwrap();
    let key = PrivateKeyDer::from_pem_file(dir.join("key.pem")).unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let mut config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![certificate], key)
        .unwrap();
    config.alpn_protocols = vec![alpn.into()];
    config
}

#[test]
fn who_speaks_only_http_2_is_noticed() {
    let authority = Authority::new();
    let dir = TempDir::new().unwrap();
    authority.issue("localhost").write(dir.path(), "");
    std::fs::write(dir.path().join("ca.pem"), authority.pem()).unwrap();
    let config = Arc::new(server_config(dir.path(), "h2"));
    let peer = Peer::new(move |mut stream| {
        let mut session = ServerConnection::new(Arc::clone(&config)).unwrap();
        while session.is_handshaking() && session.complete_io(&mut stream).is_ok_and(|it| it.0 > 0)
        {
        }
    });
    let url = format!("wss://localhost:{}/", peer.addr.port());
    let args = [url.as_str(), "--listen", "127.0.0.1:1", "--ca", "ca.pem"];
    run(dir.path(), &args).check("tls", "fault", "only HTTP/2");
}

#[test]
fn tls_and_plain_http_are_not_mixed_up() {
    let server = Setup::new().arg("--echo").start();
    std::fs::write(server.dir().join("ca.pem"), Authority::new().pem()).unwrap();
    let url = format!("wss://{}/", server.addr);
    let found = super::examine(&server, &[&url, "--ca", "ca.pem"]);
    found.check("tls", "fault", "does not speak TLS");
    server.finish();
}

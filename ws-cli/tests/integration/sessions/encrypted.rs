//! A store that is spoken to over TLS.

use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};

use super::*;
use crate::secure::Authority;

/// A Redis server that speaks TLS only, until it is dropped.
struct Redis {
    process: Child,
    port: u16,
}

impl Redis {
    /// `None` if it is not installed, or knows no TLS.
    #[expect(clippy::print_stderr, reason = "a test that is skipped says so")]
    fn start(dir: &Path) -> Option<Self> {
        if Command::new("redis-server")
            .arg("--version")
            .output()
            .is_err()
        {
            eprintln!("skipped: no redis-server");
            return None;
        }
        let free = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = free.local_addr().unwrap().port();
        drop(free);
        let process = Command::new("redis-server")
            .args(["--port", "0", "--bind", "127.0.0.1", "--save", ""])
            .args(["--tls-port", &port.to_string(), "--tls-auth-clients", "no"])
            .args(["--tls-cert-file", "cert.pem", "--tls-key-file", "key.pem"])
            .args(["--tls-ca-cert-file", "ca.pem"])
            .current_dir(dir)
            .stdout(Stdio::null())
            .spawn()
            .unwrap();
        let mut redis = Self { process, port };
        let mut has_ended = false;
        eventually("it listens", || {
            has_ended = redis.process.try_wait().unwrap().is_some();
            has_ended || TcpStream::connect(("127.0.0.1", port)).is_ok()
        });
        if has_ended {
            eprintln!("skipped: redis-server without TLS");
            return None;
        }
        Some(redis)
    }
}

impl Drop for Redis {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

#[tokio::test]
async fn a_redis_is_spoken_to_over_tls_and_only_if_its_certificate_is_good() {
    let dir = TempDir::new().unwrap();
    let authority = Authority::new();
    authority.issue("localhost").write(dir.path(), "");
    let ca = dir.path().join("ca.pem");
    std::fs::write(&ca, authority.pem()).unwrap();
    let Some(redis) = Redis::start(dir.path()) else {
        return;
    };
    let store = |scheme: &str, host: &str| format!("{scheme}://{host}:{}/0", redis.port);
    let setup = |store: String| {
        let setup = Setup::new().set("identity.store", store);
        setup.env("SSL_CERT_FILE", ca.to_str().unwrap()).app(WHO)
    };
    let server = setup(store("rediss", "localhost")).start();
    let (mut client, cookie) = server.connect_for_cookie().await;
    let session = ask(&mut client, "who?").await;
    bye(client).await;
    server.finish();
    let server = setup(store("rediss", "localhost")).start();
    assert_eq!(session_of(&server, &cookie).await, session);
    server.finish();

    // Another name than the certificate is for, nobody who vouches for it, and no TLS at all.
    let trusting = setup(store("rediss", "127.0.0.1"));
    let distrusting = Setup::new()
        .set("identity.store", store("rediss", "localhost"))
        .app(WHO);
    for setup in [trusting, distrusting, setup(store("redis", "localhost"))] {
        let output = setup.fail();
        let told = String::from_utf8_lossy(&output.stderr);
        assert_ne!(output.status.code(), Some(0), "{told}");
        assert!(told.contains("identity.store"), "{told}");
    }
}

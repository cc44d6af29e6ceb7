//! What an idle TLS connection costs in heap memory, counted by the allocator.
//!
//! A binary of its own without a test harness: the counters are the process's, and the harness
//! has a thread that allocates too.

#![expect(clippy::unwrap_used, reason = "the helpers panic as the tests do")]

use std::alloc::System;
use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::sync::Arc;

use rustls::pki_types::{PrivateKeyDer, ServerName};
use rustls::version::{TLS12, TLS13};
use rustls::{
    ClientConfig, ClientConnection, RootCertStore, ServerConfig, StreamOwned,
    SupportedProtocolVersion,
};
use stats_alloc::{INSTRUMENTED_SYSTEM, Region, StatsAlloc};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio_rustls::server::TlsStream;
use ws_transport::{BindOptions, Listener, Stream, TlsAcceptor, TlsConfig};

#[global_allocator]
static ALLOCATOR: &StatsAlloc<System> = &INSTRUMENTED_SYSTEM;

/// Enough for what is shared by all to vanish.
const COUNT: usize = 64;

type Client = StreamOwned<ClientConnection, TcpStream>;

/// A certificate, and a client that trusts it.
struct Party {
    dir: tempfile::TempDir,
    certificate: rcgen::Certificate,
    key: rcgen::KeyPair,
}

fn main() {
    let party = Party::new();
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_io()
        .build()
        .unwrap();
    let mut report = String::new();
    for version in [&TLS13, &TLS12] {
        let ours = runtime.block_on(open(&party, version));
        let ours = freed_by_dropping(ours);
        let usual = runtime.block_on(open_usual(&party, version));
        let usual = freed_by_dropping(usual);
        report += &format!(
            "{:?}: {ours} bytes, with tokio-rustls {usual}\n",
            version.version
        );
        assert!(ours * 2 <= usual, "{report}");
    }
    // On stdout those who run the tests look for their names.
    std::io::stderr().write_all(report.as_bytes()).unwrap();
}

/// Heap bytes that each of the idle connections holds, its own size included.
fn freed_by_dropping<S>((streams, clients): (Vec<S>, Vec<Client>)) -> usize {
    let region = Region::new(ALLOCATOR);
    drop(streams);
    let change = region.change();
    drop(clients);
    (change.bytes_deallocated - change.bytes_allocated) / COUNT
}

/// Connections of this crate over which a message has been echoed.
async fn open(
    party: &Party,
    version: &'static SupportedProtocolVersion,
) -> (Vec<Stream>, Vec<Client>) {
    let path = |name: &str| party.dir.path().join(name);
    let acceptor = TlsAcceptor::load(TlsConfig::new(path("pem"), path("key"))).unwrap();
    let options = BindOptions {
        tls: Some(acceptor),
        ..BindOptions::default()
    };
    let listener = Listener::bind(&"wss://127.0.0.1:0".parse().unwrap(), &options).unwrap();
    let port = listener.local_addr().port().unwrap();
    let (mut streams, mut clients) = (Vec::with_capacity(COUNT), Vec::new());
    for _ in 0..COUNT {
        let client = party.connect(port, version);
        let stream = listener
            .accept()
            .await
            .unwrap()
            .open()
            .await
            .unwrap()
            .stream;
        let mut message = [0; MESSAGE.len()];
        let mut filled = 0;
        while filled < message.len() {
            stream.readable().await.unwrap();
            filled += stream.try_read(&mut message[filled..]).unwrap_or(0);
        }
        assert_eq!(stream.try_write(&message).unwrap(), message.len());
        streams.push(stream);
        clients.push(client.join().unwrap());
    }
    (streams, clients)
}

/// The same as tokio-rustls' example of a server has them.
async fn open_usual(
    party: &Party,
    version: &'static SupportedProtocolVersion,
) -> (Vec<TlsStream<tokio::net::TcpStream>>, Vec<Client>) {
    let key = PrivateKeyDer::try_from(party.key.serialize_der()).unwrap();
    let config = ServerConfig::builder_with_provider(provider())
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![party.certificate.der().clone()], key)
        .unwrap();
    let acceptor = tokio_rustls::TlsAcceptor::from(Arc::new(config));
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let (mut streams, mut clients) = (Vec::with_capacity(COUNT), Vec::new());
    for _ in 0..COUNT {
        let client = party.connect(port, version);
        let (socket, _) = listener.accept().await.unwrap();
        let mut stream = acceptor.accept(socket).await.unwrap();
        let mut message = [0; MESSAGE.len()];
        stream.read_exact(&mut message).await.unwrap();
        stream.write_all(&message).await.unwrap();
        stream.flush().await.unwrap();
        streams.push(stream);
        clients.push(client.join().unwrap());
    }
    (streams, clients)
}

const MESSAGE: [u8; 1024] = [b'x'; 1024];

impl Party {
    fn new() -> Self {
        let made = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("pem"), made.cert.pem()).unwrap();
        std::fs::write(dir.path().join("key"), made.signing_key.serialize_pem()).unwrap();
        Self {
            dir,
            certificate: made.cert,
            key: made.signing_key,
        }
    }

    /// Connects and has a message echoed, in a thread of its own.
    fn connect(
        &self,
        port: u16,
        version: &'static SupportedProtocolVersion,
    ) -> std::thread::JoinHandle<Client> {
        let mut roots = RootCertStore::empty();
        roots.add(self.certificate.der().clone()).unwrap();
        let config = ClientConfig::builder_with_provider(provider())
            .with_protocol_versions(&[version])
            .unwrap()
            .with_root_certificates(roots)
            .with_no_client_auth();
        let name = ServerName::try_from("localhost").unwrap();
        let connection = ClientConnection::new(Arc::new(config), name).unwrap();
        std::thread::spawn(move || {
            let socket = TcpStream::connect(("127.0.0.1", port)).unwrap();
            let mut client = StreamOwned::new(connection, socket);
            client.write_all(&MESSAGE).unwrap();
            client.read_exact(&mut [0; MESSAGE.len()]).unwrap();
            client
        })
    }
}

fn provider() -> Arc<rustls::crypto::CryptoProvider> {
    Arc::new(rustls::crypto::ring::default_provider())
}

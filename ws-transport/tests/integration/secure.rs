//! Clients that speak TLS, and the certificates for both ends.

#![expect(clippy::unwrap_used, reason = "the helpers panic as the tests do")]

use std::fs;
use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::path::PathBuf;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::version::{TLS12, TLS13};
use rustls::{
    ClientConfig, ClientConnection, RootCertStore, StreamOwned, SupportedProtocolVersion,
};
use tempfile::TempDir;
use ws_transport::{BindOptions, Listener, OpenError, Opened, Stream, TlsAcceptor, TlsConfig};

use crate::{bind_with, port};

pub(crate) type Client = StreamOwned<ClientConnection, TcpStream>;

/// An issuer, and a directory with what it has issued.
pub(crate) struct Authority {
    issuer: CertifiedIssuer<'static, KeyPair>,
    dir: TempDir,
}

impl Authority {
    pub(crate) fn new() -> Self {
        let mut params = CertificateParams::new([]).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params
            .distinguished_name
            .push(DnType::CommonName, "authority");
        let key = KeyPair::generate().unwrap();
        let authority = Self {
            issuer: CertifiedIssuer::self_signed(params, key).unwrap(),
            dir: tempfile::tempdir().unwrap(),
        };
        fs::write(authority.path("ca.pem"), authority.issuer.pem()).unwrap();
        authority
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// Issues a certificate for a server and writes it to `FILE.pem` and `FILE.key`.
    pub(crate) fn issue(
        &self,
        file: &str,
        params: CertificateParams,
    ) -> (CertificateDer<'static>, KeyPair) {
        let key = KeyPair::generate().unwrap();
        let certificate = params.signed_by(&key, &self.issuer).unwrap();
        fs::write(self.path(&format!("{file}.pem")), certificate.pem()).unwrap();
        fs::write(self.path(&format!("{file}.key")), key.serialize_pem()).unwrap();
        (certificate.der().clone(), key)
    }

    pub(crate) fn issue_for(&self, file: &str, name: &str) -> CertificateDer<'static> {
        let params = CertificateParams::new([name.to_owned()]).unwrap();
        self.issue(file, params).0
    }

    pub(crate) fn config(&self, file: &str) -> TlsConfig {
        let path = |end| self.path(&format!("{file}.{end}"));
        TlsConfig::new(path("pem"), path("key"))
    }

    /// A server's configuration for `localhost`.
    pub(crate) fn localhost(&self) -> TlsConfig {
        self.issue_for("localhost", "localhost");
        self.config("localhost")
    }

    /// A client that trusts this issuer.
    pub(crate) fn client(
        &self,
        versions: &[&'static SupportedProtocolVersion],
        identity: Option<(CertificateDer<'static>, &KeyPair)>,
    ) -> ClientConfig {
        let mut roots = RootCertStore::empty();
        roots.add(self.issuer.der().clone()).unwrap();
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let builder = ClientConfig::builder_with_provider(provider)
            .with_protocol_versions(versions)
            .unwrap()
            .with_root_certificates(roots);
        match identity {
            Some((certificate, key)) => {
                let key = PrivateKeyDer::try_from(key.serialize_der()).unwrap();
                builder
                    .with_client_auth_cert(vec![certificate], key)
                    .unwrap()
            }
            None => builder.with_no_client_auth(),
        }
    }

    /// A client that has not sent anything, and what it would send first.
    pub(crate) fn hello(&self) -> (ClientConnection, Vec<u8>) {
        let name = ServerName::try_from("localhost").unwrap();
        let config = Arc::new(self.client(&BOTH, None));
        let mut connection = ClientConnection::new(config, name).unwrap();
        let mut hello = Vec::new();
        connection.write_tls(&mut hello).unwrap();
        (connection, hello)
    }
}

pub(crate) const BOTH: [&SupportedProtocolVersion; 2] = [&TLS13, &TLS12];

pub(crate) fn listen(acceptor: &TlsAcceptor) -> Listener {
    let options = BindOptions {
        tls: Some(acceptor.clone()),
        ..BindOptions::default()
    };
    bind_with("wss://127.0.0.1:0", &options).unwrap()
}

/// Connects as `name` and carries the handshake out, in a thread of its own.
pub(crate) fn connect(
    listener: &Listener,
    config: &Arc<ClientConfig>,
    name: &'static str,
) -> JoinHandle<std::io::Result<Client>> {
    let port = port(listener);
    let config = Arc::clone(config);
    std::thread::spawn(move || {
        let name = ServerName::try_from(name).unwrap();
        let connection = ClientConnection::new(config, name).unwrap();
        let socket = TcpStream::connect(("127.0.0.1", port))?;
        socket.set_read_timeout(Some(Duration::from_secs(20)))?;
        let mut client = StreamOwned::new(connection, socket);
        client.flush()?;
        while client.conn.is_handshaking() {
            client.conn.complete_io(&mut client.sock)?;
        }
        Ok(client)
    })
}

pub(crate) async fn open(listener: &Listener) -> Result<Opened, OpenError> {
    listener.accept().await.unwrap().open().await
}

/// A client and a stream, with the handshake behind them.
pub(crate) async fn tls_pair(version: &'static SupportedProtocolVersion) -> (Client, Stream) {
    let authority = Authority::new();
    let acceptor = TlsAcceptor::load(authority.localhost()).unwrap();
    let listener = listen(&acceptor);
    let config = Arc::new(authority.client(&[version], None));
    let client = connect(&listener, &config, "localhost");
    let stream = open(&listener).await.unwrap().stream;
    let mut client = client.join().unwrap().unwrap();
    // The ticket stands before it. Unread, it would turn a close into a reset.
    stream.writable().await.unwrap();
    stream.try_write(b"!").unwrap();
    client.read_exact(&mut [0]).unwrap();
    (client, stream)
}

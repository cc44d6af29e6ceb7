//! Clients that speak TLS, and the certificates for both ends.

use std::io;
use std::path::Path;
use std::sync::Arc;

use futures_util::{SinkExt as _, StreamExt as _};
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{ClientConfig, ClientConnection, RootCertStore, SupportedProtocolVersion};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::client::IntoClientRequest as _;
use tokio_tungstenite::tungstenite::handshake::client::Response;
use tokio_tungstenite::tungstenite::http::HeaderValue;
use tokio_tungstenite::tungstenite::{Error, Message};

use crate::support::{PATIENCE, Server, Setup};

pub(crate) type Client = WebSocketStream<TlsStream<TcpStream>>;

/// One that issues certificates.
pub(crate) struct Authority(CertifiedIssuer<'static, KeyPair>);

/// A certificate and its key.
pub(crate) struct Issued {
    pub(crate) certificate: CertificateDer<'static>,
    pem: String,
    key: KeyPair,
}

impl Authority {
    pub(crate) fn new() -> Self {
        let mut params = CertificateParams::new([]).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params
            .distinguished_name
            .push(DnType::CommonName, "authority");
        let key = KeyPair::generate().unwrap();
        Self(CertifiedIssuer::self_signed(params, key).unwrap())
    }

    pub(crate) fn pem(&self) -> String {
        self.0.pem()
    }

    /// A certificate for a server of this name.
    pub(crate) fn issue(&self, name: &str) -> Issued {
        self.sign(&CertificateParams::new([name.to_owned()]).unwrap())
    }

    pub(crate) fn sign(&self, params: &CertificateParams) -> Issued {
        let key = KeyPair::generate().unwrap();
        let certificate = params.signed_by(&key, &self.0).unwrap();
        Issued {
            certificate: certificate.der().clone(),
            pem: certificate.pem(),
            key,
        }
    }

    /// A server with a certificate for `localhost`, in `cert.pem` and `key.pem` of its directory.
    pub(crate) fn server(&self) -> Setup {
        let setup = Setup::new()
            .listen("wss://127.0.0.1:0")
            .set("server.tls.cert", "cert.pem")
            .set("server.tls.key", "key.pem");
        self.issue("localhost").write(setup.dir(), "");
        setup
    }

    /// A client that trusts this issuer.
    pub(crate) fn caller(&self) -> Caller<'_> {
        Caller::trusting(self.0.der())
    }
}

impl Issued {
    /// Writes `PREFIXcert.pem` and `PREFIXkey.pem`.
    pub(crate) fn write(&self, dir: &Path, prefix: &str) {
        let path = |name| dir.join(format!("{prefix}{name}.pem"));
        std::fs::write(path("cert"), &self.pem).unwrap();
        std::fs::write(path("key"), self.key.serialize_pem()).unwrap();
    }
}

/// How to connect.
#[derive(Clone, Copy)]
pub(crate) struct Caller<'a> {
    trusted: &'a CertificateDer<'static>,
    name: &'static str,
    versions: &'a [&'static SupportedProtocolVersion],
    identity: Option<&'a Issued>,
    protocols: &'a [&'static str],
}

impl<'a> Caller<'a> {
    pub(crate) fn trusting(trusted: &'a CertificateDer<'static>) -> Self {
        Self {
            trusted,
            name: "localhost",
            versions: rustls::ALL_VERSIONS,
            identity: None,
            protocols: &[],
        }
    }

    /// Asks for another server than `localhost`.
    pub(crate) fn asking_for(self, name: &'static str) -> Self {
        Self { name, ..self }
    }

    /// Speaks these versions only.
    pub(crate) fn speaking(self, versions: &'a [&'static SupportedProtocolVersion]) -> Self {
        Self { versions, ..self }
    }

    /// Shows a certificate of its own.
    pub(crate) fn showing(self, issued: &'a Issued) -> Self {
        Self {
            identity: Some(issued),
            ..self
        }
    }

    /// Offers these protocols by ALPN.
    pub(crate) fn offering(self, protocols: &'a [&'static str]) -> Self {
        Self { protocols, ..self }
    }

    fn config(self) -> ClientConfig {
        let mut roots = RootCertStore::empty();
        roots.add(self.trusted.clone()).unwrap();
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let builder = ClientConfig::builder_with_provider(provider)
            .with_protocol_versions(self.versions)
            .unwrap()
            .with_root_certificates(roots);
        let mut config = match self.identity {
            None => builder.with_no_client_auth(),
            Some(issued) => {
                let key = PrivateKeyDer::try_from(issued.key.serialize_der()).unwrap();
                let chain = vec![issued.certificate.clone()];
                builder.with_client_auth_cert(chain, key).unwrap()
            }
        };
        config.alpn_protocols = self.protocols.iter().map(|name| (*name).into()).collect();
        config
    }

    /// Carries the TLS handshake out.
    pub(crate) async fn shake_hands(self, server: &Server) -> io::Result<TlsStream<TcpStream>> {
        let socket = TcpStream::connect(server.addr).await?;
        let name = ServerName::try_from(self.name).unwrap();
        let connector = TlsConnector::from(Arc::new(self.config()));
        let shaken = tokio::time::timeout(PATIENCE, connector.connect(name, socket));
        shaken.await.expect("the handshake ends")
    }

    /// Says hello, and then nothing more.
    pub(crate) fn half_open(self, server: &Server) -> std::net::TcpStream {
        let name = ServerName::try_from(self.name).unwrap();
        let mut connection = ClientConnection::new(Arc::new(self.config()), name).unwrap();
        let mut stream = server.raw_stream();
        while connection.wants_write() {
            connection.write_tls(&mut stream).unwrap();
        }
        stream
    }

    /// Opens a WebSocket.
    pub(crate) async fn connect(self, server: &Server) -> (Client, Response) {
        self.connect_with(server, &[]).await.unwrap()
    }

    /// Opens a WebSocket with further headers.
    pub(crate) async fn connect_with(
        self,
        server: &Server,
        headers: &[(&'static str, &'static str)],
    ) -> Result<(Client, Response), Error> {
        let stream = self.shake_hands(server).await?;
        let url = format!("wss://{}:{}/", self.name, server.addr.port());
        let mut request = url.into_client_request().unwrap();
        for (name, value) in headers {
            let value = HeaderValue::from_static(value);
            request.headers_mut().insert(*name, value);
        }
        let client = tokio_tungstenite::client_async(request, stream);
        tokio::time::timeout(PATIENCE, client)
            .await
            .expect("the handshake ends")
    }
}

/// The certificate that the server has shown.
pub(crate) fn shown(client: &Client) -> CertificateDer<'static> {
    let (_, connection) = client.get_ref().get_ref();
    connection.peer_certificates().unwrap()[0].clone()
}

/// Closes the connection and hangs up.
pub(crate) async fn leave(mut client: Client) {
    client.close(None).await.unwrap();
}

pub(crate) async fn hear(client: &mut Client) -> Message {
    let heard = tokio::time::timeout(PATIENCE, client.next()).await;
    heard.expect("an answer comes").unwrap().unwrap()
}

pub(crate) async fn say(client: &mut Client, text: &str) -> String {
    client.send(Message::text(text)).await.unwrap();
    hear(client).await.into_text().unwrap().to_string()
}

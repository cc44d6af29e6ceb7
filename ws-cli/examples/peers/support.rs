//! What the peers have in common: their command line, the listener, TLS.

use std::error::Error;
use std::net::Ipv4Addr;
use std::path::PathBuf;
use std::sync::Arc;

use rustls::ServerConfig;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio_rustls::TlsAcceptor;

pub(crate) type Result<T> = std::result::Result<T, Box<dyn Error + Send + Sync>>;

/// `PORT [CERT KEY]`.
pub(crate) struct Arguments {
    pub(crate) port: u16,
    files: Option<(PathBuf, PathBuf)>,
}

impl Arguments {
    pub(crate) fn read() -> Result<Self> {
        let mut words = std::env::args_os().skip(1);
        let port = words.next().and_then(|port| port.to_str()?.parse().ok());
        let port = port.ok_or("usage: PROGRAM PORT [CERT KEY]")?;
        let files = match (words.next(), words.next()) {
            (Some(certificate), Some(key)) => Some((certificate.into(), key.into())),
            _ => None,
        };
        Ok(Self { port, files })
    }

    /// Listens, and says where.
    pub(crate) async fn listen(&self) -> Result<tokio::net::TcpListener> {
        let socket = tokio::net::TcpSocket::new_v4()?;
        socket.set_reuseaddr(true)?;
        socket.bind((Ipv4Addr::LOCALHOST, self.port).into())?;
        let listener = socket.listen(4096)?;
        #[expect(clippy::print_stdout, reason = "the contract")]
        {
            println!("{}", listener.local_addr()?.port());
        }
        Ok(listener)
    }

    /// What makes TLS of a stream, if there is a certificate.
    pub(crate) fn tls(&self) -> Result<Option<TlsAcceptor>> {
        let Some((certificate, key)) = &self.files else {
            return Ok(None);
        };
        let chain =
            CertificateDer::pem_file_iter(certificate)?.collect::<std::result::Result<_, _>>()?;
        let key = PrivateKeyDer::from_pem_file(key)?;
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let config = ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()?
            .with_no_client_auth()
            .with_single_cert(chain, key)?;
        Ok(Some(TlsAcceptor::from(Arc::new(config))))
    }
}

/// One thread for everything.
pub(crate) fn runtime() -> Result<tokio::runtime::Runtime> {
    Ok(tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?)
}

/// What a connection does, by its path.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Role {
    Echo,
    Subscriber,
    Publisher,
}

impl Role {
    pub(crate) fn of(path: &str) -> Self {
        match path {
            "/subscribe" => Self::Subscriber,
            "/publish" => Self::Publisher,
            _ => Self::Echo,
        }
    }
}

/// Messages that a subscriber may lag behind before it loses some.
pub(crate) const TOPIC_CAPACITY: usize = 4096;
/// The largest message.
pub(crate) const MAX_MESSAGE_SIZE: usize = 64 << 20;

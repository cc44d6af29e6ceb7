//! TLS: certificates and keys from files, and sessions over sockets.

mod certificate;
mod self_signed;
mod session;
mod signature;

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};
use std::time::SystemTime;

use rustls::client::verify_server_name;
use rustls::crypto::{CryptoProvider, ring};
use rustls::pki_types::ServerName;
use rustls::server::{
    ClientHello, NoClientAuth, ParsedCertificate, ResolvesServerCert, WebPkiClientVerifier,
};
use rustls::sign::CertifiedKey;
use rustls::{InconsistentKeys, RootCertStore, ServerConfig};

pub use self_signed::SelfSigned;
pub(crate) use session::{HandshakeFailure, Session};
pub use session::{TlsClient, TlsPeer};
use signature::Signature;

/// Which certificates to show, and whom to ask for one.
///
/// # Examples
///
/// ```
/// use ws_transport::TlsConfig;
///
/// let config = TlsConfig::new("/etc/ws/cert.pem", "/etc/ws/key.pem")
///     .with_certificate("/etc/ws/other-cert.pem", "/etc/ws/other-key.pem")
///     .with_alpn([b"http/1.1"]);
/// assert_eq!(config.files().count(), 4);
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TlsConfig {
    certificates: Vec<Files>,
    client_ca: Option<(PathBuf, ClientAuth)>,
    alpn: Vec<Vec<u8>>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Files {
    certificate: PathBuf,
    key: PathBuf,
}

impl TlsConfig {
    /// Names a PEM file with a certificate, followed by those of its issuers, and one with its
    /// private key (PKCS#8, PKCS#1 or SEC1, not encrypted). Both may be the same file.
    pub fn new(certificate: impl Into<PathBuf>, key: impl Into<PathBuf>) -> Self {
        Self {
            certificates: Vec::new(),
            client_ca: None,
            alpn: Vec::new(),
        }
        .with_certificate(certificate, key)
    }

    /// Adds a certificate for other names. Of several, a client gets the first that is valid for
    /// the name it asks for, or the first of all.
    #[must_use]
    pub fn with_certificate(
        mut self,
        certificate: impl Into<PathBuf>,
        key: impl Into<PathBuf>,
    ) -> Self {
        self.certificates.push(Files {
            certificate: certificate.into(),
            key: key.into(),
        });
        self
    }

    /// Asks clients for a certificate that one of those in this PEM file has issued. One that does
    /// not verify ends the handshake.
    #[must_use]
    pub fn with_client_ca(mut self, path: impl Into<PathBuf>, auth: ClientAuth) -> Self {
        self.client_ca = Some((path.into(), auth));
        self
    }

    /// Sets the protocols offered by ALPN ([RFC 7301](https://www.rfc-editor.org/rfc/rfc7301)), the
    /// preferred one first. Whoever asks for others only is refused; who asks for none is not.
    #[must_use]
    pub fn with_alpn<P: Into<Vec<u8>>>(mut self, protocols: impl IntoIterator<Item = P>) -> Self {
        self.alpn = protocols.into_iter().map(Into::into).collect();
        self
    }

    /// Returns every file that is read.
    pub fn files(&self) -> impl Iterator<Item = &Path> {
        let pairs = self.certificates.iter();
        pairs
            .flat_map(|files| [&*files.certificate, &*files.key])
            .chain(self.client_ca.as_ref().map(|(path, _)| &**path))
    }
}

/// Whether a client that is asked for a certificate has to have one.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum ClientAuth {
    /// Without one it is served as any other.
    #[default]
    Optional,
    /// Without one the handshake ends.
    Required,
}

/// A file's role in a [`TlsConfig`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum TlsFile {
    /// A certificate and its chain.
    Certificate,
    /// A private key.
    Key,
    /// The issuers of clients' certificates.
    ClientCa,
}

impl fmt::Display for TlsFile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Certificate => "certificate",
            Self::Key => "private key",
            Self::ClientCa => "client CA",
        })
    }
}

/// Why TLS cannot be set up. The text names the file.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TlsError {
    /// The file cannot be read, or its PEM is malformed.
    #[error("cannot read the {file} {path:?}: {}", crate::error::reason(.error))]
    Unreadable {
        /// What the file is for.
        file: TlsFile,
        /// Its path.
        path: PathBuf,
        /// What the system or the decoder said.
        error: io::Error,
    },
    /// The file holds no certificate.
    #[error("there is no certificate in the {file} {path:?}")]
    NoCertificate {
        /// What the file is for.
        file: TlsFile,
        /// Its path.
        path: PathBuf,
    },
    /// The file holds no private key.
    #[error("there is no private key in {path:?}")]
    NoKey {
        /// The key's path.
        path: PathBuf,
    },
    /// The private key is encrypted, and nobody is there to type a password.
    #[error(
        "the private key {path:?} is encrypted; write it without a password \
         (openssl pkey -in ENCRYPTED -out PLAIN)"
    )]
    EncryptedKey {
        /// The key's path.
        path: PathBuf,
    },
    /// The private key is of a kind that is not supported, or malformed.
    #[error("the private key {path:?} cannot be used: {reason}")]
    UnusableKey {
        /// The key's path.
        path: PathBuf,
        /// What the TLS library said.
        reason: String,
    },
    /// The certificate is malformed.
    #[error("the {file} {path:?} cannot be used: {reason}")]
    UnusableCertificate {
        /// What the file is for.
        file: TlsFile,
        /// Its path.
        path: PathBuf,
        /// What the TLS library said.
        reason: String,
    },
    /// The certificate is of version 1 of X.509, which says for no name what it is good for.
    #[error(
        "the certificate {path:?} is of version 1 of X.509, which no client takes; make one with \
         a name (openssl x509 -req ... -extfile FILE, with subjectAltName=DNS:NAME in it)"
    )]
    FirstVersion {
        /// The certificate's path.
        path: PathBuf,
    },
    /// The private key is another certificate's.
    #[error("the private key {key:?} does not match the certificate {certificate:?}")]
    Mismatch {
        /// The certificate's path.
        certificate: PathBuf,
        /// The key's path.
        key: PathBuf,
    },
    /// A certificate cannot be made for this name.
    #[error("{name:?} is neither the name of a host nor an address")]
    InvalidName {
        /// The name as it was given.
        name: String,
    },
    /// The TLS library refuses, for want of randomness or of memory.
    #[error("TLS cannot be set up: {0}")]
    Setup(String),
}

/// A certificate that clients will refuse although it can be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum CertificateWarning {
    /// It is valid no more.
    #[error("the certificate {path:?} has expired")]
    Expired {
        /// The certificate's path.
        path: PathBuf,
        /// The last moment of its validity.
        since: SystemTime,
    },
    /// It is not valid yet, or the clock is wrong.
    #[error("the certificate {path:?} is not valid yet")]
    NotYetValid {
        /// The certificate's path.
        path: PathBuf,
        /// The first moment of its validity.
        until: SystemTime,
    },
    /// It is shown to those who ask for a name of its, and it has none.
    #[error("the certificate {path:?} is for no name, so nobody gets it")]
    Nameless {
        /// The certificate's path.
        path: PathBuf,
    },
}

/// What [`TlsAcceptor::reload_if_changed`] did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reload {
    /// Nothing: the files are those in use, or those that were refused, or they are still changing.
    NotNeeded,
    /// The files are read and in use.
    Done,
}

/// Accepts TLS: certificates that were read and checked.
///
/// Clones share them, so that one call of [`reload`](Self::reload) reaches every listener.
///
/// TLS 1.2 and 1.3, with *ring*'s cipher suites. Sessions are resumed by tickets, whose keys change
/// every six hours and with each reload, and are never written anywhere.
#[derive(Clone)]
pub struct TlsAcceptor {
    shared: Arc<Shared>,
}

struct Shared {
    /// `None` for a certificate made at the start.
    config: RwLock<Option<TlsConfig>>,
    loaded: RwLock<Loaded>,
    looks: Mutex<Looks>,
}

/// What the files were like.
struct Looks {
    /// When they were read, or could not be used.
    read: Signature,
    /// When they were last looked at.
    last: Signature,
}

#[derive(Clone)]
struct Loaded {
    server: Arc<ServerConfig>,
    validity: Arc<[Validity]>,
    /// Paths of the certificates that nobody can ask for.
    nameless: Arc<[PathBuf]>,
}

/// Certificates that were read and checked, and are not in use yet; see [`TlsAcceptor::prepare`].
pub struct Prepared(Option<(TlsConfig, Loaded, Signature)>);

impl fmt::Debug for Prepared {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let config = self.0.as_ref().map(|(config, ..)| config);
        f.debug_tuple("Prepared").field(&config).finish()
    }
}

struct Validity {
    path: PathBuf,
    from: SystemTime,
    until: SystemTime,
}

impl TlsAcceptor {
    /// Reads the files.
    ///
    /// # Errors
    ///
    /// [`TlsError`], naming the file that cannot be used.
    pub fn load(config: TlsConfig) -> Result<Self, TlsError> {
        // Before they are read: what changes in between will be seen.
        let signature = Signature::of(config.files());
        let loaded = load(&config)?;
        Ok(Self::new(Some(config), loaded, signature))
    }

    /// Shows a certificate for development.
    ///
    /// # Errors
    ///
    /// [`TlsError::Setup`] if the TLS library refuses.
    pub fn self_signed<P: Into<Vec<u8>>>(
        made: &SelfSigned,
        alpn: impl IntoIterator<Item = P>,
    ) -> Result<Self, TlsError> {
        let provider = Arc::new(ring::default_provider());
        let key = CertifiedKey::from_der(vec![made.certificate()], made.key(), &provider)
            .map_err(|error| TlsError::Setup(error.to_string()))?;
        let certificates = Certificates(vec![Arc::new(key)]);
        let alpn = alpn.into_iter().map(Into::into).collect();
        let server = server_config(certificates, None, alpn, provider)?;
        let loaded = Loaded {
            server: Arc::new(server),
            validity: Arc::new([]),
            nameless: Arc::new([]),
        };
        Ok(Self::new(None, loaded, Signature::of(std::iter::empty())))
    }

    fn new(config: Option<TlsConfig>, loaded: Loaded, signature: Signature) -> Self {
        Self {
            shared: Arc::new(Shared {
                config: RwLock::new(config),
                loaded: RwLock::new(loaded),
                looks: Mutex::new(Looks {
                    read: signature.clone(),
                    last: signature,
                }),
            }),
        }
    }

    /// Reads the files again, for the handshakes that begin from now on. Connections are not
    /// touched.
    ///
    /// # Errors
    ///
    /// [`TlsError`]; the certificates then stay as they were.
    pub fn reload(&self) -> Result<(), TlsError> {
        if let Some(config) = self.config() {
            self.note(Signature::of(config.files()));
            self.show(load(&config)?);
        }
        Ok(())
    }

    /// Reads the files again, or others instead, without using them yet. A certificate that was
    /// made at the start stays what it is.
    ///
    /// # Errors
    ///
    /// [`TlsError`], naming the file that cannot be used.
    pub fn prepare(&self, others: Option<TlsConfig>) -> Result<Prepared, TlsError> {
        let Some(current) = self.config() else {
            return Ok(Prepared(None));
        };
        let config = others.unwrap_or(current);
        let signature = Signature::of(config.files());
        let loaded = load(&config)?;
        Ok(Prepared(Some((config, loaded, signature))))
    }

    /// Uses what was prepared, for the handshakes that begin from now on.
    pub fn adopt(&self, prepared: Prepared) {
        if let Some((config, loaded, signature)) = prepared.0 {
            let current = self.shared.config.write();
            *current.unwrap_or_else(PoisonError::into_inner) = Some(config);
            self.note(signature);
            self.show(loaded);
        }
    }

    /// Remembers what the files were like that are read.
    fn note(&self, signature: Signature) {
        *self.looks() = Looks {
            read: signature.clone(),
            last: signature,
        };
    }

    fn show(&self, loaded: Loaded) {
        let current = self.shared.loaded.write();
        *current.unwrap_or_else(PoisonError::into_inner) = loaded;
    }

    fn config(&self) -> Option<TlsConfig> {
        let config = self.shared.config.read();
        config.unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Looks at the files, and reads them again if they are others than those that were read last.
    ///
    /// Call it now and then. A change is taken only once the files are as they were at the look
    /// before: whoever replaces them writes one after the other. Files that cannot be used are
    /// reported once, not at each look.
    ///
    /// # Errors
    ///
    /// [`TlsError`]; the certificates then stay as they were.
    pub fn reload_if_changed(&self) -> Result<Reload, TlsError> {
        let signature = Signature::of(self.files().iter().map(PathBuf::as_path));
        {
            let mut looks = self.looks();
            let is_settled = signature == looks.last;
            let is_read = signature == looks.read;
            looks.last = signature;
            if is_read || !is_settled {
                return Ok(Reload::NotNeeded);
            }
        }
        self.reload().map(|()| Reload::Done)
    }

    /// Returns every file that is read; none for a certificate made at the start.
    pub fn files(&self) -> Vec<PathBuf> {
        let config = self.config();
        let files = config.iter().flat_map(TlsConfig::files);
        files.map(Path::to_owned).collect()
    }

    /// Returns what clients will find wrong with the certificates at this time.
    pub fn warnings(&self, now: SystemTime) -> Vec<CertificateWarning> {
        let loaded = self.loaded();
        let warnings = loaded.validity.iter().filter_map(|validity| {
            let path = validity.path.clone();
            if now > validity.until {
                let since = validity.until;
                Some(CertificateWarning::Expired { path, since })
            } else if now < validity.from {
                let until = validity.from;
                Some(CertificateWarning::NotYetValid { path, until })
            } else {
                None
            }
        });
        let nameless = loaded.nameless.iter().cloned();
        warnings
            .chain(nameless.map(|path| CertificateWarning::Nameless { path }))
            .collect()
    }

    /// What the next handshake uses.
    pub(crate) fn server_config(&self) -> Arc<ServerConfig> {
        self.loaded().server
    }

    fn looks(&self) -> MutexGuard<'_, Looks> {
        self.shared
            .looks
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    fn loaded(&self) -> Loaded {
        let loaded = self.shared.loaded.read();
        loaded.unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl fmt::Debug for TlsAcceptor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TlsAcceptor")
            .field("config", &self.config())
            .finish_non_exhaustive()
    }
}

fn load(config: &TlsConfig) -> Result<Loaded, TlsError> {
    let provider = Arc::new(ring::default_provider());
    let mut certificates = Vec::new();
    let mut validity = Vec::new();
    let mut nameless = Vec::new();
    for files in &config.certificates {
        let key = certified_key(files, &provider)?;
        if let Some((from, until)) = key.cert.first().and_then(certificate::validity) {
            let path = files.certificate.clone();
            validity.push(Validity { path, from, until });
        }
        let has_names = key.cert.first().is_some_and(certificate::has_names);
        // The first is shown to those as well who ask for nothing.
        if !certificates.is_empty() && !has_names {
            nameless.push(files.certificate.clone());
        }
        certificates.push(Arc::new(key));
    }
    let client_ca = match &config.client_ca {
        Some((path, auth)) => Some((path.as_path(), issuers(path)?, *auth)),
        None => None,
    };
    let certificates = Certificates(certificates);
    let server = server_config(certificates, client_ca, config.alpn.clone(), provider)?;
    Ok(Loaded {
        server: Arc::new(server),
        validity: validity.into(),
        nameless: nameless.into(),
    })
}

fn certified_key(files: &Files, provider: &CryptoProvider) -> Result<CertifiedKey, TlsError> {
    let chain = certificate::read_pem(&files.certificate, TlsFile::Certificate)?.certificates;
    if chain.is_empty() {
        return Err(TlsError::NoCertificate {
            file: TlsFile::Certificate,
            path: files.certificate.clone(),
        });
    }
    if certificate::is_of_first_version(&chain[0]) {
        let path = files.certificate.clone();
        return Err(TlsError::FirstVersion { path });
    }
    let path = || files.key.clone();
    let pem = certificate::read_pem(&files.key, TlsFile::Key)?;
    let Some(key) = pem.keys.into_iter().next() else {
        return Err(match pem.has_encrypted_key {
            true => TlsError::EncryptedKey { path: path() },
            false => TlsError::NoKey { path: path() },
        });
    };
    let key = provider.key_provider.load_private_key(key);
    let key = key.map_err(|error| TlsError::UnusableKey {
        path: path(),
        reason: error.to_string(),
    })?;
    let key = CertifiedKey::new(chain, key);
    match key.keys_match() {
        // Some kinds of key do not tell their public half.
        Ok(()) | Err(rustls::Error::InconsistentKeys(InconsistentKeys::Unknown)) => Ok(key),
        Err(rustls::Error::InconsistentKeys(_)) => Err(TlsError::Mismatch {
            certificate: files.certificate.clone(),
            key: path(),
        }),
        Err(error) => Err(TlsError::UnusableCertificate {
            file: TlsFile::Certificate,
            path: files.certificate.clone(),
            reason: error.to_string(),
        }),
    }
}

fn issuers(path: &Path) -> Result<RootCertStore, TlsError> {
    let file = TlsFile::ClientCa;
    let certificates = certificate::read_pem(path, file)?.certificates;
    if certificates.is_empty() {
        let path = path.to_owned();
        return Err(TlsError::NoCertificate { file, path });
    }
    let mut roots = RootCertStore::empty();
    for certificate in certificates {
        roots
            .add(certificate)
            .map_err(|error| unusable_ca(path, &error))?;
    }
    Ok(roots)
}

fn unusable_ca(path: &Path, error: &dyn fmt::Display) -> TlsError {
    TlsError::UnusableCertificate {
        file: TlsFile::ClientCa,
        path: path.to_owned(),
        reason: error.to_string(),
    }
}

fn server_config(
    certificates: Certificates,
    client_ca: Option<(&Path, RootCertStore, ClientAuth)>,
    alpn: Vec<Vec<u8>>,
    provider: Arc<CryptoProvider>,
) -> Result<ServerConfig, TlsError> {
    let setup = |error: rustls::Error| TlsError::Setup(error.to_string());
    let verifier = match client_ca {
        Some((path, roots, auth)) => {
            let roots = Arc::new(roots);
            let builder = WebPkiClientVerifier::builder_with_provider(roots, Arc::clone(&provider));
            let builder = match auth {
                ClientAuth::Optional => builder.allow_unauthenticated(),
                ClientAuth::Required => builder,
            };
            builder.build().map_err(|error| unusable_ca(path, &error))?
        }
        None => Arc::new(NoClientAuth),
    };
    let mut config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(setup)?
        .with_client_cert_verifier(verifier)
        .with_cert_resolver(Arc::new(certificates));
    config.alpn_protocols = alpn;
    // New keys with each load: a ticket vouches for the client's certificate, which the issuers
    // that are trusted now might not.
    config.ticketer = ring::Ticketer::new().map_err(setup)?;
    // A client comes back with one connection at a time.
    config.send_tls13_tickets = 1;
    Ok(config)
}

/// The certificates, the default first.
#[derive(Debug)]
struct Certificates(Vec<Arc<CertifiedKey>>);

impl ResolvesServerCert for Certificates {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        session::note_server_name(hello.server_name());
        let name = hello
            .server_name()
            .and_then(|name| ServerName::try_from(name).ok())
            // One certificate is shown whatever the name.
            .filter(|_| self.0.len() > 1);
        let chosen = name.and_then(|name| self.0.iter().find(|key| is_valid_for(key, &name)));
        chosen.or_else(|| self.0.first()).map(Arc::clone)
    }
}

fn is_valid_for(key: &CertifiedKey, name: &ServerName<'_>) -> bool {
    let parsed = key.cert.first().map(ParsedCertificate::try_from);
    parsed.is_some_and(|parsed| parsed.is_ok_and(|it| verify_server_name(&it, name).is_ok()))
}

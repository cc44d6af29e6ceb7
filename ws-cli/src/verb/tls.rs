//! How our clients find out whether a server is the one that was asked for.

use std::fmt;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{
    WebPkiSupportedAlgorithms, ring, verify_tls12_signature, verify_tls13_signature,
};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme};

use crate::failure::{Code, Failure};

/// Where systems keep the certificates that they trust: Debian, Fedora, SUSE and Alpine.
const SYSTEM_CERTIFICATES: [&str; 3] = [
    "/etc/ssl/certs/ca-certificates.crt",
    "/etc/pki/tls/certs/ca-bundle.crt",
    "/etc/ssl/cert.pem",
];

/// Trusts the certificates in the file `ca` or else the system's, or with `is_insecure` anybody's.
pub(crate) fn client_config(ca: Option<&Path>, is_insecure: bool) -> Result<ClientConfig, Failure> {
    if is_insecure {
        return trusting(Arc::new(Unseen));
    }
    let builder = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .map_err(anyhow::Error::from)?;
    Ok(builder
        .with_root_certificates(roots(ca)?)
        .with_no_client_auth())
}

/// Trusts whoever answers, after a witness has seen what it shows.
pub(super) fn trusting(witness: Arc<dyn Witness>) -> Result<ClientConfig, Failure> {
    let provider = Arc::new(ring::default_provider());
    let verifier = Trusting {
        algorithms: provider.signature_verification_algorithms,
        witness,
    };
    Ok(ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(anyhow::Error::from)?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(verifier))
        .with_no_client_auth())
}

/// Reads the certificates that are trusted.
pub(super) fn roots(file: Option<&Path>) -> Result<RootCertStore, Failure> {
    let system = || {
        let named = std::env::var_os("SSL_CERT_FILE").map(PathBuf::from);
        let known = SYSTEM_CERTIFICATES.iter().map(PathBuf::from);
        named.or_else(|| known.into_iter().find(|path| path.exists()))
    };
    let path = file.map(Path::to_owned).or_else(system).ok_or_else(|| {
        Failure::new(
            Code::Usage,
            "no certificates of this system are found: name some with --ca",
        )
    })?;
    let unusable = |error: &dyn fmt::Display| {
        Failure::new(Code::Failed, format!("{}: {error}", path.display()))
    };
    let pem = fs::read(&path).map_err(|error| unusable(&error))?;
    let mut roots = RootCertStore::empty();
    for certificate in CertificateDer::pem_slice_iter(&pem) {
        let certificate = certificate.map_err(|error| unusable(&error))?;
        // The system's may hold one that is malformed by today's rules; the others still serve.
        if let (Err(error), true) = (roots.add(certificate), file.is_some()) {
            return Err(unusable(&error));
        }
    }
    if roots.is_empty() {
        return Err(unusable(&"no certificate in it"));
    }
    Ok(roots)
}

/// Sees what a server shows that is trusted whatever it is.
pub(super) trait Witness: fmt::Debug + Send + Sync {
    /// Looks at its certificate and those behind it, for whom it was asked, and how it is at `now`.
    fn see(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        now: UnixTime,
    );
}

/// Nobody looks.
#[derive(Debug)]
struct Unseen;

impl Witness for Unseen {
    fn see(
        &self,
        _end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _now: UnixTime,
    ) {
    }
}

/// Trusts every certificate whose key the server has.
#[derive(Debug)]
struct Trusting {
    algorithms: WebPkiSupportedAlgorithms,
    witness: Arc<dyn Witness>,
}

impl ServerCertVerifier for Trusting {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        self.witness
            .see(end_entity, intermediates, server_name, now);
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls12_signature(message, cert, dss, &self.algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, cert, dss, &self.algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.algorithms.supported_schemes()
    }
}

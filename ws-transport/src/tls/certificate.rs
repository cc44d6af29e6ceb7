//! What is read from PEM files and certificates.

use std::fmt::Write as _;
use std::fs;
use std::path::Path;
use std::time::SystemTime;

use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use x509_cert::der::Decode as _;
use x509_cert::ext::pkix::SubjectAltName;
use x509_cert::{Certificate, Version};

use super::{TlsError, TlsFile};

/// What a PEM file holds that matters here.
#[derive(Debug, Default)]
pub(super) struct Pem {
    pub(super) certificates: Vec<CertificateDer<'static>>,
    pub(super) keys: Vec<PrivateKeyDer<'static>>,
    pub(super) has_encrypted_key: bool,
}

/// Reads a PEM file. No other function uses rustls-pemfile, which is archived: what replaces it
/// replaces this.
pub(super) fn read_pem(path: &Path, file: TlsFile) -> Result<Pem, TlsError> {
    let unreadable = |error| TlsError::Unreadable {
        file,
        path: path.to_owned(),
        error,
    };
    let text = fs::read(path).map_err(unreadable)?;
    let mut pem = Pem {
        // RFC 7468 §11, and RFC 1421 §4.6.1.1 for the older kind, whose label is that of a plain key.
        has_encrypted_key: contains(&text, b"-----BEGIN ENCRYPTED PRIVATE KEY-----")
            || contains(&text, b"Proc-Type: 4,ENCRYPTED"),
        ..Pem::default()
    };
    if contains(&text, b"Proc-Type: 4,ENCRYPTED") {
        return Ok(pem);
    }
    for item in rustls_pemfile::read_all(&mut &*text) {
        match item.map_err(unreadable)? {
            rustls_pemfile::Item::X509Certificate(certificate) => {
                pem.certificates.push(certificate);
            }
            rustls_pemfile::Item::Pkcs1Key(key) => pem.keys.push(key.into()),
            rustls_pemfile::Item::Pkcs8Key(key) => pem.keys.push(key.into()),
            rustls_pemfile::Item::Sec1Key(key) => pem.keys.push(key.into()),
            _ => {}
        }
    }
    Ok(pem)
}

fn contains(text: &[u8], part: &[u8]) -> bool {
    text.windows(part.len()).any(|window| window == part)
}

/// When a certificate is valid: from, until.
pub(super) fn validity(certificate: &CertificateDer<'_>) -> Option<(SystemTime, SystemTime)> {
    let certificate = Certificate::from_der(certificate).ok()?;
    let validity = certificate.tbs_certificate().validity();
    Some((
        validity.not_before.to_system_time(),
        validity.not_after.to_system_time(),
    ))
}

/// Tells whether a certificate is of version 1 of X.509, as `openssl x509 -req` makes it unless told
/// otherwise: the TLS library refuses them.
pub(super) fn is_of_first_version(certificate: &CertificateDer<'_>) -> bool {
    Certificate::from_der(certificate)
        .is_ok_and(|certificate| certificate.tbs_certificate().version() == Version::V1)
}

/// Tells whether a certificate is for any name: RFC 9525 §6.1, the subject itself is none.
pub(super) fn has_names(certificate: &CertificateDer<'_>) -> bool {
    Certificate::from_der(certificate).is_ok_and(|certificate| {
        let certificate = certificate.tbs_certificate();
        let names = certificate.get_extension::<SubjectAltName>();
        matches!(names, Ok(Some((_, names))) if !names.0.is_empty())
    })
}

/// Whom a certificate is about, as RFC 4514 writes names.
pub(crate) fn subject(certificate: &CertificateDer<'_>) -> Option<String> {
    let certificate = Certificate::from_der(certificate).ok()?;
    let mut subject = String::new();
    write!(subject, "{}", certificate.tbs_certificate().subject()).ok()?;
    Some(subject)
}

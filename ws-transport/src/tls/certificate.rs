//! What is read from PEM files and certificates.

use std::fmt::Write as _;
use std::fs::File;
use std::io::{self, Read as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;
use std::time::SystemTime;

use rustix::fs::OFlags;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use x509_cert::der::Decode as _;
use x509_cert::ext::pkix::SubjectAltName;
use x509_cert::{Certificate, Version};

use super::{TlsError, TlsFile};

/// All the issuers that the world trusts need a quarter of a MiB.
const MAX_FILE_SIZE: u64 = 16 << 20;

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
    let text = read_file(path).map_err(unreadable)?;
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

/// Reads a file that stays, as one has to that is read again whenever it changes.
fn read_file(path: &Path) -> io::Result<Vec<u8>> {
    // Neither the opening of a FIFO nor the reading of a terminal may keep the server from starting.
    let flags = OFlags::NONBLOCK | OFlags::NOCTTY;
    let file = File::options()
        .read(true)
        .custom_flags(flags.bits().cast_signed())
        .open(path)?;
    if !file.metadata()?.is_file() {
        return Err(io::Error::other("it is not a regular file"));
    }
    let mut content = Vec::new();
    file.take(MAX_FILE_SIZE + 1).read_to_end(&mut content)?;
    match content.len() as u64 > MAX_FILE_SIZE {
        true => Err(io::Error::other("it is larger than 16 MiB")),
        false => Ok(content),
    }
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

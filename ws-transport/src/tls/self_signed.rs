//! Certificates for development.

use std::time::{Duration, SystemTime};

use rcgen::{
    CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, KeyPair, KeyUsagePurpose,
};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer, ServerName};

use super::TlsError;

/// How far the clocks of others may be behind.
const CLOCK_SKEW: Duration = Duration::from_secs(3600);

/// A certificate that vouches for itself, with its key: for development. No client trusts it unless
/// told to.
///
/// # Examples
///
/// ```
/// use std::time::Duration;
/// use ws_transport::SelfSigned;
///
/// let names = ["localhost".to_owned(), "::1".to_owned()];
/// let made = SelfSigned::new(&names, Duration::from_secs(86_400))?;
/// assert!(made.certificate_pem().starts_with("-----BEGIN CERTIFICATE-----"));
/// # Ok::<(), ws_transport::TlsError>(())
/// ```
#[derive(Debug)]
pub struct SelfSigned {
    certificate: rcgen::Certificate,
    key: KeyPair,
}

impl SelfSigned {
    /// Makes one for these names and addresses, valid from now on for so long. A name may begin with
    /// a wildcard: `*.example.org`.
    ///
    /// # Errors
    ///
    /// [`TlsError::InvalidName`], or [`TlsError::Setup`] if there is no name, or no randomness for
    /// the key.
    pub fn new(names: &[String], lifetime: Duration) -> Result<Self, TlsError> {
        let setup = |error: rcgen::Error| TlsError::Setup(error.to_string());
        for name in names {
            if ServerName::try_from(name.strip_prefix("*.").unwrap_or(name)).is_err() {
                return Err(TlsError::InvalidName { name: name.clone() });
            }
        }
        let Some(first) = names.first() else {
            return Err(TlsError::Setup("a certificate needs a name".to_owned()));
        };
        let mut params = CertificateParams::new(names).map_err(setup)?;
        params.distinguished_name = DistinguishedName::new();
        params
            .distinguished_name
            .push(DnType::CommonName, first.as_str());
        let now = SystemTime::now();
        params.not_before = (now - CLOCK_SKEW).into();
        params.not_after = (now + lifetime).into();
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        let key = KeyPair::generate().map_err(setup)?;
        let certificate = params.self_signed(&key).map_err(setup)?;
        Ok(Self { certificate, key })
    }

    /// Returns the certificate as PEM.
    pub fn certificate_pem(&self) -> String {
        self.certificate.pem()
    }

    /// Returns the private key as PEM (PKCS#8, not encrypted).
    pub fn key_pem(&self) -> String {
        self.key.serialize_pem()
    }

    pub(super) fn certificate(&self) -> CertificateDer<'static> {
        self.certificate.der().clone()
    }

    pub(super) fn key(&self) -> PrivateKeyDer<'static> {
        PrivatePkcs8KeyDer::from(self.key.serialize_der()).into()
    }
}

#[cfg(test)]
mod tests {
    use super::super::certificate;
    use super::*;

    fn make(names: &[&str]) -> Result<SelfSigned, TlsError> {
        let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
        SelfSigned::new(&names, Duration::from_secs(86_400))
    }

    #[test]
    fn it_is_valid_for_its_time_and_for_all_its_names() {
        let made = make(&["localhost", "*.dev.example", "127.0.0.1", "::1"]).unwrap();
        let (from, until) = certificate::validity(&made.certificate()).unwrap();
        let now = SystemTime::now();
        assert!(from < now && until > now);
        let lifetime = until.duration_since(from).unwrap();
        assert_eq!(lifetime, CLOCK_SKEW + Duration::from_secs(86_400));
        let certificate = made.certificate();
        let parsed = rustls::server::ParsedCertificate::try_from(&certificate).unwrap();
        for (name, is_valid) in [
            ("localhost", true),
            ("a.dev.example", true),
            ("127.0.0.1", true),
            ("::1", true),
            ("other.example", false),
            ("127.0.0.2", false),
        ] {
            let name = ServerName::try_from(name).unwrap();
            let verified = rustls::client::verify_server_name(&parsed, &name);
            assert_eq!(verified.is_ok(), is_valid, "{name:?}");
        }
    }

    #[test]
    fn names_that_no_client_could_ask_for_are_refused() {
        for name in [
            "",
            "*",
            "a b",
            "a/b",
            "https://a",
            "a..b",
            "\u{e4}",
            "*.*.a",
        ] {
            let error = make(&["localhost", name]).unwrap_err();
            assert!(
                matches!(&error, TlsError::InvalidName { name: named } if named == name),
                "{name}: {error}"
            );
        }
        assert!(matches!(make(&[]).unwrap_err(), TlsError::Setup(_)));
    }
}

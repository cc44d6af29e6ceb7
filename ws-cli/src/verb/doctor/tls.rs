//! TLS as a client sees it: what the server shows is judged, and then used whatever the judgement.

use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use anyhow::Context as _;
use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::ServerCertVerifier as _;
use rustls::crypto::ring;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{CertificateError, ClientConfig};
use x509_cert::Certificate;
use x509_cert::der::Decode as _;
use x509_cert::ext::pkix::SubjectAltName;
use x509_cert::ext::pkix::name::GeneralName;

use crate::failure::Failure;
use crate::verb::tls::{Witness, roots, trusting};

/// What a server has shown.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Shown {
    pub(super) trouble: Option<Trouble>,
    /// When the first certificate expires.
    pub(super) not_after: Option<SystemTime>,
    /// Whom it is for.
    pub(super) names: Vec<String>,
}

/// Why browsers refuse a certificate.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Trouble {
    Expired,
    NotYetValid,
    WrongName,
    /// It has signed itself.
    SelfSigned,
    /// Its issuer is not sent along.
    NoIntermediate,
    /// The certificates behind it do not each issue the one before.
    WrongOrder,
    UnknownIssuer,
    Other(String),
}

/// A configuration that accepts what it is shown, and remembers what is to be said of it.
pub(super) fn observing(
    ca: Option<&Path>,
    alpn: &str,
) -> Result<(ClientConfig, Arc<Observer>), Failure> {
    let provider = Arc::new(ring::default_provider());
    let judge = WebPkiServerVerifier::builder_with_provider(Arc::new(roots(ca)?), provider)
        .build()
        .context("certificates cannot be judged")?;
    let observer = Arc::new(Observer {
        judge,
        shown: Mutex::new(None),
    });
    let mut config = trusting(observer.clone())?;
    config.alpn_protocols = vec![alpn.as_bytes().to_vec()];
    Ok((config, observer))
}

/// Judges what it is shown.
#[derive(Debug)]
pub(super) struct Observer {
    judge: Arc<WebPkiServerVerifier>,
    shown: Mutex<Option<Shown>>,
}

impl Observer {
    /// Returns what was shown, if the handshake came so far.
    pub(super) fn shown(&self) -> Option<Shown> {
        let shown = self.shown.lock();
        shown.unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl Witness for Observer {
    fn see(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        now: UnixTime,
    ) {
        let judged =
            self.judge
                .verify_server_cert(end_entity, intermediates, server_name, &[], now);
        let chain: Vec<Link> = std::iter::once(end_entity)
            .chain(intermediates)
            .filter_map(Link::read)
            .collect();
        let shown = Shown {
            trouble: judged.err().map(|error| trouble(&error, &chain)),
            not_after: chain.first().map(|link| link.not_after),
            names: chain
                .into_iter()
                .next()
                .map_or_else(Vec::new, |link| link.names),
        };
        let mut kept = self.shown.lock().unwrap_or_else(PoisonError::into_inner);
        *kept = Some(shown);
    }
}

/// What matters of one certificate of a chain.
#[derive(Clone, Debug)]
pub(super) struct Link {
    subject: String,
    issuer: String,
    pub(super) not_after: SystemTime,
    pub(super) names: Vec<String>,
}

impl Link {
    pub(super) fn read(certificate: &CertificateDer<'_>) -> Option<Self> {
        let certificate = Certificate::from_der(certificate).ok()?;
        let certificate = certificate.tbs_certificate();
        let names = match certificate.get_extension::<SubjectAltName>() {
            Ok(Some((_, names))) => names.0.iter().filter_map(name).collect(),
            _ => Vec::new(),
        };
        Some(Self {
            subject: certificate.subject().to_string(),
            issuer: certificate.issuer().to_string(),
            not_after: certificate.validity().not_after.to_system_time(),
            names,
        })
    }
}

fn name(name: &GeneralName) -> Option<String> {
    match name {
        GeneralName::DnsName(name) => Some(name.to_string()),
        GeneralName::IpAddress(octets) => match octets.as_bytes().len() {
            4 => <[u8; 4]>::try_from(octets.as_bytes())
                .ok()
                .map(|octets| std::net::Ipv4Addr::from(octets).to_string()),
            16 => <[u8; 16]>::try_from(octets.as_bytes())
                .ok()
                .map(|octets| std::net::Ipv6Addr::from(octets).to_string()),
            _ => None,
        },
        _ => None,
    }
}

/// Whether each certificate is issued by the one behind it.
pub(super) fn is_in_order(chain: &[Link]) -> bool {
    chain
        .windows(2)
        .all(|pair| pair[0].issuer == pair[1].subject)
}

/// Whether the one who issued the only certificate would have to be there as well.
pub(super) fn lacks_intermediate(chain: &[Link]) -> bool {
    matches!(chain, [only] if only.issuer != only.subject)
}

/// Puts into a word what the judge said.
fn trouble(error: &rustls::Error, chain: &[Link]) -> Trouble {
    let rustls::Error::InvalidCertificate(error) = error else {
        return Trouble::Other(error.to_string());
    };
    match error {
        CertificateError::Expired | CertificateError::ExpiredContext { .. } => Trouble::Expired,
        CertificateError::NotValidYet | CertificateError::NotValidYetContext { .. } => {
            Trouble::NotYetValid
        }
        CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. } => {
            Trouble::WrongName
        }
        // An authority of the same name is known, but it has another key.
        CertificateError::BadSignature => Trouble::UnknownIssuer,
        CertificateError::UnknownIssuer => match chain {
            [only] if only.issuer == only.subject => Trouble::SelfSigned,
            [_] => Trouble::NoIntermediate,
            chain if !is_in_order(chain) => Trouble::WrongOrder,
            _ => Trouble::UnknownIssuer,
        },
        other => Trouble::Other(other.to_string()),
    }
}

/// Whole days until then; negative once it is over.
pub(super) fn days_until(then: SystemTime, now: SystemTime) -> i64 {
    const DAY: u64 = 86_400;
    let days = |span: Duration| i64::try_from(span.as_secs() / DAY).unwrap_or(i64::MAX);
    match then.duration_since(now) {
        Ok(left) => days(left),
        Err(over) => -days(over.duration()) - 1,
    }
}

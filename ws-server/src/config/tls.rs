//! `[server.tls]`: from raw settings to what listeners with TLS show, and whom they ask.

use ws_transport::{ClientAuth, TlsConfig};

use super::parse;
use super::reader::Reader;

/// `[server.tls]`: what listeners with TLS show.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Tls {
    /// Nothing: there are no such listeners.
    Off,
    /// A certificate that is made at the start.
    SelfSigned,
    /// A certificate and its key in files.
    Files(TlsConfig),
}

/// What is spoken over TLS (RFC 7301 §6).
pub(crate) const ALPN: &[u8] = b"http/1.1";

pub(super) fn tls(reader: &mut Reader<'_>) -> Tls {
    let certificate = reader.path_unless_empty("server.tls.cert");
    let key = reader.path_unless_empty("server.tls.key");
    let further = reader.path_tables("server.tls.certificates", ["cert", "key"]);
    let client_ca = reader.path_unless_empty("server.tls.client_ca");
    let client_auth = reader.read_optional("server.tls.client_auth", |value| {
        let choices = [
            ("optional", ClientAuth::Optional),
            ("required", ClientAuth::Required),
        ];
        parse::choice(value, &choices)
    });
    let is_self_signed = reader.flag("server.tls.self_signed");
    let files = match (certificate, key) {
        (Some(certificate), Some(key)) => Some(TlsConfig::new(certificate, key)),
        (None, None) => None,
        (Some(_), None) => {
            reader.conflict("server.tls.cert", "the certificate needs server.tls.key");
            None
        }
        (None, Some(_)) => {
            reader.conflict("server.tls.key", "the key needs server.tls.cert");
            None
        }
    };
    if is_self_signed && files.is_some() {
        reader.conflict(
            "server.tls.self_signed",
            "server.tls.cert is there to be shown",
        );
    }
    if !further.is_empty() && files.is_none() {
        reader.conflict(
            "server.tls.certificates",
            "server.tls.cert and server.tls.key are needed as well, for clients that ask for another name or for none",
        );
    }
    if client_ca.is_some() && files.is_none() {
        reader.conflict(
            "server.tls.client_ca",
            "server.tls.cert and server.tls.key are needed as well",
        );
    }
    if client_auth.is_some() && client_ca.is_none() {
        reader.conflict(
            "server.tls.client_auth",
            "has no effect without server.tls.client_ca",
        );
    }
    match files {
        Some(files) => {
            let files = further
                .into_iter()
                .fold(files, |files, [cert, key]| {
                    files.with_certificate(cert, key)
                })
                .with_alpn([ALPN]);
            Tls::Files(match client_ca {
                Some(path) => files.with_client_ca(path, client_auth.unwrap_or_default()),
                None => files,
            })
        }
        None if is_self_signed => Tls::SelfSigned,
        None => Tls::Off,
    }
}

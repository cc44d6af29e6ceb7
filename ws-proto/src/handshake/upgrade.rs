//! Judging a request for a WebSocket, and accepting it.

use base64::Engine as _;
use base64::alphabet;
use base64::engine::general_purpose::{GeneralPurpose, GeneralPurposeConfig, STANDARD};
use sha1::{Digest, Sha1};

use super::extension::{self, ExtensionOffer};
use super::field::{elements, is_field_value, is_token};
use super::response::push_header;
use super::{BadRequest, Rejection, RequestHead, Version};
use crate::DeflateParams;
use crate::deflate::EXTENSION_NAME;

/// A request for a WebSocket that follows all rules ([RFC 6455 §4.2.1](https://www.rfc-editor.org/rfc/rfc6455#section-4.2.1)).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Upgrade {
    accept_key: String,
    protocols: Vec<String>,
    extensions: Vec<ExtensionOffer>,
}

impl Upgrade {
    /// Checks a request.
    ///
    /// # Errors
    ///
    /// The [`Rejection`] to answer with. A request that does not ask for a WebSocket at all is
    /// [`Rejection::UpgradeRequired`], unless its method or version is wrong.
    pub fn new(head: &RequestHead) -> Result<Self, Rejection> {
        // RFC 6455 §4.2.1: the method must be GET, the version at least 1.1.
        if head.method() != "GET" {
            return Err(Rejection::MethodNotAllowed);
        }
        if head.version() != Version::Http11 {
            return Err(Rejection::VersionNotSupported);
        }
        // A body would be the first bytes behind the 101 to one of two parsers in a row.
        let has_length = head.values("Content-Length").any(|length| length != b"0");
        if has_length || head.header_count("Transfer-Encoding") > 0 {
            return Err(BadRequest::Body.into());
        }
        // RFC 6455 §4.2.1, 3 and 4. RFC 9110 §7.8: without the connection option, the Upgrade
        // header was meant for somebody else.
        if !head.wants_websocket() || !head.has_token("Connection", "upgrade") {
            return Err(Rejection::UpgradeRequired);
        }
        check_version(head)?;
        let key = key(head)?;
        let protocols = protocols(head)?;
        let mut extensions = Vec::new();
        for value in head.values("Sec-WebSocket-Extensions") {
            extension::parse(value, &mut extensions).map_err(|_| BadRequest::InvalidExtensions)?;
        }
        // RFC 6455 §9.1: a list has at least one element, be it split over several headers.
        if extensions.is_empty() && head.header_count("Sec-WebSocket-Extensions") > 0 {
            return Err(BadRequest::InvalidExtensions.into());
        }
        Ok(Self {
            accept_key: accept_key(key),
            protocols,
            extensions,
        })
    }

    /// Returns the subprotocols that the client offers, the one it likes best first.
    pub fn protocols(&self) -> impl Iterator<Item = &str> {
        self.protocols.iter().map(String::as_str)
    }

    /// Returns the extensions that the client offers, the one it likes best first.
    #[must_use]
    pub fn extensions(&self) -> &[ExtensionOffer] {
        &self.extensions
    }

    /// Makes the 101, with the subprotocol chosen, the compression agreed upon (see
    /// [`DeflateConfig::accept`](crate::DeflateConfig::accept)) and headers of the application's.
    ///
    /// # Errors
    ///
    /// [`AcceptError`] if the subprotocol or the compression was not offered, or a header is
    /// malformed or not the application's to set.
    pub fn accept(
        &self,
        protocol: Option<&str>,
        deflate: Option<&DeflateParams>,
        extra_headers: &[(&str, &str)],
    ) -> Result<Vec<u8>, AcceptError> {
        // As long as most are, with a cookie.
        let mut head = String::with_capacity(384);
        head.push_str(
            "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n",
        );
        push_header(&mut head, "Sec-WebSocket-Accept", &self.accept_key);
        if let Some(protocol) = protocol {
            // RFC 6455 §4.2.2: the value must be one that the client offered.
            if !self.protocols().any(|offered| offered == protocol) {
                return Err(AcceptError::ProtocolNotOffered);
            }
            push_header(&mut head, "Sec-WebSocket-Protocol", protocol);
        }
        if let Some(deflate) = deflate {
            // RFC 6455 §9: no extension that the client did not ask for.
            let mut names = self.extensions.iter().map(ExtensionOffer::name);
            if !names.any(|name| name == EXTENSION_NAME) {
                return Err(AcceptError::ExtensionNotOffered);
            }
            push_header(&mut head, "Sec-WebSocket-Extensions", &deflate.to_string());
        }
        for (name, value) in extra_headers {
            if !is_token(name.as_bytes()) || !is_field_value(value.as_bytes()) || is_ours(name) {
                return Err(AcceptError::InvalidHeader);
            }
            push_header(&mut head, name, value);
        }
        head.push_str("\r\n");
        Ok(head.into_bytes())
    }
}

/// Why a 101 could not be made: the application's fault.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum AcceptError {
    /// The subprotocol is not among those offered.
    #[error("subprotocol was not offered")]
    ProtocolNotOffered,
    /// Compression is not among the extensions offered.
    #[error("extension was not offered")]
    ExtensionNotOffered,
    /// A header has a malformed name or value, or belongs to the handshake.
    #[error("header cannot be added to the response")]
    InvalidHeader,
}

/// Derives `Sec-WebSocket-Accept` from the key as it was sent.
pub(super) fn accept_key(key: &[u8]) -> String {
    let mut hash = Sha1::new();
    hash.update(key);
    // RFC 6455 §1.3: a value that no server returns by accident.
    hash.update(b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11");
    STANDARD.encode(hash.finalize())
}

/// Headers that belong to the handshake, or would give its request or its 101 a body.
pub(super) fn is_ours(name: &str) -> bool {
    [
        "Upgrade",
        "Connection",
        "Content-Length",
        "Transfer-Encoding",
    ]
    .iter()
    .any(|ours| ours.eq_ignore_ascii_case(name))
        || name
            .get(..14)
            .is_some_and(|start| start.eq_ignore_ascii_case("Sec-WebSocket-"))
}

fn check_version(head: &RequestHead) -> Result<(), Rejection> {
    let mut versions = head.values("Sec-WebSocket-Version");
    let version = versions.next();
    // RFC 6455 §11.3.5: it must not appear more than once.
    if versions.next().is_some() {
        return Err(BadRequest::DuplicateVersion.into());
    }
    // RFC 6455 §4.2.2: any other version is answered 426 with the ones understood.
    if version != Some(b"13") {
        return Err(Rejection::WrongWebSocketVersion);
    }
    Ok(())
}

/// Padding is required, but the four bits that no byte uses may be anything: some clients draw
/// their key as text.
const KEY_ENCODING: GeneralPurpose = GeneralPurpose::new(
    &alphabet::STANDARD,
    GeneralPurposeConfig::new().with_decode_allow_trailing_bits(true),
);

fn key(head: &RequestHead) -> Result<&[u8], BadRequest> {
    let mut keys = head.values("Sec-WebSocket-Key");
    let key = keys.next().ok_or(BadRequest::MissingKey)?;
    // RFC 6455 §11.3.1: it must not appear more than once.
    if keys.next().is_some() {
        return Err(BadRequest::DuplicateKey);
    }
    // RFC 6455 §4.2.1: base64 that decodes to 16 bytes.
    let mut decoded = [0; 18];
    match KEY_ENCODING.decode_slice(key, &mut decoded) {
        Ok(16) if key.len() == 24 => Ok(key),
        _ => Err(BadRequest::InvalidKey),
    }
}

fn protocols(head: &RequestHead) -> Result<Vec<String>, BadRequest> {
    let mut protocols: Vec<String> = Vec::new();
    for element in head.values("Sec-WebSocket-Protocol").flat_map(elements) {
        // RFC 6455 §4.1: tokens, all of them unique.
        let is_new = !protocols.iter().any(|known| known.as_bytes() == element);
        let name = std::str::from_utf8(element)
            .ok()
            .filter(|_| is_new && is_token(element));
        protocols.push(name.ok_or(BadRequest::InvalidProtocol)?.to_owned());
    }
    // RFC 6455 §4.3: a list has at least one element, be it split over several headers.
    if protocols.is_empty() && head.header_count("Sec-WebSocket-Protocol") > 0 {
        return Err(BadRequest::InvalidProtocol);
    }
    Ok(protocols)
}

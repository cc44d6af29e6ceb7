//! The client's side of the opening handshake.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

use super::field::{elements, is_field_value, is_token, trim};
use super::response::push_header;
use super::scan::Scan;
use super::upgrade::{accept_key, is_ours};
use super::{HeadLimits, Rejection, extension};
use crate::{DeflateConfig, DeflateParams};

/// A client's request for a WebSocket ([RFC 6455 §4.1](https://www.rfc-editor.org/rfc/rfc6455#section-4.1)).
///
/// ```
/// use ws_proto::handshake::ClientHandshake;
///
/// let handshake = ClientHandshake::new("example.com", "/chat", *b"sixteen bytes...")?;
/// let request = handshake.request();
/// assert!(request.starts_with(b"GET /chat HTTP/1.1\r\nHost: example.com\r\n"));
/// # Ok::<(), ws_proto::handshake::InvalidRequest>(())
/// ```
#[derive(Clone, Debug)]
pub struct ClientHandshake {
    host: String,
    target: String,
    key: String,
    protocols: Vec<String>,
    deflate: Option<DeflateConfig>,
    headers: Vec<(String, String)>,
}

impl ClientHandshake {
    /// Prepares a request.
    ///
    /// `host` is the host as the URL has it, with its port unless that is the scheme's default;
    /// `target` is path and query, and begins with `/`. `key` must be drawn at random for each
    /// connection.
    ///
    /// # Errors
    ///
    /// [`InvalidRequest`] if the host or the target could not be sent as they are.
    pub fn new(host: &str, target: &str, key: [u8; 16]) -> Result<Self, InvalidRequest> {
        let is_graphic = |part: &str| part.bytes().all(|byte| byte.is_ascii_graphic());
        if host.is_empty() || !is_graphic(host) {
            return Err(InvalidRequest::Host);
        }
        if !target.starts_with('/') || !is_graphic(target) || target.contains('#') {
            return Err(InvalidRequest::Target);
        }
        Ok(Self {
            host: host.to_owned(),
            target: target.to_owned(),
            key: STANDARD.encode(key),
            protocols: Vec::new(),
            deflate: None,
            headers: Vec::new(),
        })
    }

    /// Offers a subprotocol, after those offered before.
    ///
    /// # Errors
    ///
    /// [`InvalidRequest`] if the name is not a token or was offered already.
    pub fn with_protocol(mut self, protocol: &str) -> Result<Self, InvalidRequest> {
        if !is_token(protocol.as_bytes()) || self.protocols.iter().any(|known| known == protocol) {
            return Err(InvalidRequest::Protocol);
        }
        self.protocols.push(protocol.to_owned());
        Ok(self)
    }

    /// Offers compression.
    #[must_use]
    pub fn with_deflate(mut self, config: DeflateConfig) -> Self {
        self.deflate = Some(config);
        self
    }

    /// Adds a header, such as `Cookie` or `Origin`.
    ///
    /// # Errors
    ///
    /// [`InvalidRequest`] if its name or value is malformed, or if it belongs to the handshake.
    pub fn with_header(mut self, name: &str, value: &str) -> Result<Self, InvalidRequest> {
        // RFC 6455 §11.3: key and version must not appear more than once; RFC 9112 §3.2: nor Host.
        let is_taken = is_ours(name) || name.eq_ignore_ascii_case("Host");
        if is_taken || !is_token(name.as_bytes()) || !is_field_value(value.as_bytes()) {
            return Err(InvalidRequest::Header);
        }
        self.headers.push((name.to_owned(), value.to_owned()));
        Ok(self)
    }

    /// Returns the bytes of the request.
    #[must_use]
    pub fn request(&self) -> Vec<u8> {
        let mut head = format!("GET {} HTTP/1.1\r\n", self.target);
        push_header(&mut head, "Host", &self.host);
        push_header(&mut head, "Upgrade", "websocket");
        push_header(&mut head, "Connection", "Upgrade");
        push_header(&mut head, "Sec-WebSocket-Key", &self.key);
        push_header(&mut head, "Sec-WebSocket-Version", "13");
        if !self.protocols.is_empty() {
            push_header(
                &mut head,
                "Sec-WebSocket-Protocol",
                &self.protocols.join(", "),
            );
        }
        if let Some(deflate) = &self.deflate {
            push_header(&mut head, "Sec-WebSocket-Extensions", &deflate.offer());
        }
        for (name, value) in &self.headers {
            push_header(&mut head, name, value);
        }
        head.push_str("\r\n");
        head.into_bytes()
    }

    /// Returns a reader for the response to this request.
    #[must_use]
    pub fn response_reader(&self, limits: HeadLimits) -> ResponseReader {
        ResponseReader {
            scan: Some(Scan::new(limits)),
            accept_key: accept_key(self.key.as_bytes()),
            protocols: self.protocols.clone(),
            deflate: self.deflate,
        }
    }
}

/// What cannot be put into a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum InvalidRequest {
    /// The host is empty or has bytes that no host has.
    #[error("invalid host")]
    Host,
    /// The target does not begin with `/` or has bytes that no URI has.
    #[error("invalid request target")]
    Target,
    /// A subprotocol is not a token or not unique.
    #[error("invalid subprotocol")]
    Protocol,
    /// A header is malformed, or not the application's to set.
    #[error("invalid header")]
    Header,
}

/// Reads the response to a [`ClientHandshake`] from bytes that may be cut anywhere.
#[derive(Debug)]
pub struct ResponseReader {
    scan: Option<Scan>,
    accept_key: String,
    protocols: Vec<String>,
    deflate: Option<DeflateConfig>,
}

/// The server's consent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Accepted {
    /// The subprotocol that the server chose.
    pub protocol: Option<String>,
    /// The compression agreed upon, for [`Connection::with_deflate`](crate::Connection::with_deflate).
    pub deflate: Option<DeflateParams>,
    /// Bytes behind the head: the first frames.
    pub rest: Vec<u8>,
}

/// Why the client does not consider the connection open.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum HandshakeError {
    /// The response is not HTTP/1.1, or passes a limit.
    #[error("malformed response")]
    Malformed,
    /// The server answered with another status than 101.
    #[error("server answered with status {status}")]
    Refused {
        /// The status.
        status: u16,
    },
    /// `Upgrade` or `Connection` do not say what they must.
    #[error("response does not upgrade to websocket")]
    NotUpgraded,
    /// `Sec-WebSocket-Accept` does not fit the key.
    #[error("response does not fit the request's key")]
    WrongAcceptKey,
    /// The server chose a subprotocol that was not offered.
    #[error("subprotocol was not offered")]
    ProtocolNotOffered,
    /// The server chose an extension that was not offered, or not as it was offered.
    #[error("extension was not offered like that")]
    ExtensionNotOffered,
}

impl From<Rejection> for HandshakeError {
    fn from(_: Rejection) -> Self {
        Self::Malformed
    }
}

impl ResponseReader {
    /// Takes the next bytes; returns the server's consent when they complete it, `None` if more are
    /// needed.
    ///
    /// # Errors
    ///
    /// [`HandshakeError`] if there is no consent. The stream must then be closed. The reader yields
    /// one result; after it, it answers [`HandshakeError::Malformed`].
    pub fn read(&mut self, input: &[u8]) -> Result<Option<Accepted>, HandshakeError> {
        let read = self.advance(input);
        if read.is_err() {
            self.scan = None;
        }
        read
    }

    fn advance(&mut self, input: &[u8]) -> Result<Option<Accepted>, HandshakeError> {
        let scan = self.scan.as_mut().ok_or(HandshakeError::Malformed)?;
        let Some(consumed) = scan.feed(input)? else {
            return Ok(None);
        };
        let mut headers = vec![httparse::EMPTY_HEADER; scan.header_count()];
        let head = self
            .scan
            .take()
            .expect("the scan was there a moment ago")
            .into_head();
        let mut response = httparse::Response::new(&mut headers);
        match response.parse(&head) {
            Ok(httparse::Status::Complete(_)) => {}
            Ok(httparse::Status::Partial) | Err(_) => return Err(HandshakeError::Malformed),
        }
        let (protocol, deflate) = self.check(&response)?;
        Ok(Some(Accepted {
            protocol,
            deflate,
            rest: input[consumed..].to_vec(),
        }))
    }

    /// Applies RFC 6455 §4.1, "once the client's opening handshake has been sent".
    fn check(
        &self,
        response: &httparse::Response<'_, '_>,
    ) -> Result<(Option<String>, Option<DeflateParams>), HandshakeError> {
        let values = |name: &'static str| {
            let headers = response.headers.iter();
            headers
                .filter(move |header| header.name.eq_ignore_ascii_case(name))
                .map(|h| trim(h.value))
        };
        match (response.code, response.version) {
            (Some(101), Some(1)) => {}
            (Some(101), _) | (None, _) => return Err(HandshakeError::Malformed),
            (Some(status), _) => return Err(HandshakeError::Refused { status }),
        }
        let upgrades = values("Upgrade").all(|value| value.eq_ignore_ascii_case(b"websocket"));
        let connects = values("Connection")
            .flat_map(elements)
            .any(|element| element.eq_ignore_ascii_case(b"upgrade"));
        if !upgrades || values("Upgrade").next().is_none() || !connects {
            return Err(HandshakeError::NotUpgraded);
        }
        if !values("Sec-WebSocket-Accept").eq([self.accept_key.as_bytes()]) {
            return Err(HandshakeError::WrongAcceptKey);
        }
        let mut extensions = Vec::new();
        let mut lists = values("Sec-WebSocket-Extensions");
        if let Some(list) = lists.next() {
            extension::parse(list, &mut extensions).map_err(|_| HandshakeError::Malformed)?;
            // RFC 6455 §11.3.2: not more than once in a response; §9.1: no list without an element.
            if extensions.is_empty() || lists.next().is_some() {
                return Err(HandshakeError::Malformed);
            }
        }
        let deflate = match &self.deflate {
            Some(offered) => offered
                .agree(&extensions)
                .map_err(|_| HandshakeError::ExtensionNotOffered)?,
            None if extensions.is_empty() => None,
            None => return Err(HandshakeError::ExtensionNotOffered),
        };
        let mut chosen = values("Sec-WebSocket-Protocol");
        let protocol = match (chosen.next(), chosen.next()) {
            (None, _) => Ok(None),
            (Some(protocol), None) => self
                .protocols
                .iter()
                .find(|offered| offered.as_bytes() == protocol)
                .map(|offered| Some(offered.clone()))
                .ok_or(HandshakeError::ProtocolNotOffered),
            (Some(_), Some(_)) => Err(HandshakeError::ProtocolNotOffered),
        }?;
        Ok((protocol, deflate))
    }
}

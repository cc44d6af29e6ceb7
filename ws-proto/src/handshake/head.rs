//! Reading the head of a request.

use std::ops::Range;

use super::field::{elements, is_token};
use super::scan::Scan;
use super::{BadRequest, HeadLimits, Rejection};

/// The version of HTTP in a request line.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Version {
    /// HTTP/1.0: can be answered, never upgraded.
    Http10,
    /// HTTP/1.1.
    Http11,
}

/// Reads the head of a request from bytes that may be cut anywhere.
///
/// Each byte is looked at once when it arrives, and the head is parsed once when it is complete, so
/// the work is linear in what was received. After an error, or after the head, the reader is done.
#[derive(Debug)]
pub struct HeadReader {
    /// `None` once the head is complete or refused.
    scan: Option<Scan>,
    is_first_line_checked: bool,
}

impl HeadReader {
    /// Starts a head.
    #[must_use]
    pub fn new(limits: HeadLimits) -> Self {
        Self {
            scan: Some(Scan::new(limits)),
            is_first_line_checked: false,
        }
    }

    /// Takes the next bytes; returns the head when they complete it, `None` if more are needed.
    ///
    /// # Errors
    ///
    /// [`Rejection`] if the head breaks a rule or a limit, or if bytes follow it: before the 101
    /// the client has nothing more to say, and no request of ours has a body. Any byte passed
    /// after the head is [`Rejection::EarlyData`] too.
    pub fn read(&mut self, input: &[u8]) -> Result<Option<RequestHead>, Rejection> {
        let read = self.advance(input);
        if read.is_err() {
            self.scan = None;
        }
        read
    }

    fn advance(&mut self, input: &[u8]) -> Result<Option<RequestHead>, Rejection> {
        let Some(scan) = &mut self.scan else {
            return if input.is_empty() {
                Ok(None)
            } else {
                Err(Rejection::EarlyData)
            };
        };
        let fed = scan.feed(input);
        // What is not HTTP at all is told at once, whatever else may be wrong behind it.
        if let (false, Some(line)) = (self.is_first_line_checked, scan.first_line()) {
            self.is_first_line_checked = true;
            check_request_line(line)?;
        }
        let Some(consumed) = fed? else {
            return Ok(None);
        };
        let header_count = scan.header_count();
        let scan = self.scan.take().expect("the scan was there a moment ago");
        let head = RequestHead::parse(scan.into_head(), header_count)?;
        if consumed < input.len() {
            // Another method is refused whether it has a body or not.
            return Err(if head.method() == "GET" {
                Rejection::EarlyData
            } else {
                Rejection::MethodNotAllowed
            });
        }
        Ok(Some(head))
    }
}

/// The head of a request: method, target, version and headers.
#[derive(Clone, PartialEq, Eq)]
pub struct RequestHead {
    bytes: Box<[u8]>,
    method: Range<usize>,
    target: Range<usize>,
    version: Version,
    headers: Vec<(Range<usize>, Range<usize>)>,
}

impl RequestHead {
    /// Returns the method, such as `GET`.
    #[must_use]
    pub fn method(&self) -> &str {
        self.str(&self.method)
    }

    /// Returns the request target as it was sent, all of it ASCII.
    #[must_use]
    pub fn target(&self) -> &str {
        self.str(&self.target)
    }

    /// Returns the path and query of the target: it begins with `/`, also if the client sent an
    /// absolute URI, but for the `*` of OPTIONS and the authority of CONNECT.
    #[must_use]
    pub fn path_and_query(&self) -> &str {
        match authority_and_path(self.target()) {
            Some((_, "")) => "/",
            Some((_, path)) => path,
            None => self.target(),
        }
    }

    /// Returns the version of HTTP.
    #[must_use]
    pub fn version(&self) -> Version {
        self.version
    }

    /// Returns the headers in their order. Values are without the white space around them and hold
    /// no control byte but the tab.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &[u8])> {
        self.headers
            .iter()
            .map(|(name, value)| (self.str(name), &self.bytes[value.clone()]))
    }

    /// Returns the value of the first header of this name, in any case, if it is UTF-8.
    #[must_use]
    pub fn header(&self, name: &str) -> Option<&str> {
        self.header_bytes(name)
            .and_then(|value| std::str::from_utf8(value).ok())
    }

    /// Returns the value of the first header of this name, in any case.
    #[must_use]
    pub fn header_bytes(&self, name: &str) -> Option<&[u8]> {
        self.values(name).next()
    }

    /// Returns how many headers of this name there are.
    #[must_use]
    pub fn header_count(&self, name: &str) -> usize {
        self.values(name).count()
    }

    /// Tells whether the comma-separated list in the headers of this name has `token` in it, in any
    /// case.
    #[must_use]
    pub fn has_token(&self, name: &str, token: &str) -> bool {
        self.values(name)
            .flat_map(elements)
            .any(|element| element.eq_ignore_ascii_case(token.as_bytes()))
    }

    /// Tells whether the client asks for a WebSocket: what is checked in earnest by
    /// [`Upgrade::new`](super::Upgrade::new), and what tells it from the request for a page.
    #[must_use]
    pub fn wants_websocket(&self) -> bool {
        self.has_token("Upgrade", "websocket")
    }

    pub(super) fn values<'a>(&'a self, name: &str) -> impl Iterator<Item = &'a [u8]> {
        self.headers
            .iter()
            .filter(move |(other, _)| {
                self.bytes[other.clone()].eq_ignore_ascii_case(name.as_bytes())
            })
            .map(|(_, value)| &self.bytes[value.clone()])
    }

    fn str(&self, range: &Range<usize>) -> &str {
        std::str::from_utf8(&self.bytes[range.clone()]).expect("names and targets are ASCII")
    }

    /// Parses a head that the scan found complete.
    fn parse(bytes: Vec<u8>, header_count: usize) -> Result<Self, Rejection> {
        let base = bytes.as_ptr() as usize;
        let locate = |part: &[u8]| {
            let start = part.as_ptr() as usize - base;
            start..start + part.len()
        };
        let mut headers = vec![httparse::EMPTY_HEADER; header_count];
        let mut request = httparse::Request::new(&mut headers);
        match request.parse(&bytes) {
            Ok(httparse::Status::Complete(_)) => {}
            Ok(httparse::Status::Partial) => return Err(BadRequest::NotHttp.into()),
            Err(httparse::Error::Version) => return Err(Rejection::VersionNotSupported),
            Err(httparse::Error::HeaderName | httparse::Error::HeaderValue) => {
                return Err(BadRequest::MalformedHeader.into());
            }
            Err(_) => return Err(BadRequest::NotHttp.into()),
        }
        let (Some(method), Some(target), Some(minor)) =
            (request.method, request.path, request.version)
        else {
            return Err(BadRequest::NotHttp.into());
        };
        let version = if minor == 0 {
            Version::Http10
        } else {
            Version::Http11
        };
        let (method, target) = (locate(method.as_bytes()), locate(target.as_bytes()));
        let headers = request
            .headers
            .iter()
            .map(|header| (locate(header.name.as_bytes()), locate(header.value)))
            .collect();
        let head = Self {
            bytes: bytes.into_boxed_slice(),
            method,
            target,
            version,
            headers,
        };
        head.check_host()?;
        head.check_target()?;
        Ok(head)
    }

    fn check_host(&self) -> Result<(), BadRequest> {
        let mut hosts = self.values("Host");
        let Some(host) = hosts.next() else {
            // RFC 9112 §3.2: HTTP/1.1 without Host is answered 400; HTTP/1.0 has none.
            return match self.version {
                Version::Http10 => Ok(()),
                Version::Http11 => Err(BadRequest::MissingHost),
            };
        };
        // RFC 9112 §3.2: so is more than one, or an invalid one.
        if hosts.next().is_some() {
            return Err(BadRequest::DuplicateHost);
        }
        let is_host_byte =
            |&byte: &u8| byte.is_ascii_alphanumeric() || b"-._~!$&'()*+,;=%:[]".contains(&byte);
        if host.is_empty() || !host.iter().all(is_host_byte) {
            return Err(BadRequest::InvalidHost);
        }
        Ok(())
    }

    fn check_target(&self) -> Result<(), BadRequest> {
        let target = self.target();
        // RFC 3986 §2: a URI is ASCII; RFC 6455 §3: a fragment has no place in it.
        if !target
            .bytes()
            .all(|byte| byte.is_ascii_graphic() && byte != b'#')
        {
            return Err(BadRequest::InvalidTarget);
        }
        if target.starts_with('/') || self.method() != "GET" {
            return Ok(());
        }
        // RFC 9112 §3.2.2: a server must accept an absolute URI, whose host then counts. Ours is
        // accepted when both hosts are the same, so nobody has to choose.
        let host = self.header("Host").unwrap_or_default();
        match authority_and_path(target) {
            Some((authority, _)) if authority.eq_ignore_ascii_case(host) => Ok(()),
            Some(_) | None => Err(BadRequest::InvalidTarget),
        }
    }
}

impl std::fmt::Debug for RequestHead {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        // Values hold cookies and tokens; they stay out of logs.
        f.debug_struct("RequestHead")
            .field("method", &self.method())
            .field("target_len", &self.target.len())
            .field("version", &self.version)
            .field(
                "headers",
                &self.iter().map(|(name, _)| name).collect::<Vec<_>>(),
            )
            .finish()
    }
}

/// Splits an absolute URI; `None` if it is none.
fn authority_and_path(target: &str) -> Option<(&str, &str)> {
    let (scheme, rest) = target.split_once("://")?;
    if !["http", "https", "ws", "wss"]
        .iter()
        .any(|known| known.eq_ignore_ascii_case(scheme))
    {
        return None;
    }
    let (authority, path) = rest.split_at(rest.find(['/', '?']).unwrap_or(rest.len()));
    // A query without a path has no resource name to stand for it.
    (!authority.is_empty() && !path.starts_with('?')).then_some((authority, path))
}

/// Checks that a line is `METHOD target HTTP/1.x`.
fn check_request_line(line: &[u8]) -> Result<(), Rejection> {
    let mut parts = line.split(|&byte| byte == b' ');
    let (Some(method), Some(target), Some(version), None) =
        (parts.next(), parts.next(), parts.next(), parts.next())
    else {
        return Err(BadRequest::NotHttp.into());
    };
    if !is_token(method) || target.is_empty() {
        return Err(BadRequest::NotHttp.into());
    }
    match version {
        b"HTTP/1.1" | b"HTTP/1.0" => Ok(()),
        [b'H', b'T', b'T', b'P', b'/', major, b'.', minor]
            if major.is_ascii_digit() && minor.is_ascii_digit() =>
        {
            Err(Rejection::VersionNotSupported)
        }
        _ => Err(BadRequest::NotHttp.into()),
    }
}

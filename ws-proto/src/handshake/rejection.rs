//! Why an opening handshake is refused, and the answer that says so.

use super::response::response;

/// Why an opening handshake is refused.
///
/// Every one of them is answered with [`response`](Self::response), after which the stream is
/// closed and nothing more of it is parsed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Rejection {
    /// Bytes followed the head before it was answered (400).
    ///
    /// A proxy that takes the handshake for granted would let them through as another request, so
    /// they are never looked at.
    #[error("bytes behind the request head")]
    EarlyData,
    /// The head is larger than [`HeadLimits::max_head_size`](super::HeadLimits::max_head_size) (431).
    #[error("request head over {max} bytes (max_head_size)")]
    HeadTooLarge {
        /// The limit.
        max: usize,
    },
    /// There are more than [`HeadLimits::max_header_count`](super::HeadLimits::max_header_count) headers (431).
    #[error("more than {max} headers (max_header_count)")]
    TooManyHeaders {
        /// The limit.
        max: usize,
    },
    /// The target is longer than [`HeadLimits::max_target_size`](super::HeadLimits::max_target_size) (414).
    #[error("request target over {max} bytes (max_target_size)")]
    TargetTooLong {
        /// The limit.
        max: usize,
    },
    /// The request breaks a rule (400).
    #[error("bad request: {0}")]
    BadRequest(#[from] BadRequest),
    /// The method is not GET (405).
    #[error("method is not GET")]
    MethodNotAllowed,
    /// The version is not HTTP/1.1 (505).
    #[error("version is not HTTP/1.1")]
    VersionNotSupported,
    /// The request does not ask for a WebSocket (426).
    #[error("no upgrade to websocket")]
    UpgradeRequired,
    /// The request asks for another version of the WebSocket protocol than 13 (426).
    #[error("websocket version is not 13")]
    WrongWebSocketVersion,
}

/// Which rule a request breaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, thiserror::Error)]
#[non_exhaustive]
pub enum BadRequest {
    /// The first line is not a request line.
    #[error("not an HTTP request")]
    NotHttp,
    /// A CR without LF, or an LF without CR.
    #[error("bare CR or LF")]
    BareLineEnd,
    /// A control byte, such as NUL.
    #[error("control byte in the head")]
    ControlByte,
    /// A header continued on a second line.
    #[error("folded header")]
    FoldedHeader,
    /// A header line that is none, such as one with a space before its colon.
    #[error("malformed header")]
    MalformedHeader,
    /// A target that is neither a path nor an absolute URI of this host.
    #[error("invalid request target")]
    InvalidTarget,
    /// No `Host`.
    #[error("no Host header")]
    MissingHost,
    /// More than one `Host`.
    #[error("more than one Host header")]
    DuplicateHost,
    /// A `Host` that cannot be one.
    #[error("invalid Host header")]
    InvalidHost,
    /// A body, or a header that announces one.
    #[error("request with a body")]
    Body,
    /// No `Sec-WebSocket-Key`.
    #[error("no Sec-WebSocket-Key header")]
    MissingKey,
    /// More than one `Sec-WebSocket-Key`.
    #[error("more than one Sec-WebSocket-Key header")]
    DuplicateKey,
    /// A key that is not 16 bytes in base64.
    #[error("invalid Sec-WebSocket-Key header")]
    InvalidKey,
    /// More than one `Sec-WebSocket-Version`.
    #[error("more than one Sec-WebSocket-Version header")]
    DuplicateVersion,
    /// A `Sec-WebSocket-Protocol` that is not a list of distinct tokens.
    #[error("invalid Sec-WebSocket-Protocol header")]
    InvalidProtocol,
    /// A `Sec-WebSocket-Extensions` that does not follow its grammar.
    #[error("invalid Sec-WebSocket-Extensions header")]
    InvalidExtensions,
}

impl Rejection {
    /// Returns the status of the answer.
    #[must_use]
    pub fn status(&self) -> u16 {
        match self {
            Self::EarlyData | Self::BadRequest(_) => 400,
            Self::MethodNotAllowed => 405,
            Self::TargetTooLong { .. } => 414,
            Self::UpgradeRequired | Self::WrongWebSocketVersion => 426,
            Self::HeadTooLarge { .. } | Self::TooManyHeaders { .. } => 431,
            Self::VersionNotSupported => 505,
        }
    }

    /// Returns the whole answer: it closes the connection, and nothing of the request is in it.
    #[must_use]
    pub fn response(&self) -> Vec<u8> {
        let headers: &[(&str, &str)] = match self {
            Self::MethodNotAllowed => &[("Allow", "GET")],
            // RFC 9110 §15.5.22: a 426 must name the protocol it asks for.
            Self::UpgradeRequired => &[("Upgrade", "websocket")],
            // RFC 6455 §4.4: a server must name the versions it understands.
            Self::WrongWebSocketVersion => {
                &[("Upgrade", "websocket"), ("Sec-WebSocket-Version", "13")]
            }
            Self::EarlyData
            | Self::HeadTooLarge { .. }
            | Self::TooManyHeaders { .. }
            | Self::TargetTooLong { .. }
            | Self::BadRequest(_)
            | Self::VersionNotSupported => &[],
        };
        response(self.status(), headers, &format!("{self}\n"))
    }
}

//! What a callback is asked.

use bytes::Bytes;
use ws_proto::MessageKind;

use super::uri::Uri;

/// Where a run comes from (`WS_SOURCE`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Source {
    Client,
    Fifo,
    Api,
    Cli,
}

impl Source {
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Client => "client",
            Self::Fifo => "fifo",
            Self::Api => "api",
            Self::Cli => "cli",
        }
    }
}

/// One accepted message, as the callback gets it.
#[derive(Clone, Debug)]
pub(crate) struct Question {
    pub(crate) source: Source,
    pub(crate) kind: MessageKind,
    pub(crate) payload: Bytes,
}

impl Question {
    /// What it asks for, if it is a URI; otherwise it is the content for the handshake's.
    pub(crate) fn uri(&self) -> Option<Uri<'_>> {
        match self.kind {
            MessageKind::Text => Uri::parse(&self.payload),
            MessageKind::Binary => None,
        }
    }

    pub(crate) fn kind_name(&self) -> &'static str {
        match self.kind {
            MessageKind::Text => "text",
            MessageKind::Binary => "binary",
        }
    }
}

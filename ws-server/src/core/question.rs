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

/// What a callback is asked for (`WS_EVENT`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Occasion {
    /// A message came.
    Message,
    /// The connection is open.
    Open(Standing),
    /// The connection has ended; with its close code and the cause.
    Close {
        standing: Standing,
        code: u16,
        cause: &'static str,
    },
}

impl Occasion {
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Message => "message",
            Self::Open(_) => "open",
            Self::Close { .. } => "close",
        }
    }

    pub(crate) fn is_message(self) -> bool {
        self == Self::Message
    }

    pub(crate) fn standing(self) -> Option<Standing> {
        match self {
            Self::Message => None,
            Self::Open(standing) | Self::Close { standing, .. } => Some(standing),
        }
    }
}

/// How a user stands behind a connection that opened or closed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Standing {
    /// Grows with every such change, whoever's, also over restarts of the server unless the clock
    /// was set back: of two events the one with the greater number tells the later state.
    pub(crate) generation: u64,
    /// The user's connections, this one among them if it opened.
    pub(crate) connections: usize,
}

/// One accepted message, or another event, as the callback gets it.
#[derive(Clone, Debug)]
pub(crate) struct Question {
    pub(crate) event: Occasion,
    pub(crate) source: Source,
    pub(crate) kind: MessageKind,
    pub(crate) payload: Bytes,
}

impl Question {
    /// That a connection opened or closed.
    pub(crate) fn of_event(event: Occasion) -> Self {
        Self {
            event,
            source: Source::Client,
            kind: MessageKind::Text,
            payload: Bytes::new(),
        }
    }

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

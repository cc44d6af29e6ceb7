//! The span of a connection: how the log says which one it is.

use std::net::SocketAddr;

use tracing::{Span, info_span};
use ws_session::{ConnectionId, SessionId, UserId};

/// What the log says of a connection.
///
/// The span is made anew for each line: one that lived as long as the connection would keep the
/// subscriber's copy of its fields in memory all that time.
#[derive(Debug)]
pub(crate) struct ConnectionLabel {
    pub(crate) id: ConnectionId,
    pub(crate) peer: Option<SocketAddr>,
    pub(crate) session: SessionId,
    pub(crate) user: UserId,
}

impl ConnectionLabel {
    /// A span for one line.
    pub(crate) fn span(&self) -> Span {
        info_span!(
            "connection",
            conn.id = %self.id,
            peer.addr = self.peer.map(tracing::field::display),
            session.id = %self.session,
            user.id = %self.user
        )
    }
}

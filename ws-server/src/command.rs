//! What worker threads are told, and what they answer.

use std::sync::Arc;
use std::time::Instant;

use bytes::Bytes;
use serde::Serialize;
use tokio::sync::{mpsc, oneshot};
use ws_proto::{CloseFrame, EncodedMessage};
use ws_session::ConnectionId;
use ws_transport::{Accepted, DetachedListener};

use crate::core::question::Source;
use crate::sockets::SocketTicket;

/// What a worker is told.
#[derive(Debug)]
pub(crate) enum Command {
    /// Accept on this listener, for all workers. `ended` is dropped when that has ended.
    Listen {
        listener: Box<DetachedListener>,
        ended: mpsc::Sender<()>,
    },
    /// Serve this socket.
    Adopt(Adoption),
    /// Write messages to some of your connections, each to all, in their order.
    Push {
        recipients: Recipients,
        messages: Arc<[EncodedMessage]>,
        receipt: oneshot::Sender<Receipt>,
    },
    /// Run the application for some of your connections.
    Run {
        recipients: Recipients,
        uri: Bytes,
        source: Source,
        receipt: oneshot::Sender<Receipt>,
    },
    /// Close some of your connections.
    Close {
        recipients: Recipients,
        frame: CloseFrame,
        receipt: oneshot::Sender<Receipt>,
    },
    /// Accept nothing more, close each connection when its work is done, then end.
    Drain,
    /// End at once.
    Stop,
}

/// A socket that was accepted.
#[derive(Debug)]
pub(crate) struct Adoption {
    pub(crate) socket: Accepted,
    pub(crate) ticket: SocketTicket,
    pub(crate) accepted_at: Instant,
}

/// Which of a worker's connections a command is for.
#[derive(Clone, Debug)]
pub(crate) enum Recipients {
    All,
    Some(Vec<Recipient>),
}

/// One connection, and where its worker keeps it as long as it is open.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Recipient {
    pub(crate) id: ConnectionId,
    pub(crate) slot: u32,
}

/// How far a push got with the connections it was meant for; of several messages, each counts.
///
/// `connections` is the sum of the others.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub(crate) struct Receipt {
    pub(crate) connections: u64,
    /// Taken whole by the kernel.
    pub(crate) written: u64,
    /// Waits behind what the peer has not read yet.
    pub(crate) queued: u64,
    /// Not accepted: the queue was full (that connection is closed) or the connection ended.
    pub(crate) dropped: u64,
}

impl Receipt {
    /// What becomes of messages for a connection that takes none.
    pub(crate) fn all_dropped(messages: u64) -> Self {
        Self {
            connections: messages,
            dropped: messages,
            ..Self::default()
        }
    }

    pub(crate) fn add(&mut self, other: Self) {
        self.connections += other.connections;
        self.written += other.written;
        self.queued += other.queued;
        self.dropped += other.dropped;
    }
}

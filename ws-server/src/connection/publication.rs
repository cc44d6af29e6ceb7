//! Messages on their way to many connections.

use bytes::Bytes;
use ws_proto::EncodedMessage;

use crate::command::Notices;

/// Messages that are written together, prepared once for all connections of a worker.
#[derive(Debug)]
pub(crate) struct Publication<'a> {
    pub(super) messages: &'a [EncodedMessage],
    /// Where it is told what becomes of those that are queued, if anybody waits for it.
    pub(super) notices: Option<&'a Notices>,
    /// The frames of connections without compression.
    frames: Vec<Bytes>,
    /// The same one after another, unless there is only one.
    joined: Vec<u8>,
}

impl<'a> Publication<'a> {
    pub(crate) fn new(messages: &'a [EncodedMessage], notices: Option<&'a Notices>) -> Self {
        let frames: Vec<Bytes> = messages.iter().map(|one| one.as_bytes().clone()).collect();
        let joined = match &frames[..] {
            [_] => Vec::new(),
            frames => frames.concat(),
        };
        Self {
            messages,
            notices,
            frames,
            joined,
        }
    }

    pub(super) fn frames(&self) -> &[Bytes] {
        &self.frames
    }

    pub(super) fn joined(&self) -> &[u8] {
        match &self.frames[..] {
            [one] => one,
            _ => &self.joined,
        }
    }
}

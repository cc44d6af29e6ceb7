//! Answers that leave line by line, while their callback runs.

use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::Bytes;
use ws_ipc::exec::Sink;
use ws_ipc::{LineDecoder, LineTooLong};

use super::Connection;
use crate::core::answer::{Reply, kind_of};
use crate::core::turns::MessageId;
use crate::shared::Shared;

/// What a line that is held back counts for besides its bytes.
const LINE_COST: usize = 64;

/// Takes the lines of one callback.
pub(super) struct AnswerLines {
    connection: Rc<Connection>,
    server: Arc<Shared>,
    id: MessageId,
    decoder: LineDecoder,
    /// Bytes that are held back for earlier answers.
    held: usize,
    max: usize,
    /// Lines so far, and their bytes.
    pub(super) count: u64,
    pub(super) size: u64,
}

impl AnswerLines {
    pub(super) fn new(connection: Rc<Connection>, server: Arc<Shared>, id: MessageId) -> Self {
        let max = server.current().config.app().max_output;
        Self {
            connection,
            server,
            id,
            decoder: LineDecoder::new(max),
            held: 0,
            max,
            count: 0,
            size: 0,
        }
    }

    /// Takes a last line without a newline.
    pub(super) fn finish(&mut self) {
        let mut last = None;
        self.decoder
            .finish(&mut |line| last = Some(Bytes::copy_from_slice(line)));
        self.send(last);
    }

    /// Sends lines, or holds them back until it is their turn.
    fn send(&mut self, lines: impl IntoIterator<Item = Bytes>) {
        let counters = &self.server.hub.counters;
        let mut state = self.connection.state.borrow_mut();
        for payload in lines {
            self.count += 1;
            self.size += payload.len() as u64;
            self.held += payload.len() + LINE_COST;
            let kind = kind_of(&payload);
            if let Some(reply) = state.turns.offer(self.id, Reply { kind, payload }) {
                state.reply(&reply, counters);
            }
        }
        if state.turns.is_next(self.id) {
            self.held = 0;
            state.flush(counters);
            // The driver looks after what waits, and after an end.
            if !(state.output.is_flushed() && state.is_open()) {
                self.connection.seat.ask();
            }
        }
    }
}

impl Sink for AnswerLines {
    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let mut state = self.connection.state.borrow_mut();
        let takes_more = match state.turns.is_next(self.id) {
            true => !state.is_held_back(),
            false => self.held < self.max,
        };
        if takes_more || !state.is_open() {
            return Poll::Ready(());
        }
        state.work.wait(self.id, cx.waker());
        Poll::Pending
    }

    fn take(&mut self, output: &[u8]) -> Result<(), LineTooLong> {
        let mut lines = Vec::new();
        let fed = self
            .decoder
            .feed(output, &mut |line| lines.push(Bytes::copy_from_slice(line)));
        self.send(lines);
        fed
    }
}

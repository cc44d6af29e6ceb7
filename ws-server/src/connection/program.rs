//! A program of the connection's own: what the peer says is its input, what it writes the peer
//! hears.

use std::io::IoSlice;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll};

use tracing::{info, warn};
use ws_ipc::stream::Host;
use ws_ipc::{LineDecoder, LineTooLong};
use ws_proto::{CloseCode, CloseFrame, MessageKind};

use super::Connection;
use super::work::{Program, Work};
use crate::config::{OnDisconnect, StreamOutput};
use crate::core::answer::{Answer, kind_of};
use crate::core::failure::RunFailure;
use crate::core::feed::Feed;
use crate::counters::{CallbackFailure, CloseCause};
use crate::shard::Shard;
use crate::spans::RunSpan;

impl Connection {
    /// Starts the program, if the application is one for each connection.
    pub(crate) fn start_program(self: &Rc<Self>, shard: &Rc<Shard>) {
        let current = shard.server.current();
        let application = current.application.as_ref();
        let Some(application) = application.filter(|application| application.is_stream()) else {
            return;
        };
        let output = application.stream.output;
        self.state.borrow_mut().work = Work::Program(Box::default());
        shard.server.hub.counters.programs_started.increment();
        let task = ProgramTask::new(Rc::clone(self), Rc::clone(shard), output);
        let handle = shard.spawn(task.run());
        if let Some(program) = self.state.borrow_mut().work.program() {
            program.handle = Some(handle);
        }
    }

    /// Sends all messages that `fill` hands on, in one write.
    fn send_all<T>(
        &self,
        shard: &Shard,
        fill: impl FnOnce(&mut dyn FnMut(MessageKind, &[u8])) -> T,
    ) -> T {
        let counters = &shard.server.hub.counters;
        let mut scratch = shard.scratch.borrow_mut();
        let out = &mut scratch.write;
        // What a fault of ours left there is another connection's.
        out.clear();
        let mut state = self.state.borrow_mut();
        let filled = fill(&mut |kind, payload| match state.is_open() {
            true => out.push(true, |out| state.encode(kind, payload, out, counters)),
            false => counters.replies_dropped.increment(),
        });
        state.output.write_through(out, &[], counters);
        if !state.output.is_flushed() {
            self.seat.ask();
        }
        filled
    }
}

/// Looks after the program of a connection.
struct ProgramTask {
    connection: Rc<Connection>,
    shard: Rc<Shard>,
    /// Messages that the program has not taken yet.
    feed: Feed,
    /// `None`: what it writes are bytes.
    decoder: Option<LineDecoder>,
    /// The end of the program was counted.
    is_counted: bool,
}

impl ProgramTask {
    fn new(connection: Rc<Connection>, shard: Rc<Shard>, output: StreamOutput) -> Self {
        let current = shard.server.current();
        let app = current.config.app();
        let decoder = match output {
            StreamOutput::Text => Some(LineDecoder::new(app.max_output)),
            StreamOutput::Binary => None,
        };
        Self {
            connection,
            shard,
            feed: Feed::default(),
            decoder,
            is_counted: false,
        }
    }

    async fn run(mut self) {
        let shard = Rc::clone(&self.shard);
        let connection = Rc::clone(&self.connection);
        let current = Arc::clone(&shard.server.current());
        let visitor = &connection.visitor;
        let backend = current.config.app().backend.name();
        let span = RunSpan::of_handshake(&shard.server, visitor, "stream", backend);
        let end = match &current.application {
            Some(application) => {
                let data = shard.server.hub.keeper.data(visitor.session);
                let program = application.converse(visitor, span.trace(), data, &mut self);
                program.await
            }
            None => Ok(()),
        };
        let failure = end.as_ref().err();
        span.end(failure.map(|failure| failure.cause().as_str()));
        self.finish(end);
    }

    /// Counts how the program ended, and closes the connection for it.
    fn finish(&mut self, end: Result<(), RunFailure>) {
        if let Some(decoder) = &mut self.decoder {
            self.connection.send_all(&self.shard, |send| {
                decoder.finish(&mut |line| send(kind_of(line), line));
            });
        }
        self.is_counted = true;
        let counters = &self.shard.server.hub.counters;
        match &end {
            Ok(()) => counters.programs_ended.increment(),
            Err(failure) => {
                let cause = failure.cause();
                counters.program_failed(cause);
                warn!(
                    parent: &self.connection.visitor.span(),
                    cause = cause.as_str(), error = %failure, "program failed"
                );
            }
        }
        let mut state = self.connection.state.borrow_mut();
        if !state.is_open() {
            return;
        }
        match (end, state.is_draining) {
            (_, true) => state.close(
                CloseCause::Drain,
                CloseFrame::new(CloseCode::AWAY, "server is going down"),
            ),
            (Ok(()), false) => state.close(
                CloseCause::ProgramEnded,
                CloseFrame::new(CloseCode::NORMAL, ""),
            ),
            // What it failed of is none of the peer's business.
            (Err(_), false) => state.close(
                CloseCause::ProgramFailed,
                CloseFrame::new(CloseCode::INTERNAL, ""),
            ),
        }
    }

    /// Takes over the messages that were accepted since.
    fn fetch(&mut self) {
        let current = self.shard.server.current();
        let app = current.config.app();
        let mut state = self.connection.state.borrow_mut();
        if !state.is_open() && app.on_disconnect == OnDisconnect::Cancel {
            drop(state);
            return self.give_up();
        }
        while let Some((id, question)) = state.turns.start() {
            let is_line = question.kind == MessageKind::Text;
            if is_line || !question.payload.is_empty() {
                self.feed.push(id, question.payload, is_line);
                continue;
            }
            // An empty binary message is nothing to write.
            let counters = &self.shard.server.hub.counters;
            counters.callbacks_started.increment();
            counters.callbacks_finished.increment();
            state.turns.finish(id, Answer::default());
            state.turns.next_answer();
        }
    }

    /// Drops the messages that the program has not taken.
    fn give_up(&mut self) {
        let mut state = self.connection.state.borrow_mut();
        let mut count = state.turns.cancel_waiting() as u64;
        for id in self.feed.give_up() {
            state.turns.finish(id, Answer::default());
            state.turns.next_answer();
            count += 1;
        }
        self.shard
            .server
            .hub
            .counters
            .callbacks_cancelled
            .add(count);
    }

    fn with_program<T>(&self, act: impl FnOnce(&mut Program) -> T) -> Option<T> {
        self.connection.state.borrow_mut().work.program().map(act)
    }
}

impl Host for ProgramTask {
    fn poll_changed(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let changed = self.with_program(|program| program.bell.poll_rung(cx));
        changed.unwrap_or(Poll::Pending)
    }

    fn input<'a>(&'a mut self, slices: &mut [IoSlice<'a>]) -> usize {
        self.fetch();
        self.feed.slices(slices)
    }

    fn advance(&mut self, written: usize) {
        let counters = &self.shard.server.hub.counters;
        let mut state = self.connection.state.borrow_mut();
        let had_room = state.turns.has_room();
        self.feed.advance(written, |id| {
            counters.callbacks_started.increment();
            counters.callbacks_finished.increment();
            state.turns.finish(id, Answer::default());
            state.turns.next_answer();
        });
        // Somebody may wait for room, or for everything accepted to be done with.
        if !had_room || state.is_draining || self.connection.waiting_runs() > 0 {
            self.connection.seat.ask();
        }
    }

    fn is_ending(&self) -> bool {
        let mut state = self.connection.state.borrow_mut();
        let is_dismissed = state
            .work
            .program()
            .is_none_or(|program| program.is_dismissed);
        is_dismissed || !state.is_open()
    }

    fn takes_output(&self) -> bool {
        let mut state = self.connection.state.borrow_mut();
        let is_held_back = state.is_open() && state.is_held_back();
        if let Some(program) = state.work.program() {
            program.is_held_back = is_held_back;
        }
        !is_held_back
    }

    fn take(&mut self, output: &[u8]) -> Result<(), LineTooLong> {
        let decoder = &mut self.decoder;
        self.connection.send_all(&self.shard, |send| match decoder {
            Some(decoder) => decoder.feed(output, &mut |line| send(kind_of(line), line)),
            None => {
                send(MessageKind::Binary, output);
                Ok(())
            }
        })
    }

    fn log(&mut self, line: &str) {
        info!(conn.id = %self.connection.id(), line, "stderr");
    }
}

impl Drop for ProgramTask {
    fn drop(&mut self) {
        self.give_up();
        if !self.is_counted {
            // It was aborted: it has no other end.
            let counters = &self.shard.server.hub.counters;
            counters.program_failed(CallbackFailure::Cancelled);
        }
        self.with_program(|program| program.has_ended = true);
        self.connection.seat.ask();
    }
}

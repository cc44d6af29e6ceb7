//! One open connection: the shell that carries bytes between its stream, its protocol machine and
//! its callbacks.
//!
//! What a byte, a deadline, an answer or a push does is decided by `ws_proto::Connection`,
//! [`Turns`] and [`Outbound`]; here their decisions are carried out. A connection belongs to one
//! worker thread, so its state is in a `RefCell` that is never borrowed over an await.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::io;
use std::pin::pin;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Instant;

use bytes::Bytes;
use tokio::sync::Notify;
use tokio::task::AbortHandle;
use tokio::time::sleep_until;
use tracing::{Span, info, warn};
use ws_proto::{CloseCode, CloseFrame, EncodedMessage, Event, Input, MessageKind, State, frame};
use ws_session::{ConnectionId, Outbound};
use ws_transport::Stream;

use crate::application::{Question, Source};
use crate::config::OnDisconnect;
use crate::core::answer::{Answer, Reply};
use crate::core::failure::RunFailure;
use crate::core::turns::{MessageId, TurnLimits, Turns};
use crate::counters::{CloseCause, Counters};
use crate::hub::Receipt;
use crate::shard::{Frames, Shard};
use crate::visitor::Visitor;

/// The connection has ended or accepts nothing more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Ended;

/// One open connection, shared by its driver, its callbacks and the worker's pushes.
#[derive(Debug)]
pub(crate) struct Connection {
    pub(crate) id: ConnectionId,
    visitor: Visitor,
    span: Span,
    opened: Instant,
    state: RefCell<Inner>,
    /// Wakes the driver: something happened that is not on the stream.
    changed: Notify,
    /// Wakes whoever waits for room among the turns.
    room: Notify,
    /// Wakes whoever works for the connection while it is open.
    ended: Notify,
    /// Runs that wait for room: accepted by a door, so the connection does not drain before them.
    waiting_runs: Cell<usize>,
}

#[derive(Debug)]
struct Inner {
    /// Taken when the connection ends: what is left of it then holds no descriptor.
    stream: Option<Rc<Stream>>,
    protocol: ws_proto::Connection,
    outbound: Outbound,
    turns: Turns<Question, Answer>,
    runs: HashMap<MessageId, AbortHandle>,
    /// Read, but not processed for want of room.
    unread: Vec<u8>,
    phase: Phase,
    is_paused: bool,
    is_draining: bool,
    /// When this connection may close for the drain.
    drain_turn: Option<Instant>,
    cause: Option<CloseCause>,
    close_code: Option<CloseCode>,
    received: u64,
    sent: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    Open,
    /// The closing handshake is complete and our direction shut down; what still comes is
    /// discarded until the peer closes too, so that no reset overtakes our last bytes.
    Lingering {
        until: Instant,
    },
    Ended,
}

/// What the driver waits for.
struct Plan {
    stream: Rc<Stream>,
    read: bool,
    write: bool,
    deadline: Option<Instant>,
}

impl Connection {
    pub(crate) fn new(
        shard: &Shard,
        stream: Stream,
        visitor: Visitor,
        response: Vec<u8>,
        span: Span,
        now: Instant,
    ) -> Self {
        let server = &shard.server;
        let mut outbound = Outbound::new(server.config.limits().send_queue_size);
        outbound
            .push_control(Bytes::from(response))
            .expect("a new queue is not finished");
        let app = server.config.app();
        let turns = Turns::new(TurnLimits {
            running: app.per_connection.get(),
            waiting: app.queue.get(),
            unordered: app.unordered,
        });
        Self {
            id: visitor.connection,
            visitor,
            span,
            opened: now,
            state: RefCell::new(Inner {
                stream: Some(Rc::new(stream)),
                protocol: ws_proto::Connection::server(Arc::clone(&server.protocol), now),
                outbound,
                turns,
                runs: HashMap::new(),
                unread: Vec::new(),
                phase: Phase::Open,
                is_paused: false,
                is_draining: shard.is_draining(),
                drain_turn: None,
                cause: None,
                close_code: None,
                received: 0,
                sent: 0,
            }),
            changed: Notify::new(),
            room: Notify::new(),
            ended: Notify::new(),
            waiting_runs: Cell::new(0),
        }
    }

    /// Serves the connection until it has ended and every accepted message is done with.
    pub(crate) async fn drive(self: Rc<Self>, shard: &Rc<Shard>) {
        let mut timer = pin!(sleep_until(self.opened.into()));
        let mut armed = None;
        while let Some(plan) = self.settle(shard) {
            // A timer that fires early costs one more turn of this loop; one that is moved with
            // every message would cost more.
            if let Some(deadline) = plan.deadline
                && armed.is_none_or(|armed| deadline < armed)
            {
                timer.as_mut().reset(deadline.into());
                armed = Some(deadline);
            }
            tokio::select! {
                ready = plan.stream.readable(), if plan.read => match ready {
                    Ok(()) => self.read(shard, &plan.stream),
                    Err(_) => self.end(CloseCause::Vanished),
                },
                ready = plan.stream.writable(), if plan.write => {
                    if ready.is_err() {
                        self.end(CloseCause::Vanished);
                    }
                }
                () = self.changed.notified() => {}
                () = &mut timer, if armed.is_some() => {
                    armed = None;
                    self.handle_timeout();
                }
            }
        }
        self.leave(shard);
        self.finish_turns(shard).await;
    }

    /// Closes the connection when everything accepted is done with; accepts nothing more.
    pub(crate) fn drain(&self) {
        self.state.borrow_mut().is_draining = true;
        self.changed.notify_one();
    }

    /// Ends the connection now, and its callbacks.
    pub(crate) fn stop(&self) {
        self.end(CloseCause::Stopped);
        let mut state = self.state.borrow_mut();
        for (_, run) in state.runs.drain() {
            run.abort();
        }
        self.changed.notify_one();
    }

    /// Writes a pushed message, or puts it behind what the peer has not read yet.
    pub(crate) fn push(&self, counters: &Counters, message: &EncodedMessage) -> Receipt {
        let one = Receipt {
            connections: 1,
            ..Receipt::default()
        };
        let mut state = self.state.borrow_mut();
        if !state.is_open() {
            return Receipt { dropped: 1, ..one };
        }
        counters.messages_queued.increment();
        if state.outbound.push(message.as_bytes().clone()).is_err() {
            // The peer learns the sooner why it is closed, and only whole frames.
            let given_up = state.outbound.drop_untouched() as u64;
            counters.messages_dropped.add(given_up + 1);
            let reason = "pushed messages exceed limits.send_queue_size";
            state.close(
                CloseCause::Overflow,
                CloseFrame::new(CloseCode::TRY_LATER, reason),
            );
            self.changed.notify_one();
            return Receipt { dropped: 1, ..one };
        }
        let was_alone = state.outbound.len_messages() == 1;
        if was_alone {
            state.flush(counters);
        }
        if state.outbound.is_empty() {
            Receipt { written: 1, ..one }
        } else {
            self.changed.notify_one();
            Receipt { queued: 1, ..one }
        }
    }

    /// Accepts a run from a FIFO or the control socket; waits while the queue is full.
    ///
    /// # Errors
    ///
    /// [`Ended`] if the connection ends before there is room.
    pub(crate) async fn admit(&self, counters: &Counters, question: Question) -> Result<(), Ended> {
        let _waiting = WaitingRun::new(&self.waiting_runs);
        loop {
            {
                let mut state = self.state.borrow_mut();
                if !state.is_open() {
                    return Err(Ended);
                }
                if state.turns.has_room() {
                    counters.callbacks_accepted.increment();
                    state.turns.accept(question);
                    self.changed.notify_one();
                    return Ok(());
                }
            }
            self.room.notified().await;
        }
    }

    /// Resolves when the connection accepts nothing more because it ends.
    pub(crate) async fn ended(&self) {
        loop {
            let ended = self.ended.notified();
            if !self.state.borrow().is_open() {
                return;
            }
            ended.await;
        }
    }

    /// Does everything that can be done without waiting, and says what to wait for. `None`: the
    /// connection has ended.
    fn settle(self: &Rc<Self>, shard: &Rc<Shard>) -> Option<Plan> {
        let now = Instant::now();
        let counters = &shard.server.hub.counters;
        let mut state = self.state.borrow_mut();
        let state = &mut *state;
        loop {
            while let Some((id, answer)) = state.turns.next_answer() {
                if let Some(reply) = &answer.reply {
                    state.reply(reply, counters);
                }
                if let Some(frame) = answer.close {
                    state.close(CloseCause::Application, frame);
                }
                state.runs.remove(&id);
            }
            while !state.outbound.is_over_limit() {
                let Some((id, question)) = state.turns.start() else {
                    break;
                };
                let run = self.start_run(shard, id, question);
                state.runs.insert(id, run);
            }
            if state.unread.is_empty() || !state.may_take() {
                break;
            }
            let mut bytes = std::mem::take(&mut state.unread);
            let mut write = shard.scratch.borrow_mut();
            state.take_in(&mut bytes, shard, &mut write.write, now);
        }
        self.settle_drain(state, shard, now);
        state.flush(counters);
        state.transmit();
        state.flush(counters);
        state.linger_once_closed(now);
        if state.turns.has_room() && self.waiting_runs.get() > 0 {
            self.room.notify_one();
        }
        if !state.is_open() {
            self.tell_ended();
        }
        state.plan(now)
    }

    /// Lets those who wait for room, or for the end, see that this is it.
    fn tell_ended(&self) {
        self.room.notify_waiters();
        self.ended.notify_waiters();
    }

    fn settle_drain(&self, state: &mut Inner, shard: &Shard, now: Instant) {
        let has_work = !state.turns.is_idle() || self.waiting_runs.get() > 0;
        if !state.is_draining || !state.is_open() || has_work {
            return;
        }
        let turn = *state
            .drain_turn
            .get_or_insert_with(|| shard.server.hub.drain_turn(now));
        if turn <= now {
            state.close(
                CloseCause::Drain,
                CloseFrame::new(CloseCode::AWAY, "server is going down"),
            );
        }
    }

    fn read(&self, shard: &Rc<Shard>, stream: &Stream) {
        let mut scratch = shard.scratch.borrow_mut();
        let scratch = &mut *scratch;
        let read = match stream.try_read(&mut scratch.read) {
            Ok(0) => return self.end(CloseCause::Vanished),
            Ok(read) => read,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return,
            Err(_) => return self.end(CloseCause::Vanished),
        };
        let mut state = self.state.borrow_mut();
        state.take_in(
            &mut scratch.read[..read],
            shard,
            &mut scratch.write,
            Instant::now(),
        );
    }

    fn handle_timeout(&self) {
        let now = Instant::now();
        let mut state = self.state.borrow_mut();
        if let Phase::Lingering { until } = state.phase
            && until <= now
        {
            state.phase = Phase::Ended;
        }
        while state.protocol.poll_timeout().is_some_and(|at| at <= now) {
            if let Some(Event::Failed(error)) = state.protocol.handle_timeout(now) {
                let cause = match error {
                    ws_proto::ProtocolError::PongTimeout => CloseCause::PongTimeout,
                    ws_proto::ProtocolError::CloseTimeout => {
                        state.phase = Phase::Ended;
                        CloseCause::Vanished
                    }
                    _ => CloseCause::Protocol,
                };
                state.note_close(cause, Some(error.close_code()));
            }
        }
    }

    /// The stream is of no more use.
    fn end(&self, cause: CloseCause) {
        let mut state = self.state.borrow_mut();
        state.note_close(cause, None);
        state.phase = Phase::Ended;
    }

    fn start_run(
        self: &Rc<Self>,
        shard: &Rc<Shard>,
        id: MessageId,
        question: Question,
    ) -> AbortHandle {
        let connection = Rc::clone(self);
        let server = Arc::clone(&shard.server);
        server.hub.counters.callbacks_started.increment();
        let guard = RunGuard {
            server: Arc::clone(&server),
            is_counted: false,
        };
        shard.spawn(async move {
            let end = match &server.application {
                Some(application) => application.answer(&connection.visitor, id, &question).await,
                None => Ok(Answer::default()),
            };
            guard.ended();
            connection.finish_run(&server, id, end);
        })
    }

    fn finish_run(
        &self,
        server: &crate::shared::Shared,
        id: MessageId,
        end: Result<Answer, RunFailure>,
    ) {
        let counters = &server.hub.counters;
        let answer = match end {
            Ok(answer) => {
                counters.callbacks_finished.increment();
                answer
            }
            Err(failure) => {
                let cause = failure.cause();
                counters.callback_failed(cause);
                warn!(
                    parent: &self.span,
                    message.id = id, cause = cause.as_str(), error = %failure, "callback failed"
                );
                server
                    .application
                    .as_ref()
                    .map(|app| app.error_answer())
                    .unwrap_or_default()
            }
        };
        self.state.borrow_mut().turns.finish(id, answer);
        self.changed.notify_one();
    }

    /// Takes the connection out of everything and writes its one record.
    fn leave(&self, shard: &Shard) {
        let server = &shard.server;
        server.hub.remove(self.id);
        shard.remove(self.id);
        let counters = &server.hub.counters;
        let mut state = self.state.borrow_mut();
        state.phase = Phase::Ended;
        state.stream = None;
        state.unread = Vec::new();
        let unsent = state.outbound.clear() as u64;
        counters.messages_dropped.add(unsent);
        let cause = state.cause.unwrap_or(CloseCause::Vanished);
        counters.closed(cause);
        if server.config.app().on_disconnect == OnDisconnect::Cancel {
            for (_, run) in state.runs.drain() {
                run.abort();
            }
        }
        info!(
            parent: &self.span,
            cause = cause.as_str(),
            close.code = state.close_code.map_or(1006, CloseCode::as_u16),
            elapsed = ?self.opened.elapsed(),
            received = state.received,
            sent = state.sent,
            unsent,
            "connection closed"
        );
        drop(state);
        self.tell_ended();
    }

    /// Runs what was accepted before the end; there is nobody left to answer.
    async fn finish_turns(self: &Rc<Self>, shard: &Rc<Shard>) {
        let counters = &shard.server.hub.counters;
        let cancels = shard.server.config.app().on_disconnect == OnDisconnect::Cancel;
        loop {
            {
                let mut state = self.state.borrow_mut();
                if cancels || state.cause == Some(CloseCause::Stopped) {
                    let waiting = state.turns.cancel_waiting() as u64;
                    counters.callbacks_cancelled.add(waiting);
                    return;
                }
                while let Some((id, answer)) = state.turns.next_answer() {
                    counters.replies_dropped.add(answer.reply.is_some().into());
                    state.runs.remove(&id);
                }
                while let Some((id, question)) = state.turns.start() {
                    let run = self.start_run(shard, id, question);
                    state.runs.insert(id, run);
                }
                if state.turns.is_idle() {
                    return;
                }
            }
            self.changed.notified().await;
        }
    }
}

impl Inner {
    fn is_open(&self) -> bool {
        self.phase == Phase::Open && self.protocol.state() == State::Open
    }

    /// Whether bytes from the peer may be processed now.
    fn may_take(&self) -> bool {
        match self.protocol.state() {
            State::Open => {
                !self.is_draining && self.turns.has_room() && !self.outbound.is_over_limit()
            }
            // Only the peer's close frame, or the end of the stream, is looked for.
            State::Closing | State::Closed => true,
        }
    }

    /// Processes bytes from the peer as far as there is room, and keeps the rest.
    fn take_in(&mut self, bytes: &mut [u8], shard: &Shard, out: &mut Frames, now: Instant) {
        if self.phase != Phase::Open {
            return;
        }
        let server = &shard.server;
        let counters = &server.hub.counters;
        let answers_ping = server.config.app().ping;
        let mut input = Input::new(bytes);
        while self.may_take() {
            // Echoes and pongs that wait in `out` count as queued: a flood of them is not read on.
            if self.outbound.len_bytes() + out.bytes.len() > server.config.limits().send_queue_size
            {
                self.write_through(out, counters);
                continue;
            }
            match self.protocol.receive(&mut input, now) {
                None => break,
                Some(Event::Message(message)) => {
                    self.received += 1;
                    counters.messages_received.increment();
                    counters.bytes_received.add(message.payload.len() as u64);
                    if server.application.is_none() {
                        frame::encode_server(message.kind, message.payload, &mut out.bytes);
                        out.end(true);
                    } else if answers_ping
                        && message.kind == MessageKind::Text
                        && message.payload == b"ping"
                    {
                        frame::encode_server(MessageKind::Text, b"pong", &mut out.bytes);
                        out.end(true);
                    } else {
                        counters.callbacks_accepted.increment();
                        self.turns.accept(Question {
                            source: Source::Client,
                            kind: message.kind,
                            payload: Bytes::copy_from_slice(message.payload),
                        });
                    }
                }
                Some(Event::Ping(_)) => {
                    // Each ping gets its pong while the kernel takes everything; behind bytes that
                    // it refused, the machine keeps the latest only.
                    if self.outbound.is_empty() {
                        self.protocol.poll_transmit(&mut out.bytes);
                        out.end(false);
                    }
                }
                Some(Event::Pong(_)) => {}
                Some(Event::Close(frame)) => {
                    self.note_close(CloseCause::Peer, frame.map(|frame| frame.code))
                }
                Some(Event::Failed(error)) => {
                    self.note_close(CloseCause::Protocol, Some(error.close_code()))
                }
            }
        }
        self.unread.extend_from_slice(input.rest());
        self.write_through(out, counters);
    }

    /// Writes frames at once if nothing waits before them, and queues what the kernel does not take.
    fn write_through(&mut self, frames: &mut Frames, counters: &Counters) {
        if frames.bytes.is_empty() {
            return;
        }
        let messages = frames
            .ends
            .iter()
            .filter(|(_, is_message)| *is_message)
            .count() as u64;
        counters.messages_queued.add(messages);
        let written = match &self.stream {
            Some(stream) if self.outbound.is_empty() => {
                stream.try_write(&frames.bytes).unwrap_or(0)
            }
            _ => 0,
        };
        let mut start = 0;
        let mut sent = 0;
        for (end, is_message) in frames.ends.drain(..) {
            let frame = start..end;
            start = end;
            if end <= written {
                sent += u64::from(is_message);
                continue;
            }
            let done = written.saturating_sub(frame.start);
            let bytes = Bytes::copy_from_slice(&frames.bytes[frame]);
            // Behind a close frame nothing follows, and `finish` is called for that one only.
            let queued = match (done, is_message) {
                (0, true) => self.outbound.push_unbounded(bytes),
                (0, false) => self.outbound.push_control(bytes),
                (done, _) => self.outbound.push_rest(bytes, done),
            };
            debug_assert!(
                queued.is_ok(),
                "frames are made before the close frame only"
            );
        }
        self.sent += sent;
        counters.messages_sent.add(sent);
        frames.bytes.clear();
    }

    fn reply(&mut self, reply: &Reply, counters: &Counters) {
        if !self.is_open() {
            counters.replies_dropped.increment();
            return;
        }
        let message = EncodedMessage::new(reply.kind, &reply.payload);
        counters.messages_queued.increment();
        let queued = self.outbound.push_unbounded(message.as_bytes().clone());
        debug_assert!(
            queued.is_ok(),
            "an open connection has no close frame queued"
        );
    }

    /// Begins the closing handshake behind everything that is queued.
    fn close(&mut self, cause: CloseCause, frame: CloseFrame) {
        self.note_close(cause, Some(frame.code));
        self.protocol.close(Some(frame), Instant::now());
    }

    /// The first cause is the cause.
    fn note_close(&mut self, cause: CloseCause, code: Option<CloseCode>) {
        if self.cause.is_none() {
            self.cause = Some(cause);
            self.close_code = code;
        }
    }

    /// Queues the control frames that are due. Behind bytes that the kernel refused they wait in
    /// the machine, where a later pong replaces an earlier one; the close frame, behind which
    /// nothing comes, does not.
    fn transmit(&mut self) {
        if !self.outbound.is_empty() && self.protocol.state() == State::Open {
            return;
        }
        let mut frames = Vec::new();
        if self.protocol.poll_transmit(&mut frames) {
            let queued = self.outbound.push_control(Bytes::from(frames));
            debug_assert!(
                queued.is_ok(),
                "the machine hands out one close frame, and last"
            );
        }
    }

    fn flush(&mut self, counters: &Counters) {
        let Some(stream) = self.stream.clone() else {
            return;
        };
        while !self.outbound.is_empty() {
            let mut slices = [io::IoSlice::new(&[]); 64];
            let count = self.outbound.slices(&mut slices);
            match stream.try_write_vectored(&slices[..count]) {
                Ok(written) => {
                    let sent = self.outbound.advance(written) as u64;
                    self.sent += sent;
                    counters.messages_sent.add(sent);
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return,
                Err(_) => {
                    self.note_close(CloseCause::Vanished, None);
                    self.phase = Phase::Ended;
                    return;
                }
            }
        }
    }

    /// RFC 6455 §7.1.1: the server closes the TCP connection first, once both close frames are out.
    fn linger_once_closed(&mut self, now: Instant) {
        let is_done = self.protocol.state() == State::Closed && self.outbound.is_empty();
        if self.phase != Phase::Open || !is_done {
            return;
        }
        let shut_down = self
            .stream
            .as_ref()
            .is_some_and(|stream| stream.shutdown_write().is_ok());
        self.phase = match shut_down {
            true => Phase::Lingering {
                until: now + self.protocol.config().close_timeout(),
            },
            false => Phase::Ended,
        };
    }

    fn plan(&mut self, now: Instant) -> Option<Plan> {
        if self.phase == Phase::Ended {
            return None;
        }
        let stream = self.stream.clone()?;
        let read = self.unread.is_empty() && self.may_take();
        if read == self.is_paused {
            self.is_paused = !read;
            match read {
                true => self.protocol.resume(now),
                false => self.protocol.pause(now),
            }
        }
        let lingering = match self.phase {
            Phase::Lingering { until } => Some(until),
            Phase::Open | Phase::Ended => None,
        };
        let drain_turn = self.drain_turn.filter(|_| self.is_open());
        let deadline = [lingering, drain_turn, self.protocol.poll_timeout()]
            .into_iter()
            .flatten()
            .min();
        Some(Plan {
            stream,
            read,
            write: !self.outbound.is_empty(),
            deadline,
        })
    }
}

/// Counts a run that waits for room.
struct WaitingRun<'a>(&'a Cell<usize>);

impl<'a> WaitingRun<'a> {
    fn new(count: &'a Cell<usize>) -> Self {
        count.set(count.get() + 1);
        Self(count)
    }
}

impl Drop for WaitingRun<'_> {
    fn drop(&mut self) {
        self.0.set(self.0.get() - 1);
    }
}

/// Counts a run that is aborted: it has no other end.
struct RunGuard {
    server: Arc<crate::shared::Shared>,
    is_counted: bool,
}

impl RunGuard {
    /// The run has an end of its own.
    fn ended(mut self) {
        self.is_counted = true;
    }
}

impl Drop for RunGuard {
    fn drop(&mut self) {
        if !self.is_counted {
            self.server
                .hub
                .counters
                .callback_failed(crate::counters::CallbackFailure::Cancelled);
        }
    }
}

//! One open connection: the shell that carries bytes between its stream, its protocol machine and
//! its callbacks.
//!
//! What a byte, a deadline, an answer or a push does is decided by `ws_proto::Connection`,
//! [`Turns`] and [`Outbound`]; here their decisions are carried out. A connection belongs to one
//! worker thread, so its state is in a `RefCell` that is never borrowed over an await.

mod frames;
mod lines;
mod output;
mod program;
mod publication;
mod state;
mod traced;
mod work;

use std::cell::{Cell, OnceCell, RefCell};
use std::io;
use std::num::NonZeroU32;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll, Waker, ready};
use std::time::{Duration, Instant};

use bytes::Bytes;
use tokio::sync::Notify;
use tokio::task::AbortHandle;
use tracing::{debug, info, warn};
use ws_proto::{CloseCode, CloseFrame, DeflateParams};
use ws_session::{ConnectionId, Outbound, SessionData};
use ws_transport::Stream;

use crate::application::Application;
use crate::bell::Bell;
use crate::command::{Receipt, Traffic};
use crate::config::OnDisconnect;
use crate::core::answer::Answer;
use crate::core::changes::End;
use crate::core::failure::RunFailure;
use crate::core::question::{Occasion, Question, Standing};
use crate::core::turns::{MessageId, TurnLimits, Turns};
use crate::counters::{CloseCause, Counters, DropReason};
use crate::places::Place;
use crate::rota::Seat;
use crate::shard::Shard;
use crate::shared::Shared;
use crate::spans::{MessageSpan, RunSpan};
use crate::visitor::Visitor;

pub(crate) use self::frames::Frames;
use self::lines::AnswerLines;
use self::output::Output;
pub(crate) use self::publication::Publication;
use self::state::{Inner, Phase, Wait};
use self::work::{Started, Work};

/// Bytes taken from a socket at a time while too much waits in the whole server: nobody's answers
/// are held back before there are any, so a crowd of such reads must not add up to much.
const SQUEEZED_READ_SIZE: usize = 16 * 1024;
/// The number of the run that hears of the connection's end; no message has it.
const CLOSE_ID: MessageId = MessageId::MAX;
/// What a turn counts for besides its bytes.
const TURN_COST: usize = 4 * 1024;

/// What the opening handshake came to.
#[derive(Debug)]
pub(crate) struct Consent {
    /// The 101.
    pub(crate) response: Vec<u8>,
    /// The compression that it agrees to.
    pub(crate) deflate: Option<DeflateParams>,
}

/// The connection has ended or accepts nothing more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Ended;

/// One open connection, shared by its worker, its callbacks and the worker's pushes.
#[derive(Debug)]
pub(crate) struct Connection {
    visitor: Visitor,
    opened: Instant,
    state: RefCell<Inner>,
    /// Has the worker give the connection a turn: something happened that is not on the stream.
    seat: Arc<Seat>,
    stage: Cell<Stage>,
    /// When it is over, whatever happens: tenths of a second after it was opened.
    expires: Option<NonZeroU32>,
    /// When the worker wakes the connection.
    alarm: Cell<Option<Instant>>,
    /// `None` until a door does something for the connection.
    doors: OnceCell<Box<Doors>>,
}

/// Who waits for a connection, besides its worker.
#[derive(Debug, Default)]
struct Doors {
    /// Wakes whoever waits for room among the turns.
    room: Notify,
    /// Wakes the reader of the connection's FIFO.
    ended: Bell,
    /// Runs that wait for room: accepted by a door, so the connection does not drain before them.
    waiting_runs: Cell<usize>,
}

/// What the next turn begins with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    /// To do what is due.
    Due,
    /// The same, after the others have had their turns.
    Yielded,
    /// To see what has happened of this.
    Waiting { read: bool, write: bool },
    /// It has ended, and callbacks of what it had accepted still run.
    Left,
}

/// How a turn ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Turn {
    /// There is nothing to do but to wait.
    Over,
    /// The connection has had its share of the worker's time, and goes on after the others.
    Cut,
    /// The connection has ended and every accepted message is done with.
    Ended,
}

/// Why a turn goes on.
#[derive(Debug)]
enum Wake {
    Readable,
    /// The kernel takes bytes again, or something happened that is not on the stream.
    Changed,
    /// The stream is of no more use.
    Broken,
}

impl Connection {
    pub(crate) fn new(
        shard: &Shard,
        seat: Arc<Seat>,
        stream: Stream,
        visitor: Visitor,
        deflate: Option<DeflateParams>,
        place: Place,
        now: Instant,
    ) -> Self {
        let server = &shard.server;
        let current = server.current();
        let outbound = Outbound::new(current.config.limits().send_queue_size);
        let app = current.config.app();
        let turns = Turns::new(match &current.application {
            // They all wait for the one program to take them.
            Some(application) if application.is_stream() => TurnLimits {
                running: app.queue.get(),
                waiting: 0,
                unordered: true,
            },
            _ => TurnLimits {
                running: app.per_connection.get(),
                waiting: app.queue.get(),
                unordered: app.unordered,
            },
        });
        let protocol =
            ws_proto::Connection::server(Arc::clone(&current.protocol), now).with_deflate(deflate);
        let throttle = current.rates.throttle(visitor.user.as_ref(), now);
        if deflate.is_some() {
            server.hub.counters.connections_compressed.increment();
        }
        Self {
            visitor,
            opened: now,
            state: RefCell::new(Inner {
                output: Output::new(Some(stream), outbound),
                protocol,
                is_compressed: deflate.is_some(),
                turns,
                work: Work::default(),
                unread: Vec::new(),
                spent: 0,
                phase: Phase::Open,
                place: Some(place),
                was_door: false,
                is_doors_turn: false,
                is_paused: false,
                is_squeezed: false,
                throttle,
                is_draining: shard.is_draining(),
                drain_turn: None,
                cause: None,
                close_code: None,
                close_reason: None,
                received: 0,
                received_bytes: 0,
                look_at: None,
                farewell: None,
                attendant: None,
            }),
            seat,
            stage: Cell::new(Stage::Due),
            expires: None,
            alarm: Cell::new(None),
            doors: OnceCell::new(),
        }
    }

    /// Has the connection closed when what named its user is good no more.
    pub(crate) fn expiring_in(mut self, time: Option<Duration>) -> Self {
        // Later than tenths of a second can be counted is not in the life of this server.
        let tenths = time.and_then(|time| u32::try_from(time.as_millis().div_ceil(100)).ok());
        self.expires = tenths.map(|tenths| NonZeroU32::new(tenths).unwrap_or(NonZeroU32::MIN));
        self
    }

    /// Sends the 101. Whatever else is sent must come later.
    pub(crate) fn greet(&self, response: Vec<u8>) {
        self.state.borrow_mut().output.write_head(response);
    }

    /// Has the application hear of the connection before its first message.
    pub(crate) fn announce(&self, standing: Standing, counters: &Counters) {
        counters.callbacks_accepted.increment();
        let question = Question::of_event(Occasion::Open(standing));
        self.state.borrow_mut().turns.begin_with(question);
        self.seat.ask();
    }

    pub(crate) fn id(&self) -> ConnectionId {
        self.visitor.connection
    }

    /// Where its worker keeps it.
    pub(crate) fn slot(&self) -> u32 {
        self.seat.slot()
    }

    /// Whether it is known to nobody any more, and is kept for its callbacks only.
    pub(crate) fn has_left(&self) -> bool {
        self.stage.get() == Stage::Left
    }

    /// Asks for a turn: something is to be done.
    pub(crate) fn ask_turn(&self) {
        self.seat.ask();
    }

    /// Does what there is to do.
    pub(crate) fn take_turn(self: &Rc<Self>, shard: &Rc<Shard>) -> Turn {
        self.seat.begin_turn();
        let waker = Waker::from(Arc::clone(&self.seat));
        let cx = &mut Context::from_waker(&waker);
        let mut wake = match self.stage.get() {
            Stage::Due => Wake::Changed,
            Stage::Yielded => {
                self.state.borrow_mut().spent = 0;
                Wake::Changed
            }
            // What woke us is most often that there is something to read, and to try costs less
            // than to ask.
            Stage::Waiting { read: true, .. } => Wake::Readable,
            Stage::Waiting { read, write } => match self.poll_stream(cx, read, write) {
                Poll::Ready(wake) => wake,
                // Somebody has asked for the turn.
                Poll::Pending => Wake::Changed,
            },
            Stage::Left => return self.finish_turns(shard),
        };
        loop {
            let now = Instant::now();
            match wake {
                Wake::Readable => self.read(shard, now),
                Wake::Changed => {}
                Wake::Broken => self.end(CloseCause::Vanished),
            }
            let expiry = self.expire(shard, now);
            let Some(wait) = self.settle(shard, now) else {
                let closed = self.leave(shard);
                self.state.borrow_mut().farewell = closed.map(Box::new);
                self.stage.set(Stage::Left);
                return self.finish_turns(shard);
            };
            // Also of one who is never without something to do.
            if let Some(deadline) = wait.deadline.into_iter().chain(expiry).min() {
                self.set_alarm(shard, deadline);
            }
            if wait.is_others_turn {
                self.stage.set(Stage::Yielded);
                self.seat.ask();
                return Turn::Cut;
            }
            let Wait { read, write, .. } = wait;
            self.stage.set(Stage::Waiting { read, write });
            wake = match self.poll_stream(cx, read, write) {
                Poll::Ready(wake) => wake,
                Poll::Pending => return Turn::Over,
            };
        }
    }

    /// Closes the connection if it is over; else says when it will be.
    fn expire(&self, shard: &Shard, now: Instant) -> Option<Instant> {
        let tenths = u64::from(self.expires?.get());
        let over = self.opened + Duration::from_millis(100 * tenths);
        let mut state = self.state.borrow_mut();
        if !state.is_open() {
            return None;
        }
        if now < over {
            return Some(over);
        }
        let current = shard.server.current();
        let token = current.config.identity().token.as_ref();
        let frame = token.map(|token| token.expired.clone());
        let frame = frame.unwrap_or_else(|| CloseFrame::new(CloseCode::POLICY, ""));
        state.close(CloseCause::Expired, frame);
        None
    }

    fn poll_stream(&self, cx: &mut Context<'_>, read: bool, write: bool) -> Poll<Wake> {
        let state = self.state.borrow();
        let Some(stream) = &state.output.stream else {
            return Poll::Ready(Wake::Broken);
        };
        if read && let Poll::Ready(ready) = stream.poll_readable(cx) {
            return Poll::Ready(ready.map_or(Wake::Broken, |()| Wake::Readable));
        }
        if write && let Poll::Ready(ready) = stream.poll_writable(cx) {
            return Poll::Ready(ready.map_or(Wake::Broken, |()| Wake::Changed));
        }
        Poll::Pending
    }

    /// Has the connection woken at `deadline`. An alarm that rings early costs one more turn; one
    /// that is moved with every message would cost more.
    fn set_alarm(&self, shard: &Shard, deadline: Instant) {
        let former = self.alarm.get();
        if former.is_none_or(|former| deadline < former) {
            shard.set_alarm(self.slot(), former, deadline);
            self.alarm.set(Some(deadline));
        }
    }

    /// Does what is due: the worker's answer to [`set_alarm`](Self::set_alarm).
    pub(crate) fn handle_alarm(&self) {
        self.alarm.set(None);
        self.handle_timeout();
        self.seat.ask();
    }

    /// Closes the connection when everything accepted is done with; accepts nothing more.
    pub(crate) fn drain(&self) {
        self.state.borrow_mut().is_draining = true;
        self.seat.ask();
    }

    /// Closes the connection behind what is queued for it. Returns whether it was open.
    pub(crate) fn close(&self, cause: CloseCause, frame: CloseFrame) -> bool {
        let mut state = self.state.borrow_mut();
        let was_open = state.is_open();
        if was_open {
            state.close(cause, frame);
        }
        self.seat.ask();
        was_open
    }

    /// Has a task aborted when the connection ends.
    pub(crate) fn ends_with_it(&self, task: AbortHandle) {
        self.state.borrow_mut().attendant = Some(task);
    }

    pub(crate) fn visitor(&self) -> &Visitor {
        &self.visitor
    }

    /// Ends the connection now, and its callbacks.
    pub(crate) fn stop(&self) {
        self.end(CloseCause::Stopped);
        let mut state = self.state.borrow_mut();
        state.work.abort();
        self.seat.ask();
    }

    /// Writes pushed messages, or puts them behind what the peer has not read yet, and adds to the
    /// receipt how far they got.
    pub(crate) fn push(
        &self,
        counters: &Counters,
        publication: &Publication<'_>,
        receipt: &mut Receipt,
    ) {
        let mut state = self.state.borrow_mut();
        let count = publication.messages.len() as u64;
        counters.deliveries.owed.add(count);
        receipt.connections += count;
        if !state.is_open() {
            counters.deliveries.dropped(DropReason::Closing, count);
            return receipt.note_dropped(count, DropReason::Closing);
        }
        counters.messages_queued.add(count);
        let own = state.is_compressed.then(|| {
            let frames = publication.messages.iter();
            let frames: Vec<Bytes> = frames.map(|one| state.frame_of(one, counters)).collect();
            (frames.concat(), frames)
        });
        let (joined, frames) = match &own {
            Some((joined, frames)) => (&joined[..], &frames[..]),
            None => (publication.joined(), publication.frames()),
        };
        let pushed = state.output.push(joined, frames, counters);
        let mut dropped = count - pushed.accepted;
        if dropped > 0 {
            counters.messages_dropped.add(dropped);
            counters.deliveries.dropped(DropReason::Overflow, dropped);
            let reason = "pushed messages exceed limits.send_queue_size";
            let given_up = state.give_up(CloseCause::Overflow, reason, counters);
            // What waited a moment only was never accepted either.
            dropped += given_up.min(pushed.accepted - pushed.sent);
            receipt.note_dropped(dropped, DropReason::Overflow);
        }
        if !state.output.is_flushed() {
            self.seat.ask();
        }
        let queued = count - pushed.sent - dropped;
        if let Some(notices) = publication.notices {
            state.output.wait_for_last(queued, notices);
        }
        receipt.written += pushed.sent;
        receipt.queued += queued;
    }

    /// How many bytes wait, if the connection can be closed for them.
    pub(crate) fn waiting(&self) -> usize {
        let state = self.state.borrow();
        match state.is_open() {
            true => state.output.queue.len_bytes(),
            false => 0,
        }
    }

    /// What went over it so far.
    pub(crate) fn traffic(&self) -> Traffic {
        let state = self.state.borrow();
        Traffic {
            received: state.received,
            received_bytes: state.received_bytes,
            sent: state.output.sent,
            sent_bytes: state.output.sent_bytes,
            waiting_bytes: state.output.queue.len_bytes(),
        }
    }

    /// Closes the connection because too much waits in the whole server, and much of it here.
    pub(crate) fn relieve(&self, counters: &Counters) {
        let reason = "too much waits: limits.send_queue_total";
        let mut state = self.state.borrow_mut();
        state.give_up(CloseCause::OverflowTotal, reason, counters);
        self.seat.ask();
    }

    /// Accepts a run from a FIFO or the control socket; waits while the queue is full.
    ///
    /// # Errors
    ///
    /// [`Ended`] if the connection ends before there is room.
    pub(crate) async fn admit(&self, counters: &Counters, question: Question) -> Result<(), Ended> {
        let _waiting = WaitingRun::new(self);
        loop {
            {
                let mut state = self.state.borrow_mut();
                if !state.is_open() {
                    return Err(Ended);
                }
                if state.turns.has_room() {
                    counters.callbacks_accepted.increment();
                    state.turns.accept(question);
                    state.was_door = true;
                    state.is_doors_turn = false;
                    self.seat.ask();
                    return Ok(());
                }
            }
            self.doors().room.notified().await;
        }
    }

    /// Ready when the connection accepts nothing more because it ends. One task may wait for it:
    /// the latest caller is woken.
    pub(crate) fn poll_ended(&self, cx: &mut Context<'_>) -> Poll<()> {
        // It may have rung when the connection was drained or the like.
        while self.state.borrow().is_open() {
            ready!(self.doors().ended.poll_rung(cx));
        }
        Poll::Ready(())
    }

    fn doors(&self) -> &Doors {
        self.doors.get_or_init(Box::default)
    }

    fn waiting_runs(&self) -> usize {
        self.doors.get().map_or(0, |doors| doors.waiting_runs.get())
    }

    /// Does everything that can be done without waiting, and says what to wait for. `None`: the
    /// connection has ended.
    fn settle(self: &Rc<Self>, shard: &Rc<Shard>, now: Instant) -> Option<Wait> {
        let counters = &shard.server.hub.counters;
        let mut state = self.state.borrow_mut();
        let state = &mut *state;
        let write_timeout = shard.server.current().config.limits().write_timeout;
        if state.is_quiet() && self.waiting_runs() == 0 {
            state.wake_work();
            return state.wait(write_timeout, now);
        }
        state.settle_throttle(now);
        loop {
            self.take_turns(state, shard, now);
            let was_held_back = state.is_held_back();
            self.settle_drain(state, shard, now);
            state.flush(counters);
            state.transmit();
            state.flush(counters);
            // What was held back for a full queue goes on as soon as the kernel takes it: nothing
            // else would wake us.
            state.look_around(counters);
            let has_room_again = was_held_back && !state.is_held_back();
            // A connection that closes for the drain looks for the peer's close frame.
            let has_unread =
                !state.unread.is_empty() && state.may_take() && !state.is_others_turn();
            if !has_room_again && !has_unread {
                break;
            }
        }
        state.settle_stall(write_timeout, counters, now);
        state.linger_once_closed(now);
        if self.waiting_runs() > 0 && state.turns.has_room() {
            self.doors().room.notify_one();
        }
        if !state.is_open() {
            self.tell_ended();
        }
        state.wake_work();
        state.wait(write_timeout, now)
    }

    /// Queues the answers that are due, starts the callbacks that may run, and takes in what was
    /// read before there was room for it.
    fn take_turns(self: &Rc<Self>, state: &mut Inner, shard: &Rc<Shard>, now: Instant) {
        let counters = &shard.server.hub.counters;
        loop {
            loop {
                if let Some(part) = state.turns.next_part() {
                    state.reply(&part, counters);
                    continue;
                }
                let Some((id, answer)) = state.turns.next_answer() else {
                    break;
                };
                let span = state.work.forget(id);
                traced::reply(shard, state, answer.reply.as_ref(), span);
                if let Some(frame) = answer.close {
                    state.close(CloseCause::Application, frame);
                }
            }
            // The task of a program fetches them itself.
            while !state.is_held_back() && state.work.program().is_none() {
                let Some((id, question)) = state.turns.start() else {
                    break;
                };
                let started = self.start_run(shard, id, question);
                state.work.begin(id, started);
            }
            // When both wait for room, the client and the doors take turns.
            let door_waits = state.turns.has_room() && self.waiting_runs() > 0;
            state.is_doors_turn = door_waits && !state.was_door;
            if state.unread.is_empty() || !state.may_take() || state.is_others_turn() {
                return;
            }
            let mut bytes = std::mem::take(&mut state.unread);
            let mut write = shard.scratch.borrow_mut();
            state.take_in(&mut bytes, &shard.server, &mut write.write, now);
        }
    }

    /// Lets those who wait for room, or for the end, see that this is it.
    fn tell_ended(&self) {
        if let Some(doors) = self.doors.get() {
            doors.room.notify_waiters();
            doors.ended.ring();
        }
    }

    fn settle_drain(&self, state: &mut Inner, shard: &Shard, now: Instant) {
        let has_work = !state.turns.is_idle() || self.waiting_runs() > 0;
        if !state.is_draining || !state.is_open() || has_work {
            return;
        }
        let turn = *state
            .drain_turn
            .get_or_insert_with(|| shard.server.hub.drain_turn(now));
        if turn > now {
            return;
        }
        match state.work.program() {
            // The connection is closed when that has ended.
            Some(program) if !program.has_ended => program.is_dismissed = true,
            _ => state.close(
                CloseCause::Drain,
                CloseFrame::new(CloseCode::AWAY, "server is going down"),
            ),
        }
    }

    /// Processes what has arrived, one buffer at most.
    fn read(&self, shard: &Rc<Shard>, now: Instant) {
        let mut scratch = shard.scratch.borrow_mut();
        let scratch = &mut *scratch;
        let mut state = self.state.borrow_mut();
        let is_squeezed = shard.server.hub.counters.ledger.excess() > 0;
        let room = match is_squeezed {
            true => &mut scratch.read[..SQUEEZED_READ_SIZE],
            false => &mut scratch.read[..],
        };
        let stream = state.output.stream.as_ref();
        let read = stream.map_or(Ok(0), |stream| stream.try_read(room));
        let read = match read {
            Ok(read) if read > 0 => read,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return,
            Ok(_) | Err(_) => {
                drop(state);
                return self.end(CloseCause::Vanished);
            }
        };
        state.take_in(
            &mut scratch.read[..read],
            &shard.server,
            &mut scratch.write,
            now,
        );
        state.spent += TURN_COST + read;
    }

    fn handle_timeout(&self) {
        let now = Instant::now();
        let mut state = self.state.borrow_mut();
        if let Phase::Lingering { until, .. } = state.phase
            && until <= now
        {
            state.phase = Phase::Ended;
        }
        if state.look_at.is_some_and(|at| at <= now) {
            state.look_at = None;
            if state.output.stream.as_ref().is_some_and(Stream::is_lost) {
                state.note_close(CloseCause::Vanished, None);
                state.phase = Phase::Ended;
            }
        }
        while state.protocol.poll_timeout().is_some_and(|at| at <= now) {
            if let Some(ws_proto::Event::Failed(error)) = state.protocol.handle_timeout(now) {
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

    fn start_run(self: &Rc<Self>, shard: &Rc<Shard>, id: MessageId, question: Question) -> Started {
        let connection = Rc::clone(self);
        let server = Arc::clone(&shard.server);
        let (run, span) = MessageSpan::begin(&server, &self.visitor, id, &question);
        server.hub.counters.callbacks_started.increment();
        let guard = RunGuard {
            server: Arc::clone(&server),
            is_counted: false,
        };
        let handle = shard.spawn(async move {
            let mut run = run;
            let data = server.hub.keeper.data(connection.visitor.session);
            let current = Arc::clone(&server.current());
            let end = match &current.application {
                Some(application) if application.answers_in_lines() => {
                    connection
                        .answer_in_lines(&server, application, id, &question, &mut run, data)
                        .await
                }
                Some(application) => {
                    let visitor = &connection.visitor;
                    application
                        .answer(visitor, id, &question, run.trace(), data)
                        .await
                }
                None => Ok(Answer::default()),
            };
            guard.ended();
            connection.finish_run(&server, id, question.event, run, end);
        });
        Started { handle, span }
    }

    /// Sends what the callback writes, line by line; what is left to be said is returned.
    async fn answer_in_lines(
        self: &Rc<Self>,
        server: &Arc<Shared>,
        application: &Application,
        id: MessageId,
        question: &Question,
        span: &mut RunSpan,
        data: Option<SessionData>,
    ) -> Result<Answer, RunFailure> {
        let trace = span.trace();
        let mut lines = AnswerLines::new(Rc::clone(self), Arc::clone(server), id);
        let run = application.answer_into(&self.visitor, id, question, trace, data, &mut lines);
        let end = run.await;
        lines.finish();
        span.set_lines(lines.count, lines.size);
        end?;
        Ok(match lines.count > 0 || !question.event.is_message() {
            true => Answer::default(),
            false => application.empty_answer(),
        })
    }

    fn finish_run(
        &self,
        server: &Shared,
        id: MessageId,
        event: Occasion,
        run: RunSpan,
        end: Result<Answer, RunFailure>,
    ) {
        let counters = &server.hub.counters;
        let failure = end.as_ref().err();
        let failure = failure.map(|failure| failure.cause().as_str());
        if let Some(failure) = failure {
            self.state.borrow_mut().work.note_failure(id, failure);
        }
        let trace_id = run.trace().map(|trace| tracing::field::display(trace.id()));
        let message_id = event.is_message().then_some(id);
        let mut answer = match end {
            Ok(answer) => {
                counters.callbacks_finished.increment();
                debug!(
                    conn.id = %self.id(), event = event.as_str(), message.id = message_id,
                    trace.id = trace_id,
                    payload.len = answer.reply.as_ref().map_or(0, |reply| reply.payload.len()),
                    "callback finished"
                );
                answer
            }
            Err(failure) => {
                let cause = failure.cause();
                counters.callback_failed(cause);
                warn!(
                    parent: &self.visitor.span(),
                    event = event.as_str(), message.id = message_id, trace.id = trace_id,
                    cause = cause.as_str(), error = %failure, "callback failed"
                );
                let current = server.current();
                let application = current.application.as_ref();
                application
                    .filter(|_| event.is_message())
                    .map(|app| app.error_answer())
                    .unwrap_or_default()
            }
        };
        run.end(failure);
        if let Some(data) = answer.data.take() {
            server.hub.keeper.set_data(self.visitor.session, data);
        }
        // After the last message the seat may be another's.
        if id != CLOSE_ID {
            self.state.borrow_mut().turns.finish(id, answer);
            self.seat.ask();
        }
    }

    /// Takes the connection out of everything and writes its one record. Returns what the
    /// application is to hear of it.
    fn leave(&self, shard: &Shard) -> Option<Occasion> {
        let server = &shard.server;
        let mut state = self.state.borrow_mut();
        if state.turns.is_idle() && !state.work.has_program() {
            state.place = None;
        }
        shard.remove_alarm(self.slot(), self.alarm.take());
        let counters = &server.hub.counters;
        state.phase = Phase::Ended;
        state.output.stream = None;
        state.unread = Vec::new();
        state.dismiss_attendant();
        let unsent = state.output.clear(counters);
        let cause = state.cause.unwrap_or(CloseCause::Vanished);
        // RFC 6455 §7.4.1: 1005 is a close frame without a code, 1006 no close frame at all.
        let no_code = if cause == CloseCause::Peer {
            1005
        } else {
            1006
        };
        let code = state.close_code.map_or(no_code, CloseCode::as_u16);
        counters.closed(cause);
        // Whoever sees that it is gone sees it counted.
        let end = End {
            code,
            cause: cause.as_str(),
        };
        let standing = server.hub.remove(self.id(), end);
        if server.current().config.app().on_disconnect == OnDisconnect::Cancel {
            state.work.abort_runs();
        }
        state.wake_work();
        info!(
            parent: &self.visitor.span(),
            path = self.visitor.path(),
            cause = cause.as_str(),
            close.code = code,
            close.reason = state.close_reason.as_deref(),
            elapsed = ?self.opened.elapsed(),
            received = state.received,
            received_bytes = state.received_bytes,
            sent = state.output.sent,
            sent_bytes = state.output.sent_bytes,
            unsent,
            "connection closed"
        );
        drop(state);
        self.tell_ended();
        let is_asked = server.current().config.app().events.close && cause != CloseCause::Stopped;
        standing
            .filter(|_| is_asked)
            .map(|standing| Occasion::Close {
                standing,
                code,
                cause: cause.as_str(),
            })
    }

    /// Runs what was accepted before the end; there is nobody left to answer.
    fn finish_turns(self: &Rc<Self>, shard: &Rc<Shard>) -> Turn {
        let counters = &shard.server.hub.counters;
        let cancels = shard.server.current().config.app().on_disconnect == OnDisconnect::Cancel;
        let mut state = self.state.borrow_mut();
        // A program takes what was accepted, and ends behind that.
        if state.work.has_program() {
            return Turn::Over;
        }
        if cancels || state.cause == Some(CloseCause::Stopped) {
            let waiting = state.turns.cancel_waiting() as u64;
            counters.callbacks_cancelled.add(waiting);
            self.end_turns(shard, &mut state);
            return Turn::Ended;
        }
        loop {
            if state.turns.next_part().is_some() {
                counters.replies_dropped.increment();
                continue;
            }
            let Some((id, answer)) = state.turns.next_answer() else {
                break;
            };
            counters.replies_dropped.add(answer.reply.is_some().into());
            let span = state.work.forget(id);
            traced::reply_to_nobody(answer.reply.as_ref(), span);
        }
        while let Some((id, question)) = state.turns.start() {
            let started = self.start_run(shard, id, question);
            state.work.begin(id, started);
        }
        if !state.turns.is_idle() {
            return Turn::Over;
        }
        self.end_turns(shard, &mut state);
        Turn::Ended
    }

    /// Nothing is left to do but to have the application hear of the end, if it wants to. Its
    /// answer goes nowhere.
    fn end_turns(self: &Rc<Self>, shard: &Rc<Shard>, state: &mut Inner) {
        state.place = None;
        if let Some(event) = state.farewell.take() {
            shard.server.hub.counters.callbacks_accepted.increment();
            self.start_run(shard, CLOSE_ID, Question::of_event(*event));
        }
    }

    /// Ends a connection that a fault of ours has left as it is.
    pub(crate) fn abandon(&self, shard: &Shard) {
        let end = End {
            code: 1006,
            cause: CloseCause::Vanished.as_str(),
        };
        shard.server.hub.remove(self.id(), end);
        shard.remove_alarm(self.slot(), self.alarm.take());
        self.end(CloseCause::Vanished);
        let mut state = self.state.borrow_mut();
        state.output.clear(&shard.server.hub.counters);
        state.dismiss_attendant();
        drop(state);
        self.tell_ended();
    }
}

/// Counts a run that waits for room.
struct WaitingRun<'a>(&'a Connection);

impl<'a> WaitingRun<'a> {
    fn new(connection: &'a Connection) -> Self {
        let count = &connection.doors().waiting_runs;
        count.set(count.get() + 1);
        Self(connection)
    }
}

impl Drop for WaitingRun<'_> {
    fn drop(&mut self) {
        let count = &self.0.doors().waiting_runs;
        count.set(count.get() - 1);
        // The client may have been waiting for it.
        self.0.seat.ask();
    }
}

/// Counts a run that is aborted: it has no other end.
struct RunGuard {
    server: Arc<Shared>,
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

//! One open connection: the shell that carries bytes between its stream, its protocol machine and
//! its callbacks.
//!
//! What a byte, a deadline, an answer or a push does is decided by `ws_proto::Connection`,
//! [`Turns`] and [`Outbound`]; here their decisions are carried out. A connection belongs to one
//! worker thread, so its state is in a `RefCell` that is never borrowed over an await.

mod alarm;
mod doors;
mod ending;
mod frames;
mod lines;
mod output;
mod program;
mod publication;
mod runs;
mod state;
mod traced;
mod turn;
mod work;

use std::cell::{Cell, OnceCell, RefCell};
use std::num::{NonZeroU32, NonZeroUsize};
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::task::AbortHandle;
use ws_proto::{CloseFrame, DeflateParams};
use ws_session::{ConnectionId, Outbound};
use ws_transport::Stream;

use crate::command::Traffic;
use crate::core::alarms::Ring;
use crate::core::question::{Occasion, Question, Standing};
use crate::core::turns::{TurnLimits, Turns};
use crate::counters::{CloseCause, Counters};
use crate::places::Place;
use crate::rota::Seat;
use crate::shard::Shard;
use crate::visitor::Visitor;

use self::doors::Doors;
pub(crate) use self::frames::Frames;
use self::output::Output;
pub(crate) use self::publication::Publication;
use self::state::Inner;
use self::turn::Stage;
pub(crate) use self::turn::Turn;

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
    alarm: Cell<Option<Ring>>,
    /// `None` until a door does something for the connection.
    doors: OnceCell<Box<Doors>>,
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
        let output = Output::new(Some(stream), outbound);
        let app = current.config.app();
        let count = |count: NonZeroUsize| u32::try_from(count.get()).unwrap_or(u32::MAX);
        let turns = Turns::new(match &current.application {
            // They all wait for the one program to take them.
            Some(application) if application.is_stream() => TurnLimits {
                running: count(app.queue),
                waiting: 0,
                unordered: true,
            },
            _ => TurnLimits {
                running: count(app.per_connection),
                waiting: count(app.queue),
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
                place: Some(place),
                throttle,
                is_draining: shard.is_draining(),
                ..Inner::new(output, protocol, deflate.is_some(), turns)
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

    /// Asks for a turn: something is to be done.
    pub(crate) fn ask_turn(&self) {
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
}

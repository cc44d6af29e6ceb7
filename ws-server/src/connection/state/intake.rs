//! What comes from the peer, and what is done with it at once.

use std::time::Instant;

use bytes::Bytes;
use ws_proto::{Event, Input, Message, MessageKind, State, frame};

use super::{Inner, Phase};
use crate::connection::frames::{Frames, LEND_LEN};
use crate::connection::output::Output;
use crate::core::question::{Occasion, Question, Source};
use crate::counters::{CloseCause, Counters};
use crate::shared::Shared;

/// What a message that may be compressed counts for besides its bytes: to begin anew with each
/// costs the streams more than a small one's bytes.
pub(super) const INFLATED_COST: usize = 1024;

/// How far bytes from the peer were processed.
struct Processed {
    /// How many are left.
    unprocessed: usize,
    /// The answers are to be written before more.
    is_out_full: bool,
}

impl Inner {
    /// Processes bytes from the peer as far as there is room and it is its turn, and keeps the rest.
    pub(in crate::connection) fn take_in(
        &mut self,
        bytes: &mut [u8],
        server: &Shared,
        out: &mut Frames,
        now: Instant,
    ) {
        if self.phase != Phase::Open {
            return;
        }
        let counters = &server.hub.counters;
        let mut start = 0;
        loop {
            let mut input = Input::new(&mut bytes[start..]);
            let end = self.process(&mut input, start, server, out, now);
            start = bytes.len() - end.unprocessed;
            self.output.write_through(out, &bytes[..start], counters);
            if !end.is_out_full {
                break;
            }
        }
        self.unread.extend_from_slice(&bytes[start..]);
    }

    /// Processes input that begins at `start` of the lender of `out`, until it ends or `out` is to
    /// be written.
    fn process(
        &mut self,
        input: &mut Input<'_>,
        start: usize,
        server: &Shared,
        out: &mut Frames,
        now: Instant,
    ) -> Processed {
        let counters = &server.hub.counters;
        let (answers_ping, limit, echoes) = {
            let current = server.current();
            let ping = current.config.app().ping;
            let limit = current.config.limits().send_queue_size;
            (ping, limit, current.application.is_none())
        };
        let home = input.rest().as_ptr_range();
        let mut is_out_full = false;
        self.look_around(counters);
        while self.may_take() && !self.is_others_turn() {
            // Echoes and pongs that wait in `out` count as queued: a flood of them is not read on.
            is_out_full =
                !out.is_empty() && self.output.queue.len_bytes() + out.len_bytes() > limit;
            if is_out_full {
                break;
            }
            if let Some(throttle) = &mut self.throttle
                && !input.rest().is_empty()
                && self.protocol.state() == State::Open
                && !throttle.admits(now)
            {
                counters.messages_held_back.increment();
                break;
            }
            match self.protocol.receive(input, now) {
                None => break,
                Some(Event::Message(message)) => {
                    if let Some(throttle) = &mut self.throttle {
                        throttle.take(now);
                    }
                    self.received += 1;
                    self.received_bytes += message.payload.len() as u64;
                    counters.messages_received.increment();
                    counters.bytes_received.add(message.payload.len() as u64);
                    if self.is_compressed {
                        // A buffer of the wire's bytes may become many megabytes.
                        self.spent += INFLATED_COST + message.payload.len();
                    }
                    if echoes && self.is_compressed {
                        let (kind, payload) = (message.kind, message.payload.to_vec());
                        out.push(true, |out| self.encode(kind, &payload, out, counters));
                    } else if echoes {
                        let bytes = message.payload.as_ptr();
                        let is_in_place = home.contains(&bytes);
                        let place = is_in_place.then(|| start + bytes.addr() - home.start.addr());
                        echo(&message, place, out, &mut self.output, counters);
                    } else if answers_ping
                        && message.kind == MessageKind::Text
                        && message.payload == b"ping"
                    {
                        out.push(true, |out| {
                            frame::encode_server(MessageKind::Text, b"pong", out);
                        });
                    } else {
                        counters.callbacks_accepted.increment();
                        self.was_door = false;
                        self.turns.accept(Question {
                            event: Occasion::Message,
                            source: Source::Client,
                            kind: message.kind,
                            payload: Bytes::copy_from_slice(message.payload),
                        });
                    }
                }
                Some(Event::Ping(_)) => {
                    // Each ping gets its pong while the kernel takes everything; behind bytes that
                    // it refused, the machine keeps the latest only.
                    if self.output.queue.is_empty() {
                        out.push(false, |out| {
                            self.protocol.poll_transmit(out);
                        });
                    }
                }
                Some(Event::Pong(_)) => {}
                Some(Event::Close(frame)) => {
                    self.note_close(CloseCause::Peer, frame.as_ref().map(|frame| frame.code));
                    self.note_reason(CloseCause::Peer, frame.as_ref());
                }
                Some(Event::Failed(error)) => self.note_failure(&error),
            }
        }
        Processed {
            unprocessed: input.remaining(),
            is_out_full,
        }
    }
}

/// Sends a message back, valid as it came: what need not be compressed is not looked at again.
/// `place` is where the payload lies in the lender of `out`, if it lies there.
fn echo(
    message: &Message<'_>,
    place: Option<usize>,
    out: &mut Frames,
    output: &mut Output,
    counters: &Counters,
) {
    let Message { kind, payload, .. } = *message;
    let header = |out: &mut Vec<u8>| frame::encode_server_header(kind, payload.len(), out);
    match place {
        Some(at) if payload.len() >= LEND_LEN => {
            out.push_lent(true, at..at + payload.len(), header);
        }
        // It came in several reads, and lies in the machine until the next.
        None if payload.len() >= LEND_LEN && out.is_empty() => {
            out.push_lent(true, 0..payload.len(), header);
            output.write_through(out, payload, counters);
        }
        _ => out.push(true, |out| frame::encode_server(kind, payload, out)),
    }
}

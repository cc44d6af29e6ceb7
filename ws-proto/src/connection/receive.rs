//! From bytes to events.

use std::ops::Range;
use std::time::Instant;

use super::{CloseOut, Connection, Event, Phase};
use crate::deflate::RSV1;
use crate::frame::Header;
use crate::mask::{advance_key, mask, mask_and_judge};
use crate::utf8::is_utf8;
use crate::{CloseFrame, Input, Message, MessageKind, Opcode, ProtocolError, Role};

/// A header that has not arrived whole.
#[derive(Debug, Default)]
pub(super) struct PartialHeader {
    bytes: [u8; Header::MAX_SIZE],
    len: u8,
}

/// A frame whose header is known and whose payload is arriving.
#[derive(Clone, Copy, Debug)]
pub(super) struct ArrivingFrame {
    opcode: Opcode,
    fin: bool,
    /// The masking key, turned so that it fits the next byte.
    key: Option<[u8; 4]>,
    remaining: u64,
    /// Whether part of the payload has been kept.
    is_split: bool,
}

/// Where the payload of an event lies.
enum Place {
    Input(Range<usize>),
    Buffer,
}

/// An event that does not borrow yet, so that the loop over frames can.
enum Step {
    Message(MessageKind, Place),
    Ping(Place),
    Pong(Place),
    Close(Option<CloseFrame>),
    Failed(ProtocolError),
}

impl Connection {
    /// Returns the next event in `input`, consuming what it is made of.
    ///
    /// Call it until it returns `None`; `input` is then empty, and the beginning of a frame that is
    /// not complete is kept inside. When the connection is failed, the events of everything valid
    /// before the fault have been returned.
    ///
    /// A message that lies whole in `input` is unmasked there and lent out without a copy.
    pub fn receive<'s>(&'s mut self, input: &'s mut Input<'_>, now: Instant) -> Option<Event<'s>> {
        // What the previous event borrowed is free now.
        self.assembly.release();
        if self.frame.is_none() && !self.control.is_empty() {
            self.control = Vec::new();
        }
        if let Some((kind, range)) = self.whole_message(input) {
            let payload = input.slice(range);
            return Some(Event::Message(Message { kind, payload }));
        }
        let step = self.step(input, now).unwrap_or_else(|error| {
            input.discard();
            self.fail(&error, now);
            Some(Step::Failed(error))
        });
        let Some(step) = step else {
            self.note_progress(now);
            return None;
        };
        Some(match step {
            Step::Message(kind, Place::Input(range)) => Event::Message(Message {
                kind,
                payload: input.slice(range),
            }),
            Step::Message(kind, Place::Buffer) => Event::Message(Message {
                kind,
                payload: self.assembly.payload(),
            }),
            Step::Ping(Place::Input(range)) => Event::Ping(input.slice(range)),
            Step::Ping(Place::Buffer) => Event::Ping(&self.control),
            Step::Pong(Place::Input(range)) => Event::Pong(input.slice(range)),
            Step::Pong(Place::Buffer) => Event::Pong(&self.control),
            Step::Close(frame) => Event::Close(frame),
            Step::Failed(error) => Event::Failed(error),
        })
    }

    /// Takes the message at the beginning of `input` if it is as most are: not compressed, one
    /// frame, whole in the input, and nothing begun before it.
    ///
    /// Whatever else comes, and whatever breaks a rule, is left untouched for [`step`](Self::step),
    /// which knows all cases. A message taken here leaves no trace in the connection.
    #[inline]
    fn whole_message(&self, input: &mut Input<'_>) -> Option<(MessageKind, Range<usize>)> {
        let is_between_messages = self.phase == Phase::Open
            && self.frame.is_none()
            && self.partial_header.len == 0
            && !self.assembly.is_in_progress();
        if !is_between_messages {
            return None;
        }
        let (header, size) = Header::decode(input.rest(), self.peer_role(), 0).ok()??;
        let kind = match header.opcode {
            Opcode::Text => MessageKind::Text,
            Opcode::Binary => MessageKind::Binary,
            Opcode::Continuation | Opcode::Close | Opcode::Ping | Opcode::Pong => return None,
        };
        let is_whole = header.fin && header.payload_len <= (input.remaining() - size) as u64;
        // What has arrived fits a usize.
        let len = header.payload_len as usize;
        let is_allowed =
            len <= self.config.max_message_size() && self.config.max_fragment_count() > 0;
        if !is_whole || !is_allowed {
            return None;
        }
        let range = input.ahead(size, len);
        let payload = input.slice_mut(range.clone());
        let is_ascii = header.mask.is_some_and(|key| mask_and_judge(payload, key));
        // RFC 6455 §8.1: text that is not UTF-8 fails the connection.
        if kind == MessageKind::Text && !is_ascii && !is_utf8(payload) {
            if let Some(key) = header.mask {
                mask(payload, key);
            }
            return None;
        }
        input.take(size + len);
        Some((kind, range))
    }

    /// Goes from frame to frame until one of them is an event or the input ends.
    fn step(&mut self, input: &mut Input<'_>, now: Instant) -> Result<Option<Step>, ProtocolError> {
        loop {
            // RFC 6455 §5.5.1, §7.1.7: what follows a close frame, or a failure, is not processed.
            if self.phase == Phase::Ended {
                input.discard();
                return Ok(None);
            }
            let frame = match self.frame {
                Some(frame) => frame,
                None => match self.read_header(input)? {
                    Some(header) => self.begin_frame(&header, now)?,
                    None => return Ok(None),
                },
            };
            let step = if frame.opcode.is_control() {
                self.read_control(frame, input, now)?
            } else {
                self.read_data(frame, input)?
            };
            if step.is_some() {
                return Ok(step);
            }
            if self.frame.is_some() {
                // Its payload is not complete, so the input is used up.
                return Ok(None);
            }
        }
    }

    fn peer_role(&self) -> Role {
        match self.role() {
            Role::Server => Role::Client,
            Role::Client => Role::Server,
        }
    }

    /// Reads a header, keeping its beginning if the rest is not there.
    fn read_header(&mut self, input: &mut Input<'_>) -> Result<Option<Header>, ProtocolError> {
        let sender = self.peer_role();
        // RFC 7692 §6: the bit has a meaning once the extension is agreed upon.
        let rsv_allowed = if self.deflate.is_some() { RSV1 } else { 0 };
        let partial = &mut self.partial_header;
        if partial.len == 0
            && let Some((header, size)) = Header::decode(input.rest(), sender, rsv_allowed)?
        {
            input.take(size);
            return Ok(Some(header));
        }
        // Byte by byte, at most 14 of them, so that not one belonging to the payload is taken.
        while !input.is_empty() {
            let at = input.take(1);
            partial.bytes[usize::from(partial.len)] = input.slice(at)[0];
            partial.len += 1;
            let known = &partial.bytes[..usize::from(partial.len)];
            if let Some((header, _)) = Header::decode(known, sender, rsv_allowed)? {
                partial.len = 0;
                return Ok(Some(header));
            }
        }
        Ok(None)
    }

    /// Applies the rules that can be judged from a header and what came before it.
    fn begin_frame(
        &mut self,
        header: &Header,
        now: Instant,
    ) -> Result<ArrivingFrame, ProtocolError> {
        if matches!(header.opcode, Opcode::Ping | Opcode::Pong) {
            let (rate, burst) = (self.config.control_rate(), self.config.control_burst());
            if !self.control_frames.take(rate, burst, now) {
                return Err(ProtocolError::TooManyControlFrames);
            }
        } else if header.opcode != Opcode::Close {
            self.assembly.begin(header, &self.config)?;
        }
        let frame = ArrivingFrame {
            opcode: header.opcode,
            fin: header.fin,
            key: header.mask,
            remaining: header.payload_len,
            is_split: false,
        };
        self.frame = Some(frame);
        Ok(frame)
    }

    /// Takes what has arrived of a payload and unmasks it in place.
    ///
    /// Returns where it lies and whether that is the whole payload. `self.frame` is left empty if
    /// the payload is complete.
    fn take_payload(
        &mut self,
        mut frame: ArrivingFrame,
        input: &mut Input<'_>,
    ) -> (Range<usize>, bool) {
        let piece = input.take(usize::try_from(frame.remaining).unwrap_or(usize::MAX));
        if let Some(key) = frame.key {
            mask(input.slice_mut(piece.clone()), key);
            frame.key = Some(advance_key(key, piece.len()));
        }
        frame.remaining -= piece.len() as u64;
        let is_whole = frame.remaining == 0 && !frame.is_split;
        frame.is_split = true;
        self.frame = Some(frame).filter(|frame| frame.remaining > 0);
        (piece, is_whole)
    }

    fn read_data(
        &mut self,
        frame: ArrivingFrame,
        input: &mut Input<'_>,
    ) -> Result<Option<Step>, ProtocolError> {
        let (piece, is_whole) = self.take_payload(frame, input);
        if self.assembly.is_compressed() {
            return self.read_compressed(frame, input.slice(piece));
        }
        if is_whole && frame.fin && frame.opcode != Opcode::Continuation {
            let kind = self.assembly.whole(input.slice(piece.clone()))?;
            return Ok(kind.map(|kind| Step::Message(kind, Place::Input(piece))));
        }
        // RFC 6455 §8.1: text is checked while it arrives, so that it fails at the first bad byte.
        self.assembly.append(input.slice(piece))?;
        if self.frame.is_some() || !frame.fin {
            return Ok(None);
        }
        let kind = self.assembly.complete()?;
        self.timers.message_ended();
        Ok(kind.map(|kind| Step::Message(kind, Place::Buffer)))
    }

    fn read_compressed(
        &mut self,
        frame: ArrivingFrame,
        piece: &[u8],
    ) -> Result<Option<Step>, ProtocolError> {
        let sender = self.peer_role();
        let deflate = self
            .deflate
            .as_mut()
            .expect("a frame says that it is compressed only if that was agreed upon");
        let inflater = deflate.inflater();
        self.assembly.inflate(piece, inflater)?;
        if self.frame.is_some() || !frame.fin {
            return Ok(None);
        }
        deflate.message_ended(sender, self.assembly.is_blank())?;
        let kind = self.assembly.complete()?;
        self.timers.message_ended();
        Ok(kind.map(|kind| Step::Message(kind, Place::Buffer)))
    }

    fn read_control(
        &mut self,
        frame: ArrivingFrame,
        input: &mut Input<'_>,
        now: Instant,
    ) -> Result<Option<Step>, ProtocolError> {
        let (piece, is_whole) = self.take_payload(frame, input);
        let place = if is_whole {
            Place::Input(piece)
        } else {
            // At most 125 bytes, apart from the message: control frames come between fragments.
            self.control.extend_from_slice(input.slice(piece));
            Place::Buffer
        };
        if self.frame.is_some() {
            return Ok(None);
        }
        let payload = match &place {
            Place::Input(range) => input.slice(range.clone()),
            Place::Buffer => &self.control,
        };
        if frame.opcode == Opcode::Close {
            let received = CloseFrame::decode(payload)?;
            self.close_received(received.as_ref(), now);
            return Ok(Some(Step::Close(received)));
        }
        if frame.opcode == Opcode::Pong {
            self.timers.pong_received();
        }
        if self.phase == Phase::Closing {
            // RFC 6455 §1.4: after our close frame we send nothing more, so nothing is answered.
            if !is_whole {
                self.control = Vec::new();
            }
            return Ok(None);
        }
        if frame.opcode == Opcode::Pong {
            return Ok(Some(Step::Pong(place)));
        }
        // RFC 6455 §5.5.3: a pong carries the ping's payload; of several pings the latest may be
        // the only one answered.
        self.pong = Some(payload.into());
        Ok(Some(Step::Ping(place)))
    }

    /// Answers the peer's close frame and takes its direction as ended.
    fn close_received(&mut self, received: Option<&CloseFrame>, now: Instant) {
        if matches!(self.close_out, CloseOut::None) {
            // RFC 6455 §5.5.1: an endpoint that has not sent a close frame must answer with one,
            // typically echoing the code. The reason is the peer's and stays there.
            let answer = received.map(|frame| CloseFrame::new(frame.code, ""));
            self.close_out = CloseOut::Queued(answer);
        }
        self.end(now);
    }

    /// Sets the clocks by what is still incomplete at the end of an input.
    fn note_progress(&mut self, now: Instant) {
        if self.phase != Phase::Open {
            return;
        }
        // What has come of a header may be a message's first bytes. A control frame has as long.
        let is_incomplete =
            self.assembly.is_in_progress() || self.frame.is_some() || self.partial_header.len > 0;
        if is_incomplete {
            self.timers.message_begun(&self.config, now);
        } else {
            self.timers.message_ended();
        }
        if self.frame.is_some_and(|frame| !frame.opcode.is_control()) {
            self.timers.pong_obstructed(&self.config, now);
        }
    }
}

//! From bytes to events.

use std::ops::Range;
use std::time::Instant;

use super::{CloseOut, Connection, Event, Phase};
use crate::assembly::Assembly;
use crate::deflate::RSV1;
use crate::frame::Header;
use crate::mask::{advance_key, mask, mask_and_judge};
use crate::utf8::is_utf8;
use crate::{CloseFrame, Input, Message, MessageKind, Opcode, ProtocolError, Role};

/// A header that has not arrived whole.
#[derive(Debug, Default)]
struct PartialHeader {
    bytes: [u8; Header::MAX_SIZE],
    len: u8,
}

/// A frame whose header is known and whose payload is arriving.
#[derive(Clone, Copy, Debug)]
struct ArrivingFrame {
    opcode: Opcode,
    fin: bool,
    /// The masking key, turned so that it fits the next byte.
    key: Option<[u8; 4]>,
    remaining: u64,
    /// Whether part of the payload has been kept.
    is_split: bool,
}

/// What has begun to arrive and is not complete.
#[derive(Debug, Default)]
pub(super) struct Arriving {
    partial_header: PartialHeader,
    frame: Option<ArrivingFrame>,
    assembly: Assembly,
    /// The payload of a control frame that did not arrive whole.
    control: Vec<u8>,
}

impl Arriving {
    /// Frees what the previous event borrowed. `false` if nothing is left.
    fn release(&mut self) -> bool {
        self.assembly.release();
        if self.frame.is_none() {
            self.control = Vec::new();
        }
        self.is_incomplete() || !self.assembly.is_idle()
    }

    /// Tells whether part of a frame or of a message has come.
    fn is_incomplete(&self) -> bool {
        self.partial_header.len > 0 || self.frame.is_some() || self.assembly.is_in_progress()
    }

    /// From now on frames are followed but not kept.
    pub(super) fn discard(&mut self) {
        self.assembly.discard();
    }
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
        self.release();
        if input.is_empty() && self.arriving.is_none() {
            self.timers.message_ended();
            return None;
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
            self.release();
            return None;
        };
        Some(match step {
            Step::Message(kind, Place::Input(range)) => Event::Message(Message {
                kind,
                payload: input.slice(range),
            }),
            Step::Message(kind, Place::Buffer) => Event::Message(Message {
                kind,
                payload: self.arriving().assembly.payload(),
            }),
            Step::Ping(Place::Input(range)) => Event::Ping(input.slice(range)),
            Step::Ping(Place::Buffer) => Event::Ping(&self.arriving().control),
            Step::Pong(Place::Input(range)) => Event::Pong(input.slice(range)),
            Step::Pong(Place::Buffer) => Event::Pong(&self.arriving().control),
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
        if self.phase != Phase::Open || self.arriving.is_some() {
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

    pub(super) fn arriving(&mut self) -> &mut Arriving {
        self.arriving.get_or_insert_default()
    }

    fn release(&mut self) {
        if let Some(arriving) = &mut self.arriving
            && !arriving.release()
        {
            self.arriving = None;
        }
    }

    /// Goes from frame to frame until one of them is an event or the input ends.
    fn step(&mut self, input: &mut Input<'_>, now: Instant) -> Result<Option<Step>, ProtocolError> {
        loop {
            // RFC 6455 §5.5.1, §7.1.7: what follows a close frame, or a failure, is not processed.
            if self.phase == Phase::Ended {
                input.discard();
                return Ok(None);
            }
            let frame = match self.frame() {
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
            if self.frame().is_some() {
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
        if input.is_empty() {
            return Ok(None);
        }
        let has_begun = self
            .arriving
            .as_ref()
            .is_some_and(|it| it.partial_header.len > 0);
        if !has_begun
            && let Some((header, size)) = Header::decode(input.rest(), sender, rsv_allowed)?
        {
            input.take(size);
            return Ok(Some(header));
        }
        let partial = &mut self.arriving().partial_header;
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
            let arriving = self.arriving.get_or_insert_default();
            arriving.assembly.begin(header, &self.config)?;
        }
        Ok(ArrivingFrame {
            opcode: header.opcode,
            fin: header.fin,
            key: header.mask,
            remaining: header.payload_len,
            is_split: false,
        })
    }

    /// Takes what has arrived of a payload and unmasks it in place.
    ///
    /// Returns where it lies and whether that is the whole payload. The frame is kept unless the
    /// payload is complete.
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
        if frame.remaining > 0 {
            self.arriving().frame = Some(frame);
        } else if let Some(arriving) = &mut self.arriving {
            arriving.frame = None;
        }
        (piece, is_whole)
    }

    /// The frame whose payload is not complete.
    fn frame(&self) -> Option<ArrivingFrame> {
        self.arriving.as_ref()?.frame
    }

    fn read_data(
        &mut self,
        frame: ArrivingFrame,
        input: &mut Input<'_>,
    ) -> Result<Option<Step>, ProtocolError> {
        let (piece, is_whole) = self.take_payload(frame, input);
        let arriving = self.arriving();
        if arriving.assembly.is_compressed() {
            return self.read_compressed(frame, input.slice(piece));
        }
        if is_whole && frame.fin && frame.opcode != Opcode::Continuation {
            let kind = arriving.assembly.whole(input.slice(piece.clone()))?;
            return Ok(kind.map(|kind| Step::Message(kind, Place::Input(piece))));
        }
        // RFC 6455 §8.1: text is checked while it arrives, so that it fails at the first bad byte.
        arriving.assembly.append(input.slice(piece))?;
        if arriving.frame.is_some() || !frame.fin {
            return Ok(None);
        }
        let kind = arriving.assembly.complete()?;
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
        let arriving = self.arriving.get_or_insert_default();
        arriving.assembly.inflate(piece, deflate.inflater())?;
        if arriving.frame.is_some() || !frame.fin {
            return Ok(None);
        }
        deflate.message_ended(sender, arriving.assembly.is_blank())?;
        let kind = arriving.assembly.complete()?;
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
        if !is_whole {
            // At most 125 bytes, apart from the message: control frames come between fragments.
            let control = &mut self.arriving().control;
            control.extend_from_slice(input.slice(piece.clone()));
        }
        if self.frame().is_some() {
            return Ok(None);
        }
        let (place, payload) = match &self.arriving {
            Some(arriving) if !is_whole => (Place::Buffer, &arriving.control[..]),
            _ => (Place::Input(piece.clone()), input.slice(piece)),
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
            if let Some(arriving) = &mut self.arriving {
                arriving.control = Vec::new();
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
            let answer = received.map(|frame| Box::new(CloseFrame::new(frame.code, "")));
            self.close_out = CloseOut::Queued(answer);
        }
        self.end(now);
    }

    /// Sets the clocks by what is still incomplete at the end of an input.
    fn note_progress(&mut self, now: Instant) {
        if self.phase != Phase::Open {
            return;
        }
        let arriving = self.arriving.as_ref();
        // What has come of a header may be a message's first bytes. A control frame has as long.
        if arriving.is_some_and(|arriving| arriving.is_incomplete()) {
            self.timers.message_begun(&self.config, now);
        } else {
            self.timers.message_ended();
        }
        let frame = arriving.and_then(|arriving| arriving.frame);
        if frame.is_some_and(|frame| !frame.opcode.is_control()) {
            self.timers.pong_obstructed(&self.config, now);
        }
    }
}

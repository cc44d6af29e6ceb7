//! One connection of the load generator.

use std::io;

use ws_proto::handshake::{HandshakeError, HeadLimits, ResponseReader};
use ws_proto::{CloseCode, CloseFrame, Opcode, ProtocolError};

use super::frames::{self, FrameReader, Piece};
use super::stats::Tally;
use super::stream::Stream;
use super::target::Target;
use super::traffic::{Traffic, is_later};

/// Why a connection is of no use any more.
#[derive(Debug)]
pub(super) enum Fault {
    Connect(io::Error),
    Handshake(HandshakeError),
    Stream(io::Error),
    Protocol(ProtocolError),
    /// A reply is not what was sent.
    WrongReply,
    /// A reply to nothing that was sent.
    Unasked,
    /// The stream has ended without a close frame.
    Ended,
    /// The server closed it.
    Closed(u16),
    /// Not open, settled or closed in time.
    Late(&'static str),
}

impl Fault {
    pub(super) fn tell(&self, tally: &mut Tally) {
        match self {
            Self::Connect(error) => {
                tally.unreachable += 1;
                tally.fail(format!("cannot connect: {error}"));
            }
            Self::Handshake(error) => {
                if let HandshakeError::Refused { status } = error {
                    *tally.refused.entry(*status).or_default() += 1;
                }
                tally.fail(format!("handshake: {error}"));
            }
            Self::Stream(error) => tally.fail(format!("stream: {error}")),
            Self::Protocol(error) => tally.fail(format!("protocol: {error}")),
            Self::WrongReply => tally.fail("a reply differs from its message"),
            Self::Unasked => tally.fail("a reply to nothing that was sent"),
            Self::Ended => tally.fail("the stream ended without a close"),
            Self::Closed(code) => tally.fail(format!("closed by the server with {code}")),
            Self::Late(what) => tally.fail(format!("timeout: {what}")),
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum State {
    /// The stream, or the WebSocket, is not open yet.
    Opening,
    Open,
    /// Our close frame was sent.
    Closing,
    /// Both close frames were exchanged; the server ends the stream.
    Closed,
    /// The stream has ended as it should.
    Gone,
}

/// One connection, with what its mode knows of it.
pub(super) struct Connection<P> {
    pub(super) state: State,
    pub(super) started_at: u64,
    pub(super) peer: P,
    pub(super) stream: Stream,
    /// The opening handshake, control frames: what is written between messages.
    pub(super) control: Vec<u8>,
    is_connected: bool,
    /// There are no handshake and no frames.
    is_raw: bool,
    response: Option<Box<ResponseReader>>,
    reader: FrameReader,
}

/// What connections share in one thread.
pub(super) struct Common<'a, T> {
    pub(super) traffic: &'a mut T,
    pub(super) tally: &'a mut Tally,
    pub(super) buffer: &'a mut [u8],
    pub(super) key: [u8; 4],
}

impl<P> Connection<P> {
    /// Begins a connection; `key` is that of its handshake, `None` if there is to be none.
    pub(super) fn new(
        stream: Stream,
        target: &Target,
        key: Option<[u8; 16]>,
        peer: P,
        started_at: u64,
    ) -> Self {
        let handshake = key.map(|key| {
            let handshake = target.handshake(key);
            handshake.expect("the same request was tried before the run")
        });
        Self {
            state: State::Opening,
            started_at,
            peer,
            stream,
            control: handshake.as_ref().map_or_else(Vec::new, |it| it.request()),
            is_connected: false,
            is_raw: key.is_none(),
            response: handshake.map(|it| Box::new(it.response_reader(HeadLimits::default()))),
            reader: FrameReader::default(),
        }
    }

    /// Does what the stream is ready for. `has_ended` tells that the peer will send nothing more:
    /// then the end is read, too. `clock` is asked after each read.
    pub(super) fn ready<T: Traffic<Peer = P>>(
        &mut self,
        common: &mut Common<'_, T>,
        has_ended: bool,
        clock: impl Fn() -> u64,
    ) -> Result<(), Fault> {
        if !self.is_connected {
            match self.stream.take_error() {
                Ok(None) => self.is_connected = true,
                Ok(Some(error)) | Err(error) => return Err(Fault::Connect(error)),
            }
            if self.is_raw {
                self.state = State::Open;
                common.tally.opened += 1;
            }
        }
        self.stream.flush().map_err(Fault::Stream)?;
        self.flush(common.traffic)?;
        loop {
            let count = match self.stream.read(common.buffer) {
                Ok(0) => return self.ended(),
                Ok(count) => count,
                Err(error) if is_later(&error) => return Ok(()),
                Err(error) => return Err(self.broken(error)),
            };
            let is_short = count < common.buffer.len() && self.stream.ends_with_short_reads();
            // Without an end there is no need to be told that nothing more is there.
            let is_drained = is_short && !has_ended;
            let buffer = std::mem::take(&mut common.buffer);
            let received = self.received(&buffer[..count], common, clock());
            common.buffer = buffer;
            received?;
            self.flush(common.traffic)?;
            if is_drained || self.state == State::Gone {
                return Ok(());
            }
        }
    }

    pub(super) fn flush<T: Traffic<Peer = P>>(&mut self, traffic: &mut T) -> Result<(), Fault> {
        if !self.is_connected {
            return Ok(());
        }
        traffic
            .flush(&mut self.peer, &mut self.control, &mut self.stream)
            .map_err(|error| self.broken(error))
    }

    /// Begins the closing handshake.
    pub(super) fn close(&mut self, key: [u8; 4]) {
        self.send_close(Some(CloseCode::NORMAL), key);
        self.state = State::Closing;
    }

    fn send_close(&mut self, code: Option<CloseCode>, key: [u8; 4]) {
        let mut payload = Vec::new();
        if let Some(code) = code {
            CloseFrame::new(code, "").encode(&mut payload);
        }
        frames::encode(Opcode::Close, &payload, key, &mut self.control);
    }

    fn received<T: Traffic<Peer = P>>(
        &mut self,
        mut input: &[u8],
        common: &mut Common<'_, T>,
        now: u64,
    ) -> Result<(), Fault> {
        if self.state == State::Opening {
            let Some(response) = &mut self.response else {
                return Ok(());
            };
            let accepted = response.read(input).map_err(Fault::Handshake)?;
            let Some(accepted) = accepted else {
                return Ok(());
            };
            self.response = None;
            self.control = Vec::new();
            self.state = State::Open;
            common.tally.opened += 1;
            common.tally.handshakes.record(now - self.started_at);
            return self.frames(&mut accepted.rest.as_slice(), common, now);
        }
        if self.is_raw {
            return common.traffic.raw(&mut self.peer, input, now);
        }
        self.frames(&mut input, common, now)
    }

    fn frames<T: Traffic<Peer = P>>(
        &mut self,
        input: &mut &[u8],
        common: &mut Common<'_, T>,
        now: u64,
    ) -> Result<(), Fault> {
        while let Some(piece) = self.reader.next(input).map_err(Fault::Protocol)? {
            match piece {
                Piece::Payload(piece) => common.traffic.payload(&mut self.peer, piece)?,
                Piece::End => common.traffic.end_of_message(&mut self.peer, now)?,
                Piece::Control(Opcode::Ping, payload) if self.state == State::Open => {
                    frames::encode(Opcode::Pong, &payload, common.key, &mut self.control);
                }
                Piece::Control(Opcode::Close, payload) => return self.closed(&payload, common),
                Piece::Control(..) => {}
            }
        }
        Ok(())
    }

    fn closed<T>(&mut self, payload: &[u8], common: &mut Common<'_, T>) -> Result<(), Fault> {
        let frame = CloseFrame::decode(payload).map_err(Fault::Protocol)?;
        let code = frame.as_ref().map_or(1005, |frame| frame.code.as_u16());
        *common.tally.close_codes.entry(code).or_default() += 1;
        if self.state == State::Closing {
            self.state = State::Closed;
            return Ok(());
        }
        self.send_close(frame.map(|frame| frame.code), common.key);
        // The fault ends it whether the answer leaves or not.
        let _ = super::traffic::write_control(&mut self.control, &mut self.stream);
        Err(Fault::Closed(code))
    }

    fn ended(&mut self) -> Result<(), Fault> {
        if self.state == State::Closed {
            self.state = State::Gone;
            return Ok(());
        }
        Err(Fault::Ended)
    }

    /// After both close frames a reset is an end like any other.
    fn broken(&mut self, error: io::Error) -> Fault {
        match self.state {
            State::Opening if !self.is_connected => Fault::Connect(error),
            State::Closed => {
                self.state = State::Gone;
                Fault::Ended
            }
            _ => Fault::Stream(error),
        }
    }
}

//! One WebSocket after its opening handshake, as a state machine.

mod receive;
mod timers;

use std::sync::Arc;
use std::time::Instant;

use bytes::Bytes;

use self::receive::Arriving;
use self::timers::{Due, Timers};
use crate::deflate::{self, Deflate};
use crate::mask::MaskingKeys;
use crate::rate::Bucket;
use crate::utf8::is_utf8;
use crate::{
    CloseFrame, Config, DeflateConfig, DeflateParams, EncodedMessage, Message, MessageKind, Opcode,
    ProtocolError, SendError, frame,
};

/// Which end of the connection this is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Role {
    /// Accepted the opening handshake; sends unmasked frames.
    Server,
    /// Began the opening handshake; sends masked frames.
    Client,
}

/// How far the connection is from its end.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum State {
    /// Messages flow.
    Open,
    /// A close frame was queued, sent or received; no message is sent or delivered any more.
    Closing,
    /// Both close frames were exchanged, or the connection failed and our close frame has been
    /// handed out. What remains is to flush, and to close the stream.
    Closed,
}

/// Something that happened on the connection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event<'a> {
    /// A whole message.
    Message(Message<'a>),
    /// A ping; its pong is queued.
    Ping(&'a [u8]),
    /// A pong, asked for or not.
    Pong(&'a [u8]),
    /// The peer's close frame; ours is queued unless it was sent before.
    Close(Option<CloseFrame>),
    /// The connection has failed; a close frame with the error's code is queued, unless one was
    /// queued or sent before.
    Failed(ProtocolError),
}

/// One WebSocket connection, from the end of its opening handshake on.
///
/// The machine does no I/O and reads no clock. The caller
///
/// 1. passes what it read to [`receive`](Self::receive) until that returns `None`,
/// 2. appends replies with [`send`](Self::send) (or shared [`EncodedMessage`](crate::EncodedMessage)s)
///    to its output,
/// 3. calls [`poll_transmit`](Self::poll_transmit) after each event and each of the other calls, and
///    writes the output,
/// 4. calls [`handle_timeout`](Self::handle_timeout) when the time of
///    [`poll_timeout`](Self::poll_timeout) has come, and asks for that time anew after every call,
/// 5. once [`state`](Self::state) is [`State::Closed`], flushes, and closes the stream. A server
///    closes first; a client waits a moment for it
///    ([RFC 6455 §7.1.1](https://www.rfc-editor.org/rfc/rfc6455#section-7.1.1)).
///
/// Between messages and pings it holds no heap memory, unless compression with context takeover was agreed
/// upon.
#[derive(Debug)]
pub struct Connection {
    config: Arc<Config>,
    /// A client has masking keys, a server none: this is the role.
    masking_keys: Option<Box<MaskingKeys>>,
    phase: Phase,
    close_out: CloseOut,
    /// What has begun to arrive; `None` between frames and messages that come whole.
    arriving: Option<Box<Arriving>>,
    /// `None` unless the handshake agreed upon compression.
    deflate: Option<Deflate>,
    /// The payload of the pong to be sent.
    pong: Option<Box<[u8]>>,
    is_ping_queued: bool,
    control_frames: Bucket,
    timers: Timers,
}

/// What is made of the bytes that arrive.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    Open,
    /// We wait for the peer's close frame and nothing else.
    Closing,
    /// The peer's close frame came, or the connection failed: nothing more is processed.
    Ended,
}

/// Our close frame.
#[derive(Debug)]
enum CloseOut {
    None,
    /// Boxed, so that the connections that are open need no room for it.
    Queued(Option<Box<CloseFrame>>),
    Sent,
}

impl Connection {
    /// The server's end of a connection that opened at `now`.
    #[must_use]
    pub fn server(config: Arc<Config>, now: Instant) -> Self {
        Self::new(config, None, now)
    }

    /// The client's end of a connection that opened at `now`.
    ///
    /// `mask_seed` must come from the system's source of randomness, for masking keys are derived
    /// from it that nobody may predict
    /// ([RFC 6455 §10.3](https://www.rfc-editor.org/rfc/rfc6455#section-10.3)).
    #[must_use]
    pub fn client(config: Arc<Config>, mask_seed: [u8; 32], now: Instant) -> Self {
        Self::new(config, Some(Box::new(MaskingKeys::new(mask_seed))), now)
    }

    fn new(config: Arc<Config>, masking_keys: Option<Box<MaskingKeys>>, now: Instant) -> Self {
        Self {
            timers: Timers::new(&config, now),
            config,
            masking_keys,
            phase: Phase::Open,
            close_out: CloseOut::None,
            arriving: None,
            deflate: None,
            pong: None,
            is_ping_queued: false,
            control_frames: Bucket::new(now),
        }
    }

    /// Compresses and inflates as the opening handshake agreed; not at all if that is `None`
    /// ([RFC 7692](https://www.rfc-editor.org/rfc/rfc7692)).
    ///
    /// Level and smallest size are those of [`Config::deflate`].
    #[must_use]
    pub fn with_deflate(mut self, params: impl Into<Option<DeflateParams>>) -> Self {
        self.deflate = params.into().map(Deflate::new);
        self
    }

    /// Returns which end this is.
    #[must_use]
    pub fn role(&self) -> Role {
        if self.masking_keys.is_some() {
            Role::Client
        } else {
            Role::Server
        }
    }

    /// Returns how far the connection is from its end.
    #[must_use]
    pub fn state(&self) -> State {
        match (self.phase, &self.close_out) {
            (Phase::Open, _) => State::Open,
            (Phase::Ended, CloseOut::Sent) => State::Closed,
            (Phase::Closing | Phase::Ended, _) => State::Closing,
        }
    }

    /// Returns the settings.
    #[must_use]
    pub fn config(&self) -> &Arc<Config> {
        &self.config
    }

    /// Does what is due at `now`; call it again until [`poll_timeout`](Self::poll_timeout) lies in
    /// the future.
    ///
    /// It queues pings, and fails the connection if a pong, the rest of a message or the peer's
    /// close frame is late. Called early, it does nothing.
    pub fn handle_timeout(&mut self, now: Instant) -> Option<Event<'static>> {
        let (at, due) = self.timers.next()?;
        if at > now {
            return None;
        }
        let error = match due {
            Due::Ping => {
                self.is_ping_queued = true;
                self.timers.ping_sent(&self.config, now);
                return None;
            }
            Due::Pong => ProtocolError::PongTimeout,
            Due::Message => ProtocolError::MessageTimeout,
            Due::Close => {
                // Our close frame went out in vain, or could not even leave: nothing more will.
                self.close_out = CloseOut::Sent;
                ProtocolError::CloseTimeout
            }
        };
        self.fail(&error, now);
        Some(Event::Failed(error))
    }

    /// Appends a message, as one frame, to `out`; compressed if that was agreed upon
    /// and it is not shorter than [`DeflateConfig::min_size`].
    ///
    /// # Errors
    ///
    /// [`SendError`] if the connection is not open or a text is not UTF-8; `out` is unchanged.
    pub fn send(
        &mut self,
        kind: MessageKind,
        payload: &[u8],
        out: &mut Vec<u8>,
    ) -> Result<(), SendError> {
        self.check_send(kind, payload)?;
        if self.deflate.is_none() || !self.encode_deflated(kind, payload, out) {
            self.encode_plain(kind, payload, out);
        }
        Ok(())
    }

    /// Appends a message, as one frame, to `out`, and never compresses it.
    ///
    /// This is for messages that hold a secret beside text that somebody else may choose: their
    /// compressed size would tell about the secret
    /// ([RFC 7692 §8](https://www.rfc-editor.org/rfc/rfc7692#section-8)).
    ///
    /// # Errors
    ///
    /// [`SendError`] if the connection is not open or a text is not UTF-8; `out` is unchanged.
    pub fn send_uncompressed(
        &mut self,
        kind: MessageKind,
        payload: &[u8],
        out: &mut Vec<u8>,
    ) -> Result<(), SendError> {
        self.check_send(kind, payload)?;
        self.encode_plain(kind, payload, out);
        Ok(())
    }

    /// Returns a message that is shared by many connections as a frame for this one.
    ///
    /// A server's connections share the plain frame, and also the compressed one as far as they
    /// agreed upon the same window without context takeover: it is made once, by the first that
    /// needs it. Every other connection gets a frame of its own.
    ///
    /// # Errors
    ///
    /// [`SendError::Closing`] if the connection is not open.
    pub fn frame_of(&mut self, message: &EncodedMessage) -> Result<Bytes, SendError> {
        if self.phase != Phase::Open {
            return Err(SendError::Closing);
        }
        let (kind, payload) = (message.kind(), message.payload());
        let settings = self.config.deflate().unwrap_or_default();
        let is_deflated = message.may_be_compressed() && is_long_enough(payload, &settings);
        let direction = self
            .deflate
            .as_ref()
            .filter(|_| is_deflated)
            .map(|deflate| deflate.direction(self.role()));
        match (self.role(), direction) {
            (Role::Server, None) => return Ok(message.as_bytes().clone()),
            (Role::Server, Some(direction)) if !direction.takeover => {
                return Ok(message.deflated(direction.bits, settings.level()).clone());
            }
            (Role::Server, Some(_)) | (Role::Client, _) => {}
        }
        let mut frame = Vec::new();
        if !is_deflated || !self.encode_deflated(kind, payload, &mut frame) {
            self.encode_plain(kind, payload, &mut frame);
        }
        // It may wait in a queue, where only its size is counted.
        frame.shrink_to_fit();
        Ok(frame.into())
    }

    /// Begins the closing handshake: queues our close frame, with or without code and reason.
    ///
    /// From now on no message is sent or delivered; what was appended to the output before goes
    /// out before the close frame. A second call, or one after the peer's close frame or a failure,
    /// does nothing.
    pub fn close(&mut self, frame: Option<CloseFrame>, now: Instant) {
        if self.phase != Phase::Open {
            return;
        }
        self.phase = Phase::Closing;
        self.close_out = CloseOut::Queued(frame.map(Box::new));
        self.is_ping_queued = false;
        self.arriving().discard();
        if let Some(deflate) = &mut self.deflate {
            deflate.clear();
        }
        self.timers.close_begun(&self.config, now);
    }

    /// Tells the machine that nothing is read from the stream from now on.
    ///
    /// The clocks that judge the peer by what arrives stand until [`resume`](Self::resume), and no
    /// ping is sent.
    pub fn pause(&mut self, now: Instant) {
        if self.phase == Phase::Open {
            self.timers.pause(now);
        }
    }

    /// Tells the machine that the stream is read again.
    pub fn resume(&mut self, now: Instant) {
        self.timers.resume(now);
    }

    /// Appends the control frames that wait to `out`; `false` if there are none.
    ///
    /// At most one pong waits. A caller that calls this after each event answers every ping; one
    /// that does not, because earlier bytes have not left yet, answers the latest
    /// ([RFC 6455 §5.5.3](https://www.rfc-editor.org/rfc/rfc6455#section-5.5.3)).
    pub fn poll_transmit(&mut self, out: &mut Vec<u8>) -> bool {
        let before = out.len();
        if let Some(payload) = self.pong.take() {
            self.encode_control(Opcode::Pong, &payload, out);
        }
        if std::mem::take(&mut self.is_ping_queued) {
            self.encode_control(Opcode::Ping, &[], out);
        }
        if matches!(self.close_out, CloseOut::Queued(_)) {
            let sent = std::mem::replace(&mut self.close_out, CloseOut::Sent);
            let mut payload = Vec::new();
            if let CloseOut::Queued(Some(frame)) = sent {
                frame.encode(&mut payload);
            }
            self.encode_control(Opcode::Close, &payload, out);
            if self.phase == Phase::Ended {
                self.timers.clear();
            }
        }
        out.len() > before
    }

    /// Tells whether [`poll_transmit`](Self::poll_transmit) would append something.
    #[must_use]
    pub fn wants_transmit(&self) -> bool {
        self.pong.is_some() || self.is_ping_queued || matches!(self.close_out, CloseOut::Queued(_))
    }

    /// Returns when [`handle_timeout`](Self::handle_timeout) is to be called next, if ever.
    ///
    /// In [`State::Closed`] there is nothing left to wait for here.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<Instant> {
        self.timers.next().map(|(at, _)| at)
    }

    /// Fails the connection: queues a close frame unless there was one, and ends.
    fn fail(&mut self, error: &ProtocolError, now: Instant) {
        if matches!(self.close_out, CloseOut::None) {
            // RFC 6455 §7.1.7: an endpoint that fails an established connection should say why.
            let frame = CloseFrame::new(error.close_code(), error.to_string());
            self.close_out = CloseOut::Queued(Some(Box::new(frame)));
        }
        self.end(now);
    }

    /// Processes nothing from now on, and keeps nothing but our close frame and a pong due before.
    fn end(&mut self, now: Instant) {
        self.phase = Phase::Ended;
        self.is_ping_queued = false;
        self.arriving = None;
        if let Some(deflate) = &mut self.deflate {
            deflate.clear();
        }
        self.timers.close_begun(&self.config, now);
        if matches!(self.close_out, CloseOut::Sent) {
            self.timers.clear();
        }
    }

    fn check_send(&self, kind: MessageKind, payload: &[u8]) -> Result<(), SendError> {
        // RFC 6455 §5.5.1: no data frames after a close frame.
        if self.phase != Phase::Open {
            return Err(SendError::Closing);
        }
        // RFC 6455 §5.6: a text message is UTF-8 as a whole.
        if kind == MessageKind::Text && !is_utf8(payload) {
            return Err(SendError::NotUtf8);
        }
        Ok(())
    }

    fn encode_plain(&mut self, kind: MessageKind, payload: &[u8], out: &mut Vec<u8>) {
        let key = self.next_masking_key();
        frame::encode(kind.into(), payload, key, out);
    }

    /// Appends a compressed message; `false` if it is to be sent as it is.
    fn encode_deflated(&mut self, kind: MessageKind, payload: &[u8], out: &mut Vec<u8>) -> bool {
        let settings = self.config.deflate().unwrap_or_default();
        if self.deflate.is_none() || !is_long_enough(payload, &settings) {
            return false;
        }
        let (role, key) = (self.role(), self.next_masking_key());
        let Some(deflate) = &mut self.deflate else {
            return false;
        };
        deflate::encode(kind.into(), key, out, |out| {
            deflate.compress(role, settings.level(), payload, out);
        });
        true
    }

    fn encode_control(&mut self, opcode: Opcode, payload: &[u8], out: &mut Vec<u8>) {
        let key = self.next_masking_key();
        frame::encode(opcode, payload, key, out);
    }

    fn next_masking_key(&mut self) -> Option<[u8; 4]> {
        // RFC 6455 §5.3: a client masks each frame with a fresh key; §5.1: a server masks none.
        self.masking_keys.as_mut().map(|keys| keys.next_key())
    }
}

/// Tells whether a message is long enough to be compressed.
fn is_long_enough(payload: &[u8], settings: &DeflateConfig) -> bool {
    payload.len() >= settings.min_size().max(1)
}

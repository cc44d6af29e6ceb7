//! Help for tests of this crate and of those above it (feature `testing`).
//!
//! Bytes that may be cut anywhere, frames that break rules, events that own what they hold.

use std::ops::Range;
use std::time::Instant;

use proptest::prelude::*;

use crate::deflate::RSV1;
use crate::frame::Header;
use crate::handshake::ExtensionOffer;
use crate::{
    CloseCode, CloseFrame, Connection, DeflateConfig, DeflateLevel, DeflateParams, Event, Input,
    MessageKind, Opcode, ProtocolError, WindowBits, mask,
};

/// An [`Event`] that owns its payload, to be kept and compared.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum OwnedEvent {
    /// A message.
    Message(MessageKind, Vec<u8>),
    /// A ping.
    Ping(Vec<u8>),
    /// A pong.
    Pong(Vec<u8>),
    /// The peer's close frame.
    Close(Option<CloseFrame>),
    /// A failure.
    Failed(ProtocolError),
}

impl From<Event<'_>> for OwnedEvent {
    fn from(event: Event<'_>) -> Self {
        match event {
            Event::Message(message) => Self::Message(message.kind, message.payload.to_vec()),
            Event::Ping(payload) => Self::Ping(payload.to_vec()),
            Event::Pong(payload) => Self::Pong(payload.to_vec()),
            Event::Close(frame) => Self::Close(frame),
            Event::Failed(error) => Self::Failed(error),
        }
    }
}

/// Passes one piece of input to the connection and returns all its events.
///
/// What the connection has to send after each of them is appended to `out`.
pub fn receive_all(
    connection: &mut Connection,
    piece: &[u8],
    now: Instant,
    out: &mut Vec<u8>,
) -> Vec<OwnedEvent> {
    let mut bytes = piece.to_vec();
    let mut input = Input::new(&mut bytes);
    let mut events = Vec::new();
    while let Some(event) = connection.receive(&mut input, now) {
        events.push(event.into());
        connection.poll_transmit(out);
    }
    assert!(input.is_empty(), "receive leaves nothing behind");
    events
}

/// Cuts `len` bytes into ranges at the given sizes, over and over; the last range is the rest.
#[must_use]
pub fn cut(len: usize, sizes: &[usize]) -> Vec<Range<usize>> {
    let mut ranges = Vec::new();
    let mut start = 0_usize;
    for size in sizes.iter().cycle().take(len) {
        let end = start.saturating_add(*size.max(&1)).min(len);
        if start < end {
            ranges.push(start..end);
        }
        start = end;
    }
    if start < len {
        ranges.push(start..len);
    }
    ranges
}

/// A frame as a test wants it, whether or not the rules allow it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TestFrame {
    /// The FIN bit.
    pub fin: bool,
    /// The reserved bits, in their place in the first byte.
    pub rsv: u8,
    /// What the frame is.
    pub opcode: Opcode,
    /// The masking key of a client's frame.
    pub key: Option<[u8; 4]>,
    /// The payload before masking.
    pub payload: Vec<u8>,
}

impl TestFrame {
    /// A final frame of a client.
    #[must_use]
    pub fn client(opcode: Opcode, payload: impl Into<Vec<u8>>) -> Self {
        let key = Some([0x37, 0xFA, 0x21, 0x3D]);
        Self {
            fin: true,
            rsv: 0,
            opcode,
            key,
            payload: payload.into(),
        }
    }

    /// A final frame of a server.
    #[must_use]
    pub fn server(opcode: Opcode, payload: impl Into<Vec<u8>>) -> Self {
        Self {
            fin: true,
            rsv: 0,
            opcode,
            key: None,
            payload: payload.into(),
        }
    }

    /// The same frame with more of its message to come.
    #[must_use]
    pub fn unfinished(self) -> Self {
        Self { fin: false, ..self }
    }

    /// The same frame with the bit that says that its message is compressed.
    #[must_use]
    pub fn compressed(self) -> Self {
        Self { rsv: RSV1, ..self }
    }

    /// Appends the frame's bytes to `out`.
    pub fn encode(&self, out: &mut Vec<u8>) {
        let payload_len = self.payload.len() as u64;
        let Self {
            fin,
            rsv,
            opcode,
            key,
            ..
        } = *self;
        Header {
            fin,
            rsv,
            opcode,
            mask: key,
            payload_len,
        }
        .encode(out);
        let start = out.len();
        out.extend_from_slice(&self.payload);
        if let Some(key) = key {
            mask(&mut out[start..], key);
        }
    }

    /// Returns the frame's bytes.
    #[must_use]
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut out = Vec::new();
        self.encode(&mut out);
        out
    }
}

/// Encodes frames one after another.
#[must_use]
pub fn encode_all(frames: &[TestFrame]) -> Vec<u8> {
    let mut out = Vec::new();
    frames.iter().for_each(|frame| frame.encode(&mut out));
    out
}

/// Messages of either kind: short ones, and some that need each of the length encodings.
pub fn message() -> impl Strategy<Value = (MessageKind, Vec<u8>)> {
    prop_oneof![
        4 => ".{0,40}".prop_map(|text| (MessageKind::Text, text.into_bytes())),
        4 => prop::collection::vec(any::<u8>(), 0..200)
            .prop_map(|payload| (MessageKind::Binary, payload)),
        1 => (any::<u8>(), 65_000_usize..67_000)
            .prop_map(|(byte, len)| (MessageKind::Binary, vec![byte; len])),
    ]
}

/// Sizes for [`cut`]: single bytes, small pieces, or hardly any cut.
pub fn sizes() -> impl Strategy<Value = Vec<usize>> {
    prop_oneof![
        Just(vec![1]),
        prop::collection::vec(1_usize..20, 1..10),
        prop::collection::vec(1_usize..5_000, 1..4),
        Just(vec![usize::MAX]),
    ]
}

/// The frames of one message cut into fragments, with control frames between them, all masked.
pub fn fragmented() -> impl Strategy<Value = Vec<TestFrame>> {
    let control = prop_oneof![Just(Opcode::Ping), Just(Opcode::Pong)];
    let control = (control, prop::collection::vec(any::<u8>(), 0..126));
    let between = prop::collection::vec(prop::option::weighted(0.2, control), 1..6);
    (message(), between, any::<[u8; 4]>()).prop_map(|((kind, payload), between, key)| {
        let size = payload.len() / between.len() + 1;
        let mut pieces: Vec<&[u8]> = payload.chunks(size).collect();
        pieces.resize(pieces.len().max(1), &[]);
        let last = pieces.len() - 1;
        let mut frames = Vec::new();
        for (index, piece) in pieces.into_iter().enumerate() {
            let opcode = if index == 0 {
                kind.into()
            } else {
                Opcode::Continuation
            };
            let (fin, payload) = (index == last, piece.to_vec());
            frames.push(TestFrame {
                fin,
                rsv: 0,
                opcode,
                key: Some(key),
                payload,
            });
            if let Some(Some((opcode, payload))) = between.get(index) {
                let (opcode, payload) = (*opcode, payload.clone());
                frames.push(TestFrame {
                    fin: true,
                    rsv: 0,
                    opcode,
                    key: Some(key),
                    payload,
                });
            }
        }
        frames
    })
}

/// Frames of a client, many of which break a rule.
pub fn wild_frame() -> impl Strategy<Value = TestFrame> {
    let opcode = prop_oneof![
        3 => Just(Opcode::Text),
        3 => Just(Opcode::Binary),
        3 => Just(Opcode::Continuation),
        1 => Just(Opcode::Close),
        1 => Just(Opcode::Ping),
        1 => Just(Opcode::Pong),
    ];
    let payload = prop_oneof![
        ".{0,10}".prop_map(String::into_bytes),
        prop::collection::vec(any::<u8>(), 0..130),
        (900_u16..5_100).prop_map(|code| code.to_be_bytes().to_vec()),
    ];
    let key = prop::option::weighted(0.97, any::<[u8; 4]>());
    (prop::bool::weighted(0.7), opcode, key, payload).prop_map(|(fin, opcode, key, payload)| {
        TestFrame {
            fin,
            rsv: 0,
            opcode,
            key,
            payload,
        }
    })
}

/// Settings of permessage-deflate, all of them possible.
pub fn deflate_config() -> impl Strategy<Value = DeflateConfig> {
    let bits = || (8_u8..=15).prop_map(|bits| WindowBits::new(bits).expect("8 to 15 exist"));
    let level = (1_u8..=9).prop_map(|level| DeflateLevel::new(level).expect("1 to 9 exist"));
    (level, 0_usize..100, any::<(bool, bool)>(), bits(), bits()).prop_map(
        |(level, min_size, (server_takeover, client_takeover), server_bits, client_bits)| {
            DeflateConfig::default()
                .with_level(level)
                .with_min_size(min_size)
                .with_server_context_takeover(server_takeover)
                .with_client_context_takeover(client_takeover)
                .with_server_max_window_bits(server_bits)
                .with_client_max_window_bits(client_bits)
        },
    )
}

/// Returns what a client and a server of these settings agree upon, each as it sees it.
///
/// # Panics
///
/// If they do not: any two settings fit.
#[must_use]
pub fn agree(client: &DeflateConfig, server: &DeflateConfig) -> (DeflateParams, DeflateParams) {
    let offers = ExtensionOffer::parse(&client.offer()).expect("an offer follows the grammar");
    let servers = server.accept(&offers).expect("an offer can be taken up");
    let response =
        ExtensionOffer::parse(&servers.to_string()).expect("a response follows the grammar");
    let clients = client.agree(&response).expect("the response fits");
    (clients.expect("the server accepted"), servers)
}

/// Close frames that may be sent.
pub fn close_frame() -> impl Strategy<Value = Option<CloseFrame>> {
    let code = (1000_u16..5000)
        .prop_filter_map("a code that may be sent", |code| CloseCode::new(code).ok());
    prop::option::of((code, ".{0,60}").prop_map(|(code, reason)| CloseFrame::new(code, reason)))
}

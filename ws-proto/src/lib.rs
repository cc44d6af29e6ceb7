//! RFC 6455 and RFC 7692 without I/O: the opening handshake, frames, messages, compression and the
//! closing handshake of a WebSocket, for both roles.
//!
//! Nothing here knows a socket, a clock, a thread or a runtime. Bytes come in as slices, cut
//! anywhere; bytes go out by being appended to a vector; the time is an argument. What a connection
//! does can thus be replayed in a test, and any kind of I/O can carry it.
//!
//! # What it does
//!
//! - [`handshake`]: reads the head of a request in linear time and within limits, judges it, and
//!   makes the answer; also a client's request.
//! - [`Connection`]: turns bytes into [`Event`]s. It refuses what the RFC forbids at the very byte,
//!   text that is not UTF-8 among it; it answers pings, sends its own, and runs the closing
//!   handshake and the deadlines.
//! - [`DeflateConfig`]: permessage-deflate, negotiated on either side and applied by the connection.
//! - [`EncodedMessage`]: a message encoded, and compressed, once for many connections.
//!
//! It deliberately has no URL parser, no TLS, no queue of outgoing messages, no other extension, and
//! it fragments nothing that it sends.
//!
//! # How to drive it
//!
//! Read from the stream into a buffer of your own; wrap it as [`Input`]; call
//! [`Connection::receive`] until it returns `None`. After each event append replies to an output
//! vector and call [`Connection::poll_transmit`]. Write the output. Sleep until
//! [`Connection::poll_timeout`], or until the stream is readable; then call
//! [`Connection::handle_timeout`]. Once the [`State`] is [`State::Closed`], flush and close.
//!
//! When a peer breaks the protocol, the events of its valid messages have come before
//! [`Event::Failed`], and the close frame is only made by `poll_transmit`: replies written in
//! between leave before it.
//!
//! ```
//! use std::sync::Arc;
//! use std::time::Instant;
//!
//! use ws_proto::{Config, Connection, Event, Input, MessageKind};
//!
//! let (config, now) = (Arc::new(Config::default()), Instant::now());
//! let mut server = Connection::server(Arc::clone(&config), now);
//! let mut client = Connection::client(config, [7; 32], now);
//!
//! // What the client sends would travel over a stream.
//! let mut wire = Vec::new();
//! client.send(MessageKind::Text, b"Hello", &mut wire)?;
//!
//! let mut out = Vec::new();
//! let mut input = Input::new(&mut wire);
//! while let Some(event) = server.receive(&mut input, now) {
//!     if let Event::Message(message) = event {
//!         assert_eq!(message.as_text(), Some("Hello"));
//!         server.send(MessageKind::Text, b"Good day", &mut out)?;
//!     }
//!     server.poll_transmit(&mut out);
//! }
//! assert_eq!(out, b"\x81\x08Good day");
//! # Ok::<(), ws_proto::SendError>(())
//! ```
//!
//! `examples/` has a blocking server over TCP in less than 60 lines (`echo`), the same over tokio
//! (`echo_tokio`), and a client (`client`).
//!
//! # Memory
//!
//! A message that lies whole in the input is unmasked there and lent to the caller: no copy, no
//! allocation. Other messages share one buffer per connection. It grows with the bytes received,
//! never by a length that a peer merely declares, and is freed once the message has been looked at.
//! An idle connection holds no heap memory.
//!
//! A compressed message is inflated into that buffer, in steps, and never beyond
//! [`Config::max_message_size`]. The streams for it belong to the thread and are lent for the time of
//! a message; only with context takeover a connection keeps its own, which [`DeflateConfig`] gives
//! the sizes of.

mod assembly;
mod close;
mod config;
mod connection;
mod deflate;
mod error;
pub mod frame;
pub mod handshake;
mod input;
mod mask;
mod message;
mod opcode;
mod rate;
mod settings;
#[cfg(any(test, feature = "testing"))]
pub mod testing;
mod utf8;

pub use self::close::{CloseCode, CloseFrame, InvalidCloseCode};
pub use self::config::Config;
pub use self::connection::{Connection, Event, Role, State};
pub use self::deflate::{
    DeflateConfig, DeflateLevel, DeflateParams, InvalidDeflateLevel, InvalidDeflateResponse,
    InvalidWindowBits, WindowBits,
};
pub use self::error::{ProtocolError, SendError};
pub use self::input::Input;
pub use self::mask::mask;
pub use self::message::{EncodedMessage, FrameStore, Message, MessageKind};
pub use self::opcode::Opcode;
pub use self::utf8::{InvalidUtf8, Utf8Validator};

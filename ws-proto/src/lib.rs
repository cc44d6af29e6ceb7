//! RFC 6455 without I/O.

mod assembly;
mod close;
mod config;
mod connection;
mod error;
pub mod frame;
pub mod handshake;
mod input;
mod mask;
mod message;
mod opcode;
mod rate;
mod utf8;

pub use self::close::{CloseCode, CloseFrame, InvalidCloseCode};
pub use self::config::Config;
pub use self::connection::{Connection, Event, Role, State};
pub use self::error::{ProtocolError, SendError};
pub use self::input::Input;
pub use self::mask::mask;
pub use self::message::{EncodedMessage, Message, MessageKind};
pub use self::opcode::Opcode;
pub use self::utf8::{InvalidUtf8, Utf8Validator};

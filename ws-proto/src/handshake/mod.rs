//! The opening handshake, both roles ([RFC 6455 §4](https://www.rfc-editor.org/rfc/rfc6455#section-4)).
//!
//! A server feeds a [`HeadReader`] until it yields a [`RequestHead`], looks whether that is an
//! upgrade at all, checks it with [`Upgrade::new`], and sends what [`Upgrade::accept`] or
//! [`Rejection::response`] made. After anything but a 101 the stream is closed: every such answer
//! says so, and no byte behind it is ever parsed.
//!
//! ```
//! use ws_proto::handshake::{HeadLimits, HeadReader, Upgrade};
//!
//! let mut reader = HeadReader::new(HeadLimits::default());
//! assert!(reader.read(b"GET /chat HTTP/1.1\r\nHost: example.com\r\n")?.is_none());
//! let head = reader
//!     .read(
//!         b"Upgrade: websocket\r\nConnection: Upgrade\r\n\
//!           Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n",
//!     )?
//!     .expect("the head is complete");
//! assert_eq!(head.target(), "/chat");
//!
//! let answer = Upgrade::new(&head)?.accept(None, None, &[]).expect("nothing is added");
//! assert!(answer.starts_with(b"HTTP/1.1 101 Switching Protocols\r\n"));
//! # Ok::<(), ws_proto::handshake::Rejection>(())
//! ```

mod client;
mod extension;
mod field;
mod head;
mod rejection;
mod response;
mod scan;
mod upgrade;

pub use self::client::{Accepted, ClientHandshake, HandshakeError, InvalidRequest, ResponseReader};
pub use self::extension::{ExtensionOffer, InvalidExtensions};
pub use self::head::{HeadReader, RequestHead, Version};
pub use self::rejection::{BadRequest, Rejection};
pub use self::response::response;
pub use self::scan::HeadLimits;
pub use self::upgrade::{AcceptError, Upgrade};

//! FastCGI: how a request reaches php-fpm or any other application server.
//!
//! [`FastCgi`] asks such a server at its address; the functions and types beside it are the codec,
//! of which a web server needs one half: it encodes requests and decodes responses. The protocol
//! is the [FastCGI Specification](https://fastcgi-archives.github.io/FastCGI_Specification.html),
//! version 1.0; sections are cited from there.
//!
//! A connection carries one request at a time: servers need not multiplex (§4.1), and php-fpm does
//! not. Therefore nothing is asked about it (`FCGI_GET_VALUES`), and a request is aborted by
//! closing its connection rather than by `FCGI_ABORT_REQUEST` (§5.4).
//!
//! ```
//! use ws_ipc::Environment;
//! use ws_ipc::fastcgi::{self, Event, ResponseDecoder};
//!
//! let mut environment = Environment::new();
//! environment.set("SCRIPT_FILENAME", "/srv/app.php")?;
//! let mut request = Vec::new();
//! fastcgi::encode_request(&mut request, 1, true, &environment, b"hello");
//!
//! let response = b"\x01\x06\0\x01\0\x05\x03\0\n\nbye\0\0\0\x01\x03\0\x01\0\x08\0\0\0\0\0\0\0\0\0\0";
//! let mut decoder = ResponseDecoder::new(1);
//! let mut rest = &response[..];
//! assert_eq!(decoder.decode(&mut rest)?, Some(Event::Stdout(b"\n\nbye")));
//! assert!(matches!(decoder.decode(&mut rest)?, Some(Event::End { app_status: 0, .. })));
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

mod client;
mod codec;
mod connection;
mod pool;

pub use client::{FastCgi, FastCgiConfig};
pub use codec::{Event, FastCgiError, ProtocolStatus, ResponseDecoder, encode_request};

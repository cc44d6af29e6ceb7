//! What this endpoint wants of the compression.

use std::fmt;

use crate::settings::settings;

/// The size of a compressor's window as a power of two, from 8 (256 bytes) to 15 (32 KiB).
///
/// What a compressor refers back to lies within its window, so the peer that inflates needs one of
/// the same size ([RFC 7692 §7.1.2](https://www.rfc-editor.org/rfc/rfc7692#section-7.1.2)).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct WindowBits(u8);

impl WindowBits {
    /// 256 bytes.
    pub const MIN: Self = Self(8);
    /// 32 KiB.
    pub const MAX: Self = Self(15);

    /// Checks a number of bits.
    ///
    /// # Errors
    ///
    /// [`InvalidWindowBits`] unless it is between 8 and 15.
    pub fn new(bits: u8) -> Result<Self, InvalidWindowBits> {
        match bits {
            8..=15 => Ok(Self(bits)),
            _ => Err(InvalidWindowBits { bits }),
        }
    }

    /// Returns the number of bits.
    #[must_use]
    pub const fn get(self) -> u8 {
        self.0
    }

    /// What the zlib family is asked for: it knows no window of 8 bits.
    ///
    /// With 9 it never refers back further than 250 bytes (512 less the longest match and what it
    /// looks ahead), so what it makes fits a window of 8 as well.
    pub(super) fn for_zlib(self) -> u8 {
        self.0.max(9)
    }
}

impl Default for WindowBits {
    fn default() -> Self {
        Self::MAX
    }
}

impl fmt::Display for WindowBits {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// A size of a window that RFC 7692 does not know.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{bits} window bits, but 8 to 15 are possible")]
pub struct InvalidWindowBits {
    /// The refused number.
    pub bits: u8,
}

/// How hard a compressor tries, from 1 (fastest) to 9 (smallest).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct DeflateLevel(u8);

impl DeflateLevel {
    /// Checks a level.
    ///
    /// # Errors
    ///
    /// [`InvalidDeflateLevel`] unless it is between 1 and 9.
    pub fn new(level: u8) -> Result<Self, InvalidDeflateLevel> {
        match level {
            1..=9 => Ok(Self(level)),
            _ => Err(InvalidDeflateLevel { level }),
        }
    }

    /// Returns the number.
    #[must_use]
    pub fn get(self) -> u8 {
        self.0
    }
}

impl Default for DeflateLevel {
    /// The level that costs least for what it saves on messages of some KiB.
    fn default() -> Self {
        Self(3)
    }
}

/// A level of compression that does not exist.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("compression level {level}, but 1 to 9 are possible")]
pub struct InvalidDeflateLevel {
    /// The refused number.
    pub level: u8,
}

/// How this endpoint compresses, and what it asks of its peer.
///
/// Without context takeover, the default, each message is compressed for itself: nothing is kept
/// between messages, and one that goes to many connections is compressed once for all of them. With
/// it, small messages that resemble one another become much smaller, at a price in memory: a
/// connection that has sent one keeps 372 KiB (260 KiB with 12 window bits, 246 KiB with 9), and one
/// that has received one 47 KiB.
///
/// Who can insert text of their own into a message that holds a secret, and see the size of what is
/// sent, can guess the secret
/// ([RFC 7692 §8](https://www.rfc-editor.org/rfc/rfc7692#section-8)): send such messages with
/// [`Connection::send_uncompressed`](crate::Connection::send_uncompressed).
///
/// ```
/// use ws_proto::{DeflateConfig, WindowBits};
///
/// let config = DeflateConfig::default()
///     .with_server_context_takeover(true)
///     .with_server_max_window_bits(WindowBits::new(12)?);
/// assert_eq!(config.server_max_window_bits().get(), 12);
/// # Ok::<(), ws_proto::InvalidWindowBits>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DeflateConfig {
    level: DeflateLevel,
    min_size: usize,
    server_context_takeover: bool,
    client_context_takeover: bool,
    server_max_window_bits: WindowBits,
    client_max_window_bits: WindowBits,
}

impl Default for DeflateConfig {
    fn default() -> Self {
        Self {
            level: DeflateLevel::default(),
            // A client that offers compression finds it, however short the messages are.
            min_size: 0,
            server_context_takeover: false,
            client_context_takeover: false,
            server_max_window_bits: WindowBits::MAX,
            client_max_window_bits: WindowBits::MAX,
        }
    }
}

settings! {
    DeflateConfig;

    /// How hard our compressor tries, default 3.
    level, with_level: DeflateLevel;

    /// The size in bytes of the smallest message that is compressed, default 0. An empty one never
    /// is.
    ///
    /// By themselves messages of less than some 128 bytes hardly shrink, and the shortest grow by a
    /// few bytes; not to compress them saves some microseconds for each.
    min_size, with_min_size: usize;

    /// Whether the server's compressor may remember earlier messages, default no.
    ///
    /// A client that says no here demands it; a server that says no never does it.
    server_context_takeover, with_server_context_takeover: bool;

    /// Whether the client's compressor may remember earlier messages, default no.
    ///
    /// A server that says no here demands it; a client that says no never does it.
    client_context_takeover, with_client_context_takeover: bool;

    /// The largest window of the server's compressor, default 15 bits.
    ///
    /// A client that names less than 15 here demands it.
    server_max_window_bits, with_server_max_window_bits: WindowBits;

    /// The largest window of the client's compressor, default 15 bits.
    ///
    /// A server can only limit it if the client says that it can be limited, as browsers do; else
    /// it is 15.
    client_max_window_bits, with_client_max_window_bits: WindowBits;
}

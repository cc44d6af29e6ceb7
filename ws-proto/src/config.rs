//! Settings of a connection.

use std::time::Duration;

use crate::DeflateConfig;
use crate::settings::settings;

/// Limits and clocks of a [`Connection`](crate::Connection); one value is shared by many.
///
/// ```
/// use ws_proto::Config;
///
/// let config = Config::default().with_max_message_size(64 * 1024);
/// assert_eq!(config.max_message_size(), 65_536);
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    max_message_size: usize,
    message_timeout: Duration,
    max_fragment_count: u32,
    max_empty_fragment_count: u32,
    control_rate: u32,
    control_burst: u32,
    ping_interval: Option<Duration>,
    pong_timeout: Duration,
    close_timeout: Duration,
    deflate: Option<DeflateConfig>,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            max_message_size: 1024 * 1024,
            message_timeout: Duration::from_secs(30),
            // Fragments cost no memory of their own; conformance suites send 65,537 of them.
            max_fragment_count: 131_072,
            max_empty_fragment_count: 1024,
            control_rate: 32,
            control_burst: 64,
            // Most proxies and NATs forget a silent connection after 30 to 60 seconds.
            ping_interval: Some(Duration::from_secs(25)),
            pong_timeout: Duration::from_secs(8),
            close_timeout: Duration::from_secs(5),
            // It costs much more time than it takes to copy a message, and can betray secrets.
            deflate: None,
        }
    }
}

settings! {
    Config;

    /// The size in bytes of the largest message accepted, default 1 MiB.
    ///
    /// A larger one fails the connection with 1009 as soon as a header declares it, a compressed one
    /// as soon as it has been inflated that far. A connection
    /// can pin up to this much memory for [`message_timeout`](Self::message_timeout).
    max_message_size, with_max_message_size: usize;

    /// How long a message may take from its first byte to its last, default 30 s.
    ///
    /// A slower one fails the connection with 1008. The clock stands while reading is paused.
    message_timeout, with_message_timeout: Duration;

    /// The number of fragments a message may have, default 131,072.
    ///
    /// Each costs some work, but no memory. One more fails the connection with 1008.
    max_fragment_count, with_max_fragment_count: u32;

    /// The number of empty fragments a message may have, default 1024.
    ///
    /// They make no progress, so no honest peer sends many. One more fails the connection with 1008.
    max_empty_fragment_count, with_max_empty_fragment_count: u32;

    /// The number of pings and pongs per second accepted on the long run, default 32; 0 counts as 1.
    ///
    /// More, after [`control_burst`](Self::control_burst), fail the connection with 1008. Each ping
    /// costs an answer.
    control_rate, with_control_rate: u32;

    /// The number of pings and pongs accepted at once, default 64; 0 counts as 1.
    control_burst, with_control_burst: u32;

    /// The interval of our pings, default 25 s; `None` sends none.
    ///
    /// Pings keep proxies from dropping a silent connection and find dead peers. Each costs a
    /// packet in both directions.
    ping_interval, with_ping_interval: Option<Duration>;

    /// How long the peer may take to answer a ping, default 8 s.
    ///
    /// A later pong fails the connection with 1011. While a data frame makes progress the clock
    /// starts anew, for a pong cannot overtake it; it stands while reading is paused.
    pong_timeout, with_pong_timeout: Duration;

    /// How long the peer may take to answer our close frame, default 5 s.
    close_timeout, with_close_timeout: Duration;

    /// How messages are compressed where the handshake agreed upon it, default `None`: the
    /// extension is neither offered nor accepted.
    deflate, with_deflate: Option<DeflateConfig>;
}

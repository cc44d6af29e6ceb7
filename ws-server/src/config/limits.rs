//! `[limits]`: how much of everything.

use std::num::NonZeroUsize;
use std::time::Duration;

use ws_proto::handshake::HeadLimits;

use super::parse;
use super::reader::Reader;
use super::units::{DAY, GIB, HOUR, KIB, MINUTE, SHORTEST};
use crate::rates::RateLimits;

/// `[limits]`: how much of everything.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct LimitsConfig {
    /// Bytes of a message from a client.
    pub max_message_size: usize,
    /// Open connections.
    pub max_connections: NonZeroUsize,
    /// Open connections of one address; an IPv6 network of 64 bits is one.
    pub max_connections_per_ip: NonZeroUsize,
    /// Whether loopback addresses have that limit too: if it was written.
    pub counts_loopback: bool,
    /// Open connections of one user; `None` is any number.
    pub max_connections_per_user: Option<NonZeroUsize>,
    /// Opening handshakes at once that have not said yet what they want.
    pub max_handshakes: NonZeroUsize,
    /// Descriptors that connections do not get.
    pub reserved_descriptors: usize,
    /// From accept until the request head is complete.
    pub handshake_timeout: Duration,
    /// How large a request head may be.
    pub(crate) head: HeadLimits,
    /// From the first byte of a message to its last.
    pub message_timeout: Duration,
    /// Fragments of a message from a client.
    pub max_fragment_count: u32,
    /// Of these, the empty ones.
    pub max_empty_fragment_count: u32,
    /// Pings and pongs of a client in a second.
    pub control_rate: u32,
    /// Pings and pongs of a client at once.
    pub control_burst: u32,
    /// Silence after which a client is pinged; `None` is never.
    pub ping_interval: Option<Duration>,
    /// Time to answer a ping.
    pub pong_timeout: Duration,
    /// Time to answer a close.
    pub close_timeout: Duration,
    /// Bytes that wait for a slow client.
    pub send_queue_size: usize,
    /// Messages that clients may send.
    pub(crate) rates: RateLimits,
    /// Bytes that wait for all clients.
    pub send_queue_total: usize,
    /// Time in which a client that is sent something has to take some of it.
    pub write_timeout: Duration,
    /// Upper bound of the shutdown.
    pub drain_timeout: Duration,
}

pub(super) fn read(reader: &mut Reader<'_>) -> LimitsConfig {
    LimitsConfig {
        max_message_size: reader.size("limits.max_message_size", 1, GIB),
        max_connections: reader.count("limits.max_connections", 1_000_000),
        max_connections_per_ip: reader.count("limits.max_connections_per_ip", 1_000_000),
        counts_loopback: reader.is_given("limits.max_connections_per_ip"),
        max_connections_per_user: reader.read("limits.max_connections_per_user", |value| {
            Ok(NonZeroUsize::new(parse::number(value, 0, 1_000_000)?))
        }),
        max_handshakes: reader.count("limits.max_handshakes", 1_000_000),
        reserved_descriptors: reader.read("limits.reserved_descriptors", |value| {
            parse::number(value, 8, 10_000)
        }),
        handshake_timeout: reader.duration("limits.handshake_timeout", SHORTEST, 10 * MINUTE),
        head: HeadLimits {
            max_head_size: reader.size("limits.max_head_size", KIB, 64 * KIB),
            max_target_size: reader.size("limits.max_target_size", 64, 64 * KIB),
            max_header_count: reader.read("limits.max_header_count", |value| {
                parse::number(value, 8, 512)
            }),
        },
        message_timeout: reader.duration("limits.message_timeout", SHORTEST, HOUR),
        max_fragment_count: whole(reader, "limits.max_fragment_count", 1, 1 << 24),
        max_empty_fragment_count: whole(reader, "limits.max_empty_fragment_count", 0, 1 << 24),
        control_rate: whole(reader, "limits.control_rate", 1, 100_000),
        control_burst: whole(reader, "limits.control_burst", 1, 100_000),
        ping_interval: reader.interval("limits.ping_interval", SHORTEST, HOUR),
        pong_timeout: reader.duration("limits.pong_timeout", SHORTEST, 10 * MINUTE),
        close_timeout: reader.duration("limits.close_timeout", SHORTEST, 10 * MINUTE),
        send_queue_size: reader.size("limits.send_queue_size", 1, GIB),
        rates: RateLimits {
            per_connection: reader.rate("limits.message_rate"),
            per_user: reader.rate("limits.message_rate_per_user"),
            burst: reader.read("limits.message_burst", |value| {
                let burst = parse::number(value, 1, 100_000)?;
                Ok(parse::whole(burst).expect("the range begins at 1"))
            }),
        },
        send_queue_total: reader.size("limits.send_queue_total", 1, 1 << 40),
        write_timeout: reader.duration("limits.write_timeout", SHORTEST, HOUR),
        drain_timeout: reader.duration("limits.drain_timeout", Duration::ZERO, DAY),
    }
}

fn whole(reader: &mut Reader<'_>, path: &'static str, min: usize, max: u32) -> u32 {
    reader.read(path, |value| {
        let number = parse::number(value, min, max as usize)?;
        Ok(u32::try_from(number).expect("it is at most a u32"))
    })
}

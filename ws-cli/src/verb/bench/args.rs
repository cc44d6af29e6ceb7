//! What can be said on the command line of `ws bench`, and the plan that follows from it.

use std::net::IpAddr;
use std::num::{NonZeroU32, NonZeroU64};
use std::path::PathBuf;
use std::time::Duration;

use clap::ValueEnum;
use serde::Serialize;
use ws_server::config::{parse_duration, parse_size};

use super::publisher::Publish;
use crate::failure::{Code, Failure};

/// Puts load on a WebSocket server and reports rates and latencies
///
/// echo: each connection keeps K messages in flight and checks each reply, byte for byte. idle:
/// connections are opened and held. handshakes: connections are opened, which is what is measured.
/// broadcast: connections listen, one publisher sends, each delivery is timed and checked.
///
/// Exits with 1 if anything was lost, wrong, refused or closed early, and with 69 if no connection
/// could be made at all.
#[derive(Debug, Clone, clap::Args)]
#[command(
    before_help = "Example: ws bench ws://127.0.0.1:8888/ echo --connections 100 --duration 10s",
    after_help = "Durations: 500ms, 10s, 5m. Sizes: 20B, 1KiB, 64KiB. docs/bench.md explains the figures."
)]
pub(crate) struct BenchArgs {
    /// Where to connect: ws://HOST:PORT/PATH, wss://HOST/PATH or ws+unix:/path
    #[arg(value_name = "URL")]
    pub(super) url: String,

    /// What to do there
    #[arg(value_enum, value_name = "MODE", default_value_t = Mode::Echo)]
    pub(super) mode: Mode,

    /// Open this many connections
    #[arg(short, long, value_name = "N", default_value = "100")]
    pub(super) connections: NonZeroU32,

    /// Measure for so long [default: 10s; idle: until the end of stdin]
    #[arg(short, long, value_name = "TIME", value_parser = duration)]
    pub(super) duration: Option<Duration>,

    /// Stop after this many messages in all (echo: replies, broadcast: publications)
    #[arg(short = 'n', long, value_name = "N", conflicts_with = "duration")]
    pub(super) messages: Option<NonZeroU64>,

    /// Run for so long before measuring, and until as many replies have come as messages are in
    /// flight (echo, broadcast) [default: 0s]
    #[arg(long, value_name = "TIME", value_parser = duration)]
    pub(super) warm_up: Option<Duration>,

    /// Size of a message's payload (echo, broadcast) [default: 64B]
    #[arg(short, long, value_name = "SIZE", value_parser = size)]
    pub(super) size: Option<usize>,

    /// Messages under way on each connection (echo) [default: 1]
    #[arg(short = 'k', long, value_name = "K")]
    pub(super) in_flight: Option<NonZeroU32>,

    /// Messages under way on all connections together, each on the next one in turn, while the
    /// others are idle (echo)
    #[arg(long, value_name = "M", conflicts_with_all = ["in_flight", "messages"])]
    pub(super) in_turn: Option<NonZeroU32>,

    /// Have only so many of the connections send, while the others are idle (echo)
    #[arg(long, value_name = "N", conflicts_with_all = ["in_turn", "messages"])]
    pub(super) active: Option<NonZeroU32>,

    /// Send binary messages instead of text (echo, broadcast by ws:)
    #[arg(long)]
    pub(super) binary: bool,

    /// Where publications are written (broadcast): fifo:PATH, control:PATH (the control socket of
    /// ws), or ws:URL (a WebSocket whose messages the server publishes)
    #[arg(long, value_name = "DOOR")]
    pub(super) publish: Option<Publish>,

    /// Publish this many messages by one write (broadcast) [default: 1]
    #[arg(long, value_name = "B")]
    pub(super) burst: Option<NonZeroU32>,

    /// Begin this many per second (handshakes: connections; broadcast: bursts, without waiting until
    /// the one before has reached everybody)
    #[arg(long, value_name = "R", value_parser = rate)]
    pub(super) rate: Option<NonZeroU32>,

    /// Keep the connections open until all have been made, instead of closing each at once
    /// (handshakes)
    #[arg(long)]
    pub(super) keep: bool,

    /// Send this header with each opening handshake; may be repeated
    #[arg(long, value_name = "NAME: VALUE")]
    pub(super) header: Vec<String>,

    /// Offer this subprotocol; may be repeated
    #[arg(long, value_name = "NAME")]
    pub(super) subprotocol: Vec<String>,

    /// Accept any certificate
    #[arg(long, conflicts_with = "ca")]
    pub(super) insecure: bool,

    /// Trust the certificates in this PEM file instead of the system's
    #[arg(long, value_name = "FILE")]
    pub(super) ca: Option<PathBuf>,

    /// Threads, each with its share of the connections [default: one per core]
    #[arg(long, value_name = "N")]
    pub(super) threads: Option<NonZeroU32>,

    /// Opening handshakes under way at once
    #[arg(long, value_name = "N", default_value = "64")]
    pub(super) opening: NonZeroU32,

    /// The longest that a handshake, a reply or a delivery may take
    #[arg(long, value_name = "TIME", default_value = "10s", value_parser = duration)]
    pub(super) timeout: Duration,

    /// Connect from this address; may be repeated, connections take turns [default: the system's;
    /// to loopback addresses, 127.0.0.2 and so on after each 20,000 connections]
    #[arg(long, value_name = "IP")]
    pub(super) local_addr: Vec<IpAddr>,

    /// Also report what this process, the server, has used meanwhile of CPU time, and its memory
    #[arg(long, value_name = "PID")]
    pub(super) pid: Option<u32>,

    /// Print the result as one JSON object
    #[arg(long)]
    pub(super) json: bool,

    /// Speak plain TCP to a server that returns bytes as they are: no handshake, no close (echo)
    #[arg(long, hide = true)]
    pub(super) raw: bool,
}

/// What is measured.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum, Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Mode {
    /// Messages and their replies
    Echo,
    /// Connections that do nothing
    Idle,
    /// Opening handshakes
    Handshakes,
    /// Deliveries of what one publisher sends
    Broadcast,
}

/// The room that a publication needs for its number and its time.
pub(super) const MIN_BROADCAST_SIZE: usize = 20;
/// The largest payload: each thread keeps a message or two.
const MAX_SIZE: usize = 1 << 30;
const DEFAULT_SIZE: usize = 64;
const DEFAULT_DURATION: Duration = Duration::from_secs(10);

/// Why a run ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Until {
    Time(Duration),
    Messages(u64),
    /// The end of stdin.
    Input,
    /// All connections were opened.
    Opened,
}

impl BenchArgs {
    /// Checks what clap cannot, and says how the run ends.
    pub(super) fn until(&self) -> Result<Until, Failure> {
        self.check_modes()?;
        let size = self.payload_size();
        if self.mode == Mode::Broadcast && size < MIN_BROADCAST_SIZE {
            return Err(usage(format!(
                "--size {size}: a publication carries its number and time, \
                 which takes {MIN_BROADCAST_SIZE} bytes"
            )));
        }
        for (flag, count) in [("in-turn", self.in_turn), ("active", self.active)] {
            if count.is_some_and(|count| count > self.connections) {
                return Err(usage(format!("--{flag}: more than there are connections")));
            }
        }
        if self.mode == Mode::Broadcast && self.publish.is_none() {
            return Err(usage("broadcast needs --publish".to_owned()));
        }
        Ok(match (self.mode, self.duration, self.messages) {
            (Mode::Handshakes, _, _) => Until::Opened,
            (_, Some(duration), _) => Until::Time(duration),
            (Mode::Idle, None, _) => Until::Input,
            (_, None, Some(messages)) => Until::Messages(messages.get()),
            (_, None, None) => Until::Time(DEFAULT_DURATION),
        })
    }

    pub(super) fn payload_size(&self) -> usize {
        self.size.unwrap_or(DEFAULT_SIZE)
    }

    pub(super) fn in_flight(&self) -> u32 {
        self.in_flight.map_or(1, NonZeroU32::get)
    }

    pub(super) fn burst(&self) -> u32 {
        self.burst.map_or(1, NonZeroU32::get)
    }

    /// Threads, never more than connections.
    pub(super) fn thread_count(&self) -> u32 {
        let cores = || std::thread::available_parallelism().map_or(1, |cores| cores.get() as u32);
        let threads = self.threads.map_or_else(cores, NonZeroU32::get);
        threads.min(self.connections.get())
    }

    /// Refuses flags that would be ignored.
    fn check_modes(&self) -> Result<(), Failure> {
        use Mode::{Broadcast, Echo, Handshakes, Idle};
        let flags: [(&str, bool, &[Mode]); 13] = [
            (
                "duration",
                self.duration.is_some(),
                &[Echo, Idle, Broadcast],
            ),
            ("messages", self.messages.is_some(), &[Echo, Broadcast]),
            ("warm-up", self.warm_up.is_some(), &[Echo, Broadcast]),
            ("size", self.size.is_some(), &[Echo, Broadcast]),
            ("in-flight", self.in_flight.is_some(), &[Echo]),
            ("in-turn", self.in_turn.is_some(), &[Echo]),
            ("active", self.active.is_some(), &[Echo]),
            ("binary", self.binary, &[Echo, Broadcast]),
            ("publish", self.publish.is_some(), &[Broadcast]),
            ("burst", self.burst.is_some(), &[Broadcast]),
            ("rate", self.rate.is_some(), &[Handshakes, Broadcast]),
            ("keep", self.keep, &[Handshakes]),
            ("raw", self.raw, &[Echo]),
        ];
        for (flag, is_given, modes) in flags {
            if is_given && !modes.contains(&self.mode) {
                let names: Vec<String> = modes.iter().map(|it| name(*it)).collect();
                let (mode, names) = (name(self.mode), names.join(" and "));
                return Err(usage(format!("--{flag} belongs to {names}, not to {mode}")));
            }
        }
        Ok(())
    }
}

/// The mode's word on the command line.
pub(super) fn name(mode: Mode) -> String {
    let value = mode.to_possible_value();
    value.map_or_else(String::new, |value| value.get_name().to_owned())
}

pub(super) fn usage(message: String) -> Failure {
    Failure::new(Code::Usage, message)
}

fn duration(text: &str) -> Result<Duration, String> {
    parse_duration(text).ok_or_else(|| "write a number and a unit: 500ms, 10s, 5m".to_owned())
}

fn size(text: &str) -> Result<usize, String> {
    let size = parse_size(text).and_then(|size| usize::try_from(size).ok());
    size.filter(|&size| size <= MAX_SIZE)
        .ok_or_else(|| "write a number and a unit, up to 1GiB: 20B, 1KiB, 64KiB".to_owned())
}

/// A number, with or without "/s".
fn rate(text: &str) -> Result<NonZeroU32, String> {
    let number = text.strip_suffix("/s").unwrap_or(text);
    number
        .parse()
        .map_err(|_| "write a number per second, at least 1: 500 or 500/s".to_owned())
}

#[cfg(test)]
mod tests {
    use clap::Parser as _;

    use super::*;
    use crate::args::{Args, Verb};

    fn parse(line: &str) -> Result<BenchArgs, clap::Error> {
        let words = shell_words::split(&format!("ws bench {line}")).unwrap();
        match Args::try_parse_from(words)?.verb {
            Some(Verb::Bench(args)) => Ok(*args),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn a_url_alone_is_an_echo_of_ten_seconds() {
        let args = parse("ws://localhost/").unwrap();
        assert_eq!(args.mode, Mode::Echo);
        assert_eq!(args.until().unwrap(), Until::Time(Duration::from_secs(10)));
        assert_eq!((args.payload_size(), args.in_flight()), (64, 1));
        assert_eq!(args.connections.get(), 100);
    }

    #[test]
    fn each_mode_ends_in_its_own_way() {
        let until = |line: &str| parse(line).unwrap().until().unwrap();
        assert_eq!(until("ws://a/ -n 5"), Until::Messages(5));
        assert_eq!(until("ws://a/ idle"), Until::Input);
        assert_eq!(
            until("ws://a/ idle -d 2s"),
            Until::Time(Duration::from_secs(2))
        );
        assert_eq!(until("ws://a/ handshakes --rate 500/s"), Until::Opened);
        let broadcast = "ws://a/ broadcast --publish fifo:/p --burst 16 -n 3";
        assert_eq!(until(broadcast), Until::Messages(3));
    }

    #[test]
    fn what_cannot_be_read_is_a_usage_error() {
        for line in [
            "",
            "ws://a/ nonsense",
            "ws://a/ -c 0",
            "ws://a/ -d 10",
            "ws://a/ -d 1s -n 5",
            "ws://a/ -s 1KB",
            "ws://a/ -k 0",
            "ws://a/ -k 2 --in-turn 5",
            "ws://a/ -n 9 --in-turn 5",
            "ws://a/ --in-turn 5 --active 5",
            "ws://a/ broadcast --publish nowhere",
            "ws://a/ handshakes --rate 0",
            "ws://a/ --insecure --ca x",
            "ws://a/ --local-addr localhost",
        ] {
            assert_eq!(parse(line).unwrap_err().exit_code(), 2, "{line}");
        }
    }

    #[test]
    fn flags_of_another_mode_are_refused() {
        for line in [
            "ws://a/ idle -n 5",
            "ws://a/ idle --in-turn 5",
            "ws://a/ -c 4 --in-turn 5",
            "ws://a/ idle --active 5",
            "ws://a/ -c 4 --active 5",
            "ws://a/ idle --size 1KiB",
            "ws://a/ handshakes -d 5s",
            "ws://a/ echo --rate 5",
            "ws://a/ echo --keep",
            "ws://a/ echo --publish fifo:/p",
            "ws://a/ broadcast --publish fifo:/p -k 2",
            "ws://a/ broadcast",
            "ws://a/ broadcast --publish fifo:/p -s 19B",
            "ws://a/ idle --raw",
        ] {
            assert_eq!(
                parse(line).unwrap().until().unwrap_err().code(),
                Code::Usage,
                "{line}"
            );
        }
    }
}

//! The result, as JSON and as text.

use std::collections::BTreeMap;
use std::num::NonZeroU32;

use serde::Serialize;

use super::args::{Mode, name};
use super::publisher::Published;
use super::stats::{Percentiles, Tally};
use super::usage::ServerUsage;
use super::worker::Outcome;
use crate::output;

/// What `--json` prints; docs/bench.md explains the fields.
#[derive(Debug, Serialize)]
pub(super) struct Report {
    pub(super) mode: Mode,
    pub(super) url: String,
    pub(super) threads: u32,
    pub(super) payload_size_bytes: usize,
    pub(super) in_flight: u32,
    pub(super) in_turn: Option<NonZeroU32>,
    pub(super) active: Option<NonZeroU32>,
    pub(super) burst: u32,
    /// Of the time that was measured.
    pub(super) seconds: f64,
    pub(super) connections: Connections,
    pub(super) handshakes_per_second: f64,
    pub(super) handshake_microseconds: Option<Percentiles>,
    /// Replies, or deliveries, that were measured.
    pub(super) messages: u64,
    pub(super) messages_per_second: f64,
    pub(super) payload_bytes_per_second: f64,
    pub(super) latency_microseconds: Option<Percentiles>,
    pub(super) broadcast: Option<Broadcast>,
    /// Replies or deliveries that did not come.
    pub(super) missing_messages: u64,
    pub(super) wrong_messages: u64,
    /// Causes with their numbers.
    pub(super) failures: BTreeMap<String, u64>,
    /// HTTP statuses of refused handshakes with their numbers.
    pub(super) refused_statuses: BTreeMap<u16, u64>,
    /// Codes of the server's close frames with their numbers; 1005 is a frame without a code.
    pub(super) close_codes: BTreeMap<u16, u64>,
    pub(super) server: Option<ServerUsage>,
    pub(super) is_interrupted: bool,
}

#[derive(Debug, Serialize)]
pub(super) struct Connections {
    pub(super) requested: u32,
    pub(super) opened: u64,
    /// Could not be made at all: no handshake began.
    pub(super) unreachable: u64,
}

#[derive(Debug, Serialize)]
pub(super) struct Broadcast {
    pub(super) publications: u64,
    pub(super) expected_deliveries: u64,
    pub(super) deliveries: u64,
    pub(super) out_of_order: u64,
    pub(super) late_bursts: u64,
}

/// How a run went, apart from its outcome.
#[derive(Debug)]
pub(super) struct Course {
    pub(super) seconds: f64,
    pub(super) opening_seconds: f64,
    pub(super) server: Option<ServerUsage>,
    pub(super) published: Option<Published>,
    pub(super) is_interrupted: bool,
}

impl Report {
    pub(super) fn new(args: &super::BenchArgs, outcome: &Outcome, course: Course) -> Self {
        let Outcome { tally, figures } = outcome;
        let per_second = |count: u64| {
            if course.seconds > 0.0 {
                count as f64 / course.seconds
            } else {
                0.0
            }
        };
        let lost = |published: &Published| published.expected.saturating_sub(figures.valid);
        Self {
            mode: args.mode,
            url: args.url.clone(),
            threads: args.thread_count(),
            payload_size_bytes: args.payload_size(),
            in_flight: args.in_flight(),
            in_turn: args.in_turn,
            active: args.active,
            burst: args.burst(),
            seconds: course.seconds,
            connections: Connections {
                requested: args.connections.get(),
                opened: tally.opened,
                unreachable: tally.unreachable,
            },
            handshakes_per_second: tally.opened as f64 / course.opening_seconds.max(1e-9),
            handshake_microseconds: tally.handshakes.percentiles(),
            messages: figures.messages,
            messages_per_second: per_second(figures.messages),
            payload_bytes_per_second: per_second(figures.payload_bytes),
            latency_microseconds: figures.latency.percentiles(),
            broadcast: course.published.as_ref().map(|published| Broadcast {
                publications: published.messages,
                expected_deliveries: published.expected,
                deliveries: figures.valid,
                out_of_order: figures.out_of_order,
                late_bursts: published.late_bursts,
            }),
            missing_messages: course.published.as_ref().map_or(figures.missing, lost),
            wrong_messages: figures.wrong,
            failures: tally.failures.clone(),
            refused_statuses: tally.refused.clone(),
            close_codes: tally.close_codes.clone(),
            server: course.server,
            is_interrupted: course.is_interrupted,
        }
    }

    /// Tells whether something went wrong that a benchmark must not pass over.
    pub(super) fn has_faults(&self) -> bool {
        let out_of_order = self.broadcast.as_ref().map_or(0, |it| it.out_of_order);
        let is_idle = matches!(self.mode, Mode::Idle | Mode::Handshakes);
        !self.failures.is_empty()
            || self.missing_messages > 0
            || out_of_order > 0
            || (self.wrong_messages > 0 && !is_idle)
    }

    /// The report for people.
    pub(super) fn lines(&self) -> Vec<String> {
        let mut rows: Vec<[String; 2]> = Vec::new();
        let mut row = |name: &str, value: String| rows.push([name.to_owned(), value]);
        row("mode", self.headline());
        let connections = &self.connections;
        row(
            "connections",
            format!("{} of {} opened", connections.opened, connections.requested),
        );
        if let Some(times) = &self.handshake_microseconds {
            let rate = grouped(self.handshakes_per_second.round() as u64);
            row("handshakes", format!("{rate}/s  {}", percentiles(times)));
        }
        if matches!(self.mode, Mode::Echo | Mode::Broadcast) {
            row(
                if self.mode == Mode::Echo {
                    "replies"
                } else {
                    "deliveries"
                },
                format!(
                    "{}  {}/s  {}/s",
                    grouped(self.messages),
                    grouped(self.messages_per_second.round() as u64),
                    bytes(self.payload_bytes_per_second)
                ),
            );
        }
        if let Some(times) = &self.latency_microseconds {
            row("latency", percentiles(times));
        }
        if let Some(broadcast) = &self.broadcast {
            row(
                "published",
                format!(
                    "{}, {} deliveries expected, {} out of order, {} bursts late",
                    grouped(broadcast.publications),
                    grouped(broadcast.expected_deliveries),
                    broadcast.out_of_order,
                    broadcast.late_bursts
                ),
            );
        }
        if self.missing_messages > 0 {
            row("missing", grouped(self.missing_messages));
        }
        if self.wrong_messages > 0 {
            row("foreign", grouped(self.wrong_messages));
        }
        for (cause, count) in &self.failures {
            row("failed", format!("{count}  {}", output::printable(cause)));
        }
        if !self.close_codes.is_empty() {
            let codes = self.close_codes.iter();
            let codes: Vec<String> = codes
                .map(|(code, count)| format!("{code}: {count}"))
                .collect();
            row("close codes", codes.join(", "));
        }
        if let Some(server) = &self.server {
            row("server", self.server_line(server));
        }
        if self.is_interrupted {
            row("ended", "early, by an interrupt".to_owned());
        }
        output::table(&rows)
    }

    fn headline(&self) -> String {
        let threads = if self.threads == 1 {
            "thread"
        } else {
            "threads"
        };
        let mut line = name(self.mode);
        if matches!(self.mode, Mode::Echo | Mode::Broadcast) {
            line += &format!(", {} B", self.payload_size_bytes);
        }
        if let Some(count) = self.active {
            line += &format!(", {count} of the connections active");
        }
        match self.mode {
            Mode::Echo => match self.in_turn {
                Some(count) => line += &format!(", {count} in flight, in turn"),
                None => line += &format!(", {} in flight", self.in_flight),
            },
            Mode::Broadcast => line += &format!(", bursts of {}", self.burst),
            Mode::Idle | Mode::Handshakes => {}
        }
        line + &format!(", {:.1} s, {} {threads}", self.seconds, self.threads)
    }

    fn server_line(&self, server: &ServerUsage) -> String {
        let units = match self.mode {
            Mode::Echo | Mode::Broadcast => Some((self.messages, "message")),
            Mode::Handshakes => Some((self.connections.opened, "handshake")),
            Mode::Idle => None,
        };
        let each =
            units
                .filter(|(count, _)| *count > 0)
                .map_or_else(String::new, |(count, unit)| {
                    format!(
                        ", {:.2} us per {unit}",
                        server.cpu_seconds * 1e6 / count as f64
                    )
                });
        format!(
            "{:.3} s of CPU time{each}; {} of memory",
            server.cpu_seconds,
            bytes(server.anonymous_bytes as f64)
        )
    }
}

/// Why nothing could be measured, if the server was not even reached.
pub(super) fn unreachable(tally: &Tally) -> Option<String> {
    if tally.opened > 0 || tally.unreachable == 0 {
        return None;
    }
    tally.failures.keys().next().cloned()
}

fn percentiles(times: &Percentiles) -> String {
    let points = [
        ("p50", times.p50),
        ("p90", times.p90),
        ("p99", times.p99),
        ("p99.9", times.p999),
        ("max", times.max),
    ];
    let points = points.map(|(name, micros)| format!("{name} {}", time(micros)));
    points.join("  ")
}

/// A time with three digits or so, in the unit that suits it.
fn time(micros: f64) -> String {
    let (value, unit) = match micros {
        ..1_000.0 => (micros, "us"),
        1_000.0..1_000_000.0 => (micros / 1e3, "ms"),
        _ => (micros / 1e6, "s"),
    };
    let digits = if value < 10.0 {
        2
    } else {
        usize::from(value < 100.0)
    };
    format!("{value:.digits$} {unit}")
}

fn bytes(count: f64) -> String {
    let units = ["B", "KiB", "MiB", "GiB"];
    let mut value = count;
    let mut unit = 0;
    while value >= 1024.0 && unit + 1 < units.len() {
        value /= 1024.0;
        unit += 1;
    }
    let digits = usize::from(unit > 0);
    format!("{value:.digits$} {}", units[unit])
}

/// Groups of three digits, as people read numbers.
pub(super) fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::with_capacity(digits.len() * 4 / 3);
    for (place, digit) in digits.chars().enumerate() {
        if place > 0 && (digits.len() - place).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_for_reading() {
        assert_eq!(grouped(0), "0");
        assert_eq!(grouped(999), "999");
        assert_eq!(grouped(1_000), "1,000");
        assert_eq!(grouped(1_234_567), "1,234,567");
        assert_eq!(time(0.5), "0.50 us");
        assert_eq!(time(12.34), "12.3 us");
        assert_eq!(time(999.9), "1000 us");
        assert_eq!(time(2_500.0), "2.50 ms");
        assert_eq!(time(61_000_000.0), "61.0 s");
        assert_eq!(bytes(1023.0), "1023 B");
        assert_eq!(bytes(1536.0), "1.5 KiB");
    }

    #[test]
    fn an_unreachable_server_is_told_from_one_that_refuses() {
        let mut tally = Tally::default();
        tally.fail("handshake: server answered with status 403");
        assert_eq!(unreachable(&tally), None);
        tally.unreachable = 1;
        assert!(unreachable(&tally).is_some());
        tally.opened = 1;
        assert_eq!(unreachable(&tally), None);
    }
}

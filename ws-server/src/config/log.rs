//! `[log]`: what is told, and how.

use std::time::Duration;

use super::reader::Reader;
use super::units::DAY;

/// `[log]`: what is told, and how.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct LogConfig {
    /// Form of a line.
    pub format: LogFormat,
    /// Least severity.
    pub level: LogLevel,
    /// Interval of the line with counters; `None` is never.
    pub stats_interval: Option<Duration>,
}

/// Form of a log line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogFormat {
    /// Text on a terminal, the journal's form if it reads, else JSON.
    Auto,
    /// For people.
    Text,
    /// One JSON object per line.
    Json,
    /// For the journal of systemd: text with the severity before it, and without the time.
    Journald,
}

/// Least severity that is logged.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogLevel {
    /// Nothing.
    Off,
    /// An operator must act.
    Error,
    /// The server coped.
    Warn,
    /// Connections, starts, ends.
    Info,
    /// Decisions.
    Debug,
    /// Frames.
    Trace,
}

impl LogLevel {
    /// Returns the name as written in the configuration.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Off => "off",
            Self::Error => "error",
            Self::Warn => "warn",
            Self::Info => "info",
            Self::Debug => "debug",
            Self::Trace => "trace",
        }
    }
}

pub(super) fn read(reader: &mut Reader<'_>) -> LogConfig {
    LogConfig {
        format: reader.choice(
            "log.format",
            &[
                ("auto", LogFormat::Auto),
                ("text", LogFormat::Text),
                ("json", LogFormat::Json),
                ("journald", LogFormat::Journald),
            ],
        ),
        level: reader.choice(
            "log.level",
            &[
                ("error", LogLevel::Error),
                ("warn", LogLevel::Warn),
                ("info", LogLevel::Info),
                ("debug", LogLevel::Debug),
                ("trace", LogLevel::Trace),
                ("off", LogLevel::Off),
            ],
        ),
        stats_interval: reader.interval("log.stats_interval", Duration::from_millis(100), DAY),
    }
}

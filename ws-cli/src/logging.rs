//! Logs on stderr: text on a terminal, the journal's form for the journal, JSON lines otherwise.

mod gate;
mod journald;
mod writer;

use std::env;
use std::io::{self, IsTerminal};

use anyhow::Context;
use tracing::Subscriber;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::registry::LookupSpan;
use tracing_subscriber::util::{SubscriberInitExt, TryInitError};
use tracing_subscriber::{EnvFilter, fmt, registry};
use ws_server::LogTail;
use ws_server::config::{LogConfig, LogFormat};

use crate::failure::{Code, Failure};

pub(crate) use self::gate::Gate;
use self::journald::Journald;
use self::writer::LogGuard;

/// The log, whose rest is written when this is dropped.
#[derive(Debug)]
pub(crate) struct Log {
    /// `None` if `RUST_LOG` says what is logged.
    gate: Option<Gate>,
    _guard: LogGuard,
}

impl Log {
    /// Returns what sets the level from now on, unless `RUST_LOG` says what is logged.
    pub(crate) fn level(&self) -> Option<Gate> {
        self.gate.clone()
    }
}

/// Installs the subscriber; `RUST_LOG` overrides the configured level. What is logged is written by
/// a thread of its own; `tail` keeps the last of it.
pub(crate) fn install(config: &LogConfig, tail: LogTail) -> Result<Log, Failure> {
    let format = match config.format {
        LogFormat::Auto => fitting_format(),
        chosen => chosen,
    };
    let filter = filter(config, env::var("RUST_LOG").ok().as_deref())?;
    let gate = match &filter {
        Filter::Level(gate) => Some(gate.clone()),
        Filter::Directives(_) => None,
    };
    let (writer, guard) =
        writer::start(io::stderr(), tail).context("cannot start the thread that writes the log")?;
    let layer = fmt::layer().with_writer(move || writer.clone());
    let installed = match format {
        LogFormat::Auto | LogFormat::Json => {
            let json = layer.json().flatten_event(true).with_span_list(false);
            start(registry().with(json), filter)
        }
        LogFormat::Journald => {
            let journald = layer.with_ansi(false).event_format(Journald::default());
            start(registry().with(journald), filter)
        }
        LogFormat::Text => {
            let terminal = io::stderr().is_terminal();
            // https://no-color.org: set to anything but nothing.
            let colour = terminal && env::var_os("NO_COLOR").is_none_or(|value| value.is_empty());
            start(registry().with(layer.with_ansi(colour)), filter)
        }
    };
    installed.context("cannot start the log")?;
    Ok(Log {
        gate,
        _guard: guard,
    })
}

/// The format for whatever reads stderr.
fn fitting_format() -> LogFormat {
    if io::stderr().is_terminal() {
        LogFormat::Text
    } else if journald::reads_stderr(env::var("JOURNAL_STREAM").ok().as_deref()) {
        LogFormat::Journald
    } else {
        LogFormat::Json
    }
}

/// What is logged.
enum Filter {
    /// Whatever is important enough.
    Level(Gate),
    /// What `RUST_LOG` says.
    Directives(Box<EnvFilter>),
}

fn start<S>(subscriber: S, filter: Filter) -> Result<(), TryInitError>
where
    S: Subscriber + for<'a> LookupSpan<'a> + Send + Sync + 'static,
{
    match filter {
        Filter::Level(gate) => subscriber.with(gate).try_init(),
        Filter::Directives(directives) => subscriber.with(*directives).try_init(),
    }
}

fn filter(config: &LogConfig, rust_log: Option<&str>) -> Result<Filter, Failure> {
    let Some(directives) = rust_log.filter(|directives| !directives.is_empty()) else {
        return Ok(Filter::Level(Gate::new(config.level)));
    };
    EnvFilter::try_new(directives)
        .context("RUST_LOG")
        .map(|directives| Filter::Directives(Box::new(directives)))
        .map_err(|error| Failure::with_code(Code::Configuration, error))
}

#[cfg(test)]
mod tests {
    use ws_server::config::{Config, RawConfig};

    use super::*;

    #[test]
    fn rust_log_overrides_the_level() {
        let mut raw = RawConfig::default();
        raw.set("log.level", "warn");
        let config = Config::from_raw(&raw, "/".as_ref()).unwrap();
        let level = |rust_log| match filter(config.log(), rust_log) {
            Ok(Filter::Level(gate)) => format!("{gate:?}"),
            Ok(Filter::Directives(directives)) => directives.to_string(),
            Err(failure) => failure.to_string(),
        };
        assert_eq!(level(None), "Gate(warn)");
        assert_eq!(level(Some("")), "Gate(warn)");
        assert_eq!(level(Some("ws_server=trace")), "ws_server=trace");
        let wrong = filter(config.log(), Some("=x=")).err().unwrap();
        assert_eq!(wrong.code(), Code::Configuration);
    }
}

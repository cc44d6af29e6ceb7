//! Logs on stderr: text on a terminal, the journal's form for the journal, JSON lines otherwise.

mod journald;
mod writer;

use std::env;
use std::io::{self, IsTerminal};

use anyhow::Context;
use tracing_subscriber::EnvFilter;
use tracing_subscriber::fmt;
use ws_server::LogTail;
use ws_server::config::{LogConfig, LogFormat};

use crate::failure::{Code, Failure};

use self::journald::Journald;
pub(crate) use writer::LogGuard;

/// Installs the subscriber; `RUST_LOG` overrides the configured level. What is logged is written by
/// a thread of its own, of which the guard waits for the rest; `tail` keeps the last of it.
pub(crate) fn install(config: &LogConfig, tail: LogTail) -> Result<LogGuard, Failure> {
    let format = match config.format {
        LogFormat::Auto => fitting_format(),
        chosen => chosen,
    };
    let filter = filter(config, env::var("RUST_LOG").ok().as_deref())?;
    let (writer, guard) =
        writer::start(io::stderr(), tail).context("cannot start the thread that writes the log")?;
    let builder = fmt()
        .with_env_filter(filter)
        .with_writer(move || writer.clone());
    let installed = match format {
        LogFormat::Auto | LogFormat::Json => builder
            .json()
            .flatten_event(true)
            .with_span_list(false)
            .try_init(),
        LogFormat::Journald => builder
            .with_ansi(false)
            .event_format(Journald::default())
            .try_init(),
        LogFormat::Text => {
            let terminal = io::stderr().is_terminal();
            // https://no-color.org: set to anything but nothing.
            let colour = terminal && env::var_os("NO_COLOR").is_none_or(|value| value.is_empty());
            builder.with_ansi(colour).try_init()
        }
    };
    installed
        .map_err(anyhow::Error::from_boxed)
        .context("cannot start the log")?;
    Ok(guard)
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

fn filter(config: &LogConfig, rust_log: Option<&str>) -> Result<EnvFilter, Failure> {
    let Some(directives) = rust_log.filter(|directives| !directives.is_empty()) else {
        return Ok(EnvFilter::new(config.level.as_str()));
    };
    EnvFilter::try_new(directives)
        .context("RUST_LOG")
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
        let level = |rust_log| filter(config.log(), rust_log).unwrap().to_string();
        assert_eq!(level(None), "warn");
        assert_eq!(level(Some("")), "warn");
        assert_eq!(level(Some("ws_server=trace")), "ws_server=trace");
        assert_eq!(
            filter(config.log(), Some("=x=")).unwrap_err().code(),
            Code::Configuration
        );
    }
}

//! Lines for the journal of systemd, which reads the severity from their beginning (sd-daemon(3))
//! and knows the time itself.

use std::fmt;
use std::fs::File;
use std::io;
use std::os::fd::AsFd;
use std::os::unix::fs::MetadataExt;

use tracing::{Event, Level, Subscriber};
use tracing_subscriber::fmt::format::{Format, Full, Writer};
use tracing_subscriber::fmt::{FmtContext, FormatEvent, FormatFields};
use tracing_subscriber::registry::LookupSpan;

/// Whether stderr is the stream that systemd says it has connected to the journal
/// (`$JOURNAL_STREAM`, systemd.exec(5)): a service may have sent its stderr elsewhere since.
pub(super) fn reads_stderr(journal_stream: Option<&str>) -> bool {
    journal_stream.is_some_and(|named| names(named, &io::stderr()).unwrap_or(false))
}

fn names(journal_stream: &str, stream: &impl AsFd) -> io::Result<bool> {
    let stream = File::from(stream.as_fd().try_clone_to_owned()?).metadata()?;
    Ok(journal_stream == format!("{}:{}", stream.dev(), stream.ino()))
}

/// The text format with the severity before it and without the time.
pub(super) struct Journald(Format<Full, ()>);

impl Default for Journald {
    fn default() -> Self {
        // The severity is said already.
        Self(Format::default().without_time().with_level(false))
    }
}

impl<S, N> FormatEvent<S, N> for Journald
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
{
    fn format_event(
        &self,
        context: &FmtContext<'_, S, N>,
        mut writer: Writer<'_>,
        event: &Event<'_>,
    ) -> fmt::Result {
        write!(writer, "<{}>", severity(*event.metadata().level()))?;
        self.0.format_event(context, writer, event)
    }
}

/// The severity's number (syslog(3)).
fn severity(level: Level) -> u8 {
    match level {
        Level::ERROR => 3,
        Level::WARN => 4,
        // That of "notice", 5, is for what an operator should see; of that warnings tell.
        Level::INFO => 6,
        _ => 7,
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::sync::{Arc, Mutex};

    use tempfile::tempfile;
    use tracing::subscriber::with_default;
    use tracing::{debug, error, info, warn};

    use super::*;

    #[test]
    fn only_the_stream_that_is_named_is_the_journal() {
        let (journal, other) = (tempfile().unwrap(), tempfile().unwrap());
        let metadata = journal.metadata().unwrap();
        let named = format!("{}:{}", metadata.dev(), metadata.ino());
        assert!(names(&named, &journal).unwrap());
        assert!(!names(&named, &other).unwrap());
        assert!(!names("", &journal).unwrap());
        assert!(!reads_stderr(None));
    }

    #[derive(Clone, Default)]
    struct Lines(Arc<Mutex<Vec<u8>>>);

    impl Write for Lines {
        fn write(&mut self, line: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().extend_from_slice(line);
            Ok(line.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn each_line_begins_with_its_severity() {
        let lines = Lines::default();
        let writer = lines.clone();
        let subscriber = tracing_subscriber::fmt()
            .with_max_level(Level::DEBUG)
            .with_ansi(false)
            .with_writer(move || writer.clone())
            .event_format(Journald::default())
            .finish();
        with_default(subscriber, || {
            error!("lost");
            warn!("slow");
            info!(listen.addr = "ws://a/", "listening");
            debug!("decided");
        });
        let text = String::from_utf8(lines.0.lock().unwrap().clone()).unwrap();
        let target = module_path!();
        let expected = format!(
            "<3>{target}: lost\n<4>{target}: slow\n\
             <6>{target}: listening listen.addr=\"ws://a/\"\n<7>{target}: decided\n"
        );
        assert_eq!(text, expected);
    }
}

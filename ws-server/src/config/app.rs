//! `[app]`: what answers messages.

use std::collections::BTreeMap;
use std::num::NonZeroUsize;
use std::path::PathBuf;
use std::time::Duration;

use super::callback::{self, CallbackBackend, CallbackKind, CallbackSection, Chosen};
use super::fault::Problem;
use super::parse;
use super::reader::Reader;
use super::units::{DAY, GIB, HOUR, SHORTEST};

/// `[app]`: what answers messages.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct AppConfig {
    /// What answers.
    pub backend: AppBackend,
    /// Further CGI variables.
    pub params: BTreeMap<String, String>,
    /// Time that one message may take.
    pub timeout: Duration,
    /// Messages answered at once in the whole server.
    pub concurrency: NonZeroUsize,
    /// Messages answered at once for one connection.
    pub per_connection: NonZeroUsize,
    /// Messages of one connection that wait.
    pub queue: NonZeroUsize,
    /// Whether replies are sent as they come.
    pub unordered: bool,
    /// Bytes of one answer.
    pub max_output: usize,
    /// What is cut off a plain answer.
    pub trim: Trim,
    /// Reply in place of an empty answer; `None` is no reply.
    pub empty_reply: Option<String>,
    /// Reply in place of a failed answer; `None` is no reply.
    pub error_reply: Option<String>,
    /// What happens to the messages of a client that is gone.
    pub on_disconnect: OnDisconnect,
    /// Whether the text message `ping` is answered here.
    pub ping: bool,
    /// Which events the application hears of besides messages.
    pub events: Events,
    /// Whether the server refuses to start as root without an account to run the command as.
    pub require_user: bool,
    /// What has the kept processes replaced when it changes.
    pub watch: Vec<PathBuf>,
    /// Children that fork servers keep ready.
    pub spare: usize,
    /// What the program of a connection writes.
    pub stream: StreamOutput,
    /// How long it may go on after its input has ended, and again after `SIGTERM`.
    pub stream_grace: Duration,
}

/// What answers messages.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum AppBackend {
    /// The built-in demo, in the fork server.
    Demo,
    /// The message itself, in the server.
    Echo,
    /// A callback, for each message.
    Callback(CallbackBackend),
}

impl AppBackend {
    /// Returns the callback that answers, unless the server does.
    pub fn callback(&self) -> Option<&CallbackBackend> {
        match self {
            Self::Callback(backend) => Some(backend),
            Self::Demo | Self::Echo => None,
        }
    }

    /// Returns the name as written in the configuration.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Demo => "demo",
            Self::Echo => "echo",
            Self::Callback(backend) => backend.name(),
        }
    }
}

/// Which events the application hears of besides messages.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Events {
    /// That a connection opened.
    pub open: bool,
    /// That one closed.
    pub close: bool,
}

/// What is cut off a plain answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Trim {
    /// Newlines at its end.
    Newlines,
    /// Nothing.
    None,
    /// White space at both ends.
    All,
}

/// What happens to the accepted messages of a client that is gone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OnDisconnect {
    /// They are run; their replies are dropped.
    Finish,
    /// They are dropped, running ones killed.
    Cancel,
}

/// What a program that runs as long as a connection writes to its stdout.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StreamOutput {
    /// Messages, one in each line.
    Text,
    /// Bytes: each piece that is read is a binary message.
    Binary,
}

pub(super) fn read(reader: &mut Reader<'_>) -> AppConfig {
    let section = CallbackSection::APP;
    let backend = callback::choose(
        reader,
        section,
        &[
            ("demo", Chosen::Demo),
            ("echo", Chosen::Echo),
            ("stream", Chosen::Callback(CallbackKind::Stream)),
        ],
        Chosen::Demo,
    );
    let callback = callback::read(reader, backend.callback(), section);
    let is_stream = backend == Chosen::Callback(CallbackKind::Stream);
    for path in ["app.stream", "app.stream_grace"] {
        if reader.is_changed(path) && !is_stream {
            reader.conflict(path, "has no effect with this backend");
        }
    }
    AppConfig {
        timeout: reader.duration("app.timeout", SHORTEST, DAY),
        concurrency: reader.count("app.concurrency", 10_000),
        per_connection: reader.count("app.per_connection", 1000),
        queue: reader.count("app.queue", 100_000),
        unordered: reader.flag("app.unordered"),
        max_output: reader.size("app.max_output", 1, GIB),
        trim: reader.choice(
            "app.trim",
            &[
                ("newlines", Trim::Newlines),
                ("all", Trim::All),
                ("none", Trim::None),
            ],
        ),
        empty_reply: reader.read_optional("app.empty_reply", parse::text),
        error_reply: reader.read_optional("app.error_reply", parse::text),
        on_disconnect: reader.choice(
            "app.on_disconnect",
            &[
                ("finish", OnDisconnect::Finish),
                ("cancel", OnDisconnect::Cancel),
            ],
        ),
        ping: reader
            .read_optional("app.ping", parse::flag)
            .unwrap_or(backend != Chosen::Echo && !is_stream),
        events: events(reader, backend == Chosen::Echo || is_stream),
        require_user: reader.flag("app.require_user"),
        watch: watch(reader, backend),
        spare: reader.read("app.spare", |value| parse::number(value, 0, 64)),
        stream: reader.choice(
            "app.stream",
            &[
                ("text", StreamOutput::Text),
                ("binary", StreamOutput::Binary),
            ],
        ),
        stream_grace: reader.duration("app.stream_grace", SHORTEST, HOUR),
        params: reader.environment(section.path("params")),
        backend: match (backend, callback) {
            (Chosen::Echo, _) => AppBackend::Echo,
            (_, Some(callback)) => AppBackend::Callback(callback),
            (_, None) => AppBackend::Demo,
        },
    }
}

fn watch(reader: &mut Reader<'_>, backend: Chosen) -> Vec<PathBuf> {
    let paths = reader.list("app.watch", |path, base| Ok(base.join(path)));
    if !paths.is_empty() && !backend.callback().is_some_and(CallbackKind::is_kept) {
        reader.conflict("app.watch", "has no effect with this backend");
    }
    paths
}

fn events(reader: &mut Reader<'_>, hears_none: bool) -> Events {
    let names = reader.list("app.events", |name, _| match name {
        "open" | "close" => Ok(name.to_owned()),
        _ => Err(Problem::malformed(name, "\"open\" or \"close\"")),
    });
    if hears_none && !names.is_empty() {
        reader.conflict("app.events", "has no effect with this backend");
    }
    let has = |name: &str| names.iter().any(|other| other == name);
    Events {
        open: has("open"),
        close: has("close"),
    }
}

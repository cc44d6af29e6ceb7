//! How a callback is run: what `[app]` and `[validate]` have alike.

use std::collections::BTreeMap;
use std::num::{NonZeroU64, NonZeroUsize};
use std::time::Duration;

use ws_ipc::{Address, Recycling};

use super::account::{self, Account};
use super::parse;
use super::reader::Reader;
use super::sandbox::{self, Sandbox};
use super::settings;
use super::units::{DAY, HOUR, SHORTEST};

/// How a callback is run.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum CallbackBackend {
    /// A command, once for each.
    Exec(ExecConfig),
    /// A command that forks for each.
    Fork(PoolConfig),
    /// A command that answers one after another.
    Worker(PoolConfig),
    /// A server that speaks SCGI.
    Scgi(Address),
    /// A server that speaks FastCGI.
    FastCgi(Address),
    /// A command, once for each connection; the application only.
    Stream(ExecConfig),
}

impl CallbackBackend {
    /// Returns the name as written in the configuration.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Exec(_) => "exec",
            Self::Fork(_) => "fork",
            Self::Worker(_) => "worker",
            Self::Scgi(_) => "scgi",
            Self::FastCgi(_) => "fastcgi",
            Self::Stream(_) => "stream",
        }
    }

    /// Returns the command that is started, unless somebody else has started it.
    pub fn exec(&self) -> Option<&ExecConfig> {
        match self {
            Self::Exec(exec) | Self::Stream(exec) => Some(exec),
            Self::Fork(pool) | Self::Worker(pool) => Some(&pool.exec),
            Self::Scgi(_) | Self::FastCgi(_) => None,
        }
    }
}

/// A command and how it is started.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct ExecConfig {
    /// Program and arguments, at least the program.
    pub command: Vec<String>,
    /// Further environment variables.
    pub env: BTreeMap<String, String>,
    /// What it runs as; `None` is the user of the server.
    pub account: Option<Account>,
    /// What it writes.
    pub output: Output,
    /// What it may not do and how much it may use.
    pub sandbox: Box<Sandbox>,
}

/// A command that is kept running.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct PoolConfig {
    /// The command. What it writes are answers of CGI.
    pub exec: ExecConfig,
    /// How many processes of it; `None` is one per core for workers, one for fork servers.
    pub processes: Option<NonZeroUsize>,
    /// When a process is replaced.
    pub recycling: Recycling,
    /// How long a fresh process may take until it accepts a connection.
    pub load_timeout: Duration,
    /// How long the former processes are kept after a reload.
    pub probation: Duration,
    /// How the children of a fork server end.
    pub fork_exit: ForkExit,
}

/// How the children of a fork server end once they have answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ForkExit {
    /// As programs of their language do.
    Normal,
    /// At once.
    Kill,
}

/// What a callback writes to its stdout.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Output {
    /// The answer.
    Plain,
    /// Header lines, an empty line, the answer.
    Cgi,
    /// Messages, one in each line.
    Lines,
}

/// The backends that run a callback.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum CallbackKind {
    Exec,
    Fork,
    Worker,
    Scgi,
    FastCgi,
    /// Of the application only.
    Stream,
}

impl CallbackKind {
    const NAMES: [(&'static str, Self); 5] = [
        ("exec", Self::Exec),
        ("fork", Self::Fork),
        ("worker", Self::Worker),
        ("scgi", Self::Scgi),
        ("fastcgi", Self::FastCgi),
    ];

    /// What is said of a setting that it lacks.
    fn needs(self) -> &'static str {
        match self {
            Self::Exec => "is needed by backend = \"exec\"",
            Self::Fork => "is needed by backend = \"fork\"",
            Self::Worker => "is needed by backend = \"worker\"",
            Self::Scgi => "is needed by backend = \"scgi\"",
            Self::FastCgi => "is needed by backend = \"fastcgi\"",
            Self::Stream => "is needed by backend = \"stream\"",
        }
    }

    /// Whether this server starts it.
    fn has_command(self) -> bool {
        !self.has_address()
    }

    /// Whether it is there already.
    fn has_address(self) -> bool {
        matches!(self, Self::Scgi | Self::FastCgi)
    }

    /// Whether this server keeps it running.
    pub(super) fn is_kept(self) -> bool {
        matches!(self, Self::Fork | Self::Worker)
    }
}

/// What the key `backend` names.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Chosen {
    None,
    App,
    Demo,
    Echo,
    Callback(CallbackKind),
}

impl Chosen {
    pub(super) fn callback(self) -> Option<CallbackKind> {
        match self {
            Self::Callback(kind) => Some(kind),
            _ => None,
        }
    }
}

/// A section whose settings say how a callback is run.
#[derive(Clone, Copy)]
pub(super) struct CallbackSection {
    name: &'static str,
    outputs: &'static [(&'static str, Output)],
}

impl CallbackSection {
    pub(super) const APP: Self = Self {
        name: "app",
        outputs: &[
            ("plain", Output::Plain),
            ("cgi", Output::Cgi),
            ("lines", Output::Lines),
        ],
    };
    pub(super) const VALIDATE: Self = Self {
        name: "validate",
        outputs: &[("plain", Output::Plain), ("cgi", Output::Cgi)],
    };

    /// The path of one of its settings.
    pub(super) fn path(self, key: &str) -> &'static str {
        settings::path_in(self.name, key)
    }
}

/// Reads which backend was chosen, among the callbacks and these. If none is named, a command is
/// run.
pub(super) fn choose(
    reader: &mut Reader<'_>,
    section: CallbackSection,
    others: &[(&'static str, Chosen)],
    without_command: Chosen,
) -> Chosen {
    let callbacks = CallbackKind::NAMES.map(|(name, kind)| (name, Chosen::Callback(kind)));
    let choices: Vec<_> = others.iter().copied().chain(callbacks).collect();
    let backend = section.path("backend");
    let chosen = reader.read_optional(backend, |value| parse::choice(value, &choices));
    chosen.unwrap_or_else(|| match reader.is_given(section.path("command")) {
        true => Chosen::Callback(CallbackKind::Exec),
        false => without_command,
    })
}

/// Reads what the chosen callback needs; `None` if none was chosen. All settings are checked, also
/// those of the others.
pub(super) fn read(
    reader: &mut Reader<'_>,
    chosen: Option<CallbackKind>,
    section: CallbackSection,
) -> Option<CallbackBackend> {
    let exec = exec(reader, section);
    let address = reader.address(section.path("address"));
    let pool = PoolConfig {
        exec: ExecConfig {
            output: Output::Cgi,
            ..exec.clone()
        },
        processes: reader
            .read_optional(section.path("processes"), |value| {
                parse::number(value, 1, 1024)
            })
            .and_then(NonZeroUsize::new),
        recycling: recycling(reader, section),
        load_timeout: reader.duration(section.path("load_timeout"), SHORTEST, HOUR),
        probation: reader.duration(section.path("probation"), Duration::ZERO, HOUR),
        fork_exit: reader.choice(
            section.path("fork_exit"),
            &[("normal", ForkExit::Normal), ("kill", ForkExit::Kill)],
        ),
    };
    check_use(reader, chosen, section);
    let kind = chosen?;
    let address = match (kind.has_address(), address) {
        (true, None) => {
            if !reader.is_given(section.path("address")) {
                reader.conflict(section.path("address"), kind.needs());
            }
            return None;
        }
        (_, address) => address,
    };
    Some(match (kind, address) {
        (CallbackKind::Scgi, Some(address)) => CallbackBackend::Scgi(address),
        (CallbackKind::FastCgi, Some(address)) => CallbackBackend::FastCgi(address),
        (CallbackKind::Fork, _) => CallbackBackend::Fork(pool),
        (CallbackKind::Worker, _) => CallbackBackend::Worker(pool),
        (CallbackKind::Stream, _) => CallbackBackend::Stream(exec),
        _ => CallbackBackend::Exec(exec),
    })
}

fn exec(reader: &mut Reader<'_>, section: CallbackSection) -> ExecConfig {
    let command = reader.command(section.path("command"));
    let user = reader.read_optional(section.path("user"), account::user);
    let group = reader.read_optional(section.path("group"), account::group);
    let exec = ExecConfig {
        command: command.unwrap_or_default(),
        env: reader.environment(section.path("env")),
        output: reader.choice(section.path("output"), section.outputs),
        account: match (user, user.and_then(|(_, primary)| group.or(primary))) {
            (Some((uid, _)), Some(gid)) => Some(Account::new(uid, gid)),
            _ => None,
        },
        sandbox: Box::new(sandbox::read(reader, section)),
    };
    if reader.is_given(section.path("group")) && !reader.is_given(section.path("user")) {
        reader.conflict(section.path("group"), "has no effect without a user");
    } else if user.is_some() && exec.account.is_none() && !reader.is_given(section.path("group")) {
        reader.conflict(
            section.path("user"),
            "is unknown to this host, so a group is needed",
        );
    }
    exec
}

fn recycling(reader: &mut Reader<'_>, section: CallbackSection) -> Recycling {
    Recycling {
        max_requests: reader.read(section.path("recycle_requests"), |value| {
            let number = parse::number(value, 0, 1_000_000_000)?;
            Ok(NonZeroU64::new(number as u64))
        }),
        max_memory: reader
            .read_optional(section.path("recycle_memory"), |value| {
                parse::size(value, 1 << 20, 1 << 40)
            })
            .map(|bytes| bytes as u64),
        max_age: reader.read_optional(section.path("recycle_age"), |value| {
            parse::duration(value, SHORTEST, 365 * DAY)
        }),
    }
}

/// Notes the settings that the chosen backend would pass over, and the one that it lacks.
fn check_use(reader: &mut Reader<'_>, chosen: Option<CallbackKind>, section: CallbackSection) {
    if let Some(kind) = chosen.filter(|kind| kind.has_command())
        && !reader.is_given(section.path("command"))
    {
        reader.conflict(section.path("command"), kind.needs());
    }
    let is = |holds: fn(CallbackKind) -> bool| chosen.is_some_and(holds);
    let is_kept = is(CallbackKind::is_kept);
    // Environment, user and output may stand in a file that another backend is chosen for now and
    // then; a command that is not run is a mistake.
    for (path, is_used) in [
        (section.path("command"), is(CallbackKind::has_command)),
        (section.path("address"), is(CallbackKind::has_address)),
        (section.path("processes"), is_kept),
        (section.path("recycle_requests"), is_kept),
        (section.path("recycle_memory"), is_kept),
        (section.path("recycle_age"), is_kept),
        (section.path("load_timeout"), is_kept),
        (section.path("probation"), is_kept),
        (
            section.path("fork_exit"),
            chosen == Some(CallbackKind::Fork),
        ),
        (section.path("params"), chosen.is_some()),
    ] {
        if reader.is_changed(path) && !is_used {
            reader.conflict(path, "has no effect with this backend");
        }
    }
}

//! The settings that `[app]` and `[validate]` share: how a callback is run.

use std::num::NonZeroU64;
use std::time::Duration;

use ws_ipc::Recycling;

use super::account::{self, Account};
use super::build::{DAY, HOUR, SHORTEST};
use super::reader::{self, Reader};
use super::sandbox::{self, SandboxPaths};
use super::typed::{CallbackBackend, ExecConfig, ForkExit, Output, PoolConfig};

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

/// The paths of one section's settings.
pub(super) struct Keys {
    pub(super) backend: &'static str,
    pub(super) command: &'static str,
    pub(super) params: &'static str,
    env: &'static str,
    user: &'static str,
    group: &'static str,
    output: &'static str,
    address: &'static str,
    processes: &'static str,
    outputs: &'static [(&'static str, Output)],
    recycle_requests: &'static str,
    recycle_memory: &'static str,
    recycle_age: &'static str,
    load_timeout: &'static str,
    probation: &'static str,
    fork_exit: &'static str,
    sandbox: SandboxPaths,
}

macro_rules! keys {
    ($section:literal, $sandbox:expr, $outputs:expr) => {
        Keys {
            backend: concat!($section, ".backend"),
            command: concat!($section, ".command"),
            params: concat!($section, ".params"),
            env: concat!($section, ".env"),
            user: concat!($section, ".user"),
            group: concat!($section, ".group"),
            output: concat!($section, ".output"),
            address: concat!($section, ".address"),
            processes: concat!($section, ".processes"),
            outputs: $outputs,
            recycle_requests: concat!($section, ".recycle_requests"),
            recycle_memory: concat!($section, ".recycle_memory"),
            recycle_age: concat!($section, ".recycle_age"),
            load_timeout: concat!($section, ".load_timeout"),
            probation: concat!($section, ".probation"),
            fork_exit: concat!($section, ".fork_exit"),
            sandbox: $sandbox,
        }
    };
}

pub(super) const APP: Keys = keys!(
    "app",
    sandbox::APP,
    &[
        ("plain", Output::Plain),
        ("cgi", Output::Cgi),
        ("lines", Output::Lines),
    ]
);
pub(super) const VALIDATE: Keys = keys!(
    "validate",
    sandbox::VALIDATE,
    &[("plain", Output::Plain), ("cgi", Output::Cgi)]
);

/// Reads which backend was chosen, among the callbacks and these.
pub(super) fn choose<T: Copy + From<CallbackKind>>(
    reader: &mut Reader<'_>,
    keys: &Keys,
    others: &[(&'static str, T)],
) -> Option<T> {
    let callbacks = CallbackKind::NAMES.map(|(name, kind)| (name, T::from(kind)));
    let choices: Vec<_> = others.iter().copied().chain(callbacks).collect();
    reader.read_optional(keys.backend, |value| reader::choice(value, &choices))
}

/// Reads what the chosen callback needs; `None` if none was chosen. All settings are checked, also
/// those of the others.
pub(super) fn read(
    reader: &mut Reader<'_>,
    chosen: Option<CallbackKind>,
    keys: &Keys,
) -> Option<CallbackBackend> {
    let exec = exec(reader, keys);
    let address = reader.address(keys.address);
    let pool = PoolConfig {
        exec: ExecConfig {
            output: Output::Cgi,
            ..exec.clone()
        },
        processes: reader
            .read_optional(keys.processes, |value| reader::number(value, 1, 1024))
            .and_then(std::num::NonZeroUsize::new),
        recycling: recycling(reader, keys),
        load_timeout: reader.duration(keys.load_timeout, SHORTEST, HOUR),
        probation: reader.duration(keys.probation, Duration::ZERO, HOUR),
        fork_exit: reader.choice(
            keys.fork_exit,
            &[("normal", ForkExit::Normal), ("kill", ForkExit::Kill)],
        ),
    };
    check_use(reader, chosen, keys);
    let kind = chosen?;
    let address = match (kind.has_address(), address) {
        (true, None) => {
            if !reader.is_given(keys.address) {
                reader.conflict(keys.address, kind.needs());
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

fn exec(reader: &mut Reader<'_>, keys: &Keys) -> ExecConfig {
    let command = reader.command(keys.command);
    let user = reader.read_optional(keys.user, account::user);
    let group = reader.read_optional(keys.group, account::group);
    let exec = ExecConfig {
        command: command.unwrap_or_default(),
        env: reader.environment(keys.env),
        output: reader.choice(keys.output, keys.outputs),
        account: match (user, user.and_then(|(_, primary)| group.or(primary))) {
            (Some((uid, _)), Some(gid)) => Some(Account::new(uid, gid)),
            _ => None,
        },
        sandbox: Box::new(sandbox::sandbox(reader, &keys.sandbox)),
    };
    if reader.is_given(keys.group) && !reader.is_given(keys.user) {
        reader.conflict(keys.group, "has no effect without a user");
    } else if user.is_some() && exec.account.is_none() && !reader.is_given(keys.group) {
        reader.conflict(keys.user, "is unknown to this host, so a group is needed");
    }
    exec
}

fn recycling(reader: &mut Reader<'_>, keys: &Keys) -> Recycling {
    Recycling {
        max_requests: reader.read(keys.recycle_requests, |value| {
            let number = reader::number(value, 0, 1_000_000_000)?;
            Ok(NonZeroU64::new(number as u64))
        }),
        max_memory: reader
            .read_optional(keys.recycle_memory, |value| {
                reader::size(value, 1 << 20, 1 << 40)
            })
            .map(|bytes| bytes as u64),
        max_age: reader.read_optional(keys.recycle_age, |value| {
            reader::duration(value, SHORTEST, 365 * DAY)
        }),
    }
}

/// Notes the settings that the chosen backend would pass over, and the one that it lacks.
fn check_use(reader: &mut Reader<'_>, chosen: Option<CallbackKind>, keys: &Keys) {
    if let Some(kind) = chosen.filter(|kind| kind.has_command())
        && !reader.is_given(keys.command)
    {
        reader.conflict(keys.command, kind.needs());
    }
    let is = |holds: fn(CallbackKind) -> bool| chosen.is_some_and(holds);
    let is_kept = is(CallbackKind::is_kept);
    // Environment, user and output may stand in a file that another backend is chosen for now and
    // then; a command that is not run is a mistake.
    for (path, is_used) in [
        (keys.command, is(CallbackKind::has_command)),
        (keys.address, is(CallbackKind::has_address)),
        (keys.processes, is_kept),
        (keys.recycle_requests, is_kept),
        (keys.recycle_memory, is_kept),
        (keys.recycle_age, is_kept),
        (keys.load_timeout, is_kept),
        (keys.probation, is_kept),
        (keys.fork_exit, chosen == Some(CallbackKind::Fork)),
        (keys.params, chosen.is_some()),
    ] {
        if reader.is_changed(path) && !is_used {
            reader.conflict(path, "has no effect with this backend");
        }
    }
}

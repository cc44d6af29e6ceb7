//! What the host allows, and what it means for the server: facts in, findings out.

use std::path::Path;

use super::finding::Finding;

/// As whom the server runs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Account {
    pub(super) uid: u32,
    pub(super) gids: Vec<u32>,
}

/// A file or a directory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Entry {
    pub(super) is_dir: bool,
    pub(super) uid: u32,
    pub(super) gid: u32,
    pub(super) mode: u32,
}

impl Entry {
    /// Whether somebody may do that: 4 read, 2 write, 1 execute or pass.
    pub(super) fn allows(&self, who: &Account, what: u32) -> bool {
        let bits = match () {
            // Root reads and writes everything, and executes what anybody may.
            () if who.uid == 0 => match what & 1 == 1 && !self.is_dir {
                true => return self.mode & 0o111 != 0,
                false => return true,
            },
            () if self.uid == who.uid => self.mode >> 6,
            () if who.gids.contains(&self.gid) => self.mode >> 3,
            () => self.mode,
        };
        bits & what == what
    }
}

/// What one process may open, and what it needs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Descriptors {
    /// `None` is any number.
    pub(super) allowed: Option<u64>,
    pub(super) max_connections: usize,
    /// The socket, and the FIFO if each has one.
    pub(super) per_connection: usize,
    pub(super) reserved: usize,
}

pub(super) fn judge_descriptors(facts: Descriptors) -> Finding {
    const CHECK: &str = "descriptors";
    let Descriptors {
        max_connections,
        per_connection,
        reserved,
        ..
    } = facts;
    let needed = max_connections
        .saturating_mul(per_connection)
        .saturating_add(reserved);
    let Some(allowed) = facts.allowed else {
        return Finding::ok(CHECK, "any number may be open");
    };
    let room = usize::try_from(allowed).unwrap_or(usize::MAX);
    if room >= needed {
        return Finding::ok(
            CHECK,
            format!("{allowed} may be open, enough for {max_connections} connections"),
        );
    }
    let fit = room.saturating_sub(reserved) / per_connection.max(1);
    Finding::warning(
        CHECK,
        format!(
            "{allowed} may be open: room for some {fit} connections, not for \
             limits.max_connections = {max_connections}"
        ),
    )
    .advise(format!(
        "LimitNOFILE={needed} in the unit, or ulimit -n; or a smaller limits.max_connections."
    ))
}

/// How many connections the server has the kernel keep until it accepts them.
const BACKLOG: u64 = 4096;

pub(super) fn judge_backlog(somaxconn: Option<u64>) -> Finding {
    const CHECK: &str = "backlog";
    match somaxconn {
        None => Finding::not_checked(CHECK, "net.core.somaxconn cannot be read"),
        Some(most) if most < BACKLOG => Finding::warning(
            CHECK,
            format!("the kernel keeps {most} connections until they are accepted, not {BACKLOG}"),
        )
        .advise(format!("sysctl net.core.somaxconn={BACKLOG}")),
        Some(most) => Finding::ok(CHECK, format!("net.core.somaxconn is {most}")),
    }
}

/// What the server has besides what waits for slow clients.
const BASE_MEMORY: u64 = 64 << 20;

pub(super) fn judge_memory(limit: Option<u64>, send_queue_total: usize) -> Finding {
    const CHECK: &str = "memory";
    let needed = u64::try_from(send_queue_total)
        .unwrap_or(u64::MAX)
        .saturating_add(BASE_MEMORY);
    let mib = |bytes: u64| bytes >> 20;
    match limit {
        None => Finding::ok(CHECK, "no control group limits it"),
        Some(limit) if limit < needed => Finding::warning(
            CHECK,
            format!(
                "the control group has {} MiB, but limits.send_queue_total alone may take {} MiB",
                mib(limit),
                mib(needed - BASE_MEMORY)
            ),
        )
        .advise("A larger MemoryMax, or a smaller limits.send_queue_total."),
        Some(limit) => Finding::ok(CHECK, format!("the control group has {} MiB", mib(limit))),
    }
}

/// A directory that the server makes if it is not there, and writes to.
pub(super) fn judge_directory(
    check: &'static str,
    path: &Path,
    entry: Option<Entry>,
    parent: Option<Entry>,
    who: &Account,
) -> Finding {
    let shown = path.display();
    let Some(entry) = entry else {
        return match parent {
            Some(parent) if parent.is_dir && parent.allows(who, 3) => {
                Finding::ok(check, format!("{shown} is not there yet, and can be made"))
            }
            Some(_) => Finding::fault(
                check,
                format!("{shown} is not there, and user {} may not make it", who.uid),
            )
            .advise(format!("install -d -o USER -m 0750 {shown}")),
            None => Finding::ok(check, format!("{shown} is not there yet")),
        };
    };
    let mode = entry.mode & 0o7777;
    if !entry.is_dir {
        return Finding::fault(check, format!("{shown} is no directory"));
    }
    if !entry.allows(who, 7) {
        return Finding::fault(
            check,
            format!(
                "user {} may not write to {shown}: it is user {}'s, with mode {mode:04o}",
                who.uid, entry.uid
            ),
        )
        .advise(format!("chown {} {shown}", who.uid));
    }
    if mode & 0o002 != 0 {
        return Finding::fault(
            check,
            format!(
                "everybody may write to {shown} (mode {mode:04o}), and put another socket there"
            ),
        )
        .advise(format!("chmod o-w {shown}"));
    }
    if mode & 0o020 != 0 {
        return Finding::warning(
            check,
            format!("group {} may write to {shown} (mode {mode:04o})", entry.gid),
        )
        .advise(format!(
            "chmod g-w {shown}, unless all of it may replace what the server has there"
        ));
    }
    Finding::ok(
        check,
        format!("{shown} is user {}'s, with mode {mode:04o}", entry.uid),
    )
}

/// What became of the search for a command.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Program {
    /// Its file.
    Found(Entry),
    NotInPath,
    Missing,
}

/// Says whether a command can be started by somebody.
pub(super) fn judge_program(
    check: &'static str,
    command: &str,
    program: &Program,
    interpreter: Option<(&str, bool)>,
    who: &Account,
) -> Finding {
    match program {
        Program::NotInPath => {
            Finding::fault(check, format!("{command} is in no directory of PATH"))
                .advise("Install it, or name it by its whole path.")
        }
        Program::Missing => Finding::fault(check, format!("{command} does not exist"))
            .advise("A relative path is taken from the directory of the configuration."),
        Program::Found(entry) if entry.is_dir => {
            Finding::fault(check, format!("{command} is a directory"))
        }
        Program::Found(entry) if !entry.allows(who, 1) => Finding::fault(
            check,
            format!(
                "user {} may not execute {command} (user {}'s, mode {:04o})",
                who.uid,
                entry.uid,
                entry.mode & 0o7777
            ),
        )
        .advise(format!("chmod a+x {command}")),
        Program::Found(_) => match interpreter {
            Some((name, false)) => Finding::fault(
                check,
                format!("{command} is run by {name}, which does not exist"),
            )
            .advise("Install it, or correct the first line of the file."),
            _ => Finding::ok(
                check,
                format!("{command} can be started by user {}", who.uid),
            ),
        },
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::finding::Verdict::{self, Fault, Ok, Warning};
    use super::*;

    const WEB: u32 = 33;

    fn web() -> Account {
        Account {
            uid: WEB,
            gids: vec![WEB, 100],
        }
    }

    fn dir(uid: u32, gid: u32, mode: u32) -> Entry {
        Entry {
            is_dir: true,
            uid,
            gid,
            mode,
        }
    }

    #[test]
    fn t32_descriptors_are_for_connections_their_fifos_and_the_reserve() {
        let usual = Descriptors {
            allowed: Some(20_064),
            max_connections: 10_000,
            per_connection: 2,
            reserved: 64,
        };
        let verdict = |facts| judge_descriptors(facts).verdict();
        assert_eq!(verdict(usual), Ok);
        assert_eq!(
            verdict(Descriptors {
                allowed: None,
                ..usual
            }),
            Ok
        );
        let few = judge_descriptors(Descriptors {
            allowed: Some(1024),
            ..usual
        });
        assert_eq!(few.verdict(), Warning);
        assert!(
            few.text().contains("480") && few.text().contains("20064"),
            "{}",
            few.text()
        );
    }

    #[test]
    fn limits_of_the_kernel_and_of_memory_are_compared() {
        assert_eq!(judge_backlog(Some(4096)).verdict(), Ok);
        assert_eq!(judge_backlog(Some(128)).verdict(), Warning);
        assert_eq!(judge_backlog(None).verdict(), Verdict::NotChecked);
        assert_eq!(judge_memory(None, 1 << 30).verdict(), Ok);
        assert_eq!(judge_memory(Some(2 << 30), 1 << 30).verdict(), Ok);
        assert_eq!(judge_memory(Some(1 << 30), 1 << 30).verdict(), Warning);
    }

    #[test]
    fn directories_are_the_servers_and_nobody_elses() {
        let parent = dir(0, 0, 0o755);
        for (entry, verdict, part) in [
            (Some(dir(WEB, WEB, 0o750)), Ok, "mode 0750"),
            (Some(dir(0, WEB, 0o770)), Warning, "group 33"),
            (Some(dir(WEB, WEB, 0o1777)), Fault, "everybody may write"),
            (Some(dir(0, 0, 0o755)), Fault, "may not write"),
            (
                Some(Entry {
                    is_dir: false,
                    ..dir(WEB, WEB, 0o600)
                }),
                Fault,
                "no directory",
            ),
            (None, Fault, "may not make it"),
        ] {
            let finding =
                judge_directory("state", Path::new("/run/ws"), entry, Some(parent), &web());
            assert_eq!(finding.verdict(), verdict, "{finding:?}");
            assert!(finding.text().contains(part), "{finding:?}");
        }
        let own = Some(dir(WEB, WEB, 0o700));
        let made = judge_directory("state", Path::new("/run/ws"), None, own, &web());
        assert_eq!(made.verdict(), Ok);
    }

    #[test]
    fn a_command_is_there_and_may_be_executed_by_its_user() {
        let file = |mode| {
            Program::Found(Entry {
                is_dir: false,
                uid: 0,
                gid: 0,
                mode,
            })
        };
        for (program, interpreter, verdict) in [
            (file(0o755), None, Ok),
            (file(0o755), Some(("/bin/sh", true)), Ok),
            (file(0o755), Some(("/usr/bin/python4", false)), Fault),
            (file(0o744), None, Fault),
            (Program::Found(dir(WEB, WEB, 0o755)), None, Fault),
            (Program::Missing, None, Fault),
            (Program::NotInPath, None, Fault),
        ] {
            let finding = judge_program("application", "run", &program, interpreter, &web());
            assert_eq!(finding.verdict(), verdict, "{finding:?}");
        }
    }

    proptest! {
        /// As the kernel decides: the owner's bits for the owner, and so on, whatever the others say.
        #[test]
        fn prop_one_class_of_bits_decides(
            mode in 0_u32..0o1000, uid in 1_u32..4, gid in 0_u32..4, what in 1_u32..8,
        ) {
            let who = Account { uid: 1, gids: vec![1, 2] };
            let bits = if uid == 1 { mode >> 6 } else if gid == 1 || gid == 2 { mode >> 3 } else { mode };
            prop_assert_eq!(dir(uid, gid, mode).allows(&who, what), bits & 7 & what == what);
        }
    }
}

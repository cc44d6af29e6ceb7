//! A spawner's process as the server sees it: how it is started, and what is done behind it.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::process::Stdio;
use std::time::Duration;

use tokio::io::Interest;

use super::codec::Kind;
use super::handle::{Child, Shared};
use super::{Confinement, HelperCommand, Job};
use crate::{Failure, children, socketpair, sys};

/// A spawner's process, seen from here.
#[derive(Debug)]
pub(super) struct Helper {
    pub(super) pid: i32,
    pub(super) pidfd: OwnedFd,
    pub(super) control: OwnedFd,
    /// Its child handle, if another spawner started it. Dropping it lets that one reap.
    pub(super) child: Option<Child>,
}

impl Helper {
    /// Starts a spawner as a child of this process.
    pub(super) fn start_here(helper: &HelperCommand) -> io::Result<Self> {
        let (control, theirs) = socketpair::datagram()?;
        let child = std::process::Command::new(&helper.program)
            .args(&helper.args)
            .env(children::MARK, children::SPAWNER_MARK)
            .stdin(Stdio::from(theirs))
            .stdout(Stdio::null())
            .spawn()
            .map_err(|error| {
                let program = helper.program.display();
                io::Error::new(
                    error.kind(),
                    format!("cannot start spawner {program}: {error}"),
                )
            })?;
        let pid = i32::try_from(child.id()).expect("the kernel's process ids are positive i32");
        Ok(Self {
            pid,
            pidfd: children::pidfd(pid)?,
            control,
            child: None,
        })
    }

    /// Has a living spawner start another one.
    async fn start_by_sibling(shared: &Shared) -> Result<Self, Failure> {
        let failed = |error: io::Error| Failure::cannot_start("spawner", &error);
        let (control, stdin) = socketpair::datagram().map_err(failed)?;
        let HelperCommand { program, args } = &shared.helper;
        let argv = std::iter::once(program.clone().into()).chain(args.iter().cloned());
        let job = Job {
            argv: argv.collect(),
            env: std::env::vars_os().collect(),
            dir: None,
            identity: None,
            confinement: Confinement::NONE,
            stdin,
            stdout: socketpair::null().map_err(failed)?,
            stderr: io::stderr().as_fd().try_clone_to_owned().map_err(failed)?,
        };
        let child = shared.spawn(job, Kind::Spawner).await?;
        // The sibling keeps it at least as a zombie, so the number is still its own.
        let pidfd = children::pidfd(child.pid()).map_err(failed)?;
        Ok(Self {
            pid: child.pid(),
            pidfd,
            control,
            child: Some(child),
        })
    }

    /// Starts a spawner in whichever way there is.
    pub(super) async fn start(shared: &Shared) -> io::Result<Self> {
        if shared.has_living() {
            match tokio::time::timeout(SIBLING_TIMEOUT, Self::start_by_sibling(shared)).await {
                Ok(Ok(helper)) => return Ok(helper),
                Ok(Err(error)) => {
                    tracing::warn!(%error, "spawner not started by its sibling");
                }
                Err(_) => tracing::warn!("spawner not started by its sibling: timed out"),
            }
        }
        tracing::warn!("no spawner lives: the server itself starts one");
        Self::start_here(&shared.helper)
    }
}

/// How long a living spawner may take to start another one.
const SIBLING_TIMEOUT: Duration = Duration::from_secs(2);

/// Waits for the end of a process; tells whether it came in time.
pub(super) async fn ends(pidfd: &OwnedFd, timeout: Duration) -> bool {
    let Ok(pidfd) = sys::register(pidfd.as_fd(), Interest::READABLE) else {
        return false;
    };
    let ended = tokio::time::timeout(timeout, pidfd.readable()).await;
    matches!(ended, Ok(Ok(_)))
}

/// What the processes that a spawner started are known by when it is dead.
#[derive(Clone, Debug)]
pub(super) struct Legacy {
    /// The spawner's session, in which each of its jobs begins. It keeps its number for as long as
    /// anybody is in it.
    pub(super) session: i32,
    /// What the marks of its jobs begin with.
    pub(super) marks: String,
}

impl Legacy {
    /// A job that is just being started has no mark yet and a zombie has none any more, but each
    /// has its session; who left the session has the mark.
    fn includes(&self, pid: i32) -> bool {
        children::session_of(pid) == Some(self.session)
            || children::mark_of(pid).is_some_and(|mark| mark.starts_with(&self.marks))
    }
}

/// Waits until a dead spawner has been reaped: by the one that started it, or here if that one
/// died before it could.
pub(super) async fn see_off(pidfd: OwnedFd) {
    while children::reap(&pidfd).is_err() && !children::is_reaped(&pidfd) {
        tokio::time::sleep(SEE_OFF_INTERVAL).await;
    }
}

/// How often a dead spawner that another one is to reap is looked at.
const SEE_OFF_INTERVAL: Duration = Duration::from_millis(50);

/// Kills and reaps what spawners that are gone left to us: the groups of a spawner's jobs and
/// whatever is known to be of one of the dead. What another spawner inherited from one that died
/// before it comes to us with that one's own. Children of this process that are none of these are
/// left alone, and so are living spawners, which may not have left the session yet.
pub(super) async fn end_orphans(leaders: &[i32], spawners: &[i32], dead: &[Legacy]) {
    loop {
        let mut orphans = Vec::new();
        let children = children::children().unwrap_or_default();
        for pid in children.into_iter().filter(|pid| !spawners.contains(pid)) {
            let is_leader = leaders.contains(&pid);
            let is_ours = is_leader
                || dead.iter().any(|dead| dead.includes(pid))
                || children::group_of(pid).is_some_and(|group| leaders.contains(&group));
            if is_ours && let Ok(pidfd) = children::pidfd(pid) {
                if is_leader {
                    // It is an unreaped child of ours, so the group is still its own.
                    children::kill_group(pid);
                }
                children::kill(&pidfd);
                orphans.push((is_leader, pidfd));
            }
        }
        // A leader that is a zombie keeps its number, so it is reaped after the others.
        let others_remain = orphans.iter().any(|(is_leader, _)| !is_leader);
        orphans.retain(|(is_leader, _)| !(*is_leader && others_remain));
        if orphans.is_empty() {
            return;
        }
        for (_, pidfd) in orphans {
            if !ends(&pidfd, END_TIMEOUT).await {
                tracing::error!("an orphan does not end after SIGKILL");
                return;
            }
            let _ = children::reap(&pidfd);
        }
    }
}

/// How long spawners may take to end what they run when the server shuts down: a little longer
/// than they wait themselves.
pub(super) const END_TIMEOUT: Duration = Duration::from_secs(6);

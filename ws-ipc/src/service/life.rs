//! The lives of a service's program: it is started, watched and started again.

use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use tokio::io::AsyncReadExt;
use tokio::net::unix::pipe;
use tokio::sync::watch;

use super::{Phase, ServiceCommand, Shared};
use crate::spawner::Kind;
use crate::stderr::Lines;
use crate::supervisor::{Backoff, BackoffConfig};
use crate::{Child, Failure, Job, PoolKind, Signal, Spawners, socketpair};

/// How long the program may go on after `SIGTERM`.
const TERM_GRACE: Duration = Duration::from_secs(2);

/// Keeps the program running until the service is closed.
pub(super) async fn supervise(
    shared: Arc<Shared>,
    spawners: Spawners,
    command: ServiceCommand,
    kind: PoolKind,
) {
    let mut closing = shared.closing.subscribe();
    let mut backoff = Backoff::new(BackoffConfig::default());
    loop {
        let program = command.argv.first();
        let (failure, delay) = match live(&shared, &spawners, &command, kind, &mut backoff).await {
            End::Closed => break,
            // Whoever asked for it has said why.
            End::Condemned => {
                let delay = backoff.retired(Instant::now());
                (Failure::Signaled(nix::libc::SIGKILL), delay)
            }
            End::Failed(failure @ Failure::Exited(0)) => {
                let delay = backoff.retired(Instant::now());
                tracing::info!(?delay, ?program, "service ended");
                (failure, delay)
            }
            End::Failed(failure) => {
                let delay = backoff.ended(Instant::now());
                tracing::warn!(cause = %failure, ?delay, ?program, "service failed");
                (failure, delay)
            }
        };
        shared
            .state
            .send_modify(|state| state.phase = Phase::Down(failure));
        tokio::select! {
            () = tokio::time::sleep(delay) => {}
            () = closed(&mut closing) => break,
        }
        shared.state.send_modify(|state| state.restarts += 1);
    }
    shared.state.send_modify(|state| state.phase = Phase::Ended);
}

/// How a life of the program ended.
enum End {
    /// With the service.
    Closed,
    /// By [`Service::renew`](super::Service::renew).
    Condemned,
    /// By itself, or it could not begin.
    Failed(Failure),
}

/// One life of the program.
async fn live(
    shared: &Shared,
    spawners: &Spawners,
    command: &ServiceCommand,
    kind: PoolKind,
    backoff: &mut Backoff,
) -> End {
    let mut closing = shared.closing.subscribe();
    if shared.is_abandoned.swap(false, Ordering::Acquire)
        && let Err(error) = shared.listener.turn_away()
    {
        return End::Failed(Failure::cannot_start("service", &error));
    }
    let job = match job(shared, command) {
        Ok(job) => job,
        Err(error) => return End::Failed(Failure::cannot_start("service", &error)),
    };
    let (job, log) = job;
    let kind = match kind {
        PoolKind::ForkServers => Kind::ForkServer,
        PoolKind::Workers => Kind::Run,
    };
    let mut child = tokio::select! {
        child = spawners.spawn_as(kind, job) => match child {
            Ok(child) => child,
            Err(failure) => return End::Failed(failure),
        },
        () = closed(&mut closing) => return End::Closed,
    };
    let pid = child.pid();
    // Ends by itself when the last process that can write to it has.
    tokio::spawn(log_lines(log, pid));
    backoff.started(Instant::now());
    let mut condemned = shared.condemned.subscribe();
    let mut life = 0;
    shared.state.send_modify(|state| {
        state.phase = Phase::Running { pid };
        state.life += 1;
        life = state.life;
    });
    tokio::select! {
        ended = child.wait() => {
            // Whoever hangs up on it may be the end of it before it is killed for that.
            if *shared.condemned.borrow() >= life {
                return End::Condemned;
            }
            shared.state.send_modify(|state| state.ends += 1);
            End::Failed(match ended {
                Ok(status) => failure_of(status),
                Err(failure) => failure,
            })
        }
        () = closed(&mut closing) => {
            terminate(child).await;
            End::Closed
        }
        () = reached(&mut condemned, life) => {
            // Both would accept on one socket if the next one began before this one has ended.
            child.signal_group(Signal::Kill);
            let _ = child.wait().await;
            End::Condemned
        }
    }
}

async fn closed(closing: &mut watch::Receiver<bool>) {
    // The sender outlives the task that waits.
    let _ = closing.wait_for(|&closing| closing).await;
}

async fn reached(condemned: &mut watch::Receiver<u64>, life: u64) {
    // The sender outlives the task that waits.
    let _ = condemned.wait_for(|condemned| *condemned >= life).await;
}

async fn terminate(mut child: Child) {
    child.signal_group(Signal::Terminate);
    // If it does not end, the drop kills it.
    let _ = tokio::time::timeout(TERM_GRACE, child.wait()).await;
}

fn job(shared: &Shared, command: &ServiceCommand) -> io::Result<(Job, pipe::Receiver)> {
    let (log, stderr): (OwnedFd, OwnedFd) = socketpair::pipe()?;
    let ServiceCommand {
        argv,
        env,
        dir,
        identity,
        confinement,
    } = command.clone();
    let job = Job {
        argv,
        env,
        dir,
        identity,
        confinement,
        stdin: shared.listener.try_clone()?,
        stdout: stderr.try_clone()?,
        stderr,
    };
    Ok((job, pipe::Receiver::from_owned_fd(log)?))
}

fn failure_of(status: std::process::ExitStatus) -> Failure {
    match status.code() {
        Some(code) => Failure::Exited(code),
        None => {
            let signal = std::os::unix::process::ExitStatusExt::signal(&status);
            Failure::Signaled(signal.unwrap_or(0))
        }
    }
}

async fn log_lines(mut log: pipe::Receiver, pid: i32) {
    let mut lines = Lines::new(usize::MAX);
    let mut each = |line: &str| tracing::warn!(worker.pid = pid, line, "service output");
    let mut buffer = [0; 4 * 1024];
    while let Ok(len @ 1..) = log.read(&mut buffer).await {
        lines.feed(&buffer[..len], &mut each);
    }
    lines.finish(&mut each);
}

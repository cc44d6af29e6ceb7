//! What a message costs: a few connections, each of which waits for its answer.

use std::fs;
use std::os::fd::AsFd as _;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::resource::{UsageWho, getrusage};
use nix::sys::time::TimeVal;
use nix::unistd::{SysconfVar, sysconf};

use super::visitor::Visitor;
use crate::bench::cell::Scale;

pub(super) const CONNECTIONS: u32 = 20;
const QUESTION: &str = "/echo/hello";
const ANSWER: &[u8] = b"hello";

/// By then whatever answers has loaded the application.
const WARM_UP: Duration = Duration::from_secs(1);
/// No answer takes longer.
const TIMEOUT: Duration = Duration::from_secs(20);

/// What messages have cost.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Cost {
    /// In a second.
    pub(super) rate: f64,
    /// Milliseconds of the machine's processor time for each, without ours.
    pub(super) cpu: f64,
}

/// Asks and asks for a while.
pub(super) fn measure(address: &str, scale: Scale) -> Result<Cost> {
    let mut visitors = (1..=CONNECTIONS)
        .map(|user| Visitor::enter(address, user))
        .collect::<Result<Vec<_>>>()?;
    for visitor in &mut visitors {
        visitor.say(QUESTION)?;
    }
    let duration = scale.duration() * 4;
    exchange(&mut visitors, WARM_UP)?;
    let before = (others()?, Instant::now());
    let count = exchange(&mut visitors, duration)?;
    let (used, seconds) = (others()?.saturating_sub(before.0), before.1.elapsed());
    Ok(Cost {
        rate: f64::from(count) / seconds.as_secs_f64(),
        cpu: used.as_secs_f64() * 1e3 / f64::from(count),
    })
}

/// Has everybody who gets an answer ask again, and counts the answers.
fn exchange(visitors: &mut [Visitor], duration: Duration) -> Result<u32> {
    let begun = Instant::now();
    let mut count = 0;
    while begun.elapsed() < duration {
        let ready = readable(visitors, TIMEOUT)?;
        for at in ready.with_context(|| format!("no answer within {} s", TIMEOUT.as_secs()))? {
            for message in visitors[at].hear()? {
                let text = String::from_utf8_lossy(&message);
                ensure!(message == ANSWER, "another answer: {text:?}");
                visitors[at].say(QUESTION)?;
                count += 1;
            }
        }
    }
    ensure!(count > 0, "nothing was answered in the time");
    Ok(count)
}

/// Those for whom something has come; `None` if that is nobody in the time.
pub(super) fn readable(visitors: &[Visitor], timeout: Duration) -> Result<Option<Vec<usize>>> {
    let mut fds: Vec<PollFd<'_>> = visitors
        .iter()
        .map(|it| PollFd::new(it.as_fd(), PollFlags::POLLIN))
        .collect();
    if poll(&mut fds, PollTimeout::try_from(timeout)?)? == 0 {
        return Ok(None);
    }
    let ready = fds
        .iter()
        .enumerate()
        .filter(|(_, fd)| fd.any() == Some(true));
    Ok(Some(ready.map(|(at, _)| at).collect()))
}

/// The processor time of everybody but us since the machine started: children that have ended are in
/// it, whoever waited for them.
fn others() -> Result<Duration> {
    let ours = getrusage(UsageWho::RUSAGE_SELF)?;
    let time =
        |it: TimeVal| Duration::from_secs_f64(it.tv_sec() as f64 + it.tv_usec() as f64 / 1e6);
    let ours = time(ours.user_time()) + time(ours.system_time());
    let ticks = busy_in(&fs::read_to_string("/proc/stat")?)?;
    let per_second = sysconf(SysconfVar::CLK_TCK)?.context("no clock ticks")?;
    let all = Duration::from_secs_f64(ticks as f64 / per_second as f64);
    Ok(all.saturating_sub(ours))
}

/// The clock ticks in which a processor was busy, in a `/proc/stat`.
fn busy_in(stat: &str) -> Result<u64> {
    let line = stat.lines().find_map(|line| line.strip_prefix("cpu "));
    let fields = line.context("no line of all processors in /proc/stat")?;
    let ticks: std::result::Result<Vec<u64>, _> =
        fields.split_ascii_whitespace().map(str::parse).collect();
    let ticks = ticks.context("/proc/stat")?;
    // proc_stat(5): user, nice, system, idle, iowait, irq, softirq, steal; guests are in user and nice,
    // and what was stolen was never ours.
    let [user, nice, system, _idle, _iowait, irq, softirq, ..] = ticks[..] else {
        bail!("a short line of all processors in /proc/stat");
    };
    Ok(user + nice + system + irq + softirq)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn busy_ticks_are_without_idle_waiting_and_stolen_ones() {
        let stat =
            "cpu  1 20 300 4000 50000 600000 7000000 80000000 1 2\ncpu0 9 9 9 9 9 9 9 9 9 9\n";
        assert_eq!(busy_in(stat).unwrap(), 7_600_321);
    }

    #[test]
    fn stat_of_another_shape_is_an_error() {
        for wrong in [
            "",
            "cpu0 1 2 3 4 5 6 7\n",
            "cpu  1 2 3\n",
            "cpu  1 2 x 4 5 6 7\n",
        ] {
            assert!(busy_in(wrong).is_err(), "{wrong}");
        }
    }
}

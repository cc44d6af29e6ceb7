//! A log on a disk that takes its time.

use std::fs;
use std::time::Duration;

use anyhow::Result;

use super::PAUSE;
use crate::chaos::Context;
use crate::chaos::figures::Report;
use crate::chaos::strace::Strace;
use crate::chaos::subject::{Subject, poll_until};
use crate::chaos::witness::{Errand, Witnesses};

/// What writes to a file, and what waits for the disk.
const CALLS: &str = "write,writev,pwrite64,fsync,fdatasync";
/// Half a second, in microseconds.
const DELAY: &str = "500000";
const PATIENCE: Duration = Duration::from_secs(20);

pub(super) fn slow_disk(context: &Context, report: &mut Report) -> Result<()> {
    let subject = Subject::echo(&context.ws)?;
    let span = context.size(Duration::from_secs(4), Duration::from_secs(15));
    let log = subject.log_file();
    // Each of these is two lines of the log.
    let visitors = Witnesses::start(subject.address(), 2, Errand::Arrive, 4 * PAUSE)?;
    // As often as the server takes them from one client.
    let pings = Witnesses::start(subject.address(), 16, Errand::Ping, 40 * PAUSE)?;
    let strace = Strace::attach_about(subject.id(), &log, CALLS, None)?;
    let (before, arrived_before) = visitors.during(|| pings.over(span))?;
    strace.detach()?;
    let inject = format!("inject={CALLS}:delay_enter={DELAY}");
    let strace = Strace::attach_about(subject.id(), &log, CALLS, Some(&inject))?;
    let (during, arrived_during) = visitors.during(|| pings.over(span))?;
    let delayed = strace.detach()?;
    visitors.stop()?;
    pings.stop()?;
    report.at_least("writes that took 500 ms more", delayed as f64, "", 2.0);
    report.unaffected("ping", &before, &during);
    report.unaffected("newcomers", &arrived_before, &arrived_during);
    let status = subject.wait_for("all have gone", PATIENCE, |it| {
        Ok(it.get_u64("connections.open")? == 0)
    })?;
    // Nothing was dropped for it: each connection has its record.
    let closed = status.get_u64("connections.closed")?;
    let records = || count_in(&fs::read(&log).unwrap_or_default());
    let caught_up = poll_until("the log has all records", PATIENCE, || {
        Ok(records() >= closed)
    });
    report.exactly(
        "records of closed connections",
        records() as f64,
        "",
        closed as f64,
    );
    if let Err(error) = caught_up {
        println!("  {error:#}");
    }
    subject.finish(report)
}

/// Records of connections that were closed.
fn count_in(log: &[u8]) -> u64 {
    String::from_utf8_lossy(log)
        .matches("\"connection closed\"")
        .count() as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn records_are_counted_by_their_message() {
        let log = b"{\"message\":\"connection closed\"}\n{\"message\":\"connection opened\"}\n";
        assert_eq!(count_in(log), 1);
    }
}

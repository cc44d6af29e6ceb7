//! Clients that send what is allowed, and far too much of it.

use std::io::ErrorKind;
use std::time::Duration;

use anyhow::Result;

use super::PAUSE;
use crate::chaos::Context;
use crate::chaos::client::Client;
use crate::chaos::figures::{Report, mib};
use crate::chaos::subject::Subject;
use crate::chaos::wire::{self, Event};
use crate::chaos::witness::{Errand, Witnesses};

/// In one write.
const BATCH: usize = 500;
/// From one client.
const MAX_PINGS: usize = 250_000;
/// A megabyte of pongs, and what the allocator adds.
const MAX_GROWTH: f64 = 16.0;
const MAX_WAIT: Duration = Duration::from_secs(2);

pub(super) fn ping_flood(context: &Context, report: &mut Report) -> Result<()> {
    let pings = context.size(1_000_000, 4_000_000);
    let subject = Subject::echo(&context.ws)?;
    let baseline = subject.status()?;
    let witnesses = Witnesses::start(subject.address(), 4, Errand::Echo, PAUSE)?;
    let span = context.size(Duration::from_secs(1), Duration::from_secs(5));
    let mut without = witnesses.over(span)?;
    let ping = wire::frame(wire::PING, true, &[b'p'; 125], [1, 2, 3, 4]);
    let batch = ping.repeat(BATCH);
    let (mut sent, mut connections, mut memory) = (0, 0, 0);
    let mut flooders = Vec::new();
    let ((), during) = witnesses.during(|| {
        while sent < pings {
            let mut client = Client::connect(subject.address())?;
            client.set_write_patience(MAX_WAIT)?;
            connections += 1;
            // Until it is cut off, or is not read any more.
            for _ in 0..MAX_PINGS / BATCH {
                if client.send_raw(&batch).is_err() {
                    break;
                }
                sent += BATCH;
                memory = memory.max(subject.memory_growth()?);
            }
            flooders.push(client);
        }
        Ok(())
    })?;
    let mut told = 0;
    let mut pongs = 0;
    for mut client in flooders {
        client.set_patience(MAX_WAIT)?;
        loop {
            match client.receive() {
                Ok(Some(Event::Pong(_))) => pongs += 1,
                Ok(Some(Event::Close(Some(1008)))) => told += 1,
                Ok(Some(_)) => {}
                Ok(None) => break,
                Err(error) => {
                    let kind = error.downcast_ref::<std::io::Error>().map(|it| it.kind());
                    match kind {
                        // A reset may have overtaken what was sent before it.
                        Some(ErrorKind::ConnectionReset | ErrorKind::BrokenPipe) => break,
                        _ => return Err(error),
                    }
                }
            }
        }
    }
    without.extend(witnesses.over(span)?);
    witnesses.stop()?;
    let after = subject.wait_for("they are counted", MAX_WAIT, |it| {
        Ok(it.get_u64("connections.open")? == 0)
    })?;
    report.note("pings", sent as f64, "");
    report.note("connections that it took", f64::from(connections), "");
    report.note("pongs", f64::from(pongs), "");
    report.at_most(
        "pongs for each connection",
        f64::from(pongs) / f64::from(connections),
        "",
        // The burst, and what is granted again while it is used up.
        96.0,
    );
    report.exactly(
        "connections closed for their control frames",
        after.since(&baseline, "connections.closed_by.control_rate")?,
        "",
        f64::from(connections),
    );
    report.at_least("told 1008", f64::from(told), "", 1.0);
    report.at_most("memory grown", mib(memory), "MiB", MAX_GROWTH);
    report.unaffected("echo", &without, &during);
    subject.finish(report)
}

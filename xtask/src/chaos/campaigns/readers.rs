//! Clients that read slowly, or never.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};

use crate::NotHere;
use crate::chaos::Context;
use crate::chaos::client::Client;
use crate::chaos::crowd::{Appetite, Crowd, Sent, Tally, connect_many, text_of};
use crate::chaos::figures::{Report, mib};
use crate::chaos::net::{self, Network};
use crate::chaos::subject::{Subject, poll_until};
use crate::server::Launch;

/// What T30 grants for a broadcast that waits: one copy of each message.
const MAX_GROWTH: f64 = 64.0;
const ARRIVAL_LIMIT: Duration = Duration::from_secs(60);
/// After the last push, by when each slow reader is closed.
const CLOSE_LIMIT: Duration = Duration::from_secs(10);

/// Pushes to everybody, numbered from the start.
struct Publisher<'a> {
    subject: &'a Subject,
    sent: Sent,
    memory: u64,
}

impl<'a> Publisher<'a> {
    fn new(subject: &'a Subject) -> Self {
        Self {
            subject,
            sent: Arc::new(Mutex::new(Vec::new())),
            memory: 0,
        }
    }

    fn count(&self) -> u64 {
        self.sent.lock().expect("no thread panics with it").len() as u64
    }

    fn push(&mut self, size: usize) -> Result<()> {
        let number = {
            let mut sent = self.sent.lock().expect("no thread panics with it");
            sent.push(Instant::now());
            sent.len() as u64 - 1
        };
        self.subject.broadcast(&text_of(number, size))?;
        self.memory = self.memory.max(self.subject.memory_growth()?);
        Ok(())
    }
}

pub(super) fn narrow(context: &Context, report: &mut Report) -> Result<()> {
    let count = context.size(50, 100);
    let slow_count = count / 10;
    let span = context.size(Duration::from_secs(4), Duration::from_secs(20));
    let networks = match cables(slow_count) {
        Ok(networks) => Some(networks),
        Err(error) if error.is::<NotHere>() => {
            report.leave_out(format!("tc ({error}): they read 8 KiB/s instead"));
            None
        }
        Err(error) => return Err(error),
    };
    let launch = Launch {
        listen: &[if networks.is_some() {
            "0.0.0.0:0"
        } else {
            "127.0.0.1:0"
        }],
        arguments: &["--echo"],
        ..Launch::default()
    };
    let mut act = || -> Result<()> {
        let subject = Subject::launch(&context.ws, &launch)?;
        let connect_slow = || -> Result<(Vec<Client>, Appetite)> {
            let Some((_, far)) = &networks else {
                let slow = connect_many(subject.address(), slow_count)?;
                return Ok((slow, Appetite::PerSecond(8 << 10)));
            };
            let port = subject.address().port();
            let slow = far.within(|| {
                let addresses = (1..=slow_count).map(|index| net::near(index as u8));
                addresses
                    .map(|address| Client::connect(SocketAddr::new(address.parse()?, port)))
                    .collect()
            })?;
            Ok((slow, Appetite::All))
        };
        broadcast_beside_narrow(&subject, count - slow_count, connect_slow, span, report)?;
        subject.finish(report)
    };
    match &networks {
        Some((server, _)) => server.within(act),
        None => act(),
    }
}

/// A network for the server and one for the slow clients, with a cable for each of these.
fn cables(count: usize) -> Result<(Network, Network)> {
    let (server, clients) = (Network::new()?, Network::new()?);
    for index in 1..=u8::try_from(count)? {
        server.connect(&clients, index)?;
        server.narrow(index, 64)?;
    }
    Ok((server, clients))
}

fn broadcast_beside_narrow(
    subject: &Subject,
    good_count: usize,
    connect_slow: impl Fn() -> Result<(Vec<Client>, Appetite)>,
    span: Duration,
    report: &mut Report,
) -> Result<()> {
    const SIZE: usize = 16 << 10;
    const PACE: Duration = Duration::from_millis(20);
    let mut publisher = Publisher::new(subject);
    let good = connect_many(subject.address(), good_count)?;
    let good = Crowd::listen(good, Appetite::All, &publisher.sent)?;
    let publish_for = |span: Duration, publisher: &mut Publisher<'_>| -> Result<()> {
        let end = Instant::now() + span;
        while Instant::now() < end {
            publisher.push(SIZE)?;
            thread::sleep(PACE);
        }
        good.wait_for(publisher.count(), ARRIVAL_LIMIT)
    };
    publish_for(span / 2, &mut publisher)?;
    let mut without = good.tally().delays;
    let (slow, appetite) = connect_slow()?;
    let slow_count = slow.len();
    let slow = Crowd::listen(slow, appetite, &publisher.sent)?;
    publish_for(span, &mut publisher)?;
    let with = good.tally().delays.split_off(without.len());
    let overflows = || subject.status()?.get_u64("connections.closed_by.overflow");
    let closed = poll_until("the slow are closed", CLOSE_LIMIT, || {
        Ok(overflows()? >= slow_count as u64)
    });
    report.note("slow clients", slow_count as f64, "");
    report.at_least(
        "slow clients closed with 1013",
        overflows()? as f64,
        "",
        if closed.is_ok() {
            slow_count as f64
        } else {
            1.0
        },
    );
    report.at_most("memory grown", mib(publisher.memory), "MiB", MAX_GROWTH);
    publish_for(span / 2, &mut publisher)?;
    let count = publisher.count();
    let tally = good.stop()?;
    report.note("pushes", count as f64, "");
    report_others(report, &tally, good_count, count);
    let slow = slow.stop()?;
    let faults = tally.faults.len() + slow.faults.len();
    for fault in tally.faults.iter().chain(&slow.faults).take(3) {
        println!("  {fault}");
    }
    report.exactly("torn, garbled or out of order", faults as f64, "", 0.0);
    without.extend(&tally.delays[without.len() + with.len()..]);
    report.unaffected("others: delivery", &without, &with);
    Ok(())
}

pub(super) fn zero_window(context: &Context, report: &mut Report) -> Result<()> {
    const SIZE: usize = 64 << 10;
    /// Pushes that readers may lag behind.
    const WINDOW: u64 = 4;
    let mute_count = context.size(100, 1000);
    let good_count = context.size(10, 100);
    let pushes = context.size(20, 200) * (1 << 20) / SIZE as u64;
    let subject = Subject::launch(
        &context.ws,
        &Launch {
            arguments: &["--echo"],
            variables: &[("WS__LIMITS__MAX_CONNECTIONS_PER_IP", "5000")],
            ..Launch::default()
        },
    )?;
    let mut publisher = Publisher::new(&subject);
    let good = connect_many(subject.address(), good_count)?;
    let good = Crowd::listen(good, Appetite::All, &publisher.sent)?;
    let publish = |count: u64, publisher: &mut Publisher<'_>| -> Result<()> {
        for _ in 0..count {
            publisher.push(SIZE)?;
            good.wait_for(publisher.count().saturating_sub(WINDOW), ARRIVAL_LIMIT)?;
        }
        good.wait_for(publisher.count(), ARRIVAL_LIMIT)
    };
    publish(pushes / 4, &mut publisher)?;
    let mut without = good.tally().delays;
    let memory = subject.memory()?;
    publisher.memory = 0;

    let mute = connect_many(subject.address(), mute_count)?;
    let connected = subject.memory()?;
    let start = Instant::now();
    publish(pushes, &mut publisher)?;
    let took = start.elapsed();
    let with = good.tally().delays.split_off(without.len());
    let closed = subject.wait_for("the mute are closed", CLOSE_LIMIT, |it| {
        Ok(it.get_u64("connections.closed")? >= mute_count as u64)
    });
    let status = match closed {
        Ok(status) => status,
        Err(_) => subject.status()?,
    };
    let mibs = (pushes * SIZE as u64) as f64 / 1_048_576.0;
    report.note("pushed to each", mibs, "MiB");
    report.note("time of it", took.as_secs_f64(), "s");
    report.note(
        "delivered",
        mibs * good_count as f64 / took.as_secs_f64(),
        "MiB/s",
    );
    report.exactly(
        "mute clients closed",
        status.get_u64("connections.closed")? as f64,
        "",
        mute_count as f64,
    );
    for cause in ["overflow", "pong_timeout", "vanished"] {
        let count = status.get_u64(&format!("connections.closed_by.{cause}"))?;
        report.note(format!("of them: {cause}"), count as f64, "");
    }
    report.note(
        "memory grown by their connections",
        mib(connected.saturating_sub(memory)),
        "MiB",
    );
    report.at_most("memory grown", mib(publisher.memory), "MiB", MAX_GROWTH);
    publish(pushes / 4, &mut publisher)?;
    let count = publisher.count();
    let tally = good.stop()?;
    for fault in tally.faults.iter().take(3) {
        println!("  {fault}");
    }
    report_others(report, &tally, good_count, count);
    report.exactly(
        "others: torn, garbled or out of order",
        tally.faults.len() as f64,
        "",
        0.0,
    );
    let measured = without.len() + with.len();
    ensure!(tally.delays.len() >= measured, "deliveries were lost");
    without.extend(&tally.delays[measured..]);
    report.unaffected("others: delivery", &without, &with);
    drop(mute);
    subject.finish(report)
}

/// What the well-behaved readers, beside those whom a campaign is about, got of the pushes.
fn report_others(report: &mut Report, tally: &Tally, reader_count: usize, push_count: u64) {
    report.exactly(
        "others: still open",
        tally.open as f64,
        "",
        reader_count as f64,
    );
    report.exactly(
        "others: pushes got by each",
        tally.least as f64,
        "",
        push_count as f64,
    );
}

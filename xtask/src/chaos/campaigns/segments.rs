//! Links that bring every byte, in their own way.

use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Result, anyhow, ensure};

use crate::chaos::Context;
use crate::chaos::client::Client;
use crate::chaos::figures::Report;
use crate::chaos::link::{Link, Plan};
use crate::chaos::subject::Subject;
use crate::chaos::wire::{self, Dice, Event};

const CLIENTS: usize = 8;
/// What a byte may cost that comes alone: a wake-up and a read.
const MAX_NANOS_PER_BYTE: f64 = 20_000.0;

pub(super) fn segments(context: &Context, report: &mut Report) -> Result<()> {
    let subject = Subject::echo(&context.ws)?;
    let bytes = context.size(16 << 10, 128 << 10);
    let plans = [
        ("as they come", Plan::default()),
        (
            "200 ms +- 100",
            Plan {
                delay: Duration::from_millis(200),
                jitter: Duration::from_millis(100),
                ..Plan::default()
            },
        ),
        (
            "one by one",
            Plan {
                segment: 1,
                // So that the next one does not catch up with it in a buffer.
                rest: Duration::from_micros(20),
                ..Plan::default()
            },
        ),
        (
            "one by one, late",
            Plan {
                segment: 1,
                delay: Duration::from_millis(200),
                jitter: Duration::from_millis(100),
                ..Plan::default()
            },
        ),
        (
            "gathered",
            Plan {
                gather: Duration::from_millis(50),
                ..Plan::default()
            },
        ),
    ];
    for (name, plan) in plans {
        let link = Link::open(subject.address(), plan)?;
        let (cpu, start) = (subject.cpu()?, Instant::now());
        let clients: Vec<_> = (0..CLIENTS)
            .map(|index| {
                let address = link.address();
                thread::spawn(move || -> Result<(usize, usize)> {
                    pipeline(Client::connect(address)?, index as u64, bytes)
                })
            })
            .collect();
        let (mut messages, mut carried) = (0, 0);
        let mut faults = Vec::new();
        for client in clients {
            match client.join().map_err(|_| anyhow!("a client panicked"))? {
                Ok((count, size)) => {
                    messages += count;
                    carried += size;
                }
                Err(error) => faults.push(format!("{error:#}")),
            }
        }
        let used = subject.cpu()?.saturating_sub(cpu);
        link.close()?;
        for fault in faults.iter().take(3) {
            println!("  {name}: {fault}");
        }
        report.at_least(format!("{name}: messages"), messages as f64, "", 1.0);
        report.exactly(
            format!("{name}: clients that got anything else"),
            faults.len() as f64,
            "",
            0.0,
        );
        report.note(format!("{name}: time"), start.elapsed().as_secs_f64(), "s");
        report.at_most(
            format!("{name}: CPU per byte, there and back"),
            used.as_nanos() as f64 / carried.max(1) as f64,
            "ns",
            MAX_NANOS_PER_BYTE,
        );
    }
    subject.finish(report)
}

/// Sends messages of some `bytes` in all, without waiting, and wants them back in order. Gives how
/// many messages and bytes that were.
fn pipeline(mut client: Client, seed: u64, bytes: usize) -> Result<(usize, usize)> {
    let mut dice = Dice::new(seed);
    let mut messages = Vec::new();
    let mut left = bytes;
    while left > 0 {
        let len = usize::try_from(dice.below(2000))?.min(left).max(1);
        let payload: Vec<u8> = (0..len).map(|_| dice.next() as u8).collect();
        client.send(wire::BINARY, &payload)?;
        messages.push(payload);
        left -= len;
    }
    for (index, payload) in messages.iter().enumerate() {
        match client.receive()? {
            Some(Event::Message(echo)) => {
                ensure!(echo == *payload, "message {index} is another one");
            }
            other => ensure!(false, "{other:?} instead of message {index}"),
        }
    }
    client.close()?;
    Ok((messages.len(), bytes))
}

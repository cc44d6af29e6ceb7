//! How many browsers stay connected, and what that takes.

use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Result, anyhow};

use super::contestant::{Contestant, Running};
use super::messages::readable;
use super::site::{CarbonPhp, Size};
use super::visitor::Visitor;
use crate::bench::cell::Scale;

/// The original has no room for more than about half of them, and takes long to show it.
const MANY_FOR_ORIGINAL: u32 = 1_100;
/// Those that connect at once: fewer than the original lets wait (32).
pub(super) const AT_ONCE: u32 = 20;
/// How often those that are connected are listened to while others connect: servers want their pings
/// answered.
const GLANCE: Duration = Duration::from_secs(1);
/// When none of them has answered for so long, no other will.
const SILENCE: Duration = Duration::from_secs(10);

/// What became of browsers that connected.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Served {
    pub(super) wanted: u32,
    /// Those that were answered when all were connected.
    pub(super) served: u32,
    /// Bytes of all processes when all were connected, and how many more than before.
    pub(super) memory: u64,
    pub(super) growth: u64,
    /// Until the last of those was let in who were.
    pub(super) connecting: Duration,
}

/// Connects browsers to a server of its own, each as another user, and sees who is answered.
pub(super) fn measure(
    contestant: Contestant,
    carbonphp: &CarbonPhp,
    scale: Scale,
) -> Result<Served> {
    let wanted = match contestant {
        Contestant::Original => MANY_FOR_ORIGINAL,
        Contestant::Bridge | Contestant::PhpFpm => scale.idle_steps().1,
    };
    let running = contestant.start(carbonphp, Size::Small)?;
    running.with(|running| serve(running, wanted))
}

fn serve(running: &Running, wanted: u32) -> Result<Served> {
    let before = running.memory()?;
    let begun = Instant::now();
    let visitors = gather(running.address(), wanted)?;
    let last = visitors.iter().map(|it| it.since).max();
    let (served, _visitors) = ping(visitors)?;
    let memory = running.memory()?;
    Ok(Served {
        wanted,
        served,
        memory,
        growth: memory.saturating_sub(before),
        connecting: last.map_or(Duration::ZERO, |last| last - begun),
    })
}

/// Those of so many browsers that get connected.
fn gather(address: &str, wanted: u32) -> Result<Vec<Visitor>> {
    thread::scope(|scope| {
        let gather = |first| (first..=wanted).step_by(AT_ONCE as usize);
        let tasks: Vec<_> = (1..=AT_ONCE)
            .map(|first| scope.spawn(move || enter_all(address, gather(first))))
            .collect();
        let mut visitors = Vec::new();
        for task in tasks {
            visitors.extend(task.join().map_err(|_| anyhow!("a browser panicked"))?);
        }
        Ok(visitors)
    })
}

fn enter_all(address: &str, users: impl Iterator<Item = u32>) -> Vec<Visitor> {
    let mut visitors = Vec::new();
    let mut last_glance = Instant::now();
    for user in users {
        let Ok(visitor) = Visitor::enter(address, user) else {
            // Who comes later does not get in either.
            break;
        };
        visitors.push(visitor);
        if last_glance.elapsed() >= GLANCE {
            visitors.retain_mut(|it| it.hear().is_ok());
            last_glance = Instant::now();
        }
    }
    visitors
}

/// Has everybody say `ping`, and counts those who hear `pong`. They stay connected.
fn ping(visitors: Vec<Visitor>) -> Result<(u32, Vec<Visitor>)> {
    let mut waiting = visitors;
    waiting.retain_mut(|it| it.say("ping").is_ok());
    let mut answered = Vec::new();
    while !waiting.is_empty() {
        let Some(ready) = readable(&waiting, SILENCE)? else {
            break;
        };
        // From the last to the first, so that those before keep their places.
        for at in ready.into_iter().rev() {
            match waiting[at].hear() {
                Ok(messages) if messages.iter().any(|it| it == b"pong") => {
                    answered.push(waiting.swap_remove(at));
                }
                Ok(_) => {}
                Err(_) => drop(waiting.swap_remove(at)),
            }
        }
    }
    let served = u32::try_from(answered.len())?;
    answered.append(&mut waiting);
    Ok((served, answered))
}

#[cfg(test)]
mod tests {
    use std::io::{Read as _, Write as _};
    use std::net::TcpListener;

    use super::*;

    /// Upgrades `count` connections and answers `ping` to every other one.
    fn half_a_server(listener: &TcpListener, count: u32) {
        let mut streams = Vec::new();
        for _ in 0..count {
            let (mut stream, _) = listener.accept().unwrap();
            let mut buffer = [0; 1024];
            let mut head = Vec::new();
            while !head.ends_with(b"\r\n\r\n") {
                let count = stream.read(&mut buffer).unwrap();
                head.extend_from_slice(&buffer[..count]);
            }
            assert!(String::from_utf8_lossy(&head).contains("Cookie: user="));
            stream.write_all(b"HTTP/1.1 101 Yes\r\n\r\n").unwrap();
            streams.push(stream);
        }
        for (at, mut stream) in streams.into_iter().enumerate() {
            let mut frame = [0; 10];
            stream.read_exact(&mut frame).unwrap();
            if at % 2 == 0 {
                stream.write_all(b"\x89\x00\x81\x04pong").unwrap();
                stream.read_exact(&mut [0; 6]).unwrap();
            }
        }
    }

    #[test]
    fn only_who_is_answered_is_served() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let server = thread::spawn(move || half_a_server(&listener, 50));
        let visitors = gather(&address, 50).unwrap();
        assert_eq!(visitors.len(), 50);
        let (served, _visitors) = ping(visitors).unwrap();
        assert_eq!(served, 25);
        server.join().unwrap();
    }
}

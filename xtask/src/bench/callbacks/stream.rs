//! A program for each connection, beside websocketd with the same program.

use std::ffi::OsStr;
use std::net::{Ipv4Addr, TcpStream};
use std::path::Path;
use std::process::{Child, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};

use super::{Figures, Row, cpu_of_tree, messages, report};
use crate::bench::cell::Scale;
use crate::bench::crowd::load;
use crate::bench::free_port;
use crate::bench::result::median;
use crate::server::{Launch, Server};
use crate::{process, workspace};

const PEER: &str = "websocketd";
/// A program of lines that holds nothing back.
const PROGRAM: &str = "cat";
/// Connections, and messages in flight on each.
const SHAPES: [(u32, u32); 3] = [(1, 1), (10, 1), (10, 16)];

const START_LIMIT: Duration = Duration::from_secs(10);

/// What a load is of one server.
struct Cost {
    /// Microseconds of CPU time for a message, of the server and its programs.
    cpu: f64,
    /// Messages in a second.
    rate: f64,
}

/// Tells the rows of each shape.
pub(super) fn measure(scale: Scale, rounds: u32, tell: &mut dyn FnMut(Row)) -> Result<()> {
    for shape in SHAPES {
        let rows = match workspace::find(PEER) {
            Some(_) => compare(shape, scale, rounds)?,
            None => rows(shape, || Figures::Skipped(format!("there is no {PEER}"))),
        };
        rows.into_iter().for_each(&mut *tell);
    }
    Ok(())
}

fn compare(shape: (u32, u32), scale: Scale, rounds: u32) -> Result<[Row; 2]> {
    let mut pairs = Vec::new();
    for _ in 0..rounds {
        let theirs = with_peer(shape, scale)?;
        pairs.push((with_ours(shape, scale)?, theirs));
    }
    let figures = |of: fn(&Cost) -> f64| -> Result<Figures> {
        let middle = |of: &dyn Fn(&(Cost, Cost)) -> f64| {
            median(pairs.iter().map(of).collect()).context("no rounds")
        };
        Ok(Figures::Beside {
            ours: middle(&|(ours, _)| of(ours))?,
            floor: middle(&|(_, theirs)| of(theirs))?,
            ratio: middle(&|(ours, theirs)| of(ours) / of(theirs))?,
        })
    };
    let mut figures = [figures(|cost| cost.cpu)?, figures(|cost| cost.rate)?].into_iter();
    Ok(rows(shape, || figures.next().expect("there are two rows")))
}

/// The rows of a shape: CPU time, then rate.
fn rows((connections, in_flight): (u32, u32), mut figures: impl FnMut() -> Figures) -> [Row; 2] {
    let what = format!("stream, {connections} x {in_flight} in flight");
    [("us of CPU", "below 1"), ("messages/s", "at least 1")].map(|(unit, wanted)| Row {
        what: what.clone(),
        unit: unit.to_owned(),
        beside: format!("{PEER}, {PROGRAM}"),
        wanted: wanted.to_owned(),
        figures: figures(),
    })
}

fn with_ours(shape: (u32, u32), scale: Scale) -> Result<Cost> {
    let ws = workspace::target().join("release/ws");
    let launch = Launch {
        arguments: &["--stream", "--", PROGRAM],
        variables: &[
            ("WS__LOG__LEVEL", "warn"),
            ("WS__FIFO__USER_FIFOS", "false"),
        ],
        ..Launch::default()
    };
    let server = Server::launch(&ws, &launch)?;
    let cost = cost(&ws, &server.url(), server.id(), shape, scale)?;
    server.stop()?;
    Ok(cost)
}

fn with_peer(shape: (u32, u32), scale: Scale) -> Result<Cost> {
    let ws = workspace::target().join("release/ws");
    let peer = Peer::start()?;
    cost(&ws, &peer.url(), peer.child.id(), shape, scale)
}

fn cost(
    ws: &Path,
    url: &str,
    server: u32,
    (connections, in_flight): (u32, u32),
    scale: Scale,
) -> Result<Cost> {
    let before = cpu_of_tree(server)?;
    let mut load = load(ws, url, "echo", connections);
    load.args(["--size", "20", "--in-flight", &in_flight.to_string()])
        .arg("--duration")
        .arg(format!("{}ms", scale.duration().as_millis() * 2));
    let report = report(&mut load)?;
    let used = cpu_of_tree(server)?.saturating_sub(before);
    let seconds = report["seconds"].as_f64();
    Ok(Cost {
        cpu: used.as_secs_f64() * 1e6 / messages(&report),
        rate: messages(&report) / seconds.context("a report without seconds")?,
    })
}

/// websocketd under way.
struct Peer {
    child: Child,
    port: u16,
}

impl Peer {
    fn start() -> Result<Self> {
        let port = free_port()?;
        let child = process::tied(PEER)
            .arg("--address=127.0.0.1")
            .arg(format!("--port={port}"))
            .args(["--loglevel=fatal", PROGRAM].map(OsStr::new))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .with_context(|| format!("cannot start {PEER}"))?;
        let mut peer = Self { child, port };
        let begun = Instant::now();
        while TcpStream::connect((Ipv4Addr::LOCALHOST, port)).is_err() {
            if let Some(status) = peer.child.try_wait()? {
                bail!("{PEER} ended with {status}");
            }
            ensure!(begun.elapsed() < START_LIMIT, "{PEER} does not listen");
            thread::sleep(Duration::from_millis(10));
        }
        Ok(peer)
    }

    fn url(&self) -> String {
        format!("ws://127.0.0.1:{}/", self.port)
    }
}

impl Drop for Peer {
    fn drop(&mut self) {
        // There is no one left to tell.
        let _ = process::kill_tree(&mut self.child);
    }
}

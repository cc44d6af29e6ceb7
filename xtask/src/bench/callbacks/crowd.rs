//! That many open connections make no callback dearer, seen at the whole server.

use std::path::Path;
use std::process::Command;

use anyhow::{Context as _, Result, ensure};

use super::{Figures, Row, cpu_of_tree, example, messages, report};
use crate::bench::cell::Scale;
use crate::bench::crowd::{Crowd, load};
use crate::bench::result::median;
use crate::server::{Launch, Server};
use crate::workspace;

/// Those that send, of all connections.
const SPEAKERS: u32 = 10;

/// A message run by exec in the whole server, with many connections open beside few.
pub(super) fn measure(scale: Scale, rounds: u32) -> Result<Row> {
    let folder = tempfile::Builder::new().prefix("ws-bench-").tempdir()?;
    let program = folder.path().join("echo");
    let many = scale.idle_steps().1;
    let mut row = Row {
        what: format!("exec in a server, {many} connections open"),
        unit: "us of CPU".to_owned(),
        beside: format!("{SPEAKERS} connections open"),
        wanted: "about 1".to_owned(),
        figures: Figures::Skipped("there is no C compiler".to_owned()),
    };
    if workspace::find("cc").is_none() {
        return Ok(row);
    }
    let status = Command::new(example())
        .arg("program")
        .arg(&program)
        .status()?;
    ensure!(status.success(), "callback_cost program: {status}");
    let (mut ours, mut floors, mut ratios) = (Vec::new(), Vec::new(), Vec::new());
    for _ in 0..rounds {
        let floor = cost_in_crowd(&program, SPEAKERS, scale)?;
        let one = cost_in_crowd(&program, many, scale)?;
        floors.push(floor);
        ours.push(one);
        ratios.push(one / floor);
    }
    let middle = |values| median(values).context("no rounds");
    row.figures = Figures::Beside {
        ours: middle(ours)?,
        floor: middle(floors)?,
        ratio: middle(ratios)?,
    };
    Ok(row)
}

/// Microseconds of CPU time for a message, of the server and all its processes.
fn cost_in_crowd(program: &Path, connections: u32, scale: Scale) -> Result<f64> {
    let ws = workspace::target().join("release/ws");
    let program = program.to_str().context("TMPDIR is no text")?;
    let launch = Launch {
        arguments: &["--", program],
        variables: &[
            ("WS__LOG__LEVEL", "warn"),
            ("WS__FIFO__USER_FIFOS", "false"),
        ],
        ..Launch::default()
    };
    let server = Server::launch(&ws, &launch)?;
    let crowd = match connections - SPEAKERS {
        0 => None,
        idle => Some(Crowd::gather(&ws, &server, idle)?),
    };
    let before = cpu_of_tree(server.id())?;
    let mut load = load(&ws, &server.url(), "echo", SPEAKERS);
    load.args(["--size", "20", "--warm-up", "0s", "--duration"])
        .arg(format!("{}ms", scale.duration().as_millis() * 2));
    let report = report(&mut load)?;
    let used = cpu_of_tree(server.id())?.saturating_sub(before);
    drop(crowd);
    server.stop()?;
    Ok(used.as_secs_f64() * 1e6 / messages(&report))
}

//! What it costs that sessions last: visitors who come back after a restart, for each store beside the
//! one in memory, which knows none of them any more.

use std::fs;
use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use tempfile::TempDir;

use super::cell::Scale;
use super::result::{markdown, median};
use crate::server::{Launch, Server};
use crate::workspace;

const TITLE: &str = "Sessions: CPU time for a visitor who comes back after a restart";
/// What the issue wants of SQLite.
const WANTED: &str = "at most 1.3";
/// Visitors who come at once.
const AT_ONCE: usize = 50;
const LIMIT: Duration = Duration::from_secs(60);
/// For how long the server must use no CPU time to be done with what it does behind the scenes.
const QUIET: Duration = Duration::from_millis(400);

const KEY: &str = "dGhlIHNhbXBsZSBub25jZQ==";

/// Microseconds of CPU time of the server for a visitor.
#[derive(Clone, Copy, Debug)]
struct Cost {
    /// Who comes for the first time.
    first: f64,
    /// Who comes back.
    again: f64,
}

/// Measures everything and returns the group's section.
pub(super) fn measure(scale: Scale, rounds: Option<u32>) -> String {
    let visitors = match scale {
        Scale::Quick => 1000,
        Scale::Whole => 5000,
    };
    let rounds = rounds.unwrap_or_else(|| scale.rounds().max(3));
    let mut costs = Vec::new();
    for round in 0..rounds {
        match pair(visitors, round) {
            Ok((memory, sqlite)) => {
                println!(
                    "sessions round {}/{rounds}: memory {:.1} us, sqlite {:.1} us, ratio {:.2}",
                    round + 1,
                    memory.again,
                    sqlite.again,
                    sqlite.again / memory.again
                );
                costs.push((memory, sqlite));
            }
            Err(error) => {
                println!("failed: {error:#}");
                let cause = format!("{error:#}");
                let cause = cause.lines().next().unwrap_or("no cause");
                return format!("### {TITLE}\n\nFailed: {}.\n", cause.trim_end_matches('.'));
            }
        }
    }
    section(visitors, &costs)
}

fn section(visitors: usize, costs: &[(Cost, Cost)]) -> String {
    let middle = |figure: fn(&(Cost, Cost)) -> f64| {
        let figures = costs.iter().map(figure).collect();
        median(figures).unwrap_or_default()
    };
    let row = |what: &str, memory: f64, sqlite: f64, ratio: f64, wanted: &str| {
        let cells = [
            what.to_owned(),
            format!("{memory:.1}"),
            format!("{sqlite:.1}"),
            format!("{ratio:.2}"),
            wanted.to_owned(),
        ];
        cells.to_vec()
    };
    let head = ["visitors", "memory, us", "sqlite, us", "ratio", "wanted"];
    let rows = [
        head.map(str::to_owned).to_vec(),
        row(
            &format!("{visitors} back after a restart"),
            middle(|(memory, _)| memory.again),
            middle(|(_, sqlite)| sqlite.again),
            middle(|(memory, sqlite)| sqlite.again / memory.again),
            WANTED,
        ),
        row(
            &format!("{visitors} for the first time"),
            middle(|(memory, _)| memory.first),
            middle(|(_, sqlite)| sqlite.first),
            middle(|(memory, sqlite)| sqlite.first / memory.first),
            "-",
        ),
    ];
    format!("### {TITLE}\n\n{}\n", markdown(&rows))
}

/// Measures both stores, one after the other; in each round the other one comes first.
fn pair(visitors: usize, round: u32) -> Result<(Cost, Cost)> {
    if round.is_multiple_of(2) {
        let memory = cost("memory", visitors)?;
        return Ok((memory, cost("sqlite", visitors)?));
    }
    let sqlite = cost("sqlite", visitors)?;
    Ok((cost("memory", visitors)?, sqlite))
}

fn cost(store: &str, visitors: usize) -> Result<Cost> {
    let folder = tempfile::Builder::new().prefix("ws-bench-").tempdir()?;
    let server = start(store, &folder)?;
    let mut crowd = vec![None; visitors];
    let first = visit(&server, &mut crowd)?;
    server.stop()?;
    let server = start(store, &folder)?;
    let again = visit(&server, &mut crowd)?;
    server.stop()?;
    Ok(Cost { first, again })
}

fn start(store: &str, folder: &TempDir) -> Result<Server> {
    let store = match store {
        "sqlite" => format!("sqlite:{}/sessions.db", folder.path().display()),
        other => other.to_owned(),
    };
    let launch = Launch {
        arguments: &["--echo"],
        variables: &[
            ("WS__IDENTITY__STORE", &store),
            ("WS__LOG__LEVEL", "warn"),
            ("WS__FIFO__USER_FIFOS", "false"),
        ],
        ..Launch::default()
    };
    Server::launch(&workspace::target().join("release/ws"), &launch)
}

/// Has everybody come, with the cookies that they have, and take the cookies that they get. Returns
/// the server's CPU time for each; it is over when the server does nothing any more.
fn visit(server: &Server, cookies: &mut [Option<String>]) -> Result<f64> {
    let visitors = cookies.len();
    let before = quiet(server)?;
    let opened = thread::scope(|scope| -> Result<Vec<TcpStream>> {
        let share = visitors.div_ceil(AT_ONCE);
        let tasks: Vec<_> = cookies
            .chunks_mut(share)
            .map(|cookies| scope.spawn(|| open_all(server.address(), cookies)))
            .collect();
        let mut opened = Vec::new();
        for task in tasks {
            let streams = task
                .join()
                .map_err(|_| anyhow::anyhow!("a client panicked"))?;
            opened.extend(streams?);
        }
        Ok(opened)
    })?;
    let used = quiet(server)?.saturating_sub(before);
    drop(opened);
    Ok(used.as_secs_f64() * 1e6 / visitors as f64)
}

fn open_all(address: &str, cookies: &mut [Option<String>]) -> Result<Vec<TcpStream>> {
    cookies
        .iter_mut()
        .map(|cookie| open(address, cookie))
        .collect()
}

/// Opens a connection with the cookie that there is, and takes the one that is given.
pub(super) fn open(address: &str, cookie: &mut Option<String>) -> Result<TcpStream> {
    open_within(LIMIT, address, cookie)
}

/// As [`open`], if the server needs no longer than that for its answer.
pub(super) fn open_within(
    limit: Duration,
    address: &str,
    cookie: &mut Option<String>,
) -> Result<TcpStream> {
    let mut stream = TcpStream::connect(address)?;
    stream.set_read_timeout(Some(limit))?;
    let line = cookie.as_ref().map(|it| format!("Cookie: {it}\r\n"));
    let request = format!(
        "GET / HTTP/1.1\r\nHost: {address}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
         Sec-WebSocket-Key: {KEY}\r\nSec-WebSocket-Version: 13\r\n{}\r\n",
        line.unwrap_or_default()
    );
    stream.write_all(request.as_bytes())?;
    let mut head = Vec::new();
    let mut buffer = [0; 1024];
    while !head.ends_with(b"\r\n\r\n") {
        let count = stream.read(&mut buffer)?;
        ensure!(count > 0, "the server closed during the handshake");
        head.extend_from_slice(&buffer[..count]);
    }
    let head = String::from_utf8(head).context("the head is not text")?;
    ensure!(head.starts_with("HTTP/1.1 101"), "refused: {head}");
    let issued = head.lines().find_map(|line| {
        let (name, value) = line.split_once(": ")?;
        let is_cookie = name.eq_ignore_ascii_case("set-cookie");
        is_cookie.then(|| value.split(';').next().unwrap_or(value).to_owned())
    });
    if issued.is_some() {
        *cookie = issued;
    }
    Ok(stream)
}

/// The server's CPU time when it has not used any for a while.
fn quiet(server: &Server) -> Result<Duration> {
    let deadline = Instant::now() + LIMIT;
    let mut last = cpu_of(server.id())?;
    loop {
        thread::sleep(QUIET);
        let now = cpu_of(server.id())?;
        // Its timers ring all the same.
        if now.saturating_sub(last) < Duration::from_millis(1) {
            return Ok(now);
        }
        ensure!(Instant::now() < deadline, "the server is never quiet");
        last = now;
    }
}

/// The CPU time of a process's threads, to the nanosecond.
pub(super) fn cpu_of(id: u32) -> Result<Duration> {
    let threads = fs::read_dir(Path::new("/proc").join(id.to_string()).join("task"))?;
    let mut sum = Duration::ZERO;
    for thread in threads {
        // One that has ended meanwhile had done little.
        let Ok(stat) = fs::read_to_string(thread?.path().join("schedstat")) else {
            continue;
        };
        let nanos = stat.split(' ').next().and_then(|nanos| nanos.parse().ok());
        sum += Duration::from_nanos(nanos.context("no time in schedstat")?);
    }
    Ok(sum)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_has_the_middle_of_the_ratios() {
        let cost = |first, again| Cost { first, again };
        let costs = [
            (cost(10.0, 10.0), cost(20.0, 11.0)),
            (cost(10.0, 10.0), cost(20.0, 30.0)),
            (cost(10.0, 20.0), cost(20.0, 24.0)),
        ];
        let section = section(5000, &costs);
        assert!(section.contains("|  1.20 | at most 1.3 |"), "{section}");
        assert!(section.contains("|  2.00 |           - |"), "{section}");
    }

    #[test]
    fn cpu_time_is_that_of_all_threads() {
        assert!(cpu_of(std::process::id()).unwrap() > Duration::ZERO);
    }
}

//! What a push to one user costs where ever more others are connected.

use std::io::{Read as _, Write as _};
use std::net::{Shutdown, TcpStream};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::thread;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use serde_json::{Value, json};

use super::cell::Scale;
use super::crowd::Crowd;
use super::result::{markdown, median};
use super::sessions::{cpu_of, open};
use crate::server::{Launch, Server};
use crate::workspace;

const TITLE: &str = "Push: CPU time for a message to one user";
const WANTED: &str = "about 1";
/// Others who are connected, where there are few.
const FEW: u32 = 10;
/// Messages in a request.
const BATCH: usize = 500;
const SIZE: usize = 64;
const LIMIT: Duration = Duration::from_secs(60);

/// Measures everything and returns the group's section.
pub(super) fn measure(scale: Scale, rounds: Option<u32>) -> String {
    let many = scale.idle_steps().1;
    let rounds = rounds.unwrap_or_else(|| scale.rounds().max(3));
    let mut costs = Vec::new();
    for round in 0..rounds {
        match pair(many, scale) {
            Ok((few, many)) => {
                println!(
                    "push round {}/{rounds}: {few:.1} us, {many:.1} us, ratio {:.2}",
                    round + 1,
                    many / few
                );
                costs.push((few, many));
            }
            Err(error) => {
                println!("failed: {error:#}");
                let cause = format!("{error:#}");
                let cause = cause.lines().next().unwrap_or("no cause");
                return format!("### {TITLE}\n\nFailed: {}.\n", cause.trim_end_matches('.'));
            }
        }
    }
    section(many, &costs)
}

fn section(many: u32, costs: &[(f64, f64)]) -> String {
    let middle = |figure: fn(&(f64, f64)) -> f64| {
        let figures = costs.iter().map(figure).collect();
        median(figures).unwrap_or_default()
    };
    let rows = [
        vec![
            "others".to_owned(),
            format!("{FEW}, us"),
            format!("{many}, us"),
            "ratio".to_owned(),
            "wanted".to_owned(),
        ],
        vec![
            format!("{SIZE} B, {BATCH} in a request"),
            format!("{:.1}", middle(|(few, _)| *few)),
            format!("{:.1}", middle(|(_, many)| *many)),
            format!("{:.2}", middle(|(few, many)| many / few)),
            WANTED.to_owned(),
        ],
    ];
    format!("### {TITLE}\n\n{}\n", markdown(&rows))
}

fn pair(many: u32, scale: Scale) -> Result<(f64, f64)> {
    Ok((cost(FEW, scale)?, cost(many, scale)?))
}

/// Microseconds of the server's CPU time for a message, where so many others are connected.
fn cost(others: u32, scale: Scale) -> Result<f64> {
    let ws = workspace::target().join("release/ws");
    let launch = Launch {
        arguments: &["--echo"],
        variables: &[
            ("WS__IDENTITY__STORE", "memory"),
            ("WS__LOG__LEVEL", "warn"),
            ("WS__FIFO__USER_FIFOS", "false"),
        ],
        ..Launch::default()
    };
    let server = Server::launch(&ws, &launch)?;
    let stream = open(server.address(), &mut None)?;
    let socket = server.state().join("control.sock");
    let connections = ask(&socket, "GET", "/v1/connections", "")?;
    let user = connections["connections"][0]["user"].as_str();
    let message = json!({
        "to": { "user": user.context("the connection has no user")? },
        "text": "x".repeat(SIZE),
    });
    let batch = Value::from(vec![message; BATCH]).to_string();
    let crowd = Crowd::gather(&ws, &server, others)?;
    let requests = match scale {
        Scale::Quick => 20,
        Scale::Whole => 200,
    };
    let used = thread::scope(|scope| {
        let reader = scope.spawn(|| read_all(&stream));
        let used = push_often(&socket, &batch, requests, server.id());
        stream.shutdown(Shutdown::Both)?;
        reader
            .join()
            .map_err(|_| anyhow::anyhow!("the reader panicked"))?;
        used
    })?;
    drop(crowd);
    server.stop()?;
    Ok(used.as_secs_f64() * 1e6 / (requests * BATCH) as f64)
}

fn push_often(socket: &Path, batch: &str, requests: usize, server: u32) -> Result<Duration> {
    ask(socket, "POST", "/v1/send", batch)?;
    let before = cpu_of(server)?;
    for _ in 0..requests {
        let receipts = ask(socket, "POST", "/v1/send", batch)?;
        let receipts = receipts.as_array().context("no list of receipts")?;
        let reached = |receipt: &Value| receipt["connections"] == 1 && receipt["dropped"] == 0;
        ensure!(
            receipts.len() == BATCH && receipts.iter().all(reached),
            "a message did not reach its user"
        );
    }
    Ok(cpu_of(server)?.saturating_sub(before))
}

fn read_all(mut stream: &TcpStream) {
    let mut buffer = [0; 1 << 16];
    // It ends when the stream is shut down; nobody asks what came.
    while matches!(stream.read(&mut buffer), Ok(count) if count > 0) {}
}

/// Makes one request to the control socket.
fn ask(socket: &Path, method: &str, path: &str, body: &str) -> Result<Value> {
    let mut stream = UnixStream::connect(socket)?;
    stream.set_read_timeout(Some(LIMIT))?;
    let length = body.len();
    let head = format!(
        "{method} {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\
         Content-Length: {length}\r\n\r\n"
    );
    stream.write_all(head.as_bytes())?;
    stream.write_all(body.as_bytes())?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    let (head, body) = answer.split_once("\r\n\r\n").context("no answer")?;
    ensure!(head.starts_with("HTTP/1.1 200"), "refused: {body}");
    let json = body.trim_start_matches(|c: char| c != '{' && c != '[');
    let mut values = serde_json::Deserializer::from_str(json).into_iter();
    Ok(values.next().context("no JSON")??)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_has_the_middle_of_the_ratios() {
        let section = section(9000, &[(10.0, 10.0), (10.0, 20.0), (20.0, 22.0)]);
        assert!(section.contains("|  1.10 | about 1 |"), "{section}");
    }
}

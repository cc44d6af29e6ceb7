//! `ws ls`: lists the connections.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::Context;
use hyper::Method;
use serde::Deserialize;

use crate::args::ListArgs;
use crate::control;
use crate::failure::Failure;
use crate::output;

pub(crate) fn run(args: &ListArgs) -> Result<(), Failure> {
    let answer = control::call(&args.client, Method::GET, "/v1/connections", None)?;
    if args.client.json {
        return output::json(&answer);
    }
    let list: Connections = serde_json::from_value(answer).context("the server's answer")?;
    if list.connections.is_empty() {
        return Ok(());
    }
    let now = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default();
    let mut rows = vec![HEAD.map(str::to_owned)];
    rows.extend(
        list.connections
            .iter()
            .map(|connection| connection.row(now)),
    );
    output::table(&rows).into_iter().try_for_each(output::line)
}

const HEAD: [&str; 7] = [
    "CONNECTION",
    "USER",
    "SESSION",
    "ADDRESS",
    "AGE",
    "URI",
    "FIFO",
];

#[derive(Debug, Deserialize)]
struct Connections {
    connections: Vec<Connection>,
}

/// What is shown of a connection; the server may tell more.
#[derive(Debug, Deserialize)]
struct Connection {
    id: String,
    user: String,
    session: String,
    ip: Option<String>,
    port: Option<u16>,
    /// Unix time in seconds.
    opened_at: f64,
    uri: String,
    fifo: Option<String>,
}

impl Connection {
    fn row(&self, now: Duration) -> [String; 7] {
        let address = match (self.ip.as_deref(), self.port) {
            (Some(ip), Some(port)) if ip.contains(':') => format!("[{ip}]:{port}"),
            (Some(ip), Some(port)) => format!("{ip}:{port}"),
            (Some(ip), None) => ip.to_owned(),
            (None, _) => "unix".to_owned(),
        };
        let fifo = self.fifo.as_deref().unwrap_or("-");
        [
            &self.id,
            &self.user,
            &self.session,
            &address,
            &age(now, self.opened_at),
            &self.uri,
            fifo,
        ]
        .map(output::printable)
    }
}

/// Renders the time since `opened_at` in its largest unit; clocks may disagree, so never below 0.
pub(super) fn age(now: Duration, opened_at: f64) -> String {
    let seconds = (now.as_secs_f64() - opened_at).max(0.0);
    let (divisor, unit) = match seconds {
        seconds if seconds < 120.0 => (1.0, "s"),
        seconds if seconds < 7_200.0 => (60.0, "m"),
        seconds if seconds < 172_800.0 => (3_600.0, "h"),
        _ => (86_400.0, "d"),
    };
    format!("{:.0}{unit}", (seconds / divisor).floor())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_row_shows_who_and_from_where() {
        let connection = |value| serde_json::from_value::<Connection>(value).unwrap();
        let now = Duration::from_secs(1000);
        let tcp = connection(json!({
            "id": "00000000000000ab", "user": "alice", "session": "5e", "ip": "::1", "port": 5000,
            "opened_at": 990.5, "uri": "/\u{1b}x", "fifo": null, "messages": 3,
        }));
        assert_eq!(
            tcp.row(now),
            [
                "00000000000000ab",
                "alice",
                "5e",
                "[::1]:5000",
                "9s",
                "/\\u{1b}x",
                "-"
            ]
        );
        let unix = connection(json!({
            "id": "ab", "user": "bob", "session": "5e", "ip": null, "port": null, "opened_at": 0.0,
            "uri": "/", "fifo": "/run/ws/fifo/bob.fifo",
        }));
        assert_eq!(
            unix.row(now),
            [
                "ab",
                "bob",
                "5e",
                "unix",
                "16m",
                "/",
                "/run/ws/fifo/bob.fifo"
            ]
        );
    }

    #[test]
    fn ages_are_never_negative() {
        assert_eq!(age(Duration::from_secs(5), 9.0), "0s");
        assert_eq!(age(Duration::from_secs(1_000_000), 0.0), "11d");
    }
}

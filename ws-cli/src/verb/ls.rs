//! `ws ls`: lists the connections, or the users.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::Context;
use hyper::Method;
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use serde::Deserialize;

use crate::args::ListArgs;
use crate::control;
use crate::failure::Failure;
use crate::human;
use crate::output;

pub(crate) fn run(args: &ListArgs) -> Result<(), Failure> {
    if args.users {
        return users(args);
    }
    let encode = |text| utf8_percent_encode(text, NON_ALPHANUMERIC);
    let mut query = Vec::new();
    query.extend(
        args.user
            .as_ref()
            .map(|user| format!("user={}", encode(user))),
    );
    query.extend(
        args.session
            .as_ref()
            .map(|session| format!("session={}", encode(session))),
    );
    let path = format!("/v1/connections?{}", query.join("&"));
    let answer = control::call(&args.client, Method::GET, &path, None)?;
    if args.client.json {
        return output::json(&answer);
    }
    let list: Connections = serde_json::from_value(answer).context("the server's answer")?;
    if list.connections.is_empty() {
        return Ok(());
    }
    let now = now();
    let mut rows = vec![HEAD.map(str::to_owned)];
    rows.extend(
        list.connections
            .iter()
            .map(|connection| connection.row(now)),
    );
    output::table(&rows).into_iter().try_for_each(output::line)
}

fn users(args: &ListArgs) -> Result<(), Failure> {
    let answer = control::call(&args.client, Method::GET, "/v1/users", None)?;
    if args.client.json {
        return output::json(&answer);
    }
    let list: Users = serde_json::from_value(answer).context("the server's answer")?;
    if list.users.is_empty() {
        return Ok(());
    }
    let now = now();
    let mut rows = vec![["USER", "CONNECTIONS", "SESSIONS", "ONLINE"].map(str::to_owned)];
    rows.extend(list.users.iter().map(|user| user.row(now)));
    output::table(&rows).into_iter().try_for_each(output::line)
}

/// The Unix time.
fn now() -> Duration {
    let now = SystemTime::now().duration_since(UNIX_EPOCH);
    now.unwrap_or_default()
}

#[derive(Debug, Deserialize)]
struct Users {
    users: Vec<User>,
}

/// What is shown of a user.
#[derive(Debug, Deserialize)]
struct User {
    id: String,
    connections: u64,
    sessions: u64,
    /// Unix time in seconds.
    since: f64,
}

impl User {
    fn row(&self, now: Duration) -> [String; 4] {
        [
            output::printable(&self.id),
            self.connections.to_string(),
            self.sessions.to_string(),
            age(now, self.since),
        ]
    }
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
        let address = address(self.ip.as_deref(), self.port);
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

/// Renders where a visitor comes from.
pub(super) fn address(ip: Option<&str>, port: Option<u16>) -> String {
    match (ip, port) {
        (Some(ip), Some(port)) if ip.contains(':') => format!("[{ip}]:{port}"),
        (Some(ip), Some(port)) => format!("{ip}:{port}"),
        (Some(ip), None) => ip.to_owned(),
        (None, _) => "unix".to_owned(),
    }
}

/// Renders the time since `opened_at` in its largest unit; clocks may disagree, so never below 0.
pub(super) fn age(now: Duration, opened_at: f64) -> String {
    let opened_at = Duration::try_from_secs_f64(opened_at).unwrap_or_default();
    human::age(now.saturating_sub(opened_at))
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
    fn a_row_of_users_shows_how_long_one_is_there() {
        let user = json!({ "id": "al\u{1b}", "connections": 3, "sessions": 2, "since": 10.0 });
        let user: User = serde_json::from_value(user).unwrap();
        assert_eq!(
            user.row(Duration::from_secs(70)),
            ["al\\u{1b}", "3", "2", "60s"]
        );
    }

    #[test]
    fn ages_are_never_negative() {
        assert_eq!(age(Duration::from_secs(5), 9.0), "0s");
        assert_eq!(age(Duration::from_secs(1_000_000), 0.0), "11d");
    }
}

//! `ws sessions`: lists and revokes the sessions that are known.

use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::Context;
use hyper::Method;
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use serde::Deserialize;
use serde_json::{Value, json};

use super::ls::age;
use crate::args::{RevokeArgs, SessionsListArgs, SessionsVerb};
use crate::control;
use crate::failure::{Code, Failure};
use crate::output;

pub(crate) fn run(verb: &SessionsVerb) -> Result<(), Failure> {
    match verb {
        SessionsVerb::Ls(args) => list(args),
        SessionsVerb::Revoke(args) => revoke(args),
    }
}

fn list(args: &SessionsListArgs) -> Result<(), Failure> {
    let mut query = Vec::from_iter(args.user.as_deref().map(|user| parameter("user", user)));
    let mut sessions = Vec::new();
    loop {
        let path = with_query("/v1/sessions", &query);
        let answer = control::call(&args.client, Method::GET, &path, None)?;
        let page: Page = serde_json::from_value(answer).context("the server's answer")?;
        sessions.extend(page.sessions);
        let Some(next) = page.next else {
            break;
        };
        query.retain(|parameter| !parameter.starts_with("after="));
        query.push(parameter("after", &next));
    }
    if args.client.json {
        return output::json(&json!({ "sessions": sessions }));
    }
    let mut rows = vec![HEAD.map(str::to_owned)];
    for session in sessions {
        let session: Session = serde_json::from_value(session).context("the server's answer")?;
        rows.push(session.row(SystemTime::now()));
    }
    if rows.len() == 1 {
        return Ok(());
    }
    output::table(&rows).into_iter().try_for_each(output::line)
}

fn revoke(args: &RevokeArgs) -> Result<(), Failure> {
    let mut words = Vec::new();
    words.extend(args.code.map(|code| format!("code={code}")));
    words.extend(args.reason.as_deref().map(|text| parameter("reason", text)));
    let paths: Vec<String> = match &args.user {
        Some(user) => {
            words.push(parameter("user", user));
            vec![with_query("/v1/sessions", &words)]
        }
        None => {
            let path = |id: &String| with_query(&format!("/v1/sessions/{}", encode(id)), &words);
            args.sessions.iter().map(path).collect()
        }
    };
    let (mut sessions, mut connections) = (0, 0);
    for path in paths {
        let answer = control::call(&args.client, Method::DELETE, &path, None)?;
        sessions += control::count(&answer, "sessions")?;
        connections += control::count(&answer, "connections")?;
    }
    if args.client.json {
        output::json(&json!({ "sessions": sessions, "connections": connections }))
    } else {
        output::line(sessions)
    }?;
    if sessions == 0 && connections == 0 {
        return Err(Failure::new(Code::TryLater, "there was no such session"));
    }
    Ok(())
}

fn with_query(path: &str, parameters: &[String]) -> String {
    match parameters {
        [] => path.to_owned(),
        _ => format!("{path}?{}", parameters.join("&")),
    }
}

fn parameter(name: &str, value: &str) -> String {
    format!("{name}={}", encode(value))
}

fn encode(text: &str) -> String {
    utf8_percent_encode(text, NON_ALPHANUMERIC).to_string()
}

const HEAD: [&str; 7] = [
    "SESSION",
    "USER",
    "ADDRESS",
    "AGE",
    "UNUSED",
    "CONNECTIONS",
    "DATA",
];

#[derive(Debug, Deserialize)]
struct Page {
    sessions: Vec<Value>,
    /// Behind which there may be more.
    next: Option<String>,
}

/// What is shown of a session; the server may tell more.
#[derive(Debug, Deserialize)]
struct Session {
    id: String,
    user: String,
    ip: Option<String>,
    /// Unix time in seconds.
    created_at: f64,
    used_at: f64,
    connections: u64,
    data_bytes: u64,
}

impl Session {
    fn row(&self, now: SystemTime) -> [String; 7] {
        let now = now.duration_since(UNIX_EPOCH).unwrap_or_default();
        [
            &self.id,
            &self.user,
            self.ip.as_deref().unwrap_or("unix"),
            &age(now, self.created_at),
            &age(now, self.used_at),
            &self.connections.to_string(),
            &self.data_bytes.to_string(),
        ]
        .map(output::printable)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn a_row_shows_whose_it_is_and_how_old() {
        let session: Session = serde_json::from_value(json!({
            "id": "5e", "user": "a\u{1b}b", "ip": null, "created_at": 0.0, "used_at": 990.0,
            "expires_at": null, "data_bytes": 12, "connections": 2,
        }))
        .unwrap();
        let row = session.row(UNIX_EPOCH + Duration::from_secs(1000));
        let expected = ["5e", "a\\u{1b}b", "unix", "16m", "10s", "2", "12"];
        assert_eq!(row, expected);
    }
}

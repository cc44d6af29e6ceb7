//! The built-in demo application: Rust closures in the fork server, one process for each message.

use std::io::{self, Read, Write};
use std::os::unix::net::UnixStream;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde_json::json;
use ws_ipc::Environment;
use ws_ipc::forkserver::{Answer, Request};

const HELP: &str = "Send /echo/TEXT, /time, /whoami or /broadcast/TEXT.";

/// How long the demo waits for the server's answer to a push of its own.
const PUSH_TIMEOUT: Duration = Duration::from_secs(5);

/// Answers one message.
pub(crate) fn answer(request: &Request) -> Answer {
    match reply(request.environment(), request.body()) {
        Ok(text) => Answer::text(text),
        Err(error) => Answer::text(format!("The demo failed: {error}")),
    }
}

fn reply(env: &Environment, message: &[u8]) -> io::Result<String> {
    let Ok(message) = std::str::from_utf8(message) else {
        return Ok(format!("{} bytes, binary. {HELP}", message.len()));
    };
    if let Some(text) = message.strip_prefix("/echo/") {
        return Ok(text.to_owned());
    }
    if let Some(text) = message.strip_prefix("/broadcast/") {
        let control = variable(env, "WS_CONTROL_SOCKET").unwrap_or_default();
        broadcast(&control, text)?;
        return Ok(String::new());
    }
    Ok(match message {
        "/time" => utc_time(SystemTime::now()),
        "/whoami" => whoami(env),
        _ => HELP.to_owned(),
    })
}

fn whoami(env: &Environment) -> String {
    let address = match (variable(env, "REMOTE_ADDR"), variable(env, "REMOTE_PORT")) {
        (Some(ip), Some(port)) if ip.contains(':') => Some(format!("[{ip}]:{port}")),
        (Some(ip), Some(port)) => Some(format!("{ip}:{port}")),
        _ => None,
    };
    let facts = [
        ("user", variable(env, "WS_USER_ID")),
        ("session", variable(env, "WS_SESSION_ID")),
        ("connection", variable(env, "WS_CONNECTION_ID")),
        ("address", address),
        ("fifo", variable(env, "WS_FIFO")),
        ("global_fifo", variable(env, "WS_GLOBAL_FIFO")),
        ("control", variable(env, "WS_CONTROL_SOCKET")),
        ("program", program()),
    ];
    let lines = facts
        .iter()
        .filter_map(|(name, value)| Some(format!("{name}: {}", value.as_ref()?)));
    lines.collect::<Vec<_>>().join("\n")
}

/// Where this program is, for commands to copy: a newcomer's `ws` is not on the `PATH`.
fn program() -> Option<String> {
    Some(std::env::current_exe().ok()?.to_str()?.to_owned())
}

fn variable(env: &Environment, name: &str) -> Option<String> {
    env.get(name)
        .map(|value| String::from_utf8_lossy(value).into_owned())
}

/// Pushes to everybody as any program on this host can: by HTTP over the control socket.
fn broadcast(control: &str, text: &str) -> io::Result<()> {
    let body = json!({ "to": { "all": true }, "text": text }).to_string();
    let mut socket = UnixStream::connect(control)?;
    socket.set_read_timeout(Some(PUSH_TIMEOUT))?;
    socket.set_write_timeout(Some(PUSH_TIMEOUT))?;
    write!(
        socket,
        "POST /v1/send HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n\
         Content-Length: {}\r\nConnection: close\r\n\r\n{body}",
        body.len()
    )?;
    let mut answer = String::new();
    socket.read_to_string(&mut answer)?;
    let status = answer.split(' ').nth(1).unwrap_or_default();
    if status == "200" {
        return Ok(());
    }
    Err(io::Error::other(format!(
        "the control socket answered {status}"
    )))
}

/// The time in UTC as RFC 3339 writes it, with seconds.
fn utc_time(now: SystemTime) -> String {
    let seconds = now.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
    let (days, second) = (seconds / 86_400, seconds % 86_400);
    let (year, month, day) = civil_date(days);
    let (hour, minute, second) = (second / 3600, second / 60 % 60, second % 60);
    format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}Z")
}

/// The date of a day counted from 1970-01-01. Years are taken to begin in March, so that the leap
/// day is the last of its year; 400 of them always have 146,097 days.
fn civil_date(days: u64) -> (u64, u64, u64) {
    let shifted = days + 719_468;
    let (era, day_of_era) = (shifted / 146_097, shifted % 146_097);
    let year_of_era =
        (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted_month = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * shifted_month + 2) / 5 + 1;
    let month = if shifted_month < 10 {
        shifted_month + 3
    } else {
        shifted_month - 9
    };
    let year = era * 400 + year_of_era + u64::from(month <= 2);
    (year, month, day)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn env(variables: &[(&str, &str)]) -> Environment {
        let mut env = Environment::new();
        for (name, value) in variables {
            env.set(name, value).unwrap();
        }
        env
    }

    #[test]
    fn echo_keeps_every_byte_of_the_text() {
        for text in ["", "hi", "<b> x</b>", "50%", "a?b#c", "%41", "ü\n"] {
            let message = format!("/echo/{text}");
            assert_eq!(
                reply(&Environment::new(), message.as_bytes()).unwrap(),
                text
            );
        }
    }

    #[test]
    fn whoami_names_what_is_known() {
        let env = env(&[
            ("WS_USER_ID", "7"),
            ("REMOTE_ADDR", "::1"),
            ("REMOTE_PORT", "9"),
        ]);
        let reply = reply(&env, b"/whoami").unwrap();
        assert!(
            reply.starts_with("user: 7\naddress: [::1]:9\nprogram: /"),
            "{reply}"
        );
    }

    #[test]
    fn anything_else_is_answered_with_help() {
        assert_eq!(reply(&Environment::new(), b"hello").unwrap(), HELP);
        assert!(reply(&Environment::new(), b"\xff").unwrap().ends_with(HELP));
    }

    #[test]
    fn time_is_of_the_calendar() {
        let at = |seconds| utc_time(UNIX_EPOCH + Duration::from_secs(seconds));
        assert_eq!(at(0), "1970-01-01T00:00:00Z");
        assert_eq!(at(951_782_399), "2000-02-28T23:59:59Z");
        assert_eq!(at(951_782_400), "2000-02-29T00:00:00Z");
        assert_eq!(at(1_795_392_000), "2026-11-23T00:00:00Z");
        assert_eq!(at(4_107_542_400), "2100-03-01T00:00:00Z");
    }
}

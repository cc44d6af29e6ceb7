//! What the server says of itself: `GET /v1/status` on its control socket, and pushes through it.

use std::io::{Read as _, Write as _};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use serde_json::Value;

/// For whoever has no reason to give up earlier.
pub(crate) const PATIENCE: Duration = Duration::from_secs(20);

/// The server's figures at one moment.
#[derive(Clone, Debug)]
pub(crate) struct Status(Value);

impl Status {
    pub(crate) fn get(socket: &Path) -> Result<Self> {
        Ok(Self(request(socket, "GET", "/v1/status", "", PATIENCE)?))
    }

    /// A figure by its path, `connections.closed_by.peer`.
    pub(crate) fn get_u64(&self, path: &str) -> Result<u64> {
        path.split('.')
            .try_fold(&self.0, |value, key| value.get(key))
            .and_then(Value::as_u64)
            .with_context(|| format!("ws status has no figure {path}"))
    }

    /// How much a figure has grown since `before`.
    pub(crate) fn since(&self, before: &Self, path: &str) -> Result<f64> {
        let grown = self.get_u64(path)?.checked_sub(before.get_u64(path)?);
        Ok(grown.with_context(|| format!("{path} has fallen"))? as f64)
    }

    /// What the figures of a server where nothing is under way must satisfy, and do not.
    pub(crate) fn broken_laws(&self) -> Result<Vec<String>> {
        let laws: [(&str, &[&str]); 4] = [
            (
                "sockets.accepted",
                &["connections.opened", "sockets.refused", "sockets.pages"],
            ),
            (
                "connections.opened",
                &["connections.closed", "connections.open"],
            ),
            ("messages.queued", &["messages.sent", "messages.dropped"]),
            (
                "pushes.targets",
                &["pushes.written", "pushes.queued", "pushes.dropped"],
            ),
        ];
        let mut broken = Vec::new();
        for (whole, parts) in laws {
            let sum = parts
                .iter()
                .map(|part| self.get_u64(part))
                .sum::<Result<u64>>()?;
            let whole_value = self.get_u64(whole)?;
            if whole_value != sum {
                let parts = parts.join(" + ");
                broken.push(format!("{whole} = {whole_value}, but {parts} = {sum}"));
            }
        }
        Ok(broken)
    }
}

/// Sends `text` to everybody; no step of it may take longer than `patience`.
pub(crate) fn broadcast(socket: &Path, text: &str, patience: Duration) -> Result<()> {
    let body = serde_json::json!({ "to": { "all": true }, "text": text });
    request(socket, "POST", "/v1/send", &body.to_string(), patience)?;
    Ok(())
}

fn request(
    socket: &Path,
    method: &str,
    path: &str,
    body: &str,
    patience: Duration,
) -> Result<Value> {
    let mut stream = UnixStream::connect(socket).context("cannot reach the control socket")?;
    stream.set_read_timeout(Some(patience))?;
    stream.set_write_timeout(Some(patience))?;
    let head = format!(
        "{method} {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\
         Content-Type: application/json\r\nContent-Length: {}\r\n\r\n",
        body.len()
    );
    stream.write_all(head.as_bytes())?;
    stream.write_all(body.as_bytes())?;
    let mut answer = String::new();
    stream
        .read_to_string(&mut answer)
        .context("no answer on the control socket")?;
    body_of(&answer)
}

fn body_of(answer: &str) -> Result<Value> {
    let (head, body) = answer.split_once("\r\n\r\n").context("half an answer")?;
    ensure!(
        !head.to_ascii_lowercase().contains("transfer-encoding"),
        "an answer in chunks"
    );
    if !head.starts_with("HTTP/1.1 200 ") {
        bail!("the control socket answers {head:?}: {body}");
    }
    serde_json::from_str(body).context("an answer that is not JSON")
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn status(open: u64) -> Status {
        Status(json!({
            "sockets": { "accepted": 7, "refused": 2, "pages": 1 },
            "connections": { "opened": 4, "closed": 3, "open": open },
            "messages": { "queued": 5, "sent": 4, "dropped": 1 },
            "pushes": { "targets": 3, "written": 1, "queued": 1, "dropped": 1 },
        }))
    }

    #[test]
    fn laws_hold_or_are_named() {
        assert!(status(1).broken_laws().unwrap().is_empty());
        let broken = status(2).broken_laws().unwrap();
        assert_eq!(broken.len(), 1);
        assert!(broken[0].starts_with("connections.opened = 4,"));
    }

    #[test]
    fn figure_is_found_by_its_path() {
        let (before, after) = (status(1), status(4));
        assert_eq!(after.since(&before, "connections.open").unwrap(), 3.0);
        assert!(before.since(&after, "connections.open").is_err());
        assert!(after.get_u64("connections.nonsense").is_err());
    }

    #[test]
    fn only_a_whole_answer_of_200_counts() {
        let body = body_of("HTTP/1.1 200 OK\r\nA: b\r\n\r\n{\"a\":1}").unwrap();
        assert_eq!(body, json!({ "a": 1 }));
        assert!(body_of("HTTP/1.1 200 OK\r\n\r\n{\"a\":").is_err());
        assert!(body_of("HTTP/1.1 503 No\r\n\r\n{}").is_err());
        assert!(body_of("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\n{}").is_err());
    }
}

//! Asks the server, again and again.

use std::time::{Duration, Instant};

use hyper::Method;
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use serde::Deserialize;
use serde_json::Value;

use super::model::Key;
use crate::control::{Ask, CallError, Caller, TIMEOUT};
use crate::failure::Failure;
use crate::figures::Figures;
use crate::verb::ls;

/// Of more connections, those with the smallest ids are looked at.
pub(super) const MAX_CONNECTIONS: usize = 10_000;
/// How much longer than an answer takes it is waited before the next question.
const REST: u32 = 4;

/// What there is at one moment.
#[derive(Clone, Debug, Default)]
pub(super) struct Sample {
    pub(super) figures: Figures,
    pub(super) connections: Vec<Connection>,
    /// Whether there are connections with larger ids than these.
    pub(super) is_partial: bool,
}

impl Sample {
    /// Whether a connection with this id would be in it if it had been there.
    pub(super) fn covers(&self, id: &str) -> bool {
        let last = self.connections.iter().map(|it| it.id.as_str()).max();
        !self.is_partial || last.is_some_and(|last| id <= last)
    }
}

/// A connection, and what went over it.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct Connection {
    pub(super) id: String,
    pub(super) user: String,
    ip: Option<String>,
    port: Option<u16>,
    pub(super) uri: String,
    /// Unix time in seconds.
    pub(super) opened_at: f64,
    pub(super) received: u64,
    pub(super) received_bytes: u64,
    pub(super) sent: u64,
    pub(super) sent_bytes: u64,
    pub(super) waiting_bytes: u64,
}

impl Connection {
    pub(super) fn address(&self) -> String {
        ls::address(self.ip.as_deref(), self.port)
    }
}

pub(super) struct Sampler {
    caller: Caller,
    interval: Duration,
    /// When the last answer was complete, and how long it took.
    last: Option<(Instant, Duration)>,
}

impl Sampler {
    pub(super) fn new(caller: Caller, interval: Duration) -> Self {
        Self {
            caller,
            interval,
            last: None,
        }
    }

    /// The next sample, when it is time for it.
    pub(super) async fn next(&mut self) -> Result<Sample, Failure> {
        if let Some((at, took)) = self.last {
            let rest = self.interval.saturating_sub(took).max(took * REST);
            tokio::time::sleep_until((at + rest).into()).await;
        }
        let begun = Instant::now();
        let sample = self.take().await;
        self.last = Some((Instant::now(), begun.elapsed()));
        sample.map_err(|error| self.caller.failure(error))
    }

    async fn take(&mut self) -> Result<Sample, CallError> {
        let path = format!("/v1/connections?traffic=true&limit={MAX_CONNECTIONS}");
        let mut list = self.caller.get(&path).await?;
        let is_partial = list.get("next").is_some();
        let connections = list.get_mut("connections").map(Value::take);
        let connections = serde_json::from_value(connections.unwrap_or_default())?;
        Ok(Sample {
            figures: Figures::take(&mut self.caller).await?,
            connections,
            is_partial,
        })
    }

    /// Closes a connection, or those of a user; returns how many that were.
    pub(super) async fn kick(&mut self, key: &Key) -> Result<u64, Failure> {
        let kind = match key {
            Key::Connection(_) => "connections",
            Key::User(_) => "users",
        };
        let id = utf8_percent_encode(key.id(), NON_ALPHANUMERIC);
        let path = format!("/v1/{kind}/{id}?code=1008");
        let ask = Ask {
            method: Method::DELETE,
            path: &path,
            body: None,
            key: None,
            patience: TIMEOUT,
        };
        let answer = self.caller.call(&ask).await;
        let answer = answer.map_err(|error| self.caller.failure(error))?;
        crate::control::count(&answer, "connections")
    }
}

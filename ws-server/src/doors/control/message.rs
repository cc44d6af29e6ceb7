//! What a request to send says, and what is sent because of it.

use std::fmt;
use std::time::Duration;

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use serde::Deserialize;
use serde::de::{Deserializer, Error, Visitor};
use sha2::{Digest, Sha256};
use ws_proto::{EncodedMessage, MessageKind};
use ws_session::Target;

use super::body::To;
use super::error::ApiError;
use crate::config::{Config, parse_duration};
use crate::core::ledger::Ledger;
use crate::core::repeats::{MAX_KEY_SIZE, is_key};

/// How long `"wait": true` waits.
const USUAL_WAIT: Duration = Duration::from_secs(30);
/// The longest wait that may be asked for.
const LONGEST_WAIT: Duration = Duration::from_secs(600);

/// One message and whom it is for, as it is asked for.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct SendRequest {
    to: To,
    text: Option<String>,
    base64: Option<String>,
    #[serde(default)]
    wait: Wait,
    key: Option<String>,
}

/// For how long the receipt waits until nothing is queued any more.
#[derive(Clone, Copy, Debug, Default)]
struct Wait(Option<Duration>);

impl<'de> Deserialize<'de> for Wait {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(WaitVisitor)
    }
}

struct WaitVisitor;

impl Visitor<'_> for WaitVisitor {
    type Value = Wait;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("true, false, or a duration of at most 10m like \"5s\"")
    }

    fn visit_bool<E>(self, waits: bool) -> Result<Wait, E> {
        Ok(Wait(waits.then_some(USUAL_WAIT)))
    }

    fn visit_str<E: Error>(self, text: &str) -> Result<Wait, E> {
        let wait = parse_duration(text).filter(|wait| *wait <= LONGEST_WAIT);
        let unexpected = || E::invalid_value(serde::de::Unexpected::Str(text), &self);
        Ok(Wait(Some(wait.ok_or_else(unexpected)?)))
    }
}

/// One message and whom it is for, checked.
#[derive(Debug)]
pub(super) struct Push {
    pub(super) target: Target,
    kind: MessageKind,
    payload: Vec<u8>,
    pub(super) wait: Option<Duration>,
    pub(super) key: Option<String>,
}

impl SendRequest {
    pub(super) fn check(self, config: &Config) -> Result<Push, ApiError> {
        let target = self
            .to
            .target_of_at_most(config.control().max_targets.get())?;
        let (kind, payload) = match (self.text, self.base64) {
            (Some(text), None) => (MessageKind::Text, text.into_bytes()),
            (None, Some(base64)) => {
                let payload = BASE64_STANDARD.decode(base64);
                let payload = payload.map_err(|error| ApiError::bad(format!("base64: {error}")))?;
                (MessageKind::Binary, payload)
            }
            _ => return Err(ApiError::bad("exactly one of text and base64")),
        };
        let max = config.limits().max_message_size;
        if payload.len() > max {
            let what = format!("the message has {} bytes", payload.len());
            return Err(ApiError::too_large(what, "limits.max_message_size", max));
        }
        if self.key.as_deref().is_some_and(|key| !is_key(key)) {
            let text = format!("key: 1 to {MAX_KEY_SIZE} printable characters of ASCII");
            return Err(ApiError::bad(text));
        }
        Ok(Push {
            target,
            kind,
            payload,
            wait: self.wait.0,
            key: self.key,
        })
    }
}

impl Push {
    /// Makes the frames. What was made counts as waiting from here on, unless it is being handed
    /// out, so this is done at the last moment.
    pub(super) fn encode(&self, ledger: &std::sync::Arc<Ledger>) -> EncodedMessage {
        ledger.message(self.kind, &self.payload)
    }

    /// Adds what tells this push from another. How long somebody waits does not.
    pub(super) fn identify(&self, hash: &mut Sha256) {
        let head = format!("{:?} {:?} {}\n", self.target, self.kind, self.payload.len());
        hash.update(head);
        hash.update(&self.payload);
    }
}

//! Keys that requests come with so that they can be repeated safely.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use axum::http::{HeaderMap, StatusCode};
use sha2::{Digest, Sha256};

use super::error::ApiError;
use super::message::Push;
use crate::command::Receipt;
use crate::config::ControlConfig;
use crate::core::repeats::{Claimed, MAX_KEY_SIZE, Repeats, key_of_header};

/// The receipts of requests with a key, shared by the doors: whoever repeats a request may come by
/// another one.
#[derive(Clone, Debug)]
pub(super) struct Keys {
    repeats: Arc<Mutex<Repeats<Receipts>>>,
    capacity: usize,
}

/// The receipts of one request.
pub(super) type Receipts = Arc<[Receipt]>;

/// What a key came to, short of an error.
pub(super) enum Outcome {
    /// The request was carried out before.
    Known(Receipts),
    /// It is to be carried out now.
    Ours(Claim),
}

/// A key whose request is being carried out. Dropped without [`finish`](Self::finish), the next
/// request with it is the first.
#[derive(Debug)]
pub(super) struct Claim {
    keys: Keys,
    key: String,
    is_finished: bool,
}

impl Keys {
    pub(super) fn new(config: &ControlConfig) -> Self {
        let capacity = config.idempotency_receipts.get();
        let repeats = Repeats::new(config.idempotency_ttl, capacity);
        Self {
            repeats: Arc::new(Mutex::new(repeats)),
            capacity,
        }
    }

    /// How many are known.
    pub(super) fn len(&self) -> usize {
        self.lock().len()
    }

    /// Asks for a key on behalf of these pushes.
    ///
    /// # Errors
    ///
    /// 409 if the first request with it is being carried out, 422 if that was another one, 503 if too
    /// many are being carried out.
    pub(super) fn claim(&self, key: &str, pushes: &[Push]) -> Result<Outcome, ApiError> {
        let mut hash = Sha256::new();
        pushes.iter().for_each(|push| push.identify(&mut hash));
        // So many receipts will be kept for it.
        let weight = pushes.len().max(1);
        let fingerprint = hash.finalize().into();
        let claimed = self.lock().claim(key, fingerprint, weight, Instant::now());
        match claimed {
            Claimed::Now => Ok(Outcome::Ours(Claim {
                keys: self.clone(),
                key: key.to_owned(),
                is_finished: false,
            })),
            Claimed::Answered(receipts) => Ok(Outcome::Known(receipts)),
            Claimed::InProgress => Err(ApiError::new(
                StatusCode::CONFLICT,
                "key: the request with this key is being carried out",
            )),
            Claimed::Different => Err(ApiError::new(
                StatusCode::UNPROCESSABLE_ENTITY,
                "key: another request had this key",
            )),
            Claimed::Full => {
                let capacity = self.capacity;
                let text = format!(
                    "key: control.idempotency_receipts is {capacity}, and so many messages with a key are under way"
                );
                Err(ApiError::new(StatusCode::SERVICE_UNAVAILABLE, text))
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, Repeats<Receipts>> {
        // It is consistent between its calls, so a panic elsewhere does not spoil it.
        self.repeats.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Claim {
    /// Keeps the receipts for whoever comes with the key again.
    pub(super) fn finish(mut self, receipts: &Receipts) {
        self.is_finished = true;
        let answer = Arc::clone(receipts);
        self.keys.lock().finish(&self.key, answer, Instant::now());
    }
}

impl Drop for Claim {
    fn drop(&mut self) {
        if !self.is_finished {
            self.keys.lock().give_up(&self.key);
        }
    }
}

/// The key in the headers of a request.
pub(super) fn of_headers(headers: &HeaderMap) -> Result<Option<String>, ApiError> {
    let mut values = headers.get_all("idempotency-key").iter();
    let Some(value) = values.next() else {
        return Ok(None);
    };
    let key = key_of_header(value.as_bytes()).filter(|_| values.next().is_none());
    let text = format!("Idempotency-Key: one of 1 to {MAX_KEY_SIZE} printable characters of ASCII");
    key.map(Some).ok_or_else(|| ApiError::bad(text))
}

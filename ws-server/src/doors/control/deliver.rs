//! The way of pushes to the hub, and of their receipts back.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;

use tokio::time::{Instant, timeout_at};

use super::Api;
use super::error::ApiError;
use super::keys::{Claim, Outcome, Receipts};
use super::message::Push;
use crate::command::{Fate, Receipt};
use crate::counters::DropReason;
use crate::hub::{Fates, Pushing, Stopped};
use crate::shared::Shared;

/// Pushes of one request that are under way at once.
const MAX_AT_ONCE: usize = 64;

/// Sends messages in their order, each unless its key, or that of all of them, says that it was sent
/// before. Nothing is sent if there is an error.
pub(super) async fn deliver(
    api: &Api,
    pushes: Vec<Push>,
    key: Option<String>,
) -> Result<Receipts, ApiError> {
    let has_keys = pushes.iter().any(|push| push.key.is_some());
    match key {
        Some(_) if has_keys => Err(ApiError::bad(
            "key: there is an Idempotency-Key for the whole request",
        )),
        Some(key) => match api.keys.claim(&key, &pushes)? {
            Outcome::Known(receipts) => Ok(receipts),
            Outcome::Ours(claim) => to_the_end(api, pushes, Claims::OfAll(claim)).await,
        },
        None if has_keys => deliver_keyed(api, pushes).await,
        None => push_all(&api.server, pushes)
            .await
            .map_err(|Stopped| ApiError::stopped()),
    }
}

/// The same, where some have keys of their own.
async fn deliver_keyed(api: &Api, pushes: Vec<Push>) -> Result<Receipts, ApiError> {
    let is_batch = pushes.len() > 1;
    let at = |index: usize, error: ApiError| match is_batch {
        true => error.at(format_args!("[{index}]")),
        false => error,
    };
    let mut seen = HashMap::new();
    let mut known = HashMap::new();
    let mut claims = Vec::new();
    for (index, push) in pushes.iter().enumerate() {
        let Some(key) = push.key.as_deref() else {
            continue;
        };
        if let Some(first) = seen.insert(key, index) {
            let text = format!("key: the same as that of [{first}]");
            return Err(at(index, ApiError::bad(text)));
        }
        let claimed = api.keys.claim(key, std::slice::from_ref(push));
        match claimed.map_err(|error| at(index, error))? {
            Outcome::Known(receipts) => {
                known.insert(index, receipts.first().copied().unwrap_or_default());
            }
            Outcome::Ours(claim) => claims.push((index - known.len(), claim)),
        }
    }
    let count = pushes.len();
    let left = pushes.into_iter().enumerate();
    let left = left.filter(|(index, _)| !known.contains_key(index));
    let left: Vec<Push> = left.map(|(_, push)| push).collect();
    let sent = to_the_end(api, left, Claims::OfEach(claims)).await?;
    let mut sent = sent.iter().copied();
    let receipts = (0..count).map(|index| {
        let receipt = known.get(&index).copied().or_else(|| sent.next());
        receipt.unwrap_or_default()
    });
    Ok(receipts.collect())
}

/// Who waits for receipts.
enum Claims {
    OfAll(Claim),
    /// With the index of its push.
    OfEach(Vec<(usize, Claim)>),
}

/// Sends messages whether or not whoever asked stays for the answer: it may come again for it.
async fn to_the_end(api: &Api, pushes: Vec<Push>, claims: Claims) -> Result<Receipts, ApiError> {
    let server = Arc::clone(&api.server);
    let task = tokio::spawn(async move {
        let receipts = push_all(&server, pushes).await?;
        match claims {
            Claims::OfAll(claim) => claim.finish(&receipts),
            Claims::OfEach(claims) => {
                for (index, claim) in claims {
                    claim.finish(&Receipts::from([receipts[index]]));
                }
            }
        }
        Ok(receipts)
    });
    match task.await {
        Ok(Ok(receipts)) => Ok(receipts),
        Ok(Err(Stopped)) | Err(_) => Err(ApiError::stopped()),
    }
}

/// Sends messages in their order, several of them under way at once. Each is forgotten as soon as the
/// hub has it: to wait for what becomes of it can take minutes.
async fn push_all(server: &Shared, pushes: Vec<Push>) -> Result<Receipts, Stopped> {
    let hub = &server.hub;
    let begun = Instant::now();
    let mut under_way: VecDeque<Pushing<'_>> = VecDeque::new();
    let waits: Vec<_> = pushes.iter().map(|push| push.wait).collect();
    let mut handed_over: Vec<(Receipt, Option<Fates>)> = Vec::with_capacity(pushes.len());
    for push in pushes {
        let message = push.encode(&hub.counters.ledger);
        let pushing = loop {
            let waits = push.wait.is_some();
            if under_way.len() < MAX_AT_ONCE
                && let Some(pushing) = hub.try_begin_push(&push.target, &message, waits)?
            {
                break pushing;
            }
            // Whoever waits for others to end while others wait for its own would wait for ever.
            match under_way.pop_front() {
                Some(oldest) => handed_over.push(oldest.handed_over().await?),
                None => hub.may_push().await?,
            }
        };
        under_way.push_back(pushing);
    }
    for pushing in under_way {
        handed_over.push(pushing.handed_over().await?);
    }
    let mut receipts = Vec::with_capacity(waits.len());
    for ((mut receipt, fates), wait) in handed_over.into_iter().zip(waits) {
        if let (Some(mut fates), Some(wait)) = (fates, wait) {
            settle(&mut receipt, &mut fates, begun + wait).await;
        }
        receipts.push(receipt);
    }
    Ok(receipts.into())
}

/// Waits until nothing is queued any more, or until the time is over.
async fn settle(receipt: &mut Receipt, fates: &mut Fates, deadline: Instant) {
    while receipt.queued > 0 {
        match timeout_at(deadline, fates.recv()).await {
            Ok(Some(fate)) => receipt.settle(fate),
            // A connection that a fault of ours ended took no leave of its messages.
            Ok(None) => receipt.settle(Fate::Dropped(DropReason::Ended)),
            Err(_) => return,
        }
    }
}

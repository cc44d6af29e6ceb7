//! `ws send --lines`: each line of stdin is a message.
//!
//! What has come while the server was answering goes to it in one request, so that a trickle is
//! passed on line by line and a flood in batches; as long as the server does not answer, nothing more
//! than a few lines is read.

use std::io::{self, BufRead, BufReader, IsTerminal, stderr};
use std::thread;
use std::time::Duration;

use anyhow::{Context, anyhow};
use hyper::{Method, StatusCode};
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use serde_json::{Map, Value, json};
use tokio::sync::mpsc;

use super::{body, reached};
use crate::args::SendArgs;
use crate::control::{self, Ask, CallError, Caller};
use crate::failure::{Code, Failure};
use crate::output;

/// Lines in one request. Their servers take more, unless told otherwise.
const MAX_BATCH: usize = 256;
/// Bytes of lines in one request, but for the last of them.
const MAX_BATCH_SIZE: usize = 256 * 1024;
/// Lines that are read before they are asked for.
const LINES_AHEAD: usize = MAX_BATCH;

pub(super) fn run(args: &SendArgs) -> Result<(), Failure> {
    let caller = Caller::new(&args.client)?;
    let mut key = [0; 16];
    getrandom::fill(&mut key).map_err(|error| anyhow!("no random bytes: {error}"))?;
    let mut sending = Sending {
        args,
        caller,
        key: format!("{:032x}", u128::from_ne_bytes(key)),
        requests: 0,
        totals: Totals::default(),
        progress: progress(),
    };
    let runtime = control::runtime()?;
    let sent = runtime.block_on(sending.send_all());
    sending.progress.finish_and_clear();
    // Whoever reads stdin is left behind: it may wait for a line that never comes.
    runtime.shutdown_background();
    let totals = &sending.totals;
    if args.client.json {
        output::json(&totals.to_json())
    } else {
        output::line(reached(&totals.to_json())?)
    }?;
    sent?;
    if totals.messages > 0 && reached(&totals.to_json())? == 0 {
        return Err(Failure::new(Code::TryLater, "nobody was reached"));
    }
    Ok(())
}

/// The way of the lines to the server.
struct Sending<'a> {
    args: &'a SendArgs,
    caller: Caller,
    /// What the keys of the requests begin with: one whose answer is lost is repeated safely.
    key: String,
    requests: u64,
    totals: Totals,
    progress: ProgressBar,
}

impl Sending<'_> {
    /// Sends lines until there are no more, or until it is interrupted.
    async fn send_all(&mut self) -> Result<(), Failure> {
        let mut lines = read_lines();
        let interrupted = tokio::signal::ctrl_c();
        tokio::pin!(interrupted);
        loop {
            let first = tokio::select! {
                biased;
                // The handler cannot be set: then the signal ends us at once.
                Ok(()) = &mut interrupted => return Ok(()),
                line = lines.recv() => line,
            };
            let Some(first) = first else {
                return Ok(());
            };
            let mut batch = vec![first?];
            let mut size = batch[0].len();
            let mut broken = None;
            while batch.len() < MAX_BATCH && size < MAX_BATCH_SIZE {
                match lines.try_recv() {
                    Ok(Ok(line)) => {
                        size += line.len();
                        batch.push(line);
                    }
                    Ok(Err(error)) => {
                        broken = Some(error);
                        break;
                    }
                    Err(_) => break,
                }
            }
            self.send(batch).await?;
            self.progress
                .set_message(format!("{} lines sent", self.totals.messages));
            if let Some(error) = broken {
                return Err(error.into());
            }
        }
    }

    /// Sends some lines, in fewer at a time if the server takes no more.
    async fn send(&mut self, lines: Vec<Vec<u8>>) -> Result<(), Failure> {
        let mut messages = Vec::with_capacity(lines.len());
        for (number, line) in (self.totals.messages + 1..).zip(lines) {
            let message = body(self.args, line);
            messages.push(message.map_err(|failure| failure.context(format!("line {number}")))?);
        }
        let mut left: Vec<Vec<Value>> = vec![messages];
        while let Some(batch) = left.pop() {
            match self.send_batch(&batch).await {
                Ok(receipts) => self.totals.add(&batch, &receipts)?,
                Err(CallError::Refused { status, .. })
                    if status == StatusCode::PAYLOAD_TOO_LARGE && batch.len() > 1 =>
                {
                    let mut first = batch;
                    let second = first.split_off(first.len() / 2);
                    left.extend([second, first]);
                }
                Err(error) => {
                    let number = self.totals.messages + 1;
                    let failure = self.caller.failure(error);
                    return Err(failure.context(format!("line {number}")));
                }
            }
        }
        Ok(())
    }

    /// Makes one request, again if it may be: when the connection broke it is not known whether it
    /// was carried out, and the key has the server find out.
    async fn send_batch(&mut self, batch: &[Value]) -> Result<Value, CallError> {
        self.requests += 1;
        let key = format!("{}-{}", self.key, self.requests);
        let body = Value::from(batch);
        let ask = Ask {
            method: Method::POST,
            path: "/v1/send",
            body: Some(&body),
            key: Some(&key),
            patience: control::TIMEOUT + self.args.wait.unwrap_or_default(),
        };
        let mut has_broken = false;
        loop {
            match self.caller.call(&ask).await {
                Err(CallError::Refused {
                    status: StatusCode::TOO_MANY_REQUESTS,
                    retry_after: Some(pause),
                    ..
                }) => tokio::time::sleep(pause.min(Duration::from_secs(60))).await,
                Err(CallError::Broken(_)) if !has_broken => has_broken = true,
                other => return other,
            }
        }
    }
}

/// What became of all lines.
#[derive(Debug, Default)]
struct Totals {
    messages: u64,
    counts: Map<String, Value>,
    dropped_by: Map<String, Value>,
}

impl Totals {
    fn add(&mut self, batch: &[Value], receipts: &Value) -> Result<(), Failure> {
        let receipts = receipts.as_array().filter(|all| all.len() == batch.len());
        let receipts = receipts.context("the server's answer has not a receipt for each line")?;
        for receipt in receipts {
            self.messages += 1;
            for name in ["connections", "written", "queued", "dropped"] {
                add(&mut self.counts, name, control::count(receipt, name)?);
            }
            let reasons = receipt.get("dropped_by").and_then(Value::as_object);
            for (reason, count) in reasons.into_iter().flatten() {
                add(&mut self.dropped_by, reason, count.as_u64().unwrap_or(0));
            }
        }
        Ok(())
    }

    fn to_json(&self) -> Value {
        let mut all = json!({ "messages": self.messages, "connections": 0, "written": 0, "queued": 0, "dropped": 0 });
        for (name, count) in &self.counts {
            all[name] = count.clone();
        }
        if !self.dropped_by.is_empty() {
            all["dropped_by"] = self.dropped_by.clone().into();
        }
        all
    }
}

fn add(counts: &mut Map<String, Value>, name: &str, count: u64) {
    let sum = counts.get(name).and_then(Value::as_u64).unwrap_or(0);
    counts.insert(name.to_owned(), sum.saturating_add(count).into());
}

/// The lines of stdin, without their newlines.
fn read_lines() -> mpsc::Receiver<io::Result<Vec<u8>>> {
    let (lines, read) = mpsc::channel(LINES_AHEAD);
    thread::spawn(move || {
        let mut stdin = BufReader::new(io::stdin());
        loop {
            let mut line = Vec::new();
            let next = match stdin.read_until(b'\n', &mut line) {
                Ok(0) => return,
                Ok(_) => Ok(line.strip_suffix(b"\n").unwrap_or(&line).to_vec()),
                Err(error) => Err(error),
            };
            let is_last = next.is_err();
            if lines.blocking_send(next).is_err() || is_last {
                return;
            }
        }
    });
    read
}

/// What a terminal shows; nothing where stderr is none.
fn progress() -> ProgressBar {
    if !stderr().is_terminal() {
        return ProgressBar::hidden();
    }
    let bar = ProgressBar::with_draw_target(None, ProgressDrawTarget::stderr());
    let style = ProgressStyle::with_template("{msg} ({elapsed})");
    bar.with_style(style.expect("the template is well formed"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn totals_are_the_sums_of_the_receipts() {
        let mut totals = Totals::default();
        let batch = [json!(1), json!(2)];
        let receipts = json!([
            { "connections": 3, "written": 2, "queued": 1, "dropped": 0 },
            { "connections": 3, "written": 1, "queued": 0, "dropped": 2, "dropped_by": { "slow": 2 } },
        ]);
        totals.add(&batch, &receipts).unwrap();
        totals.add(&batch, &receipts).unwrap();
        let expected = json!({
            "messages": 4, "connections": 12, "written": 6, "queued": 2, "dropped": 4,
            "dropped_by": { "slow": 4 },
        });
        assert_eq!(totals.to_json(), expected);
        assert!(totals.add(&batch, &json!([])).is_err());
        assert_eq!(reached(&Totals::default().to_json()).unwrap(), 0);
    }
}

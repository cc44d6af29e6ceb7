//! One process of a pool: what is asked of it, and what became of that.

use std::collections::VecDeque;
use std::future::poll_fn;
use std::num::NonZeroU64;
use std::pin::pin;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::task::Poll;
use std::time::{Duration, Instant};

use bytes::Bytes;
use tokio::time::{sleep, timeout};

use super::{PoolConfig, PoolKind, Recycling, lock};
use crate::cgi::parse_answer;
use crate::service::{Ahead, call_over};
use crate::{Environment, Failure, Service};

/// How long a fork server is left alone when a child has got a request. It forks when somebody
/// connects, and the child that answers would have to share the processor with that; a request that
/// takes longer does not keep the next one waiting for it.
const AHEAD_DELAY: Duration = Duration::from_millis(1);

/// The longest time between two looks whether a process has loaded. Nothing tells when a connection
/// to a Unix socket is accepted.
const LOAD_LOOK_EVERY: Duration = Duration::from_millis(20);

/// One process, or its restarts, until it is replaced.
#[derive(Debug)]
pub(super) struct Life {
    /// Connections without a request, the oldest first. Closed before the service ends, as fields
    /// are dropped in this order.
    pub(super) ahead: Mutex<VecDeque<Ahead>>,
    /// How many of these there are to be.
    ahead_count: usize,
    kind: PoolKind,
    pub(super) service: Service,
    since: Instant,
    pub(super) served: AtomicU64,
    pub(super) in_hand: AtomicUsize,
    pub(super) record: Arc<Record>,
    /// Whether a successor is being made.
    pub(super) is_retired: AtomicBool,
}

/// What became of the requests at one place since its processes were last reloaded. Whoever is
/// recycled leaves it to the successor.
#[derive(Debug, Default)]
pub(super) struct Record {
    pub(super) has_answered: AtomicBool,
    /// Requests that failed before one was answered.
    pub(super) failed: AtomicU64,
}

impl Life {
    pub(super) fn new(service: Service, config: &PoolConfig, record: Arc<Record>) -> Self {
        let ahead_count = match config.kind {
            PoolKind::ForkServers => config.ahead,
            PoolKind::Workers => config.ahead.min(1),
        };
        Self {
            ahead: Mutex::new(VecDeque::with_capacity(ahead_count)),
            ahead_count,
            kind: config.kind,
            service,
            since: Instant::now(),
            served: AtomicU64::new(0),
            in_hand: AtomicUsize::new(0),
            record,
            is_retired: AtomicBool::new(false),
        }
    }

    pub(super) async fn ask(
        self: &Arc<Self>,
        env: &Environment,
        payload: &Bytes,
        max_output: usize,
    ) -> Result<Vec<u8>, Failure> {
        let _in_hand = InHand::of(self);
        let ahead = self.take_ahead();
        let answer = {
            let service = &self.service;
            let mut call = pin!(call_over(service, ahead.as_ref(), env, payload, max_output));
            // The request is on its way before the next connection is made.
            let mut answer = poll_fn(|cx| Poll::Ready(call.as_mut().poll(cx))).await;
            if answer.is_pending() && self.kind == PoolKind::ForkServers {
                let soon = timeout(AHEAD_DELAY, call.as_mut()).await;
                answer = soon.map_or(Poll::Pending, Poll::Ready);
            }
            match answer {
                Poll::Ready(answer) => answer,
                Poll::Pending => {
                    self.connect_ahead();
                    return call.await;
                }
            }
        };
        // Who waits for the answer has it first. The connection is closed behind the next one, so
        // that the process on the other side need not wake up for each.
        let life = Arc::clone(self);
        tokio::spawn(async move {
            life.connect_ahead();
            drop(ahead);
        });
        answer
    }

    /// The connection that waits longest and is still of use.
    fn take_ahead(&self) -> Option<Ahead> {
        let mut ahead = lock(&self.ahead);
        std::iter::from_fn(|| ahead.pop_front()).find(|ahead| self.service.has_open(ahead))
    }

    /// Takes note of what became of a request.
    pub(super) fn note(&self, answer: &Result<Vec<u8>, Failure>) {
        if self.record.has_answered.load(Ordering::Relaxed) {
            return;
        }
        let is_good = match answer {
            Ok(answer) => parse_answer(answer).is_ok_and(|answer| answer.status() < 500),
            Err(Failure::CannotStart { .. } | Failure::Cancelled) => return,
            Err(_) => false,
        };
        if is_good {
            self.record.has_answered.store(true, Ordering::Relaxed);
        } else {
            self.record.failed.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Waits until the program accepts; says why it will not.
    pub(super) async fn is_loaded(&self) -> Result<(), &'static str> {
        let mut pause = Duration::from_millis(1);
        loop {
            // One only: there are programs that accept the next when they have read a request.
            let is_connected = self.is_connected_ahead();
            if self.service.ends() > 0 {
                return Err("its successor ended before it accepted a connection");
            }
            if is_connected && self.service.has_accepted_all() {
                return Ok(());
            }
            sleep(pause).await;
            pause = (pause * 2).min(LOAD_LOOK_EVERY);
        }
    }

    /// Whether there is a connection ahead; makes one if there is none, though none be wanted.
    fn is_connected_ahead(&self) -> bool {
        let mut ahead = lock(&self.ahead);
        if ahead.is_empty() {
            ahead.extend(self.service.connect_ahead());
        }
        !ahead.is_empty()
    }

    /// Makes the connections that are missing, as far as that is possible at once.
    pub(super) fn connect_ahead(&self) {
        let mut ahead = lock(&self.ahead);
        while ahead.len() < self.ahead_count
            && let Some(connection) = self.service.connect_ahead()
        {
            ahead.push_back(connection);
        }
    }

    /// Whether a fresh process is to take over, now that a request more has been served.
    pub(super) fn is_due(&self, recycling: &Recycling) -> bool {
        let served = self.served.fetch_add(1, Ordering::Relaxed) + 1;
        let has_served = |max: NonZeroU64| served >= max.get();
        let has_grown = |max: u64| {
            let pid = self.service.pid();
            pid.and_then(resident_memory)
                .is_some_and(|bytes| bytes > max)
        };
        recycling.max_requests.is_some_and(has_served)
            || (recycling.max_age).is_some_and(|max| self.since.elapsed() >= max)
            || recycling.max_memory.is_some_and(has_grown)
    }
}

/// A request in the hands of a process.
struct InHand<'a>(&'a AtomicUsize);

impl<'a> InHand<'a> {
    fn of(life: &'a Life) -> Self {
        life.in_hand.fetch_add(1, Ordering::Relaxed);
        Self(&life.in_hand)
    }
}

impl Drop for InHand<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// The resident memory of a process, in bytes; see `proc_pid_statm(5)`.
fn resident_memory(pid: i32) -> Option<u64> {
    let statm = std::fs::read_to_string(format!("/proc/{pid}/statm")).ok()?;
    let pages: u64 = statm.split(' ').nth(1)?.parse().ok()?;
    Some(pages * rustix::param::page_size() as u64)
}

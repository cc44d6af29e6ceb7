//! Who listens to who comes and goes.
//!
//! Changes are noted under the registry's lock, in its order, and only while somebody listens or
//! has listened a moment ago: whoever lost the connection comes back and goes on where it was. All
//! listeners read from the one queue of [`Changes`], each at its own pace, so none of them holds up
//! a worker or takes memory of its own.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

use slab::Slab;
use tokio::sync::Notify;

use crate::core::changes::{Change, Changes, Missed};
use crate::counters::Counter;

/// Changes that are remembered: a crowd of 9,000 may lose its connections and come back before a
/// listener must have heard of the first.
const MAX_CHANGES: usize = 20_000;
/// How long changes are remembered for listeners of whom there is none.
const MEMORY: Duration = Duration::from_secs(60);
/// Changes that a listener is told at a time.
const MAX_AT_ONCE: usize = 64;

#[derive(Debug, Default)]
pub(crate) struct Presence {
    /// Whether changes are noted. It changes under the registry's lock.
    is_noted: AtomicBool,
    state: Mutex<State>,
    listeners: AtomicUsize,
    /// How often a listener was too slow.
    pub(crate) lagged: Counter,
    /// Tells when the last listener has left.
    alone: Notify,
}

#[derive(Debug, Default)]
struct State {
    /// `None` while nothing is noted.
    changes: Option<Changes>,
    /// Of those that listen and have heard everything.
    wakers: Slab<Option<Waker>>,
    /// When the last listener left.
    left_at: Option<Instant>,
    has_ended: bool,
}

impl State {
    fn take_waiting(&mut self) -> Vec<Waker> {
        let waiting = self.wakers.iter_mut();
        waiting.filter_map(|(_, waker)| waker.take()).collect()
    }
}

/// As many listen as may.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct TooMany;

impl Presence {
    /// Whether changes are to be [`note`](Self::note)d: nothing need be made ready otherwise.
    pub(crate) fn is_noted(&self) -> bool {
        self.is_noted.load(Ordering::Relaxed)
    }

    pub(crate) fn listeners(&self) -> usize {
        self.listeners.load(Ordering::Relaxed)
    }

    /// Notes a change; under the registry's lock.
    pub(crate) fn note(&self, change: Change) {
        let mut state = self.state();
        let is_over = |at: Instant| at.elapsed() > MEMORY;
        if state.wakers.is_empty() && state.left_at.is_none_or(is_over) {
            state.changes = None;
            self.is_noted.store(false, Ordering::Relaxed);
            return;
        }
        if let Some(changes) = &mut state.changes {
            changes.push(change);
        }
        let waiting = state.take_waiting();
        drop(state);
        waiting.into_iter().for_each(Waker::wake);
    }

    /// Listens from now on, or from behind the change that was heard of `last`; under the registry's
    /// lock, where `next` is the generation of the next change.
    ///
    /// # Errors
    ///
    /// [`TooMany`] if `max` do already.
    pub(crate) fn listen(
        self: &Arc<Self>,
        next: u64,
        last: Option<u64>,
        max: usize,
    ) -> Result<Listener, TooMany> {
        let mut state = self.state();
        if state.wakers.len() >= max {
            return Err(TooMany);
        }
        let changes = state
            .changes
            .get_or_insert_with(|| Changes::new(MAX_CHANGES, next));
        let oldest = changes.oldest();
        let wanted = last.map(|last| last.saturating_add(1));
        let from = wanted.filter(|wanted| (oldest..=next).contains(wanted));
        let key = state.wakers.insert(None);
        self.is_noted.store(true, Ordering::Relaxed);
        self.listeners.store(state.wakers.len(), Ordering::Relaxed);
        drop(state);
        Ok(Listener {
            presence: Arc::clone(self),
            key,
            next: from.unwrap_or(next),
            has_lost: wanted.is_some() && from.is_none(),
        })
    }

    /// Ends the streams of all listeners behind what has changed, and waits until they have heard
    /// it.
    pub(crate) async fn end(&self) {
        let waiting = {
            let mut state = self.state();
            state.has_ended = true;
            state.take_waiting()
        };
        waiting.into_iter().for_each(Waker::wake);
        while self.listeners() > 0 {
            self.alone.notified().await;
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // Each change of it is one step, so a panic elsewhere does not spoil it.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What a listener hears.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Heard {
    Changes(Vec<Arc<Change>>),
    /// It was too slow for so many.
    Missed(u64),
}

/// One who hears of every change.
#[derive(Debug)]
pub(crate) struct Listener {
    presence: Arc<Presence>,
    key: usize,
    /// The generation of the change that it hears of next.
    next: u64,
    has_lost: bool,
}

impl Listener {
    /// The generation behind the last change that it has heard of.
    pub(crate) fn next_generation(&self) -> u64 {
        self.next
    }

    /// Whether changes between the one that it had heard of last and now are forgotten.
    pub(crate) fn has_lost(&self) -> bool {
        self.has_lost
    }

    /// What it hears next; `None` when there is nothing more.
    pub(crate) fn poll_next(&mut self, cx: &mut Context<'_>) -> Poll<Option<Heard>> {
        let mut state = self.presence.state();
        let Some(changes) = &state.changes else {
            return Poll::Ready(None);
        };
        match changes.from(self.next, MAX_AT_ONCE) {
            Err(Missed(count)) => {
                self.next = changes.oldest();
                self.presence.lagged.increment();
                Poll::Ready(Some(Heard::Missed(count)))
            }
            Ok(changes) if !changes.is_empty() => {
                self.next += changes.len() as u64;
                Poll::Ready(Some(Heard::Changes(changes)))
            }
            Ok(_) if state.has_ended => Poll::Ready(None),
            Ok(_) => {
                state.wakers[self.key] = Some(cx.waker().clone());
                Poll::Pending
            }
        }
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        let mut state = self.presence.state();
        state.wakers.remove(self.key);
        self.presence
            .listeners
            .store(state.wakers.len(), Ordering::Relaxed);
        if state.wakers.is_empty() {
            state.left_at = Some(Instant::now());
            self.presence.alone.notify_one();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::task::Waker;

    use super::*;
    use crate::core::changes::change;

    fn hear(listener: &mut Listener) -> Poll<Option<Heard>> {
        listener.poll_next(&mut Context::from_waker(Waker::noop()))
    }

    fn generations(heard: Poll<Option<Heard>>) -> Vec<u64> {
        match heard {
            Poll::Ready(Some(Heard::Changes(changes))) => {
                changes.iter().map(|change| change.generation).collect()
            }
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn nothing_is_noted_before_somebody_listens() {
        let presence = Arc::new(Presence::default());
        assert!(!presence.is_noted());
        let mut listener = presence.listen(7, None, 1).unwrap();
        assert!(presence.is_noted());
        assert!(hear(&mut listener).is_pending());
        presence.note(change(7));
        assert_eq!(generations(hear(&mut listener)), [7]);
    }

    #[test]
    fn more_than_may_are_refused_until_one_leaves() {
        let presence = Arc::new(Presence::default());
        let first = presence.listen(1, None, 1).unwrap();
        assert_eq!(presence.listen(1, None, 1).unwrap_err(), TooMany);
        assert_eq!(presence.listeners(), 1);
        drop(first);
        assert!(presence.listen(1, None, 1).is_ok());
    }

    #[test]
    fn who_comes_back_goes_on_where_it_was() {
        let presence = Arc::new(Presence::default());
        drop(presence.listen(1, None, 9).unwrap());
        (1..5).for_each(|generation| presence.note(change(generation)));
        let mut back = presence.listen(5, Some(2), 9).unwrap();
        assert!(!back.has_lost());
        assert_eq!(generations(hear(&mut back)), [3, 4]);
        // Nothing has happened since.
        assert!(!presence.listen(5, Some(4), 9).unwrap().has_lost());
        // Of another time, of no time yet, and the last that there can be.
        for last in [0, 5, u64::MAX] {
            let lost = presence.listen(5, Some(last), 9).unwrap();
            assert_eq!(lost.has_lost(), last != 0, "{last}");
        }
    }

    #[test]
    fn who_is_too_slow_is_told_how_much_it_missed() {
        let presence = Arc::new(Presence::default());
        let mut slow = presence.listen(0, None, 9).unwrap();
        let count = MAX_CHANGES as u64 + 5;
        (0..count).for_each(|generation| presence.note(change(generation)));
        assert_eq!(hear(&mut slow), Poll::Ready(Some(Heard::Missed(5))));
        assert_eq!(generations(hear(&mut slow))[0], 5);
        assert_eq!(presence.lagged.get(), 1);
    }

    #[tokio::test]
    async fn the_end_comes_behind_what_has_changed() {
        let presence = Arc::new(Presence::default());
        let mut listener = presence.listen(1, None, 9).unwrap();
        presence.note(change(1));
        let mut end = std::pin::pin!(presence.end());
        assert!(
            end.as_mut()
                .poll(&mut Context::from_waker(Waker::noop()))
                .is_pending()
        );
        assert_eq!(generations(hear(&mut listener)), [1]);
        assert_eq!(hear(&mut listener), Poll::Ready(None));
        drop(listener);
        end.await;
    }
}

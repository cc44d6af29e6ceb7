//! Which of a worker's connections have something to do.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Wake, Waker};

/// The connections that were woken and have not had their turn since, in that order.
///
/// One task of the runtime gives all connections of a worker their turns. A task for each takes the
/// runtime 256 bytes, aligned to 128, where a [`Seat`] has 40.
#[derive(Debug, Default)]
pub(crate) struct Rota(Mutex<Waiting>);

#[derive(Debug, Default)]
struct Waiting {
    slots: VecDeque<u32>,
    /// Whom to tell that there is one again; `None` if nobody waits for it. One who was told without
    /// waiting could not yield to others.
    driver: Option<Waker>,
}

impl Rota {
    /// Takes out the one that has waited longest. If there is none, `driver` is woken when there is.
    pub(crate) fn next(&self, driver: &Waker) -> Option<u32> {
        let mut waiting = self.waiting();
        let next = waiting.slots.pop_front();
        if next.is_none() {
            waiting.driver = Some(driver.clone());
        }
        next
    }

    fn add(&self, slot: u32) {
        let mut waiting = self.waiting();
        waiting.slots.push_back(slot);
        if let Some(driver) = waiting.driver.take() {
            driver.wake();
        }
    }

    fn waiting(&self) -> MutexGuard<'_, Waiting> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A connection's place on the rota. As a waker it asks for a turn.
#[derive(Debug)]
pub(crate) struct Seat {
    slot: u32,
    is_waiting: AtomicBool,
    rota: Arc<Rota>,
}

impl Seat {
    pub(crate) fn new(slot: u32, rota: &Arc<Rota>) -> Arc<Self> {
        Arc::new(Self {
            slot,
            is_waiting: AtomicBool::new(false),
            rota: Arc::clone(rota),
        })
    }

    /// Where the worker keeps the connection.
    pub(crate) fn slot(&self) -> u32 {
        self.slot
    }

    /// Says that the turn begins: whatever happens from here on asks for another one.
    pub(crate) fn begin_turn(&self) {
        self.is_waiting.store(false, Ordering::Release);
    }

    /// Asks for a turn, unless one is waited for.
    pub(crate) fn ask(&self) {
        if !self.is_waiting.swap(true, Ordering::AcqRel) {
            self.rota.add(self.slot);
        }
    }
}

impl Wake for Seat {
    fn wake(self: Arc<Self>) {
        self.ask();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        self.ask();
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicUsize;

    use super::*;

    #[derive(Default)]
    struct Count(AtomicUsize);

    impl Wake for Count {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Ordering::Relaxed);
        }
    }

    #[test]
    fn turns_come_in_the_order_in_which_they_were_asked_for_and_once() {
        let rota = Arc::default();
        let [first, second] = [0, 1].map(|slot| Waker::from(Seat::new(slot, &rota)));
        for waker in [&second, &first, &second] {
            waker.wake_by_ref();
        }
        let next = || rota.next(Waker::noop());
        assert_eq!([next(), next(), next()], [Some(1), Some(0), None]);
    }

    #[test]
    fn whoever_is_woken_during_its_turn_gets_another_one() {
        let rota = Arc::default();
        let seat = Seat::new(7, &rota);
        seat.ask();
        assert_eq!(rota.next(Waker::noop()), Some(7));
        seat.ask();
        assert_eq!(
            rota.next(Waker::noop()),
            None,
            "it waits until its turn begins"
        );
        seat.begin_turn();
        seat.ask();
        assert_eq!(rota.next(Waker::noop()), Some(7));
    }

    #[test]
    fn driver_is_woken_once_and_only_if_it_waits() {
        let rota = Arc::default();
        let count = Arc::new(Count::default());
        let driver = Waker::from(Arc::clone(&count));
        let seats = [0, 1].map(|slot| Seat::new(slot, &rota));
        seats[0].ask();
        assert_eq!(rota.next(&driver), Some(0));
        seats[0].begin_turn();
        seats[0].ask();
        assert_eq!(count.0.load(Ordering::Relaxed), 0, "it goes on by itself");
        assert_eq!((rota.next(&driver), rota.next(&driver)), (Some(0), None));
        seats[0].begin_turn();
        seats.iter().for_each(|seat| seat.ask());
        assert_eq!(count.0.load(Ordering::Relaxed), 1);
    }
}

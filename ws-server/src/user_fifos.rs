//! The FIFOs of users: each is there from before the user's first connection is open until the last
//! one has closed.

use std::collections::HashMap;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Waker};

use tokio::sync::Notify;
use ws_ipc::{Fifo, FifoError};
use ws_session::UserId;

/// Those that are there.
///
/// They are made and removed under one lock, which also counts who holds them: a connection that
/// comes while the last one goes finds the FIFO that is there, or makes it anew when that is gone.
#[derive(Debug, Default)]
pub(crate) struct UserFifos {
    held: Mutex<HashMap<UserId, Held>>,
    /// Tells when the last one was removed.
    all_removed: Notify,
}

#[derive(Debug)]
struct Held {
    path: Arc<Path>,
    /// Connections, and handshakes that become some.
    holders: usize,
    /// Wakes the reader.
    waker: Option<Waker>,
}

impl UserFifos {
    /// Holds a user's FIFO; until the hold is dropped, or [`kept`](Hold::keep) and
    /// [`release`](Self::release)d. Who is first makes it, and has to have it read.
    ///
    /// # Errors
    ///
    /// What `make` says.
    pub(crate) fn hold<'a>(
        &'a self,
        user: &UserId,
        make: impl FnOnce() -> Result<Fifo, FifoError>,
    ) -> Result<(Hold<'a>, Option<Fifo>), FifoError> {
        let mut held = self.held();
        let made = match held.get_mut(user) {
            Some(held) => {
                held.holders += 1;
                None
            }
            None => {
                let fifo = make()?;
                let first = Held {
                    path: fifo.shared_path(),
                    holders: 1,
                    waker: None,
                };
                held.insert(user.clone(), first);
                Some(fifo)
            }
        };
        drop(held);
        let hold = Hold {
            fifos: self,
            user: Some(user.clone()),
        };
        Ok((hold, made))
    }

    /// One holds it no more. Does nothing if there is none.
    pub(crate) fn release(&self, user: &UserId) {
        let mut held = self.held();
        let Some(ours) = held.get_mut(user) else {
            return;
        };
        ours.holders = ours.holders.saturating_sub(1);
        if ours.holders == 0
            && let Some(waker) = ours.waker.take()
        {
            drop(held);
            waker.wake();
        }
    }

    /// Where a user's FIFO is.
    pub(crate) fn path(&self, user: &UserId) -> Option<Arc<Path>> {
        Some(Arc::clone(&self.held().get(user)?.path))
    }

    /// Whether nobody holds it. The latest caller is woken when that is so.
    pub(crate) fn is_left(&self, user: &UserId, cx: &Context<'_>) -> bool {
        let mut held = self.held();
        let Some(ours) = held.get_mut(user) else {
            return true;
        };
        match &mut ours.waker {
            Some(waker) => waker.clone_from(cx.waker()),
            None => ours.waker = Some(cx.waker().clone()),
        }
        ours.holders == 0
    }

    /// Ends a user's FIFO by `end`, which drops it, unless somebody holds it again and it is not to
    /// be removed `anyway`: then its reader gets it back.
    pub(crate) fn remove<R>(
        &self,
        user: &UserId,
        anyway: bool,
        reader: R,
        end: impl FnOnce(R),
    ) -> Option<R> {
        let mut held = self.held();
        let is_held = held.get(user).is_some_and(|ours| ours.holders > 0);
        if is_held && !anyway {
            return Some(reader);
        }
        held.remove(user);
        end(reader);
        if held.is_empty() {
            self.all_removed.notify_waiters();
        }
        None
    }

    /// Resolves when there is none.
    pub(crate) async fn removed(&self) {
        loop {
            let mut all_removed = std::pin::pin!(self.all_removed.notified());
            // Before the look, so that the last one cannot be missed.
            all_removed.as_mut().enable();
            if self.held().is_empty() {
                return;
            }
            all_removed.await;
        }
    }

    fn held(&self) -> MutexGuard<'_, HashMap<UserId, Held>> {
        // Each change of it is one step, so a panic elsewhere does not spoil it.
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Keeps a user's FIFO where it is.
#[derive(Debug)]
pub(crate) struct Hold<'a> {
    fifos: &'a UserFifos,
    /// `None` once somebody else sees to its release.
    user: Option<UserId>,
}

impl Hold<'_> {
    /// Leaves it to the caller to [`release`](UserFifos::release) the FIFO.
    pub(crate) fn keep(mut self) {
        self.user = None;
    }
}

impl Drop for Hold<'_> {
    fn drop(&mut self) {
        if let Some(user) = &self.user {
            self.fifos.release(user);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use proptest::prelude::*;
    use ws_ipc::{FifoDirectory, FifoOptions};

    use super::*;

    fn user(number: u8) -> UserId {
        UserId::new(&format!("user{number}")).unwrap()
    }

    fn is_left(fifos: &UserFifos, user: &UserId) -> bool {
        fifos.is_left(user, &Context::from_waker(Waker::noop()))
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]
        /// However holders and readers interleave, whoever is held has a FIFO, and nobody else when
        /// the readers have looked.
        #[test]
        fn prop_a_fifo_is_there_while_it_is_held(steps in prop::collection::vec((0_u8..3, 0_u8..3), 0..60)) {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            let _inside = runtime.enter();
            let dir = tempfile::tempdir().unwrap();
            let directory = FifoDirectory::open(dir.path().join("fifo"), FifoOptions::default()).unwrap();
            let fifos = UserFifos::default();
            let mut holds: HashMap<u8, usize> = HashMap::new();
            let mut readers: HashMap<u8, Fifo> = HashMap::new();
            let path = |number: u8| directory.path().join(format!("user{number}.fifo"));
            for (number, step) in steps {
                let who = user(number);
                match step {
                    0 => {
                        let (hold, made) = fifos
                            .hold(&who, || directory.create(&format!("{who}.fifo")))
                            .unwrap();
                        hold.keep();
                        if let Some(made) = made {
                            prop_assert!(readers.insert(number, made).is_none());
                        }
                        *holds.entry(number).or_default() += 1;
                    }
                    1 => {
                        let held = holds.entry(number).or_default();
                        if *held > 0 {
                            fifos.release(&who);
                            *held -= 1;
                        }
                    }
                    // The reader looks.
                    _ => {
                        if is_left(&fifos, &who) && let Some(reader) = readers.remove(&number) {
                            prop_assert!(fifos.remove(&who, false, reader, drop).is_none());
                            prop_assert!(!path(number).exists());
                        }
                    }
                }
                for number in 0..3 {
                    if holds.get(&number).is_some_and(|held| *held > 0) {
                        prop_assert!(readers.contains_key(&number) && path(number).exists());
                    }
                }
            }
        }
    }

    #[tokio::test]
    async fn a_handshake_that_fails_leaves_the_fifo_to_its_reader() {
        let dir = tempfile::tempdir().unwrap();
        let directory =
            FifoDirectory::open(dir.path().join("fifo"), FifoOptions::default()).unwrap();
        let fifos = UserFifos::default();
        let alice = user(1);
        let make = || directory.create("alice.fifo");
        let (hold, made) = fifos.hold(&alice, make).unwrap();
        assert!(!is_left(&fifos, &alice));
        drop(hold);
        assert!(is_left(&fifos, &alice));
        // Somebody came before the reader looked again.
        let (second, none) = fifos.hold(&alice, make).unwrap();
        assert!(none.is_none());
        let made = fifos.remove(&alice, false, made, drop);
        assert!(fifos.path(&alice).unwrap().exists());
        drop(second);
        assert!(fifos.remove(&alice, false, made, drop).is_none());
        assert_eq!(fifos.path(&alice), None);
        fifos.removed().await;
    }
}

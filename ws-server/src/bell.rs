//! Waking the one task that looks after something, from the same thread.

use std::cell::{Cell, RefCell};
use std::task::{Context, Poll, Waker};

/// A bell that one task of the thread listens to.
///
/// Ringing it several times before it is heard counts once. While nobody waits it is remembered.
/// It takes the place of tokio's `Notify` where thousands lie idle: that is meant for many threads
/// and many who wait, and needs a future for each of these.
#[derive(Debug, Default)]
pub(crate) struct Bell {
    has_rung: Cell<bool>,
    listener: RefCell<Option<Waker>>,
}

impl Bell {
    /// Wakes the listener, or the next one to come.
    pub(crate) fn ring(&self) {
        if !self.has_rung.replace(true)
            && let Some(listener) = &*self.listener.borrow()
        {
            listener.wake_by_ref();
        }
    }

    /// Ready if it has rung since it was heard last. The latest caller is the listener.
    pub(crate) fn poll_rung(&self, cx: &mut Context<'_>) -> Poll<()> {
        if self.has_rung.replace(false) {
            return Poll::Ready(());
        }
        let mut listener = self.listener.borrow_mut();
        match &mut *listener {
            Some(listener) => listener.clone_from(cx.waker()),
            None => *listener = Some(cx.waker().clone()),
        }
        Poll::Pending
    }

    /// Resolves when it has rung since it was heard last.
    pub(crate) async fn rung(&self) {
        std::future::poll_fn(|cx| self.poll_rung(cx)).await;
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::task::Wake;

    use super::*;

    #[derive(Default)]
    struct Count(AtomicUsize);

    impl Wake for Count {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Ordering::Relaxed);
        }
    }

    #[test]
    fn ringing_twice_wakes_once() {
        let count = Arc::new(Count::default());
        let waker = Waker::from(Arc::clone(&count));
        let bell = Bell::default();
        let poll = || bell.poll_rung(&mut Context::from_waker(&waker));
        assert_eq!(poll(), Poll::Pending);
        bell.ring();
        bell.ring();
        assert_eq!(count.0.load(Ordering::Relaxed), 1);
        assert_eq!(poll(), Poll::Ready(()));
        assert_eq!(poll(), Poll::Pending);
        bell.ring();
        assert_eq!(count.0.load(Ordering::Relaxed), 2);
    }

    #[test]
    fn what_rang_before_anybody_listened_is_heard() {
        let bell = Bell::default();
        let mut cx = Context::from_waker(Waker::noop());
        bell.ring();
        assert_eq!(bell.poll_rung(&mut cx), Poll::Ready(()));
        assert_eq!(bell.poll_rung(&mut cx), Poll::Pending);
    }
}

//! Whether whoever comes now would be served.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::Instant;
use ws_ipc::{Failure, Pool};

use crate::application::Backend;
use crate::shared::Shared;

/// How long a server of others may take to accept a connection.
const TIMEOUT: Duration = Duration::from_secs(1);

/// How long an answer holds: anybody may ask, and is not to be the one who asks the application's
/// server for it.
const GOOD_FOR: Duration = Duration::from_secs(1);

/// The look that was taken last, or is being taken.
#[derive(Debug, Default)]
pub(crate) struct Readiness {
    last: Mutex<Option<Look>>,
}

impl Readiness {
    /// What stands in the way, by a look that is a second old at most. However many ask, one looks;
    /// those who come meanwhile wait for what it sees.
    ///
    /// # Cancel safety
    ///
    /// Whoever goes away does not end the look: the next one finds it.
    pub(crate) async fn obstacle(&self, server: &Arc<Shared>) -> Option<Arc<str>> {
        let server = Arc::clone(server);
        self.look(async move { obstacle(&server).await }).await
    }

    async fn look(
        &self,
        looking: impl Future<Output = Option<String>> + Send + 'static,
    ) -> Option<Arc<str>> {
        let mut look = {
            let mut last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
            match &*last {
                Some(look) if look.is_good() => look.clone(),
                _ => last.insert(Look::begin(looking)).clone(),
            }
        };
        match look.seen.wait_for(Option::is_some).await.as_deref() {
            Ok(Some((_, obstacle))) => obstacle.clone(),
            // The runtime ends, and the look with it.
            Ok(None) | Err(_) => Some("ending".into()),
        }
    }
}

/// When something was seen, and what.
type Seen = Option<(Instant, Option<Arc<str>>)>;

/// A look that nobody who asks has in hand.
#[derive(Clone, Debug)]
struct Look {
    /// Empty while it is being taken.
    seen: watch::Receiver<Seen>,
}

impl Look {
    fn begin(looking: impl Future<Output = Option<String>> + Send + 'static) -> Self {
        let (see, seen) = watch::channel(None);
        tokio::spawn(async move {
            let obstacle = looking.await.map(Into::into);
            see.send_replace(Some((Instant::now(), obstacle)));
        });
        Self { seen }
    }

    fn is_good(&self) -> bool {
        match &*self.seen.borrow() {
            Some((at, _)) => at.elapsed() < GOOD_FOR,
            // It is under way, unless it came to grief.
            None => self.seen.has_changed().is_ok(),
        }
    }
}

/// What stands in the way: nobody would answer messages, or say who a visitor is.
///
/// A store of sessions that does not answer does not: those who are known are served, and what all
/// servers share should not take all of them out of service.
async fn obstacle(server: &Shared) -> Option<String> {
    let current = Arc::clone(&server.current());
    let application = current.application.as_ref();
    let application = application.map(|application| ("app", &application.callback.backend));
    let validation = current.validation.as_ref();
    let validation = validation.map(|validation| ("validate", &validation.callback.backend));
    for (section, backend) in application.into_iter().chain(validation) {
        let answers = match &**backend {
            Backend::Exec(_) | Backend::Stream(_) => Ok(()),
            Backend::Pool(pool) if runs(pool) => Ok(()),
            Backend::Pool(_) => return Some(format!("{section}: none of its processes runs")),
            Backend::Scgi(server) => server.reach(TIMEOUT).await,
            Backend::FastCgi(server) => server.reach(TIMEOUT).await,
        };
        match answers {
            // It is there, and busy.
            Ok(()) | Err(Failure::Overloaded) => {}
            Err(failure) => return Some(format!("{section}: {failure}")),
        }
    }
    None
}

fn runs(pool: &Pool) -> bool {
    pool.stats().running > 0
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use tokio::sync::Notify;
    use tokio::time::{advance, timeout};

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn who_hangs_up_while_one_looks_does_not_make_the_next_one_look() {
        let (looks, go) = (Arc::new(AtomicUsize::new(0)), Arc::new(Notify::new()));
        let readiness = Readiness::default();
        let ask = || {
            let (looks, go) = (Arc::clone(&looks), Arc::clone(&go));
            readiness.look(async move {
                looks.fetch_add(1, Ordering::Relaxed);
                go.notified().await;
                Some("nobody is there".to_owned())
            })
        };
        for _ in 0..50 {
            let asked = timeout(Duration::from_millis(1), ask()).await;
            assert!(asked.is_err());
        }
        assert_eq!(looks.load(Ordering::Relaxed), 1);
        go.notify_one();
        assert_eq!(ask().await.as_deref(), Some("nobody is there"));
        assert_eq!(ask().await.as_deref(), Some("nobody is there"));
        assert_eq!(looks.load(Ordering::Relaxed), 1);
        // What it saw is not good for ever.
        advance(GOOD_FOR).await;
        go.notify_one();
        assert_eq!(ask().await.as_deref(), Some("nobody is there"));
        assert_eq!(looks.load(Ordering::Relaxed), 2);
    }

    #[tokio::test]
    async fn look_that_comes_to_grief_is_taken_again() {
        let readiness = Readiness::default();
        let grief = readiness.look(async { panic!("as asked") }).await;
        assert!(grief.is_some());
        assert_eq!(readiness.look(async { None }).await, None);
    }
}

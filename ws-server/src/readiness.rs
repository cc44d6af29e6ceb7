//! Whether whoever comes now would be served.

use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::Mutex;
use ws_ipc::{Failure, Pool};

use crate::application::Backend;
use crate::shared::Shared;

/// How long a server of others may take to accept a connection.
const TIMEOUT: Duration = Duration::from_secs(1);

/// How long an answer holds: anybody may ask, and is not to be the one who asks the application's
/// server for it.
const GOOD_FOR: Duration = Duration::from_secs(1);

/// The answer that was given last.
#[derive(Debug, Default)]
pub(crate) struct Readiness {
    last: Mutex<Option<(Instant, Option<Arc<str>>)>>,
}

impl Readiness {
    /// What stands in the way, by a look that is a second old at most. However many ask, one looks;
    /// those who come meanwhile wait for what it sees.
    pub(crate) async fn obstacle(&self, server: &Shared) -> Option<Arc<str>> {
        let mut last = self.last.lock().await;
        if let Some((at, obstacle)) = &*last
            && at.elapsed() < GOOD_FOR
        {
            return obstacle.clone();
        }
        let obstacle: Option<Arc<str>> = obstacle(server).await.map(Into::into);
        *last = Some((Instant::now(), obstacle.clone()));
        obstacle
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

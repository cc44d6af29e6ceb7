//! Whether whoever comes now would be served.

use std::sync::Arc;
use std::time::Duration;

use ws_ipc::{Failure, Pool};

use crate::application::Backend;
use crate::shared::Shared;

/// How long a server of others may take to accept a connection.
const TIMEOUT: Duration = Duration::from_secs(1);

/// What stands in the way: nobody would answer messages, or say who a visitor is.
///
/// A store of sessions that does not answer does not: those who are known are served, and what all
/// servers share should not take all of them out of service.
pub(crate) async fn obstacle(server: &Shared) -> Option<String> {
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

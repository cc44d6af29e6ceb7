//! A validation that does not hold for ever (`X-WS-TTL`): asked again while the connection is open.

use std::rc::Rc;
use std::time::Duration;

use tracing::{debug, warn};
use ws_proto::{CloseCode, CloseFrame};

use crate::connection::Connection;
use crate::core::answer::Verdict;
use crate::counters::CloseCause;
use crate::shard::Shard;

/// Asks the validation callback each time its answer has run out, until it gives one that holds.
/// Whoever is not the same user any more is closed. To be aborted when the connection ends.
pub(crate) async fn run(shard: Rc<Shard>, connection: Rc<Connection>, mut ttl: Duration) {
    let Some(validation) = &shard.server.validation else {
        return;
    };
    let visitor = connection.visitor();
    loop {
        tokio::time::sleep(ttl).await;
        shard.server.hub.counters.validations_started.increment();
        let data = shard.server.hub.keeper.data(visitor.session);
        let verdict = validation.judge(visitor, data).await;
        let (code, reason, cause) = match verdict {
            Verdict::Accepted(identity) if Some(&identity.user) == visitor.user.as_ref() => {
                shard.server.hub.counters.validations_accepted.increment();
                if let Some(data) = identity.data {
                    shard.server.hub.keeper.set_data(visitor.session, data);
                }
                match identity.ttl {
                    Some(next) => ttl = next,
                    None => return,
                }
                continue;
            }
            Verdict::Accepted(_) => (
                CloseCode::POLICY,
                "the session is another user's now",
                "another user is named".to_owned(),
            ),
            Verdict::Refused {
                status: 401 | 403,
                cause,
            } => (CloseCode::POLICY, "the session is over", cause),
            Verdict::Refused { cause, .. } => {
                warn!(conn.id = %visitor.connection, cause, "validation failed");
                let reason = "the session could not be validated again";
                (CloseCode::TRY_LATER, reason, cause)
            }
        };
        debug!(conn.id = %visitor.connection, cause, "connection is not valid any more");
        connection.close(CloseCause::Validation, CloseFrame::new(code, reason));
        return;
    }
}

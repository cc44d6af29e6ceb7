//! An identity that does not hold for ever (`X-WS-TTL`, or the session of another application):
//! asked for again while the connection is open.

use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use tracing::{debug, warn};
use ws_proto::{CloseCode, CloseFrame};

use crate::connection::Connection;
use crate::core::answer::{Verdict, Witness};
use crate::counters::CloseCause;
use crate::shard::Shard;
use crate::spans::{RunSpan, VALIDATE};

/// Why a connection is closed.
struct End {
    code: CloseCode,
    reason: &'static str,
    cause: String,
}

impl End {
    /// Its session is not what it was.
    fn of(reason: &'static str, cause: impl Into<String>) -> Self {
        Self {
            code: CloseCode::POLICY,
            reason,
            cause: cause.into(),
        }
    }
}

/// How often in a row a session may be unreadable while others are read.
const MAX_UNREAD: u32 = 3;

const OVER: &str = "the session is over";
const ANOTHER: &str = "the session is another user's now";

/// Asks whoever named the user each time the answer has run out, until it gives one that holds.
/// Whoever is not the same user any more is closed. To be aborted when the connection ends.
pub(crate) async fn run(
    shard: Rc<Shard>,
    connection: Rc<Connection>,
    ttl: Duration,
    witness: Option<Box<Witness>>,
) {
    let end = match witness {
        Some(witness) => ask_witness(&shard, &connection, ttl, &witness).await,
        None => ask_validation(&shard, &connection, ttl).await,
    };
    let Some(End {
        code,
        reason,
        cause,
    }) = end
    else {
        return;
    };
    let id = connection.visitor().connection;
    debug!(conn.id = %id, cause, "connection is not valid any more");
    connection.close(CloseCause::Validation, CloseFrame::new(code, reason));
}

async fn ask_validation(shard: &Shard, connection: &Connection, mut ttl: Duration) -> Option<End> {
    let visitor = connection.visitor();
    loop {
        tokio::time::sleep(ttl).await;
        shard.server.hub.counters.validations_started.increment();
        let data = shard.server.hub.keeper.data(visitor.session);
        let current = Arc::clone(&shard.server.current());
        let backend = current.config.validation_backend();
        let run = RunSpan::again(&shard.server, visitor, VALIDATE, backend);
        let validation = current.validation.as_ref()?;
        let verdict = validation.judge(visitor, run.trace(), data).await;
        run.judged(&verdict);
        match verdict {
            Verdict::Accepted(identity) if Some(&identity.user) == visitor.user.as_ref() => {
                shard.server.hub.counters.validations_accepted.increment();
                if let Some(data) = identity.data {
                    shard.server.hub.keeper.set_data(visitor.session, data);
                }
                ttl = identity.ttl?;
            }
            Verdict::Accepted(_) => return Some(End::of(ANOTHER, "another user is named")),
            Verdict::Refused {
                status: 401 | 403,
                cause,
            } => return Some(End::of(OVER, cause)),
            Verdict::Refused { cause, .. } => {
                warn!(conn.id = %visitor.connection, cause, "validation failed");
                return Some(End {
                    code: CloseCode::TRY_LATER,
                    reason: "the session could not be validated again",
                    cause,
                });
            }
        }
    }
}

/// Some time from the half of it to the whole: those who all came at once, after a restart say, are
/// not all asked about at once.
fn sooner(interval: Duration) -> Duration {
    let mut random = [0];
    match getrandom::fill(&mut random) {
        Ok(()) => interval / 2 + interval / 512 * u32::from(random[0]),
        Err(_) => interval,
    }
}

/// A source that cannot say changes nothing: it is asked again when it is due the next time. Only a
/// session that cannot be read itself, again and again, does not keep a connection for ever.
async fn ask_witness(
    shard: &Shard,
    connection: &Connection,
    interval: Duration,
    witness: &Witness,
) -> Option<End> {
    let identifier = shard.server.identifier.as_ref()?;
    let visitor = connection.visitor();
    let mut pause = sooner(interval);
    let mut unread = UnreadSession::new(identifier.answers(witness.source));
    loop {
        tokio::time::sleep(pause).await;
        pause = interval;
        match identifier.ask(witness.source, &witness.credential).await {
            Ok(Some(user)) if Some(&user) == visitor.user.as_ref() => {
                unread = UnreadSession::new(identifier.answers(witness.source));
            }
            Ok(Some(_)) => return Some(End::of(ANOTHER, "another user has logged in")),
            Ok(None) => return Some(End::of(OVER, "nobody is logged in any more")),
            Err(unproved) => {
                shard.server.hub.counters.rechecks_failed.increment();
                let is_over = unproved.is_of_session(witness.source)
                    && unread.is_over(identifier.answers(witness.source));
                let cause = unproved.cause;
                debug!(conn.id = %visitor.connection, cause, "the session cannot be read again");
                if is_over {
                    return Some(End {
                        code: CloseCode::TRY_LATER,
                        reason: "the session could not be read again",
                        cause,
                    });
                }
            }
        }
    }
}

/// A session that could not be read, while its source answered others.
#[derive(Debug)]
struct UnreadSession {
    /// How often in a row.
    attempts: u32,
    /// How much the source had answered the last time.
    answers: u64,
}

impl UnreadSession {
    fn new(answers: u64) -> Self {
        Self {
            attempts: 0,
            answers,
        }
    }

    /// Notes another attempt, and whether it was the last: if the source has answered nobody since
    /// the one before, it is the source that cannot say, and the attempt does not count.
    fn is_over(&mut self, answers: u64) -> bool {
        if answers != self.answers {
            self.answers = answers;
            self.attempts += 1;
        }
        self.attempts >= MAX_UNREAD
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_session_is_given_up_only_while_others_are_read() {
        let mut unread = UnreadSession::new(5);
        // The source answers nobody.
        assert!((0..100).all(|_| !unread.is_over(5)));
        assert!(!unread.is_over(6));
        assert!((0..100).all(|_| !unread.is_over(6)));
        assert!(!unread.is_over(9));
        assert!(unread.is_over(10));
    }
}

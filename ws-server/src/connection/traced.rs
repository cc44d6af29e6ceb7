//! Replies, followed until the kernel has taken them if somebody records that.

use std::rc::Rc;

use tokio::sync::mpsc;

use super::state::Inner;
use crate::core::answer::Reply;
use crate::shard::Shard;
use crate::spans::MessageSpan;

/// Replies of one connection that are followed at a time. Each costs a task, a queue and two spans,
/// and a client that does not read lets as many wait as its outbound queue holds.
const MAX_FOLLOWED: usize = 64;

/// Queues the reply to a message, if there is one, and records what becomes of it.
pub(super) fn reply(
    shard: &Rc<Shard>,
    state: &mut Inner,
    reply: Option<&Reply>,
    span: Option<Box<MessageSpan>>,
) {
    let counters = &shard.server.hub.counters;
    let (reply, span) = match (reply, span) {
        (Some(reply), Some(span)) => (reply, span),
        (Some(reply), None) => return state.reply(reply, counters),
        (None, span) => return span.into_iter().for_each(|span| span.end()),
    };
    let span = span.begin_reply(reply);
    let is_open = state.is_open();
    state.reply(reply, counters);
    if !is_open {
        return span.end(None);
    }
    let followed = state.followed.get_or_insert_default();
    // One is that of the connection.
    if Rc::strong_count(followed) > MAX_FOLLOWED {
        return span.end_queued();
    }
    let followed = Rc::clone(followed);
    let (notices, mut fate) = mpsc::unbounded_channel();
    state.output.wait_for_last(1, &notices);
    drop(notices);
    shard.spawn(async move {
        span.end(fate.recv().await);
        drop(followed);
    });
}

/// Records a reply that nobody is there to hear.
pub(super) fn reply_to_nobody(reply: Option<&Reply>, span: Option<Box<MessageSpan>>) {
    match (reply, span) {
        (Some(reply), Some(span)) => span.begin_reply(reply).end(None),
        (None, Some(span)) => span.end(),
        (_, None) => {}
    }
}

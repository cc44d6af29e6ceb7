//! Looks whether the threads that serve connections still do.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::oneshot;
use tokio::time::{MissedTickBehavior, interval, timeout};
use tracing::warn;

use crate::command::Command;
use crate::hub::Hub;
use crate::observer::Observer;
use crate::shared::Shared;

/// Tells the observer, as often as it wants, that all of them have answered, until the task is
/// dropped.
pub(crate) async fn run(server: Arc<Shared>, observer: Arc<dyn Observer>) {
    let Some(period) = observer.heartbeat() else {
        return;
    };
    let mut ticks = interval(period);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        match late_worker(&server.hub, period).await {
            None => observer.alive(&status(&server)),
            Some(worker) => warn!(worker, within = ?period, "a worker thread does not answer"),
        }
    }
}

/// The first worker that does not answer in time. One that has ended need not.
async fn late_worker(hub: &Hub, within: Duration) -> Option<usize> {
    let answers: Vec<_> = (0..hub.shard_count())
        .map(|worker| {
            let (answer, answered) = oneshot::channel();
            // One that has ended drops it, which is an answer, too.
            let _ = hub.command(worker, Command::Answer(answer));
            answered
        })
        .collect();
    let deadline = tokio::time::Instant::now() + within;
    for (worker, answered) in answers.into_iter().enumerate() {
        let left = deadline.saturating_duration_since(tokio::time::Instant::now());
        if timeout(left, answered).await.is_err() {
            return Some(worker);
        }
    }
    None
}

fn status(server: &Shared) -> String {
    let (connections, users) = {
        let registry = server.hub.registry();
        (registry.count(), registry.user_count())
    };
    let doing = match *server.draining.borrow() {
        true => "draining",
        false => "serving",
    };
    format!("{doing} {connections} connections of {users} users")
}

#[cfg(test)]
mod tests {
    use tokio::sync::mpsc;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_worker_that_does_not_answer_is_found_and_one_that_has_ended_is_not() {
        let (first, mut first_commands) = mpsc::unbounded_channel();
        let (second, mut second_commands) = mpsc::unbounded_channel();
        let (third, third_commands) = mpsc::unbounded_channel();
        let hub = Hub::for_tests(Box::new([first, second, third]));
        drop(third_commands);
        let answer = |command: Option<Command>| match command {
            Some(Command::Answer(answer)) => answer.send(()).unwrap(),
            other => panic!("{other:?}"),
        };
        let within = Duration::from_secs(5);
        let (late, ()) = tokio::join!(late_worker(&hub, within), async {
            answer(first_commands.recv().await);
            answer(second_commands.recv().await);
        });
        assert_eq!(late, None);
        let (late, kept) = tokio::join!(late_worker(&hub, within), async {
            answer(first_commands.recv().await);
            // It has it, and does nothing.
            second_commands.recv().await
        });
        assert_eq!(late, Some(1));
        drop(kept);
    }
}

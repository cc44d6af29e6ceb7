//! What works for a connection besides its driver: runs for its messages, or a program of its own.

use std::task::Waker;

use tokio::task::AbortHandle;

use crate::bell::Bell;
use crate::core::turns::MessageId;
use crate::spans::MessageSpan;

/// What works for a connection.
#[derive(Debug)]
pub(super) enum Work {
    /// Callbacks that run, one for each message: a few at most.
    Runs(Vec<Run>),
    /// A program that runs as long as the connection.
    Program(Box<Program>),
}

impl Default for Work {
    fn default() -> Self {
        Self::Runs(Vec::new())
    }
}

#[derive(Debug)]
pub(super) struct Run {
    id: MessageId,
    handle: AbortHandle,
    /// Waits until more of its output may be taken.
    waiting: Option<Waker>,
    /// `None` if the message is not recorded.
    span: Option<Box<MessageSpan>>,
}

/// A callback that was started for a message or another event.
#[derive(Debug)]
pub(super) struct Started {
    pub(super) handle: AbortHandle,
    /// `None` if the message is not recorded.
    pub(super) span: Option<Box<MessageSpan>>,
}

/// A program that runs as long as the connection, and the task that looks after it.
#[derive(Debug, Default)]
pub(super) struct Program {
    /// Wakes the task.
    pub(super) bell: Bell,
    pub(super) handle: Option<AbortHandle>,
    /// It is to end although the connection is open: the server is going down.
    pub(super) is_dismissed: bool,
    /// It waits until the peer has taken more of what it wrote.
    pub(super) is_held_back: bool,
    pub(super) has_ended: bool,
}

impl Work {
    pub(super) fn program(&mut self) -> Option<&mut Program> {
        match self {
            Self::Program(program) => Some(program),
            Self::Runs(_) => None,
        }
    }

    /// Whether a program is under way.
    pub(super) fn has_program(&self) -> bool {
        matches!(self, Self::Program(program) if !program.has_ended)
    }

    /// Notes that a callback was started.
    pub(super) fn begin(&mut self, id: MessageId, started: Started) {
        if let Self::Runs(runs) = self {
            let Started { handle, span } = started;
            runs.push(Run {
                id,
                handle,
                waiting: None,
                span,
            });
        }
    }

    /// Notes that a callback has ended, and returns what is recorded of its message.
    pub(super) fn forget(&mut self, id: MessageId) -> Option<Box<MessageSpan>> {
        let Self::Runs(runs) = self else {
            return None;
        };
        let at = runs.iter().position(|run| run.id == id)?;
        let run = runs.remove(at);
        if runs.is_empty() {
            *runs = Vec::new();
        }
        run.span
    }

    /// Records what a callback failed of.
    pub(super) fn note_failure(&mut self, id: MessageId, error: &'static str) {
        if let Self::Runs(runs) = self {
            let spans = runs.iter_mut().filter(|run| run.id == id);
            let spans = spans.filter_map(|run| run.span.as_mut());
            spans.for_each(|span| span.fail(error));
        }
    }

    /// Has a callback woken by the next [`wake`](Self::wake).
    pub(super) fn wait(&mut self, id: MessageId, waker: &Waker) {
        if let Self::Runs(runs) = self
            && let Some(run) = runs.iter_mut().find(|run| run.id == id)
        {
            run.waiting = Some(waker.clone());
        }
    }

    /// Wakes the callbacks that wait, to look whether their time has come.
    pub(super) fn wake(&mut self) {
        if let Self::Runs(runs) = self {
            let waiting = runs.iter_mut().filter_map(|run| run.waiting.take());
            waiting.for_each(Waker::wake);
        }
    }

    /// Kills the callbacks.
    pub(super) fn abort_runs(&mut self) {
        if let Self::Runs(runs) = self {
            runs.drain(..).for_each(|run| run.handle.abort());
        }
    }

    /// Kills whatever works.
    pub(super) fn abort(&mut self) {
        self.abort_runs();
        if let Some(handle) = self.program().and_then(|program| program.handle.take()) {
            handle.abort();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_connection_without_a_program_has_no_room_for_one() {
        assert_eq!(size_of::<Work>(), size_of::<Vec<Run>>());
    }
}

//! Why a callback gave no answer.

use ws_ipc::{EnvironmentError, Failure};

use crate::counters::CallbackFailure;

/// Why a callback gave no answer that can be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum RunFailure {
    /// The process failed.
    #[error(transparent)]
    Process(#[from] Failure),
    /// The process ended well, but what it wrote is no answer.
    #[error("bad answer: {0}")]
    Answer(String),
    /// The message cannot be given to a process.
    #[error(transparent)]
    Environment(#[from] EnvironmentError),
}

impl RunFailure {
    /// The counter that this failure belongs to.
    pub(crate) fn cause(&self) -> CallbackFailure {
        match self {
            Self::Process(failure) => match failure {
                Failure::CannotStart { .. } => CallbackFailure::CannotStart,
                Failure::Exited(_) => CallbackFailure::Exit,
                Failure::Signaled(_) => CallbackFailure::Signal,
                Failure::TimedOut => CallbackFailure::Timeout,
                Failure::OutputTooLong { .. } => CallbackFailure::Output,
                Failure::BadAnswer(_) | Failure::BadRecord(_) => CallbackFailure::BadAnswer,
                Failure::Unreachable { .. } => CallbackFailure::Unreachable,
                Failure::Overloaded => CallbackFailure::Overloaded,
                Failure::Lost => CallbackFailure::Lost,
                Failure::Cancelled => CallbackFailure::Cancelled,
            },
            Self::Answer(_) => CallbackFailure::BadAnswer,
            Self::Environment(_) => CallbackFailure::CannotStart,
        }
    }
}

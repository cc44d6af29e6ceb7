//! Why a run of an application's program gave no answer.

use std::io;
use std::os::unix::process::ExitStatusExt;
use std::process::ExitStatus;

use crate::LineTooLong;
use crate::cgi::CgiError;
use crate::fastcgi::FastCgiError;

/// Why one run gave no answer.
///
/// The set is closed on purpose: [`cause`](Self::cause) names a metric's label, and what answers
/// the browser matches on it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Failure {
    /// The system refused to start it: no such program, not permitted, too large, no resources.
    #[error("cannot start {what}: {}", io::Error::from_raw_os_error(*.errno))]
    CannotStart {
        /// The object of the attempt: the program, its directory, a socket path.
        what: String,
        /// The system's error number.
        errno: i32,
    },
    /// It ended with this exit code, which is not 0.
    #[error("exited with {0}")]
    Exited(i32),
    /// It was ended by this signal.
    #[error("ended by signal {0}")]
    Signaled(i32),
    /// It did not end within its time.
    #[error("timed out")]
    TimedOut,
    /// It wrote more than it may.
    #[error("output exceeds {max} bytes")]
    OutputTooLong {
        /// The limit, in bytes.
        max: usize,
    },
    /// What it wrote is not an answer.
    #[error("bad answer: {0}")]
    BadAnswer(CgiError),
    /// What a FastCGI server sent is no FastCGI.
    #[error("bad answer: {0}")]
    BadRecord(FastCgiError),
    /// Nobody can be asked at the server's address.
    #[error("cannot reach {address}: {reason}")]
    Unreachable {
        /// The address.
        address: String,
        /// What the system said.
        reason: String,
    },
    /// The server takes no more requests: it says so, or the queue of its socket stayed full.
    #[error("server is overloaded")]
    Overloaded,
    /// The process that ran it for us (a spawner, a fork server, a process of php-fpm) died.
    /// Whether it had an effect is not known, so it is not repeated.
    #[error("lost with the process that ran it")]
    Lost,
    /// Nobody waits for it any more.
    #[error("cancelled")]
    Cancelled,
}

impl Failure {
    /// The name of the cause, from a closed set: fit for a metric's label.
    #[must_use]
    pub fn cause(&self) -> &'static str {
        match self {
            Self::CannotStart { .. } => "cannot_start",
            Self::Exited(_) => "exit",
            Self::Signaled(_) => "signal",
            Self::TimedOut => "timeout",
            Self::OutputTooLong { .. } => "output",
            Self::BadAnswer(_) | Self::BadRecord(_) => "bad_answer",
            Self::Unreachable { .. } => "unreachable",
            Self::Overloaded => "overloaded",
            Self::Lost => "lost",
            Self::Cancelled => "cancelled",
        }
    }

    /// What the end of a program says, if nobody has asked it to end.
    pub(crate) fn of_status(status: ExitStatus) -> Result<(), Self> {
        match (status.code(), status.signal()) {
            (Some(0), _) => Ok(()),
            (Some(code), _) => Err(Self::Exited(code)),
            (None, signal) => Err(Self::Signaled(signal.unwrap_or(0))),
        }
    }

    /// A start that failed with an I/O error.
    pub(crate) fn cannot_start(what: impl Into<String>, error: &io::Error) -> Self {
        // An error without a number is one of std's own about its arguments (a NUL byte).
        let errno = error.raw_os_error().unwrap_or(nix::libc::EINVAL);
        Self::CannotStart {
            what: what.into(),
            errno,
        }
    }
}

impl From<LineTooLong> for Failure {
    fn from(LineTooLong { max }: LineTooLong) -> Self {
        Self::OutputTooLong { max }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failed_start_names_its_object_and_the_system_error() {
        let failure = Failure::cannot_start(
            "/no/such/program",
            &io::Error::from_raw_os_error(nix::libc::ENOENT),
        );
        assert_eq!(
            failure.to_string(),
            "cannot start /no/such/program: No such file or directory (os error 2)"
        );
    }
}

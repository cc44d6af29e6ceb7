//! Why the command failed, and the exit code that says so to scripts and supervisors.

use std::fmt::{self, Display};
use std::io::{self, Write};
use std::process::ExitCode;

/// The exit codes above 1 that `clap` does not give; from 69 on those of sysexits.h.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Code {
    /// Anything that went wrong at run time.
    Failed = 1,
    /// The command line is wrong.
    Usage = 2,
    /// The server cannot be reached.
    Unreachable = 69,
    /// A socket or FIFO cannot be created.
    CannotCreate = 73,
    /// Nobody was reached: try later.
    TryLater = 75,
    /// The system does not permit it.
    NotPermitted = 77,
    /// The configuration cannot be used.
    Configuration = 78,
}

/// An error with the exit code that goes with it.
#[derive(Debug)]
pub(crate) struct Failure {
    code: Code,
    error: anyhow::Error,
}

impl Failure {
    pub(crate) fn new(
        code: Code,
        message: impl Display + fmt::Debug + Send + Sync + 'static,
    ) -> Self {
        Self {
            code,
            error: anyhow::Error::msg(message),
        }
    }

    pub(crate) fn with_code(code: Code, error: impl Into<anyhow::Error>) -> Self {
        Self {
            code,
            error: error.into(),
        }
    }

    /// Says where it happened.
    pub(crate) fn context(self, place: impl Display + Send + Sync + 'static) -> Self {
        Self {
            code: self.code,
            error: self.error.context(place),
        }
    }

    pub(crate) fn code(&self) -> Code {
        self.code
    }

    /// Tells stderr and returns the exit code.
    pub(crate) fn report(&self) -> ExitCode {
        // `ws ls | head -1` ends the pipe on purpose; there is nothing to complain of.
        let io_error = self.error.downcast_ref::<io::Error>();
        if io_error.is_none_or(|error| error.kind() != io::ErrorKind::BrokenPipe) {
            // Nobody is left to tell if stderr cannot be written.
            let _ = writeln!(io::stderr(), "ws: {self}");
        }
        ExitCode::from(self.code as u8)
    }
}

impl Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:#}", self.error)
    }
}

impl From<anyhow::Error> for Failure {
    fn from(error: anyhow::Error) -> Self {
        Self {
            code: Code::Failed,
            error,
        }
    }
}

impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Self {
        Self {
            code: Code::Failed,
            error: error.into(),
        }
    }
}

//! Why a server did not start or did not go on.

use std::error::Error;
use std::fmt;
use std::io;
use std::path::PathBuf;

use ws_ipc::FifoError;
use ws_transport::{BindError, InheritError, TlsError};

use crate::store::{ConnectError, StoreOpenError};

/// Why [`run`](crate::run) ended with an error. What the system said is its [`source`](Error::source).
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ServeError {
    /// A listener or the control socket cannot be bound.
    #[error(transparent)]
    Bind(#[from] BindError),
    /// The sockets that the service manager passes on are not what they should be.
    #[error(transparent)]
    Inherit(#[from] InheritError),
    /// The certificate or its key cannot be used.
    #[error(transparent)]
    Tls(#[from] TlsError),
    /// What identities are proved by cannot be used.
    #[error("{setting}: {}: {source}", path.display())]
    Identity {
        /// The setting that names it.
        setting: &'static str,
        /// What it names.
        path: PathBuf,
        /// What the system said, or what is wrong with the content.
        source: io::Error,
    },
    /// The sessions of another application cannot be looked up.
    #[error("identity.lookup: {source_name}: {reason}")]
    Lookup {
        /// The database, without its password.
        source_name: String,
        /// Why not.
        reason: String,
        /// Whether it does not answer at all.
        is_down: bool,
    },
    /// The FIFO directory, or the global FIFO in it, cannot be used.
    #[error(transparent)]
    Fifo(#[from] FifoError),
    /// Sessions cannot be kept where `identity.store` says.
    #[error(transparent)]
    Store(#[from] StoreOpenError),
    /// The directory of run-time state cannot be made.
    #[error("cannot make the state directory {}", path.display())]
    StateDir {
        /// `server.state_dir`.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The bridge to an application of CarbonPHP's cannot be written.
    #[error("cannot write {}", path.display())]
    Bridge {
        /// Where it should be.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// `app.require_user` is set, the server runs as root, and no user is named to run as.
    #[error("app.require_user is set, but app.user is not and the server runs as root")]
    RequireUser,
    /// There is no control group for the processes of a callback, or none with the limits that were
    /// set.
    #[error("cannot use {section}.cgroup")]
    Cgroup {
        /// The section of the configuration.
        section: &'static str,
        /// What the system said.
        source: io::Error,
    },
    /// The spawners or the fork server do not start.
    #[error("cannot start the helper processes")]
    Helpers(#[source] io::Error),
    /// What the application or the validation keeps running does not start.
    #[error("{section}: {failure}")]
    Backend {
        /// The section of the configuration that asks for it.
        section: &'static str,
        /// Why it does not.
        failure: ws_ipc::Failure,
    },
    /// What `app.watch` names cannot be watched.
    #[error("app.watch: cannot watch {}: {reason}", path.display())]
    Watch {
        /// The file or directory.
        path: PathBuf,
        /// What the system said.
        reason: String,
    },
    /// What `control.token_file` names cannot be used.
    #[error("control.token_file: cannot use {}: {reason}", path.display())]
    ControlTokens {
        /// The file.
        path: PathBuf,
        /// Why not.
        reason: String,
    },
    /// Threads, event queues or signal handlers are not to be had.
    #[error("cannot set up the server")]
    System(#[source] io::Error),
}

/// An error with everything that it stems from, for one line of the log.
#[derive(Debug)]
pub(crate) struct Chain<'a>(pub(crate) &'a dyn Error);

impl fmt::Display for Chain<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)?;
        let mut cause = self.0.source();
        while let Some(error) = cause {
            write!(f, ": {error}")?;
            cause = error.source();
        }
        Ok(())
    }
}

/// What kind of problem a [`ServeError`] is: what a program's exit code tells.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ServeErrorKind {
    /// A socket, FIFO or directory cannot be created; also: the port is taken.
    CannotCreate,
    /// The configuration asks for something that is not so.
    Configuration,
    /// The user of the server may not do this.
    NotPermitted,
    /// Anything else that failed at run time.
    Failure,
}

impl ServeError {
    /// Tells what kind of problem it is.
    pub fn kind(&self) -> ServeErrorKind {
        let of_io = |error: &io::Error, otherwise| match error.kind() {
            io::ErrorKind::PermissionDenied => ServeErrorKind::NotPermitted,
            _ => otherwise,
        };
        match self {
            Self::Bind(BindError::Resolve { .. }) => ServeErrorKind::Configuration,
            Self::Bind(BindError::Listen { error, .. } | BindError::Access { error, .. }) => {
                of_io(error, ServeErrorKind::CannotCreate)
            }
            Self::Backend { failure, .. } => match failure {
                ws_ipc::Failure::CannotStart { errno, .. } => of_io(
                    &io::Error::from_raw_os_error(*errno),
                    ServeErrorKind::Configuration,
                ),
                _ => ServeErrorKind::Failure,
            },
            Self::Store(error) => match error.connect_error() {
                Some(ConnectError::Unreachable(_)) => ServeErrorKind::Failure,
                Some(ConnectError::File(error)) => of_io(error, ServeErrorKind::Configuration),
                _ => ServeErrorKind::Configuration,
            },
            Self::Watch { .. } | Self::ControlTokens { .. } => ServeErrorKind::Configuration,
            Self::Bind(_) | Self::Fifo(_) => ServeErrorKind::CannotCreate,
            Self::StateDir { source, .. } | Self::Bridge { source, .. } => {
                of_io(source, ServeErrorKind::CannotCreate)
            }
            Self::Lookup { is_down: true, .. } => ServeErrorKind::Failure,
            Self::Lookup { .. } => ServeErrorKind::Configuration,
            Self::Identity { source, .. } => of_io(source, ServeErrorKind::Configuration),
            Self::Cgroup { source, .. } => of_io(source, ServeErrorKind::Configuration),
            Self::Tls(TlsError::Unreadable { error, .. }) => {
                of_io(error, ServeErrorKind::Configuration)
            }
            Self::Inherit(_) | Self::Tls(_) | Self::RequireUser => ServeErrorKind::Configuration,
            Self::Helpers(_) | Self::System(_) => ServeErrorKind::Failure,
        }
    }
}

//! `[validate]`: who a client is.

use std::collections::BTreeMap;
use std::num::NonZeroUsize;
use std::time::Duration;

use super::app::AppBackend;
use super::callback::{self, CallbackBackend, CallbackSection, Chosen};
use super::reader::Reader;
use super::units::{HOUR, SHORTEST};

/// `[validate]`: who a client is.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct ValidateConfig {
    /// What decides.
    pub backend: ValidateBackend,
    /// Further CGI variables.
    pub params: BTreeMap<String, String>,
    /// Time that one decision may take.
    pub timeout: Duration,
    /// Decisions at once.
    pub concurrency: NonZeroUsize,
}

/// What decides who a client is.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum ValidateBackend {
    /// Nobody: the user id is the session id.
    None,
    /// The application, as it is asked for messages.
    Application,
    /// A callback of its own.
    Callback(CallbackBackend),
}

impl ValidateBackend {
    /// Returns the callback of its own that decides.
    pub fn callback(&self) -> Option<&CallbackBackend> {
        match self {
            Self::Callback(backend) => Some(backend),
            Self::None | Self::Application => None,
        }
    }
}

pub(super) fn read(reader: &mut Reader<'_>, app: &AppBackend) -> ValidateConfig {
    let section = CallbackSection::VALIDATE;
    let backend = callback::choose(
        reader,
        section,
        &[("none", Chosen::None), ("app", Chosen::App)],
        Chosen::None,
    );
    let callback = callback::read(reader, backend.callback(), section);
    let has_callback = matches!(app, AppBackend::Callback(_)) || reader.is_faulty("app");
    if backend == Chosen::App && !has_callback {
        reader.conflict(
            section.path("backend"),
            "asks the application, which no callback answers for",
        );
    }
    ValidateConfig {
        backend: match (backend, callback) {
            (Chosen::App, _) => ValidateBackend::Application,
            (_, Some(callback)) => ValidateBackend::Callback(callback),
            (_, None) => ValidateBackend::None,
        },
        params: reader.environment(section.path("params")),
        timeout: reader.duration("validate.timeout", SHORTEST, HOUR),
        concurrency: reader.count("validate.concurrency", 10_000),
    }
}

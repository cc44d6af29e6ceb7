//! An application of CarbonPHP's: it is asked what it configures, and that becomes settings below
//! all others.

mod boot;
mod report;

use std::path::{Path, PathBuf};

use tracing::{info, warn};
use ws_server::config::{CarbonPhpConfig, RawConfig, RawKind, RawValue};

pub(crate) use self::report::Report;
use crate::config::{Refusal, Surroundings};

/// What an application has said, and which settings became of it.
#[derive(Debug)]
pub(crate) struct Taken {
    pub(crate) index: PathBuf,
    pub(crate) report: Report,
    pub(crate) settings: RawConfig,
}

impl Taken {
    /// Says in the log what was taken.
    pub(crate) fn tell(&self) {
        let report = &self.report;
        info!(
            index = %self.index.display(),
            root = report.root,
            carbonphp = report.carbonphp,
            php = report.php,
            host = report.host,
            port = report.port,
            tls = report.tls.is_some(),
            fifos = report.fifo_directory,
            validation = report.callbacks.validate,
            messages = report.callbacks.message,
            "application of CarbonPHP's"
        );
        for warning in &report.warnings {
            warn!(warning, "application of CarbonPHP's");
        }
    }
}

/// How it is found out what an application says.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Asking<'a> {
    /// It is run.
    Now,
    /// What it said before is taken, if it did.
    Not(Option<&'a Report>),
}

/// Asks the application that the configuration names, if it names one, and sets what it says and
/// what its kind needs, unless something else is written.
pub(crate) fn prepare(
    raw: &mut RawConfig,
    surroundings: &Surroundings,
    asking: Asking<'_>,
) -> Result<Option<Taken>, Refusal> {
    // What is wrong there is found again where everything else that is wrong is found.
    let Ok(Some(application)) = CarbonPhpConfig::from_raw(raw, &surroundings.directory) else {
        return Ok(None);
    };
    let report = match asking {
        Asking::Now => {
            boot::describe(&application).map_err(|error| Refusal::of_application(&error))?
        }
        Asking::Not(Some(report)) => report.clone(),
        Asking::Not(None) => return Ok(None),
    };
    let settings = report::apply(&report, &application, raw, &surroundings.directory);
    Ok(Some(Taken {
        index: application.index,
        report,
        settings,
    }))
}

/// Where the state of a server is that runs the application, as far as that is known without asking
/// it: the root of an application is where its `index.php` is. `None` if there is no application.
pub(crate) fn state_dir(raw: &RawConfig, surroundings: &Surroundings) -> Option<PathBuf> {
    let base = &surroundings.directory;
    let index = path_of(raw, "carbonphp.index", base)?;
    let beside = || index.parent().map(|directory| directory.join("tmp"));
    path_of(raw, "server.state_dir", base).or_else(beside)
}

/// Reads a path as the checked configuration will have it.
fn path_of(raw: &RawConfig, key: &str, base: &Path) -> Option<PathBuf> {
    let value = raw.get(key)?;
    let RawKind::Text(path) = value.kind() else {
        return None;
    };
    let base = RawValue::source(value).map_or(base, |source| source.base());
    Some(base.join(path))
}

//! The application's files: when they change, its processes are replaced (`app.watch`).

use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use notify::{Event, RecommendedWatcher, RecursiveMode, Watcher};
use tokio::sync::mpsc;
use tokio::time::timeout;
use tracing::{info, warn};

use crate::config::Config;
use crate::error::ServeError;
use crate::shared::Shared;

/// How long nothing may change before what has changed is loaded: an editor or a deployment writes
/// several files.
const QUIET: Duration = Duration::from_millis(100);

/// Watches files and directories, these with all that is in them.
#[derive(Debug)]
pub(crate) struct Watch {
    changed: mpsc::Receiver<()>,
    /// Ends the watch when it is dropped.
    _watcher: RecommendedWatcher,
}

impl Watch {
    /// Begins to watch; `None` if there is nothing to.
    ///
    /// What is in the state directory is passed over, what is hidden, what Python compiles, and the
    /// file that the log goes to: all of these change because the application was loaded. Of an
    /// application of CarbonPHP's only files of PHP count, since it writes reports beside them.
    ///
    /// # Errors
    ///
    /// [`ServeError::Watch`] for a path that cannot be watched.
    pub(crate) fn new(config: &Config) -> Result<Option<Self>, ServeError> {
        let (paths, state_dir) = (&config.app().watch, config.server().state_dir.as_path());
        if paths.is_empty() {
            return Ok(None);
        }
        let failed = |path: &Path, error: notify::Error| ServeError::Watch {
            path: path.to_owned(),
            reason: error.to_string(),
        };
        let (changes, changed) = mpsc::channel(1);
        let state_dir = state_dir
            .canonicalize()
            .unwrap_or_else(|_| state_dir.into());
        let roots: Vec<PathBuf> = paths
            .iter()
            .map(|path| {
                path.canonicalize()
                    .map_err(|error| failed(path, error.into()))
            })
            .collect::<Result<_, _>>()?;
        let judge = Judge {
            state_dir,
            roots: roots.clone(),
            is_php: config.carbonphp().is_some(),
            own_output: [1, 2].map(|fd| file_of(format!("/proc/self/fd/{fd}").as_ref())),
        };
        let watcher = notify::recommended_watcher(move |event: notify::Result<Event>| {
            // Lost events are changes, too.
            if event.is_err() || event.is_ok_and(|event| judge.is_change(&event)) {
                // One that is told already tells this one as well.
                let _ = changes.try_send(());
            }
        });
        let mut watcher = watcher.map_err(|error| failed(&roots[0], error))?;
        for root in &roots {
            watcher
                .watch(root, RecursiveMode::Recursive)
                .map_err(|error| failed(root, error))?;
        }
        Ok(Some(Self {
            changed,
            _watcher: watcher,
        }))
    }

    /// Has the application loaded anew after each change.
    pub(crate) async fn run(mut self, server: Arc<Shared>) {
        while self.changed.recv().await.is_some() {
            while let Ok(Some(())) = timeout(QUIET, self.changed.recv()).await {}
            info!("files of the application have changed");
            server.reload_application();
        }
        warn!("files of the application are not watched any more");
    }
}

/// Which events are changes of the application.
struct Judge {
    state_dir: PathBuf,
    roots: Vec<PathBuf>,
    /// Only files of PHP count.
    is_php: bool,
    /// Device and inode of what this process writes to.
    own_output: [Option<(u64, u64)>; 2],
}

impl Judge {
    fn is_change(&self, event: &Event) -> bool {
        !event.kind.is_access() && event.paths.iter().any(|path| self.is_ours(path))
    }

    fn is_ours(&self, path: &Path) -> bool {
        let is_no_source = |path: &Path| {
            path.iter()
                .any(|name| name.as_encoded_bytes().starts_with(b".") || name == "__pycache__")
        };
        let below_root = self
            .roots
            .iter()
            .find_map(|root| path.strip_prefix(root).ok());
        if self.is_php && path.extension().is_none_or(|extension| extension != "php") {
            return false;
        }
        let file = file_of(path);
        let is_own = file.is_some() && self.own_output.contains(&file);
        !is_own && !path.starts_with(&self.state_dir) && !below_root.is_some_and(is_no_source)
    }
}

fn file_of(path: &Path) -> Option<(u64, u64)> {
    let metadata = std::fs::metadata(path).ok()?;
    Some((metadata.dev(), metadata.ino()))
}

#[cfg(test)]
mod tests {
    use notify::EventKind;
    use notify::event::{AccessKind, CreateKind};

    use super::*;

    #[test]
    fn changes_are_those_of_the_application_and_not_of_the_server() {
        let dir = tempfile::tempdir().unwrap();
        let log = dir.path().join("server.log");
        std::fs::write(&log, "").unwrap();
        let judge = Judge {
            state_dir: "/srv/app/tmp".into(),
            roots: vec!["/srv/app".into(), "/srv/.shared".into()],
            is_php: false,
            own_output: [None, file_of(&log)],
        };
        let changed = |path: &str| {
            judge.is_change(&Event::new(EventKind::Create(CreateKind::File)).add_path(path.into()))
        };
        for path in ["/srv/app/index.php", "/srv/app/lib/a.py", "/srv/.shared/b"] {
            assert!(changed(path), "{path}");
        }
        for path in [
            "/srv/app/tmp/fifo/a",
            "/srv/app/.git/index",
            "/srv/app/.a.swp",
            "/srv/app/__pycache__/a.pyc",
        ] {
            assert!(!changed(path), "{path}");
        }
        assert!(!changed(log.to_str().unwrap()));
        let read = Event::new(EventKind::Access(AccessKind::Read)).add_path("/srv/app/a".into());
        assert!(!judge.is_change(&read));
        let judge = Judge {
            is_php: true,
            ..judge
        };
        let changed = |path: &str| {
            judge.is_change(&Event::new(EventKind::Create(CreateKind::File)).add_path(path.into()))
        };
        assert!(changed("/srv/app/vendor/a.php") && !changed("/srv/app/logs/report.log"));
    }
}

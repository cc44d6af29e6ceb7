//! What of a configuration that was read again can take the place of the one in use.

use std::fmt;

use super::Config;
use super::effective::shown;
use super::fault::{Fault, InvalidConfig, Problem};
use super::raw::{RawConfig, RawValue};
use super::settings::{Applies, SETTINGS};

/// The outcome of [`Config::reloaded`].
#[derive(Clone, Debug)]
pub struct Reloaded {
    config: Config,
    changes: Vec<Change>,
}

impl Reloaded {
    /// Returns what holds from now on: the new settings, but the former ones where a change needs a
    /// restart.
    pub fn config(&self) -> &Config {
        &self.config
    }

    /// Returns the settings that were changed, in the order of the documentation.
    pub fn changes(&self) -> &[Change] {
        &self.changes
    }

    /// Takes the configuration out.
    pub fn into_config(self) -> Config {
        self.config
    }
}

/// A setting that was changed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Change {
    path: &'static str,
    applies: Applies,
    old: Shown,
    new: Shown,
}

impl Change {
    /// Returns the path of the setting.
    pub fn path(&self) -> &'static str {
        self.path
    }

    /// Returns when the change is in force: after a restart, too, if it means nothing without
    /// another one that is.
    pub fn applies(&self) -> Applies {
        self.applies
    }

    /// Returns the former value, without secrets.
    pub fn old(&self) -> &Shown {
        &self.old
    }

    /// Returns the new value, without secrets.
    pub fn new_value(&self) -> &Shown {
        &self.new
    }
}

/// A value as it may be shown, in JSON; nothing where a setting has none.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Shown(Option<String>);

impl Shown {
    fn new(path: &str, value: Option<&RawValue>) -> Self {
        let text = |value| serde_json::to_string(&shown(path, value));
        Self(value.and_then(|value| text(value).ok()))
    }
}

impl fmt::Display for Shown {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.0.as_deref().unwrap_or("nothing"))
    }
}

impl Config {
    /// Compares with a configuration that was read again, and makes the one that holds then.
    ///
    /// # Errors
    ///
    /// [`InvalidConfig`] if the new settings do not go together with those that stay as they were
    /// until a restart.
    pub fn reloaded(&self, new: &Self) -> Result<Reloaded, InvalidConfig> {
        let (old, new) = (&self.written, &new.written);
        let mut held = RawConfig::clone(&new.raw);
        let mut changes = Vec::new();
        for setting in SETTINGS {
            let path = setting.path;
            let (before, after) = (old.effective(setting), new.effective(setting));
            let is_changed = match (&before, &after) {
                (Some(before), Some(after)) => !before.kind().is_same(after.kind()),
                (before, after) => before.is_some() || after.is_some(),
            };
            if is_changed {
                changes.push(Change {
                    path,
                    applies: setting.applies,
                    old: Shown::new(path, before.as_ref()),
                    new: Shown::new(path, after.as_ref()),
                });
            }
            if setting.applies == Applies::Restart {
                restore(path, &mut held, &old.raw);
            }
        }
        let mut config = loop {
            match Self::from_raw(&held, &old.base_dir) {
                Ok(config) => break config,
                Err(invalid) => hold_back(invalid, &mut changes, &mut held, &old.raw)?,
            }
        };
        config.development = self.development;
        Ok(Reloaded { config, changes })
    }
}

/// Has what conflicts with the settings that wait for a restart wait with them: half of a section
/// that is new must not keep all else that was changed from being applied, certificates and keys
/// among it.
fn hold_back(
    invalid: InvalidConfig,
    changes: &mut [Change],
    held: &mut RawConfig,
    old: &RawConfig,
) -> Result<(), InvalidConfig> {
    let is_conflict = |fault: &Fault| matches!(fault.problem(), Problem::Conflict(_));
    for fault in invalid.faults() {
        let mut live = changes.iter_mut().filter(|it| it.applies == Applies::Live);
        let change = live.find(|change| is_conflict(fault) && change.path == fault.path());
        let Some(change) = change else {
            return Err(invalid);
        };
        change.applies = Applies::Restart;
        restore(change.path, held, old);
    }
    Ok(())
}

fn restore(path: &str, held: &mut RawConfig, old: &RawConfig) {
    match old.get(path) {
        Some(value) => held.set(path, value.clone()),
        None => held.remove(path),
    }
}

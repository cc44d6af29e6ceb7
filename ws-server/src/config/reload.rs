//! What of a configuration that was read again can take the place of the one in use.

use std::fmt;

use super::Config;
use super::effective::shown;
use super::fault::InvalidConfig;
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

    /// Returns when the change is in force.
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
                match old.raw.get(path) {
                    Some(value) => held.set(path, value.clone()),
                    None => held.remove(path),
                }
            }
        }
        let mut config = Self::from_raw(&held, &old.base_dir)?;
        config.development = self.development;
        Ok(Reloaded { config, changes })
    }
}

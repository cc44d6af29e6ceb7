//! The settings that a configuration was made of, as they may be shown.

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::Config;
use super::parse;
use super::raw::{RawConfig, RawKind, RawValue};
use super::settings::{self, DefaultValue, SETTINGS, Setting};
use crate::store::without_secrets;

/// What stands for a secret.
const HIDDEN: &str = "***";

/// What a configuration was made of.
#[derive(Clone)]
pub(super) struct Written {
    pub(super) raw: Arc<RawConfig>,
    /// What relative paths without a source of their own are relative to.
    pub(super) base_dir: PathBuf,
}

impl Written {
    pub(super) fn new(raw: &RawConfig, base_dir: &Path) -> Self {
        Self {
            raw: Arc::new(raw.clone()),
            base_dir: base_dir.to_owned(),
        }
    }
}

impl Written {
    /// Returns what holds for a setting.
    pub(super) fn effective(&self, setting: &Setting) -> Option<RawValue> {
        match self.raw.get(setting.path) {
            Some(value) => Some(of_its_type(setting, value)),
            None => setting.default_value(),
        }
    }
}

/// There are secrets in it.
impl fmt::Debug for Written {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Written").finish_non_exhaustive()
    }
}

impl Config {
    /// Returns the settings that were written or have a default, in the order of the documentation,
    /// each with its path. Secrets are left out of the values.
    pub fn effective(&self) -> impl Iterator<Item = (&'static str, RawValue)> {
        SETTINGS.iter().filter_map(|setting| {
            let value = self.written.effective(setting)?;
            Some((setting.path, shown(setting.path, &value)))
        })
    }

    /// Returns what was written for a setting, and where.
    pub(crate) fn written(&self, path: &str) -> Option<&RawValue> {
        self.written.raw.get(path)
    }

    /// Returns the same as one tree.
    pub fn shown(&self) -> RawConfig {
        let mut shown = RawConfig::default();
        for (path, value) in self.effective() {
            shown.set(path, value);
        }
        shown
    }
}

/// Turns the string of an environment variable into what it stands for.
fn of_its_type(setting: &Setting, value: &RawValue) -> RawValue {
    let RawKind::Text(text) = value.kind() else {
        return value.clone();
    };
    let kind = match setting.default {
        DefaultValue::Flag(_) => text.parse().ok().map(RawKind::Boolean),
        DefaultValue::Number(_) => text.parse().ok().map(RawKind::Integer),
        DefaultValue::List(_) => parse::texts(value).ok().map(|items| {
            let items = items
                .into_iter()
                .map(|item| value.with_kind(RawKind::Text(item.to_owned())));
            RawKind::List(items.collect())
        }),
        _ => None,
    };
    kind.map_or_else(|| value.clone(), |kind| value.with_kind(kind))
}

/// Leaves the secrets out of what was written for a setting.
pub(super) fn shown(path: &str, value: &RawValue) -> RawValue {
    if let RawKind::Table(entries) = value.kind() {
        let entries = entries.iter().map(|(name, value)| {
            let value = match settings::is_secret(&format!("{path}.{name}")) {
                true => value.with_kind(RawKind::Text(HIDDEN.to_owned())),
                false => value.clone(),
            };
            (name.clone(), value)
        });
        return value.with_kind(RawKind::Table(entries.collect()));
    }
    match value.kind() {
        RawKind::Text(_) if path == "trace.headers" => {
            value.with_kind(RawKind::Text(HIDDEN.to_owned()))
        }
        RawKind::Text(text) if settings::is_secret(path) => {
            value.with_kind(RawKind::Text(without_secrets(text)))
        }
        _ => value.clone(),
    }
}

//! Where settings come from: a file, above it the environment, above it the flags.

mod environment;
mod file;
mod opentelemetry;
mod refusal;

use std::collections::{BTreeMap, HashMap};
use std::env;
use std::ffi::{OsStr, OsString};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::Context;
use config::{Map, Value, ValueKind};
use ws_server::config::{Config, RawConfig, RawKind, RawValue, Source, SourceKind};

use crate::failure::Failure;

pub(crate) use self::environment::exposed;
pub(crate) use self::opentelemetry::{names_collector, unheeded};
pub(crate) use self::refusal::Refusal;

/// What the process was started with, apart from its arguments.
#[derive(Clone, Debug)]
pub(crate) struct Surroundings {
    /// Working directory.
    pub(crate) directory: PathBuf,
    /// Environment variables.
    pub(crate) variables: Vec<(OsString, OsString)>,
    /// The file that is read if there is no other.
    pub(crate) system_file: PathBuf,
}

impl Surroundings {
    /// Takes those of this process.
    pub(crate) fn of_process() -> Result<Self, Failure> {
        Ok(Self {
            directory: env::current_dir().context("the working directory is gone")?,
            variables: env::vars_os().collect(),
            system_file: "/etc/ws/ws.toml".into(),
        })
    }

    /// Returns an environment variable; an empty one counts as absent.
    pub(crate) fn variable(&self, name: &str) -> Option<&OsStr> {
        let found = self.variables.iter().find(|(known, _)| known == name);
        found
            .map(|(_, value)| value.as_os_str())
            .filter(|value| !value.is_empty())
    }

    /// Finds the configuration file. One that was asked for need not exist; reading it tells.
    pub(crate) fn find_file(&self, asked: Option<&Path>) -> Option<PathBuf> {
        let asked = asked.or_else(|| self.variable("WS_CONFIG").map(Path::new));
        if let Some(asked) = asked {
            return Some(self.directory.join(asked));
        }
        // The base directory specification: relative values of the variable are ignored, and
        // without it ~/.config is meant.
        let home = || {
            self.variable("HOME")
                .map(|home| Path::new(home).join(".config"))
        };
        let user = self
            .variable("XDG_CONFIG_HOME")
            .map(PathBuf::from)
            .or_else(home);
        let user = user
            .filter(|path| path.is_absolute())
            .map(|path| path.join("ws/ws.toml"));
        [
            Some(self.directory.join("ws.toml")),
            user,
            Some(self.system_file.clone()),
        ]
        .into_iter()
        .flatten()
        .find(|path| path.exists())
    }
}

/// Settings from one place or several, each with the [`Source`] it was read from.
#[derive(Clone, Debug, Default)]
pub(crate) struct Layer {
    values: Map<String, Value>,
    /// By the origins of the values.
    sources: HashMap<String, Arc<Source>>,
    /// By the origins of values that could not be had: why.
    unavailable: HashMap<String, String>,
}

impl Layer {
    /// Sets `section.key`, or `section.key.name` in a table.
    pub(crate) fn set(&mut self, path: &[&str], value: impl Into<ValueKind>, source: Source) {
        let name = source.name().to_owned();
        let mut value = Value::new(Some(&name), value);
        for part in path.iter().skip(1).rev() {
            value = Value::new(Some(&name), Map::from_iter([((*part).to_owned(), value)]));
        }
        if let Some(first) = path.first() {
            merge(
                &mut self.values,
                Map::from_iter([((*first).to_owned(), value)]),
            );
        }
        self.sources.insert(name, Arc::new(source));
    }

    /// Puts `above` on top of this one.
    ///
    /// The builder of the `config` crate is not used for it: that takes a quoted key such as
    /// `"a[9999999999]"` for a path and grows a list to that length. Here a key is a key.
    fn overlay(&mut self, above: Self) {
        merge(&mut self.values, above.values);
        self.sources.extend(above.sources);
        self.unavailable.extend(above.unavailable);
    }

    /// Has the file of sessions lie in that directory, unless another place is named.
    fn keep_sessions_in(&mut self, directory: &OsStr, surroundings: &Surroundings) {
        let store = match self.values.get("identity").map(|section| &section.kind) {
            Some(ValueKind::Table(section)) => section.get("store").map(|store| &store.kind),
            _ => None,
        };
        let is_open = match store {
            None => true,
            Some(ValueKind::String(store)) => store == "sqlite",
            Some(_) => false,
        };
        let first = directory.to_str().and_then(|list| list.split(':').next());
        if let Some(first) = first.filter(|_| is_open) {
            let source = Source::new(STATE_DIRECTORY, &surroundings.directory)
                .of_kind(SourceKind::Environment);
            let store = format!("sqlite:{first}/sessions.db");
            self.set(&["identity", "store"], store, source);
        }
    }

    /// Says why what was given for a setting cannot be used.
    fn refuse(&mut self, path: &[&str], why: String, source: Source) {
        self.unavailable.insert(source.name().to_owned(), why);
        self.set(path, "", source);
    }

    /// Turns it into what the server checks.
    fn into_raw(self) -> RawConfig {
        RawConfig::new(self.raw_table(self.values.clone()))
    }

    fn raw_table(&self, table: Map<String, Value>) -> BTreeMap<String, RawValue> {
        let entries = table.into_iter();
        entries
            .filter_map(|(key, value)| Some((key, self.raw_value(value)?)))
            .collect()
    }

    fn raw_value(&self, value: Value) -> Option<RawValue> {
        let origin = value.origin();
        let source = origin.and_then(|origin| self.sources.get(origin)).cloned();
        // The tables that such a value lies in have its origin, too.
        let is_text = matches!(value.kind, ValueKind::String(_));
        let why = origin.and_then(|origin| self.unavailable.get(origin));
        if let Some(why) = why.filter(|_| is_text) {
            return Some(RawValue::new(RawKind::Unavailable(why.clone()), source));
        }
        // What i64 cannot hold is out of every setting's range, and reported as such.
        let kind = match value.kind {
            ValueKind::Nil => return None,
            ValueKind::Boolean(value) => RawKind::Boolean(value),
            ValueKind::I64(value) => RawKind::Integer(value),
            ValueKind::I128(value) => RawKind::Integer(i64::try_from(value).unwrap_or(i64::MAX)),
            ValueKind::U64(value) => RawKind::Integer(i64::try_from(value).unwrap_or(i64::MAX)),
            ValueKind::U128(value) => RawKind::Integer(i64::try_from(value).unwrap_or(i64::MAX)),
            ValueKind::Float(value) => RawKind::Float(value),
            ValueKind::String(value) => RawKind::Text(value),
            ValueKind::Array(values) => {
                let values = values.into_iter();
                RawKind::List(values.filter_map(|value| self.raw_value(value)).collect())
            }
            ValueKind::Table(table) => RawKind::Table(self.raw_table(table)),
        };
        Some(RawValue::new(kind, source))
    }
}

/// Reads file, credentials, environment and flags, in rising order, without checking the settings.
///
/// # Errors
///
/// [`Refusal`] if the file cannot be read, or is not TOML.
pub(crate) fn load(
    file: Option<&Path>,
    surroundings: &Surroundings,
    flags: Layer,
) -> Result<RawConfig, Refusal> {
    let mut merged = Layer::default();
    if let Some(path) = surroundings.find_file(file) {
        merged.overlay(file::read(&path)?);
    }
    merged.overlay(environment::read_credentials(surroundings)?);
    merged.overlay(environment::read(surroundings));
    merged.overlay(flags);
    if let Some(directory) = surroundings.variable(STATE_DIRECTORY) {
        merged.keep_sessions_in(directory, surroundings);
    }
    // A program without traces does not look: it says so when it serves.
    if cfg!(feature = "otel") {
        merged.follow_opentelemetry(surroundings);
    }
    Ok(merged.into_raw())
}

/// Checks what [`load`] has read.
///
/// # Errors
///
/// [`Refusal`] with everything that is wrong.
pub(crate) fn check(raw: &RawConfig, surroundings: &Surroundings) -> Result<Config, Refusal> {
    Config::from_raw(raw, &surroundings.directory).map_err(|invalid| Refusal::from(&invalid))
}

/// Where systemd has a service keep what must last; several are separated by colons.
const STATE_DIRECTORY: &str = "STATE_DIRECTORY";

/// Merges tables key by key; everything else is overwritten.
fn merge(into: &mut Map<String, Value>, from: Map<String, Value>) {
    for (key, value) in from {
        match (into.get_mut(&key).map(|old| &mut old.kind), value) {
            (
                Some(ValueKind::Table(old)),
                Value {
                    kind: ValueKind::Table(new),
                    ..
                },
            ) => merge(old, new),
            (_, value) => {
                into.insert(key, value);
            }
        }
    }
}

#[cfg(test)]
mod tests;

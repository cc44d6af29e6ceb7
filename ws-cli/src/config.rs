//! Where settings come from: a file, above it the environment, above it the flags.

use std::collections::{BTreeMap, HashMap};
use std::env;
use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::Context;
use config::{FileFormat, Map, Source as _, Value, ValueKind};
use ws_server::config::{Config, InvalidConfig, RawConfig, RawKind, RawValue, Source};

use crate::failure::{Code, Failure};

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
    fn find_file(&self, asked: Option<&Path>) -> Option<PathBuf> {
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
    sources: HashMap<String, Arc<Source>>,
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
            let source = Source::new(STATE_DIRECTORY, &surroundings.directory);
            let store = format!("sqlite:{first}/sessions.db");
            self.set(&["identity", "store"], store, source);
        }
    }

    fn of_file(path: &Path) -> Result<Self, Failure> {
        let name = path.display().to_string();
        let source = Source::new(&name, path.parent().unwrap_or(path));
        let text = read(path).with_context(|| format!("cannot read {name}"));
        let text = text.map_err(|error| Failure::with_code(Code::Configuration, error))?;
        let parsed = config::File::from_str(&text, FileFormat::Toml).collect();
        let mut values = parsed.map_err(|error| {
            Failure::new(
                Code::Configuration,
                format!("{name}: {}", error.to_string().trim_end()),
            )
        })?;
        values.values_mut().for_each(|value| stamp(value, &name));
        Ok(Self {
            values,
            sources: HashMap::from([(name, Arc::new(source))]),
        })
    }

    /// Takes `WS__SECTION__KEY` and `WS__SECTION__SECTION__KEY`; names inside a table
    /// (`WS__APP__ENV__PATH`) keep their case.
    fn of_environment(surroundings: &Surroundings) -> Result<Self, Failure> {
        let mut layer = Self::default();
        for (name, value) in &surroundings.variables {
            let Some(name) = name.to_str().filter(|name| name.starts_with(PREFIX)) else {
                continue;
            };
            let value = value.to_str().ok_or_else(|| {
                Failure::new(
                    Code::Configuration,
                    format!("{name}: the value is not UTF-8"),
                )
            })?;
            let mut parts = name[PREFIX.len()..].splitn(3, "__");
            let mut lower = || parts.next().map(str::to_lowercase);
            let (section, key) = (lower().unwrap_or_default(), lower());
            let mut path = vec![section.as_str()];
            path.extend(key.as_deref());
            // Inside a table names are the user's own; inside a section they are ours.
            let rest = parts.next();
            let in_table = key
                .as_ref()
                .is_some_and(|key| ws_server::config::is_setting(&format!("{section}.{key}")));
            let rest = rest.map(|rest| match in_table {
                true => rest.to_owned(),
                false => rest.to_lowercase(),
            });
            path.extend(rest.as_deref());
            layer.set(&path, value, Source::new(name, &surroundings.directory));
        }
        Ok(layer)
    }
}

/// Reads file, environment and flags, in rising order, without checking the settings.
pub(crate) fn load(
    file: Option<&Path>,
    surroundings: &Surroundings,
    flags: Layer,
) -> Result<RawConfig, Failure> {
    let mut merged = Layer::default();
    if let Some(path) = surroundings.find_file(file) {
        merged.overlay(Layer::of_file(&path)?);
    }
    merged.overlay(Layer::of_environment(surroundings)?);
    merged.overlay(flags);
    if let Some(directory) = surroundings.variable(STATE_DIRECTORY) {
        merged.keep_sessions_in(directory, surroundings);
    }
    Ok(RawConfig::new(raw_table(merged.values, &merged.sources)))
}

/// Checks what [`load`] has read.
pub(crate) fn check(raw: &RawConfig, surroundings: &Surroundings) -> Result<Config, Failure> {
    Config::from_raw(raw, &surroundings.directory).map_err(|invalid| refuse(&invalid))
}

/// Turns the faults of a configuration into a failure that lists them.
pub(crate) fn refuse(invalid: &InvalidConfig) -> Failure {
    let faults = invalid.to_string().replace('\n', "\n  ");
    Failure::new(
        Code::Configuration,
        format!("bad configuration\n  {faults}"),
    )
}

const PREFIX: &str = "WS__";
/// Where systemd has a service keep what must last; several are separated by colons.
const STATE_DIRECTORY: &str = "STATE_DIRECTORY";
/// Far more than every setting needs; a file beyond it is not ours.
const MAX_FILE_SIZE: u64 = 1 << 20;

fn read(path: &Path) -> anyhow::Result<String> {
    let mut text = String::new();
    File::open(path)?
        .take(MAX_FILE_SIZE + 1)
        .read_to_string(&mut text)?;
    anyhow::ensure!(
        text.len() as u64 <= MAX_FILE_SIZE,
        "it is larger than {MAX_FILE_SIZE} bytes"
    );
    Ok(text)
}

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

fn stamp(value: &mut Value, name: &String) {
    match &mut value.kind {
        ValueKind::Table(table) => table.values_mut().for_each(|value| stamp(value, name)),
        ValueKind::Array(values) => values.iter_mut().for_each(|value| stamp(value, name)),
        _ => {}
    }
    *value = Value::new(Some(name), std::mem::take(&mut value.kind));
}

fn raw_table(
    table: Map<String, Value>,
    sources: &HashMap<String, Arc<Source>>,
) -> BTreeMap<String, RawValue> {
    let entries = table.into_iter();
    entries
        .filter_map(|(key, value)| Some((key, raw_value(value, sources)?)))
        .collect()
}

fn raw_value(value: Value, sources: &HashMap<String, Arc<Source>>) -> Option<RawValue> {
    let source = value.origin().and_then(|name| sources.get(name)).cloned();
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
        ValueKind::Array(values) => RawKind::List(
            values
                .into_iter()
                .filter_map(|value| raw_value(value, sources))
                .collect(),
        ),
        ValueKind::Table(table) => RawKind::Table(raw_table(table, sources)),
    };
    Some(RawValue::new(kind, source))
}

#[cfg(test)]
mod tests;

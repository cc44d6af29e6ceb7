//! Configuration as it was written: a tree of values, each of which knows where it came from.

use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde::de::{Deserialize, Deserializer, MapAccess, SeqAccess, Visitor};
use serde::ser::{Serialize, Serializer};

use super::settings;

/// What settings were read from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SourceKind {
    /// A file.
    File,
    /// An environment variable, or the file that it names.
    Environment,
    /// A credential of the service manager.
    Credential,
    /// The command line.
    CommandLine,
    /// What the application says of itself.
    Application,
}

/// A line and a column of a text, both counted from 1, columns in characters.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Position {
    /// The line.
    pub line: usize,
    /// The column.
    pub column: usize,
}

/// A place that settings were read from: a file, an environment variable, the command line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Source {
    kind: SourceKind,
    name: String,
    base: PathBuf,
    /// Where the key stands, and where the value.
    positions: Option<(Position, Position)>,
}

impl Source {
    /// Names a place on the command line; relative paths written there are relative to `base`.
    pub fn new(name: impl Into<String>, base: impl Into<PathBuf>) -> Self {
        Self {
            kind: SourceKind::CommandLine,
            name: name.into(),
            base: base.into(),
            positions: None,
        }
    }

    /// The same for a place of another kind.
    #[must_use]
    pub fn of_kind(mut self, kind: SourceKind) -> Self {
        self.kind = kind;
        self
    }

    /// Says where in a file the key and the value stand.
    #[must_use]
    pub fn at(mut self, key: Position, value: Position) -> Self {
        self.positions = Some((key, value));
        self
    }

    /// Returns what it is.
    pub fn kind(&self) -> SourceKind {
        self.kind
    }

    /// Returns the name that faults begin with.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Returns the directory that relative paths from here are relative to.
    pub fn base(&self) -> &Path {
        &self.base
    }

    /// Returns where the key stands, if that is known.
    pub fn key_position(&self) -> Option<Position> {
        self.positions.map(|(key, _)| key)
    }

    /// Returns where the value stands, if that is known.
    pub fn position(&self) -> Option<Position> {
        self.positions.map(|(_, value)| value)
    }
}

/// The kind and content of a [`RawValue`].
#[derive(Clone, Debug, PartialEq)]
pub enum RawKind {
    /// `true` or `false`.
    Boolean(bool),
    /// A whole number.
    Integer(i64),
    /// Any other number.
    Float(f64),
    /// A string; environment variables are strings whatever the setting's type.
    Text(String),
    /// A list.
    List(Vec<RawValue>),
    /// A table.
    Table(BTreeMap<String, RawValue>),
    /// A value that could not be had, and why: whoever read the settings could not open the file
    /// that holds it, say. Takes part in everything and is reported as what is wrong there.
    Unavailable(String),
}

impl RawKind {
    /// Returns what a fault calls a value of this kind.
    pub(super) fn name(&self) -> &'static str {
        match self {
            Self::Boolean(_) => "a boolean",
            Self::Integer(_) => "an integer",
            Self::Float(_) => "a floating-point number",
            Self::Text(_) => "a string",
            Self::List(_) => "a list",
            Self::Table(_) => "a table",
            Self::Unavailable(_) => "nothing",
        }
    }

    /// Whether two values are the same, wherever they were written.
    pub(super) fn is_same(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Table(one), Self::Table(other)) => {
                one.len() == other.len()
                    && one
                        .iter()
                        .zip(other)
                        .all(|((name, value), (other_name, other))| {
                            name == other_name && value.kind.is_same(&other.kind)
                        })
            }
            (Self::List(one), Self::List(other)) => {
                let mut pairs = one.iter().zip(other);
                one.len() == other.len() && pairs.all(|(one, other)| one.kind.is_same(&other.kind))
            }
            _ => self == other,
        }
    }
}

/// One value as it was written, with its [`Source`] if there is one.
#[derive(Clone, Debug, PartialEq)]
pub struct RawValue {
    kind: RawKind,
    source: Option<Arc<Source>>,
}

impl RawValue {
    /// Makes a value that was read from `source`.
    pub fn new(kind: RawKind, source: Option<Arc<Source>>) -> Self {
        Self { kind, source }
    }

    /// Returns the kind and content.
    pub fn kind(&self) -> &RawKind {
        &self.kind
    }

    /// Returns where the value was written, if known.
    pub fn source(&self) -> Option<&Source> {
        self.source.as_deref()
    }

    /// Returns where the value was written, `None` if that is not known; of a table where its
    /// entries were, which may be several places.
    pub fn sources(&self) -> Vec<Option<&Source>> {
        let mut sources = Vec::new();
        match &self.kind {
            RawKind::Table(entries) if !entries.is_empty() => {
                for source in entries.values().flat_map(Self::sources) {
                    if !sources.contains(&source) {
                        sources.push(source);
                    }
                }
            }
            _ => sources.push(self.source()),
        }
        sources
    }

    /// Returns a value from the same place.
    pub(super) fn with_kind(&self, kind: RawKind) -> Self {
        Self {
            kind,
            source: self.source.clone(),
        }
    }
}

impl From<RawKind> for RawValue {
    fn from(kind: RawKind) -> Self {
        Self { kind, source: None }
    }
}

impl From<bool> for RawValue {
    fn from(value: bool) -> Self {
        RawKind::Boolean(value).into()
    }
}

impl From<i64> for RawValue {
    fn from(value: i64) -> Self {
        RawKind::Integer(value).into()
    }
}

impl From<&str> for RawValue {
    fn from(value: &str) -> Self {
        RawKind::Text(value.to_owned()).into()
    }
}

impl From<String> for RawValue {
    fn from(value: String) -> Self {
        RawKind::Text(value).into()
    }
}

impl<T: Into<Self>> From<Vec<T>> for RawValue {
    fn from(values: Vec<T>) -> Self {
        RawKind::List(values.into_iter().map(Into::into).collect()).into()
    }
}

/// A whole configuration as it was written, sections and keys not yet checked.
///
/// A struct derived by serde would end at the first unknown key or wrong type. This tree takes any
/// shape, so that [`Config::from_raw`](super::Config::from_raw) can report every fault at once. It
/// deserializes from any self-describing format; its values then have no [`Source`].
///
/// # Examples
///
/// ```
/// use ws_server::config::{Config, RawConfig};
///
/// let mut raw = RawConfig::default();
/// raw.set("server.listen", vec!["127.0.0.1:0"]);
/// raw.set("limits.ping_interval", "off");
/// let config = Config::from_raw(&raw, "/srv/app".as_ref())?;
/// assert_eq!(config.limits().ping_interval, None);
/// # Ok::<(), ws_server::config::InvalidConfig>(())
/// ```
#[derive(Clone, Debug, Default, PartialEq)]
pub struct RawConfig {
    root: BTreeMap<String, RawValue>,
}

impl RawConfig {
    /// Wraps a table of sections.
    pub fn new(root: BTreeMap<String, RawValue>) -> Self {
        Self { root }
    }

    /// Sets `section.key`, overwriting what was there; a section may lie in another one.
    pub fn set(&mut self, path: &str, value: impl Into<RawValue>) {
        let (sections, key) = split(path);
        let mut table = &mut self.root;
        for section in sections {
            let inner = table.entry(section.to_owned());
            let inner = inner.or_insert_with(|| RawKind::Table(BTreeMap::new()).into());
            if !matches!(inner.kind, RawKind::Table(_)) {
                inner.kind = RawKind::Table(BTreeMap::new());
            }
            let RawKind::Table(keys) = &mut inner.kind else {
                return;
            };
            table = keys;
        }
        table.insert(key.to_owned(), value.into());
    }

    /// Removes `section.key`, so that its default holds.
    pub fn remove(&mut self, path: &str) {
        let (mut sections, key) = split(path);
        let table = sections.try_fold(&mut self.root, |table, section| {
            match &mut table.get_mut(section)?.kind {
                RawKind::Table(keys) => Some(keys),
                _ => None,
            }
        });
        if let Some(table) = table {
            table.remove(key);
        }
    }

    /// Returns what was written for `section.key`.
    pub fn get(&self, path: &str) -> Option<&RawValue> {
        let (mut sections, key) = split(path);
        let table = sections.try_fold(&self.root, |table, section| {
            match &table.get(section)?.kind {
                RawKind::Table(keys) => Some(keys),
                _ => None,
            }
        });
        table?.get(key)
    }

    /// Returns a copy in which each setting that has a default, and was not written, has it.
    #[must_use]
    pub fn with_defaults(&self) -> Self {
        let mut whole = self.clone();
        for setting in settings::SETTINGS {
            if let Some(value) = setting.default_value()
                && self.get(setting.path).is_none()
            {
                whole.set(setting.path, value);
            }
        }
        whole
    }

    pub(super) fn sections(&self) -> impl Iterator<Item = (&str, &RawValue)> {
        self.root.iter().map(|(name, value)| (name.as_str(), value))
    }
}

/// Splits a path into its sections, the outermost first, and the key.
fn split(path: &str) -> (impl Iterator<Item = &str>, &str) {
    let (sections, key) = path.rsplit_once('.').unwrap_or(("", path));
    (sections.split('.').filter(|name| !name.is_empty()), key)
}

impl<'de> Deserialize<'de> for RawConfig {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        BTreeMap::deserialize(deserializer).map(Self::new)
    }
}

/// Writes sections and keys in the order of the settings table, which is one for readers.
impl Serialize for RawConfig {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        Section::of(None, &self.root).serialize(serializer)
    }
}

/// A table that holds settings and other sections.
struct Section<'a> {
    /// What the settings' paths begin with.
    path: Option<String>,
    entries: &'a BTreeMap<String, RawValue>,
}

impl<'a> Section<'a> {
    fn of(path: Option<String>, entries: &'a BTreeMap<String, RawValue>) -> Self {
        Self { path, entries }
    }
}

/// What stands in a section.
enum Entry<'a> {
    Section(Section<'a>),
    Value(&'a RawValue),
}

impl Serialize for Entry<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Section(section) => section.serialize(serializer),
            Self::Value(value) => value.serialize(serializer),
        }
    }
}

impl Serialize for Section<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let entries = self.entries.iter().map(|(name, value)| {
            let path = match &self.path {
                Some(outer) => format!("{outer}.{name}"),
                None => name.clone(),
            };
            let is_in = |setting: &settings::Setting| {
                let section = setting.section();
                let is_below = |rest: &str| rest.is_empty() || rest.starts_with('.');
                setting.path == path || section.strip_prefix(&*path).is_some_and(is_below)
            };
            let position = settings::position(is_in);
            let entry = match &value.kind {
                RawKind::Table(entries) if settings::is_section(&path) => {
                    Entry::Section(Section::of(Some(path), entries))
                }
                _ => Entry::Value(value),
            };
            (position, name, entry)
        });
        let mut entries: Vec<_> = entries.collect();
        entries.sort_by_key(|(position, ..)| *position);
        let entries = entries.into_iter().map(|(_, name, entry)| (name, entry));
        serializer.collect_map(entries)
    }
}

impl Serialize for RawValue {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match &self.kind {
            RawKind::Boolean(value) => value.serialize(serializer),
            RawKind::Integer(value) => value.serialize(serializer),
            RawKind::Float(value) => value.serialize(serializer),
            RawKind::Text(value) => value.serialize(serializer),
            RawKind::List(values) => values.serialize(serializer),
            RawKind::Table(keys) => keys.serialize(serializer),
            RawKind::Unavailable(_) => serializer.serialize_none(),
        }
    }
}

impl<'de> Deserialize<'de> for RawValue {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(AnyValue)
    }
}

struct AnyValue;

impl<'de> Visitor<'de> for AnyValue {
    type Value = RawValue;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a boolean, a number, a string, a list or a table")
    }

    fn visit_bool<E>(self, value: bool) -> Result<RawValue, E> {
        Ok(value.into())
    }

    fn visit_i64<E>(self, value: i64) -> Result<RawValue, E> {
        Ok(value.into())
    }

    fn visit_u64<E>(self, value: u64) -> Result<RawValue, E> {
        // What i64 cannot hold is out of every setting's range, and reported as such.
        Ok(i64::try_from(value).unwrap_or(i64::MAX).into())
    }

    fn visit_f64<E>(self, value: f64) -> Result<RawValue, E> {
        Ok(RawKind::Float(value).into())
    }

    fn visit_str<E>(self, value: &str) -> Result<RawValue, E> {
        Ok(value.into())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<RawValue, A::Error> {
        let mut values = Vec::new();
        while let Some(value) = seq.next_element::<RawValue>()? {
            values.push(value);
        }
        Ok(RawKind::List(values).into())
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<RawValue, A::Error> {
        let mut table = BTreeMap::new();
        while let Some((key, value)) = map.next_entry()? {
            table.insert(key, value);
        }
        Ok(RawKind::Table(table).into())
    }
}

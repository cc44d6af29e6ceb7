//! Reads settings out of a raw configuration and collects what is wrong.

use std::collections::BTreeMap;
use std::num::{NonZeroU32, NonZeroUsize};
use std::path::{Path, PathBuf};
use std::time::Duration;

use ws_ipc::Address;

use super::fault::{Fault, InvalidConfig, Problem};
use super::parse;
use super::raw::{RawConfig, RawKind, RawValue};
use super::settings;
use super::unknown;
use crate::store::{self, StoreAddress};

/// Walks the settings. A faulty one is noted and stands at its default, so that reading goes on.
pub(super) struct Reader<'a> {
    raw: &'a RawConfig,
    /// What relative paths without a source of their own are relative to.
    base: &'a Path,
    faults: Vec<Fault>,
}

impl<'a> Reader<'a> {
    /// Begins by looking for names that no setting has.
    pub(super) fn new(raw: &'a RawConfig, base: &'a Path) -> Self {
        Self {
            faults: unknown::find(raw),
            ..Self::of_known(raw, base)
        }
    }

    /// The same for one who reads only a part, and leaves what is unknown to others.
    pub(super) fn of_known(raw: &'a RawConfig, base: &'a Path) -> Self {
        Self {
            raw,
            base,
            faults: Vec::new(),
        }
    }

    pub(super) fn finish<T>(self, value: T) -> Result<T, InvalidConfig> {
        if self.faults.is_empty() {
            Ok(value)
        } else {
            Err(InvalidConfig::new(self.faults))
        }
    }

    /// Notes a fault that lies between settings; `path` is the one to change.
    pub(super) fn conflict(&mut self, path: &str, problem: &'static str) {
        self.faults.push(Fault::new(
            path,
            self.raw.get(path),
            Problem::Conflict(problem),
        ));
    }

    /// Whether a fault was found in a section so far.
    pub(super) fn is_faulty(&self, section: &str) -> bool {
        let is_in = |fault: &Fault| fault.path().split('.').next() == Some(section);
        self.faults.iter().any(is_in)
    }

    pub(super) fn is_given(&self, path: &str) -> bool {
        self.raw.get(path).is_some()
    }

    /// Whether something else than the default was written.
    pub(super) fn is_changed(&self, path: &str) -> bool {
        let default = settings::find(path).and_then(settings::Setting::default_value);
        let default = default.as_ref().map(RawValue::kind);
        let is_default = |value: &RawValue| default.is_some_and(|kind| value.kind().is_same(kind));
        self.raw.get(path).is_some_and(|value| !is_default(value))
    }

    /// Reads a setting that has a default.
    pub(super) fn read<T>(
        &mut self,
        path: &'static str,
        parse: impl Fn(&RawValue) -> Result<T, Problem>,
    ) -> T {
        if let Some(value) = self.read_optional(path, &parse) {
            return value;
        }
        default(path, parse)
    }

    /// Reads a setting that may be absent.
    pub(super) fn read_optional<T>(
        &mut self,
        path: &'static str,
        parse: impl Fn(&RawValue) -> Result<T, Problem>,
    ) -> Option<T> {
        debug_assert!(settings::find(path).is_some(), "{path} is not in the table");
        let value = self.raw.get(path)?;
        let parsed = match value.kind() {
            RawKind::Unavailable(why) => Err(Problem::Unavailable(why.clone())),
            _ => parse(value),
        };
        match parsed {
            Ok(parsed) => Some(parsed),
            Err(problem) => {
                self.faults.push(Fault::new(path, Some(value), problem));
                None
            }
        }
    }

    /// Another one of the same, for settings of other sections: what is wrong with these is noted
    /// there.
    pub(super) fn aside(&self) -> Self {
        Self::of_known(self.raw, self.base)
    }

    pub(super) fn flag(&mut self, path: &'static str) -> bool {
        self.read(path, parse::flag)
    }

    pub(super) fn count(&mut self, path: &'static str, max: usize) -> NonZeroUsize {
        self.read(path, |value| {
            let count = parse::number(value, 1, max)?;
            Ok(NonZeroUsize::new(count).expect("the range begins at 1"))
        })
    }

    /// A number a second; 0 is any.
    pub(super) fn rate(&mut self, path: &'static str) -> Option<NonZeroU32> {
        self.read(path, |value| {
            Ok(parse::whole(parse::number(value, 0, 1_000_000)?))
        })
    }

    pub(super) fn size(&mut self, path: &'static str, min: usize, max: usize) -> usize {
        self.read(path, |value| parse::size(value, min, max))
    }

    pub(super) fn duration(
        &mut self,
        path: &'static str,
        min: Duration,
        max: Duration,
    ) -> Duration {
        self.read(path, |value| parse::duration(value, min, max))
    }

    /// Reads a duration or `off`.
    pub(super) fn interval(
        &mut self,
        path: &'static str,
        min: Duration,
        max: Duration,
    ) -> Option<Duration> {
        self.read(path, |value| match value.kind() {
            RawKind::Text(text) if text == "off" => Ok(None),
            _ => parse::duration(value, min, max).map(Some),
        })
    }

    pub(super) fn choice<T: Copy>(
        &mut self,
        path: &'static str,
        choices: &'static [(&'static str, T)],
    ) -> T {
        self.read(path, |value| parse::choice(value, choices))
    }

    pub(super) fn list<T>(
        &mut self,
        path: &'static str,
        parse: impl Fn(&str, &Path) -> Result<T, Problem>,
    ) -> Vec<T> {
        let base = self.base;
        let read = |value: &RawValue| {
            let base = parse::base_of(value, base);
            let texts = parse::texts(value)?.into_iter();
            texts.map(|item| parse(item, base)).collect()
        };
        // Each item that is wrong is told, with the place where it stands.
        if let Some(list) = self.raw.get(path)
            && let RawKind::List(items) = list.kind()
        {
            let faults = items.iter().filter_map(|item| {
                let base = parse::base_of(item, parse::base_of(list, base));
                let parsed = match item.kind() {
                    RawKind::Text(text) => parse(text, base).map(drop),
                    _ => Err(parse::wrong_type("a string in this list", item)),
                };
                let place = item.source().map_or(list, |_| item);
                Some(Fault::new(path, Some(place), parsed.err()?))
            });
            let faults: Vec<_> = faults.collect();
            if !faults.is_empty() {
                self.faults.extend(faults);
                return default(path, read);
            }
        }
        self.read(path, read)
    }

    pub(super) fn path(&mut self, path: &'static str) -> PathBuf {
        let base = self.base;
        self.read(path, |value| parse::file_path(value, base))
    }

    pub(super) fn optional_path(&mut self, path: &'static str) -> Option<PathBuf> {
        let base = self.base;
        self.read_optional(path, |value| parse::file_path(value, base))
    }

    /// Reads the address of a server; the path of a Unix socket is relative like any other.
    pub(super) fn address(&mut self, path: &'static str) -> Option<Address> {
        let base = self.base;
        self.read_optional(path, |value| {
            let text = parse::text(value)?;
            let address: Address = text.parse().map_err(|_| {
                Problem::malformed(
                    &text,
                    "an address like \"unix:/run/php/php-fpm.sock\" or \"127.0.0.1:9000\"",
                )
            })?;
            let path = address
                .unix_path()
                .map(|path| parse::base_of(value, base).join(path));
            Ok(path.map_or(address, Address::unix))
        })
    }

    /// Reads where sessions are kept: of the file of `sqlite` alone, the path is given.
    pub(super) fn store(&mut self, path: &'static str, default_file: &Path) -> StoreAddress {
        let base = self.base;
        self.read(path, |value| {
            let text = parse::text(value)?;
            let parsed = StoreAddress::parse(&text, parse::base_of(value, base), default_file);
            parsed.map_err(|_| Problem::Secret {
                expected: store::EXPECTED,
            })
        })
    }

    /// Reads where a database of somebody else's is.
    pub(super) fn database(&mut self, path: &'static str) -> Option<StoreAddress> {
        let base = self.base;
        self.read_optional(path, |value| {
            let text = parse::text(value)?;
            let is_bare = text == "memory" || text == "sqlite";
            let parsed = StoreAddress::parse(&text, parse::base_of(value, base), base);
            parsed.ok().filter(|_| !is_bare).ok_or(Problem::Secret {
                expected: "\"sqlite:PATH\", or a URL like \"mysql://USER:PASSWORD@HOST/DATABASE\", \
                           \"postgres://...\" or \"redis://...\"",
            })
        })
    }

    /// Reads a path; an empty one is none.
    pub(super) fn path_unless_empty(&mut self, path: &'static str) -> Option<PathBuf> {
        let base = self.base;
        self.read(path, |value| match parse::text(value)?.is_empty() {
            true => Ok(None),
            false => parse::file_path(value, base).map(Some),
        })
    }

    /// Reads a list of tables, each of which has these keys and no other. All of them are paths.
    pub(super) fn path_tables<const N: usize>(
        &mut self,
        path: &'static str,
        keys: [&'static str; N],
    ) -> Vec<[PathBuf; N]> {
        let tables = self.read_optional(path, parse::tables).unwrap_or_default();
        let mut found = Vec::new();
        for (index, table) in tables.iter().enumerate() {
            let path = format!("{path}[{index}]");
            for (name, value) in table {
                if !keys.contains(&name.as_str()) {
                    let near = |key: &&str| strsim::osa_distance(name, key) <= 2;
                    let nearest = keys.into_iter().find(near);
                    let nearest = nearest.map(|key| format!("{path}.{key}"));
                    let problem = Problem::UnknownKey { nearest };
                    let fault = Fault::new(format!("{path}.{name}"), Some(value), problem);
                    self.faults.push(fault);
                }
            }
            let paths = keys.map(|key| {
                let value = table.get(key);
                let read = match value {
                    Some(value) => parse::file_path(value, self.base),
                    None => Err(Problem::Conflict("is needed")),
                };
                read.map_err(|problem| {
                    let fault = Fault::new(format!("{path}.{key}"), value, problem);
                    self.faults.push(fault);
                })
                .unwrap_or_default()
            });
            found.push(paths);
        }
        found
    }

    pub(super) fn command(&mut self, path: &'static str) -> Option<Vec<String>> {
        let base = self.base;
        self.read_optional(path, |value| parse::command(value, base))
    }

    /// Reads a table of environment variables, none by default.
    pub(super) fn environment(&mut self, path: &'static str) -> BTreeMap<String, String> {
        let table = self.read_optional(path, |value| match value.kind() {
            RawKind::Table(table) => Ok(table.clone()),
            _ => Err(parse::wrong_type("a table", value)),
        });
        let mut environment = BTreeMap::new();
        for (name, value) in table.unwrap_or_default() {
            match parse::variable(&name, &value) {
                Ok(text) => {
                    environment.insert(name, text);
                }
                Err(problem) => self.faults.push(Fault::new(path, Some(&value), problem)),
            }
        }
        environment
    }
}

/// Reads what holds if a setting is not written.
fn default<T>(path: &'static str, parse: impl Fn(&RawValue) -> Result<T, Problem>) -> T {
    let setting = settings::find(path).expect("only settings of the table are read");
    let default = setting
        .default_value()
        .expect("a setting read like this has a default");
    parse(&default).expect("every default is valid")
}

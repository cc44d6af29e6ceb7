//! Reads settings out of a raw configuration and collects what is wrong.

use std::collections::BTreeMap;
use std::num::{NonZeroU32, NonZeroUsize};
use std::path::{Path, PathBuf};
use std::time::Duration;

use ws_ipc::Address;

use super::fault::{Fault, InvalidConfig, Problem};
use super::raw::{RawConfig, RawKind, RawValue};
use super::settings::{self, SETTINGS};
use super::units;
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
        let mut reader = Self::of_known(raw, base);
        reader.find_unknown();
        reader
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
        let is_default = |value: &RawValue| default.is_some_and(|kind| is_same(value.kind(), kind));
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
        self.read(path, flag)
    }

    pub(super) fn count(&mut self, path: &'static str, max: usize) -> NonZeroUsize {
        self.read(path, |value| {
            let count = number(value, 1, max)?;
            Ok(NonZeroUsize::new(count).expect("the range begins at 1"))
        })
    }

    /// A number a second; 0 is any.
    pub(super) fn rate(&mut self, path: &'static str) -> Option<NonZeroU32> {
        self.read(path, |value| Ok(whole(number(value, 0, 1_000_000)?)))
    }

    pub(super) fn size(&mut self, path: &'static str, min: usize, max: usize) -> usize {
        self.read(path, |value| size(value, min, max))
    }

    pub(super) fn duration(
        &mut self,
        path: &'static str,
        min: Duration,
        max: Duration,
    ) -> Duration {
        self.read(path, |value| duration(value, min, max))
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
            _ => duration(value, min, max).map(Some),
        })
    }

    pub(super) fn choice<T: Copy>(
        &mut self,
        path: &'static str,
        choices: &'static [(&'static str, T)],
    ) -> T {
        self.read(path, |value| choice(value, choices))
    }

    pub(super) fn list<T>(
        &mut self,
        path: &'static str,
        parse: impl Fn(&str, &Path) -> Result<T, Problem>,
    ) -> Vec<T> {
        let base = self.base;
        let read = |value: &RawValue| {
            let base = base_of(value, base);
            let texts = texts(value)?.into_iter();
            texts.map(|item| parse(item, base)).collect()
        };
        // Each item that is wrong is told, with the place where it stands.
        if let Some(list) = self.raw.get(path)
            && let RawKind::List(items) = list.kind()
        {
            let faults = items.iter().filter_map(|item| {
                let base = base_of(item, base_of(list, base));
                let parsed = match item.kind() {
                    RawKind::Text(text) => parse(text, base).map(drop),
                    _ => Err(wrong_type("a string in this list", item)),
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
        self.read(path, |value| file_path(value, base))
    }

    pub(super) fn optional_path(&mut self, path: &'static str) -> Option<PathBuf> {
        let base = self.base;
        self.read_optional(path, |value| file_path(value, base))
    }

    /// Reads the address of a server; the path of a Unix socket is relative like any other.
    pub(super) fn address(&mut self, path: &'static str) -> Option<Address> {
        let base = self.base;
        self.read_optional(path, |value| {
            let text = text(value)?;
            let address: Address = text.parse().map_err(|_| {
                malformed(
                    &text,
                    "an address like \"unix:/run/php/php-fpm.sock\" or \"127.0.0.1:9000\"",
                )
            })?;
            let path = address
                .unix_path()
                .map(|path| base_of(value, base).join(path));
            Ok(path.map_or(address, Address::unix))
        })
    }

    /// Reads where sessions are kept: of the file of `sqlite` alone, the path is given.
    pub(super) fn store(&mut self, path: &'static str, default_file: &Path) -> StoreAddress {
        let base = self.base;
        self.read(path, |value| {
            let text = text(value)?;
            let parsed = StoreAddress::parse(&text, base_of(value, base), default_file);
            parsed.map_err(|_| Problem::Secret {
                expected: store::EXPECTED,
            })
        })
    }

    /// Reads where a database of somebody else's is.
    pub(super) fn database(&mut self, path: &'static str) -> Option<StoreAddress> {
        let base = self.base;
        self.read_optional(path, |value| {
            let text = text(value)?;
            let is_bare = text == "memory" || text == "sqlite";
            let parsed = StoreAddress::parse(&text, base_of(value, base), base);
            parsed.ok().filter(|_| !is_bare).ok_or(Problem::Secret {
                expected: "\"sqlite:PATH\", or a URL like \"mysql://USER:PASSWORD@HOST/DATABASE\", \
                           \"postgres://...\" or \"redis://...\"",
            })
        })
    }

    /// Reads a path; an empty one is none.
    pub(super) fn path_unless_empty(&mut self, path: &'static str) -> Option<PathBuf> {
        let base = self.base;
        self.read(path, |value| match text(value)?.is_empty() {
            true => Ok(None),
            false => file_path(value, base).map(Some),
        })
    }

    /// Reads a list of tables, each of which has these keys and no other. All of them are paths.
    pub(super) fn path_tables<const N: usize>(
        &mut self,
        path: &'static str,
        keys: [&'static str; N],
    ) -> Vec<[PathBuf; N]> {
        let tables = self.read_optional(path, tables).unwrap_or_default();
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
                    Some(value) => file_path(value, self.base),
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
        self.read_optional(path, |value| command(value, base))
    }

    /// Reads a table of environment variables, none by default.
    pub(super) fn environment(&mut self, path: &'static str) -> BTreeMap<String, String> {
        let table = self.read_optional(path, |value| match value.kind() {
            RawKind::Table(table) => Ok(table.clone()),
            _ => Err(wrong_type("a table", value)),
        });
        let mut environment = BTreeMap::new();
        for (name, value) in table.unwrap_or_default() {
            match variable(&name, &value) {
                Ok(text) => {
                    environment.insert(name, text);
                }
                Err(problem) => self.faults.push(Fault::new(path, Some(&value), problem)),
            }
        }
        environment
    }

    fn find_unknown(&mut self) {
        for (name, value) in self.raw.sections() {
            self.find_unknown_in(name.to_owned(), value);
        }
    }

    fn find_unknown_in(&mut self, path: String, value: &RawValue) {
        if settings::find(&path).is_some() {
            return;
        }
        if !settings::is_section(&path) {
            self.faults.push(unknown(&path, value));
            return;
        }
        let RawKind::Table(entries) = value.kind() else {
            let problem = match value.kind() {
                RawKind::Unavailable(why) => Problem::Unavailable(why.clone()),
                _ => wrong_type("a table", value),
            };
            self.faults.push(Fault::new(&path, Some(value), problem));
            return;
        };
        for (name, value) in entries {
            self.find_unknown_in(format!("{path}.{name}"), value);
        }
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

/// Whether two values are the same, wherever they were written.
pub(super) fn is_same(one: &RawKind, other: &RawKind) -> bool {
    match (one, other) {
        (RawKind::Table(one), RawKind::Table(other)) => {
            let mut pairs = one.iter().zip(other);
            let is_same_entry =
                |((name, value), (other_name, other)): (
                    (&String, &RawValue),
                    (&String, &RawValue),
                )| { name == other_name && is_same(value.kind(), other.kind()) };
            one.len() == other.len() && pairs.all(is_same_entry)
        }
        (RawKind::List(one), RawKind::List(other)) => {
            let mut pairs = one.iter().zip(other);
            one.len() == other.len() && pairs.all(|(one, other)| is_same(one.kind(), other.kind()))
        }
        _ => one == other,
    }
}

fn unknown(path: &str, value: &RawValue) -> Fault {
    Fault::new(
        path,
        Some(value),
        Problem::UnknownKey {
            nearest: nearest(path),
        },
    )
}

/// Finds the name that was probably meant: a section, a whole path, or a key without its section.
fn nearest(path: &str) -> Option<String> {
    let distance = |name: &str| strsim::osa_distance(path, name);
    let key = path.rsplit('.').next().unwrap_or(path);
    let paths = SETTINGS.iter().map(|setting| {
        let bare = setting.path.rsplit('.').next().unwrap_or(setting.path);
        // In the wrong section, or in none, is a little farther than misspelled in the right one.
        (
            distance(setting.path).min(1 + strsim::osa_distance(key, bare)),
            setting.path,
        )
    });
    let sections = SETTINGS
        .iter()
        .map(|setting| (distance(setting.section()), setting.section()));
    // A section is meant where a section stands.
    let depth = |path: &str| path.matches('.').count();
    let sections = sections.filter(|(_, section)| depth(section) == depth(path));
    let best = sections
        .chain(paths)
        .min_by_key(|(distance, _)| *distance)?;
    (best.0 <= 1 + key.len() / 4).then(|| best.1.to_owned())
}

fn wrong_type(expected: &'static str, value: &RawValue) -> Problem {
    Problem::WrongType {
        expected,
        found: value.kind().name(),
    }
}

fn malformed(given: &str, expected: impl Into<String>) -> Problem {
    Problem::Malformed {
        given: given.to_owned(),
        expected: expected.into(),
    }
}

fn base_of<'v>(value: &'v RawValue, fallback: &'v Path) -> &'v Path {
    value.source().map_or(fallback, |source| source.base())
}

/// `"true"` is taken for true, because environment variables are strings.
pub(super) fn flag(value: &RawValue) -> Result<bool, Problem> {
    match value.kind() {
        RawKind::Boolean(value) => Ok(*value),
        RawKind::Text(text) => text.parse().map_err(|_| malformed(text, "true or false")),
        _ => Err(wrong_type("true or false", value)),
    }
}

pub(super) fn text(value: &RawValue) -> Result<String, Problem> {
    match value.kind() {
        RawKind::Text(text) => Ok(text.clone()),
        _ => Err(wrong_type("a string", value)),
    }
}

pub(super) fn number(value: &RawValue, min: usize, max: usize) -> Result<usize, Problem> {
    let (given, number) = match value.kind() {
        RawKind::Integer(number) => (number.to_string(), Some(*number)),
        RawKind::Text(text) if is_integer(text) => (text.clone(), text.parse::<i64>().ok()),
        RawKind::Text(text) => return Err(malformed(text, "an integer")),
        _ => return Err(wrong_type("an integer", value)),
    };
    let number = number.and_then(|number| usize::try_from(number).ok());
    number
        .filter(|number| (min..=max).contains(number))
        .ok_or_else(|| Problem::OutOfRange {
            given,
            min: min.to_string(),
            max: max.to_string(),
        })
}

/// A number of the range of a rate or a burst.
pub(super) fn whole(number: usize) -> Option<NonZeroU32> {
    NonZeroU32::new(u32::try_from(number).expect("it is at most a million"))
}

fn is_integer(text: &str) -> bool {
    let digits = text.strip_prefix('-').unwrap_or(text);
    !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit())
}

pub(super) fn size(value: &RawValue, min: usize, max: usize) -> Result<usize, Problem> {
    let (given, size) = match value.kind() {
        RawKind::Integer(bytes) => (bytes.to_string(), u64::try_from(*bytes).ok()),
        RawKind::Text(text) => match units::parse_size(text) {
            Some(size) => (text.clone(), Some(size)),
            None => return Err(malformed(text, "a size like \"64KiB\" (B, KiB, MiB, GiB)")),
        },
        _ => return Err(wrong_type("a size like \"64KiB\"", value)),
    };
    let size = size.and_then(|size| usize::try_from(size).ok());
    size.filter(|size| (min..=max).contains(size))
        .ok_or_else(|| Problem::OutOfRange {
            given,
            min: units::format_size(min as u64),
            max: units::format_size(max as u64),
        })
}

pub(super) fn duration(
    value: &RawValue,
    min: Duration,
    max: Duration,
) -> Result<Duration, Problem> {
    let RawKind::Text(text) = value.kind() else {
        return Err(wrong_type("a duration like \"30s\"", value));
    };
    let duration = units::parse_duration(text)
        .ok_or_else(|| malformed(text, "a duration like \"30s\" (ms, s, m, h, d)"))?;
    if !(min..=max).contains(&duration) {
        return Err(Problem::OutOfRange {
            given: text.clone(),
            min: units::format_duration(min),
            max: units::format_duration(max),
        });
    }
    Ok(duration)
}

pub(super) fn choice<T: Copy>(
    value: &RawValue,
    choices: &[(&'static str, T)],
) -> Result<T, Problem> {
    let text = text(value)?;
    let found = choices.iter().find(|(name, _)| *name == text);
    found.map(|(_, choice)| *choice).ok_or_else(|| {
        let names: Vec<String> = choices
            .iter()
            .map(|(name, _)| format!("{name:?}"))
            .collect();
        malformed(&text, format!("one of {}", names.join(", ")))
    })
}

/// A string is a list separated by commas, because environment variables are strings.
pub(super) fn texts(value: &RawValue) -> Result<Vec<&str>, Problem> {
    match value.kind() {
        RawKind::Text(text) => Ok(text
            .split(',')
            .map(str::trim)
            .filter(|item| !item.is_empty())
            .collect()),
        RawKind::List(values) => values
            .iter()
            .map(|value| match value.kind() {
                RawKind::Text(text) => Ok(text.as_str()),
                _ => Err(wrong_type("a list of strings", value)),
            })
            .collect(),
        _ => Err(wrong_type("a list of strings", value)),
    }
}

fn tables(value: &RawValue) -> Result<Vec<BTreeMap<String, RawValue>>, Problem> {
    let wrong = |found| wrong_type("a list of tables, as only a file can have it", found);
    let RawKind::List(values) = value.kind() else {
        return Err(wrong(value));
    };
    values
        .iter()
        .map(|value| match value.kind() {
            RawKind::Table(table) => Ok(table.clone()),
            _ => Err(wrong(value)),
        })
        .collect()
}

fn file_path(value: &RawValue, base: &Path) -> Result<PathBuf, Problem> {
    let path = text(value)?;
    if path.is_empty() || path.contains('\0') {
        return Err(malformed(&path, "a path"));
    }
    Ok(base_of(value, base).join(path))
}

/// A relative program with a slash in it is a path; without one it is looked up in `PATH`.
fn command(value: &RawValue, base: &Path) -> Result<Vec<String>, Problem> {
    let mut words = match value.kind() {
        RawKind::Text(text) => {
            shell_words::split(text).map_err(|_| malformed(text, "a command (a quote is open)"))?
        }
        RawKind::List(_) => texts(value)?.into_iter().map(str::to_owned).collect(),
        _ => return Err(wrong_type("a command", value)),
    };
    let Some(program) = words.first_mut().filter(|program| !program.is_empty()) else {
        return Err(malformed("", "a command"));
    };
    if program.contains('/') && program.starts_with(|first| first != '/') {
        let resolved = base_of(value, base).join(program.as_str());
        // A base directory that is not UTF-8 leaves the program relative to the working directory.
        if let Some(resolved) = resolved.to_str() {
            *program = resolved.to_owned();
        }
    }
    if let Some(word) = words.iter().find(|word| word.contains('\0')) {
        return Err(malformed(word, "an argument (it contains NUL)"));
    }
    Ok(words)
}

/// Reads an octal mode of at most 0777.
pub(super) fn mode(value: &RawValue) -> Result<u32, Problem> {
    let text = text(value)?;
    let digits = text.strip_prefix("0o").unwrap_or(&text);
    let valid = !digits.is_empty() && digits.bytes().all(|byte| (b'0'..=b'7').contains(&byte));
    let mode = if valid {
        u32::from_str_radix(digits, 8).ok()
    } else {
        None
    };
    mode.filter(|mode| *mode <= 0o777)
        .ok_or_else(|| malformed(&text, "a file mode in octal like \"0620\""))
}

/// Reads a variable and its value.
fn variable(name: &str, value: &RawValue) -> Result<String, Problem> {
    let first = |byte: u8| byte.is_ascii_alphabetic() || byte == b'_';
    let other = |byte: u8| first(byte) || byte.is_ascii_digit();
    if !name.bytes().next().is_some_and(first) || !name.bytes().all(other) {
        return Err(malformed(name, "the name of an environment variable"));
    }
    let text = match value.kind() {
        RawKind::Text(text) => text.clone(),
        RawKind::Integer(number) => number.to_string(),
        RawKind::Boolean(flag) => flag.to_string(),
        RawKind::Unavailable(why) => return Err(Problem::Unavailable(why.clone())),
        _ => return Err(wrong_type("a table of strings", value)),
    };
    match text.contains('\0') {
        true => Err(malformed(
            name,
            "an environment variable (its value contains NUL)",
        )),
        false => Ok(text),
    }
}

//! The configuration file: what it says, and where in it everything stands.
//!
//! The `config` crate reads TOML, too, but forgets lines and columns, and ends at the first error.

use std::borrow::Cow;
use std::fs::{File, OpenOptions};
use std::io::Read;
use std::os::unix::fs::{FileTypeExt, OpenOptionsExt};
use std::path::Path;
use std::sync::Arc;

use config::{Map, Value, ValueKind};
use nix::fcntl::OFlag;
use toml::Spanned;
use toml::de::{DeInteger, DeTable, DeValue};
use ws_server::config::{Position, Source, SourceKind};

use super::Layer;
use super::refusal::{Refusal, Told};

/// Far more than every setting needs; a file beyond it is not ours.
const MAX_FILE_SIZE: u64 = 1 << 20;

/// Reads the file.
///
/// # Errors
///
/// [`Refusal`] if it cannot be read, or is not TOML: then with everything that is wrong with it.
pub(super) fn read(path: &Path) -> Result<Layer, Refusal> {
    let name = path.display().to_string();
    let bytes = read_bytes(path).map_err(|error| {
        Refusal::from(Told::new(format!("cannot read {name}: {error:#}")).in_source(&name))
    })?;
    let text = match std::str::from_utf8(&bytes) {
        Ok(text) => text,
        Err(error) => {
            let before = String::from_utf8_lossy(&bytes[..error.valid_up_to()]);
            let lines = Lines::of(&before);
            let told = Told::new("this is not UTF-8").in_source(&name);
            return Err(told.at(lines.position(before.len())).into());
        }
    };
    parse(text, &name, path.parent().unwrap_or(path))
}

fn read_bytes(path: &Path) -> anyhow::Result<Vec<u8>> {
    // A FIFO that nobody writes to must not keep the server from starting.
    let mut options = OpenOptions::new();
    let options = options.read(true).custom_flags(OFlag::O_NONBLOCK.bits());
    let file: File = options.open(path)?;
    let kind = file.metadata()?.file_type();
    anyhow::ensure!(!kind.is_dir(), "it is a directory");
    anyhow::ensure!(
        !kind.is_fifo(),
        "it is a FIFO; on SIGHUP the file is read again, so it has to be one that stays"
    );
    let mut bytes = Vec::new();
    file.take(MAX_FILE_SIZE + 1).read_to_end(&mut bytes)?;
    anyhow::ensure!(
        bytes.len() as u64 <= MAX_FILE_SIZE,
        "it is larger than {MAX_FILE_SIZE} bytes"
    );
    Ok(bytes)
}

fn parse(text: &str, name: &str, base: &Path) -> Result<Layer, Refusal> {
    let lines = Lines::of(text);
    let (root, errors) = DeTable::parse_recoverable(text);
    if !errors.is_empty() {
        let told = errors.iter().map(|error| {
            let told = Told::new(error.message()).in_source(name);
            match error.span() {
                Some(span) => {
                    let position = lines.position(span.start);
                    told.at(position).showing(lines.line(position.line))
                }
                None => told,
            }
        });
        return Err(told.collect());
    }
    let mut reading = Reading {
        lines,
        name,
        base,
        layer: Layer::default(),
    };
    let values = reading.table(root.into_inner());
    reading.layer.values = values;
    Ok(reading.layer)
}

/// One file while it is turned into a [`Layer`].
struct Reading<'a> {
    lines: Lines<'a>,
    name: &'a str,
    base: &'a Path,
    layer: Layer,
}

impl Reading<'_> {
    fn table(&mut self, table: DeTable<'_>) -> Map<String, Value> {
        let entries = table.into_iter().map(|(key, value)| {
            let at = self.lines.position(key.span().start);
            (key.into_inner().into_owned(), self.value(at, value))
        });
        entries.collect()
    }

    /// Turns a value into one of the `config` crate's, whose origin is the key of its source.
    fn value(&mut self, key: Position, value: Spanned<DeValue<'_>>) -> Value {
        let position = self.lines.position(value.span().start);
        let origin = format!("{}:{}:{}", self.name, position.line, position.column);
        let kind = match value.into_inner() {
            DeValue::String(text) => ValueKind::String(Cow::into_owned(text)),
            DeValue::Integer(integer) => ValueKind::I64(whole(&integer)),
            DeValue::Float(float) => ValueKind::Float(float.as_str().parse().unwrap_or(f64::NAN)),
            DeValue::Boolean(flag) => ValueKind::Boolean(flag),
            // No setting is a date; what is said of it is that it is a string.
            DeValue::Datetime(date) => ValueKind::String(date.to_string()),
            DeValue::Array(items) => {
                let items = items.into_iter();
                let items = items.map(|item| {
                    let at = self.lines.position(item.span().start);
                    self.value(at, item)
                });
                ValueKind::Array(items.collect())
            }
            DeValue::Table(table) => ValueKind::Table(self.table(table)),
        };
        let source = Source::new(self.name, self.base).of_kind(SourceKind::File);
        let source = Arc::new(source.at(key, position));
        self.layer.sources.insert(origin.clone(), source);
        Value::new(Some(&origin), kind)
    }
}

/// What `i64` cannot hold is out of every setting's range, and reported as such.
fn whole(integer: &DeInteger<'_>) -> i64 {
    let text = integer.as_str();
    let out_of_range = match text.starts_with('-') {
        true => i64::MIN,
        false => i64::MAX,
    };
    i64::from_str_radix(text, integer.radix()).unwrap_or(out_of_range)
}

/// A text that is asked for lines and columns.
struct Lines<'a> {
    text: &'a str,
    /// Where each line begins.
    starts: Vec<usize>,
}

impl<'a> Lines<'a> {
    fn of(text: &'a str) -> Self {
        let ends = text.match_indices('\n').map(|(at, _)| at + 1);
        Self {
            text,
            starts: std::iter::once(0).chain(ends).collect(),
        }
    }

    /// Returns where a byte stands; one behind the end counts as the end.
    fn position(&self, at: usize) -> Position {
        let at = at.min(self.text.len());
        let line = self.starts.partition_point(|start| *start <= at);
        let before = self.text.get(self.starts[line - 1]..at);
        Position {
            line,
            column: 1 + before.map_or(0, |before| before.chars().count()),
        }
    }

    /// Returns a line without its end.
    fn line(&self, line: usize) -> &'a str {
        let rest = &self.text[self.starts[line - 1]..];
        rest.lines().next().unwrap_or("")
    }
}

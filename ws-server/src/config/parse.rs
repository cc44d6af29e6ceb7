//! What a value says, as the type that a setting has.

use std::collections::BTreeMap;
use std::num::NonZeroU32;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::fault::Problem;
use super::raw::{RawKind, RawValue};
use super::units;

/// `"true"` is taken for true, because environment variables are strings.
pub(super) fn flag(value: &RawValue) -> Result<bool, Problem> {
    match value.kind() {
        RawKind::Boolean(value) => Ok(*value),
        RawKind::Text(text) => text
            .parse()
            .map_err(|_| Problem::malformed(text, "true or false")),
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
        RawKind::Text(text) => return Err(Problem::malformed(text, "an integer")),
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
            None => {
                return Err(Problem::malformed(
                    text,
                    "a size like \"64KiB\" (B, KiB, MiB, GiB)",
                ));
            }
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
        .ok_or_else(|| Problem::malformed(text, "a duration like \"30s\" (ms, s, m, h, d)"))?;
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
        Problem::malformed(&text, format!("one of {}", names.join(", ")))
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

pub(super) fn tables(value: &RawValue) -> Result<Vec<BTreeMap<String, RawValue>>, Problem> {
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

pub(super) fn file_path(value: &RawValue, base: &Path) -> Result<PathBuf, Problem> {
    let path = text(value)?;
    if path.is_empty() || path.contains('\0') {
        return Err(Problem::malformed(&path, "a path"));
    }
    Ok(base_of(value, base).join(path))
}

/// A relative program with a slash in it is a path; without one it is looked up in `PATH`.
pub(super) fn command(value: &RawValue, base: &Path) -> Result<Vec<String>, Problem> {
    let mut words = match value.kind() {
        RawKind::Text(text) => shell_words::split(text)
            .map_err(|_| Problem::malformed(text, "a command (a quote is open)"))?,
        RawKind::List(_) => texts(value)?.into_iter().map(str::to_owned).collect(),
        _ => return Err(wrong_type("a command", value)),
    };
    let Some(program) = words.first_mut().filter(|program| !program.is_empty()) else {
        return Err(Problem::malformed("", "a command"));
    };
    if program.contains('/') && program.starts_with(|first| first != '/') {
        let resolved = base_of(value, base).join(program.as_str());
        // A base directory that is not UTF-8 leaves the program relative to the working directory.
        if let Some(resolved) = resolved.to_str() {
            *program = resolved.to_owned();
        }
    }
    if let Some(word) = words.iter().find(|word| word.contains('\0')) {
        return Err(Problem::malformed(word, "an argument (it contains NUL)"));
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
        .ok_or_else(|| Problem::malformed(&text, "a file mode in octal like \"0620\""))
}

/// Reads a variable and its value.
pub(super) fn variable(name: &str, value: &RawValue) -> Result<String, Problem> {
    let first = |byte: u8| byte.is_ascii_alphabetic() || byte == b'_';
    let other = |byte: u8| first(byte) || byte.is_ascii_digit();
    if !name.bytes().next().is_some_and(first) || !name.bytes().all(other) {
        return Err(Problem::malformed(
            name,
            "the name of an environment variable",
        ));
    }
    let text = match value.kind() {
        RawKind::Text(text) => text.clone(),
        RawKind::Integer(number) => number.to_string(),
        RawKind::Boolean(flag) => flag.to_string(),
        RawKind::Unavailable(why) => return Err(Problem::Unavailable(why.clone())),
        _ => return Err(wrong_type("a table of strings", value)),
    };
    match text.contains('\0') {
        true => Err(Problem::malformed(
            name,
            "an environment variable (its value contains NUL)",
        )),
        false => Ok(text),
    }
}

pub(super) fn wrong_type(expected: &'static str, value: &RawValue) -> Problem {
    Problem::WrongType {
        expected,
        found: value.kind().name(),
    }
}

pub(super) fn base_of<'v>(value: &'v RawValue, fallback: &'v Path) -> &'v Path {
    value.source().map_or(fallback, |source| source.base())
}

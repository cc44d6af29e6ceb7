//! What is wrong with a configuration.

use std::error::Error;
use std::fmt;

use ws_transport::InvalidListenAddr;

use super::raw::{Position, RawValue, Source};

/// A configuration that cannot be used, with everything that is wrong with it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InvalidConfig {
    faults: Vec<Fault>,
}

impl InvalidConfig {
    pub(crate) fn new(faults: Vec<Fault>) -> Self {
        Self { faults }
    }

    /// Returns the faults, at least one.
    pub fn faults(&self) -> &[Fault] {
        &self.faults
    }
}

/// Writes one fault per line.
impl fmt::Display for InvalidConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (at, fault) in self.faults.iter().enumerate() {
            if at > 0 {
                writeln!(f)?;
            }
            write!(f, "{fault}")?;
        }
        Ok(())
    }
}

impl Error for InvalidConfig {}

/// One thing that is wrong: where it was written, under which key, what it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fault {
    source: Option<String>,
    position: Option<Position>,
    path: String,
    problem: Problem,
}

impl Fault {
    pub(crate) fn new(path: impl Into<String>, value: Option<&RawValue>, problem: Problem) -> Self {
        let source = value.and_then(RawValue::source);
        let position = match problem {
            Problem::UnknownKey { .. } => source.and_then(Source::key_position),
            _ => source.and_then(Source::position),
        };
        Self {
            source: source.map(|source| source.name().to_owned()),
            position,
            path: path.into(),
            problem,
        }
    }

    /// Returns the file, environment variable or flag that is at fault, if known.
    pub fn source(&self) -> Option<&str> {
        self.source.as_deref()
    }

    /// Returns where in that file it stands: an unknown key itself, else the value.
    pub fn position(&self) -> Option<Position> {
        self.position
    }

    /// Returns the path of the key: `limits.max_connections`.
    pub fn path(&self) -> &str {
        &self.path
    }

    /// Returns what is wrong.
    pub fn problem(&self) -> &Problem {
        &self.problem
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(source) = &self.source {
            f.write_str(source)?;
            if let Some(Position { line, column }) = self.position {
                write!(f, ":{line}:{column}")?;
            }
            f.write_str(": ")?;
        }
        write!(f, "{}: {}", self.path, self.problem)
    }
}

/// What is wrong with one setting.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Problem {
    /// No setting has this name; `nearest` has one like it.
    #[error("unknown key{}", suggestion(nearest.as_deref()))]
    UnknownKey {
        /// The path of the setting that was probably meant.
        nearest: Option<String>,
    },
    /// The value is of another type.
    #[error("expected {expected}, found {found}")]
    WrongType {
        /// The type of the setting.
        expected: &'static str,
        /// The type of the value.
        found: &'static str,
    },
    /// The value cannot be read as what the setting is.
    #[error("{given:?} is not {expected}")]
    Malformed {
        /// The value as written.
        given: String,
        /// What it should be.
        expected: String,
    },
    /// The value cannot be read, and may hold a password: it is not repeated.
    #[error("expected {expected}")]
    Secret {
        /// What it should be.
        expected: &'static str,
    },
    /// The value is not an address to listen on.
    #[error("{given:?}: {fault}")]
    Address {
        /// The value as written.
        given: String,
        /// What is wrong with it.
        fault: InvalidListenAddr,
    },
    /// The value is readable, but outside the allowed range.
    #[error("{given} is not between {min} and {max}")]
    OutOfRange {
        /// The value as written.
        given: String,
        /// The least allowed value.
        min: String,
        /// The greatest allowed value.
        max: String,
    },
    /// The value could not be had, or what it names cannot be used.
    #[error("{0}")]
    Unavailable(String),
    /// The value does not go with another setting.
    #[error("{0}")]
    Conflict(&'static str),
}

impl Problem {
    pub(super) fn malformed(given: impl Into<String>, expected: impl Into<String>) -> Self {
        Self::Malformed {
            given: given.into(),
            expected: expected.into(),
        }
    }
}

fn suggestion(nearest: Option<&str>) -> String {
    nearest
        .map(|name| format!(", did you mean {name}?"))
        .unwrap_or_default()
}

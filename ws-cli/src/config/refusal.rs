//! A configuration that is refused, as its owner is told.

use std::fmt::{self, Display, Write};

use serde::Serialize;
use ws_server::config::{Fault, InvalidConfig, Position};

use crate::failure::{Code, Failure};
use crate::output;

/// Everything that is wrong with a configuration, at least one thing.
#[derive(Clone, Debug)]
pub(crate) struct Refusal {
    told: Vec<Told>,
    /// That of a bad configuration, but for an application that was asked and failed.
    code: Code,
}

impl Refusal {
    /// Says what is wrong with a flag.
    pub(crate) fn of_flag(flag: &str, problem: &str) -> Self {
        Told::new(problem).in_source(flag).into()
    }

    /// Says why an application could not be asked what it configures.
    pub(crate) fn of_application(failure: &Failure) -> Self {
        Self {
            code: failure.code(),
            ..Told::new(failure.to_string()).into()
        }
    }

    pub(crate) fn told(&self) -> &[Told] {
        &self.told
    }
}

/// One thing that is wrong.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Told {
    /// The file, the variable or the flag.
    source: Option<String>,
    #[serde(flatten)]
    position: Option<Place>,
    /// The setting.
    path: Option<String>,
    problem: String,
    /// The line in which it is.
    #[serde(skip_serializing_if = "Option::is_none")]
    text: Option<String>,
}

#[derive(Clone, Copy, Debug, Serialize)]
struct Place {
    line: usize,
    column: usize,
}

impl Told {
    pub(super) fn new(problem: impl Into<String>) -> Self {
        Self {
            source: None,
            position: None,
            path: None,
            problem: problem.into(),
            text: None,
        }
    }

    pub(super) fn in_source(mut self, name: &str) -> Self {
        self.source = Some(name.to_owned());
        self
    }

    pub(super) fn at(mut self, position: Position) -> Self {
        let Position { line, column } = position;
        self.position = Some(Place { line, column });
        self
    }

    /// Adds the line in which it is, without the passwords in it.
    pub(super) fn showing(mut self, line: &str) -> Self {
        self.text = Some(shown(line));
        self
    }
}

impl From<&Fault> for Told {
    fn from(fault: &Fault) -> Self {
        let mut told = Self::new(fault.problem().to_string());
        told.source = fault.source().map(str::to_owned);
        told.path = Some(fault.path().to_owned());
        match fault.position() {
            Some(position) => told.at(position),
            None => told,
        }
    }
}

impl Display for Told {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(source) = &self.source {
            f.write_str(source)?;
            if let Some(Place { line, column }) = self.position {
                write!(f, ":{line}:{column}")?;
            }
            f.write_str(": ")?;
        }
        if let Some(path) = &self.path {
            write!(f, "{path}: ")?;
        }
        f.write_str(&self.problem)?;
        if let (Some(text), Some(Place { line, .. })) = (&self.text, self.position) {
            write!(f, "\n    {line} | {text}")?;
        }
        Ok(())
    }
}

impl Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut told = String::new();
        for one in &self.told {
            write!(told, "\n{one}")?;
        }
        if self.code != Code::Configuration {
            return f.write_str(told.trim_start());
        }
        f.write_str("bad configuration")?;
        f.write_str(&told.replace('\n', "\n  "))
    }
}

impl std::error::Error for Refusal {}

impl From<Told> for Refusal {
    fn from(told: Told) -> Self {
        Self {
            told: vec![told],
            code: Code::Configuration,
        }
    }
}

impl FromIterator<Told> for Refusal {
    fn from_iter<I: IntoIterator<Item = Told>>(told: I) -> Self {
        Self {
            told: told.into_iter().collect(),
            code: Code::Configuration,
        }
    }
}

impl From<&InvalidConfig> for Refusal {
    fn from(invalid: &InvalidConfig) -> Self {
        invalid.faults().iter().map(Told::from).collect()
    }
}

impl From<Refusal> for Failure {
    fn from(refusal: Refusal) -> Self {
        Self::with_code(refusal.code, refusal)
    }
}

/// Characters of a line that are shown.
const MAX_SHOWN: usize = 100;

/// Makes a line fit to be shown: a value may be a secret, and whether it is cannot be told where the
/// syntax is wrong. So keys and sections are shown.
fn shown(line: &str) -> String {
    let line = match line.split_once('=') {
        Some((key, _)) if !key.contains(['"', '\'']) => format!("{}= ...", key),
        _ if line.trim_start().starts_with('[') => line.to_owned(),
        _ => "...".to_owned(),
    };
    match line.char_indices().nth(MAX_SHOWN) {
        Some((end, _)) => output::printable(&line[..end]) + "...",
        None => output::printable(&line),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn t70_the_line_that_is_shown_has_no_secret() {
        assert_eq!(shown("store = \"mysql://ws:canary@host/db"), "store = ...");
        assert_eq!(shown("API_KEY = \"canary"), "API_KEY = ...");
        assert_eq!(shown("canary\""), "...");
        assert_eq!(shown("'canary' = 1"), "...");
        assert_eq!(shown("[server"), "[server");
        let long = shown(&format!("[{}", "é\u{1b}".repeat(99)));
        assert!(long.ends_with("...") && !long.contains('\u{1b}'), "{long}");
    }
}

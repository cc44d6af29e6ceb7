//! Colours, where somebody looks who wants them.

use std::env;
use std::io::IsTerminal;

/// Paints text, or leaves it as it is.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Paint {
    is_on: bool,
}

impl Paint {
    /// Colours for what goes to a terminal, unless `NO_COLOR` is set (<https://no-color.org>) or the
    /// terminal says that it has none.
    pub(crate) fn on(stream: &impl IsTerminal) -> Self {
        Self {
            is_on: stream.is_terminal() && is_wanted(),
        }
    }

    /// No colours.
    #[cfg(test)]
    pub(crate) fn none() -> Self {
        Self { is_on: false }
    }

    /// What stands above or before the rest.
    pub(crate) fn head(self, text: &str) -> String {
        self.wrap("1", text)
    }

    /// What is wrong.
    pub(crate) fn wrong(self, text: &str) -> String {
        self.wrap("31", text)
    }

    /// What is well.
    pub(crate) fn well(self, text: &str) -> String {
        self.wrap("32", text)
    }

    /// What is said besides.
    pub(crate) fn aside(self, text: &str) -> String {
        self.wrap("2", text)
    }

    /// What comes from the other side.
    pub(crate) fn theirs(self, text: &str) -> String {
        self.wrap("36", text)
    }

    fn wrap(self, code: &str, text: &str) -> String {
        match self.is_on && !text.is_empty() {
            true => format!("\u{1b}[{code}m{text}\u{1b}[0m"),
            false => text.to_owned(),
        }
    }
}

/// Whether whoever looks wants colours.
pub(crate) fn is_wanted() -> bool {
    let is_unset = |name| env::var_os(name).is_none_or(|value| value.is_empty());
    is_unset("NO_COLOR") && env::var_os("TERM").is_none_or(|term| term != "dumb")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_is_left_alone_without_colours() {
        assert_eq!(Paint::none().wrong("down"), "down");
        assert_eq!(
            Paint { is_on: true }.wrong("down"),
            "\u{1b}[31mdown\u{1b}[0m"
        );
        assert_eq!(Paint { is_on: true }.wrong(""), "");
    }
}

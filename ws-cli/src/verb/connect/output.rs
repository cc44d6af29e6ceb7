//! Where messages and what is said of them go.

use std::io::{self, IsTerminal, Write};

use super::show::Look;
use super::typing::Editor;
use crate::args::ConnectArgs;
use crate::failure::Failure;
use crate::output;
use crate::paint::Paint;

/// Where messages and what is said of them go.
pub(super) struct Output {
    pub(super) look: Look,
    paint: Paint,
    /// `None`: messages are stdout's, and what is said of them stderr's.
    editor: Option<Editor>,
}

impl Output {
    pub(super) fn pipes(args: &ConnectArgs) -> Self {
        Self {
            look: Look::of(args, io::stdout().is_terminal()),
            paint: Paint::on(&io::stderr()),
            editor: None,
        }
    }

    pub(super) fn terminal(args: &ConnectArgs, editor: Editor) -> Self {
        Self {
            look: Look::of(args, true),
            paint: Paint::on(&io::stdout()),
            editor: Some(editor),
        }
    }

    /// Whether a line is edited, and what is printed goes above it.
    pub(super) fn is_talk(&self) -> bool {
        self.editor.is_some()
    }

    /// Shows what the server has sent.
    pub(super) fn message(&mut self, shown: &str) -> Result<(), Failure> {
        let Some(editor) = &mut self.editor else {
            output::line(shown)?;
            // Whoever reads it through a pipe does not wait for the next.
            return Ok(io::stdout().flush()?);
        };
        let first = self.paint.theirs("<");
        // The further lines of one message stand under its first.
        editor.print(format!("{first} {}\n", shown.replace('\n', "\n  ")));
        Ok(())
    }

    /// Says something besides.
    pub(super) fn notice(&mut self, text: &str) {
        let line = self.paint.aside(&format!("* {text}"));
        match &mut self.editor {
            Some(editor) => editor.print(line + "\n"),
            // Nobody is left to tell if stderr cannot be written.
            None => drop(writeln!(io::stderr(), "{line}")),
        }
    }
}

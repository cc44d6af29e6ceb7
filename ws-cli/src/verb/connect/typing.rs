//! Where lines come from: a pipe, or a person who edits them while messages come.

use std::fs::DirBuilder;
use std::io::{self, BufRead, Write};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::sync::mpsc as threads;
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::Context;
use nix::sys::signal::{Signal, raise};
use rustyline::ExternalPrinter;
use rustyline::error::ReadlineError;
use rustyline::history::FileHistory;
use tokio::sync::mpsc;

use super::output::Output;
use crate::args::ConnectArgs;
use crate::failure::Failure;

/// Lines of a pipe that are read ahead of what the server takes.
const LINES_AHEAD: usize = 64;
/// Lines that are kept from one time to the next.
const MAX_HISTORY: usize = 1000;
const PROMPT: &str = "> ";
/// Moves the cursor up and down again, when it stands at the begin of a line.
const NOTHING: &str = "\u{1b}[A\n";
/// How long what is printed may take to appear before the end.
const PRINT_TIMEOUT: Duration = Duration::from_millis(500);

/// What comes in by the keyboard or a pipe.
#[derive(Debug)]
pub(super) enum Typed {
    Line(String),
    /// Something that whoever types should know.
    Notice(String),
}

/// The lines, as they come.
pub(super) enum Lines {
    Piped(mpsc::Receiver<io::Result<String>>),
    /// Without a bound: a person types, and the editor must never wait for the session, which may
    /// wait for it.
    Edited(mpsc::UnboundedReceiver<io::Result<Typed>>),
}

impl Lines {
    /// The lines of stdin. The thread that reads them is left behind at the end: it may wait for a
    /// line that nobody writes.
    pub(super) fn piped() -> Self {
        let (sender, receiver) = mpsc::channel(LINES_AHEAD);
        std::thread::spawn(move || {
            for line in io::stdin().lock().lines() {
                if sender.blocking_send(line).is_err() {
                    return;
                }
            }
        });
        Self::Piped(receiver)
    }

    /// `None` at the end.
    pub(super) async fn next(&mut self) -> Option<io::Result<Typed>> {
        match self {
            Self::Piped(lines) => Some(lines.recv().await?.map(Typed::Line)),
            Self::Edited(lines) => lines.recv().await,
        }
    }
}

/// Begins to read lines from the terminal, and to print above them.
pub(super) fn begin(args: &ConnectArgs) -> Result<(Lines, Output), Failure> {
    let (lines, editor) = Editor::begin().context("cannot use this terminal")?;
    Ok((Lines::Edited(lines), Output::terminal(args, editor)))
}

/// The line that is edited. Dropped, it gives the terminal back as it was.
pub(super) struct Editor {
    /// Without a bound, as the terminal may stand still while a person searches the history, and
    /// pings are to be answered all the same.
    printing: Option<threads::Sender<String>>,
    /// Ends when all is printed.
    printed: threads::Receiver<()>,
    reading: Option<JoinHandle<()>>,
}

impl Editor {
    fn begin() -> Result<(mpsc::UnboundedReceiver<io::Result<Typed>>, Self), ReadlineError> {
        let config = rustyline::Config::builder()
            .max_history_size(MAX_HISTORY)?
            .history_ignore_dups(true)?
            .history_ignore_space(true)
            .auto_add_history(true)
            .enable_signals(true)
            .build();
        let mut editor = rustyline::Editor::<(), FileHistory>::with_config(config)?;
        let mut printer = editor.create_external_printer()?;
        let (printing, texts) = threads::channel::<String>();
        let (is_printed, printed) = threads::channel();
        std::thread::spawn(move || {
            for text in texts {
                if printer.print(text.clone()).is_err() {
                    // Nobody edits any more.
                    let _ = io::stdout().write_all(text.as_bytes());
                }
            }
            drop(is_printed);
        });
        let (sender, lines) = mpsc::unbounded_channel();
        let reading = std::thread::spawn(move || {
            let history = history_path();
            if let Some(path) = &history {
                // There is none the first time.
                let _ = editor.load_history(path);
            }
            read(&mut editor, history.as_deref(), &sender);
        });
        let this = Self {
            printing: Some(printing),
            printed,
            reading: Some(reading),
        };
        Ok((lines, this))
    }

    /// Prints whole lines above the one that is edited.
    pub(super) fn print(&mut self, text: String) {
        if let Some(printing) = &self.printing {
            // It ends with the editor.
            let _ = printing.send(text);
        }
    }
}

impl Drop for Editor {
    fn drop(&mut self) {
        let Some(reading) = self.reading.take() else {
            return;
        };
        if !reading.is_finished() {
            // The editor has one text in hand and one before it: when it has taken these two, it
            // has printed what came before.
            self.print(NOTHING.to_owned());
            self.print(NOTHING.to_owned());
        }
        self.printing = None;
        // The thread says nothing: it ends.
        let _ = self.printed.recv_timeout(PRINT_TIMEOUT);
        if !reading.is_finished() {
            // The editor takes it for Ctrl-C, and sets the terminal as it was before. Nobody else
            // is hurt: the process catches the signal.
            let _ = raise(Signal::SIGINT);
        }
        // It has nothing left to say.
        let _ = reading.join();
    }
}

/// Reads lines until their end.
fn read(
    editor: &mut rustyline::Editor<(), FileHistory>,
    history: Option<&Path>,
    lines: &mpsc::UnboundedSender<io::Result<Typed>>,
) {
    let mut is_kept = true;
    loop {
        let line = match editor.readline(PROMPT) {
            Ok(line) => line,
            Err(ReadlineError::Io(error)) => {
                let _ = lines.send(Err(error));
                return;
            }
            Err(ReadlineError::Errno(errno)) => {
                let _ = lines.send(Err(errno.into()));
                return;
            }
            // Ctrl-D, Ctrl-C, or the end of the session.
            Err(_) => return,
        };
        if lines.send(Ok(Typed::Line(line))).is_err() {
            return;
        }
        if let (true, Some(path)) = (is_kept, history)
            && let Err(error) = keep(editor, path)
        {
            is_kept = false;
            let notice = format!("no history is kept in {}: {error}", path.display());
            let _ = lines.send(Ok(Typed::Notice(notice)));
        }
    }
}

/// Adds what is new to the file, which only its owner may read.
fn keep(editor: &mut rustyline::Editor<(), FileHistory>, path: &Path) -> Result<(), ReadlineError> {
    if let Some(directory) = path.parent() {
        DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(directory)?;
    }
    editor.append_history(path)
}

/// `$XDG_STATE_HOME/ws/history`, or that in `~/.local/state`.
fn history_path() -> Option<PathBuf> {
    let absolute = |name| {
        std::env::var_os(name)
            .map(PathBuf::from)
            .filter(|it| it.is_absolute())
    };
    let state = absolute("XDG_STATE_HOME");
    let state = state.or_else(|| Some(absolute("HOME")?.join(".local/state")));
    Some(state?.join("ws/history"))
}

//! The last lines of the log, for those who look at the server from afar.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{SystemTime, UNIX_EPOCH};

use tokio::sync::watch;

/// Lines that are kept.
const MAX_LINES: usize = 1000;
/// Bytes that are kept, however few lines that are.
const MAX_SIZE: usize = 512 * 1024;
/// Bytes of a line that are kept.
const MAX_LINE_SIZE: usize = 4096;

/// Keeps the last lines of the log in memory: at most 1000, 4 KiB of each and 512 KiB together.
///
/// The server sets up no log, so whoever does writes to this what it writes elsewhere, and the
/// control API shows it (`GET /v1/log`). Clones are the same.
#[derive(Clone, Debug, Default)]
pub struct LogTail(Arc<Tail>);

#[derive(Debug)]
struct Tail {
    /// Tells this run of the server from others, whose lines have the same numbers.
    run: u64,
    lines: Mutex<Lines>,
    /// Tells followers that there are more.
    news: watch::Sender<()>,
}

impl Default for Tail {
    fn default() -> Self {
        let since = SystemTime::now().duration_since(UNIX_EPOCH);
        Self {
            run: since.map_or(0, |since| since.as_secs()),
            lines: Mutex::default(),
            news: watch::Sender::default(),
        }
    }
}

#[derive(Debug, Default)]
struct Lines {
    kept: VecDeque<Box<str>>,
    size: usize,
    /// The number of the line that will come next; the first is 0.
    next: u64,
}

/// What a follower gets.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Part {
    /// The number of the first line in it.
    pub(crate) first: u64,
    pub(crate) lines: Vec<Box<str>>,
    /// How many before that are not kept any more.
    pub(crate) missed: u64,
}

impl LogTail {
    /// Takes whole lines, as they are written to the log. Escape sequences, with which a terminal
    /// is told colours, and other control characters are left out.
    pub fn write(&self, text: &[u8]) {
        let lines = text.split(|byte| *byte == b'\n');
        let lines = lines.filter(|line| !line.is_empty());
        {
            let mut kept = self.lines();
            lines.for_each(|line| kept.push(shown(line)));
        }
        self.0.news.send_replace(());
    }

    /// The number at which a follower begins who wants to see so many lines that are there already.
    pub(crate) fn before_end(&self, count: usize) -> u64 {
        let lines = self.lines();
        lines.next - count.min(lines.kept.len()) as u64
    }

    /// At most so many lines from this number on.
    pub(crate) fn from(&self, number: u64, max: usize) -> Part {
        let lines = self.lines();
        let oldest = lines.next - lines.kept.len() as u64;
        let number = number.min(lines.next);
        let first = number.max(oldest);
        let skip = usize::try_from(first - oldest).unwrap_or(usize::MAX);
        Part {
            first,
            lines: lines.kept.iter().skip(skip).take(max).cloned().collect(),
            missed: first - number,
        }
    }

    /// The id of a line by its number.
    pub(crate) fn id(&self, number: u64) -> String {
        format!("{}-{number}", self.0.run)
    }

    /// The number behind that of a line with this id. All lines are behind one of another run.
    pub(crate) fn behind(&self, id: &str) -> u64 {
        let number = id.split_once('-').and_then(|(run, number)| {
            let is_ours = run.parse() == Ok(self.0.run);
            is_ours.then(|| number.parse::<u64>().ok()).flatten()
        });
        number.map_or(0, |number| number.saturating_add(1))
    }

    /// Is told when there are more lines.
    pub(crate) fn news(&self) -> watch::Receiver<()> {
        self.0.news.subscribe()
    }

    fn lines(&self) -> MutexGuard<'_, Lines> {
        // Nothing is left half done under this lock.
        self.0.lines.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Lines {
    fn push(&mut self, line: Box<str>) {
        self.size += line.len();
        self.kept.push_back(line);
        self.next += 1;
        while self.kept.len() > MAX_LINES || self.size > MAX_SIZE {
            self.size -= self.kept.pop_front().map_or(0, |line| line.len());
        }
    }
}

/// A line without what only a terminal understands, and no longer than may be.
fn shown(line: &[u8]) -> Box<str> {
    // What is behind this would be cut off anyway.
    let line = &line[..line.len().min(4 * MAX_LINE_SIZE)];
    let text = String::from_utf8_lossy(line);
    // As good as every line.
    if text.len() <= MAX_LINE_SIZE && text.bytes().all(|byte| matches!(byte, b' '..=b'~')) {
        return text.into();
    }
    let mut shown = String::with_capacity(text.len().min(MAX_LINE_SIZE));
    let mut rest = text.chars();
    while let Some(character) = rest.next() {
        if character == '\u{1b}' {
            skip_sequence(&mut rest);
        } else if !character.is_control() || character == '\t' {
            if shown.len() + character.len_utf8() > MAX_LINE_SIZE {
                break;
            }
            shown.push(character);
        }
    }
    shown.into_boxed_str()
}

/// Passes over the rest of a control sequence (ECMA-48 §5.4): parameters up to a final byte.
fn skip_sequence(rest: &mut std::str::Chars<'_>) {
    if rest.as_str().starts_with('[') {
        rest.next();
        rest.find(|character| matches!(character, '@'..='~'));
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn texts(part: &Part) -> Vec<&str> {
        part.lines.iter().map(|line| &**line).collect()
    }

    #[test]
    fn a_follower_gets_each_line_once_and_hears_of_those_that_are_gone() {
        let tail = LogTail::default();
        tail.write(b"one\ntwo\n");
        tail.write(b"three\n");
        let part = tail.from(tail.before_end(2), 9);
        assert_eq!((part.first, part.missed), (1, 0));
        assert_eq!(texts(&part), ["two", "three"]);
        assert_eq!(texts(&tail.from(0, 1)), ["one"]);
        assert!(tail.from(3, 9).lines.is_empty());
        for number in 3..2003 {
            tail.write(format!("line {number}\n").as_bytes());
        }
        let part = tail.from(3, 2);
        assert_eq!((part.first, part.missed), (1003, 1000));
        assert_eq!(texts(&part), ["line 1003", "line 1004"]);
        assert_eq!(tail.before_end(5000), 1003);
    }

    #[test]
    fn an_id_leads_behind_its_line_and_one_of_another_run_to_the_beginning() {
        let tail = LogTail::default();
        tail.write(b"one\ntwo\n");
        assert_eq!(tail.behind(&tail.id(0)), 1);
        for foreign in ["1-0", "0", "", "-", "x-y", "\u{ff}"] {
            assert_eq!(tail.behind(foreign), 0, "{foreign}");
        }
        let part = tail.from(tail.behind(&tail.id(u64::MAX)), 9);
        assert_eq!((part.first, part.lines.len(), part.missed), (2, 0, 0));
    }

    #[test]
    fn t71_colours_and_control_characters_are_left_out() {
        for (line, expected) in [
            (
                "\u{1b}[2m12:00\u{1b}[0m \u{1b}[1;32mINFO\u{1b}[0m ok",
                "12:00 INFO ok",
            ),
            ("a\u{7}b\rc\td\u{9b}e", "abc\tde"),
            ("cut off \u{1b}[3", "cut off "),
            ("\u{1b}", ""),
        ] {
            assert_eq!(&*shown(line.as_bytes()), expected);
        }
        assert_eq!(&*shown(b"\xff{}"), "\u{fffd}{}");
    }

    #[tokio::test]
    async fn followers_are_told_of_news() {
        let tail = LogTail::default();
        let mut news = tail.news();
        assert!(!news.has_changed().unwrap());
        tail.write(b"x\n");
        news.changed().await.unwrap();
    }

    proptest! {
        #[test]
        fn prop_what_is_kept_is_bounded_and_the_newest(
            lines in prop::collection::vec((0_usize..9000, "[a-zä\u{1b}\\[;]{0,9}"), 0..300),
        ) {
            let tail = LogTail::default();
            for (length, text) in &lines {
                tail.write(format!("{text}{}.\n", "x".repeat(*length)).as_bytes());
            }
            let part = tail.from(0, usize::MAX);
            let size: usize = part.lines.iter().map(|line| line.len()).sum();
            prop_assert!(part.lines.len() <= MAX_LINES && size <= MAX_SIZE);
            prop_assert!(part.lines.iter().all(|line| line.len() <= MAX_LINE_SIZE));
            prop_assert_eq!(part.first, part.missed);
            prop_assert_eq!(part.first + part.lines.len() as u64, lines.len() as u64);
            prop_assert_eq!(tail.lines().size, size);
        }
    }
}

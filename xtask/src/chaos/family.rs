//! The processes around a server: its helpers, and what they run.

use std::fs;

use anyhow::{Context as _, Result};
use nix::errno::Errno;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::chaos::subject::Subject;
use crate::process;

/// What the system says of a process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct State {
    letter: char,
    parent: u32,
}

impl State {
    fn of(id: u32) -> Option<Self> {
        Self::read(&fs::read_to_string(format!("/proc/{id}/stat")).ok()?)
    }

    /// From a line of `/proc/PID/stat`, where the name may hold anything, parentheses too.
    fn read(stat: &str) -> Option<Self> {
        let mut fields = stat.rsplit_once(')')?.1.split_ascii_whitespace();
        Some(Self {
            letter: fields.next()?.parse().ok()?,
            parent: fields.next()?.parse().ok()?,
        })
    }
}

/// The processes that start all others.
pub(crate) fn spawners(subject: &Subject) -> Vec<u32> {
    helpers(subject, |line| line.contains("\0__spawner"))
}

/// The processes that the server's helpers run: callbacks, workers, and what these started.
pub(crate) fn strangers(subject: &Subject) -> Vec<u32> {
    // What has no command line is in the middle of its end, or of its start.
    helpers(subject, |line| !line.is_empty() && !line.contains("\0__"))
}

/// Of these, those that a spawner has started itself: callbacks, workers, fork servers.
pub(crate) fn started(subject: &Subject) -> Vec<u32> {
    let spawners = spawners(subject);
    let is_started =
        |id: &u32| State::of(*id).is_some_and(|state| spawners.contains(&state.parent));
    strangers(subject).into_iter().filter(is_started).collect()
}

/// What those have started: the children of a fork server.
pub(crate) fn offspring(subject: &Subject) -> Vec<u32> {
    let started = started(subject);
    let mut strangers = strangers(subject);
    strangers.retain(|id| !started.contains(id));
    strangers
}

fn helpers(subject: &Subject, is_one: impl Fn(&str) -> bool) -> Vec<u32> {
    let is_one = |id: &u32| {
        let line = fs::read(format!("/proc/{id}/cmdline")).unwrap_or_default();
        is_one(&String::from_utf8_lossy(&line))
    };
    let descendants = process::descendants(subject.id());
    descendants.into_iter().filter(is_one).collect()
}

/// Kills a process that is known to be in the middle of something. It is stopped first: what is
/// seen stopped has not ended by itself, and cannot before it is killed. Tells whether it was hit.
pub(crate) fn strike(id: u32) -> Result<bool> {
    if !signal(id, Signal::SIGSTOP)? {
        return Ok(false);
    }
    loop {
        match State::of(id).map(|state| state.letter) {
            Some('T' | 't') => return signal(id, Signal::SIGKILL),
            // It was faster.
            Some('Z' | 'X') | None => return Ok(false),
            Some(_) => std::thread::yield_now(),
        }
    }
}

/// Sends a signal; tells whether there was somebody to get it.
pub(crate) fn signal(id: u32, signal: Signal) -> Result<bool> {
    match kill(Pid::from_raw(i32::try_from(id)?), signal) {
        Ok(()) => Ok(true),
        Err(Errno::ESRCH) => Ok(false),
        Err(error) => Err(error).context("cannot send a signal"),
    }
}

/// The living processes of the machine with this word in their command lines.
pub(crate) fn with_word(word: &str) -> Vec<u32> {
    let own = std::process::id();
    let has_word = |id: &u32| {
        let line = fs::read(format!("/proc/{id}/cmdline")).unwrap_or_default();
        *id != own
            && line
                .split(|byte| *byte == 0)
                .any(|it| it == word.as_bytes())
    };
    // Process 1 is nobody's descendant that could be ours.
    let everybody = process::descendants(0);
    everybody.into_iter().filter(has_word).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn state_and_parent_stand_behind_a_name_with_parentheses() {
        let expected = State {
            letter: 'T',
            parent: 7,
        };
        assert_eq!(State::read("43 (a) b (c)) T 7 42 42"), Some(expected));
        assert_eq!(State::read("43 (a"), None);
    }

    #[test]
    fn who_is_struck_has_not_ended_by_itself() {
        let mut command = std::process::Command::new("sleep");
        let mut child = command.arg("600").spawn().unwrap();
        assert!(strike(child.id()).unwrap());
        let status = child.wait().unwrap();
        assert_eq!(
            std::os::unix::process::ExitStatusExt::signal(&status),
            Some(Signal::SIGKILL as i32)
        );
        assert!(!strike(child.id()).unwrap());
    }

    #[test]
    fn processes_are_found_by_a_word_of_their_command_line() {
        let word = format!("0.{}", std::process::id());
        assert!(with_word(&word).is_empty());
        let mut command = std::process::Command::new("sleep");
        let mut child = command.args(["600", &word]).spawn().unwrap();
        while with_word(&word).is_empty() {
            std::thread::yield_now();
        }
        assert_eq!(with_word(&word), [child.id()]);
        child.kill().unwrap();
        child.wait().unwrap();
    }
}

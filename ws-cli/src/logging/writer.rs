//! The thread that writes the log, so that a slow disk or a terminal that is held holds up nobody
//! else.

use std::io::{self, Write};
use std::mem;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Duration;

use ws_server::LogTail;

/// How many bytes may wait to be written. What comes beyond that is dropped and counted: the
/// alternatives are to wait, which is what this thread is there to prevent, and to grow.
const MAX_WAITING: usize = 4 << 20;

/// A buffer that a burst has made larger than this is not kept.
const USUAL_CAPACITY: usize = 64 << 10;

/// How long the end of the program may wait for what is left to be written.
const PATIENCE: Duration = Duration::from_secs(5);

/// Starts the thread. Lines are written to `target` in the order in which they came, several at
/// once if it is slow; `tail` has them before it.
pub(super) fn start(
    target: impl Write + Send + 'static,
    tail: LogTail,
) -> io::Result<(LogWriter, LogGuard)> {
    start_with(target, tail, MAX_WAITING, PATIENCE)
}

fn start_with(
    target: impl Write + Send + 'static,
    tail: LogTail,
    max_waiting: usize,
    patience: Duration,
) -> io::Result<(LogWriter, LogGuard)> {
    let queue = Arc::new(Queue {
        state: Mutex::default(),
        work: Condvar::new(),
        progress: Condvar::new(),
        max_waiting,
    });
    let writer = LogWriter(Arc::clone(&queue));
    let guard = LogGuard {
        queue: Arc::clone(&queue),
        patience,
    };
    thread::Builder::new()
        .name("log".to_owned())
        .spawn(move || queue.write_all_to(target, &tail))?;
    Ok((writer, guard))
}

/// Takes lines, each in one call. It never waits.
#[derive(Clone, Debug)]
pub(super) struct LogWriter(Arc<Queue>);

impl Write for LogWriter {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        self.0.push(line);
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Waits, when it is dropped, until all lines are written: but not for ever, since nobody may be
/// reading them.
#[derive(Debug)]
#[must_use = "what was not written when the program ends is lost"]
pub(crate) struct LogGuard {
    queue: Arc<Queue>,
    patience: Duration,
}

impl Drop for LogGuard {
    fn drop(&mut self) {
        let state = self.queue.lock();
        let is_busy = |state: &mut State| state.is_writing || !state.waiting.is_empty();
        let waited = self
            .queue
            .progress
            .wait_timeout_while(state, self.patience, is_busy);
        drop(waited);
    }
}

#[derive(Debug)]
struct Queue {
    state: Mutex<State>,
    /// There is something to write.
    work: Condvar,
    /// Something has been written.
    progress: Condvar,
    max_waiting: usize,
}

#[derive(Debug, Default)]
struct State {
    waiting: Vec<u8>,
    dropped_count: u64,
    is_writing: bool,
    /// Whether the thread sleeps: only then waking it is worth a system call.
    is_asleep: bool,
}

impl Queue {
    fn push(&self, line: &[u8]) {
        let mut state = self.lock();
        if state.waiting.len() + line.len() > self.max_waiting {
            state.dropped_count += 1;
            return;
        }
        state.waiting.extend_from_slice(line);
        if mem::take(&mut state.is_asleep) {
            drop(state);
            self.work.notify_one();
        }
    }

    fn write_all_to(&self, mut target: impl Write, tail: &LogTail) {
        let mut lines = Vec::new();
        loop {
            let dropped_count = self.take(&mut lines);
            tail.write(&lines);
            // A log that cannot be written has nobody to tell it to.
            let _ = target.write_all(&lines).and_then(|()| target.flush());
            lines.clear();
            lines.shrink_to(USUAL_CAPACITY);
            if dropped_count > 0 {
                // It comes back as a line, for which there is room now.
                tracing::warn!(dropped_count, "the log is too slow: lines dropped");
            }
        }
    }

    /// Waits for lines, and takes all of them; tells how many were dropped behind them.
    fn take(&self, lines: &mut Vec<u8>) -> u64 {
        let mut state = self.lock();
        state.is_writing = false;
        while state.waiting.is_empty() {
            self.progress.notify_all();
            state.is_asleep = true;
            let woken = self.work.wait(state);
            state = woken.unwrap_or_else(PoisonError::into_inner);
            state.is_asleep = false;
        }
        mem::swap(&mut state.waiting, lines);
        state.is_writing = true;
        mem::take(&mut state.dropped_count)
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // Nothing is left half done under this lock.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use super::*;

    /// Hands out what is written, and writes only when it is let.
    struct Gated {
        gate: mpsc::Receiver<()>,
        written: mpsc::Sender<Vec<u8>>,
    }

    impl Write for Gated {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            // A gate that is gone stands open.
            let _ = self.gate.recv();
            let _ = self.written.send(bytes.to_vec());
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    fn gated() -> (Gated, mpsc::Sender<()>, mpsc::Receiver<Vec<u8>>) {
        let (open, gate) = mpsc::channel();
        let (written, seen) = mpsc::channel();
        (Gated { gate, written }, open, seen)
    }

    #[test]
    fn lines_are_written_in_their_order_and_all_of_them_before_the_end() {
        let (target, open, seen) = gated();
        drop(open);
        let (mut writer, guard) = start(target, LogTail::default()).unwrap();
        let lines: Vec<String> = (0..1000).map(|number| format!("line {number}\n")).collect();
        for line in &lines {
            writer.write_all(line.as_bytes()).unwrap();
        }
        drop(guard);
        let written: Vec<u8> = seen.try_iter().flatten().collect();
        assert_eq!(String::from_utf8(written).unwrap(), lines.concat());
    }

    #[test]
    fn f39_slow_target_holds_up_nobody_and_gets_all_lines_that_wait_at_once() {
        let (target, open, seen) = gated();
        let (mut writer, guard) = start(target, LogTail::default()).unwrap();
        writer.write_all(b"first\n").unwrap();
        let queue = Arc::clone(&writer.0);
        while !queue.lock().is_writing {
            thread::yield_now();
        }
        // The target is in the middle of a write, and this returns all the same.
        writer.write_all(b"second\n").unwrap();
        writer.write_all(b"third\n").unwrap();
        drop(open);
        drop(guard);
        let written: Vec<Vec<u8>> = seen.try_iter().collect();
        assert_eq!(written, [&b"first\n"[..], b"second\nthird\n"]);
    }

    #[test]
    fn f39_what_waits_is_bounded_and_whole_lines_are_dropped() {
        let (target, open, seen) = gated();
        let (mut writer, guard) = start_with(target, LogTail::default(), 10, PATIENCE).unwrap();
        writer.write_all(b"first\n").unwrap();
        let queue = Arc::clone(&writer.0);
        while !queue.lock().is_writing {
            thread::yield_now();
        }
        for line in ["1234\n", "123456\n", "abcd\n", "x\n"] {
            writer.write_all(line.as_bytes()).unwrap();
        }
        assert_eq!(queue.lock().dropped_count, 2);
        drop(open);
        drop(guard);
        let written: Vec<Vec<u8>> = seen.try_iter().collect();
        assert_eq!(written, [&b"first\n"[..], b"1234\nabcd\n"]);
    }

    #[test]
    fn end_does_not_wait_for_ever() {
        let (target, open, seen) = gated();
        let (mut writer, guard) =
            start_with(target, LogTail::default(), 10, Duration::from_millis(1)).unwrap();
        writer.write_all(b"never\n").unwrap();
        drop(guard);
        assert_eq!(seen.try_iter().count(), 0);
        drop(open);
    }
}

//! What a program writes to its standard error, cut into lines for the log.

use std::future::poll_fn;
use std::io;
use std::os::fd::OwnedFd;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::io::ReadBuf;
use tokio::time::{Sleep, sleep};

use crate::channel::Output;
use crate::socketpair;

/// How many bytes of standard error are handed out per run.
pub(crate) const MAX_STDERR_SIZE: usize = 64 * 1024;

/// Bytes taken at a time.
const READ_SIZE: usize = 4 * 1024;

/// Beyond what is handed out, so many bytes are read without a pause: a pipe's default capacity.
const FLOOD_SIZE: usize = 64 * 1024;

/// The pause, in which a program that floods us waits in its write. It is let have 3 MB a second.
const FLOOD_PAUSE: Duration = Duration::from_millis(20);

/// A longer line is cut here.
const MAX_LINE_SIZE: usize = 4 * 1024;

/// Our end of a program's standard error.
#[derive(Debug)]
pub(crate) struct Errors {
    pipe: Output,
    lines: Lines,
    /// Bytes read in vain since the last pause.
    flood: usize,
    pause: Option<Pin<Box<Sleep>>>,
}

impl Errors {
    /// Our end and the program's.
    pub(crate) fn new() -> io::Result<(Self, OwnedFd)> {
        let (ours, stderr) = socketpair::pipe()?;
        let errors = Self {
            pipe: Output::new(ours)?,
            lines: Lines::new(MAX_STDERR_SIZE),
            flood: 0,
            pause: None,
        };
        Ok((errors, stderr))
    }

    pub(crate) fn is_open(&self) -> bool {
        !self.pipe.is_closed()
    }

    /// Waits until something may be read; for ever once it has ended.
    pub(crate) async fn readable(&mut self) {
        poll_fn(|cx| self.poll_pause(cx)).await;
        self.pipe.readable().await;
    }

    fn poll_pause(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        if let Some(pause) = &mut self.pause {
            ready!(pause.as_mut().poll(cx));
            self.pause = None;
        }
        Poll::Ready(())
    }

    /// Hands out the lines that have come.
    ///
    /// # Errors
    ///
    /// If the runtime refuses to wait for more.
    pub(crate) fn read(&mut self, each: &mut dyn FnMut(&str)) -> io::Result<()> {
        let mut buffer = [0; READ_SIZE];
        match self.pipe.try_read_buf(&mut buffer.as_mut_slice()) {
            Ok(len @ 1..) => self.take(&buffer[..len], each),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => self.pipe.register()?,
            _ => self.pipe = Output::Closed,
        }
        Ok(())
    }

    /// The same, or has the task woken when there is something. Ready once something has come, or
    /// the end.
    pub(crate) fn poll_read(
        &mut self,
        cx: &mut Context<'_>,
        each: &mut dyn FnMut(&str),
    ) -> Poll<()> {
        if self.pipe.is_closed() {
            return Poll::Pending;
        }
        ready!(self.poll_pause(cx));
        let mut buffer = [0; READ_SIZE];
        let mut buffer = ReadBuf::new(&mut buffer);
        match ready!(self.pipe.poll_read(cx, &mut buffer)) {
            Ok(()) if !buffer.filled().is_empty() => self.take(buffer.filled(), each),
            Ok(()) | Err(_) => self.pipe = Output::Closed,
        }
        Poll::Ready(())
    }

    fn take(&mut self, chunk: &[u8], each: &mut dyn FnMut(&str)) {
        self.lines.feed(chunk, each);
        if self.lines.left > 0 {
            return;
        }
        self.flood += chunk.len();
        if self.flood >= FLOOD_SIZE {
            self.flood = 0;
            self.pause = Some(Box::pin(sleep(FLOOD_PAUSE)));
        }
    }

    /// Hands out as many bytes as in the beginning, after a note of what was dropped.
    pub(crate) fn renew(&mut self, each: &mut dyn FnMut(&str)) {
        self.lines.note_dropped(each);
        self.lines.left = MAX_STDERR_SIZE;
    }

    /// Lets go of a pipe that others hold open.
    pub(crate) fn close(&mut self) {
        self.pipe = Output::Closed;
    }

    /// Hands out a last line without a newline, and a note of what was dropped.
    pub(crate) fn finish(&mut self, each: &mut dyn FnMut(&str)) {
        self.lines.finish(each);
    }
}

/// Cuts a stream of bytes into lines, within limits.
///
/// Neither a line without end nor a flood of lines makes it grow: what is over is counted and
/// dropped, and the last line says how much.
#[derive(Debug)]
pub(crate) struct Lines {
    partial: Vec<u8>,
    /// How many more bytes are handed out.
    left: usize,
    dropped: usize,
}

impl Lines {
    /// Hands out at most this many bytes.
    pub(crate) fn new(max: usize) -> Self {
        Self {
            partial: Vec::new(),
            left: max,
            dropped: 0,
        }
    }

    /// Takes the next bytes and hands out each line that they complete, without its newline.
    pub(crate) fn feed(&mut self, mut chunk: &[u8], each: &mut dyn FnMut(&str)) {
        while let Some(at) = chunk.iter().position(|&byte| byte == b'\n') {
            self.keep(&chunk[..at]);
            self.hand_out(each);
            chunk = &chunk[at + 1..];
        }
        self.keep(chunk);
    }

    /// Hands out a last line without a newline, and a note of what was dropped.
    pub(crate) fn finish(&mut self, each: &mut dyn FnMut(&str)) {
        self.hand_out(each);
        self.note_dropped(each);
    }

    fn note_dropped(&mut self, each: &mut dyn FnMut(&str)) {
        if self.dropped > 0 {
            each(&format!("[{} more bytes]", self.dropped));
            self.dropped = 0;
        }
    }

    fn keep(&mut self, bytes: &[u8]) {
        let room = (MAX_LINE_SIZE - self.partial.len()).min(self.left);
        let kept = bytes.len().min(room);
        self.partial.extend_from_slice(&bytes[..kept]);
        self.left -= kept;
        self.dropped = self.dropped.saturating_add(bytes.len() - kept);
    }

    fn hand_out(&mut self, each: &mut dyn FnMut(&str)) {
        if !self.partial.is_empty() {
            each(String::from_utf8_lossy(&self.partial).trim_end_matches('\r'));
            self.partial.clear();
        }
        // Its end counts too, so that empty or short lines are no way around the limit.
        self.left = self.left.saturating_sub(1);
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn lines(max: usize, chunks: &[&[u8]]) -> Vec<String> {
        let mut lines = Vec::new();
        let mut cutter = Lines::new(max);
        for chunk in chunks {
            cutter.feed(chunk, &mut |line| lines.push(line.to_owned()));
        }
        cutter.finish(&mut |line| lines.push(line.to_owned()));
        lines
    }

    #[tokio::test(start_paused = true)]
    async fn t60_flood_is_read_no_faster_than_the_pauses_allow() {
        const SIZE: usize = 1 << 20;
        let (mut errors, pipe) = Errors::new().unwrap();
        let writer = std::thread::spawn(move || {
            let mut pipe = std::fs::File::from(pipe);
            io::Write::write_all(&mut pipe, &vec![b'\n'; SIZE]).unwrap();
        });
        let begun = tokio::time::Instant::now();
        while errors.is_open() {
            errors.readable().await;
            errors.read(&mut |_| {}).unwrap();
        }
        writer.join().unwrap();
        let pauses = (SIZE / FLOOD_SIZE) as u32 - 1;
        assert!(begun.elapsed() >= pauses * FLOOD_PAUSE);
    }

    #[test]
    fn lines_are_handed_out_without_their_ends() {
        assert_eq!(
            lines(100, &[b"one\r\ntw", b"o\n\nthree"]),
            ["one", "two", "three"]
        );
    }

    #[test]
    fn t60_long_line_is_cut_and_counted() {
        let long = vec![b'x'; MAX_LINE_SIZE + 10];
        let got = lines(usize::MAX, &[&long, b"\nnext\n"]);
        assert_eq!(got[0].len(), MAX_LINE_SIZE);
        assert_eq!(got[1..], ["next", "[10 more bytes]"]);
    }

    #[test]
    fn t60_flood_is_dropped_and_counted() {
        assert_eq!(
            lines(6, &[b"1234\n", b"5678\n", b"90\n"]),
            ["1234", "5", "[5 more bytes]"]
        );
    }

    proptest! {
        #[test]
        fn prop_limits_hold_and_cuts_change_nothing(
            bytes in prop::collection::vec(prop_oneof![Just(b'\n'), any::<u8>()], 0..300),
            cut in 0_usize..300,
            max in 0_usize..300,
        ) {
            let cut = cut.min(bytes.len());
            let whole = lines(max, &[&bytes]);
            prop_assert_eq!(&whole, &lines(max, &[&bytes[..cut], &bytes[cut..]]));
        }
    }
}

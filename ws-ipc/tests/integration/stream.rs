//! One conversation, one process.

use std::io::IoSlice;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use ws_ipc::stream::{self, CHUNK_SIZE, Host, StreamCommand};
use ws_ipc::{Confinement, Failure, LineDecoder, LineTooLong};

use crate::support::{command, eventually, processes_with, spawners};

const GRACE: Duration = Duration::from_millis(100);

/// Says something, asks the program to end behind it, and listens.
struct Talker {
    input: Vec<u8>,
    written: usize,
    /// Whether the program is asked to end.
    ends: bool,
    has_changed: bool,
    lines: LineDecoder,
    heard: Vec<u8>,
    log: Vec<String>,
    /// How long it takes to take output: enough for a program to fill the pipe again.
    pause: Duration,
}

impl Talker {
    fn new(input: &[u8]) -> Self {
        Self {
            input: input.to_vec(),
            written: 0,
            ends: true,
            has_changed: false,
            lines: LineDecoder::new(1 << 20),
            heard: Vec::new(),
            log: Vec::new(),
            pause: Duration::ZERO,
        }
    }
}

impl Host for Talker {
    fn poll_changed(&mut self, _: &mut Context<'_>) -> Poll<()> {
        match std::mem::take(&mut self.has_changed) {
            true => Poll::Ready(()),
            false => Poll::Pending,
        }
    }

    fn input<'a>(&'a mut self, slices: &mut [IoSlice<'a>]) -> usize {
        slices[0] = IoSlice::new(&self.input[self.written..]);
        usize::from(self.written < self.input.len())
    }

    fn advance(&mut self, written: usize) {
        self.written += written;
        self.has_changed = true;
    }

    fn is_ending(&self) -> bool {
        self.ends && self.written == self.input.len()
    }

    fn takes_output(&self) -> bool {
        true
    }

    fn take(&mut self, output: &[u8]) -> Result<(), LineTooLong> {
        assert!(output.len() <= CHUNK_SIZE);
        std::thread::sleep(self.pause);
        self.heard.extend_from_slice(output);
        self.lines.feed(output, &mut |_| {})
    }

    fn log(&mut self, line: &str) {
        self.log.push(line.to_owned());
    }
}

fn script(text: &str) -> StreamCommand {
    let exec = command(&["/bin/sh", "-c", text]);
    StreamCommand {
        argv: exec.argv,
        env: exec.env,
        dir: None,
        identity: None,
        confinement: Confinement::default(),
        grace: GRACE,
    }
}

async fn talk(text: &str, talker: &mut Talker) -> Result<(), Failure> {
    let spawners = spawners();
    let end = stream::run(&spawners, script(text), talker).await;
    spawners.shutdown().await;
    end
}

#[tokio::test]
async fn what_is_said_and_heard_passes_each_other_in_any_amount() {
    let said: Vec<u8> = (0..500_000_u32)
        .flat_map(|n| format!("{n}\n").into_bytes())
        .collect();
    let mut talker = Talker::new(&said);
    talk("cat; echo end", &mut talker).await.unwrap();
    assert!(talker.heard == [&said[..], b"end\n"].concat());
}

#[tokio::test]
async fn program_that_ends_by_itself_tells_how() {
    for (text, end) in [
        ("echo last", Ok(())),
        ("echo last; exit 3", Err(Failure::Exited(3))),
        ("echo last; kill -9 $$", Err(Failure::Signaled(9))),
    ] {
        let mut talker = Talker::new(b"");
        talker.ends = false;
        assert_eq!(talk(text, &mut talker).await, end);
        assert_eq!(talker.heard, b"last\n");
    }
}

#[tokio::test]
async fn program_that_is_asked_to_end_may_end_as_it_likes() {
    let mut talker = Talker::new(b"hello\n");
    talk("cat; echo why >&2; exit 3", &mut talker)
        .await
        .unwrap();
    assert_eq!(talker.heard, b"hello\n");
    assert_eq!(talker.log, ["why"]);
}

#[tokio::test]
async fn t57_program_that_goes_on_is_terminated_then_killed() {
    let mark = format!("t57-{}", std::process::id());
    let begun = Instant::now();
    let mut talker = Talker::new(b"");
    let text =
        format!("export MARK={mark}; trap 'echo told; exit 0' TERM; while :; do sleep 0.01; done");
    talk(&text, &mut talker).await.unwrap();
    assert_eq!(talker.heard, b"told\n");
    assert!(begun.elapsed() >= GRACE);

    let mut talker = Talker::new(b"");
    let text = format!("export MARK={mark}; trap '' TERM; setsid sleep 600 & sleep 600; sleep 600");
    let begun = Instant::now();
    assert_eq!(talk(&text, &mut talker).await, Err(Failure::TimedOut));
    assert!(begun.elapsed() >= GRACE * 2);
    eventually("no process is left", || {
        processes_with(&format!("MARK={mark}")).is_empty()
    })
    .await;
}

#[tokio::test]
async fn t57_program_that_floods_is_terminated_in_time() {
    for text in [
        "yes & yes & exec yes",
        "yes >&2 & yes >&2 & exec yes",
        "trap '' TERM; yes & yes & yes; yes",
    ] {
        let mut talker = Talker::new(b"");
        talker.pause = Duration::from_millis(2);
        let end = tokio::time::timeout(Duration::from_secs(30), talk(text, &mut talker)).await;
        assert!(end.is_ok(), "{text} goes on");
    }
}

#[tokio::test]
async fn t60_line_without_end_kills_the_program() {
    let mut talker = Talker::new(b"");
    talker.ends = false;
    let end = talk("cat /dev/zero", &mut talker).await;
    assert_eq!(end, Err(Failure::OutputTooLong { max: 1 << 20 }));
    assert!(talker.heard.len() <= (1 << 20) + CHUNK_SIZE);
}

#[tokio::test]
async fn t60_flood_of_errors_is_cut() {
    let mut talker = Talker::new(b"");
    talk("seq 1 100000 >&2", &mut talker).await.unwrap();
    let size: usize = talker.log.iter().map(|line| line.len() + 1).sum();
    assert!(size <= 65 * 1024, "{size}");
    assert!(talker.log.last().unwrap().ends_with("more bytes]"));
}

#[tokio::test]
async fn t61_program_that_closes_its_input_or_output_goes_on() {
    let mut talker = Talker::new(&vec![b'x'; 1_000_000]);
    talk("exec <&-; echo alone", &mut talker).await.unwrap();
    assert_eq!(talker.heard, b"alone\n");
    let mut talker = Talker::new(b"hello\n");
    talk("exec >&-; cat >&2", &mut talker).await.unwrap();
    assert_eq!(talker.log, ["hello"]);
}

#[tokio::test]
async fn t57_descendants_do_not_hold_the_output_open() {
    let mut talker = Talker::new(b"");
    talker.ends = false;
    talk("setsid sleep 600 & echo gone", &mut talker)
        .await
        .unwrap();
    assert_eq!(talker.heard, b"gone\n");
}

#[tokio::test]
async fn program_that_cannot_start_says_why() {
    let spawners = spawners();
    let mut missing = script("");
    missing.argv = vec!["/no/such/program".into()];
    let end = stream::run(&spawners, missing, &mut Talker::new(b"")).await;
    assert!(matches!(end, Err(Failure::CannotStart { .. })), "{end:?}");
    spawners.shutdown().await;
}

//! What writers write arrives: whole, once, in order, or not at all.

use std::fs::{self, OpenOptions};
use std::future::Future;
use std::io::{ErrorKind, Write};
use std::path::Path;
use std::pin::pin;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Wake, Waker};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use ws_ipc::fifo::Fifo;
use ws_ipc::{Framing, Record, RecordDecoder};

use super::{NAME, directory, writer};

const MAX_RECORD: usize = 4096;

fn blocking_writer(path: &Path) -> fs::File {
    OpenOptions::new().write(true).open(path).unwrap()
}

/// Reads records until `done` says that the last one has come.
async fn receive(fifo: &Fifo, mut each: impl FnMut(Record<'_>), done: impl Fn(Record<'_>) -> bool) {
    let mut decoder = RecordDecoder::new(Framing::Lines, MAX_RECORD);
    let mut buf = vec![0; 64 * 1024];
    let mut over = false;
    while !over {
        let size = fifo.read(&mut buf).await.unwrap();
        decoder.feed(&buf[..size], &mut |record| {
            over |= done(record);
            each(record);
        });
    }
}

/// A line of `size` bytes, newline included, that tells its writer and number in every part.
fn line(writer: usize, number: usize, size: usize) -> Vec<u8> {
    let tag = format!("{writer}:{number};");
    let mut line = tag.repeat(size / tag.len() + 1).into_bytes();
    line.truncate(size - 1);
    line.push(b'\n');
    line
}

fn parse(record: &[u8]) -> (usize, usize) {
    let text = str::from_utf8(record).unwrap();
    let (writer, rest) = text.split_once(':').unwrap();
    let (number, _) = rest.split_once(';').unwrap();
    (writer.parse().unwrap(), number.parse().unwrap())
}

#[tokio::test]
async fn t43_records_of_8_writers_are_neither_lost_nor_torn() {
    const WRITERS: usize = 8;
    for (size, count) in [(MAX_RECORD, 10_000), (4095, 500), (1000, 500), (17, 500)] {
        let (_temp, directory) = directory();
        let fifo = directory.create(NAME).unwrap();
        let writers: Vec<_> = (0..WRITERS)
            .map(|number| {
                let mut file = blocking_writer(fifo.path());
                std::thread::spawn(move || {
                    for record in 0..count {
                        // `write` and not `write_all`: the whole record is one write(2).
                        assert_eq!(file.write(&line(number, record, size)).unwrap(), size);
                    }
                })
            })
            .collect();
        let mut next = [0; WRITERS];
        let total = AtomicUsize::new(0);
        let each = |record: Record<'_>| {
            let Record::Whole(bytes) = record else {
                panic!("{record:?}")
            };
            let (writer, number) = parse(bytes);
            assert_eq!(next[writer], number, "lost or out of order");
            assert!(line(writer, number, size)[..size - 1] == *bytes, "torn");
            next[writer] += 1;
        };
        let all = WRITERS * count;
        receive(&fifo, each, |_| {
            total.fetch_add(1, Ordering::Relaxed) + 1 == all
        })
        .await;
        assert_eq!(next, [count; WRITERS]);
        for writer in writers {
            writer.join().unwrap();
        }
        assert!(
            fifo.try_read(&mut [0; 1]).is_err(),
            "nothing beyond what was sent"
        );
    }
}

#[tokio::test]
async fn t43_over_long_records_of_one_writer_are_dropped_whole_and_counted() {
    for size in [4097, 5000, 12_288, 65_537, 100_000] {
        let (_temp, directory) = directory();
        let fifo = directory.create(NAME).unwrap();
        let mut file = blocking_writer(fifo.path());
        let writer = std::thread::spawn(move || {
            for number in 0..20 {
                file.write_all(&line(0, number, size)).unwrap();
                file.write_all(format!("short {number}\n").as_bytes())
                    .unwrap();
            }
        });
        let (mut dropped, mut short) = (0, Vec::new());
        let each = |record: Record<'_>| match record {
            Record::Whole(bytes) => short.push(String::from_utf8(bytes.to_vec()).unwrap()),
            Record::TooLong(dropped_size) => {
                assert_eq!(dropped_size, size - 1);
                dropped += 1;
            }
        };
        receive(&fifo, each, |record| record == Record::Whole(b"short 19")).await;
        writer.join().unwrap();
        assert_eq!(dropped, 20);
        assert_eq!(
            short,
            (0..20)
                .map(|number| format!("short {number}"))
                .collect::<Vec<_>>()
        );
    }
}

#[tokio::test]
async fn t43_over_long_records_of_several_writers_yield_nothing_over_the_limit() {
    const WRITERS: usize = 4;
    for size in [5000, 100_000] {
        let (_temp, directory) = directory();
        let fifo = directory.create(NAME).unwrap();
        let files: Vec<_> = (0..WRITERS).map(|_| blocking_writer(fifo.path())).collect();
        let path = fifo.path().to_owned();
        let writers = std::thread::spawn(move || {
            std::thread::scope(|scope| {
                for (writer, mut file) in files.into_iter().enumerate() {
                    scope.spawn(move || {
                        for number in 0..50 {
                            file.write_all(&line(writer, number, size)).unwrap();
                        }
                    });
                }
            });
            blocking_writer(&path).write_all(b"\nlast\n").unwrap();
        });
        let each = |record: Record<'_>| match record {
            Record::Whole(bytes) => assert!(bytes.len() < MAX_RECORD),
            Record::TooLong(size) => assert!(size >= MAX_RECORD),
        };
        receive(&fifo, each, |record| record == Record::Whole(b"last")).await;
        writers.join().unwrap();
    }
}

/// Counts how often a task would have been polled.
#[derive(Default)]
struct Wakes(AtomicUsize);

impl Wake for Wakes {
    fn wake(self: Arc<Self>) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }
}

#[tokio::test]
async fn t44_last_writers_leaving_wakes_nobody() {
    let (_temp, directory) = directory();
    let fifo = directory.create(NAME).unwrap();
    let sentinel = directory.create("sentinel.fifo").unwrap();
    let mut buf = [0; 64];
    writer(fifo.path()).unwrap().write_all(b"hi\n").unwrap();
    assert_eq!(fifo.read(&mut buf).await.unwrap(), 3);

    let wakes = Arc::new(Wakes::default());
    {
        let waker = Waker::from(wakes.clone());
        let mut read = pin!(fifo.read(&mut buf));
        assert!(
            read.as_mut()
                .poll(&mut Context::from_waker(&waker))
                .is_pending()
        );
        for turn in 0..100 {
            drop(writer(fifo.path()).unwrap());
            // The runtime has looked at all that happened before once it reports this.
            writer(sentinel.path()).unwrap().write_all(b"x").unwrap();
            assert_eq!(sentinel.read(&mut [0; 4]).await.unwrap(), 1, "turn {turn}");
        }
        assert_eq!(wakes.0.load(Ordering::Relaxed), 0);

        writer(fifo.path()).unwrap().write_all(b"again\n").unwrap();
        assert_eq!(read.await.unwrap(), 6, "a late writer is heard");
    }
    assert_eq!(&buf[..6], b"again\n");
}

#[tokio::test]
async fn t44_descriptor_reports_no_hang_up() {
    let (_temp, directory) = directory();
    let fifo = directory.create(NAME).unwrap();
    drop(writer(fifo.path()).unwrap());
    // The server's own descriptor of this FIFO, by way of /proc.
    let own = fs::read_dir("/proc/self/fd").unwrap().find_map(|entry| {
        let entry = entry.unwrap();
        let number: i32 = entry.file_name().into_string().unwrap().parse().unwrap();
        let leads_here = fs::read_link(entry.path()).is_ok_and(|to| to == fifo.path());
        leads_here.then_some(number)
    });
    let info = fs::read_to_string(format!("/proc/self/fdinfo/{}", own.unwrap())).unwrap();
    let flags = info
        .lines()
        .find_map(|line| line.strip_prefix("flags:"))
        .unwrap()
        .trim();
    let flags = u32::from_str_radix(flags, 8).unwrap();
    assert_eq!(flags & 0o3, 0o2, "O_RDWR");
    assert_eq!(flags & 0o4000, 0o4000, "O_NONBLOCK");
    assert_eq!(flags & 0o2_000_000, 0o2_000_000, "O_CLOEXEC");

    let same = OpenOptions::new()
        .read(true)
        .write(true)
        .open(fifo.path())
        .unwrap();
    drop(writer(fifo.path()).unwrap());
    let mut polled = [PollFd::new(&same, PollFlags::IN)];
    assert_eq!(
        poll(
            &mut polled,
            Some(&Timespec {
                tv_sec: 0,
                tv_nsec: 0
            })
        )
        .unwrap(),
        0
    );
}

#[tokio::test]
async fn t45_full_fifo_refuses_whole_records_and_keeps_what_it_took() {
    let (_temp, directory) = directory();
    let fifo = directory.create(NAME).unwrap();
    let capacity = fifo.capacity().unwrap();
    assert!(capacity >= MAX_RECORD);
    let mut file = writer(fifo.path()).unwrap();
    let fit = capacity / MAX_RECORD;
    for number in 0..fit {
        assert_eq!(
            file.write(&line(0, number, MAX_RECORD)).unwrap(),
            MAX_RECORD
        );
    }
    let refused = file.write(&line(0, fit, MAX_RECORD)).unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::WouldBlock);

    let mut numbers = Vec::new();
    let each = |record: Record<'_>| {
        let Record::Whole(bytes) = record else {
            panic!("{record:?}")
        };
        numbers.push(parse(bytes).1);
    };
    receive(
        &fifo,
        each,
        |record| matches!(record, Record::Whole(bytes) if parse(bytes).1 == fit - 1),
    )
    .await;
    assert_eq!(numbers, (0..fit).collect::<Vec<_>>());
    assert_eq!(file.write(&line(0, fit, MAX_RECORD)).unwrap(), MAX_RECORD);
}

#[tokio::test]
async fn t46_half_a_record_of_a_writer_that_died_runs_nothing() {
    let (_temp, directory) = directory();
    let fifo = directory.create(NAME).unwrap();
    let script = "printf /pay?amount=1 > \"$0\"; kill -KILL $$";
    let status = Command::new("sh")
        .args(["-c", script])
        .arg(fifo.path())
        .status()
        .unwrap();
    assert_eq!(status.code(), None);

    let mut decoder = RecordDecoder::new(Framing::Lines, MAX_RECORD);
    let mut records = Vec::new();
    let mut buf = [0; 256];
    let size = fifo.read(&mut buf).await.unwrap();
    decoder.feed(&buf[..size], &mut |record| {
        records.push(format!("{record:?}"))
    });
    assert!(decoder.has_partial() && records.is_empty());
    assert_eq!(decoder.expire(), Some(13));

    writer(fifo.path())
        .unwrap()
        .write_all(b"\n/next\n")
        .unwrap();
    let size = fifo.read(&mut buf).await.unwrap();
    decoder.feed(&buf[..size], &mut |record| match record {
        Record::Whole(bytes) => records.push(String::from_utf8(bytes.to_vec()).unwrap()),
        Record::TooLong(size) => panic!("{size}"),
    });
    assert_eq!(records, ["/next"]);
}

#[tokio::test]
async fn reading_may_be_cancelled() {
    let (_temp, directory) = directory();
    let fifo = directory.create(NAME).unwrap();
    let mut buf = [0; 16];
    for round in 0..3 {
        tokio::select! {
            biased;
            read = fifo.read(&mut buf) => panic!("{read:?} in round {round}"),
            () = std::future::ready(()) => {}
        }
    }
    writer(fifo.path()).unwrap().write_all(b"hi\n").unwrap();
    assert_eq!(fifo.read(&mut buf).await.unwrap(), 3);
}

#[tokio::test]
async fn shell_redirection_reaches_the_fifo() {
    let (_temp, directory) = directory();
    let fifo = directory.create(NAME).unwrap();
    let mut child = Command::new("sh")
        .args(["-c", "echo hi > \"$0\""])
        .arg(fifo.path())
        .spawn()
        .unwrap();
    let mut buf = [0; 16];
    assert_eq!(fifo.read(&mut buf).await.unwrap(), 3);
    assert!(child.wait().unwrap().success());
}

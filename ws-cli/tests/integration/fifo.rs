//! FIFOs: what a shell on the same host does to the browsers (DESIGN 3.4; T40 to T48).

use std::ffi::OsStr;
use std::fs::{self, File, Permissions};
use std::io::{ErrorKind, Write};
use std::os::unix::fs::{FileTypeExt, MetadataExt, OpenOptionsExt, PermissionsExt, symlink};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use futures_util::StreamExt;
use nix::fcntl::OFlag;
use nix::sys::signal::Signal;
use nix::sys::stat::Mode;
use nix::unistd::mkfifo;
use serde_json::json;
use tempfile::TempDir;
use tokio_tungstenite::MaybeTlsStream;

use crate::support::*;

const GLOBAL: &str = "fifo/global_pipe.fifo";

/// Says who is asked for what, and how.
const WHO: &str = r#"echo "$WS_USER_ID $WS_SOURCE $REQUEST_METHOD $REQUEST_URI""#;

/// The user is the path of the handshake, without its slash and percent-decoded.
const USER_BY_PATH: &str = r#"printf %s "${PATH_INFO#/}""#;

/// Opens for writing; fails where nobody reads, and never waits.
pub(crate) fn open(path: &Path) -> File {
    let mut options = File::options();
    options.write(true).custom_flags(OFlag::O_NONBLOCK.bits());
    let opened = options.open(path);
    opened.unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// What `printf %s "$bytes" > path` does.
pub(crate) fn write(path: &Path, bytes: impl AsRef<[u8]>) {
    open(path).write_all(bytes.as_ref()).unwrap();
}

fn port(client: &Client) -> u16 {
    match client.get_ref() {
        MaybeTlsStream::Plain(stream) => stream.local_addr().unwrap().port(),
        _ => panic!("not plain TCP"),
    }
}

/// The path of a connection's FIFO, as the control socket names it.
pub(crate) fn fifo_of(server: &Server, client: &Client) -> PathBuf {
    let port = port(client);
    let connections = server.connections();
    let ours = connections.iter().find(|entry| entry["port"] == port);
    ours.unwrap()["fifo"].as_str().unwrap().into()
}

fn mode(path: &Path) -> u32 {
    fs::symlink_metadata(path).map_or(0, |found| found.mode() & 0o7777)
}

fn is_fifo(path: &Path) -> bool {
    fs::symlink_metadata(path).is_ok_and(|found| found.file_type().is_fifo())
}

/// It is open for reading: it gets its permissions then, so that nobody comes too early.
fn is_ready(path: &Path) -> bool {
    is_fifo(path) && mode(path) == 0o620
}

fn names_in(dir: &Path) -> Vec<String> {
    let entries = fs::read_dir(dir).unwrap();
    entries
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect()
}

#[tokio::test]
async fn t40_names_and_modes_hold_under_every_umask() {
    for umask in ["000", "022", "077"] {
        let setup = Setup::new().umask(umask).app(WHO).validate("echo alice");
        let server = setup.start();
        assert_eq!(mode(&server.state("fifo")), 0o750, "umask {umask}");
        assert_eq!(mode(&server.state(GLOBAL)), 0o620, "umask {umask}");
        assert_eq!(mode(&server.state("control.sock")), 0o600, "umask {umask}");
        let client = server.connect().await;
        // It is there before the 101 is.
        let name = format!("fifo/alice:127.0.0.1:{}.fifo", port(&client));
        let path = server.state(&name);
        assert!(is_fifo(&path), "{name}");
        assert_eq!(mode(&path), 0o620, "umask {umask}");
        assert_eq!(fifo_of(&server, &client), path);
        bye(client).await;
        eventually("the FIFO goes with its connection", || !path.exists());
        server.finish();
    }
}

#[tokio::test]
async fn t40_another_user_of_the_host_cannot_write() {
    if !nix::unistd::geteuid().is_root() {
        println!("skipped: only root can become nobody");
        return;
    }
    let server = Setup::new().app(WHO).validate("echo alice").start();
    let client = server.connect().await;
    let own = fifo_of(&server, &client);
    let global = server.state(GLOBAL);
    let as_nobody = |path: &Path| {
        let mut shell = Command::new("sh");
        shell
            .args([OsStr::new("-c"), OsStr::new("echo /x > \"$0\"")])
            .arg(path);
        shell.uid(65_534).gid(65_534).output().unwrap()
    };
    for opened_up in [false, true] {
        for path in [&own, &global] {
            let output = as_nobody(path);
            let error = String::from_utf8_lossy(&output.stderr);
            assert!(
                !output.status.success() && error.contains("ermission denied"),
                "{error}"
            );
        }
        if !opened_up {
            // The directories keep nobody out; now let the FIFOs do it themselves.
            for dir in ["", "tmp", "tmp/fifo"] {
                let dir = server.dir().join(dir);
                fs::set_permissions(dir, Permissions::from_mode(0o755)).unwrap();
            }
        }
    }
    assert_eq!(server.figure("fifo.records"), 0);
    bye(client).await;
    server.finish();
}

#[tokio::test]
async fn t48_each_record_reaches_every_connection_once_and_only_as_text() {
    let server = Setup::new().app(WHO).start();
    let mut clients = Vec::new();
    for _ in 0..4 {
        clients.push(server.connect().await);
    }
    let global = server.state(GLOBAL);
    write(&global, "hello\nünï\n\n  two words \n");
    write(&global, b"\xff\xfe not UTF-8\n");
    write(&global, "{\"json\":1}\nlast\n");
    for client in &mut clients {
        for expected in ["hello", "ünï", "  two words ", "{\"json\":1}", "last"] {
            assert_eq!(hear(client).await, expected);
        }
    }
    let status = server.status();
    assert_eq!(figure(&status, "fifo.records"), 6);
    assert_eq!(figure(&status, "fifo.refused_by.not_utf8"), 1);
    assert_eq!(figure(&status, "pushes.accepted"), 5);
    assert_eq!(figure(&status, "pushes.targets"), 20);
    assert_eq!(figure(&status, "callbacks.accepted"), 0);
    for client in clients {
        bye(client).await;
    }
    server.finish();
}

/// A connection that does not read is closed; the others get each record of a flood once, and the
/// sum holds (INV-03).
#[tokio::test]
async fn t48_a_flood_of_records_reaches_readers_once_and_closes_who_does_not_read() {
    const RECORDS: usize = 10_000;
    let setup = Setup::new().arg("--echo");
    let server = setup.set("limits.send_queue_size", "8MiB").start();
    let mut readers = vec![server.connect().await, server.connect().await];
    let mut idle = server.connect().await;
    // The kernel's buffers take some of it; the queue takes the rest up to its limit.
    let filler = "x".repeat(1_000_000);
    let mut dropped = 0;
    while dropped == 0 {
        dropped = figure(&server.send(json!({ "all": true }), &filler), "dropped");
        for reader in &mut readers {
            assert_eq!(hear(reader).await.len(), filler.len());
        }
    }
    // It learns why, if it reads at last before limits.close_timeout has passed.
    assert_eq!(close_code(&mut idle).await, 1013);
    let mut fifo = File::options()
        .write(true)
        .open(server.state(GLOBAL))
        .unwrap();
    let writer = std::thread::spawn(move || {
        for number in 0..RECORDS {
            fifo.write_all(format!("{number}\n").as_bytes()).unwrap();
        }
    });
    for reader in &mut readers {
        for number in 0..RECORDS {
            assert_eq!(hear(reader).await, number.to_string());
        }
    }
    writer.join().unwrap();
    assert_eq!(server.figure("fifo.records"), RECORDS as u64);
    for reader in readers {
        bye(reader).await;
    }
    server.finish();
}

#[tokio::test]
async fn b02_a_record_runs_as_its_user_and_answers_its_connection_alone() {
    let setup = Setup::new().app(WHO).validate(USER_BY_PATH);
    let server = setup.start();
    let mut first = server.connect_with("/alice", &[]).await.unwrap();
    let mut second = server.connect_with("/alice", &[]).await.unwrap();
    let mut other = server.connect_with("/bob", &[]).await.unwrap();
    write(
        &fifo_of(&server, &first),
        "/a?b=c%20d\n/$(id)\n\n/two words\n",
    );
    for uri in ["/a?b=c%20d", "/$(id)", "/two words"] {
        assert_eq!(hear(&mut first).await, format!("alice fifo GET {uri}"));
    }
    // Whatever went astray would be heard before these.
    assert_eq!(
        ask(&mut second, "/own").await,
        "alice client GET /own",
        "another connection of that user"
    );
    assert_eq!(ask(&mut other, "/own").await, "bob client GET /own");
    for client in [first, second, other] {
        bye(client).await;
    }
    server.finish();
}

#[tokio::test]
async fn t53_what_is_not_a_uri_is_refused_and_counted() {
    let server = Setup::new().app(WHO).validate("echo alice").start();
    let mut client = server.connect().await;
    let fifo = fifo_of(&server, &client);
    let records: [&[u8]; 7] = [
        b"rm -rf /tmp/x",
        b"ping",
        b"http://h/a",
        b"//h/a",
        b"/a%0ab",
        b"/a\rb",
        b"/\xff",
    ];
    for record in records {
        write(&fifo, [record, b"\n"].concat());
    }
    write(&fifo, "/a\n");
    assert_eq!(hear(&mut client).await, "alice fifo GET /a");
    let status = server.status();
    assert_eq!(figure(&status, "fifo.refused_by.not_uri"), 7);
    assert_eq!(figure(&status, "callbacks.accepted"), 1);
    bye(client).await;
    server.finish();
}

#[tokio::test]
async fn t43_a_record_that_is_too_long_is_dropped_whole_and_the_next_one_works() {
    let server = Setup::new().app(WHO).validate("echo alice").start();
    let mut client = server.connect().await;
    let (global, own) = (server.state(GLOBAL), fifo_of(&server, &client));
    // Beside 5000, sizes that divide a pipe and look safe by accident.
    for size in [4097, 5000, 8192, 16_384, 40_000] {
        let long = format!("/{}\n", "x".repeat(size - 2));
        write(&own, &long);
        write(&own, "/next\n");
        assert_eq!(hear(&mut client).await, "alice fifo GET /next", "{size}");
        write(&global, &long);
        write(&global, "next\n");
        assert_eq!(hear(&mut client).await, "next", "{size}");
    }
    assert_eq!(server.figure("fifo.refused_by.too_long"), 10);
    // With its newline, 4096 is not too long.
    let longest = format!("/{}", "y".repeat(4094));
    write(&own, format!("{longest}\n"));
    let answer = hear(&mut client).await;
    assert_eq!(answer, format!("alice fifo GET {longest}"));
    write(&global, format!("{longest}\n"));
    assert_eq!(hear(&mut client).await, longest);
    bye(client).await;
    server.finish();
}

#[tokio::test]
async fn t46_half_a_record_of_a_dead_writer_never_runs() {
    let server = Setup::new().app(WHO).validate("echo alice").start();
    let mut client = server.connect().await;
    let (global, own) = (server.state(GLOBAL), fifo_of(&server, &client));
    write(&own, "/pay?amount=1");
    write(&global, "hal");
    server.until("fifo.refused_by.partial", 2);
    assert_eq!(server.figure("callbacks.accepted"), 0);
    write(&own, "\n/next\n");
    assert_eq!(hear(&mut client).await, "alice fifo GET /next");
    write(&global, "\nnext\n");
    assert_eq!(hear(&mut client).await, "next");
    // In pieces, it is one record all the same.
    let mut writer = open(&own);
    for byte in b"/bit/by/bit\n" {
        writer.write_all(&[*byte]).unwrap();
    }
    assert_eq!(hear(&mut client).await, "alice fifo GET /bit/by/bit");
    bye(client).await;
    server.finish();
}

#[tokio::test]
async fn t43_records_of_eight_writers_are_neither_torn_nor_lost() {
    const WRITERS: usize = 8;
    const RECORDS: usize = 500;
    // The clients of this test are slower than its writers, and nobody is to be closed for it.
    let setup = Setup::new().arg("--echo");
    let server = setup.set("limits.send_queue_size", "64MiB").start();
    let mut clients = Vec::new();
    for _ in 0..2 {
        clients.push(server.connect().await);
    }
    let writers: Vec<_> = (0..WRITERS)
        .map(|writer| {
            let global = server.state(GLOBAL);
            std::thread::spawn(move || {
                let mut fifo = File::options().write(true).open(global).unwrap();
                for number in 0..RECORDS {
                    let head = format!("{writer} {number} ");
                    let fill = char::from(b'a' + u8::try_from(writer).unwrap());
                    let fill: String = std::iter::repeat_n(fill, 4095 - head.len()).collect();
                    let record = format!("{head}{fill}\n");
                    assert_eq!(fifo.write(record.as_bytes()).unwrap(), 4096);
                }
            })
        })
        .collect();
    for client in &mut clients {
        let mut next_number = [0; WRITERS];
        for _ in 0..WRITERS * RECORDS {
            let record = hear(client).await;
            let mut words = record.split(' ');
            let writer: usize = words.next().unwrap().parse().unwrap();
            let number: usize = words.next().unwrap().parse().unwrap();
            assert_eq!(number, next_number[writer], "writer {writer}");
            next_number[writer] += 1;
            let fill = char::from(b'a' + u8::try_from(writer).unwrap());
            assert!(
                record.len() == 4095 && words.next().unwrap().chars().all(|c| c == fill),
                "torn: {record}"
            );
        }
        assert_eq!(next_number, [RECORDS; WRITERS]);
    }
    for writer in writers {
        writer.join().unwrap();
    }
    assert_eq!(server.figure("fifo.records"), (WRITERS * RECORDS) as u64);
    assert_eq!(server.figure("fifo.refused"), 0);
    for client in clients {
        bye(client).await;
    }
    server.finish();
}

#[tokio::test]
async fn t43_of_long_records_of_several_writers_nothing_over_the_limit_gets_through() {
    let setup = Setup::new().arg("--echo");
    let server = setup.set("limits.send_queue_size", "64MiB").start();
    let mut client = server.connect().await;
    for size in [5000, 12_288, 100_000] {
        let writers: Vec<_> = (0..4_u8)
            .map(|writer| {
                let global = server.state(GLOBAL);
                std::thread::spawn(move || {
                    let mut fifo = File::options().write(true).open(global).unwrap();
                    let mut record = vec![b'a' + writer; size];
                    record[size - 1] = b'\n';
                    for _ in 0..30 {
                        fifo.write_all(&record).unwrap();
                    }
                })
            })
            .collect();
        for writer in writers {
            writer.join().unwrap();
        }
        let end = format!("after {size}");
        write(&server.state(GLOBAL), format!("{end}\n"));
        // Fragments may look like records, as the documentation says; long ones do not.
        loop {
            let heard = hear(&mut client).await;
            assert!(heard.len() < 4096, "{}", heard.len());
            if heard == end {
                break;
            }
        }
    }
    assert!(server.figure("fifo.refused_by.too_long") > 0);
    bye(client).await;
    server.finish();
}

#[tokio::test]
async fn t44_the_last_writer_leaves_and_the_server_rests() {
    let server = Setup::new().app(WHO).validate("echo alice").start();
    let mut client = server.connect().await;
    let (global, own) = (server.state(GLOBAL), fifo_of(&server, &client));
    write(&own, "/a\n");
    assert_eq!(hear(&mut client).await, "alice fifo GET /a");
    write(&global, "b\n");
    assert_eq!(hear(&mut client).await, "b");
    let before = cpu_ticks(server.pid());
    let while_idle = tokio::time::timeout(Duration::from_secs(1), next(&mut client)).await;
    assert!(while_idle.is_err(), "a message out of nothing");
    // A reader that sees the end again and again would use most of a hundred.
    let used = cpu_ticks(server.pid()) - before;
    assert!(used < 25, "{used} ticks in an idle second");
    bye(client).await;
    server.finish();
}

/// Clock ticks of a process in user and system mode: fields 14 and 15 of proc(5), stat.
fn cpu_ticks(pid: i32) -> u64 {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
    let (_, fields) = stat.rsplit_once(')').unwrap();
    let fields: Vec<&str> = fields.split_whitespace().collect();
    fields[11].parse::<u64>().unwrap() + fields[12].parse::<u64>().unwrap()
}

/// Stops the server and waits until it stands still.
fn stop(server: &Server) {
    server.signal(Signal::SIGSTOP);
    eventually("every thread has stopped", || {
        let tasks = fs::read_dir(format!("/proc/{}/task", server.pid())).unwrap();
        tasks.flatten().all(|task| {
            let stat = fs::read_to_string(task.path().join("stat")).unwrap_or_default();
            stat.rsplit_once(')')
                .is_some_and(|(_, rest)| rest.trim_start().starts_with('T'))
        })
    });
}

#[tokio::test]
async fn t45_a_full_fifo_refuses_and_keeps_what_it_took() {
    let server = Setup::new().arg("--echo").start();
    let mut client = server.connect().await;
    stop(&server);
    let mut writer = open(&server.state(GLOBAL));
    let mut accepted = 0;
    let refusal = loop {
        let record = format!("{accepted:04095}\n");
        match writer.write(record.as_bytes()) {
            Ok(written) => assert_eq!(written, 4096),
            Err(error) => break error,
        }
        accepted += 1;
        assert!(accepted < 10_000, "nothing bounds the FIFO");
    };
    assert_eq!(refusal.kind(), ErrorKind::WouldBlock);
    assert!(accepted > 0);
    server.signal(Signal::SIGCONT);
    for number in 0..accepted {
        assert_eq!(hear(&mut client).await, format!("{number:04095}"));
    }
    writer.write_all(b"room again\n").unwrap();
    assert_eq!(hear(&mut client).await, "room again");
    assert_eq!(server.figure("fifo.records"), accepted + 1);
    bye(client).await;
    server.finish();
}

#[tokio::test]
async fn inv03_records_behind_a_full_queue_are_counted_when_their_connection_ends() {
    let setup = Setup::new()
        .app("read _ < gate; echo \"$REQUEST_URI\"")
        .set("app.queue", "1")
        .set("limits.send_queue_size", "1KiB");
    let mut gate = Gate::new(setup.dir(), "gate");
    let server = setup.start();
    let client = server.connect().await;
    write(&fifo_of(&server, &client), "/1\n/2\n/3\n/4\n/5\n");
    // One runs, one waits in the queue, the others before it.
    server.until("callbacks.accepted", 2);
    // A client that does not read is closed when pushes are more than its queue holds.
    let push = "x".repeat(1 << 20);
    eventually("the queue overflows", || {
        figure(&server.send(json!({ "all": true }), &push), "dropped") == 1
    });
    server.until("fifo.refused_by.ended", 3);
    assert_eq!(server.figure("fifo.records"), 5);
    drop(client);
    gate.open(2);
    server.until("callbacks.finished", 2);
    server.until("callbacks.replies_dropped", 2);
    assert_eq!(server.figure("callbacks.accepted"), 2);
    server.finish();
}

#[tokio::test]
async fn fifos_that_vanish_or_are_replaced_are_made_anew() {
    let server = Setup::new().app(WHO).validate("echo alice").start();
    let mut client = server.connect().await;
    let (global, own) = (server.state(GLOBAL), fifo_of(&server, &client));
    let dir = server.state("fifo");
    let lost = || {
        let names = names_in(&dir);
        names.iter().filter(|name| name.contains(".lost-")).count()
    };
    for (path, record, answer) in [(&global, "b\n", "b"), (&own, "/b\n", "alice fifo GET /b")] {
        let before = lost();
        fs::remove_file(path).unwrap();
        eventually("it is there again", || is_ready(path));
        write(path, record);
        assert_eq!(hear(&mut client).await, answer);

        // A file of ours is not overwritten: somebody wrote it in the belief that it is a FIFO.
        let file = server.dir().join("file");
        fs::write(&file, "precious").unwrap();
        fs::rename(&file, path).unwrap();
        eventually("a FIFO again", || is_ready(path));
        assert_eq!(lost(), before + 1);
        write(path, record);
        assert_eq!(hear(&mut client).await, answer);

        // A FIFO that others made is not read.
        let foreign = server.dir().join("foreign");
        mkfifo(&foreign, Mode::S_IRWXU).unwrap();
        fs::rename(&foreign, path).unwrap();
        eventually("ours again", || is_ready(path));
        write(path, record);
        assert_eq!(hear(&mut client).await, answer);
    }
    for name in names_in(&dir).iter().filter(|name| name.contains(".lost-")) {
        assert_eq!(fs::read_to_string(dir.join(name)).unwrap(), "precious");
    }
    // The whole directory, too.
    fs::rename(&dir, server.dir().join("elsewhere")).unwrap();
    eventually("both are there again", || {
        is_ready(&global) && is_ready(&own)
    });
    write(&own, "/c\n");
    assert_eq!(hear(&mut client).await, "alice fifo GET /c");
    write(&global, "c\n");
    assert_eq!(hear(&mut client).await, "c");
    bye(client).await;
    server.finish();
}

#[tokio::test]
async fn t46_what_was_written_before_a_fifo_vanished_counts_and_is_joined_to_nothing() {
    let server = Setup::new().app(WHO).validate("echo alice").start();
    let mut client = server.connect().await;
    let (global, own) = (server.state(GLOBAL), fifo_of(&server, &client));
    stop(&server);
    write(&global, "whole\nhal");
    write(&own, "/whole\n/hal");
    fs::remove_file(&global).unwrap();
    fs::remove_file(&own).unwrap();
    server.signal(Signal::SIGCONT);
    let mut heard = [hear(&mut client).await, hear(&mut client).await];
    heard.sort();
    assert_eq!(heard, ["alice fifo GET /whole", "whole"]);
    eventually("both are there again", || {
        is_ready(&global) && is_ready(&own)
    });
    write(&global, "next\n");
    assert_eq!(hear(&mut client).await, "next");
    write(&own, "/next\n");
    assert_eq!(hear(&mut client).await, "alice fifo GET /next");
    assert_eq!(server.figure("fifo.refused_by.partial"), 2);
    bye(client).await;
    server.finish();
}

#[test]
fn t41_what_is_not_ours_stops_the_start_and_stays_as_it_was() {
    type Plant = fn(&Path, &Path);
    let plants: [(&str, Plant); 5] = [
        ("symbolic link", |fifo, target| {
            symlink(target, fifo).unwrap();
        }),
        ("symbolic link to nothing", |fifo, target| {
            symlink(target.with_extension("nothing"), fifo).unwrap();
        }),
        ("directory", |fifo, _| fs::create_dir(fifo).unwrap()),
        ("hard link", |fifo, target| {
            fs::hard_link(target, fifo).unwrap();
        }),
        ("socket", |fifo, _| {
            drop(std::os::unix::net::UnixListener::bind(fifo).unwrap());
        }),
    ];
    for (what, plant) in plants {
        let dir = TempDir::new().unwrap();
        let state = dir.path().join("state");
        fs::create_dir_all(state.join("fifo")).unwrap();
        let (fifo, target) = (state.join(GLOBAL), dir.path().join("target"));
        fs::write(&target, "precious").unwrap();
        plant(&fifo, &target);
        let before = fs::symlink_metadata(&fifo).unwrap();
        refuses_to_start(&state, "global_pipe.fifo", what);
        let after = fs::symlink_metadata(&fifo).unwrap();
        assert_eq!(
            (before.ino(), before.mode(), before.nlink()),
            (after.ino(), after.mode(), after.nlink()),
            "{what}"
        );
        assert_eq!(fs::read_to_string(&target).unwrap(), "precious", "{what}");
        assert_eq!(names_in(dir.path()).len(), 2, "{what}");
    }
}

#[test]
fn t41_a_fifo_of_another_user_stops_the_start() {
    if !nix::unistd::geteuid().is_root() {
        println!("skipped: only root can give a file away");
        return;
    }
    let dir = TempDir::new().unwrap();
    let fifo = dir.path().join(GLOBAL);
    fs::create_dir(dir.path().join("fifo")).unwrap();
    mkfifo(&fifo, Mode::S_IRWXU).unwrap();
    std::os::unix::fs::chown(&fifo, Some(65_534), None).unwrap();
    refuses_to_start(dir.path(), "65534", "a FIFO of nobody's");
    assert_eq!(fs::metadata(&fifo).unwrap().uid(), 65_534);
}

#[test]
fn t41_a_directory_that_others_can_change_stops_the_start() {
    let dir = TempDir::new().unwrap();
    let fifos = dir.path().join("fifo");
    fs::create_dir(&fifos).unwrap();
    for mode in [0o777, 0o770, 0o757] {
        fs::set_permissions(&fifos, Permissions::from_mode(mode)).unwrap();
        refuses_to_start(dir.path(), "others may write to it", "a writable directory");
    }
    fs::remove_dir(&fifos).unwrap();
    let elsewhere = dir.path().join("elsewhere");
    fs::create_dir(&elsewhere).unwrap();
    symlink(&elsewhere, &fifos).unwrap();
    refuses_to_start(dir.path(), "symbolic link", "a linked directory");
    assert!(names_in(&elsewhere).is_empty());
}

/// Exit code 73, a named cause, and nothing left behind.
fn refuses_to_start(state: &Path, cause: &str, what: &str) {
    // With an application, so that helpers would be there to be left behind.
    let setup = Setup::new().arg("--state-dir").arg(state.to_str().unwrap());
    let output = setup.app("true").fail();
    let error = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(73), "{what}: {error}");
    assert!(error.contains(cause), "{what}: {error}");
    assert!(output.stdout.is_empty(), "{what}");
    assert!(!state.join("control.sock").exists(), "{what}");
}

#[tokio::test]
async fn t41_a_file_of_ours_is_kept_under_another_name() {
    let setup = Setup::new().app(WHO);
    let dir = setup.dir().join("tmp/fifo");
    fs::create_dir_all(&dir).unwrap();
    fs::write(dir.join("global_pipe.fifo"), "while you were away\n").unwrap();
    mkfifo(
        &dir.join("alice:127.0.0.1:4711.fifo"),
        Mode::S_IRUSR | Mode::S_IWUSR,
    )
    .unwrap();
    let server = setup.start();
    let names = names_in(&dir);
    let lost: Vec<_> = names
        .iter()
        .filter(|name| name.starts_with("global_pipe.fifo.lost-"))
        .collect();
    assert_eq!(lost.len(), 1, "{names:?}");
    let kept = fs::read_to_string(dir.join(lost[0])).unwrap();
    assert_eq!(kept, "while you were away\n");
    assert!(
        !names.iter().any(|name| name.contains("4711")),
        "a FIFO of a former run: {names:?}"
    );
    let mut client = server.connect().await;
    write(&server.state(GLOBAL), "hello\n");
    assert_eq!(hear(&mut client).await, "hello");
    bye(client).await;
    let log = server.finish();
    assert!(log.contains(".lost-"), "{log}");
}

#[tokio::test]
async fn a_second_server_in_the_same_directory_is_refused() {
    let server = Setup::new().app(WHO).start();
    let state = server.state("").to_str().unwrap().to_owned();
    let output = Setup::new().arg("--state-dir").arg(state).app(WHO).fail();
    assert_eq!(output.status.code(), Some(73));
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(error.contains("another server"), "{error}");
    // And the first one has kept everything.
    let mut client = server.connect().await;
    write(&server.state(GLOBAL), "still here\n");
    assert_eq!(hear(&mut client).await, "still here");
    bye(client).await;
    server.finish();
}

#[tokio::test]
async fn fifos_can_be_switched_off() {
    let server = Setup::new().app(WHO).set("fifo.enabled", "false").start();
    let mut client = server.connect().await;
    assert!(server.connections()[0]["fifo"].is_null());
    assert!(!server.state("fifo").exists());
    assert!(ask(&mut client, "/a").await.ends_with(" client GET /a"));
    bye(client).await;
    server.finish();

    let server = Setup::new()
        .app(WHO)
        .set("fifo.user_fifos", "false")
        .start();
    let mut client = server.connect().await;
    assert!(server.connections()[0]["fifo"].is_null());
    let names = names_in(&server.state("fifo"));
    let fifos = names.iter().filter(|name| name.ends_with(".fifo"));
    assert_eq!(fifos.collect::<Vec<_>>(), ["global_pipe.fifo"]);
    write(&server.state(GLOBAL), "hello\n");
    assert_eq!(hear(&mut client).await, "hello");
    bye(client).await;
    server.finish();
}

#[tokio::test]
async fn t47_a_delimiter_ends_records_and_nothing_else_does() {
    let delimiter = "\nCarbonPHP\\Abstracts\\Pipe:29\n";
    let server = Setup::new()
        .app(WHO)
        .validate("echo alice")
        .set("fifo.framing", "delimiter")
        .set("fifo.delimiter", delimiter)
        .set("fifo.max_record", "64KiB")
        .start();
    let mut client = server.connect().await;
    let (global, own) = (server.state(GLOBAL), fifo_of(&server, &client));
    let letter = "first line\n\nCarbonPHP\\Abstracts\\Pipe:28\n".repeat(200);
    write(&global, format!("{letter}{delimiter}short{delimiter}"));
    assert_eq!(hear(&mut client).await, letter);
    assert_eq!(hear(&mut client).await, "short");
    write(&own, format!("/a{delimiter}/b\n{delimiter}/c{delimiter}"));
    assert_eq!(hear(&mut client).await, "alice fifo GET /a");
    assert_eq!(hear(&mut client).await, "alice fifo GET /c");
    assert_eq!(server.figure("fifo.refused_by.not_uri"), 1);
    bye(client).await;
    server.finish();
}

#[tokio::test]
async fn t42_hostile_user_ids_stay_inside_and_apart() {
    let setup = Setup::new().app("printf %s \"$WS_USER_ID\"");
    let server = setup.validate(USER_BY_PATH).start();
    // What is not `A-Z a-z 0-9 _ -` is encoded; over 150 bytes of it, there is a hash.
    let ids = [
        ("../../x", "%2E%2E%2F%2E%2E%2Fx"),
        ("..", "%2E%2E"),
        (".", "%2E"),
        ("*", "%2A"),
        ("[4]*", "%5B4%5D%2A"),
        ("?", "%3F"),
        ("4", "4"),
        ("42", "42"),
        ("420", "420"),
        ("4:127.0.0.1:1", "4%3A127%2E0%2E0%2E1%3A1"),
        ("Ab", "Ab"),
        ("aB", "aB"),
        ("%2E", "%252E"),
        ("-rf", "-rf"),
        ("~root", "~root"),
        ("é", "%C3%A9"),
        ("$(id)`id`", "%24%28id%29%60id%60"),
    ];
    let mut clients = Vec::new();
    for (id, encoded) in ids {
        let target: String = id.bytes().map(|byte| format!("%{byte:02X}")).collect();
        let client = server
            .connect_with(&format!("/{target}"), &[])
            .await
            .unwrap();
        let encoded = encoded.replace('~', "%7E");
        let name = format!("fifo/{encoded}:127.0.0.1:{}.fifo", port(&client));
        assert_eq!(fifo_of(&server, &client), server.state(&name), "{id}");
        assert!(is_fifo(&server.state(&name)), "{id}");
        clients.push((id.to_owned(), client));
    }
    for last in ["y", "z"] {
        let id = format!("{}{last}", "x".repeat(254));
        let client = server.connect_with(&format!("/{id}"), &[]).await.unwrap();
        let fifo = fifo_of(&server, &client);
        let name = fifo.file_name().unwrap().to_str().unwrap();
        let (user, _) = name.split_once(':').unwrap();
        assert!(
            user.starts_with("sha256=") && user.len() == 7 + 64,
            "{name}"
        );
        clients.push((id, client));
    }
    let names = names_in(&server.state("fifo"));
    let count = names.iter().filter(|name| name.ends_with(".fifo")).count();
    assert_eq!(count, clients.len() + 1, "{names:?}");
    // Each leads to its own user; the message that follows proves that nothing else did.
    for (id, client) in &mut clients {
        write(&fifo_of(&server, client), "/\n");
        assert_eq!(&hear(client).await, id);
    }
    for (id, client) in &mut clients {
        assert_eq!(&ask(client, "/").await, id);
    }
    for (_, client) in clients {
        bye(client).await;
    }
    server.finish();
}

#[tokio::test]
async fn without_a_port_the_connection_id_stands_in_the_name() {
    let setup = Setup::new().app(WHO).validate("echo alice");
    let server = setup.arg("--listen").arg("unix:ws.sock").start();
    let stream = tokio::net::UnixStream::connect(server.dir().join("ws.sock"));
    let connecting = tokio_tungstenite::client_async("ws://localhost/", stream.await.unwrap());
    let (mut client, _) = connecting.await.unwrap();
    let entry = server.connections().remove(0);
    assert!(entry["port"].is_null() && entry["ip"].is_null());
    let fifo = PathBuf::from(entry["fifo"].as_str().unwrap());
    let name = format!("alice:local:{}.fifo", entry["id"].as_str().unwrap());
    assert_eq!(fifo.file_name().unwrap().to_str(), Some(&*name));
    write(&fifo, "/a\n");
    let answer = client.next().await.unwrap().unwrap();
    assert_eq!(answer.into_text().unwrap().as_str(), "alice fifo GET /a");
    client.close(None).await.unwrap();
    while let Some(Ok(_)) = client.next().await {}
    drop(client);
    server.finish();
}

#[tokio::test]
async fn a_callback_pushes_through_the_doors_it_is_told_of() {
    let setup = Setup::new().app(
        r#"case $REQUEST_URI in
               /own) echo /again > "$WS_FIFO" ;;
               /all) echo "to all" > "$WS_GLOBAL_FIFO" ;;
           esac
           echo "did $REQUEST_URI""#,
    );
    let server = setup.start();
    let mut client = server.connect().await;
    let mut other = server.connect().await;
    say(&mut client, "/own").await;
    assert_eq!(hear(&mut client).await, "did /own");
    assert_eq!(hear(&mut client).await, "did /again");
    say(&mut client, "/all").await;
    let mut heard = [hear(&mut client).await, hear(&mut client).await];
    heard.sort();
    assert_eq!(heard, ["did /all", "to all"]);
    assert_eq!(hear(&mut other).await, "to all");
    bye(client).await;
    bye(other).await;
    server.finish();
}

#[tokio::test]
async fn inv11_records_that_were_read_are_run_before_the_drain_ends() {
    let setup = Setup::new()
        .app("read _ < gate; echo \"$REQUEST_URI\"")
        .set("app.queue", "1");
    let mut gate = Gate::new(setup.dir(), "gate");
    let server = setup.start();
    let mut client = server.connect().await;
    write(&fifo_of(&server, &client), "/1\n/2\n/3\n/4\n/5\n");
    server.until("callbacks.accepted", 2);
    server.signal(Signal::SIGTERM);
    eventually("it drains", || server.control("GET", "/ready", "").0 == 503);
    gate.open(5);
    for uri in ["/1", "/2", "/3", "/4", "/5"] {
        assert_eq!(hear(&mut client).await, uri);
    }
    assert_eq!(close_code(&mut client).await, 1001);
    bye(client).await;
    server.check_end();
}

#[tokio::test]
async fn t41_what_is_planted_while_the_server_runs_is_not_touched_and_outlasted() {
    let server = Setup::new().app(WHO).validate("echo alice").start();
    let mut client = server.connect().await;
    let (global, own) = (server.state(GLOBAL), fifo_of(&server, &client));
    let target = server.dir().join("target");
    fs::write(&target, "precious").unwrap();
    for path in [&global, &own] {
        fs::remove_file(path).unwrap();
        // Between the removal and this, the server may have been faster.
        let planted = path.with_extension("planted");
        symlink(&target, &planted).unwrap();
        fs::rename(&planted, path).unwrap();
    }
    // One door that is shut is no reason to shut another.
    assert_eq!(ask(&mut client, "/x").await, "alice client GET /x");
    server.send(json!({ "all": true }), "by another door");
    assert_eq!(hear(&mut client).await, "by another door");
    for path in [&global, &own] {
        assert!(fs::symlink_metadata(path).unwrap().is_symlink());
        fs::remove_file(path).unwrap();
        eventually("ours again", || is_ready(path));
    }
    write(&global, "a\n");
    assert_eq!(hear(&mut client).await, "a");
    write(&own, "/a\n");
    assert_eq!(hear(&mut client).await, "alice fifo GET /a");
    assert_eq!(fs::read_to_string(&target).unwrap(), "precious");
    bye(client).await;
    server.finish();
}

#[tokio::test]
async fn t40_who_may_write_is_configured_and_everybody_only_in_as_many_words() {
    let output = Setup::new().app(WHO).set("fifo.mode", "0622").fail();
    assert_eq!(output.status.code(), Some(78));
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(error.contains("insecure_world_writable"), "{error}");
    for (mode_set, insecure) in [("0600", "false"), ("0660", "false"), ("0622", "true")] {
        let server = Setup::new()
            .app(WHO)
            .umask("077")
            .set("fifo.mode", mode_set)
            .set("fifo.insecure_world_writable", insecure)
            .start();
        let client = server.connect().await;
        let expected = u32::from_str_radix(mode_set, 8).unwrap();
        assert_eq!(mode(&server.state(GLOBAL)), expected);
        assert_eq!(mode(&fifo_of(&server, &client)), expected);
        bye(client).await;
        server.finish();
    }
}

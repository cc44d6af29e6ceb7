//! What is written to FIFOs: framing, order, who gets it, and what is refused.

use super::*;

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
    // The last message is heard before it is counted.
    server.until("pushes.targets", 20);
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
async fn t53_records_of_any_kind_are_messages_where_that_is_configured() {
    let reply =
        r#"echo "$WS_MESSAGE_TYPE $REQUEST_METHOD $REQUEST_URI $(cat | od -An -c | tr -d ' ')""#;
    for per in ["connection", "user"] {
        let setup = Setup::new().app(reply).validate("echo alice");
        let setup = setup.set("fifo.records", "any").set("fifo.per", per);
        let server = setup.start();
        let mut client = server.connect_with("/here", &[]).await.unwrap();
        let fifo = match per {
            "user" => server.state("fifo/alice.fifo"),
            _ => fifo_of(&server, &client),
        };
        for (record, answer) in [
            (&b"/a?b"[..], "text GET /a?b /a?b"),
            (b"words", "text POST /here words"),
            (b"{}", "text POST /here {}"),
            (b"ping", "text POST /here ping"),
            (b"a\xff", "binary POST /here a377"),
        ] {
            write(&fifo, [record, b"\n"].concat());
            assert_eq!(hear(&mut client).await, answer, "{per}");
        }
        assert_eq!(server.figure("fifo.refused_by.not_uri"), 0);
        bye(client).await;
        server.finish();
    }
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
        // The FIFO may be full of what they wrote, so this waits as they did.
        let mut fifo = File::options()
            .write(true)
            .open(server.state(GLOBAL))
            .unwrap();
        fifo.write_all(format!("{end}\n").as_bytes()).unwrap();
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
async fn t45_records_that_come_faster_than_the_rate_wait_and_are_all_taken() {
    const RATE: u32 = 20;
    let server = Setup::new()
        .arg("--echo")
        .set("fifo.rate", RATE.to_string())
        .start();
    let mut client = server.connect().await;
    let records: String = (0..RATE * 2).map(|number| format!("{number}\n")).collect();
    let begun = std::time::Instant::now();
    write(&server.state(GLOBAL), records);
    for number in 0..RATE * 2 {
        assert_eq!(hear(&mut client).await, number.to_string());
    }
    // As many as in a second come at once, each of the others in its time.
    assert!(begun.elapsed() >= Duration::from_secs(1) * (RATE - 1) / RATE);
    assert_eq!(server.figure("fifo.records"), u64::from(RATE * 2));
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

//! What becomes of what a callback writes.

use futures_util::SinkExt;
use tokio_tungstenite::tungstenite::Message;

use super::{lines_of, until_failed};
use crate::support::*;

/// Writes what the message says, with the escapes of printf.
const WRITE: &str = r#"printf "$(cat)""#;

#[tokio::test]
async fn plain_output_loses_its_last_newlines_only() {
    let server = Setup::new().app(WRITE).start();
    let mut client = server.connect().await;
    for (output, reply) in [
        (r"a\n", "a"),
        (r" a \n\n\r\n", " a "),
        (r"\n\na\nb", "\n\na\nb"),
        (r"\n \n", "\n "),
        (r"a\000b", "a\0b"),
    ] {
        assert_eq!(ask(&mut client, output).await, reply, "{output}");
    }
    bye(client).await;
    server.finish();
}

#[tokio::test]
async fn trimming_is_configured() {
    for (trim, reply) in [("all", "a"), ("none", " \n a\n\n")] {
        let server = Setup::new().set("app.trim", trim).app(WRITE).start();
        let mut client = server.connect().await;
        assert_eq!(ask(&mut client, r" \n a\n\n").await, reply);
        bye(client).await;
        server.finish();
    }
}

#[tokio::test]
async fn output_that_is_not_utf8_is_a_binary_message() {
    let server = Setup::new().app(WRITE).start();
    let mut client = server.connect().await;
    say(&mut client, r"\377\000\n").await;
    assert_eq!(next(&mut client).await, Message::binary(vec![255, 0]));
    // The type of the question does not matter.
    client.send(Message::binary("abc")).await.unwrap();
    assert_eq!(next(&mut client).await, Message::text("abc"));
    bye(client).await;
    server.finish();
}

#[tokio::test]
async fn nothing_written_is_nothing_sent() {
    let server = Setup::new().app(WRITE).start();
    let mut client = server.connect().await;
    say(&mut client, "").await;
    say(&mut client, r"\n\n").await;
    assert_eq!(ask(&mut client, "behind").await, "behind");
    server.until("callbacks.finished", 3);
    assert_eq!(server.figure("messages.queued"), 1);
    bye(client).await;
    server.finish();
}

#[tokio::test]
async fn empty_and_failed_answers_have_replies_of_their_own() {
    let server = Setup::new()
        .set("app.empty_reply", "nothing to say")
        .set("app.error_reply", "sorry")
        .app(r#"text=$(cat); printf "$text"; test "$text" != bad"#)
        .start();
    let mut client = server.connect().await;
    assert_eq!(ask(&mut client, "").await, "nothing to say");
    assert_eq!(ask(&mut client, r"\n").await, "nothing to say");
    assert_eq!(ask(&mut client, "good").await, "good");
    assert_eq!(ask(&mut client, "bad").await, "sorry");
    until_failed(&server, "exit", 1);
    bye(client).await;
    server.finish();
}

#[tokio::test]
async fn cgi_output_names_type_and_status() {
    let server = Setup::new()
        .set("app.output", "cgi")
        .set("app.error_reply", "failed")
        .app(WRITE)
        .start();
    let mut client = server.connect().await;
    for (output, reply) in [
        (
            r"Content-Type: text/plain\r\n\r\nhello\n",
            Message::text("hello"),
        ),
        (r"X-WS-Type: text\n\na", Message::text("a")),
        (r"X-WS-Type: binary\n\na\n", Message::binary("a\n")),
        (r"Content-Type: x\n\n\377", Message::binary(vec![255])),
        (
            r"Status: 200 OK\nX-WS-Type: text\n\nfine",
            Message::text("fine"),
        ),
        (r"Status: 399\n\nfine", Message::text("fine")),
        // Failures, and nothing of what they wrote.
        (r"Status: 400 Bad\n\npartial", Message::text("failed")),
        (
            r"Status: 500\nX-WS-Close: 4000\n\npartial",
            Message::text("failed"),
        ),
        (r"X-WS-Type: text\n\n\377", Message::text("failed")),
        (r"X-WS-Type: video\n\na", Message::text("failed")),
        (r"X-WS-Close: 1005\n\na", Message::text("failed")),
        (r"X-WS-Close: soon\n\na", Message::text("failed")),
        (r"Content-Length: 5\n\nfour", Message::text("failed")),
        ("no header", Message::text("failed")),
        ("", Message::text("failed")),
    ] {
        say(&mut client, output).await;
        assert_eq!(next(&mut client).await, reply, "{output}");
    }
    until_failed(&server, "bad_answer", 9);
    bye(client).await;
    server.finish();
}

#[tokio::test]
async fn cgi_output_closes_the_connection_behind_its_reply() {
    let server = Setup::new().set("app.output", "cgi").app(WRITE).start();
    let mut client = server.connect().await;
    assert_eq!(
        ask(&mut client, r"X-WS-Close: 4001 enough for today\n\nbye\n").await,
        "bye"
    );
    match next(&mut client).await {
        Message::Close(Some(frame)) => {
            assert_eq!(
                (u16::from(frame.code), frame.reason.as_str()),
                (4001, "enough for today")
            );
        }
        other => panic!("not a close: {other:?}"),
    }
    bye(client).await;
    server.until("connections.closed_by.application", 1);
    server.finish();
}

/// What was accepted before the close still runs, and there is nobody to send its replies to.
#[tokio::test]
async fn messages_behind_one_that_closes_run_and_their_replies_are_dropped() {
    let setup = Setup::new();
    let mut gate = Gate::new(setup.dir(), "gate");
    let server = setup
        .set("app.output", "cgi")
        .app("read _ < gate; echo run >> ran; cat")
        .start();
    let mut client = server.connect().await;
    say(&mut client, "X-WS-Close: 4001\n\nlast").await;
    say(&mut client, "X-WS-Type: text\n\nnever seen").await;
    say(&mut client, "X-WS-Close: 4002\n\nnever seen").await;
    server.until("callbacks.accepted", 3);
    gate.open(1);
    assert_eq!(hear(&mut client).await, "last");
    assert_eq!(close_code(&mut client).await, 4001);
    gate.open(2);
    bye(client).await;
    server.until("callbacks.finished", 3);
    server.until("callbacks.replies_dropped", 2);
    assert_eq!(lines_of(server.dir(), "ran").len(), 3);
    server.finish();
}

#[tokio::test]
async fn b11_ping_is_answered_without_a_process() {
    let setup = Setup::new();
    let mut gate = Gate::new(setup.dir(), "gate");
    let server = setup.app(r#"read _ < gate; cat"#).start();
    let mut client = server.connect().await;
    assert_eq!(ask(&mut client, "ping").await, "pong");
    // A callback that runs does not hold it up, nor what waits behind that.
    say(&mut client, "one").await;
    say(&mut client, "two").await;
    assert_eq!(ask(&mut client, "ping").await, "pong");
    server.until("callbacks.accepted", 2);
    assert_eq!(server.figure("callbacks.finished"), 0);
    gate.open(2);
    assert_eq!(hear(&mut client).await, "one");
    assert_eq!(hear(&mut client).await, "two");
    // Only that very text is meant.
    gate.open(3);
    assert_eq!(ask(&mut client, "Ping").await, "Ping");
    assert_eq!(ask(&mut client, "ping ").await, "ping ");
    client.send(Message::binary("ping")).await.unwrap();
    assert_eq!(hear(&mut client).await, "ping");
    bye(client).await;
    server.until("callbacks.accepted", 5);
    server.finish();
}

#[tokio::test]
async fn ping_is_a_message_like_any_other_if_so_configured() {
    let server = Setup::new()
        .set("app.ping", "false")
        .app("echo got $(cat)")
        .start();
    let mut client = server.connect().await;
    assert_eq!(ask(&mut client, "ping").await, "got ping");
    bye(client).await;
    server.finish();
}

/// B13: what the kernel does not take at once is neither lost nor torn.
#[tokio::test]
async fn b13_large_replies_to_a_late_reader_are_whole() {
    let server = Setup::new()
        .set("limits.send_queue_size", "64KiB")
        .set("app.max_output", "4MiB")
        .app(r#"n=$(cat); head -c 3000000 /dev/zero | tr '\0' "$n""#)
        .start();
    let mut client = server.connect().await;
    for n in 1..=6 {
        say(&mut client, &n.to_string()).await;
    }
    // Nothing is read before the server cannot write any more.
    eventually("replies wait in the server", || {
        let status = server.status();
        figure(&status, "messages.queued") > figure(&status, "messages.sent")
    });
    for n in 1..=6 {
        let reply = hear(&mut client).await;
        assert!(reply.len() == 3_000_000 && reply.bytes().all(|byte| byte == b'0' + n));
    }
    bye(client).await;
    server.finish();
}

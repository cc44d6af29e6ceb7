//! Answers that leave line by line: `app.output = "lines"`.

use futures_util::SinkExt;
use tokio_tungstenite::tungstenite::Message;

use super::until_failed;
use crate::support::*;

/// Callbacks that do what the message says.
fn lines() -> Setup {
    Setup::new()
        .set("app.output", "lines")
        .app(r#"eval "$(cat)""#)
}

#[tokio::test]
async fn a_line_leaves_as_soon_as_it_is_written() {
    let setup = lines();
    let mut gate = Gate::new(setup.dir(), "gate");
    let server = setup.start();
    let mut client = server.connect().await;
    say(
        &mut client,
        r"echo one; echo; read _ < gate; printf 'two\r\n\377\nthree'",
    )
    .await;
    assert_eq!(hear(&mut client).await, "one");
    assert_eq!(hear(&mut client).await, "");
    assert_eq!(server.figure("callbacks.finished"), 0);
    gate.open(1);
    assert_eq!(hear(&mut client).await, "two");
    assert_eq!(next(&mut client).await, Message::binary(vec![0xff]));
    assert_eq!(hear(&mut client).await, "three");
    bye(client).await;
    server.finish();
}

#[tokio::test]
async fn lines_of_a_failure_are_followed_by_the_error_reply() {
    let server = lines()
        .set("app.error_reply", "failed")
        .set("app.empty_reply", "nothing")
        .set("app.timeout", "1s")
        .set("app.max_output", "1000")
        .start();
    let mut client = server.connect().await;
    for (count, message) in (1..).zip(["echo one; exit 3", "echo one; kill -9 $$"]) {
        assert_eq!(ask(&mut client, message).await, "one");
        assert_eq!(hear(&mut client).await, "failed");
        assert_eq!(server.figure("callbacks.failed"), count);
    }
    assert_eq!(
        ask(&mut client, "echo one; exec sleep 600").await,
        "one",
        "T61"
    );
    assert_eq!(hear(&mut client).await, "failed");
    assert_eq!(
        ask(&mut client, "echo one; head -c 1001 /dev/zero; sleep 600").await,
        "one",
        "T60"
    );
    assert_eq!(hear(&mut client).await, "failed");
    server.until("callbacks.failed_by.output", 1);
    assert_eq!(ask(&mut client, "true").await, "nothing");
    assert_eq!(
        ask(&mut client, "echo").await,
        "",
        "an empty line is a message"
    );
    assert_eq!(ask(&mut client, "echo next").await, "next");
    bye(client).await;
    server.finish();
}

#[tokio::test]
async fn lines_of_a_later_message_wait_for_the_earlier_answer() {
    let setup = lines()
        .set("app.per_connection", "2")
        .set("app.max_output", "100KiB");
    let mut first = Gate::new(setup.dir(), "first");
    let mut second = Gate::new(setup.dir(), "second");
    let server = setup.start();
    let mut client = server.connect().await;
    say(
        &mut client,
        "echo 1a; read _ < first; echo 1b; touch done; exit 3",
    )
    .await;
    let message = "echo 2a; seq 1 100000; touch written; read _ < second; echo 2b";
    say(&mut client, message).await;
    say(&mut client, "echo 3; touch third").await;
    assert_eq!(hear(&mut client).await, "1a");
    server.until("callbacks.started", 2);
    first.open(1);
    assert_eq!(hear(&mut client).await, "1b");
    // The rest of the second's first lines comes while it runs.
    assert_eq!(hear(&mut client).await, "2a");
    assert!(server.dir().join("done").exists());
    for number in 1..=100_000 {
        assert_eq!(hear(&mut client).await, number.to_string());
    }
    eventually("the third has run", || server.dir().join("third").exists());
    second.open(1);
    assert_eq!(hear(&mut client).await, "2b");
    assert_eq!(hear(&mut client).await, "3");
    until_failed(&server, "exit", 1);
    bye(client).await;
    server.finish();
}

#[tokio::test]
async fn t60_lines_that_wait_are_bounded() {
    let setup = lines()
        .set("app.per_connection", "2")
        .set("app.max_output", "10KiB");
    let mut gate = Gate::new(setup.dir(), "gate");
    let server = setup.start();
    let mut client = server.connect().await;
    say(&mut client, "read _ < gate; echo 1").await;
    say(&mut client, "seq 1 1000000 | tee copy; echo 2").await;
    // The second waits in its write: it is far from its end, and will not get there.
    let copied = || std::fs::metadata(server.dir().join("copy")).map_or(0, |copy| copy.len());
    let (mut size, mut looks) = (0, 0);
    eventually("the second is held up", || {
        server.figure("messages.queued");
        let is_unchanged = std::mem::replace(&mut size, copied()) == size && size > 0;
        looks = if is_unchanged { looks + 1 } else { 0 };
        looks == 100
    });
    assert!(size < 1 << 20, "{size}");
    gate.open(1);
    assert_eq!(hear(&mut client).await, "1");
    for number in 1..=1_000_000 {
        assert_eq!(hear(&mut client).await, number.to_string());
    }
    assert_eq!(hear(&mut client).await, "2");
    bye(client).await;
    server.finish();
}

#[tokio::test]
async fn unordered_lines_overtake() {
    let setup = lines()
        .set("app.per_connection", "2")
        .set("app.unordered", "true");
    let mut gate = Gate::new(setup.dir(), "gate");
    let server = setup.start();
    let mut client = server.connect().await;
    say(&mut client, "echo 1a; read _ < gate; echo 1b").await;
    assert_eq!(hear(&mut client).await, "1a");
    assert_eq!(ask(&mut client, "echo 2").await, "2");
    gate.open(1);
    assert_eq!(hear(&mut client).await, "1b");
    bye(client).await;
    server.finish();
}

#[tokio::test]
async fn t30_a_callback_is_not_read_while_its_client_does_not_read() {
    const LAST: u64 = 30_000;
    let server = lines().set("app.timeout", "1h").start();
    let before = server.figure("memory_bytes");
    let mut client = server.connect().await;
    say(
        &mut client,
        &format!("seq -f %01000.0f 1 {LAST}; touch written"),
    )
    .await;
    let (mut queued, mut looks) = (0, 0);
    eventually("the callback is held up", || {
        let now = server.figure("messages.queued");
        let is_unchanged = std::mem::replace(&mut queued, now) == now && now > 0;
        looks = if is_unchanged { looks + 1 } else { 0 };
        looks == 100
    });
    assert!(queued < LAST && !server.dir().join("written").exists());
    let growth = server.figure("memory_bytes").saturating_sub(before);
    assert!(growth < 32 << 20, "{growth}");
    for number in 1..=LAST {
        assert_eq!(hear(&mut client).await, format!("{number:01000}"));
    }
    bye(client).await;
    server.finish();
}

#[tokio::test]
async fn lines_for_a_client_that_is_gone_are_dropped_and_counted() {
    let setup = lines().set("app.per_connection", "2");
    let mut gate = Gate::new(setup.dir(), "gate");
    let server = setup.start();
    let mut client = server.connect().await;
    say(
        &mut client,
        "echo up; read _ < gate; echo 1; echo 2; touch first",
    )
    .await;
    say(&mut client, "echo 3; touch second").await;
    assert_eq!(hear(&mut client).await, "up");
    eventually("the second has run", || {
        server.dir().join("second").exists()
    });
    client.flush().await.unwrap();
    bye(client).await;
    server.until("connections.open", 0);
    gate.open(1);
    server.until("callbacks.finished", 2);
    assert!(server.dir().join("first").exists());
    server.until("callbacks.replies_dropped", 3);
    server.finish();
}

//! The client against peers that do what a test says.

use std::time::{Duration, Instant};

use bytes::Bytes;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, UnixListener};
use tokio::task::JoinHandle;
use ws_ipc::cgi::{CgiError, parse_answer};
use ws_ipc::fastcgi::{FastCgi, FastCgiConfig, FastCgiError, ProtocolStatus};
use ws_ipc::{Address, Environment, Failure};

use super::peer::{Conversation, Peer, STDERR, STDOUT, answer, end, record};

const LONG: Duration = Duration::from_secs(20);
const MAX_OUTPUT: usize = 1 << 20;

/// A client whose connections wait as long as a test may take.
fn client(address: Address) -> FastCgi {
    let config = FastCgiConfig {
        max_idle: 4,
        max_age: LONG,
    };
    FastCgi::new(address, config)
}

struct Asked {
    answer: Result<Vec<u8>, Failure>,
    stderr: Vec<String>,
}

impl Asked {
    fn body(&self) -> String {
        let answer = self.answer.as_ref().unwrap();
        String::from_utf8(parse_answer(answer).unwrap().body().to_vec()).unwrap()
    }
}

async fn ask_within(client: &FastCgi, payload: &[u8], timeout: Duration) -> Asked {
    let mut env = Environment::new();
    env.set("REQUEST_URI", "/a").unwrap();
    let payload = Bytes::copy_from_slice(payload);
    let mut stderr = Vec::new();
    let mut each = |line: &str| stderr.push(line.to_owned());
    let answer = client
        .call(&env, &payload, timeout, MAX_OUTPUT, &mut each)
        .await;
    Asked { answer, stderr }
}

async fn ask(client: &FastCgi) -> Asked {
    ask_within(client, b"payload", LONG).await
}

/// Asks while the peer does something else.
fn asking(client: &FastCgi) -> JoinHandle<Asked> {
    let client = client.clone();
    tokio::spawn(async move { ask(&client).await })
}

/// What comes of one request that is answered by these bytes and the end of the connection.
async fn answered_by(respond: impl FnOnce(u16) -> Vec<u8>) -> Asked {
    let peer = Peer::new();
    let asked = asking(&client(peer.address()));
    let mut conversation = peer.accept().await;
    let request = conversation.request().await;
    let response = respond(request.id);
    // The client may have seen enough before the end.
    let _ = conversation.stream.write_all(&response).await;
    drop(conversation);
    asked.await.unwrap()
}

#[tokio::test]
async fn request_carries_variables_and_payload() {
    let peer = Peer::new();
    let asked = asking(&client(peer.address()));
    let request = peer.accept().await.serve("hello").await;
    assert_eq!(request.param("REQUEST_URI"), Some(&b"/a"[..]));
    assert_eq!(request.param("CONTENT_LENGTH"), Some(&b"7"[..]));
    assert_eq!(request.stdin, b"payload");
    assert!(request.keep);
    assert_eq!(asked.await.unwrap().body(), "hello");
}

#[tokio::test]
async fn streams_may_interleave_anywhere() {
    let asked = answered_by(|id| {
        [
            record(STDERR, id, b"first\nsec", 1),
            record(STDOUT, id, b"X-A: 1\r\n\r", 0),
            record(STDERR, id, b"ond\n", 255),
            record(STDOUT, id, b"", 0),
            record(STDOUT, id, b"\nbo", 7),
            record(STDERR, id, b"third", 0),
            record(STDOUT, id, b"dy", 0),
            record(STDERR, id, b"", 0),
            end(id, 0, 0),
        ]
        .concat()
    })
    .await;
    assert_eq!(asked.body(), "body");
    assert_eq!(asked.stderr, ["first", "second", "third"]);
}

#[tokio::test]
async fn connection_that_ends_before_the_response_loses_the_request() {
    let size = answer(1, "hello").len();
    for len in 0..size {
        let asked = answered_by(|id| answer(id, "hello")[..len].to_vec()).await;
        assert_eq!(asked.answer, Err(Failure::Lost), "after {len} bytes");
    }
}

#[tokio::test]
async fn what_is_no_response_fails() {
    type Respond = fn(u16) -> Vec<u8>;
    let cases: [(Respond, FastCgiError); 4] = [
        (
            |_| b"HTTP/1.1 400 Bad Request\r\n\r\n".to_vec(),
            FastCgiError::WrongVersion(b'H'),
        ),
        (
            |id| answer(id + 10, "of another"),
            FastCgiError::WrongId {
                asked: 1,
                received: 11,
            },
        ),
        (
            |id| record(8, id, b"data", 0),
            FastCgiError::UnexpectedRecord(8),
        ),
        (
            |id| end(id, 0, 1),
            FastCgiError::Refused(ProtocolStatus::CannotMultiplex),
        ),
    ];
    for (respond, error) in cases {
        let asked = answered_by(respond).await;
        assert_eq!(asked.answer, Err(Failure::BadRecord(error)));
    }
}

#[tokio::test]
async fn malformed_answers_fail() {
    let cases = [
        ("", CgiError::Empty),
        ("A: b\n", CgiError::HeadUnfinished),
        ("Status: x\n\n", CgiError::InvalidStatus),
        (
            "Content-Length: 3\n\nab",
            CgiError::BodyTooShort {
                announced: 3,
                received: 2,
            },
        ),
    ];
    for (text, error) in cases {
        let asked =
            answered_by(|id| [record(STDOUT, id, text.as_bytes(), 0), end(id, 0, 0)].concat())
                .await;
        assert_eq!(asked.answer, Err(Failure::BadAnswer(error)), "{text:?}");
    }
}

#[tokio::test]
async fn status_at_the_end_is_a_failure_of_its_own() {
    for (app, protocol, failure) in [
        (3, 0, Failure::Exited(3)),
        (u32::MAX, 0, Failure::Exited(-1)),
        (0, 2, Failure::Overloaded),
    ] {
        let asked =
            answered_by(|id| [record(STDERR, id, b"why\n", 0), end(id, app, protocol)].concat())
                .await;
        assert_eq!(asked.answer, Err(failure));
        assert_eq!(asked.stderr, ["why"]);
    }
}

#[tokio::test]
async fn t60_output_and_errors_are_bounded() {
    let chunk = [b'x'; 65_528];
    let asked = answered_by(|id| {
        let head = record(STDOUT, id, b"\n", 0);
        let flood = (0..17).map(|_| record(STDOUT, id, &chunk, 0));
        std::iter::once(head).chain(flood).flatten().collect()
    })
    .await;
    let max = MAX_OUTPUT;
    assert_eq!(asked.answer, Err(Failure::OutputTooLong { max }));

    let asked = answered_by(|id| {
        let line = record(STDERR, id, b"0123456789\n", 0);
        let flood = std::iter::repeat_n(line, 20_000).flatten();
        flood.chain(answer(id, "hello")).collect()
    })
    .await;
    assert_eq!(asked.body(), "hello");
    let size: usize = asked.stderr.iter().map(|line| line.len() + 1).sum();
    assert!(size <= 64 * 1024 + 40, "{size}");
    assert!(asked.stderr.last().unwrap().ends_with("more bytes]"));
}

#[tokio::test]
async fn body_of_the_largest_size_is_taken_and_one_byte_more_is_not() {
    for (len, is_taken) in [(MAX_OUTPUT, true), (MAX_OUTPUT + 1, false)] {
        let asked = answered_by(|id| {
            let body = vec![b'x'; len];
            let records = body
                .chunks(65_535)
                .map(|chunk| record(STDOUT, id, chunk, 0));
            let head = record(STDOUT, id, b"A: b\n\n", 0);
            std::iter::once(head)
                .chain(records)
                .chain([end(id, 0, 0)])
                .flatten()
                .collect()
        })
        .await;
        assert_eq!(asked.answer.is_ok(), is_taken, "{len}");
    }
}

#[tokio::test]
async fn t61_silent_server_is_left_at_the_deadline() {
    let peer = Peer::new();
    let client = client(peer.address());
    let asked = tokio::spawn(async move {
        let asked = ask_within(&client, b"payload", Duration::from_millis(100)).await;
        (client, asked)
    });
    let mut conversation = peer.accept().await;
    conversation.request().await;
    let (_client, asked) = asked.await.unwrap();
    assert_eq!(asked.answer, Err(Failure::TimedOut));
    // The client is still there, its connection is not.
    conversation.closed().await;
}

#[tokio::test]
async fn dropped_call_closes_its_connection() {
    let peer = Peer::new();
    let client = client(peer.address());
    let asked = asking(&client);
    let mut conversation = peer.accept().await;
    conversation.request().await;
    asked.abort();
    conversation.closed().await;
}

#[tokio::test]
async fn connection_is_kept_for_the_next_request() {
    let peer = Peer::new();
    let client = client(peer.address());
    let asked = asking(&client);
    let mut conversation = peer.accept().await;
    let first = conversation.serve("one").await;
    assert_eq!(asked.await.unwrap().body(), "one");
    let asked = asking(&client);
    let second = conversation.serve("two").await;
    assert_eq!(asked.await.unwrap().body(), "two");
    assert_ne!(first.id, second.id, "their answers cannot be confused");
    assert!(!peer.has_waiting().await);
}

/// How a server may end a connection behind its response.
#[derive(Clone, Copy, Debug)]
enum End {
    /// As php-fpm does after `pm.max_requests`: it reads on until the client closes.
    ShutDown,
    Close,
    /// As a process that exits, with something unread.
    CloseUnread,
}

#[tokio::test]
async fn connection_that_its_server_has_ended_is_not_used_again() {
    for way in [End::ShutDown, End::Close, End::CloseUnread] {
        let peer = Peer::new();
        let client = client(peer.address());
        let asked = asking(&client);
        let mut first = peer.accept().await;
        first.serve("one").await;
        asked.await.unwrap().answer.unwrap();
        let draining = match way {
            End::ShutDown => {
                first.stream.shutdown().await.unwrap();
                Some(tokio::spawn(async move { first.closed().await }))
            }
            End::Close => {
                let mut last = [0; 8];
                first.stream.read_exact(&mut last).await.unwrap();
                drop(first);
                None
            }
            End::CloseUnread => {
                drop(first);
                None
            }
        };
        let asked = asking(&client);
        peer.accept().await.serve("two").await;
        assert_eq!(asked.await.unwrap().body(), "two", "{way:?}");
        if let Some(draining) = draining {
            draining.await.unwrap();
        }
    }
}

#[tokio::test]
async fn server_that_is_busy_behind_its_response_is_not_waited_for() {
    let peer = Peer::new();
    let client = client(peer.address());
    let asked = asking(&client);
    let mut busy = peer.accept().await;
    busy.serve("one").await;
    asked.await.unwrap().answer.unwrap();
    // The record that ends the payload is still unread.
    let asked = asking(&client);
    peer.accept().await.serve("two").await;
    assert_eq!(asked.await.unwrap().body(), "two");
    busy.closed().await;
}

#[tokio::test]
async fn requests_that_wait_for_the_server_come_first() {
    let peer = Peer::new();
    let client = client(peer.address());
    let first = asking(&client);
    let mut served = peer.accept().await;
    let request = served.request().await;
    let second = asking(&client);
    let mut waiting = peer.accept().await;
    waiting.stream.readable().await.unwrap();
    // A server with one process cannot read the second until the connection of the first is over.
    served.send(&answer(request.id, "one")).await;
    assert_eq!(first.await.unwrap().body(), "one");
    served.closed().await;
    waiting.serve("two").await;
    assert_eq!(second.await.unwrap().body(), "two");
    let third = asking(&client);
    waiting.serve("three").await;
    assert_eq!(third.await.unwrap().body(), "three");
}

#[tokio::test]
async fn inv_18_request_is_never_sent_twice() {
    let peer = Peer::new();
    let client = client(peer.address());
    let asked = asking(&client);
    let mut kept = peer.accept().await;
    kept.serve("one").await;
    asked.await.unwrap().answer.unwrap();
    // It is taken over the kept connection, and lost with it.
    let asked = asking(&client);
    kept.request().await;
    drop(kept);
    assert_eq!(asked.await.unwrap().answer, Err(Failure::Lost));
    assert!(!peer.has_waiting().await);
}

#[tokio::test]
async fn more_than_a_response_ends_the_connection() {
    let peer = Peer::new();
    let client = client(peer.address());
    let asked = asking(&client);
    let mut first = peer.accept().await;
    let request = first.request().await;
    let mut twice = answer(request.id, "one");
    twice.extend(answer(request.id, "two"));
    first.send(&twice).await;
    assert_eq!(asked.await.unwrap().body(), "one");
    first.closed().await;
}

#[tokio::test]
async fn answer_may_come_before_the_payload_is_read() {
    let peer = Peer::new();
    let client = client(peer.address());
    let payload = vec![b'p'; 4 << 20];
    let script = async {
        let mut conversation = peer.accept().await;
        // The beginning alone.
        let (_, id, _) = super::peer::read_record(&mut conversation.stream).await;
        conversation.send(&answer(id, "enough")).await;
        conversation
    };
    let (asked, mut conversation) = tokio::join!(ask_within(&client, &payload, LONG), script);
    assert_eq!(asked.body(), "enough");
    conversation.closed().await;
}

#[tokio::test]
async fn megabytes_pass_both_ways_at_once() {
    let peer = Peer::new();
    let client = client(peer.address());
    let payload: Vec<u8> = (0..MAX_OUTPUT).map(|at| b'a' + (at % 23) as u8).collect();
    let script = async {
        let mut conversation = peer.accept().await;
        let request = conversation.request().await;
        conversation
            .send(&record(STDOUT, request.id, b"\n", 0))
            .await;
        for chunk in request.stdin.chunks(50_000) {
            conversation
                .send(&record(STDOUT, request.id, chunk, 5))
                .await;
        }
        conversation.send(&end(request.id, 0, 0)).await;
    };
    let (asked, ()) = tokio::join!(ask_within(&client, &payload, LONG), script);
    assert!(asked.body().as_bytes() == payload);
}

#[tokio::test]
async fn idle_connections_are_few_and_do_not_grow_old() {
    let peer = Peer::new();
    let config = FastCgiConfig {
        max_idle: 1,
        max_age: Duration::from_millis(50),
    };
    let client = FastCgi::new(peer.address(), config);
    let (one, two) = (asking(&client), asking(&client));
    let (mut first, mut second) = (peer.accept().await, peer.accept().await);
    first.serve("one").await;
    second.serve("two").await;
    one.await.unwrap().answer.unwrap();
    two.await.unwrap().answer.unwrap();
    first.closed().await;
    second.closed().await;
}

#[tokio::test]
async fn without_idle_connections_the_server_is_told_to_close() {
    let peer = Peer::new();
    let config = FastCgiConfig {
        max_idle: 0,
        ..FastCgiConfig::default()
    };
    let asked = asking(&FastCgi::new(peer.address(), config));
    assert!(!peer.accept().await.serve("one").await.keep);
    assert_eq!(asked.await.unwrap().body(), "one");
}

#[tokio::test]
async fn each_request_over_tcp_has_a_connection_of_its_own() {
    let listener = TcpListener::bind("[::1]:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let client = client(address.parse().unwrap());
    for text in ["one", "two"] {
        let asked = asking(&client);
        let mut conversation = Conversation::new(listener.accept().await.unwrap().0);
        assert!(!conversation.serve(text).await.keep);
        assert_eq!(asked.await.unwrap().body(), text);
    }
}

#[tokio::test]
async fn server_that_is_gone_is_waited_for_once() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("none.sock");
    let client = client(Address::unix(&path));
    let failure = Failure::Unreachable {
        address: format!("unix:{}", path.display()),
        reason: "No such file or directory (os error 2)".into(),
    };
    let begun = Instant::now();
    assert_eq!(ask(&client).await.answer, Err(failure.clone()));
    let waited = begun.elapsed();
    assert!(
        waited >= Duration::from_secs(2) && waited < LONG / 2,
        "{waited:?}"
    );
    let begun = Instant::now();
    assert_eq!(ask(&client).await.answer, Err(failure));
    assert!(begun.elapsed() < Duration::from_secs(1));
}

#[tokio::test]
async fn server_that_restarts_is_waited_for() {
    let peer = Peer::new();
    let client = client(peer.address());
    std::fs::remove_file(peer.path()).unwrap();
    let asked = asking(&client);
    tokio::task::yield_now().await;
    let listener = UnixListener::bind(peer.path()).unwrap();
    let mut conversation = Conversation::new(listener.accept().await.unwrap().0);
    conversation.serve("back").await;
    assert_eq!(asked.await.unwrap().body(), "back");
}

#[tokio::test]
async fn full_queue_of_the_server_is_waited_for() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("full.sock");
    let listener = std::os::unix::net::UnixListener::bind(&path).unwrap();
    // One may wait.
    rustix::net::listen(&listener, 0).unwrap();
    let waiting = std::os::unix::net::UnixStream::connect(&path).unwrap();
    let client = client(Address::unix(&path));
    let asked = ask_within(&client, b"", Duration::from_millis(100)).await;
    assert_eq!(asked.answer, Err(Failure::Overloaded));

    let asked = asking(&client);
    tokio::task::yield_now().await;
    drop(waiting);
    listener.accept().unwrap();
    listener.set_nonblocking(true).unwrap();
    let listener = UnixListener::from_std(listener).unwrap();
    let mut conversation = Conversation::new(listener.accept().await.unwrap().0);
    conversation.serve("room").await;
    assert_eq!(asked.await.unwrap().body(), "room");
}

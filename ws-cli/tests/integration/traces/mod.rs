//! Traces of OpenTelemetry: what a collector gets of a handshake, its callbacks and replies.

mod collector;

use std::collections::BTreeMap;
use std::fs;
use std::io::Write as _;
use std::net::TcpListener;
use std::time::Instant;

use nix::sys::signal::Signal;
use ws_server::testing::ReceivedSpan;

use self::collector::{Answers, Collector};
use crate::secure::Authority;
use crate::support::*;

const TRACE: &str = "4bf92f3577b34da6a3ce929d0e0e4736";
const CALLER: &str = "00f067aa0ba902b7";

/// A server whose spans go there, a moment after they have ended.
fn traced(url: &str) -> Setup {
    Setup::new()
        .set("trace.endpoint", url)
        .set("trace.interval", "10ms")
}

/// One that believes whoever connects, as if it stood behind a proxy that traces.
fn trusting(url: &str) -> Setup {
    traced(url).set("server.proxy.trusted", "127.0.0.1")
}

fn traceparent(flags: &str) -> String {
    format!("00-{TRACE}-{CALLER}-{flags}")
}

/// The only span of that name, and event if it is a callback's.
fn only<'a>(spans: &'a [ReceivedSpan], name: &str, event: &str) -> &'a ReceivedSpan {
    let mut found = spans
        .iter()
        .filter(|span| span.name == name && span.get("ws.event") == event);
    let span = found.next();
    assert!(found.next().is_none(), "there are two of {name} {event}");
    span.unwrap_or_else(|| panic!("no {name} {event} in {spans:#?}"))
}

/// The ids that stand in a `TRACEPARENT`.
fn ids(traceparent: &str) -> (String, String) {
    let mut parts = traceparent.trim().split('-').skip(1);
    let mut next = || parts.next().unwrap().to_owned();
    (next(), next())
}

#[tokio::test]
async fn one_trace_leads_from_the_handshake_over_the_callbacks_to_the_reply() {
    let collector = Collector::start(Answers::Taken);
    let server = trusting(&collector.url())
        .set("trace.service_name", "chat")
        .set("trace.resource", "deployment.environment.name=test")
        .app(r#"[ "$(cat)" = quiet ] || echo "$TRACEPARENT""#)
        .validate(r#"echo "$TRACEPARENT" > validated; echo ann"#)
        .start();
    let header = traceparent("01");
    let headers = [("traceparent", header.as_str())];
    let mut client = server.connect_with("/chat?x=1", &headers).await.unwrap();
    let said = ask(&mut client, "hello").await;
    bye(client).await;
    let spans = collector.wait_for(5);
    let validated = fs::read_to_string(server.dir().join("validated")).unwrap();
    let log = server.finish();

    assert_eq!(spans.len(), 5, "{spans:#?}");
    assert!(
        spans
            .iter()
            .all(|span| span.trace == TRACE && span.error.is_none())
    );
    let handshake = only(&spans, "GET", "");
    let validation = only(&spans, "callback", "validate");
    let message = only(&spans, "message", "");
    let callback = only(&spans, "callback", "message");
    let reply = only(&spans, "reply", "");
    for (span, parent, kind) in [
        (handshake, CALLER, "server"),
        (validation, &handshake.id, "client"),
        (message, &handshake.id, "server"),
        (callback, &message.id, "client"),
        (reply, &message.id, "internal"),
    ] {
        assert_eq!(
            (span.parent.as_str(), span.kind.as_str()),
            (parent, kind),
            "{span:#?}"
        );
        assert!(span.times.0 <= span.times.1);
    }
    // The spans have the ids that the callbacks were given.
    assert_eq!(ids(&validated), (TRACE.to_owned(), validation.id.clone()));
    assert_eq!(ids(&said), (TRACE.to_owned(), callback.id.clone()));
    assert!(said.ends_with("-01"));
    assert!(handshake.times.0 <= validation.times.0 && validation.times.1 <= handshake.times.1);
    assert!(message.times.0 <= callback.times.0 && callback.times.1 <= reply.times.1);

    for (span, name, value) in [
        (handshake, "http.request.method", "GET"),
        (handshake, "http.response.status_code", "101"),
        (handshake, "url.path", "/chat"),
        (handshake, "url.scheme", "http"),
        (handshake, "network.transport", "tcp"),
        (handshake, "network.protocol.version", "1.1"),
        (validation, "ws.backend", "exec"),
        (validation, "ws.outcome", "accepted"),
        (message, "ws.message.id", "1"),
        (message, "ws.message.type", "text"),
        (message, "ws.message.size", "5"),
        (message, "ws.source", "client"),
        (message, "ws.outcome", "delivered"),
        (callback, "ws.backend", "exec"),
        (reply, "ws.message.size", "55"),
        (reply, "ws.outcome", "delivered"),
    ] {
        assert_eq!(span.get(name), value, "{name} of {span:#?}");
    }
    let resource = BTreeMap::from(
        [
            ("deployment.environment.name", "test"),
            ("service.name", "chat"),
            ("service.version", env!("CARGO_PKG_VERSION")),
            ("telemetry.sdk.language", "rust"),
            ("telemetry.sdk.name", "opentelemetry"),
        ]
        .map(|(name, value)| (name.to_owned(), value.to_owned())),
    );
    assert_eq!(handshake.resource, resource);
    assert!(log.contains("\"exported\":5"), "{log}");
}

#[tokio::test]
async fn messages_have_traces_of_their_own_or_that_of_the_handshake() {
    let header = traceparent("01");
    let caller = [("traceparent", header.as_str())];
    for (messages, headers, joins) in [
        ("auto", &caller[..0], false),
        ("auto", &caller[..], true),
        ("linked", &caller[..0], false),
        ("linked", &caller[..], false),
        ("joined", &caller[..0], true),
        ("joined", &caller[..], true),
    ] {
        let collector = Collector::start(Answers::Taken);
        let server = trusting(&collector.url())
            .set("trace.messages", messages)
            .app(r#"echo "$TRACEPARENT""#)
            .start();
        let mut client = server.connect_with("/", headers).await.unwrap();
        let first = ids(&ask(&mut client, "x").await);
        let second = ids(&ask(&mut client, "x").await);
        bye(client).await;
        let spans = collector.wait_for(7);
        server.finish();
        let handshake = only(&spans, "GET", "");
        let parent = if headers.is_empty() { "" } else { CALLER };
        assert_eq!(handshake.parent, parent);
        assert_eq!(first.0 == second.0, joins);
        for (trace, callback) in [first, second] {
            let callback = spans.iter().find(|span| span.id == callback).unwrap();
            let message = spans
                .iter()
                .find(|span| span.id == callback.parent)
                .unwrap();
            assert_eq!((&callback.trace, &message.trace), (&trace, &trace));
            assert_eq!(message.name, "message");
            let origin = (handshake.trace.clone(), handshake.id.clone());
            if joins {
                assert_eq!((&message.trace, &message.parent), (&origin.0, &origin.1));
            } else {
                assert_eq!((&*message.parent, &message.links), ("", &vec![origin]));
            }
        }
    }
}

#[tokio::test]
async fn flag_of_a_trusted_caller_decides_whether_anything_is_recorded() {
    let collector = Collector::start(Answers::Taken);
    let unsampled = traceparent("00");
    let headers = [("traceparent", unsampled.as_str())];
    let server = trusting(&collector.url())
        .app(r#"echo "$TRACEPARENT""#)
        .start();
    let mut client = server.connect_with("/", &headers).await.unwrap();
    let said = ask(&mut client, "x").await;
    assert!(
        said.starts_with(&format!("00-{TRACE}-")) && said.ends_with("-00"),
        "{said}"
    );
    bye(client).await;
    let log = server.finish();
    assert!(log.contains("\"exported\":0"), "{log}");
    assert_eq!(collector.spans(), []);
}

/// Anybody can send a header: it neither floods a collector, nor hides, nor writes into a trace of
/// somebody else's. A proxy may pass it on as it came; who says so is as safe behind one.
#[tokio::test]
async fn a_caller_who_is_not_followed_is_linked_to_and_decides_nothing() {
    let followed = [
        ("server.proxy.trusted", "10.0.0.1"),
        ("trace.parent_based", "true"),
    ];
    let alone = [
        ("server.proxy.trusted", "127.0.0.1"),
        ("trace.parent_based", "false"),
    ];
    for settings in [followed, alone] {
        for (flags, ratio, is_recorded) in [("00", "1", true), ("01", "0", false)] {
            let collector = Collector::start(Answers::Taken);
            let header = traceparent(flags);
            let mut setup = traced(&collector.url()).set("trace.sample_ratio", ratio);
            for (path, value) in settings {
                setup = setup.set(path, value);
            }
            let server = setup
                .app(r#"echo "$TRACEPARENT $HTTP_TRACEPARENT""#)
                .start();
            let headers = [("traceparent", header.as_str())];
            let mut client = server.connect_with("/", &headers).await.unwrap();
            let said = ask(&mut client, "x").await;
            bye(client).await;
            server.finish();
            let (own, handed_on) = said.split_once(' ').unwrap();
            assert!(!own.contains(TRACE) && handed_on == header, "{said}");
            assert_eq!(own.ends_with("-01"), is_recorded, "{said}");
            let spans = collector.spans();
            assert_eq!(spans.len(), if is_recorded { 4 } else { 0 });
            if is_recorded {
                let handshake = only(&spans, "GET", "");
                let caller = (TRACE.to_owned(), CALLER.to_owned());
                assert_eq!((&*handshake.parent, &handshake.links), ("", &vec![caller]));
                assert!(spans.iter().all(|span| span.trace != TRACE));
            }
        }
    }
}

#[tokio::test]
async fn a_reload_changes_how_much_is_recorded() {
    let collector = Collector::start(Answers::Taken);
    let setup = Setup::new();
    let file = setup.dir().join("ws.toml");
    let write = |ratio: &str| {
        let url = collector.url();
        let text =
            format!("[trace]\nendpoint = '{url}'\ninterval = '10ms'\nsample_ratio = {ratio}\n");
        fs::write(&file, text).unwrap();
    };
    write("0");
    let server = setup.arg("--echo").start();
    bye(server.connect().await).await;
    write("1.0");
    server.signal(Signal::SIGHUP);
    server.until("configuration.reloads", 1);
    bye(server.connect().await).await;
    assert_eq!(collector.wait_for(1).len(), 1);
    let log = server.finish();
    assert!(log.contains("\"exported\":1"), "{log}");
}

#[tokio::test]
async fn failures_have_the_names_that_log_and_figures_have_for_them() {
    let collector = Collector::start(Answers::Taken);
    let server = traced(&collector.url())
        .set("app.error_reply", "no")
        .app(r#"[ "$(cat)" != fail ] || exit 3; kill -9 $$"#)
        .validate(
            r#"case "$HTTP_X_USER" in broken) exit 2;; "") exit 1;; *) echo "$HTTP_X_USER";; esac"#,
        )
        .start();
    let mut client = server
        .connect_with("/", &[("X-User", "ann")])
        .await
        .unwrap();
    assert_eq!(ask(&mut client, "fail").await, "no");
    assert_eq!(ask(&mut client, "die").await, "no");
    bye(client).await;
    let refused = server.connect_with("/refused", &[]).await;
    assert!(refused.is_err());
    let broken = server
        .connect_with("/broken", &[("X-User", "broken")])
        .await;
    assert!(broken.is_err());
    let origin = [("Origin", "https://elsewhere.example"), ("X-User", "ann")];
    assert!(server.connect_with("/elsewhere", &origin).await.is_err());
    let spans = collector.wait_for(13);
    server.finish();
    assert_eq!(spans.len(), 13, "{spans:#?}");

    let of = |name: &str| -> Vec<Option<&str>> {
        let found = spans.iter().filter(|span| span.name == name);
        let found = found.filter(|span| span.get("ws.event") != "validate");
        found.map(|span| span.error.as_deref()).collect()
    };
    assert_eq!(of("callback"), [Some("exit"), Some("signal")]);
    assert_eq!(of("message"), [Some("exit"), Some("signal")]);
    assert_eq!(of("reply"), [None, None]);
    let handshake = |path: &str| {
        let mut found = spans.iter().filter(|span| span.get("url.path") == path);
        let span = found.next().unwrap();
        let status = span.get("http.response.status_code");
        (status, span.get("error.type"), span.error.as_deref())
    };
    assert_eq!(handshake("/refused"), ("401", "validation", None));
    let failed = "validation_failed";
    assert_eq!(handshake("/broken"), ("503", failed, Some(failed)));
    assert_eq!(handshake("/elsewhere"), ("403", "origin", None));
    let outcomes = spans
        .iter()
        .filter(|span| span.get("ws.event") == "validate");
    let outcomes: Vec<_> = outcomes
        .map(|span| (span.get("ws.outcome"), span.error.as_deref()))
        .collect();
    assert_eq!(
        outcomes,
        [
            ("accepted", None),
            ("refused", None),
            ("failed", Some(failed))
        ]
    );
}

#[tokio::test]
async fn reply_that_nobody_is_there_to_hear_is_recorded_as_dropped() {
    let collector = Collector::start(Answers::Taken);
    let setup = traced(&collector.url());
    let mut gate = Gate::new(setup.dir(), "gate");
    let server = setup.app("read -r _ < gate; echo late").start();
    let mut client = server.connect().await;
    say(&mut client, "x").await;
    server.until("callbacks.started", 1);
    drop(client);
    server.until("connections.open", 0);
    gate.open(1);
    let spans = collector.wait_for(4);
    server.finish();
    let reply = only(&spans, "reply", "");
    assert_eq!(
        (reply.get("ws.outcome"), reply.get("ws.drop_reason")),
        ("dropped", "ended")
    );
    assert_eq!(only(&spans, "message", "").get("ws.outcome"), "dropped");
    assert_eq!(only(&spans, "callback", "message").error, None);
}

/// A client that reads nothing does not have the server follow what waits for it.
#[tokio::test]
async fn t30_at_most_64_replies_of_a_connection_are_followed() {
    const FOLLOWED: usize = 64;
    const MESSAGES: usize = 100;
    let collector = Collector::start(Answers::Taken);
    // Of this size the kernel takes fewer than it leaves with the server.
    let server = traced(&collector.url())
        .set("limits.send_queue_size", "64MiB")
        .set("limits.send_queue_total", "128MiB")
        .set("limits.write_timeout", "5m")
        .set("limits.ping_interval", "off")
        .app("head -c 400000 /dev/zero | tr '\\0' x")
        .start();
    let mut client = server.connect().await;
    let outcomes = || {
        let mut outcomes = BTreeMap::<String, usize>::new();
        for span in collector.spans() {
            if span.name == "reply" {
                *outcomes
                    .entry(span.get("ws.outcome").to_owned())
                    .or_default() += 1;
            }
        }
        outcomes
    };
    let ended = || outcomes().values().sum::<usize>();
    for _ in 0..MESSAGES {
        say(&mut client, "x").await;
    }
    server.until("callbacks.finished", MESSAGES as u64);
    eventually("all the others have ended", || {
        ended() == MESSAGES - FOLLOWED
    });
    let queued = outcomes()["queued"];
    assert!(queued > 0);
    for _ in 0..MESSAGES {
        assert_eq!(hear(&mut client).await.len(), 400_000);
    }
    eventually("those that were followed have ended", || {
        ended() == MESSAGES
    });
    // Now that they have, others are followed again.
    say(&mut client, "x").await;
    assert_eq!(hear(&mut client).await.len(), 400_000);
    eventually("one more has ended", || ended() == MESSAGES + 1);
    assert_eq!(outcomes()["queued"], queued);
    assert_eq!(outcomes()["delivered"], MESSAGES + 1 - queued);
    bye(client).await;
    server.finish();
}

#[tokio::test]
async fn a_callback_that_is_killed_is_recorded_as_cancelled() {
    let collector = Collector::start(Answers::Taken);
    let server = traced(&collector.url())
        .set("app.on_disconnect", "cancel")
        .app("exec sleep 1000")
        .start();
    let mut client = server.connect().await;
    say(&mut client, "x").await;
    server.until("callbacks.started", 1);
    drop(client);
    let spans = collector.wait_for(3);
    server.finish();
    for name in ["callback", "message"] {
        let event = if name == "callback" { "message" } else { "" };
        assert_eq!(
            only(&spans, name, event).error.as_deref(),
            Some("cancelled")
        );
    }
}

#[tokio::test]
async fn lines_and_programs_have_their_spans() {
    let collector = Collector::start(Answers::Taken);
    let server = traced(&collector.url())
        .set("app.output", "lines")
        .set("app.events", "open,close")
        .app(r#"[ "$WS_EVENT" != message ] || printf 'one\ntwo\n'"#)
        .start();
    let mut client = server.connect().await;
    assert_eq!(ask(&mut client, "x").await, "one");
    assert_eq!(hear(&mut client).await, "two");
    bye(client).await;
    let spans = collector.wait_for(5);
    server.finish();
    let callback = only(&spans, "callback", "message");
    assert_eq!(
        (
            callback.get("ws.reply.count"),
            callback.get("ws.reply.size")
        ),
        ("2", "6")
    );
    let handshake = only(&spans, "GET", "");
    for event in ["open", "close"] {
        let span = only(&spans, "callback", event);
        assert_eq!(
            (&span.trace, &span.parent),
            (&handshake.trace, &handshake.id)
        );
    }

    let collector = Collector::start(Answers::Taken);
    let server = traced(&collector.url())
        .arg("--stream")
        .app(r#"echo "$TRACEPARENT"; read -r _"#)
        .start();
    let mut client = server.connect().await;
    let said = ids(&hear(&mut client).await);
    say(&mut client, "end").await;
    assert_eq!(close_code(&mut client).await, 1000);
    let spans = collector.wait_for(2);
    server.finish();
    let program = only(&spans, "callback", "stream");
    assert_eq!(said, (program.trace.clone(), program.id.clone()));
    assert_eq!(program.parent, only(&spans, "GET", "").id);
}

/// What is in spans is what the documentation says, and nothing that a visitor would mind.
#[tokio::test]
async fn t70_spans_hold_no_payload_cookie_token_query_or_header() {
    let collector = Collector::start(Answers::Taken);
    let server = |personal: &str| {
        traced(&collector.url())
            .set("trace.personal", personal)
            .set("trace.headers", "authorization=Bearer%20canary-key")
            .app("cat; echo canary-stderr >&2")
            .validate("echo ann-canary-user")
            .start()
    };
    let headers = [
        ("Cookie", "ws_session=canary-cookie; other=canary-other"),
        ("Authorization", "Bearer canary-token"),
        ("User-Agent", "canary-agent"),
        ("X-Canary", "canary-header"),
        ("tracestate", "canary=state"),
        ("baggage", "canary=baggage"),
    ];
    let talk = async |server: &Server| {
        let target = "/path?token=canary-query";
        let mut client = server.connect_with(target, &headers).await.unwrap();
        assert_eq!(ask(&mut client, "canary-payload").await, "canary-payload");
        ask(&mut client, "/uri?canary-uri").await;
        bye(client).await;
        let unknown = [("Origin", "https://canary.example")];
        assert!(server.connect_with("/?canary", &unknown).await.is_err());
    };
    let one = server("false");
    talk(&one).await;
    collector.wait_for(9);
    let printed = one.ws(&["config", "print"]).stdout;
    let status = one.status().to_string();
    let log = one.finish();
    let requests = collector.requests();
    for request in &requests {
        let body = String::from_utf8_lossy(&request.body);
        for secret in ["canary", "127.0.0.1", "ann"] {
            assert!(!body.contains(secret), "{secret}: {body}");
        }
        assert!(
            request.head.contains("authorization: Bearer canary-key"),
            "{}",
            request.head
        );
        assert!(
            request
                .head
                .contains("content-type: application/x-protobuf")
        );
        assert!(
            request
                .head
                .contains(concat!("user-agent: ws/", env!("CARGO_PKG_VERSION")))
        );
        assert!(request.head.starts_with("POST /v1/traces HTTP/1.1\r\n"));
    }
    for (place, text) in [
        ("log", &*log),
        ("status", &*status),
        ("print", &*String::from_utf8_lossy(&printed)),
    ] {
        assert!(!text.contains("canary-key"), "{place}: {text}");
    }

    let count = collector.spans().len();
    let two = server("true");
    talk(&two).await;
    let spans = collector.wait_for(count + 9).split_off(count);
    two.finish();
    let handshake = spans
        .iter()
        .find(|span| span.get("url.path") == "/path")
        .unwrap();
    assert_eq!(handshake.get("client.address"), "127.0.0.1");
    assert_eq!(handshake.get("user.id"), "ann-canary-user");
    for name in ["session.id", "client.port"] {
        assert!(!handshake.get(name).is_empty(), "{name}");
    }
    for request in collector.requests().split_off(requests.len()) {
        let body = String::from_utf8_lossy(&request.body).replace("ann-canary-user", "");
        assert!(!body.contains("canary"), "{body}");
    }
}

#[tokio::test]
async fn a_collector_that_is_down_is_told_once_and_holds_up_nobody() {
    // Taken and given back: nobody listens there, until the test does.
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let addr = listener.local_addr().unwrap();
    drop(listener);
    let server = traced(&format!("http://{addr}"))
        .set("trace.timeout", "50ms")
        .app("cat")
        .start();
    let mut client = server.connect().await;
    for round in 1..=3_u64 {
        ask(&mut client, "x").await;
        eventually("further spans are lost", || {
            server.figure("traces.failed") >= 3 * round
        });
    }
    let listener = TcpListener::bind(addr).unwrap();
    let collector = Collector::on(listener, Answers::Taken);
    let deadline = Instant::now() + PATIENCE;
    while collector.spans().is_empty() {
        assert!(Instant::now() < deadline, "the collector gets nothing");
        // Each of them may still be one that is lost.
        bye(server.connect().await).await;
    }
    bye(client).await;
    let log = server.finish();
    let told = |text: &str| log.matches(text).count();
    assert_eq!(
        told("the collector takes no traces; they are lost"),
        1,
        "{log}"
    );
    assert_eq!(told("the collector takes traces again"), 1, "{log}");
    assert!(log.contains(&addr.to_string()), "{log}");
}

#[tokio::test]
async fn a_collector_that_does_not_answer_costs_spans_and_nothing_else() {
    let collector = Collector::start(Answers::Nothing);
    let server = traced(&collector.url())
        .set("trace.queue", "4")
        .set("trace.timeout", "10m")
        .app("cat")
        .start();
    let mut client = server.connect().await;
    for round in 0..20 {
        assert_eq!(
            ask(&mut client, &round.to_string()).await,
            round.to_string()
        );
    }
    let text = server.control("GET", "/metrics", "").1;
    let dropped = text
        .lines()
        .find(|line| line.starts_with("ws_trace_spans_dropped_total "));
    let dropped: u64 = dropped
        .unwrap()
        .rsplit(' ')
        .next()
        .unwrap()
        .parse()
        .unwrap();
    // 61 spans, the last of them perhaps under way yet: a batch of at most 4 is with the collector,
    // and 4 wait.
    assert!((51..=56).contains(&dropped), "{dropped}");
    bye(client).await;
    server.until("connections.open", 0);
    // The end of the server does not wait for it, either. Until then it has one descriptor more, that
    // of the request under way.
    server.signal(Signal::SIGTERM);
    server.check_end();
}

#[tokio::test]
async fn what_a_collector_refuses_is_counted() {
    for (answers, exported, failed) in [
        (Answers::AllButOne, 3, 1),
        (Answers::Status(401), 0, 4),
        (Answers::Status(400), 0, 4),
    ] {
        let collector = Collector::start(answers);
        let server = traced(&collector.url())
            .set("trace.interval", "1h")
            .app("cat")
            .start();
        let mut client = server.connect().await;
        ask(&mut client, "x").await;
        bye(client).await;
        // They wait for more to come, but not when the server ends.
        server.until("connections.open", 0);
        assert_eq!(collector.requests().len(), 0);
        let log = server.finish();
        assert_eq!(
            collector.requests().len(),
            1,
            "a lasting refusal is not tried again"
        );
        let told =
            format!("\"exported\":{exported},\"failed\":{failed},\"dropped\":0,\"waiting\":0");
        assert!(log.contains(&told), "{log}");
        assert!(!log.contains("canary"), "{log}");
    }
}

/// The key goes to nobody else than whom the certificates vouch for.
#[tokio::test]
async fn t70_a_collector_behind_https_is_known_by_its_certificate() {
    let (authority, other) = (Authority::new(), Authority::new());
    for (issuer, exported) in [(&authority, 1), (&other, 0)] {
        let setup = Setup::new();
        issuer.issue("localhost").write(setup.dir(), "");
        fs::write(setup.dir().join("roots.pem"), authority.pem()).unwrap();
        let roots = setup.dir().join("roots.pem");
        let collector = Collector::secure(setup.dir());
        let server = setup
            .set(
                "trace.endpoint",
                format!("https://localhost:{}", collector.addr.port()),
            )
            .set("trace.headers", "authorization=canary-key")
            .env("SSL_CERT_FILE", roots.to_str().unwrap())
            .env("SSL_CERT_DIR", "")
            .arg("--echo")
            .start();
        bye(server.connect().await).await;
        let log = server.finish();
        assert!(log.contains(&format!("\"exported\":{exported},")), "{log}");
        assert_eq!(collector.requests().len(), exported);
        let is_told = log.contains("certificate");
        assert_eq!(is_told, exported == 0, "{log}");
        assert!(!log.contains("canary"), "{log}");
    }
    let none = Setup::new()
        .set("trace.endpoint", "https://localhost:1")
        .env("SSL_CERT_FILE", "/nowhere.pem")
        .env("SSL_CERT_DIR", "")
        .arg("--echo")
        .fail();
    let told = String::from_utf8_lossy(&none.stderr);
    assert_eq!(none.status.code(), Some(78), "{told}");
    assert!(
        told.contains("trace.endpoint: there are no certificates of issuers"),
        "{told}"
    );
}

#[tokio::test]
async fn a_busy_collector_is_asked_again() {
    let collector = Collector::start(Answers::Status(503));
    let server = traced(&collector.url()).arg("--echo").start();
    bye(server.connect().await).await;
    eventually("it is asked again", || collector.requests().len() >= 4);
    let requests = collector.requests();
    assert!(
        requests[..4]
            .iter()
            .all(|request| request.body == requests[0].body)
    );
    server.until("traces.failed", 1);
    server.finish();
}

/// It would have to wait longer than the batch may take: the next one need not stand behind it.
#[tokio::test]
async fn a_collector_that_wants_to_be_left_alone_for_long_is_not_waited_for() {
    let collector = Collector::start(Answers::Later);
    let server = traced(&collector.url())
        .set("trace.timeout", "10m")
        .arg("--echo")
        .start();
    for round in 1..=2 {
        bye(server.connect().await).await;
        server.until("traces.failed", round);
    }
    let log = server.finish();
    assert_eq!(collector.requests().len(), 2);
    assert!(log.contains("it answers 503"), "{log}");
}

#[tokio::test]
async fn what_is_no_handshake_or_is_given_up_by_the_client_is_no_error_of_the_server() {
    let collector = Collector::start(Answers::Taken);
    let server = traced(&collector.url())
        .app("cat")
        .validate("touch asked; exec sleep 1000")
        .start();
    for method in ["GET", "POST", "PROPFIND"] {
        let request = format!("{method} /scan HTTP/1.1\r\nHost: localhost\r\n\r\n");
        server.raw(request.as_bytes());
    }
    let mut stream = server.raw_stream();
    let request = "GET /left HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\n\
                   Connection: Upgrade\r\nSec-WebSocket-Version: 13\r\n\
                   Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n";
    stream.write_all(request.as_bytes()).unwrap();
    let asked = server.dir().join("asked");
    eventually("the validation runs", || asked.exists());
    drop(stream);
    let spans = collector.wait_for(2);
    server.finish();
    let handshake = only(&spans, "GET", "");
    assert_eq!(handshake.get("url.path"), "/left");
    assert_eq!(handshake.error, None);
    assert_eq!(handshake.get("error.type"), "gone");
}

//! The opening handshake: what is refused, with which status, and what is remembered.

use std::io::{Read, Write};
use std::time::{Duration, Instant};

use crate::support::*;
use crate::wire::*;

fn echo() -> Setup {
    Setup::new().arg("--echo")
}

fn status(server: &Server, bytes: impl AsRef<[u8]>) -> u16 {
    refusal(server, bytes).status
}

/// Whether a request is answered with 101.
fn is_accepted(server: &Server, head: &str) -> bool {
    let mut stream = server.raw_stream();
    stream.write_all(head.as_bytes()).unwrap();
    let mut answer = [0; 12];
    stream.read_exact(&mut answer).unwrap();
    answer == *b"HTTP/1.1 101"
}

#[test]
fn t05_request_behind_a_valid_upgrade_is_never_parsed() {
    let server = echo().start();
    let admin = format!("GET /admin/{MARK} HTTP/1.1\r\nHost: localhost\r\n\r\n");
    let response = refusal(&server, head("/", &[]) + &admin);
    assert_eq!(response.status, 400);
    // Nor is a frame that comes before the 101.
    let early = [head("/", &[]).into_bytes(), frame(0x81, MARK)].concat();
    assert_eq!(status(&server, early), 400);
    assert_eq!(server.figure("messages.received"), 0);
    server.until("sockets.refused_by.malformed", 2);
    server.finish();
}

#[test]
fn t05_nothing_behind_a_refused_upgrade_is_parsed() {
    let server = echo().start();
    let wrong = head_but("Sec-WebSocket-Version", &["Sec-WebSocket-Version: 777"]);
    let response = refusal(&server, &wrong);
    assert_eq!(response.status, 426);
    assert_eq!(response.header("Sec-WebSocket-Version"), Some("13"));
    // The refusal and the end of the stream do not wait for what the client has yet to say.
    let mut stream = server.raw_stream();
    stream.write_all(wrong.as_bytes()).unwrap();
    let mut first = [0; 12];
    stream.read_exact(&mut first).unwrap();
    assert_eq!(first, *b"HTTP/1.1 426");
    stream
        .write_all(head("/", &[]).repeat(30).as_bytes())
        .unwrap();
    let mut rest = Vec::new();
    stream.read_to_end(&mut rest).expect("FIN, not a reset");
    check_refusal(&[&first[..], &rest].concat());
    server.finish();
}

#[test]
fn t05_refused_client_that_goes_on_sending_holds_up_nobody() {
    let server = echo().set("server.threads", "1").start();
    let flooders: Vec<_> = (0..2)
        .map(|_| {
            let mut stream = server.raw_stream();
            let refused = head_but("Sec-WebSocket-Version", &[]);
            stream.write_all(refused.as_bytes()).unwrap();
            std::thread::spawn(move || {
                let requests = head("/", &[]).repeat(300);
                while stream.write_all(requests.as_bytes()).is_ok() {}
            })
        })
        .collect();
    let begun = Instant::now();
    let mut wire = Wire::open(&server);
    wire.say("hello");
    assert_eq!(wire.hear(), "hello");
    assert!(begun.elapsed() < Duration::from_secs(2));
    wire.bye();
    // They are let go whether they have read the refusal or not.
    for flooder in flooders {
        flooder.join().unwrap();
    }
    server.until("sockets.refused_by.malformed", 2);
    server.finish();
}

#[test]
fn t05_request_with_a_body_is_refused() {
    let server = echo().start();
    for lines in [
        &["Content-Length: 5"][..],
        &["Transfer-Encoding: chunked"],
        &["Content-Length: 5", "Transfer-Encoding: chunked"],
        &["Content-Length: 0", "Content-Length: 7"],
    ] {
        assert_eq!(status(&server, head("/", lines)), 400, "{lines:?}");
        let with_body = head("/", lines) + "hello";
        assert_eq!(status(&server, with_body), 400, "{lines:?}");
    }
    assert!(is_accepted(&server, &head("/", &["Content-Length: 0"])));
    server.finish();
}

#[test]
fn t05_bytes_during_the_validation_are_refused_and_end_it() {
    let (server, started) = slow_validation();
    let mut stream = validated(&server, &started);
    stream.write_all(&frame(0x81, MARK)).unwrap();
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).unwrap();
    assert_eq!(check_refusal(&answer).status, 400);
    // A visitor who leaves ends it too.
    std::fs::remove_file(&started).unwrap();
    let stream = validated(&server, &started);
    drop(stream);
    server.until("sockets.refused_by.gone", 1);
    server.finish();
}

#[test]
fn t06_slow_head_ends_with_408_although_it_makes_progress() {
    let server = echo().set("limits.handshake_timeout", "300ms").start();
    let mut stream = server.raw_stream();
    stream
        .set_read_timeout(Some(Duration::from_millis(10)))
        .unwrap();
    let begun = Instant::now();
    let endless = head("/", &[&format!("X: {}", "x".repeat(10_000))]);
    let mut answer = vec![0; 1024];
    let mut length = 0;
    for byte in endless.as_bytes() {
        stream.write_all(&[*byte]).unwrap();
        // Waits for an answer between two bytes.
        if let Ok(read) = stream.read(&mut answer) {
            length = read;
            break;
        }
    }
    assert!(begun.elapsed() >= Duration::from_millis(300));
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    answer.truncate(length);
    stream.read_to_end(&mut answer).unwrap();
    assert_eq!(check_refusal(&answer).status, 408);
    // So does silence.
    let response = refusal(&server, "");
    assert_eq!(response.status, 408);
    server.until("sockets.refused_by.timeout", 2);
    server.finish();
}

#[test]
fn b08_silent_clients_hold_up_nobody() {
    let server = echo().start();
    let silent: Vec<_> = (0..200)
        .map(|index| {
            let mut stream = server.raw_stream();
            stream
                .write_all(&head("/", &[]).as_bytes()[..index % 100])
                .unwrap();
            stream
        })
        .collect();
    let mut wire = Wire::open(&server);
    wire.say("hello");
    assert_eq!(wire.hear(), "hello");
    wire.bye();
    drop(silent);
    server.until("sockets.refused_by.gone", 200);
    server.finish();
}

#[test]
fn t07_heads_over_a_limit_are_refused() {
    let server = echo().start();
    let target = |length: usize| format!("/{}", "a".repeat(length - 1));
    assert!(is_accepted(&server, &head(&target(8192), &[])));
    assert_eq!(status(&server, head(&target(8193), &[])), 414);

    let base = head("/", &["X: "]).len();
    let padded = |size: usize| head("/", &[&format!("X: {}", "a".repeat(size - base))]);
    assert_eq!(padded(16_384).len(), 16_384);
    assert!(is_accepted(&server, &padded(16_384)));
    assert_eq!(status(&server, padded(16_385)), 431);
    assert_eq!(status(&server, padded(1_000_000)), 431);

    let with_headers = |count: usize| {
        let lines: Vec<String> = (0..count - 5).map(|index| format!("X{index}: a")).collect();
        let lines: Vec<&str> = lines.iter().map(String::as_str).collect();
        head("/", &lines)
    };
    assert!(is_accepted(&server, &with_headers(64)));
    assert_eq!(status(&server, with_headers(65)), 431);
    server.finish();
}

#[test]
fn t07_head_may_come_byte_by_byte() {
    let server = echo().start();
    let mut stream = server.raw_stream();
    stream.set_nodelay(true).unwrap();
    for byte in head("/", &["Cookie: a=b"]).as_bytes() {
        stream.write_all(&[*byte]).unwrap();
    }
    let mut answer = [0; 12];
    stream.read_exact(&mut answer).unwrap();
    assert_eq!(answer, *b"HTTP/1.1 101");
    drop(stream);
    server.finish();
}

#[test]
fn t07_malformed_heads_are_refused() {
    let server = echo().start();
    let mark = format!("Host: {MARK}");
    let cases = [
        head_but("Host", &[]),
        head_but("Host", &[&mark, &mark]),
        head_but("Host", &["Host:"]),
        head_but("Host", &["Host: a/b"]),
        head("/", &[&format!("X: {MARK}\0")]),
        head("/", &[&format!("X: {MARK}\rY: b")]),
        head("/", &[&format!("X: a\r\n folded {MARK}")]),
        head("/", &[&format!("X : {MARK}")]),
        head("/", &[&format!("no colon {MARK}")]),
        head("/", &[&format!(": {MARK}")]),
        head("/", &[&format!("X\u{e4}: {MARK}")]),
        head(&format!("/{MARK}#fragment"), &[]),
        head(&format!("/{MARK}\u{e4}"), &[]),
        head(&format!("http://{MARK}/"), &[]),
        head(MARK, &[]),
        head("/", &[]).replace("\r\n", "\n"),
    ];
    for case in &cases {
        assert_eq!(status(&server, case), 400, "{case}");
    }
    server.until("sockets.refused_by.malformed", cases.len() as u64);
    server.finish();
}

#[test]
fn t08_what_is_not_http_gets_a_status_all_the_same() {
    let server = echo().start();
    let tls_hello = [
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03".as_slice(),
        &[0xAB; 506],
    ]
    .concat();
    let cases: [&[u8]; 7] = [
        b"\r\n\r\n",
        b"SSH-2.0-OpenSSH_9.2\r\n",
        b"hello\n",
        b"\x81\x85\x37\xfa\x21\x3d\x7f\x9f\x4d\x51\x58\r\n\r\n",
        b"GET  / HTTP/1.1\r\n\r\n",
        b"GET / HTTP/one\r\n\r\n",
        &tls_hello,
    ];
    for case in cases {
        assert_eq!(status(&server, case), 400, "{}", case.escape_ascii());
    }
    // Clear enough to be told what is wrong.
    assert_eq!(status(&server, "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"), 505);
    server.finish();
}

#[test]
fn t08_each_bad_handshake_has_its_status() {
    let server = echo().start();
    let post = head("/", &[]).replace("GET", "POST");
    let response = refusal(&server, post);
    assert_eq!(
        (response.status, response.header("Allow")),
        (405, Some("GET"))
    );
    let form = request(
        "POST / HTTP/1.1",
        &["Host: localhost", "Content-Length: 5", ""],
    );
    assert_eq!(
        status(&server, form.trim_end().to_owned() + "\r\n\r\nhello"),
        405
    );
    let old = head("/", &[]).replace("HTTP/1.1", "HTTP/1.0");
    assert_eq!(status(&server, old), 505);

    // Neither a browser's plain request nor half an upgrade is one.
    for plain in [
        request("GET / HTTP/1.1", &["Host: localhost", "Accept: */*"]),
        head_but("Upgrade", &[]),
        head_but("Upgrade", &["Upgrade: h2c"]),
        head_but("Connection", &[]),
        head_but("Connection", &["Connection: keep-alive"]),
    ] {
        let response = refusal(&server, &plain);
        assert_eq!(response.status, 426, "{plain}");
        assert_eq!(response.header("Upgrade"), Some("websocket"), "{plain}");
        assert!(!response.body.contains("<html"), "no page with --echo");
    }

    let key = format!("Sec-WebSocket-Key: {KEY}");
    for keys in [
        &[][..],
        &["Sec-WebSocket-Key: AAAA"],
        &["Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAAAAAAAA"],
        &["Sec-WebSocket-Key: !!!!!!!!!!!!!!!!!!!!!!=="],
        &["Sec-WebSocket-Key:"],
        &[key.as_str(), key.as_str()],
    ] {
        let case = head_but("Sec-WebSocket-Key", keys);
        assert_eq!(status(&server, &case), 400, "{case}");
    }
    for (versions, expected) in [
        (&[][..], 426),
        (&["Sec-WebSocket-Version: 8"], 426),
        (&["Sec-WebSocket-Version: 13, 8"], 426),
        (&["Sec-WebSocket-Version: 013"], 426),
        (
            &["Sec-WebSocket-Version: 13", "Sec-WebSocket-Version: 13"],
            400,
        ),
    ] {
        let case = head_but("Sec-WebSocket-Version", versions);
        let response = refusal(&server, &case);
        assert_eq!(response.status, expected, "{case}");
        let names_ours = response.header("Sec-WebSocket-Version") == Some("13");
        assert_eq!(names_ours, expected == 426, "{case}");
    }
    assert_eq!(server.figure("connections.opened"), 0);
    server.finish();
}

#[test]
fn b08_header_names_and_tokens_have_any_case() {
    let server = echo().start();
    let odd = request(
        "GET /a?b=c HTTP/1.1",
        &[
            "HOST:localhost",
            "upgrade: h2c, WebSocket",
            "CONNECTION: keep-alive, UPGRADE",
            &format!("sec-websocket-KEY:   {KEY}"),
            "sec-websocket-version: 13",
        ],
    );
    assert!(is_accepted(&server, &odd));
    server.finish();
}

#[test]
fn t08_each_end_of_the_validation_has_its_status() {
    for (script, expected) in [
        ("exit 1", 401),
        ("exit 0", 401),
        ("exit 2", 503),
        ("kill -9 $$", 503),
        ("echo two words", 503),
        ("echo good; exit 3", 503),
        ("sleep 60", 503),
        ("yes", 503),
    ] {
        let server = echo()
            .validate(script)
            .set("validate.timeout", "1s")
            .start();
        let response = refusal(&server, head(&format!("/{MARK}"), &[]));
        assert_eq!(response.status, expected, "{script}");
        assert_eq!(server.figure("callbacks.validations"), 1);
        server.finish();
    }
    let server = echo()
        .validate("printf 'Status: 403\\n\\n'")
        .set("validate.output", "cgi")
        .start();
    assert_eq!(status(&server, head("/", &[])), 403);
    server.finish();
}

#[test]
fn t08_full_server_says_when_to_come_again() {
    let server = echo().set("limits.max_connections", "2").start();
    let first = Wire::open(&server);
    let second = Wire::open(&server);
    let response = refusal(&server, head("/", &[]));
    assert_eq!(response.status, 503);
    let seconds: u64 = response.header("Retry-After").unwrap().parse().unwrap();
    assert!(seconds > 0);
    first.bye();
    server.until("connections.open", 1);
    Wire::open(&server).bye();
    second.bye();
    server.finish();
}

#[test]
fn t08_t31_the_hundred_and_first_from_one_address_is_429() {
    let server = echo().set("server.proxy.trusted", "127.0.0.1").start();
    let line = "X-Forwarded-For: 192.0.2.1";
    let mut here: Vec<Wire> = (0..100)
        .map(|_| Wire::over(server.raw_stream(), &[line]).0)
        .collect();
    let marked = format!("X-Mark: {MARK}");
    let response = refusal(&server, head(&format!("/{MARK}"), &[line, &marked]));
    assert_eq!(response.status, 429);
    assert!(response.body.contains("limits.max_connections_per_ip"));
    let seconds: u64 = response.header("Retry-After").unwrap().parse().unwrap();
    assert!(seconds > 0);
    // Neighbours are no concern of theirs, and one who leaves makes room for one.
    Wire::over(server.raw_stream(), &["X-Forwarded-For: 192.0.2.2"])
        .0
        .bye();
    here.pop().unwrap().bye();
    server.until("connections.open", 99);
    here.push(Wire::over(server.raw_stream(), &[line]).0);
    assert_eq!(status(&server, head("/", &[line])), 429);
    here.into_iter().for_each(Wire::bye);
    server.finish();
}

#[test]
fn t31_one_address_has_its_limit_and_loopback_only_if_it_is_written() {
    let server = echo()
        .set("limits.max_connections_per_ip", "2")
        .set("server.proxy.trusted", "127.0.0.1")
        .start();
    let open = |line: &str| Wire::over(server.raw_stream(), &[line]).0;
    let forwarded = |addr: &str| format!("X-Forwarded-For: {addr}");
    let here = [
        open("X-A: b"),
        open("X-A: b"),
        open(&forwarded("192.0.2.1")),
        open(&forwarded("192.0.2.1")),
        open(&forwarded("2001:db8::1")),
        open(&forwarded("2001:db8::2")),
    ];
    for line in ["X-A: b", &forwarded("192.0.2.1"), &forwarded("2001:db8::3")] {
        let response = refusal(&server, head("/", &[line]));
        assert_eq!(response.status, 429, "{line}");
        assert!(response.body.contains("limits.max_connections_per_ip"));
        assert!(response.header("Retry-After").is_some());
    }
    assert_eq!(
        server.figure("sockets.refused_by.max_connections_per_ip"),
        3
    );
    open(&forwarded("192.0.2.2")).bye();
    here.into_iter().for_each(Wire::bye);
    server.until("connections.open", 0);
    open(&forwarded("192.0.2.1")).bye();
    server.finish();

    // The default limit is not for this host.
    let server = echo().start();
    let here: Vec<_> = (0..101).map(|_| Wire::open(&server)).collect();
    here.into_iter().for_each(Wire::bye);
    server.finish();
}

#[test]
fn t31_one_user_has_its_limit() {
    let server = echo()
        .set("limits.max_connections_per_user", "2")
        .validate("#!/bin/sh\nprintf '%s' \"$HTTP_X_NAME\"\n")
        .start();
    let open = |line: &str| Wire::over(server.raw_stream(), &[line]).0;
    let here = [
        open("X-Name: alice"),
        open("X-Name: alice"),
        open("X-Name: bob"),
    ];
    let response = refusal(&server, head("/", &["X-Name: alice"]));
    assert_eq!(response.status, 429);
    assert!(response.body.contains("limits.max_connections_per_user"));
    here.into_iter().for_each(Wire::bye);
    server.until("connections.open", 0);
    open("X-Name: alice").bye();
    server.finish();
}

#[test]
fn t09_offered_protocols_and_extensions_are_not_echoed() {
    let server = echo().start();
    let offers = [
        format!("Sec-WebSocket-Protocol: {MARK}, chat"),
        "Sec-WebSocket-Extensions: permessage-deflate; client_max_window_bits".to_owned(),
    ];
    let (wire, response) = Wire::over(server.raw_stream(), &[&offers[0], &offers[1]]);
    assert_eq!(response.header("Sec-WebSocket-Protocol"), None);
    assert_eq!(response.header("Sec-WebSocket-Extensions"), None);
    wire.bye();
    for protocol in [
        "a\rX-Injected: 1",
        "a\nX-Injected: 1",
        "a\0",
        "a b",
        "a, a",
        "\"a\"",
    ] {
        let line = format!("Sec-WebSocket-Protocol: {protocol}");
        assert_eq!(status(&server, head("/", &[&line])), 400, "{protocol:?}");
    }
    // A second header line is one more header, never a line of our answer.
    let lines = ["Sec-WebSocket-Protocol: a", "X-Injected: 1"];
    let (wire, response) = Wire::over(server.raw_stream(), &lines);
    assert_eq!(response.header("X-Injected"), None);
    wire.bye();
    server.finish();
}

#[test]
fn t01_b08_foreign_origins_are_refused_before_a_process_is_started() {
    let setup = Setup::new();
    let touched = setup.dir().join("validated");
    let server = setup
        .arg("--echo")
        .validate("echo > validated; echo somebody")
        .start();
    let port = server.addr.port();
    for origin in [
        format!("http://{MARK}.example"),
        "http://localhost.evil.example".to_owned(),
        "https://evil.example:443".to_owned(),
        "null".to_owned(),
        String::new(),
        format!("http://localhost:{}", port.wrapping_add(1)),
    ] {
        let case = head("/", &[&format!("Origin: {origin}")]);
        assert_eq!(status(&server, case), 403, "{origin}");
    }
    assert_eq!(server.figure("sockets.refused_by.origin"), 6);
    let twice = ["Origin: http://localhost", "Origin: http://evil.example"];
    assert_eq!(status(&server, head("/", &twice)), 400);
    assert!(!touched.exists());
    assert_eq!(server.figure("callbacks.validations"), 0);

    let (same, _) = Wire::over(server.raw_stream(), &["Origin: http://localhost"]);
    same.bye();
    assert!(touched.exists());
    Wire::open(&server).bye();
    server.finish();
}

#[test]
fn t01_of_a_table_of_origins_only_the_one_that_is_allowed_gets_in() {
    let setup = Setup::new();
    let touched = setup.dir().join("validated");
    let server = setup
        .arg("--echo")
        .set(
            "origin.allow",
            "https://good.example,https://*.wild.example",
        )
        .validate("echo > validated; echo somebody")
        .start();
    let foreign = [
        "https://evil.example",
        "https://good.example.evil",
        "https://evil.good.example",
        "https://evilgood.example",
        "https://goodXexample",
        "http://good.example",
        "wss://good.example",
        "https://good.example:444",
        "https://good.example:80",
        "https://GOOD.EXAMPLE",
        "HTTPS://good.example",
        "https://good.example.",
        "https://g\u{f6}od.example",
        "https://xn--god-sna.example",
        "https://good.example@evil",
        "https://user@good.example",
        "https://good.example/",
        "https://good.example https://evil.example",
        "https://good.example,https://good.example",
        "https://wild.example",
        "https://a.b.wild.example",
        "https://awild.example",
        "https://a.wild.example.evil",
        "http://localhost",
        "null",
        "",
    ];
    for origin in foreign {
        let case = head("/", &[&format!("Origin: {origin}")]);
        assert_eq!(status(&server, case), 403, "{origin}");
    }
    let twice = [
        "Origin: https://good.example",
        "Origin: https://good.example",
    ];
    assert_eq!(status(&server, head("/", &twice)), 400);
    let refused = server.figure("sockets.refused_by.origin");
    assert_eq!(refused, foreign.len() as u64);
    assert!(
        !touched.exists(),
        "it is judged before a process is started"
    );
    assert_eq!(server.figure("callbacks.validations"), 0);
    for origin in ["https://good.example", "https://a.wild.example"] {
        let line = format!("Origin: {origin}");
        Wire::over(server.raw_stream(), &[&line]).0.bye();
    }
    server.finish();
}

#[test]
fn t01_missing_origin_can_be_refused() {
    let server = echo().set("origin.allow_missing", "false").start();
    assert_eq!(status(&server, head("/", &[])), 403);
    server.finish();
}

#[test]
fn t11_demo_serves_its_page_to_this_host_only() {
    let server = Setup::new().start();
    for host in ["attacker.example", "localhost.attacker.example", "10.0.0.1"] {
        let host = format!("Host: {host}");
        let page = request("GET / HTTP/1.1", &[&host]);
        assert_eq!(status(&server, page), 421, "{host}");
        assert_eq!(status(&server, head_but("Host", &[&host])), 421, "{host}");
        // Apache's rewrite rule puts its own name for the server into Host.
        let forwarded = format!("X-Forwarded-{host}");
        let page = request("GET / HTTP/1.1", &["Host: 127.0.0.1", &forwarded]);
        assert_eq!(status(&server, page), 421, "{forwarded}");
    }
    let page = exchange(&server, request("GET / HTTP/1.1", &["Host: localhost"]));
    let page = Response::parse(&page);
    assert_eq!(page.status, 200);
    assert!(page.body.contains("WebSocket"));
    let policy = page.header("Content-Security-Policy").unwrap();
    assert!(policy.starts_with("default-src 'none'"), "{policy}");
    assert_eq!(page.header("Connection"), Some("close"));
    let other = request("GET /other HTTP/1.1", &["Host: localhost"]);
    assert_eq!(status(&server, other), 426);
    Wire::open(&server).bye();
    server.finish();
}

#[test]
fn b09_without_the_required_cookie_there_is_no_101() {
    let setup = Setup::new();
    let touched = setup.dir().join("validated");
    let server = setup
        .arg("--echo")
        .validate("echo > validated; echo somebody")
        .set("identity.require_cookie", "true")
        .start();
    assert_eq!(status(&server, head("/", &[])), 401);
    assert!(!touched.exists());
    assert_eq!(server.figure("connections.opened"), 0);
    let (wire, _) = Wire::over(server.raw_stream(), &["Cookie: PHPSESSID=abc"]);
    wire.bye();
    server.finish();
}

/// The token in a `Set-Cookie` header.
fn token_of(response: &Response) -> &str {
    let cookie = response.header("Set-Cookie").expect("a cookie is set");
    let mut parts = cookie.split("; ");
    let token = parts.next().unwrap().strip_prefix("ws_session=").unwrap();
    let attributes: Vec<&str> = parts.collect();
    assert_eq!(attributes, ["Path=/", "HttpOnly", "SameSite=Lax"]);
    assert_eq!(token.len(), 43, "256 bits in base64url");
    token
}

fn session(server: &Server) -> String {
    let connections = server.connections();
    assert_eq!(connections.len(), 1);
    connections[0]["session"].as_str().unwrap().to_owned()
}

#[test]
fn session_is_made_at_the_first_visit_and_found_at_the_next() {
    let server = echo().start();
    let (wire, response) = Wire::over(server.raw_stream(), &[]);
    let token = token_of(&response).to_owned();
    let first = session(&server);
    assert_eq!(first.len(), 32);
    assert!(!token.contains(&first) && !first.contains(&token));
    wire.bye();
    server.until("connections.open", 0);

    let cookie = format!("Cookie: other=1; ws_session={token}; more=2");
    let (wire, response) = Wire::over(server.raw_stream(), &[&cookie]);
    assert_eq!(response.header("Set-Cookie"), None);
    assert_eq!(session(&server), first);
    wire.bye();
    server.until("connections.open", 0);

    // A token of somebody's own making is replaced, never adopted.
    let unknown = "A".repeat(43);
    for cookie in [&*unknown, "junk", "", MARK] {
        let cookie = format!("Cookie: ws_session={cookie}");
        let (wire, response) = Wire::over(server.raw_stream(), &[&cookie]);
        let fresh = token_of(&response);
        assert!(fresh != unknown && fresh != token);
        assert_ne!(session(&server), first);
        wire.bye();
        server.until("connections.open", 0);
    }
    let log = server.finish();
    assert!(!log.contains(&token), "tokens are never logged");
}

#[test]
fn session_does_not_follow_to_another_address_unless_it_may() {
    for verify_ip in [true, false] {
        let server = echo()
            .set("identity.verify_ip", verify_ip.to_string())
            .start();
        let (wire, response) = Wire::over(server.raw_stream(), &[]);
        let cookie = format!("Cookie: ws_session={}", token_of(&response));
        let first = session(&server);
        wire.bye();
        server.until("connections.open", 0);
        let (wire, response) = Wire::over(server.raw_stream_from([127, 0, 0, 2]), &[&cookie]);
        assert_eq!(response.header("Set-Cookie").is_some(), verify_ip);
        assert_eq!(session(&server) != first, verify_ip);
        wire.bye();
        server.until("connections.open", 0);
        // Whoever tried it there has taken nothing away here.
        let (wire, _) = Wire::over(server.raw_stream(), &[&cookie]);
        assert_eq!(session(&server), first);
        wire.bye();
        server.finish();
    }
}

/// Whoever has had another's browser take over a token of his would be that other one with it.
#[test]
fn t02_a_token_does_not_follow_to_another_user() {
    let server = echo().validate("echo \"$HTTP_X_USER\"").start();
    let (wire, response) = Wire::over(server.raw_stream(), &["X-User: guest"]);
    let planted = format!("Cookie: ws_session={}", token_of(&response));
    let of_guest = session(&server);
    wire.bye();
    server.until("connections.open", 0);

    let (wire, response) = Wire::over(server.raw_stream(), &["X-User: alice", &planted]);
    let own = format!("Cookie: ws_session={}", token_of(&response));
    let of_alice = session(&server);
    assert_ne!(of_alice, of_guest);
    wire.bye();
    server.until("connections.open", 0);

    for (user, cookie, expected) in [("guest", planted, of_guest), ("alice", own, of_alice)] {
        let user = format!("X-User: {user}");
        let (wire, response) = Wire::over(server.raw_stream(), &[&user, &cookie]);
        assert_eq!(response.header("Set-Cookie"), None);
        assert_eq!(session(&server), expected);
        wire.bye();
        server.until("connections.open", 0);
    }
    server.finish();
}

#[test]
fn refused_visitor_gets_no_session() {
    let server = echo().validate("exit 1").start();
    let response = refusal(&server, head("/", &[]));
    assert_eq!(response.header("Set-Cookie"), None);
    assert_eq!(server.figure("sessions"), 0);
    server.finish();
}

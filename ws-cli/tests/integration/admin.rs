//! The doors to the control API: who gets in (T11, T72), and what a request may cost.

use std::fs::{self, Permissions};
use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::Command;

use serde_json::{Value, json};
use socket2::{Domain, Socket, Type};

use crate::support::*;

const TOKEN: &str = "canary-0123456789abcdef";
const NEXT_TOKEN: &str = "canary-fedcba9876543210";

fn write_tokens(dir: &Path, tokens: &[&str], mode: u32) {
    let path = dir.join("tokens");
    fs::write(&path, format!("# tokens\n{}\n", tokens.join("\n"))).unwrap();
    fs::set_permissions(&path, Permissions::from_mode(mode)).unwrap();
}

fn setup() -> Setup {
    let setup = Setup::new()
        .arg("--echo")
        .set("control.listen", "127.0.0.1:0")
        .set("control.token_file", "tokens");
    write_tokens(setup.dir(), &[TOKEN], 0o600);
    setup
}

/// The door on TCP: `127.0.0.1:PORT`.
fn door(server: &Server) -> String {
    let status = server.status();
    let url = status["control"]["listen"].as_str().unwrap();
    url.strip_prefix("http://")
        .unwrap()
        .trim_end_matches('/')
        .to_owned()
}

/// A request over TCP, as it is; returns status, head and body.
fn raw(door: &str, request: &str) -> (u16, String, String) {
    let mut stream = TcpStream::connect(door).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream.write_all(request.as_bytes()).unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    let (head, body) = answer.split_once("\r\n\r\n").unwrap_or((&answer, ""));
    let status = head.get(9..12).and_then(|status| status.parse().ok());
    (status.unwrap_or(0), head.to_lowercase(), body.to_owned())
}

/// A request with these header lines.
fn request(door: &str, line: &str, headers: &[&str], body: &str) -> (u16, String, String) {
    let headers: String = headers
        .iter()
        .map(|header| format!("{header}\r\n"))
        .collect();
    let length = body.len();
    let end = format!("Content-Length: {length}\r\nConnection: close\r\n\r\n{body}");
    raw(door, &format!("{line} HTTP/1.1\r\n{headers}{end}"))
}

/// Reads what a stream brings until this is in it.
fn read_until(stream: &mut TcpStream, end: &str) -> String {
    let mut bytes = Vec::new();
    let mut part = [0; 4096];
    while !String::from_utf8_lossy(&bytes).contains(end) {
        let count = stream.read(&mut part).unwrap();
        let so_far = String::from_utf8_lossy(&bytes).into_owned();
        assert!(count > 0, "{end} never comes: {so_far}");
        bytes.extend_from_slice(&part[..count]);
    }
    String::from_utf8(bytes).unwrap()
}

#[tokio::test]
async fn t72_only_who_has_a_token_gets_in() {
    let server = setup().start();
    let mut client = server.connect().await;
    let door = door(&server);
    let host = format!("Host: {door}");
    let bearer = format!("Authorization: Bearer {TOKEN}");
    let body = json!({ "to": { "all": true }, "text": "in" }).to_string();
    let send = |headers: &[&str]| request(&door, "POST /v1/send", headers, &body);
    let (status, _, answer) = send(&[&host, &bearer]);
    assert_eq!(status, 200, "{answer}");
    assert_eq!(hear(&mut client).await, "in");
    let lower = format!("authorization: bearer {TOKEN}");
    assert_eq!(send(&[&host, &lower]).0, 200);
    assert_eq!(hear(&mut client).await, "in");

    let (status, head, _) = send(&[&host]);
    assert_eq!(status, 401);
    assert!(
        head.contains("www-authenticate: bearer realm=\"ws\"\r\n"),
        "{head}"
    );
    let basic = format!("Authorization: Basic {TOKEN}");
    let shorter = &bearer[..bearer.len() - 1];
    let longer = format!("{bearer}x");
    for wrong in [shorter, &longer, "Authorization: Bearer # tokens"] {
        let (status, head, answer) = send(&[&host, wrong]);
        assert_eq!(status, 401, "{wrong}");
        assert!(head.contains("error=\"invalid_token\""), "{head}");
        assert!(!answer.contains("canary"), "{answer}");
    }
    assert_eq!(send(&[&host, &basic]).0, 401);
    assert_eq!(send(&[&host, "Authorization: Bearer "]).0, 401);
    for path in ["/v1/status", "/v1/connections", "/v1/nothing", "/metrics"] {
        let (status, _, answer) = request(&door, &format!("GET {path}"), &[&host], "");
        assert_eq!(status, 401, "{path}: {answer}");
    }
    // Whether it lives anybody may know who reaches it.
    for path in ["/live", "/ready"] {
        assert_eq!(request(&door, &format!("GET {path}"), &[&host], "").0, 200);
    }

    // While one is replaced both hold, without a restart.
    write_tokens(server.dir(), &[TOKEN, NEXT_TOKEN], 0o600);
    let next = format!("Authorization: Bearer {NEXT_TOKEN}");
    let status = |bearer: &str| request(&door, "GET /v1/status", &[&host, bearer], "").0;
    assert_eq!((status(&bearer), status(&next)), (200, 200));
    write_tokens(server.dir(), &[NEXT_TOKEN], 0o600);
    assert_eq!((status(&bearer), status(&next)), (401, 200));
    write_tokens(server.dir(), &["short"], 0o600);
    assert_eq!((status(&bearer), status(&next)), (401, 200), "T75");
    assert!(server.figure("control.refused_by.token") >= 10);
    assert_eq!(ask(&mut client, "nothing else").await, "nothing else");
    bye(client).await;
    let log = server.finish();
    assert!(!log.contains("canary"), "T70: {log}");
}

#[tokio::test]
async fn t11_t72_a_rebound_name_and_a_page_do_not_get_in() {
    let server = setup().start();
    let door = door(&server);
    let port = door.rsplit_once(':').unwrap().1;
    let bearer = format!("Authorization: Bearer {TOKEN}");
    let get = |headers: &[&str]| {
        let mut all = vec![&*bearer];
        all.extend(headers);
        request(&door, "GET /v1/status", &all, "")
    };
    for host in ["localhost", "127.0.0.1", "[::1]", "ws.localhost"] {
        assert_eq!(get(&[&format!("Host: {host}:{port}")]).0, 200, "{host}");
        assert_eq!(get(&[&format!("Host: {host}")]).0, 200, "{host}");
    }
    for headers in [
        &["Host: attacker.example"][..],
        &["Host: 10.0.0.1"],
        &["Host: 127.0.0.1.nip.io"],
        &["Host: localhost", "Host: attacker.example"],
        &["Host: "],
        &[],
    ] {
        let (status, _, answer) = get(headers);
        assert!(matches!(status, 400 | 421), "{headers:?}: {status}");
        assert!(!answer.contains("version"), "no data: {answer}");
    }
    for header in [
        "Origin: null",
        "Origin: http://localhost:1",
        "Sec-Fetch-Site: none",
        "Sec-Fetch-Site: same-site",
    ] {
        let (status, head, _) = get(&["Host: localhost", header]);
        assert_eq!(status, 403, "{header}");
        assert!(!head.contains("access-control"), "{head}");
    }
    // The operator's page comes from here, and shows its token like anybody.
    for header in ["Origin: http://localhost", "Sec-Fetch-Site: same-origin"] {
        assert_eq!(get(&["Host: localhost", header]).0, 200, "{header}");
        let without = ["Host: localhost", header];
        let (status, ..) = request(&door, "GET /v1/status", &without, "");
        assert_eq!(status, 401, "{header}");
    }
    // What a page sends before it asks.
    let preflight = [
        "Host: localhost",
        "Origin: http://evil",
        "Access-Control-Request-Method: POST",
    ];
    assert_eq!(request(&door, "OPTIONS /v1/send", &preflight, "").0, 403);
    // On the socket too; there any name will do, as a page cannot get there.
    let mut stream = UnixStream::connect(server.state("control.sock")).unwrap();
    stream
        .write_all(
            b"GET /live HTTP/1.1\r\nHost: x\r\nSec-Fetch-Site: none\r\nConnection: close\r\n\r\n",
        )
        .unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    assert!(answer.starts_with("HTTP/1.1 403 "), "{answer}");
    assert!(server.figure("control.refused_by.host") >= 4);
    assert_eq!(server.figure("control.refused_by.browser"), 6);
    server.finish();

    let server = setup()
        .set("control.allowed_hosts", "ws.internal,*.ws.internal")
        .start();
    let door = self::door(&server);
    let get = |host: &str| request(&door, "GET /live", &[&format!("Host: {host}")], "").0;
    assert_eq!(get("ws.internal:1"), 200);
    assert_eq!(get("a.ws.internal"), 200);
    assert_eq!(get("localhost"), 421);
    server.finish();
}

#[tokio::test]
async fn t72_the_operators_page_is_public_and_only_on_tcp() {
    let server = setup().start();
    let door = door(&server);
    let host = "Host: localhost";
    for path in ["/", "/operator.js", "/base.css"] {
        // Whoever follows a link to it, too.
        let link = [host, "Sec-Fetch-Site: cross-site"];
        let (status, head, content) = request(&door, &format!("GET {path}"), &link, "");
        assert_eq!(status, 200, "{path}");
        assert!(!content.is_empty() && !content.contains(TOKEN));
        for header in [
            "content-security-policy: default-src 'none';",
            "cross-origin-resource-policy: same-origin",
            "connection: close",
        ] {
            assert!(head.contains(header), "{path}: {head}");
        }
        assert_eq!(
            request(&door, &format!("GET {path}"), &["Host: evil"], "").0,
            421
        );
        assert_eq!(request(&door, &format!("POST {path}"), &[host], "").0, 401);
        assert_eq!(server.control("GET", path, "").0, 404, "{path}");
    }
    assert_eq!(
        server.raw(b"GET / HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")[9..12],
        *b"426"
    );
    server.finish();
}

#[tokio::test]
async fn t70_t72_the_log_is_followed_with_a_token_and_has_no_secrets() {
    let server = setup().set("control.max_listeners", "1").start();
    let door = door(&server);
    let bearer = format!("Authorization: Bearer {TOKEN}");
    let host = "Host: localhost";
    assert_eq!(request(&door, "GET /v1/log", &[host], "").0, 401);
    let path = "GET /v1/log?lines=1000";
    let mut stream = TcpStream::connect(&door).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    write!(stream, "{path} HTTP/1.1\r\n{host}\r\n{bearer}\r\n\r\n").unwrap();
    let mut text = read_until(&mut stream, "\ndata: ");
    assert!(text.contains("content-type: text/event-stream"), "{text}");
    // Another one finds no place.
    let (status, _, answer) = request(&door, path, &[host, &bearer], "");
    assert_eq!(status, 503, "{answer}");
    assert!(answer.contains("control.max_listeners is 1"), "{answer}");
    let cookie = [("Cookie", "ws_session=canary-cookie")];
    let mut client = server.connect_with("/", &cookie).await.unwrap();
    assert_eq!(ask(&mut client, "canary-message").await, "canary-message");
    bye(client).await;
    text += &read_until(&mut stream, "connection closed");
    assert!(!text.contains("canary") && !text.contains(TOKEN), "{text}");
    drop(stream);
    let bad = request(&door, "GET /v1/log?lines=x", &[host, &bearer], "");
    assert_eq!(bad.0, 400);
    server.finish();
}

#[tokio::test]
async fn t11_the_public_listener_serves_the_names_it_was_told() {
    let setup = Setup::new()
        .arg("--echo")
        .set("origin.allow", "same-origin");
    let server = setup
        .set(
            "server.allowed_hosts",
            "ws.example.org,*.app.example.org,127.0.0.1",
        )
        .start();
    let client = server.connect().await;
    let status = |hosts: &[&str]| {
        let hosts: String = hosts
            .iter()
            .map(|host| format!("Host: {host}\r\n"))
            .collect();
        let request = format!("GET /nothing HTTP/1.1\r\n{hosts}Connection: close\r\n\r\n");
        let answer = server.raw(request.as_bytes());
        String::from_utf8_lossy(&answer)
            .get(9..12)
            .unwrap()
            .parse::<u16>()
            .unwrap()
    };
    for host in ["ws.example.org", "WS.example.org:1", "a.app.example.org"] {
        assert_ne!(status(&[host]), 421, "{host}");
    }
    let refused = server.figure("sockets.refused_by.host");
    for hosts in [
        &["example.org"][..],
        &["app.example.org"],
        &["a.b.app.example.org"],
        &["attacker.example"],
        &["localhost"],
    ] {
        assert_eq!(status(hosts), 421, "{hosts:?}");
    }
    assert_eq!(server.figure("sockets.refused_by.host"), refused + 5);
    bye(client).await;
    server.finish();
}

/// Asks again and again, without reading an answer, until the server ends the connection; `false`
/// if it only stops to read.
fn ask_without_listening(door: &str, request: &str) -> bool {
    let addr: SocketAddr = door.parse().unwrap();
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
    socket.set_recv_buffer_size(4096).unwrap();
    socket.connect(&addr.into()).unwrap();
    let mut stream = TcpStream::from(socket);
    stream.set_write_timeout(Some(PATIENCE)).unwrap();
    let requests = request.repeat(1000);
    loop {
        if let Err(error) = stream.write_all(requests.as_bytes()) {
            let has_stopped = matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut);
            return !has_stopped;
        }
    }
}

#[test]
fn t72_who_does_not_read_its_answers_does_not_keep_others_out() {
    const PLACES: usize = 3;
    let server = setup()
        .set("control.max_connections", PLACES.to_string())
        .set("control.timeout", "1s")
        .start();
    let door = door(&server);
    for request in [
        "GET /live HTTP/1.1\r\nHost: localhost\r\n\r\n".to_owned(),
        "GET /v1/status HTTP/1.1\r\nHost: localhost\r\n\r\n".to_owned(),
        format!(
            "GET /v1/status HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {TOKEN}\r\n\r\n"
        ),
    ] {
        let ask = || ask_without_listening(&door, &request);
        std::thread::scope(|scope| {
            let greedy: Vec<_> = (0..PLACES).map(|_| scope.spawn(ask)).collect();
            assert_eq!(
                self::request(&door, "GET /live", &["Host: localhost"], "").0,
                200
            );
            for asking in greedy {
                assert!(asking.join().unwrap(), "{request}");
            }
        });
    }
    server.finish();
}

#[test]
fn t72_who_has_no_token_gets_one_answer() {
    let server = setup().set("control.timeout", "300ms").start();
    let door = door(&server);
    let bearer = format!("Host: localhost\r\nAuthorization: Bearer {TOKEN}");
    for (path, headers, is_closed) in [
        ("/live", "Host: localhost", true),
        ("/live", "Host: elsewhere", true),
        ("/v1/status", "Host: localhost", true),
        ("/v1/status", &*bearer, false),
        ("/v1/nothing", &*bearer, false),
    ] {
        let get = format!("GET {path} HTTP/1.1\r\n{headers}\r\n\r\n");
        let (_, head, rest) = raw(&door, &get.repeat(2));
        assert_eq!(head.contains("connection: close"), is_closed, "{get}{head}");
        assert_eq!(rest.contains("HTTP/1.1"), !is_closed, "{get}{rest}");
    }
    server.finish();
}

#[tokio::test]
async fn t72_the_verbs_reach_the_door_with_a_token() {
    let server = setup().start();
    let mut client = server.connect().await;
    let url = format!("http://{}", door(&server));
    let ws = |args: &[&str], env: &[(&str, &str)]| {
        Command::new(env!("CARGO_BIN_EXE_ws"))
            .args(args)
            .current_dir(server.dir())
            .env_remove("WS_CONTROL_SOCKET")
            .envs(env.iter().copied())
            .stdin(std::process::Stdio::null())
            .output()
            .unwrap()
    };
    let args = ["send", "--all", "--control", &url, "hello"];
    let output = ws(&args, &[("WS_CONTROL_TOKEN", TOKEN)]);
    assert_eq!(
        (output.status.code(), &*output.stdout),
        (Some(0), &b"1\n"[..])
    );
    let mut args = args.to_vec();
    args.extend(["--token-file", "tokens"]);
    let output = ws(&args, &[("WS_CONTROL_TOKEN", "wrong")]);
    assert_eq!(
        (output.status.code(), &*output.stdout),
        (Some(0), &b"1\n"[..])
    );
    for _ in 0..2 {
        assert_eq!(hear(&mut client).await, "hello");
    }
    let output = ws(
        &["status"],
        &[("WS_CONTROL_SOCKET", &url), ("WS_CONTROL_TOKEN", "wrong")],
    );
    assert_eq!(output.status.code(), Some(77), "{output:?}");
    let output = ws(&["ls", "--control", &url], &[]);
    assert_eq!(output.status.code(), Some(77), "{output:?}");
    bye(client).await;
    server.finish();
}

#[test]
fn t72_a_door_that_would_be_open_to_all_is_not_opened() {
    let fault = |set: &[(&str, &str)], tokens: &[&str], mode: u32| {
        let mut setup = Setup::new().arg("--echo");
        write_tokens(setup.dir(), tokens, mode);
        for (key, value) in set {
            setup = setup.set(key, *value);
        }
        let output = setup.fail();
        assert_eq!(output.status.code(), Some(78), "{output:?}");
        String::from_utf8(output.stderr).unwrap()
    };
    let listen = ("control.listen", "127.0.0.1:0");
    let file = ("control.token_file", "tokens");
    for (set, tokens, mode, named) in [
        (&[listen][..], &[TOKEN][..], 0o600, "control.token_file"),
        (&[file], &[TOKEN], 0o600, "control.listen"),
        (
            &[("control.listen", "0.0.0.0:0"), file],
            &[TOKEN],
            0o600,
            "insecure_listen",
        ),
        (
            &[("control.listen", "unix:/x"), file],
            &[TOKEN],
            0o600,
            "control.listen",
        ),
        (
            &[("control.listen", "wss://127.0.0.1:0"), file],
            &[TOKEN],
            0o600,
            "control.listen",
        ),
        (&[listen, file], &[], 0o600, "no token"),
        (&[listen, file], &["short"], 0o600, "line 2"),
        (&[listen, file], &[TOKEN], 0o602, "write"),
        (
            &[listen, ("control.token_file", "missing")],
            &[TOKEN],
            0o600,
            "missing",
        ),
        (
            &[
                ("control.max_batch", "10"),
                ("control.idempotency_receipts", "9"),
            ],
            &[TOKEN],
            0o600,
            "idempotency_receipts",
        ),
        (
            &[("server.allowed_hosts", "a:80")],
            &[TOKEN],
            0o600,
            "server.allowed_hosts",
        ),
    ] {
        let error = fault(set, tokens, mode);
        assert!(error.contains(named), "{named}: {error}");
        assert!(!error.contains("canary"), "{error}");
    }
}

#[tokio::test]
async fn t72_slow_and_many_requests_do_not_hold_the_door() {
    let setup = setup().set("control.timeout", "300ms");
    let server = setup.set("control.max_connections", "2").start();
    let door = door(&server);
    let bearer = format!("Authorization: Bearer {TOKEN}");
    // Heads that never end hold all places, until they have had their time.
    let mut slow: Vec<TcpStream> = (0..6)
        .map(|_| {
            let mut stream = TcpStream::connect(&door).unwrap();
            stream
                .write_all(b"GET /live HTTP/1.1\r\nHost: local")
                .unwrap();
            stream.set_read_timeout(Some(PATIENCE)).unwrap();
            stream
        })
        .collect();
    let status = request(&door, "GET /v1/status", &["Host: localhost", &bearer], "").0;
    assert_eq!(status, 200);
    for stream in &mut slow {
        let mut rest = Vec::new();
        let _ = stream.read_to_end(&mut rest);
    }
    // A body that never ends is given up, and told so.
    let head =
        format!("POST /v1/send HTTP/1.1\r\nHost: localhost\r\n{bearer}\r\nConnection: close\r\n");
    let (status, _, answer) = raw(&door, &format!("{head}Content-Length: 100\r\n\r\n{{"));
    assert_eq!(status, 408, "{answer}");
    assert!(answer.contains("control.timeout"), "{answer}");
    // So is a stream whose next line never ends; the ones before it were sent.
    let line = json!({ "to": { "all": true }, "text": "x" }).to_string();
    let begin = format!("{line}\n\n{{");
    let chunk = format!("{:x}\r\n{begin}\r\n", begin.len());
    let kind = "Content-Type: application/x-ndjson\r\nTransfer-Encoding: chunked";
    let (status, _, answer) = raw(&door, &format!("{head}{kind}\r\n\r\n{chunk}"));
    assert_eq!(status, 200, "{answer}");
    assert!(answer.contains("\"connections\":0"), "{answer}");
    assert!(
        answer.contains("no line came in control.timeout"),
        "{answer}"
    );
    assert_eq!(server.figure("pushes.accepted"), 1);
    // A head without an end, as fast as it may.
    let mut stream = TcpStream::connect(&door).unwrap();
    let mut refused = false;
    let line = format!("X-Filler: {}\r\n", "x".repeat(8000));
    let _ = stream.write_all(b"GET /live HTTP/1.1\r\n");
    for _ in 0..100 {
        refused |= stream.write_all(line.as_bytes()).is_err();
    }
    let mut answer = Vec::new();
    let _ = stream.read_to_end(&mut answer);
    let answer = String::from_utf8_lossy(&answer);
    assert!(refused || answer.starts_with("HTTP/1.1 431"), "{answer}");
    assert_eq!(server.control("GET", "/live", "").0, 200);
    server.finish();
}

#[tokio::test]
async fn requests_beyond_the_rate_are_told_when_to_come_again() {
    let server = setup().set("control.rate", "3").start();
    let door = door(&server);
    let bearer = format!("Authorization: Bearer {TOKEN}");
    let get = || {
        request(
            &door,
            "GET /v1/connections",
            &["Host: localhost", &bearer],
            "",
        )
    };
    let mut answers: Vec<_> = (0..12).map(|_| get()).collect();
    let refused = answers.extract_if(.., |answer| answer.0 == 429);
    let refused: Vec<_> = refused.collect();
    assert!(!refused.is_empty() && answers.len() >= 3);
    for (_, head, body) in &refused {
        assert!(head.contains("retry-after: 1\r\n"), "{head}");
        assert!(body.contains("control.rate"), "{body}");
    }
    assert!(answers.iter().all(|answer| answer.0 == 200));
    // The other door has its own, and whether the server lives is always said.
    assert_eq!(server.control("GET", "/v1/connections", "").0, 200);
    assert_eq!(request(&door, "GET /live", &["Host: localhost"], "").0, 200);
    eventually("there is room for a look", || {
        let (status, answer) = server.control("GET", "/v1/status", "");
        status == 200 && {
            let status: Value = serde_json::from_str(&answer).unwrap();
            figure(&status, "control.refused_by.rate") >= refused.len() as u64
        }
    });
    // Those that look at the server after a test are more than three.
    server.kill();
}

#[tokio::test]
async fn every_error_has_its_status_and_says_what_is_wrong() {
    let setup = setup().set("control.max_body_size", "10KiB");
    let server = setup.set("limits.max_message_size", "100").start();
    let door = door(&server);
    let host = "Host: localhost";
    let bearer = format!("Authorization: Bearer {TOKEN}");
    let json_type = "Content-Type: application/json";
    let lines = "Content-Type: application/x-ndjson";
    let good = json!({ "to": { "all": true }, "text": "x" }).to_string();
    let long = json!({ "to": { "all": true }, "text": "x".repeat(101) }).to_string();
    let huge = json!({ "to": { "all": true }, "text": "x".repeat(20_000) }).to_string();
    let keyed = "Idempotency-Key: k";
    let request = |line: &str, headers: &[&str], body: &str| {
        let (status, _, answer) = request(&door, line, headers, body);
        (status, answer)
    };
    assert_eq!(
        request("POST /v1/send", &[host, &bearer, keyed], &good).0,
        200
    );
    let other = json!({ "to": { "all": true }, "text": "y" }).to_string();
    for (line, headers, body, status, named) in [
        ("POST /v1/send", &[host, &bearer][..], "{", 400, "EOF"),
        (
            "POST /v1/send",
            &[host, &bearer],
            "{\"to\":{\"al\":true}}",
            400,
            "to.al",
        ),
        (
            "POST /v1/send",
            &[host, &bearer],
            "\u{feff}{}",
            400,
            "expected",
        ),
        (
            "POST /v1/run",
            &[host, &bearer],
            "{\"to\":{\"all\":true},\"uri\":\"x\"}",
            400,
            "uri",
        ),
        ("DELETE /v1/users/a%20b", &[host, &bearer], "", 400, "user"),
        (
            "DELETE /v1/users/a?code=1",
            &[host, &bearer],
            "",
            400,
            "code",
        ),
        ("POST /v1/send", &[host], &good, 401, "token"),
        (
            "POST /v1/send",
            &[host, &bearer, "Origin: null"],
            &good,
            403,
            "browser",
        ),
        ("GET /v1/nothing", &[host, &bearer], "", 404, "no such"),
        ("PUT /v1/send", &[host, &bearer], &good, 405, "method"),
        ("GET /v1/send", &[host, &bearer], "", 405, "method"),
        (
            "POST /v1/send",
            &[host, &bearer, json_type],
            &long,
            413,
            "limits.max_message_size",
        ),
        (
            "POST /v1/send",
            &[host, &bearer],
            &huge,
            413,
            "control.max_body_size",
        ),
        ("POST /v1/run", &[host, &bearer, lines], &good, 415, "lines"),
        (
            "POST /v1/send",
            &[host, &bearer, "Content-Encoding: gzip"],
            &good,
            415,
            "Content-Encoding",
        ),
        (
            "POST /v1/send",
            &["Host: evil", &bearer],
            &good,
            421,
            "control.allowed_hosts",
        ),
        ("POST /v1/send", &[host, &bearer, keyed], &other, 422, "key"),
    ] {
        let (answered, answer) = request(line, headers, body);
        assert_eq!(answered, status, "{line} {headers:?} {body}: {answer}");
        let answer: Value = serde_json::from_str(&answer).unwrap();
        let error = answer["error"].as_str().unwrap();
        assert!(error.contains(named), "{line} {named}: {error}");
    }
    server.finish();
}

//! What a callback is given: the variables, the payload, the request.

use std::collections::BTreeMap;
use std::io::{Read, Write};

use futures_util::SinkExt;
use tokio_tungstenite::tungstenite::Message;

use super::installed;
use crate::support::*;

/// Prints the environment that the program was started with, before a shell adds to it.
const PRINT_ENVIRONMENT: &str = "cat /proc/$$/environ; :";

/// Prints what the message asks for, then the message.
const PRINT_REQUEST: &str = r#"printf '%s\n' "$REQUEST_METHOD" "$REQUEST_URI" "$PATH_INFO" "$QUERY_STRING" "$CONTENT_LENGTH" "$WS_MESSAGE_TYPE" "$WS_MESSAGE_ID"
cat"#;

fn variables(environment: &str) -> BTreeMap<String, String> {
    let pairs = environment
        .split_terminator('\0')
        .map(|pair| pair.split_once('=').unwrap());
    let variables: Vec<_> = pairs
        .map(|(name, value)| (name.to_owned(), value.to_owned()))
        .collect();
    let count = variables.len();
    let variables = BTreeMap::from_iter(variables);
    assert_eq!(variables.len(), count, "no variable comes twice");
    variables
}

#[tokio::test]
async fn t50_environment_is_the_contract_and_nothing_else() {
    let server = Setup::new()
        .env("SECRET_OF_THE_SERVER", "1")
        .env("BASH_ENV", "/nowhere")
        .env("ENV", "/nowhere")
        .env("IFS", "x")
        .env("http_proxy", "http://127.0.0.1:9")
        .env("WS_USER_ID", "forged")
        .app(PRINT_ENVIRONMENT)
        .start();
    let headers = [
        ("Cookie", "theme=dark; a=b"),
        ("X-Real-Ip", "1.2.3.4"),
        ("X_Real_Ip", "6.6.6.6"),
        ("Proxy", "http://evil.example/"),
        ("Accept-Language", "de"),
        ("PATH", "/evil"),
        ("LD_PRELOAD", "/evil.so"),
        ("BASH_ENV", "/evil"),
        ("IFS", "/"),
    ];
    let mut client = server
        .connect_with("/a%20b?q=1%202", &headers)
        .await
        .unwrap();
    let variables = variables(&ask(&mut client, "hello").await);
    let connection = &server.connections()[0];
    let text = |name: &str| connection[name].as_str().unwrap().to_owned();
    let (id, ip, session) = (text("id"), text("ip"), text("session"));
    let port = connection["port"].to_string();
    let server_port = server.addr.port().to_string();
    let host = server.addr.to_string();
    let fifo_dir = server.state("fifo").canonicalize().unwrap();
    let expected = [
        ("PATH", "/usr/local/bin:/usr/bin:/bin"),
        ("GATEWAY_INTERFACE", "CGI/1.1"),
        ("SERVER_NAME", "127.0.0.1"),
        ("SERVER_PORT", &server_port),
        ("SERVER_PROTOCOL", "HTTP/1.1"),
        ("REQUEST_METHOD", "POST"),
        ("REQUEST_URI", "/a%20b?q=1%202"),
        ("SCRIPT_NAME", ""),
        ("PATH_INFO", "/a b"),
        ("QUERY_STRING", "q=1%202"),
        ("CONTENT_LENGTH", "5"),
        ("REMOTE_ADDR", &ip),
        ("REMOTE_PORT", &port),
        ("REMOTE_USER", &session),
        ("WS_EVENT", "message"),
        ("WS_CONNECTION_ID", &id),
        ("WS_SESSION_ID", &session),
        ("WS_USER_ID", &session),
        ("WS_MESSAGE_ID", "1"),
        ("WS_MESSAGE_TYPE", "text"),
        ("WS_SOURCE", "client"),
        ("HTTP_HOST", &host),
        ("HTTP_COOKIE", "theme=dark; a=b"),
        ("HTTP_X_REAL_IP", "1.2.3.4"),
        ("HTTP_ACCEPT_LANGUAGE", "de"),
        ("HTTP_CONNECTION", "Upgrade"),
        ("HTTP_UPGRADE", "websocket"),
        ("HTTP_SEC_WEBSOCKET_VERSION", "13"),
        // Headers with the names of variables are headers.
        ("HTTP_PATH", "/evil"),
        ("HTTP_IFS", "/"),
    ];
    for (name, value) in expected {
        assert_eq!(
            variables.get(name).map(String::as_str),
            Some(value),
            "{name}"
        );
    }
    let path = |name: &str| {
        std::path::Path::new(&variables[name])
            .canonicalize()
            .unwrap()
    };
    assert_eq!(
        path("WS_CONTROL_SOCKET"),
        server.state("control.sock").canonicalize().unwrap()
    );
    assert_eq!(path("WS_GLOBAL_FIFO"), fifo_dir.join("global_pipe.fifo"));
    assert_eq!(
        path("WS_FIFO"),
        fifo_dir.join(format!("{session}:{ip}:{port}.fifo"))
    );
    assert!(variables["SERVER_SOFTWARE"].starts_with("ws/"));
    let trace: Vec<usize> = variables["TRACEPARENT"].split('-').map(str::len).collect();
    assert_eq!(trace, [2, 32, 16, 2]);
    let further = [
        "SERVER_SOFTWARE",
        "TRACEPARENT",
        "WS_CONTROL_SOCKET",
        "WS_FIFO",
        "WS_GLOBAL_FIFO",
        "WS_JOB",
        "HTTP_SEC_WEBSOCKET_KEY",
    ];
    for name in variables.keys() {
        let is_known =
            further.contains(&&**name) || expected.iter().any(|(known, _)| known == name);
        assert!(is_known, "{name} is not of the contract");
    }
    bye(client).await;
    server.finish();
}

#[tokio::test]
async fn configured_variables_are_added_and_replace_others() {
    let setup = Setup::new();
    let config = "[app.env]\nPATH = \"/opt/bin:/usr/bin:/bin\"\nAPP_MODE = \"test $HOME\"\n";
    let config = setup.script("ws.toml", config);
    let server = setup
        .arg("--config")
        .arg(config.to_str().unwrap())
        .app(PRINT_ENVIRONMENT)
        .start();
    let mut client = server.connect().await;
    let variables = variables(&ask(&mut client, "hello").await);
    assert_eq!(variables["PATH"], "/opt/bin:/usr/bin:/bin");
    assert_eq!(variables["APP_MODE"], "test $HOME");
    bye(client).await;
    server.finish();
}

#[tokio::test]
async fn t52_t53_a_uri_is_a_get_of_it_and_anything_else_a_post_to_the_handshakes() {
    let server = Setup::new().app(PRINT_REQUEST).start();
    let mut client = server.connect_with("/room/1?k=v", &[]).await.unwrap();
    let longest = format!("/{}", "a".repeat(8 * 1024 - 1));
    let too_long = format!("{longest}a");
    let get = |path: &'static str, query: &'static str| Some((path.to_owned(), query));
    let table = [
        ("/", get("/", "")),
        ("/a%20b/%C3%A9?x=1%202&y", get("/a b/é", "x=1%202&y")),
        ("/--help", get("/--help", "")),
        ("/$(id)", get("/$(id)", "")),
        ("/;id", get("/;id", "")),
        ("/a%2f..", get("/a/..", "")),
        ("/../../etc/passwd", get("/../../etc/passwd", "")),
        ("/50%", get("/50%", "")),
        ("/a?b?c#d", get("/a", "b?c#d")),
        (&longest, Some((longest.clone(), ""))),
        (&too_long, None),
        ("hello", None),
        ("--help", None),
        ("-rf", None),
        ("$(id)", None),
        (";id", None),
        ("`id`", None),
        ("/a%00b", None),
        ("/a%0aX", None),
        ("/a\nX", None),
        ("/a\0X", None),
        ("/%7f", None),
        ("//evil/", None),
        ("http://evil/", None),
        (" /a", None),
        // B11: what happens to be JSON is a message like any other.
        ("123", None),
        (r#"{"a": [1, null]}"#, None),
        ("\"/a\"", None),
    ];
    for (id, (message, get)) in (1..).zip(table) {
        let (method, uri, (path, query)) = match get {
            Some(get) => ("GET", message, get),
            None => ("POST", "/room/1?k=v", ("/room/1".to_owned(), "k=v")),
        };
        let length = message.len();
        let expected = format!("{method}\n{uri}\n{path}\n{query}\n{length}\ntext\n{id}\n{message}");
        assert_eq!(ask(&mut client, message).await, expected, "{message:?}");
    }
    client.send(Message::binary("/binary")).await.unwrap();
    let answer = hear(&mut client).await;
    assert!(
        answer.starts_with("POST\n/room/1?k=v\n/room/1\nk=v\n7\nbinary\n"),
        "{answer}"
    );
    bye(client).await;
    server.finish();
}

#[tokio::test]
async fn variables_hold_bytes_that_are_not_utf8() {
    let server = Setup::new()
        .app(r#"printf '%s' "$PATH_INFO$HTTP_X_LATIN""#)
        .start();
    let mut stream = server.raw_stream();
    stream
        .write_all(
            b"GET / HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
              Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nX-Latin: \xe9\r\n\r\n",
        )
        .unwrap();
    let mut head = [0; 1];
    let mut seen = Vec::new();
    while !seen.ends_with(b"\r\n\r\n") {
        stream.read_exact(&mut head).unwrap();
        seen.extend(head);
    }
    // The text message `/%fc` under a mask of zeros.
    stream.write_all(b"\x81\x84\0\0\0\0/%fc").unwrap();
    let mut reply = [0; 5];
    stream.read_exact(&mut reply).unwrap();
    assert_eq!(reply, *b"\x82\x03/\xfc\xe9");
    drop(stream);
    server.finish();
}

#[tokio::test]
async fn payload_arrives_byte_for_byte() {
    let server = Setup::new()
        .set("app.trim", "none")
        .command(&["cat"])
        .start();
    let mut client = server.connect().await;
    for text in ["a\0b\r\n\n", " ü \u{10ffff} ", "$(id) `id` \\ ' \" %s"] {
        assert_eq!(ask(&mut client, text).await, text);
    }
    let every_byte: Vec<u8> = (0..=255).chain([0, 0, b'\n']).collect();
    let large: Vec<u8> = (0..1024 * 1024_u32)
        .map(|n| (n.wrapping_mul(2_654_435_761) >> 13) as u8)
        .collect();
    for bytes in [every_byte, large] {
        client.send(Message::binary(bytes.clone())).await.unwrap();
        assert!(next(&mut client).await == Message::binary(bytes));
    }
    let large = "é".repeat(512 * 1024);
    assert!(ask(&mut client, &large).await == large);
    bye(client).await;
    server.finish();
}

#[tokio::test]
async fn program_that_reads_nothing_of_a_large_payload_answers_all_the_same() {
    let server = Setup::new().app("echo $CONTENT_LENGTH").start();
    let mut client = server.connect().await;
    assert_eq!(ask(&mut client, &"x".repeat(1024 * 1024)).await, "1048576");
    bye(client).await;
    server.finish();
}

#[tokio::test]
async fn python_is_an_application() {
    if installed("python3").is_none() {
        return;
    }
    let script = r#"#!/usr/bin/env python3
import os, sys
message = sys.stdin.buffer.read()
sys.stdout.write(f"{os.environ['REQUEST_METHOD']} {os.environ['PATH_INFO']} {message.decode()[::-1]}\n")
"#;
    let server = Setup::new().app_file("app.py", script).start();
    let mut client = server.connect_with("/py", &[]).await.unwrap();
    assert_eq!(ask(&mut client, "häé").await, "POST /py éäh");
    assert_eq!(ask(&mut client, "/ab").await, "GET /ab ba/");
    bye(client).await;
    server.finish();
}

#[tokio::test]
async fn php_is_an_application() {
    if installed("php").is_none() {
        return;
    }
    let script = r#"#!/usr/bin/env php
<?php
$message = file_get_contents('php://stdin');
echo $_SERVER['REQUEST_METHOD'], ' ', getenv('PATH_INFO'), ' ', $_SERVER['HTTP_COOKIE'] ?? '', ' ', strrev($message), "\n";
"#;
    let server = Setup::new().app_file("app.php", script).start();
    let headers = [("Cookie", "PHPSESSID=abc")];
    let mut client = server.connect_with("/php", &headers).await.unwrap();
    assert_eq!(ask(&mut client, "abc").await, "POST /php PHPSESSID=abc cba");
    assert_eq!(ask(&mut client, "/ab").await, "GET /ab PHPSESSID=abc ba/");
    bye(client).await;
    server.finish();
}

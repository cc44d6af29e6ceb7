//! What a proxy says about its visitors, and who is believed.

use crate::support::{Server, Setup};
use crate::wire::Wire;

const WHO: &str = r#"#!/bin/sh
printf '%s %s %s' "$REMOTE_ADDR" "${REMOTE_PORT:+port}" "$HTTPS"
"#;

fn server(trusted: &str) -> Server {
    Setup::new()
        .set("server.proxy.trusted", trusted)
        .app(WHO)
        .start()
}

/// What the callback learns of a visitor that comes with these headers.
fn who(server: &Server, lines: &[&str]) -> String {
    let (mut wire, response) = Wire::over(server.raw_stream(), lines);
    assert_eq!(response.status, 101);
    wire.say("/who");
    let said = wire.hear();
    wire.bye();
    said
}

#[test]
fn t03_address_and_scheme_are_those_of_the_visitor_behind_a_trusted_proxy() {
    let server = server("127.0.0.0/8,10.0.0.0/8");
    assert_eq!(who(&server, &[]), "127.0.0.1 port ");
    let lines = ["X-Forwarded-For: 6.6.6.6, 1.2.3.4, 10.0.0.9"];
    assert_eq!(who(&server, &lines), "1.2.3.4  ");
    let lines = [
        "Forwarded: for=\"[2001:db8::1]\"",
        "X-Forwarded-Proto: https",
    ];
    assert_eq!(who(&server, &lines), "2001:db8::1  on");
    let lines = ["Forwarded: for=1.2.3.4;proto=https"];
    assert_eq!(who(&server, &lines), "1.2.3.4  on");
    assert_eq!(server.figure("sockets.forwarded_garbled"), 0);
    // A visitor on the proxy's own host: its port is not the one that the proxy came from.
    let lines = ["X-Forwarded-For: 127.0.0.1"];
    assert_eq!(who(&server, &lines), "127.0.0.1  ");
    let lines = ["Forwarded: for=\"127.0.0.1:4711\""];
    assert_eq!(who(&server, &lines), "127.0.0.1 port ");
    assert_eq!(
        who(&server, &["X-Forwarded-For: unknown"]),
        "127.0.0.1 port "
    );
    assert_eq!(server.figure("sockets.forwarded_garbled"), 1);
    server.finish();
}

#[test]
fn t03_address_is_the_peer_s_if_the_peer_is_not_trusted() {
    let server = server("10.0.0.0/8,unix");
    let lines = ["X-Forwarded-For: 1.2.3.4", "X-Forwarded-Proto: https"];
    assert_eq!(who(&server, &lines), "127.0.0.1 port ");
    server.finish();

    // Nor is a neighbour of the one that is.
    let server = self::server("127.0.0.1");
    let of = |stream| {
        let (mut wire, _) = Wire::over(stream, &lines);
        wire.say("/who");
        let said = wire.hear();
        wire.bye();
        said
    };
    let neighbour = server.raw_stream_from([127, 0, 0, 2]);
    assert_eq!(of(neighbour), "127.0.0.2 port ");
    assert_eq!(of(server.raw_stream()), "1.2.3.4  on");
    server.finish();
}

#[test]
fn t03_list_and_fifo_name_the_visitor_and_the_cookie_is_secure_over_https() {
    let server = Setup::new()
        .set("server.proxy.trusted", "127.0.0.1")
        .arg("--echo")
        .start();
    let lines = ["X-Forwarded-For: 1.2.3.4", "X-Forwarded-Proto: https"];
    let (wire, response) = Wire::over(server.raw_stream(), &lines);
    let cookie = response.header("Set-Cookie").unwrap();
    assert!(cookie.contains("Secure"), "{cookie}");
    let connections = server.connections();
    assert_eq!(connections[0]["ip"], "1.2.3.4");
    assert!(connections[0]["port"].is_null());
    let fifo = connections[0]["fifo"].as_str().unwrap();
    assert!(fifo.contains(":1.2.3.4:"), "{fifo}");
    wire.bye();
    server.finish();
}

#[test]
fn t03_session_is_bound_to_the_visitor_s_address_not_to_the_proxy_s() {
    let server = Setup::new()
        .set("server.proxy.trusted", "127.0.0.1")
        .arg("--echo")
        .start();
    let connect = |address: &str, cookie: Option<&str>| {
        let forwarded = format!("X-Forwarded-For: {address}");
        let cookie = cookie.map(|cookie| format!("Cookie: {cookie}"));
        let lines = [Some(forwarded.as_str()), cookie.as_deref()];
        let lines: Vec<&str> = lines.into_iter().flatten().collect();
        let (wire, response) = Wire::over(server.raw_stream(), &lines);
        wire.bye();
        let issued = response.header("Set-Cookie");
        issued.map(|value| value.split(';').next().unwrap_or_default().to_owned())
    };
    let cookie = connect("1.2.3.4", None).unwrap();
    assert_eq!(connect("1.2.3.4", Some(&cookie)), None);
    let other = connect("5.6.7.8", Some(&cookie));
    assert!(other.is_some_and(|other| other != cookie));
    server.finish();
}

#[test]
fn wrong_peer_is_named_with_its_path() {
    let output = Setup::new()
        .set("server.proxy.trusted", "10.0.0.1/8")
        .arg("--echo")
        .fail();
    assert_eq!(output.status.code(), Some(78));
    let text = String::from_utf8_lossy(&output.stderr);
    let path = "server.proxy.trusted";
    assert!(text.contains(path) && text.contains("10.0.0.1/8"), "{text}");
}

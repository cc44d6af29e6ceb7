//! Binding TCP ports.

use std::net::{Ipv6Addr, TcpListener, TcpStream};
use std::time::Duration;

use rustix::net::sockopt;
use ws_transport::{BindError, BindOptions};

use crate::{bind, bind_with, port};

/// Some containers have no IPv6.
fn has_ipv6() -> bool {
    TcpListener::bind((Ipv6Addr::LOCALHOST, 0)).is_ok()
}

#[tokio::test]
async fn port_0_becomes_a_real_port_in_the_url() {
    let listener = bind("127.0.0.1:0").unwrap();
    assert_ne!(port(&listener), 0);
    assert_eq!(
        listener.url(),
        format!("ws://127.0.0.1:{}/", port(&listener))
    );
    assert_eq!(
        listener.local_addr().to_string(),
        format!("127.0.0.1:{}", port(&listener))
    );
    TcpStream::connect(("127.0.0.1", port(&listener))).unwrap();
}

#[tokio::test]
async fn what_the_url_says_can_be_listened_on() {
    let first = bind("127.0.0.1:0").unwrap();
    let url = first.url();
    drop(first);
    assert_eq!(bind(&url).unwrap().url(), url);
}

#[tokio::test]
async fn a_host_name_is_resolved() {
    let listener = bind("localhost:0").unwrap();
    assert!(listener.local_addr().ip().unwrap().is_loopback());
    let client = TcpStream::connect(("localhost", port(&listener))).unwrap();
    let accepted = listener.accept().await.unwrap();
    assert_eq!(
        accepted.peer.port(),
        Some(client.local_addr().unwrap().port())
    );
}

#[tokio::test]
async fn an_unknown_host_is_no_failure_to_create() {
    // RFC 2606 §2: the name never exists.
    let error = bind("host.invalid:0").unwrap_err();
    assert!(matches!(&error, BindError::Resolve { host, .. } if host == "host.invalid"));
    assert!(
        error
            .to_string()
            .starts_with("cannot resolve host.invalid: "),
        "{error}"
    );
    assert!(!error.is_cannot_create());
}

#[tokio::test]
async fn an_ipv6_address_is_bracketed() {
    if !has_ipv6() {
        return;
    }
    let listener = bind("[::1]:0").unwrap();
    assert_eq!(listener.url(), format!("ws://[::1]:{}/", port(&listener)));
    let client = TcpStream::connect(("::1", port(&listener))).unwrap();
    let accepted = listener.accept().await.unwrap();
    assert_eq!(
        accepted.peer.to_string(),
        client.local_addr().unwrap().to_string()
    );
}

#[tokio::test]
async fn an_ipv4_peer_of_an_ipv6_listener_has_its_ipv4_address() {
    if !has_ipv6() {
        return;
    }
    let listener = bind("[::]:0").unwrap();
    if TcpStream::connect(("127.0.0.1", port(&listener))).is_err() {
        return; // net.ipv6.bindv6only is set.
    }
    let accepted = listener.accept().await.unwrap();
    assert_eq!(accepted.peer.ip(), Some("127.0.0.1".parse().unwrap()));
    assert_eq!(accepted.local.ip(), Some("127.0.0.1".parse().unwrap()));
}

#[tokio::test]
async fn a_taken_port_is_named_in_the_error() {
    let first = bind("127.0.0.1:0").unwrap();
    let addr = format!("127.0.0.1:{}", port(&first));
    let error = bind(&addr).unwrap_err();
    assert_eq!(
        error.to_string(),
        format!("cannot listen on {addr}: address already in use")
    );
    assert!(error.is_cannot_create() && error.is_in_use());
}

#[tokio::test]
async fn a_taken_port_is_not_evaded_on_another_address_of_the_host() {
    let first = bind("127.0.0.1:0").unwrap();
    let error = bind(&format!("localhost:{}", port(&first))).unwrap_err();
    assert!(error.is_in_use(), "{error}");
}

#[tokio::test]
async fn auto_port_takes_the_next_free_one() {
    let options = BindOptions {
        auto_port: true,
        ..BindOptions::default()
    };
    let first = bind("127.0.0.1:0").unwrap();
    let second = bind_with(&format!("127.0.0.1:{}", port(&first)), &options).unwrap();
    let distance = port(&second).checked_sub(port(&first)).unwrap();
    assert!((1..=1000).contains(&distance), "{distance}");
}

#[tokio::test]
async fn auto_port_ends_at_the_last_port() {
    let Ok(_first) = bind("127.0.0.1:65535") else {
        return; // Somebody else has it.
    };
    let options = BindOptions {
        auto_port: true,
        ..BindOptions::default()
    };
    let error = bind_with("127.0.0.1:65535", &options).unwrap_err();
    assert!(
        matches!(error, BindError::NoFreePort { last: 65535, .. }),
        "{error}"
    );
    assert!(error.is_cannot_create() && error.is_in_use());
}

#[tokio::test]
async fn auto_port_does_not_hide_another_failure() {
    let options = BindOptions {
        auto_port: true,
        ..BindOptions::default()
    };
    // RFC 5737 §3: no host has this address.
    let error = bind_with("192.0.2.1:1024", &options).unwrap_err();
    assert!(
        error
            .to_string()
            .starts_with("cannot listen on 192.0.2.1:1024: "),
        "{error}"
    );
    assert!(error.is_cannot_create() && !error.is_in_use());
}

#[tokio::test]
async fn a_port_is_free_again_at_once_after_its_connections_closed() {
    let listener = bind("127.0.0.1:0").unwrap();
    let addr = format!("127.0.0.1:{}", port(&listener));
    let client = TcpStream::connect(&addr).unwrap();
    // Closed by us first, so our side is the one that goes to TIME_WAIT.
    drop(listener.accept().await.unwrap());
    drop(client);
    drop(listener);
    bind(&addr).unwrap();
}

#[tokio::test]
async fn accepted_sockets_send_without_delay() {
    let listener = bind("127.0.0.1:0").unwrap();
    let _client = TcpStream::connect(("127.0.0.1", port(&listener))).unwrap();
    let stream = listener.accept().await.unwrap().socket.register().unwrap();
    assert!(sockopt::tcp_nodelay(&stream).unwrap());
}

#[tokio::test]
async fn listeners_that_agree_share_a_port() {
    let options = BindOptions {
        reuse_port: true,
        ..BindOptions::default()
    };
    let first = bind_with("127.0.0.1:0", &options).unwrap();
    let addr = format!("127.0.0.1:{}", port(&first));
    let _second = bind_with(&addr, &options).unwrap();
    assert!(bind(&addr).unwrap_err().is_in_use());
}

#[tokio::test]
async fn t33_accepted_sockets_give_up_on_a_silent_peer() {
    let options = BindOptions {
        user_timeout: Some(Duration::from_secs(20)),
        ..BindOptions::default()
    };
    let listener = bind_with("127.0.0.1:0", &options).unwrap();
    let _client = TcpStream::connect(("127.0.0.1", port(&listener))).unwrap();
    let stream = listener
        .accept()
        .await
        .unwrap()
        .open()
        .await
        .unwrap()
        .stream;
    assert_eq!(sockopt::tcp_user_timeout(&stream).unwrap(), 20_000);
}

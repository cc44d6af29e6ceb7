//! Accepting, and passing on what was accepted.

use std::future::Future;
use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::pin::pin;
use std::task::{Context, Poll, Waker};

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use ws_transport::{AcceptFailure, Incoming};

use crate::{bind, port};

#[tokio::test]
async fn a_socket_is_registered_on_the_thread_that_will_own_it() {
    let listener = bind("127.0.0.1:0").unwrap();
    let mut client = TcpStream::connect(("127.0.0.1", port(&listener))).unwrap();
    client.write_all(b"ping").unwrap();
    let incoming: Incoming = listener.accept().await.unwrap().socket;
    assert_eq!(
        incoming.peer_addr().port(),
        Some(client.local_addr().unwrap().port())
    );

    let worker = std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_io()
            .build()
            .unwrap();
        runtime.block_on(async move {
            let stream = incoming.register().unwrap();
            stream.readable().await.unwrap();
            let mut buffer = [0; 16];
            let count = stream.try_read(&mut buffer).unwrap();
            stream.try_write(&buffer[..count]).unwrap();
        });
    });
    let mut text = String::new();
    client.read_to_string(&mut text).unwrap();
    worker.join().unwrap();
    assert_eq!(text, "ping");
}

#[tokio::test]
async fn a_dropped_accept_loses_no_connection() {
    let listener = bind("127.0.0.1:0").unwrap();
    for _ in 0..10 {
        {
            let accept = pin!(listener.accept());
            let mut cx = Context::from_waker(Waker::noop());
            assert!(matches!(accept.poll(&mut cx), Poll::Pending));
        }
        let client = TcpStream::connect(("127.0.0.1", port(&listener))).unwrap();
        let accepted = listener.accept().await.unwrap();
        assert_eq!(
            accepted.peer.port(),
            Some(client.local_addr().unwrap().port())
        );
    }
}

#[tokio::test]
async fn a_peer_that_is_gone_already_does_not_disturb_the_next() {
    let listener = bind("127.0.0.1:0").unwrap();
    let gone = TcpStream::connect(("127.0.0.1", port(&listener))).unwrap();
    rustix::net::sockopt::set_socket_linger(&gone, Some(std::time::Duration::ZERO)).unwrap();
    drop(gone); // Sends a reset.
    let client = TcpStream::connect(("127.0.0.1", port(&listener))).unwrap();
    let wanted = client.local_addr().unwrap().port();
    loop {
        match listener.accept().await {
            Ok(accepted) if accepted.peer.port() == Some(wanted) => break,
            Ok(_gone) => {}
            Err(error) => assert_eq!(AcceptFailure::of(&error), AcceptFailure::Passing, "{error}"),
        }
    }
}

/// Lowers the limit of descriptors of the whole process for a moment, so it runs in a process of
/// its own: it is started again by itself.
#[test]
fn t32_accept_outlives_the_exhaustion_of_descriptors() {
    const CHILD: &str = "WS_TRANSPORT_TEST_EXHAUSTION";
    if std::env::var_os(CHILD).is_none() {
        let status = std::process::Command::new(std::env::current_exe().unwrap())
            .args([
                "--exact",
                "accept::t32_accept_outlives_the_exhaustion_of_descriptors",
            ])
            .env(CHILD, "1")
            .status()
            .unwrap();
        assert!(status.success());
        return;
    }
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_io()
        .build()
        .unwrap();
    runtime.block_on(async {
        let listener = bind("127.0.0.1:0").unwrap();
        let client = TcpStream::connect(("127.0.0.1", port(&listener))).unwrap();

        let before = getrlimit(Resource::Nofile);
        setrlimit(
            Resource::Nofile,
            Rlimit {
                current: Some(0),
                ..before
            },
        )
        .unwrap();
        for _ in 0..3 {
            let error = listener.accept().await.unwrap_err();
            assert_eq!(
                AcceptFailure::of(&error),
                AcceptFailure::Exhausted,
                "{error}"
            );
        }
        setrlimit(Resource::Nofile, before).unwrap();

        let accepted = listener.accept().await.unwrap();
        assert_eq!(
            accepted.peer.port(),
            Some(client.local_addr().unwrap().port())
        );
    });
}

//! Reading and writing.

use std::io::{ErrorKind, IoSlice, Read as _, Write as _};
use std::net::TcpStream;
use std::os::unix::net::UnixStream;

use proptest::prelude::*;
use rustls::version::{TLS12, TLS13};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use ws_transport::{BindOptions, Stream};

use crate::secure::tls_pair;
use crate::{bind, bind_unix, port};

async fn tcp_pair() -> (TcpStream, Stream) {
    let listener = bind("127.0.0.1:0").expect("a port is free");
    let client = TcpStream::connect(("127.0.0.1", port(&listener))).expect("somebody listens");
    let accepted = listener.accept().await.expect("a client is waiting");
    (
        client,
        accepted.socket.register().expect("a runtime is running"),
    )
}

async fn unix_pair() -> (UnixStream, Stream) {
    let dir = tempfile::tempdir().expect("the temporary directory is writable");
    let path = dir.path().join("ws.sock");
    let listener = bind_unix(&path, &BindOptions::default()).expect("the path is free");
    let client = UnixStream::connect(&path).expect("somebody listens");
    let accepted = listener.accept().await.expect("a client is waiting");
    (
        client,
        accepted.socket.register().expect("a runtime is running"),
    )
}

#[tokio::test]
async fn an_idle_stream_would_block() {
    let (_client, stream) = tcp_pair().await;
    stream.writable().await.unwrap();
    let error = stream.try_read(&mut [0; 16]).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::WouldBlock);
}

#[tokio::test]
async fn after_a_short_read_the_next_bytes_wake_the_reader_again() {
    let (mut client, stream) = tcp_pair().await;
    let mut buffer = [0; 16];
    for round in 0..100u8 {
        client.write_all(&[round]).unwrap();
        stream.readable().await.unwrap();
        assert_eq!(stream.try_read(&mut buffer).unwrap(), 1);
        assert_eq!(buffer[0], round);
        // The short read was remembered: nothing is attempted.
        assert_eq!(
            stream.try_read(&mut buffer).unwrap_err().kind(),
            ErrorKind::WouldBlock
        );
    }
}

#[tokio::test]
async fn a_full_read_leaves_the_rest_readable() {
    let (mut client, stream) = tcp_pair().await;
    client.write_all(b"abcdef").unwrap();
    let mut buffer = [0; 3];
    for expected in [b"abc", b"def"] {
        stream.readable().await.unwrap();
        assert_eq!(stream.try_read(&mut buffer).unwrap(), 3);
        assert_eq!(&buffer, expected);
    }
}

#[tokio::test]
async fn the_end_is_read_after_the_last_bytes_and_for_ever() {
    let (mut client, stream) = tcp_pair().await;
    client.write_all(b"last").unwrap();
    drop(client);
    let mut buffer = [0; 16];
    let mut read = Vec::new();
    loop {
        stream.readable().await.unwrap();
        match stream.try_read(&mut buffer) {
            Ok(0) => break,
            Ok(count) => read.extend_from_slice(&buffer[..count]),
            Err(error) => assert_eq!(error.kind(), ErrorKind::WouldBlock),
        }
    }
    assert_eq!(read, b"last");
    stream.readable().await.unwrap();
    assert_eq!(stream.try_read(&mut buffer).unwrap(), 0);
}

#[tokio::test]
async fn a_half_closed_stream_still_reads() {
    let (mut client, stream) = tcp_pair().await;
    stream.writable().await.unwrap();
    stream.try_write(b"bye").unwrap();
    stream.shutdown_write().unwrap();
    let mut text = String::new();
    client.read_to_string(&mut text).unwrap();
    assert_eq!(text, "bye");
    client.write_all(b"still here").unwrap();
    stream.readable().await.unwrap();
    assert_eq!(stream.try_read(&mut [0; 32]).unwrap(), 10);
}

#[tokio::test]
async fn writing_to_a_peer_that_is_gone_is_an_error_and_no_signal() {
    let (client, stream) = unix_pair().await;
    stream.writable().await.unwrap();
    drop(client);
    let error = stream.try_write(b"anybody?").unwrap_err();
    assert_eq!(error.kind(), ErrorKind::BrokenPipe);
    let error = stream
        .try_write_vectored(&[IoSlice::new(b"anybody?")])
        .unwrap_err();
    assert_eq!(error.kind(), ErrorKind::BrokenPipe);
}

#[tokio::test]
async fn more_pieces_than_the_system_takes_are_written_in_turns() {
    let (mut client, stream) = unix_pair().await;
    stream.writable().await.unwrap();
    let pieces = vec![IoSlice::new(b"x"); 1500];
    assert_eq!(stream.try_write_vectored(&pieces).unwrap(), 1024);
    assert_eq!(stream.try_write_vectored(&pieces[1024..]).unwrap(), 476);
    drop(stream);
    let mut text = String::new();
    client.read_to_string(&mut text).unwrap();
    assert_eq!(text.len(), 1500);
}

#[tokio::test]
async fn a_full_kernel_takes_no_more_until_the_peer_reads() {
    let (mut client, stream) = tcp_pair().await;
    stream.writable().await.unwrap();
    let chunk = vec![b'x'; 256 * 1024];
    let mut sent = 0;
    let error = loop {
        match stream.try_write(&chunk) {
            Ok(count) => sent += count,
            Err(error) => break error,
        }
    };
    assert_eq!(error.kind(), ErrorKind::WouldBlock);
    let reader = std::thread::spawn(move || {
        let mut read = Vec::new();
        client.read_to_end(&mut read).unwrap();
        read.len()
    });
    stream.writable().await.unwrap();
    sent += stream.try_write(&chunk).unwrap();
    drop(stream);
    assert_eq!(reader.join().unwrap(), sent);
}

#[tokio::test]
async fn a_stream_that_is_always_readable_does_not_starve_other_tasks() {
    let (client, stream) = tcp_pair().await;
    drop(client); // From now on the end can be read at any time.
    let other = tokio::spawn(async {});
    while !other.is_finished() {
        stream.readable().await.unwrap();
    }
}

#[tokio::test]
async fn libraries_read_and_write_it_as_any_other_stream() {
    let (mut client, mut stream) = tcp_pair().await;
    let message = vec![b'x'; 3_000_000];
    let sent = message.len();
    let peer = std::thread::spawn(move || {
        client.write_all(&message).unwrap();
        let mut text = String::new();
        client.read_to_string(&mut text).unwrap();
        text
    });
    let mut read = vec![0; sent];
    stream.read_exact(&mut read).await.unwrap();
    stream.write_all(b"got ").await.unwrap();
    let count = stream
        .write_vectored(&[IoSlice::new(b"it "), IoSlice::new(b"all")])
        .await
        .unwrap();
    stream.flush().await.unwrap();
    stream.shutdown().await.unwrap();
    assert_eq!(count, 6);
    assert_eq!(peer.join().unwrap(), "got it all");
}

/// Sends `message` in pieces of the given sizes, and reads it back with buffers of others.
async fn carry(
    mut client: impl std::io::Read + Send + 'static,
    stream: Stream,
    message: &[u8],
    cuts: &[usize],
) -> Vec<u8> {
    let peer = std::thread::spawn(move || {
        let mut read = Vec::new();
        client.read_to_end(&mut read).expect("the stream ends");
        read
    });
    let mut rest = message;
    let mut cuts = cuts.iter().copied().cycle();
    while !rest.is_empty() {
        let [first, second] = [(); 2].map(|()| cuts.next().expect("there are cuts"));
        let (a, tail) = rest.split_at(first.min(rest.len()));
        let pieces = [
            IoSlice::new(a),
            IoSlice::new(&tail[..second.min(tail.len())]),
        ];
        match stream.try_write_vectored(&pieces) {
            Ok(count) => rest = &rest[count..],
            Err(error) if error.kind() == ErrorKind::WouldBlock => {
                stream.writable().await.expect("the runtime is running");
            }
            Err(error) => panic!("{error}"),
        }
    }
    stream.shutdown_write().expect("the peer is there");
    while !stream.is_flushed() {
        stream.writable().await.expect("the runtime is running");
        match stream.try_flush() {
            Err(error) if error.kind() == ErrorKind::WouldBlock => {}
            result => result.expect("the peer is there"),
        }
    }
    drop(stream);
    peer.join().expect("the peer does not panic")
}

/// Has the peer send `message`, and reads it with buffers of the given sizes.
async fn fetch(
    mut client: impl std::io::Write + Send + 'static,
    stream: Stream,
    message: &[u8],
    cuts: &[usize],
) -> Vec<u8> {
    let sent = message.to_vec();
    let peer = std::thread::spawn(move || {
        for piece in sent.chunks(10_000) {
            client.write_all(piece).expect("the stream is read");
        }
        client.flush().expect("the stream is read");
        // Closed without TLS's alert, which is an end like any other.
    });
    let mut read = Vec::new();
    let mut buffer = vec![0; 100_000];
    let mut cuts = cuts.iter().cycle();
    loop {
        stream.readable().await.expect("the runtime is running");
        let size = cuts.next().expect("there are cuts");
        match stream.try_read(&mut buffer[..*size]) {
            Ok(0) => break,
            Ok(count) => read.extend_from_slice(&buffer[..count]),
            Err(error) => assert_eq!(error.kind(), ErrorKind::WouldBlock),
        }
    }
    peer.join().expect("the peer does not panic");
    read
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    #[test]
    fn prop_tcp_unix_and_tls_carry_the_same_bytes(
        message in prop::collection::vec(any::<u8>(), 0..300_000),
        cuts in prop::collection::vec(1usize..100_000, 1..8),
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_io().build().unwrap();
        runtime.block_on(async {
            let (client, stream) = tcp_pair().await;
            prop_assert_eq!(&carry(client, stream, &message, &cuts).await, &message);
            let (client, stream) = unix_pair().await;
            prop_assert_eq!(&carry(client, stream, &message, &cuts).await, &message);
            let (client, stream) = tls_pair(&TLS13).await;
            prop_assert_eq!(&carry(client, stream, &message, &cuts).await, &message);
            let (client, stream) = tls_pair(&TLS12).await;
            prop_assert_eq!(&carry(client, stream, &message, &cuts).await, &message);

            let (client, stream) = tcp_pair().await;
            prop_assert_eq!(&fetch(client, stream, &message, &cuts).await, &message);
            let (client, stream) = unix_pair().await;
            prop_assert_eq!(&fetch(client, stream, &message, &cuts).await, &message);
            let (client, stream) = tls_pair(&TLS13).await;
            prop_assert_eq!(&fetch(client, stream, &message, &cuts).await, &message);
            Ok(())
        })?;
    }
}

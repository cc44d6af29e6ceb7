//! The client under test of a `fuzzingserver`: runs all its cases and echoes what it is sent.
//!
//! ```sh
//! kosoku -m fuzzingserver 127.0.0.1:9001
//! cargo run --release -p ws-proto --example autobahn_client -- 127.0.0.1:9001
//! ```
//!
//! `cargo xtask conformance --client` does both and compares the verdicts with those on file.
#![expect(clippy::disallowed_methods, reason = "does what the crate leaves out")]
#![expect(clippy::disallowed_types, reason = "does what the crate leaves out")]

use std::error::Error;
use std::io::{ErrorKind, Read, Write};
use std::net::TcpStream;
use std::sync::Arc;
use std::time::{Duration, Instant};

use ws_proto::handshake::{Accepted, ClientHandshake, HeadLimits};
use ws_proto::{Config, Connection, DeflateConfig, Event, Input, MessageKind, State};

type Result<T> = std::result::Result<T, Box<dyn Error>>;

fn main() -> Result<()> {
    let mut arguments = std::env::args().skip(1);
    let address = arguments
        .next()
        .ok_or("usage: autobahn_client HOST:PORT [--no-context-takeover]")?;
    // Cases 9.1.6 and 9.2.6 send 16 MiB in one message. A case that takes long and gets a ping of ours
    // takes itself for finished.
    let config = Config::default()
        .with_max_message_size(16 << 20)
        .with_ping_interval(None);
    // Groups 13.2, 13.5 and 13.6 only take up an offer to do without context takeover.
    let has_takeover = arguments.next().as_deref() != Some("--no-context-takeover");
    let deflate = DeflateConfig::default()
        .with_server_context_takeover(has_takeover)
        .with_client_context_takeover(has_takeover)
        .with_min_size(0);
    let config = Arc::new(config.with_deflate(Some(deflate)));

    let mut count = String::new();
    run(&address, "/getCaseCount", &config, |_, payload| {
        count = String::from_utf8_lossy(payload).into_owned();
        false
    })?;
    for case in 1..=count.parse()? {
        let case: u32 = case;
        // What a case does to the connection is its own affair, and stands in the report.
        if let Err(error) = run(
            &address,
            &format!("/runCase?case={case}&agent=ws-proto"),
            &config,
            |_, _| true,
        ) {
            writeln!(std::io::stderr(), "case {case} of {count}: {error}")?;
        }
    }
    run(
        &address,
        "/updateReports?agent=ws-proto",
        &config,
        |_, _| false,
    )
}

/// One connection, to its end. A message for which `take` returns `true` is echoed.
fn run(
    address: &str,
    target: &str,
    config: &Arc<Config>,
    mut take: impl FnMut(MessageKind, &[u8]) -> bool,
) -> Result<()> {
    let mut stream = TcpStream::connect(address)?;
    stream.set_nodelay(true)?;
    stream.set_read_timeout(Some(Duration::from_secs(10)))?;
    stream.set_write_timeout(Some(Duration::from_secs(60)))?;
    let accepted = open(&mut stream, address, target, config)?;

    let mut seed = [0; 32];
    getrandom::fill(&mut seed)?;
    let mut connection =
        Connection::client(Arc::clone(config), seed, Instant::now()).with_deflate(accepted.deflate);
    // The first frames may have come along with the response.
    let mut received = accepted.rest;
    let (mut buffer, mut out) = (vec![0; 64 * 1024], Vec::new());
    loop {
        let mut input = Input::new(&mut received);
        while let Some(event) = connection.receive(&mut input, Instant::now()) {
            if let Event::Message(message) = event
                && take(message.kind, message.payload)
            {
                // The message is borrowed from the connection, which is to send it.
                let (kind, payload) = (message.kind, message.payload.to_vec());
                connection.send(kind, &payload, &mut out)?;
            }
            connection.poll_transmit(&mut out);
        }
        connection.handle_timeout(Instant::now());
        connection.poll_transmit(&mut out);
        stream.write_all(&out)?;
        out.clear();
        if connection.state() == State::Closed {
            break;
        }

        let wait = connection.poll_timeout().map(|at| at - Instant::now());
        // To a socket, zero means for ever.
        stream.set_read_timeout(wait.map(|time| time.max(Duration::from_millis(1))))?;
        received.clear();
        match stream.read(&mut buffer) {
            Ok(0) => return Ok(()),
            Ok(size) => received.extend_from_slice(&buffer[..size]),
            Err(error) if error.kind() == ErrorKind::WouldBlock => {}
            Err(error) => return Err(error.into()),
        }
    }
    // RFC 6455 §7.1.1: the server closes the stream first.
    stream.set_read_timeout(Some(Duration::from_secs(2)))?;
    while matches!(stream.read(&mut buffer), Ok(1..)) {}
    Ok(())
}

/// The opening handshake.
fn open(stream: &mut TcpStream, host: &str, target: &str, config: &Config) -> Result<Accepted> {
    let mut key = [0; 16];
    getrandom::fill(&mut key)?;
    let mut handshake = ClientHandshake::new(host, target, key)?;
    if let Some(deflate) = config.deflate() {
        handshake = handshake.with_deflate(deflate);
    }
    stream.write_all(&handshake.request())?;
    let mut reader = handshake.response_reader(HeadLimits::default());
    let mut buffer = [0; 1024];
    loop {
        let size = stream.read(&mut buffer)?;
        if size == 0 {
            return Err("the server hung up".into());
        }
        if let Some(accepted) = reader.read(&buffer[..size])? {
            return Ok(accepted);
        }
    }
}

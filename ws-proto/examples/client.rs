//! A blocking client, which sends a text and prints the answer:
//! `cargo run -p ws-proto --example client -- ws://127.0.0.1:9001/ hello`.
#![expect(clippy::disallowed_methods, reason = "does what the crate leaves out")]
#![expect(clippy::disallowed_types, reason = "does what the crate leaves out")]

use std::error::Error;
use std::io::{self, ErrorKind, Read, Write};
use std::net::TcpStream;
use std::sync::Arc;
use std::time::{Duration, Instant};

use ws_proto::handshake::{Accepted, ClientHandshake, HeadLimits};
use ws_proto::{
    CloseCode, CloseFrame, Config, Connection, DeflateConfig, Event, Input, MessageKind, State,
};

fn main() -> Result<(), Box<dyn Error>> {
    let mut arguments = std::env::args().skip(1);
    let (Some(url), Some(text)) = (arguments.next(), arguments.next()) else {
        return Err("usage: client ws://HOST:PORT/PATH TEXT".into());
    };
    let rest = url.strip_prefix("ws://").ok_or("only ws:// URLs")?;
    let (host, target) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
    let target = if target.is_empty() { "/" } else { target };

    let mut stream = TcpStream::connect(host)?;
    stream.set_read_timeout(Some(Duration::from_secs(10)))?;
    stream.set_write_timeout(Some(Duration::from_secs(10)))?;
    let accepted = open(&mut stream, host, target)?;
    converse(&mut stream, accepted, &text)
}

/// The opening handshake.
fn open(stream: &mut TcpStream, host: &str, target: &str) -> Result<Accepted, Box<dyn Error>> {
    let mut key = [0; 16];
    getrandom::fill(&mut key)?;
    let handshake = ClientHandshake::new(host, target, key)?.with_deflate(DeflateConfig::default());
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

/// Sends the text, prints the first message that comes, and runs the closing handshake.
fn converse(stream: &mut TcpStream, accepted: Accepted, text: &str) -> Result<(), Box<dyn Error>> {
    let mut seed = [0; 32];
    getrandom::fill(&mut seed)?;
    let config = Config::default().with_deflate(Some(DeflateConfig::default()));
    let mut connection =
        Connection::client(Arc::new(config), seed, Instant::now()).with_deflate(accepted.deflate);
    // The first frames may have come along with the response.
    let mut received = accepted.rest;
    let (mut buffer, mut out) = (vec![0; 64 * 1024], Vec::new());
    connection.send(MessageKind::Text, text.as_bytes(), &mut out)?;
    loop {
        let mut has_answer = false;
        let mut input = Input::new(&mut received);
        while let Some(event) = connection.receive(&mut input, Instant::now()) {
            match event {
                Event::Message(message) => {
                    io::stdout().write_all(message.payload)?;
                    io::stdout().write_all(b"\n")?;
                    has_answer = true;
                }
                Event::Failed(error) => return Err(error.into()),
                Event::Ping(_) | Event::Pong(_) | Event::Close(_) => {}
            }
            connection.poll_transmit(&mut out);
        }
        if has_answer {
            // Once the closing handshake has begun, this does nothing.
            let frame = CloseFrame::new(CloseCode::NORMAL, "");
            connection.close(Some(frame), Instant::now());
        }
        if let Some(Event::Failed(error)) = connection.handle_timeout(Instant::now()) {
            return Err(error.into());
        }
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
            Ok(0) => return Err("the server hung up".into()),
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

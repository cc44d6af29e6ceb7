//! A blocking echo server: `cargo run -p ws-proto --example echo -- 127.0.0.1:9001`.
#![expect(clippy::disallowed_methods, clippy::disallowed_types)] // The crate leaves that out.
use std::io::{self, ErrorKind, Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::Arc;
use std::time::{Duration, Instant};

use ws_proto::handshake::{HeadLimits, HeadReader, Upgrade};
use ws_proto::{Connection, DeflateConfig, Event, Input, State};

fn main() -> io::Result<()> {
    let listener = TcpListener::bind(std::env::args().nth(1).expect("no HOST:PORT"))?;
    writeln!(io::stdout(), "ws://{}/", listener.local_addr()?)?;
    loop {
        let (stream, _) = listener.accept()?;
        std::thread::spawn(move || serve(stream)); // It sleeps in `read`, no longer than it may.
    }
}

fn serve(mut stream: TcpStream) -> io::Result<()> {
    stream.set_read_timeout(Some(Duration::from_secs(10)))?;
    stream.set_write_timeout(Some(Duration::from_secs(10)))?;
    let (mut buffer, mut out) = (vec![0; 64 * 1024], Vec::new());
    let mut reader = HeadReader::new(HeadLimits::default());
    let offer = loop {
        let size = stream.read(&mut buffer)?;
        let head = reader.read(&buffer[..size]);
        match head.and_then(|head| head.as_ref().map(Upgrade::new).transpose()) {
            Ok(Some(offer)) => break offer,
            Ok(None) if size > 0 => {}
            Ok(None) => return Ok(()),
            Err(rejection) => return stream.write_all(&rejection.response()),
        }
    };
    let deflate = DeflateConfig::default().accept(offer.extensions());
    stream.write_all(&offer.accept(None, deflate.as_ref(), &[]).expect("legal"))?;
    let mut connection = Connection::server(Arc::default(), Instant::now()).with_deflate(deflate);
    while connection.state() != State::Closed {
        let wait = connection.poll_timeout().map(|at| at - Instant::now());
        stream.set_read_timeout(wait.map(|time| time.max(Duration::from_millis(1))))?; // Not 0.
        let size = match stream.read(&mut buffer) {
            Ok(0) => return Ok(()),
            Err(error) if error.kind() == ErrorKind::WouldBlock => 0, // The deadline, that is.
            result => result?,
        };
        let mut input = Input::new(&mut buffer[..size]);
        while let Some(event) = connection.receive(&mut input, Instant::now()) {
            if let Event::Message(message) = event {
                let (kind, payload) = (message.kind, message.payload.to_vec());
                connection.send(kind, &payload, &mut out).expect("is open");
            }
            connection.poll_transmit(&mut out);
        }
        connection.handle_timeout(Instant::now());
        connection.poll_transmit(&mut out);
        stream.write_all(out.drain(..).as_slice())?;
    }
    stream.shutdown(Shutdown::Both)
}

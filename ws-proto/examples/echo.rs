//! A blocking echo server: `cargo run -p ws-proto --example echo -- 127.0.0.1:9001`.
//! One thread per connection; it sleeps in `read` until bytes come or a deadline has passed.
#![expect(clippy::disallowed_methods, reason = "does what the crate leaves out")]
#![expect(clippy::disallowed_types, reason = "does what the crate leaves out")]
use std::io::{self, ErrorKind, Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::Arc;
use std::time::{Duration, Instant};

use ws_proto::handshake::{HeadLimits, HeadReader, Upgrade};
use ws_proto::{Config, Connection, Event, Input, State, frame};

fn main() -> io::Result<()> {
    let listener = TcpListener::bind(std::env::args().nth(1).expect("no HOST:PORT"))?;
    writeln!(io::stdout(), "ws://{}/", listener.local_addr()?)?;
    let config = Arc::new(Config::default().with_max_message_size(16 << 20));
    loop {
        let ((stream, _), config) = (listener.accept()?, Arc::clone(&config));
        std::thread::spawn(move || serve(stream, config));
    }
}

fn serve(mut stream: TcpStream, config: Arc<Config>) -> io::Result<()> {
    stream.set_read_timeout(Some(Duration::from_secs(10)))?;
    stream.set_write_timeout(Some(Duration::from_secs(10)))?;
    let (mut buffer, mut out) = (vec![0; 64 * 1024], Vec::new());
    let mut reader = HeadReader::new(HeadLimits::default());
    let upgrade = loop {
        let size = stream.read(&mut buffer)?;
        let head = reader.read(&buffer[..size]);
        match head.and_then(|head| head.as_ref().map(Upgrade::new).transpose()) {
            Ok(Some(upgrade)) => break upgrade,
            Ok(None) if size > 0 => {}
            Ok(None) => return Ok(()),
            Err(rejection) => return stream.write_all(&rejection.response()),
        }
    };
    stream.write_all(&upgrade.accept(None, None, &[]).expect("nothing is added"))?;
    let mut connection = Connection::server(config, Instant::now());
    while connection.state() != State::Closed {
        let wait = connection.poll_timeout().map(|at| at - Instant::now());
        // To a socket, zero means for ever.
        stream.set_read_timeout(wait.map(|time| time.max(Duration::from_millis(1))))?;
        let size = match stream.read(&mut buffer) {
            Ok(0) => return Ok(()),
            Err(error) if error.kind() == ErrorKind::WouldBlock => 0, // The deadline, that is.
            result => result?,
        };
        let mut input = Input::new(&mut buffer[..size]);
        while let Some(event) = connection.receive(&mut input, Instant::now()) {
            if let Event::Message(message) = event {
                frame::encode_server(message.kind, message.payload, &mut out);
            }
            connection.poll_transmit(&mut out);
        }
        connection.handle_timeout(Instant::now());
        connection.poll_transmit(&mut out);
        stream.write_all(&out)?;
        out.clear();
    }
    stream.shutdown(Shutdown::Both)
}

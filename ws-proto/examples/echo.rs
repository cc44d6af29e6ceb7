//! A blocking echo server: `cargo run -p ws-proto --example echo -- 127.0.0.1:9001`.
//! One thread per connection and no timers: it shows the order of the calls and nothing else.
#![expect(clippy::disallowed_methods, reason = "does what the crate leaves out")]
#![expect(clippy::disallowed_types, reason = "does what the crate leaves out")]

use std::io::{self, Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::Arc;
use std::time::Instant;

use ws_proto::handshake::{HeadLimits, HeadReader, Upgrade};
use ws_proto::{Config, Connection, Event, Input, State, frame};

fn main() -> io::Result<()> {
    let address = std::env::args().nth(1);
    let listener = TcpListener::bind(address.as_deref().unwrap_or("127.0.0.1:9001"))?;
    let config = Arc::new(Config::default().with_max_message_size(16 << 20));
    for stream in listener.incoming() {
        let (stream, config) = (stream?, Arc::clone(&config));
        std::thread::spawn(move || serve(stream, config));
    }
    Ok(())
}

fn serve(mut stream: TcpStream, config: Arc<Config>) -> io::Result<()> {
    let (mut buffer, mut out) = (vec![0; 64 * 1024], Vec::new());
    let mut reader = HeadReader::new(HeadLimits::default());
    let upgrade = loop {
        let size = stream.read(&mut buffer)?;
        match reader.read(&buffer[..size]) {
            Ok(None) if size > 0 => {}
            Ok(None) => return Ok(()),
            Ok(Some(head)) => break Upgrade::new(&head),
            Err(rejection) => break Err(rejection),
        }
    };
    match upgrade {
        Ok(upgrade) => {
            stream.write_all(&upgrade.accept(None, None, &[]).expect("nothing is added"))?
        }
        Err(rejection) => return stream.write_all(&rejection.response()),
    }

    let mut connection = Connection::server(config, Instant::now());
    while connection.state() != State::Closed {
        let size = stream.read(&mut buffer)?;
        if size == 0 {
            return Ok(());
        }
        let mut input = Input::new(&mut buffer[..size]);
        while let Some(event) = connection.receive(&mut input, Instant::now()) {
            if let Event::Message(message) = event {
                frame::encode_server(message.kind, message.payload, &mut out);
            }
            connection.poll_transmit(&mut out);
        }
        stream.write_all(&out)?;
        out.clear();
    }
    stream.shutdown(Shutdown::Both)
}

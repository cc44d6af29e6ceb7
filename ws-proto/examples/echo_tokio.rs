//! An echo server over tokio, with a task for each connection:
//! `cargo run -p ws-proto --example echo_tokio -- 127.0.0.1:9001`.
#![expect(clippy::disallowed_methods, reason = "does what the crate leaves out")]

use std::io::{self, Write as _};
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::{sleep_until, timeout};
use ws_proto::handshake::{HeadLimits, HeadReader, Upgrade};
use ws_proto::{Config, Connection, DeflateConfig, Event, Input, State};

/// How long a peer has for its request, and for each piece of output.
const PATIENCE: Duration = Duration::from_secs(10);

#[tokio::main(flavor = "current_thread")]
async fn main() -> io::Result<()> {
    let address = std::env::args().nth(1).expect("no HOST:PORT");
    let listener = TcpListener::bind(address).await?;
    writeln!(io::stdout(), "ws://{}/", listener.local_addr()?)?;
    let config = Config::default().with_max_message_size(16 << 20);
    let config = Arc::new(config.with_deflate(Some(DeflateConfig::default())));
    loop {
        let (mut stream, _) = listener.accept().await?;
        let config = Arc::clone(&config);
        tokio::spawn(async move {
            // Whatever ends a connection ends this one only.
            let opened = timeout(PATIENCE, open(&mut stream, config)).await;
            if let Ok(Ok(Some(connection))) = opened {
                let _ = serve(stream, connection).await;
            }
        });
    }
}

/// The opening handshake; `None` if it was refused.
async fn open(stream: &mut TcpStream, config: Arc<Config>) -> io::Result<Option<Connection>> {
    let mut reader = HeadReader::new(HeadLimits::default());
    let mut buffer = [0; 2048];
    let upgrade = loop {
        let size = stream.read(&mut buffer).await?;
        let head = reader.read(&buffer[..size]);
        match head.and_then(|head| head.as_ref().map(Upgrade::new).transpose()) {
            Ok(Some(upgrade)) => break upgrade,
            Ok(None) if size > 0 => {}
            Ok(None) => return Ok(None),
            Err(rejection) => {
                stream.write_all(&rejection.response()).await?;
                return Ok(None);
            }
        }
    };
    let deflate = config
        .deflate()
        .and_then(|deflate| deflate.accept(upgrade.extensions()));
    let answer = upgrade.accept(None, deflate.as_ref(), &[]);
    stream.write_all(&answer.expect("nothing is added")).await?;
    let connection = Connection::server(config, Instant::now());
    Ok(Some(connection.with_deflate(deflate)))
}

/// An open connection, to its end.
async fn serve(mut stream: TcpStream, mut connection: Connection) -> io::Result<()> {
    let (mut buffer, mut out) = (vec![0; 64 * 1024], Vec::new());
    while connection.state() != State::Closed {
        // Asked for anew each time: every call may have moved it.
        let deadline = connection.poll_timeout();
        let due = async {
            match deadline {
                Some(at) => sleep_until(at.into()).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            size = stream.read(&mut buffer) => {
                let size = size?;
                if size == 0 {
                    return Ok(());
                }
                let mut input = Input::new(&mut buffer[..size]);
                while let Some(event) = connection.receive(&mut input, Instant::now()) {
                    if let Event::Message(message) = event {
                        // It is lent by the connection, which is to send it.
                        let (kind, payload) = (message.kind, message.payload.to_vec());
                        connection.send(kind, &payload, &mut out).expect("is open");
                    }
                    // Pongs, and our half of the closing handshake.
                    connection.poll_transmit(&mut out);
                }
            }
            () = due => {
                // A ping that is due, or a failure, which makes a close frame.
                connection.handle_timeout(Instant::now());
                connection.poll_transmit(&mut out);
            }
        }
        timeout(PATIENCE, stream.write_all(&out)).await??;
        out.clear();
    }
    stream.shutdown().await
}

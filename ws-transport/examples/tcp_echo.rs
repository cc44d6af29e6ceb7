//! Sends every byte back. Try it with `nc 127.0.0.1 7777`.
//!
//! ```sh
//! cargo run -p ws-transport --example tcp_echo -- 127.0.0.1:7777
//! cargo run -p ws-transport --example tcp_echo -- unix:/tmp/echo.sock
//! ```

use std::error::Error;
use std::io::{self, ErrorKind};
use std::time::Duration;

use ws_transport::{AcceptFailure, BindOptions, ListenAddr, Listener, Stream};

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn Error>> {
    let addr: ListenAddr = match std::env::args().nth(1) {
        Some(addr) => addr.parse()?,
        None => "127.0.0.1:0".parse()?,
    };
    let listener = Listener::bind(&addr, &BindOptions::default())?;
    #[expect(clippy::print_stdout, reason = "an example talks to its user")]
    {
        println!("listening on {}", listener.local_addr());
    }
    loop {
        match listener.accept().await {
            // Here the connection stays on this thread; it could be sent to another first.
            Ok(accepted) => {
                let stream = accepted.socket.register()?;
                tokio::spawn(async move { echo(&stream).await });
            }
            Err(error) => match AcceptFailure::of(&error) {
                AcceptFailure::Passing => {}
                AcceptFailure::Exhausted => tokio::time::sleep(Duration::from_millis(100)).await,
                AcceptFailure::Broken => return Err(error.into()),
            },
        }
    }
}

async fn echo(stream: &Stream) -> io::Result<()> {
    let mut buffer = vec![0; 64 * 1024];
    loop {
        stream.readable().await?;
        let count = match stream.try_read(&mut buffer) {
            Ok(0) => return stream.shutdown_write(),
            Ok(count) => count,
            Err(error) if error.kind() == ErrorKind::WouldBlock => continue,
            Err(error) => return Err(error),
        };
        let mut rest = &buffer[..count];
        while !rest.is_empty() {
            match stream.try_write(rest) {
                Ok(count) => rest = &rest[count..],
                Err(error) if error.kind() == ErrorKind::WouldBlock => stream.writable().await?,
                Err(error) => return Err(error),
            }
        }
    }
}

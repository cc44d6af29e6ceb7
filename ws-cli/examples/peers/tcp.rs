//! The floor: a TCP echo on epoll, without handshake and frames. README.md has the contract.

use std::collections::HashMap;
use std::error::Error;
use std::io::{ErrorKind, Read as _, Write as _};
use std::net::Ipv4Addr;

use mio::net::TcpStream;
use mio::{Events, Interest, Poll, Token};
use socket2::{Domain, Socket, Type};

const LISTENER: Token = Token(usize::MAX);

/// A connection, and the bytes that it did not take yet.
struct Peer {
    stream: TcpStream,
    waiting: Vec<u8>,
}

fn main() -> Result<(), Box<dyn Error>> {
    let port: u16 = std::env::args()
        .nth(1)
        .ok_or("usage: PROGRAM PORT")?
        .parse()?;
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None)?;
    socket.set_reuse_address(true)?;
    socket.bind(&std::net::SocketAddr::from((Ipv4Addr::LOCALHOST, port)).into())?;
    socket.listen(4096)?;
    socket.set_nonblocking(true)?;
    let mut listener = mio::net::TcpListener::from_std(socket.into());
    let mut poll = Poll::new()?;
    poll.registry()
        .register(&mut listener, LISTENER, Interest::READABLE)?;
    #[expect(clippy::print_stdout, reason = "the contract")]
    {
        println!("{}", listener.local_addr()?.port());
    }

    let mut peers = HashMap::new();
    let mut next = 0;
    let mut buffer = vec![0; 512 * 1024];
    let mut events = Events::with_capacity(1024);
    loop {
        poll.poll(&mut events, None)?;
        for event in &events {
            if event.token() == LISTENER {
                while let Ok((mut stream, _)) = listener.accept() {
                    stream.set_nodelay(true)?;
                    let interest = Interest::READABLE | Interest::WRITABLE;
                    poll.registry()
                        .register(&mut stream, Token(next), interest)?;
                    let waiting = Vec::new();
                    peers.insert(next, Peer { stream, waiting });
                    next += 1;
                }
                continue;
            }
            let place = event.token().0;
            let is_alive = peers
                .get_mut(&place)
                .is_some_and(|peer| peer.advance(&mut buffer, event.is_read_closed()).is_ok());
            if !is_alive {
                peers.remove(&place);
            }
        }
    }
}

impl Peer {
    /// Sends back what has come; an error is the end.
    fn advance(&mut self, buffer: &mut [u8], has_ended: bool) -> std::io::Result<()> {
        let waiting = std::mem::take(&mut self.waiting);
        self.send(&waiting)?;
        // Who does not take what it sent is not read.
        while self.waiting.is_empty() {
            match self.stream.read(buffer) {
                Ok(0) => return Err(ErrorKind::UnexpectedEof.into()),
                Ok(count) => {
                    self.send(&buffer[..count])?;
                    if count < buffer.len() && !has_ended {
                        return Ok(());
                    }
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(()),
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    fn send(&mut self, mut bytes: &[u8]) -> std::io::Result<()> {
        while !bytes.is_empty() {
            match self.stream.write(bytes) {
                Ok(count) => bytes = &bytes[count..],
                Err(error) if error.kind() == ErrorKind::WouldBlock => {
                    self.waiting = bytes.to_vec();
                    return Ok(());
                }
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }
}

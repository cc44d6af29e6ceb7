//! A browser that is connected.

use std::io::{self, Read as _, Write as _};
use std::net::TcpStream;
use std::os::fd::{AsFd, BorrowedFd};
use std::time::{Duration, Instant};

use anyhow::{Result, bail, ensure};

use crate::bench::sessions;
use crate::chaos::wire::{self, Event, Parser};

/// Nobody between us would mistake a frame for something else.
const MASK: [u8; 4] = [1, 2, 3, 4];

/// No server takes longer to let one in, as long as it lets anyone in.
const ENTRY_LIMIT: Duration = Duration::from_secs(15);

#[derive(Debug)]
pub(super) struct Visitor {
    stream: TcpStream,
    parser: Parser,
    /// When it was let in.
    pub(super) since: Instant,
}

impl Visitor {
    /// Connects as the user of this number.
    pub(super) fn enter(address: &str, user: u32) -> Result<Self> {
        let mut cookie = Some(format!("user={user}"));
        let stream = sessions::open_within(ENTRY_LIMIT, address, &mut cookie)?;
        stream.set_nonblocking(true)?;
        stream.set_nodelay(true)?;
        Ok(Self {
            stream,
            parser: Parser::new(false),
            since: Instant::now(),
        })
    }

    /// Sends a text that fits into what the kernel takes at once.
    pub(super) fn say(&mut self, text: &str) -> Result<()> {
        self.send(wire::TEXT, text.as_bytes())
    }

    fn send(&mut self, opcode: u8, payload: &[u8]) -> Result<()> {
        let frame = wire::frame(opcode, true, payload, MASK);
        Ok((&self.stream).write_all(&frame)?)
    }

    /// The messages that have come; pings of the server's are answered.
    pub(super) fn hear(&mut self) -> Result<Vec<Vec<u8>>> {
        let mut buffer = [0; 1024];
        loop {
            match (&self.stream).read(&mut buffer) {
                Ok(count) => {
                    ensure!(count > 0, "the server closed the stream");
                    self.parser.feed(&buffer[..count]);
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(error) => return Err(error.into()),
            }
        }
        let mut messages = Vec::new();
        while let Some(event) = self.parser.next()? {
            match event {
                Event::Message(message) => messages.push(message),
                Event::Ping(payload) => self.send(wire::PONG, &payload)?,
                Event::Pong(_) => {}
                Event::Close(code) => bail!("the server closed with {code:?}"),
            }
        }
        Ok(messages)
    }
}

impl AsFd for Visitor {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.stream.as_fd()
    }
}

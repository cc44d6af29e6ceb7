//! One client over a blocking socket, which believes nothing that it has not checked.

use std::io::{self, Read as _, Write as _};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use nix::libc;
use nix::sys::socket::{setsockopt, sockopt};

use crate::chaos::wire::{self, Answer, Dice, Event, Parser};

/// No single step takes longer while a server works.
pub(crate) const PATIENCE: Duration = Duration::from_secs(20);

/// An open connection.
#[derive(Debug)]
pub(crate) struct Client {
    stream: TcpStream,
    parser: Parser,
    dice: Dice,
}

/// The outcome of a request to upgrade.
#[derive(Debug)]
pub(crate) enum Outcome {
    Open(Box<Client>),
    /// The status of the refusal.
    Refused(u16),
}

impl Client {
    /// Connects and upgrades.
    pub(crate) fn connect(address: SocketAddr) -> Result<Self> {
        match Self::request(address, false)? {
            Outcome::Open(client) => Ok(*client),
            Outcome::Refused(status) => bail!("refused with {status}"),
        }
    }

    /// Asks to upgrade.
    pub(crate) fn request(address: SocketAddr, is_compressed: bool) -> Result<Outcome> {
        let stream = TcpStream::connect_timeout(&address, PATIENCE).context("cannot connect")?;
        Self::request_over(stream, address, is_compressed)
    }

    /// As [`request`](Self::request), over a stream that is there.
    pub(crate) fn request_over(
        stream: TcpStream,
        address: SocketAddr,
        is_compressed: bool,
    ) -> Result<Outcome> {
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        stream.set_write_timeout(Some(PATIENCE))?;
        let head = wire::request_head(&address.to_string(), is_compressed);
        (&stream)
            .write_all(head.as_bytes())
            .context("cannot ask to upgrade")?;
        Self::answer(stream)
    }

    /// What a request is answered that was sent over `stream` already.
    pub(crate) fn answer(stream: TcpStream) -> Result<Outcome> {
        let mut bytes = Vec::new();
        let answer = loop {
            if let Some(answer) = wire::read_answer(&bytes)? {
                break answer;
            }
            let mut part = [0; 4096];
            match (&stream)
                .read(&mut part)
                .context("no answer to the upgrade")?
            {
                0 => bail!("hung up on within the opening handshake"),
                count => bytes.extend_from_slice(&part[..count]),
            }
        };
        let Answer {
            status,
            is_compressed,
            len,
        } = answer;
        if status != 101 {
            return Ok(Outcome::Refused(status));
        }
        let mut parser = Parser::new(is_compressed);
        parser.feed(&bytes[len..]);
        let seed = stream.local_addr()?.port().into();
        Ok(Outcome::Open(Box::new(Self {
            stream,
            parser,
            dice: Dice::new(seed),
        })))
    }

    pub(crate) fn set_patience(&self, patience: Duration) -> io::Result<()> {
        self.stream.set_read_timeout(Some(patience))
    }

    pub(crate) fn set_write_patience(&self, patience: Duration) -> io::Result<()> {
        self.stream.set_write_timeout(Some(patience))
    }

    pub(crate) fn send(&mut self, opcode: u8, payload: &[u8]) -> io::Result<()> {
        let frame = wire::frame(opcode, true, payload, self.dice.mask());
        self.stream.write_all(&frame)
    }

    /// Sends bytes that need not be frames.
    pub(crate) fn send_raw(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.stream.write_all(bytes)
    }

    /// The next event; pings are answered. `None` at the end of the stream.
    ///
    /// # Errors
    ///
    /// [`io::Error`] as it came from the stream, or what was wrong with the bytes.
    pub(crate) fn receive(&mut self) -> Result<Option<Event>> {
        loop {
            match self.parser.next()? {
                Some(Event::Ping(payload)) => self.send(wire::PONG, &payload)?,
                Some(event) => return Ok(Some(event)),
                None => {
                    let mut part = [0; 64 << 10];
                    match self.stream.read(&mut part)? {
                        0 => return Ok(None),
                        count => self.parser.feed(&part[..count]),
                    }
                }
            }
        }
    }

    /// Sends a text and waits until it comes back.
    pub(crate) fn echo(&mut self, text: &str) -> Result<Duration> {
        let start = Instant::now();
        self.send(wire::TEXT, text.as_bytes())?;
        match self.receive()? {
            Some(Event::Message(payload)) => {
                ensure!(payload == text.as_bytes(), "not the text that was sent");
                Ok(start.elapsed())
            }
            other => bail!("{other:?} instead of an echo"),
        }
    }

    /// The closing handshake, to its end.
    pub(crate) fn close(mut self) -> Result<()> {
        self.send(wire::CLOSE, &1000u16.to_be_bytes())?;
        loop {
            match self.receive()? {
                Some(Event::Close(Some(1000))) => {}
                Some(Event::Close(code)) => bail!("closed with {code:?} instead of 1000"),
                Some(_) => {}
                None => return Ok(()),
            }
        }
    }

    /// Ends the stream in the way of a process that was killed: FIN.
    pub(crate) fn hang_up(self) -> io::Result<()> {
        hang_up(&self.stream)
    }

    /// Ends the stream in the way of a host that was restarted: RST.
    pub(crate) fn reset(self) -> Result<()> {
        reset(self.stream)
    }

    pub(crate) fn into_parts(self) -> (TcpStream, Parser) {
        (self.stream, self.parser)
    }
}

/// Sends FIN and waits until the other side has done so too.
pub(crate) fn hang_up(mut stream: &TcpStream) -> io::Result<()> {
    stream.shutdown(Shutdown::Write)?;
    let mut rest = [0; 4096];
    loop {
        match stream.read(&mut rest) {
            Ok(0) => return Ok(()),
            Ok(_) => {}
            Err(error) if error.kind() == io::ErrorKind::ConnectionReset => return Ok(()),
            Err(error) => return Err(error),
        }
    }
}

/// Drops what is under way and sends RST.
pub(crate) fn reset(stream: TcpStream) -> Result<()> {
    let linger = libc::linger {
        l_onoff: 1,
        l_linger: 0,
    };
    setsockopt(&stream, sockopt::Linger, &linger)?;
    drop(stream);
    Ok(())
}

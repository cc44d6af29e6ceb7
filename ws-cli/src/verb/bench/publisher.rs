//! The one who sends what the others listen to: by a FIFO, the control socket or a WebSocket.

use std::fs::File;
use std::io::{self, BufRead as _, BufReader, IoSlice, Read as _, Write as _};
use std::os::unix::fs::{FileTypeExt as _, OpenOptionsExt as _};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender};
use std::time::{Duration, Instant};

use mio::{Events, Poll, Token};
use nix::fcntl::{FcntlArg, OFlag, fcntl};
use serde_json::json;
use ws_proto::handshake::HeadLimits;
use ws_proto::{CloseCode, CloseFrame, Opcode};

use super::frames::{self, FrameReader, Piece};
use super::listen::{self, Round};
use super::stream::Stream;
use super::target::Target;
use super::traffic::is_later;
use super::worker::{Event, Shared, random};

/// Where publications are written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Publish {
    /// Lines into a FIFO.
    Fifo(PathBuf),
    /// `POST /v1/send` on the control socket.
    Control(PathBuf),
    /// Messages into a WebSocket.
    Socket(String),
}

impl FromStr for Publish {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text.split_once(':') {
            Some(("fifo", path)) if !path.is_empty() => Ok(Self::Fifo(path.into())),
            Some(("control", path)) if !path.is_empty() => Ok(Self::Control(path.into())),
            Some(("ws", url)) if !url.is_empty() => Ok(Self::Socket(url.to_owned())),
            _ => Err("write fifo:PATH, control:PATH or ws:URL".to_owned()),
        }
    }
}

/// What the publisher is told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Signal {
    /// The burst under way has reached everybody.
    Delivered,
    /// The run is over.
    Stop,
}

/// What the publisher has done.
#[derive(Debug, Default, Clone, Copy)]
pub(super) struct Published {
    pub(super) messages: u64,
    /// Deliveries that follow: each message to each connection that was open.
    pub(super) expected: u64,
    /// Bursts that did not reach everybody in time.
    pub(super) late_bursts: u64,
}

/// How to publish.
#[derive(Debug)]
pub(super) struct Plan {
    pub(super) size: usize,
    pub(super) burst: u32,
    pub(super) opcode: Opcode,
    /// Bursts per second; `None`: one after the other.
    pub(super) rate: Option<u32>,
    pub(super) messages: Option<u64>,
    pub(super) timeout: Duration,
}

/// Publishes until it is told to stop, or has published enough.
pub(super) fn run(
    door: &mut Door,
    plan: &Plan,
    shared: &Shared,
    round: &Arc<Round>,
    signals: &Receiver<Signal>,
    events: &Sender<Event>,
) -> io::Result<Published> {
    let mut published = Published::default();
    let begun = Instant::now();
    let mut number = 0_u32;
    let mut bursts = 0_u32;
    loop {
        let left = plan
            .messages
            .map_or(u64::MAX, |all| all - published.messages);
        let count = left.min(u64::from(plan.burst)) as u32;
        if count == 0 {
            break;
        }
        let listeners = shared.open.load(Ordering::Relaxed);
        let payloads: Vec<Vec<u8>> = (0..count)
            .map(|at| listen::payload(number + at, shared.now(), plan.size))
            .collect();
        let deliveries = u64::from(count) * listeners;
        round.begin(number, deliveries);
        door.publish(&payloads, plan.opcode)?;
        number += count;
        bursts += 1;
        published.messages += u64::from(count);
        published.expected += deliveries;
        let deadline = match plan.rate {
            Some(rate) => begun + Duration::from_secs_f64(f64::from(bursts) / f64::from(rate)),
            None => Instant::now() + plan.timeout,
        };
        match wait(signals, deadline, plan.rate.is_some()) {
            Waited::Delivered => {}
            Waited::Late => published.late_bursts += u64::from(plan.rate.is_none()),
            Waited::Stopped => break,
        }
    }
    if plan.rate.is_some() {
        wait_for_the_last(signals, round, Instant::now() + plan.timeout);
    }
    door.close()?;
    // Whoever conducts the run and is gone has no use for it.
    let _ = events.send(Event::Published);
    Ok(published)
}

enum Waited {
    Delivered,
    Late,
    Stopped,
}

/// Waits for the end of a burst, or with `is_paced` for the time of the next.
fn wait(signals: &Receiver<Signal>, deadline: Instant, is_paced: bool) -> Waited {
    let mut is_stopped = false;
    loop {
        match signals.recv_timeout(deadline.saturating_duration_since(Instant::now())) {
            Ok(Signal::Delivered) if is_stopped => return Waited::Stopped,
            Ok(Signal::Delivered) if !is_paced => return Waited::Delivered,
            Ok(Signal::Delivered) => {}
            // The burst under way still has its time.
            Ok(Signal::Stop) if is_paced => return Waited::Stopped,
            Ok(Signal::Stop) => is_stopped = true,
            Err(RecvTimeoutError::Timeout) if is_stopped => return Waited::Stopped,
            Err(RecvTimeoutError::Timeout) => return Waited::Late,
            Err(RecvTimeoutError::Disconnected) => return Waited::Stopped,
        }
    }
}

/// Waits until the last burst has reached everybody, though nobody waited for the others.
fn wait_for_the_last(signals: &Receiver<Signal>, round: &Round, deadline: Instant) {
    while round.is_outstanding() {
        let left = deadline.saturating_duration_since(Instant::now());
        // One may be told that an earlier burst is delivered.
        if !matches!(signals.recv_timeout(left), Ok(Signal::Delivered)) {
            return;
        }
    }
}

/// A way into the server, opened.
#[derive(Debug)]
pub(super) enum Door {
    Fifo(File),
    Control(BufReader<UnixStream>),
    Socket(Box<Socket>),
}

/// The publisher's own WebSocket.
#[derive(Debug)]
pub(super) struct Socket {
    stream: Stream,
    poll: Poll,
    reader: FrameReader,
    key: [u8; 4],
    out: Vec<u8>,
}

impl Door {
    /// Opens it; nobody waits for a server that is not there.
    pub(super) fn fifo(path: &Path) -> io::Result<Self> {
        let mut options = File::options();
        options.write(true).custom_flags(OFlag::O_NONBLOCK.bits());
        let file = options.open(path)?;
        if !file.metadata()?.file_type().is_fifo() {
            return Err(io::Error::new(
                io::ErrorKind::InvalidInput,
                "it is not a FIFO",
            ));
        }
        fcntl(&file, FcntlArg::F_SETFL(OFlag::empty()))?;
        Ok(Self::Fifo(file))
    }

    pub(super) fn control(path: &Path, timeout: Duration) -> io::Result<Self> {
        let stream = UnixStream::connect(path)?;
        stream.set_read_timeout(Some(timeout))?;
        stream.set_write_timeout(Some(timeout))?;
        Ok(Self::Control(BufReader::new(stream)))
    }

    pub(super) fn socket(target: &Target, timeout: Duration) -> io::Result<Self> {
        let mut socket = Box::new(Socket {
            stream: Stream::connect(target, None)?,
            poll: Poll::new()?,
            reader: FrameReader::default(),
            key: random()?,
            out: Vec::new(),
        });
        socket.stream.register(socket.poll.registry(), Token(0))?;
        socket.open(target, timeout)?;
        Ok(Self::Socket(socket))
    }

    /// Publishes messages by one write.
    fn publish(&mut self, payloads: &[Vec<u8>], opcode: Opcode) -> io::Result<()> {
        match self {
            Self::Fifo(file) => {
                let mut lines = Vec::new();
                for payload in payloads {
                    lines.extend_from_slice(payload);
                    lines.push(b'\n');
                }
                file.write_all(&lines)
            }
            Self::Control(stream) => {
                let mut requests = Vec::new();
                for payload in payloads {
                    let text = String::from_utf8_lossy(payload);
                    let body = json!({ "to": { "all": true }, "text": text }).to_string();
                    let len = body.len();
                    write!(
                        requests,
                        "POST /v1/send HTTP/1.1\r\nHost: localhost\r\n\
                         Content-Type: application/json\r\nContent-Length: {len}\r\n\r\n{body}"
                    )?;
                }
                stream.get_mut().write_all(&requests)?;
                payloads.iter().try_for_each(|_| read_answer(stream))
            }
            Self::Socket(socket) => {
                for payload in payloads {
                    frames::encode(opcode, payload, socket.key, &mut socket.out);
                }
                socket.write()?;
                socket.drain()
            }
        }
    }

    /// Takes leave of the server, and does not wait for its answer.
    fn close(&mut self) -> io::Result<()> {
        let Self::Socket(socket) = self else {
            return Ok(());
        };
        let mut payload = Vec::new();
        CloseFrame::new(CloseCode::NORMAL, "").encode(&mut payload);
        frames::encode(Opcode::Close, &payload, socket.key, &mut socket.out);
        socket.write()
    }
}

/// Reads one answer of the control socket: it must be a 200.
fn read_answer(stream: &mut BufReader<UnixStream>) -> io::Result<()> {
    let mut line = String::new();
    let mut status = None;
    let mut len = 0;
    loop {
        line.clear();
        if stream.read_line(&mut line)? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        let header = line.trim_end();
        if status.is_none() {
            status = header
                .split(' ')
                .nth(1)
                .and_then(|it| it.parse::<u16>().ok());
        } else if let Some((name, value)) = header.split_once(':')
            && name.eq_ignore_ascii_case("content-length")
        {
            len = value.trim().parse().map_err(io::Error::other)?;
        } else if header.is_empty() {
            break;
        }
    }
    let mut body = vec![0; len];
    stream.read_exact(&mut body)?;
    match status {
        Some(200) => Ok(()),
        _ => {
            let answer = String::from_utf8_lossy(&body);
            Err(io::Error::other(format!(
                "the server answered {status:?}: {answer}"
            )))
        }
    }
}

impl Socket {
    fn open(&mut self, target: &Target, timeout: Duration) -> io::Result<()> {
        let handshake = target.handshake(random()?).map_err(io::Error::other)?;
        let mut response = handshake.response_reader(HeadLimits::default());
        self.out = handshake.request();
        let deadline = Instant::now() + timeout;
        let mut buffer = [0; 4096];
        loop {
            self.wait(deadline)?;
            if let Some(error) = self.stream.take_error()? {
                return Err(error);
            }
            self.stream.flush()?;
            self.write()?;
            loop {
                match self.stream.read(&mut buffer) {
                    Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
                    Ok(count) => {
                        let accepted = response.read(&buffer[..count]);
                        if accepted.map_err(io::Error::other)?.is_some() {
                            return Ok(());
                        }
                    }
                    Err(error) if is_later(&error) => break,
                    Err(error) => return Err(error),
                }
            }
        }
    }

    fn wait(&mut self, deadline: Instant) -> io::Result<()> {
        let mut events = Events::with_capacity(4);
        let left = deadline.saturating_duration_since(Instant::now());
        self.poll.poll(&mut events, Some(left))?;
        if events.is_empty() && left.is_zero() {
            return Err(io::ErrorKind::TimedOut.into());
        }
        Ok(())
    }

    /// Writes all that waits.
    fn write(&mut self) -> io::Result<()> {
        let deadline = Instant::now() + Duration::from_secs(60);
        while !self.out.is_empty() {
            match self.stream.write(&[IoSlice::new(&self.out)]) {
                Ok(count) => drop(self.out.drain(..count)),
                Err(error) if is_later(&error) => self.wait(deadline)?,
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// Reads what has come, for pings want an answer.
    fn drain(&mut self) -> io::Result<()> {
        let mut buffer = [0; 16 * 1024];
        loop {
            let count = match self.stream.read(&mut buffer) {
                Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
                Ok(count) => count,
                Err(error) if is_later(&error) => return self.write(),
                Err(error) => return Err(error),
            };
            let mut input = &buffer[..count];
            while let Some(piece) = self.reader.next(&mut input).map_err(io::Error::other)? {
                match piece {
                    Piece::Control(Opcode::Ping, payload) => {
                        frames::encode(Opcode::Pong, &payload, self.key, &mut self.out);
                    }
                    Piece::Control(Opcode::Close, _) => {
                        return Err(io::Error::other("the server closed the publisher"));
                    }
                    Piece::Control(..) | Piece::Payload(_) | Piece::End => {}
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use super::*;

    #[test]
    fn doors_are_told_by_their_first_word() {
        assert_eq!("fifo:/a:b".parse(), Ok(Publish::Fifo("/a:b".into())));
        assert_eq!("control:x".parse(), Ok(Publish::Control("x".into())));
        assert_eq!("ws:ws://a/".parse(), Ok(Publish::Socket("ws://a/".into())));
        for wrong in ["", "fifo", "fifo:", "pipe:/a"] {
            assert!(wrong.parse::<Publish>().is_err(), "{wrong}");
        }
    }

    #[test]
    fn a_file_is_not_a_fifo() {
        let file = tempfile::NamedTempFile::new().unwrap();
        assert!(Door::fifo(file.path()).is_err());
    }

    #[test]
    fn stop_lets_the_burst_arrive() {
        let (sender, receiver) = mpsc::channel();
        let later = || Instant::now() + Duration::from_secs(60);
        sender.send(Signal::Stop).unwrap();
        sender.send(Signal::Delivered).unwrap();
        assert!(matches!(wait(&receiver, later(), false), Waited::Stopped));
        sender.send(Signal::Delivered).unwrap();
        assert!(matches!(wait(&receiver, later(), false), Waited::Delivered));
        assert!(matches!(
            wait(&receiver, Instant::now(), false),
            Waited::Late
        ));
        sender.send(Signal::Delivered).unwrap();
        sender.send(Signal::Stop).unwrap();
        assert!(matches!(wait(&receiver, later(), true), Waited::Stopped));
    }

    #[test]
    fn the_last_burst_is_waited_for_whatever_came_before() {
        let (sender, receiver) = mpsc::channel();
        let round = Round::default();
        round.begin(5, 1);
        sender.send(Signal::Delivered).unwrap();
        std::thread::scope(|scope| {
            scope.spawn(|| {
                assert!(round.delivered(1));
                sender.send(Signal::Delivered).unwrap();
            });
            let later = Instant::now() + Duration::from_secs(60);
            wait_for_the_last(&receiver, &round, later);
            assert!(!round.is_outstanding());
        });
        round.begin(6, 1);
        wait_for_the_last(&receiver, &round, Instant::now());
        assert!(round.is_outstanding(), "nobody waits longer than that");
    }

    #[test]
    fn answers_are_read_one_by_one() {
        let (mut server, client) = UnixStream::pair().unwrap();
        let mut client = BufReader::new(client);
        server
            .write_all(
                b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n{}\
                  HTTP/1.1 503 No\r\nContent-Length: 4\r\n\r\nlate",
            )
            .unwrap();
        drop(server);
        read_answer(&mut client).unwrap();
        let refused = read_answer(&mut client).unwrap_err().to_string();
        assert!(
            refused.contains("503") && refused.contains("late"),
            "{refused}"
        );
        assert!(read_answer(&mut client).is_err());
    }
}

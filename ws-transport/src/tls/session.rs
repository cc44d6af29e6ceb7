//! TLS over one socket, with as little memory per connection as rustls allows.
//!
//! rustls' unbuffered interface takes and gives bytes in buffers of ours. Those belong to the
//! thread; a connection keeps only what cannot be finished: part of a record from the peer, plain
//! bytes the caller had no room for, encrypted bytes the kernel refused. All three are empty, and
//! hold no memory, on an idle connection.

use std::cell::{Cell, RefCell};
use std::fmt;
use std::io::{self, IoSlice};
use std::sync::Arc;

use rustls::server::{ServerConnectionData, UnbufferedServerConnection};
use rustls::unbuffered::{
    ConnectionState, EncodeError, EncodeTlsData, EncryptError, UnbufferedStatus, WriteTraffic,
};
use rustls::{ProtocolVersion, ServerConfig};

use crate::socket::Socket;
use crate::tls::certificate;

/// What is encrypted and written at once. The peers' records have at most 16 KiB.
const CHUNK_LEN: usize = 64 * 1024;
const RECORD_LEN: usize = 16 * 1024;
/// More than a record's header, nonce and tag.
const RECORD_OVERHEAD: usize = 64;
/// Read at once even if the caller has less room: whole records come in fewer calls.
const MIN_READ: usize = 4 * 1024;
const MAX_READ: usize = 64 * 1024;
/// Room for what is kept of a handshake message of the longest kind, 64 KiB in several records, and
/// for one more read.
const INCOMING_LEN: usize = 96 * 1024 + MAX_READ;
/// Bounds what is discarded of a refused peer's bytes.
const MAX_DISCARDED_READS: usize = 16;

thread_local! {
    static SCRATCH: RefCell<Scratch> = RefCell::new(Scratch {
        incoming: vec![0; INCOMING_LEN].into_boxed_slice(),
        gathered: Vec::with_capacity(CHUNK_LEN),
        outgoing: Vec::with_capacity(encrypted_len(CHUNK_LEN)),
    });
}

thread_local! {
    /// The name that the last client asked for, on its way from the resolver of certificates, who
    /// alone is told, to the session: both are in the same call of rustls.
    static ASKED_FOR: Cell<Option<Box<str>>> = const { Cell::new(None) };
}

/// Keeps the name that a client asks for, for the session under way on this thread.
pub(super) fn note_server_name(name: Option<&str>) {
    ASKED_FOR.set(name.map(Into::into));
}

/// What the TLS handshake tells of the peer.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct TlsPeer {
    /// The version that is spoken, as OpenSSL writes it: `TLSv1.3`.
    pub version: &'static str,
    /// The name that the client asked for (SNI), by which the certificate was chosen.
    pub server_name: Option<Box<str>>,
    /// The certificate that the client has shown, if it has one.
    pub client: Option<TlsClient>,
}

/// A client's certificate, which was verified.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct TlsClient {
    /// Its subject, as [RFC 4514](https://www.rfc-editor.org/rfc/rfc4514) writes it:
    /// `CN=alice,O=Example`. `None` if it cannot be read.
    pub subject: Option<String>,
}

/// The buffers of a thread.
struct Scratch {
    incoming: Box<[u8]>,
    gathered: Vec<u8>,
    outgoing: Vec<u8>,
}

/// One TLS connection.
pub(crate) struct Session {
    connection: UnbufferedServerConnection,
    /// The beginning of a record, or of a handshake message.
    incoming: Vec<u8>,
    /// Decrypted, and not yet asked for.
    plaintext: Vec<u8>,
    /// Encrypted, and refused by the kernel.
    outgoing: Vec<u8>,
    input: Input,
    output: Output,
}

/// What is to be expected from the peer.
enum Input {
    Open,
    /// Its close alert, or the end of the connection.
    Ended,
    Failed(Box<rustls::Error>),
}

/// What we have said of the end.
#[derive(PartialEq, Eq)]
enum Output {
    Open,
    /// The close alert is among what was encrypted.
    Closing,
    /// The socket is shut down.
    Closed,
}

impl fmt::Debug for Session {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Session").finish_non_exhaustive()
    }
}

/// Why a handshake did not end with a session.
#[derive(Debug)]
pub(crate) enum HandshakeFailure {
    Tls(rustls::Error),
    /// The peer has gone.
    Closed,
    System(io::Error),
}

impl From<io::Error> for HandshakeFailure {
    fn from(error: io::Error) -> Self {
        Self::System(error)
    }
}

impl Session {
    /// Carries the handshake out, each piece of work when it is its `turn`.
    pub(crate) async fn accept(
        socket: &Socket,
        config: Arc<ServerConfig>,
        turn: impl AsyncFn(),
    ) -> Result<(Self, TlsPeer), HandshakeFailure> {
        use tokio::io::Interest;

        let mut session = Self {
            connection: UnbufferedServerConnection::new(config).map_err(HandshakeFailure::Tls)?,
            incoming: Vec::new(),
            plaintext: Vec::new(),
            outgoing: Vec::new(),
            input: Input::Open,
            output: Output::Open,
        };
        let mut server_name = None;
        while session.connection.is_handshaking() || !session.is_flushed() {
            if !session.is_flushed() {
                socket.ready(Interest::WRITABLE).await?;
                unless_blocked(session.flush(socket))?;
                continue;
            }
            socket.ready(Interest::READABLE).await?;
            turn().await;
            unless_blocked(session.receive(socket, &mut []).map(drop))?;
            server_name = ASKED_FOR.take().or(server_name);
            match std::mem::replace(&mut session.input, Input::Open) {
                Input::Failed(error) => {
                    session.refuse(socket);
                    return Err(HandshakeFailure::Tls(*error));
                }
                // With the last handshake message everything may have come.
                Input::Ended if session.connection.is_handshaking() => {
                    return Err(HandshakeFailure::Closed);
                }
                input => session.input = input,
            }
        }
        let peer = session.peer(server_name);
        Ok((session, peer))
    }

    fn peer(&self, server_name: Option<Box<str>>) -> TlsPeer {
        let certificate = self.connection.peer_certificates().and_then(<[_]>::first);
        TlsPeer {
            version: match self.connection.protocol_version() {
                Some(ProtocolVersion::TLSv1_2) => "TLSv1.2",
                // No other is offered.
                _ => "TLSv1.3",
            },
            server_name,
            client: certificate.map(|certificate| TlsClient {
                subject: certificate::subject(certificate),
            }),
        }
    }

    /// Lets the peer know why, as well as can be done without waiting: the alert is on its way, and
    /// no unread bytes turn the close into a reset that overtakes it.
    fn refuse(&mut self, socket: &Socket) {
        if self.flush(socket).is_err() || socket.shutdown_write().is_err() {
            return;
        }
        for _ in 0..MAX_DISCARDED_READS {
            if !matches!(socket.read(&mut [0; 4096]), Ok(1..)) {
                return;
            }
        }
    }

    /// Tells whether reading has something to say without the socket.
    pub(crate) fn has_input(&self) -> bool {
        !self.plaintext.is_empty() || !matches!(self.input, Input::Open)
    }

    pub(crate) fn is_flushed(&self) -> bool {
        self.outgoing.is_empty()
    }

    /// Reads plain bytes.
    pub(crate) fn read(&mut self, socket: &Socket, buffer: &mut [u8]) -> io::Result<usize> {
        if buffer.is_empty() {
            return Ok(0);
        }
        loop {
            if !self.plaintext.is_empty() {
                let count = self.plaintext.len().min(buffer.len());
                buffer[..count].copy_from_slice(&self.plaintext[..count]);
                discard(&mut self.plaintext, count);
                return Ok(count);
            }
            match &self.input {
                Input::Open => {}
                Input::Ended => return Ok(0),
                Input::Failed(error) => return Err(invalid_data((**error).clone())),
            }
            // Ends with an error of the socket's, if there is nothing more to be had.
            let count = self.receive(socket, buffer)?;
            if count > 0 {
                return Ok(count);
            }
        }
    }

    /// Reads from the socket once and processes what has come. Returns how many plain bytes are in
    /// `buffer`; what it has no room for is kept.
    fn receive(&mut self, socket: &Socket, buffer: &mut [u8]) -> io::Result<usize> {
        SCRATCH.with_borrow_mut(|scratch| {
            let kept = self.incoming.len();
            let room = scratch.incoming.len().saturating_sub(kept).min(MAX_READ);
            if room < MIN_READ {
                return Err(invalid_data(rustls::Error::General(
                    "a handshake message is too long".to_owned(),
                )));
            }
            let size = buffer.len().saturating_sub(kept).clamp(MIN_READ, room);
            let count = socket.read(&mut scratch.incoming[kept..kept + size])?;
            if count == 0 {
                self.input = Input::Ended;
                return Ok(0);
            }
            scratch.incoming[..kept].copy_from_slice(&self.incoming);
            let incoming = &mut scratch.incoming[..kept + count];
            let mut filled = 0;
            let consumed = self.process(incoming, |plain| {
                let fits = plain.len().min(buffer.len() - filled);
                buffer[filled..filled + fits].copy_from_slice(&plain[..fits]);
                filled += fits;
                plain[fits..].to_vec()
            });
            self.incoming = match self.input {
                Input::Open => incoming[consumed..].to_vec(),
                Input::Ended | Input::Failed(_) => Vec::new(),
            };
            // Alerts, tickets, new keys. If it cannot be written now, whoever writes learns it.
            let _ = self.flush(socket);
            Ok(filled)
        })
    }

    /// Has rustls process `incoming`, which begins where the last call has ended. Returns how many
    /// bytes are done with. `deliver` takes plain bytes and returns those it has no room for.
    fn process(&mut self, incoming: &mut [u8], mut deliver: impl FnMut(&[u8]) -> Vec<u8>) -> usize {
        let mut consumed = 0;
        loop {
            let UnbufferedStatus { mut discard, state } = self
                .connection
                .process_tls_records(&mut incoming[consumed..]);
            let is_done = match state {
                Ok(ConnectionState::ReadTraffic(mut traffic)) => {
                    while let Some(record) = traffic.next_record() {
                        match record {
                            Ok(record) => {
                                discard += record.discard;
                                self.plaintext.append(&mut deliver(record.payload));
                            }
                            Err(error) => {
                                self.input = Input::Failed(Box::new(error));
                                break;
                            }
                        }
                    }
                    matches!(self.input, Input::Failed(_))
                }
                Ok(ConnectionState::EncodeTlsData(mut data)) => {
                    encode(&mut data, &mut self.outgoing);
                    false
                }
                Ok(ConnectionState::TransmitTlsData(data)) => {
                    data.done();
                    false
                }
                Ok(ConnectionState::PeerClosed) => {
                    self.input = Input::Ended;
                    false
                }
                Ok(ConnectionState::Closed) => {
                    self.input = Input::Ended;
                    true
                }
                Ok(ConnectionState::BlockedHandshake | ConnectionState::WriteTraffic(_)) => true,
                Ok(_) => {
                    let unexpected = "early data, which was not offered".to_owned();
                    self.input = Input::Failed(Box::new(rustls::Error::General(unexpected)));
                    true
                }
                Err(error) => {
                    self.input = Input::Failed(Box::new(error));
                    true
                }
            };
            consumed += discard;
            if is_done {
                break;
            }
        }
        if let Input::Failed(_) = self.input {
            self.encode_alert(&mut incoming[consumed..]);
        }
        consumed
    }

    /// Takes the alert that belongs to an error. rustls hands out what it has to say before it looks
    /// at `incoming` once more, which it must not.
    fn encode_alert(&mut self, incoming: &mut [u8]) {
        while self.connection.wants_write() {
            match self.connection.process_tls_records(incoming).state {
                Ok(ConnectionState::EncodeTlsData(mut data)) => {
                    encode(&mut data, &mut self.outgoing);
                }
                _ => return,
            }
        }
    }

    /// Encrypts and writes as much as the kernel takes.
    pub(crate) fn write(&mut self, socket: &Socket, pieces: &[IoSlice<'_>]) -> io::Result<usize> {
        if self.output != Output::Open || matches!(self.input, Input::Failed(_)) {
            return Err(io::ErrorKind::BrokenPipe.into());
        }
        self.flush(socket)?;
        let mut pieces = Pieces { pieces, start: 0 };
        let mut accepted = 0;
        SCRATCH.with_borrow_mut(|scratch| {
            loop {
                // Nothing is encrypted only to be kept.
                if !socket.may_write() {
                    return match accepted {
                        0 => Err(io::ErrorKind::WouldBlock.into()),
                        _ => Ok(accepted),
                    };
                }
                let chunk = pieces.next(&mut scratch.gathered);
                if chunk.is_empty() {
                    return Ok(accepted);
                }
                let out = &mut scratch.outgoing;
                out.clear();
                self.with_traffic(out, |traffic, out| {
                    append(out, encrypted_len(chunk.len()), |room| {
                        traffic.encrypt(chunk, room)
                    })
                })?;
                accepted += chunk.len();
                match socket.write(out) {
                    Ok(count) => self.outgoing.extend_from_slice(&out[count..]),
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                        self.outgoing.extend_from_slice(out);
                    }
                    Err(error) => return Err(error),
                }
            }
        })
    }

    /// Hands the kernel what it refused, and then the end, if that was asked for.
    pub(crate) fn flush(&mut self, socket: &Socket) -> io::Result<()> {
        while !self.outgoing.is_empty() {
            let count = socket.write(&self.outgoing)?;
            discard(&mut self.outgoing, count);
        }
        if self.output == Output::Closing {
            self.output = Output::Closed;
            socket.shutdown_write()?;
        }
        Ok(())
    }

    pub(crate) fn unflushed(&self) -> usize {
        self.outgoing.len()
    }

    /// Hands the kernel what it refused, even if it has not said that it takes bytes again.
    pub(crate) fn flush_unasked(&mut self, socket: &Socket) -> io::Result<()> {
        if !self.outgoing.is_empty() {
            let count = socket.write_unasked(&[IoSlice::new(&self.outgoing)])?;
            discard(&mut self.outgoing, count);
        }
        Ok(())
    }

    /// Sends the close alert, and shuts the socket down behind it.
    pub(crate) fn close(&mut self, socket: &Socket) -> io::Result<()> {
        if self.output == Output::Open {
            self.output = Output::Closing;
            // Who broke the protocol was sent another alert, and that is the last.
            if matches!(self.input, Input::Failed(_)) {
                return unless_blocked(self.flush(socket));
            }
            let mut alert = Vec::new();
            self.with_traffic(&mut alert, |traffic, out| {
                append(out, RECORD_OVERHEAD, |room| {
                    traffic.queue_close_notify(room)
                })
            })?;
            self.outgoing.append(&mut alert);
        }
        unless_blocked(self.flush(socket))
    }

    /// Runs `use_it` in the state in which bytes may be encrypted. What must go before them is put
    /// into `out`.
    fn with_traffic(
        &mut self,
        out: &mut Vec<u8>,
        use_it: impl FnOnce(
            &mut WriteTraffic<'_, ServerConnectionData>,
            &mut Vec<u8>,
        ) -> Result<(), EncryptError>,
    ) -> io::Result<()> {
        loop {
            let UnbufferedStatus { discard, state } =
                self.connection.process_tls_records(&mut self.incoming);
            match state.map_err(invalid_data)? {
                // What is kept has been processed as far as possible: nothing is done with by now.
                ConnectionState::WriteTraffic(mut traffic) if discard == 0 => {
                    return use_it(&mut traffic, out)
                        .map_err(|error| io::Error::other(error.to_string()));
                }
                ConnectionState::WriteTraffic(_) => {}
                ConnectionState::EncodeTlsData(mut data) => encode(&mut data, out),
                ConnectionState::TransmitTlsData(data) => data.done(),
                ConnectionState::PeerClosed => self.input = Input::Ended,
                _ => return Err(io::ErrorKind::BrokenPipe.into()),
            }
            self.incoming.drain(..discard);
        }
    }
}

/// Several pieces, taken in chunks of at most `CHUNK_LEN`.
struct Pieces<'a, 'b> {
    pieces: &'a [IoSlice<'b>],
    /// Where the first piece goes on.
    start: usize,
}

impl<'a> Pieces<'a, '_> {
    /// Returns the next bytes, gathered unless the next piece alone is worth a call; empty at the
    /// end.
    fn next<'c>(&mut self, gathered: &'c mut Vec<u8>) -> &'c [u8]
    where
        'a: 'c,
    {
        gathered.clear();
        while let Some((first, others)) = self.pieces.split_first() {
            let rest = &first[self.start..];
            let taken = rest.len().min(CHUNK_LEN - gathered.len());
            let is_last = taken == rest.len();
            if is_last {
                self.pieces = others;
                self.start = 0;
            } else {
                self.start += taken;
            }
            if gathered.is_empty() && (taken >= RECORD_LEN || others.is_empty()) {
                return &rest[..taken];
            }
            gathered.extend_from_slice(&rest[..taken]);
            if gathered.len() == CHUNK_LEN {
                break;
            }
        }
        gathered
    }
}

/// At most so many bytes are `len` ones when encrypted.
const fn encrypted_len(len: usize) -> usize {
    len + (len / RECORD_LEN + 1) * RECORD_OVERHEAD
}

fn encode(data: &mut EncodeTlsData<'_, ServerConnectionData>, out: &mut Vec<u8>) {
    if let Err(EncodeError::InsufficientSize(needed)) = data.encode(&mut []) {
        let written = append(out, needed.required_size, |room| data.encode(room));
        debug_assert!(written.is_ok(), "the room is what was asked for");
    }
}

/// Appends what `write` puts into `room` bytes.
fn append<E>(
    out: &mut Vec<u8>,
    room: usize,
    write: impl FnOnce(&mut [u8]) -> Result<usize, E>,
) -> Result<(), E> {
    let start = out.len();
    out.resize(start + room, 0);
    let written = write(&mut out[start..]);
    out.truncate(start + *written.as_ref().unwrap_or(&0));
    written.map(drop)
}

/// Removes `count` bytes in front; an empty vector holds no memory.
fn discard(bytes: &mut Vec<u8>, count: usize) {
    if count == bytes.len() {
        *bytes = Vec::new();
    } else {
        bytes.drain(..count);
    }
}

fn unless_blocked(result: io::Result<()>) -> io::Result<()> {
    match result {
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(()),
        result => result,
    }
}

fn invalid_data(error: rustls::Error) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, error)
}

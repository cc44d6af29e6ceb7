//! A connection's bytes: TCP, a Unix socket, or TLS over TCP. Nothing here waits.

use std::io::{self, ErrorKind, IoSlice, Read as _, Write as _};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use mio::net::{TcpStream, UnixStream};
use mio::{Interest, Registry, Token, event::Source as _};
use nix::sys::socket::{setsockopt, sockopt};
use rustls::ClientConnection;
use socket2::{Domain, Protocol, Socket, Type};

use super::target::{Place, Target};

/// A stream without blocking. Where the system would wait, the answer is
/// [`WouldBlock`](ErrorKind::WouldBlock).
#[derive(Debug)]
pub(super) enum Stream {
    Tcp(TcpStream),
    Unix(UnixStream),
    Tls(Box<Tls>),
}

#[derive(Debug)]
pub(super) struct Tls {
    session: ClientConnection,
    socket: TcpStream,
}

impl Stream {
    /// Begins to connect.
    pub(super) fn connect(target: &Target, local: Option<IpAddr>) -> io::Result<Self> {
        let addr = match &target.place {
            Place::Unix(path) => return Ok(Self::Unix(UnixStream::connect(path)?)),
            Place::Tcp(addr) => *addr,
        };
        let socket = connect(addr, local)?;
        Ok(match &target.tls {
            None => Self::Tcp(socket),
            Some((config, name)) => {
                let session = ClientConnection::new(Arc::clone(config), name.clone());
                let session = session.map_err(io::Error::other)?;
                Self::Tls(Box::new(Tls { session, socket }))
            }
        })
    }

    /// Asks to be told, once per change, when it can be read or written.
    pub(super) fn register(&mut self, registry: &Registry, token: Token) -> io::Result<()> {
        let interest = Interest::READABLE | Interest::WRITABLE;
        match self {
            Self::Tcp(socket) => socket.register(registry, token, interest),
            Self::Unix(socket) => socket.register(registry, token, interest),
            Self::Tls(tls) => tls.socket.register(registry, token, interest),
        }
    }

    /// Why it could not connect, if so.
    pub(super) fn take_error(&self) -> io::Result<Option<io::Error>> {
        match self {
            Self::Tcp(socket) => socket.take_error(),
            Self::Unix(socket) => socket.take_error(),
            Self::Tls(tls) => tls.socket.take_error(),
        }
    }

    pub(super) fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match self {
            Self::Tcp(socket) => socket.read(buffer),
            Self::Unix(socket) => socket.read(buffer),
            Self::Tls(tls) => tls.read(buffer),
        }
    }

    /// Tells whether a read that did not fill the buffer has taken all there was.
    pub(super) fn ends_with_short_reads(&self) -> bool {
        !matches!(self, Self::Tls(_))
    }

    pub(super) fn write(&mut self, slices: &[IoSlice<'_>]) -> io::Result<usize> {
        match self {
            Self::Tcp(socket) => socket.write_vectored(slices),
            Self::Unix(socket) => socket.write_vectored(slices),
            Self::Tls(tls) => tls.write(slices),
        }
    }

    /// Sends what TLS has made and the socket did not take yet.
    pub(super) fn flush(&mut self) -> io::Result<()> {
        match self {
            Self::Tcp(_) | Self::Unix(_) => Ok(()),
            Self::Tls(tls) => tls.flush(),
        }
    }
}

/// Begins to connect a TCP socket, from `local` if that is given.
fn connect(addr: SocketAddr, local: Option<IpAddr>) -> io::Result<TcpStream> {
    let socket = Socket::new(Domain::for_address(addr), Type::STREAM, Some(Protocol::TCP))?;
    socket.set_nonblocking(true)?;
    socket.set_tcp_nodelay(true)?;
    if let Some(local) = local {
        // The port is chosen when the other end is known, so it may serve several of these.
        setsockopt(&socket, sockopt::IpBindAddressNoPort, &true)?;
        socket.bind(&SocketAddr::new(local, 0).into())?;
    }
    match socket.connect(&addr.into()) {
        Err(error) if error.raw_os_error() != Some(nix::errno::Errno::EINPROGRESS as i32) => {
            Err(error)
        }
        Ok(()) | Err(_) => Ok(TcpStream::from_std(socket.into())),
    }
}

impl Tls {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        loop {
            match self.session.reader().read(buffer) {
                Err(error) if error.kind() == ErrorKind::WouldBlock => {}
                // An end without the alert that announces it is an end, as it is without TLS.
                Err(error) if error.kind() == ErrorKind::UnexpectedEof => return Ok(0),
                done => return done,
            }
            let count = self.session.read_tls(&mut self.socket)?;
            let processed = self.session.process_new_packets();
            // What it has to say, an alert for instance, goes out whatever came in.
            let flushed = self.flush();
            processed.map_err(|error| io::Error::new(ErrorKind::InvalidData, error))?;
            flushed?;
            if count == 0 {
                return Ok(0);
            }
        }
    }

    fn write(&mut self, slices: &[IoSlice<'_>]) -> io::Result<usize> {
        let count = self.session.writer().write_vectored(slices)?;
        self.flush()?;
        if count == 0 && slices.iter().any(|slice| !slice.is_empty()) {
            return Err(ErrorKind::WouldBlock.into());
        }
        Ok(count)
    }

    fn flush(&mut self) -> io::Result<()> {
        while self.session.wants_write() {
            match self.session.write_tls(&mut self.socket) {
                Ok(_) => {}
                // The next readiness goes on here.
                Err(error)
                    if matches!(
                        error.kind(),
                        ErrorKind::WouldBlock | ErrorKind::NotConnected
                    ) =>
                {
                    return Ok(());
                }
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }
}

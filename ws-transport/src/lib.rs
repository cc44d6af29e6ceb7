//! Listeners and byte streams: TCP, Unix sockets and TLS, behind proxies or not.
//!
//! A [`Listener`] is bound to a [`ListenAddr`] and yields [`Accepted`] sockets, each with the
//! address of its peer. An accepted socket is not yet tied to a runtime: it may be sent to another
//! thread and registered there, so that a connection lives on one thread from its first byte to its
//! last. Opened there, it is a [`Stream`], which is read and written by `try_read` and `try_write`
//! after its readiness was awaited. No buffer of ours lies between the caller and the kernel; over
//! TLS there are buffers of the thread, and of the connection only what cannot be finished yet.
//!
//! [`Accepted::open`] does what the address asks for: it reads a header of the PROXY protocol
//! ([`ProxyHeaderReader`] does that without I/O) and carries out the TLS handshake with the
//! certificates of a [`TlsAcceptor`].
//!
//! The crate knows nothing of what travels through the streams, neither HTTP nor WebSocket, and it
//! has no tasks, no timers and no policy. When to stop accepting and for how long is decided by
//! the caller; [`AcceptFailure`] tells it what went wrong.
//!
//! It is written for Linux: it binds Unix sockets through `/proc/self/fd` and relies on accepted
//! sockets inheriting the options of their listener.
//!
//! # Examples
//!
//! ```
//! use ws_transport::{BindOptions, ListenAddr, Listener};
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let addr: ListenAddr = "127.0.0.1:0".parse()?;
//! let listener = Listener::bind(&addr, &BindOptions::default())?;
//! assert!(listener.url().starts_with("ws://127.0.0.1:"));
//!
//! let port = listener.local_addr().port().expect("a TCP listener has a port");
//! let _client = std::net::TcpStream::connect(("127.0.0.1", port))?;
//!
//! let accepted = listener.accept().await?;
//! let stream = accepted.open().await?.stream;
//! stream.writable().await?;
//! assert_eq!(stream.try_write(b"hello")?, 5);
//! # Ok(())
//! # }
//! ```

mod addr;
mod error;
mod incoming;
mod inherited;
mod listener;
mod local;
mod proxy;
mod socket;
mod stream;
mod tcp;
mod tls;
mod unix;
mod watch;

pub use addr::{InvalidListenAddr, ListenAddr, ListenSocket};
pub use error::{AcceptFailure, BindError, OpenError};
pub use incoming::{Accepted, Incoming, Opened};
pub use inherited::{InheritError, Inherited};
pub use listener::{BindOptions, DetachedListener, Listener};
pub use local::{LocalAddr, PeerAddr};
pub use proxy::{ProxyHeader, ProxyHeaderError, ProxyHeaderReader};
pub use stream::Stream;
pub use tls::{
    CertificateWarning, ClientAuth, Prepared, Reload, SelfSigned, TlsAcceptor, TlsClient,
    TlsConfig, TlsError, TlsFile, TlsPeer,
};

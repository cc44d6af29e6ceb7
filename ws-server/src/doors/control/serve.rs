//! From listeners to requests.

use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpStream, UnixStream};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tracing::{debug, warn};
use ws_transport::{AcceptFailure, Accepted, Listener};

use super::stall::Unstalled;

/// Between two attempts to accept when descriptors have run out.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
/// What is read of a connection over TCP before it is looked at: the head of a request fits.
const TCP_BUFFER_SIZE: usize = 64 * 1024;

/// Answers those who may open the socket, until the task is dropped.
pub(super) async fn serve_unix(listener: Listener, router: Router) {
    let mut connections = JoinSet::new();
    loop {
        let stream = accept(&listener, &mut connections, |socket| {
            UnixStream::from_std(socket.into())
        });
        let stream = stream.await;
        connections.spawn(answer(stream, router.clone(), http1::Builder::new()));
    }
}

/// Answers whoever comes over TCP, until the task is dropped: so many at once, and no slower than
/// `timeout` for the head of a request, or to take something of an answer.
pub(super) async fn serve_tcp(
    listener: Listener,
    router: Router,
    timeout: Duration,
    max_connections: usize,
) {
    let mut http = http1::Builder::new();
    http.timer(TokioTimer::new())
        .header_read_timeout(timeout)
        .max_buf_size(TCP_BUFFER_SIZE);
    let places = Arc::new(Semaphore::new(max_connections));
    let mut connections = JoinSet::new();
    loop {
        // Those who find no place wait in the kernel's queue.
        let place = Arc::clone(&places).acquire_owned().await;
        let stream = accept(&listener, &mut connections, |socket| {
            TcpStream::from_std(socket.into())
        });
        let stream = stream.await;
        let stream = Unstalled::new(stream, timeout);
        let answers = answer(stream, router.clone(), http.clone());
        connections.spawn(async move {
            answers.await;
            drop(place);
        });
    }
}

async fn accept<S>(
    listener: &Listener,
    connections: &mut JoinSet<()>,
    register: impl Fn(OwnedFd) -> io::Result<S>,
) -> S {
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            // So that what has ended is not kept.
            Some(_) = connections.join_next() => continue,
        };
        let stream = accepted.and_then(|Accepted { socket, .. }| register(socket.into()));
        match stream {
            Ok(stream) => return stream,
            Err(error) => {
                if AcceptFailure::of(&error) != AcceptFailure::Passing {
                    warn!(%error, "the control API cannot accept");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
            }
        }
    }
}

async fn answer<S>(stream: S, router: Router, http: http1::Builder)
where
    S: AsyncRead + AsyncWrite + Send + Unpin + 'static,
{
    let service = TowerToHyperService::new(router);
    let served = http.serve_connection(TokioIo::new(stream), service).await;
    if let Err(error) = served {
        debug!(%error, "a connection to the control API ended early");
    }
}

//! fastwebsockets, behind hyper's upgrade. README.md has the contract.

mod support;

use std::convert::Infallible;
use std::io;

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use fastwebsockets::{FragmentCollector, Frame, OpCode, Payload, WebSocket, WebSocketError};
use http_body_util::Empty;
use hyper::body::{Bytes, Incoming};
use hyper::header::{CONNECTION, SEC_WEBSOCKET_ACCEPT, SEC_WEBSOCKET_KEY, UPGRADE};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::upgrade::Upgraded;
use hyper::{Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use sha1::{Digest as _, Sha1};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::broadcast::{self, error::RecvError};

use support::{Arguments, MAX_MESSAGE_SIZE, Result, Role, TOPIC_CAPACITY, runtime};

/// Whether it is text, and the payload.
type Published = (bool, Bytes);
type Topic = broadcast::Sender<Published>;
type Socket = FragmentCollector<TokioIo<Upgraded>>;

fn main() -> Result<()> {
    let arguments = Arguments::read()?;
    let tls = arguments.tls()?;
    runtime()?.block_on(async {
        let listener = arguments.listen().await?;
        let (topic, _) = broadcast::channel(TOPIC_CAPACITY);
        loop {
            let (stream, _) = listener.accept().await?;
            stream.set_nodelay(true)?;
            let (tls, topic) = (tls.clone(), topic.clone());
            tokio::spawn(async move {
                let Some(tls) = tls else {
                    return http(stream, topic).await;
                };
                if let Ok(stream) = tls.accept(stream).await {
                    http(stream, topic).await;
                }
            });
        }
    })
}

async fn http<S>(stream: S, topic: Topic)
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let service = service_fn(move |request| {
        let response = upgrade(request, &topic);
        async { Ok::<_, Infallible>(response) }
    });
    let connection = http1::Builder::new().serve_connection(TokioIo::new(stream), service);
    // An error is the end of that connection and nothing else.
    let _ = connection.with_upgrades().await;
}

/// What the library's feature `upgrade` does, with the versions of its crates that are here already.
fn upgrade(mut request: Request<Incoming>, topic: &Topic) -> Response<Empty<Bytes>> {
    let mut response = Response::new(Empty::new());
    let Some(key) = request.headers().get(SEC_WEBSOCKET_KEY) else {
        *response.status_mut() = StatusCode::BAD_REQUEST;
        return response;
    };
    let mut hash = Sha1::new();
    hash.update(key.as_bytes());
    hash.update(b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11");
    let accept = BASE64_STANDARD.encode(hash.finalize());
    let role = Role::of(request.uri().path());
    let upgraded = hyper::upgrade::on(&mut request);
    let topic = topic.clone();
    tokio::spawn(async move {
        let upgraded = upgraded.await.map_err(io::Error::other)?;
        let mut socket =
            WebSocket::after_handshake(TokioIo::new(upgraded), fastwebsockets::Role::Server);
        socket.set_max_message_size(MAX_MESSAGE_SIZE);
        let socket = FragmentCollector::new(socket);
        // As in the library's example: no turn is given up to others while there is input.
        tokio::task::unconstrained(async {
            match role {
                Role::Echo => echo(socket).await,
                Role::Subscriber => subscribe(socket, topic.subscribe()).await,
                Role::Publisher => publish(socket, &topic).await,
            }
        })
        .await
    });
    *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
    let headers = response.headers_mut();
    headers.insert(UPGRADE, "websocket".parse().expect("it is a header value"));
    headers.insert(CONNECTION, "upgrade".parse().expect("it is a header value"));
    headers.insert(
        SEC_WEBSOCKET_ACCEPT,
        accept.parse().expect("base64 is a header value"),
    );
    response
}

async fn echo(mut socket: Socket) -> std::result::Result<(), WebSocketError> {
    loop {
        let frame = socket.read_frame().await?;
        match frame.opcode {
            OpCode::Close => return Ok(()),
            OpCode::Text | OpCode::Binary => socket.write_frame(frame).await?,
            OpCode::Continuation | OpCode::Ping | OpCode::Pong => {}
        }
    }
}

async fn subscribe(
    mut socket: Socket,
    mut topic: broadcast::Receiver<Published>,
) -> std::result::Result<(), WebSocketError> {
    loop {
        // Reading is given up whenever a message is published. That could lose the beginning of a
        // frame, but all that a subscriber ever sends is a close frame, at the end.
        tokio::select! {
            frame = socket.read_frame() => {
                if frame?.opcode == OpCode::Close {
                    return Ok(());
                }
            }
            published = topic.recv() => match published {
                Ok((is_text, payload)) => {
                    let payload = Payload::Borrowed(&payload);
                    let frame = if is_text { Frame::text(payload) } else { Frame::binary(payload) };
                    socket.write_frame(frame).await?;
                }
                Err(RecvError::Lagged(_)) => {}
                Err(RecvError::Closed) => return Ok(()),
            },
        }
    }
}

async fn publish(mut socket: Socket, topic: &Topic) -> std::result::Result<(), WebSocketError> {
    loop {
        let frame = socket.read_frame().await?;
        match frame.opcode {
            OpCode::Close => return Ok(()),
            OpCode::Text | OpCode::Binary => {
                let payload = Bytes::copy_from_slice(&frame.payload);
                // Nobody may have subscribed.
                let _ = topic.send((frame.opcode == OpCode::Text, payload));
            }
            OpCode::Continuation | OpCode::Ping | OpCode::Pong => {}
        }
    }
}

//! tokio-tungstenite. README.md has the contract.

mod support;

use futures_util::{FutureExt as _, SinkExt as _, StreamExt as _};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::broadcast::{self, error::RecvError};
use tokio_tungstenite::tungstenite::handshake::server::{Request, Response};
use tokio_tungstenite::tungstenite::protocol::WebSocketConfig;
use tokio_tungstenite::tungstenite::{Error, Message};
use tokio_tungstenite::{WebSocketStream, accept_hdr_async_with_config};

use support::{Arguments, MAX_MESSAGE_SIZE, Result, Role, TOPIC_CAPACITY, runtime};

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
            // An error is the end of that connection and nothing else.
            tokio::spawn(async move {
                match tls {
                    None => serve(stream, topic).await,
                    Some(tls) => serve(tls.accept(stream).await?, topic).await,
                }
            });
        }
    })
}

async fn serve<S>(stream: S, topic: broadcast::Sender<Message>) -> std::result::Result<(), Error>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let mut role = Role::Echo;
    #[expect(clippy::result_large_err, reason = "the library's type")]
    let look = |request: &Request, response: Response| {
        role = Role::of(request.uri().path());
        Ok(response)
    };
    let config = WebSocketConfig::default()
        .max_message_size(Some(MAX_MESSAGE_SIZE))
        .max_frame_size(Some(MAX_MESSAGE_SIZE));
    let socket = accept_hdr_async_with_config(stream, look, Some(config)).await?;
    match role {
        Role::Echo => echo(socket).await,
        Role::Subscriber => subscribe(socket, topic.subscribe()).await,
        Role::Publisher => publish(socket, &topic).await,
    }
}

/// Replies to what has come together leave together, as with `StreamExt::forward`.
async fn echo<S>(mut socket: WebSocketStream<S>) -> std::result::Result<(), Error>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    while let Some(message) = socket.next().await {
        let mut message = Some(message?);
        while let Some(received) = message.take() {
            if received.is_text() || received.is_binary() {
                socket.feed(received).await?;
            }
            match socket.next().now_or_never() {
                Some(Some(next)) => message = Some(next?),
                Some(None) => return Ok(()),
                None => {}
            }
        }
        socket.flush().await?;
    }
    Ok(())
}

async fn subscribe<S>(
    mut socket: WebSocketStream<S>,
    mut topic: broadcast::Receiver<Message>,
) -> std::result::Result<(), Error>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    loop {
        tokio::select! {
            received = socket.next() => match received {
                Some(received) => drop(received?),
                None => return Ok(()),
            },
            message = topic.recv() => {
                match message {
                    Ok(message) => socket.feed(message).await?,
                    Err(RecvError::Lagged(_)) => continue,
                    Err(RecvError::Closed) => return Ok(()),
                }
                while let Ok(message) = topic.try_recv() {
                    socket.feed(message).await?;
                }
                socket.flush().await?;
            }
        }
    }
}

async fn publish<S>(
    mut socket: WebSocketStream<S>,
    topic: &broadcast::Sender<Message>,
) -> std::result::Result<(), Error>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    while let Some(message) = socket.next().await {
        let message = message?;
        if message.is_text() || message.is_binary() {
            // Nobody may have subscribed.
            let _ = topic.send(message);
        }
    }
    Ok(())
}

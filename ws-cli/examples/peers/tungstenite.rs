//! tokio-tungstenite. README.md has the contract.

mod support;

use std::future::poll_fn;
use std::task::{Poll, ready};

use futures_util::{SinkExt as _, StreamExt as _};
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
    // The library clears this buffer before each read, which with its default of 128 KiB costs six
    // times what a small message costs otherwise; and an idle connection keeps it.
    let config = WebSocketConfig::default()
        .read_buffer_size(16 * 1024)
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
    let mut reply = None;
    poll_fn(|cx| {
        loop {
            if reply.is_some() {
                ready!(socket.poll_ready_unpin(cx))?;
                if let Some(reply) = reply.take() {
                    socket.start_send_unpin(reply)?;
                }
            }
            match socket.poll_next_unpin(cx) {
                Poll::Ready(Some(message)) => {
                    reply = Some(message?).filter(|it| it.is_text() || it.is_binary());
                }
                Poll::Ready(None) => return Poll::Ready(Ok(())),
                Poll::Pending => {
                    ready!(socket.poll_flush_unpin(cx))?;
                    return Poll::Pending;
                }
            }
        }
    })
    .await
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

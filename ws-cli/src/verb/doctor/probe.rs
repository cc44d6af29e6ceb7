//! Opening handshakes and frames, seen from close by.

use std::fmt::{self, Display};
use std::time::Duration;

use futures_util::{SinkExt as _, StreamExt as _};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::time::{Instant, timeout, timeout_at};
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::handshake::client::generate_key;
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;
use tokio_tungstenite::tungstenite::protocol::Role;
use tokio_tungstenite::tungstenite::{Error, Message};

/// How long anything may take that takes no time where all is well.
pub(super) const PATIENCE: Duration = Duration::from_secs(5);

/// What of an answer is looked at.
const MAX_ANSWER_SIZE: usize = 64 * 1024;
const MAX_HEADERS: usize = 100;

/// What a WebSocket runs over.
pub(super) trait Bytes: AsyncRead + AsyncWrite + Unpin + Send {}

impl<T: AsyncRead + AsyncWrite + Unpin + Send> Bytes for T {}

/// An opening handshake.
#[derive(Clone, Copy, Debug)]
pub(super) struct Ask<'a> {
    /// Path and query.
    pub(super) target: &'a str,
    pub(super) host: &'a str,
    pub(super) origin: Option<&'a str>,
    /// Further ones.
    pub(super) headers: &'a [(String, String)],
    /// Whether compression is offered.
    pub(super) deflate: bool,
}

/// The head of an HTTP response, and the beginning of what follows.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Head {
    pub(super) status: u16,
    pub(super) headers: Vec<(String, String)>,
    pub(super) body: String,
}

impl Head {
    /// Returns the first header of that name.
    pub(super) fn header(&self, name: &str) -> Option<&str> {
        let mut headers = self.headers.iter();
        let found = headers.find(|(known, _)| known.eq_ignore_ascii_case(name));
        found.map(|(_, value)| value.as_str())
    }

    /// Whether a header of that name has this word.
    pub(super) fn has(&self, name: &str, word: &str) -> bool {
        self.headers
            .iter()
            .filter(|(known, _)| known.eq_ignore_ascii_case(name))
            .flat_map(|(_, value)| value.split(','))
            .any(|one| one.trim().eq_ignore_ascii_case(word))
    }
}

/// What came back.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Answer {
    Http {
        head: Head,
        /// Whether `Sec-WebSocket-Accept` is what the key asks for.
        accepts: bool,
    },
    /// Something else; this is how it begins.
    NotHttp(Vec<u8>),
    /// The end of the stream, without a word.
    Closed,
    /// A reset, say.
    Broken(String),
    /// Nothing for so long.
    Silent(Duration),
}

/// Makes an opening handshake. What was read behind a 101 is returned, too.
pub(super) async fn shake_hands(stream: &mut impl Bytes, ask: &Ask<'_>) -> (Answer, Vec<u8>) {
    let key = generate_key();
    let request = request(ask, &key);
    let mut bytes = Vec::new();
    let exchange = async {
        stream.write_all(request.as_bytes()).await?;
        stream.flush().await?;
        read_answer(stream, &mut bytes).await
    };
    let read = timeout(PATIENCE, exchange).await;
    let Some((mut head, body_at)) = parse(&bytes) else {
        let answer = match read {
            _ if !bytes.is_empty() => Answer::NotHttp(bytes),
            Ok(Ok(())) => Answer::Closed,
            Ok(Err(error)) => Answer::Broken(error.to_string()),
            Err(_) => Answer::Silent(PATIENCE),
        };
        return (answer, Vec::new());
    };
    let rest = bytes.split_off(body_at);
    let accepts = head.header("Sec-WebSocket-Accept") == Some(&derive_accept_key(key.as_bytes()));
    if head.status == 101 {
        return (Answer::Http { head, accepts }, rest);
    }
    head.body = String::from_utf8_lossy(&rest).into_owned();
    (Answer::Http { head, accepts }, Vec::new())
}

fn request(ask: &Ask<'_>, key: &str) -> String {
    let Ask { target, host, .. } = ask;
    let mut request = format!(
        "GET {target} HTTP/1.1\r\nHost: {host}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
         Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: {key}\r\nUser-Agent: ws-doctor\r\n"
    );
    if let Some(origin) = ask.origin {
        request += &format!("Origin: {origin}\r\n");
    }
    if ask.deflate {
        request += "Sec-WebSocket-Extensions: permessage-deflate\r\n";
    }
    for (name, value) in ask.headers {
        request += &format!("{name}: {value}\r\n");
    }
    request + "\r\n"
}

/// Reads until there is a head and, unless it is a 101, what its length says.
async fn read_answer(stream: &mut impl Bytes, bytes: &mut Vec<u8>) -> std::io::Result<()> {
    while bytes.len() < MAX_ANSWER_SIZE {
        if let Some((head, body_at)) = parse(bytes) {
            let len = head.header("Content-Length");
            let len = len.and_then(|len| len.parse::<usize>().ok());
            let is_whole = len.is_some_and(|len| bytes.len() - body_at >= len);
            if head.status == 101 || is_whole || bytes.ends_with(b"\r\n0\r\n\r\n") {
                return Ok(());
            }
        } else if !b"HTTP/".starts_with(bytes.get(..5).unwrap_or(bytes)) {
            return Ok(());
        }
        if stream.read_buf(bytes).await? == 0 {
            return Ok(());
        }
    }
    Ok(())
}

/// Reads a head, if it is whole, and where it ends.
pub(super) fn parse(bytes: &[u8]) -> Option<(Head, usize)> {
    let mut headers = [httparse::EMPTY_HEADER; MAX_HEADERS];
    let mut response = httparse::Response::new(&mut headers);
    let parsed = response.parse(bytes).ok()?;
    let httparse::Status::Complete(len) = parsed else {
        return None;
    };
    let headers = response.headers.iter();
    let headers = headers.map(|header| {
        let value = String::from_utf8_lossy(header.value).into_owned();
        (header.name.to_owned(), value)
    });
    let head = Head {
        status: response.code?,
        headers: headers.collect(),
        body: String::new(),
    };
    Some((head, len))
}

/// Why frames do not come.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Trouble {
    /// Nothing for so long.
    Silent(Duration),
    /// A close frame.
    Closed { code: u16, reason: String },
    /// The end without one.
    Cut(String),
    /// It broke the protocol.
    Protocol(String),
}

impl Display for Trouble {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Silent(span) => write!(f, "nothing comes for {}", seconds(*span)),
            Self::Closed { code, reason } if reason.is_empty() => {
                write!(f, "it was closed with {code}")
            }
            Self::Closed { code, reason } => write!(f, "it was closed with {code} {reason:?}"),
            Self::Cut(error) if error.is_empty() => f.write_str("it was cut without a close frame"),
            Self::Cut(error) => write!(f, "it was cut without a close frame: {error}"),
            Self::Protocol(error) => write!(f, "what comes is no WebSocket: {error}"),
        }
    }
}

/// Says how long as people do.
pub(super) fn seconds(span: Duration) -> String {
    format!("{:.1} s", span.as_secs_f64())
}

/// A WebSocket behind its handshake.
pub(super) struct Talk {
    stream: WebSocketStream<Box<dyn Bytes>>,
}

impl Talk {
    pub(super) async fn new(stream: Box<dyn Bytes>, read: Vec<u8>) -> Self {
        let stream = WebSocketStream::from_partially_read(stream, read, Role::Client, None).await;
        Self { stream }
    }

    /// Pings, and waits for the answer.
    pub(super) async fn ping(&mut self) -> Result<Duration, Trouble> {
        const PAYLOAD: &[u8] = b"ws doctor";
        self.ask(
            Message::Ping(PAYLOAD.into()),
            |message| matches!(message, Message::Pong(payload) if payload == PAYLOAD),
        )
        .await
    }

    /// Sends the text `ping`, which the server answers itself, and waits for `pong`.
    pub(super) async fn say_ping(&mut self) -> Result<Duration, Trouble> {
        self.ask(
            Message::text("ping"),
            |message| matches!(message, Message::Text(text) if text.as_str() == "pong"),
        )
        .await
    }

    async fn ask(
        &mut self,
        message: Message,
        is_answer: impl Fn(&Message) -> bool,
    ) -> Result<Duration, Trouble> {
        let begun = Instant::now();
        let exchange = async {
            self.stream.send(message).await.map_err(trouble)?;
            loop {
                if is_answer(&self.next().await?) {
                    return Ok(begun.elapsed());
                }
            }
        };
        let answered = timeout(PATIENCE, exchange).await;
        answered.unwrap_or(Err(Trouble::Silent(PATIENCE)))
    }

    async fn next(&mut self) -> Result<Message, Trouble> {
        match self.stream.next().await {
            Some(Ok(Message::Close(frame))) => {
                let (code, reason) = frame.map_or((1005, String::new()), |frame| {
                    (frame.code.into(), frame.reason.to_string())
                });
                Err(Trouble::Closed { code, reason })
            }
            Some(Ok(message)) => Ok(message),
            Some(Err(error)) => Err(trouble(error)),
            None => Err(Trouble::Cut(String::new())),
        }
    }

    /// Says nothing for so long but what the protocol asks for, and reports who does not bear it.
    pub(super) async fn be_silent(&mut self, asked: Duration) -> Silence {
        let begun = Instant::now();
        let mut last = begun;
        let mut pings = 0;
        let end = loop {
            match timeout_at(begun + asked, self.next()).await {
                Err(_) => break None,
                Ok(Err(trouble)) => break Some(trouble),
                Ok(Ok(message)) => {
                    last = Instant::now();
                    pings += usize::from(matches!(message, Message::Ping(_)));
                }
            }
        };
        Silence {
            asked,
            lasted: begun.elapsed(),
            quiet: last.elapsed(),
            pings,
            end,
        }
    }

    pub(super) async fn close(mut self) {
        let closing = async {
            self.stream.close(None).await?;
            while self.stream.next().await.is_some_and(|it| it.is_ok()) {}
            Ok::<(), Error>(())
        };
        // It served its purpose; how it ends is its own affair.
        let _ = timeout(PATIENCE, closing).await;
    }
}

fn trouble(error: Error) -> Trouble {
    match error {
        Error::ConnectionClosed | Error::AlreadyClosed => Trouble::Cut(String::new()),
        Error::Io(error) => Trouble::Cut(error.to_string()),
        Error::Protocol(
            tokio_tungstenite::tungstenite::error::ProtocolError::ResetWithoutClosingHandshake,
        ) => Trouble::Cut(String::new()),
        other => Trouble::Protocol(other.to_string()),
    }
}

/// What became of a connection on which nothing is said.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Silence {
    pub(super) asked: Duration,
    /// From its begin to its end.
    pub(super) lasted: Duration,
    /// From the last byte to its end.
    pub(super) quiet: Duration,
    /// Pings of the server in the meantime.
    pub(super) pings: usize,
    /// What ended it early.
    pub(super) end: Option<Trouble>,
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use tokio::io::duplex;

    use super::*;

    const ASK: Ask<'_> = Ask {
        target: "/",
        host: "localhost",
        origin: Some("http://localhost"),
        headers: &[],
        deflate: false,
    };

    /// What is made of an answer that is sent whatever is asked.
    async fn answered(answer: &[u8]) -> Answer {
        let (mut here, mut there) = duplex(1 << 20);
        there.write_all(answer).await.unwrap();
        there.shutdown().await.unwrap();
        shake_hands(&mut here, &ASK).await.0
    }

    #[tokio::test]
    async fn an_answer_is_read_with_its_body() {
        let answer = b"HTTP/1.1 426 Upgrade Required\r\nUpgrade: websocket\r\n\
                       Content-Length: 2\r\n\r\nno and more";
        let Answer::Http { head, accepts } = answered(answer).await else {
            panic!()
        };
        assert_eq!((head.status, accepts), (426, false));
        assert_eq!(head.header("upgrade"), Some("websocket"));
        assert!(head.body.starts_with("no"));
    }

    #[tokio::test]
    async fn what_is_no_answer_is_told_apart() {
        assert_eq!(answered(b"").await, Answer::Closed);
        let alert = [21, 3, 3, 0, 2, 2, 10];
        assert_eq!(answered(&alert).await, Answer::NotHttp(alert.to_vec()));
        assert!(matches!(answered(b"HTTP/1.1 2").await, Answer::NotHttp(_)));
    }

    #[tokio::test(start_paused = true)]
    async fn whoever_says_nothing_is_waited_for_so_long() {
        let (mut here, _there) = duplex(1 << 20);
        let (answer, _) = shake_hands(&mut here, &ASK).await;
        assert_eq!(answer, Answer::Silent(PATIENCE));
    }

    #[test]
    fn words_of_a_header_are_found_whatever_their_case() {
        let bytes = b"HTTP/1.1 101 x\r\nConnection: keep-alive, Upgrade\r\n\r\n";
        let (head, len) = parse(bytes).unwrap();
        assert_eq!(len, bytes.len());
        assert!(head.has("connection", "upgrade") && !head.has("connection", "close"));
    }

    proptest! {
        /// Whatever bytes come, and wherever they are cut, nothing panics and no head is made up.
        #[test]
        fn prop_arbitrary_bytes_are_no_head(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
            if let Some((head, len)) = parse(&bytes) {
                prop_assert!(len <= bytes.len() && head.status < 1000);
            }
        }
    }
}

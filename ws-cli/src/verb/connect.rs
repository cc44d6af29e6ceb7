//! `ws connect`: a client for people and scripts.

use std::fmt::Write;
use std::io::{self, BufRead, IsTerminal};
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use futures_util::{SinkExt, StreamExt};
use rustls::pki_types::ServerName;
use serde_json::json;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep_until};
use tokio_rustls::TlsConnector;
use tokio_tungstenite::tungstenite::client::IntoClientRequest;
use tokio_tungstenite::tungstenite::handshake::client::Request;
use tokio_tungstenite::tungstenite::http::{HeaderName, HeaderValue};
use tokio_tungstenite::tungstenite::protocol::CloseFrame;
use tokio_tungstenite::tungstenite::{Error, Message};
use tokio_tungstenite::{WebSocketStream, client_async};

use crate::args::ConnectArgs;
use crate::failure::{Code, Failure};
use crate::output;
use crate::verb::tls;

/// Lines that are read ahead of what the server takes.
const LINES_AHEAD: usize = 64;

pub(crate) fn run(args: &ConnectArgs) -> Result<(), Failure> {
    let request = request(args)?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("cannot start a runtime")?;
    runtime.block_on(async {
        let bytes = open(&request, args).await?;
        let (stream, _) = client_async(request, bytes)
            .await
            .map_err(|error| refused(&args.url, error))?;
        Session::new(stream, args).talk().await
    })
}

/// What a WebSocket runs over: TCP, or TLS over it.
trait Bytes: AsyncRead + AsyncWrite + Unpin {}

impl<T: AsyncRead + AsyncWrite + Unpin> Bytes for T {}

/// Opens the stream that the request asks for.
async fn open(request: &Request, args: &ConnectArgs) -> Result<Box<dyn Bytes>, Failure> {
    let url = &args.url;
    let usage = |message: &str| Failure::new(Code::Usage, format!("{url}: {message}"));
    let uri = request.uri();
    let is_secure = match uri.scheme_str() {
        Some("ws") => false,
        Some("wss") => true,
        _ => return Err(usage("not a ws:// or wss:// URL")),
    };
    let host = uri.host().filter(|host| !host.is_empty());
    let host = host
        .ok_or_else(|| usage("no host"))?
        .trim_matches(['[', ']']);
    let port = uri.port_u16().unwrap_or(if is_secure { 443 } else { 80 });
    // What is wrong with the certificates here is known before anybody is asked.
    let connector = if is_secure {
        let name =
            ServerName::try_from(host.to_owned()).map_err(|error| usage(&error.to_string()))?;
        let config = tls::client_config(args.ca.as_deref(), args.insecure)?;
        Some((TlsConnector::from(Arc::new(config)), name))
    } else {
        None
    };
    let socket = TcpStream::connect((host, port)).await.map_err(|error| {
        Failure::new(
            Code::Unreachable,
            format!("cannot connect to {url}: {error}"),
        )
    })?;
    let Some((connector, name)) = connector else {
        return Ok(Box::new(socket));
    };
    let stream = connector.connect(name, socket).await;
    let stream = stream.map_err(|error| {
        let hint = if is_about_certificate(&error) {
            " (--insecure accepts any, --ca FILE those in a file)"
        } else {
            ""
        };
        Failure::new(Code::Failed, format!("{url}: TLS: {error}{hint}"))
    })?;
    Ok(Box::new(stream))
}

fn is_about_certificate(error: &io::Error) -> bool {
    let cause = error.get_ref().and_then(|it| it.downcast_ref());
    matches!(cause, Some(rustls::Error::InvalidCertificate(_)))
}

fn request(args: &ConnectArgs) -> Result<Request, Failure> {
    let usage = |message: String| Failure::new(Code::Usage, message);
    let mut request = args
        .url
        .as_str()
        .into_client_request()
        .map_err(|error| usage(format!("{}: {error}", args.url)))?;
    for header in &args.header {
        let parsed = header.split_once(':').and_then(|(name, value)| {
            let name = HeaderName::from_bytes(name.trim().as_bytes()).ok()?;
            Some((name, HeaderValue::from_str(value.trim()).ok()?))
        });
        let (name, value) =
            parsed.ok_or_else(|| usage(format!("--header {header:?}: write NAME: VALUE")))?;
        request.headers_mut().append(name, value);
    }
    Ok(request)
}

fn refused(url: &str, error: Error) -> Failure {
    match error {
        Error::Http(response) => {
            let body = response.body().as_deref().unwrap_or_default();
            let text = String::from_utf8_lossy(body);
            let message = format!(
                "{url}: refused with {}: {}",
                response.status(),
                output::printable(text.trim())
            );
            Failure::new(Code::Failed, message)
        }
        Error::Url(error) => Failure::new(Code::Usage, format!("{url}: {error}")),
        Error::Io(error) => Failure::new(
            Code::Unreachable,
            format!("cannot connect to {url}: {error}"),
        ),
        error => Failure::new(Code::Failed, format!("{url}: {error}")),
    }
}

/// One connection, and how its messages are shown.
struct Session {
    stream: WebSocketStream<Box<dyn Bytes>>,
    lines: mpsc::Receiver<io::Result<String>>,
    wait: Duration,
    json: bool,
    /// Control characters of a peer must not reach a terminal.
    is_terminal: bool,
    /// Messages sent less messages received: answers that may still come.
    unanswered: u64,
}

impl Session {
    fn new(stream: WebSocketStream<Box<dyn Bytes>>, args: &ConnectArgs) -> Self {
        Self {
            stream,
            lines: stdin_lines(),
            wait: Duration::from_secs(args.wait),
            json: args.json,
            is_terminal: io::stdout().is_terminal(),
            unanswered: 0,
        }
    }

    async fn talk(mut self) -> Result<(), Failure> {
        let mut deadline = None;
        let mut is_closing = false;
        loop {
            if deadline.is_some() && self.unanswered == 0 && !is_closing {
                is_closing = true;
                self.close().await?;
            }
            let until = deadline.unwrap_or_else(Instant::now);
            tokio::select! {
                message = self.stream.next() => match message {
                    Some(Ok(Message::Close(frame))) => return self.closed(frame, is_closing),
                    Some(Ok(message)) => self.show(&message)?,
                    Some(Err(Error::ConnectionClosed)) | None if is_closing => return Ok(()),
                    Some(Err(error)) => return Err(Failure::new(Code::Failed, error)),
                    None => return Err(Failure::new(Code::Failed, "the connection ended without a close")),
                },
                line = self.lines.recv(), if deadline.is_none() => match line {
                    Some(line) => {
                        let text = line.context("cannot read stdin")?;
                        self.stream.send(Message::text(text)).await.context("cannot send")?;
                        self.unanswered += 1;
                    }
                    None => deadline = Some(Instant::now() + self.wait),
                },
                () = sleep_until(until), if deadline.is_some() => {
                    if is_closing {
                        return Ok(());
                    }
                    // The answers are late; the closing handshake gets the same time once more.
                    self.unanswered = 0;
                    deadline = Some(Instant::now() + self.wait.max(Duration::from_secs(1)));
                }
            }
        }
    }

    async fn close(&mut self) -> Result<(), Failure> {
        match self.stream.close(None).await {
            Ok(()) | Err(Error::ConnectionClosed) => Ok(()),
            Err(error) => Err(Failure::new(Code::Failed, error)),
        }
    }

    fn show(&mut self, message: &Message) -> Result<(), Failure> {
        match message {
            Message::Text(text) => {
                self.unanswered = self.unanswered.saturating_sub(1);
                if self.json {
                    return output::json(&json!({ "type": "text", "text": text.as_str() }));
                }
                if self.is_terminal {
                    let shown: Vec<String> = text.split('\n').map(output::printable).collect();
                    return output::line(shown.join("\n"));
                }
                output::line(text)
            }
            Message::Binary(bytes) => {
                self.unanswered = self.unanswered.saturating_sub(1);
                if self.json {
                    return output::json(
                        &json!({ "type": "binary", "base64": BASE64_STANDARD.encode(bytes) }),
                    );
                }
                output::line(hexadecimal(bytes))
            }
            Message::Ping(_) | Message::Pong(_) | Message::Close(_) | Message::Frame(_) => Ok(()),
        }
    }

    fn closed(&self, frame: Option<CloseFrame>, by_us: bool) -> Result<(), Failure> {
        let (code, reason) = frame.map_or((1005, String::new()), |frame| {
            (frame.code.into(), frame.reason.to_string())
        });
        if self.json {
            output::json(&json!({ "type": "close", "code": code, "reason": reason }))?;
        }
        if by_us || matches!(code, 1000 | 1005) {
            return Ok(());
        }
        let reason = output::printable(&reason);
        Err(Failure::new(
            Code::Failed,
            format!("closed by the server with {code} {reason}"),
        ))
    }
}

/// The lines of stdin. The thread that reads them is left behind at the end: it may wait for a
/// key that nobody presses.
fn stdin_lines() -> mpsc::Receiver<io::Result<String>> {
    let (sender, receiver) = mpsc::channel(LINES_AHEAD);
    std::thread::spawn(move || {
        for line in io::stdin().lock().lines() {
            if sender.blocking_send(line).is_err() {
                return;
            }
        }
    });
    receiver
}

fn hexadecimal(bytes: &[u8]) -> String {
    let mut text = String::with_capacity(bytes.len() * 3);
    for byte in bytes {
        write!(text, "{byte:02x} ").expect("writing to a string does not fail");
    }
    text.truncate(text.trim_end().len());
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::args::{Args, Verb};
    use clap::Parser;

    fn args(arguments: &[&str]) -> ConnectArgs {
        let arguments = ["ws", "connect"].iter().chain(arguments);
        match Args::try_parse_from(arguments).unwrap().verb {
            Some(Verb::Connect(args)) => args,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn headers_go_with_the_handshake() {
        let args = args(&[
            "--header",
            "Cookie: a=b; c=d",
            "--header",
            "X-Empty:",
            "ws://localhost/x?y",
        ]);
        let request = request(&args).unwrap();
        assert_eq!(request.headers()["cookie"], "a=b; c=d");
        assert_eq!(request.headers()["x-empty"], "");
        assert_eq!(request.uri(), "ws://localhost/x?y");
    }

    #[test]
    fn a_wrong_header_or_url_is_a_usage_error() {
        for wrong in [
            &["--header", "novalue", "ws://localhost/"][..],
            &["--header", "a b: c", "ws://localhost/"],
        ] {
            assert_eq!(request(&args(wrong)).unwrap_err().code(), Code::Usage);
        }
    }

    #[tokio::test]
    async fn a_url_that_leads_nowhere_is_a_usage_error_before_anybody_is_asked() {
        for wrong in [
            &["http://localhost/"][..],
            &["wss://a..b/"],
            &["--ca", "/dev/null", "wss://localhost/"],
        ] {
            let args = args(wrong);
            let Err(failure) = open(&request(&args).unwrap(), &args).await else {
                panic!("{wrong:?}");
            };
            let expected = if wrong.len() > 1 {
                Code::Failed
            } else {
                Code::Usage
            };
            assert_eq!(failure.code(), expected, "{failure}");
        }
    }

    #[test]
    fn bytes_are_shown_in_hexadecimal() {
        assert_eq!(hexadecimal(&[0, 255, 16]), "00 ff 10");
        assert_eq!(hexadecimal(&[]), "");
    }
}

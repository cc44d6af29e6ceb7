//! The way to an open connection, and what stands in it.

use std::io;
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustls::pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpStream, UnixStream};
use tokio_rustls::TlsConnector;
use tokio_tungstenite::tungstenite::Error;
use tokio_tungstenite::tungstenite::client::IntoClientRequest;
use tokio_tungstenite::tungstenite::error::{ProtocolError, SubProtocolError};
use tokio_tungstenite::tungstenite::handshake::client::{Request, Response};
use tokio_tungstenite::tungstenite::http::{
    HeaderMap, HeaderName, HeaderValue, StatusCode, header,
};
use tokio_tungstenite::{WebSocketStream, client_async};

use super::words;
use crate::args::ConnectArgs;
use crate::failure::{Code, Failure};
use crate::human;
use crate::output::printable;
use crate::verb::tls;

/// So much of what a refusal says is shown.
const MAX_BODY: usize = 500;

/// What a WebSocket runs over: TCP, TLS over it, or a Unix socket.
pub(super) trait Bytes: AsyncRead + AsyncWrite + Unpin {}

impl<T: AsyncRead + AsyncWrite + Unpin> Bytes for T {}

/// An open connection.
pub(super) struct Opened {
    pub(super) stream: WebSocketStream<Box<dyn Bytes>>,
    pub(super) subprotocol: Option<String>,
    /// What is told of the handshake, a line each.
    pub(super) facts: Vec<String>,
}

/// The opening handshake that the arguments ask for.
pub(super) fn request(args: &ConnectArgs) -> Result<Request, Failure> {
    let usage = |message: String| Failure::new(Code::Usage, message);
    // On a Unix socket the host is nobody's, and the path in the URL is the socket's.
    let url = match unix_path(&args.url) {
        Some("") => return Err(usage(format!("{}: no path", args.url))),
        Some(_) => "ws://localhost/",
        None => args.url.as_str(),
    };
    let mut request = url
        .into_client_request()
        .map_err(|error| usage(format!("{}: {error}", args.url)))?;
    let headers = request.headers_mut();
    for header in &args.header {
        let parsed = header.split_once(':').and_then(|(name, value)| {
            let name = HeaderName::from_bytes(name.trim().as_bytes()).ok()?;
            Some((name, HeaderValue::from_str(value.trim()).ok()?))
        });
        let (name, value) =
            parsed.ok_or_else(|| usage(format!("--header {header:?}: write NAME: VALUE")))?;
        headers.append(name, value);
    }
    if let Some(cookie) = args.cookie.iter().find(|cookie| !cookie.contains('=')) {
        return Err(usage(format!("--cookie {cookie:?}: write NAME=VALUE")));
    }
    let options = [
        ("--cookie", header::COOKIE, args.cookie.join("; ")),
        (
            "--origin",
            header::ORIGIN,
            args.origin.clone().unwrap_or_default(),
        ),
        (
            "--subprotocol",
            header::SEC_WEBSOCKET_PROTOCOL,
            args.subprotocol.join(", "),
        ),
    ];
    for (option, name, value) in options {
        if !value.is_empty() {
            let value = HeaderValue::from_str(&value)
                .map_err(|error| usage(format!("{option} {value:?}: {error}")))?;
            headers.append(name, value);
        }
    }
    Ok(request)
}

/// The path of a `ws+unix:` URL, as the server prints it.
fn unix_path(url: &str) -> Option<&str> {
    url.strip_prefix("ws+unix:")
}

/// Connects, and makes the handshake.
pub(super) async fn open(request: Request, args: &ConnectArgs) -> Result<Opened, Failure> {
    let begun = Instant::now();
    let opening = async {
        let (bytes, mut facts) = connect(&request, args).await?;
        let shaken = client_async(request, bytes).await;
        if let (true, Err(Error::Http(response))) = (args.verbose, &shaken) {
            facts.extend(head(response.status(), response.headers()));
            tell(&facts);
        }
        let (stream, response) = shaken.map_err(|error| refused(&args.url, error))?;
        facts.extend(head(response.status(), response.headers()));
        facts.push(format!("open after {}", human::duration(begun.elapsed())));
        let subprotocol = response.headers().get(header::SEC_WEBSOCKET_PROTOCOL);
        let subprotocol = subprotocol.map(shown);
        Ok(Opened {
            stream,
            subprotocol,
            facts,
        })
    };
    let opened = tokio::time::timeout(args.timeout, opening).await;
    opened.unwrap_or_else(|_| Err(late(&args.url, args.timeout)))
}

fn late(url: &str, timeout: Duration) -> Failure {
    let text = format!(
        "{url}: not open after {} (--timeout): nobody answers, or something between keeps the answer",
        human::duration(timeout)
    );
    Failure::new(Code::Unreachable, text)
}

/// Says the facts at once, where there is no session that could.
fn tell(facts: &[String]) {
    use std::io::Write;
    for fact in facts {
        // Nobody is left to tell if stderr cannot be written.
        let _ = writeln!(io::stderr(), "* {fact}");
    }
}

fn head(status: StatusCode, headers: &HeaderMap) -> Vec<String> {
    let mut lines = vec![format!("HTTP/1.1 {status}")];
    lines.extend(
        headers
            .iter()
            .map(|(name, value)| format!("{name}: {}", shown(value))),
    );
    lines
}

fn shown(value: &HeaderValue) -> String {
    printable(&String::from_utf8_lossy(value.as_bytes()))
}

/// Opens the stream that the request asks for.
async fn connect(
    request: &Request,
    args: &ConnectArgs,
) -> Result<(Box<dyn Bytes>, Vec<String>), Failure> {
    let url = &args.url;
    let usage = |message: &str| Failure::new(Code::Usage, format!("{url}: {message}"));
    let unreachable = |error: io::Error| {
        let text = format!("cannot connect to {url}: {error}");
        Failure::new(Code::Unreachable, text)
    };
    let begun = Instant::now();
    if let Some(path) = unix_path(url) {
        let socket = UnixStream::connect(path).await.map_err(unreachable)?;
        let took = human::duration(begun.elapsed());
        return Ok((Box::new(socket), vec![format!("connected in {took}")]));
    }
    let uri = request.uri();
    let is_secure = match uri.scheme_str() {
        Some("ws") => false,
        Some("wss") => true,
        _ => return Err(usage("not a ws://, wss:// or ws+unix: URL")),
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
    let begun = Instant::now();
    let socket = TcpStream::connect((host, port))
        .await
        .map_err(unreachable)?;
    let mut facts = Vec::new();
    if let Ok(peer) = socket.peer_addr() {
        facts.push(format!(
            "connected to {peer} in {}",
            human::duration(begun.elapsed())
        ));
    }
    let Some((connector, name)) = connector else {
        return Ok((Box::new(socket), facts));
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
    let (_, tls) = stream.get_ref();
    let version = tls.protocol_version().and_then(|it| it.as_str());
    let suite = tls
        .negotiated_cipher_suite()
        .and_then(|suite| suite.suite().as_str());
    let trust = if args.insecure {
        ", certificate not checked"
    } else {
        ""
    };
    facts.push(format!(
        "{}, {}{trust}",
        version.unwrap_or("TLS").replace("TLSv1_", "TLS 1."),
        suite.unwrap_or("unknown cipher suite")
    ));
    Ok((Box::new(stream), facts))
}

fn is_about_certificate(error: &io::Error) -> bool {
    let cause = error.get_ref().and_then(|it| it.downcast_ref());
    matches!(cause, Some(rustls::Error::InvalidCertificate(_)))
}

fn refused(url: &str, error: Error) -> Failure {
    match error {
        Error::Http(response) => refusal(url, &response),
        Error::Url(error) => Failure::new(Code::Usage, format!("{url}: {error}")),
        Error::Io(error) => Failure::new(
            Code::Unreachable,
            format!("{url}: the connection broke during the opening handshake: {error}"),
        ),
        Error::Protocol(ProtocolError::SecWebSocketSubProtocolError(
            SubProtocolError::NoSubProtocol,
        )) => Failure::new(
            Code::Failed,
            format!("{url}: the server speaks none of the subprotocols that were offered"),
        ),
        Error::Protocol(ProtocolError::HandshakeIncomplete) => Failure::new(
            Code::Failed,
            format!("{url}: the server ended the connection instead of answering"),
        ),
        error => Failure::new(Code::Failed, format!("{url}: {error}")),
    }
}

/// What a server said instead of 101, and what it may mean.
fn refusal(url: &str, response: &Response) -> Failure {
    let status = response.status();
    let code = match status {
        StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => Code::NotPermitted,
        StatusCode::TOO_MANY_REQUESTS | StatusCode::SERVICE_UNAVAILABLE => Code::TryLater,
        _ => Code::Failed,
    };
    let body = String::from_utf8_lossy(response.body().as_deref().unwrap_or_default());
    let body: String = body.trim().chars().take(MAX_BODY).collect();
    let mut text = format!("{url}: refused with {status}");
    if !body.is_empty() {
        text.push_str(&format!(": {}", printable(&body)));
    }
    for name in [header::LOCATION, header::RETRY_AFTER] {
        if let Some(value) = response.headers().get(&name) {
            text.push_str(&format!(" ({name}: {})", shown(value)));
        }
    }
    if let Some(meaning) = words::status(status.as_u16()) {
        text.push_str(&format!("\n  {meaning}"));
    }
    Failure::new(code, text)
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;
    use crate::args::{Args, Verb};

    fn args(arguments: &[&str]) -> ConnectArgs {
        let arguments = ["ws", "connect"].iter().chain(arguments);
        match Args::try_parse_from(arguments).unwrap().verb {
            Some(Verb::Connect(args)) => args,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn what_is_asked_for_goes_with_the_handshake() {
        let args = args(&[
            "-H",
            "Cookie: a=b; c=d",
            "--header",
            "X-Empty:",
            "--origin",
            "https://page",
            "-s",
            "chat",
            "-s",
            "log",
            "ws://localhost/x?y",
        ]);
        let request = request(&args).unwrap();
        assert_eq!(request.headers()["cookie"], "a=b; c=d");
        assert_eq!(request.headers()["x-empty"], "");
        assert_eq!(request.headers()["origin"], "https://page");
        assert_eq!(request.headers()["sec-websocket-protocol"], "chat, log");
        assert_eq!(request.uri(), "ws://localhost/x?y");
    }

    #[test]
    fn cookies_are_one_header() {
        let args = args(&["--cookie", "a=b", "--cookie", "c=d", "ws://localhost/"]);
        assert_eq!(request(&args).unwrap().headers()["cookie"], "a=b; c=d");
    }

    #[test]
    fn a_wrong_header_or_url_is_a_usage_error() {
        for wrong in [
            &["--header", "novalue", "ws://localhost/"][..],
            &["--header", "a b: c", "ws://localhost/"],
            &["--cookie", "novalue", "ws://localhost/"],
            &["--origin", "a\nb", "ws://localhost/"],
            &["ws+unix:"],
        ] {
            assert_eq!(request(&args(wrong)).unwrap_err().code(), Code::Usage);
        }
    }

    #[tokio::test]
    async fn a_url_that_leads_nowhere_is_a_usage_error_before_anybody_is_asked() {
        for (wrong, expected) in [
            (&["http://localhost/"][..], Code::Usage),
            (&["ws+unix:/nowhere/ws.sock"], Code::Unreachable),
            (&["wss://a..b/"], Code::Usage),
            (&["--ca", "/dev/null", "wss://localhost/"], Code::Failed),
        ] {
            let args = args(wrong);
            let Err(failure) = connect(&request(&args).unwrap(), &args).await else {
                panic!("{wrong:?}");
            };
            assert_eq!(failure.code(), expected, "{failure}");
        }
    }

    #[test]
    fn t71_what_a_refusal_says_is_shown_not_obeyed() {
        let response = hyper::Response::builder()
            .status(503)
            .header("retry-after", "7")
            .body(Some(b"full\x1b[2J\n".to_vec()))
            .unwrap();
        let failure = refusal("ws://a/", &response);
        assert_eq!(failure.code(), Code::TryLater);
        let text = failure.to_string();
        assert!(
            text.starts_with(
                "ws://a/: refused with 503 Service Unavailable: full\\u{1b}[2J (retry-after: 7)\n"
            ),
            "{text}"
        );
    }
}

//! The client of the control API: HTTP/1.1 over the Unix socket of the running server.

mod stream;

use std::fs::File;
use std::future::Future;
use std::io;
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, anyhow};
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Bytes;
use hyper::client::conn::http1;
use hyper::{Method, Request, StatusCode, header};
use hyper_util::rt::TokioIo;
use serde_json::Value;
use tokio::net::UnixStream;

use crate::args::{Client, Target};
use crate::config::{self, Layer, Surroundings};
use crate::failure::{Code, Failure};

pub(crate) use self::stream::stream;

/// Asks the running server, and returns the JSON that it answers.
pub(crate) fn call(
    client: &Client,
    method: Method,
    path: &str,
    body: Option<&Value>,
) -> Result<Value, Failure> {
    let candidates = candidates(client, &Surroundings::of_process()?)?;
    let request = request(method, path, body)?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("cannot start the runtime")?;
    runtime.block_on(async {
        let (stream, socket) = connect(&candidates).await?;
        exchange(stream, request)
            .await
            .map_err(|failure| failure.at(&socket))
    })
}

/// Renders a target as the control API takes it.
pub(crate) fn target(target: &Target) -> Value {
    let given = [
        ("user", &target.user),
        ("session", &target.session),
        ("connection", &target.connection),
    ];
    let named = given
        .into_iter()
        .find_map(|(kind, id)| Some((kind, id.as_ref()?)));
    named.map_or_else(
        || serde_json::json!({ "all": true }),
        |(kind, id)| serde_json::json!({ (kind): id }),
    )
}

/// Reads a number of the server's answer.
pub(crate) fn count(answer: &Value, name: &str) -> Result<u64, Failure> {
    let number = answer.get(name).and_then(Value::as_u64);
    number.ok_or_else(|| anyhow!("the server's answer has no number {name:?}").into())
}

/// The longest path that fits into a socket address, without its final NUL.
const MAX_SOCKET_PATH: usize = 107;
/// Everything the server is asked it answers at once; a stopped one must not hang a script.
const TIMEOUT: Duration = Duration::from_secs(30);
/// The list of 10,000 connections has some MiB.
const MAX_ANSWER_SIZE: usize = 1 << 30;

/// Lists where the server may be. Who names a socket means that one and no other.
fn candidates(client: &Client, surroundings: &Surroundings) -> Result<Vec<PathBuf>, Failure> {
    let directory = &surroundings.directory;
    let named = client.control.as_deref();
    let named = named.or_else(|| surroundings.variable("WS_CONTROL_SOCKET").map(Path::new));
    if let Some(path) = named {
        return Ok(vec![directory.join(path)]);
    }
    let raw = config::load(
        client.config.config.as_deref(),
        surroundings,
        Layer::default(),
    )?;
    let configured = config::check(&raw, surroundings)?.control_socket();
    let mut paths = vec![configured];
    for path in [
        directory.join("tmp/control.sock"),
        "/run/ws/control.sock".into(),
    ] {
        if !paths.contains(&path) {
            paths.push(path);
        }
    }
    Ok(paths)
}

/// Connects to the first socket that a server answers on.
async fn connect(paths: &[PathBuf]) -> Result<(UnixStream, PathBuf), Failure> {
    let mut tried = Vec::new();
    let mut code = Code::Unreachable;
    for path in paths {
        match connect_to(path).await {
            Ok(stream) => return Ok((stream, path.clone())),
            Err(error) => {
                if error.kind() == io::ErrorKind::PermissionDenied {
                    code = Code::NotPermitted;
                }
                tried.push(format!("\n  {}: {error}", path.display()));
            }
        }
    }
    Err(Failure::new(
        code,
        format!("no server is reached; tried{}", tried.concat()),
    ))
}

async fn connect_to(path: &Path) -> io::Result<UnixStream> {
    if path.as_os_str().len() <= MAX_SOCKET_PATH {
        return UnixStream::connect(path).await;
    }
    let (Some(parent), Some(name)) = (path.parent(), path.file_name()) else {
        return Err(io::ErrorKind::InvalidInput.into());
    };
    // A socket address has no room for the path, but for the descriptor of its directory.
    let directory = File::open(parent)?;
    let short = Path::new("/proc/self/fd")
        .join(directory.as_raw_fd().to_string())
        .join(name);
    UnixStream::connect(short).await
}

fn request(
    method: Method,
    path: &str,
    body: Option<&Value>,
) -> Result<Request<Full<Bytes>>, Failure> {
    let mut request = Request::builder()
        .method(method)
        .uri(path)
        .header(header::HOST, "localhost");
    if body.is_some() {
        request = request.header(header::CONTENT_TYPE, "application/json");
    }
    let body = body.map(Value::to_string).unwrap_or_default();
    let request = request.body(Full::new(Bytes::from(body)));
    Ok(request.context("cannot build the request")?)
}

/// Why an exchange failed after the connection was made.
#[derive(Debug)]
enum ExchangeError {
    /// The server refused; this is what it said.
    Refused(StatusCode, String),
    /// There was no answer, or none that can be understood.
    Broken(anyhow::Error),
}

impl ExchangeError {
    fn at(self, socket: &Path) -> Failure {
        match self {
            Self::Refused(status, message) => {
                let code = match status {
                    StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => Code::NotPermitted,
                    StatusCode::TOO_MANY_REQUESTS | StatusCode::SERVICE_UNAVAILABLE => {
                        Code::TryLater
                    }
                    _ => Code::Failed,
                };
                Failure::new(code, format!("the server refused: {message}"))
            }
            Self::Broken(error) => {
                let error = error.context(format!("no answer from {}", socket.display()));
                Failure::with_code(Code::Unreachable, error)
            }
        }
    }
}

impl<E: Into<anyhow::Error>> From<E> for ExchangeError {
    fn from(error: E) -> Self {
        Self::Broken(error.into())
    }
}

async fn exchange(
    stream: UnixStream,
    request: Request<Full<Bytes>>,
) -> Result<Value, ExchangeError> {
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
    let answer = async {
        let response = sender.send_request(request).await?;
        let status = response.status();
        let body = Limited::new(response.into_body(), MAX_ANSWER_SIZE)
            .collect()
            .await;
        let body = body.map_err(anyhow::Error::from_boxed)?.to_bytes();
        let json = serde_json::from_slice::<Value>(&body);
        if !status.is_success() {
            let told = json
                .ok()
                .and_then(|json| Some(json.get("error")?.as_str()?.to_owned()));
            let message = told.unwrap_or_else(|| status.to_string());
            return Err(ExchangeError::Refused(
                status,
                crate::output::printable(&message),
            ));
        }
        Ok(json.context("the answer is not JSON")?)
    };
    within(TIMEOUT, drive(connection, answer)).await
}

/// Polls `connection` beside `answer`, for it carries the bytes, and ends with the answer.
async fn drive<T>(
    connection: impl Future<Output = hyper::Result<()>>,
    answer: impl Future<Output = Result<T, ExchangeError>>,
) -> Result<T, ExchangeError> {
    tokio::pin!(connection, answer);
    tokio::select! {
        biased;
        answer = &mut answer => answer,
        // The answer then has what arrived, or ends with the reason.
        _ = &mut connection => answer.await,
    }
}

async fn within<T>(
    timeout: Duration,
    exchange: impl Future<Output = Result<T, ExchangeError>>,
) -> Result<T, ExchangeError> {
    tokio::time::timeout(timeout, exchange).await?
}

#[cfg(test)]
mod tests;

//! The client of the control API: HTTP/1.1 over the Unix socket of the running server, or over TCP.

mod stream;

use std::fmt::{self, Display};
use std::fs::File;
use std::future::Future;
use std::io;
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, anyhow};
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::{Bytes, Incoming};
use hyper::client::conn::http1;
use hyper::header::HeaderValue;
use hyper::{Method, Request, Response, StatusCode, header};
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpStream, UnixStream};
use tokio::task::JoinHandle;

use crate::args::{Client, Targets};
use crate::carbonphp;
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
    let ask = Ask {
        method,
        path,
        body,
        key: None,
        patience: TIMEOUT,
    };
    call_with(client, &ask)
}

/// Asks the running server in other words, and returns the JSON that it answers.
pub(crate) fn call_with(client: &Client, ask: &Ask<'_>) -> Result<Value, Failure> {
    let mut caller = Caller::new(client)?;
    runtime()?.block_on(async {
        let answer = caller.call(ask).await;
        answer.map_err(|error| caller.failure(error))
    })
}

/// Makes what calls are made in.
pub(crate) fn runtime() -> Result<tokio::runtime::Runtime, Failure> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build();
    Ok(runtime.context("cannot start the runtime")?)
}

/// One request.
#[derive(Debug)]
pub(crate) struct Ask<'a> {
    pub(crate) method: Method,
    pub(crate) path: &'a str,
    pub(crate) body: Option<&'a Value>,
    /// Makes it safe to repeat.
    pub(crate) key: Option<&'a str>,
    /// How long the answer may take to come.
    pub(crate) patience: Duration,
}

impl<'a> Ask<'a> {
    /// A question that changes nothing.
    pub(crate) fn get(path: &'a str) -> Self {
        Self {
            method: Method::GET,
            path,
            body: None,
            key: None,
            patience: TIMEOUT,
        }
    }
}

/// Renders a target as the control API takes it.
pub(crate) fn targets(to: &Targets) -> Value {
    let mut target = match to.named() {
        None => json!({ "all": true }),
        Some((kind, [id])) => json!({ (kind): id }),
        Some((kind, ids)) => json!({ (format!("{kind}s")): ids }),
    };
    let excepts = [
        ("user", &to.except_user),
        ("session", &to.except_session),
        ("connection", &to.except_connection),
    ];
    for (kind, id) in excepts {
        if let Some(id) = id {
            target["except"] = json!({ (kind): id });
        }
    }
    target
}

/// Reads a number of the server's answer.
pub(crate) fn count(answer: &Value, name: &str) -> Result<u64, Failure> {
    let number = answer.get(name).and_then(Value::as_u64);
    number.ok_or_else(|| anyhow!("the server's answer has no number {name:?}").into())
}

/// The longest path that fits into a socket address, without its final NUL.
const MAX_SOCKET_PATH: usize = 107;
/// What the server is asked it answers at once, unless it is to wait; a stopped one must not hang a
/// script.
pub(crate) const TIMEOUT: Duration = Duration::from_secs(30);
/// The list of 10,000 connections has some MiB.
const MAX_ANSWER_SIZE: usize = 1 << 30;

/// Where a server may be.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Address {
    Socket(PathBuf),
    /// `HOST:PORT`, over TCP.
    Http(String),
}

impl Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Socket(path) => path.display().fmt(f),
            Self::Http(authority) => write!(f, "http://{authority}/"),
        }
    }
}

impl Address {
    /// Reads what was named: the URL of a server, or the path of its socket.
    fn named(text: &Path, directory: &Path) -> Result<Self, Failure> {
        let url = text.to_str().and_then(|text| text.strip_prefix("http://"));
        let Some(url) = url else {
            return Ok(Self::Socket(directory.join(text)));
        };
        let authority = url.strip_suffix('/').unwrap_or(url);
        let is_whole = authority.rsplit_once(':').is_some_and(|(host, port)| {
            !host.is_empty() && !host.contains(['/', '@']) && port.parse::<u16>().is_ok()
        });
        if !is_whole {
            let text = format!("{} is not http://HOST:PORT", text.display());
            return Err(Failure::new(Code::Usage, text));
        }
        Ok(Self::Http(authority.to_owned()))
    }
}

/// Lists where the server may be. Who names one means that and no other.
fn candidates(client: &Client, surroundings: &Surroundings) -> Result<Vec<Address>, Failure> {
    let directory = &surroundings.directory;
    let named = client.control.as_deref();
    let named = named.or_else(|| surroundings.variable("WS_CONTROL_SOCKET").map(Path::new));
    if let Some(named) = named {
        return Ok(vec![Address::named(named, directory)?]);
    }
    let raw = config::load(
        client.config.config.as_deref(),
        surroundings,
        Layer::default(),
    )?;
    // Of an application that is not asked here the rest of the settings is not known.
    let configured = match carbonphp::state_dir(&raw, surroundings) {
        Some(state_dir) => state_dir.join("control.sock"),
        None => config::check(&raw, surroundings)?.control_socket(),
    };
    let mut paths = vec![configured];
    for path in [
        directory.join("tmp/control.sock"),
        "/run/ws/control.sock".into(),
    ] {
        if !paths.contains(&path) {
            paths.push(path);
        }
    }
    Ok(paths.into_iter().map(Address::Socket).collect())
}

/// The token that is shown at a door that asks for one: the first of the file, or else
/// `$WS_CONTROL_TOKEN`.
fn token(client: &Client, surroundings: &Surroundings) -> Result<Option<Token>, Failure> {
    let Some(path) = &client.token_file else {
        let variable = surroundings.variable("WS_CONTROL_TOKEN");
        return Ok(variable.map(|token| Token(token.to_string_lossy().into_owned())));
    };
    let text = std::fs::read_to_string(surroundings.directory.join(path))
        .with_context(|| format!("cannot read {}", path.display()))?;
    let mut lines = text.lines().map(str::trim);
    let token = lines.find(|line| !line.is_empty() && !line.starts_with('#'));
    let token = token.with_context(|| format!("there is no token in {}", path.display()))?;
    Ok(Some(Token(token.to_owned())))
}

/// A secret: it is never shown.
struct Token(String);

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Token(..)")
    }
}

/// Makes one request after another, over one connection as long as it lasts.
#[derive(Debug)]
pub(crate) struct Caller {
    candidates: Vec<Address>,
    token: Option<Token>,
    wire: Option<Wire>,
    /// Who answered last.
    address: Option<Address>,
}

#[derive(Debug)]
struct Wire {
    sender: http1::SendRequest<Full<Bytes>>,
    /// Carries the bytes.
    task: JoinHandle<()>,
}

impl Drop for Wire {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Caller {
    pub(crate) fn new(client: &Client) -> Result<Self, Failure> {
        let surroundings = Surroundings::of_process()?;
        Ok(Self {
            candidates: candidates(client, &surroundings)?,
            token: token(client, &surroundings)?,
            wire: None,
            address: None,
        })
    }

    /// Makes a request, and returns the JSON that is answered.
    pub(crate) async fn call(&mut self, ask: &Ask<'_>) -> Result<Value, CallError> {
        let answer = within(ask.patience, self.exchange(ask)).await?;
        Ok(serde_json::from_slice(&answer).context("the answer is not JSON")?)
    }

    /// Asks for something that is answered in JSON, at once.
    pub(crate) async fn get(&mut self, path: &str) -> Result<Value, CallError> {
        self.call(&Ask::get(path)).await
    }

    /// Asks for something that is answered in text, at once.
    pub(crate) async fn get_text(&mut self, path: &str) -> Result<String, CallError> {
        let answer = within(TIMEOUT, self.exchange(&Ask::get(path))).await?;
        Ok(String::from_utf8(answer.into()).context("the answer is not UTF-8")?)
    }

    /// Says what went wrong as the command does.
    pub(crate) fn failure(&self, error: CallError) -> Failure {
        match (error, &self.address) {
            (CallError::Unreachable(failure), _) => failure,
            (error, Some(address)) => error.at(address),
            (error, None) => error.at(&"the server"),
        }
    }

    async fn exchange(&mut self, ask: &Ask<'_>) -> Result<Bytes, CallError> {
        let mut wire = self.wire().await?;
        wire.sender.ready().await?;
        let request = request(ask, self.address.as_ref(), self.token.as_ref())?;
        let response = wire.sender.send_request(request).await?;
        let answer = read_answer(response).await;
        if !matches!(answer, Err(CallError::Broken(_))) {
            self.wire = Some(wire);
        }
        answer
    }

    /// The connection that is kept, or a new one.
    async fn wire(&mut self) -> Result<Wire, CallError> {
        match self.wire.take() {
            Some(wire) if !wire.sender.is_closed() => Ok(wire),
            _ => {
                let (stream, address) = connect(&self.candidates)
                    .await
                    .map_err(CallError::Unreachable)?;
                self.candidates = vec![address.clone()];
                self.address = Some(address);
                let (sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
                let task = tokio::spawn(async move {
                    // What went wrong is what the request ends with.
                    let _ = connection.await;
                });
                Ok(Wire { sender, task })
            }
        }
    }
}

/// What bytes go over.
trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}

impl<S: AsyncRead + AsyncWrite + Send + Unpin> Stream for S {}

/// Connects to the first address that a server answers on.
async fn connect(addresses: &[Address]) -> Result<(Box<dyn Stream>, Address), Failure> {
    let mut tried = Vec::new();
    let mut code = Code::Unreachable;
    for address in addresses {
        let connected: io::Result<Box<dyn Stream>> = match address {
            Address::Socket(path) => connect_to(path).await.map(|stream| Box::new(stream) as _),
            Address::Http(authority) => TcpStream::connect(authority)
                .await
                .map(|stream| Box::new(stream) as _),
        };
        match connected {
            Ok(stream) => return Ok((stream, address.clone())),
            Err(error) => {
                if error.kind() == io::ErrorKind::PermissionDenied {
                    code = Code::NotPermitted;
                }
                tried.push(format!("\n  {address}: {error}"));
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
    ask: &Ask<'_>,
    address: Option<&Address>,
    token: Option<&Token>,
) -> Result<Request<Full<Bytes>>, CallError> {
    let host = match address {
        Some(Address::Http(authority)) => authority,
        _ => "localhost",
    };
    let mut request = Request::builder()
        .method(ask.method.clone())
        .uri(ask.path)
        .header(header::HOST, host);
    if let (Some(Address::Http(_)), Some(Token(token))) = (address, token) {
        let mut value = HeaderValue::from_str(&format!("Bearer {token}"))
            .context("the token cannot be sent")?;
        value.set_sensitive(true);
        request = request.header(header::AUTHORIZATION, value);
    }
    if let Some(key) = ask.key {
        request = request.header("idempotency-key", quoted(key));
    }
    if ask.body.is_some() {
        request = request.header(header::CONTENT_TYPE, "application/json");
    }
    let body = ask.body.map(Value::to_string).unwrap_or_default();
    let request = request.body(Full::new(Bytes::from(body)));
    Ok(request.context("cannot build the request")?)
}

/// RFC 8941 §3.3.3: a string.
fn quoted(text: &str) -> String {
    let escaped = text.replace('\\', "\\\\").replace('"', "\\\"");
    format!("\"{escaped}\"")
}

/// Why a call failed.
#[derive(Debug)]
pub(crate) enum CallError {
    /// There is no server.
    Unreachable(Failure),
    /// The server refused; this is what it said.
    Refused {
        status: StatusCode,
        message: String,
        /// When it may be asked again.
        retry_after: Option<Duration>,
    },
    /// There was no answer, or none that can be understood.
    Broken(anyhow::Error),
}

impl CallError {
    fn at(self, server: &dyn Display) -> Failure {
        match self {
            Self::Unreachable(failure) => failure,
            Self::Refused {
                status, message, ..
            } => {
                let code = match status {
                    StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => Code::NotPermitted,
                    StatusCode::CONFLICT
                    | StatusCode::TOO_MANY_REQUESTS
                    | StatusCode::SERVICE_UNAVAILABLE => Code::TryLater,
                    _ => Code::Failed,
                };
                Failure::new(code, format!("the server refused: {message}"))
            }
            Self::Broken(error) => {
                let error = error.context(format!("no answer from {server}"));
                Failure::with_code(Code::Unreachable, error)
            }
        }
    }
}

impl<E: Into<anyhow::Error>> From<E> for CallError {
    fn from(error: E) -> Self {
        Self::Broken(error.into())
    }
}

async fn read_answer(response: Response<Incoming>) -> Result<Bytes, CallError> {
    let status = response.status();
    let retry_after = response.headers().get(header::RETRY_AFTER);
    let retry_after = retry_after.and_then(|value| value.to_str().ok()?.parse().ok());
    let body = Limited::new(response.into_body(), MAX_ANSWER_SIZE)
        .collect()
        .await;
    let body = body.map_err(anyhow::Error::from_boxed)?.to_bytes();
    if !status.is_success() {
        let json = serde_json::from_slice::<Value>(&body).ok();
        let told = json.and_then(|json| Some(json.get("error")?.as_str()?.to_owned()));
        let message = told.unwrap_or_else(|| status.to_string());
        return Err(CallError::Refused {
            status,
            message: crate::output::printable(&message),
            retry_after: retry_after.map(Duration::from_secs),
        });
    }
    Ok(body)
}

async fn within<T>(
    patience: Duration,
    exchange: impl Future<Output = Result<T, CallError>>,
) -> Result<T, CallError> {
    tokio::time::timeout(patience, exchange).await?
}

#[cfg(test)]
mod tests;

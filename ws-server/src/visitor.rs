//! The browser on the other end, as callbacks see it.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use tracing::{Span, info_span};
use ws_ipc::{Environment, EnvironmentError};
use ws_proto::handshake::RequestHead;
use ws_session::{ConnectionId, SessionId, UserId};
use ws_transport::TlsPeer;

use crate::config::split_authority;
use crate::core::question::{Occasion, Question};
use crate::core::span::Origin;
use crate::core::trace::Trace;
use crate::core::turns::MessageId;
use crate::core::uri::Uri;

/// What the software calls itself (`SERVER_SOFTWARE`).
pub(crate) const SERVER_SOFTWARE: &str = concat!("ws/", env!("CARGO_PKG_VERSION"));

/// Where programs are looked for unless the configuration says otherwise.
pub const DEFAULT_PATH: &str = "/usr/local/bin:/usr/bin:/bin";

/// The header in which a client offers subprotocols.
const PROTOCOLS: &str = "Sec-WebSocket-Protocol";

/// Who is connected and how the opening handshake was made: the part of a callback's variables
/// (RFC 3875 §4.1) that is the same for every message of the connection.
#[derive(Clone, Debug)]
pub(crate) struct Visitor {
    pub(crate) connection: ConnectionId,
    pub(crate) session: SessionId,
    /// `None` while that is being asked.
    pub(crate) user: Option<UserId>,
    /// The address of the other end of the connection, which may be a proxy.
    pub(crate) peer: Option<SocketAddr>,
    /// The request target of the opening handshake.
    pub(crate) target: Arc<str>,
    /// Only what is the visitor's own, for it is kept as long as the connection; `None` if no
    /// callback asks for it.
    env: Option<Box<Environment>>,
    /// Where traces of the connection begin; `None` if nothing is recorded of anybody.
    origin: Option<Box<Origin>>,
}

/// What the variables of a visitor are made of.
#[derive(Debug)]
pub(crate) struct Arrival<'a> {
    /// The request target of its head, which others may keep as well.
    pub(crate) target: Arc<str>,
    pub(crate) head: &'a RequestHead,
    pub(crate) connection: ConnectionId,
    pub(crate) session: &'a SessionId,
    /// The visitor's address, which is not the peer's behind a trusted proxy.
    pub(crate) addr: Option<IpAddr>,
    /// The visitor's port, if it is known.
    pub(crate) port: Option<u16>,
    pub(crate) peer: Option<SocketAddr>,
    pub(crate) local: Option<SocketAddr>,
    /// Whether the visitor uses https, if only as far as a trusted proxy.
    pub(crate) https: bool,
    /// What the handshake told, if TLS ends here.
    pub(crate) tls: Option<&'a TlsPeer>,
    /// What callbacks see of the subprotocols where one of those offered is a credential.
    pub(crate) protocols: Option<&'a str>,
}

/// The variables that are the same for every visitor of a server.
///
/// # Errors
///
/// If a path cannot be a variable.
pub(crate) fn common_environment(
    control_socket: &str,
    global_fifo: Option<&str>,
) -> Result<Environment, EnvironmentError> {
    let mut env = Environment::new();
    env.set("PATH", DEFAULT_PATH)?;
    env.set("GATEWAY_INTERFACE", "CGI/1.1")?;
    env.set("SERVER_SOFTWARE", SERVER_SOFTWARE)?;
    env.set("SERVER_PROTOCOL", "HTTP/1.1")?;
    env.set("SCRIPT_NAME", "")?;
    env.set("WS_CONTROL_SOCKET", control_socket)?;
    if let Some(path) = global_fifo {
        env.set("WS_GLOBAL_FIFO", path)?;
    }
    Ok(env)
}

impl Visitor {
    /// A visitor for whom no callback is ever run.
    pub(crate) fn without_variables(arrival: &Arrival<'_>) -> Self {
        Self {
            connection: arrival.connection,
            session: *arrival.session,
            user: None,
            peer: arrival.peer,
            target: Arc::clone(&arrival.target),
            env: None,
            origin: None,
        }
    }

    /// Gathers the variables that are known before the user is.
    ///
    /// # Errors
    ///
    /// If a value cannot be a variable, or all together are too large.
    pub(crate) fn new(arrival: &Arrival<'_>) -> Result<Self, EnvironmentError> {
        let head = arrival.head;
        let host = head.header("Host").and_then(split_authority);
        let (server_name, host_port) = host.unwrap_or(("", None));
        let default_port = if arrival.https { 443 } else { 80 };
        let port = host_port
            .or_else(|| arrival.local.map(|local| local.port()))
            .unwrap_or(default_port);
        let mut env = Environment::new();
        env.set("SERVER_NAME", server_name)?;
        env.set("SERVER_PORT", port.to_string())?;
        if let Some(addr) = arrival.addr {
            env.set("REMOTE_ADDR", addr.to_string())?;
        }
        if let Some(port) = arrival.port {
            env.set("REMOTE_PORT", port.to_string())?;
        }
        if arrival.https {
            env.set("HTTPS", "on")?;
        }
        if let Some(tls) = arrival.tls {
            set_tls(&mut env, tls)?;
        }
        for (name, value) in head.iter() {
            let is_concealed = arrival.protocols.is_some() && name.eq_ignore_ascii_case(PROTOCOLS);
            if !is_concealed {
                env.header(name, value)?;
            }
        }
        if let Some(protocols) = arrival.protocols {
            env.header(PROTOCOLS, protocols)?;
        }
        Ok(Self {
            env: Some(Box::new(env)),
            ..Self::without_variables(arrival)
        })
    }

    /// Adds who the visitor turned out to be, in which session, and the FIFOs made for it.
    ///
    /// # Errors
    ///
    /// If the variables become too large.
    pub(crate) fn identify(
        &mut self,
        user: &UserId,
        session: SessionId,
        fifo: Option<&str>,
        user_fifo: Option<&str>,
    ) -> Result<(), EnvironmentError> {
        self.user = Some(user.clone());
        self.session = session;
        let Some(env) = &mut self.env else {
            return Ok(());
        };
        if let Some(path) = fifo {
            env.set("WS_FIFO", path)?;
        }
        if let Some(path) = user_fifo {
            env.set("WS_USER_FIFO", path)?;
        }
        env.shrink_to_fit();
        Ok(())
    }

    /// What the log says of the request target: the query may hold a token.
    pub(crate) fn path(&self) -> &str {
        self.target.split('?').next().unwrap_or_default()
    }

    /// A span for one line of the log.
    ///
    /// It is made anew for each line: one that lived as long as the connection would keep the
    /// subscriber's copy of its fields in memory all that time.
    pub(crate) fn span(&self) -> Span {
        info_span!(
            "connection",
            conn.id = %self.connection,
            peer.addr = self.peer.map(tracing::field::display),
            session.id = %self.session,
            user.id = self.user.as_ref().map(tracing::field::display)
        )
    }

    /// Forgets the variables of one whom no callback will be run for.
    pub(crate) fn forget_variables(&mut self) {
        self.env = None;
    }

    fn environment(&self, common: &Environment) -> Result<Environment, EnvironmentError> {
        let mut env = common.clone();
        if let Some(own) = &self.env {
            env.extend(own)?;
        }
        env.set("WS_CONNECTION_ID", self.connection.to_string())?;
        env.set("WS_SESSION_ID", self.session.to_string())?;
        if let Some(user) = &self.user {
            env.set("REMOTE_USER", user.as_str())?;
            env.set("WS_USER_ID", user.as_str())?;
        }
        Ok(env)
    }

    /// The variables of the validation callback.
    ///
    /// # Errors
    ///
    /// If they are too large.
    pub(crate) fn validation_environment(
        &self,
        common: &Environment,
        trace: Option<Trace>,
    ) -> Result<Environment, EnvironmentError> {
        let mut env = self.environment(common)?;
        let added = [
            ("WS_EVENT", "validate"),
            ("REQUEST_METHOD", "GET"),
            ("CONTENT_LENGTH", "0"),
        ];
        added
            .into_iter()
            .try_for_each(|(name, value)| env.set(name, value))
            .and_then(|()| set_request(&mut env, Uri::parse(self.target.as_bytes()), &self.target))
            .and_then(|()| set_trace(&mut env, trace))?;
        Ok(env)
    }

    /// The variables of a program that runs as long as the connection: those that websocketd's
    /// programs know among them.
    ///
    /// # Errors
    ///
    /// If they are too large.
    pub(crate) fn stream_environment(
        &self,
        common: &Environment,
        trace: Option<Trace>,
    ) -> Result<Environment, EnvironmentError> {
        let mut env = self.environment(common)?;
        let uri = Uri::parse(self.target.as_bytes());
        set_request(&mut env, uri, &self.target)?;
        env.set("WS_EVENT", "stream")?;
        env.set("REQUEST_METHOD", "GET")?;
        env.set("UNIQUE_ID", self.connection.to_string())?;
        for (copy, name) in [
            ("REMOTE_HOST", "REMOTE_ADDR"),
            ("PATH_TRANSLATED", "PATH_INFO"),
        ] {
            if let Some(value) = env.get(name).map(<[u8]>::to_vec) {
                env.set(copy, value)?;
            }
        }
        set_trace(&mut env, trace)?;
        Ok(env)
    }

    /// Has what is done for the visitor lead back to the handshake in traces.
    pub(crate) fn trace_from(&mut self, origin: Origin) {
        self.origin = Some(Box::new(origin));
    }

    pub(crate) fn origin(&self) -> Option<Origin> {
        self.origin.as_deref().copied()
    }

    /// Begins a trace, or a span in the one that the handshake named; `None` without randomness,
    /// and the run goes on without it.
    pub(crate) fn begin_trace(&self) -> Option<Trace> {
        let mut random = [0; 24];
        getrandom::fill(&mut random).ok()?;
        let named = self
            .env
            .as_ref()
            .and_then(|env| env.get("HTTP_TRACEPARENT"));
        Some(Trace::begin(named.and_then(Trace::parse), random))
    }

    /// The variables of the callback for one message or another event.
    ///
    /// # Errors
    ///
    /// If they are too large.
    pub(crate) fn message_environment(
        &self,
        common: &Environment,
        id: MessageId,
        question: &Question,
        trace: Option<Trace>,
    ) -> Result<Environment, EnvironmentError> {
        let mut env = self.environment(common)?;
        let uri = question.uri();
        let is_get = uri.is_some() || !question.event.is_message();
        let method = if is_get { "GET" } else { "POST" };
        let length = question.payload.len().to_string();
        let id = id.to_string();
        let mut added = vec![
            ("WS_EVENT", question.event.as_str()),
            ("REQUEST_METHOD", method),
            ("CONTENT_LENGTH", &length),
            ("WS_SOURCE", question.source.as_str()),
        ];
        if question.event.is_message() {
            added.push(("WS_MESSAGE_ID", &id));
            added.push(("WS_MESSAGE_TYPE", question.kind_name()));
        }
        set_event(&mut env, question.event)?;
        let uri = uri.or_else(|| Uri::parse(self.target.as_bytes()));
        added
            .into_iter()
            .try_for_each(|(name, value)| env.set(name, value))
            .and_then(|()| set_request(&mut env, uri, &self.target))
            .and_then(|()| set_trace(&mut env, trace))?;
        Ok(env)
    }
}

fn set_event(env: &mut Environment, event: Occasion) -> Result<(), EnvironmentError> {
    if let Some(standing) = event.standing() {
        env.set("WS_GENERATION", standing.generation.to_string())?;
        env.set("WS_USER_CONNECTIONS", standing.connections.to_string())?;
    }
    if let Occasion::Close { code, cause, .. } = event {
        env.set("WS_CLOSE_CODE", code.to_string())?;
        env.set("WS_CLOSE_CAUSE", cause)?;
    }
    Ok(())
}

/// The variables that Apache's mod_ssl has for it.
fn set_tls(env: &mut Environment, tls: &TlsPeer) -> Result<(), EnvironmentError> {
    env.set("SSL_PROTOCOL", tls.version)?;
    if let Some(name) = &tls.server_name {
        env.set("SSL_TLS_SNI", name.as_bytes())?;
    }
    if let Some(client) = &tls.client {
        env.set("SSL_CLIENT_VERIFY", "SUCCESS")?;
        if let Some(subject) = &client.subject {
            env.set("SSL_CLIENT_S_DN", subject)?;
        }
    }
    Ok(())
}

fn set_request(
    env: &mut Environment,
    uri: Option<Uri<'_>>,
    target: &str,
) -> Result<(), EnvironmentError> {
    let Some(uri) = uri else {
        // The target of a handshake may be something that no message may be, `//` for one.
        let (path, query) = target.split_once('?').unwrap_or((target, ""));
        env.set("REQUEST_URI", target)?;
        env.set("PATH_INFO", path)?;
        return env.set("QUERY_STRING", query);
    };
    env.set("REQUEST_URI", uri.as_str())?;
    env.set("PATH_INFO", uri.path())?;
    env.set("QUERY_STRING", uri.query())
}

/// The trace as programs get it, and what the handshake said of it to those who know.
fn set_trace(env: &mut Environment, trace: Option<Trace>) -> Result<(), EnvironmentError> {
    let Some(trace) = trace else {
        return Ok(());
    };
    env.set("TRACEPARENT", trace.to_string())
}

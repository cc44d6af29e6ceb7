//! The opening handshake: who is there, may it come in, and who is it.

mod admission;
mod identity;
mod refusal;

use std::cell::Cell;
use std::future::poll_fn;
use std::io;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Instant, SystemTime};

use tracing::{debug, warn};
use ws_ipc::Fifo;
use ws_proto::handshake::{HeadReader, RequestHead, Upgrade};
use ws_session::{Binding, ConnectionId, SessionToken, UserId};
use ws_transport::{Accepted, LocalAddr, OpenError, PeerAddr, Stream, TlsPeer};

use self::admission::{Admitted, Consent};
use self::refusal::{Refused, answer_and_close, busy, gone, refused};
use crate::command::Adoption;
use crate::config::HostRule;
use crate::connection::Connection;
use crate::core::answer::Identity;
use crate::core::forwarded::{self, Forwarded};
use crate::core::origin::{Provenance, is_allowed, is_loopback_host};
use crate::core::span::Origin;
use crate::counters::{CloseCause, Refusal};
use crate::doors;
use crate::gate::{Dismissal, Newcomer};
use crate::hub::Entry;
use crate::revalidation;
use crate::shard::Shard;
use crate::spans::HandshakeSpan;

const TOO_MANY_HANDSHAKES: &str = "limits.max_handshakes is reached";
const GOING_DOWN: &str = "the server is going down";
const TOO_LATE: &str = "the request head was not complete in time (limits.handshake_timeout)";

/// What a socket turned out to want.
enum Wish<'a> {
    Page(Vec<u8>),
    Connect(Box<Admitted<'a>>),
}

/// Serves a socket from its acceptance to its end.
pub(crate) async fn serve(shard: Rc<Shard>, adoption: Adoption) {
    let Adoption {
        socket,
        ticket,
        accepted_at,
    } = adoption;
    let id = shard.server.hub.next_id();
    let counters = &shard.server.hub.counters;
    let door = peer_socket_addr(socket.peer);
    let deadline = accepted_at + shard.server.current().config.limits().handshake_timeout;
    let newcomer = Newcomer::enter(&shard, deadline);
    let has_more_before_http = socket.socket.is_proxied() || socket.socket.is_tls();
    let opened = match has_more_before_http {
        // Apart from the task, so that the others do not hold room for it.
        true => Box::pin(open(&shard, socket, &newcomer)).await,
        false => register(socket),
    };
    let opened = match opened {
        Ok(opened) => opened,
        Err((refusal, cause)) => {
            debug!(
                conn.id = %id, peer.addr = door.map(tracing::field::display),
                reason = refusal.as_str(), cause, "connection refused"
            );
            return counters.refused(refusal);
        }
    };
    let Opened {
        stream,
        peer,
        local,
        tls,
    } = opened;
    let opening = Opening {
        shard: &shard,
        stream: &stream,
        id,
        peer,
        local,
        tls: tls.as_deref(),
        has_spoken: Cell::new(false),
        accepted_at,
        span: Cell::new(None),
        origin: Cell::new(None),
    };
    let wish = opening.run(&newcomer).await;
    let span = opening.span.take();
    match wish {
        Ok(Wish::Page(page)) => {
            counters.pages_served.increment();
            answer_and_close(&stream, &page).await;
        }
        Ok(Wish::Connect(mut admitted)) => {
            admitted.place.keep(ticket);
            let span = span.map(|mut span| {
                span.admit(&admitted.visitor, admitted.addr, admitted.port);
                span
            });
            connect(&shard, stream, *admitted);
            if let Some(span) = span {
                span.end();
            }
        }
        Err(refused) => {
            counters.refused(refused.refusal);
            debug!(
                conn.id = %id, peer.addr = peer.map(tracing::field::display),
                reason = refused.refusal.as_str(), cause = refused.cause, "opening handshake refused"
            );
            if let Some(span) = span {
                span.refuse(refused.refusal.as_str(), refused.status());
            }
            answer_and_close(&stream, &refused.response).await;
        }
    }
}

/// A socket whose next bytes are HTTP.
struct Opened {
    stream: Stream,
    peer: Option<SocketAddr>,
    local: Option<SocketAddr>,
    tls: Option<Box<TlsPeer>>,
}

/// Opens a socket on which nothing stands before HTTP.
fn register(socket: Accepted) -> Result<Opened, (Refusal, String)> {
    let registered = socket.socket.register();
    Ok(Opened {
        stream: registered.map_err(|error| (Refusal::Gone, error.to_string()))?,
        peer: peer_socket_addr(socket.peer),
        local: local_socket_addr(&socket.local),
        tls: None,
    })
}

/// Reads what stands before HTTP: the header of a proxy, and TLS. There is nobody to answer to
/// before that.
async fn open(
    shard: &Shard,
    socket: Accepted,
    newcomer: &Newcomer,
) -> Result<Opened, (Refusal, String)> {
    let is_trusted = |peer| shard.server.current().config.server().trusted.contain(peer);
    let peer = peer_socket_addr(socket.peer).map(|peer| peer.ip());
    if socket.socket.is_proxied() && !is_trusted(peer) {
        let cause = "the peer is not in server.proxy.trusted";
        return Err((Refusal::Proxy, cause.to_owned()));
    }
    let opened = tokio::select! {
        biased;
        opened = socket.open_by_turns(|| shard.gate.turn()) => opened,
        dismissal = newcomer.dismissed() => {
            return Err(match dismissal {
                Dismissal::Crowd => (Refusal::MaxHandshakes, TOO_MANY_HANDSHAKES.to_owned()),
                Dismissal::Late => (Refusal::Timeout, "no HTTP came in time".to_owned()),
                Dismissal::Draining => (Refusal::Draining, GOING_DOWN.to_owned()),
            });
        }
    };
    let opened = opened.map_err(|error| {
        let refusal = match error {
            OpenError::Proxy(_) => Refusal::Proxy,
            OpenError::Tls(_) => Refusal::Tls,
            _ => Refusal::Gone,
        };
        (refusal, error.to_string())
    })?;
    Ok(Opened {
        stream: opened.stream,
        peer: peer_socket_addr(opened.peer),
        local: local_socket_addr(&opened.local),
        tls: opened.tls.map(Box::new),
    })
}

fn connect(shard: &Rc<Shard>, stream: Stream, admitted: Admitted<'_>) {
    let Admitted {
        visitor,
        user,
        session,
        addr,
        port,
        fifo,
        user_fifo,
        consent,
        place,
        ttl,
        witness,
        expires_in,
        asked_at,
    } = admitted;
    let id = visitor.connection;
    debug!(parent: &visitor.span(), path = visitor.path(), "connection opened");
    let now = Instant::now();
    let Consent { response, deflate } = consent;
    let uri = Arc::clone(&visitor.target);
    let connection = shard.insert(|seat| {
        Connection::new(shard, seat, stream, visitor, deflate, place, now).expiring_in(expires_in)
    });
    let entry = Entry {
        shard: u32::try_from(shard.index).expect("workers are as many as cores"),
        slot: connection.slot(),
        addr,
        port,
        uri,
        fifo: fifo.as_ref().map(Fifo::shared_path),
        opened_at: SystemTime::now(),
    };
    let own_user = user.clone();
    let standing = shard
        .server
        .hub
        .insert(id, Binding { user, session }, entry);
    // From here on the hub sees to its end.
    if let Some(hold) = user_fifo {
        hold.keep();
    }
    // Whoever reads it can be found. A push to those found is written by this thread, and so
    // stands behind it.
    connection.greet(response);
    // Whoever ended the session meanwhile did not find this connection.
    let is_revoked = {
        let sessions = shard.server.hub.sessions();
        sessions.is_revoked(session, asked_at) || sessions.is_user_revoked(&own_user, asked_at)
    };
    if is_revoked {
        let frame = shard.server.current().config.identity().close.clone();
        connection.close(CloseCause::Revoked, frame);
    }
    connection.start_program(shard);
    if shard.server.current().config.app().events.open {
        connection.announce(standing, &shard.server.hub.counters);
    }
    if let Some(fifo) = fifo {
        shard.spawn(doors::serve_connection(
            Rc::clone(shard),
            Rc::clone(&connection),
            fifo,
        ));
    }
    if let Some(ttl) = ttl {
        let task = revalidation::run(Rc::clone(shard), Rc::clone(&connection), ttl, witness);
        connection.ends_with_it(shard.spawn(task));
    }
    connection.ask_turn();
}

/// One opening handshake under way.
struct Opening<'p, 'a> {
    shard: &'a Rc<Shard>,
    stream: &'p Stream,
    id: ConnectionId,
    peer: Option<SocketAddr>,
    local: Option<SocketAddr>,
    /// What the TLS handshake told.
    tls: Option<&'p TlsPeer>,
    /// Whether anything was read from the peer.
    has_spoken: Cell<bool>,
    accepted_at: Instant,
    /// `None` until its head is there, or if nothing is recorded of anybody.
    span: Cell<Option<HandshakeSpan>>,
    origin: Cell<Option<Origin>>,
}

impl<'a> Opening<'_, 'a> {
    /// Gives up because the server is going down, or full. A peer that has not asked for anything,
    /// such as a browser's spare connection, is not answered.
    fn abandon(&self, refusal: Refusal, text: &str) -> Refused {
        let mut refused = busy(refusal, text);
        if !self.has_spoken.get() {
            refused.response.clear();
        }
        refused
    }

    async fn run(&self, newcomer: &Newcomer) -> Result<Wish<'a>, Refused> {
        let server = &self.shard.server;
        let head = tokio::select! {
            biased;
            head = self.read_head() => head?,
            dismissal = newcomer.dismissed() => {
                return Err(match dismissal {
                    Dismissal::Crowd => self.abandon(Refusal::MaxHandshakes, TOO_MANY_HANDSHAKES),
                    Dismissal::Late => refused(Refusal::Timeout, 408, TOO_LATE),
                    Dismissal::Draining => self.abandon(Refusal::Draining, GOING_DOWN),
                });
            }
        };
        newcomer.leave();
        if !is_served_host(&server.current().config.server().allowed_hosts, &head) {
            let text = "this host is not served here (server.allowed_hosts)";
            return Err(refused(Refusal::Host, 421, text));
        }
        if server.current().config.is_local_only() && !asks_for_this_host(&head) {
            return Err(refused(Refusal::Host, 421, "only localhost is served here"));
        }
        if let Some(page) = &server.page {
            let answers_ping = server.current().config.app().ping;
            if let Some(answer) = page.answer(&head, answers_ping) {
                return Ok(Wish::Page(answer));
            }
        }
        let upgrade = Upgrade::new(&head)?;
        // Only now: what scanners ask for is no handshake, and has another method perhaps.
        self.begin_span(&head);
        if self.shard.is_draining() {
            return Err(busy(Refusal::Draining, GOING_DOWN));
        }
        let forwarded = self.look_behind_proxies(&head);
        let visit = server.hub.places().visit(forwarded.addr)?;
        self.check_origin(&head, &forwarded)?;
        // Whatever is revoked from here on is revoked for this visitor, too.
        let asked_at = Instant::now();
        let known = self.recognise(&head, &upgrade)?;
        let known = match &server.identifier {
            // Apart from the task, like the validation.
            Some(identifier) if known.is_none() && identifier.has_sessions() => {
                Box::pin(self.look_up(identifier, &head)).await?
            }
            _ => known,
        };
        let token = self.token(&head)?;
        let unknown = token.as_ref().map(SessionToken::id);
        if let Some(id) = unknown.filter(|id| !server.hub.sessions().contains(*id)) {
            // Apart from the task, like the validation.
            Box::pin(self.unless_early(server.hub.keeper.look_up(id))).await??;
        }
        let claim = self.claim(&head, &upgrade, &forwarded, visit, token.as_ref(), asked_at)?;
        let current = Arc::clone(&server.current());
        let admitted = match (known, &current.validation) {
            (Some(identity), _) if identity.session.is_some() => {
                Box::pin(self.admit_named(&upgrade, claim, identity)).await?
            }
            (Some(identity), _) => self.admit(&upgrade, claim, identity)?,
            // Apart from the task, so that those who wait for their heads do not hold room for it.
            (None, Some(validation)) => Box::pin(self.ask(validation, &upgrade, claim)).await?,
            (None, None) if current.config.identity().required => return Err(self.unknown()),
            (None, None) => {
                let identity = Identity::of(UserId::from(claim.session));
                self.admit(&upgrade, claim, identity)?
            }
        };
        Ok(Wish::Connect(Box::new(admitted)))
    }

    fn begin_span(&self, head: &RequestHead) {
        let peer = self.peer.map(|peer| peer.ip());
        let begun = HandshakeSpan::begin(&self.shard.server, head, peer, self.accepted_at);
        let Some(mut span) = begun else {
            return;
        };
        span.set_transport(self.stream.is_tls(), self.peer.is_some());
        self.origin.set(Some(span.origin));
        self.span.set(Some(span));
    }

    async fn read_head(&self) -> Result<RequestHead, Refused> {
        let mut reader = HeadReader::new(self.shard.server.current().config.limits().head);
        loop {
            let readable = poll_fn(|cx| self.stream.poll_readable(cx));
            readable.await.map_err(gone)?;
            let mut scratch = self.shard.scratch.borrow_mut();
            let read = match self.stream.try_read(&mut scratch.read) {
                Ok(0) => return Err(gone(io::ErrorKind::UnexpectedEof.into())),
                Ok(read) => read,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => continue,
                Err(error) => return Err(gone(error)),
            };
            self.has_spoken.set(true);
            if let Some(head) = reader.read(&scratch.read[..read])? {
                return Ok(head);
            }
        }
    }

    /// Who the visitor is, in the words of those who are believed.
    fn look_behind_proxies(&self, head: &RequestHead) -> Forwarded {
        let server = &self.shard.server;
        let forwarded =
            forwarded::visitor(&server.current().config.server().trusted, self.peer, head);
        if forwarded.is_garbled {
            server.hub.counters.forwarded_garbled.increment();
            warn!(
                conn.id = %self.id, peer.addr = self.peer.map(tracing::field::display),
                "a trusted proxy sends addresses that cannot be understood; its own is taken"
            );
        }
        forwarded
    }

    /// The host and the scheme that a proxy names count for this one purpose even if it is not
    /// trusted, as long as it is on this host: a page can set neither of them.
    fn check_origin(&self, head: &RequestHead, forwarded: &Forwarded) -> Result<(), Refused> {
        if head.header_count("Origin") > 1 {
            return Err(refused(Refusal::Malformed, 400, "two Origin headers"));
        }
        let peer = self.peer.map(|peer| peer.ip());
        let is_believed = peer.is_none_or(|peer| peer.is_loopback())
            || self
                .shard
                .server
                .current()
                .config
                .server()
                .trusted
                .contain(peer);
        let header = |name| is_believed.then(|| head.header(name)).flatten();
        let provenance = Provenance {
            origin: head.header("Origin"),
            host: header("X-Forwarded-Host")
                .or_else(|| head.header("Host"))
                .unwrap_or_default(),
            scheme: forwarded
                .scheme
                .or_else(|| is_believed.then(|| forwarded::scheme(head)).flatten())
                .or_else(|| self.stream.is_tls().then_some("https")),
        };
        if is_allowed(self.shard.server.current().config.origin(), provenance) {
            return Ok(());
        }
        let mut refused = refused(Refusal::Origin, 403, "this origin may not connect");
        refused.cause = format!(
            "origin {:?} is not in origin.allow",
            provenance.origin.unwrap_or("(missing)")
        );
        Err(refused)
    }
}

fn peer_socket_addr(addr: PeerAddr) -> Option<SocketAddr> {
    match addr {
        PeerAddr::Tcp(addr) => Some(addr),
        PeerAddr::Unix => None,
    }
}

fn local_socket_addr(addr: &LocalAddr) -> Option<SocketAddr> {
    match addr {
        LocalAddr::Tcp(addr) => Some(*addr),
        LocalAddr::Unix(_) => None,
    }
}

/// Whether the browser called this host by a name that only this host can mean. A proxy that
/// replaces `Host` says in `X-Forwarded-Host` what it was.
fn asks_for_this_host(head: &RequestHead) -> bool {
    let host = head.header("Host").unwrap_or_default();
    is_loopback_host(host) && head.header("X-Forwarded-Host").is_none_or(is_loopback_host)
}

/// Of several `Host` headers the first could be meant for another reader than the last.
fn is_served_host(rules: &[HostRule], head: &RequestHead) -> bool {
    let is_allowed = |host: &str| rules.iter().any(|rule| rule.allows(host));
    rules.is_empty()
        || (head.header_count("Host") == 1 && head.header("Host").is_some_and(is_allowed))
}

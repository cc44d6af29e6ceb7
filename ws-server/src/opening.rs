//! The opening handshake: who is there, may it come in, and who is it.

use std::cell::Cell;
use std::fmt::Display;
use std::future::poll_fn;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::path::Path;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use tokio::time::timeout;
use tracing::{debug, info, warn};
use ws_ipc::{EnvironmentError, Fifo, FifoError, encode_name, encode_name_carbonphp};
use ws_proto::handshake::{HeadLimits, HeadReader, Rejection, RequestHead, Upgrade, response};
use ws_session::{Binding, ConnectionId, Recall, SessionId, SessionToken, UserId};
use ws_transport::{Accepted, LocalAddr, OpenError, PeerAddr, Stream, TlsPeer};

use crate::application::Validation;
use crate::command::Adoption;
use crate::config::{FifoNaming, HostRule};
use crate::connection::{Connection, Consent};
use crate::core::answer::{Identity, Verdict, Witness};
use crate::core::cookie;
use crate::core::credential;
use crate::core::forwarded::{self, Forwarded};
use crate::core::origin::{Provenance, is_allowed, is_loopback_host};
use crate::counters::{CloseCause, IdentifiedBy, IdentityRefusal, Refusal};
use crate::doors::{self, GLOBAL_FIFO};
use crate::gate::{Dismissal, Newcomer};
use crate::hub::{Entry, Hub};
use crate::identify::{Identifier, Unproved};
use crate::places::{Full, Place, Visit};
use crate::revalidation;
use crate::shard::Shard;
use crate::store::NoAnswer;
use crate::user_fifos::Hold;
use crate::visitor::{Arrival, Visitor};

/// How long a refused peer may take to close its side, so that no reset overtakes the refusal.
const REFUSAL_TIMEOUT: Duration = Duration::from_secs(2);
/// What a visitor who is turned away for want of room is told to wait, in seconds.
const RETRY_AFTER: &str = "1";
const TOO_MANY_HANDSHAKES: &str = "limits.max_handshakes is reached";
const NO_STORE: &str = "sessions cannot be looked up now";
const GOING_DOWN: &str = "the server is going down";
const TOO_LATE: &str = "the request head was not complete in time";

/// A handshake that does not become a connection.
struct Refused {
    refusal: Refusal,
    /// The whole HTTP response; empty if nobody is there to read it.
    response: Vec<u8>,
    cause: String,
}

/// A handshake that does.
struct Admitted<'a> {
    visitor: Visitor,
    user: UserId,
    session: SessionId,
    /// The visitor's own address.
    addr: Option<IpAddr>,
    port: Option<u16>,
    fifo: Option<Fifo>,
    user_fifo: Option<Hold<'a>>,
    consent: Consent,
    place: Place,
    /// When the validation is asked again.
    ttl: Option<Duration>,
    /// Who is asked then, unless it is the validation.
    witness: Option<Box<Witness>>,
    /// When the connection is over.
    expires_in: Option<Duration>,
    /// When it was found out in which session the visitor is.
    identified_at: Instant,
}

/// One who asks to be connected, before it is known who that is.
struct Claim<'a> {
    visitor: Visitor,
    visit: Visit,
    session: SessionId,
    /// The visitor's own address.
    addr: Option<IpAddr>,
    /// Its port, if it is known.
    port: Option<u16>,
    is_https: bool,
    /// When it came.
    claimed_at: Instant,
    /// `None` if the visitor came with a session.
    issued: Option<Issued<'a>>,
}

/// A session that was made for a visitor, and is forgotten if the visitor is refused: nobody will
/// come back with a token that was never handed out.
struct Issued<'a> {
    hub: &'a Hub,
    session: SessionId,
    token: SessionToken,
    is_handed_out: bool,
}

impl Drop for Issued<'_> {
    fn drop(&mut self) {
        if !self.is_handed_out {
            self.hub.sessions().remove(self.session);
        }
    }
}

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
    let deadline = accepted_at + shard.server.config.limits().handshake_timeout;
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
    };
    match opening.run(&newcomer).await {
        Ok(Wish::Page(page)) => {
            counters.pages_served.increment();
            answer_and_close(&stream, &page).await;
        }
        Ok(Wish::Connect(mut admitted)) => {
            admitted.place.keep(ticket);
            connect(&shard, stream, *admitted);
        }
        Err(refused) => {
            counters.refused(refused.refusal);
            debug!(
                conn.id = %id, peer.addr = peer.map(tracing::field::display),
                reason = refused.refusal.as_str(), cause = refused.cause, "opening handshake refused"
            );
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
    let config = &shard.server.config;
    let peer = peer_socket_addr(socket.peer).map(|peer| peer.ip());
    if socket.socket.is_proxied() && !config.server().trusted.contain(peer) {
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
        identified_at,
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
    if shard
        .server
        .hub
        .sessions()
        .is_revoked(session, identified_at)
    {
        let frame = shard.server.config.identity().close.clone();
        connection.close(CloseCause::Revoked, frame);
    }
    connection.start_program(shard);
    if shard.server.config.app().events.open {
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
        if !is_served_host(&server.config.server().allowed_hosts, &head) {
            let text = "this host is not served here (server.allowed_hosts)";
            return Err(refused(Refusal::Host, 421, text));
        }
        if server.config.is_local_only() && !asks_for_this_host(&head) {
            return Err(refused(Refusal::Host, 421, "only localhost is served here"));
        }
        if let Some(page) = server.page.as_ref().and_then(|page| page.answer(&head)) {
            return Ok(Wish::Page(page));
        }
        let upgrade = Upgrade::new(&head)?;
        if self.shard.is_draining() {
            return Err(busy(Refusal::Draining, GOING_DOWN));
        }
        let forwarded = self.look_behind_proxies(&head);
        let visit = server.hub.places().visit(forwarded.addr)?;
        self.check_origin(&head, &forwarded)?;
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
            Box::pin(server.hub.keeper.look_up(id)).await?;
        }
        let claim = self.claim(&head, &upgrade, &forwarded, visit, token.as_ref())?;
        let admitted = match (known, &server.validation) {
            (Some(identity), _) if identity.session.is_some() => {
                Box::pin(self.admit_named(&upgrade, claim, identity)).await?
            }
            (Some(identity), _) => self.admit(&upgrade, claim, identity)?,
            // Apart from the task, so that those who wait for their heads do not hold room for it.
            (None, Some(validation)) => Box::pin(self.ask(validation, &upgrade, claim)).await?,
            (None, None) if server.config.identity().required => return Err(self.unknown()),
            (None, None) => {
                let identity = Identity::of(UserId::from(claim.session));
                self.admit(&upgrade, claim, identity)?
            }
        };
        Ok(Wish::Connect(Box::new(admitted)))
    }

    async fn read_head(&self) -> Result<RequestHead, Refused> {
        let mut reader = HeadReader::new(HeadLimits::default());
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
    fn look_behind_proxies<'h>(&self, head: &'h RequestHead) -> Forwarded<'h> {
        let server = &self.shard.server;
        let forwarded = forwarded::visitor(&server.config.server().trusted, self.peer, head);
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
    fn check_origin(&self, head: &RequestHead, forwarded: &Forwarded<'_>) -> Result<(), Refused> {
        if head.header_count("Origin") > 1 {
            return Err(refused(Refusal::Malformed, 400, "two Origin headers"));
        }
        let peer = self.peer.map(|peer| peer.ip());
        let is_believed = peer.is_none_or(|peer| peer.is_loopback())
            || self.shard.server.config.server().trusted.contain(peer);
        let header = |name| is_believed.then(|| head.header(name)).flatten();
        let provenance = Provenance {
            origin: head.header("Origin"),
            host: header("X-Forwarded-Host")
                .or_else(|| head.header("Host"))
                .unwrap_or_default(),
            scheme: forwarded
                .scheme
                .or_else(|| header("X-Forwarded-Proto"))
                .or_else(|| self.stream.is_tls().then_some("https")),
        };
        if is_allowed(self.shard.server.config.origin(), provenance) {
            return Ok(());
        }
        let mut refused = refused(Refusal::Origin, 403, "this origin may not connect");
        refused.cause = format!(
            "origin {:?} is not in origin.allow",
            provenance.origin.unwrap_or("(missing)")
        );
        Err(refused)
    }

    /// Asks those who know visitors by what these bring.
    fn recognise(
        &self,
        head: &RequestHead,
        upgrade: &Upgrade,
    ) -> Result<Option<Identity>, Refused> {
        let server = &self.shard.server;
        let Some(identifier) = &server.identifier else {
            return Ok(None);
        };
        let counters = &server.hub.counters;
        let known = identifier.recognise(head, upgrade, counters);
        if let Ok(Some(known)) = &known {
            let by = IdentifiedBy::Token.as_str();
            debug!(conn.id = %self.id, user.id = %known.user, by, "visitor recognised");
        }
        known.map_err(|unproved| self.unproved(unproved))
    }

    /// Asks those who know the sessions of other applications, unless the peer leaves or speaks
    /// before they answer.
    async fn look_up(
        &self,
        identifier: &Identifier,
        head: &RequestHead,
    ) -> Result<Option<Identity>, Refused> {
        let counters = &self.shard.server.hub.counters;
        let mut draining = self.shard.server.draining.clone();
        let known = tokio::select! {
            // As with the validation.
            biased;
            early = self.early_data() => return Err(early),
            known = identifier.look_up(head, counters) => known,
            _ = draining.wait_for(|draining| *draining) => {
                return Err(self.abandon(Refusal::Draining, GOING_DOWN));
            }
        };
        if let Ok(Some(known)) = &known {
            debug!(conn.id = %self.id, user.id = %known.user, "visitor recognised by a session");
        }
        known.map_err(|unproved| self.unproved(unproved))
    }

    fn unproved(&self, unproved: Unproved) -> Refused {
        let counters = &self.shard.server.hub.counters;
        counters.identity_refused(unproved.refusal);
        let reason = unproved.refusal.as_str();
        debug!(conn.id = %self.id, reason, "visitor not recognised");
        if unproved.is_failure() {
            let mut refused = busy(
                Refusal::IdentityFailed,
                "the visitor could not be recognised",
            );
            refused.cause = unproved.cause;
            return refused;
        }
        // RFC 9110 §15.5.2: a 401 says what would be accepted, as far as there is a word for it. What
        // was wrong, only the log does.
        let takes_tokens = self.shard.server.config.identity().token.is_some();
        let challenge = takes_tokens.then_some(("WWW-Authenticate", "Bearer"));
        Refused {
            refusal: Refusal::Identity,
            response: response(401, challenge.as_slice(), "not recognised"),
            cause: unproved.cause,
        }
    }

    /// Refuses one who brings nothing where something is required.
    fn unknown(&self) -> Refused {
        self.unproved(Unproved {
            refusal: IdentityRefusal::Missing,
            cause: "nothing says who it is, and identity.required is set".to_owned(),
        })
    }

    /// Reads the token that the visitor brings.
    fn token(&self, head: &RequestHead) -> Result<Option<SessionToken>, Refused> {
        let identity = self.shard.server.config.identity();
        if identity.require_cookie && head.header("Cookie").is_none() {
            return Err(refused(Refusal::Cookie, 401, "a cookie is required"));
        }
        let cookies = head
            .iter()
            .filter(|(name, _)| name.eq_ignore_ascii_case("Cookie"));
        let cookies = cookies.filter_map(|(_, value)| std::str::from_utf8(value).ok());
        Ok(cookie::session_token(cookies, &identity.cookie))
    }

    /// Finds the session, or makes one.
    fn claim(
        &self,
        head: &RequestHead,
        upgrade: &Upgrade,
        forwarded: &Forwarded<'_>,
        visit: Visit,
        token: Option<&SessionToken>,
    ) -> Result<Claim<'_>, Refused> {
        let server = &self.shard.server;
        let claimed_at = Instant::now();
        let (session, issued) = self.resume(token, forwarded.addr, claimed_at)?;
        let issued = issued.map(|token| Issued {
            hub: &server.hub,
            session,
            token,
            is_handed_out: false,
        });
        let is_https = match forwarded.scheme {
            Some(scheme) => scheme == "https",
            None => self.stream.is_tls(),
        };
        let protocol = self.protocol(upgrade);
        let protocols = protocol.map(|name| credential::without_credential(upgrade, name));
        let arrival = Arrival {
            protocols: protocols.as_deref(),
            head,
            connection: self.id,
            session: &session,
            addr: forwarded.addr,
            port: forwarded.port,
            peer: self.peer,
            local: self.local,
            https: is_https,
            tls: self.tls,
        };
        let visitor = match (&server.application, &server.validation) {
            (None, None) => Visitor::without_variables(&arrival),
            _ => Visitor::new(&arrival)?,
        };
        Ok(Claim {
            visitor,
            visit,
            session,
            addr: forwarded.addr,
            port: forwarded.port,
            is_https,
            claimed_at,
            issued,
        })
    }

    fn resume(
        &self,
        token: Option<&SessionToken>,
        addr: Option<IpAddr>,
        now: Instant,
    ) -> Result<(SessionId, Option<SessionToken>), Refused> {
        let hub = &self.shard.server.hub;
        if let Some(id) = token.map(SessionToken::id) {
            let recalled = hub.sessions().recall(id, addr, now);
            match recalled {
                Recall::Known => return Ok((id, None)),
                Recall::Unknown => {}
                Recall::Elsewhere {
                    made_for,
                    comes_from,
                } => {
                    hub.counters.address_changed.increment();
                    info!(
                        conn.id = %self.id, session.id = %id,
                        made_for = made_for.map(tracing::field::display),
                        comes_from = comes_from.map(tracing::field::display),
                        "a session comes from another network and is not resumed"
                    );
                }
            }
        }
        // What could not be written down would be lost with the server.
        if hub.keeper.is_down() {
            return Err(NoAnswer.into());
        }
        let fresh = self.shard.randomness.borrow_mut().take();
        let fresh = fresh.map_err(|error| internal(&error))?;
        let token = hub.sessions().issue(addr, now, fresh);
        Ok((token.id(), Some(token)))
    }

    async fn ask(
        &self,
        validation: &Validation,
        upgrade: &Upgrade,
        claim: Claim<'_>,
    ) -> Result<Admitted<'a>, Refused> {
        let identity = self.validate(validation, &claim.visitor).await?;
        self.admit_named(upgrade, claim, identity).await
    }

    /// Admits one whose session may have a name that only the store knows.
    async fn admit_named(
        &self,
        upgrade: &Upgrade,
        claim: Claim<'_>,
        identity: Identity,
    ) -> Result<Admitted<'a>, Refused> {
        if let Some(named) = identity.session
            && !self.shard.server.hub.sessions().contains(named)
        {
            self.shard.server.hub.keeper.look_up(named).await?;
        }
        self.admit(upgrade, claim, identity)
    }

    /// Takes a place for one who is known now, makes the FIFO and the 101.
    fn admit(
        &self,
        upgrade: &Upgrade,
        claim: Claim<'_>,
        identity: Identity,
    ) -> Result<Admitted<'a>, Refused> {
        let server = &self.shard.server;
        let Claim {
            mut visitor,
            visit,
            session,
            addr,
            port,
            is_https,
            claimed_at,
            mut issued,
        } = claim;
        let Identity {
            user,
            session: named,
            ttl,
            witness,
            expires_in,
            data,
            cookies,
        } = identity;
        // The application may name a session again that was revoked before it was asked.
        let identified_at = match named {
            Some(_) => Instant::now(),
            None => claimed_at,
        };
        // Unless it is a guest, whose name is the session's.
        let is_named = server.validation.is_some()
            || server.identifier.is_some() && user != UserId::from(session);
        let session = named.unwrap_or(session);
        // Whoever is only being validated has no place, and may find all of them taken now.
        let place = visit.settle(&user)?;
        let fifo = self.make_fifo(&user, addr)?;
        let user_fifo = self.hold_user_fifo(&user)?;
        let shown = |path: &Path| path.to_string_lossy().into_owned();
        let fifo_path = fifo.as_ref().map(|fifo| shown(fifo.path()));
        let user_path = user_fifo
            .as_ref()
            .and_then(|_| server.hub.user_fifos.path(&user))
            .map(|path| shown(&path));
        visitor.identify(&user, session, fifo_path.as_deref(), user_path.as_deref())?;
        if server.application.is_none() && ttl.is_none() {
            visitor.forget_variables();
        }
        let own_cookie = issued.as_ref().map(|issued| {
            cookie::set_cookie(&server.config.identity().cookie, &issued.token, is_https)
        });
        let set_cookies: Vec<(&str, &str)> = own_cookie
            .iter()
            .chain(&cookies)
            .map(|value| ("Set-Cookie", value.as_str()))
            .collect();
        let deflate = server
            .protocol
            .deflate()
            .and_then(|deflate| deflate.accept(upgrade.extensions()));
        let response = upgrade
            .accept(self.protocol(upgrade), deflate.as_ref(), &set_cookies)
            .map_err(|error| internal(&error))?;
        let keeper = &server.hub.keeper;
        let named_user = is_named.then_some(&user);
        if let Some(issued) = &mut issued {
            issued.is_handed_out = true;
            keeper.keep(issued.session, named_user, addr);
        }
        if named.is_some() && server.hub.sessions().adopt(session, identified_at) {
            keeper.keep(session, named_user, None);
        }
        if let Some(user) = named_user {
            keeper.set_user(session, user);
        }
        if let Some(data) = data {
            keeper.set_data(session, data);
        }
        Ok(Admitted {
            visitor,
            user,
            session,
            addr,
            port,
            fifo,
            user_fifo,
            consent: Consent { response, deflate },
            place,
            ttl,
            witness,
            expires_in,
            identified_at,
        })
    }

    /// The subprotocol that is spoken: the one of ours that says where a token is. A browser fails
    /// the connection if it offers some and none is chosen.
    fn protocol(&self, upgrade: &Upgrade) -> Option<&str> {
        let identifier = self.shard.server.identifier.as_ref();
        identifier.and_then(|identifier| identifier.protocol(upgrade))
    }

    /// Asks the validation callback, unless the peer leaves or speaks before it is answered.
    async fn validate(
        &self,
        validation: &Validation,
        visitor: &Visitor,
    ) -> Result<Identity, Refused> {
        let counters = &self.shard.server.hub.counters;
        counters.validations_started.increment();
        let mut draining = self.shard.server.draining.clone();
        let data = self.shard.server.hub.keeper.data(visitor.session);
        let verdict = tokio::select! {
            // Whoever speaks too early is refused even if the answer comes at the same moment.
            biased;
            early = self.early_data() => return Err(early),
            verdict = validation.judge(visitor, data) => verdict,
            _ = draining.wait_for(|draining| *draining) => {
                return Err(self.abandon(Refusal::Draining, GOING_DOWN));
            }
        };
        match verdict {
            Verdict::Accepted(identity) => {
                counters.validations_accepted.increment();
                Ok(identity)
            }
            Verdict::Refused { status, cause } => {
                let refusal = match status {
                    401 | 403 => Refusal::Validation,
                    _ => Refusal::ValidationFailed,
                };
                if refusal == Refusal::ValidationFailed {
                    warn!(conn.id = %self.id, cause, "validation failed");
                }
                let text = match status {
                    401 => "not recognised",
                    403 => "not permitted",
                    _ => "the visitor could not be validated",
                };
                let mut refused = refused(refusal, status, text);
                refused.cause = cause;
                Err(refused)
            }
        }
    }

    /// Resolves when the peer leaves, or sends what it may not send before the 101.
    async fn early_data(&self) -> Refused {
        loop {
            if let Err(error) = self.stream.readable().await {
                return gone(error);
            }
            match self.stream.try_read(&mut [0; 1]) {
                Ok(0) => return gone(io::ErrorKind::UnexpectedEof.into()),
                Ok(_) => return Rejection::EarlyData.into(),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => return gone(error),
            }
        }
    }

    /// Makes the connection's FIFO: named by user, address and port, or by the connection id where
    /// there is no port or the name is taken.
    fn make_fifo(&self, user: &UserId, addr: Option<IpAddr>) -> Result<Option<Fifo>, Refused> {
        let server = &self.shard.server;
        let Some(fifos) = server
            .fifos
            .as_ref()
            .filter(|_| server.config.fifo().has_connections())
        else {
            return Ok(None);
        };
        let name = |last: &dyn Display| match server.config.fifo().naming {
            FifoNaming::Default => {
                let ip = addr.map_or_else(|| "local".to_owned(), fifo_ip);
                format!("{}:{ip}:{last}.fifo", encode_name(user.as_str()))
            }
            FifoNaming::CarbonPhp => {
                let ip = addr.map_or_else(|| "local".to_owned(), |ip| ip.to_string());
                let name = format!("{user}:{ip}:{last}");
                format!("{}.fifo", encode_name_carbonphp(&name))
            }
        };
        let by_id = name(&self.id);
        let made = match self.peer {
            Some(peer) => match fifos.create(&name(&peer.port())) {
                Err(FifoError::Exists { .. }) => fifos.create(&by_id),
                made => made,
            },
            None => fifos.create(&by_id),
        };
        made.map(Some).map_err(|error| {
            warn!(conn.id = %self.id, %error, "cannot make the connection's FIFO");
            internal(&error)
        })
    }

    /// Sees to it that the user has a FIFO, and has it read if there was none.
    fn hold_user_fifo(&self, user: &UserId) -> Result<Option<Hold<'a>>, Refused> {
        let shard = self.shard;
        let server = &shard.server;
        let Some(fifos) = server
            .fifos
            .as_ref()
            .filter(|_| server.config.fifo().has_users())
        else {
            return Ok(None);
        };
        let held = server
            .hub
            .user_fifos
            .hold(user, || fifos.create(&user_fifo_name(user)));
        let (hold, made) = held.map_err(|error| {
            warn!(conn.id = %self.id, %error, "cannot make the user's FIFO");
            internal(&error)
        })?;
        if let Some(fifo) = made {
            let reader = doors::serve_user(Rc::clone(shard), user.clone(), fifo);
            shard.spawn(reader);
        }
        Ok(Some(hold))
    }
}

/// The name of a user's FIFO: no connection's has it, as those have a colon, nor the global one.
fn user_fifo_name(user: &UserId) -> String {
    let name = format!("{}.fifo", encode_name(user.as_str()));
    match name == GLOBAL_FIFO {
        // No id is encoded like this otherwise.
        true => name.replacen('g', "%67", 1),
        false => name,
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

/// An address as it stands in a FIFO's name; v6 in brackets, so that the port stays apart.
fn fifo_ip(ip: IpAddr) -> String {
    match ip {
        IpAddr::V4(ip) => ip.to_string(),
        IpAddr::V6(ip) => format!("[{ip}]"),
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

/// Writes a whole response, shuts our side down and waits for the peer's.
async fn answer_and_close(stream: &Stream, mut response: &[u8]) {
    if response.is_empty() {
        return;
    }
    let answer = async {
        while !response.is_empty() {
            stream.writable().await?;
            match stream.try_write(response) {
                Ok(written) => response = &response[written..],
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => return Err(error),
            }
        }
        stream.shutdown_write()?;
        let mut discarded = [0; 1024];
        loop {
            stream.readable().await?;
            // Whoever goes on sending does not hold up the others, nor the end of this.
            tokio::task::coop::consume_budget().await;
            match stream.try_read(&mut discarded) {
                Ok(0) => return Ok(()),
                Ok(_) => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => return Err(error),
            }
        }
    };
    // The peer is refused already; whether it heard so is its own affair.
    let _ = timeout(REFUSAL_TIMEOUT, answer).await;
}

fn refused(refusal: Refusal, status: u16, text: &str) -> Refused {
    Refused {
        refusal,
        response: response(status, &[], text),
        cause: text.to_owned(),
    }
}

fn busy(refusal: Refusal, text: &str) -> Refused {
    Refused {
        refusal,
        response: response(503, &[("Retry-After", RETRY_AFTER)], text),
        cause: text.to_owned(),
    }
}

impl From<NoAnswer> for Refused {
    fn from(_: NoAnswer) -> Self {
        busy(Refusal::Store, NO_STORE)
    }
}

impl From<Full> for Refused {
    fn from(full: Full) -> Self {
        // RFC 6585 §4: 429 is for one who asks too often, 503 (RFC 9110 §15.6.4) is for everybody.
        let (refusal, status, text) = match full {
            Full::Total => (
                Refusal::MaxConnections,
                503,
                "limits.max_connections is reached",
            ),
            Full::Descriptors => (
                Refusal::Descriptors,
                503,
                "no room: only limits.reserved_descriptors are left",
            ),
            Full::Addr => (
                Refusal::MaxConnectionsPerIp,
                429,
                "limits.max_connections_per_ip is reached",
            ),
            Full::User => (
                Refusal::MaxConnectionsPerUser,
                429,
                "limits.max_connections_per_user is reached",
            ),
        };
        Self {
            refusal,
            response: response(status, &[("Retry-After", RETRY_AFTER)], text),
            cause: text.to_owned(),
        }
    }
}

/// The cause goes to the log, not to the peer.
fn internal(error: &dyn Display) -> Refused {
    let mut refused = refused(Refusal::Internal, 503, "not possible now");
    refused.cause = error.to_string();
    refused
}

fn gone(error: io::Error) -> Refused {
    Refused {
        refusal: Refusal::Gone,
        response: Vec::new(),
        cause: error.to_string(),
    }
}

impl From<Rejection> for Refused {
    fn from(rejection: Rejection) -> Self {
        Self {
            refusal: Refusal::Malformed,
            response: rejection.response(),
            cause: rejection.to_string(),
        }
    }
}

impl From<EnvironmentError> for Refused {
    fn from(error: EnvironmentError) -> Self {
        let status = match error {
            EnvironmentError::TooLarge { .. } | EnvironmentError::TooMany { .. } => 431,
            _ => 400,
        };
        let mut refused = refused(
            Refusal::Malformed,
            status,
            "the request headers cannot be passed on",
        );
        refused.cause = error.to_string();
        refused
    }
}

//! Lets a visitor in: its place, its session, its FIFOs and the 101.

use std::fmt::Display;
use std::net::IpAddr;
use std::path::Path;
use std::rc::Rc;
use std::time::{Duration, Instant};

use tracing::warn;
use ws_ipc::{Fifo, FifoError, encode_name, encode_name_carbonphp};
use ws_proto::DeflateParams;
use ws_proto::handshake::{RequestHead, Upgrade};
use ws_session::{SessionId, SessionToken, UserId};

use super::Opening;
use super::refusal::{Refused, internal, refused};
use crate::config::FifoNaming;
use crate::core::answer::{Identity, Witness};
use crate::core::cookie;
use crate::core::credential;
use crate::core::forwarded::Forwarded;
use crate::counters::Refusal;
use crate::doors::{self, GLOBAL_FIFO};
use crate::error::Chain;
use crate::hub::Hub;
use crate::places::{Place, Visit};
use crate::user_fifos::Hold;
use crate::visitor::{Arrival, Visitor};

/// What the opening handshake came to.
#[derive(Debug)]
pub(super) struct Consent {
    /// The 101.
    pub(super) response: Vec<u8>,
    /// The compression that it agrees to.
    pub(super) deflate: Option<DeflateParams>,
}

/// A handshake that does.
pub(super) struct Admitted<'a> {
    pub(super) visitor: Visitor,
    pub(super) user: UserId,
    pub(super) session: SessionId,
    /// The visitor's own address.
    pub(super) addr: Option<IpAddr>,
    pub(super) port: Option<u16>,
    pub(super) fifo: Option<Fifo>,
    pub(super) user_fifo: Option<Hold<'a>>,
    pub(super) consent: Consent,
    pub(super) place: Place,
    /// When the validation is asked again.
    pub(super) ttl: Option<Duration>,
    /// Who is asked then, unless it is the validation.
    pub(super) witness: Option<Box<Witness>>,
    /// When the connection is over.
    pub(super) expires_in: Option<Duration>,
    /// When it was found out in which session the visitor is.
    pub(super) asked_at: Instant,
}

/// One who asks to be connected, before it is known who that is.
pub(super) struct Claim<'a> {
    pub(super) visitor: Visitor,
    pub(super) visit: Visit,
    pub(super) session: SessionId,
    /// The visitor's own address.
    pub(super) addr: Option<IpAddr>,
    /// Its port, if it is known.
    pub(super) port: Option<u16>,
    pub(super) is_https: bool,
    /// When it came.
    pub(super) asked_at: Instant,
    /// `None` if the visitor came with a session.
    pub(super) issued: Option<Issued<'a>>,
}

/// A session that was made for a visitor, and is forgotten if the visitor is refused: nobody will
/// come back with a token that was never handed out.
pub(super) struct Issued<'a> {
    pub(super) hub: &'a Hub,
    pub(super) session: SessionId,
    pub(super) token: SessionToken,
    pub(super) is_handed_out: bool,
}

impl<'a> Issued<'a> {
    fn new(hub: &'a Hub, session: SessionId, token: SessionToken) -> Self {
        Self {
            hub,
            session,
            token,
            is_handed_out: false,
        }
    }
}

impl Drop for Issued<'_> {
    fn drop(&mut self) {
        if !self.is_handed_out {
            self.hub.sessions().remove(self.session);
        }
    }
}

impl<'a> Opening<'_, 'a> {
    /// Finds the session, or makes one.
    pub(super) fn claim(
        &self,
        head: &RequestHead,
        upgrade: &Upgrade,
        forwarded: &Forwarded,
        visit: Visit,
        token: Option<&SessionToken>,
        asked_at: Instant,
    ) -> Result<Claim<'_>, Refused> {
        let server = &self.shard.server;
        let (session, issued) = self.resume(token, forwarded.addr, asked_at)?;
        let issued = issued.map(|token| Issued::new(&server.hub, session, token));
        let is_https = match forwarded.scheme {
            Some(scheme) => scheme == "https",
            None => self.stream.is_tls(),
        };
        let protocols = self.protocol(upgrade).map(|_| {
            let names = server.identifier.iter().flat_map(|it| it.protocols());
            credential::without_credentials(upgrade, &names.collect::<Vec<_>>())
        });
        let arrival = Arrival {
            target: self.shard.keep_target(head.path_and_query()),
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
        let current = server.current();
        let mut visitor = match (&current.application, &current.validation) {
            (None, None) => Visitor::without_variables(&arrival),
            _ => Visitor::new(&arrival)?,
        };
        if let Some(origin) = self.origin.get() {
            visitor.trace_from(origin);
        }
        Ok(Claim {
            visitor,
            visit,
            session,
            addr: forwarded.addr,
            port: forwarded.port,
            is_https,
            asked_at,
            issued,
        })
    }

    /// Takes a place for one who is known now, makes the FIFO and the 101.
    pub(super) fn admit(
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
            asked_at,
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
        // One that was revoked before anybody was asked may be named again.
        let is_revoked = {
            let sessions = server.hub.sessions();
            sessions.is_user_revoked(&user, asked_at)
                || named.is_some_and(|named| sessions.is_revoked(named, asked_at))
        };
        if is_revoked {
            let mut refused = refused(Refusal::Identity, 401, "not recognised");
            refused.cause = "its session was revoked while it was found".to_owned();
            return Err(refused);
        }
        // Unless it is a guest, whose name is the session's.
        let is_named = server.current().validation.is_some()
            || server.identifier.is_some() && user != UserId::from(session);
        // With the token that one user had, nobody becomes another: whoever has planted it in this
        // browser would be that other one, too, with what the application keeps in the session.
        let is_others = is_named && named.is_none() && issued.is_none() && {
            let sessions = server.hub.sessions();
            sessions.user(session).is_some_and(|former| *former != user)
        };
        if is_others {
            let (session, token) = self.issue(addr, asked_at)?;
            issued = Some(Issued::new(&server.hub, session, token));
        }
        let session = issued.as_ref().map_or(session, |issued| issued.session);
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
        if server.current().application.is_none() && ttl.is_none() {
            visitor.forget_variables();
        }
        let token = issued.as_ref().map(|issued| &issued.token);
        let consent = self.consent(upgrade, token, is_https, &cookies)?;
        let keeper = &server.hub.keeper;
        let named_user = is_named.then_some(&user);
        if let Some(issued) = &mut issued {
            issued.is_handed_out = true;
            keeper.keep(issued.session, named_user, addr);
        }
        if named.is_some() && server.hub.sessions().adopt(session, asked_at) {
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
            consent,
            place,
            ttl,
            witness,
            expires_in,
            asked_at,
        })
    }

    /// Makes the 101, which hands out a token that is new, and the cookies of the validation.
    fn consent(
        &self,
        upgrade: &Upgrade,
        token: Option<&SessionToken>,
        is_https: bool,
        cookies: &[String],
    ) -> Result<Consent, Refused> {
        let current = self.shard.server.current();
        let name = &current.config.identity().cookie;
        let own_cookie = token.map(|token| cookie::set_cookie(name, token, is_https));
        let set_cookies: Vec<(&str, &str)> = own_cookie
            .iter()
            .chain(cookies)
            .map(|value| ("Set-Cookie", value.as_str()))
            .collect();
        let deflate = current.protocol.deflate();
        let deflate = deflate.and_then(|deflate| deflate.accept(upgrade.extensions()));
        let response = upgrade
            .accept(self.protocol(upgrade), deflate.as_ref(), &set_cookies)
            .map_err(|error| internal(&error))?;
        Ok(Consent { response, deflate })
    }

    /// The subprotocol that is spoken: the one of ours that says where a token is. A browser fails
    /// the connection if it offers some and none is chosen.
    pub(super) fn protocol(&self, upgrade: &Upgrade) -> Option<&str> {
        let identifier = self.shard.server.identifier.as_ref();
        let mut names = identifier
            .into_iter()
            .flat_map(|identifier| identifier.protocols());
        names.find(|name| upgrade.protocols().any(|offered| offered == *name))
    }

    /// Makes the connection's FIFO: named by user, address and port, or by the connection id where
    /// there is no port or the name is taken.
    pub(super) fn make_fifo(
        &self,
        user: &UserId,
        addr: Option<IpAddr>,
    ) -> Result<Option<Fifo>, Refused> {
        let server = &self.shard.server;
        let Some(fifos) = server
            .fifos
            .as_ref()
            .filter(|_| server.current().config.fifo().has_connections())
        else {
            return Ok(None);
        };
        let name = |last: &dyn Display| match server.current().config.fifo().naming {
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
            warn!(conn.id = %self.id, error = %Chain(&error), "cannot make the connection's FIFO");
            internal(&error)
        })
    }

    /// Sees to it that the user has a FIFO, and has it read if there was none.
    pub(super) fn hold_user_fifo(&self, user: &UserId) -> Result<Option<Hold<'a>>, Refused> {
        let shard = self.shard;
        let server = &shard.server;
        let Some(fifos) = server
            .fifos
            .as_ref()
            .filter(|_| server.current().config.fifo().has_users())
        else {
            return Ok(None);
        };
        let held = server
            .hub
            .user_fifos
            .hold(user, || fifos.create(&user_fifo_name(user)));
        let (hold, made) = held.map_err(|error| {
            warn!(conn.id = %self.id, error = %Chain(&error), "cannot make the user's FIFO");
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

/// An address as it stands in a FIFO's name; v6 in brackets, so that the port stays apart.
fn fifo_ip(ip: IpAddr) -> String {
    match ip {
        IpAddr::V4(ip) => ip.to_string(),
        IpAddr::V6(ip) => format!("[{ip}]"),
    }
}

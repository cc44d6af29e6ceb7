//! The sessions that were issued.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv6Addr};
use std::time::{Duration, Instant};

use crate::packed::{Keyed, Packed};
use crate::{SessionId, SessionToken};

/// How [`Sessions`] treats them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SessionConfig {
    /// How long a session without a connection is remembered after its last use.
    ///
    /// Default: 24 hours, so that a tab that is reopened the next morning is still known. A
    /// session takes some 100 bytes.
    pub ttl: Duration,
    /// Whether a session is bound to the address it was made for: the whole of an IPv4 address,
    /// the first 64 bits of an IPv6 address. Default: yes, so that a stolen cookie is worth less.
    pub verify_ip: bool,
    /// How many sessions are remembered. Beyond it the one that was used least recently, of those
    /// without a connection, is forgotten. Default: 100,000, some 10 MB. It should be well above
    /// the number of connections: if all sessions have one, a new one is issued but not remembered.
    pub max_sessions: usize,
}

impl Default for SessionConfig {
    fn default() -> Self {
        Self {
            ttl: Duration::from_secs(24 * 60 * 60),
            verify_ip: true,
            max_sessions: 100_000,
        }
    }
}

/// The session of a visitor, as [`Sessions::resume`] found or made it.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Resumed {
    /// The session.
    pub id: SessionId,
    /// The token for its cookie, if the session is new. `None` if the visitor's own was good.
    pub issued: Option<SessionToken>,
}

/// The sessions that were issued and not yet forgotten, in memory.
///
/// Only the ids are stored, so nothing in here lets anybody enter a session. Time never runs
/// backwards: an earlier `now` than before counts as the latest one. The owner calls
/// [`resume`](Self::resume) for each visitor, [`hold`](Self::hold) and [`release`](Self::release)
/// for each connection, and [`expire`](Self::expire) at [`poll_timeout`](Self::poll_timeout) or
/// whenever it likes: a session that is due is not resumed even if it is still stored.
///
/// # Examples
///
/// ```
/// use std::time::Instant;
/// use ws_session::{SessionConfig, Sessions};
///
/// let mut sessions = Sessions::new(SessionConfig::default());
/// let (here, now) = ("192.0.2.1".parse().ok(), Instant::now());
///
/// let new = sessions.resume(None, here, now, [1; 32]);
/// let token = new.issued.expect("a visitor without a cookie gets one");
///
/// let known = sessions.resume(Some(&token), here, now, [2; 32]);
/// assert_eq!(known.id, new.id);
/// assert!(known.issued.is_none());
///
/// let elsewhere = "198.51.100.1".parse().ok();
/// let stolen = sessions.resume(Some(&token), elsewhere, now, [3; 32]);
/// assert_ne!(stolen.id, new.id);
/// ```
#[derive(Clone, Debug)]
pub struct Sessions {
    config: SessionConfig,
    known: Packed<Known>,
    /// The sessions without a connection by last use, the oldest first.
    idle: BTreeMap<u64, SessionId>,
    next_turn: u64,
    latest: Option<Instant>,
}

#[derive(Clone, Debug)]
struct Known {
    id: SessionId,
    network: Option<IpAddr>,
    used: Instant,
    /// The key in `idle`, if `holds` is 0.
    turn: u64,
    /// The number of connections.
    holds: u32,
}

impl Keyed for Known {
    type Key = SessionId;

    fn key(&self) -> SessionId {
        self.id
    }
}

impl Sessions {
    /// Makes an empty store.
    pub fn new(config: SessionConfig) -> Self {
        Self {
            config,
            known: Packed::new(),
            idle: BTreeMap::new(),
            next_turn: 0,
            latest: None,
        }
    }

    /// Returns the number of sessions that are remembered.
    pub fn len(&self) -> usize {
        self.known.len()
    }

    /// Tells whether no session is remembered.
    pub fn is_empty(&self) -> bool {
        self.known.is_empty()
    }

    /// Tells whether a session is remembered.
    pub fn contains(&self, id: SessionId) -> bool {
        self.known.get(id).is_some()
    }

    /// Returns the session of a visitor, issuing a new one unless the token is good.
    ///
    /// A token that is unknown, has expired, or comes from another address is replaced, never
    /// adopted, so nobody can choose a session id for somebody else. The session it may belong to
    /// is left as it is. `addr` is the visitor's address; without one (a Unix peer) the session is
    /// bound to having none. `fresh` must be random bytes from the system that were never used
    /// before; they become the new token, if one is needed.
    pub fn resume(
        &mut self,
        token: Option<&SessionToken>,
        addr: Option<IpAddr>,
        now: Instant,
        fresh: [u8; 32],
    ) -> Resumed {
        let now = self.forward(now);
        let network = addr.map(network);
        if let Some(id) = token.map(SessionToken::id)
            && let Some(known) = self.known.get(id)
            && !self.is_due(known, now)
            && (!self.config.verify_ip || known.network == network)
        {
            self.touch(id, now);
            return Resumed { id, issued: None };
        }
        let token = SessionToken::from_random(fresh);
        let id = token.id();
        self.remember(id, network, now);
        Resumed {
            id,
            issued: Some(token),
        }
    }

    /// Notes that a session is in use. Returns whether it is remembered.
    pub fn touch(&mut self, id: SessionId, now: Instant) -> bool {
        let now = self.forward(now);
        let turn = self.take_turn();
        let Some(known) = self.known.get_mut(id) else {
            return false;
        };
        known.used = now;
        if known.holds == 0 {
            self.idle.remove(&known.turn);
            known.turn = turn;
            self.idle.insert(turn, id);
        }
        true
    }

    /// Keeps a session for one more connection. Returns whether it is remembered.
    ///
    /// While it is held it neither expires nor makes room for others. If it is not remembered
    /// there is nothing to release.
    pub fn hold(&mut self, id: SessionId) -> bool {
        let Some(known) = self.known.get_mut(id) else {
            return false;
        };
        if known.holds == 0 {
            self.idle.remove(&known.turn);
        }
        known.holds += 1;
        true
    }

    /// Takes back one [`hold`](Self::hold) and notes the use. Returns whether there was one.
    pub fn release(&mut self, id: SessionId, now: Instant) -> bool {
        let now = self.forward(now);
        let turn = self.take_turn();
        let Some(known) = self.known.get_mut(id) else {
            return false;
        };
        if known.holds == 0 {
            return false;
        }
        known.holds -= 1;
        known.used = now;
        if known.holds == 0 {
            known.turn = turn;
            self.idle.insert(turn, id);
        }
        true
    }

    /// Forgets a session, held or not: a logout. Returns whether it was remembered.
    ///
    /// Its connections are the caller's to close.
    pub fn remove(&mut self, id: SessionId) -> bool {
        let Some(known) = self.known.remove(id) else {
            return false;
        };
        if known.holds == 0 {
            self.idle.remove(&known.turn);
        }
        true
    }

    /// Forgets the sessions that have not been used for the ttl, and returns them.
    pub fn expire(&mut self, now: Instant) -> Vec<SessionId> {
        let now = self.forward(now);
        let mut expired = Vec::new();
        while let Some((id, known)) = self.oldest()
            && self.is_due(known, now)
        {
            expired.push(id);
            self.remove(id);
        }
        expired
    }

    /// Returns when the next session expires, if nothing else happens.
    pub fn poll_timeout(&self) -> Option<Instant> {
        let (_, known) = self.oldest()?;
        known.used.checked_add(self.config.ttl)
    }

    fn remember(&mut self, id: SessionId, network: Option<IpAddr>, now: Instant) {
        while self.known.len() >= self.config.max_sessions {
            let Some((oldest, _)) = self.oldest() else {
                return;
            };
            self.remove(oldest);
        }
        let turn = self.take_turn();
        self.known.insert_unique(Known {
            id,
            network,
            used: now,
            turn,
            holds: 0,
        });
        self.idle.insert(turn, id);
    }

    /// The session without a connection that was used least recently.
    fn oldest(&self) -> Option<(SessionId, &Known)> {
        let (_, id) = self.idle.first_key_value()?;
        Some((*id, self.known.get(*id).expect("an idle session is known")))
    }

    fn is_due(&self, known: &Known, now: Instant) -> bool {
        known.holds == 0 && now.saturating_duration_since(known.used) >= self.config.ttl
    }

    /// Sessions take turns in the order of their use, so that the first is also the next to expire.
    fn take_turn(&mut self) -> u64 {
        self.next_turn += 1;
        self.next_turn
    }

    fn forward(&mut self, now: Instant) -> Instant {
        let now = self.latest.map_or(now, |latest| latest.max(now));
        self.latest = Some(now);
        now
    }
}

/// What counts as one address: an IPv4 address, or the 64 bits of an IPv6 address that a provider
/// gives to one customer, whose machines change the rest every day.
fn network(addr: IpAddr) -> IpAddr {
    match addr.to_canonical() {
        IpAddr::V6(addr) => {
            let prefix = addr.to_bits() & (u128::MAX << 64);
            IpAddr::V6(Ipv6Addr::from_bits(prefix))
        }
        addr @ IpAddr::V4(_) => addr,
    }
}

#[cfg(test)]
mod tests;

//! The sessions that were issued.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::time::{Duration, Instant};

use crate::packed::{Keyed, Packed};
use crate::{SessionData, SessionId, SessionToken, UserId};

/// How long a revocation is remembered: longer than an opening handshake takes.
const REVOCATION_MEMORY: Duration = Duration::from_secs(15 * 60);

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
    /// How many bits of an IPv4 address count for that. Default: 32.
    pub ip_prefix_v4: u8,
    /// How many bits of an IPv6 address count for that. Default: 64, what a provider gives to one
    /// customer, whose machines change the rest every day.
    pub ip_prefix_v6: u8,
    /// How long a session lives, however much it is used. Default: `None`, as long as it is.
    pub max_age: Option<Duration>,
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
            ip_prefix_v4: 32,
            ip_prefix_v6: 64,
            max_age: None,
            max_sessions: 100_000,
        }
    }
}

impl SessionConfig {
    /// What counts as one address.
    fn network(&self, addr: IpAddr) -> IpAddr {
        match addr.to_canonical() {
            IpAddr::V4(addr) => {
                let mask = u32::MAX.checked_shl(32_u32.saturating_sub(self.ip_prefix_v4.into()));
                Ipv4Addr::from_bits(addr.to_bits() & mask.unwrap_or(0)).into()
            }
            IpAddr::V6(addr) => {
                let mask = u128::MAX.checked_shl(128_u32.saturating_sub(self.ip_prefix_v6.into()));
                Ipv6Addr::from_bits(addr.to_bits() & mask.unwrap_or(0)).into()
            }
        }
    }
}

/// Whether a session is known, as [`Sessions::recall`] finds it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Recall {
    /// It is, and counts as used now.
    Known,
    /// It is not, or has expired. A store may know better.
    Unknown,
    /// It is, but was made for another network.
    Elsewhere {
        /// That which it was made for; `None` is a Unix socket.
        made_for: Option<IpAddr>,
        /// That which it comes from.
        comes_from: Option<IpAddr>,
    },
}

/// A session that is remembered again, from what a store has of it.
#[derive(Clone, Debug)]
pub struct Remembered {
    /// Its name.
    pub id: SessionId,
    /// Its user, if it has one.
    pub user: Option<UserId>,
    /// What the application keeps in it.
    pub data: Option<SessionData>,
    /// The address that it was made for.
    pub addr: Option<IpAddr>,
    /// How long ago it was used.
    pub unused_for: Duration,
    /// How much longer it lives; `None` if that has no end.
    pub left: Option<Duration>,
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
    idle: BTreeMap<u64, Idle>,
    /// When sessions are over, if they do not live as long as they are used.
    ends: BTreeSet<(Instant, SessionId)>,
    /// Those that were ended while they were in use, and when.
    revoked: HashMap<SessionId, Instant>,
    /// Users of whom all sessions were ended, and when.
    revoked_users: HashMap<UserId, Instant>,
    /// How many have data.
    with_data: usize,
    next_turn: u64,
    latest: Option<Instant>,
}

#[derive(Clone, Debug)]
struct Known {
    id: SessionId,
    network: Option<IpAddr>,
    /// The key in `idle`, if `holds` is 0.
    turn: u64,
    /// The number of connections.
    holds: u32,
    /// What most sessions have nothing of.
    extra: Option<Box<Extra>>,
}

/// What is kept of a session only while it has no connection.
#[derive(Clone, Copy, Debug)]
struct Idle {
    id: SessionId,
    used: Instant,
}

#[derive(Clone, Debug, Default)]
struct Extra {
    user: Option<UserId>,
    data: Option<SessionData>,
    ends: Option<Instant>,
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
            ends: BTreeSet::new(),
            revoked: HashMap::new(),
            revoked_users: HashMap::new(),
            with_data: 0,
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
        if let Some(id) = token.map(SessionToken::id)
            && self.recall(id, addr, now) == Recall::Known
        {
            return Resumed { id, issued: None };
        }
        let (id, token) = self.issue(addr, now, fresh);
        Resumed {
            id,
            issued: Some(token),
        }
    }

    /// Makes a new session. `addr` and `fresh` are those of [`resume`](Self::resume).
    pub fn issue(
        &mut self,
        addr: Option<IpAddr>,
        now: Instant,
        fresh: [u8; 32],
    ) -> (SessionId, SessionToken) {
        let now = self.forward(now);
        let token = SessionToken::from_random(fresh);
        let network = addr.map(|addr| self.config.network(addr));
        let ends = self.config.max_age.and_then(|age| now.checked_add(age));
        let id = token.id();
        self.remember(id, network, now, extra_until(ends));
        (id, token)
    }

    /// Looks whether a session is known, and notes that it is in use.
    ///
    /// `addr` is the visitor's address, as for [`resume`](Self::resume).
    pub fn recall(&mut self, id: SessionId, addr: Option<IpAddr>, now: Instant) -> Recall {
        let now = self.forward(now);
        let Some(known) = self.known.get(id).filter(|known| !self.is_due(known, now)) else {
            return Recall::Unknown;
        };
        let made_for = known.network;
        let comes_from = addr.map(|addr| self.config.network(addr));
        if self.config.verify_ip && made_for != comes_from {
            return Recall::Elsewhere {
                made_for,
                comes_from,
            };
        }
        self.touch(id, now);
        Recall::Known
    }

    /// Remembers a session again that a store has, unless it is known, has expired, or was revoked
    /// after `asked_at`, the time at which the store was asked. Returns whether it is known now.
    pub fn restore(&mut self, session: Remembered, asked_at: Instant, now: Instant) -> bool {
        let now = self.forward(now);
        let Remembered {
            id,
            user,
            data,
            addr,
            unused_for,
            left,
        } = session;
        if self.known.get(id).is_some() {
            return true;
        }
        let is_over = unused_for >= self.config.ttl || left.is_some_and(|left| left.is_zero());
        if is_over || self.is_revoked(id, asked_at) {
            return false;
        }
        let network = addr.map(|addr| self.config.network(addr));
        let extra = Extra {
            user,
            data,
            ends: left.and_then(|left| now.checked_add(left)),
        };
        let is_plain = extra.user.is_none() && extra.data.is_none() && extra.ends.is_none();
        // Only being recalled is a use.
        let used = now.checked_sub(unused_for).unwrap_or(now);
        self.remember(id, network, used, (!is_plain).then(|| Box::new(extra)));
        self.known.get(id).is_some()
    }

    /// Remembers a session that the application has a name for, and that comes from anywhere,
    /// unless it is known. Returns whether it was not, and is now.
    pub fn adopt(&mut self, id: SessionId, now: Instant) -> bool {
        let now = self.forward(now);
        if self.known.get(id).is_some() {
            self.touch(id, now);
            return false;
        }
        let ends = self.config.max_age.and_then(|age| now.checked_add(age));
        self.remember(id, None, now, extra_until(ends));
        self.known.get(id).is_some()
    }

    /// Returns the user of a session, as far as one was named.
    pub fn user(&self, id: SessionId) -> Option<&UserId> {
        self.known.get(id)?.extra.as_ref()?.user.as_ref()
    }

    /// Names the user of a session. Returns whether it had another one.
    pub fn set_user(&mut self, id: SessionId, user: &UserId) -> bool {
        let Some(known) = self.known.get_mut(id) else {
            return false;
        };
        let extra = known.extra.get_or_insert_default();
        if extra.user.as_ref() == Some(user) {
            return false;
        }
        extra.user = Some(user.clone());
        true
    }

    /// Returns what the application keeps in a session.
    pub fn data(&self, id: SessionId) -> Option<&SessionData> {
        self.known.get(id)?.extra.as_ref()?.data.as_ref()
    }

    /// Returns how many sessions the application keeps something in.
    pub fn with_data(&self) -> usize {
        self.with_data
    }

    /// Sets what the application keeps in a session, `None` for nothing. Returns whether the
    /// session is remembered.
    pub fn set_data(&mut self, id: SessionId, data: Option<SessionData>) -> bool {
        let Some(known) = self.known.get_mut(id) else {
            return false;
        };
        let had = known.extra.as_ref().is_some_and(|one| one.data.is_some());
        self.with_data = self.with_data + usize::from(data.is_some()) - usize::from(had);
        if data.is_some() || had {
            known.extra.get_or_insert_default().data = data;
        }
        true
    }

    /// Returns the sessions that have connections.
    pub fn held(&self) -> impl Iterator<Item = SessionId> {
        let known = self.known.iter().map(|(_, known)| known);
        known.filter(|known| known.holds > 0).map(|known| known.id)
    }

    /// Notes that a session is in use. Returns whether it is remembered.
    pub fn touch(&mut self, id: SessionId, now: Instant) -> bool {
        let now = self.forward(now);
        let turn = self.take_turn();
        let Some(known) = self.known.get_mut(id) else {
            return false;
        };
        if known.holds == 0 {
            self.idle.remove(&known.turn);
            known.turn = turn;
            self.idle.insert(turn, Idle { id, used: now });
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
        if known.holds == 0 {
            known.turn = turn;
            self.idle.insert(turn, Idle { id, used: now });
        }
        true
    }

    /// Forgets a session, held or not. Returns whether it was remembered.
    ///
    /// Its connections are the caller's to close.
    pub fn remove(&mut self, id: SessionId) -> bool {
        let Some(known) = self.known.remove(id) else {
            return false;
        };
        if known.holds == 0 {
            self.idle.remove(&known.turn);
        }
        if let Some(extra) = known.extra {
            self.with_data -= usize::from(extra.data.is_some());
            if let Some(end) = extra.ends {
                self.ends.remove(&(end, id));
            }
        }
        true
    }

    /// Forgets a session for good: a logout. Returns whether it was remembered.
    ///
    /// Its connections are the caller's to close, those too that are being opened with it and ask
    /// for [`is_revoked`](Self::is_revoked) when they are.
    pub fn revoke(&mut self, id: SessionId, now: Instant) -> bool {
        let now = self.forward(now);
        self.revoked.insert(id, now);
        self.remove(id)
    }

    /// Tells whether a session was revoked, or has ended, at `since` or later. It is forgotten
    /// after a quarter of an hour.
    pub fn is_revoked(&self, id: SessionId, since: Instant) -> bool {
        self.revoked.get(&id).is_some_and(|at| *at >= since)
    }

    /// Notes that all sessions of a user are being ended, those too that nobody knows to be this
    /// user's yet: whoever is asked about a visitor meanwhile asks for
    /// [`is_user_revoked`](Self::is_user_revoked) then.
    pub fn revoke_user(&mut self, user: &UserId, now: Instant) {
        let now = self.forward(now);
        self.revoked_users.insert(user.clone(), now);
    }

    /// Tells whether all sessions of a user were ended at `since` or later. It is forgotten after a
    /// quarter of an hour.
    pub fn is_user_revoked(&self, user: &UserId, since: Instant) -> bool {
        self.revoked_users.get(user).is_some_and(|at| *at >= since)
    }

    /// Forgets the sessions that have not been used for the ttl, and returns them.
    pub fn expire(&mut self, now: Instant) -> Vec<SessionId> {
        let now = self.forward(now);
        let is_recent = |at: &Instant| now.saturating_duration_since(*at) < REVOCATION_MEMORY;
        self.revoked.retain(|_, at| is_recent(at));
        self.revoked_users.retain(|_, at| is_recent(at));
        let mut expired = Vec::new();
        while let Some(oldest) = self.oldest()
            && self.is_old(oldest, now)
        {
            expired.push(oldest.id);
            self.remove(oldest.id);
        }
        expired
    }

    /// Revokes the sessions that have lived as long as they may, used or not, and returns them.
    pub fn end(&mut self, now: Instant) -> Vec<SessionId> {
        let now = self.forward(now);
        let mut ended = Vec::new();
        while let Some((end, id)) = self.ends.first().copied()
            && end <= now
        {
            ended.push(id);
            self.revoke(id, now);
        }
        ended
    }

    /// Returns when the next session expires, if nothing else happens.
    pub fn poll_timeout(&self) -> Option<Instant> {
        self.oldest()?.used.checked_add(self.config.ttl)
    }

    /// Returns when the next session is over that is to be [ended](Self::end).
    pub fn next_end(&self) -> Option<Instant> {
        self.ends.first().map(|(end, _)| *end)
    }

    fn remember(
        &mut self,
        id: SessionId,
        network: Option<IpAddr>,
        used: Instant,
        extra: Option<Box<Extra>>,
    ) {
        while self.known.len() >= self.config.max_sessions {
            let Some(oldest) = self.oldest() else {
                return;
            };
            self.remove(oldest.id);
        }
        let turn = self.take_turn();
        if let Some(extra) = &extra {
            self.with_data += usize::from(extra.data.is_some());
            if let Some(end) = extra.ends {
                self.ends.insert((end, id));
            }
        }
        self.known.insert_unique(Known {
            id,
            network,
            turn,
            holds: 0,
            extra,
        });
        self.idle.insert(turn, Idle { id, used });
    }

    /// The session without a connection that was used least recently.
    fn oldest(&self) -> Option<Idle> {
        self.idle.first_key_value().map(|(_, oldest)| *oldest)
    }

    fn is_due(&self, known: &Known, now: Instant) -> bool {
        let ends = known.extra.as_ref().and_then(|extra| extra.ends);
        // Of those with a connection nothing stands there.
        let idle = self.idle.get(&known.turn).filter(|_| known.holds == 0);
        idle.is_some_and(|idle| self.is_old(*idle, now)) || ends.is_some_and(|end| end <= now)
    }

    fn is_old(&self, idle: Idle, now: Instant) -> bool {
        now.saturating_duration_since(idle.used) >= self.config.ttl
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

fn extra_until(ends: Option<Instant>) -> Option<Box<Extra>> {
    ends.is_some().then(|| {
        Box::new(Extra {
            ends,
            ..Extra::default()
        })
    })
}

#[cfg(test)]
mod tests;

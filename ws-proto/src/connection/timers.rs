//! The deadlines of a connection.

use std::time::Instant;

use crate::Config;

/// What is due at some time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Due {
    /// Send a ping.
    Ping,
    /// The pong is late.
    Pong,
    /// The message that is arriving is late.
    Message,
    /// The closing handshake is late.
    Close,
}

/// The deadlines; an instant beyond what the clock can say means never.
#[derive(Debug)]
pub(super) struct Timers {
    /// When the next ping is due, or, if the closing handshake has begun, when that is late.
    own: Option<Instant>,
    is_closing: bool,
    /// `None` while nothing is awaited of the peer, as with most connections most of the time.
    peers: Option<Box<PeersTimers>>,
}

/// What judges the peer by what arrives.
#[derive(Debug, Default)]
struct PeersTimers {
    pong: Option<Instant>,
    message: Option<Instant>,
    paused: Option<Instant>,
}

impl Timers {
    pub(super) fn new(config: &Config, now: Instant) -> Self {
        Self {
            own: next_ping(config, now),
            is_closing: false,
            peers: None,
        }
    }

    /// The next deadline and what it is for.
    pub(super) fn next(&self) -> Option<(Instant, Due)> {
        if self.is_closing {
            return self.own.map(|at| (at, Due::Close));
        }
        let Some(peers) = &self.peers else {
            return self.own.map(|at| (at, Due::Ping));
        };
        if peers.paused.is_some() {
            return None;
        }
        let deadlines = [
            (peers.message, Due::Message),
            (peers.pong, Due::Pong),
            (self.own, Due::Ping),
        ];
        let deadlines = deadlines
            .into_iter()
            .filter_map(|(at, due)| Some((at?, due)));
        // At equal times the first wins.
        deadlines.min_by_key(|(at, _)| *at)
    }

    /// Starts the clock of a message, unless it runs.
    pub(super) fn message_begun(&mut self, config: &Config, now: Instant) {
        let peers = self.peers.get_or_insert_default();
        if peers.message.is_none() {
            peers.message = now.checked_add(config.message_timeout());
        }
    }

    pub(super) fn message_ended(&mut self) {
        if let Some(peers) = &mut self.peers {
            peers.message = None;
            self.release_memory();
        }
    }

    /// A ping goes out: its pong and the next ping are awaited.
    pub(super) fn ping_sent(&mut self, config: &Config, now: Instant) {
        self.own = next_ping(config, now);
        let peers = self.peers.get_or_insert_default();
        if peers.pong.is_none() {
            peers.pong = now.checked_add(config.pong_timeout());
        }
    }

    pub(super) fn pong_received(&mut self) {
        if let Some(peers) = &mut self.peers {
            peers.pong = None;
            self.release_memory();
        }
    }

    /// The peer is in the middle of a data frame, which its pong cannot overtake.
    pub(super) fn pong_obstructed(&mut self, config: &Config, now: Instant) {
        if let Some(peers) = &mut self.peers
            && peers.pong.is_some()
        {
            peers.pong = now.checked_add(config.pong_timeout());
        }
    }

    /// The closing handshake begins: its deadline alone counts from now on.
    pub(super) fn close_begun(&mut self, config: &Config, now: Instant) {
        if !self.is_closing {
            *self = Self::closing_until(now.checked_add(config.close_timeout()));
        }
    }

    /// Nothing is due any more.
    pub(super) fn clear(&mut self) {
        *self = Self::closing_until(None);
    }

    /// Stops the clocks that judge the peer by what we do not read.
    pub(super) fn pause(&mut self, now: Instant) {
        let peers = self.peers.get_or_insert_default();
        peers.paused.get_or_insert(now);
    }

    /// Lets them go on where they stood.
    pub(super) fn resume(&mut self, now: Instant) {
        let Some(peers) = &mut self.peers else {
            return;
        };
        let Some(paused) = peers.paused.take() else {
            return;
        };
        let stood = now.saturating_duration_since(paused);
        for deadline in [&mut peers.pong, &mut peers.message] {
            *deadline = deadline.and_then(|at| at.checked_add(stood));
        }
        self.release_memory();
    }

    fn closing_until(until: Option<Instant>) -> Self {
        Self {
            own: until,
            is_closing: true,
            peers: None,
        }
    }

    fn release_memory(&mut self) {
        self.peers.take_if(|peers| {
            peers.pong.is_none() && peers.message.is_none() && peers.paused.is_none()
        });
    }
}

fn next_ping(config: &Config, now: Instant) -> Option<Instant> {
    now.checked_add(config.ping_interval()?)
}

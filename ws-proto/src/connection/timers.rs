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
    ping: Option<Instant>,
    pong: Option<Instant>,
    message: Option<Instant>,
    close: Option<Instant>,
    paused: Option<Instant>,
}

impl Timers {
    pub(super) fn new(config: &Config, now: Instant) -> Self {
        let ping = config
            .ping_interval()
            .and_then(|interval| now.checked_add(interval));
        Self {
            ping,
            pong: None,
            message: None,
            close: None,
            paused: None,
        }
    }

    /// The next deadline and what it is for.
    pub(super) fn next(&self) -> Option<(Instant, Due)> {
        let mut first = self.close.map(|at| (at, Due::Close));
        if self.paused.is_some() {
            return first;
        }
        for (at, due) in [
            (self.message, Due::Message),
            (self.pong, Due::Pong),
            (self.ping, Due::Ping),
        ] {
            // At equal times the first wins.
            if let Some(at) = at
                && first.is_none_or(|(first, _)| at < first)
            {
                first = Some((at, due));
            }
        }
        first
    }

    /// Starts the clock of a message, unless it runs.
    pub(super) fn message_begun(&mut self, config: &Config, now: Instant) {
        if self.message.is_none() {
            self.message = now.checked_add(config.message_timeout());
        }
    }

    pub(super) fn message_ended(&mut self) {
        self.message = None;
    }

    /// A ping goes out: its pong and the next ping are awaited.
    pub(super) fn ping_sent(&mut self, config: &Config, now: Instant) {
        self.ping = config
            .ping_interval()
            .and_then(|interval| now.checked_add(interval));
        if self.pong.is_none() {
            self.pong = now.checked_add(config.pong_timeout());
        }
    }

    pub(super) fn pong_received(&mut self) {
        self.pong = None;
    }

    /// The peer is in the middle of a data frame, which its pong cannot overtake.
    pub(super) fn pong_obstructed(&mut self, config: &Config, now: Instant) {
        if self.pong.is_some() {
            self.pong = now.checked_add(config.pong_timeout());
        }
    }

    /// The closing handshake begins: its deadline alone counts from now on.
    pub(super) fn close_begun(&mut self, config: &Config, now: Instant) {
        let close = self
            .close
            .or_else(|| now.checked_add(config.close_timeout()));
        *self = Self {
            ping: None,
            pong: None,
            message: None,
            close,
            paused: None,
        };
    }

    /// Nothing is due any more.
    pub(super) fn clear(&mut self) {
        *self = Self {
            ping: None,
            pong: None,
            message: None,
            close: None,
            paused: None,
        };
    }

    /// Stops the clocks that judge the peer by what we do not read.
    pub(super) fn pause(&mut self, now: Instant) {
        self.paused.get_or_insert(now);
    }

    /// Lets them go on where they stood.
    pub(super) fn resume(&mut self, now: Instant) {
        let Some(paused) = self.paused.take() else {
            return;
        };
        let stood = now.saturating_duration_since(paused);
        for deadline in [&mut self.pong, &mut self.message] {
            *deadline = deadline.and_then(|at| at.checked_add(stood));
        }
    }
}

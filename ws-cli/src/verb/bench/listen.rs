//! Connections that listen to one publisher: each delivery is told by its number and its time.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicU32, Ordering};
use std::sync::mpsc::Sender;

use super::args::MIN_BROADCAST_SIZE;
use super::connection::Fault;
use super::publisher::Signal;
use super::stats::Figures;
use super::traffic::Traffic;

/// What the publisher and the threads that listen know of the burst under way.
#[derive(Debug, Default)]
pub(super) struct Round {
    /// The number of its first message.
    first: AtomicU32,
    /// Deliveries that are still to come.
    outstanding: AtomicI64,
}

impl Round {
    /// Begins a burst: `deliveries` are to come of the messages from `first` on.
    pub(super) fn begin(&self, first: u32, deliveries: u64) {
        self.first.store(first, Ordering::Relaxed);
        let deliveries = i64::try_from(deliveries).unwrap_or(i64::MAX);
        self.outstanding.store(deliveries, Ordering::Release);
    }

    /// Whether deliveries of the burst under way are still to come.
    pub(super) fn is_outstanding(&self) -> bool {
        self.outstanding.load(Ordering::Acquire) > 0
    }

    /// Counts deliveries; `true` if these were the last.
    pub(super) fn delivered(&self, count: i64) -> bool {
        let before = self.outstanding.fetch_sub(count, Ordering::AcqRel);
        before > 0 && before <= count
    }
}

/// Makes the payload of a publication: its number, its time, and filler up to `size`.
pub(super) fn payload(number: u32, nanos: u64, size: usize) -> Vec<u8> {
    let mut text = format!("{number:08x}{:012x}", nanos & 0xFFFF_FFFF_FFFF).into_bytes();
    let filler = (b'a'..=b'z').cycle();
    text.extend(filler.take(size.saturating_sub(MIN_BROADCAST_SIZE)));
    text
}

/// Reads the beginning of a payload.
fn parse(head: &[u8; MIN_BROADCAST_SIZE]) -> Option<(u32, u64)> {
    let digits = |bytes: &[u8]| {
        bytes.iter().try_fold(0_u64, |value, byte| {
            let digit = char::from(*byte).to_digit(16)?;
            Some(value << 4 | u64::from(digit))
        })
    };
    let (number, nanos) = head.split_at(8);
    Some((u32::try_from(digits(number)?).ok()?, digits(nanos)?))
}

/// The listeners of one thread.
pub(super) struct Listen {
    size: usize,
    round: Arc<Round>,
    publisher: Sender<Signal>,
    /// Deliveries of the burst under way since the last turn of the loop.
    delivered: i64,
    is_stopped: bool,
    figures: Figures,
}

/// One listener.
#[derive(Debug)]
pub(super) struct Listener {
    head: [u8; MIN_BROADCAST_SIZE],
    received: usize,
    /// The number that is expected.
    next: u32,
}

impl Listen {
    pub(super) fn new(size: usize, round: Arc<Round>, publisher: Sender<Signal>) -> Self {
        Self {
            size,
            round,
            publisher,
            delivered: 0,
            is_stopped: false,
            figures: Figures::default(),
        }
    }
}

impl Traffic for Listen {
    type Peer = Listener;

    fn peer(&self, _id: u32) -> Listener {
        Listener {
            head: [0; MIN_BROADCAST_SIZE],
            received: 0,
            next: 0,
        }
    }

    fn begin_measuring(&mut self) {
        self.figures.begin_measuring();
    }

    fn stop(&mut self) {
        self.is_stopped = true;
    }

    fn payload(&mut self, peer: &mut Listener, piece: &[u8]) -> Result<(), Fault> {
        if let Some(room) = peer.head.get_mut(peer.received..) {
            let count = room.len().min(piece.len());
            room[..count].copy_from_slice(&piece[..count]);
        }
        peer.received += piece.len();
        Ok(())
    }

    fn end_of_message(&mut self, peer: &mut Listener, now: u64) -> Result<(), Fault> {
        let size = std::mem::take(&mut peer.received);
        let parsed = (size == self.size).then(|| parse(&peer.head)).flatten();
        let Some((number, nanos)) = parsed else {
            // Somebody else publishes too, or the server says something of its own.
            self.figures.wrong += 1;
            return Ok(());
        };
        if number < peer.next {
            self.figures.out_of_order += 1;
        }
        peer.next = peer.next.max(number + 1);
        self.figures.valid += 1;
        if !self.is_stopped {
            let latency = (now & 0xFFFF_FFFF_FFFF).saturating_sub(nanos);
            self.figures.record(size, latency);
        }
        if number >= self.round.first.load(Ordering::Relaxed) {
            self.delivered += 1;
        }
        Ok(())
    }

    fn turn_ended(&mut self) {
        let delivered = std::mem::take(&mut self.delivered);
        if delivered > 0 && self.round.delivered(delivered) {
            // A publisher that is gone does not wait for it.
            let _ = self.publisher.send(Signal::Delivered);
        }
    }

    fn figures(&mut self) -> &mut Figures {
        &mut self.figures
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use super::*;

    fn hear(listen: &mut Listen, peer: &mut Listener, payload: &[u8], now: u64) {
        // In pieces, as it may come.
        for piece in payload.chunks(7) {
            listen.payload(peer, piece).unwrap();
        }
        listen.end_of_message(peer, now).unwrap();
    }

    #[test]
    fn deliveries_are_timed_and_the_last_one_tells_the_publisher() {
        let (sender, receiver) = mpsc::channel();
        let round = Arc::new(Round::default());
        let mut listen = Listen::new(64, Arc::clone(&round), sender);
        let (mut one, mut two) = (listen.peer(0), listen.peer(1));
        round.begin(5, 2);
        let payload = payload(5, 1_000, 64);
        assert_eq!(payload.len(), 64);
        hear(&mut listen, &mut one, &payload, 3_000);
        listen.turn_ended();
        assert!(receiver.try_recv().is_err());
        hear(&mut listen, &mut two, &payload, 4_000);
        listen.turn_ended();
        assert!(matches!(receiver.try_recv(), Ok(Signal::Delivered)));
        let percentiles = listen.figures.latency.percentiles().unwrap();
        assert_eq!(
            (percentiles.min.round(), percentiles.max.round()),
            (2.0, 3.0)
        );
    }

    #[test]
    fn late_foreign_and_disordered_messages_are_told_apart() {
        let (sender, receiver) = mpsc::channel();
        let round = Arc::new(Round::default());
        let mut listen = Listen::new(20, Arc::clone(&round), sender);
        let mut peer = listen.peer(0);
        round.begin(2, 1);
        hear(&mut listen, &mut peer, &payload(1, 0, 20), 1);
        hear(&mut listen, &mut peer, b"welcome", 1);
        hear(&mut listen, &mut peer, &[b'z'; 20], 1);
        listen.turn_ended();
        assert!(
            receiver.try_recv().is_err(),
            "the burst under way has not come"
        );
        hear(&mut listen, &mut peer, &payload(2, 0, 20), 1);
        hear(&mut listen, &mut peer, &payload(0, 0, 20), 1);
        listen.turn_ended();
        assert!(receiver.try_recv().is_ok());
        let figures = &listen.figures;
        assert_eq!(
            (figures.valid, figures.wrong, figures.out_of_order),
            (3, 2, 1)
        );
    }
}

//! Messages that must come back as they went, each reply setting off the next message.
//!
//! All messages of a thread are one image, made once: only the sixteen bytes that tell connection
//! and number are written anew. They share a masking key too, which is fresh for each thread and
//! not, as RFC 6455 §5.3 demands of clients, for each frame: that rule keeps the author of a page
//! from choosing the bytes that intermediaries see (§10.3), and here nobody but the user chooses.

use std::io::{self, IoSlice};

use ws_proto::{Opcode, mask};

use super::connection::Fault;
use super::frames;
use super::stats::Figures;
use super::stream::Stream;
use super::traffic::{Traffic, is_later, write_control};

/// The bytes of a message that tell it from others: connection and number, in hexadecimal.
const IDENTITY_SIZE: usize = 16;
/// What lies behind this in a message is not copied to be sent.
const MAX_COPIED: usize = 1024;
/// Parts of one write: two for each message that is not copied.
const MAX_SLICES: usize = 64;
/// Copied messages are sent in writes of at most this size.
const MAX_GATHERED: usize = 128 * 1024;

/// The echo's traffic on one thread.
pub(super) struct Echo {
    /// A message as it is sent.
    sent: Image,
    /// A reply, as it is received: its payload, or the same bytes again if there are no frames.
    expected: Image,
    payload_size: usize,
    in_flight: u32,
    quota: Option<Quota>,
    /// Messages that go from connection to connection, if they do, and those of them that wait for
    /// the next one.
    in_turn: Option<u32>,
    waiting: u32,
    /// The connections with a number from this on are idle.
    active: u32,
    /// Messages that were sent before any reply had come.
    begun: u64,
    is_stopped: bool,
    scratch: Vec<u8>,
    figures: Figures,
}

/// How many messages there are to be.
#[derive(Debug, Clone, Copy)]
pub(super) struct Quota {
    /// For each connection.
    pub(super) each: u32,
    /// For each connection with a number below this, one more.
    pub(super) extra: u32,
}

/// One connection.
pub(super) struct EchoPeer {
    id: u32,
    /// The message that is being written, and how much of it has been.
    write_at: u32,
    write_offset: usize,
    /// The first message that is not to be written yet.
    end: u32,
    /// The reply that is being read, and how much of it has been.
    read_at: u32,
    read_offset: usize,
    /// When the messages in flight were sent, by number.
    sent_at: Box<[u64]>,
    share: Option<u32>,
}

/// The bytes of any message, but for its identity.
struct Image {
    bytes: Vec<u8>,
    identity_at: usize,
    key: [u8; 4],
    has_identity: bool,
}

impl Echo {
    /// A traffic without a quota goes on until it is stopped.
    pub(super) fn new(
        payload_size: usize,
        in_flight: u32,
        opcode: Opcode,
        is_raw: bool,
        key: [u8; 4],
        quota: Option<Quota>,
    ) -> Self {
        let payload: Vec<u8> = (b'a'..=b'z').cycle().take(payload_size).collect();
        let mut frame = Vec::with_capacity(payload_size + 14);
        frames::encode(opcode, &payload, key, &mut frame);
        let has_identity = payload_size >= IDENTITY_SIZE;
        let identity_at = frame.len() - payload_size;
        let image = |bytes, identity_at, key| Image {
            bytes,
            identity_at,
            key,
            has_identity,
        };
        let expected = if is_raw {
            image(frame.clone(), identity_at, key)
        } else {
            image(payload, 0, [0; 4])
        };
        Self {
            sent: image(frame, identity_at, key),
            expected,
            payload_size,
            in_flight,
            quota,
            in_turn: None,
            waiting: 0,
            active: u32::MAX,
            begun: 0,
            is_stopped: false,
            scratch: Vec::new(),
            figures: Figures::default(),
        }
    }

    /// Has so many messages under way on all connections together, each reply setting off the next
    /// message on another one.
    pub(super) fn in_turn(self, count: u32) -> Self {
        Self {
            in_turn: Some(count),
            ..self
        }
    }

    /// Has only so many connections send.
    pub(super) fn active(self, count: u32) -> Self {
        Self {
            active: count,
            ..self
        }
    }

    /// Compares what came with what must come next, and returns how much of the reply is left.
    fn compare(&self, peer: &mut EchoPeer, piece: &[u8]) -> Result<usize, Fault> {
        if peer.read_at == peer.end || peer.read_at == peer.write_at && peer.write_offset == 0 {
            return Err(Fault::Unasked);
        }
        let image = &self.expected;
        let is_same = image.matches(peer.id, peer.read_at, peer.read_offset, piece);
        if !is_same {
            return Err(Fault::WrongReply);
        }
        peer.read_offset += piece.len();
        Ok(image.bytes.len() - peer.read_offset)
    }

    /// A whole reply has come: it is recorded, and the next message may go.
    fn replied(&mut self, peer: &mut EchoPeer, now: u64) {
        let place = (peer.read_at % self.in_flight) as usize;
        if !self.is_stopped {
            let sent_at = peer.sent_at[place];
            self.figures
                .record(self.payload_size, now.saturating_sub(sent_at));
        }
        self.figures.valid += 1;
        peer.read_at += 1;
        peer.read_offset = 0;
        if self.in_turn.is_some() {
            self.waiting += 1;
        } else if !self.is_stopped && peer.share.is_none_or(|share| peer.end < share) {
            // The place of the reply is that of the message which takes its turn.
            peer.sent_at[place] = now;
            peer.end += 1;
        }
    }

    /// Writes some of the messages that wait; `false` if the stream takes no more for now.
    fn write(&mut self, peer: &mut EchoPeer, stream: &mut Stream) -> io::Result<bool> {
        let image = &self.sent;
        let size = image.bytes.len();
        let copied = size.min(if size > MAX_COPIED {
            image.identity_at + IDENTITY_SIZE
        } else {
            MAX_COPIED
        });
        let (head, tail) = image.bytes.split_at(copied);
        let most = if tail.is_empty() {
            (MAX_GATHERED / copied).max(1)
        } else {
            MAX_SLICES / 2
        };
        let count = (peer.end.wrapping_sub(peer.write_at) as usize).min(most);
        self.scratch.clear();
        for number in 0..count {
            let start = self.scratch.len();
            self.scratch.extend_from_slice(head);
            let number = peer.write_at + number as u32;
            image.sign(&mut self.scratch[start..], peer.id, number);
        }
        let written = if tail.is_empty() {
            stream.write(&[IoSlice::new(&self.scratch[peer.write_offset..])])
        } else {
            let mut slices = [IoSlice::new(&[]); MAX_SLICES];
            let mut skipped = peer.write_offset;
            for (pair, head) in slices.chunks_mut(2).zip(self.scratch.chunks(copied)) {
                pair[0] = IoSlice::new(&head[skipped.min(copied)..]);
                pair[1] = IoSlice::new(&tail[skipped.saturating_sub(copied)..]);
                skipped = 0;
            }
            stream.write(&slices[..count * 2])
        };
        match written {
            Ok(written) => {
                let done = peer.write_offset + written;
                // The quotient is at most `count`, which came from a u32.
                peer.write_at += (done / size) as u32;
                peer.write_offset = done % size;
                Ok(true)
            }
            Err(error) if is_later(&error) => Ok(false),
            Err(error) => Err(error),
        }
    }
}

impl Traffic for Echo {
    type Peer = EchoPeer;

    fn peer(&self, id: u32) -> EchoPeer {
        let quota = self
            .quota
            .map(|quota| quota.each + u32::from(id < quota.extra));
        EchoPeer {
            id,
            write_at: 0,
            write_offset: 0,
            end: 0,
            read_at: 0,
            read_offset: 0,
            sent_at: vec![0; self.in_flight as usize].into(),
            share: if id < self.active { quota } else { Some(0) },
        }
    }

    fn begin(&mut self, peer: &mut EchoPeer, now: u64) {
        let most = self.in_turn.map_or(u32::MAX, |count| {
            count.saturating_sub(u32::try_from(self.begun).unwrap_or(u32::MAX))
        });
        peer.end = self.in_flight.min(peer.share.unwrap_or(most));
        self.begun += u64::from(peer.end);
        peer.sent_at.fill(now);
    }

    fn begin_measuring(&mut self) {
        self.figures.begin_measuring();
    }

    fn stop(&mut self) {
        self.is_stopped = true;
    }

    fn payload(&mut self, peer: &mut EchoPeer, piece: &[u8]) -> Result<(), Fault> {
        self.compare(peer, piece).map(drop)
    }

    fn end_of_message(&mut self, peer: &mut EchoPeer, now: u64) -> Result<(), Fault> {
        if self.compare(peer, &[])? > 0 {
            return Err(Fault::WrongReply);
        }
        self.replied(peer, now);
        Ok(())
    }

    fn raw(&mut self, peer: &mut EchoPeer, mut bytes: &[u8], now: u64) -> Result<(), Fault> {
        while !bytes.is_empty() {
            let left = self.expected.bytes.len() - peer.read_offset;
            let (piece, rest) = bytes.split_at(left.min(bytes.len()));
            bytes = rest;
            if self.compare(peer, piece)? == 0 {
                self.replied(peer, now);
            }
        }
        Ok(())
    }

    fn flush(
        &mut self,
        peer: &mut EchoPeer,
        control: &mut Vec<u8>,
        stream: &mut Stream,
    ) -> io::Result<()> {
        loop {
            // A control frame goes between messages, never into one.
            if peer.write_offset == 0 && !control.is_empty() {
                write_control(control, stream)?;
                if !control.is_empty() {
                    return Ok(());
                }
            }
            if peer.write_at == peer.end || !self.write(peer, stream)? {
                return Ok(());
            }
        }
    }

    fn take_waiting(&mut self) -> u32 {
        let waiting = std::mem::take(&mut self.waiting);
        if self.is_stopped { 0 } else { waiting }
    }

    fn take_turn(&mut self, peer: &mut EchoPeer, now: u64) {
        peer.sent_at[(peer.end % self.in_flight) as usize] = now;
        peer.end += 1;
    }

    fn is_warm(&self) -> bool {
        self.figures.valid + self.figures.missing >= self.begun
    }

    fn is_settled(&self, peer: &EchoPeer) -> bool {
        peer.read_at == peer.end
    }

    fn is_done(&self, peer: &EchoPeer) -> bool {
        peer.share.is_some_and(|share| peer.read_at >= share)
    }

    fn lost(&mut self, peer: &EchoPeer) {
        self.figures.missing += u64::from(peer.end - peer.read_at);
    }

    fn figures(&mut self) -> &mut Figures {
        &mut self.figures
    }
}

impl Image {
    /// The identity as it stands in the bytes.
    #[inline]
    fn identity(&self, id: u32, number: u32) -> [u8; IDENTITY_SIZE] {
        const DIGITS: &[u8; 16] = b"0123456789abcdef";
        let value = u64::from(id) << 32 | u64::from(number);
        let mut identity = [0; IDENTITY_SIZE];
        for (place, byte) in identity.iter_mut().enumerate() {
            let digit = value >> (60 - 4 * place) & 0xF;
            *byte = DIGITS[digit as usize];
        }
        mask(&mut identity, self.key);
        identity
    }

    /// Makes `bytes`, which begin like the image, those of one message.
    #[inline]
    fn sign(&self, bytes: &mut [u8], id: u32, number: u32) {
        if self.has_identity {
            let place = self.identity_at..self.identity_at + IDENTITY_SIZE;
            bytes[place].copy_from_slice(&self.identity(id, number));
        }
    }

    /// Tells whether `piece` is what stands at `offset` of a message.
    #[inline]
    fn matches(&self, id: u32, number: u32, offset: usize, piece: &[u8]) -> bool {
        let Some(expected) = self.bytes.get(offset..offset + piece.len()) else {
            return false;
        };
        let (start, end) = (self.identity_at, self.identity_at + IDENTITY_SIZE);
        if !self.has_identity || offset >= end || offset + piece.len() <= start {
            return piece == expected;
        }
        let identity = self.identity(id, number);
        let (from, to) = (start.max(offset), end.min(offset + piece.len()));
        piece[..from - offset] == expected[..from - offset]
            && piece[from - offset..to - offset] == identity[from - start..to - start]
            && piece[to - offset..] == expected[to - offset..]
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use ws_proto::{Connection, Event, Input};

    use super::*;

    const KEY: [u8; 4] = [1, 2, 3, 4];

    fn message(echo: &Echo, id: u32, number: u32) -> Vec<u8> {
        let mut bytes = echo.sent.bytes.clone();
        echo.sent.sign(&mut bytes, id, number);
        bytes
    }

    #[test]
    fn a_server_understands_what_is_sent() {
        for size in [0, 1, 15, 16, 20, 125, 126, 5000, 70_000] {
            let echo = Echo::new(size, 1, Opcode::Text, false, KEY, None);
            let now = std::time::Instant::now();
            let mut server = Connection::server(Default::default(), now);
            let mut wire = message(&echo, 7, 258);
            let mut input = Input::new(&mut wire);
            match server.receive(&mut input, now) {
                Some(Event::Message(message)) => {
                    assert_eq!(message.payload.len(), size);
                    assert!(echo.expected.matches(7, 258, 0, message.payload));
                    if size >= IDENTITY_SIZE {
                        assert!(message.payload.starts_with(b"0000000700000102"));
                        assert!(!echo.expected.matches(7, 259, 0, message.payload));
                        assert!(!echo.expected.matches(8, 258, 0, message.payload));
                    }
                }
                other => panic!("{other:?}"),
            }
        }
    }

    #[test]
    fn short_long_and_unasked_replies_are_faults() {
        let mut echo = Echo::new(20, 1, Opcode::Text, false, KEY, None);
        let reply = message(&echo, 0, 0)[6..].to_vec();
        let reply: Vec<u8> = reply
            .iter()
            .zip(KEY.iter().cycle())
            .map(|(a, b)| a ^ b)
            .collect();
        let sent = |echo: &mut Echo| {
            let mut peer = echo.peer(0);
            echo.begin(&mut peer, 0);
            peer.write_at = 1;
            peer
        };
        let mut peer = sent(&mut echo);
        echo.payload(&mut peer, &reply[..19]).unwrap();
        assert!(matches!(
            echo.end_of_message(&mut peer, 1),
            Err(Fault::WrongReply)
        ));

        let mut peer = sent(&mut echo);
        echo.payload(&mut peer, &reply).unwrap();
        assert!(matches!(
            echo.payload(&mut peer, b"x"),
            Err(Fault::WrongReply)
        ));

        let mut peer = sent(&mut echo);
        echo.payload(&mut peer, &reply).unwrap();
        echo.stop();
        echo.end_of_message(&mut peer, 1).unwrap();
        assert!(echo.is_settled(&peer));
        assert!(matches!(
            echo.payload(&mut peer, &reply),
            Err(Fault::Unasked)
        ));
    }

    #[test]
    fn quota_is_kept_at_its_last_message() {
        let mut echo = Echo::new(
            0,
            2,
            Opcode::Text,
            false,
            KEY,
            Some(Quota { each: 2, extra: 1 }),
        );
        assert_eq!(echo.peer(1).share, Some(2));
        let mut peer = echo.peer(0);
        echo.begin(&mut peer, 0);
        assert_eq!(peer.end, 2);
        assert!(!echo.is_warm());
        for (replies, end) in [(1, 3), (2, 3), (3, 3)] {
            peer.write_at = peer.end;
            assert!(!echo.is_done(&peer));
            echo.end_of_message(&mut peer, 1).unwrap();
            assert_eq!((peer.read_at, peer.end), (replies, end));
            assert_eq!(echo.is_warm(), replies >= 2);
        }
        assert!(echo.is_done(&peer) && echo.is_settled(&peer));
        assert_eq!(echo.figures.messages, 3);
    }

    #[test]
    fn a_message_in_turn_goes_on_with_the_next_connection() {
        let mut echo = Echo::new(0, 1, Opcode::Text, false, KEY, None).in_turn(2);
        let mut peers = [echo.peer(0), echo.peer(1), echo.peer(2)];
        for peer in &mut peers {
            echo.begin(peer, 0);
        }
        assert_eq!(peers.each_ref().map(|peer| peer.end), [1, 1, 0]);
        assert_eq!(echo.take_waiting(), 0);
        peers[0].write_at = 1;
        echo.end_of_message(&mut peers[0], 1).unwrap();
        assert!(echo.is_settled(&peers[0]) && !echo.is_settled(&peers[1]));
        assert_eq!((echo.take_waiting(), echo.take_waiting()), (1, 0));
        echo.take_turn(&mut peers[2], 5);
        assert_eq!((peers[2].end, peers[2].sent_at[0]), (1, 5));
        echo.stop();
        peers[2].write_at = 1;
        echo.end_of_message(&mut peers[2], 9).unwrap();
        assert_eq!(echo.take_waiting(), 0);
    }

    #[test]
    fn connections_beyond_the_active_ones_send_nothing() {
        let mut echo = Echo::new(0, 2, Opcode::Text, false, KEY, None).active(1);
        let mut peers = [echo.peer(0), echo.peer(1)];
        for peer in &mut peers {
            echo.begin(peer, 0);
        }
        assert_eq!(peers.each_ref().map(|peer| peer.end), [2, 0]);
        assert!(echo.is_settled(&peers[1]) && !echo.is_done(&peers[0]));
    }

    proptest! {
        #[test]
        fn prop_one_changed_byte_is_found_wherever_pieces_are_cut(
            size in 1_usize..300,
            at in 0_usize..300,
            cut in 0_usize..300,
            change in 1_u8..,
            is_raw: bool,
        ) {
            let echo = Echo::new(size, 1, Opcode::Binary, is_raw, KEY, None);
            let mut image = echo.expected.bytes.clone();
            echo.expected.sign(&mut image, 3, 9);
            let (cut, at) = (cut.min(image.len()), at % image.len());
            let matches = |bytes: &[u8]| {
                echo.expected.matches(3, 9, 0, &bytes[..cut])
                    && echo.expected.matches(3, 9, cut, &bytes[cut..])
            };
            prop_assert!(matches(&image));
            image[at] ^= change;
            prop_assert!(!matches(&image));
        }
    }
}

//! Records: what one writer means by one write to a FIFO.
//!
//! A FIFO carries bytes; who writes and how the bytes are cut is up to chance. The framing tells
//! where a record ends, the limit keeps records within what writers can write without mixing:
//! up to `PIPE_BUF` (4096 bytes) are written in one piece, longer writes of several writers
//! interleave, and then fragments of theirs may look like records.
//!
//! ```
//! use ws_ipc::{Framing, Record, RecordDecoder};
//!
//! let mut decoder = RecordDecoder::new(Framing::Lines, 8);
//! let mut seen = Vec::new();
//! for chunk in ["/on", "e\n\n/tw", "o\nmuch too long\n"] {
//!     decoder.feed(chunk.as_bytes(), &mut |record| match record {
//!         Record::Whole(bytes) => seen.push(String::from_utf8_lossy(bytes).into_owned()),
//!         Record::TooLong(size) => seen.push(format!("({size} bytes dropped)")),
//!     });
//! }
//! assert_eq!(seen, ["/one", "/two", "(13 bytes dropped)"]);
//! ```

use std::borrow::Cow;

/// How the end of a record is marked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Framing {
    /// Each line is a record.
    Lines,
    /// Each record is followed by this byte string, as CarbonPHP's senders write it. A payload
    /// cannot contain it. An empty one stands for a newline.
    Delimiter(Vec<u8>),
}

impl Framing {
    /// Encodes a record.
    ///
    /// # Errors
    ///
    /// [`InvalidRecord`] if a decoder would read something else: the record is empty, or its end
    /// would be found too early.
    pub fn encode(&self, record: &[u8]) -> Result<Vec<u8>, InvalidRecord> {
        let delimiter = self.delimiter();
        let encoded = [record, &delimiter].concat();
        // Not `record.contains`: with the delimiter "aa" the record "a" ends too early as well.
        let end = encoded
            .windows(delimiter.len())
            .position(|window| *window == *delimiter);
        match end {
            Some(0) if record.is_empty() => Err(InvalidRecord::Empty),
            Some(at) if at < record.len() => Err(InvalidRecord::Delimiter { at }),
            _ => Ok(encoded),
        }
    }

    fn delimiter(&self) -> Cow<'_, [u8]> {
        match self {
            Self::Delimiter(bytes) if !bytes.is_empty() => Cow::Borrowed(bytes),
            Self::Lines | Self::Delimiter(_) => Cow::Borrowed(b"\n"),
        }
    }
}

/// What [`RecordDecoder::feed`] found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Record<'a> {
    /// A record without its end mark; never empty.
    Whole(&'a [u8]),
    /// A record of so many bytes, without its end mark, was over the limit and dropped whole.
    TooLong(usize),
}

/// Why bytes cannot be sent as one record.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum InvalidRecord {
    /// Empty records are skipped by the reader.
    #[error("record is empty")]
    Empty,
    /// The reader would take this for the end of the record.
    #[error("record contains its own end at byte {at}")]
    Delimiter {
        /// Where the end mark begins.
        at: usize,
    },
}

/// Takes records from the bytes of one FIFO, however they are cut.
///
/// Call [`feed`](Self::feed) with what was read. While [`has_partial`](Self::has_partial), have a
/// timer run, and call [`expire`](Self::expire) if the record does not go on. Never more than
/// `max_record` bytes are held, and nothing between records.
#[derive(Debug)]
pub struct RecordDecoder {
    delimiter: Vec<u8>,
    /// For each length of a partial match of the delimiter, the longest shorter one that its end
    /// also is (Knuth, Morris, Pratt).
    fallback: Vec<usize>,
    max_record: usize,
    /// How many bytes of the delimiter the bytes so far end with.
    matched: usize,
    state: State,
}

#[derive(Debug)]
enum State {
    /// The record so far, with what may become its end mark.
    Collecting(Vec<u8>),
    /// The record is over the limit; so many bytes of it are gone.
    TooLong(usize),
    /// The record was given up; whatever comes before the next end mark is the rest of it.
    Expired,
}

impl RecordDecoder {
    /// Makes a decoder that takes records of up to `max_record` bytes, end mark included.
    pub fn new(framing: Framing, max_record: usize) -> Self {
        let delimiter = framing.delimiter().into_owned();
        let fallback = fallbacks(&delimiter);
        Self {
            delimiter,
            fallback,
            max_record,
            matched: 0,
            state: EMPTY,
        }
    }

    /// Returns whether a record has begun and not ended.
    pub const fn has_partial(&self) -> bool {
        match &self.state {
            State::Collecting(bytes) => !bytes.is_empty(),
            State::TooLong(_) => true,
            State::Expired => false,
        }
    }

    /// Takes the next bytes and hands each record that ends in them to `each`.
    ///
    /// Records that lie within `chunk` are borrowed from it; only the tail is copied.
    pub fn feed(&mut self, mut chunk: &[u8], each: &mut dyn FnMut(Record<'_>)) {
        while let Some(end) = self.find_end(chunk) {
            let (piece, rest) = chunk.split_at(end);
            chunk = rest;
            self.handle_end(piece, each);
        }
        self.handle_tail(chunk);
    }

    /// Gives up the record that has begun; returns how many bytes of it are dropped.
    ///
    /// The writer may only have paused, so the rest is dropped too when it comes: the next record
    /// is the one behind the next end mark. A record that another writer puts in between is lost
    /// with it; to run it joined to half of another would be worse.
    pub fn expire(&mut self) -> Option<usize> {
        let size = match &self.state {
            State::Collecting(bytes) if bytes.is_empty() => return None,
            State::Collecting(bytes) => bytes.len(),
            State::TooLong(size) => *size,
            State::Expired => return None,
        };
        self.state = State::Expired;
        Some(size)
    }

    fn handle_end(&mut self, piece: &[u8], each: &mut dyn FnMut(Record<'_>)) {
        let mark = self.delimiter.len();
        match std::mem::replace(&mut self.state, EMPTY) {
            State::Expired => {}
            State::TooLong(size) => each(Record::TooLong(size + piece.len() - mark)),
            State::Collecting(mut bytes) => {
                let size = bytes.len() + piece.len();
                if size > self.max_record {
                    each(Record::TooLong(size - mark));
                } else if bytes.is_empty() && size > mark {
                    each(Record::Whole(&piece[..size - mark]));
                } else if size > mark {
                    bytes.extend_from_slice(piece);
                    each(Record::Whole(&bytes[..size - mark]));
                }
            }
        }
    }

    fn handle_tail(&mut self, tail: &[u8]) {
        match &mut self.state {
            State::Expired => {}
            State::TooLong(size) => *size = size.saturating_add(tail.len()),
            // The end mark is not complete: at least one byte is still to come.
            State::Collecting(bytes) if bytes.len() + tail.len() >= self.max_record => {
                self.state = match bytes.len() + tail.len() {
                    0 => EMPTY,
                    size => State::TooLong(size),
                };
            }
            State::Collecting(bytes) => bytes.extend_from_slice(tail),
        }
    }

    /// Returns where the first end mark in `chunk` is over.
    fn find_end(&mut self, chunk: &[u8]) -> Option<usize> {
        if let [mark] = self.delimiter[..] {
            return chunk.iter().position(|&byte| byte == mark).map(|at| at + 1);
        }
        for (at, &byte) in chunk.iter().enumerate() {
            while self.matched > 0 && self.delimiter[self.matched] != byte {
                self.matched = self.fallback[self.matched - 1];
            }
            if self.delimiter[self.matched] == byte {
                self.matched += 1;
            }
            if self.matched == self.delimiter.len() {
                self.matched = 0;
                return Some(at + 1);
            }
        }
        None
    }
}

fn fallbacks(delimiter: &[u8]) -> Vec<usize> {
    // One byte matches or does not.
    if delimiter.len() == 1 {
        return Vec::new();
    }
    let mut fallback = vec![0; delimiter.len()];
    let mut length = 0;
    for at in 1..delimiter.len() {
        while length > 0 && delimiter[at] != delimiter[length] {
            length = fallback[length - 1];
        }
        if delimiter[at] == delimiter[length] {
            length += 1;
        }
        fallback[at] = length;
    }
    fallback
}

const EMPTY: State = State::Collecting(Vec::new());

#[cfg(test)]
mod tests {
    use super::*;

    fn feed(decoder: &mut RecordDecoder, chunk: &[u8]) -> Vec<Result<Vec<u8>, usize>> {
        let mut records = Vec::new();
        decoder.feed(chunk, &mut |record| {
            records.push(match record {
                Record::Whole(bytes) => Ok(bytes.to_vec()),
                Record::TooLong(size) => Err(size),
            });
        });
        records
    }

    #[test]
    fn record_of_max_record_with_its_newline_is_whole_and_one_more_is_not() {
        for cut in [1, 4094, 4095, 4096] {
            let mut decoder = RecordDecoder::new(Framing::Lines, 4096);
            let record = [b'x'; 4095];
            let line = [&record[..], b"\n"].concat();
            let (head, tail) = line.split_at(cut);
            let mut records = feed(&mut decoder, head);
            records.extend(feed(&mut decoder, tail));
            assert_eq!(records, [Ok(record.to_vec())]);
            let line = [b"x", head, tail, b"y\n"].concat();
            let (head, tail) = line.split_at(cut);
            let mut records = feed(&mut decoder, head);
            records.extend(feed(&mut decoder, tail));
            assert_eq!(records, [Err(4096), Ok(b"y".to_vec())]);
        }
    }

    #[test]
    fn decoder_holds_no_more_than_the_limit_and_nothing_between_records() {
        let mut decoder = RecordDecoder::new(Framing::Lines, 10);
        for _ in 0..1000 {
            assert_eq!(feed(&mut decoder, b"xxx"), []);
            let State::Collecting(bytes) = &decoder.state else {
                continue;
            };
            assert!(bytes.capacity() <= 16);
        }
        assert!(decoder.has_partial());
        assert_eq!(feed(&mut decoder, b"\nx\n"), [Err(3000), Ok(b"x".to_vec())]);
        let State::Collecting(bytes) = &decoder.state else {
            panic!("no record has begun")
        };
        assert_eq!(bytes.capacity(), 0);
    }

    #[test]
    fn t46_half_a_record_expires_and_the_next_after_a_newline_arrives() {
        let mut decoder = RecordDecoder::new(Framing::Lines, 4096);
        assert_eq!(decoder.expire(), None);
        assert_eq!(feed(&mut decoder, b"/pay?amount=1"), []);
        assert!(decoder.has_partial());
        assert_eq!(decoder.expire(), Some(13));
        assert!(!decoder.has_partial());
        assert_eq!(decoder.expire(), None);
        assert_eq!(feed(&mut decoder, b"000\n/next\n"), [Ok(b"/next".to_vec())]);
    }

    #[test]
    fn t46_record_over_the_limit_that_expires_is_counted_once() {
        let mut decoder = RecordDecoder::new(Framing::Lines, 4);
        assert_eq!(feed(&mut decoder, b"12345"), []);
        assert_eq!(decoder.expire(), Some(5));
        assert_eq!(feed(&mut decoder, b"67\nok\n"), [Ok(b"ok".to_vec())]);
    }

    #[test]
    fn t46_expiry_within_an_end_mark_still_sees_its_rest() {
        let mut decoder = RecordDecoder::new(Framing::Delimiter(b"<>".into()), 100);
        assert_eq!(feed(&mut decoder, b"half<"), []);
        assert_eq!(decoder.expire(), Some(5));
        assert_eq!(feed(&mut decoder, b">next<>"), [Ok(b"next".to_vec())]);
    }

    #[test]
    fn t47_the_other_framings_end_mark_is_payload() {
        let mark = b"\nCarbonPHP\\Abstracts\\Pipe:29\n";
        let mut delimited = RecordDecoder::new(Framing::Delimiter(mark.to_vec()), 4096);
        let sent = [b"one\ntwo\n", &mark[..]].concat();
        assert_eq!(feed(&mut delimited, &sent), [Ok(b"one\ntwo\n".to_vec())]);
        let mut lines = RecordDecoder::new(Framing::Lines, 4096);
        let within = b"aCarbonPHP\\Abstracts\\Pipe:29b";
        assert_eq!(
            feed(&mut lines, &[within, &b"\n"[..]].concat()),
            [Ok(within.to_vec())]
        );
    }

    #[test]
    fn end_mark_that_overlaps_itself_is_found_first_from_the_left() {
        let framing = Framing::Delimiter(b"aab".to_vec());
        let mut decoder = RecordDecoder::new(framing, 100);
        assert_eq!(
            feed(&mut decoder, b"aaabxaab"),
            [Ok(b"a".to_vec()), Ok(b"x".to_vec())]
        );
        assert_eq!(
            Framing::Delimiter(b"aa".to_vec()).encode(b"xa"),
            Err(InvalidRecord::Delimiter { at: 1 })
        );
    }

    #[test]
    fn empty_delimiter_stands_for_a_newline() {
        let framing = Framing::Delimiter(Vec::new());
        assert_eq!(framing.encode(b"a").unwrap(), b"a\n");
        assert_eq!(
            feed(&mut RecordDecoder::new(framing, 9), b"a\n"),
            [Ok(b"a".to_vec())]
        );
    }

    #[test]
    fn records_that_cannot_be_sent_are_not_encoded() {
        assert_eq!(Framing::Lines.encode(b""), Err(InvalidRecord::Empty));
        assert_eq!(
            Framing::Lines.encode(b"a\nb"),
            Err(InvalidRecord::Delimiter { at: 1 })
        );
    }

    #[test]
    fn limit_of_zero_takes_nothing_and_does_not_fail() {
        let mut decoder = RecordDecoder::new(Framing::Lines, 0);
        assert_eq!(feed(&mut decoder, b""), []);
        assert!(!decoder.has_partial());
        assert_eq!(feed(&mut decoder, b"a"), []);
        assert_eq!(feed(&mut decoder, b"\n"), [Err(1)]);
    }
}

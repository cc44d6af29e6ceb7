//! UTF-8 checked as it arrives, however it is cut.

/// Checks a text that arrives in pieces and refuses it at the first impossible byte.
///
/// Whole pieces are checked with vector instructions; only a character that is cut in two is
/// followed byte by byte. The state is three bytes.
///
/// ```
/// use ws_proto::Utf8Validator;
///
/// let mut text = Utf8Validator::new();
/// let (head, tail) = "κόσμε".as_bytes().split_at(3);
/// assert!(text.feed(head).is_ok() && !text.is_complete());
/// assert!(text.feed(tail).is_ok() && text.is_complete());
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Utf8Validator {
    /// Continuation bytes still missing from a character that was cut in two.
    missing: u8,
    /// The range of the next of them. Only the second byte of a character has one narrower than
    /// 80..BF: it shuts out overlong forms, surrogates and what lies beyond U+10FFFF.
    low: u8,
    high: u8,
}

/// A text is not UTF-8.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("text is not UTF-8")]
pub struct InvalidUtf8;

/// Tells whether a whole text is UTF-8.
#[inline]
pub(crate) fn is_utf8(text: &[u8]) -> bool {
    // For a short text the way to the vector instructions is longer than the check.
    let is_short = text.len() < 256;
    (is_short && is_ascii(text)) || simdutf8::basic::from_utf8(text).is_ok()
}

/// As the standard library's, which takes three instructions for each byte of some short texts.
#[inline]
fn is_ascii(text: &[u8]) -> bool {
    let (words, tail) = text.as_chunks::<8>();
    let seen = words
        .iter()
        .fold(0, |seen, word| seen | u64::from_ne_bytes(*word));
    // The last whole word covers the tail, unless the text is shorter than that.
    let last = match text.last_chunk::<8>() {
        Some(word) => u64::from_ne_bytes(*word),
        None => tail.iter().fold(0, |seen, &byte| seen | u64::from(byte)),
    };
    (seen | last) & 0x8080_8080_8080_8080 == 0
}

impl Utf8Validator {
    /// Starts a text.
    #[must_use]
    pub fn new() -> Self {
        Self {
            missing: 0,
            low: 0x80,
            high: 0xBF,
        }
    }

    /// Checks the next piece.
    ///
    /// # Errors
    ///
    /// [`InvalidUtf8`] if no continuation could make the text valid. The validator is then of no
    /// further use.
    pub fn feed(&mut self, piece: &[u8]) -> Result<(), InvalidUtf8> {
        let mut rest = piece;
        while self.missing > 0 {
            let Some((&byte, tail)) = rest.split_first() else {
                return Ok(());
            };
            self.step(byte)?;
            rest = tail;
        }
        match simdutf8::compat::from_utf8(rest) {
            Ok(_) => Ok(()),
            // A length says that the sequence is broken; none, that it only lacks its end.
            Err(error) if error.error_len().is_some() => Err(InvalidUtf8),
            Err(error) => rest[error.valid_up_to()..]
                .iter()
                .try_for_each(|&byte| self.step(byte)),
        }
    }

    /// Tells whether the text so far ends between characters.
    #[must_use]
    pub fn is_complete(&self) -> bool {
        self.missing == 0
    }

    /// Follows one byte of a character of several bytes (Unicode 15, table 3-7).
    fn step(&mut self, byte: u8) -> Result<(), InvalidUtf8> {
        if self.missing > 0 {
            if !(self.low..=self.high).contains(&byte) {
                return Err(InvalidUtf8);
            }
            *self = Self {
                missing: self.missing - 1,
                ..Self::new()
            };
            return Ok(());
        }
        let (missing, low, high) = match byte {
            0x00..=0x7F => (0, 0x80, 0xBF),
            0xC2..=0xDF => (1, 0x80, 0xBF),
            0xE0 => (2, 0xA0, 0xBF),
            0xE1..=0xEC | 0xEE..=0xEF => (2, 0x80, 0xBF),
            0xED => (2, 0x80, 0x9F),
            0xF0 => (3, 0x90, 0xBF),
            0xF1..=0xF3 => (3, 0x80, 0xBF),
            0xF4 => (3, 0x80, 0x8F),
            0x80..=0xC1 | 0xF5..=0xFF => return Err(InvalidUtf8),
        };
        *self = Self { missing, low, high };
        Ok(())
    }
}

impl Default for Utf8Validator {
    fn default() -> Self {
        Self::new()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// What `core::str` says about a prefix: impossible, cut inside a character, or whole.
    fn verdict(prefix: &[u8]) -> Result<bool, InvalidUtf8> {
        match std::str::from_utf8(prefix) {
            Ok(_) => Ok(true),
            Err(error) if error.error_len().is_none() => Ok(false),
            Err(_) => Err(InvalidUtf8),
        }
    }

    fn agrees_at_each_prefix(text: &[u8]) {
        let mut validator = Utf8Validator::new();
        for end in 1..=text.len() {
            let fed = validator
                .feed(&text[end - 1..end])
                .map(|()| validator.is_complete());
            assert_eq!(fed, verdict(&text[..end]), "{:x?}", &text[..end]);
            if fed.is_err() {
                return;
            }
        }
    }

    #[test]
    #[cfg_attr(miri, ignore = "an interpreter takes minutes")]
    fn t25_all_pairs_of_bytes_agree_with_core() {
        for first in 0..=u8::MAX {
            for second in 0..=u8::MAX {
                agrees_at_each_prefix(&[first, second, 0x80, 0x80, b'x']);
            }
        }
    }

    #[test]
    fn t25_surrogates_overlong_and_beyond_unicode_fail_at_the_byte() {
        for (start, bad) in [
            (&[0xED][..], 0xA0),
            (&[][..], 0xC0),
            (&[][..], 0xC1),
            (&[0xE0][..], 0x9F),
            (&[0xF0][..], 0x8F),
            (&[0xF4][..], 0x90),
            (&[][..], 0xF5),
            (&[0xE2, 0x82][..], b'x'),
        ] {
            let mut validator = Utf8Validator::new();
            assert_eq!(validator.feed(start), Ok(()));
            assert_eq!(
                validator.feed(&[bad]),
                Err(InvalidUtf8),
                "{start:x?} {bad:x}"
            );
        }
    }

    #[test]
    fn truncated_text_is_not_complete() {
        let mut validator = Utf8Validator::default();
        validator
            .feed("ab€".as_bytes().split_last().unwrap().1)
            .unwrap();
        assert!(!validator.is_complete());
    }

    proptest! {
        #[test]
        fn prop_whole_text_agrees_with_core(
            text in prop::collection::vec(prop_oneof![8 => 0..0x80_u8, 1 => any::<u8>()], 0..300),
        ) {
            prop_assert_eq!(is_ascii(&text), text.is_ascii());
            prop_assert_eq!(is_utf8(&text), std::str::from_utf8(&text).is_ok());
        }

        #[test]
        fn prop_utf8_agrees_with_core_at_each_prefix(
            text in ".{0,40}", noise in prop::collection::vec(any::<u8>(), 0..4),
        ) {
            let mut bytes = text.into_bytes();
            bytes.extend(noise);
            agrees_at_each_prefix(&bytes);
        }

        #[test]
        fn prop_utf8_cut_anywhere_gives_the_same_verdict(
            text in ".{0,200}", flip: Option<(prop::sample::Index, u8)>, cuts: Vec<u8>,
        ) {
            let mut bytes = text.into_bytes();
            if let (Some((at, value)), false) = (flip, bytes.is_empty()) {
                let at = at.index(bytes.len());
                bytes[at] = value;
            }
            let mut validator = Utf8Validator::new();
            let mut fed = Ok(());
            let mut rest = &bytes[..];
            for cut in cuts {
                let (piece, tail) = rest.split_at(usize::from(cut).min(rest.len()));
                fed = fed.and_then(|()| validator.feed(piece));
                rest = tail;
            }
            let fed = fed.and_then(|()| validator.feed(rest)).map(|()| validator.is_complete());
            prop_assert_eq!(fed, verdict(&bytes));
        }
    }
}

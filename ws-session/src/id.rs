//! The names of connections, users and sessions.

use std::borrow::Borrow;
use std::cmp::Ordering;
use std::fmt;
use std::hash::{Hash, Hasher};
use std::str::FromStr;
use std::sync::Arc;

use sha2::{Digest as _, Sha256};

use crate::hex;

/// Names one connection for as long as the server runs; written as 16 lower-case hex digits.
///
/// It is not a secret: whoever sees one can tell the others.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ConnectionId(u64);

impl ConnectionId {
    /// Returns the number that is the id.
    pub fn as_u64(self) -> u64 {
        self.0
    }
}

impl From<u64> for ConnectionId {
    fn from(id: u64) -> Self {
        Self(id)
    }
}

impl fmt::Display for ConnectionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

impl fmt::Debug for ConnectionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ConnectionId({self})")
    }
}

impl FromStr for ConnectionId {
    type Err = InvalidConnectionId;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        hex::parse(text)
            .map(u64::from_be_bytes)
            .map(Self)
            .ok_or(InvalidConnectionId)
    }
}

/// A text that is no [`ConnectionId`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a connection id is 16 lower-case hexadecimal digits")]
pub struct InvalidConnectionId;

/// Hands out connection ids, none twice.
///
/// The ids look random, so that those of two runs of the server with different seeds are unlikely
/// to meet, and nobody mistakes them for small numbers such as ports or process ids.
///
/// # Examples
///
/// ```
/// use ws_session::ConnectionIds;
///
/// let mut ids = ConnectionIds::new(1);
/// assert_ne!(ids.next_id(), ids.next_id());
/// ```
#[derive(Clone, Debug)]
pub struct ConnectionIds {
    counter: u64,
}

impl ConnectionIds {
    /// Begins at a place in the sequence of all ids that `seed` chooses.
    pub fn new(seed: u64) -> Self {
        Self { counter: seed }
    }

    /// Returns the next id.
    pub fn next_id(&mut self) -> ConnectionId {
        self.counter = self.counter.wrapping_add(1);
        ConnectionId(mix(self.counter))
    }
}

/// The finalizer of SplitMix64. Every step can be undone, so different counters have different
/// ids, and the first repetition comes after 2^64 of them.
fn mix(counter: u64) -> u64 {
    let mut z = counter.wrapping_mul(0x9e37_79b9_7f4a_7c15);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

/// Names a user, in the application's words.
///
/// 1 to 255 bytes of UTF-8 without white space and control characters, so that it is one word in a
/// log line, a variable or a file. Clones share the text.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct UserId(Arc<str>);

impl UserId {
    /// The length of the longest user id, in bytes.
    pub const MAX_LEN: usize = 255;

    /// Checks a user id.
    ///
    /// # Errors
    ///
    /// [`InvalidUserId`], saying what is wrong with the text but not repeating it.
    ///
    /// # Examples
    ///
    /// ```
    /// use ws_session::{InvalidUserId, UserId};
    ///
    /// assert_eq!(UserId::new("jörg@example")?.as_str(), "jörg@example");
    /// assert_eq!(UserId::new("a b"), Err(InvalidUserId::ForbiddenCharacter { at: 1 }));
    /// # Ok::<(), InvalidUserId>(())
    /// ```
    pub fn new(text: &str) -> Result<Self, InvalidUserId> {
        if text.is_empty() {
            return Err(InvalidUserId::Empty);
        }
        if text.len() > Self::MAX_LEN {
            return Err(InvalidUserId::TooLong { size: text.len() });
        }
        match text.find(|letter: char| letter.is_whitespace() || letter.is_control()) {
            Some(at) => Err(InvalidUserId::ForbiddenCharacter { at }),
            None => Ok(Self(text.into())),
        }
    }

    /// Returns the text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// A session without a user of its own is a user under the session's name.
impl From<SessionId> for UserId {
    fn from(session: SessionId) -> Self {
        Self(session.to_string().into())
    }
}

impl FromStr for UserId {
    type Err = InvalidUserId;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Self::new(text)
    }
}

impl AsRef<str> for UserId {
    fn as_ref(&self) -> &str {
        &self.0
    }
}

impl Borrow<str> for UserId {
    fn borrow(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for UserId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

impl fmt::Debug for UserId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "UserId({:?})", &*self.0)
    }
}

/// A text that is no [`UserId`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum InvalidUserId {
    /// No text at all.
    #[error("the user id is empty")]
    Empty,
    /// More than [`UserId::MAX_LEN`] bytes.
    #[error("the user id has {size} bytes, more than {}", UserId::MAX_LEN)]
    TooLong {
        /// Its length in bytes.
        size: usize,
    },
    /// White space or a control character.
    #[error("the user id has white space or a control character at byte {at}")]
    ForbiddenCharacter {
        /// Its offset in bytes.
        at: usize,
    },
}

/// Names a session; written as 32 lower-case hex digits.
///
/// It is derived from the session's secret token by a hash, so it may appear in names, logs and
/// interfaces: nobody can make the token out of it.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct SessionId([u8; 16]);

impl SessionId {
    pub(crate) const fn from_bytes(bytes: [u8; 16]) -> Self {
        Self(bytes)
    }

    /// Returns the id of a session that the application has a name of its own for, which may be
    /// secret: the same for the same name, and that of no token.
    ///
    /// # Examples
    ///
    /// ```
    /// use ws_session::SessionId;
    ///
    /// let session = SessionId::of_name("s3cret");
    /// assert_eq!(session, SessionId::of_name("s3cret"));
    /// assert_ne!(session, SessionId::of_name("another"));
    /// ```
    pub fn of_name(name: &str) -> Self {
        // A token is 32 bytes, all that is hashed here is longer.
        let hash = Sha256::new()
            .chain_update("the application's name of a session\0")
            .chain_update(name)
            .finalize();
        let mut id = [0; 16];
        id.copy_from_slice(&hash[..16]);
        Self(id)
    }
}

// By hand, like the order below: what is derived for an array goes through it as a slice.
impl Hash for SessionId {
    fn hash<H: Hasher>(&self, state: &mut H) {
        state.write_u128(u128::from_ne_bytes(self.0));
    }
}

impl Ord for SessionId {
    fn cmp(&self, other: &Self) -> Ordering {
        u128::from_be_bytes(self.0).cmp(&u128::from_be_bytes(other.0))
    }
}

impl PartialOrd for SessionId {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl fmt::Display for SessionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:032x}", u128::from_be_bytes(self.0))
    }
}

impl fmt::Debug for SessionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SessionId({self})")
    }
}

impl FromStr for SessionId {
    type Err = InvalidSessionId;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        hex::parse(text).map(Self).ok_or(InvalidSessionId)
    }
}

/// A text that is no [`SessionId`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a session id is 32 lower-case hexadecimal digits")]
pub struct InvalidSessionId;

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use proptest::prelude::*;

    use super::*;
    use crate::testing;

    #[test]
    fn connection_ids_do_not_repeat() {
        let mut ids = ConnectionIds::new(u64::MAX - 5000);
        let seen: HashSet<_> = (0..10_000).map(|_| ids.next_id()).collect();
        assert_eq!(seen.len(), 10_000);
    }

    #[test]
    fn the_same_seed_gives_the_same_ids() {
        let first: Vec<_> = std::iter::repeat_with({
            let mut ids = ConnectionIds::new(42);
            move || ids.next_id()
        })
        .take(3)
        .collect();
        let mut ids = ConnectionIds::new(42);
        assert_eq!(first, [ids.next_id(), ids.next_id(), ids.next_id()]);
    }

    #[test]
    fn ids_have_one_spelling() {
        assert_eq!(ConnectionId::from(0xab).to_string(), "00000000000000ab");
        assert_eq!("00000000000000ab".parse(), Ok(ConnectionId::from(0xab)));
        for text in [
            "",
            "ab",
            "00000000000000AB",
            "0x000000000000ab",
            "+0000000000000ab",
        ] {
            assert_eq!(
                text.parse::<ConnectionId>(),
                Err(InvalidConnectionId),
                "{text}"
            );
        }
        let id = SessionId([0; 16]);
        assert_eq!(id.to_string(), "00000000000000000000000000000000");
        assert_eq!("0123".parse::<SessionId>(), Err(InvalidSessionId));
        assert_eq!("F".repeat(32).parse::<SessionId>(), Err(InvalidSessionId));
    }

    #[test]
    fn user_ids_are_one_word_of_1_to_255_bytes() {
        assert_eq!(UserId::new(""), Err(InvalidUserId::Empty));
        assert!(UserId::new(&"ä".repeat(127)).is_ok());
        assert_eq!(
            UserId::new(&"ä".repeat(128)),
            Err(InvalidUserId::TooLong { size: 256 })
        );
        for text in [
            "a b",
            "a\tb",
            "a\nb",
            "a\0b",
            "a\u{7f}b",
            "a\u{85}b",
            "a\u{a0}b",
            "a\u{2028}b",
        ] {
            let error = InvalidUserId::ForbiddenCharacter { at: 1 };
            assert_eq!(UserId::new(text), Err(error), "{text:?}");
        }
        for text in ["a/b", "..", "*", "a:b", "'\"$(x)"] {
            assert_eq!(UserId::new(text).unwrap().as_str(), text);
        }
    }

    #[test]
    fn a_session_id_is_a_valid_user_id() {
        let session = SessionId([0xff; 16]);
        assert_eq!(UserId::new(&session.to_string()), Ok(UserId::from(session)));
    }

    proptest! {
        #[test]
        fn prop_connection_ids_round_trip(id in testing::connection_id()) {
            prop_assert_eq!(id.to_string().parse(), Ok(id));
        }

        #[test]
        fn prop_session_ids_round_trip(id in testing::session_id()) {
            prop_assert_eq!(id.to_string().parse(), Ok(id));
        }

        #[test]
        fn prop_generated_user_ids_are_valid(id in testing::user_id()) {
            prop_assert_eq!(UserId::new(id.as_str()), Ok(id));
        }

        #[test]
        fn prop_neighbouring_counters_have_different_ids(seed: u64, distance in 1u64..1_000_000) {
            prop_assert_ne!(mix(seed), mix(seed.wrapping_add(distance)));
        }
    }
}

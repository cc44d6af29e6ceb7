//! The secret that a browser keeps in its cookie.

use std::fmt;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use sha2::{Digest as _, Sha256};

use crate::SessionId;

/// The secret that proves a session: 256 random bits, 43 characters in a cookie.
///
/// It is neither displayed nor compared. What is stored and shown is its [`SessionId`].
///
/// # Examples
///
/// ```
/// use ws_session::SessionToken;
///
/// let token = SessionToken::from_random([7; 32]);
/// let cookie = token.encode();
/// assert_eq!(cookie.len(), 43);
/// assert_eq!(SessionToken::parse(&cookie)?.id(), token.id());
/// assert_eq!(format!("{token:?}"), "SessionToken(..)");
/// # Ok::<(), ws_session::InvalidSessionToken>(())
/// ```
#[derive(Clone)]
pub struct SessionToken([u8; 32]);

impl SessionToken {
    /// The length of the encoded token, in characters.
    pub const ENCODED_LEN: usize = 43;

    /// Makes a token of random bytes. They must come from the system's generator and be used once.
    pub fn from_random(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }

    /// Reads a token as [`encode`](Self::encode) writes it: base64url without padding.
    ///
    /// # Errors
    ///
    /// [`InvalidSessionToken`] for anything else, without a word about the text.
    pub fn parse(text: &str) -> Result<Self, InvalidSessionToken> {
        // Also keeps an oversized cookie from being decoded at all.
        if text.len() != Self::ENCODED_LEN {
            return Err(InvalidSessionToken);
        }
        let mut bytes = [0; 32];
        match URL_SAFE_NO_PAD.decode_slice(text, &mut bytes) {
            Ok(32) => Ok(Self(bytes)),
            Ok(_) | Err(_) => Err(InvalidSessionToken),
        }
    }

    /// Writes the token for a cookie: the characters `A-Z a-z 0-9 - _`.
    pub fn encode(&self) -> String {
        URL_SAFE_NO_PAD.encode(self.0)
    }

    /// Returns the public name of the session: the first 128 bits of the token's SHA-256.
    ///
    /// Half of the hash is enough. To enter a session by its id one would have to find a token
    /// with the same 128 bits.
    pub fn id(&self) -> SessionId {
        let hash: [u8; 32] = Sha256::digest(self.0).into();
        let mut id = [0; 16];
        id.copy_from_slice(&hash[..16]);
        SessionId::from_bytes(id)
    }
}

/// Hides the secret.
impl fmt::Debug for SessionToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SessionToken(..)")
    }
}

/// A text that is no [`SessionToken`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a session token is 43 characters of base64url")]
pub struct InvalidSessionToken;

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn the_id_is_the_beginning_of_the_tokens_hash() {
        // SHA-256 of 32 zero bytes, `head -c 32 /dev/zero | sha256sum`.
        let id = SessionToken::from_random([0; 32]).id();
        assert_eq!(id.to_string(), "66687aadf862bd776c8fc18b8e9f8e20");
    }

    #[test]
    fn t70_debug_shows_nothing_of_the_secret() {
        let token = SessionToken::from_random([0x41; 32]);
        assert_eq!(
            format!("{token:?} {token:#?}"),
            "SessionToken(..) SessionToken(..)"
        );
    }

    #[test]
    fn only_the_canonical_spelling_is_read() {
        let good = "A".repeat(43);
        assert!(SessionToken::parse(&good).is_ok());
        for text in [
            String::new(),
            "A".repeat(42),
            "A".repeat(44),
            format!("{}=", "A".repeat(43)),
            format!("{}=", "A".repeat(42)),
            // The last character holds 4 bits; the other 2 must be zero.
            format!("{}B", "A".repeat(42)),
            format!("{}+", "A".repeat(42)),
            format!("{} ", "A".repeat(42)),
            format!("{}ä", "A".repeat(41)),
        ] {
            assert_eq!(
                SessionToken::parse(&text).err(),
                Some(InvalidSessionToken),
                "{text}"
            );
        }
    }

    proptest! {
        #[test]
        fn prop_tokens_round_trip(bytes: [u8; 32]) {
            let token = SessionToken::from_random(bytes);
            let read = SessionToken::parse(&token.encode()).unwrap();
            prop_assert_eq!(read.0, bytes);
            prop_assert_eq!(read.id(), token.id());
        }

        #[test]
        fn prop_any_text_is_read_or_refused(text in "[A-Za-z0-9_=+ä-]{40,46}") {
            if let Ok(token) = SessionToken::parse(&text) {
                prop_assert_eq!(token.encode(), text);
            }
        }
    }
}

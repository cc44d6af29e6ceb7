//! The compact serialization (RFC 7515 §7.1).

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde::de::IgnoredAny;
use serde::{Deserialize, Deserializer};

use super::TokenFault;

/// A token taken apart; nothing of it is believed yet.
#[derive(Debug)]
pub(super) struct Compact<'t> {
    pub(super) header: Header,
    /// What is signed: the first two parts as they were written.
    pub(super) signed: &'t [u8],
    pub(super) payload: Vec<u8>,
    pub(super) signature: Vec<u8>,
}

/// The parameters of the header that mean something here (RFC 7515 §4.1). One that is there twice is
/// refused.
#[derive(Debug, Deserialize)]
pub(super) struct Header {
    pub(super) alg: String,
    pub(super) kid: Option<String>,
    /// Whether it is there, whatever it holds.
    #[serde(default, deserialize_with = "is_there")]
    crit: bool,
}

fn is_there<'de, D: Deserializer<'de>>(deserializer: D) -> Result<bool, D::Error> {
    IgnoredAny::deserialize(deserializer).map(|_| true)
}

impl<'t> Compact<'t> {
    /// Takes a token apart.
    ///
    /// # Errors
    ///
    /// [`TokenFault::Malformed`], or [`TokenFault::Critical`] for an extension that we do not know:
    /// we know none.
    pub(super) fn parse(token: &'t str) -> Result<Self, TokenFault> {
        let malformed = || TokenFault::Malformed;
        let (signed, signature) = token.rsplit_once('.').ok_or_else(malformed)?;
        let (header, payload) = signed.split_once('.').ok_or_else(malformed)?;
        let [header, payload, signature] = [header, payload, signature].map(decode);
        let header: Header = serde_json::from_slice(&header?).map_err(|_| TokenFault::Malformed)?;
        // RFC 7515 §4.1.11: whoever does not understand one of these must refuse.
        if header.crit {
            return Err(TokenFault::Critical);
        }
        Ok(Self {
            header,
            signed: signed.as_bytes(),
            payload: payload?,
            signature: signature?,
        })
    }
}

/// RFC 7515 §2: without padding, line ends or anything else; one spelling for the same bytes.
fn decode(part: &str) -> Result<Vec<u8>, TokenFault> {
    URL_SAFE_NO_PAD
        .decode(part)
        .map_err(|_| TokenFault::Malformed)
}

//! Signed tokens: JWT (RFC 7519) in the compact serialization of JWS (RFC 7515).
//!
//! What a token says about itself chooses nothing but which of the configured keys is tried: a key
//! belongs to one algorithm from the moment it is read, so a public key is never taken for a secret,
//! and a token without a signature fits none.

mod claims;
mod jws;
mod keys;

pub(crate) use claims::{Claims, Rules};
pub(crate) use keys::{InvalidKeys, KeySet};

/// The longest token, in bytes. A head of the opening handshake has room for little more.
const MAX_SIZE: usize = 8 * 1024;

/// Why a token is not believed. No variant holds any of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum TokenFault {
    #[error("it has more than {MAX_SIZE} bytes")]
    TooLong,
    #[error("it is not three parts of base64url, a header and claims in JSON")]
    Malformed,
    #[error("its header says that something must be understood that is not (crit)")]
    Critical,
    #[error("no key is for its algorithm")]
    Algorithm,
    #[error("no key has its kid")]
    UnknownKey,
    #[error("its signature is not that of a key")]
    Signature,
    #[error("the claim {0} is not of its type")]
    ClaimType(&'static str),
    #[error("it has no exp")]
    NoEnd,
    #[error("it has expired")]
    Expired,
    #[error("it is not good yet (nbf)")]
    NotYet,
    #[error("its iss is not in identity.token.issuer")]
    Issuer,
    #[error("its aud is not in identity.token.audience")]
    Audience,
    #[error("it has no claim that names the user")]
    NoUser,
    #[error("the claim that names the user is not a user id: {0}")]
    User(#[from] ws_session::InvalidUserId),
}

/// Says who the bearer of a token is.
///
/// `now` is the wall clock's, in seconds since 1970: that is what tokens speak of.
///
/// # Errors
///
/// [`TokenFault`] unless a key of the set has signed it and it is good now, for us.
pub(crate) fn judge(
    token: &str,
    keys: &KeySet,
    rules: &Rules,
    now: f64,
) -> Result<Claims, TokenFault> {
    if token.len() > MAX_SIZE {
        return Err(TokenFault::TooLong);
    }
    let token = jws::Compact::parse(token)?;
    keys.verify(&token)?;
    claims::judge(&token.payload, rules, now)
}

#[cfg(test)]
mod tests;

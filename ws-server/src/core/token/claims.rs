//! What a token claims (RFC 7519 §4), and whether that is good enough.

use std::time::Duration;

use serde_json::{Map, Value};
use ws_session::{SessionId, UserId};

use super::TokenFault;
use crate::config::TokenConfig;

/// What is asked of the claims.
#[derive(Clone, Debug)]
pub(crate) struct Rules {
    user_claim: String,
    session_claim: Option<String>,
    issuers: Vec<String>,
    audiences: Vec<String>,
    /// In seconds.
    leeway: f64,
    require_exp: bool,
}

impl Rules {
    pub(crate) fn new(config: &TokenConfig) -> Self {
        Self {
            user_claim: config.user_claim.clone(),
            session_claim: config.session_claim.clone(),
            issuers: config.issuers.clone(),
            audiences: config.audiences.clone(),
            leeway: config.leeway.as_secs_f64(),
            require_exp: config.require_exp,
        }
    }
}

/// What is believed of a token.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Claims {
    pub(crate) user: UserId,
    pub(crate) session: Option<SessionId>,
    /// How much longer; `None` is for ever.
    pub(crate) expires_in: Option<Duration>,
}

pub(super) fn judge(payload: &[u8], rules: &Rules, now: f64) -> Result<Claims, TokenFault> {
    let claims: Map<String, Value> =
        serde_json::from_slice(payload).map_err(|_| TokenFault::Malformed)?;
    let expires_in = judge_times(&claims, rules, now)?;
    judge_issuer(&claims, rules)?;
    judge_audience(&claims, rules)?;
    let user = name(&claims, &rules.user_claim, "that names the user")?;
    // Issuers that number their users give 0 to guests, who are not all one user.
    let user = user.filter(|user| user != "0").ok_or(TokenFault::NoUser)?;
    let user = UserId::new(&user)?;
    let session = match &rules.session_claim {
        Some(claim) => name(&claims, claim, "that names the session")?,
        None => None,
    };
    if session.as_deref() == Some("") {
        return Err(TokenFault::ClaimType("that names the session"));
    }
    Ok(Claims {
        user,
        session: session.as_deref().map(SessionId::of_name),
        expires_in,
    })
}

/// Checks the claims about time, and returns how much of it is left.
fn judge_times(
    claims: &Map<String, Value>,
    rules: &Rules,
    now: f64,
) -> Result<Option<Duration>, TokenFault> {
    // It decides nothing, but of a token that gets it wrong the rest is not believed either.
    date(claims, "iat")?;
    if date(claims, "nbf")?.is_some_and(|begin| now + rules.leeway < begin) {
        return Err(TokenFault::NotYet);
    }
    let Some(end) = date(claims, "exp")? else {
        return match rules.require_exp {
            true => Err(TokenFault::NoEnd),
            false => Ok(None),
        };
    };
    let left = end + rules.leeway - now;
    // RFC 7519 §4.1.4: on or after that time it must not be accepted.
    if left <= 0.0 {
        return Err(TokenFault::Expired);
    }
    // What is longer than a duration can be is for ever.
    Ok(Duration::try_from_secs_f64(left).ok())
}

/// A NumericDate (RFC 7519 §2): seconds, not always whole ones.
fn date(claims: &Map<String, Value>, claim: &'static str) -> Result<Option<f64>, TokenFault> {
    let Some(value) = claims.get(claim) else {
        return Ok(None);
    };
    match value.as_f64().filter(|seconds| seconds.is_finite()) {
        Some(seconds) => Ok(Some(seconds)),
        None => Err(TokenFault::ClaimType(claim)),
    }
}

fn judge_issuer(claims: &Map<String, Value>, rules: &Rules) -> Result<(), TokenFault> {
    let issuer = match claims.get("iss") {
        None => None,
        Some(Value::String(issuer)) => Some(issuer),
        Some(_) => return Err(TokenFault::ClaimType("iss")),
    };
    let is_believed =
        rules.issuers.is_empty() || issuer.is_some_and(|iss| rules.issuers.contains(iss));
    match is_believed {
        true => Ok(()),
        false => Err(TokenFault::Issuer),
    }
}

/// RFC 7519 §4.1.3: whoever does not find itself in the claim, if it is there, must refuse.
fn judge_audience(claims: &Map<String, Value>, rules: &Rules) -> Result<(), TokenFault> {
    let wrong = TokenFault::ClaimType("aud");
    let is_for_us = match claims.get("aud") {
        None => rules.audiences.is_empty(),
        Some(Value::String(audience)) => rules.audiences.contains(audience),
        Some(Value::Array(audiences)) => {
            let mut names = audiences.iter().map(|name| name.as_str().ok_or(wrong));
            names.try_fold(false, |found, name| {
                name.map(|name| found || rules.audiences.iter().any(|own| own == name))
            })?
        }
        Some(_) => return Err(wrong),
    };
    match is_for_us {
        true => Ok(()),
        false => Err(TokenFault::Audience),
    }
}

/// A claim that names something: a string, or a whole number as its decimal text.
fn name(
    claims: &Map<String, Value>,
    claim: &str,
    what: &'static str,
) -> Result<Option<String>, TokenFault> {
    match claims.get(claim) {
        None => Ok(None),
        Some(Value::String(text)) => Ok(Some(text.clone())),
        Some(Value::Number(number)) if number.is_i64() || number.is_u64() => {
            Ok(Some(number.to_string()))
        }
        Some(_) => Err(TokenFault::ClaimType(what)),
    }
}

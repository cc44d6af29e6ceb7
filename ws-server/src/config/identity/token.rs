//! `[identity.token]`: signed tokens.

use std::path::PathBuf;
use std::time::Duration;

use ws_proto::CloseFrame;

use super::{close_code, close_reason, is_token, note_without_effect};
use crate::config::fault::Problem;
use crate::config::parse;
use crate::config::raw::RawValue;
use crate::config::reader::Reader;
use crate::config::units::{DAY, HOUR, SHORTEST};

/// How a token may be signed (RFC 7518 §3.1, RFC 8037 §3.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TokenAlgorithm {
    /// HMAC with SHA-256: whoever can check can sign.
    Hs256,
    /// RSA, PKCS#1 v1.5, with SHA-256.
    Rs256,
    /// ECDSA on P-256 with SHA-256.
    Es256,
    /// Ed25519.
    EdDsa,
}

impl TokenAlgorithm {
    /// Returns the name that tokens and keys call it by.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Hs256 => "HS256",
            Self::Rs256 => "RS256",
            Self::Es256 => "ES256",
            Self::EdDsa => "EdDSA",
        }
    }

    /// Finds the algorithm of a name. `none` is no algorithm.
    pub(crate) fn named(name: &str) -> Option<Self> {
        [Self::Hs256, Self::Rs256, Self::Es256, Self::EdDsa]
            .into_iter()
            .find(|algorithm| algorithm.as_str() == name)
    }
}

/// Where in the opening handshake something that proves an identity stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CredentialPlace {
    /// In the cookie of this name.
    Cookie(String),
    /// In the header of this name; in `Authorization` behind `Bearer`.
    Header(String),
    /// Among the subprotocols, behind this one: what a page can say besides the URL.
    Subprotocol(String),
}

/// `[identity.token]`: signed tokens (RFC 7519).
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct TokenConfig {
    /// File with the secret of HS256.
    pub secret_file: Option<PathBuf>,
    /// File with public keys, PEM.
    pub public_key_file: Option<PathBuf>,
    /// File with keys, JWK Set.
    pub jwks_file: Option<PathBuf>,
    /// What may be signed with; `None` is what the keys are for.
    pub algorithms: Option<Vec<TokenAlgorithm>>,
    /// Where tokens are looked for, in this order.
    pub from: Vec<CredentialPlace>,
    /// The claim that is the user id.
    pub user_claim: String,
    /// The claim that names the session; `None` is none.
    pub session_claim: Option<String>,
    /// Who may have issued them; empty is anybody who has the key.
    pub issuers: Vec<String>,
    /// Whom they may be for: one of these.
    pub audiences: Vec<String>,
    /// How far the clocks of this host and of the issuer may be apart.
    pub leeway: Duration,
    /// Whether a token without an end is refused.
    pub require_exp: bool,
    /// How a connection is closed whose token has reached its end.
    pub expired: CloseFrame,
    /// How often the files are looked at; `None` is never.
    pub reload_interval: Option<Duration>,
}

pub(super) fn read(reader: &mut Reader<'_>) -> Option<Box<TokenConfig>> {
    let secret_file = reader.optional_path("identity.token.secret_file");
    let public_key_file = reader.optional_path("identity.token.public_key_file");
    let jwks_file = reader.optional_path("identity.token.jwks_file");
    let algorithms = reader.read_optional("identity.token.algorithms", |value| {
        parse::texts(value)?.into_iter().map(algorithm).collect()
    });
    let config = TokenConfig {
        algorithms,
        from: reader.list("identity.token.from", |place, _| credential_place(place)),
        user_claim: reader.read("identity.token.user_claim", claim),
        session_claim: reader.read_optional("identity.token.session_claim", claim),
        issuers: reader.list("identity.token.issuer", |name, _| Ok(name.to_owned())),
        audiences: reader.list("identity.token.audience", |name, _| Ok(name.to_owned())),
        leeway: reader.duration("identity.token.leeway", Duration::ZERO, HOUR),
        require_exp: reader.flag("identity.token.require_exp"),
        expired: CloseFrame::new(
            reader.read("identity.token.close_code", close_code),
            reader.read("identity.token.close_reason", close_reason),
        ),
        reload_interval: reader.interval("identity.token.reload_interval", SHORTEST, DAY),
        secret_file,
        public_key_file,
        jwks_file,
    };
    let has_key = config.secret_file.is_some()
        || config.public_key_file.is_some()
        || config.jwks_file.is_some();
    if has_key {
        if config.from.is_empty() {
            reader.conflict("identity.token.from", "names no place to look for tokens");
        }
        return Some(Box::new(config));
    }
    note_without_effect(
        reader,
        "identity.token",
        "has no effect without secret_file, public_key_file or jwks_file",
    );
    None
}

fn algorithm(name: &str) -> Result<TokenAlgorithm, Problem> {
    TokenAlgorithm::named(name)
        .ok_or_else(|| Problem::malformed(name, "\"HS256\", \"RS256\", \"ES256\" or \"EdDSA\""))
}

fn credential_place(text: &str) -> Result<CredentialPlace, Problem> {
    let expected = "\"cookie:NAME\", \"header:NAME\" or \"subprotocol:NAME\"";
    let (kind, name) = text
        .split_once(':')
        .filter(|(_, name)| is_token(name))
        .ok_or_else(|| Problem::malformed(text, expected))?;
    let name = name.to_owned();
    match kind {
        "cookie" => Ok(CredentialPlace::Cookie(name)),
        "header" => Ok(CredentialPlace::Header(name)),
        "subprotocol" => Ok(CredentialPlace::Subprotocol(name)),
        _ => Err(Problem::malformed(text, expected)),
    }
}

fn claim(value: &RawValue) -> Result<String, Problem> {
    let name = parse::text(value)?;
    match name.is_empty() {
        true => Err(Problem::malformed(name, "the name of a claim")),
        false => Ok(name),
    }
}

//! The sections below `[identity]`: whose word about a visitor is taken without asking a
//! callback.

use std::num::NonZeroUsize;
use std::path::PathBuf;
use std::time::Duration;

use ws_proto::{CloseCode, CloseFrame};

use crate::store::{DatabaseKind, StoreAddress};

use super::account;
use super::build::{DAY, SHORTEST, is_token};
use super::fault::Problem;
use super::raw::RawValue;
use super::reader::{self, Reader};

const SECOND: Duration = Duration::from_secs(1);
const HOUR: Duration = Duration::from_secs(3600);

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

/// How PHP writes the variables of a session down (`session.serialize_handler`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PhpHandler {
    /// `name|value` for each; PHP's default.
    Php,
    /// The length of the name in a byte, the name, the value.
    PhpBinary,
    /// One array.
    PhpSerialize,
}

/// `[identity.php]`: the session files of PHP.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct PhpConfig {
    /// Directory of the files.
    pub save_path: PathBuf,
    /// Name of PHP's cookie.
    pub cookie: String,
    /// Where the user id is in a session: the first that is there.
    pub user_keys: Vec<String>,
    /// How the variables are written.
    pub handler: PhpHandler,
    /// Whose files they may be, besides those of root and of the server's user.
    pub owner: Option<u32>,
    /// How long a session is good that PHP does not use; `None` is as long as its file is there.
    pub max_idle: Option<Duration>,
    /// Bytes of the largest session.
    pub max_size: usize,
    /// How long PHP may keep a session to itself.
    pub timeout: Duration,
    /// Sessions read at once.
    pub concurrency: NonZeroUsize,
    /// When a session is read again while its visitor is connected; `None` is never.
    pub recheck: Option<Duration>,
}

/// `[identity.lookup]`: the sessions of another application, in a database.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct LookupConfig {
    /// The database.
    pub source: StoreAddress,
    /// Name of the application's cookie.
    pub cookie: String,
    /// What is asked for with the cookie's value.
    pub question: LookupQuestion,
    /// What stands there.
    pub format: LookupFormat,
    /// Where the user id is in what stands there, unless that is it.
    pub user_keys: Vec<String>,
    /// What is made of the cookie's value before it is looked up.
    pub cookie_hash: CookieHash,
    /// How long an answer may take.
    pub timeout: Duration,
    /// Questions at once.
    pub concurrency: NonZeroUsize,
    /// When it is asked again while its visitor is connected; `None` is never.
    pub recheck: Option<Duration>,
}

/// What a database is asked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LookupQuestion {
    /// A statement with one parameter.
    Sql(String),
    /// A key of Redis, with `{cookie}` in it; and a field, if a hash is there.
    Redis {
        /// The key.
        key: String,
        /// The field.
        field: Option<String>,
    },
}

/// How an application writes down what is looked up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LookupFormat {
    /// It is the user id.
    Plain,
    /// JSON.
    Json,
    /// What `serialize` of PHP makes of it; also if that is once more serialized.
    Php,
    /// The same, in base64.
    PhpBase64,
}

/// What is made of a cookie's value before it is looked up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CookieHash {
    /// Nothing.
    None,
    /// SHA-256, in lower-case hexadecimal digits.
    Sha256,
}

pub(super) fn php(reader: &mut Reader<'_>) -> Option<Box<PhpConfig>> {
    let Some(save_path) = reader.optional_path("identity.php.save_path") else {
        let problem = "has no effect without save_path";
        note_without_effect(reader, "identity.php", problem);
        return None;
    };
    let handlers = &[
        ("php", PhpHandler::Php),
        ("php_binary", PhpHandler::PhpBinary),
        ("php_serialize", PhpHandler::PhpSerialize),
    ];
    let user_keys = reader.list("identity.php.user_key", |key, _| Ok(key.to_owned()));
    if user_keys.is_empty() {
        reader.conflict("identity.php.user_key", "names no variable");
    }
    Some(Box::new(PhpConfig {
        save_path,
        cookie: reader.read("identity.php.cookie", cookie_name),
        user_keys,
        handler: reader.choice("identity.php.serialize_handler", handlers),
        owner: reader.read_optional("identity.php.owner", |value| {
            account::user(value).map(|(uid, _)| uid)
        }),
        max_idle: reader.interval("identity.php.max_idle", SECOND, 365 * DAY),
        max_size: reader.size("identity.php.max_size", 1, 16 << 20),
        timeout: reader.duration("identity.php.timeout", SHORTEST, HOUR),
        concurrency: reader.count("identity.php.concurrency", 1000),
        recheck: reader.interval("identity.php.recheck", SECOND, DAY),
    }))
}

pub(super) fn lookup(reader: &mut Reader<'_>) -> Option<Box<LookupConfig>> {
    let Some(source) = reader.database("identity.lookup.source") else {
        let problem = "has no effect without source";
        note_without_effect(reader, "identity.lookup", problem);
        return None;
    };
    let formats = &[
        ("plain", LookupFormat::Plain),
        ("json", LookupFormat::Json),
        ("php", LookupFormat::Php),
        ("php+base64", LookupFormat::PhpBase64),
    ];
    let hashes = &[("none", CookieHash::None), ("sha256", CookieHash::Sha256)];
    let format = reader.choice("identity.lookup.format", formats);
    let user_keys = reader.list("identity.lookup.user_key", |key, _| Ok(key.to_owned()));
    if format == LookupFormat::Plain && !user_keys.is_empty() {
        let problem = "has no effect with format = \"plain\"";
        reader.conflict("identity.lookup.user_key", problem);
    }
    Some(Box::new(LookupConfig {
        question: question(reader, &source),
        source,
        cookie: reader
            .read_optional("identity.lookup.cookie", cookie_name)
            .unwrap_or_else(|| {
                reader.conflict(
                    "identity.lookup.cookie",
                    "is needed: the application's cookie",
                );
                String::new()
            }),
        format,
        user_keys,
        cookie_hash: reader.choice("identity.lookup.cookie_hash", hashes),
        timeout: reader.duration("identity.lookup.timeout", SHORTEST, HOUR),
        concurrency: reader.count("identity.lookup.concurrency", 1000),
        recheck: reader.interval("identity.lookup.recheck", SECOND, DAY),
    }))
}

fn question(reader: &mut Reader<'_>, source: &StoreAddress) -> LookupQuestion {
    let is_redis = matches!(source, StoreAddress::Server(url) if url.kind() == DatabaseKind::Redis);
    let query = reader.read_optional("identity.lookup.query", reader::text);
    let key = reader.read_optional("identity.lookup.key", |value| {
        let key = reader::text(value)?;
        match key.matches("{cookie}").count() {
            1 => Ok(key),
            _ => Err(malformed(&key, "a key with {cookie} in it, once")),
        }
    });
    let field = reader.read_optional("identity.lookup.field", reader::text);
    let (wrong, needed) = match is_redis {
        true => (["identity.lookup.query"; 2], "identity.lookup.key"),
        false => (
            ["identity.lookup.key", "identity.lookup.field"],
            "identity.lookup.query",
        ),
    };
    for path in wrong {
        if reader.is_given(path) {
            reader.conflict(path, "has no effect with this source");
        }
    }
    if !reader.is_given(needed) {
        reader.conflict(needed, "is needed by this source");
    }
    match is_redis {
        true => LookupQuestion::Redis {
            key: key.unwrap_or_default(),
            field,
        },
        false => LookupQuestion::Sql(query.unwrap_or_default()),
    }
}

pub(super) fn token(reader: &mut Reader<'_>) -> Option<Box<TokenConfig>> {
    let secret_file = reader.optional_path("identity.token.secret_file");
    let public_key_file = reader.optional_path("identity.token.public_key_file");
    let jwks_file = reader.optional_path("identity.token.jwks_file");
    let algorithms = reader.read_optional("identity.token.algorithms", |value| {
        reader::texts(value)?.into_iter().map(algorithm).collect()
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

/// Notes each setting of a section that was written although nothing asks for it.
fn note_without_effect(reader: &mut Reader<'_>, section: &str, problem: &'static str) {
    for path in super::settings::paths_in(section) {
        if reader.is_changed(path) {
            reader.conflict(path, problem);
        }
    }
}

fn algorithm(name: &str) -> Result<TokenAlgorithm, Problem> {
    TokenAlgorithm::named(name)
        .ok_or_else(|| malformed(name, "\"HS256\", \"RS256\", \"ES256\" or \"EdDSA\""))
}

fn credential_place(text: &str) -> Result<CredentialPlace, Problem> {
    let expected = "\"cookie:NAME\", \"header:NAME\" or \"subprotocol:NAME\"";
    let (kind, name) = text
        .split_once(':')
        .filter(|(_, name)| is_token(name))
        .ok_or_else(|| malformed(text, expected))?;
    let name = name.to_owned();
    match kind {
        "cookie" => Ok(CredentialPlace::Cookie(name)),
        "header" => Ok(CredentialPlace::Header(name)),
        "subprotocol" => Ok(CredentialPlace::Subprotocol(name)),
        _ => Err(malformed(text, expected)),
    }
}

fn cookie_name(value: &RawValue) -> Result<String, Problem> {
    let name = reader::text(value)?;
    match is_token(&name) {
        true => Ok(name),
        false => Err(malformed(&name, "the name of a cookie")),
    }
}

fn claim(value: &RawValue) -> Result<String, Problem> {
    let name = reader::text(value)?;
    match name.is_empty() {
        true => Err(malformed(&name, "the name of a claim")),
        false => Ok(name),
    }
}

fn close_code(value: &RawValue) -> Result<CloseCode, Problem> {
    let number = reader::number(value, 1000, 4999)?;
    u16::try_from(number)
        .ok()
        .and_then(|number| CloseCode::new(number).ok())
        .ok_or_else(|| malformed(&number.to_string(), "a close code that may be sent"))
}

fn close_reason(value: &RawValue) -> Result<String, Problem> {
    let reason = reader::text(value)?;
    match reason.len() <= CloseFrame::MAX_REASON_SIZE {
        true => Ok(reason),
        false => Err(malformed(&reason, "a close reason of at most 123 bytes")),
    }
}

fn malformed(given: &str, expected: &str) -> Problem {
    Problem::Malformed {
        given: given.to_owned(),
        expected: expected.to_owned(),
    }
}

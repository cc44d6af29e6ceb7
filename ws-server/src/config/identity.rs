//! `[identity]`: the session cookie, where sessions are kept, and whose word about a visitor is taken
//! without asking a callback.

mod lookup;
mod php;
mod token;

use std::num::NonZeroUsize;
use std::path::Path;
use std::time::Duration;

use ws_proto::{CloseCode, CloseFrame};

use super::fault::Problem;
use super::parse;
use super::raw::RawValue;
use super::reader::Reader;
use super::units::{DAY, MINUTE, SECOND, SHORTEST};
use crate::store::StoreAddress;

pub use self::lookup::{CookieHash, LookupConfig, LookupFormat, LookupQuestion};
pub use self::php::{PhpConfig, PhpHandler};
pub use self::token::{CredentialPlace, TokenAlgorithm, TokenConfig};

/// Where sessions are, unless it is said where.
const SESSIONS_FILE: &str = "sessions.db";

/// `[identity]`: the session cookie, where sessions are kept, and whose word about a visitor is taken.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct IdentityConfig {
    /// Name of the cookie.
    pub cookie: String,
    /// Whether clients without any cookie are refused.
    pub require_cookie: bool,
    /// Whether a session is tied to the address it was made for.
    pub verify_ip: bool,
    /// How many bits of an IPv4 address count for that.
    pub ip_prefix_v4: u8,
    /// How many bits of an IPv6 address count for that.
    pub ip_prefix_v6: u8,
    /// Time that an unused session is known.
    pub ttl: Duration,
    /// How long a session lives however much it is used; `None` as long as it is.
    pub max_age: Option<Duration>,
    /// Known sessions.
    pub max_sessions: NonZeroUsize,
    /// Whether whom nobody can name is refused.
    pub required: bool,
    /// Signed tokens.
    pub token: Option<Box<TokenConfig>>,
    /// Session files of PHP.
    pub php: Option<Box<PhpConfig>>,
    /// Sessions of another application in a database.
    pub lookup: Option<Box<LookupConfig>>,
    /// Where sessions are kept.
    pub store: StoreAddress,
    /// How long the store may take to find a session.
    pub store_timeout: Duration,
    /// How often the store is asked whether the sessions of those connected are still there; `None`
    /// is never.
    pub check_interval: Option<Duration>,
    /// What the connections of a session are closed with when it ends.
    pub close: CloseFrame,
}

pub(super) fn read(reader: &mut Reader<'_>, state_dir: &Path) -> IdentityConfig {
    IdentityConfig {
        cookie: reader.read("identity.cookie", cookie_name),
        require_cookie: reader.flag("identity.require_cookie"),
        verify_ip: reader.flag("identity.verify_ip"),
        ip_prefix_v4: prefix(reader, "identity.ip_prefix_v4", 32),
        ip_prefix_v6: prefix(reader, "identity.ip_prefix_v6", 128),
        ttl: reader.duration("identity.ttl", SECOND, 365 * DAY),
        max_age: reader.interval("identity.max_age", SECOND, 3650 * DAY),
        max_sessions: reader.count("identity.max_sessions", 100_000_000),
        required: reader.flag("identity.required"),
        token: token::read(reader),
        php: php::read(reader),
        lookup: lookup::read(reader),
        store: reader.store("identity.store", &state_dir.join(SESSIONS_FILE)),
        store_timeout: reader.duration("identity.store_timeout", SHORTEST, MINUTE),
        check_interval: reader.interval("identity.check_interval", SECOND, DAY),
        close: CloseFrame::new(
            reader.read("identity.close_code", close_code),
            reader.read("identity.close_reason", close_reason),
        ),
    }
}

/// How many bits of an address count.
fn prefix(reader: &mut Reader<'_>, path: &'static str, bits: u8) -> u8 {
    reader.read(path, |value| {
        let prefix = parse::number(value, 1, bits.into())?;
        Ok(u8::try_from(prefix).expect("no address has more bits"))
    })
}

/// Notes each setting of a section that was written although nothing asks for it.
fn note_without_effect(reader: &mut Reader<'_>, section: &str, problem: &'static str) {
    for path in super::settings::paths_in(section) {
        if reader.is_changed(path) {
            reader.conflict(path, problem);
        }
    }
}

fn cookie_name(value: &RawValue) -> Result<String, Problem> {
    let name = parse::text(value)?;
    match is_token(&name) {
        true => Ok(name),
        false => Err(Problem::malformed(name, "the name of a cookie")),
    }
}

fn close_code(value: &RawValue) -> Result<CloseCode, Problem> {
    let number = parse::number(value, 1000, 4999)?;
    u16::try_from(number)
        .ok()
        .and_then(|number| CloseCode::new(number).ok())
        .ok_or_else(|| {
            let expected = "a close code that may be sent: 1000-1003, 1007-1014, 3000-4999";
            Problem::malformed(number.to_string(), expected)
        })
}

fn close_reason(value: &RawValue) -> Result<String, Problem> {
    let reason = parse::text(value)?;
    match reason.len() <= CloseFrame::MAX_REASON_SIZE {
        true => Ok(reason),
        false => Err(Problem::malformed(
            reason,
            "a close reason of at most 123 bytes",
        )),
    }
}

/// RFC 6265 §4.1.1: the name of a cookie is a token.
pub(super) fn is_token(name: &str) -> bool {
    let token = |byte: u8| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte);
    !name.is_empty() && name.len() <= 64 && name.bytes().all(token)
}

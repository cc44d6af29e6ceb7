//! Where a database is, as the configuration names it.

use std::fmt;
use std::path::{Path, PathBuf};
use std::str::FromStr as _;

use redis::IntoConnectionInfo as _;
use sqlx::mysql::MySqlConnectOptions;
use sqlx::postgres::PgConnectOptions;

/// What a value should look like, for messages: they never repeat one, for it may hold a password.
pub(crate) const EXPECTED: &str = "\"sqlite\", \"sqlite:PATH\", \"memory\", or a URL like \
     \"mysql://USER:PASSWORD@HOST/DATABASE\", \"postgres://...\", \"redis://...\", \
     \"rediss://...\" or \"redis+unix:///PATH\"";

/// Where sessions are kept.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum StoreAddress {
    /// Nowhere but in memory: a restart forgets them.
    Memory,
    /// A database of our own in a file.
    Sqlite(PathBuf),
    /// A server.
    Server(DatabaseUrl),
}

impl StoreAddress {
    /// Reads `memory`, `sqlite`, `sqlite:PATH` or the URL of a server. Without a path the file is
    /// `default_file`; a relative path is relative to `base`.
    ///
    /// # Errors
    ///
    /// [`InvalidDatabase`] for anything else.
    pub(crate) fn parse(
        text: &str,
        base: &Path,
        default_file: &Path,
    ) -> Result<Self, InvalidDatabase> {
        match text {
            "memory" => return Ok(Self::Memory),
            "sqlite" => return Ok(Self::Sqlite(default_file.to_owned())),
            _ => {}
        }
        match text.strip_prefix("sqlite:") {
            Some(path) => {
                let path = path.strip_prefix("//").unwrap_or(path);
                if path.is_empty() || path.contains('\0') {
                    return Err(InvalidDatabase);
                }
                Ok(Self::Sqlite(base.join(path)))
            }
            None => DatabaseUrl::parse(text).map(Self::Server),
        }
    }
}

/// Without a password.
impl fmt::Display for StoreAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Memory => f.write_str("memory"),
            Self::Sqlite(path) => write!(f, "sqlite:{}", path.display()),
            Self::Server(url) => url.fmt(f),
        }
    }
}

/// What kind of server a database is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum DatabaseKind {
    /// MySQL or MariaDB.
    MySql,
    /// PostgreSQL.
    Postgres,
    /// Redis or Valkey.
    Redis,
}

/// The URL of a database server, with what it takes to get in.
///
/// It is displayed without the password and everything else that may be secret; that form is also
/// the only one that `Debug` shows.
#[derive(Clone, PartialEq, Eq)]
pub struct DatabaseUrl {
    kind: DatabaseKind,
    url: String,
}

impl DatabaseUrl {
    /// Checks a URL: `mysql://`, `mariadb://`, `postgres://`, `postgresql://`, `redis://`,
    /// `valkey://`, over TLS `rediss://` and `valkeys://`, and `redis+unix://`.
    ///
    /// # Errors
    ///
    /// [`InvalidDatabase`], which does not repeat it.
    pub(crate) fn parse(text: &str) -> Result<Self, InvalidDatabase> {
        let (scheme, rest) = text.split_once("://").ok_or(InvalidDatabase)?;
        let (kind, is_valid) = match scheme {
            "mysql" | "mariadb" => (
                DatabaseKind::MySql,
                MySqlConnectOptions::from_str(text).is_ok(),
            ),
            "postgres" | "postgresql" => (
                DatabaseKind::Postgres,
                PgConnectOptions::from_str(text).is_ok(),
            ),
            "redis" | "rediss" | "valkey" | "valkeys" | "redis+unix" | "valkey+unix" => {
                // `#insecure` would have any certificate believed.
                let is_valid = text.into_connection_info().is_ok() && !text.contains('#');
                (DatabaseKind::Redis, is_valid)
            }
            _ => return Err(InvalidDatabase),
        };
        if !is_valid || rest.is_empty() {
            return Err(InvalidDatabase);
        }
        Ok(Self {
            kind,
            url: text.to_owned(),
        })
    }

    /// Returns what kind of server it is.
    pub fn kind(&self) -> DatabaseKind {
        self.kind
    }

    /// The whole of it, for the client library and nobody else.
    pub(super) fn secret(&self) -> &str {
        &self.url
    }
}

impl fmt::Display for DatabaseUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&without_secrets(&self.url))
    }
}

impl fmt::Debug for DatabaseUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "DatabaseUrl({self})")
    }
}

/// A text that is no address of a database. It does not repeat the text.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not {EXPECTED}")]
pub(crate) struct InvalidDatabase;

/// What may be shown of an address: scheme, user, host and path. A password stands between the
/// first `:` and the last `@`, and may be among the parameters of a query. Where an `@` follows on
/// a `?` or a `#`, any of them may be a part of it, and nothing is shown.
pub fn without_secrets(text: &str) -> String {
    let Some((scheme, rest)) = text.split_once("://") else {
        return text.to_owned();
    };
    let (rest, query) = match rest.find(['?', '#']) {
        Some(at) if rest[at..].contains('@') => return format!("{scheme}://..."),
        Some(at) => (&rest[..at], "?..."),
        None => (rest, ""),
    };
    let shown = match rest.rsplit_once('@') {
        Some((credentials, host)) => match credentials.split_once(':') {
            Some((user, _)) => format!("{user}:***@{host}"),
            None => format!("{credentials}@{host}"),
        },
        None => rest.to_owned(),
    };
    format!("{scheme}://{shown}{query}")
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn parse(text: &str) -> Result<StoreAddress, InvalidDatabase> {
        StoreAddress::parse(text, Path::new("/etc/ws"), Path::new("/var/lib/ws/s.db"))
    }

    #[test]
    fn addresses_are_read() {
        assert_eq!(parse("memory"), Ok(StoreAddress::Memory));
        for (text, path) in [
            ("sqlite", "/var/lib/ws/s.db"),
            ("sqlite:a.db", "/etc/ws/a.db"),
            ("sqlite:/a/b.db", "/a/b.db"),
            ("sqlite:///a/b.db", "/a/b.db"),
        ] {
            assert_eq!(parse(text), Ok(StoreAddress::Sqlite(path.into())), "{text}");
        }
        for (text, kind) in [
            ("mysql://u:p@db/ws", DatabaseKind::MySql),
            ("mariadb://u@db:3307/ws", DatabaseKind::MySql),
            (
                "postgres://u:p@[::1]/ws?sslmode=disable",
                DatabaseKind::Postgres,
            ),
            (
                "postgresql:///ws?host=/run/postgresql",
                DatabaseKind::Postgres,
            ),
            ("redis://:p@cache:6379/2", DatabaseKind::Redis),
            ("rediss://u:p@cache:6380/2", DatabaseKind::Redis),
            ("redis+unix:///run/redis.sock?db=1", DatabaseKind::Redis),
        ] {
            match parse(text) {
                Ok(StoreAddress::Server(url)) => assert_eq!(url.kind(), kind, "{text}"),
                other => panic!("{text}: {other:?}"),
            }
        }
    }

    #[test]
    fn what_is_no_address_is_refused() {
        for text in [
            "",
            "sqlite3",
            "sqlite:",
            "mysql",
            "mysql://",
            "http://a/b",
            "mysql:/a",
            "postgres://u:p@host:notaport/x",
            "redis://host:99999",
            "rediss://cache/#insecure",
            "Memory",
        ] {
            assert_eq!(parse(text), Err(InvalidDatabase), "{text}");
        }
    }

    #[test]
    fn the_password_is_not_shown() {
        for (text, shown) in [
            ("mysql://u:canary@db/ws", "mysql://u:***@db/ws"),
            ("mysql://u:can@ary@db/ws", "mysql://u:***@db/ws"),
            ("redis://:canary@db", "redis://:***@db"),
            (
                "postgres:///ws?host=/run&password=canary",
                "postgres:///ws?...",
            ),
            (
                "postgres:///ws?host=/run&user=u&password=can@ary",
                "postgres://...",
            ),
            ("postgres://u:p@db/ws?password=can@ary", "postgres://..."),
            ("mysql://u:c?an#ary@db/ws", "mysql://..."),
            ("sqlite:/a", "sqlite:/a"),
        ] {
            assert_eq!(without_secrets(text), shown);
        }
        let url = DatabaseUrl::parse("mysql://u:canary@db/ws").unwrap();
        assert!(!format!("{url} {url:?} {url:#?}").contains("canary"));
    }

    proptest! {
        #[test]
        fn prop_no_password_is_ever_shown(password in "[A-Za-z0-9:@/?#%]{0,10}canary[A-Za-z0-9:@/?#%]{0,10}", host in "[a-z]{1,8}") {
            let shown = without_secrets(&format!("mysql://user:{password}@{host}/db"));
            prop_assert!(!shown.contains("canary"), "{shown}");
        }

        #[test]
        fn prop_no_password_of_a_query_is_ever_shown(
            before in "[A-Za-z0-9:@/?#%&=+]{0,10}",
            after in "[A-Za-z0-9:@/?#%&=+]{0,10}",
            is_encoded: bool,
            userinfo in "(user(:p[a-z@]{0,3})?@)?",
            others in "(&(user|host|db)=[a-z/]{1,8}){0,2}",
        ) {
            let mut password = format!("{before}canary{after}");
            if is_encoded {
                password = password.bytes().map(|byte| match byte.is_ascii_alphanumeric() {
                    true => char::from(byte).to_string(),
                    false => format!("%{byte:02X}"),
                }).collect();
            }
            let url = format!("postgres://{userinfo}db/ws?host=/run{others}&password={password}");
            let shown = without_secrets(&url);
            prop_assert!(!shown.contains("canary"), "{shown}");
        }

        #[test]
        fn prop_any_text_is_an_address_or_none(text in ".{0,60}") {
            let _ = parse(&text);
        }
    }
}

//! Where sessions are kept beyond the life of the server.

mod kept;
mod memory;
mod pending;

use std::fmt;
use std::future::Future;
use std::net::IpAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

pub use memory::MemoryStore;
pub use pending::PendingChanges;

use crate::{SessionId, UserId};

/// What a store's methods return.
pub type StoreFuture<'a, T> = Pin<Box<dyn Future<Output = Result<T, StoreError>> + Send + 'a>>;

/// Keeps sessions where a restart of the server does not reach them.
///
/// A store is a table of [`SessionRecord`]s by their ids and decides nothing: whether a session is
/// still good, and from where, its caller judges. Records that are not of the form that the store
/// writes, somebody else's or damaged ones, count as not being there.
///
/// Times are kept to the millisecond.
///
/// # Cancel safety
///
/// A future that is dropped may have done its work or not. Each of the methods may be called again
/// with the same arguments, and does no harm.
///
/// # Errors
///
/// All methods fail with [`StoreError`] if the store does not do what it is asked, as a whole:
/// there is no half of an answer. What was written may then be there or not, as above.
pub trait SessionStore: Send + Sync + fmt::Debug {
    /// Finds those of the sessions that are stored, in any order.
    fn find<'a>(&'a self, ids: &'a [SessionId]) -> StoreFuture<'a, Vec<SessionRecord>>;

    /// Carries out changes. Whoever reads afterwards sees them.
    fn write<'a>(&'a self, changes: &'a Changes) -> StoreFuture<'a, ()>;

    /// Lists sessions in the order of their ids: fewer than the query allows only if there are no
    /// more.
    fn list<'a>(&'a self, query: &'a SessionQuery) -> StoreFuture<'a, Vec<SessionRecord>>;

    /// Removes sessions and returns how many of them there were.
    fn remove<'a>(&'a self, ids: &'a [SessionId]) -> StoreFuture<'a, u64>;

    /// Removes what nobody will come back to and returns how many these were. A store that
    /// forgets them by itself has nothing to do.
    fn purge<'a>(&'a self, purge: &'a Purge) -> StoreFuture<'a, u64>;
}

/// One session as it is stored.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SessionRecord {
    /// Its name, the hash of its token. The token itself is stored nowhere.
    pub id: SessionId,
    /// The user that the validation named, if there is one.
    pub user: Option<UserId>,
    /// The address that it was made for; none if that was a Unix socket.
    pub addr: Option<IpAddr>,
    /// When it was made.
    pub created_at: SystemTime,
    /// When it was used last, or a little earlier.
    pub used_at: SystemTime,
    /// When it is over however much it is used; `None` if it lives as long as it is.
    pub expires_at: Option<SystemTime>,
    /// What the application keeps in it.
    pub data: Option<SessionData>,
}

/// What changed since the last time: first sessions are made, then the rest is done to those that
/// are stored. A session that is not stored is not made by being used.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Changes {
    /// New sessions; one of the same id is overwritten.
    pub created: Vec<SessionRecord>,
    /// Sessions with another user than before.
    pub users: Vec<(SessionId, Option<UserId>)>,
    /// Sessions with other data than before.
    pub data: Vec<(SessionId, Option<SessionData>)>,
    /// Sessions that were used.
    pub used: Vec<SessionId>,
    /// When they were; `None` if none was.
    pub used_at: Option<SystemTime>,
}

impl Changes {
    /// Tells whether there is nothing to be done.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Returns how many changes these are.
    pub fn len(&self) -> usize {
        self.created.len() + self.users.len() + self.data.len() + self.used.len()
    }
}

/// Which sessions are listed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SessionQuery {
    /// Those of this user only.
    pub user: Option<UserId>,
    /// Those behind this id only.
    pub after: Option<SessionId>,
    /// At most as many.
    pub limit: usize,
}

/// Which sessions nobody will come back to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Purge {
    /// Those that were used before this.
    pub used_before: SystemTime,
    /// Those that are over by now.
    pub now: SystemTime,
    /// Of the others, those that were used least recently, if there are more than so many. A store
    /// that several servers share need not look at that.
    pub keep: usize,
}

impl Purge {
    /// Tells whether a session is to be removed for its age.
    pub fn is_due(&self, record: &SessionRecord) -> bool {
        record.used_at < self.used_before || record.expires_at.is_some_and(|end| end <= self.now)
    }
}

/// What an application keeps in a session: up to 4 KiB of text without control characters, which
/// the server does not look into. Clones share it.
#[derive(Clone, PartialEq, Eq)]
pub struct SessionData(Arc<str>);

impl SessionData {
    /// The size of the largest, in bytes.
    pub const MAX_SIZE: usize = 4096;

    /// Checks session data.
    ///
    /// # Errors
    ///
    /// [`InvalidSessionData`], which does not repeat it.
    ///
    /// # Examples
    ///
    /// ```
    /// use ws_session::{InvalidSessionData, SessionData};
    ///
    /// assert_eq!(SessionData::new("cart=7;step=2")?.as_str(), "cart=7;step=2");
    /// assert!(SessionData::new("two\nlines").is_err());
    /// # Ok::<(), InvalidSessionData>(())
    /// ```
    pub fn new(text: &str) -> Result<Self, InvalidSessionData> {
        if text.len() > Self::MAX_SIZE {
            return Err(InvalidSessionData::TooLarge { size: text.len() });
        }
        match text.find(char::is_control) {
            Some(at) => Err(InvalidSessionData::ControlCharacter { at }),
            None => Ok(Self(text.into())),
        }
    }

    /// Returns the text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// Shows the size only: what it holds is the application's secret.
impl fmt::Debug for SessionData {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SessionData({} bytes)", self.0.len())
    }
}

/// A text that is no [`SessionData`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum InvalidSessionData {
    /// More than [`SessionData::MAX_SIZE`] bytes.
    #[error("session data has {size} bytes, more than {}", SessionData::MAX_SIZE)]
    TooLarge {
        /// Its size in bytes.
        size: usize,
    },
    /// A line break or the like.
    #[error("session data has a control character at byte {at}")]
    ControlCharacter {
        /// Its offset in bytes.
        at: usize,
    },
}

/// Why a store did not do what it was asked.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum StoreError {
    /// It does not answer, or says that it cannot now. Another time it may.
    #[error("the session store does not answer: {0}")]
    Unavailable(String),
    /// It answered that it will not: a privilege or a table is missing, or not as it should be.
    #[error("the session store refuses: {0}")]
    Refused(String),
}

/// Returns a time in milliseconds since 1970, as stores keep it; earlier ones are 0.
///
/// # Examples
///
/// ```
/// use std::time::{Duration, SystemTime};
///
/// let time = SystemTime::UNIX_EPOCH + Duration::from_millis(1500);
/// assert_eq!(ws_session::to_millis(time), 1500);
/// assert_eq!(ws_session::from_millis(1500), Some(time));
/// ```
pub fn to_millis(time: SystemTime) -> i64 {
    let since = time.duration_since(SystemTime::UNIX_EPOCH);
    since.map_or(0, |since| {
        i64::try_from(since.as_millis()).unwrap_or(i64::MAX)
    })
}

/// Returns the time of [`to_millis`]; `None` for one before 1970 or beyond what the system knows.
pub fn from_millis(millis: i64) -> Option<SystemTime> {
    let since = Duration::from_millis(u64::try_from(millis).ok()?);
    SystemTime::UNIX_EPOCH.checked_add(since)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn session_data_is_one_line_of_up_to_4_kib() {
        assert!(SessionData::new("").is_ok());
        assert!(SessionData::new(&"ä".repeat(2048)).is_ok());
        assert_eq!(
            SessionData::new(&"x".repeat(4097)),
            Err(InvalidSessionData::TooLarge { size: 4097 })
        );
        for text in ["a\0", "a\n", "a\u{7f}", "a\t"] {
            let error = InvalidSessionData::ControlCharacter { at: 1 };
            assert_eq!(SessionData::new(text), Err(error), "{text:?}");
        }
    }

    #[test]
    fn debug_shows_nothing_of_session_data() {
        let data = SessionData::new("canary").unwrap();
        assert_eq!(format!("{data:?}"), "SessionData(6 bytes)");
    }

    proptest! {
        #[test]
        fn prop_milliseconds_round_trip(millis in 0..=i64::MAX / 4) {
            prop_assert_eq!(from_millis(millis).map(to_millis), Some(millis));
        }

        #[test]
        fn prop_any_number_is_a_time_or_none(millis: i64) {
            prop_assert_eq!(from_millis(millis).is_some(), millis >= 0);
        }
    }
}

//! A session's record, packed.

use std::net::IpAddr;
use std::time::SystemTime;

use super::{SessionData, SessionRecord, from_millis, to_millis};
use crate::{SessionId, UserId};

/// A [`SessionRecord`] in less than half of its room: there is one for each visitor, and most have
/// nothing but times and an address.
#[derive(Clone, Debug)]
pub(super) struct Kept {
    addr: Option<IpAddr>,
    /// In milliseconds, like [`used_at`](Self::used_at).
    created_at: i64,
    pub(super) used_at: i64,
    extra: Option<Box<Extra>>,
}

#[derive(Clone, Debug, Default)]
struct Extra {
    user: Option<UserId>,
    data: Option<SessionData>,
    expires_at: Option<SystemTime>,
}

impl Kept {
    pub(super) fn new(record: &SessionRecord) -> Self {
        let extra = Extra {
            user: record.user.clone(),
            data: record.data.clone(),
            expires_at: record.expires_at,
        };
        let is_plain = extra.user.is_none() && extra.data.is_none() && extra.expires_at.is_none();
        Self {
            addr: record.addr,
            created_at: to_millis(record.created_at),
            used_at: to_millis(record.used_at),
            extra: (!is_plain).then(|| Box::new(extra)),
        }
    }

    pub(super) fn user(&self) -> Option<&UserId> {
        self.extra.as_ref()?.user.as_ref()
    }

    pub(super) fn set_user(&mut self, user: Option<UserId>) {
        self.extra.get_or_insert_default().user = user;
    }

    pub(super) fn set_data(&mut self, data: Option<SessionData>) {
        self.extra.get_or_insert_default().data = data;
    }

    /// The record of a session, with its times to the millisecond.
    pub(super) fn record(&self, id: SessionId) -> SessionRecord {
        let time = |millis| from_millis(millis).unwrap_or(SystemTime::UNIX_EPOCH);
        let extra = self.extra.as_ref();
        SessionRecord {
            id,
            user: self.user().cloned(),
            addr: self.addr,
            created_at: time(self.created_at),
            used_at: time(self.used_at),
            expires_at: extra.and_then(|extra| extra.expires_at),
            data: extra.and_then(|extra| extra.data.clone()),
        }
    }
}

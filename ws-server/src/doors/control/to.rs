//! Whom a request is for.

use serde::Deserialize;
use ws_session::{ConnectionId, SessionId, Target, UserId};

use super::error::ApiError;

/// `{"all": true}`, one of `user`, `session` and `connection`, or any of the lists of them, which
/// count together; all but the one whom `except` names.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct To {
    pub(super) all: Option<bool>,
    pub(super) user: Option<String>,
    pub(super) session: Option<String>,
    pub(super) connection: Option<String>,
    pub(super) users: Option<Vec<String>>,
    pub(super) sessions: Option<Vec<String>>,
    pub(super) connections: Option<Vec<String>>,
    pub(super) except: Option<Except>,
}

/// Exactly one of its keys.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct Except {
    user: Option<String>,
    session: Option<String>,
    connection: Option<String>,
}

const KINDS: &str = "to: exactly one of {\"all\": true}, {\"user\": U}, {\"session\": S}, \
                     {\"connection\": C}, or the lists users, sessions and connections";
const EXCEPT_KINDS: &str =
    "to.except: exactly one of {\"user\": U}, {\"session\": S}, {\"connection\": C}";

impl To {
    /// Checks the ids, of which the lists may have so many.
    pub(super) fn target_of_at_most(self, max: usize) -> Result<Target, ApiError> {
        let listed = self.listed();
        if listed > max {
            let what = format!("to: {listed} ids");
            return Err(ApiError::too_large(what, "control.max_targets", max));
        }
        self.target()
    }

    fn listed(&self) -> usize {
        let lists = [&self.users, &self.sessions, &self.connections];
        lists.into_iter().flatten().map(Vec::len).sum()
    }

    /// Checks the ids.
    pub(super) fn target(self) -> Result<Target, ApiError> {
        let listed = self.listed();
        let has_lists =
            self.users.is_some() || self.sessions.is_some() || self.connections.is_some();
        let whom = match (
            self.all,
            self.user,
            self.session,
            self.connection,
            has_lists,
        ) {
            (Some(true), None, None, None, false) => Target::All,
            (None, Some(id), None, None, false) => user("to.user", &id)?,
            (None, None, Some(id), None, false) => session("to.session", &id)?,
            (None, None, None, Some(id), false) => connection("to.connection", &id)?,
            (None, None, None, None, true) => {
                let mut targets = Vec::with_capacity(listed);
                each(&mut targets, "to.users", self.users, user)?;
                each(&mut targets, "to.sessions", self.sessions, session)?;
                each(&mut targets, "to.connections", self.connections, connection)?;
                Target::AnyOf(targets)
            }
            _ => return Err(ApiError::bad(KINDS)),
        };
        let Some(except) = self.except else {
            return Ok(whom);
        };
        let spared = match (except.user, except.session, except.connection) {
            (Some(id), None, None) => user("to.except.user", &id)?,
            (None, Some(id), None) => session("to.except.session", &id)?,
            (None, None, Some(id)) => connection("to.except.connection", &id)?,
            _ => return Err(ApiError::bad(EXCEPT_KINDS)),
        };
        Ok(whom.except(spared))
    }
}

fn each(
    targets: &mut Vec<Target>,
    path: &str,
    ids: Option<Vec<String>>,
    read: fn(&str, &str) -> Result<Target, ApiError>,
) -> Result<(), ApiError> {
    for (index, id) in ids.into_iter().flatten().enumerate() {
        targets.push(read(&format!("{path}[{index}]"), &id)?);
    }
    Ok(())
}

fn user(path: &str, id: &str) -> Result<Target, ApiError> {
    let id = UserId::new(id).map_err(|error| ApiError::bad(format!("{path}: {error}")))?;
    Ok(Target::User(id))
}

fn session(path: &str, id: &str) -> Result<Target, ApiError> {
    let id = id.parse::<SessionId>();
    let id = id.map_err(|error| ApiError::bad(format!("{path}: {error}")))?;
    Ok(Target::Session(id))
}

fn connection(path: &str, id: &str) -> Result<Target, ApiError> {
    let id = id.parse::<ConnectionId>();
    let id = id.map_err(|error| ApiError::bad(format!("{path}: {error}")))?;
    Ok(Target::Connection(id))
}

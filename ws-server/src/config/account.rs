//! Users and groups of the host.

use nix::unistd::{Gid, Group, Uid, User};

use super::fault::Problem;
use super::raw::{RawKind, RawValue};

/// A user of the host with the group that goes with it: what a callback runs as.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Account {
    uid: u32,
    gid: u32,
}

impl Account {
    pub(super) fn new(uid: u32, gid: u32) -> Self {
        Self { uid, gid }
    }

    /// Returns the number of the user.
    pub fn uid(self) -> u32 {
        self.uid
    }

    /// Returns the number of the group.
    pub fn gid(self) -> u32 {
        self.gid
    }
}

/// Reads a user; its primary group is known if the host knows the user.
pub(super) fn user(value: &RawValue) -> Result<(u32, Option<u32>), Problem> {
    let (name, number) = name_or_number(value)?;
    let user = match number {
        Some(number) => User::from_uid(Uid::from_raw(number)),
        None => User::from_name(&name),
    };
    match (user.ok().flatten(), number) {
        (Some(user), _) => Ok((user.uid.as_raw(), Some(user.gid.as_raw()))),
        (None, Some(number)) => Ok((number, None)),
        (None, None) => Err(Problem::malformed(name, "a user of this host")),
    }
}

/// Reads a group.
pub(super) fn group(value: &RawValue) -> Result<u32, Problem> {
    let (name, number) = name_or_number(value)?;
    if let Some(number) = number {
        return Ok(Gid::from_raw(number).as_raw());
    }
    let group = Group::from_name(&name).ok().flatten();
    group
        .map(|group| group.gid.as_raw())
        .ok_or_else(|| Problem::malformed(name, "a group of this host"))
}

fn name_or_number(value: &RawValue) -> Result<(String, Option<u32>), Problem> {
    let text = match value.kind() {
        RawKind::Text(text) => text.clone(),
        RawKind::Integer(number) => number.to_string(),
        _ => {
            return Err(Problem::WrongType {
                expected: "a name or a number",
                found: value.kind().name(),
            });
        }
    };
    // (uid_t) -1 means "do not change" to the system calls.
    let number = text.parse().ok().filter(|&number: &u32| number != u32::MAX);
    if text.is_empty() || text.contains('\0') {
        return Err(Problem::malformed(text, "a name or a number"));
    }
    Ok((text, number))
}

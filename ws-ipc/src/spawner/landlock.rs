//! Landlock: the rules of a program, for it to take upon itself.

use std::error::Error;
use std::io;
use std::os::fd::OwnedFd;

use landlock::{
    ABI, Access, AccessFs, BitFlags, PathBeneath, PathFd, Ruleset, RulesetAttr, RulesetCreatedAttr,
};

use super::confinement::Landlock;

/// The newest rights that the rules speak of. Of these, a kernel enforces those that it knows.
const NEWEST: ABI = ABI::V5;

/// Makes the rules that let a program reach these paths and nothing else.
///
/// # Errors
///
/// The system's, for a path that is not there say; `ENOSYS` from a kernel without Landlock.
pub(super) fn ruleset(paths: &Landlock) -> io::Result<OwnedFd> {
    made(paths)
        .map_err(|error| os_error(&*error))?
        .ok_or_else(unsupported)
}

fn made(paths: &Landlock) -> Result<Option<OwnedFd>, Box<dyn Error>> {
    let all = AccessFs::from_all(NEWEST);
    let read = AccessFs::ReadFile | AccessFs::ReadDir;
    let rules: [(_, BitFlags<AccessFs>); 3] = [
        (&paths.read, read),
        (&paths.execute, read | AccessFs::Execute),
        (&paths.write, all & !AccessFs::Execute),
    ];
    let mut ruleset = Ruleset::default().handle_access(all)?.create()?;
    for (paths, access) in rules {
        for path in paths {
            ruleset = ruleset.add_rule(PathBeneath::new(PathFd::new(path)?, access))?;
        }
    }
    Ok(ruleset.into())
}

/// The system's error among the causes of this one.
fn os_error(error: &(dyn Error + 'static)) -> io::Error {
    let mut cause = Some(error);
    while let Some(error) = cause {
        let number = error
            .downcast_ref::<io::Error>()
            .and_then(io::Error::raw_os_error);
        if let Some(number) = number {
            return io::Error::from_raw_os_error(number);
        }
        cause = error.source();
    }
    unsupported()
}

fn unsupported() -> io::Error {
    io::Error::from_raw_os_error(nix::libc::ENOSYS)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn path_that_is_not_there_is_the_systems_error() {
        let paths = Landlock {
            read: vec!["/no/such/path".into()],
            ..Landlock::default()
        };
        let error = ruleset(&paths).unwrap_err().raw_os_error().unwrap();
        assert!(
            [nix::libc::ENOENT, nix::libc::ENOSYS].contains(&error),
            "{error}"
        );
    }
}

//! One start: from an order to a process id.

use std::ffi::OsStr;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use super::Identity;
use super::codec::{Kind, Obstacle, Order};
use crate::children::MARK;

/// Starts the program as leader of a process group of its own; another spawner makes itself the
/// leader of a session, which the leader of a group could not.
///
/// The program sees descriptors 0, 1 and 2: every other one of this process is close-on-exec. It
/// starts with an empty signal mask and default dispositions, as this process ignores and blocks
/// none.
pub(super) fn launch(
    order: &Order,
    [stdin, stdout, stderr]: [OwnedFd; 3],
) -> Result<i32, (io::Error, Obstacle)> {
    let refused = |error| {
        let dir_is_bad = order.dir.as_ref().is_some_and(|dir| !dir.is_dir());
        (
            error,
            if dir_is_bad {
                Obstacle::Directory
            } else {
                Obstacle::Program
            },
        )
    };
    let (name, args) = order
        .argv
        .split_first()
        .ok_or_else(|| refused(io::ErrorKind::InvalidInput.into()))?;
    // std takes the quicker way (posix_spawn) only for a program with a path, and would otherwise
    // search the PATH of this process.
    let program = resolve(name, &order.env).map_err(refused)?;
    let mut command = Command::new(program);
    command
        .arg0(name)
        .args(args)
        .env_clear()
        .envs(order.env.iter().map(|(name, value)| (name, value)))
        .env(MARK, &order.mark)
        .stdin(Stdio::from(stdin))
        .stdout(Stdio::from(stdout))
        .stderr(Stdio::from(stderr));
    if order.kind == Kind::Run {
        command.process_group(0);
    }
    if let Some(dir) = &order.dir {
        command.current_dir(dir);
    }
    if let Some(Identity { uid, gid }) = order.identity {
        command.uid(uid).gid(gid);
    }
    let child = command.spawn().map_err(refused)?;
    Ok(i32::try_from(child.id()).expect("the kernel's process ids are positive i32"))
}

/// Finds a program that is named without a slash in the `PATH` it is going to have.
fn resolve(name: &OsStr, env: &[(impl AsRef<OsStr>, impl AsRef<OsStr>)]) -> io::Result<PathBuf> {
    if name.is_empty() || name.as_bytes().contains(&b'/') {
        return Ok(PathBuf::from(name));
    }
    let path = env
        .iter()
        .rev()
        .find_map(|(variable, value)| (variable.as_ref() == "PATH").then(|| value.as_ref()))
        .unwrap_or_else(|| OsStr::new("/usr/local/bin:/usr/bin:/bin"));
    let mut found = None;
    for candidate in std::env::split_paths(path).filter(|dir| dir.is_absolute()) {
        let candidate = candidate.join(name);
        match is_executable(&candidate) {
            Some(true) => return Ok(candidate),
            Some(false) => found = Some(candidate),
            None => {}
        }
    }
    // One that is there but not executable is tried all the same: the system's answer says it best.
    found.ok_or_else(|| io::Error::from_raw_os_error(nix::libc::ENOENT))
}

/// Whether a regular file may be executed by anybody; `None` if there is none.
fn is_executable(path: &Path) -> Option<bool> {
    let metadata = std::fs::metadata(path)
        .ok()
        .filter(std::fs::Metadata::is_file)?;
    Some(metadata.permissions().mode() & 0o111 != 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn program_is_looked_for_in_the_path_it_is_going_to_have() {
        let dir = tempfile::tempdir().unwrap();
        let program = dir.path().join("only-here");
        std::fs::write(&program, "#!/bin/sh\n").unwrap();
        let path = format!("/nowhere:{}", dir.path().display());
        let error = resolve(OsStr::new("only-here"), &[("PATH", "/nowhere")]).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::NotFound);
        // Not executable: found, and the refusal is the system's.
        assert_eq!(
            resolve(OsStr::new("only-here"), &[("PATH", &path)]).unwrap(),
            program
        );
        assert_eq!(is_executable(&program), Some(false));
    }

    #[test]
    fn relative_directories_of_the_path_are_passed_over() {
        assert!(resolve(OsStr::new("sh"), &[("PATH", ".:")]).is_err());
        assert!(resolve(OsStr::new("sh"), &[("PATH", ".:/bin")]).is_ok());
    }

    #[test]
    fn program_with_a_slash_is_taken_as_it_is() {
        let none: [(&str, &str); 0] = [];
        assert_eq!(
            resolve(OsStr::new("bin/x"), &none).unwrap(),
            Path::new("bin/x")
        );
    }
}

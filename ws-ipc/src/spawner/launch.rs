//! One start: from an order to a process id.

use std::collections::BTreeMap;
use std::ffi::{CString, OsStr};
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use rustix::process::{Resource, Rlimit};

use super::codec::{Kind, Obstacle, Order};
use super::{Confinement, Identity, landlock};
use crate::cgroup::{Excess, JobCgroup};
use crate::children::MARK;
use crate::sys::{self, Stack, Start, Step, Strings};

/// What starts programs: the parts that are the same for all of them.
#[derive(Debug)]
pub(super) struct Launcher {
    stack: Stack,
    /// The limit of descriptors that was there before this process raised its own.
    descriptors: Rlimit,
    /// How much this process yields to others: only root may give a program less.
    nice: i32,
}

/// A program that was started.
#[derive(Debug)]
pub(super) struct Launched {
    pub(super) pid: i32,
    pub(super) pidfd: OwnedFd,
    pub(super) cgroup: Option<JobCgroup>,
}

impl Launcher {
    /// Gives programs this limit of descriptors: many walk through all that the limit allows.
    pub(super) fn new(descriptors: Rlimit) -> Self {
        Self {
            stack: Stack::default(),
            descriptors,
            nice: rustix::process::getpriority_process(None).unwrap_or(0),
        }
    }

    /// Starts the program as leader of a process group of its own; another spawner makes itself the
    /// leader of a session, which the leader of a group could not.
    ///
    /// The program sees descriptors 0, 1 and 2: every other one of this process is close-on-exec.
    /// It starts with an empty signal mask and default dispositions, as this process ignores and
    /// blocks none.
    pub(super) fn launch(
        &mut self,
        order: &Order,
        stdio: &[OwnedFd; 3],
    ) -> Result<Launched, (io::Error, Obstacle)> {
        let program_is_bad = |error| (error, Obstacle::Program);
        let (name, _) = order
            .argv
            .split_first()
            .ok_or_else(|| program_is_bad(io::ErrorKind::InvalidInput.into()))?;
        let program = resolve(name, &order.env).map_err(program_is_bad)?;
        let program = c_string(program.as_os_str()).map_err(program_is_bad)?;
        let (argv, env) = strings(order).map_err(program_is_bad)?;
        let dir = order.dir.as_ref().map(|dir| c_string(dir.as_os_str()));
        let dir = dir
            .transpose()
            .map_err(|error| (error, Obstacle::Directory))?;
        let Confinement {
            no_new_privs,
            nice,
            umask,
            landlock: paths,
            cgroup,
            ..
        } = &order.confinement;
        let ruleset = paths.as_ref().map(landlock::ruleset).transpose();
        let ruleset = ruleset.map_err(|error| (error, Obstacle::Landlock))?;
        let excess = match order.kind {
            Kind::ForkServer => Excess::EndsLargest,
            Kind::Run | Kind::Spawner => Excess::EndsAll,
        };
        let cgroup = cgroup
            .as_ref()
            .map(|it| JobCgroup::make(it, &order.mark, excess))
            .transpose()
            .map_err(|error| (error, Obstacle::Cgroup))?;
        let started = sys::start(
            &Start {
                program: &program,
                argv: &argv,
                env: &env,
                stdio: stdio.each_ref().map(AsFd::as_fd),
                leads_group: order.kind != Kind::Spawner,
                cgroup: cgroup.as_ref().map(JobCgroup::processes),
                limits: &self.limits(&order.confinement),
                nice: nice.map(i32::from).filter(|&nice| nice > self.nice),
                umask: *umask,
                identity: order.identity.map(|Identity { uid, gid }| (uid, gid)),
                dir: dir.as_deref(),
                no_new_privs: *no_new_privs,
                landlock: ruleset.as_ref().map(AsFd::as_fd),
            },
            &mut self.stack,
        );
        match started {
            Ok((pid, pidfd)) => Ok(Launched { pid, pidfd, cgroup }),
            Err((step, error)) => {
                if let Some(cgroup) = cgroup {
                    cgroup.remove();
                }
                Err((error, obstacle(step)))
            }
        }
    }

    /// The limits of a program, none of them above what this process may give.
    fn limits(&self, confinement: &Confinement) -> Vec<(Resource, Rlimit)> {
        let given = confinement
            .limits
            .resources()
            .map(|(resource, soft, hard)| {
                let own = rustix::process::getrlimit(resource)
                    .maximum
                    .unwrap_or(u64::MAX);
                let (current, maximum) = (Some(soft.min(own)), Some(hard.min(own)));
                (resource, Rlimit { current, maximum })
            });
        std::iter::once((Resource::Nofile, self.descriptors))
            .chain(given)
            .collect()
    }
}

/// Whom a failed step is put down to.
fn obstacle(step: Step) -> Obstacle {
    match step {
        Step::Clone | Step::Privileges | Step::Exec => Obstacle::Program,
        Step::Cgroup => Obstacle::Cgroup,
        Step::Limits => Obstacle::Limits,
        Step::Identity => Obstacle::Identity,
        Step::Directory => Obstacle::Directory,
        Step::Landlock => Obstacle::Landlock,
    }
}

/// The arguments, and the environment with the mark in it; the last of several values holds.
fn strings(order: &Order) -> io::Result<(Strings, Strings)> {
    let (mut argv, mut env) = (Strings::default(), Strings::default());
    for arg in &order.argv {
        argv.push(&[arg.as_bytes()])?;
    }
    let given = order.env.iter();
    let mut variables: BTreeMap<&OsStr, &OsStr> = given
        .map(|(name, value)| (name.as_ref(), value.as_ref()))
        .collect();
    variables.insert(MARK.as_ref(), order.mark.as_ref());
    for (name, value) in variables {
        env.push(&[name.as_bytes(), b"=", value.as_bytes()])?;
    }
    Ok((argv, env))
}

fn c_string(string: &OsStr) -> io::Result<CString> {
    CString::new(string.as_bytes()).map_err(|_| io::ErrorKind::InvalidInput.into())
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

//! From the settings of a command to what its processes are confined to.

use std::path::PathBuf;
use std::time::Duration;

use ws_ipc::{Cgroup, Confinement, Landlock, Limits, cgroup};

use crate::config::{CallbackBackend, CgroupPlace, Config, Sandbox};
use crate::error::ServeError;

/// What the processes of the two callbacks are confined to.
#[derive(Debug, Default)]
pub(crate) struct Confinements {
    pub(crate) app: Confinement,
    pub(crate) validate: Confinement,
}

impl Confinements {
    /// Reads them from the configuration, and makes control groups ready if it names any.
    ///
    /// Call it before there are other processes: those of the own control group have to leave it.
    ///
    /// # Errors
    ///
    /// [`ServeError::Cgroup`]: a confinement that was asked for and cannot be had is no start.
    pub(crate) fn prepare(config: &Config) -> Result<Self, ServeError> {
        let mut own = None;
        let mut confine = |section, backend: Option<&CallbackBackend>| match backend
            .and_then(CallbackBackend::exec)
        {
            Some(exec) => confinement(section, &exec.sandbox, &mut own),
            None => Ok(Confinement::default()),
        };
        Ok(Self {
            app: confine("app", config.app().backend.callback())?,
            validate: confine("validate", config.validate().backend.callback())?,
        })
    }
}

fn confinement(
    section: &'static str,
    sandbox: &Sandbox,
    own: &mut Option<PathBuf>,
) -> Result<Confinement, ServeError> {
    let cgroup = match &sandbox.cgroup {
        Some(place) => {
            let made = group(place, sandbox, own);
            Some(made.map_err(|source| ServeError::Cgroup { section, source })?)
        }
        None => None,
    };
    // What the control group limits as a whole has no limit for each process besides.
    let by_process = |limit: Option<u64>| limit.filter(|_| cgroup.is_none());
    let limits = Limits {
        processes: by_process(sandbox.max_processes),
        memory: by_process(sandbox.max_memory),
        file_size: sandbox.max_file_size,
        open_files: sandbox.max_open_files,
        cpu_time: sandbox.max_cpu_time.map(rounded_up),
        ..Limits::default()
    };
    Ok(Confinement {
        no_new_privs: sandbox.no_new_privs,
        limits,
        nice: sandbox.nice,
        umask: sandbox.umask,
        landlock: sandbox.has_landlock().then(|| Landlock {
            read: sandbox.landlock_read.clone(),
            execute: sandbox.landlock_execute.clone(),
            write: sandbox.landlock_write.clone(),
        }),
        cgroup,
    })
}

/// The system counts CPU time in seconds.
fn rounded_up(time: Duration) -> u64 {
    time.as_secs() + u64::from(time.subsec_nanos() > 0)
}

/// Finds the directory and enables there what the limits need.
fn group(
    place: &CgroupPlace,
    sandbox: &Sandbox,
    own: &mut Option<PathBuf>,
) -> std::io::Result<Cgroup> {
    let dir = match place {
        CgroupPlace::Dir(dir) => dir.clone(),
        CgroupPlace::Own => match own {
            Some(dir) => dir.clone(),
            None => own.insert(cgroup::own()?).clone(),
        },
    };
    let (memory, processes) = (sandbox.max_memory, sandbox.max_processes);
    cgroup::enable(&dir, memory.is_some(), processes.is_some())?;
    Ok(Cgroup {
        dir,
        memory,
        processes,
    })
}

//! System calls of a running process that fail because strace says so.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tempfile::TempDir;

use crate::chaos::subject::poll_until;
use crate::{NotHere, Skipped, process, workspace};

const PATIENCE: Duration = Duration::from_secs(10);

/// A strace that is attached to each thread of a process.
///
/// It stops the process at every system call, which costs several times the call: figures of time
/// compare only with others that were taken under a strace.
#[derive(Debug)]
pub(crate) struct Strace {
    child: Child,
    folder: TempDir,
}

impl Strace {
    /// Attaches to the process `id`. Of the system calls `calls`, those of `inject`, as strace's
    /// option of that name takes it, fail; without it all are as they were.
    pub(crate) fn attach(id: u32, calls: &str, inject: Option<&str>) -> Result<Self> {
        Self::attach_with(&[id], &["-f"], calls, inject)
    }

    /// As [`attach`](Self::attach), of the calls that are about one file.
    pub(crate) fn attach_about(
        id: u32,
        file: &Path,
        calls: &str,
        inject: Option<&str>,
    ) -> Result<Self> {
        let file = file.to_str().context("a path that is not UTF-8")?;
        Self::attach_with(&[id], &["-f", "-P", file], calls, inject)
    }

    /// Attaches to several processes of one thread each, and not to what they start.
    pub(crate) fn attach_each(ids: &[u32], calls: &str, inject: Option<&str>) -> Result<Self> {
        Self::attach_with(ids, &[], calls, inject)
    }

    fn attach_with(
        ids: &[u32],
        options: &[&str],
        calls: &str,
        inject: Option<&str>,
    ) -> Result<Self> {
        let strace =
            workspace::find("strace").ok_or_else(|| Skipped("strace is not installed".into()))?;
        let folder = tempfile::Builder::new().prefix("ws-strace-").tempdir()?;
        let mut command = Command::new(strace);
        command
            .args(options)
            .args(["-qq", "-e", &format!("trace={calls}"), "-o"])
            .arg(folder.path().join("calls"))
            .args(inject.into_iter().flat_map(|it| ["-e", it]))
            .args(ids.iter().flat_map(|id| ["-p".to_owned(), id.to_string()]))
            .stdin(Stdio::null())
            .stderr(fs::File::create(folder.path().join("errors"))?);
        let child = command.spawn().context("cannot start strace")?;
        let mut strace = Self { child, folder };
        poll_until("strace is attached", PATIENCE, || {
            if let Some(status) = strace.child.try_wait()? {
                let errors = fs::read_to_string(strace.folder.path().join("errors"))?;
                if errors.contains("Operation not permitted") {
                    return Err(NotHere("strace may not attach to a process here".into()).into());
                }
                bail!("strace ended with {status}: {errors}");
            }
            ids.iter()
                .try_fold(true, |all, id| Ok(all && threads_are_traced(*id)?))
        })?;
        Ok(strace)
    }

    /// Detaches.
    ///
    /// Returns how many calls were made to fail, or were held up.
    pub(crate) fn detach(mut self) -> Result<usize> {
        kill(
            Pid::from_raw(i32::try_from(self.child.id())?),
            Signal::SIGINT,
        )?;
        process::wait(&mut self.child, PATIENCE)?.context("strace does not detach")?;
        let calls = fs::read(self.calls())?;
        Ok(injected_in(&String::from_utf8_lossy(&calls)))
    }

    fn calls(&self) -> PathBuf {
        self.folder.path().join("calls")
    }
}

impl Drop for Strace {
    fn drop(&mut self) {
        // A campaign that fails leaves no process stopped.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Whether each thread of the process has a tracer.
fn threads_are_traced(id: u32) -> Result<bool> {
    for task in fs::read_dir(format!("/proc/{id}/task"))? {
        let status = fs::read_to_string(task?.path().join("status"))?;
        if tracer_in(&status) == Some(0) {
            return Ok(false);
        }
    }
    Ok(true)
}

fn tracer_in(status: &str) -> Option<u32> {
    let mut lines = status.lines();
    let line = lines.find_map(|line| line.strip_prefix("TracerPid:"))?;
    line.trim().parse().ok()
}

fn injected_in(calls: &str) -> usize {
    calls.matches("(INJECTED)").count() + calls.matches("(DELAYED)").count()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn injected_calls_are_counted() {
        let calls = "7 accept4(6, NULL) = -1 EMFILE (Too many open files) (INJECTED)\n\
                     7 accept4(6, NULL) = 9\n\
                     7 write(2, \"a\", 1) = 1 (DELAYED)\n";
        assert_eq!(injected_in(calls), 2);
    }

    #[test]
    fn tracer_is_found() {
        assert_eq!(tracer_in("Name:\tws\nTracerPid:\t42\n"), Some(42));
        assert_eq!(tracer_in("Name:\tws\n"), None);
    }
}

//! Running commands with a limit in time, and ending what they leave behind.

use std::ffi::OsStr;
use std::fs::{self, File};
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};
use std::{io, thread};

use anyhow::{Context as _, Result, bail};
use nix::errno::Errno;
use nix::sys::signal::{Signal, kill, killpg};
use nix::unistd::Pid;

use crate::workspace;

/// Runs `command` to its end without input, with both outputs in `log`.
///
/// # Errors
///
/// If it cannot be started, or is not done within `limit`: then it and all its descendants are
/// killed.
pub(crate) fn run_logged(command: &mut Command, log: &Path, limit: Duration) -> Result<ExitStatus> {
    if let Some(folder) = log.parent() {
        fs::create_dir_all(folder)?;
    }
    let file = File::options()
        .create(true)
        .append(true)
        .open(log)
        .with_context(|| format!("cannot write {}", log.display()))?;
    command.stdout(file.try_clone()?).stderr(file);
    run(command, limit)
}

/// Runs `command` to its end without input; its outputs go where the caller has put them.
///
/// # Errors
///
/// As [`run_logged`].
pub(crate) fn run(command: &mut Command, limit: Duration) -> Result<ExitStatus> {
    let name = command.get_program().to_string_lossy().into_owned();
    let mut child = command
        .stdin(Stdio::null())
        .spawn()
        .with_context(|| format!("cannot start {name}"))?;
    match wait(&mut child, limit)? {
        Some(status) => Ok(status),
        None => {
            kill_tree(&mut child)?;
            bail!("{name} was not done after {} s", limit.as_secs())
        }
    }
}

/// A command whose process does not outlive the thread that starts it, however that ends: where
/// `setpriv` (of util-linux) is there, the kernel kills it then.
///
/// A handler of signals would not run when we are killed, and a process that watches us could be
/// killed too.
pub(crate) fn tied(program: impl AsRef<OsStr>) -> Command {
    tied_by("KILL", program)
}

/// As [`tied`], by a signal that lets it end what it has started.
pub(crate) fn tied_by(signal: &str, program: impl AsRef<OsStr>) -> Command {
    let Some(setpriv) = workspace::find("setpriv") else {
        return Command::new(program);
    };
    let mut command = Command::new(setpriv);
    command.args(["--pdeathsig", signal, "--"]).arg(program);
    command
}

/// Waits for the end of `child`; `None` if it still runs after `limit`.
pub(crate) fn wait(child: &mut Child, limit: Duration) -> io::Result<Option<ExitStatus>> {
    let deadline = Instant::now() + limit;
    loop {
        if let Some(status) = child.try_wait()? {
            return Ok(Some(status));
        }
        if Instant::now() >= deadline {
            return Ok(None);
        }
        thread::sleep(Duration::from_millis(20));
    }
}

/// Asks `child` to end, as a service manager would.
pub(crate) fn terminate(child: &Child) -> Result<()> {
    kill(pid(child.id())?, Signal::SIGTERM).context("cannot send SIGTERM")
}

/// Kills `child` and all that it has started, and reaps it.
///
/// The commands stay in our process group, so that an interrupt from the terminal reaches them;
/// that is why the descendants are looked up instead of killing a group.
pub(crate) fn kill_tree(child: &mut Child) -> Result<()> {
    let descendants = descendants(child.id());
    child.kill()?;
    for id in descendants {
        // It may have ended meanwhile, which is just as well.
        let _ = kill(pid(id)?, Signal::SIGKILL);
    }
    child.wait()?;
    Ok(())
}

/// Kills the process group that `child` leads, reaps it, and waits until no other of them lives.
///
/// For programs that fork all the time: what [`kill_tree`] has not seen yet would stay, but nothing
/// is forked past a signal to the whole group.
pub(crate) fn kill_group(child: &mut Child) -> Result<()> {
    match killpg(pid(child.id())?, Signal::SIGKILL) {
        Ok(()) | Err(Errno::ESRCH) => {}
        Err(error) => return Err(error).context("cannot kill a process group"),
    }
    child.wait()?;
    let deadline = Instant::now() + GROUP_LIMIT;
    while living().iter().any(|it| it.group == child.id()) {
        if Instant::now() >= deadline {
            bail!("processes of the group {} do not end", child.id());
        }
        thread::sleep(Duration::from_millis(10));
    }
    Ok(())
}

const GROUP_LIMIT: Duration = Duration::from_secs(10);

/// The living processes below `ancestor`, nearest first.
pub(crate) fn descendants(ancestor: u32) -> Vec<u32> {
    let all = living();
    let mut found = vec![ancestor];
    let mut next = 0;
    while let Some(&parent) = found.get(next) {
        found.extend(all.iter().filter(|it| it.parent == parent).map(|it| it.id));
        next += 1;
    }
    found.remove(0);
    found
}

/// Whether the process still runs (one that only waits to be reaped does not).
pub(crate) fn is_alive(id: u32) -> bool {
    living().iter().any(|it| it.id == id)
}

#[derive(Debug, PartialEq, Eq)]
struct Process {
    id: u32,
    parent: u32,
    group: u32,
}

/// All processes without those that only wait to be reaped.
fn living() -> Vec<Process> {
    let Ok(entries) = fs::read_dir("/proc") else {
        return Vec::new();
    };
    entries
        .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok())
        .filter_map(|id: u32| {
            let stat = fs::read_to_string(format!("/proc/{id}/stat")).ok()?;
            process_in(id, &stat)
        })
        .collect()
}

/// What a line of `/proc/PID/stat` says, `None` for a zombie. The command's name stands in
/// parentheses and may hold anything, parentheses too.
fn process_in(id: u32, stat: &str) -> Option<Process> {
    let mut fields = stat.rsplit_once(')')?.1.split_ascii_whitespace();
    let state = fields.next()?;
    if matches!(state, "Z" | "X") {
        return None;
    }
    Some(Process {
        id,
        parent: fields.next()?.parse().ok()?,
        group: fields.next()?.parse().ok()?,
    })
}

fn pid(id: u32) -> Result<Pid> {
    Ok(Pid::from_raw(i32::try_from(id)?))
}

#[cfg(test)]
mod tests {
    use std::os::unix::process::CommandExt as _;

    use super::*;

    #[test]
    fn parent_and_group_are_found_behind_a_name_with_parentheses() {
        let process = Process {
            id: 42,
            parent: 7,
            group: 41,
        };
        assert_eq!(process_in(42, "42 (a) b (c)) S 7 41 40"), Some(process));
    }

    #[test]
    fn zombie_does_not_count_as_living() {
        assert_eq!(process_in(42, "42 (sh) Z 7 42 42"), None);
    }

    #[test]
    fn killed_group_leaves_nobody_though_it_goes_on_to_fork() {
        let mut command = Command::new("sh");
        command
            .args(["-c", "echo; for i in $(seq 200); do sleep 600 & done; wait"])
            .stdout(Stdio::piped())
            .process_group(0);
        let mut child = command.spawn().unwrap();
        let mut stdout = child.stdout.take().unwrap();
        io::Read::read_exact(&mut stdout, &mut [0]).unwrap();
        kill_group(&mut child).unwrap();
        assert!(living().iter().all(|it| it.group != child.id()));
    }

    #[test]
    fn tied_command_ends_with_whoever_started_it() {
        if workspace::find("setpriv").is_none() {
            return;
        }
        let mut command = tied("sleep");
        command.arg("600");
        // A shell stands for us: it starts the command, says which process that is, and is killed.
        let mut starter = Command::new("sh")
            .args(["-c", "\"$@\" & echo $!; wait", "sh"])
            .arg(command.get_program())
            .args(command.get_args())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut line = String::new();
        let stdout = starter.stdout.take().unwrap();
        io::BufRead::read_line(&mut io::BufReader::new(stdout), &mut line).unwrap();
        let id = line.trim().parse().unwrap();
        let name = format!("/proc/{id}/comm");
        while fs::read_to_string(&name).unwrap() != "sleep\n" {
            thread::yield_now();
        }
        starter.kill().unwrap();
        starter.wait().unwrap();
        while is_alive(id) {
            thread::yield_now();
        }
    }

    #[test]
    fn command_over_its_limit_is_killed_with_its_children() {
        let mut command = Command::new("sh");
        command
            .args(["-c", "sleep 600 & echo $!; wait"])
            .stdout(Stdio::piped());
        let mut child = command.spawn().unwrap();
        let mut line = String::new();
        let stdout = child.stdout.take().unwrap();
        io::BufRead::read_line(&mut io::BufReader::new(stdout), &mut line).unwrap();
        let grandchild = line.trim().parse().unwrap();
        assert_eq!(descendants(child.id()), [grandchild]);
        assert_eq!(wait(&mut child, Duration::from_millis(1)).unwrap(), None);
        kill_tree(&mut child).unwrap();
        while is_alive(grandchild) {
            thread::yield_now();
        }
    }
}

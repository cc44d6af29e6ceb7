//! What of a figure is the scheduler's: a group in which nice values hold, and the same processes
//! without any server.

use std::fs;
use std::io::{self, Read as _, Write as _};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, anyhow, ensure};
use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;
use rustix::process::setpriority_process;

/// A control group of the CPU for this process and whatever it starts, until it is dropped.
///
/// Services and containers have one. Outside of it the kernel may group processes by session
/// (sched(7), autogroup): then nice values say nothing between the server, its callbacks and the
/// clients here, and what a client waits for is not the server.
#[derive(Debug)]
pub(crate) struct CpuGroup {
    parent: PathBuf,
    group: PathBuf,
}

impl CpuGroup {
    /// Makes one and enters it.
    ///
    /// # Errors
    ///
    /// What is not permitted here.
    pub(crate) fn enter() -> Result<Self> {
        let own = fs::read_to_string("/proc/self/cgroup")?;
        let mounts = fs::read_to_string("/proc/mounts")?;
        let parent = parent_in(&own, &mounts).context("there is no controller of the CPU")?;
        let group = parent.join(format!("ws-chaos-{}", std::process::id()));
        fs::create_dir(&group).with_context(|| format!("cannot make {}", group.display()))?;
        let entered = Self { parent, group };
        // In version 2 the controller may not be handed down to here.
        let shares = ["cpu.shares", "cpu.weight"].map(|name| entered.group.join(name));
        ensure!(
            shares.iter().any(|path| path.exists()),
            "the controller of the CPU is not enabled in {}",
            entered.parent.display()
        );
        enter(&entered.group).with_context(|| format!("{}", entered.group.display()))?;
        Ok(entered)
    }
}

impl Drop for CpuGroup {
    fn drop(&mut self) {
        // Whoever is left in it keeps it there.
        let _ = enter(&self.parent);
        let _ = fs::remove_dir(&self.group);
    }
}

/// Moves this process, with all its threads.
fn enter(group: &Path) -> io::Result<()> {
    fs::write(group.join("cgroup.procs"), std::process::id().to_string())
}

/// Where a group may be made that has the controller of the CPU, from `/proc/self/cgroup` and
/// `/proc/mounts`.
fn parent_in(own: &str, mounts: &str) -> Option<PathBuf> {
    let has_cpu = |options: &str| options.split(',').any(|option| option == "cpu");
    let mount = |wanted: &dyn Fn(&str, &str) -> bool| {
        let mut lines = mounts
            .lines()
            .map(|line| line.split(' ').collect::<Vec<_>>());
        let found = lines.find(|it| it.len() > 3 && wanted(it[2], it[3]))?;
        Some(PathBuf::from(found[1]))
    };
    let mut lines = own
        .lines()
        .map(|line| line.splitn(3, ':').collect::<Vec<_>>());
    let version_1 = lines.find(|it| it.len() == 3 && has_cpu(it[1]));
    let (root, path) = match version_1 {
        Some(line) => {
            let root = mount(&|kind, options| kind == "cgroup" && has_cpu(options))?;
            (root, line[2].to_owned())
        }
        None => {
            let line = own.lines().find_map(|line| line.strip_prefix("0::"))?;
            let root = mount(&|kind, _| kind == "cgroup2")?;
            // A group with processes in it hands no controller down, unless it is the first of all.
            let parent = PathBuf::from(line);
            let parent = parent.parent().unwrap_or(&parent);
            (root, parent.display().to_string())
        }
    };
    Some(root.join(path.trim_start_matches('/')))
}

/// What a callback does without a server: a process for each message, as many at a time as there
/// are clients, all of them at the same nice value.
#[derive(Clone, Copy, Debug)]
pub(crate) struct BareLoop<'a> {
    /// The script of the application, which a shell runs.
    pub(crate) script: &'a str,
    /// What makes it write for ever, and how many at a time do.
    pub(crate) flood: (&'a str, usize),
    /// How much of that is read before it is killed.
    pub(crate) max_output: u64,
    /// How many ask at a time, and how long each rests.
    pub(crate) askers: (usize, Duration),
    pub(crate) nice: i32,
}

impl BareLoop<'_> {
    /// What the answers take over `span`.
    pub(crate) fn run(&self, span: Duration) -> Result<Vec<Duration>> {
        let is_over = AtomicBool::new(false);
        thread::scope(|scope| {
            let flooding = || {
                while !is_over.load(Ordering::Relaxed) {
                    self.flood()?;
                }
                anyhow::Ok(())
            };
            let floods: Vec<_> = (0..self.flood.1).map(|_| scope.spawn(flooding)).collect();
            let asking = || {
                let mut samples = Vec::new();
                while !is_over.load(Ordering::Relaxed) {
                    let start = Instant::now();
                    self.ask()?;
                    samples.push(start.elapsed());
                    thread::sleep(self.askers.1);
                }
                anyhow::Ok(samples)
            };
            let askers: Vec<_> = (0..self.askers.0).map(|_| scope.spawn(asking)).collect();
            thread::sleep(span);
            is_over.store(true, Ordering::Relaxed);
            let panicked = |_| anyhow!("the bare loop panicked");
            for flood in floods {
                flood.join().map_err(panicked)??;
            }
            let mut samples = Vec::new();
            for asker in askers {
                samples.extend(asker.join().map_err(panicked)??);
            }
            Ok(samples)
        })
    }

    fn start(&self, message: &str) -> Result<Child> {
        let mut child = Command::new("/bin/sh")
            .args(["-c", self.script])
            .process_group(0)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()?;
        let id = rustix::process::Pid::from_child(&child);
        setpriority_process(Some(id), self.nice)?;
        let mut stdin = child.stdin.take().context("no standard input")?;
        writeln!(stdin, "{message}")?;
        Ok(child)
    }

    fn ask(&self) -> Result<()> {
        let mut child = self.start("question")?;
        let mut answer = String::new();
        let mut stdout = child.stdout.take().context("no standard output")?;
        stdout.read_to_string(&mut answer)?;
        child.wait()?;
        ensure!(answer == "question\n", "{answer:?} instead of the question");
        Ok(())
    }

    fn flood(&self) -> Result<()> {
        let mut child = self.start(self.flood.0)?;
        let stdout = child.stdout.take().context("no standard output")?;
        let mut output = Vec::new();
        stdout.take(self.max_output + 1).read_to_end(&mut output)?;
        killpg(Pid::from_raw(child.id().try_into()?), Signal::SIGKILL)?;
        child.wait()?;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn group_is_made_where_the_controller_is() {
        let mounts = "cgroup /sys/fs/cgroup/cpuset cgroup rw,cpuset 0 0\n\
                      cgroup /sys/fs/cgroup/cpu cgroup rw,cpu,cpuacct 0 0\n\
                      cgroup2 /sys/fs/cgroup/unified cgroup2 rw 0 0\n";
        let parent = |own: &str| parent_in(own, mounts);
        assert_eq!(
            parent("3:cpuset:/x\n2:cpu,cpuacct:/a/b\n0::/\n"),
            Some("/sys/fs/cgroup/cpu/a/b".into())
        );
        assert_eq!(
            parent("3:cpuset:/x\n0::/system.slice/a.service\n"),
            Some("/sys/fs/cgroup/unified/system.slice".into())
        );
        assert_eq!(parent("0::/\n"), Some("/sys/fs/cgroup/unified/".into()));
        assert_eq!(parent_in("0::/\n", ""), None);
    }
}

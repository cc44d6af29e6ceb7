//! The exec path beside a bare loop that does the same.
//!
//! The program that is run is the cheapest there is. Both give it three pipes, read its output to
//! the end and wait for it. The bare loop does so from a process of its own; the exec path with
//! everything it is for: a spawner, deadlines, the clearing away of what is left behind. What is
//! compared is CPU time, of all processes together.

use std::ffi::OsString;
use std::fs::Permissions;
use std::io::{self, Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use nix::sys::resource::UsageWho;
use tokio::task::JoinSet;
use ws_ipc::exec::{self, AnswerChannel, Exec};
use ws_ipc::{Cgroup, Confinement, Identity, Landlock, Limits, Spawners, SpawnersConfig};

use crate::Plan;
use crate::measure::{Outcome, PAYLOAD, Row, each, environment, helper, used, used_by};
use crate::program;

pub(crate) async fn compare(plan: &Plan) -> Outcome<()> {
    let (rounds, calls) = plan.size((3, 500), (9, 1500));
    let dir = tempfile::tempdir()?;
    let program = program::make_no_op(dir.path());
    for at_once in plan.at_once(&[1, 4]) {
        let what = format!("exec of a static no-op, {at_once} at once");
        let row = Row {
            what: &what,
            beside: "posix_spawn, pipes, wait",
            unit: "us of CPU",
            wanted: "at most 1.25",
        };
        let program = match &program {
            Ok(program) => program.clone(),
            Err(error) => {
                row.skip(plan, &error.to_string())?;
                continue;
            }
        };
        let (identity, confinement) = confined(&plan.confined_by, dir.path())?;
        let default = SpawnersConfig::default();
        let config = SpawnersConfig {
            count: plan.spawners.unwrap_or(default.count),
            ..default
        };
        let course = Arc::new(Course {
            spawners: Spawners::start(helper(), config)?,
            program,
            identity,
            confinement,
        });
        course.run(calls / 10, at_once).await?;
        let mut pairs = Vec::new();
        for _ in 0..rounds {
            let bare = measure_bare(&course.program, calls)?;
            pairs.push((course.measure(calls, at_once).await?, bare));
        }
        course.spawners.shutdown().await;
        row.report(plan, &pairs)?;
    }
    Ok(())
}

/// What runs programs through the spawners.
struct Course {
    spawners: Spawners,
    program: PathBuf,
    identity: Option<Identity>,
    confinement: Confinement,
}

impl Course {
    /// Microseconds of CPU time for each of so many calls.
    async fn measure(self: &Arc<Self>, calls: usize, at_once: usize) -> Outcome<f64> {
        let before = self.used()?;
        self.run(calls, at_once).await?;
        Ok(each(self.used()? - before, calls))
    }

    /// The CPU time of this process, the spawners, and what these have reaped.
    fn used(&self) -> Outcome<Duration> {
        let spawners = self.spawners.pids().into_iter().map(used_by);
        let spawners = spawners.sum::<Outcome<Duration>>()?;
        Ok(used(UsageWho::RUSAGE_SELF)? + spawners)
    }

    async fn run(self: &Arc<Self>, calls: usize, at_once: usize) -> Outcome<()> {
        let mut lanes = JoinSet::new();
        for lane in 0..at_once {
            let course = Arc::clone(self);
            let share = calls / at_once + usize::from(lane < calls % at_once);
            lanes.spawn(async move {
                for _ in 0..share {
                    course.call().await?;
                }
                Outcome::Ok(())
            });
        }
        while let Some(lane) = lanes.join_next().await {
            lane??;
        }
        Ok(())
    }

    async fn call(&self) -> Outcome<()> {
        let exec = Exec {
            argv: vec![self.program.clone().into()],
            env: variables(),
            dir: None,
            identity: self.identity,
            confinement: self.confinement.clone(),
            payload: Bytes::from_static(PAYLOAD),
            answer: AnswerChannel::Pipe,
            timeout: Duration::from_secs(30),
            max_output: 1 << 20,
        };
        exec::run(&self.spawners, exec, &mut |_| {}).await?;
        Ok(())
    }
}

fn variables() -> Vec<(OsString, OsString)> {
    environment().to_os()
}

fn measure_bare(program: &Path, calls: usize) -> Outcome<f64> {
    let output = Command::new("/proc/self/exe")
        .arg(crate::BARE_EXEC)
        .arg(program)
        .arg(calls.to_string())
        .stderr(Stdio::inherit())
        .output()?;
    Ok(String::from_utf8(output.stdout)?.trim().parse()?)
}

/// The loop beside which the exec path is held, in a process of its own.
pub(crate) fn bare(args: &[String]) -> Outcome<()> {
    let [program, calls] = args else {
        return Err("not called by hand".into());
    };
    let calls: usize = calls.parse()?;
    let env = variables();
    let used = || Outcome::Ok(used(UsageWho::RUSAGE_SELF)? + used(UsageWho::RUSAGE_CHILDREN)?);
    let before = used()?;
    for _ in 0..calls {
        let mut child = Command::new(program)
            .env_clear()
            .envs(env.iter().map(|(name, value)| (name, value)))
            .process_group(0)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()?;
        let mut output = Vec::new();
        // The program does not read it and may be gone.
        let _ = child.stdin.take().map(|mut stdin| stdin.write_all(PAYLOAD));
        for pipe in [
            child
                .stdout
                .take()
                .map(|pipe| Box::new(pipe) as Box<dyn Read>),
            child
                .stderr
                .take()
                .map(|pipe| Box::new(pipe) as Box<dyn Read>),
        ] {
            pipe.ok_or("no pipe")?.read_to_end(&mut output)?;
        }
        child.wait()?;
    }
    writeln!(io::stdout(), "{}", each(used()? - before, calls))?;
    Ok(())
}

/// Reads what the program is confined by.
fn confined(words: &[String], dir: &Path) -> Outcome<(Option<Identity>, Confinement)> {
    let mut identity = None;
    let mut confinement = Confinement::default();
    for word in words {
        match word.split_once('=').unwrap_or((word, "")) {
            ("user", _) => {
                // He has to reach the program.
                std::fs::set_permissions(dir, Permissions::from_mode(0o755))?;
                identity = Some(Identity {
                    uid: 65534,
                    gid: 65534,
                });
            }
            ("limits", _) => {
                confinement.nice = Some(1);
                confinement.umask = Some(0o027);
                confinement.limits = Limits {
                    processes: Some(10_000),
                    memory: Some(1 << 30),
                    file_size: Some(1 << 30),
                    open_files: Some(256),
                    cpu_time: Some(10),
                    core_size: Some(0),
                };
            }
            ("landlock", _) => {
                confinement.landlock = Some(Landlock {
                    read: vec!["/etc".into()],
                    execute: vec!["/usr".into(), dir.into()],
                    write: vec!["/dev/null".into()],
                });
            }
            ("cgroup", parent) => {
                confinement.cgroup = Some(Cgroup {
                    dir: parent.into(),
                    memory: None,
                    processes: None,
                });
            }
            _ => return Err(format!("{word} is nothing to be confined by").into()),
        }
    }
    Ok((identity, confinement))
}

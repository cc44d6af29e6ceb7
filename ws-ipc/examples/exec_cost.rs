//! What one run of a program costs: the exec path beside a bare loop that does the same.
//!
//! The program that is run is the cheapest there is: static, without libc, it ends at once. Both
//! give it three pipes, read its output to the end and wait for it. The bare loop does so from a
//! process of its own; the exec path with everything it is for: a spawner, deadlines, the clearing
//! away of what is left behind. What is compared is CPU time, of all processes together, in rounds
//! that alternate.
//!
//! ```sh
//! cargo run --release -p ws-ipc --example exec_cost -- [CALLS] [ROUNDS] [AT_ONCE] [SPAWNERS] [BY]...
//! ```
//!
//! `BY` is what the program is confined by, beside the defaults: `user` (65534), `limits`,
//! `landlock`, `cgroup=DIR`.

use std::error::Error;
use std::ffi::OsString;
use std::fs::Permissions;
use std::io::{self, Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use nix::sys::resource::{Usage, UsageWho, getrusage};
use tokio::task::JoinSet;
use ws_ipc::exec::{self, AnswerChannel, Exec};
use ws_ipc::{
    Cgroup, Confinement, HelperCommand, Identity, Landlock, Limits, Spawners, SpawnersConfig,
};

/// First arguments by which this program is started again.
const SPAWNER: &str = "__spawner";
const BARE: &str = "__bare";

type Outcome<T> = Result<T, Box<dyn Error + Send + Sync>>;

fn main() -> Outcome<()> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    match args.first().map(String::as_str) {
        Some(SPAWNER) => ws_ipc::spawner::main(),
        Some(BARE) => bare(&args[1..]),
        _ => compare(&args),
    }
}

fn compare(args: &[String]) -> Outcome<()> {
    let number =
        |index: usize, default: usize| args.get(index).map_or(Ok(default), |it| it.parse());
    let (calls, rounds, at_once) = (number(0, 2000)?, number(1, 9)?, number(2, 1)?);
    let count = number(3, SpawnersConfig::default().count)?;
    let dir = tempfile::tempdir()?;
    let program = no_op(dir.path())?;
    let (identity, confinement) = confined(args.get(4..).unwrap_or_default(), dir.path())?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    let mut pairs = runtime.block_on(async {
        let helper = HelperCommand {
            program: "/proc/self/exe".into(),
            args: vec![SPAWNER.into()],
        };
        let config = SpawnersConfig {
            count,
            ..SpawnersConfig::default()
        };
        let spawners = Spawners::start(helper, config)?;
        let course = Arc::new(Course {
            spawners,
            program,
            identity,
            confinement,
        });
        course.run(calls / 10, at_once).await?;
        let mut pairs = Vec::new();
        for _ in 0..rounds {
            let begun = Instant::now();
            let bare = measure_bare(&course.program, calls)?;
            let between = Instant::now();
            let exec = course.measure(calls, at_once).await?;
            let per_second = |time: Duration| calls as f64 / time.as_secs_f64();
            pairs.push(Pair {
                bare,
                exec,
                bare_rate: per_second(between - begun),
                exec_rate: per_second(between.elapsed()),
            });
        }
        course.spawners.shutdown().await;
        Outcome::Ok(pairs)
    })?;
    report(&mut pairs)
}

/// One round: microseconds of CPU time for each call, and calls in a second.
struct Pair {
    bare: f64,
    exec: f64,
    bare_rate: f64,
    exec_rate: f64,
}

fn report(pairs: &mut [Pair]) -> Outcome<()> {
    let mut out = io::stdout().lock();
    let mut median = |value: fn(&Pair) -> f64| {
        pairs.sort_by(|one, other| value(one).total_cmp(&value(other)));
        value(&pairs[pairs.len() / 2])
    };
    let ratio = median(|pair| pair.exec / pair.bare);
    writeln!(out, "bare {:.1} us", median(|pair| pair.bare))?;
    writeln!(out, "exec {:.1} us", median(|pair| pair.exec))?;
    writeln!(out, "ratio {ratio:.3}")?;
    writeln!(out, "bare {:.0} a second", median(|pair| pair.bare_rate))?;
    writeln!(out, "exec {:.0} a second", median(|pair| pair.exec_rate))?;
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
        Ok((self.used()? - before).as_secs_f64() * 1e6 / calls as f64)
    }

    /// The CPU time of this process, the spawners, and what these have reaped.
    fn used(&self) -> Outcome<Duration> {
        let mut used = time_of(&getrusage(UsageWho::RUSAGE_SELF)?);
        for pid in self.spawners.pids() {
            let stat = std::fs::read_to_string(format!("/proc/{pid}/stat"))?;
            let after_name = stat.rsplit_once(") ").ok_or("no name in stat")?.1;
            // proc(5): utime, stime, cutime and cstime are the fields 14 to 17, the state is 3.
            let fields = after_name.split(' ').skip(11).take(4);
            for ticks in fields {
                used += Duration::from_millis(10) * ticks.parse::<u32>()?;
            }
        }
        Ok(used)
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
            env: environment(),
            dir: None,
            identity: self.identity,
            confinement: self.confinement.clone(),
            payload: Bytes::from_static(b"hello"),
            answer: AnswerChannel::Pipe,
            timeout: Duration::from_secs(30),
            max_output: 1 << 20,
        };
        exec::run(&self.spawners, exec, &mut |_| {}).await?;
        Ok(())
    }
}

fn measure_bare(program: &Path, calls: usize) -> Outcome<f64> {
    let output = Command::new("/proc/self/exe")
        .arg(BARE)
        .arg(program)
        .arg(calls.to_string())
        .stderr(Stdio::inherit())
        .output()?;
    Ok(String::from_utf8(output.stdout)?.trim().parse()?)
}

/// The loop beside which the exec path is held, in a process of its own.
fn bare(args: &[String]) -> Outcome<()> {
    let [program, calls] = args else {
        return Err("not called by hand".into());
    };
    let calls: usize = calls.parse()?;
    let env = environment();
    let used = || -> Outcome<Duration> {
        let own = time_of(&getrusage(UsageWho::RUSAGE_SELF)?);
        Ok(own + time_of(&getrusage(UsageWho::RUSAGE_CHILDREN)?))
    };
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
        let _ = child
            .stdin
            .take()
            .map(|mut stdin| stdin.write_all(b"hello"));
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
    let each = (used()? - before).as_secs_f64() * 1e6 / calls as f64;
    writeln!(io::stdout(), "{each}")?;
    Ok(())
}

/// What a callback gets, about as many variables as it has.
fn environment() -> Vec<(OsString, OsString)> {
    let variables = (0..30).map(|n| (format!("VARIABLE_{n}").into(), "some value".into()));
    variables
        .chain([("PATH".into(), "/usr/local/bin:/usr/bin:/bin".into())])
        .collect()
}

fn time_of(usage: &Usage) -> Duration {
    let micros = [usage.user_time(), usage.system_time()].map(|time| {
        Duration::from_secs(time.tv_sec().unsigned_abs())
            + Duration::from_micros(time.tv_usec().unsigned_abs())
    });
    micros[0] + micros[1]
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

/// Builds a program that ends at once.
fn no_op(dir: &Path) -> Outcome<PathBuf> {
    let exit = match std::env::consts::ARCH {
        "x86_64" => "mov $231, %eax; xor %edi, %edi; syscall",
        "aarch64" => "mov x8, #94; mov x0, #0; svc #0",
        other => return Err(format!("unknown architecture {other}").into()),
    };
    let source = dir.join("no_op.s");
    std::fs::write(&source, format!(".globl _start\n_start: {exit}\n"))?;
    let program = dir.join("no_op");
    let status = Command::new("cc")
        .args(["-nostdlib", "-static", "-Wl,--build-id=none", "-o"])
        .args([&program, &source])
        .status()?;
    if !status.success() {
        return Err(format!("cc: {status}").into());
    }
    Ok(program)
}

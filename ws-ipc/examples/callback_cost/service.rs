//! Fork servers and workers: beside a bare fork, and beside a process that sends bytes back.

use std::ffi::OsString;
use std::io::{self, Read, Write};
use std::iter;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use bytes::Bytes;
use nix::sys::resource::UsageWho;
use ws_ipc::forkserver::{self, Answer, Request};
use ws_ipc::{
    Confinement, Environment, Pool, PoolConfig, PoolKind, Recycling, ServiceCommand, Spawners,
    SpawnersConfig, cgi, scgi,
};

use crate::Plan;
use crate::measure::{
    Outcome, PAYLOAD, Pair, Row, each, environment, helper, p50, status_kib, used, used_by,
};
use crate::program;

/// Between two requests that are to find what has been prepared for them.
const LOAD_TIMEOUT: Duration = Duration::from_secs(60);
const PACE: Duration = Duration::from_millis(5);

/// A fork server whose children answer with what they are sent.
pub(crate) fn fork_server() -> Outcome<()> {
    Ok(forkserver::run(answer)?)
}

/// A worker that does the same.
pub(crate) fn worker() -> Outcome<()> {
    Ok(ws_ipc::worker::run(answer)?)
}

fn answer(request: &Request) -> Answer {
    Answer::binary(request.body())
}

/// Sends what is an answer's size for each request that it reads, over the socket that it was given.
pub(crate) fn echo() -> Outcome<()> {
    let mut stream = UnixStream::from(io::stdin().as_fd().try_clone_to_owned()?);
    let answer = encoded_answer()?;
    let mut buffer = [0; 16 * 1024];
    while stream.read(&mut buffer)? > 0 {
        stream.write_all(&answer)?;
    }
    Ok(())
}

pub(crate) async fn compare_fork(plan: &Plan) -> Outcome<()> {
    let (rounds, calls) = plan.size((3, 400), (9, 1500));
    let cost = Row {
        what: "fork of a Rust closure",
        beside: "socketpair, fork, wait",
        unit: "us of CPU",
        wanted: "at most 1.25",
    };
    let paced = Row {
        what: "fork of a Rust closure, spare ready, p50",
        beside: "a process sends bytes back",
        unit: "us",
        wanted: "less than 100 us",
    };
    let linked_statically = Row {
        what: "fork of a Rust closure, linked statically",
        ..cost
    };
    let least = Row {
        what: "fork in C with all that a child is owed",
        wanted: "",
        ..cost
    };
    let course = Course::start_fork_server(&own(crate::FORK_SERVER)?).await?;
    course.call_often(calls / 10).await?;
    let size = status_kib(course.pid()?, "RssAnon:")?.to_string();
    match make_bare(course.dir.path()) {
        Ok([bare, least_fork]) => {
            let least_argv = [
                least_fork.into(),
                size.into(),
                PAYLOAD.len().to_string().into(),
            ];
            let mut others = vec![(least, Course::start_fork_server(&least_argv).await?)];
            match linked_statically_argv(plan) {
                Ok(argv) => {
                    others.push((linked_statically, Course::start_fork_server(&argv).await?));
                }
                Err(reason) => linked_statically.skip(plan, &reason)?,
            }
            for (_, other) in &others {
                other.call_often(calls / 10).await?;
            }
            let mut pairs = vec![Vec::new(); others.len() + 1];
            for _ in 0..rounds {
                let bare = measure_bare(&bare, calls, course.pid()?)?;
                let courses = iter::once(&course).chain(others.iter().map(|(_, other)| other));
                for (course, pairs) in courses.zip(&mut pairs) {
                    pairs.push((course.cpu_time(calls).await?, bare));
                }
            }
            cost.report(plan, &pairs[0])?;
            for ((row, other), pairs) in others.into_iter().zip(&pairs[1..]) {
                row.report(plan, pairs)?;
                other.end().await;
            }
        }
        Err(error) => {
            for row in [cost, linked_statically, least] {
                row.skip(plan, &error.to_string())?;
            }
        }
    }
    let pairs = compare_times(&course, rounds.min(5), calls / 4, Some(PACE)).await?;
    paced.report(plan, &pairs)?;
    course.end().await;
    Ok(())
}

pub(crate) async fn compare_worker(plan: &Plan) -> Outcome<()> {
    let (rounds, calls) = plan.size((5, 2000), (15, 5000));
    let row = Row {
        what: "worker, p50",
        beside: "a process sends bytes back",
        unit: "us",
        wanted: "at most 2",
    };
    let course = Course::start(PoolKind::Workers, &own(crate::WORKER)?).await?;
    course.call_often(calls / 10).await?;
    row.report(plan, &compare_times(&course, rounds, calls, None).await?)?;
    let mut echo = Echo::start()?;
    let mut pairs = Vec::new();
    for _ in 0..rounds {
        let ours = course.cpu_time(calls).await?;
        pairs.push((ours, echo.cpu_time(calls)?));
    }
    let row = Row {
        what: "worker",
        unit: "us of CPU",
        wanted: "",
        ..row
    };
    row.report(plan, &pairs)?;
    course.end().await;
    Ok(())
}

/// The median times of a call and of an exchange with the process that sends bytes back.
async fn compare_times(
    course: &Course,
    rounds: usize,
    calls: usize,
    pace: Option<Duration>,
) -> Outcome<Vec<Pair>> {
    let mut echo = Echo::start()?;
    let mut pairs = Vec::new();
    for _ in 0..rounds {
        let mut ours = Vec::with_capacity(calls);
        for _ in 0..calls {
            if let Some(pace) = pace {
                tokio::time::sleep(pace).await;
            }
            let begun = Instant::now();
            course.call().await?;
            ours.push(begun.elapsed());
        }
        let mut bare = Vec::with_capacity(calls);
        for _ in 0..calls {
            if let Some(pace) = pace {
                std::thread::sleep(pace);
            }
            let begun = Instant::now();
            echo.exchange()?;
            bare.push(begun.elapsed());
        }
        pairs.push((p50(&ours), p50(&bare)));
    }
    Ok(pairs)
}

/// The fork server of the program that was named for it.
fn linked_statically_argv(plan: &Plan) -> Result<[OsString; 2], String> {
    let program = plan.linked_statically.as_ref();
    let program = program.ok_or("none was named by --static")?;
    if !program.is_file() {
        return Err(format!("{}: no such file", program.display()));
    }
    Ok([program.into(), crate::FORK_SERVER.into()])
}

/// This program once more, as this.
fn own(argument: &str) -> Outcome<[OsString; 2]> {
    Ok([std::env::current_exe()?.into(), argument.into()])
}

/// A pool of one process.
struct Course {
    spawners: Spawners,
    pool: Pool,
    env: Environment,
    payload: Bytes,
    dir: tempfile::TempDir,
}

impl Course {
    async fn start_fork_server(argv: &[OsString]) -> Outcome<Self> {
        Self::start(PoolKind::ForkServers, argv).await
    }

    async fn start(kind: PoolKind, argv: &[OsString]) -> Outcome<Self> {
        let dir = tempfile::tempdir()?;
        let spawners = Spawners::start(helper(), SpawnersConfig::default())?;
        let config = PoolConfig {
            command: ServiceCommand {
                argv: argv.to_vec(),
                env: match kind {
                    PoolKind::ForkServers => forkserver::ENVIRONMENT,
                    PoolKind::Workers => &[],
                }
                .iter()
                .map(|(name, value)| (name.into(), value.into()))
                .collect(),
                dir: None,
                identity: None,
                confinement: Confinement::default(),
            },
            processes: std::num::NonZeroUsize::MIN,
            kind,
            ahead: 2,
            recycling: Recycling::default(),
            load_timeout: LOAD_TIMEOUT,
            probation: Duration::ZERO,
            dir: dir.path().to_owned(),
            name: "measured".to_owned(),
        };
        let pool = Pool::start(&spawners, config).await?;
        Ok(Self {
            spawners,
            pool,
            env: environment(),
            payload: Bytes::from_static(PAYLOAD),
            dir,
        })
    }

    fn pid(&self) -> Outcome<i32> {
        let pids = self.pool.pids();
        Ok(*pids.first().ok_or("the process does not run")?)
    }

    async fn call(&self) -> Outcome<()> {
        let limit = Duration::from_secs(30);
        let answer = self.pool.call(&self.env, &self.payload, limit, 1 << 20);
        answer.await?;
        Ok(())
    }

    async fn call_often(&self, calls: usize) -> Outcome<()> {
        for _ in 0..calls {
            self.call().await?;
        }
        Ok(())
    }

    /// Microseconds of CPU time for each of so many calls, of this process and the other.
    async fn cpu_time(&self, calls: usize) -> Outcome<f64> {
        let pid = self.pid()?;
        let used = || Outcome::Ok(used(UsageWho::RUSAGE_SELF)? + used_by(pid)?);
        let before = used()?;
        self.call_often(calls).await?;
        Ok(each(used()? - before, calls))
    }

    async fn end(self) {
        self.pool.shutdown().await;
        self.spawners.shutdown().await;
    }
}

/// The loop and the fork server in C.
fn make_bare(dir: &Path) -> Outcome<[PathBuf; 2]> {
    let make = |name: &str, text: &str| {
        let file = dir.join(name);
        let source = file.with_extension("c");
        std::fs::write(&source, text)?;
        // Bound at the start, as programs in Rust are, and not in each child anew.
        program::compile(&source, &file, &["-O2", "-Wl,-z,now"])?;
        Outcome::Ok(file)
    };
    let bare = make("bare_fork", include_str!("bare_fork.c"))?;
    Ok([bare, make("least_fork", include_str!("least_fork.c"))?])
}

/// Microseconds of CPU time for each of so many bare calls from a process of the same size.
fn measure_bare(bare: &Path, calls: usize, like: i32) -> Outcome<f64> {
    let sizes = [
        calls,
        status_kib(like, "RssAnon:")?,
        encoded_request().len(),
        encoded_answer()?.len(),
    ];
    let mut command = Command::new(bare);
    command.args(sizes.map(|size| size.to_string()));
    let output = command.stderr(Stdio::inherit()).output()?;
    if !output.status.success() {
        return Err(format!("bare_fork: {}", output.status).into());
    }
    Ok(String::from_utf8(output.stdout)?.trim().parse()?)
}

/// This program once more, which sends bytes back over a socketpair.
struct Echo {
    process: Child,
    stream: UnixStream,
    request: Vec<u8>,
    answer: Vec<u8>,
}

impl Echo {
    fn start() -> Outcome<Self> {
        let (stream, theirs) = UnixStream::pair()?;
        let process = Command::new(std::env::current_exe()?)
            .arg(crate::ECHO)
            .stdin(OwnedFd::from(theirs))
            .spawn()?;
        Ok(Self {
            process,
            stream,
            request: encoded_request(),
            answer: encoded_answer()?,
        })
    }

    fn exchange(&mut self) -> io::Result<()> {
        self.stream.write_all(&self.request)?;
        self.stream.read_exact(&mut self.answer)
    }

    fn cpu_time(&mut self, calls: usize) -> Outcome<f64> {
        let pid = self.process.id().cast_signed();
        let used = || Outcome::Ok(used(UsageWho::RUSAGE_SELF)? + used_by(pid)?);
        let before = used()?;
        for _ in 0..calls {
            self.exchange()?;
        }
        Ok(each(used()? - before, calls))
    }
}

impl Drop for Echo {
    fn drop(&mut self) {
        // It ends when nobody can ask it any more.
        let _ = self.stream.shutdown(std::net::Shutdown::Both);
        let _ = self.process.wait();
    }
}

/// What a request of ours is on its way.
fn encoded_request() -> Vec<u8> {
    let mut request = scgi::encode_request(&environment(), PAYLOAD.len());
    request.extend_from_slice(PAYLOAD);
    request
}

/// What the answer to it is.
fn encoded_answer() -> Outcome<Vec<u8>> {
    let headers = [("X-WS-Type", "binary")];
    Ok(cgi::encode_answer(200, &headers, PAYLOAD)?)
}

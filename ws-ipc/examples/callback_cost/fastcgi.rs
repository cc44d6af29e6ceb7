//! The FastCGI client beside a bare loop that does the same with ready-made bytes.
//!
//! Both ask a php-fpm of their own for a script whose answer is short and the same each time.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use bytes::Bytes;
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;
use tokio::task::JoinSet;
use ws_ipc::fastcgi::{self, FastCgi, FastCgiConfig};
use ws_ipc::{Address, Environment};

use crate::Plan;
use crate::measure::{Outcome, PAYLOAD, Row, environment, p50};

/// Connections of ours and of the loop, and as many to spare.
const PROCESSES: usize = 16;

pub(crate) async fn compare(plan: &Plan) -> Outcome<()> {
    let (rounds, requests) = plan.size((5, 1000), (9, 4000));
    let fpm = match program() {
        Some(program) => Some(PhpFpm::start(&program).await?),
        None => None,
    };
    for connections in plan.at_once(&[1, 4]) {
        let rate = format!("fastcgi to php-fpm, {connections} at once");
        let rate = Row {
            what: &rate,
            beside: "bare FastCGI loop",
            unit: "requests/s",
            wanted: "at least 0.9",
        };
        let time = format!("fastcgi to php-fpm, {connections} at once, p50");
        let time = Row {
            what: &time,
            unit: "us",
            wanted: "less than 100 us more",
            ..rate
        };
        let Some(fpm) = &fpm else {
            rate.skip(plan, "there is no php-fpm")?;
            time.skip(plan, "there is no php-fpm")?;
            continue;
        };
        let (mut rates, mut times) = (Vec::new(), Vec::new());
        for _ in 0..rounds {
            let ours = fpm.measure_ours(connections, requests).await?;
            let bare = fpm.measure_bare(connections, requests).await?;
            rates.push((ours.0, bare.0));
            times.push((ours.1, bare.1));
        }
        rate.report(plan, &rates)?;
        time.report(plan, &times)?;
    }
    Ok(())
}

/// Debian's has its version in its name, others do not.
fn program() -> Option<PathBuf> {
    let folders = ["/usr/sbin", "/usr/local/sbin", "/usr/bin", "/usr/local/bin"];
    let files = folders.iter().filter_map(|it| std::fs::read_dir(it).ok());
    let paths = files.flatten().filter_map(|entry| Some(entry.ok()?.path()));
    let is_php_fpm = |path: &PathBuf| {
        let name = path.file_name().and_then(|name| name.to_str());
        let version = name.and_then(|name| name.strip_prefix("php-fpm"));
        version.is_some_and(|version| version.bytes().all(|byte| !byte.is_ascii_alphabetic()))
    };
    paths.filter(is_php_fpm).max()
}

/// A php-fpm that ends with this.
struct PhpFpm {
    process: Child,
    dir: TempDir,
    env: Environment,
}

impl PhpFpm {
    async fn start(program: &Path) -> Outcome<Self> {
        let dir = tempfile::tempdir()?;
        let at = dir.path().display();
        let user = match nix::unistd::geteuid().is_root() {
            true => "user = root",
            false => "",
        };
        let configuration = format!(
            "[global]\n\
             error_log = {at}/log\n\
             daemonize = no\n\
             [measured]\n\
             {user}\n\
             listen = {at}/fpm.sock\n\
             pm = static\n\
             pm.max_children = {PROCESSES}\n"
        );
        std::fs::write(dir.path().join("fpm.conf"), configuration)?;
        let script = dir.path().join("script.php");
        std::fs::write(&script, "<?php echo 'hello';")?;
        let mut env = environment();
        env.set("GATEWAY_INTERFACE", "CGI/1.1")?;
        env.set("REQUEST_METHOD", "POST")?;
        env.set(
            "SCRIPT_FILENAME",
            script.to_str().ok_or("TMPDIR is no text")?,
        )?;
        let process = Command::new(program)
            .args(["-n", "-F", "-R", "-y"])
            .arg(dir.path().join("fpm.conf"))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()?;
        let fpm = Self { process, dir, env };
        let begun = Instant::now();
        while UnixStream::connect(fpm.socket()).await.is_err() {
            if begun.elapsed() > Duration::from_secs(10) {
                return Err("php-fpm does not listen".into());
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        Ok(fpm)
    }

    fn socket(&self) -> PathBuf {
        self.dir.path().join("fpm.sock")
    }

    /// Requests a second, and the median time of one.
    async fn measure_ours(&self, connections: usize, requests: usize) -> Outcome<(f64, f64)> {
        let config = FastCgiConfig {
            max_idle: connections,
            ..FastCgiConfig::default()
        };
        let server = FastCgi::new(Address::unix(self.socket()), config);
        let mut tasks = JoinSet::new();
        let begun = Instant::now();
        for _ in 0..connections {
            tasks.spawn(ask(
                server.clone(),
                self.env.clone(),
                requests / connections,
            ));
        }
        collect(begun, tasks).await
    }

    async fn measure_bare(&self, connections: usize, requests: usize) -> Outcome<(f64, f64)> {
        let mut tasks = JoinSet::new();
        let begun = Instant::now();
        for _ in 0..connections {
            let asked = ask_barely(self.socket(), self.env.clone(), requests / connections);
            tasks.spawn(asked);
        }
        collect(begun, tasks).await
    }
}

impl Drop for PhpFpm {
    fn drop(&mut self) {
        // It ends its processes when it is asked to, and not when it is killed.
        let pid = nix::unistd::Pid::from_raw(self.process.id().cast_signed());
        let _ = nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGTERM);
        let _ = self.process.wait();
    }
}

async fn collect(
    begun: Instant,
    mut tasks: JoinSet<Outcome<Vec<Duration>>>,
) -> Outcome<(f64, f64)> {
    let mut times = Vec::new();
    while let Some(done) = tasks.join_next().await {
        times.extend(done??);
    }
    let rate = times.len() as f64 / begun.elapsed().as_secs_f64();
    Ok((rate, p50(&times)))
}

async fn ask(server: FastCgi, env: Environment, count: usize) -> Outcome<Vec<Duration>> {
    let payload = Bytes::from_static(PAYLOAD);
    let mut times = Vec::with_capacity(count);
    for _ in 0..count {
        let begun = Instant::now();
        let limit = Duration::from_secs(10);
        server
            .call(&env, &payload, limit, 1 << 20, &mut |_| {})
            .await?;
        times.push(begun.elapsed());
    }
    Ok(times)
}

async fn ask_barely(socket: PathBuf, env: Environment, count: usize) -> Outcome<Vec<Duration>> {
    let mut request = Vec::new();
    fastcgi::encode_request(&mut request, 1, true, &env, PAYLOAD);
    let mut stream = UnixStream::connect(socket).await?;
    let mut buffer = vec![0; 32 * 1024];
    let mut times = Vec::with_capacity(count);
    for _ in 0..count {
        let begun = Instant::now();
        stream.write_all(&request).await?;
        // A short response comes at once and ends with FCGI_END_REQUEST.
        let len = stream.read(&mut buffer).await?;
        if len < 16 || buffer[len - 15] != 3 {
            return Err("the response did not come at once".into());
        }
        times.push(begun.elapsed());
    }
    Ok(times)
}

//! Who serves the site, and how each is started.

use std::fmt;
use std::fs::{self, File};
use std::net::{Ipv4Addr, TcpStream};
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};
use std::{iter, thread};

use anyhow::{Context as _, Result, bail, ensure};
use nix::unistd::geteuid;
use tempfile::TempDir;

use super::site::{CarbonPhp, Size, age};
use crate::bench::free_port;
use crate::server::{Launch, Server, tail};
use crate::{process, workspace};

const START_LIMIT: Duration = Duration::from_secs(20);

/// Of a log, what an error tells.
const LOG_LINES: usize = 5;

/// Processes of php-fpm's.
const WORKERS: u32 = 3;

/// A server of a CarbonPHP application. Each writes to its standard error what it writes for a user;
/// it goes to a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Contestant {
    /// `php index.php websocket`.
    Original,
    /// `ws serve --carbonphp index.php`.
    Bridge,
    /// The same with php-fpm.
    PhpFpm,
}

impl Contestant {
    pub(super) const ALL: [Self; 3] = [Self::Original, Self::Bridge, Self::PhpFpm];

    /// Starts it with a site of its own, and waits until it takes connections.
    pub(super) fn start(self, carbonphp: &CarbonPhp, size: Size) -> Result<Running> {
        let folder = tempfile::Builder::new().prefix("ws-bench-").tempdir()?;
        let running = match self {
            Self::Original => Running::original(carbonphp, size, folder),
            Self::Bridge => Running::bridge(carbonphp, size, folder),
            Self::PhpFpm => Running::php_fpm(carbonphp, size, folder),
        };
        running.with_context(|| format!("cannot start {self}"))
    }
}

impl fmt::Display for Contestant {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Original => "php index.php websocket",
            Self::Bridge => "ws serve --carbonphp",
            Self::PhpFpm => "ws with php-fpm",
        })
    }
}

/// A server that runs. Dropping it kills it, and what it has started.
#[derive(Debug)]
pub(super) struct Running {
    address: String,
    program: Program,
}

#[derive(Debug)]
enum Program {
    Original {
        group: Group,
        folder: TempDir,
    },
    Ours {
        server: Server,
        php_fpm: Option<PhpFpm>,
    },
}

impl Running {
    fn original(carbonphp: &CarbonPhp, size: Size, folder: TempDir) -> Result<Self> {
        let port = free_port()?;
        carbonphp.make_site_of_original(size, folder.path(), port)?;
        age(folder.path())?;
        let mut command = process::tied(carbonphp.php());
        command
            .args(["index.php", "websocket"])
            .current_dir(folder.path())
            .stdout(Stdio::null())
            .stderr(File::create(folder.path().join("log"))?);
        let mut group = Group::start(&mut command)?;
        let is_up = || TcpStream::connect((Ipv4Addr::LOCALHOST, port)).is_ok();
        if let Err(error) = group.wait_until(is_up) {
            bail!("{error}: {}", log_in(&folder));
        }
        Ok(Self {
            address: format!("127.0.0.1:{port}"),
            program: Program::Original { group, folder },
        })
    }

    fn bridge(carbonphp: &CarbonPhp, size: Size, folder: TempDir) -> Result<Self> {
        carbonphp.make_site(size, folder.path())?;
        Self::ours(&["--carbonphp", "index.php"], "", folder, None)
    }

    fn php_fpm(carbonphp: &CarbonPhp, size: Size, folder: TempDir) -> Result<Self> {
        carbonphp.make_site(size, folder.path())?;
        let php_fpm = PhpFpm::start(folder.path())?;
        let configuration = php_fpm.configuration();
        Self::ours(&[], &configuration, folder, Some(php_fpm))
    }

    fn ours(
        arguments: &[&str],
        configuration: &str,
        folder: TempDir,
        php_fpm: Option<PhpFpm>,
    ) -> Result<Self> {
        fs::write(folder.path().join("ws.toml"), configuration)?;
        age(folder.path())?;
        let ws = workspace::target().join("release/ws");
        let launch = Launch {
            arguments,
            ..Launch::default()
        };
        let server = Server::launch_with(&ws, &launch, folder)?;
        Ok(Self {
            address: server.address().to_owned(),
            program: Program::Ours { server, php_fpm },
        })
    }

    /// `HOST:PORT`.
    pub(super) fn address(&self) -> &str {
        &self.address
    }

    /// Does something with it, and ends it and all that it has started. If that fails, the error says
    /// what it has logged last.
    pub(super) fn with<T>(self, act: impl FnOnce(&Self) -> Result<T>) -> Result<T> {
        match act(&self) {
            Ok(done) => {
                self.stop()?;
                Ok(done)
            }
            Err(error) => bail!("{error:#}\n{}", self.log()),
        }
    }

    fn log(&self) -> String {
        match &self.program {
            Program::Original { folder, .. } => log_in(folder),
            Program::Ours { server, .. } => tail(&server.log(), LOG_LINES),
        }
    }

    /// The memory of all its processes in bytes, without files; what several have together counts once.
    pub(super) fn memory(&self) -> Result<u64> {
        let programs = match &self.program {
            Program::Original { group, .. } => vec![group.id],
            Program::Ours { server, php_fpm } => {
                let php_fpm = php_fpm.as_ref().map(|it| it.group.id);
                iter::once(server.id()).chain(php_fpm).collect()
            }
        };
        let ids = programs
            .into_iter()
            .flat_map(|id| iter::once(id).chain(process::descendants(id)));
        // One that has ended meanwhile has none.
        let texts =
            ids.filter_map(|id| fs::read_to_string(format!("/proc/{id}/smaps_rollup")).ok());
        texts
            .map(|text| share_in(&text).context("no Pss_Anon in smaps_rollup"))
            .sum()
    }

    fn stop(self) -> Result<()> {
        match self.program {
            Program::Original { mut group, folder } => {
                // SIGTERM does nothing to it.
                group.end()?;
                folder.close()?;
            }
            Program::Ours { server, php_fpm } => {
                server.stop()?;
                if let Some(mut php_fpm) = php_fpm {
                    php_fpm.group.end()?;
                }
            }
        }
        Ok(())
    }
}

/// The end of what a server has written to the file in its folder.
fn log_in(folder: &TempDir) -> String {
    let log = fs::read(folder.path().join("log")).unwrap_or_default();
    tail(&String::from_utf8_lossy(&log), LOG_LINES)
}

/// The proportional share of memory that is no file's, in a `/proc/PID/smaps_rollup`, in bytes.
fn share_in(text: &str) -> Option<u64> {
    let kibibytes = |name: &str| -> Option<u64> {
        let value = text.lines().find_map(|line| line.strip_prefix(name))?;
        value.trim().strip_suffix(" kB")?.parse().ok()
    };
    Some((kibibytes("Pss_Anon:")? + kibibytes("Pss_Shmem:")?) << 10)
}

/// A program that forks, and all that come of it; none outlives this.
#[derive(Debug)]
struct Group {
    /// Until it was ended.
    leader: Option<Child>,
    id: u32,
}

impl Group {
    fn start(command: &mut Command) -> Result<Self> {
        let leader = command.stdin(Stdio::null()).process_group(0).spawn();
        let leader = leader.context("it does not start")?;
        let id = leader.id();
        Ok(Self {
            leader: Some(leader),
            id,
        })
    }

    fn wait_until(&mut self, is_up: impl Fn() -> bool) -> Result<()> {
        let begun = Instant::now();
        while !is_up() {
            let ended = self.leader.as_mut().map(Child::try_wait).transpose()?;
            if let Some(status) = ended.flatten() {
                bail!("it ended with {status}");
            }
            ensure!(begun.elapsed() < START_LIMIT, "it does not listen");
            thread::sleep(Duration::from_millis(10));
        }
        Ok(())
    }

    fn end(&mut self) -> Result<()> {
        let mut leader = self.leader.take();
        leader.as_mut().map_or(Ok(()), process::kill_group)
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        // There is no one left to tell.
        let _ = self.end();
    }
}

/// A php-fpm with a pool on a socket in the site's folder.
#[derive(Debug)]
struct PhpFpm {
    group: Group,
    socket: PathBuf,
}

impl PhpFpm {
    fn start(folder: &Path) -> Result<Self> {
        let program = workspace::php_fpm().context("there is none")?;
        let modules = Command::new(&program).args(["-R", "-m"]).output()?;
        let modules = String::from_utf8_lossy(&modules.stdout);
        ensure!(modules.contains("Zend OPcache"), "it has no opcache");
        let socket = folder.join("fpm.sock");
        let pool = folder.join("pool.conf");
        let user = if geteuid().is_root() {
            "user = root\n"
        } else {
            ""
        };
        let configuration = format!(
            "[global]\ndaemonize = no\nerror_log = {}\n[site]\n{user}listen = {}\n\
             pm = static\npm.max_children = {WORKERS}\n",
            folder.join("fpm.log").display(),
            socket.display()
        );
        fs::write(&pool, configuration)?;
        // Its workers would go on without it.
        let mut command = process::tied_by("TERM", program);
        command
            .args(["-R", "-F", "-y"])
            .arg(&pool)
            .stdout(Stdio::null())
            .stderr(Stdio::null());
        let mut group = Group::start(&mut command)?;
        group.wait_until(|| UnixStream::connect(&socket).is_ok())?;
        Ok(Self { group, socket })
    }

    /// What `ws.toml` says of it.
    fn configuration(&self) -> String {
        format!(
            "[carbonphp]\nindex = \"index.php\"\n[app]\nbackend = \"fastcgi\"\n\
             address = \"unix:{}\"\nconcurrency = {WORKERS}\n",
            self.socket.display(),
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn share_of_memory_is_found() {
        let text = "00400000-7fff ---p 00000000 00:00 0 [rollup]\nPss: 900 kB\n\
                    Pss_Anon:    12 kB\nPss_File:  800 kB\nPss_Shmem:    3 kB\n";
        assert_eq!(share_in(text), Some(15 << 10));
        assert_eq!(share_in("Rss: 1 kB\n"), None);
    }
}

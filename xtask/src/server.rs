//! A `ws serve` to test against: started in a directory of its own on a free port, and watched to
//! the end.

use std::fs::{self, File};
use std::io::{BufRead as _, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use tempfile::TempDir;

use crate::{process, workspace};

const READY_LIMIT: Duration = Duration::from_secs(20);
const STOP_LIMIT: Duration = Duration::from_secs(15);
const BUILD_LIMIT: Duration = Duration::from_secs(1200);

/// Which `ws` to test.
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct Binary {
    /// The server's binary; without it, a debug build is made
    #[arg(long = "ws", value_name = "FILE", env = "WS_BIN")]
    path: Option<PathBuf>,
}

impl Binary {
    /// The path of the binary, built if none was given.
    pub(crate) fn get(&self) -> Result<PathBuf> {
        if let Some(path) = &self.path {
            return fs::canonicalize(path).with_context(|| format!("no {}", path.display()));
        }
        let mut build = workspace::cargo();
        build.args([
            "build",
            "--quiet",
            "--locked",
            "--package",
            "ws-cli",
            "--bin",
            "ws",
        ]);
        let status = process::run(&mut build, BUILD_LIMIT)?;
        ensure!(status.success(), "cargo build --package ws-cli: {status}");
        Ok(Self::built())
    }

    /// Where cargo puts it.
    pub(crate) fn built() -> PathBuf {
        workspace::target().join("debug/ws")
    }
}

/// A running server. Dropping it without [`stop`](Self::stop) kills it.
#[derive(Debug)]
pub(crate) struct Server {
    child: Child,
    address: String,
    folder: TempDir,
    /// What its listener has to show, if that speaks TLS.
    certificate: Option<PathBuf>,
}

impl Server {
    /// Starts `ws serve` with `arguments` and waits until it listens.
    pub(crate) fn start(ws: &Path, arguments: &[&str], variables: &[(&str, &str)]) -> Result<Self> {
        let folder = tempfile::Builder::new().prefix("ws-").tempdir()?;
        // It is found before any configuration that this machine may have.
        File::create(folder.path().join("ws.toml"))?;
        Self::launch(ws, arguments, variables, folder, None)
    }

    /// Starts it with TLS, and a certificate from `ws cert`.
    pub(crate) fn start_secure(
        ws: &Path,
        arguments: &[&str],
        variables: &[(&str, &str)],
    ) -> Result<Self> {
        let folder = tempfile::Builder::new().prefix("ws-").tempdir()?;
        let made = Command::new(ws)
            .arg("cert")
            .current_dir(folder.path())
            .output()
            .with_context(|| format!("cannot start {}", ws.display()))?;
        ensure!(
            made.status.success(),
            "ws cert: {}",
            String::from_utf8_lossy(&made.stderr)
        );
        fs::write(folder.path().join("ws.toml"), made.stdout)?;
        let certificate = folder.path().join("cert.pem");
        Self::launch(ws, arguments, variables, folder, Some(certificate))
    }

    fn launch(
        ws: &Path,
        arguments: &[&str],
        variables: &[(&str, &str)],
        folder: TempDir,
        certificate: Option<PathBuf>,
    ) -> Result<Self> {
        let listen = match certificate {
            Some(_) => "wss://127.0.0.1:0",
            None => "127.0.0.1:0",
        };
        let mut command = Command::new(ws);
        for (name, _) in std::env::vars_os() {
            if name.to_string_lossy().starts_with("WS_") {
                command.env_remove(name);
            }
        }
        let mut child = command
            .args(["serve", "--listen", listen, "--state-dir", "state"])
            .args(arguments)
            .envs(variables.iter().copied())
            .current_dir(folder.path())
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(File::create(folder.path().join("log"))?)
            .spawn()
            .with_context(|| format!("cannot start {}", ws.display()))?;
        let stdout = child.stdout.take().expect("stdout is piped");
        let mut server = Self {
            child,
            address: String::new(),
            folder,
            certificate,
        };
        server.address = first_line(stdout)
            .and_then(|line| address_in(&line))
            .map_err(|error| {
                error.context(format!("the server did not get ready:\n{}", server.log()))
            })?;
        Ok(server)
    }

    /// `HOST:PORT` of its listener.
    pub(crate) fn address(&self) -> &str {
        &self.address
    }

    pub(crate) fn url(&self) -> String {
        let scheme = if self.certificate.is_some() {
            "wss"
        } else {
            "ws"
        };
        format!("{scheme}://{}/", self.address)
    }

    /// The certificate that clients have to trust, if it speaks TLS.
    pub(crate) fn certificate(&self) -> Option<&Path> {
        self.certificate.as_deref()
    }

    /// Its state directory: control socket and FIFOs.
    pub(crate) fn state(&self) -> PathBuf {
        self.folder.path().join("state")
    }

    /// The end of what it has logged.
    pub(crate) fn log(&self) -> String {
        let log = fs::read(self.folder.path().join("log")).unwrap_or_default();
        tail(&String::from_utf8_lossy(&log), 40)
    }

    /// Ends it as a service manager would, and checks what is left.
    ///
    /// # Errors
    ///
    /// If it has ended before, takes too long, does not exit with 0, or leaves a process behind.
    pub(crate) fn stop(mut self) -> Result<()> {
        let helpers = process::descendants(self.child.id());
        if let Some(status) = self.child.try_wait()? {
            bail!("the server ended by itself, {status}:\n{}", self.log());
        }
        process::terminate(&self.child)?;
        match process::wait(&mut self.child, STOP_LIMIT)? {
            Some(status) if status.success() => {}
            Some(status) => bail!(
                "after SIGTERM the server ended with {status}:\n{}",
                self.log()
            ),
            None => bail!("the server did not end after SIGTERM:\n{}", self.log()),
        }
        let deadline = Instant::now() + Duration::from_secs(3);
        for id in helpers {
            while process::is_alive(id) {
                ensure!(
                    Instant::now() < deadline,
                    "the server left process {id} behind"
                );
                thread::sleep(Duration::from_millis(10));
            }
        }
        Ok(())
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        if matches!(self.child.try_wait(), Ok(None)) {
            // The verb fails anyway; there is no one left to tell.
            let _ = process::kill_tree(&mut self.child);
        }
    }
}

/// The first line of `output`; the rest is read and dropped, so that the server never waits for us.
pub(crate) fn first_line(output: impl std::io::Read + Send + 'static) -> Result<String> {
    let (sender, receiver) = mpsc::channel();
    thread::spawn(move || {
        for line in BufReader::new(output).lines().map_while(Result::ok) {
            // Only the first is waited for.
            let _ = sender.send(line);
        }
    });
    receiver
        .recv_timeout(READY_LIMIT)
        .context("no line that says where it listens")
}

fn address_in(line: &str) -> Result<String> {
    line.strip_prefix("ws://")
        .or_else(|| line.strip_prefix("wss://"))
        .and_then(|rest| rest.strip_suffix('/'))
        .map(str::to_owned)
        .with_context(|| format!("not the URL of a listener: {line:?}"))
}

/// The last `count` lines of `text`.
pub(crate) fn tail(text: &str, count: usize) -> String {
    let lines: Vec<&str> = text.lines().collect();
    lines[lines.len().saturating_sub(count)..].join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn address_is_taken_from_the_ready_line() {
        assert_eq!(
            address_in("ws://127.0.0.1:40001/").unwrap(),
            "127.0.0.1:40001"
        );
        assert_eq!(address_in("wss://127.0.0.1:1/").unwrap(), "127.0.0.1:1");
        assert!(address_in("listening").is_err());
        assert!(address_in("ws+unix:/run/ws.sock").is_err());
    }

    #[test]
    fn output_that_ends_early_is_an_error() {
        assert!(first_line(&b""[..]).is_err());
        assert_eq!(first_line(&b"ws://a:1/\nmore\n"[..]).unwrap(), "ws://a:1/");
    }

    #[test]
    fn tail_is_the_end() {
        assert_eq!(tail("a\nb\nc\n", 2), "b\nc");
        assert_eq!(tail("a\n", 2), "a");
    }
}

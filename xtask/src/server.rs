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
    /// The server's binary; without it, one is built
    #[arg(long = "ws", value_name = "FILE", env = "WS_BIN")]
    path: Option<PathBuf>,
}

impl Binary {
    /// The path of the binary, a debug build if none was given.
    pub(crate) fn get(&self) -> Result<PathBuf> {
        self.get_built(&[], "debug")
    }

    /// As [`get`](Self::get), with what users run.
    pub(crate) fn get_release(&self) -> Result<PathBuf> {
        self.get_built(&["--release"], "release")
    }

    fn get_built(&self, options: &[&str], profile: &str) -> Result<PathBuf> {
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
        build.args(options);
        let status = process::run(&mut build, BUILD_LIMIT)?;
        ensure!(status.success(), "cargo build --package ws-cli: {status}");
        Ok(workspace::target().join(profile).join("ws"))
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
    urls: Vec<String>,
    folder: TempDir,
    /// What its listener has to show, if that speaks TLS.
    certificate: Option<PathBuf>,
}

/// How a server is started.
#[derive(Clone, Debug)]
pub(crate) struct Launch<'a> {
    /// A program that becomes the server, with its first arguments; empty for none.
    pub(crate) wrapper: &'a [&'a str],
    /// Where it listens, each with port 0.
    pub(crate) listen: &'a [&'a str],
    pub(crate) arguments: &'a [&'a str],
    pub(crate) variables: &'a [(&'a str, &'a str)],
}

impl Default for Launch<'_> {
    fn default() -> Self {
        Self {
            wrapper: &[],
            listen: &["127.0.0.1:0"],
            arguments: &[],
            variables: &[],
        }
    }
}

impl Server {
    /// Starts `ws serve` with `arguments` and waits until it listens.
    pub(crate) fn start(ws: &Path, arguments: &[&str], variables: &[(&str, &str)]) -> Result<Self> {
        Self::launch(
            ws,
            &Launch {
                arguments,
                variables,
                ..Launch::default()
            },
        )
    }

    /// Starts `ws serve` and waits until it listens everywhere.
    pub(crate) fn launch(ws: &Path, launch: &Launch<'_>) -> Result<Self> {
        let folder = tempfile::Builder::new().prefix("ws-").tempdir()?;
        // It is found before any configuration that this machine may have.
        File::create(folder.path().join("ws.toml"))?;
        Self::launch_with(ws, launch, folder)
    }

    /// As [`launch`](Self::launch), in a folder with what it works on, among it a `ws.toml`.
    pub(crate) fn launch_with(ws: &Path, launch: &Launch<'_>, folder: TempDir) -> Result<Self> {
        Self::launch_in(ws, launch, folder, None)
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
        let launch = Launch {
            listen: &["wss://127.0.0.1:0"],
            arguments,
            variables,
            ..Launch::default()
        };
        Self::launch_in(ws, &launch, folder, Some(certificate))
    }

    fn launch_in(
        ws: &Path,
        launch: &Launch<'_>,
        folder: TempDir,
        certificate: Option<PathBuf>,
    ) -> Result<Self> {
        let mut command = match launch.wrapper {
            [] => process::tied(ws),
            [program, arguments @ ..] => {
                let mut command = process::tied(program);
                command.args(arguments).arg(ws);
                command
            }
        };
        for (name, _) in std::env::vars_os() {
            if name.to_string_lossy().starts_with("WS_") {
                command.env_remove(name);
            }
        }
        let mut child = command
            .args(["serve", "--state-dir", "state"])
            .args(launch.listen.iter().flat_map(|it| ["--listen", it]))
            .args(launch.arguments)
            .envs(launch.variables.iter().copied())
            .current_dir(folder.path())
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(File::create(folder.path().join("log"))?)
            .spawn()
            .with_context(|| format!("cannot start {}", ws.display()))?;
        let stdout = child.stdout.take().expect("stdout is piped");
        let mut server = Self {
            child,
            urls: Vec::new(),
            folder,
            certificate,
        };
        server.urls = first_lines(stdout, launch.listen.len())
            .and_then(|urls| {
                address_in(&urls[0])?;
                Ok(urls)
            })
            .map_err(|error| {
                error.context(format!("the server did not get ready:\n{}", server.log()))
            })?;
        Ok(server)
    }

    /// `HOST:PORT` of its first listener.
    pub(crate) fn address(&self) -> &str {
        address_in(&self.urls[0]).expect("it was looked at when the server started")
    }

    pub(crate) fn url(&self) -> String {
        self.urls[0].clone()
    }

    /// The certificate that clients have to trust, if it speaks TLS.
    pub(crate) fn certificate(&self) -> Option<&Path> {
        self.certificate.as_deref()
    }

    /// The URLs of all its listeners, in the order in which they were named.
    pub(crate) fn urls(&self) -> &[String] {
        &self.urls
    }

    pub(crate) fn id(&self) -> u32 {
        self.child.id()
    }

    /// Its state directory: control socket and FIFOs.
    pub(crate) fn state(&self) -> PathBuf {
        self.folder.path().join("state")
    }

    /// The directory that it runs in.
    pub(crate) fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// The file that it logs to.
    pub(crate) fn log_file(&self) -> PathBuf {
        self.folder.path().join("log")
    }

    /// The end of what it has logged.
    pub(crate) fn log(&self) -> String {
        let log = fs::read(self.log_file()).unwrap_or_default();
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
    Ok(first_lines(output, 1)?.remove(0))
}

fn first_lines(output: impl std::io::Read + Send + 'static, count: usize) -> Result<Vec<String>> {
    let (sender, receiver) = mpsc::channel();
    thread::spawn(move || {
        for line in BufReader::new(output).lines().map_while(Result::ok) {
            // Only the first ones are waited for.
            let _ = sender.send(line);
        }
    });
    let line = || {
        receiver
            .recv_timeout(READY_LIMIT)
            .context("no line that says where it listens")
    };
    (0..count).map(|_| line()).collect()
}

fn address_in(line: &str) -> Result<&str> {
    line.strip_prefix("ws://")
        .or_else(|| line.strip_prefix("wss://"))
        .and_then(|rest| rest.strip_suffix('/'))
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
    fn as_many_lines_are_waited_for_as_there_are_listeners() {
        let lines = first_lines(&b"a\nb\nc\n"[..], 2).unwrap();
        assert_eq!(lines, ["a", "b"]);
        assert!(first_lines(&b"a\n"[..], 2).is_err());
    }

    #[test]
    fn tail_is_the_end() {
        assert_eq!(tail("a\nb\nc\n", 2), "b\nc");
        assert_eq!(tail("a\n", 2), "a");
    }
}

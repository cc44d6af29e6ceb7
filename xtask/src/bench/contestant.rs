//! Who is measured: programs, how each is started, and where its doors are.

use std::fmt;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use anyhow::{Context as _, Result, bail, ensure};
use tempfile::TempDir;

use super::Group;
use super::cell::{Cell, Idle};
use crate::server::{first_line, tail};
use crate::{browser, process, workspace};

/// A server.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Contestant {
    Ours,
    /// The same, pushed to by the control socket instead of the FIFO.
    Control,
    /// Bytes back as they came: the floor.
    Tcp,
    UWebSockets,
    FastWebSockets,
    Tungstenite,
    NodeWs,
}

impl Contestant {
    pub(super) const ALL: [Self; 7] = [
        Self::Ours,
        Self::Control,
        Self::Tcp,
        Self::UWebSockets,
        Self::FastWebSockets,
        Self::Tungstenite,
        Self::NodeWs,
    ];

    fn is_ours(self) -> bool {
        matches!(self, Self::Ours | Self::Control)
    }

    /// The peers that are examples of ws-cli.
    pub(super) const EXAMPLES: [&str; 3] = ["peer-tcp", "peer-fastwebsockets", "peer-tungstenite"];
}

impl fmt::Display for Contestant {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Ours => "ws",
            Self::Control => "ws by HTTP",
            Self::Tcp => "bare TCP",
            Self::UWebSockets => "uWebSockets",
            Self::FastWebSockets => "fastwebsockets",
            Self::Tungstenite => "tokio-tungstenite",
            Self::NodeWs => "Node ws",
        })
    }
}

/// The programs that are there.
#[derive(Debug)]
pub(super) struct Programs {
    ws: PathBuf,
    examples: PathBuf,
    uws: Option<PathBuf>,
    uws_tls: Option<PathBuf>,
    node: std::result::Result<PathBuf, String>,
    certificate: TempDir,
    /// Whether server and load each have a core of their own.
    is_pinned: bool,
}

impl Programs {
    pub(super) fn find(uws: Option<&Path>, uws_tls: Option<&Path>) -> Result<Self> {
        let release = workspace::target().join("release");
        let absolute =
            |path: &Path| fs::canonicalize(path).with_context(|| format!("no {}", path.display()));
        let cores = std::thread::available_parallelism()?.get();
        Ok(Self {
            ws: release.join("ws"),
            examples: release.join("examples"),
            uws: uws.map(absolute).transpose()?,
            uws_tls: uws_tls.map(absolute).transpose()?,
            node: browser::node_with("ws").map_err(|error| error.to_string()),
            certificate: certificate()?,
            is_pinned: cores > 1 && workspace::find("taskset").is_some(),
        })
    }

    /// What is missing in a group, for the reader.
    pub(super) fn notes(&self, group: Group) -> Vec<String> {
        let mut notes = Vec::new();
        if let Err(reason) = &self.node {
            notes.push(format!("without Node ws: {reason}"));
        }
        let (plain, tls) = match group {
            Group::Tls => (false, true),
            Group::Idle => (true, true),
            Group::Echo | Group::Handshakes | Group::Broadcast | Group::Flat => (true, false),
        };
        if plain && self.uws.is_none() {
            notes.push("without uWebSockets: --uws names no program".to_owned());
        }
        if tls && self.uws_tls.is_none() {
            notes.push("without uWebSockets over TLS: --uws-tls names no program".to_owned());
        }
        if !self.is_pinned {
            notes.push("server and load share their cores: one core, or no taskset".to_owned());
        }
        notes
    }

    /// Who takes part in a cell.
    pub(super) fn contestants(&self, cell: &Cell) -> Vec<Contestant> {
        let takes_part = |contestant: &Contestant| match contestant {
            Contestant::Ours => true,
            Contestant::Control => matches!(cell, Cell::Broadcast { .. }),
            _ if *cell == Cell::Idle(Idle::Fifos) => false,
            // Ours, the floor, and the one that ours is compared with.
            Contestant::FastWebSockets | Contestant::Tungstenite | Contestant::NodeWs
                if matches!(cell, Cell::Flat { .. }) =>
            {
                false
            }
            Contestant::Tcp => {
                matches!(cell, Cell::Echo { has_tls: false, .. } | Cell::Flat { .. })
            }
            Contestant::UWebSockets => {
                let path = if cell.has_tls() {
                    &self.uws_tls
                } else {
                    &self.uws
                };
                path.is_some()
            }
            Contestant::FastWebSockets | Contestant::Tungstenite => true,
            Contestant::NodeWs => self.node.is_ok(),
        };
        Contestant::ALL.into_iter().filter(takes_part).collect()
    }

    /// The load generator, on the core that the servers leave alone.
    pub(super) fn load(&self) -> Command {
        let mut command = self.pinned("1", &self.ws);
        command.args(["bench", "--json", "--threads", "1"]);
        command
    }

    pub(super) fn is_pinned(&self) -> bool {
        self.is_pinned
    }

    fn pinned(&self, core: &str, program: &Path) -> Command {
        if !self.is_pinned {
            return process::tied(program);
        }
        let mut command = process::tied("taskset");
        command.args(["-c", core]).arg(program);
        command
    }

    /// Starts a server for a cell and waits until it is ready.
    pub(super) fn start(&self, contestant: Contestant, cell: &Cell) -> Result<Running> {
        let folder = tempfile::Builder::new().prefix("ws-bench-").tempdir()?;
        let mut command = match contestant {
            Contestant::Ours | Contestant::Control => self.ours(cell, folder.path())?,
            Contestant::Tcp => self.pinned("0", &self.examples.join("peer-tcp")),
            Contestant::FastWebSockets => {
                self.pinned("0", &self.examples.join("peer-fastwebsockets"))
            }
            Contestant::Tungstenite => self.pinned("0", &self.examples.join("peer-tungstenite")),
            Contestant::UWebSockets => {
                let path = if cell.has_tls() {
                    &self.uws_tls
                } else {
                    &self.uws
                };
                self.pinned("0", path.as_ref().context("no uWebSockets is given")?)
            }
            Contestant::NodeWs => {
                let node = self
                    .node
                    .as_ref()
                    .map_err(|it| anyhow::anyhow!(it.clone()))?;
                let mut command = self.pinned("0", node);
                command.env("NODE_PATH", browser::node_path()?);
                command.arg(workspace::root().join("ws-cli/examples/peers/node_ws.cjs"));
                command
            }
        };
        if !contestant.is_ours() {
            command.arg("0");
            if cell.has_tls() {
                command
                    .args(["cert.pem", "key.pem"].map(|name| self.certificate.path().join(name)));
            }
        }
        Running::start(command, contestant, cell, folder)
    }

    /// `ws serve --echo` with one thread. Its log keeps warnings only: no peer writes one.
    fn ours(&self, cell: &Cell, folder: &Path) -> Result<Command> {
        // It is found before any configuration that this machine may have.
        File::create(folder.join("ws.toml"))?;
        let scheme = if cell.has_tls() { "wss" } else { "ws" };
        let mut command = self.pinned("0", &self.ws);
        for (name, _) in std::env::vars_os() {
            if name.to_string_lossy().starts_with("WS_") {
                command.env_remove(name);
            }
        }
        let has_fifos = *cell == Cell::Idle(Idle::Fifos);
        command
            .args(["serve", "--echo", "--state-dir", "state", "--listen"])
            .arg(format!("{scheme}://127.0.0.1:0"))
            .env("WS__SERVER__THREADS", "1")
            .env("WS__LOG__LEVEL", "warn")
            // No peer keeps any; what it costs to keep them is measured by itself.
            .env("WS__IDENTITY__STORE", "memory")
            .env("WS__FIFO__USER_FIFOS", has_fifos.to_string());
        if cell.has_tls() {
            let file = |name| self.certificate.path().join(name);
            command
                .env("WS__SERVER__TLS__CERT", file("cert.pem"))
                .env("WS__SERVER__TLS__KEY", file("key.pem"));
        }
        Ok(command)
    }
}

/// Two PEM files, `cert.pem` and `key.pem`, in a folder that ends with the run.
fn certificate() -> Result<TempDir> {
    let folder = tempfile::Builder::new().prefix("ws-bench-").tempdir()?;
    let made = rcgen::generate_simple_self_signed(["localhost".to_owned()])?;
    fs::write(folder.path().join("cert.pem"), made.cert.pem())?;
    fs::write(
        folder.path().join("key.pem"),
        made.signing_key.serialize_pem(),
    )?;
    Ok(folder)
}

/// A server that runs. Dropping it kills it, and what it has started.
#[derive(Debug)]
pub(super) struct Running {
    child: Child,
    contestant: Contestant,
    folder: TempDir,
    scheme: &'static str,
    port: u16,
}

impl Running {
    fn start(
        mut command: Command,
        contestant: Contestant,
        cell: &Cell,
        folder: TempDir,
    ) -> Result<Self> {
        let log = folder.path().join("log");
        let mut child = command
            .current_dir(folder.path())
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(File::create(&log)?)
            .spawn()
            .with_context(|| format!("cannot start {contestant}"))?;
        let stdout = child.stdout.take().expect("stdout is piped");
        let mut running = Self {
            child,
            contestant,
            folder,
            scheme: if cell.has_tls() { "wss" } else { "ws" },
            port: 0,
        };
        let port = first_line(stdout).and_then(|line| port_in(&line));
        running.port = port.with_context(|| {
            let log = fs::read_to_string(log).unwrap_or_default();
            format!("{contestant} did not get ready: {}", tail(&log, 3))
        })?;
        Ok(running)
    }

    pub(super) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Where those connect that listen to a broadcast, or want their echo.
    pub(super) fn url(&self, cell: &Cell) -> String {
        let is_broadcast = matches!(cell, Cell::Broadcast { .. });
        let path = if is_broadcast && !self.contestant.is_ours() {
            "subscribe"
        } else {
            ""
        };
        format!("{}://127.0.0.1:{}/{path}", self.scheme, self.port)
    }

    /// Where `ws bench` publishes.
    pub(super) fn publish(&self) -> String {
        match self.contestant {
            Contestant::Ours => {
                let fifo = self.folder.path().join("state/fifo/global_pipe.fifo");
                format!("fifo:{}", fifo.display())
            }
            Contestant::Control => {
                let socket = self.folder.path().join("state/control.sock");
                format!("control:{}", socket.display())
            }
            _ => format!("ws:{}://127.0.0.1:{}/publish", self.scheme, self.port),
        }
    }

    /// Fails if it has ended meanwhile.
    pub(super) fn check(&mut self) -> Result<()> {
        if let Some(status) = self.child.try_wait()? {
            let log = fs::read_to_string(self.folder.path().join("log")).unwrap_or_default();
            bail!("{} ended with {status}: {}", self.contestant, tail(&log, 3));
        }
        Ok(())
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if matches!(self.child.try_wait(), Ok(None)) {
            // There is no one left to tell.
            let _ = process::kill_tree(&mut self.child);
        }
    }
}

/// The port in a ready line: of the contract, a number; of ours, a URL.
fn port_in(line: &str) -> Result<u16> {
    let last = line
        .trim_end_matches('/')
        .rsplit(':')
        .next()
        .unwrap_or(line);
    let port = last
        .trim()
        .parse()
        .with_context(|| format!("not a port: {line:?}"))?;
    ensure!(port > 0, "not a port: {line:?}");
    Ok(port)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ready_lines_of_both_kinds_are_understood() {
        assert_eq!(port_in("40001").unwrap(), 40_001);
        assert_eq!(port_in("wss://127.0.0.1:40001/").unwrap(), 40_001);
        for wrong in ["", "0", "ready", "ws+unix:/run/x"] {
            assert!(port_in(wrong).is_err(), "{wrong}");
        }
    }
}

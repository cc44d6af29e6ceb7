//! A shim at work, and ways to ask it.

use std::ffi::OsString;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::Duration;

use bytes::Bytes;
use tempfile::TempDir;
use ws_ipc::cgi::parse_answer;
use ws_ipc::shims::Shim;
use ws_ipc::{
    Confinement, Environment, Failure, PoolKind, Service, ServiceCommand, Spawners, scgi_call,
};

use crate::support::{eventually, spawners};

const LONG: Duration = Duration::from_secs(30);

/// How a shim serves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Mode {
    Fork,
    Worker,
}

pub(crate) struct Setup {
    pub(crate) service: Service,
    spawners: Spawners,
    dir: TempDir,
}

impl Setup {
    /// Starts a shim with the application for tests; `None` if its interpreter is not installed.
    pub(crate) async fn new(shim: Shim, mode: Mode) -> Option<Self> {
        Self::with_env(shim, mode, &[]).await
    }

    pub(crate) async fn with_env(shim: Shim, mode: Mode, env: &[(&str, &str)]) -> Option<Self> {
        Self::with(shim, mode, &application(shim), env).await
    }

    pub(crate) async fn with(
        shim: Shim,
        mode: Mode,
        application: &Path,
        env: &[(&str, &str)],
    ) -> Option<Self> {
        if !is_installed(shim) {
            return None;
        }
        let spawners = spawners();
        let dir = tempfile::tempdir().unwrap();
        let mut argv: Vec<OsString> = vec![
            // What it writes to standard error is read by the test.
            "/bin/sh".into(),
            "-c".into(),
            "exec 2>>\"$0\"; exec \"$@\"".into(),
            dir.path().join("stderr").into(),
            "/usr/bin/env".into(),
            shim.interpreter().into(),
            shims().join(shim.name()).into(),
        ];
        if mode == Mode::Worker && shim.forks() {
            argv.push("--worker".into());
        }
        argv.push(application.into());
        let path = ("PATH", "/usr/local/bin:/usr/bin:/bin");
        let env = env.iter().chain([&path]);
        let command = ServiceCommand {
            argv,
            env: env
                .map(|(name, value)| (name.into(), value.into()))
                .collect(),
            dir: None,
            identity: None,
            confinement: Confinement::default(),
        };
        let socket = dir.path().join("service.sock");
        let kind = match mode {
            Mode::Fork => PoolKind::ForkServers,
            Mode::Worker => PoolKind::Workers,
        };
        let service = Service::start(&spawners, command, kind, &socket);
        let service = service.await.unwrap();
        Some(Self {
            service,
            spawners,
            dir,
        })
    }

    pub(crate) fn spawners(&self) -> &Spawners {
        &self.spawners
    }

    pub(crate) fn pid(&self) -> i32 {
        self.service.pid().unwrap()
    }

    /// The path of a file that no other test uses.
    pub(crate) fn file(&self) -> PathBuf {
        self.dir.path().join("file")
    }

    pub(crate) fn request(&self, uri: &str) -> Request {
        let mut env = Environment::new();
        env.set("REQUEST_METHOD", "POST").unwrap();
        env.set("REQUEST_URI", uri).unwrap();
        env.set("REMOTE_ADDR", "192.0.2.1").unwrap();
        env.set("FILE", self.file().to_str().unwrap()).unwrap();
        Request {
            service: self.service.clone(),
            env,
            body: Bytes::new(),
            timeout: LONG,
        }
    }

    /// Asks for `uri` and returns the text of the answer.
    pub(crate) async fn ask(&self, uri: &str) -> String {
        self.request(uri).text().await
    }

    /// Waits until the shim, or a child of it, has written `text` to standard error.
    pub(crate) async fn has_said(&self, text: &str) {
        let log = self.dir.path().join("stderr");
        let read = || std::fs::read_to_string(&log).unwrap_or_default();
        eventually(&format!("{text:?} on stderr"), || read().contains(text)).await;
    }

    pub(crate) async fn end(self) {
        self.service.shutdown().await;
        self.spawners.shutdown().await;
    }
}

pub(crate) struct Request {
    service: Service,
    env: Environment,
    body: Bytes,
    timeout: Duration,
}

impl Request {
    pub(crate) fn variable(mut self, name: &str, value: &str) -> Self {
        self.env.set(name, value).unwrap();
        self
    }

    pub(crate) fn body(mut self, body: impl Into<Bytes>) -> Self {
        self.body = body.into();
        self
    }

    pub(crate) fn timeout(mut self, timeout: Duration) -> Self {
        self.timeout = timeout;
        self
    }

    /// The whole answer, head included.
    pub(crate) async fn answer(self) -> Result<Vec<u8>, Failure> {
        scgi_call(&self.service, &self.env, &self.body, self.timeout, 4 << 20).await
    }

    pub(crate) async fn bytes(self) -> Vec<u8> {
        let answer = self.answer().await.unwrap();
        let answer = parse_answer(&answer).unwrap();
        assert_eq!(answer.status(), 200);
        answer.body().to_vec()
    }

    pub(crate) async fn text(self) -> String {
        String::from_utf8(self.bytes().await).unwrap()
    }

    /// Whether there is no answer, or one that says that it is none.
    pub(crate) async fn fails(self) -> bool {
        match self.answer().await {
            Err(_) => true,
            Ok(answer) => {
                let answer = parse_answer(&answer).unwrap();
                answer.status() == 500 && answer.body().is_empty()
            }
        }
    }
}

/// Where the shims are.
pub(crate) fn shims() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("shims")
}

/// The application that does what the tests ask for.
fn application(shim: Shim) -> PathBuf {
    let name = format!("application.{}", extension(shim));
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("tests/shims/applications")
        .join(name)
}

pub(crate) fn extension(shim: Shim) -> &'static str {
    let (_, extension) = shim.name().split_once('.').unwrap();
    extension
}

/// Whether there is the shim's interpreter; says so if not.
pub(crate) fn is_installed(shim: Shim) -> bool {
    let name = shim.interpreter();
    let path = std::env::var_os("PATH").unwrap_or_default();
    let is_there = std::env::split_paths(&path).any(|dir| dir.join(name).is_file());
    if !is_there {
        // Not by a macro, whose output the harness keeps to itself.
        let mut stderr = std::io::stderr();
        writeln!(stderr, "skipped: there is no {name}").unwrap();
    }
    is_there
}

//! A server of one's own, the ways to speak with it, and the checker that every test ends with.

use std::collections::HashMap;
use std::ffi::OsStr;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::fd::AsRawFd;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::atomic::{AtomicU16, Ordering};
use std::sync::mpsc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use futures_util::{SinkExt, StreamExt};
use nix::sys::signal::{Signal, kill};
use nix::sys::socket::{AddressFamily, SockFlag, SockType, SockaddrIn, bind, connect, socket};
use nix::unistd::Pid;
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio_tungstenite::tungstenite::client::IntoClientRequest;
use tokio_tungstenite::tungstenite::handshake::client::Response;
use tokio_tungstenite::tungstenite::http::{HeaderName, HeaderValue};
use tokio_tungstenite::tungstenite::{Error, Message};
use tokio_tungstenite::{MaybeTlsStream, WebSocketStream};

/// The longest that anything in these tests may take: they fail then, they do not hang.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

pub(crate) const WS: &str = env!("CARGO_BIN_EXE_ws");

/// Runs `check` again and again until it is true.
///
/// # Panics
///
/// If it is not true in time.
pub(crate) fn eventually(what: &str, mut check: impl FnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !check() {
        assert!(Instant::now() < deadline, "never: {what}");
        // Whom it waits for needs the processor more.
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// An address that was free a moment ago. Nobody who leaves the choice to the kernel gets it in the
/// meantime: its port is below those.
pub(crate) fn free_address() -> SocketAddr {
    static TRIED: AtomicU16 = AtomicU16::new(0);
    const FIRST: u32 = 12_000;
    const COUNT: u32 = 18_000;
    loop {
        let tried = u32::from(TRIED.fetch_add(1, Ordering::Relaxed));
        // Runs at the same time begin elsewhere.
        let port = FIRST + (std::process::id().wrapping_mul(97).wrapping_add(tried)) % COUNT;
        let addr = SocketAddr::from(([127, 0, 0, 1], u16::try_from(port).unwrap()));
        if TcpListener::bind(addr).is_ok() {
            return addr;
        }
    }
}

/// How a server is to be started.
pub(crate) struct Setup {
    dir: TempDir,
    args: Vec<String>,
    env: Vec<(String, String)>,
    command: Vec<String>,
    /// What a shell does before it becomes the server, which inherits it; nothing, normally.
    prelude: Option<String>,
    /// What stands in the command lines of processes that the server keeps.
    kept: Vec<String>,
}

impl Setup {
    /// A server on a free port in a directory of its own.
    pub(crate) fn new() -> Self {
        Self {
            dir: TempDir::new().unwrap(),
            args: vec!["serve".into(), "--listen".into(), "127.0.0.1:0".into()],
            env: Vec::new(),
            command: Vec::new(),
            prelude: None,
            kept: Vec::new(),
        }
    }

    /// Says that the server keeps processes with this argument: they are no callbacks that run.
    pub(crate) fn keeps(mut self, argument: &str) -> Self {
        self.kept.push(argument.to_owned());
        self
    }

    /// Has a shell run this before it becomes the server: `umask 000` or `ulimit -n 256`.
    pub(crate) fn prelude(mut self, command: impl Into<String>) -> Self {
        self.prelude = Some(command.into());
        self
    }

    /// The program with everything that stands before its arguments.
    fn program(&self) -> Command {
        let Some(prelude) = &self.prelude else {
            return Command::new(WS);
        };
        let mut shell = Command::new("sh");
        shell.args(["-c", &format!("{prelude}; exec \"$0\" \"$@\""), WS]);
        shell
    }

    /// Has the server listen there and nowhere else.
    pub(crate) fn listen(mut self, addr: &str) -> Self {
        self.args[2] = addr.into();
        self
    }

    /// Leaves it to the configuration where the server listens.
    pub(crate) fn without_listen(mut self) -> Self {
        self.args.drain(1..3);
        self
    }

    /// Adds a flag or an argument.
    pub(crate) fn arg(mut self, arg: impl Into<String>) -> Self {
        self.args.push(arg.into());
        self
    }

    /// Sets a key of the configuration, by its path: `limits.max_message_size`.
    pub(crate) fn set(mut self, path: &str, value: impl Into<String>) -> Self {
        let name = format!("WS__{}", path.to_uppercase().replace('.', "__"));
        self.env.push((name, value.into()));
        self
    }

    /// Sets a variable of the server's own environment.
    pub(crate) fn env(mut self, name: &str, value: &str) -> Self {
        self.env.push((name.into(), value.into()));
        self
    }

    /// Makes this command the application, run once for each message.
    pub(crate) fn command(mut self, command: &[&str]) -> Self {
        let words = command.iter().map(|word| (*word).to_owned());
        self.command = std::iter::once("--".to_owned()).chain(words).collect();
        self
    }

    /// Makes an executable script in the server's directory and returns its path.
    pub(crate) fn script(&self, name: &str, text: &str) -> PathBuf {
        use std::os::unix::fs::PermissionsExt;
        let path = self.dir.path().join(name);
        std::fs::write(&path, text).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).unwrap();
        path
    }

    /// The directory that the server runs in.
    pub(crate) fn dir(&self) -> &Path {
        self.dir.path()
    }

    /// Makes this shell script the application, run once for each message.
    pub(crate) fn app(self, script: &str) -> Self {
        self.app_file("app.sh", &format!("#!/bin/sh\n{script}\n"))
    }

    /// Makes this file, with its own `#!` line, the application.
    pub(crate) fn app_file(mut self, name: &str, text: &str) -> Self {
        let path = self.script(name, text);
        self.command = vec!["--".into(), path.to_str().unwrap().into()];
        self
    }

    /// Makes this shell script the validation callback.
    pub(crate) fn validate(mut self, script: &str) -> Self {
        let path = self.script("validate.sh", &format!("#!/bin/sh\n{script}\n"));
        self.args
            .extend(["--validate".into(), path.to_str().unwrap().into()]);
        self
    }

    /// Starts the server and waits for its ready line.
    pub(crate) fn start(self) -> Server {
        let mut command = self.program();
        command
            .args(&self.args)
            .args(&self.command)
            .envs(self.env.iter().cloned())
            .env_remove("RUST_LOG")
            .current_dir(self.dir.path())
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        let mut child = command.spawn().unwrap();
        let stderr = collect(child.stderr.take().unwrap());
        let stdout = lines(child.stdout.take().unwrap());
        let Ok(url) = stdout.recv_timeout(PATIENCE) else {
            let _ = child.kill();
            let _ = child.wait();
            panic!("the server did not start:\n{}", stderr.join().unwrap());
        };
        let (_, addr) = url.split_once("://").unwrap();
        let addr = addr.trim_end_matches('/').parse().unwrap();
        let mut server = Server {
            child,
            dir: self.dir,
            url,
            addr,
            stderr: Some(stderr),
            descriptors: 0,
            kept: self.kept,
        };
        server.descriptors = server.descriptor_count();
        server
    }

    /// Starts a server that does not come up, and returns what it says and its exit code.
    pub(crate) fn fail(self) -> Output {
        let mut command = self.program();
        command
            .args(&self.args)
            .args(&self.command)
            .envs(self.env)
            .current_dir(self.dir.path());
        command.stdin(Stdio::null()).output().unwrap()
    }
}

fn collect(mut source: impl Read + Send + 'static) -> JoinHandle<String> {
    std::thread::spawn(move || {
        let mut bytes = Vec::new();
        source.read_to_end(&mut bytes).unwrap();
        String::from_utf8_lossy(&bytes).into_owned()
    })
}

fn lines(source: impl Read + Send + 'static) -> mpsc::Receiver<String> {
    let (sender, receiver) = mpsc::channel();
    std::thread::spawn(move || {
        for line in BufReader::new(source).lines().map_while(Result::ok) {
            if sender.send(line).is_err() {
                return;
            }
        }
    });
    receiver
}

/// Holds callbacks back until the test lets them go, without a clock: a script that does
/// `read _ < NAME` goes on when it gets one of the lines that [`open`](Self::open) writes.
pub(crate) struct Gate(std::fs::File);

impl Gate {
    /// A gate in a server's directory, closed.
    pub(crate) fn new(dir: &Path, name: &str) -> Self {
        let path = dir.join(name);
        nix::unistd::mkfifo(&path, nix::sys::stat::Mode::S_IRWXU).unwrap();
        // Open for both, so that neither side ever waits for the other to come.
        let file = std::fs::File::options().read(true).write(true).open(path);
        Self(file.unwrap())
    }

    /// Lets this many callbacks through.
    pub(crate) fn open(&mut self, count: usize) {
        self.0.write_all(&vec![b'\n'; count]).unwrap();
    }
}

/// A running server. End it with [`finish`](Self::finish).
pub(crate) struct Server {
    child: Child,
    dir: TempDir,
    pub(crate) url: String,
    pub(crate) addr: SocketAddr,
    stderr: Option<JoinHandle<String>>,
    /// Open descriptors when nothing was connected yet.
    descriptors: usize,
    /// What stands in the command lines of processes that it keeps.
    kept: Vec<String>,
}

/// A client's end of a WebSocket.
pub(crate) type Client = WebSocketStream<MaybeTlsStream<tokio::net::TcpStream>>;

impl Server {
    pub(crate) fn pid(&self) -> i32 {
        i32::try_from(self.child.id()).unwrap()
    }

    pub(crate) fn dir(&self) -> &Path {
        self.dir.path()
    }

    pub(crate) fn state(&self, name: &str) -> PathBuf {
        self.dir.path().join("tmp").join(name)
    }

    pub(crate) fn signal(&self, signal: Signal) {
        kill(Pid::from_raw(self.pid()), signal).unwrap();
    }

    fn descriptor_count(&self) -> usize {
        std::fs::read_dir(format!("/proc/{}/fd", self.pid()))
            .unwrap()
            .count()
    }

    /// Opens a WebSocket at the server's root.
    pub(crate) async fn connect(&self) -> Client {
        self.connect_with("/", &[]).await.unwrap()
    }

    /// Opens a WebSocket at a target, with further headers.
    pub(crate) async fn connect_with(
        &self,
        target: &str,
        headers: &[(&str, &str)],
    ) -> Result<Client, Error> {
        Ok(self.open(target, headers).await?.0)
    }

    /// Opens a WebSocket as a new visitor; returns the cookie that it is given, too.
    pub(crate) async fn connect_for_cookie(&self) -> (Client, String) {
        let (client, response) = self.open("/", &[]).await.unwrap();
        let cookie = response.headers()["Set-Cookie"].to_str().unwrap();
        let cookie = cookie.split(';').next().unwrap().to_owned();
        (client, cookie)
    }

    async fn open(
        &self,
        target: &str,
        headers: &[(&str, &str)],
    ) -> Result<(Client, Response), Error> {
        let url = format!("ws://{}{target}", self.addr);
        let mut request = url.into_client_request().unwrap();
        for (name, value) in headers {
            let name: HeaderName = name.parse().unwrap();
            request
                .headers_mut()
                .insert(name, HeaderValue::from_str(value).unwrap());
        }
        let connecting = tokio_tungstenite::connect_async(request);
        tokio::time::timeout(PATIENCE, connecting)
            .await
            .expect("connecting hangs")
    }

    /// Opens a plain TCP connection, sends bytes, and reads to the end of the answer.
    pub(crate) fn raw(&self, request: &[u8]) -> Vec<u8> {
        let mut stream = self.raw_stream();
        stream.write_all(request).unwrap();
        let mut answer = Vec::new();
        let _ = stream.read_to_end(&mut answer);
        answer
    }

    pub(crate) fn raw_stream(&self) -> TcpStream {
        let stream = TcpStream::connect(self.addr).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream
    }

    /// A stream from another address of this host.
    pub(crate) fn raw_stream_from(&self, ip: [u8; 4]) -> TcpStream {
        let (kind, flag) = (SockType::Stream, SockFlag::SOCK_CLOEXEC);
        let socket = socket(AddressFamily::Inet, kind, flag, None).unwrap();
        let [a, b, c, d] = ip;
        bind(socket.as_raw_fd(), &SockaddrIn::new(a, b, c, d, 0)).unwrap();
        let SocketAddr::V4(addr) = self.addr else {
            panic!("the tests listen on IPv4");
        };
        connect(socket.as_raw_fd(), &SockaddrIn::from(addr)).unwrap();
        let stream = TcpStream::from(socket);
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream
    }

    /// A request on the control socket; returns status and body.
    pub(crate) fn control(&self, method: &str, path: &str, body: &str) -> (u16, String) {
        control(&self.state("control.sock"), method, path, body).unwrap()
    }

    /// `POST` of JSON, answered with 200 and JSON.
    pub(crate) fn post(&self, path: &str, body: Value) -> Value {
        let (status, answer) = self.control("POST", path, &body.to_string());
        assert_eq!(status, 200, "{path} {body}: {answer}");
        serde_json::from_str(&answer).unwrap()
    }

    pub(crate) fn send(&self, to: Value, text: &str) -> Value {
        self.post("/v1/send", json!({ "to": to, "text": text }))
    }

    pub(crate) fn status(&self) -> Value {
        let (status, answer) = self.control("GET", "/v1/status", "");
        assert_eq!(status, 200);
        serde_json::from_str(&answer).unwrap()
    }

    /// A figure of the status, by its path: `callbacks.started`.
    pub(crate) fn figure(&self, path: &str) -> u64 {
        figure(&self.status(), path)
    }

    pub(crate) fn connections(&self) -> Vec<Value> {
        let (_, answer) = self.control("GET", "/v1/connections", "");
        let answer: Value = serde_json::from_str(&answer).unwrap();
        answer["connections"].as_array().unwrap().clone()
    }

    /// Waits until a figure of the status has a value.
    pub(crate) fn until(&self, path: &str, value: u64) {
        eventually(
            &format!("{path} is {value}, but {}", self.figure(path)),
            || self.figure(path) == value,
        );
    }

    /// Runs a client verb of `ws` in the server's directory.
    pub(crate) fn ws(&self, args: &[&str]) -> Output {
        Command::new(WS)
            .args(args)
            .current_dir(self.dir())
            .stdin(Stdio::null())
            .output()
            .unwrap()
    }

    /// Processes that run in this server's directory, besides the server.
    pub(crate) fn processes(&self) -> Vec<(i32, String)> {
        processes_in(self.dir(), self.pid())
    }

    /// The processes beside the server that were started with this argument, `__spawner` say.
    pub(crate) fn helpers(&self, name: &str) -> Vec<i32> {
        let processes = self.processes().into_iter();
        let helpers = processes.filter(|(_, command)| command.contains(name));
        helpers.map(|(pid, _)| pid).collect()
    }

    /// Processes that have ended and wait for the server or one of its helpers to take note.
    pub(crate) fn zombies(&self) -> Vec<i32> {
        let mut family = self.helpers("__spawner");
        family.extend(self.helpers("__forkserver"));
        family.push(self.pid());
        let mut zombies = Vec::new();
        for entry in std::fs::read_dir("/proc").unwrap().flatten() {
            let pid = entry
                .file_name()
                .to_str()
                .and_then(|name| name.parse().ok());
            if let Some(pid) = pid
                && state_of(pid)
                    .is_some_and(|(state, parent)| state == 'Z' && family.contains(&parent))
            {
                zombies.push(pid);
            }
        }
        zombies
    }

    /// Ends the server as an operator does, and checks what must hold after every test: the laws
    /// between the figures, one record for each connection, nothing left behind.
    pub(crate) fn finish(self) -> String {
        self.check_laws();
        self.signal(Signal::SIGTERM);
        self.check_end()
    }

    /// Kills the server, waits until nothing that it started is left, and returns a setup for
    /// another one in the same directory, with what it left there.
    pub(crate) fn kill(mut self) -> Setup {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
        eventually("no process is left", || self.processes().is_empty());
        let other = TempDir::new().unwrap();
        Setup {
            dir: std::mem::replace(&mut self.dir, other),
            ..Setup::new()
        }
    }

    /// Waits until nothing is under way, then checks INV-03, 09, 10, 18 and 19.
    fn check_laws(&self) {
        self.until("connections.open", 0);
        let is_settled = |status: &Value| {
            let get = |path| figure(status, path);
            let done =
                get("callbacks.finished") + get("callbacks.failed") + get("callbacks.cancelled");
            let ended = get("programs.ended") + get("programs.failed");
            let delivered = get("deliveries.made") + get("deliveries.dropped");
            let sockets = get("connections.opened") + get("sockets.refused") + get("sockets.pages");
            get("callbacks.accepted") == done
                // Whoever has left in the middle of a handshake may not be counted yet.
                && get("sockets.accepted") == sockets
                && get("deliveries.owed") == delivered
                && get("programs.started") == ended
                && self.running_callbacks() == 0
        };
        eventually(
            "every accepted message has its end, and every socket",
            || is_settled(&self.status()),
        );
        let status = self.status();
        let get = |path| figure(&status, path);
        let sockets = get("connections.opened") + get("sockets.refused") + get("sockets.pages");
        assert_eq!(
            get("sockets.accepted"),
            sockets,
            "every socket is accounted for: {status:#}"
        );
        assert_eq!(
            get("connections.opened"),
            get("connections.closed"),
            "INV-10: {status:#}"
        );
        let ended = get("programs.ended") + get("programs.failed");
        assert_eq!(get("programs.started"), ended, "INV-18: {status:#}");
        let sent = get("messages.sent") + get("messages.dropped");
        assert_eq!(get("messages.queued"), sent, "INV-03: {status:#}");
        let pushed = get("pushes.written") + get("pushes.queued") + get("pushes.dropped");
        assert_eq!(get("pushes.targets"), pushed, "INV-03: {status:#}");
        // Accepted messages times live connections, to the unit: what is owed is delivered or
        // dropped. A publisher that hangs up is not told, and does not count as having pushed.
        let delivered = get("deliveries.made") + get("deliveries.dropped");
        assert_eq!(get("deliveries.owed"), delivered, "INV-03: {status:#}");
        assert!(
            get("pushes.targets") <= get("deliveries.owed"),
            "INV-03: {status:#}"
        );
        assert!(
            get("pushes.dropped") <= get("deliveries.dropped"),
            "INV-03: {status:#}"
        );
        assert!(
            get("callbacks.started") <= get("callbacks.accepted"),
            "INV-18: {status:#}"
        );
        if get("callbacks.validations") > 0 {
            // Where there is validation, nobody comes in without a yes of its own, or of whoever is
            // asked before.
            let accepted = get("callbacks.validations_accepted") + get("identities.identified");
            assert!(get("connections.opened") <= accepted, "INV-09: {status:#}");
        }
        eventually("INV-19: descriptors are as before", || {
            self.descriptor_count() <= self.descriptors
        });
        // That of a user is removed by its reader.
        eventually("INV-19: no FIFO but the global one is left", || {
            let fifos = fifos_in(&self.state("fifo"));
            fifos.iter().all(|name| name == "global_pipe.fifo")
        });
    }

    fn running_callbacks(&self) -> usize {
        let helpers = ["__spawner", "__forkserver"].into_iter();
        let helpers: Vec<&str> = helpers
            .chain(self.kept.iter().map(String::as_str))
            .collect();
        let is_helper = |command: &str| helpers.iter().any(|name| command.contains(name));
        self.processes()
            .iter()
            .filter(|(_, command)| !is_helper(command))
            .count()
    }

    /// Waits for the end after a signal and checks that it is a good one.
    pub(crate) fn check_end(mut self) -> String {
        let (status, log) = self.wait();
        assert!(status.success(), "{status}:\n{log}");
        log
    }

    /// Waits for the end, however it is; nothing may be left behind.
    pub(crate) fn wait(&mut self) -> (std::process::ExitStatus, String) {
        let status = self.child.wait().unwrap();
        let log = self.stderr.take().unwrap().join().unwrap();
        assert!(!log.contains("panicked"), "INV-08: {log}");
        check_records(&log);
        eventually("no process is left", || self.processes().is_empty());
        assert_eq!(
            fifos_in(&self.state("fifo")),
            Vec::<String>::new(),
            "FIFOs are left"
        );
        assert!(
            !self.state("control.sock").exists(),
            "the control socket is left"
        );
        (status, log)
    }
}

impl Drop for Server {
    #[expect(clippy::print_stderr, reason = "a test that fails shows the log")]
    fn drop(&mut self) {
        // A test that failed leaves nothing running.
        let _ = self.child.kill();
        let _ = self.child.wait();
        if std::thread::panicking()
            && let Some(log) = self.stderr.take()
        {
            eprintln!("the server's log:\n{}", log.join().unwrap_or_default());
        }
    }
}

/// INV-10: each connection has one record of its end.
fn check_records(log: &str) {
    let mut records: HashMap<String, u32> = HashMap::new();
    for line in log.lines() {
        let Ok(record) = serde_json::from_str::<Value>(line) else {
            panic!("not a line of JSON: {line}");
        };
        let message = record["message"].as_str().unwrap_or_default();
        let id = record["span"]["conn.id"].as_str().unwrap_or_default();
        if message == "connection closed" {
            *records.entry(id.to_owned()).or_default() += 1;
        }
    }
    for (id, count) in records {
        assert_eq!(count, 1, "INV-10: records of connection {id}");
    }
}

fn fifos_in(dir: &Path) -> Vec<String> {
    let Ok(entries) = std::fs::read_dir(dir) else {
        return Vec::new();
    };
    let names = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap());
    names.filter(|name| name.ends_with(".fifo")).collect()
}

/// Processes whose working directory is `dir`: what a server started, and what that started.
fn processes_in(dir: &Path, except: i32) -> Vec<(i32, String)> {
    let dir = dir.canonicalize().unwrap();
    let mut found = Vec::new();
    for entry in std::fs::read_dir("/proc").unwrap().flatten() {
        let Some(pid) = entry
            .file_name()
            .to_str()
            .and_then(|name| name.parse::<i32>().ok())
        else {
            continue;
        };
        let is_in_dir = std::fs::read_link(entry.path().join("cwd")).is_ok_and(|cwd| cwd == dir);
        if is_in_dir && pid != except {
            let command = std::fs::read_to_string(entry.path().join("cmdline")).unwrap_or_default();
            found.push((pid, command.replace('\0', " ")));
        }
    }
    found
}

/// A process's state and its parent (proc(5), stat).
pub(crate) fn state_of(pid: i32) -> Option<(char, i32)> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The name before may hold anything, parentheses too.
    let mut fields = stat.rsplit_once(')')?.1.split_whitespace();
    Some((fields.next()?.parse().ok()?, fields.next()?.parse().ok()?))
}

/// System calls of other processes that fail, by strace.
pub(crate) struct Injection(Child);

impl Injection {
    /// Begins; `rule` is what strace's `inject=` takes. `None` if there is no strace or it may not.
    pub(crate) fn start(pids: &[i32], rule: &str) -> Option<Self> {
        Self::start_with(pids, rule, &[])
    }

    /// The same for what a process and threads of it that are yet to come do with one file.
    pub(crate) fn start_for_file(pid: i32, rule: &str, path: &Path) -> Option<Self> {
        let only = [OsStr::new("-f"), OsStr::new("-P"), path.as_os_str()];
        Self::start_with(&[pid], rule, &only)
    }

    fn start_with(pids: &[i32], rule: &str, more: &[&OsStr]) -> Option<Self> {
        let calls = rule.split(':').next().unwrap_or_default();
        let mut command = Command::new("strace");
        command.args(["-qq", "-o", "/dev/null", "-e", &format!("trace={calls}")]);
        command.args(["-e", &format!("inject={rule}")]).args(more);
        command.args(
            pids.iter()
                .flat_map(|pid| ["-p".to_owned(), pid.to_string()]),
        );
        let child = command.stdin(Stdio::null()).stderr(Stdio::null()).spawn();
        let mut injection = Self(child.ok()?);
        let is_traced = |pid: &i32| {
            let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
            !status.contains("TracerPid:\t0\n")
        };
        let mut is_over = false;
        eventually("strace is attached, or has given up", || {
            is_over = injection.0.try_wait().unwrap().is_some();
            is_over || pids.iter().all(is_traced)
        });
        (!is_over).then_some(injection)
    }

    /// Ends it: strace lets go.
    pub(crate) fn end(mut self) {
        kill(
            Pid::from_raw(i32::try_from(self.0.id()).unwrap()),
            Signal::SIGTERM,
        )
        .unwrap();
        self.0.wait().unwrap();
    }
}

impl Drop for Injection {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// A figure of a status, by its path.
pub(crate) fn figure(status: &Value, path: &str) -> u64 {
    let value = path.split('.').fold(status, |value, key| &value[key]);
    value
        .as_u64()
        .unwrap_or_else(|| panic!("no figure {path} in {status:#}"))
}

/// One request over HTTP/1.1 on a Unix socket.
pub(crate) fn control(
    socket: &Path,
    method: &str,
    path: &str,
    body: &str,
) -> std::io::Result<(u16, String)> {
    let mut stream = UnixStream::connect(socket)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    let length = body.len();
    write!(
        stream,
        "{method} {path} HTTP/1.1\r\nHost: localhost\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n{body}"
    )?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    let (head, body) = answer.split_once("\r\n\r\n").unwrap_or((&answer, ""));
    let status = head
        .split(' ')
        .nth(1)
        .and_then(|status| status.parse().ok())
        .unwrap_or(0);
    Ok((status, body.to_owned()))
}

/// Sends a text message.
pub(crate) async fn say(client: &mut Client, text: &str) {
    client.send(Message::text(text)).await.unwrap();
}

/// The next message that is not a ping or pong.
pub(crate) async fn next(client: &mut Client) -> Message {
    loop {
        let message = tokio::time::timeout(PATIENCE, client.next())
            .await
            .expect("no message comes");
        match message.expect("the stream ended").unwrap() {
            Message::Ping(_) | Message::Pong(_) => {}
            message => return message,
        }
    }
}

/// The next message, which is text.
pub(crate) async fn hear(client: &mut Client) -> String {
    match next(client).await {
        Message::Text(text) => text.to_string(),
        other => panic!("not text: {other:?}"),
    }
}

/// Asks and hears the answer.
pub(crate) async fn ask(client: &mut Client, text: &str) -> String {
    say(client, text).await;
    hear(client).await
}

/// The code that the server closes with.
pub(crate) async fn close_code(client: &mut Client) -> u16 {
    loop {
        match tokio::time::timeout(PATIENCE, client.next())
            .await
            .expect("no close comes")
        {
            Some(Ok(Message::Close(frame))) => {
                return frame.map_or(1005, |frame| frame.code.into());
            }
            Some(Ok(_)) => {}
            Some(Err(_)) | None => return 1006,
        }
    }
}

/// Closes from the client's side and waits for the end.
pub(crate) async fn bye(mut client: Client) {
    let _ = client.close(None).await;
    while let Some(Ok(_)) = client.next().await {}
}

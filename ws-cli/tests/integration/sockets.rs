//! Listening sockets that are more than an address: files with a mode and an owner, and sockets
//! that a service manager has opened.

use std::io::{BufRead as _, BufReader, Write as _};
use std::net::{TcpListener, TcpStream};
use std::os::fd::OwnedFd;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};

use nix::sys::signal::{Signal, kill};
use nix::unistd::{Pid, geteuid, getgid};
use tempfile::TempDir;

use crate::support::{PATIENCE, Setup};
use crate::wire::head;

const WS: &str = env!("CARGO_BIN_EXE_ws");

/// A server that listens on `ws.sock` in its directory as well.
fn beside_tcp() -> Setup {
    Setup::new()
        .arg("--echo")
        .arg("--listen")
        .arg("unix:ws.sock")
}

/// A server that listens on this path alone.
fn at(path: &Path) -> Setup {
    Setup::new()
        .listen(&format!("unix:{}", path.display()))
        .arg("--echo")
}

/// What a server says that does not start, and ends with this code.
fn refusal_to_start(setup: Setup, code: i32) -> String {
    let output = setup.fail();
    let text = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(code), "{text}");
    text
}

/// Makes an opening handshake.
fn greet(mut stream: impl std::io::Read + std::io::Write) {
    stream.write_all(head("/", &[]).as_bytes()).unwrap();
    let mut answer = [0; 12];
    stream.read_exact(&mut answer).unwrap();
    assert_eq!(answer, *b"HTTP/1.1 101");
}

fn unix(path: &Path) -> UnixStream {
    let stream = UnixStream::connect(path).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream
}

#[test]
fn the_url_of_a_unix_socket_is_one_to_connect_to() {
    let server = beside_tcp().start();
    // As it is printed.
    let url = format!("ws+unix:{}", server.dir().join("ws.sock").display());
    let mut client = Command::new(WS);
    client.args(["connect", &url]);
    let (stdin, stdout) = (Stdio::piped(), Stdio::piped());
    let mut client = client.stdin(stdin).stdout(stdout).spawn().unwrap();
    let mut input = client.stdin.take().unwrap();
    input.write_all(b"hello\n").unwrap();
    drop(input);
    let output = client.wait_with_output().unwrap();
    assert!(output.status.success());
    assert_eq!(String::from_utf8(output.stdout).unwrap(), "hello\n");
    server.finish();
}

#[test]
fn mode_owner_and_group_are_the_configured_ones_under_every_umask() {
    for umask in ["000", "077"] {
        let setup = beside_tcp().prelude(format!("umask {umask}"));
        // To be given away a socket needs root; anybody may give it to himself.
        let (owner, group) = match geteuid().is_root() {
            true => (65_534, 4711),
            false => (geteuid().as_raw(), getgid().as_raw()),
        };
        let server = setup
            .set("server.unix_mode", "0660")
            .set("server.unix_owner", owner.to_string())
            .set("server.unix_group", group.to_string())
            .start();
        let path = server.dir().join("ws.sock");
        let file = path.metadata().unwrap();
        assert_eq!(file.permissions().mode() & 0o7777, 0o660, "umask {umask}");
        assert_eq!((file.uid(), file.gid()), (owner, group));
        // The control socket has its own settings.
        let control = server.state("control.sock").metadata().unwrap();
        assert_eq!(control.permissions().mode() & 0o7777, 0o600);
        assert_eq!(control.uid(), geteuid().as_raw());
        greet(unix(&path));
        server.finish();
    }
}

#[test]
fn mode_is_left_to_the_umask_unless_it_is_configured() {
    let server = beside_tcp().prelude("umask 027").start();
    let mode = server.dir().join("ws.sock").metadata().unwrap();
    assert_eq!(mode.permissions().mode() & 0o7777, 0o750);
    server.finish();
}

#[test]
fn faults_of_mode_owner_and_group_are_named() {
    let setup = beside_tcp()
        .set("server.unix_mode", "rw-rw----")
        .set("server.unix_owner", "nobody-of-that-name")
        .set("server.unix_group", "nobody-of-that-name");
    let text = refusal_to_start(setup, 78);
    for name in ["unix_mode", "unix_owner", "unix_group"] {
        assert!(text.contains(&format!("server.{name}: ")), "{text}");
    }
}

#[test]
fn a_live_socket_is_not_stolen() {
    let server = beside_tcp().start();
    let path = server.dir().join("ws.sock");
    let text = refusal_to_start(at(&path), 73);
    let told = format!("process {} is listening there", server.pid());
    assert!(text.contains(&told), "{text}");
    greet(unix(&path));
    server.finish();
}

#[test]
fn what_is_not_a_socket_is_never_removed() {
    let dir = TempDir::new().unwrap();
    let path = dir.path().join("ws.sock");
    std::fs::write(&path, "mine").unwrap();
    let text = refusal_to_start(at(&path), 73);
    assert!(text.contains("a file that is not a socket"), "{text}");
    assert!(text.contains(path.to_str().unwrap()), "{text}");
    assert_eq!(std::fs::read_to_string(path).unwrap(), "mine");
}

/// A server that was started by a service manager, or by a test in its place.
struct Activated {
    child: Child,
    urls: Vec<String>,
}

impl Activated {
    /// Starts it and reads the URLs of two listeners.
    fn start(mut command: Command, dir: &Path) -> Self {
        let mut child = command
            .current_dir(dir)
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let urls = lines.take(2).map(Result::unwrap).collect();
        Self { child, urls }
    }

    /// Passes on two sockets as the service manager does. Only three descriptors can be handed
    /// over from here, so its log goes to a file.
    fn with_sockets(sockets: [OwnedFd; 2], dir: &Path) -> Self {
        let [first, second] = sockets;
        let script = "exec 3<&0 4<&2 0</dev/null 2>log; \
                      LISTEN_PID=$$ LISTEN_FDS=2 LISTEN_FDNAMES=web:web exec \"$0\" \"$@\"";
        let mut command = Command::new("sh");
        command
            .args(["-c", script, WS, "serve", "--echo"])
            .args(["--listen", "systemd:web"])
            .env_remove("RUST_LOG")
            .stdin(Stdio::from(first))
            .stderr(Stdio::from(second));
        Self::start(command, dir)
    }

    fn stop(mut self) {
        let pid = i32::try_from(self.child.id()).unwrap();
        kill(Pid::from_raw(pid), Signal::SIGTERM).unwrap();
        assert!(self.child.wait().unwrap().success());
    }
}

impl Drop for Activated {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
fn sockets_of_the_service_manager_outlive_a_restart() {
    let dir = TempDir::new().unwrap();
    let path = dir.path().join("web.sock");
    let tcp = TcpListener::bind("127.0.0.1:0").unwrap();
    let addr = tcp.local_addr().unwrap();
    let listener = UnixListener::bind(&path).unwrap();
    let connect = || {
        let stream = TcpStream::connect(addr).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        (stream, unix(&path))
    };
    let mut inode = None;
    // Whoever comes while no server is there waits for the next one.
    let mut waiting = connect();
    for _ in 0..3 {
        let sockets = [
            tcp.try_clone().unwrap().into(),
            listener.try_clone().unwrap().into(),
        ];
        let server = Activated::with_sockets(sockets, dir.path());
        let expected = [
            format!("ws://{addr}/"),
            format!("ws+unix:{}", path.display()),
        ];
        assert_eq!(server.urls, expected);
        greet(waiting.0);
        greet(waiting.1);
        let (now, also) = connect();
        greet(now);
        greet(also);
        server.stop();
        waiting = connect();
        let same = path.metadata().unwrap().ino();
        assert_eq!(*inode.get_or_insert(same), same, "the path is left alone");
    }
}

#[test]
fn systemd_socket_activate_starts_it_for_the_first_visitor() {
    let installed = Command::new("systemd-socket-activate")
        .arg("--version")
        .output();
    if !installed.is_ok_and(|output| output.status.success()) {
        return;
    }
    let dir = TempDir::new().unwrap();
    // It takes no port 0, so both are Unix sockets.
    let [first, second] = ["a.sock", "b.sock"].map(|name| dir.path().join(name));
    let mut command = Command::new("systemd-socket-activate");
    command
        .args([
            Path::new("--listen"),
            &first,
            Path::new("--listen"),
            &second,
        ])
        .arg("--fdname=web:web")
        .args([WS, "serve", "--echo", "--listen", "systemd:web"])
        .stdin(Stdio::null())
        .stderr(Stdio::null());
    let visitor = std::thread::spawn({
        let path = first.clone();
        move || {
            // It listens soon, and only a visitor makes it start the server.
            let deadline = std::time::Instant::now() + PATIENCE;
            loop {
                match UnixStream::connect(&path) {
                    Ok(stream) => break stream,
                    Err(_) if std::time::Instant::now() < deadline => std::thread::yield_now(),
                    Err(error) => panic!("nobody listens: {error}"),
                }
            }
        }
    });
    let server = Activated::start(command, dir.path());
    let expected = [&first, &second].map(|path| format!("ws+unix:{}", path.display()));
    assert_eq!(server.urls, expected);
    greet(visitor.join().unwrap());
    greet(unix(&second));
    server.stop();
}

#[test]
fn a_socket_that_was_not_passed_on_is_missed() {
    let setup = Setup::new().listen("systemd:web").arg("--echo");
    let text = refusal_to_start(setup, 73);
    assert!(text.contains("cannot listen on systemd:web"), "{text}");
    assert!(text.contains("service manager"), "{text}");
}

//! Sockets from the service manager. The tests pass them on with a shell, to this binary run again
//! for one test alone: the environment and the descriptors are the process's.

#![expect(clippy::unwrap_used, reason = "the helpers panic as the tests do")]

use std::io::Read as _;
use std::net::{TcpListener, TcpStream};
use std::os::fd::OwnedFd;
use std::os::unix::net::{UnixListener, UnixStream};
use std::process::{Child, Command, Stdio};

use ws_transport::{BindError, BindOptions, InheritError, Inherited, ListenAddr, Listener};

const IS_CHILD: &str = "WS_TRANSPORT_TEST_INHERITED";

fn is_child() -> bool {
    std::env::var_os(IS_CHILD).is_some()
}

/// Runs one test of this module again, with descriptors from 3 on and these variables.
fn run(test: &str, descriptors: [OwnedFd; 2], variables: &str) -> Child {
    let [first, second] = descriptors;
    // An exec keeps the process id, so the shell's is the one to name.
    let script = format!("{variables} exec \"$0\" \"$@\" 3<&0 4<&1 0</dev/null 1>&2");
    Command::new("sh")
        .args(["-c", &script])
        .arg(std::env::current_exe().unwrap())
        .args(["--exact", &format!("inherited::{test}"), "--nocapture"])
        .env(IS_CHILD, "1")
        .stdin(Stdio::from(first))
        .stdout(Stdio::from(second))
        .spawn()
        .unwrap()
}

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_current_thread()
        .enable_io()
        .build()
        .unwrap()
}

#[test]
fn sockets_are_taken_by_name() {
    if is_child() {
        return runtime().block_on(greet_on_both());
    }
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("ws.sock");
    let (tcp, unix) = (
        TcpListener::bind("127.0.0.1:0").unwrap(),
        UnixListener::bind(&path).unwrap(),
    );
    let mut streams: [Box<dyn std::io::Read>; 2] = [
        Box::new(TcpStream::connect(tcp.local_addr().unwrap()).unwrap()),
        Box::new(UnixStream::connect(&path).unwrap()),
    ];
    let mut child = run(
        "sockets_are_taken_by_name",
        [tcp.into(), unix.into()],
        "LISTEN_PID=$$ LISTEN_FDS=2 LISTEN_FDNAMES=ws.socket:ws.socket",
    );
    for stream in &mut streams {
        let mut text = String::new();
        stream.read_to_string(&mut text).unwrap();
        assert_eq!(text, "hello");
    }
    assert!(child.wait().unwrap().success());
    assert!(path.exists(), "the path is the service manager's");
}

async fn greet_on_both() {
    let inherited = Inherited::from_env().unwrap();
    assert_eq!(inherited.names(), ["ws.socket", "ws.socket"]);
    assert!(std::env::var_os("LISTEN_FDS").is_none());
    let options = BindOptions {
        inherited: inherited.clone(),
        ..BindOptions::default()
    };
    let error = Listener::bind(&ListenAddr::systemd("other"), &options).unwrap_err();
    assert!(matches!(error, BindError::NotInherited { .. }), "{error}");

    let listeners = Listener::bind_all(&ListenAddr::systemd("ws.socket"), &options).unwrap();
    assert_eq!(inherited.names(), [""; 0]);
    let [tcp, unix] = &listeners[..] else {
        panic!("both are taken")
    };
    assert!(tcp.url().starts_with("ws://127.0.0.1:"), "{}", tcp.url());
    assert!(unix.url().ends_with("/ws.sock"), "{}", unix.url());
    for listener in &listeners {
        let opened = listener.accept().await.unwrap().open().await.unwrap();
        opened.stream.writable().await.unwrap();
        opened.stream.try_write(b"hello").unwrap();
    }
    Listener::bind_all(&ListenAddr::systemd("ws.socket"), &options).unwrap_err();
}

#[test]
fn what_is_meant_for_another_process_is_left_alone() {
    if is_child() {
        return assert_eq!(Inherited::from_env().unwrap().names(), [""; 0]);
    }
    let sockets = [(); 2].map(|()| TcpListener::bind("127.0.0.1:0").unwrap().into());
    let test = "what_is_meant_for_another_process_is_left_alone";
    let mut child = run(test, sockets, "LISTEN_PID=1 LISTEN_FDS=2");
    assert!(child.wait().unwrap().success());
}

#[test]
fn names_are_not_guessed() {
    if is_child() {
        let error = Inherited::from_env().unwrap_err();
        assert!(
            matches!(
                error,
                InheritError::Names {
                    sockets: 2,
                    names: 1
                }
            ),
            "{error}"
        );
        return;
    }
    let sockets = [(); 2].map(|()| TcpListener::bind("127.0.0.1:0").unwrap().into());
    let variables = "LISTEN_PID=$$ LISTEN_FDS=2 LISTEN_FDNAMES=a";
    let mut child = run("names_are_not_guessed", sockets, variables);
    assert!(child.wait().unwrap().success());
}

#[test]
fn what_does_not_listen_is_refused() {
    if is_child() {
        let error = Inherited::from_env().unwrap_err();
        assert!(
            matches!(&error, InheritError::NotListening { name } if name == "b"),
            "{error}"
        );
        return;
    }
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let connected = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    let variables = "LISTEN_PID=$$ LISTEN_FDS=2 LISTEN_FDNAMES=a:b";
    let sockets = [listener.into(), connected.into()];
    let mut child = run("what_does_not_listen_is_refused", sockets, variables);
    assert!(child.wait().unwrap().success());
}

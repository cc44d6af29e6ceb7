//! Disks that are full or read-only, and the exit code of everything that goes wrong.

use std::fs;
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use crate::support::{Server, Setup, WS, eventually};
use crate::wire::Wire;

/// What a shell does to have file systems of its own, which end with the server; `mounts` are run in
/// the server's directory. `None` where the system does not let us.
fn with_mounts(setup: Setup, mounts: &str) -> Option<Setup> {
    let flags = if nix::unistd::geteuid().is_root() {
        "-m"
    } else {
        "-rm"
    };
    let tried = Command::new("unshare")
        .args([flags, "mount", "-t", "tmpfs", "tmpfs", "/mnt"])
        .stderr(Stdio::null())
        .status();
    if !tried.is_ok_and(|status| status.success()) {
        return None;
    }
    let script = format!("{mounts} && exec \"$0\" \"$@\"");
    Some(setup.prelude(format!(
        "exec unshare {flags} sh -c '{script}' \"$0\" \"$@\""
    )))
}

/// A path as the server sees it, with its own mounts.
fn inside(server: &Server, name: &str) -> PathBuf {
    let directory = server.dir().strip_prefix("/").unwrap();
    Path::new(&format!("/proc/{}/root", server.pid()))
        .join(directory)
        .join(name)
}

/// Writes until there is no room.
fn fill(path: &Path) {
    use std::io::Write;
    let mut file = fs::File::create(path).unwrap();
    while file.write_all(&[0; 512]).is_ok() {}
}

#[tokio::test]
async fn a_full_disk_under_the_sessions_turns_newcomers_away_and_nobody_else() {
    let setup = Setup::new()
        .set("identity.store", "sqlite:disk/sessions.db")
        .arg("--echo");
    fs::create_dir(setup.dir().join("disk")).unwrap();
    let mounts = "mount -t tmpfs -o size=512k tmpfs disk";
    let Some(setup) = with_mounts(setup, mounts) else {
        return;
    };
    let server = setup.start();
    let (mut client, cookie) = server.connect_for_cookie().await;
    server.until("identity.changes_waiting", 0);
    fill(&inside(&server, "disk/filler"));
    // What can be written yet goes into pages that are there already.
    let mut refused = false;
    for _ in 0..200 {
        match server.connect_with("/", &[]).await {
            Ok(client) => crate::support::bye(client).await,
            Err(_) => {
                refused = true;
                break;
            }
        }
    }
    assert!(refused, "{}", server.status());
    assert_eq!(server.status()["identity"]["store_answers"], false);
    // Who is connected, or known, does not notice.
    assert_eq!(crate::support::ask(&mut client, "a").await, "a");
    let header = [("Cookie", cookie.as_str())];
    let mut known = server.connect_with("/", &header).await.unwrap();
    assert_eq!(crate::support::ask(&mut known, "b").await, "b");
    fs::remove_file(inside(&server, "disk/filler")).unwrap();
    eventually("the store answers again", || {
        server.status()["identity"]["store_answers"] == true
    });
    server.until("identity.changes_waiting", 0);
    crate::support::bye(server.connect().await).await;
    crate::support::bye(known).await;
    crate::support::bye(client).await;
    let log = server.finish();
    assert!(log.contains("database or disk is full"), "{log}");
}

/// There is room for one connection's FIFO, as small as the file system is.
#[test]
fn a_full_disk_under_the_fifos_turns_newcomers_away_and_nobody_else() {
    let setup = Setup::new().set("fifo.dir", "disk/fifo").arg("--echo");
    fs::create_dir(setup.dir().join("disk")).unwrap();
    let mounts = "mount -t tmpfs -o nr_inodes=5 tmpfs disk";
    let Some(setup) = with_mounts(setup, mounts) else {
        return;
    };
    let server = setup.start();
    let mut first = Wire::open(&server);
    let refused = crate::wire::refusal(&server, crate::wire::head("/", &[]));
    assert_eq!(refused.status, 503);
    first.say("still here");
    assert_eq!(first.hear(), "still here");
    first.bye();
    server.until("connections.open", 0);
    Wire::open(&server).bye();
    let log = server.finish();
    assert!(log.contains("cannot make the connection's FIFO"), "{log}");
    assert!(log.contains("No space left on device"), "{log}");
}

#[test]
fn a_read_only_state_directory_is_told() {
    for (flags, named) in [
        (["--state-dir", "disk"], "disk/control.sock"),
        (["--state-dir", "disk/new"], "disk/new"),
    ] {
        let setup = Setup::new().arg("--echo").arg(flags[0]).arg(flags[1]);
        fs::create_dir(setup.dir().join("disk")).unwrap();
        let Some(setup) = with_mounts(setup, "mount -t tmpfs -o ro tmpfs disk") else {
            return;
        };
        let output = setup.fail();
        let said = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(73), "{said}");
        assert!(
            said.contains(named) && said.contains("ead-only file system"),
            "{said}"
        );
    }
    let setup = Setup::new()
        .arg("--echo")
        .set("identity.store", "sqlite:disk/s.db");
    fs::create_dir(setup.dir().join("disk")).unwrap();
    let Some(setup) = with_mounts(setup, "mount -t tmpfs -o ro tmpfs disk") else {
        return;
    };
    let output = setup.fail();
    let said = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(78), "{said}");
    assert!(said.contains("disk/s.db"), "{said}");
}

#[test]
fn a_control_socket_that_nobody_serves_is_replaced_and_a_live_one_is_not() {
    let setup = Setup::new().arg("--echo");
    fs::create_dir(setup.dir().join("tmp")).unwrap();
    let path = setup.dir().join("tmp/control.sock");
    drop(UnixListener::bind(&path).unwrap());
    let server = setup.start();
    assert_eq!(server.control("GET", "/live", "").0, 200);
    server.finish();

    let setup = Setup::new().arg("--echo");
    fs::create_dir(setup.dir().join("tmp")).unwrap();
    let path = setup.dir().join("tmp/control.sock");
    let live = UnixListener::bind(&path).unwrap();
    let output = setup.fail();
    let said = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(73), "{said}");
    let told = format!("process {} is listening there", std::process::id());
    assert!(
        said.contains(&told) && said.contains("control.sock"),
        "{said}"
    );
    drop(live);
}

/// DESIGN 3.1: what scripts and supervisors rely on.
#[test]
fn every_exit_code_is_given_for_what_it_stands_for() {
    let server = Setup::new().arg("--echo").start();
    let dir = server.dir();
    fs::write(dir.join("broken.toml"), "[server").unwrap();
    fs::write(dir.join("unknown.toml"), "server.listn = 1").unwrap();
    fs::write(dir.join("file"), "").unwrap();
    fs::create_dir(dir.join("config.d")).unwrap();
    let taken = server.addr.to_string();
    let state = ["--state-dir", "other"];
    let cases: &[(i32, &[&str])] = &[
        (0, &["status"]),
        (0, &["--help"]),
        (0, &["--version"]),
        (0, &["config", "check"]),
        (69, &["connect", "ws://127.0.0.1:1/"]),
        (
            1,
            &[
                "send",
                "--all",
                "--control",
                "http://127.0.0.1:1",
                "--token-file",
                "none",
                "x",
            ],
        ),
        (2, &["nonsense"]),
        (2, &["send", "x"]),
        (2, &["serve", "--listen"]),
        (2, &["status", "--control", "http://nowhere"]),
        (69, &["status", "--control", "nobody.sock"]),
        (69, &["send", "--all", "--control", "file", "x"]),
        (69, &["ls", "--control", "http://127.0.0.1:1"]),
        (73, &["serve", "--echo", "--listen", "127.0.0.1:0"]),
        (
            73,
            &["serve", "--echo", "--listen", &taken, state[0], state[1]],
        ),
        (
            73,
            &[
                "serve",
                "--echo",
                "--listen",
                "unix:file",
                state[0],
                state[1],
            ],
        ),
        (
            73,
            &[
                "serve",
                "--echo",
                "--listen",
                "127.0.0.1:0",
                "--state-dir",
                "file/x",
            ],
        ),
        (75, &["send", "--all", "x"]),
        (75, &["send", "--user", "nobody", "x"]),
        (75, &["run", "--user", "nobody", "/time"]),
        (75, &["kick", "--user", "nobody"]),
        (75, &["sessions", "revoke", "--user", "nobody"]),
        (78, &["serve", "--config", "broken.toml"]),
        (78, &["serve", "--config", "unknown.toml"]),
        (78, &["serve", "--config", "none.toml"]),
        (78, &["serve", "--config", "config.d"]),
        (78, &["config", "check", "--config", "broken.toml"]),
        (78, &["config", "print", "--config", "unknown.toml"]),
        (78, &["ls", "--config", "broken.toml"]),
        (78, &["serve", "--listen", "nowhere"]),
        (78, &["serve", "--listen", "wss://127.0.0.1:0"]),
        (78, &["serve", "--dev", "--listen", "0.0.0.0:0"]),
    ];
    for (code, args) in cases {
        let output = Command::new(WS)
            .args(*args)
            .current_dir(dir)
            .env_remove("RUST_LOG")
            .stdin(Stdio::null())
            .output()
            .unwrap();
        let said = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(*code), "{args:?}: {said}");
        // What went wrong is said, and nothing of it on stdout.
        let is_told = said
            .lines()
            .any(|line| line.starts_with("ws: ") || line.starts_with("error: "));
        match code {
            0 => assert!(said.is_empty(), "{args:?}: {said}"),
            75 => {}
            _ => assert!(is_told && output.stdout.is_empty(), "{args:?}: {said}"),
        }
    }
    server.finish();
}

/// 77: to root nothing is forbidden, so root becomes somebody else.
#[test]
fn what_the_system_does_not_permit_is_exit_77() {
    use std::os::unix::process::CommandExt;
    let setup = Setup::new().arg("--echo");
    let dir = setup.dir().join("closed");
    fs::create_dir(&dir).unwrap();
    let mut command = Command::new(WS);
    if nix::unistd::geteuid().is_root() {
        command.uid(65_534).gid(65_534);
    } else {
        use std::os::unix::fs::PermissionsExt;
        fs::set_permissions(&dir, fs::Permissions::from_mode(0o500)).unwrap();
    }
    let output = command
        .args(["serve", "--echo", "--listen", "127.0.0.1:0", "--state-dir"])
        .arg(dir.join("state"))
        .current_dir("/")
        .output();
    // The program may lie where others cannot get.
    let Ok(output) = output else { return };
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(77), "{said}");
    assert!(said.contains("closed/state"), "{said}");
}

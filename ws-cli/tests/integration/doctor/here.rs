//! What is found without a URL.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;

use tempfile::TempDir;

use super::{examine, run};
use crate::secure::Authority;
use crate::support::Setup;

#[test]
fn a_server_that_is_well_is_found_to_be() {
    let setup = Setup::new().app("cat >/dev/null; echo asked > asked");
    let app = setup.dir().join("app.sh");
    let server = setup.start();
    let addr = server.addr.to_string();
    let args = ["--listen", &addr, "--", app.to_str().unwrap()];
    let found = run(server.dir(), &args);
    assert_eq!(found.code, Some(0), "{:#}", found.report);
    for check in [
        "configuration",
        "state directory",
        "FIFO directory",
        "session store",
    ] {
        assert_eq!(found.about(check)["verdict"], "ok");
    }
    let process = format!("process {}", server.pid());
    found.check("control socket", "ok", &process);
    found.check("application", "ok", "can be started");
    found.check("listener", "ok", "\"ping\" is answered with \"pong\"");
    // Not even by that.
    assert_eq!(server.figure("callbacks.started"), 0);
    server.finish();
}

#[test]
fn a_port_that_the_kernel_chose_is_found() {
    let server = Setup::new().arg("--echo").start();
    let found = run(server.dir(), &["--echo", "--listen", "127.0.0.1:0"]);
    found.check("listener", "ok", &format!("{}: 101, pong", server.addr));
    assert_eq!(found.code, Some(0));
    server.finish();
}

#[test]
fn text_names_verdicts_and_has_no_colour_in_a_pipe() {
    let server = Setup::new().arg("--echo").start();
    let addr = server.addr.to_string();
    let output = server.ws(&["doctor", "--echo", "--listen", &addr]);
    let text = String::from_utf8(output.stdout).unwrap();
    let line = format!("ok           listener: {addr}: 101, pong after ");
    assert!(text.contains(&line), "{text}");
    assert!(!text.contains('\u{1b}'), "{text}");
    assert!(output.status.success());
    server.finish();
}

#[test]
fn without_a_server_it_exits_with_69_and_without_a_configuration_with_78() {
    let dir = TempDir::new().unwrap();
    let found = run(dir.path(), &["--listen", "127.0.0.1:1"]);
    assert_eq!(found.code, Some(69));
    found.check("listener", "fault", "Start the server");
    found.check("control socket", "not_checked", "no server runs");
    let found = run(dir.path(), &["--listen", "nowhere"]);
    assert_eq!(found.code, Some(78));
    found.check("configuration", "fault", "server.listen");
}

#[test]
fn what_keeps_a_server_from_starting_is_found() {
    let dir = TempDir::new().unwrap();
    let state = dir.path().join("state");
    fs::create_dir(&state).unwrap();
    fs::set_permissions(&state, fs::Permissions::from_mode(0o777)).unwrap();
    fs::write(state.join("control.sock"), "").unwrap();
    let script = dir.path().join("script");
    fs::write(&script, "#!/no/such/interpreter\n").unwrap();
    fs::set_permissions(&script, fs::Permissions::from_mode(0o755)).unwrap();
    let script = script.to_str().unwrap();
    let listen = ["--listen", "127.0.0.1:1", "--state-dir", "state"];
    let with = |command: &[&str]| run(dir.path(), &[&listen, command].concat());

    let found = with(&["--validate", "no-such-command", "--", script]);
    found.check("state directory", "fault", "everybody may write");
    found.check("control socket", "fault", "is no socket");
    found.check(
        "application",
        "fault",
        "/no/such/interpreter, which does not exist",
    );
    found.check("validation", "fault", "in no directory of PATH");
    fs::set_permissions(script, fs::Permissions::from_mode(0o644)).unwrap();
    with(&["--", script]).check("application", "fault", "may not execute");
    let found = with(&["--fork", "--", "sh", "fork.php", "app.php"]);
    let told = found.report.to_string();
    assert!(told.contains("ws shim fork.php > fork.php"), "{told}");
}

#[test]
fn a_socket_that_a_killed_server_left_is_told_from_one_that_answers() {
    let server = Setup::new().arg("--echo").start();
    let addr = server.addr.to_string();
    let setup = server.kill();
    let found = run(setup.dir(), &["--echo", "--listen", &addr]);
    found.check("control socket", "warning", "nobody answers");
    assert_eq!(found.code, Some(69));
}

#[test]
fn another_server_at_the_listener_is_told_from_the_right_one() {
    let right = Setup::new().arg("--echo").start();
    let wrong = Setup::new().arg("--echo").start();
    let addr = wrong.addr.to_string();
    let found = run(right.dir(), &["--echo", "--listen", &addr]);
    found.check("listener", "fault", "not the one of the control socket");
    assert_eq!(found.code, Some(1));
    right.finish();
    wrong.finish();
}

#[test]
fn who_must_be_known_is_told_to_say_so() {
    let setup = Setup::new().arg("--echo");
    fs::write(
        setup.dir().join("ws.toml"),
        "[identity]\nrequire_cookie = true\n",
    )
    .unwrap();
    let server = setup.start();
    examine(&server, &[]).check("listener", "ok", "it wants to know who asks");
    examine(&server, &["--header", "Cookie: a=b"]).check("listener", "ok", "101");
    server.finish();
}

#[test]
fn listeners_with_tls_and_behind_proxies_are_asked_as_they_want() {
    let authority = Authority::new();
    let setup = Setup::new();
    authority.issue("localhost").write(setup.dir(), "");
    let configuration = "[server.tls]\ncert = 'cert.pem'\nkey = 'key.pem'\n\
                         [server.proxy]\ntrusted = ['127.0.0.1']\n";
    fs::write(setup.dir().join("ws.toml"), configuration).unwrap();
    let server = setup
        .listen("wss+proxy://127.0.0.1:0")
        .arg("--echo")
        .start();
    let listen = format!("wss+proxy://{}", server.addr);
    let found = run(server.dir(), &["--echo", "--listen", &listen]);
    found.check("listener", "ok", "101, pong");
    found.check("certificates", "warning", "no intermediate");
    assert_eq!(found.code, Some(0));
    server.finish();
}

#[test]
fn certificates_in_files_are_read_as_the_server_does() {
    let authority = Authority::new();
    let dir = TempDir::new().unwrap();
    let configuration = "[server]\nlisten = ['wss://127.0.0.1:1']\n\
                         [server.tls]\ncert = 'cert.pem'\nkey = 'key.pem'\n";
    fs::write(dir.path().join("ws.toml"), configuration).unwrap();
    let found = run(dir.path(), &["--echo"]);
    found.check("certificates", "fault", "cert.pem");
    authority.issue("localhost").write(dir.path(), "");
    authority.issue("localhost").write(dir.path(), "other-");
    fs::rename(dir.path().join("other-key.pem"), dir.path().join("key.pem")).unwrap();
    let found = run(dir.path(), &["--echo"]);
    found.check("certificates", "fault", "does not match");
}

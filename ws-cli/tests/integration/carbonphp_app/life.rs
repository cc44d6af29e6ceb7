//! Starts, stops and reloads of a server with an application.

use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt;

use super::*;

/// A server with two visitors, whose first waits for an answer until the gate is opened. `None` if
/// PHP is not installed.
async fn with_a_message_under_way() -> Option<(Server, Gate, [Client; 2])> {
    let setup = site()?;
    before_callbacks(
        setup.dir(),
        "if ($uri === '/wait') {
             fgets(fopen(__DIR__ . '/message', 'r'));
             echo 'waited';
             return true;
         }",
    );
    let gate = Gate::new(setup.dir(), "message");
    let server = setup.start();
    let mut client = enter(&server, "user=7").await;
    let other = enter(&server, "user=8").await;
    say(&mut client, "/wait").await;
    server.until("callbacks.started", 1);
    Some((server, gate, [client, other]))
}

#[tokio::test]
async fn b15_sigterm_finishes_the_message_and_goes() {
    let Some((server, mut gate, [mut client, mut idle])) = with_a_message_under_way().await else {
        return;
    };
    server.signal(Signal::SIGTERM);
    assert_eq!(close_code(&mut idle).await, 1001);
    gate.open(1);
    assert_eq!(hear(&mut client).await, "waited");
    assert_eq!(close_code(&mut client).await, 1001);
    server.check_end();
}

#[tokio::test]
async fn sighup_loads_the_application_anew_and_what_is_under_way_is_finished() {
    let Some((server, mut gate, [mut client, mut other])) = with_a_message_under_way().await else {
        return;
    };
    let answer = "if ($uri === '/version') { echo 'new'; return true; }";
    before_callbacks(server.dir(), answer);
    server.signal(Signal::SIGHUP);
    while ask(&mut other, "/version").await != "new" {}
    gate.open(1);
    assert_eq!(hear(&mut client).await, "waited");
    bye(client).await;
    bye(other).await;
    server.finish();
}

#[tokio::test]
async fn watch_loads_the_application_anew_when_its_code_changes() {
    let Some(setup) = site() else { return };
    let server = setup.arg("--watch").start();
    let mut client = enter(&server, "user=7").await;
    // What it writes itself is no change: with the log of it there would be no end of reloads.
    say(&mut client, "/throw").await;
    assert_eq!(ask(&mut client, "/echo/a").await, "a");
    before_callbacks(
        server.dir(),
        "if ($uri === '/new') { echo 'new'; return true; }",
    );
    let mut reply = String::new();
    while reply != "new" {
        reply = ask(&mut client, "/new").await;
    }
    bye(client).await;
    server.finish();
}

#[tokio::test]
async fn a_server_that_was_killed_is_followed_by_one_that_works() {
    let Some(setup) = site() else { return };
    let server = setup.start();
    let client = enter(&server, "user=7").await;
    // The original's, which it never removes, and which all may write to.
    let stale = server.state("fifo/7:127_0_0_1:1.fifo");
    nix::unistd::mkfifo(&stale, nix::sys::stat::Mode::S_IRWXU).unwrap();
    fs::set_permissions(&stale, fs::Permissions::from_mode(0o666)).unwrap();
    let setup = server.kill();
    drop(client);
    assert!(stale.exists());
    let setup = setup.arg("--carbonphp").arg("index.php").keeps(BRIDGE);
    let server = setup.start();
    assert!(!stale.exists());
    let mut client = enter(&server, "user=7").await;
    push(&server, "7", "/echo/again");
    assert_eq!(hear(&mut client).await, "again");
    bye(client).await;
    server.finish();
}

#[tokio::test]
async fn shutdown_functions_run_although_children_end_at_once() {
    let Some(setup) = site() else { return };
    let server = setup.start();
    let mut client = enter(&server, "user=7").await;
    assert_eq!(ask(&mut client, "/later/done").await, "at the end");
    eventually("it has run", || server.dir().join("done").exists());
    bye(client).await;
    server.finish();
}

/// A server that listens where the application says. `None` if PHP is not installed.
fn site_with_socket(socket: &str) -> Option<Setup> {
    let setup = site_in(Setup::new().without_listen())?;
    let code = format!("['configuration' => ['SOCKET' => ['HOST' => '127.0.0.1', {socket}]]]");
    configure(setup.dir(), &code);
    Some(setup)
}

/// A port that somebody has.
fn taken() -> (TcpListener, u16) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    (listener, port)
}

#[test]
fn a_taken_port_is_exit_code_73_and_the_note_says_what_it_was() {
    let (_listener, port) = taken();
    let Some(setup) = site_with_socket(&format!("'PORT' => {port}")) else {
        return;
    };
    let output = setup.fail();
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(73), "{said}");
    assert!(said.contains(&format!("127.0.0.1:{port}")), "{said}");
    assert!(
        said.contains("exit code 73, where CarbonPHP's server had 18"),
        "{said}"
    );
}

#[tokio::test]
async fn flags_of_the_original_work_and_the_log_says_what_to_write() {
    for (flags, instead) in [
        (&["--autoAssignAnyOpenPort"][..], "server.auto_port = true"),
        (
            &["--autoAssignOpenPorts", "true"],
            "server.auto_port = true",
        ),
        (
            &["--autoAssignOpenPorts", "-dontVerifyIP"],
            "identity.verify_ip = false",
        ),
    ] {
        let (_listener, port) = taken();
        let Some(mut setup) = site_with_socket(&format!("'PORT' => {port}")) else {
            return;
        };
        for flag in flags {
            setup = setup.arg(*flag);
        }
        let server = setup.start();
        let bound = server.addr.port();
        assert!(bound > port && bound <= port + 1000, "{bound} after {port}");
        let mut client = enter(&server, "user=7").await;
        assert_eq!(ask(&mut client, "/echo/hello").await, "hello");
        bye(client).await;
        let log = server.finish();
        let told = records(
            &log,
            "a flag of CarbonPHP's server: write the setting instead",
        );
        assert!(
            told.iter().any(|record| record["instead"] == instead),
            "{log}"
        );
    }
}

#[test]
fn a_flag_that_turns_off_is_told_as_one() {
    let (_listener, port) = taken();
    let Some(setup) = site_with_socket(&format!("'PORT' => {port}")) else {
        return;
    };
    let output = setup.arg("--autoAssignOpenPorts=false").fail();
    assert_eq!(output.status.code(), Some(73));
    let log = String::from_utf8_lossy(&output.stderr);
    assert!(log.contains("server.auto_port = false"), "{log}");
}

#[test]
fn help_as_the_original_has_it_is_given_and_the_note_says_what_to_write() {
    for (flag, is_noted) in [("-help", true), ("--help", false)] {
        let help = Command::new(env!("CARGO_BIN_EXE_ws"))
            .args(["serve", flag])
            .output();
        let help = help.unwrap();
        assert!(help.status.success());
        assert!(String::from_utf8_lossy(&help.stdout).contains("--carbonphp"));
        let said = String::from_utf8_lossy(&help.stderr);
        assert_eq!(said.contains("write --help instead"), is_noted, "{said}");
    }
}

#[test]
fn a_certificate_of_the_application_makes_it_wss_and_empty_paths_are_none() {
    let files = "'KEY' => __DIR__ . '/key.pem', 'CERT' => __DIR__ . '/cert.pem'";
    let Some(setup) = site_with_socket(&format!("'PORT' => 0, 'SSL' => [{files}]")) else {
        return;
    };
    let made = Command::new(env!("CARGO_BIN_EXE_ws"))
        .args(["cert", "--out"])
        .arg(setup.dir())
        .output();
    assert!(made.unwrap().status.success());
    let server = setup.start();
    assert!(server.url.starts_with("wss://127.0.0.1:"), "{}", server.url);
    server.finish();

    let Some(setup) = site_with_socket("'PORT' => 0, 'SSL' => ['KEY' => '', 'CERT' => '']") else {
        return;
    };
    let server = setup.start();
    assert!(server.url.starts_with("ws://127.0.0.1:"), "{}", server.url);
    server.finish();
}

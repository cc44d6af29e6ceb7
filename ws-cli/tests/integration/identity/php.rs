//! Session files of PHP, written by PHP.

use std::fs::File;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use super::*;

/// A session id that PHP could have made.
const ID: &str = "abcdefghijklmnopqrstuvwx01";
const COOKIE: &str = "PHPSESSID=abcdefghijklmnopqrstuvwx01";

/// A server that reads the sessions in a directory of its own.
fn reader() -> (Setup, PathBuf) {
    let setup = Setup::new().app(WHO);
    let sessions = setup.dir().join("sessions");
    std::fs::create_dir(&sessions).unwrap();
    (setup.set("identity.php.save_path", "sessions"), sessions)
}

fn file(sessions: &Path) -> PathBuf {
    sessions.join(format!("sess_{ID}"))
}

/// Writes a session, all at once: without PHP's lock, half of it could be read.
fn write(sessions: &Path, text: &[u8]) {
    let new = sessions.join("new");
    std::fs::write(&new, text).unwrap();
    let mode = std::fs::Permissions::from_mode(0o600);
    std::fs::set_permissions(&new, mode).unwrap();
    std::fs::rename(&new, file(sessions)).unwrap();
}

/// Has PHP run this within the session; `false` if there is no PHP.
#[expect(clippy::print_stderr, reason = "a test that is skipped says so")]
fn php(sessions: &Path, handler: &str, code: &str) -> bool {
    let code = format!("session_id('{ID}'); session_start(); {code}");
    let output = Command::new("php")
        .args(["-d", &format!("session.save_path={}", sessions.display())])
        .args(["-d", &format!("session.serialize_handler={handler}")])
        .args(["-d", "session.use_strict_mode=0", "-r", &code])
        .output();
    let Ok(output) = output else {
        eprintln!("skipped: there is no php");
        return false;
    };
    let told = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success() && told.is_empty(), "{told}");
    true
}

#[tokio::test]
async fn whoever_is_logged_in_in_php_is_whom_the_session_names() {
    for handler in ["php", "php_binary", "php_serialize"] {
        let (setup, sessions) = reader();
        let server = setup
            .validate("exit 1")
            .set("identity.php.user_key", "id, user.profile.id, account.id")
            .set("identity.php.serialize_handler", handler)
            .start();
        for (code, expected) in [
            ("$_SESSION['id'] = 7;", Ok("7")),
            ("$_SESSION['id'] = 'jörg@example';", Ok("jörg@example")),
            (
                r#"$_SESSION['a'] = "|;\"}\0id|i:8;"; $_SESSION['f'] = -1.5e99;
                   $_SESSION['n'] = NAN; $_SESSION['id'] = 9; $_SESSION['z'] = [1, [2, [null]]];"#,
                Ok("9"),
            ),
            (
                "$_SESSION['id'] = null; $_SESSION['user'] = ['profile' => ['id' => '10']];",
                Ok("10"),
            ),
            (
                "unset($_SESSION['id'], $_SESSION['user']); \
                 class Account { private $id = 11; public $at; function __construct() { $this->at = $this; } } \
                 $_SESSION['account'] = new Account;",
                Ok("11"),
            ),
            (
                "$_SESSION['real'] = 12; $_SESSION['id'] =& $_SESSION['real'];",
                Ok("12"),
            ),
            (
                "unset($_SESSION['id']); $_SESSION['when'] = new DateTime; $_SESSION['id'] = 13;",
                Ok("13"),
            ),
            // Nobody is logged in: the validation is asked.
            ("$_SESSION = [];", Err(401)),
            ("$_SESSION['id'] = false;", Err(401)),
            ("$_SESSION['id'] = 0;", Err(401)),
            ("$_SESSION['id'] = '';", Err(401)),
            // What is there names nobody.
            ("$_SESSION['id'] = [7];", Err(503)),
            ("$_SESSION['id'] = 7.5;", Err(503)),
            ("$_SESSION['id'] = true;", Err(503)),
            ("$_SESSION['id'] = 'a b';", Err(503)),
            ("$_SESSION['id'] = str_repeat('a', 256);", Err(503)),
        ] {
            if !php(&sessions, handler, code) {
                server.finish();
                return;
            }
            let end = who_with_cookie(&server, COOKIE).await;
            assert_eq!(
                end.as_deref(),
                expected.as_ref().copied(),
                "{handler}: {code}"
            );
        }
        php(&sessions, handler, "session_destroy();");
        assert_eq!(who_with_cookie(&server, COOKIE).await, Err(401));
        assert_eq!(who(&server, &[]).await, Err(401));
        assert_eq!(server.figure("identities.identified_by.php"), 7);
        assert_eq!(server.figure("identities.refused_by.unreadable"), 5);
        assert_eq!(server.figure("callbacks.validations"), 6);
        server.finish();
    }
}

#[tokio::test]
async fn a_cookie_that_php_does_not_give_is_refused() {
    let (setup, sessions) = reader();
    let server = setup.start();
    write(&sessions, b"id|i:7;");
    std::fs::write(server.dir().join("sess_outside-the-directory"), "id|i:7;").unwrap();
    for id in [
        "../sess_outside-the-directory",
        "..%2fsess_outside-the-directory",
        "short",
        &"a".repeat(257),
        "abcdefghijklmnopqrstuvwx01/",
        "abcdefghijklmnopqrstuvwx01.",
    ] {
        let end = who_with_cookie(&server, &format!("PHPSESSID={id}")).await;
        assert_eq!(end, Err(401), "{id}");
    }
    assert_eq!(who_with_cookie(&server, COOKIE).await.as_deref(), Ok("7"));
    // One of its form that is no session is nobody's: a guest.
    let other = format!("PHPSESSID={}", "b".repeat(26));
    assert_eq!(who_with_cookie(&server, &other).await.unwrap().len(), 32);
    server.finish();
}

#[tokio::test]
async fn a_file_that_others_could_have_made_is_not_believed() {
    let (setup, sessions) = reader();
    let server = setup.set("identity.php.max_size", "64").start();
    write(&sessions, b"id|i:7;");
    assert_eq!(who_with_cookie(&server, COOKIE).await.as_deref(), Ok("7"));

    let outside = server.dir().join("outside");
    std::fs::rename(file(&sessions), &outside).unwrap();
    std::os::unix::fs::symlink(&outside, file(&sessions)).unwrap();
    assert_eq!(who_with_cookie(&server, COOKIE).await, Err(503), "a link");
    std::fs::remove_file(file(&sessions)).unwrap();

    std::fs::create_dir(file(&sessions)).unwrap();
    assert_eq!(
        who_with_cookie(&server, COOKIE).await,
        Err(503),
        "a directory"
    );
    std::fs::remove_dir(file(&sessions)).unwrap();

    nix::unistd::mkfifo(&file(&sessions), nix::sys::stat::Mode::S_IRWXU).unwrap();
    assert_eq!(who_with_cookie(&server, COOKIE).await, Err(503), "a FIFO");
    std::fs::remove_file(file(&sessions)).unwrap();

    write(&sessions, b"id|i:7;");
    let shared = std::fs::Permissions::from_mode(0o622);
    std::fs::set_permissions(file(&sessions), shared).unwrap();
    assert_eq!(
        who_with_cookie(&server, COOKIE).await,
        Err(503),
        "anybody's"
    );

    write(
        &sessions,
        format!("x|s:60:\"{}\";id|i:7;", "x".repeat(60)).as_bytes(),
    );
    assert_eq!(
        who_with_cookie(&server, COOKIE).await,
        Err(503),
        "too large"
    );

    write(&sessions, b"id|i:7;x|s:5:\"cut");
    assert_eq!(who_with_cookie(&server, COOKIE).await, Err(503), "cut off");

    if nix::unistd::geteuid().is_root() {
        write(&sessions, b"id|i:7;");
        std::os::unix::fs::chown(file(&sessions), Some(12_345), None).unwrap();
        assert_eq!(
            who_with_cookie(&server, COOKIE).await,
            Err(503),
            "a stranger's"
        );
    }
    let log = server.finish();
    assert!(!log.contains(ID), "the log names a session:\n{log}");
}

#[tokio::test]
async fn the_owner_that_is_named_is_believed() {
    if !nix::unistd::geteuid().is_root() {
        return;
    }
    let (setup, sessions) = reader();
    let server = setup.set("identity.php.owner", "12345").start();
    write(&sessions, b"id|i:7;");
    std::os::unix::fs::chown(file(&sessions), Some(12_345), None).unwrap();
    assert_eq!(who_with_cookie(&server, COOKIE).await.as_deref(), Ok("7"));
    server.finish();
}

#[tokio::test]
async fn a_session_is_not_read_while_php_may_be_writing_it() {
    let (setup, sessions) = reader();
    let server = setup.set("identity.php.timeout", "300ms").start();
    write(&sessions, b"id|i:7;");
    let held = File::options().write(true).open(file(&sessions)).unwrap();
    held.lock().unwrap();
    // As it is between the two system calls with which PHP writes a shorter session.
    held.set_len(0).unwrap();
    assert_eq!(who_with_cookie(&server, COOKIE).await, Err(503));
    assert_eq!(server.figure("identities.refused_by.timeout"), 1);

    // Whoever comes meanwhile gets to know what was written in the end.
    let mut patient = Box::pin(who_with_cookie(&server, COOKIE));
    tokio::select! {
        biased;
        end = &mut patient => panic!("{end:?} before the end of the page"),
        () = tokio::task::yield_now() => {}
    }
    std::io::Write::write_all(&mut &held, b"id|i:8;").unwrap();
    drop(held);
    assert_eq!(patient.await.as_deref(), Ok("8"));
    server.finish();
}

#[tokio::test]
async fn t02_whoever_logs_out_is_closed_when_the_session_is_read_again() {
    let (setup, sessions) = reader();
    let server = setup.set("identity.php.recheck", "1s").start();
    let mut clients = Vec::new();
    for _ in 0..2 {
        write(&sessions, b"id|i:7;");
        let headers = [("Cookie", COOKIE)];
        clients.push(server.connect_with("/", &headers).await.unwrap());
    }
    let sessions_seen: Vec<_> = server
        .connections()
        .iter()
        .map(|connection| connection["session"].clone())
        .collect();
    assert_eq!(
        sessions_seen[0], sessions_seen[1],
        "one session of PHP is one session"
    );
    // What cannot be read changes nothing.
    write(&sessions, b"id|i:");
    server.until("identities.rechecks_failed", 2);
    assert_eq!(ask(&mut clients[0], "who?").await, "7");
    std::fs::remove_file(file(&sessions)).unwrap();
    for client in &mut clients {
        assert_eq!(close_code(client).await, 1008);
    }
    for client in clients {
        bye(client).await;
    }
    // Another login in the same session is another user.
    write(&sessions, b"id|i:7;");
    let headers = [("Cookie", COOKIE)];
    let mut client = server.connect_with("/", &headers).await.unwrap();
    write(&sessions, b"id|i:8;");
    assert_eq!(close_code(&mut client).await, 1008);
    bye(client).await;
    server.until("connections.closed_by.validation", 3);
    server.finish();
}

#[tokio::test]
async fn t02_a_session_that_cannot_be_read_does_not_last_for_ever() {
    let (setup, sessions) = reader();
    let server = setup.set("identity.php.recheck", "1s").start();
    let mut clients = Vec::new();
    let other = ID.to_uppercase();
    for (id, content) in [(ID, b"id|i:7;"), (&other, b"id|i:8;")] {
        write(&sessions, content);
        std::fs::rename(file(&sessions), sessions.join(format!("sess_{id}"))).unwrap();
        let cookie = format!("PHPSESSID={id}");
        let headers = [("Cookie", cookie.as_str())];
        clients.push(server.connect_with("/", &headers).await.unwrap());
    }
    write(&sessions, b"id|i:");
    assert_eq!(close_code(&mut clients[0]).await, 1013);
    assert!(server.figure("identities.rechecks_failed") >= 3);
    assert_eq!(ask(&mut clients[1], "who?").await, "8");
    for client in clients {
        bye(client).await;
    }
    server.finish();
}

#[tokio::test]
async fn a_directory_that_vanishes_lets_nobody_in_and_closes_nobody() {
    let (setup, sessions) = reader();
    let server = setup.set("identity.php.recheck", "1s").start();
    write(&sessions, b"id|i:7;");
    let headers = [("Cookie", COOKIE)];
    let mut client = server.connect_with("/", &headers).await.unwrap();
    let away = sessions.with_extension("away");
    std::fs::rename(&sessions, &away).unwrap();
    assert_eq!(who_with_cookie(&server, COOKIE).await, Err(503));
    server.until("identities.rechecks_failed", 1);
    assert_eq!(ask(&mut client, "who?").await, "7");
    // In its place again, it says who has logged out.
    std::fs::remove_file(file(&away)).unwrap();
    std::fs::rename(&away, &sessions).unwrap();
    assert_eq!(close_code(&mut client).await, 1008);
    bye(client).await;
    server.finish();
}

#[test]
fn a_directory_that_is_not_there_is_told_at_the_start() {
    let output = Setup::new()
        .app(WHO)
        .set("identity.php.save_path", "nowhere")
        .fail();
    let told = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(78), "{told}");
    assert!(told.contains("identity.php.save_path"), "{told}");
}

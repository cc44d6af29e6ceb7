//! What a callback may not do, and how much of the host it may use.

use std::path::Path;

use super::until_failed;
use crate::support::*;

/// Whether callbacks may run as somebody else; says so if not.
#[expect(clippy::print_stderr, reason = "a test that is skipped says so")]
fn is_root() -> bool {
    let is_root = nix::unistd::geteuid().is_root();
    if !is_root {
        eprintln!("skipped: only root may run callbacks as somebody else");
    }
    is_root
}

/// A server whose callbacks run as a user that nobody else is.
fn as_stranger() -> Setup {
    let uid = 100_000 + std::process::id() % 30_000 * 16;
    let setup = Setup::new()
        .set("app.user", uid.to_string())
        .set("app.group", "65534");
    // The directory is the tests' own; he has to find the program in it.
    let mode = std::os::unix::fs::PermissionsExt::from_mode(0o755);
    std::fs::set_permissions(setup.dir(), mode).unwrap();
    setup
}

#[tokio::test]
async fn t64_root_without_a_user_to_run_callbacks_as_refuses_to_start() {
    if !is_root() {
        return;
    }
    let setup = || Setup::new().set("app.require_user", "true").app("cat");
    let output = setup().fail();
    assert_eq!(output.status.code(), Some(78));
    let error = String::from_utf8(output.stderr).unwrap();
    assert!(error.contains("app.require_user"), "{error}");
    let server = setup().set("app.user", "65534").set("app.group", "65534");
    server.start().finish();
}

#[tokio::test]
async fn t64_callback_has_no_privileges_and_gains_none() {
    let fields = |status: String| -> Vec<String> {
        let lines = status.lines().map(|line| line.replace('\t', " "));
        lines.collect()
    };
    let server = Setup::new()
        .command(&["grep", "^NoNewPrivs", "/proc/self/status"])
        .start();
    let mut client = server.connect().await;
    assert_eq!(ask(&mut client, "?").await, "NoNewPrivs:\t1");
    bye(client).await;
    server.finish();
    if !is_root() {
        return;
    }
    let server = as_stranger()
        .command(&[
            "grep",
            "-E",
            "^(NoNewPrivs|CapEff|CapPrm)",
            "/proc/self/status",
        ])
        .start();
    let mut client = server.connect().await;
    assert_eq!(
        fields(ask(&mut client, "?").await),
        [
            "CapPrm: 0000000000000000",
            "CapEff: 0000000000000000",
            "NoNewPrivs: 1"
        ]
    );
    bye(client).await;
    server.finish();
}

#[tokio::test]
async fn t59_limits_of_the_application_and_of_the_validation_are_their_own() {
    let report = "ulimit -n; ulimit -f; ulimit -t; umask; nice; pwd";
    let setup = Setup::new();
    for name in ["app", "validation"] {
        std::fs::create_dir(setup.dir().join(name)).unwrap();
    }
    let server = setup
        .set("app.max_open_files", "40")
        .set("app.max_file_size", "1MiB")
        .set("app.max_cpu_time", "1500ms")
        .set("app.umask", "0027")
        .set("app.nice", "3")
        .set("app.dir", "app")
        .set("validate.max_open_files", "50")
        .set("validate.max_file_size", "2MiB")
        .set("validate.umask", "0077")
        .set("validate.dir", "validation")
        .app(report)
        .validate(&format!("{{ {report}; }} > report; echo alice"))
        .start();
    let dir = std::fs::canonicalize(server.dir()).unwrap();
    let mut client = server.connect().await;
    // Files are in blocks of 512 bytes.
    let app = format!("40\n2048\n2\n0027\n3\n{}", dir.join("app").display());
    assert_eq!(ask(&mut client, "?").await, app);
    let validation = std::fs::read_to_string(dir.join("validation/report")).unwrap();
    let place = dir.join("validation").display().to_string();
    let lines: Vec<_> = validation.lines().collect();
    // Unless it is told otherwise, it yields to the server.
    assert_eq!((lines[0], lines[1], lines[3]), ("50", "4096", "0077"));
    assert_eq!(lines[4], "10");
    assert_eq!(lines[5], place);
    bye(client).await;
    server.finish();
}

#[tokio::test]
async fn t59_memory_hog_and_fork_bomb_cost_their_own_message() {
    if !is_root() {
        return;
    }
    let server = as_stranger()
        .set("app.max_memory", "100MiB")
        .set("app.max_processes", "30")
        .set("app.error_reply", "failed")
        .set("app.timeout", "2s")
        .app(
            r#"case "$(cat)" in
            hog) exec dd if=/dev/zero of=/dev/null bs=300M count=1;;
            bomb) bomb() { bomb | bomb & sleep 0.01; }; bomb & exec sleep 600;;
            esac; echo unharmed"#,
        )
        .start();
    let mut client = server.connect().await;
    let mut other = server.connect().await;
    assert_eq!(ask(&mut client, "hog").await, "failed");
    until_failed(&server, "exit", 1);
    say(&mut client, "bomb").await;
    // All of them are one user's, so his other callbacks may fail while it lasts, and no longer.
    for _ in 0..5 {
        let answer = ask(&mut other, "hello").await;
        assert!(answer == "unharmed" || answer == "failed", "{answer}");
    }
    assert_eq!(hear(&mut client).await, "failed");
    eventually("the bomb is cleared away", || {
        let family = server.processes();
        family
            .iter()
            .all(|(_, command)| command.contains("__spawner"))
    });
    assert_eq!(ask(&mut client, "hello").await, "unharmed");
    assert_eq!(ask(&mut other, "hello").await, "unharmed");
    bye(client).await;
    bye(other).await;
    server.finish();
}

#[tokio::test]
async fn t64_landlock_leaves_the_listed_paths() {
    let setup = Setup::new().set("app.error_reply", "failed");
    let dir = setup.dir().to_owned();
    std::fs::create_dir(dir.join("data")).unwrap();
    std::fs::write(dir.join("data/file"), "data").unwrap();
    std::fs::write(dir.join("secret"), "secret").unwrap();
    let system = ["/bin", "/lib", "/lib64", "/usr"];
    let system = system.into_iter().filter(|path| Path::new(path).exists());
    let execute: Vec<_> = system.chain(["app.sh"]).collect();
    let server = setup
        .set("app.landlock_execute", execute.join(","))
        .set("app.landlock_read", "data")
        .app("cat data/file; cat secret; (echo x > data/new); true")
        .start();
    let mut client = server.connect().await;
    let answer = ask(&mut client, "?").await;
    assert!(!dir.join("data/new").exists());
    bye(client).await;
    let log = server.finish();
    let is_missing = log.contains("Function not implemented") || log.contains("not supported");
    assert!(
        answer == "data" || answer == "failed" && is_missing,
        "{answer}: {log}"
    );
}

#[tokio::test]
async fn t64_landlock_without_no_new_privs_is_a_fault() {
    let output = Setup::new()
        .set("app.landlock_read", "data")
        .set("app.no_new_privs", "false")
        .app("cat")
        .fail();
    assert_eq!(output.status.code(), Some(78));
    let error = String::from_utf8(output.stderr).unwrap();
    assert!(error.contains("app.no_new_privs"), "{error}");
}

/// Makes a directory look like a control group that has these controllers.
fn fake_group(dir: &Path, controllers: &str) {
    std::fs::create_dir(dir).unwrap();
    std::fs::write(dir.join("cgroup.controllers"), controllers).unwrap();
    std::fs::write(dir.join("cgroup.subtree_control"), "").unwrap();
}

#[tokio::test]
async fn t59_limit_without_its_controller_is_no_start() {
    let setup = Setup::new();
    fake_group(&setup.dir().join("group"), "cpu pids\n");
    let output = setup
        .set("app.cgroup", "group")
        .set("app.max_memory", "100MiB")
        .app("cat")
        .fail();
    assert_eq!(output.status.code(), Some(78));
    let error = String::from_utf8(output.stderr).unwrap();
    assert!(
        error.contains("app.cgroup") && error.contains("no memory controller"),
        "{error}"
    );
}

#[tokio::test]
async fn t59_run_that_cannot_have_its_control_group_does_not_start() {
    let setup = Setup::new().set("app.error_reply", "failed");
    let group = setup.dir().join("group");
    fake_group(&group, "memory pids\n");
    let server = setup
        .set("app.cgroup", "group")
        .set("app.max_processes", "10")
        .app("cat")
        .start();
    let control = std::fs::read_to_string(group.join("cgroup.subtree_control")).unwrap();
    assert_eq!(control, "+pids");
    let mut client = server.connect().await;
    assert_eq!(ask(&mut client, "hello").await, "failed");
    until_failed(&server, "cannot_start", 1);
    bye(client).await;
    server.finish();
}

//! Callbacks in control groups (v2), where the host has what that takes; what is missing is said.

use std::os::unix::fs::{PermissionsExt, chown};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};

use super::until_failed;
use crate::support::*;

/// A control group for a server or its callbacks; removed at the end.
struct Group(PathBuf);

impl Group {
    /// Makes one beneath the root of all; `None`, aloud, where that cannot be.
    fn make() -> Option<Self> {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let mounts = std::fs::read_to_string("/proc/self/mountinfo").unwrap();
        let mount = mounts.lines().find(|line| line.contains(" - cgroup2 "));
        let root = mount
            .and_then(|line| line.split(' ').nth(4))
            .unwrap_or("/none");
        let number = COUNT.fetch_add(1, Ordering::Relaxed);
        let name = format!("ws-cli-test-{}-{number}", std::process::id());
        let dir = Path::new(root).join(name);
        if std::fs::create_dir(&dir).is_err() {
            skip("no control group (v2) can be made here");
            return None;
        }
        Some(Self(dir))
    }

    /// Makes one that can limit memory and processes, and delegates it to a user as a service
    /// manager does.
    fn delegate(uid: u32) -> Option<Self> {
        let group = Self::make()?;
        let controllers = std::fs::read_to_string(group.0.join("cgroup.controllers")).unwrap();
        let has = |name: &str| controllers.split_whitespace().any(|it| it == name);
        if !has("memory") || !has("pids") {
            skip("control groups (v2) have no controllers of memory and processes here");
            return None;
        }
        for name in [
            "",
            "cgroup.procs",
            "cgroup.subtree_control",
            "cgroup.threads",
        ] {
            chown(group.0.join(name), Some(uid), Some(uid)).unwrap();
        }
        Some(group)
    }

    /// The directories of the groups in it.
    fn inner(&self) -> Vec<PathBuf> {
        let entries = std::fs::read_dir(&self.0).unwrap().flatten();
        let dirs = entries.filter(|entry| entry.path().is_dir());
        dirs.map(|entry| entry.path()).collect()
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        // The leaf that a server makes for itself is empty when that has ended.
        for dir in self.inner() {
            let _ = std::fs::remove_dir(dir);
        }
        let _ = std::fs::remove_dir(&self.0);
    }
}

#[expect(clippy::print_stderr, reason = "a test that is skipped says so")]
fn skip(why: &str) {
    eprintln!("skipped: {why}");
}

#[tokio::test]
async fn t57_nothing_leaves_its_control_group() {
    let Some(group) = Group::make() else {
        return;
    };
    let server = Setup::new()
        .set("app.cgroup", group.0.to_str().unwrap())
        .app("setsid env -i setsid sleep 600 >/dev/null 2>&1 & grep ^0:: /proc/self/cgroup")
        .start();
    let mut client = server.connect().await;
    let answer = ask(&mut client, "where?").await;
    let name = group.0.file_name().unwrap().to_str().unwrap();
    assert!(answer.starts_with(&format!("0::/{name}/")), "{answer}");
    eventually("the group is gone with all that was in it", || {
        group.inner().is_empty()
    });
    bye(client).await;
    server.finish();
}

#[tokio::test]
async fn t59_root_s_own_group_limits_each_run_as_a_whole() {
    limits_each_run_as_a_whole(0).await;
}

#[tokio::test]
async fn t59_group_delegated_to_a_user_limits_each_run_as_a_whole() {
    limits_each_run_as_a_whole(100_000 + std::process::id() % 30_000 * 16 + 8).await;
}

const HOGS: &str = r#"hog() { dd if=/dev/zero of=/dev/null bs=200M count=1; }
case "$(cat)" in
    hog) hog; echo survived;;
    hidden) (setsid sh -c 'env -i setsid dd if=/dev/zero of=/dev/null bs=200M count=1' &)
        exec sleep 600;;
    bomb) bomb() { bomb | bomb & sleep 0.01; }; bomb & exec sleep 600;;
    *) echo unharmed;;
esac"#;

/// The server is of this user, in a group of its own that is delegated to him.
async fn limits_each_run_as_a_whole(uid: u32) {
    let Some(group) = Group::delegate(uid) else {
        return;
    };
    let dir = group.0.display();
    let setup = Setup::new()
        // The program by a descriptor: he may not reach the directory that it is in.
        .prelude(format!(
            "echo 0 > {dir}/cgroup.procs; exec 3< \"$0\"; \
             exec setpriv --reuid={uid} --regid={uid} --clear-groups /proc/self/fd/3 \"$@\""
        ))
        .set("app.cgroup", "own")
        .set("app.max_memory", "32MiB")
        .set("app.max_processes", "20")
        .set("app.error_reply", "failed")
        .set("app.timeout", "8s")
        .app(HOGS);
    let mode = std::fs::Permissions::from_mode(0o755);
    std::fs::set_permissions(setup.dir(), mode).unwrap();
    chown(setup.dir(), Some(uid), Some(uid)).unwrap();
    let server = setup.start();
    let mut client = server.connect().await;
    let mut other = server.connect().await;
    // The whole run is killed, whoever in it takes too much.
    for (message, count) in [("hog", 1), ("hidden", 2)] {
        assert_eq!(ask(&mut client, message).await, "failed", "{message}");
        until_failed(&server, "signal", count);
        assert_eq!(ask(&mut other, "hello").await, "unharmed");
    }
    say(&mut client, "bomb").await;
    let mut most = 0;
    for _ in 0..20 {
        // The limit is that of a run, not of a user: others have theirs.
        assert_eq!(ask(&mut other, "hello").await, "unharmed");
        let runs = group.inner().into_iter().filter_map(|dir| {
            let count = std::fs::read_to_string(dir.join("pids.current")).ok()?;
            (!dir.ends_with("server")).then(|| count.trim().parse::<u32>().unwrap())
        });
        most = runs.chain([most]).max().unwrap_or_default();
    }
    assert!((2..=20).contains(&most), "{most} processes in a run");
    assert_eq!(hear(&mut client).await, "failed");
    server.until("callbacks.failed_by.timeout", 1);
    eventually("nothing is left of any run", || {
        group.inner().iter().all(|dir| dir.ends_with("server"))
    });
    assert_eq!(ask(&mut client, "hello").await, "unharmed");
    bye(client).await;
    bye(other).await;
    server.finish();
}

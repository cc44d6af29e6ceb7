//! T40: who may write to a FIFO may act as its user.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::Command;

use ws_ipc::fifo::{FifoDirectory, FifoError, FifoOptions, Found};

use super::{NAME, NOBODY, chmod, directory, is_root, mode};

/// The umask belongs to the process, so each one gets a process: this test, run again.
#[tokio::test]
async fn t40_modes_are_exact_under_umask_000_002_and_077() {
    const INNER: &str = "WS_IPC_TEST_UMASK_DIR";
    if let Some(dir) = std::env::var_os(INNER) {
        let options = FifoOptions::default();
        let directory = FifoDirectory::open(Path::new(&dir).join("a/fifo"), options).unwrap();
        let fifo = directory.create(NAME).unwrap();
        assert_eq!(mode(directory.path()), 0o750);
        assert_eq!(mode(fifo.path()), 0o620);
        assert_eq!(mode(&directory.path().join(".lock")) & 0o077, 0);
        return;
    }
    for umask in ["000", "002", "077"] {
        let temp = tempfile::tempdir().unwrap();
        let name = "fifo::modes::t40_modes_are_exact_under_umask_000_002_and_077";
        let output = Command::new("sh")
            .args(["-c", "umask $0 && exec \"$@\"", umask])
            .arg(std::env::current_exe().unwrap())
            .args(["--exact", name])
            .env(INNER, temp.path())
            .output()
            .unwrap();
        let stdout = String::from_utf8_lossy(&output.stdout);
        assert!(
            output.status.success() && stdout.contains("1 passed"),
            "{umask}: {output:?}"
        );
        assert!(temp.path().join("a/fifo/.lock").exists());
    }
}

#[tokio::test]
async fn t40_nobody_cannot_open_a_fifo_for_writing() {
    if !is_root("opening a FIFO as the user nobody") {
        return;
    }
    let (temp, directory) = directory();
    let fifo = directory.create(NAME).unwrap();
    chmod(temp.path(), 0o755);
    let denied = || {
        let output = Command::new("sh")
            .args(["-c", "exec 3>>\"$0\""])
            .arg(fifo.path())
            .env("LC_ALL", "C")
            .uid(NOBODY)
            .gid(NOBODY)
            .output()
            .unwrap();
        let stderr = String::from_utf8_lossy(&output.stderr).to_lowercase();
        !output.status.success() && stderr.contains("permission denied")
    };
    assert!(denied(), "the directory lets nobody in");
    chmod(directory.path(), 0o755);
    assert!(denied(), "the FIFO itself does not either");
    chmod(fifo.path(), 0o622);
    assert!(!denied(), "the test itself proves something");
}

#[tokio::test]
async fn t40_configured_group_and_modes_are_set() {
    if !is_root("giving a FIFO to a group one is not in") {
        return;
    }
    let temp = tempfile::tempdir().unwrap();
    let path = temp.path().join("fifo");
    let options = FifoOptions {
        dir_mode: 0o770,
        fifo_mode: 0o660,
        group: Some(4711),
        insecure_dir: true,
        ..FifoOptions::default()
    };
    let directory = FifoDirectory::open(&path, options.clone()).unwrap();
    let fifo = directory.create(NAME).unwrap();
    assert_eq!(
        (mode(&path), fs::metadata(&path).unwrap().gid()),
        (0o770, 4711)
    );
    let metadata = fs::symlink_metadata(fifo.path()).unwrap();
    assert_eq!((metadata.mode() & 0o7777, metadata.gid()), (0o660, 4711));
    drop((fifo, directory));

    let options = FifoOptions {
        group: Some(4712),
        ..options
    };
    let _directory = FifoDirectory::open(&path, options).unwrap();
    assert_eq!(fs::metadata(&path).unwrap().gid(), 4712);
}

#[tokio::test]
async fn t40_directory_that_others_may_write_to_is_refused_unless_configured() {
    let temp = tempfile::tempdir().unwrap();
    let path = temp.path().join("fifo");
    fs::create_dir(&path).unwrap();
    for others in [0o770, 0o777, 0o702, 0o1777] {
        chmod(&path, others);
        let error = FifoDirectory::open(&path, FifoOptions::default()).unwrap_err();
        assert!(
            matches!(error, FifoError::Writable { mode, .. } if mode == others),
            "{error}"
        );
        assert!(error.to_string().contains(path.to_str().unwrap()));
        assert!(!path.join(".lock").exists());

        let options = FifoOptions {
            insecure_dir: true,
            ..FifoOptions::default()
        };
        drop(FifoDirectory::open(&path, options).unwrap());
        fs::remove_file(path.join(".lock")).unwrap();
    }
    let options = FifoOptions {
        tighten_dir: true,
        ..FifoOptions::default()
    };
    drop(FifoDirectory::open(&path, options).unwrap());
    assert_eq!(mode(&path), 0o750);
    chmod(&path, 0o700);
    drop(FifoDirectory::open(&path, FifoOptions::default()).unwrap());
    assert_eq!(mode(&path), 0o700, "a tighter mode is kept");
}

#[tokio::test]
async fn t40_parent_that_anybody_may_write_to_is_refused_unless_sticky() {
    let temp = tempfile::tempdir().unwrap();
    let parent = temp.path().join("open");
    let path = parent.join("state/fifo");
    fs::create_dir(&parent).unwrap();
    chmod(&parent, 0o777);
    let error = FifoDirectory::open(&path, FifoOptions::default()).unwrap_err();
    let FifoError::Writable {
        path: named,
        mode: 0o777,
    } = &error
    else {
        panic!("{error}")
    };
    assert_eq!(*named, fs::canonicalize(&parent).unwrap());
    chmod(&parent, 0o1777);
    drop(FifoDirectory::open(&path, FifoOptions::default()).unwrap());
    chmod(&parent, 0o777);
    let options = FifoOptions {
        insecure_dir: true,
        ..FifoOptions::default()
    };
    drop(FifoDirectory::open(&path, options).unwrap());
}

#[tokio::test]
async fn t40_directory_of_another_user_is_refused() {
    if !is_root("giving a directory away") {
        return;
    }
    let temp = tempfile::tempdir().unwrap();
    let path = temp.path().join("fifo");
    fs::create_dir(&path).unwrap();
    std::os::unix::fs::chown(&path, Some(NOBODY), None).unwrap();
    let options = FifoOptions {
        insecure_dir: true,
        ..FifoOptions::default()
    };
    let error = FifoDirectory::open(&path, options).unwrap_err();
    let FifoError::Foreign { found, .. } = error else {
        panic!("{error}")
    };
    assert_eq!(found, Found::OfOtherUser { uid: NOBODY });
    assert_eq!(fs::read_dir(&path).unwrap().count(), 0);
}

#[tokio::test]
async fn t40_second_server_is_locked_out_until_the_last_fifo_is_gone() {
    let (_temp, directory) = directory();
    let fifo = directory.create(NAME).unwrap();
    let open = || FifoDirectory::open(fifo.path().parent().unwrap(), FifoOptions::default());
    let error = open().unwrap_err();
    assert!(matches!(error, FifoError::Locked { .. }), "{error}");
    assert!(fifo.is_intact(), "what belongs to the first server stays");
    let path = directory.path().to_owned();
    drop(directory);
    assert!(matches!(open(), Err(FifoError::Locked { .. })));
    drop(fifo);
    drop(FifoDirectory::open(&path, FifoOptions::default()).unwrap());
}

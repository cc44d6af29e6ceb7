//! T41: what others put where a FIFO should be.

use std::fs::{self, OpenOptions};
use std::io::Write;
use std::os::unix::fs::{MetadataExt, chown, symlink};
use std::os::unix::net::UnixListener;
use std::path::PathBuf;
use std::sync::Barrier;
use std::sync::atomic::{AtomicBool, Ordering};

use rustix::fs::{CWD, FileType, Mode, RenameFlags};
use tempfile::TempDir;
use ws_ipc::fifo::{FifoDirectory, FifoError, FifoOptions, Found};

use super::{NAME, NOBODY, directory, is_root, make_fifo, writer};

fn found(error: &FifoError) -> Found {
    let FifoError::Foreign { found, .. } = error else {
        panic!("{error}")
    };
    *found
}

/// Asserts that the FIFO cannot be made and that what is in its place stays what it is.
fn assert_refused(directory: &FifoDirectory, expected: Found) {
    let path = directory.path().join(NAME);
    let before = fs::symlink_metadata(&path).unwrap();
    let error = directory.create(NAME).unwrap_err();
    assert_eq!(found(&error), expected);
    let message = error.to_string();
    assert!(message.starts_with("cannot create FIFO "), "{message}");
    assert!(message.contains(path.to_str().unwrap()), "{message}");
    assert!(message.contains(&expected.to_string()), "{message}");
    let after = fs::symlink_metadata(&path).unwrap();
    assert_eq!((before.ino(), before.mode()), (after.ino(), after.mode()));
}

fn target(temp: &TempDir) -> PathBuf {
    let target = temp.path().join("target");
    fs::write(&target, "untouched").unwrap();
    target
}

#[tokio::test]
async fn t41_symlink_in_place_of_a_fifo_is_refused_and_its_target_untouched() {
    let (temp, directory) = directory();
    let target = target(&temp);
    let place = directory.path().join(NAME);
    for to in [&target, &temp.path().join("missing"), temp.path()] {
        symlink(to, &place).unwrap();
        assert_refused(&directory, Found::SymbolicLink);
        fs::remove_file(&place).unwrap();
    }
    let outside = temp.path().join("outside.fifo");
    make_fifo(&outside);
    symlink(&outside, &place).unwrap();
    assert_refused(&directory, Found::SymbolicLink);
    assert_eq!(fs::read(target).unwrap(), b"untouched");
}

#[tokio::test]
async fn t41_hard_link_in_place_of_a_fifo_is_refused_and_its_target_untouched() {
    let (temp, directory) = directory();
    let target = target(&temp);
    let place = directory.path().join(NAME);
    fs::hard_link(&target, &place).unwrap();
    assert_refused(&directory, Found::HardLink { links: 2 });
    assert_eq!(fs::read(target).unwrap(), b"untouched");
    fs::remove_file(&place).unwrap();

    let outside = temp.path().join("outside.fifo");
    make_fifo(&outside);
    fs::hard_link(&outside, &place).unwrap();
    assert_refused(&directory, Found::HardLink { links: 2 });
}

#[tokio::test]
async fn t41_directory_or_socket_in_place_of_a_fifo_is_refused() {
    let (_temp, directory) = directory();
    let place = directory.path().join(NAME);
    fs::create_dir(&place).unwrap();
    assert_refused(&directory, Found::Directory);
    fs::remove_dir(&place).unwrap();
    let _listener = UnixListener::bind(&place).unwrap();
    assert_refused(&directory, Found::Socket);
}

#[tokio::test]
async fn t41_device_in_place_of_a_fifo_is_refused() {
    let (_temp, directory) = directory();
    let place = directory.path().join(NAME);
    let null = rustix::fs::makedev(1, 3);
    let mode = Mode::from_raw_mode(0o666);
    if rustix::fs::mknodat(CWD, &place, FileType::CharacterDevice, mode, null).is_err() {
        eprintln!("skipped for want of CAP_MKNOD: making a device");
        return;
    }
    assert_refused(&directory, Found::Device);
}

#[tokio::test]
async fn t41_fifo_or_file_of_another_user_is_refused() {
    if !is_root("giving a FIFO away") {
        return;
    }
    let (_temp, directory) = directory();
    let place = directory.path().join(NAME);
    make_fifo(&place);
    chown(&place, Some(NOBODY), None).unwrap();
    assert_refused(&directory, Found::OfOtherUser { uid: NOBODY });
    fs::remove_file(&place).unwrap();
    fs::write(&place, "theirs").unwrap();
    chown(&place, Some(NOBODY), None).unwrap();
    assert_refused(&directory, Found::OfOtherUser { uid: NOBODY });
    assert_eq!(fs::read(&place).unwrap(), b"theirs");
}

#[tokio::test]
async fn t41_file_of_ours_is_renamed_and_nothing_of_it_lost() {
    let (_temp, directory) = directory();
    let place = directory.path().join(NAME);
    for text in ["first\n", "second\n"] {
        fs::write(&place, text).unwrap();
        let fifo = directory.create(NAME).unwrap();
        assert!(fifo.is_intact());
    }
    let mut lost = Vec::new();
    for entry in fs::read_dir(directory.path()).unwrap() {
        let path = entry.unwrap().path();
        if path
            .file_name()
            .unwrap()
            .to_str()
            .unwrap()
            .starts_with("global_pipe.fifo.lost-")
        {
            lost.push(fs::read_to_string(path).unwrap());
        }
    }
    lost.sort();
    assert_eq!(lost, ["first\n", "second\n"]);
}

#[tokio::test]
async fn t41_symlink_or_file_in_place_of_the_directory_is_refused() {
    let temp = tempfile::tempdir().unwrap();
    let elsewhere = temp.path().join("elsewhere");
    fs::create_dir(&elsewhere).unwrap();
    let path = temp.path().join("fifo");
    symlink(&elsewhere, &path).unwrap();
    for path in [path.clone(), path.join("")] {
        let error = FifoDirectory::open(&path, FifoOptions::default()).unwrap_err();
        assert_eq!(found(&error), Found::SymbolicLink);
    }
    assert_eq!(fs::read_dir(&elsewhere).unwrap().count(), 0);
    fs::remove_file(&path).unwrap();
    fs::write(&path, "file").unwrap();
    let error = FifoDirectory::open(&path, FifoOptions::default()).unwrap_err();
    assert_eq!(found(&error), Found::RegularFile);
    assert!(error.to_string().contains(path.to_str().unwrap()));
    assert_eq!(fs::read(&path).unwrap(), b"file");
}

#[tokio::test]
async fn t41_anything_but_a_file_of_ours_in_place_of_the_lock_is_refused() {
    let temp = tempfile::tempdir().unwrap();
    let target = target(&temp);
    let path = temp.path().join("fifo");
    fs::create_dir(&path).unwrap();
    let lock = path.join(".lock");
    let refused = |expected: Found| {
        let error = FifoDirectory::open(&path, FifoOptions::default()).unwrap_err();
        assert_eq!(found(&error), expected);
        assert!(
            error.to_string().contains(lock.to_str().unwrap()),
            "{error}"
        );
    };
    symlink(&target, &lock).unwrap();
    refused(Found::SymbolicLink);
    fs::remove_file(&lock).unwrap();
    fs::hard_link(&target, &lock).unwrap();
    refused(Found::HardLink { links: 2 });
    fs::remove_file(&lock).unwrap();
    make_fifo(&lock);
    refused(Found::Fifo);
    fs::remove_file(&lock).unwrap();
    fs::create_dir(&lock).unwrap();
    refused(Found::Directory);
    assert_eq!(fs::read(target).unwrap(), b"untouched");
}

#[tokio::test]
async fn t41_only_stale_fifos_of_ours_are_removed_and_only_under_the_lock() {
    let (temp, directory) = directory();
    let at = |name: &str| directory.path().join(name);
    let target = target(&temp);
    make_fifo(&at("7:127.0.0.1:4711.fifo"));
    make_fifo(&at("other"));
    fs::write(at("file.fifo"), "file").unwrap();
    symlink(&target, at("link.fifo")).unwrap();
    fs::create_dir(at("dir.fifo")).unwrap();

    assert!(FifoDirectory::open(directory.path(), FifoOptions::default()).is_err());
    assert!(
        at("7:127.0.0.1:4711.fifo").exists(),
        "it could be the other server's"
    );

    let path = directory.path().to_owned();
    drop(directory);
    let directory = FifoDirectory::open(path, FifoOptions::default()).unwrap();
    let mut names: Vec<_> = fs::read_dir(directory.path())
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    assert_eq!(
        names,
        [".lock", "dir.fifo", "file.fifo", "link.fifo", "other"]
    );
    assert_eq!(fs::read(target).unwrap(), b"untouched");
}

/// Without a reader that comes and goes before the name is removed, the writer would wait for ever.
#[tokio::test]
async fn t41_writer_that_waits_at_a_stale_fifo_is_let_go() {
    for _ in 0..50 {
        let (_temp, directory) = directory();
        let path = directory.path().join(NAME);
        make_fifo(&path);
        let begun = Barrier::new(2);
        std::thread::scope(|scope| {
            let write = scope.spawn(|| {
                begun.wait();
                OpenOptions::new()
                    .write(true)
                    .open(&path)?
                    .write_all(b"hi\n")
            });
            begun.wait();
            let fifo = directory.create(NAME).unwrap();
            // Gone with the stale one, or early or late enough for the new one.
            let _outcome = write.join().unwrap();
            drop(fifo);
        });
    }
}

#[tokio::test]
async fn t41_dropped_fifo_removes_its_name_only_while_that_is_its_own() {
    let (_temp, directory) = directory();
    let fifo = directory.create(NAME).unwrap();
    let path = fifo.path().to_owned();
    drop(fifo);
    assert!(!path.exists());

    let fifo = directory.create(NAME).unwrap();
    fs::remove_file(&path).unwrap();
    fs::write(&path, "somebody else's").unwrap();
    assert!(!fifo.is_intact());
    drop(fifo);
    assert_eq!(fs::read(&path).unwrap(), b"somebody else's");
}

#[tokio::test]
async fn t41_name_in_use_is_refused_and_free_again_afterwards() {
    let (_temp, directory) = directory();
    let fifo = directory.create(NAME).unwrap();
    let error = directory.create(NAME).unwrap_err();
    assert!(matches!(error, FifoError::Exists { .. }), "{error}");
    assert!(fifo.is_intact());
    drop(fifo);
    drop(directory.create(NAME).unwrap());
}

/// In a directory that everybody may write to, somebody keeps exchanging the name for a link to a
/// FIFO of theirs, which holds bytes that must not be read.
///
/// What is done when the exchange hits the worst moment is shown without luck beside
/// `Place::make`; this shows that nothing else goes wrong under fire.
#[tokio::test]
async fn t41_racer_swapping_the_name_is_never_read_from() {
    let temp = tempfile::tempdir().unwrap();
    let options = FifoOptions {
        insecure_dir: true,
        dir_mode: 0o777,
        ..FifoOptions::default()
    };
    let directory = FifoDirectory::open(temp.path().join("fifo"), options).unwrap();
    let path = directory.path().join(NAME);
    let link = directory.path().join("link");
    let evil = temp.path().join("evil.fifo");
    make_fifo(&evil);
    let mut held = OpenOptions::new()
        .read(true)
        .write(true)
        .open(&evil)
        .unwrap();
    held.write_all(b"evil").unwrap();
    let racing = AtomicBool::new(true);

    std::thread::scope(|scope| {
        scope.spawn(|| {
            for _ in 0..100_000 {
                let _exists = symlink(&evil, &link);
                let _no_name =
                    rustix::fs::renameat_with(CWD, &link, CWD, &path, RenameFlags::EXCHANGE);
                let _no_name = fs::rename(&path, &link);
            }
            racing.store(false, Ordering::Relaxed);
        });
        while racing.load(Ordering::Relaxed) {
            match directory.create(NAME) {
                Ok(fifo) => {
                    let mut buf = [0; 16];
                    assert!(fifo.try_read(&mut buf).is_err(), "read {buf:?}");
                }
                Err(
                    FifoError::Foreign { .. } | FifoError::Replaced { .. } | FifoError::Io { .. },
                ) => {}
                Err(error) => panic!("{error}"),
            }
        }
    });
    let _gone = fs::remove_file(&path);
    assert!(directory.create(NAME).unwrap().is_intact());
}

#[tokio::test]
async fn names_that_leave_the_directory_are_refused() {
    let (temp, directory) = directory();
    for name in [
        "../x.fifo",
        "/x.fifo",
        ".fifo",
        "",
        "x",
        "a/../x.fifo",
        "\0.fifo",
    ] {
        let error = directory.create(name).unwrap_err();
        assert!(matches!(error, FifoError::InvalidName { .. }), "{error}");
    }
    assert_eq!(fs::read_dir(temp.path()).unwrap().count(), 1);
    let deep = temp.path().join("d".repeat(200)).join("e".repeat(200));
    let deep = FifoDirectory::open(deep, FifoOptions::default()).unwrap();
    let fifo = deep.create(NAME).unwrap();
    writer(fifo.path()).unwrap();
}

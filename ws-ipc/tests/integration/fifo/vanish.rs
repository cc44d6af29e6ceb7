//! FIFOs that are removed and replaced are noticed and made anew.

use std::fs;
use std::io::Write;
use std::os::unix::fs::symlink;

use ws_ipc::fifo::{FifoDirectory, FifoError, FifoOptions, Found};

use super::{NAME, directory, make_fifo, mode, writer};

#[tokio::test]
async fn removed_renamed_and_replaced_fifos_are_told_and_work_again() {
    let (temp, directory) = directory();
    let mut fifo = directory.create(NAME).unwrap();
    let path = fifo.path().to_owned();
    let vanish: [&dyn Fn(); 4] = [
        &|| fs::remove_file(&path).unwrap(),
        &|| fs::rename(&path, temp.path().join("moved")).unwrap(),
        &|| {
            let file = temp.path().join("file");
            fs::write(&file, "written while the FIFO was away\n").unwrap();
            fs::rename(file, &path).unwrap();
        },
        &|| {
            let other = temp.path().join("other");
            make_fifo(&other);
            fs::rename(other, &path).unwrap();
        },
    ];
    for vanish in vanish {
        vanish();
        assert_eq!(directory.changed().await.unwrap(), [NAME]);
        assert!(!fifo.is_intact());
        fifo.renew().unwrap();
        assert!(fifo.is_intact());
        assert_eq!(mode(fifo.path()), 0o620);
        writer(fifo.path()).unwrap().write_all(b"again\n").unwrap();
        let mut buf = [0; 16];
        let size = fifo.read(&mut buf).await.unwrap();
        assert_eq!(&buf[..size], b"again\n");
    }
}

#[tokio::test]
async fn intact_fifo_is_not_renewed_and_own_work_is_no_change() {
    let (_temp, directory) = directory();
    let mut fifo = directory.create(NAME).unwrap();
    writer(fifo.path()).unwrap().write_all(b"kept\n").unwrap();
    fifo.renew().unwrap();
    let mut buf = [0; 16];
    assert_eq!(fifo.read(&mut buf).await.unwrap(), 5);

    drop(directory.create("own.fifo").unwrap());
    fs::remove_file(fifo.path()).unwrap();
    assert_eq!(directory.changed().await.unwrap(), [NAME]);
}

#[tokio::test]
async fn fifo_behind_something_foreign_is_renewed_once_that_is_gone() {
    let (_temp, directory) = directory();
    let mut fifo = directory.create(NAME).unwrap();
    let path = fifo.path().to_owned();
    fs::remove_file(&path).unwrap();
    symlink("/dev/null", &path).unwrap();
    assert_eq!(directory.changed().await.unwrap(), [NAME]);
    let error = fifo.renew().unwrap_err();
    assert!(
        matches!(
            error,
            FifoError::Foreign {
                found: Found::SymbolicLink,
                ..
            }
        ),
        "{error}"
    );

    fs::remove_file(&path).unwrap();
    assert_eq!(directory.changed().await.unwrap(), [NAME]);
    fifo.renew().unwrap();
    assert!(fifo.is_intact());
}

#[tokio::test]
async fn one_fifo_in_the_place_of_another_is_told_for_both() {
    let (_temp, directory) = directory();
    let mut left = directory.create("left.fifo").unwrap();
    let mut right = directory.create("right.fifo").unwrap();
    fs::rename(left.path(), right.path()).unwrap();
    assert_eq!(
        directory.changed().await.unwrap(),
        ["left.fifo", "right.fifo"]
    );
    left.renew().unwrap();
    right.renew().unwrap();
    writer(right.path()).unwrap().write_all(b"right\n").unwrap();
    let mut buf = [0; 16];
    assert_eq!(right.read(&mut buf).await.unwrap(), 6);
    assert!(left.try_read(&mut buf).is_err());
}

#[tokio::test]
async fn removed_directory_is_made_anew_with_its_fifos() {
    let (_temp, directory) = directory();
    let mut fifos = ["a.fifo", "b.fifo"].map(|name| directory.create(name).unwrap());
    for _ in 0..2 {
        fs::remove_dir_all(directory.path()).unwrap();
        let mut told = Vec::new();
        while told.len() < 2 {
            told.extend(directory.changed().await.unwrap());
            told.sort();
            told.dedup();
        }
        for fifo in &mut fifos {
            fifo.renew().unwrap();
            assert!(fifo.is_intact());
        }
        assert_eq!(mode(directory.path()), 0o750);
        let second = FifoDirectory::open(directory.path(), FifoOptions::default());
        assert!(matches!(second, Err(FifoError::Locked { .. })));
    }
}

#[tokio::test]
async fn moved_directory_is_made_anew_with_its_fifos() {
    let (temp, directory) = directory();
    let mut fifo = directory.create(NAME).unwrap();
    let away = temp.path().join("away");
    fs::rename(directory.path(), &away).unwrap();
    assert_eq!(directory.changed().await.unwrap(), [NAME]);
    assert!(!fifo.is_intact());
    fifo.renew().unwrap();
    assert!(fifo.is_intact());
    fs::remove_file(fifo.path()).unwrap();
    assert_eq!(
        directory.changed().await.unwrap(),
        [NAME],
        "the new directory is watched"
    );
}

#[tokio::test]
async fn waiting_for_changes_may_be_cancelled() {
    let (_temp, directory) = directory();
    let fifo = directory.create(NAME).unwrap();
    for _ in 0..3 {
        tokio::select! {
            biased;
            changed = directory.changed() => panic!("{changed:?}"),
            () = std::future::ready(()) => {}
        }
    }
    fs::remove_file(fifo.path()).unwrap();
    tokio::select! {
        biased;
        () = std::future::ready(()) => {}
        changed = directory.changed() => panic!("{changed:?}"),
    }
    assert_eq!(directory.changed().await.unwrap(), [NAME]);
}

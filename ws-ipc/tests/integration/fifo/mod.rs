//! FIFOs and their directory on a real file system.

mod modes;
mod planted;
mod transfer;
mod vanish;

use std::fs::{self, OpenOptions};
use std::io;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::Path;

use rustix::fs::{FileType, Mode, OFlags};
use tempfile::TempDir;
use ws_ipc::fifo::{FifoDirectory, FifoOptions};

const NAME: &str = "global_pipe.fifo";
const NOBODY: u32 = 65534;

fn directory() -> (TempDir, FifoDirectory) {
    let temp = tempfile::tempdir().unwrap();
    let directory = FifoDirectory::open(temp.path().join("fifo"), FifoOptions::default()).unwrap();
    (temp, directory)
}

/// Opens a FIFO as a writer that would rather fail than wait.
fn writer(path: &Path) -> io::Result<fs::File> {
    OpenOptions::new()
        .write(true)
        .custom_flags(OFlags::NONBLOCK.bits().cast_signed())
        .open(path)
}

fn make_fifo(path: &Path) {
    let mode = Mode::from_raw_mode(0o600);
    rustix::fs::mknodat(rustix::fs::CWD, path, FileType::Fifo, mode, 0).unwrap();
}

fn mode(path: &Path) -> u32 {
    fs::symlink_metadata(path).unwrap().mode() & 0o7777
}

fn chmod(path: &Path, mode: u32) {
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
}

/// Returns whether the tests may do what only root can; says so where not.
#[expect(clippy::print_stderr, reason = "a test that is skipped says so")]
fn is_root(what: &str) -> bool {
    let root = rustix::process::geteuid().is_root();
    if !root {
        eprintln!("skipped for want of root: {what}");
    }
    root
}

//! How a file is known to be another one than it was.

use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;

/// What stat(2) says of some files, symbolic links followed to their end; `None` for one that is not
/// there.
///
/// A watch by inotify would have to follow each link on the way, as certbot's `live/` and the
/// `..data` of Kubernetes replace links and not files. What stat says changes with any of them. The
/// time of change is among it: unlike that of modification no program can set it back.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Signature(Vec<Option<FileSignature>>);

#[derive(Clone, Debug, PartialEq, Eq)]
struct FileSignature {
    device: u64,
    inode: u64,
    size: u64,
    modified: (i64, i64),
    changed: (i64, i64),
}

impl Signature {
    pub(super) fn of<'a>(paths: impl Iterator<Item = &'a Path>) -> Self {
        Self(paths.map(FileSignature::of).collect())
    }
}

impl FileSignature {
    fn of(path: &Path) -> Option<Self> {
        let metadata = fs::metadata(path).ok()?;
        Some(Self {
            device: metadata.dev(),
            inode: metadata.ino(),
            size: metadata.size(),
            modified: (metadata.mtime(), metadata.mtime_nsec()),
            changed: (metadata.ctime(), metadata.ctime_nsec()),
        })
    }
}

#[cfg(test)]
mod tests {
    use std::fs::{File, FileTimes};
    use std::os::unix::fs::symlink;

    use super::*;

    #[test]
    fn a_link_that_is_turned_is_a_change() {
        let dir = tempfile::tempdir().unwrap();
        let path = |name: &str| dir.path().join(name);
        let link = path("live");
        let signature = || Signature::of([link.as_path()].into_iter());
        assert_eq!(signature(), Signature(vec![None]));
        for (round, name) in ["a", "b"].into_iter().enumerate() {
            let before = signature();
            fs::create_dir(path(name)).unwrap();
            fs::write(path(name).join("cert.pem"), "as long").unwrap();
            // As Kubernetes does it: a link to a link to a directory, replaced by a rename.
            symlink(name, path("new")).unwrap();
            fs::rename(path("new"), path("..data")).unwrap();
            if round == 0 {
                symlink("..data/cert.pem", &link).unwrap();
            }
            assert_ne!(signature(), before);
            assert_eq!(signature(), signature());
        }
    }

    #[test]
    fn a_time_that_was_set_back_is_a_change() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("cert.pem");
        fs::write(&path, "one").unwrap();
        let signature = || Signature::of([path.as_path()].into_iter());
        let before = signature();
        let modified = fs::metadata(&path).unwrap().modified().unwrap();
        // The kernel's clock for files ticks every few milliseconds.
        while signature().0[0].as_ref().unwrap().changed == before.0[0].as_ref().unwrap().changed {
            fs::write(&path, "two").unwrap();
        }
        let file = File::options().write(true).open(&path).unwrap();
        file.set_times(FileTimes::new().set_modified(modified))
            .unwrap();
        assert_ne!(signature(), before);
    }
}

//! The tokens of the door on TCP.

use std::fmt;
use std::fs::{File, Metadata};
use std::io::{self, Read};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use sha2::{Digest, Sha256};
use tracing::{error, info, warn};

use crate::files::open_regular;

/// The shortest token: what is shorter can be guessed.
const MIN_SIZE: usize = 16;
/// The largest file of tokens.
const MAX_FILE_SIZE: u64 = 64 * 1024;

/// The tokens in a file, which is read again when it has changed.
///
/// Only their hashes are kept: two texts of equal length, whatever somebody sends, are compared in
/// the same time, and nothing that is logged or dumped shows a token.
#[derive(Debug)]
pub(super) struct Tokens {
    path: PathBuf,
    known: Mutex<Known>,
}

struct Known {
    hashes: Vec<[u8; 32]>,
    /// Of the file that was read last, whether or not it could be used.
    stamp: Option<Stamp>,
}

impl fmt::Debug for Known {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Known")
            .field("count", &self.hashes.len())
            .finish_non_exhaustive()
    }
}

/// What changes with a file.
type Stamp = (u64, u64, u64, i64, i64, i64, i64);

/// Why a file of tokens cannot be used.
#[derive(Debug, thiserror::Error)]
pub(super) enum TokenError {
    #[error("{0}")]
    Unreadable(#[from] io::Error),
    #[error("others than its owner may write to it (mode {0:04o})")]
    Writable(u32),
    #[error("it has more than {MAX_FILE_SIZE} bytes")]
    TooLarge,
    #[error("there is no token in it")]
    Empty,
    #[error("line {line}: a token has at least {MIN_SIZE} characters of A-Z a-z 0-9 - . _ ~ + / =")]
    Malformed { line: usize },
}

impl Tokens {
    /// Reads the file.
    ///
    /// # Errors
    ///
    /// [`TokenError`] if it cannot be used.
    pub(super) fn load(path: &Path) -> Result<Self, TokenError> {
        let mut file = open_regular(path)?;
        let stamp = stamp_of(&file.metadata()?);
        let hashes = read(path, &mut file)?;
        Ok(Self {
            path: path.to_owned(),
            known: Mutex::new(Known {
                hashes,
                stamp: Some(stamp),
            }),
        })
    }

    /// Whether a token is one of them.
    pub(super) fn contain(&self, token: &[u8]) -> bool {
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        self.refresh(&mut known);
        let hash: [u8; 32] = Sha256::digest(token).into();
        // All of each, and each of all: how long it takes tells nothing.
        let is_known = known.hashes.iter().fold(0, |is_known, other| {
            let difference = hash.iter().zip(other).fold(0, |all, (a, b)| all | (a ^ b));
            is_known | u8::from(std::hint::black_box(difference) == 0)
        });
        is_known != 0
    }

    /// Reads the file again if it has changed. If it cannot be used, the former tokens hold.
    fn refresh(&self, known: &mut Known) {
        let stamp = std::fs::metadata(&self.path).map(|metadata| stamp_of(&metadata));
        let stamp = stamp.ok();
        if stamp == known.stamp {
            return;
        }
        known.stamp = stamp;
        let opened = open_regular(&self.path).map_err(TokenError::from);
        match opened.and_then(|mut file| read(&self.path, &mut file)) {
            Ok(hashes) => {
                info!(count = hashes.len(), "control.token_file is read again");
                known.hashes = hashes;
            }
            Err(error) => {
                error!(path = %self.path.display(), %error, "the former control tokens stay in use");
            }
        }
    }
}

fn read(path: &Path, file: &mut File) -> Result<Vec<[u8; 32]>, TokenError> {
    let mode = file.metadata()?.mode() & 0o7777;
    if mode & 0o022 != 0 {
        return Err(TokenError::Writable(mode));
    }
    if mode & 0o004 != 0 {
        // Not an error: secrets that are mounted into containers often are.
        warn!(
            path = %path.display(), mode = format!("{mode:04o}"),
            "every user of the host may read the control tokens"
        );
    }
    let mut text = Vec::new();
    file.take(MAX_FILE_SIZE + 1).read_to_end(&mut text)?;
    if text.len() as u64 > MAX_FILE_SIZE {
        return Err(TokenError::TooLarge);
    }
    hashes(&text)
}

fn hashes(text: &[u8]) -> Result<Vec<[u8; 32]>, TokenError> {
    let mut hashes = Vec::new();
    for (index, line) in text.split(|byte| *byte == b'\n').enumerate() {
        let token = line.trim_ascii();
        if token.is_empty() || token.starts_with(b"#") {
            continue;
        }
        if token.len() < MIN_SIZE || !token.iter().all(|byte| is_of_token(*byte)) {
            return Err(TokenError::Malformed { line: index + 1 });
        }
        hashes.push(Sha256::digest(token).into());
    }
    match hashes.is_empty() {
        true => Err(TokenError::Empty),
        false => Ok(hashes),
    }
}

/// RFC 6750 §2.1: what a bearer token is made of.
fn is_of_token(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"-._~+/=".contains(&byte)
}

fn stamp_of(metadata: &Metadata) -> Stamp {
    (
        metadata.dev(),
        metadata.ino(),
        metadata.len(),
        metadata.mtime(),
        metadata.mtime_nsec(),
        metadata.ctime(),
        metadata.ctime_nsec(),
    )
}

#[cfg(test)]
mod tests {
    use std::fs::Permissions;
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    const OLD: &str = "0123456789abcdef";
    const NEW: &str = "fedcba9876543210";

    fn write(path: &Path, text: &str, mode: u32) {
        std::fs::write(path, text).unwrap();
        std::fs::set_permissions(path, Permissions::from_mode(mode)).unwrap();
    }

    #[test]
    fn t72_a_token_is_a_whole_line_of_the_file_as_it_is_now() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("tokens");
        write(&path, &format!("# mine\n\n {OLD} \r\n"), 0o600);
        let tokens = Tokens::load(&path).unwrap();
        assert!(tokens.contain(OLD.as_bytes()));
        let wrong = [
            &OLD[1..],
            &OLD[..15],
            "0123456789abcdeF",
            "0123456789abcdef ",
            "",
            "# mine",
        ];
        for wrong in wrong {
            assert!(!tokens.contain(wrong.as_bytes()), "{wrong}");
        }
        // While one is replaced, both hold.
        write(&path, &format!("{OLD}\n{NEW}\n"), 0o600);
        assert!(tokens.contain(OLD.as_bytes()) && tokens.contain(NEW.as_bytes()));
        write(&path, &format!("{NEW}\n"), 0o600);
        assert!(!tokens.contain(OLD.as_bytes()) && tokens.contain(NEW.as_bytes()));
        // T75: what cannot be used changes nothing.
        for (text, mode) in [("", 0o600), ("short\n", 0o600), (OLD, 0o602), (OLD, 0o620)] {
            write(&path, text, mode);
            assert!(!tokens.contain(OLD.as_bytes()) && tokens.contain(NEW.as_bytes()));
        }
        std::fs::remove_file(&path).unwrap();
        assert!(tokens.contain(NEW.as_bytes()));
        nix::unistd::mkfifo(&path, nix::sys::stat::Mode::S_IRWXU).unwrap();
        assert!(tokens.contain(NEW.as_bytes()));
        std::fs::remove_file(&path).unwrap();
        write(&path, OLD, 0o600);
        assert!(tokens.contain(OLD.as_bytes()) && !tokens.contain(NEW.as_bytes()));
    }

    #[test]
    fn t75_a_file_that_cannot_be_used_is_refused_and_not_what_is_in_it_told() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("tokens");
        let refused = |text: &str, mode| {
            write(&path, text, mode);
            Tokens::load(&path).unwrap_err().to_string()
        };
        let fifo = dir.path().join("fifo");
        nix::unistd::mkfifo(&fifo, nix::sys::stat::Mode::S_IRUSR).unwrap();
        let error = Tokens::load(&fifo).unwrap_err().to_string();
        assert!(error.contains("not a regular file"), "{error}");
        assert!(refused("", 0o600).contains("no token"));
        assert!(refused("# only\n", 0o600).contains("no token"));
        let error = refused(&format!("{OLD}\nhunter2\n"), 0o600);
        assert!(
            error.contains("line 2") && !error.contains("hunter2"),
            "{error}"
        );
        assert!(refused("0123456789abcde f", 0o600).contains("line 1"));
        for mode in [0o606, 0o602, 0o660, 0o620] {
            assert!(refused(OLD, mode).contains("write"), "{mode:04o}");
        }
        assert!(refused(&OLD.repeat(5000), 0o600).contains("bytes"));
        write(&path, OLD, 0o644);
        assert!(Tokens::load(&path).is_ok(), "a warning");
        assert!(Tokens::load(&dir.path().join("none")).is_err());
        let tokens = format!("{:?}", Tokens::load(&path).unwrap());
        assert!(!tokens.contains(OLD), "T70: {tokens}");
    }
}

//! Servers that others run: an SCGI server, and php-fpm.

use std::fs;
use std::os::fd::OwnedFd;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tempfile::TempDir;

use crate::support::*;

/// A server beside ours, which ends with this.
pub(crate) struct Outside {
    child: Child,
    address: String,
    _dir: TempDir,
}

impl Outside {
    /// An SCGI server: a program in Perl with a listening socket as descriptor 0.
    pub(super) fn scgi(arguments: &[&str]) -> Self {
        let dir = TempDir::new().unwrap();
        let address = dir.path().join("scgi.sock");
        let listener = UnixListener::bind(&address).unwrap();
        let mut command = Command::new("perl");
        command
            .args(arguments)
            .stdin(Stdio::from(OwnedFd::from(listener)));
        Self::start(command, dir, &address)
    }

    /// php-fpm with four processes; `None` if it is not installed, which is said.
    pub(crate) fn php_fpm() -> Option<Self> {
        let dir = TempDir::new().unwrap();
        let address = dir.path().join("fpm.sock");
        Self::php_fpm_in(dir, &address)
    }

    /// The same at an address that is given.
    pub(crate) fn php_fpm_at(address: &str) -> Option<Self> {
        Self::php_fpm_in(TempDir::new().unwrap(), Path::new(address))
    }

    fn php_fpm_in(dir: TempDir, address: &Path) -> Option<Self> {
        let program = php_fpm_program()?;
        let config = dir.path().join("fpm.conf");
        let text = format!(
            "[global]\nerror_log = {}\ndaemonize = no\n[www]\nlisten = {}\nuser = root\n\
             group = root\npm = static\npm.max_children = 4\n",
            dir.path().join("fpm.log").display(),
            address.display(),
        );
        fs::write(&config, text).unwrap();
        let mut command = Command::new(program);
        // What runs as root is the tests themselves.
        command.args(["-R", "-y"]).arg(&config).stdin(Stdio::null());
        let server = Self::start(command, dir, address);
        eventually("php-fpm listens", || UnixStream::connect(address).is_ok());
        Some(server)
    }

    fn start(mut command: Command, dir: TempDir, address: &Path) -> Self {
        // Elsewhere than our server, for whose processes it would be taken.
        command
            .current_dir("/")
            .stdout(Stdio::null())
            .stderr(Stdio::null());
        Self {
            child: command.spawn().unwrap(),
            address: address.to_str().unwrap().to_owned(),
            _dir: dir,
        }
    }

    pub(crate) fn address(&self) -> &str {
        &self.address
    }
}

impl Drop for Outside {
    fn drop(&mut self) {
        let pid = Pid::from_raw(i32::try_from(self.child.id()).unwrap());
        // It ends its own processes in good order.
        let _ = kill(pid, Signal::SIGTERM);
        let _ = self.child.wait();
    }
}

/// Debian's has the version in its name, and is not on everybody's path.
#[expect(clippy::print_stderr, reason = "a test that is skipped says so")]
fn php_fpm_program() -> Option<PathBuf> {
    let entries = fs::read_dir("/usr/sbin").into_iter().flatten().flatten();
    let found = entries.map(|entry| entry.path()).find(|path| {
        let name = path.file_name().and_then(|name| name.to_str());
        name.is_some_and(|name| name.starts_with("php-fpm"))
    });
    if found.is_none() {
        let is_ci = std::env::var("CI").as_deref() == Ok("true");
        assert!(!is_ci, "php-fpm is not installed");
        eprintln!("skipped: there is no php-fpm");
    }
    found
}

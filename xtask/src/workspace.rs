//! Where things are: the repository, its build directory, and the tools that were installed there.

use std::env;
use std::ffi::OsStr;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

use anyhow::{Context as _, Result, ensure};

/// The repository's root.
pub(crate) fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .parent()
        .expect("xtask lies in the repository")
}

/// The repository's files, or those that the patterns match, each name ended by a NUL: what git keeps,
/// and what it would.
pub(crate) fn files(patterns: &[&str]) -> Result<String> {
    let output = Command::new("git")
        .args([
            "ls-files",
            "-z",
            "--cached",
            "--others",
            "--exclude-standard",
        ])
        .args(patterns)
        .current_dir(root())
        .output()
        .context("cannot start git")?;
    ensure!(output.status.success(), "git ls-files failed");
    Ok(String::from_utf8(output.stdout)?)
}

/// Cargo's build directory, wherever the environment or a configuration puts it.
pub(crate) fn target() -> &'static Path {
    static TARGET: OnceLock<PathBuf> = OnceLock::new();
    TARGET.get_or_init(|| {
        cargo_metadata::MetadataCommand::new()
            .current_dir(root())
            .no_deps()
            .exec()
            .map_or_else(|_| root().join("target"), |it| it.target_directory.into())
    })
}

/// Where logs, reports and installed packages go. Nothing is ever written into the tree.
pub(crate) fn scratch() -> PathBuf {
    target().join("ci")
}

/// A cargo command in the root, always bound to the lock file by the caller's `--locked`.
pub(crate) fn cargo() -> Command {
    let mut command = Command::new(env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command.current_dir(root());
    // What `cargo run` says about this program is not true of the programs that it starts.
    for (name, _) in env::vars_os() {
        let name = name.to_string_lossy();
        if name.starts_with("CARGO_PKG_") || name.starts_with("CARGO_MANIFEST_") {
            command.env_remove(&*name);
        }
    }
    command
}

/// A `cargo build` with flags for the compiler, in a build directory of that name, so that neither it
/// nor the usual one undoes the other. Its programs are in [`built_with`].
pub(crate) fn build_with(flags: &str, name: &str) -> Result<Command> {
    let mut build = cargo();
    build
        .args(["build", "--quiet", "--release"])
        // Named, so that the flags reach neither build scripts nor macros, which could not be linked.
        .args(["--target", &host_triple()?])
        .arg("--target-dir")
        .arg(target().join(name))
        .env("RUSTFLAGS", flags)
        .env_remove("CARGO_ENCODED_RUSTFLAGS");
    Ok(build)
}

/// Where the programs of [`build_with`] are.
pub(crate) fn built_with(name: &str) -> Result<PathBuf> {
    Ok(target().join(name).join(host_triple()?).join("release"))
}

/// What this machine is called as a target of the compiler.
fn host_triple() -> Result<String> {
    rustc(&["-vV"])?
        .lines()
        .find_map(|line| line.strip_prefix("host: "))
        .map(str::to_owned)
        .context("rustc -vV does not name the host")
}

/// What the compiler answers.
pub(crate) fn rustc(arguments: &[&str]) -> Result<String> {
    let output = Command::new("rustc")
        .args(arguments)
        .current_dir(root())
        .output()
        .context("cannot start rustc")?;
    Ok(String::from_utf8(output.stdout)?)
}

/// The Python that has the packages of `python.txt`: the installed environment, else the system's.
pub(crate) fn python() -> Option<PathBuf> {
    find("python3")
}

/// Where npm put its packages. Scripts reach them through `NODE_PATH`, so with `require`.
pub(crate) fn node_modules() -> PathBuf {
    scratch().join("node/node_modules")
}

/// Finds a program: among those installed for CI, in `PATH`, and where Debian keeps daemons.
pub(crate) fn find(program: &str) -> Option<PathBuf> {
    let path = env::var_os("PATH").unwrap_or_default();
    std::iter::once(scratch().join("python/bin"))
        .chain(env::split_paths(&path))
        .chain(["/usr/sbin".into(), "/sbin".into()])
        .map(|folder| folder.join(program))
        .find(|file| file.is_file())
}

/// Finds php-fpm, the latest where there are several: Debian's have the version of PHP in their names.
pub(crate) fn php_fpm() -> Option<PathBuf> {
    let programs = fs::read_dir("/usr/sbin").into_iter().flatten().flatten();
    let is_php_fpm = |name: &OsStr| name.to_string_lossy().starts_with("php-fpm");
    let found = programs.filter(|program| is_php_fpm(&program.file_name()));
    let latest = found.map(|program| program.path()).max();
    latest.or_else(|| find("php-fpm"))
}

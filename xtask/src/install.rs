//! Installs what the checks need, by package name, for `cargo xtask ci --install` and CI.
//!
//! Debian's packages go to the system and cargo's verbs to cargo's own folder; what comes from PyPI
//! and npm goes to the build directory. Each step that fails is tried once more.

use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};

use crate::{process, workspace};

/// A program that tells whether it is there, and Debian's package that has it.
const DEBIAN: &[(&str, &str)] = &[
    ("apache2", "apache2"),
    ("c++", "g++"),
    ("chromium", "chromium"),
    ("curl", "curl"),
    ("git", "git"),
    ("haproxy", "haproxy"),
    ("jq", "jq"),
    ("mariadbd", "mariadb-server"),
    ("musl-gcc", "musl-tools"),
    ("nginx", "nginx-light"),
    ("node", "nodejs"),
    ("npm", "npm"),
    ("openssl", "openssl"),
    ("perl", "perl"),
    ("php", "php-cli"),
    ("promtool", "prometheus"),
    ("psql", "postgresql"),
    ("python3", "python3"),
    ("redis-server", "redis-server"),
    ("ruby", "ruby"),
    ("strace", "strace"),
    ("systemd-analyze", "systemd"),
    ("websocketd", "websocketd"),
];

const NPM: &[&str] = &["playwright-core@1.65.1", "ws@8.23.0"];

/// Verbs of cargo, and the packages that have them.
const CARGO: &[(&str, &str)] = &[("deny", "cargo-deny@0.20.2"), ("deb", "cargo-deb@3.8.0")];

const LIMIT: Duration = Duration::from_secs(600);

type Install = fn() -> Result<()>;

/// Installs whatever is missing. Prints what it does.
pub(crate) fn run() -> Result<()> {
    let mut failed = Vec::new();
    let steps: [(&str, Install); 4] = [
        ("Debian", debian),
        ("PyPI", python),
        ("npm", node),
        ("crates.io", cargo_verbs),
    ];
    for (registry, step) in steps {
        if let Err(error) = step() {
            println!("{registry}: {error:#}");
            failed.push(registry);
        }
    }
    ensure!(
        failed.is_empty(),
        "could not install from {}",
        failed.join(", ")
    );
    println!("everything is there");
    Ok(())
}

fn debian() -> Result<()> {
    let mut missing: Vec<&str> = DEBIAN
        .iter()
        .filter(|(program, _)| workspace::find(program).is_none())
        .map(|(_, package)| *package)
        .collect();
    if !python_can_make_environments() {
        missing.push("python3-venv");
    }
    if workspace::php_fpm().is_none() {
        missing.push("php-fpm");
    }
    if missing.is_empty() {
        return Ok(());
    }
    println!("apt-get install {}", missing.join(" "));
    ensure!(
        workspace::find("apt-get").is_some(),
        "no apt-get here; install by hand: {}",
        missing.join(" ")
    );
    twice(|| {
        run_quietly(apt_get().args(["-q", "update"]))?;
        run_quietly(
            apt_get()
                .args(["-q", "-y", "--no-install-recommends", "install"])
                .args(&missing),
        )
    })
}

/// apt-get as root, by sudo where we are not.
fn apt_get() -> Command {
    let mut command = if nix::unistd::geteuid().is_root() {
        Command::new("apt-get")
    } else {
        let mut sudo = Command::new("sudo");
        sudo.args(["-n", "DEBIAN_FRONTEND=noninteractive", "apt-get"]);
        sudo
    };
    command.env("DEBIAN_FRONTEND", "noninteractive");
    command
}

fn python_can_make_environments() -> bool {
    let mut command = Command::new("python3");
    command.args(["-c", "import ensurepip, venv"]);
    command.output().is_ok_and(|output| output.status.success())
}

/// An environment of its own, since Debian's pip refuses to touch the system's.
pub(crate) fn python() -> Result<()> {
    let environment = workspace::scratch().join("python");
    let requirements = workspace::root().join("xtask/python.txt");
    if is_done(&environment, &fs::read_to_string(&requirements)?) {
        return Ok(());
    }
    println!("pip install --requirement xtask/python.txt");
    twice(|| {
        run_quietly(
            Command::new("python3")
                .args(["-m", "venv", "--clear"])
                .arg(&environment),
        )?;
        run_quietly(
            Command::new(environment.join("bin/python3"))
                .args([
                    "-m",
                    "pip",
                    "install",
                    "--quiet",
                    "--disable-pip-version-check",
                ])
                .args(["--no-input", "--require-hashes", "--requirement"])
                .arg(&requirements),
        )
    })?;
    mark_done(&environment, &fs::read_to_string(&requirements)?)
}

fn node() -> Result<()> {
    let folder = workspace::scratch().join("node");
    let packages = NPM.join("\n");
    if is_done(&folder, &packages) {
        return Ok(());
    }
    println!("npm install {}", NPM.join(" "));
    fs::create_dir_all(&folder)?;
    // Without a manifest of its own npm would look for one further up.
    fs::write(folder.join("package.json"), "{\"private\": true}\n")?;
    twice(|| {
        run_quietly(
            Command::new("npm")
                .args([
                    "install",
                    "--no-audit",
                    "--no-fund",
                    "--ignore-scripts",
                    "--save-exact",
                ])
                .args(NPM)
                .current_dir(&folder),
        )
    })?;
    mark_done(&folder, &packages)
}

fn cargo_verbs() -> Result<()> {
    for (verb, package) in CARGO {
        let mut version = workspace::cargo();
        if version.args([verb, "--version"]).output()?.status.success() {
            continue;
        }
        println!("cargo install {package}");
        twice(|| {
            run_quietly(
                workspace::cargo()
                    .args(["install", "--quiet", "--locked", package])
                    .arg("--target-dir")
                    .arg(workspace::scratch().join("cargo-install")),
            )
        })?;
    }
    Ok(())
}

/// Whether `folder` was installed from the same list.
fn is_done(folder: &Path, list: &str) -> bool {
    fs::read_to_string(folder.join("installed.txt")).is_ok_and(|it| it == list)
}

fn mark_done(folder: &Path, list: &str) -> Result<()> {
    fs::write(folder.join("installed.txt"), list).context("cannot write installed.txt")
}

/// Tries again once: registries and mirrors have bad moments.
fn twice(mut install: impl FnMut() -> Result<()>) -> Result<()> {
    install().or_else(|error| {
        println!("trying again, since {error:#}");
        install()
    })
}

fn run_quietly(command: &mut Command) -> Result<()> {
    let log = workspace::scratch().join("install.log");
    let status = process::run_logged(command, &log, LIMIT)?;
    if !status.success() {
        bail!(
            "{} ended with {status}, see {}",
            command_line(command),
            log.display()
        );
    }
    Ok(())
}

fn command_line(command: &Command) -> String {
    std::iter::once(command.get_program())
        .chain(command.get_args())
        .map(|word| word.to_string_lossy())
        .collect::<Vec<_>>()
        .join(" ")
}

//! The Debian package, and what else is handed to those who run the server.
//!
//! The program, and what it says about itself, is put into a directory of its own, from which
//! cargo-deb makes the package by what `ws-cli/Cargo.toml` says. `--check` looks at the result as
//! its users would: lintian, systemd-analyze, hadolint; and installs it, on a layer over the system.

use std::fs;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};

use crate::server::Binary;
use crate::{SKIPPED, Skipped, process, workspace};

const PACKAGING: &str = "ws-cli/packaging";
const LIMIT: Duration = Duration::from_secs(300);
const BUILD_LIMIT: Duration = Duration::from_secs(1800);
/// What systemd-analyze may find the service to be exposed to, in tenths: 0 is nothing, 100 all.
const EXPOSURE: &str = "20";

#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    #[command(flatten)]
    binary: Binary,
    /// Looks at the package, the units and the Containerfile, and installs the package for a moment
    #[arg(long)]
    check: bool,
    /// Builds a program without dynamic libraries instead of a package; with --check as for
    /// development, and has it answer
    #[arg(long)]
    musl: bool,
}

pub(crate) fn run(arguments: &Arguments) -> Result<()> {
    if arguments.musl {
        return build_static(arguments.check);
    }
    let package = build_package(&arguments.binary)?;
    if arguments.check {
        check(&package)?;
    }
    println!("{}", package.display());
    Ok(())
}

/// Returns the package's path.
fn build_package(binary: &Binary) -> Result<PathBuf> {
    let mut version = workspace::cargo();
    version.args(["deb", "--version"]);
    if !version.output()?.status.success() {
        return Err(Skipped("cargo-deb is not installed".into()).into());
    }
    let ws = binary.get_release()?;
    let stage = workspace::target().join("dist");
    // cargo-deb looks there for what its configuration says is in target/release.
    let release = stage.join("release");
    if release.exists() {
        fs::remove_dir_all(&release)?;
    }
    fs::create_dir_all(&release)?;
    let program = release.join("ws");
    copy_program(&ws, &program)?;
    describe(&program, &release)?;
    let package = stage.join("ws.deb");
    let mut deb = workspace::cargo();
    deb.args(["deb", "--locked", "--no-build", "--no-strip", "--quiet"])
        .args(["--package", "ws-cli", "--output"])
        .arg(&package)
        .env("CARGO_TARGET_DIR", &stage);
    let status = process::run(&mut deb, LIMIT)?;
    ensure!(status.success(), "cargo deb: {status}");
    Ok(package)
}

/// Has the program write its manual pages, and what shells complete its command lines by.
fn describe(program: &Path, release: &Path) -> Result<()> {
    let mut man = Command::new(program);
    man.args(["man", "--out"]).arg(release.join("man"));
    let status = process::run(&mut man, LIMIT)?;
    ensure!(status.success(), "ws man: {status}");
    let mut pages = fs::read_dir(release.join("man"))?
        .map(|page| Ok(page?.path()))
        .collect::<Result<Vec<_>>>()?;
    pages.sort();
    // Without the time of day, so that the same program makes the same package.
    let mut gzip = Command::new("gzip");
    let status = process::run(gzip.arg("-9n").args(&pages), LIMIT)?;
    ensure!(status.success(), "gzip: {status}");
    let completions = release.join("completions");
    fs::create_dir_all(&completions)?;
    for shell in ["bash", "zsh", "fish"] {
        let output = Command::new(program)
            .args(["completions", shell])
            .output()?;
        ensure!(output.status.success(), "ws completions: {}", output.status);
        fs::write(completions.join(shell), output.stdout)?;
    }
    Ok(())
}

/// Without what only a debugger reads.
fn copy_program(from: &Path, to: &Path) -> Result<()> {
    if workspace::find("strip").is_none() {
        fs::copy(from, to).with_context(|| from.display().to_string())?;
        return Ok(());
    }
    let mut strip = Command::new("strip");
    strip.arg("-o").arg(to).arg(from);
    let status = process::run(&mut strip, LIMIT)?;
    ensure!(status.success(), "strip {}: {status}", from.display());
    Ok(())
}

fn build_static(is_check: bool) -> Result<()> {
    const TARGET: &str = "x86_64-unknown-linux-musl";
    if workspace::find("musl-gcc").is_none() {
        return Err(Skipped("there is no musl-gcc (Debian: musl-tools)".into()).into());
    }
    let mut libraries = Command::new("rustc");
    libraries.args(["--print", "target-libdir", "--target", TARGET]);
    libraries.current_dir(workspace::root());
    let libraries = String::from_utf8(libraries.output()?.stdout)?;
    if !Path::new(libraries.trim()).is_dir() {
        let why = format!("no standard library for {TARGET} (rustup target add {TARGET})");
        return Err(crate::NotHere(why).into());
    }
    let mut build = workspace::cargo();
    build.args(["build", "--locked", "--package", "ws-cli", "--bin", "ws"]);
    build.args(["--target", TARGET]);
    let profile = if is_check {
        build.arg("--quiet");
        "debug"
    } else {
        build.arg("--release");
        "release"
    };
    let status = process::run(&mut build, BUILD_LIMIT)?;
    ensure!(status.success(), "cargo build: {status}");
    let ws = workspace::target().join(TARGET).join(profile).join("ws");
    if is_check {
        answer(&ws)?;
    }
    println!("{}", ws.display());
    Ok(())
}

/// Has a server run a callback that is static, too: the program itself, as which nothing is missing.
fn answer(ws: &Path) -> Result<()> {
    let program = ws.to_str().context("the path is not UTF-8")?;
    let server = crate::server::Server::start(ws, &["--", program, "--version"], &[])?;
    let mut client = Command::new(ws);
    client.args(["connect", "--once", &server.url()]);
    client.stdin(Stdio::piped()).stdout(Stdio::piped());
    let mut client = client.spawn()?;
    let question = client.stdin.take().context("there is no stdin")?;
    writeln!(&question, "which version?")?;
    let output = client.wait_with_output()?;
    let answer = String::from_utf8_lossy(&output.stdout).into_owned();
    ensure!(
        answer.starts_with("ws "),
        "answered {answer:?}:\n{}",
        server.log()
    );
    drop(question);
    server.stop()
}

fn check(package: &Path) -> Result<()> {
    let packaging = workspace::root().join(PACKAGING);
    let mut left_out = Vec::new();
    let mut look = |program: &str, arguments: &[&str], directory: &Path| -> Result<()> {
        let Some(found) = workspace::find(program) else {
            left_out.push(program.to_owned());
            return Ok(());
        };
        let mut command = Command::new(found);
        command.args(arguments).current_dir(directory);
        // Its report is long even where all is well.
        let log = workspace::scratch().join(format!("{program}.log"));
        fs::create_dir_all(workspace::scratch())?;
        if log.exists() {
            fs::remove_file(&log)?;
        }
        let status = process::run_logged(&mut command, &log, LIMIT)?;
        if !status.success() {
            println!("{}", fs::read_to_string(&log)?);
        }
        ensure!(
            status.success(),
            "{program} {}: {status}",
            arguments.join(" ")
        );
        Ok(())
    };
    let units = stage_units(&packaging)?;
    look(
        "systemd-analyze",
        &["verify", "--man=no", "ws.service", "ws.socket"],
        &units,
    )?;
    let threshold = format!("--threshold={EXPOSURE}");
    let security = [
        "security",
        "--no-pager",
        "--offline=yes",
        &threshold,
        "ws.service",
    ];
    look("systemd-analyze", &security, &units)?;
    look("hadolint", &["Containerfile"], &packaging)?;
    let package_path = package.to_str().context("the path is not UTF-8")?;
    // Errors only: a package of one's own is not one of Debian's.
    let lintian = ["--fail-on", "error", "--allow-root", package_path];
    look("lintian", &lintian, &packaging)?;
    if !nix::unistd::geteuid().is_root() {
        left_out.push("installing it (needs root)".to_owned());
    } else {
        let mut install = Command::new("sh");
        install.arg(packaging.join("debian/try.sh")).arg(package);
        let status = process::run(&mut install, LIMIT)?;
        match status.code() {
            Some(0) => {}
            Some(code) if code == i32::from(SKIPPED) => left_out.push("installing it".to_owned()),
            _ => bail!("debian/try.sh: {status}"),
        }
    }
    if !left_out.is_empty() {
        println!("not checked: {}", left_out.join(", "));
    }
    Ok(())
}

/// The units beside a program that is there: what they start is looked for.
fn stage_units(packaging: &Path) -> Result<PathBuf> {
    let units = workspace::target().join("dist/units");
    fs::create_dir_all(&units)?;
    let program = workspace::target().join("dist/release/ws");
    for name in ["ws.service", "ws.socket"] {
        let unit = fs::read_to_string(packaging.join("systemd").join(name))?;
        let unit = unit.replace("/usr/bin/ws", &program.to_string_lossy());
        fs::write(units.join(name), unit)?;
    }
    Ok(units)
}

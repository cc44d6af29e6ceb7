//! libFuzzer on ws-proto's targets, with the stable compiler.
//!
//! cargo-fuzz would want a nightly one. What it adds for us are coverage counters, which are plain
//! LLVM options, and AddressSanitizer, whose runtime the stable toolchain has too. The sanitizer
//! watches the unsafe code that we build upon: zlib-rs, above all, which peers feed directly.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use cargo_metadata::{MetadataCommand, TargetKind};

use crate::{Skipped, process, server, workspace};

/// A workspace of its own: its flags suit nothing else.
const FOLDER: &str = "ws-proto/fuzz";

/// Counters on every edge and comparison, checks as in a debug build.
const RUSTFLAGS: &[&str] = &[
    "-Cpasses=sancov-module",
    "-Cllvm-args=-sanitizer-coverage-level=4",
    "-Cllvm-args=-sanitizer-coverage-inline-8bit-counters",
    "-Cllvm-args=-sanitizer-coverage-pc-table",
    "-Cllvm-args=-sanitizer-coverage-trace-compares",
    "-Cdebug-assertions",
    "-Coverflow-checks",
    "-Ccodegen-units=1",
    "--cfg=fuzzing",
];

/// Beside the flags above; the option is unstable, hence `RUSTC_BOOTSTRAP`.
const SANITIZER_FLAG: &str = "-Zsanitizer=address";

const BUILD_LIMIT: Duration = Duration::from_secs(900);

#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    /// Only this target
    target: Option<String>,
    /// How long each target runs
    #[arg(long, default_value_t = 15)]
    seconds: u64,
}

pub(crate) fn run(arguments: &Arguments) -> Result<()> {
    if ["c++", "g++", "clang++"]
        .into_iter()
        .all(|it| workspace::find(it).is_none())
    {
        return Err(Skipped("libFuzzer needs a C++ compiler".into()).into());
    }
    let folder = workspace::root().join(FOLDER);
    let mut targets = targets(&folder)?;
    if let Some(only) = &arguments.target {
        ensure!(
            targets.contains(only),
            "no target {only}; there are {}",
            targets.join(", ")
        );
        targets.retain(|it| it == only);
    }
    let has_sanitizer = has_sanitizer()?;
    let binaries = build(&folder, has_sanitizer)?;
    let leaks = has_sanitizer && can_find_leaks(&binaries.join(&targets[0]))?;
    let mut failed = Vec::new();
    for target in &targets {
        match fuzz(&folder, &binaries, target, arguments.seconds, leaks) {
            Ok(line) => println!("{target}: {line}"),
            Err(error) => {
                println!("FAILED {target}: {error:#}");
                failed.push(target.as_str());
            }
        }
    }
    if !failed.is_empty() {
        bail!("failing targets: {}", failed.join(", "));
    }
    println!(
        "{} targets found nothing in {} s each, {}",
        targets.len(),
        arguments.seconds,
        match (has_sanitizer, leaks) {
            (true, true) => "with AddressSanitizer",
            (true, false) => "with AddressSanitizer, without LeakSanitizer (no ptrace here)",
            (false, _) => "without AddressSanitizer (the toolchain has no runtime of it)",
        }
    );
    Ok(())
}

fn targets(folder: &Path) -> Result<Vec<String>> {
    let metadata = MetadataCommand::new()
        .current_dir(folder)
        .no_deps()
        .exec()?;
    let mut targets: Vec<String> = metadata
        .packages
        .iter()
        .flat_map(|package| &package.targets)
        .filter(|target| target.kind.contains(&TargetKind::Bin))
        .map(|target| target.name.clone())
        .collect();
    targets.sort_unstable();
    ensure!(!targets.is_empty(), "no targets in {FOLDER}");
    Ok(targets)
}

/// Whether the toolchain has the runtime of AddressSanitizer for this host.
fn has_sanitizer() -> Result<bool> {
    let libraries = workspace::rustc(&["--print", "target-libdir"])?;
    let entries = fs::read_dir(libraries.trim()).context("rustc names no folder of libraries")?;
    Ok(entries
        .filter_map(|entry| entry.ok()?.file_name().into_string().ok())
        .any(|name| name.starts_with("librustc") && name.contains("rt.asan.")))
}

/// Whether LeakSanitizer can look at a process that ends: it does so with ptrace, which containers
/// and debuggers may keep it from, and then fails whatever it looks at.
fn can_find_leaks(binary: &Path) -> Result<bool> {
    let output = Command::new(binary)
        .arg("-runs=1")
        .env("ASAN_OPTIONS", "detect_leaks=1")
        .output()
        .context("cannot start a target")?;
    let complaint = String::from_utf8_lossy(&output.stderr);
    Ok(!complaint.contains("LeakSanitizer has encountered a fatal error"))
}

/// Builds all targets and returns where they are.
fn build(folder: &Path, has_sanitizer: bool) -> Result<PathBuf> {
    let mut flags = RUSTFLAGS.to_vec();
    flags.extend(has_sanitizer.then_some(SANITIZER_FLAG));
    let mut build = workspace::build_with(&flags.join(" "), "fuzz")?;
    build
        .arg("--bins")
        .env("RUSTC_BOOTSTRAP", "1")
        .current_dir(folder);
    if folder.join("Cargo.lock").exists() {
        build.arg("--locked");
    }
    let status = process::run(&mut build, BUILD_LIMIT)?;
    ensure!(status.success(), "cargo build in {FOLDER}: {status}");
    workspace::built_with("fuzz")
}

/// Runs one target for a while and returns what it says about itself.
///
/// New inputs go to a copy of the corpus, so that the tree stays as it is; an input that fails is
/// left in the build directory, and its path printed.
fn fuzz(folder: &Path, binaries: &Path, target: &str, seconds: u64, leaks: bool) -> Result<String> {
    let work = workspace::scratch().join("fuzz").join(target);
    let corpus = work.join("corpus");
    fs::create_dir_all(&corpus)?;
    let seeds = folder.join("corpus").join(target);
    if seeds.is_dir() {
        for entry in fs::read_dir(seeds)? {
            let entry = entry?;
            fs::copy(entry.path(), corpus.join(entry.file_name()))?;
        }
    }
    let log = work.join("log");
    if log.exists() {
        fs::remove_file(&log)?;
    }
    let mut command = Command::new(binaries.join(target));
    command
        .arg(format!("-max_total_time={seconds}"))
        .arg(format!("-artifact_prefix={}/", work.display()))
        .args(["-timeout=10", "-rss_limit_mb=2048", "-print_final_stats=1"])
        .arg(&corpus)
        .env("ASAN_OPTIONS", format!("detect_leaks={}", u8::from(leaks)))
        .current_dir(&work);
    let dictionary = folder.join(format!("{target}.dict"));
    if dictionary.exists() {
        command.arg(format!("-dict={}", dictionary.display()));
    }
    let status = process::run_logged(&mut command, &log, Duration::from_secs(seconds + 60))?;
    let text = String::from_utf8_lossy(&fs::read(&log)?).into_owned();
    ensure!(status.success(), "{status}\n{}", server::tail(&text, 45));
    let runs = text
        .lines()
        .rev()
        .find(|line| line.starts_with("Done "))
        .unwrap_or("done");
    let coverage = text.lines().rev().find_map(|line| {
        let mut words = line
            .split_ascii_whitespace()
            .skip_while(|word| *word != "cov:");
        words.nth(1)
    });
    Ok(format!("{runs}, {} edges", coverage.unwrap_or("no")))
}
